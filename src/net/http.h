/* http.h - the HTTP server: bytes in, whole requests out; replies and streams back. HTTP/1.1 (llhttp) and HTTP/2 (nghttp2), which a client begins by
 * its preface, stand behind the same three structs. Knows nothing of routes, JSON or tenants.
 *
 * Strictness (RFC 9112, and more): exactly one Host, one Content-Length, never beside Transfer-Encoding, CRLF only, no folding,
 * exactly one space around the target, HTTP/1.0 and 1.1 only, no NUL or control bytes in values, origin-form targets (and * for OPTIONS). Every refusal
 * (net/refusal.h lists them) is answered (problem+json made by `refuse`) and closes the connection: shut down, drain, close.
 * Pipelined requests are answered one after the other, in order. HTTP/2 keeps the same rules, but a refusal ends its stream only. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "codec/url.h"
#include "net/loop.h"

enum http_method { GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, HTTP_OTHER, HTTP_METHODS };
/* "GET"; static. */
const char *http_method_name(enum http_method m);
const char *http_reason(int status); /* "Not Found"; static */

struct http_server;
struct http_limits {
    size_t target_bytes; /* 8 KiB  → 414 */
    size_t header_bytes; /* 16 KiB → 431 */
    u32 header_count;    /* 100    → 431 */
    i64 header_us;       /* 10 s from the first byte of a request; also TLS and an empty connection's first request */
    i64 body_us;         /* 30 s + size / 32 KiB/s */
    i64 idle_us;         /* 60 s between requests */
    i64 write_stall_us;  /* 30 s without progress */
    u32 connections;     /* per loop; further ones are closed at accept with 503 */
    size_t stream_high_bytes, stream_low_bytes; /* pause at 256 KiB, resume at 64 KiB */
    size_t arena_bytes; /* 64 MiB: cap of one request's arena, so of its body and its answer together */
};
extern const struct http_limits http_default_limits;

/* One request. Owned by the server until `request` is called, then by the handler until http_reply/http_stream_end/http_drop.
 * Lives on its own arena, which is freed with it. May be handed to other threads whole (arena and all); only the functions below that
 * say so may be called there. */
struct http_request {
    struct arena *arena;
    enum http_method method;
    str method_text;
    str target;           /* as sent */
    str path, query;      /* of the target, not decoded */
    struct pair *headers; /* names in lower case, in order */
    u32 header_count;
    str body;
    str remote; /* "127.0.0.1", "::1": the peer, or the client for whom a trusted proxy speaks (core/forwarded.h) */
    u16 remote_port;
    bool tls; /* the client speaks it, with us or with that proxy */
    bool keep_alive;
    i64 received_mono_us;       /* when its first byte arrived: what a duration is measured from */
    struct loop *loop;          /* where it must be answered */
    void *user;                 /* the handler's, e.g. what `admit` found */
    int refused;                /* set by `admit` to 401, 404, …: the body is not read */
    struct http_stream *stream; /* the server's */
};
/* First value of a header (lower-case name); STR_NONE when absent. Any thread that owns the request. */
str http_header(const struct http_request *rq, str name);
/* Whether a field may be sent: the name is a token (RFC 9110 §5.6.2), the value has no control bytes but tab. */
bool http_field_ok(str name, str value);
/* Whether a Host may look like that. */
bool http_host_ok(str host);
/* Number of times a header is present. */
u32 http_header_count(const struct http_request *rq, str name);

struct http_refusal {
    const struct http_request *request; /* given: what was admitted and then refused (its body); NULL before that */
    struct pair headers[12]; /* Content-Type: application/problem+json stands there already; the handler appends */
    u32 header_count;
    str body; /* "" when there is no memory: the status alone still tells */
};
struct http_handler {
    void *ctx;
    /* The head is complete. Returns the most bytes of body this request may have; or refuses by setting rq->refused to 401, 404, …:
     * `request` is then called at once with an empty body (and the connection closes after the answer when a body was announced).
     * A request may end between the two calls (413, a lost client): what `admit` leaves in rq->user lives on the arena. NULL = 1 MiB for all. */
    size_t (*admit)(void *ctx, struct http_request *rq);
    /* The request is complete. The handler owes exactly one of reply, stream or drop, now or later. */
    void (*request)(void *ctx, struct http_request *rq);
    /* The server refused bytes before a request existed: makes the body (problem+json) for a status and a stable code such as "http.host", "http.header_fields",
     * and headers of the handler's own (a request id). remote is for logs. What is made lives on `a`. */
    void (*refuse)(void *ctx, int status, const char *code, str remote, struct arena *a, struct http_refusal *out);
};

/* Opens a listener on every loop (SO_REUSEPORT after a probe bind without it, so that a taken port fails here). host is an address literal
 * or "localhost" (127.0.0.1). port 0 takes any; http_port() tells. ERR_BUSY when the port is taken, ERR_INVALID for a bad host. Call it before
 * the loops run: their listeners are opened on this thread. */
err http_listen(struct loop **loops, u32 count, str host, u16 port, const struct http_limits *limits,
                const struct http_handler *handler, struct http_server **out) MUST;
/* From its first connection on it speaks TLS, and HTTP/2 to those who ask for it (ALPN). Before the loops run; `t` must outlive the server. */
struct tls;
err http_use_tls(struct http_server *s, struct tls *t) MUST;
u16 http_port(const struct http_server *s);
/* Stop accepting and close idle connections; busy ones close after their answer (Connection: close). From any thread. `drained` is called
 * once, on a loop, when the last connection has gone. */
void http_drain(struct http_server *s, void (*drained)(void *), void *ctx);
/* After the loops stopped, and all threads that hold requests; before loop_free. Requests still held go with it. NULL is allowed. */
void http_free(struct http_server *s);
/* Open connections over all loops, for metrics. Any thread. */
u32 http_connections(const struct http_server *s);

/* Answers on the request's loop: status line, headers as given, Content-Length, Date, Connection; HEAD sends no body. Then the request and its
 * arena are gone. headers and body may live on that arena (a body else as long as the server). A client that has left is not an error. */
void http_reply(struct http_request *rq, int status, const struct pair *headers, size_t count, str body);
/* Closes the connection (HTTP/2: cuts the stream) without an answer; frees the request. */
void http_drop(struct http_request *rq);

/* Streaming (SSE): chunked, nothing buffered beyond stream_high_bytes. Loop thread only. */
struct http_stream_events {
    void (*drain)(void *ctx); /* the buffer fell below stream_low_bytes after http_stream_write returned false */
    void (*closed)(
        void *ctx); /* the client left, or the server drains; no write after this; the handler calls http_stream_end */
    void (*goodbye)(void *ctx);          /* the server drains: say so, and end; NULL: `closed` */
    void (*input)(void *ctx, str bytes); /* of an upgraded connection: what the client sent */
    void *ctx;
};
void http_stream_begin(struct http_request *rq, int status, const struct pair *headers, size_t count,
                       const struct http_stream_events *events);
/* Whether the client may be answered in another protocol than HTTP: on a connection of its own, and not over HTTP/1.0. */
bool http_can_upgrade(const struct http_request *rq);
/* Answers 101 with these headers, Upgrade and Connection among them; from here on it is a stream of bytes as they are, both ways. */
void http_upgrade(struct http_request *rq, const struct pair *headers, size_t count,
                  const struct http_stream_events *events);
/* False: taken, but please wait for `drain`. */
bool http_stream_write(struct http_request *rq, str bytes);
/* Ends the answer and frees the request; to be called exactly once, also after `closed`. */
void http_stream_end(struct http_request *rq);
