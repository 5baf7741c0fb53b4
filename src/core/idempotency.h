/* idempotency.h - Idempotency-Key on every POST that changes something: the same key within 24 hours is the same request, done once.
 *
 * A key counts within tenant, caller, route and the path's parameters. Its row is written in the transaction of the change, with the answer; so either both are
 * there or neither, and an answer that is not a success leaves no row: nothing was done, and the key may be used again. Excluded are routes that change
 * nothing, those with R_SECRET (their answers hold tokens, which must not be stored) and those that wait for an execution: these join it instead
 * (feat/executions). */
#pragma once

#include "core/module.h"

enum {
    IDEMPOTENCY_KEY_MAX = 255,
    IDEMPOTENCY_HEX = 64,
    IDEMPOTENCY_KEPT_MAX = 64 << 10,
    IDEMPOTENCY_HEADERS_MAX = 8 << 10
};

extern const struct problem problem_idempotency_mismatch; /* idempotency.mismatch 422 */
extern const struct problem problem_idempotency_running;  /* idempotency.running 409 */
extern const struct problem problem_idempotency_unkept;   /* idempotency.not_kept 409 */

/* The cleaner; a module without routes. */
extern const struct module idempotency_module;

/* What a request with a key carries along; part of its request_core. */
struct idempotent {
    bool claimed;
    char key[IDEMPOTENCY_HEX], request[IDEMPOTENCY_HEX]; /* hashes as hex */
    struct idempotent *next;                             /* of those in flight */
};

/* 1 to 255 visible ASCII characters. */
bool idempotency_key_sane(str key);
