/* clock.h - the only place that asks what time it is. Everything else takes time as a parameter. */
#pragma once

#include "base/base.h"

#include <pthread.h>
#include <time.h>

/* Microseconds since 1970-01-01T00:00:00Z. Never goes backwards within the process, and never stands still: while the wall clock is behind,
 * because it was set back, this one goes at half its speed. */
i64 clock_now_us(void);
/* Microseconds of a clock that no one sets; for durations and deadlines in memory. */
i64 clock_mono_us(void);
/* A condition that waits by that clock (0, or an errno), and a moment so many microseconds from now for pthread_cond_timedwait on it; a time in the past is now. */
int clock_cond_init(pthread_cond_t *cond);
struct timespec clock_in(i64 us);

/* A day of the proleptic Gregorian calendar and its number (1970-01-01 is 0). Pure; years 1 to 9999. */
struct clock_date {
    int year, month, day; /* month and day from 1 */
};
struct clock_date clock_date_of(i64 days);
i64 clock_days_of(struct clock_date date);

/* "2026-11-21T02:40:36.123456Z" (RFC 3339) into out, without NUL. Pure; a time outside of the years 1 to 9999 is clamped. */
enum { CLOCK_TEXT = 27 };
void clock_text(i64 us, char out[CLOCK_TEXT]);
