/* auth.c - signing in, staying signed in, signing out. Passwords and roles are users', the first user is setup.c's,
 * counting failures login_limit.c's.
 *
 * A wrong password, an unknown or disabled user and a suspended tenant are one answer that takes one time:
 * everything that differs is looked at after the password was hashed, and decided again on the writer, where nothing
 * can change in between. */
#include "feat/auth/auth.h"

#include "base/log.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/auth.h"
#include "core/limit.h"
#include "core/metrics.h"
#include "feat/auth/auth_parts.h"
#include "feat/users/users.h"

enum { PERMISSIONS_MAX = 256 };

METRIC(logins, "weir_auth_logins_total", METRIC_COUNTER, "Logins, by outcome (ok, failed, throttled)");

/* --- what comes in ------------------------------------------------------------------------------------------------ */

struct login_body {
    struct presence has;
    str email, password, tenant;
};
static const struct field login_fields[] = {
    FIELD(struct login_body, email, F_STR, .flags = F_REQUIRED | F_INPUT, .min = 1, .max = 254,
          .doc = "E-mail address of the user", .example = "\"owner@example.com\""),
    FIELD(struct login_body, password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = PASSWORD_MAX,
          .doc = "The user's password"),
    FIELD(struct login_body, tenant, F_STR, .flags = F_INPUT, .min = 1, .max = 63,
          .doc = "Slug of the tenant to sign in to; needed when the user is in several"),
};
static const struct table login_table = TABLE("Login", struct login_body, login_fields, .doc = "Credentials of a user");

static const struct field refresh_fields[] = {
    FIELD(struct refresh_body, refresh_token, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = 4096,
          .doc = "The refresh token that was issued last"),
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
    FIELD(struct token_pair, access_token, F_STR, .flags = F_OUTPUT, .max = 4096,
          .doc = "Send it as Authorization: Bearer"),
    FIELD(struct token_pair, refresh_token, F_STR, .flags = F_OUTPUT, .max = 4096,
          .doc = "For /api/v1/auth/refresh, once"),
    FIELD(struct token_pair, token_type, F_STR, .flags = F_OUTPUT, .max = 20, .doc = "Always bearer",
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
    i64 created_at;
};
static const struct field me_user_fields[] = {
    FIELD(struct me_user, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user", .doc = "Id of the user"),
    FIELD(struct me_user, email, F_STR, .flags = F_OUTPUT, .format = "email", .max = 254, .doc = "E-mail address"),
    FIELD(struct me_user, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it is shown; may be empty"),
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

struct me {
    struct presence has;
    struct me_user *user;
    struct me_tenant *tenant;
    str role;
    struct list permissions;
    str session_id;
};
static const struct field me_fields[] = {
    FIELD(struct me, user, F_OBJECT, .flags = F_OUTPUT, .of = &me_user_table, .doc = "Who is signed in"),
    FIELD(struct me, tenant, F_OBJECT, .flags = F_OUTPUT, .of = &me_tenant_table,
          .doc = "Which tenant the token is for"),
    FIELD(struct me, role, F_STR, .flags = F_OUTPUT, .max = 20,
          .doc = "Role in this tenant: owner, admin, editor, member or viewer"),
    FIELD(struct me, permissions, F_LIST, .flags = F_OUTPUT, .item = F_STR, .max = PERMISSIONS_MAX,
          .doc = "What the role allows"),
    FIELD(struct me, session_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "session",
          .doc = "Id of this session"),
};
static const struct table me_table = TABLE("Me", struct me, me_fields, .doc = "The caller as Weir knows them");

/* --- rows --------------------------------------------------------------------------------------------------------- */

struct candidate {
    struct presence has;
    str id, password_hash;
};
static const struct field candidate_fields[] = {
    FIELD(struct candidate, id, F_STR, .doc = "User"),
    FIELD(struct candidate, password_hash, F_STR, .flags = F_SECRET, .doc = "Argon2id"),
};
static const struct table candidate_table = TABLE("Candidate", struct candidate, candidate_fields);

struct member {
    struct presence has;
    str tenant_id, role;
};
static const struct field member_fields[] = {
    FIELD(struct member, tenant_id, F_STR, .doc = "Tenant"),
    FIELD(struct member, role, F_STR, .doc = "Role in it"),
};
static const struct table member_table = TABLE("Member", struct member, member_fields);

PROBLEM(invalid_credentials, "auth.invalid_credentials", ERR_UNAUTHORIZED, "E-mail address or password is wrong");
PROBLEM(throttled, "auth.throttled", ERR_LIMIT, "Too many failed attempts");
PROBLEM(tenant_required, "auth.tenant_required", ERR_INVALID, "The user is in several tenants");

STMT(login_candidate, "SELECT id, password_hash FROM users WHERE email = $1 AND status = 'active'",
     .row = &candidate_table, .scope = SCOPE_SYSTEM);
/* Two are enough to know that there are several. $3 is the hash that was verified: a password changed meanwhile is a
 * wrong one. */
STMT(
    login_members,
    "SELECT m.tenant_id, m.role FROM users u JOIN memberships m ON m.user_id = u.id JOIN tenants t ON t.id = m.tenant_id"
    " WHERE u.id = $1 AND u.password_hash = $3 AND u.status = 'active' AND t.status = 'active'"
    " AND (t.slug = $2 OR $2 IS NULL)"
    " LIMIT 2",
    .row = &member_table, .scope = SCOPE_SYSTEM);
STMT(me_user_by_id, "SELECT id, email, name, created_at FROM users WHERE id = $1", .row = &me_user_table);
STMT(me_tenant_by_id, "SELECT id, slug, name, plan FROM tenants WHERE id = $1", .row = &me_tenant_table);

/* --- login -------------------------------------------------------------------------------------------------------- */

struct login {
    struct login_from from;
    struct candidate user;
    bool matches;
    struct member members[2];
    u32 member_count;
    struct grant grant; /* signed in advance, so that the writer only writes */
};

static const struct limit_policy login_policy = { "login", LOGIN_FAILURES, 60 };

/* On the writer, behind the failure if there was one. */
static err tell_left(struct req *rq, const struct login *l)
{
    i64 left;
    TRY(login_limit_left(rq->tx, req_now(rq), &l->from, &left));
    limit_tell(rq, &login_policy, left, login_policy.window_s);
    return OK;
}

static err refuse_throttled(struct req *rq, const struct login *l)
{
    i64 wait_us;
    err e = login_limit_check(rq->tx, req_now(rq), &l->from, &wait_us);
    if (e != ERR_LIMIT)
        return e;
    i64 seconds = (wait_us + SECOND_US - 1) / SECOND_US;
    str text = strf(rq->arena, "%lld", (long long)seconds);
    if (text.p == NULL)
        return ERR_MEMORY;
    metric_add(&logins, "outcome=\"throttled\"", 1);
    LOG(LOG_WARN, "auth.throttled", LOG_STR("request_id", rq->request_id), LOG_STR("remote", rq->http->remote),
        LOG_INT("wait_s", seconds));
    reply_header(rq, "Retry-After", text);
    limit_tell(rq, &login_policy, 0, seconds);
    return problem(rq, &throttled, "Try again in %lld seconds", (long long)seconds);
}

static err find_members(struct req *rq, struct login *l)
{
    const struct login_body *in = rq->body;
    void *rows;
    TRY(db_list(rq->tx, &login_members, 2, &rows, &l->member_count,
                ARGS(STR(l->user.id), STR(in->tenant), STR(l->user.password_hash))));
    for (u32 i = 0; i < l->member_count; i++)
        l->members[i] = ((struct member *)rows)[i];
    return OK;
}

/* In the slow pool: everything that costs time. */
static err login_prepare(struct req *rq)
{
    const struct login_body *in = rq->body;
    struct login *l = NEW(rq->arena, struct login);
    str email = str_lower(rq->arena, in->email);
    if (l == NULL || email.p == NULL)
        return ERR_MEMORY;
    TRY(login_from(rq->arena, email, rq->http->remote, &l->from));
    TRY(refuse_throttled(rq, l));
    err e = db_row(rq->tx, &login_candidate, &l->user, ARGS(STR(email)));
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    TRY(password_verify(l->user.password_hash, in->password, &l->matches));
    if (l->matches)
        TRY(find_members(rq, l));
    if (l->member_count == 1)
        TRY(grant_new(rq->arena, req_now(rq), l->user.id, l->members[0].tenant_id, users_role(l->members[0].role),
                      &l->grant));
    rq->prepared = l;
    return OK;
}

struct failure { /* told after the commit: the writer may run a handler twice */
    const struct req *rq;
    str user_id;
    bool burst;
};

static void tell_failed(void *arg)
{
    const struct failure *f = arg;
    metric_add(&logins, "outcome=\"failed\"", 1);
    LOG(LOG_WARN, f->burst ? "auth.login_burst" : "auth.login_failed", LOG_STR("request_id", f->rq->request_id),
        LOG_STR("remote", f->rq->http->remote), LOG_STR("user", f->user_id));
}

static void tell_ok(void *arg)
{
    metric_add(&logins, "outcome=\"ok\"", 1);
}

/* The failure is a row and an audit entry, so the transaction commits although the answer is 401. */
static err login_failed(struct req *rq, const struct login *l)
{
    struct failure *f = NEW(rq->arena, struct failure);
    if (f == NULL)
        return ERR_MEMORY;
    *f = (struct failure){ .rq = rq, .user_id = l->user.id };
    TRY(login_limit_failed(rq->tx, req_now(rq), &l->from, &f->burst));
    TRY(audit_for(rq, STR_NONE, STR_NONE, f->burst ? "auth.login_burst" : "auth.login_failed", l->user.id, STR_NONE));
    TRY(req_after(rq, tell_failed, f));
    TRY(tell_left(rq, l));
    return committed(problem(rq, &invalid_credentials, "Check the e-mail address and the password"));
}

/* Whether what was found beforehand still holds: the same one membership. */
static bool unchanged(const struct login *before, const struct login *now)
{
    return now->member_count == 1 && before->member_count == 1 &&
           str_eq(now->members[0].tenant_id, before->members[0].tenant_id);
}

static err login(struct req *rq)
{
    const struct login *l = rq->prepared;
    struct login now = *l;
    TRY(refuse_throttled(rq, l)); /* again: many may have been hashing at once */
    if (l->matches)
        TRY(find_members(rq, &now));
    if (!l->matches || now.member_count == 0)
        return login_failed(rq, l);
    if (now.member_count > 1)
        return problem_at(rq, &tenant_required, S("/tenant"), "field.required",
                          "Name the tenant to sign in to by its slug");
    if (!unchanged(l, &now))
        return ERR_BUSY; /* somebody changed the memberships within these milliseconds: try again */
    TRY(login_limit_passed(rq->tx, &l->from));
    TRY(grant_store(rq, &l->grant));
    TRY(audit_for(rq, l->grant.tenant_id, l->user.id, "auth.login", l->grant.session_id, STR_NONE));
    TRY(req_after(rq, tell_ok, NULL));
    TRY(tell_left(rq, l));
    return grant_reply(rq, 200, &l->grant);
}

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
        if ((all[i]->roles & rq->who.role) != 0 && all[i] != &anyone && all[i] != &signed_in)
            names[out->n++] = str_of(all[i]->name);
    return OK;
}

static err me_get(struct req *rq)
{
    struct me *m = NEW(rq->arena, struct me);
    if (m == NULL || (m->user = NEW(rq->arena, struct me_user)) == NULL ||
        (m->tenant = NEW(rq->arena, struct me_tenant)) == NULL)
        return ERR_MEMORY;
    TRY(db_row(rq->tx, &me_user_by_id, m->user, ARGS(STR(rq->who.user_id))));
    TRY(db_row(rq->tx, &me_tenant_by_id, m->tenant, ARGS(TENANT(rq))));
    TRY(list_permissions(rq, &m->permissions));
    m->role = users_role_name(rq->who.role);
    m->session_id = rq->who.session_id;
    field_set_all(&me_table, m);
    return reply(rq, 200, &me_table, m);
}

static err logout(struct req *rq)
{
    const struct logout_body *in = rq->body;
    TRY(sessions_end(rq, rq->who.user_id, rq->who.session_id, in->scope));
    TRY(audit(rq, "auth.logout", rq->who.session_id, in->scope));
    return reply_empty(rq, 204);
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static const struct problem *const setup_problems[] = { &setup_done, &setup_token_wrong, NULL };
static const struct problem *const login_problems[] = { &invalid_credentials, &throttled, &tenant_required, NULL };
static const struct problem *const refresh_problems[] = { &refresh_invalid, NULL };

static const struct problem *const setup_page_problems[] = { &setup_over, NULL };

static const struct route routes[] = {
    { ROUTE(GET, "/setup", setup_page, W_READ), .need = &anyone, .query = &setup_query_table, .flags = R_TEXT,
      .produces = "text/html; charset=utf-8", .problems = setup_page_problems,
      .doc = "The page behind the printed setup link", .more = "It is there as long as there is no user." },
    { ROUTE(POST, "/api/v1/setup", setup, W_WRITE), .prepare = setup_prepare, .need = &anyone, .in = &setup_table,
      .out = &token_pair_table, .flags = R_SLOW_PREPARE | R_SECRET, .status = 201, .max_body = 16 * KIB,
      .problems = setup_problems, .doc = "Make the first tenant and its owner",
      .more = "Works once, with the token that the server prints at its start while it has no user. "
              "Answers the owner's first tokens.",
      .example =
          "{\"token\":\"from the terminal\",\"email\":\"owner@example.com\",\"password\":\"a long sentence is best\"}" },
    { ROUTE(POST, "/api/v1/auth/token", login, W_WRITE), .prepare = login_prepare, .need = &anyone, .in = &login_table,
      .out = &token_pair_table, .flags = R_SLOW_PREPARE | R_SECRET, .status = 200, .max_body = 16 * KIB,
      .problems = login_problems, .doc = "Sign in with e-mail address and password",
      .more =
          "Five failures in a minute from one address, or for one account from it, are answered 429 with Retry-After.",
      .example = "{\"email\":\"owner@example.com\",\"password\":\"a long sentence is best\"}" },
    { ROUTE(POST, "/api/v1/auth/refresh", refresh, W_WRITE), .prepare = refresh_prepare, .need = &anyone,
      .in = &refresh_table, .out = &token_pair_table, .flags = R_SECRET, .status = 200, .max_body = 16 * KIB,
      .problems = refresh_problems, .doc = "Rotate a refresh token",
      .more =
          "Needs no access token. Each refresh token works once; within ten seconds it gives the same successor again, "
          "later its use ends the "
          "whole session." },
    { ROUTE(GET, "/api/v1/auth/me", me_get, W_READ), .need = &signed_in, .out = &me_table,
      .doc = "Who is signed in, and what they may do" },
    { ROUTE(POST, "/api/v1/auth/logout", logout, W_WRITE), .need = &signed_in, .in = &logout_table,
      .flags = R_OPTIONAL_BODY, .status = 204, .max_body = 4 * KIB, .doc = "End sessions of the caller" },
};

static const struct job_kind jobs[] = {
    { .name = "auth.clean",
      .run = sessions_clean,
      .every_us = HOUR_US,
      .doc = "Deletes expired tokens, ended sessions and old login failures" },
};

static err start(void)
{
    TRY(sessions_start(app.arena));
    TRY(setup_page_start(app.arena));
    gate_authenticate_by(sessions_authenticate);
    return setup_start();
}

const struct module auth_module = {
    .name = "auth",
    .doc = "Signing in: setup, tokens, sessions",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .start = start,
};
