/* permission.h - who may do what: rows that routes point at, and the question whether a caller has one.
 *
 * A built-in role is a bit that a permission names. A custom role and an API key are lists of permissions: then the list decides, and the role's bit
 * says nothing any more. */
#pragma once

#include "base/str.h"

enum role {
    ROLE_OWNER = 1,
    ROLE_ADMIN = 2,
    ROLE_EDITOR = 4,
    ROLE_MEMBER = 8,
    ROLE_VIEWER = 16,
    ROLE_OPERATOR = 32, /* of the platform: no tenant's content */
    ROLE_CUSTOM = 64,   /* a tenant's own: a list of permissions */
};
enum {
    ROLES_ADMINS = ROLE_OWNER | ROLE_ADMIN,
    ROLES_EDITORS = ROLES_ADMINS | ROLE_EDITOR,
    ROLES_MEMBERS = ROLES_EDITORS | ROLE_MEMBER,
    ROLES_ALL = ROLES_MEMBERS | ROLE_VIEWER, /* built in, of a tenant: all but operator */
};
struct permission {
    const char *name; /* "workflows.write" */
    u32 roles;        /* who has it built in */
    const char *doc;
};
#define PERMISSION(id, name_, roles_, doc_)                            \
    static const struct permission id = { (name_), (roles_), (doc_) }; \
    static const struct permission *const id##_entry __attribute__((section("weir_permissions"), used)) = &id
const struct permission *const *permissions_all(size_t *count);
extern const struct permission anyone;    /* no token needed, none read */
extern const struct permission signed_in; /* any valid token or key of a tenant */
extern const struct permission in_person; /* a session, whatever its role; never an API key */
/* Of those that PERMISSION made; NULL when there is none of that name. */
const struct permission *permission_find(str name);

enum { GRANTS_MAX = 128 };
struct grants {
    u32 n;
    const struct permission *list[GRANTS_MAX];
};
bool grants_have(const struct grants *g, const struct permission *p);
/* A JSON list of names. One that this version does not know is left out: a role outlives a permission. ERR_DECODE: no such list. */
err grants_parse(struct arena *a, str json, struct grants *out) MUST;

struct caller;
bool caller_may(const struct caller *who, const struct permission *need);
