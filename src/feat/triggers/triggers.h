/* triggers.h - what other features may ask of triggers: workflows carry them in `definition.triggers`. */
#pragma once

#include "core/hot.h"
#include "core/module.h"
#include "core/req.h"

extern const struct module triggers_module;

enum {
    TRIGGERS_MAX = 50,                  /* per workflow */
    TRIGGER_BODY_MAX = 4 * 1024 * 1024, /* bytes of a call, as far as its trigger allows; as much as a value may have */
};

extern const struct problem trigger_changed; /* of triggers_apply, for the lists of routes */

struct trigger_changes; /* entries of `definition.triggers`, checked and with their secrets sealed */

/* The preparing half: reads what is there, checks the entries (shaped by definition_trigger_table), hashes and seals. Entries without an id are new
 * ones, the others replace the trigger of that id; triggers that no entry names stay as they are. Every problem is added to rq->errors below
 * `pointer`. `entries` may be NULL. */
err triggers_prepare(struct req *rq, str workflow_id, const struct json *entries, str pointer,
                     struct trigger_changes **out) MUST;
/* The writing half, on the writer: statements, audit rows, and the forgetting once they are committed. ERR_CONFLICT (triggers.changed): a trigger is not
 * any more what the preparing half saw. */
err triggers_apply(struct req *rq, str workflow_id, const struct trigger_changes *changes) MUST;
/* The masked view as it is after the changes: a JSON array. Off the writer. */
err triggers_changed_view(struct req *rq, const struct trigger_changes *changes, str *json) MUST;
/* The masked view as it is: asked ahead of the next statement, and what came of it. */
err triggers_ask(struct tx *tx, str tenant_id, str workflow_id, struct ahead *out) MUST;
struct triggers_shown {
    str json;
    u32 n;
    i64 changes; /* the sum of the times at which they were last changed: with `n` it tells all states apart */
};
err triggers_view(struct tx *tx, str workflow_id, struct ahead *asked, struct triggers_shown *out) MUST;

/* To be called in a transaction that changes a workflow or what it answers its triggers (active, version, deleted): takes effect with the commit, also for the kept answers
 * of GET /workflows/{id}, which show both. */
err triggers_forget(struct req *rq, str workflow_id) MUST;
extern struct hot workflow_hot;
