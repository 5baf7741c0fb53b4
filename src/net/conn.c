/* conn.c - the life of a connection: accepting, reading, writing, deadlines, lingering.
 *
 * It knows no protocol. conn_close() never frees: on_closed() does, a turn of the loop later, so everybody may go on for the rest of theirs. */
#include "net/conn.h"

#include <arpa/inet.h>
#include <string.h>

/* --- deadlines --------------------------------------------------------------------------------------------------- */

static void on_deadline(struct loop_timer *t);

/* Moving a deadline back is a store: the timer fires at the old time and is set again. Only an earlier one touches the heap. */
void conn_deadline(struct conn *c, i64 due_us)
{
    c->deadline_us = due_us;
    if (due_us == INT64_MAX || (c->timer.heap_index != 0 && c->timer.due_mono_us <= due_us))
        return;
    if (loop_timer_start(c->shard->loop, &c->timer, due_us - now_of(c), on_deadline) != OK)
        conn_close(c);
}

size_t conn_in_flight(const struct conn *c)
{
    return c->writing ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0;
}

size_t conn_unsent(const struct conn *c)
{
    return conn_in_flight(c) + c->out.n;
}

void conn_watch_stall(struct conn *c)
{
    c->stalled = conn_in_flight(c);
    c->stall_due_us = now_of(c) + limits_of(c)->write_stall_us;
    conn_deadline(c, c->stall_due_us);
}

bool conn_stall_renewed(struct conn *c)
{
    if (conn_in_flight(c) >= c->stalled)
        return false;
    conn_watch_stall(c);
    return true;
}

static void on_deadline(struct loop_timer *t)
{
    struct conn *c = CONTAINER(t, struct conn, timer);
    if (c->deadline_us > now_of(c))
        conn_deadline(c, c->deadline_us);
    else if (c->state == CONN_LINGER)
        conn_close(c);
    else
        c->speaks->overdue(c);
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

static void on_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    struct shard *s = c->shard;
    conn_unlink(c);
    buf_free(&c->in);
    buf_free(&c->out);
    buf_free(&c->flight);
    tls_end(c);
    c->speaks->leave(c);
    c->gone = c->again_posted;
    if (!c->gone)
        conn_recycle(c);
    if (s->starved && s->listening)
        conn_accept(s);
    shard_check_drained(s);
}

/* As far as it goes at once: an end that was not announced looks like an attack to the other side. */
static void say_bye(struct conn *c)
{
    bool clear = !c->writing && c->out.n == 0;
    tls_bye(c);
    uv_buf_t last = uv_buf_init(c->out.p, (unsigned)c->out.n);
    if (clear && c->out.n > 0)
        (void)uv_try_write((uv_stream_t *)&c->tcp, &last, 1);
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    tls_abort(c);
    if (c->tls.ssl != NULL)
        say_bye(c);
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

void conn_linger(struct conn *c)
{
    buf_free(&c->in);
    tls_bye(c);
    conn_flush(c);
    if (c->state == CONN_CLOSED)
        return;
    if (c->eof || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        conn_close(c);
        return;
    }
    c->state = CONN_LINGER;
    conn_deadline(c, now_of(c) + MIN(LINGER_US, limits_of(c)->write_stall_us));
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
    conn_watch_stall(c);
}

static void take_flight(struct conn *c)
{
    buf_free(&c->flight);
    c->flight = c->out;
    c->out = (struct buf){ 0 };
}

void conn_flush(struct conn *c)
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
    if (c->tls.ssl != NULL) {
        tls_send(c, parts, count);
        return;
    }
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

static void on_written(uv_write_t *write, int status)
{
    struct conn *c = CONTAINER(write, struct conn, write);
    c->writing = false;
    buf_free(&c->flight);
    if (c->state == CONN_CLOSED)
        return;
    if (status < 0)
        conn_close(c);
    else
        conn_flush(c);
    if (c->state != CONN_CLOSED)
        c->speaks->written(c);
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

static void discard(struct conn *c, size_t n)
{
    c->discarded += n;
    if (c->discarded > LINGER_MAX)
        conn_close(c);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *out)
{
    (void)wanted;
    struct conn *c = handle->data;
    *out = uv_buf_init(c->shard->read_buffer, READ_BYTES);
}

void conn_input_end(struct conn *c)
{
    c->eof = true;
    conn_read(c, false);
    if (c->state == CONN_LINGER)
        conn_close(c);
    else
        c->speaks->input_end(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *from)
{
    struct conn *c = stream->data;
    if (n > 0 && (c->state == CONN_LINGER || c->closing))
        discard(c, (size_t)n);
    else if (n > 0 && c->tls.ssl != NULL)
        tls_input(c, (str){ from->base, (size_t)n });
    else if (n > 0)
        c->speaks->input(c, (str){ from->base, (size_t)n });
    else if (n == UV_EOF)
        conn_input_end(c);
    else if (n < 0)
        conn_close(c);
}

/* Stopping and starting costs two epoll_ctl(2): protocols do it for back-pressure only. */
void conn_read(struct conn *c, bool wanted)
{
    wanted = wanted && !c->eof;
    if (wanted == c->reading)
        return;
    c->reading = wanted;
    if (!wanted)
        uv_read_stop((uv_stream_t *)&c->tcp);
    else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        conn_close(c);
}

/* --- later ------------------------------------------------------------------------------------------------------- */

static void on_again(struct message *m)
{
    struct conn *c = CONTAINER(m, struct conn, again);
    c->again_posted = false;
    if (c->gone)
        conn_recycle(c);
    else if (c->state != CONN_CLOSED)
        c->speaks->again(c);
}

void conn_again(struct conn *c)
{
    if (c->again_posted)
        return;
    c->again_posted = true;
    c->again.run = on_again;
    loop_post(c->shard->loop, &c->again);
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
        *c = (struct conn){
            .shard = s, .next = s->conns, .speaks = &protocol_http1, .deadline_us = INT64_MAX, .fresh = true
        };
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
    conn_read(c, true);
    if (c->state == CONN_CLOSED)
        return;
    bool tls = c->shard->server->tls != NULL, crowded = open > limits_of(c)->connections;
    if (crowded && tls) /* to tell would cost a handshake */
        conn_close(c);
    else if (crowded)
        http1_refuse(c, REFUSE_CONNECTIONS);
    else
        conn_deadline(c, now_of(c) + limits_of(c)->header_us);
    if (tls && c->state != CONN_CLOSED)
        tls_accept(c);
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
    if (c->state != CONN_CLOSED && c->state != CONN_LINGER)
        c->speaks->drain(c);
}
