/* time.h - RFC 3339 times and HTTP dates as epoch microseconds. Pure: never asks the clock. */
#pragma once

#include "base/buf.h"

/* "2026-11-21T02:40:36.123456Z": always UTC, always six digits. */
void time_put(struct buf *b, i64 us);
str time_text(struct arena *a, i64 us);
/* RFC 3339 with 'T' or 't' or a space, any fraction (cut to microseconds), 'Z' or an offset; leap second 60 becomes 59.999999.
 * Years 0001 to 9999. */
bool time_parse(str s, i64 *us);
/* IMF-fixdate (RFC 9110 §5.6.7), for Date, Retry-After, Last-Modified. */
str time_http(struct arena *a, i64 us);
bool time_http_parse(str s, i64 *us);
