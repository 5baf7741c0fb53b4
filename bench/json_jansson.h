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

void *jansson_parse(str text);
void *jansson_build(const struct recipe *r);
char *jansson_write(const void *j); /* to be freed */
void jansson_free(void *j);
