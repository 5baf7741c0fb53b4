/* executions_parts.h - what the files of this folder share, and nobody else includes. */
#pragma once

#include "feat/executions/executions.h"

/* A row of the caller's tenant with its steps, as far as they are. The problem is recorded when there is none. */
err execution_find(struct req *rq, struct tx *tx, str id, struct execution *out) MUST;

/* The same without the row. */
err execution_exists(struct req *rq, struct tx *tx, str id) MUST;

/* executions_events.c */
handler_fn execution_stream;
extern const struct table events_query_table;

/* executions_control.c */
handler_fn prepare_end, execution_cancel, execution_kill, prepare_resume, execution_resume, execution_retry,
    execution_replay;
extern const struct table resume_table, replay_table, replay_query_table;
extern const struct problem execution_final, execution_not_waiting, execution_not_final, execution_not_failed,
    execution_no_history, execution_inactive;
extern const struct problem execution_not_found; /* executions.c */

/* ---- executions_quota.c ---- */

/* Counts one execution of the tenant. ERR_LIMIT: it has begun `most` that day. ERR_BUSY: the row could not be looked at, or too many tenants begin some at once. */
err quota_take(struct tx *tx, str tenant_id, i64 most, i64 now_us) MUST;
/* It did not begin after all. From any thread. */
void quota_give_back(str tenant_id, i64 now_us);
/* For a call that is about to begin one: counts it, or answers. */
err quota_admit(struct execution_call *call, const struct start *start) MUST;
/* Adds what was counted to the rows; for the thread and for tests. */
err quota_flush(void) MUST;
err quota_start(void) MUST;
void quota_stop(void);
err quota_clean(struct tx *tx, i64 now_us) MUST;
