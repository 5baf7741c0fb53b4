/* stream.h - server-sent events (WHATWG HTML §9.2) for W_STREAM handlers: id, event, data; a comment each 15 s; bounded; a gone client ends it. */
#pragma once

#include "core/req.h"

struct stream;
/* Starts the answer. `closed` is called once when the client leaves, falls too far behind or the server drains; after it the stream is gone. Returns NULL when out of memory
 * (the request is then still to be answered). */
struct stream *stream_begin(struct req *rq, void (*closed)(void *ctx), void *ctx) MUST;
void stream_event(struct stream *s, str id, str event, str data);
void stream_end(struct stream *s); /* after the final event; `closed` is not called */
