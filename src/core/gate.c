/* gate.c - who may: the route, the token, the permission, decided when the head is there and before a byte of the body is taken.
 *
 * An unknown path under /api/v1 asks for a token first, so that a stranger cannot map the API by its 404s. A browser sends its cookie whoever asked it to, so with one
 * every change needs two proofs that one of our pages asked: where the request comes from, and a token that only such a page can know. */
#include "base/clock.h"
#include "base/log.h"
#include "codec/url.h"
#include "core/auth.h"
#include "core/nodes.h"
#include "core/pipeline.h"

enum { TOKEN_MAX = 4096 };

PROBLEM_SHARED(problem_csrf, "auth.csrf", ERR_FORBIDDEN, "The request does not come from a page of this server");
PROBLEM_SHARED(problem_totp_setup, "auth.totp_setup_required", ERR_FORBIDDEN, "The tenant asks for a second factor");

/* Set by the auth module at its start, before the threads; core cannot name a feature. */
static authenticate_fn *authenticate;

void gate_authenticate_by(authenticate_fn *fn)
{
    authenticate = fn;
}

/* -- what was sent ------------------------------------------------------------------------------------------------- */

static str cookie_in(str field, str name, u32 *found)
{
    str value = STR_NONE;
    for (str part; str_cut(&field, ';', &part);) {
        part = str_trim(part);
        if (part.n > name.n && str_starts(part, name) && part.p[name.n] == '=') {
            value = str_slice(part, name.n + 1, part.n);
            (*found)++;
        }
    }
    return value;
}

str http_cookie(const struct http_request *http, str name)
{
    str value = STR_NONE;
    u32 found = 0;
    for (u32 i = 0; i < http->header_count; i++)
        if (str_eq(http->headers[i].name, S("cookie"))) {
            str one = cookie_in(http->headers[i].value, name, &found);
            value = one.p != NULL ? one : value;
        }
    return found == 1 && value.n <= TOKEN_MAX ? value : STR_NONE;
}

static bool bearer_of(str value, str *token)
{
    if (!str_eq_nocase(str_slice(value, 0, 7), S("Bearer ")))
        return false;
    *token = str_trim(str_slice(value, 7, value.n));
    return token->n > 0 && token->n <= TOKEN_MAX;
}

/* Exactly one of Authorization and X-API-Key, exactly once: two would let a proxy and us believe different ones. A cookie counts where neither is: browsers send it
 * unasked. */
static bool credential_of(const struct http_request *http, struct credential *out)
{
    u32 tokens = http_header_count(http, S("authorization")), keys = http_header_count(http, S("x-api-key"));
    str text = STR_NONE;
    if (tokens + keys > 1)
        return false;
    if (tokens == 1 && !bearer_of(http_header(http, S("authorization")), &text))
        return false;
    if (keys == 1)
        text = str_trim(http_header(http, S("x-api-key")));
    if (tokens + keys == 1) {
        bool key = str_starts(text, S(API_KEY_PREFIX));
        *out = (struct credential){ key ? CREDENTIAL_KEY : CREDENTIAL_TOKEN, text };
        return key || keys == 0;
    }
    *out = (struct credential){ CREDENTIAL_COOKIE, http_cookie(http, S(COOKIE_ACCESS)) };
    return out->text.n > 0;
}

static bool sent_any(const struct http_request *http)
{
    return http_header_count(http, S("authorization")) + http_header_count(http, S("x-api-key")) > 0 ||
           http_cookie(http, S(COOKIE_ACCESS)).p != NULL;
}

/* -- where it comes from ------------------------------------------------------------------------------------------- */

bool gate_same_origin(const struct req *rq)
{
    const struct http_request *http = rq->http;
    str origin = http_header(http, S("origin")), site = http_header(http, S("sec-fetch-site"));
    if (http_header_count(http, S("origin")) > 1 || (origin.p == NULL && site.p == NULL))
        return false;
    if (origin.p != NULL && origin_listed(origin))
        return true;
    return (origin.p == NULL || origin_own(http, origin)) && (site.p == NULL || str_eq(site, S("same-origin")));
}

static bool is_safe(enum http_method m)
{
    return m == GET || m == HEAD || m == OPTIONS;
}

static err check_csrf(struct req *rq)
{
    if (rq->who.csrf.p == NULL || is_safe(rq->http->method))
        return OK;
    str sent = req_header(rq, "x-csrf-token");
    const char *reason = !gate_same_origin(rq) ? "origin" : !str_eq_secret(sent, rq->who.csrf) ? "token" : NULL;
    if (reason == NULL)
        return OK;
    LOG(LOG_WARN, "gate.csrf", LOG_STR("request_id", rq->request_id), LOG_STR("reason", str_of(reason)),
        LOG_STR("remote", rq->http->remote));
    return problem(rq, &problem_csrf,
                   "Send X-CSRF-Token with the value that the login gave, from a page of this server");
}

/* -- who it is ----------------------------------------------------------------------------------------------------- */

static err identify(struct req *rq)
{
    struct credential c;
    const char *reason = "missing";
    err e = ERR_UNAUTHORIZED;
    rq->background = str_eq(req_header(rq, "x-weir-background"), S("true"));
    if (authenticate != NULL && credential_of(rq->http, &c))
        e = authenticate(rq, &c, &reason);
    if (e == OK)
        return OK;
    if (e != ERR_UNAUTHORIZED)
        return e;
    LOG(LOG_DEBUG, "gate.unauthorized", LOG_STR("request_id", rq->request_id), LOG_STR("reason", str_of(reason)),
        LOG_STR("remote", rq->http->remote));
    return problem(rq, &problem_unauthorized, "Send a valid access token as Authorization: Bearer");
}

bool gate_allows(struct req *rq, const struct permission *need)
{
    if (rq->who.role == 0 && sent_any(rq->http)) {
        struct credential c;
        const char *reason;
        if (authenticate == NULL || !credential_of(rq->http, &c) || authenticate(rq, &c, &reason) != OK)
            return false;
    }
    return caller_may(&rq->who, need);
}

/* Whoever must set up a second factor may do nothing but that. */
static bool must_enroll_first(const struct req *rq)
{
    const struct permission *need = rq->route->need;
    return rq->who.must_enroll && need != &in_person && need != &signed_in;
}

bool gate_still_allows(struct req *rq)
{
    struct arena_mark mark = arena_mark(rq->arena);
    struct caller before = rq->who;
    const char *reason;
    struct credential c;
    rq->now_us = clock_now_us();
    rq->background = true;
    err e = credential_of(rq->http, &c) ? authenticate(rq, &c, &reason) : ERR_UNAUTHORIZED;
    bool same =
        caller_may(&rq->who, rq->route->need) && !must_enroll_first(rq) && str_eq(rq->who.tenant_id, before.tenant_id);
    rq->who = before;
    arena_rewind(rq->arena, mark);
    return e == OK ? same : e != ERR_UNAUTHORIZED; /* what cannot be looked up now is asked again at the next beat */
}

/* -- the gate ------------------------------------------------------------------------------------------------------ */

static err may_pass(struct req *rq)
{
    const struct permission *need = rq->route->need;
    if (must_enroll_first(rq))
        return problem(rq, &problem_totp_setup, "Set it up first: POST /api/v1/auth/2fa/setup");
    if (caller_may(&rq->who, need))
        return OK;
    return problem(rq, &problem_forbidden, "This needs the permission %s", need->name);
}

static bool is_open(const struct route *r)
{
    return r->need == &anyone || (r->flags & R_NO_AUTH_HEADER) != 0;
}

err gate_again(struct req *rq)
{
    if (is_open(rq->route) || rq->http->body.n == 0)
        return OK;
    TRY(identify(rq));
    return may_pass(rq);
}

static err permit(struct req *rq)
{
    if (is_open(rq->route))
        return OK;
    TRY(identify(rq));
    TRY(check_csrf(rq));
    TRY(limit_caller(rq));
    return may_pass(rq);
}

static err nowhere(struct req *rq)
{
    str path = rq->http->path;
    if (str_eq(path, S("/api/v1")) || str_starts(path, S("/api/v1/")))
        TRY(identify(rq));
    return problem(rq, &problem_route, "There is nothing at this path");
}

/* /metrics moves to its own listener as a whole when there is one: scraping needs no token, so the public side must not have it. */
static bool wrong_side(const struct request_core *c)
{
    bool metrics = str_eq(c->rq.http->path, S("/metrics")) || str_eq(c->rq.http->path, S("/metrics/"));
    return c->listener->metrics_only ? !metrics : metrics && app.config.metrics_listen.n > 0;
}

static err no_endpoint(struct request_core *c)
{
    struct req *rq = &c->rq;
    if (c->allowed == 0)
        return nowhere(rq);
    if (rq->http->method == OPTIONS)
        return reply_empty(rq, 204);
    return problem(rq, &problem_method, "%.*s is not a method of this path", STR_FMT(rq->http->method_text));
}

/* Where there is nothing at the path as it was sent, an alias may lead somewhere; from there on the request is one of the path that answers. */
static err lookup(struct request_core *c)
{
    struct req *rq = &c->rq;
    struct http_request *http = rq->http;
    str path;
    TRY(route_lookup(rq->arena, http->method, http->path, &c->endpoint, rq->params, &c->allowed));
    if (c->endpoint != NULL || c->allowed != 0)
        return OK;
    TRY(route_alias(rq->arena, http->path, &path));
    if (path.p == NULL)
        return OK;
    TRY(route_lookup(rq->arena, http->method, path, &c->endpoint, rq->params, &c->allowed));
    if (c->endpoint != NULL || c->allowed != 0)
        http->path = path;
    return OK;
}

/* A node that only runs executions is there for its keepers. What it does not serve is no secret, so nobody has to sign in to hear it. */
static bool not_here(const struct request_core *c)
{
    return !node_answers() && (c->endpoint == NULL || !(c->endpoint->route->flags & R_OPERATIONAL));
}

err gate(struct request_core *c)
{
    struct req *rq = &c->rq;
    struct http_request *http = rq->http;
    TRY(url_plain(rq->arena, http->path, &http->path)); /* all that looks at it sees what the routes see */
    if (wrong_side(c))
        return problem(rq, &problem_route, "There is nothing at this path");
    err e = lookup(c);
    if (e == ERR_DECODE)
        return problem(rq, &problem_of_class[ERR_DECODE], "The path holds a bad percent escape or is not UTF-8");
    TRY(e);
    if (not_here(c))
        return problem(rq, &problem_route, "This node only runs executions (WEIR_ROLE is worker)");
    if (c->endpoint == NULL)
        return no_endpoint(c);
    rq->route = c->endpoint->route;
    TRY(permit(rq));
    if ((rq->route->flags & R_NEED_MATCH) && http_header(http, S("if-match")).p == NULL)
        return problem(rq, &problem_of_class[ERR_NO_MATCH], "Send If-Match with the ETag of the object that was read");
    return OK;
}
