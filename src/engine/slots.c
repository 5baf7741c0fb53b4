/* slots.c - how many executions may be under way at once: of a workflow, of each value of its key, of a tenant.
 *
 * The rows are the truth. What has a slot, and what waits for one, is a column that changes in the same transaction as the execution begins or ends; nothing
 * is counted in memory, so nothing drifts, and after a crash there is nothing to rebuild. Counting is a walk over at most CONCURRENCY_MAX index entries, and only
 * where a limit is set: an execution without one has no key, and its statements are those of before. Rejected: counters in memory (a second truth, and wrong on several nodes), and a
 * table of counters (a row that every execution of a tenant would change).
 *
 * An execution that waits is parked like one that sleeps, and is due at its deadline, which ends it, as a cancellation does. It takes its group's room first and its tenant's then:
 * in one order for all, so that those two never wait for each other. Writes that count take the turn of their tenant (db_job.tenant), which on PostgreSQL is one for all nodes:
 * two of them never count at the same time. */
#include "engine/internal.h"
#include "base/clock.h"
#include "codec/base64.h"
#include "codec/hash.h"

enum {
    FILLED_MAX =
        100, /* that get their slots in one transaction: more only when a limit was raised, and then the next end goes on */
    REPLACED_MAX = 1000 /* that one execution replaces; later ones replace the rest */
};

#define TENANT_ONLY "*" /* the group of those that only the tenant's limit counts */

/* --- on the worker ------------------------------------------------------------------------------------------------ */

/* The group of the execution: its workflow, or that and the value of the key, hashed because it may be of any size. */
static err make_key(struct run *r, struct machine *m, struct expr_error *error)
{
    u8 hash[SHA256_BYTES];
    struct json value = json_null;
    if (r->plan->concurrency.key == NULL) {
        r->slot.key = r->workflow_id;
        return OK;
    }
    TRY(run_concurrency_key(r, m, &value, error));
    str text = json_text(r->arena, &value);
    if (text.p == NULL)
        return ERR_MEMORY;
    hash_sha256(text, hash);
    str hex = hex_encode(r->arena, (str){ (const char *)hash, sizeof hash / 2 });
    r->slot.key = hex.p != NULL ? strf(r->arena, "%.*s/%.*s", STR_FMT(r->workflow_id), STR_FMT(hex)) : STR_NONE;
    return r->slot.key.p != NULL ? OK : ERR_MEMORY;
}

err slots_ask(struct engine *e, struct run *r, struct machine *m)
{
    struct expr_error error = { 0 };
    i64 own = r->plan->concurrency.limit;
    bool begun = r->slot.key.p != NULL || r->started_at != 0;
    if ((own == 0 && e->options.workflow_limit == 0 && e->options.tenant_limit == 0) || begun ||
        run_state_final(r->state))
        return OK;
    r->slot.limit = own != 0 ? own : e->options.workflow_limit;
    r->slot.state = r->slot.limit != 0 ? SLOT_WAITS : SLOT_WAITS_TENANT;
    r->slot.key = S(TENANT_ONLY);
    err failed = r->slot.limit != 0 ? make_key(r, m, &error) : OK;
    r->slot.ask = failed == OK;
    if (failed == OK)
        return OK;
    r->slot = (struct slot){ 0 };
    if (failed != ERR_INVALID)
        return failed;
    const char *why = str_z(r->arena, error.detail);
    run_end(r, RUN_FAILED, "concurrency.key", why != NULL ? why : "The key of the limit cannot be evaluated");
    return OK;
}

bool slots_pending(const struct run *r)
{
    bool waits = r->slot.key.p != NULL && r->slot.state < SLOT_HELD;
    return r->slot.ask || (waits && !r->cancelling && clock_now_us() < r->deadline_at);
}

/* --- statements --------------------------------------------------------------------------------------------------- */

STMT(
    slot_ask,
    "UPDATE executions SET slot_key = $3, slot_limit = $4, slot_state = $5, due_at = coalesce(cancel_at, $6), owner = NULL WHERE tenant_id = $1 AND id = $2");
STMT(slot_take, "UPDATE executions SET slot_state = $3, due_at = NULL, owner = $4 WHERE tenant_id = $1 AND id = $2");
STMT(slot_move, "UPDATE executions SET slot_state = $3 WHERE tenant_id = $1 AND id = $2");
/* Also one that somebody has just claimed, and is about to put back: wake_at tells it. */
STMT(
    slot_give,
    "UPDATE executions SET slot_state = $3, wake_at = $4, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($4 AS BIGINT) END"
    " WHERE tenant_id = $1 AND id = $2");
STMT(slot_drop, "UPDATE executions SET slot_key = NULL WHERE tenant_id = $1 AND id = $2");

struct waiting_row {
    struct presence has;
    str id;
    bool awaited;
    i64 room;
};
static const struct field waiting_fields[] = {
    FIELD(struct waiting_row, id, F_STR, .doc = "Who waits longest"),
    FIELD(struct waiting_row, awaited, F_BOOL, .doc = "Whether its parent waits for it"),
    FIELD(struct waiting_row, room, F_I64, .doc = "The limit"),
};
static const struct table waiting_row_table = TABLE("SlotWaiting", struct waiting_row, waiting_fields);
/* The limit is that of the newest: who raises one does not want to wait until those of before have gone through. */
STMT(slot_next,
     "SELECT id, parent_step IS NOT NULL AS awaited, (SELECT slot_limit FROM executions WHERE tenant_id = $1"
     " AND slot_key = $2 AND slot_state = 0 ORDER BY id DESC LIMIT 1) AS room FROM executions"
     " WHERE tenant_id = $1 AND slot_key = $2 AND slot_state = 0 AND cancel_at IS NULL ORDER BY id LIMIT 1",
     .row = &waiting_row_table);
STMT(slot_next_of_tenant,
     "SELECT id, FALSE AS awaited, 0 AS room FROM executions WHERE tenant_id = $1 AND slot_state = 1"
     " AND slot_key IS NOT NULL AND cancel_at IS NULL ORDER BY id LIMIT 1",
     .row = &waiting_row_table);

struct held_row {
    struct presence has;
    i64 n;
};
static const struct field held_fields[] = { FIELD(struct held_row, n, F_I64, .doc = "How many") };
static const struct table held_table = TABLE("SlotsHeld", struct held_row, held_fields);
STMT(slot_held, "SELECT count(*) AS n FROM executions WHERE tenant_id = $1 AND slot_key = $2 AND slot_state > 0",
     .row = &held_table);
STMT(slot_held_by_tenant,
     "SELECT count(*) AS n FROM executions WHERE tenant_id = $1 AND slot_state = 2 AND slot_key IS NOT NULL",
     .row = &held_table);

struct above_row {
    struct presence has;
    str parent_id, parent_step, slot_key;
};
static const struct field above_fields[] = {
    FIELD(struct above_row, parent_id, F_STR, .flags = F_NULLABLE, .doc = "Its parent"),
    FIELD(struct above_row, parent_step, F_STR, .flags = F_NULLABLE, .doc = "The step that waits there"),
    FIELD(struct above_row, slot_key, F_STR, .flags = F_NULLABLE, .doc = "Its group"),
};
static const struct table above_table = TABLE("SlotAbove", struct above_row, above_fields);
STMT(slot_above, "SELECT parent_id, parent_step, slot_key FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &above_table);

static const struct field replaced_fields[] = { FIELD(struct ended_child, id, F_STR, .doc = "Execution") };
static const struct table replaced_table = TABLE("SlotReplaced", struct ended_child, replaced_fields);
STMT(slot_replace,
     "UPDATE executions SET cancel_at = $5, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($5 AS BIGINT) END"
     " WHERE tenant_id = $1 AND id IN (SELECT id FROM executions WHERE tenant_id = $1 AND slot_key = $2 AND id <> $3"
     " AND cancel_at IS NULL ORDER BY id DESC LIMIT $6 OFFSET $4) RETURNING id",
     .row = &replaced_table, .scan_ok = true);

STMT(
    slots_unlimited,
    "UPDATE executions SET slot_state = 2, wake_at = $1,"
    " due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($1 AS BIGINT) END WHERE slot_state = 1 AND slot_key IS NOT NULL",
    .scan_ok = true, .scope = SCOPE_SYSTEM);

/* --- on the writer ------------------------------------------------------------------------------------------------ */

static err give(struct write *w, struct tx *tx, str id, enum slot_state state)
{
    const struct run *r = w->run;
    bool self = str_eq(id, r->id), held = state >= SLOT_HELD;
    if (!held)
        return db_exec(tx, &slot_move, NULL, ARGS(STR(r->tenant_id), STR(id), I64(state)));
    if (self) {
        w->row.due_at = 0;
        return db_exec(tx, &slot_take, NULL, ARGS(STR(r->tenant_id), STR(id), I64(state), I64(w->engine->owner)));
    }
    w->woken = true;
    return db_exec(tx, &slot_give, NULL, ARGS(STR(r->tenant_id), STR(id), I64(state), I64(r->last_us)));
}

/* Those of the group who wait longest, as far as there is room for them. */
static err fill_group(struct write *w, struct tx *tx, str key)
{
    const struct run *r = w->run;
    bool tenant_counts = w->engine->options.tenant_limit != 0;
    struct held_row held = { .n = -1 };
    for (u32 filled = 0; filled < FILLED_MAX; filled++, held.n++) {
        struct waiting_row next;
        err e = db_row(tx, &slot_next, &next, ARGS(STR(r->tenant_id), STR(key)));
        if (e == ERR_NOT_FOUND)
            return OK;
        TRY(e);
        if (held.n < 0)
            TRY(db_row(tx, &slot_held, &held, ARGS(STR(r->tenant_id), STR(key))));
        if (held.n >= next.room)
            return OK;
        TRY(give(w, tx, next.id, next.awaited ? SLOT_HELD_BELOW : tenant_counts ? SLOT_WAITS_TENANT : SLOT_HELD));
    }
    return OK;
}

static err fill_tenant(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    i64 room = w->engine->options.tenant_limit;
    struct held_row held = { .n = -1 };
    for (u32 filled = 0; room != 0 && filled < FILLED_MAX; filled++, held.n++) {
        struct waiting_row next;
        err e = db_row(tx, &slot_next_of_tenant, &next, ARGS(STR(r->tenant_id)));
        if (e == ERR_NOT_FOUND)
            return OK;
        TRY(e);
        if (held.n < 0)
            TRY(db_row(tx, &slot_held_by_tenant, &held, ARGS(STR(r->tenant_id))));
        if (held.n >= room)
            return OK;
        TRY(give(w, tx, next.id, SLOT_HELD));
    }
    return OK;
}

static err fill(struct write *w, struct tx *tx, str key)
{
    if (!str_eq(key, S(TENANT_ONLY)))
        TRY(fill_group(w, tx, key));
    return fill_tenant(w, tx);
}

/* A child that an execution waits for never waits for that one's slot, however many others are between them: it goes through on it. */
static err is_below(const struct run *r, struct tx *tx, bool *below)
{
    struct above_row above = { .parent_id = r->parent_id, .parent_step = r->parent_step };
    *below = r->parent_step.p != NULL && r->slot.limit == 0; /* the tenant's room is the parent's */
    for (u32 i = 0; i < EXECUTION_DEPTH_MAX && above.parent_step.p != NULL && !*below; i++) {
        err e = db_row(tx, &slot_above, &above, ARGS(STR(r->tenant_id), STR(above.parent_id)));
        if (e == ERR_NOT_FOUND)
            return OK;
        TRY(e);
        *below = str_eq(above.slot_key, r->slot.key);
    }
    return OK;
}

/* The newest stay, one fewer than the limit. This one waits until those it replaces have ended: there are never more than the limit. */
static err replace_others(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    void *list = NULL;
    TRY(db_list(tx, &slot_replace, REPLACED_MAX, &list, &w->cancelled_count,
                ARGS(STR(r->tenant_id), STR(r->slot.key), STR(r->id), I64(r->slot.limit - 1), I64(r->last_us),
                     I64(REPLACED_MAX))));
    w->cancelled = list;
    return OK;
}

err slots_admit(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    bool below;
    w->row.due_at = 0;
    w->slotted = w->woken = false;
    TRY(is_below(r, tx, &below));
    if (below)
        return OK;
    w->slotted = true;
    w->row.due_at = r->deadline_at;
    TRY(db_exec(tx, &slot_ask, NULL,
                ARGS(STR(r->tenant_id), STR(r->id), STR(r->slot.key), I64(r->slot.limit), I64(r->slot.state),
                     I64(r->deadline_at))));
    if (r->slot.limit != 0 && r->plan->concurrency.policy == SLOT_REPLACE)
        TRY(replace_others(w, tx));
    TRY(fill(w, tx, r->slot.key));
    return w->row.due_at != 0 && r->plan->concurrency.policy == SLOT_REJECT ? ERR_LIMIT : OK;
}

err slots_release(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    w->woken = false;
    TRY(db_exec(tx, &slot_drop, NULL, ARGS(STR(r->tenant_id), STR(r->id))));
    return fill(w, tx, r->slot.key);
}

err slots_take_over(struct tx *tx, i64 tenant_limit, i64 now_us)
{
    return tenant_limit == 0 ? db_exec(tx, &slots_unlimited, NULL, ARGS(I64(now_us))) : OK;
}
