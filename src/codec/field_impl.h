/* field_impl.h - what the field*.c files share, and nobody else includes. */
#pragma once

#include "codec/field.h"

enum {
    FIELD_STR_MAX = 65536,    /* code points of a string without a bound of its own; also of any template */
    FIELD_ITEMS_MAX = 1000,   /* of a list or map without a bound of its own */
    FIELD_KEY_MAX = 256,      /* code points of a map's key */
    FIELD_JSON_MAX = 1 << 20, /* bytes of free JSON without a bound of its own */
    FIELD_EMAIL_MAX = 254,    /* RFC 5321 §4.5.3.1.3 */
};

struct field_bounds {
    i64 min, max;
};
/* What .min and .max mean: 0,0 is the kind's default, and a .min alone leaves the default .max. */
struct field_bounds field_bounds(const struct field *f);

/* .of or .of_late(); NULL when there is neither. */
const struct table *field_of(const struct field *f);
/* .variants or .variants_late(); NULL when there is neither. */
const struct variant_case *field_variants(const struct field *f);
const struct table *field_variant(const struct field *f, str value);
/* What the elements of a LIST or MAP are. */
struct field_element {
    const struct field *f; /* whose rules hold: .each, else the list's own */
    enum field_kind kind;
    const struct table *row; /* .of: each element is the struct itself */
    size_t size;             /* in C */
};
struct field_element field_element(const struct field *f);
/* Whether the member is a `str` of JSON text. */
bool field_is_text(const struct field *f);
/* Bytes of the member of a row struct. */
size_t field_c_size(const struct field *f);
size_t field_kind_size(enum field_kind kind);
/* A string that holds {{ where F_EXPR allows one. */
bool field_is_template(const struct field *f, const struct json *j);

struct field_format {
    const char *name;
    bool (*valid)(struct arena *a, const struct field *f, str s);
    const char *what;    /* "must be …" */
    const char *schema;  /* JSON Schema format; NULL: pattern says it */
    const char *pattern; /* for "id" without the prefix */
    i64 max;             /* characters that can be valid; 0 = any */
};
/* NULL when the name is unknown. */
const struct field_format *field_format(const char *name);
