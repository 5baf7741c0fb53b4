/* time.c - reading and writing times; the calendar itself is in base/clock.c.
 *
 * An HTTP date is accepted only when writing it again gives the same text: one comparison refuses wrong weekdays, 31 April and
 * every other way of being nearly right. */
#include "codec/time.h"
#include "base/clock.h"

#include <string.h>

enum { HTTP_DATE = 29, FIRST_YEAR = 1, LAST_YEAR = 9999 };

static const char *const weekdays[] = { "Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed" }; /* from 1970-01-01 */
static const char *const months[] = {
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
};

void time_put(struct buf *b, i64 us)
{
    if (buf_room(b, CLOCK_TEXT)) {
        clock_text(us, b->p + b->n);
        b->n += CLOCK_TEXT;
    }
}

str time_text(struct arena *a, i64 us)
{
    char *p = arena_alloc(a, CLOCK_TEXT);
    if (p == NULL)
        return STR_NONE;
    clock_text(us, p);
    return (str){ p, CLOCK_TEXT };
}

/* ---- RFC 3339 ---- */

/* A cursor whose first failure sticks. */
struct reader {
    str rest;
    bool ok;
};

static int digits(struct reader *r, size_t width, int min, int max)
{
    i64 value = min;
    r->ok =
        r->ok && r->rest.n >= width && r->rest.p[0] != '-' && str_i64(str_slice(r->rest, 0, width), min, max, &value);
    r->rest = str_slice(r->rest, width, r->rest.n);
    return (int)value;
}

/* The next character when it is one of `set`, else 0 and failure. */
static char one_of(struct reader *r, const char *set)
{
    char c = r->rest.n > 0 ? r->rest.p[0] : 0;
    r->ok = r->ok && c != 0 && strchr(set, c) != NULL;
    r->rest = str_slice(r->rest, 1, r->rest.n);
    return r->ok ? c : 0;
}

static i64 fraction_us(struct reader *r)
{
    if (r->rest.n == 0 || r->rest.p[0] != '.')
        return 0;
    i64 us = 0, unit = SECOND_US / 10;
    size_t i = 1;
    for (; i < r->rest.n && r->rest.p[i] >= '0' && r->rest.p[i] <= '9'; i++, unit /= 10)
        us += (r->rest.p[i] - '0') * unit;
    r->ok = r->ok && i > 1;
    r->rest = str_slice(r->rest, i, r->rest.n);
    return us;
}

static i64 offset_us(struct reader *r)
{
    char sign = one_of(r, "Zz+-");
    if (sign == 'Z' || sign == 'z' || !r->ok)
        return 0;
    i64 us = digits(r, 2, 0, 23) * HOUR_US;
    one_of(r, ":");
    us += digits(r, 2, 0, 59) * MINUTE_US;
    return sign == '-' ? -us : us;
}

static bool date_exists(struct clock_date d)
{
    struct clock_date back = clock_date_of(clock_days_of(d));
    return back.month == d.month && back.day == d.day;
}

bool time_parse(str s, i64 *us)
{
    struct reader r = { s, true };
    struct clock_date date;
    date.year = digits(&r, 4, FIRST_YEAR, LAST_YEAR);
    one_of(&r, "-");
    date.month = digits(&r, 2, 1, 12);
    one_of(&r, "-");
    date.day = digits(&r, 2, 1, 31);
    one_of(&r, "Tt ");
    i64 hour = digits(&r, 2, 0, 23);
    one_of(&r, ":");
    i64 minute = digits(&r, 2, 0, 59);
    one_of(&r, ":");
    i64 second = digits(&r, 2, 0, 60);
    i64 fraction = fraction_us(&r);
    i64 offset = offset_us(&r);
    if (!r.ok || r.rest.n != 0 || !date_exists(date))
        return false;
    i64 of_minute = second == 60 ? MINUTE_US - 1 : second * SECOND_US + fraction;
    i64 value = clock_days_of(date) * DAY_US + hour * HOUR_US + minute * MINUTE_US + of_minute - offset;
    const i64 first = clock_days_of((struct clock_date){ FIRST_YEAR, 1, 1 }) * DAY_US;
    const i64 end = clock_days_of((struct clock_date){ LAST_YEAR + 1, 1, 1 }) * DAY_US;
    if (value < first || value >= end) /* an offset may lead out of the years that can be written again */
        return false;
    *us = value;
    return true;
}

/* ---- HTTP ---- */

str time_http(struct arena *a, i64 us)
{
    i64 days = us / DAY_US - (us % DAY_US < 0), rest = us - days * DAY_US;
    struct clock_date d = clock_date_of(days);
    return strf(a, "%s, %02d %s %04d %02d:%02d:%02d GMT", weekdays[(days % 7 + 7) % 7], d.day, months[d.month - 1],
                d.year, (int)(rest / HOUR_US), (int)(rest / MINUTE_US % 60), (int)(rest / SECOND_US % 60));
}

static int month_number(str name)
{
    for (int i = 0; i < 12; i++)
        if (str_eq(name, str_of(months[i])))
            return i + 1;
    return 0;
}

bool time_http_parse(str s, i64 *us)
{
    i64 day, year, hour, minute, second;
    if (s.n != HTTP_DATE)
        return false;
    int month = month_number(str_slice(s, 8, 11));
    if (month == 0 || !str_i64(str_slice(s, 5, 7), 1, 31, &day) ||
        !str_i64(str_slice(s, 12, 16), FIRST_YEAR, LAST_YEAR, &year) || !str_i64(str_slice(s, 17, 19), 0, 23, &hour) ||
        !str_i64(str_slice(s, 20, 22), 0, 59, &minute) || !str_i64(str_slice(s, 23, 25), 0, 59, &second))
        return false;
    struct arena *a = arena_new(1 * KIB);
    if (a == NULL)
        return false;
    struct clock_date date = { (int)year, month, (int)day };
    i64 value = clock_days_of(date) * DAY_US + hour * HOUR_US + minute * MINUTE_US + second * SECOND_US;
    bool same = str_eq(time_http(a, value), s);
    arena_free(a);
    if (same)
        *us = value;
    return same;
}
