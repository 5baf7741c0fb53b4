/* idempotency.c - see idempotency.h.
 *
 * A key in flight is known to this process only, which keeps a second request from preparing beside the first; what decides is the primary key in
 * the transaction, so that several processes would agree as well. The answer is encoded on the writer, the one exception to the rule that nothing is: it is
 * bounded by 64 KiB, asked for by a header, and has to be in the same transaction as what it tells of. */
#include "core/idempotency.h"

#include "codec/hash.h"
#include "core/jobs.h"
#include "core/pipeline.h"

#include <pthread.h>
#include <string.h>

enum { SHELVES = 64, CLEAN_SLICE = 1000 };
#define LIFE_US DAY_US

PROBLEM_SHARED(problem_idempotency_mismatch, "idempotency.mismatch", ERR_INVALID,
               "The idempotency key came with another body before");
PROBLEM_SHARED(problem_idempotency_running, "idempotency.running", ERR_CONFLICT,
               "A request with this idempotency key is being carried out");
PROBLEM_SHARED(problem_idempotency_unkept, "idempotency.not_kept", ERR_CONFLICT,
               "The request was carried out before, and its answer was too large to be kept");

/* -- rows ---------------------------------------------------------------------------------------------------------- */

struct kept {
    struct presence has;
    str body_hash, headers, body;
    i64 status;
};
static const struct field fields[] = {
    FIELD(struct kept, body_hash, F_STR, .doc = "Hash of query and body"),
    FIELD(struct kept, headers, F_STR, .doc = "Headers of the answer, a line each"),
    FIELD(struct kept, body, F_STR, .flags = F_NULLABLE, .doc = "Body of the answer"),
    FIELD(struct kept, status, F_I64, .doc = "Status of the answer"),
};
static const struct table kept_table = TABLE("IdempotencyKey", struct kept, fields, .doc = "A kept answer");

STMT(
    idempotency_find,
    "SELECT body_hash, status, headers, body FROM idempotency_keys WHERE tenant_id = $1 AND key_hash = $2 AND created_at > $3",
    .row = &kept_table);
STMT(
    idempotency_insert,
    "INSERT INTO idempotency_keys (tenant_id, key_hash, body_hash, status, headers, body, created_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, key_hash) DO UPDATE SET body_hash = excluded.body_hash, "
    "status = excluded.status, headers = excluded.headers, body = excluded.body, created_at = excluded.created_at "
    "WHERE idempotency_keys.created_at <= $8");
STMT(idempotency_clean,
     "DELETE FROM idempotency_keys WHERE (tenant_id, key_hash) IN "
     "(SELECT tenant_id, key_hash FROM idempotency_keys WHERE created_at <= $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM);

/* -- keys in flight ------------------------------------------------------------------------------------------------ */

/* Global, because two requests with one key may be on two loops. Nodes are the requests' own: nothing is allocated here. */
static struct shelf {
    pthread_mutex_t lock;
    struct idempotent *first;
} shelves[SHELVES] = { [0 ... SHELVES - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };

static struct shelf *shelf_of(const struct idempotent *i)
{
    return &shelves[(u8)(i->key[0] * 31 + i->key[1]) % SHELVES];
}

static bool claim(struct idempotent *mine)
{
    struct shelf *s = shelf_of(mine);
    pthread_mutex_lock(&s->lock);
    const struct idempotent *other = s->first;
    while (other != NULL && memcmp(other->key, mine->key, sizeof mine->key) != 0)
        other = other->next;
    if (other == NULL) {
        mine->next = s->first;
        s->first = mine;
    }
    mine->claimed = other == NULL;
    pthread_mutex_unlock(&s->lock);
    return mine->claimed;
}

void idempotency_release(struct request_core *c)
{
    struct idempotent *mine = &c->idempotent;
    if (!mine->claimed)
        return;
    struct shelf *s = shelf_of(mine);
    pthread_mutex_lock(&s->lock);
    struct idempotent **at = &s->first;
    while (*at != mine)
        at = &(*at)->next;
    *at = mine->next;
    pthread_mutex_unlock(&s->lock);
    mine->claimed = false;
}

/* -- the key of a request ------------------------------------------------------------------------------------------ */

bool idempotency_key_sane(str key)
{
    if (key.n == 0 || key.n > IDEMPOTENCY_KEY_MAX)
        return false;
    for (size_t i = 0; i < key.n; i++)
        if (key.p[i] < '!' || key.p[i] > '~')
            return false;
    return true;
}

bool route_keeps(const struct route *r)
{
    return r->method == POST && r->work == W_WRITE && !(r->flags & (R_SECRET | R_ANY_METHOD));
}

static void digest(const str *parts, size_t count, char out[IDEMPOTENCY_HEX])
{
    static const char digits[] = "0123456789abcdef";
    u8 hash[SHA256_BYTES];
    hash_sha256_parts(parts, count, hash);
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
}

static str hex(const char text[IDEMPOTENCY_HEX])
{
    return (str){ text, IDEMPOTENCY_HEX };
}

/* Nobody has signed in: the address stands for the caller. An empty tenant would be none at all for row-level security. */
static struct arg tenant_of(const struct req *rq)
{
    return STR(rq->who.tenant_id.p != NULL ? rq->who.tenant_id : S("-"));
}

static void name_request(struct request_core *c, str key)
{
    const struct req *rq = &c->rq;
    str caller = rq->who.user_id.p != NULL ? rq->who.user_id : rq->http->remote;
    const str scope[] = { rq->who.tenant_id, caller,        str_of(rq->route->path), rq->params[0], rq->params[1],
                          rq->params[2],     rq->params[3], rq->params[4],           rq->params[5], key };
    const str request[] = { rq->http->query, rq->http->body };
    digest(scope, COUNT(scope), c->idempotent.key);
    digest(request, COUNT(request), c->idempotent.request);
}

err idempotency_claim(struct request_core *c)
{
    struct req *rq = &c->rq;
    str name = S("idempotency-key"), key = http_header(rq->http, name);
    if (key.p == NULL || !route_keeps(rq->route))
        return OK;
    if (!idempotency_key_sane(key) || http_header_count(rq->http, name) != 1)
        return problem_at(rq, &problem_body_invalid, S("header/Idempotency-Key"), "field.format",
                          "must be sent once, with 1 to %d visible ASCII characters", IDEMPOTENCY_KEY_MAX);
    name_request(c, key);
    if (claim(&c->idempotent))
        return OK;
    reply_header(rq, "Retry-After", S("1"));
    return problem(rq, &problem_idempotency_running, "Wait for its answer, then ask again with the same key to get it");
}

/* -- the answer again ---------------------------------------------------------------------------------------------- */

static err repeat_headers(struct req *rq, str lines, str *type)
{
    struct request_core *c = rq->core;
    assert(c != NULL); /* an analyzer believes otherwise */
    for (str line, name; str_cut(&lines, '\n', &line) && str_cut(&line, ':', &name);) {
        const char *z = str_z(rq->arena, name);
        if (z == NULL)
            return ERR_MEMORY;
        str value = line; /* what is left of it */
        if (str_eq(name, S("Content-Type")))
            *type = value;
        else if (str_eq(name, S("ETag")) && value.n == ETAG_BYTES)
            memcpy(c->etag, value.p, ETAG_BYTES);
        else
            reply_header(rq, z, value);
        c->has_etag |= str_eq(name, S("ETag"));
    }
    reply_header(rq, "Idempotent-Replayed", S("true"));
    return OK;
}

err idempotency_repeat(struct req *rq)
{
    const struct idempotent *mine = &rq->core->idempotent;
    struct kept kept;
    str type = STR_NONE;
    err e =
        db_row(rq->tx, &idempotency_find, &kept, ARGS(tenant_of(rq), STR(hex(mine->key)), I64(req_now(rq) - LIFE_US)));
    if (e == ERR_NOT_FOUND)
        return OK;
    TRY(e);
    if (!str_eq(kept.body_hash, hex(mine->request)))
        return problem(rq, &problem_idempotency_mismatch, "Use another key for another request");
    TRY(repeat_headers(rq, kept.headers, &type));
    if (kept.body.p == NULL)
        return problem(rq, &problem_idempotency_unkept,
                       "Read what came of it instead; Location names it when it was made");
    return kept.body.n > 0 ? reply_raw(rq, (int)kept.status, type, kept.body) : reply_empty(rq, (int)kept.status);
}

/* -- keeping it ---------------------------------------------------------------------------------------------------- */

static void put_line(struct buf *b, str name, str value)
{
    buf_str(b, name);
    buf_char(b, ':');
    buf_str(b, value);
    buf_char(b, '\n');
}

static err header_lines(const struct request_core *c, str type, str *out)
{
    const struct answer *a = &c->rq.answer;
    struct buf b = { .arena = c->rq.arena, .max = IDEMPOTENCY_HEADERS_MAX };
    put_line(&b, S("Content-Type"), type);
    if (c->has_etag)
        put_line(&b, S("ETag"), (str){ c->etag, ETAG_BYTES });
    for (u32 i = 0; i < a->header_count; i++)
        if (!str_starts(a->headers[i].name, S("RateLimit")))
            put_line(&b, a->headers[i].name, a->headers[i].value);
    *out = buf_view(&b);
    return b.fail;
}

err idempotency_keep(struct request_core *c)
{
    struct req *rq = &c->rq;
    const struct idempotent *mine = &c->idempotent;
    str headers;
    i64 changed = 0;
    if (!mine->claimed || rq->answer.problem != NULL)
        return OK;
    struct letter l = reply_encode(c, IDEMPOTENCY_KEPT_MAX);
    if (l.fail != OK && l.fail != ERR_TOO_LARGE)
        return l.fail;
    bool keeps = l.fail == OK && str_utf8(l.body);
    TRY(header_lines(c, l.type, &headers));
    TRY(db_exec(rq->tx, &idempotency_insert, &changed,
                ARGS(tenant_of(rq), STR(hex(mine->key)), STR(hex(mine->request)), I64(l.status), STR(headers),
                     keeps ? STR(l.body.p != NULL ? l.body : S("")) : NIL, I64(req_now(rq)),
                     I64(req_now(rq) - LIFE_US))));
    if (changed == 1)
        return OK;
    return problem(rq, &problem_idempotency_running,
                   "Another server has just carried it out; ask again with the same key");
}

/* -- forgetting it ------------------------------------------------------------------------------------------------- */

struct clean {
    i64 before, changed;
};

static err clean_slice(void *ctx, struct tx *tx)
{
    struct clean *c = ctx;
    return db_exec(tx, &idempotency_clean, &c->changed, ARGS(I64(c->before), I64(CLEAN_SLICE)));
}

static err clean(const struct job *job)
{
    struct clean c = { .before = job->now_us - LIFE_US };
    do
        TRY(db_write_wait(app.db, job->arena, clean_slice, &c));
    while (c.changed == CLEAN_SLICE);
    return OK;
}

static const struct job_kind jobs[] = {
    { .name = "idempotency.clean",
      .run = clean,
      .every_us = HOUR_US,
      .doc = "Forgets idempotency keys after 24 hours" },
};

const struct module idempotency_module = {
    .name = "idempotency", .doc = "Requests that are carried out once", .jobs = jobs, .job_count = COUNT(jobs)
};
