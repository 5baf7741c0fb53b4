/* engine.c - opening and closing, starting executions, loading plans, and the scheduler that brings due executions back from the database.
 *
 * The queue is the database: `due_at` says when an execution must be looked at. The scheduler sleeps until the first one is due, claims a batch (which raises their fences) and
 * hands them to their workers. Nothing else keeps timers for executions, so ten thousand waiting ones cost an index entry each. On PostgreSQL the schedulers of all nodes do
 * that side by side (spread.c). */
#include "engine/internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/nodes.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum {
    LIVE_MAX = 10000,
    PLANS_MAX = 4096,
    PLANS_BYTES = 64 * 1024 * 1024,
    PLAN_ON_LOOP_BYTES = 16 * 1024, /* compiling a longer definition holds a loop up for a millisecond and more */
    CLAIM_BATCH = 20,
    RUN_BYTES = EXECUTION_BYTES_MAX,
    SCHEDULER_BYTES = 64 * 1024 * 1024
};

static const i64 poll_us = SECOND_US, crowded_us = SECOND_US / 20;

/* --- plans -------------------------------------------------------------------------------------------------------- */

static err load_plan(struct engine *e, struct tx *tx, str tenant_id, str workflow_id, i64 version, struct plan **out)
{
    struct json *definition;
    str name;
    struct plan *p;
    struct problems problems = { .arena = db_arena(tx) };
    TRY(e->options.load(tx, tenant_id, workflow_id, version, &definition, &name));
    if (json_size(definition) > PLAN_ON_LOOP_BYTES && db_read_leave(tx))
        return ERR_BUSY;
    TRY(field_decode(db_arena(tx), &definition_table, FIELD_CREATE, definition, S(""), NULL,
                     &problems)); /* tables may have changed since */
    TRY(plan_compile(definition, S(""), &problems, &p));
    p->tenant_id = str_dup(p->arena, tenant_id);
    p->workflow_id = str_dup(p->arena, workflow_id);
    p->workflow_name = str_dup(p->arena, name);
    p->version = version;
    if (p->tenant_id.p == NULL || p->workflow_id.p == NULL || p->workflow_name.p == NULL) {
        plan_release(p);
        return ERR_MEMORY;
    }
    *out = p;
    return OK;
}

err engine_plan(struct engine *e, struct tx *tx, str tenant_id, str workflow_id, i64 version, struct plan **out)
{
    char text[192]; /* both ids are 40 bytes or fewer */
    int n = snprintf(text, sizeof text, "%.*s/%.*s/%lld", STR_FMT(tenant_id), STR_FMT(workflow_id), (long long)version);
    str key = { text, MIN((size_t)n, sizeof text - 1) };
    struct plan *p = plans_get(&e->plans, key);
    if (p == NULL) {
        TRY(load_plan(e, tx, tenant_id, workflow_id, version, &p));
        plans_put(&e->plans, key, p);
    }
    *out = p;
    return OK;
}

/* --- starting ----------------------------------------------------------------------------------------------------- */

static void release_plan(void *plan)
{
    plan_release(plan);
}

static bool enter(struct engine *e)
{
    if (atomic_load(&e->closing))
        return false;
    if (atomic_fetch_add(&e->live, 1) < e->options.live_max)
        return true;
    atomic_fetch_sub(&e->live, 1);
    return false;
}

static bool copy(struct arena *a, str *to, str from)
{
    if (from.p != NULL)
        *to = str_dup(a, from);
    return from.p == NULL || to->p != NULL;
}

static struct run *run_new(struct engine *e, const struct start *s, struct waiter *waiter)
{
    struct arena *a = arena_new(RUN_BYTES);
    struct run *r = a != NULL ? NEW(a, struct run) : NULL;
    bool good = r != NULL;
    if (good) {
        *r = (struct run){ .arena = a,
                           .plan = s->plan,
                           .workflow_id = s->plan->workflow_id,
                           .version = s->plan->version,
                           .created_at = s->now_us,
                           .last_us = s->now_us,
                           .deadline_at = s->now_us + s->plan->timeout_us,
                           .fence = 1,
                           .detached = s->detached,
                           .waiters = waiter };
        r->id = typeid_new(a, "execution", s->now_us);
        good = r->id.p != NULL && copy(a, &r->tenant_id, s->plan->tenant_id) && copy(a, &r->parent_id, s->parent_id) &&
               copy(a, &r->replays, s->replays) && copy(a, &r->replay_from, s->replay_from) &&
               copy(a, &r->dedup_key, s->dedup_key) && copy(a, &r->dedup_body, s->dedup_body) &&
               copy(a, &r->traceparent, s->traceparent) && copy(a, &r->tracestate, s->tracestate) &&
               copy(a, &r->input_text, s->input_data) && copy(a, &r->trigger_text, s->trigger);
    }
    if (good)
        return r;
    arena_free(a);
    return NULL;
}

err engine_start(struct engine *e, struct arena *a, const struct start *start, struct waiter *waiter, str *execution_id)
{
    struct run *r = NULL;
    str id = STR_NONE;
    waiter->next = NULL;
    waiter->joined = false;
    bool entered = enter(e);
    if (entered)
        r = run_new(e, start, waiter);
    if (r != NULL)
        id = str_dup(a, r->id);
    if (r == NULL || id.p == NULL) {
        if (entered)
            atomic_fetch_sub(&e->live, 1);
        plan_release(start->plan);
        if (r != NULL)
            arena_free(r->arena);
        return entered ? ERR_MEMORY : ERR_BUSY;
    }
    if (!arena_defer(r->arena, release_plan, start->plan)) { /* released at once */
        atomic_fetch_sub(&e->live, 1);
        arena_free(r->arena);
        return ERR_MEMORY;
    }
    r->worker = worker_of(e, r->id);
    atomic_fetch_add(&e->started, 1);
    *execution_id = id;
    worker_take(r);
    return OK;
}

void engine_tell_now(struct engine *e, str tenant_id, str execution_id, struct waiter *waiter)
{
    worker_tell(worker_of(e, execution_id), tenant_id, execution_id, waiter);
}

/* --- the scheduler ------------------------------------------------------------------------------------------------ */

static void look_at(struct engine *e, i64 due_us)
{
    pthread_mutex_lock(&e->scheduler.lock);
    bool sooner = due_us < e->scheduler.next_us;
    if (sooner)
        e->scheduler.next_us = due_us;
    pthread_mutex_unlock(&e->scheduler.lock);
    if (sooner)
        pthread_cond_signal(&e->scheduler.wake);
}

void engine_wake(struct engine *e)
{
    look_at(e, clock_now_us());
}

/* What is due later is found by those who work when it is. */
void engine_due(struct engine *e, i64 due_us)
{
    if (e->works)
        look_at(e, due_us);
    else if (due_us <= clock_now_us())
        spread_say(e, NEWS_DUE, STR_NONE);
}

static void release_run_plan(void *run) /* it is known later than its arena */
{
    plan_release(((struct run *)run)->plan);
}

static bool take_claim(struct engine *e, const struct claim *c, u32 term)
{
    struct arena *a = arena_new(RUN_BYTES);
    struct run *r = a != NULL ? NEW(a, struct run) : NULL;
    if (r == NULL) {
        arena_free(a);
        return false;
    }
    *r = (struct run){ .arena = a,
                       .version = c->version,
                       .created_at = c->created_at,
                       .started_at = c->started_at,
                       .last_us = c->created_at,
                       .deadline_at = c->deadline_at,
                       .fence = c->fence,
                       .depth = c->depth,
                       .cancelling = c->cancel_at != 0,
                       .killing = c->kill_at != 0,
                       .slot.state = c->slot_state,
                       .hydrate = true,
                       .recorded = true,
                       .term = term,
                       .state = RUN_RUNNING,
                       .told_start = c->started_at != 0 };
    bool good = copy(a, &r->id, c->id) && copy(a, &r->tenant_id, c->tenant_id) &&
                copy(a, &r->workflow_id, c->workflow_id) && copy(a, &r->parent_id, c->parent_id) &&
                copy(a, &r->parent_step, c->parent_step) && copy(a, &r->slot.key, c->slot_key) &&
                copy(a, &r->replays, c->replays) && arena_defer(a, release_run_plan, r);
    if (!good) {
        arena_free(a);
        return false;
    }
    r->worker = worker_of(e, r->id);
    atomic_fetch_add(&e->live, 1);
    worker_take(r);
    return true;
}

/* One batch of what is due. */
static err claim_batch(struct engine *e, struct arena *a, u32 want)
{
    struct claim *list;
    u32 n = 0, taken = 0, term = node_lease_term();
    TRY(journal_claim(e, a, clock_now_us(), want, &e->scheduler.turn, &list, &n));
    while (taken < n && take_claim(e, &list[taken], term))
        taken++;
    while (
        taken < n &&
        !atomic_load(&e->closing)) { /* no memory for them now; until they are given back nobody else can have them */
        if (journal_give_back(e, a, clock_now_us() + crowded_us, list + taken, n - taken) == OK)
            break;
        nanosleep(&(struct timespec){ .tv_nsec = crowded_us * 1000 }, NULL);
    }
    return OK;
}

/* Who stops lets others begin, when there are any: until then callers may wait here for what is due. */
static bool claims(const struct engine *e)
{
    return e->works && spread_may_act(e) && !(app.draining && nodes_alive() > 1);
}

/* Room for claims. What is due stays in the database, where tenants take turns and other nodes find it, until the workers are nearly done with what they have. */
static u32 claim_room(struct engine *e)
{
    u32 live = atomic_load(&e->live), max = e->options.live_max, queued = atomic_load(&e->queued);
    bool room = live < max && queued < ENGINE_AHEAD;
    return room ? MIN((u32)CLAIM_BATCH, max - live) : 0;
}

/* Claims what is due while there is room for it. Returns when to look again. Looking is a read: a write only happens when something is due. */
static i64 claim_due_runs(struct engine *e)
{
    i64 due = INT64_MAX, now = clock_now_us();
    bool again = true;
    err failed = OK;
    while (failed == OK && again) {
        u32 room = claim_room(e);
        struct arena *a = room > 0 ? arena_new(SCHEDULER_BYTES) : NULL;
        failed = a != NULL ? journal_next_due(e->options.db, a, &due) : ERR_BUSY;
        if (room == 0 && !e->scheduler.full) /* others may have some */
            spread_say(e, NEWS_DUE, STR_NONE);
        e->scheduler.full = room == 0;
        if (failed == OK && due <= now)
            failed = claim_batch(e, a, room);
        again = due <= now && e->scheduler.turn.crowded;
        if (failed == OK && due <= now && !again)
            failed = journal_next_due(e->options.db, a, &due);
        arena_free(a);
    }
    if (failed == ERR_UNAVAILABLE) /* tried anew each time: what refuses us must not be stormed */
        return now + poll_us;
    return failed == OK ? MIN(due, now + poll_us) : now + crowded_us;
}

/* Sleeps until something is due; false: the engine closes. */
static bool sleep_until_due(struct engine *e)
{
    pthread_mutex_lock(&e->scheduler.lock);
    while (!e->scheduler.stopping) {
        i64 wait = e->scheduler.next_us - clock_now_us();
        if (wait <= 0)
            break;
        struct timespec t = clock_in(MIN(wait, poll_us)); /* the wall clock may have been set */
        pthread_cond_timedwait(&e->scheduler.wake, &e->scheduler.lock, &t);
    }
    e->scheduler.next_us = INT64_MAX; /* from now on engine_due tells what comes in while we look */
    bool go_on = !e->scheduler.stopping;
    pthread_mutex_unlock(&e->scheduler.lock);
    return go_on;
}

static void *scheduler_main(void *arg)
{
    struct engine *e = arg;
    while (sleep_until_due(e)) {
        if (e->shared)
            spread_look(e);
        look_at(e, claims(e) ? claim_due_runs(e) : clock_now_us() + poll_us);
    }
    db_thread_end(e->options.db);
    return NULL;
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

static err open_scheduler(struct engine *e)
{
    pthread_mutex_init(&e->scheduler.lock, NULL);
    clock_cond_init(&e->scheduler.wake);
    if (pthread_create(&e->scheduler.thread, NULL, scheduler_main, e) != 0)
        return ERR_BUSY;
    pthread_setname_np(e->scheduler.thread, "scheduler");
    return OK;
}

static void close_workers(struct engine *e)
{
    for (u32 i = 0; i < e->worker_count; i++)
        worker_stop(&e->workers[i]);
    for (u32 i = 0; i < e->worker_count; i++)
        worker_join(&e->workers[i]);
}

err engine_open(const struct engine_options *options, struct engine **out)
{
    struct arena *a = arena_new(MIB);
    struct engine *e = a != NULL ? NEW(a, struct engine) : NULL;
    if (e == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    e->arena = a;
    e->options = *options;
    e->options.live_max = options->live_max != 0 ? options->live_max : LIVE_MAX;
    e->owner = node_incarnation();
    e->shared = db_has_others(options->db);
    e->works = node_works();
    u32 count = options->workers != 0 ? options->workers : (u32)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
    e->workers = NEW_N(a, struct worker, count);
    plans_open(&e->plans, PLANS_MAX, PLANS_BYTES);
    pthread_barrier_init(&e->closing_steps, NULL, count);
    err failed = e->workers != NULL ? spread_open(e) : ERR_MEMORY;
    for (u32 i = 0; failed == OK && i < count; i++) {
        failed = worker_open(&e->workers[i], e, i);
        e->worker_count += failed == OK;
    }
    if (failed == OK)
        failed = open_scheduler(e);
    if (failed != OK) {
        LOG(LOG_ERROR, "engine.not_opened", LOG_STR("cause", str_of(err_name(failed))));
        return failed; /* the process ends: threads that did start are left to that */
    }
    __atomic_store_n(out, e, __ATOMIC_RELEASE); /* those who bring news from other nodes may be there already */
    return OK;
}

void engine_close(struct engine *e)
{
    atomic_store(&e->closing, true);
    pthread_mutex_lock(&e->scheduler.lock);
    e->scheduler.stopping = true;
    pthread_cond_signal(&e->scheduler.wake);
    pthread_mutex_unlock(&e->scheduler.lock);
    pthread_join(e->scheduler.thread, NULL);
    close_workers(e);
    spread_close(e);
    plans_forget(&e->plans);
}

void engine_free(struct engine *e)
{
    for (u32 i = 0; i < e->worker_count; i++) {
        pthread_cond_destroy(&e->workers[i].wake);
        pthread_mutex_destroy(&e->workers[i].lock);
    }
    plans_close(&e->plans);
    pthread_barrier_destroy(&e->closing_steps);
    pthread_cond_destroy(&e->scheduler.wake);
    pthread_mutex_destroy(&e->scheduler.lock);
    arena_free(e->arena);
}

struct engine_stats engine_stats(struct engine *e)
{
    return (struct engine_stats){ .live = atomic_load(&e->live),
                                  .queued = atomic_load(&e->queued),
                                  .started = atomic_load(&e->started),
                                  .completed = atomic_load(&e->completed),
                                  .failed = atomic_load(&e->failed) };
}
