/* bus.c - see bus.h: one queue, one thread that sends it, and the taking apart of what comes in.
 *
 * A packet names its sender's incarnation and a number that grows by one with each packet of that sender on that transport, so whoever hears knows of a gap and looks for itself.
 * What could not be sent is not kept: a gap says as much, and costs no memory while a database is away. */
#include "core/bus.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "core/app.h"
#include "core/bus_redis.h"
#include "core/metrics.h"
#include "core/nodes.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    TRANSPORTS_MAX = 4,
    SENDERS_MAX = NODES_MAX, /* whose numbers are remembered; beyond, the one that has been silent longest goes */
    OWED_MS = 1000,          /* so often a packet is tried that says no more than that there is a gap */
    HEAD_MAX = 64,
};

METRIC(bus_sent, "weir_bus_packets_sent_total", METRIC_COUNTER,
       "Packets that this node told the others, by transport and outcome (sent, failed)");
METRIC(bus_heard_packets, "weir_bus_packets_heard_total", METRIC_COUNTER,
       "Packets of other nodes that arrived here, by transport");
METRIC(bus_gaps, "weir_bus_gaps_total", METRIC_COUNTER,
       "How often something was missed, or may have been, so that this node looked for itself, by transport");

static i64 read_up(void)
{
    return nodes_possible() ? bus_hears() : METRIC_UNKNOWN;
}
METRIC(bus_up, "weir_bus_up", METRIC_GAUGE, "1 while this node hears what the others say", .read = read_up);

extern const struct bus_kind *const __start_weir_bus[] __attribute__((weak, visibility("hidden")));
extern const struct bus_kind *const __stop_weir_bus[] __attribute__((weak, visibility("hidden")));

/* ---- PostgreSQL ---- */

static const struct bus_transport postgres_bus;

static bool postgres_wanted(void)
{
    return db_has_others(app.db);
}

static bool postgres_others(void)
{
    return nodes_alive() > 1;
}

static void postgres_heard(str packet)
{
    if (packet.p == NULL)
        bus_missed(&postgres_bus);
    else
        bus_heard(&postgres_bus, packet);
}

static err postgres_start(void)
{
    return db_listen(app.db, postgres_heard);
}

static void postgres_stop(void)
{
    db_listen_end(app.db);
}

static bool postgres_up(void)
{
    return db_listening(app.db);
}

static err postgres_send(str packet)
{
    return db_notify(app.db, packet);
}

static const struct bus_transport postgres_bus = { .name = "postgres",
                                                   .wanted = postgres_wanted,
                                                   .others = postgres_others,
                                                   .start = postgres_start,
                                                   .stop = postgres_stop,
                                                   .up = postgres_up,
                                                   .send = postgres_send };

const struct bus_transport *const bus_transports[] = { &bus_redis, &postgres_bus, NULL };

/* ---- state ---- */

struct said {
    struct said *next;
    const struct bus_kind *kind;
    str text; /* STR_NONE: look yourself */
};
/* What was said and not sent yet; two of them, so that one fills while the other is sent. */
struct batch {
    struct arena *arena;
    struct arena_mark empty;
    struct said *first, **tail;
    struct map texts; /* those that are said once */
    bool spilled;     /* there was no room: all kinds are told to look */
};
struct sender {
    i64 incarnation, number;
    u64 heard; /* by bus.news */
};
struct way { /* a transport in use */
    const struct bus_transport *transport;
    i64 number;           /* of our last packet */
    bool owed;            /* it did not go out: the next one shows the gap */
    pthread_mutex_t lock; /* over the rest: a transport may use several threads */
    struct sender senders[SENDERS_MAX];
    u32 sender_count;
    u64 news;
};

/* One for the process, as there is one database. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    atomic_bool runs;
    i64 self;      /* our incarnation: the last packets go out when the lease has ended */
    bool stopping; /* with the rest under the lock */
    struct batch batches[2], *filling;
    struct way ways[TRANSPORTS_MAX];
    u32 way_count;
} bus = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- saying ---- */

static void batch_clear(struct batch *b)
{
    arena_rewind(b->arena, b->empty);
    *b = (struct batch){ .arena = b->arena, .empty = b->empty, .tail = &b->first, .texts = { .arena = b->arena } };
}

/* False: there is no room. */
static bool put(struct batch *b, const struct bus_kind *kind, str text)
{
    str key = kind->each ? STR_NONE : strf(b->arena, "%s %.*s", kind->name, STR_FMT(text.p != NULL ? text : S("-")));
    struct said *said = NEW(b->arena, struct said);
    str copy = text.p != NULL ? str_dup(b->arena, text) : STR_NONE;
    if (said == NULL || (text.p != NULL && copy.p == NULL) || (!kind->each && key.p == NULL))
        return false;
    if (!kind->each && map_get(&b->texts, key) != NULL)
        return true;
    if (!kind->each && map_put(&b->texts, key, said) != OK)
        return false;
    *said = (struct said){ .kind = kind, .text = copy };
    *b->tail = said;
    b->tail = &said->next;
    return true;
}

static bool batch_empty(const struct batch *b)
{
    return b->first == NULL && !b->spilled;
}

void bus_say(const struct bus_kind *kind, str text)
{
    if (!atomic_load_explicit(&bus.runs, memory_order_acquire) || !bus.ways[0].transport->others())
        return;
    if (text.n > BUS_TEXT_MAX)
        text = STR_NONE;
    pthread_mutex_lock(&bus.lock);
    struct batch *b = bus.filling;
    if (b != NULL && batch_empty(b))
        pthread_cond_signal(&bus.wake);
    if (b != NULL && !b->spilled && !put(b, kind, text))
        b->spilled = true;
    pthread_mutex_unlock(&bus.lock);
}

/* ---- sending ---- */

/* "incarnation number\n", then for each text "kind length text\n"; a length of -1 is "look yourself", the kind * all kinds. */
static void packet_begin(struct buf *b, i64 number)
{
    b->n = 0;
    b->fail = OK;
    buf_f(b, "%lld %lld\n", (long long)bus.self, (long long)number);
}

static void packet_put(struct buf *b, const char *kind, str text)
{
    buf_f(b, "%s %lld ", kind, text.p != NULL ? (long long)text.n : -1LL);
    buf_str(b, text);
    buf_char(b, '\n');
}

static size_t packet_bytes(const struct said *s)
{
    return strlen(s->kind->name) + s->text.n + sizeof "  -1234567890\n";
}

static void count(struct metric *m, const struct bus_transport *t, const char *outcome)
{
    char labels[64];
    snprintf(labels, sizeof labels, "transport=\"%s\"%s%s%s", t->name, outcome != NULL ? ",outcome=\"" : "",
             outcome != NULL ? outcome : "", outcome != NULL ? "\"" : "");
    metric_add(m, labels, 1);
}

/* The first that is up; the last when none is. */
static struct way *way_out(void)
{
    for (u32 i = 0; i < bus.way_count; i++)
        if (bus.ways[i].transport->up())
            return &bus.ways[i];
    return &bus.ways[bus.way_count - 1];
}

static err send_by(struct way *w, const struct buf *b)
{
    err e = b->fail != OK ? b->fail : w->transport->send(buf_view(b));
    w->owed = e != OK;
    count(&bus_sent, w->transport, e == OK ? "sent" : "failed");
    return e;
}

/* By another way at once, when this one fails: a server that goes must not take along what it was told last. It may have told it nevertheless, so news can come twice. */
static void send_packet(struct way *w, const struct buf *b)
{
    char bytes[BUS_PACKET_MAX];
    struct buf again = { .p = bytes, .cap = sizeof bytes, .max = sizeof bytes };
    str packet = buf_view(b), texts = str_slice(packet, (size_t)str_find_char(packet, '\n', 0) + 1, packet.n);
    err e = send_by(w, b);
    for (u32 i = 0; i < bus.way_count && e != OK; i++) {
        struct way *other = &bus.ways[i];
        if (other == w || !other->transport->up())
            continue;
        packet_begin(&again, ++other->number);
        buf_str(&again, texts);
        e = send_by(other, &again);
    }
}

static void send_batch(struct batch *batch, struct buf *b)
{
    struct way *w = way_out();
    packet_begin(b, ++w->number);
    if (batch->spilled)
        packet_put(b, "*", STR_NONE);
    for (const struct said *s = batch->spilled ? NULL : batch->first; s != NULL; s = s->next) {
        if (b->n + packet_bytes(s) > BUS_PACKET_MAX) {
            send_packet(w, b);
            packet_begin(b, ++w->number);
        }
        packet_put(b, s->kind->name, s->text);
    }
    send_packet(w, b);
}

/* A packet without texts, where one was lost: what comes next may be long in coming. */
static void send_owed(struct buf *b)
{
    for (u32 i = 0; i < bus.way_count; i++)
        if (bus.ways[i].owed) {
            packet_begin(b, ++bus.ways[i].number);
            (void)send_by(&bus.ways[i], b);
        }
}

static bool anything_owed(void)
{
    bool owed = false;
    for (u32 i = 0; i < bus.way_count; i++)
        owed |= bus.ways[i].owed;
    return owed;
}

/* What is to be sent, when it may be; NULL: nothing, but something is owed, or (with *over) it is over. */
static struct batch *next_batch(i64 last_us, bool *over)
{
    struct batch *full = NULL;
    i64 owed_us = clock_mono_us() + OWED_MS * 1000LL;
    pthread_mutex_lock(&bus.lock);
    for (;;) {
        bool empty = batch_empty(bus.filling);
        i64 from_us = empty ? owed_us : last_us + BUS_EVERY_MS * 1000LL, now_us = clock_mono_us();
        if (bus.stopping || (now_us >= from_us && (!empty || anything_owed())))
            break;
        struct timespec until = clock_in(from_us - now_us);
        if (empty && !anything_owed())
            pthread_cond_wait(&bus.wake, &bus.lock);
        else
            pthread_cond_timedwait(&bus.wake, &bus.lock, &until);
    }
    *over = bus.stopping && batch_empty(bus.filling);
    if (!batch_empty(bus.filling)) {
        full = bus.filling;
        bus.filling = full == &bus.batches[0] ? &bus.batches[1] : &bus.batches[0];
    }
    pthread_mutex_unlock(&bus.lock);
    return full;
}

static void *run_sender(void *ctx)
{
    char bytes[BUS_PACKET_MAX];
    struct buf packet = { .p = bytes, .cap = sizeof bytes, .max = sizeof bytes }, *b = &packet;
    i64 last_us = 0;
    for (bool over = false; !over;) {
        struct batch *batch = next_batch(last_us, &over);
        if (batch != NULL)
            send_batch(batch, b);
        else if (!over)
            send_owed(b);
        last_us = clock_mono_us();
        if (batch != NULL)
            batch_clear(batch);
    }
    return NULL;
}

/* ---- hearing ---- */

static const struct bus_kind *kind_of(str name)
{
    for (const struct bus_kind *const *k = __start_weir_bus; k < __stop_weir_bus; k++)
        if (str_eq(str_of((*k)->name), name))
            return *k;
    return NULL;
}

static void look(void)
{
    for (const struct bus_kind *const *k = __start_weir_bus; k < __stop_weir_bus; k++)
        (*k)->heard(STR_NONE);
}

static struct way *way_of(const struct bus_transport *t)
{
    for (u32 i = 0; i < bus.way_count; i++)
        if (bus.ways[i].transport == t)
            return &bus.ways[i];
    return NULL;
}

void bus_missed(const struct bus_transport *from)
{
    struct way *w = way_of(from);
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->sender_count = 0; /* their next packet may have any number */
    pthread_mutex_unlock(&w->lock);
    count(&bus_gaps, from, NULL);
    look();
}

/* Whether it is the one after the last that was heard of its sender; the first one is. */
static bool follows(struct way *w, i64 incarnation, i64 number)
{
    struct sender *s = w->senders, *stalest = w->senders;
    bool good = true;
    pthread_mutex_lock(&w->lock);
    for (; s < w->senders + w->sender_count && s->incarnation != incarnation; s++)
        stalest = s->heard < stalest->heard ? s : stalest;
    if (s < w->senders + w->sender_count)
        good = number == s->number + 1;
    else if (w->sender_count < SENDERS_MAX)
        w->sender_count++;
    else
        s = stalest;
    *s = (struct sender){ .incarnation = incarnation, .number = number, .heard = ++w->news };
    pthread_mutex_unlock(&w->lock);
    return good;
}

/* "word rest" */
static bool take_number(str *rest, char end, i64 least, i64 *out)
{
    str word;
    return str_cut(rest, end, &word) && str_i64(word, least, INT64_MAX, out);
}

/* False: these are not our words. A kind that is not known belongs to another version of Weir. */
static bool take_text(str *rest)
{
    str name, text = STR_NONE;
    i64 n;
    if (!str_cut(rest, ' ', &name) || !take_number(rest, ' ', -1, &n) || MAX(n, (i64)0) >= (i64)rest->n)
        return false;
    if (n >= 0)
        text = (str){ rest->p, (size_t)n };
    if (rest->p[text.n] != '\n')
        return false;
    *rest = str_slice(*rest, text.n + 1, rest->n);
    const struct bus_kind *kind = kind_of(name);
    if (str_eq(name, S("*")))
        look();
    else if (kind != NULL)
        kind->heard(text);
    return true;
}

void bus_heard(const struct bus_transport *from, str packet)
{
    struct way *w = way_of(from);
    i64 incarnation, number;
    bool good = take_number(&packet, ' ', 1, &incarnation) && take_number(&packet, '\n', 1, &number);
    if (w == NULL || !good || incarnation == bus.self)
        return;
    count(&bus_heard_packets, from, NULL);
    if (!follows(w, incarnation, number)) {
        count(&bus_gaps, from, NULL);
        look();
    }
    while (good && packet.n > 0)
        good = take_text(&packet);
    if (!good)
        LOG(LOG_WARN, "bus.not_understood", LOG_STR("transport", str_of(from->name)));
}

bool bus_hears(void)
{
    bool all = true;
    if (!atomic_load(&bus.runs)) /* not yet, or there is nobody: the engine asks from its start on */
        return true;
    for (u32 i = 0; i < bus.way_count; i++)
        all &= bus.ways[i].transport->up();
    return all;
}

/* ---- the life ---- */

static err make_batches(void)
{
    for (size_t i = 0; i < COUNT(bus.batches); i++) {
        struct batch *b = &bus.batches[i];
        b->arena = arena_new(BUS_QUEUE_BYTES);
        if (b->arena == NULL)
            return ERR_MEMORY;
        b->empty = arena_mark(b->arena);
        batch_clear(b);
    }
    bus.filling = &bus.batches[0];
    return OK;
}

static void free_batches(void)
{
    bus.filling = NULL;
    for (size_t i = 0; i < COUNT(bus.batches); i++) {
        arena_free(bus.batches[i].arena);
        bus.batches[i].arena = NULL;
    }
}

static err start_sender(void)
{
    if (clock_cond_init(&bus.wake) != 0)
        return ERR_MEMORY;
    bus.stopping = false;
    int rc = pthread_create(&bus.thread, NULL, run_sender, NULL);
    if (rc != 0) {
        LOG(LOG_ERROR, "bus.thread", LOG_INT("error", rc));
        pthread_cond_destroy(&bus.wake);
        return ERR_INTERNAL;
    }
    pthread_setname_np(bus.thread, "weir-bus");
    return OK;
}

/* Hearing last: an answer to what is heard is said at once. */
err bus_start_with(const struct bus_transport *const *list)
{
    bus.way_count = 0;
    bus.self = node_incarnation();
    for (; *list != NULL; list++)
        if ((*list)->wanted()) {
            assert(bus.way_count < TRANSPORTS_MAX);
            bus.ways[bus.way_count++] = (struct way){ .transport = *list, .lock = PTHREAD_MUTEX_INITIALIZER };
        }
    if (bus.way_count == 0)
        return OK;
    err e = make_batches();
    if (e == OK)
        e = start_sender();
    if (e != OK) {
        free_batches();
        return e;
    }
    atomic_store(&bus.runs, true);
    for (u32 i = 0; i < bus.way_count && e == OK; i++)
        e = bus.ways[i].transport->start();
    return e;
}

err bus_start(void)
{
    return bus_start_with(bus_transports);
}

void bus_deafen(void)
{
    for (u32 i = 0; i < bus.way_count; i++)
        bus.ways[i].transport->stop();
}

void bus_stop(void)
{
    if (!atomic_load(&bus.runs))
        return;
    atomic_store(&bus.runs, false);
    pthread_mutex_lock(&bus.lock);
    bus.stopping = true;
    pthread_cond_signal(&bus.wake);
    pthread_mutex_unlock(&bus.lock);
    pthread_join(bus.thread, NULL);
    pthread_mutex_lock(&bus.lock); /* whoever still says something has seen that it runs */
    free_batches();
    pthread_mutex_unlock(&bus.lock);
    pthread_cond_destroy(&bus.wake);
    for (u32 i = 0; i < bus.way_count; i++)
        if (bus.ways[i].transport->close != NULL)
            bus.ways[i].transport->close();
    bus.way_count = 0;
}
