/* users_members.c - the people of a tenant as its admins see them: their role, and whether they may come in.
 *
 * Name, address and password are a person's own, in all their tenants: no admin changes them. Nobody changes their own role or lets themselves out, so
 * whoever takes an owner's role away is an owner. That is who they were when they asked: two owners may let each other out at once, so a tenant's owners are counted
 * behind the change. Operators of the platform do not show. */
#include "feat/users/users_parts.h"

#include "base/code.h"
#include "core/audit.h"
#include "core/cache.h"
#include "core/conditional.h"
#include "core/list.h"

/* ---- fields ---- */

static const char *const statuses[] = { "active", "disabled", NULL };

struct member {
    struct presence has;
    str id, email, name, role, status;
    str base_role, role_id;
    i64 created_at, updated_at;
};
static const struct field fields[] = {
    FIELD(struct member, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user", .doc = "Id of the user"),
    FIELD(struct member, email, F_STR, .flags = F_OUTPUT | F_FILTER | F_SORT, .max = 254, .format = "email",
          .doc = "E-mail address"),
    FIELD(struct member, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it is shown; may be empty"),
    FIELD(struct member, role, F_STR, .min = 1, .max = ROLE_NAME_MAX,
          .doc = "Role in this tenant: a built-in one, or the name of one of its own"),
    FIELD(struct member, status, F_STR, .flags = F_FILTER, .one_of = statuses,
          .doc = "A disabled member cannot sign in to this tenant"),
    FIELD(struct member, base_role, F_STR, .flags = F_HIDDEN, .doc = "Column role"),
    FIELD(struct member, role_id, F_STR, .flags = F_HIDDEN | F_NULLABLE, .doc = "Of a role of the tenant's own"),
    FIELD(struct member, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When they joined"),
    FIELD(struct member, updated_at, F_TIME, .flags = F_OUTPUT, .doc = "When role or status last changed"),
};
static const struct table member_table = TABLE("User", struct member, fields, .doc = "A person in a tenant");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
static const struct table query_table =
    TABLE("UserQuery", struct list_query, query_fields, .doc = "Paging of the users");

/* ---- permissions, problems, statements ---- */

PERMISSION(can_read, "users.read", ROLES_ADMINS, "See the people of the tenant");
PERMISSION(can_write, "users.write", ROLES_ADMINS, "Invite people, change their roles, let them out");
const struct permission *const users_can_read = &can_read, *const users_can_write = &can_write;

CODES(entry_codes, CODE_ENTRY, { "users.role", "There is no such role in this tenant" });

PROBLEM(not_found, "users.not_found", ERR_NOT_FOUND, "There is no such user in this tenant");
PROBLEM(own_self, "users.self", ERR_CONFLICT, "The user is the caller");
PROBLEM_SHARED(users_role_above, "users.role_above", ERR_FORBIDDEN, "The role allows more than the caller may");
PROBLEM(last_owner, "users.last_owner", ERR_CONFLICT, "The tenant would have no owner");

#define MEMBER_COLUMNS                                                                                       \
    "m.user_id AS id, u.email, u.name, coalesce((SELECT r.name FROM roles r WHERE r.tenant_id = m.tenant_id" \
    " AND r.id = m.role_id), m.role) AS role, m.status, m.role AS base_role, m.role_id, m.created_at, m.updated_at"
#define MEMBER_FROM \
    " FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.tenant_id = $1 AND m.role <> 'operator'"
#define MEMBER_WHERE MEMBER_FROM LIST_FILTER("u.email", "$2") LIST_FILTER("m.status", "$3")
#define MEMBER_ROWS  "SELECT " MEMBER_COLUMNS MEMBER_WHERE
STMT(member_by_id, "SELECT " MEMBER_COLUMNS MEMBER_FROM " AND m.user_id = $2", .row = &member_table);
LIST_BY_ID(members, id, &member_table, MEMBER_ROWS, "m.user_id", LIST_AFTER_3);
LIST_BY(members, email, &member_table, MEMBER_ROWS, "u.email", "m.user_id", LIST_AFTER_3, .scan_ok = true);
STMT(member_count, "SELECT count(*) AS n" MEMBER_WHERE, .row = &list_count_table);
static const struct list_sort sorts[] = { LIST_SORT(members, id), LIST_SORT(members, email) };
static const char *const filters[] = { "email", "status" };
static const struct lister member_lister = {
    &member_table, sorts, COUNT(sorts), filters, COUNT(filters), &member_count
};
STMT(member_state,
     "SELECT m.updated_at || '.' || u.updated_at AS state FROM memberships m JOIN users u ON u.id = m.user_id"
     " WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.role <> 'operator'",
     .row = &etag_table);
STMT(member_update, "UPDATE memberships SET role = $3, role_id = $4, status = $5, updated_at = $6"
                    " WHERE tenant_id = $1 AND user_id = $2");
STMT(member_delete, "DELETE FROM memberships WHERE tenant_id = $1 AND user_id = $2");
STMT(owners_count,
     "SELECT count(*) AS n FROM memberships m JOIN users u ON u.id = m.user_id"
     " WHERE m.tenant_id = $1 AND m.role = 'owner' AND m.status = 'active' AND u.status = 'active'",
     .row = &list_count_table);
/* Rows of auth and api-keys: a session or key that lives on unseen would be good again once its owner is let in anew. */
STMT(member_sessions_end,
     "UPDATE sessions SET revoked_at = $3 WHERE tenant_id = $1 AND user_id = $2 AND revoked_at IS NULL");

STMT(member_keys_end, "DELETE FROM api_keys WHERE tenant_id = $1 AND user_id = $2");
/* What they offered with an authority that they no longer have. */
STMT(member_offers_end, "DELETE FROM invitations WHERE tenant_id = $1 AND invited_by = $2");

/* ---- handlers ---- */

static err missing(struct req *rq, err e)
{
    return e == ERR_NOT_FOUND ? problem(rq, &not_found, "There is no user %.*s", STR_FMT(req_param(rq, "id"))) : e;
}

static err find(struct req *rq, struct member *out)
{
    return missing(rq, db_row(rq->tx, &member_by_id, out, ARGS(TENANT(rq), STR(req_param(rq, "id")))));
}

static err may_give(struct req *rq, const struct role_choice *role)
{
    if (roles_may_give(&rq->who, role))
        return OK;
    return problem(rq, &users_role_above, "Your own role does not allow all that %.*s does", STR_FMT(role->name));
}

err users_choose_role(struct req *rq, str name, struct role_choice *out)
{
    err e = roles_choose(rq->tx, rq->arena, rq->who.tenant_id, name, out);
    if (e == ERR_NOT_FOUND)
        return problem_at(rq, &problem_body_invalid, S("/role"), "users.role", "%.*s is no role of this tenant",
                          STR_FMT(name));
    TRY(e);
    return may_give(rq, out);
}

static err member_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    TRY(list_read(rq, page, ARGS(TENANT(rq)), &rows, &n, &total));
    return list_reply(rq, rows, n, page, total, 0);
}

static err member_get(struct req *rq)
{
    struct member *m = NEW(rq->arena, struct member);
    if (m == NULL)
        return ERR_MEMORY;
    TRY(find(rq, m));
    return reply(rq, 200, &member_table, m);
}

err users_role_not_above(struct req *rq, str name)
{
    struct role_choice role;
    err e = roles_choose(rq->tx, rq->arena, rq->who.tenant_id, name, &role);
    if (e == ERR_NOT_FOUND)
        return OK; /* it was deleted: it allows nothing */
    TRY(e);
    return may_give(rq, &role);
}

err users_member_not_above(struct req *rq, str user_id)
{
    struct member m;
    TRY(db_row(rq->tx, &member_by_id, &m, ARGS(TENANT(rq), STR(user_id))));
    return str_eq(user_id, rq->who.user_id) ? OK : users_role_not_above(rq, m.role);
}

/* The member, if the caller may touch them: somebody else, and nobody above. */
static err find_below(struct req *rq, struct member *m)
{
    TRY(find(rq, m));
    if (str_eq(m->id, rq->who.user_id))
        return problem(rq, &own_self, "Ask another admin to change you");
    return users_role_not_above(rq, m->role);
}

static err still_owned(struct req *rq)
{
    struct list_count owners;
    TRY(db_row(rq->tx, &owners_count, &owners, ARGS(TENANT(rq))));
    return owners.n > 0 ? OK : problem(rq, &last_owner, "Make somebody else an owner first");
}

static err end_sessions(struct req *rq, str user_id)
{
    return db_exec(rq->tx, &member_sessions_end, NULL, ARGS(TENANT(rq), STR(user_id), I64(req_now(rq))));
}

static err member_change(struct req *rq)
{
    struct member *m = NEW(rq->arena, struct member);
    struct buf changed = { .arena = rq->arena };
    struct role_choice role;
    if (m == NULL)
        return ERR_MEMORY;
    TRY(find_below(rq, m));
    field_merge(&member_table, m, rq->body, &changed);
    TRY(changed.fail);
    if (changed.n == 0)
        return reply(rq, 200, &member_table, m);
    TRY(users_choose_role(rq, m->role, &role));
    m->role = role.name; /* as it is called here, whatever the client calls it */
    m->updated_at = MAX(req_now(rq), m->updated_at + 1);
    TRY(db_exec(rq->tx, &member_update, NULL,
                ARGS(TENANT(rq), STR(m->id), STR(role.role), STR(role.role_id), STR(m->status), I64(m->updated_at))));
    TRY(still_owned(rq));
    TRY(db_exec(rq->tx, &member_offers_end, NULL, ARGS(TENANT(rq), STR(m->id))));
    if (str_eq(m->status, S("disabled")))
        TRY(end_sessions(rq, m->id));
    TRY(audit(rq, "users.update", m->id, buf_view(&changed)));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply(rq, 200, &member_table, m);
}

static err member_remove(struct req *rq)
{
    struct member m;
    TRY(find_below(rq, &m));
    TRY(db_exec(rq->tx, &member_delete, NULL, ARGS(TENANT(rq), STR(m.id))));
    TRY(still_owned(rq));
    TRY(end_sessions(rq, m.id));
    TRY(db_exec(rq->tx, &member_keys_end, NULL, ARGS(TENANT(rq), STR(m.id))));
    TRY(db_exec(rq->tx, &member_offers_end, NULL, ARGS(TENANT(rq), STR(m.id))));
    TRY(audit(rq, "users.delete", m.id, STR_NONE));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply_empty(rq, 204);
}

/* ---- routes ---- */

#define USERS "/api/v1/users"
static const char invite_more[] =
    "Sends a link that is good for 7 days. Inviting the same address again ends the earlier link, which whoever may not give that one's role cannot do. The person chooses a password, or signs in with "
    "the one they have.";
static const char invite_example[] = "{\"email\":\"grace@example.com\",\"role\":\"editor\"}";
static const struct problem *const read_problems[] = { &not_found, NULL };
static const struct problem *const write_problems[] = { &not_found, &own_self, &users_role_above, &last_owner, NULL };
static const struct problem *const invite_problems[] = { &users_role_above, &user_is_member, &user_quota, NULL };
static const struct problem *const invitation_problems[] = { &invitation_not_found, &users_role_above, NULL };

#define INVITE_ROUTE(path_, doc_)                                                                                \
    {                                                                                                            \
        ROUTE(POST, path_, invite, W_WRITE), .prepare = invite_prepare, .need = &can_write, .in = &invite_table, \
                                             .out = &invitation_table, .max_body = 16 * KIB,                     \
                                             .problems = invite_problems, .doc = (doc_), .more = invite_more,    \
                                             .example = invite_example                                           \
    }

const struct route users_routes[USERS_ROUTES] = {
    { ROUTE(GET, USERS, member_list, W_READ), .need = &can_read, .query = &query_table, .list = &member_lister,
      .out = &member_table, .flags = R_LIST, .doc = "List the people of the tenant, newest first" },
    INVITE_ROUTE(USERS, "Invite somebody to the tenant"),
    INVITE_ROUTE(USERS "/invite", "Invite somebody to the tenant, as POST /users"),
    { ROUTE(GET, "/api/v1/invitations", invitation_list, W_READ), .need = &can_read, .query = &invitation_query_table,
      .out = &invitation_table, .flags = R_LIST, .doc = "List the invitations that nobody accepted yet, newest first" },
    { ROUTE(DELETE, "/api/v1/invitations/{id}", invitation_remove, W_WRITE), .need = &can_write, .status = 204,
      .problems = invitation_problems, .doc = "Take an invitation back" },
    { ROUTE(GET, USERS "/{id}", member_get, W_READ), .etag = &member_state, .need = &can_read, .out = &member_table,
      .problems = read_problems, .doc = "Read a person of the tenant" },
    { ROUTE(PATCH, USERS "/{id}", member_change, W_WRITE), .etag = &member_state, .need = &can_write,
      .in = &member_table, .out = &member_table, .flags = R_PATCH, .problems = write_problems,
      .doc = "Change somebody's role, or disable them",
      .more = "It holds for their next request. Only owners change owners, and nobody changes themselves." },
    { ROUTE(DELETE, USERS "/{id}", member_remove, W_WRITE), .etag = &member_state, .need = &can_write, .status = 204,
      .problems = write_problems, .doc = "Let somebody out of the tenant",
      .more =
          "Their sessions and keys in it end. What they made stays; their account and other tenants are not touched." },
};
