/* test_db.c - the store: rows, batches and what goes wrong in them, migrations, the check of statements. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the schema of these tests ---- */

const struct migration db_migrations[] = {
    { 1, "notes",
      "CREATE TABLE notes (id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, body TEXT, n BIGINT CHECK (n < 1000), r REAL, UNIQUE (tenant_id, n));"
      "CREATE TABLE lines (id INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, note_id TEXT NOT NULL REFERENCES notes (id));"
      "CREATE INDEX lines_by_note ON lines (note_id);",
      "DROP TABLE lines; DROP TABLE notes;" },
    { 2, "plain", "CREATE TABLE plain (id INTEGER PRIMARY KEY, text TEXT);", "DROP TABLE plain;" },
    { 3, "views",
      "CREATE VIEW hidden_notes AS SELECT id, body FROM notes; CREATE VIEW shown_notes AS SELECT id, tenant_id FROM notes;"
      "CREATE TRIGGER notes_log AFTER INSERT ON notes BEGIN UPDATE lines SET id = id WHERE note_id = new.id; END;",
      "DROP TRIGGER notes_log; DROP VIEW hidden_notes; DROP VIEW shown_notes;" },
    { 0 },
};
enum { MIGRATIONS = 3 };

struct note {
    struct presence has;
    str id, body;
    i64 n;
    double r;
};
static const struct field note_fields[] = {
    FIELD(struct note, id, F_STR, .doc = "Id"),
    FIELD(struct note, body, F_STR, .flags = F_NULLABLE, .doc = "Body"),
    FIELD(struct note, n, F_I64, .flags = F_NULLABLE, .doc = "Number"),
    FIELD(struct note, r, F_F64, .flags = F_NULLABLE, .doc = "Real"),
};
static const struct table note_table = TABLE("Note", struct note, note_fields);

STMT(good_insert, "INSERT INTO notes (id, tenant_id, body, n, r) VALUES ($1, $2, $3, $4, $5)");
STMT(good_insert_returning, "INSERT INTO notes (tenant_id, id, body) VALUES ($2, $1, $3) RETURNING id, body",
     .row = &note_table);
STMT(good_by_id, "SELECT id, body, n, r FROM notes WHERE tenant_id = $2 AND id = $1", .row = &note_table);
STMT(good_by_id_short, "SELECT id, n FROM notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(good_list, "SELECT id, n FROM notes WHERE tenant_id = $1 AND n > $2 ORDER BY n LIMIT 1000", .row = &note_table);
STMT(good_update, "UPDATE notes SET body = $3 WHERE tenant_id = $1 AND n < $2");
STMT(good_delete, "DELETE FROM notes WHERE tenant_id = $1 AND n >= $2");
STMT(good_line, "INSERT INTO lines (tenant_id, note_id) VALUES ($1, $2)");
STMT(good_line_returning, "INSERT INTO lines (tenant_id, note_id) VALUES ($1, $2) RETURNING note_id AS id",
     .row = &note_table);
STMT(
    good_join,
    "SELECT n.id FROM lines l JOIN notes AS n ON n.id = l.note_id AND n.tenant_id = l.tenant_id WHERE l.tenant_id = $1 AND l.id = $2",
    .row = &note_table);
STMT(
    good_left_join,
    "SELECT n.id, m.body FROM notes n LEFT JOIN notes m ON m.tenant_id = n.tenant_id AND m.id = n.body WHERE n.tenant_id = $1 AND n.id = $2",
    .row = &note_table);
STMT(
    good_exists,
    "SELECT id FROM notes WHERE tenant_id = $1 AND id = $2 AND EXISTS (SELECT 1 FROM lines l WHERE l.note_id = notes.id AND l.tenant_id = notes.tenant_id)",
    .row = &note_table);
STMT(good_or, "SELECT id FROM notes WHERE tenant_id = $1 AND (id = $2 OR id = $3)", .row = &note_table);
STMT(good_in, "SELECT id FROM notes WHERE tenant_id IN (SELECT value FROM json_each($1)) AND id = $2",
     .row = &note_table);
STMT(
    good_cte,
    "WITH RECURSIVE up (id, tenant_id, body) AS (SELECT id, tenant_id, body FROM notes WHERE tenant_id = $1 AND id = $2 UNION ALL"
    " SELECT n.id, n.tenant_id, n.body FROM up JOIN notes n ON n.id = up.body AND n.tenant_id = up.tenant_id) SELECT id FROM up",
    .row = &note_table);
STMT(
    good_upsert,
    "INSERT INTO notes (id, tenant_id, n) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, n) DO UPDATE SET body = 'again'");
STMT(good_upsert_where,
     "INSERT INTO notes (id, tenant_id, n) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET n = excluded.n"
     " WHERE notes.tenant_id = excluded.tenant_id");
STMT(good_insert_select,
     "INSERT INTO lines (tenant_id, note_id) SELECT tenant_id, id FROM notes WHERE tenant_id = $1 AND n = $2");
STMT(good_system, "SELECT id FROM notes WHERE id = $1", .row = &note_table, .scope = SCOPE_SYSTEM);
STMT(good_scan, "SELECT id FROM notes WHERE tenant_id = $1 ORDER BY r", .row = &note_table, .scan_ok = true);
STMT(good_view, "SELECT id FROM shown_notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(good_slow,
     "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < $1) SELECT max(n) AS n FROM c",
     .row = &note_table);
STMT(good_plain, "INSERT INTO plain (id, text) VALUES ($1, $2)");
STMT(good_plain_rollback, "INSERT OR ROLLBACK INTO plain (id, text) VALUES ($1, 'x')");
STMT(good_plain_one, "SELECT text AS body FROM plain WHERE id = $1", .row = &note_table);
STMT(good_plain_count, "SELECT count(*) AS n FROM plain", .row = &note_table, .scan_ok = true);
STMT(good_null, "SELECT id, n FROM notes WHERE tenant_id = $1 AND id = $2 AND body IS NOT DISTINCT FROM $3",
     .row = &note_table);

STMT(bad_syntax, "SELEC id FROM notes");
STMT(bad_table, "SELECT id FROM nowhere WHERE id = $1");
STMT(bad_column, "SELECT id, tenant_id FROM notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(bad_twice, "SELECT id, body AS id FROM notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(bad_no_columns, "DELETE FROM plain WHERE id = $1", .row = &note_table);
STMT(bad_two, "DELETE FROM plain WHERE id = $1; DELETE FROM plain WHERE id = $1");
STMT(bad_gap, "SELECT id FROM plain WHERE id = $1 AND text = $3", .row = &note_table);
STMT(bad_question, "SELECT id FROM plain WHERE id = ?", .row = &note_table);
STMT(bad_verb, "PRAGMA user_version = 3");
STMT(bad_scan_plain, "SELECT p.id FROM plain p WHERE p.text = $1", .row = &note_table);
STMT(bad_sort, "SELECT id FROM notes WHERE tenant_id = $1 ORDER BY r", .row = &note_table);
STMT(bad_none, "SELECT id FROM notes WHERE id = $1", .row = &note_table);
STMT(bad_join, "SELECT n.id FROM lines l JOIN notes n ON n.id = l.note_id WHERE l.tenant_id = $1 AND l.id = $2",
     .row = &note_table);
STMT(bad_comma, "SELECT n.id FROM lines l, notes n WHERE n.id = l.note_id AND l.tenant_id = $1 AND l.id = $2",
     .row = &note_table);
STMT(bad_both_free,
     "SELECT n.id FROM lines l JOIN notes n ON n.id = l.note_id AND n.tenant_id = l.tenant_id WHERE l.id = $1",
     .row = &note_table);
STMT(
    bad_left,
    "SELECT n.id FROM notes n LEFT JOIN lines l ON l.note_id = n.id AND l.tenant_id = $1 AND n.tenant_id = $1 WHERE n.id = $2",
    .row = &note_table);
STMT(bad_sub, "SELECT id FROM notes WHERE tenant_id = $1 AND id IN (SELECT note_id FROM lines WHERE id = $2)",
     .row = &note_table);
STMT(
    bad_sub_outer,
    "SELECT id FROM notes WHERE id = $2 AND EXISTS (SELECT 1 FROM lines l WHERE l.note_id = notes.id AND l.tenant_id = $1 AND notes.tenant_id = $1)",
    .row = &note_table);
STMT(bad_or_free, "SELECT id FROM notes WHERE id = $2 AND (tenant_id = $1 OR n = 3)", .row = &note_table);
STMT(bad_not, "SELECT id FROM notes WHERE id = $2 AND NOT (tenant_id = $1)", .row = &note_table);
STMT(bad_selected, "SELECT id, tenant_id = $1 AS n FROM notes WHERE id = $2", .row = &note_table);
STMT(bad_self, "SELECT id FROM notes WHERE tenant_id = tenant_id AND id = $1", .row = &note_table);
STMT(bad_literal, "SELECT id FROM notes WHERE tenant_id = 'acme' AND id = $1", .row = &note_table);
STMT(bad_case, "SELECT id FROM notes WHERE id = $2 AND CASE WHEN n = 1 AND tenant_id = $1 AND n = 2 THEN 1 ELSE 1 END",
     .row = &note_table);
STMT(bad_comment, "SELECT id FROM notes WHERE id = $1 -- AND tenant_id = $1", .row = &note_table);
STMT(bad_union, "SELECT id FROM notes WHERE tenant_id = $1 AND id = $2 UNION ALL SELECT id FROM notes WHERE id = $2",
     .row = &note_table);
STMT(bad_renamed,
     "SELECT n.id FROM notes n JOIN (SELECT note_id AS tenant_id FROM lines WHERE tenant_id = $1 AND id = $2) d"
     " ON n.tenant_id = d.tenant_id WHERE n.id = $3",
     .row = &note_table);
STMT(bad_update, "UPDATE notes SET tenant_id = $1 WHERE id = $2");
STMT(bad_update_from, "UPDATE notes SET n = 1 FROM lines l WHERE l.tenant_id = $1 AND l.id = $3 AND notes.id = $2");
STMT(bad_delete, "DELETE FROM notes WHERE id = $1");
STMT(bad_insert, "INSERT INTO lines (note_id) VALUES ($1)");
STMT(bad_insert_select, "INSERT INTO lines (tenant_id, note_id) SELECT tenant_id, id FROM notes WHERE id = $1");
STMT(bad_replace, "INSERT OR REPLACE INTO notes (id, tenant_id) VALUES ($1, $2)");
STMT(bad_upsert,
     "INSERT INTO notes (id, tenant_id, n) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET n = excluded.n");
STMT(bad_view, "SELECT id FROM hidden_notes WHERE id = $1", .row = &note_table);
STMT(bad_view_free, "SELECT id FROM shown_notes WHERE id = $1", .row = &note_table);
STMT(bad_filter, "SELECT count(*) FILTER (WHERE tenant_id = $1) AS n FROM notes WHERE id = $2", .row = &note_table);

/* ---- fixture ---- */

struct store {
    char made[64];
    const char *folder;
    struct db *db;
    struct arena *arena;
};

static struct db_options options_of(const struct store *s)
{
    return (struct db_options){
        .folder = str_of(s->folder), .batch_max = 64, .queue_max = 256, .read_budget_us = MINUTE_US
    };
}

static void store_open(struct store *s)
{
    struct db_options options = options_of(s);
    assert_int_equal(db_open(&options, &s->db), OK);
}

static void store_reopen(struct store *s)
{
    db_close(s->db);
    store_open(s);
}

/* "<folder>/<name>", on the arena. */
static const char *path_below(const struct store *s, const char *name)
{
    const char *path = str_z(s->arena, strf(s->arena, "%s/%s", s->folder, name));
    assert_non_null(path);
    return path;
}

static int set_up_empty(void **state)
{
    struct store *s = calloc(1, sizeof *s);
    assert_non_null(s);
    snprintf(s->made, sizeof s->made, "/tmp/weir-test-db-XXXXXX");
    s->folder = mkdtemp(s->made);
    assert_non_null(s->folder);
    store_open(s);
    s->arena = arena_new(64 * MIB);
    assert_non_null(s->arena);
    *state = s;
    return 0;
}

static int set_up(void **state)
{
    set_up_empty(state);
    return db_migrate_up(((struct store *)*state)->db) == OK ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int tear_down(void **state)
{
    struct store *s = *state;
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        fault_arm(kind, 0);
    db_close(s->db);
    arena_free(s->arena);
    nftw(s->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(s);
    return 0;
}

/* One statement as a write of its own. */
struct one {
    const struct stmt *s;
    struct args args;
    i64 changed;
};

static err run_one(void *ctx, struct tx *tx)
{
    struct one *one = ctx;
    return db_exec(tx, one->s, &one->changed, one->args);
}

static err write_one(struct store *s, const struct stmt *stmt, struct args args)
{
    struct one one = { stmt, args, 0 };
    return db_write_wait(s->db, s->arena, run_one, &one);
}

static err add_note(struct store *s, const char *id, const char *tenant, i64 n)
{
    return write_one(s, &good_insert, ARGS(STR(str_of(id)), STR(str_of(tenant)), STR(S("text")), I64(n), F64(0.5)));
}

static i64 count_plain(struct store *s)
{
    struct tx *tx;
    struct note row;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_plain_count, &row, (struct args){ 0 }), OK);
    db_read_end(tx);
    return row.n;
}

static bool has_plain(struct store *s, i64 id)
{
    struct tx *tx;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    err e = db_row(tx, &good_plain_one, NULL, ARGS(I64(id)));
    db_read_end(tx);
    return e == OK;
}

/* Jobs that insert into `plain`, and a gate that holds the writer until all of them are queued. */
struct insert {
    struct db_job job;
    struct crowd *crowd;
    i64 id;
    const struct stmt *s;
    err (*then)(struct insert *in, struct tx *tx); /* may be NULL */
    u32 runs, order;
    struct db *db;
    u64 batch; /* that it was told with */
    bool done;
    err outcome;
};
struct crowd {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool gate_open, gate_reached;
    u32 done;
    struct db_job gate;
};
#define CROWD                                                                   \
    {                                                                           \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER \
    }

static err gate_run(struct db_job *job, struct tx *tx)
{
    struct crowd *c = CONTAINER(job, struct crowd, gate);
    pthread_mutex_lock(&c->mutex);
    c->gate_reached = true;
    pthread_cond_broadcast(&c->changed);
    while (!c->gate_open)
        pthread_cond_wait(&c->changed, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
    return OK;
}

static void crowd_count(struct crowd *c)
{
    pthread_mutex_lock(&c->mutex);
    c->done++;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

static void gate_done(struct db_job *job, err outcome)
{
    crowd_count(CONTAINER(job, struct crowd, gate));
}

static void gate_close(struct crowd *c, struct db *db)
{
    c->gate = (struct db_job){ .run = gate_run, .done = gate_done };
    assert_int_equal(db_submit(db, &c->gate), OK);
    pthread_mutex_lock(&c->mutex);
    while (!c->gate_reached)
        pthread_cond_wait(&c->changed, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

/* Opens the gate and waits for `n` jobs, the gate among them. */
static void gate_wait(struct crowd *c, u32 n)
{
    pthread_mutex_lock(&c->mutex);
    c->gate_open = true;
    pthread_cond_broadcast(&c->changed);
    while (c->done < n)
        pthread_cond_wait(&c->changed, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

static err insert_run(struct db_job *job, struct tx *tx)
{
    struct insert *in = CONTAINER(job, struct insert, job);
    assert(db_on_writer());
    in->runs++;
    if (in->s == &good_plain_rollback)
        TRY(db_exec(tx, in->s, NULL, ARGS(I64(in->id))));
    else
        TRY(db_exec(tx, &good_plain, NULL, ARGS(I64(in->id), STR(S("text")))));
    return in->then != NULL ? in->then(in, tx) : OK;
}

static void insert_done(struct db_job *job, err outcome)
{
    struct insert *in = CONTAINER(job, struct insert, job);
    in->outcome = outcome;
    in->done = true;
    in->order = in->crowd->done;
    in->batch = db_stats(in->db).batches;
    crowd_count(in->crowd);
}

static void insert_submit(struct insert *in, struct crowd *c, struct db *db, i64 id)
{
    in->job = (struct db_job){
        .run = insert_run, .done = insert_done, .background = in->job.background, .arena = in->job.arena
    };
    in->crowd = c;
    in->db = db;
    in->id = id;
    assert_int_equal(db_submit(db, &in->job), OK);
}

/* ---- rows ---- */

static void test_misuse(void **state)
{
    struct store *s = *state;
    struct tx *tx, *second;
    struct note row;
    void *rows;
    u32 n;
    assert_int_equal(add_note(s, "a", "t", 1), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &second), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("a")))), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("a")), STR(S("t")), NIL)), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &bad_column, &row, ARGS(STR(S("t")), STR(S("a")))), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &bad_gap, &row, ARGS(I64(1), NIL)), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &bad_question, &row, ARGS(I64(1))), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &bad_syntax, NULL, (struct args){ 0 }), ERR_INTERNAL);
    assert_int_equal(db_row(tx, &good_line, &row, ARGS(NIL, NIL)), ERR_INTERNAL);
    assert_int_equal(db_list(tx, &good_line, 1, &rows, &n, ARGS(NIL, NIL)), ERR_INTERNAL);
    assert_int_equal(db_exec(tx, &good_plain, NULL, ARGS(I64(1), NIL)), ERR_INTERNAL); /* a reader does not write */
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("a")), STR(S("t")))), OK);
    db_read_end(tx);
    assert_int_equal(count_plain(s), 0);
}

/* ---- reading ---- */

static void test_slow_read(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row = { .n = 5 };
    assert_int_equal(db_read_begin(s->db, s->arena, true, &tx), OK);
    assert_int_equal(db_row(tx, &good_slow, &row, ARGS(I64(10))), OK);
    assert_false(db_read_was_slow(tx));
    assert_int_equal(row.n, 10);
    db_read_end(tx);
    s->db->options.read_budget_us = 50000;
    assert_int_equal(db_read_begin(s->db, s->arena, true, &tx), OK);
    assert_int_equal(db_row(tx, &good_slow, &row, ARGS(I64(INT64_MAX))), ERR_BUSY); /* would never end */
    assert_true(db_read_was_slow(tx));
    assert_int_equal(row.n, 10);
    assert_int_equal(db_row(tx, &good_slow, &row, ARGS(I64(10))), ERR_BUSY); /* nothing more of this one */
    db_read_end(tx);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_slow, &row, ARGS(I64(1000000))), OK); /* longer than the budget, and may be */
    assert_false(db_read_was_slow(tx));
    assert_int_equal(row.n, 1000000);
    db_read_end(tx);
}

/* SQLite counts the steps of a prepared statement over all its runs, so its handler calls at any of them, BEGIN included. */
static void test_many_fast_reads(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(db_read_begin(s->db, s->arena, true, &tx), OK);
        assert_int_equal(db_row(tx, &good_plain_one, NULL, ARGS(I64(1))), ERR_NOT_FOUND);
        assert_false(db_read_was_slow(tx));
        db_read_end(tx);
    }
}

static bool sees_plain(struct store *s, struct arena *a, i64 id)
{
    struct tx *tx;
    err e = db_read_begin(s->db, a, true, &tx);
    if (e != OK)
        return false;
    e = db_row(tx, &good_plain_one, NULL, ARGS(I64(id)));
    db_read_end(tx);
    return e == OK;
}

/* Without a BEGIN of its own a read has one statement that can fail, and not two. */
static bool begins_anew(struct store *s, struct arena *a, i64 id)
{
    fault_arm(FAULT_STATEMENT, 2);
    bool sees = sees_plain(s, a, id);
    bool begins = fault_fired(FAULT_STATEMENT);
    fault_arm(FAULT_STATEMENT, 0);
    return begins && !sees;
}

/* A loop: its reads share a snapshot until something is committed or its turn ends. */
static void *read_in_turns(void *ctx)
{
    struct store *s = ctx;
    struct arena *a = arena_new(MIB);
    const struct {
        const char *what;
        bool good;
    } story[] = {
        { "nothing lingers before the first rest", !sees_plain(s, a, 1) && begins_anew(s, a, 1) },
        { "rest", (db_read_rest(s->db), !sees_plain(s, a, 1)) },
        { "the second read goes on", !begins_anew(s, a, 1) },
        { "a commit", write_one(s, &good_plain, ARGS(I64(1), NIL)) == OK },
        { "it is seen at once", sees_plain(s, a, 1) },
        { "and then shared again", !begins_anew(s, a, 1) && sees_plain(s, a, 1) },
        { "the turn ends", (db_read_rest(s->db), begins_anew(s, a, 1)) },
        { "a checkpoint waits", (atomic_store(&sqlite_of(s->db)->shortens, true), sees_plain(s, a, 1)) },
        { "and gets the file to itself", begins_anew(s, a, 1) },
        { "until it is done", (atomic_store(&sqlite_of(s->db)->shortens, false), sees_plain(s, a, 1)) },
        { "then they share again", !begins_anew(s, a, 1) },
    };
    const char *bad = NULL;
    for (u32 i = 0; i < COUNT(story); i++)
        bad = bad == NULL && !story[i].good ? story[i].what : bad;
    db_thread_end(s->db);
    arena_free(a);
    return (void *)(uintptr_t)bad;
}

static void test_reads_of_one_turn(void **state)
{
    pthread_t thread;
    void *bad;
    assert_int_equal(pthread_create(&thread, NULL, read_in_turns, *state), 0);
    assert_int_equal(pthread_join(thread, &bad), 0);
    if (bad != NULL)
        fail_msg("%s", (const char *)bad);
}

static void *read_in_thread(void *ctx)
{
    struct store *s = ctx;
    struct arena *a = arena_new(MIB);
    struct tx *tx;
    struct note row;
    err e = db_read_begin(s->db, a, true, &tx);
    for (int i = 0; e == OK && i < 50; i++)
        e = db_row(tx, &good_by_id, &row, ARGS(STR(S("a")), STR(S("t"))));
    if (e == OK)
        db_read_end(tx);
    db_thread_end(s->db);
    db_thread_end(s->db); /* nothing left to do */
    arena_free(a);
    return e == OK ? s : NULL;
}

static void test_readers_of_threads(void **state)
{
    struct store *s = *state;
    pthread_t threads[4];
    assert_int_equal(add_note(s, "a", "t", 1), OK);
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_in_thread, s), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, s);
    }
    assert_int_equal(atomic_load(&sqlite_of(s->db)->readers), 0);
}

static void test_ping_and_stats(void **state)
{
    struct store *s = *state;
    i64 latency_us = -1;
    assert_int_equal(db_ping(s->db, &latency_us), OK);
    assert_true(latency_us >= 0);
    struct db_stats before = db_stats(s->db);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), ERR_CONFLICT);
    struct db_stats after = db_stats(s->db);
    assert_int_equal(after.batches - before.batches, 2);
    assert_int_equal(after.jobs - before.jobs, 2);
    assert_int_equal(after.failed - before.failed, 1);
    assert_int_equal(after.statements - before.statements, 2);
    assert_true(after.wal_pages > 0);
    assert_int_equal(after.queued, 0);
    assert_int_equal(after.oldest_queued_us, 0);
    assert_false(db_on_writer());
}

static const struct stmt *observed[4];
static atomic_uint observed_count;

static void observe(const struct stmt *s, i64 took_us)
{
    assert_true(took_us >= 0);
    u32 i = atomic_fetch_add(&observed_count, 1);
    if (i < COUNT(observed))
        observed[i] = s;
}

static void test_observer(void **state)
{
    struct store *s = *state;
    db_observe_by(observe);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), ERR_CONFLICT); /* what fails takes its time too */
    assert_int_equal(count_plain(s), 1);
    db_observe_by(NULL);
    assert_int_equal(count_plain(s), 1);
    assert_int_equal(atomic_load(&observed_count), 3);
    assert_ptr_equal(observed[1], &good_plain);
    assert_ptr_not_equal(observed[2], &good_plain);
}

/* ---- batches ---- */

static void test_batches_of_the_waiting(void **state)
{
    struct store *s = *state;
    static struct insert jobs[65];
    static const struct {
        u32 jobs, batches;
    } cases[] = { { 62, 1 }, { 63, 1 }, { 64, 2 } }; /* and the gate; 64 fit into one */
    i64 id = 0;
    for (size_t k = 0; k < COUNT(cases); k++) {
        struct crowd crowd = CROWD;
        struct db_stats before = db_stats(s->db);
        gate_close(&crowd, s->db);
        for (u32 i = 0; i < cases[k].jobs; i++)
            insert_submit(&jobs[i], &crowd, s->db, id++);
        assert_int_equal(db_stats(s->db).queued, cases[k].jobs);
        gate_wait(&crowd, cases[k].jobs + 1);
        struct db_stats after = db_stats(s->db);
        assert_int_equal(after.batches - before.batches, cases[k].batches);
        assert_int_equal(after.jobs - before.jobs, cases[k].jobs + 1);
        for (u32 i = 0; i < cases[k].jobs; i++)
            assert_true(jobs[i].outcome == OK && jobs[i].order == i + 1);
    }
    assert_int_equal(count_plain(s), id);
}

static err then_fail(struct insert *in, struct tx *tx)
{
    return ERR_INVALID;
}

static void test_a_failing_job_fails_alone(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    struct insert jobs[6] = { 0 };
    jobs[1].then = jobs[4].then = then_fail;
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 5; i++)
        insert_submit(&jobs[i], &crowd, s->db, i);
    insert_submit(&jobs[5], &crowd, s->db, 0); /* is there already, in the same batch */
    gate_wait(&crowd, 7);
    for (i64 i = 0; i < 5; i++) {
        assert_int_equal(jobs[i].outcome, i == 1 || i == 4 ? ERR_INVALID : OK);
        assert_int_equal(has_plain(s, i), jobs[i].outcome == OK);
        assert_int_equal(jobs[i].runs, 1);
    }
    assert_int_equal(jobs[5].outcome, ERR_CONFLICT);
}

static void test_the_first_job_fails_alone(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(0), NIL)), OK);
    struct crowd crowd = CROWD;
    struct insert jobs[3] = { 0 };
    jobs[0].then = then_fail;
    struct db_stats before = db_stats(s->db);
    /* queued behind a batch that is full: then the failing one is the first of its own */
    static struct insert fill[63];
    memset(fill, 0, sizeof fill);
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < COUNT(fill); i++)
        insert_submit(&fill[i], &crowd, s->db, 100 + i);
    for (u32 i = 0; i < 3; i++)
        insert_submit(&jobs[i], &crowd, s->db, i + 1);
    gate_wait(&crowd, 1 + COUNT(fill) + 3);
    assert_int_equal(db_stats(s->db).batches - before.batches, 2);
    assert_true(jobs[0].outcome == ERR_INVALID && jobs[1].outcome == OK && jobs[2].outcome == OK);
    assert_true(!has_plain(s, 1) && has_plain(s, 2) && has_plain(s, 3));
}

static void test_a_lost_batch_is_replayed(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(50), NIL)), OK);
    struct crowd crowd = CROWD;
    struct insert jobs[5] = { 0 };
    struct arena *arena = arena_new(MIB);
    assert_non_null(arena_alloc(arena, 100));
    size_t used = arena_used(arena);
    jobs[0].job.arena = arena;
    jobs[2].s = jobs[4].s = &good_plain_rollback; /* rolls everything back when it conflicts */
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 5; i++)
        insert_submit(&jobs[i], &crowd, s->db, i == 2 || i == 4 ? 50 : i);
    gate_wait(&crowd, 6);
    for (i64 i = 0; i < 5; i++) {
        bool culprit = i == 2 || i == 4;
        assert_int_equal(jobs[i].outcome, culprit ? ERR_CONFLICT : OK);
        assert_true(culprit || has_plain(s, i));
    }
    assert_int_equal(jobs[0].runs, 3);
    assert_int_equal(jobs[2].runs, 1);
    assert_int_equal(jobs[3].runs, 2);
    assert_int_equal(arena_used(arena), used);
    arena_free(arena);
}

static void test_replays_are_bounded(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(50), NIL)), OK);
    for (u32 culprits = REPLAYS_MAX; culprits <= REPLAYS_MAX + 1; culprits++) {
        struct crowd crowd = CROWD;
        struct insert jobs[1 + REPLAYS_MAX + 1] = { 0 };
        gate_close(&crowd, s->db);
        insert_submit(&jobs[0], &crowd, s->db, culprits);
        for (u32 i = 1; i <= culprits; i++) {
            jobs[i].s = &good_plain_rollback;
            insert_submit(&jobs[i], &crowd, s->db, 50);
        }
        gate_wait(&crowd, culprits + 2);
        assert_int_equal(jobs[0].outcome, culprits <= REPLAYS_MAX ? OK : ERR_BUSY);
        assert_int_equal(has_plain(s, culprits), culprits <= REPLAYS_MAX);
    }
}

static err then_swallow(struct insert *in, struct tx *tx)
{
    err first = db_exec(tx, &good_plain_rollback, NULL, ARGS(I64(50)));
    err second = db_exec(tx, &good_plain, NULL, ARGS(I64(51), NIL)); /* would be a transaction of its own */
    return first == ERR_CONFLICT && second == ERR_BUSY ? OK : ERR_INVALID;
}

static void test_a_lost_batch_cannot_be_ignored(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(50), NIL)), OK);
    struct crowd crowd = CROWD;
    struct insert jobs[2] = { 0 };
    jobs[1].then = then_swallow;
    gate_close(&crowd, s->db);
    insert_submit(&jobs[0], &crowd, s->db, 1);
    insert_submit(&jobs[1], &crowd, s->db, 2);
    gate_wait(&crowd, 3);
    assert_int_equal(jobs[0].outcome, OK);
    assert_int_equal(jobs[1].outcome, ERR_INTERNAL);
    assert_true(has_plain(s, 1) && !has_plain(s, 2) && !has_plain(s, 51));
}

/* More than the small cache holds, so that pages are written before the commit, and the disk is full then. */
static err then_spill(struct insert *in, struct tx *tx)
{
    static char text[64 * 1024];
    memset(text, 'x', sizeof text);
    TRY(conn_script(CONTAINER(tx, struct sqlite_tx, base)->conn, "test", "PRAGMA cache_size = 10"));
    fault_arm(FAULT_WRITE, 1);
    for (i64 i = 0; i < 20; i++)
        TRY(db_exec(tx, &good_plain, NULL, ARGS(I64(1000 + i), STR(((str){ text, sizeof text })))));
    return OK;
}

static void test_disk_full_within_a_batch(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    struct insert jobs[3] = { 0 };
    jobs[1].then = then_spill;
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 3; i++)
        insert_submit(&jobs[i], &crowd, s->db, i);
    gate_wait(&crowd, 4);
    assert_true(fault_fired(FAULT_WRITE));
    assert_int_equal(jobs[0].outcome, OK);
    assert_int_equal(jobs[1].outcome, ERR_STORAGE);
    assert_int_equal(jobs[2].outcome, OK);
    assert_false(db_stats(s->db).disk_full); /* the others had room */
    assert_int_equal(jobs[0].runs, 2);       /* SQLite had rolled it back with the culprit */
    assert_true(has_plain(s, 0) && !has_plain(s, 1) && has_plain(s, 2));
    assert_int_equal(count_plain(s), 2);
}

static err then_break_sync(struct insert *in, struct tx *tx)
{
    fault_arm(FAULT_SYNC, 1);
    return OK;
}

static void test_commit_that_fails(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    struct insert jobs[3] = { 0 };
    jobs[1].then = then_break_sync;
    jobs[2].then = then_fail;
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 3; i++)
        insert_submit(&jobs[i], &crowd, s->db, i);
    gate_wait(&crowd, 4);
    assert_true(fault_fired(FAULT_SYNC));
    for (u32 i = 0; i < 3; i++)
        assert_int_equal(jobs[i].outcome, ERR_INTERNAL);
    assert_int_equal(count_plain(s), 0);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    store_reopen(s);
    assert_int_equal(count_plain(s), 1);
}

/* Until there is room: told by the stats, and found out without a write. */
static void test_disk_that_stays_full(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    fault_arm_from(FAULT_WRITE, 1);
    for (i64 i = 2; i < 5; i++)
        assert_int_equal(write_one(s, &good_plain, ARGS(I64(i), NIL)), ERR_STORAGE);
    assert_true(db_stats(s->db).disk_full);
    assert_int_equal(count_plain(s), 1);
    fault_arm(FAULT_WRITE, 0);
    i64 until_us = clock_mono_us() + 20 * SECOND_US;
    while (db_stats(s->db).disk_full)
        assert_true(clock_mono_us() < until_us);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(2), NIL)), OK);
    fault_arm_from(FAULT_WRITE, 1);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(3), NIL)), ERR_STORAGE);
    fault_arm(FAULT_WRITE, 0);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(3), NIL)), OK);
    assert_false(db_stats(s->db).disk_full);
    store_reopen(s);
    assert_int_equal(count_plain(s), 3);
}

static void test_queue_is_bounded(void **state)
{
    struct store *s = *state;
    static struct insert jobs[257];
    memset(jobs, 0, sizeof jobs);
    struct crowd crowd = CROWD;
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 256; i++)
        insert_submit(&jobs[i], &crowd, s->db, i);
    jobs[256].job = (struct db_job){ .run = insert_run, .done = insert_done };
    assert_int_equal(db_submit(s->db, &jobs[256].job), ERR_BUSY);
    struct insert background = { .job.background = true };
    insert_submit(&background, &crowd, s->db, 300); /* has a bound of its own */
    struct db_stats stats = db_stats(s->db);
    assert_int_equal(stats.queued, 257);
    assert_true(stats.oldest_queued_us >= 0);
    gate_wait(&crowd, 258);
    assert_false(jobs[256].done);
    insert_submit(&jobs[256], &crowd, s->db, 256);
    gate_wait(&crowd, 259);
    assert_int_equal(count_plain(s), 258);
}

static void test_close_drains(void **state)
{
    struct store *s = *state;
    static struct insert jobs[200];
    memset(jobs, 0, sizeof jobs);
    struct crowd crowd = CROWD;
    for (u32 i = 0; i < COUNT(jobs); i++) {
        jobs[i].job.background = i % 2 == 0;
        insert_submit(&jobs[i], &crowd, s->db, i);
    }
    store_reopen(s);
    for (u32 i = 0; i < COUNT(jobs); i++)
        assert_true(jobs[i].done && jobs[i].outcome == OK);
    assert_int_equal(count_plain(s), COUNT(jobs));
}

/* ---- background jobs ---- */

static void test_background_goes_behind(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    struct insert background = { .job.background = true }, jobs[3] = { 0 };
    gate_close(&crowd, s->db);
    insert_submit(&background, &crowd, s->db, 100);
    for (u32 i = 0; i < 3; i++)
        insert_submit(&jobs[i], &crowd, s->db, i);
    gate_wait(&crowd, 5);
    assert_int_equal(background.order, 4);
}

static err then_take_a_millisecond(struct insert *in, struct tx *tx)
{
    i64 until_us = clock_mono_us() + 1000;
    while (clock_mono_us() < until_us)
        ;
    return OK;
}

static void test_background_in_slices(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    struct insert jobs[12] = { 0 };
    struct db_stats before = db_stats(s->db);
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < COUNT(jobs); i++) {
        jobs[i].job.background = true;
        jobs[i].then = then_take_a_millisecond;
        insert_submit(&jobs[i], &crowd, s->db, i);
    }
    gate_wait(&crowd, 13);
    u64 batches = db_stats(s->db).batches - before.batches;
    assert_in_range(batches, 1 + 6, 1 + 12); /* no slice holds more than two of them */
}

/* Two interactive jobs that queue themselves again until the background job is through: one of them always waits. */
struct flood {
    struct db_job job;
    struct db *db;
    struct insert *background;
    struct crowd *crowd;
    i64 until_us;
};

static err flood_run(struct db_job *job, struct tx *tx)
{
    return OK;
}

static void flood_done(struct db_job *job, err outcome)
{
    struct flood *f = CONTAINER(job, struct flood, job);
    if (f->background->done || clock_mono_us() > f->until_us || db_submit(f->db, job) != OK)
        crowd_count(f->crowd);
}

static void test_background_does_not_starve(void **state)
{
    struct store *s = *state;
    struct crowd crowd = CROWD;
    static struct insert background[20];
    struct flood flood[2];
    u32 together = 0;
    memset(background, 0, sizeof background);
    i64 from_us = clock_mono_us();
    gate_close(&crowd, s->db);
    for (u32 i = 0; i < 2; i++) {
        flood[i] = (struct flood){
            .job = { .run = flood_run, .done = flood_done },
            .db = s->db,
            .background = &background[COUNT(background) - 1],
            .crowd = &crowd,
            .until_us = from_us + 20 * SECOND_US,
        };
        assert_int_equal(db_submit(s->db, &flood[i].job), OK);
    }
    for (u32 i = 0; i < COUNT(background); i++) {
        background[i].job.background = true;
        insert_submit(&background[i], &crowd, s->db, i);
    }
    gate_wait(&crowd, 3 + COUNT(background));
    i64 took_us = clock_mono_us() - from_us;
    assert_true(took_us >= BACKGROUND_WAIT_US && took_us < 20 * SECOND_US);
    for (u32 i = 1; i < COUNT(background); i++)
        together += background[i].batch == background[i - 1].batch;
    assert_true(together > 0); /* a whole slice each time, though others wait */
}

/* ---- the file ---- */

static void test_durable(void **state)
{
    struct store *s = *state;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    char command[256];
    struct store copy = { .arena = s->arena, .folder = path_below(s, "copy") };
    /* what a power cut would leave: no shared memory, nothing closed */
    snprintf(command, sizeof command, "mkdir %s && cp %s/weir.db %s/weir.db-wal %s/", copy.folder, s->folder, s->folder,
             copy.folder);
    assert_int_equal(system(command), 0);
    store_open(&copy);
    assert_int_equal(count_plain(&copy), 1);
    db_close(copy.db);
    store_reopen(s);
    assert_int_equal(count_plain(s), 1);
}

static void test_wal_is_started_anew(void **state)
{
    struct store *s = *state;
    static char text[16 * 1024];
    memset(text, 'x', sizeof text);
    u64 most = 0;
    for (i64 i = 0; i < 100000; i++) {
        assert_int_equal(write_one(s, &good_plain, ARGS(I64(i), STR(((str){ text, sizeof text })))), OK);
        u64 pages = db_stats(s->db).wal_pages;
        if (pages < most)
            break;
        most = pages;
    }
    assert_true(most >= CHECKPOINT_PAGES);
    assert_true(db_stats(s->db).wal_pages < most);
}

static void test_modes_of_the_folder(void **state)
{
    struct store *s = *state;
    struct store inner = { .arena = s->arena, .folder = path_below(s, "inner") };
    struct stat st;
    mode_t old = umask(0);
    store_open(&inner);
    umask(old);
    assert_int_equal(stat(inner.folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    static const char *const files[] = { "weir.db", "weir.db-wal", "weir.lock" };
    for (size_t i = 0; i < COUNT(files); i++) {
        assert_int_equal(stat(path_below(&inner, files[i]), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    db_close(inner.db);
}

static void test_open_that_fails(void **state)
{
    struct store *s = *state;
    struct db *db = NULL;
    struct db_options below_a_file = { .folder = str_of(path_below(s, "weir.db/below")) };
    assert_int_equal(db_open(&below_a_file, &db), ERR_INTERNAL);
    struct db_options again = options_of(s);
    assert_int_equal(db_open(&again, &db), ERR_BUSY);
    assert_null(db);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK); /* the first one does not mind */
}

static void test_one_process_has_the_folder(void **state)
{
    struct store *s = *state;
    int go[2];
    db_close(s->db);
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid_t child = fork(); /* before there are threads */
    assert_true(child >= 0);
    if (child == 0) {
        char byte;
        struct db *db;
        struct db_options options = options_of(s);
        if (read(go[0], &byte, 1) != 1)
            _exit(100);
        _exit((int)db_open(&options, &db));
    }
    store_open(s);
    assert_int_equal(write(go[1], "x", 1), 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ERR_BUSY);
    close(go[0]);
    close(go[1]);
}

/* ---- migrations ---- */

static err run_text(void *ctx, struct tx *tx)
{
    return conn_script(CONTAINER(tx, struct sqlite_tx, base)->conn, "test", *(const char **)ctx);
}

static err run_sql(struct store *s, const char *sql)
{
    return db_write_wait(s->db, s->arena, run_text, &sql);
}

static void test_migrations(void **state)
{
    struct store *s = *state;
    struct migration_state *list;
    u32 n;
    assert_int_equal(db_migrate_down(s->db), ERR_NOT_FOUND);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_int_equal(n, MIGRATIONS);
    assert_int_equal(list[0].applied_at, 0);
    assert_int_equal(db_migrate_up(s->db), OK);
    assert_int_equal(db_migrate_up(s->db), OK);
    assert_int_equal(count_plain(s), 0);
    assert_int_equal(db_migrate_down(s->db), OK);
    assert_int_equal(db_migrate_down(s->db), OK);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_int_equal(n, MIGRATIONS);
    assert_true(list[0].applied_at > 0 && list[1].applied_at == 0 && !list[0].changed);
    assert_true(list[1].number == 2 && str_eq(list[1].name, S("plain")));
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), ERR_INTERNAL); /* the table is gone */
    assert_int_equal(db_migrate_up(s->db), OK);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
}

static void test_migrations_that_do_not_fit(void **state)
{
    struct store *s = *state;
    struct migration_state *list;
    u32 n;
    assert_int_equal(run_sql(s, "INSERT INTO schema_migrations VALUES (9, 'later', 'x', 1)"), OK);
    assert_int_equal(db_migrate_up(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_down(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_int_equal(n, MIGRATIONS + 1);
    assert_true(list[MIGRATIONS].number == 9 && list[MIGRATIONS].changed && str_eq(list[MIGRATIONS].name, S("later")));
    assert_int_equal(run_sql(s, "DELETE FROM schema_migrations WHERE number = 9"), OK);
    assert_int_equal(db_migrate_up(s->db), OK);
    assert_int_equal(run_sql(s, "UPDATE schema_migrations SET checksum = 'x' WHERE number = 2"), OK);
    assert_int_equal(db_migrate_up(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_true(!list[0].changed && list[1].changed && !list[2].changed);
}

static void test_migration_is_one_transaction(void **state)
{
    struct store *s = *state;
    struct migration_state *list;
    u32 n;
    assert_int_equal(run_sql(s, "CREATE TABLE lines (other TEXT)"), OK); /* in the way of the first one's second half */
    assert_int_equal(db_migrate_up(s->db), ERR_INTERNAL);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_int_equal(list[0].applied_at, 0);
    assert_int_equal(run_sql(s, "DROP TABLE lines"), OK);
    assert_int_equal(db_migrate_up(s->db), OK);
}

/* ---- the check ---- */

static bool complains_about(const char *text, const char *name)
{
    char line[80];
    snprintf(line, sizeof line, "%s: ", name);
    size_t n = strlen(line);
    for (const char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n') + 1)
        if (strncmp(p, line, n) == 0)
            return true;
    return false;
}

static void test_check_finds_what_is_wrong(void **state)
{
    struct store *s = *state;
    struct buf complaint = { .arena = s->arena };
    assert_int_equal(db_check(s->db, &complaint), ERR_INVALID);
    buf_char(&complaint, '\0');
    size_t count, bad = 0;
    const struct stmt *const *list = db_statements(&count);
    for (size_t i = 0; i < count; i++) {
        bool wrong = strncmp(list[i]->name, "bad_", 4) == 0;
        bad += wrong;
        if (complains_about(complaint.p, list[i]->name) != wrong)
            fail_msg("%s: %s\n%s", list[i]->name, wrong ? "not found" : "is fine", complaint.p);
    }
    assert_true(bad > 30 && count - bad > 25);
}

static void test_check_says_what(void **state)
{
    struct store *s = *state;
    struct buf complaint = { .arena = s->arena };
    assert_int_equal(db_check(s->db, &complaint), ERR_INVALID);
    static const char *const lines[] = {
        "bad_column: returns a column that its row table does not have: tenant_id\n",
        "bad_twice: returns a column twice: id\n",
        "bad_no_columns: has a row table but returns no columns: Note\n",
        "bad_two: holds more than one statement\n",
        "bad_gap: its parameters are not $1, $2 … without a gap: $3\n",
        "bad_scan_plain: reads a whole table: SCAN p\n",
        "bad_sort: sorts in a temporary b-tree: USE TEMP B-TREE FOR ORDER BY\n",
        "bad_join: does not compare its tenant_id with a parameter in every row it reads or changes: n\n",
        "bad_insert: inserts without a tenant_id: lines\n",
        "bad_replace: may replace another tenant's row: notes\n",
        "bad_upsert: may update another tenant's row on conflict: notes\n",
        "bad_view: reads a tenant's table through a view without tenant_id: hidden_notes\n",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        if (str_find(buf_view(&complaint), str_of(lines[i]), 0) < 0)
            fail_msg("missing: %s%.*s", lines[i], STR_FMT(buf_view(&complaint)));
}

static void test_statements_are_found(void **state)
{
    size_t count;
    const struct stmt *const *list = db_statements(&count);
    assert_true(count > 60);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(list[i]); /* no padding between, also under the address sanitizer */
        assert_ptr_equal(list[i]->slot, &list[i]);
    }
}

/* ---- the n-th thing fails ---- */

static err write_two(void *ctx, struct tx *tx)
{
    i64 id = *(i64 *)ctx;
    TRY(db_exec(tx, &good_plain, NULL, ARGS(I64(id), STR(S("x")))));
    return db_exec(tx, &good_plain, NULL, ARGS(I64(id + 1), STR(S("x"))));
}

static void check_nth_fault(struct store *s, enum fault_kind kind)
{
    i64 id = 0;
    for (i64 n = 1;; n++, id += 2) {
        assert_true(n < 200);
        fault_arm(kind, n);
        err e = db_write_wait(s->db, s->arena, write_two, &id);
        bool fired = fault_fired(kind);
        fault_arm(kind, 0);
        assert_int_equal(has_plain(s, id), e == OK);
        assert_int_equal(has_plain(s, id + 1), e == OK);
        assert_true(fired || e == OK);
        if (!fired) {
            assert_true(n > 1);
            break;
        }
    }
    id += 2;
    assert_int_equal(db_write_wait(s->db, s->arena, write_two, &id), OK);
}

static void test_nth_statement_fails(void **state)
{
    check_nth_fault(*state, FAULT_STATEMENT);
}

static void test_nth_write_fails(void **state)
{
    check_nth_fault(*state, FAULT_WRITE);
}

static void test_nth_sync_fails(void **state)
{
    check_nth_fault(*state, FAULT_SYNC);
}

static err read_some(struct store *s, struct arena *a)
{
    struct tx *tx;
    struct note row;
    void *rows;
    u32 n;
    TRY(db_read_begin(s->db, a, true, &tx));
    err e = db_row(tx, &good_by_id, &row, ARGS(STR(S("a")), STR(S("t"))));
    if (e == OK)
        e = db_list(tx, &good_list, 10, &rows, &n, ARGS(STR(S("t")), I64(0)));
    if (e == OK)
        e = n == 1 ? OK : ERR_INVALID;
    db_read_end(tx);
    return e;
}

/* A fresh connection each time, so that preparing fails too. */
static void test_nth_fault_of_a_read(void **state)
{
    struct store *s = *state;
    static const enum fault_kind kinds[] = { FAULT_STATEMENT, FAULT_ALLOC };
    assert_int_equal(add_note(s, "a", "t", 1), OK);
    for (size_t k = 0; k < COUNT(kinds); k++) {
        bool fired = true;
        for (i64 n = 1; fired; n++) {
            struct arena *a = arena_new(MIB);
            assert_non_null(a);
            db_thread_end(s->db);
            fault_arm(kinds[k], n);
            err e = read_some(s, a);
            fired = fault_fired(kinds[k]);
            fault_arm(kinds[k], 0);
            assert_int_equal(e, !fired ? OK : kinds[k] == FAULT_ALLOC ? ERR_MEMORY : ERR_INTERNAL);
            arena_free(a);
            assert_in_range(n, fired ? 1 : 2, 200);
        }
    }
}

static void test_nth_fault_of_opening(void **state)
{
    struct store *s = *state;
    static const enum fault_kind kinds[] = { FAULT_ALLOC, FAULT_WRITE, FAULT_SYNC };
    for (size_t k = 0; k < COUNT(kinds); k++) {
        bool fired = true;
        for (i64 n = 1; fired; n++) {
            char name[32];
            snprintf(name, sizeof name, "k%dn%d", (int)k, (int)n);
            struct store fresh = { .arena = s->arena, .folder = path_below(s, name) };
            struct db_options options = options_of(&fresh);
            fault_arm(kinds[k], n);
            err e = db_open(&options, &fresh.db);
            fired = fault_fired(kinds[k]);
            fault_arm(kinds[k], 0);
            assert_true(fired || e == OK);
            if (e != OK)
                assert_int_equal(db_open(&options, &fresh.db), OK);
            db_close(fresh.db);
            assert_in_range(n, fired ? 1 : 2, 200);
        }
    }
}

#define WITH_STORE(test)  cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up_empty, tear_down)

int main(void)
{
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_misuse),
        WITH_STORE(test_slow_read),
        WITH_STORE(test_many_fast_reads),
        WITH_STORE(test_reads_of_one_turn),
        WITH_STORE(test_readers_of_threads),
        WITH_STORE(test_ping_and_stats),
        WITH_STORE(test_observer),
        WITH_STORE(test_batches_of_the_waiting),
        WITH_STORE(test_a_failing_job_fails_alone),
        WITH_STORE(test_the_first_job_fails_alone),
        WITH_STORE(test_a_lost_batch_is_replayed),
        WITH_STORE(test_replays_are_bounded),
        WITH_STORE(test_a_lost_batch_cannot_be_ignored),
        WITH_STORE(test_disk_full_within_a_batch),
        WITH_STORE(test_commit_that_fails),
        WITH_STORE(test_disk_that_stays_full),
        WITH_STORE(test_queue_is_bounded),
        WITH_STORE(test_close_drains),
        WITH_STORE(test_background_goes_behind),
        WITH_STORE(test_background_in_slices),
        WITH_STORE(test_background_does_not_starve),
        WITH_STORE(test_durable),
        WITH_STORE(test_wal_is_started_anew),
        WITH_STORE(test_modes_of_the_folder),
        WITH_STORE(test_open_that_fails),
        WITH_STORE(test_one_process_has_the_folder),
        WITH_FOLDER(test_migrations),
        WITH_FOLDER(test_migrations_that_do_not_fit),
        WITH_FOLDER(test_migration_is_one_transaction),
        WITH_STORE(test_check_finds_what_is_wrong),
        WITH_STORE(test_check_says_what),
        WITH_STORE(test_statements_are_found),
        WITH_STORE(test_nth_statement_fails),
        WITH_STORE(test_nth_write_fails),
        WITH_STORE(test_nth_sync_fails),
        WITH_STORE(test_nth_fault_of_a_read),
        WITH_FOLDER(test_nth_fault_of_opening),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
