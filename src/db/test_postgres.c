/* test_postgres.c - what only the PostgreSQL side has: a network that fails at each place, a bounded pool, the check of statements and guards, texts that
 * PostgreSQL does not take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "db/postgres.h"
#include "db/test_store.h"

#include <sched.h>
#include <semaphore.h>

const struct migration db_migrations[] = {
    { 1, "notes",
      "CREATE TABLE notes (id BIGINT PRIMARY KEY, tenant_id TEXT NOT NULL, body TEXT, seen BIGINT);"
      "CREATE TABLE hidden (id BIGINT PRIMARY KEY, tenant_id TEXT NOT NULL);"
      "CREATE TABLE open (id BIGINT PRIMARY KEY, tenant_id TEXT NOT NULL);"
      "CREATE TABLE plain (id BIGINT PRIMARY KEY);"
      "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;"
      "CREATE POLICY tenant ON notes USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''));"
      "CREATE POLICY system ON notes USING (current_setting('app.system', true) = 'on');"
      "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;"
      "CREATE POLICY tenant ON hidden USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''));",
      "DROP TABLE plain; DROP TABLE open; DROP TABLE hidden; DROP TABLE notes;" },
    { 0 },
};

struct note {
    struct presence has;
    i64 id;
    str body;
};
static const struct field note_fields[] = {
    FIELD(struct note, id, F_I64, .doc = "Id"),
    FIELD(struct note, body, F_STR, .flags = F_NULLABLE, .doc = "Body"),
};
static const struct table note_table = TABLE("Note", struct note, note_fields);

STMT(good_insert, "INSERT INTO notes (id, tenant_id, body) VALUES ($1, $2, $3)");
STMT(good_by_id, "SELECT id, body FROM notes WHERE tenant_id = $1 AND id = $2", .row = &note_table);
STMT(good_system, "SELECT id, body FROM notes WHERE id = $1", .row = &note_table, .scope = SCOPE_SYSTEM);
STMT(good_division, "SELECT id / (id - id) AS id, body FROM notes WHERE tenant_id = $1", .row = &note_table);
STMT(good_steal, "UPDATE notes SET tenant_id = $3 WHERE tenant_id = $1 AND id = $2");
STMT(bad_syntax, "SELEC 1");
STMT(bad_type, "SELECT id FROM notes WHERE tenant_id = $1 AND ($2 IS NULL OR id = $2)", .row = &note_table);
STMT(bad_column, "SELECT id, seen FROM notes WHERE tenant_id = $1", .row = &note_table);
STMT(bad_twice, "SELECT id, seen AS id FROM notes WHERE tenant_id = $1", .row = &note_table);
STMT(bad_none, "SELECT id FROM notes WHERE id = $1", .row = &note_table);
STMT(bad_many, "SELECT id FROM notes WHERE tenant_id IN ($1, $2)", .row = &note_table);
STMT(bad_system, "SELECT id FROM hidden", .row = &note_table, .scope = SCOPE_SYSTEM);

struct store {
    struct test_store place;
    struct db *db;
    struct arena *arena;
};

static int set_up(void **state)
{
    struct store *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_int_equal(test_store_make(&s->place, true), 0);
    struct db_options options = test_store_options(&s->place);
    options.pool_size = 1;
    options.pool_overflow = 1;
    options.pool_wait_us = SECOND_US;
    assert_int_equal(db_open(&options, &s->db), OK);
    assert_int_equal(db_migrate_up(s->db), OK);
    s->arena = arena_new(64 * MIB);
    assert_non_null(s->arena);
    *state = s;
    return 0;
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

static err insert(void *ctx, struct tx *tx)
{
    i64 id = *(i64 *)ctx;
    TRY(db_exec(tx, &good_insert, NULL, ARGS(I64(id), STR(S("acme")), STR(S("one")))));
    return db_send(tx, &good_insert, OK, ARGS(I64(id + 1), STR(S("acme")), NIL));
}

static err insert_other(void *ctx, struct tx *tx)
{
    return db_exec(tx, &good_insert, NULL, ARGS(I64(*(i64 *)ctx), STR(S("globex")), STR(S("three"))));
}

static err find(struct store *s, const struct stmt *stmt, struct args args, struct note *row)
{
    struct tx *tx;
    TRY(db_read_begin(s->db, s->arena, false, &tx));
    err e = db_row(tx, stmt, row, args);
    db_read_end(tx);
    return e;
}

static void assert_row(struct store *s, i64 id, bool there)
{
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(id)), NULL), there ? OK : ERR_NOT_FOUND);
}

/* ---- the network ---- */

/* Both rows or none; both when it was said so. It is said to have failed only when COMMIT was under way. */
static void test_nth_failure_of_a_write(void **state)
{
    struct store *s = *state;
    bool fired = true;
    u32 unknown = 0;
    i64 id = 1; /* the first one asks what the statement takes; the others go out in one piece */
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    for (i64 n = 1; fired; n++) {
        id = 10 * n;
        fault_arm(FAULT_STATEMENT, n);
        err e = db_write_wait(s->db, s->arena, insert, &id);
        fired = fault_fired(FAULT_STATEMENT);
        fault_arm(FAULT_STATEMENT, 0);
        err first = find(s, &good_by_id, ARGS(STR(S("acme")), I64(id)), NULL);
        assert_int_equal(first, find(s, &good_by_id, ARGS(STR(S("acme")), I64(id + 1)), NULL));
        assert_int_equal(e, first == OK ? OK : ERR_UNAVAILABLE);
        unknown += e != OK;
        assert_in_range(n, 1, 50);
    }
    assert_int_equal(unknown, 1);
}

static err read_twice(struct store *s)
{
    struct tx *tx;
    struct note row;
    TRY(db_read_begin(s->db, s->arena, false, &tx));
    err e = db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(1)));
    if (e == OK && db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(2))) != OK)
        e = ERR_UNAVAILABLE;
    db_read_end(tx);
    return e;
}

static void test_nth_failure_of_a_read(void **state)
{
    struct store *s = *state;
    i64 id = 1;
    bool fired = true;
    u32 failed = 0;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    for (i64 n = 1; fired; n++) {
        fault_arm(FAULT_STATEMENT, n);
        err e = read_twice(s);
        fired = fault_fired(FAULT_STATEMENT);
        fault_arm(FAULT_STATEMENT, 0);
        assert_true(e == OK || e == ERR_UNAVAILABLE);
        failed += e != OK;
        assert_int_equal(read_twice(s), OK);
        assert_in_range(n, 1, 50);
    }
    assert_int_equal(failed, 1); /* between the two: the snapshot is gone, and somebody has seen it */
}

static void test_nth_allocation(void **state)
{
    struct store *s = *state;
    bool fired = true;
    for (i64 n = 1; fired; n++) {
        i64 id = 10 * n;
        fault_arm(FAULT_ALLOC, n);
        err e = db_write_wait(s->db, s->arena, insert, &id);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_true(e == OK || e == ERR_MEMORY);
        assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(id + 1)), NULL), e == OK ? OK : ERR_NOT_FOUND);
        assert_in_range(n, 1, 200);
    }
}

static err insert_and_give_up(void *ctx, struct tx *tx)
{
    TRY(insert(ctx, tx)); /* sent; that it fails nobody has heard yet */
    return ERR_INVALID;
}

/* The next one on the connection begins in no transaction of somebody else's. */
static void test_giving_up_after_an_unseen_failure(void **state)
{
    struct store *s = *state;
    i64 id = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    for (int i = 0; i < 3; i++) {
        i64 next = 10 + 10 * i;
        assert_int_equal(db_write_wait(s->db, s->arena, insert_and_give_up, &id), ERR_INVALID);
        assert_int_equal(db_write_wait(s->db, s->arena, insert, &next), OK);
        assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(next)), NULL), OK);
    }
}

/* ---- one look ---- */

static err ask_note(struct tx *tx, struct ahead *out, i64 id)
{
    return db_ask(tx, &good_by_id, 1, out, ARGS(STR(S("acme")), I64(id)));
}

/* Two asked ahead and one waited for: all three come with one look, of one snapshot. A second look is refused, and says that it must be begun again. */
static void test_one_look(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    struct ahead first, none;
    i64 id = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    db_read_once(tx);
    assert_int_equal(ask_note(tx, &first, 1), OK);
    assert_int_equal(ask_note(tx, &none, 99), OK);
    assert_false(first.answered);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(2))), OK);
    assert_int_equal(row.id, 2);
    assert_int_equal(db_answer_row(tx, &first, &row), OK);
    assert_int_equal(row.id, 1);
    assert_int_equal(db_answer_row(tx, &none, &row), ERR_NOT_FOUND);
    assert_false(db_read_was_slow(tx));
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(1))), ERR_BUSY);
    assert_true(db_read_was_slow(tx));
    db_read_end(tx);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), &row), OK);
}

/* Whether it is waited for or not, the next one on the connection finds neither its tenant nor its answers. */
static void test_what_was_asked_and_never_heard(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    i64 id = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    for (int once = 0; once < 2; once++) {
        struct ahead *asked = malloc(sizeof *asked); /* so that a late answer would be seen */
        assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
        if (once)
            db_read_once(tx);
        assert_int_equal(ask_note(tx, asked, 1), OK);
        db_read_end(tx);
        free(asked);
        assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(2)), &row), OK);
        assert_int_equal(row.id, 2);
        assert_int_equal(find(s, &good_by_id, ARGS(NIL, I64(2)), &row), ERR_NOT_FOUND);
    }
}

static void test_an_answer_waits_by_itself(void **state)
{
    struct store *s = *state;
    struct tx *tx;
    struct note row;
    struct ahead asked, failed;
    i64 id = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(ask_note(tx, &asked, 1), OK);
    assert_int_equal(db_answer_row(tx, &asked, &row), OK);
    assert_int_equal(row.id, 1);
    assert_int_equal(db_ask(tx, &good_division, 1, &failed, ARGS(STR(S("acme")))), OK);
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(1))), ERR_INTERNAL);
    assert_int_equal(db_answer_row(tx, &failed, &row), ERR_INTERNAL);
    db_read_end(tx);
}

static err look_once(struct store *s, bool *again)
{
    struct tx *tx;
    struct note row;
    struct ahead asked;
    TRY(db_read_begin(s->db, s->arena, false, &tx));
    db_read_once(tx);
    err e = ask_note(tx, &asked, 1);
    if (e == OK)
        e = db_row(tx, &good_by_id, &row, ARGS(STR(S("acme")), I64(2)));
    if (e == OK)
        e = db_answer_row(tx, &asked, &row);
    *again = db_read_was_slow(tx);
    db_read_end(tx);
    return e;
}

/* A connection that is lost takes with it what was asked ahead: whoever began begins again. */
static void test_nth_failure_of_one_look(void **state)
{
    struct store *s = *state;
    i64 id = 1;
    bool fired = true, again;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    for (i64 n = 1; fired; n++) {
        fault_arm(FAULT_STATEMENT, n);
        err e = look_once(s, &again);
        fired = fault_fired(FAULT_STATEMENT);
        fault_arm(FAULT_STATEMENT, 0);
        assert_true(e == OK || (e == ERR_UNAVAILABLE && again));
        assert_int_equal(look_once(s, &again), OK);
        assert_in_range(n, 1, 50);
    }
}

/* ---- the pool ---- */

struct holder {
    struct store *s;
    pthread_barrier_t *held, *over;
    err outcome;
};

static void *hold(void *ctx)
{
    struct holder *h = ctx;
    struct arena *a = arena_new(MIB);
    struct tx *tx;
    h->outcome = db_read_begin(h->s->db, a, false, &tx);
    if (h->outcome == OK)
        h->outcome = db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(1)));
    pthread_barrier_wait(h->held);
    pthread_barrier_wait(h->over);
    db_read_end(tx);
    db_thread_end(h->s->db);
    arena_free(a);
    return NULL;
}

static void test_the_pool_is_bounded(void **state)
{
    struct store *s = *state;
    pthread_barrier_t held, over;
    pthread_t threads[2];
    struct holder holders[2];
    pthread_barrier_init(&held, NULL, 3);
    pthread_barrier_init(&over, NULL, 3);
    for (int i = 0; i < 2; i++) {
        holders[i] = (struct holder){ s, &held, &over, OK };
        assert_int_equal(pthread_create(&threads[i], NULL, hold, &holders[i]), 0);
    }
    pthread_barrier_wait(&held);
    assert_int_equal(db_stats(s->db).connections, 2); /* size and overflow */
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), NULL), ERR_BUSY);
    i64 latency_us;
    assert_int_equal(db_ping(s->db, &latency_us), OK); /* a loop has its own */
    pthread_barrier_wait(&over);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(holders[i].outcome, ERR_NOT_FOUND);
    }
    assert_int_equal(db_stats(s->db).connections, 1); /* what overflowed is closed */
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), NULL), ERR_NOT_FOUND);
    pthread_barrier_destroy(&held);
    pthread_barrier_destroy(&over);
}

static void let_in(struct store *s, int connections)
{
    char sql[120];
    snprintf(sql, sizeof sql, "ALTER DATABASE %s CONNECTION LIMIT %d", s->place.database, connections);
    assert_int_equal(test_store_admin("postgres", sql), 0);
}

static err find_any(struct store *s)
{
    return find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), NULL);
}

/* What another thread holds is given back when the server has refused a further one. */
static void *give_back_later(void *ctx)
{
    struct holder *h = ctx;
    struct postgres *db = postgres_of(h->s->db);
    i64 until_us = clock_mono_us() + MINUTE_US;
    for (bool refused = false; !refused && clock_mono_us() < until_us; sched_yield()) {
        pthread_mutex_lock(&db->pool);
        refused = db->down_until_us != 0;
        pthread_mutex_unlock(&db->pool);
    }
    pthread_barrier_wait(h->over);
    return NULL;
}

/* "Too many clients": whoever needs one more waits for one of those that there are. */
static void test_a_connection_that_is_refused(void **state)
{
    struct store *s = *state;
    pthread_barrier_t held, over;
    pthread_t threads[2];
    pthread_barrier_init(&held, NULL, 2);
    pthread_barrier_init(&over, NULL, 2);
    struct holder h = { s, &held, &over, OK };
    assert_int_equal(find_any(s), ERR_NOT_FOUND);
    let_in(s, 1);
    assert_int_equal(pthread_create(&threads[0], NULL, hold, &h), 0);
    pthread_barrier_wait(&held);
    err none = find_any(s); /* the other one does not come back */
    postgres_of(s->db)->down_until_us = 0;
    s->db->options.pool_wait_us = MINUTE_US;
    assert_int_equal(pthread_create(&threads[1], NULL, give_back_later, &h), 0);
    err found = find_any(s);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    pthread_barrier_destroy(&held);
    pthread_barrier_destroy(&over);
    assert_int_equal(h.outcome, ERR_NOT_FOUND);
    assert_int_equal(none, ERR_BUSY); /* its own second was over before the trouble was taken for more */
    assert_int_equal(found, ERR_NOT_FOUND);
}

static err find_on_loop(struct store *s)
{
    struct tx *tx;
    TRY(db_read_begin(s->db, s->arena, true, &tx));
    err e = db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(1)));
    db_read_end(tx);
    return e;
}

/* A loop that could not connect waits until somebody has heard the database, and rests for as long as it stood still in any case. What writes beside the pool is no
 * loop: a node's heart goes on beating. */
static void test_loops_that_could_not_connect(void **state)
{
    struct store *s = *state;
    struct postgres *db = postgres_of(s->db);
    i64 id = 1, far_us = clock_mono_us() + HOUR_US;
    s->db->options.read_budget_us = MINUTE_US;
    pool_forget(db);
    let_in(s, 0);
    assert_int_equal(find_on_loop(s), ERR_UNAVAILABLE);
    assert_true(atomic_load(&db->loops_wait_us) > atomic_load(&db->loops_rest_us));
    let_in(s, -1);
    atomic_store(&db->loops_rest_us, 0);
    atomic_store(&db->loops_wait_us, far_us);
    db->down_until_us = far_us;
    assert_int_equal(find_on_loop(s), ERR_UNAVAILABLE);
    assert_int_equal(db_write_own(s->db, s->arena, insert_other, &id), OK);
    db_thread_end(s->db); /* with that connection */
    db->down_until_us = 0;
    atomic_store(&db->loops_wait_us, far_us);
    assert_int_equal(find_on_loop(s), ERR_UNAVAILABLE);
    assert_int_equal(find_any(s), ERR_NOT_FOUND);
    db->down_until_us = far_us;
    assert_int_equal(find_on_loop(s), ERR_UNAVAILABLE); /* what the pool is denied is denied the loops */
    db->down_until_us = 0;
    atomic_store(&db->loops_rest_us, far_us);
    assert_int_equal(find_on_loop(s), ERR_UNAVAILABLE);
    atomic_store(&db->loops_rest_us, 0);
    assert_int_equal(find_on_loop(s), ERR_NOT_FOUND);
}

/* … and needs not, where the pool has one to spare; that is the loop's from then on. The last one is not. */
static void test_a_loop_adopts_what_is_idle(void **state)
{
    struct store *s = *state;
    struct postgres *db = postgres_of(s->db);
    pthread_barrier_t held, over;
    pthread_t thread;
    pthread_barrier_init(&held, NULL, 2);
    pthread_barrier_init(&over, NULL, 2);
    struct holder h = { s, &held, &over, OK };
    s->db->options.read_budget_us = MINUTE_US;
    assert_int_equal(find_any(s), ERR_NOT_FOUND);
    atomic_store(&db->loops_rest_us, clock_mono_us() + HOUR_US);
    err last = find_on_loop(s);
    db->open++; /* what is only tried may come to nothing */
    db->opening++;
    err still_last = find_on_loop(s);
    db->open--;
    db->opening--;
    assert_int_equal(pthread_create(&thread, NULL, hold, &h), 0);
    pthread_barrier_wait(&held);
    err second = find_any(s);
    err adopted = find_on_loop(s), again = find_on_loop(s);
    u32 left = db_stats(s->db).connections;
    pthread_barrier_wait(&over);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&held);
    pthread_barrier_destroy(&over);
    assert_int_equal(last, ERR_UNAVAILABLE);
    assert_int_equal(still_last, ERR_UNAVAILABLE);
    assert_int_equal(second, ERR_NOT_FOUND);
    assert_int_equal(adopted, ERR_NOT_FOUND);
    assert_int_equal(again, ERR_NOT_FOUND);
    assert_int_equal(left, 1);
}

/* What the pool is tested with stands in its one idle connection. */
static struct pg_conn *idle_of(struct store *s)
{
    struct pg_conn *c = postgres_of(s->db)->idle;
    assert_non_null(c);
    assert_null(c->next);
    return c;
}

static int backend_of(struct store *s)
{
    assert_row(s, 1, false);
    return PQbackendPID(idle_of(s)->pg);
}

/* One older than pool_recycle_us is replaced, one of that age less a moment is not. */
static void test_an_old_connection_is_replaced(void **state)
{
    struct store *s = *state;
    int pid = backend_of(s);
    i64 age_us = postgres_of(s->db)->base.options.pool_recycle_us;
    assert_int_equal(age_us, HOUR_US);
    idle_of(s)->born_us = clock_mono_us() - age_us + MINUTE_US;
    assert_int_equal(backend_of(s), pid);
    idle_of(s)->born_us = clock_mono_us() - age_us;
    assert_int_not_equal(backend_of(s), pid);
    assert_int_equal(db_stats(s->db).connections, 1);
}

/* After half a second without use it is looked at, which sees that the server has closed it; after half a minute it has to answer, which also sees one that the
 * network forgot. What was just used is taken as it is, and the read begins again when it was lost. */
static void test_an_idle_connection_is_looked_at(void **state)
{
    struct store *s = *state;
    static const i64 idle_us[] = { 0, LOOK_IDLE_US, PING_IDLE_US };
    for (size_t i = 0; i < COUNT(idle_us); i++) {
        int pid = backend_of(s);
        char sql[80];
        snprintf(sql, sizeof sql, "SELECT pg_terminate_backend(%d, 5000)", pid);
        assert_int_equal(test_store_admin(s->place.database, sql), 0);
        idle_of(s)->used_us = clock_mono_us() - idle_us[i];
        assert_int_not_equal(backend_of(s), pid);
    }
    int pid = backend_of(s);
    idle_of(s)->used_us = clock_mono_us() - PING_IDLE_US;
    fault_arm(FAULT_STATEMENT, 1); /* the ping goes nowhere */
    assert_int_not_equal(backend_of(s), pid);
    assert_true(fault_fired(FAULT_STATEMENT));
    fault_arm(FAULT_STATEMENT, 0);
    pid = backend_of(s);
    idle_of(s)->used_us = clock_mono_us() - PING_IDLE_US;
    assert_int_equal(backend_of(s), pid);
}

/* ---- tenants ---- */

struct stealing {
    const char *from, *to;
};

static err steal(void *ctx, struct tx *tx)
{
    const struct stealing *x = ctx;
    return db_exec(tx, &good_steal, NULL, ARGS(STR(str_of(x->from)), I64(1), STR(str_of(x->to))));
}

static void test_the_guard_sees_what_the_statement_names(void **state)
{
    struct store *s = *state;
    i64 id = 1;
    struct stealing out = { "acme", "globex" }, in = { "globex", "globex" };
    static char too_long[TENANT_BYTES + 2];
    memset(too_long, 'x', TENANT_BYTES + 1);
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &id), OK);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), NULL), OK);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("globex")), I64(1)), NULL), ERR_NOT_FOUND);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("")), I64(1)), NULL), ERR_NOT_FOUND);
    assert_int_equal(find(s, &good_by_id, ARGS(NIL, I64(1)), NULL), ERR_NOT_FOUND);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(str_of(too_long)), I64(1)), NULL), ERR_NOT_FOUND);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(((str){ "acme\0x", 6 })), I64(1)), NULL), ERR_NOT_FOUND);
    assert_int_equal(find(s, &good_system, ARGS(I64(1)), NULL), OK);
    assert_int_equal(db_write_wait(s->db, s->arena, steal, &out), ERR_INTERNAL); /* refused by the guard */
    assert_int_equal(db_write_wait(s->db, s->arena, steal, &in), OK);            /* nothing to change */
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), NULL), OK);
}

/* ---- the tenant that a session stands at ---- */

/* Things that happen on the one connection of the pool. What each sees is what row-level security lets it see: `bad_none` names no tenant itself. */
static err look(struct store *s, const char *tenant, i64 id, bool once)
{
    struct tx *tx;
    struct note row;
    TRY(db_read_begin(s->db, s->arena, false, &tx));
    if (once)
        db_read_once(tx);
    if (tenant != NULL)
        db_act_for(tx, str_of(tenant));
    err e = db_row(tx, &bad_none, &row, ARGS(I64(id)));
    db_read_end(tx);
    return e;
}

enum { ACMES = 1, GLOBEXS = 3 }; /* ids of rows */

static void sees(struct store *s, bool once, const char *tenant, bool acmes, bool globexs)
{
    assert_int_equal(look(s, tenant, ACMES, once), acmes ? OK : ERR_NOT_FOUND);
    assert_int_equal(look(s, tenant, GLOBEXS, once), globexs ? OK : ERR_NOT_FOUND);
}

static void looks_acme(struct store *s)
{
    sees(s, true, "acme", true, false);
}

static void looks_globex(struct store *s)
{
    sees(s, true, "globex", false, true);
}

static void looks_nobody(struct store *s)
{
    sees(s, true, NULL, false, false);
}

static void reads_globex(struct store *s)
{
    sees(s, false, "globex", false, true);
}

static void reads_nobody(struct store *s)
{
    sees(s, false, NULL, false, false);
}

static void look_fails(struct store *s)
{
    struct tx *tx;
    struct note row;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    db_read_once(tx);
    assert_int_equal(db_row(tx, &good_division, &row, ARGS(STR(S("globex")))), ERR_INTERNAL);
    db_read_end(tx);
}

static void ask_unheard(struct store *s, const struct stmt *stmt, struct args args)
{
    struct tx *tx;
    struct ahead asked;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    db_read_once(tx);
    assert_int_equal(db_ask(tx, stmt, 1, &asked, args), OK);
    db_read_end(tx);
}

static void look_is_unheard(struct store *s)
{
    ask_unheard(s, &good_by_id, ARGS(STR(S("globex")), I64(GLOBEXS)));
}

static void look_fails_unheard(struct store *s)
{
    ask_unheard(s, &good_division, ARGS(STR(S("globex"))));
}

/* Two tenants and all of them, in one look. */
static void look_is_mixed(struct store *s)
{
    struct tx *tx;
    struct note row;
    struct ahead one, all, other;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    db_read_once(tx);
    assert_int_equal(db_ask(tx, &good_by_id, 1, &one, ARGS(STR(S("acme")), I64(ACMES))), OK);
    assert_int_equal(db_ask(tx, &good_system, 1, &all, ARGS(I64(GLOBEXS))), OK);
    assert_int_equal(db_ask(tx, &bad_none, 1, &other, ARGS(I64(ACMES))), OK); /* nobody's */
    assert_int_equal(db_row(tx, &good_by_id, &row, ARGS(STR(S("globex")), I64(GLOBEXS))), OK);
    assert_int_equal(db_answer_row(tx, &one, &row), OK);
    assert_int_equal(db_answer_row(tx, &all, &row), OK);
    assert_int_equal(db_answer_row(tx, &other, &row), ERR_NOT_FOUND);
    db_read_end(tx);
}

static void looks_at_all(struct store *s)
{
    struct tx *tx;
    struct note row;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    db_read_once(tx);
    assert_int_equal(db_row(tx, &good_system, &row, ARGS(I64(GLOBEXS))), OK);
    db_read_end(tx);
}

static err touch(void *ctx, struct tx *tx)
{
    TRY(db_exec(tx, &good_steal, NULL, ARGS(STR(S("globex")), I64(GLOBEXS), STR(S("globex")))));
    TRY(db_row(tx, &bad_none, NULL, ARGS(I64(ACMES))) == ERR_NOT_FOUND ? OK : ERR_CONFLICT);
    return *(err *)ctx;
}

static void writes_globex(struct store *s)
{
    err e = OK;
    assert_int_equal(db_write_wait(s->db, s->arena, touch, &e), OK);
}

static void write_is_taken_back(struct store *s)
{
    err e = ERR_INVALID;
    assert_int_equal(db_write_wait(s->db, s->arena, touch, &e), ERR_INVALID);
}

/* A script that names its tenant itself, and a statement of the same tenant behind it. */
static err purge(void *ctx, struct tx *tx)
{
    i64 n;
    TRY(db_purge(tx, S("notes"), S("globex"), 10, &n));
    return n == 1 ? insert_other(ctx, tx) : ERR_CONFLICT;
}

static void purges_globex(struct store *s)
{
    assert_int_equal(db_write_wait(s->db, s->arena, purge, &(i64){ GLOBEXS }), OK);
}

/* Too late for one look: a transaction has begun. */
static void look_comes_late(struct store *s)
{
    struct tx *tx;
    assert_int_equal(db_read_begin(s->db, s->arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(ACMES))), OK);
    db_read_once(tx);
    assert_int_equal(db_row(tx, &good_by_id, NULL, ARGS(STR(S("globex")), I64(GLOBEXS))), OK);
    db_read_end(tx);
}

/* What is believed of the connection is so; nothing opens all tenants' rows between its uses. */
static void assert_believed(struct store *s)
{
    struct pg_conn *c = postgres_of(s->db)->idle;
    str tenant, system;
    assert_non_null(c);
    assert_null(c->next);
    bool stands = c->stands;
    i64 until_us = clock_mono_us() + 10 * SECOND_US;
    assert_int_equal(pg_ask(c, s->arena, "SELECT current_setting('app.tenant', true)", until_us, &tenant), OK);
    assert_int_equal(pg_ask(c, s->arena, "SELECT current_setting('app.system', true)", until_us, &system), OK);
    assert_int_equal(system.n, 0);
    if (stands)
        assert_true(str_eq(tenant, str_of(c->standing)));
}

static void (*const happens[])(struct store *) = {
    looks_acme,    looks_globex,        looks_nobody,       reads_globex,  reads_nobody,
    look_fails,    look_is_unheard,     look_fails_unheard, look_is_mixed, looks_at_all,
    writes_globex, write_is_taken_back, look_comes_late,    purges_globex,
};
enum { HAPPENS = COUNT(happens) };

/* A sequence in which each three of them stand behind one another once (de Bruijn's, made by taking the last one that is still new). */
static void test_no_tenant_stands_in_for_another(void **state)
{
    struct store *s = *state;
    static bool seen[HAPPENS][HAPPENS][HAPPENS];
    int before = 0, last = 0;
    u32 steps = 0;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &(i64){ ACMES }), OK);
    assert_int_equal(db_write_wait(s->db, s->arena, insert_other, &(i64){ GLOBEXS }), OK);
    struct arena_mark mark = arena_mark(s->arena);
    for (;; steps++) {
        int next = HAPPENS - 1;
        while (next >= 0 && seen[before][last][next])
            next--;
        if (next < 0)
            break;
        seen[before][last][next] = true;
        happens[next](s);
        assert_believed(s);
        arena_rewind(s->arena, mark);
        before = last;
        last = next;
    }
    assert_int_equal(steps, HAPPENS * HAPPENS * HAPPENS);
}

/* The second look of a tenant is one message shorter; it is not when the connection, or what it was last told, is gone. */
static void test_a_tenant_is_told_once(void **state)
{
    struct store *s = *state;
    const struct postgres *db = postgres_of(s->db);
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &(i64){ ACMES }), OK);
    assert_int_equal(db_write_wait(s->db, s->arena, insert_other, &(i64){ GLOBEXS }), OK);
    looks_nobody(s);
    assert_true(db->idle->stands);
    looks_acme(s);
    assert_true(db->idle->stands);
    assert_string_equal(db->idle->standing, "acme");
    look_fails(s);
    assert_false(db->idle->stands);
    looks_acme(s);
    fault_arm(FAULT_STATEMENT, 1);
    looks_globex(s);
    assert_true(fault_fired(FAULT_STATEMENT));
    fault_arm(FAULT_STATEMENT, 0);
    assert_string_equal(db->idle->standing, "globex");
    looks_acme(s);
    assert_believed(s);
    writes_globex(s);
    assert_false(db->idle->stands);
    reads_nobody(s);
    assert_false(db->idle->stands);
    looks_acme(s);
    looks_at_all(s);
    assert_false(db->idle->stands);
}

/* ---- turns ---- */

/* Jobs that wait in the queue while the first one of them, whose turn it is, is held up. */
struct turn_job {
    struct db_job job;
    i64 id;
    err wanted;        /* what it decides after its insert */
    const i64 *taken;  /* a row that is there already: inserting it again fails unheard */
    sem_t *begun, *go; /* of the first one */
    sem_t *over;
    err outcome;
    u32 runs;
};

static err turn_run(struct db_job *job, struct tx *tx)
{
    struct turn_job *t = CONTAINER(job, struct turn_job, job);
    i64 id = t->taken != NULL ? *t->taken : t->id;
    if (t->go != NULL && t->runs == 0) {
        sem_post(t->begun);
        sem_wait(t->go);
    }
    t->runs++;
    TRY(db_send(tx, &good_insert, OK, ARGS(I64(id), STR(S("acme")), NIL)));
    TRY(t->wanted == OK ? OK : db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(id))));
    return t->wanted;
}

/* The same, held up with its turn taken and its insert sent. */
static err turn_hold(struct db_job *job, struct tx *tx)
{
    struct turn_job *t = CONTAINER(job, struct turn_job, job);
    TRY(db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(t->id))) == ERR_NOT_FOUND ? OK : ERR_INTERNAL);
    return turn_run(job, tx);
}

static void turn_done(struct db_job *job, err outcome)
{
    struct turn_job *t = CONTAINER(job, struct turn_job, job);
    t->outcome = outcome;
    sem_post(t->over);
}

enum { TURN_JOBS = BATCH_JOBS_MAX + 2 };
struct turn_case {
    struct turn_job jobs[TURN_JOBS];
    sem_t begun, go, over;
};

/* The first job holds the turn until all others are queued. */
static void run_turns(struct store *s, struct turn_case *c)
{
    sem_init(&c->begun, 0, 0);
    sem_init(&c->go, 0, 0);
    sem_init(&c->over, 0, 0);
    for (int i = 0; i < TURN_JOBS; i++) {
        struct turn_job *t = &c->jobs[i];
        t->job = (struct db_job){ .run = turn_run, .done = turn_done, .arena = arena_new(MIB), .tenant = S("acme") };
        t->id = t->id != 0 ? t->id : 100 + i;
        t->over = &c->over;
    }
    c->jobs[0].begun = &c->begun;
    c->jobs[0].go = &c->go;
    assert_int_equal(db_submit(s->db, &c->jobs[0].job), OK);
    sem_wait(&c->begun);
    for (int i = 1; i < TURN_JOBS; i++)
        assert_int_equal(db_submit(s->db, &c->jobs[i].job), OK);
    sem_post(&c->go);
    for (int i = 0; i < TURN_JOBS; i++)
        sem_wait(&c->over);
    for (int i = 0; i < TURN_JOBS; i++)
        arena_free(c->jobs[i].job.arena);
    sem_destroy(&c->begun);
    sem_destroy(&c->go);
    sem_destroy(&c->over);
}

/* The first alone, as many as a batch holds, and the one that is left. */
static void test_jobs_of_a_tenant_share_a_commit(void **state)
{
    struct store *s = *state;
    struct turn_case c = { 0 };
    c.jobs[5].wanted = ERR_INVALID;
    u64 before = db_stats(s->db).batches;
    run_turns(s, &c);
    assert_int_equal(db_stats(s->db).batches - before, 3);
    for (int i = 0; i < TURN_JOBS; i++) {
        assert_int_equal(c.jobs[i].outcome, c.jobs[i].wanted);
        assert_int_equal(c.jobs[i].runs, 1);
        assert_row(s, c.jobs[i].id, i != 5);
    }
}

static void test_a_statement_that_fails_spoils_no_other_job(void **state)
{
    struct store *s = *state;
    struct turn_case c = { 0 };
    i64 taken = 1;
    assert_int_equal(db_write_wait(s->db, s->arena, insert, &taken), OK);
    c.jobs[7].taken = &taken;
    run_turns(s, &c);
    for (int i = 0; i < TURN_JOBS; i++) {
        assert_int_equal(c.jobs[i].outcome, i == 7 ? ERR_CONFLICT : OK);
        assert_row(s, c.jobs[i].id, i != 7);
    }
}

/* Each answer is true, and but for a commit whose fate nobody knows all succeed. */
static void test_nth_failure_of_a_batch(void **state)
{
    struct store *s = *state;
    bool fired = true;
    for (i64 n = 1; fired; n++) {
        struct turn_case c = { 0 };
        for (int i = 0; i < TURN_JOBS; i++)
            c.jobs[i].id = 1000 * n + i;
        c.jobs[3].wanted = ERR_INVALID;
        fault_arm(FAULT_STATEMENT, n);
        run_turns(s, &c);
        fired = fault_fired(FAULT_STATEMENT);
        fault_arm(FAULT_STATEMENT, 0);
        for (int i = 0; i < TURN_JOBS; i++) {
            err e = c.jobs[i].outcome;
            assert_true(e == c.jobs[i].wanted || e == ERR_UNAVAILABLE);
            assert_row(s, c.jobs[i].id, e == OK);
        }
        assert_in_range(n, 1, 50);
    }
}

/* Where there is no connection to wait for it is said at once that the database is not there, to all of a batch together. */
static void test_nobody_is_let_in(void **state)
{
    struct store *s = *state;
    struct turn_case c = { 0 };
    s->db->options.pool_wait_us = HOUR_US;
    pool_forget(postgres_of(s->db));
    let_in(s, 0);
    u64 before = db_stats(s->db).batches;
    run_turns(s, &c);
    assert_int_equal(db_stats(s->db).batches - before, 3);
    for (int i = 0; i < TURN_JOBS; i++)
        assert_int_equal(c.jobs[i].outcome, ERR_UNAVAILABLE);
    postgres_of(s->db)->down_until_us = 0;
    assert_int_equal(find_any(s), ERR_UNAVAILABLE);
    let_in(s, -1);
    postgres_of(s->db)->down_until_us = 0;
    assert_int_equal(find_any(s), ERR_NOT_FOUND);
}

struct newcomer {
    struct db *db;
    err outcome;
};

static err look_for_first(void *ctx, struct tx *tx)
{
    return db_row(tx, &good_by_id, NULL, ARGS(STR(S("acme")), I64(100)));
}

static void *come(void *ctx)
{
    struct newcomer *n = ctx;
    struct arena *a = arena_new(MIB);
    n->outcome = db_write_wait(n->db, a, look_for_first, NULL);
    arena_free(a);
    return NULL;
}

static bool somebody_waits(struct store *s)
{
    const char *const names[] = { "dbname", "dbname", NULL };
    const char *const values[] = { getenv("TEST_POSTGRES_URL"), s->place.database, NULL };
    PGconn *c = PQconnectdbParams(names, values, 1);
    PGresult *r = PQexec(c, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database ="
                            " (SELECT oid FROM pg_database WHERE datname = current_database())");
    bool waits = PQntuples(r) > 0;
    PQclear(r);
    PQfinish(c);
    return waits;
}

/* On another node: whoever is in no tenant waits for the turn of the one whose rows it names, and sees what that left. */
static void test_no_tenant_waits_for_the_one_it_names(void **state)
{
    struct store *s = *state;
    struct turn_job t = { .id = 100 };
    struct newcomer n = { 0 };
    struct db_options options = test_store_options(&s->place);
    pthread_t thread;
    sem_t begun, go, over;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    sem_init(&over, 0, 0);
    t.job = (struct db_job){ .run = turn_hold, .done = turn_done, .arena = s->arena, .tenant = S("acme") };
    t.begun = &begun;
    t.go = &go;
    t.over = &over;
    assert_int_equal(db_open(&options, &n.db), OK);
    assert_int_equal(db_submit(s->db, &t.job), OK);
    sem_wait(&begun);
    assert_int_equal(pthread_create(&thread, NULL, come, &n), 0);
    for (i64 until_us = clock_mono_us() + 5 * SECOND_US; !somebody_waits(s) && clock_mono_us() < until_us;)
        sched_yield();
    sem_post(&go);
    sem_wait(&over);
    pthread_join(thread, NULL);
    assert_int_equal(t.outcome, OK);
    assert_int_equal(n.outcome, OK);
    db_close(n.db);
    sem_destroy(&begun);
    sem_destroy(&go);
    sem_destroy(&over);
}

/* ---- values and statements ---- */

static err insert_text(void *ctx, struct tx *tx)
{
    return db_exec(tx, &good_insert, NULL, ARGS(I64(1), STR(S("acme")), STR(*(str *)ctx)));
}

static void test_texts_that_it_does_not_take(void **state)
{
    struct store *s = *state;
    static const struct {
        str in, out;
    } cases[] = {
        { S_INIT("a\0b"), S_INIT("a\xef\xbf\xbd"
                                 "b") },
        { S_INIT("caf\xe9"), S_INIT("caf\xef\xbf\xbd") },
        { S_INIT("\xed\xa0\x80"), S_INIT("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") },
        { S_INIT("fine \xe2\x82\xac"), S_INIT("fine \xe2\x82\xac") },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct note row;
        str in = cases[i].in;
        assert_int_equal(test_store_admin(s->place.database, "TRUNCATE notes"), 0);
        assert_int_equal(db_write_wait(s->db, s->arena, insert_text, &in), OK);
        assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(1)), &row), OK);
        assert_true(str_eq(row.body, cases[i].out));
    }
}

/* ---- news ---- */

/* What was heard, in order: each text and a newline; "!" stands for "look yourself". */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    char text[64 << 10];
    size_t n;
} news = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void hear_news(str text)
{
    str shown = text.p != NULL ? text : S("!");
    pthread_mutex_lock(&news.lock);
    assert_true(news.n + shown.n + 2 < sizeof news.text);
    news.n += (size_t)snprintf(news.text + news.n, sizeof news.text - news.n, "%.*s\n", STR_FMT(shown));
    pthread_cond_signal(&news.more);
    pthread_mutex_unlock(&news.lock);
}

/* Waits for it, then forgets all; 20 s is for a machine that is busy. */
static void expect_news(const char *wanted)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&news.lock);
    for (int rc = 0; rc == 0 && strcmp(news.text, wanted) != 0;)
        rc = pthread_cond_timedwait(&news.more, &news.lock, &until);
    assert_string_equal(news.text, wanted);
    news.n = 0;
    news.text[0] = '\0';
    pthread_mutex_unlock(&news.lock);
}

static void cut_listener(const struct store *s)
{
    assert_int_equal(test_store_admin(s->place.database,
                                      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                      " WHERE datname = current_database() AND query = 'LISTEN weir'"),
                     0);
}

static void test_news_of_other_processes(void **state)
{
    struct store *s = *state;
    struct db *other;
    struct db_options options = test_store_options(&s->place);
    assert_int_equal(db_open(&options, &other), OK);
    assert_true(db_has_others(other));
    assert_int_equal(db_listen(other, hear_news), OK);
    expect_news("!\n");
    assert_true(db_listening(other));
    assert_int_equal(db_notify(s->db, S("one")), OK);
    assert_int_equal(db_notify(s->db, S("caf\xc3\xa9 'two' \\ \n")), OK);
    expect_news("one\ncaf\xc3\xa9 'two' \\ \n\n");
    cut_listener(s);
    expect_news("!\n");
    assert_int_equal(db_notify(s->db, S("three")), OK);
    expect_news("three\n");
    db_close(other);
    assert_int_equal(db_notify(s->db, S("nobody hears this")), OK);
}

static void test_news_are_bounded(void **state)
{
    struct store *s = *state;
    static char text[DB_NEWS_MAX + 2];
    memset(text, 'x', sizeof text - 1);
    assert_int_equal(db_listen(s->db, hear_news), OK);
    expect_news("!\n");
    for (size_t n = DB_NEWS_MAX - 1; n <= DB_NEWS_MAX + 1; n++)
        assert_int_equal(db_notify(s->db, (str){ text, n }), n <= DB_NEWS_MAX ? OK : ERR_TOO_LARGE);
    assert_int_equal(db_notify(s->db, S("end")), OK);
    pthread_mutex_lock(&news.lock);
    while (strstr(news.text, "end") == NULL)
        pthread_cond_wait(&news.more, &news.lock);
    assert_int_equal(news.n, 2 * DB_NEWS_MAX - 1 + 2 + 4);
    news.n = 0;
    news.text[0] = '\0';
    pthread_mutex_unlock(&news.lock);
    db_listen_end(s->db);
    assert_false(db_listening(s->db));
    /* another thread may be saying something at this moment */
    assert_int_equal(test_store_admin(s->place.database,
                                      "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname ="
                                      " current_database() AND query LIKE 'SELECT pg_notify%')"
                                      " THEN RAISE EXCEPTION 'what speaks was closed'; END IF; END $$"),
                     0);
    assert_int_equal(db_notify(s->db, S("nobody hears this")), OK);
}

/* A failure is told to the caller, and the next attempt finds a new connection. */
static void test_nth_failure_of_news(void **state)
{
    struct store *s = *state;
    bool fired = true;
    for (int kind = 0; kind < 2; kind++, fired = true)
        for (i64 n = 1; fired; n++) {
            enum fault_kind fault = kind == 0 ? FAULT_STATEMENT : FAULT_ALLOC;
            fault_arm(fault, n);
            err e = db_notify(s->db, S("word"));
            fired = fault_fired(fault);
            fault_arm(fault, 0);
            assert_true(e == OK || e == ERR_UNAVAILABLE || e == ERR_MEMORY);
            assert_int_equal(db_notify(s->db, S("word")), OK);
            assert_in_range(n, 1, 50);
        }
}

static void test_a_write_beside_the_pool(void **state)
{
    struct store *s = *state;
    i64 id = 1;
    for (int i = 0; i < 3; i++, id += 10)
        assert_int_equal(db_write_own(s->db, s->arena, insert, &id), OK);
    assert_int_equal(find(s, &good_by_id, ARGS(STR(S("acme")), I64(11)), NULL), OK);
    id = 1;
    assert_int_equal(db_write_own(s->db, s->arena, insert, &id), ERR_CONFLICT);
    assert_int_equal(db_stats(s->db).connections, 1); /* the read's */
    id = 41;
    assert_int_equal(db_write_own(s->db, s->arena, insert, &id), OK);
}

static void test_check(void **state)
{
    struct store *s = *state;
    struct buf complaint = { .arena = s->arena };
    static const char *const bad[] = { "bad_syntax", "bad_type", "bad_column", "bad_twice",
                                       "bad_none",   "bad_many", "bad_system", "schema" };
    assert_int_equal(db_check(s->db, &complaint), ERR_INVALID);
    buf_char(&complaint, '\0');
    for (size_t i = 0; i < COUNT(bad); i++)
        if (strstr(complaint.p, bad[i]) == NULL)
            fail_msg("no complaint about %s in\n%s", bad[i], complaint.p);
    assert_null(strstr(complaint.p, "good_"));
    assert_non_null(strstr(complaint.p, "open")); /* the table without a guard */
    assert_null(strstr(complaint.p, "plain"));
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    if (!test_store_on_postgres(argc, argv))
        return TEST_SKIPPED;
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_nth_failure_of_a_write),
        WITH_STORE(test_nth_failure_of_a_read),
        WITH_STORE(test_nth_allocation),
        WITH_STORE(test_giving_up_after_an_unseen_failure),
        WITH_STORE(test_one_look),
        WITH_STORE(test_what_was_asked_and_never_heard),
        WITH_STORE(test_an_answer_waits_by_itself),
        WITH_STORE(test_nth_failure_of_one_look),
        WITH_STORE(test_the_pool_is_bounded),
        WITH_STORE(test_a_connection_that_is_refused),
        WITH_STORE(test_loops_that_could_not_connect),
        WITH_STORE(test_a_loop_adopts_what_is_idle),
        WITH_STORE(test_an_old_connection_is_replaced),
        WITH_STORE(test_an_idle_connection_is_looked_at),
        WITH_STORE(test_the_guard_sees_what_the_statement_names),
        WITH_STORE(test_no_tenant_stands_in_for_another),
        WITH_STORE(test_a_tenant_is_told_once),
        WITH_STORE(test_jobs_of_a_tenant_share_a_commit),
        WITH_STORE(test_a_statement_that_fails_spoils_no_other_job),
        WITH_STORE(test_nth_failure_of_a_batch),
        WITH_STORE(test_nobody_is_let_in),
        WITH_STORE(test_no_tenant_waits_for_the_one_it_names),
        WITH_STORE(test_texts_that_it_does_not_take),
        WITH_STORE(test_news_of_other_processes),
        WITH_STORE(test_news_are_bounded),
        WITH_STORE(test_nth_failure_of_news),
        WITH_STORE(test_a_write_beside_the_pool),
        WITH_STORE(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
