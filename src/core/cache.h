/* cache.h - what was read stays at hand: per thread (no locks), bounded, forgotten as a whole when anything of its kind changed.
 *
 * A cache has one atomic epoch. A write bumps it after its commit (cache_forget); an entry remembers the epoch from *before* it was read, so a read that raced with a
 * write is never believed. Entries are immutable and live on arenas of their own.
 *
 * Where there can be other nodes (PostgreSQL) they are told, and no entry is believed for a second, so a message that was lost costs no more than that: what was taken away on
 * one node is gone on all of them within a second. */
#pragma once

#include "base/map.h"
#include "core/metrics.h"
#include <stdatomic.h>

struct cache {
    const char *name; /* "triggers" */
    u32 capacity;     /* entries per thread */
    i64 life_us;      /* 0 = until forgotten */
    bool constant;    /* what is remembered never changes: no other node is told, and it lives as long here */
    _Atomic u64 epoch, hits, misses;
};
/* Whatever remembers what was read or made has these two counters in /metrics, by its name: how often it knew, how often it did not. */
#define CACHE_METRICS(id, name_, hits_, misses_)                                                                 \
    static i64 id##_read_hits(void)                                                                              \
    {                                                                                                            \
        return (i64)atomic_load_explicit(&(hits_), memory_order_relaxed);                                        \
    }                                                                                                            \
    static i64 id##_read_misses(void)                                                                            \
    {                                                                                                            \
        return (i64)atomic_load_explicit(&(misses_), memory_order_relaxed);                                      \
    }                                                                                                            \
    METRIC(id##_hits_total, "weir_cache_hits_total", METRIC_COUNTER, "Look-ups that a cache answered, by cache", \
           .labels = "cache=\"" name_ "\"", .read = id##_read_hits);                                             \
    METRIC(id##_misses_total, "weir_cache_misses_total", METRIC_COUNTER,                                         \
           "Look-ups that a cache could not answer, by cache", .labels = "cache=\"" name_ "\"",                  \
           .read = id##_read_misses)
#define CACHE(id, name_, ...)                                                                  \
    static struct cache id = { .name = (name_), __VA_ARGS__ };                                 \
    static struct cache *const id##_entry __attribute__((section("weir_caches"), used)) = &id; \
    CACHE_METRICS(id, name_, id.hits, id.misses)
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
enum { CACHE_SHARED_LIFE_MS = 900 }; /* from before the read that made the entry */
/* From any thread, after the commit (req_after). */
void cache_forget(struct cache *c);
/* Every cache at once: for what decides over all of them, as a tenant that is suspended. As req_after wants it: the argument is not used. */
void cache_forget_all(void *unused);
/* Frees what the calling thread remembers. */
void cache_thread_end(void);
