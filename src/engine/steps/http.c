/* http.c - one outgoing HTTP request through the egress guard. JSON answers become values; what failed for a passing reason says so. */
#include "engine/steps/kinds.h"
#include "codec/base64.h"
#include "codec/time.h"
#include "codec/url.h"

enum { HTTP_ANSWER_BYTES = EXPR_VALUE_BYTES, HTTP_HEADERS_MAX = 50, HTTP_REDIRECTS_MAX = 10 };

static const char *const methods[] = { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", NULL };

static const struct field header_field =
    SHAPE_FIELD("header", F_STR, .flags = F_EXPR, .max = 8192, .doc = "A header's value");
static const struct field status_field = SHAPE_FIELD("status", F_I64, .min = 100, .max = 599, .doc = "An HTTP status");

static const struct field fields[] = {
    SHAPE_FIELD("method", F_STR, .one_of = methods, .preset = "\"GET\"", .doc = "HTTP method"),
    SHAPE_FIELD("url", F_STR, .flags = F_REQUIRED | F_EXPR, .min = 1, .max = 8192,
                .doc = "http or https; values of expressions inside it are percent-encoded",
                .example = "\"https://api.example.com/customers/{{ input.customer }}\""),
    SHAPE_FIELD("query", F_MAP, .flags = F_EXPR, .item = F_JSON, .max = 100,
                .doc = "Query parameters; a list repeats its name, null leaves it out"),
    SHAPE_FIELD("headers", F_MAP, .flags = F_EXPR, .each = &header_field, .max = HTTP_HEADERS_MAX,
                .doc = "Header names and values"),
    SHAPE_FIELD("body", F_JSON, .flags = F_EXPR | F_NULLABLE, .doc = "A JSON value; a string is sent as it is"),
    SHAPE_FIELD("follow_redirects", F_I64, .flags = F_EXPR, .min = 0, .max = HTTP_REDIRECTS_MAX, .preset = "0",
                .doc = "How many redirects to follow"),
    SHAPE_FIELD("expect_status", F_LIST, .each = &status_field, .max = 50,
                .doc = "Statuses that count as success; without it, those below 400"),
};
const struct table kind_http_with = SHAPE("HttpWith", fields, .doc = "An HTTP request");

static void out_of_memory(struct step_attempt *s)
{
    step_starved(s);
}

/* An integer that the table has checked; JSON may have written it as 200.0. */
static i64 integer_of(const struct json *j, i64 otherwise)
{
    if (j == NULL)
        return otherwise;
    return j->type == JSON_INT ? j->integer : j->type == JSON_REAL ? (i64)j->real : otherwise;
}

/* --- the request ------------------------------------------------------------------------------------------------ */

static bool put_parameter(struct buf *b, str name, const struct json *value)
{
    if (value->type == JSON_NULL)
        return true;
    if (value->type == JSON_OBJECT)
        return false;
    if (value->type == JSON_ARRAY) {
        bool good = true;
        for (u32 i = 0; i < value->n; i++)
            good &= value->items[i].type != JSON_ARRAY && put_parameter(b, name, &value->items[i]);
        return good;
    }
    buf_char(b, b->n == 0 ? '?' : '&');
    url_put_encoded(b, name);
    buf_char(b, '=');
    str text = json_str(value);
    url_put_encoded(b, text.p != NULL ? text : json_text(b->arena, value));
    return true;
}

/* A segment `.` or `..`, also percent-encoded, is taken away on the way (RFC 3986 §5.2.4): a value that an expression put into the path could then
 * reach another resource than the one that was meant. */
static bool has_dot_segment(str url)
{
    i64 authority = str_find(url, S("://"), 0);
    i64 path = authority >= 0 ? str_find_char(url, '/', (size_t)authority + 3) : -1;
    if (path < 0)
        return false;
    size_t end = (size_t)path;
    while (end < url.n && url.p[end] != '?' && url.p[end] != '#')
        end++;
    str rest = str_slice(url, (size_t)path + 1, end), part;
    while (str_cut(&rest, '/', &part)) {
        u32 dots = 0;
        size_t i = 0;
        while (i < part.n) {
            bool encoded =
                str_starts(str_slice(part, i, part.n), S("%2e")) || str_starts(str_slice(part, i, part.n), S("%2E"));
            if (part.p[i] != '.' && !encoded)
                break;
            i += encoded ? 3 : 1;
            dots++;
        }
        if (i == part.n && (dots == 1 || dots == 2))
            return true;
    }
    return false;
}

/* The URL with `query` appended before any fragment. */
static bool build_url(struct step_attempt *s, str *out)
{
    str url = json_str(json_get(s->with, S("url")));
    const struct json *query = json_get(s->with, S("query"));
    struct buf b = { .arena = s->arena, .max = 64 * KIB };
    bool good = true;
    if (has_dot_segment(url)) {
        step_fail(s, "step.input", false, "The path of 'url' holds a segment '.' or '..'");
        return false;
    }
    for (u32 i = 0; query != NULL && i < query->n; i++)
        good &= put_parameter(&b, query->members[i].key, &query->members[i].value);
    if (!good) {
        step_fail(s, "step.input", false, "'query' holds an object; only scalars and lists of them can be sent");
        return false;
    }
    i64 fragment = str_find_char(url, '#', 0);
    if (fragment >= 0)
        url = str_slice(url, 0, (size_t)fragment);
    if (b.n > 0 && str_find_char(url, '?', 0) >= 0)
        b.p[0] = '&';
    *out = b.n > 0 ? str_concat(s->arena, (str[]){ url, buf_view(&b) }, 2) : url;
    if (b.fail != OK || out->p == NULL) {
        out_of_memory(s);
        return false;
    }
    return true;
}

static bool has_header(const struct client_request *r, str name)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (str_eq_nocase(r->headers[i].name, name))
            return true;
    return false;
}

/* A trace that the step names itself is another one than ours, and our state would be wrong beside it. */
static void add_trace(const struct step_attempt *s, struct client_request *r, struct pair *list)
{
    if (s->traceparent.p == NULL || has_header(r, S("traceparent")))
        return;
    list[r->header_count++] = (struct pair){ S("traceparent"), s->traceparent };
    if (s->tracestate.p != NULL && !has_header(r, S("tracestate")))
        list[r->header_count++] = (struct pair){ S("tracestate"), s->tracestate };
}

static bool build_headers(struct step_attempt *s, struct client_request *r, bool json_body)
{
    const struct json *given = json_get(s->with, S("headers"));
    u32 count = given != NULL ? given->n : 0;
    struct pair *list = NEW_N(s->arena, struct pair, count + 4);
    if (list == NULL)
        return false;
    r->headers = list;
    for (u32 i = 0; i < count; i++)
        list[r->header_count++] = (struct pair){ given->members[i].key, json_str(&given->members[i].value) };
    if (json_body && !has_header(r, S("content-type")))
        list[r->header_count++] = (struct pair){ S("Content-Type"), S("application/json") };
    if (!has_header(r, S("idempotency-key")))
        list[r->header_count++] = (struct pair){ S("Idempotency-Key"), s->idempotency_key };
    add_trace(s, r, list);
    return true;
}

static void http_start(struct step_attempt *s)
{
    struct client_request r = { .timeout_us = s->timeout_us,
                                .connect_us = MIN(s->timeout_us, 10 * SECOND_US),
                                .max_body_bytes = HTTP_ANSWER_BYTES };
    if (!build_url(s, &r.url))
        return;
    str method = json_str(json_get(s->with, S("method")));
    r.method = method.p != NULL ? method : S("GET");
    const struct json *body = json_get(s->with, S("body"));
    bool has_body = body != NULL && body->type != JSON_NULL;
    bool json_body = has_body && body->type != JSON_STR;
    if (has_body)
        r.body = json_body ? json_text(s->arena, body) : json_str(body);
    if ((has_body && r.body.p == NULL) || !build_headers(s, &r, json_body)) {
        out_of_memory(s);
        return;
    }
    r.redirects = (u32)integer_of(json_get(s->with, S("follow_redirects")), 0);
    s->result = (struct step_result){ .what = RESULT_OUTSIDE, .request = r };
}

/* --- the answer ------------------------------------------------------------------------------------------------- */

static str answer_header(const struct client_answer *answer, str name)
{
    for (size_t i = 0; i < answer->header_count; i++)
        if (str_eq(answer->headers[i].name, name))
            return answer->headers[i].value;
    return STR_NONE;
}

/* A header that came more than once is joined by ", " (RFC 9110 §5.3); set-cookie, which must not be, by a line feed. */
static bool headers_value(struct step_attempt *s, const struct client_answer *answer, struct json *out)
{
    *out = (struct json){ .type = JSON_OBJECT };
    for (size_t i = 0; i < answer->header_count; i++) {
        str name = answer->headers[i].name, value = answer->headers[i].value;
        if (!str_utf8(name) || !str_utf8(value))
            continue;
        const struct json *before = json_get(out, name);
        if (before != NULL) {
            str by = str_eq(name, S("set-cookie")) ? S("\n") : S(", ");
            value = str_concat(s->arena, (str[]){ json_str(before), by, value }, 3);
        }
        if (value.p == NULL || !json_set(s->arena, out, name, json_of_str(value)))
            return false;
    }
    return true;
}

/* JSON when it says so and is so, else text, else base64 (then `body_encoding` tells). */
static bool body_value(struct step_attempt *s, const struct client_answer *answer, struct json *body, bool *encoded)
{
    str type = answer_header(answer, S("content-type"));
    struct json *parsed = NULL;
    struct json_error where;
    *encoded = false;
    if (str_find(type, S("json"), 0) >= 0) {
        err e = json_parse(s->arena, answer->body, &parsed, &where);
        if (e == ERR_MEMORY)
            return false;
        if (e == OK) {
            *body = *parsed;
            return true;
        }
    }
    if (str_utf8(answer->body)) {
        *body = json_of_str(answer->body.p != NULL ? answer->body : S(""));
        return true;
    }
    *encoded = true;
    str text = base64_encode(s->arena, BASE64, answer->body);
    *body = json_of_str(text);
    return text.p != NULL;
}

static bool expected(const struct json *with, int status)
{
    const struct json *list = json_get(with, S("expect_status"));
    if (list == NULL)
        return status < 400;
    for (u32 i = 0; i < list->n; i++)
        if (integer_of(&list->items[i], 0) == status)
            return true;
    return false;
}

static bool passing(int status)
{
    return status == 408 || status == 425 || status == 429 || status >= 500;
}

/* Retry-After (RFC 9110 §10.2.3): seconds or a date. */
static i64 retry_after_us(const struct client_answer *answer, i64 now_us)
{
    str text = answer_header(answer, S("retry-after"));
    i64 seconds, at_us;
    if (str_i64(text, 0, 86400, &seconds))
        return seconds * SECOND_US;
    return text.p != NULL && time_http_parse(text, &at_us) && at_us > now_us ? MIN(at_us - now_us, DAY_US) : 0;
}

static void http_answered(struct step_attempt *s, const struct client_answer *answer)
{
    if (answer->error != OK) {
        step_fail(s, answer->code, err_retryable(answer->error), "%.*s", STR_FMT(answer->detail));
        return;
    }
    if (!expected(s->with, answer->status)) {
        str url = json_str(json_get(s->with, S("url")));
        struct url parts;
        str host = url_parse(s->arena, url, &parts) == OK ? parts.host : S("the server");
        step_fail(s, "http.status", passing(answer->status), "%.*s answered %d", STR_FMT(host), answer->status);
        s->result.retry_after_us = retry_after_us(answer, s->now_us);
        return;
    }
    struct json headers, body, out = { .type = JSON_OBJECT };
    bool encoded;
    if (!headers_value(s, answer, &headers) || !body_value(s, answer, &body, &encoded) ||
        !json_set(s->arena, &out, S("status"), json_of_i64(answer->status)) ||
        !json_set(s->arena, &out, S("headers"), headers) || !json_set(s->arena, &out, S("body"), body) ||
        (encoded && !json_set(s->arena, &out, S("body_encoding"), json_of_str(S("base64"))))) {
        out_of_memory(s);
        return;
    }
    step_complete(s, out);
}

const struct step_kind kind_http = {
    .type = "http",
    .doc = "Sends an HTTP request",
    .with = &kind_http_with,
    .special = "url",
    .special_use = EXPR_URL,
    .outside = true,
    .timeout_us = 30 * SECOND_US,
    .output_doc = "{status, headers, body}; JSON bodies are values",
    .start = http_start,
    .answered = http_answered,
};
