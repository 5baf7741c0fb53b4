/* field.h - field tables: one table says what a record looks like, and everything follows from it: decoding a JSON body
 * into a C struct with validation and pointers, decoding query parameters, encoding, mapping database columns, the OpenAPI schema.
 *
 *     struct trigger { struct presence has; str id, name; bool is_active; i64 created_at; };
 *     static const struct field fields[] = {
 *         FIELD(struct trigger, id,         F_STR,  .flags = F_OUTPUT, .format = "id", .doc = "…"),
 *         FIELD(struct trigger, name,       F_STR,  .flags = F_REQUIRED, .min = 1, .max = 120, .doc = "…"),
 *         FIELD(struct trigger, is_active,  F_BOOL, .preset = "true", .doc = "…"),
 *         FIELD(struct trigger, created_at, F_TIME, .flags = F_OUTPUT, .doc = "…"),
 *     };
 *     static const struct table trigger = TABLE("Trigger", struct trigger, fields);
 *
 * Three states. A row struct starts with `struct presence has`: bit i of has.present is set when field i of the table was
 * given (or came from its column), bit i of has.null when it was null. Use HAS() and IS_NULL() by member name.
 *
 * C types by kind: F_STR str · F_I64, F_TIME (epoch microseconds) i64 · F_F64 double · F_BOOL bool · F_JSON str, compact JSON
 * text · F_OBJECT pointer to the struct of `.of` · F_LIST struct list · F_MAP struct list of struct map_item · F_VARIANT struct variant.
 * With F_TEXT an OBJECT, LIST, MAP or VARIANT is checked in full against its tables but kept as compact JSON text in a `str`.
 * A table without struct (size 0, made by SHAPE) only checks; it is what F_TEXT fields and step configurations use.
 *
 * What is written: every member but F_SPARSE ones without a value. One without a value is null when F_NULLABLE or an OBJECT, VARIANT or JSON, else
 * its kind's zero ("", 0, false, 1970, [], {}); the published output schema says the same. A patch reaches into an OBJECT that is a struct;
 * LISTs, MAPs, VARIANTs and all F_TEXT are replaced whole, so they must be whole. An `.each` element is its kind's C type, an OBJECT a pointer. */
#pragma once

#include "codec/json.h"

struct problems;
struct table;

enum field_kind { F_STR, F_I64, F_F64, F_BOOL, F_TIME, F_JSON, F_OBJECT, F_LIST, F_MAP, F_VARIANT };

enum field_flags {
    F_REQUIRED = 1 << 0, /* must be given on input */
    F_OUTPUT = 1 << 1,   /* only in answers; given on input it is 422 `field.read_only` */
    F_INPUT = 1 << 2,    /* only in requests: never encoded (secrets) */
    F_NULLABLE = 1 << 3, /* null is a value of it, in and out */
    F_TEXT = 1 << 4,     /* kept as JSON text, see above */
    F_EXPR = 1 << 5,     /* a string holding {{ }} may stand in place of the value; for F_STR: marks it as a template */
    F_FILTER = 1 << 6,   /* usable as a list filter (documentation, console) */
    F_SORT = 1 << 7,     /* usable in sort= */
    F_SECRET = 1 << 8,   /* masked wherever it would be shown; implies nothing else */
    F_SPARSE = 1 << 9,   /* left out of answers when absent, instead of null */
    F_UNIQUE = 1 << 10,  /* of a LIST of scalars: no value twice */
    F_HIDDEN = 1 << 11,  /* column only: neither accepted nor encoded nor documented */
    F_CUT = 1 << 12,     /* of F_TEXT: a long one is cut in lists, and their schema says so */
    F_WRITTEN = 1 << 13, /* not evaluated: FIELD_EVALUATED does not miss it */
};

struct presence {
    u64 present, null;
};
struct list {
    void *items; /* array of structs (of != NULL) or of the scalar C type */
    u32 n;
};
struct map_item {
    str key;
    void *value; /* struct of `.of`, or str/i64/… by `.item` */
};
struct variant {
    const struct table *as; /* the chosen table; NULL when absent */
    void *p;
};
struct variant_case {
    const char *value; /* of the sibling named by `.by` */
    const struct table *as;
};

struct field {
    const char *name;
    enum field_kind kind;
    u32 flags;
    size_t offset;
    /* STR: code points · I64: value · LIST, MAP: count · JSON, OBJECT, VARIANT: bytes (max). 0,0 = kind's default bound (65,536 characters,
     * 1,000 items, 1 MiB of JSON); .min alone leaves the default .max */
    i64 min, max;
    double min_real, max_real; /* F64; 0,0 = none */
    /* NULL-terminated; as format, prefix and check also for each item of a LIST or MAP of STR */
    const char *const *one_of;
    const char *format; /* STR: "id" (TypeID; `.prefix`), "email", "uri", "name", "json-pointer", "date-time", "slug" */
    const char *prefix; /* of a TypeID */
    const char *preset; /* JSON text of the default: applied on decode when absent, shown in the schema */
    enum field_kind item;     /* LIST, MAP: kind of the elements when `.of` is NULL */
    const struct field *each; /* LIST, MAP: the element in full (bounds, lists of lists), in place of `.item` */
    const struct table *of;   /* OBJECT; LIST and MAP of objects */
    const struct table *(*of_late)(void); /* in place of `.of` where tables refer to each other or to a registry */
    const char *by;                       /* VARIANT: the sibling that chooses */
    const struct variant_case *variants;  /* ends with {NULL} */
    const struct variant_case *(*variants_late)(void);               /* in place of `.variants` */
    err (*check)(str value, const char **code, const char **detail); /* STR: a rule of its own; ERR_INVALID sets both */
    const char *doc;     /* one sentence; required in every published table */
    const char *example; /* JSON text */
};

struct table {
    const char *name; /* of the OpenAPI component: "Workflow" */
    const struct field *fields;
    u32 count;   /* at most 64 */
    size_t size; /* of the struct; 0 = shape only */
    bool open;   /* unknown members are allowed (maps of free values, as transform's `with`) */
    const char *doc;
    /* A rule over several members, asked when each of them is right; may be NULL. */
    err (*check)(const struct json *object, str pointer, struct problems *out);
};
#define FIELD(type, member, kind_, ...)                                                 \
    {                                                                                   \
        .name = #member, .kind = (kind_), .offset = offsetof(type, member), __VA_ARGS__ \
    }
#define FIELD_AS(type, name_, member, kind_, ...)                                       \
    {                                                                                   \
        .name = (name_), .kind = (kind_), .offset = offsetof(type, member), __VA_ARGS__ \
    }
#define SHAPE_FIELD(name_, kind_, ...)                \
    {                                                 \
        .name = (name_), .kind = (kind_), __VA_ARGS__ \
    }
#define TABLE(name_, type, fields_, ...)                                                                 \
    {                                                                                                    \
        .name = (name_), .fields = (fields_), .count = COUNT(fields_), .size = sizeof(type), __VA_ARGS__ \
    }
#define SHAPE(name_, fields_, ...)                                                 \
    {                                                                              \
        .name = (name_), .fields = (fields_), .count = COUNT(fields_), __VA_ARGS__ \
    }

/* What is wrong with an input: at most 100 entries, then `more`. Texts live in the arena. */
struct field_problem {
    str pointer; /* RFC 6901 into the body, or "query/<name>" */
    /* Static: field.required, unknown, read_only, null, type, range, length, count (items), size (bytes of JSON), one_of, format, nul, key (of a map),
     * repeated, variant (the sibling is missing), or the code of a check. */
    const char *code;
    str detail;
};
enum { PROBLEMS_MAX = 100 };
struct problems {
    struct arena *arena;
    struct field_problem *list;
    u32 n;
    bool more;
};
/* Adds one; always returns ERR_INVALID (or ERR_MEMORY), so that a check can end with it. */
err problems_add(struct problems *p, str pointer, const char *code, const char *format, ...) PRINTF_LIKE(4, 5);

bool field_present(const struct table *t, const void *row, size_t offset);
bool field_null(const struct table *t, const void *row, size_t offset);
/* Given and not null. */
#define HAS(table, row, member)                                              \
    (field_present(&(table), (row), offsetof(__typeof__(*(row)), member)) && \
     !field_null(&(table), (row), offsetof(__typeof__(*(row)), member)))
#define GIVEN(table, row, member)   field_present(&(table), (row), offsetof(__typeof__(*(row)), member))
#define IS_NULL(table, row, member) field_null(&(table), (row), offsetof(__typeof__(*(row)), member))
/* Marks a member as present and not null, before encoding a row that a handler filled in. */
void field_set(const struct table *t, void *row, size_t offset);
#define SET(table, row, member) field_set(&(table), (row), offsetof(__typeof__(*(row)), member))
/* Marks every member as present; those whose str has p == NULL as null. For rows built by hand. */
void field_set_all(const struct table *t, void *row);

enum field_mode {
    FIELD_CREATE,    /* POST, PUT: required fields must be there, presets fill the gaps */
    FIELD_PATCH,     /* PATCH: nothing is required, nothing is preset */
    FIELD_EVALUATED, /* as FIELD_CREATE, after templates were evaluated: F_EXPR means nothing any more */
};
/* Decodes and checks an object at `pointer`. Collects *all* problems; ERR_INVALID when there is one. `out` (t->size bytes,
 * zeroed) may be NULL to check only. Texts borrow from the DOM's source or live in the arena. */
err field_decode(struct arena *a, const struct table *t, enum field_mode mode, const struct json *object, str pointer,
                 void *out, struct problems *problems) MUST;

/* Query parameters, already percent-decoded; pairs in order. Scalars by kind; a LIST of STR takes "a,b". Unknown names,
 * repeated names and bad values are problems at "query/<name>". */
struct pair {
    str name, value;
};
err field_decode_query(struct arena *a, const struct table *t, const struct pair *pairs, size_t count, void *out,
                       struct problems *problems) MUST;

/* Writes the row as a JSON object: fields in table order, absent ones as null (F_SPARSE: left out), never F_INPUT. */
void field_encode(struct buf *b, const struct table *t, const void *row);
/* For lists: a text longer than `cut` bytes becomes {"truncated":true,"size":n} where the schema allows it, which is in F_JSON and
 * F_CUT members; 0 = no cut. */
void field_encode_cut(struct buf *b, const struct table *t, const void *row, size_t cut);
/* Of the row itself only the members whose bit is set, by index in t->fields; what they hold is whole. */
void field_encode_some(struct buf *b, const struct table *t, const void *row, size_t cut, u64 mask);

/* One database column into its member, by index in t->fields. The text is copied into the arena. */
struct cell {
    enum { CELL_NULL, CELL_I64, CELL_F64, CELL_STR } type;
    i64 integer;
    double real;
    str text;
};
err field_from_cell(struct arena *a, const struct table *t, u32 index, struct cell cell, void *row) MUST;
/* Index by name; -1 when the table has none. */
int field_index(const struct table *t, str name);
/* A merge patch over a row of the same table: members that were given replace the row's; the names of those that differ are added to `changed`, between
 * commas. Only scalars, texts and what is kept as text: the table holds nothing else. */
void field_merge(const struct table *t, void *row, const void *patch, struct buf *changed);

/* JSON Schema (2020-12, as OpenAPI 3.1 uses it) of a table, for input or output. Nested tables become
 * {"$ref":"#/components/schemas/<Name>"}, and are handed to `visit` so that the caller lists each once. Input schemas are named
 * "<Name>Input" where they differ in fields from the output (field_schema_name tells), patches "<Name>Patch", items of lists
 * "<Name>Item" where they hold F_CUT members. */
enum field_schema { FIELD_SCHEMA_IN, FIELD_SCHEMA_OUT, FIELD_SCHEMA_PATCH, FIELD_SCHEMA_ITEM };
struct field_visit {
    void (*table)(void *ctx, const struct table *t, enum field_schema how);
    void *ctx;
    const char *refs; /* in place of "#/components/schemas/" */
};
void field_schema(struct json_writer *w, const struct table *t, enum field_schema how, const struct field_visit *visit);
str field_schema_name(struct arena *a, const struct table *t, enum field_schema how);
/* The schema of one field alone (for query parameters). */
void field_schema_of(struct json_writer *w, const struct field *f, enum field_schema how,
                     const struct field_visit *visit);

/* Rules every table must keep, for the check at start: docs, bounds, 64 fields, struct offsets inside size, presets that decode,
 * `.by` names a sibling. Writes what is wrong; OK when nothing is. */
err field_table_check(const struct table *t, struct buf *complaint) MUST;
