/* test_client.c - the client against our own server, both on one loop: methods, headers, redirects, time-outs, bounds, the guard. */
#include "net/client.h"
#include "net/http.h"

#include "base/clock.h"
#include "base/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { CALLS_MAX = 4096, SIZED = 1000 };

struct fixture {
    struct loop *loop;
    struct http_server *server;
    struct client *client;
    struct arena *arena;
    u16 port;
};
static u16 port_now; /* for the handler's redirects */
static struct http_request *held;

/* --- the server -------------------------------------------------------------------------------------------------- */

static void redirect(struct http_request *rq, int status, str location)
{
    struct pair h = { S("Location"), location };
    http_reply(rq, status, &h, 1, S("moved"));
}

/* /redirect/<status>/<where>: where = "self" this server as 127.0.0.1, "other" as 127.0.0.2, "loop" itself, "blocked", "file" */
static void redirect_as_told(struct http_request *rq)
{
    int status = (int)strtol(rq->path.p + 10, NULL, 10);
    str where = str_slice(rq->path, 14, rq->path.n);
    if (str_eq(where, S("self")))
        redirect(rq, status, S("/echo"));
    else if (str_eq(where, S("other")))
        redirect(rq, status, strf(rq->arena, "http://127.0.0.2:%u/echo", port_now));
    else if (str_eq(where, S("named")))
        redirect(rq, status, strf(rq->arena, "http://localhost:%u/echo", port_now));
    else if (str_eq(where, S("user")))
        redirect(rq, status, strf(rq->arena, "http://me:secret@127.0.0.2:%u/echo", port_now));
    else if (str_eq(where, S("loop")))
        redirect(rq, status, rq->path);
    else if (str_eq(where, S("blocked")))
        redirect(rq, status, S("http://10.0.0.1/"));
    else
        redirect(rq, status, S("file:///etc/passwd"));
}

static void echo(struct http_request *rq)
{
    struct buf b = { .arena = rq->arena };
    buf_f(&b, "%.*s %.*s\n", STR_FMT(rq->method_text), STR_FMT(rq->target));
    for (u32 i = 0; i < rq->header_count; i++)
        buf_f(&b, "%.*s=%.*s\n", STR_FMT(rq->headers[i].name), STR_FMT(rq->headers[i].value));
    buf_f(&b, "body=%.*s\n", STR_FMT(rq->body));
    struct pair h[] = { { S("X-Mixed-Case"), S("  v  ") }, { S("x-remote"), rq->remote } };
    http_reply(rq, 200, h, 2, buf_view(&b));
}

static void flood_headers(struct http_request *rq)
{
    struct pair h[80];
    for (size_t i = 0; i < COUNT(h); i++)
        h[i] = (struct pair){ S("x-long"), (str){ memset(arena_alloc(rq->arena, 1000), 'h', 1000), 1000 } };
    http_reply(rq, 200, h, COUNT(h), S(""));
}

/* "hello" packed by gzip */
static const char packed[] =
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";

static void on_request(void *ctx, struct http_request *rq)
{
    (void)ctx;
    static const char sized[SIZED + 1] = { [0 ... SIZED] = 's' };
    struct pair gzip = { S("content-encoding"), S("gzip") };
    if (str_starts(rq->path, S("/redirect/")))
        redirect_as_told(rq);
    else if (str_eq(rq->path, S("/hold")))
        held = rq;
    else if (str_starts(rq->path, S("/sized/")))
        http_reply(rq, 200, NULL, 0, (str){ sized, strtoul(rq->path.p + 7, NULL, 10) });
    else if (str_eq(rq->path, S("/gzip")))
        http_reply(rq, 200, &gzip, 1, (str){ packed, sizeof packed - 1 });
    else if (str_eq(rq->path, S("/bad-gzip")))
        http_reply(rq, 200, &gzip, 1, S("hello, not packed"));
    else if (str_eq(rq->path, S("/flood")))
        flood_headers(rq);
    else if (str_eq(rq->path, S("/drop")))
        http_drop(rq);
    else if (str_eq(rq->path, S("/500")))
        http_reply(rq, 500, NULL, 0, S("oops"));
    else
        echo(rq);
}

/* --- one call ---------------------------------------------------------------------------------------------------- */

/* What is started on the loop, and what came back. */
struct call {
    struct message m;
    struct fixture *f;
    struct client_request request;
    struct client_answer answer;
    struct client_call *running;
    err started;
    int done_count;
    bool cancel, free_client; /* as soon as the request is in work */
};

static void on_done(void *ctx, const struct client_answer *answer)
{
    struct call *c = ctx;
    c->answer = *answer;
    c->done_count++;
    loop_stop(c->f->loop);
}

static void cancel_later(struct loop_timer *t);
static struct call *to_cancel;
static struct loop_timer cancel_timer;

static void begin(struct message *m)
{
    struct call *c = CONTAINER(m, struct call, m);
    c->started = client_start(c->f->client, c->f->arena, &c->request, on_done, c, &c->running);
    assert_int_equal(c->done_count, 0); /* later, never at once */
    if (c->started != OK)
        loop_stop(c->f->loop);
    if (c->cancel || c->free_client) {
        to_cancel = c;
        assert_int_equal(loop_timer_start(c->f->loop, &cancel_timer, 1000, cancel_later), OK);
    }
}

/* Waits until the server holds the request: only then something is really running. */
static void cancel_later(struct loop_timer *t)
{
    struct call *c = to_cancel;
    if (held == NULL) {
        assert_int_equal(loop_timer_start(c->f->loop, t, 1000, cancel_later), OK);
        return;
    }
    if (c->free_client) {
        client_free(c->f->client);
        c->f->client = NULL;
    } else {
        client_cancel(c->running);
        assert_int_equal(client_running(c->f->client), 0);
    }
    assert_int_equal(c->done_count, 1); /* before it returned */
}

static void setup(struct fixture *f, const char *allow)
{
    static const struct http_handler handler = { .request = on_request };
    const struct egress *egress;
    str bad;
    *f = (struct fixture){ .loop = loop_new(0), .arena = arena_new(64 * MIB) };
    held = NULL;
    assert_int_equal(http_listen(&f->loop, 1, S("0.0.0.0"), 0, &http_default_limits, &handler, &f->server), OK);
    assert_int_equal(egress_new(f->arena, str_of(allow), &egress, &bad), OK);
    f->port = port_now = http_port(f->server);
    f->client = client_new(f->loop, egress);
    assert_non_null(f->client);
}

static void teardown(struct fixture *f)
{
    client_free(f->client);
    http_free(f->server);
    loop_free(f->loop);
    arena_free(f->arena);
}

static struct call run_request(struct fixture *f, struct client_request request)
{
    struct call c = { .m.run = begin, .f = f, .request = request };
    if (c.request.method.p == NULL)
        c.request.method = S("GET");
    if (c.request.max_body_bytes == 0)
        c.request.max_body_bytes = MIB;
    if (c.request.timeout_us == 0)
        c.request.timeout_us = 10 * SECOND_US;
    struct loop *l = f->loop;
    loop_post(l, &c.m);
    loop_run(l);
    return c;
}

static str url_at(struct fixture *f, const char *path)
{
    return strf(f->arena, "http://127.0.0.1:%u%s", f->port, path);
}

static bool has(const struct call *c, const char *text)
{
    return str_find(c->answer.body, str_of(text), 0) >= 0;
}

/* --- tests ------------------------------------------------------------------------------------------------------- */

static void test_methods_and_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *method, *body, *want;
    } rows[] = {
        { "GET", NULL, "GET /echo?a=b\n" },
        { "DELETE", NULL, "DELETE /echo?a=b\n" },
        { "OPTIONS", NULL, "OPTIONS /echo?a=b\n" },
        { "POST", "x=1", "content-length=3\nbody=x=1\n" },
        { "POST", "", "content-length=0\nbody=\n" },
        { "POST", NULL, "content-length=0\nbody=\n" },
        { "PUT", "p", "body=p\n" },
        { "PATCH", "p", "PATCH /echo?a=b\n" },
        { "DELETE", "d", "body=d\n" },
        { "GET", "g", "body=g\n" },
    };
    struct fixture f;
    setup(&f, "127.0.0.1");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call c = run_request(&f, (struct client_request){
                                            .method = str_of(rows[i].method),
                                            .url = url_at(&f, "/echo?a=b"),
                                            .body = str_of(rows[i].body),
                                        });
        assert_int_equal(c.answer.error, OK);
        assert_int_equal(c.answer.status, 200);
        if (!has(&c, rows[i].want) || !str_starts(c.answer.body, str_of(rows[i].method)))
            fail_msg("row %zu: %.*s", i, STR_FMT(c.answer.body));
        assert_false(has(&c, "expect="));
        assert_false(has(&c, "content-type="));
        assert_true(has(&c, "user-agent=Weir/"));
        assert_true(c.answer.duration_us > 0);
    }
    struct call head = run_request(&f, (struct client_request){ .method = S("HEAD"), .url = url_at(&f, "/echo") });
    assert_int_equal(head.answer.status, 200);
    assert_int_equal(head.answer.body.n, 0);
    teardown(&f);
}

static void test_headers_both_ways(void **state)
{
    (void)state;
    struct pair given[] = {
        { S("User-Agent"), S("mine") },  { S("X-Empty"), S("") },          { S("Accept"), S("text/plain") },
        { S("Content-Type"), S("a/b") }, { S("Content-Length"), S("99") }, { S("Transfer-Encoding"), S("chunked") },
    };
    struct fixture f;
    setup(&f, "127.0.0.1");
    struct call c = run_request(&f, (struct client_request){ .method = S("POST"),
                                                             .url = url_at(&f, "/echo"),
                                                             .headers = given,
                                                             .header_count = COUNT(given),
                                                             .body = S("hi") });
    static const char *const want[] = { "user-agent=mine\n",  "x-empty=\n",         "accept=text/plain\n",
                                        "content-type=a/b\n", "content-length=2\n", "body=hi\n" };
    for (size_t i = 0; i < COUNT(want); i++)
        assert_true(has(&c, want[i]));
    assert_false(has(&c, "Weir/"));
    bool seen = false;
    for (size_t i = 0; i < c.answer.header_count; i++)
        seen |= str_eq(c.answer.headers[i].name, S("x-mixed-case")) && str_eq(c.answer.headers[i].value, S("v"));
    assert_true(seen);
    teardown(&f);
}

static void test_bad_headers_are_refused(void **state)
{
    (void)state;
    struct pair bad[] = { { S("x"), S("a\r\nb: c") }, { S("x"), S("a\nb") }, { S("x"), S("a\0b") },
                          { S("x y"), S("a") },       { S("x:"), S("a") },   { S(""), S("a") },
                          { S("x\r"), S("a") } };
    struct fixture f;
    setup(&f, "127.0.0.1");
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct call c =
            run_request(&f, (struct client_request){ .url = url_at(&f, "/"), .headers = &bad[i], .header_count = 1 });
        assert_int_equal(c.started, ERR_INVALID);
        assert_int_equal(c.done_count, 0);
    }
    struct call c = run_request(&f, (struct client_request){ .method = S("GET /x"), .url = url_at(&f, "/") });
    assert_int_equal(c.started, ERR_INVALID);
    teardown(&f);
}

/* Each URL fails, and how. %u is the server's port. */
static void test_urls_that_fail(void **state)
{
    (void)state;
    static const struct {
        const char *url, *code;
        err error;
    } rows[] = {
        { "", "http.url", ERR_INVALID },
        { "/relative", "http.url", ERR_INVALID },
        { "ftp://127.0.0.1/", "http.url", ERR_INVALID },
        { "file:///etc/passwd", "http.url", ERR_INVALID },
        { "gopher://127.0.0.1/", "http.url", ERR_INVALID },
        { "http://", "http.url", ERR_INVALID },
        { "http://127.0.0.1:99999/", "http.url", ERR_INVALID },
        { "http://a b/", "http.url", ERR_INVALID },
        { "http://a/\r\nb", "http.url", ERR_INVALID },
        { "http://127.0.0.3:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://[::1]:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://[::ffff:127.0.0.3]:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://0x7f.3:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://2130706435:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://169.254.169.254/latest", "egress.blocked", ERR_FORBIDDEN },
        { "http://0.0.0.0:%u/", "egress.blocked", ERR_FORBIDDEN },
        { "http://127.0.0.1:1/", "http.connect", ERR_UPSTREAM },
        { "http://127.0.0.1:%u/drop", "http.protocol", ERR_UPSTREAM },
        { "http://127.0.0.1:%u/bad-gzip", "http.protocol", ERR_UPSTREAM },
        { "http://127.0.0.1:%u/flood", "http.protocol", ERR_UPSTREAM },
        { "https://me:secret@127.0.0.1:%u/?token=secret", "http.tls", ERR_UPSTREAM },
    };
    struct fixture f;
    setup(&f, "127.0.0.1");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf url = { .arena = f.arena };
        const char *hole = strstr(rows[i].url, "%u");
        buf_put(&url, rows[i].url, hole != NULL ? (size_t)(hole - rows[i].url) : strlen(rows[i].url));
        if (hole != NULL)
            buf_f(&url, "%u%s", f.port, hole + 2);
        struct call c = run_request(&f, (struct client_request){ .url = buf_view(&url) });
        if (c.started != OK || c.answer.error != rows[i].error || strcmp(c.answer.code, rows[i].code) != 0)
            fail_msg("%s: %s", rows[i].url, c.answer.code);
        assert_true(str_find(c.answer.detail, S("secret"), 0) < 0);
        assert_true(c.answer.detail.n > 0);
    }
    teardown(&f);
}

static void test_redirects(void **state)
{
    (void)state;
    static const struct {
        const char *path, *method, *body;
        u32 redirects;
        int status;
        const char *want, *code;
    } rows[] = {
        { "/redirect/302/self", "GET", NULL, 0, 302, "moved", NULL },
        { "/redirect/302/self", "GET", NULL, 1, 200, "GET /echo\n", NULL },
        { "/redirect/301/self", "POST", "b", 1, 200, "GET /echo\n", NULL },
        { "/redirect/302/self", "POST", "b", 1, 200, "GET /echo\n", NULL },
        { "/redirect/303/self", "PUT", "b", 1, 200, "GET /echo\n", NULL },
        { "/redirect/302/self", "PUT", "b", 1, 200, "PUT /echo\n", NULL },
        { "/redirect/307/self", "POST", "b", 1, 200, "POST /echo\n", NULL },
        { "/redirect/308/self", "POST", "b", 1, 200, "body=b\n", NULL },
        { "/redirect/302/loop", "GET", NULL, 3, 302, "moved", NULL },
        { "/redirect/302/other", "GET", NULL, 1, 200, "GET /echo\n", NULL },
        { "/redirect/302/blocked", "GET", NULL, 1, 0, NULL, "egress.blocked" },
        { "/redirect/302/file", "GET", NULL, 1, 0, NULL, "http.url" },
    };
    struct fixture f;
    setup(&f, "127.0.0.1, 127.0.0.2");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call c = run_request(&f, (struct client_request){ .method = str_of(rows[i].method),
                                                                 .url = url_at(&f, rows[i].path),
                                                                 .body = str_of(rows[i].body),
                                                                 .redirects = rows[i].redirects });
        bool right = c.answer.status == rows[i].status && (rows[i].want == NULL || has(&c, rows[i].want)) &&
                     (rows[i].code == NULL ? c.answer.code == NULL : strcmp(c.answer.code, rows[i].code) == 0);
        if (!right)
            fail_msg("row %zu: %d %s %.*s", i, c.answer.status, c.answer.code, STR_FMT(c.answer.body));
    }
    teardown(&f);
}

static void test_secrets_stay_with_their_origin(void **state)
{
    (void)state;
    struct pair given[] = { { S("Authorization"), S("secret") },
                            { S("X-Api-Key"), S("secret") },
                            { S("Cookie"), S("a=secret") },
                            { S("Accept"), S("a/b") } };
    struct fixture f;
    setup(&f, "127.0.0.1, 127.0.0.2");
    struct client_request r = { .headers = given, .header_count = COUNT(given), .redirects = 2 };
    r.url = url_at(&f, "/redirect/302/self");
    struct call same = run_request(&f, r);
    assert_true(has(&same, "authorization=secret\n") && has(&same, "x-api-key=secret\n"));
    r.url = url_at(&f, "/redirect/302/other");
    struct call other = run_request(&f, r);
    assert_true(has(&other, "GET /echo\n") && has(&other, "accept=a/b\n"));
    assert_false(has(&other, "secret"));
    r = (struct client_request){ .redirects = 1, .url = url_at(&f, "/redirect/302/user") };
    struct call user = run_request(&f, r);
    assert_true(has(&user, "GET /echo\n"));
    assert_false(has(&user, "authorization"));
    r.url = strf(f.arena, "http://me:pw@127.0.0.1:%u/redirect/302/self", f.port);
    struct call kept = run_request(&f, r);
    assert_true(has(&kept, "authorization=Basic bWU6cHc=\n"));
    r.url = strf(f.arena, "http://me:pw@127.0.0.1:%u/redirect/302/other", f.port);
    struct call left = run_request(&f, r);
    assert_true(has(&left, "GET /echo\n"));
    assert_false(has(&left, "authorization"));
    teardown(&f);
}

/* A name on the allow list counts for the URL that was asked for; a redirect to it is refused, also over a pooled connection. */
static void test_allowed_name_is_no_door_for_redirects(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "");
    str allow = strf(f.arena, "localhost:%u", f.port), bad;
    const struct egress *egress;
    assert_int_equal(egress_new(f.arena, allow, &egress, &bad), OK);
    client_free(f.client);
    f.client = client_new(f.loop, egress);
    struct call direct =
        run_request(&f, (struct client_request){ .url = strf(f.arena, "http://localhost:%u/echo", f.port) });
    assert_int_equal(direct.answer.status, 200);
    str url = strf(f.arena, "http://localhost:%u/redirect/302/named", f.port);
    struct call hop = run_request(&f, (struct client_request){ .url = url, .redirects = 1 });
    assert_int_equal(hop.answer.error, ERR_FORBIDDEN);
    assert_string_equal(hop.answer.code, "egress.blocked");
    struct call number = run_request(&f, (struct client_request){ .url = url_at(&f, "/echo") });
    assert_string_equal(number.answer.code, "egress.blocked");
    teardown(&f);
}

static void test_no_proxy_from_the_environment(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    struct call c = run_request(&f, (struct client_request){ .url = url_at(&f, "/echo") });
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
    assert_int_equal(c.answer.status, 200);
    teardown(&f);
}

static void test_body_bound(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t max;
        const char *code;
    } rows[] = {
        { "/sized/999", SIZED, NULL },    { "/sized/1000", SIZED, NULL }, { "/sized/1001", SIZED, "http.too_large" },
        { "/gzip", 4, "http.too_large" }, { "/gzip", 5, NULL },           { "/gzip", 6, NULL },
    };
    struct fixture f;
    setup(&f, "127.0.0.1");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call c =
            run_request(&f, (struct client_request){ .url = url_at(&f, rows[i].path), .max_body_bytes = rows[i].max });
        assert_int_equal(c.answer.error, rows[i].code == NULL ? OK : ERR_TOO_LARGE);
        if (rows[i].code != NULL)
            assert_string_equal(c.answer.code, rows[i].code);
        else if (i > 2)
            assert_true(str_eq(c.answer.body, S("hello")));
    }
    teardown(&f);
}

static void test_timeout(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    struct call c = run_request(&f, (struct client_request){ .url = url_at(&f, "/hold"), .timeout_us = 50000 });
    assert_int_equal(c.answer.error, ERR_TIMEOUT);
    assert_string_equal(c.answer.code, "http.timeout");
    assert_in_range(c.answer.duration_us, 49000, 5 * SECOND_US);
    struct call again = run_request(&f, (struct client_request){ .url = url_at(&f, "/500") });
    assert_int_equal(again.answer.error, OK); /* a complete answer, whatever its status */
    assert_int_equal(again.answer.status, 500);
    teardown(&f);
}

static void run_and_stop(struct fixture *f, struct call *c)
{
    c->m.run = begin;
    c->f = f;
    c->request = (struct client_request){
        .method = S("GET"), .url = url_at(f, "/hold"), .max_body_bytes = 1, .timeout_us = HOUR_US
    };
    struct loop *l = f->loop;
    loop_post(l, &c->m);
    loop_run(l);
    assert_int_equal(c->answer.error, ERR_TIMEOUT);
    assert_string_equal(c->answer.code, "http.cancelled");
}

static void test_cancel(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    struct call c = { .cancel = true };
    run_and_stop(&f, &c);
    teardown(&f);
    setup(&f, "127.0.0.1");
    struct call freed = { .free_client = true };
    run_and_stop(&f, &freed);
    teardown(&f);
}

/* Who decides at the last moment is asked once for a call, on a connection that is new or kept, and not again for a redirect, which is no beginning any more. */
struct asked {
    int times;
    bool yes;
};

static bool may_send(void *ctx)
{
    struct asked *asked = ctx;
    asked->times++;
    return asked->yes;
}

static void test_a_call_that_is_withheld(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    struct asked asked = { .yes = true };
    struct client_request request = {
        .url = url_at(&f, "/redirect/302/self"), .redirects = 1, .may_send = may_send, .may_ctx = &asked
    };
    struct call c = run_request(&f, request);
    assert_int_equal(c.answer.status, 200);
    assert_int_equal(asked.times, 1);
    asked.yes = false;
    request.url = url_at(&f, "/hold");
    for (int i = 2; i <= 3; i++) {
        c = run_request(&f, request);
        assert_int_equal(c.answer.error, ERR_BUSY);
        assert_int_equal(asked.times, i);
    }
    assert_null(held);
    teardown(&f);
}

static void test_injected_fault(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    fault_arm(FAULT_OUTGOING, 1);
    struct call c = run_request(&f, (struct client_request){ .url = url_at(&f, "/echo") });
    assert_int_equal(c.started, OK);
    assert_int_equal(c.answer.error, ERR_UPSTREAM);
    assert_string_equal(c.answer.code, "http.connect");
    fault_arm(FAULT_OUTGOING, 0);
    teardown(&f);
}

/* With the n-th allocation of ours failing, for each n: an ordinary error, nothing leaks, and the client lives on. Some n leave a call to its time-out, hence a short one. */
static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct pair h = { S("x"), S("y") };
    struct fixture f;
    setup(&f, "127.0.0.1");
    bool fired = true;
    for (i64 n = 1; fired; n++) {
        assert_true(n < 300);
        str url = url_at(&f, "/redirect/307/self");
        fault_arm(FAULT_ALLOC, n);
        struct call c = run_request(&f, (struct client_request){ .method = S("POST"),
                                                                 .url = url,
                                                                 .headers = &h,
                                                                 .header_count = 1,
                                                                 .body = S("b"),
                                                                 .redirects = 1,
                                                                 .timeout_us = SECOND_US / 4 });
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_true(c.started == OK ? c.done_count == 1 : c.done_count == 0);
        assert_int_equal(client_running(f.client), 0);
    }
    teardown(&f);
}

static int many_done;
static void on_one_of_many(void *ctx, const struct client_answer *answer)
{
    (void)ctx;
    assert_string_equal(answer->code, "http.connect");
    many_done++;
}

/* Calls that fail by injection cost no socket, so the bound can be reached. */
static void start_many(struct message *m)
{
    struct call *c = CONTAINER(m, struct call, m);
    struct client_call *out;
    struct client_request r = { .method = S("GET"), .url = S("http://127.0.0.1:1/") };
    for (int i = 0; i < CALLS_MAX; i++) {
        fault_arm(FAULT_OUTGOING, 1);
        assert_int_equal(client_start(c->f->client, c->f->arena, &r, on_one_of_many, NULL, &out), OK);
    }
    fault_arm(FAULT_OUTGOING, 0);
    assert_int_equal(client_running(c->f->client), CALLS_MAX);
    assert_int_equal(client_start(c->f->client, c->f->arena, &r, on_one_of_many, NULL, &out), ERR_BUSY);
    loop_stop(c->f->loop);
}

static void test_too_many(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "127.0.0.1");
    struct call c = { .m.run = start_many, .f = &f };
    many_done = 0;
    loop_post(f.loop, &c.m);
    loop_run(f.loop);
    while (many_done < CALLS_MAX)
        loop_settle(f.loop);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods_and_bodies),
        cmocka_unit_test(test_headers_both_ways),
        cmocka_unit_test(test_bad_headers_are_refused),
        cmocka_unit_test(test_urls_that_fail),
        cmocka_unit_test(test_redirects),
        cmocka_unit_test(test_secrets_stay_with_their_origin),
        cmocka_unit_test(test_allowed_name_is_no_door_for_redirects),
        cmocka_unit_test(test_no_proxy_from_the_environment),
        cmocka_unit_test(test_body_bound),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_a_call_that_is_withheld),
        cmocka_unit_test(test_injected_fault),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
