/* audit.c - one INSERT, in the transaction of the change: what rolls back leaves no trace, and nothing changes
 * without one. */
#include "core/audit.h"

#include "codec/typeid.h"
#include "core/audit_chain.h"

STMT(audit_add,
     "INSERT INTO audit_logs (tenant_id, id, actor, action, object_id, changed, detail, request_id, ip, created_at)"
     " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
     .scope = SCOPE_SYSTEM); /* the tenant may be unknown: a failed login, a platform event */

err audit_for(struct req *rq, str tenant_id, str actor, const char *action, str object_id, str changed)
{
    str id = typeid_new(rq->arena, "audit", req_now(rq));
    if (id.p == NULL)
        return ERR_MEMORY;
    audit_seal_wake();
    return db_send(rq->tx, &audit_add, OK,
                   ARGS(STR(tenant_id), STR(id), STR(actor), STR(str_of(action)), STR(object_id), STR(changed),
                        STR(rq->who.key_id), STR(rq->request_id), STR(rq->http->remote), I64(req_now(rq))));
}

err audit(struct req *rq, const char *action, str object_id, str changed)
{
    return audit_for(rq, rq->who.tenant_id, rq->who.user_id, action, object_id, changed);
}

err audit_system(struct tx *tx, struct arena *a, i64 now_us, str tenant_id, str actor, const char *action,
                 str object_id, str detail)
{
    str id = typeid_new(a, "audit", now_us);
    if (id.p == NULL)
        return ERR_MEMORY;
    audit_seal_wake();
    return db_exec(tx, &audit_add, NULL,
                   ARGS(STR(tenant_id), STR(id), STR(actor), STR(str_of(action)), STR(object_id), NIL, STR(detail), NIL,
                        NIL, I64(now_us)));
}
