/* exchange.h - one exchange: a request and its answer, whatever the protocol. Private to net. */
#pragma once

#include "net/http1.h"

struct conn;
struct shard;

/* What an exchange holds for HTTP/2. */
struct http2_exchange {
    i32 id;
    struct http_stream *prev, *next; /* of the session */
    struct buf out;                  /* of the answer's body, from `sent` on still to go */
    str held;                        /* the same of a long one, on the exchange's arena */
    size_t sent, head_bytes;
    u32 field_room;
    str authority;
    i64 begun_us, moved_us; /* its first header; when bytes of the answer last went */
    bool open;              /* the stream: no side has cut it */
    bool headed;            /* the header block is complete */
    bool answered;          /* the handler is through with it; what is in `out` is the rest */
    bool deferred;          /* nghttp2 waits for more of the answer */
};

/* The first object on the request's arena. */
struct http_stream {
    struct http_request rq;
    struct conn *conn; /* NULL once the client has gone */
    struct shard *shard;
    struct http_stream *prev, *next; /* of the shard */
    struct arena_mark mark;          /* behind this struct: what a recycled arena is rewound to */

    size_t body_limit, body_room, body_raw; /* body_raw: with the framing of chunks */
    u64 announced;                          /* Content-Length */
    bool complete, expects_continue, has_body;
    bool http10;
    enum refusal refusal; /* set by a parser callback */

    bool admitted;  /* `admit` has seen it */
    bool delivered; /* the handler owns the request */
    bool streaming, told_closed, wants_drain;
    bool upgraded;
    bool late_posted, ended; /* `late` is under way; the handler has ended the stream meanwhile */
    struct message late;     /* brings `closed` to a stream that was begun after its client had left */
    struct http_stream_events events;

    union {
        struct http1_exchange h1;
        struct http2_exchange h2;
    };
};

/* NULL when there is no memory. */
struct http_stream *exchange_new(struct conn *c) MUST;
void exchange_free(struct http_stream *x);
/* What the connection knows. */
enum refusal exchange_introduce(struct http_stream *x, const struct conn *c, i64 started_us) MUST;
/* The head is good: asks the handler, sets body_limit. */
void exchange_admit(struct http_stream *x);
/* Appends to the body, within body_limit. */
enum refusal exchange_body(struct http_stream *x, str bytes) MUST;
/* The handler's turn. */
void exchange_deliver(struct http_stream *x);
/* The connection has gone. */
void exchange_leave(struct http_stream *x);
