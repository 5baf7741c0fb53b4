/* executions_events.c - an execution as it runs, by server-sent events.
 *
 * Subscribe first, then read, then send: what happens in between arrives twice and is sent once, because live events carry the ids of the history and
 * only what is newer than the last sent goes out. After a gap (`lost`, or Last-Event-ID) the history is read again. */
#include "feat/executions/executions_parts.h"

#include "core/app.h"
#include "core/events.h"
#include "core/metrics.h"
#include "core/stream.h"

#include <stdatomic.h>
#include <string.h>

enum { STREAMS_MAX = 20000, EVENT_ID_BYTES = 32, LOOKS = 3 };

struct watch {
    struct req *rq;
    struct subscription *subscription;
    struct stream *stream;
    str execution_id;
    char last[EVENT_ID_BYTES]; /* id of the last event that was sent */
    bool over;                 /* there is nothing to come */
    bool broken;               /* what is to come cannot be read */
};

/* Browsers cannot send a header with a WebSocket, nor the first time with an EventSource. */
struct events_query {
    struct presence has;
    str last_event_id;
};
static const struct field events_query_fields[] = {
    FIELD(struct events_query, last_event_id, F_STR, .max = EVENT_ID_BYTES - 1,
          .doc = "As the header Last-Event-ID: only what is newer is sent"),
};
const struct table events_query_table =
    TABLE("EventsQuery", struct events_query, events_query_fields, .doc = "Where to resume");

/* Of the process: each holds a connection and a subscription. */
static _Atomic u32 watching;

static i64 read_watching(void)
{
    return atomic_load(&watching);
}
METRIC(streams, "weir_executions_streams", METRIC_GAUGE, "Live event streams of executions", .read = read_watching);

static bool is_final(str event)
{
    static const char *const names[] = { "execution.completed", "execution.failed", "execution.cancelled",
                                         "execution.timed_out" };
    for (u32 i = 0; i < COUNT(names); i++)
        if (str_eq(event, str_of(names[i])))
            return true;
    return false;
}

/* ---- sending ---- */

static void tell(struct watch *w, str id, str name, str data)
{
    if (w->over || id.n >= sizeof w->last || execution_event_cmp(id, str_of(w->last)) <= 0)
        return;
    memcpy(w->last, id.p, id.n);
    w->last[id.n] = 0;
    stream_event(w->stream, id, name, data);
    w->over = is_final(name);
}

static void unwatch(struct watch *w)
{
    events_unsubscribe(w->subscription);
    atomic_fetch_sub(&watching, 1);
}

static void closed(void *ctx)
{
    unwatch(ctx);
}

static void end(struct watch *w)
{
    struct stream *s = w->stream;
    bool broken = w->broken && !w->over;
    unwatch(w);
    if (broken) /* `w` is gone with the request */
        stream_break(s);
    else
        stream_end(s);
}

static err exists(struct watch *w, struct tx *tx)
{
    return execution_exists(w->rq, tx, w->execution_id);
}

/* What has happened so far, as far as it is news. A final execution has nothing to come, even when the client has seen its last event already. The texts are let
 * go again: a stream may live for days. */
static err send_history(struct watch *w, struct tx *tx)
{
    struct arena *a = w->rq->arena;
    struct arena_mark mark = arena_mark(a);
    struct execution x;
    struct execution_event *list = NULL;
    u32 n = 0;
    err e = execution_find(w->rq, tx, w->execution_id, &x);
    if (e == OK)
        e = execution_events(a, &x, &list, &n);
    for (u32 i = 0; i < n; i++)
        tell(w, list[i].id, list[i].name, list[i].data);
    w->over = w->over || (e == OK && execution_is_final(x.status));
    arena_rewind(a, mark);
    return e;
}

/* A read on a loop gets little time, which passes too while a busy machine does something else: then it gets as much again. */
static err look(struct watch *w, err (*read)(struct watch *w, struct tx *tx))
{
    err e = ERR_BUSY;
    for (u32 i = 0; i < LOOKS && e == ERR_BUSY; i++) {
        struct tx *tx;
        TRY(req_read(w->rq, &tx));
        e = read(w, tx);
        db_read_end(tx);
    }
    return e;
}

/* The stream is behind: what it missed is in the database. A read that fails ends it; the client comes back with Last-Event-ID. */
static void catch_up(struct watch *w)
{
    w->broken = look(w, send_history) != OK;
}

static void on_event(void *ctx, const struct event *event)
{
    struct watch *w = ctx;
    if (event != NULL)
        tell(w, event->id, event->name, event->data);
    else
        catch_up(w);
    if (w->over || w->broken)
        end(w);
}

/* ---- the route ---- */

static void resume_from(struct watch *w, str last)
{
    if (last.n > 0 && last.n < sizeof w->last)
        memcpy(w->last, last.p, last.n);
}

static err begin(struct watch *w)
{
    TRY(look(w, exists));
    TRY(stream_begin(w->rq, closed, w, &w->stream));
    catch_up(w);
    if (w->over || w->broken)
        end(w);
    return OK;
}

err execution_stream(struct req *rq)
{
    struct watch *w = NEW(rq->arena, struct watch);
    if (w == NULL)
        return ERR_MEMORY;
    if (atomic_fetch_add(&watching, 1) >= STREAMS_MAX) {
        atomic_fetch_sub(&watching, 1);
        return ERR_BUSY;
    }
    w->rq = rq;
    w->execution_id = req_param(rq, "id");
    resume_from(w, req_header(rq, "last-event-id"));
    resume_from(w, ((const struct events_query *)rq->query)->last_event_id);
    w->subscription = events_subscribe("execution", w->execution_id, on_event, w);
    err e = w->subscription != NULL ? begin(w) : ERR_MEMORY;
    if (e == OK)
        return OK;
    if (w->subscription != NULL)
        events_unsubscribe(w->subscription);
    atomic_fetch_sub(&watching, 1);
    return e;
}
