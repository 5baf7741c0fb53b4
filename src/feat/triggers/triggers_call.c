/* triggers_call.c - the trigger URL: from a stranger's request to an execution and back.
 *
 * The hot path reads nothing from the database: the trigger comes from a cache per loop, the plan from the engine. Whoever changes a trigger or its
 * workflow forgets the whole cache; for what nobody tells us (a suspended tenant) an entry lives one second. What a check refuses is in `checks`, in
 * order: proof comes before the rate, so that strangers cannot use up the rate of those who may call. They are made at the head, before a byte of the
 * body is taken, and again with the body, which may have been long on its way. */
#include "feat/triggers/triggers_parts.h"

#include "base/clock.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/cache.h"
#include "core/limit.h"
#include "engine/engine.h"
#include "feat/executions/executions.h"

#include <string.h>

enum { HOOKS_CACHED = 4096, HOOK_ARENA = 32 * 1024, REFUSED_PER_SECOND = 10, REFUSED_BURST = 100 };
#define WAIT_US (30 * SECOND_US)

/* ---- answers ---- */

struct call_result {
    struct presence has;
    bool success;
    str execution_id, status, message, output_data;
};
static const struct field result_fields[] = {
    FIELD(struct call_result, success, F_BOOL, .flags = F_OUTPUT,
          .doc = "False when the execution ended in any other way than completed"),
    FIELD(struct call_result, execution_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "execution",
          .doc = "The execution"),
    FIELD(struct call_result, status, F_STR, .flags = F_OUTPUT, .doc = "Status of the execution",
          .example = "\"completed\""),
    FIELD(struct call_result, message, F_STR, .flags = F_OUTPUT,
          .doc = "The same for people; of a failed execution its error"),
    FIELD(struct call_result, output_data, F_JSON, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "What the workflow gave; null while it runs"),
};
const struct table call_result_table =
    TABLE("WebhookResult", struct call_result, result_fields,
          .doc = "What a webhook call came to, where no respond step says otherwise");

/* Any parameters: they are the workflow's. */
const struct table any_query_table = { .name = "WebhookQuery",
                                       .open = true,
                                       .doc = "Any parameters; the workflow reads them" };

PROBLEM(unauthorized, "triggers.unauthorized", ERR_UNAUTHORIZED,
        "The call does not prove that it may call this webhook");
PROBLEM(forbidden_address, "triggers.forbidden_address", ERR_FORBIDDEN,
        "The webhook does not take calls from this address");
PROBLEM(wrong_method, "triggers.method", ERR_METHOD, "The webhook answers another method");
PROBLEM(limited, "triggers.rate_limit", ERR_LIMIT, "The webhook is called more often than it allows");
PROBLEM(too_large, "triggers.too_large", ERR_TOO_LARGE, "The body is longer than the webhook allows");

const struct problem *const call_problems[] = { &trigger_not_found,
                                                &unauthorized,
                                                &forbidden_address,
                                                &wrong_method,
                                                &limited,
                                                &execution_limited,
                                                &execution_quota,
                                                &too_large,
                                                &problem_body_json,
                                                &trigger_body_form,
                                                &problem_idempotency_mismatch,
                                                NULL };

/* ---- the cache ---- */

struct hook { /* immutable, on an arena of its own */
    str id, tenant_id, workflow_id, method, auth_type, dedup_header;
    i64 version, rate_limit, quota; /* 0 = none; the last is the tenant's, of executions in a day */
    size_t max_body;
    bool live, accepted;
    struct trigger_auth auth;
    struct address_block *allowed;
    u32 allowed_count; /* 0 = all */
};

struct hook_row {
    struct presence has;
    str tenant_id, workflow_id, method, auth_type, auth_config, respond, dedup_header, allowed_ips;
    i64 rate_limit, max_body_bytes, version, quota;
    bool live;
};
#define COLUMN(member, kind, ...) FIELD(struct hook_row, member, kind, .doc = "A column of the look-up", __VA_ARGS__)
static const struct field hook_fields[] = {
    COLUMN(tenant_id, F_STR),      COLUMN(workflow_id, F_STR),  COLUMN(method, F_STR),
    COLUMN(auth_type, F_STR),      COLUMN(auth_config, F_JSON), COLUMN(respond, F_STR),
    COLUMN(dedup_header, F_STR),   COLUMN(allowed_ips, F_JSON), COLUMN(rate_limit, F_I64),
    COLUMN(max_body_bytes, F_I64), COLUMN(version, F_I64),      COLUMN(live, F_BOOL),
    COLUMN(quota, F_I64),
};
static const struct table hook_table =
    TABLE("TriggerHook", struct hook_row, hook_fields, .doc = "What a call needs to know");

/* The tenant is what the look-up finds out, so it cannot be asked for one. */
STMT(
    hook_by_id,
    "SELECT t.tenant_id, t.workflow_id, t.method, t.auth_type, t.auth_config, t.respond, t.dedup_header, t.allowed_ips, t.rate_limit, "
    "t.max_body_bytes, w.version, coalesce(c.quota_executions, 0) AS quota, (t.is_active AND w.is_active AND c.status = 'active') AS live "
    "FROM triggers t JOIN workflows w ON w.id = t.workflow_id AND w.tenant_id = t.tenant_id JOIN tenants c ON c.id = t.tenant_id "
    "WHERE t.id = $1 AND w.deleted_at IS NULL",
    .row = &hook_table, .scope = SCOPE_SYSTEM);

CACHE(hooks, "triggers", .capacity = HOOKS_CACHED, .life_us = SECOND_US);

void hooks_forget(void *unused)
{
    cache_forget(&hooks);
}

static err read_addresses(struct arena *a, str text, struct hook *h)
{
    struct json *list;
    if (text.p == NULL)
        return OK;
    TRY(json_parse(a, text, &list, NULL));
    h->allowed = NEW_N(a, struct address_block, list->n);
    if (h->allowed == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < list->n; i++)
        if (!address_block_parse(json_str(&list->items[i]), &h->allowed[h->allowed_count++]))
            return ERR_INTERNAL;
    return OK;
}

static err hook_fill(struct arena *a, str id, const struct hook_row *row, struct hook *h)
{
    const struct {
        str *to, from;
    } texts[] = { { &h->id, id },
                  { &h->tenant_id, row->tenant_id },
                  { &h->workflow_id, row->workflow_id },
                  { &h->method, row->method },
                  { &h->auth_type, row->auth_type },
                  { &h->dedup_header, row->dedup_header } };
    for (u32 i = 0; i < COUNT(texts); i++)
        if (texts[i].from.p != NULL && (*texts[i].to = str_dup(a, texts[i].from)).p == NULL)
            return ERR_MEMORY;
    h->version = row->version;
    h->rate_limit = row->rate_limit;
    h->quota = row->quota;
    h->max_body = (size_t)MIN(row->max_body_bytes, (i64)TRIGGER_BODY_MAX);
    h->live = row->live;
    h->accepted = str_eq(row->respond, S("accepted"));
    str addresses = row->allowed_ips.p != NULL ? str_dup(a, row->allowed_ips) : STR_NONE;
    str config =
        row->auth_config.p != NULL ? str_dup(a, row->auth_config) : STR_NONE; /* what it opens to may borrow from it */
    struct trigger_owner owner = { app.config.secret_key, h->tenant_id, h->id, app.config.secret_key_previous };
    TRY(read_addresses(a, addresses, h));
    return trigger_auth_open(a, &owner, row->auth_type, config, &h->auth);
}

static err hook_load(struct tx *tx, str id, i64 now_us, const struct hook **out)
{
    struct hook_row row;
    u64 epoch = cache_epoch(&hooks);
    TRY(db_row(tx, &hook_by_id, &row, ARGS(STR(id))));
    struct arena *a = arena_new(HOOK_ARENA);
    struct hook *h = a != NULL ? NEW(a, struct hook) : NULL;
    err e = h != NULL ? hook_fill(a, id, &row, h) : ERR_MEMORY;
    if (e != OK) {
        arena_free(a);
        return e;
    }
    cache_put(&hooks, id, h, a, epoch, now_us);
    *out = h;
    return OK;
}

/* From the cache, else from a snapshot: tx, or one of its own where there is none yet. The entry stays until the next look-up of this thread. */
static err hook_find(struct arena *a, struct tx *tx, const str *params, i64 now_us, const struct hook **out)
{
    const struct hook *h = cache_get(&hooks, params[1], now_us);
    struct tx *own = NULL;
    err e = OK;
    if (h == NULL && !typeid_valid(params[1], "trigger"))
        return ERR_NOT_FOUND;
    if (h == NULL && tx == NULL)
        TRY(db_read_begin(app.db, a, true, &own));
    if (h == NULL)
        e = hook_load(tx != NULL ? tx : own, params[1], now_us, &h);
    if (own != NULL)
        db_read_end(own);
    if (e == OK && !str_eq(h->workflow_id, params[0]))
        e = ERR_NOT_FOUND;
    if (e == OK)
        *out = h;
    return e;
}

/* ---- one call ---- */

struct call {
    struct execution_call run;
    struct req *rq;
    const struct hook *hook; /* only until the request is parked; what follows is for afterwards */
    str trigger_id;
    bool accepted;
};

/* Refusals are logged at a rate of their own: strangers must not fill the disk. */
static bool worth_logging(const struct call *c, int status)
{
    i64 retry_after_ms;
    str key = status < 400 ? STR_NONE : strf(c->rq->arena, "refused:%.*s", STR_FMT(c->trigger_id));
    return key.p == NULL || limit_take(key, REFUSED_PER_SECOND, REFUSED_BURST, req_now(c->rq), &retry_after_ms) == OK;
}

/* As it came, or, before it has come, as it was announced. */
static i64 body_size(const struct http_request *http)
{
    i64 announced = 0;
    if (http->body.n > 0 || !str_i64(http_header(http, S("content-length")), 0, INT64_MAX, &announced))
        return (i64)http->body.n;
    return announced;
}

static void log_call(const struct call *c, err outcome)
{
    const struct req *rq = c->rq;
    const struct problem *p = rq->answer.problem;
    int status = outcome != OK ? err_status(outcome) : rq->answer.status;
    if (!worth_logging(c, status))
        return;
    i64 duration_us = clock_mono_us() - rq->http->received_mono_us;
    const struct delivery d = {
        .tenant_id = c->run.tenant_id,
        .trigger_id = c->trigger_id,
        .execution_id = c->run.execution_id,
        .code = p != NULL       ? p->code
                : outcome != OK ? problem_of_class[outcome].code
                                : NULL,
        .status = status,
        .method = http_method_name(rq->http->method),
        .remote = rq->http->remote,
        .body_bytes = body_size(rq->http),
        .duration_us = duration_us,
        .now_us = req_now(rq) + duration_us,
    };
    delivery_log(&d);
}

/* ---- checks, in order ---- */

static err is_live(struct call *c)
{
    return c->hook->live ? OK : problem(c->rq, &trigger_not_found, "There is no such webhook, or it is not active");
}

static err has_method(struct call *c)
{
    struct req *rq = c->rq;
    if (str_eq(rq->http->method_text, c->hook->method))
        return OK;
    reply_header(rq, "Allow", c->hook->method);
    return problem(rq, &wrong_method, "This webhook answers %.*s only", STR_FMT(c->hook->method));
}

static err comes_from_allowed(struct call *c)
{
    struct address_block from;
    const struct hook *h = c->hook;
    bool known = address_block_parse(c->rq->http->remote, &from);
    for (u32 i = 0; known && i < h->allowed_count; i++)
        if (address_block_has(&h->allowed[i], &from))
            return OK;
    return h->allowed_count == 0 ? OK
                                 : problem(c->rq, &forbidden_address, "This webhook does not take calls from %.*s",
                                           STR_FMT(c->rq->http->remote));
}

static err proves_itself(struct call *c)
{
    struct req *rq = c->rq;
    if (trigger_auth_passes(rq->arena, &c->hook->auth, req_header(rq, "x-api-key"), req_header(rq, "authorization"),
                            req_now(rq)))
        return OK;
    if (c->hook->auth.kind != AUTH_API_KEY)
        reply_header(rq, "WWW-Authenticate", S("Bearer realm=\"webhook\""));
    return problem(rq, &unauthorized, "Send what this webhook asks for: %.*s", STR_FMT(c->hook->auth_type));
}

static err fits(struct call *c)
{
    if (body_size(c->rq->http) <= (i64)c->hook->max_body)
        return OK;
    return problem(c->rq, &too_large, "This webhook takes bodies of at most %zu bytes", c->hook->max_body);
}

static err keeps_the_rate(struct call *c)
{
    const struct limit_policy policy = { "webhook", c->hook->rate_limit, 1 };
    err e = policy.quota == 0 ? OK : limit_request(c->rq, &policy, c->hook->id);
    if (e != ERR_LIMIT)
        return e;
    return problem(c->rq, &limited, "This webhook takes %lld calls per second", (long long)c->hook->rate_limit);
}

static err (*const checks[])(struct call *c) = { is_live,       has_method, comes_from_allowed,
                                                 proves_itself, fits,       keeps_the_rate };
enum { AT_HEAD = COUNT(checks) - 1 }; /* the rate is taken once, with the body */

static err check(struct call *c, u32 count)
{
    for (u32 i = 0; i < count; i++)
        TRY(checks[i](c));
    return OK;
}

/* ---- starting ---- */

static err take_input(struct call *c, struct start *start)
{
    struct req *rq = c->rq;
    const struct problem *why = &trigger_body_form;
    struct json_error where = { 0 };
    err e = trigger_input(rq->arena, rq->http, &start->input_data, &why, &where);
    if (e == OK)
        e = trigger_origin(rq->arena, rq->http, c->hook->id, &start->trigger);
    if (e != ERR_DECODE)
        return e;
    if (where.code != NULL)
        return problem_at(rq, why, S(""), where.code, "The body is not valid JSON at byte %zu", where.offset);
    return problem(rq, why, "It holds a bad percent escape, or is not UTF-8");
}

/* The header that the trigger names counts first: senders with delivery ids rarely know Idempotency-Key. */
static err take_key(struct call *c, struct start *start)
{
    struct req *rq = c->rq;
    const struct hook *h = c->hook;
    bool named = h->dedup_header.p != NULL && http_header(rq->http, h->dedup_header).p != NULL;
    str body = rq->http->method == GET ? start->input_data : rq->http->body;
    return execution_dedup(rq, named ? h->dedup_header : S("Idempotency-Key"), h->tenant_id, h->id, body, start);
}

static err answer(struct execution_call *run);

static err run(struct call *c)
{
    const struct hook *h = c->hook;
    struct start start = {
        .traceparent = c->rq->trace, .tracestate = c->rq->trace_state, .now_us = req_now(c->rq), .detached = h->accepted
    };
    TRY(check(c, COUNT(checks)));
    TRY(take_input(c, &start));
    TRY(take_key(c, &start));
    err e = engine_plan(app.engine, c->rq->tx, h->tenant_id, h->workflow_id, h->version, &start.plan);
    if (e == ERR_INVALID || e == ERR_NOT_FOUND)
        return fault(c->rq, "workflow %.*s version %lld does not load: %s", STR_FMT(h->workflow_id),
                     (long long)h->version, err_name(e));
    TRY(e);
    c->run.answer = answer;
    c->run.quota = h->quota;
    return execution_call(c->rq, &c->run, &start, WAIT_US);
}

static err call_new(struct req *rq, struct call **out)
{
    struct call *c = NEW(rq->arena, struct call);
    if (c == NULL)
        return ERR_MEMORY;
    c->rq = rq;
    c->trigger_id = req_param(rq, "trigger_id");
    err e = hook_find(rq->arena, rq->tx, rq->params, req_now(rq), &c->hook);
    if (e == ERR_NOT_FOUND)
        TRY(problem(rq, &trigger_not_found, "There is no such webhook, or it is not active"));
    TRY(e);
    c->accepted = c->hook->accepted;
    c->run.tenant_id = str_dup(rq->arena, c->hook->tenant_id);
    if (c->run.tenant_id.p == NULL)
        return ERR_MEMORY;
    *out = c;
    return OK;
}

/* A look-up that was too slow for the loop is left to the handler, in the pool, which checks all of it. */
err trigger_admit(struct req *rq, size_t *max_body)
{
    struct call *c;
    err e = call_new(rq, &c);
    if (e == ERR_BUSY) {
        *max_body = TRIGGER_BODY_MAX;
        return OK;
    }
    TRY(e);
    e = check(c, AT_HEAD);
    if (e != OK)
        log_call(c, e);
    else
        *max_body = c->hook->max_body;
    return e;
}

err trigger_call(struct req *rq)
{
    struct call *c;
    TRY(call_new(rq, &c));
    err e = run(c);
    if (e != OK && !db_read_was_slow(rq->tx)) /* a slow read runs all of this again */
        log_call(c, e);
    return e;
}

/* ---- answering ---- */

struct ending {
    const char *status;
    int code;
    bool success;
    const char *message;
};
static const struct ending endings[] = {
    { "completed", 200, true, "The workflow completed" },
    { "failed", 500, false, "The workflow failed" },
    { "timed_out", 500, false, "The workflow took too long" },
    { "cancelled", 500, false, "The workflow was cancelled" },
    { NULL, 202, true, "The workflow has been accepted" },
};

static const struct ending *ending_of(str status)
{
    const struct ending *e = endings;
    while (e->status != NULL && !str_eq(status, str_of(e->status)))
        e++;
    return e;
}

/* {code, message, step_id} → message. */
static str error_message(struct arena *a, str error)
{
    struct json *j;
    if (error.p == NULL || json_parse(a, error, &j, NULL) != OK)
        return STR_NONE;
    return json_str(json_get(j, S("message")));
}

static err answer_result(struct req *rq, const struct execution *x)
{
    const struct ending *e = ending_of(x->status);
    struct call_result *r = NEW(rq->arena, struct call_result);
    if (r == NULL)
        return ERR_MEMORY;
    str message = error_message(rq->arena, x->error);
    *r = (struct call_result){
        .success = e->success,
        .execution_id = x->execution_id,
        .status = x->status,
        .message = message.p != NULL ? message : str_of(e->message),
        .output_data = x->output_data,
    };
    field_set_all(&call_result_table, r);
    return reply(rq, e->code, &call_result_table, r);
}

/* A workflow answers for itself, but not for the connection, nor for a proxy in front of us (which would send files of its own), nor for the origin that
 * the console shares with it. */
static const char *const refused_headers[] = {
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "content-type",
    "date",
    "server",
    "set-cookie",
    "set-cookie2",
    "clear-site-data",
    "strict-transport-security",
    "content-security-policy",
    "x-content-type-options",
    "x-request-id",
    "alt-svc",
    "service-worker-allowed",
    "www-authenticate",
    "x-sendfile",
    "x-lighttpd-send-file",
    "nel",
    "report-to",
    "reporting-endpoints",
    "accept-ch",
    "refresh",
    "public-key-pins",
    "public-key-pins-report-only",
    "expect-ct",
    "content-security-policy-report-only",
    NULL,
};
static const char *const refused_prefixes[] = {
    "x-accel-", "sec-", "proxy-", "access-control-allow-credentials", NULL,
};
/* An answer may be a page, on the console's own origin: it runs nothing, loads nothing, sends no form, and is of no origin at all. */
static const char page_policy[] =
    "sandbox; default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

static bool header_refused(str name)
{
    for (u32 i = 0; refused_headers[i] != NULL; i++)
        if (str_eq_nocase(name, str_of(refused_headers[i])))
            return true;
    for (u32 i = 0; refused_prefixes[i] != NULL; i++) {
        str prefix = str_of(refused_prefixes[i]);
        if (str_eq_nocase(str_slice(name, 0, prefix.n), prefix))
            return true;
    }
    return false;
}

static err put_headers(struct req *rq, str headers, str *content_type)
{
    struct json *j;
    if (headers.n == 0)
        return OK;
    TRY(json_parse(rq->arena, headers, &j, NULL));
    for (u32 i = 0; i < j->n; i++) {
        str name = j->members[i].key, value = json_str(&j->members[i].value);
        const char *z = str_z(rq->arena, name);
        if (z == NULL)
            return ERR_MEMORY;
        if (str_eq_nocase(name, S("content-type")))
            *content_type = value;
        else if (!header_refused(name) && value.p != NULL)
            reply_header(rq, z, value);
    }
    return OK;
}

/* A string goes out as it is where the step names its type; everything else is JSON. */
static err answer_response(struct req *rq, const struct outcome *o)
{
    str content_type = STR_NONE, body = o->response_body;
    struct json *j;
    reply_header(rq, "Content-Security-Policy", str_of(page_policy));
    TRY(put_headers(rq, o->response_headers, &content_type));
    if (body.n == 0 || o->response_status == 204 || o->response_status == 304)
        return reply_empty(rq, (int)o->response_status);
    if (content_type.p != NULL) {
        TRY(json_parse(rq->arena, body, &j, NULL));
        if (j->type == JSON_STR)
            return reply_raw(rq, (int)o->response_status, content_type, json_str(j));
    }
    return reply_raw(rq, (int)o->response_status, content_type.p != NULL ? content_type : S("application/json"), body);
}

static err answer(struct execution_call *run)
{
    struct call *c = CONTAINER(run, struct call, run);
    const struct outcome *o = run->outcome;
    err e = execution_refusal(run);
    if (e == OK) {
        c->run.execution_id = o->execution.execution_id;
        bool own = o->has_response && !c->accepted && execution_is_final(o->execution.status);
        e = own ? answer_response(c->rq, o) : answer_result(c->rq, &o->execution);
    }
    log_call(c, e);
    return e;
}
