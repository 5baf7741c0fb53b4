/* roles.c - named sets of permissions: the built-in ones, and those that a tenant makes for itself. Who has which role stands in the memberships of users.
 *
 * Nobody makes, changes or gives a role that allows more than they may themselves: otherwise whoever may edit roles could become anything. */
#include "feat/roles/roles.h"

#include "base/code.h"
#include "codec/typeid.h"
#include "core/audit.h"
#include "core/cache.h"
#include "core/conditional.h"
#include "core/list.h"

enum { DESCRIPTION_MAX = 500 };

/* ---- fields ---- */

struct role_row {
    struct presence has;
    str id, name, description, permissions, created_by;
    bool built_in;
    i64 created_at, updated_at;
};

static err check_permission(str value, const char **code, const char **detail)
{
    const struct permission *p = permission_find(value);
    *code = "roles.permission";
    *detail = "must be a permission that GET /api/v1/permissions lists, and one of tenants";
    return p != NULL && (p->roles & ROLES_ALL) != 0 ? OK : ERR_INVALID;
}

static err check_name(str value, const char **code, const char **detail)
{
    *code = "roles.built_in";
    *detail = "must not be the name of a built-in role";
    return role_bit(value) == 0 ? OK : ERR_INVALID;
}

static const struct field permission_field =
    SHAPE_FIELD("permission", F_STR, .min = 3, .max = 80, .check = check_permission, .doc = "A permission");
static const struct field fields[] = {
    FIELD(struct role_row, id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .format = "id", .prefix = "role",
          .doc = "Id of the role; null for a built-in one"),
    FIELD(struct role_row, name, F_STR, .flags = F_REQUIRED, .min = 1, .max = ROLE_NAME_MAX, .format = "slug",
          .check = check_name, .doc = "What memberships call it: small letters, digits and hyphens"),
    FIELD(struct role_row, description, F_STR, .max = DESCRIPTION_MAX, .preset = "\"\"", .doc = "What it is for"),
    FIELD(struct role_row, permissions, F_LIST, .flags = F_REQUIRED | F_TEXT | F_UNIQUE, .each = &permission_field,
          .max = GRANTS_MAX, .doc = "What it allows; at most what its maker may"),
    FIELD(struct role_row, built_in, F_BOOL, .flags = F_OUTPUT, .doc = "Whether it is there in every tenant"),
    FIELD(struct role_row, created_by, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Id of the user who made it"),
    FIELD(struct role_row, created_at, F_TIME, .flags = F_OUTPUT | F_NULLABLE, .doc = "When it was made"),
    FIELD(struct role_row, updated_at, F_TIME, .flags = F_OUTPUT | F_NULLABLE, .doc = "When it was last changed"),
};
static const struct table role_table = TABLE("Role", struct role_row, fields, .doc = "A named set of permissions");

struct shown_permission {
    struct presence has;
    str name, description;
    struct list roles;
};
static const struct field shown_fields[] = {
    FIELD(struct shown_permission, name, F_STR, .flags = F_OUTPUT, .max = 80, .doc = "word.verb"),
    FIELD(struct shown_permission, description, F_STR, .flags = F_OUTPUT, .doc = "What it allows"),
    FIELD(struct shown_permission, roles, F_LIST, .flags = F_OUTPUT, .item = F_STR, .max = 8,
          .doc = "Built-in roles that have it"),
};
static const struct table shown_table =
    TABLE("Permission", struct shown_permission, shown_fields, .doc = "Something that a caller may do");

/* ---- permissions, problems, statements ---- */

PERMISSION(can_read, "roles.read", ROLES_ADMINS, "See the roles of the tenant");
PERMISSION(can_write, "roles.write", ROLES_ADMINS, "Make, change and delete the tenant's own roles");

CODES(entry_codes, CODE_ENTRY, { "roles.permission", "There is no such permission, or it is the platform's" },
      { "roles.built_in", "The name is that of a built-in role" },
      { "roles.above", "The permission is not one of the caller's own" });

PROBLEM(not_found, "roles.not_found", ERR_NOT_FOUND, "There is no such role");
PROBLEM(name_taken, "roles.name_taken", ERR_CONFLICT, "A role of the tenant has this name");
PROBLEM(in_use, "roles.in_use", ERR_CONFLICT, "Somebody has, or was offered, this role");
PROBLEM(too_many, "roles.too_many", ERR_CONFLICT, "The tenant has as many roles as it may have");

#define ROLE_COLUMNS "id, name, description, permissions, created_by, created_at, updated_at"
STMT(role_by_id, "SELECT " ROLE_COLUMNS " FROM roles WHERE tenant_id = $1 AND id = $2", .row = &role_table);
STMT(role_by_name, "SELECT " ROLE_COLUMNS " FROM roles WHERE tenant_id = $1 AND name = $2", .row = &role_table);
STMT(role_all, "SELECT " ROLE_COLUMNS " FROM roles WHERE tenant_id = $1 ORDER BY name LIMIT $2", .row = &role_table);
STMT(role_state, "SELECT updated_at || '' AS state FROM roles WHERE tenant_id = $1 AND id = $2", .row = &etag_table);
STMT(role_insert,
     "INSERT INTO roles (tenant_id, id, name, description, permissions, created_by, created_at, updated_at)"
     " VALUES ($1, $2, $3, $4, $5, $6, $7, $7)");
STMT(
    role_update,
    "UPDATE roles SET name = $3, description = $4, permissions = $5, updated_at = $6 WHERE tenant_id = $1 AND id = $2");
STMT(role_delete, "DELETE FROM roles WHERE tenant_id = $1 AND id = $2");
STMT(role_used, "SELECT 1 FROM memberships WHERE tenant_id = $1 AND role_id = $2 UNION ALL"
                " SELECT 1 FROM invitations WHERE tenant_id = $1 AND role_id = $2 LIMIT 1");

/* ---- built-in ones ---- */

static const struct {
    str name;
    u32 bit;
    const char *description;
} built_in[] = {
    { S_INIT("owner"), ROLE_OWNER, "Everything, the tenant's settings and its owners included" },
    { S_INIT("admin"), ROLE_ADMIN, "People, roles, keys and everything that editors do" },
    { S_INIT("editor"), ROLE_EDITOR, "Builds workflows" },
    { S_INIT("member"), ROLE_MEMBER, "Runs workflows" },
    { S_INIT("viewer"), ROLE_VIEWER, "Reads" },
    { S_INIT("operator"), ROLE_OPERATOR, NULL }, /* no role of tenants */
    { S_INIT("custom"), ROLE_CUSTOM, NULL },
};

u32 role_bit(str name)
{
    for (size_t i = 0; i < COUNT(built_in); i++)
        if (str_eq(built_in[i].name, name))
            return built_in[i].bit;
    return 0;
}

/* What the replaced services called them. No role of a tenant's own can be named so: those are slugs. */
static const struct {
    str name;
    u32 bit;
} former[] = { { S_INIT("Admin"), ROLE_ADMIN }, { S_INIT("User"), ROLE_MEMBER } };

u32 role_bit_given(str name)
{
    for (size_t i = 0; i < COUNT(former); i++)
        if (str_eq(former[i].name, name))
            return former[i].bit;
    return role_bit(name);
}

str role_name(u32 role)
{
    for (size_t i = 0; i < COUNT(built_in); i++)
        if (built_in[i].bit == role)
            return built_in[i].name;
    return S("");
}

err roles_choose(struct tx *tx, struct arena *a, str tenant_id, str name, struct role_choice *out)
{
    u32 bit = role_bit_given(name);
    struct role_choice c = { .role = role_name(bit), .role_id = STR_NONE, .name = role_name(bit), .bit = bit };
    struct role_row row = { 0 };
    if ((bit & ROLES_ALL) == 0) {
        TRY(db_row(tx, &role_by_name, &row, ARGS(STR(tenant_id), STR(name))));
        c = (struct role_choice){ S("custom"), row.id, row.name, ROLE_CUSTOM, NEW(a, struct grants) };
        if (c.grants == NULL)
            return ERR_MEMORY;
        TRY(grants_parse(a, row.permissions, c.grants));
    }
    *out = c;
    return OK;
}

bool roles_may_give(const struct caller *who, const struct role_choice *role)
{
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    if (role->bit == ROLE_OWNER && who->role != ROLE_OWNER)
        return false;
    for (size_t i = 0; i < count; i++) {
        bool gives = role->grants != NULL ? grants_have(role->grants, all[i]) : (all[i]->roles & role->bit) != 0;
        if (gives && !caller_may(who, all[i]))
            return false;
    }
    return true;
}

/* ---- handlers ---- */

static err missing(struct req *rq, err e)
{
    return e == ERR_NOT_FOUND ? problem(rq, &not_found, "There is no role %.*s", STR_FMT(req_param(rq, "id"))) : e;
}

static err find(struct req *rq, struct role_row *out)
{
    return missing(rq, db_row(rq->tx, &role_by_id, out, ARGS(TENANT(rq), STR(req_param(rq, "id")))));
}

/* Each permission that the caller lacks is an entry. */
static err check_own(struct req *rq, str permissions)
{
    struct grants *g = NEW(rq->arena, struct grants);
    err outcome = OK;
    if (g == NULL)
        return ERR_MEMORY;
    TRY(grants_parse(rq->arena, permissions, g));
    for (u32 i = 0; i < g->n; i++)
        if (!caller_may(&rq->who, g->list[i]))
            outcome = problems_add(&rq->errors, json_pointer_index(rq->arena, S("/permissions"), i), "roles.above",
                                   "%s is not one of your own permissions", g->list[i]->name);
    return outcome;
}

static err taken(struct req *rq, err e, str name)
{
    return e == ERR_CONFLICT ? problem(rq, &name_taken, "There is a role %.*s already", STR_FMT(name)) : e;
}

static err prepare_create(struct req *rq)
{
    const struct role_row *in = rq->body;
    struct role_row *r = NEW(rq->arena, struct role_row);
    if (r == NULL)
        return ERR_MEMORY;
    TRY(check_own(rq, in->permissions));
    *r = *in;
    r->id = typeid_new(rq->arena, "role", req_now(rq));
    if (r->id.p == NULL)
        return ERR_MEMORY;
    r->created_by = rq->who.user_id;
    r->created_at = r->updated_at = req_now(rq);
    field_set_all(&role_table, r);
    rq->prepared = r;
    return OK;
}

static err role_create(struct req *rq)
{
    const struct role_row *r = rq->prepared;
    void *rows;
    u32 n;
    TRY(db_list(rq->tx, &role_all, ROLES_PER_TENANT, &rows, &n, ARGS(TENANT(rq), I64(ROLES_PER_TENANT))));
    if (n == ROLES_PER_TENANT)
        return problem(rq, &too_many, "A tenant has at most %d roles of its own", ROLES_PER_TENANT);
    err e = db_try(rq->tx, &role_insert,
                   ARGS(TENANT(rq), STR(r->id), STR(r->name), STR(r->description), STR(r->permissions),
                        STR(r->created_by), I64(r->created_at)));
    TRY(taken(rq, e, r->name));
    TRY(audit(rq, "roles.create", r->id, STR_NONE));
    reply_location(rq, "/api/v1/roles/%.*s", STR_FMT(r->id));
    return reply(rq, 201, &role_table, r);
}

static err role_get(struct req *rq)
{
    struct role_row *r = NEW(rq->arena, struct role_row);
    if (r == NULL)
        return ERR_MEMORY;
    TRY(find(rq, r));
    return reply(rq, 200, &role_table, r);
}

/* Both what it allows and what it shall allow must be the caller's: else taking away would be a way to look like the maker of the rest. */
static err prepare_change(struct req *rq)
{
    struct role_row before;
    const struct role_row *in = rq->body;
    TRY(find(rq, &before));
    TRY(check_own(rq, before.permissions));
    return GIVEN(role_table, in, permissions) ? check_own(rq, in->permissions) : OK;
}

static err role_change(struct req *rq)
{
    struct role_row *r = NEW(rq->arena, struct role_row);
    struct buf changed = { .arena = rq->arena };
    if (r == NULL)
        return ERR_MEMORY;
    TRY(find(rq, r));
    field_merge(&role_table, r, rq->body, &changed);
    TRY(changed.fail);
    if (changed.n == 0)
        return reply(rq, 200, &role_table, r);
    r->updated_at = MAX(req_now(rq), r->updated_at + 1);
    err e = db_try(
        rq->tx, &role_update,
        ARGS(TENANT(rq), STR(r->id), STR(r->name), STR(r->description), STR(r->permissions), I64(r->updated_at)));
    TRY(taken(rq, e, r->name));
    TRY(audit(rq, "roles.update", r->id, buf_view(&changed)));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply(rq, 200, &role_table, r);
}

static err role_remove(struct req *rq)
{
    str id = req_param(rq, "id");
    i64 changed;
    err e = db_row(rq->tx, &role_used, NULL, ARGS(TENANT(rq), STR(id)));
    if (e == OK)
        return problem(rq, &in_use, "Give its users another role first");
    if (e != ERR_NOT_FOUND)
        return e;
    TRY(db_exec(rq->tx, &role_delete, &changed, ARGS(TENANT(rq), STR(id))));
    if (changed == 0)
        return missing(rq, ERR_NOT_FOUND);
    TRY(audit(rq, "roles.delete", id, STR_NONE));
    return reply_empty(rq, 204);
}

/* ---- lists ---- */

static err built_in_permissions(struct arena *a, u32 bit, str *out)
{
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '[');
    for (size_t i = 0; i < count; i++)
        if (all[i]->roles & bit)
            jw_str(&w, str_of(all[i]->name));
    jw_end(&w, ']');
    *out = buf_view(&b);
    return b.fail;
}

/* So few that there are no pages: the built-in ones first. */
static err role_list(struct req *rq)
{
    void *rows;
    u32 n, fixed = 0;
    TRY(db_list(rq->tx, &role_all, ROLES_PER_TENANT, &rows, &n, ARGS(TENANT(rq), I64(ROLES_PER_TENANT))));
    struct role_row *list = NEW_N(rq->arena, struct role_row, n + COUNT(built_in));
    if (list == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < COUNT(built_in); i++) {
        struct role_row *r = &list[fixed];
        if (built_in[i].description == NULL)
            continue;
        r->name = built_in[i].name;
        r->description = str_of(built_in[i].description);
        r->built_in = true;
        TRY(built_in_permissions(rq->arena, built_in[i].bit, &r->permissions));
        field_set_all(&role_table, r);
        r->has.null |= (u64)3 << field_index(&role_table, S("created_at"));
        fixed++;
    }
    for (u32 i = 0; i < n; i++)
        list[fixed + i] = ((const struct role_row *)rows)[i];
    return reply_list(rq, &role_table, list, fixed + n, &(struct page){ .limit = ROLES_PER_TENANT + fixed },
                      LIST_BY_SKIP, -1, 0);
}

static err permission_list(struct req *rq)
{
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    struct shown_permission *list = NEW_N(rq->arena, struct shown_permission, count);
    if (list == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        str *names = NEW_N(rq->arena, str, COUNT(built_in));
        if (names == NULL)
            return ERR_MEMORY;
        list[i].name = str_of(all[i]->name);
        list[i].description = str_of(all[i]->doc);
        list[i].roles.items = names;
        for (size_t k = 0; k < COUNT(built_in); k++)
            if (all[i]->roles & built_in[k].bit & ~(u32)ROLE_CUSTOM)
                names[list[i].roles.n++] = built_in[k].name;
        field_set_all(&shown_table, &list[i]);
    }
    return reply_list(rq, &shown_table, list, (u32)count, &(struct page){ .limit = (i64)count }, LIST_BY_SKIP, -1, 0);
}

/* ---- routes ---- */

static const struct problem *const write_problems[] = { &not_found, &name_taken, &too_many, NULL };
static const struct problem *const read_problems[] = { &not_found, NULL };
static const struct problem *const delete_problems[] = { &not_found, &in_use, NULL };

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/roles", role_list, W_READ), .need = &can_read, .out = &role_table, .flags = R_LIST,
      .doc = "List the roles of the tenant, the built-in ones first" },
    { ROUTE(POST, "/api/v1/roles", role_create, W_WRITE), .prepare = prepare_create, .need = &can_write,
      .in = &role_table, .out = &role_table, .problems = write_problems, .doc = "Make a role",
      .more = "It may hold only what its maker may do.",
      .example = "{\"name\":\"support\",\"permissions\":[\"roles.read\"]}" },
    { ROUTE(GET, "/api/v1/roles/{id}", role_get, W_READ), .etag = &role_state, .need = &can_read, .out = &role_table,
      .problems = read_problems, .doc = "Read a role of the tenant's own" },
    { ROUTE(PATCH, "/api/v1/roles/{id}", role_change, W_WRITE), .etag = &role_state, .prepare = prepare_change,
      .need = &can_write, .in = &role_table, .out = &role_table, .flags = R_PATCH, .problems = write_problems,
      .doc = "Change a role", .more = "Whoever has it may do the new things, and no others, with their next request." },
    { ROUTE(DELETE, "/api/v1/roles/{id}", role_remove, W_WRITE), .etag = &role_state, .need = &can_write, .status = 204,
      .problems = delete_problems, .doc = "Delete a role that nobody has" },
    { ROUTE(GET, "/api/v1/permissions", permission_list, W_READ), .need = &can_read, .out = &shown_table,
      .flags = R_LIST | R_NO_STORE, .doc = "List the permissions that there are" },
};

const struct module roles_module = {
    .name = "roles",
    .doc = "Named sets of permissions",
    .routes = routes,
    .route_count = COUNT(routes),
};
