/* postgres_writer.c - threads that run jobs: those of one tenant share transactions, those that only send share others, the rest have one of their own.
 *
 * Jobs of one tenant take turns, by a lock of the database, so on all nodes; within a process they wait in the queue, without a connection, and whoever gets the turn
 * takes what has gathered meanwhile: one commit for many, each job behind a savepoint, as with SQLite's one writer. SERIALIZABLE was tried instead: it locks
 * pages of indexes that were read, and ids that grow with time share a page, so changes at once were refused again and again, some for good (503).
 *
 * No job is told its end before the commit, and when anything but a job's own decision fails, the transaction is rolled back and each of its jobs runs again alone:
 * such failures are rare, and finding out whose it was would cost a round trip for each job. Jobs that only send do without savepoints for the same reason. */
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

static u64 turn_bit(str tenant)
{
    return (u64)1 << pg_turn_of(tenant) % TURNS;
}

static err run_alone(struct postgres *db, struct db_job *job, enum isolation isolation, struct pg_tx *tx)
{
    if (job->arena != NULL)
        arena_rewind(job->arena, job->mark);
    pg_begin(tx, db, job->arena, isolation);
    tx->turn = pg_turn_of(job->tenant);
    return pg_end(tx, job->run(job, &tx->base));
}

/* Again, when another transaction was in the way, or when the connection went before COMMIT was sent. After that nobody knows what happened, and the
 * caller is told so; one that waited in vain as long as a statement may take does not wait again. */
static err run_job(struct postgres *db, struct db_job *job, enum isolation isolation)
{
    struct pg_tx tx;
    err e = OK;
    u32 lost = 0;
    if (job->arena != NULL)
        job->mark = arena_mark(job->arena);
    for (u32 attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        e = run_alone(db, job, isolation, &tx);
        bool again = e != OK && (tx.refused || (tx.lost && !tx.late && !tx.committing && ++lost < LOST_MAX));
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
    err e = run_job(db, job, isolation);
    count(db, 1, e != OK, from_us); /* first: who is told may look at once */
    job->done(job, e);
}

/* ---- shared transactions ---- */

/* Those of a batch that have waited too long are refused, the rest stays. */
static void refuse_late(struct postgres *db, struct queue *jobs)
{
    struct queue kept;
    i64 now_us = clock_mono_us();
    queue_init(&kept);
    for (struct db_job *job; (job = queue_take(jobs)) != NULL;) {
        if (!too_late(db, job, now_us)) {
            queue_put(&kept, job);
            continue;
        }
        count(db, 1, 1, now_us);
        job->done(job, ERR_BUSY);
    }
    *jobs = kept;
    if (kept.n == 0)
        queue_init(jobs);
}

/* Only sends: when one fails they all do. */
static err run_sending(struct pg_tx *tx, struct queue *jobs)
{
    for (struct db_job *job = jobs->first; job != NULL; job = job->next) {
        tx->base.arena = job->arena;
        tx->base.tenant = STR_NONE;
        job->outcome = OK;
        TRY(job->run(job, &tx->base));
    }
    return OK;
}

/* What a job decides against is taken back, and the others go on. */
static err run_in_turn(struct pg_tx *tx, struct queue *jobs)
{
    for (struct db_job *job = jobs->first; job != NULL; job = job->next) {
        tx->turn = pg_turn_of(job->tenant); /* that of all of them */
        tx->base.arena = job->arena;
        tx->base.tenant = STR_NONE;
        pg_point(tx);
        job->outcome = job->run(job, &tx->base);
        TRY(pg_point_end(tx, job->outcome));
    }
    return OK;
}

static void run_shared(struct postgres *db, struct queue *jobs, enum isolation isolation)
{
    struct pg_tx tx;
    i64 from_us = clock_mono_us();
    for (struct db_job *job = jobs->first; job != NULL; job = job->next)
        if (job->arena != NULL)
            job->mark = arena_mark(job->arena);
    pg_begin(&tx, db, NULL, isolation);
    err e = pg_end(&tx, isolation == WRITE_LOOSE ? run_sending(&tx, jobs) : run_in_turn(&tx, jobs));
    bool unknown = e != OK && tx.lost && tx.committing;      /* alone they would fail on what may be there already */
    bool nowhere = tx.failed != OK && !tx.begun && !tx.lost; /* without a connection: each alone would wait as long */
    bool over = e == OK || unknown || nowhere;
    u32 failed = 0;
    for (const struct db_job *job = jobs->first; job != NULL; job = job->next)
        failed += e != OK || job->outcome != OK;
    if (over)
        count(db, jobs->n, failed, from_us);
    for (struct db_job *job; (job = queue_take(jobs)) != NULL;) {
        if (over) {
            job->done(job, e != OK ? e : job->outcome);
            continue;
        }
        if (job->arena != NULL)
            arena_rewind(job->arena, job->mark);
        finish(db, job, isolation);
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
            run_shared(db, &jobs, WRITE_LOOSE);
    }
    db_thread_end(base);
    return NULL;
}

/* ---- jobs that take turns, and those of their own ---- */

static struct db_job *take_at(struct queue *q, struct db_job **at)
{
    struct db_job *job = *at;
    *at = job->next;
    if (q->tail == &job->next)
        q->tail = at;
    q->n--;
    return job;
}

/* The first job that may run now: one of a tenant that has its turn stays where it is, and those behind it go on. */
static struct db_job *take_free(struct postgres *db, struct queue *q)
{
    for (struct db_job **at = &q->first, *job; (job = *at) != NULL; at = &job->next) {
        u64 bit = job->loose ? 0 : turn_bit(job->tenant);
        if ((db->turns & bit) != 0)
            continue;
        db->turns |= bit;
        return take_at(q, at);
    }
    return NULL;
}

/* Behind the job in `batch` all that may share its turn and transaction, as far as one looks. */
static void take_alike(struct postgres *db, struct queue *batch)
{
    const struct db_job *job = batch->first;
    struct queue *q = &db->base.interactive;
    if (job->loose || job->background)
        return;
    u32 looks = 0;
    for (struct db_job **at = &q->first; *at != NULL && batch->n < BATCH_JOBS_MAX && looks < BATCH_LOOK_MAX; looks++) {
        if (!(*at)->loose && str_eq((*at)->tenant, job->tenant))
            queue_put(batch, take_at(q, at));
        else
            at = &(*at)->next;
    }
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

/* Whoever waited for this turn is found by the thread that had it: it looks for jobs next. */
static void end_turn(struct postgres *db, u64 bit)
{
    pthread_mutex_lock(&db->base.mutex);
    db->turns &= ~bit;
    if (db->base.closing)
        pthread_cond_broadcast(&db->base.work);
    pthread_mutex_unlock(&db->base.mutex);
}

bool postgres_takes(const struct db *base, const struct db_job *job)
{
    const struct postgres *db = CONTAINER(base, const struct postgres, base);
    return job->loose || (db->turns & turn_bit(job->tenant)) == 0;
}

/* Waits for jobs; none: it is over. Who takes some wakes the next one when there are more, which ends when one finds none that may run. */
static void take_jobs(struct postgres *db, struct queue *batch)
{
    struct db *base = &db->base;
    struct db_job *job;
    queue_init(batch);
    pthread_mutex_lock(&base->mutex);
    while ((job = next_job(db)) == NULL && !is_over(base))
        pthread_cond_wait(&base->work, &base->mutex);
    if (job != NULL) {
        queue_put(batch, job);
        take_alike(db, batch);
    }
    if (job != NULL && base->interactive.n + base->background.n > 0)
        pthread_cond_signal(&base->work);
    pthread_mutex_unlock(&base->mutex);
}

static void *run_writer(void *ctx)
{
    struct postgres *db = ctx;
    struct queue batch;
    db_this_is_writer();
    for (take_jobs(db, &batch); batch.n > 0; take_jobs(db, &batch)) {
        const struct db_job *first = batch.first; /* they may be gone after they were run */
        enum isolation isolation = first->loose ? WRITE_LOOSE : WRITE_IN_TURN;
        u64 bit = first->loose ? 0 : turn_bit(first->tenant);
        refuse_late(db, &batch);
        if (batch.n == 1)
            finish(db, queue_take(&batch), isolation);
        else if (batch.n > 1)
            run_shared(db, &batch, isolation);
        end_turn(db, bit);
    }
    db_thread_end(&db->base);
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
