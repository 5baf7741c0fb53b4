/* all.c - the one list of modules, in the order of their start: a module may rely on those above it. */
#include "core/idempotency.h"
#include "core/mail.h"
#include "core/module.h"
#include "core/sinks.h"
#include "core/store.h"

#include "feat/api-keys/api-keys.h"
#include "feat/audit/audit.h"
#include "feat/auth/auth.h"
#include "feat/dead-letters/dead-letters.h"
#include "feat/docs/docs.h"
#include "feat/executions/executions.h"
#include "feat/health/health.h"
#include "feat/limits/limits.h"
#include "feat/roles/roles.h"
#include "feat/step-types/step-types.h"
#include "feat/tenants/tenants.h"
#include "feat/triggers/triggers.h"
#include "feat/users/users.h"
#include "feat/workflows/workflows.h"

const struct module *const modules[] = {
    &store_module,
    &idempotency_module,
    &mail_module,
    &sinks_module,
    &health_module,
    &docs_module,
    &audit_module,
    &tenants_module,
    &roles_module,
    &api_keys_module,
    &users_module,
    &auth_module,
    &executions_module,
    &dead_letters_module,
    &triggers_module,
    &workflows_module,
    &step_types_module,
    &limits_module,
    NULL,
};
