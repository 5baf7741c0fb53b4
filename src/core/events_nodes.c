/* events_nodes.c - events between nodes: only those go over the bus that somebody elsewhere wants.
 *
 * A node that has subscribers says what it wants, and says it again while it has them. Whoever hears a wish for the first time answers "got": what was published before
 * that is in the database, where the subscribers look then, and what is published after it comes over the bus. So nothing falls between reading and hearing. A wish names
 * no node and ends by time: one that many have is said by each of them. */
#include "core/events_parts.h"
#include "base/buf.h"
#include "base/clock.h"
#include "core/bus.h"
#include "core/nodes.h"

#include <pthread.h>
#include <stdatomic.h>

enum { SHARDS = 64, HEADS = 256, WANT_BYTES = KIB, WORD_MAX = 64 };

struct want {
    struct arena *arena;
    struct want *next;
    u64 hash;
    str name; /* "topic key" */
    i64 until_us;
};
struct shard {
    pthread_mutex_t lock;
    struct want *heads[HEADS];
};
/* Of the process, as the subscriptions are. */
static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
static _Atomic u32 wants;

static void heard(str text);
BUS(news, "events", heard, .each = true);

/* ---- wishes of other nodes ---- */

static struct shard *shard_of(u64 hash)
{
    return &shards[hash % SHARDS];
}

static struct want **head_of(u64 hash)
{
    return &shard_of(hash)->heads[hash / SHARDS % HEADS];
}

/* Those of one chain that are over, on the way. */
static struct want *find(u64 hash, str name, i64 now_us)
{
    struct want *found = NULL;
    for (struct want **link = head_of(hash), *w; (w = *link) != NULL;) {
        if (w->until_us <= now_us) {
            *link = w->next;
            atomic_fetch_sub(&wants, 1);
            arena_free(w->arena);
            continue;
        }
        if (w->hash == hash && str_eq(w->name, name))
            found = w;
        link = &w->next;
    }
    return found;
}

static struct want *want_new(u64 hash, str name)
{
    struct arena *a = arena_new(sizeof(struct want) + name.n + WANT_BYTES);
    struct want *w = a != NULL ? NEW(a, struct want) : NULL;
    str copy = w != NULL ? str_dup(a, name) : STR_NONE;
    if (copy.p == NULL) {
        arena_free(a);
        return NULL;
    }
    *w = (struct want){ .arena = a, .hash = hash, .name = copy };
    return w;
}

static void sweep(void)
{
    for (u64 hash = 0; hash < (u64)SHARDS * HEADS; hash++) {
        pthread_mutex_lock(&shard_of(hash)->lock);
        (void)find(hash, S(""), clock_mono_us()); /* no want has that name */
        pthread_mutex_unlock(&shard_of(hash)->lock);
    }
}

/* True when it was not known; false too when there is no room for it. */
static bool remember(str name)
{
    u64 hash = str_hash(name);
    i64 now_us = clock_mono_us();
    if (atomic_load(&wants) >= EVENTS_WANTS_MAX)
        sweep();
    pthread_mutex_lock(&shard_of(hash)->lock);
    struct want *w = find(hash, name, now_us);
    bool anew = w == NULL;
    if (anew && atomic_load(&wants) < EVENTS_WANTS_MAX && (w = want_new(hash, name)) != NULL) {
        w->next = *head_of(hash);
        *head_of(hash) = w;
        atomic_fetch_add(&wants, 1);
    }
    if (w != NULL)
        w->until_us = now_us + EVENTS_WANT_S * SECOND_US;
    pthread_mutex_unlock(&shard_of(hash)->lock);
    return anew && w != NULL;
}

/* "topic key"; the caller's buffer is only so long, and what is longer nobody wants. */
static str name_of(const char *topic, str key, char out[static WORD_MAX + BUS_TEXT_MAX])
{
    int n = snprintf(out, WORD_MAX + BUS_TEXT_MAX, "%s %.*s", topic, STR_FMT(key));
    return n > 0 && n < WORD_MAX + BUS_TEXT_MAX ? (str){ out, (size_t)n } : STR_NONE;
}

bool events_wanted_elsewhere(const char *topic, str key)
{
    char buffer[WORD_MAX + BUS_TEXT_MAX];
    if (!bus_hears()) /* nobody knows what they want, but they can be told */
        return nodes_alive() > 1;
    if (atomic_load(&wants) == 0)
        return false;
    str name = name_of(topic, key, buffer);
    u64 hash = str_hash(name);
    pthread_mutex_lock(&shard_of(hash)->lock);
    bool wanted = find(hash, name, clock_mono_us()) != NULL;
    pthread_mutex_unlock(&shard_of(hash)->lock);
    return wanted;
}

void events_end(void)
{
    for (u64 hash = 0; hash < (u64)SHARDS * HEADS; hash++) {
        pthread_mutex_lock(&shard_of(hash)->lock);
        (void)find(hash, STR_NONE, INT64_MAX);
        pthread_mutex_unlock(&shard_of(hash)->lock);
    }
}

/* ---- saying: a word, then lines ---- */

static void say(const char *word, const char *topic, const str *lines, u32 n)
{
    char bytes[BUS_TEXT_MAX];
    struct buf b = { .p = bytes, .cap = sizeof bytes, .max = sizeof bytes };
    buf_str(&b, str_of(word));
    buf_char(&b, '\n');
    buf_str(&b, str_of(topic));
    for (u32 i = 0; i < n; i++) {
        buf_char(&b, '\n');
        buf_str(&b, lines[i]);
    }
    if (b.fail == OK)
        bus_say(&news, buf_view(&b));
    else if (n > 1) /* an event that is too large: whoever wants it finds it in the database */
        say("lost", topic, lines, 1);
}

void events_want(const char *topic, str key)
{
    say("want", topic, &key, 1);
}

void events_tell_elsewhere(const struct event *e)
{
    const str lines[] = { e->key, e->tenant_id, e->name, e->id, e->data };
    if (events_wanted_elsewhere(e->topic, e->key))
        say("event", e->topic, lines, COUNT(lines));
}

/* ---- hearing ---- */

static void hear_want(const char *topic, str key, str rest)
{
    char buffer[WORD_MAX + BUS_TEXT_MAX];
    str name = name_of(topic, key, buffer);
    if (name.p != NULL && remember(name))
        say("got", topic, &key, 1);
}

static void hear_loss(const char *topic, str key, str rest)
{
    events_lose(topic, key);
}

/* An absent part is an empty one here; nobody tells them apart. */
static void hear_event(const char *topic, str key, str rest)
{
    struct event e = { .topic = topic, .key = key };
    bool whole = str_cut(&rest, '\n', &e.tenant_id) && str_cut(&rest, '\n', &e.name) && str_cut(&rest, '\n', &e.id);
    e.data = rest;
    if (whole)
        events_deliver(&e);
}

static void heard(str text)
{
    static const struct {
        str word;
        void (*hear)(const char *topic, str key, str rest);
    } words[] = { { S_INIT("want"), hear_want },
                  { S_INIT("got"), hear_loss },
                  { S_INIT("lost"), hear_loss },
                  { S_INIT("event"), hear_event } };
    char topic[WORD_MAX + 1];
    str word, name, key;
    if (text.p == NULL) {
        events_lose_all();
        return;
    }
    if (!str_cut(&text, '\n', &word) || !str_cut(&text, '\n', &name) || name.n > WORD_MAX ||
        !str_cut(&text, '\n', &key))
        return;
    snprintf(topic, sizeof topic, "%.*s", STR_FMT(name));
    for (size_t i = 0; i < COUNT(words); i++)
        if (str_eq(word, words[i].word))
            words[i].hear(topic, key, text);
}
