/* executions_quota.c - how many executions a tenant may begin in a day (UTC). Only tenants that have such a quota are counted.
 *
 * The count is a row, and what was admitted since it was last read or written stands beside it in memory; a thread adds that to the row within a second. So an admission writes nothing of its own,
 * and one node never admits one too many. Several nodes together may by what the others admitted within two seconds (one until it is written, one until it is read), and a crash forgets
 * at most its last second. A transaction for each execution would have doubled what a pure one costs; counting rows of executions would forget those that were deleted. */
#include "feat/executions/executions_parts.h"

#include "base/clock.h"
#include "base/log.h"
#include "core/app.h"

#include <pthread.h>
#include <string.h>

enum { ID_MAX = 63, SETS = 512, WAYS = 8, SLICE = 200, FLUSH_BYTES = 4 << 20 };
#define FRESH_US  SECOND_US
#define FLUSH_US  SECOND_US
#define KEEP_DAYS 400

PROBLEM_SHARED(execution_quota, "executions.quota", ERR_LIMIT,
               "The tenant has begun as many executions today as it may");

struct days_row {
    struct presence has;
    i64 n;
};
static const struct field days_fields[] = { FIELD(struct days_row, n, F_I64, .doc = "How many began that day") };
static const struct table days_table = TABLE("ExecutionDay", struct days_row, days_fields);
STMT(day_by_tenant, "SELECT n FROM execution_days WHERE tenant_id = $1 AND day = $2", .row = &days_table);
STMT(day_add,
     "INSERT INTO execution_days (tenant_id, day, n) VALUES ($1, $2, $3)"
     " ON CONFLICT (tenant_id, day) DO UPDATE SET n = execution_days.n + excluded.n RETURNING n",
     .row = &days_table);
STMT(days_clean, "DELETE FROM execution_days WHERE day < $1", .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(execution_by_key, "SELECT 1 FROM executions WHERE tenant_id = $1 AND dedup_key = $2");

/* ---- what is known of a tenant's day ---- */

struct entry {
    char tenant_id[ID_MAX + 1];
    i64 day, row, pending, sent; /* pending: admitted and not in `row`; sent: of these, on their way */
    i64 read_us;
    u32 writes; /* rises with each of ours: a row that was read before it is too old */
};
static struct {
    pthread_mutex_t lock; /* over all: it is held for a look at eight entries */
    pthread_cond_t wake;
    pthread_t thread;
    bool started, dirty, stopping;
    struct entry entries[SETS][WAYS];
} quota = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct entry *find(str tenant_id, i64 day)
{
    struct entry *set = quota.entries[str_hash(tenant_id) % SETS];
    for (u32 i = 0; i < WAYS; i++)
        if (set[i].day == day && str_eq(str_of(set[i].tenant_id), tenant_id))
            return &set[i];
    return NULL;
}

/* The stalest of the set of which nothing is unwritten; NULL when there is none. */
static struct entry *make(str tenant_id, i64 day)
{
    struct entry *set = quota.entries[str_hash(tenant_id) % SETS], *e = NULL;
    for (u32 i = 0; i < WAYS; i++)
        if (set[i].pending == 0 && set[i].sent == 0 && (e == NULL || set[i].read_us < e->read_us))
            e = &set[i];
    if (e == NULL || tenant_id.n > ID_MAX)
        return NULL;
    *e = (struct entry){ .day = day };
    memcpy(e->tenant_id, tenant_id.p, tenant_id.n);
    return e;
}

/* Whether the row must be looked at; `writes` as it is now. */
static bool is_stale(str tenant_id, i64 day, i64 now_us, u32 *writes)
{
    pthread_mutex_lock(&quota.lock);
    const struct entry *e = find(tenant_id, day);
    *writes = e != NULL ? e->writes : 0;
    bool stale = e == NULL || (e->sent == 0 && now_us - e->read_us >= FRESH_US);
    pthread_mutex_unlock(&quota.lock);
    return stale;
}

struct look {
    i64 row, now_us;
    u32 writes;
    bool read;
};

static err take(str tenant_id, i64 day, i64 most, const struct look *look)
{
    pthread_mutex_lock(&quota.lock);
    struct entry *e = find(tenant_id, day);
    if (e == NULL)
        e = make(tenant_id, day);
    if (e != NULL && look->read && e->sent == 0 && e->writes == look->writes) {
        e->row = look->row;
        e->read_us = look->now_us;
    }
    err outcome = e == NULL ? ERR_BUSY : e->row + e->pending >= most ? ERR_LIMIT : OK;
    if (outcome == OK) {
        e->pending++;
        quota.dirty = true;
        pthread_cond_signal(&quota.wake);
    }
    pthread_mutex_unlock(&quota.lock);
    return outcome;
}

static i64 day_of(i64 now_us)
{
    return now_us / DAY_US;
}

err quota_take(struct tx *tx, str tenant_id, i64 most, i64 now_us)
{
    struct look look = { .now_us = now_us };
    i64 day = day_of(now_us);
    look.read = is_stale(tenant_id, day, now_us, &look.writes);
    if (look.read) {
        struct days_row row = { .n = 0 };
        err e = db_row(tx, &day_by_tenant, &row, ARGS(STR(tenant_id), I64(day)));
        if (e != OK && e != ERR_NOT_FOUND)
            return e;
        look.row = e == OK ? row.n : 0;
    }
    return take(tenant_id, day, most, &look);
}

void quota_give_back(str tenant_id, i64 now_us)
{
    pthread_mutex_lock(&quota.lock);
    struct entry *e = find(tenant_id, day_of(now_us));
    if (e == NULL)
        e = make(tenant_id, day_of(now_us));
    if (e != NULL) {
        e->pending--;
        quota.dirty = true;
        pthread_cond_signal(&quota.wake);
    }
    pthread_mutex_unlock(&quota.lock);
}

/* ---- for a call ---- */

/* A repeat of what was admitted before begins nothing. */
static err is_repeat(struct execution_call *call, const struct start *start)
{
    if (start->dedup_key.p == NULL)
        return ERR_NOT_FOUND;
    return db_row(call->rq->tx, &execution_by_key, NULL, ARGS(STR(call->tenant_id), STR(start->dedup_key)));
}

err quota_admit(struct execution_call *call, const struct start *start)
{
    struct req *rq = call->rq;
    if (call->quota == 0)
        return OK;
    err e = quota_take(rq->tx, call->tenant_id, call->quota, start->now_us);
    call->counted_us = e == OK ? start->now_us : 0;
    if (e != ERR_LIMIT)
        return e;
    e = is_repeat(call, start);
    if (e != ERR_NOT_FOUND)
        return e;
    i64 left_s = ((day_of(start->now_us) + 1) * DAY_US - start->now_us + SECOND_US - 1) / SECOND_US;
    str text = strf(rq->arena, "%lld", (long long)left_s);
    if (text.p == NULL)
        return ERR_MEMORY;
    reply_header(rq, "Retry-After", text);
    return problem(rq, &execution_quota, "Its quota is %lld a day; the next day begins at midnight UTC",
                   (long long)call->quota);
}

/* ---- writing it down ---- */

struct batch {
    struct entry list[SLICE];
    u32 n;
};

static err write_batch(void *ctx, struct tx *tx)
{
    struct batch *b = ctx;
    for (u32 i = 0; i < b->n; i++) {
        struct days_row row;
        struct entry *e = &b->list[i];
        TRY(db_row(tx, &day_add, &row, ARGS(STR(str_of(e->tenant_id)), I64(e->day), I64(e->sent))));
        e->row = row.n;
    }
    return OK;
}

static void collect(struct batch *b)
{
    pthread_mutex_lock(&quota.lock);
    for (u32 set = 0; set < SETS; set++)
        for (u32 i = 0; i < WAYS && b->n < SLICE; i++) {
            struct entry *e = &quota.entries[set][i];
            if (e->pending == 0)
                continue;
            e->sent = e->pending;
            b->list[b->n++] = *e;
        }
    quota.dirty = b->n == SLICE;
    pthread_mutex_unlock(&quota.lock);
}

static void settle(const struct batch *b, bool written, i64 now_us)
{
    pthread_mutex_lock(&quota.lock);
    for (u32 i = 0; i < b->n; i++) {
        const struct entry *of = &b->list[i];
        struct entry *e = find(str_of(of->tenant_id), of->day); /* an entry with something unwritten never leaves */
        e->sent = 0;
        if (written) {
            e->pending -= of->sent;
            e->row = of->row;
            e->read_us = now_us;
            e->writes++;
        }
    }
    quota.dirty = quota.dirty || !written;
    pthread_mutex_unlock(&quota.lock);
}

err quota_flush(void)
{
    struct arena *a = arena_new(FLUSH_BYTES);
    struct batch *b = a != NULL ? NEW(a, struct batch) : NULL;
    if (b == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    collect(b);
    err e = b->n > 0 ? db_write_wait(app.db, a, write_batch, b) : OK;
    settle(b, e == OK, clock_now_us());
    arena_free(a);
    return e;
}

/* Wakes for the first admission and then lets others come for a second; false: the server stops. */
static bool wait_for_some(void)
{
    pthread_mutex_lock(&quota.lock);
    while (!quota.dirty && !quota.stopping)
        pthread_cond_wait(&quota.wake, &quota.lock);
    struct timespec until = clock_in(FLUSH_US);
    while (!quota.stopping && pthread_cond_timedwait(&quota.wake, &quota.lock, &until) == 0)
        ;
    bool go_on = !quota.stopping;
    pthread_mutex_unlock(&quota.lock);
    return go_on;
}

static void *quota_thread(void *arg)
{
    bool go_on = true;
    while (go_on) {
        go_on = wait_for_some();
        err e = quota_flush();
        if (e != OK)
            LOG(LOG_WARN, "executions.uncounted", LOG_STR("cause", str_of(err_name(e))));
    }
    db_thread_end(app.db);
    return NULL;
}

err quota_start(void)
{
    quota.stopping = false;
    clock_cond_init(&quota.wake);
    quota.started = pthread_create(&quota.thread, NULL, quota_thread, NULL) == 0;
    if (quota.started)
        pthread_setname_np(quota.thread, "weir-quota");
    return quota.started ? OK : ERR_INTERNAL;
}

void quota_stop(void)
{
    if (!quota.started)
        return;
    pthread_mutex_lock(&quota.lock);
    quota.stopping = true;
    pthread_cond_signal(&quota.wake);
    pthread_mutex_unlock(&quota.lock);
    pthread_join(quota.thread, NULL);
    pthread_cond_destroy(&quota.wake);
    quota.started = false;
}

err quota_clean(struct tx *tx, i64 now_us)
{
    return db_exec(tx, &days_clean, NULL, ARGS(I64(day_of(now_us) - KEEP_DAYS)));
}
