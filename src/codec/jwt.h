/* jwt.h - JWT (RFC 7519) by HS256 and nothing else.
 *
 * Refused: any other alg, jku, jwk, x5u, x5c, crit, an unknown kid, a typ other than JWT, non-canonical base64url, duplicate
 * members, more than 4 KiB, parts other than three. Time and audience checks are the caller's: claims are handed over as JSON. */
#pragma once

#include "codec/json.h"

struct jwt_key {
    str kid; /* may be "": then any header matches, with a kid or without */
    str secret;
};
/* header.payload.signature; {NULL,0} at the cap. Deterministic. */
str jwt_sign(struct arena *a, const struct jwt_key *key, str claims_json);
/* Verifies against the key whose kid matches. ERR_UNAUTHORIZED otherwise; *reason is a static word for logs ("alg", "signature"). */
err jwt_verify(struct arena *a, const struct jwt_key *keys, size_t count, str token, struct json **claims,
               const char **reason) MUST;
