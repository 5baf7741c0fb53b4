/* test_http.c - a real server on a loop of its own, raw sockets against it: strictness row by row, limits, splits, pipelines,
 * slow handlers, lost clients, streams, deadlines, draining. */
#include "net/http.h"
#include "net/refusal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "net/test_haste.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { ANSWERS_MAX = 300, BIG_BYTES = 8 << 20, STREAM_BYTES = 8 << 20, STREAM_PIECE = 16 << 10, SMALL_BODY = 10 };

/* --- the server under test --------------------------------------------------------------------------------------- */

struct fixture {
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
    u16 port;
    atomic_bool drained;
};

/* A request that waits for the test: parked by /slow, answered by release(). */
struct parked {
    struct message m;
    struct http_request *rq;
};
static struct parked parked;    /* one at a time is enough; the handler is called with no context of ours */
static atomic_int parked_state; /* 0 none, 1 parked, 2 answered */
static atomic_int stream_state; /* counts of what happened to /stream and /open */
static atomic_int stream_paused, stream_resumed, stream_closed_count, refused_count;
static char big[BIG_BYTES];

struct stream_job {
    struct http_request *rq;
    size_t left;
};

static void park(struct http_request *rq)
{
    parked.rq = rq;
    atomic_store(&parked_state, 1);
}

static void answer_parked(struct message *m)
{
    struct parked *p = CONTAINER(m, struct parked, m);
    http_reply(p->rq, 200, NULL, 0, S("parked"));
    atomic_store(&parked_state, 2);
}

static void stream_more(void *ctx)
{
    struct stream_job *job = ctx;
    struct http_request *rq = job->rq;
    while (job->left > 0) {
        job->left -= STREAM_PIECE;
        if (!http_stream_write(rq, (str){ big, STREAM_PIECE })) {
            atomic_fetch_add(&stream_paused, 1);
            return;
        }
    }
    http_stream_end(rq);
}

static void stream_drain(void *ctx)
{
    atomic_fetch_add(&stream_resumed, 1);
    stream_more(ctx);
}

static void stream_closed_event(void *ctx)
{
    struct stream_job *job = ctx;
    atomic_fetch_add(&stream_closed_count, 1);
    http_stream_end(job->rq);
}

static void stream_handle(struct http_request *rq, bool open)
{
    struct stream_job *job = NEW(rq->arena, struct stream_job);
    *job = (struct stream_job){ rq, STREAM_BYTES };
    static const struct pair type = { S_INIT("content-type"), S_INIT("text/event-stream") };
    http_stream_begin(rq, 200, &type, 1,
                      &(struct http_stream_events){ .drain = stream_drain, .closed = stream_closed_event, .ctx = job });
    atomic_fetch_add(&stream_state, 1);
    if (open)
        http_stream_write(rq, S(": hello\n\n"));
    else
        stream_more(job);
}

static void echo(struct http_request *rq)
{
    str text = strf(rq->arena, "%.*s|%.*s|%.*s|%u|%zu|%.*s", STR_FMT(rq->method_text), STR_FMT(rq->path),
                    STR_FMT(rq->query), rq->header_count, rq->body.n, (int)MIN(rq->body.n, (size_t)100), rq->body.p);
    struct pair seen[] = { { S("x-remote"), rq->remote },
                           { S("x-a"), http_header(rq, S("x-a")) },
                           { S("x-evil"), S("a\r\nb: c") } };
    http_reply(rq, 200, seen, 3, text);
}

static size_t on_admit(void *ctx, struct http_request *rq)
{
    (void)ctx;
    if (str_eq(rq->path, S("/refuse")))
        rq->refused = 401;
    return str_eq(rq->path, S("/small")) ? SMALL_BODY : MIB;
}

static void on_request(void *ctx, struct http_request *rq)
{
    (void)ctx;
    if (rq->refused != 0)
        http_reply(rq, rq->refused, NULL, 0, S("refused"));
    else if (rq->method == HTTP_OTHER)
        http_reply(rq, 405, NULL, 0, S(""));
    else if (str_eq(rq->path, S("/slow")))
        park(rq);
    else if (str_eq(rq->path, S("/stream")))
        stream_handle(rq, false);
    else if (str_eq(rq->path, S("/open")))
        stream_handle(rq, true);
    else if (str_eq(rq->path, S("/drop")))
        http_drop(rq);
    else if (str_eq(rq->path, S("/big")))
        http_reply(rq, 200, NULL, 0, (str){ big, sizeof big });
    else if (str_eq(rq->path, S("/empty")))
        http_reply(rq, 204, NULL, 0, S("never sent"));
    else
        echo(rq);
}

static void on_refuse(void *ctx, int status, const char *code, str remote, struct arena *a, struct http_refusal *out)
{
    (void)ctx;
    assert(remote.n > 0);
    atomic_fetch_add(&refused_count, 1);
    out->headers[out->header_count++] = (struct pair){ S("x-request-id"), S("refused-1") };
    out->body = strf(a, "{\"status\":%d,\"code\":\"%s\"}", status, code);
}

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static void start_at(struct fixture *f, const struct http_limits *limits, str host)
{
    static const struct http_handler handler = { NULL, on_admit, on_request, on_refuse };
    *f = (struct fixture){ 0 };
    f->loop = loop_new(0);
    assert_non_null(f->loop);
    assert_int_equal(http_listen(&f->loop, 1, host, 0, limits, &handler, &f->server), OK);
    f->port = http_port(f->server);
    assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f->loop), 0);
}

static void start(struct fixture *f, const struct http_limits *limits)
{
    start_at(f, limits, S("127.0.0.1"));
}

static void on_drained(void *ctx)
{
    struct fixture *f = ctx;
    atomic_store(&f->drained, true);
    loop_stop(f->loop);
}

static void finish(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    http_free(f->server);
    loop_free(f->loop);
}

static void stop(struct fixture *f)
{
    loop_stop(f->loop);
    finish(f);
}

/* Waits for what another thread will do; ten seconds are "never". */
#define WAIT_FOR(condition)                            \
    do {                                               \
        i64 until_ = clock_mono_us() + 30 * SECOND_US; \
        while (!(condition)) {                         \
            assert_true(clock_mono_us() < until_);     \
            sched_yield();                             \
        }                                              \
    } while (0)

/* --- the client's side ------------------------------------------------------------------------------------------- */

static int dial(u16 port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = 10 };
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void say(int fd, str bytes)
{
    while (bytes.n > 0) {
        ssize_t n = send(fd, bytes.p, bytes.n, MSG_NOSIGNAL);
        if (n <= 0)
            return; /* the server may have closed already: what it answered tells */
        bytes = str_slice(bytes, (size_t)n, bytes.n);
    }
}

struct answer {
    int status;
    str head, body;
};
struct answers {
    struct buf in;
    struct answer list[ANSWERS_MAX];
    int n;
    bool whole; /* the bytes end with an answer's end */
};

static void parse_answers(struct answers *a, bool head_only)
{
    str rest = buf_view(&a->in);
    a->n = 0;
    a->whole = true;
    while (rest.n > 0 && a->n < ANSWERS_MAX) {
        i64 end = str_find(rest, S("\r\n\r\n"), 0);
        a->whole = end >= 0;
        if (!a->whole)
            return;
        struct answer *one = &a->list[a->n];
        one->head = str_slice(rest, 0, (size_t)end + 2);
        assert_true(str_starts(one->head, S("HTTP/1.1 ")));
        one->status = (int)strtol(one->head.p + 9, NULL, 10);
        i64 at = str_find(one->head, S("content-length: "), 0);
        size_t length = at < 0 || head_only ? 0 : strtoul(one->head.p + at + 16, NULL, 10);
        one->body = str_slice(rest, (size_t)end + 4, (size_t)end + 4 + length);
        a->whole = one->body.n == length;
        if (!a->whole)
            return;
        rest = str_slice(rest, (size_t)end + 4 + length, rest.n);
        a->n++;
    }
}

/* Reads until `want` whole answers are there, or to the end (want 0). Returns whether the end was seen. */
static bool hear(int fd, struct answers *a, int want, bool head_only)
{
    a->in.n = 0;
    for (;;) {
        assert_true(buf_room(&a->in, 64 * KIB));
        ssize_t n = recv(fd, a->in.p + a->in.n, 64 * KIB, 0);
        assert_true(n >= 0);
        a->in.n += (size_t)n;
        parse_answers(a, head_only);
        if (n == 0 || (want > 0 && a->n >= want))
            return n == 0;
    }
}

#define MARK "GET /mark HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

/* Sends the bytes and a good last request, in one go; hears everything. */
static void talk(u16 port, str bytes, struct answers *a, bool head_only)
{
    int fd = dial(port);
    str both[] = { bytes, S(MARK) };
    struct arena *arena = arena_new(64 * MIB);
    say(fd, str_concat(arena, both, 2));
    arena_free(arena);
    hear(fd, a, 0, head_only);
    close(fd);
}

static bool body_has(const struct answer *a, const char *text)
{
    return str_find(a->body, str_of(text), 0) >= 0;
}

/* --- strictness -------------------------------------------------------------------------------------------------- */

#define H "Host: h\r\n"
static const struct {
    const char *bytes;
    int status;
    bool closes;
    const char *text; /* in the answer's body */
} rows[] = {
    { "GET / HTTP/1.1\r\n" H "\r\n", 200, false, "GET|/||1|0|" },
    { "GET /a?b=c&d HTTP/1.1\r\n" H "X-A: 1\r\n\r\n", 200, false, "GET|/a|b=c&d|2|0|" },
    { "\r\nGET / HTTP/1.1\r\n" H "\r\n", 200, false, "GET|" },
    { "OPTIONS * HTTP/1.1\r\n" H "\r\n", 200, false, "OPTIONS|*|" },
    { "PATCH /p HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nhi", 200, false, "PATCH|/p||2|2|hi" },
    { "GET / HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nhi", 200, false, "GET|/||2|2|hi" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", 200, false, "POST|/||2|0|" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n", 200,
      false, "|5|abcde" },
    { "POST / HTTP/1.1\r\n" H "transfer-encoding: Chunked\r\n\r\n0\r\n\r\n", 200, false, "|0|" },
    { "GET / HTTP/1.1\r\nhOST:h:80\r\n\r\n", 200, false, NULL },
    { "GET / HTTP/1.1\r\nHost: \t h \t\r\n\r\n", 200, false, NULL },
    { "GET / HTTP/1.1\r\n" H "X-A:\r\nX-B: \xc3\xa9\r\n\r\n", 200, false, NULL },
    { "GET / HTTP/1.1\r\n" H "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 200, false, NULL },
    { "POST / HTTP/1.1\r\n" H "Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx", 200, false, "|1|x" },
    { "GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n", 200, true, NULL },
    { "GET / HTTP/1.0\r\n" H "\r\n", 200, true, NULL },
    { "GET / HTTP/1.0\r\n" H "Connection: keep-alive\r\n\r\n", 200, false, NULL },
    { "TRACE / HTTP/1.1\r\n" H "\r\n", 405, false, NULL },
    { "CONNECT h:443 HTTP/1.1\r\n" H "\r\n", 405, true, NULL },
    { "GET /empty HTTP/1.1\r\n" H "\r\n", 204, false, NULL },
    { "GET /refuse HTTP/1.1\r\n" H "\r\n", 401, false, "refused" },
    { "POST /refuse HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", 401, true, "refused" },
    /* the request line */
    { "GET  / HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET /  HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET / a HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET\t/ HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET /\tHTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { " GET / HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET / HTTP/1.1 \r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET /\r\n\r\n", 400, true, "http.request_line" },
    { "GET HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET / HTTP/1.1\rX\r\n" H "\r\n", 400, true, "http.request_line" },
    { "\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "\x16\x03\x01\x02", 400, true, "http.request_line" },
    { "GET / http/1.1\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET / HTTP/11\r\n" H "\r\n", 400, true, "http.request_line" },
    { "GET / HTTP/1.2\r\n" H "\r\n", 505, true, "http.version" },
    { "GET / HTTP/2.0\r\n" H "\r\n", 505, true, "http.version" },
    { "GET / HTTP/0.9\r\n" H "\r\n", 505, true, "http.version" },
    { "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", 505, true, "http.version" },
    { "PRI * HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "BREW / HTTP/1.1\r\n" H "\r\n", 501, true, "http.method" },
    { "get / HTTP/1.1\r\n" H "\r\n", 501, true, "http.method" },
    { "GET http://h/ HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET * HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET a HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET /a#b HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET /\x01 HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET /\x7f HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    { "GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 400, true, "http.target" },
    /* line ends */
    { "GET / HTTP/1.1\n" H "\r\n", 400, true, "http.line_end" },
    { "GET / HTTP/1.1\r\nHost: h\n\r\n", 400, true, "http.line_end" },
    { "GET / HTTP/1.1\r\n" H "\n", 400, true, "http.line_end" },
    { "\nGET / HTTP/1.1\r\n" H "\r\n", 400, true, "http.line_end" },
    /* fields */
    { "GET / HTTP/1.1\r\n" H "X-A: 1\r\n 2\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A: 1\r\n\t2\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A : 1\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X A: 1\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H ": 1\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-\xc3\xa9: 1\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A: a\rb\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A: \x01\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A: \x7f\r\n\r\n", 400, true, "http.header_fields" },
    { "GET / HTTP/1.1\r\n" H "X-A: \x1b[31m\r\n\r\n", 400, true, "http.header_fields" },
    /* Host */
    { "GET / HTTP/1.1\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.0\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\n" H H "\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\n" H "X: 1\r\nHOST: i\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, true, "http.host" },
    { "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, true, "http.host" },
    /* framing */
    { "POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 1, 1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: +1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 0x1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 1 1\r\n\r\nx", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\n", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999\r\n\r\n", 400, true, "http.content_length" },
    { "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, NULL },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, true, NULL },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true,
      "http.transfer_encoding" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n", 400, true, "http.transfer_encoding" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, gzip\r\n\r\n", 400, true, "http.transfer_encoding" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, true, "http.transfer_encoding" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n", 400, true, "http.transfer_encoding" },
    { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, true, "http.transfer_coding" },
    { "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, "http.transfer_encoding" },
#define CHUNKED "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n"
    { CHUNKED "x\r\n", 400, true, "http.chunk" },
    { CHUNKED "-1\r\n", 400, true, "http.chunk" },
    { CHUNKED "+1\r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "0x1\r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "1 \r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED " 1\r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "1\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "1\r\nab\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "1\r\na\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "fffffffffffffffff\r\na\r\n", 400, true, "http.chunk" },
    { CHUNKED "\r\n", 400, true, "http.chunk" },
    { CHUNKED "1;a\nb\r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "1;\x01\r\na\r\n0\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "0\r\nT : x\r\n\r\n", 400, true, "http.chunk" },
    { CHUNKED "0\r\nT: x\n\r\n", 400, true, "http.chunk" },
    /* Expect; a body beyond the route's limit */
    { "POST / HTTP/1.1\r\n" H "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417, true, "http.expect" },
    { "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx", 200, false, "|1|x" },
    { "POST / HTTP/1.0\r\n" H "Expect: 100-continue\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200,
      false, "|1|x" },
    { "POST /small HTTP/1.1\r\n" H "Content-Length: 9\r\n\r\n123456789", 200, false, "|9|" },
    { "POST /small HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\n1234567890", 200, false, "|10|" },
    { "POST /small HTTP/1.1\r\n" H "Content-Length: 11\r\n\r\n12345678901", 413, true, "http.body_size" },
    { "POST /small HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", 200, false, "|9|" },
    { "POST /small HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n1\r\n0\r\n0\r\n\r\n", 200,
      false, "|10|" },
    { "POST /small HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n2\r\n01\r\n0\r\n\r\n", 413,
      true, "http.body_size" },
};

static void check_row(u16 port, size_t i, struct answers *a)
{
    talk(port, str_of(rows[i].bytes), a, false);
    int want = rows[i].closes ? 1 : 2;
    bool right = a->n == want && a->list[0].status == rows[i].status && a->whole;
    right = right && (rows[i].text == NULL || body_has(&a->list[0], rows[i].text));
    if (!right)
        fail_msg("row %zu: %s\nanswered %d times: %.*s", i, rows[i].bytes, a->n, STR_FMT(buf_view(&a->in)));
    bool told = str_find(a->list[0].head, S("connection: close\r\n"), 0) >= 0;
    assert_int_equal(told, rows[i].closes);
}

static void test_strictness(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (size_t i = 0; i < COUNT(rows); i++)
        check_row(f.port, i, &a);
    buf_free(&a.in);
    stop(&f);
}

/* NUL cannot stand in the table. */
static void test_nul_is_refused(void **state)
{
    (void)state;
    static const str bytes[] = {
        S_INIT("GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n"),
        S_INIT("GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n"),
        S_INIT("GET / HTTP/1.1\r\nHost: h\r\nX\0: 1\r\n\r\n"),
        S_INIT("G\0T / HTTP/1.1\r\nHost: h\r\n\r\n"),
    };
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (size_t i = 0; i < COUNT(bytes); i++) {
        talk(f.port, bytes[i], &a, false);
        assert_int_equal(a.n, 1);
        assert_int_equal(a.list[0].status, 400);
    }
    buf_free(&a.in);
    stop(&f);
}

static void test_refused_head_request_has_no_body(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    talk(f.port, S("HEAD / HTTP/1.1\r\n\r\n"), &a, true);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.list[0].status, 400);
    assert_true(a.whole);
    buf_free(&a.in);
    stop(&f);
}

static void test_head_has_a_length_but_no_body(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    say(fd, S("HEAD /x HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
    hear(fd, &a, 0, true);
    assert_int_equal(a.n, 1);
    assert_true(str_find(a.list[0].head, S("content-length: 13\r\n"), 0) > 0);
    assert_true(str_find(a.list[0].head, S("\r\ndate: "), 0) > 0);
    assert_int_equal(a.in.n, a.list[0].head.n + 2);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static void test_unsafe_answer_header_is_left_out(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    talk(f.port, S("GET / HTTP/1.1\r\n" H "X-A: yes\r\n\r\n"), &a, false);
    assert_true(str_find(a.list[0].head, S("x-evil"), 0) < 0);
    assert_true(str_find(a.list[0].head, S("x-a: yes\r\n"), 0) > 0);
    assert_true(str_find(a.list[0].head, S("x-remote: 127.0.0.1\r\n"), 0) > 0);
    buf_free(&a.in);
    stop(&f);
}

/* --- limits ------------------------------------------------------------------------------------------------------ */

/* A request with a target, a header block and a count of fields of exactly these sizes. */
static str sized_request(struct arena *a, size_t target, size_t header_bytes, u32 fields)
{
    struct buf b = { .arena = a };
    BUF_LIT(&b, "GET /");
    for (size_t i = 1; i < target; i++)
        buf_char(&b, 'a');
    BUF_LIT(&b, " HTTP/1.1\r\n");
    size_t start_at = b.n;
    BUF_LIT(&b, "Host: h\r\n");
    for (u32 i = 1; i < fields; i++)
        BUF_LIT(&b, "X: y\r\n");
    if (header_bytes > 0) { /* fills up in the last field: takes its CRLF back */
        b.n -= 2;
        while (b.n - start_at < header_bytes - 2)
            buf_char(&b, 'f');
        BUF_LIT(&b, "\r\n");
    }
    BUF_LIT(&b, "\r\n");
    assert_int_equal(b.fail, OK);
    return buf_view(&b);
}

static void test_limits(void **state)
{
    (void)state;
    static const struct {
        size_t target, header_bytes;
        u32 fields;
        int status;
    } cases[] = {
        { 8191, 0, 1, 200 },  { 8192, 0, 1, 200 },  { 8193, 0, 1, 414 },  { 9000, 0, 1, 414 },
        { 1, 16383, 2, 200 }, { 1, 16384, 2, 200 }, { 1, 16385, 2, 431 }, { 1, 40000, 2, 431 },
        { 1, 0, 99, 200 },    { 1, 0, 100, 200 },   { 1, 0, 101, 431 },   { 8192, 16384, 100, 200 },
    };
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena *arena = arena_new(MIB);
        talk(f.port, sized_request(arena, cases[i].target, cases[i].header_bytes, cases[i].fields), &a, false);
        assert_int_equal(a.list[0].status, cases[i].status);
        assert_int_equal(a.n, cases[i].status == 200 ? 2 : 1);
        arena_free(arena);
    }
    buf_free(&a.in);
    stop(&f);
}

/* What can no longer become good is refused without waiting for its end. */
static void test_endless_heads_are_cut(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (int kind = 0; kind < 3; kind++) {
        int fd = dial(f.port);
        if (kind == 1)
            say(fd, S("GET /"));
        if (kind == 2)
            say(fd, S("GET / HTTP/1.1\r\nX: "));
        say(fd, (str){ memset(big, 'a', 20000), 20000 });
        hear(fd, &a, 0, false);
        assert_int_equal(a.list[0].status, kind == 0 ? 400 : kind == 1 ? 414 : 431);
        close(fd);
    }
    buf_free(&a.in);
    stop(&f);
}

static void test_body_of_a_mebibyte(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    memset(big, 'b', MIB + 1);
    for (int over = -1; over <= 1; over++) {
        struct buf b = { 0 };
        buf_f(&b, "POST / HTTP/1.1\r\n" H "Content-Length: %zu\r\n\r\n", MIB + (size_t)over);
        buf_put(&b, big, MIB + (size_t)over);
        talk(f.port, buf_view(&b), &a, false);
        assert_int_equal(a.list[0].status, over > 0 ? 413 : 200);
        buf_free(&b);
    }
    buf_free(&a.in);
    stop(&f);
}

/* The client must see the answer although it is still sending: no reset. */
static void test_too_large_is_answered_while_sending(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    say(fd, S("POST / HTTP/1.1\r\n" H "Content-Length: 8388608\r\n\r\n"));
    say(fd, (str){ big, sizeof big });
    assert_true(hear(fd, &a, 0, false));
    assert_int_equal(a.list[0].status, 413);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static void test_endless_chunk_framing_is_cut(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    say(fd, S(CHUNKED "1;"));
    say(fd, (str){ memset(big, 'e', 100000), 100000 });
    hear(fd, &a, 0, false);
    assert_int_equal(a.list[0].status, 400);
    assert_true(body_has(&a.list[0], "http.chunk"));
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static void test_continue(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    say(fd, S("POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
    hear(fd, &a, 1, false);
    assert_int_equal(a.list[0].status, 100);
    say(fd, S("ok"));
    hear(fd, &a, 1, false);
    assert_int_equal(a.list[0].status, 200);
    say(fd, S("POST /small HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 20\r\n\r\n"));
    assert_true(hear(fd, &a, 0, false));
    assert_int_equal(a.list[0].status, 413);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

/* --- splits and pipelines ---------------------------------------------------------------------------------------- */

/* Gives the loop the processor, so that the halves most likely arrive as two reads; the answers must be the same anyhow. */
static void let_it_read(void)
{
    for (int i = 0; i < 50; i++)
        sched_yield();
}

static void test_split_at_every_byte(void **state)
{
    (void)state;
    static const str bytes = S_INIT("POST /s?q HTTP/1.1\r\nHost: h\r\nX-A: v\r\nTransfer-Encoding: chunked\r\n\r\n"
                                    "3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: t\r\n\r\n"
                                    "PUT /t HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nxyz" MARK);
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (size_t at = 1; at < bytes.n; at++) {
        int fd = dial(f.port);
        say(fd, str_slice(bytes, 0, at));
        let_it_read();
        say(fd, str_slice(bytes, at, bytes.n));
        hear(fd, &a, 0, false);
        assert_int_equal(a.n, 3);
        assert_true(str_eq(a.list[0].body, S("POST|/s|q|3|4|abcd")));
        assert_true(str_eq(a.list[1].body, S("PUT|/t||2|3|xyz")));
        close(fd);
    }
    buf_free(&a.in);
    stop(&f);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    static const str bytes = S_INIT("POST /s?q HTTP/1.1\r\nHost: h\r\nX-A: v\r\nContent-Length: 2\r\n\r\nok" MARK);
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    for (size_t i = 0; i < bytes.n; i++) {
        say(fd, str_slice(bytes, i, i + 1));
        let_it_read();
    }
    hear(fd, &a, 0, false);
    assert_int_equal(a.n, 2);
    assert_true(str_eq(a.list[0].body, S("POST|/s|q|3|2|ok")));
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static str pipeline(struct buf *b, int count)
{
    for (int i = 0; i < count; i++)
        buf_f(b, "GET /%d HTTP/1.1\r\n" H "\r\n", i);
    return buf_view(b);
}

/* More than one turn takes, so the rest is taken in later ones. */
static void test_pipeline_is_answered_in_order(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    struct buf b = { 0 };
    start(&f, &http_default_limits);
    talk(f.port, pipeline(&b, 299), &a, false);
    assert_int_equal(a.n, 300);
    for (int i = 0; i < 299; i++) {
        char want[32];
        snprintf(want, sizeof want, "GET|/%d||1|0|", i);
        assert_true(str_eq(a.list[i].body, str_of(want)));
    }
    buf_free(&b);
    buf_free(&a.in);
    stop(&f);
}

static void release(struct fixture *f)
{
    WAIT_FOR(atomic_load(&parked_state) == 1);
    parked.m.run = answer_parked;
    loop_post(f->loop, &parked.m);
}

static void test_slow_answer_holds_the_pipeline(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\nGET /after HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    say(fd, S(MARK));
    release(&f);
    hear(fd, &a, 0, false);
    assert_int_equal(a.n, 3);
    assert_true(str_eq(a.list[0].body, S("parked")));
    assert_true(str_starts(a.list[1].body, S("GET|/after|")));
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

/* Far more than IN_MAX behind a slow request: reading pauses, nothing is lost. */
static void *say_much(void *arg)
{
    const int *fd = arg;
    struct buf b = { 0 };
    BUF_LIT(&b, "POST / HTTP/1.1\r\n" H "Content-Length: 1000000\r\n\r\n");
    buf_put(&b, big, 1000000);
    say(*fd, buf_view(&b));
    say(*fd, S(MARK));
    buf_free(&b);
    return NULL;
}

static void test_reading_pauses_behind_a_slow_answer(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    pthread_t sender;
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    pthread_create(&sender, NULL, say_much, &fd);
    release(&f);
    hear(fd, &a, 0, false);
    pthread_join(sender, NULL);
    assert_int_equal(a.n, 3);
    assert_true(str_find(a.list[1].body, S("|1000000|"), 0) > 0);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static void test_half_closed_client_is_answered(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\nGET /2 HTTP/1.1\r\n" H "\r\n"));
    shutdown(fd, SHUT_WR);
    release(&f);
    assert_true(hear(fd, &a, 0, false));
    assert_int_equal(a.n, 2);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

/* It says nothing more, but it reads on: an interim answer is all that it notices of our asking. */
static void test_half_closed_client_may_wait(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    shutdown(fd, SHUT_WR);
    hear(fd, &a, 1, false);
    assert_int_equal(a.list[0].status, 100);
    release(&f);
    assert_true(hear(fd, &a, 0, false));
    assert_int_equal(a.n, 1);
    assert_int_equal(a.list[0].status, 200);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

/* Its connection does not wait for the answer that nobody will read. */
static void test_closed_client_is_noticed(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    close(fd);
    WAIT_FOR(http_connections(f.server) == 0);
    assert_int_equal(atomic_load(&parked_state), 1);
    release(&f);
    WAIT_FOR(atomic_load(&parked_state) == 2);
    stop(&f);
}

static void test_answer_for_a_lost_client(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    int fd = dial(f.port);
    struct linger reset = { 1, 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    close(fd);
    WAIT_FOR(http_connections(f.server) == 0);
    release(&f);
    WAIT_FOR(atomic_load(&parked_state) == 2);
    stop(&f);
}

static void test_drop(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    int fd = dial(f.port);
    say(fd, S("GET /drop HTTP/1.1\r\n" H "\r\n"));
    assert_true(hear(fd, &a, 0, false));
    assert_int_equal(a.n, 0);
    close(fd);
    buf_free(&a.in);
    stop(&f);
}

static void test_large_answer(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    talk(f.port, S("GET /big HTTP/1.1\r\n" H "\r\nGET /big HTTP/1.1\r\n" H "\r\n"), &a, false);
    assert_int_equal(a.n, 3);
    assert_int_equal(a.list[1].body.n, BIG_BYTES);
    buf_free(&a.in);
    stop(&f);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

static void stream_reset(void)
{
    atomic_store(&stream_state, 0);
    atomic_store(&stream_paused, 0);
    atomic_store(&stream_resumed, 0);
    atomic_store(&stream_closed_count, 0);
}

/* The bytes of a chunked body; fails the test when it is malformed. */
static size_t chunked_bytes(str in)
{
    size_t total = 0;
    for (;;) {
        size_t n = strtoul(in.p, NULL, 16);
        i64 end = str_find(in, S("\r\n"), 0);
        assert_true(end > 0 && in.n >= (size_t)end + 2 + n + 2);
        assert_memory_equal(in.p + end + 2 + n, "\r\n", 2);
        if (n == 0) {
            assert_int_equal(in.n, (size_t)end + 4);
            return total;
        }
        total += n;
        in = str_slice(in, (size_t)end + 2 + n + 2, in.n);
    }
}

static void check_slow_stream(u16 port, const char *request, bool chunked)
{
    struct answers a = { 0 };
    stream_reset();
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    say(fd, str_of(request));
    WAIT_FOR(atomic_load(&stream_paused) > 0); /* nothing is read before the handler was told to wait */
    for (ssize_t n = 1; n > 0; a.in.n += (size_t)n) {
        assert_true(buf_room(&a.in, 64 * KIB));
        n = recv(fd, a.in.p + a.in.n, 64 * KIB, 0);
        assert_true(n >= 0);
    }
    str in = buf_view(&a.in);
    in = str_slice(in, (size_t)str_find(in, S("\r\n\r\n"), 0) + 4, in.n);
    assert_int_equal(chunked ? chunked_bytes(in) : in.n, STREAM_BYTES);
    assert_true(atomic_load(&stream_resumed) > 0);
    assert_int_equal(atomic_load(&stream_closed_count), 0);
    close(fd);
    buf_free(&a.in);
}

static void test_stream_waits_for_a_slow_reader(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    check_slow_stream(f.port, "GET /stream HTTP/1.1\r\n" H "Connection: close\r\n\r\n", true);
    check_slow_stream(f.port, "GET /stream HTTP/1.0\r\n" H "\r\n", false);
    stop(&f);
}

static void test_stream_notices_a_lost_client(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    for (int kind = 0; kind < 3; kind++) {
        stream_reset();
        int fd = dial(f.port);
        say(fd, S("GET /open HTTP/1.1\r\n" H "\r\n"));
        hear(fd, &a, 1, true);
        if (kind == 1) /* a client that talks into its stream */
            say(fd, (str){ big, 1 * MIB });
        if (kind == 2)
            shutdown(fd, SHUT_WR);
        else if (kind == 0)
            close(fd);
        WAIT_FOR(atomic_load(&stream_closed_count) == 1);
        if (kind != 0)
            close(fd);
    }
    WAIT_FOR(http_connections(f.server) == 0);
    buf_free(&a.in);
    stop(&f);
}

static void begin_late(struct message *m)
{
    struct parked *p = CONTAINER(m, struct parked, m);
    stream_handle(p->rq, true);
}

static void test_stream_begun_after_the_client_left(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    stream_reset();
    int fd = dial(f.port);
    struct linger reset = { 1, 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    say(fd, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    close(fd);
    WAIT_FOR(http_connections(f.server) == 0);
    parked.m.run = begin_late;
    loop_post(f.loop, &parked.m);
    WAIT_FOR(atomic_load(&stream_closed_count) == 1);
    stop(&f);
}

/* --- deadlines --------------------------------------------------------------------------------------------------- */

static void test_deadlines(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int answers, last;
    } cases[] = {
        { "", 0, 0 },                                                       /* never says anything */
        { "GET / HTTP/1.1\r\n", 1, 408 },                                   /* half a head */
        { "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nabc", 1, 408 }, /* half a body */
        { CHUNKED "5\r\nabc", 1, 408 },                                     /* half a chunk */
        { "GET / HTTP/1.1\r\n" H "\r\n", 1, 200 },                          /* idle behind an answer */
        { "GET / HTTP/1.1\r\n" H "\r\nGET", 2, 408 },                       /* half a second head */
    };
    struct http_limits limits = hasty();
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &limits);
    for (size_t i = 0; i < COUNT(cases); i++) {
        int fd = dial(f.port);
        i64 begun = clock_mono_us();
        say(fd, str_of(cases[i].bytes));
        assert_true(hear(fd, &a, 0, false));
        assert_true(clock_mono_us() - begun >= HASTE_US - 1000);
        assert_int_equal(a.n, cases[i].answers);
        if (a.n > 0)
            assert_int_equal(a.list[a.n - 1].status, cases[i].last);
        close(fd);
    }
    buf_free(&a.in);
    stop(&f);
}

static void test_deadlines_spare_the_handler(void **state)
{
    (void)state;
    struct http_limits limits = hasty();
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &limits);
    atomic_store(&parked_state, 0);
    int slow = dial(f.port), idle = dial(f.port);
    say(slow, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    hear(idle, &a, 0, false); /* longer than every deadline */
    release(&f);
    hear(slow, &a, 1, false);
    assert_int_equal(a.list[0].status, 200);
    close(slow);
    close(idle);
    buf_free(&a.in);
    stop(&f);
}

static void test_reader_that_stalls_is_closed(void **state)
{
    (void)state;
    struct http_limits limits = hasty();
    struct fixture f;
    start(&f, &limits);
    stream_reset();
    int big_one = dial(f.port), stream = dial(f.port);
    say(big_one, S("GET /big HTTP/1.1\r\n" H "\r\n"));
    say(stream, S("GET /stream HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&stream_closed_count) == 1);
    WAIT_FOR(http_connections(f.server) == 0);
    close(big_one);
    close(stream);
    stop(&f);
}

/* --- many, none, the end ----------------------------------------------------------------------------------------- */

static void test_connection_limit(void **state)
{
    (void)state;
    struct http_limits limits = http_default_limits;
    limits.connections = 2;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &limits);
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = dial(f.port);
    assert_true(hear(fds[2], &a, 0, false));
    assert_int_equal(a.list[0].status, 503);
    say(fds[1], S("GET / HTTP/1.1\r\n" H "\r\n"));
    hear(fds[1], &a, 1, false);
    assert_int_equal(a.list[0].status, 200);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    buf_free(&a.in);
    stop(&f);
}

/* Every allocation on the way of a request fails once: each time an answer or a closed connection, never a leak or a hang. */
static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    memset(big, 'b', 40000);
    bool fired = true;
    for (i64 n = 1; fired; n++) {
        assert_true(n < 200);
        int fd = dial(f.port);
        fault_arm(FAULT_ALLOC, n);
        say(fd, S("POST / HTTP/1.1\r\n" H "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n"));
        say(fd, (str){ big, 40000 });
        say(fd, S("\r\n0\r\n\r\n"));
        char last[512];
        while (recv(fd, last, sizeof last, 0) > 0) {}
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        close(fd);
        WAIT_FOR(http_connections(f.server) == 0);
    }
    talk(f.port, S("GET / HTTP/1.1\r\n" H "\r\n"), &a, false);
    assert_int_equal(a.n, 2);
    buf_free(&a.in);
    stop(&f);
}

static void test_drain(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    stream_reset();
    int idle = dial(f.port), busy = dial(f.port), stream = dial(f.port);
    say(idle, S("GET / HTTP/1.1\r\n" H "\r\n"));
    hear(idle, &a, 1, false);
    say(stream, S("GET /open HTTP/1.1\r\n" H "\r\n"));
    hear(stream, &a, 1, true);
    say(busy, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    WAIT_FOR(atomic_load(&parked_state) == 1);
    http_drain(f.server, on_drained, &f);
    assert_true(hear(idle, &a, 0, false));
    WAIT_FOR(atomic_load(&stream_closed_count) == 1);
    assert_false(atomic_load(&f.drained));
    release(&f);
    assert_true(hear(busy, &a, 0, false));
    assert_int_equal(a.list[0].status, 200);
    assert_true(str_find(a.list[0].head, S("connection: close\r\n"), 0) > 0);
    close(busy);
    close(idle);
    close(stream);
    WAIT_FOR(atomic_load(&f.drained));
    finish(&f);
    buf_free(&a.in);
}

static void test_free_with_open_connections(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    atomic_store(&parked_state, 0);
    stream_reset();
    int slow = dial(f.port), stream = dial(f.port), idle = dial(f.port), half = dial(f.port);
    say(slow, S("GET /slow HTTP/1.1\r\n" H "\r\n"));
    say(stream, S("GET /stream HTTP/1.1\r\n" H "\r\n"));
    say(half, S("POST / HTTP/1.1\r\n" H "Content-Length: 9\r\n\r\nabc"));
    WAIT_FOR(atomic_load(&parked_state) == 1 && atomic_load(&stream_paused) > 0 && http_connections(f.server) == 4);
    stop(&f);
    close(slow);
    close(stream);
    close(idle);
    close(half);
}

static void test_taken_port(void **state)
{
    (void)state;
    static const struct http_handler handler = { NULL, on_admit, on_request, on_refuse };
    struct fixture f;
    start(&f, &http_default_limits);
    struct loop *l = loop_new(1);
    struct http_server *second = NULL;
    const struct http_limits *limits = &http_default_limits;
    assert_int_equal(http_listen(&l, 1, S("127.0.0.1"), f.port, limits, &handler, &second), ERR_BUSY);
    assert_int_equal(http_listen(&l, 1, S("no.such.literal"), 0, limits, &handler, &second), ERR_INVALID);
    assert_int_equal(http_listen(&l, 1, S("192.0.2.1"), 0, limits, &handler, &second), ERR_INVALID);
    assert_null(second);
    loop_free(l);
    stop(&f);
}

static void test_mapped_remote_reads_as_ipv4(void **state)
{
    (void)state;
    struct fixture f;
    struct answers a = { 0 };
    start_at(&f, &http_default_limits, S("::"));
    talk(f.port, S("GET / HTTP/1.1\r\n" H "\r\n"), &a, false);
    assert_true(str_find(a.list[0].head, S("x-remote: 127.0.0.1\r\n"), 0) > 0);
    buf_free(&a.in);
    stop(&f);
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

struct tick {
    struct loop_timer timer;
    int id;
};
static int ticks[8], tick_count;

static void on_tick(struct loop_timer *t)
{
    struct tick *tick = CONTAINER(t, struct tick, timer);
    ticks[tick_count++] = tick->id;
    if (tick->id == 4)
        loop_stop(t->loop);
}

static void test_timers_fire_in_order(void **state)
{
    (void)state;
    struct loop *l = loop_new(7);
    struct tick list[5] = { 0 };
    static const i64 delays[] = { 30000, 10000, 5000, 20000, 40000 };
    tick_count = 0;
    for (int i = 0; i < 5; i++) {
        list[i].id = i;
        assert_int_equal(loop_timer_start(l, &list[i].timer, delays[i], on_tick), OK);
    }
    loop_timer_stop(&list[2].timer);
    loop_timer_stop(&list[2].timer);
    assert_int_equal(loop_timer_start(l, &list[3].timer, 1, on_tick), OK); /* moved to the front */
    assert_int_equal(loop_index(l), 7);
    assert_null(loop_current());
    loop_run(l);
    static const int want[] = { 3, 1, 0, 4 };
    assert_int_equal(tick_count, 4);
    assert_memory_equal(ticks, want, sizeof want);
    loop_free(l);
}

enum { POSTERS = 4, POSTS = 2000 };
struct numbered {
    struct message m;
    int from, number;
};
static struct numbered posts[POSTERS][POSTS];
static int last_number[POSTERS], posted_total;
static struct loop *post_loop;

static void on_numbered(struct message *m)
{
    struct numbered *n = CONTAINER(m, struct numbered, m);
    assert(loop_is_current(post_loop) && n->number == last_number[n->from]);
    last_number[n->from]++;
    if (++posted_total == POSTERS * POSTS)
        loop_stop(post_loop);
}

static void *post_many(void *arg)
{
    struct numbered *mine = arg;
    for (int i = 0; i < POSTS; i++)
        loop_post(post_loop, &mine[i].m);
    return NULL;
}

static void test_messages_of_a_thread_stay_in_order(void **state)
{
    (void)state;
    pthread_t threads[POSTERS];
    post_loop = loop_new(0);
    posted_total = 0;
    for (int t = 0; t < POSTERS; t++) {
        last_number[t] = 0;
        for (int i = 0; i < POSTS; i++)
            posts[t][i] = (struct numbered){ .m.run = on_numbered, .from = t, .number = i };
        pthread_create(&threads[t], NULL, post_many, posts[t]);
    }
    loop_run(post_loop);
    for (int t = 0; t < POSTERS; t++)
        pthread_join(threads[t], NULL);
    assert_int_equal(posted_total, POSTERS * POSTS);
    loop_free(post_loop);
}

static void test_fields_that_may_be_sent(void **state)
{
    static const struct {
        str name, value;
        bool ok;
    } fields[] = {
        { S_INIT("X-A"), S_INIT("v"), true },
        { S_INIT("x"), S_INIT(""), true },
        { S_INIT("X-A"), S_INIT("a\tb \xc3\xa9"), true },
        { S_INIT(""), S_INIT("v"), false },
        { S_INIT("X-A "), S_INIT("v"), false },
        { S_INIT("X:A"), S_INIT("v"), false },
        { S_INIT("X\r\nY"), S_INIT("v"), false },
        { S_INIT("X\0Y"), S_INIT("v"), false },
        { S_INIT("X\x80"), S_INIT("v"), false },
        { S_INIT("X-A"), S_INIT("v\r\nB: c"), false },
        { S_INIT("X-A"), S_INIT("v\n"), false },
        { S_INIT("X-A"), S_INIT("\0"), false },
    };
    for (size_t i = 0; i < COUNT(fields); i++)
        assert_int_equal(http_field_ok(fields[i].name, fields[i].value), fields[i].ok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields_that_may_be_sent),
        cmocka_unit_test(test_timers_fire_in_order),
        cmocka_unit_test(test_messages_of_a_thread_stay_in_order),
        cmocka_unit_test(test_strictness),
        cmocka_unit_test(test_nul_is_refused),
        cmocka_unit_test(test_refused_head_request_has_no_body),
        cmocka_unit_test(test_head_has_a_length_but_no_body),
        cmocka_unit_test(test_unsafe_answer_header_is_left_out),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_endless_heads_are_cut),
        cmocka_unit_test(test_body_of_a_mebibyte),
        cmocka_unit_test(test_too_large_is_answered_while_sending),
        cmocka_unit_test(test_endless_chunk_framing_is_cut),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_split_at_every_byte),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_pipeline_is_answered_in_order),
        cmocka_unit_test(test_slow_answer_holds_the_pipeline),
        cmocka_unit_test(test_reading_pauses_behind_a_slow_answer),
        cmocka_unit_test(test_half_closed_client_is_answered),
        cmocka_unit_test(test_half_closed_client_may_wait),
        cmocka_unit_test(test_closed_client_is_noticed),
        cmocka_unit_test(test_answer_for_a_lost_client),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_large_answer),
        cmocka_unit_test(test_stream_waits_for_a_slow_reader),
        cmocka_unit_test(test_stream_notices_a_lost_client),
        cmocka_unit_test(test_stream_begun_after_the_client_left),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_deadlines_spare_the_handler),
        cmocka_unit_test(test_reader_that_stalls_is_closed),
        cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_free_with_open_connections),
        cmocka_unit_test(test_taken_port),
        cmocka_unit_test(test_mapped_remote_reads_as_ipv4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
