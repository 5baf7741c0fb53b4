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

enum { TELL_BYTES = 4096, PARKED_BYTES = 4096, LOOK_BYTES = 1 << 20, LOOK_PAGE = 500 };

/* A history is cut down to states when it finds no memory so often, and only a large one: what is left out is lost, and a small one finds memory later. */
enum { THIN_BYTES = 1 << 20 };
static const u32 thin_after = 3;

static const i64 retry_write_us = SECOND_US / 10, retry_write_max_us = 10 * SECOND_US;
static const i64 default_closing_us = 5 * SECOND_US;

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
static void put_back(struct worker *w, struct run *r);

/* --- the queue ---------------------------------------------------------------------------------------------------- */

/* Wakes the worker when the lock is free again: one that wakes to a lock that its waker still has sleeps a second time, which was the most frequent reason for a change of
 * threads. The worker may be gone by then; worker_join waits for whoever is still posting. */
void worker_post(struct worker *w, struct worker_message *m)
{
    m->next = NULL;
    atomic_fetch_add(&w->posting, 1);
    pthread_mutex_lock(&w->lock);
    bool was_empty = w->first == NULL;
    if (was_empty)
        w->first = m;
    else
        w->last->next = m;
    w->last = m;
    pthread_mutex_unlock(&w->lock);
    if (was_empty)
        pthread_cond_signal(&w->wake);
    atomic_fetch_sub(&w->posting, 1);
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

/* Waiters of an execution that is not in memory. */
struct parked {
    struct arena *arena;
    str tenant_id;
    struct waiter *waiters;
};

static struct waiter *unpark(struct worker *w, str id)
{
    struct parked *p = map_delete(&w->parked, id);
    struct waiter *list = p != NULL ? p->waiters : NULL;
    if (p != NULL)
        arena_free(p->arena);
    return list;
}

/* When there is no memory to remember them they are told at once, as it stands. */
static void keep_waiters(struct worker *w, str tenant_id, str id, struct waiter *list)
{
    if (list == NULL)
        return;
    struct parked *p = map_get(&w->parked, id);
    if (p != NULL) {
        add_waiters(&p->waiters, list);
        return;
    }
    struct arena *a = arena_new(PARKED_BYTES);
    p = a != NULL ? NEW(a, struct parked) : NULL;
    if (p != NULL)
        *p = (struct parked){ a, str_dup(a, tenant_id), list };
    if (p != NULL && p->tenant_id.p != NULL && map_put(&w->parked, id, p) == OK)
        return;
    arena_free(a);
    outcome_tell(outcome_of_id(w->engine, tenant_id, id), list);
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

static void wake_run(struct worker *w, struct run *r, i64 now)
{
    untime(w, r);
    if (r->unready) {
        put_back(w, r);
        return;
    }
    run_wake(r, now);
    run_advance(r, w->machine);
    pump(w, r);
}

static void wake_timed(struct worker *w)
{
    i64 now = clock_now_us();
    for (struct run *r = w->timed; r != NULL;) {
        bool due = r->wake_at <= now;
        if (due)
            wake_run(w, r, now);
        r = due ? w->timed : r->next_timed; /* what was woken may have changed the list */
    }
}

/* --- the end of a run's time in memory ---------------------------------------------------------------------------- */

/* A claim that is not begun: the row says that we have it until it is given back (spread.c), or the engine closes. */
static void forget_claim(struct worker *w, struct run *r)
{
    atomic_fetch_sub(&w->engine->live, 1);
    arena_free(r->arena);
}

static void leave(struct worker *w, struct run *r)
{
    untime(w, r);
    map_delete(&w->live, r->id);
    atomic_fetch_sub(&w->engine->live, 1);
    if (r->successor != NULL && atomic_load(&w->engine->closing))
        forget_claim(w, r->successor);
    else if (r->successor != NULL)
        worker_take(r->successor);
    r->successor = NULL;
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

/* Gone from memory; what is on disk stays as it is, and whoever waits for something on disk is told of that, or goes on waiting for another node to end it. */
static void drop(struct worker *w, struct run *r, err reason)
{
    bool elsewhere = r->lost && r->recorded && !atomic_load(&w->engine->closing);
    leave(w, r);
    struct waiter *list = all_waiters(r);
    if (elsewhere)
        keep_waiters(w, r->tenant_id, r->id, list);
    else if (list != NULL)
        outcome_tell(r->recorded ? outcome_of_id(w->engine, r->tenant_id, r->id) : outcome_of_error(reason), list);
    free_write(r);
    arena_free(r->arena);
}

/* After the commit that says so: its parent may go on, children that it does not want any more end. */
static void tell_relatives(struct worker *w, struct run *r)
{
    const struct write *wr = r->write;
    if (wr->failure.handler != NULL && wr->failure.handler->started) {
        atomic_fetch_add(&w->engine->started, 1);
        engine_due(w->engine, r->last_us);
    }
    if (wr->final && r->parent_step.p != NULL)
        worker_say(worker_of(w->engine, r->parent_id), NEWS_LOOK, r->parent_id);
    for (u32 i = 0; i < wr->cancelled_count; i++)
        worker_say(worker_of(w->engine, wr->cancelled[i].id), wr->cancelled[i].kill_at != 0 ? NEWS_KILL : NEWS_CANCEL,
                   wr->cancelled[i].id);
    for (u32 i = 0; i < wr->abandoned_count; i++)
        worker_say(worker_of(w->engine, wr->abandoned[i]), NEWS_CANCEL, wr->abandoned[i]);
    if (wr->final && (r->hydrate || r->wanted)) /* it has been elsewhere, where somebody may wait for it */
        spread_say(w->engine, NEWS_ENDED, r->id);
}

/* What came back while the end of a killed run was being written. */
static void forget_answers(struct run *r)
{
    for (struct answer_link *next; r->answers != NULL; r->answers = next) {
        next = r->answers->next;
        call_release(r->answers->call);
    }
}

static void finish(struct worker *w, struct run *r)
{
    struct engine *e = w->engine;
    tell_relatives(w, r);
    if (r->write->happening.name != NULL)
        sinks_tell(&r->write->happening);
    forget_answers(r);
    leave(w, r);
    count_end(r);
    atomic_fetch_add(r->state == RUN_COMPLETED ? &e->completed : &e->failed, 1);
    struct waiter *list = all_waiters(r);
    outcome_tell(outcome_of_run(r), list);
}

static void park(struct worker *w, struct run *r)
{
    i64 due = r->cancelling || r->poked
                  ? r->last_us
                  : r->write->row.due_at; /* asked for while it was being parked: then it is due */
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

/* Back on its own worker: what the joined execution came to. */
static void on_joined(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    leave(w, r);
    outcome_tell(r->joined, all_waiters(r));
    arena_free(r->arena);
}

static void proxy_tell(struct waiter *proxy, struct outcome *o)
{
    struct run *r = CONTAINER(proxy, struct run, proxy);
    r->joined = o;
    r->message.run = on_joined;
    worker_post(r->worker, &r->message);
}

/* On the worker of the execution that is joined. */
static void on_attach(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    struct run *other = map_get(&w->live, r->joins);
    if (other != NULL) {
        add_waiters(&other->waiters, &r->proxy);
        return;
    }
    struct outcome *o = outcome_of_id(w->engine, r->tenant_id, r->joins);
    if (o->error != OK || execution_is_final(o->execution.status)) {
        outcome_tell(o, &r->proxy);
        return;
    }
    outcome_release(o);
    keep_waiters(w, r->tenant_id, r->joins, &r->proxy);
    spread_say(w->engine, NEWS_WANT, r->joins);
}

/* The run stays, under its own id, for nothing but its waiters: callers know that id only. One proxy waits for all of them where the other execution is. */
static void join(struct worker *w, struct run *r)
{
    struct outcome *o = outcome_of_key(w->engine, r);
    bool told = o->error != OK || r->detached || execution_is_final(o->execution.status);
    mark_joined(r->waiters);
    mark_joined(r->tell_now);
    free_write(r);
    if (!told)
        r->joins = str_dup(r->arena, o->execution.execution_id);
    if (r->joins.p == NULL)
        add_waiters(&r->tell_now, take_all(&r->waiters));
    outcome_tell(o, take_all(&r->tell_now));
    if (r->waiters == NULL) {
        leave(w, r);
        arena_free(r->arena);
        return;
    }
    r->proxy.tell = proxy_tell;
    r->message.run = on_attach;
    worker_post(worker_of(w->engine, r->joins), &r->message);
}

/* --- what is left to others ---------------------------------------------------------------------------------------- */

/* Whether outside calls are made here: not while the engine closes, and not on a node that only answers requests. What there would be to send is parked, and due. */
static bool sends(const struct worker *w)
{
    return w->engine->works && !atomic_load(&w->engine->closing);
}

/* --- writes come back --------------------------------------------------------------------------------------------- */

static void on_answer(struct worker *w, struct worker_message *m);

static void send_calls(struct worker *w, struct run *r)
{
    assert(r->root != NULL);
    STEPS (r, s) {
        if (!s->launch || s->dirty || r->in_flight >= CALLS_PER_RUN || !sends(w))
            continue;
        s->launch = false;
        if (call_send(w->engine, r, s, on_answer) == OK)
            w->busy++;
        else
            run_end(r, RUN_FAILED, STARVED_CODE, STARVED_TEXT);
    }
}

static void take_answers(struct worker *w, struct run *r)
{
    struct answer_link *list = r->answers;
    r->answers = NULL;
    if (r->killing && list != NULL) /* what they bring comes too late */
        run_cancel(r);
    for (struct answer_link *next; list != NULL; list = next) {
        next = list->next;
        run_answer(r, w->machine, call_step(list->call), call_answer(list->call));
        call_release(list->call);
    }
}

/* Children are on disk, or their workflows cannot run; those that nobody waits for are done with. */
static void children_written(struct worker *w, struct run *r)
{
    const struct write *wr = r->write;
    for (u32 i = 0; i < wr->child_count; i++) {
        struct child_row *c = &wr->children[i];
        c->step->spawn = false;
        if (c->started) {
            atomic_fetch_add(&w->engine->started, 1);
            engine_due(w->engine, c->created_at);
        }
        if (!c->started || !run_child_awaited(c->step))
            run_child_ended(r, c->step, &(struct child_end){ .status = c->started ? S("queued") : STR_NONE });
    }
}

/* It has its slot, or needs none, unless it is about to be parked. */
static void slot_written(struct run *r)
{
    r->slot.state = SLOT_HELD;
    if (!r->write->slotted)
        r->slot.key = STR_NONE;
    r->slot.ask = false;
}

static void written(struct worker *w, struct run *r)
{
    bool final = r->write->final, parked = r->write->row.due_at != 0;
    if (r->slot.ask)
        slot_written(r);
    if (r->write->woken)
        engine_due(w->engine, r->last_us);
    r->recorded = true;
    r->term = r->write->term;
    r->write_failures = 0;
    if (!r->lost)
        run_publish(r);
    if (final) {
        finish(w, r);
        return;
    }
    run_recorded(r);
    tell_relatives(w, r);
    if (r->detached)
        add_waiters(&r->tell_now, take_all(&r->waiters));
    r->detached = false;
    if (parked) {
        park(w, r);
        return;
    }
    children_written(w, r);
    free_write(r);
    tell_as_it_stands(w, r, take_all(&r->tell_now));
    if (!run_state_final(r->state) && !r->cancelling)
        send_calls(w, r);
    take_answers(w, r);
    run_advance(r, w->machine);
    pump(w, r);
}

static void lose(struct run *r)
{
    r->lost = true;
    run_end(r, RUN_CANCELLED, "engine.lost", "Another node has taken the execution over");
}

/* Nothing was changed on disk. A run that has never been there ends; one that belongs to somebody else now ends when its calls are back; any other tries again,
 * later and later. */
static void not_written(struct worker *w, struct run *r, err why)
{
    bool final = run_state_final(r->state);
    if (r->write != NULL)
        r->write_bytes = arena_used(r->write->job.arena);
    free_write(r);
    if (!r->recorded) {
        drop(w, r, why);
        return;
    }
    if (why == ERR_LIMIT) { /* a child: whoever waits for it is told */
        r->slot = (struct slot){ 0 };
        run_end(r, RUN_FAILED, "concurrency.limit", "The workflow runs as often at once as it may");
        pump(w, r);
        return;
    }
    LOG(LOG_WARN, "engine.write_failed", LOG_STR("execution", r->id), LOG_STR("cause", str_of(err_name(why))));
    if (why == ERR_PRECONDITION)
        lose(r);
    take_answers(w, r); /* they came while it was being written */
    if (r->lost) {
        pump(w, r);
        return;
    }
    r->thin |= final && why == ERR_MEMORY && r->write_bytes >= THIN_BYTES && r->write_failures >= thin_after;
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
    err e = journal_write(w->engine, r, final, due_at, on_written);
    if (e == OK)
        return;
    w->busy--;
    not_written(w, r, e);
}

/* Whether something must be written before the next thing can happen. A recorded launch waits for room only. */
static bool has_news(const struct run *r)
{
    bool launches = false, dirty = false;
    assert(r->root != NULL); /* what is unready is put back, and never comes here */
    STEPS (r, s) {
        launches |= s->launch || s->spawn;
        dirty |= s->dirty;
    }
    return r->recorded ? dirty : launches || r->detached || r->tell_now != NULL;
}

static void on_continue(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    r->continuing = false;
    w->busy--;
    take_answers(w, r);
    run_advance(r, w->machine);
    pump(w, r);
}

/* Behind whatever else waits for this worker. */
static void continue_later(struct worker *w, struct run *r)
{
    untime(w, r);
    w->busy++;
    r->continuing = true;
    r->message.run = on_continue;
    worker_post(w, &r->message);
}

static void pump_final(struct worker *w, struct run *r)
{
    if (r->in_flight > 0 && (r->lost || !r->killing))
        return; /* its cancelled calls come back first */
    if (r->lost)
        drop(w, r, ERR_BUSY);
    else
        write_down(w, r, true, 0);
}

/* Of each step that waits for a child, how that ended if it did. */
static err look_at_children(struct run *r, struct tx *tx)
{
    STEPS (r, s) {
        str id = s->spawn ? STR_NONE : run_child_of(s);
        struct child_end end = { .status = STR_NONE };
        struct arena_mark mark = arena_mark(r->arena);
        bool ended = false;
        if (id.p == NULL)
            continue;
        TRY(journal_child(tx, r->tenant_id, id, &end, &ended));
        if (ended || !run_child_awaited(s))
            run_child_ended(r, s, &end);
        else
            arena_rewind(r->arena, mark); /* it is asked again at each end of another one */
    }
    return OK;
}

/* What people answered. A run that fails by it takes no further answers: it has ended. */
static err look_at_people(struct run *r, struct tx *tx)
{
    struct resume_row *list;
    u32 n;
    if (!run_waits_for_person(r))
        return OK;
    TRY(journal_resumes(tx, r->tenant_id, r->id, &list, &n));
    for (u32 i = 0; i < n && !run_state_final(r->state); i++) {
        struct json *answer;
        TRY(json_parse(r->arena, list[i].resume, &answer, NULL));
        run_answered(r, list[i].step_id, list[i].iteration, answer);
    }
    return OK;
}

/* False: not now, it is tried again soon. */
static bool obey_poke(struct worker *w, struct run *r)
{
    struct tx *tx;
    err e = db_read_begin(w->engine->options.db, r->arena, false, &tx);
    if (e == OK) {
        e = look_at_children(r, tx);
        if (e == OK)
            e = look_at_people(r, tx);
        db_read_end(tx);
    }
    if (e != OK) {
        wake_later(w, r, clock_now_us() + retry_write_us);
        return false;
    }
    r->poked = false;
    run_wake(r, r->last_us);
    run_advance(r, w->machine);
    return true;
}

/* What comes next for a run that nobody works on. It may be gone when this returns. */
static void pump(struct worker *w, struct run *r)
{
    if (r->writing || r->continuing || r->joins.p != NULL)
        return;
    if (r->poked && !r->lost && !run_state_final(r->state) && r->root != NULL && !obey_poke(w, r))
        return;
    if (r->lost || run_state_final(r->state)) {
        pump_final(w, r);
        return;
    }
    if (slots_pending(r)) { /* to ask for its slot, or because it was looked at before it has one */
        r->state = RUN_QUEUED;
        write_down(w, r, false, r->slot.ask ? 0 : r->deadline_at);
        return;
    }
    if (run_more(r)) {
        continue_later(w, r);
        return;
    }
    if (!sends(w))
        run_hold(r);
    i64 due = run_due(r);
    if (due != 0)
        r->state = RUN_WAITING;
    if (due != 0 || has_news(r)) {
        write_down(w, r, false, due);
        return;
    }
    send_calls(w, r); /* those that had no room before */
    if (r->in_flight == 0 && atomic_load(&w->engine->closing))
        drop(w, r, ERR_BUSY); /* a start takes it up again */
    else if (run_has_waits(r))
        wake_later(w, r, run_next_wait(r));
}

static void on_answer(struct worker *w, struct worker_message *m)
{
    struct call *c = call_of(m);
    struct run *r = map_get(&w->live, call_execution(c));
    w->busy--;
    if (r == NULL) { /* it was killed, and has ended */
        call_release(c);
        return;
    }
    if (r->writing || r->continuing) { /* in order of arrival */
        struct answer_link **last = &r->answers;
        while (*last != NULL)
            last = &(*last)->next;
        *last = call_link(c);
        return;
    }
    run_answer(r, w->machine, call_step(c), call_answer(c));
    call_release(c);
    pump(w, r);
}

/* --- runs come in ------------------------------------------------------------------------------------------------- */

static err read_run(struct worker *w, struct run *r, struct tx *tx, struct execution *before)
{
    TRY(journal_given(tx, r));
    TRY(journal_read(tx, r->tenant_id, r->id, &r->restored, &r->restored_count));
    if (r->replays.p != NULL && (r->started_at != 0 || r->restored_count > 0))
        r->replays = STR_NONE; /* its journal holds what it took over */
    if (r->replays.p != NULL)
        TRY(journal_row_of(tx, r->tenant_id, r->replays, before));
    return engine_plan(w->engine, tx, r->tenant_id, r->workflow_id, r->version, &r->plan);
}

static err hydrate(struct worker *w, struct run *r)
{
    struct tx *tx;
    struct execution before = { 0 };
    TRY(db_read_begin(w->engine->options.db, r->arena, false, &tx));
    err e = read_run(w, r, tx, &before);
    db_read_end(tx);
    TRY(e);
    TRY(run_prepare(r));
    r->deadline_at = MIN(r->deadline_at, r->created_at + r->plan->timeout_us); /* a child's row has its parent's */
    TRY(run_restore(r, r->restored, r->restored_count));
    r->last_us = MAX(r->last_us, clock_now_us());
    if (before.step_executions.p != NULL)
        TRY(run_replay(r, before.step_executions));
    else
        run_resume(r, r->last_us);
    r->poked = r->plan->spawns || run_waits_for_person(r);
    return OK;
}

/* Due again in a second; when even that cannot be written, it is tried again from memory. */
static void put_back(struct worker *w, struct run *r)
{
    static const i64 again_us = SECOND_US;
    if (r->cancelling) {
        r->unready = false;
        run_cancel(r);
        pump(w, r);
        return;
    }
    if (clock_now_us() >= r->deadline_at) {
        r->unready = false;
        run_end(r, RUN_TIMED_OUT, "execution.timed_out", "The execution's time is up");
        pump(w, r);
        return;
    }
    r->state = RUN_WAITING;
    write_down(w, r, false, MIN(clock_now_us() + again_us, r->deadline_at));
}

/* It cannot go on now: for good when what it needs is gone or cannot be read, else until it can. */
static void not_hydrated(struct worker *w, struct run *r, err why)
{
    static struct plan nothing = { .users = 1 };
    LOG(LOG_ERROR, "engine.not_resumed", LOG_STR("execution", r->id), LOG_STR("cause", str_of(err_name(why))));
    plan_release(r->plan);
    r->plan = plan_keep(&nothing);
    r->root = r->frames = NULL;
    r->unready = true;
    if (why == ERR_INVALID || why == ERR_NOT_FOUND || why == ERR_DECODE) {
        r->unready = false;
        run_end(r, RUN_FAILED, "engine.definition",
                "The definition of this version, or what was recorded, can no longer be read");
        pump(w, r);
        return;
    }
    put_back(w, r);
}

/* A new run that takes results over from an earlier one. */
static err prepare_replay(struct worker *w, struct run *r)
{
    struct tx *tx;
    struct execution before;
    TRY(db_read_begin(w->engine->options.db, r->arena, false, &tx));
    err e = journal_row_of(tx, r->tenant_id, r->replays, &before);
    db_read_end(tx);
    TRY(e);
    if (r->input_text.p == NULL)
        r->input_text = before.input_data;
    TRY(run_prepare(r));
    return before.step_executions.p != NULL ? run_replay(r, before.step_executions) : OK;
}

static err prepare(struct worker *w, struct run *r)
{
    if (r->hydrate)
        return hydrate(w, r);
    return r->replays.p != NULL ? prepare_replay(w, r) : run_prepare(r);
}

/* This node lost an execution, does not know that yet, and has claimed it again: the one that is here must go first, with its calls. */
static void succeed(struct worker *w, struct run *before, struct run *r)
{
    if (before->successor != NULL)
        forget_claim(w, before->successor);
    before->successor = r;
    lose(before);
    pump(w, before);
}

static void on_take(struct worker *w, struct worker_message *m)
{
    struct run *r = CONTAINER(m, struct run, message);
    if (atomic_fetch_sub(&w->engine->queued, 1) ==
        ENGINE_AHEAD / 2) /* the scheduler may have stopped at ENGINE_AHEAD */
        engine_due(w->engine, clock_now_us());
    struct run *before = r->hydrate ? map_get(&w->live, r->id) : NULL;
    if (before != NULL) {
        succeed(w, before, r);
        return;
    }
    err e = map_put(&w->live, r->id, r);
    if (r->hydrate)
        add_waiters(&r->waiters, unpark(w, r->id));
    if (e == OK)
        e = prepare(w, r);
    if (e == OK)
        e = slots_ask(w->engine, r, w->machine);
    if (e != OK && r->hydrate) {
        not_hydrated(w, r, e);
        return;
    }
    if (e != OK) {
        drop(w, r, e);
        return;
    }
    if (r->detached && !run_state_final(r->state) && !slots_pending(r)) {
        write_down(w, r, false, sends(w) ? 0 : r->last_us);
        return;
    }
    if (r->poked && !run_state_final(r->state) && !obey_poke(w, r)) /* before its time is found to be up */
        return;
    run_advance(r, w->machine);
    pump(w, r);
}

void worker_take(struct run *r)
{
    r->message.run = on_take;
    atomic_fetch_add(&r->worker->engine->queued, 1);
    worker_post(r->worker, &r->message);
}

/* --- news of what is on disk ---------------------------------------------------------------------------------------- */

struct nudge {
    struct worker_message message;
    struct arena *arena;
    struct news news;
    bool heard; /* from elsewhere */
};

/* One that is being written obeys when that is done. */
static void obey(struct worker *w, struct run *r, const struct news *news)
{
    if (news->what == NEWS_LOOK && news->at_us != 0 && news->at_us == r->woken_at)
        return;
    if (news->what == NEWS_LOOK)
        r->woken_at = news->at_us;
    r->cancelling |= news->what != NEWS_LOOK;
    r->killing |= news->what == NEWS_KILL;
    r->poked |= news->what == NEWS_LOOK;
    if (r->writing || r->continuing || r->lost || r->joins.p != NULL)
        return;
    if (r->unready) {
        put_back(w, r);
        return;
    }
    run_advance(r, w->machine);
    pump(w, r);
}

/* It is parked, and due, and whoever claims it finds the request; or another node has it. */
static void not_here(struct worker *w, const struct nudge *n)
{
    if (n->heard)
        return;
    engine_due(w->engine, clock_now_us());
    spread_say(w->engine, n->news.what, n->news.execution_id);
}

/* Of those that were kept for an execution which has ended elsewhere. */
static void tell_ended(struct worker *w, str id)
{
    struct parked *p = map_get(&w->parked, id);
    if (p == NULL)
        return;
    struct outcome *o = outcome_of_id(w->engine, p->tenant_id, id);
    if (o->error == OK && execution_is_final(o->execution.status))
        outcome_tell(o, unpark(w, id));
    else
        outcome_release(o);
}

static void give_back(struct worker *w, struct arena *a, const struct news *news)
{
    struct claim c = { .id = news->execution_id, .tenant_id = news->tenant_id, .fence = news->fence };
    if (journal_give_back(w->engine, a, clock_now_us(), &c, 1) == OK) /* else the next look finds it again */
        engine_due(w->engine, clock_now_us());
}

static void on_nudge(struct worker *w, struct worker_message *m)
{
    struct nudge *n = CONTAINER(m, struct nudge, message);
    const struct news *news = &n->news;
    struct run *r = map_get(&w->live, news->execution_id);
    bool closing = atomic_load(&w->engine->closing); /* the next start obeys, or another node */
    if (!closing && news->what == NEWS_ENDED)
        tell_ended(w, news->execution_id);
    else if (!closing && news->what == NEWS_OWNED && r == NULL)
        give_back(w, n->arena, news);
    else if (!closing && news->what == NEWS_WANT && r != NULL)
        r->wanted = true;
    else if (!closing && news->what <= NEWS_LOOK && r != NULL)
        obey(w, r, news);
    else if (!closing && news->what <= NEWS_LOOK)
        not_here(w, n);
    arena_free(n->arena);
}

static void nudge(struct worker *w, const struct news *news, bool heard)
{
    struct arena *a = arena_new(TELL_BYTES);
    struct nudge *n = a != NULL ? NEW(a, struct nudge) : NULL;
    if (n != NULL) {
        *n = (struct nudge){ { .run = on_nudge }, a, *news, heard };
        n->news.execution_id = str_dup(a, news->execution_id);
        n->news.tenant_id = str_dup(a, news->tenant_id);
    }
    if (n == NULL || n->news.execution_id.p == NULL || n->news.tenant_id.p == NULL) {
        arena_free(a);
        engine_due(w->engine, clock_now_us()); /* a live one goes on until it is next parked: then it is due at once */
        return;
    }
    worker_post(w, &n->message);
}

void worker_say(struct worker *w, enum news_kind what, str execution_id)
{
    nudge(w, &(struct news){ .what = what, .execution_id = execution_id }, false);
}

void worker_hear(struct worker *w, const struct news *news)
{
    nudge(w, news, true);
}

/* --- waiters for what other nodes run ------------------------------------------------------------------------------- */

/* A list of the next ones as JSON, maybe empty. */
static err write_ids(struct arena *a, const struct worker *w, u32 *at, str *out)
{
    struct buf b = { .arena = a };
    struct json_writer jw = { .b = &b };
    struct map_entry *e;
    jw_begin(&jw, '[');
    for (u32 n = 0; n < LOOK_PAGE && (e = map_next(&w->parked, at)) != NULL; n++)
        jw_str(&jw, e->key);
    jw_end(&jw, ']');
    *out = buf_view(&b);
    return b.fail;
}

/* Those who are told go off the map, which leaves the others in their places. */
static err look_at_parked(struct worker *w, struct arena *a)
{
    struct arena_mark mark = arena_mark(a);
    for (u32 at = 0; at < w->parked.used;) {
        struct ended_child *ended;
        str ids;
        u32 n;
        TRY(write_ids(a, w, &at, &ids));
        TRY(journal_ended(w->engine->options.db, a, ids, &ended, &n));
        for (u32 i = 0; i < n; i++)
            tell_ended(w, ended[i].id);
        arena_rewind(a, mark);
    }
    return OK;
}

static void on_look(struct worker *w, struct worker_message *m)
{
    atomic_store(&w->looking, false);
    struct arena *a = w->parked.count > 0 ? arena_new(LOOK_BYTES) : NULL;
    if (a != NULL && look_at_parked(w, a) != OK) /* again in a second */
        LOG(LOG_DEBUG, "engine.not_looked", LOG_STR("cause", S("waiters")));
    arena_free(a);
}

void worker_look(struct worker *w)
{
    if (atomic_exchange(&w->looking, true))
        return;
    w->look.run = on_look;
    worker_post(w, &w->look);
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
    if (r->joins.p != NULL) {
        outcome_tell(outcome_of_id(w->engine, r->tenant_id, r->joins), waiter);
        return;
    }
    add_waiters(&r->tell_now, waiter);
    if (r->recorded)
        tell_as_it_stands(w, r, take_all(&r->tell_now));
    else
        pump(w, r);
}

static void tell_parked(struct worker *w, const struct tell_message *t)
{
    struct waiter *list = unpark(w, t->execution_id);
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
        struct timespec until = clock_in(MIN(first - clock_now_us(), SECOND_US)); /* the wall clock may be set */
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

/* Outside calls had their time: the rest is cancelled, nothing of that is recorded, and the next start takes it up again. */
static void cancel_calls(struct worker *w)
{
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(&w->live, &i)) != NULL;) {
        struct run *r = e->value;
        r->lost = r->in_flight > 0;
        STEPS (r, s)
            if (s->call != NULL)
                call_cancel(s->call);
    }
}

static struct worker_message *take_messages(struct worker *w, i64 wait_us)
{
    struct timespec until = clock_in(wait_us);
    pthread_mutex_lock(&w->lock);
    while (w->first == NULL && wait_us > 0 && pthread_cond_timedwait(&w->wake, &w->lock, &until) == 0)
        continue;
    struct worker_message *list = w->first;
    w->first = w->last = NULL;
    pthread_mutex_unlock(&w->lock);
    return list;
}

static void handle_rest(struct worker *w)
{
    for (struct worker_message *list; (list = take_messages(w, 0)) != NULL;)
        handle(w, list);
}

static void tell_everybody(struct worker *w)
{
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(&w->live, &i)) != NULL;)
        if (((struct run *)e->value)->joins.p == NULL) /* those are told by the worker where they wait */
            drop(w, e->value, ERR_BUSY);
    while (w->timed != NULL) /* claimed, but there was no memory to list them as live */
        drop(w, w->timed, ERR_BUSY);
    for (u32 i = 0; (e = map_next(&w->parked, &i)) != NULL;) {
        struct parked *p = e->value;
        outcome_tell(outcome_of_id(w->engine, p->tenant_id, e->key), take_all(&p->waiters));
        arena_free(p->arena);
    }
}

/* All workers of an engine close in step, because messages go between them (join): first each finishes what is under way, then each tells its waiters, then each
 * takes what the others have told it. */
static void wind_down(struct worker *w)
{
    static const i64 slice = SECOND_US / 20;
    i64 given_us = w->engine->options.closing_us;
    i64 until = clock_mono_us() + (given_us != 0 ? given_us : default_closing_us);
    bool cancelled = false;
    handle_rest(w);
    while (w->busy > 0) {
        handle(w, take_messages(w, slice));
        if (!cancelled && clock_mono_us() > until) {
            cancelled = true;
            cancel_calls(w);
        }
    }
    pthread_barrier_wait(&w->engine->closing_steps);
    handle_rest(w);
    tell_everybody(w);
    pthread_barrier_wait(&w->engine->closing_steps);
    handle_rest(w);
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
    *w = (struct worker){ .engine = e, .index = index, .machine = machine_new() };
    if (w->machine == NULL)
        return ERR_MEMORY;
    pthread_mutex_init(&w->lock, NULL);
    clock_cond_init(&w->wake);
    if (pthread_create(&w->thread, NULL, worker_main, w) == 0) {
        pthread_setname_np(w->thread, "engine");
        return OK;
    }
    machine_free(w->machine);
    return ERR_BUSY;
}

void worker_stop(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

void worker_join(struct worker *w)
{
    pthread_join(w->thread, NULL);
    while (atomic_load(&w->posting) > 0)
        sched_yield();
    map_free(&w->live);
    map_free(&w->parked);
    machine_free(w->machine);
    w->machine = NULL;
}
