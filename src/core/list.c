/* list.c - the answer of a list: at most `limit` rows, and a Link to the next page when there is one.
 *
 * The link repeats the request's own query but for where to continue, so filters survive paging. */
#include "core/list.h"
#include "codec/url.h"

#include <string.h>

enum { LINK_MAX = 16 << 10 };

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

err reply_list(struct req *rq, const struct table *t, const void *rows, u32 n, const struct page *page, size_t key_of,
               i64 total, size_t cut)
{
    u32 shown = (u32)MIN((i64)n, page->limit);
    rq->answer.status = 200;
    rq->answer.table = t;
    rq->answer.row = rows;
    rq->answer.count = shown;
    rq->answer.list = true;
    rq->answer.cut = cut;
    if (n > shown && shown > 0)
        link_next(rq, (const char *)rows + (shown - 1) * t->size, page, key_of);
    if (total >= 0)
        reply_header(rq, "X-Total-Count", strf(rq->arena, "%lld", (long long)total));
    return OK;
}
