/* trace.h - W3C trace context: which trace a request belongs to, and what the calls that it causes pass on. */
#pragma once

#include "codec/field.h"

enum { TRACE_TEXT = 55, TRACE_ID = 32, TRACE_STATE_MAX = 512 };

/* Whether a traceparent is well formed: lower-case hex, not all zeros, and of a version that we can read the front of. */
bool trace_valid(str traceparent);
/* A traceparent of our own: a new span of the given trace, or of a new one when there is none (or not exactly one) or it is wrong. STR_NONE
 * only when out of memory. */
str trace_next(struct arena *a, str given, u32 count) MUST;
/* Another span of the same trace, derived from `seed`: the same call has the same span when it is made again. STR_NONE only when out of memory. */
str trace_span(struct arena *a, str traceparent, str seed) MUST;
/* What vendors keep beside a traceparent: the tracestate headers as one, in their order. Members that do not fit into TRACE_STATE_MAX are left out whole, from the
 * end. STR_NONE when there is none, or none that may be sent on. */
str trace_state(struct arena *a, const struct pair *headers, u32 count) MUST;
/* Its trace id, for logs. */
str trace_id(str traceparent);
