/* epoll_commit.c - the yardstick for durable requests: the raw epoll loop, which hands each body to the bare commits and answers when they are on the disk.
 *
 * usage: epoll_commit PORT FOLDER [THREADS], one loop per core when not given. A loop finds the empty line and Content-Length and parses nothing else; the one thread
 * that commits takes whoever waits, inserts a row for each, commits, and writes the answers itself: no program that answers after a commit does less. */
#include "commits.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, REQUEST_BYTES = 8 << 10, CONNECTIONS = 4096, THREADS_MAX = 256 };

static const char reply[] =
    "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";

/* By descriptor. A connection has one request at a time, so its bytes are its own loop's, then the committer's, until it is answered. */
struct connection {
    struct connection *next;
    char bytes[REQUEST_BYTES];
    size_t n;
    str body;
    int fd;
};
static struct connection connections[CONNECTIONS];
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t some;
    struct connection *first;
} waiting = { .mutex = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER };
static uint16_t port;

static int listen_here(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1024) != 0) {
        perror("epoll_commit: listen");
        exit(1);
    }
    return fd;
}

static void watch(int epoll, int fd)
{
    struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
    if (fd >= CONNECTIONS || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        close(fd);
}

static void accept_all(int epoll, int listener)
{
    int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fd < CONNECTIONS)
            connections[fd].n = 0;
        watch(epoll, fd);
    }
}

/* Whether all of it is there. */
static bool find_body(struct connection *c)
{
    static const char length[] = "\r\nContent-Length: ";
    const char *end = memmem(c->bytes, c->n, "\r\n\r\n", 4);
    const char *at = end != NULL ? memmem(c->bytes, (size_t)(end - c->bytes), length, sizeof length - 1) : NULL;
    size_t n = at != NULL ? strtoul(at + sizeof length - 1, NULL, 10) : 0;
    if (end == NULL || (size_t)(c->bytes + c->n - (end + 4)) < n)
        return false;
    c->body = (str){ end + 4, n };
    return true;
}

static void hand_over(struct connection *c)
{
    pthread_mutex_lock(&waiting.mutex);
    bool first = waiting.first == NULL;
    c->next = waiting.first;
    waiting.first = c;
    pthread_mutex_unlock(&waiting.mutex);
    if (first)
        pthread_cond_signal(&waiting.some);
}

static void serve(int fd)
{
    struct connection *c = &connections[fd];
    c->fd = fd;
    ssize_t n = read(fd, c->bytes + c->n, sizeof c->bytes - c->n);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        close(fd);
        return;
    }
    c->n += (size_t)n;
    if (find_body(c))
        hand_over(c);
}

static void *run_loop(void *arg)
{
    struct epoll_event events[EVENTS];
    int listener = listen_here(), epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                accept_all(epoll, listener);
            else
                serve(events[i].data.fd);
        }
    }
    return NULL;
}

static struct connection *take_all(void)
{
    pthread_mutex_lock(&waiting.mutex);
    while (waiting.first == NULL)
        pthread_cond_wait(&waiting.some, &waiting.mutex);
    struct connection *list = waiting.first;
    waiting.first = NULL;
    pthread_mutex_unlock(&waiting.mutex);
    return list;
}

static void answer(struct connection *c)
{
    c->n = 0; /* before the client can know, and send more */
    if (write(c->fd, reply, sizeof reply - 1) != sizeof reply - 1)
        shutdown(c->fd, SHUT_RDWR); /* its loop closes it */
}

static void commit_for_ever(struct commits *c)
{
    for (;;) {
        struct connection *list = take_all();
        commits_begin(c);
        for (struct connection *one = list; one != NULL; one = one->next)
            commits_insert(c, one->body);
        commits_end(c);
        for (struct connection *next; list != NULL; list = next) {
            next = list->next;
            answer(list);
        }
    }
}

int main(int argc, char **argv)
{
    i64 number, threads = sysconf(_SC_NPROCESSORS_ONLN);
    if (argc < 3 || argc > 4 || !str_i64(str_of(argv[1]), 1, 65535, &number) ||
        (argc == 4 && !str_i64(str_of(argv[3]), 1, THREADS_MAX, &threads))) {
        fputs("usage: epoll_commit PORT FOLDER [THREADS]\n", stderr);
        return 2;
    }
    port = (uint16_t)number;
    signal(SIGPIPE, SIG_IGN);
    struct commits *c = commits_open(argv[2]);
    for (i64 i = 0; i < threads; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, run_loop, NULL) != 0)
            return 1;
    }
    commit_for_ever(c);
}
