/* arena.h - memory with one owner: a request, a job, an execution.
 *
 * Everything allocated from an arena dies with it; nothing is freed alone, so features hold no free(). Memory comes zeroed.
 * Every arena has a cap, and all arenas together draw from one process budget; hitting either returns NULL, which is an
 * ordinary error (ERR_MEMORY) that callers pass on. Arenas are not thread-safe: exactly one thread owns one at a time.
 * Under AddressSanitizer each object is a malloc of its own, so that an overrun of one byte is seen. */
#pragma once

#include "base/base.h"

struct chunk;
struct defer;

/* Private to arena.c, but for arena_alloc() below. */
struct arena {
    char *free, *end; /* of the newest chunk, as far as the cap allows; multiples of 16 apart */
    size_t total, cap;
    struct chunk *newest;
    struct defer *defers;
    size_t next_size;
};
struct arena_mark {
    void *chunk;
    size_t used;
    size_t total, next_size;
    void *defers;
};

/* A new arena that hands out at most cap_bytes. NULL when the process budget is spent. */
struct arena *arena_new(size_t cap_bytes) MUST;
/* Runs the deferred calls, newest first, and gives everything back. NULL is allowed. */
void arena_free(struct arena *a);

void *arena_alloc_slow(struct arena *a, size_t n) MUST;
/* n zeroed bytes, aligned to 16. NULL at the cap. n may be 0 (a valid pointer). */
MUST static inline void *arena_alloc(struct arena *a, size_t n)
{
    if (n - 1 >= (size_t)(a->end - a->free)) /* n == 0, too: an arena without a chunk has no valid pointer yet */
        return arena_alloc_slow(a, n);
    size_t need = (n + 15) & ~(size_t)15;
    char *p = a->free;
    a->free += need;
    a->total += need;
    return p;
}
/* count * size zeroed bytes; NULL at the cap or on overflow. */
void *arena_array(struct arena *a, size_t count, size_t size) MUST;
/* Grows the block p of old_n bytes to new_n, in place when it is the newest. Added bytes are zero. NULL at the cap (p stays). */
void *arena_grow(struct arena *a, void *p, size_t old_n, size_t new_n) MUST;
#define NEW(a, type)      ((type *)arena_alloc((a), sizeof(type)))
#define NEW_N(a, type, n) ((type *)arena_array((a), (n), sizeof(type)))

/* Calls fn(arg) when the arena is freed or rewound past this point. ERR_MEMORY becomes false: fn was then called at once. */
bool arena_defer(struct arena *a, void (*fn)(void *), void *arg) MUST;

/* Rewinding to a mark forgets all that was allocated since (and runs what was deferred since). */
struct arena_mark arena_mark(struct arena *a);
void arena_rewind(struct arena *a, struct arena_mark mark);

/* Bytes handed out so far. */
size_t arena_used(const struct arena *a);

/* The process budget that all arenas draw from (WEIR_MEMORY_MAX); 0 = none. Set once, before the threads start. */
void arena_budget(size_t max_bytes);
size_t arena_budget_used(void);
