/* postgres_inspect.c - a look at a PostgreSQL database that somebody else may be serving: one connection, nothing but SELECT.
 *
 * It is not opened as a store, which would make the table of migrations and start threads: who only looks must change nothing. */
#include "base/clock.h"
#include "db/postgres.h"

#include <string.h>

struct inspecting {
    struct arena *arena;
    struct pg_conn *conn;
    i64 deadline_us;
    struct db_inspection found;
};

static err ask(struct inspecting *i, const char *sql, str *out)
{
    err e = pg_ask(i->conn, i->arena, sql, i->deadline_us, out);
    if (e != OK)
        i->found.broken = str_dup(i->arena, str_of(i->conn->cause));
    return e;
}

/* "number name checksum applied_at", a line each. */
static void see_migration(struct inspecting *i, str line)
{
    struct db_inspection *f = &i->found;
    const struct migration *m = f->applied < f->known ? &db_migrations[f->applied] : NULL;
    str number = STR_NONE, name = STR_NONE, checksum = STR_NONE, at = STR_NONE;
    i64 n = 0, applied_at = 0;
    bool good = str_cut(&line, ' ', &number) && str_cut(&line, ' ', &name) && str_cut(&line, ' ', &checksum) &&
                str_cut(&line, ' ', &at) && str_i64(number, 0, INT64_MAX, &n) && str_i64(at, 0, INT64_MAX, &applied_at);
    bool ours = good && m != NULL && n == m->number && migration_is(&postgres_driver, m, checksum);
    if (!ours && f->wrong_migration.n == 0)
        f->wrong_migration = name.n > 0 ? name : S("?");
    f->newest_applied_at = MAX(f->newest_applied_at, applied_at);
    f->applied++;
}

static err look(struct inspecting *i)
{
    str there, list, line;
    while (db_migrations[i->found.known].number != 0)
        i->found.known++;
    TRY(ask(i, "SELECT to_regclass('public.schema_migrations')", &there));
    if (there.n == 0)
        return ERR_NOT_FOUND;
    TRY(ask(i,
            "SELECT string_agg(number || ' ' || name || ' ' || checksum || ' ' || applied_at, chr(10) ORDER BY number)"
            " FROM public.schema_migrations",
            &list));
    while (str_cut(&list, '\n', &line))
        see_migration(i, line);
    TRY(ask(i, "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = session_user AND (rolsuper OR rolbypassrls)",
            &i->found.unsafe_login));
    return OK;
}

err db_inspect_url(struct arena *a, const struct db_options *options, struct db_inspection *out)
{
    struct inspecting i = { .arena = a, .deadline_us = clock_mono_us() + CONNECT_US };
    struct db *base;
    TRY(db_base(options, &postgres_driver, sizeof(struct postgres), &base));
    struct postgres *db = postgres_of(base);
    db->url = str_z(base->arena, base->options.url);
    base->options.statement_us = CONNECT_US;
    err e = db->url != NULL ? pg_connect(db, i.deadline_us, &i.conn) : ERR_MEMORY;
    if (e == OK)
        e = look(&i);
    else
        i.found.broken = S("it cannot be reached, or refuses the login");
    pg_close(i.conn);
    arena_free(base->arena);
    *out = i.found; /* on failure too: `broken` says why */
    return e == OK || e == ERR_NOT_FOUND || e == ERR_MEMORY ? e : ERR_INTERNAL;
}
