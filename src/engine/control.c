/* control.c - what a caller asks of an execution that runs already. The request is written into the row, in the caller's own transaction, and the worker is told after
 * the commit: wherever the execution is by then, and whatever crashes in between, somebody reads it. */
#include "engine/internal.h"

STMT(cancel_ask,
     "UPDATE executions SET cancel_at = $3, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END"
     " WHERE tenant_id = $1 AND id = $2 AND cancel_at IS NULL AND status IN ('queued', 'running', 'waiting')");
STMT(kill_ask, "UPDATE executions SET kill_at = $3, cancel_at = coalesce(cancel_at, $3),"
               " due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END"
               " WHERE tenant_id = $1 AND id = $2 AND kill_at IS NULL AND status IN ('queued', 'running', 'waiting')");
STMT(cancel_find,
     "SELECT 1 FROM executions WHERE tenant_id = $1 AND id = $2 AND status IN ('queued', 'running', 'waiting')");

STMT(
    resume_ask,
    "UPDATE execution_journal SET resume = $4 WHERE tenant_id = $1 AND execution_id = $2 AND step_id = $3 AND iteration = $5"
    " AND status = 'unknown' AND resume IS NULL");
STMT(resume_wake,
     "UPDATE executions SET wake_at = $3, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END"
     " WHERE tenant_id = $1 AND id = $2 AND cancel_at IS NULL AND status IN ('queued', 'running', 'waiting')");

static err ask(const struct stmt *what, struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first)
{
    i64 changed;
    TRY(db_exec(tx, what, &changed, ARGS(STR(tenant_id), STR(execution_id), I64(now_us))));
    if (changed == 0) /* asked before, or too late */
        TRY(db_row(tx, &cancel_find, NULL, ARGS(STR(tenant_id), STR(execution_id))));
    *first = changed == 1;
    return OK;
}

err engine_cancel_ask(struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first)
{
    return ask(&cancel_ask, tx, tenant_id, execution_id, now_us, first);
}

err engine_kill_ask(struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first)
{
    return ask(&kill_ask, tx, tenant_id, execution_id, now_us, first);
}

void engine_cancel(struct engine *e, str execution_id)
{
    worker_say(worker_of(e, execution_id), NEWS_CANCEL, execution_id);
}

void engine_kill(struct engine *e, str execution_id)
{
    worker_say(worker_of(e, execution_id), NEWS_KILL, execution_id);
}

err engine_resume_ask(struct tx *tx, str tenant_id, str execution_id, const struct resume_step *step, str answer,
                      i64 now_us)
{
    i64 woken, changed, iteration = 0;
    for (u32 i = 0; i < step->depth; i++)
        iteration = iteration * FOREACH_ITEMS_MAX + step->items[i];
    TRY(db_exec(tx, &resume_wake, &woken, ARGS(STR(tenant_id), STR(execution_id), I64(now_us))));
    if (woken == 0)
        return ERR_NOT_FOUND;
    TRY(db_exec(tx, &resume_ask, &changed,
                ARGS(STR(tenant_id), STR(execution_id), STR(step->id), STR(answer), I64(iteration))));
    return changed == 1 ? OK : ERR_CONFLICT;
}

void engine_resume(struct engine *e, str execution_id)
{
    worker_say(worker_of(e, execution_id), NEWS_LOOK, execution_id);
}
