/* reply.c - answers as the handler gives them: who can still be reached is answered in what its connection speaks.
 *
 * A client that has left is not an error: the handler goes the same way to its end. */
#include "net/conn.h"

#include "base/clock.h"
#include "codec/time.h"

#include <stdio.h>

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

/* --- what every protocol says ------------------------------------------------------------------------------------ */

struct buf *shard_scratch(struct shard *s)
{
    struct buf *b = &s->scratch;
    if (b->fail != OK || b->cap > SCRATCH_MAX)
        buf_free(b); /* also forgets that memory was short once */
    b->n = 0;
    return b;
}

str date_line(struct shard *s)
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
    return (str){ s->date, s->date_n };
}

bool status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

void ask_refusal(const struct conn *c, enum refusal why, const struct http_stream *x, struct arena *a,
                 struct http_refusal *out)
{
    const struct http_handler *h = &c->shard->server->handler;
    *out = (struct http_refusal){ .request = x != NULL && x->admitted ? &x->rq : NULL,
                                  .headers = { { S("content-type"), S("application/problem+json") } },
                                  .header_count = 1,
                                  .body = S("") };
    if (h->refuse != NULL && a != NULL)
        h->refuse(h->ctx, http_refusals[why].status, http_refusals[why].code, (str){ c->remote, c->remote_n }, a, out);
    if (out->body.n == 0)
        out->header_count = 0;
}

/* --- whole answers ----------------------------------------------------------------------------------------------- */

void http_reply(struct http_request *rq, int status, const struct pair *headers, size_t count, str body)
{
    struct http_stream *x = rq->stream;
    assert(loop_is_current(rq->loop) && x->delivered && !x->streaming);
    if (x->conn != NULL)
        x->conn->speaks->reply(x, status, headers, count, body);
    else
        exchange_free(x);
}

void http_drop(struct http_request *rq)
{
    struct http_stream *x = rq->stream;
    assert(loop_is_current(rq->loop) && x->delivered);
    if (x->conn != NULL)
        x->conn->speaks->drop(x);
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
    assert(loop_is_current(rq->loop) && x->delivered && !x->streaming);
    x->streaming = true;
    x->events = *events;
    if (x->conn == NULL)
        post_late(x);
    else if (x->conn->state != CONN_CLOSED) /* else `closed` follows */
        x->conn->speaks->begin(x, status, headers, count);
}

bool http_can_upgrade(const struct http_request *rq)
{
    const struct http_stream *x = rq->stream;
    return x->conn != NULL && x->conn->speaks == &protocol_http1 && !x->http10;
}

void http_upgrade(struct http_request *rq, const struct pair *headers, size_t count,
                  const struct http_stream_events *events)
{
    rq->stream->upgraded = true;
    http_stream_begin(rq, 101, headers, count, events);
}

bool http_stream_write(struct http_request *rq, str bytes)
{
    struct http_stream *x = rq->stream;
    const struct http_limits *limits = &x->shard->server->limits;
    assert(loop_is_current(rq->loop) && x->streaming);
    if (x->conn == NULL || x->conn->state == CONN_CLOSED || x->told_closed || rq->method == HEAD)
        return true;
    const struct protocol *p = x->conn->speaks;
    if (p->unsent(x) > STREAM_HARD_FACTOR * limits->stream_high_bytes) {
        p->cut(x);
        return false;
    }
    if (bytes.n > 0)
        p->write(x, bytes);
    x->wants_drain = p->unsent(x) >= limits->stream_high_bytes;
    return !x->wants_drain;
}

void http_stream_end(struct http_request *rq)
{
    struct http_stream *x = rq->stream;
    assert(loop_is_current(rq->loop) && x->streaming);
    if (x->conn != NULL)
        x->conn->speaks->end(x);
    else if (x->late_posted)
        x->ended = true;
    else
        exchange_free(x);
}

void stream_closed(struct http_stream *x)
{
    if (x->told_closed)
        return;
    x->told_closed = true;
    if (x->events.closed != NULL)
        x->events.closed(x->events.ctx);
}

void stream_goodbye(struct http_stream *x)
{
    if (x->events.goodbye == NULL)
        stream_closed(x);
    else if (!x->told_closed)
        x->events.goodbye(x->events.ctx);
}

void stream_drained(struct http_stream *x)
{
    size_t low = x->shard->server->limits.stream_low_bytes;
    if (!x->wants_drain || x->told_closed || x->conn->speaks->unsent(x) > low)
        return;
    x->wants_drain = false;
    if (x->events.drain != NULL)
        x->events.drain(x->events.ctx);
}
