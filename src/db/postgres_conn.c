/* postgres_conn.c - one connection: opening it, sending in pipeline mode, reading answers, what an error means.
 *
 * libpq is never allowed to wait by itself: each wait is a poll with a deadline here, so a server that has gone without a word costs a time-out and
 * not a thread. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/postgres.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    OID_BOOL = 16,
    OID_BYTEA = 17,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_OID = 26,
    OID_FLOAT4 = 700,
    OID_FLOAT8 = 701,
    OID_VARCHAR = 1043,
    OID_NUMERIC = 1700,
    NUMBER_BYTES = 32, /* of an argument's text */
    SETUP_BYTES = 1024,
    CONN_BYTES = 64 << 10,
};

/* ---- what an error means ---- */

static const struct state {
    const char *prefix;
    err class;
    bool refused;
} states[] = {
    { "23505", ERR_CONFLICT, false },    { "23503", ERR_CONFLICT, false },    { "23514", ERR_CONFLICT, false },
    { "23P01", ERR_CONFLICT, false },    { "40001", ERR_BUSY, true },         { "40P01", ERR_BUSY, true },
    { "55P03", ERR_BUSY, false },        { "57014", ERR_BUSY, false },        { "57P", ERR_UNAVAILABLE, false },
    { "08", ERR_UNAVAILABLE, false },    { "53300", ERR_UNAVAILABLE, false }, { "53", ERR_BUSY, false },
    { "25006", ERR_UNAVAILABLE, false }, /* a standby: the connection goes, the next one finds the primary */
    { "25P03", ERR_UNAVAILABLE, false }, { "54", ERR_TOO_LARGE, false },      { "22001", ERR_TOO_LARGE, false },
    { "0A000", ERR_BUSY, false }, /* a plan of a schema that has changed meanwhile */
};

err pg_class(const char *state, bool *refused)
{
    for (size_t i = 0; state != NULL && i < COUNT(states); i++)
        if (strncmp(state, states[i].prefix, strlen(states[i].prefix)) == 0) {
            *refused = states[i].refused;
            return states[i].class;
        }
    *refused = false;
    return state == NULL ? ERR_UNAVAILABLE : ERR_INTERNAL;
}

/* The message without its end of line; its first line says all that is not about values. */
static str first_line(const char *message)
{
    str rest = str_of(message), line = STR_NONE;
    return str_cut(&rest, '\n', &line) ? line : S("");
}

static err lost(struct pg_conn *c, const char *what)
{
    if (!c->broken)
        LOG(LOG_WARN, "db.connection_lost", LOG_STR("during", str_of(what)),
            LOG_STR("cause", first_line(PQerrorMessage(c->pg))));
    c->broken = true;
    return ERR_UNAVAILABLE;
}

static err result_error(struct pg_conn *c, const PGresult *r, const char *name, bool *refused)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    err e = pg_class(state, refused);
    snprintf(c->cause, sizeof c->cause, "%s", text != NULL ? text : "");
    c->broken |= e == ERR_UNAVAILABLE || (state != NULL && strcmp(state, "0A000") == 0);
    if (e == ERR_INTERNAL || e == ERR_UNAVAILABLE)
        LOG(e == ERR_INTERNAL ? LOG_ERROR : LOG_WARN, "db.failed", LOG_STR("statement", str_of(name)),
            LOG_STR("state", str_of(state != NULL ? state : "")), LOG_STR("cause", str_of(text != NULL ? text : "")));
    return e;
}

/* ---- waiting ---- */

static bool wait_for(struct pg_conn *c, short events, i64 deadline_us)
{
    struct pollfd fd = { .fd = PQsocket(c->pg), .events = events };
    for (;;) {
        i64 left_us = deadline_us - clock_mono_us();
        int n = left_us > 0 ? poll(&fd, 1, (int)(left_us / 1000 + 1)) : 0;
        if (n > 0)
            return true;
        if (n == 0) /* the time is up */
            return false;
    }
}

/* Pushes out what libpq holds; reads meanwhile, so that two full socket buffers cannot wait for one another. */
static err flush(struct pg_conn *c, i64 deadline_us)
{
    for (int left; (left = PQflush(c->pg)) != 0;) {
        if (left < 0 || !wait_for(c, POLLIN | POLLOUT, deadline_us) || PQconsumeInput(c->pg) == 0)
            return lost(c, "sending");
    }
    return OK;
}

/* The next result; NULL ends those of one ask. */
static err next_result(struct pg_conn *c, i64 deadline_us, PGresult **out)
{
    while (PQisBusy(c->pg)) {
        bool came = wait_for(c, POLLIN, deadline_us);
        if (!came && c->patient) {
            c->stalled = true;
            return ERR_UNAVAILABLE;
        }
        c->late |= !came;
        if (!came || PQconsumeInput(c->pg) == 0)
            return lost(c, "waiting");
    }
    *out = PQgetResult(c->pg);
    return OK;
}

/* ---- opening ---- */

static err reach(struct pg_conn *c, i64 deadline_us)
{
    for (PostgresPollingStatusType at = PGRES_POLLING_WRITING; at != PGRES_POLLING_OK; at = PQconnectPoll(c->pg)) {
        if (at == PGRES_POLLING_FAILED || PQstatus(c->pg) == CONNECTION_BAD)
            return ERR_UNAVAILABLE;
        if (!wait_for(c, at == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_us))
            return ERR_UNAVAILABLE;
    }
    return PQsetnonblocking(c->pg, 1) == 0 ? OK : ERR_UNAVAILABLE;
}

/* Outside of pipeline mode. The results of all statements; the last one's first value is kept. */
static err simple(struct pg_conn *c, struct arena *a, const char *name, const char *sql, i64 deadline_us, str *value)
{
    err failed = OK;
    PGresult *r;
    bool refused;
    if (PQsendQuery(c->pg, sql) == 0)
        return lost(c, name);
    TRY(flush(c, deadline_us));
    for (;;) {
        TRY(next_result(c, deadline_us, &r));
        if (r == NULL)
            return failed;
        ExecStatusType status = PQresultStatus(r);
        if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && failed == OK)
            failed = result_error(c, r, name, &refused);
        if (status == PGRES_TUPLES_OK && value != NULL)
            *value = PQntuples(r) > 0 && PQnfields(r) > 0 ? str_dup(a, str_of(PQgetvalue(r, 0, 0))) : STR_NONE;
        PQclear(r);
    }
}

/* What each connection has prepared from the start; the first PG_VERBS take no parameters. */
static const struct {
    const char *name, *sql;
} ours[] = {
    [PG_BEGIN_READ] = { "begin_read", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" },
    [PG_BEGIN_WRITE] = { "begin_write", "BEGIN ISOLATION LEVEL READ COMMITTED" },
    [PG_COMMIT] = { "commit", "COMMIT" },
    [PG_ROLLBACK] = { "rollback", "ROLLBACK" },
    [PG_POINT] = { "point", "SAVEPOINT job" },
    [PG_RELEASE] = { "release", "RELEASE job" },
    [PG_BACK] = { "back", "ROLLBACK TO job" },
    [PG_PING] = { "ping", "SELECT 1" },
    { "turn", "SELECT pg_advisory_xact_lock($1, $2)" },
    { "tenant", "SELECT set_config('app.tenant', $1, true)" },
    { "standing", "SELECT set_config('app.tenant', $1, false)" },
    { "scope", "SELECT set_config('app.tenant', $1, true), set_config('app.system', $2, true)" },
    { "notify", "SELECT pg_notify('" NEWS_CHANNEL "', $1)" },
};

/* The server's remarks are for people at a terminal. */
static void no_notice(void *ctx, const PGresult *r) {}

/* The role is taken when a migration has made it and we may: without it the login owns the tables and is bound by FORCE ROW LEVEL SECURITY. */
static err set_up(struct postgres *db, struct pg_conn *c, i64 deadline_us)
{
    char text[SETUP_BYTES];
    i64 statement_ms = db->base.options.statement_us / 1000;
    snprintf(
        text, sizeof text,
        "SET search_path = public; SET client_encoding = 'UTF8'; SET timezone = 'UTC'; SET jit = off; SET enable_seqscan = off;"
        "SET default_transaction_isolation = 'repeatable read';"
        "SET statement_timeout = %lld; SET idle_in_transaction_session_timeout = %lld;"
        "SELECT set_config('role', rolname, false) FROM pg_catalog.pg_roles WHERE rolname = '" APP_ROLE "'"
        " AND pg_has_role(session_user, oid, 'MEMBER')"
        " AND has_table_privilege(oid, to_regclass('public.schema_migrations'), 'SELECT')",
        (long long)statement_ms, (long long)(2 * statement_ms));
    TRY(simple(c, NULL, "set up", text, deadline_us, NULL));
    if (PQenterPipelineMode(c->pg) == 0)
        return ERR_UNAVAILABLE;
    for (size_t i = 0; i < COUNT(ours); i++) {
        if (PQsendPrepare(c->pg, ours[i].name, ours[i].sql, 0, NULL) == 0)
            return lost(c, "set up");
        c->asks[c->asked++] = (struct ask){ .kind = ASK_PLAIN, .name = ours[i].name };
    }
    TRY(pg_send_sync(c, deadline_us));
    struct answers answers;
    TRY(pg_read(c, deadline_us, &answers));
    PQclear(answers.rows);
    return answers.failed;
}

err pg_connect(struct postgres *db, i64 deadline_us, struct pg_conn **out)
{
    static const char *const names[] = { "dbname",           "application_name", "client_encoding",
                                         "tcp_user_timeout", "keepalives_idle",  NULL };
    const char *const values[] = { db->url, "weir", "UTF8", "10000", "30", NULL };
    struct arena *a = arena_new(CONN_BYTES);
    struct pg_conn *c = a != NULL ? NEW(a, struct pg_conn) : NULL;
    if (c == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    c->arena = a;
    c->born_us = c->used_us = clock_mono_us();
    c->generation = atomic_load(&db->generation);
    c->pg = PQconnectStartParams(names, values, 1);
    if (c->pg != NULL)
        PQsetNoticeReceiver(c->pg, no_notice, NULL);
    err e = c->pg == NULL ? ERR_MEMORY : reach(c, deadline_us);
    if (e == ERR_UNAVAILABLE)
        LOG(LOG_WARN, "db.not_reached", LOG_STR("cause", first_line(PQerrorMessage(c->pg))));
    if (e == OK)
        e = set_up(db, c, deadline_us);
    if (e != OK) {
        pg_close(c);
        return e;
    }
    *out = c;
    return OK;
}

void pg_close(struct pg_conn *c)
{
    if (c == NULL)
        return;
    PQfinish(c->pg);
    arena_free(c->arena);
}

/* ---- sending ---- */

static err note(struct pg_conn *c, int sent, struct ask ask)
{
    if (sent == 0)
        return lost(c, ask.name);
    c->asks[(c->first + c->asked) % ASKS_MAX] = ask;
    c->asked++;
    return OK;
}

err pg_send_verb(struct pg_conn *c, enum pg_verb verb)
{
    return note(c, PQsendQueryPrepared(c->pg, ours[verb].name, 0, NULL, NULL, NULL, 0),
                (struct ask){ .kind = verb == PG_COMMIT ? ASK_COMMIT : ASK_PLAIN, .name = ours[verb].name });
}

err pg_send_turn(struct pg_conn *c, u32 key)
{
    char first[NUMBER_BYTES], second[NUMBER_BYTES];
    const char *values[] = { first, second };
    snprintf(first, sizeof first, "%d", TURN_LOCKS);
    snprintf(second, sizeof second, "%d", (int)key);
    return note(c, PQsendQueryPrepared(c->pg, "turn", COUNT(values), values, NULL, NULL, 0),
                (struct ask){ .kind = ASK_PLAIN, .name = "turn" });
}

err pg_send_scope(struct pg_conn *c, const char *tenant, bool system, bool first)
{
    const char *values[] = { tenant, system ? "on" : "" };
    c->stands = false;
    bool alone = first && !system; /* a transaction begins with neither */
    const char *name = alone ? "tenant" : "scope";
    return note(c, PQsendQueryPrepared(c->pg, name, alone ? 1 : 2, values, NULL, NULL, 0),
                (struct ask){ .kind = ASK_PLAIN, .name = name });
}

err pg_send_standing(struct pg_conn *c, const char *tenant)
{
    const char *values[] = { tenant };
    c->stands = false; /* until it is answered */
    memcpy(c->standing, tenant, strlen(tenant) + 1);
    return note(c, PQsendQueryPrepared(c->pg, "standing", COUNT(values), values, NULL, NULL, 0),
                (struct ask){ .kind = ASK_PLAIN, .name = "standing" });
}

err pg_send_notify(struct pg_conn *c, str text)
{
    const char *values[] = { text.p };
    const int lengths[] = { (int)text.n }, formats[] = { 1 };
    return note(c, PQsendQueryPrepared(c->pg, "notify", COUNT(values), values, lengths, formats, 0),
                (struct ask){ .kind = ASK_PLAIN, .name = "notify" });
}

const char *pg_sql(const struct stmt *s)
{
    return s->postgres != NULL ? s->postgres : s->sql;
}

static void name_of(const struct stmt *s, bool guarded, char out[16])
{
    snprintf(out, 16, "%c%zu", guarded ? 'g' : 's', stmt_slot(s));
}

static u32 bit_of(const struct stmt *s, bool guarded)
{
    return (u32)(2 * stmt_slot(s) + guarded);
}

bool pg_prepared(const struct pg_conn *c, const struct stmt *s, bool guarded)
{
    u32 bit = bit_of(s, guarded);
    return (c->prepared[bit / 8] >> bit % 8 & 1) != 0;
}

err pg_send_prepare(struct pg_conn *c, struct arena *a, const struct stmt *s, bool guarded)
{
    char name[16];
    const char *sql = pg_sql(s);
    u32 bit = bit_of(s, guarded);
    name_of(s, guarded, name);
    if (guarded)
        sql = str_z(a, strf(a, "WITH changed AS (%s RETURNING 1) SELECT 1 / (count(*) = 1)::int FROM changed", sql));
    if (sql == NULL)
        return ERR_MEMORY;
    TRY(note(c, PQsendPrepare(c->pg, name, sql, 0, NULL),
             (struct ask){ .kind = ASK_PREPARE, .name = s->name, .bit = bit }));
    c->prepared[bit / 8] |= (u8)(1 << bit % 8); /* taken back when the answer says otherwise */
    return OK;
}

/* Arguments as libpq wants them. A text goes as it is; what the server takes for something else goes as text of a number. */
struct wire {
    const char *values[PARAMETERS_MAX];
    int lengths[PARAMETERS_MAX], formats[PARAMETERS_MAX];
    char numbers[PARAMETERS_MAX][NUMBER_BYTES];
};

/* PostgreSQL takes neither NUL nor what is not UTF-8 into a text; SQLite does. Both come from strangers (a User-Agent), so it is replaced and not refused. */
static str clean_text(struct arena *a, str text)
{
    static const str mark = S_INIT("\xef\xbf\xbd");
    if (text.n == 0 || (memchr(text.p, 0, text.n) == NULL && str_utf8(text)))
        return text;
    struct buf b = { .arena = a };
    for (size_t i = 0; i < text.n;) {
        size_t n = text.p[i] != '\0' ? str_utf8_at(text, i) : 0;
        buf_str(&b, n > 0 ? str_slice(text, i, i + n) : mark);
        i += MAX(n, (size_t)1);
    }
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

static err put_text(struct wire *w, u32 i, struct arena *a, Oid type, str text)
{
    bool raw = type == OID_TEXT || type == OID_VARCHAR;
    str clean = clean_text(a, text);
    w->values[i] = clean.p == NULL ? NULL : raw ? clean.p : str_z(a, clean);
    w->lengths[i] = (int)clean.n;
    w->formats[i] = raw;
    return w->values[i] != NULL ? OK : ERR_MEMORY;
}

static err put_arg(struct wire *w, u32 i, struct arena *a, Oid type, const struct arg *arg)
{
    w->formats[i] = 0;
    w->values[i] = NULL;
    switch (arg->type) {
    case ARG_I64:
        snprintf(w->numbers[i], NUMBER_BYTES, "%lld", (long long)arg->integer);
        w->values[i] = w->numbers[i];
        return OK;
    case ARG_F64:
        snprintf(w->numbers[i], NUMBER_BYTES, "%.17g", arg->real);
        w->values[i] = w->numbers[i];
        return OK;
    case ARG_STR:
        return put_text(w, i, a, type, arg->text);
    case ARG_BLOB:
        w->values[i] = arg->text.n > 0 ? arg->text.p : "";
        w->lengths[i] = (int)arg->text.n;
        w->formats[i] = 1;
        return OK;
    case ARG_NULL:
    default:
        return OK;
    }
}

err pg_send_stmt(struct pg_conn *c, struct arena *a, const struct stmt *s, const struct pg_meta *m, struct args args,
                 struct ask ask)
{
    struct wire w;
    char name[16];
    if (args.n != m->parameters)
        return db_misused(s->name, "called with another number of arguments than it has parameters");
    for (u32 i = 0; i < args.n; i++) {
        if (args.list[i].text.n > INT32_MAX / 2)
            return ERR_TOO_LARGE;
        TRY(put_arg(&w, i, a, m->parameter[i], &args.list[i]));
    }
    name_of(s, ask.unless_one != OK, name);
    return note(c, PQsendQueryPrepared(c->pg, name, (int)args.n, w.values, w.lengths, w.formats, 0), ask);
}

err pg_send_sync(struct pg_conn *c, i64 deadline_us)
{
    if (fault_hit(FAULT_STATEMENT)) /* the network fails */
        shutdown(PQsocket(c->pg), SHUT_RDWR);
    TRY(note(c, PQpipelineSync(c->pg), (struct ask){ .kind = ASK_SYNC, .name = "sync" }));
    return flush(c, deadline_us);
}

void pg_disown(struct pg_conn *c)
{
    for (u32 i = 0; i < c->asked; i++)
        c->asks[(c->first + i) % ASKS_MAX].ignored = true;
}

/* ---- reading ---- */

static const char division_by_zero[] = "22012"; /* of a guard */

static void take_failure(struct pg_conn *c, const struct ask *ask, const PGresult *r, struct answers *out)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    c->stands = false;
    if (ask->kind == ASK_PREPARE)
        c->prepared[ask->bit / 8] &= (u8) ~(1 << ask->bit % 8);
    if (ask->ignored || out->failed != OK || PQresultStatus(r) == PGRES_PIPELINE_ABORTED)
        return;
    if (ask->unless_one != OK && state != NULL && strcmp(state, division_by_zero) == 0)
        out->failed = ask->unless_one;
    else
        out->failed = result_error(c, r, ask->name, &out->refused);
}

/* The last rows are kept for whoever asked. */
static void take_result(struct pg_conn *c, const struct ask *ask, PGresult *r, struct answers *out)
{
    ExecStatusType status = PQresultStatus(r);
    bool good = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
    if (!good)
        take_failure(c, ask, r, out);
    if (good && ask->kind == ASK_COMMIT && !ask->ignored && strcmp(PQcmdStatus(r), "ROLLBACK") == 0)
        out->undone = true;
    bool keep = good && ask->kind == ASK_ROWS && !ask->ignored;
    if (good && ask->kind == ASK_AHEAD && !ask->ignored) {
        ask->ahead->result = r;
        return;
    }
    PQclear(keep ? out->rows : r);
    if (keep)
        out->rows = r;
}

/* All results of the oldest ask. */
static err read_ask(struct pg_conn *c, i64 deadline_us, const struct ask *ask, struct answers *out)
{
    PGresult *r = NULL;
    if (ask->kind == ASK_SYNC) {
        for (int i = 0; i < 2 && r == NULL; i++) /* a NULL may stand in front of it */
            TRY(next_result(c, deadline_us, &r));
        bool synced = PQresultStatus(r) == PGRES_PIPELINE_SYNC;
        PQclear(r);
        return synced ? OK : lost(c, "reading");
    }
    for (;;) {
        TRY(next_result(c, deadline_us, &r));
        if (r == NULL)
            return PQstatus(c->pg) == CONNECTION_OK ? OK : lost(c, "reading");
        if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) { /* libpq lost count, which it does not */
            PQclear(r);
            return lost(c, "reading");
        }
        take_result(c, ask, r, out);
    }
}

err pg_read(struct pg_conn *c, i64 deadline_us, struct answers *out)
{
    *out = (struct answers){ .failed = OK };
    while (c->asked > 0) {
        struct ask ask = c->asks[c->first];
        err e = c->broken ? ERR_UNAVAILABLE : read_ask(c, deadline_us, &ask, out);
        if (!c->stalled) { /* else whoever looks next reads on here */
            c->first = (c->first + 1) % ASKS_MAX;
            c->asked--;
        }
        if (e != OK) {
            PQclear(out->rows);
            *out = (struct answers){ .failed = OK };
            return e;
        }
    }
    return c->broken && out->failed == OK ? ERR_UNAVAILABLE : OK;
}

/* ---- what a statement takes and gives ---- */

static err meta_arrays(struct arena *a, const PGresult *r, const struct stmt *s, struct pg_meta *m)
{
    m->parameter = NEW_N(a, Oid, m->parameters + 1u);
    m->column = NEW_N(a, Oid, m->columns + 1u);
    m->field = s->row != NULL ? arena_alloc(a, m->columns + 1u) : NULL;
    if (m->parameter == NULL || m->column == NULL || (s->row != NULL && m->field == NULL))
        return ERR_MEMORY;
    for (int i = 0; i < m->parameters; i++)
        m->parameter[i] = PQparamtype(r, i);
    for (int i = 0; i < m->columns; i++) {
        int field = s->row != NULL ? field_index(s->row, str_of(PQfname(r, i))) : 0;
        m->column[i] = PQftype(r, i);
        if (field < 0)
            return db_misused(s->name, "a column is no field of its row table");
        if (m->field != NULL)
            m->field[i] = (i8)field;
    }
    return OK;
}

static err meta_keep(struct postgres *db, const struct stmt *s, const PGresult *r, const struct pg_meta **out)
{
    _Atomic(const struct pg_meta *) *at = &db->meta[stmt_slot(s)];
    pthread_mutex_lock(&db->base.mutex); /* over the arena */
    struct pg_meta *m = NEW(db->base.arena, struct pg_meta);
    err e = m != NULL ? OK : ERR_MEMORY;
    if (e == OK) {
        m->parameters = (u16)PQnparams(r);
        m->columns = (u16)PQnfields(r);
        e = m->parameters > PARAMETERS_MAX || m->columns > COLUMNS_MAX ? db_misused(s->name, "too many of something")
                                                                       : meta_arrays(db->base.arena, r, s, m);
    }
    if (e == OK)
        atomic_store_explicit(at, m, memory_order_release);
    pthread_mutex_unlock(&db->base.mutex);
    if (e == OK)
        *out = m;
    return e;
}

err pg_describe(struct postgres *db, struct pg_conn *c, const struct stmt *s, i64 deadline_us,
                const struct pg_meta **out)
{
    char name[16];
    struct answers answers;
    name_of(s, false, name);
    TRY(note(c, PQsendDescribePrepared(c->pg, name), (struct ask){ .kind = ASK_ROWS, .name = s->name }));
    TRY(pg_send_sync(c, deadline_us));
    TRY(pg_read(c, deadline_us, &answers));
    err e = answers.failed;
    if (e == OK && answers.rows == NULL)
        e = ERR_INTERNAL;
    if (e == OK)
        e = meta_keep(db, s, answers.rows, out);
    PQclear(answers.rows);
    return e;
}

/* ---- values ---- */

static u32 hex_of(char c)
{
    return c >= '0' && c <= '9' ? (u32)(c - '0') : c >= 'a' && c <= 'f' ? (u32)(c - 'a' + 10) : 0;
}

/* "\x6162…" */
static err bytes_of(struct arena *a, str text, str *out)
{
    size_t n = text.n >= 2 ? (text.n - 2) / 2 : 0;
    char *p = arena_alloc(a, n + 1);
    if (p == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(hex_of(text.p[2 + 2 * i]) << 4 | hex_of(text.p[3 + 2 * i]));
    *out = (str){ p, n };
    return OK;
}

static struct cell number_of(str text)
{
    struct cell cell = { .type = CELL_I64 };
    if (!str_i64(text, INT64_MIN, INT64_MAX, &cell.integer))
        cell = (struct cell){ .type = CELL_F64, .real = strtod(text.p, NULL) };
    return cell;
}

err pg_cell(const PGresult *r, int row, int column, Oid type, struct arena *a, struct cell *out)
{
    struct cell cell = { .type = CELL_NULL };
    str text = { PQgetvalue(r, row, column), (size_t)PQgetlength(r, row, column) };
    if (PQgetisnull(r, row, column)) {
        *out = cell;
        return OK;
    }
    switch (type) {
    case OID_BOOL:
        cell = (struct cell){ .type = CELL_I64, .integer = text.p[0] == 't' };
        break;
    case OID_INT8:
    case OID_INT2:
    case OID_INT4:
    case OID_OID:
    case OID_NUMERIC:
        cell = number_of(text);
        break;
    case OID_FLOAT4:
    case OID_FLOAT8:
        cell = (struct cell){ .type = CELL_F64, .real = strtod(text.p, NULL) };
        break;
    default:
        cell = (struct cell){ .type = CELL_STR, .text = text };
        break;
    }
    if (type == OID_BYTEA)
        TRY(bytes_of(a, text, &cell.text));
    *out = cell;
    return OK;
}

/* ---- scripts ---- */

/* Several statements in one text are not for pipeline mode, which is left for so long. Nothing may be in flight. */
static err outside(struct pg_conn *c, struct arena *a, const char *name, const char *sql, i64 deadline_us, str *value)
{
    struct answers answers;
    if (c->asked > 0) {
        TRY(pg_send_sync(c, deadline_us));
        TRY(pg_read(c, deadline_us, &answers));
        PQclear(answers.rows);
        TRY(answers.failed);
    }
    if (PQexitPipelineMode(c->pg) == 0)
        return lost(c, name);
    err e = simple(c, a, name, sql, deadline_us, value);
    if (!c->broken && PQenterPipelineMode(c->pg) == 0)
        return lost(c, name);
    return e;
}

err pg_script(struct pg_conn *c, const char *name, const char *sql, i64 deadline_us)
{
    TRY(outside(c, NULL, name, sql, deadline_us, NULL));
    /* a COMMIT in the script would leave half of it behind */
    return PQtransactionStatus(c->pg) == PQTRANS_INTRANS ? OK : ERR_INTERNAL;
}

err pg_ask(struct pg_conn *c, struct arena *a, const char *sql, i64 deadline_us, str *value)
{
    return outside(c, a, "ask", sql, deadline_us, value);
}
