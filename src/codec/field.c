/* field.c - what a table says about itself: bounds, presence bits, the list of problems, columns. Decoding is in field_decode.c,
 * formats in field_format.c, the rules for tables in field_check.c. */
#include "codec/field_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DETAIL_MAX = 512 };

/* ---- reading a field ---- */

struct field_bounds field_bounds(const struct field *f)
{
    static const struct field_bounds defaults[] = {
        [F_STR] = { 0, FIELD_STR_MAX }, [F_I64] = { INT64_MIN, INT64_MAX }, [F_JSON] = { 0, FIELD_JSON_MAX },
        [F_OBJECT] = { 0, INT64_MAX },  [F_LIST] = { 0, FIELD_ITEMS_MAX },  [F_MAP] = { 0, FIELD_ITEMS_MAX },
        [F_VARIANT] = { 0, INT64_MAX },
    };
    struct field_bounds own = { f->min, f->max }, usual = defaults[f->kind];
    if (own.max == 0 && own.min >= 0)
        return (struct field_bounds){ own.min != 0 ? own.min : usual.min, usual.max };
    return own;
}

const struct table *field_of(const struct field *f)
{
    return f->of_late != NULL ? f->of_late() : f->of;
}

const struct variant_case *field_variants(const struct field *f)
{
    return f->variants_late != NULL ? f->variants_late() : f->variants;
}

const struct table *field_variant(const struct field *f, str value)
{
    for (const struct variant_case *c = field_variants(f); value.p != NULL && c != NULL && c->value != NULL; c++)
        if (str_eq(str_of(c->value), value))
            return c->as;
    return NULL;
}

bool field_is_text(const struct field *f)
{
    return f->kind == F_JSON || (f->flags & F_TEXT) != 0;
}

size_t field_kind_size(enum field_kind kind)
{
    static const size_t sizes[] = {
        [F_STR] = sizeof(str),         [F_I64] = sizeof(i64),
        [F_F64] = sizeof(double),      [F_BOOL] = sizeof(bool),
        [F_TIME] = sizeof(i64),        [F_JSON] = sizeof(str),
        [F_OBJECT] = sizeof(void *),   [F_LIST] = sizeof(struct list),
        [F_MAP] = sizeof(struct list), [F_VARIANT] = sizeof(struct variant),
    };
    return sizes[kind];
}

size_t field_c_size(const struct field *f)
{
    return field_is_text(f) ? sizeof(str) : field_kind_size(f->kind);
}

struct field_element field_element(const struct field *f)
{
    const struct table *of = field_of(f);
    if (f->each != NULL)
        return (struct field_element){ f->each, f->each->kind, NULL, field_c_size(f->each) };
    if (of != NULL)
        return (struct field_element){ f, F_OBJECT, of, of->size };
    return (struct field_element){ f, f->item, NULL, field_kind_size(f->item) };
}

bool field_is_template(const struct field *f, const struct json *j)
{
    return (f->flags & F_EXPR) != 0 && j->type == JSON_STR && str_find(json_str(j), S("{{"), 0) >= 0;
}

/* ---- presence ---- */

static int index_at(const struct table *t, size_t offset)
{
    for (u32 i = 0; i < t->count; i++)
        if (t->fields[i].offset == offset)
            return (int)i;
    assert(!"the member is no field of the table");
    return 0;
}

bool field_present(const struct table *t, const void *row, size_t offset)
{
    return ((const struct presence *)row)->present >> index_at(t, offset) & 1;
}

bool field_null(const struct table *t, const void *row, size_t offset)
{
    return ((const struct presence *)row)->null >> index_at(t, offset) & 1;
}

void field_set(const struct table *t, void *row, size_t offset)
{
    struct presence *has = row;
    u64 bit = (u64)1 << index_at(t, offset);
    has->present |= bit;
    has->null &= ~bit;
}

static bool looks_null(const struct field *f, const char *member)
{
    if (f->kind == F_STR || field_is_text(f))
        return ((const str *)(const void *)member)->p == NULL;
    if (f->kind == F_OBJECT)
        return *(void *const *)(const void *)member == NULL;
    return f->kind == F_VARIANT && ((const struct variant *)(const void *)member)->as == NULL;
}

void field_set_all(const struct table *t, void *row)
{
    struct presence *has = row;
    *has = (struct presence){ 0 };
    for (u32 i = 0; i < t->count; i++) {
        has->present |= (u64)1 << i;
        has->null |= (u64)looks_null(&t->fields[i], (const char *)row + t->fields[i].offset) << i;
    }
}

int field_index(const struct table *t, str name)
{
    for (u32 i = 0; i < t->count; i++)
        if (str_eq(str_of(t->fields[i].name), name))
            return (int)i;
    return -1;
}

/* ---- merging ---- */

static bool same_member(const struct field *f, const char *a, const char *b)
{
    if (f->kind != F_STR && !field_is_text(f))
        return memcmp(a, b, field_c_size(f)) == 0;
    const str *s = (const void *)a, *t = (const void *)b;
    return (s->p == NULL) == (t->p == NULL) && str_eq(*s, *t);
}

void field_merge(const struct table *t, void *row, const void *patch, struct buf *changed)
{
    struct presence *has = row;
    const struct presence *given = patch;
    for (u32 i = 0; i < t->count; i++) {
        const struct field *f = &t->fields[i];
        u64 bit = (u64)1 << i;
        char *to = (char *)row + f->offset;
        const char *from = (const char *)patch + f->offset;
        if ((given->present & bit) == 0)
            continue;
        assert(field_is_text(f) || f->kind <= F_TIME);
        bool same = (has->null & bit) == (given->null & bit) && ((given->null & bit) || same_member(f, to, from));
        if (!same)
            buf_f(changed, "%s%s", changed->n > 0 ? ", " : "", f->name);
        memcpy(to, from, field_c_size(f));
        has->present |= bit;
        has->null = (has->null & ~bit) | (given->null & bit);
    }
}

/* ---- problems ---- */

static bool problems_room(struct problems *p)
{
    if (p->n != 0 && (p->n & (p->n - 1)) != 0)
        return true;
    size_t size = sizeof *p->list, room = p->n == 0 ? 1 : (size_t)p->n * 2;
    struct field_problem *list = arena_grow(p->arena, p->list, p->n * size, room * size);
    if (list == NULL)
        return false;
    p->list = list;
    return true;
}

err problems_add(struct problems *p, str pointer, const char *code, const char *format, ...)
{
    char text[DETAIL_MAX];
    if (p->n == PROBLEMS_MAX) {
        p->more = true;
        return ERR_INVALID;
    }
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    str detail = str_dup(p->arena, (str){ text, n < 0 ? 0 : MIN((size_t)n, sizeof text - 1) });
    pointer = str_dup(p->arena, pointer);
    if (detail.p == NULL || pointer.p == NULL || !problems_room(p))
        return ERR_MEMORY;
    p->list[p->n++] = (struct field_problem){ pointer, code, detail };
    return ERR_INVALID;
}
