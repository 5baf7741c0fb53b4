/* db_internal.h - what the files of src/db share and nobody else sees: the driver table, the base of a store and of a transaction, the queue.
 *
 * A driver is a row of functions over structs that begin with `struct db` and `struct tx`. db.c forwards to it, one pointer per operation, so a
 * statement costs one indirect call more than it did with one driver, and nothing else. */
#pragma once

#include "db/db.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    PARAMETERS_MAX = 128, /* $1 … of one statement */
    COLUMNS_MAX = 64,     /* of one statement; a table has no more fields */
    STATEMENTS_MAX = 8192,
    BATCH_MAX = 256,   /* where options say nothing else */
    QUEUE_MAX = 16384, /* likewise */
};
#define READ_BUDGET_US ((i64)2000) /* likewise */

/* Jobs in the order of arrival. */
struct queue {
    struct db_job *first, **tail;
    u32 n;
};
void queue_init(struct queue *q);
void queue_put(struct queue *q, struct db_job *job);
struct db_job *queue_take(struct queue *q);

struct driver {
    const char *name; /* "sqlite", "postgres" */
    bool shares;      /* jobs that may share a transaction have a queue of their own; else they are interactive ones */
    bool (*takes)(const struct db *db, const struct db_job *job); /* may it run now? NULL = always. Under the mutex */
    void (*close)(struct db *db);
    void (*thread_begin)(struct db *db); /* NULL: opening takes no time */
    void (*thread_end)(struct db *db);
    err (*read_begin)(struct db *db, struct arena *a, bool fast, struct tx **out);
    void (*read_end)(struct tx *tx);
    bool (*read_was_slow)(const struct tx *tx);
    void (*read_repeats)(struct tx *tx);
    bool (*read_leave)(struct tx *tx);
    void (*read_rest)(struct db *db); /* NULL: nothing lingers */
    void (*read_once)(struct tx *tx); /* NULL: it makes no difference */
    err (*row)(struct tx *tx, const struct stmt *s, void *row, struct args args);
    err (*list)(struct tx *tx, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args);
    err (*ask)(struct tx *tx, struct ahead *ahead, struct args args); /* NULL: the list is read at once */
    err (*answer)(struct tx *tx, struct ahead *ahead);                /* one that is not answered yet */
    err (*exec)(struct tx *tx, const struct stmt *s, i64 *changed, struct args args);
    err (*send)(struct tx *tx, const struct stmt *s, err unless_one, struct args args);
    /* NULL: there is one process, and its writer (SQLite) */
    err (*write_own)(struct db *db, struct arena *a, err (*run)(void *ctx, struct tx *tx), void *ctx);
    err (*listen)(struct db *db, void (*heard)(str text));
    void (*listen_end)(struct db *db);
    bool (*listening)(const struct db *db);
    err (*notify)(struct db *db, str text);
    err (*script)(struct tx *tx, const char *name, const char *sql); /* of a migration, inside its transaction */
    err (*migrated)(struct tx *tx);                                  /* after a migration went up, in its transaction */
    err (*migrate_lock)(struct tx *tx); /* until the transaction ends: one node migrates at a time */
    err (*check)(struct db *db, struct buf *complaint);
    err (*count_grown)(struct tx *tx); /* NULL: nothing depends on it */
    err (*ping)(struct db *db, i64 *latency_us);
    void (*stats)(struct db *db, struct db_stats *out);
};

/* Begins every driver's store. */
struct db {
    const struct driver *driver;
    struct arena *arena;
    struct db_options options;
    u8 *tenant_at; /* by slot: the parameter that is the tenant; 0 = none */

    pthread_mutex_t mutex; /* over all from here to `stats`, and over what the driver puts beside it */
    pthread_cond_t work, shared_work;
    struct queue interactive, background, shared;
    bool closing; /* no more jobs */
    struct db_stats stats;

    atomic_ullong statements;
};
/* Begins every driver's transaction. */
struct tx {
    struct db *db;
    struct arena *arena;
    str tenant; /* that it is held to; STR_NONE = whichever its statements name */
};

/* db.c: a store of so many bytes with the base filled; ERR_MEMORY. */
err db_base(const struct db_options *options, const struct driver *driver, size_t size, struct db **out) MUST;
/* A statement's place among all. */
size_t stmt_slot(const struct stmt *s);
/* Tells the observer. */
void stmt_took(const struct stmt *s, i64 took_us);
/* Logs a mistake of ours; always ERR_INTERNAL. */
err db_misused(const char *statement, const char *what) MUST;
/* "$12" becomes 12; 0 for any other name. */
u32 parameter_number(const char *name);
/* Told by each thread that runs jobs, about itself. */
void db_this_is_writer(void);
/* Whether background jobs have waited so long that they go before interactive ones; under the mutex. `last_us`: when some last ran. */
bool queue_overdue(const struct queue *background, i64 last_us);
#define BACKGROUND_WAIT_US ((i64)100000)

err sqlite_open(const struct db_options *options, struct db **out) MUST;
err postgres_open(const struct db_options *options, struct db **out) MUST;

/* Rows that grow by doubling. */
struct rows {
    char *p;
    u32 n, room, max;
};
err rows_room(struct arena *a, struct rows *rows, size_t size) MUST;

/* migrate.c: is this the checksum of the migration's text, as the driver runs it? */
bool migration_is(const struct driver *driver, const struct migration *m, str checksum);
extern const struct driver sqlite_driver, postgres_driver;

/* check.c: rules that do not depend on the database. */
struct names {
    str *list;
    u32 n;
};
enum { NAMES_MAX = 1024 };
str names_get(const struct names *names, str name); /* as it stands there; STR_NONE when it does not */
bool names_have(const struct names *names, str name);
err names_add(struct arena *a, struct names *names, str name) MUST;

struct checking {
    struct arena *arena;
    struct buf *complaint;
    u32 complaints;
    const struct stmt *stmt; /* the one being looked at */
};
void check_complain(void *checking, const char *what, str detail);
void check_verb(struct checking *c);
/* Calls `one` for each statement of the binary, with it as c->stmt; memory of one is not kept for the next. */
err check_each(struct checking *c, err (*one)(struct checking *c)) MUST;
/* `seen` has a bit for each field that a column of the statement fills. */
void check_column(struct checking *c, str name, u64 *seen);

/* check_tenant.c: complains about each reference of a tenant table in the statement that is not held to one tenant. ERR_MEMORY or
 * ERR_TOO_LARGE when it cannot be looked at. */
struct tenant_check {
    struct arena *arena;
    const struct names *tables;  /* that have a tenant_id */
    const struct names *touched; /* those of them that the database says the statement itself names */
    void (*complain)(void *ctx, const char *what, str name);
    void *ctx;
};
err tenant_check(const struct tenant_check *check, str sql) MUST;
/* Whether `alias` stands for one of the tables somewhere in the statement. */
bool alias_of_table(struct arena *a, const struct names *tables, str sql, str alias);
/* The names among `tables` that the statement refers to. */
err tables_of(struct arena *a, const struct names *tables, str sql, struct names *out) MUST;
/* Which parameter names the tenant: that of the first `tenant_id = $n`, or that of tenant_id among the values of an INSERT. 0: none does. */
u32 tenant_parameter(str sql);
