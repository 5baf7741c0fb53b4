/* limit.h - token buckets: so many per window, per key; and what an answer says about them
 * (RateLimit-Policy and RateLimit, draft-ietf-httpapi-ratelimit-headers).
 *
 * A limit is that of all nodes together. One node decides alone, in memory. Several lease slices of it from Redis, ahead of need, and are wrong by a slice each at most
 * while nobody has asked before. Without Redis each has its part: limit divided by live nodes, which is exact when a balancer spreads requests evenly and
 * else lets in fewer, never more. That was chosen over a table in PostgreSQL, which would make every node write for each key that is used. */
#pragma once

#include "core/req.h"

/* Takes one from the bucket `key`, which refills at `per_second` up to `burst`. OK, or ERR_LIMIT with *retry_after_ms. At most 65,536 keys are remembered; the
 * stalest goes first. Any thread. */
err limit_take(str key, double per_second, double burst, i64 now_us, i64 *retry_after_ms) MUST;
void limit_free(void);

/* "so many in so many seconds" */
struct limit_policy {
    const char *name; /* of the policy, as clients see it: "webhook" */
    i64 quota, window_s;
};
/* What the answer will say of a policy: how many are left, and in how many seconds there will be more (or all, when some are left). Stays when the handler runs
 * again; the last one counts. A 429 then says Retry-After as well. `policy` is copied, its name is not. */
void limit_tell(struct req *rq, const struct limit_policy *policy, i64 left, i64 reset_s);
struct limit_told {
    struct limit_policy policy; /* name NULL: nothing to say */
    i64 left, reset_s;
};
/* limit_take on the policy's bucket of `key`, and limit_tell. The caller answers ERR_LIMIT with a problem of its own. */
err limit_request(struct req *rq, const struct limit_policy *policy, str key) MUST;

/* "free=600/60,team=6000/60": so many requests in so many seconds for each tenant of that plan. ERR_INVALID: not of that form, or more than LIMIT_PLANS_MAX. */
enum { LIMIT_PLANS_MAX = 16 };
err limit_plans_set(struct arena *a, str text) MUST;
bool limit_plans_any(void);
/* Takes one for the caller's tenant when its plan has a limit; else its problem. When only the shared bucket knows, OK: limit_decide comes before anything is done. */
err limit_caller(struct req *rq) MUST;
err limit_refuse(struct req *rq) MUST; /* that problem */
