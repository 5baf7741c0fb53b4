/* expr_compile.c - templates, paths and conditions: from the JSON of a definition to a tree that expr_eval.c walks.
 *
 * The end of a template is found by reading Lua's tokens, not by searching for "}}": strings, comments and table constructors may
 * hold braces. Whether the code between is Lua is for Lua to say; every piece, paths too, is compiled once here and thrown away. */
#include "engine/expr_internal.h"

#include <stdatomic.h>
#include <string.h>

const char *const expr_root_names[ROOT_COUNT] = {
    [ROOT_INPUT] = "input",       [ROOT_STEPS] = "steps", [ROOT_TRIGGER] = "trigger", [ROOT_EXECUTION] = "execution",
    [ROOT_WORKFLOW] = "workflow", [ROOT_ITEM] = "item",   [ROOT_VARS] = "vars",       [ROOT_ARGS] = "args",
};

struct compiler {
    struct arena *arena;
    struct problems *problems;
    struct machine *bare;
    enum expr_use use;
    bool failed;
};

/* The one global: ids must differ between plans that machines of other threads have cached. */
static atomic_uint_fast64_t last_id;

int expr_root_of(str name)
{
    for (int i = 0; i < ROOT_COUNT; i++)
        if (str_eq(name, str_of(expr_root_names[i])))
            return i;
    return -1;
}

/* ASCII only: Lua's names are, and the C library's classes follow the locale. */
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* ---- reading Lua's tokens */

struct scan {
    const char *p, *end;
    u32 line;
    bool in_template;
    int braces, nest; /* open `{`; open brackets of any kind */
    bool any;         /* a token was seen */
    bool list;        /* `,` or `;` outside of brackets: more than one expression */
    bool function;    /* the word was seen */
    bool noisy;       /* may change a table */
    const char *complaint;
};

/* Length of the opening long bracket at p ("[[", "[==["), 0 when there is none. */
static size_t long_open(const char *p, const char *end)
{
    const char *q = p + 1;
    while (q < end && *q == '=')
        q++;
    return *p == '[' && q < end && *q == '[' ? (size_t)(q - p) + 1 : 0;
}

static void count_lines(struct scan *s, const char *to)
{
    for (; s->p < to; s->p++)
        s->line += *s->p == '\n';
}

/* At an opening long bracket of n bytes: moves behind the closing one. */
static void scan_long(struct scan *s, size_t n)
{
    for (const char *q = s->p + n; q + n <= s->end; q++) {
        if (*q == ']' && q[n - 1] == ']' && memcmp(q + 1, s->p + 1, n - 2) == 0) {
            count_lines(s, q + n);
            return;
        }
    }
    s->complaint = "a long string or comment is not closed";
}

/* `\z` and an escaped line end let a string go on behind blanks; whether it then was one is for Lua to say. */
static const char *skip_escape(const char *q, const char *end)
{
    q++;
    if (q < end && (*q == 'z' || *q == '\n' || *q == '\r'))
        while (q + 1 < end && is_blank(q[1]))
            q++;
    return q;
}

static void scan_quoted(struct scan *s)
{
    for (const char *q = s->p + 1; q < s->end && *q != '\n'; q++) {
        if (*q == '\\') {
            q = skip_escape(q, s->end);
        } else if (*q == *s->p) {
            count_lines(s, q + 1);
            return;
        }
    }
    s->complaint = "a string is not closed";
}

/* In a template a line comment ends at "}}" too: "{{ a -- b }}" would otherwise have no end. */
static void scan_comment(struct scan *s)
{
    s->p += 2;
    size_t n = s->p < s->end ? long_open(s->p, s->end) : 0;
    if (n > 0) {
        scan_long(s, n);
        return;
    }
    while (s->p < s->end && *s->p != '\n' && !(s->in_template && s->end - s->p > 1 && s->p[0] == '}' && s->p[1] == '}'))
        s->p++;
}

/* `_ENV` is refused as a word: it has no use here, and keeping it out leaves a class of parser bugs of Lua 5.4.4 unreachable.
 * Noisy are the words without which an expression (which has no assignment of its own) changes nothing. */
static void scan_word(struct scan *s)
{
    const char *from = s->p;
    while (s->p < s->end && is_name(*s->p))
        s->p++;
    str word = { from, (size_t)(s->p - from) };
    s->function |= str_eq(word, S("function"));
    s->noisy |= s->function || str_eq(word, S("table")) || str_eq(word, S("json"));
    if (str_eq(word, S("_ENV")))
        s->complaint = "the name _ENV is not available";
}

static void scan_other(struct scan *s)
{
    char c = *s->p++;
    s->line += c == '\n';
    s->braces += (c == '{') - (c == '}');
    s->nest += (c == '{' || c == '(' || c == '[') - (c == '}' || c == ')' || c == ']');
    s->list |= (c == ',' || c == ';') && s->nest == 0 && !s->function;
}

/* One token, or one blank. */
static void scan_token(struct scan *s)
{
    const char *p = s->p;
    size_t left = (size_t)(s->end - p);
    bool blank = is_blank(*p);
    bool comment = left > 1 && p[0] == '-' && p[1] == '-';
    s->any |= !blank && !comment;
    if (comment)
        scan_comment(s);
    else if (*p == '"' || *p == '\'')
        scan_quoted(s);
    else if (is_name(*p))
        scan_word(s);
    else if (long_open(p, s->end) > 0)
        scan_long(s, long_open(p, s->end));
    else
        scan_other(s);
}

/* From the first byte of code to its end: the end of the text, or (in a template) the "}}" that belongs to it. */
static void scan_code(struct scan *s, bool in_template)
{
    s->in_template = in_template;
    while (s->complaint == NULL && s->p < s->end) {
        if (in_template && s->braces == 0 && *s->p == '}') {
            if (s->end - s->p < 2 || s->p[1] != '}')
                s->complaint = "a '}' without its '{'";
            return;
        }
        scan_token(s);
    }
    if (in_template && s->complaint == NULL)
        s->complaint = "'{{' is not closed";
}

/* ---- paths */

/* The part of the path at *p: `.name`, `["key"]` or `[1]`. Anything else, escapes too, is left to Lua. */
static bool path_link(str *rest, struct expr_link *out)
{
    str s = *rest;
    size_t n = 1;
    if (s.n > 1 && s.p[0] == '.') {
        while (n < s.n && is_name(s.p[n]))
            n++;
        *out = (struct expr_link){ .key = str_slice(s, 1, n) };
        *rest = str_slice(s, n, s.n);
        return n > 1 && !is_digit(s.p[1]);
    }
    i64 close = str_find_char(s, ']', 0);
    if (s.n < 3 || s.p[0] != '[' || close < 0)
        return false;
    *rest = str_slice(s, (size_t)close + 1, s.n);
    str in = str_slice(s, 1, (size_t)close);
    *out = (struct expr_link){ 0 };
    if (in.n >= 2 && (in.p[0] == '"' || in.p[0] == '\'') && in.p[in.n - 1] == in.p[0]) {
        out->key = str_slice(in, 1, in.n - 1);
        return str_find_char(out->key, in.p[0], 0) < 0 && str_find_char(out->key, '\\', 0) < 0 &&
               str_find_char(out->key, '\n', 0) < 0 && str_find_char(out->key, '\r', 0) < 0;
    }
    return in.n > 0 && is_digit(in.p[0]) && str_i64(in, 0, INT64_MAX, &out->index);
}

static u32 path_length(str source)
{
    u32 n = 1;
    for (size_t i = 0; i < source.n; i++)
        n += source.p[i] == '.' || source.p[i] == '[';
    return n;
}

/* Fills code->path when the source is nothing but a path from a name of the scope. */
static err path_parse(struct arena *a, struct expr_code *code)
{
    str rest = str_trim(code->source);
    size_t n = 0;
    while (n < rest.n && is_name(rest.p[n]))
        n++;
    int root = expr_root_of(str_slice(rest, 0, n));
    if (root < 0)
        return OK;
    struct expr_link *links = NEW_N(a, struct expr_link, path_length(rest));
    if (links == NULL)
        return ERR_MEMORY;
    links[0].index = root;
    u32 count = 1;
    rest = str_slice(rest, n, rest.n);
    while (rest.n > 0)
        if (!path_link(&rest, &links[count++]))
            return OK;
    code->path = links;
    code->links = count;
    return OK;
}

/* ---- one piece of code */

static err complain(struct compiler *c, str pointer, const char *code, u32 line, const char *text)
{
    c->failed = true;
    err e = problems_add(c->problems, pointer, code, "line %u: %s", line, text);
    return e == ERR_INVALID ? OK : e;
}

static err check_lua(struct compiler *c, const struct expr_code *code, str pointer)
{
    str complaint = STR_NONE;
    TRY(machine_check(c->bare, code, c->arena, &complaint));
    if (complaint.p == NULL)
        return OK;
    c->failed = true;
    err e = problems_add(c->problems, pointer, "expr.syntax", "%.*s", STR_FMT(complaint));
    return e == ERR_INVALID ? OK : e;
}

/* `s` has read the code; its line is that of the end, `line` that of the begin. */
static err compile_code(struct compiler *c, const struct scan *s, str source, u32 line, str pointer,
                        const struct expr_code **out)
{
    bool script = c->use == EXPR_SCRIPT;
    if (source.n > EXPR_CODE_BYTES)
        return complain(c, pointer, "expr.too_large", line, "more than 64 KiB of code");
    if (s->complaint != NULL)
        return complain(c, pointer, "expr.syntax", s->line, s->complaint);
    if (!script && (!s->any || s->list))
        return complain(c, pointer, "expr.syntax", line,
                        s->any ? "one expression is expected" : "the expression is empty");
    struct expr_code *code = NEW(c->arena, struct expr_code);
    if (code == NULL)
        return ERR_MEMORY;
    *code =
        (struct expr_code){ .id = atomic_fetch_add(&last_id, 1) + 1, .source = source, .line = line, .script = script };
    code->quiet = !script && !s->noisy;
    TRY(check_lua(c, code, pointer));
    if (!script)
        TRY(path_parse(c->arena, code));
    *out = code;
    return OK;
}

/* A whole string without braces around it. */
static err compile_bare(struct compiler *c, str text, str pointer, struct expr *out)
{
    struct scan s = { .p = text.p, .end = text.p + text.n, .line = 1 };
    if (text.n <= EXPR_CODE_BYTES)
        scan_code(&s, false);
    out->kind = EXPR_IS_CODE;
    return compile_code(c, &s, text, 1, pointer, &out->code);
}

/* ---- strings with templates */

static size_t count_open(str text)
{
    size_t n = 0;
    for (i64 at = str_find(text, S("{{"), 0); at >= 0; at = str_find(text, S("{{"), (size_t)at + 2))
        n++;
    return n;
}

/* The template that *s stands behind the "{{" of. Afterwards *s stands behind its "}}". */
static err compile_template(struct compiler *c, struct scan *s, str pointer, const struct expr_code **out)
{
    u32 line = s->line;
    const char *from = s->p;
    scan_code(s, true);
    str source = { from, (size_t)(s->p - from) };
    TRY(compile_code(c, s, source, line, pointer, out));
    s->p += s->complaint == NULL ? 2 : 0;
    return OK;
}

static struct scan scan_at(const struct scan *s, const char *p)
{
    struct scan next = { .p = s->p, .end = s->end, .line = s->line };
    count_lines(&next, p);
    return next;
}

/* Fills parts (room for two per "{{" and one more). Stops at the first template whose end is unknown. */
static err compile_parts(struct compiler *c, str text, str pointer, struct expr_part *parts, u32 *count)
{
    struct scan s = { .p = text.p, .end = text.p + text.n, .line = 1 };
    while (s.p < s.end && s.complaint == NULL) {
        size_t from = (size_t)(s.p - text.p);
        i64 open = str_find(text, S("{{"), from);
        size_t to = open < 0 ? text.n : (size_t)open;
        if (to > from)
            parts[(*count)++].literal = str_slice(text, from, to);
        if (open < 0)
            break;
        s = scan_at(&s, text.p + to + 2);
        struct expr_part *part = &parts[(*count)++];
        part->encode = c->use == EXPR_URL && to > 0;
        TRY(compile_template(c, &s, pointer, &part->code));
    }
    return OK;
}

static err compile_text(struct compiler *c, str text, str pointer, struct expr *out)
{
    size_t open = count_open(text);
    if (open > EXPR_TEMPLATES_MAX)
        return complain(c, pointer, "expr.too_large", 1, "more than 1,000 templates in one string");
    struct expr_part *parts = NEW_N(c->arena, struct expr_part, 2 * open + 1);
    if (parts == NULL)
        return ERR_MEMORY;
    u32 n = 0;
    TRY(compile_parts(c, text, pointer, parts, &n));
    *out = (struct expr){ .kind = EXPR_IS_TEXT, .parts = parts, .part_count = n };
    if (n == 1 && parts[0].literal.p == NULL)
        *out = (struct expr){ .kind = EXPR_IS_CODE, .code = parts[0].code };
    return OK;
}

/* Braces around the whole condition are taken off. Braces around a part of it would be table constructors in Lua, and always true;
 * nobody means that. */
static err compile_condition(struct compiler *c, str text, str pointer, struct expr *out)
{
    str s = str_trim(text);
    out->truth = true;
    if (!str_starts(s, S("{{")))
        return compile_bare(c, text, pointer, out);
    out->kind = EXPR_IS_CODE;
    struct scan scan = { .p = text.p, .end = s.p + s.n, .line = 1 };
    scan = scan_at(&scan, s.p + 2);
    TRY(compile_template(c, &scan, pointer, &out->code));
    if (scan.complaint == NULL && scan.p != scan.end)
        return complain(c, pointer, "expr.syntax", scan.line,
                        "a condition is one expression, with or without {{ }} around all of it");
    return OK;
}

/* ---- values */

static bool holds_template(const struct json *j)
{
    if (j->type == JSON_STR)
        return str_find(json_str(j), S("{{"), 0) >= 0;
    for (u32 i = 0; j->type == JSON_ARRAY && i < j->n; i++)
        if (holds_template(&j->items[i]))
            return true;
    for (u32 i = 0; j->type == JSON_OBJECT && i < j->n; i++)
        if (holds_template(&j->members[i].value))
            return true;
    return false;
}

static err compile_value(struct compiler *c, const struct json *j, str pointer, struct expr *out);

static err compile_children(struct compiler *c, const struct json *j, str pointer, struct expr *out)
{
    bool array = j->type == JSON_ARRAY;
    struct expr *children = NEW_N(c->arena, struct expr, j->n);
    if (children == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < j->n; i++) {
        const struct json *child = array ? &j->items[i] : &j->members[i].value;
        str at = pointer;
        if (holds_template(child)) { /* the others need no pointer */
            at = array ? json_pointer_index(c->arena, pointer, i)
                       : json_pointer_key(c->arena, pointer, j->members[i].key);
            if (at.p == NULL)
                return ERR_MEMORY;
        }
        TRY(compile_value(c, child, at, &children[i]));
    }
    *out = (struct expr){ .kind = array ? EXPR_IS_ARRAY : EXPR_IS_OBJECT, .value = j, .children = children };
    return OK;
}

static err compile_value(struct compiler *c, const struct json *j, str pointer, struct expr *out)
{
    *out = (struct expr){ .kind = EXPR_IS_CONSTANT, .value = j };
    if (!holds_template(j))
        return OK;
    return j->type == JSON_STR ? compile_text(c, json_str(j), pointer, out) : compile_children(c, j, pointer, out);
}

static err compile_use(struct compiler *c, const struct json *j, str pointer, struct expr *out)
{
    if (c->use == EXPR_VALUE || c->use == EXPR_URL)
        return compile_value(c, j, pointer, out);
    *out = (struct expr){ .kind = EXPR_IS_CONSTANT, .value = j };
    if (c->use == EXPR_CONDITION && j->type == JSON_BOOL)
        return OK;
    if (j->type != JSON_STR)
        return complain(c, pointer, "expr.syntax", 1, "a string of Lua is expected");
    return c->use == EXPR_CONDITION ? compile_condition(c, json_str(j), pointer, out)
                                    : compile_bare(c, json_str(j), pointer, out);
}

err expr_compile(struct arena *a, enum expr_use use, const struct json *value, str pointer, struct problems *problems,
                 const struct expr **out)
{
    struct expr *e = NEW(a, struct expr);
    struct machine *bare = machine_new_bare();
    struct compiler c = { .arena = a, .problems = problems, .bare = bare, .use = use };
    err result = e == NULL || bare == NULL ? ERR_MEMORY : compile_use(&c, value, pointer, e);
    machine_free(bare);
    TRY(result);
    if (c.failed)
        return ERR_INVALID;
    *out = e;
    return OK;
}

bool expr_is_constant(const struct expr *e)
{
    return e->kind == EXPR_IS_CONSTANT;
}
