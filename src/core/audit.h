/* audit.h - append-only rows: who did what to which object, written in the same transaction as the change. Never secrets, never values: names of
 * changed fields only. */
#pragma once

#include "core/req.h"

/* action "triggers.create"; changed is "name, is_active" or STR_NONE. On the writer, inside handle. */
err audit(struct req *rq, const char *action, str object_id, str changed) MUST;
/* For routes without a token (setup, login): tenant and actor are named, either may be STR_NONE; address and request id are the request's. */
err audit_for(struct req *rq, str tenant_id, str actor, const char *action, str object_id, str changed) MUST;
/* For what happens outside of a request. */
err audit_system(struct tx *tx, struct arena *a, i64 now_us, str tenant_id, str actor, const char *action,
                 str object_id, str detail) MUST;
