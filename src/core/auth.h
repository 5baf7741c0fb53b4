/* auth.h - what the gate needs to know of identity: turning a token into a caller. Implemented by src/feat/auth through a hook, because core never names a feature. */
#pragma once

#include "core/req.h"

/* OK fills rq->who; ERR_UNAUTHORIZED otherwise (the reason is a static word for the log: "expired", "signature", "session"). ERR_BUSY: could not be looked up now. */
typedef err authenticate_fn(struct req *rq, str bearer, const char **reason);
/* Set by the auth module at its start. */
void gate_authenticate_by(authenticate_fn *fn);
/* For public routes that show more to some: the caller's token is read when there is one. True when it is valid and its role has `need`. On the loop or in the pool. */
bool gate_allows(struct req *rq, const struct permission *need);
/* For what goes on after the gate (streams): may the caller still have it? Asks with the same token as if it came now: a session that ended, a role that was taken away, a token that expired say no. On the loop. */
bool gate_still_allows(struct req *rq);
