/* docs.h - the module. */
#pragma once

#include "core/module.h"

extern const struct module docs_module;
