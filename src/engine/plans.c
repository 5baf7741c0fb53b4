/* plans.c - the cache of compiled plans: a map, and a list in the order of use.
 *
 * The bookkeeping of a plan lives on its own arena and goes with it, so keeping one allocates nothing but its key. A tenant's share is counted when it matters, by walking
 * the list: that costs microseconds beside the compilation that it follows, and no second set of books can be wrong. */
#include "core/cache.h"
#include "engine/internal.h"

struct cached_plan {
    struct cached_plan *newer, *older;
    struct plan *plan;
    str key;
    size_t bytes;
};

static struct {
    _Atomic u64 hits, misses;
} counts;
CACHE_METRICS(plans, "plans", counts.hits, counts.misses);

static void order_remove(struct plans *p, struct cached_plan *c)
{
    *(c->newer == NULL ? &p->newest : &c->newer->older) = c->older;
    *(c->older == NULL ? &p->oldest : &c->older->newer) = c->newer;
}

static void order_push(struct plans *p, struct cached_plan *c)
{
    c->newer = NULL;
    c->older = p->newest;
    *(p->newest == NULL ? &p->oldest : &p->newest->newer) = c;
    p->newest = c;
}

/* Its memory may be gone afterwards. */
static void drop(struct plans *p, struct cached_plan *c)
{
    map_delete(&p->by_version, c->key);
    order_remove(p, c);
    p->bytes -= c->bytes;
    plan_release(c->plan);
}

/* Of one tenant, what was used longest ago, until a further plan fits into `most` and `most_bytes`; STR_NONE is all of them. */
static void make_room(struct plans *p, str tenant_id, u32 most, size_t most_bytes, size_t bytes)
{
    u32 n = 0;
    size_t held = 0;
    bool all = tenant_id.p == NULL;
    for (const struct cached_plan *c = p->newest; c != NULL; c = c->older)
        if (all || str_eq(c->plan->tenant_id, tenant_id)) {
            n++;
            held += c->bytes;
        }
    for (struct cached_plan *c = p->oldest, *newer; c != NULL && (n + 1 > most || held + bytes > most_bytes);
         c = newer) {
        newer = c->newer;
        if (!all && !str_eq(c->plan->tenant_id, tenant_id))
            continue;
        n--;
        held -= c->bytes;
        drop(p, c);
    }
}

void plans_open(struct plans *p, u32 most, size_t most_bytes)
{
    *p = (struct plans){ .most = most, .most_bytes = most_bytes };
    pthread_mutex_init(&p->lock, NULL);
}

void plans_forget(struct plans *p)
{
    while (p->oldest != NULL)
        drop(p, p->oldest);
    map_free(&p->by_version);
}

void plans_close(struct plans *p)
{
    plans_forget(p);
    pthread_mutex_destroy(&p->lock);
}

struct plan *plans_get(struct plans *p, str key)
{
    pthread_mutex_lock(&p->lock);
    struct cached_plan *c = map_get(&p->by_version, key);
    struct plan *plan = c != NULL ? plan_keep(c->plan) : NULL;
    if (c != NULL) {
        order_remove(p, c);
        order_push(p, c);
    }
    pthread_mutex_unlock(&p->lock);
    atomic_fetch_add_explicit(plan != NULL ? &counts.hits : &counts.misses, 1, memory_order_relaxed);
    return plan;
}

static struct cached_plan *entry_of(str key, struct plan *plan)
{
    struct cached_plan *c = NEW(plan->arena, struct cached_plan);
    str copy = str_dup(plan->arena, key);
    if (c == NULL || copy.p == NULL)
        return NULL;
    *c = (struct cached_plan){ .plan = plan, .key = copy, .bytes = arena_used(plan->arena) };
    return c;
}

static void insert(struct plans *p, struct cached_plan *c)
{
    struct cached_plan *before = map_get(&p->by_version, c->key);
    if (before != NULL) /* another thread was faster: ours is as good */
        drop(p, before);
    make_room(p, c->plan->tenant_id, p->most / 2, p->most_bytes / 2, c->bytes);
    make_room(p, STR_NONE, p->most, p->most_bytes, c->bytes);
    if (map_put(&p->by_version, c->key, c) != OK)
        return;
    plan_keep(c->plan);
    order_push(p, c);
    p->bytes += c->bytes;
}

void plans_put(struct plans *p, str key, struct plan *plan)
{
    struct cached_plan *c = entry_of(key, plan);
    if (c == NULL || c->bytes > p->most_bytes / 2)
        return;
    pthread_mutex_lock(&p->lock);
    insert(p, c);
    pthread_mutex_unlock(&p->lock);
}
