/* users_invite.c - letting somebody in: a link by mail, good for seven days and once. Accepting it is auth's, which knows passwords and sessions.
 *
 * The link's token is kept as a hash only, so whoever reads the table cannot join. An admin never chooses a password for somebody, and does not see whether an
 * address has an account elsewhere. */
#include "feat/users/users_parts.h"

#include "base/clock.h"
#include "base/code.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "codec/url.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/list.h"
#include "core/mail.h"
#include "feat/tenants/tenants.h"

enum { TOKEN_BYTES = 32, CLEAN_ROWS = 500, CLEAN_ROUNDS = 1000 };
#define LIFE_US (7 * DAY_US)

/* ---- fields ---- */

static const struct field invite_fields[] = {
    FIELD(struct invite, email, F_STR, .flags = F_REQUIRED, .min = 3, .max = 254, .format = "email",
          .doc = "Whom to invite"),
    FIELD(struct invite, name, F_STR, .max = 120, .preset = "\"\"", .doc = "Name as it is shown, until they change it"),
    FIELD(struct invite, role, F_STR, .flags = F_REQUIRED, .min = 1, .max = ROLE_NAME_MAX,
          .doc = "Role in this tenant: a built-in one, or the name of one of its own"),
};
const struct table invite_table = TABLE("Invite", struct invite, invite_fields, .doc = "Whom to invite, and as what");

static const struct field fields[] = {
    FIELD(struct invitation, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "invitation",
          .doc = "Id of the invitation"),
    FIELD(struct invitation, email, F_STR, .flags = F_OUTPUT, .max = 254, .format = "email", .doc = "Who is invited"),
    FIELD(struct invitation, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it was given"),
    FIELD_AS(struct invitation, "role", shown_role, F_STR, .flags = F_OUTPUT, .max = ROLE_NAME_MAX,
             .doc = "Role that they will have"),
    FIELD(struct invitation, invited_by, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Id of the user who did"),
    FIELD(struct invitation, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When the link was sent"),
    FIELD(struct invitation, expires_at, F_TIME, .flags = F_OUTPUT, .doc = "When the link ends"),
    FIELD(struct invitation, tenant_id, F_STR, .flags = F_HIDDEN, .doc = "Tenant"),
    FIELD_AS(struct invitation, "base_role", role, F_STR, .flags = F_HIDDEN, .doc = "Column role"),
    FIELD(struct invitation, role_id, F_STR, .flags = F_HIDDEN | F_NULLABLE, .doc = "Of a role of the tenant's own"),
    FIELD(struct invitation, token_hash, F_STR, .flags = F_HIDDEN, .doc = "SHA-256 of the link's token"),
};
const struct table invitation_table =
    TABLE("Invitation", struct invitation, fields, .doc = "An offer to join a tenant");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
const struct table invitation_query_table =
    TABLE("InvitationQuery", struct list_query, query_fields, .doc = "Paging of the invitations");

/* ---- problems, statements ---- */

CODES(entry_codes, CODE_ENTRY, { "users.email_domain", "The tenant does not take addresses of this domain" });

PROBLEM_SHARED(invitation_not_found, "users.invitation_not_found", ERR_NOT_FOUND, "There is no such invitation");
PROBLEM_SHARED(user_is_member, "users.member", ERR_CONFLICT, "The person is in this tenant already");
PROBLEM_SHARED(user_quota, "users.quota", ERR_CONFLICT, "The tenant has as many users as it may have");

#define INVITATION_COLUMNS                                                                        \
    "i.id, i.email, i.name, coalesce((SELECT r.name FROM roles r WHERE r.tenant_id = i.tenant_id" \
    " AND r.id = i.role_id), i.role) AS role, i.invited_by, i.created_at, i.expires_at"
STMT(invitation_page,
     "SELECT " INVITATION_COLUMNS " FROM invitations i WHERE i.tenant_id = $1 AND i.expires_at > $2 AND i.id < $3"
     " ORDER BY i.id DESC LIMIT $4 OFFSET $5",
     .row = &invitation_table);
STMT(invitation_count, "SELECT count(*) AS n FROM invitations WHERE tenant_id = $1 AND expires_at > $2",
     .row = &list_count_table);
STMT(
    invitation_by_hash,
    "SELECT i.id, i.email, i.name, i.tenant_id, i.role AS base_role, i.role_id, i.token_hash, i.invited_by FROM invitations i"
    " JOIN tenants t ON t.id = i.tenant_id WHERE i.token_hash = $1 AND i.expires_at > $2 AND t.status = 'active'",
    .row = &invitation_table, .scope = SCOPE_SYSTEM);
/* A second invitation of an address replaces the first: one link is good, the last. */
STMT(
    invitation_put,
    "INSERT INTO invitations (tenant_id, id, email, name, role, role_id, token_hash, invited_by, created_at, expires_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant_id, email) DO UPDATE SET id = excluded.id,"
    " name = excluded.name, role = excluded.role, role_id = excluded.role_id, token_hash = excluded.token_hash,"
    " invited_by = excluded.invited_by, created_at = excluded.created_at, expires_at = excluded.expires_at");
#define INVITATION_ROLE                                                           \
    "SELECT coalesce((SELECT r.name FROM roles r WHERE r.tenant_id = i.tenant_id" \
    " AND r.id = i.role_id), i.role) AS role FROM invitations i WHERE i.tenant_id = $1"
STMT(invitation_role, INVITATION_ROLE " AND i.id = $2", .row = &invitation_table);
STMT(invitation_role_for, INVITATION_ROLE " AND i.email = $2 AND i.expires_at > $3", .row = &invitation_table);
STMT(invitation_delete, "DELETE FROM invitations WHERE tenant_id = $1 AND id = $2");
STMT(invitation_clean,
     "DELETE FROM invitations WHERE id IN (SELECT id FROM invitations WHERE expires_at < $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(member_by_email, "SELECT 1 FROM memberships m JOIN users u ON u.id = m.user_id"
                      " WHERE m.tenant_id = $1 AND u.email = $2");
STMT(member_number, "SELECT count(*) AS n FROM memberships WHERE tenant_id = $1 AND role <> 'operator'",
     .row = &list_count_table);
STMT(membership_accept, "INSERT INTO memberships (tenant_id, user_id, role, role_id, created_at, updated_at)"
                        " VALUES ($1, $2, $3, $4, $5, $5)");

/* ---- making one ---- */

struct inviting {
    struct invitation row;
    struct role_choice role;
    str letter;
};

static err token_make(struct arena *a, str *token, str *hash)
{
    u8 bytes[TOKEN_BYTES], digest[SHA256_BYTES];
    rng_bytes(bytes, sizeof bytes);
    str text = base64_encode(a, BASE64URL, (str){ (const char *)bytes, sizeof bytes });
    if (text.p == NULL)
        return ERR_MEMORY;
    hash_sha256(text, digest);
    *hash = hex_encode(a, (str){ (const char *)digest, sizeof digest });
    *token = text;
    return hash->p != NULL ? OK : ERR_MEMORY;
}

/* The row and its letter; nothing is stored yet. */
static err make(struct arena *a, i64 now_us, const struct tenant_facts *t, str inviter, struct inviting *v)
{
    str token, base = config_base_url(a, &app.config);
    struct invitation *row = &v->row;
    TRY(token_make(a, &token, &row->token_hash));
    row->id = typeid_new(a, "invitation", now_us);
    row->created_at = now_us;
    row->expires_at = now_us + LIFE_US;
    row->role = v->role.role;
    row->role_id = v->role.role_id;
    row->shown_role = v->role.name;
    str link = strf(a, "%.*s/invite?token=%.*s", STR_FMT(base), STR_FMT(token));
    if (row->id.p == NULL || base.p == NULL || link.p == NULL)
        return ERR_MEMORY;
    field_set_all(&invitation_table, row);
    struct mail m = {
        "invitation",
        row->email,
        { { S("inviter"), inviter }, { S("tenant"), t->name }, { S("role"), v->role.name }, { S("link"), link } }
    };
    return mail_prepare(a, &m, &v->letter);
}

static err store(struct tx *tx, struct arena *a, i64 now_us, str tenant_id, const struct inviting *v)
{
    const struct invitation *i = &v->row;
    TRY(db_exec(tx, &invitation_put, NULL,
                ARGS(STR(tenant_id), STR(i->id), STR(i->email), STR(i->name), STR(i->role), STR(i->role_id),
                     STR(i->token_hash), STR(i->invited_by), I64(i->created_at), I64(i->expires_at))));
    return mail_enqueue(tx, a, now_us, tenant_id, v->letter);
}

/* Members and what was offered: as many as the tenant may have. */
static err has_room(struct tx *tx, i64 now_us, str tenant_id, i64 quota, bool counting_offers)
{
    struct list_count members, offered = { .n = 0 };
    if (quota == 0)
        return OK;
    TRY(db_row(tx, &member_number, &members, ARGS(STR(tenant_id))));
    if (counting_offers)
        TRY(db_row(tx, &invitation_count, &offered, ARGS(STR(tenant_id), I64(now_us))));
    return members.n + offered.n < quota ? OK : ERR_LIMIT;
}

static err is_no_member(struct req *rq, str email)
{
    err e = db_row(rq->tx, &member_by_email, NULL, ARGS(TENANT(rq), STR(email)));
    if (e == OK)
        return problem(rq, &user_is_member, "%.*s is in this tenant already", STR_FMT(email));
    return e == ERR_NOT_FOUND ? OK : e;
}

/* To offer less, or nothing, in place of what an owner offered is to decide on who becomes one. */
static err none_above(struct req *rq, const struct stmt *find, struct args args)
{
    struct invitation there;
    err e = db_row(rq->tx, find, &there, args);
    if (e != OK)
        return e == ERR_NOT_FOUND ? OK : e;
    return users_role_not_above(rq, there.shown_role);
}

err invite_prepare(struct req *rq)
{
    const struct invite *in = rq->body;
    struct inviting *v = NEW(rq->arena, struct inviting);
    struct tenant_facts t;
    if (v == NULL)
        return ERR_MEMORY;
    v->row = (struct invitation){ .email = str_lower(rq->arena, in->email),
                                  .name = in->name,
                                  .tenant_id = rq->who.tenant_id,
                                  .invited_by = rq->who.user_id };
    if (v->row.email.p == NULL)
        return ERR_MEMORY;
    TRY(users_choose_role(rq, in->role, &v->role));
    TRY(tenants_facts(rq->tx, rq->who.tenant_id, &t));
    if (!tenants_takes(rq->arena, &t, v->row.email))
        return problem_at(rq, &problem_body_invalid, S("/email"), "users.email_domain",
                          "The tenant takes no addresses of this domain");
    TRY(is_no_member(rq, v->row.email));
    rq->prepared = v;
    return make(rq->arena, req_now(rq), &t, rq->who.email, v);
}

err invite(struct req *rq)
{
    const struct inviting *v = rq->prepared;
    struct tenant_facts t;
    TRY(is_no_member(rq, v->row.email));
    TRY(none_above(rq, &invitation_role_for, ARGS(TENANT(rq), STR(v->row.email), I64(req_now(rq)))));
    TRY(tenants_facts(rq->tx, rq->who.tenant_id, &t));
    err e = has_room(rq->tx, req_now(rq), rq->who.tenant_id, t.quota_users, true);
    if (e == ERR_LIMIT)
        return problem(rq, &user_quota, "The tenant may have %lld users, invited ones included",
                       (long long)t.quota_users);
    TRY(e);
    TRY(store(rq->tx, rq->arena, req_now(rq), rq->who.tenant_id, v));
    TRY(audit(rq, "users.invite", v->row.id, STR_NONE));
    return reply(rq, 201, &invitation_table, &v->row);
}

/* ---- the owner of a new tenant ---- */

static err store_owner(void *ctx, struct tx *tx)
{
    const struct inviting *v = ctx;
    return store(tx, db_arena(tx), v->row.created_at, v->row.tenant_id, v);
}

err invite_owner_run(const struct job *job)
{
    struct arena *a = job->arena;
    struct inviting v = { .row = { .tenant_id = job->tenant_id, .name = S("") },
                          .role = { S("owner"), STR_NONE, S("owner"), ROLE_OWNER, NULL } };
    struct tenant_facts t;
    struct json *in;
    struct tx *tx;
    TRY(json_parse(a, job->payload, &in, NULL));
    v.row.email = str_lower(a, json_str(json_get(in, S("email"))));
    v.row.invited_by = json_str(json_get(in, S("invited_by")));
    TRY(db_read_begin(app.db, a, false, &tx));
    err e = tenants_facts(tx, job->tenant_id, &t);
    db_read_end(tx);
    TRY(e);
    TRY(make(a, job->now_us, &t, S("The operator"), &v));
    return db_write_wait(app.db, a, store_owner, &v);
}

/* ---- seeing them, taking them back ---- */

err invitation_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    struct list_count count = { .n = -1 };
    void *rows = NULL;
    u32 n = 0;
    TRY(db_list(rq->tx, &invitation_page, (u32)page->limit + 1, &rows, &n,
                ARGS(TENANT(rq), I64(req_now(rq)), list_before(page), list_limit(page), I64(page->skip))));
    if (page->count)
        TRY(db_row(rq->tx, &invitation_count, &count, ARGS(TENANT(rq), I64(req_now(rq)))));
    return reply_list(rq, &invitation_table, rows, n, page, offsetof(struct invitation, id), count.n, 0);
}

err invitation_remove(struct req *rq)
{
    str id = req_param(rq, "id");
    i64 changed;
    TRY(none_above(rq, &invitation_role, ARGS(TENANT(rq), STR(id))));
    TRY(db_exec(rq->tx, &invitation_delete, &changed, ARGS(TENANT(rq), STR(id))));
    if (changed == 0)
        return problem(rq, &invitation_not_found, "There is no invitation %.*s", STR_FMT(id));
    TRY(audit(rq, "users.uninvite", id, STR_NONE));
    return reply_empty(rq, 204);
}

/* ---- accepting ---- */

err users_invitation(struct tx *tx, i64 now_us, str hash, struct invitation *out)
{
    return db_row(tx, &invitation_by_hash, out, ARGS(STR(hash), I64(now_us)));
}

err users_invitation_accept(struct tx *tx, i64 now_us, const struct invitation *i, str user_id)
{
    struct tenant_facts t;
    i64 changed;
    TRY(tenants_facts(tx, i->tenant_id, &t));
    TRY(has_room(tx, now_us, i->tenant_id, t.quota_users, false));
    TRY(db_exec(tx, &invitation_delete, &changed, ARGS(STR(i->tenant_id), STR(i->id))));
    if (changed == 0) /* it was taken back while this waited for the tenant's turn */
        return ERR_NOT_FOUND;
    return db_try(tx, &membership_accept,
                  ARGS(STR(i->tenant_id), STR(user_id), STR(i->role), STR(i->role_id), I64(now_us)));
}

struct cleaning {
    i64 now_us, n;
};

static err clean_slice(void *ctx, struct tx *tx)
{
    struct cleaning *c = ctx;
    return db_exec(tx, &invitation_clean, &c->n, ARGS(I64(c->now_us), I64(CLEAN_ROWS)));
}

err invitations_clean(const struct job *job)
{
    struct cleaning c = { .now_us = job->now_us, .n = CLEAN_ROWS };
    for (u32 i = 0; i < CLEAN_ROUNDS && c.n == CLEAN_ROWS; i++) {
        struct arena_mark mark = arena_mark(job->arena);
        TRY(db_write_wait(app.db, job->arena, clean_slice, &c));
        arena_rewind(job->arena, mark);
    }
    return OK;
}
