/* module.h - what a feature gives to the house: one struct, listed once in src/feat/all.c. */
#pragma once

#include "core/route.h"

struct job_kind;
struct sealed_column;
struct packed;
/* A path that clients of the replaced services use, and the one that answers: looked for only where no route is, so it costs nobody else anything. A `from` that ends
 * with / stands for all that begins so. */
struct alias {
    const char *from, *to;
};
struct module {
    const char *name; /* the word: "triggers" */
    const char *doc;  /* the tag's description in the OpenAPI document */
    const struct route *routes;
    u32 route_count;
    const struct job_kind *jobs;
    u32 job_count;
    const struct alias *aliases;
    u32 alias_count;
    const struct sealed_column *sealed; /* what SECRET_KEY opens (keys.h) */
    u32 sealed_count;
    err (*start)(void); /* after migration, before the listener opens; may be NULL */
    void (*stop)(void); /* after the last request, while the loops still run; may be NULL */
};

/* All modules; ends with NULL. Defined in src/feat/all.c (and by tests of core, for their own). */
extern const struct module *const modules[];

/* The promises of architecture.md: every route has a permission, schemas and doc, every table keeps field_table_check, names are unique and begin with the
 * module's word, no two routes clash. Writes a line per complaint. */
err modules_check(struct buf *complaint) MUST;

/* Finds the route of a path (no query): the route for `method` (HEAD finds GET), else NULL with *allowed telling the methods that the path has (bit 1 << method; 0 = no such
 * path). A trailing slash is the same route. Parameters are percent-decoded into params (arena). ERR_DECODE: a bad escape. */
err route_find(struct arena *a, enum http_method method, str path, const struct route **out, str params[6],
               u32 *allowed) MUST;
/* Name of the i-th parameter of a route's path; STR_NONE beyond. */
str route_param_name(const struct route *r, u32 i);
err routes_build(void) MUST; /* makes the trie from `modules`; once, at start */

/* The OpenAPI 3.1 document of all modules: made once, at start, on the arena; then served from memory. ERR_CONFLICT (logged): two tables of one name. */
err openapi_build(struct arena *a) MUST;
str openapi_text(void);
const struct packed *openapi_packed(void);
