/* activity.c - a table of fixed size: each id has a set of eight places. Sixty-four locks over the sets, so threads hardly ever meet.
 *
 * Nothing here is the truth: that is the row. An entry that is pushed out unsaved costs at most a minute of precision. */
#include "core/activity.h"
#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { LOCKS = 64, SLICE = 500, FLUSH_BYTES = 4 << 20 };
#define FLUSH_US MINUTE_US

static struct {
    pthread_mutex_t mutex;
} locks[LOCKS] = { [0 ... LOCKS - 1] = { PTHREAD_MUTEX_INITIALIZER } };

static pthread_mutex_t *lock_of(u32 set)
{
    return &locks[set % LOCKS].mutex;
}

static u32 set_of(str id)
{
    return (u32)(str_hash(id) % ACTIVITY_SETS);
}

static struct activity_entry *find(struct activity *a, u32 set, str id)
{
    for (u32 i = 0; i < ACTIVITY_WAYS; i++)
        if (str_eq(str_of(a->entries[set][i].id), id))
            return &a->entries[set][i];
    return NULL;
}

static struct activity_entry *stalest(struct activity *a, u32 set)
{
    struct activity_entry *e = &a->entries[set][0];
    for (u32 i = 1; i < ACTIVITY_WAYS; i++)
        if (a->entries[set][i].last_us < e->last_us)
            e = &a->entries[set][i];
    return e;
}

static void flush_task(struct task *t)
{
    struct activity *a = CONTAINER(t, struct activity, task);
    err e = activity_flush(a);
    if (e != OK)
        LOG(LOG_WARN, "activity.unsaved", LOG_STR("cause", str_of(err_name(e))));
    atomic_store(&a->flushing, false);
}

/* One at a time, and without a thread of its own; a full pool is asked again by the next use. */
static void flush_soon(struct activity *a, i64 now_us)
{
    i64 before = atomic_load_explicit(&a->flushed_us, memory_order_relaxed);
    if (now_us - before < FLUSH_US || app.slow == NULL || atomic_exchange(&a->flushing, true))
        return;
    atomic_store(&a->flushed_us, now_us);
    a->task.run = flush_task;
    if (pool_submit(app.slow, &a->task) != OK)
        atomic_store(&a->flushing, false);
}

void activity_note(struct activity *a, str id, i64 now_us)
{
    u32 set = set_of(id);
    if (id.n == 0 || id.n > ACTIVITY_ID_MAX)
        return;
    pthread_mutex_lock(lock_of(set));
    struct activity_entry *e = find(a, set, id);
    if (e == NULL) {
        e = stalest(a, set);
        *e = (struct activity_entry){ .last_us = 0 };
        memcpy(e->id, id.p, id.n);
    }
    e->last_us = MAX(e->last_us, now_us);
    pthread_mutex_unlock(lock_of(set));
    flush_soon(a, now_us);
}

i64 activity_last(struct activity *a, str id)
{
    u32 set = set_of(id);
    pthread_mutex_lock(lock_of(set));
    const struct activity_entry *e = id.n > 0 ? find(a, set, id) : NULL;
    i64 last_us = e != NULL ? e->last_us : 0;
    pthread_mutex_unlock(lock_of(set));
    return last_us;
}

/* ---- flushing ---- */

struct slice {
    struct activity *activity;
    struct activity_entry list[SLICE];
    u32 n;
};

static err save_slice(void *ctx, struct tx *tx)
{
    const struct slice *s = ctx;
    for (u32 i = 0; i < s->n; i++)
        TRY(s->activity->save(tx, str_of(s->list[i].id), s->list[i].last_us));
    return OK;
}

static void mark_saved(struct activity *a, const struct activity_entry *saved)
{
    u32 set = set_of(str_of(saved->id));
    pthread_mutex_lock(lock_of(set));
    struct activity_entry *e = find(a, set, str_of(saved->id));
    if (e != NULL)
        e->saved_us = MAX(e->saved_us, saved->last_us);
    pthread_mutex_unlock(lock_of(set));
}

static err write_slice(struct arena *arena, struct slice *s)
{
    struct arena_mark mark = arena_mark(arena);
    err e = s->n > 0 ? db_write_wait(app.db, arena, save_slice, s) : OK;
    for (u32 i = 0; i < s->n && e == OK; i++)
        mark_saved(s->activity, &s->list[i]);
    s->n = 0;
    arena_rewind(arena, mark);
    return e;
}

static void collect(struct slice *s, u32 set)
{
    pthread_mutex_lock(lock_of(set));
    for (u32 i = 0; i < ACTIVITY_WAYS; i++)
        if (s->activity->entries[set][i].last_us > s->activity->entries[set][i].saved_us)
            s->list[s->n++] = s->activity->entries[set][i];
    pthread_mutex_unlock(lock_of(set));
}

err activity_flush(struct activity *a)
{
    struct arena *arena = arena_new(FLUSH_BYTES);
    struct slice *s = arena == NULL ? NULL : NEW(arena, struct slice);
    err e = s == NULL ? ERR_MEMORY : OK;
    if (s != NULL)
        s->activity = a;
    for (u32 set = 0; set < ACTIVITY_SETS && e == OK; set++) {
        collect(s, set);
        if (s->n > SLICE - ACTIVITY_WAYS || set == ACTIVITY_SETS - 1)
            e = write_slice(arena, s);
    }
    arena_free(arena);
    return e;
}
