/* journal.c - the rows of executions: admitted, recorded, finished, claimed. Texts are made here on the worker; the writer only binds them.
 *
 * A run of pure steps has exactly one write, the INSERT of its whole history. Every other write of a run carries its fence: when the row has another one, somebody
 * else has taken the execution over, and nothing is changed. */
#include "db/copy.h"
#include "engine/internal.h"
#include "base/clock.h"
#include "codec/time.h"
#include "core/nodes.h"

#include <stdio.h>
#include <string.h>

enum {
    WRITE_BYTES = 256 * 1024 * 1024, /* a write holds 32 MiB of values twice, in buffers that grow by doubling */
    CLAIM_MAX = 20,
    HAPPENING_TEXT_MAX = 200 /* a longer code, which a fail step may choose, is left out */
};

static const i64 dedup_life_us = DAY_US;

/* --- statements --------------------------------------------------------------------------------------------------- */

STMT(
    execution_insert,
    "INSERT INTO executions (id, tenant_id, workflow_id, version, status, created_at, started_at, completed_at, deadline_at, due_at,"
    " fence, parent_id, dedup_key, dedup_body, trigger_data, input_data, output_data, error, step_executions, responded,"
    " traceparent, tracestate, owner)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)");
/* The owner stands beside the fence: what parks or ends an execution gives it away, so the same write comes to nothing when it is made again because nobody knows whether it
 * was carried out. */
STMT(
    execution_update,
    "UPDATE executions SET status = $4, started_at = $5, completed_at = $6,"
    " due_at = CASE WHEN CAST($7 AS BIGINT) IS NULL OR coalesce(cancel_at, wake_at) IS NULL THEN $7 ELSE coalesce(cancel_at, wake_at) END, output_data = $8, error = $9,"
    " step_executions = $10, responded = $11, owner = $12 WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND owner = $13");
STMT(
    dedup_expire,
    "UPDATE executions SET dedup_key = NULL, dedup_body = NULL WHERE tenant_id = $1 AND dedup_key = $2 AND created_at < $3");
STMT(
    journal_upsert,
    "INSERT INTO execution_journal (tenant_id, execution_id, step_id, iteration, status, attempt, attempts, input_data, output_data,"
    " error, started_at, completed_at, deadline_at, due_at) VALUES ($1, $2, $3, $14, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
    " ON CONFLICT (tenant_id, execution_id, step_id, iteration) DO UPDATE SET status = excluded.status, attempt = excluded.attempt,"
    " attempts = excluded.attempts, input_data = excluded.input_data, output_data = excluded.output_data, error = excluded.error,"
    " resume = NULL, started_at = excluded.started_at, completed_at = excluded.completed_at, deadline_at = excluded.deadline_at,"
    " due_at = excluded.due_at");
STMT(journal_delete, "DELETE FROM execution_journal WHERE tenant_id = $1 AND execution_id = $2");

struct journal_row {
    struct presence has;
    str step_id, status, attempts, input_data, output_data, error;
    i64 iteration, attempt, started_at, completed_at, deadline_at, due_at;
};
static const struct field journal_fields[] = {
    FIELD(struct journal_row, step_id, F_STR, .doc = "Which step"),
    FIELD(struct journal_row, iteration, F_I64, .doc = "Of which items, see struct step_record"),
    FIELD(struct journal_row, status, F_STR, .doc = "Its state"),
    FIELD(struct journal_row, attempt, F_I64, .doc = "Attempts made"),
    FIELD(struct journal_row, attempts, F_JSON, .doc = "Earlier ones"),
    FIELD(struct journal_row, input_data, F_JSON, .flags = F_NULLABLE, .doc = "Its input"),
    FIELD(struct journal_row, output_data, F_JSON, .flags = F_NULLABLE, .doc = "Its output"),
    FIELD(struct journal_row, error, F_JSON, .flags = F_NULLABLE, .doc = "Its error"),
    FIELD(struct journal_row, started_at, F_I64, .flags = F_NULLABLE, .doc = "Epoch microseconds"),
    FIELD(struct journal_row, completed_at, F_I64, .flags = F_NULLABLE, .doc = "Epoch microseconds"),
    FIELD(struct journal_row, deadline_at, F_I64, .flags = F_NULLABLE, .doc = "Epoch microseconds"),
    FIELD(struct journal_row, due_at, F_I64, .flags = F_NULLABLE, .doc = "Epoch microseconds"),
};
static const struct table journal_table = TABLE("JournalRow", struct journal_row, journal_fields);
STMT(
    journal_select,
    "SELECT step_id, iteration, status, attempt, attempts, input_data, output_data, error, started_at, completed_at, deadline_at, due_at"
    " FROM execution_journal WHERE tenant_id = $1 AND execution_id = $2",
    .row = &journal_table);

#define EXECUTION_COLUMNS                                                                                                        \
    "id AS execution_id, workflow_id, version, status, trigger_data AS \"trigger\", input_data, output_data, error, created_at," \
    " started_at, completed_at, parent_id, step_executions"
STMT(execution_select, "SELECT " EXECUTION_COLUMNS " FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &execution_table);
STMT(execution_select_key, "SELECT " EXECUTION_COLUMNS " FROM executions WHERE tenant_id = $1 AND dedup_key = $2",
     .row = &execution_table);

struct aside_row {
    struct presence has;
    str dedup_body;
    bool responded;
};
static const struct field aside_fields[] = {
    FIELD(struct aside_row, dedup_body, F_STR, .flags = F_NULLABLE, .doc = "Hash of the body that came with the key"),
    FIELD(struct aside_row, responded, F_BOOL, .doc = "Whether a respond step gave its output"),
};
static const struct table aside_table = TABLE("AsideRow", struct aside_row, aside_fields);
STMT(aside_select, "SELECT dedup_body, responded FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &aside_table);

struct given_row {
    struct presence has;
    str input_data, trigger_data, traceparent, tracestate;
    i64 cancel_at, kill_at;
};
static const struct field given_fields[] = {
    FIELD(struct given_row, input_data, F_JSON, .doc = "What it was given"),
    FIELD(struct given_row, trigger_data, F_JSON, .doc = "What started it"),
    FIELD(struct given_row, traceparent, F_STR, .flags = F_NULLABLE, .doc = "The trace that it belongs to"),
    FIELD(struct given_row, tracestate, F_STR, .flags = F_NULLABLE, .doc = "What came with that"),
    FIELD(struct given_row, cancel_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for its end"),
    FIELD(struct given_row, kill_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for it at once"),
};
static const struct table given_table = TABLE("GivenRow", struct given_row, given_fields);
STMT(given_select,
     "SELECT input_data, trigger_data, traceparent, tracestate, cancel_at, kill_at FROM executions"
     " WHERE tenant_id = $1 AND id = $2",
     .row = &given_table);

static const struct field claim_fields[] = {
    FIELD(struct claim, id, F_STR, .doc = "Execution"),
    FIELD(struct claim, tenant_id, F_STR, .doc = "Whose"),
    FIELD(struct claim, workflow_id, F_STR, .doc = "Of which workflow"),
    FIELD(struct claim, version, F_I64, .doc = "In which version"),
    FIELD(struct claim, parent_id, F_STR, .flags = F_NULLABLE, .doc = "Its parent"),
    FIELD(struct claim, parent_step, F_STR, .flags = F_NULLABLE, .doc = "The step of it that waits"),
    FIELD(struct claim, depth, F_I64, .doc = "Parents above it"),
    FIELD(struct claim, created_at, F_I64, .doc = "Epoch microseconds"),
    FIELD(struct claim, started_at, F_I64, .flags = F_NULLABLE, .doc = "Epoch microseconds"),
    FIELD(struct claim, deadline_at, F_I64, .doc = "Epoch microseconds"),
    FIELD(struct claim, cancel_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for its end"),
    FIELD(struct claim, kill_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for it at once"),
    FIELD(struct claim, fence, F_I64, .doc = "Ours from now on"),
    FIELD(struct claim, replays, F_STR, .flags = F_NULLABLE, .doc = "Whose results it takes over"),
    FIELD(struct claim, slot_key, F_STR, .flags = F_NULLABLE, .doc = "Its group"),
    FIELD(struct claim, slot_state, F_I64, .flags = F_NULLABLE, .doc = "Whether it has its slot"),
};
static const struct table claim_table = TABLE("Claim", struct claim, claim_fields);
#define CLAIMED                                                                                                               \
    " RETURNING id, tenant_id, workflow_id, version, parent_id, parent_step, created_at, started_at, deadline_at, cancel_at," \
    " kill_at, depth, fence, slot_key, slot_state, replays"
#define CLAIM \
    "UPDATE executions SET status = 'running', due_at = NULL, wake_at = NULL, owner = $3, fence = fence + 1 WHERE "
/* On PostgreSQL many nodes claim at once, and none waits for another. The ids are gathered first (ARRAY), else a plan may ask for them again for each row and lock more than it takes. */
STMT(claim_due, CLAIM "id IN (SELECT id FROM executions WHERE due_at <= $1 ORDER BY due_at LIMIT $2)" CLAIMED,
     .postgres = CLAIM "id = ANY (ARRAY(SELECT id FROM executions WHERE due_at <= $1 ORDER BY due_at LIMIT $2"
                       " FOR UPDATE SKIP LOCKED))" CLAIMED,
     .row = &claim_table, .scope = SCOPE_SYSTEM);
/* When more is due than fits into a batch, each tenant gets its share. The walk goes from tenant to tenant by index, over those with something due later too. */
struct due_tenant {
    struct presence has;
    str tenant_id;
};
static const struct field due_tenant_fields[] = { FIELD(struct due_tenant, tenant_id, F_STR, .doc = "Whose") };
static const struct table due_tenant_table = TABLE("DueTenant", struct due_tenant, due_tenant_fields);
STMT(due_tenants,
     "WITH RECURSIVE t (id) AS (SELECT min(tenant_id) FROM executions WHERE due_at IS NOT NULL AND tenant_id > $2"
     " UNION ALL SELECT (SELECT min(e.tenant_id) FROM executions e WHERE e.due_at IS NOT NULL AND e.tenant_id > t.id)"
     " FROM t WHERE t.id IS NOT NULL) SELECT t.id AS tenant_id FROM t WHERE t.id IS NOT NULL"
     " AND EXISTS (SELECT 1 FROM executions x WHERE x.tenant_id = t.id AND x.due_at <= $1) LIMIT $3",
     .row = &due_tenant_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(claim_due_of_tenant,
     CLAIM "tenant_id = $4 AND id IN"
           " (SELECT id FROM executions WHERE tenant_id = $4 AND due_at <= $1 ORDER BY due_at LIMIT $2)" CLAIMED,
     .postgres = CLAIM
     "tenant_id = $4 AND id = ANY (ARRAY(SELECT id FROM executions WHERE tenant_id = $4 AND due_at <= $1"
     " ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED))" CLAIMED,
     .row = &claim_table);
STMT(give_back,
     "UPDATE executions SET due_at = $4, owner = NULL WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND owner = $5");

struct due_row {
    struct presence has;
    i64 due_at;
};
static const struct field due_fields[] = { FIELD(struct due_row, due_at, F_I64, .flags = F_NULLABLE,
                                                 .doc = "Epoch microseconds") };
static const struct table due_table = TABLE("DueRow", struct due_row, due_fields);
STMT(next_due, "SELECT due_at FROM executions WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1", .row = &due_table,
     .scope = SCOPE_SYSTEM);

STMT(
    child_insert,
    "INSERT INTO executions (id, tenant_id, workflow_id, version, status, created_at, deadline_at, due_at, fence, parent_id, parent_step,"
    " depth, trigger_data, input_data, traceparent, tracestate)"
    " VALUES ($1, $2, $3, $4, 'queued', $5, $6, $5, 1, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (id) DO NOTHING");
STMT(parent_wake,
     "UPDATE executions SET wake_at = $3, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END"
     " WHERE tenant_id = $1 AND id = $2 AND status IN ('queued', 'running', 'waiting')");
STMT(child_abandon,
     "UPDATE executions SET cancel_at = $3, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END"
     " WHERE tenant_id = $1 AND id = $2 AND cancel_at IS NULL AND status IN ('queued', 'running', 'waiting')");
static const struct field ended_child_fields[] = {
    FIELD(struct ended_child, id, F_STR, .doc = "Execution"),
    FIELD(struct ended_child, kill_at, F_I64, .flags = F_NULLABLE, .doc = "Set when it must not wait for its calls"),
};
static const struct table ended_child_table = TABLE("EndedChild", struct ended_child, ended_child_fields);
/* Whether they are killed is said by the parent's row: the request may have come when this write was on its way. */
STMT(
    children_cancel,
    "UPDATE executions SET cancel_at = coalesce(cancel_at, CAST($3 AS BIGINT)), due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END,"
    " kill_at = coalesce(kill_at, (SELECT p.kill_at FROM executions p WHERE p.tenant_id = $1 AND p.id = $2))"
    " WHERE tenant_id = $1 AND parent_id = $2 AND parent_step IS NOT NULL AND status IN ('queued', 'running', 'waiting')"
    " AND (cancel_at IS NULL OR kill_at IS NULL)"
    " RETURNING id, kill_at",
    .row = &ended_child_table);

static const struct field resume_fields[] = {
    FIELD(struct resume_row, step_id, F_STR, .doc = "Which step"),
    FIELD(struct resume_row, iteration, F_I64, .doc = "Of which items, see struct step_record"),
    FIELD(struct resume_row, resume, F_JSON, .doc = "What a person answered"),
};
static const struct table resume_table = TABLE("ResumeRow", struct resume_row, resume_fields);
STMT(
    resume_select,
    "SELECT step_id, iteration, resume FROM execution_journal WHERE tenant_id = $1 AND execution_id = $2 AND resume IS NOT NULL",
    .row = &resume_table);

struct child_state {
    struct presence has;
    str status, output_data, error;
};
static const struct field child_state_fields[] = {
    FIELD(struct child_state, status, F_STR, .doc = "How far it is"),
    FIELD(struct child_state, output_data, F_JSON, .flags = F_NULLABLE, .doc = "Its output"),
    FIELD(struct child_state, error, F_JSON, .flags = F_NULLABLE, .doc = "Why it failed"),
};
static const struct table child_state_table = TABLE("ChildState", struct child_state, child_state_fields);
STMT(child_select, "SELECT status, output_data, error FROM executions WHERE tenant_id = $1 AND id = $2",
     .row = &child_state_table);

static const struct field ended_fields[] = { FIELD(struct ended_child, id, F_STR, .doc = "Execution") };
static const struct table ended_table = TABLE("ExecutionsEnded", struct ended_child, ended_fields);
#define ENDED " AND status IN ('completed', 'failed', 'cancelled', 'timed_out')"
STMT(ended_select, "SELECT id FROM executions WHERE id IN (SELECT value FROM json_each($1))" ENDED,
     .postgres =
         "SELECT id FROM executions WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))" ENDED,
     .row = &ended_table, .scope = SCOPE_SYSTEM);

/* --- writing ------------------------------------------------------------------------------------------------------ */

static struct arg time_arg(i64 us)
{
    return us != 0 ? I64(us) : NIL;
}

/* Ours while we have it in memory: neither when it waits nor when it has ended. */
static struct arg owner_arg(const struct write *w)
{
    return w->final || w->row.due_at != 0 ? NIL : I64(w->engine->owner);
}

static err insert_row(struct write *w, struct tx *tx)
{
    struct run *r = w->run;
    if (r->dedup_key.p != NULL)
        TRY(db_send(tx, &dedup_expire, OK,
                    ARGS(STR(r->tenant_id), STR(r->dedup_key), I64(r->created_at - dedup_life_us))));
    return db_send(tx, &execution_insert, OK,
                   ARGS(STR(r->id), STR(r->tenant_id), STR(r->workflow_id), I64(r->version), STR(w->row.status),
                        I64(r->created_at), time_arg(r->started_at), time_arg(r->completed_at), I64(r->deadline_at),
                        time_arg(w->row.due_at), I64(r->fence), STR(r->parent_id), STR(r->dedup_key),
                        STR(r->dedup_body), STR(r->trigger_text), STR(r->input_text), STR(w->row.output_data),
                        STR(w->row.error), STR(w->row.step_executions), BOOL(w->responded), STR(r->traceparent),
                        STR(r->tracestate), owner_arg(w)));
}

static err update_row(struct write *w, struct tx *tx)
{
    struct run *r = w->run;
    return db_send(tx, &execution_update, ERR_PRECONDITION,
                   ARGS(STR(r->tenant_id), STR(r->id), I64(r->fence), STR(w->row.status), time_arg(r->started_at),
                        time_arg(r->completed_at), time_arg(w->row.due_at), STR(w->row.output_data), STR(w->row.error),
                        STR(w->row.step_executions), BOOL(w->responded), owner_arg(w), I64(w->engine->owner)));
}

/* A child whose workflow may not run is left out; the step that waits for it is told after the commit, or finds no child after a crash. */
static err insert_child(struct write *w, struct tx *tx, struct child_row *c)
{
    const struct run *r = w->run;
    i64 version;
    err e = w->engine->options.present(tx, r->tenant_id, c->workflow_id, &version);
    c->started = e == OK;
    if (e == ERR_NOT_FOUND)
        return OK;
    TRY(e);
    return db_send(tx, &child_insert, OK,
                   ARGS(STR(c->id), STR(r->tenant_id), STR(c->workflow_id), I64(version), I64(c->created_at),
                        I64(c->deadline_at), STR(r->id), STR(c->step_id), I64(r->depth + 1), STR(c->trigger),
                        STR(c->input), STR(r->traceparent), STR(r->tracestate)));
}

/* Whether its end must be told to children: without a plan nobody knows. */
static bool asks_children(const struct write *w)
{
    return w->final && !w->insert && (w->run->plan->spawns || w->run->root == NULL);
}

/* Most writes do: they take no turn. */
static bool only_sends(const struct write *w)
{
    const struct run *r = w->run;
    bool counts = r->slot.ask || r->slot.key.p != NULL;
    return w->child_count == 0 && w->failure.handler == NULL && r->replays.p == NULL && !counts && !asks_children(w);
}

static bool ends_child(const struct write *w)
{
    return w->final && w->run->parent_step.p != NULL;
}

/* Whether it changes no row but its own run's, so that it may share a transaction with those of other runs. Two transactions of many ends each would change the rows of the same
 * parents in different orders, and wait for each other. */
static bool is_apart(const struct write *w)
{
    return w->abandoned_count == 0 && !ends_child(w);
}

static err write_children(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    for (u32 i = 0; i < w->child_count; i++)
        TRY(insert_child(w, tx, &w->children[i]));
    if (w->failure.handler != NULL)
        TRY(insert_child(w, tx, w->failure.handler));
    for (u32 i = 0; i < w->abandoned_count; i++)
        TRY(db_send(tx, &child_abandon, OK, ARGS(STR(r->tenant_id), STR(w->abandoned[i]), I64(r->last_us))));
    if (!w->final)
        return OK;
    void *list = NULL;
    if (asks_children(w))
        TRY(db_list(tx, &children_cancel, EXECUTION_STEPS_MAX, &list, &w->cancelled_count,
                    ARGS(STR(r->tenant_id), STR(r->id), I64(r->completed_at))));
    w->cancelled = list;
    return OK;
}

/* Before the run's own row: rows are locked from the parent to the child, as by a parent's end, so the two do not wait for each other. */
static err wake_parent(struct write *w, struct tx *tx)
{
    const struct run *r = w->run;
    if (!ends_child(w))
        return OK;
    return db_send(tx, &parent_wake, OK, ARGS(STR(r->tenant_id), STR(r->parent_id), I64(r->completed_at)));
}

static err write_run(struct db_job *job, struct tx *tx)
{
    struct write *w = CONTAINER(job, struct write, job);
    struct run *r = w->run;
    bool was_dead;
    TRY(wake_parent(w, tx));
    TRY(w->insert ? insert_row(w, tx) : update_row(w, tx));
    for (u32 i = 0; i < w->record_count; i++) {
        const struct journal_row *row = &w->records[i];
        TRY(db_send(tx, &journal_upsert, OK,
                    ARGS(STR(r->tenant_id), STR(r->id), STR(row->step_id), STR(row->status), I64(row->attempt),
                         STR(row->attempts), STR(row->input_data), STR(row->output_data), STR(row->error),
                         time_arg(row->started_at), time_arg(row->completed_at), time_arg(row->deadline_at),
                         time_arg(row->due_at), I64(row->iteration))));
    }
    TRY(write_children(w, tx));
    if (w->happening.name != NULL)
        TRY(sinks_record(tx, &w->happening));
    TRY(failure_write(w, tx));
    if (w->insert && r->replays.p != NULL)
        TRY(engine_dead_discard(tx, r->tenant_id, r->replays, &was_dead));
    if (r->slot.ask && !w->final)
        TRY(slots_admit(w, tx));
    else if (w->final && !r->slot.ask && r->slot.key.p != NULL)
        TRY(slots_release(w, tx));
    return w->final && !w->insert ? db_send(tx, &journal_delete, OK, ARGS(STR(r->tenant_id), STR(r->id))) : OK;
}

static void write_done(struct db_job *job, err outcome)
{
    struct write *w = CONTAINER(job, struct write, job);
    w->outcome = outcome;
    worker_post(w->run->worker, &w->run->message);
}

static str text_of(struct arena *a, const struct json *j, bool *failed)
{
    if (j == NULL)
        return STR_NONE;
    str text = json_text(a, j);
    *failed |= text.p == NULL;
    return text;
}

static bool make_record(struct arena *a, const struct step_record *r, struct journal_row *row)
{
    bool failed = false;
    *row = (struct journal_row){
        .step_id = r->step_id,
        .iteration = r->iteration,
        .status = str_of(step_state_names[r->state]),
        .attempt = r->attempt,
        .attempts = r->attempts != NULL ? text_of(a, r->attempts, &failed) : S("[]"),
        .input_data = text_of(a, r->input, &failed),
        .output_data = text_of(a, r->output, &failed),
        .error = text_of(a, r->error, &failed),
        .started_at = r->started_at,
        .completed_at = r->completed_at,
        .deadline_at = r->deadline_at,
        .due_at = r->due_at,
    };
    return !failed;
}

static err make_records(struct arena *a, struct run *r, struct write *w)
{
    u32 count = 0;
    STEPS (r, s)
        count += s->dirty;
    w->records = NEW_N(a, struct journal_row, count);
    if (w->records == NULL)
        return ERR_MEMORY;
    STEPS (r, s)
        if (s->dirty && !make_record(a, &s->record, &w->records[w->record_count++]))
            return ERR_MEMORY;
    return OK;
}

static bool make_child(struct arena *a, struct run *r, struct run_step *s, struct child_row *c)
{
    static const i64 life_us = 30 * DAY_US; /* of one that nobody waits for; its own settings make it shorter */
    static const struct json no_input = { .type = JSON_OBJECT };
    const struct json *input = json_get(s->record.input, S("input"));
    bool failed = false, awaited = run_child_awaited(s);
    i64 now = r->last_us;
    *c =
        (struct child_row){ .step = s,
                            .id = run_child_of(s),
                            .workflow_id = json_str(json_get(s->record.input, S("workflow_id"))),
                            .step_id = awaited ? s->plan->id : STR_NONE,
                            .input = text_of(a, input != NULL ? input : &no_input, &failed),
                            .trigger = strf(a, "{\"type\":\"workflow\",\"execution_id\":\"%.*s\",\"step_id\":\"%.*s\"}",
                                            STR_FMT(r->id), STR_FMT(s->plan->id)),
                            .created_at = now,
                            .deadline_at = awaited ? r->deadline_at : now + life_us };
    return !failed && c->trigger.p != NULL;
}

static err make_children(struct arena *a, struct run *r, struct write *w)
{
    u32 spawns = 0, abandons = 0;
    STEPS (r, s) {
        spawns += s->spawn;
        abandons += s->abandoned.p != NULL;
    }
    w->children = NEW_N(a, struct child_row, spawns);
    w->abandoned = NEW_N(a, str, abandons);
    if (w->children == NULL || w->abandoned == NULL)
        return ERR_MEMORY;
    STEPS (r, s) {
        if (s->spawn && !make_child(a, r, s, &w->children[w->child_count++]))
            return ERR_MEMORY;
        if (s->abandoned.p != NULL)
            w->abandoned[w->abandoned_count++] = s->abandoned;
    }
    return OK;
}

static err make_history(struct arena *a, struct run *r, struct write *w)
{
    struct buf b = { .arena = a };
    struct json_writer jw = { .b = &b };
    jw_begin(&jw, '[');
    if (r->root != NULL)
        frame_write(&jw, r->root, r->thin);
    else /* it could not be read back: what the journal knew */
        for (u32 i = 0; i < r->restored_count; i++)
            record_write(&jw, &r->restored[i]);
    jw_end(&jw, ']');
    TRY(b.fail);
    w->row.step_executions = buf_view(&b);
    return OK;
}

static bool keeps_history(const struct run *r)
{
    return r->plan->save == SAVE_ALL || (r->plan->save == SAVE_ERRORS && r->state != RUN_COMPLETED);
}

/* Ids and states: what a sink needs beside them it reads. */
static str happening_data(struct arena *a, const struct run *r)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    const str words[][2] = { { S("execution_id"), r->id },
                             { S("workflow_id"), r->workflow_id },
                             { S("parent_id"), r->parent_id },
                             { S("status"), str_of(run_state_names[r->state]) },
                             { S("code"), json_str(json_get(&r->error, S("code"))) },
                             { S("step_id"), json_str(json_get(&r->error, S("step_id"))) } };
    jw_begin(&w, '{');
    for (size_t i = 0; i < COUNT(words); i++) {
        jw_key(&w, words[i][0]);
        if (words[i][1].p != NULL && words[i][1].n <= HAPPENING_TEXT_MAX)
            jw_str(&w, words[i][1]);
        else
            jw_null(&w);
    }
    jw_key(&w, S("version"));
    jw_i64(&w, r->version);
    jw_end(&w, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

static err make_happening(struct arena *a, const struct run *r, struct write *w)
{
    static const char *const names[RUN_STATES] = {
        [RUN_COMPLETED] = "execution.completed",
        [RUN_FAILED] = "execution.failed",
        [RUN_CANCELLED] = "execution.cancelled",
        [RUN_TIMED_OUT] = "execution.timed_out",
    };
    if (!sinks_want(names[r->state]))
        return OK;
    w->happening = (struct happening){ .name = names[r->state],
                                       .tenant_id = r->tenant_id,
                                       .object_id = r->id,
                                       .data = happening_data(a, r),
                                       .at_us = r->completed_at };
    return w->happening.data.p != NULL ? OK : ERR_MEMORY;
}

static err make_row(struct arena *a, struct run *r, struct write *w)
{
    bool failed = false;
    w->row.status = str_of(run_state_names[r->state]);
    if (r->root != NULL && r->plan->spawns)
        TRY(make_children(a, r, w));
    if (!w->final)
        return r->root != NULL ? make_records(a, r, w) : OK;
    TRY(make_happening(a, r, w));
    w->responded = r->responded != NULL && r->state == RUN_COMPLETED;
    w->row.output_data = r->state == RUN_COMPLETED && !r->thin ? text_of(a, &r->output, &failed) : STR_NONE;
    w->row.error = r->error.type != JSON_NULL ? text_of(a, &r->error, &failed) : STR_NONE;
    if (failed)
        return ERR_MEMORY;
    TRY(failure_make(a, r, w));
    return keeps_history(r) ? make_history(a, r, w) : OK;
}

err journal_write(struct engine *engine, struct run *r, bool final, i64 due_at,
                  void (*back)(struct worker *w, struct worker_message *m))
{
    assert(!r->writing);
    struct arena *a = arena_new(WRITE_BYTES);
    struct write *w = a != NULL ? NEW(a, struct write) : NULL;
    err e = w != NULL ? OK : ERR_MEMORY;
    if (e == OK) {
        *w = (struct write){ .job = { .run = write_run, .done = write_done, .arena = a },
                             .engine = engine,
                             .run = r,
                             .final = final,
                             .insert = !r->recorded,
                             .term = node_lease_term() };
        w->row.due_at = due_at;
        e = make_row(a, r, w);
    }
    if (e == OK && final)
        e = outcome_prepare(r, w);
    if (e == OK) {
        w->job.tenant = r->tenant_id;
        w->job.loose = only_sends(w); /* the fence stands in the statements */
        w->job.shared = w->job.loose && is_apart(w);
        r->write = w;
        r->writing = true; /* before the writer can answer */
        r->message.run = back;
        e = db_submit(engine->options.db, &w->job);
    }
    if (e != OK) {
        r->write = NULL;
        r->writing = false;
        r->write_bytes = a != NULL ? arena_used(a) : 0;
        arena_free(a);
    }
    return e;
}

/* --- claims and reads --------------------------------------------------------------------------------------------- */

struct claiming {
    i64 now_us, owner;
    u32 max, n;
    struct claim *list;
    const struct claim_turn *turn;
    char last[sizeof((struct claim_turn){ 0 }).tenant_id]; /* where the next turn begins; "" = at the first tenant */
};

static err claim_of_tenant(struct claiming *c, struct tx *tx, str tenant_id, u32 share)
{
    struct claim *list;
    u32 n;
    TRY(db_list(tx, &claim_due_of_tenant, share, (void **)&list, &n,
                ARGS(I64(c->now_us), I64(share), I64(c->owner), STR(tenant_id))));
    for (u32 i = 0; i < n; i++)
        c->list[c->n++] = list[i];
    return OK;
}

/* The next tenants in turn, and of each as many. Behind the last one it begins anew. */
static err claim_in_turn(struct claiming *c, struct tx *tx)
{
    struct due_tenant *tenants;
    u32 n;
    c->n = 0;
    c->list = NEW_N(db_arena(tx), struct claim, c->max);
    if (c->list == NULL)
        return ERR_MEMORY;
    TRY(db_list(tx, &due_tenants, c->max, (void **)&tenants, &n,
                ARGS(I64(c->now_us), STR(str_of(c->turn->tenant_id)), I64(c->max))));
    for (u32 i = 0; i < n; i++)
        TRY(claim_of_tenant(c, tx, tenants[i].tenant_id, MAX(c->max / n, 1u)));
    str last = n == c->max ? tenants[n - 1].tenant_id : STR_NONE;
    snprintf(c->last, sizeof c->last, "%.*s", STR_FMT(last));
    return OK;
}

static err run_claim(void *ctx, struct tx *tx)
{
    struct claiming *c = ctx;
    if (c->turn->crowded)
        return claim_in_turn(c, tx);
    return db_list(tx, &claim_due, c->max, (void **)&c->list, &c->n, ARGS(I64(c->now_us), I64(c->max), I64(c->owner)));
}

err journal_claim(const struct engine *e, struct arena *a, i64 now_us, u32 max, struct claim_turn *turn,
                  struct claim **list, u32 *n)
{
    struct claiming c = { .now_us = now_us, .owner = e->owner, .max = MIN(max, (u32)CLAIM_MAX), .turn = turn };
    TRY(db_write_own(e->options.db, a, run_claim, &c));
    bool from_first = turn->tenant_id[0] == '\0';
    turn->crowded = turn->crowded ? c.n > 0 || !from_first : c.n == c.max; /* a share may be larger than what one has */
    memcpy(turn->tenant_id, c.last, sizeof turn->tenant_id);
    *list = c.list;
    *n = c.n;
    return OK;
}

struct giving_back {
    i64 due_at, owner;
    const struct claim *list;
    u32 n;
};

static err run_give_back(void *ctx, struct tx *tx)
{
    const struct giving_back *g = ctx;
    for (u32 i = 0; i < g->n; i++)
        TRY(db_exec(
            tx, &give_back, NULL,
            ARGS(STR(g->list[i].tenant_id), STR(g->list[i].id), I64(g->list[i].fence), I64(g->due_at), I64(g->owner))));
    return OK;
}

err journal_give_back(const struct engine *e, struct arena *a, i64 due_at, const struct claim *list, u32 n)
{
    struct giving_back g = { due_at, e->owner, list, n };
    return db_write_own(e->options.db, a, run_give_back, &g);
}

err journal_next_due(struct db *db, struct arena *a, i64 *due_at)
{
    struct tx *tx;
    struct due_row row;
    TRY(db_read_begin(db, a, false, &tx));
    err e = db_row(tx, &next_due, &row, NO_ARGS);
    db_read_end(tx);
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    *due_at = e == OK ? row.due_at : INT64_MAX;
    return OK;
}

static err node_of(struct arena *a, str text, const struct json **out)
{
    struct json *j;
    struct json_error where;
    if (text.p == NULL)
        return OK;
    TRY(json_parse(a, text, &j, &where));
    *out = j;
    return OK;
}

static err record_of(struct arena *a, const struct journal_row *row, struct step_record *out)
{
    struct step_record r = { .step_id = row->step_id,
                             .iteration = row->iteration,
                             .state = step_state_of(row->status),
                             .attempt = row->attempt,
                             .started_at = row->started_at,
                             .completed_at = row->completed_at,
                             .deadline_at = row->deadline_at,
                             .due_at = row->due_at };
    TRY(node_of(a, row->attempts, &r.attempts));
    TRY(node_of(a, row->input_data, &r.input));
    TRY(node_of(a, row->output_data, &r.output));
    TRY(node_of(a, row->error, &r.error));
    if (r.attempts != NULL && r.attempts->n == 0)
        r.attempts = NULL;
    *out = r;
    return OK;
}

err journal_read(struct tx *tx, str tenant_id, str execution_id, struct step_record **list, u32 *n)
{
    struct journal_row *rows;
    u32 count;
    TRY(db_list(tx, &journal_select, EXECUTION_STEPS_MAX, (void **)&rows, &count,
                ARGS(STR(tenant_id), STR(execution_id))));
    struct step_record *records = NEW_N(db_arena(tx), struct step_record, count);
    if (records == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < count; i++)
        TRY(record_of(db_arena(tx), &rows[i], &records[i]));
    *list = records;
    *n = count;
    return OK;
}

err journal_resumes(struct tx *tx, str tenant_id, str execution_id, struct resume_row **list, u32 *n)
{
    return db_list(tx, &resume_select, EXECUTION_STEPS_MAX, (void **)list, n, ARGS(STR(tenant_id), STR(execution_id)));
}

err journal_child(struct tx *tx, str tenant_id, str execution_id, struct child_end *end, bool *ended)
{
    struct child_state row;
    err e = db_row(tx, &child_select, &row, ARGS(STR(tenant_id), STR(execution_id)));
    if (e == ERR_NOT_FOUND) {
        *end = (struct child_end){ .status = STR_NONE };
        *ended = true;
        return OK;
    }
    TRY(e);
    struct child_end found = { .status = row.status };
    TRY(node_of(db_arena(tx), row.output_data, &found.output));
    TRY(node_of(db_arena(tx), row.error, &found.error));
    *end = found;
    *ended = execution_is_final(row.status);
    return OK;
}

err journal_ended(struct db *db, struct arena *a, str ids, struct ended_child **list, u32 *n)
{
    struct tx *tx;
    TRY(db_read_begin(db, a, false, &tx));
    err e = db_list(tx, &ended_select, UINT32_MAX, (void **)list, n, ARGS(STR(ids)));
    db_read_end(tx);
    return e;
}

err journal_row_of(struct tx *tx, str tenant_id, str execution_id, struct execution *out)
{
    return db_row(tx, &execution_select, out, ARGS(STR(tenant_id), STR(execution_id)));
}

err journal_row_of_key(struct tx *tx, str tenant_id, str dedup_key, struct execution *out)
{
    return db_row(tx, &execution_select_key, out, ARGS(STR(tenant_id), STR(dedup_key)));
}

err journal_row_aside(struct tx *tx, str tenant_id, str execution_id, str *dedup_body, bool *responded)
{
    struct aside_row row;
    TRY(db_row(tx, &aside_select, &row, ARGS(STR(tenant_id), STR(execution_id))));
    *dedup_body = row.dedup_body;
    *responded = row.responded;
    return OK;
}

err journal_given(struct tx *tx, struct run *r)
{
    struct given_row row;
    TRY(db_row(tx, &given_select, &row, ARGS(STR(r->tenant_id), STR(r->id))));
    r->input_text = row.input_data;
    r->trigger_text = row.trigger_data;
    r->traceparent = row.traceparent;
    r->tracestate = row.tracestate;
    r->cancelling |= row.cancel_at != 0;
    r->killing |= row.kill_at != 0;
    return OK;
}

/* --- what holds at every time, whichever node wrote last: `weir verify` looks for rows that break it ----------------- */

#define FINAL "('completed', 'failed', 'cancelled', 'timed_out')"

INVARIANT(
    final_without_journal, "an execution that has ended has no journal",
    "SELECT e.id AS what FROM executions e JOIN execution_journal j ON j.execution_id = e.id WHERE e.status IN " FINAL);
INVARIANT(final_is_nobodys, "nobody holds an execution that has ended, and nothing wakes it",
          "SELECT id AS what FROM executions WHERE status IN " FINAL
          " AND (due_at IS NOT NULL OR owner IS NOT NULL OR slot_key IS NOT NULL)");
INVARIANT(final_has_its_end, "an execution has an end when it has ended, and only then",
          "SELECT id AS what FROM executions WHERE (status IN " FINAL ") <> (completed_at IS NOT NULL)");
INVARIANT(execution_has_its_version, "the version that an execution runs is there",
          "SELECT e.id AS what FROM executions e WHERE NOT EXISTS (SELECT 1 FROM workflow_versions v"
          " WHERE v.tenant_id = e.tenant_id AND v.workflow_id = e.workflow_id AND v.version = e.version)");
INVARIANT(
    journal_in_its_tenant, "a journal is its execution's tenant's",
    "SELECT e.id AS what FROM executions e JOIN execution_journal j ON j.execution_id = e.id WHERE e.tenant_id <> j.tenant_id");

INVARIANT_JSON(executions_trigger_data, executions, trigger_data, id);
INVARIANT_JSON(executions_input_data, executions, input_data, id);
INVARIANT_JSON(executions_output_data, executions, output_data, id);
INVARIANT_JSON(executions_history, executions, step_executions, id);
INVARIANT_JSON(journal_attempts, execution_journal, attempts, execution_id);
INVARIANT_JSON(journal_input_data, execution_journal, input_data, execution_id);
INVARIANT_JSON(journal_output_data, execution_journal, output_data, execution_id);
INVARIANT_JSON(journal_error, execution_journal, error, execution_id);
INVARIANT_JSON(journal_resume, execution_journal, resume, execution_id);
INVARIANT_JSON(versions_definition, workflow_versions, definition, workflow_id);
