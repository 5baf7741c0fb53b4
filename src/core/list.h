/* list.h - lists: bare arrays with limit, skip or cursor; Link rel=next; X-Total-Count on ?count=true.
 *
 * A list's query struct starts with presence, then `struct page page;`, and its field table with LIST_QUERY(struct …). Its SQL fetches one row more than
 * `limit` (list_limit) so that the reply knows whether there is a next page. */
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
