/* exchange.c - see exchange.h.
 *
 * An exchange may outlive its connection: whoever has the request answers it on the loop, and only then its arena goes. */
#include "net/conn.h"

#include <string.h>

enum {
    FIRST_BODY_ROOM = 16 << 10, /* a body grows from here, so that an announced length alone costs nothing */
    RECYCLED_BYTES =
        4096, /* an arena that never left its first chunk: giving a larger one back costs as much as a new one */
};

static struct http_stream *recycled(struct shard *s)
{
    struct http_stream *x = s->spare;
    struct arena *a = x->rq.arena;
    struct arena_mark mark = x->mark;
    s->spare = NULL;
    *x = (struct http_stream){ .rq.arena = a, .mark = mark };
    return x;
}

static struct http_stream *fresh(struct shard *s)
{
    struct arena *a = arena_new(s->server->limits.arena_bytes);
    struct http_stream *x = a != NULL ? NEW(a, struct http_stream) : NULL;
    if (x == NULL) {
        arena_free(a);
        return NULL;
    }
    x->rq.arena = a;
    x->mark = arena_mark(a);
    return x;
}

struct http_stream *exchange_new(struct conn *c)
{
    struct shard *s = c->shard;
    struct http_stream *x = s->spare != NULL ? recycled(s) : fresh(s);
    if (x == NULL)
        return NULL;
    x->conn = c;
    x->shard = s;
    x->next = s->exchanges;
    if (x->next != NULL)
        x->next->prev = x;
    s->exchanges = x;
    return x;
}

void exchange_free(struct http_stream *x)
{
    struct shard *s = x->shard;
    if (x->prev != NULL)
        x->prev->next = x->next;
    else
        s->exchanges = x->next;
    if (x->next != NULL)
        x->next->prev = x->prev;
    if (x->conn != NULL && x->conn->exchange == x)
        x->conn->exchange = NULL;
    if (s->spare == NULL && arena_used(x->rq.arena) <= RECYCLED_BYTES) {
        arena_rewind(x->rq.arena, x->mark);
        s->spare = x;
    } else {
        arena_free(x->rq.arena);
    }
    shard_check_drained(s);
}

/* The texts move to the arena because the request may outlive the connection. */
enum refusal exchange_introduce(struct http_stream *x, const struct conn *c, i64 started_us)
{
    struct http_request *rq = &x->rq;
    rq->remote = str_dup(rq->arena, (str){ c->remote, c->remote_n });
    rq->remote_port = c->remote_port;
    rq->received_mono_us = started_us;
    rq->loop = c->shard->loop;
    rq->tls = c->tls.ssl != NULL;
    rq->stream = x;
    return rq->remote.p != NULL ? REFUSE_NONE : REFUSE_MEMORY;
}

void exchange_admit(struct http_stream *x)
{
    const struct http_handler *h = &x->shard->server->handler;
    x->body_limit = h->admit != NULL ? h->admit(h->ctx, &x->rq) : MIB;
    x->admitted = true;
}

/* Never more than twice what has come, and never beyond what was announced. */
static err reserve(struct http_stream *x, size_t need)
{
    if (need <= x->body_room)
        return OK;
    size_t room = MAX(MAX(x->body_room * 2, need), (size_t)FIRST_BODY_ROOM);
    if (x->announced > 0)
        room = MIN(room, MAX((size_t)x->announced, need));
    void *p = arena_grow(x->rq.arena, (void *)(uintptr_t)x->rq.body.p, x->body_room, room);
    if (p == NULL)
        return ERR_MEMORY;
    x->rq.body.p = p;
    x->body_room = room;
    return OK;
}

enum refusal exchange_body(struct http_stream *x, str bytes)
{
    if (bytes.n > x->body_limit - x->rq.body.n)
        return REFUSE_BODY_SIZE;
    if (reserve(x, x->rq.body.n + bytes.n) != OK)
        return REFUSE_MEMORY;
    memcpy((char *)(uintptr_t)x->rq.body.p + x->rq.body.n, bytes.p, bytes.n);
    x->rq.body.n += bytes.n;
    return REFUSE_NONE;
}

void exchange_deliver(struct http_stream *x)
{
    const struct http_handler *h = &x->shard->server->handler;
    x->delivered = true;
    h->request(h->ctx, &x->rq);
}

void exchange_leave(struct http_stream *x)
{
    x->conn = NULL;
    if (!x->delivered)
        exchange_free(x);
    else if (x->streaming)
        stream_closed(x);
}
