/* supervise.c - see supervise.h. libsystemd was rejected: a library for one datagram.
 *
 * Nothing here can fail a start or a stop: who cannot be told is not told. */
#include "core/supervise.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
    struct loop *loop;
    struct loop_timer timer;
    i64 every_us;
} watch;

void supervise_say(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    size_t n = path != NULL ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(to.sun_path, path, n);
    if (path[0] == '@') /* a name in no folder */
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    ssize_t ignored = sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&to,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    (void)ignored;
    close(fd);
}

static void on_watch(struct loop_timer *t)
{
    supervise_say("WATCHDOG=1");
    err ignored = loop_timer_start(watch.loop, t, watch.every_us, on_watch); /* else we are restarted, which is right */
    (void)ignored;
}

err supervise_watch(struct loop *l)
{
    i64 us, pid;
    str given = str_of(getenv("WATCHDOG_USEC")), whose = str_of(getenv("WATCHDOG_PID"));
    if (!str_i64(given, 1, DAY_US, &us) || (whose.n > 0 && (!str_i64(whose, 1, INT32_MAX, &pid) || pid != getpid())))
        return OK;
    watch.loop = l;
    watch.every_us = us / 2;
    return loop_timer_start(l, &watch.timer, watch.every_us, on_watch);
}
