/* gate.c - who may: the route, the token, the permission, decided when the head is there and before a byte of the body is taken.
 *
 * An unknown path under /api/v1 asks for a token first, so that a stranger cannot map the API by its 404s. */
#include "base/clock.h"
#include "base/log.h"
#include "core/auth.h"
#include "core/pipeline.h"

enum { TOKEN_MAX = 4096 };

/* Set by the auth module at its start, before the threads; core cannot name a feature. */
static authenticate_fn *authenticate;

void gate_authenticate_by(authenticate_fn *fn)
{
    authenticate = fn;
}

/* Exactly one Authorization field of the form "Bearer token"; two would let a proxy and us believe different ones. */
static bool bearer_of(const struct http_request *http, str *token)
{
    str value = http_header(http, S("authorization"));
    if (http_header_count(http, S("authorization")) != 1 || !str_eq_nocase(str_slice(value, 0, 7), S("Bearer ")))
        return false;
    *token = str_trim(str_slice(value, 7, value.n));
    return token->n > 0 && token->n <= TOKEN_MAX;
}

static err identify(struct req *rq)
{
    str token;
    const char *reason = "missing";
    err e = ERR_UNAUTHORIZED;
    if (authenticate != NULL && bearer_of(rq->http, &token))
        e = authenticate(rq, token, &reason);
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
    if (rq->who.role == 0 && http_header_count(rq->http, S("authorization")) > 0) {
        str token;
        const char *reason;
        if (authenticate == NULL || !bearer_of(rq->http, &token) || authenticate(rq, token, &reason) != OK)
            return false;
    }
    return (rq->who.role & need->roles) != 0;
}

bool gate_still_allows(struct req *rq)
{
    struct arena_mark mark = arena_mark(rq->arena);
    struct caller before = rq->who;
    const char *reason;
    str token;
    rq->now_us = clock_now_us();
    err e = bearer_of(rq->http, &token) ? authenticate(rq, token, &reason) : ERR_UNAUTHORIZED;
    bool same = (rq->who.role & rq->route->need->roles) != 0 && str_eq(rq->who.tenant_id, before.tenant_id);
    rq->who = before;
    arena_rewind(rq->arena, mark);
    return e == OK ? same : e != ERR_UNAUTHORIZED; /* what cannot be looked up now is asked again at the next beat */
}

static err permit(struct req *rq)
{
    const struct permission *need = rq->route->need;
    if (need == &anyone || (rq->route->flags & R_NO_AUTH_HEADER))
        return OK;
    TRY(identify(rq));
    err e = limit_caller(rq);
    if (e != OK)
        return e == ERR_LIMIT
                   ? problem(rq, &problem_of_class[ERR_LIMIT], "The plan of this tenant allows no more requests now")
                   : e;
    if ((rq->who.role & need->roles) != 0)
        return OK;
    return problem(rq, &problem_forbidden, "This needs the permission %s", need->name);
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

err gate(struct request_core *c)
{
    struct req *rq = &c->rq;
    const struct http_request *http = rq->http;
    if (wrong_side(c))
        return problem(rq, &problem_route, "There is nothing at this path");
    err e = route_lookup(rq->arena, http->method, http->path, &c->endpoint, rq->params, &c->allowed);
    if (e == ERR_DECODE)
        return problem(rq, &problem_of_class[ERR_DECODE], "The path holds a bad percent escape or is not UTF-8");
    TRY(e);
    if (c->endpoint == NULL)
        return no_endpoint(c);
    rq->route = c->endpoint->route;
    TRY(permit(rq));
    if ((rq->route->flags & R_NEED_MATCH) && http_header(http, S("if-match")).p == NULL)
        return problem(rq, &problem_of_class[ERR_NO_MATCH], "Send If-Match with the ETag of the object that was read");
    return OK;
}
