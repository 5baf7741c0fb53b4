/* triggers_log.c - the log of deliveries: a ring in memory, and one background write that empties it.
 *
 * A call must not wait for its log entry, and a row per call must not cost a commit per call. So entries gather for 100 ms or until 256 are there. What a
 * crash takes are log lines of a tenth of a second; the executions themselves are on disk before anybody is answered. */
#include "feat/triggers/triggers_parts.h"

#include "base/clock.h"
#include "base/log.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/jobs.h"
#include "core/list.h"
#include "core/metrics.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

enum { RING = 4096, BATCH = 256, ID_BYTES = 64, REMOTE_BYTES = 48, WRITE_ARENA = 256 * 1024, CLEAN_SLICE = 1000 };
#define GATHER_US (100 * (SECOND_US / 1000))
#define SETTLE_US SECOND_US
#define KEEP_US   (30 * DAY_US)

METRIC(dropped, "weir_triggers_deliveries_dropped_total", METRIC_COUNTER,
       "Deliveries that were not logged because the buffer was full");

/* ---- rows ---- */

struct delivery_row {
    struct presence has;
    str id;
    i64 status_code;
    str code, execution_id, method, remote;
    i64 body_bytes;
    double duration_ms;
    i64 created_at;
};
static const struct field fields[] = {
    FIELD(struct delivery_row, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "delivery",
          .doc = "Id of the delivery"),
    FIELD(struct delivery_row, status_code, F_I64, .flags = F_OUTPUT, .doc = "Status that the caller got"),
    FIELD(struct delivery_row, code, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Problem code of a refused call"),
    FIELD(struct delivery_row, execution_id, F_STR, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "The execution that it started or joined"),
    FIELD(struct delivery_row, method, F_STR, .flags = F_OUTPUT, .doc = "Method of the call"),
    FIELD(struct delivery_row, remote, F_STR, .flags = F_OUTPUT, .doc = "Address of the caller"),
    FIELD(struct delivery_row, body_bytes, F_I64, .flags = F_OUTPUT, .doc = "Size of the body"),
    FIELD(struct delivery_row, duration_ms, F_F64, .flags = F_OUTPUT, .doc = "From its first byte to the answer"),
    FIELD(struct delivery_row, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was answered"),
};
const struct table delivery_table =
    TABLE("TriggerDelivery", struct delivery_row, fields, .doc = "One call of a webhook");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
const struct table delivery_query_table =
    TABLE("TriggerDeliveryQuery", struct list_query, query_fields, .doc = "Paging of deliveries");

struct count_row {
    struct presence has;
    i64 n;
};
static const struct field count_fields[] = { FIELD(struct count_row, n, F_I64, .doc = "How many") };
static const struct table count_table =
    TABLE("DeliveryCount", struct count_row, count_fields, .doc = "A number of rows");

/* ---- statements ---- */

STMT(
    delivery_insert,
    "INSERT INTO trigger_deliveries (id, tenant_id, trigger_id, status_code, code, execution_id, method, remote, body_bytes, "
    "duration_us, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
STMT(delivery_trigger, "SELECT 1 FROM triggers WHERE tenant_id = $1 AND workflow_id = $2 AND id = $3");
STMT(
    delivery_page,
    "SELECT id, status_code, code, execution_id, method, remote, body_bytes, duration_us / 1000.0 AS duration_ms, created_at "
    "FROM trigger_deliveries WHERE tenant_id = $1 AND trigger_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4 OFFSET $5",
    .row = &delivery_table);
STMT(delivery_count, "SELECT count(*) AS n FROM trigger_deliveries WHERE tenant_id = $1 AND trigger_id = $2",
     .row = &count_table);
STMT(
    delivery_clean,
    "DELETE FROM trigger_deliveries WHERE id IN (SELECT id FROM trigger_deliveries WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
    .scope = SCOPE_SYSTEM, .scan_ok = true);

/* ---- the ring ---- */

struct entry {
    char tenant_id[ID_BYTES], trigger_id[ID_BYTES], execution_id[ID_BYTES], remote[REMOTE_BYTES];
    const char *code, *method;
    i64 status, body_bytes, duration_us, now_us;
};

/* Process-wide, because every loop logs into it. `phase` says who moves next: nobody, the timer, or the writer. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t written;
    struct entry *ring;
    u64 first, end; /* running numbers; entry n is ring[n % RING] */
    u32 batch;      /* entries that the writer has: they do not change */
    enum { IDLE, GATHERING, WRITING } phase;
    bool stopping;
    bool armed;          /* the message or the timer is under way: there is one of each */
    struct arena *arena; /* of a batch's rows */
    struct arena_mark empty;
    struct loop_timer timer;
    struct message message;
    struct db_job job;
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .written = PTHREAD_COND_INITIALIZER };

static void put(char *out, size_t room, str s)
{
    size_t n = MIN(s.n, room - 1);
    if (n > 0)
        memcpy(out, s.p, n);
    out[n] = 0;
}

static str text_or_null(const char *z)
{
    return z != NULL && z[0] != 0 ? str_of(z) : STR_NONE;
}

static err insert(struct tx *tx, struct arena *a, const struct entry *e)
{
    str id = typeid_new(a, "delivery", e->now_us);
    if (id.p == NULL)
        return ERR_MEMORY;
    return db_exec(tx, &delivery_insert, NULL,
                   ARGS(STR(id), STR(str_of(e->tenant_id)), STR(str_of(e->trigger_id)), I64(e->status),
                        STR(text_or_null(e->code)), STR(text_or_null(e->execution_id)), STR(str_of(e->method)),
                        STR(str_of(e->remote)), I64(e->body_bytes), I64(e->duration_us), I64(e->now_us)));
}

static err write_batch(struct db_job *job, struct tx *tx)
{
    for (u32 i = 0; i < state.batch; i++)
        TRY(insert(tx, job->arena, &state.ring[(state.first + i) % RING]));
    return OK;
}

static void gather(struct message *m);

/* Locked. A busy store is tried again; what it refuses for good is dropped, so that one bad row cannot stop the log. */
static void settle(err outcome)
{
    bool again = outcome != OK && err_retryable(outcome);
    if (!again) {
        state.first += state.batch;
        if (outcome != OK)
            metric_add(&dropped, "", state.batch);
    }
    state.batch = 0;
    state.phase = IDLE;
}

/* Locked. */
static void start_gathering(void)
{
    state.phase = GATHERING;
    if (state.armed)
        return;
    state.armed = true;
    state.message.run = gather;
    loop_post(app.loops[0], &state.message);
}

/* On the writer, after the commit. */
static void wrote(struct db_job *job, err outcome)
{
    pthread_mutex_lock(&state.lock);
    settle(outcome);
    if (outcome != OK)
        LOG(LOG_WARN, "triggers.deliveries", LOG_STR("cause", str_of(err_name(outcome))));
    if (state.first != state.end && !state.stopping)
        start_gathering();
    pthread_cond_broadcast(&state.written);
    pthread_mutex_unlock(&state.lock);
}

/* Locked. */
static void start_writing(void)
{
    arena_rewind(state.arena, state.empty);
    state.phase = WRITING;
    state.batch = (u32)MIN(state.end - state.first, (u64)BATCH);
    state.job = (struct db_job){ .run = write_batch, .done = wrote, .arena = state.arena, .background = true };
    err e = db_submit(app.db, &state.job);
    if (e == OK)
        return;
    settle(e);
    start_gathering();
}

static void gathered(struct loop_timer *t)
{
    pthread_mutex_lock(&state.lock);
    state.armed = false;
    if (state.phase == GATHERING && !state.stopping)
        start_writing();
    pthread_mutex_unlock(&state.lock);
}

/* On the first loop: timers belong to one. A full batch does not wait. */
static void gather(struct message *m)
{
    pthread_mutex_lock(&state.lock);
    bool full = state.end - state.first >= BATCH;
    pthread_mutex_unlock(&state.lock);
    if (full || loop_timer_start(app.loops[0], &state.timer, GATHER_US, gathered) != OK)
        gathered(&state.timer);
}

static void fill(struct entry *e, const struct delivery *d)
{
    put(e->tenant_id, sizeof e->tenant_id, d->tenant_id);
    put(e->trigger_id, sizeof e->trigger_id, d->trigger_id);
    put(e->execution_id, sizeof e->execution_id, d->execution_id);
    put(e->remote, sizeof e->remote, d->remote);
    e->code = d->code;
    e->method = d->method;
    e->status = d->status;
    e->body_bytes = d->body_bytes;
    e->duration_us = d->duration_us;
    e->now_us = d->now_us;
}

void delivery_log(const struct delivery *d)
{
    pthread_mutex_lock(&state.lock);
    bool room = state.ring != NULL && state.end - state.first < RING;
    if (room) {
        fill(&state.ring[state.end % RING], d);
        state.end++;
        if (state.phase == IDLE && !state.stopping)
            start_gathering();
        else if (state.phase == GATHERING && state.end - state.first == BATCH && !state.stopping)
            start_writing();
    }
    pthread_mutex_unlock(&state.lock);
    if (!room)
        metric_add(&dropped, "", 1);
}

/* Waits until everything logged so far is on disk, so that whoever calls and then looks sees the call. In the slow pool only. */
static void deliveries_settle(void)
{
    i64 until_us = clock_now_us() + SETTLE_US;
    const struct timespec until = { .tv_sec = until_us / SECOND_US, .tv_nsec = until_us % SECOND_US * 1000 };
    int late = 0;
    pthread_mutex_lock(&state.lock);
    for (u64 end = state.end; state.first < end && late == 0 && !state.stopping;) {
        if (state.phase == GATHERING)
            start_writing();
        late = pthread_cond_timedwait(&state.written, &state.lock, &until);
    }
    pthread_mutex_unlock(&state.lock);
}

/* ---- life ---- */

err deliveries_start(void)
{
    state.stopping = state.armed = false;
    state.ring = NEW_N(app.arena, struct entry, RING);
    state.arena = arena_new(WRITE_ARENA);
    if (state.ring == NULL || state.arena == NULL)
        return ERR_MEMORY;
    state.empty = arena_mark(state.arena);
    return OK;
}

static err write_rest(void *ctx, struct tx *tx)
{
    struct db_job job = { .arena = state.arena };
    return write_batch(&job, tx);
}

/* The loops still run and may log: what comes while a batch is written is in the next one. */
void deliveries_stop(void)
{
    pthread_mutex_lock(&state.lock);
    state.stopping = true;
    while (state.phase == WRITING)
        pthread_cond_wait(&state.written, &state.lock);
    while (state.first != state.end) {
        state.batch = (u32)MIN(state.end - state.first, (u64)BATCH);
        pthread_mutex_unlock(&state.lock);
        arena_rewind(state.arena, state.empty);
        err e = db_write_wait(app.db, state.arena, write_rest, NULL);
        pthread_mutex_lock(&state.lock);
        settle(e == OK ? OK : ERR_INTERNAL);
    }
    arena_free(state.arena);
    state.arena = NULL;
    state.ring = NULL;
    pthread_mutex_unlock(&state.lock);
}

/* ---- reading and cleaning ---- */

err trigger_deliveries(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    str id = req_param(rq, "id");
    struct count_row count = { .n = -1 };
    void *rows = NULL;
    u32 n = 0;
    deliveries_settle(); /* before the snapshot, which begins with the first statement */
    err e = db_row(rq->tx, &delivery_trigger, NULL, ARGS(TENANT(rq), STR(req_param(rq, "workflow_id")), STR(id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &trigger_not_found, "There is no trigger %.*s of this workflow", STR_FMT(id));
    TRY(e);
    TRY(db_list(rq->tx, &delivery_page, (u32)page->limit + 1, &rows, &n,
                ARGS(TENANT(rq), STR(id), list_before(page), list_limit(page), I64(page->skip))));
    if (page->count)
        TRY(db_row(rq->tx, &delivery_count, &count, ARGS(TENANT(rq), STR(id))));
    return reply_list(rq, &delivery_table, rows, n, page, offsetof(struct delivery_row, id), count.n, 0);
}

struct clean {
    i64 before, changed;
};

static err clean_slice(void *ctx, struct tx *tx)
{
    struct clean *c = ctx;
    return db_exec(tx, &delivery_clean, &c->changed, ARGS(I64(c->before), I64(CLEAN_SLICE)));
}

/* In slices, so that the writer is never held for long. */
err triggers_clean(const struct job *job)
{
    struct clean c = { .before = job->now_us - KEEP_US };
    do
        TRY(db_write_wait(app.db, job->arena, clean_slice, &c));
    while (c.changed == CLEAN_SLICE);
    return OK;
}
