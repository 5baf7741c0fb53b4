/* hot.c - see hot.h.
 *
 * An object is a hash in Redis: for each form of the answer (path and query) one field with the answer and one with a lease. Whoever misses asks for the lease, then reads the
 * database, and may store only while its lease stands. A change deletes the hash before it is answered, leases included, so a slow reader that saw the state before cannot
 * bring it back; that holds as well when Redis throws the key out or it ends by itself, which a counter of generations would not survive. The hash ends HOT_LIFE_S after
 * its first lease, whatever is stored in it later.
 *
 * What lies there is sealed with a key of SECRET_KEY's for this version of the program, bound to its name and dated by its lease: who can write to Redis can cause misses and
 * give back an answer of the last HOT_LIFE_S seconds, and nothing else. Nodes whose clocks are further apart than that do not believe each other, which costs misses. */
#include "core/hot.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/bus.h"
#include "core/pipeline.h"
#include "core/shared.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY = crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    NONCE = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
    TAG = crypto_aead_xchacha20poly1305_ietf_ABYTES,
    TOKEN_BYTES = 12,
    DATE_BYTES = 8,
    HEAD_BYTES = DATE_BYTES + ETAG_BYTES, /* in front of a kept body */
    LIFE_US = HOT_LIFE_S * 1000000,
    LATE_DOUBT_US = 1000000,
    DOUBT_US = (HOT_LIFE_S + 1) * 1000000, /* a second more: clocks of two machines run differently fast */
};
static_assert(ETAG_BYTES == 24, "it stands in front of every body that is kept");

/* ARGV: the field of the lease, its token, the life in milliseconds. 1: it is ours. */
static const str lease_script = S_INIT("if redis.call('HSETNX',KEYS[1],ARGV[1],ARGV[2])==0 then return 0 end "
                                       "if redis.call('PTTL',KEYS[1])<0 then redis.call('PEXPIRE',KEYS[1],ARGV[3]) end "
                                       "return 1");
/* ARGV: the field of the lease, its token, the field of the answer, the answer. */
static const str store_script = S_INIT("if redis.call('HGET',KEYS[1],ARGV[1])~=ARGV[2] then return 0 end "
                                       "redis.call('HSET',KEYS[1],ARGV[3],ARGV[4]) return 1");

struct forgotten {
    struct forgotten *next;
    str key;
};
/* On the request's arena, in front of the mark: it outlives the handler's runs. */
struct hot_state {
    struct redis_call call;
    struct request_core *core;
    str key, field, lease;
    char token[2 * TOKEN_BYTES];
    i64 asked_us; /* by the wall clock: before the lease was asked for */
    bool leased;
};

static struct {
    u8 key[KEY];
    char prefix[64];
    _Atomic i64 doubt_us; /* by the monotonic clock: when somebody last could not tell Redis of a change */
} hot;

/* -- whether ------------------------------------------------------------------------------------------------------- */

bool hot_wanted(void)
{
    return shared_wanted();
}

void hot_doubt(void)
{
    atomic_store_explicit(&hot.doubt_us, clock_mono_us(), memory_order_release);
}

static bool within(i64 since_us, i64 span_us, i64 now_us)
{
    return since_us != 0 && now_us - since_us < span_us;
}

/* After Redis was lost there may be changes that it was not told of: by nodes that lost it earlier, or have not found it again. All that it holds of before
 * ends within its life. When it was only late, who could not tell it has told us by the bus before long. */
static bool in_doubt(i64 now_us)
{
    return within(atomic_load_explicit(&hot.doubt_us, memory_order_acquire), DOUBT_US, now_us) ||
           within(shared_lost_us(), DOUBT_US, now_us) || within(shared_late_us(), LATE_DOUBT_US, now_us);
}

err hot_start(void)
{
    struct arena *a = arena_new(16 * KIB);
    str info = a != NULL ? strf(a, "hot %s %.*s", WEIR_VERSION, STR_FMT(app.config.public_url)) : STR_NONE;
    struct buf b = { .p = hot.prefix, .cap = sizeof hot.prefix, .max = sizeof hot.prefix - 1 };
    err e = info.p != NULL && sodium_init() >= 0 ? OK : ERR_MEMORY;
    if (e == OK)
        hash_hkdf_sha256(app.config.secret_key, info, hot.key, sizeof hot.key);
    shared_put_prefix(&b, "hot");
    hot.prefix[b.n] = '\0';
    arena_free(a);
    return e;
}

/* -- names --------------------------------------------------------------------------------------------------------- */

static bool is_name(str id)
{
    for (size_t i = 0; i < id.n; i++)
        if (!(id.p[i] == '_' || id.p[i] == '-' || (id.p[i] >= '0' && id.p[i] <= '9') ||
              (id.p[i] >= 'a' && id.p[i] <= 'z')))
            return false;
    return id.n > 0 && id.n <= HOT_NAME_MAX;
}

static str key_of(struct arena *a, const struct hot *h, str tenant, str id)
{
    return strf(a, "%s%.*s:%s:%.*s", hot.prefix, STR_FMT(tenant), h->word, STR_FMT(id));
}

/* NULL: this request is none of ours, or there is no memory for it. */
static struct hot_state *state_new(struct request_core *c)
{
    struct req *rq = &c->rq;
    const struct http_request *http = rq->http;
    if (!is_name(rq->params[0]) || rq->who.tenant_id.p == NULL || http->path.n + http->query.n > HOT_FIELD_MAX)
        return NULL;
    struct hot_state *s = NEW(rq->arena, struct hot_state);
    if (s == NULL)
        return NULL;
    s->core = c;
    s->key = key_of(rq->arena, rq->route->hot, rq->who.tenant_id, rq->params[0]);
    s->lease = strf(rq->arena, "?%.*s?%.*s", STR_FMT(http->path), STR_FMT(http->query));
    s->field = str_slice(s->lease, 1, s->lease.n);
    return s->key.p != NULL && s->lease.p != NULL ? s : NULL;
}

/* -- sealing ------------------------------------------------------------------------------------------------------- */

static str bound_to(struct arena *a, const struct hot_state *s)
{
    return strf(a, "%.*s\n%.*s", STR_FMT(s->key), STR_FMT(s->field));
}

/* In this machine's order of bytes: nodes that differ in that believe each other nothing. */
static bool is_fresh(const u8 *date)
{
    i64 kept_us, now_us = clock_now_us();
    memcpy(&kept_us, date, DATE_BYTES);
    return now_us - kept_us < LIFE_US && kept_us - now_us < LIFE_US;
}

/* nonce, then sealed: when, the ETag (blanks: none) and the body. */
static str seal(struct request_core *c, const struct hot_state *s, str body)
{
    struct arena *a = c->rq.arena;
    str with = bound_to(a, s);
    size_t n = HEAD_BYTES + body.n;
    u8 *out = arena_alloc(a, NONCE + n + TAG), *plain = arena_alloc(a, n);
    if (with.p == NULL || out == NULL || plain == NULL)
        return STR_NONE;
    memcpy(plain, &s->asked_us, DATE_BYTES);
    memset(plain + DATE_BYTES, ' ', ETAG_BYTES);
    if (c->has_etag)
        memcpy(plain + DATE_BYTES, c->etag, ETAG_BYTES);
    memcpy(plain + HEAD_BYTES, body.p, body.n);
    rng_bytes(out, NONCE);
    crypto_aead_xchacha20poly1305_ietf_encrypt(out + NONCE, NULL, plain, n, (const u8 *)with.p, with.n, NULL, out,
                                               hot.key);
    return (str){ (const char *)out, NONCE + n + TAG };
}

/* ETag and body. */
static str unseal(struct arena *a, const struct hot_state *s, str sealed)
{
    if (sealed.n < NONCE + HEAD_BYTES + TAG || sealed.n > NONCE + HEAD_BYTES + HOT_ANSWER_MAX + TAG)
        return STR_NONE;
    str with = bound_to(a, s);
    u8 *out = arena_alloc(a, sealed.n);
    const u8 *p = (const u8 *)sealed.p;
    if (with.p == NULL || out == NULL ||
        crypto_aead_xchacha20poly1305_ietf_decrypt(out, NULL, NULL, p + NONCE, sealed.n - NONCE, (const u8 *)with.p,
                                                   with.n, p, hot.key) != 0 ||
        !is_fresh(out))
        return STR_NONE;
    return (str){ (const char *)out + DATE_BYTES, sealed.n - NONCE - DATE_BYTES - TAG };
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

static void miss(struct hot_state *s)
{
    atomic_fetch_add_explicit(&s->core->rq.route->hot->misses, 1, memory_order_relaxed);
    req_read_store(s->core);
}

static void on_lease(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct hot_state *s = CONTAINER(call, struct hot_state, call);
    s->leased = outcome == OK && answer->kind == REDIS_NUMBER && answer->number == 1;
    miss(s);
}

static void ask_lease(struct hot_state *s)
{
    struct redis *r = shared_here();
    u8 bytes[TOKEN_BYTES];
    char life[16];
    rng_bytes(bytes, sizeof bytes);
    s->asked_us = clock_now_us();
    str token = hex_encode(s->core->rq.arena, (str){ (const char *)bytes, sizeof bytes });
    if (token.p != NULL)
        memcpy(s->token, token.p, sizeof s->token);
    int n = snprintf(life, sizeof life, "%d", HOT_LIFE_S * 1000);
    const str words[] = { S("EVAL"), lease_script, S("1"), s->key, s->lease, token, { life, (size_t)n } };
    s->call.done = on_lease;
    if (token.p == NULL || r == NULL || redis_ask(r, &s->call, words, COUNT(words)) != OK)
        miss(s);
}

static err answer_from(struct request_core *c, str plain)
{
    if (plain.p[0] != ' ')
        TRY(conditional_kept(c, str_slice(plain, 0, ETAG_BYTES)));
    if (c->rq.answer.status != 0) /* 304 */
        return OK;
    return reply_raw(&c->rq, 200, S("application/json"), str_slice(plain, ETAG_BYTES, plain.n));
}

static void on_found(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct hot_state *s = CONTAINER(call, struct hot_state, call);
    struct request_core *c = s->core;
    if (outcome != OK)
        return miss(s);
    str plain = answer->kind == REDIS_TEXT ? unseal(c->rq.arena, s, answer->text) : STR_NONE;
    if (plain.p == NULL)
        return ask_lease(s);
    atomic_fetch_add_explicit(&c->rq.route->hot->hits, 1, memory_order_relaxed);
    reply_send(c, answer_from(c, plain));
}

bool hot_look(struct request_core *c)
{
    struct redis *r = shared_here();
    struct hot_state *s = r != NULL && !in_doubt(clock_mono_us()) ? state_new(c) : NULL;
    if (s == NULL)
        return false;
    const str words[] = { S("HGET"), s->key, s->field };
    s->call.done = on_found;
    c->hot = s;
    return redis_ask(r, &s->call, words, COUNT(words)) == OK;
}

/* Nobody waits for it. In doubt nothing is stored either: it might outlive the doubt. */
void hot_keep(struct request_core *c)
{
    const struct hot_state *s = c->hot;
    const struct letter *l = &c->letter;
    struct redis *r = shared_here();
    bool good = s != NULL && s->leased && c->outcome == OK && l->status == 200 && l->fail == OK &&
                c->rq.answer.problem == NULL && c->rq.answer.header_count == 0 && l->body.n <= HOT_ANSWER_MAX &&
                str_eq(l->type, S("application/json"));
    if (!good || r == NULL || in_doubt(clock_mono_us()))
        return;
    str sealed = seal(c, s, l->body);
    const str words[] = { S("EVAL"), store_script, S("1"), s->key, s->lease, { s->token, sizeof s->token },
                          s->field,  sealed };
    if (sealed.p == NULL || redis_ask(r, NULL, words, COUNT(words)) != OK)
        return; /* the next one that reads it stores it */
}

/* -- changing ------------------------------------------------------------------------------------------------------ */

/* By the bus's other way, when Redis is the one that failed. A gap in what is heard may have been this. */
static void heard(str text)
{
    hot_doubt();
}
BUS(doubt_bus, "hot.doubt", heard);

static void doubt_everywhere(void)
{
    hot_doubt();
    bus_say(&doubt_bus, S(""));
}

err hot_forget(struct req *rq, struct hot *h, str id)
{
    struct request_core *c = rq->core;
    assert(c->writing);
    if (!hot_wanted())
        return OK;
    struct forgotten *f = NEW(rq->arena, struct forgotten);
    if (f == NULL)
        return ERR_MEMORY;
    *f = (struct forgotten){ c->forgotten, key_of(rq->arena, h, rq->who.tenant_id, id) };
    if (f->key.p == NULL)
        return ERR_MEMORY;
    c->forgotten = f;
    return OK;
}

struct telling {
    struct redis_call call;
    struct request_core *core;
};

static void on_forgotten(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct request_core *c = CONTAINER(call, struct telling, call)->core;
    struct redis *r = shared_here();
    bool refused = outcome == OK && answer->kind != REDIS_NUMBER;
    if (outcome != OK || refused)
        doubt_everywhere();
    if (refused &&
        r != NULL) /* a replica that may not write, or a login that may not delete: nothing of it is to be believed */
        redis_distrust(r, "it does not delete what it is told to");
    reply_send(c, c->outcome);
}

bool hot_forget_now(struct request_core *c)
{
    struct redis *r = shared_here();
    struct telling *t = NEW(c->rq.arena, struct telling);
    str words[1 + HOT_FORGET_MAX] = { S("DEL") };
    u32 n = 1;
    const struct forgotten *f = c->forgotten;
    for (; f != NULL && n < COUNT(words); f = f->next)
        words[n++] = f->key;
    if (t != NULL)
        *t = (struct telling){ .call.done = on_forgotten, .core = c };
    if (t != NULL && f == NULL && r != NULL && redis_ask(r, &t->call, words, n) == OK)
        return true;
    doubt_everywhere();
    return false;
}
