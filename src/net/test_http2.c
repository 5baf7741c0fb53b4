/* test_http2.c - what only time and memory show of HTTP/2: deadlines, allocations that fail, the flood buckets; frames by hand against a
 * server on a loop of its own. What frames mean is told by tests/api/http2.test.mjs. */
#include "net/http.h"
#include "net/http2_guard.h"

#include "base/clock.h"
#include "base/fault.h"
#include "net/test_haste.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { BIG_BYTES = 100000, HEARD_MAX = 1 << 20, FRAME_HEAD = 9 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, GOAWAY = 7 };

/* --- the server under test --------------------------------------------------------------------------------------- */

struct fixture {
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
};

static char big[BIG_BYTES];
static atomic_int closed_count;

static void on_stream_closed(void *ctx)
{
    atomic_fetch_add(&closed_count, 1);
    http_stream_end(ctx);
}

static void on_request(void *ctx, struct http_request *rq)
{
    static const struct http_stream_events none = { 0 };
    struct http_stream_events events = none;
    if (str_eq(rq->path, S("/")))
        http_reply(rq, 200, NULL, 0, rq->method == POST ? rq->body : (str){ big, sizeof big });
    else if (rq->query.p != NULL) {
        http_drop(rq);
    } else {
        events.closed = on_stream_closed;
        events.ctx = rq;
        http_stream_begin(rq, 200, NULL, 0, &events);
        http_stream_write(rq, S("hello"));
    }
}

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static void start(struct fixture *f, const struct http_limits *limits)
{
    static const struct http_handler handler = { .request = on_request };
    *f = (struct fixture){ .loop = loop_new(0) };
    assert_non_null(f->loop);
    assert_int_equal(http_listen(&f->loop, 1, S("127.0.0.1"), 0, limits, &handler, &f->server), OK);
    assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f->loop), 0);
}

static void stop(struct fixture *f)
{
    loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    http_free(f->server);
    loop_free(f->loop);
}

/* --- the client's side ------------------------------------------------------------------------------------------- */

#define PREFACE   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTINGS  "\0\0\0\4\0\0\0\0\0"
#define NO_WINDOW "\0\0\6\4\0\0\0\0\0\0\4\0\0\0\0"       /* INITIAL_WINDOW_SIZE 0 */
#define FIELDS    "\x86\x41\1h"                          /* :scheme http, :authority h */
#define GET_1     "\0\0\6\1\5\0\0\0\1\x82\x84" FIELDS    /* HEADERS, END_STREAM, END_HEADERS: GET / */
#define POST_1    "\0\0\6\1\4\0\0\0\1\x83\x84" FIELDS    /* the body follows */
#define HALF_1    "\0\0\6\1\1\0\0\0\1\x82\x84" FIELDS    /* a CONTINUATION follows */
#define OPEN_1    "\0\0\x9\1\5\0\0\0\1\x82\4\2/s" FIELDS /* GET /s */
#define BEGIN     PREFACE SETTINGS

static int dial(const struct fixture *f)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(http_port(f->server)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = 10 };
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void say(int fd, str bytes)
{
    assert_int_equal(send(fd, bytes.p, bytes.n, MSG_NOSIGNAL), (ssize_t)bytes.n);
}

/* Frames until the server closes. */
struct heard {
    u32 count[256];    /* by type */
    u32 status, error; /* first byte of the first HEADERS; code of the last GOAWAY or RST_STREAM */
};

static u32 word(const char *p)
{
    const u8 *b = (const u8 *)p;
    return (u32)b[0] << 24 | (u32)b[1] << 16 | (u32)b[2] << 8 | b[3];
}

static void count_frame(struct heard *h, const char *head, const char *payload)
{
    u8 type = (u8)head[3];
    if (type == HEADERS && h->count[type] == 0)
        h->status = (u8)payload[0];
    if (type == GOAWAY || type == RST_STREAM)
        h->error = word(payload + (type == GOAWAY ? 4 : 0));
    h->count[type]++;
}

static struct heard hear(int fd)
{
    static char in[HEARD_MAX];
    struct heard h = { 0 };
    size_t n = 0, at = 0;
    for (ssize_t got; (got = recv(fd, in + n, sizeof in - n, 0)) > 0;)
        n += (size_t)got;
    while (at + FRAME_HEAD <= n) {
        size_t length = word(in + at) >> 8;
        assert_true(at + FRAME_HEAD + length <= n);
        count_frame(&h, in + at, in + at + FRAME_HEAD);
        at += FRAME_HEAD + length;
    }
    return h;
}

/* Ten seconds are "never". */
static void wait_for_the_end(const struct fixture *f)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (http_connections(f->server) > 0) {
        assert_true(clock_mono_us() < until);
        sched_yield();
    }
}

/* --- deadlines --------------------------------------------------------------------------------------------------- */

static void test_deadlines(void **state)
{
    (void)state;
    static const struct {
        str bytes;
        u32 headers, resets, goaways, error; /* frames that answer */
    } cases[] = {
        { S_INIT("PRI * HT"), 0, 0, 0, 0 },              /* half a preface: HTTP/1 answers it */
        { S_INIT(PREFACE), 0, 0, 2, 0 },                 /* nothing behind it: asked to leave, then told */
        { S_INIT(BEGIN), 0, 0, 2, 0 },                   /* never asks */
        { S_INIT(BEGIN "\0\0\6\1"), 0, 0, 2, 0 },        /* half a frame */
        { S_INIT(BEGIN HALF_1), 0, 0, 1, 11 },           /* half a header block: ENHANCE_YOUR_CALM */
        { S_INIT(BEGIN POST_1), 1, 1, 2, 0 },            /* no body: 408, and it need not come any more */
        { S_INIT(PREFACE NO_WINDOW GET_1), 1, 1, 2, 0 }, /* never takes the answer: cut, then idle */
    };
    struct http_limits limits = hasty();
    struct fixture f;
    start(&f, &limits);
    for (size_t i = 0; i < COUNT(cases); i++) {
        int fd = dial(&f);
        i64 begun = clock_mono_us();
        say(fd, cases[i].bytes);
        if (i == 0) {
            char answer[16] = { 0 };
            assert_true(recv(fd, answer, 12, MSG_WAITALL) == 12);
            assert_string_equal(answer, "HTTP/1.1 408");
        } else {
            struct heard h = hear(fd);
            assert_int_equal(h.count[HEADERS], cases[i].headers);
            assert_int_equal(h.count[RST_STREAM], cases[i].resets);
            assert_int_equal(h.count[GOAWAY], cases[i].goaways);
            assert_int_equal(h.error, cases[i].error);
        }
        assert_true(clock_mono_us() - begun >= HASTE_US - 1000);
        close(fd);
        wait_for_the_end(&f);
    }
    stop(&f);
}

/* The socket itself is stuck: nothing is read at all. */
static void test_reader_that_stalls_is_closed(void **state)
{
    (void)state;
    struct http_limits limits = hasty();
    struct fixture f;
    start(&f, &limits);
    int fd = dial(&f), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, S(BEGIN "\0\0\4\x8\0\0\0\0\0\x7f\0\0\0")); /* the connection's window is no obstacle */
    for (u8 stream = 1; stream < 199; stream += 2) {
        char one[] = "\0\0\6\1\5\0\0\0\1\x82\x84" FIELDS;
        one[8] = (char)stream;
        say(fd, (str){ one, sizeof one - 1 });
    }
    wait_for_the_end(&f);
    close(fd);
    stop(&f);
}

static void test_open_stream_is_left_alone(void **state)
{
    (void)state;
    struct http_limits limits = hasty();
    struct fixture f;
    start(&f, &limits);
    int fd = dial(&f);
    char in[4096];
    size_t n = 0;
    atomic_store(&closed_count, 0);
    i64 begun = clock_mono_us();
    say(fd, S(BEGIN OPEN_1));
    while (memmem(in, n, "hello", 5) == NULL)
        n += (size_t)recv(fd, in + n, sizeof in - n, 0);
    struct timeval while_ = { .tv_usec = 2 * HASTE_US };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &while_, sizeof while_);
    assert_int_equal(recv(fd, in, sizeof in, 0), -1); /* two deadlines later it still is open */
    assert_true(clock_mono_us() - begun >= 2 * HASTE_US);
    close(fd);
    wait_for_the_end(&f);
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (atomic_load(&closed_count) == 0) /* told behind the connection's end */
        assert_true(clock_mono_us() < until);
    assert_int_equal(atomic_load(&closed_count), 1);
    stop(&f);
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Every allocation of ours on the way of a request fails once: an answer, a cut stream or a closed connection, never a leak or a hang. */
static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct http_limits limits = http_default_limits;
    struct fixture f;
    bool fired = true;
    limits.idle_us = SECOND_US / 20;
    start(&f, &limits);
    for (i64 n = 1; fired; n++) {
        assert_true(n < 200);
        int fd = dial(&f);
        fault_arm(FAULT_ALLOC, n);
        say(fd, S(BEGIN POST_1 "\0\0\2\0\1\0\0\0\1hi"));
        (void)hear(fd);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        close(fd);
        wait_for_the_end(&f);
    }
    int fd = dial(&f);
    say(fd, S(BEGIN POST_1 "\0\0\2\0\1\0\0\0\1hi"));
    assert_int_equal(hear(fd).status, 0x88);
    close(fd);
    stop(&f);
}

static void test_free_with_open_connections(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    int fds[] = { dial(&f), dial(&f), dial(&f), dial(&f) };
    static const str bytes[] = { S_INIT(BEGIN OPEN_1), S_INIT(BEGIN HALF_1), S_INIT(PREFACE NO_WINDOW GET_1),
                                 S_INIT(BEGIN POST_1) };
    char first[FRAME_HEAD];
    for (size_t i = 0; i < COUNT(fds); i++) {
        say(fds[i], bytes[i]);
        assert_int_equal(recv(fds[i], first, sizeof first, MSG_WAITALL), sizeof first);
    }
    stop(&f);
    for (size_t i = 0; i < COUNT(fds); i++)
        close(fds[i]);
}

/* --- buckets ----------------------------------------------------------------------------------------------------- */

static void test_guard(void **state)
{
    (void)state;
    for (enum guard_kind kind = GUARD_FREE + 1; kind < GUARD_KINDS; kind++) {
        struct guard g = { 0 };
        u32 burst = guard_burst(kind);
        for (u32 i = 0; i < burst; i++)
            assert_true(guard_take(&g, kind, SECOND_US));
        assert_false(guard_take(&g, kind, SECOND_US));
        assert_true(guard_take(&g, kind, 2 * SECOND_US)); /* each gives back one a second at least */
        assert_true(guard_take(&g, kind == GUARD_PING ? GUARD_RESET : GUARD_PING, SECOND_US));
    }
}

static void test_guard_windows_follow_data(void **state)
{
    (void)state;
    struct guard g = { 0 };
    for (u32 i = 0; i < guard_burst(GUARD_WINDOW); i++)
        assert_true(guard_take(&g, GUARD_WINDOW, SECOND_US));
    guard_data_sent(&g);
    for (int i = 0; i < 10; i++)
        assert_true(guard_take(&g, GUARD_WINDOW, SECOND_US));
    assert_false(guard_take(&g, GUARD_WINDOW, SECOND_US));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_reader_that_stalls_is_closed),
        cmocka_unit_test(test_open_stream_is_left_alone),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_free_with_open_connections),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_guard_windows_follow_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
