/* executions_control.c - what people do to an execution: cancel or kill it while it runs, play it again when it has ended.
 *
 * A cancellation is a change of the row, audited with it; the engine is told after the commit. A retry or replay is an execution of its own, with the old one as its
 * parent: nothing here changes a row that is final. Its trigger is the old one's, so that expressions see the same, and says who asked for it. */
#include "feat/executions/executions_parts.h"

#include "base/map.h"
#include "core/app.h"
#include "core/audit.h"

/* ---- fields ---- */

static const struct table input_table = { .name = "ReplayData",
                                          .open = true,
                                          .doc = "What the workflow reads as input this time" };

struct replay_body {
    struct presence has;
    str from_step, input_data;
};
static const struct field replay_fields[] = {
    FIELD(struct replay_body, from_step, F_STR, .min = 1, .max = 64,
          .doc = "This step and all that follows from it run anew; without it every step does"),
    FIELD(struct replay_body, input_data, F_OBJECT, .flags = F_TEXT, .of = &input_table, .max = 1 << 20,
          .doc = "Another input; without it the same as before"),
};
const struct table replay_table = TABLE("Replay", struct replay_body, replay_fields, .doc = "What to run again");

struct replay_query {
    struct presence has;
    i64 wait;
};
static const struct field replay_query_fields[] = {
    FIELD(struct replay_query, wait, F_I64, .min = 0, .max = 300, .preset = "30",
          .doc = "Seconds to wait for the end; 0 for none"),
};
const struct table replay_query_table =
    TABLE("ReplayQuery", struct replay_query, replay_query_fields, .doc = "How long to wait");

/* What playing an execution again needs to know of it. */
struct ended {
    struct presence has;
    str workflow_id, status, trigger_data;
    i64 version;
    bool kept;
};
static const struct field ended_fields[] = {
    FIELD(struct ended, workflow_id, F_STR, .doc = "Of which workflow"),
    FIELD(struct ended, status, F_STR, .doc = "How it ended"),
    FIELD(struct ended, trigger_data, F_JSON, .doc = "What started it"),
    FIELD(struct ended, version, F_I64, .doc = "In which version"),
    FIELD(struct ended, kept, F_BOOL, .doc = "Whether its history was"),
};
static const struct table ended_table =
    TABLE("ExecutionEnded", struct ended, ended_fields, .doc = "What a replay needs");

struct input_row {
    struct presence has;
    str input_data;
};
static const struct field input_fields[] = { FIELD(struct input_row, input_data, F_JSON, .doc = "What it was given") };
static const struct table input_row_table =
    TABLE("ExecutionGiven", struct input_row, input_fields, .doc = "What an execution was given");

/* ---- problems and statements ---- */

PROBLEM_SHARED(execution_final, "executions.final", ERR_CONFLICT, "The execution has ended");

PROBLEM_SHARED(execution_not_final, "executions.not_final", ERR_CONFLICT, "The execution has not ended yet");
PROBLEM_SHARED(execution_not_failed, "executions.not_failed", ERR_CONFLICT, "The execution did not fail");
PROBLEM_SHARED(execution_no_history, "executions.no_history", ERR_CONFLICT, "The execution's history was not kept");
PROBLEM_SHARED(execution_inactive, "executions.workflow_inactive", ERR_CONFLICT,
               "The workflow is deleted or not active");

STMT(ended_by_id,
     "SELECT workflow_id, status, trigger_data, version, step_executions IS NOT NULL AS kept FROM executions "
     "WHERE tenant_id = $1 AND id = $2",
     .row = &ended_table);
STMT(input_by_id, "SELECT input_data FROM executions WHERE tenant_id = $1 AND id = $2", .row = &input_row_table);
STMT(workflow_runs, "SELECT 1 FROM workflows WHERE tenant_id = $1 AND id = $2 AND is_active AND deleted_at IS NULL");

/* ---- cancel and kill ---- */

static err has_ended(struct req *rq, str id)
{
    return problem(rq, &execution_final, "Execution %.*s has ended", STR_FMT(id));
}

/* A repeat finds it cancelled, which is what was asked for. */
err prepare_end(struct req *rq)
{
    str id = req_param(rq, "id");
    struct execution *x = NEW(rq->arena, struct execution);
    if (x == NULL)
        return ERR_MEMORY;
    TRY(execution_find(rq, rq->tx, id, x));
    rq->prepared = x;
    if (str_eq(x->status, S("cancelled")))
        return reply(rq, 200, &execution_table, x);
    return execution_is_final(x->status) ? has_ended(rq, id) : OK;
}

struct ending {
    err (*ask)(struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first);
    void (*tell)(void *execution); /* after the commit */
    const char *action;            /* in the audit log */
};

static err ask_end(struct req *rq, const struct ending *how)
{
    struct execution *x = rq->prepared;
    bool first;
    err e = how->ask(rq->tx, rq->who.tenant_id, x->execution_id, req_now(rq), &first);
    if (e == ERR_NOT_FOUND)
        return has_ended(rq, x->execution_id);
    TRY(e);
    if (first)
        TRY(audit(rq, how->action, x->execution_id, STR_NONE));
    TRY(req_after(rq, how->tell, x));
    reply_location(rq, "/api/v1/executions/%.*s", STR_FMT(x->execution_id));
    return reply(rq, 202, &execution_table, x);
}

static void tell_cancel(void *execution)
{
    engine_cancel(app.engine, ((struct execution *)execution)->execution_id);
}

static void tell_kill(void *execution)
{
    engine_kill(app.engine, ((struct execution *)execution)->execution_id);
}

err execution_cancel(struct req *rq)
{
    return ask_end(rq, &(struct ending){ engine_cancel_ask, tell_cancel, "executions.cancel" });
}

err execution_kill(struct req *rq)
{
    return ask_end(rq, &(struct ending){ engine_kill_ask, tell_kill, "executions.kill" });
}

/* ---- retry and replay ---- */

static err replay_answer(struct execution_call *call)
{
    TRY(execution_refusal(call));
    const struct execution *x = &call->outcome->execution;
    bool final = execution_is_final(x->status);
    reply_location(call->rq, "/api/v1/executions/%.*s", STR_FMT(x->execution_id));
    return reply(call->rq, final ? 200 : 202, &execution_table, x);
}

static err find_ended(struct req *rq, str id, struct ended *out)
{
    err e = db_row(rq->tx, &ended_by_id, out, ARGS(TENANT(rq), STR(id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &execution_not_found, "There is no execution %.*s", STR_FMT(id));
    TRY(e);
    if (!execution_is_final(out->status))
        return problem(rq, &execution_not_final, "Execution %.*s is %.*s", STR_FMT(id), STR_FMT(out->status));
    e = db_row(rq->tx, &workflow_runs, NULL, ARGS(TENANT(rq), STR(out->workflow_id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &execution_inactive, "Workflow %.*s does not run", STR_FMT(out->workflow_id));
    return e;
}

/* The trigger as it was, with who asked for it to be played again. */
static err replay_trigger(struct req *rq, str id, const struct ended *before, str *out)
{
    struct json *trigger, replay = { .type = JSON_OBJECT };
    TRY(json_parse(rq->arena, before->trigger_data, &trigger, NULL));
    if (!json_set(rq->arena, &replay, S("execution_id"), json_of_str(id)) ||
        !json_set(rq->arena, &replay, S("user_id"), json_of_str(rq->who.user_id)) ||
        !json_set(rq->arena, trigger, S("replay"), replay))
        return ERR_MEMORY;
    *out = json_text(rq->arena, trigger);
    return out->p != NULL ? OK : ERR_MEMORY;
}

static err find_plan(struct req *rq, const struct ended *before, str from, struct plan **plan)
{
    err e = engine_plan(app.engine, rq->tx, rq->who.tenant_id, before->workflow_id, before->version, plan);
    if (e == ERR_INVALID || e == ERR_NOT_FOUND)
        return fault(rq, "workflow %.*s version %lld does not load: %s", STR_FMT(before->workflow_id),
                     (long long)before->version, err_name(e));
    TRY(e);
    if (from.p == NULL || map_get(&(*plan)->by_id, from) != NULL)
        return OK;
    plan_release(*plan);
    return problem_at(rq, &problem_body_invalid, S("/from_step"), "definition.unknown_step",
                      "There is no step of this name in version %lld", (long long)before->version);
}

/* Runs it again under the caller's idempotency key. `start` says what is taken over. */
static err play_again(struct req *rq, const char *verb, const struct ended *before, struct start *start)
{
    str id = req_param(rq, "id"), body = rq->json != NULL ? json_text(rq->arena, rq->json) : S("");
    str scope = strf(rq->arena, "%.*s POST /executions/%.*s/%s", STR_FMT(rq->who.user_id), STR_FMT(id), verb);
    struct execution_call *call = NEW(rq->arena, struct execution_call);
    i64 wait = ((const struct replay_query *)rq->query)->wait;
    if (call == NULL || scope.p == NULL || body.p == NULL)
        return ERR_MEMORY;
    call->answer = replay_answer;
    call->tenant_id = rq->who.tenant_id;
    start->parent_id = id;
    start->traceparent = rq->trace; /* whoever asks for it again waits for it */
    start->tracestate = rq->trace_state;
    start->now_us = req_now(rq);
    start->detached = wait == 0;
    TRY(replay_trigger(rq, id, before, &start->trigger));
    TRY(execution_dedup(rq, S("Idempotency-Key"), rq->who.tenant_id, scope, body, start));
    TRY(find_plan(rq, before, start->replay_from, &start->plan));
    return execution_call(rq, call, start, wait * SECOND_US);
}

err execution_retry(struct req *rq)
{
    struct ended before;
    str id = req_param(rq, "id");
    TRY(find_ended(rq, id, &before));
    if (str_eq(before.status, S("completed")))
        return problem(rq, &execution_not_failed, "Execution %.*s completed; replay it instead", STR_FMT(id));
    if (!before.kept)
        return problem(rq, &execution_no_history, "Replay it as a whole instead");
    return play_again(rq, "retry", &before, &(struct start){ .replays = id });
}

/* Without a step nothing is taken over but the input. */
err execution_replay(struct req *rq)
{
    const struct replay_body *in = rq->body;
    struct ended before;
    struct input_row given = { .input_data = in->input_data };
    str id = req_param(rq, "id");
    bool whole = in->from_step.p == NULL;
    TRY(find_ended(rq, id, &before));
    if (!whole && !before.kept)
        return problem(rq, &execution_no_history, "Replay it as a whole instead");
    if (whole && given.input_data.p == NULL)
        TRY(db_row(rq->tx, &input_by_id, &given, ARGS(TENANT(rq), STR(id))));
    struct start start = { .input_data = given.input_data,
                           .replays = whole ? STR_NONE : id,
                           .replay_from = in->from_step };
    return play_again(rq, "replay", &before, &start);
}
