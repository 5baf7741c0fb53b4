/* http2_request.c - requests out of frames: nghttp2's callbacks on the way in.
 *
 * nghttp2 cuts the streams of requests that break HTTP/2 itself (pseudo fields, fields of connections, upper case, a wrong length); what breaks
 * the rules that HTTP/1 has to keep as well is answered as there (message.h, refusal.h). */
#include "net/http2.h"
#include "net/message.h"

#include <string.h>

enum {
    FIELDS_FIRST = 24,  /* room for header fields; it doubles */
    FIELD_OVERHEAD = 4, /* ": " and CRLF: a field counts as much as in HTTP/1 */
};

static struct http_stream *exchange_of(nghttp2_session *frames, i32 id)
{
    return nghttp2_session_get_stream_user_data(frames, id);
}

/* Whether the handler, or a refusal, has taken it over: what else the client sends is forgotten. */
static bool is_settled(const struct http_stream *x)
{
    return x->delivered || x->h2.answered;
}

void http2_refuse(struct http_stream *x, enum refusal why)
{
    struct arena *a = arena_new(REFUSAL_BYTES);
    struct http_refusal said;
    ask_refusal(x->conn, why, x, a, &said);
    http2_send_refusal(x, http_refusals[why].status, &said);
    arena_free(a);
}

/* --- the head ---------------------------------------------------------------------------------------------------- */

static void link_exchange(struct http2_session *h, struct http_stream *x, i32 id)
{
    i64 now = now_of(h->conn);
    x->h2 = (struct http2_exchange){ .id = id, .open = true, .begun_us = now, .moved_us = now, .next = h->first };
    if (h->first != NULL)
        h->first->h2.prev = x;
    h->first = x;
    h->count++;
    nghttp2_session_set_stream_user_data(h->frames, id, x);
}

static int on_begin_headers(nghttp2_session *frames, const nghttp2_frame *frame, void *user)
{
    struct http2_session *h = user;
    if (h->calm || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    bool room = h->count < H2_WORK_MAX;
    struct http_stream *x = room ? exchange_new(h->conn) : NULL;
    if (x != NULL) {
        link_exchange(h, x, frame->hd.stream_id);
        return 0;
    }
    u32 error = room ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_REFUSED_STREAM;
    return nghttp2_submit_rst_stream(frames, NGHTTP2_FLAG_NONE, frame->hd.stream_id, error);
}

static enum refusal field_room(struct http_stream *x)
{
    struct http_request *rq = &x->rq;
    if (rq->header_count < x->h2.field_room)
        return REFUSE_NONE;
    u32 room = MAX(2 * x->h2.field_room, (u32)FIELDS_FIRST);
    struct pair *list = NEW_N(rq->arena, struct pair, room);
    if (list == NULL)
        return REFUSE_MEMORY;
    if (rq->header_count > 0)
        memcpy(list, rq->headers, rq->header_count * sizeof *list);
    rq->headers = list;
    x->h2.field_room = room;
    return REFUSE_NONE;
}

static enum refusal add_field(struct http_stream *x, str name, str value)
{
    struct http_request *rq = &x->rq;
    if (rq->header_count == limits_of(x->conn)->header_count)
        return REFUSE_HEADER_SIZE;
    enum refusal r = field_room(x);
    if (r != REFUSE_NONE)
        return r;
    struct pair field = { str_dup(rq->arena, name), str_dup(rq->arena, value) };
    if (field.name.p == NULL || field.value.p == NULL)
        return REFUSE_MEMORY;
    rq->headers[rq->header_count++] = field;
    return REFUSE_NONE;
}

/* A proxy that ends TLS may well say https to a server that speaks none; schemes of other protocols are not ours. */
static enum refusal check_scheme(str scheme)
{
    return str_eq(scheme, S("https")) || str_eq(scheme, S("http")) ? REFUSE_NONE : REFUSE_TARGET;
}

/* nghttp2 has seen to it that each comes once at most, and before the others. */
static enum refusal take_pseudo(struct http_stream *x, str name, str value)
{
    struct http_request *rq = &x->rq;
    if (str_eq(name, S(":scheme")))
        return check_scheme(value);
    if (str_eq(name, S(":path")) && value.n > limits_of(x->conn)->target_bytes)
        return REFUSE_TARGET_SIZE;
    str *to = str_eq(name, S(":method")) ? &rq->method_text : str_eq(name, S(":path")) ? &rq->target : &x->h2.authority;
    str kept = str_dup(rq->arena, value);
    if (kept.p == NULL)
        return REFUSE_MEMORY;
    *to = kept;
    return REFUSE_NONE;
}

static enum refusal take_field(struct http_stream *x, str name, str value)
{
    bool pseudo = str_starts(name, S(":"));
    x->h2.head_bytes += pseudo ? 0 : name.n + value.n + FIELD_OVERHEAD;
    if (x->h2.head_bytes > limits_of(x->conn)->header_bytes)
        return REFUSE_HEADER_SIZE;
    if (text_has_control(value))
        return REFUSE_HEADER;
    return pseudo ? take_pseudo(x, name, value) : add_field(x, name, value);
}

/* What is refused is still read, since all that follows is decoded with it; but not for ever. Trailers are only counted. */
static void count_only(struct http2_session *h, struct http_stream *x, size_t bytes)
{
    x->h2.head_bytes += bytes;
    if (x->h2.head_bytes > H2_HEAD_FACTOR * limits_of(h->conn)->header_bytes)
        http2_flood(h, "header_list");
}

static int on_header(nghttp2_session *frames, const nghttp2_frame *frame, const u8 *name, size_t name_n,
                     const u8 *value, size_t value_n, u8 flags, void *user)
{
    struct http2_session *h = user;
    struct http_stream *x = exchange_of(frames, frame->hd.stream_id);
    if (h->calm) /* decoded still, but no more looked at: a bomb of references would cost a check of each */
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (x == NULL)
        return 0;
    if (x->refusal != REFUSE_NONE || x->h2.headed)
        count_only(h, x, name_n + value_n + FIELD_OVERHEAD);
    else
        x->refusal = take_field(x, (str){ (const char *)name, name_n }, (str){ (const char *)value, value_n });
    return 0;
}

/* A byte that no field may hold. nghttp2 would leave the field out, and so answer another request than was sent. */
static int on_invalid_header(nghttp2_session *frames, const nghttp2_frame *frame, const u8 *name, size_t name_n,
                             const u8 *value, size_t value_n, u8 flags, void *user)
{
    struct http_stream *x = exchange_of(frames, frame->hd.stream_id);
    if (x != NULL && x->refusal == REFUSE_NONE && !x->h2.headed)
        x->refusal = REFUSE_HEADER;
    return 0;
}

/* :authority stands for Host; a request that has both must mean the same by them. */
static enum refusal take_host(struct http_stream *x)
{
    str host = http_header(&x->rq, S("host")), authority = x->h2.authority;
    if (http_header_count(&x->rq, S("host")) > 1)
        return REFUSE_HOST;
    if (authority.p != NULL && host.p != NULL && !str_eq_nocase(authority, host))
        return REFUSE_HOST;
    if (host.p == NULL) {
        enum refusal r = authority.p != NULL ? add_field(x, S("host"), authority) : REFUSE_HOST;
        if (r != REFUSE_NONE)
            return r;
        host = authority;
    }
    return check_host(host);
}

static enum refusal take_length(struct http_stream *x)
{
    str text = http_header(&x->rq, S("content-length"));
    i64 n = 0;
    if (text.p != NULL && !str_i64(text, 0, INT64_MAX, &n))
        return REFUSE_LENGTH;
    x->announced = (u64)n;
    return REFUSE_NONE;
}

static enum refusal finish_head(struct http_stream *x)
{
    struct http_request *rq = &x->rq;
    if (x->refusal != REFUSE_NONE)
        return x->refusal;
    if (!text_is_token(rq->method_text) || rq->method_text.n > METHOD_MAX)
        return REFUSE_REQUEST_LINE;
    if (!method_of(rq->method_text, &rq->method))
        return REFUSE_METHOD;
    if (rq->target.p == NULL) /* CONNECT has none */
        rq->target = x->h2.authority;
    enum refusal r = check_target(rq->method_text, rq->target, limits_of(x->conn));
    if (r == REFUSE_NONE)
        r = take_host(x);
    if (r == REFUSE_NONE)
        r = take_length(x);
    str expect = http_header(rq, S("expect"));
    if (r == REFUSE_NONE && expect.p != NULL)
        r = check_expect(expect, &x->expects_continue);
    split_target(rq);
    return r != REFUSE_NONE ? r : exchange_introduce(x, x->conn, x->h2.begun_us);
}

/* --- what the handler says to it --------------------------------------------------------------------------------- */

static int say_continue(struct http_stream *x)
{
    nghttp2_nv status = { (u8 *)(uintptr_t) ":status", (u8 *)(uintptr_t) "100", 7, 3, NGHTTP2_NV_FLAG_NONE };
    return nghttp2_submit_headers(x->conn->session->frames, NGHTTP2_FLAG_NONE, x->h2.id, NULL, &status, 1, NULL);
}

static void admit(struct http_stream *x)
{
    exchange_admit(x);
    if (x->rq.refused != 0 || x->complete)
        exchange_deliver(x);
    else if (x->announced > x->body_limit)
        http2_refuse(x, REFUSE_BODY_SIZE);
    else if (x->expects_continue && say_continue(x) != 0)
        http2_cut(x, NGHTTP2_INTERNAL_ERROR);
}

static void on_head(struct http_stream *x, bool last)
{
    x->rq.keep_alive = true;
    x->has_body = !last;
    x->complete = last;
    x->h2.headed = true;
    x->h2.begun_us = now_of(x->conn); /* from here the body's time runs */
    enum refusal r = finish_head(x);
    if (r != REFUSE_NONE)
        http2_refuse(x, r);
    else
        admit(x);
}

static void on_end(struct http_stream *x)
{
    x->complete = true;
    if (!is_settled(x))
        exchange_deliver(x);
}

static int on_frame(nghttp2_session *frames, const nghttp2_frame *frame, void *user)
{
    struct http2_session *h = user;
    bool carries = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    struct http_stream *x = carries && !h->calm ? exchange_of(frames, frame->hd.stream_id) : NULL;
    bool last = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0)
        http2_answered(h);
    if (x == NULL)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        on_head(x, last);
    else if (last)
        on_end(x);
    return 0;
}

/* The answer is complete, the request is not. Most clients see that and stop; some, cut at once, would lose the answer (curl 7.88 does). */
static void forget(struct http_stream *x)
{
    if (x->h2.answered && x->body_raw > x->body_limit + H2_FORGET_MAX)
        http2_cut(x, NGHTTP2_NO_ERROR);
}

static int on_data(nghttp2_session *frames, u8 flags, i32 id, const u8 *data, size_t n, void *user)
{
    struct http2_session *h = user;
    struct http_stream *x = exchange_of(frames, id);
    if (x == NULL || h->calm)
        return 0;
    x->body_raw += n;
    if (is_settled(x)) {
        forget(x);
        return 0;
    }
    enum refusal r = exchange_body(x, (str){ (const char *)data, n });
    if (r != REFUSE_NONE)
        http2_refuse(x, r);
    return 0;
}

/* --- frames that may be a flood ---------------------------------------------------------------------------------- */

static int on_begin_frame(nghttp2_session *frames, const nghttp2_frame_hd *hd, void *user)
{
    static const enum guard_kind kinds[] = {
        [NGHTTP2_PRIORITY] = GUARD_PRIORITY,    [NGHTTP2_RST_STREAM] = GUARD_RESET,
        [NGHTTP2_SETTINGS] = GUARD_SETTINGS,    [NGHTTP2_PING] = GUARD_PING,
        [NGHTTP2_WINDOW_UPDATE] = GUARD_WINDOW,
    };
    bool empty = hd->type == NGHTTP2_DATA && hd->length == 0 && (hd->flags & NGHTTP2_FLAG_END_STREAM) == 0;
    if (empty)
        http2_charge(user, GUARD_EMPTY);
    else if (hd->type < COUNT(kinds) && kinds[hd->type] != GUARD_FREE)
        http2_charge(user, kinds[hd->type]);
    return 0;
}

/* --- deadlines --------------------------------------------------------------------------------------------------- */

i64 http2_due(const struct http_stream *x)
{
    const struct http_limits *l = limits_of(x->conn);
    if (!x->h2.open)
        return INT64_MAX; /* the handler's own time */
    if (!x->h2.headed)
        return x->h2.begun_us + l->header_us;
    if (!x->complete && !is_settled(x))
        return x->h2.begun_us + l->body_us + (i64)MAX(x->announced, (u64)x->body_raw) * SECOND_US / (i64)(32 * KIB);
    if (http2_unsent(x) > 0)
        return x->h2.moved_us + l->write_stall_us;
    return x->h2.answered && !x->complete ? x->h2.moved_us + MIN(H2_FORGET_US, l->write_stall_us) : INT64_MAX;
}

/* Half a header block blocks the whole session, so its end is the session's. */
void http2_overdue(struct http_stream *x)
{
    struct conn *c = x->conn;
    if (!x->h2.headed)
        http2_flood(c->session, "slow_headers");
    else if (!x->complete && !is_settled(x))
        http2_refuse(x, REFUSE_TIMEOUT);
    else
        http2_cut(x, http2_unsent(x) > 0 ? NGHTTP2_CANCEL : NGHTTP2_NO_ERROR);
}

void http2_set_request_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
}
