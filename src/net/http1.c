/* http1.c - see http1.h.
 *
 * What is refused here although llhttp accepts it: bare CR, folded fields, control bytes, more than one space in the request
 * line, other versions, absolute targets, a missing or second Host, codings beside chunked, HTTP/1.0 with a
 * coding, an empty field name. */
#include "net/exchange.h"
#include "net/message.h"

#include <string.h>

enum {
    LINE_OVERHEAD = 64,        /* of a request line beside its target: method, version, spaces, CRLF */
    CHUNK_OVERHEAD = 16 << 10, /* framing bytes that are free; beyond, ... */
    CHUNK_OVERHEAD_FACTOR = 8, /* ... a body may cost 8 bytes on the wire for each of its own */
};

/* --- scanning ---------------------------------------------------------------------------------------------------- */

static enum refusal check_version(str version)
{
    if (str_eq(version, S("HTTP/1.1")) || str_eq(version, S("HTTP/1.0")))
        return REFUSE_NONE;
    bool well_formed = version.n == 8 && str_starts(version, S("HTTP/")) && version.p[6] == '.' &&
                       version.p[5] >= '0' && version.p[5] <= '9' && version.p[7] >= '0' && version.p[7] <= '9';
    return well_formed ? REFUSE_VERSION : REFUSE_REQUEST_LINE;
}

static enum refusal check_request_line(str line, const struct http_limits *limits)
{
    i64 first = str_find_char(line, ' ', 0);
    const char *last = line.n > 0 ? memrchr(line.p, ' ', line.n) : NULL;
    if (first < 0 || last == line.p + first)
        return REFUSE_REQUEST_LINE;
    str method = str_slice(line, 0, (size_t)first);
    str target = str_slice(line, (size_t)first + 1, (size_t)(last - line.p));
    if (!text_is_token(method) || method.n > METHOD_MAX || target.n == 0 || str_find_char(target, ' ', 0) >= 0)
        return REFUSE_REQUEST_LINE;
    if (target.n > limits->target_bytes)
        return REFUSE_TARGET_SIZE;
    enum refusal r = check_version(str_slice(line, (size_t)(last - line.p) + 1, line.n));
    return r != REFUSE_NONE ? r : check_target(method, target, limits);
}

static enum refusal check_field(const struct http1_scan *s, str line, size_t end, const struct http_limits *limits)
{
    if (s->count == limits->header_count || end - s->fields > limits->header_bytes)
        return REFUSE_HEADER_SIZE;
    return line.p[0] == ' ' || line.p[0] == '\t' || text_has_control(line) ? REFUSE_HEADER : REFUSE_NONE;
}

/* A complete line without its CRLF; `end` is behind it. */
static enum refusal scan_line(struct http1_scan *s, str line, size_t end, const struct http_limits *limits)
{
    enum refusal r = REFUSE_NONE;
    if (s->fields != 0 && line.n == 0) {
        s->done = true;
    } else if (s->fields != 0) {
        r = check_field(s, line, end, limits);
        s->count++;
    } else if (line.n == 0 && s->start == 0) {
        s->start = end;
    } else {
        r = check_request_line(line, limits);
        s->fields = end;
    }
    s->at = end;
    return r;
}

/* The rest has no line end yet: refuse it when it cannot become good any more. */
static enum refusal scan_rest(const struct http1_scan *s, str bytes, const struct http_limits *limits)
{
    if (s->fields != 0)
        return bytes.n - s->fields > limits->header_bytes + 2 ? REFUSE_HEADER_SIZE : REFUSE_NONE;
    str line = str_slice(bytes, s->at, bytes.n);
    i64 space = str_find_char(line, ' ', 0);
    size_t method_n = space >= 0 ? (size_t)space : line.n;
    if (method_n > METHOD_MAX || (line.n > 0 && !text_is_token(str_slice(line, 0, 1)) && line.p[0] != '\r'))
        return REFUSE_REQUEST_LINE;
    return line.n > limits->target_bytes + LINE_OVERHEAD ? REFUSE_TARGET_SIZE : REFUSE_NONE;
}

enum refusal http1_scan(struct http1_scan *s, str bytes, const struct http_limits *limits)
{
    while (!s->done) {
        i64 lf = str_find_char(bytes, '\n', s->at);
        if (lf < 0)
            return scan_rest(s, bytes, limits);
        size_t end = (size_t)lf + 1;
        if (end - s->at < 2 || bytes.p[lf - 1] != '\r')
            return REFUSE_LINE_END;
        enum refusal r = scan_line(s, str_slice(bytes, s->at, (size_t)lf - 1), end, limits);
        if (r != REFUSE_NONE)
            return r;
    }
    return REFUSE_NONE;
}

/* --- llhttp ------------------------------------------------------------------------------------------------------ */

static const enum http_method methods[] = {
    [HTTP_GET] = GET,     [HTTP_HEAD] = HEAD,     [HTTP_POST] = POST,       [HTTP_PUT] = PUT,
    [HTTP_PATCH] = PATCH, [HTTP_DELETE] = DELETE, [HTTP_OPTIONS] = OPTIONS,
};
/* DELETE is 0 for llhttp, as GET is for us: a gap of the table must not read as GET. */
static const bool method_known[] = {
    [HTTP_GET] = 1,   [HTTP_HEAD] = 1,   [HTTP_POST] = 1,    [HTTP_PUT] = 1,
    [HTTP_PATCH] = 1, [HTTP_DELETE] = 1, [HTTP_OPTIONS] = 1,
};

static const enum refusal head_errors[] = {
    [HPE_INVALID_METHOD] = REFUSE_METHOD,
    [HPE_INVALID_URL] = REFUSE_TARGET,
    [HPE_INVALID_VERSION] = REFUSE_VERSION,
    [HPE_INVALID_CONSTANT] = REFUSE_REQUEST_LINE,
    [HPE_UNEXPECTED_CONTENT_LENGTH] = REFUSE_LENGTH,
    [HPE_INVALID_CONTENT_LENGTH] = REFUSE_LENGTH,
    [HPE_INVALID_TRANSFER_ENCODING] = REFUSE_CODING,
};

static int on_url(llhttp_t *parser, const char *at, size_t n)
{
    struct http_stream *x = parser->data;
    x->rq.target = (str){ at, n };
    return HPE_OK;
}

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
    struct http_stream *x = parser->data;
    if (!x->h1.head_done) /* trailers are read and forgotten */
        x->rq.headers[x->rq.header_count].name = (str){ at, n };
    return HPE_OK;
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    struct http_stream *x = parser->data;
    if (x->h1.head_done)
        return HPE_OK;
    str *value = &x->rq.headers[x->rq.header_count].value;
    if (value->p == NULL)
        value->p = at;
    value->n = (size_t)(at + n - value->p); /* parts of one value are neighbours: there is no folding */
    return HPE_OK;
}

static int on_value_complete(llhttp_t *parser)
{
    struct http_stream *x = parser->data;
    if (!x->h1.head_done)
        x->rq.header_count++;
    return HPE_OK;
}

static int on_head(llhttp_t *parser)
{
    struct http_stream *x = parser->data;
    x->h1.head_done = true;
    x->announced = parser->content_length;
    x->h1.chunked = (parser->flags & F_CHUNKED) != 0;
    x->has_body = x->h1.chunked || x->announced > 0;
    x->http10 = parser->http_minor == 0;
    /* After CONNECT the client may believe in a tunnel: nothing more is read from it. */
    x->rq.keep_alive = llhttp_should_keep_alive(parser) && parser->method != HTTP_CONNECT;
    parser->upgrade = 0; /* we never switch protocols, so the bytes that follow stay HTTP/1.1 */
    return HPE_OK;
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    struct http_stream *x = parser->data;
    x->refusal = exchange_body(x, (str){ at, n });
    return x->refusal == REFUSE_NONE ? HPE_OK : HPE_USER;
}

static int on_complete(llhttp_t *parser)
{
    struct http_stream *x = parser->data;
    x->complete = true;
    return HPE_PAUSED; /* what follows belongs to the next request */
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* --- the head ---------------------------------------------------------------------------------------------------- */

static str trim_blanks(str s)
{
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s.p != NULL ? s : S("");
}

static void tidy_headers(struct http_request *rq)
{
    for (u32 i = 0; i < rq->header_count; i++) {
        struct pair *h = &rq->headers[i];
        char *name = (char *)h->name.p; /* our copy */
        for (size_t k = 0; k < h->name.n; k++)
            name[k] |= (char)((name[k] >= 'A' && name[k] <= 'Z') << 5);
        h->value = trim_blanks(h->value);
    }
}

static enum refusal check_coding(const struct http_stream *x, str value)
{
    if (x->http10)
        return REFUSE_CODING; /* RFC 9112 6.1: the framing is faulty */
    if (str_eq_nocase(value, S("chunked")))
        return REFUSE_NONE;
    str last = str_slice(value, value.n - MIN(value.n, (size_t)7), value.n);
    return str_eq_nocase(last, S("chunked")) ? REFUSE_CODING_UNKNOWN : REFUSE_CODING;
}

/* RFC 9110 10.1.1: a 1.0 client does not know what it asks for. */
static enum refusal take_expect(struct http_stream *x, str value)
{
    enum refusal r = check_expect(value, &x->expects_continue);
    x->expects_continue &= !x->http10;
    return r;
}

static enum refusal check_headers(struct http_stream *x)
{
    u32 hosts = 0, lengths = 0, codings = 0;
    enum refusal r = REFUSE_NONE;
    for (u32 i = 0; i < x->rq.header_count && r == REFUSE_NONE; i++) {
        const struct pair *h = &x->rq.headers[i];
        if (h->name.n == 0) /* llhttp takes ": value" */
            r = REFUSE_HEADER;
        else if (str_eq(h->name, S("host")))
            r = ++hosts > 1 ? REFUSE_HOST : check_host(h->value);
        else if (str_eq(h->name, S("content-length")))
            r = ++lengths > 1 || codings > 0 ? REFUSE_LENGTH : REFUSE_NONE;
        else if (str_eq(h->name, S("transfer-encoding")))
            r = ++codings > 1 || lengths > 0 ? REFUSE_CODING : check_coding(x, h->value);
        else if (str_eq(h->name, S("expect")))
            r = take_expect(x, h->value);
    }
    return r == REFUSE_NONE && hosts != 1 ? REFUSE_HOST : r;
}

static enum refusal head_refusal(llhttp_errno_t e)
{
    enum refusal r = (size_t)e < COUNT(head_errors) ? head_errors[e] : REFUSE_NONE;
    return r != REFUSE_NONE ? r : REFUSE_HEADER;
}

static bool copy_head(struct http_stream *x, const struct http1_scan *s, str *head)
{
    *head = str_slice(*head, s->start, s->at);
    *head = str_dup(x->rq.arena, *head);
    x->rq.headers = NEW_N(x->rq.arena, struct pair, s->count);
    return head->p != NULL && x->rq.headers != NULL;
}

static void name_method(struct http_stream *x, str head)
{
    u8 m = x->h1.parser.method;
    x->rq.method = m < COUNT(method_known) && method_known[m] ? methods[m] : HTTP_OTHER;
    x->rq.method_text = str_slice(head, 0, (size_t)str_find_char(head, ' ', 0));
}

enum refusal http1_head(struct http_stream *x, const struct http1_scan *s, str head)
{
    if (!copy_head(x, s, &head))
        return REFUSE_MEMORY;
    llhttp_init(&x->h1.parser, HTTP_REQUEST, &settings);
    x->h1.parser.data = x;
    llhttp_errno_t e = llhttp_execute(&x->h1.parser, head.p, head.n);
    if (!x->h1.head_done || (e != HPE_OK && e != HPE_PAUSED))
        return head_refusal(e);
    tidy_headers(&x->rq);
    split_target(&x->rq);
    name_method(x, head);
    return check_headers(x);
}

/* --- the body ---------------------------------------------------------------------------------------------------- */

enum refusal http1_body(struct http_stream *x, str bytes, size_t *used)
{
    llhttp_errno_t e = llhttp_execute(&x->h1.parser, bytes.p, bytes.n);
    if (e != HPE_OK && !x->complete)
        return x->refusal != REFUSE_NONE ? x->refusal : REFUSE_CHUNK;
    size_t n = x->complete ? (size_t)(llhttp_get_error_pos(&x->h1.parser) - bytes.p) : bytes.n;
    x->body_raw += n;
    if (x->body_raw > CHUNK_OVERHEAD + CHUNK_OVERHEAD_FACTOR * x->rq.body.n)
        return REFUSE_CHUNK; /* endless chunk extensions or trailers */
    *used = n;
    return REFUSE_NONE;
}
