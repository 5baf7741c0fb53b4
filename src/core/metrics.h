/* metrics.h - counters, gauges and histograms for /metrics (Prometheus text): static rows, per-thread-free atomics, no labels of users or tenants. */
#pragma once

#include "base/buf.h"
#include <stdatomic.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
enum { METRIC_SERIES = 64, METRIC_BUCKETS = 14 };
struct metric_series {
    char labels[160]; /* route="/x",method="GET",status="2xx" */
    _Atomic u64 count, sum_us, buckets[METRIC_BUCKETS];
    _Atomic i64 value;
};
#define METRIC_UNKNOWN INT64_MIN
struct metric {
    const char *name,
        *help; /* several of one name are one family: each brings its own series, so help and kind are the first one's */
    enum metric_kind kind;
    i64 (*read)(void); /* a gauge or counter that is asked when scraped (METRIC_UNKNOWN: nothing is shown); else NULL */
    const char *labels;           /* of what is read; NULL = none */
    double scale;                 /* read() × scale is the value; 0 = 1 */
    struct metric_series *series; /* grows to series_max, then the rest counts as "other" */
    _Atomic u32 series_count;
    u32 series_max;
};
#define METRIC(id, name_, kind_, help_, ...)                                                      \
    static struct metric id = { .name = (name_), .kind = (kind_), .help = (help_), __VA_ARGS__ }; \
    static struct metric *const id##_entry __attribute__((section("weir_metrics"), used)) = &id
struct metric *const *metrics_all(size_t *count);

/* `labels` is ready text ("" = none); finding a series is a short scan, so hot paths keep the pointer. NULL only when out of memory. */
struct metric_series *metric_of(struct metric *m, const char *labels);
/* What a hot path does with the pointer it kept. */
static inline void metric_count(struct metric_series *s, i64 n)
{
    atomic_fetch_add_explicit(&s->value, n, memory_order_relaxed);
}
void metric_add(struct metric *m, const char *labels, i64 n);
void metric_set(struct metric *m, const char *labels, i64 value);
void metric_observe_us(struct metric_series *s, i64 us);
/* The whole exposition, version 0.0.4: HELP and TYPE always. */
void metrics_write(struct buf *b);
