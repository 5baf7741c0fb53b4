/* users.h - people, their memberships in tenants, and their passwords. What other features may ask of them. */
#pragma once

#include "core/module.h"
#include "db/db.h"

extern const struct module users_module;

enum { PASSWORD_MIN = 10, PASSWORD_MAX = 256 /* characters */, PASSWORD_HASH_MAX = 128 };
enum { IMPORTED_COST_MAX = 14 }; /* of a bcrypt hash, a second and a half; dearer ones verify nobody */
/* Whose words a password must not consist of: e-mail, name, tenant, … */
struct password_owner {
    str words[5];
    i64 least; /* characters, where the tenant asks for more than PASSWORD_MIN; else 0 */
};
/* NULL when the password may be used, else why not (a sentence); *code is then its stable word: "password.length",
 * "password.common", "password.personal". */
const char *password_refused(str password, const struct password_owner *owner, const char **code);
/* Argon2id; 20 to 60 ms and 19 MiB: only in the slow pool, in tools and at start. ERR_MEMORY when the 19 MiB are not
 * to be had. */
err password_hash(struct arena *a, str password, str *hash) MUST;
/* hash STR_NONE (nobody of that name) costs the same time and is false. ERR_MEMORY as above: then nothing is known. */
err password_verify(str hash, str password, bool *matches) MUST;
/* For whoever may be a stranger: takes as long whose hash it is, if any. As long as imported hashes are left, that is Argon2id and the dearest of them, for everybody:
 * imported_cost is users_imported_cost(). */
err password_verify_anyone(str hash, i64 imported_cost, str password, bool *matches) MUST;
/* Whether it is an imported bcrypt hash, which verifies and is to be replaced by whoever knows the password. */
bool password_outdated(str hash);

/* Inside a write transaction; email in lower case. ERR_CONFLICT: it is taken. */
err users_insert(struct tx *tx, struct arena *a, i64 now_us, str email, str name, str password_hash_text, str *id) MUST;
err users_join(struct tx *tx, i64 now_us, str tenant_id, str user_id, u32 role) MUST;

/* An offer to join a tenant, found by what its link holds. */
struct invitation {
    struct presence has;
    str id, tenant_id, email, name, role, role_id, shown_role, invited_by, token_hash;
    i64 created_at, expires_at;
};
/* hash: SHA-256 of the token in hex. ERR_NOT_FOUND: there is none, it expired, or its tenant is suspended. */
err users_invitation(struct tx *tx, i64 now_us, str hash, struct invitation *out) MUST;
/* In a write transaction: makes the membership and ends the invitation. ERR_CONFLICT: a member already, ERR_LIMIT: the tenant has as many users as it may have. */
err users_invitation_accept(struct tx *tx, i64 now_us, const struct invitation *i, str user_id) MUST;
/* Who has an address; ERR_NOT_FOUND. */
struct user_account {
    struct presence has;
    str id, email, name, password_hash, status;
};
err users_account(struct tx *tx, str email, struct user_account *out) MUST;
err users_account_by_id(struct tx *tx, str id, struct user_account *out) MUST;
/* bcrypt's cost of the dearest imported hash that nobody signed in with yet; 0: none is left. */
err users_imported_cost(struct tx *tx, i64 *cost) MUST;
/* Is there anybody at all? */
err users_any(struct tx *tx, bool *any) MUST;

/* Who acts on a member of the caller's tenant stands no lower, or is that member: else the problem users_role_above. ERR_NOT_FOUND: no member. */
struct req;
struct problem;
err users_member_not_above(struct req *rq, str user_id) MUST;
extern const struct problem users_role_above;

/* For `weir user add`: checks, hashes and inserts, waiting for the commit. An e-mail that exists gets a further
 * membership when password is STR_NONE. Anything but OK writes a complaint for people. */
err users_add(struct arena *a, str email, str tenant_slug, str role, str password, str *id, struct buf *complaint) MUST;
