/* http1.h - one HTTP/1.1 request out of bytes. Private to net: knows nothing of sockets.
 *
 * A head is parsed only when it is complete: scanning finds its end and checks what llhttp lets pass; then it is copied once,
 * into the request's arena, and llhttp runs over that copy, so every text of the request points into one block. */
#pragma once

#include "net/http.h"
#include "net/refusal.h"

#include <llhttp.h>

struct http_stream;

/* Where the search for the end of a head stands, between reads. */
struct http1_scan {
    size_t at;     /* start of the first line not yet complete */
    size_t start;  /* of the request line: 2 behind one empty line (RFC 9112 2.2) */
    size_t fields; /* start of the header fields; 0 = the request line is not complete */
    u32 count;     /* header fields so far */
    bool done;     /* `at` is the length of the head */
};

/* What an exchange holds for HTTP/1. */
struct http1_exchange {
    llhttp_t parser;
    bool chunked, head_done;
    bool answer_chunked;
};

enum refusal http1_scan(struct http1_scan *s, str bytes, const struct http_limits *limits);
/* head: of a scan that is done. Fills x->rq but for what the connection knows. */
enum refusal http1_head(struct http_stream *x, const struct http1_scan *s, str head);
/* Feeds the body; *used tells how many bytes belonged to it. x->complete when it has ended. */
enum refusal http1_body(struct http_stream *x, str bytes, size_t *used);
