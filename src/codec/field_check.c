/* field_check.c - the rules every table keeps, checked at start and in tests: a wrong table is found before a request meets it.
 *
 * Each rule is a row: a test of one field and the sentence for whoever wrote the table. */
#include "codec/field_impl.h"

#include <string.h>

enum { FIELDS_MAX = 64, SCRATCH = 4 << 20 };

typedef bool rule_fn(const struct table *t, const struct field *f);

static bool is_container(const struct field *f)
{
    return f->kind == F_LIST || f->kind == F_MAP;
}

/* Whether the string rules (one of, format, …) have a string to hold for. */
static bool has_text(const struct field *f)
{
    return f->kind == F_STR || (is_container(f) && f->each == NULL && field_element(f).kind == F_STR);
}

static bool bad_name(const struct table *t, const struct field *f)
{
    if (f->name == NULL || f->name[0] == 0)
        return true;
    return f->name[strspn(f->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$-.")] != 0;
}

static bool named_twice(const struct table *t, const struct field *f)
{
    return f->name != NULL && field_index(t, str_of(f->name)) != f - t->fields;
}

static bool no_doc(const struct table *t, const struct field *f)
{
    return (f->flags & F_HIDDEN) == 0 && (f->doc == NULL || f->doc[0] == 0);
}

static bool bad_offset(const struct table *t, const struct field *f)
{
    return t->size != 0 && (f->offset < sizeof(struct presence) || f->offset + field_c_size(f) > t->size);
}

static bool bad_bounds(const struct table *t, const struct field *f)
{
    struct field_bounds b = field_bounds(f);
    bool counted = f->kind == F_STR || f->kind == F_JSON || is_container(f);
    if (f->kind == F_F64)
        return f->min != 0 || f->max != 0 || f->min_real > f->max_real;
    if (f->kind == F_BOOL || f->kind == F_TIME)
        return f->min != 0 || f->max != 0;
    return b.min > b.max || (counted && b.min < 0) || f->min_real != 0 || f->max_real != 0;
}

static bool bad_text_rule(const struct table *t, const struct field *f)
{
    return !has_text(f) && (f->one_of != NULL || f->format != NULL || f->check != NULL);
}

static bool bad_format(const struct table *t, const struct field *f)
{
    return f->format != NULL && field_format(f->format) == NULL;
}

static bool bad_prefix(const struct table *t, const struct field *f)
{
    return f->prefix != NULL && (f->format == NULL || strcmp(f->format, "id") != 0);
}

static bool empty_one_of(const struct table *t, const struct field *f)
{
    return f->one_of != NULL && f->one_of[0] == NULL;
}

static bool bad_of(const struct table *t, const struct field *f)
{
    bool allowed = f->kind == F_OBJECT || is_container(f);
    bool stored = t->size != 0 && (f->flags & F_TEXT) == 0;
    const struct table *of = field_of(f);
    return allowed ? (f->kind == F_OBJECT && of == NULL) || (of != NULL && stored && of->size == 0) : of != NULL;
}

static bool bad_item(const struct table *t, const struct field *f)
{
    enum field_kind kind = f->each != NULL ? f->each->kind : f->item;
    if (!is_container(f))
        return f->each != NULL;
    if (f->each != NULL)
        return kind == F_VARIANT || field_of(f) != NULL;
    return field_of(f) == NULL && (kind == F_OBJECT || kind == F_LIST || kind == F_MAP || kind == F_VARIANT);
}

static bool bad_by(const struct table *t, const struct field *f)
{
    int sibling = f->by != NULL ? field_index(t, str_of(f->by)) : -1;
    if (f->kind != F_VARIANT)
        return f->by != NULL;
    return sibling < 0 || t->fields[sibling].kind != F_STR ||
           (t->fields[sibling].flags & (F_OUTPUT | F_HIDDEN | F_EXPR)) != 0;
}

static bool bad_variants(const struct table *t, const struct field *f)
{
    const struct variant_case *cases = field_variants(f);
    bool stored = t->size != 0 && (f->flags & F_TEXT) == 0;
    if (f->kind != F_VARIANT)
        return cases != NULL;
    if (cases == NULL || cases->value == NULL)
        return true;
    for (const struct variant_case *c = cases; c->value != NULL; c++)
        if (c->as == NULL || (stored && c->as->size == 0))
            return true;
    return false;
}

/* Every value that the sibling may have chooses something. */
static bool unchosen(const struct table *t, const struct field *f)
{
    int sibling = f->kind == F_VARIANT && f->by != NULL ? field_index(t, str_of(f->by)) : -1;
    const char *const *value = sibling >= 0 ? t->fields[sibling].one_of : NULL;
    for (; value != NULL && *value != NULL; value++)
        if (field_variant(f, str_of(*value)) == NULL)
            return true;
    return false;
}

static bool bad_unique(const struct table *t, const struct field *f)
{
    return (f->flags & F_UNIQUE) != 0 &&
           (f->kind != F_LIST || field_of(f) != NULL || (f->each != NULL && f->each->kind > F_JSON));
}

static bool bad_text_flag(const struct table *t, const struct field *f)
{
    return (f->flags & F_TEXT) != 0 && f->kind != F_OBJECT && f->kind != F_VARIANT && !is_container(f);
}

static bool has_cut(const struct table *t)
{
    for (u32 i = 0; t != NULL && i < t->count; i++)
        if ((t->fields[i].flags & F_CUT) != 0)
            return true;
    return false;
}

/* Only the row of a list has a schema of its own as an item, not what it nests. */
static bool bad_cut(const struct table *t, const struct field *f)
{
    return ((f->flags & F_CUT) != 0 && (f->flags & F_TEXT) == 0) || has_cut(field_of(f));
}

/* A template has to be kept where the value would be. */
static bool bad_expr(const struct table *t, const struct field *f)
{
    return (f->flags & F_EXPR) != 0 && t->size != 0 && !field_is_text(f) && f->kind != F_STR;
}

static bool bad_flags(const struct table *t, const struct field *f)
{
    u32 one_way = f->flags & (F_INPUT | F_OUTPUT);
    return one_way == (F_INPUT | F_OUTPUT) || (t->size == 0 && (one_way | (f->flags & F_HIDDEN)) != 0);
}

static bool preset_of_no_use(const struct table *t, const struct field *f)
{
    return f->preset != NULL && ((f->flags & (F_REQUIRED | F_OUTPUT | F_HIDDEN)) != 0 || f->kind == F_VARIANT);
}

/* Decodes `{"<name>": text}` by a table of this field alone. */
static bool decodes(const struct table *t, const struct field *f, const char *text)
{
    struct field alone = *f;
    alone.flags &= ~(u32)F_OUTPUT;
    const struct table one = { .name = t->name, .fields = &alone, .count = 1 };
    struct arena *a = arena_new(SCRATCH);
    struct json *value, object = { .type = JSON_OBJECT };
    struct problems problems = { .arena = a };
    bool ok = a != NULL && json_parse(a, str_of(text), &value, NULL) == OK &&
              json_set(a, &object, str_of(f->name), *value) &&
              field_decode(a, &one, FIELD_CREATE, &object, STR_NONE, NULL, &problems) == OK;
    arena_free(a);
    return ok;
}

static bool bad_preset(const struct table *t, const struct field *f)
{
    return f->preset != NULL && f->kind != F_VARIANT && !decodes(t, f, f->preset);
}

static bool bad_example(const struct table *t, const struct field *f)
{
    return f->example != NULL && f->kind != F_VARIANT && (f->flags & F_HIDDEN) == 0 && !decodes(t, f, f->example);
}

static const struct {
    rule_fn *broken;
    const char *text;
    bool last;   /* the rules after it would stumble over such a field */
    bool member; /* not for the description of an element, .each */
} rules[] = {
    { bad_name, "has a name of other than letters, digits and _ $ - .", true, false },
    { named_twice, "stands in the table twice", false, true },
    { no_doc, "has no doc", false, true },
    { bad_offset, "does not lie inside the struct behind `struct presence has`", false, true },
    { bad_bounds, "has bounds that nothing satisfies or that its kind does not have", false, false },
    { bad_text_rule, "has one_of, format or check but no text", false, false },
    { bad_format, "has an unknown format", true, false },
    { bad_prefix, "has a prefix but is no id", false, false },
    { empty_one_of, "has an empty one_of", false, false },
    { bad_of, "needs .of for an object, has one where there is none, or one without struct", true, false },
    { bad_item, "needs .of, or .item of a scalar kind", true, false },
    { bad_by, "needs .by to name a plain string beside it", true, false },
    { bad_variants, "needs variants, each with a table (and a struct unless F_TEXT)", true, false },
    { unchosen, "has no variant for a value that its sibling may have", false, false },
    { bad_unique, "is F_UNIQUE but no list of scalars", false, false },
    { bad_text_flag, "is F_TEXT but has no structure", false, false },
    { bad_cut, "is F_CUT but not F_TEXT, or nests a table with such a field", false, false },
    { bad_expr, "is F_EXPR but has no text to keep a template in", false, false },
    { bad_flags, "goes neither in nor out, or only one way in a table without struct", false, false },
    { preset_of_no_use, "has a preset that can never be applied", false, true },
    { bad_preset, "has a preset that does not decode", false, false },
    { bad_example, "has an example that does not decode", false, false },
};

static bool check_field(const struct table *t, const struct field *f, bool member, struct buf *complaint)
{
    bool ok = true;
    for (size_t i = 0; i < COUNT(rules); i++) {
        if ((rules[i].member && !member) || !rules[i].broken(t, f))
            continue;
        buf_f(complaint, "table %s: field %s %s\n", t->name, f->name != NULL ? f->name : "(none)", rules[i].text);
        ok = false;
        if (rules[i].last)
            return false;
    }
    return (f->each == NULL || check_field(t, f->each, false, complaint)) && ok;
}

static bool check_whole(const struct table *t, struct buf *complaint)
{
    const char *wrong = NULL;
    if (t->count > FIELDS_MAX)
        wrong = "has more than 64 fields";
    else if (t->size != 0 && t->size < sizeof(struct presence))
        wrong = "has a struct that does not begin with `struct presence has`";
    if (wrong != NULL)
        buf_f(complaint, "table %s %s\n", t->name, wrong);
    return wrong == NULL;
}

err field_table_check(const struct table *t, struct buf *complaint)
{
    if (t->name == NULL || t->name[0] == 0) {
        buf_f(complaint, "a table has no name\n");
        return ERR_INVALID;
    }
    bool ok = check_whole(t, complaint);
    for (u32 i = 0; i < t->count && t->count <= FIELDS_MAX; i++)
        ok &= check_field(t, &t->fields[i], true, complaint);
    return ok ? OK : ERR_INVALID;
}
