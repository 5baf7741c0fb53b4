/* cached_row.h - what a request looks up by one key and mostly finds in a cache: who a session or an API key is. */
#pragma once

#include "core/cache.h"
#include "db/db.h"

struct cached_row {
    struct cache *cache;
    size_t size, arena_bytes; /* of the struct, zeroed before `read`; of all that it holds */
    err (*read)(struct tx *tx, struct arena *a, str key, void *out);
};
/* From the cache; else from `tx` onto `a`, or, where no snapshot is open, from one of its own onto an arena that the cache keeps: then it is valid until
 * the next put on this thread. */
err cached_row_get(const struct cached_row *c, struct tx *tx, struct arena *a, str key, i64 now_us,
                   const void **out) MUST;
