/* test_core.c - the request path over a real listener and a real store, with a module of toys.
 *
 * The client is a plain socket: what is checked are the bytes that a client would see. Nothing sleeps: a handler that must be
 * in a certain place is waited for by condition. */
#include "core/auth.h"
#include "core/list.h"
#include "core/pipeline.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

const struct migration db_migrations[] = {
    { 1, "toys", "CREATE TABLE toys (id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, name TEXT NOT NULL UNIQUE) STRICT;",
      "DROP TABLE toys;" },
    { 2, "idempotency",
      "CREATE TABLE idempotency_keys (tenant_id TEXT NOT NULL, key_hash TEXT NOT NULL, body_hash TEXT NOT NULL, status BIGINT NOT NULL, "
      "headers TEXT NOT NULL, body TEXT, created_at BIGINT NOT NULL, PRIMARY KEY (tenant_id, key_hash));",
      "DROP TABLE idempotency_keys;" },
    { 0 },
};

/* -- the toys ------------------------------------------------------------------------------------------------------ */

struct toy {
    struct presence has;
    str id, name;
};
static const struct field toy_fields[] = {
    FIELD(struct toy, id, F_STR, .flags = F_OUTPUT, .doc = "Made by the server"),
    FIELD(struct toy, name, F_STR, .flags = F_REQUIRED, .min = 1, .max = 20, .doc = "Shown on the shelf"),
};
static const struct table toy_table = TABLE("Toy", struct toy, toy_fields, .doc = "Something to play with");

struct toys_query {
    struct presence has;
    struct page page;
    str name;
};
static const struct field toys_query_fields[] = {
    LIST_QUERY(struct toys_query),
    FIELD(struct toys_query, name, F_STR, .max = 20, .doc = "Only toys of this name"),
};
static const struct table toys_query = TABLE("ToysQuery", struct toys_query, toys_query_fields);

PERMISSION(can_read, "toys.read", ROLES_ALL, "See toys");
PERMISSION(can_write, "toys.write", ROLES_EDITORS, "Make toys");
PROBLEM(broken_toy, "toys.broken", ERR_CONFLICT, "The toy is broken");
static struct problem mutable_problem = { "toys.mutable", ERR_CONFLICT, "For the checks" };
static const struct problem *const mutable_entry __attribute__((section("weir_problems"), used)) = &mutable_problem;

STMT(toy_insert, "INSERT INTO toys (id, tenant_id, name) VALUES ($1, $2, $3)", .scope = SCOPE_TENANT);
STMT(toy_by_name, "SELECT id, name FROM toys WHERE tenant_id = $1 AND name = $2", .row = &toy_table, .scan_ok = true);
STMT(toys_all, "SELECT id, name FROM toys WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
     .row = &toy_table, .scan_ok = true);
STMT(toy_state, "SELECT id || name AS state FROM toys WHERE tenant_id = $1 AND name = $2", .row = &etag_table,
     .scan_ok = true);
STMT(toy_update, "UPDATE toys SET id = $3 WHERE tenant_id = $1 AND name = $2", .scan_ok = true);
STMT(
    toys_slow,
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) SELECT 'slow' AS id, 'done' AS name FROM n WHERE i = 400000",
    .row = &toy_table, .scan_ok = true, .scope = SCOPE_SYSTEM);

/* What handlers and tests tell each other. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int entered, after_calls, slow_runs;
    bool released;
    struct req *waiting;
} stage = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void stage_enter(struct req *rq)
{
    pthread_mutex_lock(&stage.lock);
    stage.entered++;
    stage.waiting = rq;
    pthread_cond_broadcast(&stage.changed);
    pthread_mutex_unlock(&stage.lock);
}

static struct req *stage_await(int entered)
{
    pthread_mutex_lock(&stage.lock);
    while (stage.entered < entered)
        pthread_cond_wait(&stage.changed, &stage.lock);
    struct req *rq = stage.waiting;
    pthread_mutex_unlock(&stage.lock);
    return rq;
}

static err toy_show(struct req *rq)
{
    struct toy *out = NEW(rq->arena, struct toy);
    assert_non_null(out);
    TRY(db_row(rq->tx, &toy_by_name, out, ARGS(TENANT(rq), STR(req_param(rq, "name")))));
    if (!str_eq(out->id, S("untold"))) /* then the statement says it */
        reply_state(rq, strf(rq->arena, "%.*s%.*s", STR_FMT(out->id), STR_FMT(out->name)));
    return reply(rq, 200, &toy_table, out);
}

static err toy_list(struct req *rq)
{
    const struct toys_query *q = rq->query;
    void *rows;
    u32 n;
    TRY(db_list(rq->tx, &toys_all, 101, &rows, &n, ARGS(TENANT(rq), list_before(&q->page), list_limit(&q->page))));
    return reply_list(rq, &toy_table, rows, n, &q->page, offsetof(struct toy, id), q->page.count ? 3 : -1, 0);
}

static err toy_prepare(struct req *rq)
{
    const struct toy *in = rq->body;
    assert_non_null(rq->tx);
    if (str_eq(in->name, S("answered")))
        return reply_empty(rq, 202);
    if (str_eq(in->name, S("refused")))
        return problem(rq, &broken_toy, "before anything was written");
    reply_header(rq, "X-Prepared", S("yes"));
    rq->prepared = (void *)(uintptr_t)in;
    return OK;
}

static void count_after(void *arg)
{
    (*(int *)arg)++;
}

static err toy_create(struct req *rq)
{
    const struct toy *in = rq->prepared != NULL ? rq->prepared : rq->body;
    assert_true(db_on_writer());
    struct toy *out = NEW(rq->arena, struct toy);
    assert_non_null(out);
    out->id = strf(rq->arena, "toy_%.*s", STR_FMT(in->name));
    out->name = in->name;
    field_set_all(&toy_table, out);
    TRY(db_exec(rq->tx, &toy_insert, NULL, ARGS(STR(out->id), TENANT(rq), STR(out->name))));
    TRY(req_after(rq, count_after, &stage.after_calls));
    reply_location(rq, "/api/v1/toys/%.*s", STR_FMT(out->name));
    return reply(rq, 201, &toy_table, out);
}

static err toy_change(struct req *rq)
{
    const struct toy *in = rq->body;
    struct toy *out = NEW(rq->arena, struct toy);
    assert_non_null(out);
    *out = (struct toy){ .id = in->name, .name = req_param(rq, "name") };
    field_set_all(&toy_table, out);
    TRY(db_exec(rq->tx, &toy_update, NULL, ARGS(TENANT(rq), STR(out->name), STR(out->id))));
    return reply(rq, 200, &toy_table, out);
}

static err toy_roll_back(struct req *rq)
{
    TRY(toy_create(rq));
    return problem_at(rq, &broken_toy, S("/name"), "toys.name", "it broke");
}

static err toy_keep(struct req *rq)
{
    TRY(toy_create(rq));
    return problem(rq, &broken_toy, "it broke, and that is remembered") == ERR_CONFLICT ? OK : ERR_INTERNAL;
}

static err toy_slow(struct req *rq)
{
    struct toy *out = NEW(rq->arena, struct toy);
    assert_non_null(out);
    assert_int_equal(rq->who.role, 0); /* whoever an earlier run found is forgotten with its memory */
    assert_true(gate_allows(rq, &can_read));
    stage.slow_runs++;
    assert_int_equal(sched_getscheduler(0) == SCHED_BATCH,
                     stage.slow_runs > 1); /* the pool gives way, the loop does not */
    reply_header(rq, "X-Run", S("one"));
    TRY(db_row(rq->tx, &toys_slow, out, (struct args){ 0 }));
    return reply(rq, 200, &toy_table, out);
}

static err toy_block(struct req *rq)
{
    stage_enter(rq);
    pthread_mutex_lock(&stage.lock);
    while (!stage.released)
        pthread_cond_wait(&stage.changed, &stage.lock);
    pthread_mutex_unlock(&stage.lock);
    return reply_raw(rq, 200, S("text/plain"), S("unblocked"));
}

static err held_prepare(struct req *rq)
{
    return toy_block(rq) == OK ? (rq->answer = (struct answer){ 0 }, OK) : ERR_INTERNAL;
}

static err long_prepare(struct req *rq)
{
    return problem(rq, &broken_toy, loop_current() != NULL ? "on a loop" : "in the pool");
}

/* As many bytes as the name says. */
static err toy_bytes(struct req *rq)
{
    i64 n = 0;
    if (!str_i64(((const struct toy *)rq->body)->name, 0, 1 << 20, &n))
        return ERR_INVALID;
    char *p = arena_alloc(rq->arena, (size_t)n);
    assert_non_null(p);
    memset(p, 'x', (size_t)n);
    reply_location(rq, "/bytes/%lld", (long long)n);
    return reply_raw(rq, 200, S("text/plain"), (str){ p, (size_t)n });
}

static char woken[] = "woken", twice[] = "twice"; /* what parked requests carry along */

static void wait_over(struct req *rq)
{
    struct tx *tx;
    err e = req_read(rq, &tx);
    if (e == OK)
        db_read_end(tx);
    req_finish(rq, e == OK ? reply_raw(rq, 200, S("text/plain"), str_of(rq->parked)) : e);
}

static err toy_wait(struct req *rq)
{
    TRY(park(rq, wait_over, woken));
    TRY(park_timer(rq, HOUR_US, req_resume));
    stage_enter(rq);
    return OK;
}

static void again(struct req *rq)
{
    err e = park(rq, wait_over, twice);
    assert_int_equal(e, OK);
    req_resume(rq);
    req_resume(rq); /* ignored */
}

static err toy_timer(struct req *rq)
{
    TRY(park(rq, again, NULL));
    return park_timer(rq, 1000, req_resume);
}

static err toy_fault(struct req *rq)
{
    return fault(rq, "the %s is on fire", "cupboard");
}

static err toy_limit(struct req *rq)
{
    reply_header(rq, "retry-after", S("7"));
    reply_header(rq, "X-Bad", S("a\r\nX-Injected: 1"));
    return ERR_LIMIT;
}

static err toy_nothing(struct req *rq)
{
    return OK;
}

static err toy_huge(struct req *rq)
{
    enum { HUGE = 40 << 20 };
    struct toy *out = NEW(rq->arena, struct toy);
    char *p = arena_alloc(rq->arena, HUGE);
    if (out == NULL || p == NULL || !gate_allows(rq, &can_read))
        return ERR_MEMORY;
    memset(p, 'x', HUGE);
    out->id = (str){ p, HUGE };
    field_set_all(&toy_table, out);
    return reply(rq, 200, &toy_table, out);
}

static err toy_raw(struct req *rq)
{
    return reply_raw(rq, 200, S("text/plain"), rq->http->body);
}

static err toy_parts(struct req *rq)
{
    return reply_raw(rq, 200, S("text/plain"),
                     strf(rq->arena, "%.*s|%.*s", STR_FMT(rq->params[0]), STR_FMT(req_param(rq, "part"))));
}

static err toy_admit(struct req *rq, size_t *max_body)
{
    if (str_eq(rq->params[0], S("closed")))
        return problem(rq, &broken_toy, "Closed");
    *max_body = str_eq(rq->params[0], S("small")) ? 4 : 100;
    return OK;
}

static err toy_echo(struct req *rq)
{
    return reply(rq, 200, &toy_table, rq->body);
}

#define TEXT_OUT .flags = R_TEXT, .produces = "text/plain"

static const struct problem *const toy_problems[] = { &broken_toy, NULL };
static const struct route toy_routes[] = {
    { ROUTE(GET, "/api/v1/toys", toy_list, W_READ), .need = &can_read, .flags = R_LIST, .query = &toys_query,
      .out = &toy_table, .doc = "All toys" },
    { ROUTE(POST, "/api/v1/toys", toy_create, W_WRITE), .prepare = toy_prepare, .need = &can_write, .in = &toy_table,
      .out = &toy_table, .problems = toy_problems, .doc = "Make a toy", .example = "{\"name\":\"bear\"}" },
    { ROUTE(GET, "/api/v1/toys/{name}", toy_show, W_READ), .need = &can_read, .out = &toy_table, .etag = &toy_state,
      .flags = R_TELLS_STATE, .doc = "One toy" },
    { ROUTE(PATCH, "/api/v1/toys/{name}", toy_echo, W_READ), .need = &can_write, .flags = R_PATCH, .in = &toy_table,
      .out = &toy_table, .doc = "Echo" },
    { ROUTE(GET, "/api/v1/toys/{name}/parts/{part}", toy_parts, W_READ), .need = &signed_in, TEXT_OUT, .doc = "Parts" },
    { ROUTE(PUT, "/api/v1/toys/{name}", toy_change, W_WRITE), .need = &can_write, .flags = R_NEED_MATCH,
      .in = &toy_table, .out = &toy_table, .etag = &toy_state, .doc = "Another id" },
    { ROUTE(POST, "/api/v1/held", toy_create, W_WRITE), .prepare = held_prepare, .need = &can_write,
      .flags = R_SLOW_PREPARE, .in = &toy_table, .out = &toy_table, .doc = "Waits before it writes" },
    { ROUTE(POST, "/api/v1/long", toy_create, W_WRITE), .prepare = long_prepare, .need = &can_write,
      .flags = R_SLOW_LONG, .in = &toy_table, .out = &toy_table, .problems = toy_problems,
      .doc = "Says where it was prepared" },
    { ROUTE(POST, "/api/v1/bytes", toy_bytes, W_WRITE), .need = &can_write, .flags = R_TEXT, .produces = "text/plain",
      .in = &toy_table, .doc = "Bytes" },
    { ROUTE(POST, "/api/v1/secret", toy_create, W_WRITE), .need = &can_write, .flags = R_SECRET, .in = &toy_table,
      .out = &toy_table, .doc = "Not to be kept" },
    { ROUTE(POST, "/api/v1/broken", toy_roll_back, W_WRITE), .need = &can_write, .in = &toy_table, .out = &toy_table,
      .doc = "Rolls back" },
    { ROUTE(POST, "/api/v1/kept", toy_keep, W_WRITE), .need = &can_write, .in = &toy_table, .out = &toy_table,
      .doc = "Commits and fails" },
    { ROUTE(GET, "/slow", toy_slow, W_READ), .need = &anyone, .out = &toy_table, .doc = "Too slow for a loop" },
    { ROUTE(GET, "/block", toy_block, W_SLOW), .need = &anyone, TEXT_OUT, .doc = "Blocks" },
    { ROUTE(GET, "/wait", toy_wait, W_WAIT), .need = &anyone, TEXT_OUT, .doc = "Parks" },
    { ROUTE(GET, "/timer", toy_timer, W_WAIT), .need = &anyone, TEXT_OUT, .doc = "Parks twice" },
    { ROUTE(GET, "/timer/slow", toy_timer, W_SLOW), .need = &anyone, TEXT_OUT, .doc = "Parks in the pool" },
    { ROUTE(GET, "/fault", toy_fault, W_READ), .need = &anyone, TEXT_OUT, .doc = "Fails" },
    { ROUTE(GET, "/limit", toy_limit, W_READ), .need = &anyone, TEXT_OUT, .doc = "Limits" },
    { ROUTE(GET, "/nothing", toy_nothing, W_READ), .need = &anyone, TEXT_OUT, .doc = "Forgets to answer" },
    { ROUTE(GET, "/huge", toy_huge, W_READ), .need = &anyone, .out = &toy_table, .doc = "Too large to encode" },
    { ROUTE(POST, "/raw/{name}", toy_raw, W_READ), .need = &anyone, .flags = R_RAW_BODY | R_ADMIT | R_TEXT,
      .admit = toy_admit, .produces = "text/plain", .doc = "Any bytes" },
    { ROUTE(POST, "/optional", toy_nothing, W_READ), .need = &anyone, .flags = R_OPTIONAL_BODY | R_TEXT,
      .produces = "text/plain", .in = &toy_table, .doc = "Optional body" },
    { ROUTE(GET, "/any", toy_raw, W_READ), .need = &anyone, .flags = R_ANY_METHOD | R_RAW_BODY | R_TEXT,
      .produces = "text/plain", .doc = "Any method" },
};
static const struct module toys_module = {
    .name = "toys", .doc = "Toys", .routes = toy_routes, .route_count = COUNT(toy_routes)
};
static struct module broken_module = { .name = "broken", .doc = "Filled in by the tests of the checks" };
const struct module *const modules[] = { &toys_module, &broken_module, NULL };

/* Tokens are "<role>": owner, viewer, busy. */
static err toy_authenticate(struct req *rq, const struct credential *c, const char **reason)
{
    str bearer = c->text;
    *reason = "unknown";
    if (str_eq(bearer, S("busy")))
        return ERR_BUSY;
    rq->who.role = str_eq(bearer, S("owner")) ? ROLE_OWNER : str_eq(bearer, S("viewer")) ? ROLE_VIEWER : 0;
    rq->who.tenant_id = str_dup(rq->arena, S("tenant_1"));
    return rq->who.role != 0 ? OK : ERR_UNAUTHORIZED;
}

/* -- the server ---------------------------------------------------------------------------------------------------- */

static char folder[64];
static pthread_t loop_thread_id;
static struct listener main_listener;

static void *loop_main(void *arg)
{
    loop_run(app.loops[0]);
    db_thread_end(app.db);
    return NULL;
}

static int start_server(void **state)
{
    static struct loop *loops[1];
    log_setup(LOG_OFF, LOG_ERROR);
    snprintf(folder, sizeof folder, "/tmp/weir-core-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0); /* .env is looked for here */
    app.arena = arena_new(64 * MIB);
    app.loops = loops;
    app.loop_count = 1;
    app.loops[0] = loop_new(0);
    assert_non_null(app.loops[0]);
    struct db_options options = { .folder = str_of(folder) };
    assert_int_equal(db_open(&options, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    assert_int_equal(routes_build(), OK);
    assert_int_equal(openapi_build(app.arena), OK);
    app.slow = pool_new("slow", 2, 1);
    assert_non_null(app.slow);
    gate_authenticate_by(toy_authenticate);
    struct http_handler handler = req_handler(&main_listener);
    assert_int_equal(http_listen(app.loops, 1, S("127.0.0.1"), 0, &http_default_limits, &handler, &app.server), OK);
    return pthread_create(&loop_thread_id, NULL, loop_main, NULL);
}

static void drained(void *ctx)
{
    loop_stop(app.loops[0]);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return remove(path);
}

static int stop_server(void **state)
{
    http_drain(app.server, drained, NULL);
    pthread_join(loop_thread_id, NULL);
    pool_free(app.slow);
    db_thread_end(app.db);
    db_close(app.db);
    http_free(app.server);
    loop_settle(app.loops[0]);
    loop_free(app.loops[0]);
    arena_free(app.arena);
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* -- the client ---------------------------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(http_port(app.server)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void send_all(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static char answer[1 << 20];

static const char *receive(int fd)
{
    size_t n = 0;
    for (ssize_t got; n < sizeof answer - 1 && (got = recv(fd, answer + n, sizeof answer - 1 - n, 0)) > 0;)
        n += (size_t)got;
    answer[n] = '\0';
    close(fd);
    return answer;
}

static int send_request(const char *line, const char *headers, const char *body)
{
    char text[8192];
    int fd = dial();
    int n = snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", line, headers);
    if (body != NULL)
        n += snprintf(text + n, sizeof text - (size_t)n, "Content-Length: %zu\r\n", strlen(body));
    snprintf(text + n, sizeof text - (size_t)n, "\r\n%s", body != NULL ? body : "");
    send_all(fd, text);
    return fd;
}

static const char *ask(const char *line, const char *headers, const char *body)
{
    return receive(send_request(line, headers, body));
}

static int status_of(const char *text)
{
    return (int)strtol(text + 9, NULL, 10);
}

static void has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("%s is not in:\n%s", part, text);
}

static void has_not(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        fail_msg("%s is in:\n%s", part, text);
}

#define OWNER  "Authorization: Bearer owner\r\n"
#define VIEWER "Authorization: bearer viewer\r\n"
#define JSON   "Content-Type: application/json\r\n"

/* -- statuses ------------------------------------------------------------------------------------------------------ */

struct row {
    const char *line, *headers, *body;
    int status;
    const char *contains[3];
};

static void run_rows(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *text = ask(rows[i].line, rows[i].headers, rows[i].body);
        if (status_of(text) != rows[i].status)
            fail_msg("%s: %d wanted, got:\n%s", rows[i].line, rows[i].status, text);
        for (size_t k = 0; k < COUNT(rows[i].contains) && rows[i].contains[k] != NULL; k++)
            has(text, rows[i].contains[k]);
        has(text, "X-Request-Id: ");
        has(text, "X-Content-Type-Options: nosniff");
    }
}

static void test_gate(void **state)
{
    static const struct row rows[] = {
        { "GET /api/v1/toys",
          "",
          NULL,
          401,
          { "WWW-Authenticate: Bearer realm=\"weir\"", "\"code\":\"auth.unauthorized\"", "Cache-Control: no-store" } },
        { "GET /api/v1/toys", "Authorization: Bearer nobody\r\n", NULL, 401, { "application/problem+json" } },
        { "GET /api/v1/toys", "Authorization: Basic owner\r\n", NULL, 401, { "auth.unauthorized" } },
        { "GET /api/v1/toys", OWNER OWNER, NULL, 401, { "auth.unauthorized" } },
        { "GET /api/v1/toys", "Authorization: Bearer busy\r\n", NULL, 503, { "Retry-After: 1", "server.overloaded" } },
        { "GET /api/v1/toys", VIEWER, NULL, 200, { "[]" } },
        { "POST /api/v1/toys", VIEWER JSON, "{\"name\":\"x\"}", 403, { "auth.forbidden", "toys.write" } },
        { "GET /api/v1/none", "", NULL, 401, { "auth.unauthorized" } },
        { "GET /api/v1/none", OWNER, NULL, 404, { "route.not_found" } },
        { "GET /api/v1", "", NULL, 401, { "auth.unauthorized" } },
        { "GET /api/v10", "", NULL, 404, { "route.not_found" } },
        { "GET /none",
          "",
          NULL,
          404,
          { "\"type\":\"/docs/errors#route.not_found\"", "\"status\":404", "\"errors\":[]" } },
        { "DELETE /api/v1/toys", OWNER, NULL, 405, { "Allow: GET, HEAD, POST, OPTIONS", "route.method_not_allowed" } },
        { "OPTIONS /api/v1/toys", "", NULL, 204, { "Allow: GET, HEAD, POST, OPTIONS" } },
        { "OPTIONS /none", "", NULL, 404, { "route.not_found" } },
        { "GET /api/v1/toys/", OWNER, NULL, 200, { "[]" } },
        { "GET /api/v1/toys//", OWNER, NULL, 404, { "route.not_found" } },
        { "GET /api/v1/toys/%zz", OWNER, NULL, 400, { "request.undecodable" } },
        { "GET /api/v1/toys/absent", OWNER, NULL, 404, { "request.not_found" } },
    };
    run_rows(rows, COUNT(rows));
}

static void test_refused_before_the_body(void **state)
{
    int fd = dial();
    send_all(
        fd,
        "POST /api/v1/toys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{");
    shutdown(fd, SHUT_WR);
    assert_int_equal(status_of(receive(fd)), 401);
}

static void test_bodies(void **state)
{
    static const struct row rows[] = {
        { "POST /api/v1/toys", OWNER, "{\"name\":\"x\"}", 415, { "request.media_type" } },
        { "POST /api/v1/toys", OWNER "Content-Type: text/json\r\n", "{}", 415, { "request.media_type" } },
        { "POST /api/v1/toys",
          OWNER "Content-Type: application/json; charset=latin1\r\n",
          "{}",
          415,
          { "request.media_type" } },
        { "POST /api/v1/toys",
          OWNER "Content-Type: application/x+json; charset=UTF-8\r\n",
          "{}",
          422,
          { "field.required" } },
        { "POST /api/v1/toys", OWNER JSON, NULL, 400, { "request.json", "required" } },
        { "POST /api/v1/toys", OWNER JSON, "{\"name\":}", 400, { "request.json", "\"code\":\"json.", "at byte 8" } },
        { "POST /api/v1/toys",
          OWNER JSON,
          "{}",
          422,
          { "\"code\":\"request.invalid\"", "\"pointer\":\"/name\"", "field.required" } },
        { "POST /api/v1/toys", OWNER JSON, "[]", 422, { "request.invalid" } },
        { "POST /api/v1/toys?colour=red", OWNER JSON, "{}", 422, { "query/colour", "/name" } },
        { "POST /api/v1/toys", OWNER JSON, "{\"id\":\"x\",\"name\":\"y\"}", 422, { "field.read_only", "\"/id\"" } },
        { "POST /api/v1/toys", OWNER JSON, "{\"name\":\"123456789012345678901\"}", 422, { "/name" } },
        { "PATCH /api/v1/toys/x", OWNER JSON, "{}", 200, { "\"name\":" } },
        { "GET /api/v1/toys/x?a=1", OWNER, NULL, 422, { "query/a", "field.unknown" } },
        { "GET /api/v1/toys?limit=101", OWNER, NULL, 422, { "query/limit" } },
        { "GET /api/v1/toys?limit=%zz", OWNER, NULL, 400, { "request.undecodable" } },
        { "POST /raw/small", "", "1234", 200, { "1234" } },
        { "POST /raw/small", "", "12345", 413, { "application/problem+json" } },
        { "POST /raw/large", "", "12345", 200, { "12345" } },
        { "POST /raw/closed", "", "12345", 409, { "toys.broken", "Closed" } },
        { "POST /raw/large?any=1", "", "", 422, { "query/any" } },
        { "POST /optional", "", NULL, 422, { "/name" } },
        { "PUT /any", "", "bytes", 200, { "bytes" } },
        { "GET /fault", JSON, "{}", 200 + 300, { "server.internal" } },
        { "GET /limit", JSON, "{\"x\":1}", 422, { "\"/x\"", "field.unknown" } },
    };
    run_rows(rows, COUNT(rows));
}

static void test_failures(void **state)
{
    const char *text = ask("GET /fault", "X-Request-Id: my.id-1\r\n", NULL);
    assert_int_equal(status_of(text), 500);
    has(text, "X-Request-Id: my.id-1\r\n");
    has(text, "\"request_id\":\"my.id-1\"");
    has_not(text, "cupboard");
    app.config.debug = true;
    has(ask("GET /fault", "X-Request-Id: not,sane\r\n", NULL), "the cupboard is on fire");
    app.config.debug = false;
    has_not(answer, "not,sane");
    text = ask("GET /limit", "", NULL);
    assert_int_equal(status_of(text), 429);
    has(text, "retry-after: 7\r\n");
    has_not(text, "Retry-After: 1");
    has_not(text, "X-Injected");
    assert_int_equal(status_of(ask("GET /nothing", "", NULL)), 500);
    assert_int_equal(status_of(ask("GET /huge", OWNER, NULL)), 503);
    has(answer, "server.memory");
}

/* -- writing ------------------------------------------------------------------------------------------------------- */

static void test_writes(void **state)
{
    int before = stage.after_calls;
    const char *text = ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"bear\"}");
    assert_int_equal(status_of(text), 201);
    has(text, "Location: /api/v1/toys/bear\r\n");
    has(text, "X-Prepared: yes\r\n");
    has(text, "{\"id\":\"toy_bear\",\"name\":\"bear\"}");
    assert_int_equal(stage.after_calls, before + 1);
    assert_int_equal(status_of(ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"bear\"}")), 409);
    has(answer, "request.conflict");
    assert_int_equal(stage.after_calls, before + 1);
    assert_int_equal(status_of(ask("GET /api/v1/toys/bear", OWNER, NULL)), 200);
    assert_int_equal(status_of(ask("HEAD /api/v1/toys/bear", OWNER, NULL)), 200);
    has(answer, "content-length: 31\r\n");
    has_not(answer, "toy_bear");
}

static void test_prepare_may_answer(void **state)
{
    assert_int_equal(status_of(ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"answered\"}")), 202);
    assert_int_equal(status_of(ask("GET /api/v1/toys/answered", OWNER, NULL)), 404);
    assert_int_equal(status_of(ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"refused\"}")), 409);
    assert_int_equal(status_of(ask("GET /api/v1/toys/refused", OWNER, NULL)), 404);
}

static void test_problem_rolls_back(void **state)
{
    const char *text = ask("POST /api/v1/broken", OWNER JSON, "{\"name\":\"gone\"}");
    assert_int_equal(status_of(text), 409);
    has(text, "\"code\":\"toys.broken\"");
    has(text, "[{\"pointer\":\"/name\",\"code\":\"toys.name\",\"detail\":\"it broke\"}]");
    assert_int_equal(status_of(ask("GET /api/v1/toys/gone", OWNER, NULL)), 404);
}

static void test_problem_with_ok_commits(void **state)
{
    int before = stage.after_calls;
    assert_int_equal(status_of(ask("POST /api/v1/kept", OWNER JSON, "{\"name\":\"kept\"}")), 409);
    has(answer, "that is remembered");
    has_not(answer, "\"name\":\"kept\"");
    assert_int_equal(stage.after_calls, before + 1);
    assert_int_equal(status_of(ask("GET /api/v1/toys/kept", OWNER, NULL)), 200);
}

static void test_lists(void **state)
{
    assert_int_equal(status_of(ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"train\"}")), 201);
    const char *text = ask("GET /api/v1/toys?limit=2&count=true", OWNER, NULL);
    has(text, "Link: </api/v1/toys?limit=2&count=true&cursor=toy_kept>; rel=\"next\"\r\n");
    has(text, "X-Total-Count: 3\r\n");
    has(text, "[{\"id\":\"toy_train\",\"name\":\"train\"},{\"id\":\"toy_kept\",\"name\":\"kept\"}]");
    text = ask("GET /api/v1/toys?limit=2&cursor=toy_kept", OWNER, NULL);
    has(text, "[{\"id\":\"toy_bear\",\"name\":\"bear\"}]");
    has_not(text, "Link:");
    has_not(text, "X-Total-Count");
    assert_int_equal(status_of(ask("GET /api/v1/toys?limit=3", OWNER, NULL)), 200);
    has_not(answer, "Link:");
}

/* -- side roads ---------------------------------------------------------------------------------------------------- */

/* `"…"` of the last answer's ETag. */
static const char *etag_of(const char *text)
{
    static char tag[64];
    const char *at = strstr(text, "ETag: ");
    assert_non_null(at);
    snprintf(tag, sizeof tag, "%.*s", (int)strcspn(at + 6, "\r"), at + 6);
    return tag;
}

static const char *ask_if(const char *line, const char *name, const char *tag, const char *body)
{
    char headers[256];
    snprintf(headers, sizeof headers, OWNER JSON "%s: %s\r\n", name, tag);
    return ask(line, headers, body);
}

static void test_conditional_requests(void **state)
{
    char first[64], second[64];
    const char *text = ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"kite\"}");
    assert_int_equal(status_of(text), 201);
    snprintf(first, sizeof first, "%s", etag_of(text)); /* that of the GET route which Location leads to */
    text = ask("GET /api/v1/toys/kite", OWNER, NULL);
    assert_string_equal(etag_of(text), first);
    text = ask_if("GET /api/v1/toys/kite", "If-None-Match", first, NULL);
    assert_int_equal(status_of(text), 304);
    assert_string_equal(etag_of(text), first);
    has_not(text, "kite");
    assert_int_equal(status_of(ask_if("HEAD /api/v1/toys/kite", "If-None-Match", first, NULL)), 304);
    assert_int_equal(status_of(ask_if("GET /api/v1/toys/kite", "If-None-Match", "\"other\"", NULL)), 200);
    assert_int_equal(status_of(ask_if("GET /api/v1/toys/kite", "If-Match", "\"other\"", NULL)), 412);
    text = ask("PUT /api/v1/toys/kite", OWNER JSON, "{\"name\":\"second\"}");
    assert_int_equal(status_of(text), 428);
    has(text, "request.precondition_required");
    text = ask_if("PUT /api/v1/toys/kite", "If-Match", first, "{\"name\":\"second\"}");
    assert_int_equal(status_of(text), 200);
    snprintf(second, sizeof second, "%s", etag_of(text));
    assert_string_not_equal(first, second);
    text = ask_if("PUT /api/v1/toys/kite", "If-Match", first, "{\"name\":\"third\"}");
    assert_int_equal(status_of(text), 412);
    has(text, "request.precondition_failed");
    has_not(text, "ETag");
    has(ask("GET /api/v1/toys/kite", OWNER, NULL), "\"id\":\"second\"");
    assert_int_equal(status_of(ask_if("PUT /api/v1/toys/kite", "If-Match", "*", "{\"name\":\"untold\"}")), 200);
    snprintf(first, sizeof first, "%s", etag_of(answer)); /* by the statement, in the transaction */
    assert_string_equal(etag_of(ask("GET /api/v1/toys/kite", OWNER, NULL)), first);
    assert_int_equal(status_of(ask_if("PUT /api/v1/toys/kite", "If-Match", "*", "{\"name\":\"fourth\"}")), 200);
    snprintf(first, sizeof first, "%s", etag_of(answer));
    assert_string_equal(etag_of(ask("GET /api/v1/toys/kite", OWNER, NULL)), first); /* told by the handler */
    assert_int_equal(status_of(ask_if("GET /api/v1/toys/kite", "If-None-Match", second, NULL)), 200);
    assert_int_equal(status_of(ask_if("GET /api/v1/toys/nobody", "If-None-Match", "*", NULL)), 404);
}

static void test_fields(void **state)
{
    static const struct row rows[] = {
        { "GET /api/v1/toys/ball?fields=name", OWNER, NULL, 200, { "{\"name\":\"ball\"}" } },
        { "GET /api/v1/toys/ball?fields=name,id", OWNER, NULL, 200, { "{\"id\":\"toy_ball\",\"name\":\"ball\"}" } },
        { "GET /api/v1/toys?fields=id", OWNER, NULL, 200, { "{\"id\":\"toy_ball\"}" } },
        { "GET /api/v1/toys?fields=id,shape", OWNER, NULL, 422, { "\"query/fields\"", "\\\"shape\\\"" } },
        { "GET /api/v1/toys?fields=", OWNER, NULL, 422, { "\"query/fields\"" } },
        { "GET /api/v1/toys?fields=id&fields=id", OWNER, NULL, 422, { "field.repeated" } },
        { "GET /api/v1/toys?fields=shape&limit=0", OWNER, NULL, 422, { "\"query/fields\"", "\"query/limit\"" } },
        { "GET /nothing?fields=id", "", NULL, 422, { "field.unknown" } },
    };
    assert_int_equal(status_of(ask("POST /api/v1/toys", OWNER JSON, "{\"name\":\"ball\"}")), 201);
    run_rows(rows, COUNT(rows));
    has_not(ask("GET /api/v1/toys?fields=id", OWNER, NULL), "\"name\"");
}

#define KEY(k) OWNER JSON "Idempotency-Key: " k "\r\n"

static void test_a_key_is_one_request(void **state)
{
    char first[1024];
    int before = stage.after_calls;
    const char *text = ask("POST /api/v1/toys", KEY("k1"), "{\"name\":\"drum\"}");
    assert_int_equal(status_of(text), 201);
    has_not(text, "Idempotent-Replayed");
    snprintf(first, sizeof first, "%s", strstr(text, "\r\n\r\n"));
    text = ask("POST /api/v1/toys", KEY("k1"), "{\"name\":\"drum\"}");
    assert_int_equal(status_of(text), 201);
    assert_string_equal(strstr(text, "\r\n\r\n"), first);
    static const char *const kept[] = { "Idempotent-Replayed: true", "Location: /api/v1/toys/drum", "X-Prepared: yes",
                                        "ETag: \"", "Content-Type: application/json" };
    for (size_t i = 0; i < COUNT(kept); i++)
        has(text, kept[i]);
    assert_int_equal(stage.after_calls, before + 1);
    static const struct row rows[] = {
        { "POST /api/v1/toys", KEY("k1"), "{\"name\":\"flute\"}", 422, { "idempotency.mismatch" } },
        { "POST /api/v1/toys?", KEY("k1"), "{\"name\":\"drum\"}", 201, { "Idempotent-Replayed" } },
        { "POST /api/v1/toys", KEY("k2"), "{\"name\":\"drum\"}", 409, { "request.conflict" } }, /* another request */
        { "POST /api/v1/toys",
          KEY("k2"),
          "{\"name\":\"gong\"}",
          201,
          { "gong" } }, /* which did nothing, so its key is free */
        { "POST /api/v1/broken", KEY("k1"), "{\"name\":\"drum\"}", 409, { "request.conflict" } }, /* another route */
        { "POST /api/v1/secret", KEY("k3"), "{\"name\":\"note\"}", 201, { "note" } },
        { "POST /api/v1/secret", KEY("k3"), "{\"name\":\"note\"}", 409, { "request.conflict" } }, /* was not kept */
        { "POST /api/v1/toys", KEY("a b"), "{\"name\":\"x\"}", 422, { "header/Idempotency-Key" } },
        { "POST /api/v1/toys", KEY(""), "{\"name\":\"x\"}", 422, { "header/Idempotency-Key" } },
        { "POST /api/v1/toys",
          KEY("a") "Idempotency-Key: a\r\n",
          "{\"name\":\"x\"}",
          422,
          { "header/Idempotency-Key" } },
    };
    run_rows(rows, COUNT(rows));
}

static void test_bounds_of_keys_and_answers(void **state)
{
    char headers[512], body[64];
    for (int n = IDEMPOTENCY_KEY_MAX - 1; n <= IDEMPOTENCY_KEY_MAX + 1; n++) {
        snprintf(headers, sizeof headers, OWNER JSON "Idempotency-Key: %0*d\r\n", n, 7);
        int status = status_of(ask("POST /api/v1/bytes", headers, "{\"name\":\"1\"}"));
        assert_int_equal(status, n <= IDEMPOTENCY_KEY_MAX ? 200 : 422);
    }
    for (int n = IDEMPOTENCY_KEPT_MAX - 1; n <= IDEMPOTENCY_KEPT_MAX + 1; n++) {
        snprintf(headers, sizeof headers, OWNER JSON "Idempotency-Key: b%d\r\n", n);
        snprintf(body, sizeof body, "{\"name\":\"%d\"}", n);
        assert_int_equal(status_of(ask("POST /api/v1/bytes", headers, body)), 200);
        const char *text = ask("POST /api/v1/bytes", headers, body);
        assert_int_equal(status_of(text), n <= IDEMPOTENCY_KEPT_MAX ? 200 : 409);
        has(text, "Location: /bytes/");
        if (n > IDEMPOTENCY_KEPT_MAX)
            has(text, "idempotency.not_kept");
    }
    assert_int_equal(status_of(ask("POST /api/v1/bytes", KEY("empty"), "{\"name\":\"0\"}")), 200);
    has(ask("POST /api/v1/bytes", KEY("empty"), "{\"name\":\"0\"}"), "Idempotent-Replayed");
}

static void test_a_key_in_flight(void **state)
{
    stage.released = false;
    int entered = stage.entered, fd = send_request("POST /api/v1/held", KEY("f1"), "{\"name\":\"yoyo\"}");
    stage_await(entered + 1);
    const char *text = ask("POST /api/v1/held", KEY("f1"), "{\"name\":\"yoyo\"}");
    assert_int_equal(status_of(text), 409);
    has(text, "idempotency.running");
    has(text, "Retry-After: 1");
    pthread_mutex_lock(&stage.lock);
    stage.released = true;
    pthread_cond_broadcast(&stage.changed);
    pthread_mutex_unlock(&stage.lock);
    assert_int_equal(status_of(receive(fd)), 201);
    text = ask("POST /api/v1/held", KEY("f1"), "{\"name\":\"yoyo\"}");
    assert_int_equal(status_of(text), 201);
    has(text, "Idempotent-Replayed: true");
    stage.released = false;
}

static void test_long_bodies_are_prepared_in_the_pool(void **state)
{
    char body[PREPARE_ON_LOOP_MAX + 2];
    for (int n = PREPARE_ON_LOOP_MAX - 1; n <= PREPARE_ON_LOOP_MAX + 1; n++) {
        snprintf(body, sizeof body, "%-*s", n, "{\"name\":\"kite\"}");
        has(ask("POST /api/v1/long", OWNER JSON, body), n > PREPARE_ON_LOOP_MAX ? "in the pool" : "on a loop");
    }
}

static void test_slow_read_runs_again(void **state)
{
    stage.slow_runs = 0;
    const char *text = ask("GET /slow", OWNER, NULL);
    assert_int_equal(status_of(text), 200);
    has(text, "{\"id\":\"slow\",\"name\":\"done\"}");
    assert_int_equal(stage.slow_runs, 2);
    has_not(strstr(text, "X-Run") + 1, "X-Run");
}

/* Which of two connections has something to read. */
static int first_readable(const int fds[2])
{
    struct pollfd both[2] = { { .fd = fds[0], .events = POLLIN }, { .fd = fds[1], .events = POLLIN } };
    assert_true(poll(both, 2, -1) > 0);
    return both[0].revents != 0 ? 0 : 1;
}

static void test_full_pool(void **state)
{
    int fds[4];
    stage.entered = 0;
    stage.released = false;
    for (int i = 0; i < 2; i++) {
        fds[i] = send_request("GET /block", "", NULL);
        stage_await(i + 1);
    } /* both threads are busy; of two more, one fits into the queue */
    for (int i = 2; i < 4; i++)
        fds[i] = send_request("GET /block", "", NULL);
    int refused = 2 + first_readable(fds + 2);
    const char *text = receive(fds[refused]);
    assert_int_equal(status_of(text), 503);
    has(text, "Retry-After: 1");
    has(text, "server.overloaded");
    pthread_mutex_lock(&stage.lock);
    stage.released = true;
    pthread_cond_broadcast(&stage.changed);
    pthread_mutex_unlock(&stage.lock);
    for (int i = 0; i < 4; i++)
        if (i != refused)
            has(receive(fds[i]), "unblocked");
}

static void test_park_and_resume(void **state)
{
    stage.entered = 0;
    int fd = send_request("GET /wait", "", NULL);
    req_resume(stage_await(1));
    has(receive(fd), "woken");
}

static void test_parked_client_leaves(void **state)
{
    stage.entered = 0;
    int fd = send_request("GET /wait", "", NULL);
    struct req *rq = stage_await(1);
    struct linger at_once = { 1, 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    req_resume(rq);
    has(ask("GET /timer", "", NULL), "twice");
}

static void test_park_timer(void **state)
{
    has(ask("GET /timer", "", NULL), "twice");
    has(ask("GET /timer/slow", "", NULL), "twice");
}

static void test_metrics_side(void **state)
{
    app.config.metrics_listen = S("127.0.0.1:9");
    assert_int_equal(status_of(ask("GET /metrics", "", NULL)), 404);
    app.config.metrics_listen = STR_NONE;
    main_listener.metrics_only = true;
    assert_int_equal(status_of(ask("GET /slow", "", NULL)), 404);
    main_listener.metrics_only = false;
    struct buf b = { 0 };
    metrics_write(&b);
    buf_char(&b, '\0');
    has(b.p, "weir_http_requests_total{route=\"/api/v1/toys\",method=\"GET\",status=\"2xx\"}");
    has(b.p, "weir_http_request_duration_seconds_count{route=\"/fault\",method=\"GET\",status=\"5xx\"}");
    has(b.p, "weir_http_requests_total{route=\"\",method=\"\",status=\"4xx\"}");
    buf_free(&b);
}

/* -- routes -------------------------------------------------------------------------------------------------------- */

static void test_route_find(void **state)
{
    static const struct {
        enum http_method method;
        const char *path, *found, *first, *second;
    } rows[] = {
        { GET, "/api/v1/toys", "/api/v1/toys", NULL, NULL },
        { HEAD, "/api/v1/toys/", "/api/v1/toys", NULL, NULL },
        { GET, "/api/v1/toys/a%2Fb", "/api/v1/toys/{name}", "a/b", NULL },
        { GET, "/api/v1/toys/a/parts/%C3%A4", "/api/v1/toys/{name}/parts/{part}", "a", "ä" },
        { GET, "/api/v1/%74oys", "/api/v1/toys", NULL, NULL },
        { GET, "/timer/slow", "/timer/slow", NULL, NULL },
        { GET, "/api/v1/toys/..", NULL, NULL, NULL },
        { GET, "/api/v1/toys/.", NULL, NULL, NULL },
        { GET, "/api/v1//toys", NULL, NULL, NULL },
        { GET, "//api/v1/toys", NULL, NULL, NULL },
        { GET, "/api/v1/toys//parts/x", NULL, NULL, NULL },
        { GET, "/api/v1/toys/a/parts", NULL, NULL, NULL },
        { GET, "/", NULL, NULL, NULL },
        { GET, "", NULL, NULL, NULL },
        { GET, "*", NULL, NULL, NULL },
        { DELETE, "/any", "/any", NULL, NULL },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct arena *a = arena_new(4096);
        str params[6] = { 0 };
        const struct route *r = NULL;
        u32 allowed;
        assert_int_equal(route_find(a, rows[i].method, str_of(rows[i].path), &r, params, &allowed), OK);
        if ((r == NULL) != (rows[i].found == NULL) || (r != NULL && strcmp(r->path, rows[i].found) != 0))
            fail_msg("%s leads to %s", rows[i].path, r != NULL ? r->path : "nothing");
        assert_true(str_eq(params[0], str_of(rows[i].first)) || rows[i].first == NULL);
        assert_true(str_eq(params[1], str_of(rows[i].second)) || rows[i].second == NULL);
        if (strchr(rows[i].path, '%') == NULL)
            assert_int_equal(arena_used(a), 0);
        arena_free(a);
    }
}

static void test_route_find_tells_methods(void **state)
{
    struct arena *a = arena_new(4096);
    str params[6];
    const struct route *r;
    u32 allowed;
    assert_int_equal(route_find(a, PUT, S("/api/v1/toys"), &r, params, &allowed), OK);
    assert_null(r);
    assert_int_equal(allowed, 1u << GET | 1u << HEAD | 1u << POST | 1u << OPTIONS);
    assert_int_equal(route_find(a, GET, S("/api/v1/toys/%g1"), &r, params, &allowed), ERR_DECODE);
    assert_int_equal(route_find(a, GET, S("/api/v1/toys/%00"), &r, params, &allowed), ERR_DECODE);
    assert_true(str_eq(route_param_name(&toy_routes[4], 1), S("part")));
    assert_null(route_param_name(&toy_routes[4], 2).p);
    arena_free(a);
}

/* -- checks -------------------------------------------------------------------------------------------------------- */

static const struct field undocumented_fields[] = { FIELD(struct toy, name, F_STR) };
static const struct table undocumented = TABLE("Undocumented", struct toy, undocumented_fields);
static const struct field nesting_fields[] = { SHAPE_FIELD("inner", F_OBJECT, .flags = F_TEXT, .of = &undocumented,
                                                           .doc = "d") };
static const struct table nesting = SHAPE("Nesting", nesting_fields, .doc = "d");
static const struct field deep_fields[] = { SHAPE_FIELD("list", F_LIST, .each = &nesting_fields[0], .doc = "d") };
static const struct table deep = SHAPE("Deep", deep_fields, .doc = "d");

#define GOOD .need = &can_read, .out = &toy_table, .doc = "d"

static void expect_complaint(const struct route *r, const char *text)
{
    struct buf b = { 0 };
    broken_module.routes = r;
    broken_module.route_count = r != NULL ? 1 : 0;
    err e = modules_check(&b);
    buf_char(&b, '\0');
    broken_module.route_count = 0;
    if (text == NULL && e != OK)
        fail_msg("complaints: %s", b.p);
    if (text != NULL) {
        assert_int_equal(e, ERR_INVALID);
        has(b.p, text);
    }
    buf_free(&b);
}

STMT(toys_count, "SELECT count(*) AS n FROM toys WHERE tenant_id = $1", .row = &list_count_table, .scan_ok = true);
static const struct list_sort toy_sorts[] = { { "id", { { &toys_all } } }, { "name", { { &toys_all } } } };
static const char *const toy_filters[] = { "name" };
#define LISTED GOOD, .flags = R_LIST, .query = &toys_query
#define LISTER(row, sorts, filters)                                    \
    {                                                                  \
        (row), toy_sorts, (sorts), toy_filters, (filters), &toys_count \
    }
static const struct lister right_list = LISTER(&toy_table, 1, 0), more_sorts = LISTER(&toy_table, 2, 0),
                           more_filters = LISTER(&toy_table, 1, 1), other_table = LISTER(&toys_query, 1, 0);

static void test_modules_check(void **state)
{
    static const struct {
        struct route route;
        const char *text;
    } rows[] = {
        { { ROUTE(GET, "/x", toy_raw, W_READ), .out = &toy_table, .doc = "d" }, "no permission" },
        { { ROUTE(GET, "/x", NULL, W_READ), GOOD }, "no handler" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), .need = &can_read, .out = &toy_table }, "no .doc" },
        { { ROUTE(GET, "x", toy_raw, W_READ), GOOD }, "does not begin with" },
        { { ROUTE(GET, "/x//y", toy_raw, W_READ), GOOD }, "does not begin with" },
        { { ROUTE(GET, "/x/", toy_raw, W_READ), GOOD }, "ends with /" },
        { { ROUTE(HEAD, "/x", toy_raw, W_READ), GOOD }, "the method" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), GOOD, .prepare = toy_raw }, "only for W_WRITE" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .flags = R_SLOW_PREPARE }, "without .prepare" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .flags = R_SLOW_LONG }, "without .prepare" },
        { { ROUTE(PATCH, "/x", toy_raw, W_WRITE), GOOD, .flags = R_PATCH }, "without .in" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), .need = &can_read, .doc = "d", .status = 204, .flags = R_LIST },
          "R_LIST without" },
        { { ROUTE(POST, "/x", toy_raw, W_READ), GOOD, .flags = R_ADMIT }, "without .admit" },
        { { ROUTE(GET, "/x", toy_raw, W_STREAM), GOOD }, "without .produces" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), GOOD, .in = &toy_table }, "takes no body" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .flags = R_NO_STORE }, "R_NO_STORE" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), .need = &can_read, .doc = "d" }, "neither .out" },
        { { ROUTE(GET, "/{a}/{a}", toy_raw, W_READ), GOOD }, "{a} twice" },
        { { ROUTE(GET, "/{}", toy_raw, W_READ), GOOD }, "no proper name" },
        { { ROUTE(GET, "/{a}/{b}/{c}/{d}/{e}/{f}/{g}", toy_raw, W_READ), GOOD }, "more than 6" },
        { { ROUTE(GET, "/api/v1/toys/{other}", toy_raw, W_READ), GOOD }, "another route" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .in = &toy_table, .example = "{}" }, "breaks .in: /name" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .in = &toy_table, .example = "{" }, "no JSON" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .in = &undocumented }, "ndocumented" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .in = &nesting }, "ndocumented" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .in = &deep }, "ndocumented" },
        { { ROUTE(POST, "/x", toy_raw, W_WRITE), GOOD, .etag = &toy_state }, ".etag is for" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), GOOD, .etag = &toy_by_name }, ".etag is for" },
        { { ROUTE(PUT, "/x", toy_raw, W_WRITE), GOOD, .flags = R_NEED_MATCH }, "without .etag" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), GOOD, .flags = R_TELLS_STATE }, "R_TELLS_STATE without .etag" },
        { { ROUTE(PUT, "/x", toy_raw, W_WRITE), GOOD, .flags = R_TELLS_STATE, .etag = &toy_state }, "R_TELLS_STATE" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), LISTED, .list = &right_list }, NULL },
        { { ROUTE(GET, "/x", toy_raw, W_READ), LISTED, .list = &more_sorts }, "sort=name is promised" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), LISTED, .list = &more_filters }, "the filter name is promised" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), LISTED, .list = &other_table }, "another table" },
        { { ROUTE(GET, "/x", toy_raw, W_READ), GOOD, .list = &right_list }, "without a query" },
        { { ROUTE(GET, "/x/{a}/{b}/{c}/{d}/{e}/{f}", toy_raw, W_READ), GOOD }, NULL },
    };
    expect_complaint(NULL, NULL);
    for (size_t i = 0; i < COUNT(rows); i++)
        expect_complaint(&rows[i].route, rows[i].text);
}

static void test_modules_check_names(void **state)
{
    const struct problem good = mutable_problem;
    mutable_problem.code = "toysbroken";
    expect_complaint(NULL, "not of the form word.reason");
    mutable_problem.code = "toys.broken";
    expect_complaint(NULL, "defined twice, differently");
    mutable_problem.title = "The toy is broken"; /* now it is the same */
    expect_complaint(NULL, NULL);
    mutable_problem = (struct problem){ "toys.mutable", OK, "t" };
    expect_complaint(NULL, "no class");
    mutable_problem = good;
    broken_module.name = "toys";
    expect_complaint(NULL, "there twice");
    broken_module.name = "Broken";
    expect_complaint(NULL, "no word");
    broken_module.name = "broken";
    broken_module.doc = "";
    expect_complaint(NULL, "has no .doc");
    broken_module.doc = "d";
}

/* -- OpenAPI ------------------------------------------------------------------------------------------------------- */

static const struct json *at(const struct json *root, const char *pointer)
{
    const struct json *j = json_at(root, str_of(pointer));
    if (j == NULL)
        fail_msg("%s is not in the document", pointer);
    return j;
}

static void test_openapi(void **state)
{
    struct arena *a = arena_new(16 * MIB);
    struct json *root;
    struct json_error where;
    assert_int_equal(json_parse(a, openapi_text(), &root, &where), OK);
    assert_true(str_eq(json_str(at(root, "/openapi")), S("3.1.0")));
    assert_true(str_eq(json_str(at(root, "/paths/~1api~1v1~1toys/post/operationId")), S("toys_toy_create")));
    static const char *const there[] = {
        "/info/license/name",
        "/info/contact/name",
        "/info/description",
        "/tags/0/description",
        "/components/securitySchemes/bearer",
        "/components/schemas/Toy",
        "/components/schemas/ToyInput",
        "/components/schemas/Problem",
        "/paths/~1api~1v1~1toys/post/requestBody/content/application~1json/schema/$ref",
        "/paths/~1api~1v1~1toys/post/requestBody/content/application~1json/example/name",
        "/paths/~1api~1v1~1toys/post/responses/201/headers/Location",
        "/paths/~1api~1v1~1toys/post/responses/413",
        "/paths/~1api~1v1~1toys/post/responses/415",
        "/paths/~1api~1v1~1toys/post/responses/403",
        "/paths/~1api~1v1~1toys/get/responses/200/headers/Link",
        "/paths/~1api~1v1~1toys/get/responses/200/content/application~1json/schema/items/$ref",
        "/paths/~1api~1v1~1toys/get/parameters/4/schema",
        "/paths/~1api~1v1~1toys~1{name}/get/parameters/0/required",
        "/paths/~1any/delete/operationId",
        "/paths/~1slow/get/security",
    };
    for (size_t i = 0; i < COUNT(there); i++)
        (void)at(root, there[i]);
    assert_true(str_find(json_str(at(root, "/paths/~1api~1v1~1toys/post/responses/409/description")),
                         S("`toys.broken`"), 0) >= 0);
    assert_null(json_at(root, S("/paths/~1slow/get/responses/401")));
    assert_null(json_at(root, S("/paths/~1api~1v1~1toys/get/responses/415")));
    assert_int_equal(at(root, "/paths/~1slow/get/security")->n, 0);
    arena_free(a);
}

/* -- settings ------------------------------------------------------------------------------------------------------ */

#define GOOD_KEY "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0dF"

/* Loads with one or two variables set; .env is looked for in an empty folder. */
static err load_with(const char *name, const char *value, const char *name2, const char *value2, struct config *c,
                     char *said, size_t room)
{
    struct arena *a = arena_new(4 * MIB);
    struct buf b = { .arena = a };
    setenv(name, value, 1);
    if (name2 != NULL)
        setenv(name2, value2, 1);
    err e = config_load(a, c, &b);
    snprintf(said, room, "%.*s", STR_FMT(buf_view(&b)));
    unsetenv(name);
    if (name2 != NULL)
        unsetenv(name2);
    arena_free(a);
    return e;
}

static void test_config_refuses(void **state)
{
    static const struct {
        const char *name, *value, *says;
    } rows[] = {
        { "WEIR_LISTEN", "localhost", "WEIR_LISTEN: localhost is not HOST:PORT" },
        { "WEIR_LISTEN", "127.0.0.1:65536", "0 to 65535" },
        { "WEIR_LISTEN", "::1:80", "::1:80" },
        { "WEIR_LOG", "xml", "xml is none of json text off" },
        { "WEIR_LOOPS", "257", "WEIR_LOOPS: 257 is not a whole number from 0 to 256" },
        { "WEIR_WORKERS", "-1", "WEIR_WORKERS: -1" },
        { "WEIR_SLOW_THREADS", "0", "from 1 to 256" },
        { "WEIR_MEMORY_MAX", "1G", "WEIR_MEMORY_MAX: 1G" },
        { "WEIR_MEMORY_MAX", "67108863", "WEIR_MEMORY_MAX: 67108863 is less than 67108864" },
        { "WEIR_DEBUG", "yes", "WEIR_DEBUG: yes is neither true nor false" },
        { "WEIR_EGRESS_ALLOW", "10.0.0.0/33", "WEIR_EGRESS_ALLOW" },
        { "WEIR_PUBLIC_URL", "ftp://host/x", "WEIR_PUBLIC_URL: ftp://host/x" },
        { "WEIR_METRICS_LISTEN", "9090", "WEIR_METRICS_LISTEN: 9090" },
        { "WEIR_ADMIN_EMAIL", "a@b.example", "WEIR_ADMIN_PASSWORD is not" },
        { "WEIR_ADMIN_PASSWORD", "long enough!", "WEIR_ADMIN_EMAIL is not" },
        { "WEIR_ADMIN_PASSWORD", "only nine", "WEIR_ADMIN_PASSWORD: (masked) has 9 bytes; it must have 10 to 256" },
        { "JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "0", "from 1 to 1440" },
        { "JWT_REFRESH_TOKEN_EXPIRE_DAYS", "31", "from 1 to 30" },
        { "SECRET_KEY", "short", "SECRET_KEY: (masked) has 5 bytes; it must have 32" },
        { "SECRET_KEY", "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0d", "has 31 bytes" },
        { "JWT_SECRET_KEY", "abcabcabcabcabcabcabcabcabcabcabcabc", "fewer than 10 different bytes" },
        { "JWT_SECRET", "abcabcabcabcabcabcabcabcabcabcabcabc", "JWT_SECRET_KEY" },
        { "JWT_SECRET_KEY", "your-secret-key-here-change-in-production", "sample" },
        { "SECRET_KEY", "xx-SuperSecretKey-0123456789-abcdef", "sample" },
        { "SECRET_KEY_FILE", "/nonexistent/key", "SECRET_KEY_FILE: /nonexistent/key: no such file" },
        { "DATABASE_URL", "mysql://weir:hunter22@host/weir",
          "DATABASE_URL: (masked) does not begin with postgresql://" },
        { "WEIR_DB_POOL_SIZE", "257", "WEIR_DB_POOL_SIZE: 257 is not a whole number from 0 to 256" },
        { "WEIR_DB_POOL_WAIT_SECONDS", "0", "from 1 to 300" },
        { "WEIR_DB_STATEMENT_SECONDS", "3601", "from 1 to 3600" },
        { "WEIR_LISTNE", "127.0.0.1:1", "WEIR_LISTNE: there is no such setting" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct config c;
        char said[2048];
        assert_int_equal(load_with(rows[i].name, rows[i].value, NULL, NULL, &c, said, sizeof said), ERR_INVALID);
        has(said, rows[i].says);
        if (strstr(rows[i].value, "hunter22") != NULL)
            has_not(said, "hunter22");
        if (strstr(rows[i].name, "SECRET") != NULL && strstr(rows[i].name, "FILE") == NULL)
            has_not(said, rows[i].value);
    }
}

static void test_config_accepts(void **state)
{
    struct config c;
    char said[2048];
    assert_int_equal(load_with("WEIR_LISTEN", "[::1]:0", "WEIR_LOOPS", "256", &c, said, sizeof said), OK);
    assert_int_equal(c.listen_port, 0);
    assert_int_equal(c.loops, 256);
    assert_int_equal(c.access_minutes, 15);
    assert_int_equal(c.refresh_days, 7);
    assert_int_equal(c.listen_host.n, 3);
    assert_int_equal(load_with("SECRET_KEY", GOOD_KEY, "WEIR_DEBUG", "1", &c, said, sizeof said), OK);
    assert_true(c.debug);
    assert_int_equal(load_with("WEIR_LOG", "", "WEIR_LISTEN", ":65535", &c, said, sizeof said),
                     OK); /* empty is unset */
    assert_int_equal(c.listen_port, 65535);
    assert_int_equal(
        load_with("WEIR_ADMIN_EMAIL", "a@b.example", "WEIR_ADMIN_PASSWORD", "ten bytes!", &c, said, sizeof said), OK);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_config_sources(void **state)
{
    struct config c;
    char said[2048], path[128];
    write_file(".env", "# comment\nWEIR_LOOPS=3 # three\nexport WEIR_WORKERS = '4'\nWEIR_LOG=\"off\"\nOTHER=x\n", 0600);
    snprintf(path, sizeof path, "%s/given", folder);
    write_file(path, GOOD_KEY "\n", 0600);
    assert_int_equal(load_with("WEIR_LOOPS", "2", "SECRET_KEY_FILE", path, &c, said, sizeof said), OK);
    assert_int_equal(c.loops, 2); /* the environment goes first */
    assert_int_equal(c.workers, 4);
    assert_int_equal(c.secret_key.n, strlen(GOOD_KEY));
    write_file(".env", "WEIR_LOOPS\nWEIR_TYPO=1\nWEIR_LOG=\"off\n", 0600);
    assert_int_equal(load_with("WEIR_LOOPS", "2", NULL, NULL, &c, said, sizeof said), ERR_INVALID);
    has(said, ".env line 1");
    has(said, ".env line 3");
    has(said, "WEIR_TYPO in .env");
    assert_int_equal(unlink(".env"), 0);
}

static void test_config_print_masks(void **state)
{
    struct buf b = { 0 };
    setenv("SECRET_KEY", GOOD_KEY, 1);
    config_print(&b);
    buf_char(&b, '\0');
    unsetenv("SECRET_KEY");
    has(b.p, "SECRET_KEY");
    has(b.p, "(masked)");
    has(b.p, "environment");
    has_not(b.p, GOOD_KEY);
    buf_free(&b);
}

static err secrets_in(struct arena *a, const char *data, str *key, str *jwt, struct buf *said)
{
    struct config c = { .data = str_of(data) };
    err e = config_secrets(a, &c, said);
    *key = c.secret_key;
    *jwt = c.jwt_secret;
    return e;
}

static void test_secrets(void **state)
{
    struct arena *a = arena_new(8 * MIB);
    struct buf said = { .arena = a };
    char data[96], path[128];
    struct stat st;
    str key, jwt, key2, jwt2;
    snprintf(data, sizeof data, "%s/deep/data", folder);
    snprintf(path, sizeof path, "%s/secret.key", data);
    assert_int_equal(secrets_in(a, data, &key, &jwt, &said), OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(secrets_in(a, data, &key2, &jwt2, &said), OK);
    assert_true(str_eq(key, key2) && str_eq(jwt, jwt2) && !str_eq(key, jwt));
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(secrets_in(a, data, &key, &jwt, &said), ERR_INVALID);
    assert_true(str_find(buf_view(&said), S("can be read by others (mode 640)"), 0) >= 0);
    write_file(path, "too short\n", 0600);
    assert_int_equal(secrets_in(a, data, &key, &jwt, &said), ERR_INVALID);
    arena_free(a);
}

static int run_all(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_refused_before_the_body),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_prepare_may_answer),
        cmocka_unit_test(test_problem_rolls_back),
        cmocka_unit_test(test_problem_with_ok_commits),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_conditional_requests),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_a_key_is_one_request),
        cmocka_unit_test(test_bounds_of_keys_and_answers),
        cmocka_unit_test(test_a_key_in_flight),
        cmocka_unit_test(test_long_bodies_are_prepared_in_the_pool),
        cmocka_unit_test(test_slow_read_runs_again),
        cmocka_unit_test(test_full_pool),
        cmocka_unit_test(test_park_and_resume),
        cmocka_unit_test(test_parked_client_leaves),
        cmocka_unit_test(test_park_timer),
        cmocka_unit_test(test_metrics_side),
        cmocka_unit_test(test_route_find),
        cmocka_unit_test(test_route_find_tells_methods),
        cmocka_unit_test(test_modules_check),
        cmocka_unit_test(test_modules_check_names),
        cmocka_unit_test(test_openapi),
        cmocka_unit_test(test_config_refuses),
        cmocka_unit_test(test_config_accepts),
        cmocka_unit_test(test_config_sources),
        cmocka_unit_test(test_config_print_masks),
        cmocka_unit_test(test_secrets),
    };
    return cmocka_run_group_tests_name("core", tests, start_server, stop_server);
}

int main(void)
{
    return run_all();
}
