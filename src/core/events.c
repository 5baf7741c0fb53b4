/* events.c - who listens to what, in shards with a lock each; one copy of an event for all who get it.
 *
 * A subscription belongs to its loop: only the loop unsubscribes and only the loop delivers, so after
 * events_unsubscribe no call comes, although messages may still be under way. They find it `ended`, and the last of
 * them frees it. */
#include "core/events_parts.h"
#include "core/bus.h"
#include "core/nodes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { SHARDS = 16, HEADS = 256, TOPICS = 64, PENDING_MAX = 1024, EVENT_BYTES = 1 << 20 };

struct subscription {
    struct arena *arena;
    struct subscription *next; /* in its chain; the shard's lock */
    const char *topic;
    str key;
    u64 hash;
    struct loop *loop;
    void (*on)(void *ctx, const struct event *event);
    void *ctx;
    _Atomic u32 pending; /* messages under way */
    atomic_bool behind;  /* `lost` is under way: until it arrives all is left out */
    bool ended;          /* the loop's, with the next two */
    u32 seconds;         /* since it looked again for no reason */
    struct loop_timer timer;
    struct message lost;
};
struct shard {
    pthread_mutex_t lock;
    struct subscription *heads[HEADS];
};
struct parcel { /* the copied event and the messages that carry it */
    struct arena *arena;
    struct event event;
    _Atomic u32 holders;
};
struct delivery {
    struct message message;
    struct subscription *to;
    struct parcel *parcel;
};

/* Process-wide, as the news are. `listeners` counts subscriptions by topic, so that a publisher nobody listens to
 * takes no lock. */
static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
static _Atomic u32 listeners[TOPICS];

static _Atomic u32 *listeners_of(const char *topic)
{
    return &listeners[str_hash(str_of(topic)) % TOPICS];
}

static u64 hash_of(const char *topic, str key)
{
    return str_hash(str_of(topic)) * 31 + str_hash(key);
}

static struct shard *shard_of(u64 hash)
{
    return &shards[hash % SHARDS];
}

static struct subscription **head_of(struct shard *s, u64 hash)
{
    return &s->heads[hash / SHARDS % HEADS];
}

static bool matches(const struct subscription *s, u64 hash, const char *topic, str key)
{
    return s->hash == hash && strcmp(s->topic, topic) == 0 && str_eq(s->key, key);
}

/* --- on the loop ------------------------------------------------------------------------------------------------- */

/* A message has arrived: the last one of a subscription that has ended frees it. */
static void arrived(struct subscription *s)
{
    if (atomic_fetch_sub(&s->pending, 1) == 1 && s->ended)
        arena_free(s->arena);
}

static void release(struct parcel *p)
{
    if (atomic_fetch_sub_explicit(&p->holders, 1, memory_order_acq_rel) == 1)
        arena_free(p->arena);
}

static void deliver(struct message *m)
{
    struct delivery *d = CONTAINER(m, struct delivery, message);
    struct subscription *s = d->to;
    struct parcel *p = d->parcel;
    if (!s->ended)
        s->on(s->ctx, &p->event);
    arrived(s);
    release(p);
}

static void deliver_lost(struct message *m)
{
    struct subscription *s = CONTAINER(m, struct subscription, lost);
    atomic_store(&s->behind, false); /* before the call: what comes while it reads the database again counts anew */
    if (!s->ended)
        s->on(s->ctx, NULL);
    arrived(s);
}

static void tell_lost(struct subscription *s)
{
    if (atomic_exchange(&s->behind, true))
        return;
    atomic_fetch_add(&s->pending, 1);
    loop_post(s->loop, &s->lost);
}

/* --- beside other nodes ------------------------------------------------------------------------------------------ */

/* Each second: the wish is said again in time, and who hears nothing asks the database; now and then everybody does, whatever it is that went wrong. */
static void look_again(struct loop_timer *t)
{
    struct subscription *s = CONTAINER(t, struct subscription, timer);
    bool look = ++s->seconds % EVENTS_LOOK_S == 0 && nodes_alive() > 1;
    if (s->seconds % EVENTS_RENEW_S == 0)
        events_want(s->topic, s->key);
    err e = loop_timer_start(s->loop, t, SECOND_US, look_again);
    if (look || e != OK || !bus_hears())
        tell_lost(s);
}

/* Without memory for a timer it hears what comes over the bus as long as somebody wants it. */
static void want_elsewhere(struct subscription *s)
{
    if (!nodes_possible())
        return;
    events_want(s->topic, s->key);
    err e = loop_timer_start(s->loop, &s->timer, SECOND_US, look_again);
    (void)e;
}

struct subscription *events_subscribe(const char *topic, str key, void (*on)(void *ctx, const struct event *event),
                                      void *ctx)
{
    struct arena *a = arena_new(sizeof(struct subscription) + key.n + KIB);
    struct subscription *s = a == NULL ? NULL : NEW(a, struct subscription);
    str copy = s == NULL ? STR_NONE : str_dup(a, key);
    if (copy.p == NULL) {
        arena_free(a);
        return NULL;
    }
    s->arena = a;
    s->topic = topic;
    s->key = copy;
    s->hash = hash_of(topic, key);
    s->loop = loop_current();
    s->on = on;
    s->ctx = ctx;
    s->lost.run = deliver_lost;
    struct shard *shard = shard_of(s->hash);
    pthread_mutex_lock(&shard->lock);
    struct subscription **head = head_of(shard, s->hash);
    s->next = *head;
    *head = s;
    pthread_mutex_unlock(&shard->lock);
    atomic_fetch_add(listeners_of(topic), 1);
    want_elsewhere(s);
    return s;
}

void events_unsubscribe(struct subscription *s)
{
    struct shard *shard = shard_of(s->hash);
    pthread_mutex_lock(&shard->lock);
    struct subscription **link = head_of(shard, s->hash);
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    pthread_mutex_unlock(&shard->lock);
    atomic_fetch_sub(listeners_of(s->topic), 1);
    s->ended = true;
    loop_timer_stop(&s->timer);
    if (atomic_load(&s->pending) == 0) /* no publisher finds it any more, and only this loop counts down */
        arena_free(s->arena);
}

/* --- from any thread --------------------------------------------------------------------------------------------- */

static bool copy_str(struct arena *a, str *s)
{
    if (s->p == NULL)
        return true;
    *s = str_dup(a, *s);
    return s->p != NULL;
}

/* NULL when out of memory or when the event is larger than a parcel may be. */
static struct parcel *parcel_new(const struct event *e)
{
    struct arena *a = arena_new(EVENT_BYTES);
    struct parcel *p = a == NULL ? NULL : NEW(a, struct parcel);
    if (p != NULL) {
        *p = (struct parcel){ .arena = a, .event = *e, .holders = 1 };
        struct event *c = &p->event;
        if (copy_str(a, &c->key) && copy_str(a, &c->tenant_id) && copy_str(a, &c->name) && copy_str(a, &c->data) &&
            copy_str(a, &c->id))
            return p;
    }
    arena_free(a);
    return NULL;
}

static void tell(struct subscription *s, struct parcel *p)
{
    if (atomic_load(&s->behind))
        return;
    struct delivery *d = p == NULL || atomic_load(&s->pending) >= PENDING_MAX ? NULL : NEW(p->arena, struct delivery);
    if (d == NULL) {
        tell_lost(s);
        return;
    }
    *d = (struct delivery){ .message.run = deliver, .to = s, .parcel = p };
    atomic_fetch_add_explicit(&p->holders, 1, memory_order_relaxed);
    atomic_fetch_add(&s->pending, 1);
    loop_post(s->loop, &d->message);
}

void events_deliver(const struct event *e)
{
    if (atomic_load(listeners_of(e->topic)) == 0)
        return;
    u64 hash = hash_of(e->topic, e->key);
    struct shard *shard = shard_of(hash);
    struct parcel *p = NULL;
    bool tried = false;
    pthread_mutex_lock(
        &shard->lock); /* held while posting: events of one key arrive in the order in which they were published */
    for (struct subscription *s = *head_of(shard, hash); s != NULL; s = s->next) {
        if (!matches(s, hash, e->topic, e->key))
            continue;
        if (!tried)
            p = parcel_new(e);
        tried = true;
        tell(s, p);
    }
    pthread_mutex_unlock(&shard->lock);
    if (p != NULL)
        release(p);
}

void events_publish(const struct event *e)
{
    events_deliver(e);
    events_tell_elsewhere(e);
}

void events_lose(const char *topic, str key)
{
    u64 hash = hash_of(topic, key);
    struct shard *shard = shard_of(hash);
    pthread_mutex_lock(&shard->lock);
    for (struct subscription *s = *head_of(shard, hash); s != NULL; s = s->next)
        if (matches(s, hash, topic, key))
            tell_lost(s);
    pthread_mutex_unlock(&shard->lock);
}

void events_lose_all(void)
{
    for (u64 hash = 0; hash < (u64)SHARDS * HEADS; hash++) {
        struct shard *shard = shard_of(hash);
        pthread_mutex_lock(&shard->lock);
        for (struct subscription *s = *head_of(shard, hash); s != NULL; s = s->next)
            tell_lost(s);
        pthread_mutex_unlock(&shard->lock);
    }
}

static bool wanted_here(const char *topic, str key)
{
    if (atomic_load(listeners_of(topic)) == 0)
        return false;
    u64 hash = hash_of(topic, key);
    struct shard *shard = shard_of(hash);
    pthread_mutex_lock(&shard->lock);
    const struct subscription *s = *head_of(shard, hash);
    while (s != NULL && !matches(s, hash, topic, key))
        s = s->next;
    pthread_mutex_unlock(&shard->lock);
    return s != NULL;
}

bool events_wanted(const char *topic, str key)
{
    return wanted_here(topic, key) || events_wanted_elsewhere(topic, key);
}
