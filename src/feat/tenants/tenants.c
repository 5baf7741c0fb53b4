/* tenants.c - companies: their settings, and what the platform's operators do with them. People are users'.
 *
 * A slug is for people and for signing in; every reference between rows is by id. An operator reads and changes what stands here and sees nothing of what a
 * tenant owns; a tenant's own admins see only their own tenant, and change of it only what is theirs to decide. */
#include "feat/tenants/tenants_parts.h"

#include "base/clock.h"
#include "base/code.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/cache.h"
#include "core/jobs.h"
#include "core/list.h"

enum { DOMAINS_MAX = 50, IDLE_MIN = 5, IDLE_MAX = 1440, ABSOLUTE_MIN = 30, ABSOLUTE_MAX = 43200, USERS_MAX = 1000000 };
#define AMOUNT_MAX ((i64)1 << 50)

/* ---- fields ---- */

static err check_domain(str value, const char **code, const char **detail)
{
    bool good = value.n > 2 && str_find_char(value, '.', 1) > 0 && !str_ends(value, S("."));
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.');
    }
    *code = "field.format";
    *detail = "must be a domain in small letters, as example.com";
    return good ? OK : ERR_INVALID;
}

struct tenant {
    struct presence has;
    str id, slug, name, plan, status, email_domains;
    i64 session_idle_minutes, session_absolute_minutes, password_min, quota_users, quota_executions,
        quota_storage_bytes, quota_credits;
    bool require_2fa;
    i64 created_at, updated_at;
};
static const struct field domain_field =
    SHAPE_FIELD("domain", F_STR, .min = 3, .max = 253, .check = check_domain, .doc = "A domain, in small letters");
/* What a tenant's owners may change themselves. */
#define OWN_SETTINGS                                                                                                \
    FIELD(struct tenant, name, F_STR, .flags = F_REQUIRED | F_SORT, .min = 1, .max = 120,                           \
          .doc = "Name as it is shown"),                                                                            \
        FIELD(struct tenant, session_idle_minutes, F_I64, .min = IDLE_MIN, .max = IDLE_MAX, .preset = "30",         \
              .doc = "After so many minutes without a person's doing a browser's session ends"),                    \
        FIELD(struct tenant, session_absolute_minutes, F_I64, .min = ABSOLUTE_MIN, .max = ABSOLUTE_MAX,             \
              .preset = "720", .doc = "After so many minutes a browser's session ends in any case"),                \
        FIELD(struct tenant, password_min, F_I64, .min = 10, .max = 64, .preset = "10",                             \
              .doc = "Characters that a password has at least"),                                                    \
        FIELD(struct tenant, require_2fa, F_BOOL, .preset = "false",                                                \
              .doc = "Whether everybody needs a second factor"),                                                    \
        FIELD(struct tenant, email_domains, F_LIST, .flags = F_TEXT | F_NULLABLE | F_UNIQUE, .each = &domain_field, \
              .max = DOMAINS_MAX, .doc = "Domains whose addresses may be invited; null or empty for all")

/* What it pays for. Users and executions are held to theirs; the other two bind what stores files and what spends credits. */
#define QUOTAS(type, whose)                                                                         \
    FIELD(type, quota_users, F_I64, .flags = F_NULLABLE, .min = 1, .max = USERS_MAX,                \
          .doc = "How many users it may have; null for any number" whose),                          \
        FIELD(type, quota_executions, F_I64, .flags = F_NULLABLE, .min = 1, .max = AMOUNT_MAX,      \
              .doc = "How many executions it may begin in a day (UTC); null for any number" whose), \
        FIELD(type, quota_storage_bytes, F_I64, .flags = F_NULLABLE, .min = 1, .max = AMOUNT_MAX,   \
              .doc = "How many bytes of files it may keep; null for any number" whose),             \
        FIELD(type, quota_credits, F_I64, .flags = F_NULLABLE, .min = 1, .max = AMOUNT_MAX,         \
              .doc = "How many credits it may spend; null for any number" whose)

static const struct field fields[] = {
    FIELD(struct tenant, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "tenant", .doc = "Id of the tenant"),
    FIELD(struct tenant, slug, F_STR, .flags = F_REQUIRED | F_FILTER, .min = 1, .max = 63, .format = "slug",
          .doc = "Short name, for signing in"),
    OWN_SETTINGS,
    FIELD(struct tenant, plan, F_STR, .flags = F_FILTER, .min = 1, .max = 60, .format = "slug", .preset = "\"free\"",
          .doc = "Plan of the tenant; operators change it"),
    QUOTAS(struct tenant, "; operators change it"),
    FIELD(struct tenant, status, F_STR, .flags = F_OUTPUT | F_FILTER, .max = 20, .doc = "active or suspended"),
    FIELD(struct tenant, created_at, F_TIME, .flags = F_OUTPUT | F_SORT, .doc = "When it was made"),
    FIELD(struct tenant, updated_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was last changed"),
};
static const struct table tenant_table = TABLE("Tenant", struct tenant, fields, .doc = "A company that owns its rows");

struct tenant_new { /* what a POST takes: the row, and whom to invite */
    struct presence has;
    str slug, name, plan, owner_email;
    i64 quota_users, quota_executions, quota_storage_bytes, quota_credits;
};
static const struct field new_fields[] = {
    FIELD(struct tenant_new, slug, F_STR, .flags = F_REQUIRED, .min = 1, .max = 63, .format = "slug",
          .doc = "Short name, for signing in"),
    FIELD(struct tenant_new, name, F_STR, .flags = F_REQUIRED, .min = 1, .max = 120, .doc = "Name as it is shown"),
    FIELD(struct tenant_new, plan, F_STR, .min = 1, .max = 60, .format = "slug", .preset = "\"free\"",
          .doc = "Plan of the tenant"),
    QUOTAS(struct tenant_new, ""),
    FIELD(struct tenant_new, owner_email, F_STR, .flags = F_NULLABLE, .min = 3, .max = 254, .format = "email",
          .doc = "Who is invited as its owner"),
};
static const struct table new_table =
    TABLE("TenantNew", struct tenant_new, new_fields, .doc = "A tenant, and who is invited to own it");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
static const struct table query_table =
    TABLE("TenantQuery", struct list_query, query_fields, .doc = "Paging of the tenants");

/* ---- permissions, problems, statements ---- */

PERMISSION(can_manage, "tenants.manage", ROLE_OPERATOR, "Make, list, suspend and delete tenants");
PERMISSION(can_read, "tenants.read", ROLE_OPERATOR | ROLES_ADMINS, "See the settings of the tenant");
PERMISSION(can_write, "tenants.write", ROLE_OPERATOR | ROLE_OWNER, "Change the settings of the tenant");

CODES(entry_codes, CODE_ENTRY, { "tenants.operator_only", "Only an operator of the platform may change this" });

PROBLEM(not_found, "tenants.not_found", ERR_NOT_FOUND, "There is no such tenant");
PROBLEM(slug_taken, "tenants.slug_taken", ERR_CONFLICT, "A tenant has this slug");
PROBLEM(own_home, "tenants.own", ERR_CONFLICT, "The tenant is the one that the operator signed in to");
PROBLEM(still_active, "tenants.active", ERR_CONFLICT, "The tenant is active");

#define TENANT_COLUMNS                                                                                          \
    "id, slug, name, plan, status, session_idle_minutes, session_absolute_minutes, password_min, require_2fa, " \
    "email_domains, quota_users, quota_executions, quota_storage_bytes, quota_credits, created_at, updated_at"
STMT(tenant_by_id, "SELECT " TENANT_COLUMNS " FROM tenants WHERE id = $1 AND deleted_at IS NULL", .row = &tenant_table,
     .scope = SCOPE_SYSTEM);
#define TENANT_WHERE                                                                             \
    " FROM tenants WHERE deleted_at IS NULL" LIST_FILTER("slug", "$1") LIST_FILTER("plan", "$2") \
        LIST_FILTER("status", "$3")
#define TENANT_ROWS "SELECT " TENANT_COLUMNS TENANT_WHERE
LIST_BY_ID(tenants, id, &tenant_table, TENANT_ROWS, "id", LIST_AFTER_3, .scan_ok = true, .scope = SCOPE_SYSTEM);
LIST_BY(tenants, name, &tenant_table, TENANT_ROWS, "name", "id", LIST_AFTER_3, .scan_ok = true, .scope = SCOPE_SYSTEM);
LIST_BY(tenants, created_at, &tenant_table, TENANT_ROWS, "created_at", "id", LIST_AFTER_3, .scan_ok = true,
        .scope = SCOPE_SYSTEM);
STMT(tenant_count, "SELECT count(*) AS n" TENANT_WHERE, .row = &list_count_table, .scan_ok = true,
     .scope = SCOPE_SYSTEM);
static const struct list_sort sorts[] = { LIST_SORT(tenants, id), LIST_SORT(tenants, name),
                                          LIST_SORT(tenants, created_at) };
static const char *const filters[] = { "slug", "plan", "status" };
static const struct lister tenant_lister = {
    &tenant_table, sorts, COUNT(sorts), filters, COUNT(filters), &tenant_count
};
STMT(tenant_update,
     "UPDATE tenants SET slug = $2, name = $3, plan = $4, session_idle_minutes = $5, session_absolute_minutes = $6,"
     " password_min = $7, require_2fa = $8, email_domains = $9, quota_users = $10, quota_executions = $12,"
     " quota_storage_bytes = $13, quota_credits = $14, updated_at = $11"
     " WHERE id = $1 AND deleted_at IS NULL",
     .scope = SCOPE_SYSTEM);
STMT(tenant_set_status,
     "UPDATE tenants SET status = $2, updated_at = $3 WHERE id = $1 AND deleted_at IS NULL AND status <> $2",
     .scope = SCOPE_SYSTEM);
STMT(
    tenant_delete,
    "UPDATE tenants SET deleted_at = $2, updated_at = $2 WHERE id = $1 AND deleted_at IS NULL AND status = 'suspended'",
    .scope = SCOPE_SYSTEM);
STMT(tenant_insert,
     "INSERT INTO tenants (id, slug, name, plan, quota_users, quota_executions, quota_storage_bytes, quota_credits,"
     " created_at, updated_at) VALUES ($1, $2, $3, $5, $6, $7, $8, $9, $4, $4)",
     .scope = SCOPE_SYSTEM);
STMT(tenant_by_slug, "SELECT id FROM tenants WHERE slug = $1", .row = &tenant_table, .scope = SCOPE_SYSTEM);

err tenants_insert(struct tx *tx, struct arena *a, i64 now_us, str slug, str name, str *id)
{
    str made = typeid_new(a, "tenant", now_us);
    if (made.p == NULL)
        return ERR_MEMORY;
    TRY(db_exec(tx, &tenant_insert, NULL,
                ARGS(STR(made), STR(slug), STR(name), I64(now_us), STR(S("free")), NIL, NIL, NIL, NIL)));
    *id = made;
    return OK;
}

static const struct field fact_fields[] = {
    FIELD(struct tenant_facts, id, F_STR, .doc = "Id"),
    FIELD(struct tenant_facts, slug, F_STR, .doc = "Short name"),
    FIELD(struct tenant_facts, name, F_STR, .doc = "Name"),
    FIELD(struct tenant_facts, email_domains, F_STR, .flags = F_NULLABLE, .doc = "JSON list"),
    FIELD(struct tenant_facts, password_min, F_I64, .doc = "Characters"),
    FIELD(struct tenant_facts, quota_users, F_I64, .doc = "How many users; 0 for any number"),
    FIELD(struct tenant_facts, require_2fa, F_BOOL, .doc = "Second factor"),
    FIELD(struct tenant_facts, session_idle_minutes, F_I64, .doc = "Idle limit"),
    FIELD(struct tenant_facts, session_absolute_minutes, F_I64, .doc = "Absolute limit"),
};
static const struct table fact_table = TABLE("TenantFacts", struct tenant_facts, fact_fields);
STMT(tenant_facts_by_id,
     "SELECT id, slug, name, email_domains, password_min, coalesce(quota_users, 0) AS quota_users, require_2fa,"
     " session_idle_minutes, session_absolute_minutes FROM tenants WHERE id = $1 AND status = 'active'",
     .row = &fact_table, .scope = SCOPE_SYSTEM);

err tenants_facts(struct tx *tx, str tenant_id, struct tenant_facts *out)
{
    return db_row(tx, &tenant_facts_by_id, out, ARGS(STR(tenant_id)));
}

bool tenants_takes(struct arena *a, const struct tenant_facts *t, str email)
{
    struct json *list;
    str domain = str_slice(email, (size_t)str_find_char(email, '@', 0) + 1, email.n);
    if (t->email_domains.p == NULL || json_parse(a, t->email_domains, &list, NULL) != OK || list->n == 0)
        return true;
    for (u32 i = 0; i < list->n; i++)
        if (str_eq(json_str(&list->items[i]), domain))
            return true;
    return false;
}

err tenants_find(struct tx *tx, str slug, str *id)
{
    struct tenant row = { 0 };
    TRY(db_row(tx, &tenant_by_slug, &row, ARGS(STR(slug))));
    *id = row.id;
    return OK;
}

/* The field table is the one place that knows the bounds; so the command line is checked as a body would be. */
err tenants_check(struct arena *a, str slug, str name, struct buf *complaint)
{
    struct json body = { .type = JSON_OBJECT };
    struct problems problems = { .arena = a };
    if (!json_set(a, &body, S("slug"), json_of_str(slug)) || !json_set(a, &body, S("name"), json_of_str(name)))
        return ERR_MEMORY;
    err e = field_decode(a, &tenant_table, FIELD_CREATE, &body, S(""), NULL, &problems);
    for (u32 i = 0; i < problems.n; i++)
        buf_f(complaint, "%s%.*s: %.*s", i > 0 ? "; " : "tenant ",
              STR_FMT(str_slice(problems.list[i].pointer, 1, SIZE_MAX)), STR_FMT(problems.list[i].detail));
    return e;
}

struct adding {
    str slug, name, id;
};

static err add(void *ctx, struct tx *tx)
{
    struct adding *in = ctx;
    i64 now_us = clock_now_us();
    TRY(tenants_insert(tx, db_arena(tx), now_us, in->slug, in->name, &in->id));
    return audit_system(tx, db_arena(tx), now_us, in->id, S("command line"), "tenants.create", in->id, in->slug);
}

err tenants_add(struct arena *a, str slug, str name, str *id, struct buf *complaint)
{
    TRY(tenants_check(a, slug, name, complaint));
    struct adding in = { .slug = slug, .name = name };
    err e = db_write_wait(app.db, a, add, &in);
    if (e == ERR_CONFLICT)
        buf_f(complaint, "a tenant with the slug %.*s exists", STR_FMT(slug));
    else if (e != OK)
        buf_f(complaint, "the tenant could not be stored: %s", err_text(e));
    TRY(e);
    *id = in.id;
    return OK;
}

/* ---- handlers ---- */

static bool is_operator(const struct req *rq)
{
    return rq->who.role == ROLE_OPERATOR;
}

static err missing(struct req *rq, err e)
{
    return e == ERR_NOT_FOUND ? problem(rq, &not_found, "There is no tenant %.*s", STR_FMT(req_param(rq, "id"))) : e;
}

/* For the tenant's own people there is no other tenant. */
static err find(struct req *rq, struct tenant *out)
{
    str id = req_param(rq, "id");
    bool visible = is_operator(rq) || str_eq(id, rq->who.tenant_id);
    return missing(rq, visible ? db_row(rq->tx, &tenant_by_id, out, ARGS(STR(id))) : ERR_NOT_FOUND);
}

static err tenant_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    TRY(list_read(rq, page, NO_ARGS, &rows, &n, &total));
    return list_reply(rq, rows, n, page, total, 0);
}

static err tenant_get(struct req *rq)
{
    struct tenant *t = NEW(rq->arena, struct tenant);
    if (t == NULL)
        return ERR_MEMORY;
    TRY(find(rq, t));
    return reply(rq, 200, &tenant_table, t);
}

/* The invitation is users' affair, which stands above: it is told by a job. */
static err invite_owner(struct req *rq, str tenant_id, str email)
{
    struct buf b = { .arena = rq->arena };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("email"));
    jw_str(&w, email);
    jw_key(&w, S("invited_by"));
    jw_str(&w, rq->who.user_id);
    jw_end(&w, '}');
    TRY(b.fail);
    return jobs_enqueue(rq->tx, rq->arena, req_now(rq), "users.invite_owner", tenant_id, buf_view(&b), 0);
}

#define AMOUNT(table, row, member) (HAS(table, row, member) ? I64((row)->member) : NIL)

static err tenant_create(struct req *rq)
{
    const struct tenant_new *in = rq->body;
    struct tenant *t = NEW(rq->arena, struct tenant);
    str id = typeid_new(rq->arena, "tenant", req_now(rq));
    if (t == NULL || id.p == NULL)
        return ERR_MEMORY;
    err e = db_try(rq->tx, &tenant_insert,
                   ARGS(STR(id), STR(in->slug), STR(in->name), I64(req_now(rq)), STR(in->plan),
                        AMOUNT(new_table, in, quota_users), AMOUNT(new_table, in, quota_executions),
                        AMOUNT(new_table, in, quota_storage_bytes), AMOUNT(new_table, in, quota_credits)));
    if (e == ERR_CONFLICT)
        return problem(rq, &slug_taken, "There is, or was, a tenant %.*s", STR_FMT(in->slug));
    TRY(e);
    TRY(audit_for(rq, id, rq->who.user_id, "tenants.create", id, STR_NONE));
    if (in->owner_email.p != NULL)
        TRY(invite_owner(rq, id, in->owner_email));
    TRY(db_row(rq->tx, &tenant_by_id, t, ARGS(STR(id))));
    reply_location(rq, "/api/v1/tenants/%.*s", STR_FMT(id));
    return reply(rq, 201, &tenant_table, t);
}

/* What a tenant pays for is not its own to change. */
static err prepare_change(struct req *rq)
{
    static const char *const theirs[] = {
        "slug", "plan", "quota_users", "quota_executions", "quota_storage_bytes", "quota_credits"
    };
    const struct presence *given = rq->body;
    struct tenant before;
    err outcome = OK;
    TRY(find(rq, &before));
    for (size_t i = 0; i < COUNT(theirs) && !is_operator(rq); i++)
        if (given->present >> field_index(&tenant_table, str_of(theirs[i])) & 1)
            outcome = problems_add(&rq->errors, strf(rq->arena, "/%s", theirs[i]), "tenants.operator_only",
                                   "is changed by an operator of the platform");
    return outcome;
}

static err update(struct req *rq, const struct tenant *t)
{
    err e =
        db_try(rq->tx, &tenant_update,
               ARGS(STR(t->id), STR(t->slug), STR(t->name), STR(t->plan), I64(t->session_idle_minutes),
                    I64(t->session_absolute_minutes), I64(t->password_min), BOOL(t->require_2fa), STR(t->email_domains),
                    AMOUNT(tenant_table, t, quota_users), I64(t->updated_at), AMOUNT(tenant_table, t, quota_executions),
                    AMOUNT(tenant_table, t, quota_storage_bytes), AMOUNT(tenant_table, t, quota_credits)));
    return e == ERR_CONFLICT ? problem(rq, &slug_taken, "There is, or was, a tenant %.*s", STR_FMT(t->slug)) : e;
}

static err tenant_change(struct req *rq)
{
    struct tenant *t = NEW(rq->arena, struct tenant);
    struct buf changed = { .arena = rq->arena };
    if (t == NULL)
        return ERR_MEMORY;
    TRY(find(rq, t));
    field_merge(&tenant_table, t, rq->body, &changed);
    TRY(changed.fail);
    if (changed.n == 0)
        return reply(rq, 200, &tenant_table, t);
    t->updated_at = MAX(req_now(rq), t->updated_at + 1);
    TRY(update(rq, t));
    TRY(audit_for(rq, t->id, rq->who.user_id, "tenants.update", t->id, buf_view(&changed)));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply(rq, 200, &tenant_table, t);
}

/* Doing it twice is the same as once. */
static err set_status(struct req *rq, const char *status, const char *action)
{
    struct tenant *t = NEW(rq->arena, struct tenant);
    i64 changed = 0;
    if (t == NULL)
        return ERR_MEMORY;
    TRY(find(rq, t));
    TRY(db_exec(rq->tx, &tenant_set_status, &changed, ARGS(STR(t->id), STR(str_of(status)), I64(req_now(rq)))));
    if (changed > 0)
        TRY(audit_for(rq, t->id, rq->who.user_id, action, t->id, S("status")));
    TRY(req_after(rq, cache_forget_all, NULL));
    TRY(find(rq, t));
    return reply(rq, 200, &tenant_table, t);
}

/* Whoever suspended the tenant of their own session could never take it back. */
static err not_at_home(struct req *rq)
{
    if (!str_eq(req_param(rq, "id"), rq->who.tenant_id))
        return OK;
    return problem(rq, &own_home, "Sign in to another tenant to do this");
}

static err tenant_suspend(struct req *rq)
{
    TRY(not_at_home(rq));
    return set_status(rq, "suspended", "tenants.suspend");
}

static err tenant_resume(struct req *rq)
{
    return set_status(rq, "active", "tenants.resume");
}

static err tenant_remove(struct req *rq)
{
    struct tenant t = { 0 };
    i64 changed = 0;
    TRY(not_at_home(rq));
    TRY(find(rq, &t));
    TRY(db_exec(rq->tx, &tenant_delete, &changed, ARGS(STR(t.id), I64(req_now(rq)))));
    if (changed == 0)
        return problem(rq, &still_active, "Suspend it first; a tenant that works is not deleted by one slip");
    TRY(audit_for(rq, t.id, rq->who.user_id, "tenants.delete", t.id, STR_NONE));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply_empty(rq, 204);
}

/* ---- routes ---- */

#define TENANTS "/api/v1/tenants"
static const struct problem *const read_problems[] = { &not_found, NULL };
static const struct problem *const write_problems[] = { &not_found, &slug_taken, NULL };
static const struct problem *const end_problems[] = { &not_found, &own_home, &still_active, NULL };

static const struct route routes[] = {
    { ROUTE(GET, TENANTS, tenant_list, W_SLOW), .need = &can_manage, .query = &query_table, .list = &tenant_lister,
      .out = &tenant_table, .flags = R_LIST, .doc = "List the tenants, newest first" },
    { ROUTE(POST, TENANTS, tenant_create, W_WRITE), .need = &can_manage, .in = &new_table, .out = &tenant_table,
      .problems = write_problems, .doc = "Make a tenant",
      .more = "With owner_email its owner is invited by mail; nobody else ever chooses their password.",
      .example = "{\"slug\":\"acme\",\"name\":\"Acme Works\",\"owner_email\":\"ada@example.com\"}" },
    { ROUTE(GET, TENANTS "/{id}", tenant_get, W_READ), .need = &can_read, .out = &tenant_table,
      .problems = read_problems, .doc = "Read a tenant; others than operators see only their own" },
    { ROUTE(PATCH, TENANTS "/{id}", tenant_change, W_WRITE), .prepare = prepare_change, .need = &can_write,
      .in = &tenant_table, .out = &tenant_table, .flags = R_PATCH, .problems = write_problems,
      .doc = "Change a tenant; its owners change their own, but for slug, plan and quotas" },
    { ROUTE(DELETE, TENANTS "/{id}", tenant_remove, W_WRITE), .need = &can_manage, .status = 204,
      .problems = end_problems, .doc = "Delete a suspended tenant",
      .more =
          "It is gone for everybody at once; its rows are kept for WEIR_PURGE_DAYS, and its slug is not given again." },
    { ROUTE(POST, TENANTS "/{id}/suspend", tenant_suspend, W_WRITE), .need = &can_manage, .out = &tenant_table,
      .status = 200, .problems = end_problems, .doc = "Suspend a tenant: its tokens, keys and webhooks stop at once" },
    { ROUTE(POST, TENANTS "/{id}/resume", tenant_resume, W_WRITE), .need = &can_manage, .out = &tenant_table,
      .status = 200, .problems = read_problems, .doc = "Let a suspended tenant go on" },
};

static const struct job_kind jobs[] = {
    { .name = "tenants.purge",
      .run = tenants_purge,
      .every_us = HOUR_US,
      .timeout_us = HOUR_US,
      .doc = "Deletes what tenants owned that were deleted WEIR_PURGE_DAYS ago" },
};

const struct module tenants_module = {
    .name = "tenants",
    .doc = "Companies; each owns its rows",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
};
