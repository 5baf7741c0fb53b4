/* grants.c - families of refresh tokens: begun by a login, carried on by rotation, ended by reuse or age.
 *
 * A browser gets its tokens as cookies and never as text; everything else about a family is the same. A session's kind is its row's, so a token of one kind never
 * becomes one of the other. */
#include "feat/auth/auth_parts.h"

#include "base/log.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "feat/auth/auth.h"
#include "feat/roles/roles.h"

enum {
    USER_AGENT_MAX = 256,
    HOPS_MAX = 16, /* rotations within one window that are followed */
};
#define FAMILY_US      (30 * DAY_US)
#define SAME_WINDOW_US (10 * SECOND_US)

struct rotation {
    struct presence has;
    str jti, session_id, token_hash, successor_jti, tenant_id, user_id, role, role_name, kind;
    i64 issued_at, expires_at, rotated_at, absolute_expires_at, last_seen_at, session_idle_minutes;
    bool remember;
};
static const struct field rotation_fields[] = {
    FIELD(struct rotation, jti, F_STR, .doc = "Id of the refresh token"),
    FIELD(struct rotation, session_id, F_STR, .doc = "Its family"),
    FIELD(struct rotation, token_hash, F_STR, .doc = "SHA-256 of its text"),
    FIELD(struct rotation, successor_jti, F_STR, .doc = "What it was rotated to"),
    FIELD(struct rotation, tenant_id, F_STR, .doc = "Tenant of the session"),
    FIELD(struct rotation, user_id, F_STR, .doc = "Whose session"),
    FIELD(struct rotation, role, F_STR, .doc = "Role in the tenant, now"),
    FIELD(struct rotation, role_name, F_STR, .flags = F_NULLABLE, .doc = "Of a role of the tenant's own"),
    FIELD(struct rotation, kind, F_STR, .doc = "api or browser"),
    FIELD(struct rotation, remember, F_BOOL, .doc = "Whether the browser keeps its cookies"),
    FIELD(struct rotation, last_seen_at, F_TIME, .doc = "When the session was last used, to the minute"),
    FIELD(struct rotation, session_idle_minutes, F_I64, .doc = "What the tenant allows"),
    FIELD(struct rotation, issued_at, F_TIME, .doc = "When it was issued"),
    FIELD(struct rotation, expires_at, F_TIME, .doc = "When it ends"),
    FIELD(struct rotation, rotated_at, F_TIME, .doc = "When it was rotated"),
    FIELD(struct rotation, absolute_expires_at, F_TIME, .doc = "When the family ends"),
};
static const struct table rotation_table = TABLE("Rotation", struct rotation, rotation_fields);

PROBLEM_SHARED(refresh_invalid, "auth.refresh_invalid", ERR_UNAUTHORIZED, "The refresh token is not valid (any more)");

STMT(refresh_by_jti,
     "SELECT r.jti, r.session_id, r.token_hash, r.successor_jti, r.issued_at, r.expires_at, r.rotated_at,"
     " s.tenant_id, s.user_id, s.kind, s.remember, s.last_seen_at, t.session_idle_minutes,"
     " " SESSION_ENDS " AS absolute_expires_at, m.role,"
     " (SELECT o.name FROM roles o WHERE o.id = m.role_id) AS role_name"
     " FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id"
     " JOIN users u ON u.id = s.user_id JOIN tenants t ON t.id = s.tenant_id"
     " JOIN memberships m ON m.user_id = s.user_id AND m.tenant_id = s.tenant_id"
     " WHERE r.jti = $1 AND s.revoked_at IS NULL AND u.status = 'active' AND m.status = 'active'"
     " AND t.status = 'active'",
     .row = &rotation_table, .scope = SCOPE_SYSTEM);
STMT(
    session_add,
    "INSERT INTO sessions (tenant_id, id, user_id, ip, user_agent, created_at, last_seen_at, absolute_expires_at, kind,"
    " remember) VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9)");
/* Whoever signs in for the hundred and first time loses the oldest session: one account cannot fill the table. */
STMT(
    sessions_bound,
    "UPDATE sessions SET revoked_at = $2 WHERE id IN (SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL"
    " AND absolute_expires_at > $2 ORDER BY created_at DESC LIMIT $4 OFFSET $3)",
    .scope = SCOPE_SYSTEM);
STMT(refresh_add,
     "INSERT INTO refresh_tokens (jti, session_id, token_hash, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
     .scope = SCOPE_SYSTEM);
STMT(refresh_rotate,
     "UPDATE refresh_tokens SET rotated_at = $2, successor_jti = $3 WHERE jti = $1 AND rotated_at IS NULL",
     .scope = SCOPE_SYSTEM);
/* --- grants ------------------------------------------------------------------------------------------------------- */

static void put_cookie(struct req *rq, const char *name, const char *attributes, str value, i64 max_age_s, bool keep)
{
    str age = keep ? strf(rq->arena, "; Max-Age=%lld", (long long)max_age_s) : S("");
    str text = strf(rq->arena, "%s=%.*s; %s; Secure; HttpOnly%.*s", name, STR_FMT(value), attributes, STR_FMT(age));
    reply_header(rq, "Set-Cookie", text); /* without memory: no cookie, so no session */
}

#define ACCESS_ATTRIBUTES  "Path=/; SameSite=Lax"
#define REFRESH_ATTRIBUTES "Path=/api/v1/auth/refresh; SameSite=Strict"

void cookies_end(struct req *rq)
{
    put_cookie(rq, COOKIE_ACCESS, ACCESS_ATTRIBUTES, S(""), 0, true);
    put_cookie(rq, COOKIE_REFRESH, REFRESH_ATTRIBUTES, S(""), 0, true);
}

void cookies_give(struct req *rq, const struct grant *g)
{
    i64 now_s = req_now(rq) / SECOND_US;
    i64 life_s = g->refresh.expires_s - now_s; /* of both: an ended token in the one still says whose the other is */
    put_cookie(rq, COOKIE_ACCESS, ACCESS_ATTRIBUTES, g->access_text, life_s, g->remember);
    put_cookie(rq, COOKIE_REFRESH, REFRESH_ATTRIBUTES, g->refresh_text, life_s, g->remember);
}

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

static err refresh_sign(struct arena *a, const struct jwt_key *key, struct grant *g)
{
    g->refresh_text = token_sign(a, key, &g->refresh);
    return g->refresh_text.p != NULL ? hash_text(a, g->refresh_text, &g->refresh_hash) : ERR_MEMORY;
}

/* Both tokens of a family, the refresh token as `g->refresh` says; an access token is new each time. */
static err grant_sign(struct arena *a, i64 now_us, struct grant *g)
{
    i64 now_s = now_us / SECOND_US;
    struct token access = g->refresh;
    access.type = TOKEN_ACCESS;
    access.jti = typeid_new(a, "token", now_us);
    access.role = g->role;
    access.issued_s = now_s;
    access.expires_s = MIN(now_s + app.config.access_minutes * 60, g->absolute_us / SECOND_US);
    if (access.jti.p == NULL)
        return ERR_MEMORY;
    g->access_text = token_sign(a, &sessions_keys()->list[0], &access);
    g->access_expires_s = access.expires_s;
    return g->access_text.p != NULL ? refresh_sign(a, &sessions_keys()->list[0], g) : ERR_MEMORY;
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

err grant_new(struct arena *a, i64 now_us, const struct grant_for *f, struct grant *out)
{
    i64 family_us = f->browser ? MIN(FAMILY_US, f->absolute_minutes * MINUTE_US) : FAMILY_US;
    struct grant g = { .user_id = f->user_id,
                       .tenant_id = f->tenant_id,
                       .role = f->role,
                       .browser = f->browser,
                       .remember = f->remember,
                       .absolute_us = now_us + family_us };
    if (f->ends_us != 0)
        g.absolute_us = MIN(g.absolute_us, f->ends_us);
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
    i64 over;
    str agent = str_slice(req_header(rq, "user-agent"), 0, USER_AGENT_MAX);
    if (agent.p == NULL || !str_utf8(agent))
        agent = S("");
    TRY(db_exec(rq->tx, &session_add, NULL,
                ARGS(STR(g->tenant_id), STR(g->session_id), STR(g->user_id), STR(rq->http->remote), STR(agent),
                     I64(req_now(rq)), I64(g->absolute_us), STR(g->browser ? S("browser") : S("api")),
                     BOOL(g->remember))));
    TRY(db_exec(rq->tx, &sessions_bound, &over,
                ARGS(STR(g->user_id), I64(req_now(rq)), I64(SESSIONS_PER_USER), I64(SESSIONS_PER_USER))));
    if (over > 0)
        TRY(req_after(rq, auth_forget, NULL));
    return store_refresh(rq, g);
}

err grant_reply(struct req *rq, int status, const struct grant *g)
{
    i64 now_s = req_now(rq) / SECOND_US;
    struct token_pair *pair = NEW(rq->arena, struct token_pair);
    if (pair == NULL)
        return ERR_MEMORY;
    *pair = (struct token_pair){
        .access_token = g->browser ? STR_NONE : g->access_text,
        .refresh_token = g->browser ? STR_NONE : g->refresh_text,
        .token_type = g->browser ? S("cookie") : S("bearer"),
        .expires_in = g->access_expires_s - now_s,
        .refresh_expires_in = g->refresh.expires_s - now_s,
    };
    if (g->browser) {
        TRY(csrf_token(rq->arena, g->session_id, &pair->csrf_token));
        cookies_give(rq, g);
    }
    field_set_all(&token_pair_table, pair);
    pair->has.present &= ~pair->has.null; /* a browser sees no token, a program no cookie's proof */
    return reply(rq, status, &token_pair_table, pair);
}

/* --- refresh ------------------------------------------------------------------------------------------------------ */

struct refreshing {
    struct token token;
    str text, hash;
    bool by_cookie;
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
                           .role = row->role_name.p != NULL ? row->role_name : row->role,
                           .browser = str_eq(row->kind, S("browser")),
                           .remember = row->remember,
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
    if (str_eq(row->kind, S("browser")) != r->by_cookie)
        return invalid(rq, "kind");
    if (r->by_cookie && session_idle(row->session_id, row->last_seen_at, row->session_idle_minutes, req_now(rq)))
        return invalid(rq, "idle");
    return OK;
}

/* The body's, or the cookie's where there is none: then the page that asks must be ours. The token that guards other changes is not asked for: a page that was
 * just loaded knows none yet, and whoever could send this from elsewhere would only renew the victim's own cookies. */
static err take_token(struct req *rq, struct refreshing *r)
{
    const struct refresh_body *in = rq->body;
    r->text = in->refresh_token;
    if (r->text.p != NULL)
        return OK;
    r->text = http_cookie(rq->http, S(COOKIE_REFRESH));
    r->by_cookie = true;
    if (r->text.n == 0)
        return problem_at(rq, &problem_body_invalid, S("/refresh_token"), "field.required", "is missing");
    return gate_same_origin(rq) ? OK : problem(rq, &problem_csrf, "Refresh from a page of this server");
}

/* The name of the refresh cookie lets a neighbour's host set one for all of the domain (its Path rules out __Host-), and so sign a visitor in to an account of its choice. The
 * other cookie it cannot set; both must be of one session. */
static bool of_this_browser(struct req *rq, const struct refreshing *r)
{
    struct token t;
    const char *reason;
    str text = http_cookie(rq->http, S(COOKIE_ACCESS));
    return text.n > 0 && token_verify(rq->arena, sessions_keys(), text, TOKEN_ACCESS, &t, &reason) == OK &&
           str_eq(t.session_id, r->token.session_id);
}

err refresh_prepare(struct req *rq)
{
    struct refreshing *r = NEW(rq->arena, struct refreshing);
    struct rotation row = { 0 };
    const char *reason = "decode";
    if (r == NULL)
        return ERR_MEMORY;
    TRY(take_token(rq, r));
    err e = token_read(rq->arena, sessions_keys(), r->text, TOKEN_REFRESH, req_now(rq), &r->token, &reason);
    if (e == ERR_UNAUTHORIZED)
        return invalid(rq, reason);
    TRY(e);
    if (r->by_cookie && !of_this_browser(rq, r))
        return invalid(rq, "cookie");
    TRY(hash_text(rq->arena, r->text, &r->hash));
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
    TRY(session_end(rq, row->tenant_id, row->session_id, "reuse", NULL));
    TRY(audit_for(rq, row->tenant_id, row->user_id, "auth.refresh_reused", row->session_id, STR_NONE));
    TRY(notice(rq, row->tenant_id, row->user_id, "refresh_reused"));
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
    /* Signed the first time by the key of before? Under any other it would be a text whose hash we do not know, and its use the end of the family. */
    for (u32 i = 1; i < sessions_keys()->n && !str_eq(g.refresh_hash, at.token_hash); i++)
        TRY(refresh_sign(rq->arena, &sessions_keys()->list[i], &g));
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
