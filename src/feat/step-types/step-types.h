/* step-types.h - the module. */
#pragma once

#include "core/module.h"

extern const struct module step_types_module;
