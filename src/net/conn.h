/* conn.h - one connection and its loop's share of the server. Private to net.
 *
 *   HEAD → BODY → BUSY → (FLUSH) → HEAD …        a request is read, handed over, answered, flushed
 *   BUSY → STREAM → (FLUSH)                      an answer in parts
 *   any  → FLUSH → LINGER → CLOSED               the last answer: shut down, read on for a while, close
 * Closing with unread bytes makes the kernel send a reset that overtakes the answer; hence LINGER. */
#pragma once

#include "net/http1.h"

#include <stdatomic.h>

enum {
    READ_BYTES = 64 << 10,       /* per loop, for one read(2) */
    IN_MAX = 64 << 10,           /* unread bytes kept while a request is being answered; then reading pauses */
    CORK_MAX = 64 << 10,         /* answers to pipelined requests gathered into one write */
    TURN_STEPS = 64,             /* heads and bodies of one connection before the others get their turn */
    STREAM_EXTRA_MAX = 64 << 10, /* bytes a client may send into a stream, all ignored */
    LINGER_MAX = 16 << 20,       /* bytes read and forgotten behind the last answer */
    SPARE_CONNS = 64,            /* beyond limits.connections: to be told 503 */
    STREAM_HARD_FACTOR = 4,      /* a stream whose handler ignores back-pressure is cut at 4 * stream_high_bytes */
};
#define LINGER_US (5 * SECOND_US)

enum conn_state { CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_STREAM, CONN_FLUSH, CONN_LINGER, CONN_CLOSED };

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct loop_timer timer; /* armed lazily: may fire before deadline_us, and is then set again */
    struct message again;    /* takes the rest of a long pipeline in a later turn */
    struct shard *shard;
    struct conn *prev, *next;
    struct http_stream *exchange;
    struct http1_scan scan;
    struct buf in;     /* unread; empty when idle */
    struct buf out;    /* to be written after `flight` */
    struct buf flight; /* being written by libuv */
    i64 deadline_us;   /* INT64_MAX = none */
    i64 started_us;    /* first byte of the head, or start of the body; 0 = nothing has come */
    size_t stalled;    /* bytes libuv held when the write deadline was set: fewer now is progress */
    size_t discarded;
    enum conn_state state;
    bool reading, eof, writing, again_posted;
    bool turning; /* inside conn_turn() */
    bool corked;  /* more requests are at hand: gather the answers */
    bool closing; /* what is being flushed is the last answer */
    bool is_head; /* the request being read, perhaps refused, is a HEAD */
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
    struct buf head;           /* where the head of an answer is put together */
    char *read_buffer;
    i64 date_until_us;
    char date[64]; /* "Date: …\r\n" */
    u32 date_n;
    u32 allocated;
    atomic_uint open; /* written by the loop, read by metrics */
    bool listening, starved, draining, drained;
};

struct http_server {
    struct arena *arena;
    struct http_limits limits;
    struct http_handler handler;
    struct shard *shards;
    u32 count;
    u16 port;
    atomic_uint undrained;
    atomic_bool draining;
    void (*drained)(void *);
    void *drained_ctx;
};

/* conn.c */
void conn_accept(struct shard *s);
void conn_close(struct conn *c);
void conn_refuse(struct conn *c, enum refusal why);
/* The answer has been handed to the writer: flush, then the next request or the end. */
void conn_answered(struct conn *c, bool keep);
void conn_send(struct conn *c, const uv_buf_t *parts, u32 count);
size_t conn_unsent(const struct conn *c);
void conn_drain(struct conn *c);
void exchange_free(struct http_stream *x);

/* reply.c */
enum reply_framing { FRAME_LENGTH, FRAME_CHUNKED, FRAME_CLOSE };
/* Puts the head of an answer together in s->head. */
void reply_head(struct shard *s, const struct http_stream *x, int status, const struct pair *headers, size_t count,
                enum reply_framing framing, size_t length, bool keep);
/* The client's side of a stream is over: tells the handler, once. */
void stream_closed(struct http_stream *x);
/* Bytes have left: perhaps the handler may go on. */
void stream_drained(struct http_stream *x);

/* server.c */
void shard_check_drained(struct shard *s);
