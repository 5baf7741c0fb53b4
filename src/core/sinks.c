/* sinks.c - a job for each durable sink, a queue in memory for the others.
 *
 * One task at a time empties the queue, so that a sink is told in order and never by two threads at once. When the pool has no room for it the queue stays as it
 * is until the next happening: a full pool means that there will be one. */
#include "core/sinks.h"

#include "base/log.h"
#include "codec/json.h"
#include "core/app.h"
#include "core/jobs.h"
#include "core/metrics.h"

#include <pthread.h>

enum { PARCEL_BYTES = SINK_DATA_MAX + 16 * 1024, TURN = 64 /* happenings, before others get the thread */ };

METRIC(dropped, "weir_sinks_dropped_total", METRIC_COUNTER,
       "Happenings that sinks which are not durable did not get because the queue was full");

/* Weak, so that a binary without any sink still links. */
extern const struct sink *const __start_weir_sinks[] __attribute__((weak));
extern const struct sink *const __stop_weir_sinks[] __attribute__((weak));

static size_t sink_count(void)
{
    return (size_t)(__stop_weir_sinks - __start_weir_sinks);
}

static bool wants(const struct sink *s, str name)
{
    return str_starts(name, str_of(s->events));
}

bool sinks_want(const char *name)
{
    for (size_t i = 0; i < sink_count(); i++)
        if (wants(__start_weir_sinks[i], str_of(name)))
            return true;
    return false;
}

/* ---- durable ---- */

static str payload_of(struct arena *a, const struct sink *s, const struct happening *h)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    const str words[][2] = { { S("sink"), str_of(s->name) },
                             { S("event"), str_of(h->name) },
                             { S("object_id"), h->object_id } };
    jw_begin(&w, '{');
    for (size_t i = 0; i < COUNT(words); i++) {
        jw_key(&w, words[i][0]);
        jw_str(&w, words[i][1]);
    }
    jw_key(&w, S("at_us"));
    jw_i64(&w, h->at_us);
    jw_key(&w, S("data"));
    jw_raw(&w, h->data);
    jw_end(&w, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

err sinks_record(struct tx *tx, const struct happening *h)
{
    for (size_t i = 0; i < sink_count(); i++) {
        const struct sink *s = __start_weir_sinks[i];
        if (!s->durable || !wants(s, str_of(h->name)))
            continue;
        str payload = payload_of(db_arena(tx), s, h);
        if (payload.p == NULL)
            return ERR_MEMORY;
        TRY(jobs_enqueue(tx, db_arena(tx), h->at_us, "sinks.deliver", h->tenant_id, payload, 0));
    }
    return OK;
}

static const struct sink *sink_of(str name)
{
    for (size_t i = 0; i < sink_count(); i++)
        if (str_eq(name, str_of(__start_weir_sinks[i]->name)))
            return __start_weir_sinks[i];
    return NULL;
}

static err deliver(const struct job *job)
{
    struct json *payload;
    TRY(json_parse(job->arena, job->payload, &payload, NULL));
    const struct json *at = json_get(payload, S("at_us")), *data = json_get(payload, S("data"));
    const struct sink *s = sink_of(json_str(json_get(payload, S("sink"))));
    const char *name = str_z(job->arena, json_str(json_get(payload, S("event"))));
    if (s == NULL || at == NULL || data == NULL) /* of a release that had such a sink */
        return ERR_NOT_FOUND;
    struct happening h = { .name = name,
                           .tenant_id = job->tenant_id,
                           .object_id = json_str(json_get(payload, S("object_id"))),
                           .data = json_text(job->arena, data),
                           .at_us = at->integer };
    return name != NULL && h.data.p != NULL ? s->take(&h, job->arena) : ERR_MEMORY;
}

/* ---- from memory ---- */

struct parcel { /* on its own arena */
    struct parcel *next;
    struct arena *arena;
    struct happening happening;
};

/* One queue per process, as there is one pool. */
static struct {
    pthread_mutex_t lock;
    struct parcel *first, *last;
    u32 n;
    bool emptying;
    struct task task;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct parcel *parcel_new(const struct happening *h)
{
    struct arena *a = arena_new(PARCEL_BYTES);
    struct parcel *p = a != NULL ? NEW(a, struct parcel) : NULL;
    if (p != NULL) {
        *p = (struct parcel){ .arena = a, .happening = *h };
        p->happening.tenant_id = str_dup(a, h->tenant_id);
        p->happening.object_id = str_dup(a, h->object_id);
        p->happening.data = str_dup(a, h->data);
        if (p->happening.tenant_id.p != NULL && p->happening.object_id.p != NULL && p->happening.data.p != NULL)
            return p;
    }
    arena_free(a);
    return NULL;
}

static struct parcel *take(void)
{
    pthread_mutex_lock(&queue.lock);
    struct parcel *p = queue.first;
    if (p != NULL) {
        queue.first = p->next;
        queue.n--;
    }
    pthread_mutex_unlock(&queue.lock);
    return p;
}

static void hand_over(struct parcel *p)
{
    for (size_t i = 0; i < sink_count(); i++) {
        const struct sink *s = __start_weir_sinks[i];
        err e = !s->durable && wants(s, str_of(p->happening.name)) ? s->take(&p->happening, p->arena) : OK;
        if (e != OK)
            LOG(LOG_WARN, "sinks.failed", LOG_STR("sink", str_of(s->name)), LOG_STR("cause", str_of(err_name(e))));
    }
    arena_free(p->arena);
}

static void begin(void);

static void empty(struct task *task)
{
    struct parcel *p;
    for (u32 i = 0; i < TURN && (p = take()) != NULL; i++)
        hand_over(p);
    pthread_mutex_lock(&queue.lock);
    queue.emptying = false;
    pthread_mutex_unlock(&queue.lock);
    begin();
}

static void begin(void)
{
    pthread_mutex_lock(&queue.lock);
    if (queue.first != NULL && !queue.emptying) {
        queue.task.run = empty;
        queue.emptying = pool_submit(app.slow, &queue.task) == OK;
    }
    pthread_mutex_unlock(&queue.lock);
}

static bool append(struct parcel *p)
{
    pthread_mutex_lock(&queue.lock);
    bool room = queue.n < SINK_QUEUE_MAX;
    if (room) {
        *(queue.first == NULL ? &queue.first : &queue.last->next) = p;
        queue.last = p;
        queue.n++;
    }
    pthread_mutex_unlock(&queue.lock);
    return room;
}

static bool wanted_in_memory(str name)
{
    for (size_t i = 0; i < sink_count(); i++)
        if (!__start_weir_sinks[i]->durable && wants(__start_weir_sinks[i], name))
            return true;
    return false;
}

void sinks_tell(const struct happening *h)
{
    if (!wanted_in_memory(str_of(h->name)))
        return;
    struct parcel *p = parcel_new(h);
    if (p == NULL || !append(p)) {
        if (p != NULL)
            arena_free(p->arena);
        metric_add(&dropped, "", 1);
    }
    begin();
}

static const struct job_kind jobs[] = {
    { .name = "sinks.deliver", .run = deliver, .max_attempts = 10, .doc = "Hands what happened to a durable sink" },
};

const struct module sinks_module = {
    .name = "sinks",
    .doc = "What happened, for whoever asked for it",
    .jobs = jobs,
    .job_count = COUNT(jobs),
};
