/* sqlite_copy.c - SQLite's copies: taken by its backup API in one go, so that it is one moment of the database whatever is written meanwhile; writers go on.
 *
 * A copy is one file: it leaves WAL mode, or a reader of it would look for a log that is not there. */
#include "db/copy_internal.h"
#include "db/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

enum { PATIENCE_MS = 10000, FINDINGS = 10 };

static err complain(struct buf *complaint, sqlite3 *db, const char *what)
{
    buf_f(complaint, "%s: %s\n", what, db != NULL ? sqlite3_errmsg(db) : "out of memory");
    return ERR_INTERNAL;
}

static const char *in_folder(struct arena *a, const struct db_options *o, const char *name)
{
    return str_z(a, strf(a, "%.*s/%s", STR_FMT(o->folder), name));
}

/* -- looking ------------------------------------------------------------------------------------------------------- */

struct look {
    struct arena *arena;
    sqlite3 *db;
    struct db_contents found;
    struct buf *broken;
    u32 migrations;
};

static str cell(sqlite3_stmt *stmt, int n)
{
    return str_of((const char *)sqlite3_column_text(stmt, n));
}

static err each(struct look *l, const char *sql, void (*row)(struct look *l, sqlite3_stmt *stmt, const char *note),
                const char *note)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sql != NULL ? sqlite3_prepare_v2(l->db, sql, -1, &stmt, NULL) : SQLITE_NOMEM;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(stmt);
        if (rc == SQLITE_ROW)
            row(l, stmt, note);
    }
    sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? OK : complain(l->broken, l->db, note);
}

static void see_finding(struct look *l, sqlite3_stmt *stmt, const char *note)
{
    str text = cell(stmt, 0);
    if (text.n > 0 && !str_eq(text, S("ok")))
        buf_f(l->broken, "%s: %.*s\n", note, STR_FMT(text));
}

static void see_orphan(struct look *l, sqlite3_stmt *stmt, const char *note)
{
    buf_f(l->broken, "%s: a row of %.*s has no row of %.*s\n", note, STR_FMT(cell(stmt, 0)), STR_FMT(cell(stmt, 2)));
}

static void see_migration(struct look *l, sqlite3_stmt *stmt, const char *note)
{
    l->found.schema = (u32)sqlite3_column_int64(stmt, 0);
    migration_look(&sqlite_driver, l->migrations++, sqlite3_column_int64(stmt, 0), cell(stmt, 1), cell(stmt, 2),
                   l->broken);
}

static void see_text(struct look *l, sqlite3_stmt *stmt, const char *note)
{
    buf_f(l->broken, "%.*s%c", STR_FMT(cell(stmt, 0)), note[0]);
}

/* SQLite has no statement for "of every table": one is written for the tables that are there. */
static err count_rows(struct look *l)
{
    struct buf names = { .arena = l->arena }, sql = { .arena = l->arena }, lines = { .arena = l->arena },
               *was = l->broken;
    l->broken = &names;
    err e = each(l, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
                 see_text, "\n");
    str rest = buf_view(&names);
    for (str name; str_cut(&rest, '\n', &name);)
        if (name.n > 0)
            buf_f(&sql, "%sSELECT '%.*s ' || count(*) FROM \"%.*s\"", sql.n > 0 ? " UNION ALL " : "", STR_FMT(name),
                  STR_FMT(name));
    l->broken = &lines;
    if (e == OK)
        e = each(l, str_z(l->arena, buf_view(&sql)), see_text, "\n");
    l->broken = was;
    TRY(e);
    return contents_read(l->arena, buf_view(&lines), &l->found);
}

static err look_at_all(struct look *l)
{
    size_t count;
    const struct invariant *const *list = db_invariants(&count);
    TRY(each(l, "BEGIN", see_finding, "snapshot"));
    TRY(each(l, "PRAGMA integrity_check(10)", see_finding, "integrity"));
    TRY(each(l, "PRAGMA foreign_key_check", see_orphan, "references"));
    TRY(each(l, "SELECT number, name, checksum FROM schema_migrations ORDER BY number", see_migration, "migrations"));
    l->found.older = !schema_is_current(l->found.schema);
    for (size_t i = 0; i < count && !l->found.older; i++)
        TRY(each(l, invariant_sql(l->arena, list[i]), see_finding, list[i]->promise));
    return count_rows(l);
}

static err verify(struct arena *a, const struct db_options *o, struct db_contents *out, struct buf *broken)
{
    struct look l = { .arena = a, .broken = broken };
    TRY(inspect_open(a, o->folder, &l.db, broken));
    err e = look_at_all(&l);
    sqlite3_close(l.db);
    TRY(e);
    *out = l.found;
    return OK;
}

/* -- copying ------------------------------------------------------------------------------------------------------- */

static err copy_pages(sqlite3 *from, sqlite3 *to, struct buf *complaint)
{
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    if (b == NULL)
        return complain(complaint, to, "copy");
    int rc;
    do
        rc = sqlite3_backup_step(b, -1); /* in steps it would begin anew with each write of the server */
    while (rc == SQLITE_BUSY || rc == SQLITE_LOCKED);
    sqlite3_backup_finish(b);
    return rc == SQLITE_DONE ? OK : complain(complaint, to, "copy");
}

static err tell_contents(struct arena *a, sqlite3 *db, struct db_contents *out, struct buf *complaint)
{
    struct look l = { .arena = a, .db = db, .broken = complaint };
    struct buf ignored = { .arena = a };
    TRY(each(&l, "PRAGMA journal_mode = DELETE", see_finding, "journal") == OK ? OK : ERR_INTERNAL);
    l.broken = &ignored;
    TRY(each(&l, "SELECT number, name, checksum FROM schema_migrations ORDER BY number", see_migration, "migrations"));
    TRY(count_rows(&l));
    *out = l.found;
    return OK;
}

static err copy(struct arena *a, const struct db_options *o, const char *to, struct db_contents *out,
                struct buf *complaint)
{
    const char *file = in_folder(a, o, "weir.db");
    sqlite3 *from = NULL, *into = NULL;
    struct buf ignored = { .arena = a };
    if (file == NULL)
        return ERR_MEMORY;
    if (access(file, F_OK) != 0) {
        buf_f(complaint, "%s: there is no database\n", file);
        return ERR_NOT_FOUND;
    }
    /* not read only: without a server the last one out has to clear the log away */
    err e =
        sqlite3_open_v2(file, &from, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK ? OK : complain(complaint, from, file);
    if (e == OK && sqlite3_open_v2(to, &into, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        e = complain(complaint, into, to);
    sqlite3_busy_timeout(from, PATIENCE_MS);
    if (e == OK)
        e = copy_pages(from, into, complaint);
    sqlite3_close(from);
    if (e == OK)
        e = tell_contents(a, into, out, &ignored);
    sqlite3_close(into);
    return e;
}

/* -- the way back -------------------------------------------------------------------------------------------------- */

static err failed(struct buf *complaint, const char *path)
{
    buf_f(complaint, "%s: %s\n", path, strerrordesc_np(errno));
    return ERR_INTERNAL;
}

/* The lock that a server has as long as it runs. */
static err take_lock(struct arena *a, const struct db_options *o, int *fd, struct buf *complaint)
{
    const char *path = in_folder(a, o, "weir.lock");
    int made = path != NULL ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (made < 0)
        return failed(complaint, path != NULL ? path : "weir.lock");
    if (flock(made, LOCK_EX | LOCK_NB) != 0) {
        close(made);
        buf_f(complaint, "%.*s: a server runs on it; stop it first\n", STR_FMT(o->folder));
        return ERR_BUSY;
    }
    *fd = made;
    return OK;
}

static err sync_folder(struct arena *a, const struct db_options *o, struct buf *complaint)
{
    const char *path = in_folder(a, o, ".");
    int fd = path != NULL ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool good = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return good ? OK : failed(complaint, path != NULL ? path : "data folder");
}

/* Beside the database, and applied to whatever is there by its name: what an old one left behind, also one that somebody took away by hand, would
 * be written over the one that is put there. */
static err drop_logs(struct arena *a, const struct db_options *o, struct buf *complaint)
{
    static const char *const names[] = { "weir.db-wal", "weir.db-shm", "weir.db-journal" };
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *path = in_folder(a, o, names[i]);
        if (path == NULL)
            return ERR_MEMORY;
        if (unlink(path) != 0 && errno != ENOENT)
            return failed(complaint, path);
    }
    return OK;
}

/* The old database stays beside as weir.db.replaced, with what its log held as far as that can be written back. */
static err put_aside(struct arena *a, const struct db_options *o, const char *file, struct buf *complaint)
{
    const char *kept = in_folder(a, o, "weir.db.replaced");
    sqlite3 *old = NULL;
    if (kept == NULL)
        return ERR_MEMORY;
    if (sqlite3_open_v2(file, &old, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK)
        sqlite3_exec(old, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    sqlite3_close(old);
    if ((unlink(kept) != 0 && errno != ENOENT) || link(file, kept) != 0)
        return failed(complaint, kept);
    return OK;
}

static err put_in_place(struct arena *a, const struct db_options *o, const char *from, bool force,
                        struct buf *complaint)
{
    const char *file = in_folder(a, o, "weir.db");
    if (file == NULL)
        return ERR_MEMORY;
    bool there = access(file, F_OK) == 0;
    if (there && !force) {
        buf_f(complaint, "%s is there already; --force puts it aside\n", file);
        return ERR_CONFLICT;
    }
    if (there)
        TRY(put_aside(a, o, file, complaint));
    TRY(drop_logs(a, o, complaint));
    TRY(sync_folder(a, o, complaint)); /* gone for good before another database has their name */
    if (rename(from, file) != 0)
        return failed(complaint, file);
    return sync_folder(a, o, complaint);
}

static err restore(struct arena *a, const struct db_options *o, const char *from, bool force, struct buf *complaint)
{
    int lock = -1;
    TRY(take_lock(a, o, &lock, complaint));
    err e = put_in_place(a, o, from, force, complaint);
    close(lock);
    return e;
}

static err rehearse(struct arena *a, const struct db_options *o, const char *from, const char *folder,
                    struct db_rehearsal *r, struct buf *complaint)
{
    struct db_options beside = { .folder = str_of(folder), .read_only = true };
    const char *file = in_folder(a, &beside, "weir.db");
    if (file == NULL)
        return ERR_MEMORY;
    if (rename(from, file) != 0)
        return failed(complaint, file);
    err e = r->look(r, &beside);
    unlink(file);
    static const char *const rest[] = { "weir.db-wal", "weir.db-shm" }; /* of whoever looked */
    for (size_t i = 0; i < COUNT(rest); i++) {
        const char *path = in_folder(a, &beside, rest[i]);
        if (path != NULL)
            unlink(path);
    }
    return e;
}

const struct copier sqlite_copier = {
    .kind = "sqlite", .copy = copy, .verify = verify, .restore = restore, .rehearse = rehearse
};
