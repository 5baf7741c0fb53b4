/* health_metrics.c - figures that are asked for when somebody scrapes: the process (by the names of the Prometheus conventions) and
 * the store. All but the time of statements is read from /proc or the store, so nothing else has to be counted along. */
#include "feat/health/health.h"
#include "core/app.h"
#include "core/metrics.h"
#include "core/req.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A line "Name:   123 kB" of /proc/self/status. -1 when it is not there. */
static i64 proc_status(const char *name)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long long value = -1;
    while (f != NULL && value < 0 && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), ": %lld", &value) != 1)
            value = -1;
    if (f != NULL)
        fclose(f);
    return value;
}

static i64 rss_kib(void)
{
    return MAX(proc_status("VmRSS"), (i64)0);
}
static i64 virtual_kib(void)
{
    return MAX(proc_status("VmSize"), (i64)0);
}
static i64 threads(void)
{
    return MAX(proc_status("Threads"), (i64)0);
}

static i64 cpu_us(void)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0)
        return 0;
    return (i64)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * SECOND_US + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static i64 open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    i64 n = -3; /* ".", ".." and the directory itself */
    while (d != NULL && readdir(d) != NULL)
        n++;
    if (d != NULL)
        closedir(d);
    return MAX(n, (i64)0);
}

static i64 max_fds(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (i64)limit.rlim_cur : 0;
}

static i64 started_us(void)
{
    return app.started_us;
}
static i64 arena_bytes(void)
{
    return (i64)arena_budget_used();
}

METRIC(rss, "weir_process_resident_memory_bytes", METRIC_GAUGE, "Resident memory", .read = rss_kib, .scale = 1024);
METRIC(virtual_size, "weir_process_virtual_memory_bytes", METRIC_GAUGE, "Virtual memory", .read = virtual_kib,
       .scale = 1024);
METRIC(thread_count, "weir_process_threads", METRIC_GAUGE, "Threads", .read = threads);
METRIC(cpu, "weir_process_cpu_seconds_total", METRIC_COUNTER, "Processor time used", .read = cpu_us, .scale = 1e-6);
METRIC(fds, "weir_process_open_fds", METRIC_GAUGE, "Open file descriptors", .read = open_fds);
METRIC(fds_max, "weir_process_max_fds", METRIC_GAUGE, "Most file descriptors that may be open", .read = max_fds);
METRIC(start_time, "weir_process_start_time_seconds", METRIC_GAUGE, "When the process started, since 1970",
       .read = started_us, .scale = 1e-6);
METRIC(arenas, "weir_arena_bytes", METRIC_GAUGE, "Memory held by requests, jobs and executions", .read = arena_bytes);

static i64 db_batches(void)
{
    return (i64)db_stats(app.db).batches;
}
static i64 db_jobs(void)
{
    return (i64)db_stats(app.db).jobs;
}
static i64 db_failed(void)
{
    return (i64)db_stats(app.db).failed;
}
static i64 db_statement_count(void)
{
    return (i64)db_stats(app.db).statements;
}
static i64 db_queued(void)
{
    return db_stats(app.db).queued;
}
static i64 db_oldest_us(void)
{
    return db_stats(app.db).oldest_queued_us;
}
static i64 db_commit_us(void)
{
    return db_stats(app.db).last_commit_us;
}
static i64 db_disk_full(void)
{
    return db_stats(app.db).disk_full;
}
static i64 db_wal(void)
{
    return (i64)db_stats(app.db).wal_pages;
}

METRIC(batches, "weir_db_batches_total", METRIC_COUNTER, "Commits; each holds the writes of many requests",
       .read = db_batches);
METRIC(jobs, "weir_db_writes_total", METRIC_COUNTER, "Write transactions", .read = db_jobs);
METRIC(failed, "weir_db_writes_failed_total", METRIC_COUNTER, "Write transactions that were rolled back",
       .read = db_failed);
METRIC(statement_count, "weir_db_statements_total", METRIC_COUNTER, "Statements run", .read = db_statement_count);
METRIC(queued, "weir_db_queue_depth", METRIC_GAUGE, "Write transactions that wait", .read = db_queued);
METRIC(oldest, "weir_db_queue_oldest_seconds", METRIC_GAUGE, "Age of the oldest waiting write", .read = db_oldest_us,
       .scale = 1e-6);
METRIC(commit_time, "weir_db_last_commit_seconds", METRIC_GAUGE, "How long the last commit took", .read = db_commit_us,
       .scale = 1e-6);
METRIC(disk_full, "weir_db_disk_full", METRIC_GAUGE, "1 while writes find the disk full", .read = db_disk_full);
METRIC(wal, "weir_db_wal_pages", METRIC_GAUGE, "Pages in the write-ahead log", .read = db_wal);

METRIC(statement_time, "weir_db_statement_duration_seconds", METRIC_HISTOGRAM,
       "How long statements took with their rows, by name, but for commits; every one is measured", .series_max = 1024);

/* By the statement's place among all. Made at start; each cell is written once, with what any thread would have found. */
static _Atomic(struct metric_series *) *times;

static void statement_took(const struct stmt *s, i64 took_us)
{
    size_t count;
    _Atomic(struct metric_series *) *cell = &times[s->slot - db_statements(&count)];
    struct metric_series *series = atomic_load_explicit(cell, memory_order_acquire);
    if (series == NULL) {
        char labels[sizeof series->labels];
        snprintf(labels, sizeof labels, "statement=\"%s\"", s->name);
        series = metric_of(&statement_time, labels);
        atomic_store_explicit(cell, series, memory_order_release);
    }
    metric_observe_us(series, took_us);
}

err health_metrics_start(void)
{
    size_t count;
    db_statements(&count);
    times = arena_array(app.arena, count, sizeof *times);
    if (times == NULL)
        return ERR_MEMORY;
    db_observe_by(statement_took);
    return OK;
}

err health_metrics(struct req *rq)
{
    struct buf b = { .arena = rq->arena };
    metrics_write(&b);
    if (b.fail != OK)
        return b.fail;
    return reply_raw(rq, 200, S("text/plain; version=0.0.4; charset=utf-8"), buf_view(&b));
}
