/* tenants_purge.c - what is left of a deleted tenant when WEIR_PURGE_DAYS have passed: the name of its slug, and a row in the platform's audit log.
 *
 * In slices, each a transaction of its own, over whichever tables the database says have a tenant_id; cut off at any point it goes on with the next run. Nobody wrote down which table
 * refers to which: one whose rows are still referred to waits for the next round, and rounds end when one brings nothing. */
#include "feat/tenants/tenants_parts.h"

#include "base/log.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/audit_chain.h"

enum { SLICE = 200, TABLES_MAX = 256, ROUNDS_MAX = 32 };

struct ended {
    struct presence has;
    str id, slug;
};
static const struct field ended_fields[] = {
    FIELD(struct ended, id, F_STR, .doc = "A tenant that was deleted"),
    FIELD(struct ended, slug, F_STR, .doc = "Its short name"),
};
static const struct table ended_table = TABLE("TenantEnded", struct ended, ended_fields);
STMT(tenant_ended,
     "SELECT id, slug FROM tenants WHERE purged_at IS NULL AND deleted_at <= $1 AND id > $2 ORDER BY id LIMIT 1",
     .row = &ended_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(
    tenant_purged,
    "UPDATE tenants SET purged_at = $2, name = '', settings = '{}', email_domains = NULL WHERE id = $1 AND purged_at IS NULL",
    .scope = SCOPE_SYSTEM);

struct purging {
    const struct job *job;
    struct ended tenant;
    str tables[TABLES_MAX];
    u32 table_count;
    str table; /* the one at hand */
    i64 n;
    i64 rows, waiting; /* of a round */
};

static err purge_slice(void *ctx, struct tx *tx)
{
    struct purging *p = ctx;
    return db_purge(tx, p->table, p->tenant.id, SLICE, &p->n);
}

/* All of it that nothing refers to. */
static err purge_table(struct purging *p, str table)
{
    err e = OK;
    p->table = table;
    do {
        struct arena_mark mark = arena_mark(p->job->arena);
        p->n = 0;
        e = db_write_wait(app.db, p->job->arena, purge_slice, p);
        arena_rewind(p->job->arena, mark);
        p->rows += e == OK ? p->n : 0;
    } while (e == OK && p->n == SLICE);
    p->waiting += e == ERR_CONFLICT;
    return e == ERR_CONFLICT ? OK : e;
}

/* The audit log goes last and along its chain, which is whole at every moment. */
static bool is_log(str table)
{
    return str_eq(table, S("audit_logs"));
}

static err purge_round(struct purging *p)
{
    p->rows = p->waiting = 0;
    for (u32 i = 0; i < p->table_count; i++)
        if (!is_log(p->tables[i]))
            TRY(purge_table(p, p->tables[i]));
    return OK;
}

static err finish(void *ctx, struct tx *tx)
{
    const struct purging *p = ctx;
    const struct job *job = p->job;
    TRY(db_exec(tx, &tenant_purged, NULL, ARGS(STR(p->tenant.id), I64(job->now_us))));
    return audit_system(tx, job->arena, job->now_us, STR_NONE, S("tenants.purge"), "tenants.purge", p->tenant.id,
                        p->tenant.slug);
}

static err purge_tenant(struct purging *p)
{
    u32 rounds = 0;
    do
        TRY(purge_round(p));
    while (p->waiting > 0 && p->rows > 0 && ++rounds < ROUNDS_MAX);
    if (p->waiting > 0) {
        LOG(LOG_ERROR, "tenants.unpurged", LOG_STR("tenant", p->tenant.id), LOG_INT("tables", p->waiting),
            LOG_STR("why", S("something still refers to rows of theirs")));
        return OK;
    }
    TRY(audit_forget(app.db, p->job->arena, p->tenant.id));
    TRY(purge_table(p, S("audit_logs"))); /* what was not sealed yet */
    TRY(db_write_wait(app.db, p->job->arena, finish, p));
    LOG(LOG_INFO, "tenants.purged", LOG_STR("tenant", p->tenant.id));
    return OK;
}

static err find(struct purging *p, i64 before_us, str after)
{
    struct tx *tx;
    TRY(db_read_begin(app.db, p->job->arena, false, &tx));
    err e = db_row(tx, &tenant_ended, &p->tenant, ARGS(I64(before_us), STR(after)));
    if (e == OK)
        e = db_tenant_tables(tx, p->tables, TABLES_MAX, &p->table_count);
    db_read_end(tx);
    return e;
}

err tenants_purge(const struct job *job)
{
    struct purging *p = NEW(job->arena, struct purging);
    str after = S("");
    err e = p == NULL ? ERR_MEMORY : OK;
    if (app.config.purge_days == 0)
        return OK;
    while (e == OK) {
        *p = (struct purging){ .job = job };
        e = find(p, job->now_us - app.config.purge_days * DAY_US, after);
        if (e == OK)
            e = purge_tenant(p);
        after = e == OK ? p->tenant.id : after;
    }
    return e == ERR_NOT_FOUND ? OK : e;
}
