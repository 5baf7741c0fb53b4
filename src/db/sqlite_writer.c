/* sqlite_writer.c - the one thread that writes: takes jobs from bounded queues, commits them in batches, keeps the WAL short.
 *
 * A batch takes what is queued until the queue is empty or the batch full, and never waits for more: while one batch syncs,
 * the next one gathers. The first job of a transaction needs no savepoint, because rolling back everything takes nothing
 * else along; so a lone job costs BEGIN and COMMIT only. */
#include "base/clock.h"
#include "base/log.h"
#include "db/sqlite.h"

#include <errno.h>
#include <malloc.h>

static const i64 rest_after_us = 2 * SECOND_US;

/* ---- a batch ---- */

struct batch {
    struct queue jobs;  /* taken, in order */
    struct db_job **at; /* the next one to run */
    bool background;
    bool yields;  /* background: ends when an interactive job comes in; one that has waited too long does not */
    i64 until_us; /* of a background slice */
    u32 kept;     /* jobs whose changes stand in the open transaction */
    u32 replays, failed;
    bool full; /* a job found no room on the disk */
    err fail;  /* of the batch as a whole */
};

/* Takes more jobs while the batch may grow. False when it is complete. */
static bool batch_more(struct sqlite *db, struct batch *b)
{
    struct queue *q = b->background ? &db->base.background : &db->base.interactive;
    u32 room = db->base.options.batch_max - MIN(b->jobs.n, db->base.options.batch_max);
    u32 before = b->jobs.n;
    bool in_time = !b->background || before == 0 || clock_mono_us() < b->until_us;
    pthread_mutex_lock(&db->base.mutex);
    if (b->background) /* one by one, to see the clock and who came in */
        room = in_time && (before == 0 || !b->yields || db->base.interactive.n == 0) ? MIN(room, 1u) : 0;
    for (struct db_job *job; room > 0 && (job = queue_take(q)) != NULL; room--)
        queue_put(&b->jobs, job);
    pthread_mutex_unlock(&db->base.mutex);
    for (struct db_job *job = *b->at; job != NULL; job = job->next)
        if (job->arena != NULL)
            job->mark = arena_mark(job->arena);
    return b->jobs.n > before;
}

void tx_begin_write(struct sqlite_tx *tx, struct sqlite *db, struct arena *a)
{
    *tx = (struct sqlite_tx){
        .base = { .db = &db->base, .arena = a }, .conn = &db->writer, .writes = true, .begun = true
    };
}

/* Takes back what the job did. When not even that works, everything goes. */
static void job_undo(struct conn *c, struct batch *b)
{
    if (b->kept > 0 && conn_verb(c, VERB_ROLLBACK_TO) == OK && conn_verb(c, VERB_RELEASE) == OK)
        return;
    if (!conn_idle(c) && conn_verb(c, VERB_ROLLBACK) != OK)
        b->fail = ERR_INTERNAL;
}

static err job_execute(struct sqlite *db, struct batch *b, struct db_job *job)
{
    struct conn *c = &db->writer;
    struct sqlite_tx tx;
    TRY(conn_verb(c, b->kept > 0 ? VERB_SAVEPOINT : VERB_BEGIN_WRITE));
    if (job->arena != NULL)
        arena_rewind(job->arena, job->mark);
    tx_begin_write(&tx, db, job->arena);
    err e = job->run(job, &tx.base);
    atomic_fetch_add_explicit(&db->base.statements, tx.statements, memory_order_relaxed);
    if (e == OK && conn_idle(c)) /* it went on after SQLite had rolled everything back */
        e = ERR_INTERNAL;
    if (e == OK && b->kept > 0)
        e = conn_verb(c, VERB_RELEASE);
    if (e != OK && !conn_idle(c))
        job_undo(c, b);
    return e;
}

/* Runs one job. False when the changes of jobs before it are lost. */
static bool job_run(struct sqlite *db, struct batch *b, struct db_job *job)
{
    job->outcome = job_execute(db, b, job);
    b->full |= job->outcome == ERR_STORAGE;
    if (job->outcome == OK)
        b->kept++;
    return b->kept == 0 || !conn_idle(&db->writer);
}

/* The transaction is gone and with it the changes of the jobs before: the culprit leaves with its error, the others start
 * again from the top. */
static void batch_replay(struct batch *b)
{
    struct db_job *culprit = *b->at;
    *b->at = culprit->next;
    if (culprit->next == NULL)
        b->jobs.tail = b->at;
    b->failed++;
    culprit->done(culprit, culprit->outcome); /* it may be gone after this */
    b->at = &b->jobs.first;
    b->kept = 0;
    if (b->fail == OK && ++b->replays > REPLAYS_MAX)
        b->fail = b->full ? ERR_STORAGE : ERR_BUSY;
}

static void batch_run(struct sqlite *db, struct batch *b)
{
    while (b->fail == OK && (*b->at != NULL || batch_more(db, b))) {
        assert(*b->at != NULL); /* more have come behind the last one */
        if (job_run(db, b, *b->at))
            b->at = &(*b->at)->next;
        else
            batch_replay(b);
    }
}

static i64 batch_commit(struct sqlite *db, struct batch *b)
{
    struct conn *c = &db->writer;
    i64 from_us = clock_mono_us();
    if (b->fail == OK && b->kept > 0)
        b->fail = conn_verb(c, VERB_COMMIT);
    atomic_fetch_add(&db->commits, 1); /* a refused one may be on the disk all the same */
    if (!conn_idle(c) && conn_verb(c, VERB_ROLLBACK) != OK)
        b->fail = ERR_INTERNAL;
    return clock_mono_us() - from_us;
}

/* A batch that failed as a whole fails every job: also one that met, say, a conflict may have met it with a neighbour
 * whose row is gone now. */
static void batch_settle(struct batch *b)
{
    for (struct db_job *job = b->jobs.first; job != NULL; job = job->next) {
        job->outcome = b->fail != OK ? b->fail : job->outcome;
        b->failed += job->outcome != OK;
    }
}

static void batch_tell(struct batch *b)
{
    for (struct db_job *job; (job = queue_take(&b->jobs)) != NULL;)
        job->done(job, job->outcome);
}

static void batch_count(struct sqlite *db, const struct batch *b, i64 commit_us)
{
    pthread_mutex_lock(&db->base.mutex);
    db->base.stats.batches++;
    db->base.stats.jobs += b->jobs.n;
    db->base.stats.failed += b->failed;
    db->base.stats.last_commit_us = commit_us;
    db->base.stats.wal_pages = db->wal_pages;
    if (db->checkpoint == CHECKPOINT_NONE && db->wal_pages >= db->checkpoint_at) {
        db->checkpoint = CHECKPOINT_WANTED;
        atomic_store(&db->shortens, true);
        pthread_cond_signal(&db->wal);
    }
    pthread_mutex_unlock(&db->base.mutex);
}

/* What a write has found out about the disk. */
static void note_room(struct sqlite *db, bool full)
{
    pthread_mutex_lock(&db->base.mutex);
    bool was_full = db->base.stats.disk_full;
    db->base.stats.disk_full = full;
    pthread_mutex_unlock(&db->base.mutex);
    if (full && !was_full)
        LOG(LOG_ERROR, "db.disk_full", LOG_STR("path", str_of(db->folder)));
    else if (was_full && !full)
        LOG(LOG_WARN, "db.disk_has_room", LOG_STR("path", str_of(db->folder)));
}

/* One job may ask for more room than there is while the others are served: that is no full disk. */
static void batch_note_room(struct sqlite *db, const struct batch *b)
{
    bool written = b->fail == OK && b->kept > 0;
    bool full = b->fail == ERR_STORAGE || b->full;
    if (written || full)
        note_room(db, !written);
}

/* When nobody writes, somebody has to find out that there is room again: readiness depends on it. */
static void probe(struct sqlite *db)
{
    err e = conn_verb(&db->writer, VERB_PROBE);
    if (e == OK || e == ERR_STORAGE)
        note_room(db, e != OK);
}

static void write_batch(struct sqlite *db, bool background, bool yields)
{
    struct batch b = { .background = background, .yields = yields, .until_us = clock_mono_us() + BACKGROUND_SLICE_US };
    queue_init(&b.jobs);
    b.at = &b.jobs.first;
    batch_run(db, &b);
    i64 commit_us = batch_commit(db, &b);
    batch_settle(&b);
    batch_note_room(db, &b);
    batch_count(db, &b, commit_us); /* first: who is told may look at once */
    batch_tell(&b);
    if (background)
        db->background_us = clock_mono_us();
}

/* ---- the WAL ---- */

/* Called within each commit. A WAL that is shorter than before has started from its beginning. */
static int see_wal(void *ctx, sqlite3 *sqlite, const char *name, int pages)
{
    struct sqlite *db = ctx;
    if ((u32)pages < db->wal_pages)
        db->checkpoint_at = CHECKPOINT_PAGES;
    db->wal_pages = (u32)pages;
    return SQLITE_OK;
}

static void copy_wal(struct conn *c)
{
    int rc = sqlite3_wal_checkpoint_v2(c->sqlite, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    err e = conn_error(c, rc, "checkpoint"); /* logged; what was not copied is in the WAL still, and is tried again */
    (void)e;
}

static void *run_checkpointer(void *ctx)
{
    struct sqlite *db = ctx;
    pthread_mutex_lock(&db->base.mutex);
    while (!db->closed) {
        if (db->checkpoint != CHECKPOINT_WANTED) {
            pthread_cond_wait(&db->wal, &db->base.mutex);
            continue;
        }
        pthread_mutex_unlock(&db->base.mutex);
        copy_wal(&db->checkpointer);
        pthread_mutex_lock(&db->base.mutex);
        db->checkpoint = CHECKPOINT_COPIED;
        pthread_cond_signal(&db->base.work);
    }
    pthread_mutex_unlock(&db->base.mutex);
    return NULL;
}

/* The writer's share. The next round comes after so many more pages, not at once: with a long reader in the way nothing
 * could be gained by trying at each commit. */
static void finish_checkpoint(struct sqlite *db)
{
    copy_wal(&db->writer);
    db->checkpoint_at = db->wal_pages + CHECKPOINT_PAGES;
    pthread_mutex_lock(&db->base.mutex);
    db->checkpoint = CHECKPOINT_NONE;
    atomic_store(&db->shortens, false); /* a snapshot taken from here on reads the file itself, until the next commit */
    pthread_mutex_unlock(&db->base.mutex);
}

/* ---- the thread ---- */

enum work { WORK_INTERACTIVE, WORK_BACKGROUND, WORK_OVERDUE, WORK_CHECKPOINT, WORK_PROBE, WORK_REST, WORK_END };

/* Until there is work. False: there was none for a while: a full disk is to be looked at, or it does not rest yet. */
static bool wait_for_work(struct sqlite *db)
{
    struct db *base = &db->base;
    bool full = base->stats.disk_full;
    struct timespec until = clock_in(full ? PROBE_US : rest_after_us);
    while (base->interactive.n == 0 && base->background.n == 0 && db->checkpoint != CHECKPOINT_COPIED && !base->closing)
        if (db->rests && !full)
            pthread_cond_wait(&base->work, &base->mutex);
        else if (pthread_cond_timedwait(&base->work, &base->mutex, &until) == ETIMEDOUT)
            return false;
    return true;
}

/* Pages that a burst of writes left in the cache, tens of megabytes, are of no use to a quiet server; the kernel has them still. */
static void rest(struct sqlite *db)
{
    sqlite3_db_release_memory(db->writer.sqlite);
    malloc_trim(0);
    db->rests = true;
}

static enum work next_work(struct sqlite *db)
{
    enum work work = WORK_END;
    pthread_mutex_lock(&db->base.mutex);
    if (!wait_for_work(db))
        work = db->base.stats.disk_full ? WORK_PROBE : WORK_REST;
    else if (db->checkpoint == CHECKPOINT_COPIED)
        work = WORK_CHECKPOINT;
    else if (queue_overdue(&db->base.background, db->background_us))
        work = WORK_OVERDUE;
    else if (db->base.interactive.n > 0)
        work = WORK_INTERACTIVE;
    else if (db->base.background.n > 0)
        work = WORK_BACKGROUND;
    pthread_mutex_unlock(&db->base.mutex);
    return work;
}

static void *run_writer(void *ctx)
{
    struct sqlite *db = ctx;
    db_this_is_writer();
    sqlite3_wal_hook(db->writer.sqlite, see_wal, db);
    for (enum work work; (work = next_work(db)) != WORK_END;) {
        db->rests = false;
        if (work == WORK_REST)
            rest(db);
        else if (work == WORK_PROBE)
            probe(db);
        else if (work == WORK_CHECKPOINT)
            finish_checkpoint(db);
        else
            write_batch(db, work != WORK_INTERACTIVE, work == WORK_BACKGROUND);
    }
    db_thread_end(&db->base);
    return NULL;
}

static err start_thread(pthread_t *thread, bool *runs, const char *name, void *(*run)(void *), struct sqlite *db)
{
    int rc = pthread_create(thread, NULL, run, db);
    if (rc != 0) {
        LOG(LOG_ERROR, "db.thread", LOG_STR("name", str_of(name)), LOG_INT("error", rc));
        return ERR_INTERNAL;
    }
    *runs = true;
    pthread_setname_np(*thread, name);
    return OK;
}

err writer_start(struct sqlite *db)
{
    TRY(start_thread(&db->checkpointer_thread, &db->checkpointer_runs, "weir-wal", run_checkpointer, db));
    return start_thread(&db->writer_thread, &db->writer_runs, "weir-writer", run_writer, db);
}

void writer_stop(struct sqlite *db)
{
    pthread_mutex_lock(&db->base.mutex);
    db->base.closing = true;
    pthread_cond_signal(&db->base.work);
    pthread_mutex_unlock(&db->base.mutex);
    if (db->writer_runs)
        pthread_join(db->writer_thread, NULL);
    pthread_mutex_lock(&db->base.mutex);
    db->closed = true;
    pthread_cond_signal(&db->wal);
    pthread_mutex_unlock(&db->base.mutex);
    if (db->checkpointer_runs)
        pthread_join(db->checkpointer_thread, NULL);
    if (db->writer.sqlite != NULL)
        copy_wal(&db->writer);
}
