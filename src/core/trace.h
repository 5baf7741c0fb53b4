/* trace.h - W3C trace context: which trace a request belongs to, and what the calls that it causes pass on. */
#pragma once

#include "base/str.h"

enum { TRACE_TEXT = 55, TRACE_ID = 32 };

/* Whether a traceparent is well formed: lower-case hex, not all zeros, and of a version that we can read the front of. */
bool trace_valid(str traceparent);
/* A traceparent of our own: a new span of the given trace, or of a new one when there is none (or not exactly one) or it is wrong. STR_NONE
 * only when out of memory. */
str trace_next(struct arena *a, str given, u32 count) MUST;
/* Its trace id, for logs. */
str trace_id(str traceparent);
