/* sessions.c - who a token's bearer is right now, and the end of sessions. How they begin and go on is in grants.c, how people see them in sessions_list.c.
 *
 * A token is a claim; the session's row decides. Every request asks for it (from memory, unless something changed),
 * so logging out, disabling somebody, another role or a suspended tenant act at once, whatever the token says. */
#include "feat/auth/auth_parts.h"

#include "base/clock.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/activity.h"
#include "core/app.h"
#include "core/cached_row.h"
#include "core/metrics.h"
#include "feat/api-keys/api-keys.h"
#include "feat/auth/auth.h"
#include "feat/roles/roles.h"

#include <string.h>

enum {
    IDENTITY_BYTES = 16 << 10,
    CLEAN_ROWS = 500,
    CLEAN_ROUNDS = 1000,
};
#define IDENTITY_LIFE_US MINUTE_US /* so that last_seen_at, which is written once a minute, is never much older */

/* --- rows -------------------------------------------------------------------------------------------------------- */

struct identity {
    struct presence has;
    str id, tenant_id, user_id, email, role, role_name, permissions, plan, kind;
    i64 quota_executions, absolute_expires_at, last_seen_at, session_idle_minutes;
    bool must_enroll;
    struct grants *grants; /* of permissions; no column, as csrf */
    str csrf;
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
    FIELD(struct identity, quota_executions, F_I64, .doc = "Executions that it may begin in a day; 0 for any number"),
    FIELD(struct identity, absolute_expires_at, F_TIME, .doc = "When the family ends"),
    FIELD(struct identity, kind, F_STR, .doc = "api or browser"),
    FIELD(struct identity, last_seen_at, F_TIME, .doc = "When it was last used, to the minute"),
    FIELD(struct identity, session_idle_minutes, F_I64, .doc = "What the tenant allows"),
    FIELD(struct identity, must_enroll, F_BOOL, .doc = "The tenant asks for a second factor, and there is none"),
};
static const struct table identity_table = TABLE("Identity", struct identity, identity_fields);

/* Only what is alive on all sides is found. */
STMT(
    session_identity,
    "SELECT s.id, s.tenant_id, s.user_id, u.email, m.role, r.name AS role_name, r.permissions, t.plan, coalesce(t.quota_executions, 0) AS quota_executions,"
    " " SESSION_ENDS " AS absolute_expires_at, s.kind, s.last_seen_at, t.session_idle_minutes,"
    " (CASE WHEN t.require_2fa = 1 AND u.totp_enabled_at IS NULL THEN 1 ELSE 0 END) AS must_enroll"
    " FROM sessions s JOIN users u ON u.id = s.user_id JOIN tenants t ON t.id = s.tenant_id"
    " JOIN memberships m ON m.user_id = s.user_id AND m.tenant_id = s.tenant_id"
    " LEFT JOIN roles r ON r.id = m.role_id AND r.tenant_id = m.tenant_id"
    " WHERE s.id = $1 AND s.revoked_at IS NULL AND u.status = 'active' AND m.status = 'active'"
    " AND t.status = 'active'",
    .row = &identity_table, .scope = SCOPE_SYSTEM);
STMT(session_seen, "UPDATE sessions SET last_seen_at = $2 WHERE id = $1 AND last_seen_at < $2", .scope = SCOPE_SYSTEM);
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
static struct token_keys keys;
static u8 csrf_key[SHA256_BYTES];
CACHE(identities, "sessions", .capacity = 4096, .life_us = IDENTITY_LIFE_US);

static err save_seen(struct tx *tx, str id, i64 last_us)
{
    return db_exec(tx, &session_seen, NULL, ARGS(STR(id), I64(last_us)));
}
static struct activity seen = { .save = save_seen };

err sessions_start(struct arena *a)
{
    hash_hkdf_sha256(app.config.jwt_secret, S("csrf"), csrf_key, sizeof csrf_key);
    return token_keys_make(a, app.config.jwt_secret, app.config.jwt_secret_previous, &keys);
}

err sessions_stop(void)
{
    return activity_flush(&seen);
}

const struct token_keys *sessions_keys(void)
{
    return &keys;
}

i64 session_seen_at(str id, i64 stored_us)
{
    return MAX(activity_last(&seen, id), stored_us);
}

bool session_idle(str id, i64 stored_us, i64 idle_minutes, i64 now_us)
{
    return now_us - session_seen_at(id, stored_us) >= idle_minutes * MINUTE_US;
}

/* Bound to the session and to nothing that the page has to keep: it is told again with GET /auth/me. */
err csrf_token(struct arena *a, str session_id, str *out)
{
    u8 mac[SHA256_BYTES];
    hash_hmac_sha256((str){ (const char *)csrf_key, sizeof csrf_key }, session_id, mac);
    str text = base64_encode(a, BASE64URL, (str){ (const char *)mac, sizeof mac });
    if (text.p == NULL)
        return ERR_MEMORY;
    *out = text;
    return OK;
}

void auth_forget(void *unused)
{
    cache_forget(&identities);
}

static err identity_read(struct tx *tx, struct arena *a, str session_id, void *row)
{
    struct identity *out = row;
    TRY(db_row(tx, &session_identity, out, ARGS(STR(session_id))));
    if (str_eq(out->kind, S("browser")))
        TRY(csrf_token(a, out->id, &out->csrf));
    if (out->permissions.p == NULL)
        return OK;
    out->grants = NEW(a, struct grants);
    return out->grants != NULL ? grants_parse(a, out->permissions, out->grants) : ERR_MEMORY;
}

static const struct cached_row identity_cached = { &identities, sizeof(struct identity), IDENTITY_BYTES,
                                                   identity_read };

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
        .quota_executions = i->quota_executions,
        .role = role_bit(i->role),
        .role_name = str_dup(rq->arena, name),
        .csrf = i->csrf.p != NULL ? str_dup(rq->arena, i->csrf) : STR_NONE,
        .must_enroll = i->must_enroll,
    };
    if (who.tenant_id.p == NULL || who.user_id.p == NULL || who.session_id.p == NULL || who.email.p == NULL ||
        who.plan.p == NULL || who.role_name.p == NULL || (i->csrf.p != NULL && who.csrf.p == NULL))
        return ERR_MEMORY;
    TRY(grants_copy(rq->arena, i->grants, &who.grants));
    rq->who = who;
    return OK;
}

/* A browser's token is good only as its cookie, and the other way round: what a script could read is of no use without the cookie's rules. */
static const char *misused(const struct identity *i, const struct credential *c, i64 now_us)
{
    bool browser = i->csrf.p != NULL;
    if (browser != (c->kind == CREDENTIAL_COOKIE))
        return "kind";
    if (now_us >= i->absolute_expires_at)
        return "absolute";
    return browser && session_idle(i->id, i->last_seen_at, i->session_idle_minutes, now_us) ? "idle" : NULL;
}

err sessions_authenticate(struct req *rq, const struct credential *c, const char **reason)
{
    struct token t;
    const void *found = NULL;
    if (c->kind == CREDENTIAL_KEY)
        return api_keys_authenticate(rq, c->text, reason);
    TRY(token_read(rq->arena, &keys, c->text, TOKEN_ACCESS, req_now(rq), &t, reason));
    *reason = "session";
    err e = cached_row_get(&identity_cached, rq->tx, rq->arena, t.session_id, req_now(rq), &found);
    if (e == ERR_NOT_FOUND)
        return ERR_UNAUTHORIZED;
    TRY(e);
    const struct identity *i = found;
    if (!str_eq(i->user_id, t.user_id) || !str_eq(i->tenant_id, t.tenant_id))
        return ERR_UNAUTHORIZED;
    const char *wrong = misused(i, c, req_now(rq));
    if (wrong != NULL) {
        *reason = wrong;
        return ERR_UNAUTHORIZED;
    }
    TRY(become(rq, i));
    if (!rq->background)
        activity_note(&seen, rq->who.session_id, req_now(rq));
    return OK;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

err session_end(struct req *rq, str tenant_id, str session_id, const char *reason, i64 *changed)
{
    TRY(db_exec(rq->tx, &session_end_one, changed,
                ARGS(STR(session_id), I64(req_now(rq)), STR(str_of(reason)), STR(tenant_id))));
    return req_after(rq, auth_forget, NULL);
}

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
    i64 tokens, sessions, failures, resets, challenges;
    TRY(db_exec(tx, &refresh_clean, &tokens, ARGS(I64(c->now_us), I64(CLEAN_ROWS))));
    TRY(db_exec(tx, &sessions_clean_ended, &sessions, ARGS(I64(c->now_us), I64(CLEAN_ROWS))));
    TRY(login_limit_clean(tx, c->now_us, CLEAN_ROWS, &failures));
    TRY(recovery_clean(tx, c->now_us, CLEAN_ROWS, &resets));
    TRY(challenge_clean(tx, c->now_us, CLEAN_ROWS, &challenges));
    c->more = MAX(MAX(tokens, sessions), MAX(failures, MAX(resets, challenges))) == CLEAN_ROWS;
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
