/* test_headers.c - what the head of a request asks for and the head of an answer says: trace context, content codings, origins. */
#include "base/rng.h"
#include "core/forwarded.h"
#include "core/module.h"
#include "core/pipeline.h"
#include "core/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <brotli/decode.h>
#include <cmocka.h>

const struct module *const modules[] = { NULL };

static struct arena *a;

static int setup(void **state)
{
    a = arena_new(64 * MIB);
    return a == NULL;
}

static int teardown(void **state)
{
    arena_free(a);
    return 0;
}

/* -- trace --------------------------------------------------------------------------------------------------------- */

#define ID   "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static void test_which_traceparent_is_valid(void **state)
{
    static const struct {
        const char *text;
        bool valid;
    } rows[] = {
        { "00-" ID "-" SPAN "-01", true },
        { "00-" ID "-" SPAN "-ff", true },
        { "cc-" ID "-" SPAN "-01", true },
        { "cc-" ID "-" SPAN "-01-what-comes", true },
        { "cc-" ID "-" SPAN "-01.what-comes", false },
        { "00-" ID "-" SPAN "-01-more", false },
        { "ff-" ID "-" SPAN "-01", false },
        { "00-00000000000000000000000000000000-" SPAN "-01", false },
        { "00-" ID "-0000000000000000-01", false },
        { "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01", false },
        { "00-" ID "-" SPAN "-0", false },
        { "00-" ID "-" SPAN "-0g", false },
        { "00_" ID "-" SPAN "-01", false },
        { "00-" ID "_" SPAN "-01", false },
        { "00-" ID "-" SPAN "_01", false },
        { "", false },
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        if (trace_valid(str_of(rows[i].text)) != rows[i].valid)
            fail_msg("%s must be %s", rows[i].text, rows[i].valid ? "valid" : "refused");
    assert_false(trace_valid(STR_NONE));
}

static void test_a_trace_goes_on_with_a_span_of_its_own(void **state)
{
    str given = S("00-" ID "-" SPAN "-01"), next = trace_next(a, given, 1), other = trace_next(a, given, 1);
    assert_true(trace_valid(next));
    assert_true(str_eq(trace_id(next), S(ID)));
    assert_false(str_eq(next, given));
    assert_false(str_eq(next, other));
    assert_true(str_ends(next, S("-01")));
    assert_true(str_ends(trace_next(a, S("00-" ID "-" SPAN "-fe"), 1), S("-00")));
}

static void test_a_wrong_trace_begins_anew(void **state)
{
    str twice = trace_next(a, S("00-" ID "-" SPAN "-01"), 2), none = trace_next(a, STR_NONE, 0);
    assert_true(trace_valid(twice) && trace_valid(none));
    assert_false(str_eq(trace_id(twice), S(ID)));
    assert_false(str_eq(trace_id(twice), trace_id(none)));
    assert_true(str_ends(none, S("-00")));
    struct arena *small = arena_new(16);
    assert_null(trace_next(small, STR_NONE, 0).p);
    arena_free(small);
}

static void test_a_span_is_that_of_its_seed(void **state)
{
    str given = S("00-" ID "-" SPAN "-01"), one = trace_span(a, given, S("x-a-0/1"));
    assert_true(trace_valid(one) && str_eq(trace_id(one), S(ID)) && str_ends(one, S("-01")));
    assert_true(str_eq(one, trace_span(a, given, S("x-a-0/1"))));
    assert_false(str_eq(one, trace_span(a, given, S("x-a-0/2"))) || str_eq(one, given));
}

static str state_of(str first, str second)
{
    const struct pair headers[] = { { S("tracestate"), first }, { S("x"), S("y") }, { S("tracestate"), second } };
    return trace_state(a, headers, second.p != NULL ? 3 : 2);
}

static void test_which_trace_state_is_handed_on(void **state)
{
    assert_string_equal(str_z(a, state_of(S(" a=1 ,, b=2"), S("c=3"))), "a=1,b=2,c=3");
    assert_string_equal(str_z(a, state_of(S("a=1,b=\x7f,c=\xc3\xa9,d=4"), STR_NONE)), "a=1,d=4");
    assert_null(state_of(S(" , "), STR_NONE).p);
    char text[TRACE_STATE_MAX + 1];
    for (size_t n = TRACE_STATE_MAX - 1; n <= TRACE_STATE_MAX + 1; n++) {
        memset(text, 'x', n);
        memcpy(text, "a=1,b=", 6);
        assert_int_equal(state_of((str){ text, n }, STR_NONE).n, n <= TRACE_STATE_MAX ? n : 3);
        memcpy(text, "a=1234", 6);
        assert_int_equal(state_of((str){ text, n }, STR_NONE).n, n <= TRACE_STATE_MAX ? n : 0);
    }
}

/* -- codings ------------------------------------------------------------------------------------------------------- */

static void test_negotiation(void **state)
{
    static const struct {
        const char *accept;
        enum coding coding;
    } rows[] = {
        { NULL, CODING_NONE },
        { "", CODING_NONE },
        { "gzip", CODING_GZIP },
        { "x-gzip", CODING_GZIP },
        { "BR", CODING_BROTLI },
        { "gzip, deflate, br", CODING_BROTLI },
        { "gzip;q=1, br;q=0.5", CODING_GZIP },
        { "gzip;q=0.5, br;q=0.501", CODING_BROTLI },
        { "gzip;q=0, br;q=0", CODING_NONE },
        { "br;q=0.000", CODING_NONE },
        { "*", CODING_BROTLI },
        { "*;q=0.1, br;q=0", CODING_GZIP },
        { "gzip, *;q=0", CODING_GZIP },
        { "identity, gzip;q=0.5", CODING_NONE },
        { "identity;q=0.5, gzip", CODING_GZIP },
        { "gzip;q=2", CODING_NONE },
        { "gzip;q=", CODING_NONE },
        { "gzip;q=0.1234", CODING_NONE },
        { "gzip;q=1.001", CODING_NONE },
        { "gzip ; q=0.8 , ", CODING_GZIP },
        { "deflate, zstd", CODING_NONE },
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        if (coding_choose(str_of(rows[i].accept)) != rows[i].coding)
            fail_msg("%s must give %d", rows[i].accept, rows[i].coding);
}

static void test_which_types_shrink(void **state)
{
    assert_true(compress_type(S("application/json")));
    assert_true(compress_type(S("application/problem+json")));
    assert_true(compress_type(S("text/html; charset=utf-8")));
    assert_false(compress_type(S("text/event-stream")));
    assert_false(compress_type(S("application/octet-stream")));
    assert_false(compress_type(S("image/png")));
    assert_false(compress_type(STR_NONE));
}

static str unpack(enum coding c, str packed)
{
    static char out[1 << 16];
    size_t n = sizeof out;
    if (c == CODING_BROTLI) {
        assert_int_equal(BrotliDecoderDecompress(packed.n, (const uint8_t *)packed.p, &n, (uint8_t *)out), 1);
        return (str){ out, n };
    }
    z_stream z = { .next_in = (Bytef *)(uintptr_t)packed.p, .next_out = (Bytef *)out };
    z.avail_in = (uInt)packed.n;
    z.avail_out = sizeof out;
    assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    inflateEnd(&z);
    return (str){ out, sizeof out - z.avail_out };
}

static void test_bytes_come_back(void **state)
{
    struct buf b = { .arena = a };
    for (int i = 0; i < 2000; i++)
        buf_f(&b, "{\"id\":\"workflow_%d\"},", i);
    for (enum coding c = CODING_GZIP; c <= CODING_BROTLI; c++) {
        str packed = STR_NONE;
        assert_int_equal(compress_body(a, c, buf_view(&b), &packed), OK);
        assert_true(packed.n < b.n / 3);
        assert_true(str_eq(unpack(c, packed), buf_view(&b)));
    }
}

/* What does not shrink, and memory that is not there, leave the plain body to be sent. */
static void test_bytes_that_stay(void **state)
{
    str out = S("untouched");
    char noise[4096];
    rng_bytes(noise, sizeof noise);
    assert_int_equal(compress_body(a, CODING_NONE, S("aaaaaaaaaaaa"), &out), ERR_TOO_LARGE);
    assert_int_equal(compress_body(a, CODING_GZIP, S(""), &out), ERR_TOO_LARGE);
    assert_int_equal(compress_body(a, CODING_GZIP, (str){ noise, sizeof noise }, &out), ERR_TOO_LARGE);
    assert_int_equal(compress_body(a, CODING_BROTLI, (str){ noise, sizeof noise }, &out), ERR_TOO_LARGE);
    struct arena *small = arena_new(64);
    assert_int_equal(compress_body(small, CODING_GZIP, (str){ noise, sizeof noise }, &out), ERR_MEMORY);
    arena_free(small);
    assert_true(str_eq(out, S("untouched")));
}

/* -- entity tags --------------------------------------------------------------------------------------------------- */

static void test_entity_tags(void **state)
{
    static const struct {
        const char *field;
        bool strong, weak;
    } rows[] = {
        { "\"abc\"", true, true },
        { "W/\"abc\"", false, true },
        { "*", true, true },
        { " * ", true, true },
        { "\"x\", \"abc\"", true, true },
        { "\"x\",\"abc\",\"y\"", true, true },
        { "W/\"x\" , W/\"abc\"", false, true },
        { "\"abc-gzip\"", true, true },
        { "\"abc-br\"", true, true },
        { "\"abc-xz\"", false, false },
        { "\"-br\"", false, false },
        { "\"a,b\", \"abc\"", true, true },
        { "abc", false, false },
        { "\"abc", false, false },
        { "\"x\" \"abc\"", false, false },
        { "x, \"abc\"", false, false },
        { "\"ABC\"", false, false },
        { "w/\"abc\"", false, false },
        { "\"\"", false, false },
        { "", false, false },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (etag_matches(str_of(rows[i].field), S("abc"), false) != rows[i].strong)
            fail_msg("%s: strong", rows[i].field);
        if (etag_matches(str_of(rows[i].field), S("abc"), true) != rows[i].weak)
            fail_msg("%s: weak", rows[i].field);
    }
}

/* What does not shrink stands for itself in every coding. */
static void test_a_body_is_packed_once(void **state)
{
    struct packed p;
    char text[4096], random[64];
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < sizeof random; i++)
        random[i] = (char)(i * 97 + 13);
    assert_int_equal(packed_make(a, (str){ text, sizeof text }, &p), OK);
    for (enum coding c = CODING_GZIP; c < CODINGS; c++)
        assert_true(p.bodies[c].p != NULL && p.bodies[c].n < 100);
    assert_int_equal(packed_make(a, (str){ random, sizeof random }, &p), OK);
    assert_true(p.bodies[CODING_NONE].p == random && p.bodies[CODING_GZIP].p == NULL &&
                p.bodies[CODING_BROTLI].p == NULL);
    struct arena *small = arena_new(16);
    assert_int_equal(packed_make(small, (str){ text, sizeof text }, &p), ERR_MEMORY);
    arena_free(small);
}

/* -- origins ------------------------------------------------------------------------------------------------------- */

static void test_which_origin_is_valid(void **state)
{
    static const char *const right[] = { "https://app.example.com", "http://localhost:3000", "http://[::1]:8080" };
    static const char *const wrong[] = {
        "*",        "https://*.example.com", "https://app.example.com/", "https://App.example.com", "app.example.com",
        "https://", "ftp://example.com",     "https://u@example.com",    "https://example.com?x",   "null"
    };
    for (size_t i = 0; i < COUNT(right); i++)
        if (!origin_valid(a, str_of(right[i])))
            fail_msg("%s must be valid", right[i]);
    for (size_t i = 0; i < COUNT(wrong); i++)
        if (origin_valid(a, str_of(wrong[i])))
            fail_msg("%s must be refused", wrong[i]);
}

struct made {
    struct http_request http;
    struct pair headers[4];
    struct request_core core;
    struct headers out;
};

static str made_value(const struct made *m, const char *name)
{
    str found = STR_NONE;
    for (size_t i = 0; i < m->out.n; i++)
        if (str_eq_nocase(m->out.list[i].name, str_of(name))) {
            assert_null(found.p); /* no header twice */
            found = m->out.list[i].value;
        }
    return found;
}

static struct made *make(enum http_method method, const char *origin, const struct letter *l)
{
    struct made *m = NEW(a, struct made);
    assert_non_null(m);
    m->http = (struct http_request){ .method = method, .path = S("/api/v1/x"), .headers = m->headers };
    m->headers[m->http.header_count++] = (struct pair){ S("origin"), str_of(origin) };
    if (method == OPTIONS)
        m->headers[m->http.header_count++] = (struct pair){ S("access-control-request-method"), S("PUT") };
    m->core.rq = (struct req){ .arena = a, .http = &m->http, .request_id = S("req_1") };
    m->core.allowed = 1u << GET | 1u << PUT | 1u << OPTIONS;
    headers_make(&m->core, l, &m->out);
    return m;
}

static const struct letter plain = { .status = 200, .type = S_INIT("application/json") };

static void settings(const char *origins, const char *url)
{
    struct config c = { .allowed_origins = str_of(origins), .public_url = str_of(url) };
    assert_int_equal(headers_build(a, &c), OK);
}

static void test_an_origin_that_is_listed(void **state)
{
    settings("https://a.test, https://b.test", "");
    struct made *m = make(GET, "https://b.test", &plain);
    assert_true(str_eq(made_value(m, "Access-Control-Allow-Origin"), S("https://b.test")));
    assert_true(str_eq(made_value(m, "Access-Control-Allow-Credentials"), S("true")));
    assert_true(str_find(made_value(m, "Access-Control-Expose-Headers"), S("ETag"), 0) >= 0);
    assert_true(str_eq(made_value(m, "Vary"), S("Origin")));
    m = make(OPTIONS, "https://a.test", &plain);
    assert_true(str_eq(made_value(m, "Access-Control-Allow-Methods"), S("GET, PUT, OPTIONS")));
    assert_true(str_find(made_value(m, "Access-Control-Allow-Headers"), S("Idempotency-Key"), 0) >= 0);
    assert_true(str_eq(made_value(m, "Access-Control-Max-Age"), S("600")));
    settings("", "");
}

static void test_an_origin_that_is_not(void **state)
{
    static const char *const others[] = { "https://c.test", "https://a.test.evil", "https://a.tes", "null",
                                          "HTTPS://A.TEST" };
    settings("https://a.test", "");
    for (size_t i = 0; i < COUNT(others); i++) {
        struct made *m = make(GET, others[i], &plain);
        assert_null(made_value(m, "Access-Control-Allow-Origin").p);
        assert_null(made_value(m, "Access-Control-Allow-Credentials").p);
        assert_true(str_eq(made_value(m, "Vary"), S("Origin")));
    }
    settings("", "");
    struct made *m = make(GET, "https://a.test", &plain);
    assert_null(made_value(m, "Access-Control-Allow-Origin").p);
    assert_null(made_value(m, "Vary").p);
}

static void test_standing_headers(void **state)
{
    settings("", "http://x.test");
    struct made *m = make(GET, NULL, &plain);
    assert_true(str_eq(made_value(m, "Content-Security-Policy"), S("default-src 'none'; frame-ancestors 'none'")));
    assert_true(str_eq(made_value(m, "Referrer-Policy"), S("no-referrer")));
    assert_true(str_eq(made_value(m, "X-Content-Type-Options"), S("nosniff")));
    assert_true(str_eq(made_value(m, "Cache-Control"), S("no-store")));
    assert_null(made_value(m, "Strict-Transport-Security").p);
    settings("", "https://x.test");
    m = make(GET, NULL, &plain);
    assert_true(str_starts(made_value(m, "Strict-Transport-Security"), S("max-age=")));
    settings("", "");
}

static void test_a_handler_wins(void **state)
{
    struct made *m = NEW(a, struct made);
    assert_non_null(m);
    m->http = (struct http_request){ .method = GET, .path = S("/docs"), .headers = m->headers };
    m->core.rq = (struct req){ .arena = a, .http = &m->http, .request_id = S("req_1") };
    reply_header(&m->core.rq, "content-security-policy", S("default-src 'self'"));
    headers_make(&m->core, &plain, &m->out);
    assert_true(str_eq(made_value(m, "Content-Security-Policy"), S("default-src 'self'")));
    assert_true(str_eq(made_value(m, "Referrer-Policy"), S("no-referrer")));
}

/* Everything at once stays within its bound. */
static void test_the_longest_head(void **state)
{
    settings("https://a.test", "https://x.test");
    struct made *m = NEW(a, struct made);
    assert_non_null(m);
    m->http = (struct http_request){ .method = OPTIONS, .path = S("/api/v1/x"), .headers = m->headers };
    m->headers[m->http.header_count++] = (struct pair){ S("origin"), S("https://a.test") };
    m->headers[m->http.header_count++] = (struct pair){ S("access-control-request-method"), S("PUT") };
    m->core.rq =
        (struct req){ .arena = a, .http = &m->http, .request_id = S("req_1"), .trace = S("00-" ID "-" SPAN "-01") };
    m->core.allowed = 1u << GET;
    for (int i = 0; i < 40; i++)
        reply_header(&m->core.rq, "X-Many", S("v"));
    assert_int_equal(m->core.rq.answer.header_count, ANSWER_HEADERS_MAX);
    struct letter l = { .status = 503, .type = S("application/problem+json"), .coding = CODING_GZIP, .varies = true };
    headers_make(&m->core, &l, &m->out);
    assert_true(m->out.n <= HEADERS_MAX);
    assert_true(str_eq(made_value(m, "Vary"), S("Origin, Accept-Encoding")));
    assert_true(str_eq(made_value(m, "Content-Encoding"), S("gzip")));
    settings("", "");
}

static void test_too_many_origins(void **state)
{
    struct buf b = { .arena = a };
    for (int i = 0; i < ORIGINS_MAX; i++)
        buf_f(&b, "https://o%d.test,", i);
    struct config c = { .allowed_origins = buf_view(&b), .public_url = S("") };
    assert_int_equal(headers_build(a, &c), OK);
    buf_f(&b, "https://one.more");
    c.allowed_origins = buf_view(&b);
    assert_int_equal(headers_build(a, &c), ERR_TOO_LARGE);
    settings("", "");
}

/* -- proxies ------------------------------------------------------------------------------------------------------- */

#define FOR   "x-forwarded-for"
#define PROTO "x-forwarded-proto"
#define HOST  "x-forwarded-host"

struct spoken {
    const char *what, *peer, *headers[6]; /* pairs of name and value, behind Host: inside */
    const char *remote, *host;            /* as they are then */
    bool tls;
};

static void hear(const struct spoken *s)
{
    struct pair headers[4] = { { S("host"), S("inside") } };
    struct http_request http = { .arena = a, .headers = headers, .header_count = 1, .remote = str_of(s->peer) };
    for (u32 i = 0; i < COUNT(s->headers) && s->headers[i] != NULL; i += 2)
        headers[http.header_count++] = (struct pair){ str_of(s->headers[i]), str_of(s->headers[i + 1]) };
    assert_int_equal(forwarded_apply(&http), OK);
    if (!str_eq(http.remote, str_of(s->remote)) || !str_eq(headers[0].value, str_of(s->host)) || http.tls != s->tls)
        fail_msg("%s: %.*s %.*s %d", s->what, STR_FMT(http.remote), STR_FMT(headers[0].value), http.tls);
}

static void believe(const char *list, const char *form)
{
    struct config c = { .trusted_proxies = str_of(list), .proxy_header = str_of(form) };
    assert_int_equal(forwarded_build(&c), OK);
}

static void test_who_the_client_is(void **state)
{
    static const struct spoken rows[] = {
        { "a stranger says what it likes",
          "203.0.113.9",
          { FOR, "192.0.2.1", PROTO, "https", HOST, "evil" },
          "203.0.113.9",
          "inside",
          false },
        { "the proxy says",
          "10.0.0.1",
          { FOR, "192.0.2.1", PROTO, "https", HOST, "app.example.com" },
          "192.0.2.1",
          "app.example.com",
          true },
        { "what the stranger sent stands to the left",
          "10.0.0.1",
          { FOR, "127.0.0.1, 192.0.2.1" },
          "192.0.2.1",
          "inside",
          false },
        { "two lines are one list", "10.0.0.1", { FOR, "127.0.0.1", FOR, "192.0.2.1" }, "192.0.2.1", "inside", false },
        { "a proxy behind a proxy", "10.0.0.1", { FOR, "6.6.6.6, 192.0.2.1, 10.0.0.2" }, "192.0.2.1", "inside", false },
        { "nobody but proxies", "10.0.0.1", { FOR, "10.0.0.3, 10.0.0.2" }, "10.0.0.3", "inside", false },
        { "with a port", "10.0.0.1", { FOR, "192.0.2.1:4711" }, "192.0.2.1", "inside", false },
        { "IPv6", "fd00::1", { FOR, "2001:DB8::7" }, "2001:db8::7", "inside", false },
        { "IPv6 with a port", "fd00::1", { FOR, "[2001:db8::7]:4711" }, "2001:db8::7", "inside", false },
        { "mapped", "10.0.0.1", { FOR, "::ffff:192.0.2.1" }, "192.0.2.1", "inside", false },
        { "none", "10.0.0.1", { NULL }, "10.0.0.1", "inside", false },
        { "empty", "10.0.0.1", { FOR, "" }, "10.0.0.1", "inside", false },
        { "a comma at the end", "10.0.0.1", { FOR, "192.0.2.1," }, "10.0.0.1", "inside", false },
        { "not an address", "10.0.0.1", { FOR, "192.0.2.1, unknown" }, "10.0.0.1", "inside", false },
        { "not an address further left", "10.0.0.1", { FOR, "unknown, 10.0.0.2" }, "10.0.0.2", "inside", false },
        { "a block is no address", "10.0.0.1", { FOR, "0.0.0.0/0" }, "10.0.0.1", "inside", false },
        { "the other form is not read",
          "10.0.0.1",
          { "forwarded", "for=192.0.2.66;proto=https;host=evil" },
          "10.0.0.1",
          "inside",
          false },
        { "the nearest says the scheme", "10.0.0.1", { PROTO, "https, http" }, "10.0.0.1", "inside", false },
        { "no Host", "10.0.0.1", { HOST, "a b/../c" }, "10.0.0.1", "inside", false },
        { "an empty Host", "10.0.0.1", { HOST, "" }, "10.0.0.1", "inside", false },
    };
    believe("10.0.0.0/8, fd00::/8", "x-forwarded");
    for (u32 i = 0; i < COUNT(rows); i++)
        hear(&rows[i]);
    believe("", "x-forwarded");
    hear(&(struct spoken){
        "nobody is believed", "10.0.0.1", { FOR, "192.0.2.1", HOST, "evil" }, "10.0.0.1", "inside", false });
}

static void test_the_standard_form(void **state)
{
    static const struct spoken rows[] = {
        { "all",
          "10.0.0.1",
          { "forwarded", "for=192.0.2.1;proto=https;host=app.example.com" },
          "192.0.2.1",
          "app.example.com",
          true },
        { "quoted, in any case and order",
          "10.0.0.1",
          { "forwarded", "Host=\"app.example.com:8443\"; FOR=\"[2001:db8::7]:4711\";Proto=HTTPS" },
          "2001:db8::7",
          "app.example.com:8443",
          true },
        { "what the stranger sent stands to the left",
          "10.0.0.1",
          { "forwarded", "for=1.1.1.1;proto=https;host=evil, for=192.0.2.1;proto=http" },
          "192.0.2.1",
          "inside",
          false },
        { "a proxy behind a proxy",
          "10.0.0.1",
          { "forwarded", "for=192.0.2.1;proto=https, for=10.0.0.2;proto=http" },
          "192.0.2.1",
          "inside",
          true },
        { "hidden", "10.0.0.1", { "forwarded", "for=_secret" }, "10.0.0.1", "inside", false },
        { "the other form is not read",
          "10.0.0.1",
          { FOR, "192.0.2.66", PROTO, "https", HOST, "evil" },
          "10.0.0.1",
          "inside",
          false },
        { "a stranger", "192.0.2.9", { "forwarded", "for=192.0.2.1" }, "192.0.2.9", "inside", false },
        { "rubbish", "10.0.0.1", { "forwarded", ";;=,==;for" }, "10.0.0.1", "inside", false },
    };
    believe("10.0.0.0/8", "forwarded");
    for (u32 i = 0; i < COUNT(rows); i++)
        hear(&rows[i]);
    believe("", "x-forwarded");
}

static void test_hops_are_bounded(void **state)
{
    struct buf b = { .arena = a };
    believe("10.0.0.0/8", "x-forwarded");
    BUF_LIT(&b, "192.0.2.1");
    for (u32 i = 1; i < HOPS_MAX; i++)
        BUF_LIT(&b, ",10.0.0.2");
    hear(&(struct spoken){
        "as many as are read", "10.0.0.1", { FOR, str_z(a, buf_view(&b)) }, "192.0.2.1", "inside", false });
    BUF_LIT(&b, ",10.0.0.2");
    hear(&(struct spoken){ "one more", "10.0.0.1", { FOR, str_z(a, buf_view(&b)) }, "10.0.0.2", "inside", false });
    believe("", "x-forwarded");
}

static void test_proxies_are_bounded(void **state)
{
    struct buf b = { .arena = a };
    str bad;
    for (u32 i = 0; i < PROXIES_MAX; i++)
        BUF_LIT(&b, "10.0.0.1,");
    assert_true(forwarded_list_valid(buf_view(&b), &bad));
    BUF_LIT(&b, "10.0.0.2");
    assert_false(forwarded_list_valid(buf_view(&b), &bad));
    assert_true(str_eq(bad, S("10.0.0.2")));
    assert_false(forwarded_list_valid(S("10.0.0.1, proxy.internal"), &bad));
    assert_true(str_eq(bad, S("proxy.internal")));
}

static void test_an_origin_of_ours(void **state)
{
    struct pair headers[] = { { S("host"), S("app.example.com") } };
    struct http_request http = { .headers = headers, .header_count = 1 };
    assert_true(origin_own(&http, S("http://app.example.com")));
    assert_true(origin_own(&http, S("https://app.example.com")));
    assert_false(origin_own(&http, S("https://app.example.com.evil")));
    http.tls = true;
    assert_false(origin_own(&http, S("http://app.example.com"))); /* whoever sits on the wire */
    assert_true(origin_own(&http, S("https://app.example.com")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which_traceparent_is_valid),
        cmocka_unit_test(test_a_trace_goes_on_with_a_span_of_its_own),
        cmocka_unit_test(test_a_span_is_that_of_its_seed),
        cmocka_unit_test(test_which_trace_state_is_handed_on),
        cmocka_unit_test(test_a_wrong_trace_begins_anew),
        cmocka_unit_test(test_negotiation),
        cmocka_unit_test(test_which_types_shrink),
        cmocka_unit_test(test_bytes_come_back),
        cmocka_unit_test(test_bytes_that_stay),
        cmocka_unit_test(test_a_body_is_packed_once),
        cmocka_unit_test(test_entity_tags),
        cmocka_unit_test(test_which_origin_is_valid),
        cmocka_unit_test(test_an_origin_that_is_listed),
        cmocka_unit_test(test_an_origin_that_is_not),
        cmocka_unit_test(test_standing_headers),
        cmocka_unit_test(test_a_handler_wins),
        cmocka_unit_test(test_the_longest_head),
        cmocka_unit_test(test_too_many_origins),
        cmocka_unit_test(test_who_the_client_is),
        cmocka_unit_test(test_the_standard_form),
        cmocka_unit_test(test_hops_are_bounded),
        cmocka_unit_test(test_proxies_are_bounded),
        cmocka_unit_test(test_an_origin_of_ours),
    };
    return cmocka_run_group_tests_name("headers", tests, setup, teardown);
}
