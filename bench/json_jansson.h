/* json_jansson.h - jansson behind names that do not clash with ours (both call things json_null, json_copy, JSON_REAL). */
#pragma once

#include "base/str.h"

/* A value to be built, children behind it: the same list of calls for both libraries. */
struct recipe {
    char kind; /* of the text it begins with: n t i r " [ { (t: integer says which) */
    u32 children;
    str key, text;
    i64 integer;
    double real;
};

/* What a node is; of a container the count, of a bool the integer 0 or 1. */
struct jansson_value {
    char kind; /* as in a recipe */
    size_t count;
    str text;
    i64 integer;
    double real;
};

void *jansson_parse(str text);
/* Any value, \u0000 in texts, and whether it was refused only for one in a key. */
void *jansson_parse_any(str text, bool *nul_in_key);
void jansson_look(const void *j, struct jansson_value *out);
const void *jansson_item(const void *j, size_t index);
const void *jansson_member(const void *j, str key); /* NULL when absent */
void *jansson_build(const struct recipe *r);
char *jansson_write(const void *j); /* to be freed */
void jansson_free(void *j);
