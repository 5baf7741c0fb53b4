/* route.c - the trie of paths: one node per segment, static segments before parameters, built once from `modules`.
 *
 * A path is cut at '/' before anything is decoded, so %2F stays inside its segment; "//", "." and ".." are not normalised and
 * lead nowhere: two spellings of one object would be two keys for every cache and proxy in front. */
#include "core/pipeline.h"

#include <string.h>

enum { PARAMS_MAX = 6 };

struct node {
    str segment;
    struct node *children, *next; /* static ones, and the next of the same parent */
    struct node *param;
    struct endpoint *ends[HTTP_METHODS];
    u32 allowed; /* bit 1 << method */
};

/* Written by routes_build before the threads start, constant afterwards. */
static struct node *root;

str route_param_name(const struct route *r, u32 i)
{
    str path = str_of(r->path);
    i64 open = -1;
    for (u32 k = 0; k <= i; k++)
        if ((open = str_find_char(path, '{', (size_t)(open + 1))) < 0)
            return STR_NONE;
    i64 close = str_find_char(path, '}', (size_t)open);
    return close < 0 ? STR_NONE : str_slice(path, (size_t)open + 1, (size_t)close);
}

/* Not where the handler takes any parameter for its own, nor where other bytes than rows go out. */
bool route_masks(const struct route *r)
{
    bool own_query = r->query != NULL && r->query->open;
    return r->method == GET && r->out != NULL && r->produces == NULL && !own_query && r->work != W_STREAM &&
           !(r->flags & (R_ANY_METHOD | R_TEXT));
}

bool route_changes(const struct route *r)
{
    bool may = r->work == W_WAIT || r->work == W_SLOW;
    return r->work == W_WRITE || (may && (r->method != GET || r->flags & R_RAW_BODY));
}

/* Takes "/segment" off the front. False at the end of the path, which a single trailing slash also is. */
static bool cut_segment(str *rest, str *segment)
{
    if (rest->n <= 1)
        return false;
    i64 slash = str_find_char(*rest, '/', 1);
    size_t end = slash < 0 ? rest->n : (size_t)slash;
    *segment = str_slice(*rest, 1, end);
    *rest = str_slice(*rest, end, rest->n);
    return true;
}

static struct node *child_of(const struct node *n, str segment)
{
    struct node *c = n->children;
    while (c != NULL && !str_eq(c->segment, segment))
        c = c->next;
    return c;
}

/* -- matching ------------------------------------------------------------------------------------------------------ */

static err match(struct arena *a, const struct node *n, str rest, str *params, u32 depth, const struct node **out);

static bool may_be_param(str raw)
{
    return raw.n > 0 && !str_eq(raw, S(".")) && !str_eq(raw, S(".."));
}

static err match_segment(struct arena *a, const struct node *n, str raw, str rest, str *params, u32 depth,
                         const struct node **out)
{
    str segment = raw;
    if (memchr(raw.p, '%', raw.n) != NULL)
        TRY(url_decode(a, raw, &segment));
    const struct node *child = child_of(n, segment);
    if (child != NULL)
        TRY(match(a, child, rest, params, depth, out));
    if (*out != NULL || n->param == NULL || !may_be_param(raw))
        return OK;
    params[depth] = segment;
    return match(a, n->param, rest, params, depth + 1, out);
}

/* Leaves *out NULL when nothing is there. Tries the static child first and falls back to the parameter; routes are few levels deep, so is this. */
static err match(struct arena *a, const struct node *n, str rest, str *params, u32 depth, const struct node **out)
{
    str segment;
    if (cut_segment(&rest, &segment))
        return match_segment(a, n, segment, rest, params, depth, out);
    if (n->allowed != 0)
        *out = n;
    return OK;
}

err route_lookup(struct arena *a, enum http_method method, str path, struct endpoint **out, str params[6], u32 *allowed)
{
    const struct node *n = NULL;
    if (path.n > 0 && path.p[0] == '/')
        TRY(match(a, root, path, params, 0, &n));
    *allowed = n != NULL ? n->allowed : 0;
    *out = n != NULL ? n->ends[method == HEAD ? GET : method] : NULL;
    return OK;
}

err route_find(struct arena *a, enum http_method method, str path, const struct route **out, str params[6],
               u32 *allowed)
{
    struct endpoint *e;
    TRY(route_lookup(a, method, path, &e, params, allowed));
    *out = e != NULL ? e->route : NULL;
    return OK;
}

static bool alias_of(const struct alias *al, str path, str *rest)
{
    str from = str_of(al->from);
    if (str_ends(path, S("/")) && !str_ends(from, S("/")))
        path = str_slice(path, 0, path.n - 1);
    bool whole = !str_ends(from, S("/"));
    *rest = str_slice(path, from.n, path.n);
    return whole ? str_eq(path, from) : str_starts(path, from);
}

err route_alias(struct arena *a, str path, str *out)
{
    str rest;
    *out = STR_NONE;
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->alias_count; i++)
            if (alias_of(&(*m)->aliases[i], path, &rest)) {
                *out = strf(a, "%s%.*s", (*m)->aliases[i].to, STR_FMT(rest));
                return out->p != NULL ? OK : ERR_MEMORY;
            }
    return OK;
}

/* -- building ------------------------------------------------------------------------------------------------------ */

static err child_make(struct arena *a, struct node *n, str segment, struct node **out)
{
    bool param = segment.n > 0 && segment.p[0] == '{';
    struct node *c = param ? n->param : child_of(n, segment);
    if (c == NULL) {
        if ((c = NEW(a, struct node)) == NULL)
            return ERR_MEMORY;
        c->segment = segment;
        if (param) {
            n->param = c;
        } else {
            c->next = n->children;
            n->children = c;
        }
    }
    *out = c;
    return OK;
}

static err end_add(struct arena *a, struct node *n, const struct module *m, const struct route *r,
                   enum http_method method)
{
    if (n->ends[method] != NULL)
        return ERR_CONFLICT;
    struct endpoint *e = NEW(a, struct endpoint);
    if (e == NULL)
        return ERR_MEMORY;
    e->route = r;
    e->module = m;
    e->method = method;
    n->ends[method] = e;
    n->allowed |= 1u << method | 1u << OPTIONS | (method == GET ? 1u << HEAD : 0);
    return OK;
}

static err route_add(struct arena *a, struct node *top, const struct module *m, const struct route *r)
{
    static const enum http_method every[] = { GET, POST, PUT, PATCH, DELETE };
    struct node *n = top;
    for (str rest = str_of(r->path), segment; cut_segment(&rest, &segment);)
        TRY(child_make(a, n, segment, &n));
    if (!(r->flags & R_ANY_METHOD))
        return end_add(a, n, m, r, r->method);
    for (size_t i = 0; i < COUNT(every); i++)
        TRY(end_add(a, n, m, r, every[i]));
    return OK;
}

err routes_build(void)
{
    struct node *top = NEW(app.arena, struct node);
    if (top == NULL)
        return ERR_MEMORY;
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->route_count; i++)
            TRY(route_add(app.arena, top, *m, &(*m)->routes[i]));
    root = top;
    return OK;
}
