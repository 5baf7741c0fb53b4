/* test_store.c - what db.h promises, whatever the database: one suite, run on SQLite and (with the argument "postgres") on PostgreSQL.
 *
 * Only what both must do the same stands here; files, batches and the WAL are src/db/test_db.c, the pool and row-level security src/db/test_postgres.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/db_internal.h"
#include "db/test_store.h"

/* ---- the schema of these tests ---- */

const struct migration db_migrations[] = {
    { 1, "notes",
      "CREATE TABLE notes (id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, body TEXT, n BIGINT CHECK (n < 1000), r DOUBLE PRECISION, yes BOOLEAN,"
      " UNIQUE (tenant_id, n));"
      "CREATE TABLE lines (id BIGINT PRIMARY KEY, tenant_id TEXT NOT NULL, note_id TEXT NOT NULL REFERENCES notes (id));"
      "CREATE INDEX lines_by_note ON lines (note_id);",
      "DROP TABLE lines; DROP TABLE notes;" },
    { 2, "plain", "CREATE TABLE plain (id BIGINT PRIMARY KEY, text TEXT);", "DROP TABLE plain;" },
    { 3, "more", "CREATE TABLE more (id BIGINT PRIMARY KEY);", "DROP TABLE more;" },
    { 0 },
};
enum { MIGRATIONS = 3 };

struct note {
    struct presence has;
    str id, body;
    i64 n;
    double r;
    bool yes;
};
static const struct field note_fields[] = {
    FIELD(struct note, id, F_STR, .doc = "Id"),
    FIELD(struct note, body, F_STR, .flags = F_NULLABLE, .doc = "Body"),
    FIELD(struct note, n, F_I64, .flags = F_NULLABLE, .doc = "Number"),
    FIELD(struct note, r, F_F64, .flags = F_NULLABLE, .doc = "Real"),
    FIELD(struct note, yes, F_BOOL, .flags = F_NULLABLE, .doc = "Yes"),
};
static const struct table note_table = TABLE("Note", struct note, note_fields);

STMT(good_insert, "INSERT INTO notes (id, tenant_id, body, n, r) VALUES ($1, $2, $3, $4, $5)");
STMT(good_insert_yes, "INSERT INTO notes (id, tenant_id, yes) VALUES ($1, $2, $3) RETURNING id, yes",
     .row = &note_table);
STMT(good_insert_returning, "INSERT INTO notes (tenant_id, id, body) VALUES ($2, $1, $3) RETURNING id, body",
     .row = &note_table);
STMT(good_by_id, "SELECT id, body, n, r, yes FROM notes WHERE tenant_id = $2 AND id = $1", .row = &note_table);
STMT(good_by_id_short, "SELECT id, n FROM notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(good_list, "SELECT id, n FROM notes WHERE tenant_id = $1 AND n > $2 ORDER BY n LIMIT 1000", .row = &note_table);
STMT(good_filter, "SELECT id FROM notes WHERE tenant_id = $1 AND (body = $2 OR $2 IS NULL) ORDER BY id LIMIT 1000",
     .row = &note_table, .scan_ok = true);
STMT(good_update, "UPDATE notes SET body = $3 WHERE tenant_id = $1 AND n < $2");
STMT(good_update_one, "UPDATE notes SET body = $3 WHERE tenant_id = $1 AND id = $2");
STMT(good_delete, "DELETE FROM notes WHERE tenant_id = $1 AND n >= $2");
STMT(good_line, "INSERT INTO lines (id, tenant_id, note_id) VALUES ($1, $2, $3)");
STMT(good_line_returning, "INSERT INTO lines (id, tenant_id, note_id) VALUES ($1, $2, $3) RETURNING note_id AS id",
     .row = &note_table);
STMT(good_null, "SELECT id, n FROM notes WHERE tenant_id = $1 AND id = $2 AND body IS NOT DISTINCT FROM $3",
     .row = &note_table);
STMT(good_sum, "SELECT coalesce(sum(n), 0) AS n, avg(n) AS r FROM notes WHERE tenant_id = $1", .row = &note_table,
     .scan_ok = true);
STMT(good_plain, "INSERT INTO plain (id, text) VALUES ($1, $2)");
STMT(good_plain_one, "SELECT text AS body FROM plain WHERE id = $1", .row = &note_table);
STMT(good_plain_more, "UPDATE plain SET text = text || '+' WHERE id = $1");
STMT(good_plain_count, "SELECT count(*) AS n FROM plain", .row = &note_table, .scan_ok = true);
STMT(ledger_add, "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (9, 'later', 'x', 1)",
     .scope = SCOPE_SYSTEM);
STMT(ledger_remove, "DELETE FROM schema_migrations WHERE number = 9", .scope = SCOPE_SYSTEM);
STMT(ledger_change, "UPDATE schema_migrations SET checksum = 'x' WHERE number = 2", .scope = SCOPE_SYSTEM);

/* ---- fixture ---- */

struct store {
    struct test_store place;
    struct db *db;
    struct arena *arena;
};
static bool on_postgres;

static void store_open(struct store *s)
{
    struct db_options options = test_store_options(&s->place);
    options.batch_max = 64;
    options.queue_max = 256;
    options.read_budget_us = MINUTE_US;
    options.pool_size = 4;
    assert_int_equal(db_open(&options, &s->db), OK);
}

static int set_up_empty(void **state)
{
    struct store *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_int_equal(test_store_make(&s->place, on_postgres), 0);
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

static int tear_down(void **state)
{
    struct store *s = *state;
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        fault_arm(kind, 0);
    db_close(s->db);
    arena_free(s->arena);
    test_store_remove(&s->place);
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
    struct note row = { .n = -1 };
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_plain_count, &row, NO_ARGS), OK);
    db_read_end(tx);
    return row.n;
}

/* ---- rows ---- */

static void test_rows_and_lists(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row = { .n = 77 };
    for (i64 i = 0; i < 40; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%02d", (int)i);
        assert_int_equal(add_note(s, id, "acme", i), OK);
    }
    assert_int_equal(db_read_begin(s->db, s->arena, true, &tx), OK);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("n07")), STR(S("other")))), ERR_NOT_FOUND);
    assert_int_equal(row.n, 77); /* untouched */
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("n07")), STR(S("acme")))), OK);
    assert_int_equal(row.n, 7);
    assert_true(str_eq(row.id, S("n07")) && str_eq(row.body, S("text")) && row.r == 0.5);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("n07")), STR(S("acme")))), OK);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("n99")), STR(S("acme")))), ERR_NOT_FOUND);
    static const u32 max[] = { 0, 1, 15, 16, 17, 39, 40, 41 };
    for (size_t i = 0; i < COUNT(max); i++) {
        void *rows;
        u32 n;
        assert_int_equal(db_list(tx, &good_list, max[i], &rows, &n, ARGS(STR(S("acme")), I64(-1))), OK);
        assert_int_equal(n, MIN(max[i], 40u));
        const struct note *notes = rows;
        for (u32 k = 0; k < n; k++)
            assert_int_equal(notes[k].n, k);
    }
    db_read_end(tx);
}

static void test_three_states(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    assert_int_equal(write_one(s, &good_insert, ARGS(STR(S("a")), STR(S("t")), NIL, I64(1), NIL)), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("a")), STR(S("t")))), OK);
    assert_true(HAS(note_table, &row, n) && IS_NULL(note_table, &row, body) && IS_NULL(note_table, &row, r));
    assert_int_equal(db_row(tx, &good_by_id_short, &row, ARGS(STR(S("t")), STR(S("a")))), OK);
    assert_true(HAS(note_table, &row, n) && !GIVEN(note_table, &row, body));
    assert_int_equal(db_row(tx, &good_null, &row, ARGS(STR(S("t")), STR(S("a")), NIL)), OK);
    db_read_end(tx);
}

/* Runs on the writer, where cmocka's assertions cannot end the test. */
static err holds(bool condition)
{
    return condition ? OK : ERR_INVALID;
}

static err update_and_delete(void *ctx, struct tx *tx)
{
    i64 changed = -1;
    struct note row;
    TRY(db_exec(tx, &good_update, &changed, ARGS(STR(S("t")), I64(3), STR(S("new")))));
    TRY(holds(changed == 3));
    TRY(db_row(tx, &good_by_id, &row, ARGS(STR(S("a1")), STR(S("t")))));
    TRY(holds(str_eq(row.body, S("new"))));
    TRY(db_exec(tx, &good_delete, &changed, ARGS(STR(S("t")), I64(4))));
    TRY(holds(changed == 1));
    TRY(db_exec(tx, &good_plain_count, &changed, NO_ARGS));
    TRY(holds(changed == 0));
    TRY(db_row(tx, &good_insert_returning, &row, ARGS(STR(S("fresh")), STR(S("t")), STR(S("")))));
    TRY(holds(str_eq(row.id, S("fresh")) && row.body.p != NULL && row.body.n == 0));
    return db_row(tx, &good_line_returning, NULL, ARGS(I64(7), STR(S("t")), STR(S("fresh"))));
}

static void test_changes(void **state)
{
    struct store *s = *state;
    static const char *const ids[] = { "a0", "a1", "a2", "a3", "a4" };
    for (size_t i = 0; i < COUNT(ids); i++)
        assert_int_equal(add_note(s, ids[i], "t", (i64)i), OK);
    assert_int_equal(db_write_wait(s->db, s->arena, update_and_delete, NULL), OK);
    struct tx *tx;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("fresh")), STR(S("t")))), OK);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("a4")), STR(S("t")))), ERR_NOT_FOUND);
    db_read_end(tx);
}

static err line_by_row(void *ctx, struct tx *tx)
{
    return db_row(tx, &good_line_returning, NULL, ARGS(I64(1), STR(S("t")), STR(S("nobody"))));
}

static void test_constraints(void **state)
{
    struct store *s = *state;
    assert_int_equal(add_note(s, "a", "t", 1), OK);
    assert_int_equal(add_note(s, "a", "t", 2), ERR_CONFLICT);    /* primary key */
    assert_int_equal(add_note(s, "b", "t", 1), ERR_CONFLICT);    /* unique */
    assert_int_equal(add_note(s, "c", "t", 1000), ERR_CONFLICT); /* check */
    assert_int_equal(add_note(s, "d", "t", 999), OK);
    assert_int_equal(write_one(s, &good_line, ARGS(I64(1), STR(S("t")), STR(S("nobody")))), ERR_CONFLICT);
    assert_int_equal(db_write_wait(s->db, s->arena, line_by_row, NULL), ERR_CONFLICT); /* known at the end only */
    assert_int_equal(write_one(s, &good_line, ARGS(I64(1), NIL, STR(S("a")))), ERR_INTERNAL); /* our mistake */
}

static void test_snapshot(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_plain_count, &row, NO_ARGS), OK);
    assert_int_equal(row.n, 0);
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), NIL)), OK);
    assert_int_equal(db_row(tx, &good_plain_count, &row, NO_ARGS), OK);
    assert_int_equal(row.n, 0);
    db_read_end(tx);
    assert_int_equal(count_plain(s), 1);
}

static void test_two_stores_in_a_thread(void **state)
{
    struct store *s = *state;
    void *other_state;
    set_up(&other_state);
    struct store *other = other_state;
    assert_int_equal(write_one(other, &good_plain, ARGS(I64(1), NIL)), OK);
    assert_int_equal(count_plain(s), 0);
    assert_int_equal(count_plain(other), 1);
    tear_down(&other_state);
    assert_int_equal(count_plain(s), 0);
}

/* ---- values ---- */

static err read_note(struct store *s, const char *id, struct note *row)
{
    struct tx *tx;
    TRY(db_read_begin(s->db, s->arena, false, &tx));
    err e = db_row(tx, &good_by_id, row, ARGS(STR(str_of(id)), STR(S("t"))));
    db_read_end(tx);
    return e;
}

static void test_values_come_back(void **state)
{
    struct store *s = *state;
    static const i64 numbers[] = { INT64_MIN, -1, 0, 1, 999 };
    static const double reals[] = { 0.1, -1e300, 5e-324, 0, 123456789.25 };
    static const char *const texts[] = { "", "'\"\\", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "a\nb\tc", "NULL" };
    struct note row;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        char id[8];
        snprintf(id, sizeof id, "v%zu", i);
        assert_int_equal(
            write_one(s, &good_insert,
                      ARGS(STR(str_of(id)), STR(S("t")), STR(str_of(texts[i])), I64(numbers[i]), F64(reals[i]))),
            OK);
        assert_int_equal(read_note(s, id, &row), OK);
        assert_true(row.n == numbers[i] && row.r == reals[i] && str_eq(row.body, str_of(texts[i])));
    }
}

static void test_a_large_value_comes_back(void **state)
{
    struct store *s = *state;
    size_t n = 5 * MIB;
    char *p = malloc(n);
    struct note row;
    assert_non_null(p);
    memset(p, 'x', n);
    assert_int_equal(write_one(s, &good_insert, ARGS(STR(S("big")), STR(S("t")), STR(((str){ p, n })), I64(1), NIL)),
                     OK);
    assert_int_equal(read_note(s, "big", &row), OK);
    assert_true(str_eq(row.body, (str){ p, n }));
    free(p);
}

static err insert_yes(void *ctx, struct tx *tx)
{
    struct note row;
    TRY(db_row(tx, &good_insert_yes, &row, ARGS(STR(S("y")), STR(S("t")), BOOL(true))));
    TRY(holds(row.yes));
    TRY(db_row(tx, &good_insert_yes, &row, ARGS(STR(S("n")), STR(S("t")), BOOL(false))));
    return holds(!row.yes && GIVEN(note_table, &row, yes));
}

static void test_booleans_and_sums(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    assert_int_equal(db_write_wait(s->db, s->arena, insert_yes, NULL), OK);
    assert_int_equal(add_note(s, "a", "t", 3), OK);
    assert_int_equal(add_note(s, "b", "t", 4), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_sum, &row, ARGS(STR(S("t")))), OK);
    assert_true(row.n == 7 && row.r == 3.5);
    db_read_end(tx);
}

/* Keys sort by their bytes: a keyset that went by a language's rules on one database would lose rows on the other. */
static void test_texts_sort_by_bytes(void **state)
{
    struct store *s = *state;
    static const char *const ids[] = { "B", "_", "a", "\xc3\xa4" };
    struct tx *tx;
    void *rows;
    u32 n;
    for (size_t i = COUNT(ids); i-- > 0;)
        assert_int_equal(add_note(s, ids[i], "t", (i64)i), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_list(tx, &good_filter, 10, &rows, &n, ARGS(STR(S("t")), NIL)), OK);
    assert_int_equal(n, COUNT(ids));
    for (u32 i = 0; i < n; i++)
        assert_true(str_eq(((struct note *)rows)[i].id, str_of(ids[i])));
    assert_int_equal(db_list(tx, &good_filter, 10, &rows, &n, ARGS(STR(S("t")), STR(S("other")))), OK);
    assert_int_equal(n, 0);
    db_read_end(tx);
}

/* ---- sending ---- */

struct sending {
    err unless_one;
    const char *id;
    bool row_too;
};

static err send_some(void *ctx, struct tx *tx)
{
    const struct sending *x = ctx;
    struct note row;
    TRY(db_send(tx, &good_plain, OK, ARGS(I64(1), STR(S("sent")))));
    TRY(db_send(tx, &good_update_one, x->unless_one, ARGS(STR(S("t")), STR(str_of(x->id)), STR(S("new")))));
    TRY(db_send(tx, &good_plain, OK, ARGS(I64(2), STR(S("behind")))));
    return x->row_too ? db_row(tx, &good_plain_one, &row, ARGS(I64(1))) : OK;
}

/* The one promise that fences rest on: nothing of the transaction stays, whether or not anything in it was waited for. */
static void test_what_is_sent_must_change_one_row(void **state)
{
    struct store *s = *state;
    struct note row;
    assert_int_equal(add_note(s, "a", "t", 1), OK);
    for (int row_too = 0; row_too < 2; row_too++) {
        struct sending missing = { ERR_PRECONDITION, "nobody", row_too == 1 };
        assert_int_equal(db_write_wait(s->db, s->arena, send_some, &missing), ERR_PRECONDITION);
        assert_int_equal(count_plain(s), 0);
    }
    struct sending any = { OK, "nobody", true }, there = { ERR_PRECONDITION, "a", true };
    assert_int_equal(db_write_wait(s->db, s->arena, send_some, &any), OK);
    assert_int_equal(count_plain(s), 2);
    assert_int_equal(db_write_wait(s->db, s->arena, send_some, &there), ERR_CONFLICT); /* the rows of before */
    assert_int_equal(read_note(s, "a", &row), OK);
    assert_true(str_eq(row.body, S("text")));
}

static err send_many(void *ctx, struct tx *tx)
{
    for (i64 i = 0; i < *(i64 *)ctx; i++)
        TRY(db_send(tx, &good_plain, OK, ARGS(I64(i), NIL)));
    return OK;
}

static void test_many_are_sent(void **state)
{
    struct store *s = *state;
    i64 n = 3000; /* more than are ever in flight */
    assert_int_equal(db_write_wait(s->db, s->arena, send_many, &n), OK);
    assert_int_equal(count_plain(s), n);
    n = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, send_many, &n), ERR_CONFLICT); /* known when it is over */
}

/* ---- jobs ---- */

struct crowd {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    u32 done;
};
struct insert {
    struct db_job job;
    struct crowd *crowd;
    i64 id;
    err fails, outcome;
    bool done;
};

static err insert_run(struct db_job *job, struct tx *tx)
{
    struct insert *in = CONTAINER(job, struct insert, job);
    assert(db_on_writer());
    TRY(db_send(tx, &good_plain, OK, ARGS(I64(in->id), STR(S("text")))));
    return in->fails;
}

static void insert_done(struct db_job *job, err outcome)
{
    struct insert *in = CONTAINER(job, struct insert, job);
    pthread_mutex_lock(&in->crowd->mutex);
    in->outcome = outcome;
    in->done = true;
    in->crowd->done++;
    pthread_cond_broadcast(&in->crowd->changed);
    pthread_mutex_unlock(&in->crowd->mutex);
}

static void insert_submit(struct insert *in, struct crowd *c, struct db *db, i64 id)
{
    in->job.run = insert_run;
    in->job.done = insert_done;
    in->crowd = c;
    in->id = id;
    assert_int_equal(db_submit(db, &in->job), OK);
}

static void crowd_wait(struct crowd *c, u32 n)
{
    pthread_mutex_lock(&c->mutex);
    while (c->done < n)
        pthread_cond_wait(&c->changed, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}
#define CROWD                                                                   \
    {                                                                           \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER \
    }

static void test_a_failing_job_fails_alone(void **state)
{
    struct store *s = *state;
    static struct insert jobs[200];
    struct crowd crowd = CROWD;
    memset(jobs, 0, sizeof jobs);
    for (u32 i = 0; i < COUNT(jobs); i++) {
        jobs[i].fails = i % 50 == 7 ? ERR_INVALID : OK;
        jobs[i].job.shared = i % 3 != 0;
        insert_submit(&jobs[i], &crowd, s->db, i % 50 == 9 ? 100000 : (i64)i); /* four of one id: three lose */
    }
    crowd_wait(&crowd, COUNT(jobs));
    u32 conflicts = 0;
    for (u32 i = 0; i < COUNT(jobs); i++) {
        conflicts += jobs[i].outcome == ERR_CONFLICT;
        if (i % 50 != 9)
            assert_int_equal(jobs[i].outcome, jobs[i].fails);
        else if (jobs[i].outcome != OK)
            assert_int_equal(jobs[i].outcome, ERR_CONFLICT);
    }
    assert_int_equal(conflicts, 3);
    assert_int_equal(count_plain(s), COUNT(jobs) - 4 - 3);
}

static err add_plus(void *ctx, struct tx *tx)
{
    struct note row;
    TRY(db_row(tx, &good_plain_one, &row, ARGS(I64(1))));
    return db_exec(tx, &good_plain_more, NULL, ARGS(I64(1)));
}

static void *add_in_thread(void *ctx)
{
    struct store *s = ctx;
    struct arena *a = arena_new(MIB);
    err e = OK;
    for (int i = 0; e == OK && i < 10; i++)
        e = db_write_wait(s->db, a, add_plus, NULL);
    arena_free(a);
    return e == OK ? s : NULL;
}

/* As if there were one writer: who read before another one wrote runs again. */
static void test_writers_do_not_overtake(void **state)
{
    struct store *s = *state;
    pthread_t threads[4];
    struct tx *tx;
    struct note row;
    assert_int_equal(write_one(s, &good_plain, ARGS(I64(1), STR(S("")))), OK);
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_in_thread, s), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, s);
    }
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_plain_one, &row, ARGS(I64(1))), OK);
    assert_int_equal(row.body.n, 40);
    db_read_end(tx);
}

static void test_close_drains(void **state)
{
    struct store *s = *state;
    static struct insert jobs[200];
    struct crowd crowd = CROWD;
    memset(jobs, 0, sizeof jobs);
    for (u32 i = 0; i < COUNT(jobs); i++) {
        jobs[i].job.background = i % 3 == 0;
        jobs[i].job.shared = i % 3 == 1;
        insert_submit(&jobs[i], &crowd, s->db, i);
    }
    db_close(s->db);
    store_open(s);
    for (u32 i = 0; i < COUNT(jobs); i++)
        assert_true(jobs[i].done && jobs[i].outcome == OK);
    assert_int_equal(count_plain(s), COUNT(jobs));
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
    assert_int_equal(after.queued, 0);
    assert_false(db_on_writer());
}

/* ---- the tenant of a transaction ---- */

static err for_acme(void *ctx, struct tx *tx)
{
    db_act_for(tx, S("acme"));
    return db_exec(tx, &good_insert, NULL, ARGS(STR(S("x")), STR(*(str *)ctx), NIL, NIL, NIL));
}

static void test_a_transaction_is_held_to_its_tenant(void **state)
{
    struct store *s = *state;
    str acme = S("acme"), globex = S("globex");
    assert_int_equal(db_write_wait(s->db, s->arena, for_acme, &globex), ERR_INTERNAL);
    assert_int_equal(db_write_wait(s->db, s->arena, for_acme, &acme), OK);
}

static void test_the_parameter_of_the_tenant(void **state)
{
    static const struct {
        const char *sql;
        u32 parameter;
    } cases[] = {
        { "SELECT 1 FROM t WHERE tenant_id = $1 AND id = $2", 1 },
        { "SELECT 1 FROM t WHERE id = $1 AND $3 = t.tenant_id", 3 },
        { "SELECT 1 FROM a JOIN b ON b.tenant_id = a.tenant_id WHERE a.id = $2 AND a.tenant_id = $1", 1 },
        { "INSERT INTO t (id, \"tenant_id\", n) VALUES ($1, $2, coalesce($3, f(1, 2)))", 2 },
        { "INSERT INTO t (id, n, tenant_id) VALUES ($1, coalesce($3, f(1, 2)), $2) ON CONFLICT (id) DO NOTHING", 2 },
        { "INSERT INTO t (id, tenant_id) VALUES ($1, 'acme')", 0 },
        { "INSERT INTO t (id, tenant_id) SELECT id, tenant_id FROM u WHERE tenant_id = $4", 4 },
        { "UPDATE t SET n = 1 WHERE id = $1 -- AND tenant_id = $2", 0 },
        { "UPDATE t SET tenant_id = $3, n = 1 WHERE id = $1 AND tenant_id = $2", 2 },
        { "SELECT ')' FROM t WHERE tenant_id IN ($1)", 0 },
        { "INSERT INTO t (id", 0 },
        { "", 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(tenant_parameter(str_of(cases[i].sql)), cases[i].parameter);
}

/* ---- migrations ---- */

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
    assert_int_equal(write_one(s, &ledger_add, NO_ARGS), OK);
    assert_int_equal(db_migrate_up(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_down(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_int_equal(n, MIGRATIONS + 1);
    assert_true(list[MIGRATIONS].number == 9 && list[MIGRATIONS].changed && str_eq(list[MIGRATIONS].name, S("later")));
    assert_int_equal(write_one(s, &ledger_remove, NO_ARGS), OK);
    assert_int_equal(db_migrate_up(s->db), OK);
    assert_int_equal(write_one(s, &ledger_change, NO_ARGS), OK);
    assert_int_equal(db_migrate_up(s->db), ERR_CONFLICT);
    assert_int_equal(db_migrate_status(s->db, s->arena, &list, &n), OK);
    assert_true(!list[0].changed && list[1].changed && !list[2].changed);
}

/* Two processes start at once: each migration runs once. */
static void *migrate_in_thread(void *ctx)
{
    struct db *db = ctx;
    return db_migrate_up(db) == OK ? db : NULL;
}

static void test_migrating_at_once(void **state)
{
    struct store *s = *state;
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, migrate_in_thread, s->db), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, s->db);
    }
    assert_int_equal(count_plain(s), 0);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define WITH_EMPTY(test) cmocka_unit_test_setup_teardown(test, set_up_empty, tear_down)

int main(int argc, char **argv)
{
    on_postgres = test_store_on_postgres(argc, argv);
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_rows_and_lists),
        WITH_STORE(test_three_states),
        WITH_STORE(test_changes),
        WITH_STORE(test_constraints),
        WITH_STORE(test_snapshot),
        WITH_STORE(test_two_stores_in_a_thread),
        WITH_STORE(test_values_come_back),
        WITH_STORE(test_a_large_value_comes_back),
        WITH_STORE(test_booleans_and_sums),
        WITH_STORE(test_texts_sort_by_bytes),
        WITH_STORE(test_what_is_sent_must_change_one_row),
        WITH_STORE(test_many_are_sent),
        WITH_STORE(test_a_failing_job_fails_alone),
        WITH_STORE(test_writers_do_not_overtake),
        WITH_STORE(test_close_drains),
        WITH_STORE(test_ping_and_stats),
        WITH_STORE(test_a_transaction_is_held_to_its_tenant),
        WITH_STORE(test_the_parameter_of_the_tenant),
        WITH_EMPTY(test_migrations),
        WITH_EMPTY(test_migrations_that_do_not_fit),
        WITH_EMPTY(test_migrating_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
