/* conn.h - one connection and its loop's share of the server. Private to net.
 *
 * conn.c moves bytes and watches time; a `struct protocol` makes requests of the bytes and bytes of the answers. What all of them share is
 * the exchange (exchange.h) and the end: any state → LINGER → CLOSED, since closing with unread bytes makes the kernel send a
 * reset that overtakes the answer. */
#pragma once

#include "net/exchange.h"
#include "net/tls_conn.h"

#include <stdatomic.h>

struct http2_session;
struct http2_shared;
struct bio_method_st;

enum {
    READ_BYTES = 64 << 10,    /* per loop, for one read(2) */
    IN_MAX = 64 << 10,        /* unread bytes kept while a request is being answered; then reading pauses */
    CORK_MAX = 64 << 10,      /* answers gathered into one write */
    LINGER_MAX = 16 << 20,    /* bytes read and forgotten behind the last answer */
    SPARE_CONNS = 64,         /* beyond limits.connections: to be told 503 */
    STREAM_HARD_FACTOR = 4,   /* a stream whose handler ignores back-pressure is cut at 4 * stream_high_bytes */
    SCRATCH_MAX = 256 << 10,  /* a shard's scratch that has grown beyond is given back */
    REFUSAL_BYTES = 64 << 10, /* of what the handler may say to a refusal */
};
#define LINGER_US (5 * SECOND_US)

/* HTTP/1: HEAD → BODY → BUSY → (FLUSH) → HEAD …, a request is read, handed over, answered, flushed; BUSY → STREAM → (FLUSH), an answer in parts.
 * HTTP/2: SESSION all the time; its exchanges have states of their own. */
enum conn_state { CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_STREAM, CONN_FLUSH, CONN_SESSION, CONN_LINGER, CONN_CLOSED };

/* How a connection speaks. All run on its loop; `input` and `again` may close the connection, none frees it. */
struct protocol {
    void (*input)(struct conn *c, str bytes); /* bytes are the loop's: what is not used must be copied */
    void (*input_end)(struct conn *c);
    void (*written)(struct conn *c); /* what waited for the socket has gone */
    void (*again)(struct conn *c);   /* of conn_again() */
    void (*overdue)(struct conn *c);
    void (*drain)(struct conn *c);
    void (*leave)(struct conn *c); /* the connection has gone: let go of its exchanges */
    /* Answers: of a request that is delivered and whose client can still be reached. */
    void (*reply)(struct http_stream *x, int status, const struct pair *headers, size_t count, str body);
    void (*drop)(struct http_stream *x);
    void (*begin)(struct http_stream *x, int status, const struct pair *headers, size_t count);
    void (*write)(struct http_stream *x, str bytes);
    void (*end)(struct http_stream *x);
    void (*cut)(struct http_stream *x); /* the handler ignores back-pressure; `closed` follows, in a later turn */
    size_t (*unsent)(const struct http_stream *x);
};
extern const struct protocol protocol_http1, protocol_http2;

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct loop_timer timer; /* armed lazily: may fire before deadline_us, and is then set again */
    struct message again;
    struct shard *shard;
    const struct protocol *speaks;
    struct conn *prev, *next;
    struct http_stream *exchange; /* HTTP/1: the one that is read or answered */
    struct http1_scan scan;
    struct http2_session *session; /* HTTP/2 */
    struct tls_link tls;
    struct buf in;     /* unread; empty when idle */
    struct buf out;    /* to be written after `flight` */
    struct buf flight; /* being written by libuv */
    i64 deadline_us;   /* INT64_MAX = none */
    i64 started_us;    /* first byte of the head, or start of the body; 0 = nothing has come */
    i64 stall_due_us;  /* while writing */
    size_t stalled;    /* bytes libuv held when stall_due_us was set: fewer now is progress */
    size_t discarded;
    enum conn_state state;
    bool reading, eof, writing, again_posted;
    bool turning; /* inside of a turn of its protocol */
    bool corked;  /* more requests are at hand: gather the answers */
    bool closing; /* what is being flushed is the last answer */
    bool fresh;   /* nothing has been read that would tell its protocol */
    bool is_head; /* HTTP/1: the request being read, perhaps refused, is a HEAD */
    bool asked;   /* HTTP/1: a half-closed client was sent something, to see whether it still is there */
    bool gone;    /* closed, but `again` is still posted */
    u8 remote_n;
    u16 remote_port;
    char remote[INET6_ADDRSTRLEN];
};

/* What one loop holds of a server. */
struct shard {
    uv_tcp_t listener;
    struct http_server *server;
    struct loop *loop;
    struct message drain;
    struct arena *arena; /* of the conns: taken once, then recycled */
    struct conn *conns, *free_conns;
    struct http_stream *exchanges;
    struct http_stream *spare; /* one exchange with its arena's first chunk, so that a request costs no malloc */
    struct buf scratch;        /* where what is sent at once is put together */
    char *read_buffer;
    char *plain_buffer, *seal_buffer; /* TLS: what was opened, what is to be sealed */
    struct handshakes handshakes;
    i64 date_until_us;
    char date[64]; /* "date: …\r\n" */
    u32 date_n;
    u32 allocated;
    atomic_uint open; /* written by the loop, read by metrics */
    bool listening, starved, draining, drained;
};

struct http_server {
    struct arena *arena;
    struct http_limits limits;
    struct http_handler handler;
    struct http2_shared *http2;
    struct tls *tls; /* NULL: plain */
    struct bio_method_st *tls_link;
    struct shard *shards;
    u32 count;
    u16 port;
    atomic_uint undrained;
    atomic_bool draining;
    void (*drained)(void *);
    void *drained_ctx;
};

/* conn.c */
static inline const struct http_limits *limits_of(const struct conn *c)
{
    return &c->shard->server->limits;
}
static inline i64 now_of(const struct conn *c)
{
    return loop_now_mono_us(c->shard->loop);
}
void conn_accept(struct shard *s);
void conn_close(struct conn *c);
/* The client sends no more. */
void conn_input_end(struct conn *c);
/* The last answer has gone: shut down, read on for a while, close. */
void conn_linger(struct conn *c);
/* Sends the parts, now as far as the socket takes them; only gathers them while c->corked. */
void conn_send(struct conn *c, const uv_buf_t *parts, u32 count);
/* Sends what was gathered. */
void conn_flush(struct conn *c);
size_t conn_unsent(const struct conn *c);
/* Bytes that libuv holds. */
size_t conn_in_flight(const struct conn *c);
/* INT64_MAX = none. */
void conn_deadline(struct conn *c, i64 due_us);
/* From now on the socket must take something within write_stall_us. */
void conn_watch_stall(struct conn *c);
/* Whether it did since: then the watch starts anew. */
bool conn_stall_renewed(struct conn *c);
void conn_read(struct conn *c, bool wanted);
/* `again` of its protocol in a later turn of the loop; once, however often it is asked for. */
void conn_again(struct conn *c);
void conn_drain(struct conn *c);

/* http1_conn.c */
void http1_refuse(struct conn *c, enum refusal why);

/* reply.c */
/* An empty scratch of the shard, for what is sent before the next turn. */
struct buf *shard_scratch(struct shard *s);
/* What the handler says to a refusal; without memory for it nothing: the status alone still tells. */
void ask_refusal(const struct conn *c, enum refusal why, const struct http_stream *x, struct arena *a,
                 struct http_refusal *out);
bool status_has_body(int status);
/* "date: …\r\n", made once a second. */
str date_line(struct shard *s);
/* The client's side of a stream is over: tells the handler, once. */
void stream_closed(struct http_stream *x);
/* The server drains: tells the handler, once. */
void stream_goodbye(struct http_stream *x);
/* Bytes have left: perhaps the handler may go on. */
void stream_drained(struct http_stream *x);

/* server.c */
void shard_check_drained(struct shard *s);
