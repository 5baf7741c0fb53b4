/* outcome.c - what a waiting caller is told. Built from the run that just ended, without copying, or from the row of an execution. */
#include "engine/internal.h"
#include "base/log.h"

enum { OUTCOME_BYTES = 512 * 1024 * 1024 }; /* a row of 64 MiB, and the nodes of its output */

void outcome_release(struct outcome *o)
{
    if (o->arena == NULL || atomic_fetch_sub(&o->users, 1) != 1)
        return;
    arena_free(o->run); /* first: `o` lives on the other one */
    arena_free(o->arena);
}

void outcome_tell(struct outcome *o, struct waiter *list)
{
    for (struct waiter *w = list, *next; w != NULL; w = next) {
        next = w->next; /* before telling: it may be gone at once */
        if (o->arena != NULL)
            atomic_fetch_add(&o->users, 1);
        w->tell(w, o);
    }
    outcome_release(o);
}

/* Constants need no memory. */
#define X(name, status, retry, text) [name] = { .error = name },
static struct outcome refusals[ERR_COUNT] = { ERR_CLASSES(X) };
#undef X
#define X(name, status, retry, text) [name] = { .error = name, .unread = true },
static struct outcome unread[ERR_COUNT] = { ERR_CLASSES(X) };
#undef X

struct outcome *outcome_of_error(err e)
{
    return &refusals[e];
}

static err set_response(struct outcome *o, struct arena *a, const struct json *output)
{
    const struct json *status = json_get(output, S("status")), *headers = json_get(output, S("headers"));
    const struct json *body = json_get(output, S("body"));
    if (status == NULL || status->type != JSON_INT || headers == NULL || body == NULL)
        return OK;
    o->response_status = status->integer;
    o->response_headers = json_text(a, headers);
    o->response_body = json_text(a, body);
    o->has_response = o->response_headers.p != NULL && o->response_body.p != NULL;
    return o->has_response ? OK : ERR_MEMORY;
}

static void set_execution(struct execution *x, const struct run *r, const struct write *w)
{
    *x = (struct execution){
        .execution_id = r->id,
        .workflow_id = r->workflow_id,
        .version = r->version,
        .status = w->row.status,
        .trigger = r->trigger_text,
        .input_data = r->input_text,
        .output_data = w->row.output_data,
        .error = w->row.error,
        .created_at = r->created_at,
        .started_at = r->started_at,
        .completed_at = r->completed_at,
        .execution_time = (double)(r->completed_at - r->started_at) / (double)SECOND_US,
        .parent_id = r->parent_id,
        .step_executions = w->row.step_executions.p != NULL ? w->row.step_executions : S("[]"),
    };
    field_set_all(&execution_table, x);
}

err outcome_prepare(const struct run *r, struct write *w)
{
    struct arena *a = w->job.arena;
    struct outcome *o = NEW(a, struct outcome);
    if (o == NULL)
        return ERR_MEMORY;
    *o = (struct outcome){ .users = 1, .arena = a };
    set_execution(&o->execution, r, w);
    err e = w->responded ? set_response(o, a, r->responded->record.output) : OK;
    w->told = o;
    return r->thin ? OK : e; /* one that is too large to be written is too large to be answered with */
}

struct outcome *outcome_of_run(struct run *r)
{
    struct outcome *o = r->write->told;
    o->run = r->arena;
    return o;
}

/* --- from the database -------------------------------------------------------------------------------------------- */

/* Of a final row the steps are there already; of another one they are put together by its plan. */
static err complete(struct engine *e, struct tx *tx, str tenant_id, struct outcome *o)
{
    struct execution *x = &o->execution;
    struct plan *plan;
    struct json *output;
    struct json_error where;
    str body;
    bool responded;
    if (!execution_is_final(x->status)) {
        TRY(engine_plan(e, tx, tenant_id, x->workflow_id, x->version, &plan));
        err outcome = execution_complete_row(tx, tenant_id, x, plan);
        plan_release(plan);
        return outcome;
    }
    TRY(execution_complete_row(tx, tenant_id, x, NULL));
    TRY(journal_row_aside(tx, tenant_id, x->execution_id, &body, &responded));
    if (!responded)
        return OK;
    TRY(json_parse(o->arena, x->output_data, &output, &where));
    return set_response(o, o->arena, output);
}

typedef err read_fn(struct tx *tx, const void *what, struct outcome *o);

static struct outcome *read_outcome(struct engine *e, str tenant_id, read_fn *read, const void *what)
{
    struct arena *a = arena_new(OUTCOME_BYTES);
    struct outcome *o = a != NULL ? NEW(a, struct outcome) : NULL;
    struct tx *tx;
    if (o == NULL) {
        arena_free(a);
        return &unread[ERR_MEMORY];
    }
    *o = (struct outcome){ .users = 1, .arena = a };
    err failed = db_read_begin(e->options.db, a, false, &tx);
    if (failed == OK) {
        failed = read(tx, what, o);
        if (failed == OK)
            failed = complete(e, tx, tenant_id, o);
        db_read_end(tx);
    }
    if (failed == OK)
        return o;
    arena_free(a);
    if (failed == ERR_INVALID) /* another body came with the key: a refusal */
        return outcome_of_error(failed);
    return &unread[failed == ERR_NOT_FOUND ? ERR_BUSY : failed];
}

struct by_id {
    str tenant_id, execution_id;
};

static err read_by_id(struct tx *tx, const void *what, struct outcome *o)
{
    const struct by_id *key = what;
    return journal_row_of(tx, key->tenant_id, key->execution_id, &o->execution);
}

struct outcome *outcome_of_id(struct engine *e, str tenant_id, str execution_id)
{
    return read_outcome(e, tenant_id, read_by_id, &(struct by_id){ tenant_id, execution_id });
}

static err read_by_key(struct tx *tx, const void *what, struct outcome *o)
{
    const struct run *r = what;
    str body;
    bool responded;
    TRY(journal_row_of_key(tx, r->tenant_id, r->dedup_key, &o->execution));
    TRY(journal_row_aside(tx, r->tenant_id, o->execution.execution_id, &body, &responded));
    return str_eq(body, r->dedup_body) ? OK : ERR_INVALID;
}

struct outcome *outcome_of_key(struct engine *e, const struct run *r)
{
    return read_outcome(e, r->tenant_id, read_by_key, r);
}
