/* clock.h - the only place that asks what time it is. Everything else takes time as a parameter. */
#pragma once

#include "base/base.h"

/* Microseconds since 1970-01-01T00:00:00Z. Never goes backwards within the process (a step back is absorbed). */
i64 clock_now_us(void);
/* Microseconds of a clock that no one sets; for durations and deadlines in memory. */
i64 clock_mono_us(void);
