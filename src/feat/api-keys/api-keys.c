/* api-keys.c - keys for programs: scoped, ending, shown once. Sessions and tokens of people are auth's.
 *
 * A key may what its scopes name *and* its maker may now: whoever loses a permission, is disabled or leaves takes it from their keys too. A key makes no keys and
 * reaches nothing that is done in person (passwords, sessions, second factors). */
#include "feat/api-keys/api-keys.h"

#include "base/clock.h"
#include "base/code.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "core/activity.h"
#include "core/audit.h"
#include "core/auth.h"
#include "core/cached_row.h"
#include "core/list.h"
#include "feat/roles/roles.h"

#include <string.h>

enum { KEYS_MAX = 200 /* of a tenant */, KEY_BYTES = 32, PREFIX_CHARS = 12, IDENTITY_BYTES = 16 << 10 };
#define LIFE_MAX_US (3650 * DAY_US)

/* ---- fields ---- */

struct api_key {
    struct presence has;
    str id, name, prefix, scopes, user_id, key;
    i64 expires_at, last_used_at, created_at;
};

static err check_scope(str value, const char **code, const char **detail)
{
    *code = "api-keys.scope";
    *detail = "must be a permission that GET /api/v1/permissions lists";
    return permission_find(value) != NULL ? OK : ERR_INVALID;
}

static const struct field scope_field =
    SHAPE_FIELD("scope", F_STR, .min = 3, .max = 80, .check = check_scope, .doc = "A permission");
#define KEY_FIELDS                                                                                                     \
    FIELD(struct api_key, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "apikey", .doc = "Id of the key"),   \
        FIELD(struct api_key, name, F_STR, .flags = F_REQUIRED, .min = 1, .max = 120, .doc = "Shown to people"),       \
        FIELD(struct api_key, prefix, F_STR, .flags = F_OUTPUT, .max = 20,                                             \
              .doc = "How the key begins, to know it by"),                                                             \
        FIELD(struct api_key, scopes, F_LIST, .flags = F_REQUIRED | F_TEXT | F_UNIQUE, .each = &scope_field, .min = 1, \
              .max = GRANTS_MAX, .doc = "What it is for: permissions, at most those of its maker"),                    \
        FIELD(struct api_key, user_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user",                     \
              .doc = "Whom it acts for: its maker"),                                                                   \
        FIELD(struct api_key, expires_at, F_TIME, .flags = F_NULLABLE, .doc = "When it ends; null for never"),         \
        FIELD(struct api_key, last_used_at, F_TIME, .flags = F_OUTPUT | F_NULLABLE,                                    \
              .doc = "When it was last used, to the minute"),                                                          \
        FIELD(struct api_key, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was made")
static const struct field fields[] = { KEY_FIELDS };
static const struct table key_table = TABLE("ApiKey", struct api_key, fields, .doc = "A key for a program");
static const struct field made_fields[] = {
    KEY_FIELDS,
    FIELD(struct api_key, key, F_STR, .flags = F_OUTPUT, .max = 80,
          .doc = "The key itself; it is shown this once, for Authorization: Bearer or X-API-Key"),
};
static const struct table made_table =
    TABLE("ApiKeyMade", struct api_key, made_fields, .doc = "A key for a program, with its secret");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
static const struct table query_table =
    TABLE("ApiKeyQuery", struct list_query, query_fields, .doc = "Paging of the keys");

struct identity {
    struct presence has;
    str id, tenant_id, user_id, email, role, role_name, permissions, plan, scopes;
    i64 quota_executions, expires_at;
    struct grants grants; /* no column */
};
static const struct field identity_fields[] = {
    FIELD(struct identity, id, F_STR, .doc = "Key"),
    FIELD(struct identity, tenant_id, F_STR, .doc = "Its tenant"),
    FIELD(struct identity, user_id, F_STR, .doc = "Its maker"),
    FIELD(struct identity, email, F_STR, .doc = "Address of the maker"),
    FIELD(struct identity, role, F_STR, .doc = "Role of the maker, now"),
    FIELD(struct identity, role_name, F_STR, .flags = F_NULLABLE, .doc = "Of a role of the tenant's own"),
    FIELD(struct identity, permissions, F_STR, .flags = F_NULLABLE, .doc = "What it allows"),
    FIELD(struct identity, plan, F_STR, .doc = "Plan of the tenant"),
    FIELD(struct identity, quota_executions, F_I64, .doc = "Executions that it may begin in a day; 0 for any number"),
    FIELD(struct identity, scopes, F_STR, .doc = "What the key is for"),
    FIELD(struct identity, expires_at, F_TIME, .flags = F_NULLABLE, .doc = "When it ends"),
};
static const struct table identity_table = TABLE("ApiKeyIdentity", struct identity, identity_fields);

/* ---- permissions, problems, statements ---- */

PERMISSION(can_read, "api-keys.read", ROLES_ADMINS, "See the keys of the tenant");
PERMISSION(can_write, "api-keys.write", ROLES_ADMINS, "Make and end keys of the tenant");

CODES(entry_codes, CODE_ENTRY, { "api-keys.scope", "There is no such permission" },
      { "api-keys.above", "The scope is not one of the caller's own permissions" },
      { "api-keys.expiry", "The end is not within the next ten years" });

PROBLEM(not_found, "api-keys.not_found", ERR_NOT_FOUND, "There is no such key");
PROBLEM(too_many, "api-keys.too_many", ERR_CONFLICT, "The tenant has as many keys as it may have");
PROBLEM(by_key, "api-keys.in_person", ERR_FORBIDDEN, "A key makes no keys");

#define KEY_COLUMNS "id, name, prefix, scopes, user_id, expires_at, last_used_at, created_at"
STMT(key_page,
     "SELECT " KEY_COLUMNS " FROM api_keys WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3 OFFSET $4",
     .row = &key_table);
STMT(key_by_id, "SELECT " KEY_COLUMNS " FROM api_keys WHERE tenant_id = $1 AND id = $2", .row = &key_table);
STMT(key_count, "SELECT count(*) AS n FROM api_keys WHERE tenant_id = $1", .row = &list_count_table);
STMT(key_insert, "INSERT INTO api_keys (tenant_id, id, user_id, name, prefix, key_hash, scopes, expires_at, created_at)"
                 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
STMT(key_delete, "DELETE FROM api_keys WHERE tenant_id = $1 AND id = $2");
STMT(key_touch, "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND coalesce(last_used_at, 0) < $2",
     .scope = SCOPE_SYSTEM);
STMT(
    key_identity,
    "SELECT k.id, k.tenant_id, k.user_id, u.email, m.role, r.name AS role_name, r.permissions, t.plan, coalesce(t.quota_executions, 0) AS quota_executions, k.scopes, k.expires_at"
    " FROM api_keys k JOIN users u ON u.id = k.user_id JOIN tenants t ON t.id = k.tenant_id"
    " JOIN memberships m ON m.user_id = k.user_id AND m.tenant_id = k.tenant_id"
    " LEFT JOIN roles r ON r.id = m.role_id AND r.tenant_id = m.tenant_id"
    " WHERE k.key_hash = $1 AND u.status = 'active' AND m.status = 'active' AND t.status = 'active'",
    .row = &identity_table, .scope = SCOPE_SYSTEM);

/* ---- who is it ---- */

CACHE(identities, "api-keys", .capacity = 1024);

static err save_use(struct tx *tx, str id, i64 last_us)
{
    return db_exec(tx, &key_touch, NULL, ARGS(STR(id), I64(last_us)));
}
static struct activity uses = { .save = save_use };

static err hash_of(struct arena *a, str key, str *out)
{
    u8 hash[SHA256_BYTES];
    hash_sha256(key, hash);
    *out = hex_encode(a, (str){ (const char *)hash, sizeof hash });
    return out->p != NULL ? OK : ERR_MEMORY;
}

/* The scopes that the maker's role still allows. */
static err narrow(struct arena *a, struct identity *i)
{
    struct grants *scopes = NEW(a, struct grants), *role = NEW(a, struct grants);
    if (scopes == NULL || role == NULL)
        return ERR_MEMORY;
    TRY(grants_parse(a, i->scopes, scopes));
    if (i->permissions.p != NULL)
        TRY(grants_parse(a, i->permissions, role));
    struct caller maker = { .role = role_bit(i->role), .grants = i->permissions.p != NULL ? role : NULL };
    for (u32 k = 0; k < scopes->n; k++)
        if (caller_may(&maker, scopes->list[k]))
            i->grants.list[i->grants.n++] = scopes->list[k];
    return OK;
}

static err identity_read(struct tx *tx, struct arena *a, str hash, void *row)
{
    struct identity *out = row;
    TRY(db_row(tx, &key_identity, out, ARGS(STR(hash))));
    return narrow(a, out);
}

static const struct cached_row identity_cached = { &identities, sizeof(struct identity), IDENTITY_BYTES,
                                                   identity_read };

static err become(struct req *rq, const struct identity *i)
{
    struct grants *grants = NEW(rq->arena, struct grants);
    struct caller who = {
        .tenant_id = str_dup(rq->arena, i->tenant_id),
        .user_id = str_dup(rq->arena, i->user_id),
        .email = str_dup(rq->arena, i->email),
        .plan = str_dup(rq->arena, i->plan),
        .quota_executions = i->quota_executions,
        .role = role_bit(i->role),
        .role_name = str_dup(rq->arena, i->role_name.p != NULL ? i->role_name : i->role),
        .grants = grants,
        .key_id = str_dup(rq->arena, i->id),
    };
    if (who.tenant_id.p == NULL || who.user_id.p == NULL || who.email.p == NULL || who.plan.p == NULL ||
        who.role_name.p == NULL || who.key_id.p == NULL || grants == NULL)
        return ERR_MEMORY;
    memcpy(grants, &i->grants, offsetof(struct grants, list) + i->grants.n * sizeof i->grants.list[0]);
    rq->who = who;
    return OK;
}

err api_keys_authenticate(struct req *rq, str key, const char **reason)
{
    const void *found = NULL;
    str hash;
    *reason = "key";
    TRY(hash_of(rq->arena, key, &hash));
    err e = cached_row_get(&identity_cached, rq->tx, rq->arena, hash, req_now(rq), &found);
    if (e == ERR_NOT_FOUND)
        return ERR_UNAUTHORIZED;
    TRY(e);
    const struct identity *i = found;
    if (HAS(identity_table, i, expires_at) && req_now(rq) >= i->expires_at) {
        *reason = "expired";
        return ERR_UNAUTHORIZED;
    }
    TRY(become(rq, i));
    activity_note(&uses, rq->who.key_id, req_now(rq));
    return OK;
}

/* ---- handlers ---- */

/* A key that makes keys would outlive its own end. */
static err in_person_only(struct req *rq)
{
    return rq->who.key_id.p == NULL ? OK : problem(rq, &by_key, "Sign in to do this");
}

static err check_own(struct req *rq, const struct api_key *in)
{
    struct grants *g = NEW(rq->arena, struct grants);
    err outcome = OK;
    if (g == NULL)
        return ERR_MEMORY;
    TRY(grants_parse(rq->arena, in->scopes, g));
    for (u32 i = 0; i < g->n; i++)
        if (!caller_may(&rq->who, g->list[i]))
            outcome = problems_add(&rq->errors, json_pointer_index(rq->arena, S("/scopes"), i), "api-keys.above",
                                   "%s is not one of your own permissions", g->list[i]->name);
    if (HAS(key_table, in, expires_at) && (in->expires_at <= req_now(rq) || in->expires_at > req_now(rq) + LIFE_MAX_US))
        outcome = problems_add(&rq->errors, S("/expires_at"), "api-keys.expiry", "must be within the next ten years");
    return outcome;
}

struct making {
    struct api_key row;
    str hash;
};

static err prepare_create(struct req *rq)
{
    const struct api_key *in = rq->body;
    struct making *m = NEW(rq->arena, struct making);
    u8 bytes[KEY_BYTES];
    if (m == NULL)
        return ERR_MEMORY;
    TRY(in_person_only(rq));
    TRY(check_own(rq, in));
    m->row = *in;
    rng_bytes(bytes, sizeof bytes);
    str text = base64_encode(rq->arena, BASE64URL, (str){ (const char *)bytes, sizeof bytes });
    m->row.key = strf(rq->arena, API_KEY_PREFIX "%.*s", STR_FMT(text));
    m->row.id = typeid_new(rq->arena, "apikey", req_now(rq));
    if (text.p == NULL || m->row.key.p == NULL || m->row.id.p == NULL)
        return ERR_MEMORY;
    m->row.prefix = str_slice(m->row.key, 0, PREFIX_CHARS);
    m->row.user_id = rq->who.user_id;
    m->row.created_at = req_now(rq);
    bool ends = HAS(key_table, in, expires_at);
    field_set_all(&made_table, &m->row);
    m->row.has.null |= (u64)1 << field_index(&made_table, S("last_used_at"));
    m->row.has.null |= ends ? 0 : (u64)1 << field_index(&made_table, S("expires_at"));
    rq->prepared = m;
    return hash_of(rq->arena, m->row.key, &m->hash);
}

static err key_create(struct req *rq)
{
    const struct making *m = rq->prepared;
    const struct api_key *k = &m->row;
    struct list_count count;
    TRY(db_row(rq->tx, &key_count, &count, ARGS(TENANT(rq))));
    if (count.n >= KEYS_MAX)
        return problem(rq, &too_many, "A tenant has at most %d keys: end one that nobody uses", KEYS_MAX);
    TRY(db_exec(rq->tx, &key_insert, NULL,
                ARGS(TENANT(rq), STR(k->id), STR(k->user_id), STR(k->name), STR(k->prefix), STR(m->hash),
                     STR(k->scopes), HAS(made_table, k, expires_at) ? I64(k->expires_at) : NIL, I64(k->created_at))));
    TRY(audit(rq, "api-keys.create", k->id, STR_NONE));
    reply_location(rq, "/api/v1/api-keys/%.*s", STR_FMT(k->id));
    return reply(rq, 201, &made_table, k);
}

/* What was used since the last flush is known already. */
static void show_use(struct api_key *k)
{
    i64 last_us = activity_last(&uses, k->id);
    if (last_us == 0 || (HAS(key_table, k, last_used_at) && k->last_used_at >= last_us))
        return;
    k->last_used_at = last_us;
    SET(key_table, k, last_used_at);
}

static err key_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    struct list_count count = { .n = -1 };
    void *rows = NULL;
    u32 n = 0;
    TRY(db_list(rq->tx, &key_page, (u32)page->limit + 1, &rows, &n,
                ARGS(TENANT(rq), list_before(page), list_limit(page), I64(page->skip))));
    if (page->count)
        TRY(db_row(rq->tx, &key_count, &count, ARGS(TENANT(rq))));
    for (u32 i = 0; i < n; i++)
        show_use((struct api_key *)rows + i);
    return reply_list(rq, &key_table, rows, n, page, offsetof(struct api_key, id), count.n, 0);
}

static err missing(struct req *rq, err e)
{
    return e == ERR_NOT_FOUND ? problem(rq, &not_found, "There is no key %.*s", STR_FMT(req_param(rq, "id"))) : e;
}

static err key_get(struct req *rq)
{
    struct api_key *k = NEW(rq->arena, struct api_key);
    if (k == NULL)
        return ERR_MEMORY;
    TRY(missing(rq, db_row(rq->tx, &key_by_id, k, ARGS(TENANT(rq), STR(req_param(rq, "id"))))));
    show_use(k);
    return reply(rq, 200, &key_table, k);
}

static void forget(void *unused)
{
    cache_forget(&identities);
}

static err key_remove(struct req *rq)
{
    str id = req_param(rq, "id");
    i64 changed;
    TRY(in_person_only(rq));
    TRY(db_exec(rq->tx, &key_delete, &changed, ARGS(TENANT(rq), STR(id))));
    if (changed == 0)
        return missing(rq, ERR_NOT_FOUND);
    TRY(audit(rq, "api-keys.delete", id, STR_NONE));
    TRY(req_after(rq, forget, NULL));
    return reply_empty(rq, 204);
}

/* ---- routes ---- */

static const struct problem *const make_problems[] = { &too_many, &by_key, NULL };
static const struct problem *const read_problems[] = { &not_found, NULL };
static const struct problem *const end_problems[] = { &not_found, &by_key, NULL };

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/api-keys", key_list, W_READ), .need = &can_read, .query = &query_table, .out = &key_table,
      .flags = R_LIST, .doc = "List the keys of the tenant, newest first" },
    { ROUTE(POST, "/api/v1/api-keys", key_create, W_WRITE), .prepare = prepare_create, .need = &can_write,
      .in = &key_table, .out = &made_table, .flags = R_SECRET, .problems = make_problems, .doc = "Make a key",
      .more = "It is shown once. It may what its scopes name, as long as its maker may.",
      .example = "{\"name\":\"nightly import\",\"scopes\":[\"api-keys.read\"]}" },
    { ROUTE(GET, "/api/v1/api-keys/{id}", key_get, W_READ), .need = &can_read, .out = &key_table,
      .problems = read_problems, .doc = "Read a key, but for its secret" },
    { ROUTE(DELETE, "/api/v1/api-keys/{id}", key_remove, W_WRITE), .need = &can_write, .status = 204,
      .problems = end_problems, .doc = "End a key; its next request is refused" },
};

static void stop(void)
{
    if (activity_flush(&uses) != OK)
        return; /* only the last minute is lost */
}

const struct module api_keys_module = {
    .name = "api-keys",
    .doc = "Keys for programs",
    .routes = routes,
    .route_count = COUNT(routes),
    .stop = stop,
};
