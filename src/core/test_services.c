/* test_services.c - limits, caches, events, metrics, jobs and streams, each at its bounds. Nothing here sleeps: time
 * is a parameter, and what happens on other threads is waited for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "core/activity.h"
#include "core/app.h"
#include "core/bus.h"
#include "core/cache.h"
#include "core/events_parts.h"
#include "core/jobs.h"
#include "core/sinks.h"
#include "core/limit.h"
#include "core/metrics.h"
#include "core/nodes.h"
#include "core/pipeline.h"
#include "core/stream.h"
#include "db/test_store.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- limits ---- */

static void test_limit_burst_and_refill(void **state)
{
    i64 wait = -1, now = 1000 * SECOND_US;
    limit_free();
    for (int i = 0; i < 5; i++)
        assert_int_equal(limit_take(S("a"), 1, 5, now, &wait), OK);
    assert_int_equal(wait, -1);
    assert_int_equal(limit_take(S("a"), 1, 5, now, &wait), ERR_LIMIT);
    assert_in_range(wait, 1000, 1001);
    assert_int_equal(limit_take(S("b"), 1, 5, now, &wait), OK);
    assert_int_equal(limit_take(S("a"), 1, 5, now + SECOND_US - 1, &wait), ERR_LIMIT);
    assert_int_equal(limit_take(S("a"), 1, 5, now + SECOND_US, &wait), OK);
    assert_int_equal(limit_take(S("a"), 1, 5, now + SECOND_US, &wait), ERR_LIMIT);
}

static void test_limits_of_plans(void **state)
{
    static const char *const wrong[] = {
        "free", "free=1", "free=0/1", "free=1/0", "free=1/86401", "=1/1", "a=1/1,b=x/1"
    };
    struct arena *a = arena_new(MIB);
    struct buf b = { .arena = a };
    assert_int_equal(limit_plans_set(a, S("")), OK);
    assert_false(limit_plans_any());
    for (int n = 1; n <= LIMIT_PLANS_MAX + 1; n++) {
        buf_f(&b, " plan%d=10/60 ,", n);
        assert_int_equal(limit_plans_set(a, buf_view(&b)), n <= LIMIT_PLANS_MAX ? OK : ERR_INVALID);
    }
    for (size_t i = 0; i < COUNT(wrong); i++)
        if (limit_plans_set(a, str_of(wrong[i])) != ERR_INVALID || limit_plans_any())
            fail_msg("%s must be refused", wrong[i]);
    assert_int_equal(limit_plans_set(a, S("free=2/10")), OK);
    struct request_core *c = NEW(a, struct request_core);
    assert_non_null(c);
    c->rq = (struct req){
        .arena = a, .core = c, .now_us = 1000 * SECOND_US, .who = { .tenant_id = S("t1"), .plan = S("free") }
    };
    for (int left = 1; left >= 0; left--) {
        assert_int_equal(limit_caller(&c->rq), OK);
        assert_int_equal(c->told.left, left);
    }
    assert_int_equal(limit_caller(&c->rq), ERR_LIMIT);
    assert_int_equal(c->told.left, 0);
    assert_true(c->told.reset_s >= 5 && c->told.reset_s <= 6);
    c->rq.now_us += 5 * SECOND_US;
    assert_int_equal(limit_caller(&c->rq), OK);
    c->rq.who.plan = S("team");
    assert_int_equal(limit_caller(&c->rq), OK);
    assert_int_equal(limit_plans_set(a, S("")), OK);
    limit_free();
    arena_free(a);
}

static void test_limit_time_going_back_adds_nothing(void **state)
{
    i64 wait;
    limit_free();
    assert_int_equal(limit_take(S("a"), 1, 1, 10 * SECOND_US, &wait), OK);
    assert_int_equal(limit_take(S("a"), 1, 1, 1 * SECOND_US, &wait), ERR_LIMIT);
    assert_int_equal(limit_take(S("a"), 1, 1, 10 * SECOND_US + 1, &wait), ERR_LIMIT);
}

static void test_limit_without_refill(void **state)
{
    i64 wait = 0;
    limit_free();
    assert_int_equal(limit_take(S("a"), 0, 1, 0, &wait), OK);
    assert_int_equal(limit_take(S("a"), 0, 1, DAY_US, &wait), ERR_LIMIT);
    assert_true(wait >= DAY_US / 1000);
}

/* Spent keys are remembered while there is room, and the stalest are forgotten first. */
static void test_limit_forgets_the_stalest(void **state)
{
    i64 wait, remembered = 0;
    char key[32];
    limit_free();
    for (int i = 0; i < 70000; i++) {
        int n = snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(limit_take((str){ key, (size_t)n }, 0, 1, i, &wait), OK);
    }
    for (int i = 69999; i >= 60000; i--) {
        int n = snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(limit_take((str){ key, (size_t)n }, 0, 1, 70000, &wait), ERR_LIMIT);
    }
    for (int i = 0; i < 100; i++) {
        int n = snprintf(key, sizeof key, "key-%d", i);
        remembered += limit_take((str){ key, (size_t)n }, 0, 1, 70000, &wait) == ERR_LIMIT;
    }
    assert_int_equal(remembered, 0);
    limit_free();
}

/* ---- cache ---- */

static int freed; /* arenas of entries that ended */

static void count_freed(void *arg)
{
    freed++;
}

static const char *put(struct cache *c, str key, u64 epoch, i64 now_us)
{
    struct arena *owner = arena_new(64 * KIB);
    assert_non_null(owner);
    assert_true(arena_defer(owner, count_freed, NULL));
    const char *text = str_z(owner, key);
    assert_non_null(text);
    cache_put(c, key, text, owner, epoch, now_us);
    return text;
}

static void test_cache_finds_and_forgets(void **state)
{
    struct cache c = { .name = "test", .capacity = 4 };
    freed = 0;
    assert_null(cache_get(&c, S("a"), 0));
    put(&c, S("a"), cache_epoch(&c), 0);
    assert_string_equal(cache_get(&c, S("a"), 0), "a");
    assert_int_equal(atomic_load(&c.hits), 1);
    assert_int_equal(atomic_load(&c.misses), 1);
    cache_forget(&c);
    assert_null(cache_get(&c, S("a"), 0));
    assert_int_equal(freed, 0); /* a look-up frees nothing */
    put(&c, S("a"), cache_epoch(&c), 0);
    assert_int_equal(freed, 1);
    cache_thread_end();
    assert_int_equal(freed, 2);
}

static void test_cache_never_believes_a_raced_read(void **state)
{
    struct cache c = { .name = "test", .capacity = 4 };
    freed = 0;
    u64 before = cache_epoch(&c);
    cache_forget(&c); /* a write commits while we read */
    const char *text = put(&c, S("a"), before, 0);
    assert_null(cache_get(&c, S("a"), 0));
    assert_string_equal(text, "a"); /* but the reader may use what it read */
    assert_int_equal(freed, 0);
    put(&c, S("b"), cache_epoch(&c), 0);
    assert_int_equal(freed, 1);
    cache_thread_end();
    assert_int_equal(freed, 2);
}

static void test_cache_life(void **state)
{
    struct cache c = { .name = "test", .capacity = 4, .life_us = 100 };
    put(&c, S("a"), cache_epoch(&c), 1000);
    assert_non_null(cache_get(&c, S("a"), 1099));
    assert_null(cache_get(&c, S("a"), 1100));
    cache_thread_end();
}

static void test_cache_capacity_and_order(void **state)
{
    struct cache c = { .name = "test", .capacity = 3 };
    freed = 0;
    put(&c, S("a"), 0, 0);
    put(&c, S("b"), 0, 0);
    put(&c, S("c"), 0, 0);
    assert_int_equal(freed, 0);
    assert_non_null(cache_get(&c, S("a"), 0)); /* so b was used longest ago */
    put(&c, S("d"), 0, 0);
    assert_int_equal(freed, 1);
    assert_null(cache_get(&c, S("b"), 0));
    assert_non_null(cache_get(&c, S("a"), 0));
    assert_non_null(cache_get(&c, S("c"), 0));
    assert_non_null(cache_get(&c, S("d"), 0));
    cache_thread_end();
    assert_int_equal(freed, 4);
}

static void test_cache_keep(void **state)
{
    struct cache c = { .name = "test", .capacity = 1 };
    struct arena *a = arena_new(64 * KIB);
    freed = 0;
    put(&c, S("a"), 0, 0);
    const char *text = cache_get(&c, S("a"), 0);
    assert_int_equal(cache_keep(&c, S("a"), a), OK);
    assert_int_equal(cache_keep(&c, S("x"), a), ERR_NOT_FOUND);
    put(&c, S("b"), 0, 0);
    assert_int_equal(freed, 0);
    assert_string_equal(text, "a");
    arena_free(a);
    assert_int_equal(freed, 1);
    cache_thread_end();
}

static void test_cache_survives_every_allocation_failure(void **state)
{
    for (i64 n = 1;; n++) {
        struct cache c = { .name = "test", .capacity = 2 };
        struct arena *owner = arena_new(64 * KIB);
        freed = 0;
        assert_true(arena_defer(owner, count_freed, NULL));
        fault_arm(FAULT_ALLOC, n);
        cache_put(&c, S("a"), owner, owner, 0, 0);
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_int_equal(freed, 0);
        assert_true(fired || cache_get(&c, S("a"), 0) == owner);
        cache_thread_end();
        assert_int_equal(freed, 1);
        if (!fired)
            break;
    }
}

/* ---- metrics ---- */

METRIC(hits, "test_hits_total", METRIC_COUNTER, "Line one\nand \\ two", .series_max = 2);
METRIC(load, "test_load", METRIC_GAUGE, "A gauge");
METRIC(took, "test_took_seconds", METRIC_HISTOGRAM, "A histogram");
static i64 three(void)
{
    return 3;
}
static i64 unknown(void)
{
    return METRIC_UNKNOWN;
}
METRIC(asked, "test_asked", METRIC_GAUGE, "Asked", .read = three, .scale = 0.5);
METRIC(family_a, "test_family", METRIC_GAUGE, "Of several", .read = three, .labels = "of=\"a\"");
METRIC(between, "test_between", METRIC_GAUGE, "Not known now", .read = unknown);
METRIC(family_b, "test_family", METRIC_GAUGE, "Of several", .read = three, .labels = "of=\"b\"");

static void assert_holds(const struct buf *b, const char *line)
{
    if (str_find(buf_view(b), str_of(line), 0) < 0)
        fail_msg("missing: %s\nin: %.*s", line, STR_FMT(buf_view(b)));
}

static void test_metrics_exposition(void **state)
{
    metric_add(&hits, "kind=\"a\"", 2);
    metric_add(&hits, "kind=\"b\"", 1);
    metric_add(&hits, "kind=\"c\"", 4); /* above series_max */
    metric_add(&hits, "kind=\"d\"", 5);
    metric_set(&load, "", -7);
    struct metric_series *s = metric_of(&took, "route=\"/x\"");
    metric_observe_us(s, 500);
    metric_observe_us(s, 501);
    metric_observe_us(s, 11 * SECOND_US);
    metric_observe_us(s, -5);
    assert_ptr_equal(metric_of(&took, "route=\"/x\""), s);
    struct buf b = { 0 };
    metrics_write(&b);
    assert_int_equal(b.fail, OK);
    assert_holds(&b,
                 "# HELP test_hits_total Line one\\nand \\\\ two\n# TYPE test_hits_total counter\n"
                 "test_hits_total{kind=\"a\"} 2\ntest_hits_total{kind=\"b\"} 1\ntest_hits_total{kind=\"other\"} 9\n");
    assert_holds(&b, "# TYPE test_load gauge\ntest_load -7\n");
    assert_holds(&b, "# TYPE test_asked gauge\ntest_asked 1.5\n");
    assert_holds(&b, "# HELP test_family Of several\n# TYPE test_family gauge\ntest_family{of=\"");
    assert_holds(&b, "} 3\ntest_family{of=\""); /* in the linker's order, one behind the other */
    assert_holds(&b, "# TYPE test_between gauge\n");
    assert_int_equal(str_find(buf_view(&b), S("\ntest_between"), 0), -1);
    const char *family = "# HELP test_family";
    i64 first = str_find(buf_view(&b), str_of(family), 0);
    assert_int_equal(str_find(buf_view(&b), str_of(family), (size_t)first + 1), -1);
    assert_holds(&b, "# TYPE test_took_seconds histogram\ntest_took_seconds_bucket{route=\"/x\",le=\"0.0005\"} 2\n"
                     "test_took_seconds_bucket{route=\"/x\",le=\"0.001\"} 3\n");
    assert_holds(
        &b, "test_took_seconds_bucket{route=\"/x\",le=\"10\"} 3\ntest_took_seconds_bucket{route=\"/x\",le=\"+Inf\"} 4\n"
            "test_took_seconds_sum{route=\"/x\"} 11.001001\ntest_took_seconds_count{route=\"/x\"} 4\n");
    buf_free(&b);
}

static void test_metrics_refuse_labels_that_do_not_fit(void **state)
{
    static struct metric m = { .name = "x", .help = "x", .kind = METRIC_COUNTER, .series_max = 8 };
    char labels[400];
    for (size_t n = 158; n <= 161; n++) { /* 159 bytes and the NUL fit */
        memset(labels, 'v', sizeof labels);
        memcpy(labels, "a=\"", 3);
        memcpy(labels + n - 1, "\"", 2);
        assert_string_equal(metric_of(&m, labels)->labels, n <= 159 ? labels : "a=\"other\"");
    }
    assert_string_equal(metric_of(&m, "a=\"x\ny\",b=\"\\\"q\\\"\"")->labels, "a=\"other\",b=\"other\"");
    assert_int_equal(atomic_load(&m.series_count), 4);
}

/* ---- events ---- */

static struct {
    struct loop *loop;
    struct subscription *first, *second;
    struct message go;
    u32 count, got, lost, second_got;
    char last[64];
} ev;

static void publish(const char *key, const char *name)
{
    struct event e = { .topic = "test", .key = str_of(key), .name = str_of(name), .data = S("{}") };
    events_publish(&e);
}

static void on_event(void *ctx, const struct event *e)
{
    if (e == NULL) {
        ev.lost++;
        publish("k", "end");
        return;
    }
    if (str_eq(e->name, S("end"))) {
        loop_stop(ev.loop);
        return;
    }
    ev.got++;
    snprintf(ev.last, sizeof ev.last, "%.*s", STR_FMT(e->name));
}

static void on_second(void *ctx, const struct event *e)
{
    ev.second_got++;
    events_unsubscribe(ev.second);
}

static void flood(struct message *m)
{
    ev.first = events_subscribe("test", S("k"), on_event, NULL);
    ev.second = events_subscribe("test", S("k"), on_second, NULL);
    assert_non_null(ev.first);
    assert_true(events_wanted("test", S("k")));
    assert_false(events_wanted("test", S("other")));
    publish("other", "not mine");
    for (u32 i = 0; i < ev.count; i++)
        publish("k", i + 1 < ev.count ? "middle" : "last");
    if (ev.count < 1025)
        publish("k", "end");
}

static void run_flood(u32 count)
{
    memset(&ev, 0, sizeof ev);
    ev.count = count;
    ev.loop = loop_new(0);
    ev.go.run = flood;
    loop_post(ev.loop, &ev.go);
    loop_run(ev.loop);
    events_unsubscribe(ev.first);
    assert_false(events_wanted("test", S("k")));
    loop_free(ev.loop);
    assert_int_equal(ev.second_got, 1); /* nothing after unsubscribing, though more was under way */
}

static void test_events_arrive_in_order(void **state)
{
    run_flood(3);
    assert_int_equal(ev.got, 3);
    assert_int_equal(ev.lost, 0);
    assert_string_equal(ev.last, "last");
}

static void test_events_bound(void **state)
{
    run_flood(1023);
    assert_int_equal(ev.got, 1023);
    assert_int_equal(ev.lost, 0);
    run_flood(1024); /* "end" is one too many */
    assert_int_equal(ev.got, 1024);
    assert_int_equal(ev.lost, 1);
    run_flood(1025);
    assert_int_equal(ev.got, 1024);
    assert_int_equal(ev.lost, 1);
    assert_string_equal(ev.last, "middle");
}

/* ---- jobs ---- */

static struct test_store place;
static bool on_postgres;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    int simple, flaky, broken, periodic, closed, held;
    bool release;
    char payload[64];
} ran;

static void bump(int *counter)
{
    pthread_mutex_lock(&lock);
    (*counter)++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_until(const int *counter, int at_least)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&lock);
    int rc = 0;
    while (*counter < at_least && rc == 0)
        rc = pthread_cond_timedwait(&changed, &lock, &until);
    pthread_mutex_unlock(&lock);
    assert_int_equal(rc, 0);
}

static err run_simple(const struct job *job)
{
    snprintf(ran.payload, sizeof ran.payload, "%.*s %.*s", STR_FMT(job->tenant_id), STR_FMT(job->payload));
    bump(&ran.simple);
    return OK;
}

static err run_flaky(const struct job *job)
{
    bump(&ran.flaky);
    return job->attempt < 2 ? ERR_BUSY : OK;
}

static err run_broken(const struct job *job)
{
    bump(&ran.broken);
    return ERR_INVALID;
}

/* Runs until it is let go. */
static err run_held(const struct job *job)
{
    bump(&ran.held);
    pthread_mutex_lock(&lock);
    while (!ran.release)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return OK;
}

static err run_periodic(const struct job *job)
{
    bump(&ran.periodic);
    return OK;
}

static const struct job_kind kinds[] = {
    { .name = "test.simple", .run = run_simple, .doc = "x" },
    { .name = "test.flaky", .run = run_flaky, .doc = "x" },
    { .name = "test.broken", .run = run_broken, .doc = "x" },
    { .name = "test.held", .run = run_held, .doc = "x" },
    { .name = "test.periodic", .run = run_periodic, .every_us = HOUR_US, .doc = "x" },
};

struct job_row {
    struct presence has;
    i64 n;
    str status, last_error;
};
static const struct field job_fields[] = {
    FIELD(struct job_row, n, F_I64, .doc = "x"),
    FIELD(struct job_row, status, F_STR, .doc = "x"),
    FIELD(struct job_row, last_error, F_STR, .doc = "x"),
};
static const struct table job_table = TABLE("JobRow", struct job_row, job_fields);
STMT(count_jobs, "SELECT count(*) AS n, max(status) AS status, max(last_error) AS last_error FROM jobs WHERE kind = $1",
     .row = &job_table, .scope = SCOPE_SYSTEM, .scan_ok = true);

struct enqueue {
    const char *kind;
    i64 delay_us;
    bool fails;
};

static err enqueue_run(void *ctx, struct tx *tx)
{
    const struct enqueue *e = ctx;
    TRY(jobs_enqueue(tx, db_arena(tx), clock_now_us(), e->kind, S("tenant"), S("{\"a\":1}"), e->delay_us));
    return e->fails ? ERR_CONFLICT : OK;
}

static err enqueue(const char *kind, i64 delay_us, bool fails)
{
    struct arena *a = arena_new(MIB);
    struct enqueue e = { kind, delay_us, fails };
    err outcome = db_write_wait(app.db, a, enqueue_run, &e);
    arena_free(a);
    return outcome;
}

/* Through the writer, so that it comes behind what was queued before. */
struct look {
    const char *kind;
    i64 n;
    char status[16], last_error[80];
};

static err look_run(void *ctx, struct tx *tx)
{
    struct look *l = ctx;
    struct job_row row = { 0 };
    TRY(db_row(tx, &count_jobs, &row, ARGS(STR(str_of(l->kind)))));
    l->n = row.n;
    snprintf(l->status, sizeof l->status, "%.*s", STR_FMT(row.status));
    snprintf(l->last_error, sizeof l->last_error, "%.*s", STR_FMT(row.last_error));
    return OK;
}

static struct look look(const char *kind)
{
    struct look l = { .kind = kind };
    struct arena *a = arena_new(MIB);
    assert_int_equal(db_write_wait(app.db, a, look_run, &l), OK);
    arena_free(a);
    return l;
}

static int open_store(void **state)
{
    memset(&ran, 0, sizeof ran);
    assert_int_equal(test_store_make(&place, on_postgres), 0);
    struct db_options options = test_store_options(&place);
    struct buf none = { 0 };
    app.config.slow_threads = 4;
    app.config.lease_s = 3;
    app.config.role = S("all");
    app.config.secret_key = app.config.jwt_secret = S("0123456789abcdef0123456789abcde1");
    assert_int_equal(db_open(&options, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    app.slow = pool_new("slow", 2, 16);
    assert_non_null(app.slow);
    assert_int_equal(nodes_start(&none), OK);
    return 0;
}

/* Also the bus of a test that failed, which may use the database. */
static int close_store(void **state)
{
    bus_deafen();
    jobs_stop();
    bus_stop();
    pool_free(app.slow);
    nodes_stop();
    if (app.db != NULL)
        db_thread_end(app.db);
    db_close(app.db);
    app.slow = NULL;
    app.db = NULL;
    test_store_remove(&place);
    return 0;
}

static void test_jobs_run_once_and_go(void **state)
{
    assert_int_equal(jobs_start(), OK);
    assert_int_equal(enqueue("test.simple", 0, false), OK);
    wait_until(&ran.simple, 1);
    assert_string_equal(ran.payload, "tenant {\"a\":1}");
    assert_int_equal(enqueue("test.simple", HOUR_US, false), OK);
    assert_int_equal(enqueue("test.unknown", 0, false), ERR_INTERNAL);
    assert_int_equal(enqueue("test.simple", 0, true), ERR_CONFLICT); /* rolled back: never runs */
    wait_until(&ran.periodic, 1);
    jobs_stop();
    pool_free(app.slow); /* what ran has written its outcome */
    app.slow = NULL;
    assert_int_equal(ran.simple, 1);
    assert_int_equal(look("test.simple").n, 1); /* the delayed one */
    struct look periodic = look("test.periodic");
    assert_int_equal(periodic.n, 1);
    assert_string_equal(periodic.status, "queued");
}

static void test_jobs_try_again_or_die(void **state)
{
    assert_int_equal(jobs_start(), OK);
    assert_int_equal(enqueue("test.flaky", 0, false), OK);
    assert_int_equal(enqueue("test.broken", 0, false), OK);
    wait_until(&ran.flaky, 2);
    wait_until(&ran.broken, 1);
    jobs_stop();
    pool_free(app.slow);
    app.slow = NULL;
    assert_int_equal(ran.broken, 1); /* what cannot succeed later is not tried later */
    assert_int_equal(look("test.flaky").n, 0);
    struct look broken = look("test.broken");
    assert_int_equal(broken.n, 1);
    assert_string_equal(broken.status, "dead");
    assert_string_equal(broken.last_error, err_text(ERR_INVALID));
}

static void test_jobs_survive_a_restart(void **state)
{
    assert_int_equal(enqueue("test.simple", 0, false), OK);
    assert_int_equal(jobs_start(), OK);
    wait_until(&ran.simple, 1);
    wait_until(&ran.periodic, 1);
    jobs_stop();
    assert_int_equal(jobs_start(), OK); /* one row of each periodic kind, also the second time */
    assert_int_equal(enqueue("test.simple", 0, false), OK);
    wait_until(&ran.simple, 2);
    jobs_stop();
    assert_int_equal(look("test.periodic").n, 1);
}

/* ---- jobs of which there is one ---- */

struct once {
    str key;
    bool added;
};

static err once_run(void *ctx, struct tx *tx)
{
    struct once *o = ctx;
    return jobs_enqueue_once(tx, db_arena(tx), clock_now_us(), "test.held", o->key, STR_NONE, STR_NONE, 0, &o->added);
}

static err once(str key, bool *added)
{
    struct arena *a = arena_new(MIB);
    struct once o = { .key = key };
    err e = db_write_wait(app.db, a, once_run, &o);
    *added = o.added;
    arena_free(a);
    return e;
}

static void let_go(bool go)
{
    pthread_mutex_lock(&lock);
    ran.release = go;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_until_gone(const char *kind)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (look(kind).n > 0)
        assert_true(clock_mono_us() < until);
}

/* While it waits, while it runs, and again when it is done; another key is another job. */
static void test_jobs_once(void **state)
{
    char text[JOB_KEY_MAX + 1];
    bool added;
    memset(text, 'k', sizeof text);
    assert_int_equal(once(S("a"), &added), OK);
    assert_true(added);
    assert_int_equal(once(S("a"), &added), OK);
    assert_false(added);
    assert_int_equal(jobs_start(), OK);
    wait_until(&ran.held, 1);
    assert_int_equal(once(S("a"), &added), OK);
    assert_false(added);
    assert_int_equal(once(S("b"), &added), OK);
    assert_true(added);
    let_go(true);
    wait_until_gone("test.held");
    assert_int_equal(ran.held, 2);
    assert_int_equal(once(S("a"), &added), OK);
    assert_true(added);
    assert_int_equal(once((str){ text, JOB_KEY_MAX }, &added), OK);
    assert_int_equal(once((str){ text, JOB_KEY_MAX + 1 }, &added), ERR_TOO_LARGE);
    wait_until_gone("test.held");
    jobs_stop();
}

/* ---- jobs of other nodes: PostgreSQL ---- */

static void admin(const char *sql)
{
    assert_int_equal(test_store_admin(place.database, sql), 0);
}

#define OTHER_NODE                                                                  \
    "INSERT INTO nodes (id, role, version, host, started_at, beat_at, lease_until)" \
    " VALUES ('other', 'all', '9', 'h', 1, 1, extract(epoch FROM now()) * 1000000 + 1000 * 1000000::bigint);"
#define ITS_JOB(id, kind, periodic)                                                                                      \
    "INSERT INTO jobs (id, kind, payload, status, periodic, attempt, timeout_us, due_at, created_at, updated_at, owner)" \
    " SELECT '" id "', '" kind "', '{}', 'running', " periodic                                                           \
    ", 1, 1000000, 0, 0, 0, incarnation FROM nodes WHERE id = 'other';"

/* However late it is; until its node has gone. */
static void test_a_job_of_a_living_node_is_left_alone(void **state)
{
    admin(OTHER_NODE ITS_JOB("job_1", "test.simple", "0") ITS_JOB("job_2", "test.periodic", "1"));
    assert_int_equal(jobs_start(), OK);
    assert_int_equal(enqueue("test.simple", 0, false), OK);
    wait_until(&ran.simple, 1);
    assert_string_equal(look("test.periodic").status, "running");
    assert_int_equal(ran.periodic, 0);
    admin("UPDATE nodes SET lease_until = 0 WHERE id = 'other'");
    wait_until(&ran.simple, 2);
    wait_until(&ran.periodic, 1);
}

static void test_what_a_dead_node_ran_is_taken_over_at_start(void **state)
{
    admin(OTHER_NODE ITS_JOB("job_1", "test.simple", "0") "DELETE FROM nodes WHERE id = 'other'");
    assert_int_equal(jobs_start(), OK);
    wait_until(&ran.simple, 1);
}

/* We were thought dead, and somebody else has it now, with the same attempt even. */
static void test_an_outcome_of_a_former_owner_is_void(void **state)
{
    bool added;
    let_go(false);
    assert_int_equal(once(S("a"), &added), OK);
    assert_int_equal(jobs_start(), OK);
    wait_until(&ran.held, 1);
    admin("UPDATE jobs SET owner = owner + 1 WHERE kind = 'test.held'");
    let_go(true);
    jobs_stop();
    pool_free(app.slow);
    app.slow = NULL;
    assert_string_equal(look("test.held").status, "running");
}

/* An API node runs none, and one whose lease is not sure claims none. */
static void test_who_may_not_claim_does_not(void **state)
{
    app.config.role = S("api");
    assert_int_equal(jobs_start(), OK);
    assert_int_equal(look("test.periodic").n, 0);
    app.config.role = S("all");
    nodes_stop();
    assert_int_equal(enqueue("test.simple", 0, false), OK);
    assert_int_equal(jobs_start(), OK);
    jobs_stop();
    assert_string_equal(look("test.simple").status, "queued");
    assert_int_equal(ran.simple, 0);
}

/* ---- caches, where there are other nodes ---- */

CACHE(shared_cache, "test.shared", .capacity = 4);
CACHE(constant_cache, "test.constant", .capacity = 4, .constant = true);

static void put_both(void)
{
    put(&shared_cache, S("a"), cache_epoch(&shared_cache), 0);
    put(&constant_cache, S("a"), cache_epoch(&constant_cache), 0);
}

/* A message may get lost, so nothing that can change is believed for a second. */
static void test_shared_caches_live_short(void **state)
{
    i64 from_us = clock_mono_us();
    put_both();
    for (i64 asked_us = from_us; cache_get(&shared_cache, S("a"), 0) != NULL; asked_us = clock_mono_us())
        assert_true(asked_us - from_us < SECOND_US);
    assert_true(clock_mono_us() - from_us >= CACHE_SHARED_LIFE_MS * 1000);
    assert_non_null(cache_get(&constant_cache, S("a"), 0));
    cache_thread_end();
}

/* What took long to read is as old as its reading. */
static void test_shared_caches_count_from_before_the_read(void **state)
{
    u64 epoch = cache_epoch(&shared_cache);
    i64 from_us = clock_mono_us();
    while (clock_mono_us() - from_us < CACHE_SHARED_LIFE_MS * 1000)
        sched_yield();
    put(&shared_cache, S("slow"), epoch, 0);
    assert_null(cache_get(&shared_cache, S("slow"), 0));
    cache_thread_end();
}

static void wait_for_epoch_after(u64 before)
{
    i64 until = clock_mono_us() + 20 * SECOND_US;
    while (cache_epoch(&shared_cache) == before)
        assert_true(clock_mono_us() < until);
}

static void test_other_nodes_make_forget(void **state)
{
    u64 before = cache_epoch(&shared_cache);
    assert_int_equal(bus_start(), OK);
    wait_for_epoch_after(before); /* it listens */
    before = cache_epoch(&shared_cache);
    admin("NOTIFY weir, E'999 1\\ncaches 10 test.other\\ncaches 11 test.shared\\n'");
    wait_for_epoch_after(before);
    before = cache_epoch(&shared_cache);
    admin("NOTIFY weir, E'999 2\\ncaches 1 *\\n'");
    wait_for_epoch_after(before);
}

/* ---- events, where there are other nodes ---- */

/* What this node says, as another one hears it: by a transport of the test's, which nothing delays and nothing interrupts. */
static struct {
    char text[16 << 10];
    size_t n;
} said;

static bool yes(void)
{
    return true;
}

static err start_nothing(void)
{
    return OK;
}

static void stop_nothing(void) {}

static err say(str packet)
{
    pthread_mutex_lock(&lock);
    bool fits = said.n + packet.n < sizeof said.text;
    if (fits) {
        memcpy(said.text + said.n, packet.p, packet.n);
        said.n += packet.n;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return fits ? OK : ERR_TOO_LARGE;
}

static const struct bus_transport air = {
    .name = "air", .wanted = yes, .others = yes, .start = start_nothing, .stop = stop_nothing, .up = yes, .send = say
};

static void wait_until_said(const char *part)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&lock);
    for (int rc = 0; rc == 0 && strstr(said.text, part) == NULL;)
        rc = pthread_cond_timedwait(&changed, &lock, &until);
    bool was = strstr(said.text, part) != NULL;
    pthread_mutex_unlock(&lock);
    if (!was)
        fail_msg("%s was not said, but\n%s", part, said.text);
}

/* What node 999 says, its n-th packet. */
static void hear(int n, const char *text)
{
    char packet[300];
    int bytes = snprintf(packet, sizeof packet, "999 %d\nevents %zu %s\n", n, strlen(text), text);
    bus_heard(&air, (str){ packet, (size_t)bytes });
}

static struct {
    struct loop *loop;
    struct message go;
    struct subscription *sub;
    char got[200];
    int lost;
} far;

static void on_far(void *ctx, const struct event *e)
{
    if (e == NULL) {
        bump(&far.lost);
        return;
    }
    snprintf(far.got, sizeof far.got, "%s %.*s %.*s %.*s %.*s %.*s", e->topic, STR_FMT(e->key), STR_FMT(e->tenant_id),
             STR_FMT(e->name), STR_FMT(e->id), STR_FMT(e->data));
    events_unsubscribe(far.sub);
    loop_stop(far.loop);
}

static void subscribe_far(struct message *m)
{
    far.sub = events_subscribe("test", S("far"), on_far, NULL);
    assert_non_null(far.sub);
}

static void *far_loop(void *ctx)
{
    loop_run(far.loop);
    return NULL;
}

static void test_events_between_nodes(void **state)
{
    static const struct bus_transport *const transports[] = { &air, NULL };
    pthread_t thread;
    static char large[BUS_TEXT_MAX];
    memset(&said, 0, sizeof said);
    memset(&far, 0, sizeof far);
    memset(large, 'x', sizeof large);
    assert_int_equal(bus_start_with(transports), OK);
    far.loop = loop_new(0);
    far.go.run = subscribe_far;
    loop_post(far.loop, &far.go);
    assert_int_equal(pthread_create(&thread, NULL, far_loop, NULL), 0);
    wait_until_said("want\ntest\nfar\n");
    hear(1, "got\ntest\nfar");
    wait_until(&far.lost, 1); /* who is to look for itself is told nothing meanwhile */
    hear(2, "event\ntest\nother\nt\nname\n6\n{}");
    hear(3, "event\ntest\nfar\nt\nname\n7\n{\"a\":\n1}");
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(far.got, "test far t name 7 {\"a\":\n1}");
    assert_int_equal(far.lost, 1);
    loop_free(far.loop);
    assert_false(events_wanted("test", S("near")));
    hear(4, "want\ntest\nnear");
    wait_until_said("got\ntest\nnear\n");
    assert_true(events_wanted("test", S("near")));
    publish("unwanted", "x");
    publish("near", "first");
    events_publish(&(struct event){ .topic = "test", .key = S("near"), .data = { large, sizeof large } });
    publish("near", "second");
    wait_until_said("event\ntest\nnear\n\nsecond\n\n{}");
    assert_non_null(strstr(said.text, "event\ntest\nnear\n\nfirst\n\n{}"));
    assert_non_null(strstr(said.text, "lost\ntest\nnear"));
    assert_null(strstr(said.text, "unwanted"));
    hear(5, "want\ntest\nnear");
    hear(6, "want\ntest\nlast");
    wait_until_said("got\ntest\nlast\n");
    assert_null(strstr(strstr(said.text, "got\ntest\nnear") + 1, "got\ntest\nnear")); /* it was known */
    events_end();
    assert_false(events_wanted("test", S("near")));
}

/* ---- sinks ---- */

static struct {
    char durable[256], loose[8192];
    int durables, looses, tries;
    bool hold;
} told;

static err take_durable(const struct happening *h, struct arena *a)
{
    if (told.tries++ == 0)
        return ERR_BUSY; /* is tried again */
    snprintf(told.durable, sizeof told.durable, "%s %.*s %.*s %.*s %lld", h->name, STR_FMT(h->tenant_id),
             STR_FMT(h->object_id), STR_FMT(h->data), (long long)h->at_us);
    bump(&told.durables);
    return OK;
}

static err take_loose(const struct happening *h, struct arena *a)
{
    pthread_mutex_lock(&lock);
    while (told.hold)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    size_t n = strlen(told.loose);
    snprintf(told.loose + n, sizeof told.loose - n, "%.*s;", STR_FMT(h->object_id));
    bump(&told.looses);
    return OK;
}
SINK(durable_sink, .name = "durable", .events = "thing.made", .durable = true, .take = take_durable);
SINK(loose_sink, .name = "loose", .events = "thing.", .take = take_loose);

static const struct happening made = { .name = "thing.made",
                                       .tenant_id = S_INIT("tenant"),
                                       .object_id = S_INIT("thing_1"),
                                       .data = S_INIT("{\"n\":1}"),
                                       .at_us = 7 };

static err record_run(void *ctx, struct tx *tx)
{
    TRY(sinks_record(tx, &made));
    return *(const bool *)ctx ? ERR_CONFLICT : OK;
}

static err record(bool fails)
{
    struct arena *a = arena_new(MIB);
    err e = db_write_wait(app.db, a, record_run, &fails);
    arena_free(a);
    return e;
}

/* With the transaction or not at all; found again by a process that comes later. */
static void test_a_durable_sink_is_told(void **state)
{
    memset(&told, 0, sizeof told);
    assert_true(sinks_want("thing.made") && sinks_want("thing.sold") && !sinks_want("other.made"));
    assert_int_equal(record(true), ERR_CONFLICT);
    assert_int_equal(look("sinks.deliver").n, 0);
    assert_int_equal(record(false), OK);
    assert_int_equal(look("sinks.deliver").n, 1);
    assert_int_equal(jobs_start(), OK);
    wait_until(&told.durables, 1);
    wait_until_gone("sinks.deliver");
    assert_string_equal(told.durable, "thing.made tenant thing_1 {\"n\":1} 7");
    assert_int_equal(told.tries, 2);
    assert_int_equal(told.looses, 0);
    jobs_stop();
}

static void tell_number(int n)
{
    char id[16];
    struct happening h = made;
    h.name = "thing.sold";
    h.object_id = (str){ id, (size_t)snprintf(id, sizeof id, "%d", n) };
    sinks_tell(&h);
}

/* In order, and no more than there is room for: one is in the sink's hands, SINK_QUEUE_MAX wait, one is dropped. */
static void test_a_loose_sink_is_told_from_memory(void **state)
{
    memset(&told, 0, sizeof told);
    sinks_tell(&(struct happening){ .name = "other.made" }); /* nobody's */
    for (int n = 0; n < 100; n++)
        tell_number(n);
    wait_until(&told.looses, 100);
    assert_true(str_starts(str_of(told.loose), S("0;1;2;3;")) && str_ends(str_of(told.loose), S(";98;99;")));
    told = (typeof(told)){ .hold = true };
    tell_number(0);
    for (int n = 1; n <= SINK_QUEUE_MAX + 2; n++)
        tell_number(n);
    pthread_mutex_lock(&lock);
    told.hold = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    wait_until(&told.looses, SINK_QUEUE_MAX);
    pool_free(app.slow); /* finishes what is queued */
    app.slow = NULL;
    assert_in_range(told.looses, SINK_QUEUE_MAX, SINK_QUEUE_MAX + 1);
}

static void test_jobs_backoff(void **state)
{
    assert_int_equal(jobs_backoff_us(1, 0), SECOND_US / 2);
    assert_int_equal(jobs_backoff_us(1, (u64)(SECOND_US / 2)), SECOND_US);
    assert_int_equal(jobs_backoff_us(2, 0), SECOND_US);
    assert_int_equal(jobs_backoff_us(12, 0), 1024 * SECOND_US);
    assert_int_equal(jobs_backoff_us(13, 0), HOUR_US / 2);
    assert_int_equal(jobs_backoff_us(1000000, (u64)(HOUR_US / 2)), HOUR_US);
    for (u64 r = 0; r < 1000; r++)
        assert_in_range(jobs_backoff_us(5, r * 7919777), 8 * SECOND_US, 16 * SECOND_US);
}

/* ---- streams ---- */

static struct {
    struct loop *loop;
    struct http_server *server;
    struct stream *stream;
    char *text; /* what the client read */
    size_t n;
    bool leave;
} st;

static void on_closed(void *ctx)
{
    bump(&ran.closed);
}

static err stream_some(struct req *rq)
{
    struct stream *s;
    TRY(stream_begin(rq, on_closed, NULL, &s));
    stream_event(s, S("7"), S("step.completed"), S("a\nb\r\nc\rd"));
    stream_event(s, S("8\n9"), S("x\ry"), S(""));
    stream_end(s);
    return OK;
}

static err stream_open(struct req *rq)
{
    TRY(stream_begin(rq, on_closed, NULL, &st.stream));
    stream_event(st.stream, S("1"), S("first"), S("{}"));
    return OK;
}

/* More than the server and the stream keep for a client that does not read. */
static err stream_flood(struct req *rq)
{
    static char data[64 << 10];
    memset(data, 'x', sizeof data);
    TRY(stream_open(rq));
    for (int i = 0; i < 400; i++)
        stream_event(st.stream, STR_NONE, S("big"), (str){ data, sizeof data });
    return OK;
}

#define STREAM_ROUTE(path, fn)                                                                                 \
    {                                                                                                          \
        ROUTE(GET, path, fn, W_STREAM), .need = &anyone, .flags = R_NO_STORE, .produces = "text/event-stream", \
                                        .doc = "x"                                                             \
    }
static const struct route routes[] = {
    STREAM_ROUTE("/some", stream_some),
    STREAM_ROUTE("/open", stream_open),
    STREAM_ROUTE("/flood", stream_flood),
};
static const struct module test_module = {
    .name = "test", .doc = "x", .routes = routes, .route_count = COUNT(routes), .jobs = kinds, .job_count = COUNT(kinds)
};
const struct module *const modules[] = { &test_module, &sinks_module, NULL };

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(http_port(st.server)) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (struct sockaddr *)&to, sizeof to) == 0 ? fd : -1;
}

static void drained(void *ctx)
{
    loop_stop(st.loop);
}

/* Asks for the path in st.text; then reads to the end, or leaves after the first bytes and waits for `closed`. */
static void *client(void *arg)
{
    char request[128];
    int fd = dial();
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                     (const char *)arg);
    if (fd >= 0 && write(fd, request, (size_t)n) == n) {
        ssize_t got;
        while (st.n < 8000 && (got = read(fd, st.text + st.n, 8000 - st.n)) > 0) {
            st.n += (size_t)got;
            if (st.leave && strstr(st.text, "first") != NULL)
                break;
        }
    }
    if (st.leave && strcmp(arg, "/flood") == 0)
        wait_until(&ran.closed, 1);
    close(fd);
    if (st.leave)
        wait_until(&ran.closed, 1);
    http_drain(st.server, drained, NULL);
    return NULL;
}

static void run_stream(const char *path, bool leave)
{
    static struct listener listener;
    static char text[8192];
    struct http_handler handler = req_handler(&listener);
    pthread_t thread;
    memset(text, 0, sizeof text);
    memset(&ran, 0, sizeof ran);
    st.text = text;
    st.n = 0;
    st.leave = leave;
    st.loop = loop_new(0);
    assert_int_equal(http_listen(&st.loop, 1, S("127.0.0.1"), 0, &http_default_limits, &handler, &st.server), OK);
    assert_int_equal(pthread_create(&thread, NULL, client, (void *)(uintptr_t)path), 0);
    loop_run(st.loop);
    pthread_join(thread, NULL);
    http_free(st.server);
    loop_free(st.loop);
}

static void test_stream_frames(void **state)
{
    run_stream("/some", false);
    assert_non_null(strstr(st.text, "HTTP/1.1 200 "));
    assert_non_null(strstr(st.text, "text/event-stream"));
    assert_non_null(strstr(st.text, "id: 7\nevent: step.completed\ndata: a\ndata: b\ndata: c\ndata: d\n\n"));
    assert_non_null(strstr(st.text, "data: \n\n"));
    assert_null(strstr(st.text, "id: 8")); /* a line break would forge a field */
    assert_int_equal(ran.closed, 0);
}

static void test_stream_ends_when_the_client_leaves(void **state)
{
    run_stream("/open", true);
    assert_non_null(strstr(st.text, "id: 1\nevent: first\ndata: {}\n\n"));
    assert_int_equal(ran.closed, 1);
}

static void test_stream_gives_up_a_client_that_does_not_read(void **state)
{
    run_stream("/flood", true);
    assert_int_equal(ran.closed, 1);
}

/* ---- activity ---- */

static struct {
    u32 calls;
    i64 last_us;
} saved;

static err save_activity(struct tx *tx, str id, i64 last_us)
{
    saved.calls++;
    saved.last_us = last_us;
    return OK;
}
static struct activity activity = { .save = save_activity };

static void test_activity_is_saved_once(void **state)
{
    atomic_store(&activity.flushed_us, 1000 * SECOND_US); /* none by itself within the minute */
    memset(&saved, 0, sizeof saved);
    activity_note(&activity, S("one"), 1000 * SECOND_US);
    activity_note(&activity, S("one"), 1002 * SECOND_US);
    activity_note(&activity, S("one"), 1001 * SECOND_US);
    assert_int_equal(activity_last(&activity, S("one")), 1002 * SECOND_US);
    assert_int_equal(activity_last(&activity, S("two")), 0);
    assert_int_equal(activity_flush(&activity), OK);
    assert_int_equal(saved.calls, 1);
    assert_int_equal(saved.last_us, 1002 * SECOND_US);
    assert_int_equal(activity_flush(&activity), OK);
    assert_int_equal(saved.calls, 1);
}

static void test_activity_is_bounded(void **state)
{
    char id[ACTIVITY_ID_MAX + 2];
    memset(id, 'x', sizeof id);
    atomic_store(&activity.flushed_us, 3000 * SECOND_US);
    activity_note(&activity, (str){ id, ACTIVITY_ID_MAX }, 3000 * SECOND_US);
    activity_note(&activity, (str){ id, ACTIVITY_ID_MAX + 1 }, 3000 * SECOND_US);
    assert_int_equal(activity_last(&activity, (str){ id, ACTIVITY_ID_MAX }), 3000 * SECOND_US);
    assert_int_equal(activity_last(&activity, (str){ id, ACTIVITY_ID_MAX + 1 }), 0);
    assert_int_equal(activity_last(&activity, S("")), 0);
    for (u32 i = 0; i < 2 * ACTIVITY_SETS * ACTIVITY_WAYS; i++) {
        int n = snprintf(id, sizeof id, "many-%u", i);
        activity_note(&activity, (str){ id, (size_t)n }, 3001 * SECOND_US + i);
    }
    memset(&saved, 0, sizeof saved);
    assert_int_equal(activity_flush(&activity), OK);
    assert_in_range(saved.calls, ACTIVITY_SETS, ACTIVITY_SETS * ACTIVITY_WAYS);
    assert_true(activity_last(&activity, (str){ id, strlen(id) }) > 0);
}

static int build_routes(void **state)
{
    log_setup(LOG_OFF, LOG_ERROR);
    app.arena = arena_new(64 * MIB);
    return app.arena != NULL && routes_build() == OK ? 0 : -1;
}

static int end(void **state)
{
    arena_free(app.arena);
    return 0;
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, open_store, close_store)

int main(int argc, char **argv)
{
    on_postgres = test_store_on_postgres(argc, argv);
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits_of_plans),
        cmocka_unit_test(test_limit_burst_and_refill),
        cmocka_unit_test(test_limit_time_going_back_adds_nothing),
        cmocka_unit_test(test_limit_without_refill),
        cmocka_unit_test(test_limit_forgets_the_stalest),
        cmocka_unit_test(test_cache_finds_and_forgets),
        cmocka_unit_test(test_cache_never_believes_a_raced_read),
        cmocka_unit_test(test_cache_life),
        cmocka_unit_test(test_cache_capacity_and_order),
        cmocka_unit_test(test_cache_keep),
        cmocka_unit_test(test_cache_survives_every_allocation_failure),
        cmocka_unit_test(test_metrics_exposition),
        cmocka_unit_test(test_metrics_refuse_labels_that_do_not_fit),
        cmocka_unit_test(test_events_arrive_in_order),
        cmocka_unit_test(test_events_bound),
        WITH_STORE(test_jobs_run_once_and_go),
        WITH_STORE(test_jobs_try_again_or_die),
        WITH_STORE(test_jobs_survive_a_restart),
        WITH_STORE(test_jobs_once),
        WITH_STORE(test_a_durable_sink_is_told),
        WITH_STORE(test_a_loose_sink_is_told_from_memory),
        WITH_STORE(test_activity_is_saved_once),
        WITH_STORE(test_activity_is_bounded),
        cmocka_unit_test(test_jobs_backoff),
        cmocka_unit_test(test_stream_frames),
        cmocka_unit_test(test_stream_ends_when_the_client_leaves),
        cmocka_unit_test(test_stream_gives_up_a_client_that_does_not_read),
    };
    const struct CMUnitTest shared[] = {
        WITH_STORE(test_jobs_run_once_and_go),
        WITH_STORE(test_jobs_try_again_or_die),
        WITH_STORE(test_jobs_survive_a_restart),
        WITH_STORE(test_jobs_once),
        WITH_STORE(test_a_durable_sink_is_told),
        WITH_STORE(test_a_loose_sink_is_told_from_memory),
        WITH_STORE(test_activity_is_saved_once),
        WITH_STORE(test_activity_is_bounded),
        WITH_STORE(test_a_job_of_a_living_node_is_left_alone),
        WITH_STORE(test_what_a_dead_node_ran_is_taken_over_at_start),
        WITH_STORE(test_an_outcome_of_a_former_owner_is_void),
        WITH_STORE(test_who_may_not_claim_does_not),
        WITH_STORE(test_shared_caches_live_short),
        WITH_STORE(test_shared_caches_count_from_before_the_read),
        WITH_STORE(test_other_nodes_make_forget),
        WITH_STORE(test_events_between_nodes),
    };
    return on_postgres ? cmocka_run_group_tests(shared, NULL, NULL) : cmocka_run_group_tests(tests, build_routes, end);
}
