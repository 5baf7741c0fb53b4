/* field_schema.c - the table as JSON Schema: what field_decode accepts (IN, PATCH) and what field_encode writes (OUT).
 *
 * A table without struct, and everything kept as text, goes out as it came in: there IN describes the answer too. In lists (ITEM)
 * a long text may be cut: that is another shape, so clients are told. Variants are an anyOf: oneOf would refuse {} whenever two of them require nothing, although the sibling says which one is meant. */
#include "codec/field_impl.h"

#include <string.h>

struct scheme {
    struct json_writer *w;
    const struct field_visit *visit;
};

static void key(const struct scheme *s, const char *name)
{
    jw_key(s->w, str_of(name));
}

static void word(const struct scheme *s, const char *name, const char *value)
{
    key(s, name);
    jw_str(s->w, str_of(value));
}

static void number(const struct scheme *s, const char *name, i64 value)
{
    key(s, name);
    jw_i64(s->w, value);
}

static void truth(const struct scheme *s, const char *name, bool value)
{
    key(s, name);
    jw_bool(s->w, value);
}

/* A string made of pieces; needs no arena, and a failure to make it fails the output. */
static void pieces(const struct scheme *s, const char *name, const struct buf *text)
{
    key(s, name);
    jw_str(s->w, buf_view(text));
    if (text->fail != OK)
        s->w->b->fail = text->fail;
}

/* ---- which schemas there are ---- */

static bool is_answer(enum field_schema how)
{
    return how == FIELD_SCHEMA_OUT || how == FIELD_SCHEMA_ITEM;
}

static bool in_answers(const struct field *f)
{
    return (f->flags & (F_INPUT | F_HIDDEN)) == 0;
}

static bool in_requests(const struct field *f)
{
    return (f->flags & (F_OUTPUT | F_HIDDEN)) == 0;
}

static bool has_struct(const struct field *f)
{
    const struct table *of = field_of(f);
    bool any = of != NULL && of->size != 0;
    for (const struct variant_case *c = field_variants(f); c != NULL && c->value != NULL; c++)
        any |= c->as->size != 0;
    any |= f->each != NULL && has_struct(f->each);
    return any && (f->flags & F_TEXT) == 0;
}

static bool is_ref(const struct field *f)
{
    return f->kind == F_OBJECT || f->kind == F_VARIANT;
}

/* Null in an answer without being a value: see the rule in field_encode.c. */
static bool null_when_absent(const struct field *f)
{
    return is_ref(f) && (f->flags & (F_REQUIRED | F_SPARSE)) == 0;
}

static bool field_differs(const struct field *f)
{
    bool required_in = (f->flags & F_REQUIRED) != 0, required_out = (f->flags & F_SPARSE) == 0;
    return (f->flags & F_HIDDEN) == 0 && ((f->flags & (F_INPUT | F_OUTPUT)) != 0 || required_in != required_out ||
                                          f->preset != NULL || has_struct(f) || null_when_absent(f));
}

/* Whether requests and answers need schemas of their own. */
static bool differs(const struct table *t)
{
    for (u32 i = 0; t->size != 0 && i < t->count; i++)
        if (field_differs(&t->fields[i]))
            return true;
    return false;
}

static bool has_cut(const struct table *t)
{
    for (u32 i = 0; i < t->count; i++)
        if ((t->fields[i].flags & F_CUT) != 0)
            return true;
    return false;
}

static enum field_schema normal(const struct table *t, enum field_schema how)
{
    if (how == FIELD_SCHEMA_ITEM && !has_cut(t))
        how = FIELD_SCHEMA_OUT;
    return how == FIELD_SCHEMA_OUT && !differs(t) ? FIELD_SCHEMA_IN : how;
}

static const char *suffix(const struct table *t, enum field_schema how)
{
    if (how == FIELD_SCHEMA_PATCH)
        return "Patch";
    if (how == FIELD_SCHEMA_ITEM && has_cut(t))
        return "Item";
    return how == FIELD_SCHEMA_IN && differs(t) ? "Input" : "";
}

str field_schema_name(struct arena *a, const struct table *t, enum field_schema how)
{
    return strf(a, "%s%s", t->name, suffix(t, how));
}

/* How a nested table is described: as decoding reaches into it. */
static enum field_schema inner(const struct field *f, enum field_schema how)
{
    if ((f->flags & F_TEXT) != 0 || (how == FIELD_SCHEMA_PATCH && f->kind != F_OBJECT))
        return FIELD_SCHEMA_IN;
    return how == FIELD_SCHEMA_ITEM ? FIELD_SCHEMA_OUT : how; /* no table with F_CUT is nested: field_check.c */
}

/* ---- kinds ---- */

static void ref_to(const struct scheme *s, const struct table *t, enum field_schema how)
{
    struct buf text = { 0 };
    bool own = s->visit != NULL && s->visit->refs != NULL;
    buf_f(&text, "%s%s%s", own ? s->visit->refs : "#/components/schemas/", t->name, suffix(t, how));
    pieces(s, "$ref", &text);
    buf_free(&text);
    if (s->visit != NULL)
        s->visit->table(s->visit->ctx, t, normal(t, how));
}

static void type(const struct scheme *s, const char *name, bool null)
{
    if (!null) {
        word(s, "type", name);
        return;
    }
    key(s, "type");
    jw_begin(s->w, '[');
    jw_str(s->w, str_of(name));
    jw_str(s->w, S("null"));
    jw_end(s->w, ']');
}

static void one_of(const struct scheme *s, const char *const *list, bool null)
{
    key(s, "enum");
    jw_begin(s->w, '[');
    for (; *list != NULL; list++)
        jw_str(s->w, str_of(*list));
    if (null)
        jw_null(s->w);
    jw_end(s->w, ']');
}

/* Returns the length that the format leaves of max. */
static i64 format(const struct scheme *s, const struct field *f, i64 max)
{
    struct buf pattern = { 0 };
    const struct field_format *known = field_format(f->format);
    if (known == NULL)
        return max;
    if (known->schema != NULL)
        word(s, "format", known->schema);
    if (strcmp(known->name, "id") == 0)
        buf_f(&pattern, "^%s_%s", f->prefix != NULL ? f->prefix : "[a-z]([a-z_]{0,61}[a-z])?", known->pattern);
    else if (known->pattern != NULL)
        buf_f(&pattern, "%s", known->pattern);
    if (known->pattern != NULL)
        pieces(s, "pattern", &pattern);
    buf_free(&pattern);
    return known->max != 0 ? MIN(known->max, max) : max;
}

/* One kind's members, without braces. `own`: the bounds of the field are this value's, not those of the list around it. */
struct core {
    const struct field *f;
    enum field_kind kind;
    enum field_schema how;
    bool null, own;
};
static void core(const struct scheme *s, const struct core *c);
static void element(const struct scheme *s, const struct core *c);
static void annotations(const struct scheme *s, const struct field *f, enum field_schema how);

static void core_str(const struct scheme *s, const struct core *c)
{
    struct field_bounds b = c->own ? field_bounds(c->f) : (struct field_bounds){ 0, FIELD_STR_MAX };
    type(s, "string", c->null);
    if (c->f->one_of != NULL) {
        one_of(s, c->f->one_of, c->null);
        return;
    }
    if (c->f->format != NULL)
        b.max = format(s, c->f, b.max);
    if (b.min > 0)
        number(s, "minLength", b.min);
    number(s, "maxLength", b.max);
}

static void core_i64(const struct scheme *s, const struct core *c)
{
    struct field_bounds b = c->own ? field_bounds(c->f) : (struct field_bounds){ INT64_MIN, INT64_MAX };
    type(s, "integer", c->null);
    word(s, "format", "int64");
    if (b.min != INT64_MIN)
        number(s, "minimum", b.min);
    if (b.max != INT64_MAX)
        number(s, "maximum", b.max);
}

static void core_f64(const struct scheme *s, const struct core *c)
{
    type(s, "number", c->null);
    word(s, "format", "double");
    if (c->f->min_real == 0 && c->f->max_real == 0)
        return;
    key(s, "minimum");
    jw_real(s->w, c->f->min_real);
    key(s, "maximum");
    jw_real(s->w, c->f->max_real);
}

static void core_bool(const struct scheme *s, const struct core *c)
{
    type(s, "boolean", c->null);
}

static void core_time(const struct scheme *s, const struct core *c)
{
    type(s, "string", c->null);
    word(s, "format", "date-time");
}

static void core_json(const struct scheme *s, const struct core *c)
{
    /* anything: no member restricts it */
}

static void core_object(const struct scheme *s, const struct core *c)
{
    ref_to(s, field_of(c->f), inner(c->f, c->how));
}

static void core_list(const struct scheme *s, const struct core *c)
{
    struct field_bounds b = field_bounds(c->f);
    type(s, "array", c->null);
    key(s, "items");
    element(s, c);
    if (b.min > 0)
        number(s, "minItems", b.min);
    number(s, "maxItems", b.max);
    if ((c->f->flags & F_UNIQUE) != 0)
        truth(s, "uniqueItems", true);
}

static void core_map(const struct scheme *s, const struct core *c)
{
    struct field_bounds b = field_bounds(c->f);
    type(s, "object", c->null);
    key(s, "propertyNames");
    jw_begin(s->w, '{');
    number(s, "minLength", 1);
    number(s, "maxLength", FIELD_KEY_MAX);
    jw_end(s->w, '}');
    key(s, "additionalProperties");
    element(s, c);
    if (b.min > 0)
        number(s, "minProperties", b.min);
    number(s, "maxProperties", b.max);
}

static bool named_before(const struct field *f, const struct variant_case *c)
{
    for (const struct variant_case *o = field_variants(f); o != c; o++)
        if (o->as == c->as)
            return true;
    return false;
}

/* The refs alone; they stand inside an anyOf. */
static void variant_refs(const struct scheme *s, const struct core *c)
{
    for (const struct variant_case *v = field_variants(c->f); v != NULL && v->value != NULL; v++) {
        if (named_before(c->f, v))
            continue;
        jw_begin(s->w, '{');
        ref_to(s, v->as, inner(c->f, c->how));
        jw_end(s->w, '}');
    }
}

static void core_variant(const struct scheme *s, const struct core *c)
{
    key(s, "anyOf");
    jw_begin(s->w, '[');
    variant_refs(s, c);
    jw_end(s->w, ']');
}

static void core(const struct scheme *s, const struct core *c)
{
    static void (*const cores[])(const struct scheme *, const struct core *) = {
        [F_STR] = core_str,   [F_I64] = core_i64,         [F_F64] = core_f64,       [F_BOOL] = core_bool,
        [F_TIME] = core_time, [F_JSON] = core_json,       [F_OBJECT] = core_object, [F_LIST] = core_list,
        [F_MAP] = core_map,   [F_VARIANT] = core_variant,
    };
    cores[c->kind](s, c);
}

/* ---- fields ---- */

/* Whether a template is another shape than the value itself: not for a string that has a length only. */
static bool template_apart(const struct field *f, enum field_kind kind)
{
    bool ruled = f->one_of != NULL || f->format != NULL || f->check != NULL;
    return (f->flags & F_EXPR) != 0 && kind != F_JSON && (kind != F_STR || ruled);
}

static void put_template(const struct scheme *s)
{
    jw_begin(s->w, '{');
    word(s, "type", "string");
    word(s, "pattern", "\\{\\{");
    number(s, "maxLength", FIELD_STR_MAX);
    word(s, "description", "A template: {{ }} holds an expression");
    jw_end(s->w, '}');
}

/* What encode_json() writes in place of a long text. */
static const struct field truncated_fields[] = {
    SHAPE_FIELD("truncated", F_BOOL, .flags = F_REQUIRED, .doc = "Always true"),
    SHAPE_FIELD("size", F_I64, .flags = F_REQUIRED, .doc = "How long the whole value is"),
};
static const struct table truncated_table =
    SHAPE("Truncated", truncated_fields, .doc = "Stands in a list for a long value; the object itself has it");

/* The kind, or anyOf with what may stand in its place. */
static void alternatives(const struct scheme *s, const struct core *c)
{
    bool apart = template_apart(c->f, c->kind), ref = c->kind == F_OBJECT || c->kind == F_VARIANT;
    bool cut = c->how == FIELD_SCHEMA_ITEM && (c->f->flags & F_CUT) != 0;
    if (!apart && !cut && !(ref && c->null)) {
        core(s, c);
        return;
    }
    struct core bare = *c;
    bare.null = false;
    key(s, "anyOf");
    jw_begin(s->w, '[');
    if (c->kind == F_VARIANT) {
        variant_refs(s, &bare);
    } else {
        jw_begin(s->w, '{');
        core(s, &bare);
        jw_end(s->w, '}');
    }
    if (apart)
        put_template(s);
    if (cut) {
        jw_begin(s->w, '{');
        ref_to(s, &truncated_table, FIELD_SCHEMA_IN);
        jw_end(s->w, '}');
    }
    if (c->null) {
        jw_begin(s->w, '{');
        word(s, "type", "null");
        jw_end(s->w, '}');
    }
    jw_end(s->w, ']');
}

static void element(const struct scheme *s, const struct core *c)
{
    const struct field_element e = field_element(c->f);
    bool own = e.kind == e.f->kind;
    const struct core of = { e.f, e.kind, inner(c->f, c->how), own && (e.f->flags & F_NULLABLE) != 0, own };
    jw_begin(s->w, '{');
    alternatives(s, &of);
    if (own)
        annotations(s, e.f, of.how);
    jw_end(s->w, '}');
}

static void description(const struct scheme *s, const struct field *f)
{
    struct buf text = { 0 };
    buf_f(&text, "%s", f->doc != NULL ? f->doc : "");
    if ((f->flags & F_EXPR) != 0 && f->kind == F_STR && !template_apart(f, F_STR))
        buf_f(&text, "%s{{ }} holds an expression", text.n > 0 ? ". " : "");
    const char *before = text.n > 0 ? ". Chosen by " : "Chosen by ";
    for (const struct variant_case *c = field_variants(f); f->kind == F_VARIANT && c->value != NULL; c++) {
        if (c == field_variants(f))
            buf_f(&text, "%s`%s`: ", before, f->by);
        buf_f(&text, "%s%s -> %s", c == field_variants(f) ? "" : ", ", c->value, c->as->name);
    }
    if (text.n > 0)
        pieces(s, "description", &text);
    buf_free(&text);
}

static void annotations(const struct scheme *s, const struct field *f, enum field_schema how)
{
    description(s, f);
    if (f->preset != NULL && how == FIELD_SCHEMA_IN) {
        key(s, "default");
        jw_raw(s->w, str_of(f->preset));
    }
    if (f->example != NULL) {
        key(s, "examples");
        jw_begin(s->w, '[');
        jw_raw(s->w, str_of(f->example));
        jw_end(s->w, ']');
    }
    if ((f->flags & F_OUTPUT) != 0)
        truth(s, "readOnly", true);
    if ((f->flags & F_INPUT) != 0)
        truth(s, "writeOnly", true);
    if ((f->flags & F_SECRET) != 0)
        truth(s, "x-secret", true);
}

static void put_field(const struct scheme *s, const struct field *f, enum field_schema how)
{
    bool null = (f->flags & F_NULLABLE) != 0 || (is_answer(how) && null_when_absent(f));
    const struct core c = { f, f->kind, how, null, true };
    jw_begin(s->w, '{');
    alternatives(s, &c);
    annotations(s, f, how);
    jw_end(s->w, '}');
}

static bool is_listed(const struct field *f, enum field_schema how)
{
    return is_answer(how) ? in_answers(f) : in_requests(f);
}

static bool is_required(const struct field *f, enum field_schema how)
{
    if (how == FIELD_SCHEMA_PATCH || !is_listed(f, how))
        return false;
    return is_answer(how) ? (f->flags & F_SPARSE) == 0 : (f->flags & F_REQUIRED) != 0;
}

static void put_required(const struct scheme *s, const struct table *t, enum field_schema how)
{
    bool any = false;
    for (u32 i = 0; i < t->count; i++)
        any |= is_required(&t->fields[i], how);
    if (!any)
        return;
    key(s, "required");
    jw_begin(s->w, '[');
    for (u32 i = 0; i < t->count; i++)
        if (is_required(&t->fields[i], how))
            jw_str(s->w, str_of(t->fields[i].name));
    jw_end(s->w, ']');
}

void field_schema(struct json_writer *w, const struct table *t, enum field_schema how, const struct field_visit *visit)
{
    const struct scheme s = { w, visit };
    how = normal(t, how);
    jw_begin(w, '{');
    word(&s, "type", "object");
    if (t->doc != NULL)
        word(&s, "description", t->doc);
    key(&s, "properties");
    jw_begin(w, '{');
    for (u32 i = 0; i < t->count; i++) {
        if (!is_listed(&t->fields[i], how))
            continue;
        key(&s, t->fields[i].name);
        put_field(&s, &t->fields[i], how);
    }
    jw_end(w, '}');
    put_required(&s, t, how);
    truth(&s, "additionalProperties", t->open);
    jw_end(w, '}');
}

void field_schema_of(struct json_writer *w, const struct field *f, enum field_schema how,
                     const struct field_visit *visit)
{
    const struct scheme s = { w, visit };
    put_field(&s, f, how);
}
