/* list.h - lists: bare arrays with limit, skip or cursor; Link rel=next; X-Total-Count on ?count=true.
 *
 * A list's query struct starts with presence, then `struct page page;`, and its field table with LIST_QUERY(struct …). Its SQL fetches one row more than
 * `limit` (list_limit) so that the reply knows whether there is a next page.
 *
 * Members with F_FILTER and F_SORT of the row's table become parameters (?name=…, ?sort=-created_at) when the route has a `.list`. Each order is four
 * statements, up and down, first page and next, so that each is prepared and its plan looked at when the server starts; filters are conditions that
 * do nothing when their parameter is NULL. Parameters stand in this order: those of the list itself ($1 is the tenant), the filters, limit, skip, then of
 * the row to continue behind its value and its id.
 *
 *     #define THINGS "SELECT id, name, … FROM things WHERE tenant_id = $1" LIST_FILTER("name", "$2")
 *     LIST_BY_ID(things, id, &thing_table, THINGS, "id", LIST_AFTER_2);
 *     LIST_BY(things, name, &thing_table, THINGS, "name", "id", LIST_AFTER_2);
 *     static const struct list_sort sorts[] = { LIST_SORT(things, id), LIST_SORT(things, name) };
 *     static const char *const filters[] = { "name" };
 *     static const struct lister things = { &thing_table, sorts, COUNT(sorts), filters, COUNT(filters), &things_count };
 */
#pragma once

#include "core/req.h"

#define LIST_QUERY(type)                                                                                       \
    FIELD_AS(type, "limit", page.limit, F_I64, .min = 1, .max = 100, .preset = "20", .doc = "Rows to return"), \
        FIELD_AS(type, "skip", page.skip, F_I64, .min = 0, .max = 1000000, .preset = "0",                      \
                 .doc = "Rows to leave out first"),                                                            \
        FIELD_AS(type, "cursor", page.cursor, F_STR, .max = 200,                                               \
                 .doc = "Continue after the row that the Link header named"),                                  \
        FIELD_AS(type, "count", page.count, F_BOOL, .preset = "false",                                         \
                 .doc = "Send the number of all rows as X-Total-Count")

/* A page holds no long values: what is longer than LIST_CUT becomes {"truncated": true, "size": …}, in SQL already, so that it is never read, and when
 * it is encoded, where bytes count instead of characters. For F_JSON and F_CUT members. */
enum { LIST_CUT = 8192 };
#define LIST_CUT_COLUMN(from, name)                                                                                \
    "CASE WHEN length(" from ") > 8192 THEN '{\"truncated\":true,\"size\":' || length(" from ") || '}' ELSE " from \
    " END AS " name

enum { LIST_FILTERS_MAX = 8, LIST_ARGS_MAX = 24 };

struct list_sort {
    const char *name;               /* the member; the first of a list is its id, and its default, newest first */
    const struct stmt *pages[2][2]; /* [down][continued] */
};
struct lister {
    const struct table *row;
    const struct list_sort *sorts;
    u32 sort_count;
    const char *const *filters; /* in the order of their parameters */
    u32 filter_count;
    const struct stmt *count; /* "… AS n" over the same parameters up to the filters; row = &list_count_table */
};

/* The comparison stands first: it tells PostgreSQL the parameter's type. */
#define LIST_FILTER(column, parameter) " AND (" column " = " parameter " OR " parameter " IS NULL)"
/* Limit, skip, value and id behind so many parameters. */
#define LIST_AFTER_2 "$3", "$4", "$5", "$6"
#define LIST_AFTER_3 "$4", "$5", "$6", "$7"
#define LIST_AFTER_4 "$5", "$6", "$7", "$8"
#define LIST_AFTER_5 "$6", "$7", "$8", "$9"
#define LIST_AFTER_6 "$7", "$8", "$9", "$10"

#define LIST_PAGE(id, row_, head, order, limit, skip, ...) \
    STMT(id, head " ORDER BY " order " LIMIT " limit " OFFSET " skip, .row = (row_), __VA_ARGS__)
#define LIST_BY_ID_(list, name, row_, head, key, limit, skip, value, id, ...)                              \
    LIST_PAGE(list##_##name##_up, row_, head, key, limit, skip, __VA_ARGS__);                              \
    LIST_PAGE(list##_##name##_down, row_, head, key " DESC", limit, skip, __VA_ARGS__);                    \
    LIST_PAGE(list##_##name##_up_next, row_, head " AND " key " > " value, key, limit, skip, __VA_ARGS__); \
    LIST_PAGE(list##_##name##_down_next, row_, head " AND " key " < " value, key " DESC", limit, skip, __VA_ARGS__)
#define LIST_BY_(list, name, row_, head, column, key, limit, skip, value, id, ...)                                     \
    LIST_PAGE(list##_##name##_up, row_, head, column ", " key, limit, skip, __VA_ARGS__);                              \
    LIST_PAGE(list##_##name##_down, row_, head, column " DESC, " key " DESC", limit, skip, __VA_ARGS__);               \
    LIST_PAGE(list##_##name##_up_next, row_, head " AND (" column ", " key ") > (" value ", " id ")", column ", " key, \
              limit, skip, __VA_ARGS__);                                                                               \
    LIST_PAGE(list##_##name##_down_next, row_, head " AND (" column ", " key ") < (" value ", " id ")",                \
              column " DESC, " key " DESC", limit, skip, __VA_ARGS__)
/* `parameters` is LIST_AFTER_n; what follows it are members of each statement (.scan_ok = true: few rows, sorted each time). */
#define LIST_BY_ID(list, name, row_, head, key, ...)      LIST_BY_ID_(list, name, row_, head, key, __VA_ARGS__)
#define LIST_BY(list, name, row_, head, column, key, ...) LIST_BY_(list, name, row_, head, column, key, __VA_ARGS__)
#define LIST_SORT(list, name_)                                      \
    {                                                               \
#name_,                                                     \
        {                                                           \
            { &list##_##name_##_up, &list##_##name_##_up_next },    \
            {                                                       \
                &list##_##name_##_down, &list##_##name_##_down_next \
            }                                                       \
        }                                                           \
    }

struct list_count {
    struct presence has;
    i64 n;
};
extern const struct table list_count_table;

/* What a request asks of its route's list; made by the pipeline. */
struct list_choice {
    u32 sort;
    bool up;
    struct arg filters[LIST_FILTERS_MAX];
};

/* The rows of a page, one more than the limit when there is one, by the order and the filters that were asked for; *total as count=true asks, else -1. `own`
 * are the arguments in front of the filters. 422 for a cursor of another order. */
err list_read(struct req *rq, const struct page *page, struct args own, void **rows, u32 *n, i64 *total) MUST;
/* reply_list for what list_read gave. */
err list_reply(struct req *rq, const void *rows, u32 n, const struct page *page, i64 total, size_t cut) MUST;

/* LIMIT argument: limit + 1. */
static inline struct arg list_limit(const struct page *p)
{
    return I64(p->limit + 1);
}
/* For newest-first keyset lists: the cursor, or a text above every id. */
static inline struct arg list_before(const struct page *p)
{
    return p->cursor.p != NULL ? STR(p->cursor) : STR(S("~"));
}
/* In place of a keyset key, for lists whose order has none: the next page is named by skip. */
#define LIST_BY_SKIP SIZE_MAX
/* Replies with at most limit of the n rows; when there is one more, Link names the next page: by the cursor `key_of` (offset of the str member that is the
 * keyset key, e.g. offsetof(struct row, id)). total < 0 = not counted. `cut` as in field_encode_cut. */
err reply_list(struct req *rq, const struct table *t, const void *rows, u32 n, const struct page *page, size_t key_of,
               i64 total, size_t cut) MUST;
