/* field_decode.c - JSON into rows by the table, finding everything that is wrong in one go.
 *
 * Nothing stops at the first problem: a function here returns OK after reporting one, and only ERR_MEMORY ends the walk. Where we
 * are is a chain of frames on the stack; the pointer is written out only when there is a problem to put it in. */
#include "codec/field_impl.h"
#include "base/code.h"
#include "base/map.h"
#include "codec/time.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN_MAX = 80, LISTED_MAX = 300, PAIRWISE_MAX = 16 };

CODES(field_codes, CODE_ENTRY, { "field.required", "The member must be given" },
      { "field.unknown", "There is no such member or parameter" }, { "field.read_only", "The server sets the member" },
      { "field.null", "The member must not be null" }, { "field.type", "The value has another type" },
      { "field.range", "The number is too small or too large" },
      { "field.length", "The text has too few or too many characters" },
      { "field.count", "The list or map has too few or too many members" },
      { "field.size", "The value has too many bytes as JSON" },
      { "field.one_of", "The value is none of those that are allowed" },
      { "field.format", "The text is not of the form that it must have" },
      { "field.nul", "The text holds a NUL character" },
      { "field.key", "The name of a map's member is too long or empty" },
      { "field.repeated", "The value stands in the list twice, or the parameter is given twice" },
      { "field.variant", "The member that chooses the form of this one is missing" },
      { "field.invalid", "The value breaks a rule of its own" });

struct decoder {
    struct arena *a;
    struct problems *problems;
    u32 bad;        /* problems found, listed or not */
    bool evaluated; /* FIELD_EVALUATED: {{ }} is text like any other */
    bool stored; /* our own text from a column: any member, nothing required, what is unknown by now is passed over */
};

struct path {
    const struct path *up; /* NULL: `key` is where the whole input stands, as it is */
    str key;               /* NULL: index */
    u32 index;
};

/* What is to be decoded, and where. */
struct place {
    const struct field *f;
    enum field_kind kind; /* the field's, or that of its elements */
    enum field_mode mode;
    const struct path *path;
};

static err decode_value(struct decoder *d, const struct place *at, const struct json *j, void *slot);
static err decode_object(struct decoder *d, const struct table *t, enum field_mode mode, const struct json *j,
                         const struct path *path, void *row);

/* ---- reporting ---- */

static str pointer_of(struct arena *a, const struct path *path)
{
    if (path->up == NULL)
        return path->key;
    str up = pointer_of(a, path->up);
    if (up.p == NULL)
        return up;
    return path->key.p != NULL ? json_pointer_key(a, up, path->key) : json_pointer_index(a, up, path->index);
}

static err PRINTF_LIKE(4, 5)
    report(struct decoder *d, const struct path *path, const char *code, const char *format, ...)
{
    char text[512];
    d->bad++;
    if (d->problems->n == PROBLEMS_MAX) {
        d->problems->more = true;
        return OK;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    str pointer = pointer_of(d->a, path);
    if (pointer.p == NULL)
        return ERR_MEMORY;
    err e = problems_add(d->problems, pointer, code, "%s", text);
    return e == ERR_INVALID ? OK : e;
}

/* The front of a name that somebody sent, cut between characters. */
static str shown(str name)
{
    size_t n = MIN(name.n, (size_t)SHOWN_MAX);
    while (n < name.n && n > 0 && ((u8)name.p[n] & 0xC0) == 0x80)
        n--;
    return str_slice(name, 0, n);
}

static err report_type(struct decoder *d, const struct place *at)
{
    static const char *const words[] = {
        [F_STR] = "a string",
        [F_I64] = "an integer",
        [F_F64] = "a number",
        [F_BOOL] = "true or false",
        [F_TIME] = "a time by RFC 3339",
        [F_JSON] = "JSON",
        [F_OBJECT] = "an object",
        [F_LIST] = "a list",
        [F_MAP] = "an object",
        [F_VARIANT] = "an object",
    };
    return report(d, at->path, "field.type", "must be %s", words[at->kind]);
}

static err report_bounds(struct decoder *d, const struct path *path, const char *code, struct field_bounds b,
                         const char *verb, const char *noun)
{
    long long min = b.min, max = b.max;
    if (min == INT64_MIN || (min == 0 && *noun != 0))
        return report(d, path, code, "must %s at most %lld%s", verb, max, noun);
    if (max == INT64_MAX)
        return report(d, path, code, "must %s at least %lld%s", verb, min, noun);
    if (min == max)
        return report(d, path, code, "must %s exactly %lld%s", verb, min, noun);
    return report(d, path, code, "must %s from %lld to %lld%s", verb, min, max, noun);
}

static err report_one_of(struct decoder *d, const struct path *path, const char *const *list)
{
    char text[LISTED_MAX] = "";
    size_t n = 0;
    for (; *list != NULL && n < sizeof text; list++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n > 0 ? ", " : "", *list);
    return report(d, path, "field.one_of", "must be one of: %s%s", text, n >= sizeof text ? "…" : "");
}

/* ---- scalars ---- */

static bool in_list(const char *const *list, str s)
{
    for (; *list != NULL; list++)
        if (str_eq(str_of(*list), s))
            return true;
    return false;
}

static err check_length(struct decoder *d, const struct place *at, str s, struct field_bounds b)
{
    i64 n = (i64)str_utf8_len(s);
    return n >= b.min && n <= b.max ? OK : report_bounds(d, at->path, "field.length", b, "have", " characters");
}

/* One of, format and the field's own rule; the first that fails is reported, the others would only repeat it. */
static err check_content(struct decoder *d, const struct place *at, str s)
{
    const struct field *f = at->f;
    const struct field_format *format = f->format != NULL ? field_format(f->format) : NULL;
    const char *code = "field.invalid", *detail = "is not valid";
    if (f->one_of != NULL && !in_list(f->one_of, s))
        return report_one_of(d, at->path, f->one_of);
    if (format != NULL && !format->valid(d->a, f, s))
        return report(d, at->path, "field.format", "must be %s%s%s", format->what,
                      f->prefix != NULL ? " that begins with " : "", f->prefix != NULL ? f->prefix : "");
    if (f->check != NULL && f->check(s, &code, &detail) != OK)
        return report(d, at->path, code, "%s", detail);
    return OK;
}

static err check_text(struct decoder *d, const struct place *at, str s)
{
    bool own = at->kind == at->f->kind; /* .min and .max of a list count its items */
    bool ruled = at->f->one_of != NULL || at->f->format != NULL || at->f->check != NULL;
    bool template = !d->evaluated && (at->f->flags & F_EXPR) != 0 && str_find(s, S("{{"), 0) >= 0;
    struct field_bounds usual = { 0, FIELD_STR_MAX };
    if (d->stored)
        return OK;
    if (str_find_char(s, 0, 0) >= 0)
        return report(d, at->path, "field.nul", "must not hold a NUL character");
    u32 before = d->bad;
    TRY(check_length(d, at, s, own && !(template && ruled) ? field_bounds(at->f) : usual));
    return template || d->bad != before ? OK : check_content(d, at, s);
}

static err decode_str(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    if (j->type != JSON_STR)
        return report_type(d, at);
    if (slot != NULL)
        *(str *)slot = json_str(j);
    return check_text(d, at, json_str(j));
}

/* 1.0 is an integer too: JSON Schema says so, and our schemas say "integer". */
static bool integer_of(const struct json *j, i64 *out)
{
    bool whole = j->type == JSON_REAL && j->real >= -0x1p53 && j->real <= 0x1p53 && j->real == (double)(i64)j->real;
    if (j->type != JSON_INT && !whole)
        return false;
    *out = whole ? (i64)j->real : j->integer;
    return true;
}

static err decode_i64(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    i64 value;
    bool own = at->kind == at->f->kind;
    struct field_bounds b = own ? field_bounds(at->f) : (struct field_bounds){ INT64_MIN, INT64_MAX };
    if (!integer_of(j, &value))
        return report_type(d, at);
    if (!d->stored && (value < b.min || value > b.max))
        return report_bounds(d, at->path, "field.range", b, "be", "");
    if (slot != NULL)
        *(i64 *)slot = value;
    return OK;
}

static err decode_f64(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    const struct field *f = at->f;
    if (j->type != JSON_INT && j->type != JSON_REAL)
        return report_type(d, at);
    double value = j->type == JSON_INT ? (double)j->integer : j->real;
    bool bounded = f->min_real != 0 || f->max_real != 0;
    if (!d->stored && bounded && (value < f->min_real || value > f->max_real))
        return report(d, at->path, "field.range", "must be from %.15g to %.15g", f->min_real, f->max_real);
    if (slot != NULL)
        *(double *)slot = value;
    return OK;
}

static err decode_bool(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    if (j->type != JSON_BOOL)
        return report_type(d, at);
    if (slot != NULL)
        *(bool *)slot = j->boolean;
    return OK;
}

static err decode_time(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    i64 us;
    if (j->type != JSON_STR || !time_parse(json_str(j), &us))
        return report_type(d, at);
    if (slot != NULL)
        *(i64 *)slot = us;
    return OK;
}

static err keep_text(struct decoder *d, const struct json *j, void *slot)
{
    if (slot == NULL || d->bad > 0)
        return OK;
    str text = json_text(d->a, j);
    if (text.p == NULL)
        return ERR_MEMORY;
    *(str *)slot = text;
    return OK;
}

static err check_bytes(struct decoder *d, const struct place *at, const struct json *j)
{
    i64 max = field_bounds(at->f).max;
    if (d->stored || at->kind != at->f->kind || max == INT64_MAX || (i64)json_size(j) <= max)
        return OK;
    return report(d, at->path, "field.size", "must be at most %lld bytes of JSON", (long long)max);
}

static err decode_json(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    TRY(check_bytes(d, at, j));
    return keep_text(d, j, slot);
}

/* ---- containers ---- */

static err decode_struct(struct decoder *d, const struct place *at, const struct table *t, const struct json *j,
                         void **slot)
{
    void *row = NULL;
    if (j->type != JSON_OBJECT)
        return report_type(d, at);
    if (slot != NULL && (row = arena_alloc(d->a, t->size)) == NULL)
        return ERR_MEMORY;
    if (slot != NULL)
        *slot = row;
    return decode_object(d, t, at->mode, j, at->path, row);
}

static err decode_nested(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    TRY(check_bytes(d, at, j));
    return decode_struct(d, at, field_of(at->f), j, slot);
}

static err check_count(struct decoder *d, const struct place *at, u32 n)
{
    struct field_bounds b = field_bounds(at->f);
    const char *noun = at->kind == F_LIST ? " items" : " members";
    return d->stored || ((i64)n >= b.min && (i64)n <= b.max)
               ? OK
               : report_bounds(d, at->path, "field.count", b, "have", noun);
}

static err repeated(struct decoder *d, const struct place *at, u32 i)
{
    const struct path here = { .up = at->path, .index = i };
    return report(d, &here, "field.repeated", "is in the list already");
}

/* Compared as text beyond a few, so that the time stays linear. */
static err check_unique(struct decoder *d, const struct place *at, const struct json *j)
{
    struct map seen = { .arena = d->a };
    for (u32 i = 0; i < j->n; i++) {
        bool twice = false;
        for (u32 k = 0; j->n <= PAIRWISE_MAX && k < i; k++)
            twice |= json_equal(&j->items[k], &j->items[i]);
        if (j->n > PAIRWISE_MAX) {
            str text = json_text(d->a, &j->items[i]);
            if (text.p == NULL)
                return ERR_MEMORY;
            twice = map_get(&seen, text) != NULL;
            TRY(map_put(&seen, text, &seen));
        }
        if (twice)
            TRY(repeated(d, at, i));
    }
    return OK;
}

/* One element of a list or map. Lists and maps are replaced whole: a patch ends above them. */
static err decode_element(struct decoder *d, const struct field_element *e, const struct path *path,
                          const struct json *j, void *slot)
{
    const struct place at = { e->f, e->kind, FIELD_CREATE, path };
    bool null = j->type == JSON_NULL && e->kind != F_JSON;
    if (null && e->kind == e->f->kind && (e->f->flags & F_NULLABLE) != 0)
        return OK; /* stays as zeroed memory is */
    if (null)
        return report(d, path, "field.null", "must not be null");
    if (e->row == NULL || j->type != JSON_OBJECT)
        return decode_value(d, &at, j, slot);
    return decode_object(d, e->row, FIELD_CREATE, j, path, slot);
}

static err decode_list(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    if (j->type != JSON_ARRAY)
        return report_type(d, at);
    u32 before = d->bad;
    TRY(check_count(d, at, j->n));
    if (d->bad != before) /* too many are not looked at one by one */
        return OK;
    const struct field_element e = field_element(at->f);
    char *items = slot != NULL ? arena_array(d->a, j->n, e.size) : NULL;
    if (slot != NULL && items == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < j->n; i++) {
        const struct path here = { .up = at->path, .index = i };
        TRY(decode_element(d, &e, &here, &j->items[i], items != NULL ? items + i * e.size : NULL));
    }
    if (slot != NULL)
        *(struct list *)slot = (struct list){ items, j->n };
    return (at->f->flags & F_UNIQUE) != 0 && d->bad == before && !d->stored ? check_unique(d, at, j) : OK;
}

static err check_key(struct decoder *d, const struct path *path, str key)
{
    bool ok =
        key.n > 0 && key.n <= FIELD_KEY_MAX * 4 && str_utf8_len(key) <= FIELD_KEY_MAX && str_find_char(key, 0, 0) < 0;
    return ok || d->stored
               ? OK
               : report(d, path, "field.key", "must have a name of 1 to %d characters without NUL", FIELD_KEY_MAX);
}

static err decode_entry(struct decoder *d, const struct place *at, const struct json_member *m, struct map_item *item)
{
    const struct field_element e = field_element(at->f);
    const struct path here = { .up = at->path, .key = shown(m->key) };
    const struct path whole = { .up = at->path, .key = m->key };
    u32 before = d->bad;
    TRY(check_key(d, &here, m->key));
    if (d->bad != before)
        return OK;
    if (item != NULL) {
        *item = (struct map_item){ m->key, arena_alloc(d->a, e.size) };
        if (item->value == NULL)
            return ERR_MEMORY;
    }
    return decode_element(d, &e, &whole, &m->value, item != NULL ? item->value : NULL);
}

static err decode_map(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    if (j->type != JSON_OBJECT)
        return report_type(d, at);
    u32 before = d->bad;
    TRY(check_count(d, at, j->n));
    if (d->bad != before)
        return OK;
    struct map_item *items = slot != NULL ? NEW_N(d->a, struct map_item, j->n) : NULL;
    if (slot != NULL && items == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < j->n; i++)
        TRY(decode_entry(d, at, &j->members[i], items != NULL ? &items[i] : NULL));
    if (slot != NULL)
        *(struct list *)slot = (struct list){ items, j->n };
    return OK;
}

/* Reached only through decode_variant, which knows the sibling. */
static err decode_as(struct decoder *d, const struct place *at, const struct table *as, const struct json *j,
                     void *slot)
{
    struct variant *v = (at->f->flags & F_TEXT) == 0 ? slot : NULL;
    TRY(check_bytes(d, at, j));
    TRY(decode_struct(d, at, as, j, v != NULL ? &v->p : NULL));
    if (v != NULL)
        v->as = as;
    return v == NULL ? keep_text(d, j, slot) : OK;
}

static err decode_value(struct decoder *d, const struct place *at, const struct json *j, void *slot)
{
    static err (*const decoders[])(struct decoder *, const struct place *, const struct json *, void *) = {
        [F_STR] = decode_str,       [F_I64] = decode_i64,   [F_F64] = decode_f64,
        [F_BOOL] = decode_bool,     [F_TIME] = decode_time, [F_JSON] = decode_json,
        [F_OBJECT] = decode_nested, [F_LIST] = decode_list, [F_MAP] = decode_map,
    };
    bool text = (at->f->flags & F_TEXT) != 0 && at->kind == at->f->kind;
    if (at->kind != F_STR && !d->evaluated && field_is_template(at->f, j)) {
        struct place as_text = *at;
        as_text.kind = F_STR;
        TRY(check_text(d, &as_text, json_str(j)));
        return keep_text(d, j, field_is_text(at->f) ? slot : NULL);
    }
    assert(at->kind < COUNT(decoders)); /* field_table_check() allows variants as members only */
    TRY(decoders[at->kind](d, at, j, text ? NULL : slot));
    return text ? keep_text(d, j, slot) : OK;
}

/* ---- members ---- */

struct object {
    const struct table *t;
    enum field_mode mode;
    const struct json *j;
    const struct path *path;
    void *row;     /* NULL: check only */
    u64 seen, bad; /* by index: given; given and wrong */
};

static void mark(struct object *o, u32 i, bool null)
{
    struct presence *has = o->row;
    if (has == NULL)
        return;
    has->present |= (u64)1 << i;
    has->null |= (u64)null << i;
}

static bool name_is(const char *name, str key)
{
    return strncmp(name, key.p, key.n) == 0 && name[key.n] == 0;
}

/* Clients mostly send members in the order of the table, so the search begins behind the last hit. */
static int find_field(const struct table *t, str key, u32 *hint)
{
    for (u32 k = 0, i = *hint; k < t->count; k++, i++) {
        i = i >= t->count ? 0 : i;
        if (name_is(t->fields[i].name, key) && (t->fields[i].flags & F_HIDDEN) == 0) {
            *hint = i + 1;
            return (int)i;
        }
    }
    return -1;
}

/* A patch reaches into a nested object that is a struct; text is replaced whole, so it must be whole. */
static enum field_mode inner_mode(const struct field *f, enum field_mode mode)
{
    return f->kind == F_OBJECT && (f->flags & F_TEXT) == 0 ? mode : FIELD_CREATE;
}

static err decode_member(struct decoder *d, struct object *o, u32 i, const struct path *path, const struct json *j)
{
    const struct field *f = &o->t->fields[i];
    struct place at = { f, f->kind, inner_mode(f, o->mode), path };
    u32 before = d->bad;
    bool null = j->type == JSON_NULL && ((f->flags & F_NULLABLE) != 0 || d->stored);
    if (null)
        mark(o, i, true);
    else if (j->type == JSON_NULL && f->kind != F_JSON)
        TRY(report(d, path, "field.null", "must not be null"));
    else if (f->kind != F_VARIANT) {
        TRY(decode_value(d, &at, j, o->row != NULL ? (char *)o->row + f->offset : NULL));
        mark(o, i, false);
    }
    if (d->bad != before)
        o->bad |= (u64)1 << i;
    return OK;
}

static err take_member(struct decoder *d, struct object *o, const struct json_member *m, u32 *hint)
{
    const struct path here = { .up = o->path, .key = m->key };
    int i = find_field(o->t, m->key, hint);
    if (i < 0) {
        const struct path cut = { .up = o->path, .key = shown(m->key) };
        str name = cut.key;
        return o->t->open || d->stored ? OK
                                       : report(d, &cut, "field.unknown", "\"%.*s\" is not known here", STR_FMT(name));
    }
    if ((o->t->fields[i].flags & F_OUTPUT) != 0 && !d->stored)
        return report(d, &here, "field.read_only", "is set by the server");
    o->seen |= (u64)1 << i;
    return decode_member(d, o, (u32)i, &here, &m->value);
}

static err apply_preset(struct decoder *d, struct object *o, u32 i)
{
    struct json *preset;
    const struct field *f = &o->t->fields[i];
    const struct path here = { .up = o->path, .key = str_of(f->name) };
    if (o->row == NULL || f->kind == F_VARIANT)
        return OK;
    err e = json_parse(d->a, str_of(f->preset), &preset, NULL);
    assert(e != ERR_DECODE); /* field_table_check() refuses such a table */
    TRY(e);
    return decode_member(d, o, i, &here, preset);
}

static err without_member(struct decoder *d, struct object *o, u32 i)
{
    const struct field *f = &o->t->fields[i];
    const struct path here = { .up = o->path, .key = str_of(f->name) };
    if (o->mode == FIELD_PATCH || d->stored || (f->flags & (F_OUTPUT | F_HIDDEN)) != 0)
        return OK;
    if (f->preset != NULL)
        return apply_preset(d, o, i);
    bool needed = (f->flags & F_REQUIRED) != 0 && !(d->evaluated && (f->flags & F_WRITTEN) != 0);
    return needed ? report(d, &here, "field.required", "must be given") : OK;
}

/* The sibling's text: as given, or its preset. */
static err chosen_by(struct decoder *d, const struct object *o, int sibling, str *value)
{
    const struct field *f = &o->t->fields[sibling];
    struct json *preset;
    *value = json_str(json_get(o->j, str_of(f->name)));
    if (value->p != NULL || f->preset == NULL || o->mode == FIELD_PATCH || (o->seen >> sibling & 1) != 0)
        return OK;
    TRY(json_parse(d->a, str_of(f->preset), &preset, NULL));
    *value = json_str(preset);
    return OK;
}

static err unchosen(struct decoder *d, const struct object *o, const struct field *f, int sibling, str value)
{
    const struct path here = { .up = o->path, .key = str_of(f->name) };
    const struct path there = { .up = o->path, .key = str_of(f->by) };
    if ((o->bad >> sibling & 1) != 0) /* reported already */
        return OK;
    if (value.p == NULL)
        return report(d, &here, "field.variant", "needs \"%s\" beside it", f->by);
    str name = shown(value);
    return report(d, &there, "field.one_of", "\"%.*s\" is not known here", STR_FMT(name));
}

/* After all other members: the sibling that chooses may stand behind. */
static err decode_variant(struct decoder *d, struct object *o, u32 i)
{
    const struct field *f = &o->t->fields[i];
    const struct json *j = json_get(o->j, str_of(f->name));
    const struct path here = { .up = o->path, .key = str_of(f->name) };
    struct place at = { f, F_VARIANT, FIELD_CREATE, &here };
    int sibling = field_index(o->t, str_of(f->by));
    str value;
    if (j->type == JSON_NULL)
        return OK;
    void *slot = o->row != NULL ? (char *)o->row + f->offset : NULL;
    mark(o, i, false);
    if (!d->evaluated && field_is_template(f, j))
        return decode_value(d, &at, j, slot);
    TRY(chosen_by(d, o, sibling, &value));
    const struct table *as = field_variant(f, value);
    if (as == NULL)
        return unchosen(d, o, f, sibling, value);
    return decode_as(d, &at, as, j, slot);
}

static err check_table(struct decoder *d, const struct object *o)
{
    if (o->t->check == NULL || d->stored)
        return OK;
    str pointer = pointer_of(d->a, o->path);
    if (pointer.p == NULL)
        return ERR_MEMORY;
    err e = o->t->check(o->j, pointer, d->problems);
    d->bad += e == ERR_INVALID;
    return e == ERR_INVALID ? OK : e;
}

static err decode_object(struct decoder *d, const struct table *t, enum field_mode mode, const struct json *j,
                         const struct path *path, void *row)
{
    struct object o = { .t = t, .mode = mode, .j = j, .path = path, .row = t->size != 0 ? row : NULL };
    u32 before = d->bad, hint = 0;
    for (u32 i = 0; i < j->n; i++)
        TRY(take_member(d, &o, &j->members[i], &hint));
    for (u32 i = 0; i < t->count; i++) {
        if ((o.seen >> i & 1) == 0)
            TRY(without_member(d, &o, i));
        else if (t->fields[i].kind == F_VARIANT)
            TRY(decode_variant(d, &o, i));
    }
    return d->bad == before ? check_table(d, &o) : OK; /* a rule over several members trusts each of them */
}

/* ---- the ways in ---- */

static err finish(const struct table *t, void *out, err e, u32 bad)
{
    if (e == OK && bad == 0)
        return OK;
    if (out != NULL)
        memset(out, 0, t->size); /* as it came */
    return e != OK ? e : ERR_INVALID;
}

err field_decode(struct arena *a, const struct table *t, enum field_mode mode, const struct json *object, str pointer,
                 void *out, struct problems *problems)
{
    struct decoder d = { .a = a, .problems = problems, .evaluated = mode == FIELD_EVALUATED };
    const struct path root = { .key = pointer.p != NULL ? pointer : S("") };
    if (problems->arena == NULL)
        problems->arena = a;
    err e = object->type == JSON_OBJECT ? decode_object(&d, t, mode, object, &root, out)
                                        : report(&d, &root, "field.type", "must be an object");
    return finish(t, out, e, d.bad);
}

/* A parameter as the JSON that a body would have; what does not fit stays text and is refused as such. */
static err query_value(struct arena *a, enum field_kind kind, str text, struct json *out)
{
    struct json *number;
    *out = json_of_str(text.p != NULL ? text : S(""));
    if (kind == F_BOOL && (str_eq(text, S("true")) || str_eq(text, S("false"))))
        *out = json_of_bool(text.n == 4);
    if (kind != F_I64 && kind != F_F64)
        return OK;
    err e = json_parse(a, text, &number, NULL);
    if (e == OK && (number->type == JSON_INT || number->type == JSON_REAL))
        *out = *number;
    return e == ERR_MEMORY ? e : OK;
}

static err query_list(struct arena *a, const struct field *f, str text, struct json *out)
{
    struct json item, list = { .type = JSON_ARRAY };
    for (str part; text.n > 0 && str_cut(&text, ',', &part);) {
        TRY(query_value(a, field_element(f).kind, part, &item));
        if (!json_add(a, &list, item))
            return ERR_MEMORY;
        if (text.p != NULL && text.n == 0 && !json_add(a, &list, json_of_str(S("")))) /* "a," has an empty second one */
            return ERR_MEMORY;
    }
    *out = list;
    return OK;
}

static err query_member(struct decoder *d, const struct table *t, const struct path *root, const struct pair *pair,
                        struct json *object, u64 *seen)
{
    struct json_member *m = &object->members[object->n];
    int i = field_index(t, pair->name);
    const struct path here = { .up = root, .key = shown(pair->name) };
    m->key = pair->name;
    m->value = json_of_str(pair->value);
    if (i >= 0) {
        if ((*seen >> i & 1) != 0)
            return report(d, &here, "field.repeated", "is given more than once");
        *seen |= (u64)1 << i;
        const struct field *f = &t->fields[i];
        TRY(f->kind == F_LIST ? query_list(d->a, f, pair->value, &m->value)
                              : query_value(d->a, f->kind, pair->value, &m->value));
    }
    object->n++;
    return OK;
}

static err query_object(struct decoder *d, const struct table *t, const struct path *root, const struct pair *pairs,
                        size_t count, struct json *object)
{
    u64 seen = 0;
    *object = (struct json){ .type = JSON_OBJECT, .members = NEW_N(d->a, struct json_member, count) };
    if (object->members == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        TRY(query_member(d, t, root, &pairs[i], object, &seen));
    return OK;
}

err field_decode_query(struct arena *a, const struct table *t, const struct pair *pairs, size_t count, void *out,
                       struct problems *problems)
{
    struct decoder d = { .a = a, .problems = problems };
    const struct path root = { .key = S("query") };
    struct json object;
    if (problems->arena == NULL)
        problems->arena = a;
    TRY(query_object(&d, t, &root, pairs, count, &object));
    err e = decode_object(&d, t, FIELD_CREATE, &object, &root, out);
    return finish(t, out, e, d.bad);
}

/* ---- columns ---- */

/* A number that a driver hands over as text. */
static err number_cell(struct arena *a, str text, struct cell *out)
{
    struct json *number;
    if (str_eq(text, S("t")) || str_eq(text, S("f"))) { /* PostgreSQL's booleans */
        *out = (struct cell){ .type = CELL_I64, .integer = text.p[0] == 't' };
        return OK;
    }
    err e = json_parse(a, text, &number, NULL);
    if (e == ERR_DECODE || (e == OK && number->type != JSON_INT && number->type != JSON_REAL))
        return ERR_INTERNAL;
    TRY(e);
    *out = number->type == JSON_INT ? (struct cell){ .type = CELL_I64, .integer = number->integer }
                                    : (struct cell){ .type = CELL_F64, .real = number->real };
    return OK;
}

static err store_number(struct arena *a, const struct field *f, struct cell cell, void *slot)
{
    if (cell.type == CELL_STR)
        TRY(number_cell(a, cell.text, &cell));
    if (f->kind == F_F64) {
        *(double *)slot = cell.type == CELL_F64 ? cell.real : (double)cell.integer;
        return OK;
    }
    if (cell.type != CELL_I64)
        return ERR_INTERNAL;
    if (f->kind == F_BOOL)
        *(bool *)slot = cell.integer != 0;
    else
        *(i64 *)slot = cell.integer;
    return OK;
}

static err store_text(struct arena *a, struct cell cell, str *slot)
{
    if (cell.type != CELL_STR)
        return ERR_INTERNAL;
    str text = str_dup(a, cell.text);
    if (text.p == NULL)
        return ERR_MEMORY;
    *slot = text;
    return OK;
}

/* A list, map or object that is kept as JSON in its column. */
static err store_container(struct arena *a, const struct field *f, struct cell cell, void *slot)
{
    struct problems unlisted = { .arena = a, .n = PROBLEMS_MAX };
    struct decoder d = { .a = a, .problems = &unlisted, .stored = true };
    const struct path root = { .key = S("") };
    const struct place at = { f, f->kind, FIELD_CREATE, &root };
    struct json *j;
    str text = STR_NONE;
    if (f->kind == F_VARIANT) /* its sibling is another column: declare it F_TEXT */
        return ERR_INTERNAL;
    TRY(store_text(a, cell, &text));
    err e = json_parse(a, text, &j, NULL);
    if (e == ERR_DECODE)
        return ERR_INTERNAL;
    TRY(e);
    TRY(decode_value(&d, &at, j, slot));
    return d.bad == 0 ? OK : ERR_INTERNAL;
}

static err store_cell(struct arena *a, const struct field *f, struct cell cell, void *slot)
{
    if (f->kind == F_STR || field_is_text(f))
        return store_text(a, cell, slot);
    if (f->kind == F_OBJECT || f->kind == F_LIST || f->kind == F_MAP || f->kind == F_VARIANT)
        return store_container(a, f, cell, slot);
    return store_number(a, f, cell, slot);
}

err field_from_cell(struct arena *a, const struct table *t, u32 index, struct cell cell, void *row)
{
    if (index >= t->count || t->size == 0)
        return ERR_INTERNAL;
    struct presence *has = row;
    u64 bit = (u64)1 << index;
    if (cell.type != CELL_NULL)
        TRY(store_cell(a, &t->fields[index], cell, (char *)row + t->fields[index].offset));
    has->present |= bit;
    has->null = cell.type == CELL_NULL ? has->null | bit : has->null & ~bit;
    return OK;
}
