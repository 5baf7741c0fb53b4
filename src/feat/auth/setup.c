/* setup.c - the very first user: by a one-time link that the server prints while it has none, or from WEIR_ADMIN_EMAIL
 * and WEIR_ADMIN_PASSWORD.
 *
 * Nobody becomes owner by being first to reach the port. The token is stored as a hash, so it cannot be printed
 * twice: each start without a user makes a new one and the older ends. */
#include "feat/auth/auth_parts.h"

#include "base/clock.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/nodes.h"
#include "feat/tenants/tenants.h"
#include "feat/users/users.h"

#include <stdio.h>

enum { TOKEN_BYTES = 32, START_BYTES = 64 << 10 };

struct row {
    struct presence has;
    str token_hash;
};
static const struct field fields[] = {
    FIELD(struct row, token_hash, F_STR, .doc = "SHA-256 of the setup token"),
};
static const struct table row_table = TABLE("AuthSetup", struct row, fields);

PROBLEM_SHARED(setup_done, "auth.setup_done", ERR_CONFLICT, "Weir is set up already");
PROBLEM_SHARED(setup_token_wrong, "auth.setup_token", ERR_UNAUTHORIZED,
               "The setup token is not the one that was printed last");

STMT(setup_hash, "SELECT token_hash FROM auth_setup WHERE id = 1", .row = &row_table, .scope = SCOPE_SYSTEM);
STMT(setup_set,
     "INSERT INTO auth_setup (id, token_hash, created_at) VALUES (1, $1, $2)"
     " ON CONFLICT (id) DO UPDATE SET token_hash = excluded.token_hash, created_at = excluded.created_at",
     .scope = SCOPE_SYSTEM);
STMT(setup_forget, "DELETE FROM auth_setup", .scope = SCOPE_SYSTEM, .scan_ok = true);

/* --- the route ---------------------------------------------------------------------------------------------------- */

struct preparing {
    str email, hash;
};

static err token_hash(struct arena *a, str token, str *out)
{
    u8 hash[SHA256_BYTES];
    hash_sha256(token, hash);
    str hex = hex_encode(a, (str){ (const char *)hash, sizeof hash });
    if (hex.p == NULL)
        return ERR_MEMORY;
    *out = hex;
    return OK;
}

/* Open while there is no user, to whoever holds the token. */
static err allowed(struct req *rq, str token)
{
    bool any;
    str hash;
    struct row row = { 0 };
    TRY(users_any(rq->tx, &any));
    if (any)
        return problem(rq, &setup_done, "Sign in, or ask the owner to let you in");
    TRY(token_hash(rq->arena, token, &hash));
    err e = db_row(rq->tx, &setup_hash, &row, (struct args){ 0 });
    if (e == ERR_NOT_FOUND || (e == OK && !str_eq_secret(hash, row.token_hash)))
        return problem(rq, &setup_token_wrong, "Use the link that Weir printed when it started");
    return e;
}

err setup_prepare(struct req *rq)
{
    const struct setup_body *in = rq->body;
    TRY(allowed(rq, in->token));
    struct preparing *p = NEW(rq->arena, struct preparing);
    if (p == NULL)
        return ERR_MEMORY;
    p->email = str_lower(rq->arena, in->email);
    if (p->email.p == NULL)
        return ERR_MEMORY;
    const char *code, *wrong;
    wrong = password_refused(
        in->password, &(struct password_owner){ { p->email, in->name, in->tenant_name, in->tenant_slug } }, &code);
    if (wrong != NULL)
        return problem_at(rq, &problem_body_invalid, S("/password"), code, "%s", wrong);
    TRY(password_hash(rq->arena, in->password, &p->hash));
    rq->prepared = p;
    return OK;
}

/* `weir tenant add` may have made the tenant before. */
static err find_or_insert_tenant(struct tx *tx, struct arena *a, i64 now_us, str slug, str name, str *id)
{
    err e = tenants_find(tx, slug, id);
    return e == ERR_NOT_FOUND ? tenants_insert(tx, a, now_us, slug, name, id) : e;
}

struct owner {
    str email, name, hash, tenant_slug, tenant_name;
    str user_id, tenant_id;
};

static err insert_owner(struct tx *tx, struct arena *a, i64 now_us, struct owner *o)
{
    TRY(find_or_insert_tenant(tx, a, now_us, o->tenant_slug, o->tenant_name, &o->tenant_id));
    TRY(users_insert(tx, a, now_us, o->email, o->name, o->hash, &o->user_id));
    TRY(users_join(tx, now_us, o->tenant_id, o->user_id, ROLE_OWNER));
    return db_exec(tx, &setup_forget, NULL, (struct args){ 0 });
}

err setup(struct req *rq)
{
    const struct setup_body *in = rq->body;
    const struct preparing *p = rq->prepared;
    struct grant g;
    TRY(allowed(rq, in->token)); /* again: two may have come at once */
    struct owner o = { .email = p->email,
                       .name = in->name,
                       .hash = p->hash,
                       .tenant_slug = in->tenant_slug,
                       .tenant_name = in->tenant_name };
    TRY(insert_owner(rq->tx, rq->arena, req_now(rq), &o));
    TRY(grant_new(rq->arena, req_now(rq), &(struct grant_for){ o.user_id, o.tenant_id, S("owner"), false, false, 0 },
                  &g));
    TRY(grant_store(rq, &g));
    TRY(audit_for(rq, o.tenant_id, o.user_id, "auth.setup", o.user_id, STR_NONE));
    reply_location(rq, "/api/v1/auth/me");
    return grant_reply(rq, 201, &g);
}

/* --- at start ----------------------------------------------------------------------------------------------------- */

struct first {
    i64 now_us;
    bool any;
    str hash; /* of a new token; or: */
    struct owner *owner;
};

static err first_look(void *ctx, struct tx *tx)
{
    struct first *f = ctx;
    return users_any(tx, &f->any);
}

static err first_token(void *ctx, struct tx *tx)
{
    struct first *f = ctx;
    return db_exec(tx, &setup_set, NULL, ARGS(STR(f->hash), I64(f->now_us)));
}

static err first_owner(void *ctx, struct tx *tx)
{
    struct first *f = ctx;
    TRY(users_any(tx, &f->any)); /* again: another node may have started meanwhile */
    if (f->any)
        return OK;
    TRY(insert_owner(tx, db_arena(tx), f->now_us, f->owner));
    return audit_system(tx, db_arena(tx), f->now_us, f->owner->tenant_id, S("settings"), "auth.setup",
                        f->owner->user_id, STR_NONE);
}

static err owner_from_settings(struct arena *a, struct first *f)
{
    struct owner o = { .email = str_lower(a, app.config.admin_email),
                       .name = S(""),
                       .tenant_slug = S("default"),
                       .tenant_name = S("Default") };
    if (o.email.p == NULL)
        return ERR_MEMORY;
    const char *code,
        *wrong = password_refused(app.config.admin_password, &(struct password_owner){ { o.email } }, &code);
    if (wrong != NULL) {
        fprintf(stderr, "weir: WEIR_ADMIN_PASSWORD: %s\n", wrong);
        return ERR_INVALID;
    }
    TRY(password_hash(a, app.config.admin_password, &o.hash));
    f->owner = &o;
    err e = db_write_wait(app.db, a, first_owner, f);
    f->owner = NULL;
    return e;
}

/* For the person at the terminal, so not by the log: a log keeps what it is told, and this is a secret. */
static err print_link(struct arena *a, str token)
{
    str url = config_base_url(a, &app.config);
    if (url.p == NULL)
        return ERR_MEMORY;
    bool usual = str_eq(url, S("http://127.0.0.1:8000")); /* what the example takes by itself */
    fprintf(stderr,
            "\n  Weir has no user yet. Make the first one, once, by this link:\n\n"
            "      %.*s/setup?token=%.*s\n\n"
            "  or from a terminal:\n\n"
            "      curl %.*s/api/v1/setup -H 'Content-Type: application/json' \\\n"
            "           -d '{\"token\":\"%.*s\",\"email\":\"you@example.com\",\"password\":\"…\"}'\n\n"
            "  Then run the worked example (README.md explains it):\n\n"
            "      sh examples/score.sh you@example.com 'your password'%s%.*s\n\n",
            STR_FMT(url), STR_FMT(token), STR_FMT(url), STR_FMT(token), usual ? "" : " ", STR_FMT(usual ? S("") : url));
    return OK;
}

static err link_for_setup(struct arena *a, struct first *f)
{
    u8 bytes[TOKEN_BYTES];
    rng_bytes(bytes, sizeof bytes);
    str token = base64_encode(a, BASE64URL, (str){ (const char *)bytes, sizeof bytes });
    if (token.p == NULL)
        return ERR_MEMORY;
    TRY(token_hash(a, token, &f->hash));
    TRY(db_write_wait(app.db, a, first_token, f));
    return print_link(a, token);
}

err setup_start(void)
{
    struct arena *a = arena_new(START_BYTES);
    struct first f = { .now_us = clock_now_us() };
    err e = a == NULL ? ERR_MEMORY : db_write_wait(app.db, a, first_look, &f);
    bool owner = app.config.admin_email.n > 0 && app.config.admin_password.n > 0;
    if (e == OK && !f.any && (owner || node_answers())) /* a worker has no page that a link could lead to */
        e = owner ? owner_from_settings(a, &f) : link_for_setup(a, &f);
    arena_free(a);
    return e;
}
