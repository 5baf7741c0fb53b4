/* clock.c - two clocks of the kernel, and the calendar by arithmetic.
 *
 * The calendar stands in base because the log needs it; gmtime() was rejected: it takes a lock and reads the environment. */
#include "base/clock.h"
#include "base/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { DAYS_PER_ERA = 146097 /* 400 years */, DAYS_TO_1970 = 719468 /* from 0000-03-01 */ };

static i64 read_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * SECOND_US + t.tv_nsec / 1000;
}

/* The wall clock was set back. Standing still until it has caught up was rejected: after a step of an hour no delay and no retry
 * would end for an hour. So time goes on at half its speed from where it was, which is never backwards and meets the wall clock again. */
static i64 slowed_us(i64 latest)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static i64 from, from_mono;
    pthread_mutex_lock(&lock);
    i64 mono = read_us(CLOCK_MONOTONIC), now = from + (mono - from_mono) / 2;
    if (now < latest) { /* the first time, or again after the clocks had met */
        now = from = latest;
        from_mono = mono;
    }
    pthread_mutex_unlock(&lock);
    return now;
}

i64 clock_now_us(void)
{
    static const i64 steps_us = 1000; /* less is another thread's newer look at the clock */
    static _Atomic i64 latest;        /* what makes it monotonic across threads */
    i64 now = read_us(CLOCK_REALTIME) + fault_clock_shift();
    i64 seen = atomic_load_explicit(&latest, memory_order_relaxed);
    if (now < seen - steps_us)
        now = slowed_us(seen);
    while (now > seen)
        if (atomic_compare_exchange_weak_explicit(&latest, &seen, now, memory_order_relaxed, memory_order_relaxed))
            return now;
    return seen;
}

i64 clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int clock_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc != 0)
        return rc;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return rc;
}

struct timespec clock_in(i64 us)
{
    i64 at = clock_mono_us() + MAX(us, 0);
    return (struct timespec){ .tv_sec = at / SECOND_US, .tv_nsec = at % SECOND_US * 1000 };
}

/* Years begin in March here, so that the leap day is the last of its year and months have a regular length:
 * (153 * m + 2) / 5 days lie before month m. */
struct clock_date clock_date_of(i64 days)
{
    i64 shifted = days + DAYS_TO_1970;
    i64 era = (shifted >= 0 ? shifted : shifted - (DAYS_PER_ERA - 1)) / DAYS_PER_ERA;
    i64 day = shifted - era * DAYS_PER_ERA;
    i64 year = (day - day / 1460 + day / 36524 - day / (DAYS_PER_ERA - 1)) / 365;
    i64 day_of_year = day - (365 * year + year / 4 - year / 100);
    i64 month = (5 * day_of_year + 2) / 153;
    struct clock_date date = { .day = (int)(day_of_year - (153 * month + 2) / 5 + 1),
                               .month = (int)(month < 10 ? month + 3 : month - 9) };
    date.year = (int)(era * 400 + year + (date.month <= 2));
    return date;
}

i64 clock_days_of(struct clock_date date)
{
    i64 year = date.year - (date.month <= 2);
    i64 era = (year >= 0 ? year : year - 399) / 400;
    i64 of_era = year - era * 400;
    i64 month = date.month > 2 ? date.month - 3 : date.month + 9;
    i64 day_of_year = (153 * month + 2) / 5 + date.day - 1;
    return era * DAYS_PER_ERA + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - DAYS_TO_1970;
}

static char *put_digits(char *to, i64 value, int width)
{
    for (int i = width; i-- > 0; value /= 10)
        to[i] = (char)('0' + value % 10);
    return to + width;
}

void clock_text(i64 us, char out[CLOCK_TEXT])
{
    const i64 first = clock_days_of((struct clock_date){ 1, 1, 1 }) * DAY_US;
    const i64 last = clock_days_of((struct clock_date){ 9999, 12, 31 }) * DAY_US + DAY_US - 1;
    us = us < first ? first : MIN(us, last);
    i64 days = us / DAY_US - (us % DAY_US < 0);
    i64 rest = us - days * DAY_US;
    struct clock_date date = clock_date_of(days);
    const struct {
        i64 value;
        int width;
        char after;
    } parts[] = {
        { date.year, 4, '-' },
        { date.month, 2, '-' },
        { date.day, 2, 'T' },
        { rest / HOUR_US, 2, ':' },
        { rest / MINUTE_US % 60, 2, ':' },
        { rest / SECOND_US % 60, 2, '.' },
        { rest % SECOND_US, 6, 'Z' },
    };
    for (size_t i = 0; i < COUNT(parts); i++) {
        out = put_digits(out, parts[i].value, parts[i].width);
        *out++ = parts[i].after;
    }
}
