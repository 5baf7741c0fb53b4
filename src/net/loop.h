/* loop.h - one libuv loop per core: a thread, timers, and messages from other threads.
 *
 * Everything of a loop (connections, outgoing requests, timers) belongs to its thread. Other threads reach it by loop_post
 * only: a message is owned by the queue until the loop calls it, and then by its function. */
#pragma once

#include "base/err.h"
#include <uv.h>

struct loop;

/* A message: embed it in what you send. `run` is called once on the loop's thread. */
struct message {
    void (*run)(struct message *);
    struct message *next; /* the queue's */
};

struct loop *loop_new(u32 index) MUST; /* NULL when out of resources */
void loop_run(struct loop *l);         /* until loop_stop; on the thread that shall own it */
void loop_stop(struct loop *l);        /* from any thread; returns at once */
void loop_settle(
    struct loop *l); /* after loop_run returned: one turn without waiting, so that closed handles get their callbacks */
void loop_free(struct loop *l); /* after loop_run returned, and after everything on the loop was freed */
/* From any thread; never fails, never blocks; wakes the loop. Messages of one thread stay in order. */
void loop_post(struct loop *l, struct message *m);
/* Called at the end of each turn, before the loop may sleep; set before loop_run. */
void loop_before_sleep(struct loop *l, void (*fn)(void *ctx), void *ctx);
bool loop_is_current(const struct loop *l);
struct loop *loop_current(void); /* NULL off the loops */
u32 loop_index(const struct loop *l);
uv_loop_t *loop_uv(struct loop *l);
/* Time of this turn, cached; microseconds of the monotonic clock. */
i64 loop_now_mono_us(const struct loop *l);

/* A one-shot timer, embedded; must be stopped or fired before its memory goes. Loop thread only. */
struct loop_timer {
    void (*fire)(struct loop_timer *);
    i64 due_mono_us;
    size_t heap_index; /* 0 = not armed */
    struct loop *loop;
};
err loop_timer_start(struct loop *l, struct loop_timer *t, i64 delay_us, void (*fire)(struct loop_timer *)) MUST;
void loop_timer_stop(struct loop_timer *t); /* fine when not armed */
