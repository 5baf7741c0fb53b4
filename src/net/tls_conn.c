/* tls_conn.c - TLS under a connection: ciphertext in, plaintext to its protocol; plaintext out, ciphertext to the socket.
 *
 * OpenSSL reads from where the bytes stand and writes to where they are sent from (a BIO of our own), so nothing is copied or kept in between.
 * Handshakes take their steps in a queue, a few per turn of the loop: however many come, those who are connected get their turn. */
#include "net/http2.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

/* --- between OpenSSL and the connection -------------------------------------------------------------------------- */

static int link_read(BIO *b, char *to, int room)
{
    struct conn *c = BIO_get_data(b);
    size_t n = MIN(c->tls.input.n, (size_t)MAX(room, 0));
    BIO_clear_retry_flags(b);
    if (n == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(to, c->tls.input.p, n);
    c->tls.input = str_slice(c->tls.input, n, c->tls.input.n);
    return (int)n;
}

static int link_write(BIO *b, const char *p, int n)
{
    struct conn *c = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    buf_put(&c->out, p, (size_t)n);
    return c->out.fail == OK ? n : -1;
}

static long link_ctrl(BIO *b, int what, long n, void *p)
{
    return what == BIO_CTRL_FLUSH;
}

BIO_METHOD *tls_link_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weir connection");
    if (m != NULL && BIO_meth_set_read(m, link_read) == 1 && BIO_meth_set_write(m, link_write) == 1 &&
        BIO_meth_set_ctrl(m, link_ctrl) == 1)
        return m;
    BIO_meth_free(m);
    return NULL;
}

/* --- the list of handshakes -------------------------------------------------------------------------------------- */

static void list_append(struct handshakes *h, struct conn *c)
{
    c->tls.prev = h->last;
    c->tls.next = NULL;
    if (h->last != NULL)
        h->last->tls.next = c;
    else
        h->first = c;
    h->last = c;
    h->count++;
    c->tls.waits = true;
}

static void list_remove(struct handshakes *h, struct conn *c)
{
    if (c->tls.prev != NULL)
        c->tls.prev->tls.next = c->tls.next;
    else
        h->first = c->tls.next;
    if (c->tls.next != NULL)
        c->tls.next->tls.prev = c->tls.prev;
    else
        h->last = c->tls.prev;
    h->count--;
    c->tls.waits = false;
}

void tls_abort(struct conn *c)
{
    if (c->tls.waits)
        list_remove(&c->shard->handshakes, c);
}

/* --- handshakes -------------------------------------------------------------------------------------------------- */

static void pull(struct conn *c);

/* An alert may have been written: it goes before the end. */
static void failed(struct conn *c)
{
    c->tls.broken = true;
    ERR_clear_error();
    tls_abort(c);
    conn_flush(c);
    if (c->state != CONN_CLOSED)
        conn_linger(c);
}

static void established(struct conn *c)
{
    const u8 *name;
    unsigned n;
    c->tls.done = true;
    tls_abort(c);
    SSL_get0_alpn_selected(c->tls.ssl, &name, &n);
    c->fresh = false; /* ALPN has told */
    conn_deadline(c, now_of(c) + limits_of(c)->header_us);
    if (c->shard->draining)
        conn_linger(c);
    else if (n == 2 && memcmp(name, "h2", 2) == 0)
        http2_open(c);
    if (c->state != CONN_CLOSED && c->state != CONN_LINGER)
        pull(c);
}

static void step(struct conn *c)
{
    struct buf first = c->in;
    c->in = (struct buf){ 0 };
    c->tls.ready = false;
    conn_read(c, true);
    c->tls.input = buf_view(&first);
    ERR_clear_error();
    int n = SSL_do_handshake(c->tls.ssl);
    int why = n == 1 ? SSL_ERROR_NONE : SSL_get_error(c->tls.ssl, n);
    conn_flush(c);
    if (c->state == CONN_CLOSED) {
        /* the client has left */
    } else if (n == 1) {
        established(c);
    } else if (why != SSL_ERROR_WANT_READ) {
        failed(c);
    } else {
        list_remove(&c->shard->handshakes, c); /* to the end: it has moved */
        list_append(&c->shard->handshakes, c);
    }
    c->tls.input = STR_NONE;
    buf_free(&first);
}

static void on_turn(struct message *m);

static void post_turn(struct shard *s)
{
    if (s->handshakes.posted)
        return;
    s->handshakes.posted = true;
    s->handshakes.turn.run = on_turn;
    loop_post(s->loop, &s->handshakes.turn);
}

static void on_turn(struct message *m)
{
    struct shard *s = CONTAINER(m, struct shard, handshakes.turn);
    struct conn *c = s->handshakes.first;
    u32 left = s->handshakes.count, steps = 0;
    s->handshakes.posted = false;
    for (struct conn *next; c != NULL && left > 0 && steps < HANDSHAKE_STEPS; left--, c = next) {
        next = c->tls.next;
        steps += c->tls.ready;
        if (c->tls.ready)
            step(c);
    }
    for (c = s->handshakes.first; c != NULL; c = c->tls.next)
        if (c->tls.ready)
            post_turn(s);
}

/* A browser that was given http:// for a port that wants https:// should be told, in words that it understands. */
static void answer_plain(struct conn *c)
{
    tls_abort(c);
    tls_end(c);
    c->fresh = false;
    http1_refuse(c, REFUSE_PLAIN);
}

static void handshake_input(struct conn *c, str bytes)
{
    bool plain = c->in.n == 0 && SSL_get_state(c->tls.ssl) == TLS_ST_BEFORE && bytes.p[0] >= 'A' && bytes.p[0] <= 'Z';
    if (plain) {
        answer_plain(c);
        return;
    }
    buf_put(&c->in, bytes.p, bytes.n);
    if (c->in.fail != OK) {
        conn_close(c);
        return;
    }
    conn_read(c, false); /* until the step: so one read is all that waits */
    c->tls.ready = true;
    post_turn(c->shard);
}

void tls_accept(struct conn *c)
{
    struct handshakes *h = &c->shard->handshakes;
    const struct http_server *server = c->shard->server;
    SSL *ssl = tls_ssl(server->tls);
    BIO *b = ssl != NULL ? BIO_new(server->tls_link) : NULL;
    if (b == NULL) {
        SSL_free(ssl);
        conn_close(c);
        return;
    }
    BIO_set_data(b, c);
    BIO_set_init(b, 1);
    SSL_set_bio(ssl, b, b);
    SSL_set_accept_state(ssl);
    c->tls.ssl = ssl;
    if (h->count == HANDSHAKES_MAX)
        conn_close(h->first);
    list_append(h, c);
}

/* --- connected --------------------------------------------------------------------------------------------------- */

/* Ended by the client, in order or not. */
static void pull_end(struct conn *c, int why)
{
    if (why == SSL_ERROR_ZERO_RETURN)
        conn_input_end(c);
    else if (why != SSL_ERROR_WANT_READ)
        failed(c);
}

static void pull(struct conn *c)
{
    struct shard *s = c->shard;
    int n = 0;
    ERR_clear_error();
    while (c->state != CONN_CLOSED && c->state != CONN_LINGER && !c->closing &&
           (n = SSL_read(c->tls.ssl, s->plain_buffer, READ_BYTES)) > 0)
        c->speaks->input(c, (str){ s->plain_buffer, (size_t)n });
    if (n <= 0 && c->state != CONN_CLOSED && c->state != CONN_LINGER && !c->closing)
        pull_end(c, SSL_get_error(c->tls.ssl, n));
    c->tls.input = STR_NONE;
    conn_flush(c); /* what OpenSSL answers by itself */
}

void tls_input(struct conn *c, str bytes)
{
    if (!c->tls.done) {
        handshake_input(c, bytes);
        return;
    }
    c->tls.input = bytes;
    pull(c);
}

static bool seal(struct conn *c, size_t n)
{
    ERR_clear_error();
    return n == 0 || SSL_write(c->tls.ssl, c->shard->seal_buffer, (int)n) == (int)n;
}

/* Parts are joined to whole records: each record costs its head, and the other side a turn. */
void tls_send(struct conn *c, const uv_buf_t *parts, u32 count)
{
    char *record = c->shard->seal_buffer;
    size_t n = 0;
    bool fine = !c->tls.broken;
    for (u32 i = 0; i < count; i++)
        for (size_t at = 0; fine && at < parts[i].len;) {
            size_t piece = MIN(parts[i].len - at, SEAL_BYTES - n);
            memcpy(record + n, parts[i].base + at, piece);
            at += piece;
            n += piece;
            fine = n < SEAL_BYTES || seal(c, n);
            n = n < SEAL_BYTES ? n : 0;
        }
    if (!fine || !seal(c, n))
        conn_close(c);
    else if (!c->corked || c->out.n > CORK_MAX)
        conn_flush(c);
}

void tls_bye(struct conn *c)
{
    if (c->tls.ssl == NULL || !c->tls.done || c->tls.broken || c->out.fail != OK)
        return;
    c->tls.broken = true; /* nothing may follow it */
    ERR_clear_error();
    (void)SSL_shutdown(c->tls.ssl);
}

void tls_end(struct conn *c)
{
    SSL_free(c->tls.ssl);
    c->tls.ssl = NULL;
}
