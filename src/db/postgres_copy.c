/* postgres_copy.c - PostgreSQL's copies: made by pg_dump (custom format) in a snapshot that we export, so that what we count is what it writes; brought back by
 * pg_restore, in one transaction, into a schema of its own making.
 *
 * The login owns the tables and is bound by row-level security all the same: `app.backup` opens them to it (migrations/…_backup.sql). What the programs need to
 * connect goes by their environment: everybody on the machine may read their arguments. */
#include "base/clock.h"
#include "base/rng.h"
#include "db/copy_internal.h"
#include "db/postgres.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VARIABLES_MAX = 4096, ARGUMENTS_MAX = 16 };
#define PATIENCE_US DAY_US /* a large database takes its time; whoever waits has a keyboard */

extern char **environ;

struct session {
    struct arena *arena;
    const struct db_options *options;
    struct buf *complaint;
    struct db *base;
    struct pg_conn *conn;
    i64 deadline_us;
};

/* -- a connection of one's own --------------------------------------------------------------------------------------- */

static err ask(struct session *s, const char *sql, str *out)
{
    str ignored;
    err e = sql != NULL ? pg_ask(s->conn, s->arena, sql, s->deadline_us, out != NULL ? out : &ignored) : ERR_MEMORY;
    if (e != OK)
        buf_f(s->complaint, "%s\n", e == ERR_MEMORY ? err_text(e) : s->conn->cause);
    return e;
}

static void session_end(struct session *s)
{
    pg_close(s->conn);
    if (s->base != NULL)
        arena_free(s->base->arena);
}

static err session_begin(struct arena *a, const struct db_options *o, struct buf *complaint, struct session *out)
{
    struct session s = {
        .arena = a, .options = o, .complaint = complaint, .deadline_us = clock_mono_us() + PATIENCE_US
    };
    TRY(db_base(o, &postgres_driver, sizeof(struct postgres), &s.base));
    struct postgres *db = postgres_of(s.base);
    db->url = str_z(s.base->arena, s.base->options.url);
    s.base->options.statement_us = CONNECT_US;
    err e = db->url != NULL ? pg_connect(db, clock_mono_us() + CONNECT_US, &s.conn) : ERR_MEMORY;
    if (e != OK)
        buf_f(complaint, "DATABASE_URL: the database cannot be reached, or refuses the login\n");
    if (e == OK)
        e = ask(&s,
                "SET ROLE NONE; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;"
                "SET app.backup = 'on'",
                NULL);
    if (e != OK) {
        session_end(&s);
        return e;
    }
    *out = s;
    return OK;
}

/* -- the programs ---------------------------------------------------------------------------------------------------- */

static err parse_url(struct session *s, PQconninfoOption **out)
{
    char *why = NULL;
    const char *url = str_z(s->arena, s->options->url);
    *out = url != NULL ? PQconninfoParse(url, &why) : NULL;
    PQfreemem(why); /* it may hold the password */
    if (*out == NULL)
        buf_f(s->complaint, "DATABASE_URL: (masked) cannot be taken apart\n");
    return *out != NULL ? OK : ERR_INVALID;
}

static bool add_variable(struct session *s, char **list, u32 *n, const char *name, str value)
{
    const char *text = str_z(s->arena, strf(s->arena, "%s=%.*s", name, STR_FMT(value)));
    if (text == NULL || *n + 1 >= VARIABLES_MAX)
        return false;
    list[(*n)++] = (char *)(uintptr_t)text;
    return true;
}

/* Ours without PG…, and what the URL says under the names that libpq has for it. */
static err make_environment(struct session *s, str database, char ***out)
{
    char **list = NEW_N(s->arena, char *, VARIABLES_MAX);
    PQconninfoOption *options;
    u32 n = 0;
    if (list == NULL)
        return ERR_MEMORY;
    TRY(parse_url(s, &options));
    for (char **v = environ; *v != NULL && n + 1 < VARIABLES_MAX; v++)
        if (strncmp(*v, "PG", 2) != 0 && strncmp(*v, "DATABASE_URL", 12) != 0)
            list[n++] = *v;
    str given = STR_NONE;
    bool good = true;
    for (PQconninfoOption *p = options; p->keyword != NULL; p++) {
        str value = str_of(p->val);
        if (strcmp(p->keyword, "options") == 0)
            given = str_dup(s->arena, value);
        else if (strcmp(p->keyword, "dbname") == 0)
            good &= add_variable(s, list, &n, "PGDATABASE", database.n > 0 ? database : value);
        else if (p->envvar != NULL && value.n > 0)
            good &= add_variable(s, list, &n, p->envvar, value);
    }
    PQconninfoFree(options);
    good &= add_variable(s, list, &n, "PGOPTIONS", strf(s->arena, "%.*s -c app.backup=on", STR_FMT(given)));
    *out = list;
    return good ? OK : ERR_MEMORY;
}

/* Its complaints go where ours go. */
static err run(struct session *s, str database, const char *program, const char *const *arguments)
{
    char *argv[ARGUMENTS_MAX + 2] = { (char *)(uintptr_t)program }, **environment;
    pid_t pid;
    int status = 0;
    str folder = s->options->programs;
    const char *path = folder.n > 0 ? str_z(s->arena, strf(s->arena, "%.*s/%s", STR_FMT(folder), program)) : program;
    TRY(make_environment(s, database, &environment));
    for (u32 i = 0; i < ARGUMENTS_MAX && arguments[i] != NULL; i++)
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    int failed = path != NULL ? posix_spawnp(&pid, path, NULL, NULL, argv, environment) : ENOMEM;
    if (failed != 0) {
        buf_f(s->complaint, "%s: %s; install PostgreSQL's client programs, or set WEIR_PG_BIN to their folder\n",
              program, strerrordesc_np(failed));
        return ERR_INTERNAL;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        buf_f(s->complaint, "%s failed (its own words stand above)\n", program);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? OK : ERR_INTERNAL;
}

/* -- looking --------------------------------------------------------------------------------------------------------- */

#define OURS "'public'::regnamespace"

static err see_migrations(struct session *s, struct db_contents *out, struct buf *broken)
{
    str list, there, line, number = STR_NONE, name = STR_NONE;
    i64 n = 0;
    TRY(ask(s, "SELECT to_regclass('public.schema_migrations')", &there));
    if (there.n == 0) {
        buf_f(s->complaint, "there is no database of weir's\n");
        return ERR_NOT_FOUND;
    }
    TRY(ask(s,
            "SELECT string_agg(number || ' ' || name || ' ' || checksum, chr(10) ORDER BY number)"
            " FROM public.schema_migrations",
            &list));
    for (u32 i = 0; str_cut(&list, '\n', &line); i++) {
        if (!str_cut(&line, ' ', &number) || !str_cut(&line, ' ', &name) || !str_i64(number, 0, UINT32_MAX, &n))
            n = 0;
        out->schema = (u32)n;
        if (broken != NULL)
            migration_look(&postgres_driver, i, n, name, line, broken);
    }
    return OK;
}

/* Two steps: what to count stands in the catalogue. */
static err count_rows(struct session *s, struct db_contents *out)
{
    str sql, lines;
    TRY(ask(s,
            "SELECT string_agg(format('SELECT %L AS t, count(*) AS n FROM %I', relname, relname), ' UNION ALL ')"
            " FROM pg_catalog.pg_class WHERE relnamespace = " OURS " AND relkind = 'r'",
            &sql));
    if (sql.n > 0)
        TRY(ask(s,
                str_z(s->arena, strf(s->arena, "SELECT string_agg(t || ' ' || n, chr(10) ORDER BY t) FROM (%.*s) AS c",
                                     STR_FMT(sql))),
                &lines));
    return contents_read(s->arena, sql.n > 0 ? lines : S(""), out);
}

/* What the catalogue knows to be wrong. A text: broken. */
static const struct {
    const char *what, *sql;
} catalogue[] = {
    { "indexes that are not valid",
      "SELECT string_agg(indexrelid::regclass::text, ', ') FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indrelid"
      " WHERE relnamespace = " OURS " AND NOT (indisvalid AND indisready)" },
    { "constraints that were never checked",
      "SELECT string_agg(conrelid::regclass || '.' || conname, ', ') FROM pg_catalog.pg_constraint"
      " WHERE connamespace = " OURS " AND NOT convalidated" },
    { "tables of tenants without forced row-level security",
      "SELECT string_agg(c.relname, ', ') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
      " AND a.attname = 'tenant_id' AND NOT a.attisdropped WHERE c.relnamespace = " OURS " AND c.relkind IN ('r', 'p')"
      " AND NOT (c.relrowsecurity AND c.relforcerowsecurity)" },
};

/* One statement for each foreign key: the server trusts them, and a restore or a switched off trigger may have betrayed it. */
static err see_orphans(struct session *s, struct buf *broken)
{
    str sql, found;
    TRY(ask(
        s,
        "SELECT string_agg(format('SELECT %L AS k FROM %s c WHERE %s AND NOT EXISTS (SELECT 1 FROM %s p WHERE %s)',"
        " conrelid::regclass || '.' || conname, conrelid::regclass, pairs.given, confrelid::regclass, pairs.equal), ' UNION ALL ')"
        " FROM pg_catalog.pg_constraint, LATERAL (SELECT string_agg(format('c.%I IS NOT NULL', x.attname), ' AND ') AS given,"
        " string_agg(format('p.%I = c.%I', y.attname, x.attname), ' AND ') AS equal FROM unnest(conkey, confkey) AS k (one, other)"
        " JOIN pg_catalog.pg_attribute x ON x.attrelid = conrelid AND x.attnum = k.one"
        " JOIN pg_catalog.pg_attribute y ON y.attrelid = confrelid AND y.attnum = k.other) AS pairs"
        " WHERE contype = 'f' AND connamespace = " OURS,
        &sql));
    if (sql.n == 0)
        return OK;
    TRY(ask(s,
            str_z(s->arena, strf(s->arena,
                                 "SELECT string_agg(k || ' of ' || n || ' rows', ', ') FROM (SELECT k, count(*) AS n"
                                 " FROM (%.*s) AS o GROUP BY k) AS g",
                                 STR_FMT(sql))),
            &found));
    if (found.n > 0)
        buf_f(broken, "references to rows that are not there: %.*s\n", STR_FMT(found));
    return OK;
}

static err look_at_all(struct session *s, struct db_contents *out, struct buf *broken)
{
    size_t count;
    str found;
    const struct invariant *const *list = db_invariants(&count);
    TRY(ask(s, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL));
    TRY(see_migrations(s, out, broken));
    for (size_t i = 0; i < COUNT(catalogue); i++) {
        TRY(ask(s, catalogue[i].sql, &found));
        if (found.n > 0)
            buf_f(broken, "%s: %.*s\n", catalogue[i].what, STR_FMT(found));
    }
    TRY(see_orphans(s, broken));
    out->older = !schema_is_current(out->schema);
    for (size_t i = 0; i < count && !out->older; i++) {
        TRY(ask(s, invariant_sql(s->arena, list[i]), &found));
        if (found.n > 0)
            buf_f(broken, "%s: %.*s\n", list[i]->promise, STR_FMT(found));
    }
    return count_rows(s, out);
}

static err verify(struct arena *a, const struct db_options *o, struct db_contents *out, struct buf *broken)
{
    struct session s;
    struct db_contents found = { 0 };
    TRY(session_begin(a, o, broken, &s));
    err e = look_at_all(&s, &found, broken);
    session_end(&s);
    TRY(e);
    *out = found;
    return OK;
}

/* -- copying --------------------------------------------------------------------------------------------------------- */

static err copy_snapshot(struct session *s, const char *to, struct db_contents *out)
{
    str snapshot;
    TRY(ask(s, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL));
    TRY(see_migrations(s, out, NULL));
    TRY(count_rows(s, out));
    TRY(ask(s, "SELECT pg_export_snapshot()", &snapshot));
    const char *const arguments[] = { "--format=custom",
                                      "--no-password",
                                      "--no-owner",
                                      "--no-privileges",
                                      "--enable-row-security",
                                      "--schema=public",
                                      str_z(s->arena, strf(s->arena, "--snapshot=%.*s", STR_FMT(snapshot))),
                                      str_z(s->arena, strf(s->arena, "--file=%s", to)),
                                      NULL };
    return arguments[6] != NULL && arguments[7] != NULL ? run(s, STR_NONE, "pg_dump", arguments) : ERR_MEMORY;
}

static err copy(struct arena *a, const struct db_options *o, const char *to, struct db_contents *out,
                struct buf *complaint)
{
    struct session s;
    struct db_contents found = { 0 };
    TRY(session_begin(a, o, complaint, &s));
    err e = copy_snapshot(&s, to, &found);
    session_end(&s);
    TRY(e);
    *out = found;
    return OK;
}

/* -- the way back ---------------------------------------------------------------------------------------------------- */

/* Of the schema what is in it and not it itself, which is there. */
static err load(struct session *s, str database, const char *from)
{
    const char *name = str_z(s->arena, strf(s->arena, "--dbname=%.*s", STR_FMT(database)));
    const char *const arguments[] = { "--no-password",
                                      "--no-owner",
                                      "--no-privileges",
                                      "--exit-on-error",
                                      "--single-transaction",
                                      "--schema=public",
                                      name,
                                      from,
                                      NULL };
    return name != NULL ? run(s, database, "pg_restore", arguments) : ERR_MEMORY;
}

/* Nobody may serve from it, nor begin to: a start waits for this lock. */
static err keep_others_out(struct session *s)
{
    str others;
    TRY(ask(s, "SELECT pg_advisory_lock(" MIGRATE_LOCK ")", NULL));
    TRY(ask(
        s,
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'weir%' AND backend_type = 'client backend'",
        &others));
    if (str_eq(others, S("0")))
        return OK;
    buf_f(s->complaint, "a weir is connected to the database (%.*s connections); stop every node first\n",
          STR_FMT(others));
    return ERR_BUSY;
}

/* Where what was there before is kept until the copy stands; n == 0: there was nothing. */
static err make_room(struct session *s, bool force, str *aside)
{
    str tables;
    TRY(ask(s,
            "SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = " OURS
            " AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relname <> 'schema_migrations'",
            &tables));
    if (str_eq(tables, S("0"))) {
        *aside = S("");
        return ask(s, "DROP TABLE IF EXISTS public.schema_migrations", NULL);
    }
    if (!force) {
        buf_f(s->complaint, "the database is not empty (%.*s tables); --force takes their place\n", STR_FMT(tables));
        return ERR_CONFLICT;
    }
    *aside = strf(s->arena, "weir_replaced_%llx", (unsigned long long)rng_u64());
    return ask(s,
               str_z(s->arena, strf(s->arena, "BEGIN; ALTER SCHEMA public RENAME TO %.*s; CREATE SCHEMA public; COMMIT",
                                    STR_FMT(*aside))),
               NULL);
}

static err settle(struct session *s, str aside, err loaded)
{
    if (loaded == OK)
        loaded = ask(s, postgres_role_sql, NULL);
    if (aside.n == 0)
        return loaded;
    const char *end =
        loaded == OK
            ? str_z(s->arena, strf(s->arena, "DROP SCHEMA %.*s CASCADE", STR_FMT(aside)))
            : str_z(s->arena,
                    strf(s->arena, "BEGIN; DROP SCHEMA public CASCADE; ALTER SCHEMA %.*s RENAME TO public; COMMIT",
                         STR_FMT(aside)));
    err e = ask(s, end, NULL);
    if (e != OK)
        buf_f(s->complaint, "what was there before is in the schema %.*s\n", STR_FMT(aside));
    return loaded != OK ? loaded : e;
}

static err restore_into(struct session *s, const char *from, bool force)
{
    str database, aside;
    TRY(keep_others_out(s));
    TRY(ask(s, "SELECT current_database()", &database));
    TRY(make_room(s, force, &aside));
    return settle(s, aside, load(s, database, from));
}

static err restore(struct arena *a, const struct db_options *o, const char *from, bool force, struct buf *complaint)
{
    struct session s;
    TRY(session_begin(a, o, complaint, &s));
    err e = restore_into(&s, from, force);
    session_end(&s);
    return e;
}

/* The same server, another database: "key='value' …", which libpq takes as well as a URL. */
static err url_of(struct session *s, str database, str *out)
{
    PQconninfoOption *options;
    struct buf b = { .arena = s->arena };
    TRY(parse_url(s, &options));
    for (PQconninfoOption *p = options; p->keyword != NULL; p++) {
        str value = strcmp(p->keyword, "dbname") == 0 ? database : str_of(p->val);
        if (value.n == 0)
            continue;
        buf_f(&b, "%s='", p->keyword);
        for (size_t i = 0; i < value.n; i++)
            buf_f(&b, "%s%c", value.p[i] == '\'' || value.p[i] == '\\' ? "\\" : "", value.p[i]);
        BUF_LIT(&b, "' ");
    }
    PQconninfoFree(options);
    *out = buf_view(&b);
    return b.fail;
}

static err rehearse_in(struct session *s, str database, const char *from, struct db_rehearsal *r)
{
    struct db_options beside = *s->options;
    beside.read_only = true;
    TRY(url_of(s, database, &beside.url));
    TRY(ask(s, str_z(s->arena, strf(s->arena, "CREATE DATABASE %.*s TEMPLATE template0", STR_FMT(database))), NULL));
    err e = load(s, database, from);
    if (e == OK)
        e = r->look(r, &beside);
    err dropped = ask(s, str_z(s->arena, strf(s->arena, "DROP DATABASE %.*s WITH (FORCE)", STR_FMT(database))), NULL);
    return e != OK ? e : dropped;
}

static err rehearse(struct arena *a, const struct db_options *o, const char *from, const char *folder,
                    struct db_rehearsal *r, struct buf *complaint)
{
    struct session s;
    str may;
    TRY(session_begin(a, o, complaint, &s));
    err e = ask(&s, "SELECT rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = session_user", &may);
    if (e == OK && str_eq(may, S("t"))) {
        e = rehearse_in(&s, strf(a, "weir_check_%llx", (unsigned long long)rng_u64()), from, r);
    } else if (e == OK) {
        e = run(&s, STR_NONE, "pg_restore", (const char *const[]){ "--file=/dev/null", from, NULL });
        e = e == OK ? ERR_FORBIDDEN : e;
    }
    session_end(&s);
    return e;
}

const struct copier postgres_copier = {
    .kind = "postgresql", .copy = copy, .verify = verify, .restore = restore, .rehearse = rehearse
};
