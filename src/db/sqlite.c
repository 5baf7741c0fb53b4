/* sqlite.c - the store on SQLite: the data folder, connections, prepared statements, rows.
 *
 * Each thread reads on a connection of its own (found by a thread-local list), so nothing here takes a lock; writing is
 * sqlite_writer.c. A statement that changes something is always run to its end, even when the caller wants one row of its
 * RETURNING: only at the end are its foreign keys checked and its changes counted. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/db_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CONN_ARENA_MAX = 8 << 20, /* prepared statements' maps */
    DB_ARENA_MAX = 1 << 20,
    BUSY_TIMEOUT_MS = 1000, /* for safety only: nothing contends with one writer */
    PROGRESS_STEPS = 1000,  /* of the virtual machine between two looks at the clock: about 50 µs */
    FIRST_ROWS = 16,
    BATCH_MAX = 256,
    QUEUE_MAX = 16384,
    READ_BUDGET_US = 2000,
};

struct reader {
    struct reader *next;
    struct db *db;
    struct conn conn;
    struct tx tx;
    bool open; /* between db_read_begin and db_read_end */
};
static _Thread_local struct reader *my_readers; /* one for each open db; a thread has no other place to keep it */
static _Atomic(db_observer *) observer;         /* one for the process, as the metrics are */

void db_observe_by(db_observer *fn)
{
    atomic_store(&observer, fn);
}

/* ---- statements of the binary ---- */

/* Weak: a program without statements has no such section. */
extern const struct stmt *const __start_weir_statements[] __attribute__((weak, visibility("hidden")));
extern const struct stmt *const __stop_weir_statements[] __attribute__((weak, visibility("hidden")));

const struct stmt *const *db_statements(size_t *count)
{
    *count = (size_t)(__stop_weir_statements - __start_weir_statements);
    return __start_weir_statements;
}

u32 parameter_number(const char *name)
{
    i64 n = 0;
    if (name == NULL || name[0] != '$' || !str_i64(str_of(name + 1), 1, PARAMETERS_MAX, &n))
        return 0;
    return (u32)n;
}

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

static err misused(const char *statement, const char *what)
{
    LOG(LOG_ERROR, "db.misused", LOG_STR("statement", str_of(statement)), LOG_STR("cause", str_of(what)));
    return ERR_INTERNAL;
}

/* ---- connections ---- */

/* Readers map the file: their page cache is dropped with each commit of the writer, the mapping is not. */
static const char *const pragmas[] = {
    [ROLE_READER] = "PRAGMA cache_size = -2048; PRAGMA mmap_size = 268435456;",
    [ROLE_WRITER] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;"
                    "PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536; PRAGMA mmap_size = 0;"
                    "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                    " checksum TEXT NOT NULL, applied_at BIGINT NOT NULL);",
    [ROLE_CHECKPOINTER] = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;",
};
static const char common_pragmas[] =
    "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
    "PRAGMA temp_store = MEMORY;";

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
    assert(count <= STATEMENTS_MAX);
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
        return misused(s->name, "too many parameters");
    p->number = arena_alloc(c->arena, (size_t)n);
    if (p->number == NULL)
        return ERR_MEMORY;
    for (int i = 1; i <= n; i++) {
        u32 number = parameter_number(sqlite3_bind_parameter_name(p->stmt, i));
        if (number == 0 || number > (u32)n)
            return misused(s->name, "its parameters are not $1, $2 … without a gap");
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
        return misused(s->name, "too many columns");
    if (p->field == NULL)
        p->field = arena_alloc(c->arena, COLUMNS_MAX);
    if (p->field == NULL)
        return ERR_MEMORY;
    for (int i = 0; i < n; i++) {
        int field = field_index(s->row, str_of(sqlite3_column_name(p->stmt, i)));
        if (field < 0)
            return misused(s->name, "a column is no field of its row table");
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
    err e = made.stmt != NULL ? map_parameters(c, s, &made) : misused(s->name, "there is no statement");
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
    struct prepared *p = &c->by_slot[s->slot - __start_weir_statements];
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
        return misused(s->name, "called with another number of arguments than it has parameters");
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
    struct tx *tx = ctx;
    tx->slow = clock_mono_us() >= tx->deadline_us;
    return tx->slow;
}

static err start(struct tx *tx, const struct stmt *s, struct args args, struct prepared **p)
{
    if (tx->lost || tx->slow)
        return ERR_BUSY;
    if (!tx->begun) { /* with the first statement, so that a snapshot nobody reads costs nothing */
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

static err step(struct tx *tx, const struct stmt *s, struct prepared *p, bool *row)
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
static err finish(struct tx *tx, const struct stmt *s, struct prepared *p, err e)
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
    db_observer *observe = atomic_load_explicit(&observer, memory_order_relaxed);
    if (observe != NULL)
        observe(s, now_us - tx->started_us);
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

static err fill(struct tx *tx, const struct stmt *s, const struct prepared *p, void *row)
{
    for (int i = 0; i < p->columns; i++) {
        struct cell cell;
        TRY(cell_of(p->stmt, i, &cell));
        TRY(field_from_cell(tx->arena, s->row, (u32)p->field[i], cell, row));
    }
    return OK;
}

/* Into memory of its own first: the caller's row stays as it was when a later column fails. */
static err first_row(struct tx *tx, const struct stmt *s, struct prepared *p, bool wanted, void **out)
{
    bool row;
    TRY(step(tx, s, p, &row));
    if (!row)
        return ERR_NOT_FOUND;
    if (!wanted)
        return OK;
    void *made = arena_alloc(tx->arena, s->row->size);
    if (made == NULL)
        return ERR_MEMORY;
    TRY(fill(tx, s, p, made));
    *out = made;
    return OK;
}

err db_row(struct tx *tx, const struct stmt *s, void *row, struct args args)
{
    if (row != NULL && s->row == NULL)
        return misused(s->name, "a row is wanted, but it has no row table");
    struct prepared *p;
    TRY(start(tx, s, args, &p));
    void *made = NULL;
    TRY(finish(tx, s, p, first_row(tx, s, p, row != NULL, &made)));
    if (row != NULL && made != NULL) /* one implies the other, which an analyzer cannot see */
        memcpy(row, made, s->row->size);
    return OK;
}

struct rows {
    char *p;
    u32 n, room, max;
};

static err rows_room(struct tx *tx, struct rows *rows, size_t size)
{
    if (rows->n < rows->room)
        return OK;
    u32 room = MIN(rows->max, MAX(rows->room * 2, (u32)FIRST_ROWS));
    size_t bytes;
    if (__builtin_mul_overflow((size_t)room, size, &bytes))
        return ERR_MEMORY;
    void *p = arena_grow(tx->arena, rows->p, rows->room * size, bytes);
    if (p == NULL)
        return ERR_MEMORY;
    rows->p = p;
    rows->room = room;
    return OK;
}

static err all_rows(struct tx *tx, const struct stmt *s, struct prepared *p, struct rows *rows)
{
    while (rows->n < rows->max) {
        bool row;
        TRY(step(tx, s, p, &row));
        if (!row)
            break;
        TRY(rows_room(tx, rows, s->row->size));
        TRY(fill(tx, s, p, rows->p + rows->n * s->row->size));
        rows->n++;
    }
    return OK;
}

err db_list(struct tx *tx, const struct stmt *s, u32 max, void **rows, u32 *n, struct args args)
{
    if (s->row == NULL)
        return misused(s->name, "rows are wanted, but it has no row table");
    struct prepared *p;
    struct rows made = { .max = MIN(max, UINT32_MAX / 2) };
    TRY(start(tx, s, args, &p));
    TRY(finish(tx, s, p, all_rows(tx, s, p, &made)));
    *rows = made.p;
    *n = made.n;
    return OK;
}

err db_exec(struct tx *tx, const struct stmt *s, i64 *changed, struct args args)
{
    struct prepared *p;
    bool row;
    TRY(start(tx, s, args, &p));
    TRY(finish(tx, s, p, step(tx, s, p, &row)));
    if (changed != NULL)
        *changed = sqlite3_stmt_readonly(p->stmt) ? 0 : sqlite3_changes64(tx->conn->sqlite);
    return OK;
}

struct arena *db_arena(const struct tx *tx)
{
    return tx->arena;
}

/* ---- reading ---- */

static err reader_new(struct db *db, struct reader **out)
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

static err reader_of_thread(struct db *db, struct reader **out)
{
    for (struct reader *r = my_readers; r != NULL; r = r->next)
        if (r->db == db) {
            *out = r;
            return OK;
        }
    return reader_new(db, out);
}

void db_thread_end(struct db *db)
{
    for (struct reader **at = &my_readers; *at != NULL; at = &(*at)->next)
        if ((*at)->db == db) {
            struct conn conn = (*at)->conn; /* by value: the reader lives on the arena that is freed */
            *at = (*at)->next;
            conn_shut(&conn);
            atomic_fetch_sub(&db->readers, 1);
            return;
        }
}

err db_read_begin(struct db *db, struct arena *a, bool fast, struct tx **out)
{
    struct reader *r;
    TRY(reader_of_thread(db, &r));
    if (r->open)
        return misused("read", "a thread has one snapshot at a time");
    r->open = true;
    r->tx = (struct tx){ .db = db,
                         .conn = &r->conn,
                         .arena = a,
                         .fast = fast,
                         .left_us = db->options.read_budget_us,
                         .deadline_us = INT64_MAX };
    if (fast)
        sqlite3_progress_handler(r->conn.sqlite, PROGRESS_STEPS, out_of_time, &r->tx);
    *out = &r->tx;
    return OK;
}

void db_read_end(struct tx *tx)
{
    struct reader *r = CONTAINER(tx, struct reader, tx);
    if (tx->fast)
        sqlite3_progress_handler(r->conn.sqlite, 0, NULL, NULL);
    if (!conn_idle(&r->conn)) {
        err ignored =
            conn_verb(&r->conn, VERB_ROLLBACK); /* nothing was changed; and unlike COMMIT it cannot be refused */
        (void)ignored;
    }
    atomic_fetch_add_explicit(&tx->db->statements, tx->statements, memory_order_relaxed);
    r->open = false;
}

bool db_read_was_slow(const struct tx *tx)
{
    return tx->slow;
}

void db_read_repeats(struct tx *tx)
{
    tx->repeats = true;
}

bool db_read_leave(struct tx *tx)
{
    tx->slow |= tx->fast && tx->repeats;
    return tx->slow;
}

err db_ping(struct db *db, i64 *latency_us)
{
    struct reader *r;
    i64 from_us = clock_mono_us();
    TRY(reader_of_thread(db, &r));
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

static const char *path_in(struct db *db, str name)
{
    str parts[] = { db->options.folder, S("/"), name };
    str path = str_concat(db->arena, parts, COUNT(parts));
    return path.p != NULL ? str_z(db->arena, path) : NULL;
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
static err folder_make(struct db *db)
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

static err folder_lock(struct db *db, const char *path)
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
static err require_wal(struct db *db)
{
    bool wal = false;
    int rc = sqlite3_exec(db->writer.sqlite, "PRAGMA journal_mode", see_mode, &wal, NULL);
    if (rc != SQLITE_OK)
        return conn_error(&db->writer, rc, "journal_mode");
    errno = ENOTSUP;
    return wal ? OK : folder_failed("no write-ahead log on this file system", db->folder);
}

static err db_new(const struct db_options *options, struct db **out)
{
    struct arena *a = arena_new(DB_ARENA_MAX);
    struct db *db = a != NULL ? NEW(a, struct db) : NULL;
    if (db == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    *db = (struct db){ .arena = a, .options = *options, .lock = -1, .checkpoint_at = CHECKPOINT_PAGES };
    struct db_options *o = &db->options;
    o->folder = str_dup(a, options->folder);
    o->batch_max = o->batch_max != 0 ? o->batch_max : BATCH_MAX;
    o->queue_max = o->queue_max != 0 ? o->queue_max : QUEUE_MAX;
    o->read_budget_us = o->read_budget_us != 0 ? o->read_budget_us : READ_BUDGET_US;
    db->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    db->wal = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    clock_cond_init(&db->work);
    queue_init(&db->interactive);
    queue_init(&db->background);
    *out = db;
    return OK;
}

static err db_start(struct db *db)
{
    db->folder = db->options.folder.p != NULL ? str_z(db->arena, db->options.folder) : NULL;
    db->file = path_in(db, S("weir.db"));
    const char *lock = path_in(db, S("weir.lock"));
    if (db->folder == NULL || db->file == NULL || lock == NULL)
        return ERR_MEMORY;
    if (db->options.read_only)
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

/* Takes down as much as db_start has put up. */
static void db_stop(struct db *db)
{
    db_thread_end(db);
    writer_stop(db);
    if (atomic_load(&db->readers) > 0) /* their files stay open, and the WAL stays behind */
        LOG(LOG_ERROR, "db.readers_left", LOG_INT("readers", atomic_load(&db->readers)));
    conn_shut(&db->checkpointer);
    conn_shut(&db->writer);
    if (db->lock >= 0)
        close(db->lock);
    arena_free(db->arena);
}

err db_open(const struct db_options *options, struct db **out)
{
    struct db *db;
    TRY(vfs_register());
    TRY(db_new(options, &db));
    err e = db_start(db);
    if (e == OK)
        *out = db;
    else
        db_stop(db);
    return e;
}

void db_close(struct db *db)
{
    if (db != NULL)
        db_stop(db);
}
