/* limit_shared.c - see limit_shared.h.
 *
 * The shared bucket is a hash in Redis, changed by one script by the clock of Redis, and gone once it would be full again. It may go below zero: what was let in on credit is
 * paid back before anything else is granted, so that over time the limit holds exactly, whatever the nodes guessed in between. */
#include "core/limit_shared.h"

#include "base/clock.h"
#include "codec/hash.h"
#include "core/nodes.h"
#include "core/pipeline.h"
#include "core/shared.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { LEASES = 256 /* under way at once; further ones wait for their next request */, NAME_BYTES = 128, DIGEST = 16 };

/* ARGV: per second, burst, used already, wanted, 1 when a lease ahead (which leaves half of what there is to the others). Answers with what is granted and, in
 * thousandths, what is left. */
static const str script =
    S_INIT("local r,q,u,w=tonumber(ARGV[1]),tonumber(ARGV[2]),tonumber(ARGV[3]),tonumber(ARGV[4]) "
           "local c=redis.call('TIME') local now=c[1]+c[2]/1000000 "
           "local s=redis.call('HMGET',KEYS[1],'t','at') local t=tonumber(s[1]) or q local at=tonumber(s[2]) or now "
           "t=math.min(q,t+math.max(0,now-at)*r)-u "
           "local most=math.floor(t) if ARGV[5]=='1' and most>1 then most=math.ceil(most/2) end "
           "local g=math.max(0,math.min(w,most)) t=t-g "
           "redis.call('HSET',KEYS[1],'t',string.format('%.6f',t),'at',string.format('%.6f',now)) "
           "redis.call('PEXPIRE',KEYS[1],r>0 and math.min(172800000,math.ceil((q-t)/r*1000)+1000) or 172800000) "
           "return {g,math.floor(t*1000)}");

struct lease {
    struct redis_call call;
    struct message message;
    struct lease *next; /* free ones */
    u64 hash;
    struct limit_rate rate;
    double used, ahead;
    char name[NAME_BYTES];
    size_t name_bytes;
};
static struct {
    pthread_mutex_t lock;
    struct lease all[LEASES], *free;
    u32 made;
} leases = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct lease *lease_new(void)
{
    pthread_mutex_lock(&leases.lock);
    struct lease *l = leases.free;
    if (l != NULL)
        leases.free = l->next;
    else if (leases.made < LEASES)
        l = &leases.all[leases.made++];
    pthread_mutex_unlock(&leases.lock);
    return l;
}

static void lease_end(struct lease *l)
{
    pthread_mutex_lock(&leases.lock);
    l->next = leases.free;
    leases.free = l;
    pthread_mutex_unlock(&leases.lock);
}

/* Keys hold what clients choose; a digest has one length and one alphabet. False: it does not fit. */
static bool name_of(str key, char *out, size_t *n)
{
    u8 digest[SHA256_BYTES];
    char hex[2 * DIGEST + 1];
    hash_sha256(key, digest);
    for (int i = 0; i < DIGEST; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    struct buf b = { .p = out, .cap = NAME_BYTES, .max = NAME_BYTES };
    shared_put_prefix(&b, "limit");
    buf_put(&b, hex, 2 * DIGEST);
    *n = b.n;
    return b.fail == OK;
}

struct words {
    char numbers[4][40];
    str list[9];
};

static void words_make(struct words *w, str name, const struct limit_rate *r, double used, double wanted, bool ahead)
{
    const double numbers[] = { r->per_second, r->burst, used, wanted };
    const str head[] = { S("EVAL"), script, S("1"), name };
    memcpy(w->list, head, sizeof head);
    for (u32 i = 0; i < COUNT(numbers); i++) {
        int n = snprintf(w->numbers[i], sizeof w->numbers[i], "%.9f", numbers[i]);
        w->list[4 + i] = (str){ w->numbers[i], (size_t)n };
    }
    w->list[8] = ahead ? S("1") : S("0");
}

static bool read_lease(err outcome, const struct redis_answer *answer, struct limit_lease *out)
{
    if (outcome != OK || answer->kind != REDIS_LIST || redis_item(answer, 0)->kind != REDIS_NUMBER ||
        redis_item(answer, 1)->kind != REDIS_NUMBER)
        return false;
    out->granted = (double)redis_item(answer, 0)->number;
    out->left = (double)redis_item(answer, 1)->number / 1000;
    return true;
}

/* -- ahead --------------------------------------------------------------------------------------------------------- */

static void lease_failed(struct lease *l)
{
    limit_leased(l->hash, &l->rate, &(struct limit_lease){ .untold = l->used, .left = 1 }, clock_now_us());
    lease_end(l);
}

static void on_leased(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct lease *l = CONTAINER(call, struct lease, call);
    struct limit_lease got = { 0 };
    if (!read_lease(outcome, answer, &got))
        return lease_failed(l);
    limit_leased(l->hash, &l->rate, &got, clock_now_us());
    lease_end(l);
}

static void ask_ahead(struct message *m)
{
    struct lease *l = CONTAINER(m, struct lease, message);
    struct redis *r = shared_here();
    struct words w;
    words_make(&w, (str){ l->name, l->name_bytes }, &l->rate, l->used, l->ahead, true);
    l->call.done = on_leased;
    if (r == NULL || redis_ask(r, &l->call, w.list, COUNT(w.list)) != OK)
        lease_failed(l);
}

err limit_lease_ahead(str key, u64 hash, const struct limit_rate *r, double used, double ahead)
{
    struct lease *l = lease_new();
    if (l == NULL)
        return ERR_UNAVAILABLE;
    l->hash = hash;
    l->rate = *r;
    l->used = used;
    l->ahead = ahead;
    if (!name_of(key, l->name, &l->name_bytes)) {
        lease_end(l);
        return ERR_UNAVAILABLE;
    }
    l->message.run = ask_ahead;
    if (loop_current() != NULL) /* most: a request on its loop */
        ask_ahead(&l->message);
    else
        loop_post(app.loops[0], &l->message);
    return OK;
}

/* -- one request --------------------------------------------------------------------------------------------------- */

struct decision {
    struct redis_call call;
    struct request_core *core;
    const struct limit_policy *policy;
    str bucket;
    struct limit_rate rate;
    double used, ahead;
    void (*go_on)(struct request_core *c);
};

err limit_decide_later(struct req *rq, const struct limit_policy *p, str bucket, const struct limit_rate *r,
                       double used, double ahead)
{
    struct decision *d = NEW(rq->arena, struct decision);
    if (d == NULL) {
        limit_leased(str_hash(bucket), r, &(struct limit_lease){ .untold = used, .left = 1, .alone = ahead == 0 },
                     clock_now_us());
        return ERR_MEMORY;
    }
    *d = (struct decision){ .core = rq->core, .policy = p, .bucket = bucket, .rate = *r, .used = used, .ahead = ahead };
    rq->core->decision = d;
    return OK;
}

static void decided(struct decision *d, err e)
{
    if (e == ERR_LIMIT)
        e = limit_refuse(&d->core->rq);
    if (e == OK)
        d->go_on(d->core);
    else
        reply_send(d->core, e);
}

/* Without Redis: what lies here decides. */
static void decide_alone(struct decision *d)
{
    limit_leased(str_hash(d->bucket), &d->rate,
                 &(struct limit_lease){ .untold = d->used, .left = 1, .alone = d->ahead == 0 }, clock_now_us());
    decided(d, limit_bucket(&d->core->rq, d->policy, d->bucket));
}

static void on_decided(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct decision *d = CONTAINER(call, struct decision, call);
    struct limit_lease got = { .alone = d->ahead == 0 };
    if (!read_lease(outcome, answer, &got))
        return decide_alone(d);
    bool in = got.granted >= 1;
    double left = MIN(MAX(got.left, 0.0), d->rate.burst), missing = in ? d->rate.burst - left : 1 - got.left;
    double wait_s = MIN(missing / d->rate.per_second, (double)DAY_US / SECOND_US); /* whatever lies in Redis */
    limit_tell(&d->core->rq, d->policy, (i64)left, (i64)wait_s + 1);
    got.granted -= in; /* this request's own */
    limit_leased(str_hash(d->bucket), &d->rate, &got, clock_now_us());
    decided(d, in ? OK : ERR_LIMIT);
}

void limit_decide(struct request_core *c, void (*go_on)(struct request_core *c))
{
    struct decision *d = c->decision;
    struct redis *r = shared_here();
    char name[NAME_BYTES];
    size_t n;
    struct words w;
    if (d == NULL)
        return go_on(c);
    d->go_on = go_on;
    d->call.done = on_decided;
    if (r == NULL || !name_of(d->bucket, name, &n))
        return decide_alone(d);
    words_make(&w, (str){ name, n }, &d->rate, d->used, 1 + d->ahead, d->ahead > 0);
    if (redis_ask(r, &d->call, w.list, COUNT(w.list)) != OK)
        decide_alone(d);
}
