/* http2.c - frames of HTTP/2, sent by a client that knows no rules to a server of its own process. The first byte chooses: the rest is what goes over the wire, or it
 * is a row of frames whose lengths are right, so that more of them get past the frame layer. Whatever comes, the server says whole frames, the first of them its
 * SETTINGS, ends the connection when the client has nothing more to say, and lives to answer the next one. */
#include "fuzz.h"

#include "net/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FRAME_HEAD = 9,
    FRAME_MAX = 16384,
    WIRE_MAX = 64 << 10,
    HEARD_MAX = 1 << 20,
    SETTINGS = 4,
    PATIENCE_S = 20,
    ADDRESSES = 250
};

static struct {
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
} house;

static void on_request(void *ctx, struct http_request *rq)
{
    assert(rq->path.n > 0 && http_header_count(rq, S("host")) <= 1);
    for (u32 i = 0; i < rq->header_count; i++)
        assert(rq->headers[i].name.n > 0 && http_field_ok(rq->headers[i].name, rq->headers[i].value));
    http_reply(rq, 200, NULL, 0, rq->body);
}

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static void stop(void)
{
    loop_stop(house.loop);
    pthread_join(house.thread, NULL);
    http_free(house.server);
    loop_free(house.loop);
}

static void start(void)
{
    static const struct http_handler handler = { .request = on_request };
    house.loop = loop_new(0);
    assert(house.loop != NULL);
    err e = http_listen(&house.loop, 1, S("0.0.0.0"), 0, &http_default_limits, &handler, &house.server);
    int rc = pthread_create(&house.thread, NULL, run_loop, house.loop);
    assert(e == OK && rc == 0);
    atexit(stop);
}

/* Frames from quadruples: type, flags, stream, length of what follows. */
static void put_frames(struct buf *wire, const u8 *data, size_t size)
{
    while (size >= 4 && wire->n < WIRE_MAX) {
        u8 type = data[0] % 11, flags = data[1], stream = data[2];
        size_t n = MIN((size_t)data[3], size - 4);
        const char head[FRAME_HEAD] = { 0, 0, (char)n, (char)type, (char)flags, 0, 0, 0, (char)stream };
        buf_put(wire, head, sizeof head);
        buf_put(wire, data + 4, n);
        data += 4 + n;
        size -= 4 + n;
    }
}

/* At another address each time: a closed connection keeps its pair of ports for a minute. An alarm may interrupt it. */
static int dial(void)
{
    static u32 count;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(http_port(house.server)) };
    struct timeval patience = { .tv_sec = PATIENCE_S };
    int fd = -1, rc = -1;
    for (int tries = 0; rc != 0 && tries < 3; tries++) {
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + count++ % ADDRESSES);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        rc = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, sizeof to);
        if (rc != 0)
            close(fd);
    }
    assert(rc == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

/* Whole frames only, and SETTINGS first. A reset may cut off what was under way. */
static void claim_frames(str heard, bool reset)
{
    for (size_t at = 0; at < heard.n;) {
        if (heard.n - at < FRAME_HEAD) {
            assert(reset);
            return;
        }
        const u8 *head = (const u8 *)heard.p + at;
        size_t n = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        assert(n <= FRAME_MAX && (at > 0 || head[3] == SETTINGS));
        assert(reset || heard.n - at >= FRAME_HEAD + n);
        at += FRAME_HEAD + n;
    }
}

/* libFuzzer's alarm interrupts. */
static ssize_t hear(int fd, char *part, size_t size)
{
    ssize_t n;
    do
        n = recv(fd, part, size, 0);
    while (n < 0 && errno == EINTR);
    return n;
}

static void talk(struct arena *a, str wire)
{
    struct buf heard = { .arena = a, .max = HEARD_MAX };
    char part[4096];
    int fd = dial();
    ssize_t n =
        send(fd, wire.p, wire.n, MSG_NOSIGNAL); /* the server may have closed: then what it said is there to be read */
    (void)n;
    shutdown(fd, SHUT_WR);
    while ((n = hear(fd, part, sizeof part)) > 0 && heard.fail == OK)
        buf_put(&heard, part, (size_t)n);
    assert(n == 0 || errno == ECONNRESET);
    claim_frames(buf_view(&heard), n < 0);
    close(fd);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"; /* and empty SETTINGS */
    if (house.loop == NULL)
        start();
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    struct buf wire = { .arena = a, .max = 2 * WIRE_MAX };
    bool framed = fuzz_choice(&data, &size) % 4 != 0;
    buf_put(&wire, preface, sizeof preface - 1);
    if (framed)
        put_frames(&wire, data, size);
    else
        buf_put(&wire, data, MIN(size, (size_t)WIRE_MAX));
    assert(wire.fail == OK);
    talk(a, buf_view(&wire));
    arena_free(a);
    return 0;
}
