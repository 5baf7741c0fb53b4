/* users_parts.h - what the files of this folder share with each other and nobody else sees. */
#pragma once

#include "core/jobs.h"
#include "core/req.h"
#include "feat/roles/roles.h"
#include "feat/users/users.h"

/* --- passwords.c --- */

/* 2 to the power of it are the rounds; 0: this is no bcrypt hash, or one that costs more than a login may. */
i64 password_bcrypt_cost(str hash);

/* --- users_members.c --- */

enum { USERS_ROUTES = 8 };
extern const struct route users_routes[USERS_ROUTES];
extern const struct permission *const users_can_read, *const users_can_write;
/* The role of that name, if the caller may give it; else the problem. */
err users_choose_role(struct req *rq, str name, struct role_choice *out) MUST;

/* OK unless that role, of a member or of somebody invited, allows more than the caller may: then the problem. */
err users_role_not_above(struct req *rq, str name) MUST;

/* --- users_invite.c --- */

struct invite {
    struct presence has;
    str email, name, role;
};
extern const struct table invite_table, invitation_table, invitation_query_table;
extern const struct problem invitation_not_found, user_is_member, user_quota;
err invite_prepare(struct req *rq) MUST;
err invite(struct req *rq) MUST;
err invitation_list(struct req *rq) MUST;
err invitation_remove(struct req *rq) MUST;
err invite_owner_run(const struct job *job) MUST;
err invitations_clean(const struct job *job) MUST;
