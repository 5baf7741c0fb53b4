/* http1_conn.c - HTTP/1 on a connection: turns over what has come, one exchange at a time, pipelines in order.
 *
 * The rule that keeps this free of recursion: an answer given inside a turn only changes the state, and http1_turn() goes on
 * from there; outside of one it starts the next turn itself. */
#include "net/http1_conn.h"
#include "net/http2.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

enum {
    TURN_STEPS = 64,             /* heads and bodies of one connection before the others get their turn */
    STREAM_EXTRA_MAX = 64 << 10, /* bytes a client may send into a stream, all ignored */
};
#define HALF_CLOSED_US SECOND_US /* for so long an answer may take before we ask whether anybody waits for it */

static void http1_turn(struct conn *c, str bytes);
static void renew_deadline(struct conn *c);

static bool reads_requests(const struct conn *c)
{
    return (c->state == CONN_HEAD || c->state == CONN_BODY) && !c->again_posted;
}

static void next_request(struct conn *c)
{
    c->state = CONN_HEAD;
    c->scan = (struct http1_scan){ 0 };
    c->started_us = 0;
    c->asked = false;
}

/* From FLUSH to what comes behind the answer, if it has gone; gathered answers wait for the end of the turn. */
static void after_answer(struct conn *c)
{
    bool gathers = c->corked && !c->closing && c->out.n <= CORK_MAX;
    if (!gathers)
        conn_flush(c);
    if (c->state != CONN_FLUSH)
        return;
    if (!gathers && conn_unsent(c) > 0)
        conn_watch_stall(c);
    else if (c->closing)
        conn_linger(c);
    else
        next_request(c);
}

void http1_answered(struct conn *c, bool keep)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_FLUSH;
    c->closing = !keep || c->shard->draining;
    if (!c->turning)
        http1_turn(c, (str){ c->in.p, c->in.n });
}

void http1_refuse(struct conn *c, enum refusal why)
{
    struct arena *a = arena_new(REFUSAL_BYTES);
    struct http_stream *x = c->exchange;
    struct http_refusal said;
    ask_refusal(c, why, x, a, &said);
    http1_send_refusal(c, http_refusals[why].status, &said);
    arena_free(a);
    if (x != NULL) /* only now: what is said may lie on its arena */
        exchange_free(x);
    http1_answered(c, false);
}

static void deliver(struct conn *c, struct http_stream *x, bool more)
{
    c->state = CONN_BUSY;
    c->corked = more;
    exchange_deliver(x);
}

static const uv_buf_t go_on = { .base = (char *)"HTTP/1.1 100 Continue\r\n\r\n", .len = 25 };

static void await_body(struct conn *c, struct http_stream *x, bool more)
{
    c->state = CONN_BODY;
    c->started_us = now_of(c);
    if (x->expects_continue && !more)
        conn_send(c, &go_on, 1);
}

/* The head is good: what does the handler say, and is there a body to wait for? */
static void admit(struct conn *c, struct http_stream *x, bool more)
{
    exchange_admit(x);
    if (x->rq.refused != 0) {
        x->rq.keep_alive &= !x->has_body;
        deliver(c, x, more && !x->has_body);
    } else if (x->announced > x->body_limit) {
        http1_refuse(c, REFUSE_BODY_SIZE);
    } else if (x->has_body) {
        await_body(c, x, more);
    } else {
        deliver(c, x, more);
    }
}

/* Each returns how many bytes it used; 0 = more are needed. */
static size_t take_head(struct conn *c, str bytes)
{
    if (c->started_us == 0)
        c->started_us = now_of(c);
    c->is_head = str_starts(bytes, S("HEAD "));
    enum refusal r = http1_scan(&c->scan, bytes, limits_of(c));
    if (r == REFUSE_NONE && !c->scan.done)
        return 0;
    size_t used = c->scan.at;
    struct http_stream *x = c->exchange = r == REFUSE_NONE ? exchange_new(c) : NULL;
    if (r == REFUSE_NONE)
        r = x != NULL ? http1_head(x, &c->scan, bytes) : REFUSE_MEMORY;
    if (r == REFUSE_NONE)
        r = exchange_introduce(x, c, c->started_us);
    if (r == REFUSE_NONE) {
        admit(c, x, used < bytes.n);
        return used;
    }
    http1_refuse(c, r);
    return bytes.n;
}

static size_t take_body(struct conn *c, str bytes)
{
    struct http_stream *x = c->exchange;
    size_t used = 0;
    enum refusal r = http1_body(x, bytes, &used);
    if (r != REFUSE_NONE) {
        http1_refuse(c, r);
        return bytes.n;
    }
    if (x->complete)
        deliver(c, x, used < bytes.n);
    return used;
}

/* Keeps what was not used. `bytes` is the connection's own buffer, or the loop's, which the next read overwrites. */
static void keep_rest(struct conn *c, str bytes, size_t used)
{
    size_t rest = bytes.n - used;
    if (c->state == CONN_CLOSED || c->state == CONN_LINGER || c->closing || rest == 0) {
        buf_free(&c->in);
    } else if (c->in.n > 0) {
        memmove(c->in.p, c->in.p + used, rest);
        c->in.n = rest;
    } else {
        buf_put(&c->in, bytes.p + used, rest);
    }
    if (c->in.fail != OK)
        conn_close(c);
}

/* Reads unless a client pipelines far ahead of its answers. */
static void adjust_reading(struct conn *c)
{
    conn_read(c, reads_requests(c) || c->in.n < IN_MAX);
}

/* Behind what a client may have sent without waiting for the 101. */
static void input_upgraded(struct conn *c, str bytes)
{
    struct buf early = c->in;
    c->in = (struct buf){ 0 };
    if (early.n > 0) {
        buf_put(&early, bytes.p, bytes.n);
        bytes = buf_view(&early);
    }
    if (early.fail == OK)
        c->exchange->events.input(c->exchange->events.ctx, bytes);
    else
        conn_close(c);
    buf_free(&early);
}

/* The end of a turn: gathered answers go out, and the connection waits for what its state needs. */
static void settle(struct conn *c)
{
    conn_flush(c);
    if (c->state == CONN_HEAD && conn_unsent(c) > 0)
        c->state = CONN_FLUSH; /* on_written() goes on; start_write() has set the deadline */
    if (c->state == CONN_STREAM)
        stream_drained(c->exchange);
    if (c->state == CONN_STREAM && c->exchange->upgraded && c->in.n > 0)
        input_upgraded(c, S(""));
    if (c->state == CONN_CLOSED)
        return;
    bool idle = c->state == CONN_HEAD && !c->again_posted;
    if (idle && (c->eof || (c->shard->draining && c->in.n == 0))) {
        conn_close(c);
        return;
    }
    adjust_reading(c);
    renew_deadline(c);
}

static void http1_turn(struct conn *c, str bytes)
{
    size_t used = 0;
    c->turning = true;
    for (u32 step = 0; c->state != CONN_CLOSED; step++) {
        c->corked = used < bytes.n;
        if (c->state == CONN_FLUSH)
            after_answer(c);
        if (!reads_requests(c) || used == bytes.n)
            break;
        if (step == TURN_STEPS) {
            conn_again(c);
            break;
        }
        str rest = { bytes.p + used, bytes.n - used };
        size_t n = c->state == CONN_HEAD ? take_head(c, rest) : take_body(c, rest);
        used += n;
        if (n == 0)
            break;
    }
    c->corked = c->turning = false;
    keep_rest(c, bytes, used);
    settle(c);
}

/* --- deadlines --------------------------------------------------------------------------------------------------- */

static i64 body_due(const struct conn *c)
{
    const struct http_stream *x = c->exchange;
    i64 size = x->h1.chunked ? (i64)x->body_raw : (i64)x->announced;
    return c->started_us + limits_of(c)->body_us + size * SECOND_US / (i64)(32 * KIB);
}

static void renew_deadline(struct conn *c)
{
    if (c->state == CONN_HEAD)
        conn_deadline(c,
                      c->started_us != 0 ? c->started_us + limits_of(c)->header_us : now_of(c) + limits_of(c)->idle_us);
    else if (c->state == CONN_BODY)
        conn_deadline(c, body_due(c));
    else if (c->state == CONN_BUSY && c->eof)
        conn_deadline(c, now_of(c) + HALF_CLOSED_US);
    else if (c->state == CONN_BUSY || (c->state == CONN_STREAM && conn_unsent(c) == 0))
        conn_deadline(c, INT64_MAX); /* the handler's own time */
    /* Else bytes are stuck and watched from where they got stuck; LINGER is watched from its start. */
}

static bool peer_is_gone(const struct conn *c)
{
    struct tcp_info info;
    socklen_t n = sizeof info;
    uv_os_fd_t fd;
    return uv_fileno((const uv_handle_t *)&c->tcp, &fd) == 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 &&
           info.tcpi_state == TCP_CLOSE;
}

/* A client that has closed looks like one that only sends no more, until something is sent to it: then its kernel answers by a reset. An interim
 * answer is something that every client of HTTP/1.1 must take (RFC 9110 15.2). */
static void look_for_client(struct conn *c)
{
    if (peer_is_gone(c)) {
        conn_close(c);
        return;
    }
    if (!c->asked && !c->exchange->http10)
        conn_send(c, &go_on, 1);
    c->asked = true;
    conn_flush(c);
    if (c->state == CONN_BUSY)
        conn_deadline(c, now_of(c) + HALF_CLOSED_US);
}

static void http1_overdue(struct conn *c)
{
    bool writes = c->state == CONN_STREAM || c->state == CONN_FLUSH;
    if (writes && conn_stall_renewed(c))
        return;
    if (c->state == CONN_BUSY)
        look_for_client(c);
    else if (c->state == CONN_BODY || (c->state == CONN_HEAD && c->started_us != 0))
        http1_refuse(c, REFUSE_TIMEOUT);
    else
        conn_close(c);
}

/* --- what the connection tells ----------------------------------------------------------------------------------- */

static void input_later(struct conn *c, str bytes)
{
    buf_put(&c->in, bytes.p, bytes.n);
    if (c->in.fail != OK)
        conn_close(c);
    else if (reads_requests(c))
        http1_turn(c, (str){ c->in.p, c->in.n });
    else
        adjust_reading(c);
}

static void input_to_stream(struct conn *c, str bytes)
{
    if (c->exchange->upgraded) {
        input_upgraded(c, bytes);
        return;
    }
    c->exchange->rq.keep_alive = false; /* what it sent is lost, so nothing behind it can be trusted */
    c->discarded += bytes.n;
    if (c->discarded > STREAM_EXTRA_MAX)
        conn_close(c);
}

static void change_to_http2(struct conn *c, str bytes)
{
    struct buf first = c->in;
    c->in = (struct buf){ 0 };
    http2_open(c);
    if (c->state == CONN_SESSION)
        c->speaks->input(c, bytes);
    buf_free(&first);
}

/* The first bytes tell whether the client knows that we speak HTTP/2 (prior knowledge, RFC 9113 3.3). Half of its preface waits for the rest. */
static bool leaves_http1(struct conn *c, str bytes)
{
    size_t before = c->in.n;
    if (before > 0 || http2_preface(bytes) == PREFACE_MAYBE) {
        buf_put(&c->in, bytes.p, bytes.n);
        bytes = buf_view(&c->in);
    }
    enum preface preface = c->in.fail == OK ? http2_preface(bytes) : PREFACE_NO;
    c->fresh = preface == PREFACE_MAYBE;
    if (preface == PREFACE_YES) {
        change_to_http2(c, bytes);
    } else if (preface == PREFACE_MAYBE) {
        c->started_us = c->started_us != 0 ? c->started_us : now_of(c);
        renew_deadline(c);
    } else {
        c->in.n = before; /* the caller has the rest */
    }
    return preface != PREFACE_NO;
}

static void http1_input(struct conn *c, str bytes)
{
    if (c->fresh && leaves_http1(c, bytes))
        return;
    if (c->state == CONN_STREAM)
        input_to_stream(c, bytes);
    else if (c->in.n > 0 || !reads_requests(c))
        input_later(c, bytes);
    else
        http1_turn(c, bytes);
}

/* A client may shut its side down and still wait for the answer, so a request in work is finished. A stream is not: this is
 * the only way to notice that nobody listens. */
static void http1_input_end(struct conn *c)
{
    bool waits_for_us = c->state == CONN_BUSY || c->state == CONN_FLUSH || c->again_posted;
    if (!waits_for_us)
        conn_close(c);
    else if (c->state == CONN_BUSY)
        conn_deadline(c, now_of(c) + HALF_CLOSED_US);
}

static void http1_written(struct conn *c)
{
    if (c->state == CONN_FLUSH)
        http1_turn(c, (str){ c->in.p, c->in.n });
    else if (c->state == CONN_STREAM && conn_unsent(c) == 0)
        conn_deadline(c, INT64_MAX);
    if (c->state == CONN_STREAM)
        stream_drained(c->exchange);
}

static void http1_again(struct conn *c)
{
    http1_turn(c, (str){ c->in.p, c->in.n });
}

static void http1_drain(struct conn *c)
{
    if (c->state == CONN_STREAM)
        stream_goodbye(c->exchange);
    else if (c->state == CONN_HEAD && c->started_us == 0 && c->in.n == 0)
        conn_close(c);
}

static void http1_leave(struct conn *c)
{
    struct http_stream *x = c->exchange;
    c->exchange = NULL;
    if (x != NULL)
        exchange_leave(x);
}

const struct protocol protocol_http1 = {
    .input = http1_input,
    .input_end = http1_input_end,
    .written = http1_written,
    .again = http1_again,
    .overdue = http1_overdue,
    .drain = http1_drain,
    .leave = http1_leave,
    .reply = http1_reply,
    .drop = http1_drop,
    .begin = http1_begin,
    .write = http1_write,
    .end = http1_end,
    .cut = http1_drop,
    .unsent = http1_unsent,
};
