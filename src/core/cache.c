/* cache.c - a table per thread and cache: chains for looking up, one list in order of use for leaving.
 *
 * Nothing is freed by a look-up, not even what has turned stale: the caller may still hold what an earlier look-up
 * gave. Memory goes back in cache_put, when an entry is replaced or the table is full, and at the thread's end. The
 * bookkeeping of an entry lives on the entry's own arena. */
#include "core/cache.h"
#include "base/clock.h"
#include "core/bus.h"
#include "core/nodes.h"

#include <string.h>

struct held { /* whoever keeps the arena: the table, and each cache_keep */
    _Atomic u32 holders;
    struct arena *owner;
};
struct entry {
    struct entry *next, *newer, *older;
    str key;
    u64 hash, epoch;
    i64 put_us;
    i64 read_us; /* where there may be other nodes: from before the read, by a clock that nobody sets back */
    const void *value;
    struct held *held;
};
struct table {
    struct table *next;
    const struct cache *cache;
    struct arena *arena; /* of the table itself */
    struct entry **heads, *newest, *oldest;
    u32 head_count, count;
};
struct local {
    struct table *tables;
    i64 asked_us;        /* when the epoch was last asked for: before the database was read for what is put next */
    struct arena *limbo; /* handed over but not remembered: valid until the next put, as promised */
};
static _Thread_local struct local local;

static void release(void *arg)
{
    struct held *h = arg;
    if (atomic_fetch_sub_explicit(&h->holders, 1, memory_order_acq_rel) == 1)
        arena_free(h->owner);
}

static struct table *table_of(const struct cache *c)
{
    struct table *t = local.tables;
    while (t != NULL && t->cache != c)
        t = t->next;
    return t;
}

/* Twice as many heads as entries, rounded up to a power of two; NULL when out of memory. */
static struct table *table_new(const struct cache *c)
{
    u32 heads = 16;
    while (heads < c->capacity * 2)
        heads *= 2;
    struct arena *a = arena_new(sizeof(struct table) + heads * sizeof(struct entry *) + KIB);
    struct table *t = a == NULL ? NULL : NEW(a, struct table);
    struct entry **list = t == NULL ? NULL : NEW_N(a, struct entry *, heads);
    if (list == NULL) {
        arena_free(a);
        return NULL;
    }
    *t = (struct table){ .next = local.tables, .cache = c, .arena = a, .heads = list, .head_count = heads };
    return local.tables = t;
}

static void order_remove(struct table *t, struct entry *e)
{
    *(e->newer == NULL ? &t->newest : &e->newer->older) = e->older;
    *(e->older == NULL ? &t->oldest : &e->older->newer) = e->newer;
}

static void order_push(struct table *t, struct entry *e)
{
    e->newer = NULL;
    e->older = t->newest;
    *(t->newest == NULL ? &t->oldest : &t->newest->newer) = e;
    t->newest = e;
}

static struct entry **link_of(struct table *t, str key, u64 hash)
{
    struct entry **link = &t->heads[hash & (t->head_count - 1)];
    while (*link != NULL && ((*link)->hash != hash || !str_eq((*link)->key, key)))
        link = &(*link)->next;
    return link;
}

static struct entry *find(const struct cache *c, str key)
{
    struct table *t = table_of(c);
    return t == NULL ? NULL : *link_of(t, key, str_hash(key));
}

static void drop(struct table *t, struct entry *e)
{
    *link_of(t, e->key, e->hash) = e->next;
    order_remove(t, e);
    t->count--;
    release(e->held);
}

/* Counts for all caches; it only rises, as each cache's own does, so their sum is another one after either did. */
static _Atomic u64 everything;

static u64 epoch_of(const struct cache *c)
{
    return atomic_load_explicit(&c->epoch, memory_order_acquire) +
           atomic_load_explicit(&everything, memory_order_acquire);
}

static bool is_old(const struct cache *c, const struct entry *e, i64 now_us)
{
    if (c->life_us != 0 && now_us - e->put_us >= c->life_us)
        return true;
    return !c->constant && nodes_possible() && clock_mono_us() - e->read_us >= CACHE_SHARED_LIFE_MS * 1000;
}

const void *cache_get(struct cache *c, str key, i64 now_us)
{
    struct entry *e = find(c, key);
    bool good = e != NULL && e->epoch == epoch_of(c) && !is_old(c, e, now_us);
    atomic_fetch_add_explicit(good ? &c->hits : &c->misses, 1, memory_order_relaxed);
    if (!good)
        return NULL;
    struct table *t = table_of(c);
    order_remove(t, e);
    order_push(t, e);
    return e->value;
}

u64 cache_epoch(struct cache *c)
{
    local.asked_us = nodes_possible() ? clock_mono_us() : 0;
    return epoch_of(c);
}

static void heard(str name);
BUS(forgotten, "caches", heard);

static void forget_everything(void)
{
    atomic_fetch_add_explicit(&everything, 1, memory_order_acq_rel);
}

void cache_forget_all(void *unused)
{
    forget_everything();
    bus_say(&forgotten, S("*"));
}

static void forget(struct cache *c)
{
    atomic_fetch_add_explicit(&c->epoch, 1, memory_order_acq_rel);
}

extern struct cache *const __start_weir_caches[] __attribute__((weak, visibility("hidden")));
extern struct cache *const __stop_weir_caches[] __attribute__((weak, visibility("hidden")));

static void heard(str name)
{
    if (name.p == NULL || str_eq(name, S("*")))
        forget_everything();
    for (struct cache *const *c = __start_weir_caches; c < __stop_weir_caches; c++)
        if (str_eq(str_of((*c)->name), name))
            forget(*c);
}

static struct entry *entry_new(struct arena *owner, str key, const void *value)
{
    struct entry *e = NEW(owner, struct entry);
    struct held *h = NEW(owner, struct held);
    str copy = str_dup(owner, key);
    if (e == NULL || h == NULL || (copy.p == NULL && key.n > 0))
        return NULL;
    *h = (struct held){ .holders = 1, .owner = owner };
    *e = (struct entry){ .key = copy, .hash = str_hash(key), .value = value, .held = h };
    return e;
}

static void insert(struct table *t, struct entry *e)
{
    struct entry *before = *link_of(t, e->key, e->hash);
    if (before != NULL)
        drop(t, before);
    else if (t->count >= t->cache->capacity)
        drop(t, t->oldest);
    struct entry **link = link_of(t, e->key, e->hash); /* after dropping: the link may have gone with its entry */
    e->next = *link;
    *link = e;
    order_push(t, e);
    t->count++;
}

void cache_put(struct cache *c, str key, const void *entry, struct arena *owner, u64 epoch_before, i64 now_us)
{
    arena_free(local.limbo);
    local.limbo = NULL;
    struct table *t = table_of(c);
    if (t == NULL && c->capacity > 0)
        t = table_new(c);
    struct entry *e = t == NULL || epoch_before != epoch_of(c) ? NULL : entry_new(owner, key, entry);
    if (e == NULL) {
        local.limbo = owner;
        return;
    }
    e->epoch = epoch_before;
    e->put_us = now_us;
    e->read_us = local.asked_us;
    insert(t, e);
}

err cache_keep(struct cache *c, str key, struct arena *a)
{
    struct entry *e = find(c, key);
    if (e == NULL)
        return ERR_NOT_FOUND;
    atomic_fetch_add_explicit(&e->held->holders, 1, memory_order_relaxed);
    return arena_defer(a, release, e->held) ? OK : ERR_MEMORY;
}

void cache_forget(struct cache *c)
{
    forget(c);
    if (!c->constant)
        bus_say(&forgotten, str_of(c->name));
}

void cache_thread_end(void)
{
    for (struct table *t; (t = local.tables) != NULL;) {
        while (t->oldest != NULL)
            drop(t, t->oldest);
        local.tables = t->next;
        arena_free(t->arena);
    }
    arena_free(local.limbo);
    local.limbo = NULL;
}
