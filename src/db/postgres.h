/* postgres.h - what the files of the PostgreSQL side share: connections in pipeline mode, the pool, transactions.
 *
 * A connection belongs to one thread at a time. What was sent and not yet answered stands in its ring of asks; an answer is read when somebody
 * needs it, and what nobody needs (a COMMIT behind a read) is read by whoever uses the connection next. */
#pragma once

#include "db/db_internal.h"

#include <libpq-fe.h>

enum {
    ASKS_MAX = 512,    /* in flight on a connection; then their answers are read first */
    TENANT_BYTES = 64, /* of a tenant's id; one that is longer finds no rows */
    ATTEMPTS_MAX = 8,  /* of a transaction that PostgreSQL refused because of another one (a deadlock) */
    LOST_MAX = 3,      /* of one whose connection was lost before its first effect */
    TURNS = 64,
    TURN_LOCKS = 7305790, /* the first of the two keys of pg_advisory_xact_lock */
    SHARERS = 2,          /* threads for jobs that share transactions: one gathers while the other commits */
    SHARED_MAX = 64,      /* jobs in one transaction */
    BATCH_JOBS_MAX = 32,  /* of one tenant in one; PostgreSQL keeps 64 savepoints of a transaction at hand */
    BATCH_LOOK_MAX = 256, /* jobs looked at for further ones of the same tenant */
    TURNS_HELD = 4,       /* that a transaction remembers; one taken twice costs a message and nothing else */
    POOL_PER_CORE = 4,
    POOL_MIN = 8,
    POOL_PRESET_MAX = 20,
};
#define CONNECT_US   (5 * SECOND_US)
#define FAST_US      SECOND_US        /* what a read on a loop may take in all, connecting included */
#define DRAIN_US     (SECOND_US / 50) /* for the rest of an answer that comes late */
#define LOOP_REST    2                /* a loop that could not connect does not try for so many times what it took, */
#define LOOP_WAIT    4                /* and while nobody hears the database for so many times */
#define GRACE_US     (5 * SECOND_US)  /* of the network, beyond the time-out that the server keeps itself */
#define DOWN_US      (SECOND_US / 4)  /* after a failed attempt to connect nobody tries again for so long */
#define LOOK_IDLE_US (SECOND_US / 2)  /* a connection that was idle for so long is looked at before its use */
#define PING_IDLE_US (30 * SECOND_US) /* and one that was idle for so long has to answer first */
#define POOL_WAIT_US (30 * SECOND_US)
#define RECYCLE_US   HOUR_US
#define STATEMENT_US (30 * SECOND_US)
#define APP_ROLE     "weir_app"
#define NEWS_CHANNEL "weir"
#define MIGRATE_LOCK "7305790126" /* of pg_advisory_xact_lock: any number that no one else takes */

/* What the database says about a statement; the same for all connections, made once. */
struct pg_meta {
    u16 parameters, columns;
    Oid *parameter; /* types */
    Oid *column;
    i8 *field; /* index in the row table of each column; NULL without a row table */
};

/* One message that was sent and will be answered. */
struct ask {
    enum { ASK_PLAIN, ASK_COMMIT, ASK_PREPARE, ASK_ROWS, ASK_AHEAD, ASK_SYNC } kind;
    bool ignored;
    const char *name;    /* of the statement, for the log */
    err unless_one;      /* guarded: the outcome when it changed another number of rows than one; OK = not guarded */
    u32 bit;             /* ASK_PREPARE: in pg_conn.prepared */
    struct ahead *ahead; /* ASK_AHEAD: who asks */
};

struct pg_conn {
    PGconn *pg;
    struct arena *arena;  /* on which this is */
    struct pg_conn *next; /* of the idle ones */
    struct ask asks[ASKS_MAX];
    u32 first, asked;
    i64 born_us, used_us;
    u32 generation;
    bool broken;
    bool late;             /* it broke because it did not answer in time: another one will not either */
    bool patient, stalled; /* a loop's: that it did not answer in time is no loss; it has not answered yet */
    char cause[200];       /* of the last failure */
    /* The tenant that the session is set to (app.tenant), while `stands`: only reads of one look (pg_tx.once) that were answered leave it so, and whatever
     * else happens on the connection takes it away. It says which message can be spared, never what a statement may see. */
    char standing[TENANT_BYTES + 1];
    bool stands;
    u8 prepared[2 * STATEMENTS_MAX / 8]; /* two bits per slot: as it is, and guarded */
};

enum isolation { READ_SNAPSHOT, WRITE_IN_TURN, WRITE_LOOSE };
struct postgres;
struct pg_tx {
    struct tx base;
    struct pg_conn *conn; /* from the first statement on */
    enum isolation isolation;
    i64 deadline_us; /* of the whole of a fast read; 0 = none */
    bool fast, begun, committing;
    err failed;   /* the first failure: nothing more is done */
    bool refused; /* … because of another transaction: it may be run again */
    bool lost;    /* … because the connection broke */
    bool late;    /* … because it did not answer in time */
    u32 statements;
    char tenant[TENANT_BYTES + 1]; /* as the server was told */
    bool scoped, system;
    u32 turn;                               /* WRITE_IN_TURN: the key of the lock */
    u32 further[TURNS_HELD], further_count; /* turns of other tenants that it has taken since */
    bool point, pointed;                    /* a savepoint is wanted; it is there */
    bool once, looked;                      /* a read without a transaction of its own; it has had its look */
    bool stood;                             /* in this look the session was set to its tenant, and to nothing else */
    bool again;                             /* it must be begun again from its top */
    struct ahead *ahead;                    /* asked and not answered, newest first */
};

/* The reads of a thread; a loop's connection is its own, so that it never waits for one. */
struct pg_reader {
    struct pg_reader *next;
    struct postgres *db;
    struct arena *arena;
    struct pg_conn *conn; /* of fast reads */
    struct pg_tx tx;
    bool open;
};

struct postgres {
    struct db base;
    const char *url;
    _Atomic(const struct pg_meta *) *meta; /* by slot */

    pthread_mutex_t pool; /* over all down to `waiting` */
    pthread_cond_t freed;
    struct pg_conn *idle;
    u32 open;       /* places that are taken: by a connection, or by … */
    u32 opening;    /* an attempt to get one */
    u32 idle_count; /* connections that nobody uses */
    i64 down_until_us;
    bool closing;

    /* Where a loop could not connect: no loop tries again before the first, nor, while nobody hears the database, before the second. 0 = they may. */
    _Atomic i64 loops_rest_us, loops_wait_us;

    atomic_uint generation; /* of the schema and role: connections of an older one are replaced */
    pthread_t *threads;
    u32 thread_count;
    i64 background_us; /* when a background job was last taken; with the next under the base's mutex */
    u64 turns; /* a bit per key, modulo TURNS, whose job runs: the others of it wait here and hold no connection */

    void (*news_heard)(str text);
    pthread_t news_thread;
    int news_end; /* readable when the listener is to end */
    bool news_runs;
    atomic_bool news_up;
    struct pg_conn *news_says; /* of the one thread that says something */
};
static inline struct postgres *postgres_of(struct db *db)
{
    return CONTAINER(db, struct postgres, base);
}

/* -- postgres_conn.c -- */

/* ERR_UNAVAILABLE when the server is not reached or not ready by then. */
err pg_connect(struct postgres *db, i64 deadline_us, struct pg_conn **out) MUST;
void pg_close(struct pg_conn *c);
/* Each sends something and notes what will be answered; nothing waits. ERR_UNAVAILABLE: the connection is broken. */
enum pg_verb {
    PG_BEGIN_READ,
    PG_BEGIN_WRITE,
    PG_COMMIT,
    PG_ROLLBACK,
    PG_POINT,
    PG_RELEASE,
    PG_BACK,
    PG_PING,
    PG_VERBS
};
err pg_send_verb(struct pg_conn *c, enum pg_verb verb) MUST;
err pg_send_turn(struct pg_conn *c, u32 key) MUST;
err pg_send_notify(struct pg_conn *c, str text) MUST;
/* first: nothing of it was set in this transaction yet. */
err pg_send_scope(struct pg_conn *c, const char *tenant, bool system, bool first) MUST;
/* Sets the session to a tenant, if what it is sent with goes well: what is set for a transaction goes before that, and leaves it there. */
err pg_send_standing(struct pg_conn *c, const char *tenant) MUST;
/* A guarded statement fails, and its transaction with it, unless it changes one row: nothing behind it in the pipeline is carried out, COMMIT included. Counting
 * the rows afterwards was rejected: it costs another round trip before the COMMIT. */
bool pg_prepared(const struct pg_conn *c, const struct stmt *s, bool guarded);
err pg_send_prepare(struct pg_conn *c, struct arena *a, const struct stmt *s, bool guarded) MUST;
err pg_send_stmt(struct pg_conn *c, struct arena *a, const struct stmt *s, const struct pg_meta *m, struct args args,
                 struct ask ask) MUST;
/* Ends a stretch of the pipeline: an error before it spoils nothing behind it. Pushes everything out. */
err pg_send_sync(struct pg_conn *c, i64 deadline_us) MUST;
/* Reads answers up to and with the oldest sync. The first failure is returned; the rows of the last ASK_ROWS go to *rows (PQclear them), also when
 * it is NULL. *refused: as in struct pg_tx. */
struct answers {
    PGresult *rows;
    err failed;
    bool refused;
    bool undone; /* a COMMIT that was carried out as ROLLBACK */
};
err pg_read(struct pg_conn *c, i64 deadline_us, struct answers *out) MUST;
/* Whatever is still to be answered is nobody's business any more. */
void pg_disown(struct pg_conn *c);
/* Asks the server what a statement takes and gives. */
err pg_describe(struct postgres *db, struct pg_conn *c, const struct stmt *s, i64 deadline_us,
                const struct pg_meta **out) MUST;
/* Runs a script of several statements inside the open transaction. */
err pg_script(struct pg_conn *c, const char *name, const char *sql, i64 deadline_us) MUST;
/* Statements without parameters outside of any transaction, when nothing is in flight: *value is the first column of the first row of the last (on `a`). */
err pg_ask(struct pg_conn *c, struct arena *a, const char *sql, i64 deadline_us, str *value) MUST;
/* "SQLSTATE" to class; *refused likewise. */
err pg_class(const char *state, bool *refused);
const char *pg_sql(const struct stmt *s);
err pg_cell(const PGresult *r, int row, int column, Oid type, struct arena *a, struct cell *out) MUST;

/* -- postgres_pool.c -- */

/* A connection that works, as far as can be seen. ERR_BUSY: none became free; ERR_UNAVAILABLE. */
err pool_take(struct postgres *db, i64 wait_us, struct pg_conn **out) MUST;
void pool_give(struct postgres *db, struct pg_conn *c);
/* An idle one, as it is (pg_usable tells), which is no longer the pool's; NULL: there is none to spare. For who has no time to connect. */
struct pg_conn *pool_adopt(struct postgres *db);
/* Closes what is idle: after one connection was lost the others are as old as it. */
void pool_forget(struct postgres *db);
bool pg_usable(struct postgres *db, struct pg_conn *c);
/* Whether one that has stalled answers again; never waits for the first byte. */
bool pg_recovered(struct pg_conn *c);

/* -- postgres.c -- */

/* Makes the role that serves, where that is allowed, and lets it do what it must: after each change of the schema. */
extern const char postgres_role_sql[];

void pg_begin(struct pg_tx *tx, struct postgres *db, struct arena *a, enum isolation isolation);
/* Around a job that shares its transaction with others: what it did can be taken back alone. */
void pg_point(struct pg_tx *tx);
err pg_point_end(struct pg_tx *tx, err e) MUST;
/* The key of a tenant's turn. */
u32 pg_turn_of(str tenant);
/* COMMIT when `e` is OK, else ROLLBACK; returns how the transaction ended. */
err pg_end(struct pg_tx *tx, err e) MUST;

/* -- postgres_writer.c -- */

err pg_writers_start(struct postgres *db) MUST;
void pg_writers_stop(struct postgres *db);
/* Under the mutex. A job whose turn is taken wakes nobody. */
bool postgres_takes(const struct db *base, const struct db_job *job);

/* -- postgres_news.c -- */

err postgres_listen(struct db *base, void (*heard)(str text)) MUST;
void postgres_listen_end(struct db *base);
bool postgres_listening(const struct db *base);
err postgres_notify(struct db *base, str text) MUST;

/* -- postgres_check.c -- */

err postgres_check(struct db *base, struct buf *complaint) MUST;
