/* failure.c - what an execution leaves behind that failed for good: a dead letter, written with the final commit, so none is lost and none comes twice.
 *
 * A child that is waited for is no dead letter: its parent's step may run it again, and retrying both would do the work twice. */
#include "engine/internal.h"

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

void failure_make(const struct run *r, struct write *w)
{
    w->failure.dead_code = dead_code(r);
}

/* --- on the writer ------------------------------------------------------------------------------------------------ */

STMT(failure_mark, "UPDATE executions SET dead_at = completed_at, dead_code = $3 WHERE tenant_id = $1 AND id = $2");
STMT(dead_end, "UPDATE executions SET dead_at = NULL WHERE tenant_id = $1 AND id = $2 AND dead_at IS NOT NULL");

err failure_write(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    const struct failure *f = &w->failure;
    return f->dead_code.p == NULL
               ? OK
               : db_exec(tx, &failure_mark, NULL, ARGS(STR(r->tenant_id), STR(r->id), STR(f->dead_code)));
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
