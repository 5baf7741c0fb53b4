/* module.c - the promises that features make by their tables, checked at start and in tests.
 *
 * Everything is collected before it is refused: whoever adds a feature sees all that is missing at once. A complaint stops the
 * start - a route without permission or a field without bound must never serve. */
#include "core/module.h"
#include "base/code.h"
#include "base/map.h"
#include "core/conditional.h"
#include "core/jobs.h"
#include "core/list.h"
#include "core/req.h"

#include <string.h>

enum { CHECK_ARENA = 16 << 20, PARAMS_MAX = 6 };

struct check {
    struct arena *arena;
    struct buf *out;
    struct map routes, tables, words;
    err fail;
};

#define COMPLAIN(c, ...) (buf_f((c)->out, __VA_ARGS__), buf_char((c)->out, '\n'), (c)->fail = ERR_INVALID)

/* [a-z] then [a-z0-9_-] */
static bool is_word(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        bool letter = s.p[i] >= 'a' && s.p[i] <= 'z';
        bool other = (s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '_' || s.p[i] == '-';
        if (!letter && (i == 0 || !other))
            return false;
    }
    return s.n > 0;
}

/* "word.verb" */
static bool is_dotted(const char *name)
{
    i64 dot = str_find_char(str_of(name), '.', 0);
    return dot > 0 && is_word(str_slice(str_of(name), 0, (size_t)dot)) &&
           is_word(str_slice(str_of(name), (size_t)dot + 1, strlen(name)));
}

/* True when the key was new. */
static bool first_of(struct check *c, struct map *m, str key, const void *value)
{
    if (map_get(m, key) != NULL)
        return false;
    if (map_put(m, key, (void *)(uintptr_t)value) != OK)
        COMPLAIN(c, "out of memory while checking");
    return true;
}

/* -- tables -------------------------------------------------------------------------------------------------------- */

static void check_table(struct check *c, const struct table *t);

/* Also those that only the elements of a list know. */
static void check_field_tables(struct check *c, const struct field *f)
{
    if (f == NULL)
        return;
    const struct variant_case *v = f->variants_late != NULL ? f->variants_late() : f->variants;
    check_table(c, f->of_late != NULL ? f->of_late() : f->of);
    for (; v != NULL && v->value != NULL; v++)
        check_table(c, v->as);
    check_field_tables(c, f->each);
}

/* Each once, by its address: tables nest and may refer to each other. */
static void check_table(struct check *c, const struct table *t)
{
    if (t == NULL || !first_of(c, &c->tables, (str){ (const char *)&t, sizeof t }, t))
        return;
    if (field_table_check(t, c->out) != OK)
        c->fail = ERR_INVALID;
    for (u32 i = 0; i < t->count; i++)
        check_field_tables(c, &t->fields[i]);
}

/* -- routes -------------------------------------------------------------------------------------------------------- */

static void check_params(struct check *c, const struct route *r)
{
    str names[PARAMS_MAX + 1];
    u32 n = 0;
    while (n <= PARAMS_MAX && (names[n] = route_param_name(r, n)).p != NULL) {
        if (!is_word(names[n]))
            COMPLAIN(c, "%s:%d: %s: a parameter has no proper name", r->file, r->line, r->path);
        for (u32 i = 0; i < n; i++)
            if (str_eq(names[i], names[n]))
                COMPLAIN(c, "%s:%d: %s: parameter {%.*s} twice", r->file, r->line, r->path, STR_FMT(names[n]));
        n++;
    }
    if (n > PARAMS_MAX)
        COMPLAIN(c, "%s:%d: %s: more than %d parameters", r->file, r->line, r->path, PARAMS_MAX);
}

/* "GET /a/{}": two routes clash when these are equal. */
static str shape_of(struct arena *a, const struct route *r, enum http_method method)
{
    struct buf b = { .arena = a };
    buf_f(&b, "%s ", http_method_name(method));
    bool inside = false;
    for (const char *p = r->path; *p != '\0'; p++) {
        if (*p == '}')
            inside = false;
        if (!inside)
            buf_char(&b, *p);
        if (*p == '{')
            inside = true;
    }
    return buf_view(&b);
}

static void check_clash(struct check *c, const struct route *r)
{
    static const enum http_method every[] = { GET, POST, PUT, PATCH, DELETE };
    for (size_t i = 0; i < COUNT(every); i++)
        if ((r->flags & R_ANY_METHOD || every[i] == r->method) &&
            !first_of(c, &c->routes, shape_of(c->arena, r, every[i]), r))
            COMPLAIN(c, "%s:%d: %s %s: another route has this method and path", r->file, r->line,
                     http_method_name(every[i]), r->path);
}

/* An example that the decoder refuses teaches people to fail. */
static void check_example(struct check *c, const struct route *r)
{
    if (r->example == NULL)
        return;
    struct arena_mark mark = arena_mark(c->arena);
    struct problems wrong = { .arena = c->arena };
    struct json_error where;
    struct json *json;
    enum field_mode mode = r->flags & R_PATCH ? FIELD_PATCH : FIELD_CREATE;
    if (r->in == NULL || json_parse(c->arena, str_of(r->example), &json, &where) != OK)
        COMPLAIN(c, "%s:%d: %s: the example is no JSON, or has no .in", r->file, r->line, r->path);
    else if (field_decode(c->arena, r->in, mode, json, S(""), NULL, &wrong) != OK)
        COMPLAIN(c, "%s:%d: %s: the example breaks .in: %.*s %s", r->file, r->line, r->path,
                 STR_FMT(wrong.n > 0 ? wrong.list[0].pointer : S("")), wrong.n > 0 ? wrong.list[0].code : "");
    arena_rewind(c->arena, mark);
}

/* -- lists --------------------------------------------------------------------------------------------------------- */

static bool has_sort(const struct lister *l, const char *name)
{
    for (u32 i = 0; i < l->sort_count; i++)
        if (strcmp(l->sorts[i].name, name) == 0)
            return true;
    return false;
}

static bool has_filter(const struct lister *l, const char *name)
{
    for (u32 i = 0; i < l->filter_count; i++)
        if (strcmp(l->filters[i], name) == 0)
            return true;
    return false;
}

/* A text that orders stands in the cursor, so it has to be short; null has no place in a row comparison. */
static bool may_order(const struct field *f)
{
    bool kind = f->kind == F_I64 || f->kind == F_TIME || (f->kind == F_STR && (f->max <= 120 || f->format != NULL));
    return kind && !(f->flags & (F_NULLABLE | F_HIDDEN | F_INPUT));
}

static bool may_filter(const struct field *f)
{
    return f->kind == F_STR || f->kind == F_I64 || f->kind == F_TIME || f->kind == F_F64 || f->kind == F_BOOL;
}

/* What the table promises the statements keep, and the other way round. */
static void check_lister(struct check *c, const struct route *r)
{
    const struct lister *l = r->list;
    if (l == NULL)
        return;
    if (l->row != r->out || !(r->flags & R_LIST) || r->query == NULL || l->count->row != &list_count_table ||
        l->filter_count > LIST_FILTERS_MAX || l->sort_count == 0)
        COMPLAIN(c, "%s:%d: %s: .list is of another table, without a query or a count, or has too many filters",
                 r->file, r->line, r->path);
    for (u32 i = 0; i < l->row->count; i++) {
        const struct field *f = &l->row->fields[i];
        bool first = l->sort_count > 0 && strcmp(l->sorts[0].name, f->name) == 0;
        if (((f->flags & F_SORT) != 0 || first) != has_sort(l, f->name) || ((f->flags & F_SORT) && !may_order(f)))
            COMPLAIN(c, "%s:%d: %s: sort=%s is promised and not kept, or cannot be", r->file, r->line, r->path,
                     f->name);
        if (((f->flags & F_FILTER) != 0) != has_filter(l, f->name) || ((f->flags & F_FILTER) && !may_filter(f)))
            COMPLAIN(c, "%s:%d: %s: the filter %s is promised and not kept, or cannot be", r->file, r->line, r->path,
                     f->name);
    }
}

/* A rule of a route's row: what must not be. */
struct rule {
    bool (*broken)(const struct route *r);
    const char *text;
};

static bool no_permission(const struct route *r)
{
    return r->need == NULL;
}
static bool no_handler(const struct route *r)
{
    return r->handle == NULL || r->handler_name == NULL;
}
static bool no_doc(const struct route *r)
{
    return r->doc == NULL || r->doc[0] == '\0';
}
static bool no_slash(const struct route *r)
{
    return r->path[0] != '/' || strstr(r->path, "//") != NULL;
}
static bool trailing_slash(const struct route *r)
{
    return strlen(r->path) > 1 && str_ends(str_of(r->path), S("/"));
}
static bool bad_method(const struct route *r)
{
    return r->method == HEAD || r->method == OPTIONS || r->method >= HTTP_OTHER;
}
static bool stray_prepare(const struct route *r)
{
    return r->prepare != NULL && r->work != W_WRITE;
}
static bool slow_nothing(const struct route *r)
{
    return (r->flags & (R_SLOW_PREPARE | R_SLOW_LONG | R_HASHES)) && r->prepare == NULL;
}
static bool patch_nothing(const struct route *r)
{
    return (r->flags & R_PATCH) && r->in == NULL;
}
static bool list_nothing(const struct route *r)
{
    return (r->flags & R_LIST) && r->out == NULL;
}
static bool admit_missing(const struct route *r)
{
    return (r->flags & R_ADMIT) && r->admit == NULL;
}
static bool text_untyped(const struct route *r)
{
    return (r->flags & R_TEXT || r->work == W_STREAM) && r->produces == NULL;
}
static bool get_with_body(const struct route *r)
{
    return r->method == GET && !(r->flags & R_ANY_METHOD) && r->in != NULL;
}
static bool storeless_write(const struct route *r)
{
    return (r->flags & R_NO_STORE) && r->work == W_WRITE;
}
static bool stray_etag(const struct route *r)
{
    return r->etag != NULL && ((r->method == POST && (r->work != W_WRITE || r->status != 200)) ||
                               r->flags & (R_LIST | R_ANY_METHOD | R_NO_STORE) || r->etag->row != &etag_table);
}
static bool stray_state(const struct route *r)
{
    return (r->flags & R_TELLS_STATE) && (r->etag == NULL || r->method != GET);
}
static bool stray_hot(const struct route *r)
{
    return r->hot != NULL && (r->method != GET || r->work != W_READ || r->need == NULL || r->need == &anyone ||
                              route_param_name(r, 0).p == NULL || r->produces != NULL ||
                              r->flags & (R_NO_STORE | R_SECRET | R_ANY_METHOD));
}
static bool need_nothing(const struct route *r)
{
    return (r->flags & R_NEED_MATCH) && (r->etag == NULL || r->work != W_WRITE);
}
static bool no_answer(const struct route *r)
{
    return r->out == NULL && r->produces == NULL && r->status != 204 && r->status != 202;
}
static bool no_status_doc(const struct route *r)
{
    for (const struct route_status *s = r->also; s != NULL && s->status != 0; s++)
        if (s->doc == NULL)
            return true;
    return false;
}

static const struct rule rules[] = {
    { no_permission, "has no permission (.need)" },
    { no_handler, "has no handler" },
    { no_doc, "has no .doc" },
    { no_slash, "the path does not begin with a single /" },
    { trailing_slash, "the path ends with /, which every route answers anyway" },
    { bad_method, "the method is not one of GET, POST, PUT, PATCH, DELETE" },
    { stray_prepare, ".prepare is only for W_WRITE" },
    { slow_nothing, "R_SLOW_PREPARE, R_SLOW_LONG or R_HASHES without .prepare" },
    { patch_nothing, "R_PATCH without .in" },
    { list_nothing, "R_LIST without .out" },
    { admit_missing, "R_ADMIT without .admit" },
    { text_untyped, "answers something else than JSON without .produces" },
    { get_with_body, "a GET takes no body (.in)" },
    { storeless_write, "W_WRITE with R_NO_STORE" },
    { stray_etag,
      ".etag is for GET, PUT, PATCH and DELETE of one object, and a POST that changes one (200), by a statement whose .row is etag_table" },
    { stray_state, "R_TELLS_STATE without .etag, or not on a GET" },
    { stray_hot, ".hot is for a W_READ GET of one object, with a permission, that answers JSON without secrets" },
    { need_nothing, "R_NEED_MATCH without .etag, or on a read" },
    { no_answer, "has neither .out nor .produces nor a status without body (202, 204)" },
    { no_status_doc, "an entry of .also has no .doc" },
};

static void check_route(struct check *c, const struct route *r)
{
    for (size_t i = 0; i < COUNT(rules); i++)
        if (rules[i].broken(r))
            COMPLAIN(c, "%s:%d: %s: %s", r->file, r->line, r->path, rules[i].text);
    check_params(c, r);
    check_lister(c, r);
    check_clash(c, r);
    check_example(c, r);
    check_table(c, r->in);
    check_table(c, r->out);
    check_table(c, r->query);
    for (const struct route_status *s = r->also; s != NULL && s->status != 0; s++)
        check_table(c, s->out);
}

/* -- names --------------------------------------------------------------------------------------------------------- */

static void check_module(struct check *c, const struct module *m)
{
    str word = str_of(m->name);
    if (!is_word(word) || !first_of(c, &c->words, word, m))
        COMPLAIN(c, "module %s: the name is no word, or there twice", m->name);
    if (m->doc == NULL || m->doc[0] == '\0')
        COMPLAIN(c, "module %s: has no .doc", m->name);
    for (u32 i = 0; i < m->route_count; i++)
        check_route(c, &m->routes[i]);
    for (u32 i = 0; i < m->job_count; i++)
        if (!is_dotted(m->jobs[i].name) || !str_starts(str_of(m->jobs[i].name), word) || m->jobs[i].name[word.n] != '.')
            COMPLAIN(c, "module %s: job %s is not named %s.<verb>", m->name, m->jobs[i].name, m->name);
}

static void check_permissions(struct check *c)
{
    struct map seen = { .arena = c->arena };
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    for (size_t i = 0; i < count; i++) {
        if (!is_dotted(all[i]->name))
            COMPLAIN(c, "permission %s: not of the form word.verb", all[i]->name);
        if (!first_of(c, &seen, str_of(all[i]->name), all[i]))
            COMPLAIN(c, "permission %s: defined twice", all[i]->name);
        if (all[i]->doc == NULL || all[i]->roles == 0)
            COMPLAIN(c, "permission %s: has no doc or no role", all[i]->name);
    }
}

/* A code may be defined in several places, but must mean the same in all of them. */
static void check_problems(struct check *c)
{
    struct map seen = { .arena = c->arena };
    size_t count;
    const struct problem *const *all = problems_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct problem *p = all[i], *other = map_get(&seen, str_of(p->code));
        if (!is_dotted(p->code))
            COMPLAIN(c, "problem %s: not of the form word.reason", p->code);
        if (p->class <= OK || p->class >= ERR_COUNT || p->title == NULL)
            COMPLAIN(c, "problem %s: has no class or no title", p->code);
        if (other != NULL && (other->class != p->class || !str_eq(str_of(other->title), str_of(p->title))))
            COMPLAIN(c, "problem %s: defined twice, differently", p->code);
        else if (other == NULL)
            first_of(c, &seen, str_of(p->code), p);
    }
}

/* Within one use a code stands once: two lists that explain it would explain it differently some day. */
static void check_codes(struct check *c)
{
    struct map seen[] = { [CODE_ENTRY] = { .arena = c->arena }, [CODE_FAILURE] = { .arena = c->arena } };
    size_t count;
    const struct code_list *const *all = code_lists(&count);
    for (size_t i = 0; i < count; i++)
        for (u32 k = 0; k < all[i]->n; k++) {
            const struct code *code = &all[i]->list[k];
            if (!is_dotted(code->code) || code->title == NULL || str_ends(str_of(code->title), S(".")))
                COMPLAIN(c, "%s:%d: code %s: not word.reason with a title", all[i]->file, all[i]->line, code->code);
            if (!first_of(c, &seen[all[i]->use], str_of(code->code), code))
                COMPLAIN(c, "%s:%d: code %s: listed twice", all[i]->file, all[i]->line, code->code);
        }
}

err modules_check(struct buf *complaint)
{
    struct arena *a = arena_new(CHECK_ARENA);
    if (a == NULL)
        return ERR_MEMORY;
    struct check c = { .arena = a, .out = complaint };
    c.routes.arena = c.tables.arena = c.words.arena = a;
    for (const struct module *const *m = modules; *m != NULL; m++)
        check_module(&c, *m);
    check_permissions(&c);
    check_problems(&c);
    check_codes(&c);
    arena_free(a);
    return c.fail;
}
