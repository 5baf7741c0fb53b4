/* auth_invite.c - accepting an invitation: the link proves the address, a password proves or makes the person.
 *
 * Somebody with an account gives its password, so that a forwarded letter lets nobody into a tenant under another's name; its failures count as those of a
 * login. No session begins here: signing in asks for what this tenant asks for, a second factor included. */
#include "core/audit.h"
#include "feat/auth/auth_parts.h"
#include "feat/tenants/tenants.h"
#include "feat/users/users.h"

static const struct field accept_fields[] = {
    FIELD(struct accept_body, token, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = 200,
          .doc = "What the link holds"),
    FIELD(struct accept_body, password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = PASSWORD_MAX,
          .doc = "A new password, or that of the account which the address has"),
    FIELD(struct accept_body, name, F_STR, .flags = F_INPUT, .max = 120, .preset = "\"\"",
          .doc = "Name of a new user as it is shown; empty for the one of the invitation"),
};
const struct table accept_table =
    TABLE("InviteAccept", struct accept_body, accept_fields, .doc = "An invitation that is accepted");

struct accepted {
    struct presence has;
    str email, user_id, tenant_id, tenant;
};
static const struct field accepted_fields[] = {
    FIELD(struct accepted, email, F_STR, .flags = F_OUTPUT, .max = 254, .doc = "Address to sign in with"),
    FIELD(struct accepted, user_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "user",
          .doc = "Id of the user"),
    FIELD(struct accepted, tenant_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "tenant",
          .doc = "Id of the tenant"),
    FIELD(struct accepted, tenant, F_STR, .flags = F_OUTPUT, .format = "slug", .max = 63,
          .doc = "Its slug, to sign in to it"),
};
const struct table accepted_table = TABLE("InviteAccepted", struct accepted, accepted_fields, .doc = "Who joined what");

PROBLEM_SHARED(invite_invalid, "auth.invite_invalid", ERR_NOT_FOUND, "The invitation is not valid (any more)");
PROBLEM_SHARED(invite_full, "auth.invite_full", ERR_CONFLICT, "The tenant has as many users as it may have");

struct accepting {
    struct login_from from;
    struct invitation invitation;
    struct user_account account; /* id.p == NULL: there is none yet */
    struct tenant_facts tenant;
    str hash, password_hash; /* of the token; of a new password */
    bool matches;
};

static err find(struct req *rq, struct accepting *c)
{
    err e = users_invitation(rq->tx, req_now(rq), c->hash, &c->invitation);
    if (e == ERR_NOT_FOUND)
        return problem(rq, &invite_invalid, "Ask for another invitation");
    TRY(e);
    TRY(tenants_facts(rq->tx, c->invitation.tenant_id, &c->tenant));
    if (!tenants_takes(rq->arena, &c->tenant, c->invitation.email)) /* it may have changed since */
        return problem(rq, &invite_invalid, "The tenant takes no addresses of this domain");
    struct user_account account = { 0 };
    e = users_account(rq->tx, c->invitation.email, &account);
    c->account = e == OK ? account : (struct user_account){ .id = STR_NONE };
    return e == ERR_NOT_FOUND ? OK : e;
}

static err new_password(struct req *rq, struct accepting *c)
{
    const struct accept_body *in = rq->body;
    struct password_owner owner = {
        { c->invitation.email, in->name, c->invitation.name, c->tenant.name, c->tenant.slug }, c->tenant.password_min
    };
    const char *code, *wrong = password_refused(in->password, &owner, &code);
    if (wrong != NULL)
        return problem_at(rq, &problem_body_invalid, S("/password"), code, "%s", wrong);
    return password_hash(rq->arena, in->password, &c->password_hash);
}

err accept_prepare(struct req *rq)
{
    const struct accept_body *in = rq->body;
    struct accepting *c = NEW(rq->arena, struct accepting);
    if (c == NULL)
        return ERR_MEMORY;
    rq->prepared = c;
    TRY(hash_text(rq->arena, in->token, &c->hash));
    TRY(find(rq, c));
    TRY(login_from(rq->arena, c->invitation.email, rq->http->remote, &c->from));
    if (c->account.id.p == NULL)
        return new_password(rq, c);
    TRY(proof_throttled(rq, &c->from));
    return password_verify(c->account.password_hash, in->password, &c->matches);
}

static err refused(struct req *rq, const struct accepting *c)
{
    TRY(proof_throttled(rq, &c->from));
    TRY(proof_failed(rq, &c->from, c->invitation.tenant_id, c->account.id));
    return committed(problem(rq, &invalid_credentials, "This address has an account: give its password"));
}

static err join(struct req *rq, const struct accepting *c, str user_id)
{
    err e = users_invitation_accept(rq->tx, req_now(rq), &c->invitation, user_id);
    if (e == ERR_NOT_FOUND)
        return problem(rq, &invite_invalid, "It was taken back: ask for another one");
    if (e == ERR_CONFLICT)
        return problem(rq, &invite_invalid, "You are in this tenant already: sign in");
    if (e == ERR_LIMIT)
        return problem(rq, &invite_full, "Tell whoever invited you");
    TRY(e);
    return audit_for(rq, c->invitation.tenant_id, user_id, "auth.invite_accept", c->invitation.id, STR_NONE);
}

/* Whether the account is the one that was seen: made, or given another password, within these milliseconds it is another. */
static bool same_account(const struct accepting *a, const struct accepting *b)
{
    return str_eq(a->account.id, b->account.id) && str_eq(a->account.password_hash, b->account.password_hash);
}

err accept_invitation(struct req *rq)
{
    const struct accept_body *in = rq->body;
    const struct accepting *seen = rq->prepared;
    struct accepting now = *seen;
    struct accepted *out = NEW(rq->arena, struct accepted);
    TRY(find(rq, &now));
    if (out == NULL || !same_account(seen, &now))
        return out == NULL ? ERR_MEMORY : ERR_BUSY;
    str id = now.account.id;
    if (id.p != NULL && (!seen->matches || !str_eq(now.account.status, S("active"))))
        return refused(rq, &now);
    str name = in->name.n > 0 ? in->name : now.invitation.name;
    if (id.p == NULL)
        TRY(users_insert(rq->tx, rq->arena, req_now(rq), now.invitation.email, name, seen->password_hash, &id));
    TRY(join(rq, &now, id));
    *out = (struct accepted){
        .email = now.invitation.email, .user_id = id, .tenant_id = now.tenant.id, .tenant = now.tenant.slug
    };
    field_set_all(&accepted_table, out);
    return reply(rq, 200, &accepted_table, out);
}
