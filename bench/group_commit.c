/* group_commit.c - the yardstick for writes: what SQLite alone does when one thread commits batches of small rows.
 *
 *     group_commit FOLDER SECONDS WAITING
 *
 * Each transaction holds WAITING inserts into a table with one index, with the same settings as the store (WAL,
 * synchronous=FULL, checkpoints apart from commits); a "tx" is one insert, as a job of the store is. Only a bare loop is fair
 * here: no savepoints, no queue, no arenas. */
#include "base/clock.h"
#include "base/str.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CHECKPOINT_PAGES = 1000, PATH_MAX_BYTES = 4096, SECONDS_MAX = 3600, WAITING_MAX = 100000 };

struct bench {
    char path[PATH_MAX_BYTES];
    sqlite3 *writer, *checkpointer;
    sqlite3_stmt *begin, *insert, *commit;
    pthread_mutex_t mutex;
    pthread_cond_t wanted;
    bool want, end;
    atomic_bool copied;
    int wal_pages, checkpoint_at;
    i64 next_id;
};

static void must(sqlite3 *db, int rc)
{
    if (rc == SQLITE_OK || rc == SQLITE_ROW || rc == SQLITE_DONE)
        return;
    fprintf(stderr, "group_commit: %s\n", db != NULL ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
    exit(1);
}

static sqlite3 *open_one(const char *path)
{
    sqlite3 *db = NULL;
    must(db, sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL));
    sqlite3_busy_timeout(db, 1000);
    must(db, sqlite3_exec(db,
                          "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;"
                          "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY",
                          NULL, NULL, NULL));
    return db;
}

static void copy_wal(sqlite3 *db)
{
    int code = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (code != SQLITE_BUSY) /* the other connection is at it: what is left comes with the next one */
        must(db, code);
}

static int see_wal(void *ctx, sqlite3 *db, const char *name, int pages)
{
    struct bench *b = ctx;
    if (pages < b->wal_pages)
        b->checkpoint_at = CHECKPOINT_PAGES;
    b->wal_pages = pages;
    return SQLITE_OK;
}

static void *run_checkpointer(void *ctx)
{
    struct bench *b = ctx;
    pthread_mutex_lock(&b->mutex);
    while (!b->end) {
        if (!b->want) {
            pthread_cond_wait(&b->wanted, &b->mutex);
            continue;
        }
        pthread_mutex_unlock(&b->mutex);
        copy_wal(b->checkpointer);
        pthread_mutex_lock(&b->mutex);
        b->want = false;
        atomic_store(&b->copied, true);
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

static void tell_checkpointer(struct bench *b, bool end)
{
    pthread_mutex_lock(&b->mutex);
    b->want = true;
    b->end = end;
    pthread_cond_signal(&b->wanted);
    pthread_mutex_unlock(&b->mutex);
}

/* A background checkpoint, then the writer's own: see the store's writer. */
static void keep_wal_short(struct bench *b)
{
    if (atomic_exchange(&b->copied, false)) {
        copy_wal(b->writer);
        b->checkpoint_at = b->wal_pages + CHECKPOINT_PAGES;
    } else if (b->wal_pages >= b->checkpoint_at) {
        b->checkpoint_at = INT32_MAX; /* one at a time */
        tell_checkpointer(b, false);
    }
}

static void step(struct bench *b, sqlite3_stmt *stmt)
{
    must(b->writer, sqlite3_step(stmt));
    must(b->writer, sqlite3_reset(stmt));
}

static void commit_batch(struct bench *b, i64 waiting)
{
    static const char body[] =
        "{\"customer\":\"0017\",\"amount\":129.90,\"items\":[1,2,3],\"note\":\"a small body of a usual size\"}";
    step(b, b->begin);
    for (i64 i = 0; i < waiting; i++) {
        char id[48];
        int n = snprintf(id, sizeof id, "execution_%026lld", (long long)b->next_id);
        must(b->writer, sqlite3_bind_text(b->insert, 1, id, n, SQLITE_STATIC));
        must(b->writer, sqlite3_bind_int64(b->insert, 2, b->next_id++));
        must(b->writer, sqlite3_bind_text(b->insert, 3, body, sizeof body - 1, SQLITE_STATIC));
        step(b, b->insert);
    }
    step(b, b->commit);
}

static void set_up(struct bench *b, const char *folder)
{
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        fprintf(stderr, "group_commit: %s: %s\n", folder, strerror(errno));
        exit(1);
    }
    int n = snprintf(b->path, sizeof b->path, "%s/group_commit.db", folder);
    if (n < 0 || (size_t)n >= sizeof b->path)
        exit(2);
    b->writer = open_one(b->path);
    b->checkpointer = open_one(b->path);
    must(b->writer,
         sqlite3_exec(b->writer,
                      "DROP TABLE IF EXISTS rows; CREATE TABLE rows (id TEXT PRIMARY KEY, created_at BIGINT NOT NULL,"
                      " body TEXT NOT NULL) WITHOUT ROWID; CREATE INDEX rows_by_time ON rows (created_at)",
                      NULL, NULL, NULL));
    must(b->writer, sqlite3_prepare_v2(b->writer, "BEGIN IMMEDIATE", -1, &b->begin, NULL));
    must(b->writer, sqlite3_prepare_v2(b->writer, "COMMIT", -1, &b->commit, NULL));
    must(b->writer, sqlite3_prepare_v2(b->writer, "INSERT INTO rows VALUES (?, ?, ?)", -1, &b->insert, NULL));
    sqlite3_wal_hook(b->writer, see_wal, b);
}

static void tear_down(struct bench *b)
{
    sqlite3_finalize(b->begin);
    sqlite3_finalize(b->insert);
    sqlite3_finalize(b->commit);
    must(b->checkpointer, sqlite3_close(b->checkpointer));
    must(b->writer, sqlite3_close(b->writer));
    remove(b->path);
}

static void run(struct bench *b, i64 seconds, i64 waiting)
{
    i64 batches = 0, from_us = clock_mono_us(), now_us = from_us;
    for (; now_us - from_us < seconds * SECOND_US; now_us = clock_mono_us()) {
        commit_batch(b, waiting);
        keep_wal_short(b);
        batches++;
    }
    double took = (double)(now_us - from_us) / (double)SECOND_US;
    printf("{\"tx_per_second\":%.0f,\"batches_per_second\":%.1f}\n", (double)(batches * waiting) / took,
           (double)batches / took);
}

int main(int argc, char **argv)
{
    i64 seconds, waiting;
    if (argc != 4 || !str_i64(str_of(argv[2]), 1, SECONDS_MAX, &seconds) ||
        !str_i64(str_of(argv[3]), 1, WAITING_MAX, &waiting)) {
        fprintf(stderr, "usage: group_commit FOLDER SECONDS WAITING\n");
        return 2;
    }
    static struct bench b = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                              .wanted = PTHREAD_COND_INITIALIZER,
                              .checkpoint_at = CHECKPOINT_PAGES };
    pthread_t checkpointer;
    set_up(&b, argv[1]);
    if (pthread_create(&checkpointer, NULL, run_checkpointer, &b) != 0)
        return 1;
    run(&b, seconds, waiting);
    tell_checkpointer(&b, true);
    pthread_join(checkpointer, NULL);
    tear_down(&b);
    return 0;
}
