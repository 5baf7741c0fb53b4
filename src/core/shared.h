/* shared.h - the Redis of REDIS_URL: what the nodes of one database may keep in common for seconds. Nothing in it is the truth: it may be emptied, or be away, at any
 * moment, and the server works on. Only with PostgreSQL: SQLite is served by one node, which has nobody to share with. */
#pragma once

#include "net/redis.h"

/* After the loops were made, before they run: a connection on each. Nothing is connected to when REDIS_URL is unset or of no use. */
err shared_open(void) MUST;
/* After the loops have stopped, before what waits on them is freed. */
void shared_close(void);
/* Whether there is one that this server uses. */
bool shared_wanted(void);
/* Of the calling loop, when it is up; NULL otherwise, and off the loops. */
struct redis *shared_here(void);
/* Any thread; a load. Whether all loops have theirs. */
bool shared_up(void);
/* For connections of one's own; NULL when it is not used. */
const struct redis_address *shared_address(void);
/* "weir:1f…:hot:": begins the names of all keys of one kind, which no other Weir with the same Redis has. */
void shared_put_prefix(struct buf *b, const char *kind);
/* By the monotonic clock, 0: never: when a connection was lost that had been up; when one was late, or ceased to be. */
i64 shared_lost_us(void);
i64 shared_late_us(void);

struct shared_health {
    bool up;
    i64 since_us;                /* wall clock: when it came, or went */
    char why[REDIS_ERROR_BYTES]; /* "" while it is up */
};
void shared_health(struct shared_health *out);
