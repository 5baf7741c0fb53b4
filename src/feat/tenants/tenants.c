/* tenants.c - making companies. Changing and suspending them, their quotas and settings come with their own endpoints.
 *
 * A slug is for people and for signing in; every reference between rows is by id, so a slug may change one day. */
#include "feat/tenants/tenants.h"

#include "base/clock.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"

struct tenant {
    struct presence has;
    str id, slug, name;
};
static const struct field fields[] = {
    FIELD(struct tenant, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "tenant", .doc = "Id of the tenant"),
    FIELD(struct tenant, slug, F_STR, .flags = F_REQUIRED, .min = 1, .max = 63, .format = "slug",
          .doc = "Short name for people"),
    FIELD(struct tenant, name, F_STR, .flags = F_REQUIRED, .min = 1, .max = 120, .doc = "Name as it is shown"),
};
static const struct table tenant_table = TABLE("Tenant", struct tenant, fields, .doc = "A company that owns its rows");

STMT(tenant_insert, "INSERT INTO tenants (id, slug, name, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)",
     .scope = SCOPE_SYSTEM);
STMT(tenant_by_slug, "SELECT id FROM tenants WHERE slug = $1", .row = &tenant_table, .scope = SCOPE_SYSTEM);

err tenants_insert(struct tx *tx, struct arena *a, i64 now_us, str slug, str name, str *id)
{
    str made = typeid_new(a, "tenant", now_us);
    if (made.p == NULL)
        return ERR_MEMORY;
    TRY(db_exec(tx, &tenant_insert, NULL, ARGS(STR(made), STR(slug), STR(name), I64(now_us))));
    *id = made;
    return OK;
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

const struct module tenants_module = {
    .name = "tenants",
    .doc = "Companies; each owns its rows",
};
