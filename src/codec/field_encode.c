/* field_encode.c - rows into JSON by the table; the published output schema (field_schema.c) describes exactly this.
 *
 * The rule both keep: every member but a sparse one is written. One without a value is null when it is F_NULLABLE or an object,
 * variant or JSON; otherwise it is its kind's zero ("", 0, false, 1970, [], {}), so that a client never meets a null it was not told of. */
#include "codec/field_impl.h"
#include "codec/time.h"

#include <string.h>

struct encoder {
    struct buf *b;
    size_t cut;
};

static void encode_row(const struct encoder *e, const struct table *t, const void *row, u64 mask);
static void encode_value(const struct encoder *e, const struct field *f, enum field_kind kind, const void *slot);

static void encode_json(const struct encoder *e, const struct field *f, const void *slot)
{
    str text = *(const str *)slot;
    bool may_cut = e->cut != 0 && (f->kind == F_JSON || (f->flags & F_CUT) != 0);
    if (text.n == 0)
        BUF_LIT(e->b, "null");
    else if (!may_cut || text.n <= e->cut)
        buf_str(e->b, text);
    else
        buf_f(e->b, "{\"truncated\":true,\"size\":%zu}", text.n);
}

static void encode_str(const struct encoder *e, const struct field *f, const void *slot)
{
    json_put_str(e->b, *(const str *)slot);
}

static void encode_i64(const struct encoder *e, const struct field *f, const void *slot)
{
    buf_i64(e->b, *(const i64 *)slot);
}

static void encode_f64(const struct encoder *e, const struct field *f, const void *slot)
{
    json_put_real(e->b, *(const double *)slot);
}

static void encode_bool(const struct encoder *e, const struct field *f, const void *slot)
{
    buf_str(e->b, *(const bool *)slot ? S("true") : S("false"));
}

static void encode_time(const struct encoder *e, const struct field *f, const void *slot)
{
    buf_char(e->b, '"');
    time_put(e->b, *(const i64 *)slot);
    buf_char(e->b, '"');
}

static void encode_struct(const struct encoder *e, const struct table *t, const void *row)
{
    if (row != NULL)
        encode_row(e, t, row, ~(u64)0);
    else
        BUF_LIT(e->b, "null");
}

static void encode_object(const struct encoder *e, const struct field *f, const void *slot)
{
    encode_struct(e, field_of(f), *(void *const *)slot);
}

static void encode_variant(const struct encoder *e, const struct field *f, const void *slot)
{
    const struct variant *v = slot;
    encode_struct(e, v->as, v->as != NULL ? v->p : NULL);
}

static void encode_element(const struct encoder *e, const struct field_element *of, const void *slot)
{
    bool own = of->kind == of->f->kind; /* described by .each */
    bool null = own && of->kind == F_STR && (of->f->flags & F_NULLABLE) != 0 && ((const str *)slot)->p == NULL;
    if (of->row != NULL)
        encode_struct(e, of->row, slot);
    else if (null || (own && field_is_text(of->f)))
        encode_json(e, of->f, slot);
    else
        encode_value(e, of->f, of->kind, slot);
}

static void encode_list(const struct encoder *e, const struct field *f, const void *slot)
{
    const struct list *list = slot;
    const struct field_element of = field_element(f);
    buf_char(e->b, '[');
    for (u32 i = 0; i < list->n; i++) {
        if (i > 0)
            buf_char(e->b, ',');
        encode_element(e, &of, (const char *)list->items + i * of.size);
    }
    buf_char(e->b, ']');
}

static void encode_map(const struct encoder *e, const struct field *f, const void *slot)
{
    const struct list *map = slot;
    const struct map_item *items = map->items;
    const struct field_element of = field_element(f);
    buf_char(e->b, '{');
    for (u32 i = 0; i < map->n; i++) {
        if (i > 0)
            buf_char(e->b, ',');
        json_put_str(e->b, items[i].key);
        buf_char(e->b, ':');
        encode_element(e, &of, items[i].value);
    }
    buf_char(e->b, '}');
}

static void encode_value(const struct encoder *e, const struct field *f, enum field_kind kind, const void *slot)
{
    static void (*const encoders[])(const struct encoder *, const struct field *, const void *) = {
        [F_STR] = encode_str,   [F_I64] = encode_i64,         [F_F64] = encode_f64,       [F_BOOL] = encode_bool,
        [F_TIME] = encode_time, [F_JSON] = encode_json,       [F_OBJECT] = encode_object, [F_LIST] = encode_list,
        [F_MAP] = encode_map,   [F_VARIANT] = encode_variant,
    };
    encoders[kind](e, f, slot);
}

/* What stands for "no value". */
static void encode_nothing(const struct encoder *e, const struct field *f)
{
    static const union {
        char bytes[32];
        void *align;
    } zero;
    bool container = f->kind == F_LIST || f->kind == F_MAP;
    if ((f->flags & F_NULLABLE) != 0 || (field_is_text(f) && !container))
        BUF_LIT(e->b, "null");
    else
        encode_value(e, f, f->kind, &zero);
}

static void encode_member(const struct encoder *e, const struct field *f, const char *row, bool has)
{
    if (!has)
        encode_nothing(e, f);
    else if (field_is_text(f))
        encode_json(e, f, row + f->offset);
    else
        encode_value(e, f, f->kind, row + f->offset);
}

static void encode_row(const struct encoder *e, const struct table *t, const void *row, u64 mask)
{
    const struct presence *state = row;
    u64 has = state->present & ~state->null;
    bool comma = false;
    buf_char(e->b, '{');
    for (u32 i = 0; i < t->count; i++) {
        const struct field *f = &t->fields[i];
        bool given = (has >> i & 1) != 0;
        bool null = (state->null >> i & 1) != 0 && (f->flags & F_NULLABLE) != 0;
        if ((mask >> i & 1) == 0 || (f->flags & (F_INPUT | F_HIDDEN)) != 0 ||
            (!given && !null && (f->flags & F_SPARSE) != 0))
            continue;
        buf_put(e->b, ",\"", comma ? 2 : 0);
        if (!comma)
            buf_char(e->b, '"');
        buf_put(e->b, f->name, strlen(f->name)); /* an identifier: nothing to escape */
        BUF_LIT(e->b, "\":");
        encode_member(e, f, row, given);
        comma = true;
    }
    buf_char(e->b, '}');
}

void field_encode_some(struct buf *b, const struct table *t, const void *row, size_t cut, u64 mask)
{
    const struct encoder e = { b, cut };
    encode_row(&e, t, row, mask);
}

void field_encode_cut(struct buf *b, const struct table *t, const void *row, size_t cut)
{
    field_encode_some(b, t, row, cut, ~(u64)0);
}

void field_encode(struct buf *b, const struct table *t, const void *row)
{
    field_encode_cut(b, t, row, 0);
}
