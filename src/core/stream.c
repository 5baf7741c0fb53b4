/* stream.c - see stream.h. The stream lives on its request's arena and ends it.
 *
 * Whoever calls stream_event may do so several times in a row, so a stream that is given up there only turns silent;
 * `closed` follows from a timer in a later turn of the loop, never from inside of the caller. */
#include "core/stream.h"

#include "core/auth.h"
#include "core/pipeline.h"
#include "net/websocket.h"

#include <string.h>

/* What is kept while a client is slow. It is handed to the server at once, so it stays well below what the server
 * bears. */
enum {
    WAITING_BYTES = 512 << 10,
    SILENT_MAX = 3, /* pings without any sign of life from a WebSocket's client */
};
#define HEARTBEAT_US (15 * SECOND_US)

struct stream {
    struct req *rq;
    void (*closed)(void *ctx);
    void *ctx;
    struct buf waiting; /* while the server asked to wait; not on the arena: it comes and goes */
    struct loop_timer timer;
    struct websocket *socket; /* NULL: server-sent events */
    u32 silent;
    size_t bytes;
    bool full, given_up;
};

static void finish(struct stream *s)
{
    struct request_core *core = s->rq->core;
    struct http_request *http = s->rq->http;
    loop_timer_stop(&s->timer);
    buf_free(&s->waiting);
    reply_account(core, s->socket != NULL ? 101 : 200, s->bytes);
    core->answered = true; /* and accounted for */
    http_stream_end(http); /* the arena goes, and `s` with it */
}

static void close_now(struct stream *s)
{
    s->closed(s->ctx);
    finish(s);
}

/* Says why, as far as the client can still be reached: server-sent events know no reasons. */
static void close_because(struct stream *s, enum websocket_code code)
{
    if (s->socket != NULL)
        websocket_close(s->socket, code);
    close_now(s);
}

static void beat(struct loop_timer *t);

static void give_up(struct stream *s)
{
    s->given_up = true;
    loop_timer_stop(&s->timer);
    if (loop_timer_start(s->rq->http->loop, &s->timer, 0, beat) != OK)
        s->full = true; /* no memory for a timer: the server ends a stalled client after write_stall_us */
}

static void put(struct stream *s, str bytes)
{
    if (s->given_up)
        return;
    if (!s->full) {
        s->bytes += bytes.n;
        s->full = !http_stream_write(s->rq->http, bytes);
        return;
    }
    buf_str(&s->waiting, bytes);
    if (s->waiting.fail != OK)
        give_up(s);
}

/* A stream must not outlive the session that opened it; the client comes back with Last-Event-ID and a new token. */
static bool may_go_on(const struct stream *s)
{
    const struct permission *need = s->rq->route->need;
    return need == &anyone || gate_still_allows(s->rq);
}

static void beat(struct loop_timer *t)
{
    struct stream *s = CONTAINER(t, struct stream, timer);
    bool silent = s->socket != NULL && ++s->silent > SILENT_MAX;
    if (s->given_up || silent) { /* nobody reads what we could say */
        close_now(s);
        return;
    }
    if (!may_go_on(s)) {
        close_because(s, WEBSOCKET_POLICY);
        return;
    }
    if (s->socket != NULL)
        websocket_ping(s->socket);
    else if (!s->full) /* a client that is behind has enough to read */
        put(s, S(":\n\n"));
    if (loop_timer_start(s->rq->http->loop, t, HEARTBEAT_US, beat) != OK)
        give_up(s);
}

static void on_drain(void *ctx)
{
    struct stream *s = ctx;
    struct buf waiting = s->waiting;
    s->full = false;
    s->waiting = (struct buf){ .max = WAITING_BYTES };
    if (waiting.n > 0)
        put(s, buf_view(&waiting));
    buf_free(&waiting);
}

static void on_closed(void *ctx)
{
    close_now(ctx);
}

/* -- WebSocket ----------------------------------------------------------------------------------------------------- */

static void on_frames(void *ctx, str bytes)
{
    put(ctx, bytes);
}

static void on_input(void *ctx, str bytes)
{
    struct stream *s = ctx;
    s->silent = 0;
    if (!websocket_input(s->socket, bytes))
        close_now(s);
}

static void on_goodbye(void *ctx)
{
    close_because(ctx, WEBSOCKET_AWAY);
}

/* A browser says with every WebSocket which page asks, and sends its cookie with any: a cookie without that line comes from no page that can be told. Sec-Fetch-Site,
 * which stands in for it elsewhere, is not sent here by all of them. */
static bool origin_may(const struct req *rq)
{
    bool by_cookie = rq->who.csrf.p != NULL;
    return headers_origin_may(rq->http) && (!by_cookie || http_header_count(rq->http, S("origin")) == 1);
}

static err begin_socket(struct stream *s)
{
    struct req *rq = s->rq;
    const char *complaint;
    struct headers h;
    str accept;
    if (!origin_may(rq))
        return problem(rq, &problem_origin, "Add the origin of the page to ALLOWED_ORIGINS");
    err e = websocket_accept(rq->http, rq->arena, &accept, &complaint);
    if (e == ERR_DECODE) {
        reply_header(rq, "Sec-WebSocket-Version", S("13"));
        return problem(rq, &problem_websocket, "%s", complaint);
    }
    TRY(e);
    TRY(websocket_new(rq->arena, on_frames, s, &s->socket));
    headers_upgrade(rq->core, S("websocket"), S("Sec-WebSocket-Accept"), accept, &h);
    struct http_stream_events events = {
        .drain = on_drain, .closed = on_closed, .goodbye = on_goodbye, .input = on_input, .ctx = s
    };
    http_upgrade(rq->http, h.list, h.n, &events);
    return OK;
}

/* Every member is there in each, so that clients need no special cases. */
static void tell_socket(struct stream *s, str id, str event, str data)
{
    struct buf b = { .max = WAITING_BYTES };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("id"));
    jw_str(&w, id);
    jw_key(&w, S("event"));
    jw_str(&w, event);
    jw_key(&w, S("data"));
    jw_raw(&w, data);
    jw_end(&w, '}');
    if (b.fail != OK || websocket_text(s->socket, buf_view(&b)) != OK)
        give_up(s);
    buf_free(&b);
}

/* -- server-sent events -------------------------------------------------------------------------------------------- */

static err begin_events(struct stream *s)
{
    struct headers h;
    headers_stream(s->rq->core, &h);
    struct http_stream_events events = { .drain = on_drain, .closed = on_closed, .ctx = s };
    http_stream_begin(s->rq->http, 200, h.list, h.n, &events);
    return OK;
}

err stream_begin(struct req *rq, void (*closed)(void *ctx), void *ctx, struct stream **out)
{
    struct stream *s = NEW(rq->arena, struct stream);
    if (s == NULL)
        return ERR_MEMORY;
    *s = (struct stream){ .rq = rq, .closed = closed, .ctx = ctx, .waiting.max = WAITING_BYTES };
    TRY(loop_timer_start(rq->http->loop, &s->timer, HEARTBEAT_US, beat));
    err e = websocket_asked(rq->http) ? begin_socket(s) : begin_events(s);
    if (e == OK)
        *out = s;
    else
        loop_timer_stop(&s->timer);
    return e;
}

/* "name: value\n"; a value that cannot stand on one line is left out. */
static void put_line(struct buf *b, const char *name, str value)
{
    if (value.n == 0 || str_find_char(value, '\n', 0) >= 0 || str_find_char(value, '\r', 0) >= 0)
        return;
    buf_f(b, "%s: ", name);
    buf_str(b, value);
    buf_char(b, '\n');
}

/* One data line per line of the text; CR, LF and CRLF all end one. */
static void put_data(struct buf *b, str data)
{
    size_t from = 0;
    for (size_t i = 0; i <= data.n; i++) {
        if (i < data.n && data.p[i] != '\n' && data.p[i] != '\r')
            continue;
        BUF_LIT(b, "data: ");
        buf_str(b, str_slice(data, from, i));
        buf_char(b, '\n');
        i += i + 1 < data.n && data.p[i] == '\r' && data.p[i + 1] == '\n';
        from = i + 1;
    }
}

static void tell_events(struct stream *s, str id, str event, str data)
{
    struct buf b = { .max = WAITING_BYTES };
    if (memchr(id.p != NULL ? id.p : "", '\0', id.n) == NULL) /* a NUL would make the client ignore the id */
        put_line(&b, "id", id);
    put_line(&b, "event", event);
    put_data(&b, data);
    buf_char(&b, '\n');
    if (b.fail == OK)
        put(s, buf_view(&b));
    else
        give_up(s);
    buf_free(&b);
}

void stream_event(struct stream *s, str id, str event, str data)
{
    if (s->given_up)
        return;
    if (s->socket != NULL)
        tell_socket(s, id, event, data);
    else
        tell_events(s, id, event, data);
}

static void end_with(struct stream *s, enum websocket_code code)
{
    if (s->socket != NULL)
        websocket_close(s->socket, code);
    if (!s->given_up && s->full && s->waiting.n > 0) {
        s->bytes += s->waiting.n; /* the server bounds what it keeps of a stream that ends */
        http_stream_write(s->rq->http, buf_view(&s->waiting));
    }
    finish(s);
}

void stream_end(struct stream *s)
{
    end_with(s, WEBSOCKET_NORMAL);
}

void stream_break(struct stream *s)
{
    end_with(s, WEBSOCKET_AGAIN);
}
