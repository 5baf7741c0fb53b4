/* limit.c - token buckets in fixed tables, one lock per shard.
 *
 * A bucket is known by the 64-bit keyed hash of its key, not by the key: clients choose keys (addresses, tokens),
 * the process chooses the hash key, so two keys meet once in 2^48 at a full table, and nothing has to be allocated
 * or freed. The tables are static: pages nobody touched cost nothing. */
#include "core/limit.h"
#include "core/pipeline.h"

#include <pthread.h>
#include <string.h>

enum { SHARDS = 16, SHARD_KEYS = 65536 / SHARDS, HEADS = SHARD_KEYS, NONE = 0 };

struct bucket {
    u64 hash;
    double tokens;
    i64 filled_us;          /* when `tokens` was right */
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

static err spend(str key, double per_second, double burst, i64 now_us, struct left *left)
{
    u64 hash = str_hash(key);
    struct shard *s = &shards[hash % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct bucket *b = find(s, hash);
    if (b == NULL) {
        b = add(s, hash, burst, now_us);
    } else {
        refill(b, per_second, burst, now_us);
        order_remove(s, b);
        order_push(s, b);
    }
    err e = take(b, per_second, &left->more_ms);
    left->tokens = (i64)b->tokens;
    left->full_ms = wait_ms_for(b, burst, per_second);
    pthread_mutex_unlock(&s->lock);
    return e;
}

err limit_take(str key, double per_second, double burst, i64 now_us, i64 *retry_after_ms)
{
    struct left left;
    err e = spend(key, per_second, burst, now_us, &left);
    if (e != OK)
        *retry_after_ms = left.more_ms;
    return e;
}

void limit_tell(struct req *rq, const struct limit_policy *policy, i64 left, i64 reset_s)
{
    rq->core->told = (struct limit_told){ *policy, left, reset_s };
}

err limit_request(struct req *rq, const struct limit_policy *p, str key)
{
    struct left left = { 0 };
    double quota = (double)p->quota;
    str bucket = strf(rq->arena, "%s:%.*s", p->name, STR_FMT(key));
    if (bucket.p == NULL)
        return ERR_MEMORY;
    err e = spend(bucket, quota / (double)p->window_s, quota, req_now(rq), &left);
    limit_tell(rq, p, left.tokens, ((e != OK ? left.more_ms : left.full_ms) + 999) / 1000);
    return e;
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

err limit_caller(struct req *rq)
{
    for (u32 i = 0; i < plan_count; i++)
        if (str_eq(plans[i].plan, rq->who.plan))
            return limit_request(rq, &plans[i].policy, rq->who.tenant_id);
    return OK;
}
