/* auth.h - signing in. What other features may ask of it. */
#pragma once

#include "core/module.h"

extern const struct module auth_module;

/* After a commit that ended sessions, disabled a user, changed a membership or suspended a tenant: the next request
 * of everybody looks again. For req_after: the argument is not used. */
void auth_forget(void *unused);
