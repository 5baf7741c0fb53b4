/* executions.c - what ran: one execution with its steps, and the history of a workflow. Starting one is executions_call.c, watching one
 * executions_events.c, cancelling one executions_control.c; nothing here changes an execution, that is the engine's.
 *
 * A row that is not final holds no steps: they are put together from the journal when somebody looks, so running costs no extra write. */
#include "feat/executions/executions_parts.h"

#include "core/app.h"
#include "core/jobs.h"
#include "core/list.h"
#include "core/waiting.h"

enum {
    LISTED_STEPS =
        65536, /* a longer history is left out of lists: a page, read, cut and encoded, must fit into a request's arena */
    SCRATCH_BYTES = 4 << 20,
    CLEAN_SLICE = 1000,
    EXPIRE_SLICE = 100 /* whole histories: the writer has other things to do between two slices */
};
#define KEY_LIFE_US DAY_US

/* ---- fields ---- */

struct list_query {
    struct presence has;
    struct page page;
    i64 since, until;
};
static const struct field query_fields[] = {
    LIST_QUERY(struct list_query),
    FIELD(struct list_query, since, F_TIME, .doc = "Only executions accepted at this time or later"),
    FIELD(struct list_query, until, F_TIME, .doc = "Only executions accepted before this time"),
};
static const struct table query_table =
    TABLE("ExecutionQuery", struct list_query, query_fields, .doc = "Filters of a workflow's history");

/* ---- permissions and problems ---- */

PERMISSION(can_read, "executions.read", ROLES_ALL, "See what ran, with its data");
PERMISSION(can_control, "executions.control", ROLES_MEMBERS, "Cancel, kill, resume, retry and replay what ran");

PROBLEM_SHARED(execution_not_found, "executions.not_found", ERR_NOT_FOUND, "There is no such execution");
PROBLEM(no_workflow, "executions.workflow_not_found", ERR_NOT_FOUND, "There is no such workflow");

/* ---- statements ---- */

#define EXECUTION_COLUMNS                                                                                         \
    "id AS execution_id, workflow_id, version, status, trigger_data AS trigger, input_data, output_data, error, " \
    "created_at, started_at, completed_at, parent_id, step_executions"
#define CUT_TRIGGER LIST_CUT_COLUMN("trigger_data", "trigger")
#define CUT_INPUT   LIST_CUT_COLUMN("input_data", "input_data")
#define CUT_OUTPUT  LIST_CUT_COLUMN("output_data", "output_data")
#define LISTED_COLUMNS                                                                                          \
    "id AS execution_id, workflow_id, version, status, " CUT_TRIGGER ", " CUT_INPUT ", " CUT_OUTPUT ", error, " \
    "created_at, started_at, completed_at, parent_id, "                                                         \
    "CASE WHEN length(step_executions) > 65536 THEN '[]' ELSE step_executions END AS step_executions "
#define HISTORY                                                                                                       \
    "FROM executions WHERE tenant_id = $1 AND workflow_id = $2 AND created_at >= $3 AND created_at < $4" LIST_FILTER( \
        "status", "$5")
#define HISTORY_ROWS "SELECT " LISTED_COLUMNS HISTORY

STMT(execution_by_id, "SELECT " EXECUTION_COLUMNS " FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &execution_table);
/* Also of a deleted workflow: its history stays. */
STMT(execution_workflow, "SELECT 1 FROM workflows WHERE tenant_id = $1 AND id = $2");
/* Ids rise with time, so they are the order of history; a sort by any other column would read all of it. */
LIST_BY_ID(executions, execution_id, &execution_table, HISTORY_ROWS, "id", LIST_AFTER_5);
STMT(execution_count, "SELECT count(*) AS n " HISTORY, .row = &list_count_table);
static const struct list_sort sorts[] = { LIST_SORT(executions, execution_id) };
static const char *const filters[] = { "status" };
static const struct lister history_lister = { &execution_table, sorts,          COUNT(sorts),
                                              filters,          COUNT(filters), &execution_count };
STMT(execution_forget_keys,
     "UPDATE executions SET dedup_key = NULL, dedup_body = NULL WHERE id IN "
     "(SELECT id FROM executions WHERE dedup_key IS NOT NULL AND created_at < $1 ORDER BY created_at LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);

STMT(execution_forget,
     "DELETE FROM executions WHERE id IN (SELECT id FROM executions WHERE expire_at <= $1 ORDER BY expire_at LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);

STMT(executions_waiting, WAITING_SQL("executions", "due_at <= $1"), .row = &waiting_table, .scope = SCOPE_SYSTEM);

/* ---- metrics ---- */

/* Those in memory that their worker has not reached yet, and those on disk that are due: no row is both, a taken one has no due time. */
static i64 read_depth(void)
{
    i64 due = waiting_count(&executions_waiting);
    return due == METRIC_UNKNOWN || app.engine == NULL ? due : due + engine_stats(app.engine).queued;
}
static i64 read_oldest_us(void)
{
    return waiting_age_us(&executions_waiting);
}
QUEUE_DEPTH(queue_depth, "executions", read_depth);
QUEUE_OLDEST(queue_oldest, "executions", read_oldest_us);

/* ---- handlers ---- */

/* The plan names the steps that the journal has not seen. A plan that no longer compiles leaves them out: the history must stay readable. */
static err complete(struct req *rq, struct tx *tx, struct execution *x)
{
    struct plan *plan = NULL;
    if (execution_is_final(x->status))
        return execution_complete_row(tx, rq->who.tenant_id, x, NULL);
    err e = engine_plan(app.engine, tx, rq->who.tenant_id, x->workflow_id, x->version, &plan);
    if (e == ERR_NOT_FOUND || e == ERR_INVALID) {
        x->step_executions = S("[]");
        SET(execution_table, x, step_executions);
        return OK;
    }
    TRY(e);
    e = execution_complete_row(tx, rq->who.tenant_id, x, plan);
    plan_release(plan);
    return e;
}

static err missing(struct req *rq, err e, str id)
{
    return e == ERR_NOT_FOUND ? problem(rq, &execution_not_found, "There is no execution %.*s", STR_FMT(id)) : e;
}

err execution_exists(struct req *rq, struct tx *tx, str id)
{
    return missing(rq, db_row(tx, &execution_by_id, NULL, ARGS(TENANT(rq), STR(id))), id);
}

err execution_find(struct req *rq, struct tx *tx, str id, struct execution *out)
{
    TRY(missing(rq, db_row(tx, &execution_by_id, out, ARGS(TENANT(rq), STR(id))), id));
    return complete(rq, tx, out);
}

static err execution_get(struct req *rq)
{
    struct execution *x = NEW(rq->arena, struct execution);
    if (x == NULL)
        return ERR_MEMORY;
    TRY(execution_find(rq, rq->tx, req_param(rq, "id"), x));
    return reply(rq, 200, &execution_table, x);
}

static err cut_value(struct arena *a, struct json *step, str name)
{
    const struct json *value = json_get(step, name);
    size_t size = value != NULL ? json_size(value) : 0;
    struct json stub = { .type = JSON_OBJECT };
    if (size <= LIST_CUT)
        return OK;
    bool made = json_set(a, &stub, S("truncated"), json_of_bool(true)) &&
                json_set(a, &stub, S("size"), json_of_i64((i64)size)) && json_set(a, step, name, stub);
    return made ? OK : ERR_MEMORY;
}

static err cut_steps(struct arena *scratch, struct arena *a, str *text)
{
    struct json *steps;
    TRY(json_parse(scratch, *text, &steps, NULL));
    for (u32 i = 0; i < steps->n; i++) {
        TRY(cut_value(scratch, &steps->items[i], S("input_data")));
        TRY(cut_value(scratch, &steps->items[i], S("output_data")));
    }
    str cut = json_text(a, steps);
    if (cut.p == NULL)
        return ERR_MEMORY;
    *text = cut;
    return OK;
}

/* Of each step the long values, so that the list keeps its shape. The steps of one row are taken apart at a time. */
static err complete_listed(struct req *rq, struct execution *x)
{
    TRY(complete(rq, rq->tx, x));
    if (x->step_executions.n > LISTED_STEPS)
        x->step_executions = S("[]");
    if (x->step_executions.n <= LIST_CUT)
        return OK;
    struct arena *scratch = arena_new(SCRATCH_BYTES);
    err e = scratch != NULL ? cut_steps(scratch, rq->arena, &x->step_executions) : ERR_MEMORY;
    arena_free(scratch);
    return e;
}

static err history(struct req *rq)
{
    const struct list_query *q = rq->query;
    const struct page *page = &q->page;
    str workflow_id = req_param(rq, "id");
    struct arg since = I64(HAS(query_table, q, since) ? q->since : INT64_MIN),
               until = I64(HAS(query_table, q, until) ? q->until : INT64_MAX);
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    err e = db_row(rq->tx, &execution_workflow, NULL, ARGS(TENANT(rq), STR(workflow_id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &no_workflow, "There is no workflow %.*s", STR_FMT(workflow_id));
    TRY(e);
    TRY(list_read(rq, page, ARGS(TENANT(rq), STR(workflow_id), since, until), &rows, &n, &total));
    for (u32 i = 0; i < MIN(n, (u32)page->limit); i++)
        TRY(complete_listed(rq, (struct execution *)rows + i));
    return list_reply(rq, rows, n, page, total, LIST_CUT);
}

/* ---- cleaning ---- */

struct clean {
    i64 before, changed;
};

static err clean_slice(void *ctx, struct tx *tx)
{
    struct clean *c = ctx;
    return db_exec(tx, &execution_forget_keys, &c->changed, ARGS(I64(c->before), I64(CLEAN_SLICE)));
}

static err expire_slice(void *ctx, struct tx *tx)
{
    struct clean *c = ctx;
    return db_exec(tx, &execution_forget, &c->changed, ARGS(I64(c->before), I64(EXPIRE_SLICE)));
}

static err clean_days(void *ctx, struct tx *tx)
{
    return quota_clean(tx, ((const struct job *)ctx)->now_us);
}

static err executions_clean(const struct job *job)
{
    struct clean keys = { .before = job->now_us - KEY_LIFE_US }, expired = { .before = job->now_us };
    do
        TRY(db_write_wait(app.db, job->arena, clean_slice, &keys));
    while (keys.changed == CLEAN_SLICE);
    do
        TRY(db_write_wait(app.db, job->arena, expire_slice, &expired));
    while (expired.changed == EXPIRE_SLICE);
    return db_write_wait(app.db, job->arena, clean_days, (void *)job);
}

/* ---- routes ---- */

static const struct problem *const not_found_list[] = { &execution_not_found, NULL };
static const struct problem *const no_workflow_list[] = { &no_workflow, NULL };

static const struct problem *const cancel_list[] = { &execution_not_found, &execution_final, NULL };
static const struct problem *const resume_list[] = { &execution_not_found, &execution_final, &execution_not_waiting,
                                                     NULL };
static const struct problem *const retry_list[] = {
    &execution_not_found,  &execution_not_final,          &execution_not_failed,
    &execution_no_history, &execution_inactive,           &execution_limited,
    &execution_quota,      &problem_idempotency_mismatch, NULL
};
static const struct problem *const replay_list[] = {
    &execution_not_found, &execution_not_final, &execution_no_history,         &execution_inactive,
    &execution_limited,   &execution_quota,     &problem_idempotency_mismatch, NULL
};
static const struct route_status replay_also[] = {
    { 202, &execution_table, "It still runs; Location says where to look" },
    { 0 },
};
static const struct route_status cancel_also[] = {
    { 200, &execution_table, "It had been cancelled before" },
    { 0 },
};

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/executions/{id}", execution_get, W_READ), .need = &can_read, .out = &execution_table,
      .problems = not_found_list, .doc = "Read an execution with its steps" },
    { ROUTE(GET, "/api/v1/executions/{id}/events", execution_stream, W_STREAM), .need = &can_read, .flags = R_TEXT,
      .query = &events_query_table, .produces = "text/event-stream", .problems = not_found_list,
      .doc = "Watch an execution as it runs",
      .more =
          "Server-sent events: execution.started, step.started, step.retrying, step.completed, step.failed, step.skipped, "
          "execution.completed, execution.failed, …; what has happened before comes first. Last-Event-ID resumes behind that event. The "
          "stream ends after the final event.\n\nWith Upgrade: websocket (RFC 6455, HTTP/1.1) the same events come as text messages {id, event, data}: closed with 1000 "
          "after the final one, 1008 when the session ends, 1001 when the server stops, 1013 when what is to come cannot be read now. A client sends control frames only; pages "
          "need an origin of their own server or of ALLOWED_ORIGINS, and are let in by their cookie: a browser sends no Authorization here." },
    { ROUTE(POST, "/api/v1/executions/{id}/cancel", execution_cancel, W_WRITE), .prepare = prepare_end,
      .need = &can_control, .out = &execution_table, .status = 202, .also = cancel_also, .problems = cancel_list,
      .doc = "Cancel an execution",
      .more =
          "The request is on disk when this answers, with the execution as it stands; the end follows at once: outgoing calls are cancelled, the history "
          "stays, and those who wait for the execution are told. A repeat changes nothing." },
    { ROUTE(POST, "/api/v1/executions/{id}/kill", execution_kill, W_WRITE), .prepare = prepare_end,
      .need = &can_control, .out = &execution_table, .status = 202, .also = cancel_also, .problems = cancel_list,
      .doc = "End an execution at once",
      .more =
          "A cancellation that waits for nothing: the end is recorded without waiting for outgoing calls to come back, and nothing that they bring is recorded. For an "
          "execution that hangs, also when its cancellation does. Children that it waits for are killed too. The execution ends cancelled, with the error "
          "execution.killed. A repeat changes nothing." },
    { ROUTE(POST, "/api/v1/executions/{id}/resume", execution_resume, W_WRITE), .prepare = prepare_resume,
      .need = &can_control, .in = &resume_table, .out = &execution_table, .status = 202, .problems = resume_list,
      .doc = "Answer for a step that waits for a person",
      .more =
          "A step with at_most_once that a crash cut off is unknown: whether its call took effect only people can find out. They complete the step with its output, ask for one more "
          "attempt, or let it fail. The answer is on disk when this answers, with the execution as it stands; it goes on at once.",
      .example = "{\"step\":\"charge\",\"data\":{\"status\":200,\"headers\":{},\"body\":{\"receipt\":\"r-17\"}}}" },
    { ROUTE(POST, "/api/v1/executions/{id}/retry", execution_retry, W_WAIT), .need = &can_control,
      .query = &replay_query_table, .out = &execution_table, .status = 200, .also = replay_also, .problems = retry_list,
      .doc = "Run an execution again from where it failed",
      .more =
          "A new execution of the same version, linked by parent_id. Steps that completed, were skipped, or failed where the workflow goes on after that "
          "keep their results; the others run, with all that follows from them." },
    { ROUTE(POST, "/api/v1/executions/{id}/replay", execution_replay, W_WAIT), .need = &can_control,
      .in = &replay_table, .query = &replay_query_table, .out = &execution_table, .flags = R_OPTIONAL_BODY,
      .status = 200, .also = replay_also, .problems = replay_list, .doc = "Run an execution again from a step",
      .more =
          "A new execution of the same version, linked by parent_id. The step and all that follows from it run anew; what had ended before keeps its "
          "results, as in a retry. Without a step everything runs anew.",
      .example = "{\"from_step\":\"score\"}" },
    { ROUTE(GET, "/api/v1/workflows/{id}/executions", history, W_SLOW), .need = &can_read, .query = &query_table,
      .list = &history_lister, .out = &execution_table, .flags = R_LIST, .problems = no_workflow_list,
      .doc = "List what a workflow ran, newest first",
      .more =
          "Values longer than 8 KiB are cut to {\"truncated\": true, \"size\": …}, and steps whose history is longer than 64 KiB are left out; the "
          "execution itself has them." },
};

static const struct job_kind jobs[] = {
    { .name = "executions.clean",
      .run = executions_clean,
      .every_us = HOUR_US,
      .doc =
          "Forgets idempotency keys after 24 hours, deletes failed executions whose time is up, and counts of days after 400" },
};

const struct module executions_module = {
    .name = "executions",
    .doc = "What ran, step by step",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .start = quota_start,
    .stop = quota_stop,
};
