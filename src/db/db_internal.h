/* db_internal.h - what the files of src/db share and nobody else sees: connections, transactions, the writer's state.
 *
 * A connection belongs to one thread at a time (SQLite is opened without its own mutexes). Its memory is one arena. */
#pragma once

#include "db/db.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

enum {
    PARAMETERS_MAX = 128, /* $1 … of one statement */
    COLUMNS_MAX = 64,     /* of one statement; a table has no more fields */
    STATEMENTS_MAX = 8192,
    REPLAYS_MAX = 3,         /* of one batch, after that its jobs get ERR_BUSY: a full disk fails every job anew */
    CHECKPOINT_PAGES = 1000, /* the WAL is copied back each time it has grown by so many pages (4 MiB) */
};
#define BACKGROUND_SLICE_US ((i64)2000)   /* background jobs of one batch may take so long */
#define BACKGROUND_WAIT_US  ((i64)100000) /* after that they go before interactive ones, for one slice */
#define PROBE_US            SECOND_US     /* so often a full disk is looked at again */

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

struct tx {
    struct db *db;
    struct conn *conn;
    struct arena *arena;
    i64 started_us;  /* the running statement */
    i64 left_us;     /* of a fast read's budget */
    i64 deadline_us; /* of the running statement; none for BEGIN and preparing, which a retry would have to do again */
    u32 statements;
    bool writes, fast, slow, begun, repeats;
    bool lost; /* SQLite rolled the whole batch back under this job */
};

/* Jobs in the order of arrival. */
struct queue {
    struct db_job *first, **tail;
    u32 n;
};
void queue_init(struct queue *q);
void queue_put(struct queue *q, struct db_job *job);
struct db_job *queue_take(struct queue *q);

/* Who has the WAL: the checkpointer copies most of it without holding the writer up, then the writer copies what came
 * meanwhile. Only the writer's share lets the next commit start the WAL from its beginning. */
enum checkpoint { CHECKPOINT_NONE, CHECKPOINT_WANTED, CHECKPOINT_COPIED };

struct db {
    struct arena *arena;
    struct db_options options;
    const char *folder, *file;
    int lock;
    struct conn writer, checkpointer; /* each used by its own thread only, once that runs */
    pthread_t writer_thread, checkpointer_thread;
    bool writer_runs, checkpointer_runs;

    pthread_mutex_t mutex; /* over all from here to `stats` */
    pthread_cond_t work, wal;
    struct queue interactive, background;
    bool closing, closed; /* no more jobs; no more checkpoints */
    enum checkpoint checkpoint;
    struct db_stats stats;

    bool rests;                   /* it has given its memory back; the writer's */
    i64 background_us;            /* when a background slice last ended; the writer's */
    u32 wal_pages, checkpoint_at; /* the writer's */
    atomic_ullong statements;
    atomic_uint readers;
};

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
void tx_begin_write(struct tx *tx, struct db *db, struct arena *a);

/* "$12" becomes 12; 0 for any other name. */
u32 parameter_number(const char *name);

/* migrate.c: is this the checksum of the migration's text? */
bool migration_is(const struct migration *m, str checksum);

/* vfs.c: the name of the VFS that can be made to fail. */
#define VFS_NAME "weir"
err vfs_register(void) MUST;

err writer_start(struct db *db) MUST;
/* Drains the queues and ends both threads. */
void writer_stop(struct db *db);

/* check_tenant.c: names of tables, and what is wrong with a statement that touches them. */
struct names {
    str *list;
    u32 n;
};
bool names_have(const struct names *names, str name);
/* Complains about each reference of a tenant table in the statement that is not held to one tenant. ERR_MEMORY or
 * ERR_TOO_LARGE when it cannot be looked at. */
struct tenant_check {
    struct arena *arena;
    const struct names *tables;  /* that have a tenant_id */
    const struct names *touched; /* those of them that SQLite says the statement itself names */
    void (*complain)(void *ctx, const char *what, str name);
    void *ctx;
};
err tenant_check(const struct tenant_check *check, str sql) MUST;
/* Whether `alias` stands for one of the tables somewhere in the statement. */
bool alias_of_table(struct arena *a, const struct names *tables, str sql, str alias);
