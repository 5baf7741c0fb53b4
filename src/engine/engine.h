/* engine.h - durable execution: start a workflow, wait for its end, take everything up again after a crash.
 *
 * Promises (specification "workflows", 1-6): an answer 2xx means that the execution is on disk; results are recorded exactly once; an execution of pure
 * steps costs one transaction with its whole history; a step that reaches outside is journalled before and after; a waiting execution holds no thread and
 * no memory; after kill -9 it goes on at the last recorded step. */
#pragma once

#include "db/db.h"
#include "engine/definition.h"
#include "engine/plan.h"

struct engine;

/* The row of `executions`, and the published "Execution". Texts of JSON are compact. */
struct execution {
    struct presence has;
    str execution_id, workflow_id;
    i64 version;
    str status; /* queued running waiting completed failed cancelled timed_out */
    str trigger, input_data, output_data, error;
    i64 created_at, started_at, completed_at;
    double execution_time; /* seconds */
    str parent_id;
    str step_executions;
};
extern const struct table execution_table;
extern const struct table step_execution_table, execution_error_table;
bool execution_is_final(str status);

/* Fills step_executions of a row that is not final from its journal, and execution_time; for a final row only the latter. On a read snapshot. `definition` is that of the row's version. */
err execution_complete_row(struct tx *tx, str tenant_id, struct execution *x, struct plan *plan) MUST;

struct engine_options {
    u32 workers;  /* 0 = cores */
    u32 live_max; /* executions in memory at once; 0 = 10,000; above: ERR_BUSY */
    /* The stored definition of a version, with the workflow's name; called with a snapshot of any thread. ERR_NOT_FOUND: it is gone. */
    err (*load)(struct tx *tx, str tenant_id, str workflow_id, i64 version, struct json **definition, str *name);
    /* The present version of a workflow that may run; on the writer. ERR_NOT_FOUND: there is none, it is deleted or not active. */
    err (*present)(struct tx *tx, str tenant_id, str workflow_id, i64 *version);
    i64 tenant_limit;   /* executions of a tenant that may be under way at once; 0 = no limit */
    i64 workflow_limit; /* the same of a workflow that sets none itself; 0 = no limit */
    i64 closing_us;     /* how long engine_close waits for outside calls; 0 = 5 s */
    struct db *db;
    struct loop **loops;
    struct client **clients;
    u32 loop_count;
};
/* Takes over everything that was running, starts the workers and the scheduler. */
err engine_open(const struct engine_options *options, struct engine **out) MUST;
/* Lets live executions reach their next record (`closing_us` at most for outside calls), then stops. The loops must still run. */
void engine_close(struct engine *e);
/* After the loops have stopped: nobody calls it any more. */
void engine_free(struct engine *e);

/* The compiled plan of a version: from the cache, else loaded. One user more (plan_release). ERR_NOT_FOUND, ERR_INVALID (a stored definition that no longer compiles). */
err engine_plan(struct engine *e, struct tx *tx, str tenant_id, str workflow_id, i64 version, struct plan **out) MUST;

/* What a waiting caller is told, once: an execution that is on disk, final or (after engine_tell_now) as it stands; or why there is none. Shared and counted. */
struct outcome {
    _Atomic u32 users;
    struct arena *arena, *run; /* it lives on the first; its texts may on the second */
    err error; /* OK; ERR_INVALID: the idempotency key came with another body; any other: nothing was recorded, unless `unread` (ERR_LIMIT: its workflow has no room for it and
                  does not let it wait) */
    bool unread; /* with an error: there is an execution on disk, but it could not be read for this caller */
    struct execution execution;
    bool has_response; /* a respond step ran */
    i64 response_status;
    str response_headers; /* JSON object of strings */
    str response_body;    /* JSON value */
};
void outcome_release(struct outcome *o);

/* Embed it; `tell` is called exactly once, on any thread, after the commit; it must only hand on (req_resume). The outcome is the waiter's own user: outcome_release. */
struct waiter {
    void (*tell)(struct waiter *w, struct outcome *o);
    struct waiter *next; /* the engine's */
    bool joined;         /* set by the engine: an earlier execution held the idempotency key, and this is its outcome */
};

struct start {
    struct plan *plan; /* taken over: the engine releases it, also on failure */
    str input_data;    /* JSON text of an object; STR_NONE with `replays`: the same as there */
    str trigger;       /* JSON text: {"type":"manual"|"webhook", …} without the body */
    str parent_id;
    str dedup_key;  /* STR_NONE, or hash of tenant + caller + route + Idempotency-Key */
    str dedup_body; /* hash of the body that came with it */
    str traceparent; /* trace of the request that began it (core/trace.h), STR_NONE for none: what its steps send out goes on with it */
    str tracestate; /* what came with it, STR_NONE for nothing */
    i64 now_us;
    bool detached; /* tell as soon as it is on disk (queued), not at its end */
    /* An earlier execution of the same plan that has ended, to be played again: what ended there well (completed, skipped, or failed where the definition goes on
     * after that) keeps its recorded result, except `replay_from` and all that follows from it; the rest runs. The results are journalled with the
     * admission, in one transaction. A retry is the same without `replay_from`. Both are new executions: a final row stays what people, listeners and idempotency
     * keys were told, and reopening it would need its journal, its events and its counts back. */
    str replays, replay_from;
};
/* Copies what it needs; waiter may not be NULL. ERR_BUSY: too many live executions (the waiter is not told). *execution_id on the arena `a`. */
err engine_start(struct engine *e, struct arena *a, const struct start *start, struct waiter *waiter,
                 str *execution_id) MUST;
/* The caller has waited enough: it is told soon, with the execution as it stands, once that is on disk. Harmless when it has been told already. */
void engine_tell_now(struct engine *e, str tenant_id, str execution_id, struct waiter *waiter);

/* Asks for the end of an execution, on the writer, within the caller's transaction. ERR_NOT_FOUND: there is none, or it has ended. *first: nobody had asked. After
 * the commit engine_cancel tells its worker; whoever takes it up after a crash in between finds the request in the row. Outgoing calls and awaited children are cancelled, the
 * history stays, those who wait for it are told; an end that is being written at this moment wins. */
err engine_cancel_ask(struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first) MUST;
void engine_cancel(struct engine *e, str execution_id);
/* The same, but the end is written at once: nothing waits for outgoing calls to come back, and nothing that they bring is recorded. Also of one whose
 * cancellation is under way. Children that it waits for are killed too. */
err engine_kill_ask(struct tx *tx, str tenant_id, str execution_id, i64 now_us, bool *first) MUST;
void engine_kill(struct engine *e, str execution_id);

/* Answers a step that waits for a person, as cancelling is asked for: in the caller's transaction, and engine_resume after it. `answer` is JSON: {"action": "complete",
 * "data": …} gives its output, "retry" makes one more attempt, "fail" with a "message" ends it. ERR_NOT_FOUND: no execution, or it has ended or is about to;
 * ERR_CONFLICT: the step does not wait for a person, or has been answered. */
struct resume_step {
    str id;
    i64 items[FOREACH_DEPTH_MAX]; /* when foreach steps are around it: the indexes of their items, outermost first */
    u32 depth;
};
err engine_resume_ask(struct tx *tx, str tenant_id, str execution_id, const struct resume_step *step, str answer,
                      i64 now_us) MUST;
void engine_resume(struct engine *e, str execution_id);

/* Dead letters: executions that failed for good, until somebody retries or discards them. Both on the writer, within the caller's transaction; *done: it was one. A retry is a
 * new execution that takes over what ended well, as with start.replays; *done = false also when its history was not kept or its workflow does not run. After the commit
 * engine_dead_retried. A retry by start.replays ends the dead letter too. */
struct dead_retry {
    str tenant_id, execution_id, new_id;
    str trigger; /* JSON text */
    i64 now_us;
};
err engine_dead_retry(struct engine *e, struct tx *tx, const struct dead_retry *retry, bool *done) MUST;
err engine_dead_discard(struct tx *tx, str tenant_id, str execution_id, bool *done) MUST;
void engine_dead_retried(struct engine *e, u32 count, i64 now_us);

struct engine_stats {
    u32 live, queued; /* in memory; of these, waiting for their worker to take them */
    u64 started, completed, failed;
};
struct engine_stats engine_stats(struct engine *e);

/* Event name, id and data of what happened to an execution, oldest first: for GET /executions/{id}/events. Live events carry the same ids on topic "execution", key = execution id. */
struct execution_event {
    str id, name, data;
};
err execution_events(struct arena *a, const struct execution *x, struct execution_event **list, u32 *n) MUST;
/* <0, 0, >0: order of event ids; an id that is none sorts first. */
int execution_event_cmp(str a, str b);
