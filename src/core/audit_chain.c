/* audit_chain.c - see audit_chain.h. Sealing is a second transaction behind the change's: a chain inside each transaction would let only one commit at a time.
 *
 * Seals are computed off the writer; the writer only compares that each chain still ends where it did. A row is written once and sealed once; nothing else ever
 * updates one. Sealing goes on behind a head that was changed, but never mends it: else what was forged would be good from the next row on. */
#include "core/audit_chain.h"

#include "base/clock.h"
#include "base/log.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/nodes.h"
#include "core/audit.h"
#include "core/keys.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

enum { BATCH = 500, PAGE = 500, SEALER_BYTES = 16 << 20, PRUNE_ROWS = 1000, SOON_MS = 100, LATE_MS = 500 };

/* ---- rows ---- */

struct row {
    struct presence has;
    str id, tenant_id, actor, action, object_id, changed, detail, request_id, ip, seal;
    i64 created_at, seq;
};
static const struct field fields[] = {
    FIELD(struct row, id, F_STR, .doc = "Id"),
    FIELD(struct row, tenant_id, F_STR, .flags = F_NULLABLE, .doc = "Tenant; none for the platform"),
    FIELD(struct row, actor, F_STR, .flags = F_NULLABLE, .doc = "Who"),
    FIELD(struct row, action, F_STR, .doc = "What"),
    FIELD(struct row, object_id, F_STR, .flags = F_NULLABLE, .doc = "To which object"),
    FIELD(struct row, changed, F_STR, .flags = F_NULLABLE, .doc = "Names of changed fields"),
    FIELD(struct row, detail, F_STR, .flags = F_NULLABLE, .doc = "Id of an API key, or a word more"),
    FIELD(struct row, request_id, F_STR, .flags = F_NULLABLE, .doc = "Request"),
    FIELD(struct row, ip, F_STR, .flags = F_NULLABLE, .doc = "Address"),
    FIELD(struct row, created_at, F_TIME, .doc = "When"),
    FIELD(struct row, seq, F_I64, .flags = F_NULLABLE, .doc = "Place in its chain"),
    FIELD(struct row, seal, F_STR, .flags = F_NULLABLE, .doc = "MAC over the row and the seal before it"),
};
static const struct table row_table = TABLE("AuditRow", struct row, fields);

struct head {
    struct presence has;
    str chain, seal, anchor_seal, mac;
    i64 seq, anchor_seq;
};
static const struct field head_fields[] = {
    FIELD(struct head, chain, F_STR, .doc = "Tenant, or nothing for the platform"),
    FIELD(struct head, seq, F_I64, .doc = "Of its last row"),
    FIELD(struct head, seal, F_STR, .doc = "Of its last row"),
    FIELD(struct head, anchor_seq, F_I64, .doc = "Of the last row that was pruned"),
    FIELD(struct head, anchor_seal, F_STR, .doc = "Of the last row that was pruned"),
    FIELD(struct head, mac, F_STR, .doc = "Over the rest of this row"),
};
static const struct table head_table = TABLE("AuditHead", struct head, head_fields);
struct number {
    struct presence has;
    i64 n;
};
static const struct field number_fields[] = { FIELD(struct number, n, F_I64, .doc = "How many") };
static const struct table number_table = TABLE("AuditNumber", struct number, number_fields);

#define COLUMNS "id, tenant_id, actor, action, object_id, changed, detail, request_id, ip, created_at, seq, seal"
STMT(audit_unsealed, "SELECT " COLUMNS " FROM audit_logs WHERE seq IS NULL ORDER BY id LIMIT $1", .row = &row_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true); /* its index holds just these */
STMT(audit_seal_row, "UPDATE audit_logs SET seq = $2, seal = $3 WHERE id = $1 AND seq IS NULL", .scope = SCOPE_SYSTEM);
STMT(audit_head, "SELECT chain, seq, seal, anchor_seq, anchor_seal, mac FROM audit_heads WHERE chain = $1",
     .row = &head_table, .scope = SCOPE_SYSTEM);
STMT(audit_heads_next,
     "SELECT chain, seq, seal, anchor_seq, anchor_seal, mac FROM audit_heads WHERE chain > $1 ORDER BY chain LIMIT $2",
     .row = &head_table, .scope = SCOPE_SYSTEM);
STMT(audit_head_first, "SELECT chain, seq, seal, anchor_seq, anchor_seal, mac FROM audit_heads ORDER BY chain LIMIT 1",
     .row = &head_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(audit_head_add,
     "INSERT INTO audit_heads (chain, seq, seal, anchor_seq, anchor_seal, mac) VALUES ($1, $2, $3, $4, $5, $6)",
     .scope = SCOPE_SYSTEM);
STMT(
    audit_head_move,
    "UPDATE audit_heads SET seq = $2, seal = $3, anchor_seq = $4, anchor_seal = $5, mac = $6 WHERE chain = $1 AND mac = $7",
    .scope = SCOPE_SYSTEM);
STMT(audit_chain_page,
     "SELECT " COLUMNS " FROM audit_logs WHERE coalesce(tenant_id, '') = $1 AND seq > $2 AND seq IS NOT NULL"
     " ORDER BY seq LIMIT $3",
     .row = &row_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(audit_unsealed_count, "SELECT count(*) AS n FROM audit_logs WHERE seq IS NULL", .row = &number_table,
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(audit_strays,
     "SELECT count(*) AS n FROM audit_logs WHERE seq IS NOT NULL AND coalesce(tenant_id, '') NOT IN"
     " (SELECT chain FROM audit_heads)",
     .row = &number_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(audit_up_to,
     "SELECT count(*) AS n FROM audit_logs WHERE coalesce(tenant_id, '') = $1 AND seq IS NOT NULL AND seq <= $2",
     .row = &number_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(audit_delete, "DELETE FROM audit_logs WHERE coalesce(tenant_id, '') = $1 AND seq <= $2 AND seq IS NOT NULL",
     .scope = SCOPE_SYSTEM, .scan_ok = true);

/* ---- MACs ---- */

static void key_of(u8 key[SHA256_BYTES])
{
    keys_mac(MAC_AUDIT, key);
}

static void mac_bytes(const u8 digest[SHA256_BYTES], u8 mac[SHA256_BYTES])
{
    u8 key[SHA256_BYTES];
    key_of(key);
    hash_hmac_sha256((str){ (const char *)key, sizeof key }, (str){ (const char *)digest, SHA256_BYTES }, mac);
    explicit_bzero(key, sizeof key);
}

static err mac_of(struct arena *a, const u8 digest[SHA256_BYTES], str *out)
{
    u8 mac[SHA256_BYTES];
    mac_bytes(digest, mac);
    str hex = hex_encode(a, (str){ (const char *)mac, sizeof mac });
    if (hex.p == NULL)
        return ERR_MEMORY;
    *out = hex;
    return OK;
}

static str number_text(struct arena *a, i64 n)
{
    return strf(a, "%lld", (long long)n);
}

/* Each part with its length; a missing one is told from an empty one by what stands before it. */
static err seal_of(struct arena *a, const struct row *r, i64 seq, str before, str *out)
{
    const str texts[] = { r->id,      r->tenant_id, r->actor,      r->action, r->object_id,
                          r->changed, r->detail,    r->request_id, r->ip };
    str parts[3 + 2 * COUNT(texts)];
    size_t n = 0;
    u8 digest[SHA256_BYTES];
    parts[n++] = before;
    parts[n++] = number_text(a, seq);
    parts[n++] = number_text(a, r->created_at);
    if (parts[1].p == NULL || parts[2].p == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < COUNT(texts); i++) {
        parts[n++] = texts[i].p != NULL ? S("+") : S("-");
        parts[n++] = texts[i].p != NULL ? texts[i] : S("");
    }
    hash_sha256_parts(parts, n, digest);
    return mac_of(a, digest, out);
}

static err head_mac(struct arena *a, const struct head *h, str *out)
{
    u8 digest[SHA256_BYTES];
    const str parts[] = { S("head"),     h->chain, number_text(a, h->seq), h->seal, number_text(a, h->anchor_seq),
                          h->anchor_seal };
    if (parts[2].p == NULL || parts[4].p == NULL)
        return ERR_MEMORY;
    hash_sha256_parts(parts, COUNT(parts), digest);
    return mac_of(a, digest, out);
}

static err head_sound(struct arena *a, const struct head *h, bool *sound)
{
    str right;
    TRY(head_mac(a, h, &right));
    *sound = str_eq(right, h->mac);
    return OK;
}

/* A head that was changed gets no good MAC again, but another one than before: that is how the writer sees that nobody else moved it. */
static err head_close(struct arena *a, struct head *h, bool sound)
{
    if (sound)
        return head_mac(a, h, &h->mac);
    LOG(LOG_ERROR, "audit.broken", LOG_STR("chain", h->chain), LOG_INT("seq", h->seq));
    h->mac = strf(a, "changed before %lld", (long long)h->seq);
    return h->mac.p != NULL ? OK : ERR_MEMORY;
}

static str chain_of(const struct row *r)
{
    return r->tenant_id.p != NULL ? r->tenant_id : S("");
}

/* ---- the roll of all chains ---- */

#define ROLL \
    "*" /* a head by this name: seq is how many chains there are, seal their sum; no tenant's id looks like it */

struct roll {
    i64 chains;
    u8 sum[SHA256_BYTES]; /* XOR of a MAC of each name: in no order, so that it need not be read to add one */
};

static void roll_add(struct roll *r, str chain)
{
    u8 digest[SHA256_BYTES], mac[SHA256_BYTES];
    const str parts[] = { S("chain"), chain };
    hash_sha256_parts(parts, COUNT(parts), digest);
    mac_bytes(digest, mac);
    for (size_t i = 0; i < SHA256_BYTES; i++)
        r->sum[i] ^= mac[i];
    r->chains++;
}

/* Ends when there is no further one. */
static err next_head(struct tx *tx, const struct head *after, struct head *out)
{
    return after == NULL ? db_row(tx, &audit_head_first, out, NO_ARGS)
                         : db_row(tx, &audit_heads_next, out, ARGS(STR(after->chain), I64(1)));
}

static bool is_roll(const struct head *h)
{
    return str_eq(h->chain, S(ROLL));
}

static err roll_of_heads(struct tx *tx, struct roll *out)
{
    struct roll roll = { 0 };
    struct head h, before;
    err e = next_head(tx, NULL, &h);
    while (e == OK) {
        if (!is_roll(&h))
            roll_add(&roll, h.chain);
        before = h;
        e = next_head(tx, &before, &h);
    }
    if (e != ERR_NOT_FOUND)
        return e;
    *out = roll;
    return OK;
}

static err roll_text(struct arena *a, const struct roll *r, str *out)
{
    str hex = hex_encode(a, (str){ (const char *)r->sum, sizeof r->sum });
    if (hex.p == NULL)
        return ERR_MEMORY;
    *out = hex;
    return OK;
}

/* A text that is no sum comes of a forged head, which is not sound whatever its sum is. */
static void roll_parse(struct arena *a, const struct head *h, struct roll *out)
{
    str bytes;
    *out = (struct roll){ .chains = h->seq };
    if (hex_decode(a, h->seal, &bytes) && bytes.n == SHA256_BYTES)
        memcpy(out->sum, bytes.p, SHA256_BYTES);
}

/* ---- sealing ---- */

struct chain {
    struct head head;
    str before; /* mac of the head as it was; STR_NONE: there was none */
    bool sound;
};
struct batch {
    struct row *rows;
    u32 row_count;
    struct chain chains[BATCH], roll;
    u32 chain_count, born; /* born: chains that there were not before */
    bool roll_moves, adopted;
};

static err chain_read(struct tx *tx, struct arena *a, str name, struct chain *c)
{
    err e = db_row(tx, &audit_head, &c->head, ARGS(STR(name)));
    if (e == ERR_NOT_FOUND) {
        *c = (struct chain){ .head = { .chain = name, .seal = S(""), .anchor_seal = S("") }, .sound = true };
        return OK;
    }
    TRY(e);
    c->before = c->head.mac;
    return head_sound(a, &c->head, &c->sound);
}

static err chain_find(struct tx *tx, struct arena *a, struct batch *b, str name, struct chain **out)
{
    for (u32 i = 0; i < b->chain_count; i++)
        if (str_eq(b->chains[i].head.chain, name)) {
            *out = &b->chains[i];
            return OK;
        }
    struct chain *c = &b->chains[b->chain_count];
    TRY(chain_read(tx, a, name, c));
    b->chain_count++;
    b->born += c->before.p == NULL;
    *out = c;
    return OK;
}

/* New chains go on the roll in the transaction that begins them. One that is missing while there are chains was taken away. */
static err enroll(struct tx *tx, struct arena *a, struct batch *b)
{
    struct chain *c = &b->roll;
    struct roll roll;
    TRY(chain_read(tx, a, S(ROLL), c));
    bool none = c->before.p == NULL;
    b->adopted = c->head.seq < 0;
    b->roll_moves = b->born > 0 || b->adopted;
    if (!b->roll_moves)
        return OK;
    if (none || b->adopted)
        TRY(roll_of_heads(tx, &roll));
    else
        roll_parse(a, &c->head, &roll);
    c->sound = b->adopted || (none ? roll.chains == 0 : c->sound);
    for (u32 i = 0; i < b->chain_count; i++)
        if (b->chains[i].before.p == NULL)
            roll_add(&roll, b->chains[i].head.chain);
    c->head.seq = roll.chains;
    TRY(roll_text(a, &roll, &c->head.seal));
    return head_close(a, &c->head, c->sound);
}

static err compute(struct tx *tx, struct arena *a, struct batch *b)
{
    void *rows;
    TRY(db_list(tx, &audit_unsealed, BATCH, &rows, &b->row_count, ARGS(I64(BATCH))));
    b->rows = rows;
    for (u32 i = 0; i < b->row_count; i++) {
        struct row *r = &b->rows[i];
        struct chain *c;
        TRY(chain_find(tx, a, b, chain_of(r), &c));
        r->seq = c->head.seq + 1;
        TRY(seal_of(a, r, r->seq, c->head.seal, &r->seal));
        c->head.seq = r->seq;
        c->head.seal = r->seal;
    }
    for (u32 i = 0; i < b->chain_count; i++)
        TRY(head_close(a, &b->chains[i].head, b->chains[i].sound));
    return enroll(tx, a, b);
}

static err head_store(struct tx *tx, const struct head *h, str before)
{
    i64 changed = 1;
    if (before.p == NULL)
        return db_exec(
            tx, &audit_head_add, NULL,
            ARGS(STR(h->chain), I64(h->seq), STR(h->seal), I64(h->anchor_seq), STR(h->anchor_seal), STR(h->mac)));
    TRY(db_exec(tx, &audit_head_move, &changed,
                ARGS(STR(h->chain), I64(h->seq), STR(h->seal), I64(h->anchor_seq), STR(h->anchor_seal), STR(h->mac),
                     STR(before))));
    return changed == 1 ? OK : ERR_CONFLICT; /* another node sealed meanwhile: once more, from where it ended */
}

static err store(void *ctx, struct tx *tx)
{
    const struct batch *b = ctx;
    for (u32 i = 0; i < b->chain_count; i++)
        TRY(head_store(tx, &b->chains[i].head, b->chains[i].before));
    for (u32 i = 0; i < b->row_count; i++)
        TRY(db_exec(tx, &audit_seal_row, NULL, ARGS(STR(b->rows[i].id), I64(b->rows[i].seq), STR(b->rows[i].seal))));
    if (b->roll_moves)
        TRY(head_store(tx, &b->roll.head, b->roll.before));
    if (!b->adopted)
        return OK;
    /* Once, behind an upgrade: a second such row tells of somebody who asked for it. */
    return audit_system(tx, db_arena(tx), clock_now_us(), STR_NONE, S("upgrade"), "audit.roll", STR_NONE, STR_NONE);
}

err audit_seal_some(struct db *db, struct arena *a, bool *more)
{
    struct batch *b = NEW(a, struct batch);
    struct tx *tx;
    if (b == NULL)
        return ERR_MEMORY;
    TRY(db_read_begin(db, a, false, &tx));
    err e = compute(tx, a, b);
    db_read_end(tx);
    TRY(e);
    *more = b->row_count == BATCH;
    return b->row_count > 0 || b->roll_moves ? db_write_wait(db, a, store, b) : OK;
}

/* ---- the sealer ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, pending, stopping; /* pending, stopping: the lock */
} sealer = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

void audit_seal_wake(void)
{
    pthread_mutex_lock(&sealer.lock);
    sealer.pending = true;
    pthread_cond_signal(&sealer.wake);
    pthread_mutex_unlock(&sealer.lock);
}

NODES_ENDED(left_unsealed, audit_seal_wake); /* what it wrote last it may not have sealed */

static void seal_all(struct arena *a)
{
    struct arena_mark mark = arena_mark(a);
    bool more = true;
    while (more) {
        err e = audit_seal_some(app.db, a, &more);
        if (e != OK && e != ERR_CONFLICT) {
            LOG(LOG_ERROR, "audit.unsealed", LOG_STR("cause", str_of(err_name(e))));
            more = false;
        }
        arena_rewind(a, mark);
    }
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000 * 1000 }, NULL);
}

/* Whoever wakes it is inside a transaction, so it lets that commit; that gathers a batch as well. */
static bool wait_for_rows(void)
{
    pthread_mutex_lock(&sealer.lock);
    while (!sealer.pending && !sealer.stopping)
        pthread_cond_wait(&sealer.wake, &sealer.lock);
    bool stopping = sealer.stopping;
    sealer.pending = false;
    pthread_mutex_unlock(&sealer.lock);
    if (!stopping)
        pause_ms(SOON_MS);
    return !stopping;
}

static void *seal_thread(void *arg)
{
    struct arena *a = arg;
    pthread_setname_np(pthread_self(), "weir-audit");
    do {
        seal_all(a);
        pause_ms(LATE_MS); /* a commit that took longer than the first pause */
        seal_all(a);
    } while (wait_for_rows());
    seal_all(a);
    db_thread_end(app.db);
    arena_free(a);
    return NULL;
}

err audit_seal_start(void)
{
    struct arena *a = arena_new(SEALER_BYTES);
    if (a == NULL)
        return ERR_MEMORY;
    sealer.stopping = false;
    sealer.started = pthread_create(&sealer.thread, NULL, seal_thread, a) == 0;
    if (!sealer.started)
        arena_free(a);
    return sealer.started ? OK : ERR_INTERNAL;
}

void audit_seal_stop(void)
{
    if (!sealer.started)
        return;
    pthread_mutex_lock(&sealer.lock);
    sealer.stopping = true;
    pthread_cond_signal(&sealer.wake);
    pthread_mutex_unlock(&sealer.lock);
    pthread_join(sealer.thread, NULL);
    sealer.started = false;
}

/* ---- verifying ---- */

static err broken(struct audit_verdict *v, struct arena *a, str chain, i64 seq, str id, const char *why)
{
    v->broken = true;
    v->what = strf(a, "%s %.*s, row %lld%s%.*s: %s", chain.n > 0 ? "chain of tenant" : "chain of the platform",
                   STR_FMT(chain), (long long)seq, id.n > 0 ? " " : "", STR_FMT(id), why);
    return v->what.p != NULL ? OK : ERR_MEMORY;
}

struct walk {
    struct head head;
    i64 seq;
    str seal;
};

static err walk_row(struct arena *a, struct walk *w, const struct row *r, struct audit_verdict *v)
{
    str right;
    if (r->seq != w->seq + 1)
        return broken(v, a, w->head.chain, w->seq + 1, S(""), "it is missing");
    TRY(seal_of(a, r, r->seq, w->seal, &right));
    if (!str_eq(right, r->seal))
        return broken(v, a, w->head.chain, r->seq, r->id,
                      "its seal is not that of what it holds and what stands before it");
    w->seq = r->seq;
    w->seal = right;
    v->rows++;
    return OK;
}

/* Rows that no walk comes to: before the anchor, or of a chain without a head. */
static err walk_past(struct tx *tx, struct arena *a, str chain, i64 up_to, struct audit_verdict *v)
{
    struct number past;
    TRY(db_row(tx, &audit_up_to, &past, ARGS(STR(chain), I64(up_to))));
    return past.n == 0 ? OK : broken(v, a, chain, up_to, S(""), "there are sealed rows that the chain does not hold");
}

static err walk_chain(struct tx *tx, struct arena *a, const struct head *h, struct audit_verdict *v)
{
    struct walk w = { .head = *h, .seq = h->anchor_seq, .seal = h->anchor_seal };
    bool sound;
    u32 n = PAGE;
    TRY(head_sound(a, h, &sound));
    v->chains++;
    if (!sound)
        return broken(v, a, h->chain, h->seq, S(""), "the head of the chain was changed");
    TRY(walk_past(tx, a, h->chain, h->anchor_seq, v));
    while (n == PAGE && !v->broken) {
        void *rows;
        TRY(db_list(tx, &audit_chain_page, PAGE, &rows, &n, ARGS(STR(h->chain), I64(w.seq), I64(PAGE))));
        for (u32 i = 0; i < n && !v->broken; i++)
            TRY(walk_row(a, &w, (const struct row *)rows + i, v));
    }
    if (!v->broken && (w.seq != h->seq || !str_eq(w.seal, h->seal)))
        return broken(v, a, h->chain, w.seq + 1, S(""), "it is missing at the end of the chain");
    return OK;
}

static err roll_broken(struct audit_verdict *v, struct arena *a, const struct roll *there, i64 chains, const char *why)
{
    v->broken = true;
    v->what = strf(a, "%s (%lld chains are there, %lld should be)", why, (long long)there->chains, (long long)chains);
    return v->what.p != NULL ? OK : ERR_MEMORY;
}

/* Whether a whole chain is gone, of which nothing else tells. */
static err walk_roll(struct tx *tx, struct arena *a, struct audit_verdict *v)
{
    struct roll there;
    struct head h;
    str sum;
    bool sound;
    TRY(roll_of_heads(tx, &there));
    err e = db_row(tx, &audit_head, &h, ARGS(STR(S(ROLL))));
    if (e == ERR_NOT_FOUND)
        return there.chains == 0 ? OK : roll_broken(v, a, &there, 0, "the roll of all chains is missing");
    TRY(e);
    TRY(head_sound(a, &h, &sound));
    TRY(roll_text(a, &there, &sum));
    if (!sound)
        return roll_broken(v, a, &there, h.seq, "the roll of all chains was changed");
    return str_eq(sum, h.seal) && there.chains == h.seq ? OK
                                                        : roll_broken(v, a, &there, h.seq, "a whole chain is gone");
}

static err walk_all(struct tx *tx, struct arena *a, struct audit_verdict *v)
{
    struct head h, before;
    struct number strays;
    err e = next_head(tx, NULL, &h);
    while (e == OK && !v->broken) {
        if (!is_roll(&h))
            TRY(walk_chain(tx, a, &h, v));
        before = h;
        e = next_head(tx, &before, &h);
    }
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    TRY(db_row(tx, &audit_strays, &strays, NO_ARGS));
    if (!v->broken && strays.n > 0)
        return broken(v, a, S(""), 0, S(""), "there are sealed rows whose chain has no head");
    return v->broken ? OK : walk_roll(tx, a, v);
}

static err walk(struct tx *tx, struct arena *a, str tenant_id, struct audit_verdict *v)
{
    struct number unsealed;
    struct head h;
    TRY(db_row(tx, &audit_unsealed_count, &unsealed, NO_ARGS));
    v->unsealed = unsealed.n;
    if (tenant_id.p == NULL)
        return walk_all(tx, a, v);
    err e = db_row(tx, &audit_head, &h, ARGS(STR(tenant_id)));
    if (e == ERR_NOT_FOUND) {
        TRY(walk_past(tx, a, tenant_id, INT64_MAX, v));
        return v->broken ? OK : walk_roll(tx, a, v);
    }
    TRY(e);
    return walk_chain(tx, a, &h, v);
}

err audit_verify(struct db *db, struct arena *a, str tenant_id, struct audit_verdict *out)
{
    struct audit_verdict v = { 0 };
    struct tx *tx;
    TRY(db_read_begin(db, a, false, &tx));
    err e = walk(tx, a, tenant_id, &v);
    db_read_end(tx);
    if (e == OK)
        *out = v;
    return e;
}

/* ---- pruning ---- */

struct pruning {
    struct head head;
    str before;
    i64 n;
};

static err prune_store(void *ctx, struct tx *tx)
{
    struct pruning *p = ctx;
    TRY(head_store(tx, &p->head, p->before));
    return db_exec(tx, &audit_delete, &p->n, ARGS(STR(p->head.chain), I64(p->head.anchor_seq)));
}

/* The next rows of the chain that are old enough; no more than a slice at once. */
static err prune_find(struct tx *tx, struct arena *a, i64 before_us, struct pruning *p)
{
    void *rows;
    u32 n;
    TRY(db_list(tx, &audit_chain_page, PRUNE_ROWS, &rows, &n,
                ARGS(STR(p->head.chain), I64(p->head.anchor_seq), I64(PRUNE_ROWS))));
    const struct row *list = rows;
    bool sound;
    TRY(head_sound(a, &p->head, &sound));
    if (!sound)
        return OK; /* evidence stays */
    p->before = p->head.mac;
    for (u32 i = 0; i < n && list[i].created_at < before_us; i++) {
        p->head.anchor_seq = list[i].seq;
        p->head.anchor_seal = list[i].seal;
        p->n++;
    }
    return head_mac(a, &p->head, &p->head.mac);
}

static err prune_chain(struct db *db, struct arena *a, str chain, i64 before_us, i64 *pruned)
{
    for (i64 n = 1; n > 0;) {
        struct pruning p = { .n = 0 };
        struct tx *tx;
        TRY(db_read_begin(db, a, false, &tx));
        err e = db_row(tx, &audit_head, &p.head, ARGS(STR(chain)));
        if (e == OK)
            e = prune_find(tx, a, before_us, &p);
        db_read_end(tx);
        TRY(e);
        if ((n = p.n) > 0)
            TRY(db_write_wait(db, a, prune_store, &p));
        *pruned += n;
    }
    return OK;
}

err audit_prune(struct db *db, struct arena *a, i64 before_us, i64 *pruned)
{
    struct head h, *after = NULL;
    struct tx *tx;
    *pruned = 0;
    for (;;) {
        struct head next;
        TRY(db_read_begin(db, a, false, &tx));
        err e = next_head(tx, after, &next);
        db_read_end(tx);
        if (e == ERR_NOT_FOUND)
            return OK;
        TRY(e);
        h = next;
        after = &h;
        TRY(prune_chain(db, a, h.chain, before_us, pruned));
    }
}

/* ---- forgetting a chain ---- */

STMT(audit_head_end, "DELETE FROM audit_heads WHERE chain = $1 AND seq = anchor_seq", .scope = SCOPE_SYSTEM);

enum { FORGET_TRIES = 10 };

struct forgetting {
    str chain;
    struct chain roll;
};

/* A sum of XORs forgets a name as it learnt it. A roll that is still to be made is made of the heads that are there then. */
static err leave_roll(struct tx *tx, struct arena *a, struct forgetting *f)
{
    struct chain *c = &f->roll;
    struct roll roll;
    TRY(chain_read(tx, a, S(ROLL), c));
    if (c->before.p == NULL || c->head.seq < 0)
        return OK;
    roll_parse(a, &c->head, &roll);
    roll_add(&roll, f->chain);
    c->head.seq = roll.chains - 2;
    TRY(roll_text(a, &roll, &c->head.seal));
    return head_close(a, &c->head, c->sound);
}

static err end_head(void *ctx, struct tx *tx)
{
    const struct forgetting *f = ctx;
    i64 changed;
    TRY(db_exec(tx, &audit_head_end, &changed, ARGS(STR(f->chain))));
    bool enrolled = f->roll.before.p != NULL && f->roll.head.seq >= 0;
    if (changed == 0)
        return ERR_CONFLICT; /* more was sealed meanwhile */
    return enrolled ? head_store(tx, &f->roll.head, f->roll.before) : OK;
}

static err forget_head(struct db *db, struct arena *a, str chain)
{
    struct forgetting f = { .chain = chain };
    struct tx *tx;
    TRY(db_read_begin(db, a, false, &tx));
    err e = leave_roll(tx, a, &f);
    db_read_end(tx);
    return e == OK ? db_write_wait(db, a, end_head, &f) : e;
}

err audit_forget(struct db *db, struct arena *a, str chain)
{
    i64 pruned = 0;
    err e = ERR_CONFLICT; /* it grew, or the roll moved with a chain that began: once more */
    for (u32 i = 0; i < FORGET_TRIES && e == ERR_CONFLICT; i++) {
        e = prune_chain(db, a, chain, INT64_MAX, &pruned);
        if (e == ERR_NOT_FOUND) /* nothing of it was sealed, or another node was faster */
            return OK;
        if (e == OK)
            e = forget_head(db, a, chain);
    }
    return e;
}
