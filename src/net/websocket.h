/* websocket.h - RFC 6455 for a server that talks and a client that listens: frames out of messages, and what the client's frames mean. Knows
 * no socket: bytes come in by websocket_input and go out by `send`.
 *
 * A client may send control frames only: a message ends the connection (1003, or 1009 when it is larger than 4 KiB), frames without a mask
 * or otherwise against the protocol do (1002). Pings are answered. */
#pragma once

#include "net/http.h"

enum { WEBSOCKET_MESSAGE_MAX = 4 << 10 };
/* RFC 6455, 7.4.1, and the registry that it begins (1013: try again later). */
enum websocket_code { WEBSOCKET_NORMAL = 1000, WEBSOCKET_AWAY = 1001, WEBSOCKET_POLICY = 1008, WEBSOCKET_AGAIN = 1013 };

/* Whether the request asks for it, well or badly. */
bool websocket_asked(const struct http_request *rq);
/* The value of Sec-WebSocket-Accept. ERR_DECODE: *complaint says what the request lacks. */
err websocket_accept(const struct http_request *rq, struct arena *a, str *accept, const char **complaint) MUST;

struct websocket;
/* On the arena. `send` may be called inside of every function below. */
err websocket_new(struct arena *a, void (*send)(void *ctx, str bytes), void *ctx, struct websocket **out) MUST;
/* False: Close has been said, by whichever side; the connection is over. */
bool websocket_input(struct websocket *w, str bytes) MUST;
err websocket_text(struct websocket *w, str text) MUST;
void websocket_ping(struct websocket *w);
/* Nothing may be said behind it. */
void websocket_close(struct websocket *w, enum websocket_code code);
