/* raw_epoll.c - the yardstick of `make bench`: what this machine can answer when a program does nothing but answer.
 *
 * usage: raw_epoll PORT [THREADS], one per core when not given. It looks for the empty line and replies; it parses nothing, so it is no HTTP server. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, READ_BYTES = 64 << 10, BATCH = 128, THREADS_MAX = 256 };

static const char reply[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";

static int listen_on(uint16_t port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1024) != 0) {
        perror("raw_epoll: listen");
        exit(1);
    }
    return fd;
}

static void watch(int epoll, int fd)
{
    struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        close(fd);
}

static void accept_all(int epoll, int listener)
{
    int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(epoll, fd);
    }
}

/* A request that is split over two reads is answered when its end comes: only the empty line counts. */
static int count_requests(const char *p, size_t n)
{
    int count = 0;
    for (const char *end = p + n; (p = memmem(p, (size_t)(end - p), "\r\n\r\n", 4)) != NULL; p += 4)
        count++;
    return count;
}

static bool answer(int fd, int count)
{
    char out[BATCH * (sizeof reply - 1)];
    for (; count > 0; count -= BATCH) {
        int now = count < BATCH ? count : BATCH;
        for (int i = 0; i < now; i++)
            memcpy(out + (size_t)i * (sizeof reply - 1), reply, sizeof reply - 1);
        ssize_t n = (ssize_t)((size_t)now * (sizeof reply - 1));
        if (write(fd, out, (size_t)n) != n)
            return false;
    }
    return true;
}

static void serve(int fd, char *buffer)
{
    ssize_t n = read(fd, buffer, READ_BYTES);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || !answer(fd, count_requests(buffer, (size_t)n)))
        close(fd);
}

static void *run(void *port)
{
    static _Thread_local char buffer[READ_BYTES];
    struct epoll_event events[EVENTS];
    int listener = listen_on((uint16_t)(uintptr_t)port), epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                accept_all(epoll, listener);
            else
                serve(events[i].data.fd, buffer);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long port = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    long threads = argc > 2 ? strtol(argv[2], NULL, 10) : sysconf(_SC_NPROCESSORS_ONLN);
    if (argc > 3 || port < 1 || port > 65535 || threads < 1 || threads > THREADS_MAX) {
        fputs("usage: raw_epoll PORT [THREADS]\n", stderr);
        return 2;
    }
    for (long i = 1; i < threads; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, run, (void *)(uintptr_t)port) != 0)
            return 1;
    }
    run((void *)(uintptr_t)port);
}
