/* purge.c - a tenant's rows, wherever they are: the database itself says which tables have a tenant_id, so a new one cannot be forgotten.
 *
 * The texts are made here, since no statement can name a table by a parameter; the id is looked at first. With PostgreSQL row-level security holds as ever: the rows of
 * another tenant are not there. */
#include "db/db_internal.h"

struct table_name {
    struct presence has;
    str name;
};
static const struct field name_fields[] = { FIELD(struct table_name, name, F_STR, .doc = "A table") };
static const struct table name_table = TABLE("TableName", struct table_name, name_fields);
struct purged {
    struct presence has;
    i64 n;
};
static const struct field purged_fields[] = { FIELD(struct purged, n, F_I64, .doc = "Rows") };
static const struct table purged_table = TABLE("Purged", struct purged, purged_fields);

STMT(
    tenant_tables,
    "SELECT s.name FROM sqlite_schema s JOIN pragma_table_info(s.name) i WHERE s.type = 'table' AND i.name = 'tenant_id'",
    .postgres =
        "SELECT CAST(c.relname AS TEXT) AS name FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped"
        " WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p')",
    .row = &name_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
/* What the script before it left behind. */
STMT(purge_count, "SELECT changes() AS n", .postgres = "SELECT CAST(current_setting('app.purged') AS BIGINT) AS n",
     .row = &purged_table, .scope = SCOPE_SYSTEM);

err db_tenant_tables(struct tx *tx, str *names, u32 max, u32 *n)
{
    void *rows;
    u32 count;
    TRY(db_list(tx, &tenant_tables, max + 1, &rows, &count, NO_ARGS));
    if (count > max)
        return ERR_TOO_LARGE;
    for (u32 i = 0; i < count; i++)
        names[i] = ((struct table_name *)rows)[i].name;
    *n = count;
    return OK;
}

/* Whether it can stand in a text without being anything else than itself. */
static bool is_plain(str s)
{
    bool plain = s.n > 0;
    for (size_t i = 0; i < s.n; i++)
        plain = plain && ((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '_');
    return plain;
}

static const char *const sqlite_text =
    "DELETE FROM \"%.*s\" WHERE rowid IN (SELECT rowid FROM \"%.*s\" WHERE tenant_id = '%.*s' LIMIT %lld)";
static const char *const postgres_text =
    "WITH gone AS (DELETE FROM public.\"%.*s\" WHERE ctid = ANY (ARRAY (SELECT ctid FROM public.\"%.*s\""
    " WHERE tenant_id = '%.*s' LIMIT %lld)) RETURNING 1)"
    " SELECT set_config('app.purged', CAST(count(*) AS TEXT), true) FROM gone";

err db_purge(struct tx *tx, str table, str tenant_id, i64 max, i64 *n)
{
    struct purged purged;
    const struct driver *driver = tx->db->driver;
    bool sqlite = driver == &sqlite_driver;
    if (!is_plain(table) || !is_plain(tenant_id))
        return ERR_INVALID;
    str scope = sqlite ? S("") : strf(tx->arena, "SELECT set_config('app.tenant', '%.*s', true);", STR_FMT(tenant_id));
    str text = strf(tx->arena, sqlite ? sqlite_text : postgres_text, STR_FMT(table), STR_FMT(table), STR_FMT(tenant_id),
                    (long long)max);
    const str parts[] = { scope, text };
    str both = scope.p != NULL && text.p != NULL ? str_concat(tx->arena, parts, COUNT(parts)) : STR_NONE;
    const char *script = both.p != NULL ? str_z(tx->arena, both) : NULL;
    if (script == NULL)
        return ERR_MEMORY;
    TRY(driver->script(tx, "purge", script)); /* one, since each begins without a tenant */
    TRY(db_row(tx, &purge_count, &purged, NO_ARGS));
    *n = purged.n;
    return OK;
}
