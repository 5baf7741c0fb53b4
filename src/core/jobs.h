/* jobs.h - the one durable job queue: rows, claimed in batches, run in the slow pool, retried with back-off, dead after max_attempts. Periodic kinds
 * put themselves back; there is one row of each. */
#pragma once

#include "core/module.h"
#include "db/db.h"

struct job {
    str id, kind, tenant_id, payload; /* payload is JSON */
    i64 attempt, now_us;
    struct arena *arena;
};
struct job_kind {
    const char *name; /* "auth.clean" */
    err (*run)(
        const struct job *
            job); /* slow pool; may use db_write_wait and db_read_begin; retryable errors and ERR_INTERNAL are tried again */
    i64 every_us;         /* periodic: 0 = only when enqueued */
    bool (*wanted)(void); /* periodic: whether there is anything to do here; NULL: always */
    u32 max_attempts;     /* 0 = 5 */
    i64 timeout_us;       /* lease: 0 = 5 minutes */
    const char *doc;
};
/* Inside a write transaction: the job exists when the transaction does. delay_us from now_us. */
err jobs_enqueue(struct tx *tx, struct arena *a, i64 now_us, const char *kind, str tenant_id, str payload,
                 i64 delay_us) MUST;
/* The same, unless a job of this kind and key waits or runs already: *added tells. One that runs may have looked before this transaction, so a kind that
 * must not miss anything looks again at its end. A dead one does not count. Keys are of one kind, over all tenants; at most JOB_KEY_MAX bytes. */
enum { JOB_KEY_MAX = 200 };
err jobs_enqueue_once(struct tx *tx, struct arena *a, i64 now_us, const char *kind, str key, str tenant_id, str payload,
                      i64 delay_us, bool *added) MUST;
err jobs_start(void) MUST; /* after the modules started */
/* No job is claimed or begun after this; one that runs ends in its pool. So: jobs_stop, then pool_free, then db_close. */
void jobs_stop(void);
/* How long to wait after the failed attempt (from 1): 1 s doubling to 1 h, of which the upper half is `random`. Pure. */
i64 jobs_backoff_us(i64 attempt, u64 random);
