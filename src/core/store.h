/* store.h - what the database needs besides the statements of requests, while it serves. */
#pragma once

#include "core/module.h"

extern const struct module store_module;
