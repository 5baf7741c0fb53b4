/* sqlite.h - what the files of the SQLite side share: connections, transactions, the writer's state.
 *
 * A connection belongs to one thread at a time (SQLite is opened without its own mutexes). Its memory is one arena. */
#pragma once

#include "db/db_internal.h"

#include <sqlite3.h>

enum {
    REPLAYS_MAX = 3,         /* of one batch, after that its jobs get ERR_BUSY: a full disk fails every job anew */
    CHECKPOINT_PAGES = 1000, /* the WAL is copied back each time it has grown by so many pages (4 MiB) */
};
#define BACKGROUND_SLICE_US ((i64)2000) /* background jobs of one batch may take so long */

#define PROBE_US SECOND_US /* so often a full disk is looked at again */

enum role { ROLE_READER, ROLE_WRITER, ROLE_CHECKPOINTER };
enum verb {
    VERB_BEGIN,
    VERB_BEGIN_WRITE,
    VERB_COMMIT,
    VERB_ROLLBACK,
    VERB_SAVEPOINT,
    VERB_RELEASE,
    VERB_ROLLBACK_TO,
    VERB_PING,
    VERB_PROBE,
    VERBS
};

/* A statement of the tables as one connection knows it. */
struct prepared {
    sqlite3_stmt *stmt; /* NULL = not yet */
    u8 *number;         /* SQLite's number of $1, $2, …: it numbers named parameters as they occur */
    i8 *field;          /* index in the row table of each column; NULL without a row table */
    u16 parameters, columns;
    int reprepared; /* SQLite's count when `field` was made: a new schema may bring other columns */
};

struct conn {
    sqlite3 *sqlite;
    struct arena *arena;
    struct prepared *by_slot; /* one for each statement of the binary */
    sqlite3_stmt *verbs[VERBS];
};

struct sqlite_tx {
    struct tx base;
    struct conn *conn;
    i64 started_us;  /* the running statement */
    i64 left_us;     /* of a fast read's budget */
    i64 deadline_us; /* of the running statement; none for BEGIN and preparing, which a retry would have to do again */
    u32 statements;
    bool writes, fast, slow, begun, repeats;
    bool lost; /* SQLite rolled the whole batch back under this job */
};

/* Who has the WAL: the checkpointer copies most of it without holding the writer up, then the writer copies what came
 * meanwhile. Only the writer's share lets the next commit start the WAL from its beginning. */
enum checkpoint { CHECKPOINT_NONE, CHECKPOINT_WANTED, CHECKPOINT_COPIED };

struct sqlite {
    struct db base;
    const char *folder, *file;
    int lock;
    struct conn writer, checkpointer; /* each used by its own thread only, once that runs */
    pthread_t writer_thread, checkpointer_thread;
    bool writer_runs, checkpointer_runs;

    pthread_cond_t wal; /* with the next two under the base's mutex */
    bool closed;        /* no more checkpoints */
    enum checkpoint checkpoint;

    bool rests;                   /* it has given its memory back; the writer's */
    i64 background_us;            /* when a background slice last ended; the writer's */
    u32 wal_pages, checkpoint_at; /* the writer's */

    atomic_ullong commits; /* batches; counted before anybody is told of one */
    atomic_bool shortens; /* a checkpoint is under way: a snapshot that lingers would keep the WAL from starting anew */
    atomic_uint readers;
};
static inline struct sqlite *sqlite_of(struct db *db)
{
    return CONTAINER(db, struct sqlite, base);
}

err conn_open(struct conn *c, const char *file, enum role role) MUST;
void conn_shut(struct conn *c);
err conn_verb(struct conn *c, enum verb verb) MUST;
/* Runs the statements of a script. */
err conn_script(struct conn *c, const char *name, const char *sql) MUST;
/* The class of a SQLite result; logs what is a fault of ours. */
err conn_error(struct conn *c, int rc, const char *statement) MUST;
/* Whether no transaction is open. */
static inline bool conn_idle(const struct conn *c)
{
    return sqlite3_get_autocommit(c->sqlite) != 0;
}
void tx_begin_write(struct sqlite_tx *tx, struct sqlite *db, struct arena *a);

/* vfs.c: the name of the VFS that can be made to fail. */
#define VFS_NAME "weir"
err vfs_register(void) MUST;

/* sqlite_writer.c */
err writer_start(struct sqlite *db) MUST;
/* Drains the queues and ends both threads. */
void writer_stop(struct sqlite *db);

/* inspect.c: a connection that changes nothing, beside a running server too. ERR_NOT_FOUND, ERR_MEMORY; ERR_INTERNAL writes why. */
err inspect_open(struct arena *a, str folder, sqlite3 **out, struct buf *complaint) MUST;

/* sqlite_check.c */
err sqlite_check(struct db *base, struct buf *complaint) MUST;
