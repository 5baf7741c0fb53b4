/* postgres_check.c - every statement of the binary against the schema, at start: does it prepare, do its columns fit its row table, does it stay within
 * one tenant; and is every table that has a tenant under row-level security?
 *
 * All statements are prepared in one stretch of the pipeline each, so the check costs as many round trips as there are statements, once. What it learns
 * about them is what every connection uses later. */
#include "base/clock.h"
#include "base/log.h"
#include "db/postgres.h"

enum { CHECK_ARENA_MAX = 64 << 20 };

struct check {
    struct checking base;
    struct postgres *db;
    struct pg_conn *conn;
    i64 deadline_us;
    struct names tenant_tables, system_tables; /* those that SYSTEM statements may look into */
};

/* Names between commas, as string_agg gives them. */
static err read_names(struct check *c, const char *sql, struct names *out)
{
    str list, name;
    TRY(pg_ask(c->conn, c->base.arena, sql, c->deadline_us, &list));
    while (str_cut(&list, ',', &name))
        if (name.n > 0)
            TRY(names_add(c->base.arena, out, name));
    return OK;
}

#define TENANT_TABLES                                                                                               \
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped" \
    " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"

static err read_schema(struct check *c)
{
    TRY(read_names(c, "SELECT string_agg(c.relname, ',')" TENANT_TABLES, &c->tenant_tables));
    return read_names(c,
                      "SELECT string_agg(c.relname, ',')" TENANT_TABLES
                      " AND EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'system')",
                      &c->system_tables);
}

/* Tables that somebody forgot to guard. */
static err check_tables(struct check *c)
{
    static const struct stmt schema = { .name = "schema" };
    struct names open = { 0 };
    TRY(read_names(c,
                   "SELECT string_agg(c.relname, ',')" TENANT_TABLES
                   " AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS"
                   " (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant'))",
                   &open));
    c->base.stmt = &schema;
    for (u32 i = 0; i < open.n; i++)
        check_complain(&c->base, "its migration does not call weir_guard() for the table", open.list[i]);
    return OK;
}

static err check_columns(struct check *c)
{
    const struct stmt *s = c->base.stmt;
    const struct pg_meta *m;
    u64 seen = 0;
    err e = pg_describe(c->db, c->conn, s, c->deadline_us, &m);
    if (e == ERR_INTERNAL && !c->conn->broken) {
        check_complain(&c->base, "returns a column that its row table does not have, or too many", STR_NONE);
        return OK;
    }
    TRY(e);
    if (s->row != NULL && m->columns == 0)
        check_complain(&c->base, "has a row table but returns no columns:", str_of(s->row->name));
    for (u32 i = 0; s->row != NULL && i < m->columns; i++) {
        u64 bit = (u64)1 << m->field[i];
        if ((seen & bit) != 0)
            check_complain(&c->base, "returns a column twice:", str_of(s->row->fields[m->field[i]].name));
        seen |= bit;
    }
    return OK;
}

static err check_system(struct check *c)
{
    struct names touched = { 0 };
    TRY(tables_of(c->base.arena, &c->tenant_tables, str_of(pg_sql(c->base.stmt)), &touched));
    for (u32 i = 0; i < touched.n; i++)
        if (!names_have(&c->system_tables, touched.list[i]))
            check_complain(&c->base, "is of scope SYSTEM, but weir_guard_system() was not called for", touched.list[i]);
    return OK;
}

static err check_tenants(struct check *c)
{
    const struct stmt *s = c->base.stmt;
    struct names touched = { 0 };
    str sql = str_of(pg_sql(s));
    if (s->scope == SCOPE_SYSTEM)
        return check_system(c);
    struct tenant_check check = { .arena = c->base.arena,
                                  .tables = &c->tenant_tables,
                                  .touched = &touched,
                                  .complain = check_complain,
                                  .ctx = &c->base };
    err e = tenant_check(&check, sql);
    if (e == ERR_TOO_LARGE)
        check_complain(&c->base, "is too large or too deep to be checked", STR_NONE);
    if (e != OK)
        return e == ERR_TOO_LARGE ? OK : e;
    TRY(tables_of(c->base.arena, &c->tenant_tables, sql, &touched));
    if (touched.n > 0 && c->db->base.tenant_at[stmt_slot(s)] == 0)
        check_complain(&c->base, "its tenant is not one parameter, so row-level security cannot be told it", STR_NONE);
    return OK;
}

static err prepare_one(struct check *c, bool *good)
{
    struct answers answers;
    *good = true;
    if (pg_prepared(c->conn, c->base.stmt, false))
        return OK;
    TRY(pg_send_prepare(c->conn, c->base.arena, c->base.stmt, false));
    TRY(pg_send_sync(c->conn, c->deadline_us));
    TRY(pg_read(c->conn, c->deadline_us, &answers));
    PQclear(answers.rows);
    *good = answers.failed == OK;
    if (!*good)
        check_complain(&c->base, "does not prepare on PostgreSQL:", str_of(c->conn->cause));
    return OK;
}

static err check_statement(struct checking *base)
{
    struct check *c = CONTAINER(base, struct check, base);
    u32 before = c->base.complaints;
    bool good;
    check_verb(&c->base);
    TRY(prepare_one(c, &good));
    if (!good || c->base.complaints > before)
        return OK;
    TRY(check_columns(c));
    return check_tenants(c);
}

static err check_all(struct check *c)
{
    TRY(read_schema(c));
    TRY(check_tables(c));
    return check_each(&c->base, check_statement);
}

err postgres_check(struct db *base, struct buf *complaint)
{
    struct check c = { .base = { .complaint = complaint, .arena = arena_new(CHECK_ARENA_MAX) },
                       .db = postgres_of(base),
                       .deadline_us = clock_mono_us() + MINUTE_US };
    if (c.base.arena == NULL)
        return ERR_MEMORY;
    err e = pool_take(c.db, base->options.pool_wait_us, &c.conn);
    if (e == OK) {
        e = check_all(&c);
        pool_give(c.db, c.conn);
    }
    arena_free(c.base.arena);
    return e != OK ? e : c.base.complaints > 0 ? ERR_INVALID : OK;
}
