/* postgres_pool.c - the connections of the process: a bounded number, kept, looked at before use, replaced when old.
 *
 * The newest idle one is taken first, so that after a rush the others grow old and go. After a failed attempt to connect (`down_until_us` is set) nobody tries
 * again for a quarter of a second, and then one at a time until one succeeds: a server that is away must not be stormed, nor every request wait for its own
 * time-out. Whoever needs a connection meanwhile waits for those in use; when there are none it fails at once. */
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "db/postgres.h"

#include <poll.h>

static bool too_old(const struct postgres *db, const struct pg_conn *c)
{
    return c->generation != atomic_load(&db->generation) ||
           clock_mono_us() - c->born_us >= db->base.options.pool_recycle_us;
}

/* Whether the server has closed it: then there is something to read (its last words), and behind that the end. */
static bool is_open(struct pg_conn *c)
{
    struct pollfd fd = { .fd = PQsocket(c->pg), .events = POLLIN };
    for (int i = 0; i < 3 && poll(&fd, 1, 0) > 0; i++)
        if (PQconsumeInput(c->pg) == 0)
            return false;
    return PQstatus(c->pg) == CONNECTION_OK;
}

static bool answers(struct pg_conn *c)
{
    struct answers answers;
    i64 deadline_us = clock_mono_us() + FAST_US;
    if (pg_send_verb(c, PG_PING) != OK || pg_send_sync(c, deadline_us) != OK || pg_read(c, deadline_us, &answers) != OK)
        return false;
    PQclear(answers.rows);
    return answers.failed == OK;
}

bool pg_recovered(struct pg_conn *c)
{
    struct answers answers;
    struct pollfd fd = { .fd = PQsocket(c->pg), .events = POLLIN };
    if (poll(&fd, 1, 0) <= 0)
        return false;
    c->stalled = false;
    if (pg_read(c, clock_mono_us() + DRAIN_US, &answers) == OK)
        PQclear(answers.rows);
    return !c->stalled;
}

bool pg_usable(struct postgres *db, struct pg_conn *c)
{
    i64 idle_us = clock_mono_us() - c->used_us;
    if (c->broken || too_old(db, c))
        return false;
    if (idle_us >= LOOK_IDLE_US && !is_open(c))
        return false;
    return idle_us < PING_IDLE_US || answers(c);
}

static struct pg_conn *pop(struct postgres *db)
{
    struct pg_conn *c = db->idle;
    db->idle = c->next;
    db->idle_count--;
    return c;
}

/* Locked. A place or a connection has become free. While there is trouble all look again: who sleeps until its own time is up would miss when the trouble ends. */
static void wake(struct postgres *db)
{
    if (db->down_until_us != 0)
        pthread_cond_broadcast(&db->freed);
    else
        pthread_cond_signal(&db->freed);
}

static void end_one(struct postgres *db, struct pg_conn *c)
{
    pg_close(c);
    pthread_mutex_lock(&db->pool);
    db->open--;
    wake(db);
    pthread_mutex_unlock(&db->pool);
}

/* All look again at what comes of an attempt. */
static void end_attempt(struct postgres *db, bool good)
{
    i64 rest_us = DOWN_US + (i64)rng_below((u64)DOWN_US);
    pthread_mutex_lock(&db->pool);
    db->opening--;
    if (!good) {
        db->open--;
        db->down_until_us = clock_mono_us() + rest_us;
    }
    if (db->down_until_us != 0)
        wake(db);
    if (good)
        db->down_until_us = 0;
    pthread_mutex_unlock(&db->pool);
}

/* Twice: one attempt may meet the end of whatever ended the connection before. The place is counted already. *hangs: the time was up. */
static err open_one(struct postgres *db, struct pg_conn **out, bool *hangs)
{
    i64 deadline_us = clock_mono_us() + CONNECT_US;
    err e = pg_connect(db, deadline_us, out);
    if (e == ERR_UNAVAILABLE)
        e = pg_connect(db, deadline_us, out);
    *hangs = e != OK && clock_mono_us() >= deadline_us;
    end_attempt(db, e == OK);
    return e;
}

/* What somebody wants of the pool. While there is trouble it waits no longer than connecting may take: the server may be away as well. */
struct wish {
    i64 deadline_us;
    i64 trouble_us; /* until when it bears that; INT64_MAX = there is none */
};

static bool may_open(const struct postgres *db, i64 now_us)
{
    u32 most = db->base.options.pool_size + db->base.options.pool_overflow;
    return db->open < most && now_us >= db->down_until_us;
}

/* Waits for one that is in use, or until one may be opened again. */
static err wait_place(struct postgres *db, struct wish *w, i64 now_us)
{
    bool down = now_us < db->down_until_us;
    if (db->down_until_us == 0)
        w->trouble_us = INT64_MAX;
    else if (w->trouble_us == INT64_MAX)
        w->trouble_us = now_us + CONNECT_US;
    if ((down && db->open == 0) || now_us >= w->trouble_us)
        return ERR_UNAVAILABLE;
    if (now_us >= w->deadline_us)
        return ERR_BUSY;
    i64 until_us = MIN(w->deadline_us, w->trouble_us);
    struct timespec until = clock_in((down ? MIN(until_us, db->down_until_us) : until_us) - now_us);
    pthread_cond_timedwait(&db->freed, &db->pool, &until);
    return OK;
}

/* An idle connection, or (with *out NULL) the place for a new one. */
static err take_place(struct postgres *db, struct wish *w, struct pg_conn **out)
{
    err e = OK;
    i64 now_us;
    pthread_mutex_lock(&db->pool);
    for (now_us = clock_mono_us(); e == OK && db->idle == NULL && !may_open(db, now_us); now_us = clock_mono_us())
        e = wait_place(db, w, now_us);
    *out = e == OK && db->idle != NULL ? pop(db) : NULL;
    if (e == OK && *out == NULL) {
        db->open++;
        db->opening++;
        if (db->down_until_us != 0) /* the others see first what comes of it */
            db->down_until_us = now_us + DOWN_US;
    }
    pthread_mutex_unlock(&db->pool);
    return e;
}

err pool_take(struct postgres *db, i64 wait_us, struct pg_conn **out)
{
    struct wish wish = { .deadline_us = clock_mono_us() + wait_us, .trouble_us = INT64_MAX };
    bool hangs;
    for (;;) {
        struct pg_conn *c;
        TRY(take_place(db, &wish, &c));
        if (c == NULL) {
            err e = open_one(db, out, &hangs);
            if (e != ERR_UNAVAILABLE || hangs)
                return e;
        } else if (pg_usable(db, c)) {
            *out = c;
            return OK;
        } else {
            end_one(db, c);
        }
    }
}

/* The last one stays: where the server lets in no more, the pool lives on it. */
struct pg_conn *pool_adopt(struct postgres *db)
{
    pthread_mutex_lock(&db->pool);
    struct pg_conn *c = db->idle != NULL && db->open - db->opening > 1 ? pop(db) : NULL;
    if (c != NULL) {
        db->open--;
        wake(db);
    }
    pthread_mutex_unlock(&db->pool);
    if (c != NULL) /* it is looked at in any case: a write is not repeated */
        c->used_us = MIN(c->used_us, clock_mono_us() - LOOK_IDLE_US);
    return c;
}

void pool_give(struct postgres *db, struct pg_conn *c)
{
    pg_disown(c);
    c->used_us = clock_mono_us();
    pthread_mutex_lock(&db->pool);
    bool keep = !c->broken && !db->closing && db->idle_count < db->base.options.pool_size;
    if (keep) {
        c->next = db->idle;
        db->idle = c;
        db->idle_count++;
        wake(db);
    }
    pthread_mutex_unlock(&db->pool);
    if (!keep)
        end_one(db, c);
}

void pool_forget(struct postgres *db)
{
    for (;;) {
        pthread_mutex_lock(&db->pool);
        struct pg_conn *c = db->idle != NULL ? pop(db) : NULL;
        pthread_mutex_unlock(&db->pool);
        if (c == NULL)
            return;
        end_one(db, c);
    }
}
