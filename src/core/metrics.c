/* metrics.c - series are found by their label text and never move, so a hot path looks one up once and then only adds.
 *
 * All of a metric's series are allocated together at its first use, one more than series_max: the last one collects
 * what came too late (`other`), because a label that grows without end would take the scraper down with us. */
#include "core/metrics.h"

#include <pthread.h>
#include <string.h>

#define HOME_BYTES (32 * MIB)

/* Upper bounds of the buckets, as numbers and as Prometheus reads them. */
static const struct {
    i64 us;
    const char *le;
} bounds[METRIC_BUCKETS] = {
    { 500, "0.0005" },  { 1000, "0.001" },  { 2500, "0.0025" }, { 5000, "0.005" },  { 10000, "0.01" },
    { 25000, "0.025" }, { 50000, "0.05" },  { 100000, "0.1" },  { 250000, "0.25" }, { 500000, "0.5" },
    { 1000000, "1" },   { 2500000, "2.5" }, { 5000000, "5" },   { 10000000, "10" },
};
static const char *const kind_names[] = {
    [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"
};

/* The linker makes these two from the section of that name; weak, so that a binary without any metric still links. */
extern struct metric *const __start_weir_metrics[] __attribute__((weak));
extern struct metric *const __stop_weir_metrics[] __attribute__((weak));

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for adding series */
static struct arena *home;                               /* of all series; lives as long as the process */

struct metric *const *metrics_all(size_t *count)
{
    *count = (size_t)(__stop_weir_metrics - __start_weir_metrics);
    return __start_weir_metrics;
}

/* --- series ------------------------------------------------------------------------------------------------------ */

static u32 series_max(const struct metric *m)
{
    return m->series_max != 0 ? m->series_max : METRIC_SERIES;
}

static struct metric_series *find(struct metric *m, const char *labels)
{
    u32 n = atomic_load_explicit(&m->series_count, memory_order_acquire);
    for (u32 i = 0; i < n; i++)
        if (strcmp(m->series[i].labels, labels) == 0)
            return &m->series[i];
    return NULL;
}

/* a="x",b="y" → a="other",b="other": the names stay, so that sums over a label still work. What is no label text
 * gives none. */
static void name_other(char *out, size_t room, const char *labels)
{
    struct buf b = { .p = out, .cap = room, .max = room - 1 };
    for (const char *p = labels; *p != '\0';) {
        size_t name = strcspn(p, "=");
        if (p[name] != '=' || p[name + 1] != '"')
            break;
        buf_f(&b, "%s%.*s=\"other\"", b.n > 0 ? "," : "", (int)name, p);
        for (p += name + 2; *p != '\0' && *p != '"'; p++)
            p += *p == '\\' && p[1] != '\0';
        p += strspn(p, "\",");
    }
    out[b.fail == OK ? b.n : 0] = '\0';
}

/* With the lock. NULL only when out of memory. */
static struct metric_series *add(struct metric *m, const char *labels)
{
    u32 n = atomic_load_explicit(&m->series_count, memory_order_relaxed), max = series_max(m);
    if (home == NULL)
        home = arena_new(HOME_BYTES);
    if (m->series == NULL && home != NULL)
        m->series = NEW_N(home, struct metric_series, max + 1);
    if (m->series == NULL)
        return NULL;
    if (n > max)
        return &m->series[max];
    struct metric_series *s = &m->series[n];
    bool fits = strlen(labels) < sizeof s->labels && strchr(labels, '\n') == NULL;
    if (n < max && fits)
        memcpy(s->labels, labels, strlen(labels) + 1);
    else
        name_other(s->labels, sizeof s->labels, labels);
    struct metric_series *same = fits && n < max ? NULL : find(m, s->labels);
    if (same != NULL) /* an "other" is there already */
        return same;
    atomic_store_explicit(&m->series_count, n + 1, memory_order_release);
    return s;
}

struct metric_series *metric_of(struct metric *m, const char *labels)
{
    struct metric_series *s = find(m, labels);
    if (s != NULL)
        return s;
    pthread_mutex_lock(&lock);
    s = find(m, labels); /* another thread may have been faster */
    if (s == NULL)
        s = add(m, labels);
    pthread_mutex_unlock(&lock);
    return s;
}

void metric_add(struct metric *m, const char *labels, i64 n)
{
    struct metric_series *s = metric_of(m, labels);
    if (s != NULL)
        metric_count(s, n);
}

void metric_set(struct metric *m, const char *labels, i64 value)
{
    struct metric_series *s = metric_of(m, labels);
    if (s != NULL)
        atomic_store_explicit(&s->value, value, memory_order_relaxed);
}

/* The count goes up before the bucket, and the scrape reads them the other way round: +Inf is never below a bucket. */
void metric_observe_us(struct metric_series *s, i64 us)
{
    if (s == NULL)
        return;
    u64 value = (u64)MAX(us, (i64)0);
    atomic_fetch_add_explicit(&s->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->sum_us, value, memory_order_relaxed);
    for (u32 i = 0; i < METRIC_BUCKETS; i++) {
        if ((i64)value <= bounds[i].us) {
            atomic_fetch_add_explicit(&s->buckets[i], 1, memory_order_release);
            return;
        }
    }
}

/* --- exposition -------------------------------------------------------------------------------------------------- */

static void put_help(struct buf *b, const char *help)
{
    for (; *help != '\0'; help++) {
        if (*help == '\\')
            BUF_LIT(b, "\\\\");
        else if (*help == '\n')
            BUF_LIT(b, "\\n");
        else
            buf_char(b, *help);
    }
}

/* name_suffix{labels,more} */
static void put_name(struct buf *b, const struct metric *m, const char *suffix, const char *labels, const char *more)
{
    buf_f(b, "%s%s", m->name, suffix);
    if (labels[0] == '\0' && more[0] == '\0')
        return;
    buf_f(b, "{%s%s%s}", labels, labels[0] != '\0' && more[0] != '\0' ? "," : "", more);
}

static void put_value(struct buf *b, const struct metric *m, i64 value)
{
    if (m->scale == 0 || m->scale == 1)
        buf_f(b, " %lld\n", (long long)value);
    else
        buf_f(b, " %.12g\n", (double)value * m->scale);
}

static void put_histogram(struct buf *b, const struct metric *m, const struct metric_series *s)
{
    u64 below[METRIC_BUCKETS], total = 0;
    for (u32 i = 0; i < METRIC_BUCKETS; i++)
        below[i] = total += atomic_load_explicit(&s->buckets[i], memory_order_acquire);
    u64 count = atomic_load_explicit(&s->count, memory_order_relaxed);
    u64 sum_us = atomic_load_explicit(&s->sum_us, memory_order_relaxed);
    for (u32 i = 0; i <= METRIC_BUCKETS; i++) {
        char le[24];
        struct buf text = { .p = le, .cap = sizeof le, .max = sizeof le };
        buf_f(&text, "le=\"%s\"", i < METRIC_BUCKETS ? bounds[i].le : "+Inf");
        put_name(b, m, "_bucket", s->labels, le);
        buf_f(b, " %llu\n", (unsigned long long)(i < METRIC_BUCKETS ? below[i] : count));
    }
    put_name(b, m, "_sum", s->labels, "");
    buf_f(b, " %llu.%06llu\n", (unsigned long long)(sum_us / 1000000), (unsigned long long)(sum_us % 1000000));
    put_name(b, m, "_count", s->labels, "");
    buf_f(b, " %llu\n", (unsigned long long)count);
}

static void put_read(struct buf *b, const struct metric *m)
{
    i64 value = m->read();
    if (value == METRIC_UNKNOWN)
        return;
    put_name(b, m, "", m->labels != NULL ? m->labels : "", "");
    put_value(b, m, value);
}

static void put_series(struct buf *b, const struct metric *m)
{
    u32 n = atomic_load_explicit(&m->series_count, memory_order_acquire);
    for (u32 i = 0; i < n; i++) {
        const struct metric_series *s = &m->series[i];
        if (m->kind == METRIC_HISTOGRAM) {
            put_histogram(b, m, s);
            continue;
        }
        put_name(b, m, "", s->labels, "");
        put_value(b, m, atomic_load_explicit(&s->value, memory_order_relaxed));
    }
}

/* The linker's order may part what has one name, and the format wants it together: the first of them writes for all. */
static void put_family(struct buf *b, struct metric *const *all, size_t count, size_t first)
{
    const struct metric *m = all[first];
    for (size_t i = 0; i < first; i++)
        if (strcmp(all[i]->name, m->name) == 0)
            return;
    buf_f(b, "# HELP %s ", m->name);
    put_help(b, m->help);
    buf_f(b, "\n# TYPE %s %s\n", m->name, kind_names[m->kind]);
    for (size_t i = first; i < count; i++)
        if (strcmp(all[i]->name, m->name) == 0)
            (all[i]->read != NULL ? put_read : put_series)(b, all[i]);
}

void metrics_write(struct buf *b)
{
    size_t count;
    struct metric *const *all = metrics_all(&count);
    for (size_t i = 0; i < count; i++)
        put_family(b, all, count, i);
}
