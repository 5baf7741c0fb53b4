/* executions.h - what other features may ask of executions: to run one for a caller who waits. */
#pragma once

#include "core/idempotency.h"
#include "core/module.h"
#include "core/req.h"
#include "engine/engine.h"

extern const struct module executions_module;

/* A caller that waits for an execution; embed it in what lives on rq->arena, and set the first three. */
struct execution_call {
    err (*answer)(struct execution_call *call); /* on the loop: replies, as a handler does */
    str tenant_id;                              /* of the execution */
    i64 quota;                                  /* how many the tenant may begin in a day; 0 = any number */
    i64 counted_us;                             /* when it was counted; 0: it was not */
    struct waiter waiter;
    struct req *rq;
    struct outcome *outcome; /* NULL: the execution did not start, `error` says why. Lives as long as the request */
    err error;
    str execution_id;
};
/* Starts it and parks the request; W_WAIT handlers end with it. `answer` follows at the execution's end, after wait_us with the execution as it stands, or as soon
 * as it is on disk (start->detached). Takes start->plan over. */
err execution_call(struct req *rq, struct execution_call *call, const struct start *start, i64 wait_us) MUST;
/* The workflow runs as often at once as it may, and does not let others wait (policy reject). */
extern const struct problem execution_limited; /* executions.concurrency_limit 429 */
extern const struct problem execution_quota;   /* executions.quota 429 */
/* For `answer`: OK when there is an execution to tell of, and marks a repeat (Idempotent-Replayed: true); else the problem, answered. */
err execution_refusal(struct execution_call *call) MUST;

/* Reads the idempotency key from a header, when it is there: 1–255 visible ASCII characters, else 422 at header/<name>. `scope` is what the key is unique
 * within; `body` what must be the same when it comes again. */
err execution_dedup(struct req *rq, str header, str tenant_id, str scope, str body, struct start *start) MUST;
