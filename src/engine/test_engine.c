/* test_engine.c - the engine as a specification: definitions and what comes of them, its promises, and what survives a stop. Each test has a store, a loop, an
 * upstream that counts, and an engine of its own. */
#include "db/test_store.h"
#include "engine/internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/app.h"
#include "core/module.h"
#include "net/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

const struct module *const modules[] = { &sinks_module, NULL };
const struct table definition_trigger_table = { .name = "TestTrigger", .open = true };

/* --- the house around an engine ----------------------------------------------------------------------------------- */

enum { PATHS = 16, ID_LENGTH = sizeof "execution_" - 1 + 26 };

struct upstream {
    struct http_server *server;
    struct {
        char path[32];
        int calls;
    } seen[PATHS];
    char last_key[128], last_trace[128];
    struct http_request *held;
    pthread_mutex_t lock;
    struct message let_go;
};

struct house {
    struct arena *arena;
    struct db *db;
    struct loop *loop;
    struct client *client;
    pthread_t thread;
    struct upstream upstream;
    struct engine *engine;
    const char *_Atomic definition; /* what `load` gives */
    const char *child;              /* what it gives for workflow_child */
    i64 version;                    /* of the last start: each has a plan of its own in the cache */
    int fail_first;                 /* upstream: how many calls of /flaky fail */
    err load_fails;                 /* what `load` says instead */
    i64 tenant_limit, workflow_limit;
};
static struct house house;
static bool on_postgres;
static struct test_store
    place; /* PostgreSQL: one for all tests, emptied after each; making one takes longer than most of them */

static int calls_of(const char *path)
{
    int n = 0;
    pthread_mutex_lock(&house.upstream.lock);
    for (int i = 0; i < PATHS; i++)
        if (strcmp(house.upstream.seen[i].path, path) == 0)
            n = house.upstream.seen[i].calls;
    pthread_mutex_unlock(&house.upstream.lock);
    return n;
}

static int count_call(str path)
{
    pthread_mutex_lock(&house.upstream.lock);
    int i = 0;
    while (i < PATHS - 1 && house.upstream.seen[i].path[0] != '\0' &&
           !str_eq(str_of(house.upstream.seen[i].path), path))
        i++;
    snprintf(house.upstream.seen[i].path, sizeof house.upstream.seen[i].path, "%.*s", STR_FMT(path));
    int n = ++house.upstream.seen[i].calls;
    pthread_mutex_unlock(&house.upstream.lock);
    return n;
}

/* /held is answered when the test says so, one call at a time. */
static void hold(struct http_request *rq)
{
    pthread_mutex_lock(&house.upstream.lock);
    house.upstream.held = rq;
    pthread_mutex_unlock(&house.upstream.lock);
}

static void answer_held(struct message *m)
{
    pthread_mutex_lock(&house.upstream.lock);
    struct http_request *rq = house.upstream.held;
    house.upstream.held = NULL;
    pthread_mutex_unlock(&house.upstream.lock);
    assert_non_null(rq);
    struct pair json = { S("content-type"), S("application/json") };
    http_reply(rq, 200, &json, 1, S("{}"));
}

static void let_go(void)
{
    house.upstream.let_go.run = answer_held;
    loop_post(house.loop, &house.upstream.let_go);
}

static void upstream_request(void *ctx, struct http_request *rq)
{
    struct pair json = { S("content-type"), S("application/json") };
    str key = http_header(rq, S("idempotency-key"));
    str parent = http_header(rq, S("traceparent")), trace = http_header(rq, S("tracestate"));
    pthread_mutex_lock(&house.upstream.lock);
    snprintf(house.upstream.last_key, sizeof house.upstream.last_key, "%.*s", STR_FMT(key));
    snprintf(house.upstream.last_trace, sizeof house.upstream.last_trace, "%.*s %.*s", STR_FMT(parent), STR_FMT(trace));
    pthread_mutex_unlock(&house.upstream.lock);
    if (str_eq(rq->path, S("/held")))
        hold(rq);
    int n = count_call(rq->path); /* last: whoever sees the count sees the above */
    if (str_eq(rq->path, S("/flaky")) && n <= house.fail_first)
        http_reply(rq, 503, &json, 1, S("{}"));
    else if (str_eq(rq->path, S("/gone")))
        http_reply(rq, 404, &json, 1, S("{\"why\":\"gone\"}"));
    else if (str_eq(rq->path, S("/drop")))
        http_drop(rq);
    else if (str_eq(rq->path, S("/held")) || str_starts(rq->path, S("/hang")))
        return; /* what hangs is answered by nobody: freed when the server goes */
    else
        http_reply(rq, 200, &json, 1, strf(rq->arena, "{\"call\":%d,\"path\":\"%.*s\"}", n, STR_FMT(rq->path)));
}

static void upstream_refuse(void *ctx, int status, const char *code, str remote, struct arena *a,
                            struct http_refusal *out)
{
    out->body = str_of(code);
}

static void *loop_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

/* Settings take well-formed ids only. */
#define CHILD_ID "workflow_00000000000000000000000000"

static bool is_child(str workflow_id)
{
    return str_eq(workflow_id, S("workflow_child")) || str_eq(workflow_id, S(CHILD_ID));
}

static err load(struct tx *tx, str tenant_id, str workflow_id, i64 version, struct json **definition, str *name)
{
    struct json_error where;
    bool child = is_child(workflow_id);
    *name = S("Test");
    TRY(house.load_fails);
    return json_parse(db_arena(tx), str_of(child ? house.child : house.definition), definition, &where);
}

static err present(struct tx *tx, str tenant_id, str workflow_id, i64 *version)
{
    *version = 1;
    return is_child(workflow_id) ? OK : ERR_NOT_FOUND;
}

static void open_engine(void)
{
    struct engine_options o = { .workers = 2,
                                .load = load,
                                .present = present,
                                .tenant_limit = house.tenant_limit,
                                .workflow_limit = house.workflow_limit,
                                .db = house.db,
                                .loops = &house.loop,
                                .clients = &house.client,
                                .loop_count = 1 };
    assert_int_equal(engine_open(&o, &house.engine), OK);
}

static void close_engine(void)
{
    engine_close(house.engine);
    engine_free(house.engine);
}

/* Closes without patience for a call that never ends: cancels it, and records nothing of it. */
static void cut_off(void)
{
    house.engine->options.closing_us = SECOND_US / 10;
    close_engine();
}

static struct message make_client_message;
static pthread_mutex_t made_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t made = PTHREAD_COND_INITIALIZER;

static void make_client(struct message *m)
{
    const struct egress *egress;
    str bad;
    assert_int_equal(egress_new(house.arena, S("127.0.0.0/8"), &egress, &bad), OK);
    pthread_mutex_lock(&made_lock);
    house.client = client_new(house.loop, egress);
    pthread_cond_signal(&made);
    pthread_mutex_unlock(&made_lock);
}

static int setup(void **state)
{
    house = (struct house){ .arena = arena_new(64 * MIB), .upstream = { .lock = PTHREAD_MUTEX_INITIALIZER } };
    log_setup(LOG_OFF, LOG_ERROR);
    if (place.folder[0] == '\0')
        assert_int_equal(test_store_make(&place, on_postgres), 0);
    struct db_options o = test_store_options(&place);
    assert_int_equal(db_open(&o, &house.db), OK);
    assert_int_equal(db_migrate_up(house.db), OK);
    house.loop = loop_new(0);
    app.slow = pool_new("slow", 1, 16);
    assert_non_null(app.slow);
    static const struct http_handler handler = { .request = upstream_request, .refuse = upstream_refuse };
    assert_int_equal(
        http_listen(&house.loop, 1, S("127.0.0.1"), 0, &http_default_limits, &handler, &house.upstream.server), OK);
    pthread_create(&house.thread, NULL, loop_main, house.loop);
    make_client_message.run = make_client;
    pthread_mutex_lock(&made_lock);
    loop_post(house.loop, &make_client_message);
    while (house.client == NULL)
        pthread_cond_wait(&made, &made_lock);
    pthread_mutex_unlock(&made_lock);
    open_engine();
    return 0;
}

static int remove_place(void **state)
{
    test_store_remove(&place);
    place = (struct test_store){ .postgres = on_postgres };
    return 0;
}

static int teardown(void **state)
{
    cut_off();
    pool_free(app.slow);
    loop_stop(house.loop);
    pthread_join(house.thread, NULL);
    client_free(house.client);
    http_free(house.upstream.server);
    loop_free(house.loop);
    db_thread_end(house.db);
    db_close(house.db);
    if (on_postgres)
        assert_int_equal(test_store_admin(place.database, "TRUNCATE execution_journal, executions, jobs"), 0);
    else
        remove_place(NULL);
    arena_free(house.arena);
    return 0;
}

/* --- executions --------------------------------------------------------------------------------------------------- */

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

/* The definition with %PORT% replaced by the upstream's. */
static char *with_port(const char *text)
{
    struct buf b = { .arena = house.arena };
    str rest = str_of(text), mark = S("%PORT%");
    for (i64 at; (at = str_find(rest, mark, 0)) >= 0; rest = str_slice(rest, (size_t)at + mark.n, rest.n)) {
        buf_str(&b, str_slice(rest, 0, (size_t)at));
        buf_f(&b, "%d", http_port(house.upstream.server));
    }
    buf_str(&b, rest);
    buf_char(&b, '\0');
    return b.p;
}

static err start_as(struct caller *c, const char *definition, const struct start *as)
{
    struct json *j;
    struct json_error where;
    struct problems problems = { .arena = house.arena };
    struct plan *plan;
    house.definition = with_port(definition);
    assert_int_equal(json_parse(house.arena, str_of(house.definition), &j, &where), OK);
    assert_int_equal(field_decode(house.arena, &definition_table, FIELD_CREATE, j, S(""), NULL, &problems), OK);
    assert_int_equal(plan_compile(j, S(""), &problems, &plan), OK);
    plan->tenant_id = S("tenant_1");
    plan->workflow_id = S("workflow_1");
    plan->workflow_name = S("Test");
    plan->version = ++house.version;
    *c = (struct caller){ .waiter = { .tell = tell } };
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    struct start s = *as;
    s.plan = plan;
    s.trigger = S("{\"type\":\"manual\"}");
    s.now_us = clock_now_us();
    return engine_start(house.engine, house.arena, &s, &c->waiter, &c->id);
}

static err start(struct caller *c, const char *definition, const char *input, const char *key, bool detached)
{
    struct start s = { .input_data = str_of(input),
                       .detached = detached,
                       .dedup_key = str_of(key),
                       .dedup_body = key != NULL ? str_of(input) : STR_NONE };
    return start_as(c, definition, &s);
}

static struct outcome *wait_for(struct caller *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&c->lock);
    while (!c->told)
        assert_int_equal(pthread_cond_timedwait(&c->cond, &c->lock, &until), 0);
    pthread_mutex_unlock(&c->lock);
    return c->outcome;
}

static struct outcome *run(const char *definition, const char *input)
{
    struct caller c;
    assert_int_equal(start(&c, definition, input, NULL, false), OK);
    struct outcome *o = wait_for(&c);
    assert_int_equal(o->error, OK);
    return o;
}

static void assert_str(str got, const char *expected)
{
    if (!str_eq(got, str_of(expected)))
        fail_msg("got      %.*s\nexpected %s", STR_FMT(got), expected);
}

static void assert_error(const struct execution *x, const char *code)
{
    if (str_find(x->error, strf(house.arena, "\"code\":\"%s\"", code), 0) < 0)
        fail_msg("got %.*s, expected %s", STR_FMT(x->error), code);
}

/* Waits, by looking at the database, until an execution has a status. */
static struct execution *await_status(str id, const char *status)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    for (;;) {
        struct tx *tx;
        struct arena_mark mark = arena_mark(house.arena);
        struct execution *x = NEW(house.arena, struct execution);
        assert_int_equal(db_read_begin(house.db, house.arena, false, &tx), OK);
        err e = journal_row_of(tx, S("tenant_1"), id, x);
        db_read_end(tx);
        if (e == OK && str_eq(x->status, str_of(status)))
            return x;
        if (clock_mono_us() > until)
            fail_msg("%s: it is %.*s %.*s, not %s", err_name(e), STR_FMT(x->status), STR_FMT(x->error), status);
        arena_rewind(house.arena, mark);
        sched_yield();
    }
}

/* --- definitions that are wrong ----------------------------------------------------------------------------------- */

#define FOREACH_IN(id, steps) \
    "{\"id\":\"" id "\",\"type\":\"foreach\",\"with\":{\"items\":[],\"steps\":{\"steps\":[" steps "]}}}"
#define FOREACH_OF(steps) "{\"steps\":[" FOREACH_IN("e", steps) ",{\"id\":\"o\",\"type\":\"transform\"}]}"
#define FOREACH_WITH(definition)                                                                          \
    "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"with\":{\"items\":[],\"steps\":{" definition "}}}," \
    "{\"id\":\"o\",\"type\":\"transform\"}]}"

static void test_wrong_definitions(void **state)
{
    static const struct {
        const char *definition, *pointer, *code;
    } rows[] = {
        { "{}", "/definition/steps", "field.required" },
        { "{\"steps\":[]}", "/definition/steps", "field.count" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"nope\"}]}", "/definition/steps/0/type", "field.one_of" },
        { "{\"steps\":[{\"id\":\"1a\",\"type\":\"transform\"}]}", "/definition/steps/0/id", "definition.step_id" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"a\",\"type\":\"transform\"}]}",
          "/definition/steps/1/id", "definition.duplicate_step" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"dependencies\":{\"b\":[\"a\"]}}",
          "/definition/dependencies/b", "definition.unknown_step" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"dependencies\":{\"a\":[\"x\"]}}",
          "/definition/dependencies/a/0", "definition.unknown_step" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"dependencies\":{\"a\":[\"a\"]}}",
          "/definition/dependencies/a/0", "definition.cycle" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"b\",\"type\":\"transform\"}],\"dependencies\":{\"a\":[\"b\"],\"b\":[\"a\"]}}",
          "/definition/dependencies/a", "definition.cycle" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"conditions\":{\"x\":\"true\"}}",
          "/definition/conditions/x", "definition.unknown_step" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"conditions\":{\"a\":\"1 +\"}}",
          "/definition/conditions/a", "expr.syntax" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":[{\"y\":\"{{ 1 + }}\"}]}}]}",
          "/definition/steps/0/with/x/0/y", "expr.syntax" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"script\",\"with\":{\"code\":\"return (\"}}]}",
          "/definition/steps/0/with/code", "expr.syntax" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"http\"}]}", "/definition/steps/0/with/url", "field.required" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"http\",\"with\":{\"url\":\"http://x\",\"methd\":\"GET\"}}]}",
          "/definition/steps/0/with/methd", "field.unknown" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"delay\",\"with\":{}}]}", "/definition/steps/0/with", "delay.one_of" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"delay\",\"with\":{\"ms\":1,\"until\":\"2026-01-01T00:00:00Z\"}}]}",
          "/definition/steps/0/with", "delay.one_of" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"retry\":{\"max_attempts\":0}}]}",
          "/definition/steps/0/retry/max_attempts", "field.range" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"condition\"}]}", "/definition/steps/0/with/if", "field.required" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"condition\",\"with\":{\"if\":\"1 +\"}}]}",
          "/definition/steps/0/with/if", "expr.syntax" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":1,\"cases\":{\"x\":[\"ghost\"]}}}]}",
          "/definition/steps/0/with/cases/x/0", "definition.unknown_step" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":1,\"cases\":{},\"default\":[\"ghost\"]}}]}",
          "/definition/steps/0/with/default/0", "definition.unknown_step" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":1,\"cases\":{\"a/b\":[\"t\"]}}},{\"id\":\"t\",\"type\":\"transform\"}]}",
          "/definition/steps/0/with/cases/a~1b/0", "definition.not_dependent" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":1,\"cases\":{\"default\":[]}}}]}",
          "/definition/steps/0/with", "switch.default" },
        { "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"with\":{\"items\":[]}}]}", "/definition/steps/0/with/steps",
          "field.required" },
        { "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"with\":{\"items\":5,\"steps\":{\"steps\":[{\"id\":\"x\",\"type\":\"transform\"}]}}}]}",
          "/definition/steps/0/with/items", "field.type" },
        { "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"with\":{\"items\":[],\"concurrency\":101,\"steps\":{\"steps\":[{\"id\":\"x\",\"type\":\"transform\"}]}}}]}",
          "/definition/steps/0/with/concurrency", "field.range" },
        { FOREACH_OF("{\"id\":\"e\",\"type\":\"transform\"}"), "/definition/steps/0/with/steps/steps/0/id",
          "definition.duplicate_step" },
        { FOREACH_OF("{\"id\":\"error\",\"type\":\"transform\"}"), "/definition/steps/0/with/steps/steps/0/id",
          "definition.reserved_step" },
        { FOREACH_OF("{\"id\":\"r\",\"type\":\"respond\"}"), "/definition/steps/0/with/steps/steps/0/type",
          "definition.outermost" },
        { FOREACH_OF("{\"id\":\"x\",\"type\":\"script\",\"with\":{\"code\":\"return (\"}}"),
          "/definition/steps/0/with/steps/steps/0/with/code", "expr.syntax" },
        { FOREACH_WITH("\"steps\":[{\"id\":\"x\",\"type\":\"transform\"}],\"dependencies\":{\"x\":[\"o\"]}"),
          "/definition/steps/0/with/steps/dependencies/x/0", "definition.unknown_step" },
        { FOREACH_WITH(
              "\"steps\":[{\"id\":\"x\",\"type\":\"transform\"},{\"id\":\"y\",\"type\":\"transform\"}],\"dependencies\":{\"x\":[\"y\"],\"y\":[\"x\"]}"),
          "/definition/steps/0/with/steps/dependencies/x", "definition.cycle" },
        { "{\"steps\":[{\"id\":\"e\",\"type\":\"foreach\",\"retry\":{\"max_attempts\":2},\"with\":{\"items\":[],\"steps\":{\"steps\":[{\"id\":\"x\",\"type\":\"transform\"}]}}}]}",
          "/definition/steps/0/retry", "definition.no_retry" },
        { FOREACH_OF(FOREACH_IN(
              "f", FOREACH_IN("g", FOREACH_IN("h", FOREACH_IN("i", "{\"id\":\"x\",\"type\":\"transform\"}"))))),
          "/definition/steps/0/with/steps/steps/0/with/steps/steps/0/with/steps/steps/0/with/steps/steps/0/with/steps",
          "definition.too_deep" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"settings\":{\"timeout_ms\":0}}",
          "/definition/settings/timeout_ms", "field.range" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct json *j;
        struct json_error where;
        struct problems problems = { .arena = house.arena };
        struct plan *plan = NULL;
        assert_int_equal(json_parse(house.arena, str_of(rows[i].definition), &j, &where), OK);
        err e = field_decode(house.arena, &definition_table, FIELD_CREATE, j, S("/definition"), NULL, &problems);
        if (e == OK)
            e = plan_compile(j, S("/definition"), &problems, &plan);
        if (e != ERR_INVALID || problems.n == 0)
            fail_msg("accepted: %s", rows[i].definition);
        assert_str(problems.list[0].pointer, rows[i].pointer);
        assert_string_equal(problems.list[0].code, rows[i].code);
    }
}

/* --- what comes of a definition ----------------------------------------------------------------------------------- */

/* The rest of a definition that begins with a switch `s`. */
#define SWITCH_STEPS                                                                                                                                                              \
    "{\"id\":\"g\",\"type\":\"transform\",\"with\":{\"x\":1}},{\"id\":\"b\",\"type\":\"transform\",\"with\":{\"x\":2}},{\"id\":\"o\",\"type\":\"transform\",\"with\":{\"x\":3}}," \
    "{\"id\":\"f\",\"type\":\"transform\",\"with\":{\"x\":4}}],\"dependencies\":{\"g\":[\"s\"],\"b\":[\"s\"],\"o\":[\"s\"],\"f\":[\"s\"]}}"

static void test_outcomes(void **state)
{
    static const struct {
        const char *definition, *input, *status, *result; /* output, or the error's code */
    } rows[] = {
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":\"{{ input.n * 2 }}\",\"t\":\"n={{ input.n }}\"}}]}",
          "{\"n\":21}", "completed", "{\"a\":{\"x\":42,\"t\":\"n=21\"}}" },
        /* the output is that of the last respond step */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":1}},{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"status\":201,\"body\":\"{{ steps.a.output }}\"}}],"
          "\"dependencies\":{\"r\":[\"a\"]}}",
          "{}", "completed", "{\"status\":201,\"headers\":{},\"body\":{\"x\":1}}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"script\",\"with\":{\"code\":\"return { sum = args.a + args.b }\",\"args\":{\"a\":\"{{ input.a }}\",\"b\":2}}}]}",
          "{\"a\":1}", "completed", "{\"s\":{\"sum\":3}}" },
        /* a false condition skips the step, and all that only waits for it */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"n\":5}},{\"id\":\"b\",\"type\":\"transform\"},{\"id\":\"c\",\"type\":\"transform\"}],"
          "\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"]},\"conditions\":{\"b\":\"steps.a.output.n > 5\"}}",
          "{}", "completed", "{}" },
        /* join all: one completed dependency is enough when the other was skipped */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"b\",\"type\":\"transform\"},{\"id\":\"c\",\"type\":\"transform\",\"with\":{\"b\":\"{{ steps.b.status }}\"}}],"
          "\"dependencies\":{\"c\":[\"a\",\"b\"]},\"conditions\":{\"b\":\"false\"}}",
          "{}", "completed", "{\"c\":{\"b\":\"skipped\"}}" },
        /* join always: runs although nothing before it completed */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"b\",\"type\":\"transform\",\"join\":\"always\",\"with\":{\"x\":1}}],"
          "\"dependencies\":{\"b\":[\"a\"]},\"conditions\":{\"a\":\"false\"}}",
          "{}", "completed", "{\"b\":{\"x\":1}}" },
        /* join any: skipped when none completed */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"b\",\"type\":\"transform\",\"join\":\"any\"}],\"dependencies\":{\"b\":[\"a\"]},\"conditions\":{\"a\":\"nil\"}}",
          "{}", "completed", "{}" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"fail\",\"with\":{\"message\":\"no {{ input.x }}\",\"code\":\"shop.closed\"}}]}",
          "{\"x\":\"way\"}", "failed", "shop.closed" },
        /* a failure that is to be passed over; its dependants see the error */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"fail\",\"on_error\":\"continue\"},{\"id\":\"b\",\"type\":\"transform\",\"join\":\"always\",\"with\":{\"e\":\"{{ steps.a.error.code }}\"}}],"
          "\"dependencies\":{\"b\":[\"a\"]}}",
          "{}", "completed", "{\"b\":{\"e\":\"workflow.failed\"}}" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":\"{{ input.a.b.c }}\"}}]}", "{}", "failed",
          "expr.runtime" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"script\",\"with\":{\"code\":\"while true do end\"}}]}", "{}", "failed",
          "expr.instructions" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"script\",\"with\":{\"code\":\"local s = 'x' while true do s = s .. s end\"}}]}",
          "{}", "failed", "expr.memory" },
        { "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"status\":\"{{ 'teapot' }}\"}}]}", "{}", "failed",
          "step.input" },
        { "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"status\":\"{{ '{' .. '{' }}\"}}]}", "{}",
          "failed", "step.input" },
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/a/{{ input.id }}\"}}]}",
          "{\"id\":\"x/y\"}", "completed", NULL },
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/gone\"}}]}", "{}",
          "failed", "http.status" },
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://10.0.0.1/\"}}]}", "{}", "failed",
          "egress.blocked" },
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":50,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang1\"}}]}",
          "{}", "failed", "http.timeout" },
        /* a header of the answer cannot smuggle another one */
        { "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"headers\":\"{{ input.h }}\"}}]}",
          "{\"h\":{\"Z: 1\\r\\nSet-Cookie: e=1\\r\\nY\":\"v\"}}", "failed", "step.input" },
        { "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"headers\":{\"X-A \":\"v\"}}}]}", "{}", "failed",
          "step.input" },
        { "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"headers\":{\"X-A\":\"{{ 'a' .. string.char(13, 10) .. 'B: c' }}\"}}}]}",
          "{}", "failed", "step.input" },
        /* a value must not change which resource a path names */
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/a/{{ input.id }}/b\"}}]}",
          "{\"id\":\"..\"}", "failed", "step.input" },
        { "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/a/%2e%2E/b\"}}]}",
          "{}", "failed", "step.input" },
        /* what could not be read back is not recorded */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"script\",\"with\":{\"code\":\"local t = {} for i = 1, 56 do t = { t } end return t\"}}]}",
          "{}", "failed", "step.too_deep" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"script\",\"with\":{\"code\":\"local t = {} for i = 1, 55 do t = { t } end return t\"}}]}",
          "{}", "completed", NULL },
        /* 32 MiB of values in all */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":\"{{ ('x'):rep(4000000) }}\"}},{\"id\":\"b\",\"type\":\"transform\",\"with\":{\"x\":\"{{ ('x'):rep(4000000) }}\"}},"
          "{\"id\":\"c\",\"type\":\"transform\",\"with\":{\"x\":\"{{ ('x'):rep(4000000) }}\"}},{\"id\":\"d\",\"type\":\"transform\",\"with\":{\"x\":\"{{ ('x'):rep(4000000) }}\"}},"
          "{\"id\":\"e\",\"type\":\"transform\",\"with\":{\"x\":\"{{ ('x'):rep(4000000) }}\"}}]}",
          "{}", "failed", "engine.memory" },
        /* a condition is a value that others read */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"condition\",\"with\":{\"if\":\"input.n > 5\"}},{\"id\":\"b\",\"type\":\"transform\",\"with\":{\"x\":1}},{\"id\":\"c\",\"type\":\"transform\",\"with\":{\"x\":2}}],"
          "\"dependencies\":{\"b\":[\"a\"],\"c\":[\"a\"]},\"conditions\":{\"b\":\"steps.a.output.result\",\"c\":\"not steps.a.output.result\"}}",
          "{\"n\":6}", "completed", "{\"b\":{\"x\":1}}" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"condition\",\"with\":{\"if\":\"{{ input.none }}\"}}]}", "{}",
          "completed", "{\"a\":{\"result\":false}}" },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"condition\",\"with\":{\"if\":\"input.a.b > 1\"}}]}", "{}", "failed",
          "expr.runtime" },
        /* a switch: the chosen case runs, a step of two cases runs in both, the others are skipped, whoever is in no case runs */
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"{{ input.v }}\",\"cases\":{\"de\":[\"g\",\"b\"],\"1\":[\"b\"]},\"default\":[\"o\"]}}," SWITCH_STEPS,
          "{\"v\":\"de\"}", "completed", "{\"g\":{\"x\":1},\"b\":{\"x\":2},\"f\":{\"x\":4}}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"{{ input.v }}\",\"cases\":{\"de\":[\"g\",\"b\"],\"1\":[\"b\"]},\"default\":[\"o\"]}}," SWITCH_STEPS,
          "{\"v\":1}", "completed", "{\"b\":{\"x\":2},\"f\":{\"x\":4}}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"{{ input.v }}\",\"cases\":{\"de\":[\"g\",\"b\"],\"1\":[\"b\"]},\"default\":[\"o\"]}}," SWITCH_STEPS,
          "{\"v\":true}", "completed", "{\"o\":{\"x\":3},\"f\":{\"x\":4}}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":null,\"cases\":{\"de\":[\"g\",\"b\"],\"1\":[\"b\"]},\"default\":[\"o\"]}}," SWITCH_STEPS,
          "{}", "completed", "{\"o\":{\"x\":3},\"f\":{\"x\":4}}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"{{ input.v }}\",\"cases\":{\"de\":[\"g\",\"b\"],\"1\":[\"b\"]},\"default\":[\"o\"]}}," SWITCH_STEPS,
          "{\"v\":[]}", "failed", "switch.value" },
        /* a step of a case waits for the choice although it joins what came first, and a switch that was skipped chose nothing */
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":5}},{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"x\",\"cases\":{\"y\":[\"t\"]}}},"
          "{\"id\":\"t\",\"type\":\"transform\",\"join\":\"any\"}],\"dependencies\":{\"s\":[\"d\"],\"t\":[\"a\",\"s\"]}}",
          "{}", "completed", "{}" },
        { "{\"steps\":[{\"id\":\"s\",\"type\":\"switch\",\"with\":{\"value\":\"y\",\"cases\":{\"y\":[\"t\"]}}},"
          "{\"id\":\"t\",\"type\":\"transform\",\"join\":\"always\"}],\"dependencies\":{\"t\":[\"s\"]},\"conditions\":{\"s\":\"false\"}}",
          "{}", "completed", "{}" },
        { "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":20}}]}", "{}", "completed", "{\"d\":{}}" },
        { "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"until\":\"2001-01-01T00:00:00Z\"}}]}", "{}",
          "completed", "{\"d\":{}}" },
        { "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}],\"settings\":{\"timeout_ms\":30}}",
          "{}", "timed_out", "execution.timed_out" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct outcome *o = run(rows[i].definition, rows[i].input);
        struct execution *x = &o->execution;
        if (!str_eq(x->status, str_of(rows[i].status)))
            fail_msg("%s: %.*s %.*s", rows[i].definition, STR_FMT(x->status), STR_FMT(x->error));
        if (x->error.p != NULL)
            assert_error(x, rows[i].result);
        else if (rows[i].result != NULL)
            assert_str(x->output_data, rows[i].result);
        outcome_release(o);
    }
}

static void test_url_values_are_encoded(void **state)
{
    struct outcome *o = run(
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/a/{{ input.id }}\",\"query\":{\"q\":\"a b&c\",\"l\":[1,2],\"n\":null}}}]}",
        "{\"id\":\"x/y?z\"}");
    assert_true(str_find(o->execution.step_executions, S("/a/x%2Fy%3Fz"), 0) >= 0);
    assert_int_equal(calls_of("/a/x%2Fy%3Fz"), 1);
    outcome_release(o);
}

/* --- promises ----------------------------------------------------------------------------------------------------- */

static const char three_pure[] =
    "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"x\":1}},{\"id\":\"b\",\"type\":\"script\",\"with\":{\"code\":\"return steps.a.output.x + 1\"}},"
    "{\"id\":\"c\",\"type\":\"respond\",\"with\":{\"body\":\"{{ steps.b.output }}\"}}],\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"]}}";

static void test_pure_steps_cost_one_transaction(void **state)
{
    u64 before = db_stats(house.db).jobs;
    struct outcome *o = run(three_pure, "{}");
    assert_int_equal(db_stats(house.db).jobs - before, 1);
    assert_true(o->has_response);
    assert_int_equal(o->response_status, 200);
    assert_str(o->response_body, "2");
    outcome_release(o);
}

static void test_retries(void **state)
{
    house.fail_first = 2;
    struct outcome *o = run(
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"retry\":{\"max_attempts\":3,\"initial_ms\":5,\"max_ms\":10},\"with\":{\"url\":\"http://127.0.0.1:%PORT%/flaky\"}}]}",
        "{}");
    assert_str(o->execution.status, "completed");
    assert_int_equal(calls_of("/flaky"), 3);
    assert_true(str_find(o->execution.step_executions, S("\"attempt\":3"), 0) >= 0);
    assert_true(str_find(o->execution.step_executions, S("\"n\":2,\"error\":{\"code\":\"http.status\""), 0) >= 0);
    str key = strf(house.arena, "%.*s-h-0", STR_FMT(o->execution.execution_id));
    assert_str(str_of(house.upstream.last_key), key.p);
    outcome_release(o);
}

static void test_final_errors_are_not_retried(void **state)
{
    struct outcome *o = run(
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"retry\":{\"max_attempts\":5,\"initial_ms\":1},\"with\":{\"url\":\"http://127.0.0.1:%PORT%/gone\"}}]}",
        "{}");
    assert_str(o->execution.status, "failed");
    assert_int_equal(calls_of("/gone"), 1);
    outcome_release(o);
}

static void test_retries_are_used_up(void **state)
{
    struct outcome *o = run(
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"retry\":{\"max_attempts\":2,\"initial_ms\":1},\"with\":{\"url\":\"http://127.0.0.1:%PORT%/drop\"}}]}",
        "{}");
    assert_str(o->execution.status, "failed");
    assert_int_equal(calls_of("/drop"), 2);
    outcome_release(o);
}

/* --- traces ------------------------------------------------------------------------------------------------------- */

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
static const char traceparent[] = "00-" TRACE "-00f067aa0ba902b7-01";

/* The trace goes on, in a span that is neither the caller's nor that of another call. */
static void assert_traced(char seen[128])
{
    char span[17] = "", got[128];
    pthread_mutex_lock(&house.upstream.lock);
    memcpy(got, house.upstream.last_trace, sizeof got);
    pthread_mutex_unlock(&house.upstream.lock);
    assert_true(str_starts(str_of(got), S("00-" TRACE "-")));
    assert_true(str_ends(str_of(got), S("-01 a=1")));
    memcpy(span, got + 36, 16);
    assert_string_not_equal(span, "00f067aa0ba902b7");
    assert_null(strstr(seen, span));
    snprintf(seen + strlen(seen), 128 - strlen(seen), "%s", span);
}

static void start_traced(struct caller *c, const char *definition)
{
    struct start s = { .input_data = S("{}"), .traceparent = str_of(traceparent), .tracestate = S("a=1") };
    assert_int_equal(start_as(c, definition, &s), OK);
}

static void test_calls_go_on_with_the_trace(void **state)
{
    static const struct {
        const char *headers, *sent;
    } rows[] = {
        { "{\"traceparent\":\"mine\"}", "mine " },
        { "{\"TraceState\":\"b=2\",\"traceparent\":\"mine\"}", "mine b=2" },
    };
    struct caller c;
    char seen[128] = "", definition[512];
    start_traced(&c, "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/x\"}}]}");
    outcome_release(wait_for(&c));
    assert_traced(seen);
    for (size_t i = 0; i < COUNT(rows); i++) {
        snprintf(
            definition, sizeof definition,
            "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%%PORT%%/x\",\"headers\":%s}}]}",
            rows[i].headers);
        start_traced(&c, definition);
        outcome_release(wait_for(&c));
        assert_string_equal(house.upstream.last_trace, rows[i].sent);
    }
    outcome_release(
        run("{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/x\"}}]}", "{}"));
    assert_string_equal(house.upstream.last_trace, " ");
}

/* Each attempt is a span of its own. */
static void test_retries_are_spans_of_their_own(void **state)
{
    struct caller c;
    char seen[128] = "";
    house.fail_first = 1;
    start_traced(
        &c,
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"retry\":{\"max_attempts\":2,\"initial_ms\":300},\"with\":{\"url\":\"http://127.0.0.1:%PORT%/flaky\"}}]}");
    while (calls_of("/flaky") < 1)
        sched_yield();
    assert_traced(seen);
    outcome_release(wait_for(&c));
    assert_traced(seen);
}

/* A failing branch ends the execution at once, although another branch is in the middle of a call. */
static void test_failure_cancels_the_rest(void **state)
{
    struct outcome *o = run(
        "{\"steps\":[{\"id\":\"slow\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang2\"}},{\"id\":\"bad\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/gone\"}},"
        "{\"id\":\"never\",\"type\":\"transform\"}],\"dependencies\":{\"never\":[\"slow\"]}}",
        "{}");
    assert_str(o->execution.status, "failed");
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"slow\",\"type\":\"http\",\"status\":\"cancelled\""), 0) >= 0);
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"never\",\"type\":\"transform\",\"status\":\"pending\""), 0) >= 0);
    assert_true(o->execution.execution_time < 10);
    outcome_release(o);
}

static void test_idempotency_key(void **state)
{
    struct caller c[3];
    assert_int_equal(start(&c[0], three_pure, "{\"n\":1}", "key-1", false), OK);
    assert_int_equal(start(&c[1], three_pure, "{\"n\":1}", "key-1", false), OK);
    struct outcome *a = wait_for(&c[0]), *b = wait_for(&c[1]);
    assert_true(str_eq(a->execution.execution_id, b->execution.execution_id));
    assert_true(c[0].waiter.joined != c[1].waiter.joined);
    assert_true(b->has_response);
    assert_int_equal(start(&c[2], three_pure, "{\"n\":2}", "key-1", false), OK);
    assert_int_equal(wait_for(&c[2])->error, ERR_INVALID);
    outcome_release(a);
    outcome_release(b);
    outcome_release(c[2].outcome);
}

/* A repeat of an execution that waits in the database joins it, and both are told at its end. */
static void test_joining_a_waiting_execution(void **state)
{
    static const char definition[] = "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":150}}]}";
    struct caller first, second;
    assert_int_equal(start(&first, definition, "{}", "key-2", false), OK);
    await_status(first.id, "waiting");
    assert_int_equal(start(&second, definition, "{}", "key-2", false), OK);
    struct outcome *a = wait_for(&first), *b = wait_for(&second);
    assert_str(b->execution.status, "completed");
    assert_true(str_eq(a->execution.execution_id, b->execution.execution_id));
    outcome_release(a);
    outcome_release(b);
}

/* Somebody who joined knows only the id that was given to them; they can stop waiting all the same. */
static void test_a_joined_caller_stops_waiting(void **state)
{
    static const char definition[] = "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}]}";
    struct caller first, second;
    assert_int_equal(start(&first, definition, "{}", "key-3", true), OK);
    outcome_release(wait_for(&first));
    await_status(first.id, "waiting");
    assert_int_equal(start(&second, definition, "{}", "key-3", false), OK);
    engine_tell_now(house.engine, S("tenant_1"), second.id, &second.waiter);
    struct outcome *o = wait_for(&second);
    assert_int_equal(o->error, OK);
    assert_true(second.waiter.joined);
    assert_true(str_eq(o->execution.execution_id, first.id));
    outcome_release(o);
}

/* Two executions on one worker: the long one gives the short one its turn. */
static void test_a_long_execution_shares_its_worker(void **state)
{
    struct buf b = { .arena = house.arena };
    BUF_LIT(&b, "{\"steps\":[");
    for (int i = 0; i < 100; i++)
        buf_f(&b, "%s{\"id\":\"s%d\",\"type\":\"script\",\"with\":{\"code\":\"for i = 1, 200000 do end\"}}",
              i > 0 ? "," : "", i);
    BUF_LIT(&b, "]}");
    buf_char(&b, '\0');
    struct caller slow[4], quick;
    for (int i = 0; i < 4; i++)
        assert_int_equal(start(&slow[i], b.p, "{}", NULL, false), OK);
    assert_int_equal(start(&quick, three_pure, "{}", NULL, false), OK);
    outcome_release(wait_for(&quick));
    int ended = 0;
    for (int i = 0; i < 4; i++) {
        pthread_mutex_lock(&slow[i].lock);
        ended += slow[i].told;
        pthread_mutex_unlock(&slow[i].lock);
    }
    assert_true(ended < 4);
    for (int i = 0; i < 4; i++) {
        assert_str(wait_for(&slow[i])->execution.status, "completed");
        outcome_release(slow[i].outcome);
    }
}

static void test_detached_is_told_when_queued(void **state)
{
    struct caller c;
    assert_int_equal(start(&c, three_pure, "{}", NULL, true), OK);
    struct outcome *o = wait_for(&c);
    assert_int_equal(o->error, OK);
    assert_true(str_eq(o->execution.execution_id, c.id));
    outcome_release(o);
    struct execution *x = await_status(c.id, "completed");
    assert_true(str_find(x->step_executions, S("\"status\":\"completed\""), 0) >= 0);
}

static void test_tell_now(void **state)
{
    struct caller c;
    assert_int_equal(
        start(&c, "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}]}", "{}", NULL, false), OK);
    engine_tell_now(house.engine, S("tenant_1"), c.id, &c.waiter);
    struct outcome *o = wait_for(&c);
    assert_int_equal(o->error, OK);
    assert_false(execution_is_final(o->execution.status));
    engine_tell_now(house.engine, S("tenant_1"), c.id, &c.waiter); /* harmless */
    outcome_release(o);
}

static void test_waiting_costs_no_memory(void **state)
{
    struct caller c[20];
    for (size_t i = 0; i < COUNT(c); i++)
        assert_int_equal(
            start(
                &c[i],
                "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":3600000}}],\"settings\":{\"timeout_ms\":7200000}}",
                "{}", NULL, true),
            OK);
    for (size_t i = 0; i < COUNT(c); i++) {
        outcome_release(wait_for(&c[i]));
        await_status(c[i].id, "waiting");
    }
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (engine_stats(house.engine).live > 0)
        assert_true(clock_mono_us() < until);
}

/* What a process that died left behind: a row that runs, and a step in the middle of its call. */
static void leave_behind(str id, const char *definition)
{
    struct caller c;
    assert_int_equal(start(&c, definition, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (calls_of("/hang3") == 0)
        assert_true(clock_mono_us() < until);
    cut_off();
    memcpy((char *)id.p, c.id.p, id.n);
}

static const char two_calls[] =
    "{\"steps\":[{\"id\":\"a\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/first\"}},{\"id\":\"b\",\"type\":\"delay\",\"with\":{\"ms\":300}},"
    "{\"id\":\"c\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/second/{{ steps.a.output.body.call }}\"}}],\"dependencies\":{\"b\":[\"a\"],\"c\":[\"b\"]}}";

/* --- cancelled by somebody ------------------------------------------------------------------------------------------ */

struct asking {
    str id;
    bool first;
};

static err ask(void *ctx, struct tx *tx)
{
    struct asking *a = ctx;
    return engine_cancel_ask(tx, S("tenant_1"), a->id, clock_now_us(), &a->first);
}

static err cancel(str id, bool *first)
{
    struct asking a = { .id = id };
    err e = db_write_wait(house.db, house.arena, ask, &a);
    *first = a.first;
    return e;
}

static void await_call(const char *path)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (calls_of(path) == 0)
        assert_true(clock_mono_us() < until);
}

static const char hanging[] =
    "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":60000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang4\"}},{\"id\":\"n\",\"type\":\"transform\"}],"
    "\"dependencies\":{\"n\":[\"h\"]}}";
static const char sleeping[] =
    "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}],\"dependencies\":{\"d\":[\"a\"]}}";

static void assert_cancelled(const struct execution *x, const char *step)
{
    assert_str(x->status, "cancelled");
    assert_error(x, "execution.cancelled");
    assert_true(str_find(x->step_executions, str_of(step), 0) >= 0);
}

static void test_cancel_in_the_middle_of_a_call(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, hanging, "{}", NULL, false), OK);
    await_call("/hang4");
    assert_int_equal(cancel(c.id, &first), OK);
    assert_true(first);
    assert_int_equal(cancel(c.id, &first), OK); /* a repeat changes nothing */
    assert_false(first);
    engine_cancel(house.engine, c.id);
    struct outcome *o = wait_for(&c);
    assert_cancelled(&o->execution, "\"step_id\":\"h\",\"type\":\"http\",\"status\":\"cancelled\"");
    assert_true(o->execution.execution_time < 30);
    outcome_release(o);
    assert_int_equal(cancel(c.id, &first), ERR_NOT_FOUND);
    assert_int_equal(cancel(S("execution_none"), &first), ERR_NOT_FOUND);
    engine_cancel(house.engine, c.id); /* harmless */
}

static void test_cancel_of_a_parked_execution(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, sleeping, "{}", NULL, false), OK);
    await_status(c.id, "waiting");
    assert_int_equal(cancel(c.id, &first), OK);
    engine_cancel(house.engine, c.id);
    struct outcome *o = wait_for(&c); /* who waited for it is told */
    assert_cancelled(&o->execution, "\"step_id\":\"a\",\"type\":\"transform\",\"status\":\"completed\"");
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"d\",\"type\":\"delay\",\"status\":\"cancelled\""), 0) >= 0);
    outcome_release(o);
}

/* Asked for, and then the process died before any worker heard of it. */
static void test_cancel_outlives_a_crash(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    bool first;
    leave_behind(
        id,
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":30000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang3\"}}]}");
    assert_int_equal(cancel(id, &first), OK);
    open_engine();
    assert_cancelled(await_status(id, "cancelled"), "\"status\":\"cancelled\"");
    assert_int_equal(calls_of("/hang3"), 1);
}

/* Whenever it is asked for, the end comes, and comes once: from the first write to the parking. */
static void test_cancel_at_any_moment(void **state)
{
    for (int i = 0; i < 60; i++) {
        struct caller c;
        bool first;
        assert_int_equal(start(&c, i % 2 == 0 ? sleeping : hanging, "{}", NULL, true), OK);
        outcome_release(wait_for(&c)); /* its row is on disk, and its worker is busy with what comes next */
        for (volatile int k = 0; k < i * 2000; k++)
            continue;
        assert_int_equal(cancel(c.id, &first), OK);
        engine_cancel(house.engine, c.id);
        await_status(c.id, "cancelled");
    }
}

/* --- killed --------------------------------------------------------------------------------------------------------- */

static err ask_kill(void *ctx, struct tx *tx)
{
    struct asking *a = ctx;
    return engine_kill_ask(tx, S("tenant_1"), a->id, clock_now_us(), &a->first);
}

static err kill_it(str id, bool *first)
{
    struct asking a = { .id = id };
    err e = db_write_wait(house.db, house.arena, ask_kill, &a);
    *first = a.first;
    return e;
}

static void assert_killed(const struct execution *x, const char *step)
{
    assert_str(x->status, "cancelled");
    assert_error(x, "execution.killed");
    assert_true(str_find(x->step_executions, str_of(step), 0) >= 0);
}

/* A loop that does nothing, so that no call comes back however it is cancelled. */
static struct {
    struct message message;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool blocked, go_on;
} block = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static void on_block(struct message *m)
{
    pthread_mutex_lock(&block.lock);
    block.blocked = true;
    pthread_cond_broadcast(&block.cond);
    while (!block.go_on)
        pthread_cond_wait(&block.cond, &block.lock);
    pthread_mutex_unlock(&block.lock);
}

static void block_loop(void)
{
    block.message.run = on_block;
    block.blocked = block.go_on = false;
    loop_post(house.loop, &block.message);
    pthread_mutex_lock(&block.lock);
    while (!block.blocked)
        pthread_cond_wait(&block.cond, &block.lock);
    pthread_mutex_unlock(&block.lock);
}

static void unblock_loop(void)
{
    pthread_mutex_lock(&block.lock);
    block.go_on = true;
    pthread_cond_broadcast(&block.cond);
    pthread_mutex_unlock(&block.lock);
}

/* The end is on disk while the call is still out; what it brings later goes nowhere. */
static void test_kill_does_not_wait_for_calls(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, hanging, "{}", NULL, false), OK);
    await_call("/hang4");
    block_loop();
    assert_int_equal(kill_it(c.id, &first), OK);
    assert_true(first);
    assert_int_equal(kill_it(c.id, &first), OK); /* a repeat changes nothing */
    assert_false(first);
    engine_kill(house.engine, c.id);
    struct outcome *o = wait_for(&c);
    assert_killed(&o->execution, "\"step_id\":\"h\",\"type\":\"http\",\"status\":\"cancelled\"");
    outcome_release(o);
    unblock_loop();
    assert_int_equal(kill_it(c.id, &first), ERR_NOT_FOUND);
    assert_int_equal(kill_it(S("execution_none"), &first), ERR_NOT_FOUND);
    engine_kill(house.engine, c.id); /* harmless */
}

/* A cancellation that does not get on is overtaken. */
static void test_kill_overtakes_a_cancellation(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, hanging, "{}", NULL, false), OK);
    await_call("/hang4");
    block_loop();
    assert_int_equal(cancel(c.id, &first), OK);
    engine_cancel(house.engine, c.id);
    assert_int_equal(kill_it(c.id, &first), OK);
    assert_true(first);
    engine_kill(house.engine, c.id);
    struct outcome *o = wait_for(&c);
    assert_killed(&o->execution, "\"step_id\":\"h\",\"type\":\"http\",\"status\":\"cancelled\"");
    outcome_release(o);
    unblock_loop();
}

static void test_kill_of_a_parked_execution(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, sleeping, "{}", NULL, false), OK);
    await_status(c.id, "waiting");
    assert_int_equal(kill_it(c.id, &first), OK);
    engine_kill(house.engine, c.id);
    struct outcome *o = wait_for(&c);
    assert_killed(&o->execution, "\"step_id\":\"a\",\"type\":\"transform\",\"status\":\"completed\"");
    outcome_release(o);
}

/* One whose definition cannot be had at the moment: nothing is known of its steps but what was recorded. */
static void test_kill_of_one_that_cannot_be_read(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c, sleeping, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    await_status(c.id, "waiting");
    house.load_fails = ERR_BUSY;
    assert_int_equal(kill_it(c.id, &first), OK);
    engine_kill(house.engine, c.id);
    assert_killed(await_status(c.id, "cancelled"), "\"step_id\":\"a\"");
}

static void test_kill_outlives_a_crash(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    bool first;
    leave_behind(
        id,
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":30000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang3\"}}]}");
    assert_int_equal(kill_it(id, &first), OK);
    open_engine();
    assert_killed(await_status(id, "cancelled"), "\"status\":\"cancelled\"");
    assert_int_equal(calls_of("/hang3"), 1);
}

static void test_kill_at_any_moment(void **state)
{
    for (int i = 0; i < 60; i++) {
        struct caller c;
        bool first;
        assert_int_equal(start(&c, i % 2 == 0 ? sleeping : hanging, "{}", NULL, true), OK);
        outcome_release(wait_for(&c));
        for (volatile int k = 0; k < i * 2000; k++)
            continue;
        assert_int_equal(kill_it(c.id, &first), OK);
        engine_kill(house.engine, c.id);
        assert_error(await_status(c.id, "cancelled"), "execution.killed");
    }
}

/* --- played again --------------------------------------------------------------------------------------------------- */

/* Four calls: b and c wait for a, d for c; `t` at the end fails unless the input says otherwise. */
static const char diamond[] =
    "{\"steps\":[{\"id\":\"a\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/ra\"}},{\"id\":\"b\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/rb\"}},"
    "{\"id\":\"c\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/rc\"}},{\"id\":\"n\",\"type\":\"script\",\"with\":{\"code\":\"return nil\"}},"
    "{\"id\":\"f\",\"type\":\"fail\",\"on_error\":\"continue\"},{\"id\":\"d\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/{{ input.path }}\"}}],"
    "\"dependencies\":{\"b\":[\"a\"],\"c\":[\"a\"],\"d\":[\"c\",\"n\"]}}";

static struct outcome *replay(const char *definition, str replays, const char *from, const char *input)
{
    struct caller c;
    struct start s = {
        .input_data = str_of(input), .replays = replays, .replay_from = str_of(from), .parent_id = replays
    };
    assert_int_equal(start_as(&c, definition, &s), OK);
    struct outcome *o = wait_for(&c);
    assert_int_equal(o->error, OK);
    return o;
}

static void test_replay_from_a_step(void **state)
{
    struct outcome *first = run(diamond, "{\"path\":\"rd\"}");
    assert_str(first->execution.status, "completed");
    struct outcome *o = replay(diamond, first->execution.execution_id, "c", NULL);
    assert_str(o->execution.status, "completed");
    assert_int_equal(calls_of("/ra"), 1);
    assert_int_equal(calls_of("/rb"), 1);
    assert_int_equal(calls_of("/rc"), 2);
    assert_int_equal(calls_of("/rd"), 2);
    assert_true(str_eq(o->execution.parent_id, first->execution.execution_id));
    assert_str(o->execution.input_data, "{\"path\":\"rd\"}");
    assert_true(str_find(o->execution.step_executions, S("\"call\":1,\"path\":\"/rb\""), 0) >= 0);
    assert_true(str_find(o->execution.step_executions, S("\"call\":2,\"path\":\"/rc\""), 0) >= 0);
    /* only what happened here is told as its events */
    struct execution_event *list;
    u32 n, started = 0;
    assert_int_equal(execution_events(house.arena, &o->execution, &list, &n), OK);
    for (u32 i = 0; i < n; i++)
        started += str_eq(list[i].name, S("step.started"));
    assert_str(list[0].name, "execution.started");
    assert_int_equal(started, 2);
    outcome_release(o);
    outcome_release(first);
}

static void test_replay_with_another_input(void **state)
{
    struct outcome *first = run(diamond, "{\"path\":\"rd\"}");
    struct outcome *o = replay(diamond, first->execution.execution_id, "d", "{\"path\":\"re\"}");
    assert_str(o->execution.status, "completed");
    assert_int_equal(calls_of("/ra") + calls_of("/rb") + calls_of("/rc") + calls_of("/rd") + calls_of("/re"), 5);
    assert_str(o->execution.input_data, "{\"path\":\"re\"}");
    outcome_release(o);
    outcome_release(first);
}

/* From what failed; what was passed over by the definition, and what is null, keeps its result. */
static void test_retry_runs_what_failed(void **state)
{
    struct outcome *first = run(diamond, "{\"path\":\"gone\"}");
    assert_str(first->execution.status, "failed");
    struct outcome *o = replay(diamond, first->execution.execution_id, NULL, "{\"path\":\"rd\"}");
    assert_str(o->execution.status, "completed");
    assert_int_equal(calls_of("/ra"), 1);
    assert_int_equal(calls_of("/rc"), 1);
    assert_int_equal(calls_of("/rd"), 1);
    assert_true(
        str_find(o->execution.step_executions, S("\"step_id\":\"f\",\"type\":\"fail\",\"status\":\"failed\""), 0) >= 0);
    outcome_release(o);
    outcome_release(first);
}

/* Results that were taken over are on disk with the admission: after a crash nothing of them runs. */
static void test_replay_outlives_a_stop(void **state)
{
    static const char definition[] =
        "{\"steps\":[{\"id\":\"a\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/ra\"}},{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":\"{{ input.ms }}\"}},"
        "{\"id\":\"z\",\"type\":\"transform\",\"with\":{\"n\":\"{{ steps.a.output.body.call }}\"}}],\"dependencies\":{\"d\":[\"a\"],\"z\":[\"d\"]}}";
    struct outcome *first = run(definition, "{\"ms\":1}");
    struct caller c;
    struct start s = { .input_data = S("{\"ms\":300}"),
                       .replays = first->execution.execution_id,
                       .replay_from = S("d"),
                       .detached = true };
    assert_int_equal(start_as(&c, definition, &s), OK);
    outcome_release(wait_for(&c));
    await_status(c.id, "waiting");
    close_engine();
    open_engine();
    struct execution *x = await_status(c.id, "completed");
    assert_str(x->output_data, "{\"z\":{\"n\":1}}");
    assert_int_equal(calls_of("/ra"), 1);
    outcome_release(first);
}

static void test_a_pure_replay_costs_one_transaction(void **state)
{
    struct outcome *first = run(three_pure, "{}");
    u64 before = db_stats(house.db).jobs;
    struct outcome *o = replay(three_pure, first->execution.execution_id, "b", NULL);
    assert_int_equal(db_stats(house.db).jobs - before, 1);
    assert_str(o->response_body, "2");
    outcome_release(o);
    outcome_release(first);
}

/* --- foreach -------------------------------------------------------------------------------------------------------- */

/* Definitions with ' for ", which nothing in these needs otherwise. */
static const char *quoted(const char *text)
{
    char *copy = NEW_N(house.arena, char, strlen(text) + 1);
    assert_non_null(copy);
    for (size_t i = 0; i <= strlen(text); i++)
        copy[i] = text[i] == '\'' ? '"' : text[i];
    return copy;
}

#define EACH(with, body) "{'id':'e','type':'foreach','with':{" with ",'steps':{'steps':[" body "]}}}"
#define TWICE            "{'id':'x','type':'transform','with':{'y':'{{ item * 2 }}'}}"
#define CALL(path)       "{'id':'h','type':'http','with':{'url':'http://127.0.0.1:%PORT%" path "'}}"

static void test_foreach_outcomes(void **state)
{
    static const struct {
        const char *definition, *input, *status, *result; /* output, or the error's code */
    } rows[] = {
        { "{'steps':[" EACH("'items':'{{ input.list }}'", TWICE) "]}", "{'list':[3,1,2]}", "completed",
          "{'e':[{'x':{'y':6}},{'x':{'y':2}},{'x':{'y':4}}]}" },
        { "{'steps':[" EACH("'items':[],'concurrency':100", TWICE) "]}", "{}", "completed", "{'e':[]}" },
        { "{'steps':[" EACH("'items':[1,null,{'a':[2]}],'concurrency':2",
                            "{'id':'x','type':'transform','with':{'y':'{{ item }}'}}") "]}",
          "{}", "completed", "{'e':[{'x':{'y':1}},{'x':{'y':null}},{'x':{'y':{'a':[2]}}}]}" },
        /* its steps wait for each other, and see those around them; what follows sees its list */
        { "{'steps':[{'id':'a','type':'transform','with':{'f':10}},"
          "{'id':'e','type':'foreach','with':{'items':'{{ input }}','steps':{'steps':[" TWICE
          ",{'id':'z','type':'transform','with':{'v':'{{ steps.x.output.y + steps.a.output.f }}'}}],"
          "'dependencies':{'z':['x']},'conditions':{'z':'item ~= 2'}}}},"
          "{'id':'l','type':'transform','with':{'n':'{{ #steps.e.output }}','last':'{{ steps.e.output[3].z.v }}'}}],"
          "'dependencies':{'e':['a'],'l':['e']}}",
          "[1,2,3]", "completed", "{'l':{'n':3,'last':16}}" },
        /* one in another */
        { "{'steps':[" EACH("'items':[[1,2],[],[3]],'concurrency':3",
                            "{'id':'i','type':'foreach','with':{'items':'{{ item }}','steps':{'steps':[" TWICE
                            "]}}}") "]}",
          "{}", "completed", "{'e':[{'i':[{'x':{'y':2}},{'x':{'y':4}}]},{'i':[]},{'i':[{'x':{'y':6}}]}]}" },
        { "{'steps':[" EACH("'items':'{{ 5 }}'", TWICE) "]}", "{}", "failed", "step.input" },
        { "{'steps':[" EACH("'items':[1],'concurrency':'{{ 101 }}'", TWICE) "]}", "{}", "failed", "step.input" },
        /* one failure ends it, with the cause; or gives an error in its place */
        { "{'steps':[" EACH("'items':[1,'a',3]", TWICE) "]}", "{}", "failed", "expr.runtime" },
        { "{'steps':[" EACH(
              "'items':[1,2],'on_error':'continue'",
              "{'id':'f','type':'fail','with':{'code':'shop.closed','message':'no'}},{'id':'t','type':'transform'}") "]}",
          "{}", "completed",
          "{'e':[{'error':{'code':'shop.closed','message':'no','step_id':'f'}},{'error':{'code':'shop.closed','message':'no','step_id':'f'}}]}" },
        { "{'steps':[" EACH("'items':[1]", "{'id':'f','type':'fail','on_error':'continue'}") "]}", "{}", "completed",
          "{'e':[{}]}" },
        /* 10,000 × 6 steps would be too many */
        { "{'steps':[" EACH(
              "'items':'{{ input.list }}'",
              "{'id':'a','type':'transform'},{'id':'b','type':'transform'},{'id':'c','type':'transform'},"
              "{'id':'d','type':'transform'},{'id':'f','type':'transform'},{'id':'g','type':'transform'}") "]}",
          "many", "failed", "foreach.steps" },
    };
    struct buf many = { .arena = house.arena };
    for (int i = 0; i < 10000; i++)
        buf_f(&many, "%s%d", i == 0 ? "{\"list\":[" : ",", i);
    BUF_LIT(&many, "]}");
    buf_char(&many, '\0');
    for (size_t i = 0; i < COUNT(rows); i++) {
        bool large = strcmp(rows[i].input, "many") == 0;
        struct outcome *o = run(quoted(rows[i].definition), large ? many.p : quoted(rows[i].input));
        assert_str(o->execution.status, rows[i].status);
        if (strcmp(rows[i].status, "failed") == 0)
            assert_error(&o->execution, rows[i].result);
        else
            assert_str(o->execution.output_data, quoted(rows[i].result));
        outcome_release(o);
    }
}

static void test_an_iteration_that_fails_says_which(void **state)
{
    struct outcome *o = run(quoted("{'steps':[" EACH("'items':[1,true]", TWICE) "]}"), "{}");
    assert_true(str_find(o->execution.error, S("Iteration 1, step x: "), 0) >= 0);
    assert_true(str_find(o->execution.error, S("\"step_id\":\"e\""), 0) >= 0);
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"x\",\"iteration\":[1],\"type\":\"transform\",\"status\":\"failed\""),
                         0) >= 0);
    outcome_release(o);
}

/* As many as it may have, in one transaction, and in memory that has a bound. */
static void test_ten_thousand_iterations(void **state)
{
    struct buf input = { .arena = house.arena };
    for (int i = 0; i < FOREACH_ITEMS_MAX; i++)
        buf_f(&input, "%s%d", i == 0 ? "{\"list\":[" : ",", i);
    BUF_LIT(&input, "]}");
    buf_char(&input, '\0');
    u64 before = db_stats(house.db).jobs;
    struct outcome *o =
        run(quoted("{'steps':[" EACH("'items':'{{ input.list }}','concurrency':7", TWICE) "]}"), input.p);
    assert_str(o->execution.status, "completed");
    assert_int_equal(db_stats(house.db).jobs - before, 1);
    assert_true(str_find(o->execution.output_data, S("{\"x\":{\"y\":19998}}]}"), 0) > 0);
    assert_true(str_find(o->execution.step_executions, S("\"iteration\":[9999]"), 0) > 0);
    outcome_release(o);
    input.n -= 3; /* one more than may be */
    BUF_LIT(&input, ",1]}");
    buf_char(&input, '\0');
    o = run(quoted("{'steps':[" EACH("'items':'{{ input.list }}'", TWICE) "]}"), input.p);
    assert_error(&o->execution, "step.input");
    outcome_release(o);
}

/* How many steps of a history were at work at the same moment. */
static u32 most_at_once(const struct execution *x, const char *step_id)
{
    struct json *steps;
    struct json_error where;
    u32 most = 0;
    assert_int_equal(json_parse(house.arena, x->step_executions, &steps, &where), OK);
    for (u32 i = 0; i < steps->n; i++) {
        str from = json_str(json_get(&steps->items[i], S("started_at")));
        u32 n = 0;
        for (u32 k = 0; k < steps->n && str_eq(json_str(json_get(&steps->items[i], S("step_id"))), str_of(step_id));
             k++)
            n += str_eq(json_str(json_get(&steps->items[k], S("step_id"))), str_of(step_id)) &&
                 str_cmp(json_str(json_get(&steps->items[k], S("started_at"))), from) <= 0 &&
                 str_cmp(json_str(json_get(&steps->items[k], S("completed_at"))), from) > 0;
        most = MAX(most, n);
    }
    return most;
}

static void test_iterations_at_the_same_time(void **state)
{
    static const u32 rows[] = { 1, 3, 7, 100 };
    const char *definition =
        quoted("{'steps':[" EACH("'items':[1,2,3,4,5,6,7],'concurrency':'{{ input.n }}'", CALL("/c{{ item }}")) "]}");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct outcome *o = run(definition, strf(house.arena, "{\"n\":%u}", rows[i]).p);
        assert_str(o->execution.status, "completed");
        assert_int_equal(most_at_once(&o->execution, "h"), MIN(rows[i], 7u));
        outcome_release(o);
    }
    assert_int_equal(calls_of("/c7"), 4);
}

static void test_each_iteration_has_a_key_of_its_own(void **state)
{
    struct outcome *o =
        run(quoted("{'steps':[" EACH(
                "'items':[[0,1],[2,3]]",
                "{'id':'i','type':'foreach','with':{'items':'{{ item }}','steps':{'steps':[" CALL("/k") "]}}}") "]}"),
            "{}");
    assert_str(o->execution.status, "completed");
    assert_str(str_of(house.upstream.last_key),
               strf(house.arena, "%.*s-h-10001", STR_FMT(o->execution.execution_id)).p);
    assert_true(str_find(o->execution.step_executions, S("\"step_id\":\"h\",\"iteration\":[1,1]"), 0) > 0);
    outcome_release(o);
}

/* Some wait whenever the process stops; what was done is not done again, and the list is in order. */
static void test_iterations_outlive_a_stop(void **state)
{
    struct caller c;
    const char *definition = quoted(
        "{'steps':[{'id':'e','type':'foreach','with':{'items':[1,2,3,4,5],'concurrency':2,'steps':{'steps':[" CALL(
            "/w{{ item }}") ",{'id':'d','type':'delay','with':{'ms':'{{ item % 2 == 1 and 200 or 1 }}'}},{'id':'x','type':'transform','with':{'y':'{{ steps.h.output.body.path }}'}}],"
                            "'dependencies':{'d':['h'],'x':['d']}}}}]}");
    assert_int_equal(start(&c, definition, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    for (int stops = 0; stops < 3; stops++) {
        await_call(stops == 0 ? "/w1" : stops == 1 ? "/w3" : "/w5");
        close_engine();
        open_engine();
    }
    struct execution *x = await_status(c.id, "completed");
    assert_str(
        x->output_data,
        quoted("{'e':[{'x':{'y':'/w1'}},{'x':{'y':'/w2'}},{'x':{'y':'/w3'}},{'x':{'y':'/w4'}},{'x':{'y':'/w5'}}]}"));
    assert_true(str_find(x->step_executions, S("\"step_id\":\"x\",\"iteration\":[4]"), 0) > 0);
}

/* A retry goes on inside of the iteration that failed: what was done in it, and in the others, stands. */
static void test_retry_of_an_iteration(void **state)
{
    const char *definition =
        quoted("{'steps':[{'id':'e','type':'foreach','with':{'items':['p','q','r'],'steps':{'steps':[" CALL(
            "/{{ item }}1") ",{'id':'g','type':'http','with':{'url':'http://127.0.0.1:%PORT%/{{ item == [[q]] and [[flaky]] or item .. 2 }}'}}],"
                            "'dependencies':{'g':['h']}}}},{'id':'z','type':'transform','with':{'n':'{{ #steps.e.output }}'}}],'dependencies':{'z':['e']}}");
    house.fail_first = 1;
    struct outcome *first = run(definition, "{}");
    assert_str(first->execution.status, "failed");
    assert_int_equal(calls_of("/r1"), 0);
    struct outcome *o = replay(definition, first->execution.execution_id, NULL, NULL);
    assert_str(o->execution.status, "completed");
    assert_str(o->execution.output_data, "{\"z\":{\"n\":3}}");
    assert_int_equal(calls_of("/p1") + calls_of("/p2") + calls_of("/q1") + calls_of("/r1") + calls_of("/r2"), 5);
    assert_int_equal(calls_of("/flaky"), 2);
    outcome_release(o);
    /* and a replay from one of its steps runs that in every iteration, no more of them at once than it says */
    o = replay(definition, first->execution.execution_id, "g", NULL);
    assert_str(o->execution.status, "completed");
    assert_int_equal(calls_of("/p1"), 1);
    assert_int_equal(calls_of("/p2"), 2);
    assert_int_equal(most_at_once(&o->execution, "g"), 1);
    outcome_release(o);
    outcome_release(first);
}

/* A loop that went on after a failure keeps all of that when something behind it runs again. */
static void test_replay_behind_a_loop(void **state)
{
    const char *definition = quoted(
        "{'steps':[{'id':'e','type':'foreach','with':{'items':['one','gone'],'on_error':'continue','steps':{'steps':[" CALL(
            "/{{ item }}") ",{'id':'x','type':'transform'}],'dependencies':{'x':['h']}}}},{'id':'d','type':'delay','with':{'ms':1}},"
                           "{'id':'n','type':'transform','with':{'c':'{{ steps.e.output[2].error.code }}'}}],'dependencies':{'d':['e'],'n':['d']}}");
    struct outcome *first = run(definition, "{}");
    assert_str(first->execution.output_data, "{\"n\":{\"c\":\"http.status\"}}");
    assert_true(str_find(first->execution.step_executions,
                         S("\"step_id\":\"x\",\"iteration\":[1],\"type\":\"transform\",\"status\":\"cancelled\""),
                         0) >= 0);
    struct outcome *o = replay(definition, first->execution.execution_id, "d", NULL);
    assert_str(o->execution.output_data, "{\"n\":{\"c\":\"http.status\"}}");
    assert_int_equal(calls_of("/one") + calls_of("/gone"), 2);
    outcome_release(o);
    outcome_release(first);
}

static void test_cancel_reaches_iterations(void **state)
{
    struct caller c;
    bool first;
    assert_int_equal(start(&c,
                           quoted("{'steps':[" EACH("'items':[1,2,3],'concurrency':2", CALL("/hang{{ item }}")) "]}"),
                           "{}", NULL, false),
                     OK);
    await_call("/hang2");
    assert_int_equal(cancel(c.id, &first), OK);
    engine_cancel(house.engine, c.id);
    struct outcome *o = wait_for(&c);
    assert_cancelled(&o->execution, "\"step_id\":\"h\",\"iteration\":[1],\"type\":\"http\",\"status\":\"cancelled\"");
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"e\",\"type\":\"foreach\",\"status\":\"cancelled\""), 0) >= 0);
    assert_true(str_find(o->execution.step_executions, S("\"iteration\":[2]"), 0) < 0);
    assert_true(o->execution.execution_time < 30);
    outcome_release(o);
}

/* The first that fails ends the calls of the others. */
static void test_a_failing_iteration_ends_the_others(void **state)
{
    struct outcome *o = run(
        quoted("{'steps':[" EACH("'items':['hang1','gone','hang2'],'concurrency':3", CALL("/{{ item }}")) "]}"), "{}");
    assert_error(&o->execution, "http.status");
    assert_true(o->execution.execution_time < 30);
    assert_true(str_find(o->execution.step_executions,
                         S("\"iteration\":[0],\"type\":\"http\",\"status\":\"cancelled\""), 0) >= 0);
    outcome_release(o);
}

static void test_iterations_have_a_deadline(void **state)
{
    struct outcome *o = run(
        quoted(
            "{'steps':[{'id':'e','type':'foreach','join':'always','timeout_ms':50,'with':{'items':[1,2],'steps':{'steps':[" CALL(
                "/hang{{ item }}") "]}}},{'id':'d','type':'foreach','timeout_ms':50,'on_error':'continue','with':{'items':[1],'steps':{'steps':[{'id':'l','type':'delay','with':{'ms':60000}}]}}}],"
                                   "'dependencies':{'e':['d']}}"),
        "{}");
    assert_error(&o->execution, "foreach.timeout");
    assert_true(str_find(o->execution.step_executions,
                         S("\"step_id\":\"l\",\"iteration\":[0],\"type\":\"delay\",\"status\":\"cancelled\""), 0) >= 0);
    outcome_release(o);
}

/* --- children ------------------------------------------------------------------------------------------------------- */

struct id_row {
    struct presence has;
    str id;
};
static const struct field id_fields[] = { FIELD(struct id_row, id, F_STR, .doc = "Execution") };
static const struct table id_table = TABLE("TestId", struct id_row, id_fields);
STMT(children_of, "SELECT id FROM executions WHERE tenant_id = $1 AND parent_id = $2 ORDER BY id", .row = &id_table,
     .scan_ok = true);

/* The children of an execution, oldest first. */
static u32 children(str parent, str ids[4])
{
    struct tx *tx;
    void *rows;
    u32 n;
    assert_int_equal(db_read_begin(house.db, house.arena, false, &tx), OK);
    assert_int_equal(db_list(tx, &children_of, 4, &rows, &n, ARGS(STR(S("tenant_1")), STR(parent))), OK);
    db_read_end(tx);
    for (u32 i = 0; i < n; i++)
        ids[i] = ((struct id_row *)rows)[i].id;
    return n;
}

static str await_child(str parent)
{
    str ids[4];
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (children(parent, ids) == 0)
        assert_true(clock_mono_us() < until);
    return ids[0];
}

#define CHILD(id, more) "{\"id\":\"" id "\",\"type\":\"workflow\"," more "}"
#define CALLS_CHILD     "\"with\":{\"workflow_id\":\"workflow_child\",\"input\":{\"n\":\"{{ input.n }}\"}}"
static const char adds_one[] =
    "{\"steps\":[{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"body\":\"{{ input.n + 1 }}\"}}]}";
static const char calls_child[] = "{\"steps\":[" CHILD("w", CALLS_CHILD) "]}";

static void test_child_gives_its_output(void **state)
{
    str ids[4];
    house.child = adds_one;
    struct outcome *o = run(calls_child, "{\"n\":4}");
    assert_str(o->execution.status, "completed");
    assert_str(o->execution.output_data, "{\"w\":{\"status\":200,\"headers\":{},\"body\":5}}");
    assert_int_equal(children(o->execution.execution_id, ids), 1);
    struct execution *x = await_status(ids[0], "completed");
    assert_true(str_eq(x->parent_id, o->execution.execution_id));
    assert_str(x->workflow_id, "workflow_child");
    assert_str(x->input_data, "{\"n\":4}");
    assert_str(x->trigger, strf(house.arena, "{\"type\":\"workflow\",\"execution_id\":\"%.*s\",\"step_id\":\"w\"}",
                                STR_FMT(o->execution.execution_id))
                               .p);
    outcome_release(o);
}

/* Two at once, beside a call: the parent stays in memory for it and hears of both. */
static void test_children_beside_a_call(void **state)
{
    house.child = adds_one;
    struct outcome *o = run(
        "{\"steps\":[" CHILD("v", CALLS_CHILD) "," CHILD(
            "w",
            CALLS_CHILD) ",{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":400,\"on_error\":\"continue\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang5\"}},"
                         "{\"id\":\"z\",\"type\":\"transform\",\"with\":{\"sum\":\"{{ steps.v.output.body + steps.w.output.body }}\"}}],\"dependencies\":{\"z\":[\"v\",\"w\"]}}",
        "{\"n\":1}");
    assert_str(o->execution.output_data, "{\"z\":{\"sum\":4}}");
    outcome_release(o);
}

static void test_child_that_fails(void **state)
{
    str ids[4];
    house.child = "{\"steps\":[{\"id\":\"f\",\"type\":\"fail\",\"with\":{\"message\":\"no luck\"}}]}";
    struct outcome *o =
        run("{\"steps\":[" CHILD("w", CALLS_CHILD ",\"retry\":{\"max_attempts\":2,\"initial_ms\":1}") "]}", "{}");
    assert_str(o->execution.status, "failed");
    assert_error(&o->execution, "workflow.child_failed");
    assert_true(str_find(o->execution.error, S("no luck"), 0) >= 0);
    assert_int_equal(children(o->execution.execution_id, ids), 2);
    outcome_release(o);
}

static void test_child_that_cannot_run(void **state)
{
    struct outcome *o = run("{\"steps\":[" CHILD("w", "\"with\":{\"workflow_id\":\"workflow_none\"}") "]}", "{}");
    assert_error(&o->execution, "workflow.not_found");
    outcome_release(o);
    o = run("{\"steps\":[" CHILD("w", "\"with\":{\"workflow_id\":\"workflow_none\",\"wait\":false}") "]}", "{}");
    assert_error(&o->execution, "workflow.not_found");
    outcome_release(o);
}

static void test_child_that_nobody_waits_for(void **state)
{
    house.child = "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":50}}]}";
    struct outcome *o =
        run("{\"steps\":[" CHILD("w", "\"with\":{\"workflow_id\":\"workflow_child\",\"wait\":false}") "]}", "{}");
    assert_str(o->execution.status, "completed");
    str id = await_child(o->execution.execution_id);
    assert_str(o->execution.output_data, strf(house.arena, "{\"w\":{\"execution_id\":\"%.*s\"}}", STR_FMT(id)).p);
    await_status(id, "completed");
    outcome_release(o);
}

static void test_child_that_is_late(void **state)
{
    house.child = sleeping;
    struct outcome *o = run("{\"steps\":[" CHILD("w", CALLS_CHILD ",\"timeout_ms\":50") "]}", "{}");
    assert_error(&o->execution, "workflow.timeout");
    await_status(await_child(o->execution.execution_id), "cancelled");
    outcome_release(o);
}

static void test_depth_is_bounded(void **state)
{
    house.child = calls_child;
    struct outcome *o = run(calls_child, "{}");
    assert_error(&o->execution, "workflow.child_failed");
    str id = o->execution.execution_id, ids[4];
    u32 depth = 0;
    for (; children(id, ids) == 1; depth++)
        id = ids[0];
    assert_int_equal(depth, EXECUTION_DEPTH_MAX);
    assert_error(await_status(id, "failed"), "workflow.depth");
    outcome_release(o);
}

static void test_cancel_reaches_children(void **state)
{
    const char *const ones[] = { hanging, sleeping };
    for (size_t i = 0; i < COUNT(ones); i++) {
        struct caller c;
        bool first;
        house.child = with_port(ones[i]);
        assert_int_equal(start(&c, calls_child, "{}", NULL, false), OK);
        str id = await_child(c.id);
        if (i == 0)
            await_call("/hang4");
        else
            await_status(id, "waiting");
        assert_int_equal(cancel(c.id, &first), OK);
        engine_cancel(house.engine, c.id);
        assert_str(wait_for(&c)->execution.status, "cancelled");
        await_status(id, "cancelled");
        outcome_release(c.outcome);
        close_engine(); /* the plan of workflow_child is cached */
        open_engine();
    }
}

static void test_kill_reaches_children(void **state)
{
    struct caller c;
    bool first;
    house.child = with_port(hanging);
    assert_int_equal(start(&c, calls_child, "{}", NULL, false), OK);
    str id = await_child(c.id);
    await_call("/hang4");
    block_loop(); /* neither waits for the call */
    assert_int_equal(kill_it(c.id, &first), OK);
    engine_kill(house.engine, c.id);
    assert_error(&wait_for(&c)->execution, "execution.killed");
    assert_killed(await_status(id, "cancelled"), "\"step_id\":\"h\"");
    unblock_loop();
    outcome_release(c.outcome);
}

/* Parked and claimed again in between, and through a child. */
static void test_the_trace_outlives_a_wait(void **state)
{
    struct caller c;
    char seen[128] = "";
    house.child = with_port(two_calls);
    start_traced(&c, calls_child);
    outcome_release(wait_for(&c));
    assert_int_equal(calls_of("/second/1"), 1);
    assert_traced(seen);
}

/* The parent's, the child's, and whatever else is done: each exactly once, wherever the process stops. */
static void test_children_outlive_a_stop(void **state)
{
    struct caller c;
    str ids[4];
    house.child = with_port(two_calls);
    assert_int_equal(start(&c, calls_child, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    await_status(await_child(c.id), "waiting");
    close_engine();
    open_engine();
    struct execution *x = await_status(c.id, "completed");
    assert_true(str_find(x->output_data, S("/second/1"), 0) >= 0);
    assert_int_equal(children(c.id, ids), 1);
    assert_int_equal(calls_of("/first"), 1);
    assert_int_equal(calls_of("/second/1"), 1);
}

/* Each iteration has a child; when one fails, nobody wants the others any more. */
static void test_children_of_iterations(void **state)
{
    str ids[4];
    house.child = adds_one;
    struct outcome *o = run(
        quoted("{'steps':[" EACH(
            "'items':[1,2,3],'concurrency':3",
            "{'id':'w','type':'workflow','with':{'workflow_id':'workflow_child','input':{'n':'{{ item }}'}}}") "]}"),
        "{}");
    assert_str(o->execution.status, "completed");
    assert_int_equal(children(o->execution.execution_id, ids), 3);
    assert_true(str_find(o->execution.output_data, S("{\"w\":{\"status\":200,\"headers\":{},\"body\":4}}]}"), 0) > 0);
    outcome_release(o);
    close_engine(); /* the plan of workflow_child is cached */
    open_engine();
    house.child = sleeping;
    o = run(
        quoted("{'steps':[" EACH(
            "'items':[1,0],'concurrency':2",
            "{'id':'w','type':'workflow','with':{'workflow_id':'{{ item == 1 and [[workflow_child]] or [[workflow_none]] }}'}}") "]}"),
        "{}");
    assert_error(&o->execution, "workflow.not_found");
    assert_int_equal(children(o->execution.execution_id, ids), 1);
    await_status(ids[0], "cancelled");
    outcome_release(o);
}

/* --- concurrency limits ---------------------------------------------------------------------------------------------- */

#define LIMITED(ms, concurrency)                                                                                      \
    "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"},{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":" #ms "}}]," \
    "\"dependencies\":{\"d\":[\"a\"]},\"settings\":{\"concurrency\":{" concurrency "}}}"

static void start_all(struct caller *c, u32 n, const char *definition, const char *const *inputs)
{
    for (u32 i = 0; i < n; i++)
        assert_int_equal(start(&c[i], definition, inputs != NULL ? inputs[i] : "{}", NULL, false), OK);
}

/* Waits for all; the most that were under way at the same time. */
static u32 most_under_way(struct caller *c, u32 n)
{
    u32 most = 0;
    for (u32 i = 0; i < n; i++)
        assert_str(wait_for(&c[i])->execution.status, "completed");
    for (u32 i = 0; i < n; i++) {
        u32 others = 0;
        for (u32 k = 0; k < n; k++)
            others += c[k].outcome->execution.started_at <= c[i].outcome->execution.started_at &&
                      c[k].outcome->execution.completed_at > c[i].outcome->execution.started_at;
        most = MAX(most, others);
    }
    for (u32 i = 0; i < n; i++)
        outcome_release(c[i].outcome);
    return most;
}

static void cancel_and_wait(struct caller *c)
{
    bool first;
    assert_int_equal(cancel(c->id, &first), OK);
    engine_cancel(house.engine, c->id);
    assert_str(wait_for(c)->execution.status, "cancelled");
    outcome_release(c->outcome);
}

struct slots_row {
    struct presence has;
    i64 n;
};
static const struct field slots_fields[] = { FIELD(struct slots_row, n, F_I64, .doc = "How many") };
static const struct table slots_table = TABLE("SlotsRow", struct slots_row, slots_fields);
STMT(slots_left, "SELECT count(*) AS n FROM executions WHERE tenant_id = $1 AND slot_key IS NOT NULL",
     .row = &slots_table);
STMT(executions_all, "SELECT count(*) AS n FROM executions WHERE tenant_id = $1", .row = &slots_table);

static i64 count_rows(const struct stmt *s)
{
    struct tx *tx;
    struct slots_row row;
    assert_int_equal(db_read_begin(house.db, house.arena, false, &tx), OK);
    assert_int_equal(db_row(tx, s, &row, ARGS(STR(S("tenant_1")))), OK);
    db_read_end(tx);
    return row.n;
}

static void test_a_limit_is_never_exceeded(void **state)
{
    static const struct {
        const char *definition;
        u32 limit;
    } rows[] = {
        { LIMITED(20, "\"limit\":1"), 1 },
        { LIMITED(20, "\"limit\":3"), 3 },
        { LIMITED(20, "\"limit\":6"), 6 },
        { LIMITED(0, "\"limit\":2"), 2 },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct caller c[6];
        start_all(c, COUNT(c), rows[i].definition, NULL);
        assert_in_range(most_under_way(c, COUNT(c)), 1, rows[i].limit);
        assert_int_equal(count_rows(&slots_left), 0);
    }
}

/* The first holds its slot until it is cancelled; each is on disk before the next comes, because workers overtake one another until then. */
static void line_up(struct caller *c, u32 n, bool detached)
{
    for (u32 i = 0; i < n; i++) {
        const char *definition = i == 0 ? LIMITED(60000, "\"limit\":1") : LIMITED(10, "\"limit\":1");
        assert_int_equal(start(&c[i], definition, "{}", NULL, detached && i > 0), OK);
        await_status(c[i].id, i == 0 ? "waiting" : "queued");
    }
}

static void test_those_who_wait_are_served_in_order(void **state)
{
    struct caller c[5];
    i64 before = 0;
    line_up(c, COUNT(c), false);
    cancel_and_wait(&c[0]);
    for (u32 i = 1; i < COUNT(c); i++) {
        struct execution *x = &wait_for(&c[i])->execution;
        assert_str(x->status, "completed");
        assert_true(x->started_at >= before);
        before = x->completed_at;
        outcome_release(c[i].outcome);
    }
}

static void test_a_key_has_a_limit_for_each_value(void **state)
{
    static const char *const same[] = { "{\"k\":{\"a\":1}}", "{\"k\":{\"a\":1}}", "{\"k\":{\"a\":1}}" };
    static const char *const others[] = { "{\"k\":1}", "{\"k\":\"1\"}", "{}" };
    struct caller c[3];
    start_all(c, 3, LIMITED(60, "\"limit\":1,\"key\":\"{{ input.k }}\""), same);
    assert_int_equal(most_under_way(c, 3), 1);
    start_all(c, 3, LIMITED(300, "\"limit\":1,\"key\":\"{{ input.k }}\""), others);
    assert_int_equal(most_under_way(c, 3), 3);
}

static void test_a_key_that_cannot_be_evaluated(void **state)
{
    struct outcome *o = run(LIMITED(1, "\"limit\":1,\"key\":\"{{ input.a.b.c }}\""), "{}");
    assert_str(o->execution.status, "failed");
    assert_error(&o->execution, "concurrency.key");
    outcome_release(o);
}

static void test_who_may_not_wait_is_refused(void **state)
{
    struct caller c[2];
    static const char definition[] = LIMITED(100, "\"limit\":1,\"policy\":\"reject\"");
    start_all(c, 1, definition, NULL);
    await_status(c[0].id, "waiting");
    i64 before = count_rows(&executions_all);
    assert_int_equal(start(&c[1], definition, "{}", NULL, false), OK);
    assert_int_equal(wait_for(&c[1])->error, ERR_LIMIT);
    assert_int_equal(count_rows(&executions_all), before);
    assert_int_equal(most_under_way(c, 1), 1);
    start_all(c, 1, definition, NULL); /* there is room again */
    assert_int_equal(most_under_way(c, 1), 1);
}

static void test_the_newest_replaces(void **state)
{
    struct caller c[4];
    static const char definition[] = LIMITED(60000, "\"limit\":2,\"policy\":\"replace\"");
    for (u32 i = 0; i < 3; i++) {
        assert_int_equal(start(&c[i], definition, "{}", NULL, false), OK);
        await_status(c[i].id, "waiting");
    }
    assert_str(wait_for(&c[0])->execution.status, "cancelled");
    outcome_release(c[0].outcome);
    assert_int_equal(start(&c[3], LIMITED(1, "\"limit\":2,\"policy\":\"replace\""), "{}", NULL, false), OK);
    assert_str(wait_for(&c[3])->execution.status, "completed");
    assert_str(wait_for(&c[1])->execution.status, "cancelled");
    outcome_release(c[1].outcome);
    outcome_release(c[3].outcome);
    await_status(c[2].id, "waiting");
    cancel_and_wait(&c[2]);
}

static void test_waiting_for_a_slot(void **state)
{
    struct caller c[4];
    bool first;
    static const char definition[] = LIMITED(60000, "\"limit\":1");
    start_all(c, 1, definition, NULL);
    await_status(c[0].id, "waiting");
    start_all(&c[1], 1, definition, NULL);
    engine_tell_now(house.engine, S("tenant_1"), c[1].id, &c[1].waiter); /* who has waited enough is told */
    assert_str(wait_for(&c[1])->execution.status, "queued");
    outcome_release(c[1].outcome);
    assert_int_equal(start(&c[2], definition, "{}", NULL, true), OK); /* who does not wait is told at once */
    assert_str(wait_for(&c[2])->execution.status, "queued");
    outcome_release(c[2].outcome);
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (engine_stats(house.engine).live > 0) /* none of them is in memory */
        assert_true(clock_mono_us() < until);
    assert_int_equal(cancel(c[1].id, &first), OK); /* one that waits ends at once */
    engine_cancel(house.engine, c[1].id);
    await_status(c[1].id, "cancelled");
    cancel_and_wait(&c[0]); /* what ends makes room for the next, not for the one that is gone */
    await_status(c[2].id, "waiting");
    assert_int_equal(count_rows(&slots_left), 1);
}

static void test_time_runs_out_in_the_queue(void **state)
{
    struct caller c[2];
    static const char definition[] =
        "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}],\"settings\":{\"timeout_ms\":150,\"concurrency\":{\"limit\":1}}}";
    start_all(c, 2, definition, NULL);
    for (u32 i = 0; i < 2; i++) {
        assert_str(wait_for(&c[i])->execution.status, "timed_out");
        outcome_release(c[i].outcome);
    }
    assert_int_equal(count_rows(&slots_left), 0);
}

static void test_the_queue_outlives_a_stop(void **state)
{
    struct caller c[4];
    i64 before = 0;
    line_up(c, COUNT(c), true);
    for (u32 i = 1; i < COUNT(c); i++)
        outcome_release(wait_for(&c[i]));
    close_engine();
    outcome_release(wait_for(&c[0])); /* told as it stands */
    assert_int_equal(count_rows(&slots_left), 4);
    open_engine();
    bool first;
    assert_int_equal(cancel(c[0].id, &first), OK);
    engine_cancel(house.engine, c[0].id);
    for (u32 i = 1; i < COUNT(c); i++) {
        struct execution *x = await_status(c[i].id, "completed");
        assert_true(x->started_at >= before);
        before = x->completed_at;
    }
    assert_int_equal(count_rows(&slots_left), 0);
}

static void test_a_raised_limit_lets_those_go_who_wait(void **state)
{
    struct caller c[4];
    for (u32 i = 0; i < 3; i++) {
        start_all(&c[i], 1, LIMITED(60000, "\"limit\":1"), NULL);
        await_status(c[i].id, i == 0 ? "waiting" : "queued");
    }
    start_all(&c[3], 1, LIMITED(60000, "\"limit\":4"), NULL);
    for (u32 i = 1; i < 4; i++)
        await_status(c[i].id, "waiting");
    for (u32 i = 0; i < 4; i++)
        cancel_and_wait(&c[i]);
}

/* Each calls the next with one less: with a limit of one, all of them go through on the slot of the first. */
static void test_children_share_the_slot_above_them(void **state)
{
    house.child = "{\"steps\":[" CHILD(
        "w",
        "\"with\":{\"workflow_id\":\"workflow_child\",\"input\":{\"n\":\"{{ input.n - 1 }}\"}}") "],"
                                                                                                 "\"conditions\":{\"w\":\"input.n > 0\"},\"settings\":{\"timeout_ms\":20000,\"concurrency\":{\"limit\":1}}}";
    struct outcome *o = run("{\"steps\":[" CHILD("w", CALLS_CHILD) "]}", "{\"n\":3}");
    assert_str(o->execution.status, "completed");
    outcome_release(o);
    assert_int_equal(count_rows(&slots_left), 0);
}

static void test_children_wait_for_their_slot(void **state)
{
    house.child = LIMITED(50, "\"limit\":1");
    struct outcome *o =
        run("{\"steps\":[" CHILD("u", CALLS_CHILD) "," CHILD("v", CALLS_CHILD) "," CHILD("w", CALLS_CHILD) "]}", "{}");
    assert_str(o->execution.status, "completed");
    assert_true(o->execution.execution_time >= 0.15);
    outcome_release(o);
    assert_int_equal(count_rows(&slots_left), 0);
}

static void test_a_child_may_be_refused(void **state)
{
    house.child = LIMITED(300, "\"limit\":1,\"policy\":\"reject\"");
    struct outcome *o = run("{\"steps\":[" CHILD("u", CALLS_CHILD) "," CHILD("v", CALLS_CHILD) "]}", "{}");
    assert_error(&o->execution, "workflow.child_failed");
    assert_true(str_find(o->execution.error, S("as often at once as it may"), 0) >= 0);
    outcome_release(o);
}

static void reopen_with(i64 tenant_limit, i64 workflow_limit)
{
    close_engine();
    house.tenant_limit = tenant_limit;
    house.workflow_limit = workflow_limit;
    open_engine();
}

static void test_limits_of_the_configuration(void **state)
{
    struct caller c[6];
    static const char definition[] = LIMITED(30, "\"limit\":4");
    static const char unlimited[] = "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":30}}]}";
    reopen_with(2, 0);
    start_all(c, 6, definition, NULL);
    assert_in_range(most_under_way(c, 6), 1, 2);
    start_all(c, 6, unlimited, NULL);
    assert_in_range(most_under_way(c, 6), 1, 2);
    house.child = unlimited;
    struct outcome *o = run(calls_child, "{}"); /* a child has its parent's place */
    assert_str(o->execution.status, "completed");
    outcome_release(o);
    reopen_with(0, 3);
    start_all(c, 6, unlimited, NULL);
    assert_in_range(most_under_way(c, 6), 1, 3);
    assert_int_equal(count_rows(&slots_left), 0);
}

/* Who waits for a limit that is taken away waits no longer. */
static void test_a_limit_is_taken_away(void **state)
{
    struct caller c[3];
    static const char definition[] = "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}]}";
    reopen_with(1, 0);
    for (u32 i = 0; i < 3; i++) {
        assert_int_equal(start(&c[i], definition, "{}", NULL, true), OK);
        outcome_release(wait_for(&c[i]));
    }
    await_status(c[0].id, "waiting");
    reopen_with(0, 0);
    for (u32 i = 0; i < 3; i++)
        await_status(c[i].id, "waiting");
}

/* The row and its place in the queue are one transaction, so what a limit costs is one more than without. */
static void test_a_limit_costs_one_transaction_more(void **state)
{
    u64 before = db_stats(house.db).jobs;
    struct outcome *o =
        run("{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"settings\":{\"concurrency\":{\"limit\":1}}}", "{}");
    assert_int_equal(db_stats(house.db).jobs - before, 2);
    outcome_release(o);
}

STMT(
    due_insert,
    "INSERT INTO executions (id, tenant_id, workflow_id, version, status, created_at, deadline_at, due_at, trigger_data, input_data)"
    " VALUES ($1, $2, 'workflow_1', 1, 'waiting', 1, 9000000000000000, $3, '{}', '{}')");

static err insert_due(void *ctx, struct tx *tx)
{
    for (i64 i = 0; i < 200; i++)
        TRY(db_exec(tx, &due_insert, NULL,
                    ARGS(STR(strf(house.arena, "execution_%03d", (int)i)), STR(S("tenant_1")), I64(i + 1))));
    for (i64 i = 0; i < 3; i++)
        TRY(db_exec(tx, &due_insert, NULL,
                    ARGS(STR(strf(house.arena, "execution_other_%d", (int)i)),
                         STR(strf(house.arena, "tenant_%d", (int)i + 2)), I64(1000))));
    return OK;
}

/* Two hundred of one tenant are due before the one of each of the others: these come with the second batch all the same, and nothing is left out. */
static void test_tenants_take_turns(void **state)
{
    struct claim_turn turn = { 0 };
    struct claim *list;
    u32 n, total = 0, others_at = 0, batches = 0, others = 0;
    struct engine by_hand = { .options.db = house.db, .owner = 7 };
    close_engine();
    assert_int_equal(db_write_wait(house.db, house.arena, insert_due, NULL), OK);
    do {
        assert_int_equal(journal_claim(&by_hand, house.arena, 2000, 20, &turn, &list, &n), OK);
        assert_in_range(n, 0, 20);
        total += n;
        batches++;
        for (u32 i = 0; i < n; i++)
            if (!str_eq(list[i].tenant_id, S("tenant_1"))) {
                others++;
                others_at = batches;
            }
    } while (turn.crowded);
    assert_int_equal(total, 203);
    assert_int_equal(others, 3);
    assert_int_equal(others_at, 2);
    assert_in_range(batches, 11, 16);
    open_engine();
}

/* --- what a failure leaves behind ------------------------------------------------------------------------------------- */

struct left_row {
    struct presence has;
    str dead_code;
    i64 dead_at, expire_at, completed_at;
};
static const struct field left_fields[] = {
    FIELD(struct left_row, dead_code, F_STR, .flags = F_NULLABLE, .doc = "Why it is a dead letter"),
    FIELD(struct left_row, dead_at, F_I64, .flags = F_NULLABLE, .doc = "Since when"),
    FIELD(struct left_row, expire_at, F_I64, .flags = F_NULLABLE, .doc = "Until when it is kept"),
    FIELD(struct left_row, completed_at, F_I64, .flags = F_NULLABLE, .doc = "When it ended"),
};
static const struct table left_table = TABLE("LeftRow", struct left_row, left_fields);
STMT(left_select, "SELECT dead_code, dead_at, expire_at, completed_at FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &left_table);

static struct left_row left_of(str id)
{
    struct tx *tx;
    struct left_row row;
    assert_int_equal(db_read_begin(house.db, house.arena, false, &tx), OK);
    assert_int_equal(db_row(tx, &left_select, &row, ARGS(STR(S("tenant_1")), STR(id))), OK);
    db_read_end(tx);
    return row;
}

static void test_what_a_failure_leaves_behind(void **state)
{
    static const struct {
        const char *definition, *code;
        i64 days;
    } rows[] = {
        { "{\"steps\":[{\"id\":\"f\",\"type\":\"fail\"}]}", NULL, 0 },
        { "{\"steps\":[{\"id\":\"f\",\"type\":\"fail\",\"retry\":{\"max_attempts\":1}}]}", NULL, 0 },
        { "{\"steps\":[{\"id\":\"f\",\"type\":\"fail\",\"retry\":{\"max_attempts\":2}}]}", "workflow.failed", 0 },
        { "{\"steps\":[{\"id\":\"f\",\"type\":\"fail\"}],\"settings\":{\"error_retention_days\":1}}", NULL, 1 },
        { "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":60000}}],\"settings\":{\"timeout_ms\":5,\"error_retention_days\":3650}}",
          NULL, 3650 },
        { "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"settings\":{\"error_retention_days\":1}}", NULL, 0 },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct outcome *o = run(rows[i].definition, "{}");
        struct left_row left = left_of(o->execution.execution_id);
        assert_true(str_eq(left.dead_code, str_of(rows[i].code)));
        assert_int_equal(left.dead_at, rows[i].code != NULL ? left.completed_at : 0);
        assert_int_equal(left.expire_at, rows[i].days != 0 ? left.completed_at + rows[i].days * DAY_US : 0);
        outcome_release(o);
    }
}

/* One transaction with the failure itself, so there is nothing between the two. */
static void test_a_failure_and_its_handler_are_one_transaction(void **state)
{
    str ids[4];
    house.child = "{\"steps\":[{\"id\":\"t\",\"type\":\"transform\",\"with\":{\"x\":\"{{ input.status }}\"}}]}";
    u64 before = db_stats(house.db).jobs;
    struct outcome *o =
        run("{\"steps\":[{\"id\":\"f\",\"type\":\"fail\"}],\"settings\":{\"on_failure\":\"" CHILD_ID "\"}}", "{}");
    assert_int_equal(children(o->execution.execution_id, ids), 1);
    assert_true(db_stats(house.db).jobs - before <= 3); /* its own, and the two of the handler */
    assert_str(await_status(ids[0], "completed")->output_data, "{\"t\":{\"x\":\"failed\"}}");
    outcome_release(o);
}

/* --- stops -------------------------------------------------------------------------------------------------------- */

static void test_goes_on_after_a_stop(void **state)
{
    struct caller c;
    assert_int_equal(start(&c, two_calls, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    await_status(c.id, "waiting");
    close_engine();
    assert_int_equal(calls_of("/first"), 1);
    open_engine();
    await_status(c.id, "completed");
    assert_int_equal(calls_of("/first"), 1);
    assert_int_equal(calls_of("/second/1"), 1);
}

static void test_interrupted_step_runs_again(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    leave_behind(
        id,
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":30000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang3\"}}]}");
    int before = calls_of("/hang3");
    open_engine();
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (calls_of("/hang3") == before)
        assert_true(clock_mono_us() < until);
    assert_int_equal(calls_of("/hang3"), 2);
}

/* --- other nodes -------------------------------------------------------------------------------------------------- */

enum { OTHER = 4711 }; /* an incarnation that is not ours */

#define HELD \
    "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"timeout_ms\":60000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/held\"}}]}"
#define CALLS_ONCE "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/once\"}}]}"
#define WAITS_LONG "{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":600000}}]}"

/* What other nodes do to a row. */
STMT(other_takes, "UPDATE executions SET owner = $3, fence = fence + 1 WHERE tenant_id = $1 AND id = $2");
STMT(
    other_ends,
    "UPDATE executions SET owner = NULL, status = 'completed', completed_at = created_at, output_data = '{\"by\":\"another\"}',"
    " step_executions = '[]' WHERE tenant_id = $1 AND id = $2 AND owner = $3");
STMT(lease_ends, "UPDATE executions SET owner = NULL, due_at = $3, fence = fence + 1 WHERE tenant_id = $1 AND id = $2");
STMT(answer_lost,
     "UPDATE executions SET owner = $3, due_at = NULL, status = 'running' WHERE tenant_id = $1 AND id = $2");

struct doing {
    const struct stmt *what;
    str id;
    i64 value, changed;
};

static err do_it(void *ctx, struct tx *tx)
{
    struct doing *d = ctx;
    return db_exec(tx, d->what, &d->changed, ARGS(STR(S("tenant_1")), STR(d->id), I64(d->value)));
}

static void row(str id, const struct stmt *what, i64 value)
{
    struct doing d = { what, id, value, 0 };
    assert_int_equal(db_write_wait(house.db, house.arena, do_it, &d), OK);
    assert_int_equal(d.changed, 1);
}

static void await_calls(const char *path, int n)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (calls_of(path) < n)
        assert_true(clock_mono_us() < until);
}

static void await_live(u32 n)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (engine_stats(house.engine).live != n)
        assert_true(clock_mono_us() < until);
}

/* It notices with its next write, which changes nothing; its caller waits for the other node, of which it learns by news or by looking. The other one has no lease, so
 * this one must not look who is gone. */
static void test_what_another_node_has_taken(void **state)
{
    while (house.engine->shared && atomic_load(&house.engine->spread.next_us) == 0)
        sched_yield(); /* the first look, which sets the time of the next one */
    atomic_store(&house.engine->spread.next_us, INT64_MAX);
    for (int looks = 0; looks <= 1; looks++) {
        struct caller c;
        assert_int_equal(start(&c, HELD, "{}", NULL, false), OK);
        await_calls("/held", looks + 1);
        row(c.id, &other_takes, OTHER);
        let_go();
        await_live(0);
        assert_false(c.told);
        assert_str(await_status(c.id, "running")->error, "");
        row(c.id, &other_ends, OTHER);
        struct worker *w = worker_of(house.engine, c.id);
        if (looks)
            worker_look(w);
        else
            worker_hear(w, &(struct news){ .what = NEWS_ENDED, .execution_id = c.id });
        struct outcome *o = wait_for(&c);
        assert_str(o->execution.output_data, "{\"by\":\"another\"}");
        outcome_release(o);
    }
}

/* The one that is here goes first, with its calls; then the new claim gets its turn, and the attempt that was cut off shows in its history. */
static void test_what_comes_back_while_it_is_still_here(void **state)
{
    struct caller c;
    assert_int_equal(start(&c, HELD, "{}", NULL, false), OK);
    await_calls("/held", 1);
    row(c.id, &lease_ends, clock_now_us());
    engine_wake(house.engine);
    await_calls("/held", 2);
    let_go();
    struct outcome *o = wait_for(&c);
    assert_str(o->execution.status, "completed");
    assert_true(str_find(o->execution.step_executions, S("engine.interrupted"), 0) > 0);
    assert_int_equal(calls_of("/held"), 2);
    outcome_release(o);
}

/* When the answer to a COMMIT is lost, a row may name us and nobody here knows it. Asked about one that is here, a worker leaves it alone. */
static void test_a_row_that_nobody_here_knows(void **state)
{
    struct caller c, here;
    assert_int_equal(start(&c, WAITS_LONG, "{}", NULL, true), OK);
    outcome_release(wait_for(&c));
    await_status(c.id, "waiting");
    row(c.id, &answer_lost, house.engine->owner);
    assert_int_equal(start(&here, HELD, "{}", NULL, false), OK);
    await_calls("/held", 1);
    struct news news[] = { { NEWS_OWNED, here.id, S("tenant_1"), 1, 0 }, { NEWS_OWNED, c.id, S("tenant_1"), 1, 0 } };
    for (size_t i = 0; i < COUNT(news); i++)
        worker_hear(worker_of(house.engine, news[i].execution_id), &news[i]);
    await_status(c.id, "waiting"); /* claimed, and parked again */
    let_go();
    outcome_release(wait_for(&here));
    assert_int_equal(calls_of("/held"), 1);
}

/* A node that only answers records what there is to send as due; that is no attempt. Steps before it are not run again. */
static void test_a_node_that_only_answers(void **state)
{
    struct caller c, pure;
    house.engine->works = false;
    u64 before = db_stats(house.db).jobs;
    assert_int_equal(start(&pure, "{\"steps\":[{\"id\":\"t\",\"type\":\"transform\"}]}", "{}", NULL, false), OK);
    outcome_release(wait_for(&pure));
    assert_int_equal(db_stats(house.db).jobs - before, 1);
    assert_int_equal(start(&c, CALLS_ONCE, "{}", NULL, false), OK);
    await_status(c.id, "waiting");
    assert_int_equal(calls_of("/once"), 0);
    house.engine->works = true;
    engine_wake(house.engine);
    struct outcome *o = wait_for(&c);
    assert_str(o->execution.status, "completed");
    assert_true(str_find(o->execution.step_executions, S("\"attempt\":1,"), 0) > 0);
    assert_true(str_find(o->execution.step_executions, S("\"attempts\":[]"), 0) > 0);
    assert_int_equal(calls_of("/once"), 1);
    outcome_release(o);
}

/* Cancelling and answers that are asked for elsewhere are heard; what was heard twice is obeyed once. */
static void test_news_from_elsewhere(void **state)
{
    struct caller c;
    assert_int_equal(start(&c, HELD, "{}", NULL, false), OK);
    await_calls("/held", 1);
    struct worker *w = worker_of(house.engine, c.id);
    worker_hear(w, &(struct news){ .what = NEWS_LOOK, .execution_id = c.id, .at_us = 5 });
    worker_hear(w, &(struct news){ .what = NEWS_LOOK, .execution_id = c.id, .at_us = 5 });
    worker_hear(w, &(struct news){ .what = NEWS_WANT, .execution_id = c.id });
    worker_hear(w, &(struct news){ .what = NEWS_CANCEL, .execution_id = S("execution_of_nobody") });
    worker_hear(w, &(struct news){ .what = NEWS_ENDED, .execution_id = c.id });
    worker_hear(w, &(struct news){ .what = NEWS_CANCEL, .execution_id = c.id });
    struct outcome *o = wait_for(&c);
    assert_str(o->execution.status, "cancelled");
    outcome_release(o);
}

#define ONCE                                                                                                           \
    "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"at_most_once\":true,\"retry\":{\"max_attempts\":1},"                \
    "\"timeout_ms\":30000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/hang3\"}},{\"id\":\"n\",\"type\":\"transform\"," \
    "\"with\":{\"v\":\"{{ steps.h.output.body }}\"}}],\"dependencies\":{\"n\":[\"h\"]}}"

struct answering {
    str id, step, answer;
    i64 item; /* of the foreach around it; -1 = none */
};

static err ask_answer(void *ctx, struct tx *tx)
{
    struct answering *a = ctx;
    return engine_resume_ask(tx, S("tenant_1"), a->id,
                             &(struct resume_step){ .id = a->step, .items = { a->item }, .depth = a->item >= 0 },
                             a->answer, clock_now_us());
}

static err answer(str id, const char *step, const char *text)
{
    return db_write_wait(house.db, house.arena, ask_answer, &(struct answering){ id, str_of(step), str_of(text), -1 });
}

/* Cut off in the middle of its only call, and taken up again. */
static void leave_unknown(str id)
{
    leave_behind(id, ONCE);
    assert_int_equal(answer(id, "h", "{\"action\":\"retry\"}"), ERR_CONFLICT); /* nobody knows yet that it is unknown */
    open_engine();
    await_status(id, "waiting");
    assert_int_equal(calls_of("/hang3"), 1);
}

static void test_at_most_once_waits_for_a_person(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    leave_unknown(id);
    assert_int_equal(answer(id, "n", "{\"action\":\"complete\"}"), ERR_CONFLICT);
    assert_int_equal(answer(id, "none", "{\"action\":\"complete\"}"), ERR_CONFLICT);
    assert_int_equal(answer(S("execution_none"), "h", "{\"action\":\"complete\"}"), ERR_NOT_FOUND);
    assert_int_equal(answer(id, "h", "{\"action\":\"complete\",\"data\":{\"body\":[7]}}"), OK);
    assert_int_equal(answer(id, "h", "{\"action\":\"fail\"}"), ERR_CONFLICT); /* answered */
    engine_resume(house.engine, id);
    assert_str(await_status(id, "completed")->output_data, "{\"n\":{\"v\":[7]}}");
    assert_int_equal(calls_of("/hang3"), 1);
    assert_int_equal(answer(id, "h", "{\"action\":\"complete\"}"), ERR_NOT_FOUND);
}

/* In a loop the answer is for one iteration; the others go on by themselves. */
static void test_a_person_answers_for_an_iteration(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    leave_behind(
        id,
        "{\"steps\":[{\"id\":\"f\",\"type\":\"foreach\",\"with\":{\"items\":[\"fine\",\"hang3\"],\"concurrency\":2,\"steps\":"
        "{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"at_most_once\":true,\"timeout_ms\":30000,\"with\":{\"url\":\"http://127.0.0.1:%PORT%/{{ item }}\"}}]}}}]}");
    open_engine();
    await_status(id, "waiting");
    struct answering first = { id, S("h"), S("{\"action\":\"complete\",\"data\":7}"), 0 }, second = first;
    second.item = 1;
    assert_int_equal(db_write_wait(house.db, house.arena, ask_answer, &first), ERR_CONFLICT); /* it has ended */
    assert_int_equal(db_write_wait(house.db, house.arena, ask_answer, &second), OK);
    engine_resume(house.engine, id);
    assert_true(str_find(await_status(id, "completed")->output_data, S(",{\"h\":7}]"), 0) > 0);
    assert_int_equal(calls_of("/fine"), 1);
}

/* Answered, and then the process died before any worker heard of it. */
static void test_an_answer_outlives_a_crash(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    leave_unknown(id);
    close_engine();
    assert_int_equal(answer(id, "h", "{\"action\":\"fail\",\"message\":\"not there\"}"), OK);
    open_engine();
    const struct execution *x = await_status(id, "failed");
    assert_error(x, "step.given_up");
    assert_true(str_find(x->error, S("not there"), 0) >= 0);
}

/* The call is made once more, in an attempt that counts as the first; cut off again it is unknown again. */
static void test_a_person_asks_for_another_attempt(void **state)
{
    char text[ID_LENGTH];
    str id = { text, ID_LENGTH };
    leave_unknown(id);
    for (int calls = 2; calls <= 3; calls++) {
        assert_int_equal(answer(id, "h", "{\"action\":\"retry\"}"), OK);
        engine_resume(house.engine, id);
        i64 until = clock_mono_us() + 30 * SECOND_US;
        while (calls_of("/hang3") < calls)
            assert_true(clock_mono_us() < until);
        cut_off();
        open_engine();
        await_status(id, "waiting");
    }
    bool first;
    assert_int_equal(cancel(id, &first), OK);
    assert_int_equal(answer(id, "h", "{\"action\":\"retry\"}"), ERR_NOT_FOUND); /* its end is on the way */
    engine_cancel(house.engine, id);
    assert_cancelled(await_status(id, "cancelled"), "\"attempt\":3");
}

/* --- sinks -------------------------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    char name[32], data[512];
    int n;
} heard = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static err hear(const struct happening *h, struct arena *arena)
{
    pthread_mutex_lock(&heard.lock);
    snprintf(heard.name, sizeof heard.name, "%s", h->name);
    snprintf(heard.data, sizeof heard.data, "%.*s", STR_FMT(h->data));
    heard.n++;
    pthread_cond_signal(&heard.cond);
    pthread_mutex_unlock(&heard.lock);
    return OK;
}
SINK(loose_sink, .name = "loose", .events = "execution.", .take = hear);
SINK(durable_sink, .name = "durable", .events = "execution.failed", .durable = true, .take = hear);
STMT(deliveries, "SELECT payload AS id FROM jobs WHERE tenant_id = $1 AND kind = 'sinks.deliver'", .row = &id_table,
     .scan_ok = true);

static u32 recorded_for_sinks(str *payload)
{
    struct tx *tx;
    void *rows;
    u32 n;
    assert_int_equal(db_read_begin(house.db, house.arena, false, &tx), OK);
    assert_int_equal(db_list(tx, &deliveries, 4, &rows, &n, ARGS(STR(S("tenant_1")))), OK);
    db_read_end(tx);
    *payload = n > 0 ? ((struct id_row *)rows)->id : STR_NONE;
    return n;
}

static void await_heard(int n)
{
    pthread_mutex_lock(&heard.lock);
    while (heard.n < n)
        pthread_cond_wait(&heard.cond, &heard.lock);
    pthread_mutex_unlock(&heard.lock);
}

/* The end of an execution, in one write or after many, goes to those who want it: from memory, and with the transaction that records it. */
static void test_sinks_hear_of_ends(void **state)
{
    str payload;
    heard.n = 0;
    outcome_release(run(three_pure, "{}"));
    await_heard(1);
    assert_string_equal(heard.name, "execution.completed");
    assert_int_equal(recorded_for_sinks(&payload), 0);
    struct outcome *o =
        run("{\"steps\":[{\"id\":\"h\",\"type\":\"http\",\"with\":{\"url\":\"http://127.0.0.1:%PORT%/gone\"}}]}", "{}");
    await_heard(2);
    assert_string_equal(heard.name, "execution.failed");
    str data =
        strf(house.arena,
             "{\"execution_id\":\"%.*s\",\"workflow_id\":\"workflow_1\",\"parent_id\":null,\"status\":\"failed\","
             "\"code\":\"http.status\",\"step_id\":\"h\",\"version\":%lld}",
             STR_FMT(o->execution.execution_id), (long long)house.version);
    assert_string_equal(heard.data, data.p);
    assert_int_equal(recorded_for_sinks(&payload), 1);
    assert_true(str_find(payload, data, 0) > 0 &&
                str_starts(payload, S("{\"sink\":\"durable\",\"event\":\"execution.failed\"")));
    outcome_release(o);
}

/* --- plans -------------------------------------------------------------------------------------------------------- */

static char *definition_of(size_t bytes)
{
    struct buf b = { .arena = house.arena };
    buf_str(&b, S("{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"v\":\""));
    while (b.n < bytes - 5)
        buf_char(&b, 'x');
    buf_str(&b, S("\"}}]}"));
    assert_int_equal(b.n, bytes);
    buf_char(&b, '\0');
    return b.p;
}

static err plan_in_read(bool fast, bool repeats, bool *slow)
{
    struct tx *tx;
    struct plan *plan = NULL;
    assert_int_equal(db_read_begin(house.db, house.arena, fast, &tx), OK);
    if (repeats)
        db_read_repeats(tx);
    err e = engine_plan(house.engine, tx, S("tenant_1"), S("workflow_1"), ++house.version, &plan);
    *slow = db_read_was_slow(tx);
    db_read_end(tx);
    plan_release(plan);
    return e;
}

/* Where a read can be begun again elsewhere, a long definition is not compiled on the loop. */
static void test_long_definitions_leave_the_loop(void **state)
{
    enum { ON_LOOP = 16 * 1024 };
    bool slow;
    if (on_postgres) /* nothing is read on a loop there */
        skip();
    for (int more = -1; more <= 1; more++) {
        house.definition = definition_of((size_t)(ON_LOOP + more));
        assert_int_equal(plan_in_read(true, true, &slow), more <= 0 ? OK : ERR_BUSY);
        assert_int_equal(slow, more > 0);
    }
    assert_int_equal(plan_in_read(false, true, &slow), OK); /* the pool */
    assert_false(slow);
    assert_int_equal(plan_in_read(true, false, &slow), OK); /* a stream belongs to its loop */
    assert_false(slow);
}

/* --- events ------------------------------------------------------------------------------------------------------- */

static void test_events_of_the_history(void **state)
{
    struct outcome *o = run(three_pure, "{}");
    struct execution_event *list;
    u32 n;
    assert_int_equal(execution_events(house.arena, &o->execution, &list, &n), OK);
    static const char *const names[] = { "execution.started", "step.started", "step.completed", "step.started",
                                         "step.completed",    "step.started", "step.completed", "execution.completed" };
    assert_int_equal(n, COUNT(names));
    for (u32 i = 0; i < n; i++) {
        assert_str(list[i].name, names[i]);
        assert_true(i == 0 || execution_event_cmp(list[i - 1].id, list[i].id) < 0);
    }
    outcome_release(o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    on_postgres = test_store_on_postgres(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(test_wrong_definitions),
        TEST(test_outcomes),
        TEST(test_url_values_are_encoded),
        TEST(test_pure_steps_cost_one_transaction),
        TEST(test_retries),
        TEST(test_final_errors_are_not_retried),
        TEST(test_retries_are_used_up),
        TEST(test_calls_go_on_with_the_trace),
        TEST(test_retries_are_spans_of_their_own),
        TEST(test_the_trace_outlives_a_wait),
        TEST(test_failure_cancels_the_rest),
        TEST(test_idempotency_key),
        TEST(test_joining_a_waiting_execution),
        TEST(test_detached_is_told_when_queued),
        TEST(test_a_joined_caller_stops_waiting),
        TEST(test_a_long_execution_shares_its_worker),
        TEST(test_tell_now),
        TEST(test_waiting_costs_no_memory),
        TEST(test_cancel_in_the_middle_of_a_call),
        TEST(test_cancel_of_a_parked_execution),
        TEST(test_cancel_outlives_a_crash),
        TEST(test_cancel_at_any_moment),
        TEST(test_kill_does_not_wait_for_calls),
        TEST(test_kill_overtakes_a_cancellation),
        TEST(test_kill_of_a_parked_execution),
        TEST(test_kill_of_one_that_cannot_be_read),
        TEST(test_kill_outlives_a_crash),
        TEST(test_kill_at_any_moment),
        TEST(test_kill_reaches_children),
        TEST(test_replay_from_a_step),
        TEST(test_replay_with_another_input),
        TEST(test_retry_runs_what_failed),
        TEST(test_replay_outlives_a_stop),
        TEST(test_a_pure_replay_costs_one_transaction),
        TEST(test_child_gives_its_output),
        TEST(test_children_beside_a_call),
        TEST(test_child_that_fails),
        TEST(test_child_that_cannot_run),
        TEST(test_child_that_nobody_waits_for),
        TEST(test_child_that_is_late),
        TEST(test_depth_is_bounded),
        TEST(test_cancel_reaches_children),
        TEST(test_children_outlive_a_stop),
        TEST(test_a_limit_is_never_exceeded),
        TEST(test_those_who_wait_are_served_in_order),
        TEST(test_a_key_has_a_limit_for_each_value),
        TEST(test_a_key_that_cannot_be_evaluated),
        TEST(test_who_may_not_wait_is_refused),
        TEST(test_the_newest_replaces),
        TEST(test_waiting_for_a_slot),
        TEST(test_time_runs_out_in_the_queue),
        TEST(test_the_queue_outlives_a_stop),
        TEST(test_a_raised_limit_lets_those_go_who_wait),
        TEST(test_children_share_the_slot_above_them),
        TEST(test_children_wait_for_their_slot),
        TEST(test_a_child_may_be_refused),
        TEST(test_limits_of_the_configuration),
        TEST(test_a_limit_is_taken_away),
        TEST(test_a_limit_costs_one_transaction_more),
        TEST(test_tenants_take_turns),
        TEST(test_what_a_failure_leaves_behind),
        TEST(test_a_failure_and_its_handler_are_one_transaction),
        TEST(test_goes_on_after_a_stop),
        TEST(test_interrupted_step_runs_again),
        TEST(test_what_another_node_has_taken),
        TEST(test_what_comes_back_while_it_is_still_here),
        TEST(test_a_row_that_nobody_here_knows),
        TEST(test_a_node_that_only_answers),
        TEST(test_news_from_elsewhere),
        TEST(test_at_most_once_waits_for_a_person),
        TEST(test_a_person_answers_for_an_iteration),
        TEST(test_an_answer_outlives_a_crash),
        TEST(test_a_person_asks_for_another_attempt),
        TEST(test_sinks_hear_of_ends),
        TEST(test_long_definitions_leave_the_loop),
        TEST(test_events_of_the_history),
        TEST(test_foreach_outcomes),
        TEST(test_an_iteration_that_fails_says_which),
        TEST(test_ten_thousand_iterations),
        TEST(test_iterations_at_the_same_time),
        TEST(test_each_iteration_has_a_key_of_its_own),
        TEST(test_iterations_outlive_a_stop),
        TEST(test_retry_of_an_iteration),
        TEST(test_replay_behind_a_loop),
        TEST(test_cancel_reaches_iterations),
        TEST(test_a_failing_iteration_ends_the_others),
        TEST(test_iterations_have_a_deadline),
        TEST(test_children_of_iterations),
    };
    return cmocka_run_group_tests(tests, NULL, on_postgres ? remove_place : NULL);
}
