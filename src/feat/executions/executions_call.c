/* executions_call.c - a caller waits for an execution without holding a thread.
 *
 * The request is parked before the engine hears of it: the engine may tell at once, from any thread. A start that fails after that resumes the request itself,
 * so there is one way out. */
#include "feat/executions/executions_parts.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"

PROBLEM_SHARED(execution_limited, "executions.concurrency_limit", ERR_LIMIT,
               "The workflow runs as often at once as it may");

static void release(void *outcome)
{
    outcome_release(outcome);
}

/* What began nothing counts nothing: a refusal, or a repeat that joined an earlier one. */
static void uncount(struct execution_call *call)
{
    if (call->counted_us != 0)
        quota_give_back(call->tenant_id, call->counted_us);
    call->counted_us = 0;
}

static void told(struct waiter *w, struct outcome *o)
{
    struct execution_call *call = CONTAINER(w, struct execution_call, waiter);
    if (w->joined || (o->error != OK && !o->unread))
        uncount(call);
    call->outcome = o;
    req_resume(call->rq);
}

/* An answer 5xx must not look as if nothing had happened. */
PROBLEM(execution_unread, "executions.unread", ERR_BUSY, "The execution was accepted, but cannot be shown now");

static err refuse_unread(struct execution_call *call)
{
    reply_location(call->rq, "/api/v1/executions/%.*s", STR_FMT(call->execution_id));
    return problem(call->rq, &execution_unread, "It goes on; look at it at its Location, and do not send it again");
}

static bool is_recorded(const struct execution_call *call)
{
    const struct outcome *o = call->outcome;
    return o != NULL && !call->waiter.joined && (o->error == OK || o->unread);
}

static void resumed(struct req *rq)
{
    struct execution_call *call = rq->parked;
    bool recorded = is_recorded(call);
    err e = OK;
    if (call->outcome != NULL && !arena_defer(rq->arena, release, call->outcome)) {
        call->outcome = NULL; /* released by the failure */
        call->error = ERR_MEMORY;
    }
    e = call->answer(call);
    if (e == ERR_MEMORY && recorded)
        e = refuse_unread(call);
    req_finish(rq, e);
}

static void waited_enough(struct req *rq)
{
    struct execution_call *call = rq->parked;
    engine_tell_now(app.engine, call->tenant_id, call->execution_id, &call->waiter);
}

err execution_call(struct req *rq, struct execution_call *call, const struct start *start, i64 wait_us)
{
    call->waiter.tell = told;
    call->rq = rq;
    err e = quota_admit(call, start);
    if (e == OK && (e = park(rq, resumed, call)) != OK)
        uncount(call);
    if (e != OK) {
        plan_release(start->plan);
        return e;
    }
    if (!start->detached && (e = park_timer(rq, wait_us, waited_enough)) != OK)
        plan_release(start->plan);
    else
        e = engine_start(app.engine, rq->arena, start, &call->waiter, &call->execution_id);
    if (e == OK)
        return OK; /* and `call` belongs to whoever tells */
    uncount(call);
    call->error = e;
    req_resume(rq);
    return OK;
}

err execution_refusal(struct execution_call *call)
{
    if (call->outcome != NULL && call->outcome->unread && is_recorded(call))
        return refuse_unread(call);
    err e = call->outcome != NULL ? call->outcome->error : call->error;
    if (e == ERR_INVALID)
        return problem(call->rq, &problem_idempotency_mismatch, "Use another key for another request");
    if (e == ERR_LIMIT)
        return problem(call->rq, &execution_limited, "Nothing was recorded; try again when others have ended");
    if (e == OK && call->waiter.joined)
        reply_header(call->rq, "Idempotent-Replayed", S("true"));
    return e;
}

static err digest(struct arena *a, const str *parts, size_t count, str *out)
{
    u8 bytes[SHA256_BYTES];
    hash_sha256_parts(parts, count, bytes);
    *out = hex_encode(a, (str){ (const char *)bytes, sizeof bytes });
    return out->p != NULL ? OK : ERR_MEMORY;
}

err execution_dedup(struct req *rq, str header, str tenant_id, str scope, str body, struct start *start)
{
    str name = str_lower(rq->arena, header);
    if (name.p == NULL)
        return ERR_MEMORY;
    str key = http_header(rq->http, name);
    if (key.p == NULL)
        return OK;
    if (!idempotency_key_sane(key) || http_header_count(rq->http, name) != 1) {
        str at = strf(rq->arena, "header/%.*s", STR_FMT(header));
        return problem_at(rq, &problem_body_invalid, at, "field.format",
                          "must be sent once, with 1 to %d visible ASCII characters", IDEMPOTENCY_KEY_MAX);
    }
    const str parts[] = { tenant_id, scope, key };
    TRY(digest(rq->arena, parts, COUNT(parts), &start->dedup_key));
    return digest(rq->arena, &body, 1, &start->dedup_body);
}
