/* health.h - the module; and what its two files share. */
#pragma once

#include "core/module.h"

extern const struct module health_module;

/* health_metrics.c: GET /metrics. */
err health_metrics(struct req *rq);
