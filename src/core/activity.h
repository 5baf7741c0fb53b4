/* activity.h - when something was last used, without a write for each use: kept in memory, written at most once a minute and at the end. A read never becomes a
 * write that anybody waits for; after a crash up to a minute is forgotten. */
#pragma once

#include "core/app.h"

enum { ACTIVITY_ID_MAX = 63, ACTIVITY_SETS = 2048, ACTIVITY_WAYS = 8 };
struct activity_entry {
    char id[ACTIVITY_ID_MAX + 1];
    i64 last_us, saved_us;
};
struct activity {
    err (*save)(struct tx *tx, str id, i64 last_us); /* one row, on the writer */
    struct task task;
    _Atomic i64 flushed_us;
    _Atomic bool flushing;
    struct activity_entry entries[ACTIVITY_SETS][ACTIVITY_WAYS]; /* the stalest of a set goes first */
};
/* From any thread. Sets a flush going when the last one was a minute ago. */
void activity_note(struct activity *a, str id, i64 now_us);
/* 0 when it is not remembered (any more). */
i64 activity_last(struct activity *a, str id);
/* What was noted and not yet saved; waits for the writer. */
err activity_flush(struct activity *a) MUST;
