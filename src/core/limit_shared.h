/* limit_shared.h - between limit.c and limit_shared.c only: the bucket that several nodes have in common, in Redis.
 *
 * Nodes lease tokens of it ahead, in slices, so that most requests are decided by what lies here already. Who finds nothing and may wait (a request at the head, on its loop) asks for
 * its one token; who may not is let in on credit, which is told with the next lease. */
#pragma once

#include "core/limit.h"

struct limit_rate {
    double per_second, burst; /* of all nodes together */
    u32 nodes;
};
struct limit_lease {
    double granted, left; /* left: in the shared bucket; below 0 while credit is paid back */
    double untold;        /* credit that could not be told */
    bool alone;           /* of one request that asked for itself only: a lease ahead may still be under way */
};
/* limit.c: what came of a lease. Any thread. */
void limit_leased(u64 hash, const struct limit_rate *r, const struct limit_lease *lease, i64 now_us);
/* Tells what was used on credit and asks for `ahead` more; limit_leased follows. ERR_UNAVAILABLE: nothing was begun. Any thread. */
err limit_lease_ahead(str key, u64 hash, const struct limit_rate *r, double used, double ahead) MUST;
/* The gate goes on as if the request were let in; limit_decide, before anything is done for it, asks for its token, and tells and asks the rest with it. ERR_MEMORY. */
err limit_decide_later(struct req *rq, const struct limit_policy *p, str bucket, const struct limit_rate *r,
                       double used, double ahead) MUST;
/* limit.c: without waiting for anybody. */
err limit_bucket(struct req *rq, const struct limit_policy *p, str bucket) MUST;
