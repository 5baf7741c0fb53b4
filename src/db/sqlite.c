/* sqlite.c - the store on SQLite: the data folder, connections, prepared statements, rows.
 *
 * Each thread reads on a connection of its own (found by a thread-local list), so nothing here takes a lock; writing is
 * sqlite_writer.c. A statement that changes something is always run to its end, even when the caller wants one row of its
 * RETURNING: only at the end are its foreign keys checked and its changes counted. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CONN_ARENA_MAX = 8 << 20, /* prepared statements' maps */
    BUSY_TIMEOUT_MS = 1000,   /* for safety only: nothing contends with one writer */
    PROGRESS_STEPS = 1000,    /* of the virtual machine between two looks at the clock: about 50 µs */
};

struct reader {
    struct reader *next;
    struct sqlite *db;
    struct conn conn;
    struct sqlite_tx tx;
    bool open;    /* between db_read_begin and db_read_end */
    bool lingers; /* its snapshot is open still, after db_read_end */
    u64 as_of;    /* commits when the snapshot was taken, or before */
};
static _Thread_local struct reader *my_readers; /* one for each open db; a thread has no other place to keep it */
static _Thread_local bool i_rest;               /* this thread calls db_read_rest */

/* ---- errors ---- */

static err class_of(int rc)
{
    switch (rc) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
    case SQLITE_CONSTRAINT_CHECK:
    case SQLITE_CONSTRAINT_FOREIGNKEY:
    case SQLITE_CONSTRAINT_TRIGGER:
        return ERR_CONFLICT;
    default:
        break;
    }
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_INTERRUPT:
        return ERR_BUSY;
    case SQLITE_NOMEM:
        return ERR_MEMORY;
    case SQLITE_FULL:
        return ERR_STORAGE;
    case SQLITE_TOOBIG:
        return ERR_TOO_LARGE;
    default: /* with NOT NULL: a statement that leaves a required column out is our mistake, not a conflict */
        return ERR_INTERNAL;
    }
}

/* SQLite says so only of a write that the disk has no room for; a quota, a sync or a longer file tells it by the system's error. */
static bool no_room(const struct conn *c, int rc)
{
    int system = c->sqlite != NULL && (rc & 0xff) == SQLITE_IOERR ? sqlite3_system_errno(c->sqlite) : 0;
    return system == ENOSPC || system == EDQUOT;
}

/* A full disk is told by the writer, once, and not by each statement that meets it: the log may be on that disk. */
err conn_error(struct conn *c, int rc, const char *statement)
{
    err e = no_room(c, rc) ? ERR_STORAGE : class_of(rc);
    bool told =
        c->sqlite != NULL && sqlite3_extended_errcode(c->sqlite) == rc; /* else the message is about something before */
    if (e == ERR_INTERNAL)
        LOG(LOG_ERROR, "db.failed", LOG_STR("statement", str_of(statement)), LOG_INT("code", rc),
            LOG_STR("cause", str_of(told ? sqlite3_errmsg(c->sqlite) : sqlite3_errstr(rc))));
    return e;
}

/* ---- connections ---- */

/* Readers map the file: their page cache is dropped with each commit of the writer, the mapping is not. So a reader sets pages up anew for each read, and looking at every
 * cell of them took an eighth of it; the writer, who keeps its pages, looks. */
static const char *const pragmas[] = {
    [ROLE_READER] = "PRAGMA cache_size = -2048; PRAGMA mmap_size = 268435456;",
    [ROLE_WRITER] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;"
                    "PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536; PRAGMA mmap_size = 0;"
                    "PRAGMA cell_size_check = ON;"
                    "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                    " checksum TEXT NOT NULL, applied_at BIGINT NOT NULL);",
    [ROLE_CHECKPOINTER] = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;",
};
static const char common_pragmas[] =
    "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;";

static const char *const verbs[VERBS] = {
    [VERB_BEGIN] = "BEGIN",
    [VERB_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [VERB_COMMIT] = "COMMIT",
    [VERB_ROLLBACK] = "ROLLBACK",
    [VERB_SAVEPOINT] = "SAVEPOINT j",
    [VERB_RELEASE] = "RELEASE j",
    [VERB_ROLLBACK_TO] = "ROLLBACK TO j",
    [VERB_PING] = "SELECT 1 FROM sqlite_schema LIMIT 1", /* a bare SELECT 1 would not touch the file */
    [VERB_PROBE] = "PRAGMA user_version = 0",            /* as it is anyway, but it writes a page */
};

err conn_script(struct conn *c, const char *name, const char *sql)
{
    int rc = sqlite3_exec(c->sqlite, sql, NULL, NULL, NULL);
    return conn_error(c, rc, name);
}

static err prepare_verb(struct conn *c, enum verb verb)
{
    if (c->verbs[verb] != NULL)
        return OK;
    int rc = sqlite3_prepare_v3(c->sqlite, verbs[verb], -1, SQLITE_PREPARE_PERSISTENT, &c->verbs[verb], NULL);
    return conn_error(c, rc, verbs[verb]);
}

static err conn_configure(struct conn *c, enum role role)
{
    sqlite3_busy_timeout(c->sqlite, BUSY_TIMEOUT_MS);
    sqlite3_db_config(c->sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    /* "text" is a name and never silently a string */
    sqlite3_db_config(c->sqlite, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_db_config(c->sqlite, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    TRY(conn_script(c, "pragmas", common_pragmas));
    TRY(conn_script(c, "pragmas", pragmas[role]));
    for (int i = 0; role == ROLE_WRITER && i < VERBS; i++) /* now: taking back must not need memory that is not there */
        TRY(prepare_verb(c, i));
    return OK;
}

static err conn_memory(struct conn *c)
{
    size_t count;
    db_statements(&count);
    c->arena = arena_new(CONN_ARENA_MAX);
    if (c->arena == NULL)
        return ERR_MEMORY;
    c->by_slot = NEW_N(c->arena, struct prepared, count);
    return c->by_slot != NULL ? OK : ERR_MEMORY;
}

err conn_open(struct conn *c, const char *file, enum role role)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    flags |= role == ROLE_READER ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    struct conn made = { 0 };
    err e = conn_memory(&made);
    if (e == OK)
        e = class_of(sqlite3_open_v2(file, &made.sqlite, flags, VFS_NAME));
    if (e == OK)
        e = conn_configure(&made, role);
    else if (made.sqlite != NULL)
        e = conn_error(&made, sqlite3_extended_errcode(made.sqlite), "open");
    if (e != OK) {
        conn_shut(&made);
        return e;
    }
    *c = made;
    return OK;
}

void conn_shut(struct conn *c)
{
    size_t count;
    db_statements(&count);
    for (size_t i = 0; c->by_slot != NULL && i < count; i++)
        sqlite3_finalize(c->by_slot[i].stmt);
    for (int i = 0; i < VERBS; i++)
        sqlite3_finalize(c->verbs[i]);
    int rc = sqlite3_close(c->sqlite);
    assert(rc != SQLITE_BUSY); /* every statement is in the two tables above */
    arena_free(c->arena);
    *c = (struct conn){ 0 };
}

err conn_verb(struct conn *c, enum verb verb)
{
    bool undoes = verb == VERB_ROLLBACK || verb == VERB_ROLLBACK_TO;
    if (!undoes && fault_hit(FAULT_STATEMENT)) /* what takes back cannot be made to fail: nothing could follow it */
        return conn_error(c, SQLITE_IOERR, verbs[verb]);
    TRY(prepare_verb(c, verb));
    int rc = sqlite3_step(c->verbs[verb]);
    err e = rc == SQLITE_DONE || rc == SQLITE_ROW ? OK : conn_error(c, rc, verbs[verb]);
    sqlite3_reset(c->verbs[verb]);
    return e;
}

/* ---- prepared statements ---- */

static err map_parameters(struct conn *c, const struct stmt *s, struct prepared *p)
{
    int n = sqlite3_bind_parameter_count(p->stmt);
    if (n > PARAMETERS_MAX)
        return db_misused(s->name, "too many parameters");
    p->number = arena_alloc(c->arena, (size_t)n);
    if (p->number == NULL)
        return ERR_MEMORY;
    for (int i = 1; i <= n; i++) {
        u32 number = parameter_number(sqlite3_bind_parameter_name(p->stmt, i));
        if (number == 0 || number > (u32)n)
            return db_misused(s->name, "its parameters are not $1, $2 … without a gap");
        p->number[number - 1] = (u8)i;
    }
    p->parameters = (u16)n;
    return OK;
}

static err map_columns(struct conn *c, const struct stmt *s, struct prepared *p)
{
    int n = sqlite3_column_count(p->stmt);
    p->reprepared = sqlite3_stmt_status(p->stmt, SQLITE_STMTSTATUS_REPREPARE, 0);
    p->columns = (u16)n;
    if (s->row == NULL)
        return OK;
    if (n > COLUMNS_MAX)
        return db_misused(s->name, "too many columns");
    if (p->field == NULL)
        p->field = arena_alloc(c->arena, COLUMNS_MAX);
    if (p->field == NULL)
        return ERR_MEMORY;
    for (int i = 0; i < n; i++) {
        int field = field_index(s->row, str_of(sqlite3_column_name(p->stmt, i)));
        if (field < 0)
            return db_misused(s->name, "a column is no field of its row table");
        p->field[i] = (i8)field;
    }
    return OK;
}

static err prepare(struct conn *c, const struct stmt *s, struct prepared *out)
{
    struct prepared made = { 0 };
    struct arena_mark mark = arena_mark(c->arena);
    int rc = sqlite3_prepare_v3(c->sqlite, s->sql, -1, SQLITE_PREPARE_PERSISTENT, &made.stmt, NULL);
    if (rc != SQLITE_OK)
        return conn_error(c, rc, s->name);
    err e = made.stmt != NULL ? map_parameters(c, s, &made) : db_misused(s->name, "there is no statement");
    if (e == OK)
        e = map_columns(c, s, &made);
    if (e != OK) {
        sqlite3_finalize(made.stmt);
        arena_rewind(c->arena, mark);
        return e;
    }
    *out = made;
    return OK;
}

static err find_prepared(struct conn *c, const struct stmt *s, struct prepared **out)
{
    struct prepared *p = &c->by_slot[stmt_slot(s)];
    if (p->stmt == NULL)
        TRY(prepare(c, s, p));
    *out = p;
    return OK;
}

/* Texts are not copied: they live until the statement is reset, and the next run binds all anew. */
static int bind_one(sqlite3_stmt *stmt, int number, const struct arg *arg)
{
    switch (arg->type) {
    case ARG_I64:
        return sqlite3_bind_int64(stmt, number, arg->integer);
    case ARG_F64:
        return sqlite3_bind_double(stmt, number, arg->real);
    case ARG_STR:
        return sqlite3_bind_text64(stmt, number, arg->text.p, arg->text.n, SQLITE_STATIC, SQLITE_UTF8);
    case ARG_BLOB:
        return sqlite3_bind_blob64(stmt, number, arg->text.p, arg->text.n, SQLITE_STATIC);
    case ARG_NULL:
    default:
        return sqlite3_bind_null(stmt, number);
    }
}

static err bind(struct conn *c, const struct stmt *s, struct prepared *p, struct args args)
{
    if (args.n != p->parameters)
        return db_misused(s->name, "called with another number of arguments than it has parameters");
    for (u32 i = 0; i < args.n; i++) {
        int rc = bind_one(p->stmt, p->number[i], &args.list[i]);
        if (rc != SQLITE_OK)
            return conn_error(c, rc, s->name);
    }
    return OK;
}

/* ---- running a statement ---- */

static int out_of_time(void *ctx)
{
    struct sqlite_tx *tx = ctx;
    tx->slow = clock_mono_us() >= tx->deadline_us;
    return tx->slow;
}

static err start(struct sqlite_tx *tx, const struct stmt *s, struct args args, struct prepared **p)
{
    if (tx->lost || tx->slow)
        return ERR_BUSY;
    if (!tx->begun) { /* with the first statement, so that a snapshot nobody reads costs nothing */
        CONTAINER(tx, struct reader, tx)->as_of = atomic_load(&sqlite_of(tx->base.db)->commits);
        TRY(conn_verb(tx->conn, VERB_BEGIN));
        tx->begun = true;
    }
    TRY(find_prepared(tx->conn, s, p));
    TRY(bind(tx->conn, s, *p, args));
    tx->statements++;
    tx->started_us = clock_mono_us();
    if (tx->fast)
        tx->deadline_us = tx->started_us + tx->left_us;
    return OK;
}

static err step(struct sqlite_tx *tx, const struct stmt *s, struct prepared *p, bool *row)
{
    int rc = fault_hit(FAULT_STATEMENT) ? SQLITE_IOERR : sqlite3_step(p->stmt);
    *row = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW && p->reprepared != sqlite3_stmt_status(p->stmt, SQLITE_STMTSTATUS_REPREPARE, 0))
        return map_columns(tx->conn, s, p);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return OK;
    tx->lost = tx->writes && conn_idle(tx->conn);
    return conn_error(tx->conn, rc, s->name);
}

/* Ends the statement; `e` is how it went. What changes something goes to its end first. */
static err finish(struct sqlite_tx *tx, const struct stmt *s, struct prepared *p, err e)
{
    bool row = true;
    while (e == OK && row && !sqlite3_stmt_readonly(p->stmt) && sqlite3_stmt_busy(p->stmt))
        e = step(tx, s, p, &row);
    sqlite3_reset(p->stmt);
    i64 now_us = clock_mono_us();
    if (tx->fast) {
        tx->left_us = tx->deadline_us - now_us;
        tx->deadline_us = INT64_MAX;
        tx->slow = tx->slow || tx->left_us <= 0;
    }
    stmt_took(s, now_us - tx->started_us);
    return e;
}

static err cell_of(sqlite3_stmt *stmt, int column, struct cell *out)
{
    struct cell cell = { .type = CELL_NULL };
    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER:
        cell = (struct cell){ .type = CELL_I64, .integer = sqlite3_column_int64(stmt, column) };
        break;
    case SQLITE_FLOAT:
        cell = (struct cell){ .type = CELL_F64, .real = sqlite3_column_double(stmt, column) };
        break;
    case SQLITE_TEXT:
        cell = (struct cell){ .type = CELL_STR, .text.p = (const char *)sqlite3_column_text(stmt, column) };
        break;
    case SQLITE_BLOB:
        cell = (struct cell){ .type = CELL_STR, .text.p = sqlite3_column_blob(stmt, column) };
        break;
    default:
        break;
    }
    if (cell.type == CELL_STR)
        cell.text.n = (size_t)sqlite3_column_bytes(stmt, column);
    if (cell.type == CELL_STR && cell.text.p == NULL) {
        if (cell.text.n > 0)
            return ERR_MEMORY;
        cell.text.p = ""; /* an empty blob is no NULL */
    }
    *out = cell;
    return OK;
}

static err fill(struct sqlite_tx *tx, const struct stmt *s, const struct prepared *p, void *row)
{
    for (int i = 0; i < p->columns; i++) {
        struct cell cell;
        TRY(cell_of(p->stmt, i, &cell));
        TRY(field_from_cell(tx->base.arena, s->row, (u32)p->field[i], cell, row));
    }
    return OK;
}

/* Into memory of its own first: the caller's row stays as it was when a later column fails. */
static err first_row(struct sqlite_tx *tx, const struct stmt *s, struct prepared *p, bool wanted, void **out)
{
    bool row;
    TRY(step(tx, s, p, &row));
    if (!row)
        return ERR_NOT_FOUND;
    if (!wanted)
        return OK;
    void *made = arena_alloc(tx->base.arena, s->row->size);
    if (made == NULL)
        return ERR_MEMORY;
    TRY(fill(tx, s, p, made));
    *out = made;
    return OK;
}

static struct sqlite_tx *of_base(struct tx *base)
{
    return CONTAINER(base, struct sqlite_tx, base);
}

static err sqlite_row(struct tx *base, const struct stmt *s, void *row, struct args args)
{
    struct sqlite_tx *tx = of_base(base);
    struct prepared *p;
    TRY(start(tx, s, args, &p));
    void *made = NULL;
    TRY(finish(tx, s, p, first_row(tx, s, p, row != NULL, &made)));
    if (row != NULL && made != NULL) /* one implies the other, which an analyzer cannot see */
        memcpy(row, made, s->row->size);
    return OK;
}

static err all_rows(struct sqlite_tx *tx, const struct stmt *s, struct prepared *p, struct rows *rows)
{
    while (rows->n < rows->max) {
        bool row;
        TRY(step(tx, s, p, &row));
        if (!row)
            break;
        TRY(rows_room(tx->base.arena, rows, s->row->size));
        TRY(fill(tx, s, p, rows->p + rows->n * s->row->size));
        rows->n++;
    }
    return OK;
}

static err sqlite_list(struct tx *base, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args)
{
    struct sqlite_tx *tx = of_base(base);
    struct prepared *p;
    struct rows made = { .max = MIN(max, UINT32_MAX / 2) };
    TRY(start(tx, s, args, &p));
    TRY(finish(tx, s, p, all_rows(tx, s, p, &made)));
    *rows = made.p;
    *n = made.n;
    return OK;
}

static err sqlite_exec(struct tx *base, const struct stmt *s, i64 *changed, struct args args)
{
    struct sqlite_tx *tx = of_base(base);
    struct prepared *p;
    bool row;
    TRY(start(tx, s, args, &p));
    TRY(finish(tx, s, p, step(tx, s, p, &row)));
    if (changed != NULL)
        *changed = sqlite3_stmt_readonly(p->stmt) ? 0 : sqlite3_changes64(tx->conn->sqlite);
    return OK;
}

static err sqlite_send(struct tx *base, const struct stmt *s, err unless_one, struct args args)
{
    i64 changed;
    TRY(sqlite_exec(base, s, &changed, args));
    return changed == 1 ? OK : unless_one;
}

/* A COMMIT in the script would leave half of it behind: no transaction is open afterwards. */
static err sqlite_script(struct tx *base, const char *name, const char *sql)
{
    struct sqlite_tx *tx = of_base(base);
    err e = conn_script(tx->conn, name, sql);
    tx->lost = conn_idle(tx->conn);
    return tx->lost ? ERR_INTERNAL : e;
}

/* The folder's lock stands for the one of migrations; and nothing follows one. */
static err sqlite_nothing(struct tx *base)
{
    return OK;
}

/* ---- reading ---- */

static err reader_new(struct sqlite *db, struct reader **out)
{
    struct conn conn;
    TRY(conn_open(&conn, db->file, ROLE_READER));
    struct reader *r = NEW(conn.arena, struct reader);
    if (r == NULL) {
        conn_shut(&conn);
        return ERR_MEMORY;
    }
    *r = (struct reader){ .next = my_readers, .db = db, .conn = conn };
    my_readers = r;
    atomic_fetch_add(&db->readers, 1);
    *out = r;
    return OK;
}

static err reader_of_thread(struct sqlite *db, struct reader **out)
{
    for (struct reader *r = my_readers; r != NULL; r = r->next)
        if (r->db == db) {
            *out = r;
            return OK;
        }
    return reader_new(db, out);
}

static void sqlite_thread_end(struct db *base)
{
    struct sqlite *db = sqlite_of(base);
    for (struct reader **at = &my_readers; *at != NULL; at = &(*at)->next)
        if ((*at)->db == db) {
            struct conn conn = (*at)->conn; /* by value: the reader lives on the arena that is freed */
            *at = (*at)->next;
            conn_shut(&conn);
            atomic_fetch_sub(&db->readers, 1);
            return;
        }
}

static void snapshot_end(struct reader *r)
{
    r->lingers = false;
    if (!conn_idle(&r->conn)) {
        err ignored =
            conn_verb(&r->conn, VERB_ROLLBACK); /* nothing was changed; and unlike COMMIT it cannot be refused */
        (void)ignored;
    }
}

/* Only before the next commit: who reads after an answer sees what it told of, whichever loop gave it. */
static bool snapshot_lasts(const struct reader *r)
{
    return r->lingers && !conn_idle(&r->conn) && r->as_of == atomic_load(&r->db->commits);
}

static void sqlite_read_rest(struct db *base)
{
    i_rest = true;
    for (struct reader *r = my_readers; r != NULL; r = r->next)
        if (r->db == sqlite_of(base) && r->lingers)
            snapshot_end(r);
}

static err sqlite_read_begin(struct db *base, struct arena *a, bool fast, struct tx **out)
{
    struct sqlite *db = sqlite_of(base);
    struct reader *r;
    TRY(reader_of_thread(db, &r));
    if (r->open)
        return db_misused("read", "a thread has one snapshot at a time");
    bool lasts = snapshot_lasts(r);
    if (r->lingers && !lasts)
        snapshot_end(r);
    r->open = true;
    r->tx = (struct sqlite_tx){ .base = { .db = base, .arena = a },
                                .conn = &r->conn,
                                .fast = fast,
                                .begun = lasts,
                                .left_us = base->options.read_budget_us,
                                .deadline_us = INT64_MAX };
    if (fast)
        sqlite3_progress_handler(r->conn.sqlite, PROGRESS_STEPS, out_of_time, &r->tx);
    *out = &r->tx.base;
    return OK;
}

static void sqlite_read_end(struct tx *base)
{
    struct sqlite_tx *tx = of_base(base);
    struct reader *r = CONTAINER(tx, struct reader, tx);
    if (tx->fast)
        sqlite3_progress_handler(r->conn.sqlite, 0, NULL, NULL);
    r->lingers = i_rest && tx->fast && !tx->slow && !atomic_load(&r->db->shortens);
    if (!r->lingers)
        snapshot_end(r);
    atomic_fetch_add_explicit(&base->db->statements, tx->statements, memory_order_relaxed);
    r->open = false;
}

static bool sqlite_read_was_slow(const struct tx *tx)
{
    return CONTAINER(tx, const struct sqlite_tx, base)->slow;
}

static void sqlite_read_repeats(struct tx *base)
{
    of_base(base)->repeats = true;
}

static bool sqlite_read_leave(struct tx *base)
{
    struct sqlite_tx *tx = of_base(base);
    tx->slow |= tx->fast && tx->repeats;
    return tx->slow;
}

static err sqlite_ping(struct db *base, i64 *latency_us)
{
    struct reader *r;
    i64 from_us = clock_mono_us();
    TRY(reader_of_thread(sqlite_of(base), &r));
    TRY(conn_verb(&r->conn, VERB_PING));
    *latency_us = clock_mono_us() - from_us;
    return OK;
}

/* ---- the data folder ---- */

static err folder_failed(const char *what, const char *path)
{
    LOG(LOG_ERROR, "db.folder", LOG_STR("cause", str_of(what)), LOG_STR("path", str_of(path)),
        LOG_STR("error", str_of(strerrordesc_np(errno))));
    return ERR_INTERNAL;
}

static const char *path_in(struct sqlite *db, str name)
{
    str parts[] = { db->base.options.folder, S("/"), name };
    str path = str_concat(db->base.arena, parts, COUNT(parts));
    return path.p != NULL ? str_z(db->base.arena, path) : NULL;
}

static err folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return folder_failed("open", path);
    err e = fsync(fd) == 0 ? OK : folder_failed("sync", path);
    close(fd);
    return e;
}

/* Only for its owner, whatever the umask says: it holds every secret there is. */
static err folder_make(struct sqlite *db)
{
    if (mkdir(db->folder, 0700) != 0)
        return errno == EEXIST ? OK : folder_failed("make", db->folder);
    if (chmod(db->folder, 0700) != 0)
        return folder_failed("chmod", db->folder);
    const char *parent = path_in(db, S(".."));
    return parent != NULL ? folder_sync(parent) : ERR_MEMORY;
}

/* The file is made here and not by SQLite, which would make it (and the WAL, which takes its mode) readable to all. */
static err file_make(const char *path, int *out)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return folder_failed("open", path);
    *out = fd;
    return OK;
}

static err folder_lock(struct sqlite *db, const char *path)
{
    TRY(file_make(path, &db->lock));
    if (flock(db->lock, LOCK_EX | LOCK_NB) == 0)
        return OK;
    if (errno != EWOULDBLOCK)
        return folder_failed("lock", path);
    LOG(LOG_ERROR, "db.folder_in_use", LOG_STR("path", str_of(path)));
    return ERR_BUSY;
}

/* ---- opening and closing ---- */

static int see_mode(void *wal, int n, char **values, char **names)
{
    *(bool *)wal = n == 1 && str_eq(str_of(values[0]), S("wal"));
    return 0;
}

/* SQLite answers a refused switch to WAL with the mode it kept, not with an error. */
static err require_wal(struct sqlite *db)
{
    bool wal = false;
    int rc = sqlite3_exec(db->writer.sqlite, "PRAGMA journal_mode", see_mode, &wal, NULL);
    if (rc != SQLITE_OK)
        return conn_error(&db->writer, rc, "journal_mode");
    errno = ENOTSUP;
    return wal ? OK : folder_failed("no write-ahead log on this file system", db->folder);
}

static err start_store(struct sqlite *db)
{
    db->folder = db->base.options.folder.p != NULL ? str_z(db->base.arena, db->base.options.folder) : NULL;
    db->file = path_in(db, S("weir.db"));
    const char *lock = path_in(db, S("weir.lock"));
    if (db->folder == NULL || db->file == NULL || lock == NULL)
        return ERR_MEMORY;
    if (db->base.options.read_only)
        return access(db->file, R_OK) == 0 ? OK : ERR_NOT_FOUND;
    TRY(folder_make(db));
    TRY(folder_lock(db, lock));
    int fd;
    TRY(file_make(db->file, &fd));
    close(fd); /* before SQLite opens it: closing any descriptor of a file drops the process's locks on it */
    TRY(conn_open(&db->writer, db->file, ROLE_WRITER));
    TRY(require_wal(db));
    TRY(conn_open(&db->checkpointer, db->file, ROLE_CHECKPOINTER));
    TRY(folder_sync(db->folder));
    return writer_start(db);
}

/* Takes down as much as start_store has put up. */
static void stop_store(struct sqlite *db)
{
    sqlite_thread_end(&db->base);
    writer_stop(db);
    if (atomic_load(&db->readers) > 0) /* their files stay open, and the WAL stays behind */
        LOG(LOG_ERROR, "db.readers_left", LOG_INT("readers", atomic_load(&db->readers)));
    conn_shut(&db->checkpointer);
    conn_shut(&db->writer);
    if (db->lock >= 0)
        close(db->lock);
    arena_free(db->base.arena);
}

static void sqlite_close(struct db *base)
{
    stop_store(sqlite_of(base));
}

static void sqlite_stats(struct db *base, struct db_stats *out) {}

const struct driver sqlite_driver = {
    .name = "sqlite",
    .close = sqlite_close,
    .thread_end = sqlite_thread_end,
    .read_begin = sqlite_read_begin,
    .read_end = sqlite_read_end,
    .read_was_slow = sqlite_read_was_slow,
    .read_repeats = sqlite_read_repeats,
    .read_leave = sqlite_read_leave,
    .read_rest = sqlite_read_rest,
    .row = sqlite_row,
    .list = sqlite_list,
    .exec = sqlite_exec,
    .send = sqlite_send,
    .script = sqlite_script,
    .migrated = sqlite_nothing,
    .migrate_lock = sqlite_nothing,
    .check = sqlite_check,
    .ping = sqlite_ping,
    .stats = sqlite_stats,
};

err sqlite_open(const struct db_options *options, struct db **out)
{
    struct db *base;
    TRY(vfs_register());
    TRY(db_base(options, &sqlite_driver, sizeof(struct sqlite), &base));
    struct sqlite *db = sqlite_of(base);
    db->lock = -1;
    db->checkpoint_at = CHECKPOINT_PAGES;
    db->wal = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    base->options.read_budget_us = base->options.read_budget_us != 0 ? base->options.read_budget_us : READ_BUDGET_US;
    err e = start_store(db);
    if (e == OK)
        *out = base;
    else
        stop_store(db);
    return e;
}
