/* health.h - the module; and what its two files share. */
#pragma once

#include "core/module.h"

extern const struct module health_module;

/* health_metrics.c: GET /metrics, and what has to be counted along for it. */
err health_metrics(struct req *rq) MUST;
err health_metrics_start(void) MUST;
