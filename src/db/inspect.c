/* inspect.c - a look at a database that somebody else may be serving: its own connection, read only, no lock of the folder.
 *
 * Without a write-ahead log no one has the file open, and it is opened as immutable: a read-only connection to a file in WAL mode would
 * otherwise make -wal and -shm files that nobody removes. */
#include "db/sqlite.h"

#include <stdio.h>
#include <unistd.h>

enum { BUSY_MS = 2000 };

struct inspecting {
    struct arena *arena;
    sqlite3 *sqlite;
    struct db_inspection found;
};

static str column(struct inspecting *i, sqlite3_stmt *stmt, int n)
{
    const char *text = (const char *)sqlite3_column_text(stmt, n);
    return text != NULL ? str_dup(i->arena, str_of(text)) : S("");
}

/* Calls `row` for each row, until it says false. */
static err each(struct inspecting *i, const char *sql, bool (*row)(struct inspecting *i, sqlite3_stmt *stmt))
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(i->sqlite, sql, -1, &stmt, NULL);
    bool more = rc == SQLITE_OK;
    while (more && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        more = row(i, stmt);
    sqlite3_finalize(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return OK;
    i->found.broken = str_dup(i->arena, str_of(sqlite3_errmsg(i->sqlite)));
    return ERR_INTERNAL;
}

static bool see_check(struct inspecting *i, sqlite3_stmt *stmt)
{
    str text = column(i, stmt, 0);
    if (!str_eq(text, S("ok")))
        i->found.broken = text;
    return false;
}

static bool see_orphan(struct inspecting *i, sqlite3_stmt *stmt)
{
    i->found.orphan = strf(i->arena, "%.*s → %.*s", STR_FMT(column(i, stmt, 0)), STR_FMT(column(i, stmt, 2)));
    return false;
}

static bool see_migration(struct inspecting *i, sqlite3_stmt *stmt)
{
    struct db_inspection *f = &i->found;
    const struct migration *m = f->applied < f->known ? &db_migrations[f->applied] : NULL;
    bool ours =
        m != NULL && sqlite3_column_int64(stmt, 0) == m->number && migration_is(&sqlite_driver, m, column(i, stmt, 2));
    if (!ours && f->wrong_migration.n == 0)
        f->wrong_migration = column(i, stmt, 1);
    f->newest_applied_at = MAX(f->newest_applied_at, (i64)sqlite3_column_int64(stmt, 3));
    f->applied++;
    return true;
}

static err look(struct inspecting *i)
{
    while (db_migrations[i->found.known].number != 0)
        i->found.known++;
    TRY(each(i, "PRAGMA quick_check(1)", see_check));
    TRY(each(i, "PRAGMA foreign_key_check", see_orphan));
    return each(i, "SELECT number, name, checksum, applied_at FROM schema_migrations ORDER BY number", see_migration);
}

/* The name as a URI: what has a meaning there is escaped. */
static const char *uri_of(struct arena *a, const char *file, bool alone)
{
    struct buf b = { .arena = a };
    BUF_LIT(&b, "file:");
    for (const char *p = file; *p != '\0'; p++)
        buf_f(&b, *p == '?' || *p == '#' || *p == '%' ? "%%%02X" : "%c", (unsigned)(u8)*p);
    buf_f(&b, "?mode=ro%s", alone ? "&immutable=1" : "");
    return b.fail == OK ? str_z(a, buf_view(&b)) : NULL;
}

err inspect_open(struct arena *a, str folder, sqlite3 **out, struct buf *complaint)
{
    const char *file = str_z(a, strf(a, "%.*s/weir.db", STR_FMT(folder)));
    const char *wal = str_z(a, strf(a, "%.*s/weir.db-wal", STR_FMT(folder)));
    sqlite3 *made = NULL;
    if (file == NULL || wal == NULL)
        return ERR_MEMORY;
    if (access(file, F_OK) != 0)
        return ERR_NOT_FOUND;
    const char *uri = uri_of(a, file, access(wal, F_OK) != 0);
    if (uri == NULL)
        return ERR_MEMORY;
    int rc = sqlite3_open_v2(uri, &made, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK && sqlite3_busy_timeout(made, BUSY_MS) == SQLITE_OK) {
        *out = made;
        return OK;
    }
    buf_f(complaint, "%s", made != NULL ? sqlite3_errmsg(made) : "out of memory");
    sqlite3_close(made);
    return ERR_INTERNAL;
}

err db_inspect(struct arena *a, str folder, struct db_inspection *out)
{
    struct inspecting i = { .arena = a };
    struct buf complaint = { .arena = a };
    err e = inspect_open(a, folder, &i.sqlite, &complaint);
    if (e == ERR_NOT_FOUND || e == ERR_MEMORY)
        return e;
    if (e == OK)
        e = look(&i);
    else
        i.found.broken = buf_view(&complaint);
    sqlite3_close(i.sqlite);
    *out = i.found; /* on failure too: `broken` says why */
    return e;
}
