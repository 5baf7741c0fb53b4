/* load.c - a closed-loop load generator: each connection sends a request, waits for its answer, sends the next.
 *
 * usage: load HOST PORT CONNECTIONS SECONDS THREADS (FILE | METHOD PATH [-H "Name: value"]... [-d BODY])
 * FILE holds the raw bytes of one request, or of several, each behind a line "@<bytes>": connections then go round them, each from a place of its own. Prints one JSON line. Times are exact up to 1 ms and within 1.6 % above (log-linear
 * buckets): a sample array would have to be sorted, or would miss the tail. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 256,
    HEAD_MAX = 32 << 10,
    READ_BYTES = 64 << 10,
    REQUEST_MAX = 2 << 20,
    PIECES_MAX = 8192,
    THREADS_MAX = 64,
    CONNECTIONS_MAX = 50000,
    EXACT_US = 1024,
    SUB = 64, /* buckets per doubling */
    BUCKETS = EXACT_US + 24 * SUB,
};

struct load {
    struct sockaddr_storage to;
    socklen_t to_n;
    char request[REQUEST_MAX];
    size_t request_n;
    struct {
        size_t at, n;
    } pieces[PIECES_MAX]; /* of `request`: what is sent */
    int piece_count;
    bool head; /* answers have no body */
    int64_t end_us;
};

/* Reading an answer: the head is gathered, of the body only the rest is counted. */
struct connection {
    int fd, piece; /* piece: what it sends now */
    size_t sent;
    int64_t begun_us;
    char head[HEAD_MAX];
    size_t head_n;
    uint64_t body_left;
    bool in_body, close_after;
    enum { PLAIN, SIZE_LINE, DATA, TRAILER } chunk;
};

struct worker {
    const struct load *load;
    pthread_t thread;
    int epoll, count;
    struct connection *connections;
    uint64_t requests, errors, non_2xx;
    uint64_t buckets[BUCKETS];
};

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* --- times ------------------------------------------------------------------------------------------------------- */

static int bucket_of(int64_t us)
{
    if (us < EXACT_US)
        return us < 0 ? 0 : (int)us;
    int doubling = 63 - __builtin_clzll((uint64_t)us) - 10;
    int bucket = EXACT_US + doubling * SUB + (int)((us >> (doubling + 4)) & (SUB - 1));
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static int64_t bucket_us(int bucket)
{
    if (bucket < EXACT_US)
        return bucket;
    int doubling = (bucket - EXACT_US) / SUB, sub = (bucket - EXACT_US) % SUB;
    return (int64_t)(SUB + sub) << (doubling + 4);
}

static int64_t quantile(const uint64_t *buckets, uint64_t total, double q)
{
    uint64_t want = (uint64_t)((double)total * q), seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += buckets[i]) > want)
            return bucket_us(i);
    return 0;
}

/* --- a connection ------------------------------------------------------------------------------------------------ */

static void connection_close(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void await(struct worker *w, struct connection *c, uint32_t events)
{
    struct epoll_event e = { .events = events, .data.ptr = c };
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &e);
}

/* Sends what is left of the request; false on a broken connection. */
static bool send_rest(struct worker *w, struct connection *c)
{
    const struct load *l = w->load;
    bool was_blocked = c->sent > 0;
    size_t whole = l->pieces[c->piece].n;
    ssize_t n = send(c->fd, l->request + l->pieces[c->piece].at + c->sent, whole - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != ENOTCONN)
        return false;
    c->sent += n > 0 ? (size_t)n : 0;
    if (c->sent < whole)
        await(w, c, EPOLLIN | EPOLLOUT);
    else if (was_blocked)
        await(w, c, EPOLLIN);
    return true;
}

static bool begin_request(struct worker *w, struct connection *c)
{
    c->sent = c->head_n = 0;
    c->body_left = 0;
    c->in_body = c->close_after = false;
    c->chunk = PLAIN;
    c->piece = (c->piece + 1) % w->load->piece_count;
    c->begun_us = now_us();
    return send_rest(w, c);
}

static bool connection_open(struct worker *w, struct connection *c)
{
    const struct load *l = w->load;
    int one = 1;
    c->fd = socket(l->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&l->to, l->to_n) != 0)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, c->fd, &e) == 0 && begin_request(w, c);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static const char *field(const struct connection *c, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = c->head; (line = strstr(line, "\r\n")) != NULL;) {
        line += 2;
        if (strncasecmp(line, name, n) == 0 && line[n] == ':')
            return line + n + 1 + strspn(line + n + 1, " ");
    }
    return NULL;
}

/* Status and framing of a complete head. False when it is none. */
static bool read_head(struct worker *w, struct connection *c)
{
    if (strncmp(c->head, "HTTP/1.", 7) != 0 || c->head_n < 12)
        return false;
    int status = (int)strtol(c->head + 9, NULL, 10);
    const char *length = field(c, "content-length"), *coding = field(c, "transfer-encoding"),
               *connection = field(c, "connection");
    bool bare = w->load->head || status == 204 || status == 304;
    w->non_2xx += status < 200 || status > 299;
    c->in_body = true;
    c->close_after = connection != NULL && strncasecmp(connection, "close", 5) == 0;
    c->body_left = length != NULL && !bare ? strtoull(length, NULL, 10) : 0;
    c->chunk = coding != NULL && !bare ? SIZE_LINE : PLAIN;
    c->head_n = 0; /* gathers chunk lines from here */
    return true;
}

/* A gathered line of a chunked body; true when it ended the body. */
static bool chunk_line(struct connection *c)
{
    bool empty = c->head_n == 2;
    c->head[c->head_n] = '\0';
    c->head_n = 0;
    if (c->chunk == TRAILER)
        return empty;
    c->body_left = strtoull(c->head, NULL, 16) + 2;
    c->chunk = c->body_left == 2 ? TRAILER : DATA;
    if (c->chunk == TRAILER)
        c->body_left = 0;
    return false;
}

/* Uses bytes of a body; *done when it has ended. Returns how many, -1 on nonsense. */
static ssize_t take_body(struct connection *c, const char *p, size_t n, bool *done)
{
    size_t used = 0;
    while (used < n && !*done) {
        if (c->chunk == PLAIN || c->chunk == DATA) {
            size_t now = n - used < c->body_left ? n - used : (size_t)c->body_left;
            c->body_left -= now;
            used += now;
            *done = c->chunk == PLAIN && c->body_left == 0;
            if (c->chunk == DATA && c->body_left == 0)
                c->chunk = SIZE_LINE;
        } else {
            if (c->head_n + 1 >= HEAD_MAX)
                return -1;
            c->head[c->head_n++] = p[used++];
            if (c->head[c->head_n - 1] == '\n')
                *done = chunk_line(c);
        }
    }
    return (ssize_t)used;
}

/* Gathers up to the empty line; -1 when there is none within bounds. */
static ssize_t take_head(struct worker *w, struct connection *c, const char *p, size_t n)
{
    size_t before = c->head_n, room = HEAD_MAX - 1 - before, now = n < room ? n : room;
    memcpy(c->head + before, p, now);
    size_t from = before > 3 ? before - 3 : 0;
    const char *end = memmem(c->head + from, before + now - from, "\r\n\r\n", 4);
    c->head_n = before + now;
    if (end == NULL)
        return now < n ? -1 : (ssize_t)now;
    size_t used = (size_t)(end + 4 - c->head) - before;
    c->head_n = before + used;
    c->head[c->head_n] = '\0';
    return read_head(w, c) ? (ssize_t)used : -1;
}

/* False when the connection is of no more use. */
static bool take_answer(struct worker *w, struct connection *c, const char *p, size_t n)
{
    bool done = false;
    ssize_t used = c->in_body ? 0 : take_head(w, c, p, n);
    if (used < 0)
        return false;
    if (c->in_body && c->chunk == PLAIN && c->body_left == 0)
        done = true;
    else if (c->in_body && (used += take_body(c, p + used, n - (size_t)used, &done)) < 0)
        return false;
    if (!done)
        return true;
    w->requests++;
    w->buckets[bucket_of(now_us() - c->begun_us)]++;
    if ((size_t)used != n)
        return false; /* bytes nobody asked for */
    if (!c->close_after)
        return begin_request(w, c);
    connection_close(c);
    return connection_open(w, c);
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

static void on_event(struct worker *w, struct connection *c, uint32_t events, char *buffer)
{
    bool fine = true;
    if (events & EPOLLOUT)
        fine = send_rest(w, c);
    if (fine && (events & (EPOLLIN | EPOLLERR | EPOLLHUP))) {
        ssize_t n = recv(c->fd, buffer, READ_BYTES, MSG_DONTWAIT);
        fine = n > 0 ? take_answer(w, c, buffer, (size_t)n) : n < 0 && errno == EAGAIN;
    }
    if (fine)
        return;
    w->errors++;
    connection_close(c);
    if (now_us() < w->load->end_us && !connection_open(w, c))
        connection_close(c);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[EVENTS];
    char *buffer = malloc(READ_BYTES);
    for (int i = 0; i < w->count && buffer != NULL; i++)
        if (!connection_open(w, &w->connections[i])) {
            w->errors++;
            connection_close(&w->connections[i]);
        }
    for (int64_t now; buffer != NULL && (now = now_us()) < w->load->end_us;) {
        int n = epoll_wait(w->epoll, events, EVENTS, (int)((w->load->end_us - now) / 1000) + 1);
        for (int i = 0; i < n; i++)
            on_event(w, events[i].data.ptr, events[i].events, buffer);
    }
    for (int i = 0; i < w->count; i++)
        connection_close(&w->connections[i]);
    free(buffer);
    return NULL;
}

static void report(const struct worker *workers, int count, double seconds)
{
    static uint64_t buckets[BUCKETS];
    uint64_t requests = 0, errors = 0, non_2xx = 0;
    for (int t = 0; t < count; t++) {
        requests += workers[t].requests;
        errors += workers[t].errors;
        non_2xx += workers[t].non_2xx;
        for (int i = 0; i < BUCKETS; i++)
            buckets[i] += workers[t].buckets[i];
    }
    printf(
        "{\"requests\":%llu,\"seconds\":%.3f,\"per_second\":%.0f,\"p50_us\":%lld,\"p99_us\":%lld,\"errors\":%llu,\"non_2xx\":%llu}\n",
        (unsigned long long)requests, seconds, (double)requests / seconds, (long long)quantile(buckets, requests, 0.50),
        (long long)quantile(buckets, requests, 0.99), (unsigned long long)errors, (unsigned long long)non_2xx);
}

/* --- the request ------------------------------------------------------------------------------------------------- */

static bool put(struct load *l, const char *text, size_t n)
{
    if (n > REQUEST_MAX - l->request_n)
        return false;
    memcpy(l->request + l->request_n, text, n);
    l->request_n += n;
    return true;
}

static bool put_text(struct load *l, const char *text)
{
    return put(l, text, strlen(text));
}

static bool read_file(struct load *l, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return false;
    l->request_n = fread(l->request, 1, REQUEST_MAX, f);
    fclose(f);
    return l->request_n > 0 && l->request_n < REQUEST_MAX;
}

/* "@<bytes>" and a line's end before each; without any it is one request. False when they do not come out even. */
static bool cut(struct load *l)
{
    size_t at = 0;
    if (l->request[0] != '@') {
        l->pieces[0].n = l->request_n;
        l->piece_count = 1;
        return true;
    }
    while (at < l->request_n && l->piece_count < PIECES_MAX) {
        char *end = l->request + at;
        size_t n = l->request[at] == '@' ? strtoul(l->request + at + 1, &end, 10) : 0;
        at = (size_t)(end + 1 - l->request);
        if (n == 0 || *end != '\n' || n > l->request_n - at)
            return false;
        l->pieces[l->piece_count].at = at;
        l->pieces[l->piece_count++].n = n;
        at += n;
    }
    return at == l->request_n;
}

/* argv: METHOD PATH [-H line]... [-d body] */
static bool build_request(struct load *l, int argc, char **argv, const char *host)
{
    const char *body = NULL;
    char length[48];
    bool fine = put_text(l, argv[0]) && put_text(l, " ") && put_text(l, argv[1]) &&
                put_text(l, " HTTP/1.1\r\nHost: ") && put_text(l, host) && put_text(l, "\r\n");
    for (int i = 2; i < argc && fine; i += 2) {
        bool header = strcmp(argv[i], "-H") == 0;
        if (i + 1 == argc || (!header && strcmp(argv[i], "-d") != 0))
            return false;
        if (header)
            fine = put_text(l, argv[i + 1]) && put_text(l, "\r\n");
        else
            body = argv[i + 1];
    }
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", body != NULL ? strlen(body) : 0);
    return fine && (body == NULL || put_text(l, length)) && put_text(l, "\r\n") && (body == NULL || put_text(l, body));
}

static bool resolve(struct load *l, const char *host, const char *port)
{
    struct addrinfo want = { .ai_socktype = SOCK_STREAM }, *found = NULL;
    if (getaddrinfo(host, port, &want, &found) != 0)
        return false;
    memcpy(&l->to, found->ai_addr, found->ai_addrlen);
    l->to_n = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static int run_all(struct load *l, long connections, double seconds, long threads)
{
    static struct worker workers[THREADS_MAX];
    struct connection *all = calloc((size_t)connections, sizeof *all);
    if (all == NULL)
        return 1;
    for (long i = 0; i < connections; i++)
        all[i].piece = (int)(i * l->piece_count / connections);
    int64_t begun = now_us();
    long given = 0, started = 0;
    l->end_us = begun + (int64_t)(seconds * 1e6);
    for (; started < threads; started++) {
        struct worker *w = &workers[started];
        long mine = connections / threads + (started < connections % threads);
        *w = (struct worker){
            .load = l, .epoll = epoll_create1(EPOLL_CLOEXEC), .count = (int)mine, .connections = all + given
        };
        given += mine;
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            break;
    }
    for (long t = 0; t < started; t++)
        pthread_join(workers[t].thread, NULL);
    report(workers, (int)started, (double)(now_us() - begun) / 1e6);
    free(all);
    return started == threads ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct load l;
    long connections = argc > 6 ? strtol(argv[3], NULL, 10) : 0, threads = argc > 6 ? strtol(argv[5], NULL, 10) : 0;
    double seconds = argc > 6 ? strtod(argv[4], NULL) : 0;
    bool right = connections >= 1 && connections <= CONNECTIONS_MAX && threads >= 1 && threads <= THREADS_MAX &&
                 threads <= connections && seconds > 0;
    if (!right || !resolve(&l, argv[1], argv[2]) ||
        !(argc == 7 ? read_file(&l, argv[6]) : build_request(&l, argc - 6, argv + 6, argv[1])) || !cut(&l)) {
        fputs(
            "usage: load HOST PORT CONNECTIONS SECONDS THREADS (FILE | METHOD PATH [-H \"Name: value\"]... [-d BODY])\n",
            stderr);
        return 2;
    }
    l.head = strncmp(l.request, "HEAD ", 5) == 0;
    return run_all(&l, connections, seconds, threads);
}
