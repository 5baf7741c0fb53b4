/* test_faults.c - the n-th allocation, write, sync or statement of the store fails, once or from then on: what was acknowledged is there, whole; what was refused left nothing;
 * and the store goes on to work.
 *
 * Each n has a folder of its own, in memory where the machine has such a place: what is tested is the order of things, not the disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fault.h"
#include "base/log.h"
#include "db/sqlite.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ORDERS = 5, REFUSES = 2, LINES = 3, PATH_BYTES = 128, N_MAX = 1000000 };
enum { TO_COME = 2 };                                     /* migrations */
enum { COARSE = 60 * FAULT_STRIDE, SPARSE = 4 * COARSE }; /* migrating makes SQLite allocate some 100,000 times */
enum { EARLY = 50 };

static const struct fault_case {
    enum fault_kind kind;
    bool lasts;
} cases[] = {
    { FAULT_ALLOC, false },     { FAULT_ALLOC, true },     { FAULT_STORE_ALLOC, false }, { FAULT_STORE_ALLOC, true },
    { FAULT_WRITE, false },     { FAULT_WRITE, true },     { FAULT_SYNC, false },        { FAULT_SYNC, true },
    { FAULT_STATEMENT, false }, { FAULT_STATEMENT, true },
};

static void arm(const struct fault_case *c, i64 n)
{
    if (c->lasts)
        fault_arm_from(c->kind, n);
    else
        fault_arm(c->kind, n);
}

/* Says whether it had fired. */
static bool disarm(const struct fault_case *c)
{
    bool fired = fault_fired(c->kind);
    fault_arm(c->kind, 0);
    return fired;
}

/* ---- folders ---- */

static char root[PATH_BYTES];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void remove_folder(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int make_root(void **state)
{
    bool in_memory = access("/dev/shm", W_OK) == 0;
    snprintf(root, sizeof root, "%s/weir-test-faults-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int remove_root(void **state)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        fault_arm(kind, 0);
    remove_folder(root);
    return 0;
}

static void copy_store(const char *of, const char *folder)
{
    char from[PATH_BYTES + 32], to[PATH_BYTES + 32];
    static char bytes[1 << 20];
    snprintf(from, sizeof from, "%s/weir.db", of);
    snprintf(to, sizeof to, "%s/weir.db", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    FILE *in = fopen(from, "re"), *out = fopen(to, "we");
    assert_true(in != NULL && out != NULL);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* The case and n in a message, so that a failure can be run again. */
#define CHECK(condition, c, n)                                                                           \
    do {                                                                                                 \
        if (!(condition))                                                                                \
            fail_msg("%s: kind %d %s, n = %lld", #condition, (int)(c)->kind, (c)->lasts ? "from" : "at", \
                     (long long)(n));                                                                    \
    } while (0)

static err open_in(const char *folder, struct db **out)
{
    struct db_options options = { .folder = str_of(folder) };
    return db_open(&options, out);
}

/* ---- opening and migrating ---- */

static err open_and_migrate(const char *folder, struct db **db)
{
    TRY(open_in(folder, db));
    return db_migrate_up(*db);
}

static err check_whole(void *ctx, struct tx *tx)
{
    return conn_script(CONTAINER(tx, struct sqlite_tx, base)->conn, "test", "PRAGMA quick_check");
}

/* What ran is the beginning of the sequence, each whole: the rest runs on top of it. */
static void check_opened(const char *folder, bool acknowledged, const struct fault_case *c, i64 n)
{
    struct db *db;
    struct migration_state *list;
    u32 count, applied = 0;
    struct arena *a = arena_new(4 * MIB);
    CHECK(open_in(folder, &db) == OK, c, n);
    CHECK(db_migrate_status(db, a, &list, &count) == OK, c, n);
    while (applied < count && list[applied].applied_at != 0)
        applied++;
    for (u32 i = applied; i < count; i++)
        CHECK(list[i].applied_at == 0, c, n);
    CHECK(!acknowledged || applied == count, c, n);
    CHECK(db_migrate_up(db) == OK, c, n);
    CHECK(db_write_wait(db, a, check_whole, NULL) == OK, c, n);
    db_close(db);
    arena_free(a);
}

/* A database whose last migrations are still to come; made once. */
static char behind[PATH_BYTES + 16];

static void make_behind(void)
{
    struct db *db;
    snprintf(behind, sizeof behind, "%s/behind", root);
    assert_int_equal(open_and_migrate(behind, &db), OK);
    for (int i = 0; i < TO_COME; i++)
        assert_int_equal(db_migrate_down(db), OK);
    db_close(db);
}

static bool opening_fails_at(const struct fault_case *c, i64 n)
{
    char folder[PATH_BYTES + 8];
    struct db *db = NULL;
    size_t before = arena_budget_used();
    snprintf(folder, sizeof folder, "%s/open", root);
    if (behind[0] != '\0')
        copy_store(behind, folder);
    arm(c, n);
    err e = open_and_migrate(folder, &db);
    db_close(db); /* with the fault still on: closing cannot be refused */
    bool fired = disarm(c);
    CHECK(fired || e == OK, c, n);
    check_opened(folder, e == OK, c, n);
    CHECK(arena_budget_used() == before, c, n);
    remove_folder(folder);
    return fired;
}

/* Whether every n is played, as `make test-full` does. */
static bool plays_all(void)
{
    return fault_next(N_MAX, FAULT_STRIDE, false) == N_MAX + 1;
}

static void sweep(bool (*fails_at)(const struct fault_case *c, i64 n), i64 store_stride)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        i64 n = 1, stride = cases[i].kind == FAULT_STORE_ALLOC ? store_stride : FAULT_STRIDE;
        while (fails_at(&cases[i], n) && n < N_MAX)
            n = fault_next(n, stride, cases[i].lasts);
        assert_in_range(n, 2, N_MAX - 1);
    }
}

/* All migrations, one after the other, do the same things, and each n plays all of them before: to play every n took their number squared, an hour. What is in front, the opening and the
 * first of them, is played at every n (of faults that last, as fault_next says); behind that a part, of SQLite's allocations even where all others are played. */
static i64 next_of_all(const struct fault_case *c, i64 n)
{
    bool store = c->kind == FAULT_STORE_ALLOC, all = plays_all();
    i64 stride = store ? (all ? COARSE : SPARSE) : all ? 1 : FAULT_STRIDE * 5;
    return n <= EARLY || (store && all && n <= COARSE) ? fault_next(n, 1, c->lasts) : n + stride;
}

static void test_opening_and_migrating(void **state)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        i64 n = 1;
        while (opening_fails_at(&cases[i], n) && n < N_MAX)
            n = next_of_all(&cases[i], n);
        assert_in_range(n, 2, N_MAX - 1);
    }
}

/* So what the sweep above passes over is played on the last of them: every n, or the first 200 of each kind, which are all of these but SQLite's own. */
static void test_catching_up(void **state)
{
    make_behind();
    sweep(opening_fails_at, COARSE);
    behind[0] = '\0';
}

/* ---- a group commit ---- */

STMT(order_insert, "INSERT INTO test_orders (id, text) VALUES ($1, $2)", .scope = SCOPE_SYSTEM);
STMT(line_insert, "INSERT INTO test_lines (order_id, n) VALUES ($1, $2)", .scope = SCOPE_SYSTEM);
STMT(sum_update, "UPDATE test_sum SET n = n + 1", .scope = SCOPE_SYSTEM, .scan_ok = true);

struct number {
    struct presence has;
    i64 number;
};
static const struct field number_fields[] = { FIELD(struct number, number, F_I64, .doc = "A number") };
static const struct table number_table = TABLE("TestNumber", struct number, number_fields);
STMT(order_count, "SELECT count(*) AS number FROM test_orders WHERE id = $1", .scope = SCOPE_SYSTEM,
     .row = &number_table);
STMT(line_count, "SELECT count(*) AS number FROM test_lines WHERE order_id = $1", .scope = SCOPE_SYSTEM,
     .row = &number_table, .scan_ok = true);
STMT(line_list, "SELECT n AS number FROM test_lines WHERE order_id = $1", .scope = SCOPE_SYSTEM, .row = &number_table,
     .scan_ok = true);
STMT(sum_read, "SELECT n AS number FROM test_sum", .scope = SCOPE_SYSTEM, .row = &number_table, .scan_ok = true);

static const char tables[] =
    "CREATE TABLE test_orders (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"
    "CREATE TABLE test_lines (order_id INTEGER NOT NULL REFERENCES test_orders (id), n INTEGER NOT NULL,"
    " UNIQUE (order_id, n)); CREATE TABLE test_sum (n INTEGER NOT NULL); INSERT INTO test_sum VALUES (0);";

static err make_tables(void *ctx, struct tx *tx)
{
    return conn_script(CONTAINER(tx, struct sqlite_tx, base)->conn, "test", tables);
}

/* A migrated database, made once; each n begins with a copy of its file. */
static char template[PATH_BYTES + 16];

static void make_template(void)
{
    struct db *db;
    if (template[0] != '\0')
        return;
    snprintf(template, sizeof template, "%s/template", root);
    assert_int_equal(open_and_migrate(template, &db), OK);
    struct arena *a = arena_new(MIB);
    assert_int_equal(db_write_wait(db, a, make_tables, NULL), OK);
    arena_free(a);
    db_close(db);
}

/* An order: a row, its lines, and one more in the sum. Several statements, so that there is a middle to fail in. */
struct order {
    struct db_job job;
    struct shop *shop;
    i64 id;
    bool refuses; /* after its statements: its neighbours must not suffer for it */
    err outcome;
};
struct shop {
    struct db *db;
    struct order orders[ORDERS + 1]; /* one stands alone behind the crowd */
    struct db_job gate;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool gate_open, gate_reached;
    u32 done;
};

static err order_run(struct db_job *job, struct tx *tx)
{
    struct order *o = CONTAINER(job, struct order, job);
    void *rows;
    u32 n;
    TRY(db_exec(tx, &order_insert, NULL, ARGS(I64(o->id), STR(S("an order")))));
    for (i64 i = 0; i < LINES; i++)
        TRY(db_exec(tx, &line_insert, NULL, ARGS(I64(o->id), I64(i))));
    TRY(db_list(tx, &line_list, 100, &rows, &n, ARGS(I64(o->id))));
    TRY(db_exec(tx, &sum_update, NULL, NO_ARGS));
    return n == LINES && !o->refuses ? OK : ERR_INVALID;
}

static void count_done(struct shop *s)
{
    pthread_mutex_lock(&s->mutex);
    s->done++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static void order_done(struct db_job *job, err outcome)
{
    struct order *o = CONTAINER(job, struct order, job);
    o->outcome = outcome;
    count_done(o->shop);
}

static err gate_run(struct db_job *job, struct tx *tx)
{
    struct shop *s = CONTAINER(job, struct shop, gate);
    pthread_mutex_lock(&s->mutex);
    s->gate_reached = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->gate_open)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    return OK;
}

static void gate_done(struct db_job *job, err outcome)
{
    count_done(CONTAINER(job, struct shop, gate));
}

static void order_submit(struct shop *s, u32 i, bool refuses)
{
    struct order *o = &s->orders[i];
    struct arena *a = o->job.arena;
    *o = (struct order){
        .job = { .run = order_run, .done = order_done, .arena = a }, .shop = s, .id = i, .refuses = refuses
    };
    assert_int_equal(db_submit(s->db, &o->job), OK);
}

static void wait_done(struct shop *s, u32 n)
{
    pthread_mutex_lock(&s->mutex);
    s->gate_open = true;
    pthread_cond_broadcast(&s->changed);
    while (s->done < n)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

/* All orders in one batch behind a gate, the fault armed while it holds them; then one alone. */
static void place_orders(struct shop *s, const struct fault_case *c, i64 n)
{
    s->gate = (struct db_job){ .run = gate_run, .done = gate_done };
    assert_int_equal(db_submit(s->db, &s->gate), OK);
    pthread_mutex_lock(&s->mutex);
    while (!s->gate_reached)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    for (u32 i = 0; i < ORDERS; i++)
        order_submit(s, i, i == REFUSES);
    arm(c, n);
    wait_done(s, 1 + ORDERS);
    order_submit(s, ORDERS, false);
    wait_done(s, 1 + ORDERS + 1);
}

static i64 number_of(struct db *db, struct arena *a, const struct stmt *s, struct args args)
{
    struct tx *tx;
    struct number row = { .number = -1 };
    assert_int_equal(db_read_begin(db, a, false, &tx), OK);
    assert_int_equal(db_row(tx, s, &row, args), OK);
    db_read_end(tx);
    return row.number;
}

/* An order is there with all of its lines when it was acknowledged, and otherwise nothing of it. */
static void check_orders(struct shop *s, struct arena *a, const struct fault_case *c, i64 n)
{
    i64 placed = 0;
    for (u32 i = 0; i <= ORDERS; i++) {
        bool good = s->orders[i].outcome == OK;
        CHECK(number_of(s->db, a, &order_count, ARGS(I64(i))) == good, c, n);
        CHECK(number_of(s->db, a, &line_count, ARGS(I64(i))) == (good ? LINES : 0), c, n);
        placed += good;
    }
    CHECK(number_of(s->db, a, &sum_read, NO_ARGS) == placed, c, n);
}

/* Those that were refused come again, and all of them are taken. */
static void place_again(struct shop *s, const struct fault_case *c, i64 n)
{
    for (u32 i = 0; i <= ORDERS; i++) {
        if (s->orders[i].outcome == OK)
            continue;
        u32 before = s->done;
        order_submit(s, i, false);
        wait_done(s, before + 1);
        CHECK(s->orders[i].outcome == OK, c, n);
    }
}

static bool commit_fails_at(const struct fault_case *c, i64 n)
{
    char folder[PATH_BYTES + 8];
    size_t before = arena_budget_used();
    struct arena *a = arena_new(4 * MIB);
    struct shop s = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    snprintf(folder, sizeof folder, "%s/batch", root);
    copy_store(template, folder);
    CHECK(open_in(folder, &s.db) == OK, c, n);
    for (u32 i = 0; i <= ORDERS; i++)
        s.orders[i].job.arena = arena_new(MIB);
    place_orders(&s, c, n);
    bool fired = disarm(c);
    CHECK(fired || s.orders[REFUSES].outcome == ERR_INVALID, c, n);
    check_orders(&s, a, c, n);
    if (n % 2 == 0) { /* what a restart finds, with and without having gone on before */
        db_close(s.db);
        CHECK(open_in(folder, &s.db) == OK, c, n);
        check_orders(&s, a, c, n);
    }
    place_again(&s, c, n);
    db_close(s.db);
    CHECK(open_in(folder, &s.db) == OK, c, n);
    check_orders(&s, a, c, n);
    db_close(s.db);
    for (u32 i = 0; i <= ORDERS; i++)
        arena_free(s.orders[i].job.arena);
    arena_free(a);
    CHECK(arena_budget_used() == before, c, n);
    remove_folder(folder);
    return fired;
}

static void test_a_group_commit(void **state)
{
    make_template();
    sweep(commit_fails_at, FAULT_STRIDE);
}

/* Memory that ends exactly when a job is taken back, and is there again for the next one. */
struct last_straw {
    struct db_job job;
    struct shop *shop;
};

static err straw_run(struct db_job *job, struct tx *tx)
{
    TRY(db_exec(tx, &order_insert, NULL, ARGS(I64(0), STR(S("never")))));
    fault_arm_from(FAULT_STORE_ALLOC, 1);
    return ERR_INVALID;
}

static void straw_done(struct db_job *job, err outcome)
{
    fault_arm(FAULT_STORE_ALLOC, 0);
    count_done(CONTAINER(job, struct last_straw, job)->shop);
}

static void test_taking_back_needs_no_memory(void **state)
{
    char folder[PATH_BYTES + 8];
    struct arena *a = arena_new(MIB);
    struct shop s = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    struct last_straw straw = { .job = { .run = straw_run, .done = straw_done, .arena = a }, .shop = &s };
    make_template();
    snprintf(folder, sizeof folder, "%s/straw", root);
    copy_store(template, folder);
    assert_int_equal(open_in(folder, &s.db), OK);
    assert_int_equal(db_submit(s.db, &straw.job), OK);
    wait_done(&s, 1);
    s.orders[0].job.arena = a;
    order_submit(&s, 0, false);
    wait_done(&s, 2);
    assert_int_equal(s.orders[0].outcome, OK);
    db_close(s.db);
    arena_free(a);
    remove_folder(folder);
}

int main(int argc, char **argv)
{
    if (argc > 1) /* one of them: a sweep is long */
        cmocka_set_test_filter(argv[1]);
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening_and_migrating),
        cmocka_unit_test(test_catching_up),
        cmocka_unit_test(test_a_group_commit),
        cmocka_unit_test(test_taking_back_needs_no_memory),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
