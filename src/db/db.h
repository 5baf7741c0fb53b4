/* db.h - the store: statements, transactions, one interface for SQLite and PostgreSQL. The only folder that knows a dialect.
 *
 * Statements are static tables; SQL is one text for both databases: $1, $2 … , RETURNING, ON CONFLICT, keyset paging. They register
 * themselves (STMT), so db_check() can prepare every one at start, compare its columns with its row table, and refuse a statement that touches
 * a tenant's table without comparing that table's tenant_id.
 *
 *     STMT(trigger_by_id, "SELECT id, name FROM triggers WHERE tenant_id = $1 AND id = $2", .row = &trigger_table);
 *     TRY(db_row(tx, &trigger_by_id, &row, ARGS(STR(rq->who.tenant_id), STR(id))));
 *
 * SQLite: reads run on a connection of the calling thread; writes are jobs for the one writer: each runs inside a SAVEPOINT, a batch of them commits
 * together with synchronous=FULL, and `done` is called after that commit. PostgreSQL: reads and writes take a connection of the pool with their first
 * statement; a write is a transaction of its own, or shares one with others (db_job.shared). */
#pragma once

#include "codec/field.h"

struct db;
struct tx; /* a transaction, or a read snapshot, of one thread */

enum stmt_scope {
    SCOPE_TENANT, /* every tenant table in it compares tenant_id with a parameter */
    SCOPE_SYSTEM, /* runs for no tenant or for all; listed in tests/golden/system-statements.txt */
};
struct stmt {
    const char *name; /* "<file>.<id>" */
    const char *sql;
    const char *postgres;    /* where the text must differ there; NULL = it does not */
    const struct table *row; /* what a result row becomes; NULL when it returns none */
    enum stmt_scope scope;
    bool
        scan_ok; /* a scan or temporary b-tree in its plan is known and accepted (small table, cleaner, off the loops) */
    const struct stmt *const *slot; /* its place among all statements */
};
#define STMT(id, text, ...)                                                                            \
    static const struct stmt id;                                                                       \
    static const struct stmt *const id##_slot __attribute__((section("weir_statements"), used)) = &id; \
    static const struct stmt id = { .name = #id, .sql = text, .slot = &id##_slot, __VA_ARGS__ }
/* All statements linked into the binary. */
const struct stmt *const *db_statements(size_t *count);

struct arg {
    enum { ARG_NULL, ARG_I64, ARG_F64, ARG_STR, ARG_BLOB } type;
    i64 integer;
    double real;
    str text;
};
struct args {
    const struct arg *list;
    u32 n;
};
#define STR(s)  ((struct arg){ .type = (s).p != NULL ? ARG_STR : ARG_NULL, .text = (s) })
#define I64(v)  ((struct arg){ .type = ARG_I64, .integer = (v) })
#define F64(v)  ((struct arg){ .type = ARG_F64, .real = (v) })
#define BOOL(v) ((struct arg){ .type = ARG_I64, .integer = (v) ? 1 : 0 })
#define NIL     ((struct arg){ .type = ARG_NULL })
#define ARGS(...) \
    ((struct args){ (const struct arg[]){ __VA_ARGS__ }, sizeof((struct arg[]){ __VA_ARGS__ }) / sizeof(struct arg) })

#define NO_ARGS ((struct args){ NULL, 0 })

/* With `url` opens that PostgreSQL database; a first connection must succeed. Else opens the data folder's database (made when absent) and takes the
 * folder's lock (ERR_BUSY: another process has it). Starts the threads that write. ERR_FORBIDDEN: the login is a superuser or passes row-level security.
 * ERR_INTERNAL is logged with its cause. */
struct db_options {
    str folder;     /* WEIR_DATA */
    str url;        /* DATABASE_URL: "postgresql://…"; n == 0: SQLite */
    u32 batch_max;  /* jobs per commit; 0 = 256 */
    bool read_only; /* for tools beside a running server: no lock, no writer; ERR_NOT_FOUND when there is no database */
    u32 queue_max;  /* waiting jobs of each sort (interactive, background); above: ERR_BUSY; 0 = 16,384 */
    i64 read_budget_us; /* of a fast read (db_read_begin fast = true); 0 = 2,000, and with PostgreSQL 1,000,000 */
    /* PostgreSQL: */
    u32 pool_size;       /* connections that are kept; 0 = four per core, 8 at least, 20 at most */
    u32 pool_overflow;   /* more of them while all are in use, closed afterwards */
    i64 pool_wait_us;    /* for a free one, then ERR_BUSY; 0 = 30 s */
    i64 pool_recycle_us; /* age at which one is replaced; 0 = an hour */
    i64 statement_us;    /* a statement is stopped after that; 0 = 30 s */
    str programs;        /* folder of pg_dump and pg_restore; n == 0: PATH */
};
enum { DB_POOL_MAX = 256 };
/* Whether reading blocks: such reads do not belong on a loop. */
bool db_reads_block(const struct db *db);
/* Threads that may read at once without waiting for one another; 0 when each has its own connection. */
u32 db_pool_size(const struct db *db);
err db_open(const struct db_options *options, struct db **out) MUST;
/* Finishes what is queued, checkpoints, closes, unlocks. Reader connections of other threads must be closed before. */
void db_close(struct db *db);
/* For a thread that will make fast reads, before it has anybody to serve: opens its connection, which may take seconds. Where that fails the first read tries again. */
void db_thread_begin(struct db *db);
/* Closes the calling thread's reader connection, if it has one. */
void db_thread_end(struct db *db);

/* Migrations: files of migrations/, built into the binary in order. */
struct migration {
    u32 number;
    const char *name, *up, *down;
    const char *postgres_up, *postgres_down; /* NULL = the same */
};
extern const struct migration db_migrations[]; /* ends with number 0; generated by the build */
struct migration_state {
    u32 number;
    str name;
    i64 applied_at; /* 0 = not yet */
    bool changed;   /* applied with another checksum, or unknown to this binary */
};
/* Applies all missing ones, each in a transaction, one process at a time. ERR_CONFLICT: the schema is newer than the binary or a checksum differs (logged). */
err db_migrate_up(struct db *db) MUST;
/* Takes the newest one back. ERR_NOT_FOUND when there is none. */
err db_migrate_down(struct db *db) MUST;
/* All that are newer than `number`. */
err db_migrate_down_to(struct db *db, u32 number) MUST;
err db_migrate_status(struct db *db, struct arena *a, struct migration_state **list, u32 *n) MUST;
/* What a migration's text is on this database, up or down; NULL: there is no such migration. */
const char *db_migration_text(const struct db *db, u32 number, bool up);
/* Prepares every statement and applies the rules above; writes each complaint as a line. */
err db_check(struct db *db, struct buf *complaint) MUST;

/* A read snapshot on the calling thread's connection. fast: statements that run longer than the budget in all stop with ERR_BUSY (*slow of
 * db_read_was_slow tells), and the caller runs them again in a pool. Rows live on `a`. */
err db_read_begin(struct db *db, struct arena *a, bool fast, struct tx **out) MUST;
void db_read_end(struct tx *tx);
bool db_read_was_slow(const struct tx *tx);
/* A fast read whose work is begun again from its top, off the loop, when it was slow. */
void db_read_repeats(struct tx *tx);
/* Called by a thread each time before it sleeps; from the first call on, a fast read may go on in the snapshot of the fast read before it while nothing was committed
 * in between. So it sees what it would have seen without, and a burst of reads costs one look at the locks of the file. */
void db_read_rest(struct db *db);
/* A read whose work may be begun again from its top, and which wants all in one look: what was asked ahead (db_ask), with one statement that is waited for. It is
 * no transaction of its own then, which saves PostgreSQL three quarters of the work. A second look fails (ERR_BUSY) and counts as slow, however the work ends: the
 * caller begins again without this. */
void db_read_once(struct tx *tx);
/* Asks, before work that is too long for a loop: true on a read that repeats. It counts as slow then, and the caller returns ERR_BUSY. */
bool db_read_leave(struct tx *tx);

/* Exactly the first row into *row (zeroed before; texts on the transaction's arena). ERR_NOT_FOUND when none. row may be NULL: does one exist? */
err db_row(struct tx *tx, const struct stmt *s, void *row, struct args args) MUST;
/* All rows, at most `max` (then the rest is left): *rows is an array of the row struct. */
err db_list(struct tx *tx, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args) MUST;
/* A question that goes out with the next statement that is waited for, whose answer brings the answer of this one. It stays where it is until the transaction ends or is answered. */
struct ahead {
    const struct stmt *stmt;
    u32 max, n;
    void *rows;
    bool answered;
    void *result; /* this and the rest are the driver's */
    struct ahead *next;
};
err db_ask(struct tx *tx, const struct stmt *s, u32 max, struct ahead *out, struct args args) MUST;
/* As db_list and db_row would have answered; waits when nothing else has waited since. */
err db_answer_list(struct tx *tx, struct ahead *ahead, void **rows, u32 *n) MUST;
err db_answer_row(struct tx *tx, struct ahead *ahead, void *row) MUST;
/* No rows; *changed is how many rows the statement changed. A broken UNIQUE, CHECK or foreign key is ERR_CONFLICT. Without `changed` it is as db_send: with
 * PostgreSQL such a failure may be that of a later call or of the transaction. */
err db_exec(struct tx *tx, const struct stmt *s, i64 *changed, struct args args) MUST;
/* db_exec for whoever answers its failure: that is known when it returns. */
err db_try(struct tx *tx, const struct stmt *s, struct args args) MUST;
/* db_exec whose outcome is the transaction's: with PostgreSQL it is not waited for but rides with the next statement that is, or with the commit.
 * unless_one: how the transaction ends when the statement changes another number of rows than one; OK = any number will do. */
err db_send(struct tx *tx, const struct stmt *s, err unless_one, struct args args) MUST;
struct arena *db_arena(const struct tx *tx);
/* Holds the transaction to one tenant: a statement of scope TENANT that names another one is a mistake of ours (ERR_INTERNAL). Without it each statement
 * is held to the tenant that it names: with PostgreSQL no other tenant's rows are there for it. */
void db_act_for(struct tx *tx, str tenant_id);

/* Names of the tables that have a tenant_id, as the database knows them. ERR_TOO_LARGE: more than max. */
err db_tenant_tables(struct tx *tx, str *names, u32 max, u32 *n) MUST;
/* Deletes up to max rows of a tenant from one of those; nothing else belongs into this transaction. ERR_CONFLICT: others still refer to one of them. */
err db_purge(struct tx *tx, str table, str tenant_id, i64 max, i64 *n) MUST;

/* A write: embed it. `run` executes statements only, on the writer; anything but OK rolls its own changes back. It may be run again after a failed
 * batch, so it starts from its inputs each time; `arena` is rewound to where it was before the first run. `done` follows on the writer after the commit
 * (or the failure) with the outcome and must only hand on: post a message. ERR_BUSY, ERR_STORAGE (disk full), ERR_INTERNAL (I/O error) come from the batch. */
struct db_job {
    err (*run)(struct db_job *job, struct tx *tx);
    void (*done)(struct db_job *job, err outcome);
    struct arena *arena; /* rows live here */
    bool background;     /* behind interactive ones, in slices of 2 ms */
    /* PostgreSQL. Jobs of one tenant, and those of none, run one after another, on all nodes: what one has read stays true until it commits, as with SQLite's
     * one writer. A loose job takes no turn: it depends on nothing that it read but what the WHERE of its own statements says. A shared one is loose,
     * and only sends (db_send): it may share its transaction with others. */
    str tenant;
    bool loose, shared;
    struct db_job *next; /* this and the rest are the queue's */
    i64 queued_us;
    err outcome;
    struct arena_mark mark;
};
/* From any thread. ERR_BUSY when the queue is full (or the database is closing): `done` is then not called. */
err db_submit(struct db *db, struct db_job *job) MUST;
/* Waits for it: for start-up, tools and tests; never on a loop or the writer. */
err db_write_wait(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx) MUST;
/* The same for a write that takes no turn (db_job.loose). */
err db_write_loose(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx) MUST;
bool db_on_writer(void);
/* The same on the calling thread and a connection of its own, taking no turn: for what must not wait behind the work of the process, as a heartbeat. Not run again after
 * a failure. SQLite: db_write_wait. */
err db_write_own(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx) MUST;

/* Whether other processes may have this database open: PostgreSQL. */
bool db_has_others(const struct db *db);
/* News between them. `heard` is called on a thread of the store's, also for what this process says; STR_NONE: it listens, from now on or again, and what was said
 * before has not been heard. The thread connects again by itself. Once per store; ERR_INTERNAL where there are no others. */
err db_listen(struct db *db, void (*heard)(str text)) MUST;
void db_listen_end(struct db *db); /* another thread may go on saying something */
bool db_listening(const struct db *db);
/* From one thread at a time, never inside a transaction; waits for a second at most. The text is UTF-8 without NUL. */
enum { DB_NEWS_MAX = 7999 };
err db_notify(struct db *db, str text) MUST;

/* Told after each statement how long it took, with the rows it gave, on the thread that ran it: for metrics. NULL = nobody. The two looks at the clock
 * are 1 % of the fastest statement; a fast read needs them for its budget anyway. */
typedef void db_observer(const struct stmt *s, i64 took_us);
void db_observe_by(db_observer *fn);

struct db_stats {
    u64 batches, jobs, failed, statements;
    u32 queued;
    i64 oldest_queued_us;              /* age; 0 when none waits */
    i64 last_commit_us;                /* how long it took */
    u64 wal_pages;                     /* SQLite */
    u32 connections, connections_idle; /* PostgreSQL: of the pool */
    bool disk_full;                    /* SQLite: the last write found no room; looked at again each second */
};
struct db_stats db_stats(struct db *db);
/* Looks at a folder's database without its lock and without changing it, beside a running server too; for `weir doctor`. A check that finds nothing leaves
 * its text empty. ERR_NOT_FOUND: there is no database yet. ERR_INTERNAL: it cannot be opened or read (`broken` says why). */
struct db_inspection {
    str broken;            /* first finding of SQLite's quick check */
    str orphan;            /* first row without its parent: "table → parent" */
    str wrong_migration;   /* first that this binary does not know, or knows with another text */
    u32 applied, known;    /* migrations */
    i64 newest_applied_at; /* 0 = none */
    str unsafe_login;      /* PostgreSQL: it is a superuser or may bypass row-level security */
};
err db_inspect(struct arena *a, str folder, struct db_inspection *out) MUST;
/* The same for the database of options->url. */
err db_inspect_url(struct arena *a, const struct db_options *options, struct db_inspection *out) MUST;
/* Lets the database count tables again that have doubled since it last did, so that its plans fit. On the calling thread; nothing to do on SQLite. */
err db_count_grown(struct db *db, struct arena *a) MUST;
/* A consistent "select 1" with its latency, for health. */
err db_ping(struct db *db, i64 *latency_us) MUST;
