/* stream.h - events for W_STREAM handlers, as server-sent events (WHATWG HTML §9.2), or to a client that asks for an upgrade as messages
 * {id, event, data} of a WebSocket (RFC 6455). A comment or a ping each 15 s; bounded; a gone client ends it. */
#pragma once

#include "core/req.h"

struct stream;
/* Starts the answer. `closed` is called once when the client leaves, falls too far behind or the server drains; after it the stream is gone. Unless OK (no memory; a
 * handshake that is refused) the request is still to be answered. */
err stream_begin(struct req *rq, void (*closed)(void *ctx), void *ctx, struct stream **out) MUST;
/* data: JSON. */
void stream_event(struct stream *s, str id, str event, str data);
void stream_end(struct stream *s);   /* after the final event; `closed` is not called */
void stream_break(struct stream *s); /* the same before it: the client may come back, and go on from there */
