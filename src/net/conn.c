/* conn.c - the life of a connection: reading, turns, writing, deadlines, lingering.
 *
 * The rule that keeps this free of recursion: an answer given inside a turn only changes the state, and conn_turn() goes on
 * from there; outside of one it starts the next turn itself. conn_close() never frees: on_closed() does, a turn of the loop later. */
#include "net/conn.h"

#include <arpa/inet.h>
#include <string.h>

static const struct http_limits *limits_of(const struct conn *c)
{
    return &c->shard->server->limits;
}

static i64 now_of(const struct conn *c)
{
    return loop_now_mono_us(c->shard->loop);
}

/* --- exchanges --------------------------------------------------------------------------------------------------- */

enum {
    REFUSAL_BYTES = 64 << 10, /* of what the handler may say to a refusal */
    RECYCLED_BYTES = 4096
}; /* an arena that never left its first chunk: giving a larger one back costs as much as a new one */

static struct http_stream *exchange_recycled(struct shard *s)
{
    struct http_stream *x = s->spare;
    struct arena *a = x->rq.arena;
    struct arena_mark mark = x->mark;
    s->spare = NULL;
    *x = (struct http_stream){ .rq.arena = a, .mark = mark };
    return x;
}

static struct http_stream *exchange_fresh(struct shard *s)
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

static struct http_stream *exchange_new(struct conn *c)
{
    struct shard *s = c->shard;
    struct http_stream *x = s->spare != NULL ? exchange_recycled(s) : exchange_fresh(s);
    if (x == NULL)
        return NULL;
    x->conn = c;
    x->shard = s;
    x->next = s->exchanges;
    if (x->next != NULL)
        x->next->prev = x;
    s->exchanges = x;
    c->exchange = x;
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
    if (x->conn != NULL)
        x->conn->exchange = NULL;
    if (s->spare == NULL && arena_used(x->rq.arena) <= RECYCLED_BYTES) {
        arena_rewind(x->rq.arena, x->mark);
        s->spare = x;
    } else {
        arena_free(x->rq.arena);
    }
    shard_check_drained(s);
}

/* What the connection knows; the texts move to the arena because the request may outlive the connection. */
static enum refusal exchange_introduce(struct http_stream *x, const struct conn *c)
{
    struct http_request *rq = &x->rq;
    rq->remote = str_dup(rq->arena, (str){ c->remote, c->remote_n });
    rq->remote_port = c->remote_port;
    rq->received_mono_us = c->started_us;
    rq->loop = c->shard->loop;
    rq->stream = x;
    return rq->remote.p != NULL ? REFUSE_NONE : REFUSE_MEMORY;
}

/* --- deadlines --------------------------------------------------------------------------------------------------- */

static void on_deadline(struct loop_timer *t);

/* Moving a deadline back is a store: the timer fires at the old time and is set again. Only an earlier one touches the heap. */
static void set_deadline(struct conn *c, i64 due_us)
{
    c->deadline_us = due_us;
    if (due_us == INT64_MAX || (c->timer.heap_index != 0 && c->timer.due_mono_us <= due_us))
        return;
    if (loop_timer_start(c->shard->loop, &c->timer, due_us - now_of(c), on_deadline) != OK)
        conn_close(c);
}

static size_t in_flight(const struct conn *c)
{
    return c->writing ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0;
}

size_t conn_unsent(const struct conn *c)
{
    return in_flight(c) + c->out.n;
}

static void watch_stall(struct conn *c)
{
    c->stalled = in_flight(c);
    set_deadline(c, now_of(c) + limits_of(c)->write_stall_us);
}

static i64 body_due(const struct conn *c)
{
    const struct http_stream *x = c->exchange;
    i64 size = x->chunked ? (i64)x->body_raw : (i64)x->announced;
    return c->started_us + limits_of(c)->body_us + size * SECOND_US / (i64)(32 * KIB);
}

static void renew_deadline(struct conn *c)
{
    if (c->state == CONN_HEAD)
        set_deadline(c,
                     c->started_us != 0 ? c->started_us + limits_of(c)->header_us : now_of(c) + limits_of(c)->idle_us);
    else if (c->state == CONN_BODY)
        set_deadline(c, body_due(c));
    else if (c->state == CONN_BUSY || (c->state == CONN_STREAM && conn_unsent(c) == 0))
        set_deadline(c, INT64_MAX); /* the handler's own time */
    /* Else bytes are stuck and watched from where they got stuck; LINGER is watched from its start. */
}

static void deadline_passed(struct conn *c)
{
    bool writes = c->state == CONN_STREAM || c->state == CONN_FLUSH;
    if (writes && in_flight(c) < c->stalled)
        watch_stall(c);
    else if (c->state == CONN_BODY || (c->state == CONN_HEAD && c->started_us != 0))
        conn_refuse(c, REFUSE_TIMEOUT);
    else
        conn_close(c);
}

static void on_deadline(struct loop_timer *t)
{
    struct conn *c = CONTAINER(t, struct conn, timer);
    if (c->deadline_us > now_of(c))
        set_deadline(c, c->deadline_us);
    else
        deadline_passed(c);
}

/* --- closing ----------------------------------------------------------------------------------------------------- */

static void conn_recycle(struct conn *c)
{
    c->next = c->shard->free_conns;
    c->shard->free_conns = c;
}

static void conn_unlink(struct conn *c)
{
    struct shard *s = c->shard;
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    atomic_fetch_sub_explicit(&s->open, 1, memory_order_relaxed);
}

static void leave_exchange(struct conn *c)
{
    struct http_stream *x = c->exchange;
    c->exchange = NULL;
    if (x == NULL)
        return;
    x->conn = NULL;
    if (!x->delivered)
        exchange_free(x);
    else if (x->streaming)
        stream_closed(x);
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    struct shard *s = c->shard;
    conn_unlink(c);
    buf_free(&c->in);
    buf_free(&c->out);
    buf_free(&c->flight);
    leave_exchange(c);
    c->gone = c->again_posted;
    if (!c->gone)
        conn_recycle(c);
    if (s->starved && s->listening)
        conn_accept(s);
    shard_check_drained(s);
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    loop_timer_stop(&c->timer);
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void on_shutdown(uv_shutdown_t *shutdown, int status)
{
    struct conn *c = CONTAINER(shutdown, struct conn, shutdown);
    if (status < 0)
        conn_close(c); /* nothing when it is the closing itself that ended the shutdown */
}

static void conn_linger(struct conn *c)
{
    buf_free(&c->in);
    if (c->eof || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        conn_close(c);
        return;
    }
    c->state = CONN_LINGER;
    set_deadline(c, now_of(c) + MIN(LINGER_US, limits_of(c)->write_stall_us));
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *write, int status);

static void start_write(struct conn *c, size_t from)
{
    uv_buf_t rest = uv_buf_init(c->flight.p + from, (unsigned)(c->flight.n - from));
    c->writing = true;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &rest, 1, on_written) != 0) {
        c->writing = false;
        conn_close(c);
        return;
    }
    watch_stall(c);
}

static void take_flight(struct conn *c)
{
    buf_free(&c->flight);
    c->flight = c->out;
    c->out = (struct buf){ 0 };
}

/* Sends what was gathered, now as far as the socket takes it. */
static void conn_flush(struct conn *c)
{
    if (c->state == CONN_CLOSED || c->writing || c->out.n == 0)
        return;
    take_flight(c);
    uv_buf_t all = uv_buf_init(c->flight.p, (unsigned)c->flight.n);
    int n = uv_try_write((uv_stream_t *)&c->tcp, &all, 1);
    if (n < 0 && n != UV_EAGAIN)
        conn_close(c);
    else if (n < 0 || (size_t)n < c->flight.n)
        start_write(c, n > 0 ? (size_t)n : 0);
    else
        buf_free(&c->flight);
}

static void gather(struct conn *c, const uv_buf_t *parts, u32 count, size_t skip)
{
    for (u32 i = 0; i < count; i++) {
        size_t from = MIN(skip, parts[i].len);
        buf_put(&c->out, parts[i].base + from, parts[i].len - from);
        skip -= from;
    }
    if (c->out.fail != OK)
        conn_close(c);
}

void conn_send(struct conn *c, const uv_buf_t *parts, u32 count)
{
    size_t total = 0;
    for (u32 i = 0; i < count; i++)
        total += parts[i].len;
    if (c->state == CONN_CLOSED)
        return;
    if (c->writing || c->out.n > 0 || (c->corked && total <= CORK_MAX)) {
        gather(c, parts, count, 0);
        return;
    }
    int n = uv_try_write((uv_stream_t *)&c->tcp, parts, count);
    if (n < 0 && n != UV_EAGAIN) {
        conn_close(c);
    } else if (n < 0 || (size_t)n < total) {
        gather(c, parts, count, n > 0 ? (size_t)n : 0);
        if (c->state != CONN_CLOSED) {
            take_flight(c);
            start_write(c, 0);
        }
    }
}

/* --- turns ------------------------------------------------------------------------------------------------------- */

static void conn_turn(struct conn *c, str bytes);

static bool reads_requests(const struct conn *c)
{
    return (c->state == CONN_HEAD || c->state == CONN_BODY) && !c->again_posted;
}

static void next_request(struct conn *c)
{
    c->state = CONN_HEAD;
    c->scan = (struct http1_scan){ 0 };
    c->started_us = 0;
}

/* From FLUSH to what comes behind the answer, if it has gone; gathered answers wait for the end of the turn. */
static void after_answer(struct conn *c)
{
    bool gathers = c->corked && !c->closing && c->out.n <= CORK_MAX;
    if (!gathers)
        conn_flush(c);
    if (c->state != CONN_FLUSH)
        return;
    if (!gathers && conn_unsent(c) > 0)
        watch_stall(c);
    else if (c->closing)
        conn_linger(c);
    else
        next_request(c);
}

void conn_answered(struct conn *c, bool keep)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_FLUSH;
    c->closing = !keep || c->shard->draining;
    if (!c->turning)
        conn_turn(c, (str){ c->in.p, c->in.n });
}

/* What the handler says to a refusal; without memory for it nothing: the status alone still tells. */
static void ask_refusal(const struct conn *c, enum refusal why, struct arena *a, struct http_refusal *out)
{
    const struct http_handler *h = &c->shard->server->handler;
    if (h->refuse != NULL && a != NULL)
        h->refuse(h->ctx, http_refusals[why].status, http_refusals[why].code, (str){ c->remote, c->remote_n }, a, out);
}

void conn_refuse(struct conn *c, enum refusal why)
{
    struct shard *s = c->shard;
    struct arena *a = arena_new(REFUSAL_BYTES);
    struct http_stream *x = c->exchange;
    struct http_refusal said = { .request = x != NULL && x->admitted ? &x->rq : NULL,
                                 .header_count = 1,
                                 .body = S("") };
    said.headers[0] = (struct pair){ S("content-type"), S("application/problem+json") };
    ask_refusal(c, why, a, &said);
    reply_head(s, NULL, http_refusals[why].status, said.headers, said.body.n > 0 ? said.header_count : 0, FRAME_LENGTH,
               said.body.n, false);
    uv_buf_t parts[] = { uv_buf_init(s->head.p, (unsigned)s->head.n),
                         uv_buf_init((char *)(uintptr_t)said.body.p, (unsigned)said.body.n) };
    if (s->head.fail == OK)
        conn_send(c, parts, c->is_head ? 1 : 2);
    else
        conn_close(c);
    arena_free(a);
    if (x != NULL) /* only now: what is said may lie on its arena */
        exchange_free(x);
    conn_answered(c, false);
}

static void deliver(struct conn *c, struct http_stream *x, bool more)
{
    const struct http_handler *h = &c->shard->server->handler;
    c->state = CONN_BUSY;
    c->corked = more;
    x->delivered = true;
    h->request(h->ctx, &x->rq);
}

static const uv_buf_t go_on = { .base = (char *)"HTTP/1.1 100 Continue\r\n\r\n", .len = 25 };

static void await_body(struct conn *c, struct http_stream *x, bool more)
{
    c->state = CONN_BODY;
    c->started_us = now_of(c);
    if (x->expects_continue && !more)
        conn_send(c, &go_on, 1);
}

/* The head is good: what does the handler say, and is there a body to wait for? */
static void admit(struct conn *c, struct http_stream *x, bool more)
{
    const struct http_handler *h = &c->shard->server->handler;
    x->body_limit = h->admit != NULL ? h->admit(h->ctx, &x->rq) : MIB;
    x->admitted = true;
    if (x->rq.refused != 0) {
        x->rq.keep_alive &= !x->has_body;
        deliver(c, x, more && !x->has_body);
    } else if (x->announced > x->body_limit) {
        conn_refuse(c, REFUSE_BODY_SIZE);
    } else if (x->has_body) {
        await_body(c, x, more);
    } else {
        deliver(c, x, more);
    }
}

/* Each returns how many bytes it used; 0 = more are needed. */
static size_t take_head(struct conn *c, str bytes)
{
    if (c->started_us == 0)
        c->started_us = now_of(c);
    c->is_head = str_starts(bytes, S("HEAD "));
    enum refusal r = http1_scan(&c->scan, bytes, limits_of(c));
    if (r == REFUSE_NONE && !c->scan.done)
        return 0;
    size_t used = c->scan.at;
    struct http_stream *x = r == REFUSE_NONE ? exchange_new(c) : NULL;
    if (r == REFUSE_NONE)
        r = x != NULL ? http1_head(x, &c->scan, bytes) : REFUSE_MEMORY;
    if (r == REFUSE_NONE)
        r = exchange_introduce(x, c);
    if (r == REFUSE_NONE) {
        admit(c, x, used < bytes.n);
        return used;
    }
    conn_refuse(c, r);
    return bytes.n;
}

static size_t take_body(struct conn *c, str bytes)
{
    struct http_stream *x = c->exchange;
    size_t used = 0;
    enum refusal r = http1_body(x, bytes, &used);
    if (r != REFUSE_NONE) {
        conn_refuse(c, r);
        return bytes.n;
    }
    if (x->complete)
        deliver(c, x, used < bytes.n);
    return used;
}

/* Keeps what was not used. `bytes` is the connection's own buffer, or the loop's, which the next read overwrites. */
static void keep_rest(struct conn *c, str bytes, size_t used)
{
    size_t rest = bytes.n - used;
    if (c->state == CONN_CLOSED || c->state == CONN_LINGER || c->closing || rest == 0) {
        buf_free(&c->in);
    } else if (c->in.n > 0) {
        memmove(c->in.p, c->in.p + used, rest);
        c->in.n = rest;
    } else {
        buf_put(&c->in, bytes.p + used, rest);
    }
    if (c->in.fail != OK)
        conn_close(c);
}

static void on_again(struct message *m)
{
    struct conn *c = CONTAINER(m, struct conn, again);
    c->again_posted = false;
    if (c->gone)
        conn_recycle(c);
    else if (c->state != CONN_CLOSED)
        conn_turn(c, (str){ c->in.p, c->in.n });
}

static void post_again(struct conn *c)
{
    c->again_posted = true;
    c->again.run = on_again;
    loop_post(c->shard->loop, &c->again);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *out)
{
    (void)wanted;
    struct conn *c = handle->data;
    *out = uv_buf_init(c->shard->read_buffer, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *from);

/* Reads unless a client pipelines far ahead of its answers. Otherwise reading is never paused: that would cost two
 * epoll_ctl(2) per request. */
static void adjust_reading(struct conn *c)
{
    bool wanted = !c->eof && (reads_requests(c) || c->in.n < IN_MAX);
    if (wanted == c->reading)
        return;
    c->reading = wanted;
    if (!wanted)
        uv_read_stop((uv_stream_t *)&c->tcp);
    else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        conn_close(c);
}

/* The end of a turn: gathered answers go out, and the connection waits for what its state needs. */
static void settle(struct conn *c)
{
    conn_flush(c);
    if (c->state == CONN_HEAD && conn_unsent(c) > 0)
        c->state = CONN_FLUSH; /* on_written() goes on; start_write() has set the deadline */
    if (c->state == CONN_STREAM)
        stream_drained(c->exchange);
    if (c->state == CONN_CLOSED)
        return;
    bool idle = c->state == CONN_HEAD && !c->again_posted;
    if (idle && (c->eof || (c->shard->draining && c->in.n == 0))) {
        conn_close(c);
        return;
    }
    adjust_reading(c);
    renew_deadline(c);
}

static void conn_turn(struct conn *c, str bytes)
{
    size_t used = 0;
    c->turning = true;
    for (u32 step = 0; c->state != CONN_CLOSED; step++) {
        c->corked = used < bytes.n;
        if (c->state == CONN_FLUSH)
            after_answer(c);
        if (!reads_requests(c) || used == bytes.n)
            break;
        if (step == TURN_STEPS) {
            post_again(c);
            break;
        }
        str rest = { bytes.p + used, bytes.n - used };
        size_t n = c->state == CONN_HEAD ? take_head(c, rest) : take_body(c, rest);
        used += n;
        if (n == 0)
            break;
    }
    c->corked = c->turning = false;
    keep_rest(c, bytes, used);
    settle(c);
}

static void on_written(uv_write_t *write, int status)
{
    struct conn *c = CONTAINER(write, struct conn, write);
    c->writing = false;
    buf_free(&c->flight);
    if (c->state == CONN_CLOSED)
        return;
    if (status < 0) {
        conn_close(c);
        return;
    }
    conn_flush(c);
    if (c->state == CONN_FLUSH)
        conn_turn(c, (str){ c->in.p, c->in.n });
    else if (c->state == CONN_STREAM && conn_unsent(c) == 0)
        set_deadline(c, INT64_MAX);
    if (c->state == CONN_STREAM)
        stream_drained(c->exchange);
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

static void discard(struct conn *c, size_t n, size_t max)
{
    c->discarded += n;
    if (c->discarded > max)
        conn_close(c);
}

static void input_later(struct conn *c, str bytes)
{
    buf_put(&c->in, bytes.p, bytes.n);
    if (c->in.fail != OK)
        conn_close(c);
    else if (reads_requests(c))
        conn_turn(c, (str){ c->in.p, c->in.n });
    else
        adjust_reading(c);
}

static void input(struct conn *c, str bytes)
{
    if (c->state == CONN_LINGER || c->closing) {
        discard(c, bytes.n, LINGER_MAX);
    } else if (c->state == CONN_STREAM) {
        c->exchange->rq.keep_alive = false; /* what it sent is lost, so nothing behind it can be trusted */
        discard(c, bytes.n, STREAM_EXTRA_MAX);
    } else if (c->in.n > 0 || !reads_requests(c)) {
        input_later(c, bytes);
    } else {
        conn_turn(c, bytes);
    }
}

/* A client may shut its side down and still wait for the answer, so a request in work is finished. A stream is not: this is
 * the only way to notice that nobody listens. */
static void input_end(struct conn *c)
{
    c->eof = true;
    c->reading = false;
    bool waits_for_us = c->state == CONN_BUSY || c->state == CONN_FLUSH || c->again_posted;
    if (!waits_for_us)
        conn_close(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *from)
{
    struct conn *c = stream->data;
    if (n > 0)
        input(c, (str){ from->base, (size_t)n });
    else if (n == UV_EOF)
        input_end(c);
    else if (n < 0)
        conn_close(c);
}

/* --- accepting --------------------------------------------------------------------------------------------------- */

static struct conn *conn_take(struct shard *s)
{
    struct conn *c = s->free_conns;
    if (c != NULL) {
        s->free_conns = c->next;
    } else if (s->allocated < s->server->limits.connections + SPARE_CONNS && (c = NEW(s->arena, struct conn)) != NULL) {
        s->allocated++;
    }
    if (c != NULL)
        *c = (struct conn){ .shard = s, .next = s->conns };
    return c;
}

static void conn_link(struct shard *s, struct conn *c)
{
    if (c->next != NULL)
        c->next->prev = c;
    s->conns = c;
    atomic_fetch_add_explicit(&s->open, 1, memory_order_relaxed);
}

/* IPv4-mapped addresses read as IPv4: limits and logs know one name per client. */
static void name_remote(struct conn *c)
{
    struct sockaddr_in6 a = { 0 };
    int n = sizeof a;
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&a, &n) != 0)
        return;
    const void *from = &a.sin6_addr;
    int family = a.sin6_family;
    if (family == AF_INET)
        from = &((const struct sockaddr_in *)(const void *)&a)->sin_addr;
    else if (IN6_IS_ADDR_V4MAPPED(&a.sin6_addr)) {
        from = (const char *)&a.sin6_addr + 12;
        family = AF_INET;
    }
    if (inet_ntop(family, from, c->remote, sizeof c->remote) != NULL)
        c->remote_n = (u8)strlen(c->remote);
    c->remote_port = ntohs(a.sin6_port); /* at the same place in both */
}

static void conn_begin(struct conn *c)
{
    u32 open = atomic_load_explicit(&c->shard->open, memory_order_relaxed);
    uv_tcp_nodelay(&c->tcp, 1);
    name_remote(c);
    adjust_reading(c);
    if (c->state == CONN_CLOSED)
        return;
    if (open > limits_of(c)->connections)
        conn_refuse(c, REFUSE_CONNECTIONS);
    else
        set_deadline(c, now_of(c) + limits_of(c)->header_us);
}

void conn_accept(struct shard *s)
{
    struct conn *c = conn_take(s);
    s->starved = c == NULL; /* then the kernel's queue waits until a connection ends */
    if (c == NULL)
        return;
    uv_tcp_init(loop_uv(s->loop), &c->tcp);
    c->tcp.data = c;
    conn_link(s, c);
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) == 0)
        conn_begin(c);
    else
        conn_close(c);
}

void conn_drain(struct conn *c)
{
    if (c->state == CONN_STREAM)
        stream_closed(c->exchange);
    else if (c->state == CONN_HEAD && c->started_us == 0 && c->in.n == 0)
        conn_close(c);
}
