/* reply.c - answers: the head, whole bodies, streams.
 *
 * A body is written straight from where it stands; only what the socket does not take at once is copied, so the request's
 * arena never has to wait for a slow reader. */
#include "net/conn.h"

#include "base/clock.h"
#include "codec/time.h"

#include <stdio.h>
#include <string.h>

static const char *const reasons[] = {
    [100] = "Continue",
    [200] = "OK",
    [201] = "Created",
    [202] = "Accepted",
    [204] = "No Content",
    [206] = "Partial Content",
    [207] = "Multi-Status",
    [301] = "Moved Permanently",
    [302] = "Found",
    [303] = "See Other",
    [304] = "Not Modified",
    [307] = "Temporary Redirect",
    [308] = "Permanent Redirect",
    [400] = "Bad Request",
    [401] = "Unauthorized",
    [402] = "Payment Required",
    [403] = "Forbidden",
    [404] = "Not Found",
    [405] = "Method Not Allowed",
    [406] = "Not Acceptable",
    [408] = "Request Timeout",
    [409] = "Conflict",
    [410] = "Gone",
    [411] = "Length Required",
    [412] = "Precondition Failed",
    [413] = "Content Too Large",
    [414] = "URI Too Long",
    [415] = "Unsupported Media Type",
    [416] = "Range Not Satisfiable",
    [417] = "Expectation Failed",
    [421] = "Misdirected Request",
    [422] = "Unprocessable Content",
    [423] = "Locked",
    [425] = "Too Early",
    [426] = "Upgrade Required",
    [428] = "Precondition Required",
    [429] = "Too Many Requests",
    [431] = "Request Header Fields Too Large",
    [500] = "Internal Server Error",
    [501] = "Not Implemented",
    [502] = "Bad Gateway",
    [503] = "Service Unavailable",
    [504] = "Gateway Timeout",
    [505] = "HTTP Version Not Supported",
    [507] = "Insufficient Storage",
};

const char *http_reason(int status)
{
    bool known = status >= 0 && (size_t)status < COUNT(reasons) && reasons[status] != NULL;
    return known ? reasons[status] : "Unknown";
}

const char *http_method_name(enum http_method m)
{
    static const char *const names[HTTP_METHODS] = {
        [GET] = "GET",     [HEAD] = "HEAD",     [POST] = "POST",       [PUT] = "PUT",
        [PATCH] = "PATCH", [DELETE] = "DELETE", [OPTIONS] = "OPTIONS", [HTTP_OTHER] = "OTHER",
    };
    return names[m];
}

str http_header(const struct http_request *rq, str name)
{
    for (u32 i = 0; i < rq->header_count; i++)
        if (str_eq(rq->headers[i].name, name))
            return rq->headers[i].value;
    return STR_NONE;
}

u32 http_header_count(const struct http_request *rq, str name)
{
    u32 n = 0;
    for (u32 i = 0; i < rq->header_count; i++)
        n += str_eq(rq->headers[i].name, name);
    return n;
}

/* --- the head ---------------------------------------------------------------------------------------------------- */

static void put_date(struct shard *s)
{
    i64 now = loop_now_mono_us(s->loop);
    if (now >= s->date_until_us) {
        i64 wall = clock_now_us();
        struct arena *a = arena_new(KIB);
        str text = a != NULL ? time_http(a, wall) : STR_NONE;
        s->date_n = text.p != NULL ? (u32)snprintf(s->date, sizeof s->date, "date: %.*s\r\n", STR_FMT(text)) : 0;
        s->date_until_us = now + SECOND_US - wall % SECOND_US;
        arena_free(a);
    }
    buf_put(&s->head, s->date, s->date_n);
}

/* A name or value made from input must not end its line, nor become another field. Leaving the field out is the safe half of the answer; a handler that lets
 * such bytes come this far has a bug that its own tests should show. */
static bool field_is_safe(const struct pair *h)
{
    return http_field_ok(h->name, h->value);
}

static void put_field(struct buf *b, str name, str value)
{
    if (!buf_room(b, name.n + value.n + 4))
        return;
    char *p = b->p + b->n;
    memcpy(p, name.p, name.n);
    p += name.n;
    memcpy(p, ": ", 2);
    memcpy(p + 2, value.p, value.n);
    memcpy(p + 2 + value.n, "\r\n", 2);
    b->n += name.n + value.n + 4;
}

static void put_status(struct buf *b, int status)
{
    BUF_LIT(b, "HTTP/1.1 ");
    buf_i64(b, status);
    buf_char(b, ' ');
    buf_str(b, str_of(http_reason(status)));
    BUF_LIT(b, "\r\n");
}

static bool has_length(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

static void put_connection(struct buf *b, const struct http_stream *x, bool keep)
{
    if (!keep)
        BUF_LIT(b, "connection: close\r\n");
    else if (x != NULL && x->http10)
        BUF_LIT(b, "connection: keep-alive\r\n");
}

void reply_head(struct shard *s, const struct http_stream *x, int status, const struct pair *headers, size_t count,
                enum reply_framing framing, size_t length, bool keep)
{
    struct buf *b = &s->head;
    if (b->fail != OK || b->cap > 4 * READ_BYTES)
        buf_free(b); /* also forgets that memory was short once */
    b->n = 0;
    put_status(b, status);
    for (size_t i = 0; i < count; i++)
        if (headers[i].value.n == 0 || field_is_safe(&headers[i]))
            put_field(b, headers[i].name, headers[i].value.p != NULL ? headers[i].value : S(""));
    if (framing == FRAME_LENGTH && has_length(status)) {
        BUF_LIT(b, "content-length: ");
        buf_i64(b, (i64)length);
        BUF_LIT(b, "\r\n");
    } else if (framing == FRAME_CHUNKED) {
        BUF_LIT(b, "transfer-encoding: chunked\r\n");
    }
    put_date(s);
    put_connection(b, x, keep);
    BUF_LIT(b, "\r\n");
}

/* --- whole answers ----------------------------------------------------------------------------------------------- */

/* Sends the shard's head and perhaps a body. */
static void send_head(struct conn *c, str body)
{
    const struct buf *head = &c->shard->head;
    uv_buf_t parts[] = { uv_buf_init(head->p, (unsigned)head->n), uv_buf_init((char *)body.p, (unsigned)body.n) };
    if (head->fail == OK)
        conn_send(c, parts, body.n > 0 ? 2 : 1);
    else
        conn_close(c);
}

void http_reply(struct http_request *rq, int status, const struct pair *headers, size_t count, str body)
{
    struct http_stream *x = rq->stream;
    struct conn *c = x->conn;
    assert(loop_is_current(rq->loop) && x->delivered && !x->streaming);
    bool keep = rq->keep_alive && !x->shard->draining;
    if (c != NULL) {
        reply_head(x->shard, x, status, headers, count, FRAME_LENGTH, body.n, keep);
        send_head(c, rq->method == HEAD || !has_length(status) ? STR_NONE : body);
    }
    exchange_free(x);
    if (c != NULL)
        conn_answered(c, keep);
}

void http_drop(struct http_request *rq)
{
    struct http_stream *x = rq->stream;
    assert(loop_is_current(rq->loop) && x->delivered);
    if (x->conn != NULL)
        conn_close(x->conn);
    exchange_free(x);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

static void on_late(struct message *m)
{
    struct http_stream *x = CONTAINER(m, struct http_stream, late);
    x->late_posted = false;
    if (x->ended)
        exchange_free(x);
    else
        stream_closed(x);
}

/* Not from http_stream_begin itself: the handler is not ready for its own end while it is still beginning. */
static void post_late(struct http_stream *x)
{
    x->late_posted = true;
    x->late.run = on_late;
    loop_post(x->rq.loop, &x->late);
}

void http_stream_begin(struct http_request *rq, int status, const struct pair *headers, size_t count,
                       const struct http_stream_events *events)
{
    struct http_stream *x = rq->stream;
    struct conn *c = x->conn;
    assert(loop_is_current(rq->loop) && x->delivered && !x->streaming);
    x->streaming = true;
    x->events = *events;
    x->answer_chunked = !x->http10;
    rq->keep_alive &= x->answer_chunked;
    if (c == NULL)
        post_late(x);
    if (c == NULL || c->state == CONN_CLOSED)
        return; /* `closed` follows */
    bool keep = rq->keep_alive && !x->shard->draining;
    c->state = CONN_STREAM;
    c->discarded = 0;
    reply_head(x->shard, x, status, headers, count, x->answer_chunked ? FRAME_CHUNKED : FRAME_CLOSE, 0, keep);
    send_head(c, STR_NONE);
}

static void send_chunk(struct http_stream *x, str bytes)
{
    char size[24];
    int n = snprintf(size, sizeof size, "%zx\r\n", bytes.n);
    uv_buf_t parts[] = {
        uv_buf_init(size, (unsigned)n),
        uv_buf_init((char *)bytes.p, (unsigned)bytes.n),
        uv_buf_init((char *)"\r\n", 2),
    };
    if (x->answer_chunked)
        conn_send(x->conn, parts, 3);
    else
        conn_send(x->conn, &parts[1], 1);
}

bool http_stream_write(struct http_request *rq, str bytes)
{
    struct http_stream *x = rq->stream;
    struct conn *c = x->conn;
    const struct http_limits *limits = &x->shard->server->limits;
    assert(loop_is_current(rq->loop) && x->streaming);
    if (c == NULL || c->state != CONN_STREAM || x->told_closed || rq->method == HEAD)
        return true;
    if (conn_unsent(c) > STREAM_HARD_FACTOR * limits->stream_high_bytes) {
        conn_close(c);
        return false;
    }
    if (bytes.n > 0) /* an empty chunk would end the answer */
        send_chunk(x, bytes);
    x->wants_drain = conn_unsent(c) >= limits->stream_high_bytes;
    return !x->wants_drain;
}

void http_stream_end(struct http_request *rq)
{
    struct http_stream *x = rq->stream;
    struct conn *c = x->conn;
    assert(loop_is_current(rq->loop) && x->streaming);
    bool keep = rq->keep_alive && !x->shard->draining;
    uv_buf_t last = uv_buf_init((char *)"0\r\n\r\n", 5);
    if (c != NULL && x->answer_chunked && rq->method != HEAD)
        conn_send(c, &last, 1);
    if (x->late_posted)
        x->ended = true;
    else
        exchange_free(x);
    if (c != NULL)
        conn_answered(c, keep);
}

void stream_closed(struct http_stream *x)
{
    if (x->told_closed)
        return;
    x->told_closed = true;
    if (x->events.closed != NULL)
        x->events.closed(x->events.ctx);
}

void stream_drained(struct http_stream *x)
{
    if (!x->wants_drain || x->told_closed || conn_unsent(x->conn) > x->shard->server->limits.stream_low_bytes)
        return;
    x->wants_drain = false;
    if (x->events.drain != NULL)
        x->events.drain(x->events.ctx);
}
