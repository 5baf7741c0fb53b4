/* auth.c - the table of contents: bodies, answers and routes of signing in, and who the caller is. Each group of handlers has its own file; README.md lists them.
 *
 * Nothing here decides who may: a password, a code, a token or a link is looked at in the file that the route names. */
#include "feat/auth/auth.h"

#include "base/log.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/auth.h"
#include "core/limit.h"
#include "core/metrics.h"
#include "feat/auth/auth_parts.h"
#include "feat/roles/roles.h"
#include "feat/users/users.h"

enum { PERMISSIONS_MAX = 256, MEMBERSHIPS_MAX = 200 };

/* --- what comes in ------------------------------------------------------------------------------------------------ */

static const struct field refresh_fields[] = {
    FIELD(struct refresh_body, refresh_token, F_STR, .flags = F_INPUT | F_SECRET, .min = 1, .max = 4096,
          .doc = "The refresh token that was issued last; a browser's stands in its cookie"),
};
static const struct table refresh_table =
    TABLE("Refresh", struct refresh_body, refresh_fields, .doc = "A refresh token to rotate");

static const char *const scopes[] = { "this", "others", "all", NULL };
struct logout_body {
    struct presence has;
    str scope;
};
static const struct field logout_fields[] = {
    FIELD(struct logout_body, scope, F_STR, .flags = F_INPUT, .one_of = scopes, .preset = "\"this\"",
          .doc = "Which of the user's sessions end: this one, all others, or all"),
};
static const struct table logout_table =
    TABLE("Logout", struct logout_body, logout_fields, .doc = "Which sessions end");

static const struct field setup_fields[] = {
    FIELD(struct setup_body, token, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = 200,
          .doc = "The setup token that Weir printed when it started"),
    FIELD(struct setup_body, email, F_STR, .flags = F_REQUIRED | F_INPUT, .min = 3, .max = 254, .format = "email",
          .doc = "E-mail address of the owner", .example = "\"owner@example.com\""),
    FIELD(struct setup_body, password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = PASSWORD_MIN,
          .max = PASSWORD_MAX, .doc = "The owner's password: no common one, not made of the owner's own words"),
    FIELD(struct setup_body, name, F_STR, .flags = F_INPUT, .max = 120, .preset = "\"\"",
          .doc = "Name of the owner as it is shown"),
    FIELD(struct setup_body, tenant_name, F_STR, .flags = F_INPUT, .min = 1, .max = 120, .preset = "\"Default\"",
          .doc = "Name of the first tenant as it is shown"),
    FIELD(struct setup_body, tenant_slug, F_STR, .flags = F_INPUT, .min = 1, .max = 63, .format = "slug",
          .preset = "\"default\"", .doc = "Short name of the first tenant"),
};
static const struct table setup_table =
    TABLE("Setup", struct setup_body, setup_fields, .doc = "The first tenant and its owner");

/* --- what goes out ------------------------------------------------------------------------------------------------ */

static const struct field token_pair_fields[] = {
    FIELD(struct token_pair, access_token, F_STR, .flags = F_OUTPUT | F_SPARSE, .max = 4096,
          .doc = "Send it as Authorization: Bearer; left out where a browser has it as a cookie"),
    FIELD(struct token_pair, refresh_token, F_STR, .flags = F_OUTPUT | F_SPARSE, .max = 4096,
          .doc = "For /api/v1/auth/refresh, once; left out where a browser has it as a cookie"),
    FIELD(struct token_pair, csrf_token, F_STR, .flags = F_OUTPUT | F_SPARSE, .max = 80,
          .doc = "For X-CSRF-Token, where a browser has cookies"),
    FIELD(struct token_pair, token_type, F_STR, .flags = F_OUTPUT, .max = 20, .doc = "bearer, or cookie",
          .example = "\"bearer\""),
    FIELD(struct token_pair, expires_in, F_I64, .flags = F_OUTPUT, .doc = "Seconds until the access token ends"),
    FIELD(struct token_pair, refresh_expires_in, F_I64, .flags = F_OUTPUT,
          .doc = "Seconds until the refresh token ends"),
};
const struct table token_pair_table =
    TABLE("TokenPair", struct token_pair, token_pair_fields, .doc = "Tokens of a session");

struct me_user {
    struct presence has;
    str id, email, name;
    bool totp_enabled;
    i64 created_at;
};
static const struct field me_user_fields[] = {
    FIELD(struct me_user, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user", .doc = "Id of the user"),
    FIELD(struct me_user, email, F_STR, .flags = F_OUTPUT, .format = "email", .max = 254, .doc = "E-mail address"),
    FIELD(struct me_user, name, F_STR, .max = 120, .doc = "Name as it is shown; may be empty"),
    FIELD(struct me_user, totp_enabled, F_BOOL, .flags = F_OUTPUT, .doc = "Whether a second factor is set up"),
    FIELD(struct me_user, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When the user was made"),
};
static const struct table me_user_table = TABLE("MeUser", struct me_user, me_user_fields, .doc = "The signed-in user");

struct me_tenant {
    struct presence has;
    str id, slug, name, plan;
};
static const struct field me_tenant_fields[] = {
    FIELD(struct me_tenant, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "tenant",
          .doc = "Id of the tenant"),
    FIELD(struct me_tenant, slug, F_STR, .flags = F_OUTPUT, .format = "slug", .max = 63, .doc = "Short name"),
    FIELD(struct me_tenant, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it is shown"),
    FIELD(struct me_tenant, plan, F_STR, .flags = F_OUTPUT, .max = 60, .doc = "Plan of the tenant"),
};
static const struct table me_tenant_table =
    TABLE("MeTenant", struct me_tenant, me_tenant_fields, .doc = "The tenant signed in to");

struct me_membership {
    struct presence has;
    str id, slug, name, role;
};
static const struct field me_membership_fields[] = {
    FIELD(struct me_membership, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "tenant",
          .doc = "Id of the tenant"),
    FIELD(struct me_membership, slug, F_STR, .flags = F_OUTPUT, .format = "slug", .max = 63, .doc = "Short name"),
    FIELD(struct me_membership, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it is shown"),
    FIELD(struct me_membership, role, F_STR, .flags = F_OUTPUT, .max = ROLE_NAME_MAX, .doc = "Role in it"),
};
static const struct table me_membership_table =
    TABLE("MeMembership", struct me_membership, me_membership_fields, .doc = "A tenant that one may switch to");

struct me_session {
    struct presence has;
    str kind, csrf_token;
    i64 created_at, expires_at, idle_minutes;
};
static const struct field me_session_fields[] = {
    FIELD(struct me_session, kind, F_STR, .flags = F_OUTPUT, .max = 20, .doc = "browser, or api for tokens"),
    FIELD(struct me_session, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it began"),
    FIELD(struct me_session, expires_at, F_TIME, .flags = F_OUTPUT, .doc = "When it ends in any case"),
    FIELD(struct me_session, idle_minutes, F_I64, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "After so many minutes without a person's doing it ends; null for tokens"),
    FIELD(struct me_session, csrf_token, F_STR, .flags = F_OUTPUT | F_SPARSE, .max = 80,
          .doc = "For X-CSRF-Token, in a browser"),
};
static const struct table me_session_table =
    TABLE("MeSession", struct me_session, me_session_fields, .doc = "The session of the request, and its limits");

struct me {
    struct presence has;
    struct me_user *user;
    struct me_tenant *tenant;
    struct me_session *session;
    str role;
    struct list permissions, memberships;
    str session_id;
    bool must_set_up_2fa;
};
static const struct field me_fields[] = {
    FIELD(struct me, user, F_OBJECT, .flags = F_OUTPUT, .of = &me_user_table, .doc = "Who is signed in"),
    FIELD(struct me, tenant, F_OBJECT, .flags = F_OUTPUT, .of = &me_tenant_table,
          .doc = "Which tenant the token is for"),
    FIELD(struct me, role, F_STR, .flags = F_OUTPUT, .max = ROLE_NAME_MAX,
          .doc = "Role in this tenant: a built-in one, or the name of one of its own"),
    FIELD(struct me, permissions, F_LIST, .flags = F_OUTPUT, .item = F_STR, .max = PERMISSIONS_MAX,
          .doc = "What the role, or the API key, allows"),
    FIELD(struct me, memberships, F_LIST, .flags = F_OUTPUT, .of = &me_membership_table, .max = MEMBERSHIPS_MAX,
          .doc = "Tenants that the user is in"),
    FIELD(struct me, session_id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .format = "id", .prefix = "session",
          .doc = "Id of this session; null for an API key"),
    FIELD(struct me, session, F_OBJECT, .flags = F_OUTPUT | F_NULLABLE, .of = &me_session_table,
          .doc = "This session and its limits; null for an API key"),
    FIELD(struct me, must_set_up_2fa, F_BOOL, .flags = F_OUTPUT,
          .doc = "The tenant asks for a second factor; until it is set up nothing else is open"),
};
static const struct table me_table = TABLE("Me", struct me, me_fields, .doc = "The caller as Weir knows them");

STMT(me_user_by_id,
     "SELECT id, email, name, (CASE WHEN totp_enabled_at IS NULL THEN 0 ELSE 1 END) AS totp_enabled, created_at"
     " FROM users WHERE id = $1",
     .row = &me_user_table);
STMT(me_rename, "UPDATE users SET name = $2, updated_at = $3 WHERE id = $1", .scope = SCOPE_SYSTEM);
STMT(me_memberships,
     "SELECT t.id, t.slug, t.name, coalesce((SELECT r.name FROM roles r WHERE r.id = m.role_id), m.role) AS role"
     " FROM memberships m JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = $1 AND m.status = 'active'"
     " AND t.status = 'active' ORDER BY m.tenant_id LIMIT $2",
     .row = &me_membership_table, .scope = SCOPE_SYSTEM); /* a person's own, in all tenants */
STMT(me_session_by_id,
     "SELECT s.kind, s.created_at, " SESSION_ENDS " AS expires_at,"
     " (CASE WHEN s.kind = 'browser' THEN t.session_idle_minutes END) AS idle_minutes"
     " FROM sessions s JOIN tenants t ON t.id = s.tenant_id WHERE s.tenant_id = $1 AND s.id = $2",
     .row = &me_session_table);
STMT(me_tenant_by_id, "SELECT id, slug, name, plan FROM tenants WHERE id = $1", .row = &me_tenant_table);

/* --- me and logout ------------------------------------------------------------------------------------------------ */

static err list_permissions(struct req *rq, struct list *out)
{
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    str *names = NEW_N(rq->arena, str, MIN(count, (size_t)PERMISSIONS_MAX));
    if (names == NULL)
        return ERR_MEMORY;
    out->items = names;
    for (size_t i = 0; i < count && out->n < PERMISSIONS_MAX; i++)
        if (caller_may(&rq->who, all[i]))
            names[out->n++] = str_of(all[i]->name);
    return OK;
}

static err me_load(struct req *rq, struct me *m)
{
    void *rows;
    TRY(db_row(rq->tx, &me_user_by_id, m->user, ARGS(STR(rq->who.user_id))));
    TRY(db_row(rq->tx, &me_tenant_by_id, m->tenant, ARGS(TENANT(rq))));
    TRY(db_list(rq->tx, &me_memberships, MEMBERSHIPS_MAX, &rows, &m->memberships.n,
                ARGS(STR(rq->who.user_id), I64(MEMBERSHIPS_MAX))));
    m->memberships.items = rows;
    if (rq->who.session_id.p == NULL)
        return OK;
    if ((m->session = NEW(rq->arena, struct me_session)) == NULL)
        return ERR_MEMORY;
    TRY(db_row(rq->tx, &me_session_by_id, m->session, ARGS(TENANT(rq), STR(rq->who.session_id))));
    m->session->csrf_token = rq->who.csrf;
    if (rq->who.csrf.p != NULL)
        SET(me_session_table, m->session, csrf_token);
    return OK;
}

static err me_get(struct req *rq)
{
    struct me *m = NEW(rq->arena, struct me);
    if (m == NULL || (m->user = NEW(rq->arena, struct me_user)) == NULL ||
        (m->tenant = NEW(rq->arena, struct me_tenant)) == NULL)
        return ERR_MEMORY;
    TRY(me_load(rq, m));
    TRY(list_permissions(rq, &m->permissions));
    m->role = rq->who.role_name;
    m->session_id = rq->who.session_id;
    m->must_set_up_2fa = rq->who.must_enroll;
    field_set_all(&me_table, m);
    return reply(rq, 200, &me_table, m);
}

static err me_change(struct req *rq)
{
    const struct me_user *in = rq->body;
    if (GIVEN(me_user_table, in, name)) {
        TRY(db_exec(rq->tx, &me_rename, NULL, ARGS(STR(rq->who.user_id), STR(in->name), I64(req_now(rq)))));
        TRY(audit(rq, "auth.update", rq->who.user_id, S("name")));
    }
    return me_get(rq);
}

static err logout(struct req *rq)
{
    const struct logout_body *in = rq->body;
    TRY(sessions_end(rq, rq->who.user_id, rq->who.session_id, in->scope));
    TRY(audit(rq, "auth.logout", rq->who.session_id, in->scope));
    if (rq->who.csrf.p != NULL && !str_eq(in->scope, S("others"))) {
        cookies_end(rq);
        reply_header(rq, "Clear-Site-Data", S("\"cookies\", \"storage\""));
    }
    return reply_empty(rq, 204);
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static const struct problem *const setup_problems[] = { &setup_done, &setup_token_wrong, NULL };
static const struct problem *const login_problems[] = { &invalid_credentials,   &throttled,    &tenant_required,
                                                        &totp_required,         &totp_invalid, &challenge_required,
                                                        &challenge_unavailable, NULL };
static const struct problem *const refresh_problems[] = { &refresh_invalid, &problem_csrf, NULL };
static const struct problem *const browser_problems[] = {
    &invalid_credentials, &throttled,    &tenant_required,    &totp_required,         &totp_invalid,
    &challenge_invalid,   &problem_csrf, &challenge_required, &challenge_unavailable, NULL
};
static const struct problem *const switch_problems[] = { &not_member, NULL };
static const struct problem *const session_problems[] = { &session_not_found, NULL };
static const struct problem *const member_session_problems[] = { &session_not_found, &users_role_above, NULL };
static const struct problem *const reset_problems[] = { &reset_invalid, NULL };
static const struct problem *const forgot_problems[] = { &throttled, NULL };
static const struct problem *const change_problems[] = { &password_wrong, &throttled, NULL };
static const struct problem *const totp_problems[] = { &password_wrong, &throttled,    &totp_on,
                                                       &totp_off,       &totp_invalid, NULL };

static const struct problem *const accept_problems[] = { &invite_invalid, &invite_full, &invalid_credentials,
                                                         &throttled, NULL };
static const struct problem *const setup_page_problems[] = { &setup_over, NULL };

#define AUTH "/api/v1/auth"
static const struct route routes[] = {
    { ROUTE(GET, "/setup", setup_page, W_READ), .need = &anyone, .query = &setup_query_table, .flags = R_TEXT,
      .produces = "text/html; charset=utf-8", .problems = setup_page_problems,
      .doc = "The page behind the printed setup link", .more = "It is there as long as there is no user." },
    { ROUTE(GET, "/invite", link_page, W_READ), .need = &anyone, .query = &setup_query_table,
      .flags = R_TEXT | R_NO_STORE, .produces = "text/html; charset=utf-8",
      .doc = "The page behind the link of an invitation" },
    { ROUTE(GET, "/reset", link_page, W_READ), .need = &anyone, .query = &setup_query_table,
      .flags = R_TEXT | R_NO_STORE, .produces = "text/html; charset=utf-8",
      .doc = "The page behind the link to a new password" },
    { ROUTE(POST, "/api/v1/setup", setup, W_WRITE), .prepare = setup_prepare, .need = &anyone, .in = &setup_table,
      .out = &token_pair_table, .flags = R_HASHES | R_SECRET, .status = 201, .max_body = 16 * KIB,
      .problems = setup_problems, .doc = "Make the first tenant and its owner",
      .more = "Works once, with the token that the server prints at its start while it has no user. "
              "Answers the owner's first tokens.",
      .example =
          "{\"token\":\"from the terminal\",\"email\":\"owner@example.com\",\"password\":\"a long sentence is best\"}" },
    { ROUTE(POST, AUTH "/token", login, W_WRITE), .prepare = token_prepare, .need = &anyone, .in = &token_login_table,
      .out = &token_pair_table, .flags = R_HASHES | R_SECRET, .status = 200, .max_body = 16 * KIB,
      .problems = login_problems, .doc = "Sign in with e-mail address and password, for tokens",
      .more =
          "Five failures in a minute from one address, or for one account from it, are answered 429 with Retry-After. "
          "With WEIR_CHALLENGE_URL an account that failed three times from an address needs a challenge_token, too.",
      .example = "{\"email\":\"owner@example.com\",\"password\":\"a long sentence is best\"}" },
    { ROUTE(POST, AUTH "/login", login, W_WRITE), .prepare = login_prepare, .need = &anyone, .in = &login_table,
      .out = &login_session_table, .flags = R_HASHES | R_SECRET, .status = 200, .max_body = 16 * KIB,
      .problems = browser_problems, .doc = "Sign in with e-mail address and password, for a browser's cookies",
      .more =
          "The session is two cookies that no script can read. Every change needs csrf_token as X-CSRF-Token and comes from a page of ours. "
          "It ends after the tenant's idle and absolute limits; requests with X-Weir-Background: true are not activity.",
      .example = "{\"email\":\"owner@example.com\",\"password\":\"a long sentence is best\",\"remember\":false}" },
    { ROUTE(POST, "/api/v1/auth/refresh", refresh, W_WRITE), .prepare = refresh_prepare, .need = &anyone,
      .in = &refresh_table, .out = &token_pair_table, .flags = R_SECRET | R_OPTIONAL_BODY, .status = 200,
      .max_body = 16 * KIB, .problems = refresh_problems, .doc = "Rotate a refresh token",
      .more =
          "Needs no access token. Each refresh token works once; within ten seconds it gives the same successor again, "
          "later its use ends the "
          "whole session." },
    { ROUTE(POST, "/api/v1/auth/invite/accept", accept_invitation, W_WRITE), .prepare = accept_prepare, .need = &anyone,
      .in = &accept_table, .out = &accepted_table, .flags = R_HASHES | R_SECRET, .status = 200, .max_body = 16 * KIB,
      .problems = accept_problems, .doc = "Accept an invitation to a tenant",
      .more = "Whoever has no account yet chooses a password; whoever has one gives it. Then sign in.",
      .example = "{\"token\":\"from the link\",\"password\":\"a long sentence is best\"}" },
    { ROUTE(GET, "/api/v1/auth/me", me_get, W_READ), .need = &signed_in, .out = &me_table,
      .doc = "Who is signed in, and what they may do" },
    { ROUTE(PATCH, AUTH "/me", me_change, W_WRITE), .need = &in_person, .in = &me_user_table, .out = &me_table,
      .flags = R_PATCH, .status = 200, .max_body = 4 * KIB, .doc = "Change one's own name" },
    { ROUTE(POST, AUTH "/switch-tenant", switch_tenant, W_WRITE), .prepare = switch_prepare, .need = &in_person,
      .in = &switch_table, .out = &token_pair_table, .flags = R_SECRET, .status = 200, .max_body = 4 * KIB,
      .problems = switch_problems, .doc = "Go on in another tenant: a new session in place of this one",
      .example = "{\"tenant\":\"acme\"}" },
    { ROUTE(GET, AUTH "/sessions", session_list, W_READ), .need = &in_person, .query = &session_query_table,
      .out = &session_table, .flags = R_LIST, .doc = "List one's own sessions in all tenants, newest first" },
    { ROUTE(DELETE, AUTH "/sessions/{id}", session_remove, W_WRITE), .need = &in_person, .status = 204,
      .problems = session_problems, .doc = "End one of one's own sessions" },
    { ROUTE(GET, "/api/v1/users/{id}/sessions", session_list_of_user, W_READ), .need = &users_sessions,
      .query = &session_query_table, .out = &session_table, .flags = R_LIST, .problems = session_problems,
      .doc = "List the sessions of a person in this tenant, newest first" },
    { ROUTE(DELETE, "/api/v1/users/{id}/sessions", session_remove_of_user, W_WRITE), .need = &users_sessions,
      .status = 204, .problems = member_session_problems, .doc = "End the sessions of a person in this tenant" },
    { ROUTE(POST, AUTH "/revoke", tokens_revoke, W_WRITE), .need = &in_person, .in = &revoke_table,
      .flags = R_OPTIONAL_BODY, .status = 204, .max_body = 4 * KIB, .problems = session_problems,
      .doc = "End the tokens of one session, or all of the caller's" },
    { ROUTE(POST, AUTH "/password/change", change, W_WRITE), .prepare = change_prepare, .need = &in_person,
      .in = &change_table, .flags = R_HASHES, .status = 204, .max_body = 16 * KIB, .problems = change_problems,
      .doc = "Change one's password", .more = "Ends all other sessions, and a letter tells of it." },
    { ROUTE(POST, AUTH "/password/forgot", forgot, W_WRITE), .need = &anyone, .in = &forgot_table, .status = 202,
      .max_body = 4 * KIB, .problems = forgot_problems, .doc = "Ask for a link to choose a new password",
      .more = "Answers the same whether or not there is such an account.",
      .example = "{\"email\":\"owner@example.com\"}" },
    { ROUTE(POST, AUTH "/password/reset", reset, W_WRITE), .prepare = reset_prepare, .need = &anyone,
      .in = &reset_table, .flags = R_HASHES, .status = 204, .max_body = 16 * KIB, .problems = reset_problems,
      .doc = "Choose a new password by a link", .more = "Ends all sessions; the second factor stays." },
    { ROUTE(POST, AUTH "/2fa/setup", totp_setup, W_WRITE), .prepare = totp_setup_prepare, .need = &in_person,
      .in = &totp_setup_table, .out = &totp_offer_table, .flags = R_HASHES | R_SECRET, .status = 200,
      .max_body = 4 * KIB, .problems = totp_problems, .doc = "Ask for the seed of a second factor" },
    { ROUTE(POST, AUTH "/2fa/enable", totp_enable, W_WRITE), .prepare = totp_enable_prepare, .need = &in_person,
      .in = &totp_enable_table, .out = &recovery_codes_table, .flags = R_SLOW_PREPARE | R_SECRET, .status = 200,
      .max_body = 4 * KIB, .problems = totp_problems, .doc = "Turn the second factor on, by its first code" },
    { ROUTE(POST, AUTH "/2fa/disable", totp_disable, W_WRITE), .prepare = totp_both_prepare, .need = &in_person,
      .in = &totp_both_table, .flags = R_HASHES, .status = 204, .max_body = 4 * KIB, .problems = totp_problems,
      .doc = "Turn the second factor off" },
    { ROUTE(POST, AUTH "/2fa/recovery-codes", recovery_codes, W_WRITE), .prepare = totp_both_prepare,
      .need = &in_person, .in = &totp_both_table, .out = &recovery_codes_table, .flags = R_HASHES | R_SECRET,
      .status = 200, .max_body = 4 * KIB, .problems = totp_problems,
      .doc = "Make new recovery codes; the old ones end" },
    { ROUTE(POST, "/api/v1/auth/logout", logout, W_WRITE), .need = &in_person, .in = &logout_table,
      .flags = R_OPTIONAL_BODY, .status = 204, .max_body = 4 * KIB,
      .doc = "End sessions of the caller; a browser forgets its cookies" },
};

static const struct job_kind jobs[] = {
    { .name = "auth.clean",
      .run = sessions_clean,
      .every_us = HOUR_US,
      .doc = "Deletes expired tokens, ended sessions and old login failures" },
    { .name = "auth.forgot", .run = forgot_run, .doc = "Sends the link of whoever forgot a password" },
    { .name = "auth.notice", .run = notice_run, .doc = "Tells somebody what happened to their account" },
};

static const struct alias aliases[] = {
    { "/v1/auth/", AUTH "/" },
    { "/chat/authenticate", AUTH "/token" },
    { "/chat/refresh", AUTH "/refresh" },
    { "/chat/revoke", AUTH "/revoke" },
    { "/api/v1/chat/authenticate", AUTH "/token" },
    { "/api/v1/chat/refresh", AUTH "/refresh" },
    { "/api/v1/chat/revoke", AUTH "/revoke" },
};

static err start(void)
{
    TRY(sessions_start(app.arena));
    TRY(setup_page_start(app.arena));
    gate_authenticate_by(sessions_authenticate);
    return setup_start();
}

static void stop(void)
{
    if (sessions_stop() != OK)
        LOG(LOG_WARN, "auth.unsaved", LOG_STR("what", S("when sessions were last used")));
}

const struct module auth_module = {
    .name = "auth",
    .doc = "Signing in: setup, tokens, sessions",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .sealed = totp_sealed,
    .sealed_count = TOTP_SEALED,
    .aliases = aliases,
    .alias_count = COUNT(aliases),
    .start = start,
    .stop = stop,
};
