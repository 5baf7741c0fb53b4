/* catalogue.h - every code that an answer can carry, gathered from where the layers register them: problems, refusals of the server, entries of `errors`,
 * failures of steps and executions. For `weir errors`, /docs/errors and docs/errors.md. */
#pragma once

#include "codec/json.h"

struct catalogue_row {
    const char *code;
    const char *kind;  /* problem, refusal, entry, failure */
    int status;        /* 0: it has none of its own, as it stands inside an answer */
    const char *title; /* one sentence without a full stop */
    const char *file;  /* from the root of the sources */
    int line;
};
/* Sorted by code, then kind; each pair once. */
err catalogue_make(struct arena *a, struct catalogue_row **list, u32 *n) MUST;
/* "../src/core/app.c", as a compiler was called with it, from the root: "src/core/app.c". */
const char *catalogue_file(const char *file);
