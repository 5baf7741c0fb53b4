/* auth.h - what the gate needs to know of identity: turning a token into a caller. Implemented by src/feat/auth through a hook, because core never names a feature. */
#pragma once

#include "core/req.h"

/* OK fills rq->who; ERR_UNAUTHORIZED otherwise (the reason is a static word for the log: "expired", "signature", "session"). ERR_BUSY: could not be looked up now. */
typedef err authenticate_fn(struct req *rq, str bearer, const char **reason);
/* Set by the auth module at its start. */
void gate_authenticate_by(authenticate_fn *fn);
