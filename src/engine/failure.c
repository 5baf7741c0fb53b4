/* failure.c - what an execution leaves behind that failed for good: a dead letter, an execution of the workflow named by on_failure, the time at which its row may go. All of it
 * is written with the final commit, so none is lost and none comes twice.
 *
 * A child that is waited for is no dead letter: its parent's step may run it again, and retrying both would do the work twice. */
#include "engine/internal.h"
#include "codec/typeid.h"

/* --- on the worker ------------------------------------------------------------------------------------------------ */

static str member(const struct json *object, const char *name)
{
    return json_str(json_get(object, str_of(name)));
}

/* STR_NONE: it is none. Whoever gave a step a retry policy expects it to succeed in the end; the other two are nobody's fault but ours. */
static str dead_code(const struct run *r)
{
    str code = member(&r->error, "code"), step_id = member(&r->error, "step_id");
    if (r->state != RUN_FAILED || r->parent_step.p != NULL)
        return STR_NONE;
    if (str_eq(code, S("engine.crashed")) || str_eq(code, S("engine.definition")))
        return code;
    const struct plan_step *s = step_id.p != NULL ? map_get(&r->plan->by_id, step_id) : NULL;
    return s != NULL && s->retry.max_attempts > 1 ? code : STR_NONE;
}

/* The failed execution as the input of another one: what is published of it, without its steps, which may be of any size. */
static str input_of_handler(struct arena *a, const struct run *r, const struct write *w)
{
    struct buf b = { .arena = a };
    struct json_writer jw = { .b = &b };
    jw_begin(&jw, '{');
    jw_key(&jw, S("execution_id"));
    jw_str(&jw, r->id);
    jw_key(&jw, S("workflow_id"));
    jw_str(&jw, r->workflow_id);
    jw_key(&jw, S("workflow_name"));
    jw_str(&jw, r->plan->workflow_name);
    jw_key(&jw, S("version"));
    jw_i64(&jw, r->version);
    jw_key(&jw, S("status"));
    jw_str(&jw, w->row.status);
    jw_key(&jw, S("error"));
    jw_raw(&jw, w->row.error);
    jw_key(&jw, S("input_data"));
    jw_raw(&jw, r->input_text);
    jw_end(&jw, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

/* What such an execution starts never starts another: neither its own failure nor that of its retries, whose trigger is the same. */
static err make_handler(struct arena *a, const struct run *r, struct write *w)
{
    static const i64 life_us = 30 * DAY_US; /* its own settings make it shorter */
    bool handles = str_eq(member(r->trigger, "type"), S("failure"));
    if (r->plan->on_failure.p == NULL || handles || r->depth >= EXECUTION_DEPTH_MAX)
        return OK;
    struct child_row *c = NEW(a, struct child_row);
    if (c == NULL)
        return ERR_MEMORY;
    *c = (struct child_row){ .id = typeid_new(a, "execution", r->last_us),
                             .workflow_id = r->plan->on_failure,
                             .input = input_of_handler(a, r, w),
                             .trigger = strf(a, "{\"type\":\"failure\",\"execution_id\":\"%.*s\"}", STR_FMT(r->id)),
                             .created_at = r->completed_at,
                             .deadline_at = r->completed_at + life_us };
    w->failure.handler = c;
    return c->id.p != NULL && c->input.p != NULL && c->trigger.p != NULL ? OK : ERR_MEMORY;
}

err failure_make(struct arena *a, const struct run *r, struct write *w)
{
    i64 kept_us = r->plan->error_retention_us;
    if (r->state != RUN_FAILED && r->state != RUN_TIMED_OUT)
        return OK;
    w->failure.dead_code = dead_code(r);
    w->failure.expire_at = kept_us != 0 ? r->completed_at + kept_us : 0;
    return make_handler(a, r, w);
}

/* --- on the writer ------------------------------------------------------------------------------------------------ */

STMT(
    failure_mark,
    "UPDATE executions SET dead_at = CASE WHEN CAST($3 AS TEXT) IS NULL THEN NULL ELSE completed_at END, dead_code = $3, expire_at = $4"
    " WHERE tenant_id = $1 AND id = $2");
STMT(dead_end, "UPDATE executions SET dead_at = NULL WHERE tenant_id = $1 AND id = $2 AND dead_at IS NOT NULL");

err failure_write(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    const struct failure *f = &w->failure;
    if (f->dead_code.p == NULL && f->expire_at == 0)
        return OK;
    return db_exec(tx, &failure_mark, NULL,
                   ARGS(STR(r->tenant_id), STR(r->id), STR(f->dead_code), f->expire_at != 0 ? I64(f->expire_at) : NIL));
}

/* --- dead letters ------------------------------------------------------------------------------------------------- */

struct dead_row {
    struct presence has;
    str workflow_id;
    bool kept;
};
static const struct field dead_fields[] = {
    FIELD(struct dead_row, workflow_id, F_STR, .doc = "Of which workflow"),
    FIELD(struct dead_row, kept, F_BOOL, .doc = "Whether its history was"),
};
static const struct table dead_table = TABLE("DeadRow", struct dead_row, dead_fields);
STMT(dead_find,
     "SELECT workflow_id, step_executions IS NOT NULL AS kept FROM executions"
     " WHERE tenant_id = $1 AND id = $2 AND dead_at IS NOT NULL",
     .row = &dead_table);
STMT(
    dead_again,
    "INSERT INTO executions (id, tenant_id, workflow_id, version, status, created_at, deadline_at, due_at, fence, parent_id, replays,"
    " trigger_data, input_data) SELECT $3, tenant_id, workflow_id, version, 'queued', $4, $5, $4, 1, id, id, $6, input_data"
    " FROM executions WHERE tenant_id = $1 AND id = $2");

err engine_dead_discard(struct tx *tx, str tenant_id, str execution_id, bool *done)
{
    i64 changed;
    TRY(db_exec(tx, &dead_end, &changed, ARGS(STR(tenant_id), STR(execution_id))));
    *done = changed == 1;
    return OK;
}

err engine_dead_retry(struct engine *e, struct tx *tx, const struct dead_retry *retry, bool *done)
{
    static const i64 life_us = 30 * DAY_US; /* the workflow's settings make it shorter */
    struct dead_row row;
    i64 version;
    *done = false;
    err found = db_row(tx, &dead_find, &row, ARGS(STR(retry->tenant_id), STR(retry->execution_id)));
    if (found == OK && row.kept)
        found = e->options.present(tx, retry->tenant_id, row.workflow_id, &version);
    if (found == ERR_NOT_FOUND || (found == OK && !row.kept))
        return OK;
    TRY(found);
    TRY(engine_dead_discard(tx, retry->tenant_id, retry->execution_id, done));
    return db_exec(tx, &dead_again, NULL,
                   ARGS(STR(retry->tenant_id), STR(retry->execution_id), STR(retry->new_id), I64(retry->now_us),
                        I64(retry->now_us + life_us), STR(retry->trigger)));
}

void engine_dead_retried(struct engine *e, u32 count, i64 now_us)
{
    atomic_fetch_add(&e->started, count);
    engine_due(e, now_us);
}
