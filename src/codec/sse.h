/* sse.h - reads a stream of server-sent events piece by piece, as the HTML standard says (WHATWG, "Interpreting an event stream"): what an upstream
 * that streams its answer sends. Core's stream.c writes such streams; this is the other side, for whoever relays one.
 *
 * Bytes may be cut anywhere: the same events come out. Bytes that are no UTF-8 become U+FFFD, as in a browser. What has not been ended by an empty line when
 * the stream ends is no event, so there is nothing to call at the end. */
#pragma once

#include "base/buf.h"

/* Bytes; passing one ends the reading: an upstream that sends a line without end is not waited for. */
enum { SSE_LINE_MAX = 1 << 20, SSE_DATA_MAX = 1 << 20 };

struct sse_event {
    str type; /* "message" when the stream names none */
    str data; /* its lines, joined by LF */
    str id;   /* the last one that the stream has given, with this event or before; "" = none */
};
/* The event lives until the function returns. Anything but OK ends the reading. */
typedef err sse_fn(void *ctx, const struct sse_event *event);

struct sse {
    sse_fn *fn;
    void *ctx;
    i64 retry_ms; /* after which the stream wants to be asked again; -1 = it has not said */
    /* the reader's own: */
    struct buf line, text, data, type, id;
    bool begun;   /* the first line is read: a byte order mark counts there only */
    bool skip_lf; /* the last byte was a CR, which an LF belongs to */
    err fail;
};
/* What it keeps lives on `a`: some times the bounds at most, since what grows is copied, and a bad byte becomes three. */
void sse_init(struct sse *s, struct arena *a, sse_fn *fn, void *ctx);
/* Calls fn for each event that these bytes complete. ERR_TOO_LARGE, ERR_MEMORY, or what fn returned; then the same for every further call. */
err sse_read(struct sse *s, str bytes) MUST;
