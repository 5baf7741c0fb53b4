/* limit.c - token buckets in fixed tables, one lock per shard; what several nodes share of them is limit_shared.c.
 *
 * A bucket is known by the 64-bit keyed hash of its key, not by the key: clients choose keys (addresses, tokens),
 * the process chooses the hash key, so two keys meet once in 2^48 at a full table, and nothing has to be allocated
 * or freed. The tables are static: pages nobody touched cost nothing.
 *
 * With several nodes and a Redis a bucket here holds what was leased of the one there, and does not fill by itself; without Redis each node has its part of
 * the limit, and the bucket fills with its part of the rate. */
#include "core/limit_shared.h"
#include "core/nodes.h"
#include "core/pipeline.h"
#include "core/shared.h"

#include <pthread.h>
#include <string.h>

enum { SHARDS = 16, SHARD_KEYS = 65536 / SHARDS, HEADS = SHARD_KEYS, NONE = 0 };

struct bucket {
    u64 hash;
    double tokens;          /* leased: granted and not used */
    i64 filled_us;          /* when `tokens` was right */
    double owed, telling;   /* leased: used on credit and not told yet; being told */
    i64 empty_until_us;     /* leased: before, there is nothing to be had */
    double pool;            /* leased: what the shared bucket had left */
    bool leased, asking;    /* asking: a lease is under way */
    u32 next, newer, older; /* index + 1, as heads and ends: zeroed memory is an empty table */
};
struct shard {
    pthread_mutex_t lock;
    u32 used, newest, oldest;
    u32 heads[HEADS];
    struct bucket buckets[SHARD_KEYS];
};
static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };

/* The shard takes the low bits, the chain the high ones. */
static u32 *head_of(struct shard *s, u64 hash)
{
    return &s->heads[(hash >> 32) % HEADS];
}

static struct bucket *at(struct shard *s, u32 place)
{
    return place == NONE ? NULL : &s->buckets[place - 1];
}

static void order_remove(struct shard *s, struct bucket *b)
{
    *(b->newer == NONE ? &s->newest : &at(s, b->newer)->older) = b->older;
    *(b->older == NONE ? &s->oldest : &at(s, b->older)->newer) = b->newer;
}

static void order_push(struct shard *s, struct bucket *b)
{
    u32 place = (u32)(b - s->buckets) + 1;
    b->newer = NONE;
    b->older = s->newest;
    *(s->newest == NONE ? &s->oldest : &at(s, s->newest)->newer) = place;
    s->newest = place;
}

static void chain_remove(struct shard *s, const struct bucket *b)
{
    u32 place = (u32)(b - s->buckets) + 1;
    u32 *link = head_of(s, b->hash);
    while (*link != place)
        link = &at(s, *link)->next;
    *link = b->next;
}

static struct bucket *find(struct shard *s, u64 hash)
{
    struct bucket *b = at(s, *head_of(s, hash));
    while (b != NULL && b->hash != hash)
        b = at(s, b->next);
    return b;
}

/* A free place, else that of the key which asked longest ago. */
static struct bucket *place_for(struct shard *s)
{
    if (s->used < SHARD_KEYS)
        return &s->buckets[s->used++];
    struct bucket *b = at(s, s->oldest);
    order_remove(s, b);
    chain_remove(s, b);
    return b;
}

static struct bucket *add(struct shard *s, u64 hash, double tokens, i64 now_us)
{
    struct bucket *b = place_for(s);
    u32 *head = head_of(s, hash);
    *b = (struct bucket){ .hash = hash, .tokens = tokens, .filled_us = now_us, .next = *head };
    *head = (u32)(b - s->buckets) + 1;
    order_push(s, b);
    return b;
}

static void refill(struct bucket *b, double per_second, double burst, i64 now_us)
{
    if (now_us <= b->filled_us) /* threads bring their own times: a late one adds nothing */
        return;
    double more = (double)(now_us - b->filled_us) / (double)SECOND_US * per_second;
    b->tokens = MIN(burst, b->tokens + more);
    b->filled_us = now_us;
}

static i64 wait_ms_for(const struct bucket *b, double tokens, double per_second)
{
    const double longest_ms = (double)DAY_US / 1000;
    double ms = per_second > 0 ? (tokens - b->tokens) / per_second * 1000 : longest_ms;
    return (i64)MIN(ms, longest_ms) + 1; /* rounded up: who comes then is let in */
}

static err take(struct bucket *b, double per_second, i64 *retry_after_ms)
{
    if (b->tokens >= 1) {
        b->tokens -= 1;
        return OK;
    }
    *retry_after_ms = wait_ms_for(b, 1, per_second);
    return ERR_LIMIT;
}

struct left {
    i64 tokens, more_ms, full_ms; /* until there is another one, and until there are all */
};
struct want { /* what a bucket wants of the shared one */
    double used, ahead;
};

/* -- shared by several nodes --------------------------------------------------------------------------------------- */

/* So much is leased at once, and let in on credit: what all nodes together may be wrong by at any moment is a part of the limit. */
static double slice_of(double burst, u32 nodes)
{
    double slice = (double)(i64)(burst / (4 * nodes));
    return MAX(slice, 1.0);
}

/* What was in it as a part or as the whole of the limit is not what it may let in as a leased one, and the other way round: a slice is. */
static void lease_from_now(struct bucket *b, bool leased, double slice)
{
    if (b->leased == leased)
        return;
    b->leased = leased;
    b->tokens = MIN(b->tokens, slice);
    b->pool = 0; /* what is owed stays so, until somebody can be told */
    b->empty_until_us = 0;
}

/* ERR_BUSY: the shared bucket decides. `credit`: whoever asks cannot wait for that, and is let in a share of the limit before it is known. */
static err take_leased(struct bucket *b, double slice, double credit, i64 now_us, i64 *more_ms)
{
    if (b->tokens >= 1) {
        b->tokens -= 1;
        return OK;
    }
    if (b->empty_until_us > now_us) {
        *more_ms = (b->empty_until_us - now_us) / 1000 + 1;
        return ERR_LIMIT;
    }
    if (credit <= 0)
        return ERR_BUSY;
    *more_ms = 1000;
    if (b->owed + b->telling >= MAX(credit, slice))
        return ERR_LIMIT;
    b->owed += 1;
    return OK;
}

static struct want want_of(struct bucket *b, double slice, i64 now_us)
{
    bool short_of = b->tokens < (slice + 1) / 2 && b->empty_until_us <= now_us;
    if (b->asking || !(short_of || b->owed >= 1))
        return (struct want){ 0 };
    struct want w = { b->owed, short_of ? slice : 0 };
    b->asking = true;
    b->telling = b->owed;
    b->owed = 0;
    return w;
}

static err spend_leased(struct bucket *b, const struct limit_rate *r, bool waits, i64 now_us, struct left *left,
                        struct want *want)
{
    double slice = slice_of(r->burst, r->nodes);
    lease_from_now(b, true, slice);
    b->filled_us = MAX(b->filled_us, now_us); /* it fills from there, but must not once it is no longer leased */
    err e = take_leased(b, slice, waits ? 0 : r->burst / r->nodes, now_us, &left->more_ms);
    *want = want_of(b, slice, now_us);
    double all = MAX(b->pool, 0.0) + b->tokens;
    left->tokens = (i64)all;
    left->full_ms = r->per_second > 0 ? (i64)((r->burst - MIN(all, r->burst)) / r->per_second * 1000) + 1 : 0;
    return e;
}

void limit_leased(u64 hash, const struct limit_rate *r, const struct limit_lease *lease, i64 now_us)
{
    struct shard *s = &shards[hash % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct bucket *b = find(s, hash); /* gone: what was leased for it is lost, which errs on the side of the limit */
    if (b != NULL) {
        b->asking = b->asking && lease->alone;
        b->telling = b->asking ? b->telling : 0;
        b->owed += lease->untold;
    }
    if (b != NULL && b->leased) { /* else Redis was away meanwhile */
        b->tokens = MIN(b->tokens + lease->granted, r->burst);
        b->pool = lease->left;
        bool nothing = lease->untold == 0 && lease->granted == 0 && b->tokens < 1 && lease->left < 1;
        double wait_us = r->per_second > 0 ? (1 - lease->left) / r->per_second * SECOND_US : DAY_US;
        b->empty_until_us = nothing ? now_us + (i64)MIN(wait_us, (double)DAY_US) : 0;
    }
    pthread_mutex_unlock(&s->lock);
}

/* -- taking -------------------------------------------------------------------------------------------------------- */

static struct bucket *touch(struct shard *s, u64 hash, double tokens, i64 now_us)
{
    struct bucket *b = find(s, hash);
    if (b == NULL)
        return add(s, hash, tokens, now_us);
    order_remove(s, b);
    order_push(s, b);
    return b;
}

static err spend_own(struct bucket *b, const struct limit_rate *r, i64 now_us, struct left *left)
{
    double per_second = r->per_second / r->nodes, part = r->burst / r->nodes, burst = MAX(part, 1.0);
    lease_from_now(b, false, slice_of(r->burst, r->nodes));
    refill(b, per_second, burst, now_us);
    b->tokens = MIN(b->tokens, burst); /* there may be more nodes than before */
    err e = take(b, per_second, &left->more_ms);
    left->tokens = (i64)b->tokens;
    left->full_ms = wait_ms_for(b, burst, per_second);
    return e;
}

/* `waits`: ERR_BUSY in place of a guess, when only the shared bucket knows; the caller then asks it for what is wanted as well. */
static err spend(str key, const struct limit_rate *r, bool waits, i64 now_us, struct left *left, struct want *want)
{
    bool leased = r->nodes > 1 && shared_up();
    u64 hash = str_hash(key);
    struct shard *s = &shards[hash % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct bucket *b = touch(s, hash, leased ? 0 : r->burst, now_us);
    err e = leased ? spend_leased(b, r, waits, now_us, left, want) : spend_own(b, r, now_us, left);
    pthread_mutex_unlock(&s->lock);
    if (e != ERR_BUSY && (want->used > 0 || want->ahead > 0) &&
        limit_lease_ahead(key, hash, r, want->used, want->ahead) != OK)
        limit_leased(hash, r, &(struct limit_lease){ .untold = want->used, .left = 1 }, now_us);
    return e;
}

err limit_take(str key, double per_second, double burst, i64 now_us, i64 *retry_after_ms)
{
    struct limit_rate r = { per_second, burst, nodes_alive() };
    struct left left;
    struct want want = { 0 };
    err e = spend(key, &r, false, now_us, &left, &want);
    if (e != OK)
        *retry_after_ms = left.more_ms;
    return e;
}

void limit_tell(struct req *rq, const struct limit_policy *policy, i64 left, i64 reset_s)
{
    rq->core->told = (struct limit_told){ *policy, left, reset_s };
}

static err spend_one(struct req *rq, const struct limit_policy *p, str bucket, bool waits)
{
    double quota = (double)p->quota;
    struct limit_rate r = { quota / (double)p->window_s, quota, nodes_alive() };
    struct left left = { 0 };
    struct want want = { 0 };
    err e = spend(bucket, &r, waits, req_now(rq), &left, &want);
    if (e == ERR_BUSY)
        return limit_decide_later(rq, p, bucket, &r, want.used, want.ahead);
    limit_tell(rq, p, left.tokens, ((e != OK ? left.more_ms : left.full_ms) + 999) / 1000);
    return e;
}

static str bucket_of(struct arena *a, const struct limit_policy *p, str key)
{
    return strf(a, "%s:%.*s", p->name, STR_FMT(key));
}

err limit_bucket(struct req *rq, const struct limit_policy *p, str bucket)
{
    return spend_one(rq, p, bucket, false);
}

err limit_request(struct req *rq, const struct limit_policy *p, str key)
{
    str bucket = bucket_of(rq->arena, p, key);
    return bucket.p != NULL ? spend_one(rq, p, bucket, false) : ERR_MEMORY;
}

void limit_free(void)
{
    for (u32 i = 0; i < SHARDS; i++) {
        struct shard *s = &shards[i];
        pthread_mutex_lock(&s->lock);
        s->used = s->newest = s->oldest = 0;
        memset(s->heads, 0, sizeof s->heads);
        pthread_mutex_unlock(&s->lock);
    }
}

/* -- plans --------------------------------------------------------------------------------------------------------- */

/* Written at start, before the threads. */
static struct {
    str plan;
    struct limit_policy policy;
} plans[LIMIT_PLANS_MAX];
static u32 plan_count;

static err plan_parse(struct arena *a, str text, u32 i)
{
    str plan = STR_NONE, quota = STR_NONE, window = text;
    bool whole = str_cut(&window, '=', &plan) && str_cut(&window, '/', &quota);
    if (!whole || plan.n == 0 || !str_i64(quota, 1, 1000000000, &plans[i].policy.quota) ||
        !str_i64(window, 1, 86400, &plans[i].policy.window_s))
        return ERR_INVALID;
    plans[i].policy.name = "api";
    plans[i].plan = str_dup(a, plan);
    return plans[i].plan.p != NULL ? OK : ERR_MEMORY;
}

err limit_plans_set(struct arena *a, str text)
{
    u32 n = 0;
    plan_count = 0;
    for (str one; str_cut(&text, ',', &one);) {
        one = str_trim(one);
        if (one.n == 0)
            continue;
        if (n == LIMIT_PLANS_MAX)
            return ERR_INVALID;
        TRY(plan_parse(a, one, n++));
    }
    plan_count = n;
    return OK;
}

bool limit_plans_any(void)
{
    return plan_count > 0;
}

err limit_refuse(struct req *rq)
{
    return problem(rq, &problem_of_class[ERR_LIMIT], "The plan of this tenant allows no more requests now");
}

err limit_caller(struct req *rq)
{
    for (u32 i = 0; i < plan_count; i++)
        if (str_eq(plans[i].plan, rq->who.plan)) {
            str bucket = bucket_of(rq->arena, &plans[i].policy, rq->who.tenant_id);
            err e = bucket.p != NULL ? spend_one(rq, &plans[i].policy, bucket, true) : ERR_MEMORY;
            return e == ERR_LIMIT ? limit_refuse(rq) : e;
        }
    return OK;
}
