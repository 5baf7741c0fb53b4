/* postgres_writer.c - threads that run jobs: most in a transaction of their own, those that only send share one.
 *
 * Jobs of one tenant take turns, by a lock of the database, so on all nodes; within a process they wait in the queue, without a connection. SERIALIZABLE was
 * tried instead: it locks pages of indexes that were read, and ids that grow with time share a page, so creations at once were refused again and again, some
 * for good (503). It made 780 creations a second for one tenant with 64 clients, turns make 280: a tenant's configuration does not change that fast.
 *
 * A shared transaction has no savepoints. When anything in it fails it is rolled back, and each of its jobs runs again alone: failures are rare, and a
 * savepoint around each job would cost more than all of them. */
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "db/postgres.h"

#include <stdio.h>
#include <time.h>

/* ---- one job ---- */

/* So that two that met do not meet again: 2 ms doubling to 64 ms, of which the upper half is random. */
static void step_aside(u32 attempt)
{
    i64 whole_us = 2000 << MIN(attempt, 5u);
    i64 us = whole_us / 2 + (i64)rng_below((u64)(whole_us / 2));
    nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL);
}

/* FNV-1a. Two tenants with one key wait for one another now and then. */
static u32 turn_of(str tenant)
{
    u32 hash = 2166136261u;
    for (size_t i = 0; i < tenant.n; i++)
        hash = (hash ^ (u8)tenant.p[i]) * 16777619u;
    return hash >> 1;
}

static u64 turn_bit(str tenant)
{
    return (u64)1 << turn_of(tenant) % TURNS;
}

static err run_alone(struct postgres *db, struct db_job *job, enum isolation isolation, struct pg_tx *tx)
{
    if (job->arena != NULL)
        arena_rewind(job->arena, job->mark);
    pg_begin(tx, db, job->arena, isolation);
    tx->turn = turn_of(job->tenant);
    return pg_end(tx, job->run(job, &tx->base));
}

/* Again, when another transaction was in the way, or when the connection went before COMMIT was sent. After that nobody knows what happened, and the
 * caller is told so. */
static err run_job(struct postgres *db, struct db_job *job, enum isolation isolation)
{
    struct pg_tx tx;
    err e = OK;
    u32 lost = 0;
    if (job->arena != NULL)
        job->mark = arena_mark(job->arena);
    for (u32 attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        e = run_alone(db, job, isolation, &tx);
        bool again = e != OK && (tx.refused || (tx.lost && !tx.committing && ++lost < LOST_MAX));
        if (!again)
            break;
        if (tx.lost)
            pool_forget(db);
        step_aside(attempt);
    }
    return e;
}

static void count(struct postgres *db, u32 jobs, u32 failed, i64 from_us)
{
    pthread_mutex_lock(&db->base.mutex);
    db->base.stats.batches++;
    db->base.stats.jobs += jobs;
    db->base.stats.failed += failed;
    db->base.stats.last_commit_us = clock_mono_us() - from_us;
    pthread_mutex_unlock(&db->base.mutex);
}

/* Somebody waits for the answer, and not for ever: a queue in front of a database that hangs is emptied by refusing. */
static bool too_late(const struct postgres *db, const struct db_job *job, i64 now_us)
{
    return !job->background && !job->shared && now_us - job->queued_us > db->base.options.pool_wait_us;
}

static void finish(struct postgres *db, struct db_job *job, enum isolation isolation)
{
    i64 from_us = clock_mono_us();
    err e = too_late(db, job, from_us) ? ERR_BUSY : run_job(db, job, isolation);
    count(db, 1, e != OK, from_us); /* first: who is told may look at once */
    job->done(job, e);
}

/* ---- shared transactions ---- */

static err run_all(struct pg_tx *tx, struct queue *jobs)
{
    for (struct db_job *job = jobs->first; job != NULL; job = job->next) {
        tx->base.arena = job->arena;
        tx->base.tenant = STR_NONE;
        TRY(job->run(job, &tx->base));
    }
    return OK;
}

static void run_shared(struct postgres *db, struct queue *jobs)
{
    struct pg_tx tx;
    i64 from_us = clock_mono_us();
    for (struct db_job *job = jobs->first; job != NULL; job = job->next)
        if (job->arena != NULL)
            job->mark = arena_mark(job->arena);
    pg_begin(&tx, db, NULL, WRITE_LOOSE);
    err e = pg_end(&tx, run_all(&tx, jobs));
    bool unknown = e != OK && tx.lost && tx.committing; /* alone they would fail on what may be there already */
    if (e == OK || unknown)
        count(db, jobs->n, e != OK ? jobs->n : 0, from_us);
    for (struct db_job *job; (job = queue_take(jobs)) != NULL;) {
        if (e == OK || unknown)
            job->done(job, e);
        else
            finish(db, job, WRITE_LOOSE);
    }
}

static void *run_sharer(void *ctx)
{
    struct postgres *db = ctx;
    struct db *base = &db->base;
    bool more = true;
    db_this_is_writer();
    while (more) {
        struct queue jobs;
        queue_init(&jobs);
        pthread_mutex_lock(&base->mutex);
        while (base->shared.n == 0 && !base->closing)
            pthread_cond_wait(&base->shared_work, &base->mutex);
        while (jobs.n < SHARED_MAX && base->shared.n > 0)
            queue_put(&jobs, queue_take(&base->shared));
        more = jobs.n > 0;
        pthread_mutex_unlock(&base->mutex);
        if (jobs.n == 1)
            finish(db, queue_take(&jobs), WRITE_LOOSE);
        else if (more)
            run_shared(db, &jobs);
    }
    db_thread_end(base);
    return NULL;
}

/* ---- jobs of their own ---- */

/* The first job that may run now: one of a tenant that has its turn stays where it is, and those behind it go on. */
static struct db_job *take_free(struct postgres *db, struct queue *q)
{
    for (struct db_job **at = &q->first, *job; (job = *at) != NULL; at = &job->next) {
        u64 bit = job->loose ? 0 : turn_bit(job->tenant);
        if ((db->turns & bit) != 0)
            continue;
        *at = job->next;
        if (q->tail == &job->next)
            q->tail = at;
        q->n--;
        db->turns |= bit;
        return job;
    }
    return NULL;
}

/* Background jobs when no others can run, except for one that has waited too long. */
static struct db_job *next_job(struct postgres *db)
{
    struct db *base = &db->base;
    struct db_job *job = queue_overdue(&base->background, db->background_us) ? take_free(db, &base->background) : NULL;
    if (job == NULL)
        job = take_free(db, &base->interactive);
    if (job == NULL)
        job = take_free(db, &base->background);
    if (job != NULL && job->background)
        db->background_us = clock_mono_us();
    return job;
}

static bool is_over(const struct db *base)
{
    return base->closing && base->interactive.n == 0 && base->background.n == 0;
}

/* Whoever waited for this turn may be any of the threads. */
static void end_turn(struct postgres *db, u64 bit)
{
    pthread_mutex_lock(&db->base.mutex);
    db->turns &= ~bit;
    if (db->base.interactive.n + db->base.background.n > 0 || db->base.closing)
        pthread_cond_broadcast(&db->base.work);
    pthread_mutex_unlock(&db->base.mutex);
}

static void *run_writer(void *ctx)
{
    struct postgres *db = ctx;
    struct db *base = &db->base;
    struct db_job *job;
    db_this_is_writer();
    for (;;) {
        pthread_mutex_lock(&base->mutex);
        while ((job = next_job(db)) == NULL && !is_over(base))
            pthread_cond_wait(&base->work, &base->mutex);
        pthread_mutex_unlock(&base->mutex);
        if (job == NULL)
            break;
        u64 bit = job->loose ? 0 : turn_bit(job->tenant);
        finish(db, job, job->loose ? WRITE_LOOSE : WRITE_IN_TURN); /* it may be gone after this */
        end_turn(db, bit);
    }
    db_thread_end(base);
    return NULL;
}

/* ---- the threads ---- */

static err start_one(struct postgres *db, const char *name, void *(*run)(void *))
{
    int rc = pthread_create(&db->threads[db->thread_count], NULL, run, db);
    if (rc != 0) {
        LOG(LOG_ERROR, "db.thread", LOG_STR("name", str_of(name)), LOG_INT("error", rc));
        return ERR_INTERNAL;
    }
    pthread_setname_np(db->threads[db->thread_count++], name);
    return OK;
}

err pg_writers_start(struct postgres *db)
{
    u32 writers = db->base.options.pool_size;
    db->threads = NEW_N(db->base.arena, pthread_t, writers + SHARERS);
    if (db->threads == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < writers; i++)
        TRY(start_one(db, "weir-writer", run_writer));
    for (u32 i = 0; i < SHARERS; i++)
        TRY(start_one(db, "weir-sharer", run_sharer));
    return OK;
}

void pg_writers_stop(struct postgres *db)
{
    pthread_mutex_lock(&db->base.mutex);
    db->base.closing = true;
    pthread_cond_broadcast(&db->base.work);
    pthread_cond_broadcast(&db->base.shared_work);
    pthread_mutex_unlock(&db->base.mutex);
    for (u32 i = 0; i < db->thread_count; i++)
        pthread_join(db->threads[i], NULL);
    db->thread_count = 0;
}
