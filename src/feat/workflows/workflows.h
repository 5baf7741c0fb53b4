/* workflows.h - the module; other features ask nothing of workflows (triggers and executions see the table in their SQL). */
#pragma once

#include "core/module.h"

extern const struct module workflows_module;
