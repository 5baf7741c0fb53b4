/* http1.c - bytes of an HTTP/1.1 connection, requests one after the other. However the bytes are cut into reads, the requests and the refusal at
 * the end are the same; and no request that comes out breaks what the rest of the house relies on. */
#include "fuzz.h"

#include "net/exchange.h"

enum { REQUESTS_MAX = 16, BODY_LIMIT = 4096 };

/* What a connection came to, as text: two of them are compared. */
struct story {
    struct buf told;
    struct arena *arena;
};

static const struct http_limits limits = { .target_bytes = 64, .header_bytes = 256, .header_count = 6 };

static void claim_text(str s, bool (*bad)(u8))
{
    for (size_t i = 0; i < s.n; i++)
        assert(!bad((u8)s.p[i]));
}

static bool bad_in_name(u8 c)
{
    return c <= ' ' || c >= 0x7f || (c >= 'A' && c <= 'Z') || c == ':';
}

static bool bad_in_value(u8 c)
{
    return (c < ' ' && c != '\t') || c == 0x7f;
}

static bool bad_in_target(u8 c)
{
    return c <= ' ' || c >= 0x7f || c == '#';
}

/* What no handler checks any more. */
static void claim_request(const struct http_stream *x)
{
    const struct http_request *rq = &x->rq;
    assert(rq->target.n > 0 && rq->target.n <= limits.target_bytes && rq->header_count <= limits.header_count);
    assert(rq->path.n + (rq->query.p != NULL ? rq->query.n + 1 : 0) == rq->target.n);
    assert(rq->body.n <= x->body_limit && http_header_count(rq, S("host")) == 1);
    assert(http_header_count(rq, S("content-length")) + http_header_count(rq, S("transfer-encoding")) <= 1);
    claim_text(rq->target, bad_in_target);
    for (u32 i = 0; i < rq->header_count; i++) {
        assert(rq->headers[i].name.n > 0 && http_field_ok(rq->headers[i].name, rq->headers[i].value));
        claim_text(rq->headers[i].name, bad_in_name);
        claim_text(rq->headers[i].value, bad_in_value);
    }
}

static void tell_request(struct story *s, const struct http_stream *x)
{
    claim_request(x);
    buf_f(&s->told, "%d %.*s keep=%d body=%zu:", x->rq.method, STR_FMT(x->rq.target), x->rq.keep_alive, x->rq.body.n);
    buf_str(&s->told, x->rq.body);
    for (u32 i = 0; i < x->rq.header_count; i++)
        buf_f(&s->told, " [%.*s: %.*s]", STR_FMT(x->rq.headers[i].name), STR_FMT(x->rq.headers[i].value));
    buf_char(&s->told, '\n');
}

/* The reader: sees `step` bytes more at a time, keeps what was not used. */
struct reader {
    const char *p;
    size_t seen, end, step;
};

static bool see_more(struct reader *r)
{
    bool more = r->seen < r->end;
    r->seen = MIN(r->seen + r->step, r->end);
    return more;
}

static enum refusal read_head(struct reader *r, struct http_stream *x, size_t *at, bool *whole)
{
    struct http1_scan scan = { 0 };
    *whole = false;
    do {
        str bytes = { r->p + *at, r->seen - *at };
        enum refusal e = http1_scan(&scan, bytes, &limits);
        if (e != REFUSE_NONE)
            return e;
        if (!scan.done)
            continue;
        *whole = true;
        e = http1_head(x, &scan, bytes);
        *at += scan.at;
        return e;
    } while (see_more(r));
    return REFUSE_NONE;
}

static enum refusal read_body(struct reader *r, struct http_stream *x, size_t *at)
{
    x->body_limit = BODY_LIMIT;
    if (x->announced > x->body_limit)
        return REFUSE_BODY_SIZE;
    do {
        size_t used = 0, there = r->seen - *at;
        if (there == 0 || x->complete)
            continue;
        enum refusal e = http1_body(x, (str){ r->p + *at, there }, &used);
        if (e != REFUSE_NONE)
            return e;
        assert(used <= there && (used == there || x->complete));
        *at += used;
    } while (!x->complete && see_more(r));
    return REFUSE_NONE;
}

/* Whether the connection goes on. */
static bool read_request(struct reader *r, struct story *s, size_t *at)
{
    struct http_stream *x = NEW(s->arena, struct http_stream);
    bool whole;
    assert(x != NULL);
    x->rq.arena = s->arena;
    enum refusal e = read_head(r, x, at, &whole);
    if (e == REFUSE_NONE && whole && x->has_body)
        e = read_body(r, x, at);
    if (e != REFUSE_NONE)
        BUF_LIT(&s->told, "refused\n"); /* for which of several reasons depends on what has come so far */
    else if (whole && (x->complete || !x->has_body))
        tell_request(s, x);
    else
        BUF_LIT(&s->told, "unfinished\n");
    return e == REFUSE_NONE && whole && (x->complete || !x->has_body) && x->rq.keep_alive;
}

static str read_all(struct arena *a, str bytes, size_t step)
{
    struct story s = { .told = { .arena = a }, .arena = a };
    struct reader r = { .p = bytes.p, .seen = MIN(step, bytes.n), .end = bytes.n, .step = step };
    size_t at = 0;
    for (int i = 0; i < REQUESTS_MAX && read_request(&r, &s, &at); i++)
        assert(at <= bytes.n);
    assert(s.told.fail == OK);
    return buf_view(&s.told);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    size_t step = 1 + fuzz_choice(&data, &size) % 64;
    str bytes = fuzz_text(a, data, MIN(size, (size_t)16 * KIB));
    assert(str_eq(read_all(a, bytes, bytes.n + 1), read_all(a, bytes, step)));
    arena_free(a);
    return 0;
}
