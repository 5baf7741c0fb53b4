/* req.c - the road of a request: head → gate → body → handler → answer; and the two side roads, the pool and the parking place.
 *
 * A request is owned by one thread at a time. It changes hands only by message, task or job, all of which are embedded in its
 * request_core, so a hand-over cannot fail for want of memory. What arrives on the loop continues in a function of two arguments
 * (request, outcome); there is no state variable that could disagree with where it is. */
#include "base/clock.h"
#include "base/log.h"
#include "codec/typeid.h"
#include "codec/url.h"
#include "core/auth.h"
#include "core/forwarded.h"
#include "core/pipeline.h"
#include "core/trace.h"
#include "net/refusal.h"

#include <string.h>

enum {
    REQUEST_ID_MAX = 64,
    NO_BODY_MAX = 1 << 10,
    BODY_ON_LOOP_MAX =
        64 << 10, /* a W_WAIT handler with a longer one runs in the pool: reading it would hold up the loop */
};

/* For routes without body or query: whatever is given is unknown. */
static const struct table nothing = { .name = "Nothing" };

str req_param(const struct req *rq, const char *name)
{
    u32 i = 0;
    while (i < COUNT(rq->params) && !str_eq(route_param_name(rq->route, i), str_of(name)))
        i++;
    assert(i < COUNT(rq->params)); /* else the handler names a parameter that its own route lacks */
    return rq->params[i];
}

str req_header(const struct req *rq, const char *lower_name)
{
    return http_header(rq->http, str_of(lower_name));
}

/* Whoever signed in sees the rows of that tenant, and a statement that names another one is refused. */
static void hold_to_caller(struct req *rq, struct tx *tx)
{
    if (rq->who.tenant_id.p != NULL)
        db_act_for(tx, rq->who.tenant_id);
}

err req_read(struct req *rq, struct tx **tx)
{
    TRY(db_read_begin(app.db, rq->arena, true, tx));
    hold_to_caller(rq, *tx);
    return OK;
}

/* -- the head ------------------------------------------------------------------------------------------------------ */

static bool request_id_sane(str id)
{
    if (id.n == 0 || id.n > REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        char c = id.p[i];
        bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!word && c != '_' && c != '.' && c != '-')
            return false;
    }
    return true;
}

static struct request_core *core_new(const struct listener *listener, struct http_request *http)
{
    struct request_core *c = NEW(http->arena, struct request_core);
    if (c == NULL)
        return NULL;
    c->listener = listener;
    struct req *rq = &c->rq;
    rq->arena = http->arena;
    rq->http = http;
    rq->core = c;
    rq->now_us = clock_now_us();
    str id = http_header(http, S("x-request-id"));
    rq->request_id = request_id_sane(id) ? id : typeid_new(rq->arena, "req", rq->now_us);
    u32 given = http_header_count(http, S("traceparent"));
    rq->trace = trace_next(rq->arena, http_header(http, S("traceparent")), given);
    if (given == 1 && trace_valid(http_header(http, S("traceparent"))))
        rq->trace_state = trace_state(rq->arena, http->headers, http->header_count);
    c->mark = arena_mark(rq->arena);
    rq->errors.arena = rq->arena;
    bool good = rq->request_id.p != NULL && rq->trace.p != NULL && forwarded_apply(http) == OK;
    return good ? c : NULL;
}

static err body_limit(struct request_core *c, size_t *limit)
{
    const struct route *r = c->rq.route;
    if (r->flags & R_ADMIT)
        return r->admit(&c->rq, limit);
    if (r->in == NULL && !(r->flags & R_RAW_BODY))
        *limit = NO_BODY_MAX;
    else
        *limit = r->max_body != 0 ? r->max_body : ROUTE_BODY_MAX;
    return OK;
}

/* The whole gate is passed here, at the head, so that a stranger cannot make us take a body. */
static size_t admit(void *ctx, struct http_request *http)
{
    struct request_core *c = core_new(ctx, http);
    http->user = c;
    http->refused = 503;
    if (c == NULL)
        return 0;
    size_t limit = 0;
    c->outcome = gate(c);
    if (c->outcome == OK && c->rq.answer.status == 0)
        c->outcome = body_limit(c, &limit);
    http->refused = c->outcome != OK ? err_status(c->outcome) : c->rq.answer.status;
    return http->refused != 0 ? 0 : limit;
}

/* -- body and query ------------------------------------------------------------------------------------------------ */

/* "application/json" or "application/<any>+json"; of the parameters only charset=utf-8. */
static bool media_is_json(str value)
{
    str type = STR_NONE, parameter;
    if (!str_cut(&value, ';', &type))
        return false;
    type = str_trim(type);
    while (str_cut(&value, ';', &parameter))
        if (!str_eq_nocase(str_trim(parameter), S("charset=utf-8")) &&
            !str_eq_nocase(str_trim(parameter), S("charset=\"utf-8\"")))
            return false;
    if (str_eq_nocase(type, S("application/json")))
        return true;
    return str_eq_nocase(str_slice(type, 0, 12), S("application/")) && type.n > 17 &&
           str_eq_nocase(str_slice(type, type.n - 5, type.n), S("+json"));
}

static err parse(struct req *rq, str text)
{
    struct json_error where = { 0 };
    struct json *json;
    err e = json_parse(rq->arena, text, &json, &where);
    if (e == ERR_DECODE)
        return problem_at(rq, &problem_body_json, S(""), where.code, "The body is not valid JSON at byte %zu",
                          where.offset);
    TRY(e);
    rq->json = json;
    return OK;
}

static err take_body(struct req *rq, str *text)
{
    *text = rq->http->body;
    if (text->n == 0 && rq->route->in != NULL && !(rq->route->flags & R_OPTIONAL_BODY))
        return problem(rq, &problem_body_json, "A JSON body is required here");
    if (text->n == 0)
        *text = S("{}");
    else if (!media_is_json(req_header(rq, "content-type")))
        return problem(rq, &problem_body_media, "Send the body as application/json");
    return OK;
}

static err decode_body(struct req *rq)
{
    const struct route *r = rq->route;
    if (r->flags & R_RAW_BODY)
        return OK;
    if (r->in == NULL && rq->http->body.n == 0) /* most requests */
        return OK;
    const struct table *t = r->in != NULL ? r->in : &nothing;
    str text;
    TRY(take_body(rq, &text));
    TRY(parse(rq, text));
    void *out = t->size != 0 ? arena_alloc(rq->arena, t->size) : NULL;
    if (out == NULL && t->size != 0)
        return ERR_MEMORY;
    TRY(field_decode(rq->arena, t, r->flags & R_PATCH ? FIELD_PATCH : FIELD_CREATE, rq->json, S(""), out, &rq->errors));
    rq->body = out;
    return OK;
}

/* ?fields=id,name: bits of .out. */
static err take_mask(struct req *rq, str names)
{
    const struct table *t = rq->route->out;
    err e = OK;
    for (str name; str_cut(&names, ',', &name);) {
        int i = field_index(t, name);
        if (i >= 0 && !(t->fields[i].flags & (F_INPUT | F_HIDDEN)))
            rq->core->mask |= (u64)1 << i;
        else
            e = problems_add(&rq->errors, S("query/fields"), "field.one_of", "\"%.*s\" is no member of %s",
                             STR_FMT(str_slice(name, 0, 64)), t->name);
    }
    return e == OK && rq->core->mask == 0
               ? problems_add(&rq->errors, S("query/fields"), "field.length", "must name one member at least")
               : e;
}

static err take_fields(struct req *rq, struct pair *pairs, size_t *count)
{
    size_t kept = 0;
    bool seen = false;
    err e = OK;
    for (size_t i = 0; i < *count; i++) {
        if (!str_eq(pairs[i].name, S("fields"))) {
            pairs[kept++] = pairs[i];
            continue;
        }
        err one = seen ? problems_add(&rq->errors, S("query/fields"), "field.repeated", "is given more than once")
                       : take_mask(rq, pairs[i].value);
        seen = true;
        if (one != OK && one != ERR_INVALID)
            return one;
        e = one != OK ? one : e;
    }
    *count = kept;
    return e;
}

/* Takes what the pipeline itself reads out of the pairs. Both are looked at, as below. */
static err take_own(struct req *rq, struct pair *pairs, size_t *count)
{
    err fields = route_masks(rq->route) ? take_fields(rq, pairs, count) : OK;
    if (fields != OK && fields != ERR_INVALID)
        return fields;
    err list = rq->route->list != NULL ? list_take(rq, pairs, count) : OK;
    return list != OK ? list : fields;
}

static err decode_query(struct req *rq)
{
    const struct table *t = rq->route->query != NULL ? rq->route->query : &nothing;
    if ((rq->http->query.n == 0 && t == &nothing) || (t->open && t->count == 0))
        return OK;
    struct pair *pairs = NULL;
    size_t count = 0;
    err e = url_form(rq->arena, rq->http->query, &pairs, &count);
    if (e == ERR_DECODE || e == ERR_INVALID)
        return problem(rq, &problem_of_class[ERR_DECODE], "The query holds a bad percent escape or is not UTF-8");
    TRY(e);
    err own = take_own(rq, pairs, &count);
    if (own != OK && own != ERR_INVALID)
        return own;
    void *out = t->size != 0 ? arena_alloc(rq->arena, t->size) : NULL;
    if (out == NULL && t->size != 0)
        return ERR_MEMORY;
    TRY(field_decode_query(rq->arena, t, pairs, count, out, &rq->errors));
    rq->query = out;
    return own;
}

/* Both are looked at before either is refused, so that one answer names all that is wrong. */
static err decode(struct req *rq)
{
    err query = decode_query(rq);
    if (query != OK && query != ERR_INVALID)
        return query;
    TRY(decode_body(rq));
    return query;
}

/* -- running handlers ---------------------------------------------------------------------------------------------- */

static void post(struct request_core *c, void (*run)(struct message *))
{
    c->message.run = run;
    loop_post(c->rq.http->loop, &c->message);
}

static struct request_core *of_message(struct message *m)
{
    return CONTAINER(m, struct request_core, message);
}

static err read_steps(struct request_core *c, handler_fn *fn)
{
    struct req *rq = &c->rq;
    if (rq->route->work == W_WRITE) /* a change compares in its transaction */
        return fn(rq);
    TRY(conditional_before(c));
    if (rq->answer.status != 0)
        return OK;
    TRY(fn(rq));
    return conditional_read(c);
}

static err read_from_top(struct request_core *c, handler_fn *fn, bool fast, bool once, bool *slow)
{
    struct req *rq = &c->rq;
    req_rewind(c);
    TRY(db_read_begin(app.db, rq->arena, fast, &rq->tx));
    db_read_repeats(rq->tx);
    if (once)
        db_read_once(rq->tx);
    hold_to_caller(rq, rq->tx);
    err e = read_steps(c, fn);
    *slow = (e != OK || once) && !c->parked && db_read_was_slow(rq->tx);
    db_read_end(rq->tx);
    rq->tx = NULL;
    return e;
}

/* From the top, on the calling thread. *slow: the read took too long for a loop and must run again elsewhere. Most reads need one look at the store; which
 * routes need more is found when one does, and remembered. */
static err run_reading(struct request_core *c, handler_fn *fn, bool fast, bool *slow)
{
    atomic_bool *looks_again = &c->endpoint->looks_again;
    *slow = false;
    if (c->rq.route->flags & R_NO_STORE) {
        req_rewind(c);
        return fn(&c->rq);
    }
    bool once = !fast && c->rq.route->work == W_READ && !atomic_load_explicit(looks_again, memory_order_relaxed);
    err e = read_from_top(c, fn, fast, once, slow);
    if (fast || !*slow)
        return e;
    if (e == ERR_BUSY && !conditional_asked(c)) /* a condition that does not hold is the request's, not the route's */
        atomic_store_explicit(looks_again, true, memory_order_relaxed);
    return read_from_top(c, fn, false, false, slow);
}

static void left_parked(struct request_core *c);

static void pool_done(struct message *m)
{
    struct request_core *c = of_message(m);
    if (c->parked)
        left_parked(c);
    else
        c->then(c, c->outcome);
}

static void pool_run(struct task *t)
{
    struct request_core *c = CONTAINER(t, struct request_core, task);
    bool slow;
    bool late = c->queued_us != 0 && clock_mono_us() - c->queued_us > app.config.db_pool_wait_s * SECOND_US;
    c->outcome = late ? ERR_BUSY : run_reading(c, c->next, false, &slow);
    post(c, pool_done);
}

static void in_pool_of(struct pool *pool, struct request_core *c, handler_fn *fn,
                       void (*then)(struct request_core *, err))
{
    c->next = fn;
    c->then = then;
    c->task.run = pool_run;
    c->queued_us = pool == app.reads ? clock_mono_us() : 0;
    err e = pool_submit(pool, &c->task);
    if (e == OK)
        return;
    req_forget_answer(c);
    reply_send(c, e);
}

static void in_pool(struct request_core *c, handler_fn *fn, void (*then)(struct request_core *, err))
{
    in_pool_of(c->rq.route->flags & R_HASHES ? app.hashing : app.slow, c, fn, then);
}

/* A read that the store stopped is not resumed but repeated: the handler is a straight line, and its snapshot is gone. Where each read waits for another
 * machine (PostgreSQL) nothing is tried on the loop. */
static void on_loop(struct request_core *c, handler_fn *fn, void (*then)(struct request_core *, err))
{
    bool slow;
    if (app.reads != NULL && !(c->rq.route->flags & R_NO_STORE))
        return in_pool_of(app.reads, c, fn, then);
    err e = run_reading(c, fn, true, &slow);
    if (slow)
        in_pool(c, fn, then);
    else if (c->parked)
        left_parked(c);
    else
        then(c, e);
}

/* -- writing ------------------------------------------------------------------------------------------------------- */

err req_after(struct req *rq, void (*fn)(void *arg), void *arg)
{
    struct request_core *c = rq->core;
    assert(c->writing);
    struct after *a = NEW(rq->arena, struct after);
    if (a == NULL)
        return ERR_MEMORY;
    *a = (struct after){ .fn = fn, .arg = arg };
    *c->after_tail = a;
    c->after_tail = &a->next;
    return OK;
}

/* What prepare put into the headers stays; everything else of an earlier run is forgotten. */
static void write_reset(struct request_core *c)
{
    c->rq.answer = c->kept;
    c->rq.errors = (struct problems){ .arena = c->rq.arena };
    c->after = NULL;
    c->after_tail = &c->after;
    c->forgotten = NULL;
}

static err write_steps(struct request_core *c)
{
    TRY(conditional_before(c));
    TRY(c->rq.route->handle(&c->rq));
    TRY(conditional_after(c));
    return idempotency_keep(c);
}

static err write_run(struct db_job *job, struct tx *tx)
{
    struct request_core *c = CONTAINER(job, struct request_core, job);
    write_reset(c);
    hold_to_caller(&c->rq, tx);
    c->rq.tx = tx;
    c->writing = true;
    c->ran = write_steps(c);
    c->writing = false;
    c->rq.tx = NULL;
    return c->ran;
}

static void write_finish(struct message *m)
{
    struct request_core *c = of_message(m);
    if (c->outcome != c->ran) /* the batch failed under it: what it wanted to answer did not happen */
        req_forget_answer(c);
    for (struct after *a = c->outcome == OK ? c->after : NULL; a != NULL; a = a->next)
        a->fn(a->arg);
    if (c->forgotten == NULL ||
        !hot_forget_now(c)) /* whatever the outcome: of a lost connection nobody knows whether it committed */
        reply_send(c, c->outcome);
}

static void write_done(struct db_job *job, err outcome)
{
    struct request_core *c = CONTAINER(job, struct request_core, job);
    c->outcome = outcome;
    post(c, write_finish);
}

/* From here to write_finish the request is the writer's. A full queue refuses at once: waiting behind it would only add to it. */
static void write_submit(struct request_core *c)
{
    const struct answer *a = &c->rq.answer;
    c->kept = (struct answer){ .headers = a->headers, .header_count = a->header_count, .header_room = a->header_count };
    c->job =
        (struct db_job){ .run = write_run, .done = write_done, .arena = c->rq.arena, .tenant = c->rq.who.tenant_id };
    err e = db_submit(app.db, &c->job);
    if (e == OK)
        return;
    req_forget_answer(c);
    reply_send(c, e);
}

static bool is_answered(const struct request_core *c, err e)
{
    return e != OK || c->rq.answer.status != 0 || c->rq.answer.problem != NULL;
}

static void after_prepare(struct request_core *c, err e)
{
    if (is_answered(c, e))
        reply_send(c, e);
    else
        write_submit(c);
}

static void write_prepare(struct request_core *c)
{
    const struct route *r = c->rq.route;
    bool slow =
        r->flags & (R_SLOW_PREPARE | R_HASHES) || (r->flags & R_SLOW_LONG && c->rq.http->body.n > PREPARE_ON_LOOP_MAX);
    if (r->prepare == NULL)
        write_submit(c);
    else if (slow)
        in_pool(c, r->prepare, after_prepare);
    else
        on_loop(c, r->prepare, after_prepare);
}

static void after_repeat(struct request_core *c, err e)
{
    if (is_answered(c, e))
        reply_send(c, e);
    else
        write_prepare(c);
}

static void write_start(struct request_core *c)
{
    err e = idempotency_claim(c);
    if (e != OK)
        reply_send(c, e);
    else if (c->idempotent.claimed)
        on_loop(c, idempotency_repeat, after_repeat);
    else
        write_prepare(c);
}

/* -- parking ------------------------------------------------------------------------------------------------------- */

/* Two holds: one of the handler, until it has returned; one of whoever resumes. So a resume may come while the handler still runs. */
err park(struct req *rq, void (*resume)(struct req *rq), void *parked)
{
    struct request_core *c = rq->core;
    assert(!c->writing && !c->parked);
    c->parked = true;
    rq->resume = resume;
    rq->parked = parked;
    atomic_store(&c->resumed, false);
    atomic_store(&c->holds, 2);
    return OK;
}

err park_timer(struct req *rq, i64 delay_us, void (*fire)(struct req *rq))
{
    struct request_core *c = rq->core;
    assert(c->parked && !c->timed);
    c->timed = true;
    c->delay_us = delay_us;
    c->fire = fire;
    return OK;
}

static void on_resume(struct message *m)
{
    struct request_core *c = of_message(m);
    bool gone = false;
    c->parked = false;
    if (c->timed)
        loop_timer_stop(&c->timer);
    c->timed = false;
    c->gone = &gone;
    c->rq.resume(&c->rq);
    if (gone)
        return;
    c->gone = NULL;
    if (c->parked)
        left_parked(c);
}

static void release(struct request_core *c)
{
    if (atomic_fetch_sub(&c->holds, 1) == 1)
        post(c, on_resume);
}

void req_resume(struct req *rq)
{
    if (!atomic_exchange(&rq->core->resumed, true))
        release(rq->core);
}

static void on_timer(struct loop_timer *t)
{
    struct request_core *c = CONTAINER(t, struct request_core, timer);
    if (!atomic_load(&c->resumed))
        c->fire(&c->rq);
}

/* On the loop, when the handler that parked has returned, wherever it ran: only now may the request go on. */
static void left_parked(struct request_core *c)
{
    err e = OK;
    if (c->timed)
        e = loop_timer_start(c->rq.http->loop, &c->timer, c->delay_us, on_timer);
    if (e != OK) { /* no memory for the timer: better too early than never */
        LOG(LOG_ERROR, "request.timer", LOG_STR("request_id", c->rq.request_id), LOG_STR("cause", str_of(err_name(e))));
        on_timer(&c->timer);
    }
    release(c);
}

void req_finish(struct req *rq, err outcome)
{
    reply_send(rq->core, outcome);
}

/* -- streams ------------------------------------------------------------------------------------------------------- */

/* The arena of a streaming request ends with the stream: the one place where its end is seen. */
static void stream_over(void *arg)
{
    struct request_core *c = arg;
    if (c->gone != NULL)
        *c->gone = true;
    if (!c->answered)
        reply_account(c, 200, 0);
    c->answered = true;
}

/* Without a snapshot: a stream reads when it has to, now and as long as it lasts (req_read). */
static void stream_start(struct request_core *c)
{
    bool gone = false;
    /* cppcheck-suppress autoVariables; taken back below, unless the request has gone and *c with it */
    c->gone = &gone;
    err e = c->rq.route->handle(&c->rq);
    if (gone)
        return;
    c->gone = NULL;
    if (is_answered(c, e))
        reply_send(c, e);
}

/* -- the whole request --------------------------------------------------------------------------------------------- */

static void finish(struct request_core *c, err e)
{
    reply_send(c, e);
}

void req_read_store(struct request_core *c)
{
    on_loop(c, c->rq.route->handle, finish);
}

static void start(struct request_core *c)
{
    const struct route *r = c->rq.route;
    if (r->work == W_STREAM && !arena_defer(c->rq.arena, stream_over, c)) {
        c->answered = false; /* the deferred call has run at once */
        return reply_send(c, ERR_MEMORY);
    }
    bool looking = r->hot != NULL && hot_look(c); /* in front of the mark: what it keeps outlives the handler's runs */
    c->mark = arena_mark(c->rq.arena);
    c->who = c->rq.who;
    if (looking)
        return;
    switch (r->work) {
    case W_WAIT:
        if (c->rq.http->body.n > BODY_ON_LOOP_MAX)
            return in_pool(c, r->handle, finish);
        return on_loop(c, r->handle, finish);
    case W_READ:
        return on_loop(c, r->handle, finish);
    case W_SLOW:
        return in_pool(c, r->handle, finish);
    case W_WRITE:
        return write_start(c);
    case W_STREAM:
        return stream_start(c);
    }
}

static void go_on(struct request_core *c)
{
    err e = gate_again(&c->rq);
    if (e == OK)
        e = decode(&c->rq);
    if (e != OK)
        return reply_send(c, e);
    start(c);
}

static void request(void *ctx, struct http_request *http)
{
    struct request_core *c = http->user;
    if (c == NULL)
        return http_reply(http, 503, NULL, 0, STR_NONE);
    if (http->refused != 0)
        return reply_send(c, c->outcome);
    limit_decide(c, go_on);
}

/* -- what never became a request ----------------------------------------------------------------------------------- */

static err class_of_status(int status)
{
    for (err e = OK + 1; e < ERR_COUNT; e++)
        if (err_status(e) == status)
            return e;
    return status < 500 ? ERR_DECODE : ERR_INTERNAL;
}

static struct problem refusal_problem(int status, const char *code)
{
    const char *title = http_reason(status);
    for (size_t i = 0; i < REFUSALS; i++)
        if (http_refusals[i].code != NULL && str_eq(str_of(http_refusals[i].code), str_of(code)))
            title = http_refusals[i].text;
    return (struct problem){ code, class_of_status(status), title };
}

static void refuse(void *ctx, int status, const char *code, str remote, struct arena *a, struct http_refusal *out)
{
    struct problem p = refusal_problem(status, code);
    const struct request_core *c = out->request != NULL ? out->request->user : NULL;
    str id = c != NULL ? c->rq.request_id : typeid_new(a, "req", clock_now_us());
    struct buf b = { .arena = a };
    problem_write(&b, status, &p, STR_NONE, id, NULL, NULL);
    reply_count_refused(status);
    LOG(LOG_INFO, "http.refused", LOG_STR("request_id", id), LOG_INT("status", status), LOG_STR("code", str_of(code)),
        LOG_STR("remote", c != NULL ? c->rq.http->remote : remote));
    if (b.fail != OK || id.p == NULL)
        return;
    out->headers[out->header_count++] = (struct pair){ S("X-Request-Id"), id };
    if (c != NULL)
        out->headers[out->header_count++] = (struct pair){ S("Traceparent"), c->rq.trace };
    out->header_count += (u32)headers_standing(out->headers + out->header_count);
    out->headers[out->header_count++] = (struct pair){ S("Cache-Control"), S("no-store") };
    out->body = buf_view(&b);
}

struct http_handler req_handler(struct listener *listener)
{
    return (struct http_handler){ .ctx = listener, .admit = admit, .request = request, .refuse = refuse };
}
