/* postgres.c - the store on PostgreSQL: transactions, statements, rows, opening and closing.
 *
 * BEGIN, the tenant and the first statement go out together; what is only sent (db_send) rides with the next statement that is waited for, or with
 * COMMIT. The tenant is that which the statement itself names, so row-level security sees what the statement says and not what a handler might have
 * forgotten; db_act_for() holds both to the caller's. */
#include "base/clock.h"
#include "base/log.h"
#include "db/postgres.h"

#include <string.h>
#include <unistd.h>

static _Thread_local struct pg_reader *my_readers; /* one for each open db; a thread has no other place to keep it */

/* ---- transactions ---- */

void pg_begin(struct pg_tx *tx, struct postgres *db, struct arena *a, enum isolation isolation)
{
    *tx = (struct pg_tx){ .base = { .db = &db->base, .arena = a }, .isolation = isolation };
}

static struct postgres *store_of(const struct pg_tx *tx)
{
    return postgres_of(tx->base.db);
}

static i64 deadline_of(const struct pg_tx *tx)
{
    return tx->deadline_us != 0 ? tx->deadline_us : clock_mono_us() + tx->base.db->options.statement_us + GRACE_US;
}

/* The first failure is the transaction's. */
static err fail(struct pg_tx *tx, err e, bool refused)
{
    if (tx->failed == OK && e != OK) {
        tx->failed = e;
        tx->refused = refused;
        tx->lost = tx->conn != NULL && tx->conn->broken;
        tx->late = tx->lost && tx->conn->late;
    }
    return tx->failed;
}

/* Where a loop cannot connect it has stood still for nothing, so loops rest for longer than that took. */
static void loops_rest(struct postgres *db, i64 from_us)
{
    i64 now_us = clock_mono_us();
    i64 took_us = MAX(now_us - from_us, (i64)DOWN_US);
    atomic_store(&db->loops_rest_us, now_us + LOOP_REST * took_us);
    atomic_store(&db->loops_wait_us, now_us + LOOP_WAIT * took_us);
}

/* The database answers somebody, so it will answer the loops. */
static void heard(struct postgres *db)
{
    if (atomic_load_explicit(&db->loops_wait_us, memory_order_relaxed) != 0)
        atomic_store(&db->loops_wait_us, 0);
}

static bool loops_may(struct postgres *db, i64 now_us)
{
    if (now_us < atomic_load(&db->loops_rest_us) || now_us < atomic_load(&db->loops_wait_us))
        return false;
    pthread_mutex_lock(&db->pool);
    bool down = now_us < db->down_until_us;
    pthread_mutex_unlock(&db->pool);
    return !down;
}

/* Who writes beside the pool is no loop: it may stand still, and tries when it has to, as a node's heart. */
static err connect_fast(struct pg_tx *tx, struct pg_conn **out)
{
    struct postgres *db = store_of(tx);
    bool of_loop = tx->isolation == READ_SNAPSHOT;
    i64 from_us = clock_mono_us();
    if (of_loop && !loops_may(db, from_us))
        return ERR_UNAVAILABLE;
    err e = pg_connect(db, tx->deadline_us, out);
    if (e != OK && of_loop)
        loops_rest(db, from_us);
    return e;
}

/* Looking at one may take a while, and the budget is that of the whole read. */
static struct pg_conn *adopt(const struct pg_tx *tx)
{
    return clock_mono_us() < tx->deadline_us ? pool_adopt(store_of(tx)) : NULL;
}

/* The connection of this loop: its own, one that the pool has no use for, a new one. One that has not answered in time is kept and looked at before each use, which
 * costs nothing: a server that stands still costs a loop its budget once, and not for each request. */
static err take_fast(struct pg_tx *tx)
{
    struct pg_reader *r = CONTAINER(tx, struct pg_reader, tx);
    struct postgres *db = store_of(tx);
    for (; r->conn != NULL || (r->conn = adopt(tx)) != NULL; r->conn = NULL) {
        r->conn->patient = true;
        if (r->conn->stalled && !pg_recovered(r->conn))
            return ERR_UNAVAILABLE;
        if (pg_usable(db, r->conn)) {
            tx->conn = r->conn;
            return OK;
        }
        if (r->conn->stalled)
            return ERR_UNAVAILABLE;
        pg_close(r->conn);
    }
    TRY(connect_fast(tx, &r->conn));
    r->conn->patient = true;
    tx->conn = r->conn;
    return OK;
}

static void leave(struct pg_tx *tx)
{
    struct pg_conn *c = tx->conn;
    tx->conn = NULL;
    if (c == NULL)
        return;
    if (!tx->fast) {
        pool_give(store_of(tx), c);
        return;
    }
    pg_disown(c);
    c->used_us = clock_mono_us();
    if (c->broken) {
        CONTAINER(tx, struct pg_reader, tx)->conn = NULL;
        pg_close(c);
    }
}

/* A connection with BEGIN on its way. */
static err enter(struct pg_tx *tx)
{
    if (tx->begun)
        return OK;
    if (tx->conn == NULL)
        TRY(tx->fast ? take_fast(tx) : pool_take(store_of(tx), tx->base.db->options.pool_wait_us, &tx->conn));
    if (!tx->once) { /* else the stretch of the pipeline is the transaction */
        tx->conn->stands = false;
        TRY(pg_send_verb(tx->conn, tx->isolation == READ_SNAPSHOT ? PG_BEGIN_READ : PG_BEGIN_WRITE));
    }
    tx->begun = true;
    return tx->isolation == WRITE_IN_TURN ? pg_send_turn(tx->conn, tx->turn) : OK;
}

/* FNV-1a. Two tenants with one key wait for one another now and then. */
u32 pg_turn_of(str tenant)
{
    u32 hash = 2166136261u;
    for (size_t i = 0; i < tenant.n; i++)
        hash = (hash ^ (u8)tenant.p[i]) * 16777619u;
    return hash >> 1;
}

/* Whoever works on another tenant's rows than its own (an invitation is accepted by somebody who is in no tenant yet) waits for that tenant's turn too: its statement
 * then sees what the one before has left. Two that wait crosswise are a deadlock, which PostgreSQL ends and the writer repeats. */
static err further_turn(struct pg_tx *tx, str tenant)
{
    u32 key = pg_turn_of(tenant);
    if (tx->isolation != WRITE_IN_TURN || tenant.n == 0 || key == tx->turn)
        return OK;
    for (u32 i = 0; i < MIN(tx->further_count, (u32)TURNS_HELD); i++)
        if (tx->further[i] == key)
            return OK;
    tx->further[tx->further_count++ % TURNS_HELD] = key;
    return pg_send_turn(tx->conn, key);
}

/* A read of one look that begins: it sets the session in place of a transaction, so that the next one of the same tenant on this connection need not. A look is
 * carried out whole or not at all, the setting included; so what was answered without a failure stands, until anything else is sent: another look's setting, one
 * for a transaction, BEGIN. After any failure nothing is known and the next look sets it again. */
static err stand(struct pg_tx *tx, const char *tenant)
{
    struct pg_conn *c = tx->conn;
    tx->stood = !c->stands || strcmp(c->standing, tenant) != 0;
    return tx->stood ? pg_send_standing(c, tenant) : OK;
}

/* For whom the next statement runs: told to the server when it is another than before. */
static err scope(struct pg_tx *tx, const struct stmt *s, struct args args)
{
    char tenant[TENANT_BYTES + 1] = "";
    bool system = s->scope == SCOPE_SYSTEM;
    u32 at = tx->base.db->tenant_at[stmt_slot(s)];
    str named = at > 0 && at <= args.n ? args.list[at - 1].text : tx->base.tenant;
    if (!system && named.n <= TENANT_BYTES && named.p != NULL && memchr(named.p, 0, named.n) == NULL)
        memcpy(tenant, named.p, named.n);
    if (!system && at > 0)
        TRY(further_turn(tx, str_of(tenant)));
    if (tx->scoped && tx->system == system && strcmp(tx->tenant, tenant) == 0)
        return OK;
    if (tx->once && !tx->scoped && !system) {
        TRY(stand(tx, tenant));
    } else {
        tx->stood = false;
        TRY(pg_send_scope(tx->conn, tenant, system, !tx->scoped && !tx->pointed));
    }
    memcpy(tx->tenant, tenant, sizeof tenant);
    tx->system = system;
    tx->scoped = true;
    return OK;
}

static err keep_rows(struct pg_tx *tx, const struct stmt *s, const PGresult *r, struct rows *rows);

/* Rows of what was asked ahead. */
static err keep_answers(struct pg_tx *tx, err e)
{
    for (struct ahead *a = tx->ahead; a != NULL; a = a->next) {
        struct rows rows = { .max = a->max };
        if (e == OK && a->result != NULL) {
            e = keep_rows(tx, a->stmt, a->result, &rows);
            a->answered = e == OK;
            a->rows = rows.p;
            a->n = rows.n;
        }
        PQclear(a->result);
        a->result = NULL;
    }
    if (e == OK)
        tx->ahead = NULL;
    return e;
}

/* Waits for all that was sent. */
static err settle(struct pg_tx *tx, struct answers *out)
{
    *out = (struct answers){ .failed = OK };
    err e = pg_send_sync(tx->conn, deadline_of(tx));
    if (e == OK)
        e = pg_read(tx->conn, deadline_of(tx), out);
    if (tx->ahead != NULL)
        e = keep_answers(tx, e);
    if (e != OK) {
        tx->conn->stands = false;
        PQclear(out->rows);
        out->rows = NULL;
        return e;
    }
    if (out->failed != ERR_UNAVAILABLE) /* its last words */
        heard(store_of(tx));
    tx->looked = true;
    if (!tx->once)
        return OK;
    tx->conn->stands |= tx->stood && out->failed == OK;
    tx->scoped = tx->stood = false; /* it ended here, and what was set for it */
    return OK;
}

static err prepare(struct pg_tx *tx, const struct stmt *s, bool guarded, const struct pg_meta **meta)
{
    struct postgres *db = store_of(tx);
    *meta = atomic_load_explicit(&db->meta[stmt_slot(s)], memory_order_acquire);
    if (*meta == NULL && !pg_prepared(tx->conn, s, false))
        TRY(pg_send_prepare(tx->conn, tx->base.arena, s, false));
    if (*meta == NULL) {
        struct answers before; /* what was only sent so far is answered here as well */
        TRY(settle(tx, &before));
        PQclear(before.rows);
        if (before.failed != OK)
            return fail(tx, before.failed, before.refused);
        TRY(pg_describe(db, tx->conn, s, deadline_of(tx), meta));
    }
    return pg_prepared(tx->conn, s, guarded) ? OK : pg_send_prepare(tx->conn, tx->base.arena, s, guarded);
}

/* Sends the statement and all that belongs before it. */
static err put(struct pg_tx *tx, const struct stmt *s, struct args args, struct ask ask)
{
    const struct pg_meta *meta;
    if (tx->failed != OK)
        return tx->failed;
    if (tx->once && tx->looked) {
        tx->again = true;
        return ERR_BUSY;
    }
    TRY(enter(tx));
    if (tx->point && !tx->pointed) {
        TRY(pg_send_verb(tx->conn, PG_POINT));
        tx->pointed = true;
    }
    if (tx->conn->asked > ASKS_MAX / 2) {
        struct answers before;
        TRY(settle(tx, &before));
        PQclear(before.rows);
        TRY(fail(tx, before.failed, before.refused));
    }
    TRY(prepare(tx, s, ask.unless_one != OK, &meta));
    tx->looked = false; /* what was asked so far served the asking */
    TRY(scope(tx, s, args));
    ask.name = s->name;
    return pg_send_stmt(tx->conn, tx->base.arena, s, meta, args, ask);
}

static err run_once(struct pg_tx *tx, const struct stmt *s, struct args args, PGresult **out)
{
    struct answers answers;
    TRY(put(tx, s, args, (struct ask){ .kind = ASK_ROWS }));
    TRY(settle(tx, &answers));
    if (answers.failed == OK && answers.rows == NULL) /* the guard of another statement swallowed it, which cannot be */
        answers.failed = ERR_INTERNAL;
    if (answers.failed != OK) {
        PQclear(answers.rows);
        return fail(tx, answers.failed, answers.refused);
    }
    *out = answers.rows;
    return OK;
}

/* A read that has seen nothing yet, and whose connection is lost. */
static bool may_repeat(const struct pg_tx *tx)
{
    return tx->statements == 0 && tx->isolation == READ_SNAPSHOT && tx->conn != NULL && !tx->conn->stalled &&
           !tx->conn->late;
}

/* The connection is lost; those that are idle are as old as it. */
static void let_go(struct pg_tx *tx)
{
    tx->conn->broken = true;
    leave(tx);
    pool_forget(store_of(tx));
}

/* A read whose connection was lost before it gave anything begins again on another one: nobody has seen its snapshot yet. */
static err run(struct pg_tx *tx, const struct stmt *s, struct args args, PGresult **out)
{
    i64 from_us = clock_mono_us();
    err e = ERR_UNAVAILABLE;
    for (u32 i = 0; i < LOST_MAX && e == ERR_UNAVAILABLE; i++) {
        e = run_once(tx, s, args, out);
        if (e != ERR_UNAVAILABLE || !may_repeat(tx))
            break;
        let_go(tx);
        tx->again = tx->ahead != NULL; /* what was asked ahead went with the connection */
        if (tx->again)
            break;
        tx->begun = tx->scoped = false;
        tx->failed = OK;
    }
    if (e == OK)
        tx->statements++;
    else
        e = fail(tx, e, false);
    stmt_took(s, clock_mono_us() - from_us);
    return e;
}

/* ---- rows ---- */

static struct pg_tx *of_base(struct tx *base)
{
    return CONTAINER(base, struct pg_tx, base);
}

static err fill(struct pg_tx *tx, const struct stmt *s, const PGresult *r, int row, void *out)
{
    const struct pg_meta *m = atomic_load_explicit(&store_of(tx)->meta[stmt_slot(s)], memory_order_acquire);
    for (int i = 0; i < m->columns; i++) {
        struct cell cell;
        TRY(pg_cell(r, row, i, m->column[i], tx->base.arena, &cell));
        TRY(field_from_cell(tx->base.arena, s->row, (u32)m->field[i], cell, out));
    }
    return OK;
}

/* Into memory of its own first: the caller's row stays as it was when a later column fails. */
static err first_row(struct pg_tx *tx, const struct stmt *s, const PGresult *r, void *row)
{
    if (PQntuples(r) == 0)
        return ERR_NOT_FOUND;
    if (row == NULL)
        return OK;
    void *made = arena_alloc(tx->base.arena, s->row->size);
    if (made == NULL)
        return ERR_MEMORY;
    TRY(fill(tx, s, r, 0, made));
    memcpy(row, made, s->row->size);
    return OK;
}

static err postgres_row(struct tx *base, const struct stmt *s, void *row, struct args args)
{
    PGresult *r;
    TRY(run(of_base(base), s, args, &r));
    err e = first_row(of_base(base), s, r, row);
    PQclear(r);
    return e;
}

static err keep_rows(struct pg_tx *tx, const struct stmt *s, const PGresult *r, struct rows *rows)
{
    u32 n = MIN((u32)PQntuples(r), rows->max);
    while (rows->n < n) {
        TRY(rows_room(tx->base.arena, rows, s->row->size));
        TRY(fill(tx, s, r, (int)rows->n, rows->p + rows->n * s->row->size));
        rows->n++;
    }
    return OK;
}

static err postgres_list(struct tx *base, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args)
{
    PGresult *r;
    struct rows made = { .max = MIN(max, UINT32_MAX / 2) };
    TRY(run(of_base(base), s, args, &r));
    err e = keep_rows(of_base(base), s, r, &made);
    PQclear(r);
    TRY(e);
    *rows = made.p;
    *n = made.n;
    return OK;
}

/* What was asked got no answer: a read that has seen nothing yet may be begun again. */
static err unheard(struct pg_tx *tx, err e)
{
    e = fail(tx, e, false);
    if (e != ERR_UNAVAILABLE || !may_repeat(tx))
        return e;
    let_go(tx);
    tx->again = true;
    return e;
}

static err postgres_ask(struct tx *base, struct ahead *ahead, struct args args)
{
    struct pg_tx *tx = of_base(base);
    ahead->max = MIN(ahead->max, UINT32_MAX / 2);
    err e = put(tx, ahead->stmt, args, (struct ask){ .kind = ASK_AHEAD, .ahead = ahead });
    if (e != OK)
        return unheard(tx, e);
    ahead->next = tx->ahead;
    tx->ahead = ahead;
    return OK;
}

static err postgres_answer(struct tx *base, struct ahead *ahead)
{
    struct pg_tx *tx = of_base(base);
    struct answers answers;
    if (tx->failed != OK)
        return tx->failed;
    err e = settle(tx, &answers);
    if (e != OK)
        return unheard(tx, e);
    PQclear(answers.rows);
    TRY(fail(tx, answers.failed, answers.refused));
    return ahead->answered ? OK : ERR_INTERNAL;
}

static err postgres_send(struct tx *base, const struct stmt *s, err unless_one, struct args args)
{
    struct pg_tx *tx = of_base(base);
    err e = put(tx, s, args, (struct ask){ .kind = unless_one == OK ? ASK_ROWS : ASK_PLAIN, .unless_one = unless_one });
    tx->statements += e == OK;
    return e == OK ? OK : fail(tx, e, false);
}

static err postgres_exec(struct tx *base, const struct stmt *s, i64 *changed, struct args args)
{
    PGresult *r;
    i64 n = 0;
    if (changed == NULL)
        return postgres_send(base, s, OK, args);
    TRY(run(of_base(base), s, args, &r));
    bool reads = strncmp(PQcmdStatus(r), "SELECT", 6) == 0;
    if (!reads && !str_i64(str_of(PQcmdTuples(r)), 0, INT64_MAX, &n))
        n = 0;
    PQclear(r);
    *changed = n;
    return OK;
}

/* ---- the end ---- */

/* Not waited for: whoever uses the connection next reads the answer. What was sent and not waited for may have failed, and then the server skips all up to
 * the next sync: ROLLBACK must not stand in that stretch. */
static void roll_back(struct pg_tx *tx)
{
    struct pg_conn *c = tx->conn;
    if (c == NULL)
        return;
    if (!c->broken && c->asked == 0 &&
        PQtransactionStatus(c->pg) == PQTRANS_IDLE) /* COMMIT itself has failed, or there was none */
        return;
    if (tx->once) {
        c->broken |= pg_send_sync(c, clock_mono_us() + FAST_US) != OK;
        return;
    }
    bool apart = c->asked == 0 || pg_send_sync(c, clock_mono_us() + FAST_US) == OK;
    if (c->broken || !apart || pg_send_verb(c, PG_ROLLBACK) != OK || pg_send_sync(c, clock_mono_us() + FAST_US) != OK)
        c->broken = true;
}

void pg_point(struct pg_tx *tx)
{
    tx->point = true;
}

/* With what is taken back go the tenant that was set since, and the turns. */
err pg_point_end(struct pg_tx *tx, err e)
{
    if (tx->failed != OK)
        return tx->failed;
    tx->point = false;
    if (!tx->pointed)
        return OK;
    tx->pointed = false;
    if (e != OK) {
        TRY(pg_send_verb(tx->conn, PG_BACK));
        tx->scoped = false;
        tx->further_count = 0;
    }
    return pg_send_verb(tx->conn, PG_RELEASE);
}

static err commit(struct pg_tx *tx)
{
    struct answers answers;
    TRY(pg_send_verb(tx->conn, PG_COMMIT));
    tx->committing = true;
    TRY(settle(tx, &answers));
    PQclear(answers.rows);
    if (answers.failed == OK && answers.undone)
        answers.failed = ERR_INTERNAL; /* a handler went on after a failure; it was logged then */
    return fail(tx, answers.failed, answers.refused);
}

err pg_end(struct pg_tx *tx, err e)
{
    if (tx->failed != OK)
        e = tx->failed;
    if (tx->begun && e == OK)
        e = fail(tx, commit(tx), false);
    if (tx->begun && e != OK)
        roll_back(tx);
    atomic_fetch_add_explicit(&tx->base.db->statements, tx->statements, memory_order_relaxed);
    leave(tx);
    return e;
}

/* ---- reading ---- */

enum { READER_BYTES = 64 << 10 };

static err reader_of_thread(struct postgres *db, struct pg_reader **out)
{
    for (struct pg_reader *r = my_readers; r != NULL; r = r->next)
        if (r->db == db) {
            *out = r;
            return OK;
        }
    struct arena *a = arena_new(READER_BYTES);
    struct pg_reader *r = a != NULL ? NEW(a, struct pg_reader) : NULL;
    if (r == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    *r = (struct pg_reader){ .next = my_readers, .db = db, .arena = a };
    my_readers = r;
    *out = r;
    return OK;
}

static void postgres_thread_begin(struct db *base)
{
    struct pg_reader *r;
    if (reader_of_thread(postgres_of(base), &r) == OK && r->conn == NULL)
        (void)!pg_connect(r->db, clock_mono_us() + CONNECT_US, &r->conn); /* it has said why */
}

static void postgres_thread_end(struct db *base)
{
    for (struct pg_reader **at = &my_readers; *at != NULL; at = &(*at)->next)
        if (&(*at)->db->base == base) {
            struct pg_reader *r = *at;
            *at = r->next;
            pg_close(r->conn);
            arena_free(r->arena);
            return;
        }
}

static err postgres_read_begin(struct db *base, struct arena *a, bool fast, struct tx **out)
{
    struct pg_reader *r;
    TRY(reader_of_thread(postgres_of(base), &r));
    if (r->open)
        return db_misused("read", "a thread has one snapshot at a time");
    r->open = true;
    pg_begin(&r->tx, r->db, a, READ_SNAPSHOT);
    r->tx.fast = fast;
    r->tx.deadline_us = fast ? clock_mono_us() + base->options.read_budget_us : 0;
    *out = &r->tx.base;
    return OK;
}

static void postgres_read_end(struct tx *base)
{
    struct pg_tx *tx = of_base(base);
    roll_back(tx);
    atomic_fetch_add_explicit(&base->db->statements, tx->statements, memory_order_relaxed);
    leave(tx);
    CONTAINER(tx, struct pg_reader, tx)->open = false;
}

static bool postgres_read_was_slow(const struct tx *base)
{
    return CONTAINER(base, const struct pg_tx, base)->again;
}

static void postgres_read_once(struct tx *base)
{
    struct pg_tx *tx = of_base(base);
    tx->once = !tx->begun;
}

static void postgres_read_repeats(struct tx *base) {}

static bool postgres_read_leave(struct tx *base)
{
    return false;
}

/* Not the pool's, which may be used up: the connection of the thread's fast reads, for one transaction. */
static err postgres_write_own(struct db *base, struct arena *a, err (*body)(void *ctx, struct tx *tx), void *ctx)
{
    struct pg_reader *r;
    TRY(reader_of_thread(postgres_of(base), &r));
    if (r->open)
        return db_misused("write", "a thread has one transaction at a time");
    r->open = true;
    pg_begin(&r->tx, r->db, a, WRITE_LOOSE);
    r->tx.fast = true;
    r->tx.deadline_us = clock_mono_us() + CONNECT_US;
    err e = pg_end(&r->tx, body(ctx, &r->tx.base));
    r->open = false;
    return e;
}

static err postgres_ping(struct db *base, i64 *latency_us)
{
    struct tx *tx = NULL;
    struct arena *a = arena_new(READER_BYTES);
    i64 from_us = clock_mono_us();
    if (a == NULL)
        return ERR_MEMORY;
    err e = postgres_read_begin(base, a, true, &tx);
    if (e == OK) {
        struct answers answers = { .failed = OK };
        e = enter(of_base(tx));
        if (e == OK)
            e = settle(of_base(tx), &answers);
        if (e == OK)
            e = answers.failed;
        postgres_read_end(tx);
    }
    arena_free(a);
    TRY(e);
    *latency_us = clock_mono_us() - from_us;
    return OK;
}

/* ---- migrations ---- */

static err run_script(struct pg_tx *tx, const char *name, const char *sql)
{
    TRY(enter(tx));
    TRY(pg_send_scope(tx->conn, "", false, true)); /* no tenant that the session stands at: a script names its own */
    /* app.system is as the statement before left it: migrations that move rows go behind one for all */
    tx->tenant[0] = '\0';
    tx->scoped = true;
    return fail(tx, pg_script(tx->conn, name, sql, clock_mono_us() + MINUTE_US), false);
}

static err postgres_script(struct tx *base, const char *name, const char *sql)
{
    return run_script(of_base(base), name, sql);
}

/* As the owner of the tables, for so long as the transaction lasts; one process at a time, and what is read afterwards is what the one before has left. */
static err postgres_migrate_lock(struct tx *base)
{
    return run_script(of_base(base), "lock",
                      "SET LOCAL ROLE NONE; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(" MIGRATE_LOCK
                      ")");
}

/* The role that the pool uses owns nothing and may do no more than change rows. Without the right to make roles the login itself serves. */
const char postgres_role_sql[] =
    "DO $$ BEGIN"
    " IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '" APP_ROLE "')"
    "  AND (SELECT rolcreaterole FROM pg_roles WHERE rolname = session_user) THEN"
    "  BEGIN CREATE ROLE " APP_ROLE " NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END;"
    " END IF;"
    " IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '" APP_ROLE "') THEN"
    "  BEGIN"
    "   IF NOT pg_has_role(session_user, '" APP_ROLE "', 'MEMBER') THEN EXECUTE 'GRANT " APP_ROLE
    " TO ' || quote_ident(session_user); END IF;"
    "   GRANT USAGE ON SCHEMA public TO " APP_ROLE ";"
    "   GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO " APP_ROLE ";"
    "   GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO " APP_ROLE ";"
    "  EXCEPTION WHEN insufficient_privilege THEN NULL; END;"
    " END IF; END $$";

static err postgres_migrated(struct tx *base)
{
    atomic_fetch_add(&postgres_of(base->db)->generation, 1);
    return run_script(of_base(base), "role", postgres_role_sql);
}

/* PostgreSQL itself looks once a minute. A table that fills within that minute was counted while it was nearly empty, or never, and every index that begins with tenant_id
 * seems to be as good as the one that finds the row. As the owner, whose right it is; a table that somebody counts already is left out.
 * A few at a time, since each stays locked against migrations until the end. */
static const char count_grown_sql[] =
    "SET LOCAL ROLE NONE; SET LOCAL statement_timeout = 0; DO $$ DECLARE grown regclass; BEGIN"
    " FOR grown IN SELECT s.relid FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid"
    "  WHERE s.schemaname = 'public' AND s.n_mod_since_analyze > 50 + greatest(c.reltuples, 0)"
    "  ORDER BY s.n_mod_since_analyze DESC LIMIT 4 LOOP"
    " EXECUTE pg_catalog.format('ANALYZE (SKIP_LOCKED) %s', grown);"
    " END LOOP; END $$";

static err postgres_count_grown(struct tx *base)
{
    return run_script(of_base(base), "count", count_grown_sql);
}

/* ---- opening and closing ---- */

static u32 preset_size(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return (u32)MIN(MAX(cores * POOL_PER_CORE, (long)POOL_MIN), (long)POOL_PRESET_MAX);
}

static void take_options(struct db_options *o)
{
    o->pool_size = MIN(o->pool_size != 0 ? o->pool_size : preset_size(), (u32)DB_POOL_MAX);
    o->pool_overflow = MIN(o->pool_overflow, (u32)DB_POOL_MAX);
    o->pool_wait_us = o->pool_wait_us != 0 ? o->pool_wait_us : POOL_WAIT_US;
    o->pool_recycle_us = o->pool_recycle_us != 0 ? o->pool_recycle_us : RECYCLE_US;
    o->statement_us = o->statement_us != 0 ? o->statement_us : STATEMENT_US;
    o->read_budget_us = o->read_budget_us != 0 ? o->read_budget_us : FAST_US;
}

/* Row-level security does not bind a superuser: every promise about tenants would be empty. */
static err check_login(struct postgres *db, struct pg_conn *c, i64 deadline_us)
{
    str answer;
    TRY(pg_ask(
        c, db->base.arena,
        "SELECT CASE WHEN rolsuper THEN 'a superuser' WHEN rolbypassrls THEN 'allowed to bypass row-level security'"
        " ELSE '' END FROM pg_catalog.pg_roles WHERE rolname = session_user",
        deadline_us, &answer));
    if (answer.n == 0)
        return OK;
    LOG(LOG_ERROR, "db.login_refused", LOG_STR("why", answer));
    return ERR_FORBIDDEN;
}

/* Two processes may be here at once, and CREATE … IF NOT EXISTS does not save the second one. */
static err make_ledger(struct postgres *db, struct pg_conn *c, i64 deadline_us)
{
    str there;
    TRY(pg_ask(c, db->base.arena, "SELECT to_regclass('public.schema_migrations')", deadline_us, &there));
    if (there.n > 0)
        return OK;
    return pg_ask(c, db->base.arena,
                  "BEGIN; SELECT pg_advisory_xact_lock(" MIGRATE_LOCK "); CREATE TABLE IF NOT EXISTS"
                  " public.schema_migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL,"
                  " applied_at BIGINT NOT NULL); COMMIT",
                  deadline_us, NULL);
}

static err start_store(struct postgres *db)
{
    size_t count;
    struct pg_conn *c;
    i64 deadline_us = clock_mono_us() + CONNECT_US;
    db_statements(&count);
    db->url = str_z(db->base.arena, db->base.options.url);
    db->meta = arena_alloc(db->base.arena, (count + 1) * sizeof *db->meta);
    if (db->url == NULL || db->meta == NULL || clock_cond_init(&db->freed) != 0)
        return ERR_MEMORY;
    TRY(pg_connect(db, deadline_us, &c));
    err e = check_login(db, c, deadline_us);
    if (e == OK)
        e = make_ledger(db, c, deadline_us);
    pg_close(c);
    TRY(e);
    return pg_writers_start(db);
}

static void postgres_close(struct db *base)
{
    struct postgres *db = postgres_of(base);
    postgres_thread_end(base);
    postgres_listen_end(base);
    pg_close(db->news_says); /* not with the listener: who says something goes on for a while after it */
    pg_writers_stop(db);
    pthread_mutex_lock(&db->pool);
    db->closing = true;
    pthread_mutex_unlock(&db->pool);
    pool_forget(db);
    if (db->open > 0)
        LOG(LOG_ERROR, "db.readers_left", LOG_INT("readers", db->open));
    arena_free(base->arena);
}

static void postgres_stats(struct db *base, struct db_stats *out)
{
    struct postgres *db = postgres_of(base);
    pthread_mutex_lock(&db->pool);
    out->connections = db->open;
    out->connections_idle = db->idle_count;
    pthread_mutex_unlock(&db->pool);
}

const struct driver postgres_driver = {
    .name = "postgres",
    .shares = true,
    .takes = postgres_takes,
    .close = postgres_close,
    .thread_begin = postgres_thread_begin,
    .thread_end = postgres_thread_end,
    .read_begin = postgres_read_begin,
    .read_end = postgres_read_end,
    .read_was_slow = postgres_read_was_slow,
    .read_repeats = postgres_read_repeats,
    .read_leave = postgres_read_leave,
    .read_once = postgres_read_once,
    .row = postgres_row,
    .list = postgres_list,
    .ask = postgres_ask,
    .answer = postgres_answer,
    .exec = postgres_exec,
    .send = postgres_send,
    .write_own = postgres_write_own,
    .listen = postgres_listen,
    .listen_end = postgres_listen_end,
    .listening = postgres_listening,
    .notify = postgres_notify,
    .script = postgres_script,
    .migrated = postgres_migrated,
    .migrate_lock = postgres_migrate_lock,
    .check = postgres_check,
    .count_grown = postgres_count_grown,
    .ping = postgres_ping,
    .stats = postgres_stats,
};

err postgres_open(const struct db_options *options, struct db **out)
{
    struct db *base;
    TRY(db_base(options, &postgres_driver, sizeof(struct postgres), &base));
    struct postgres *db = postgres_of(base);
    take_options(&base->options);
    db->pool = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    err e = start_store(db);
    if (e == OK)
        *out = base;
    else
        postgres_close(base);
    return e;
}
