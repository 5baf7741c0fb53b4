/* worker.c - a thread with a queue, one Lua machine, and the runs it owns. It feeds run.c, writes down what that says (journal.c), sends outside calls (call.c), and
 * tells the waiters.
 *
 * A run is in one of four places: here and being worked on; here with a write on its way (`writing`: nobody touches it); here with outside calls on their
 * way; or nowhere but in the database (parked), with only its waiters kept. */
#include "engine/internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/app.h"
#include "core/metrics.h"

#include <time.h>

enum { TELL_BYTES = 4096 };

static const i64 retry_write_us = SECOND_US / 10, retry_write_max_us = 10 * SECOND_US;
static const i64 closing_us = 5 * SECOND_US;

/* --- metrics ------------------------------------------------------------------------------------------------------ */

static i64 live_now(void)
{
    return app.engine != NULL ? engine_stats(app.engine).live : 0;
}

METRIC(executions_total, "weir_executions_total", METRIC_COUNTER, "Executions that ended, by status",
       .series_max = RUN_STATES);
METRIC(execution_duration, "weir_execution_duration_seconds", METRIC_HISTOGRAM, "From being accepted to the end",
       .series_max = 1);
METRIC(executions_live, "weir_executions_live", METRIC_GAUGE,
       "Executions in memory: being worked on, or waiting for a call", .read = live_now);

static void count_end(const struct run *r)
{
    static const char *const labels[RUN_STATES] = {
        [RUN_COMPLETED] = "status=\"completed\"",
        [RUN_FAILED] = "status=\"failed\"",
        [RUN_CANCELLED] = "status=\"cancelled\"",
        [RUN_TIMED_OUT] = "status=\"timed_out\"",
    };
    metric_add(&executions_total, labels[r->state], 1);
    struct metric_series *duration = metric_of(&execution_duration, "");
    if (duration != NULL)
        metric_observe_us(duration, r->completed_at - r->created_at);
}

static void pump(struct worker *w, struct run *r);

/* --- the queue ---------------------------------------------------------------------------------------------------- */

void worker_post(struct worker *w, struct worker_message *m)
{
    m->next = NULL;
    pthread_mutex_lock(&w->lock);
    bool was_empty = w->first == NULL;
    if (was_empty)
        w->first = m;
    else
        w->last->next = m;
    w->last = m;
    if (was_empty)
        pthread_cond_signal(&w->wake); /* under the lock: once unlocked, the worker may be gone */
    pthread_mutex_unlock(&w->lock);
}

struct worker *worker_of(struct engine *e, str execution_id)
{
    return &e->workers[str_hash(execution_id) % e->worker_count];
}

/* --- waiters ------------------------------------------------------------------------------------------------------ */

static void add_waiters(struct waiter **list, struct waiter *more)
{
    while (*list != NULL)
        list = &(*list)->next;
    *list = more;
}

static bool take_waiter(struct waiter **list, struct waiter *one)
{
    for (; *list != NULL; list = &(*list)->next)
        if (*list == one) {
            *list = one->next;
            one->next = NULL;
            return true;
        }
    return false;
}

static struct waiter *take_all(struct waiter **list)
{
    struct waiter *all = *list;
    *list = NULL;
    return all;
}

/* Waiters of an execution that is not in memory. When there is no memory to remember them they are told at once, as it stands. */
static void keep_waiters(struct worker *w, str tenant_id, str id, struct waiter *list)
{
    if (list == NULL)
        return;
    struct waiter *before = map_delete(&w->parked, id);
    add_waiters(&before, list);
    if (map_put(&w->parked, id, before) != OK)
        outcome_tell(outcome_of_id(w->engine, tenant_id, id), before);
}

static void tell_as_it_stands(struct worker *w, struct run *r, struct waiter *list)
{
    if (list != NULL)
        outcome_tell(outcome_of_id(w->engine, r->tenant_id, r->id), list);
}

/* --- timed runs --------------------------------------------------------------------------------------------------- */

static void untime(struct worker *w, struct run *r)
{
    struct run **at = &w->timed;
    while (*at != NULL && *at != r)
        at = &(*at)->next_timed;
    if (*at == r)
        *at = r->next_timed;
    r->wake_at = 0;
}

static void wake_later(struct worker *w, struct run *r, i64 at_us)
{
    untime(w, r);
    r->wake_at = at_us;
    r->next_timed = w->timed;
    w->timed = r;
}

static i64 earliest(const struct worker *w)
{
    i64 first = INT64_MAX;
    for (const struct run *r = w->timed; r != NULL; r = r->next_timed)
        first = MIN(first, r->wake_at);
    return first;
}

static void wake_timed(struct worker *w)
{
    i64 now = clock_now_us();
    for (struct run *r = w->timed, *next; r != NULL; r = next) {
        next = r->next_timed;
        if (r->wake_at > now)
            continue;
        untime(w, r);
        run_wake(r, now);
        run_advance(r, w->machine);
        pump(w, r);
        next = w->timed; /* pump may have taken others' places */
    }
}

/* --- the end of a run's time in memory ---------------------------------------------------------------------------- */

static void leave(struct worker *w, struct run *r)
{
    untime(w, r);
    map_delete(&w->live, r->id);
    atomic_fetch_sub(&w->engine->live, 1);
}

static struct waiter *all_waiters(struct run *r)
{
    struct waiter *list = take_all(&r->tell_now);
    add_waiters(&list, take_all(&r->waiters));
    return list;
}

static void free_write(struct run *r)
{
    if (r->write != NULL)
        arena_free(r->write->job.arena);
    r->write = NULL;
}

/* Gone from memory; what is on disk stays as it is. */
static void drop(struct worker *w, struct run *r, err reason)
{
    leave(w, r);
    struct waiter *list = all_waiters(r);
    free_write(r);
    arena_free(r->arena);
    outcome_tell(outcome_of_error(reason), list);
}

static void finish(struct worker *w, struct run *r)
{
    struct engine *e = w->engine;
    leave(w, r);
    count_end(r);
    atomic_fetch_add(r->state == RUN_COMPLETED ? &e->completed : &e->failed, 1);
    struct waiter *list = all_waiters(r);
    outcome_tell(outcome_of_run(r), list);
}

static void park(struct worker *w, struct run *r)
{
    i64 due = r->write->row.due_at;
    leave(w, r);
    tell_as_it_stands(w, r, take_all(&r->tell_now));
    keep_waiters(w, r->tenant_id, r->id, take_all(&r->waiters));
    free_write(r);
    arena_free(r->arena);
    engine_due(w->engine, due);
}

/* --- an idempotency key that somebody else holds ------------------------------------------------------------------- */

static void mark_joined(struct waiter *list)
{
    for (; list != NULL; list = list->next)
        list->joined = true;
}

/* On the worker of the execution that is joined: `r` only carries the waiters. */
static void on_attach(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    struct run *other = map_get(&w->live, r->joins);
    if (other != NULL) {
        add_waiters(&other->waiters, take_all(&r->waiters));
    } else {
        struct outcome *o = outcome_of_id(w->engine, r->tenant_id, r->joins);
        if (o->error != OK || execution_is_final(o->execution.status)) {
            outcome_tell(o, take_all(&r->waiters));
        } else {
            outcome_release(o);
            keep_waiters(w, r->tenant_id, r->joins, take_all(&r->waiters));
        }
    }
    arena_free(r->arena);
}

static void join(struct worker *w, struct run *r)
{
    struct outcome *o = outcome_of_key(w->engine, r);
    bool told = o->error != OK || r->detached || execution_is_final(o->execution.status);
    mark_joined(r->waiters);
    mark_joined(r->tell_now);
    if (!told)
        r->joins = str_dup(r->arena, o->execution.execution_id);
    leave(w, r);
    free_write(r);
    struct waiter *now = told || r->joins.p == NULL ? all_waiters(r) : take_all(&r->tell_now);
    outcome_tell(o, now);
    if (r->waiters == NULL) {
        arena_free(r->arena);
        return;
    }
    r->message.run = on_attach;
    worker_post(worker_of(w->engine, r->joins), &r->message);
}

/* --- writes come back --------------------------------------------------------------------------------------------- */

static void on_answer(struct worker *w, struct worker_message *m);

static void send_calls(struct worker *w, struct run *r)
{
    for (u32 i = 0; i < r->plan->count; i++) {
        struct run_step *s = &r->steps[i];
        if (!s->launch || atomic_load(&w->engine->closing))
            continue;
        s->launch = false;
        if (call_send(w->engine, r, s, on_answer) == OK)
            w->busy++;
        else
            run_end(r, RUN_FAILED, "engine.memory", "The execution's memory is used up");
    }
}

static void take_answers(struct worker *w, struct run *r)
{
    struct answer_link *list = r->answers;
    r->answers = NULL;
    for (; list != NULL; list = list->next)
        run_answer(r, w->machine, call_step(list->call), call_answer(list->call));
}

static void written(struct worker *w, struct run *r)
{
    bool final = r->write->final, parked = r->write->row.due_at != 0;
    r->recorded = true;
    r->write_failures = 0;
    for (u32 i = 0; r->steps != NULL && i < r->plan->count; i++)
        r->steps[i].dirty = false;
    run_publish(r);
    if (final) {
        finish(w, r);
        return;
    }
    if (parked) {
        park(w, r);
        return;
    }
    free_write(r);
    if (r->detached)
        add_waiters(&r->tell_now, take_all(&r->waiters));
    r->detached = false;
    tell_as_it_stands(w, r, take_all(&r->tell_now));
    if (!run_state_final(r->state))
        send_calls(w, r);
    take_answers(w, r);
    run_advance(r, w->machine);
    pump(w, r);
}

/* Nothing was changed on disk. A run that has never been there ends; one that belongs to somebody else now ends when its calls are back; any other tries again,
 * later and later. */
static void not_written(struct worker *w, struct run *r, err why)
{
    free_write(r);
    if (!r->recorded) {
        drop(w, r, why);
        return;
    }
    LOG(LOG_WARN, "engine.write_failed", LOG_STR("execution", r->id), LOG_STR("cause", str_of(err_name(why))));
    if (why == ERR_PRECONDITION) {
        r->lost = true;
        run_end(r, RUN_CANCELLED, "engine.lost", "Another node has taken the execution over");
        pump(w, r);
        return;
    }
    i64 wait = MIN(retry_write_us << MIN(r->write_failures, 10u), retry_write_max_us);
    r->write_failures++;
    wake_later(w, r, clock_now_us() + wait);
}

static void on_written(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    err outcome = r->write->outcome;
    r->writing = false;
    w->busy--;
    if (outcome == OK)
        written(w, r);
    else if (outcome == ERR_CONFLICT && r->write->insert && r->dedup_key.p != NULL)
        join(w, r);
    else
        not_written(w, r, outcome == ERR_CONFLICT ? ERR_INTERNAL : outcome);
}

static void write_down(struct worker *w, struct run *r, bool final, i64 due_at)
{
    untime(w, r);
    w->busy++;
    err e = journal_write(w->engine->options.db, r, final, due_at, on_written);
    if (e == OK)
        return;
    w->busy--;
    not_written(w, r, e);
}

/* Whether something must be written before the next thing can happen. */
static bool has_news(const struct run *r, bool closing)
{
    if (!r->recorded && (r->detached || r->tell_now != NULL))
        return true;
    for (u32 i = 0; i < r->plan->count; i++)
        if ((r->steps[i].dirty && r->recorded) || (r->steps[i].launch && !closing) ||
            (r->steps[i].launch && !r->recorded))
            return true;
    return false;
}

/* What comes next for a run that nobody works on. It may be gone when this returns. */
static void pump(struct worker *w, struct run *r)
{
    bool closing = atomic_load(&w->engine->closing);
    if (r->writing)
        return;
    if (run_state_final(r->state)) {
        if (r->in_flight == 0 && r->lost)
            drop(w, r, ERR_BUSY);
        else if (r->in_flight == 0)
            write_down(w, r, true, 0);
        return; /* else its cancelled calls come back first */
    }
    i64 due = run_due(r);
    if (due != 0)
        r->state = RUN_WAITING;
    if (due != 0 || has_news(r, closing))
        write_down(w, r, false, due);
    else if (closing && r->recorded && r->in_flight == 0)
        drop(w, r, ERR_BUSY); /* a start takes it up again */
    else
        wake_later(w, r, run_next_wait(r));
}

static void on_answer(struct worker *w, struct worker_message *m)
{
    struct call *c = call_of(m);
    struct run *r = call_run(c);
    w->busy--;
    if (r->writing) { /* in order of arrival */
        struct answer_link **last = &r->answers;
        while (*last != NULL)
            last = &(*last)->next;
        *last = call_link(c);
        return;
    }
    run_answer(r, w->machine, call_step(c), call_answer(c));
    pump(w, r);
}

/* --- runs come in ------------------------------------------------------------------------------------------------- */

static err hydrate(struct worker *w, struct run *r)
{
    struct tx *tx;
    struct step_record *list = NULL;
    u32 n = 0;
    TRY(db_read_begin(w->engine->options.db, r->arena, false, &tx));
    err e = engine_plan(w->engine, tx, r->tenant_id, r->workflow_id, r->version, &r->plan);
    if (e == OK)
        e = journal_read(tx, r->tenant_id, r->id, &list, &n);
    db_read_end(tx);
    TRY(e);
    TRY(run_prepare(r));
    for (u32 i = 0; i < n; i++)
        run_restore(r, &list[i]);
    run_resume(r, clock_now_us());
    return OK;
}

/* It cannot go on now: for good when its definition is gone or no longer compiles, else for a second. */
static void not_hydrated(struct worker *w, struct run *r, err why)
{
    static const i64 again_us = SECOND_US;
    static struct plan nothing = { .users = 1 };
    LOG(LOG_ERROR, "engine.not_resumed", LOG_STR("execution", r->id), LOG_STR("cause", str_of(err_name(why))));
    plan_release(r->plan);
    r->plan = plan_keep(&nothing);
    r->steps = NULL;
    if (why == ERR_INVALID || why == ERR_NOT_FOUND) {
        run_end(r, RUN_FAILED, "engine.definition", "The definition of this version can no longer be read");
        pump(w, r);
        return;
    }
    r->state = RUN_WAITING;
    write_down(w, r, false, clock_now_us() + again_us);
}

static void on_take(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    err e = map_put(&w->live, r->id, r);
    if (r->hydrate)
        add_waiters(&r->waiters, map_delete(&w->parked, r->id));
    if (e == OK)
        e = r->hydrate ? hydrate(w, r) : run_prepare(r);
    if (e != OK && r->hydrate) {
        not_hydrated(w, r, e);
        return;
    }
    if (e != OK) {
        drop(w, r, e);
        return;
    }
    if (r->detached) {
        write_down(w, r, false, 0);
        return;
    }
    run_advance(r, w->machine);
    pump(w, r);
}

void worker_take(struct run *r)
{
    r->message.run = on_take;
    worker_post(r->worker, &r->message);
}

/* --- callers who have waited enough ------------------------------------------------------------------------------- */

struct tell_message {
    struct worker_message message;
    struct arena *arena;
    str tenant_id, execution_id;
    struct waiter *waiter;
};

static void tell_live(struct worker *w, struct run *r, struct waiter *waiter)
{
    if (!take_waiter(&r->waiters, waiter))
        return; /* told already, or about to be */
    add_waiters(&r->tell_now, waiter);
    if (r->recorded)
        tell_as_it_stands(w, r, take_all(&r->tell_now));
    else
        pump(w, r);
}

static void tell_parked(struct worker *w, const struct tell_message *t)
{
    struct waiter *list = map_delete(&w->parked, t->execution_id);
    bool found = take_waiter(&list, t->waiter);
    keep_waiters(w, t->tenant_id, t->execution_id, list);
    if (found)
        outcome_tell(outcome_of_id(w->engine, t->tenant_id, t->execution_id), t->waiter);
}

static void on_tell(struct worker *w, struct worker_message *m)
{
    struct tell_message *t = CONTAINER(m, struct tell_message, message);
    struct run *r = map_get(&w->live, t->execution_id);
    if (r != NULL)
        tell_live(w, r, t->waiter);
    else
        tell_parked(w, t);
    arena_free(t->arena);
}

void worker_tell(struct worker *w, str tenant_id, str execution_id, struct waiter *waiter)
{
    struct arena *a = arena_new(TELL_BYTES);
    struct tell_message *t = a != NULL ? NEW(a, struct tell_message) : NULL;
    if (t != NULL)
        *t = (struct tell_message){ { .run = on_tell }, a, str_dup(a, tenant_id), str_dup(a, execution_id), waiter };
    if (t == NULL || t->tenant_id.p == NULL || t->execution_id.p == NULL) {
        arena_free(a); /* the caller is told at the end instead */
        return;
    }
    worker_post(w, &t->message);
}

/* --- the thread --------------------------------------------------------------------------------------------------- */

static struct timespec after_us(i64 us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    i64 ns = t.tv_nsec + MAX(us, 0) % SECOND_US * 1000;
    t.tv_sec += MAX(us, 0) / SECOND_US + ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    return t;
}

/* All messages; NULL when it is time for a timed run, or to stop. */
static struct worker_message *wait_for_messages(struct worker *w, bool *stopping)
{
    i64 first = earliest(w);
    pthread_mutex_lock(&w->lock);
    while (w->first == NULL && !w->stopping) {
        if (first == INT64_MAX) {
            pthread_cond_wait(&w->wake, &w->lock);
            continue;
        }
        struct timespec until = after_us(first - clock_now_us());
        if (pthread_cond_timedwait(&w->wake, &w->lock, &until) != 0)
            break;
    }
    struct worker_message *list = w->first;
    w->first = w->last = NULL;
    *stopping = w->stopping;
    pthread_mutex_unlock(&w->lock);
    return list;
}

static void handle(struct worker *w, struct worker_message *list)
{
    for (struct worker_message *next; list != NULL; list = next) {
        next = list->next;
        list->run(w, list);
    }
}

/* Outside calls had their time: the rest is cancelled, and taken up again by the next start. */
static void cancel_calls(struct worker *w)
{
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(&w->live, &i)) != NULL;) {
        struct run *r = e->value;
        for (u32 k = 0; r->steps != NULL && k < r->plan->count; k++)
            if (r->steps[k].call != NULL)
                call_cancel(r->steps[k].call);
        r->lost = true;
    }
}

static void wind_down(struct worker *w)
{
    i64 until = clock_mono_us() + closing_us;
    bool cancelled = false;
    while (w->busy > 0) {
        pthread_mutex_lock(&w->lock);
        struct timespec slice = after_us(SECOND_US / 20);
        while (w->first == NULL && pthread_cond_timedwait(&w->wake, &w->lock, &slice) == 0)
            continue;
        struct worker_message *list = w->first;
        w->first = w->last = NULL;
        pthread_mutex_unlock(&w->lock);
        handle(w, list);
        if (!cancelled && clock_mono_us() > until) {
            cancelled = true;
            cancel_calls(w);
        }
    }
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(&w->live, &i)) != NULL;)
        drop(w, e->value, ERR_BUSY);
    for (u32 i = 0; (e = map_next(&w->parked, &i)) != NULL;)
        outcome_tell(outcome_of_error(ERR_BUSY), e->value);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    bool stopping = false;
    while (!stopping) {
        handle(w, wait_for_messages(w, &stopping));
        wake_timed(w);
    }
    wind_down(w);
    db_thread_end(w->engine->options.db);
    return NULL;
}

err worker_open(struct worker *w, struct engine *e, u32 index)
{
    pthread_condattr_t attr;
    *w = (struct worker){ .engine = e, .index = index, .machine = machine_new() };
    if (w->machine == NULL)
        return ERR_MEMORY;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&w->thread, NULL, worker_main, w) == 0) {
        pthread_setname_np(w->thread, "engine");
        return OK;
    }
    machine_free(w->machine);
    return ERR_BUSY;
}

void worker_close(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_mutex_unlock(&w->lock);
    pthread_cond_signal(&w->wake);
    pthread_join(w->thread, NULL);
    map_free(&w->live);
    map_free(&w->parked);
    machine_free(w->machine);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
}
