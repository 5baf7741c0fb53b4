/* http2.h - HTTP/2 (RFC 9113) on a connection: a session of many exchanges. Private to net.
 *
 * nghttp2 reads and writes frames and keeps HTTP/2's own rules. http2_request.c makes requests of what it reads, http2_reply.c answers,
 * http2.c is the session around them: its turns, its deadlines, its end. */
#pragma once

#include "net/conn.h"
#include "net/http2_guard.h"

#include <nghttp2/nghttp2.h>

enum {
    H2_STREAMS_MAX = 100,   /* open at once: SETTINGS_MAX_CONCURRENT_STREAMS */
    H2_WORK_MAX = 200,      /* requests in work, those whose streams were cut (CVE-2023-44487) included */
    H2_HEAD_FACTOR = 4,     /* fields that are refused are still read, up to 4 * header_bytes */
    H2_OUT_MAX = 256 << 10, /* bytes the socket has not taken: then no frames are made, and none read */
    H2_STREAM_WINDOW = 256 << 10,
    H2_SESSION_WINDOW = 1 << 20,
    H2_COPY_MAX = 16 << 10,  /* an answer as long as that leaves its arena; a longer one keeps it */
    H2_FIELDS_MAX = 96,      /* of an answer */
    H2_FORGET_MAX = 1 << 20, /* bytes of a body that nobody wants any more, read and forgotten */
};

struct http2_session {
    nghttp2_session *frames;
    struct arena *arena; /* this struct */
    struct conn *conn;
    struct http_stream *first; /* exchanges: open ones, and cut ones in work */
    u32 count;
    i64 idle_us; /* since when there is none */
    struct guard guard;
    bool calm;     /* a flood: GOAWAY is under way, nothing more is listened to */
    bool over;     /* GOAWAY has been said, and what is to be sent is the last */
    bool farewell; /* the last GOAWAY has been said, exchanges end */
    i64 warned_us; /* when the last GOAWAY is due, after the first; 0: none has been said */
    bool to_tell;  /* an exchange has been cut, or has room again: its handler must hear of it */
};

/* Once for a server. */
struct http2_shared {
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
};
err http2_shared_new(struct http2_shared *out) MUST;
void http2_shared_free(struct http2_shared *s);

#define H2_FORGET_US (2 * SECOND_US) /* likewise: then the stream is cut */

#define H2_WARNED_US SECOND_US /* a client that is asked to leave has so long to answer the PING behind that */

enum preface { PREFACE_NO, PREFACE_MAYBE, PREFACE_YES };
/* Whether bytes begin a connection as clients with prior knowledge do (RFC 9113 3.4). */
enum preface http2_preface(str bytes);
/* From here on the connection speaks HTTP/2; its preface comes with the first input. Closes it when there is no memory. */
void http2_open(struct conn *c);

/* http2.c */
/* A frame of a kind that can be a flood. */
void http2_charge(struct http2_session *h, enum guard_kind kind);
/* GOAWAY(ENHANCE_YOUR_CALM): this client costs too much. `what` is for the log. */
void http2_flood(struct http2_session *h, const char *what);
/* The client has answered a PING. */
void http2_answered(struct http2_session *h);
/* There may be frames to send: now when a turn runs, else in the next one. */
void http2_wake(struct conn *c);
void http2_cut(struct http_stream *x, u32 error);
/* Out of the session; the caller frees it. */
void http2_detach(struct http_stream *x);

/* http2_request.c */
void http2_set_request_callbacks(nghttp2_session_callbacks *cb);
void http2_refuse(struct http_stream *x, enum refusal why);
/* When the next thing must have happened; INT64_MAX: nothing must. */
i64 http2_due(const struct http_stream *x);
void http2_overdue(struct http_stream *x);

/* http2_reply.c */
void http2_set_reply_callbacks(nghttp2_session_callbacks *cb);
void http2_send_refusal(struct http_stream *x, int status, const struct http_refusal *said);
void http2_reply(struct http_stream *x, int status, const struct pair *headers, size_t count, str body);
void http2_drop(struct http_stream *x);
void http2_begin(struct http_stream *x, int status, const struct pair *headers, size_t count);
void http2_write(struct http_stream *x, str bytes);
void http2_end(struct http_stream *x);
void http2_cut_slow(struct http_stream *x);
size_t http2_unsent(const struct http_stream *x);
