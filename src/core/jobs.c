/* jobs.c - a dispatcher thread claims due rows in batches and hands them to the slow pool; each outcome is a row again.
 *
 * A job may run more than once (a crash, a lost outcome, an overrun lease), so kinds must bear that. While nothing
 * is due the dispatcher only reads: an idle server does not write but what periodic kinds do. After jobs_enqueue it claims without looking
 * first - with SQLite the claim waits in the writer's queue behind the transaction that woke it; with PostgreSQL that transaction may not have committed
 * yet, so the dispatcher looks again, soon and then ever later.
 *
 * A row that runs names its owner, an incarnation of a node. Nobody else touches it while that one's lease lasts, however late it is; afterwards whoever notices first puts
 * it back. Other nodes are told of new work only when this one cannot take it. */
#include "core/jobs.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/bus.h"
#include "core/metrics.h"
#include "core/nodes.h"
#include "core/waiting.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

enum {
    CLAIM_MAX = 16,
    ATTEMPTS = 5,
    JOB_BYTES = 16 << 20,
    DISPATCHER_BYTES = 1 << 20,
    OUTCOME_TRIES = 5,
    PAYLOAD_BYTES = 256 << 10,
};
#define POLL_US    SECOND_US
#define SOON_US    (SECOND_US / 100) /* the first look again, where a row may not be committed yet */
#define TIMEOUT_US (5 * MINUTE_US)
#define BUSY_US    SECOND_US /* when the pool had no room */

METRIC(jobs_total, "weir_jobs_total", METRIC_COUNTER, "Jobs that ran, by kind and outcome (done, again, dead)");

/* --- rows -------------------------------------------------------------------------------------------------------- */

struct row {
    struct presence has;
    str id, kind, tenant_id, payload;
    i64 periodic, attempt;
};
static const struct field fields[] = {
    FIELD(struct row, id, F_STR, .doc = "Id"),
    FIELD(struct row, kind, F_STR, .doc = "Which job kind runs it"),
    FIELD(struct row, tenant_id, F_STR, .flags = F_NULLABLE, .doc = "For whom, when for one tenant"),
    FIELD(struct row, payload, F_JSON, .doc = "What the kind was given"),
    FIELD(struct row, periodic, F_I64, .doc = "1 for the one row of a periodic kind"),
    FIELD(struct row, attempt, F_I64, .doc = "How often it was claimed"),
};
static const struct table row_table = TABLE("Job", struct row, fields);

STMT(job_add,
     "INSERT INTO jobs (id, kind, tenant_id, payload, status, timeout_us, due_at, created_at, updated_at, once_key)"
     " VALUES ($1, $2, $3, $4, 'queued', $5, $6, $7, $7, $8)"
     " ON CONFLICT (kind, once_key) WHERE once_key IS NOT NULL AND status <> 'dead' DO NOTHING",
     .scope = SCOPE_SYSTEM);
STMT(job_seed,
     "INSERT INTO jobs (id, kind, payload, status, periodic, timeout_us, due_at, created_at, updated_at)"
     " VALUES ($1, $2, '{}', 'queued', 1, $3, $4, $4, $4)"
     " ON CONFLICT (kind) WHERE periodic = 1"
     " DO UPDATE SET timeout_us = excluded.timeout_us,"
     " attempt = CASE WHEN jobs.status = 'dead' THEN 0 ELSE jobs.attempt END,"
     " status = CASE WHEN jobs.status = 'dead' THEN 'queued' ELSE jobs.status END",
     .scope = SCOPE_SYSTEM);

/* With SQLite there is one process, under the folder's lock: what runs at its start ran in the one before. */
#define TAKE_OVER \
    "UPDATE jobs SET status = 'queued', owner = NULL, due_at = $1, updated_at = $1 WHERE status = 'running'"
STMT(jobs_take_over, TAKE_OVER, .postgres = TAKE_OVER " AND NOT " NODE_LIVES("owner"), .scope = SCOPE_SYSTEM,
     .scan_ok = true);

/* $2 is who asks. A row that runs is due when its time is up: for its owner, which renews it, and with PostgreSQL for whoever finds the owner dead. */
#define DUE         "status <> 'dead' AND due_at <= $1"
#define OURS        " AND (status = 'queued' OR owner = $2)"
#define OURS_SHARED " AND (status = 'queued' OR owner = $2 OR NOT " NODE_LIVES("owner") ")"
#define LOOK(ours)  "SELECT id FROM jobs WHERE " DUE ours " LIMIT 1"
STMT(job_due, LOOK(OURS), .postgres = LOOK(OURS_SHARED), .row = &row_table, .scope = SCOPE_SYSTEM);

#define CLAIM \
    "UPDATE jobs SET status = 'running', attempt = attempt + 1, owner = $2, due_at = $1 + timeout_us, updated_at = $1"
#define CLAIMED " RETURNING jobs.id, kind, tenant_id, payload, periodic, attempt"
STMT(jobs_claim, CLAIM " WHERE id IN (SELECT id FROM jobs WHERE " DUE OURS " ORDER BY due_at LIMIT $3)" CLAIMED,
     .postgres = "WITH due AS MATERIALIZED (SELECT id FROM jobs WHERE " DUE OURS_SHARED
                 " ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED) " CLAIM " FROM due WHERE jobs.id = due.id" CLAIMED,
     .row = &row_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(job_done, "DELETE FROM jobs WHERE id = $1 AND attempt = $2 AND owner = $3", .scope = SCOPE_SYSTEM);
STMT(job_back,
     "UPDATE jobs SET status = $4, attempt = $5, due_at = $6, last_error = $7, updated_at = $8, owner = NULL"
     " WHERE id = $1 AND attempt = $2 AND owner = $3",
     .scope = SCOPE_SYSTEM);

STMT(jobs_waiting, WAITING_SQL("jobs", "status <> 'dead' AND due_at <= $1"), .row = &waiting_table,
     .scope = SCOPE_SYSTEM);

static i64 read_depth(void)
{
    return waiting_count(&jobs_waiting);
}
static i64 read_oldest_us(void)
{
    return waiting_age_us(&jobs_waiting);
}
QUEUE_DEPTH(queue_depth, "jobs", read_depth);
QUEUE_OLDEST(queue_oldest, "jobs", read_oldest_us);

/* --- state ------------------------------------------------------------------------------------------------------- */

struct running { /* one claimed job on its way through the pool; on its own arena */
    struct task task;
    struct job job;
    const struct job_kind *kind;
    struct arena *arena;
    bool periodic;
    struct running *next;
    i64 attempt; /* as the row has it; the lock */
};

enum why {
    WHY_LOOK = 1,  /* something may be due */
    WHY_ADDED = 2, /* a row was added here: it is claimed without looking, and may not be committed yet */
    WHY_TOLD = 4,  /* likewise on another node. Not told on: two that are full would tell one another for ever */
    WHY_ENDED = 8, /* a node has ended: what it ran is to be put back */
};

/* One dispatcher per process, as there is one queue. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started;
    u32 why; /* enum why: what it was woken for */
    atomic_bool stopping;
    struct running *list;
    u32 running;
} jobs = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const struct job_kind *kind_of(str name)
{
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->job_count; i++)
            if (str_eq(str_of((*m)->jobs[i].name), name))
                return &(*m)->jobs[i];
    return NULL;
}

static i64 timeout_of(const struct job_kind *k)
{
    return k->timeout_us > 0 ? k->timeout_us : TIMEOUT_US;
}

static void wake(enum why why)
{
    pthread_mutex_lock(&jobs.lock);
    jobs.why |= why;
    if (jobs.started)
        pthread_cond_signal(&jobs.wake);
    pthread_mutex_unlock(&jobs.lock);
}

static void heard(str text)
{
    wake(WHY_TOLD);
}
BUS(new_work, "jobs", heard);

static void on_ended(void)
{
    wake(WHY_ENDED);
}
NODES_ENDED(orphans, on_ended);

/* `key` STR_NONE: as many as are asked for. */
static err enqueue(struct tx *tx, struct arena *a, const char *kind, str key, const struct job *job, i64 delay_us,
                   bool *added)
{
    const struct job_kind *k = kind_of(str_of(kind));
    if (k == NULL || job->payload.n > PAYLOAD_BYTES || key.n > JOB_KEY_MAX)
        return k == NULL ? ERR_INTERNAL : ERR_TOO_LARGE;
    i64 now_us = job->now_us, changed;
    str id = typeid_new(a, "job", now_us);
    if (id.p == NULL)
        return ERR_MEMORY;
    TRY(db_exec(tx, &job_add, &changed,
                ARGS(STR(id), STR(str_of(kind)), STR(job->tenant_id), STR(job->payload.n > 0 ? job->payload : S("{}")),
                     I64(timeout_of(k)), I64(now_us + delay_us), I64(now_us), STR(key))));
    if (delay_us <= 0 && changed == 1)
        wake(WHY_ADDED);
    if (delay_us <= 0 && changed == 1 && !node_works())
        bus_say(&new_work, S(""));
    *added = changed == 1;
    return OK;
}

err jobs_enqueue(struct tx *tx, struct arena *a, i64 now_us, const char *kind, str tenant_id, str payload, i64 delay_us)
{
    bool added;
    const struct job job = { .tenant_id = tenant_id, .payload = payload, .now_us = now_us };
    return enqueue(tx, a, kind, STR_NONE, &job, delay_us, &added);
}

err jobs_enqueue_once(struct tx *tx, struct arena *a, i64 now_us, const char *kind, str key, str tenant_id, str payload,
                      i64 delay_us, bool *added)
{
    const struct job job = { .tenant_id = tenant_id, .payload = payload, .now_us = now_us };
    return enqueue(tx, a, kind, key, &job, delay_us, added);
}

i64 jobs_backoff_us(i64 attempt, u64 random)
{
    i64 whole = HOUR_US;
    if (attempt < 13) /* 2^12 s is above an hour */
        whole = MIN(whole, SECOND_US << (MAX(attempt, (i64)1) - 1));
    return whole / 2 + (i64)(random % (u64)(whole / 2 + 1));
}

/* --- outcomes (slow pool) ---------------------------------------------------------------------------------------- */

struct outcome {
    str id;
    i64 claimed,
        now_us; /* claimed: the attempt that this outcome belongs to; another one, or another owner, means the row moved on */
    const char *status; /* NULL = it is done: delete */
    i64 attempt, due_us;
    str error;
};

static err write_outcome(void *ctx, struct tx *tx)
{
    const struct outcome *o = ctx;
    if (o->status == NULL)
        return db_exec(tx, &job_done, NULL, ARGS(STR(o->id), I64(o->claimed), I64(node_incarnation())));
    return db_exec(tx, &job_back, NULL,
                   ARGS(STR(o->id), I64(o->claimed), I64(node_incarnation()), STR(str_of(o->status)), I64(o->attempt),
                        I64(o->due_us), STR(o->error), I64(o->now_us)));
}

/* A fault of ours too: it may have been a disk that failed once, and kinds bear being run again. */
static bool may_succeed_later(err e)
{
    return err_retryable(e) || e == ERR_INTERNAL;
}

static struct outcome outcome_of(const struct running *r, err e, i64 attempt, i64 now_us)
{
    const struct job_kind *k = r->kind;
    struct outcome o = { .id = r->job.id, .claimed = attempt, .now_us = now_us, .attempt = attempt };
    u32 max = k != NULL && k->max_attempts > 0 ? k->max_attempts : ATTEMPTS;
    o.error = e == OK ? STR_NONE : str_of(k == NULL ? "no such kind" : err_text(e));
    if (e == OK && !r->periodic)
        return o;
    if (e != OK && k != NULL && may_succeed_later(e) && attempt < max) {
        o.status = "queued";
        o.due_us = now_us + jobs_backoff_us(attempt, rng_u64());
    } else if (r->periodic && k != NULL) { /* it never dies: its next turn is its next chance */
        o.status = "queued";
        o.attempt = 0;
        o.due_us = now_us + k->every_us;
    } else {
        o.status = "dead";
        o.due_us = now_us;
    }
    return o;
}

/* Tried a few times; then the end of the lease brings the job back. */
static void save(struct arena *a, struct outcome *o)
{
    err e = ERR_BUSY;
    for (int i = 0; i < OUTCOME_TRIES && e != OK; i++) {
        if (i > 0)
            nanosleep(&(struct timespec){ .tv_nsec = 100 * 1000 * 1000 }, NULL);
        e = db_write_loose(app.db, a, write_outcome, o);
    }
    if (e != OK)
        LOG(LOG_ERROR, "jobs.outcome_lost", LOG_STR("job", o->id), LOG_STR("cause", str_of(err_name(e))));
}

static void count(const struct running *r, err e, const struct outcome *o)
{
    char labels[160];
    const char *word = e == OK ? "done" : o->status[0] == 'd' ? "dead" : "again";
    snprintf(labels, sizeof labels, "kind=\"%s\",outcome=\"%s\"", r->kind != NULL ? r->kind->name : "unknown", word);
    metric_add(&jobs_total, labels, 1);
    if (e != OK)
        LOG(LOG_WARN, "jobs.failed", LOG_STR("job", r->job.id), LOG_STR("kind", r->job.kind),
            LOG_INT("attempt", o->claimed), LOG_STR("outcome", str_of(word)), LOG_STR("cause", o->error));
}

static void forget(struct running *r)
{
    pthread_mutex_lock(&jobs.lock);
    struct running **link = &jobs.list;
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    jobs.running--;
    pthread_mutex_unlock(&jobs.lock);
    arena_free(r->arena);
    wake(WHY_LOOK); /* there is room for another */
}

static i64 attempt_of(const struct running *r)
{
    pthread_mutex_lock(&jobs.lock);
    i64 attempt = r->attempt;
    pthread_mutex_unlock(&jobs.lock);
    return attempt;
}

/* Claimed but not begun: as if it had not been claimed. */
static void give_back(struct running *r, i64 delay_us)
{
    i64 attempt = attempt_of(r), now_us = clock_now_us();
    struct outcome o = { .id = r->job.id,
                         .claimed = attempt,
                         .now_us = now_us,
                         .status = "queued",
                         .attempt = attempt - 1,
                         .due_us = now_us + delay_us };
    save(r->arena, &o);
    forget(r);
}

static void run(struct task *t)
{
    struct running *r = CONTAINER(t, struct running, task);
    if (atomic_load(&jobs.stopping)) {
        give_back(r, 0);
        return;
    }
    r->job.now_us = clock_now_us();
    err e = r->kind == NULL ? ERR_NOT_FOUND : r->kind->run(&r->job);
    struct outcome o = outcome_of(r, e, attempt_of(r), clock_now_us());
    save(r->arena, &o);
    count(r, e, &o);
    forget(r);
}

/* --- the dispatcher ---------------------------------------------------------------------------------------------- */

struct claim {
    i64 now_us;
    u32 max, n;
    struct row *rows;
};

static err claim_rows(void *ctx, struct tx *tx)
{
    struct claim *c = ctx;
    void *rows;
    u32 n;
    TRY(db_list(tx, &jobs_claim, c->max, &rows, &n, ARGS(I64(c->now_us), I64(node_incarnation()), I64(c->max))));
    c->rows = rows;
    c->n = n;
    return OK;
}

/* A job that outlasts its lease is claimed again while it still runs here: that renews the lease, nothing more. */
static bool runs_already(const struct row *row)
{
    pthread_mutex_lock(&jobs.lock);
    struct running *r = jobs.list;
    while (r != NULL && !str_eq(r->job.id, row->id))
        r = r->next;
    if (r != NULL)
        r->attempt = row->attempt;
    pthread_mutex_unlock(&jobs.lock);
    if (r != NULL)
        LOG(LOG_WARN, "jobs.overdue", LOG_STR("job", row->id), LOG_STR("kind", row->kind));
    return r != NULL;
}

static struct running *running_new(const struct row *row)
{
    struct arena *a = arena_new(JOB_BYTES);
    struct running *r = a == NULL ? NULL : NEW(a, struct running);
    if (r == NULL) {
        arena_free(a);
        return NULL;
    }
    *r = (struct running){
        .task.run = run, .kind = kind_of(row->kind), .arena = a, .periodic = row->periodic == 1, .attempt = row->attempt
    };
    r->job = (struct job){ .id = str_dup(a, row->id),
                           .kind = str_dup(a, row->kind),
                           .payload = str_dup(a, row->payload),
                           .attempt = row->attempt,
                           .arena = a };
    if (row->tenant_id.p != NULL)
        r->job.tenant_id = str_dup(a, row->tenant_id);
    if (r->job.id.p != NULL && r->job.kind.p != NULL && r->job.payload.p != NULL &&
        (row->tenant_id.p == NULL || r->job.tenant_id.p != NULL))
        return r;
    arena_free(a);
    return NULL;
}

static void begin(const struct row *row)
{
    if (runs_already(row))
        return;
    struct running *r = running_new(row);
    if (r == NULL) { /* the end of its lease brings it back */
        LOG(LOG_ERROR, "jobs.not_begun", LOG_STR("job", row->id), LOG_STR("cause", S("out of memory")));
        return;
    }
    pthread_mutex_lock(&jobs.lock);
    r->next = jobs.list;
    jobs.list = r;
    jobs.running++;
    pthread_mutex_unlock(&jobs.lock);
    if (pool_submit(app.slow, &r->task) != OK)
        give_back(r, BUSY_US);
}

static bool something_due(struct arena *a, i64 now_us)
{
    struct tx *tx;
    if (db_read_begin(app.db, a, false, &tx) != OK)
        return false;
    err e = db_row(tx, &job_due, NULL, ARGS(I64(now_us), I64(node_incarnation())));
    db_read_end(tx);
    return e == OK;
}

/* Jobs take at most half of the pool: the other half is for requests that someone waits for. */
static u32 room(void)
{
    u32 most = MIN((u32)CLAIM_MAX, (u32)MAX(app.config.slow_threads / 2, (i64)1));
    pthread_mutex_lock(&jobs.lock);
    u32 n = most - MIN(most, jobs.running);
    pthread_mutex_unlock(&jobs.lock);
    return n;
}

/* True when there may be more at once. */
static bool dispatch(struct arena *a, bool sure)
{
    struct claim c = { .now_us = clock_now_us(), .max = room() };
    if (!node_lease_held(clock_mono_us())) /* what we claimed now would be another's any moment */
        return false;
    if (c.max == 0 && sure)
        bus_say(&new_work, S(""));
    if (c.max == 0 || (!sure && !something_due(a, c.now_us)))
        return false;
    if (db_write_loose(app.db, a, claim_rows, &c) != OK)
        return false;
    for (u32 i = 0; i < c.n; i++)
        begin(&c.rows[i]);
    return c.n == c.max;
}

static err take_over_in(void *ctx, struct tx *tx)
{
    return db_exec(tx, &jobs_take_over, NULL, ARGS(I64(clock_now_us())));
}

/* Not with SQLite: nobody else ends there, and it would put back what we run. False: it is to be tried again. */
static bool take_over(struct arena *a)
{
    return node_may_take_over(clock_mono_us()) && db_write_loose(app.db, a, take_over_in, NULL) == OK;
}

/* Until somebody wakes it, or the next look. */
static u32 wait_for_work(i64 wait_us)
{
    struct timespec until = clock_in(wait_us);
    pthread_mutex_lock(&jobs.lock);
    int rc = 0;
    while (jobs.why == 0 && !atomic_load(&jobs.stopping) && rc == 0)
        rc = pthread_cond_timedwait(&jobs.wake, &jobs.lock, &until);
    u32 why = jobs.why;
    jobs.why = 0;
    pthread_mutex_unlock(&jobs.lock);
    return why;
}

static void *dispatcher(void *arg)
{
    struct arena *a = arg;
    struct arena_mark mark = arena_mark(a);
    pthread_setname_np(pthread_self(), "weir-jobs");
    bool go_on = false, ended = false;
    i64 wait_us = POLL_US;
    while (!atomic_load(&jobs.stopping)) {
        u32 why = go_on ? WHY_ADDED : wait_for_work(wait_us);
        if (atomic_load(&jobs.stopping))
            break;
        wait_us = why >= WHY_ADDED && nodes_possible() ? SOON_US : MIN(wait_us * 2, POLL_US);
        ended = (ended || (why & WHY_ENDED)) && !take_over(a);
        go_on = dispatch(a, (why & WHY_ADDED) != 0);
        arena_rewind(a, mark);
    }
    db_thread_end(app.db);
    arena_free(a);
    return NULL;
}

/* --- start and stop ---------------------------------------------------------------------------------------------- */

static err seed(void *ctx, struct tx *tx)
{
    struct arena *a = db_arena(tx);
    i64 now_us = *(const i64 *)ctx;
    TRY(db_exec(tx, &jobs_take_over, NULL, ARGS(I64(now_us))));
    for (const struct module *const *m = modules; *m != NULL; m++) {
        for (u32 i = 0; i < (*m)->job_count; i++) {
            const struct job_kind *k = &(*m)->jobs[i];
            if (k->every_us <= 0 || (k->wanted != NULL && !k->wanted()))
                continue;
            str id = typeid_new(a, "job", now_us);
            if (id.p == NULL)
                return ERR_MEMORY;
            TRY(db_exec(tx, &job_seed, NULL, ARGS(STR(id), STR(str_of(k->name)), I64(timeout_of(k)), I64(now_us))));
        }
    }
    return OK;
}

static err start_thread(struct arena *a)
{
    int rc = clock_cond_init(&jobs.wake);
    if (rc != 0)
        return ERR_MEMORY;
    atomic_store(&jobs.stopping, false);
    pthread_mutex_lock(&jobs.lock);
    rc = pthread_create(&jobs.thread, NULL, dispatcher, a);
    jobs.started = rc == 0;
    pthread_mutex_unlock(&jobs.lock);
    if (rc == 0)
        return OK;
    pthread_cond_destroy(&jobs.wake);
    return ERR_INTERNAL;
}

err jobs_start(void)
{
    if (!node_works())
        return OK;
    struct arena *a = arena_new(DISPATCHER_BYTES + CLAIM_MAX * PAYLOAD_BYTES);
    if (a == NULL)
        return ERR_MEMORY;
    i64 now_us = clock_now_us();
    err e = db_write_wait(app.db, a, seed, &now_us);
    if (e == OK)
        e = start_thread(a);
    if (e != OK)
        arena_free(a);
    return e;
}

void jobs_stop(void)
{
    if (!jobs.started)
        return;
    atomic_store(&jobs.stopping, true);
    wake(WHY_LOOK);
    pthread_join(jobs.thread, NULL);
    pthread_mutex_lock(&jobs.lock);
    jobs.started = false;
    pthread_mutex_unlock(&jobs.lock);
    pthread_cond_destroy(&jobs.wake);
}
