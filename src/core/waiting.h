/* waiting.h - the two figures of a queue that is a table: how much is due and not yet taken, and since when. They are read when somebody scrapes, so an
 * idle server counts nothing.
 *
 *     STMT(jobs_waiting, WAITING_SQL("jobs", "status <> 'dead' AND due_at <= $1"), .row = &waiting_table, .scope = SCOPE_SYSTEM);
 *     static i64 depth(void) { return waiting_count(&jobs_waiting); }
 *     QUEUE_DEPTH(jobs_depth, "jobs", depth); */
#pragma once

#include "core/metrics.h"
#include "db/db.h"

/* A backlog is counted so far: a scrape must not scan a table. */
#define WAITING_MAX "10000"
#define WAITING_SQL(table, where)                                                                                 \
    "SELECT count(*) AS n, min(due_at) AS oldest_at FROM (SELECT due_at FROM " table " WHERE " where " ORDER BY " \
    "due_at LIMIT " WAITING_MAX ") AS due"
extern const struct table waiting_table;
/* METRIC_UNKNOWN when the store does not answer. $1 of the statement is now. */
i64 waiting_count(const struct stmt *s);
i64 waiting_age_us(const struct stmt *s);

#define QUEUE_DEPTH(id, queue, read_)                                                                              \
    METRIC(id, "weir_queue_depth", METRIC_GAUGE, "What is due and waits for a worker; counted up to " WAITING_MAX, \
           .labels = "queue=\"" queue "\"", .read = (read_))
#define QUEUE_OLDEST(id, queue, read_)                                                                       \
    METRIC(id, "weir_queue_oldest_seconds", METRIC_GAUGE, "For how long the oldest row of the queue is due", \
           .labels = "queue=\"" queue "\"", .read = (read_), .scale = 1e-6)
