/* limits.h - the module. */
#pragma once

#include "core/module.h"

extern const struct module limits_module;
