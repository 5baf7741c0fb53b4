/* test_faults.c - the n-th allocation, write, sync or statement under the job queue fails: a job whose transaction was committed is done, once it was not is never begun, and none is
 * given up for the store's trouble. The clock is moved on instead of waiting for leases and back-off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "core/app.h"
#include "core/jobs.h"
#include "core/nodes.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_MAX = 20000, ROUNDS_MAX = 20000, RESTART_EVERY = 8, LASTS_ROUNDS = 3, HELD_ROUNDS = 100, TOGETHER = 2 };

static const struct fault_case {
    enum fault_kind kind;
    bool lasts;
} cases[] = {
    { FAULT_ALLOC, false }, { FAULT_ALLOC, true },      { FAULT_STORE_ALLOC, false },
    { FAULT_WRITE, false }, { FAULT_WRITE, true },      { FAULT_SYNC, false },
    { FAULT_SYNC, true },   { FAULT_STATEMENT, false }, { FAULT_STATEMENT, true },
};

static struct {
    struct fault_case c;
    i64 n, shift_us;
    char folder[64];
} trying;

#define CHECK(condition)                                                                                         \
    do {                                                                                                         \
        if (!(condition))                                                                                        \
            fail_msg("%s: kind %d %s, n = %lld", #condition, (int)trying.c.kind, trying.c.lasts ? "from" : "at", \
                     (long long)trying.n);                                                                       \
    } while (0)

/* ---- the jobs ---- */

struct number {
    struct presence has;
    i64 number;
};
static const struct field number_fields[] = { FIELD(struct number, number, F_I64, .doc = "A number") };
static const struct table number_table = TABLE("TestNumber", struct number, number_fields);
STMT(effect_insert,
     "INSERT INTO test_effects (payload, times) VALUES ($1, 1) ON CONFLICT (payload) DO UPDATE SET times = times + 1",
     .scope = SCOPE_SYSTEM);
STMT(effect_count, "SELECT count(*) AS number FROM test_effects WHERE payload LIKE $1", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(job_count, "SELECT count(*) AS number FROM jobs WHERE status <> 'dead' AND $1 = $1", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(running_count, "SELECT count(*) AS number FROM jobs WHERE status = 'running' AND $1 = $1", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(dead_count, "SELECT count(*) AS number FROM jobs WHERE status = 'dead' AND $1 = $1", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(effects_make, "CREATE TABLE IF NOT EXISTS test_effects (payload TEXT PRIMARY KEY, times INTEGER NOT NULL)",
     .scope = SCOPE_SYSTEM);

static err insert_effect(void *ctx, struct tx *tx)
{
    const struct job *job = ctx;
    return db_exec(tx, &effect_insert, NULL, ARGS(STR(job->payload)));
}

static err run_work(const struct job *job)
{
    struct job copy = *job;
    return db_write_wait(app.db, job->arena, insert_effect, &copy);
}

static const struct job_kind kinds[] = { { .name = "test.work", .run = run_work, .doc = "x" } };
static const struct module test_module = { .name = "test", .doc = "x", .jobs = kinds, .job_count = COUNT(kinds) };
const struct module *const modules[] = { &test_module, NULL };

/* ---- the house ---- */

static err make_effects(void *ctx, struct tx *tx)
{
    return db_exec(tx, &effects_make, NULL, NO_ARGS);
}

static void open_all(void)
{
    struct db_options options = { .folder = str_of(trying.folder) };
    struct arena *a = arena_new(MIB);
    app.config.slow_threads = 4;
    assert_int_equal(db_open(&options, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    assert_int_equal(db_write_wait(app.db, a, make_effects, NULL), OK);
    arena_free(a);
    app.slow = pool_new("slow", 2, 16);
    assert_non_null(app.slow);
    struct buf none = { 0 };
    app.config.role = S("all");
    assert_int_equal(nodes_start(&none), OK);
    assert_int_equal(jobs_start(), OK);
}

static void close_all(void)
{
    jobs_stop();
    pool_free(app.slow);
    nodes_stop();
    db_thread_end(app.db);
    db_close(app.db);
}

static int set_up(void **state)
{
    bool in_memory = access("/dev/shm", W_OK) == 0;
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    snprintf(trying.folder, sizeof trying.folder, "%s/weir-job-faults-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    fault_spare(true);
    return mkdtemp(trying.folder) != NULL ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int tear_down(void **state)
{
    nftw(trying.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static i64 number_of(const struct stmt *s, const char *text)
{
    struct tx *tx;
    struct number row = { .number = -1 };
    struct arena *a = arena_new(MIB);
    CHECK(db_read_begin(app.db, a, false, &tx) == OK);
    CHECK(db_row(tx, s, &row, ARGS(STR(str_of(text)))) == OK);
    db_read_end(tx);
    arena_free(a);
    return row.number;
}

/* ---- the sweep ---- */

struct enqueue {
    const char *name;
    bool refuse; /* after all: nobody may ever see them */
};

static err enqueue_some(void *ctx, struct tx *tx)
{
    const struct enqueue *e = ctx;
    struct arena *a = db_arena(tx);
    for (int i = 0; i < TOGETHER; i++) {
        str payload = strf(a, "{\"name\":\"%s\",\"i\":%d}", e->name, i);
        if (payload.p == NULL)
            return ERR_MEMORY;
        TRY(jobs_enqueue(tx, a, clock_now_us(), "test.work", STR_NONE, payload, 0));
    }
    return e->refuse ? ERR_CONFLICT : OK;
}

static err enqueue(const char *name, bool refuse)
{
    struct arena *a = arena_new(MIB);
    struct enqueue e = { name, refuse };
    err outcome = db_write_wait(app.db, a, enqueue_some, &e);
    arena_free(a);
    return outcome;
}

static bool disarm(void)
{
    bool fired = fault_fired(trying.c.kind);
    fault_arm(trying.c.kind, 0);
    return fired;
}

/* Back-off passes at once, a lease only when it seems that nobody holds it any more: each claim counts as an attempt. Jobs that are rolled back wake the dispatcher all the
 * same. */
static void hurry(int *held)
{
    bool waits = number_of(&running_count, "") == 0 || ++*held > HELD_ROUNDS;
    if (waits) {
        *held = 0;
        trying.shift_us += 10 * MINUTE_US;
        fault_clock(trying.shift_us);
    }
    CHECK(enqueue("never", true) != OK);
    usleep(1000);
}

static void await_jobs(bool *fired)
{
    int since = 0, held = 0;
    for (int round = 0; number_of(&job_count, "") > 0; round++) {
        CHECK(round < ROUNDS_MAX);
        if (trying.c.lasts && fault_fired(trying.c.kind) && ++since > LASTS_ROUNDS)
            *fired |= disarm();
        hurry(&held);
    }
}

static bool jobs_fail_at(void)
{
    char name[64], like[96];
    bool fired = false;
    snprintf(name, sizeof name, "j%d-%d-%lld", (int)trying.c.kind, trying.c.lasts, (long long)trying.n);
    snprintf(like, sizeof like, "%%\"%s\"%%", name);
    if (trying.c.lasts)
        fault_arm_from(trying.c.kind, trying.n);
    else
        fault_arm(trying.c.kind, trying.n);
    err e = enqueue(name, false);
    await_jobs(&fired);
    fired |= disarm();
    await_jobs(&fired);
    CHECK(fired || e == OK);
    CHECK(number_of(&effect_count, like) == (e == OK ? TOGETHER : 0));
    CHECK(number_of(&effect_count, "%never%") == 0);
    CHECK(number_of(&dead_count, "") == 0);
    if (e != OK) {
        CHECK(enqueue(name, false) == OK);
        await_jobs(&fired);
        CHECK(number_of(&effect_count, like) == TOGETHER);
    }
    return fired;
}

static void test_jobs(void **state)
{
    size_t before = 0;
    open_all();
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool fired = true;
        trying.c = cases[i];
        for (trying.n = 1; fired; trying.n = fault_next(trying.n, FAULT_STRIDE, cases[i].lasts)) {
            fired = jobs_fail_at();
            CHECK(trying.n < N_MAX);
            if (trying.n % RESTART_EVERY != 1)
                continue;
            close_all();
            before = before != 0 ? before : arena_budget_used();
            CHECK(arena_budget_used() == before);
            open_all();
        }
    }
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_jobs, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
