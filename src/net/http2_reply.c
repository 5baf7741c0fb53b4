/* http2_reply.c - answers as frames: fields, and a body that nghttp2 takes as the windows allow.
 *
 * A short body is copied at once, so the request's arena does not wait for a slow reader. A long one stays on it: a connection may leave a hundred
 * answers unread, and what arenas hold is counted (WEIR_MEMORY_MAX). */
#include "net/http2.h"

#include <stdio.h>
#include <string.h>

/* --- fields ------------------------------------------------------------------------------------------------------ */

struct fields {
    nghttp2_nv list[H2_FIELDS_MAX];
    size_t n;
    char status[8], length[24];
};

/* Beyond the room a field is left out, as one is that may not be sent. Names become lower case in nghttp2's copy. */
static void add(struct fields *f, str name, str value, u8 flags)
{
    if (f->n < H2_FIELDS_MAX)
        f->list[f->n++] = (nghttp2_nv){ .name = (u8 *)(uintptr_t)name.p,
                                        .value = (u8 *)(uintptr_t)(value.p != NULL ? value.p : ""),
                                        .namelen = name.n,
                                        .valuelen = value.n,
                                        .flags = flags };
}

/* What speaks of the connection has no place here (RFC 9113 8.2.2). */
static bool may_be_sent(const struct pair *h)
{
    static const char *const hop[] = { "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade" };
    for (size_t i = 0; i < COUNT(hop); i++)
        if (str_eq_nocase(h->name, str_of(hop[i])))
            return false;
    return http_field_ok(h->name, h->value);
}

/* Another one in every answer: to remember it for the next would only push better ones out of the table. */
static u8 flags_of(str name)
{
    bool unique = str_eq_nocase(name, S("x-request-id")) || str_eq_nocase(name, S("traceparent"));
    return unique ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
}

/* length < 0: unknown. */
static void fields_make(struct fields *f, struct shard *s, int status, const struct pair *headers, size_t count,
                        i64 length)
{
    str date = date_line(s);
    f->n = 0;
    int n = snprintf(f->status, sizeof f->status, "%d", status);
    add(f, S(":status"), (str){ f->status, (size_t)n }, NGHTTP2_NV_FLAG_NONE);
    for (size_t i = 0; i < count; i++)
        if (may_be_sent(&headers[i]))
            add(f, headers[i].name, headers[i].value, flags_of(headers[i].name));
    if (length >= 0 && status_has_body(status)) {
        n = snprintf(f->length, sizeof f->length, "%lld", (long long)length);
        add(f, S("content-length"), (str){ f->length, (size_t)n }, NGHTTP2_NV_FLAG_NONE);
    }
    if (date.n > 0)
        add(f, S("date"), str_slice(date, 6, date.n - 2), NGHTTP2_NV_FLAG_NONE);
}

/* --- bodies ------------------------------------------------------------------------------------------------------ */

size_t http2_unsent(const struct http_stream *x)
{
    return x->h2.out.n - x->h2.sent + x->h2.held.n;
}

static void take(struct http2_exchange *e, u8 *to, size_t n)
{
    if (n == 0)
        return;
    memcpy(to, e->held.n > 0 ? e->held.p : e->out.p + e->sent, n);
    if (e->held.n > 0)
        e->held = str_slice(e->held, n, e->held.n);
    else
        e->sent += n;
}

static bool wants_to_hear(const struct http_stream *x)
{
    return x->wants_drain && http2_unsent(x) <= x->shard->server->limits.stream_low_bytes;
}

static ssize_t on_wanted(nghttp2_session *frames, i32 id, u8 *to, size_t room, u32 *flags, nghttp2_data_source *from,
                         void *user)
{
    struct http2_session *h = user;
    struct http_stream *x = nghttp2_session_get_stream_user_data(frames, id);
    if (x == NULL) /* dropped, and the frame that says so waits its turn */
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    struct http2_exchange *e = &x->h2;
    size_t n = MIN(http2_unsent(x), room);
    if (n == 0 && !e->answered) {
        e->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    take(e, to, n);
    e->moved_us = now_of(h->conn);
    if (http2_unsent(x) == 0) {
        buf_free(&e->out);
        e->sent = 0;
        *flags |= e->answered ? NGHTTP2_DATA_FLAG_EOF : NGHTTP2_DATA_FLAG_NONE;
    }
    h->to_tell |= wants_to_hear(x);
    guard_data_sent(&h->guard);
    return (ssize_t)n;
}

/* A long stream whose reader never quite keeps up: what has gone makes room. */
static void put(struct http2_exchange *e, str bytes)
{
    if (e->sent > 0 && e->sent >= e->out.n / 2) {
        e->out.n -= e->sent;
        memmove(e->out.p, e->out.p + e->sent, e->out.n);
        e->sent = 0;
    }
    buf_put(&e->out, bytes.p, bytes.n);
}

static void append(struct http_stream *x, str bytes)
{
    struct http2_exchange *e = &x->h2;
    bool waited = http2_unsent(x) > 0;
    put(e, bytes);
    if (!waited)
        e->moved_us = now_of(x->conn);
    if (e->out.fail != OK)
        http2_cut(x, NGHTTP2_INTERNAL_ERROR);
}

/* More has come, or the end. */
static void go_on(struct http_stream *x)
{
    if (x->h2.deferred && nghttp2_session_resume_data(x->conn->session->frames, x->h2.id) != 0)
        conn_close(x->conn);
    x->h2.deferred = false;
    http2_wake(x->conn);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static void submit(struct http_stream *x, const struct fields *f, bool body)
{
    nghttp2_data_provider from = { .read_callback = on_wanted };
    if (nghttp2_submit_response(x->conn->session->frames, x->h2.id, f->list, f->n, body ? &from : NULL) != 0)
        http2_cut(x, NGHTTP2_INTERNAL_ERROR);
}

/* The handler is through: its memory goes now, the rest of the answer as the client takes it. */
static void let_go(struct http_stream *x)
{
    x->h2.answered = true;
    if (x->h2.open) {
        if (x->h2.held.n == 0)
            arena_rewind(x->rq.arena, x->mark);
        go_on(x);
    } else {
        http2_detach(x);
        exchange_free(x);
    }
}

/* ours: the body lies on the request's arena. */
static void answer(struct http_stream *x, int status, const struct pair *headers, size_t count, str body, bool ours)
{
    struct fields f;
    bool bare = x->rq.method == HEAD || !status_has_body(status) || body.n == 0;
    x->h2.moved_us = now_of(x->conn);
    if (x->h2.open && !bare && ours && body.n > H2_COPY_MAX)
        x->h2.held = body;
    else if (x->h2.open && !bare)
        append(x, body);
    if (x->h2.open) {
        fields_make(&f, x->shard, status, headers, count, (i64)body.n);
        submit(x, &f, !bare);
    }
    let_go(x);
}

void http2_reply(struct http_stream *x, int status, const struct pair *headers, size_t count, str body)
{
    answer(x, status, headers, count, body, true);
}

void http2_send_refusal(struct http_stream *x, int status, const struct http_refusal *said)
{
    answer(x, status, said->headers, said->header_count, said->body, false);
}

void http2_drop(struct http_stream *x)
{
    http2_cut(x, NGHTTP2_INTERNAL_ERROR);
    http2_detach(x);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

/* The client may have left while the handler thought: then `closed` follows in a later turn. */
void http2_begin(struct http_stream *x, int status, const struct pair *headers, size_t count)
{
    struct fields f;
    x->conn->session->to_tell |= !x->h2.open;
    if (x->h2.open) {
        fields_make(&f, x->shard, status, headers, count, -1);
        submit(x, &f, x->rq.method != HEAD);
    }
    http2_wake(x->conn);
}

void http2_write(struct http_stream *x, str bytes)
{
    if (!x->h2.open)
        return;
    append(x, bytes);
    go_on(x);
}

void http2_end(struct http_stream *x)
{
    let_go(x);
}

void http2_cut_slow(struct http_stream *x)
{
    http2_cut(x, NGHTTP2_CANCEL);
}

/* --- what has been sent, and what has ended ---------------------------------------------------------------------- */

static int on_sent(nghttp2_session *frames, const nghttp2_frame *frame, void *user)
{
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR)
        http2_charge(user, GUARD_RESET);
    return 0;
}

/* The stream has ended, well or not. A request that is still in work counts on, until its handler is through with it. */
static int on_stream_close(nghttp2_session *frames, i32 id, u32 error, void *user)
{
    struct http2_session *h = user;
    struct http_stream *x = nghttp2_session_get_stream_user_data(frames, id);
    if (x == NULL)
        return 0;
    if (x->h2.answered || !x->delivered) {
        http2_detach(x);
        exchange_free(x);
        return 0;
    }
    x->h2.open = false;
    buf_free(&x->h2.out);
    x->h2.sent = 0;
    h->to_tell |= x->streaming;
    return 0;
}

void http2_set_reply_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
}
