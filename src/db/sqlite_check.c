/* sqlite_check.c - every statement of the binary against the schema, at start: does it prepare, do its columns fit its row table, is
 * its plan free of scans, and does it stay within one tenant?
 *
 * It runs on a connection of its own, whose authorizer notes what each statement touches, and opens no transaction: nothing
 * is executed but EXPLAIN. */
#include "base/log.h"
#include "db/sqlite.h"

#include <string.h>

enum { CHECK_ARENA_MAX = 64 << 20 };

struct check {
    struct checking base;
    struct conn conn;
    struct names tables, tenant_tables, views, triggers;
    struct names touched; /* tenant tables that the statement names, as SQLite sees it */
    str hidden;           /* a tenant table that it reads through a view which does not show the tenant */
    bool failed;          /* memory, in a callback */
};

static void complain(struct check *c, const char *what, str detail)
{
    check_complain(&c->base, what, detail);
}

/* ---- names ---- */

static err names_read(struct check *c, struct names *names, const char *sql)
{
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(c->conn.sqlite, sql, -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        return conn_error(&c->conn, rc, "check");
    err e = OK;
    while (e == OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        e = names_add(c->base.arena, names, str_of((const char *)sqlite3_column_text(stmt, 0)));
    if (e == OK)
        e = conn_error(&c->conn, rc, "check");
    sqlite3_finalize(stmt);
    return e;
}

static err read_schema(struct check *c)
{
    TRY(names_read(c, &c->tables, "SELECT name FROM sqlite_schema WHERE type = 'table'"));
    TRY(names_read(c, &c->views, "SELECT name FROM sqlite_schema WHERE type = 'view'"));
    TRY(names_read(c, &c->triggers, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"));
    return names_read(c, &c->tenant_tables,
                      "SELECT s.name FROM sqlite_schema s JOIN pragma_table_info(s.name) i"
                      " WHERE s.type IN ('table', 'view') AND i.name = 'tenant_id'");
}

/* ---- what SQLite says ---- */

/* `inside` is the trigger, view or CTE that the access comes from. What triggers do is the schema's affair. */
static int note_access(void *ctx, int action, const char *table, const char *column, const char *schema,
                       const char *inside)
{
    struct check *c = ctx;
    bool touches =
        action == SQLITE_READ || action == SQLITE_INSERT || action == SQLITE_UPDATE || action == SQLITE_DELETE;
    str from = str_of(inside), name = str_of(table);
    if (!touches || !names_have(&c->tenant_tables, name) || names_have(&c->triggers, from))
        return SQLITE_OK;
    if (!names_have(&c->views, from))
        c->failed |= names_add(c->base.arena, &c->touched, name) != OK;
    else if (!names_have(&c->tenant_tables, from)) /* one that shows the tenant_id is a tenant table itself */
        c->hidden = names_get(&c->views, from);    /* SQLite's own copy does not last */
    return SQLITE_OK;
}

static err prepare_noting(struct check *c, sqlite3_stmt **stmt)
{
    const char *rest = "";
    c->touched = (struct names){ 0 };
    c->hidden = STR_NONE;
    sqlite3_set_authorizer(c->conn.sqlite, note_access, c);
    int rc = sqlite3_prepare_v2(c->conn.sqlite, c->base.stmt->sql, -1, stmt, &rest);
    sqlite3_set_authorizer(c->conn.sqlite, NULL, NULL);
    if (rc == SQLITE_NOMEM || c->failed) {
        sqlite3_finalize(*stmt);
        return ERR_MEMORY;
    }
    if (rc != SQLITE_OK)
        complain(c, "does not prepare:", str_of(sqlite3_errmsg(c->conn.sqlite)));
    else if (*stmt == NULL)
        complain(c, "holds no statement", STR_NONE);
    else if (str_trim(str_of(rest)).n > 0)
        complain(c, "holds more than one statement", STR_NONE);
    return OK;
}

/* ---- the rules ---- */

static void check_parameters(struct check *c, sqlite3_stmt *stmt)
{
    int n = sqlite3_bind_parameter_count(stmt);
    if (n > PARAMETERS_MAX) {
        complain(c, "has too many parameters", STR_NONE);
        return;
    }
    for (int i = 1; i <= n; i++) { /* n different names, each within 1 … n: no gap */
        const char *name = sqlite3_bind_parameter_name(stmt, i);
        u32 number = parameter_number(name);
        if (number == 0 || number > (u32)n)
            complain(c, "its parameters are not $1, $2 … without a gap:", str_of(name != NULL ? name : "?"));
    }
}

static void check_columns(struct check *c, sqlite3_stmt *stmt)
{
    const struct table *row = c->base.stmt->row;
    int n = sqlite3_column_count(stmt);
    u64 seen = 0;
    if (row == NULL)
        return;
    if (n == 0 || n > COLUMNS_MAX)
        complain(c, n == 0 ? "has a row table but returns no columns:" : "returns too many columns for",
                 str_of(row->name));
    for (int i = 0; i < MIN(n, (int)COLUMNS_MAX); i++)
        check_column(&c->base, str_of(sqlite3_column_name(stmt, i)), &seen);
}

/* Whether a name in a plan is a real table: the plan shows the alias, so the text is asked what it stands for. */
static bool stands_for_table(const struct check *c, str name)
{
    return names_have(&c->tables, name) || alias_of_table(c->base.arena, &c->tables, str_of(c->base.stmt->sql), name);
}

static void check_plan_line(struct check *c, str line)
{
    str rest = line, word, name = STR_NONE;
    bool first = str_cut(&rest, ' ', &word);
    if (first)
        first = str_cut(&rest, ' ', &name);
    bool scan = first && str_eq(word, S("SCAN")) && str_find(line, S("VIRTUAL TABLE"), 0) < 0;
    if (scan && stands_for_table(c, name))
        complain(c, "reads a whole table:", line);
    else if (str_find(line, S("TEMP B-TREE"), 0) >= 0)
        complain(c, "sorts in a temporary b-tree:", line);
    else if (str_find(line, S("AUTOMATIC"), 0) >= 0)
        complain(c, "builds an index each time it runs:", line);
}

static err check_plan(struct check *c)
{
    if (c->base.stmt->scan_ok)
        return OK;
    str parts[] = { S("EXPLAIN QUERY PLAN "), str_of(c->base.stmt->sql) };
    str text = str_concat(c->base.arena, parts, COUNT(parts));
    if (text.p == NULL)
        return ERR_MEMORY;
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(c->conn.sqlite, text.p, (int)text.n, &stmt, NULL);
    if (rc != SQLITE_OK)
        return conn_error(&c->conn, rc, c->base.stmt->name);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        check_plan_line(c, str_of((const char *)sqlite3_column_text(stmt, 3)));
    err e = conn_error(&c->conn, rc, c->base.stmt->name);
    sqlite3_finalize(stmt);
    return e;
}

static err check_tenants(struct check *c)
{
    if (c->base.stmt->scope == SCOPE_SYSTEM)
        return OK;
    if (c->hidden.n > 0)
        complain(c, "reads a tenant's table through a view without tenant_id:", c->hidden);
    struct tenant_check check = { .arena = c->base.arena,
                                  .tables = &c->tenant_tables,
                                  .touched = &c->touched,
                                  .complain = check_complain,
                                  .ctx = &c->base };
    err e = tenant_check(&check, str_of(c->base.stmt->sql));
    if (e == ERR_TOO_LARGE)
        complain(c, "is too large or too deep to be checked", STR_NONE);
    return e == ERR_TOO_LARGE ? OK : e;
}

static err check_statement(struct checking *base)
{
    struct check *c = CONTAINER(base, struct check, base);
    sqlite3_stmt *stmt = NULL;
    u32 before = c->base.complaints;
    check_verb(&c->base);
    TRY(prepare_noting(c, &stmt));
    if (c->base.complaints > before) { /* the rest would only repeat it */
        sqlite3_finalize(stmt);
        return OK;
    }
    check_parameters(c, stmt);
    check_columns(c, stmt);
    sqlite3_finalize(stmt);
    TRY(check_plan(c));
    return check_tenants(c);
}

static err check_all(struct check *c)
{
    TRY(read_schema(c));
    return check_each(&c->base, check_statement);
}

err sqlite_check(struct db *base, struct buf *complaint)
{
    struct check c = { .base = { .complaint = complaint, .arena = arena_new(CHECK_ARENA_MAX) } };
    if (c.base.arena == NULL)
        return ERR_MEMORY;
    err e = conn_open(&c.conn, sqlite_of(base)->file, ROLE_READER);
    if (e == OK) /* else the authorizer would see the tables of foreign keys as if the statement named them */
        e = conn_script(&c.conn, "check", "PRAGMA foreign_keys = OFF");
    if (e == OK)
        e = check_all(&c);
    conn_shut(&c.conn);
    arena_free(c.base.arena);
    return e != OK ? e : c.base.complaints > 0 ? ERR_INVALID : OK;
}
