/* db.c - what both databases have in common: the statements of the binary, the queue of jobs, holding a transaction to its tenant.
 *
 * Every function of db.h that a driver answers is forwarded here and nowhere else, so what must hold for both (a thread that waits is never
 * the writer, a statement names the tenant that the transaction is for) is asked in one place. */
#include "base/clock.h"
#include "base/log.h"
#include "db/db_internal.h"

#include <string.h>

enum { DB_ARENA_MAX = 4 << 20, FIRST_ROWS = 16 };

static _Atomic(db_observer *) observer; /* one for the process, as the metrics are */
static _Thread_local bool on_writer;    /* asked by code that must not run here */

void db_observe_by(db_observer *fn)
{
    atomic_store(&observer, fn);
}

void stmt_took(const struct stmt *s, i64 took_us)
{
    db_observer *observe = atomic_load_explicit(&observer, memory_order_relaxed);
    if (observe != NULL)
        observe(s, took_us);
}

bool db_on_writer(void)
{
    return on_writer;
}

void db_this_is_writer(void)
{
    on_writer = true;
}

/* ---- statements of the binary ---- */

/* Weak: a program without statements has no such section. */
extern const struct stmt *const __start_weir_statements[] __attribute__((weak, visibility("hidden")));
extern const struct stmt *const __stop_weir_statements[] __attribute__((weak, visibility("hidden")));

const struct stmt *const *db_statements(size_t *count)
{
    *count = (size_t)(__stop_weir_statements - __start_weir_statements);
    return __start_weir_statements;
}

size_t stmt_slot(const struct stmt *s)
{
    return (size_t)(s->slot - __start_weir_statements);
}

u32 parameter_number(const char *name)
{
    i64 n = 0;
    if (name == NULL || name[0] != '$' || !str_i64(str_of(name + 1), 1, PARAMETERS_MAX, &n))
        return 0;
    return (u32)n;
}

err db_misused(const char *statement, const char *what)
{
    LOG(LOG_ERROR, "db.misused", LOG_STR("statement", str_of(statement)), LOG_STR("cause", str_of(what)));
    return ERR_INTERNAL;
}

/* ---- opening ---- */

static err find_tenants(struct db *db)
{
    size_t count;
    const struct stmt *const *list = db_statements(&count);
    assert(count <= STATEMENTS_MAX);
    db->tenant_at = arena_alloc(db->arena, count + 1);
    if (db->tenant_at == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        db->tenant_at[i] = list[i]->scope == SCOPE_TENANT ? (u8)tenant_parameter(str_of(list[i]->sql)) : 0;
    return OK;
}

err db_base(const struct db_options *options, const struct driver *driver, size_t size, struct db **out)
{
    struct arena *a = arena_new(DB_ARENA_MAX);
    struct db *db = a != NULL ? arena_alloc(a, size) : NULL;
    if (db == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    db->driver = driver;
    db->arena = a;
    db->options = *options;
    struct db_options *o = &db->options;
    o->folder = str_dup(a, options->folder);
    o->url = str_dup(a, options->url);
    o->batch_max = o->batch_max != 0 ? o->batch_max : BATCH_MAX;
    o->queue_max = o->queue_max != 0 ? o->queue_max : QUEUE_MAX;
    db->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    clock_cond_init(&db->work);
    clock_cond_init(&db->shared_work);
    queue_init(&db->interactive);
    queue_init(&db->background);
    queue_init(&db->shared);
    err e = find_tenants(db);
    if (e != OK) {
        arena_free(a);
        return e;
    }
    *out = db;
    return OK;
}

err db_open(const struct db_options *options, struct db **out)
{
    return options->url.n > 0 ? postgres_open(options, out) : sqlite_open(options, out);
}

void db_close(struct db *db)
{
    if (db != NULL)
        db->driver->close(db);
}

void db_thread_begin(struct db *db)
{
    if (db->driver->thread_begin != NULL)
        db->driver->thread_begin(db);
}

void db_thread_end(struct db *db)
{
    db->driver->thread_end(db);
}

bool db_reads_block(const struct db *db)
{
    return db->driver == &postgres_driver;
}

u32 db_pool_size(const struct db *db)
{
    return db_reads_block(db) ? db->options.pool_size : 0;
}

/* ---- statements ---- */

void db_act_for(struct tx *tx, str tenant_id)
{
    tx->tenant = tenant_id;
}

static err held(const struct tx *tx, const struct stmt *s, struct args args)
{
    u32 at = tx->tenant.p != NULL ? tx->db->tenant_at[stmt_slot(s)] : 0;
    if (at == 0 || (at <= args.n && str_eq(args.list[at - 1].text, tx->tenant)))
        return OK;
    return db_misused(s->name, "it names another tenant than its transaction is for");
}

err db_row(struct tx *tx, const struct stmt *s, void *row, struct args args)
{
    if (row != NULL && s->row == NULL)
        return db_misused(s->name, "a row is wanted, but it has no row table");
    TRY(held(tx, s, args));
    return tx->db->driver->row(tx, s, row, args);
}

err db_list(struct tx *tx, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args)
{
    if (s->row == NULL)
        return db_misused(s->name, "rows are wanted, but it has no row table");
    TRY(held(tx, s, args));
    return tx->db->driver->list(tx, s, max, rows, n, args);
}

err db_ask(struct tx *tx, const struct stmt *s, u32 max, struct ahead *out, struct args args)
{
    if (s->row == NULL)
        return db_misused(s->name, "rows are wanted, but it has no row table");
    TRY(held(tx, s, args));
    *out = (struct ahead){ .stmt = s, .max = max };
    if (tx->db->driver->ask != NULL)
        return tx->db->driver->ask(tx, out, args);
    out->answered = true;
    return tx->db->driver->list(tx, s, max, &out->rows, &out->n, args);
}

err db_answer_list(struct tx *tx, struct ahead *ahead, void **rows, u32 *n)
{
    if (!ahead->answered)
        TRY(tx->db->driver->answer(tx, ahead));
    *rows = ahead->rows;
    *n = ahead->n;
    return OK;
}

err db_answer_row(struct tx *tx, struct ahead *ahead, void *row)
{
    void *rows;
    u32 n;
    TRY(db_answer_list(tx, ahead, &rows, &n));
    if (n == 0)
        return ERR_NOT_FOUND;
    memcpy(row, rows, ahead->stmt->row->size);
    return OK;
}

err db_exec(struct tx *tx, const struct stmt *s, i64 *changed, struct args args)
{
    TRY(held(tx, s, args));
    return tx->db->driver->exec(tx, s, changed, args);
}

err db_try(struct tx *tx, const struct stmt *s, struct args args)
{
    i64 changed;
    return db_exec(tx, s, &changed, args);
}

err db_send(struct tx *tx, const struct stmt *s, err unless_one, struct args args)
{
    TRY(held(tx, s, args));
    return tx->db->driver->send(tx, s, unless_one, args);
}

struct arena *db_arena(const struct tx *tx)
{
    return tx->arena;
}

err rows_room(struct arena *a, struct rows *rows, size_t size)
{
    if (rows->n < rows->room)
        return OK;
    u32 room = MIN(rows->max, MAX(rows->room * 2, (u32)FIRST_ROWS));
    size_t bytes;
    if (__builtin_mul_overflow((size_t)room, size, &bytes))
        return ERR_MEMORY;
    void *p = arena_grow(a, rows->p, rows->room * size, bytes);
    if (p == NULL)
        return ERR_MEMORY;
    rows->p = p;
    rows->room = room;
    return OK;
}

/* ---- reading ---- */

err db_read_begin(struct db *db, struct arena *a, bool fast, struct tx **out)
{
    return db->driver->read_begin(db, a, fast, out);
}

void db_read_end(struct tx *tx)
{
    tx->db->driver->read_end(tx);
}

bool db_read_was_slow(const struct tx *tx)
{
    return tx->db->driver->read_was_slow(tx);
}

void db_read_repeats(struct tx *tx)
{
    tx->db->driver->read_repeats(tx);
}

void db_read_once(struct tx *tx)
{
    if (tx->db->driver->read_once != NULL)
        tx->db->driver->read_once(tx);
}

bool db_read_leave(struct tx *tx)
{
    return tx->db->driver->read_leave(tx);
}

void db_read_rest(struct db *db)
{
    if (db->driver->read_rest != NULL)
        db->driver->read_rest(db);
}

static err run_count_grown(void *ctx, struct tx *tx)
{
    return tx->db->driver->count_grown(tx);
}

err db_count_grown(struct db *db, struct arena *a)
{
    return db->driver->count_grown != NULL ? db_write_loose(db, a, run_count_grown, NULL) : OK;
}

err db_ping(struct db *db, i64 *latency_us)
{
    return db->driver->ping(db, latency_us);
}

err db_check(struct db *db, struct buf *complaint)
{
    return db->driver->check(db, complaint);
}

/* ---- jobs ---- */

void queue_init(struct queue *q)
{
    *q = (struct queue){ .tail = &q->first };
}

void queue_put(struct queue *q, struct db_job *job)
{
    job->next = NULL;
    *q->tail = job;
    q->tail = &job->next;
    q->n++;
}

struct db_job *queue_take(struct queue *q)
{
    struct db_job *job = q->first;
    if (job == NULL)
        return NULL;
    q->first = job->next;
    if (q->first == NULL)
        q->tail = &q->first;
    q->n--;
    return job;
}

bool queue_overdue(const struct queue *background, i64 last_us)
{
    if (background->n == 0)
        return false;
    i64 since_us = MAX(last_us, background->first->queued_us);
    return clock_mono_us() - since_us >= BACKGROUND_WAIT_US;
}

err db_submit(struct db *db, struct db_job *job)
{
    bool shared = job->shared && db->driver->shares;
    struct queue *q = shared ? &db->shared : job->background ? &db->background : &db->interactive;
    job->queued_us = clock_mono_us();
    pthread_mutex_lock(&db->mutex);
    bool taken = !db->closing && q->n < db->options.queue_max;
    if (taken) {
        queue_put(q, job);
        if (shared || db->driver->takes == NULL || db->driver->takes(db, job))
            pthread_cond_signal(shared ? &db->shared_work : &db->work);
    }
    pthread_mutex_unlock(&db->mutex);
    return taken ? OK : ERR_BUSY;
}

struct waiter {
    struct db_job job;
    err (*run)(void *ctx, struct tx *tx);
    void *ctx;
    pthread_mutex_t mutex;
    pthread_cond_t done;
    bool is_done;
    err outcome;
};

static err waiter_run(struct db_job *job, struct tx *tx)
{
    struct waiter *w = CONTAINER(job, struct waiter, job);
    return w->run(w->ctx, tx);
}

static void waiter_done(struct db_job *job, err outcome)
{
    struct waiter *w = CONTAINER(job, struct waiter, job);
    pthread_mutex_lock(&w->mutex);
    w->outcome = outcome;
    w->is_done = true;
    pthread_cond_signal(&w->done); /* under the mutex: once it is free the waiter and its stack may be gone */
    pthread_mutex_unlock(&w->mutex);
}

static err write_wait(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx, bool loose)
{
    assert(!db_on_writer());
    struct waiter w = {
        .job = { .run = waiter_run, .done = waiter_done, .arena = a, .loose = loose },
        .run = run,
        .ctx = ctx,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .done = PTHREAD_COND_INITIALIZER,
    };
    TRY(db_submit(db, &w.job));
    pthread_mutex_lock(&w.mutex);
    while (!w.is_done)
        pthread_cond_wait(&w.done, &w.mutex);
    pthread_mutex_unlock(&w.mutex);
    return w.outcome;
}

err db_write_wait(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx)
{
    return write_wait(db, a, run, ctx, false);
}

err db_write_loose(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx)
{
    return write_wait(db, a, run, ctx, true);
}

err db_write_own(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx)
{
    assert(!db_on_writer());
    return db->driver->write_own != NULL ? db->driver->write_own(db, a, run, ctx) : db_write_wait(db, a, run, ctx);
}

/* ---- other processes ---- */

bool db_has_others(const struct db *db)
{
    return db->driver->listen != NULL;
}

err db_listen(struct db *db, void (*heard)(str text))
{
    return db_has_others(db) ? db->driver->listen(db, heard) : db_misused("listen", "there is one process");
}

void db_listen_end(struct db *db)
{
    if (db_has_others(db))
        db->driver->listen_end(db);
}

bool db_listening(const struct db *db)
{
    return db_has_others(db) && db->driver->listening(db);
}

err db_notify(struct db *db, str text)
{
    if (text.n > DB_NEWS_MAX)
        return ERR_TOO_LARGE;
    return db_has_others(db) ? db->driver->notify(db, text) : db_misused("notify", "there is one process");
}

struct db_stats db_stats(struct db *db)
{
    i64 now_us = clock_mono_us(), oldest_us = now_us;
    pthread_mutex_lock(&db->mutex);
    struct db_stats stats = db->stats;
    const struct queue *queues[] = { &db->interactive, &db->background, &db->shared };
    for (size_t i = 0; i < COUNT(queues); i++) {
        stats.queued += queues[i]->n;
        if (queues[i]->n > 0)
            oldest_us = MIN(oldest_us, queues[i]->first->queued_us);
    }
    pthread_mutex_unlock(&db->mutex);
    stats.oldest_queued_us = now_us - oldest_us;
    stats.statements = atomic_load_explicit(&db->statements, memory_order_relaxed);
    db->driver->stats(db, &stats);
    return stats;
}
