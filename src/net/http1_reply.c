/* http1_reply.c - answers as HTTP/1: the head, whole bodies, chunks.
 *
 * A body is written straight from where it stands; only what the socket does not take at once is copied, so the request's
 * arena never has to wait for a slow reader. */
#include "net/http1_conn.h"

#include <stdio.h>
#include <string.h>

enum framing { FRAME_LENGTH, FRAME_CHUNKED, FRAME_CLOSE, FRAME_UPGRADE };

/* --- the head ---------------------------------------------------------------------------------------------------- */

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

static void put_connection(struct buf *b, const struct http_stream *x, bool keep)
{
    if (!keep)
        BUF_LIT(b, "connection: close\r\n");
    else if (x != NULL && x->http10)
        BUF_LIT(b, "connection: keep-alive\r\n");
}

/* Puts the head of an answer together in the shard's scratch. x: NULL when there is no request. */
static const struct buf *make_head(struct shard *s, const struct http_stream *x, int status, const struct pair *headers,
                                   size_t count, enum framing framing, size_t length, bool keep)
{
    struct buf *b = shard_scratch(s);
    put_status(b, status);
    for (size_t i = 0; i < count; i++)
        if (headers[i].value.n == 0 || field_is_safe(&headers[i]))
            put_field(b, headers[i].name, headers[i].value.p != NULL ? headers[i].value : S(""));
    if (framing == FRAME_LENGTH && status_has_body(status)) {
        BUF_LIT(b, "content-length: ");
        buf_i64(b, (i64)length);
        BUF_LIT(b, "\r\n");
    } else if (framing == FRAME_CHUNKED) {
        BUF_LIT(b, "transfer-encoding: chunked\r\n");
    }
    buf_str(b, date_line(s));
    put_connection(b, x, keep);
    BUF_LIT(b, "\r\n");
    return b;
}

/* Sends a head and perhaps a body. */
static void send_head(struct conn *c, const struct buf *head, str body)
{
    uv_buf_t parts[] = { uv_buf_init(head->p, (unsigned)head->n),
                         uv_buf_init((char *)(uintptr_t)body.p, (unsigned)body.n) };
    if (head->fail == OK)
        conn_send(c, parts, body.n > 0 ? 2 : 1);
    else
        conn_close(c);
}

static bool keeps(const struct http_stream *x)
{
    return x->rq.keep_alive && !x->shard->draining;
}

/* --- whole answers ----------------------------------------------------------------------------------------------- */

void http1_send_refusal(struct conn *c, int status, const struct http_refusal *said)
{
    send_head(c,
              make_head(c->shard, NULL, status, said->headers, said->header_count, FRAME_LENGTH, said->body.n, false),
              c->is_head ? STR_NONE : said->body);
}

void http1_reply(struct http_stream *x, int status, const struct pair *headers, size_t count, str body)
{
    struct conn *c = x->conn;
    bool keep = keeps(x), bare = x->rq.method == HEAD || !status_has_body(status);
    send_head(c, make_head(x->shard, x, status, headers, count, FRAME_LENGTH, body.n, keep), bare ? STR_NONE : body);
    exchange_free(x);
    http1_answered(c, keep);
}

void http1_drop(struct http_stream *x)
{
    conn_close(x->conn);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

void http1_begin(struct http_stream *x, int status, const struct pair *headers, size_t count)
{
    struct conn *c = x->conn;
    x->h1.answer_chunked = !x->http10 && !x->upgraded;
    x->rq.keep_alive &= x->h1.answer_chunked;
    c->state = CONN_STREAM;
    c->discarded = 0;
    enum framing framing = x->upgraded ? FRAME_UPGRADE : x->h1.answer_chunked ? FRAME_CHUNKED : FRAME_CLOSE;
    bool keep = x->upgraded || keeps(x); /* what a 101 says of the connection is among its headers */
    send_head(c, make_head(x->shard, x, status, headers, count, framing, 0, keep), STR_NONE);
}

/* Never without bytes: an empty chunk would end the answer. */
void http1_write(struct http_stream *x, str bytes)
{
    char size[24];
    int n = snprintf(size, sizeof size, "%zx\r\n", bytes.n);
    uv_buf_t parts[] = {
        uv_buf_init(size, (unsigned)n),
        uv_buf_init((char *)(uintptr_t)bytes.p, (unsigned)bytes.n),
        uv_buf_init((char *)(uintptr_t) "\r\n", 2),
    };
    if (x->h1.answer_chunked)
        conn_send(x->conn, parts, 3);
    else
        conn_send(x->conn, &parts[1], 1);
}

void http1_end(struct http_stream *x)
{
    struct conn *c = x->conn;
    bool keep = keeps(x);
    uv_buf_t last = uv_buf_init((char *)(uintptr_t) "0\r\n\r\n", 5);
    if (x->h1.answer_chunked && x->rq.method != HEAD)
        conn_send(c, &last, 1);
    exchange_free(x);
    http1_answered(c, keep);
}

size_t http1_unsent(const struct http_stream *x)
{
    return conn_unsent(x->conn);
}
