/* limit.h - token buckets in memory (one node; shared stores come later): so many per window, per key. */
#pragma once

#include "base/str.h"

/* Takes one from the bucket `key`, which refills at `per_second` up to `burst`. OK, or ERR_LIMIT with *retry_after_ms. At most 65,536 keys are remembered; the
 * stalest goes first. Any thread. */
err limit_take(str key, double per_second, double burst, i64 now_us, i64 *retry_after_ms) MUST;
void limit_free(void);
