/* workflows_run.c - running a workflow for a caller, and saying what is wrong with a definition without keeping it. */
#include "core/app.h"
#include "engine/engine.h"
#include "feat/executions/executions.h"
#include "feat/workflows/workflows_parts.h"

enum { INPUT_MAX = 1024 * 1024 };

/* ---- fields ---- */

static const struct table input_table = { .name = "ExecutionInput",
                                          .open = true,
                                          .doc = "What the workflow reads as input" };

struct execute {
    struct presence has;
    str input_data;
};
static const struct field execute_fields[] = {
    FIELD(struct execute, input_data, F_OBJECT, .flags = F_TEXT, .of = &input_table, .max = INPUT_MAX, .preset = "{}",
          .doc = "What the workflow reads as input"),
};
const struct table execute_table =
    TABLE("Execute", struct execute, execute_fields, .doc = "What to run a workflow with");

struct execute_query {
    struct presence has;
    i64 wait;
};
static const struct field execute_query_fields[] = {
    FIELD(struct execute_query, wait, F_I64, .min = 0, .max = 300, .preset = "30",
          .doc = "Seconds to wait for the end; 0 for none"),
};
const struct table execute_query_table =
    TABLE("ExecuteQuery", struct execute_query, execute_query_fields, .doc = "How long to wait");

struct validate {
    struct presence has;
    str definition;
};
/* Any JSON: what is wrong with it is the answer. */
static const struct field validate_fields[] = {
    FIELD(struct validate, definition, F_JSON, .flags = F_REQUIRED,
          .doc = "The definition to check; see Definition for what is right"),
};
const struct table validate_table = TABLE("Validate", struct validate, validate_fields, .doc = "A definition to check");

struct finding {
    struct presence has;
    str pointer, code, detail;
};
static const struct field finding_fields[] = {
    FIELD(struct finding, pointer, F_STR, .flags = F_OUTPUT, .doc = "Where, as a JSON pointer into the body"),
    FIELD(struct finding, code, F_STR, .flags = F_OUTPUT, .doc = "What, for programs"),
    FIELD(struct finding, detail, F_STR, .flags = F_OUTPUT, .doc = "What, for people"),
};
static const struct table finding_table =
    TABLE("ValidationFinding", struct finding, finding_fields, .doc = "Something wrong with a definition");

struct validation {
    struct presence has;
    bool valid;
    struct list errors;
    str levels;
};
static const struct field step_id_field = SHAPE_FIELD("step", F_STR, .doc = "A step id");
static const struct field level_field =
    SHAPE_FIELD("level", F_LIST, .each = &step_id_field, .doc = "Steps that may run at the same time");
static const struct field validation_fields[] = {
    FIELD(struct validation, valid, F_BOOL, .flags = F_OUTPUT, .doc = "Whether the definition could be saved"),
    FIELD(struct validation, errors, F_LIST, .flags = F_OUTPUT, .of = &finding_table,
          .doc = "What is wrong, at most 100"),
    FIELD(struct validation, levels, F_LIST, .flags = F_OUTPUT | F_TEXT, .each = &level_field,
          .doc = "Step ids level by level: a step runs after those of earlier levels"),
};
const struct table validation_table =
    TABLE("Validation", struct validation, validation_fields, .doc = "What a check of a definition found");

/* ---- problems and statements ---- */

PROBLEM_SHARED(workflow_inactive, "workflows.inactive", ERR_CONFLICT, "The workflow is not active");

struct present {
    struct presence has;
    i64 version;
    bool is_active;
};
static const struct field present_fields[] = {
    FIELD(struct present, version, F_I64, .doc = "The present version"),
    FIELD(struct present, is_active, F_BOOL, .doc = "Whether it may run"),
};
static const struct table present_table =
    TABLE("WorkflowPresent", struct present, present_fields, .doc = "What running one needs");
STMT(workflow_present,
     "SELECT version, is_active FROM workflows WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
     .row = &present_table);

/* ---- execute ---- */

struct run {
    struct execution_call call;
    bool asynchronous; /* Prefer: respond-async */
};

/* RFC 7240: preferences between commas, each with parameters behind a semicolon. */
static bool prefers_async(const struct req *rq)
{
    str rest = req_header(rq, "prefer"), one, name = STR_NONE;
    while (str_cut(&rest, ',', &one))
        if (str_cut(&one, ';', &name) && str_eq_nocase(str_trim(name), S("respond-async")))
            return true;
    return false;
}

static err answer(struct execution_call *call)
{
    struct run *run = CONTAINER(call, struct run, call);
    struct req *rq = call->rq;
    TRY(execution_refusal(call));
    const struct execution *x = &call->outcome->execution;
    bool final = execution_is_final(x->status);
    if (!final)
        reply_location(rq, "/api/v1/executions/%.*s", STR_FMT(x->execution_id));
    if (run->asynchronous && !final)
        reply_header(rq, "Preference-Applied", S("respond-async"));
    return reply(rq, final ? 200 : 202, &execution_table, x);
}

static err find_plan(struct req *rq, str id, struct plan **plan)
{
    struct present now;
    err e = db_row(rq->tx, &workflow_present, &now, ARGS(TENANT(rq), STR(id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &workflow_not_found, "There is no workflow %.*s", STR_FMT(id));
    TRY(e);
    if (!now.is_active)
        return problem(rq, &workflow_inactive, "Activate the workflow to run it");
    e = engine_plan(app.engine, rq->tx, rq->who.tenant_id, id, now.version, plan);
    if (e == ERR_INVALID || e == ERR_NOT_FOUND)
        return fault(rq, "workflow %.*s version %lld does not load: %s", STR_FMT(id), (long long)now.version,
                     err_name(e));
    return e;
}

static err trigger_of(struct req *rq, str *json)
{
    *json = strf(rq->arena, "{\"type\":\"manual\",\"user_id\":\"%.*s\"}", STR_FMT(rq->who.user_id));
    return json->p != NULL ? OK : ERR_MEMORY;
}

err workflow_execute(struct req *rq)
{
    const struct execute *in = rq->body;
    str id = req_param(rq, "id"),
        scope = strf(rq->arena, "%.*s POST /workflows/%.*s/execute", STR_FMT(rq->who.user_id), STR_FMT(id));
    struct run *run = NEW(rq->arena, struct run);
    if (run == NULL || scope.p == NULL)
        return ERR_MEMORY;
    i64 wait = ((const struct execute_query *)rq->query)->wait;
    run->call.answer = answer;
    run->call.tenant_id = rq->who.tenant_id;
    run->call.quota = rq->who.quota_executions;
    run->asynchronous = prefers_async(rq);
    struct start start = { .input_data = in->input_data,
                           .traceparent = rq->trace,
                           .tracestate = rq->trace_state,
                           .now_us = req_now(rq),
                           .detached = run->asynchronous || wait == 0 };
    TRY(trigger_of(rq, &start.trigger));
    TRY(execution_dedup(rq, S("Idempotency-Key"), rq->who.tenant_id, scope, in->input_data, &start));
    TRY(find_plan(rq, id, &start.plan));
    return execution_call(rq, &run->call, &start, wait * SECOND_US);
}

/* ---- validate ---- */

static err findings_of(struct arena *a, const struct problems *problems, struct list *out)
{
    struct finding *list = NEW_N(a, struct finding, problems->n);
    if (list == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < problems->n; i++) {
        const struct field_problem *p = &problems->list[i];
        list[i] = (struct finding){ .pointer = p->pointer, .code = str_of(p->code), .detail = p->detail };
        field_set_all(&finding_table, &list[i]);
    }
    *out = (struct list){ list, problems->n };
    return OK;
}

err workflow_validate(struct req *rq)
{
    struct problems problems = { .arena = rq->arena };
    struct checked checked = { .levels = S("[]") };
    const struct json *definition = json_get(rq->json, S("definition"));
    struct validation *out = NEW(rq->arena, struct validation);
    if (out == NULL)
        return ERR_MEMORY;
    err e = field_decode(rq->arena, &definition_table, FIELD_CREATE, definition, S("/definition"), NULL, &problems);
    if (e == OK)
        e = definition_check(rq->arena, definition, &problems, &checked);
    if (e != OK && e != ERR_INVALID)
        return e;
    *out = (struct validation){ .valid = e == OK, .levels = checked.levels };
    TRY(findings_of(rq->arena, &problems, &out->errors));
    field_set_all(&validation_table, out);
    return reply(rq, 200, &validation_table, out);
}
