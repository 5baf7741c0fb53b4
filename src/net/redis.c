/* redis.c - see redis.h.
 *
 * hiredis reads the protocol; the socket is ours, since its own connect looks names up on the calling thread, which would be the loop. A connection
 * that was given up lives on as a `link` until libuv has let go of its handles, while the next one is being made. Answers carry no number:
 * the oldest command without one is theirs, so nothing may ever be taken out of the queue but by an answer. */
#include "net/redis.h"

#include "codec/url.h"
#include "net/redis_answer.h"

#include "base/rng.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { READ_BYTES = 64 << 10, LINK_ARENA = 512 << 10, ANSWER_ARENA = 2 * REDIS_ANSWER_BYTES, LATE_US = 2000 };

struct slot {
    struct redis_call *call; /* NULL: nobody wants the answer (any more) */
    i64 asked_us;
};
enum phase { CONNECTING, GREETING, UP, LATE, GONE };

struct link {
    struct redis *redis; /* may be gone when the link is */
    struct arena *arena, *answers;
    struct arena_mark answers_empty;
    redisReader *reader;
    enum phase phase;
    uv_tcp_t tcp;
    uv_prepare_t before_poll;
    uv_getaddrinfo_t lookup;
    uv_connect_t connect;
    uv_write_t write;
    struct loop_timer patience;
    bool looking_up, tcp_open, prepare_open, sending, spared;
    struct buf out, sent; /* what the next turn sends; what is being sent */
    struct slot slots[REDIS_IN_FLIGHT];
    u32 first, count, greeting; /* greeting: answers that are still to come of it */
    i64 quiet_since_us;
    char input[READ_BYTES];
};
struct redis {
    struct loop *loop;
    struct arena *arena;
    const struct redis_address *address;
    struct redis_watch watch;
    struct redis_channel channel; /* name NULL: it does not listen */
    struct link *link;
    struct loop_timer again;
    i64 backoff_us;
    u32 lookups; /* under way, of links that were given up as well */
    _Atomic u64 commands, refused, late, connects;
};

/* -- addresses ----------------------------------------------------------------------------------------------------- */

static err parse_login(struct arena *a, str login, struct redis_address *out)
{
    i64 colon = str_find_char(login, ':', 0);
    str user = colon < 0 ? login : str_slice(login, 0, (size_t)colon);
    str password = colon < 0 ? STR_NONE : str_slice(login, (size_t)colon + 1, login.n);
    if (user.n > 0 && password.n == 0) /* a user without a password cannot log in: a colon was forgotten */
        return ERR_INVALID;
    if (user.n > 0)
        TRY(url_decode(a, user, &out->user));
    if (password.n > 0)
        TRY(url_decode(a, password, &out->password));
    return OK;
}

static err parse_place(struct arena *a, str place, struct redis_address *out)
{
    bool six = place.n > 0 && place.p[0] == '[';
    i64 end = six ? str_find_char(place, ']', 0) : str_find_char(place, ':', 0), number;
    if (six && end < 0)
        return ERR_INVALID;
    str host = six ? str_slice(place, 1, (size_t)end) : str_slice(place, 0, end < 0 ? place.n : (size_t)end);
    str port = end < 0 ? STR_NONE : str_slice(place, (size_t)end + (six ? 1 : 0), place.n);
    if (port.n > 0 && (port.p[0] != ':' || !str_i64(str_slice(port, 1, port.n), 1, 65535, &number)))
        return ERR_INVALID;
    if (host.n == 0)
        return ERR_INVALID;
    for (size_t i = 0; i < host.n; i++)
        if ((u8)host.p[i] <= ' ' || (u8)host.p[i] >= 127 || host.p[i] == '/')
            return ERR_INVALID;
    out->host = str_z(a, host);
    out->port = port.n > 0 ? str_z(a, str_slice(port, 1, port.n)) : "6379";
    return out->host != NULL && out->port != NULL ? OK : ERR_MEMORY;
}

err redis_url_parse(struct arena *a, str url, struct redis_address *out)
{
    struct redis_address made = { .database = S("0") };
    i64 number, at = -1;
    if (str_starts(url, S("rediss://")))
        return ERR_MEDIA;
    if (!str_starts(url, S("redis://")))
        return ERR_INVALID;
    str rest = str_slice(url, 8, url.n);
    for (size_t i = 0; i < rest.n; i++) /* the last one: an @ in a password is often written as it is */
        if (rest.p[i] == '@')
            at = (i64)i;
    if (at >= 0)
        TRY(parse_login(a, str_slice(rest, 0, (size_t)at), &made));
    rest = str_slice(rest, (size_t)(at + 1), rest.n);
    i64 slash = str_find_char(rest, '/', 0);
    str database = slash < 0 ? STR_NONE : str_slice(rest, (size_t)slash + 1, rest.n);
    if (database.n > 0 && !str_i64(database, 0, 1 << 20, &number))
        return ERR_INVALID;
    if (database.n > 0 && (made.database = str_dup(a, database)).p == NULL)
        return ERR_MEMORY;
    TRY(parse_place(a, slash < 0 ? rest : str_slice(rest, 0, (size_t)slash), &made));
    *out = made;
    return OK;
}

/* -- the end of a connection --------------------------------------------------------------------------------------- */

static void link_free(struct link *k)
{
    if (k->looking_up || k->tcp_open || k->prepare_open)
        return;
    if (k->reader != NULL)
        redisReaderFree(k->reader);
    buf_free(&k->out);
    buf_free(&k->sent);
    arena_free(k->answers);
    arena_free(k->arena);
}

static void tcp_closed(uv_handle_t *h)
{
    struct link *k = h->data;
    k->tcp_open = false;
    link_free(k);
}

static void prepare_closed(uv_handle_t *h)
{
    struct link *k = h->data;
    k->prepare_open = false;
    link_free(k);
}

static void link_close(struct link *k)
{
    k->phase = GONE;
    loop_timer_stop(&k->patience);
    if (k->looking_up)
        uv_cancel((uv_req_t *)&k->lookup); /* one that has begun comes to its end, and finds the link gone */
    bool nothing = !k->looking_up && !k->tcp_open && !k->prepare_open;
    if (k->tcp_open)
        uv_close((uv_handle_t *)&k->tcp, tcp_closed);
    if (k->prepare_open)
        uv_close((uv_handle_t *)&k->before_poll, prepare_closed);
    if (nothing)
        link_free(k);
}

static void tell_all(struct link *k, err outcome)
{
    for (u32 i = 0; i < k->count; i++) {
        struct slot *s = &k->slots[(k->first + i) % REDIS_IN_FLIGHT];
        struct redis_call *call = s->call;
        s->call = NULL;
        if (call != NULL)
            call->done(call, outcome, NULL);
    }
}

static void connect_again(struct loop_timer *t);

/* The next try after a pause that doubles, by chance up to half longer: loops and nodes that lost it together do not come back together. */
static void link_lost(struct link *k, const char *why)
{
    struct redis *r = k->redis;
    char text[REDIS_ERROR_BYTES]; /* `why` may lie on what is about to go */
    if (k->phase == GONE)
        return;
    snprintf(text, sizeof text, "%s", why);
    k->phase = GONE; /* nothing is asked of it from inside of what is told now */
    r->link = NULL;
    r->watch.changed(r->watch.ctx, REDIS_LOST, text);
    tell_all(k, ERR_UNAVAILABLE);
    link_close(k);
    i64 pause_us = r->backoff_us + (i64)rng_below((u64)r->backoff_us / 2);
    r->backoff_us = MIN(r->backoff_us * 2, (i64)REDIS_BACKOFF_MAX_US);
    if (loop_timer_start(r->loop, &r->again, pause_us, connect_again) != OK)
        r->watch.changed(r->watch.ctx, REDIS_LOST, "no memory for the timer that would connect again");
}

/* -- patience ------------------------------------------------------------------------------------------------------ */

static void on_patience(struct loop_timer *t);

/* When something is due next: the answer to the oldest command, or the next beat. */
static err set_clock(struct link *k)
{
    static const i64 allowed[] = { [CONNECTING] = REDIS_CONNECT_US,
                                   [GREETING] = REDIS_CONNECT_US,
                                   [UP] = REDIS_PATIENCE_US,
                                   [LATE] = REDIS_DRAIN_US };
    i64 since_us = k->count > 0 ? k->slots[k->first].asked_us : k->quiet_since_us;
    i64 due_us = since_us + (k->phase == UP && k->count == 0 ? REDIS_BEAT_US : allowed[k->phase]);
    i64 delay_us = due_us - loop_now_mono_us(k->redis->loop);
    return loop_timer_start(k->redis->loop, &k->patience, k->spared ? LATE_US : MAX(delay_us, (i64)1), on_patience);
}

static void watch_clock(struct link *k)
{
    if (set_clock(k) != OK)
        link_lost(k, "no memory for a timer");
}

static bool timer_runs(const struct link *k)
{
    return k->patience.heap_index != 0;
}

/* A beat that is not answered in time is found as any other command is. */
static void beat(struct link *k)
{
    static const str ping[] = { S_INIT("PING") };
    if (redis_ask(k->redis, NULL, ping, 1) != OK)
        link_lost(k, "no memory to ask whether it is there");
}

static i64 waited_us(const struct link *k)
{
    i64 since_us = k->count > 0 ? k->slots[k->first].asked_us : k->quiet_since_us;
    return loop_now_mono_us(k->redis->loop) - since_us;
}

/* It is late for all that wait, not only for the oldest: answers come in order. They still take their places when they come, and until then nothing more is asked. */
static void too_late(struct link *k)
{
    struct redis *r = k->redis;
    k->phase = LATE;
    atomic_fetch_add_explicit(&r->late, 1, memory_order_relaxed);
    r->watch.changed(r->watch.ctx, REDIS_LATE, "it does not answer in time");
    tell_all(k, ERR_TIMEOUT);
    if (k->phase == LATE)
        watch_clock(k);
}

/* Timers run before sockets are read. When the loop itself was held up, the answer is there already: so the first time is a warning. */
static void on_patience(struct loop_timer *t)
{
    struct link *k = CONTAINER(t, struct link, patience);
    bool waits = k->count > 0 || k->phase != UP;
    i64 limit_us = k->phase == UP ? REDIS_PATIENCE_US : k->phase == LATE ? REDIS_DRAIN_US : REDIS_CONNECT_US;
    if (!waits && waited_us(k) >= REDIS_BEAT_US)
        return beat(k);
    if (!waits || waited_us(k) < limit_us)
        return watch_clock(k);
    if (!k->spared) {
        k->spared = true;
        return watch_clock(k);
    }
    k->spared = false;
    if (k->phase == UP)
        too_late(k);
    else
        link_lost(k, k->phase == LATE       ? "it has not answered for seconds"
                     : k->phase == GREETING ? "it accepts connections, but does not answer"
                                            : "it cannot be reached in time");
}

/* -- sending ------------------------------------------------------------------------------------------------------- */

static void flush(struct link *k);

static void on_written(uv_write_t *w, int status)
{
    struct link *k = w->data;
    k->sending = false;
    k->sent.n = 0;
    if (k->phase == GONE)
        return;
    if (status != 0)
        link_lost(k, uv_strerror(status));
    else
        flush(k);
}

/* What the socket takes at once needs no request; mostly that is all. */
static void flush(struct link *k)
{
    if (k->sending || k->out.n == 0 || k->phase == CONNECTING)
        return;
    struct buf swap = k->sent;
    k->sent = k->out;
    k->out = swap;
    k->out.n = 0;
    uv_buf_t rest = uv_buf_init(k->sent.p, (unsigned)k->sent.n);
    int taken = uv_try_write((uv_stream_t *)&k->tcp, &rest, 1);
    if (taken < 0 && taken != UV_EAGAIN)
        return link_lost(k, uv_strerror(taken));
    rest.base += MAX(taken, 0);
    rest.len -= (size_t)MAX(taken, 0);
    if (rest.len == 0) {
        k->sent.n = 0;
        return;
    }
    k->write.data = k;
    k->sending = true;
    int failed = uv_write(&k->write, (uv_stream_t *)&k->tcp, &rest, 1, on_written);
    if (failed != 0)
        link_lost(k, uv_strerror(failed));
}

static void on_before_poll(uv_prepare_t *p)
{
    struct link *k = p->data;
    uv_prepare_stop(p);
    if (k->phase != GONE)
        flush(k);
}

static void put_words(struct buf *b, const str *words, u32 n)
{
    buf_f(b, "*%u\r\n", n);
    for (u32 i = 0; i < n; i++) {
        buf_f(b, "$%zu\r\n", words[i].n);
        buf_str(b, words[i]);
        BUF_LIT(b, "\r\n");
    }
}

/* Whole commands or nothing. */
static err queue(struct link *k, struct redis_call *call, const str *words, u32 n)
{
    size_t before = k->out.n;
    if (k->count == REDIS_IN_FLIGHT)
        return ERR_UNAVAILABLE;
    put_words(&k->out, words, n);
    i64 now_us = loop_now_mono_us(k->redis->loop);
    k->slots[(k->first + k->count++) % REDIS_IN_FLIGHT] = (struct slot){ call, now_us };
    bool clock_wrong = k->count == 1; /* it is that of beats */
    if (k->out.fail != OK || (clock_wrong && set_clock(k) != OK)) {
        k->out.fail = OK;
        k->out.n = before;
        k->count--;
        return ERR_UNAVAILABLE;
    }
    if (before == 0)
        uv_prepare_start(&k->before_poll, on_before_poll);
    return OK;
}

bool redis_up(const struct redis *r)
{
    return r->link != NULL && r->link->phase == UP;
}

err redis_ask(struct redis *r, struct redis_call *call, const str *words, u32 n)
{
    assert(n > 0 && n <= REDIS_WORDS_MAX);
    err e = redis_up(r) ? queue(r->link, call, words, n) : ERR_UNAVAILABLE;
    atomic_fetch_add_explicit(e == OK ? &r->commands : &r->refused, 1, memory_order_relaxed);
    return e;
}

/* -- answers ------------------------------------------------------------------------------------------------------- */

/* What a server says is shown to operators: printable, and cut. */
static void lost_by_answer(struct link *k, str text)
{
    char why[REDIS_ERROR_BYTES];
    size_t n = MIN(text.n, sizeof why - 1);
    for (size_t i = 0; i < n; i++)
        why[i] = (u8)text.p[i] >= ' ' && (u8)text.p[i] < 127 ? text.p[i] : '?';
    why[n] = '\0';
    link_lost(k, n > 0 ? why : "it refuses without saying why");
}

static void up_again(struct link *k)
{
    struct redis *r = k->redis;
    k->phase = UP;
    k->quiet_since_us = loop_now_mono_us(r->loop);
    r->watch.changed(r->watch.ctx, REDIS_UP, "");
}

static void answered(struct link *k, const struct redis_answer *answer)
{
    struct slot s = k->slots[k->first];
    k->first = (k->first + 1) % REDIS_IN_FLIGHT;
    k->count--;
    k->quiet_since_us = loop_now_mono_us(k->redis->loop);
    k->spared = false;
    if (k->phase == GREETING && answer->kind == REDIS_FAILED)
        return lost_by_answer(k, answer->text);
    if (k->phase == GREETING && --k->greeting == 0) {
        k->redis->backoff_us = REDIS_BACKOFF_MIN_US;
        up_again(k);
    } else if (k->phase == LATE && k->count == 0) {
        up_again(k);
    }
    if (s.call != NULL)
        s.call->done(s.call, OK, answer);
}

/* Published messages come between the answers; what else a listener is sent are answers. */
static bool is_news(struct link *k, const struct redis_answer *answer)
{
    const struct redis_channel *c = &k->redis->channel;
    if (c->name == NULL || answer->kind != REDIS_LIST || !str_eq(redis_item(answer, 0)->text, S("message")))
        return false;
    k->quiet_since_us = loop_now_mono_us(k->redis->loop);
    c->heard(c->ctx, redis_item(answer, 2)->text);
    return true;
}

static void take_answers(struct link *k)
{
    const struct redis_answer *answer = NULL;
    const char *why = NULL;
    while (k->phase != GONE) {
        if (redis_reader_next(k->reader, &answer, &why) != OK)
            return link_lost(k, why);
        if (answer == NULL)
            break;
        if (!is_news(k, answer)) {
            if (k->count == 0)
                return link_lost(k, "it answers what nobody asked");
            answered(k, answer);
        }
        if (k->phase != GONE)
            arena_rewind(k->answers, k->answers_empty);
        answer = NULL;
    }
    if (k->phase != GONE && !timer_runs(k))
        watch_clock(k);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
    struct link *k = h->data;
    *out = uv_buf_init(k->input, sizeof k->input);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct link *k = s->data;
    if (k->phase == GONE || n == 0)
        return;
    if (n < 0)
        return link_lost(k, n == UV_EOF ? "it closed the connection" : uv_strerror((int)n));
    if (redisReaderFeed(k->reader, buf->base, (size_t)n) != REDIS_OK)
        return link_lost(k, "no memory for what it says");
    take_answers(k);
}

/* -- the beginning of a connection --------------------------------------------------------------------------------- */

/* PING: a server that still loads its data says so to it. */
static err greet(struct link *k)
{
    const struct redis_address *a = k->redis->address;
    const str login[] = { S("AUTH"), a->user, a->password }, old_login[] = { S("AUTH"), a->password };
    const str select[] = { S("SELECT"), a->database }, ping[] = { S("PING") };
    k->phase = GREETING;
    if (a->password.n > 0)
        TRY(a->user.n > 0 ? queue(k, NULL, login, 3) : queue(k, NULL, old_login, 2));
    TRY(queue(k, NULL, select, 2));
    TRY(queue(k, NULL, ping, 1));
    if (k->redis->channel.name != NULL) {
        const str subscribe[] = { S("SUBSCRIBE"), str_of(k->redis->channel.name) };
        TRY(queue(k, NULL, subscribe, 2));
    }
    k->greeting = k->count;
    return OK;
}

static void on_connect(uv_connect_t *c, int status)
{
    struct link *k = c->data;
    if (k->phase == GONE)
        return;
    if (status != 0)
        return link_lost(k, uv_strerror(status));
    uv_tcp_nodelay(&k->tcp, 1);
    k->tcp.data = k;
    int failed = uv_read_start((uv_stream_t *)&k->tcp, on_alloc, on_read);
    loop_timer_stop(&k->patience);
    if (failed != 0 || greet(k) != OK)
        link_lost(k, failed != 0 ? uv_strerror(failed) : "no memory to log in");
}

static void connect_to(struct link *k, const struct sockaddr *to)
{
    k->connect.data = k;
    int failed = uv_tcp_connect(&k->connect, &k->tcp, to, on_connect);
    if (failed != 0)
        link_lost(k, uv_strerror(failed));
}

static void on_lookup(uv_getaddrinfo_t *q, int status, struct addrinfo *found)
{
    struct link *k = q->data;
    k->looking_up = false;
    k->redis->lookups--;
    if (k->phase == GONE)
        link_free(k);
    else if (status != 0)
        link_lost(k, uv_strerror(status));
    else
        connect_to(k, found->ai_addr);
    uv_freeaddrinfo(found);
}

/* Looked up anew for each connection: after a failover a name leads elsewhere. */
static int look_up(struct link *k)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    const struct redis_address *a = k->redis->address;
    k->lookup.data = k;
    int failed = uv_getaddrinfo(loop_uv(k->redis->loop), &k->lookup, on_lookup, a->host, a->port, &hints);
    k->looking_up = failed == 0;
    k->redis->lookups += failed == 0;
    return failed;
}

static struct link *link_new(struct redis *r)
{
    struct arena *a = arena_new(LINK_ARENA), *answers = arena_new(ANSWER_ARENA);
    struct link *k = a != NULL && answers != NULL ? NEW(a, struct link) : NULL;
    redisReader *reader = k != NULL ? redis_reader_new(answers) : NULL;
    if (reader == NULL) {
        arena_free(answers);
        arena_free(a);
        return NULL;
    }
    k->redis = r;
    k->arena = a;
    k->answers = answers;
    k->answers_empty = arena_mark(answers);
    k->reader = reader;
    k->out.max = k->sent.max = REDIS_OUT_BYTES;
    k->quiet_since_us = loop_now_mono_us(r->loop);
    return k;
}

static void open_link(struct redis *r, struct link *k)
{
    r->link = k;
    atomic_fetch_add_explicit(&r->connects, 1, memory_order_relaxed);
    int failed = uv_tcp_init(loop_uv(r->loop), &k->tcp);
    k->tcp_open = failed == 0;
    k->tcp.data = k;
    uv_prepare_init(loop_uv(r->loop), &k->before_poll);
    k->prepare_open = true;
    k->before_poll.data = k;
    if (failed == 0)
        failed = look_up(k);
    if (failed != 0)
        link_lost(k, uv_strerror(failed));
    else
        watch_clock(k);
}

static void connect_again(struct loop_timer *t)
{
    struct redis *r = CONTAINER(t, struct redis, again);
    struct link *k = link_new(r);
    if (k != NULL)
        open_link(r, k);
    else if (loop_timer_start(r->loop, &r->again, REDIS_BACKOFF_MAX_US, connect_again) != OK)
        r->watch.changed(r->watch.ctx, REDIS_LOST, "no memory for a connection, nor to try again");
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

struct redis *redis_new(struct loop *l, const struct redis_address *address, struct redis_watch watch)
{
    struct arena *a = arena_new(64 * KIB);
    struct redis *r = a != NULL ? NEW(a, struct redis) : NULL;
    if (r == NULL) {
        arena_free(a);
        return NULL;
    }
    r->arena = a;
    r->loop = l;
    r->address = address;
    r->watch = watch;
    r->backoff_us = REDIS_BACKOFF_MIN_US;
    if (loop_timer_start(l, &r->again, 0, connect_again) == OK)
        return r;
    arena_free(a);
    return NULL;
}

struct redis *redis_new_listener(struct loop *l, const struct redis_address *address, struct redis_watch watch,
                                 const struct redis_channel *channel)
{
    struct redis *r = redis_new(l, address, watch);
    if (r != NULL)
        r->channel = *channel;
    return r;
}

void redis_free(struct redis *r)
{
    if (r == NULL)
        return;
    struct link *k = r->link;
    loop_timer_stop(&r->again);
    if (k != NULL)
        link_close(k);
    while (r->lookups > 0) { /* the resolver cannot be interrupted, and would answer a loop that is gone */
        loop_settle(r->loop);
        nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
    }
    arena_free(r->arena);
}

void redis_distrust(struct redis *r, const char *why)
{
    if (r->link != NULL)
        link_lost(r->link, why);
}

struct redis_figures redis_figures(const struct redis *r)
{
    return (struct redis_figures){ atomic_load_explicit(&r->commands, memory_order_relaxed),
                                   atomic_load_explicit(&r->refused, memory_order_relaxed),
                                   atomic_load_explicit(&r->late, memory_order_relaxed),
                                   atomic_load_explicit(&r->connects, memory_order_relaxed) };
}
