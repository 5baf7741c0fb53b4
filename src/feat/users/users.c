/* users.c - people: making them and letting them into tenants. What a tenant's admins do with its members is in users_members.c, how they let
 * somebody in in users_invite.c; signing in is auth's.
 *
 * An e-mail address is the name of a person in all tenants, kept in lower case: two spellings must never be two
 * people. */
#include "feat/users/users_parts.h"

#include "base/clock.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "feat/roles/roles.h"
#include "feat/tenants/tenants.h"

struct user {
    struct presence has;
    str id, email, name;
};
static const struct field fields[] = {
    FIELD(struct user, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user", .doc = "Id of the user"),
    FIELD(struct user, email, F_STR, .flags = F_REQUIRED, .min = 3, .max = 254, .format = "email",
          .doc = "E-mail address, in lower case"),
    FIELD(struct user, name, F_STR, .max = 120, .doc = "Name as it is shown"),
};
static const struct table user_table = TABLE("User", struct user, fields, .doc = "A person who signs in");

STMT(user_insert,
     "INSERT INTO users (id, email, name, password_hash, password_changed_at, created_at, updated_at)"
     " VALUES ($1, $2, $3, $4, $5, $5, $5)",
     .scope = SCOPE_SYSTEM);
STMT(user_by_email, "SELECT id, email, name FROM users WHERE email = $1", .row = &user_table, .scope = SCOPE_SYSTEM);
static const struct field account_fields[] = {
    FIELD(struct user_account, id, F_STR, .doc = "User"),
    FIELD(struct user_account, email, F_STR, .doc = "Address"),
    FIELD(struct user_account, name, F_STR, .doc = "Name"),
    FIELD(struct user_account, password_hash, F_STR, .flags = F_SECRET, .doc = "Argon2id, or imported bcrypt"),
    FIELD(struct user_account, status, F_STR, .doc = "active or disabled"),
};
static const struct table account_table = TABLE("UserAccount", struct user_account, account_fields);
STMT(account_by_email, "SELECT id, email, name, password_hash, status FROM users WHERE email = $1",
     .row = &account_table, .scope = SCOPE_SYSTEM);
STMT(account_by_id, "SELECT id, email, name, password_hash, status FROM users WHERE id = $1", .row = &account_table,
     .scope = SCOPE_SYSTEM);
struct imported {
    struct presence has;
    str password_hash;
};
static const struct field imported_fields[] = { FIELD(struct imported, password_hash, F_STR, .flags = F_SECRET,
                                                      .doc = "bcrypt") };
static const struct table imported_table = TABLE("ImportedHash", struct imported, imported_fields);
/* "$2b$12$…": the cost stands at 5; Argon2id's begin with "$a". */
STMT(imported_dearest,
     "SELECT password_hash FROM users WHERE substr(password_hash, 2, 1) = '2'"
     " AND substr(password_hash, 5, 2) <= $1 ORDER BY substr(password_hash, 5, 2) DESC LIMIT 1",
     .row = &imported_table, .scope = SCOPE_SYSTEM);
STMT(user_first, "SELECT id FROM users LIMIT 1", .row = &user_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(membership_insert,
     "INSERT INTO memberships (tenant_id, user_id, role, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)");

err users_insert(struct tx *tx, struct arena *a, i64 now_us, str email, str name, str password_hash_text, str *id)
{
    str made = typeid_new(a, "user", now_us);
    if (made.p == NULL)
        return ERR_MEMORY;
    TRY(db_exec(tx, &user_insert, NULL, ARGS(STR(made), STR(email), STR(name), STR(password_hash_text), I64(now_us))));
    *id = made;
    return OK;
}

err users_join(struct tx *tx, i64 now_us, str tenant_id, str user_id, u32 role)
{
    return db_try(tx, &membership_insert, ARGS(STR(tenant_id), STR(user_id), STR(role_name(role)), I64(now_us)));
}

err users_any(struct tx *tx, bool *any)
{
    err e = db_row(tx, &user_first, NULL, (struct args){ 0 });
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    *any = e == OK;
    return OK;
}

err users_imported_cost(struct tx *tx, i64 *cost)
{
    struct imported dearest;
    char most[3];
    snprintf(most, sizeof most, "%d", (int)IMPORTED_COST_MAX);
    err e = db_row(tx, &imported_dearest, &dearest, ARGS(STR(str_of(most))));
    if (e != OK && e != ERR_NOT_FOUND)
        return e;
    *cost = e == OK ? password_bcrypt_cost(dearest.password_hash) : 0;
    return OK;
}

err users_account(struct tx *tx, str email, struct user_account *out)
{
    return db_row(tx, &account_by_email, out, ARGS(STR(email)));
}

err users_account_by_id(struct tx *tx, str id, struct user_account *out)
{
    return db_row(tx, &account_by_id, out, ARGS(STR(id)));
}

/* --- the command line -------------------------------------------------------------------------------------------- */

struct adding {
    str email, tenant_slug, hash;
    u32 role;
    str id;
    const char *wrong; /* the sentence for people */
};

static err say(struct adding *in, err e, const char *wrong)
{
    in->wrong = wrong;
    return e;
}

/* The user's id: a new one, or that of a known address when no password was given. */
static err find_or_insert(struct adding *in, struct tx *tx, i64 now_us)
{
    struct user known = { 0 };
    err e = db_row(tx, &user_by_email, &known, ARGS(STR(in->email)));
    if (e == OK && in->hash.p != NULL)
        return say(in, ERR_CONFLICT, "this e-mail is known already; to add it to a further tenant, give no password");
    if (e == ERR_NOT_FOUND && in->hash.p == NULL)
        return say(in, ERR_NOT_FOUND, "nobody has this e-mail; to make a new user, give a password");
    if (e == ERR_NOT_FOUND)
        return users_insert(tx, db_arena(tx), now_us, in->email, S(""), in->hash, &in->id);
    in->id = known.id;
    return e;
}

static err add(void *ctx, struct tx *tx)
{
    struct adding *in = ctx;
    i64 now_us = clock_now_us();
    str tenant_id;
    in->wrong = NULL;
    err e = tenants_find(tx, in->tenant_slug, &tenant_id);
    if (e != OK)
        return e == ERR_NOT_FOUND ? say(in, e, "no tenant has this slug") : e;
    TRY(find_or_insert(in, tx, now_us));
    e = users_join(tx, now_us, tenant_id, in->id, in->role);
    if (e == ERR_CONFLICT)
        return say(in, e, "this user is in the tenant already");
    TRY(e);
    return audit_system(tx, db_arena(tx), now_us, tenant_id, S("command line"), "users.create", in->id, STR_NONE);
}

static err check_email(struct arena *a, str email, struct buf *complaint)
{
    struct json body = { .type = JSON_OBJECT };
    struct problems problems = { .arena = a };
    if (!json_set(a, &body, S("email"), json_of_str(email)))
        return ERR_MEMORY;
    err e = field_decode(a, &user_table, FIELD_CREATE, &body, S(""), NULL, &problems);
    if (problems.n > 0)
        buf_f(complaint, "e-mail: %.*s", STR_FMT(problems.list[0].detail));
    return e;
}

static err check_password(struct arena *a, const struct adding *in, str password, str *hash, struct buf *complaint)
{
    struct password_owner owner = { { in->email, in->tenant_slug } };
    const char *code,
        *wrong = str_utf8(password) ? password_refused(password, &owner, &code) : "A password is UTF-8 text";
    if (wrong != NULL) {
        buf_f(complaint, "%s", wrong);
        return ERR_INVALID;
    }
    err e = password_hash(a, password, hash);
    if (e != OK)
        buf_f(complaint, "the password could not be hashed: out of memory");
    return e;
}

err users_add(struct arena *a, str email, str tenant_slug, str role, str password, str *id, struct buf *complaint)
{
    struct adding in = { .email = str_lower(a, email),
                         .tenant_slug = tenant_slug,
                         .role = role_bit_given(role) & (ROLES_ALL | ROLE_OPERATOR) };
    if (in.email.p == NULL)
        return ERR_MEMORY;
    TRY(check_email(a, in.email, complaint));
    if (in.role == 0) {
        buf_f(complaint, "%.*s is no role; there are owner, admin, editor, member, viewer and operator", STR_FMT(role));
        return ERR_INVALID;
    }
    if (password.p != NULL)
        TRY(check_password(a, &in, password, &in.hash, complaint));
    err e = db_write_wait(app.db, a, add, &in);
    if (e != OK)
        buf_f(complaint, "%s", in.wrong != NULL ? in.wrong : err_text(e));
    TRY(e);
    *id = in.id;
    return OK;
}

static const struct job_kind jobs[] = {
    { .name = "users.invite_owner",
      .run = invite_owner_run,
      .doc = "Invites the owner of a tenant that an operator made" },
    { .name = "users.clean", .run = invitations_clean, .every_us = HOUR_US, .doc = "Deletes invitations that expired" },
};

static const struct alias aliases[] = {
    { "/api/admin/users", "/api/v1/users" },
    { "/api/admin/users/", "/api/v1/users/" },
    { "/api/v1/admin/users", "/api/v1/users" },
    { "/api/v1/admin/users/", "/api/v1/users/" },
};

const struct module users_module = {
    .name = "users",
    .doc = "People and their memberships in tenants",
    .routes = users_routes,
    .route_count = USERS_ROUTES,
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .aliases = aliases,
    .alias_count = COUNT(aliases),
};
