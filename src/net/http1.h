/* http1.h - one HTTP/1.1 request out of bytes. Private to net: knows nothing of sockets.
 *
 * A head is parsed only when it is complete: scanning finds its end and checks what llhttp lets pass; then it is copied once,
 * into the request's arena, and llhttp runs over that copy, so every text of the request points into one block. */
#pragma once

#include "net/http.h"
#include "net/refusal.h"

#include <llhttp.h>

struct conn;
struct shard;

/* Where the search for the end of a head stands, between reads. */
struct http1_scan {
    size_t at;     /* start of the first line not yet complete */
    size_t start;  /* of the request line: 2 behind one empty line (RFC 9112 2.2) */
    size_t fields; /* start of the header fields; 0 = the request line is not complete */
    u32 count;     /* header fields so far */
    bool done;     /* `at` is the length of the head */
};

/* One exchange: a request and its answer; the first object on the request's arena. */
struct http_stream {
    struct http_request rq;
    struct conn *conn; /* NULL once the client has gone */
    struct shard *shard;
    struct http_stream *prev, *next; /* of the shard */
    struct arena_mark mark;          /* behind this struct: what a recycled arena is rewound to */

    llhttp_t parser;
    size_t body_limit, body_room, body_raw; /* body_raw: with the framing of chunks */
    u64 announced;                          /* Content-Length */
    enum refusal refusal;                   /* set by a parser callback */
    bool chunked, complete, head_done;
    bool http10, expects_continue, has_body;

    bool admitted;  /* `admit` has seen it */
    bool delivered; /* the handler owns the request */
    bool streaming, answer_chunked, told_closed, wants_drain;
    bool late_posted, ended; /* `late` is under way; the handler has ended the stream meanwhile */
    struct message late;     /* brings `closed` to a stream that was begun after its client had left */
    struct http_stream_events events;
};

enum refusal http1_scan(struct http1_scan *s, str bytes, const struct http_limits *limits);
/* head: of a scan that is done. Fills x->rq but for what the connection knows. */
enum refusal http1_head(struct http_stream *x, const struct http1_scan *s, str head);
/* Feeds the body; *used tells how many bytes belonged to it. x->complete when it has ended. */
enum refusal http1_body(struct http_stream *x, str bytes, size_t *used);
