/* cache.h - what was read stays at hand: per thread (no locks), bounded, forgotten as a whole when anything of its kind changed.
 *
 * A cache has one atomic epoch. A write bumps it after its commit (cache_forget); an entry remembers the epoch from *before* it was read, so a read that raced with a
 * write is never believed. Entries are immutable and live on arenas of their own. */
#pragma once

#include "base/map.h"
#include <stdatomic.h>

struct cache {
    const char *name; /* "triggers" */
    u32 capacity;     /* entries per thread */
    i64 life_us;      /* 0 = until forgotten */
    _Atomic u64 epoch, hits, misses;
};
/* The entry of this thread for key, NULL when there is none. Valid until the next cache_put on this thread, or the end of the request that keeps it with
 * cache_keep. */
const void *cache_get(struct cache *c, str key, i64 now_us);
/* To be called before reading the database. */
u64 cache_epoch(struct cache *c);
/* Hands over an entry and the arena that it lives on. Whether or not it is remembered (memory, a write meanwhile), it stays valid until the next cache_put
 * on this thread. */
void cache_put(struct cache *c, str key, const void *entry, struct arena *owner, u64 epoch_before, i64 now_us);
/* Keeps the arena of an entry that cache_get gave alive until `a` ends. ERR_NOT_FOUND when it is not remembered. */
err cache_keep(struct cache *c, str key, struct arena *a) MUST;
/* From any thread, after the commit (req_after). */
void cache_forget(struct cache *c);
/* Frees what the calling thread remembers. */
void cache_thread_end(void);
