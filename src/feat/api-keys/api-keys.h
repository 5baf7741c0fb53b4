/* api-keys.h - keys for programs. What other features may ask of them. */
#pragma once

#include "core/module.h"
#include "core/req.h"

extern const struct module api_keys_module;

/* For the gate, by auth: who sends this key. As authenticate_fn. */
err api_keys_authenticate(struct req *rq, str key, const char **reason) MUST;
