/* login.c - signing in with a password, and a code where there is a second factor; for a program's tokens or a browser's cookies.
 *
 * A wrong password, an unknown or disabled user and a suspended tenant are one answer that takes one time: everything that differs is looked at after the
 * password was hashed, and decided again on the writer, where nothing can change in between. That a code is missing is only told to who knows the password. */
#include "feat/auth/auth_parts.h"

#include "base/log.h"
#include "codec/typeid.h"
#include "core/audit.h"
#include "core/limit.h"
#include "core/metrics.h"
#include "feat/roles/roles.h"
#include "feat/users/users.h"

enum { CHALLENGE_FAILURES = 5 };
#define CHALLENGE_US (5 * MINUTE_US)

METRIC(logins, "weir_auth_logins_total", METRIC_COUNTER, "Logins, by outcome (ok, failed, throttled)");

/* --- what comes in ------------------------------------------------------------------------------------------------ */

struct login_body {
    struct presence has;
    str email, password, tenant, totp, challenge_id, challenge_token;
    bool remember;
};
#define LOGIN_FIELDS(required)                                                                                  \
    FIELD(struct login_body, email, F_STR, .flags = (required) | F_INPUT, .min = 1, .max = 254,                 \
          .doc = "E-mail address of the user", .example = "\"owner@example.com\""),                             \
        FIELD(struct login_body, password, F_STR, .flags = (required) | F_INPUT | F_SECRET, .min = 1,           \
              .max = PASSWORD_MAX, .doc = "The user's password"),                                               \
        FIELD(struct login_body, tenant, F_STR, .flags = F_INPUT, .min = 1, .max = 63,                          \
              .doc = "Slug of the tenant to sign in to; needed when the user is in several"),                   \
        FIELD(struct login_body, totp, F_STR, .flags = F_INPUT | F_SECRET, .min = 6, .max = 20,                 \
              .doc = "What the authenticator shows, or a recovery code; needed when there is a second factor"), \
        FIELD(struct login_body, challenge_token, F_STR, .flags = F_INPUT | F_SECRET, .min = 1, .max = 8192,    \
              .doc = "What a passed CAPTCHA gave; needed after auth.challenge_required")

static const struct field token_fields[] = { LOGIN_FIELDS(F_REQUIRED) };
const struct table token_login_table =
    TABLE("TokenLogin", struct login_body, token_fields, .doc = "Credentials of a user");

static err check_login(const struct json *object, str pointer, struct problems *out)
{
    static const char *const needed[] = { "email", "password" };
    err e = OK;
    if (json_get(object, S("challenge_id")) != NULL)
        return OK;
    for (size_t i = 0; i < COUNT(needed); i++)
        if (json_get(object, str_of(needed[i])) == NULL)
            e = problems_add(out, json_pointer_key(out->arena, pointer, str_of(needed[i])), "field.required",
                             "is missing");
    return e;
}
static const struct field login_fields[] = {
    LOGIN_FIELDS(0),
    FIELD(struct login_body, remember, F_BOOL, .flags = F_INPUT, .preset = "false",
          .doc = "Whether the browser keeps its cookies when it is closed"),
    FIELD(struct login_body, challenge_id, F_STR, .flags = F_INPUT, .format = "id", .prefix = "challenge",
          .doc = "Of the answer auth.totp_required: stands for address and password for 5 minutes"),
};
const struct table login_table =
    TABLE("Login", struct login_body, login_fields, .doc = "Credentials of a user in a browser", .check = check_login);

static const struct field switch_fields[] = {
    FIELD(struct switch_body, tenant, F_STR, .flags = F_REQUIRED | F_INPUT, .min = 1, .max = 63,
          .doc = "Slug of the tenant to go on in"),
};
const struct table switch_table = TABLE("SwitchTenant", struct switch_body, switch_fields, .doc = "Where to go on");

/* --- what goes out ------------------------------------------------------------------------------------------------ */

struct login_user {
    struct presence has;
    str id, email, name;
};
static const struct field login_user_fields[] = {
    FIELD(struct login_user, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user", .doc = "Id of the user"),
    FIELD(struct login_user, email, F_STR, .flags = F_OUTPUT, .format = "email", .max = 254, .doc = "E-mail address"),
    FIELD(struct login_user, name, F_STR, .flags = F_OUTPUT, .max = 120, .doc = "Name as it is shown; may be empty"),
};
static const struct table login_user_table =
    TABLE("LoginUser", struct login_user, login_user_fields, .doc = "Who signed in");
struct login_session {
    struct presence has;
    struct login_user *user;
    str tenant, csrf_token;
    i64 expires_at, idle_minutes, expires_in;
};
static const struct field session_fields[] = {
    FIELD(struct login_session, user, F_OBJECT, .flags = F_OUTPUT, .of = &login_user_table, .doc = "Who signed in"),
    FIELD(struct login_session, tenant, F_STR, .flags = F_OUTPUT, .max = 63, .format = "slug",
          .doc = "Slug of the tenant that was signed in to"),
    FIELD(struct login_session, csrf_token, F_STR, .flags = F_OUTPUT, .max = 80,
          .doc = "Send it as X-CSRF-Token with every change"),
    FIELD(struct login_session, expires_at, F_TIME, .flags = F_OUTPUT, .doc = "When the session ends in any case"),
    FIELD(struct login_session, idle_minutes, F_I64, .flags = F_OUTPUT,
          .doc = "After so many minutes without a person's doing it ends"),
    FIELD(struct login_session, expires_in, F_I64, .flags = F_OUTPUT,
          .doc = "Seconds until the cookie must be refreshed"),
};
const struct table login_session_table =
    TABLE("LoginSession", struct login_session, session_fields, .doc = "A browser's session");

/* --- rows --------------------------------------------------------------------------------------------------------- */

struct candidate {
    struct presence has;
    str id, password_hash, email, name;
};
static const struct field candidate_fields[] = {
    FIELD(struct candidate, id, F_STR, .doc = "User"),
    FIELD(struct candidate, password_hash, F_STR, .flags = F_SECRET, .doc = "Argon2id"),
    FIELD(struct candidate, email, F_STR, .doc = "Address"),
    FIELD(struct candidate, name, F_STR, .doc = "Name"),
};
static const struct table candidate_table = TABLE("Candidate", struct candidate, candidate_fields);

struct member {
    struct presence has;
    str tenant_id, slug, role;
    i64 session_absolute_minutes, session_idle_minutes;
};
static const struct field member_fields[] = {
    FIELD(struct member, tenant_id, F_STR, .flags = F_NULLABLE, .doc = "Tenant"),
    FIELD(struct member, slug, F_STR, .doc = "Its short name"),
    FIELD(struct member, role, F_STR, .doc = "Role in it, by name"),
    FIELD(struct member, session_absolute_minutes, F_I64, .doc = "How long a browser may stay"),
    FIELD(struct member, session_idle_minutes, F_I64, .doc = "How long it may do nothing"),
};
static const struct table member_table = TABLE("Member", struct member, member_fields);

struct challenge {
    struct presence has;
    str user_id, tenant_id, password_hash;
    bool remember;
};
static const struct field challenge_fields[] = {
    FIELD(struct challenge, user_id, F_STR, .doc = "Who gave the password"),
    FIELD(struct challenge, tenant_id, F_STR, .doc = "Where to"),
    FIELD(struct challenge, password_hash, F_STR, .flags = F_SECRET, .doc = "The one that was verified"),
    FIELD(struct challenge, remember, F_BOOL, .doc = "As it was asked"),
};
static const struct table challenge_table = TABLE("LoginChallenge", struct challenge, challenge_fields);

/* --- problems, statements ----------------------------------------------------------------------------------------- */

PROBLEM_SHARED(invalid_credentials, "auth.invalid_credentials", ERR_UNAUTHORIZED,
               "E-mail address or password is wrong");
PROBLEM_SHARED(throttled, "auth.throttled", ERR_LIMIT, "Too many failed attempts");
PROBLEM_SHARED(tenant_required, "auth.tenant_required", ERR_INVALID, "The user is in several tenants");
PROBLEM_SHARED(totp_required, "auth.totp_required", ERR_UNAUTHORIZED, "A code of the second factor is required");
PROBLEM_SHARED(challenge_invalid, "auth.challenge_invalid", ERR_UNAUTHORIZED, "The challenge is not valid (any more)");
PROBLEM_SHARED(not_member, "auth.not_member", ERR_NOT_FOUND, "The user is in no such tenant");

STMT(login_candidate, "SELECT id, password_hash, email, name FROM users WHERE email = $1 AND status = 'active'",
     .row = &candidate_table, .scope = SCOPE_SYSTEM);
STMT(login_candidate_by_id, "SELECT id, password_hash, email, name FROM users WHERE id = $1 AND status = 'active'",
     .row = &candidate_table, .scope = SCOPE_SYSTEM);
/* Two are enough to know that there are several. $3 is the hash that was verified: a password changed meanwhile is a
 * wrong one. */
STMT(login_members,
     "SELECT m.tenant_id, t.slug, coalesce((SELECT r.name FROM roles r WHERE r.id = m.role_id), m.role) AS role,"
     " t.session_absolute_minutes, t.session_idle_minutes"
     " FROM users u JOIN memberships m ON m.user_id = u.id JOIN tenants t ON t.id = m.tenant_id"
     " WHERE u.id = $1 AND u.password_hash = $3 AND u.status = 'active' AND m.status = 'active' AND t.status = 'active'"
     " AND (t.slug = $2 OR $2 IS NULL) AND (t.id = $4 OR $4 IS NULL) LIMIT 2",
     .row = &member_table, .scope = SCOPE_SYSTEM);
STMT(login_home, "SELECT min(tenant_id) AS tenant_id FROM memberships WHERE user_id = $1 HAVING count(*) = 1",
     .row = &member_table, .scope = SCOPE_SYSTEM);
STMT(password_upgrade, "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
     .scope = SCOPE_SYSTEM);
STMT(challenge_by_id,
     "SELECT user_id, tenant_id, password_hash, remember FROM login_challenges"
     " WHERE id = $1 AND expires_at > $2 AND failures < $3",
     .row = &challenge_table, .scope = SCOPE_SYSTEM);
STMT(challenge_add,
     "INSERT INTO login_challenges (id, user_id, tenant_id, password_hash, remember, created_at, expires_at)"
     " VALUES ($1, $2, $3, $4, $5, $6, $7)",
     .scope = SCOPE_SYSTEM);
STMT(challenge_failed, "UPDATE login_challenges SET failures = failures + 1 WHERE id = $1", .scope = SCOPE_SYSTEM);
STMT(challenge_end, "DELETE FROM login_challenges WHERE id = $1", .scope = SCOPE_SYSTEM);
STMT(challenges_clean,
     "DELETE FROM login_challenges WHERE id IN (SELECT id FROM login_challenges WHERE expires_at < $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);

/* --- failing ------------------------------------------------------------------------------------------------------ */

static const struct limit_policy login_policy = { "login", LOGIN_FAILURES, 60 };

/* On the writer, behind the failure if there was one. */
static err tell_left(struct req *rq, const struct login_from *from)
{
    i64 left;
    TRY(login_limit_left(rq->tx, req_now(rq), from, &left));
    limit_tell(rq, &login_policy, left, login_policy.window_s);
    return OK;
}

err proof_throttled(struct req *rq, const struct login_from *from)
{
    i64 wait_us;
    err e = login_limit_check(rq->tx, req_now(rq), from, &wait_us);
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

/* The failure is a row and an audit entry, so the transaction commits although the answer is no. */
err proof_failed(struct req *rq, const struct login_from *from, str tenant_id, str user_id)
{
    struct failure *f = NEW(rq->arena, struct failure);
    if (f == NULL)
        return ERR_MEMORY;
    *f = (struct failure){ .rq = rq, .user_id = user_id };
    TRY(login_limit_failed(rq->tx, req_now(rq), from, &f->burst));
    TRY(audit_for(rq, tenant_id, STR_NONE, f->burst ? "auth.login_burst" : "auth.login_failed", user_id, STR_NONE));
    TRY(req_after(rq, tell_failed, f));
    return tell_left(rq, from);
}

err login_home_of(struct tx *tx, str user_id, str *tenant_id)
{
    struct member home = { .tenant_id = STR_NONE };
    err e = db_row(tx, &login_home, &home, ARGS(STR(user_id.p != NULL ? user_id : S(""))));
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    *tenant_id = e == OK ? home.tenant_id : STR_NONE;
    return OK;
}

/* --- login, off the writer: everything that costs time -------------------------------------------------------------- */

struct login {
    struct login_from from, code_from;
    struct candidate user;
    str challenge_id, challenge_tenant;
    bool matches, browser, remember;
    struct member members[2];
    u32 member_count;
    struct totp_state totp;
    struct totp_proof proof;
    struct grant grant; /* signed in advance, so that the writer only writes */
    str better_hash;    /* in place of an imported one */
};

static err find_members(struct req *rq, struct login *l)
{
    const struct login_body *in = rq->body;
    void *rows;
    TRY(db_list(rq->tx, &login_members, 2, &rows, &l->member_count,
                ARGS(STR(l->user.id), STR(in->tenant), STR(l->user.password_hash), STR(l->challenge_tenant))));
    for (u32 i = 0; i < l->member_count; i++)
        l->members[i] = ((struct member *)rows)[i];
    return OK;
}

/* The password was given before; is it still the one? */
static err by_challenge(struct req *rq, struct login *l)
{
    const struct login_body *in = rq->body;
    struct challenge c;
    err e =
        db_row(rq->tx, &challenge_by_id, &c, ARGS(STR(in->challenge_id), I64(req_now(rq)), I64(CHALLENGE_FAILURES)));
    if (e == OK)
        e = db_row(rq->tx, &login_candidate_by_id, &l->user, ARGS(STR(c.user_id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &challenge_invalid, "Begin again with address and password");
    TRY(e);
    l->challenge_id = in->challenge_id;
    l->challenge_tenant = c.tenant_id;
    l->remember = c.remember;
    l->matches = str_eq(c.password_hash, l->user.password_hash);
    TRY(login_from(rq->arena, l->user.email, rq->http->remote, &l->from));
    return proof_throttled(rq, &l->from);
}

static err by_password(struct req *rq, struct login *l)
{
    const struct login_body *in = rq->body;
    str email = str_lower(rq->arena, in->email);
    i64 imported_cost;
    if (email.p == NULL)
        return ERR_MEMORY;
    TRY(login_from(rq->arena, email, rq->http->remote, &l->from));
    TRY(proof_throttled(rq, &l->from));
    TRY(challenge_pass(rq, &l->from, in->challenge_token));
    err e = db_row(rq->tx, &login_candidate, &l->user, ARGS(STR(email)));
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    TRY(users_imported_cost(rq->tx, &imported_cost));
    TRY(password_verify_anyone(l->user.password_hash, imported_cost, in->password, &l->matches));
    bool upgrade = l->matches && password_outdated(l->user.password_hash);
    return upgrade ? password_hash(rq->arena, in->password, &l->better_hash) : OK;
}

static err read_code(struct req *rq, struct login *l)
{
    const struct login_body *in = rq->body;
    TRY(totp_from(rq->arena, l->user.id, &l->code_from));
    TRY(totp_state(rq->tx, l->user.id, &l->totp));
    if (l->totp.totp_enabled_at == 0 || in->totp.n == 0)
        return OK;
    TRY(proof_throttled(rq, &l->code_from));
    return totp_read(rq->arena, req_now(rq), l->user.id, &l->totp, in->totp, &l->proof);
}

static err prepare(struct req *rq, bool browser)
{
    const struct login_body *in = rq->body;
    struct login *l = NEW(rq->arena, struct login);
    if (l == NULL)
        return ERR_MEMORY;
    rq->prepared = l;
    l->browser = browser;
    l->remember = browser && in->remember;
    TRY(in->challenge_id.p != NULL ? by_challenge(rq, l) : by_password(rq, l));
    if (!l->matches)
        return OK;
    TRY(find_members(rq, l));
    TRY(read_code(rq, l));
    if (l->member_count != 1)
        return OK;
    const struct member *m = &l->members[0];
    const struct grant_for f = { l->user.id, m->tenant_id, m->role, browser, l->remember, m->session_absolute_minutes };
    return grant_new(rq->arena, req_now(rq), &f, &l->grant);
}

err token_prepare(struct req *rq)
{
    return prepare(rq, false);
}

/* A page elsewhere must not sign its visitor in to an account of its choice. A program sends neither of the two headers. */
err login_prepare(struct req *rq)
{
    bool page = req_header(rq, "origin").p != NULL || req_header(rq, "sec-fetch-site").p != NULL;
    if (page && !gate_same_origin(rq))
        return problem(rq, &problem_csrf, "Sign in from a page of this server");
    return prepare(rq, true);
}

/* --- login, on the writer ------------------------------------------------------------------------------------------- */

static void tell_ok(void *arg)
{
    metric_add(&logins, "outcome=\"ok\"", 1);
}

/* A failed login stands in the log of the tenant that it was for, where there is just one: its admins are whom it concerns. */
static err login_failed(struct req *rq, const struct login *l)
{
    str home;
    TRY(login_home_of(rq->tx, l->user.id, &home));
    TRY(proof_failed(rq, &l->from, home, l->user.id));
    return committed(problem(rq, &invalid_credentials, "Check the e-mail address and the password"));
}

static err ask_for_code(struct req *rq, const struct login *l)
{
    str id = typeid_new(rq->arena, "challenge", req_now(rq));
    if (id.p == NULL)
        return ERR_MEMORY;
    if (l->browser) {
        TRY(db_exec(rq->tx, &challenge_add, NULL,
                    ARGS(STR(id), STR(l->user.id), STR(l->members[0].tenant_id), STR(l->user.password_hash),
                         BOOL(l->remember), I64(req_now(rq)), I64(req_now(rq) + CHALLENGE_US))));
        problem_extend(rq, "challenge_id", id);
    }
    return committed(problem(rq, &totp_required, "Send the code of the authenticator as totp"));
}

static err code_failed(struct req *rq, const struct login *l)
{
    TRY(proof_failed(rq, &l->code_from, l->members[0].tenant_id, l->user.id));
    if (l->challenge_id.p != NULL)
        TRY(db_exec(rq->tx, &challenge_failed, NULL, ARGS(STR(l->challenge_id))));
    return committed(problem(rq, &totp_invalid, "Wait for the next code, and look at the clock of the device"));
}

/* *answered: the second factor is missing or wrong. */
static err second_factor(struct req *rq, const struct login *l, bool *answered)
{
    bool good;
    *answered = l->totp.totp_enabled_at != 0;
    if (!*answered)
        return OK;
    if (!l->proof.given)
        return ask_for_code(rq, l);
    TRY(proof_throttled(rq, &l->code_from));
    TRY(totp_use(rq->tx, l->user.id, &l->proof, &good));
    if (!good)
        return code_failed(rq, l);
    *answered = false;
    return login_limit_passed(rq->tx, &l->code_from);
}

/* Whether what was found beforehand still holds: the same one membership, the same second factor. */
static bool unchanged(const struct login *before, const struct login *now, const struct totp_state *totp)
{
    return now->member_count == 1 && before->member_count == 1 &&
           str_eq(now->members[0].tenant_id, before->members[0].tenant_id) &&
           before->totp.totp_enabled_at == totp->totp_enabled_at;
}

static err browser_reply(struct req *rq, const struct login *l)
{
    struct login_session *out = NEW(rq->arena, struct login_session);
    if (out == NULL || (out->user = NEW(rq->arena, struct login_user)) == NULL)
        return ERR_MEMORY;
    *out->user = (struct login_user){ .id = l->user.id, .email = l->user.email, .name = l->user.name };
    field_set_all(&login_user_table, out->user);
    out->tenant = l->members[0].slug;
    out->expires_at = l->grant.absolute_us;
    out->idle_minutes = l->members[0].session_idle_minutes;
    out->expires_in = l->grant.access_expires_s - req_now(rq) / SECOND_US;
    TRY(csrf_token(rq->arena, l->grant.session_id, &out->csrf_token));
    cookies_give(rq, &l->grant);
    field_set_all(&login_session_table, out);
    return reply(rq, 200, &login_session_table, out);
}

static err begin_session(struct req *rq, const struct login *l)
{
    TRY(login_limit_passed(rq->tx, &l->from));
    if (l->better_hash.p != NULL)
        TRY(db_exec(rq->tx, &password_upgrade, NULL,
                    ARGS(STR(l->user.id), STR(l->user.password_hash), STR(l->better_hash))));
    if (l->challenge_id.p != NULL)
        TRY(db_exec(rq->tx, &challenge_end, NULL, ARGS(STR(l->challenge_id))));
    TRY(grant_store(rq, &l->grant));
    TRY(audit_for(rq, l->grant.tenant_id, l->user.id, "auth.login", l->grant.session_id, STR_NONE));
    TRY(req_after(rq, tell_ok, NULL));
    TRY(tell_left(rq, &l->from));
    return l->browser ? browser_reply(rq, l) : grant_reply(rq, 200, &l->grant);
}

err login(struct req *rq)
{
    const struct login *l = rq->prepared;
    struct login now = *l;
    struct totp_state totp;
    bool answered;
    TRY(proof_throttled(rq, &l->from)); /* again: many may have been hashing at once */
    if (l->matches)
        TRY(find_members(rq, &now));
    if (!l->matches || now.member_count == 0)
        return login_failed(rq, l);
    if (now.member_count > 1)
        return problem_at(rq, &tenant_required, S("/tenant"), "field.required",
                          "Name the tenant to sign in to by its slug");
    TRY(totp_state(rq->tx, l->user.id, &totp));
    if (!unchanged(l, &now, &totp))
        return ERR_BUSY; /* somebody changed it within these milliseconds: try again */
    TRY(second_factor(rq, l, &answered));
    return answered ? OK : begin_session(rq, l);
}

err challenge_clean(struct tx *tx, i64 now_us, i64 max, i64 *n)
{
    return db_exec(tx, &challenges_clean, n, ARGS(I64(now_us), I64(max)));
}

/* --- another tenant -------------------------------------------------------------------------------------------------- */

struct family_end {
    struct presence has;
    i64 absolute_expires_at;
};
static const struct field family_end_fields[] = { FIELD(struct family_end, absolute_expires_at, F_TIME,
                                                        .doc = "When the family ends") };
static const struct table family_end_table = TABLE("FamilyEnd", struct family_end, family_end_fields);
STMT(family_end_of, "SELECT absolute_expires_at FROM sessions WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
     .row = &family_end_table);

static err ended(struct req *rq, err e)
{
    return e == ERR_NOT_FOUND ? problem(rq, &problem_of_class[ERR_UNAUTHORIZED], "The session has ended; sign in") : e;
}

/* The person is who they are; only the tenant is another, and its own rules hold from the first request on. It is the same family: switching makes nothing
 * last longer, and what has been revoked meanwhile switches nothing. */
err switch_prepare(struct req *rq)
{
    const struct switch_body *in = rq->body;
    struct login *l = NEW(rq->arena, struct login);
    if (l == NULL)
        return ERR_MEMORY;
    rq->prepared = l;
    l->browser = rq->who.csrf.p != NULL;
    TRY(db_row(rq->tx, &login_candidate_by_id, &l->user, ARGS(STR(rq->who.user_id))));
    struct family_end family;
    void *rows;
    TRY(ended(rq, db_row(rq->tx, &family_end_of, &family, ARGS(TENANT(rq), STR(rq->who.session_id)))));
    TRY(db_list(rq->tx, &login_members, 2, &rows, &l->member_count,
                ARGS(STR(l->user.id), STR(in->tenant), STR(l->user.password_hash), NIL)));
    if (l->member_count != 1)
        return problem(rq, &not_member, "You are in no tenant %.*s", STR_FMT(in->tenant));
    l->members[0] = *(struct member *)rows;
    const struct member *m = &l->members[0];
    const struct grant_for f = {
        l->user.id, m->tenant_id, m->role, l->browser, false, m->session_absolute_minutes, family.absolute_expires_at
    };
    return grant_new(rq->arena, req_now(rq), &f, &l->grant);
}

err switch_tenant(struct req *rq)
{
    const struct login *l = rq->prepared;
    i64 changed;
    TRY(session_end(rq, rq->who.tenant_id, rq->who.session_id, "logout", &changed));
    if (changed == 0)
        return ended(rq, ERR_NOT_FOUND);
    /* For the new session's row alone: what follows in this transaction is the caller's again. */
    db_act_for(rq->tx, l->grant.tenant_id);
    TRY(grant_store(rq, &l->grant));
    db_act_for(rq->tx, rq->who.tenant_id);
    TRY(audit_for(rq, l->grant.tenant_id, l->user.id, "auth.switch_tenant", l->grant.session_id, STR_NONE));
    return grant_reply(rq, 200, &l->grant);
}
