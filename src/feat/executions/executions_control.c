/* executions_control.c - what people do to an execution that runs: cancel it. The request is a change of its row, audited with it; the engine is told after the commit. */
#include "feat/executions/executions_parts.h"

#include "core/app.h"
#include "core/audit.h"

PROBLEM_SHARED(execution_final, "executions.final", ERR_CONFLICT, "The execution has ended");

static err ended(struct req *rq, str id)
{
    return problem(rq, &execution_final, "Execution %.*s has ended", STR_FMT(id));
}

/* A repeat finds it cancelled, which is what was asked for. */
err prepare_cancel(struct req *rq)
{
    str id = req_param(rq, "id");
    struct execution *x = NEW(rq->arena, struct execution);
    if (x == NULL)
        return ERR_MEMORY;
    TRY(execution_find(rq, rq->tx, id, x));
    rq->prepared = x;
    if (str_eq(x->status, S("cancelled")))
        return reply(rq, 200, &execution_table, x);
    return execution_is_final(x->status) ? ended(rq, id) : OK;
}

static void tell_engine(void *execution)
{
    engine_cancel(app.engine, ((struct execution *)execution)->execution_id);
}

err execution_cancel(struct req *rq)
{
    struct execution *x = rq->prepared;
    bool first;
    err e = engine_cancel_ask(rq->tx, rq->who.tenant_id, x->execution_id, req_now(rq), &first);
    if (e == ERR_NOT_FOUND)
        return ended(rq, x->execution_id);
    TRY(e);
    if (first)
        TRY(audit(rq, "executions.cancel", x->execution_id, STR_NONE));
    TRY(req_after(rq, tell_engine, x));
    reply_location(rq, "/api/v1/executions/%.*s", STR_FMT(x->execution_id));
    return reply(rq, 202, &execution_table, x);
}
