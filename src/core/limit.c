/* limit.c - token buckets in fixed tables, one lock per shard.
 *
 * A bucket is known by the 64-bit keyed hash of its key, not by the key: clients choose keys (addresses, tokens),
 * the process chooses the hash key, so two keys meet once in 2^48 at a full table, and nothing has to be allocated
 * or freed. The tables are static: pages nobody touched cost nothing. */
#include "core/limit.h"

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

static err take(struct bucket *b, double per_second, i64 *retry_after_ms)
{
    if (b->tokens >= 1) {
        b->tokens -= 1;
        return OK;
    }
    static const double longest_ms = (double)DAY_US / 1000;
    double wait_ms = per_second > 0 ? (1 - b->tokens) / per_second * 1000 : longest_ms;
    *retry_after_ms = (i64)MIN(wait_ms, longest_ms) + 1; /* rounded up: who comes then is let in */
    return ERR_LIMIT;
}

err limit_take(str key, double per_second, double burst, i64 now_us, i64 *retry_after_ms)
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
    err e = take(b, per_second, retry_after_ms);
    pthread_mutex_unlock(&s->lock);
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
