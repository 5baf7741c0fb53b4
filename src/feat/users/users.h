/* users.h - people, their memberships in tenants, and their passwords. What other features may ask of them. */
#pragma once

#include "core/module.h"
#include "db/db.h"

extern const struct module users_module;

/* Role by its name ("owner"); 0 when there is none of that name. And back; "" for what is no single role of a
 * tenant. */
u32 users_role(str name);
str users_role_name(u32 role);

enum { PASSWORD_MIN = 10, PASSWORD_MAX = 256 /* characters */, PASSWORD_HASH_MAX = 128 };
/* Whose words a password must not consist of: e-mail, name, tenant, … */
struct password_owner {
    str words[5];
};
/* NULL when the password may be used, else why not (a sentence); *code is then its stable word: "password.length",
 * "password.common", "password.personal". */
const char *password_refused(str password, const struct password_owner *owner, const char **code);
/* Argon2id; 20 to 60 ms and 19 MiB: only in the slow pool, in tools and at start. ERR_MEMORY when the 19 MiB are not
 * to be had. */
err password_hash(struct arena *a, str password, str *hash) MUST;
/* hash STR_NONE (nobody of that name) costs the same time and is false. ERR_MEMORY as above: then nothing is known. */
err password_verify(str hash, str password, bool *matches) MUST;

/* Inside a write transaction; email in lower case. ERR_CONFLICT: it is taken. */
err users_insert(struct tx *tx, struct arena *a, i64 now_us, str email, str name, str password_hash_text, str *id) MUST;
err users_join(struct tx *tx, i64 now_us, str tenant_id, str user_id, u32 role) MUST;
/* Is there anybody at all? */
err users_any(struct tx *tx, bool *any) MUST;

/* For `weir user add`: checks, hashes and inserts, waiting for the commit. An e-mail that exists gets a further
 * membership when password is STR_NONE. Anything but OK writes a complaint for people. */
err users_add(struct arena *a, str email, str tenant_slug, str role, str password, str *id, struct buf *complaint) MUST;
