/* auth.h - what the gate needs to know of identity: turning what a client sent into a caller. Implemented by src/feat/auth through a hook, because core never names a
 * feature. */
#pragma once

#include "core/req.h"

enum credential_kind { CREDENTIAL_TOKEN, CREDENTIAL_COOKIE, CREDENTIAL_KEY };
struct credential {
    enum credential_kind kind;
    str text;
};
#define API_KEY_PREFIX "weir_"
/* OK fills rq->who (a cookie's with .csrf); ERR_UNAUTHORIZED otherwise (the reason is a static word for the log: "expired", "signature", "session"). ERR_BUSY: could not be
 * looked up now. */
typedef err authenticate_fn(struct req *rq, const struct credential *c, const char **reason);
/* Set by the auth module at its start. */
void gate_authenticate_by(authenticate_fn *fn);
/* For public routes that show more to some: the caller's token is read when there is one. True when it is valid and its role has `need`. On the loop or in the pool. */
bool gate_allows(struct req *rq, const struct permission *need);
/* For what goes on after the gate (streams): may the caller still have it? Asks with the same token as if it came now: a session that ended, a role that was taken away, a
 * token that expired say no. On the loop. */
bool gate_still_allows(struct req *rq);
/* Whether a page of ours, or of ALLOWED_ORIGINS, sent this: by Origin and Sec-Fetch-Site. A browser sends one of them with every change; without either it is false. */
bool gate_same_origin(const struct req *rq);
/* The value of a cookie; STR_NONE when it is absent, or there twice: a proxy and we might believe different ones. */
str http_cookie(const struct http_request *http, str name);

#define COOKIE_ACCESS  "__Host-weir"
#define COOKIE_REFRESH "__Secure-weir-refresh"

extern const struct problem problem_csrf;       /* auth.csrf 403 */
extern const struct problem problem_totp_setup; /* auth.totp_setup_required 403 */
