/* sessions_list.c - sessions as people see them: one's own devices in all tenants, and for admins those of a member in theirs. Ending one acts with its next
 * request. */
#include "core/audit.h"
#include "core/cache.h"
#include "core/list.h"
#include "feat/auth/auth_parts.h"
#include "feat/users/users.h"

/* ---- fields ---- */

struct session {
    struct presence has;
    str id, kind, ip, user_agent, tenant;
    bool current;
    i64 created_at, last_seen_at, expires_at;
};
static const struct field fields[] = {
    FIELD(struct session, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "session",
          .doc = "Id of the session"),
    FIELD(struct session, kind, F_STR, .flags = F_OUTPUT, .max = 20, .doc = "browser, or api for tokens"),
    FIELD(struct session, current, F_BOOL, .flags = F_OUTPUT, .doc = "Whether it is the caller's own"),
    FIELD(struct session, tenant, F_STR, .flags = F_OUTPUT, .max = 63, .format = "slug",
          .doc = "Which tenant it is for"),
    FIELD(struct session, ip, F_STR, .flags = F_OUTPUT, .max = 64, .doc = "Address that signed in"),
    FIELD(struct session, user_agent, F_STR, .flags = F_OUTPUT, .max = 256,
          .doc = "Program that signed in, as it said"),
    FIELD(struct session, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it began"),
    FIELD(struct session, last_seen_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was last used"),
    FIELD(struct session, expires_at, F_TIME, .flags = F_OUTPUT, .doc = "When it ends in any case"),
};
const struct table session_table = TABLE("Session", struct session, fields, .doc = "A sign-in that goes on");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
const struct table session_query_table =
    TABLE("SessionQuery", struct list_query, query_fields, .doc = "Paging of sessions");

static const struct field revoke_fields[] = {
    FIELD(
        struct revoke_body, token_id, F_STR, .flags = F_INPUT | F_NULLABLE, .min = 1, .max = 80,
        .doc =
            "Id of a session (sid of its tokens), or of its refresh token (jti); left out: all sessions of the caller"),
};
const struct table revoke_table = TABLE("Revoke", struct revoke_body, revoke_fields, .doc = "Which tokens end");

/* ---- problems, statements ---- */

const struct permission users_sessions = { "users.sessions", ROLES_ADMINS,
                                           "See and end the sessions of the tenant's people" };
static const struct permission *const users_sessions_entry __attribute__((section("weir_permissions"), used)) =
    &users_sessions;
PROBLEM_SHARED(session_not_found, "auth.session_not_found", ERR_NOT_FOUND, "There is no such session");

#define SESSION_COLUMNS                                                                    \
    "SELECT s.id, s.kind, s.ip, s.user_agent, s.created_at, s.last_seen_at, " SESSION_ENDS \
    " AS expires_at, t.slug AS tenant"                                                     \
    " FROM sessions s JOIN tenants t ON t.id = s.tenant_id"
#define SESSION_ORDER " ORDER BY s.created_at DESC LIMIT $3 OFFSET $4"
STMT(sessions_own,
     SESSION_COLUMNS " WHERE s.user_id = $1 AND s.revoked_at IS NULL AND " SESSION_ENDS " > $2" SESSION_ORDER,
     .row = &session_table, .scope = SCOPE_SYSTEM); /* a person's own, in all tenants */
STMT(sessions_of_member,
     SESSION_COLUMNS " WHERE s.tenant_id = $5 AND s.user_id = $1 AND s.revoked_at IS NULL AND " SESSION_ENDS " > $2"
                     " AND EXISTS (SELECT 1 FROM memberships m WHERE m.tenant_id = $5 AND m.user_id = $1"
                     " AND m.role <> 'operator')" SESSION_ORDER,
     .row = &session_table);
STMT(session_end_own,
     "UPDATE sessions SET revoked_at = $3, revoked_reason = 'logout' WHERE user_id = $1 AND revoked_at IS NULL"
     " AND (id = $2 OR id = (SELECT session_id FROM refresh_tokens WHERE jti = $2))",
     .scope = SCOPE_SYSTEM);
STMT(sessions_end_of_member,
     "UPDATE sessions SET revoked_at = $3, revoked_reason = 'logout' WHERE tenant_id = $1 AND user_id = $2"
     " AND revoked_at IS NULL");
STMT(member_is, "SELECT 1 FROM memberships WHERE tenant_id = $1 AND user_id = $2 AND role <> 'operator'");

/* ---- handlers ---- */

static err show(struct req *rq, const struct stmt *s, str user_id, struct arg tenant)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    void *rows = NULL;
    u32 n = 0;
    struct arg list[] = { STR(user_id), I64(req_now(rq)), list_limit(page), I64(page->skip), tenant };
    u32 count = tenant.type == ARG_NULL ? COUNT(list) - 1 : COUNT(list);
    TRY(db_list(rq->tx, s, (u32)page->limit + 1, &rows, &n, (struct args){ list, count }));
    for (u32 i = 0; i < n; i++) {
        struct session *one = (struct session *)rows + i;
        one->current = str_eq(one->id, rq->who.session_id);
        one->last_seen_at = session_seen_at(one->id, one->last_seen_at);
        SET(session_table, one, current);
    }
    return reply_list(rq, &session_table, rows, n, page, LIST_BY_SKIP, -1, 0);
}

err session_list(struct req *rq)
{
    return show(rq, &sessions_own, rq->who.user_id, NIL);
}

static err none(struct req *rq, str id)
{
    return problem(rq, &session_not_found, "There is no session %.*s", STR_FMT(id));
}

static err end_own(struct req *rq, str id, i64 *changed)
{
    TRY(db_exec(rq->tx, &session_end_own, changed, ARGS(STR(rq->who.user_id), STR(id), I64(req_now(rq)))));
    return req_after(rq, cache_forget_all, NULL);
}

err session_remove(struct req *rq)
{
    str id = req_param(rq, "id");
    i64 changed;
    TRY(end_own(rq, id, &changed));
    if (changed == 0)
        return none(rq, id);
    TRY(audit(rq, "auth.session_end", id, STR_NONE));
    return reply_empty(rq, 204);
}

err tokens_revoke(struct req *rq)
{
    const struct revoke_body *in = rq->body;
    i64 changed = 1;
    if (in->token_id.p != NULL)
        TRY(end_own(rq, in->token_id, &changed));
    else
        TRY(sessions_end(rq, rq->who.user_id, rq->who.session_id, S("all")));
    if (changed == 0)
        return none(rq, in->token_id);
    TRY(audit(rq, "auth.revoke", in->token_id.p != NULL ? in->token_id : rq->who.user_id, STR_NONE));
    return reply_empty(rq, 204);
}

static err member(struct req *rq)
{
    err e = db_row(rq->tx, &member_is, NULL, ARGS(TENANT(rq), STR(req_param(rq, "id"))));
    return e == ERR_NOT_FOUND ? problem(rq, &session_not_found, "There is no such user in this tenant") : e;
}

err session_list_of_user(struct req *rq)
{
    TRY(member(rq));
    return show(rq, &sessions_of_member, req_param(rq, "id"), TENANT(rq));
}

/* Seeing them is any admin's, ending them is to act on somebody. */
err session_remove_of_user(struct req *rq)
{
    str id = req_param(rq, "id");
    TRY(member(rq));
    TRY(users_member_not_above(rq, id));
    TRY(db_exec(rq->tx, &sessions_end_of_member, NULL, ARGS(TENANT(rq), STR(id), I64(req_now(rq)))));
    TRY(req_after(rq, cache_forget_all, NULL));
    TRY(audit(rq, "users.sessions_end", id, STR_NONE));
    return reply_empty(rq, 204);
}
