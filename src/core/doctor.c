/* doctor.c - the questions that somebody asks when a server does not start or does not answer, in the order in which to ask them.
 *
 * It works beside a running server and without one, so it takes no lock, makes no file and writes nothing. */
#include "core/doctor.h"
#include "base/clock.h"
#include "core/app.h"
#include "core/harden.h"
#include "net/redis.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWER_BYTES = 4096, ANSWER_SECONDS = 5, CERTIFICATE_DAYS = 14 };
#define DISK_LOW   ((u64)GIB)
#define DISK_SPENT ((u64)(64 * MIB))
#define FIRST_DAY  ((i64)20089) /* 2025-01-01: no clock of a server that runs this program can show less */

struct doctor {
    struct arena *arena;
    struct buf *out;
    struct config config;
    struct db_inspection db;
    err db_state; /* what db_inspect said */
    bool failed;
};

enum verdict { FINE, WARN, FAIL };

static void say(struct doctor *d, enum verdict v, const char *what, const char *format, ...) PRINTF_LIKE(4, 5);
static void say(struct doctor *d, enum verdict v, const char *what, const char *format, ...)
{
    static const char *const words[] = { [FINE] = "ok", [WARN] = "warn", [FAIL] = "fail" };
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_f(d->out, "%-5s %-12s %s\n", words[v], what, text);
    d->failed |= v == FAIL;
}

/* -- settings ------------------------------------------------------------------------------------------------------ */

static bool check_settings(struct doctor *d)
{
    struct buf complaint = { .arena = d->arena };
    if (config_load(d->arena, &d->config, &complaint) == OK) {
        say(d, FINE, "settings", "all can be used (weir config lists them)");
        return true;
    }
    str text = buf_view(&complaint);
    for (str line; str_cut(&text, '\n', &line);)
        if (line.n > 0)
            say(d, FAIL, "settings", "%.*s", STR_FMT(line));
    return false;
}

static void check_debug(struct doctor *d)
{
    if (d->config.debug)
        say(d, WARN, "settings", "WEIR_DEBUG shows causes of errors to clients; unset it in production");
}

/* -- folder and keys ----------------------------------------------------------------------------------------------- */

static const char *in_folder(struct doctor *d, const char *name)
{
    const char *path = str_z(d->arena, strf(d->arena, "%.*s/%s", STR_FMT(d->config.data), name));
    return path != NULL ? path : "";
}

static void check_folder(struct doctor *d)
{
    struct stat st;
    const char *path = in_folder(d, "");
    if (stat(path, &st) != 0 && errno == ENOENT)
        say(d, FINE, "data folder", "%s is not there yet; the first start makes it", path);
    else if (stat(path, &st) != 0)
        say(d, FAIL, "data folder", "%s: %s; set WEIR_DATA to a folder of the server's user", path, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        say(d, FAIL, "data folder", "%s is no folder; set WEIR_DATA to one", path);
    else if (access(path, R_OK | W_OK | X_OK) != 0)
        say(d, FAIL, "data folder", "%s: %s; give it to the server's user (chown)", path, strerror(errno));
    else if ((st.st_mode & 077) != 0)
        say(d, WARN, "data folder", "%s has mode %03o, so others may look into it: chmod 700 %s", path,
            (unsigned)st.st_mode & 0777, path);
    else if (st.st_uid != geteuid())
        say(d, WARN, "data folder", "%s belongs to user %u, and this is user %u; run weir as its owner", path,
            (unsigned)st.st_uid, (unsigned)geteuid());
    else
        say(d, FINE, "data folder", "%s is this user's alone", path);
}

static void check_key(struct doctor *d)
{
    struct stat st;
    const char *path = in_folder(d, "secret.key");
    if (d->config.secret_key.n > 0)
        say(d, FINE, "secret key", "SECRET_KEY is set");
    else if (lstat(path, &st) != 0 && errno == ENOENT && d->db_state == ERR_NOT_FOUND)
        say(d, FINE, "secret key", "%s is not there yet; the first start makes it", path);
    else if (lstat(path, &st) != 0)
        say(d, FAIL, "secret key", "%s: %s; sealed values need it: restore it from the backup", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || (st.st_mode & 077) != 0)
        say(d, FAIL, "secret key", "%s has mode %03o, and must be a file that only its owner reads: chmod 600 %s", path,
            (unsigned)st.st_mode & 0777, path);
    else
        say(d, FINE, "secret key", "%s is its owner's alone; keep a copy apart from the database", path);
}

/* Of the folder, or of the nearest one above it that exists. */
static void check_disk(struct doctor *d)
{
    struct statvfs fs;
    str path = d->config.data;
    int rc = -1;
    while (path.n > 0 && (rc = statvfs(str_z(d->arena, path), &fs)) != 0 && errno == ENOENT) {
        size_t n = path.n - 1;
        while (n > 0 && path.p[n] != '/')
            n--;
        path = str_slice(path, 0, n);
    }
    if (rc != 0 && statvfs(str_starts(d->config.data, S("/")) ? "/" : ".", &fs) != 0) {
        say(d, WARN, "disk", "%s", strerror(errno));
        return;
    }
    u64 room = (u64)fs.f_bavail * fs.f_frsize;
    enum verdict v = room < DISK_SPENT ? FAIL : room < DISK_LOW ? WARN : FINE;
    say(d, v, "disk", "%llu MiB are free%s", (unsigned long long)(room / MIB),
        v == FINE ? "" : "; writes fail with 503 when nothing is left: make room");
}

/* -- database ------------------------------------------------------------------------------------------------------ */

static void check_database(struct doctor *d)
{
    const struct db_inspection *f = &d->db;
    if (d->db_state == ERR_NOT_FOUND)
        say(d, FINE, "database", "there is none yet; the first start makes it");
    else if (d->config.database_url.n > 0 && d->db_state != OK)
        say(d, FAIL, "database", "%.*s; look at DATABASE_URL and at the server it names", STR_FMT(f->broken));
    else if (f->unsafe_login.n > 0)
        say(d, FAIL, "database", "the login %.*s may see the rows of all tenants; give weir one that is no superuser",
            STR_FMT(f->unsafe_login));
    else if (d->config.database_url.n > 0)
        say(d, FINE, "database", "PostgreSQL answers");
    else if (f->broken.n > 0 || d->db_state != OK)
        say(d, FAIL, "database", "%.*s; stop the server, keep a copy of the folder and restore the last backup",
            STR_FMT(f->broken.n > 0 ? f->broken : S("it cannot be read")));
    else if (f->orphan.n > 0)
        say(d, FAIL, "database", "a row without its parent: %.*s; restore the last backup", STR_FMT(f->orphan));
    else
        say(d, FINE, "database", "quick check and foreign keys are clean");
}

static void check_schema(struct doctor *d)
{
    const struct db_inspection *f = &d->db;
    if (d->db_state != OK)
        return;
    if (f->wrong_migration.n > 0)
        say(d, FAIL, "schema", "%.*s is not known to weir %s; use the version that made this database",
            STR_FMT(f->wrong_migration), WEIR_VERSION);
    else if (f->applied < f->known)
        say(d, WARN, "schema", "%u of %u migrations ran; the next start runs the rest: back up before", f->applied,
            f->known);
    else
        say(d, FINE, "schema", "all %u migrations ran", f->known);
}

static void check_clock(struct doctor *d)
{
    char now[CLOCK_TEXT], newest[CLOCK_TEXT];
    i64 now_us = clock_now_us();
    clock_text(now_us, now);
    clock_text(d->db.newest_applied_at, newest);
    if (now_us < FIRST_DAY * DAY_US)
        say(d, FAIL, "clock", "shows %.*s; set it, and keep it right (NTP): tokens and deadlines depend on it",
            CLOCK_TEXT, now);
    else if (now_us < d->db.newest_applied_at)
        say(d, FAIL, "clock", "shows %.*s, before the database was made (%.*s); set it", CLOCK_TEXT, now, CLOCK_TEXT,
            newest);
    else
        say(d, FINE, "clock", "%.*s", CLOCK_TEXT, now);
}

/* -- redis --------------------------------------------------------------------------------------------------------- */

struct probe {
    struct loop *loop;
    bool up;
    char why[REDIS_ERROR_BYTES];
};

/* Told within REDIS_CONNECT_US for each step, whatever is there. */
static void probed(void *ctx, enum redis_state now, const char *why)
{
    struct probe *p = ctx;
    p->up = now == REDIS_UP;
    snprintf(p->why, sizeof p->why, "%s", why);
    loop_stop(p->loop);
}

/* By the same code that serves. */
static bool probe(struct probe *p, const struct redis_address *address)
{
    struct redis *r = p->loop != NULL ? redis_new(p->loop, address, (struct redis_watch){ probed, p }) : NULL;
    if (r != NULL)
        loop_run(p->loop);
    redis_free(r);
    loop_free(p->loop);
    return r != NULL;
}

static void check_redis(struct doctor *d)
{
    struct redis_address address;
    struct probe p = { .loop = NULL };
    if (d->config.redis_url.n == 0) {
        say(d, FINE, "redis", "REDIS_URL is not set; nodes on one PostgreSQL do without");
        return;
    }
    if (d->config.database_url.n == 0) {
        say(d, WARN, "redis",
            "REDIS_URL has no effect with SQLite, which one node serves; unset it, or set DATABASE_URL");
        return;
    }
    p.loop = loop_new(0);
    if (redis_url_parse(d->arena, d->config.redis_url, &address) != OK || !probe(&p, &address))
        say(d, WARN, "redis", "no memory to look");
    else if (p.up)
        say(d, FINE, "redis", "%s:%s answers", address.host, address.port);
    else
        say(d, WARN, "redis", "%s:%s: %s; nodes do without until it is right", address.host, address.port, p.why);
}

/* -- network ------------------------------------------------------------------------------------------------------- */

static struct addrinfo *resolve(struct doctor *d)
{
    char port[16];
    const char *host = str_z(d->arena, d->config.listen_host);
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found = NULL;
    snprintf(port, sizeof port, "%lld", (long long)d->config.listen_port);
    return host != NULL && getaddrinfo(host, port, &hints, &found) == 0 ? found : NULL;
}

/* errno of a bind; 0 = free. */
static int try_bind(const struct addrinfo *at)
{
    int one = 1, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); /* connections that linger do not count */
    int failed = bind(fd, at->ai_addr, at->ai_addrlen) != 0 ? errno : 0;
    close(fd);
    return failed;
}

/* What answers there to GET /api/v1/info, head and all; n == 0: nothing. An any-address is connected to as loopback by Linux. */
static str ask(struct doctor *d, const struct addrinfo *at)
{
    static const char request[] = "GET /api/v1/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    struct timeval patience = { ANSWER_SECONDS, 0 };
    char *text = arena_alloc(d->arena, ANSWER_BYTES);
    size_t n = 0;
    int fd = text != NULL ? socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return STR_NONE;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    bool sent = connect(fd, at->ai_addr, at->ai_addrlen) == 0 &&
                send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1;
    for (ssize_t got; sent && n < ANSWER_BYTES && (got = recv(fd, text + n, ANSWER_BYTES - n, 0)) > 0;)
        n += (size_t)got;
    close(fd);
    return (str){ text, n };
}

static void check_taken(struct doctor *d, const struct addrinfo *at, const char *where)
{
    str answer = ask(d, at);
    if (d->config.tls_cert.n > 0 && str_find(answer, S("\"http.plain\""), 0) >= 0)
        say(d, FINE, "port", "a weir answers at %s, by TLS", where);
    else if (str_find(answer, S("\"name\":\"weir\""), 0) < 0)
        say(d, FAIL, "port", "%s is taken by another program; stop it, or set WEIR_LISTEN", where);
    else if (str_find(answer, S("\"version\":\"" WEIR_VERSION "\""), 0) < 0)
        say(d, WARN, "port", "a weir of another version than %s answers at %s; restart it to upgrade", WEIR_VERSION,
            where);
    else
        say(d, FINE, "port", "weir %s answers at %s", WEIR_VERSION, where);
}

static void check_port(struct doctor *d)
{
    struct addrinfo *at = resolve(d);
    const char *where =
        str_z(d->arena, strf(d->arena, "%.*s:%lld", STR_FMT(d->config.listen_host), (long long)d->config.listen_port));
    if (at == NULL || where == NULL) {
        say(d, FAIL, "port", "WEIR_LISTEN: %.*s is no address", STR_FMT(d->config.listen_host));
        return;
    }
    int failed = try_bind(at);
    if (failed == EADDRINUSE)
        check_taken(d, at, where);
    else if (failed != 0)
        say(d, FAIL, "port", "%s: %s; set WEIR_LISTEN to an address of this machine, with a port above 1023", where,
            strerror(failed));
    else
        say(d, FINE, "port", "%s is free", where);
    freeaddrinfo(at);
}

static void check_tls(struct doctor *d)
{
    const char *cert = str_z(d->arena, d->config.tls_cert), *key = str_z(d->arena, d->config.tls_key);
    struct buf complaint = { .arena = d->arena };
    struct tls *t = NULL;
    if (d->config.tls_cert.n == 0) {
        say(d, FINE, "tls", "off; a proxy may speak it, or set WEIR_TLS_CERT and WEIR_TLS_KEY");
        return;
    }
    if (cert == NULL || key == NULL || tls_new(cert, key, &complaint, &t) != OK) {
        say(d, FAIL, "tls", "%.*s", STR_FMT(str_trim(buf_view(&complaint))));
        return;
    }
    i64 days = (tls_expires_us(t) - clock_now_us()) / DAY_US;
    tls_free(t);
    if (days < CERTIFICATE_DAYS)
        say(d, days < 0 ? FAIL : WARN, "tls", "the certificate ends in %lld days; replace it, then send SIGHUP",
            (long long)days);
    else
        say(d, FINE, "tls", "the certificate is good for %lld days", (long long)days);
}

/* The address at which clouds give machine credentials to whoever asks. */
static bool allows_metadata(const struct egress *e)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(80) };
    inet_pton(AF_INET, "169.254.169.254", &a.sin_addr);
    return egress_allows(e, (struct sockaddr *)&a, S("169.254.169.254"), 80);
}

static void check_egress(struct doctor *d)
{
    const struct egress *e;
    str bad = STR_NONE;
    if (egress_new(d->arena, d->config.egress_allow, &e, &bad) != OK)
        say(d, FAIL, "egress", "WEIR_EGRESS_ALLOW: %.*s cannot be used", STR_FMT(bad));
    else if (allows_metadata(e))
        say(d, WARN, "egress",
            "WEIR_EGRESS_ALLOW lets workflows call 169.254.169.254, where clouds give credentials "
            "away; narrow it");
    else if (d->config.egress_allow.n == 0)
        say(d, FINE, "egress", "workflows may call public addresses only");
    else
        say(d, FINE, "egress", "workflows may also call %.*s", STR_FMT(d->config.egress_allow));
}

static void check_files(struct doctor *d)
{
    i64 files = harden_files();
    if (files < HARDEN_FILES_LOW)
        say(d, WARN, "files", "at most %lld may be open, one for each connection; raise the limit (LimitNOFILE=)",
            (long long)files);
    else
        say(d, FINE, "files", "%lld may be open", (long long)files);
}

/* What the next start will do: that of a running server stands in its log, and in /proc/PID/status. */
static void check_calls(struct doctor *d)
{
    const char *barred = harden_calls_barred();
    if (str_eq(d->config.seccomp, S("off")))
        say(d, WARN, "system calls", "WEIR_SECCOMP=off leaves the server all of them; unset it in production");
    else if (barred != NULL)
        say(d, WARN, "system calls", "the server keeps all of them, since %s", barred);
    else if (!harden_calls_known())
        say(d, FAIL, "system calls", "the kernel does not filter them (seccomp); WEIR_SECCOMP=off serves without");
    else
        say(d, FINE, "system calls", "the server gives up those that it does not need");
}

bool doctor(struct buf *b)
{
    static void (*const checks[])(struct doctor *) = { check_debug,    check_folder, check_key,    check_disk,
                                                       check_database, check_schema, check_redis,  check_clock,
                                                       check_port,     check_tls,    check_egress, check_files,
                                                       check_calls };
    struct doctor d = { .arena = b->arena, .out = b };
    if (!check_settings(&d))
        return false; /* the rest would look at the wrong things */
    struct db_options options = { .url = d.config.database_url };
    d.db_state =
        options.url.n > 0 ? db_inspect_url(d.arena, &options, &d.db) : db_inspect(d.arena, d.config.data, &d.db);
    for (size_t i = 0; i < COUNT(checks); i++)
        checks[i](&d);
    return !d.failed;
}
