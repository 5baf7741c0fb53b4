/* roles.h - what memberships may be: the built-in roles, and those that a tenant makes of permissions. What other features may ask of them. */
#pragma once

#include "core/module.h"
#include "db/db.h"

struct caller;
extern const struct module roles_module;

enum { ROLES_PER_TENANT = 50, ROLE_NAME_MAX = 60 };

/* Bit of a membership's role by its name: the built-in ones, "operator" and "custom"; 0 when there is none of that name. And back; "" for no single role. */
u32 role_bit(str name);
str role_name(u32 role);
/* The same of a name that a client or an import gives: Admin and User of the replaced services are admin and member. */
u32 role_bit_given(str name);

struct role_choice {   /* what a membership is given: its columns */
    str role, role_id; /* "custom" with an id, else the built-in name and STR_NONE */
    str name;          /* as people see it */
    u32 bit;
    struct grants *grants; /* of a custom role; else NULL */
};
/* A built-in role of tenants, or one of this tenant's own, by its name. ERR_NOT_FOUND; operator is none of them. */
err roles_choose(struct tx *tx, struct arena *a, str tenant_id, str name, struct role_choice *out) MUST;
/* Nobody gives more than they have: every permission of the role is one of the caller's. Only owners make owners. */
bool roles_may_give(const struct caller *who, const struct role_choice *role);
