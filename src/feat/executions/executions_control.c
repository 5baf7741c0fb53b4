/* executions_control.c - what people do to an execution: cancel or kill it while it runs, answer for a step that waits for a person, play it again when it has ended.
 *
 * A cancellation is a change of the row, audited with it; the engine is told after the commit. A retry or replay is an execution of its own, with the old one as its
 * parent: nothing here changes a row that is final. Its trigger is the old one's, so that expressions see the same, and says who asked for it. */
#include "feat/executions/executions_parts.h"

#include "base/code.h"
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

enum { MESSAGE_MAX = 500 };
static const char *const resume_actions[] = { "complete", "retry", "fail", NULL };

struct resume {
    struct presence has;
    str step, action, data, message;
    struct list iteration;
};
static const struct field item_field =
    SHAPE_FIELD("item", F_I64, .min = 0, .max = FOREACH_ITEMS_MAX - 1, .doc = "Position of an item, from 0");
static const struct field resume_fields[] = {
    FIELD(struct resume, iteration, F_LIST, .each = &item_field, .max = FOREACH_DEPTH_MAX,
          .doc = "Of a step inside of a foreach: which iteration, as the history shows it"),
    FIELD(struct resume, step, F_STR, .flags = F_REQUIRED, .min = 1, .max = 64,
          .doc = "A step that is unknown: it was cut off and may not be made again without being asked"),
    FIELD(struct resume, action, F_STR, .one_of = resume_actions, .preset = "\"complete\"",
          .doc = "complete: `data` is its output; retry: one more attempt; fail: it ends with `message`"),
    FIELD(struct resume, data, F_JSON, .flags = F_NULLABLE,
          .doc = "For complete: the step's output, null when left out"),
    FIELD(struct resume, message, F_STR, .max = MESSAGE_MAX, .doc = "For fail: why, for people"),
};

CODES(entry_codes, CODE_ENTRY, { "executions.resume_member", "This action takes no such member" },
      { "executions.resume_iteration", "A step inside of foreach steps is named with the positions of their items" });

static err check_member(const struct json *body, const char *member, const char *action, str pointer,
                        struct problems *problems)
{
    const struct json *given = json_get(body, S("action"));
    bool right = str_eq(given != NULL ? json_str(given) : S("complete"), str_of(action));
    if (right || json_get(body, str_of(member)) == NULL)
        return OK;
    return problems_add(problems, json_pointer_key(problems->arena, pointer, str_of(member)),
                        "executions.resume_member", "Only the action '%s' takes it", action);
}

/* What would be ignored is refused: whoever sends data with a retry means something else. */
static err check_resume(const struct json *body, str pointer, struct problems *problems)
{
    TRY(check_member(body, "data", "complete", pointer, problems));
    return check_member(body, "message", "fail", pointer, problems);
}
const struct table resume_table = TABLE("Resume", struct resume, resume_fields,
                                        .doc = "What becomes of a step that waits for a person", .check = check_resume);

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

PROBLEM_SHARED(execution_not_waiting, "executions.step_not_waiting", ERR_CONFLICT,
               "The step does not wait for a person");
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

/* ---- resume ---- */

struct resuming {
    struct execution execution;
    str answer; /* JSON */
};

static u32 depth_of(const struct plan_step *p)
{
    u32 depth = 0;
    for (; p->outer != NULL; p = p->outer)
        depth++;
    return depth;
}

static err wrong_step(struct req *rq, const struct plan_step *p, const struct resume *in)
{
    if (p == NULL)
        return problem_at(rq, &problem_body_invalid, S("/step"), "definition.unknown_step",
                          "There is no step of this name in the version that runs");
    if (depth_of(p) == in->iteration.n)
        return OK;
    return problem_at(rq, &problem_body_invalid, S("/iteration"), "executions.resume_iteration",
                      "The step stands inside of %u foreach steps: give as many positions", depth_of(p));
}

/* A version whose plan cannot be had has steps all the same: then only the journal says which. */
static err check_step(struct req *rq, const struct execution *x, const struct resume *in)
{
    struct plan *plan;
    err e = engine_plan(app.engine, rq->tx, rq->who.tenant_id, x->workflow_id, x->version, &plan);
    if (e == ERR_INVALID || e == ERR_NOT_FOUND)
        return OK;
    TRY(e);
    e = wrong_step(rq, map_get(&plan->by_id, in->step), in);
    plan_release(plan);
    return e;
}

static err answer_text(struct arena *a, const struct resume *in, str *out)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("action"));
    jw_str(&w, in->action);
    jw_key(&w, S("data"));
    jw_raw(&w, in->data);
    jw_key(&w, S("message"));
    if (in->message.p != NULL)
        jw_str(&w, in->message);
    else
        jw_null(&w);
    jw_end(&w, '}');
    *out = buf_view(&b);
    return b.fail;
}

err prepare_resume(struct req *rq)
{
    const struct resume *in = rq->body;
    str id = req_param(rq, "id");
    struct resuming *r = NEW(rq->arena, struct resuming);
    if (r == NULL)
        return ERR_MEMORY;
    TRY(execution_find(rq, rq->tx, id, &r->execution));
    rq->prepared = r;
    if (execution_is_final(r->execution.status))
        return has_ended(rq, id);
    TRY(check_step(rq, &r->execution, in));
    return answer_text(rq->arena, in, &r->answer);
}

static void tell_resume(void *resuming)
{
    engine_resume(app.engine, ((struct resuming *)resuming)->execution.execution_id);
}

err execution_resume(struct req *rq)
{
    const struct resume *in = rq->body;
    struct resuming *r = rq->prepared;
    str id = r->execution.execution_id, what = strf(rq->arena, "%.*s: %.*s", STR_FMT(in->step), STR_FMT(in->action));
    struct resume_step step = { .id = in->step, .depth = in->iteration.n };
    for (u32 i = 0; i < step.depth; i++)
        step.items[i] = ((const i64 *)in->iteration.items)[i];
    err e = engine_resume_ask(rq->tx, rq->who.tenant_id, id, &step, r->answer, req_now(rq));
    if (e == ERR_NOT_FOUND)
        return has_ended(rq, id);
    if (e == ERR_CONFLICT)
        return problem(rq, &execution_not_waiting, "The step %.*s is not unknown, or has been answered",
                       STR_FMT(in->step));
    TRY(e);
    TRY(audit(rq, "executions.resume", id, what));
    TRY(req_after(rq, tell_resume, r));
    reply_location(rq, "/api/v1/executions/%.*s", STR_FMT(id));
    return reply(rq, 202, &execution_table, &r->execution);
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
    call->quota = rq->who.quota_executions;
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
