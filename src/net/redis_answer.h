/* redis_answer.h - between redis.c and redis_answer.c only: hiredis reads the protocol, and what it finds becomes redis_answers on an arena. */
#pragma once

#include "net/redis.h"

#include <hiredis/read.h>

/* NULL when out of memory. */
redisReader *redis_reader_new(struct arena *a) MUST;
/* The next whole answer; *out NULL: more bytes are needed. ERR_UPSTREAM: what came is no Redis protocol, or larger than it may be (*why is static). */
err redis_reader_next(redisReader *r, const struct redis_answer **out, const char **why) MUST;
