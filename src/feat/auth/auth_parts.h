/* auth_parts.h - what the files of this folder share with each other and nobody else sees. */
#pragma once

#include "codec/jwt.h"
#include "core/auth.h"
#include "core/jobs.h"
#include "core/keys.h"
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
/* One key signs; while JWT_SECRET_KEY is being changed the one of before verifies too. */
enum { TOKEN_KEYS_MAX = 2 };
struct token_keys {
    struct jwt_key list[TOKEN_KEYS_MAX]; /* [0] signs */
    u32 n;
    str id; /* a hash of them all */
};
/* A key names itself: its kid is a hash of the secret, so that a changed secret is an unknown kid. previous.n == 0: there is none. */
err token_keys_make(struct arena *a, str secret, str previous, struct token_keys *out) MUST;
/* ERR_UNAUTHORIZED with *reason, a static word: signature and all claims, exactly, at now_us. */
err token_read(struct arena *a, const struct token_keys *keys, str text, enum token_type type, i64 now_us,
               struct token *out, const char **reason) MUST;
/* The same but for its times: tells whose it is, and opens nothing. */
err token_verify(struct arena *a, const struct token_keys *keys, str text, enum token_type type, struct token *out,
                 const char **reason) MUST;

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
/* Whether the account failed three times from the address within the minute, or was closed to it in the last hour: a person has to show that they are one. */
enum { LOGIN_SUSPECT = 3 };
err login_limit_suspect(struct tx *tx, i64 now_us, const struct login_from *from, bool *suspect) MUST;
/* Writes the failure down; *burst: it was the last one that is borne. */
err login_limit_failed(struct tx *tx, i64 now_us, const struct login_from *from, bool *burst) MUST;
/* A success ends the doubling. */
err login_limit_passed(struct tx *tx, const struct login_from *from) MUST;
/* At most `max` rows of what no longer matters; *n how many. */
err login_limit_clean(struct tx *tx, i64 now_us, i64 max, i64 *n) MUST;

/* --- challenge.c --- */

extern const struct problem challenge_required, challenge_unavailable;
/* Off the writer; may wait for seconds. OK: no challenge is asked for, or it is passed; else the problem. */
err challenge_pass(struct req *rq, const struct login_from *from, str token) MUST;

/* --- sessions.c --- */

/* When the session s of a tenant t ends in any case: a limit that was lowered holds for sessions that exist, one that was raised for new ones. Programs' have none. */
#define SESSION_ENDS                                                                                                 \
    "(CASE WHEN s.kind = 'browser' AND s.created_at + t.session_absolute_minutes * 60000000 < s.absolute_expires_at" \
    " THEN s.created_at + t.session_absolute_minutes * 60000000 ELSE s.absolute_expires_at END)"

struct grant { /* what a client gets, and what is written down of it */
    str user_id, tenant_id, session_id;
    str role; /* by name, for the token's claim */
    bool browser, remember;
    i64 absolute_us; /* the end of the family */
    struct token refresh;
    str access_text, refresh_text, refresh_hash;
    i64 access_expires_s;
};
struct token_pair {
    struct presence has;
    str access_token, refresh_token, token_type, csrf_token;
    i64 expires_in, refresh_expires_in;
};
extern const struct table token_pair_table;

/* Once, at start, before the threads. */
err sessions_start(struct arena *a) MUST;
/* The gate's hook. */
err sessions_authenticate(struct req *rq, const struct credential *c, const char **reason) MUST;
/* Writes what was seen last. */
err sessions_stop(void) MUST;
const struct token_keys *sessions_keys(void);
/* When a session was last used: as memory knows it, or the row. */
i64 session_seen_at(str id, i64 stored_us);
bool session_idle(str id, i64 stored_us, i64 idle_minutes, i64 now_us);
err csrf_token(struct arena *a, str session_id, str *out) MUST;
/* Ends one session, whoever's; *changed (may be NULL) is 0 when it had ended. */
err session_end(struct req *rq, str tenant_id, str session_id, const char *reason, i64 *changed) MUST;

/* --- grants.c --- */

enum { SESSIONS_PER_USER = 100 };
struct grant_for {
    str user_id, tenant_id, role;
    bool browser, remember;
    i64 absolute_minutes; /* of a browser's session */
    i64 ends_us;          /* not later than that: the end of the family that it goes on for; 0 = a new one */
};
/* A new family: makes its ids and signs both tokens; nothing is stored yet. */
err grant_new(struct arena *a, i64 now_us, const struct grant_for *f, struct grant *out) MUST;
void cookies_give(struct req *rq, const struct grant *g);
void cookies_end(struct req *rq);
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

/* --- recovery.c --- */

struct forgot_body {
    struct presence has;
    str email;
};
struct reset_body {
    struct presence has;
    str token, new_password;
};
struct change_body {
    struct presence has;
    str current_password, new_password;
};
extern const struct table forgot_table, reset_table, change_table;
extern const struct problem reset_invalid, password_wrong;
err forgot(struct req *rq) MUST;
err reset_prepare(struct req *rq) MUST;
err reset(struct req *rq) MUST;
err change_prepare(struct req *rq) MUST;
err change(struct req *rq) MUST;
err forgot_run(const struct job *job) MUST;
err notice_run(const struct job *job) MUST;
err recovery_clean(struct tx *tx, i64 now_us, i64 max, i64 *n) MUST;
/* A letter to a person about their own account, when the transaction commits: "password_changed", "totp_enabled", … */
err notice(struct req *rq, str tenant_id, str user_id, const char *template) MUST;

/* --- sessions_list.c --- */

struct revoke_body {
    struct presence has;
    str token_id;
};
extern const struct table session_table, session_query_table, revoke_table;
extern const struct problem session_not_found;
extern const struct permission users_sessions;
err session_list(struct req *rq) MUST;
err session_remove(struct req *rq) MUST;
err session_list_of_user(struct req *rq) MUST;
err session_remove_of_user(struct req *rq) MUST;
err tokens_revoke(struct req *rq) MUST;

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
err link_page(struct req *rq) MUST;
err setup_page_start(struct arena *a) MUST;
extern const struct table setup_query_table;
extern const struct problem setup_over;

/* --- login.c --- */

struct switch_body {
    struct presence has;
    str tenant;
};
extern const struct table token_login_table, login_table, login_session_table, switch_table;
extern const struct problem invalid_credentials, throttled, tenant_required, totp_required, challenge_invalid,
    not_member;
err token_prepare(struct req *rq) MUST;
err login_prepare(struct req *rq) MUST;
err login(struct req *rq) MUST;
err switch_prepare(struct req *rq) MUST;
err switch_tenant(struct req *rq) MUST;
err challenge_clean(struct tx *tx, i64 now_us, i64 max, i64 *n) MUST;
/* 429 with Retry-After while the address, or the account from it, is closed. */
err proof_throttled(struct req *rq, const struct login_from *from) MUST;
/* On the writer: somebody failed to prove who they are. Counted, audited, told after the commit; the answer is the caller's. */
err proof_failed(struct req *rq, const struct login_from *from, str tenant_id, str user_id) MUST;
/* The one tenant that somebody is in; STR_NONE when there are several, or none. */
err login_home_of(struct tx *tx, str user_id, str *tenant_id) MUST;

/* --- totp.c --- */

struct totp_body {
    struct presence has;
    str password, code;
};
struct totp_state {
    struct presence has;
    str totp_seed; /* sealed; STR_NONE: none */
    i64 totp_enabled_at, totp_last_step;
};
struct totp_proof { /* what a code comes to */
    bool given;
    i64 step;          /* of the authenticator's code; 0: it is none of now */
    str recovery_hash; /* of anything longer */
};
extern const struct table totp_setup_table, totp_enable_table, totp_both_table, totp_offer_table, recovery_codes_table;
extern const struct problem totp_invalid, totp_on, totp_off;
err totp_state(struct tx *tx, str user_id, struct totp_state *out) MUST;
err totp_from(struct arena *a, str user_id, struct login_from *out) MUST;
enum { TOTP_SEALED = 1 };
extern const struct sealed_column totp_sealed[TOTP_SEALED];
/* Off the writer: opens the seed. */
err totp_read(struct arena *a, i64 now_us, str user_id, const struct totp_state *s, str code,
              struct totp_proof *out) MUST;
/* On the writer: takes the code, once. */
err totp_use(struct tx *tx, str user_id, const struct totp_proof *p, bool *good) MUST;
err totp_setup_prepare(struct req *rq) MUST;
err totp_setup(struct req *rq) MUST;
err totp_enable_prepare(struct req *rq) MUST;
err totp_enable(struct req *rq) MUST;
err totp_both_prepare(struct req *rq) MUST;
err totp_disable(struct req *rq) MUST;
err recovery_codes(struct req *rq) MUST;

/* --- secrets --- */

/* SHA-256 in hex: how a secret that we made is kept. */
err hash_text(struct arena *a, str text, str *out) MUST;
/* n random bytes as base64url. */
err secret_make(struct arena *a, size_t n, str *out) MUST;

/* Codes that more than one file answers with. */
extern const struct problem refresh_invalid;
