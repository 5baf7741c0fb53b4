/* app.c - the life of the process: everything is opened in one order and closed in the opposite one.
 *
 * Whatever can be wrong is found before the listener opens, so a server that accepts a connection is one that works; the rest of
 * the house may therefore treat `app` as constant. */
#include "core/app.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/bus.h"
#include "core/cache.h"
#include "core/events.h"
#include "core/forwarded.h"
#include "core/harden.h"
#include "core/jobs.h"
#include "core/keys.h"
#include "core/limit.h"
#include "core/metrics.h"
#include "core/nodes.h"
#include "core/pipeline.h"
#include "core/shared.h"
#include "core/supervise.h"
#include "net/tls.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct app app;

enum {
    EXIT_FAILED = 1,
    EXIT_CONFIG = 2,
    LOOP_STACK = 1 << 20,
    SLOW_QUEUE = 256,
    HASHING_QUEUE = 64,
    READS_QUEUE = 4096,
    LOOPS_MAX = 256
};
#define APP_ARENA (256 * MIB)
#define DRAIN_US  (25 * SECOND_US) /* of the 30 s that a stop may take; the rest is for what comes after the requests */

/* What only serving needs; beside `app` because no one else may see it. */
static struct {
    struct listener main, metrics;
    struct http_server *metrics_server;
    struct tls *tls; /* NULL: the API speaks plain HTTP */
    pthread_t threads[LOOPS_MAX];
    u32 thread_count, started_modules;
    uv_signal_t signals[3];
    struct loop_timer deadline;
    _Atomic u32 undrained;
    sem_t drained; /* what main waits for */
    struct message end;
    atomic_bool ended; /* by ourselves */
} serving;

static i64 connections(void)
{
    return app.server != NULL ? (i64)http_connections(app.server) : 0;
}
METRIC(http_connections_open, "weir_http_connections", METRIC_GAUGE, "Open connections", .read = connections);

static i64 certificate_expires(void)
{
    return serving.tls != NULL ? tls_expires_us(serving.tls) / SECOND_US : 0;
}
METRIC(tls_expires, "weir_tls_certificate_expires_seconds", METRIC_GAUGE,
       "When the certificate ends, since 1970; 0 without TLS", .read = certificate_expires);

/* -- complaints ---------------------------------------------------------------------------------------------------- */

static int say(int code, str text)
{
    for (str line; str_cut(&text, '\n', &line);)
        if (line.n > 0)
            fprintf(stderr, "weir: %.*s\n", STR_FMT(line));
    return code;
}

static int say_or(int code, const struct buf *complaint, str otherwise)
{
    return say(code, complaint->n > 0 ? buf_view(complaint) : otherwise);
}

/* -- opening ------------------------------------------------------------------------------------------------------- */

static enum log_format log_format(str name)
{
    if (name.n == 0)
        return isatty(STDERR_FILENO) ? LOG_TEXT : LOG_JSON;
    return str_eq(name, S("off")) ? LOG_OFF : str_eq(name, S("text")) ? LOG_TEXT : LOG_JSON;
}

static int open_config(enum log_level least)
{
    app.arena = arena_new(APP_ARENA);
    struct buf complaint = { .arena = app.arena };
    if (app.arena == NULL)
        return say(EXIT_FAILED, S("out of memory"));
    err e = config_load(app.arena, &app.config, &complaint);
    if (e != OK)
        return say_or(EXIT_CONFIG, &complaint, str_of(err_text(e)));
    log_setup(log_format(app.config.log), least);
    i64 machine = (i64)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    arena_budget((size_t)(app.config.memory_max != 0 ? app.config.memory_max : machine / 2));
    str bad;
    e = egress_new(app.arena, app.config.egress_allow, &app.egress, &bad);
    return e == OK ? 0 : say(EXIT_CONFIG, S("WEIR_EGRESS_ALLOW: cannot be used"));
}

static struct db_options store_options(const struct config *c)
{
    return (struct db_options){ .folder = c->data,
                                .url = c->database_url,
                                .pool_size = (u32)c->db_pool_size,
                                .pool_overflow = (u32)c->db_pool_overflow,
                                .pool_wait_us = c->db_pool_wait_s * SECOND_US,
                                .pool_recycle_us = c->db_pool_recycle_s * SECOND_US,
                                .statement_us = c->db_statement_s * SECOND_US,
                                .programs = c->pg_bin };
}

/* The URL itself is never shown: it holds a password. */
static int not_opened(err e)
{
    if (app.config.database_url.n > 0)
        return say(
            EXIT_FAILED,
            e == ERR_FORBIDDEN
                ? S("DATABASE_URL: its login is a superuser or may bypass row-level security, which would let one"
                    " tenant see another's rows; give weir a login of its own (docs/operations.md)")
                : S("DATABASE_URL: the database cannot be reached or used (the log says why)"));
    const char *why = e == ERR_BUSY ? "data folder is in use by another process" : "the database cannot be opened";
    return say(EXIT_FAILED, strf(app.arena, "%.*s: %s", STR_FMT(app.config.data), why));
}

static int open_store(void)
{
    struct buf complaint = { .arena = app.arena };
    struct db_options options = store_options(&app.config);
    err e = config_folder(&app.config, &complaint);
    if (e != OK)
        return say_or(EXIT_CONFIG, &complaint, S("WEIR_DATA: cannot be used"));
    e = db_open(&options, &app.db);
    if (e != OK)
        return not_opened(e);
    e = config_secrets(app.arena, &app.config, &complaint);
    return e == OK ? 0 : say_or(EXIT_FAILED, &complaint, S("the data folder's keys cannot be read or made"));
}

/* A wrong key is found here, and not by the first person whose code no longer matches. */
static int open_keys(bool read_only)
{
    err e = keys_open(app.db, app.arena, read_only);
    if (e == ERR_INTERNAL)
        return say(EXIT_CONFIG,
                   S("SECRET_KEY: is not the key that this database was sealed under (or mac_keys cannot be"
                     " read); if it was changed, give the one of before as SECRET_KEY_PREVIOUS"));
    return e == OK ? 0 : say(EXIT_FAILED, S("the keys of this database cannot be read"));
}

static int open_schema(void)
{
    err e = db_migrate_up(app.db);
    if (e == ERR_CONFLICT)
        return say(EXIT_FAILED,
                   S("the database was made by a newer weir, or a migration was changed (weir migrate status)"));
    return e == OK ? open_keys(false) : say(EXIT_FAILED, S("the database cannot be migrated"));
}

int app_open_settings(struct db_options *store)
{
    harden_process();
    int code = open_config(LOG_WARN);
    if (code == 0)
        *store = store_options(&app.config);
    return code;
}

int app_open_unmigrated(void)
{
    harden_process();
    int code = open_config(LOG_WARN);
    return code != 0 ? code : open_store();
}

/* The keys must be there: making one here would hide that it is lost. */
int app_open_reading(void)
{
    harden_process();
    int code = open_config(LOG_WARN);
    if (code != 0)
        return code;
    struct db_options options = store_options(&app.config);
    options.read_only = true;
    struct buf complaint = { .arena = app.arena };
    const char *key = str_z(app.arena, strf(app.arena, "%.*s/secret.key", STR_FMT(app.config.data)));
    err e = db_open(&options, &app.db);
    if (e != OK && options.url.n > 0)
        return not_opened(e);
    if (e != OK)
        return say(EXIT_CONFIG, strf(app.arena, "%.*s: there is no database to read", STR_FMT(app.config.data)));
    if (app.config.secret_key.n == 0 && (key == NULL || access(key, R_OK) != 0))
        return say(EXIT_CONFIG, S("SECRET_KEY is not set, and the data folder's secret.key cannot be read"));
    e = config_secrets(app.arena, &app.config, &complaint);
    return e == OK ? open_keys(true) : say_or(EXIT_CONFIG, &complaint, S("the data folder's keys cannot be read"));
}

int app_open(void)
{
    int code = app_open_unmigrated();
    return code != 0 ? code : open_schema();
}

void app_close(void)
{
    if (app.db != NULL) {
        db_thread_end(app.db);
        db_close(app.db);
    }
    app.db = NULL;
    arena_free(app.arena);
    app.arena = NULL;
}

/* -- starting ------------------------------------------------------------------------------------------------------ */

/* Before the first thread, which every later one takes it over from. What is switched off says so in each start's log. */
static int give_up_calls(void)
{
    const char *why = harden_calls_barred();
    if (str_eq(app.config.seccomp, S("off")))
        why = "WEIR_SECCOMP=off";
    if (why != NULL) {
        LOG(LOG_WARN, "harden.unfiltered", LOG_STR("why", str_of(why)));
        return 0;
    }
    if (harden_calls() != OK)
        return say(EXIT_FAILED,
                   S("the kernel does not filter system calls (seccomp); WEIR_SECCOMP=off serves without"));
    LOG(LOG_INFO, "harden.filtered", LOG_STR("calls", S("all but those that serving needs")));
    return 0;
}

static int look_at_limits(void)
{
    if (harden_files() < HARDEN_FILES_LOW)
        LOG(LOG_WARN, "harden.files_low", LOG_INT("files", harden_files()),
            LOG_STR("why", S("each connection is one; raise the limit (ulimit -Hn, LimitNOFILE=)")));
    return 0;
}

static int check(void)
{
    struct buf complaint = { .arena = app.arena };
    err statements = db_check(app.db, &complaint);
    err tables = modules_check(&complaint);
    if (statements == OK && tables == OK)
        return 0;
    return say_or(EXIT_FAILED, &complaint, S("the built-in tables could not be checked"));
}

static int build(void)
{
    if (headers_build(app.arena, &app.config) == OK && forwarded_build(&app.config) == OK &&
        limit_plans_set(app.arena, app.config.api_limits) == OK && routes_build() == OK &&
        openapi_build(app.arena) == OK)
        return 0;
    return say(EXIT_FAILED, S("the routes or their document cannot be built"));
}

static u32 loop_count(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    i64 wanted = app.config.loops != 0 ? app.config.loops : cores;
    return (u32)MIN(MAX(wanted, (i64)1), (i64)LOOPS_MAX);
}

static int make_loops(void)
{
    u32 count = loop_count();
    app.loops = NEW_N(app.arena, struct loop *, count);
    app.clients = NEW_N(app.arena, struct client *, count);
    if (app.loops == NULL || app.clients == NULL)
        return say(EXIT_FAILED, S("out of memory"));
    for (; app.loop_count < count; app.loop_count++) {
        u32 i = app.loop_count;
        app.loops[i] = loop_new(i);
        app.clients[i] = app.loops[i] != NULL ? client_new(app.loops[i], app.egress) : NULL;
        if (app.clients[i] == NULL)
            return say(EXIT_FAILED, S("no resources for a network thread"));
    }
    app.slow = pool_new("weir-slow", (u32)app.config.slow_threads, SLOW_QUEUE);
    app.hashing = pool_new("weir-hash", (u32)app.config.hash_threads, HASHING_QUEUE);
    if (app.slow == NULL || app.hashing == NULL)
        return say(EXIT_FAILED, S("no resources for the pools"));
    if (!db_reads_block(app.db))
        return 0;
    app.reads = pool_new("weir-read", db_pool_size(app.db), READS_QUEUE);
    return app.reads != NULL ? 0 : say(EXIT_FAILED, S("no resources for the pool of reads"));
}

static int join_nodes(void)
{
    struct buf complaint = { .arena = app.arena };
    return nodes_start(&complaint) == OK
               ? 0
               : say_or(EXIT_FAILED, &complaint, S("the node cannot be entered in the database"));
}

static int open_shared(void)
{
    return shared_open() == OK && hot_start() == OK ? 0 : say(EXIT_FAILED, S("no memory for the connections to Redis"));
}

static int start_modules(void)
{
    for (const struct module *const *m = modules; *m != NULL; m++) {
        err e = (*m)->start != NULL ? (*m)->start() : OK;
        if (e != OK)
            return say(EXIT_FAILED, strf(app.arena, "%s: cannot start: %s", (*m)->name, err_text(e)));
        serving.started_modules++;
    }
    return jobs_start() == OK ? 0 : say(EXIT_FAILED, S("the job queue cannot start"));
}

static int start_bus(void)
{
    return bus_start() == OK ? 0 : say(EXIT_FAILED, S("no resources for news between nodes"));
}

/* Among the first: a certificate that cannot be used is a wrong setting, and nothing has been touched yet. */
static int open_tls(void)
{
    struct buf complaint = { .arena = app.arena };
    if (app.config.tls_cert.n == 0)
        return 0;
    const char *cert = str_z(app.arena, app.config.tls_cert), *key = str_z(app.arena, app.config.tls_key);
    err e = cert != NULL && key != NULL ? tls_new(cert, key, &complaint, &serving.tls) : ERR_MEMORY;
    return e == OK ? 0 : say_or(EXIT_CONFIG, &complaint, S("WEIR_TLS_CERT: cannot be used"));
}

static int listen_at(struct listener *l, str host, i64 port, struct http_server **out)
{
    struct http_handler handler = req_handler(l);
    err e = http_listen(app.loops, app.loop_count, host, (u16)port, &http_default_limits, &handler, out);
    if (e == OK)
        return 0;
    const char *why = e == ERR_BUSY      ? "is taken by another process"
                      : e == ERR_INVALID ? "is no address of this machine"
                                         : "cannot be opened";
    return say(EXIT_FAILED, strf(app.arena, "%.*s:%lld %s", STR_FMT(host), (long long)port, why));
}

/* Last of what can fail: a listener that is open has a whole server behind it. */
static int listen_all(void)
{
    str host;
    i64 port;
    serving.metrics.metrics_only = true;
    serving.undrained = 1;
    int code = listen_at(&serving.main, app.config.listen_host, app.config.listen_port, &app.server);
    if (code == 0 && serving.tls != NULL && http_use_tls(app.server, serving.tls) != OK)
        return say(EXIT_FAILED, S("no memory for TLS"));
    if (code != 0 || !config_host_port(app.config.metrics_listen, &host, &port))
        return code;
    serving.undrained = 2;
    return listen_at(&serving.metrics, host, port, &serving.metrics_server);
}

static void ready(void)
{
    bool v6 = str_find_char(app.config.listen_host, ':', 0) >= 0;
    str url = strf(app.arena, "http%s://%s%.*s%s:%u", serving.tls != NULL ? "s" : "", v6 ? "[" : "",
                   STR_FMT(app.config.listen_host), v6 ? "]" : "", http_port(app.server));
    if (isatty(STDERR_FILENO) && app.config.log.n == 0)
        fprintf(stderr, "Weir %s listens on %.*s\n", WEIR_VERSION, STR_FMT(url));
    else
        LOG(LOG_INFO, "app.ready", LOG_STR("version", S(WEIR_VERSION)), LOG_STR("url", url),
            LOG_INT("started_ms", (clock_now_us() - app.started_us) / 1000));
    supervise_say("READY=1");
}

/* -- stopping ------------------------------------------------------------------------------------------------------ */

static void on_drained(void *ctx)
{
    if (atomic_fetch_sub(&serving.undrained, 1) == 1)
        sem_post(&serving.drained);
}

static void on_deadline(struct loop_timer *t)
{
    LOG(LOG_WARN, "app.drain_ended", LOG_INT("connections", connections()));
    sem_post(&serving.drained);
}

static void exit_now(int number)
{
    _exit(EXIT_FAILED);
}

/* On loop 0. Readiness fails first, then the listeners close, and main goes on when the last connection has gone. */
static void drain(int number)
{
    supervise_say("STOPPING=1");
    LOG(LOG_INFO, "app.draining", LOG_INT("signal", number), LOG_INT("connections", connections()));
    if (loop_timer_start(app.loops[0], &serving.deadline, DRAIN_US, on_deadline) != OK)
        sem_post(&serving.drained);
    http_drain(app.server, on_drained, NULL);
    if (serving.metrics_server != NULL)
        http_drain(serving.metrics_server, on_drained, NULL);
}

static void on_signal(uv_signal_t *handle, int number)
{
    if (atomic_exchange(&app.draining, true)) /* somebody is in a hurry */
        exit_now(number);
    drain(number);
}

static void on_end(struct message *m)
{
    if (!atomic_exchange(&app.draining, true))
        drain(0);
}

void app_end(void)
{
    serving.end.run = on_end;
    if (!atomic_exchange(&serving.ended, true))
        loop_post(app.loops[0], &serving.end);
}

/* A few file reads and a signature: little enough for a loop, once in months. */
static void on_reload(uv_signal_t *handle, int number)
{
    struct arena *a = arena_new(64 * KIB);
    struct buf complaint = { .arena = a };
    err e = a == NULL ? ERR_MEMORY : serving.tls != NULL ? tls_reload(serving.tls, &complaint) : OK;
    if (e == OK)
        LOG(LOG_INFO, "app.reloaded", LOG_INT("certificate_expires", certificate_expires()));
    else
        LOG(LOG_ERROR, "tls.not_reloaded",
            LOG_STR("cause", complaint.n > 0 ? str_trim(buf_view(&complaint)) : str_of(err_text(e))));
    arena_free(a);
}

static int watch_signals(void)
{
    static const struct {
        int number;
        uv_signal_cb then;
    } list[COUNT(serving.signals)] = { { SIGTERM, on_signal }, { SIGINT, on_signal }, { SIGHUP, on_reload } };
    int failed = 0;
    for (size_t i = 0; i < COUNT(list); i++) {
        failed |= uv_signal_init(loop_uv(app.loops[0]), &serving.signals[i]);
        failed |= uv_signal_start(&serving.signals[i], list[i].then, list[i].number);
    }
    failed |= supervise_watch(app.loops[0]) != OK;
    return failed == 0 ? 0 : say(EXIT_FAILED, S("signals cannot be watched"));
}

/* -- running ------------------------------------------------------------------------------------------------------- */

static void rest_reads(void *db)
{
    db_read_rest(db);
}

static void *loop_thread(void *arg)
{
    u32 i = (u32)(uintptr_t)arg;
    char name[16];
    snprintf(name, sizeof name, "weir-loop-%u", i);
    pthread_setname_np(pthread_self(), name);
    db_thread_begin(app.db);
    loop_before_sleep(app.loops[i], rest_reads, app.db);
    loop_run(app.loops[i]);
    loop_before_sleep(app.loops[i], NULL, NULL); /* it takes some turns more when the database is closed */
    client_free(app.clients[i]);
    db_thread_end(app.db);
    cache_thread_end();
    return NULL;
}

static int start_loops(void)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, LOOP_STACK);
    int failed = sem_init(&serving.drained, 0, 0);
    for (u32 i = 0; i < app.loop_count && failed == 0; i++) {
        failed = pthread_create(&serving.threads[i], &attr, loop_thread, (void *)(uintptr_t)i);
        serving.thread_count += failed == 0;
    }
    pthread_attr_destroy(&attr);
    return failed == 0 ? 0 : say(EXIT_FAILED, S("no resources for a network thread"));
}

static void stop_modules(void)
{
    jobs_stop();
    while (serving.started_modules > 0) {
        const struct module *m = modules[--serving.started_modules];
        if (m->stop != NULL)
            m->stop();
    }
}

static void stop_loops(void)
{
    for (u32 i = 0; i < app.loop_count; i++)
        loop_stop(app.loops[i]);
    for (u32 i = 0; i < serving.thread_count; i++)
        pthread_join(serving.threads[i], NULL);
    shared_close();            /* before any request that may wait for it */
    signal(SIGTERM, exit_now); /* the loop that watched them is gone */
    signal(SIGINT, exit_now);
}

static void free_loops(void)
{
    for (size_t i = 0; i < COUNT(serving.signals); i++)
        uv_close((uv_handle_t *)&serving.signals[i], NULL);
    for (u32 i = 0; i < app.loop_count; i++) {
        loop_settle(app.loops[i]);
        loop_free(app.loops[i]);
    }
    app.loop_count = 0;
}

/* Modules end while the loops still run: the engine's outgoing calls come back over them. Threads that hold requests end before the
 * server's memory does; the store ends before the loops that its writer posts to. */
static void stop_everything(void)
{
    bus_deafen();
    stop_modules();
    stop_loops();
    pool_free(app.hashing);
    pool_free(app.slow);
    pool_free(app.reads);
    nodes_stop();
    bus_stop();
    events_end();
    db_thread_end(app.db);
    db_close(app.db);
    app.db = NULL;
    http_free(serving.metrics_server);
    http_free(app.server);
    tls_free(serving.tls);
    free_loops();
    app_close();
}

int app_serve(void)
{
    static int (*const steps[])(void) = { open_tls,      give_up_calls, look_at_limits, open_store,    open_schema,
                                          check,         build,         make_loops,     join_nodes,    open_shared,
                                          start_modules, start_bus,     listen_all,     watch_signals, start_loops };
    app.started_us = clock_now_us();
    harden_process();
    int code = open_config(LOG_INFO);
    for (size_t i = 0; i < COUNT(steps) && code == 0; i++)
        code = steps[i]();
    if (code != 0)
        return code; /* nothing has been promised yet; the kernel cleans up faster */
    ready();
    while (sem_wait(&serving.drained) != 0) /* interrupted */
        ;
    stop_everything();
    return serving.ended ? EXIT_FAILED : 0;
}
