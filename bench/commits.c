/* commits.c - see commits.h. */
#include "commits.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CHECKPOINT_PAGES = 1000, PATH_MAX_BYTES = 4096 };

struct commits {
    pthread_t thread;
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
    fprintf(stderr, "commits: %s\n", db != NULL ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
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
    struct commits *c = ctx;
    if (pages < c->wal_pages)
        c->checkpoint_at = CHECKPOINT_PAGES;
    c->wal_pages = pages;
    return SQLITE_OK;
}

static void *run_checkpointer(void *ctx)
{
    struct commits *c = ctx;
    pthread_mutex_lock(&c->mutex);
    while (!c->end) {
        if (!c->want) {
            pthread_cond_wait(&c->wanted, &c->mutex);
            continue;
        }
        pthread_mutex_unlock(&c->mutex);
        copy_wal(c->checkpointer);
        pthread_mutex_lock(&c->mutex);
        c->want = false;
        atomic_store(&c->copied, true);
    }
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

static void tell_checkpointer(struct commits *c, bool end)
{
    pthread_mutex_lock(&c->mutex);
    c->want = true;
    c->end = end;
    pthread_cond_signal(&c->wanted);
    pthread_mutex_unlock(&c->mutex);
}

/* A background checkpoint, then the writer's own: see the store's writer. */
static void keep_wal_short(struct commits *c)
{
    if (atomic_exchange(&c->copied, false)) {
        copy_wal(c->writer);
        c->checkpoint_at = c->wal_pages + CHECKPOINT_PAGES;
    } else if (c->wal_pages >= c->checkpoint_at) {
        c->checkpoint_at = INT32_MAX; /* one at a time */
        tell_checkpointer(c, false);
    }
}

static void step(struct commits *c, sqlite3_stmt *stmt)
{
    must(c->writer, sqlite3_step(stmt));
    must(c->writer, sqlite3_reset(stmt));
}

void commits_begin(struct commits *c)
{
    step(c, c->begin);
}

void commits_insert(struct commits *c, str body)
{
    char id[48];
    int n = snprintf(id, sizeof id, "execution_%026lld", (long long)c->next_id);
    must(c->writer, sqlite3_bind_text(c->insert, 1, id, n, SQLITE_STATIC));
    must(c->writer, sqlite3_bind_int64(c->insert, 2, c->next_id++));
    must(c->writer, sqlite3_bind_text(c->insert, 3, body.p, (int)body.n, SQLITE_STATIC));
    step(c, c->insert);
}

void commits_end(struct commits *c)
{
    step(c, c->commit);
    keep_wal_short(c);
}

struct commits *commits_open(const char *folder)
{
    static struct commits only = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                                   .wanted = PTHREAD_COND_INITIALIZER,
                                   .checkpoint_at = CHECKPOINT_PAGES };
    struct commits *c = &only;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        fprintf(stderr, "commits: %s: %s\n", folder, strerror(errno));
        exit(1);
    }
    int n = snprintf(c->path, sizeof c->path, "%s/commits.db", folder);
    if (n < 0 || (size_t)n >= sizeof c->path)
        exit(2);
    c->writer = open_one(c->path);
    c->checkpointer = open_one(c->path);
    must(c->writer,
         sqlite3_exec(c->writer,
                      "DROP TABLE IF EXISTS rows; CREATE TABLE rows (id TEXT PRIMARY KEY, created_at BIGINT NOT NULL,"
                      " body TEXT NOT NULL) WITHOUT ROWID; CREATE INDEX rows_by_time ON rows (created_at)",
                      NULL, NULL, NULL));
    must(c->writer, sqlite3_prepare_v2(c->writer, "BEGIN IMMEDIATE", -1, &c->begin, NULL));
    must(c->writer, sqlite3_prepare_v2(c->writer, "COMMIT", -1, &c->commit, NULL));
    must(c->writer, sqlite3_prepare_v2(c->writer, "INSERT INTO rows VALUES (?, ?, ?)", -1, &c->insert, NULL));
    sqlite3_wal_hook(c->writer, see_wal, c);
    if (pthread_create(&c->thread, NULL, run_checkpointer, c) != 0)
        exit(1);
    return c;
}

void commits_close(struct commits *c)
{
    tell_checkpointer(c, true);
    pthread_join(c->thread, NULL);
    sqlite3_finalize(c->begin);
    sqlite3_finalize(c->insert);
    sqlite3_finalize(c->commit);
    must(c->checkpointer, sqlite3_close(c->checkpointer));
    must(c->writer, sqlite3_close(c->writer));
    remove(c->path);
}
