/* test_faults.c - the n-th allocation, write, sync, statement or outgoing call of an execution fails, once or from then on. Whatever fails: an execution that was refused
 * left nothing, one that was accepted ends, its history is one, and the engine takes the next one.
 *
 * The thread of the test and the upstream stand outside: only the engine is hit. The clock is moved on instead of waiting for it. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "core/module.h"
#include "engine/internal.h"
#include "net/http.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

const struct module *const modules[] = { NULL };
const struct table definition_trigger_table = { .name = "TestTrigger", .open = true };

enum { N_MAX = 20000, REOPEN_EVERY = 8, STOP_EVERY = 5, ROUNDS_MAX = 20000, LASTS_ROUNDS = 3 };

static const struct fault_case {
    enum fault_kind kind;
    bool lasts;
    bool harmless; /* the store's trouble is not the workflow's: it must end well all the same */
} cases[] = {
    { FAULT_ALLOC, false, false },     { FAULT_ALLOC, true, false },     { FAULT_STORE_ALLOC, false, true },
    { FAULT_STORE_ALLOC, true, true }, { FAULT_WRITE, false, true },     { FAULT_WRITE, true, true },
    { FAULT_SYNC, false, true },       { FAULT_SYNC, true, true },       { FAULT_STATEMENT, false, true },
    { FAULT_STATEMENT, true, true },   { FAULT_OUTGOING, false, false }, { FAULT_OUTGOING, true, false },
};

/* --- the house around an engine ----------------------------------------------------------------------------------- */

struct side { /* a loop with its thread */
    struct loop *loop;
    pthread_t thread;
};
struct house {
    struct arena *arena; /* of one n */
    char folder[64];
    struct db *db;
    struct side own, upstream;
    struct client *client;
    const struct egress *egress;
    struct arena *egress_arena;
    struct http_server *server;
    struct engine *engine;
    const char *definition, *child; /* what `load` gives */
    i64 version, shift_us;
    atomic_int calls, flaky; /* of the upstream */
};
static struct house house;

/* What is being tried, for the message of a failure. */
static struct {
    const char *scenario;
    const struct fault_case *c;
    i64 n;
} trying;

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (!(condition))                                                                              \
            fail_msg("%s: %s, kind %d %s, n = %lld", #condition, trying.scenario, (int)trying.c->kind, \
                     trying.c->lasts ? "from" : "at", (long long)trying.n);                            \
    } while (0)

static void upstream_request(void *ctx, struct http_request *rq)
{
    struct pair json = { S("content-type"), S("application/json") };
    atomic_fetch_add(&house.calls, 1);
    if (str_eq(rq->path, S("/flaky")) && atomic_fetch_add(&house.flaky, 1) % 2 == 0)
        http_reply(rq, 503, &json, 1, S("{}"));
    else if (str_eq(rq->path, S("/hang")))
        return; /* answered by nobody: freed when the server goes */
    else
        http_reply(rq, 200, &json, 1, S("{\"fine\":true}"));
}

static void upstream_refuse(void *ctx, int status, const char *code, str remote, struct arena *a,
                            struct http_refusal *out)
{
    out->body = str_of(code);
}

static void *own_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void *upstream_main(void *arg)
{
    fault_spare(true);
    loop_run(arg);
    return NULL;
}

static err load(struct tx *tx, str tenant_id, str workflow_id, i64 version, struct json **definition, str *name)
{
    struct json_error where;
    bool child = str_eq(workflow_id, S("workflow_child"));
    *name = S("Test");
    return json_parse(db_arena(tx), str_of(child ? house.child : house.definition), definition, &where);
}

static err present(struct tx *tx, str tenant_id, str workflow_id, i64 *version)
{
    *version = house.version;
    return str_eq(workflow_id, S("workflow_child")) ? OK : ERR_NOT_FOUND;
}

static void open_engine(void)
{
    struct engine_options o = { .workers = 2,
                                .load = load,
                                .present = present,
                                .db = house.db,
                                .loops = &house.own.loop,
                                .clients = &house.client,
                                .loop_count = 1 };
    assert_int_equal(engine_open(&o, &house.engine), OK);
}

static void close_engine(void)
{
    engine_close(house.engine);
    engine_free(house.engine);
}

static void open_store(void)
{
    struct db_options o = { .folder = str_of(house.folder) };
    assert_int_equal(db_open(&o, &house.db), OK);
    assert_int_equal(db_migrate_up(house.db), OK);
}

static void close_store(void)
{
    db_thread_end(house.db);
    db_close(house.db);
}

/* The loop's thread uses the store no more once it has ended; a client is made before its loop runs. */
static void open_loops(void)
{
    static const struct http_handler handler = { .request = upstream_request, .refuse = upstream_refuse };
    str bad;
    house.egress_arena = arena_new(MIB);
    assert_int_equal(egress_new(house.egress_arena, S("127.0.0.0/8"), &house.egress, &bad), OK);
    house.own.loop = loop_new(0);
    house.upstream.loop = loop_new(1);
    house.client = client_new(house.own.loop, house.egress);
    assert_non_null(house.client);
    assert_int_equal(
        http_listen(&house.upstream.loop, 1, S("127.0.0.1"), 0, &http_default_limits, &handler, &house.server), OK);
    pthread_create(&house.own.thread, NULL, own_main, house.own.loop);
    pthread_create(&house.upstream.thread, NULL, upstream_main, house.upstream.loop);
}

static void close_loops(void)
{
    loop_stop(house.own.loop);
    pthread_join(house.own.thread, NULL);
    loop_stop(house.upstream.loop);
    pthread_join(house.upstream.thread, NULL);
    client_free(house.client);
    http_free(house.server);
    loop_free(house.own.loop);
    loop_free(house.upstream.loop);
    arena_free(house.egress_arena);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

static int setup(void **state)
{
    bool in_memory = access("/dev/shm", W_OK) == 0;
    house = (struct house){ .version = 0 };
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    snprintf(house.folder, sizeof house.folder, "%s/weir-engine-faults-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(house.folder));
    fault_spare(true);
    open_store();
    open_loops();
    open_engine();
    return 0;
}

static int teardown(void **state)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        fault_arm(kind, 0);
    close_engine();
    close_loops();
    close_store();
    nftw(house.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    fault_clock(0);
    return 0;
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

struct number {
    struct presence has;
    i64 number;
};
static const struct field number_fields[] = { FIELD(struct number, number, F_I64, .doc = "A number") };
static const struct table number_table = TABLE("TestNumber", struct number, number_fields);
STMT(live_count, "SELECT count(*) AS number FROM executions WHERE status IN ('queued', 'running', 'waiting')",
     .row = &number_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(parked_count, "SELECT count(*) AS number FROM executions WHERE status = 'waiting'", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(journal_count, "SELECT count(*) AS number FROM execution_journal", .row = &number_table, .scope = SCOPE_SYSTEM,
     .scan_ok = true);
STMT(key_count, "SELECT count(*) AS number FROM executions WHERE tenant_id = $1 AND dedup_key = $2",
     .row = &number_table);
/* A final row has all that a final row has. */
STMT(
    torn_count,
    "SELECT count(*) AS number FROM executions WHERE status NOT IN ('queued', 'running', 'waiting')"
    " AND (completed_at IS NULL OR due_at IS NOT NULL OR step_executions IS NULL"
    " OR (status = 'completed' AND output_data IS NULL) OR (status <> 'completed' AND (error IS NULL OR error NOT LIKE '{%\"code\":%')))",
    .row = &number_table, .scope = SCOPE_SYSTEM, .scan_ok = true);

static i64 number_of(const struct stmt *s, struct args args)
{
    struct tx *tx;
    struct number row = { .number = -1 };
    struct arena_mark mark = arena_mark(house.arena);
    CHECK(db_read_begin(house.db, house.arena, false, &tx) == OK);
    CHECK(db_row(tx, s, &row, args) == OK);
    db_read_end(tx);
    arena_rewind(house.arena, mark);
    return row.number;
}

static err row_of_key(str key, struct execution *x)
{
    struct tx *tx;
    CHECK(db_read_begin(house.db, house.arena, false, &tx) == OK);
    err e = journal_row_of_key(tx, S("tenant_1"), key, x);
    db_read_end(tx);
    return e;
}

/* --- time and faults ---------------------------------------------------------------------------------------------- */

static void arm(void)
{
    if (trying.c->lasts)
        fault_arm_from(trying.c->kind, trying.n);
    else
        fault_arm(trying.c->kind, trying.n);
}

/* Says whether it had fired. */
static bool disarm(void)
{
    bool fired = fault_fired(trying.c->kind);
    fault_arm(trying.c->kind, 0);
    return fired;
}

/* Some seconds pass at once, and everybody looks at the clock. */
static void hurry(void)
{
    static struct waiter nobody;
    house.shift_us += 2 * SECOND_US;
    fault_clock(house.shift_us);
    engine_due(house.engine, 0);
    for (u32 i = 0; i < house.engine->worker_count; i++)
        worker_tell(&house.engine->workers[i], S("tenant_1"), S("execution_none"), &nobody);
}

struct caller {
    struct waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct outcome *outcome;
    str id;
    bool told;
};

static void tell(struct waiter *w, struct outcome *o)
{
    struct caller *c = CONTAINER(w, struct caller, waiter);
    pthread_mutex_lock(&c->lock);
    c->outcome = o;
    c->told = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static bool told_soon(struct caller *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&c->lock);
    while (!c->told && pthread_cond_timedwait(&c->cond, &c->lock, &until) == 0)
        ;
    bool told = c->told;
    pthread_mutex_unlock(&c->lock);
    return told;
}

/* A fault that lasts is over some moments after it came, so that there is something to go on with. */
static bool over_by_now(int *since)
{
    return trying.c->lasts && fault_fired(trying.c->kind) && ++*since > LASTS_ROUNDS;
}

static struct outcome *wait_for(struct caller *c, bool *fired)
{
    int since = 0;
    for (int round = 0; !told_soon(c); round++) {
        CHECK(round < ROUNDS_MAX);
        if (over_by_now(&since))
            *fired |= disarm();
        hurry();
    }
    return c->outcome;
}

static void await_count(const struct stmt *s, i64 wanted, bool *fired)
{
    int since = 0;
    for (int round = 0; number_of(s, NO_ARGS) != wanted; round++) {
        CHECK(round < ROUNDS_MAX);
        if (over_by_now(&since))
            *fired |= disarm();
        hurry();
        usleep(500);
    }
}

/* --- executions --------------------------------------------------------------------------------------------------- */

struct scenario {
    const char *name, *definition, *child, *output; /* output: when it completes */
    bool detached;
};

static const char *with_port(const char *text)
{
    struct buf b = { .arena = house.arena };
    str rest = str_of(text), mark = S("%PORT%");
    for (i64 at; (at = str_find(rest, mark, 0)) >= 0; rest = str_slice(rest, (size_t)at + mark.n, rest.n)) {
        buf_str(&b, str_slice(rest, 0, (size_t)at));
        buf_f(&b, "%d", http_port(house.server));
    }
    buf_str(&b, rest);
    buf_char(&b, '\0');
    return b.p;
}

static struct plan *make_plan(const struct scenario *s)
{
    struct json *j;
    struct json_error where;
    struct problems problems = { .arena = house.arena };
    struct plan *plan;
    house.definition = with_port(s->definition);
    house.child = s->child != NULL ? with_port(s->child) : NULL;
    assert_int_equal(json_parse(house.arena, str_of(house.definition), &j, &where), OK);
    assert_int_equal(field_decode(house.arena, &definition_table, FIELD_CREATE, j, S(""), NULL, &problems), OK);
    assert_int_equal(plan_compile(j, S(""), &problems, &plan), OK);
    plan->tenant_id = S("tenant_1");
    plan->workflow_id = S("workflow_1");
    plan->workflow_name = S("Test");
    plan->version = house.version;
    return plan;
}

static void caller_init(struct caller *c)
{
    *c = (struct caller){ .waiter = { .tell = tell } };
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
}

/* The caller's own allocations count, too. */
static err start(struct caller *c, const struct scenario *s, str key, str replays)
{
    struct start how = { .plan = make_plan(s),
                         .input_data = S("{\"n\":1}"),
                         .trigger = S("{\"type\":\"manual\"}"),
                         .dedup_key = key,
                         .dedup_body = key.p != NULL ? S("body") : STR_NONE,
                         .replays = replays,
                         .replay_from = replays.p != NULL ? S("b") : STR_NONE,
                         .parent_id = replays,
                         .detached = s->detached,
                         .now_us = clock_now_us() };
    caller_init(c);
    fault_spare(false);
    err e = engine_start(house.engine, house.arena, &how, &c->waiter, &c->id);
    fault_spare(true);
    return e;
}

/* What the caller was told holds of the row: refused and not there, or there as it was told. Says whether it was accepted. */
static bool check_told(err e, const struct outcome *o, str key)
{
    struct execution x;
    err refused = e != OK ? e : o->error;
    err found = row_of_key(key, &x);
    if (e == OK && o->unread) {
        CHECK(found == OK && refused != OK);
        return true;
    }
    if (refused != OK) {
        CHECK(found == ERR_NOT_FOUND);
        return false;
    }
    CHECK(found == OK);
    CHECK(str_eq(x.execution_id, o->execution.execution_id));
    if (execution_is_final(o->execution.status))
        CHECK(str_eq(x.status, o->execution.status) && str_eq(x.output_data, o->execution.output_data));
    return true;
}

static void check_ended(const struct scenario *s, str key, bool must_complete)
{
    struct execution x;
    CHECK(number_of(&journal_count, NO_ARGS) == 0);
    CHECK(number_of(&torn_count, NO_ARGS) == 0);
    if (row_of_key(key, &x) != OK)
        return;
    bool completed = str_eq(x.status, S("completed"));
    CHECK(completed || (!must_complete && str_eq(x.status, S("failed"))));
    CHECK(!completed || s->output == NULL || str_eq(x.output_data, str_of(s->output)));
}

/* Afterwards the same again, under the same key: whoever was refused is served, whoever was served joins. */
static void check_again(const struct scenario *s, str key, bool accepted, str replays)
{
    struct caller again;
    bool fired = false;
    struct execution before = { .execution_id = STR_NONE }, now;
    if (accepted)
        CHECK(row_of_key(key, &before) == OK);
    CHECK(start(&again, s, key, replays) == OK);
    struct outcome *o = wait_for(&again, &fired);
    CHECK(o->error == OK);
    outcome_release(o);
    await_count(&live_count, 0, &fired);
    CHECK(number_of(&key_count, ARGS(STR(S("tenant_1")), STR(key))) == 1);
    CHECK(row_of_key(key, &now) == OK);
    CHECK(!accepted || str_eq(before.execution_id, now.execution_id));
    check_ended(s, key, !accepted);
}

/* A stop in the middle of trouble, and a start when that is over. */
static void stop_and_start(struct caller *c, bool *fired)
{
    (void)told_soon(c);
    close_engine();
    *fired |= disarm();
    open_engine();
}

static bool play(const struct scenario *s, str replays)
{
    struct caller c;
    bool fired = false, stops = trying.c->lasts && trying.n % STOP_EVERY == 0;
    str key = strf(house.arena, "%s-%d-%d-%lld", s->name, (int)trying.c->kind, trying.c->lasts, (long long)trying.n);
    arm();
    err e = start(&c, s, key, replays);
    if (e == OK && stops)
        stop_and_start(&c, &fired);
    struct outcome *o = e == OK ? wait_for(&c, &fired) : NULL;
    if (s->detached)
        await_count(&live_count, 0, &fired);
    fired |= disarm();
    bool accepted = check_told(e, o, key);
    CHECK(fired || accepted);
    if (o != NULL)
        outcome_release(o);
    await_count(&live_count, 0, &fired);
    check_ended(s, key, trying.c->harmless || !fired);
    check_again(s, key, accepted, replays);
    return fired;
}

/* Each n on an arena of its own; every some n a restart, which finds all of it again. */
static void sweep(const char *name, bool (*one)(const void *what), const void *what)
{
    struct arena *idle = arena_new(MIB);
    size_t before = 0;
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool fired = true;
        for (i64 n = 1; fired; n = fault_next(n, FAULT_STRIDE, cases[i].lasts)) {
            house.arena = arena_new(64 * MIB);
            house.version++;
            trying.scenario = name;
            trying.c = &cases[i];
            trying.n = n;
            fired = one(what);
            CHECK(n < N_MAX);
            arena_free(house.arena);
            house.arena = idle;
            if (n % REOPEN_EVERY == 1) {
                close_engine();
                close_store();
                before = before != 0 ? before : arena_budget_used();
                CHECK(arena_budget_used() == before);
                open_store();
                open_engine();
            }
        }
    }
    arena_free(idle);
    house.arena = NULL;
}

static bool play_scenario(const void *scenario)
{
    return play(scenario, STR_NONE);
}

#define STEP(id, type, with) "{\"id\":\"" id "\",\"type\":\"" type "\",\"with\":{" with "}}"
#define CALL(id, path)                                                                                                      \
    "{\"id\":\"" id                                                                                                         \
    "\",\"type\":\"http\",\"retry\":{\"max_attempts\":3,\"initial_ms\":1},\"with\":{\"url\":\"http://127.0.0.1:%PORT%" path \
    "\"}}"

static const struct scenario pure = {
    "pure",
    "{\"steps\":[" STEP("a", "transform", "\"x\":\"{{ input.n + 1 }}\"") "," STEP(
        "b", "script",
        "\"code\":\"return { y = steps.a.output.x * 2 }\"") "," STEP("c", "respond",
                                                                     "\"body\":\"{{ steps.b.output }}\"") "],\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"]}}",
    NULL,
    "{\"status\":200,\"headers\":{},\"body\":{\"y\":4}}",
};

static const struct scenario outside = {
    "outside",
    "{\"steps\":[" CALL("a", "/flaky") "," STEP("b", "delay", "\"ms\":1500") "," CALL("c", "/again") "," STEP(
        "d", "transform",
        "\"x\":\"{{ steps.c.output.body.fine }}\"") "],\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"],\"d\":[\"c\"]}}",
    NULL,
    "{\"d\":{\"x\":true}}",
};

static const struct scenario parent = {
    "child",
    "{\"steps\":[{\"id\":\"w\",\"type\":\"workflow\",\"with\":{\"workflow_id\":\"workflow_child\",\"input\":{\"n\":\"{{ input.n }}\"}}}]}",
    "{\"steps\":[" STEP("b", "delay", "\"ms\":100") "," STEP(
        "r", "transform", "\"x\":\"{{ input.n }}\"") "],\"dependencies\":{\"r\":[\"b\"]}}",
    "{\"w\":{\"r\":{\"x\":1}}}",
};

static const struct scenario accepted_only = {
    "detached",       "{\"steps\":[" STEP("a", "transform", "\"x\":\"{{ input.n }}\"") "]}", NULL, "{\"a\":{\"x\":1}}",
    .detached = true,
};

static void test_pure_steps(void **state)
{
    sweep("pure", play_scenario, &pure);
}

static void test_calls_retries_and_delays(void **state)
{
    sweep("outside", play_scenario, &outside);
}

static void test_a_child(void **state)
{
    sweep("child", play_scenario, &parent);
}

static void test_what_is_only_accepted(void **state)
{
    sweep("detached", play_scenario, &accepted_only);
}

static const struct scenario each = {
    "foreach",
    "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"with\":{\"items\":[1,2],\"steps\":{\"steps\":[" CALL(
        "h", "/again") "," STEP("t", "transform", "\"x\":\"{{ item }}\"") "],\"dependencies\":{\"t\":[\"h\"]}}}}]}",
    NULL,
    "{\"e\":[{\"t\":{\"x\":1}},{\"t\":{\"x\":2}}]}",
};

static void test_iterations(void **state)
{
    sweep("foreach", play_scenario, &each);
}

/* --- played again, cancelled -------------------------------------------------------------------------------------- */

static const struct scenario twice = {
    "replay",
    "{\"steps\":[" CALL("a", "/once") "," CALL("b", "/again") "," STEP(
        "c", "transform",
        "\"x\":\"{{ steps.a.output.body.fine }}\"") "],\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"]}}",
    NULL,
    "{\"c\":{\"x\":true}}",
};

static bool play_replay(const void *scenario)
{
    struct caller first;
    bool fired = false;
    str key = strf(house.arena, "first-%d-%d-%lld", (int)trying.c->kind, trying.c->lasts, (long long)trying.n);
    CHECK(start(&first, scenario, key, STR_NONE) == OK);
    struct outcome *o = wait_for(&first, &fired);
    CHECK(o->error == OK);
    outcome_release(o);
    int before = atomic_load(&house.calls);
    fired = play(scenario, first.id);
    CHECK(fired || atomic_load(&house.calls) == before + 1); /* of the step that was to run again, and of no other */
    return fired;
}

static void test_replay(void **state)
{
    sweep("replay", play_replay, &twice);
}

static const struct scenario sleeps = {
    "cancel",
    "{\"steps\":[{\"id\":\"w\",\"type\":\"workflow\",\"with\":{\"workflow_id\":\"workflow_child\"}}]}",
    "{\"steps\":[" STEP("d", "delay", "\"ms\":3000000") "]}",
    NULL,
    .detached = true,
};

struct asking {
    str id;
    bool first;
};

static err ask(void *ctx, struct tx *tx)
{
    struct asking *a = ctx;
    return engine_cancel_ask(tx, S("tenant_1"), a->id, clock_now_us(), &a->first);
}

static err cancel(str id)
{
    struct asking a = { .id = id };
    fault_spare(false);
    err e = db_write_wait(house.db, house.arena, ask, &a);
    if (e == OK)
        engine_cancel(house.engine, id);
    fault_spare(true);
    return e;
}

STMT(asked_count,
     "SELECT count(*) AS number FROM executions WHERE tenant_id = $1 AND id = $2 AND cancel_at IS NOT NULL",
     .row = &number_table);

/* A parent that waits for a child that sleeps. Asked for and accepted, both end; refused, nobody has asked, and the next one is heard. */
static bool play_cancel(const void *scenario)
{
    const struct scenario *s = scenario;
    struct caller c;
    struct execution x;
    bool fired = false;
    str key = strf(house.arena, "cancel-%d-%d-%lld", (int)trying.c->kind, trying.c->lasts, (long long)trying.n);
    CHECK(start(&c, s, key, STR_NONE) == OK);
    outcome_release(wait_for(&c, &fired));
    await_count(&parked_count, 2, &fired);
    arm();
    err e = cancel(c.id);
    if (e == OK)
        await_count(&live_count, 0, &fired);
    fired |= disarm();
    CHECK(fired || e == OK);
    if (e != OK) {
        CHECK(number_of(&asked_count, ARGS(STR(S("tenant_1")), STR(c.id))) == 0);
        CHECK(cancel(c.id) == OK);
        await_count(&live_count, 0, &fired);
    }
    CHECK(number_of(&journal_count, NO_ARGS) == 0 && number_of(&torn_count, NO_ARGS) == 0);
    CHECK(row_of_key(key, &x) == OK && str_eq(x.status, S("cancelled")));
    return fired;
}

static void test_cancel(void **state)
{
    sweep("cancel", play_cancel, &sleeps);
}

/* --- the clock is set ----------------------------------------------------------------------------------------------- */

static const struct scenario half_second = {
    "half second",
    "{\"steps\":[" STEP("d", "delay", "\"ms\":500") "," STEP("t", "transform",
                                                             "\"x\":1") "],\"dependencies\":{\"t\":[\"d\"]}}",
    NULL,
    "{\"t\":{\"x\":1}}",
    .detached = true,
};
static const struct scenario half_hour = {
    "half hour",
    "{\"steps\":[" STEP("d", "delay", "\"ms\":1800000") "," STEP(
        "t", "transform", "\"x\":1") "],\"dependencies\":{\"t\":[\"d\"]},\"settings\":{\"timeout_ms\":7200000}}",
    NULL,
    "{\"t\":{\"x\":1}}",
    .detached = true,
};

/* Starts it, sets the clock while it waits, and says how long it took by a clock that nobody sets. */
static i64 with_clock(const struct scenario *s, i64 shift_us, struct execution *x)
{
    static const struct fault_case none = { FAULT_ALLOC, false, true };
    struct caller c;
    bool fired = false;
    str key = str_of(s->name);
    trying.scenario = s->name;
    trying.c = &none;
    house.version++;
    i64 from_us = clock_mono_us();
    CHECK(start(&c, s, key, STR_NONE) == OK);
    while (!told_soon(&c))
        CHECK(clock_mono_us() < from_us + 20 * SECOND_US);
    outcome_release(c.outcome);
    while (number_of(&parked_count, NO_ARGS) == 0)
        CHECK(clock_mono_us() < from_us + 20 * SECOND_US);
    fault_clock(shift_us);
    while (number_of(&live_count, NO_ARGS) > 0) {
        CHECK(clock_mono_us() < from_us + 20 * SECOND_US);
        usleep(1000);
    }
    i64 took_us = clock_mono_us() - from_us;
    check_ended(s, key, !fired);
    CHECK(row_of_key(key, x) == OK);
    return took_us;
}

/* Forward: what is due by the new time ends. Back again: nothing waits for the hour to pass, and nothing ends before it began. */
static void test_the_clock_is_set(void **state)
{
    struct execution before, after;
    house.arena = arena_new(MIB);
    (void)with_clock(&half_hour, HOUR_US, &before);
    CHECK(before.completed_at >= before.created_at + HOUR_US / 2);
    i64 took_us = with_clock(&half_second, 0, &after);
    CHECK(took_us >= SECOND_US / 2 && took_us < 10 * SECOND_US);
    CHECK(after.created_at >= before.completed_at && after.completed_at >= after.created_at + SECOND_US / 2);
    arena_free(house.arena);
    house.arena = NULL;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    if (argc > 1) /* one of them: a sweep is long */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        TEST(test_the_clock_is_set), /* first: the others move it on for good */
        TEST(test_pure_steps),
        TEST(test_what_is_only_accepted),
        TEST(test_calls_retries_and_delays),
        TEST(test_a_child),
        TEST(test_iterations),
        TEST(test_replay),
        TEST(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
