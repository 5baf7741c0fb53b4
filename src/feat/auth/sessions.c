/* sessions.c - families of refresh tokens: begun by a login, carried on by rotation, ended by logout, reuse or age. And
 * who a token's bearer is right now.
 *
 * A token is a claim; the session's row decides. Every request asks for it (from memory, unless something changed),
 * so logging out, disabling somebody, another role or a suspended tenant act at once, whatever the token says. */
#include "feat/auth/auth_parts.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/cache.h"
#include "core/metrics.h"
#include "feat/api-keys/api-keys.h"
#include "feat/auth/auth.h"
#include "feat/roles/roles.h"
#include "feat/users/users.h"

#include <string.h>

enum {
    IDENTITY_BYTES = 16 << 10,
    USER_AGENT_MAX = 256,
    HOPS_MAX = 16, /* rotations within one window that are followed */
    CLEAN_ROWS = 500,
    CLEAN_ROUNDS = 1000,
};
#define FAMILY_US      (30 * DAY_US)
#define SAME_WINDOW_US (10 * SECOND_US)

/* --- rows -------------------------------------------------------------------------------------------------------- */

struct identity {
    struct presence has;
    str id, tenant_id, user_id, email, role, role_name, permissions, plan;
    i64 absolute_expires_at;
    struct grants *grants; /* of permissions; no column */
};
static const struct field identity_fields[] = {
    FIELD(struct identity, id, F_STR, .doc = "Session"),
    FIELD(struct identity, tenant_id, F_STR, .doc = "Tenant of the session"),
    FIELD(struct identity, user_id, F_STR, .doc = "Whose session"),
    FIELD(struct identity, email, F_STR, .doc = "Address of the user"),
    FIELD(struct identity, role, F_STR, .doc = "Role in the tenant, now"),
    FIELD(struct identity, role_name, F_STR, .flags = F_NULLABLE, .doc = "Of a role of the tenant's own"),
    FIELD(struct identity, permissions, F_STR, .flags = F_NULLABLE, .doc = "What it allows, a JSON list"),
    FIELD(struct identity, plan, F_STR, .doc = "Plan of the tenant"),
    FIELD(struct identity, absolute_expires_at, F_TIME, .doc = "When the family ends"),
};
static const struct table identity_table = TABLE("Identity", struct identity, identity_fields);

struct rotation {
    struct presence has;
    str jti, session_id, token_hash, successor_jti, tenant_id, user_id, role;
    i64 issued_at, expires_at, rotated_at, absolute_expires_at;
};
static const struct field rotation_fields[] = {
    FIELD(struct rotation, jti, F_STR, .doc = "Id of the refresh token"),
    FIELD(struct rotation, session_id, F_STR, .doc = "Its family"),
    FIELD(struct rotation, token_hash, F_STR, .doc = "SHA-256 of its text"),
    FIELD(struct rotation, successor_jti, F_STR, .doc = "What it was rotated to"),
    FIELD(struct rotation, tenant_id, F_STR, .doc = "Tenant of the session"),
    FIELD(struct rotation, user_id, F_STR, .doc = "Whose session"),
    FIELD(struct rotation, role, F_STR, .doc = "Role in the tenant, now"),
    FIELD(struct rotation, issued_at, F_TIME, .doc = "When it was issued"),
    FIELD(struct rotation, expires_at, F_TIME, .doc = "When it ends"),
    FIELD(struct rotation, rotated_at, F_TIME, .doc = "When it was rotated"),
    FIELD(struct rotation, absolute_expires_at, F_TIME, .doc = "When the family ends"),
};
static const struct table rotation_table = TABLE("Rotation", struct rotation, rotation_fields);

PROBLEM_SHARED(refresh_invalid, "auth.refresh_invalid", ERR_UNAUTHORIZED, "The refresh token is not valid (any more)");

/* Only what is alive on all sides is found. */
STMT(session_identity,
     "SELECT s.id, s.tenant_id, s.user_id, u.email, m.role, r.name AS role_name, r.permissions, t.plan,"
     " s.absolute_expires_at FROM sessions s JOIN users u ON u.id = s.user_id JOIN tenants t ON t.id = s.tenant_id"
     " JOIN memberships m ON m.user_id = s.user_id AND m.tenant_id = s.tenant_id"
     " LEFT JOIN roles r ON r.id = m.role_id AND r.tenant_id = m.tenant_id"
     " WHERE s.id = $1 AND s.revoked_at IS NULL AND u.status = 'active' AND m.status = 'active'"
     " AND t.status = 'active'",
     .row = &identity_table, .scope = SCOPE_SYSTEM);
STMT(refresh_by_jti,
     "SELECT r.jti, r.session_id, r.token_hash, r.successor_jti, r.issued_at, r.expires_at, r.rotated_at,"
     " s.tenant_id, s.user_id,"
     " s.absolute_expires_at, m.role FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id"
     " JOIN users u ON u.id = s.user_id JOIN tenants t ON t.id = s.tenant_id"
     " JOIN memberships m ON m.user_id = s.user_id AND m.tenant_id = s.tenant_id"
     " WHERE r.jti = $1 AND s.revoked_at IS NULL AND u.status = 'active' AND m.status = 'active'"
     " AND t.status = 'active'",
     .row = &rotation_table, .scope = SCOPE_SYSTEM);
STMT(session_add,
     "INSERT INTO sessions (tenant_id, id, user_id, ip, user_agent, created_at, last_seen_at, absolute_expires_at)"
     " VALUES ($1, $2, $3, $4, $5, $6, $6, $7)");
STMT(refresh_add,
     "INSERT INTO refresh_tokens (jti, session_id, token_hash, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
     .scope = SCOPE_SYSTEM);
STMT(refresh_rotate,
     "UPDATE refresh_tokens SET rotated_at = $2, successor_jti = $3 WHERE jti = $1 AND rotated_at IS NULL",
     .scope = SCOPE_SYSTEM);
STMT(session_end_one, "UPDATE sessions SET revoked_at = $2, revoked_reason = $3"
                      " WHERE tenant_id = $4 AND id = $1 AND revoked_at IS NULL");
/* A person's sessions in all tenants, hence SYSTEM; $3 is the one that is spared, or empty. */
STMT(sessions_end_of_user,
     "UPDATE sessions SET revoked_at = $2, revoked_reason = 'logout'"
     " WHERE user_id = $1 AND revoked_at IS NULL AND id <> $3",
     .scope = SCOPE_SYSTEM);
STMT(refresh_clean,
     "DELETE FROM refresh_tokens WHERE jti IN (SELECT jti FROM refresh_tokens WHERE expires_at < $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(sessions_clean_ended,
     "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE absolute_expires_at < $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);

/* --- who is it ---------------------------------------------------------------------------------------------------- */

/* Written once at start, before the threads: every request needs it. */
static struct jwt_key key;
CACHE(identities, "sessions", .capacity = 4096);

err sessions_start(struct arena *a)
{
    return token_key(a, app.config.jwt_secret, &key);
}

void auth_forget(void *unused)
{
    cache_forget(&identities);
}

static err identity_read(struct tx *tx, struct arena *a, str session_id, struct identity *out)
{
    TRY(db_row(tx, &session_identity, out, ARGS(STR(session_id))));
    if (out->permissions.p == NULL)
        return OK;
    out->grants = NEW(a, struct grants);
    return out->grants != NULL ? grants_parse(a, out->permissions, out->grants) : ERR_MEMORY;
}

/* On an arena of its own, which the cache keeps. */
static err identity_load(str session_id, i64 now_us, const struct identity **out)
{
    u64 epoch = cache_epoch(&identities);
    struct arena *owner = arena_new(IDENTITY_BYTES);
    struct identity *made = owner == NULL ? NULL : NEW(owner, struct identity);
    struct tx *tx;
    err e = made == NULL ? ERR_MEMORY : db_read_begin(app.db, owner, true, &tx);
    if (e == OK) {
        e = identity_read(tx, owner, session_id, made);
        db_read_end(tx);
    }
    if (e != OK) {
        arena_free(owner);
        return e;
    }
    cache_put(&identities, session_id, made, owner, epoch, now_us);
    *out = made; /* valid until the next put on this thread */
    return OK;
}

static err identity_of(struct req *rq, str session_id, const struct identity **out)
{
    *out = cache_get(&identities, session_id, req_now(rq));
    if (*out != NULL)
        return OK;
    if (rq->tx == NULL)
        return identity_load(session_id, req_now(rq), out);
    struct identity *made =
        NEW(rq->arena, struct identity); /* a snapshot is open: it serves, but may be older than the epoch */
    if (made == NULL)
        return ERR_MEMORY;
    *out = made;
    return identity_read(rq->tx, rq->arena, session_id, made);
}

/* The cache may let go of the identity while the request still runs. */
static err grants_copy(struct arena *a, const struct grants *from, const struct grants **out)
{
    struct grants *g = from != NULL ? NEW(a, struct grants) : NULL;
    if (from != NULL && g == NULL)
        return ERR_MEMORY;
    if (from != NULL)
        memcpy(g, from, offsetof(struct grants, list) + from->n * sizeof from->list[0]);
    *out = g;
    return OK;
}

static err become(struct req *rq, const struct identity *i)
{
    str name = i->role_name.p != NULL ? i->role_name : i->role;
    struct caller who = {
        .tenant_id = str_dup(rq->arena, i->tenant_id),
        .user_id = str_dup(rq->arena, i->user_id),
        .session_id = str_dup(rq->arena, i->id),
        .email = str_dup(rq->arena, i->email),
        .plan = str_dup(rq->arena, i->plan),
        .role = role_bit(i->role),
        .role_name = str_dup(rq->arena, name),
    };
    if (who.tenant_id.p == NULL || who.user_id.p == NULL || who.session_id.p == NULL || who.email.p == NULL ||
        who.plan.p == NULL || who.role_name.p == NULL)
        return ERR_MEMORY;
    TRY(grants_copy(rq->arena, i->grants, &who.grants));
    rq->who = who;
    return OK;
}

err sessions_authenticate(struct req *rq, const struct credential *c, const char **reason)
{
    struct token t;
    const struct identity *i = NULL;
    if (c->kind == CREDENTIAL_KEY)
        return api_keys_authenticate(rq, c->text, reason);
    TRY(token_read(rq->arena, &key, c->text, TOKEN_ACCESS, req_now(rq), &t, reason));
    *reason = "session";
    err e = identity_of(rq, t.session_id, &i);
    if (e == ERR_NOT_FOUND)
        return ERR_UNAUTHORIZED;
    TRY(e);
    if (!str_eq(i->user_id, t.user_id) || !str_eq(i->tenant_id, t.tenant_id) || req_now(rq) >= i->absolute_expires_at)
        return ERR_UNAUTHORIZED;
    return become(rq, i);
}

/* --- grants ------------------------------------------------------------------------------------------------------- */

err hash_text(struct arena *a, str text, str *out)
{
    u8 hash[SHA256_BYTES];
    hash_sha256(text, hash);
    str hex = hex_encode(a, (str){ (const char *)hash, sizeof hash });
    if (hex.p == NULL)
        return ERR_MEMORY;
    *out = hex;
    return OK;
}

err secret_make(struct arena *a, size_t n, str *out)
{
    u8 bytes[64];
    assert(n <= sizeof bytes);
    rng_bytes(bytes, n);
    str text = base64_encode(a, BASE64URL, (str){ (const char *)bytes, n });
    if (text.p == NULL)
        return ERR_MEMORY;
    *out = text;
    return OK;
}

/* Both tokens of a family, the refresh token as `g->refresh` says; an access token is new each time. */
static err grant_sign(struct arena *a, i64 now_us, struct grant *g)
{
    i64 now_s = now_us / SECOND_US;
    struct token access = g->refresh;
    access.type = TOKEN_ACCESS;
    access.jti = typeid_new(a, "token", now_us);
    access.role = role_name(g->role);
    access.issued_s = now_s;
    access.expires_s = MIN(now_s + app.config.access_minutes * 60, g->absolute_us / SECOND_US);
    if (access.jti.p == NULL)
        return ERR_MEMORY;
    g->access_text = token_sign(a, &key, &access);
    g->access_expires_s = access.expires_s;
    g->refresh_text = token_sign(a, &key, &g->refresh);
    if (g->access_text.p == NULL || g->refresh_text.p == NULL)
        return ERR_MEMORY;
    return hash_text(a, g->refresh_text, &g->refresh_hash);
}

/* Another refresh token for the family of `g`. */
static err grant_renew(struct arena *a, i64 now_us, struct grant *g)
{
    i64 now_s = now_us / SECOND_US;
    g->refresh = (struct token){
        .type = TOKEN_REFRESH,
        .user_id = g->user_id,
        .tenant_id = g->tenant_id,
        .session_id = g->session_id,
        .jti = typeid_new(a, "token", now_us),
        .issued_s = now_s,
        .expires_s = MIN(now_s + app.config.refresh_days * DAY_US / SECOND_US, g->absolute_us / SECOND_US),
    };
    return g->refresh.jti.p == NULL ? ERR_MEMORY : grant_sign(a, now_us, g);
}

err grant_new(struct arena *a, i64 now_us, str user_id, str tenant_id, u32 role, struct grant *out)
{
    struct grant g = { .user_id = user_id, .tenant_id = tenant_id, .role = role, .absolute_us = now_us + FAMILY_US };
    g.session_id = typeid_new(a, "session", now_us);
    if (g.session_id.p == NULL)
        return ERR_MEMORY;
    TRY(grant_renew(a, now_us, &g));
    *out = g;
    return OK;
}

static err store_refresh(struct req *rq, const struct grant *g)
{
    return db_exec(rq->tx, &refresh_add, NULL,
                   ARGS(STR(g->refresh.jti), STR(g->session_id), STR(g->refresh_hash),
                        I64(g->refresh.issued_s * SECOND_US), I64(g->refresh.expires_s * SECOND_US)));
}

err grant_store(struct req *rq, const struct grant *g)
{
    str agent = str_slice(req_header(rq, "user-agent"), 0, USER_AGENT_MAX);
    if (agent.p == NULL || !str_utf8(agent))
        agent = S("");
    TRY(db_exec(rq->tx, &session_add, NULL,
                ARGS(STR(g->tenant_id), STR(g->session_id), STR(g->user_id), STR(rq->http->remote), STR(agent),
                     I64(req_now(rq)), I64(g->absolute_us))));
    return store_refresh(rq, g);
}

err grant_reply(struct req *rq, int status, const struct grant *g)
{
    i64 now_s = req_now(rq) / SECOND_US;
    struct token_pair *pair = NEW(rq->arena, struct token_pair);
    if (pair == NULL)
        return ERR_MEMORY;
    *pair = (struct token_pair){
        .access_token = g->access_text,
        .refresh_token = g->refresh_text,
        .token_type = S("bearer"),
        .expires_in = g->access_expires_s - now_s,
        .refresh_expires_in = g->refresh.expires_s - now_s,
    };
    field_set_all(&token_pair_table, pair);
    return reply(rq, status, &token_pair_table, pair);
}

/* --- refresh ------------------------------------------------------------------------------------------------------ */

struct refreshing {
    struct token token;
    str hash;
    struct grant next; /* signed in advance, so that the writer only writes */
};

static err invalid(struct req *rq, const char *reason)
{
    LOG(LOG_INFO, "auth.refresh_refused", LOG_STR("request_id", rq->request_id), LOG_STR("reason", str_of(reason)));
    return problem(rq, &refresh_invalid, "Sign in again");
}

static struct grant grant_of(const struct rotation *row)
{
    return (struct grant){ .user_id = row->user_id,
                           .tenant_id = row->tenant_id,
                           .session_id = row->session_id,
                           .role = role_bit(row->role),
                           .absolute_us = row->absolute_expires_at };
}

/* The row of the token, alive; the class ERR_UNAUTHORIZED is answered. */
static err find(struct req *rq, const struct refreshing *r, struct rotation *row)
{
    err e = db_row(rq->tx, &refresh_by_jti, row, ARGS(STR(r->token.jti)));
    if (e == ERR_NOT_FOUND)
        return invalid(rq, "session");
    TRY(e);
    if (!str_eq(row->session_id, r->token.session_id) || req_now(rq) >= MIN(row->expires_at, row->absolute_expires_at))
        return invalid(rq, "expired");
    return OK;
}

err refresh_prepare(struct req *rq)
{
    const struct refresh_body *in = rq->body;
    struct refreshing *r = NEW(rq->arena, struct refreshing);
    struct rotation row = { 0 };
    const char *reason = "decode";
    if (r == NULL)
        return ERR_MEMORY;
    err e = token_read(rq->arena, &key, in->refresh_token, TOKEN_REFRESH, req_now(rq), &r->token, &reason);
    if (e == ERR_UNAUTHORIZED)
        return invalid(rq, reason);
    TRY(e);
    TRY(hash_text(rq->arena, in->refresh_token, &r->hash));
    TRY(find(rq, r, &row));
    r->next = grant_of(&row);
    TRY(grant_renew(rq->arena, req_now(rq), &r->next));
    rq->prepared = r;
    return OK;
}

struct reuse { /* told after the commit */
    const struct req *rq;
    str session_id;
};

static void tell_reused(void *arg)
{
    const struct reuse *r = arg;
    auth_forget(NULL);
    LOG(LOG_WARN, "auth.refresh_reused", LOG_STR("request_id", r->rq->request_id), LOG_STR("session", r->session_id),
        LOG_STR("remote", r->rq->http->remote));
}

/* Somebody holds a token that was not theirs to use: the whole family ends with this transaction. */
static err reused(struct req *rq, const struct rotation *row)
{
    struct reuse *r = NEW(rq->arena, struct reuse);
    if (r == NULL)
        return ERR_MEMORY;
    *r = (struct reuse){ rq, row->session_id };
    TRY(db_exec(rq->tx, &session_end_one, NULL,
                ARGS(STR(row->session_id), I64(req_now(rq)), STR(S("reuse")), STR(row->tenant_id))));
    TRY(audit_for(rq, row->tenant_id, row->user_id, "auth.refresh_reused", row->session_id, STR_NONE));
    TRY(req_after(rq, tell_reused, r));
    return committed(problem(rq, &refresh_invalid, "Sign in again"));
}

/* The token was rotated a moment ago, by another tab or by a lost answer: whoever asks gets the same successor, and
 * if that has rotated too, its. */
static err same_successor(struct req *rq, const struct rotation *row)
{
    struct rotation at = *row;
    for (u32 hops = 0; hops < HOPS_MAX && at.rotated_at != 0 && req_now(rq) - at.rotated_at <= SAME_WINDOW_US; hops++) {
        struct rotation next = { 0 };
        err e = db_row(rq->tx, &refresh_by_jti, &next, ARGS(STR(at.successor_jti)));
        if (e == ERR_NOT_FOUND)
            return invalid(rq, "successor");
        TRY(e);
        at = next;
    }
    struct grant g = grant_of(&at);
    g.refresh = (struct token){ .type = TOKEN_REFRESH,
                                .user_id = at.user_id,
                                .tenant_id = at.tenant_id,
                                .session_id = at.session_id,
                                .jti = at.jti,
                                .issued_s = at.issued_at / SECOND_US,
                                .expires_s = at.expires_at / SECOND_US };
    TRY(grant_sign(rq->arena, req_now(rq), &g));
    return grant_reply(rq, 200, &g);
}

err refresh(struct req *rq)
{
    const struct refreshing *r = rq->prepared;
    struct rotation row = { 0 };
    TRY(find(rq, r, &row));
    bool genuine = str_eq_secret(r->hash, row.token_hash);
    if (!genuine || (row.rotated_at != 0 && req_now(rq) - row.rotated_at > SAME_WINDOW_US))
        return reused(rq, &row);
    if (row.rotated_at != 0)
        return same_successor(rq, &row);
    TRY(db_exec(rq->tx, &refresh_rotate, NULL, ARGS(STR(row.jti), I64(req_now(rq)), STR(r->next.refresh.jti))));
    TRY(store_refresh(rq, &r->next));
    return grant_reply(rq, 200, &r->next);
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

err sessions_end(struct req *rq, str user_id, str session_id, str scope)
{
    str spared = str_eq(scope, S("others")) ? session_id : S("");
    if (str_eq(scope, S("this")))
        TRY(db_exec(rq->tx, &session_end_one, NULL,
                    ARGS(STR(session_id), I64(req_now(rq)), STR(S("logout")), TENANT(rq))));
    else
        TRY(db_exec(rq->tx, &sessions_end_of_user, NULL, ARGS(STR(user_id), I64(req_now(rq)), STR(spared))));
    return req_after(rq, auth_forget, NULL);
}

struct cleaning {
    i64 now_us;
    bool more;
};

static err clean_slice(void *ctx, struct tx *tx)
{
    struct cleaning *c = ctx;
    i64 tokens, sessions, failures;
    TRY(db_exec(tx, &refresh_clean, &tokens, ARGS(I64(c->now_us), I64(CLEAN_ROWS))));
    TRY(db_exec(tx, &sessions_clean_ended, &sessions, ARGS(I64(c->now_us), I64(CLEAN_ROWS))));
    TRY(login_limit_clean(tx, c->now_us, CLEAN_ROWS, &failures));
    c->more = tokens == CLEAN_ROWS || sessions == CLEAN_ROWS || failures == CLEAN_ROWS;
    return OK;
}

/* In slices, so that nobody waits for the writer longer than for one. */
err sessions_clean(const struct job *job)
{
    struct cleaning c = { .now_us = job->now_us, .more = true };
    for (u32 i = 0; i < CLEAN_ROUNDS && c.more; i++) {
        struct arena_mark mark = arena_mark(job->arena);
        TRY(db_write_wait(app.db, job->arena, clean_slice, &c));
        arena_rewind(job->arena, mark);
    }
    return OK;
}
