/* http2.c - see http2.h: the session's turns, deadlines and end.
 *
 * Two rules keep it free of recursion. Answers only queue: frames are made in a turn's end, or in a turn of its own (http2_wake). And handlers
 * are told of lost or drained streams between nghttp2's calls, never from inside of one. */
#include "net/http2.h"

#include "base/log.h"

#include <string.h>

static const char magic[] = NGHTTP2_CLIENT_MAGIC;

enum preface http2_preface(str bytes)
{
    size_t n = MIN(bytes.n, (size_t)NGHTTP2_CLIENT_MAGIC_LEN);
    if (memcmp(bytes.p, magic, n) != 0)
        return PREFACE_NO;
    return n == NGHTTP2_CLIENT_MAGIC_LEN ? PREFACE_YES : PREFACE_MAYBE;
}

/* --- once for a server ------------------------------------------------------------------------------------------- */

err http2_shared_new(struct http2_shared *out)
{
    struct http2_shared s = { 0 };
    if (nghttp2_session_callbacks_new(&s.callbacks) == 0 && nghttp2_option_new(&s.option) == 0) {
        http2_set_request_callbacks(s.callbacks);
        http2_set_reply_callbacks(s.callbacks);
        *out = s;
        return OK;
    }
    http2_shared_free(&s);
    return ERR_MEMORY;
}

void http2_shared_free(struct http2_shared *s)
{
    if (s == NULL)
        return;
    nghttp2_session_callbacks_del(s->callbacks);
    nghttp2_option_del(s->option);
}

/* --- opening ----------------------------------------------------------------------------------------------------- */

static void session_free(struct http2_session *h)
{
    nghttp2_session_del(h->frames);
    arena_free(h->arena);
}

static err say_settings(struct http2_session *h)
{
    const struct http_limits *l = limits_of(h->conn);
    const nghttp2_settings_entry list[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, H2_STREAMS_MAX },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (u32)(l->header_bytes + l->target_bytes) },
        { NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 }, /* also: no tree of closed streams to feed */
    };
    bool fine = nghttp2_submit_settings(h->frames, NGHTTP2_FLAG_NONE, list, COUNT(list)) == 0 &&
                nghttp2_session_set_local_window_size(h->frames, NGHTTP2_FLAG_NONE, 0, H2_SESSION_WINDOW) == 0;
    return fine ? OK : ERR_MEMORY;
}

static struct http2_session *session_new(struct conn *c)
{
    const struct http2_shared *shared = c->shard->server->http2;
    struct arena *a = arena_new(sizeof(struct http2_session) + 64);
    struct http2_session *h = a != NULL ? NEW(a, struct http2_session) : NULL;
    if (h == NULL || nghttp2_session_server_new2(&h->frames, shared->callbacks, h, shared->option) != 0) {
        arena_free(a);
        return NULL;
    }
    h->arena = a;
    h->conn = c;
    h->idle_us = now_of(c);
    if (say_settings(h) == OK)
        return h;
    session_free(h);
    return NULL;
}

void http2_open(struct conn *c)
{
    struct http2_session *h = session_new(c);
    if (h == NULL) {
        conn_close(c);
        return;
    }
    c->session = h;
    c->speaks = &protocol_http2;
    c->state = CONN_SESSION;
    http2_wake(c);
}

/* --- exchanges --------------------------------------------------------------------------------------------------- */

void http2_cut(struct http_stream *x, u32 error)
{
    struct conn *c = x->conn;
    if (x->h2.open && nghttp2_submit_rst_stream(c->session->frames, NGHTTP2_FLAG_NONE, x->h2.id, error) != 0)
        conn_close(c);
    http2_wake(c);
}

void http2_detach(struct http_stream *x)
{
    struct http2_session *h = x->conn->session;
    struct http2_exchange *e = &x->h2;
    if (e->open)
        nghttp2_session_set_stream_user_data(h->frames, e->id, NULL);
    if (e->prev != NULL)
        e->prev->h2.next = e->next;
    else
        h->first = e->next;
    if (e->next != NULL)
        e->next->h2.prev = e->prev;
    h->count--;
    h->idle_us = now_of(x->conn);
    buf_free(&e->out);
    x->conn = NULL;
}

/* --- floods ------------------------------------------------------------------------------------------------------ */

void http2_flood(struct http2_session *h, const char *what)
{
    struct conn *c = h->conn;
    if (h->calm)
        return;
    h->calm = true;
    str remote = { c->remote, c->remote_n };
    LOG(LOG_WARN, "http2.flood", LOG_STR("remote", remote), LOG_STR("what", str_of(what)));
    if (nghttp2_session_terminate_session(h->frames, NGHTTP2_ENHANCE_YOUR_CALM) != 0)
        conn_close(c);
}

void http2_charge(struct http2_session *h, enum guard_kind kind)
{
    if (!guard_take(&h->guard, kind, now_of(h->conn)))
        http2_flood(h, guard_name(kind));
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

/* Puts frames together, about CORK_MAX of them; whether there were any. */
static bool gather(struct conn *c, struct buf *b)
{
    const u8 *p;
    ssize_t n = 0;
    while (b->n < CORK_MAX && (n = nghttp2_session_mem_send(c->session->frames, &p)) > 0)
        buf_put(b, p, (size_t)n);
    if (n < 0 || b->fail != OK)
        conn_close(c);
    return b->n > 0;
}

static void pump(struct conn *c)
{
    struct buf *b = shard_scratch(c->shard);
    while (c->state == CONN_SESSION && conn_unsent(c) < H2_OUT_MAX && gather(c, b)) {
        uv_buf_t part = uv_buf_init(b->p, (unsigned)b->n);
        conn_send(c, &part, 1);
        b = shard_scratch(c->shard);
    }
}

/* A handler may end its own exchange when it hears, no other one. Whether anybody had to hear. */
static bool tell(struct http2_session *h)
{
    if (!h->to_tell)
        return false;
    h->to_tell = false;
    for (struct http_stream *x = h->first, *next; x != NULL; x = next) {
        next = x->h2.next;
        if (!x->streaming || x->h2.answered)
            continue;
        if (x->h2.open)
            stream_drained(x);
        else
            stream_closed(x);
    }
    return true;
}

/* --- turns ------------------------------------------------------------------------------------------------------- */

static i64 due_of(const struct conn *c)
{
    const struct http2_session *h = c->session;
    i64 due = h->count == 0 && h->warned_us == 0 ? h->idle_us + limits_of(c)->idle_us : INT64_MAX;
    for (const struct http_stream *x = h->first; x != NULL; x = x->h2.next)
        due = MIN(due, http2_due(x));
    if (h->warned_us != 0 && !h->farewell)
        due = MIN(due, h->warned_us);
    return c->writing ? MIN(due, c->stall_due_us) : due;
}

/* nghttp2 wants nothing more, or we have said goodbye and all that was under way is done. */
static bool is_over(const struct http2_session *h)
{
    bool idle = nghttp2_session_want_write(h->frames) == 0;
    return idle && (nghttp2_session_want_read(h->frames) == 0 || (h->farewell && h->count == 0));
}

static void settle(struct conn *c)
{
    struct http2_session *h = c->session;
    do
        pump(c);
    while (tell(h));
    h->over = h->over || is_over(h);
    c->closing = h->over; /* what comes now is read and forgotten */
    c->turning = false;
    if (c->state != CONN_SESSION)
        return;
    if (h->over && conn_unsent(c) == 0) {
        conn_linger(c);
        return;
    }
    conn_read(c, conn_unsent(c) < H2_OUT_MAX);
    conn_deadline(c, due_of(c));
}

void http2_wake(struct conn *c)
{
    if (!c->turning && c->state == CONN_SESSION)
        conn_again(c);
}

/* The bytes make no sense any more: say why, and close. */
static void give_up(struct http2_session *h, int why)
{
    bool lost = why == NGHTTP2_ERR_NOMEM || why == NGHTTP2_ERR_CALLBACK_FAILURE;
    if (why == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        lost = nghttp2_session_terminate_session(h->frames, NGHTTP2_PROTOCOL_ERROR) != 0;
    else if (!lost)
        http2_flood(h, nghttp2_strerror(why));
    if (lost)
        conn_close(h->conn);
    h->calm = true;
}

static void http2_input(struct conn *c, str bytes)
{
    struct http2_session *h = c->session;
    c->turning = true;
    ssize_t n = h->calm ? 0 : nghttp2_session_mem_recv(h->frames, (const u8 *)bytes.p, bytes.n);
    if (n < 0)
        give_up(h, (int)n);
    settle(c);
}

/* There is no half-closing here: who closes wants no answer. */
static void http2_input_end(struct conn *c)
{
    conn_close(c);
}

static void http2_turn(struct conn *c)
{
    c->turning = true;
    settle(c);
}

/* --- deadlines and the end --------------------------------------------------------------------------------------- */

static void say_goodbye(struct http2_session *h)
{
    i32 last = nghttp2_session_get_last_proc_stream_id(h->frames);
    if (!h->farewell && nghttp2_submit_goaway(h->frames, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0) != 0)
        conn_close(h->conn);
    h->farewell = true;
}

/* A GOAWAY that refuses nothing, and a PING (RFC 9113 6.8): whatever the client had sent before it knew has come when it answers, and is served. Only then the
 * last GOAWAY says where we stopped. */
static void warn(struct http2_session *h)
{
    if (h->farewell || h->warned_us != 0)
        return;
    h->warned_us = now_of(h->conn) + MIN(H2_WARNED_US, limits_of(h->conn)->idle_us);
    if (nghttp2_submit_shutdown_notice(h->frames) != 0 || nghttp2_submit_ping(h->frames, NGHTTP2_FLAG_NONE, NULL) != 0)
        say_goodbye(h);
}

void http2_answered(struct http2_session *h)
{
    if (h->warned_us != 0)
        say_goodbye(h);
}

static void session_overdue(struct conn *c)
{
    struct http2_session *h = c->session;
    i64 now = now_of(c);
    if (c->writing && c->stall_due_us <= now && !conn_stall_renewed(c)) {
        conn_close(c);
        return;
    }
    c->turning = true;
    for (struct http_stream *x = h->first, *next; x != NULL; x = next) {
        next = x->h2.next;
        if (http2_due(x) <= now)
            http2_overdue(x);
    }
    if (h->warned_us != 0 && h->warned_us <= now)
        say_goodbye(h);
    else if (h->count == 0 && h->idle_us + limits_of(c)->idle_us <= now)
        warn(h);
    settle(c);
}

static void http2_drain(struct conn *c)
{
    struct http2_session *h = c->session;
    c->turning = true;
    warn(h);
    for (struct http_stream *x = h->first, *next; x != NULL; x = next) {
        next = x->h2.next;
        if (x->streaming && !x->h2.answered)
            stream_goodbye(x);
    }
    settle(c);
}

static void http2_leave(struct conn *c)
{
    struct http2_session *h = c->session;
    while (h->first != NULL) {
        struct http_stream *x = h->first;
        bool answered = x->h2.answered;
        x->h2.open = false;
        http2_detach(x);
        if (answered)
            exchange_free(x);
        else
            exchange_leave(x);
    }
    c->session = NULL;
    session_free(h);
}

const struct protocol protocol_http2 = {
    .input = http2_input,
    .input_end = http2_input_end,
    .written = http2_turn,
    .again = http2_turn,
    .overdue = session_overdue,
    .drain = http2_drain,
    .leave = http2_leave,
    .reply = http2_reply,
    .drop = http2_drop,
    .begin = http2_begin,
    .write = http2_write,
    .end = http2_end,
    .cut = http2_cut_slow,
    .unsent = http2_unsent,
};
