/* audit.h - the audit log as its readers see it. Writing a row is core/audit's, sealing it core/audit_chain's. */
#pragma once

#include "core/module.h"

extern const struct module audit_module;
