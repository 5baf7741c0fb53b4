/* headers.c - what an answer says beside its body: standing headers, the request's own, and those that an origin may ask for.
 *
 * What a handler gave goes first and wins; ours are defaults. The standing ones are made once: the hot path copies them. An API answer is no
 * page, so its policy lets a browser load nothing from it; a handler that does answer a page gives a policy of its own. */
#include "core/pipeline.h"

#include "codec/url.h"

#include <stdio.h>
#include <string.h>

static const char expose[] =
    "ETag, Link, Location, X-Total-Count, X-Request-Id, Traceparent, RateLimit, RateLimit-Policy, "
    "Retry-After, Idempotent-Replayed, Preference-Applied, Content-Disposition";
static const char request_headers[] =
    "Authorization, Content-Type, Accept, Idempotency-Key, If-Match, If-None-Match, Prefer, "
    "X-API-Key, X-CSRF-Token, X-Weir-Background, X-Request-Id, Traceparent, Last-Event-ID";

/* Written by headers_build before the threads start, constant afterwards. */
static struct {
    struct pair list[HEADERS_STANDING];
    size_t n;
    str origins[ORIGINS_MAX];
    size_t origin_count;
} standing = {
    .list = { { S_INIT("X-Content-Type-Options"), S_INIT("nosniff") },
              { S_INIT("Referrer-Policy"), S_INIT("no-referrer") },
              { S_INIT("Content-Security-Policy"), S_INIT("default-src 'none'; frame-ancestors 'none'") } },
    .n = 3,
};

/* -- settings ------------------------------------------------------------------------------------------------------ */

err headers_build(struct arena *a, const struct config *config)
{
    str rest = config->allowed_origins, one;
    standing.origin_count = 0;
    while (str_cut(&rest, ',', &one)) {
        one = str_trim(one);
        if (one.n == 0)
            continue;
        if (standing.origin_count >= ORIGINS_MAX)
            return ERR_TOO_LARGE;
        if ((standing.origins[standing.origin_count++] = str_dup(a, one)).p == NULL)
            return ERR_MEMORY;
    }
    standing.n = 3;
    if (config->tls_cert.n > 0 || str_starts(config->public_url, S("https://"))) /* else it is reached by plain HTTP */
        standing.list[standing.n++] = (struct pair){ S("Strict-Transport-Security"), S("max-age=31536000") };
    return OK;
}

/* A browser sends the origin of a page in one spelling, so only that one can ever match. */
bool origin_valid(struct arena *a, str origin)
{
    struct url url;
    str lower = str_lower(a, origin);
    i64 host = str_find(origin, S("://"), 0) + 3;
    return host >= 3 && str_eq(origin, lower) && origin.n > (size_t)host &&
           str_find_char(origin, '/', (size_t)host) < 0 && str_find_char(origin, '?', 0) < 0 &&
           str_find_char(origin, '#', 0) < 0 && str_find_char(origin, '@', 0) < 0 &&
           str_find_char(origin, '*', 0) < 0 && url_parse(a, origin, &url) == OK;
}

size_t headers_standing(struct pair *out)
{
    memcpy(out, standing.list, standing.n * sizeof *out);
    return standing.n;
}

/* -- one answer ---------------------------------------------------------------------------------------------------- */

static void add(struct headers *h, str name, str value)
{
    assert(h->n < HEADERS_MAX);
    h->list[h->n++] = (struct pair){ name, value };
}

/* Only the first `given` are the handler's, and mostly there are none. */
static void add_default(struct headers *h, size_t given, str name, str value)
{
    for (size_t i = 0; i < given; i++)
        if (str_eq_nocase(h->list[i].name, name))
            return;
    add(h, name, value);
}

static str methods_text(u32 allowed, char out[ALLOW_BYTES])
{
    size_t n = 0;
    for (int m = 0; m < HTTP_OTHER; m++)
        if (allowed & 1u << m)
            n += (size_t)snprintf(out + n, ALLOW_BYTES - n, "%s%s", n > 0 ? ", " : "",
                                  http_method_name((enum http_method)m));
    return (str){ out, n };
}

bool origin_listed(str origin)
{
    for (size_t i = 0; i < standing.origin_count; i++)
        if (str_eq(origin, standing.origins[i]))
            return true;
    return false;
}

/* The exact origin, never *: so credentials may be allowed as well. An origin that is not listed gets nothing, and its browser shows nothing to it. */
static void add_origin(struct headers *h, size_t given, const struct request_core *c)
{
    const struct http_request *http = c->rq.http;
    str origin = standing.origin_count > 0 ? http_header(http, S("origin")) : STR_NONE;
    if (origin.p == NULL || !origin_listed(origin))
        return;
    add_default(h, given, S("Access-Control-Allow-Origin"), origin);
    add_default(h, given, S("Access-Control-Allow-Credentials"), S("true"));
    if (http->method != OPTIONS || http_header(http, S("access-control-request-method")).p == NULL) {
        add_default(h, given, S("Access-Control-Expose-Headers"), str_of(expose));
        return;
    }
    add_default(h, given, S("Access-Control-Allow-Methods"), methods_text(c->allowed, h->allow));
    add_default(h, given, S("Access-Control-Allow-Headers"), str_of(request_headers));
    add_default(h, given, S("Access-Control-Max-Age"), S("600"));
}

/* Caches are told of Origin as soon as any is allowed, also when this request came without one. Further ones of the handler stand beside it. */
static void add_vary(struct headers *h, bool encoding)
{
    static const str values[] = { STR_NONE, S_INIT("Accept-Encoding"), S_INIT("Origin"),
                                  S_INIT("Origin, Accept-Encoding") };
    size_t which = (size_t)encoding + 2 * (standing.origin_count > 0);
    if (which > 0)
        add(h, S("Vary"), values[which]);
}

static void add_standing(struct headers *h, size_t given, const struct request_core *c)
{
    add_default(h, given, S("X-Request-Id"), c->rq.request_id);
    if (c->rq.trace.p != NULL)
        add(h, S("Traceparent"), c->rq.trace);
    if (given == 0)
        h->n += headers_standing(h->list + h->n);
    for (size_t i = 0; i < standing.n && given > 0; i++)
        add_default(h, given, standing.list[i].name, standing.list[i].value);
}

/* Problems carry none: they are not the object. */
static void add_etag(struct headers *h, size_t given, const struct request_core *c, const struct letter *l)
{
    str coding = coding_name(l->coding);
    if (!c->has_etag || l->status >= 400)
        return;
    int n = snprintf(h->etag, sizeof h->etag, "\"%.*s%s%.*s\"", ETAG_BYTES, c->etag, coding.n > 0 ? "-" : "",
                     STR_FMT(coding));
    add_default(h, given, S("ETag"), (str){ h->etag, (size_t)n });
}

static str number(char *to, size_t size, i64 value)
{
    return (str){ to, (size_t)snprintf(to, size, "%lld", (long long)value) };
}

static void add_limit(struct headers *h, size_t given, const struct request_core *c, int status)
{
    const struct limit_told *t = &c->told;
    const struct limit_policy *p = &t->policy;
    if (p->name == NULL)
        return;
    int n = snprintf(h->policy, sizeof h->policy, "\"%s\";q=%lld;w=%lld", p->name, (long long)p->quota,
                     (long long)p->window_s);
    int m =
        snprintf(h->limit, sizeof h->limit, "\"%s\";r=%lld;t=%lld", p->name, (long long)t->left, (long long)t->reset_s);
    if (n >= (int)sizeof h->policy || m >= (int)sizeof h->limit)
        return;
    add_default(h, given, S("RateLimit-Policy"), (str){ h->policy, (size_t)n });
    add_default(h, given, S("RateLimit"), (str){ h->limit, (size_t)m });
    if (status == 429)
        add_default(h, given, S("Retry-After"), number(h->wait, sizeof h->wait, MAX(t->reset_s, (i64)1)));
}

void headers_make(const struct request_core *c, const struct letter *l, struct headers *h)
{
    const struct req *rq = &c->rq;
    size_t given = rq->answer.header_count;
    bool is_problem = str_eq(l->type, S("application/problem+json"));
    if (given > 0) /* without any there is no list */
        memcpy(h->list, rq->answer.headers, given * sizeof h->list[0]);
    h->n = given;
    if (l->type.n > 0)
        add_default(h, given, S("Content-Type"), l->type);
    if (l->coding != CODING_NONE)
        add(h, S("Content-Encoding"), coding_name(l->coding));
    add_etag(h, given, c, l);
    add_standing(h, given, c);
    if (is_problem || str_starts(rq->http->path, S("/api")))
        add_default(h, given, S("Cache-Control"), S("no-store"));
    if (l->status == 401)
        add_default(h, given, S("WWW-Authenticate"), S("Bearer realm=\"weir\""));
    add_limit(h, given, c, l->status);
    if ((l->status == 429 && c->told.policy.name == NULL) || l->status == 503)
        add_default(h, given, S("Retry-After"), S("1"));
    if (c->endpoint == NULL && c->allowed != 0)
        add_default(h, given, S("Allow"), methods_text(c->allowed, h->allow));
    add_origin(h, given, c);
    add_vary(h, l->varies);
}

void headers_stream(const struct request_core *c, struct headers *h)
{
    h->n = 0;
    add(h, S("Content-Type"), S("text/event-stream"));
    add(h, S("Cache-Control"), S("no-store"));
    add(h, S("X-Accel-Buffering"), S("no")); /* nginx would gather events otherwise */
    add_standing(h, 0, c);
    add_origin(h, 0, c);
    add_vary(h, false);
}

void headers_upgrade(const struct request_core *c, str protocol, str name, str value, struct headers *h)
{
    h->n = 0;
    add(h, S("Upgrade"), protocol);
    add(h, S("Connection"), S("Upgrade"));
    add(h, name, value);
    add_standing(h, 0, c);
}

static str origin_of(str url)
{
    i64 host = str_find(url, S("://"), 0) + 3;
    i64 slash = host >= 3 ? str_find_char(url, '/', (size_t)host) : -1;
    return slash < 0 ? url : str_slice(url, 0, (size_t)slash);
}

/* The page of a server that is reached by TLS was fetched by TLS: http:// with its name is whoever sits on the wire. */
bool origin_own(const struct http_request *http, str origin)
{
    i64 host = str_find(origin, S("://"), 0) + 3;
    if (app.config.public_url.n > 0 && str_eq_nocase(origin, origin_of(app.config.public_url)))
        return true;
    return host >= 3 && (!http->tls || str_starts(origin, S("https://"))) &&
           str_eq_nocase(str_slice(origin, (size_t)host, origin.n), http_header(http, S("host")));
}

bool headers_origin_may(const struct http_request *http)
{
    str origin = http_header(http, S("origin"));
    u32 given = http_header_count(http, S("origin"));
    return given == 0 || (given == 1 && (origin_own(http, origin) || origin_listed(origin)));
}
