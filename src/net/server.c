/* server.c - listeners, one per loop; draining; the end.
 *
 * SO_REUSEPORT would let a second Weir join a taken port in silence, so a probe without it goes first. Port 0 needs none: the
 * first listener takes a fresh port and the others join it. */
#include "net/http2.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <string.h>
#include <unistd.h>

enum { LISTEN_BACKLOG = 1024, HOST_TEXT_MAX = 64 };

const struct http_limits http_default_limits = {
    .target_bytes = 8 * KIB,
    .header_bytes = 16 * KIB,
    .header_count = 100,
    .header_us = 10 * SECOND_US,
    .body_us = 30 * SECOND_US,
    .idle_us = 60 * SECOND_US,
    .write_stall_us = 30 * SECOND_US,
    .connections = 10000,
    .stream_high_bytes = 256 * KIB,
    .stream_low_bytes = 64 * KIB,
    .arena_bytes = 64 * MIB,
};

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t n;
};

static err address_of(str host, u16 port, struct address *out)
{
    char z[HOST_TEXT_MAX];
    if (str_eq(host, S("localhost")))
        host = S("127.0.0.1");
    if (host.n == 0 || host.n >= sizeof z)
        return ERR_INVALID;
    memcpy(z, host.p, host.n);
    z[host.n] = '\0';
    struct address a = { .v4 = { .sin_family = AF_INET, .sin_port = htons(port) }, .n = sizeof a.v4 };
    if (inet_pton(AF_INET, z, &a.v4.sin_addr) != 1) {
        a = (struct address){ .v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) }, .n = sizeof a.v6 };
        if (inet_pton(AF_INET6, z, &a.v6.sin6_addr) != 1)
            return ERR_INVALID;
    }
    *out = a;
    return OK;
}

/* -1 and errno on failure. */
static int bind_socket(const struct address *a, bool shared)
{
    int one = 1;
    int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    bool fine = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                (!shared || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0) &&
                bind(fd, &a->any, a->n) == 0;
    if (fine)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static err bind_error(void)
{
    bool host_is_wrong = errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT || errno == EACCES;
    return host_is_wrong ? ERR_INVALID : ERR_BUSY;
}

static err probe(const struct address *a)
{
    if (a->v4.sin_port == 0)
        return OK;
    int fd = bind_socket(a, false);
    if (fd < 0)
        return bind_error();
    close(fd);
    return OK;
}

static err take_port(int fd, struct address *a)
{
    struct address bound = { .n = sizeof bound.v6 };
    if (getsockname(fd, &bound.any, &bound.n) != 0)
        return ERR_BUSY;
    a->v4.sin_port = bound.v4.sin_port; /* at the same place in both */
    return OK;
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status == 0) /* else: out of descriptors, and libuv has turned the client away */
        conn_accept(listener->data);
}

static err shard_listen(struct shard *s, struct address *a)
{
    int fd = bind_socket(a, true);
    if (fd < 0)
        return bind_error();
    err e = take_port(fd, a);
    if (e != OK || uv_tcp_open(&s->listener, fd) != 0) {
        close(fd);
        return ERR_BUSY;
    }
    return uv_listen((uv_stream_t *)&s->listener, LISTEN_BACKLOG, on_connection) == 0 ? OK : ERR_BUSY;
}

/* The first conn is made here, so that a shard without memory still has one whose end wakes the listener. */
static err shard_memory(struct shard *s)
{
    size_t conns = (size_t)s->server->limits.connections + SPARE_CONNS;
    s->arena = arena_new(conns * (sizeof(struct conn) + 16) + READ_BYTES + SEAL_BYTES + 64);
    s->read_buffer = arena_alloc(s->server->arena, READ_BYTES);
    s->free_conns = s->arena != NULL ? NEW(s->arena, struct conn) : NULL;
    s->allocated = 1;
    return s->free_conns != NULL && s->read_buffer != NULL ? OK : ERR_MEMORY;
}

static err shard_open(struct http_server *server, struct shard *s, struct loop *l, struct address *a)
{
    s->server = server;
    s->loop = l;
    uv_tcp_init(loop_uv(l), &s->listener);
    s->listener.data = s;
    s->listening = true;
    server->count++; /* from here http_free has something to close */
    TRY(shard_memory(s));
    return shard_listen(s, a);
}

static err listen_all(struct http_server *s, struct loop **loops, u32 count, struct address *a)
{
    TRY(probe(a));
    s->shards = NEW_N(s->arena, struct shard, count);
    if (s->shards == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < count; i++)
        TRY(shard_open(s, &s->shards[i], loops[i], a));
    s->port = ntohs(a->v4.sin_port);
    return OK;
}

/* What connections of a protocol have in common. */
static err share(struct http_server *s)
{
    struct http2_shared *shared = NEW(s->arena, struct http2_shared);
    if (shared == NULL)
        return ERR_MEMORY;
    TRY(http2_shared_new(shared));
    s->http2 = shared;
    return OK;
}

err http_listen(struct loop **loops, u32 count, str host, u16 port, const struct http_limits *limits,
                const struct http_handler *handler, struct http_server **out)
{
    struct address a;
    TRY(address_of(host, port, &a));
    struct arena *arena =
        arena_new(count * (sizeof(struct shard) + READ_BYTES + 64) + sizeof(struct http_server) + KIB);
    struct http_server *s = arena != NULL ? NEW(arena, struct http_server) : NULL;
    if (s == NULL) {
        arena_free(arena);
        return ERR_MEMORY;
    }
    s->arena = arena;
    s->limits = *limits;
    s->handler = *handler;
    err e = share(s);
    if (e == OK)
        e = listen_all(s, loops, count, &a);
    if (e != OK) {
        http_free(s);
        return e;
    }
    atomic_init(&s->undrained, count);
    *out = s;
    return OK;
}

err http_use_tls(struct http_server *s, struct tls *t)
{
    s->tls_link = tls_link_method();
    if (s->tls_link == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < s->count; i++) {
        struct shard *one = &s->shards[i];
        one->plain_buffer = arena_alloc(one->arena, READ_BYTES);
        one->seal_buffer = arena_alloc(one->arena, SEAL_BYTES);
        if (one->plain_buffer == NULL || one->seal_buffer == NULL)
            return ERR_MEMORY;
    }
    s->tls = t;
    return OK;
}

u16 http_port(const struct http_server *s)
{
    return s->port;
}

u32 http_connections(const struct http_server *s)
{
    u32 n = 0;
    for (u32 i = 0; i < s->count; i++)
        n += atomic_load_explicit(&s->shards[i].open, memory_order_relaxed);
    return n;
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

void shard_check_drained(struct shard *s)
{
    bool busy = s->listening || s->exchanges != NULL || atomic_load_explicit(&s->open, memory_order_relaxed) > 0;
    if (!s->draining || s->drained || busy)
        return;
    s->drained = true;
    struct http_server *server = s->server;
    if (atomic_fetch_sub(&server->undrained, 1) == 1 && server->drained != NULL)
        server->drained(server->drained_ctx);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct shard *s = handle->data;
    s->listening = false;
    shard_check_drained(s);
}

static void stop_listening(struct shard *s)
{
    if (s->listening && !uv_is_closing((uv_handle_t *)&s->listener))
        uv_close((uv_handle_t *)&s->listener, on_listener_closed);
}

static void shard_drain(struct message *m)
{
    struct shard *s = CONTAINER(m, struct shard, drain);
    s->draining = true;
    stop_listening(s);
    for (struct conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next; /* conns are unlinked by a later turn, so `next` stays good */
        conn_drain(c);
    }
}

void http_drain(struct http_server *s, void (*drained)(void *), void *ctx)
{
    if (atomic_exchange(&s->draining, true))
        return;
    s->drained = drained;
    s->drained_ctx = ctx;
    for (u32 i = 0; i < s->count; i++) {
        s->shards[i].drain.run = shard_drain;
        loop_post(s->shards[i].loop, &s->shards[i].drain);
    }
}

static void shard_free(struct shard *s)
{
    s->drained = true; /* nobody waits for it any more */
    stop_listening(s);
    for (struct conn *c = s->conns; c != NULL; c = c->next)
        conn_close(c);
    while (s->listening || s->conns != NULL)
        loop_settle(s->loop);
    while (s->exchanges != NULL)
        exchange_free(s->exchanges);
    if (s->spare != NULL)
        arena_free(s->spare->rq.arena);
    buf_free(&s->scratch);
    arena_free(s->arena);
}

void http_free(struct http_server *s)
{
    if (s == NULL)
        return;
    for (u32 i = 0; i < s->count; i++)
        shard_free(&s->shards[i]);
    http2_shared_free(s->http2);
    BIO_meth_free(s->tls_link);
    arena_free(s->arena);
}
