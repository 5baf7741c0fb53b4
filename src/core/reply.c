/* reply.c - what goes out: rows and problems become bytes here, on the loop, and every answer is counted and logged once.
 *
 * When the arena is spent the handler's memory is given back and the answer becomes a 503 of its own: running out of memory
 * while answering must not mean no answer. */
#include "base/clock.h"
#include "base/log.h"
#include "core/pipeline.h"
#include "core/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    TYPE_BYTES = 160,
    COMPRESS_ON_LOOP_MAX = 32 << 10, /* some 0.3 ms; a larger one would hold up every other connection of the loop */
};

METRIC(requests_total, "weir_http_requests_total", METRIC_COUNTER, "Requests answered", .series_max = 1024);
METRIC(request_duration, "weir_http_request_duration_seconds", METRIC_HISTOGRAM,
       "From the first byte of a request to its answer", .series_max = 1024);

/* What leads nowhere is counted together: paths come from outside, so they never become labels. */
static struct endpoint unmatched;

/* -- what handlers call -------------------------------------------------------------------------------------------- */

err reply(struct req *rq, int status, const struct table *t, const void *row)
{
    rq->answer.status = status;
    rq->answer.table = t;
    rq->answer.row = row;
    return OK;
}

err reply_empty(struct req *rq, int status)
{
    rq->answer.status = status;
    return OK;
}

err reply_raw(struct req *rq, int status, str content_type, str body)
{
    rq->answer.status = status;
    rq->answer.table = NULL; /* in place of rows, where there were some: an export */
    rq->answer.content_type = content_type;
    rq->answer.raw = body;
    return OK;
}

err reply_packed(struct req *rq, int status, str content_type, const struct packed *packed)
{
    TRY(reply_raw(rq, status, content_type, packed->bodies[CODING_NONE]));
    rq->answer.packed = packed;
    return OK;
}

void reply_header(struct req *rq, const char *name, str value)
{
    struct answer *a = &rq->answer;
    if (!http_field_ok(str_of(name), value) || a->header_count == ANSWER_HEADERS_MAX)
        return;
    if (a->header_count == a->header_room) {
        u32 room = MIN(MAX(a->header_count * 2, 4u), (u32)ANSWER_HEADERS_MAX);
        struct pair *list = arena_grow(rq->arena, a->headers, a->header_count * sizeof *list, room * sizeof *list);
        if (list == NULL)
            return;
        a->headers = list;
        a->header_room = room;
    }
    a->headers[a->header_count++] = (struct pair){ str_of(name), value };
}

static str format(struct arena *a, const char *f, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, f, again);
    va_end(again);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p == NULL)
        return STR_NONE;
    vsnprintf(p, (size_t)n + 1, f, args);
    return (str){ p, (size_t)n };
}

void reply_location(struct req *rq, const char *f, ...)
{
    va_list args;
    va_start(args, f);
    str value = format(rq->arena, f, args);
    va_end(args);
    if (value.p != NULL)
        reply_header(rq, "Location", value);
}

static err record(struct req *rq, const struct problem *p, str detail)
{
    rq->answer.problem = p;
    rq->answer.problem_detail = detail;
    return p->class;
}

err problem(struct req *rq, const struct problem *p, const char *f, ...)
{
    va_list args;
    va_start(args, f);
    str detail = format(rq->arena, f, args);
    va_end(args);
    return record(rq, p, detail);
}

err problem_at(struct req *rq, const struct problem *p, str pointer, const char *code, const char *f, ...)
{
    va_list args;
    va_start(args, f);
    str detail = format(rq->arena, f, args);
    va_end(args);
    if (problems_add(&rq->errors, pointer, code, "%.*s", STR_FMT(detail)) == ERR_MEMORY)
        return ERR_MEMORY;
    return record(rq, p, detail);
}

void problem_extend(struct req *rq, const char *name, str value)
{
    rq->answer.extension = (struct pair){ str_of(name), value };
}

err fault(struct req *rq, const char *f, ...)
{
    va_list args;
    va_start(args, f);
    str cause = format(rq->arena, f, args);
    va_end(args);
    LOG(LOG_ERROR, "request.fault", LOG_STR("request_id", rq->request_id), LOG_STR("route", str_of(rq->route->path)),
        LOG_STR("cause", cause));
    rq->core->faulted = true;
    return record(rq, &problem_of_class[ERR_INTERNAL], app.config.debug ? cause : STR_NONE);
}

/* -- encoding ------------------------------------------------------------------------------------------------------ */

static void write_errors(struct json_writer *w, const struct problems *errors)
{
    jw_begin(w, '[');
    for (u32 i = 0; errors != NULL && i < errors->n; i++) {
        const struct field_problem *e = &errors->list[i];
        jw_begin(w, '{');
        jw_key(w, S("pointer"));
        jw_str(w, e->pointer.p != NULL ? e->pointer : S(""));
        jw_key(w, S("code"));
        jw_str(w, str_of(e->code));
        jw_key(w, S("detail"));
        jw_str(w, e->detail);
        jw_end(w, '}');
    }
    jw_end(w, ']');
}

void problem_write(struct buf *b, int status, const struct problem *p, str detail, str request_id,
                   const struct problems *errors, const struct pair *extension)
{
    struct json_writer w = { .b = b };
    char type[TYPE_BYTES];
    snprintf(type, sizeof type, "/docs/errors#%s", p->code);
    jw_begin(&w, '{');
    jw_key(&w, S("type"));
    jw_str(&w, str_of(type));
    jw_key(&w, S("title"));
    jw_str(&w, str_of(p->title));
    jw_key(&w, S("status"));
    jw_i64(&w, status);
    jw_key(&w, S("detail"));
    jw_str(&w, detail.n > 0 ? detail : str_of(p->title));
    jw_key(&w, S("code"));
    jw_str(&w, str_of(p->code));
    jw_key(&w, S("request_id"));
    jw_str(&w, request_id);
    jw_key(&w, S("errors"));
    write_errors(&w, errors);
    if (extension != NULL && extension->name.n > 0) {
        jw_key(&w, extension->name);
        jw_str(&w, extension->value);
    }
    jw_end(&w, '}');
}

static void write_rows(struct buf *b, const struct answer *a, u64 mask)
{
    buf_char(b, '[');
    for (u32 i = 0; i < a->count; i++) {
        if (i > 0)
            buf_char(b, ',');
        field_encode_some(b, a->table, (const char *)a->row + i * a->table->size, a->cut, mask);
    }
    buf_char(b, ']');
}

static struct letter encode_answer(struct req *rq, size_t max)
{
    const struct answer *a = &rq->answer;
    bool masked = rq->core->mask != 0 && a->table == rq->route->out;
    u64 mask = masked ? rq->core->mask : ~(u64)0;
    if (a->table == NULL)
        return (struct letter){ .status = a->status,
                                .type = a->content_type,
                                .body = a->raw,
                                .fail = max > 0 && a->raw.n > max ? ERR_TOO_LARGE : OK };
    struct buf b = { .arena = rq->arena, .max = max };
    if (a->list)
        write_rows(&b, a, mask);
    else
        field_encode_some(&b, a->table, a->row, a->cut, mask);
    return (struct letter){ .status = a->status, .type = S("application/json"), .body = buf_view(&b), .fail = b.fail };
}

static struct letter encode_problem(struct req *rq, const struct problem *p, str detail)
{
    struct buf b = { .arena = rq->arena };
    int status = err_status(p->class);
    problem_write(&b, status, p, detail, rq->request_id, &rq->errors, &rq->answer.extension);
    return (
        struct letter){ .status = status, .type = S("application/problem+json"), .body = buf_view(&b), .fail = b.fail };
}

/* The problem that an outcome stands for; NULL when the answer is the handler's own. */
static const struct problem *problem_for(const struct answer *a, err outcome)
{
    if (a->problem != NULL && (outcome == OK || outcome == a->problem->class))
        return a->problem;
    if (outcome != OK || a->status == 0)
        return &problem_of_class[outcome];
    return NULL;
}

static struct letter encode(struct request_core *c, err outcome)
{
    struct req *rq = &c->rq;
    const struct problem *p = problem_for(&rq->answer, outcome);
    if (p == NULL)
        return encode_answer(rq, 0);
    return encode_problem(rq, p, p == rq->answer.problem ? rq->answer.problem_detail : STR_NONE);
}

struct letter reply_encode(struct request_core *c, size_t max)
{
    return encode_answer(&c->rq, max);
}

void req_forget_answer(struct request_core *c)
{
    c->rq.answer = (struct answer){ 0 };
    c->rq.errors = (struct problems){ .arena = c->rq.arena };
}

void req_rewind(struct request_core *c)
{
    req_forget_answer(c);
    arena_rewind(c->rq.arena, c->mark);
    c->rq.who = c->who;
}

/* Nothing of the handler is left afterwards: neither headers nor entries, which lived behind the mark. What had failed is still told by its own code, and what was done is
 * not told as if it had not been. */
static struct letter encode_spent(struct request_core *c)
{
    const struct problem *p = problem_for(&c->rq.answer, c->outcome);
    if (p == NULL)
        p = c->rq.route != NULL && route_changes(c->rq.route) ? &problem_unanswered : &problem_of_class[ERR_MEMORY];
    req_rewind(c);
    c->outcome = p->class;
    struct letter l = encode_problem(&c->rq, p, STR_NONE);
    if (l.fail != OK)
        l.body = STR_NONE;
    return l;
}

/* -- accounts ------------------------------------------------------------------------------------------------------ */

static struct metric_series *series(_Atomic(struct metric_series *) *slot, struct metric *m, const struct endpoint *e,
                                    int class)
{
    struct metric_series *s = atomic_load_explicit(slot, memory_order_acquire);
    if (s != NULL)
        return s;
    char labels[sizeof s->labels];
    int n =
        snprintf(labels, sizeof labels, "route=\"%s\",method=\"%s\",status=\"%dxx\"",
                 e->route != NULL ? e->route->path : "", e->route != NULL ? http_method_name(e->method) : "", class);
    s = metric_of(m, n < (int)sizeof labels ? labels : "route=\"other\",method=\"\",status=\"\"");
    atomic_store_explicit(slot, s, memory_order_release); /* two threads may both look it up: they find the same */
    return s;
}

static void count(struct endpoint *e, int status, i64 duration_us)
{
    int class = status / 100 < STATUS_CLASSES ? status / 100 : 5;
    struct metric_series *total = series(&e->requests[class], &requests_total, e, class);
    struct metric_series *duration = series(&e->durations[class], &request_duration, e, class);
    if (total != NULL)
        atomic_fetch_add_explicit(&total->value, 1, memory_order_relaxed);
    if (duration != NULL)
        metric_observe_us(duration, duration_us);
}

void reply_count_refused(int status)
{
    count(&unmatched, status, 0);
}

/* A fault has told its cause already; for the rest the stable code or the class is all that is known here. */
static const char *cause_of(const struct request_core *c)
{
    return c->rq.answer.problem != NULL ? c->rq.answer.problem->code : err_name(c->outcome);
}

void reply_account(struct request_core *c, int status, size_t bytes)
{
    const struct req *rq = &c->rq;
    i64 duration_us = clock_mono_us() - rq->http->received_mono_us;
    str path = rq->route != NULL ? str_of(rq->route->path) : STR_NONE;
    count(c->endpoint != NULL ? c->endpoint : &unmatched, status, duration_us);
    LOG(LOG_INFO, "http.request", LOG_STR("request_id", rq->request_id), LOG_STR("method", rq->http->method_text),
        LOG_STR("route", path), LOG_INT("status", status), LOG_INT("duration_us", duration_us),
        LOG_INT("bytes", (i64)bytes), LOG_STR("remote", rq->http->remote), LOG_STR("tenant", rq->who.tenant_id),
        LOG_STR("trace", trace_id(rq->trace)));
    if (status >= 500 && !c->faulted)
        LOG(LOG_ERROR, "http.failed", LOG_STR("request_id", rq->request_id), LOG_STR("route", path),
            LOG_INT("status", status), LOG_STR("cause", str_of(cause_of(c))));
}

/* -- on its way ---------------------------------------------------------------------------------------------------- */

static void deliver(struct request_core *c)
{
    struct letter *l = &c->letter;
    struct headers h;
    idempotency_release(c); /* before the client can know, and come again */
    headers_make(c, l, &h);
    reply_account(c, l->status, l->body.n);
    http_reply(c->rq.http, l->status, h.list, h.n, l->body);
}

/* What failed is sent as it is: a client that takes a coding takes none as well. */
static void press(struct request_core *c)
{
    struct letter *l = &c->letter;
    if (compress_body(c->rq.arena, l->coding, l->body, &l->body) != OK)
        l->coding = CODING_NONE;
}

static void pressed(struct message *m)
{
    deliver(CONTAINER(m, struct request_core, message));
}

static void press_in_pool(struct task *t)
{
    struct request_core *c = CONTAINER(t, struct request_core, task);
    press(c);
    c->message.run = pressed;
    loop_post(c->rq.http->loop, &c->message);
}

/* A secret beside what the caller chose is never compressed: the length would answer guesses (BREACH). */
static bool may_press(const struct request_core *c)
{
    const struct letter *l = &c->letter;
    const struct route *r = c->rq.route;
    if (l->body.n < COMPRESS_MIN || !compress_type(l->type) || (r != NULL && r->flags & R_SECRET))
        return false;
    for (u32 i = 0; i < c->rq.answer.header_count; i++)
        if (str_eq_nocase(c->rq.answer.headers[i].name, S("Content-Encoding")))
            return false;
    return true;
}

/* A problem in place of the handler's answer is no part of it. */
static bool take_packed(struct request_core *c)
{
    const struct packed *packed = c->rq.answer.packed;
    struct letter *l = &c->letter;
    if (packed == NULL || l->body.p != packed->bodies[CODING_NONE].p)
        return false;
    if (packed->bodies[l->coding].p == NULL)
        l->coding = CODING_NONE;
    l->body = packed->bodies[l->coding];
    return true;
}

static void send_letter(struct request_core *c)
{
    struct letter *l = &c->letter;
    l->varies = may_press(c);
    if (l->varies)
        l->coding = coding_choose(http_header(c->rq.http, S("accept-encoding")));
    if (take_packed(c)) {
        deliver(c);
        return;
    }
    c->task.run = press_in_pool;
    if (l->coding != CODING_NONE && l->body.n > COMPRESS_ON_LOOP_MAX && pool_submit(app.slow, &c->task) == OK)
        return;
    if (l->body.n > COMPRESS_ON_LOOP_MAX) /* the pool is full: plain costs nobody anything */
        l->coding = CODING_NONE;
    if (l->coding != CODING_NONE)
        press(c);
    deliver(c);
}

void reply_send(struct request_core *c, err outcome)
{
    assert(!c->answered); /* every request is answered exactly once */
    c->answered = true;
    c->outcome = outcome;
    c->letter = encode(c, outcome);
    if (c->letter.fail != OK)
        c->letter = encode_spent(c);
    if (c->gone != NULL)
        *c->gone = true;
    c->gone = NULL;
    if (c->hot != NULL)
        hot_keep(c);
    send_letter(c);
}
