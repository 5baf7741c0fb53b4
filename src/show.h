/* show.h - the verbs that print what the binary is made of; as columns for people, as JSON for scripts. */
#pragma once

#include "base/buf.h"

err show_routes(struct buf *b, bool json) MUST;
err show_errors(struct buf *b, bool json) MUST;
err show_metrics(struct buf *b, bool json) MUST;
err show_statements(struct buf *b, bool json) MUST;
err show_jobs(struct buf *b, bool json) MUST;
err show_config(struct buf *b, bool json) MUST;
err show_openapi(struct buf *b, bool json) MUST;
