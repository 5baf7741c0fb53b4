/* sinks.h - what happened goes out to whoever asked for it when the program was built: a sink is a row, like a route or a metric.
 *
 * events.h tells those who watch at this moment; a sink gets everything of its kind. A durable one gets it from a job that is written in the transaction of
 * what happened: at least once, also after a crash, in no order. The others get it from memory after the commit: in order, but not what a crash or a full queue
 * takes. Rejected: an outbox table with cursors, which would be a second queue beside `jobs` with its own retries, leases and cleaning. */
#pragma once

#include "core/module.h"
#include "db/db.h"

enum { SINK_DATA_MAX = 64 * 1024, SINK_QUEUE_MAX = 1024 };

struct happening {
    const char *name; /* "execution.failed" */
    str tenant_id, object_id;
    str data; /* JSON text of ids and states; values are read from where they are. At most SINK_DATA_MAX */
    i64 at_us;
};
struct sink {
    const char *name;   /* "webhooks" */
    const char *events; /* the happenings whose names begin so: "execution." or "execution.failed" */
    bool durable;
    /* In the slow pool. Of a durable one retryable errors are tried again with back-off. */
    err (*take)(const struct happening *h, struct arena *a);
};
/* SINK(alerts, .name = "alerts", .events = "execution.failed", .durable = true, .take = alert); */
#define SINK(id, ...)                              \
    static const struct sink id = { __VA_ARGS__ }; \
    static const struct sink *const id##_entry __attribute__((section("weir_sinks"), used)) = &id

/* Whether anybody asked: what nobody wants need not be put into words. */
bool sinks_want(const char *name);
/* Inside the transaction of what happened: for the durable ones. */
err sinks_record(struct tx *tx, const struct happening *h) MUST;
/* After its commit, from any thread: for the others. Never waits; what does not fit is dropped and counted. */
void sinks_tell(const struct happening *h);

extern const struct module sinks_module;
