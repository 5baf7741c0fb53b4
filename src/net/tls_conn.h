/* tls_conn.h - TLS under a connection. Private to net. */
#pragma once

#include "net/loop.h"
#include "net/tls.h"

struct conn;
struct shard;
struct ssl_st;

enum {
    HANDSHAKES_MAX = 256,  /* in progress, per loop; the one that has stood still longest makes room */
    HANDSHAKE_STEPS = 4,   /* per turn of the loop: each may cost a signature */
    SEAL_BYTES = 16 << 10, /* of one record */
};

/* What a connection holds for TLS. */
struct tls_link {
    struct ssl_st *ssl; /* NULL: plain */
    str input;          /* ciphertext that OpenSSL has not read yet; only while it is called */
    struct conn *prev, *next;
    bool waits; /* in the list of handshakes */
    bool ready; /* bytes came: its step is due */
    bool done;
    bool broken; /* nothing can be said over it any more */
};

/* Handshakes in progress, those that moved last at the end. */
struct handshakes {
    struct conn *first, *last;
    u32 count;
    struct message turn;
    bool posted;
};

void tls_accept(struct conn *c);
void tls_input(struct conn *c, str bytes);
void tls_send(struct conn *c, const uv_buf_t *parts, u32 count);
/* close_notify, when it can be said. */
void tls_bye(struct conn *c);
/* No handshake any more; the connection closes. */
void tls_abort(struct conn *c);
void tls_end(struct conn *c);

/* How OpenSSL reaches a connection; once for a server. */
struct bio_method_st *tls_link_method(void) MUST;

/* tls.c: a reference to what new connections use; NULL when there is no memory. */
struct ssl_st *tls_ssl(struct tls *t) MUST;
/* Whether it was time for a new ticket key; `now_us` is a parameter for tests. */
bool tls_rotate(struct tls *t, i64 now_us);
