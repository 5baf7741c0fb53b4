/* loop.c - see loop.h.
 *
 * Messages are a stack that producers push to with one compare-and-swap and the loop takes whole, reversed: only the push
 * that finds it empty wakes the loop, so a burst costs one wake-up. Timers are a binary heap behind a single uv_timer: a loop
 * with 10,000 connections shows libuv one timer. */
#include "net/loop.h"

#include "base/arena.h"
#include "base/clock.h"

#include <stdatomic.h>

enum { LOOP_ARENA_BYTES = 64 << 20, FIRST_TIMERS = 64, CLOSING_TURNS = 100 };

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t before_poll;
    uv_timer_t timer;
    _Atomic(struct message *) posted; /* newest first */
    atomic_bool stopping;
    struct arena *arena;
    struct loop_timer **heap; /* from 1, so that heap_index 0 can mean "not armed" */
    size_t timers, timer_room;
    i64 now_us, armed_us; /* armed_us: when the uv_timer is due; 0 = not running */
    u32 index;
    void (*before_sleep)(void *ctx);
    void *before_sleep_ctx;
};

/* Which loop this thread runs: asked by every function that may only be called there. */
static _Thread_local struct loop *current;

struct loop *loop_current(void)
{
    return current;
}

void loop_before_sleep(struct loop *l, void (*fn)(void *ctx), void *ctx)
{
    l->before_sleep = fn;
    l->before_sleep_ctx = ctx;
}

bool loop_is_current(const struct loop *l)
{
    return current == l;
}

u32 loop_index(const struct loop *l)
{
    return l->index;
}

uv_loop_t *loop_uv(struct loop *l)
{
    return &l->uv;
}

i64 loop_now_mono_us(const struct loop *l)
{
    struct loop *cache = (struct loop *)l; /* const to the caller; the cached time is no state of the loop */
    if (cache->now_us == 0)
        cache->now_us = clock_mono_us();
    return cache->now_us;
}

/* --- messages ---------------------------------------------------------------------------------------------------- */

void loop_post(struct loop *l, struct message *m)
{
    struct message *head = atomic_load_explicit(&l->posted, memory_order_relaxed);
    do
        m->next = head;
    while (!atomic_compare_exchange_weak_explicit(&l->posted, &head, m, memory_order_release, memory_order_relaxed));
    if (head == NULL)
        uv_async_send(&l->wake);
}

static struct message *take_posted(struct loop *l)
{
    struct message *m = atomic_exchange_explicit(&l->posted, NULL, memory_order_acquire), *first = NULL;
    while (m != NULL) {
        struct message *older = m->next;
        m->next = first;
        first = m;
        m = older;
    }
    return first;
}

static void run_messages(struct loop *l)
{
    for (struct message *m = take_posted(l), *next; m != NULL; m = next) {
        next = m->next; /* before the call: its function owns the message */
        m->run(m);
    }
}

static void on_wake(uv_async_t *wake)
{
    struct loop *l = wake->data;
    run_messages(l);
    if (atomic_exchange(&l->stopping, false)) /* consumed, so that the loop can run again */
        uv_stop(&l->uv);
}

/* --- timers ------------------------------------------------------------------------------------------------------ */

static void heap_put(struct loop *l, size_t at, struct loop_timer *t)
{
    l->heap[at] = t;
    t->heap_index = at;
}

static void heap_up(struct loop *l, size_t at, struct loop_timer *t)
{
    for (; at > 1 && l->heap[at / 2]->due_mono_us > t->due_mono_us; at /= 2)
        heap_put(l, at, l->heap[at / 2]);
    heap_put(l, at, t);
}

static void heap_down(struct loop *l, size_t at, struct loop_timer *t)
{
    for (size_t child; (child = at * 2) <= l->timers; at = child) {
        if (child < l->timers && l->heap[child + 1]->due_mono_us < l->heap[child]->due_mono_us)
            child++;
        if (l->heap[child]->due_mono_us >= t->due_mono_us)
            break;
        heap_put(l, at, l->heap[child]);
    }
    heap_put(l, at, t);
}

static void heap_remove(struct loop *l, struct loop_timer *t)
{
    size_t at = t->heap_index;
    struct loop_timer *last = l->heap[l->timers--];
    t->heap_index = 0;
    if (last == t)
        return;
    heap_down(l, at, last);
    heap_up(l, last->heap_index, last);
}

static err heap_reserve(struct loop *l)
{
    if (l->timers + 1 < l->timer_room)
        return OK;
    size_t room = MAX(l->timer_room * 2, (size_t)FIRST_TIMERS);
    void *heap = arena_grow(l->arena, l->heap, l->timer_room * sizeof *l->heap, room * sizeof *l->heap);
    if (heap == NULL)
        return ERR_MEMORY;
    l->heap = heap;
    l->timer_room = room;
    return OK;
}

static void on_timer(uv_timer_t *timer);

/* Points the uv_timer at the first timer of the heap. An earlier wake-up is left in place when a timer is stopped or moved
 * back: one idle wake-up is cheaper than touching libuv's heap on every request. */
static void arm(struct loop *l)
{
    if (l->timers == 0)
        return;
    i64 due = l->heap[1]->due_mono_us;
    if (l->armed_us != 0 && l->armed_us <= due)
        return;
    i64 wait_us = MAX(due - clock_mono_us(), 0);
    uv_update_time(&l->uv); /* uv_timer_start counts from libuv's cached time */
    uv_timer_start(&l->timer, on_timer, (u64)(wait_us + 999) / 1000, 0);
    l->armed_us = due;
}

static void on_timer(uv_timer_t *timer)
{
    struct loop *l = timer->data;
    l->now_us = 0;
    l->armed_us = 0;
    i64 now = loop_now_mono_us(l);
    while (l->timers > 0 && l->heap[1]->due_mono_us <= now) {
        struct loop_timer *t = l->heap[1];
        heap_remove(l, t);
        t->fire(t);
    }
    arm(l);
}

err loop_timer_start(struct loop *l, struct loop_timer *t, i64 delay_us, void (*fire)(struct loop_timer *))
{
    loop_timer_stop(t);
    TRY(heap_reserve(l));
    t->fire = fire;
    t->loop = l;
    /* At least 1 us ahead: a timer that starts itself with no delay must not hold on_timer() for ever. */
    t->due_mono_us = loop_now_mono_us(l) + MAX(delay_us, 1);
    heap_up(l, ++l->timers, t);
    arm(l);
    return OK;
}

void loop_timer_stop(struct loop_timer *t)
{
    if (t->heap_index != 0)
        heap_remove(t->loop, t);
}

/* --- life -------------------------------------------------------------------------------------------------------- */

/* The cached time ends where the loop may sleep. */
static void on_before_poll(uv_prepare_t *prepare)
{
    struct loop *l = prepare->data;
    l->now_us = 0;
    if (l->before_sleep != NULL)
        l->before_sleep(l->before_sleep_ctx);
}

static err open_handles(struct loop *l)
{
    if (uv_async_init(&l->uv, &l->wake, on_wake) != 0)
        return ERR_BUSY;
    uv_timer_init(&l->uv, &l->timer);
    uv_prepare_init(&l->uv, &l->before_poll);
    uv_prepare_start(&l->before_poll, on_before_poll);
    uv_unref((uv_handle_t *)&l->before_poll);
    l->wake.data = l->timer.data = l->before_poll.data = l;
    return OK;
}

struct loop *loop_new(u32 index)
{
    struct arena *arena = arena_new(LOOP_ARENA_BYTES);
    struct loop *l = arena != NULL ? NEW(arena, struct loop) : NULL;
    if (l == NULL || uv_loop_init(&l->uv) != 0) {
        arena_free(arena);
        return NULL;
    }
    l->arena = arena;
    l->index = index;
    if (open_handles(l) == OK)
        return l;
    uv_loop_close(&l->uv);
    arena_free(arena);
    return NULL;
}

void loop_run(struct loop *l)
{
    assert(current == NULL);
    current = l;
    uv_run(&l->uv, UV_RUN_DEFAULT);
    run_messages(l); /* posted between the last wake-up and now: each message runs once, also at the end */
    current = NULL;
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stopping, true);
    uv_async_send(&l->wake);
}

void loop_settle(struct loop *l)
{
    struct loop *before = current;
    current = l;
    uv_run(&l->uv, UV_RUN_NOWAIT);
    current = before;
}

void loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_close((uv_handle_t *)&l->timer, NULL);
    uv_close((uv_handle_t *)&l->before_poll, NULL);
    int busy = UV_EBUSY;
    for (int turn = 0; turn < CLOSING_TURNS && (busy = uv_loop_close(&l->uv)) == UV_EBUSY; turn++)
        loop_settle(l);
    assert(busy == 0); /* somebody freed the loop before what runs on it */
    arena_free(l->arena);
}
