/* arena.c - chunks in a list, newest first; a bump pointer in the newest.
 *
 * The first chunk is small (most requests fit) and each next one doubles up to 1 MiB, so a request costs one malloc and a
 * large one O(log n). The budget is one atomic that is touched per chunk, not per object. */
#include "base/arena.h"
#include "base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ONE_MALLOC_PER_OBJECT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONE_MALLOC_PER_OBJECT 1
#endif
#endif
#ifndef ONE_MALLOC_PER_OBJECT
#define ONE_MALLOC_PER_OBJECT 0
#endif

enum { ALIGN = 16, FIRST_CHUNK = 4096, LAST_CHUNK = 1 << 20 };

struct chunk {
    struct chunk *next; /* older */
    size_t size, used;  /* of data; used is current in older chunks only */
    _Alignas(ALIGN) char data[];
};

struct defer {
    struct defer *next;
    void (*fn)(void *);
    void *arg;
};

static size_t budget_max; /* written before the threads start */
static atomic_size_t budget_used;

static bool budget_take(size_t n)
{
    size_t before = atomic_fetch_add_explicit(&budget_used, n, memory_order_relaxed);
    if (budget_max != 0 && before + n > budget_max) {
        atomic_fetch_sub_explicit(&budget_used, n, memory_order_relaxed);
        return false;
    }
    return true;
}

static struct chunk *chunk_new(size_t size)
{
    size_t bytes = sizeof(struct chunk) + size;
    if (fault_hit(FAULT_ALLOC) || !budget_take(bytes))
        return NULL;
    struct chunk *c = calloc(1, bytes);
    if (c == NULL) {
        atomic_fetch_sub_explicit(&budget_used, bytes, memory_order_relaxed);
        return NULL;
    }
    c->size = size;
    return c;
}

static void chunk_free(struct chunk *c)
{
    atomic_fetch_sub_explicit(&budget_used, sizeof(struct chunk) + c->size, memory_order_relaxed);
    free(c);
}

struct arena *arena_new(size_t cap_bytes)
{
    if (fault_hit(FAULT_ALLOC))
        return NULL;
    struct arena *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->cap = cap_bytes;
    a->next_size = MIN(cap_bytes, (size_t)FIRST_CHUNK); /* a small one stays small */
    return a;
}

static void run_defers(struct arena *a, const struct defer *until)
{
    while (a->defers != until) {
        struct defer *d = a->defers;
        a->defers = d->next; /* before the call: fn may free what d points into, not d itself */
        d->fn(d->arg);
    }
}

void arena_free(struct arena *a)
{
    if (a == NULL)
        return;
    run_defers(a, NULL);
    for (struct chunk *c = a->newest, *older; c != NULL; c = older) {
        older = c->next;
        chunk_free(c);
    }
    free(a);
}

/* The newest chunk is used up to `used`; what is behind is free, as far as the cap goes. */
static void open_newest(struct arena *a, size_t used)
{
    struct chunk *c = a->newest;
    a->free = a->end = NULL;
    if (c == NULL || ONE_MALLOC_PER_OBJECT)
        return;
    size_t room = MIN(c->size - used, a->cap - MIN(a->total, a->cap));
    a->free = c->data + used;
    a->end = a->free + (room & ~(size_t)(ALIGN - 1));
}

static size_t newest_used(const struct arena *a)
{
    return a->free != NULL ? (size_t)(a->free - a->newest->data) : 0;
}

static bool push_chunk(struct arena *a, size_t n)
{
    size_t size = n;
    if (!ONE_MALLOC_PER_OBJECT && n < a->next_size) {
        size = a->next_size;
        a->next_size = MIN(a->next_size * 2, (size_t)LAST_CHUNK);
    }
    struct chunk *c = chunk_new(size);
    if (c == NULL)
        return false;
    if (a->newest != NULL)
        a->newest->used = newest_used(a);
    c->next = a->newest;
    a->newest = c;
    return true;
}

void *arena_alloc_slow(struct arena *a, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    size_t need = ONE_MALLOC_PER_OBJECT ? n : (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (need > a->cap - MIN(a->total, a->cap))
        return NULL;
    if (need == 0 && a->free != NULL)
        return a->free;
    if (!push_chunk(a, need))
        return NULL;
    a->total += need;
    open_newest(a, need);
    return a->newest->data;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return arena_alloc(a, bytes);
}

static bool grow_in_place(struct arena *a, const void *p, size_t old_n, size_t new_n)
{
    size_t old_need = (old_n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    size_t new_need = (new_n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (a->free == NULL || (const char *)p + old_need != a->free)
        return false;
    size_t more = new_need - old_need;
    if (more > (size_t)(a->end - a->free))
        return false;
    a->free += more;
    a->total += more;
    return true;
}

void *arena_grow(struct arena *a, void *p, size_t old_n, size_t new_n)
{
    assert(new_n >= old_n);
    if (new_n > SIZE_MAX / 2)
        return NULL;
    if (p != NULL && grow_in_place(a, p, old_n, new_n))
        return p;
    void *q = arena_alloc(a, new_n);
    if (q != NULL && p != NULL)
        memcpy(q, p, old_n);
    return q;
}

bool arena_defer(struct arena *a, void (*fn)(void *), void *arg)
{
    struct defer *d = NEW(a, struct defer);
    if (d == NULL) {
        fn(arg);
        return false;
    }
    *d = (struct defer){ a->defers, fn, arg };
    a->defers = d;
    return true;
}

struct arena_mark arena_mark(struct arena *a)
{
    return (struct arena_mark){ a->newest, newest_used(a), a->total, a->next_size, a->defers };
}

void arena_rewind(struct arena *a, struct arena_mark mark)
{
    run_defers(a, mark.defers);
    if (a->newest != NULL)
        a->newest->used = newest_used(a);
    while (a->newest != mark.chunk) {
        struct chunk *c = a->newest;
        assert(c != NULL); /* else the mark is another arena's */
        a->newest = c->next;
        chunk_free(c);
    }
    a->total = mark.total;
    a->next_size =
        mark.next_size; /* else an arena that is used again and again would take 1 MiB for each second chunk */
    open_newest(a, mark.used);
    if (a->free != NULL)
        memset(a->free, 0, a->newest->used - mark.used); /* memory comes zeroed */
}

size_t arena_used(const struct arena *a)
{
    return a->total;
}

void arena_budget(size_t max_bytes)
{
    budget_max = max_bytes;
}

size_t arena_budget_used(void)
{
    return atomic_load_explicit(&budget_used, memory_order_relaxed);
}
