/* outcome.c - what a waiting caller is told. Built from the run that just ended, without copying, or from the row of an execution. */
#include "engine/internal.h"
#include "base/log.h"

enum { OUTCOME_BYTES = 512 * 1024 * 1024 }; /* a row of 64 MiB, and the nodes of its output */

void outcome_release(struct outcome *o)
{
    if (o->arena != NULL && atomic_fetch_sub(&o->users, 1) == 1)
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

struct outcome *outcome_of_error(err e)
{
    static struct outcome constants[ERR_COUNT] = {
#define X(name, status, retry, text) [name] = { .error = name },
        ERR_CLASSES(X)
#undef X
    };
    return &constants[e];
}

static void set_response(struct outcome *o, struct arena *a, const struct json *output)
{
    const struct json *status = json_get(output, S("status")), *headers = json_get(output, S("headers"));
    const struct json *body = json_get(output, S("body"));
    if (status == NULL || status->type != JSON_INT || headers == NULL || body == NULL)
        return;
    o->response_status = status->integer;
    o->response_headers = json_text(a, headers);
    o->response_body = json_text(a, body);
    o->has_response = o->response_headers.p != NULL && o->response_body.p != NULL;
}

static void free_arena(void *arena)
{
    arena_free(arena);
}

static void set_execution(struct execution *x, const struct run *r)
{
    const struct write *w = r->write;
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

struct outcome *outcome_of_run(struct run *r)
{
    struct arena *written = r->write->job.arena, *own = r->arena;
    struct outcome *o = NEW(written, struct outcome);
    if (o != NULL) {
        *o = (struct outcome){ .users = 1, .arena = written };
        set_execution(&o->execution, r);
        if (r->responded != NULL && r->state == RUN_COMPLETED)
            set_response(o, written, r->responded->record.output);
    }
    bool kept = o != NULL && arena_defer(written, free_arena, own); /* frees it at once when it fails */
    if (o == NULL)
        arena_free(own);
    if (kept)
        return o;
    arena_free(written);
    return outcome_of_error(ERR_MEMORY);
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
    set_response(o, o->arena, output);
    return OK;
}

typedef err read_fn(struct tx *tx, const void *what, struct outcome *o);

static struct outcome *read_outcome(struct engine *e, str tenant_id, read_fn *read, const void *what)
{
    struct arena *a = arena_new(OUTCOME_BYTES);
    struct outcome *o = a != NULL ? NEW(a, struct outcome) : NULL;
    struct tx *tx;
    if (o == NULL) {
        arena_free(a);
        return outcome_of_error(ERR_MEMORY);
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
    return outcome_of_error(failed == ERR_NOT_FOUND ? ERR_BUSY : failed);
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
