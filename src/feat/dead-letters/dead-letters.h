/* dead-letters.h - the module; no other feature needs anything of it. */
#pragma once

#include "core/module.h"

extern const struct module dead_letters_module;
