/* list.c - the answer of a list: at most `limit` rows, and a Link to the next page when there is one; and which rows, in which order.
 *
 * The link repeats the request's own query but for where to continue, so filters survive paging. A cursor of a sorted list is "<id>~<value>": the place
 * in the order, not the row, so that a row which changed or went away in between loses nobody their place. */
#include "core/list.h"
#include "codec/url.h"
#include "core/pipeline.h"

#include <string.h>

enum { LINK_MAX = 16 << 10 };

static const struct field count_fields[] = { FIELD(struct list_count, n, F_I64, .doc = "How many") };
const struct table list_count_table = TABLE("ListCount", struct list_count, count_fields, .doc = "A number of rows");

/* -- what is asked ------------------------------------------------------------------------------------------------- */

struct filter_values {
    struct presence has;
    union {
        str text;
        i64 integer;
        double real;
        bool flag;
    } list[LIST_FILTERS_MAX];
};

static int filter_index(const struct lister *l, str name)
{
    for (u32 i = 0; i < l->filter_count; i++)
        if (str_eq(name, str_of(l->filters[i])))
            return (int)i;
    return -1;
}

struct field list_filter(const struct lister *l, u32 i)
{
    struct field f = l->row->fields[field_index(l->row, str_of(l->filters[i]))];
    f.flags = 0;
    f.preset = NULL;
    f.offset = offsetof(struct filter_values, list) + i * sizeof(((struct filter_values *)NULL)->list[0]);
    return f;
}

static struct arg filter_arg(const struct field *f, const void *slot)
{
    if (f->kind == F_STR)
        return STR(*(const str *)slot);
    if (f->kind == F_BOOL)
        return BOOL(*(const bool *)slot);
    if (f->kind == F_F64)
        return F64(*(const double *)slot);
    return I64(*(const i64 *)slot);
}

/* Decoded by the row's own fields: what no row can hold is refused, not looked for. */
static err decode_filters(struct req *rq, const struct lister *l, const struct pair *pairs, size_t n)
{
    struct field fields[LIST_FILTERS_MAX];
    struct filter_values values = { 0 };
    for (u32 i = 0; i < l->filter_count; i++)
        fields[i] = list_filter(l, i);
    const struct table t = { .name = "Filters", .fields = fields, .count = l->filter_count, .size = sizeof values };
    TRY(field_decode_query(rq->arena, &t, pairs, n, &values, &rq->errors));
    for (u32 i = 0; i < l->filter_count; i++)
        if (values.has.present >> i & 1)
            rq->core->list.filters[i] = filter_arg(&fields[i], (const char *)&values + fields[i].offset);
    return OK;
}

static err decode_sort(struct req *rq, const struct lister *l, str value)
{
    bool up = !str_starts(value, S("-"));
    str name = str_slice(value, up ? 0 : 1, value.n);
    for (u32 i = 0; i < l->sort_count; i++)
        if (str_eq(name, str_of(l->sorts[i].name))) {
            rq->core->list.sort = i;
            rq->core->list.up = up;
            return OK;
        }
    struct buf b = { .arena = rq->arena };
    for (u32 i = 0; i < l->sort_count; i++)
        buf_f(&b, "%s%s", i > 0 ? ", " : "", l->sorts[i].name);
    return problems_add(&rq->errors, S("query/sort"), "field.one_of",
                        "must be one of %.*s, with - in front for falling order", STR_FMT(buf_view(&b)));
}

err list_take(struct req *rq, struct pair *pairs, size_t *count)
{
    const struct lister *l = rq->route->list;
    struct pair *mine = NEW_N(rq->arena, struct pair, *count);
    size_t n = 0, kept = 0, sorts = 0;
    err sort = OK;
    if (mine == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < *count; i++)
        if (str_eq(pairs[i].name, S("sort")))
            sort = sorts++ > 0 ? problems_add(&rq->errors, S("query/sort"), "field.repeated", "is given more than once")
                               : decode_sort(rq, l, pairs[i].value);
        else if (filter_index(l, pairs[i].name) >= 0)
            mine[n++] = pairs[i];
        else
            pairs[kept++] = pairs[i];
    *count = kept;
    err filters = n > 0 ? decode_filters(rq, l, mine, n) : OK;
    return sort == OK || filters == ERR_MEMORY ? filters : sort;
}

/* -- rows ---------------------------------------------------------------------------------------------------------- */

static const struct field *sort_field(const struct lister *l, u32 sort)
{
    return &l->row->fields[field_index(l->row, str_of(l->sorts[sort].name))];
}

static err bad_cursor(struct req *rq)
{
    return problem_at(rq, &problem_body_invalid, S("query/cursor"), "field.format",
                      "must be one that a Link header gave for this order");
}

/* "<id>" where ids are the order, else "<id>~<value>". */
static err cursor_args(struct req *rq, const struct lister *l, str cursor, struct arg out[2], u32 *n)
{
    u32 sort = rq->core->list.sort;
    const struct field *f = sort_field(l, sort);
    str value = cursor, id = STR_NONE;
    i64 number;
    *n = 1;
    out[0] = STR(cursor);
    if (sort == 0)
        return OK;
    if (!str_cut(&value, '~', &id) || id.n + 1 > cursor.n)
        return bad_cursor(rq);
    *n = 2;
    out[1] = STR(id);
    out[0] = STR(value);
    if (f->kind == F_STR)
        return OK;
    if (!str_i64(value, INT64_MIN, INT64_MAX, &number))
        return bad_cursor(rq);
    out[0] = I64(number);
    return OK;
}

static void put(struct arg *list, u32 *n, const struct arg *more, u32 count)
{
    assert(*n + count <= LIST_ARGS_MAX); /* modules_check has counted them */
    if (count > 0)                       /* a list of the whole platform has no arguments of its own */
        memcpy(list + *n, more, count * sizeof *more);
    *n += count;
}

err list_read(struct req *rq, const struct page *page, struct args own, void **rows, u32 *n, i64 *total)
{
    const struct lister *l = rq->route->list;
    const struct list_choice *choice = &rq->core->list;
    struct arg list[LIST_ARGS_MAX], behind[2], bounds[] = { list_limit(page), I64(page->skip) };
    struct list_count count = { .n = -1 };
    u32 filtered, used = 0, behind_n = 0;
    put(list, &used, own.list, own.n);
    put(list, &used, choice->filters, l->filter_count);
    filtered = used;
    if (page->cursor.p != NULL)
        TRY(cursor_args(rq, l, page->cursor, behind, &behind_n));
    put(list, &used, bounds, COUNT(bounds));
    put(list, &used, behind, behind_n);
    const struct stmt *s = l->sorts[choice->sort].pages[!choice->up][behind_n > 0];
    TRY(db_list(rq->tx, s, (u32)page->limit + 1, rows, n, (struct args){ list, used }));
    if (page->count)
        TRY(db_row(rq->tx, l->count, &count, (struct args){ list, filtered }));
    *total = count.n;
    return OK;
}

/* -- the answer ---------------------------------------------------------------------------------------------------- */

static bool continues(str pair)
{
    return str_eq(pair, S("skip")) || str_eq(pair, S("cursor")) || str_starts(pair, S("skip=")) ||
           str_starts(pair, S("cursor="));
}

static str next_link(struct req *rq, const char *name, str value)
{
    struct buf b = { .arena = rq->arena, .max = LINK_MAX };
    buf_char(&b, '<');
    buf_str(&b, rq->http->path);
    buf_char(&b, '?');
    for (str rest = rq->http->query, pair; str_cut(&rest, '&', &pair);)
        if (pair.n > 0 && !continues(pair)) {
            buf_str(&b, pair);
            buf_char(&b, '&');
        }
    buf_f(&b, "%s=", name);
    url_put_encoded(&b, value);
    BUF_LIT(&b, ">; rel=\"next\"");
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

static void link_next(struct req *rq, const void *last, const struct page *page, size_t key_of)
{
    str link;
    if (key_of == LIST_BY_SKIP) {
        link = next_link(rq, "skip", strf(rq->arena, "%lld", (long long)(page->skip + page->limit)));
    } else {
        str key;
        memcpy(&key, (const char *)last + key_of, sizeof key);
        link = next_link(rq, "cursor", key);
    }
    if (link.p != NULL)
        reply_header(rq, "Link", link);
}

static void set_rows(struct req *rq, const struct table *t, const void *rows, u32 shown, i64 total, size_t cut)
{
    rq->answer.status = 200;
    rq->answer.table = t;
    rq->answer.row = rows;
    rq->answer.count = shown;
    rq->answer.list = true;
    rq->answer.cut = cut;
    if (total >= 0)
        reply_header(rq, "X-Total-Count", strf(rq->arena, "%lld", (long long)total));
}

err reply_list(struct req *rq, const struct table *t, const void *rows, u32 n, const struct page *page, size_t key_of,
               i64 total, size_t cut)
{
    u32 shown = (u32)MIN((i64)n, page->limit);
    set_rows(rq, t, rows, shown, total, cut);
    if (n > shown && shown > 0)
        link_next(rq, (const char *)rows + (shown - 1) * t->size, page, key_of);
    return OK;
}

static str cursor_of(struct req *rq, const struct lister *l, const void *row)
{
    const struct field *f = sort_field(l, rq->core->list.sort), *key = sort_field(l, 0);
    str id, value;
    i64 number;
    memcpy(&id, (const char *)row + key->offset, sizeof id);
    if (f == key)
        return id;
    if (f->kind == F_STR) {
        memcpy(&value, (const char *)row + f->offset, sizeof value);
        return strf(rq->arena, "%.*s~%.*s", STR_FMT(id), STR_FMT(value));
    }
    memcpy(&number, (const char *)row + f->offset, sizeof number);
    return strf(rq->arena, "%.*s~%lld", STR_FMT(id), (long long)number);
}

err list_reply(struct req *rq, const void *rows, u32 n, const struct page *page, i64 total, size_t cut)
{
    const struct lister *l = rq->route->list;
    u32 shown = (u32)MIN((i64)n, page->limit);
    set_rows(rq, l->row, rows, shown, total, cut);
    if (n <= shown || shown == 0)
        return OK;
    str cursor = cursor_of(rq, l, (const char *)rows + (shown - 1) * l->row->size);
    str link = cursor.p != NULL ? next_link(rq, "cursor", cursor) : STR_NONE;
    if (link.p == NULL)
        return ERR_MEMORY;
    reply_header(rq, "Link", link);
    return OK;
}
