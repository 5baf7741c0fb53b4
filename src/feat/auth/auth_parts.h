/* auth_parts.h - what the files of this folder share with each other and nobody else sees. */
#pragma once

#include "codec/jwt.h"
#include "core/auth.h"
#include "core/jobs.h"
#include "core/req.h"

/* --- tokens.c (pure) --- */

enum token_type { TOKEN_ACCESS, TOKEN_REFRESH };
struct token {
    enum token_type type;
    str user_id, tenant_id, session_id, jti; /* sub tid sid jti */
    str role;                                /* of access tokens */
    i64 issued_s, not_before_s, expires_s;   /* iat nbf exp, whole seconds; we write nbf as iat */
};
/* {NULL, 0} at the cap. The same token gives the same text. Ids and role are ours, so nothing in them needs
 * escaping. */
str token_sign(struct arena *a, const struct jwt_key *key, const struct token *t);
/* ERR_UNAUTHORIZED with *reason, a static word: signature and all claims, exactly, at now_us. */
err token_read(struct arena *a, const struct jwt_key *key, str text, enum token_type type, i64 now_us,
               struct token *out, const char **reason) MUST;
/* A key that names itself: the kid is a hash of the secret, so that a changed secret is an unknown kid. */
err token_key(struct arena *a, str secret, struct jwt_key *out) MUST;

/* --- login_limit.c --- */

struct login_from { /* who tries: both made to be keys */
    str account;    /* SHA-256 of the e-mail in lower case, whether or not it exists */
    str ip;         /* IPv4 address, or the /64 of an IPv6 one */
};
enum { LOGIN_FAILURES = 5 };
err login_from(struct arena *a, str email, str remote, struct login_from *out) MUST;
/* Pure: how long the level-th burst in a row keeps an account closed to an address. */
i64 login_backoff_us(i64 level);
/* ERR_LIMIT with *wait_us > 0 while the address, or the account from this address, is closed. Reads only. */
err login_limit_check(struct tx *tx, i64 now_us, const struct login_from *from, i64 *wait_us) MUST;
/* How many more failures the address, or the account from it, may have within the minute. */
err login_limit_left(struct tx *tx, i64 now_us, const struct login_from *from, i64 *left) MUST;
/* Writes the failure down; *burst: it was the last one that is borne. */
err login_limit_failed(struct tx *tx, i64 now_us, const struct login_from *from, bool *burst) MUST;
/* A success ends the doubling. */
err login_limit_passed(struct tx *tx, const struct login_from *from) MUST;
/* At most `max` rows of what no longer matters; *n how many. */
err login_limit_clean(struct tx *tx, i64 now_us, i64 max, i64 *n) MUST;

/* --- sessions.c --- */

struct grant { /* what a client gets, and what is written down of it */
    str user_id, tenant_id, session_id;
    u32 role;
    i64 absolute_us; /* the end of the family */
    struct token refresh;
    str access_text, refresh_text, refresh_hash;
    i64 access_expires_s;
};
struct token_pair {
    struct presence has;
    str access_token, refresh_token, token_type;
    i64 expires_in, refresh_expires_in;
};
extern const struct table token_pair_table;

/* Once, at start, before the threads. */
err sessions_start(struct arena *a) MUST;
/* The gate's hook. */
err sessions_authenticate(struct req *rq, const struct credential *c, const char **reason) MUST;
/* A new family: makes its ids and signs both tokens; nothing is stored yet. */
err grant_new(struct arena *a, i64 now_us, str user_id, str tenant_id, u32 role, struct grant *out) MUST;
err grant_store(struct req *rq, const struct grant *g) MUST;
err grant_reply(struct req *rq, int status, const struct grant *g) MUST;
err refresh_prepare(struct req *rq) MUST;
err refresh(struct req *rq) MUST;
struct refresh_body {
    struct presence has;
    str refresh_token;
};
/* Ends sessions of a user: "this" (session_id), "others" or "all". */
err sessions_end(struct req *rq, str user_id, str session_id, str scope) MUST;
err sessions_clean(const struct job *job) MUST;

/* The class of a problem that is to be answered *and* committed: its own failures stay failures. */
static inline err committed(err e)
{
    return e == ERR_MEMORY ? e : OK;
}

/* --- setup.c --- */

struct setup_body {
    struct presence has;
    str token, email, password, name, tenant_name, tenant_slug;
};
err setup_prepare(struct req *rq) MUST;
err setup(struct req *rq) MUST;
/* Makes the first user from the settings, or prints the link with which somebody may. */
err setup_start(void) MUST;
extern const struct problem setup_done, setup_token_wrong;

/* --- auth_invite.c --- */

struct accept_body {
    struct presence has;
    str token, password, name;
};
extern const struct table accept_table, accepted_table;
extern const struct problem invite_invalid, invite_full;
err accept_prepare(struct req *rq) MUST;
err accept_invitation(struct req *rq) MUST;

/* --- setup_page.c --- */

err setup_page(struct req *rq) MUST;
err setup_page_start(struct arena *a) MUST;
extern const struct table setup_query_table;
extern const struct problem setup_over;

/* --- auth.c --- */

/* The row of somebody who failed to prove who they are: counted, audited, told after the commit. OK when throttled is answered. */
err proof_throttled(struct req *rq, const struct login_from *from) MUST;
err proof_failed(struct req *rq, const struct login_from *from, str tenant_id, str user_id) MUST;

/* SHA-256 in hex: how a secret that we made is kept. */
err hash_text(struct arena *a, str text, str *out) MUST;
/* n random bytes as base64url. */
err secret_make(struct arena *a, size_t n, str *out) MUST;

/* Codes that more than one file answers with. */
extern const struct problem invalid_credentials, throttled;
extern const struct problem refresh_invalid;
