/* recovery.c - another password: changed by whoever knows the present one, or reset by whoever reads the account's mail. And the letters that tell of it.
 *
 * Asking for a link is answered 202 whether or not there is such an account, and what differs happens in a job that nobody waits for. A reset keeps the second factor
 * and ends every session. */
#include "base/clock.h"
#include "base/code.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/limit.h"
#include "core/mail.h"
#include "feat/auth/auth_parts.h"
#include "feat/tenants/tenants.h"
#include "feat/users/users.h"

enum { TOKEN_BYTES = 32, LINKS_LIVE = 3, LETTERS_HOUR = 5 };
#define RESET_US  (10 * MINUTE_US)
#define LETTER_US HOUR_US /* how long a letter counts */

/* ---- fields ---- */

static const struct field forgot_fields[] = {
    FIELD(struct forgot_body, email, F_STR, .flags = F_REQUIRED | F_INPUT, .min = 1, .max = 254,
          .doc = "Address of the account"),
};
const struct table forgot_table =
    TABLE("PasswordForgot", struct forgot_body, forgot_fields, .doc = "Whose password was forgotten");
static const struct field reset_fields[] = {
    FIELD(struct reset_body, token, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = 200,
          .doc = "What the link holds"),
    FIELD(struct reset_body, new_password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = PASSWORD_MIN,
          .max = PASSWORD_MAX, .doc = "The new password"),
};
const struct table reset_table =
    TABLE("PasswordReset", struct reset_body, reset_fields, .doc = "A new password, by a link");
static const struct field change_fields[] = {
    FIELD(struct change_body, current_password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1,
          .max = PASSWORD_MAX, .doc = "The present password"),
    FIELD(struct change_body, new_password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = PASSWORD_MIN,
          .max = PASSWORD_MAX, .doc = "The new password"),
};
const struct table change_table =
    TABLE("PasswordChange", struct change_body, change_fields, .doc = "A new password in place of the present one");

struct reset_row {
    struct presence has;
    str user_id;
};
static const struct field row_fields[] = { FIELD(struct reset_row, user_id, F_STR, .doc = "Whose password") };
static const struct table row_table = TABLE("PasswordResetRow", struct reset_row, row_fields);
struct sent {
    struct presence has;
    i64 live, letters;
};
static const struct field sent_fields[] = {
    FIELD(struct sent, live, F_I64, .doc = "Links that are good now"),
    FIELD(struct sent, letters, F_I64, .doc = "Letters of the last hour"),
};
static const struct table sent_table = TABLE("PasswordLinks", struct sent, sent_fields);
struct longest {
    struct presence has;
    i64 least;
};
static const struct field longest_fields[] = { FIELD(struct longest, least, F_I64, .doc = "Characters") };
static const struct table longest_table = TABLE("PasswordLeast", struct longest, longest_fields);

/* ---- problems, statements ---- */

CODES(entry_codes, CODE_ENTRY, { "password.same", "The new password is the present one" });
PROBLEM_SHARED(reset_invalid, "auth.reset_invalid", ERR_NOT_FOUND, "The link is not valid (any more)");
PROBLEM_SHARED(password_wrong, "auth.password_wrong", ERR_FORBIDDEN, "The present password is wrong");

STMT(reset_add, "INSERT INTO password_resets (token_hash, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
     .scope = SCOPE_SYSTEM);
STMT(reset_by_hash,
     "SELECT r.user_id FROM password_resets r JOIN users u ON u.id = r.user_id"
     " WHERE r.token_hash = $1 AND r.expires_at > $2 AND u.status = 'active'",
     .row = &row_table, .scope = SCOPE_SYSTEM);
STMT(resets_sent,
     "SELECT count(CASE WHEN expires_at > $2 THEN 1 END) AS live, count(*) AS letters FROM password_resets"
     " WHERE user_id = $1 AND created_at > $3",
     .row = &sent_table, .scope = SCOPE_SYSTEM);
/* They stay as rows, because a letter that was sent counts. 0 and not the present: a request beside it may have begun earlier. */
STMT(resets_end, "UPDATE password_resets SET expires_at = 0 WHERE user_id = $1", .scope = SCOPE_SYSTEM);
STMT(
    resets_clean,
    "DELETE FROM password_resets WHERE token_hash IN (SELECT token_hash FROM password_resets WHERE created_at < $1 LIMIT $2)",
    .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(
    password_set,
    "UPDATE users SET password_hash = $3, password_changed_at = $4, updated_at = $4 WHERE id = $1 AND password_hash = $2",
    .scope = SCOPE_SYSTEM);
/* The strictest of the person's tenants counts: there is one password for all. */
STMT(password_least,
     "SELECT coalesce(max(t.password_min), 10) AS least FROM memberships m JOIN tenants t ON t.id = m.tenant_id"
     " WHERE m.user_id = $1",
     .row = &longest_table, .scope = SCOPE_SYSTEM);
STMT(
    may_recover,
    "SELECT m.user_id FROM memberships m JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = $1 AND m.status = 'active'"
    " AND t.status = 'active' LIMIT 1",
    .row = &row_table, .scope = SCOPE_SYSTEM);

/* ---- letters ---- */

err notice(struct req *rq, str tenant_id, str user_id, const char *template)
{
    struct buf b = { .arena = rq->arena };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("template"));
    jw_str(&w, str_of(template));
    jw_key(&w, S("user_id"));
    jw_str(&w, user_id);
    jw_key(&w, S("ip"));
    jw_str(&w, rq->http->remote);
    jw_key(&w, S("at"));
    jw_i64(&w, req_now(rq));
    jw_end(&w, '}');
    TRY(b.fail);
    return jobs_enqueue(rq->tx, rq->arena, req_now(rq), "auth.notice", tenant_id, buf_view(&b), 0);
}

struct sending {
    i64 now_us;
    str tenant_id, payload;
    struct reset_row reset; /* of a link; else user_id.p == NULL */
    str hash;
};

static err send_letter(void *ctx, struct tx *tx)
{
    const struct sending *s = ctx;
    return mail_enqueue(tx, db_arena(tx), s->now_us, s->tenant_id, s->payload);
}

/* Anybody may ask for anybody, so asking again ends nothing, and one account gets a bounded number of letters: without a good link one always goes, since a stranger
 * must not use up what its owner needs; beyond that a few at once, and a few within the hour. That makes nine an hour at the most. */
static bool may_send(const struct sent *s)
{
    return s->live == 0 || (s->live < LINKS_LIVE && s->letters < LETTERS_HOUR);
}

static err send_link(void *ctx, struct tx *tx)
{
    const struct sending *s = ctx;
    struct sent sent;
    TRY(db_row(tx, &resets_sent, &sent, ARGS(STR(s->reset.user_id), I64(s->now_us), I64(s->now_us - LETTER_US))));
    if (!may_send(&sent))
        return OK;
    TRY(db_exec(tx, &reset_add, NULL,
                ARGS(STR(s->hash), STR(s->reset.user_id), I64(s->now_us), I64(s->now_us + RESET_US))));
    return send_letter(ctx, tx);
}

static err account_of(struct arena *a, bool by_id, str key, struct user_account *out)
{
    struct tx *tx;
    TRY(db_read_begin(app.db, a, false, &tx));
    err e = by_id ? users_account_by_id(tx, key, out) : users_account(tx, key, out);
    if (e == OK && !by_id)
        e = str_eq(out->status, S("active")) ? db_row(tx, &may_recover, NULL, ARGS(STR(out->id))) : ERR_NOT_FOUND;
    db_read_end(tx);
    return e;
}

err notice_run(const struct job *job)
{
    struct json *in;
    struct user_account u;
    char at[CLOCK_TEXT];
    TRY(json_parse(job->arena, job->payload, &in, NULL));
    const char *template = str_z(job->arena, json_str(json_get(in, S("template"))));
    const struct json *when = json_get(in, S("at"));
    err e = account_of(job->arena, true, json_str(json_get(in, S("user_id"))), &u);
    if (e == ERR_NOT_FOUND || template == NULL || when == NULL)
        return OK;
    TRY(e);
    clock_text(when->integer, at);
    struct mail m = {
        template,
        u.email,
        { { S("email"), u.email }, { S("time"), { at, CLOCK_TEXT } }, { S("ip"), json_str(json_get(in, S("ip"))) } }
    };
    struct sending s = { .now_us = job->now_us, .tenant_id = job->tenant_id };
    TRY(mail_prepare(job->arena, &m, &s.payload));
    return db_write_wait(app.db, job->arena, send_letter, &s);
}

/* ---- forgotten ---- */

static const struct limit_policy recovery_policy = { "recovery", LOGIN_FAILURES, 60 };

/* Asking counts, whoever asks for whom: apart from logins, so that neither closes the other. */
static err recovery_from(struct req *rq, str email, struct login_from *from)
{
    str name = strf(rq->arena, "recovery:%.*s", STR_FMT(email));
    if (name.p == NULL)
        return ERR_MEMORY;
    TRY(login_from(rq->arena, name, rq->http->remote, from));
    from->ip = strf(rq->arena, "recovery:%.*s", STR_FMT(from->ip));
    return from->ip.p != NULL ? OK : ERR_MEMORY;
}

/* The link is made by a job, so this does the same for every address. */
err forgot(struct req *rq)
{
    const struct forgot_body *in = rq->body;
    struct login_from from;
    struct buf b = { .arena = rq->arena };
    struct json_writer w = { .b = &b };
    bool burst;
    i64 left;
    TRY(recovery_from(rq, in->email, &from));
    TRY(proof_throttled(rq, &from));
    TRY(login_limit_failed(rq->tx, req_now(rq), &from, &burst));
    TRY(login_limit_left(rq->tx, req_now(rq), &from, &left));
    limit_tell(rq, &recovery_policy, left, recovery_policy.window_s);
    jw_begin(&w, '{');
    jw_key(&w, S("email"));
    jw_str(&w, in->email);
    jw_key(&w, S("ip"));
    jw_str(&w, rq->http->remote);
    jw_end(&w, '}');
    TRY(b.fail);
    TRY(jobs_enqueue(rq->tx, rq->arena, req_now(rq), "auth.forgot", STR_NONE, buf_view(&b), 0));
    return reply_empty(rq, 202);
}

err forgot_run(const struct job *job)
{
    struct arena *a = job->arena;
    struct json *in;
    struct user_account u;
    struct sending s = { .now_us = job->now_us };
    str token, base = config_base_url(a, &app.config);
    TRY(json_parse(a, job->payload, &in, NULL));
    str email = str_lower(a, json_str(json_get(in, S("email"))));
    err e = account_of(a, false, email, &u);
    if (e == ERR_NOT_FOUND)
        return OK;
    TRY(e);
    TRY(secret_make(a, TOKEN_BYTES, &token));
    TRY(hash_text(a, token, &s.hash));
    s.reset.user_id = u.id;
    str link = strf(a, "%.*s/reset?token=%.*s", STR_FMT(base), STR_FMT(token));
    if (base.p == NULL || link.p == NULL)
        return ERR_MEMORY;
    struct mail m = { "reset",
                      u.email,
                      { { S("email"), u.email }, { S("ip"), json_str(json_get(in, S("ip"))) }, { S("link"), link } } };
    TRY(mail_prepare(a, &m, &s.payload));
    return db_write_wait(app.db, a, send_link, &s);
}

/* ---- a new password ---- */

struct changing {
    struct login_from from;
    struct user_account user;
    str token_hash, new_hash;
    bool matches;
};

static err check_new(struct req *rq, const struct changing *c, str password)
{
    struct longest least;
    const char *code, *wrong;
    TRY(db_row(rq->tx, &password_least, &least, ARGS(STR(c->user.id))));
    wrong = password_refused(password, &(struct password_owner){ { c->user.email, c->user.name }, least.least }, &code);
    if (wrong != NULL)
        return problem_at(rq, &problem_body_invalid, S("/new_password"), code, "%s", wrong);
    return OK;
}

/* On the writer. ERR_BUSY: another change was quicker. */
static err store(struct req *rq, const struct changing *c, str tenant_id, const char *action, const char *scope)
{
    i64 changed;
    TRY(db_exec(rq->tx, &password_set, &changed,
                ARGS(STR(c->user.id), STR(c->user.password_hash), STR(c->new_hash), I64(req_now(rq)))));
    if (changed == 0)
        return ERR_BUSY;
    TRY(db_exec(rq->tx, &resets_end, NULL, ARGS(STR(c->user.id))));
    TRY(sessions_end(rq, c->user.id, rq->who.session_id, str_of(scope)));
    TRY(audit_for(rq, tenant_id, c->user.id, action, c->user.id, STR_NONE));
    TRY(notice(rq, tenant_id, c->user.id, "password_changed"));
    return reply_empty(rq, 204);
}

static err find_reset(struct req *rq, struct changing *c)
{
    struct reset_row row;
    err e = db_row(rq->tx, &reset_by_hash, &row, ARGS(STR(c->token_hash), I64(req_now(rq))));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &reset_invalid, "Ask for another link; one is good for 10 minutes, and once");
    TRY(e);
    return users_account_by_id(rq->tx, row.user_id, &c->user);
}

err reset_prepare(struct req *rq)
{
    const struct reset_body *in = rq->body;
    struct changing *c = NEW(rq->arena, struct changing);
    if (c == NULL)
        return ERR_MEMORY;
    rq->prepared = c;
    TRY(hash_text(rq->arena, in->token, &c->token_hash));
    TRY(find_reset(rq, c));
    TRY(check_new(rq, c, in->new_password));
    return password_hash(rq->arena, in->new_password, &c->new_hash);
}

err reset(struct req *rq)
{
    struct changing c = *(const struct changing *)rq->prepared;
    str home;
    TRY(find_reset(rq, &c));
    TRY(login_home_of(rq->tx, c.user.id, &home));
    return store(rq, &c, home, "auth.password_reset", "all");
}

err change_prepare(struct req *rq)
{
    const struct change_body *in = rq->body;
    struct changing *c = NEW(rq->arena, struct changing);
    if (c == NULL)
        return ERR_MEMORY;
    rq->prepared = c;
    TRY(login_from(rq->arena, rq->who.email, rq->http->remote, &c->from));
    TRY(proof_throttled(rq, &c->from));
    TRY(users_account_by_id(rq->tx, rq->who.user_id, &c->user));
    TRY(check_new(rq, c, in->new_password));
    if (str_eq(in->new_password, in->current_password))
        return problem_at(rq, &problem_body_invalid, S("/new_password"), "password.same", "is the present one");
    TRY(password_verify(c->user.password_hash, in->current_password, &c->matches));
    return c->matches ? password_hash(rq->arena, in->new_password, &c->new_hash) : OK;
}

err change(struct req *rq)
{
    const struct changing *c = rq->prepared;
    TRY(proof_throttled(rq, &c->from));
    if (c->matches)
        return store(rq, c, rq->who.tenant_id, "auth.password_change", "others");
    TRY(proof_failed(rq, &c->from, rq->who.tenant_id, c->user.id));
    return committed(problem(rq, &password_wrong, "Give the password that you sign in with"));
}

err recovery_clean(struct tx *tx, i64 now_us, i64 max, i64 *n)
{
    return db_exec(tx, &resets_clean, n, ARGS(I64(now_us - LETTER_US), I64(max)));
}
