/* check_tenant.c - looks at the text of a statement: is each tenant table in it held to one tenant?
 *
 * SQLite's authorizer knows which tables a statement touches, not under which condition; so the text is read here, as far
 * as needed: names in FROM, the scopes that parentheses open, and comparisons of tenant_id. A comparison counts when every
 * row must pass it: in WHERE, or in the ON of a join that drops rows, joined to the rest by AND alone. What this reader does not
 * understand it reports; it guards against mistakes, not against an author who wants to get around it. */
#include "db/db_internal.h"

#include <string.h>

enum { TOKENS_MAX = 4096, SCOPES_MAX = 64, GROUPS_MAX = 512, REFS_MAX = 64, COMPARISONS_MAX = 128, DEPTH_MAX = 64 };

enum kind { KIND_END, KIND_WORD, KIND_QUOTED, KIND_PARAMETER, KIND_VALUE, KIND_SYMBOL };
struct token {
    enum kind kind;
    str text;  /* of a quoted name: without quotes */
    u32 match; /* of a parenthesis: its other half */
};

enum clause { CLAUSE_OTHER, CLAUSE_FROM, CLAUSE_WHERE, CLAUSE_ON };
enum join { JOIN_INNER, JOIN_LEFT, JOIN_OUTER };

/* One SELECT, UPDATE, DELETE or the INTO part of an INSERT. */
struct scope {
    u32 parent;
    bool into; /* its one reference is the target of an INSERT */
};
/* One clause, or a parenthesis in one. */
struct group {
    u32 parent;
    enum clause clause;
    enum join join;
    u32 newest; /* of ON: the reference that was joined */
    bool plain; /* reached by AND alone; so far for a clause itself */
};
struct ref {
    u32 scope;
    str table, alias;
    bool tenant;
    bool derived; /* a sub-select or CTE: its body is the scopes [from, to) */
    u32 from, to;
    bool renames; /* the body calls something else tenant_id */
    bool bound;
    /* of INTO: */
    bool lists_tenant, replaces, upserts, conflicts_by_tenant;
};
struct comparison {
    u32 scope, group;
    str left, right; /* qualifiers; STR_NONE = unqualified */
    bool parameter;  /* the right side is one */
};
/* Where the reader stands, per open parenthesis or CASE. */
struct level {
    u32 scope, group;
    u32 first; /* scope that a body began with */
    u32 into;  /* scope of the INSERT around a SELECT, + 1 */
    u32 cte;   /* reference that this parenthesis is the body of, + 1 */
    enum clause clause;
    enum join join; /* how the table that is read now is joined */
    bool expects_table, body;
    bool grouping, is_case; /* part of an expression: clauses do not begin in it */
};

struct reader {
    const struct tenant_check *check;
    struct token *tokens;
    u32 n, at;
    struct scope scopes[SCOPES_MAX];
    struct group groups[GROUPS_MAX];
    struct ref refs[REFS_MAX]; /* CTEs as well, in no scope */
    struct comparison comparisons[COMPARISONS_MAX];
    struct level levels[DEPTH_MAX];
    u32 scope_n, group_n, ref_n, comparison_n, level_n;
    bool too_much;
};
#define NO_SCOPE UINT32_MAX

/* ---- tokens ---- */

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (c & 0x80) != 0;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Behind blanks and comments. */
static size_t skip_blank(str sql, size_t i)
{
    for (;;) {
        i64 end = -1;
        if (i < sql.n && is_blank(sql.p[i]))
            end = (i64)i + 1;
        else if (str_starts(str_slice(sql, i, sql.n), S("--")))
            end = str_find_char(sql, '\n', i) >= 0 ? str_find_char(sql, '\n', i) : (i64)sql.n;
        else if (str_starts(str_slice(sql, i, sql.n), S("/*")))
            end = str_find(sql, S("*/"), i + 2) >= 0 ? str_find(sql, S("*/"), i + 2) + 2 : (i64)sql.n;
        if (end < 0)
            return i;
        i = (size_t)end;
    }
}

/* Behind the closing quote; a doubled one stands for itself. */
static size_t skip_quoted(str sql, size_t i)
{
    char quote = sql.p[i];
    for (i++; i < sql.n; i++) {
        if (sql.p[i] != quote)
            continue;
        if (i + 1 >= sql.n || sql.p[i + 1] != quote)
            return i + 1;
        i++;
    }
    return sql.n;
}

static size_t skip_name(str sql, size_t i)
{
    while (i < sql.n && is_name_char(sql.p[i]))
        i++;
    return i;
}

static size_t skip_symbol(str sql, size_t i)
{
    static const str longer[] = { S_INIT("->>"), S_INIT("->"), S_INIT("=="), S_INIT("<>"), S_INIT("!="),
                                  S_INIT("<="),  S_INIT(">="), S_INIT("||"), S_INIT("<<"), S_INIT(">>") };
    for (size_t k = 0; k < COUNT(longer); k++)
        if (str_starts(str_slice(sql, i, sql.n), longer[k]))
            return i + longer[k].n;
    return i + 1;
}

static struct token next_token(str sql, size_t *at)
{
    size_t i = *at = skip_blank(sql, *at);
    if (i >= sql.n)
        return (struct token){ .kind = KIND_END };
    char c = sql.p[i];
    enum kind kind = KIND_SYMBOL;
    size_t end;
    if (c == '\'' || c == '"') {
        kind = c == '"' ? KIND_QUOTED : KIND_VALUE;
        end = skip_quoted(sql, i);
        *at = end;
        return (struct token){ kind, str_slice(sql, i + 1, end - 1), 0 };
    }
    if (c == '$') {
        kind = KIND_PARAMETER;
        end = skip_name(sql, i + 1);
    } else if (is_name_char(c)) {
        kind = c >= '0' && c <= '9' ? KIND_VALUE : KIND_WORD;
        end = skip_name(sql, i);
    } else {
        end = skip_symbol(sql, i);
    }
    *at = end;
    return (struct token){ kind, str_slice(sql, i, end), 0 };
}

static bool is_symbol(const struct token *t, const char *symbol)
{
    return t->kind == KIND_SYMBOL && str_eq(t->text, str_of(symbol));
}

static bool is_word(const struct token *t, const char *word)
{
    return t->kind == KIND_WORD && str_eq_nocase(t->text, str_of(word));
}

static bool is_any(const struct token *t, const char *const *words)
{
    for (; *words != NULL; words++)
        if (is_word(t, *words))
            return true;
    return false;
}

static bool is_tenant_id(const struct token *t)
{
    return (t->kind == KIND_WORD || t->kind == KIND_QUOTED) && str_eq_nocase(t->text, S("tenant_id"));
}

/* Finds the other half of each parenthesis. False when they do not pair. */
static bool match_parentheses(struct token *tokens, u32 n)
{
    u32 open[DEPTH_MAX], depth = 0;
    for (u32 i = 0; i < n; i++) {
        if (is_symbol(&tokens[i], "(")) {
            if (depth == DEPTH_MAX)
                return false;
            open[depth++] = i;
        } else if (is_symbol(&tokens[i], ")")) {
            if (depth == 0)
                return false;
            tokens[i].match = open[--depth];
            tokens[open[depth]].match = i;
        }
    }
    return depth == 0;
}

static err tokenize(struct reader *r, str sql)
{
    r->tokens = NEW_N(r->check->arena, struct token, TOKENS_MAX + 2);
    if (r->tokens == NULL)
        return ERR_MEMORY;
    r->tokens++; /* one in front, so that looking back never leaves the array */
    for (size_t at = 0; r->n < TOKENS_MAX; r->n++) {
        r->tokens[r->n] = next_token(sql, &at);
        if (r->tokens[r->n].kind == KIND_END)
            return match_parentheses(r->tokens, r->n) ? OK : ERR_TOO_LARGE;
    }
    return ERR_TOO_LARGE;
}

/* ---- scopes, groups, references ---- */

static struct level *top(struct reader *r)
{
    return &r->levels[r->level_n - 1];
}

/* Index of a new element of a bounded list; the last one again, and `too_much`, when it is full. */
static u32 more(struct reader *r, u32 *n, u32 max)
{
    if (*n < max)
        return (*n)++;
    r->too_much = true;
    return max - 1;
}

static u32 scope_new(struct reader *r, u32 parent)
{
    u32 i = more(r, &r->scope_n, SCOPES_MAX);
    r->scopes[i] = (struct scope){ .parent = parent };
    return i;
}

static u32 group_new(struct reader *r, struct group group)
{
    u32 i = more(r, &r->group_n, GROUPS_MAX);
    r->groups[i] = group;
    return i;
}

static void clause_begin(struct reader *r, enum clause clause, enum join join)
{
    struct level *l = top(r);
    l->clause = clause;
    l->join = join;
    l->expects_table = clause == CLAUSE_FROM;
    bool filters = clause == CLAUSE_WHERE || clause == CLAUSE_ON;
    l->group = group_new(r, (struct group){ .parent = NO_SCOPE,
                                            .clause = clause,
                                            .join = join,
                                            .newest = r->ref_n > 0 ? r->ref_n - 1 : 0,
                                            .plain = filters });
}

static struct ref *ref_new(struct reader *r, u32 scope, str table, str alias)
{
    u32 i = more(r, &r->ref_n, REFS_MAX);
    r->refs[i] = (struct ref){ .scope = scope, .table = table, .alias = alias.p != NULL ? alias : table };
    return &r->refs[i];
}

static bool renames_tenant(const struct reader *r, u32 from, u32 to)
{
    for (u32 i = from; i + 1 < to; i++)
        if (is_word(&r->tokens[i], "AS") && is_tenant_id(&r->tokens[i + 1]))
            return true;
    return false;
}

/* The alias at `i`, if there is one; *i moves behind it. */
static str read_alias(const struct reader *r, u32 *i)
{
    static const char *const no_alias[] = { "JOIN",  "LEFT",   "RIGHT", "FULL",      "INNER",   "CROSS",     "NATURAL",
                                            "ON",    "USING",  "WHERE", "GROUP",     "ORDER",   "LIMIT",     "HAVING",
                                            "UNION", "EXCEPT", "SET",   "INTERSECT", "WINDOW",  "RETURNING", "VALUES",
                                            "NOT",   "SELECT", "WITH",  "INDEXED",   "DEFAULT", "FOR",       NULL };
    u32 at = *i + (is_word(&r->tokens[*i], "AS") ? 1 : 0);
    const struct token *t = &r->tokens[at];
    if (t->kind != KIND_QUOTED && (t->kind != KIND_WORD || is_any(t, no_alias)))
        return STR_NONE;
    *i = at + 1;
    return t->text;
}

/* A table (or table function) at the reader's place. */
static struct ref *read_table(struct reader *r)
{
    u32 i = r->at;
    if (is_symbol(&r->tokens[i + 1], ".")) /* main.name */
        i += 2;
    str name = r->tokens[i++].text;
    bool function = is_symbol(&r->tokens[i], "(") && !r->scopes[top(r)->scope].into;
    if (function)
        i = r->tokens[i].match + 1;
    str alias = read_alias(r, &i);
    struct ref *ref = ref_new(r, top(r)->scope, name, alias);
    ref->tenant = !function && names_have(r->check->tables, name);
    top(r)->expects_table = false;
    r->at = i;
    return ref;
}

/* ---- comparisons ---- */

/* tenant_id at `i`, with its qualifier: where it begins. */
static u32 operand_begin(const struct reader *r, u32 i, str *qualifier)
{
    bool qualified = is_symbol(&r->tokens[(i64)i - 1], ".");
    *qualifier = qualified ? r->tokens[i - 2].text : STR_NONE;
    return qualified ? i - 2 : i;
}

static bool begins_condition(const struct token *before)
{
    static const char *const words[] = { "WHERE", "ON", "AND", NULL };
    return is_any(before, words) || is_symbol(before, "(");
}

static bool ends_condition(const struct token *after)
{
    static const char *const words[] = { "AND",    "OR",        "GROUP", "ORDER",  "LIMIT",     "HAVING", "UNION",
                                         "EXCEPT", "INTERSECT", "WHERE", "WINDOW", "RETURNING", "JOIN",   "LEFT",
                                         "RIGHT",  "FULL",      "INNER", "CROSS",  "ON",        "FOR",    NULL };
    return after->kind == KIND_END || is_symbol(after, ")") || is_symbol(after, ",") || is_symbol(after, ";") ||
           is_any(after, words);
}

static bool is_equals(const struct token *t)
{
    return is_symbol(t, "=") || is_symbol(t, "==") || is_word(t, "IS");
}

static bool holds_parameter(const struct reader *r, u32 from, u32 to)
{
    for (u32 i = from; i < to; i++)
        if (r->tokens[i].kind == KIND_PARAMETER)
            return true;
    return false;
}

/* What stands right of tenant_id at `i`: fills the comparison and tells where it ends; 0 when it is none. */
static u32 read_right(const struct reader *r, u32 i, struct comparison *c)
{
    const struct token *t = r->tokens;
    if (is_word(&t[i + 1], "IN") && is_symbol(&t[i + 2], "(")) {
        c->parameter = holds_parameter(r, i + 3, t[i + 2].match);
        return c->parameter ? t[i + 2].match + 1 : 0;
    }
    if (!is_equals(&t[i + 1]))
        return 0;
    c->parameter = t[i + 2].kind == KIND_PARAMETER;
    if (c->parameter)
        return i + 3;
    u32 name = i + (t[i + 2].kind != KIND_END && is_symbol(&t[i + 3], ".") ? 4 : 2);
    if (!is_tenant_id(&t[name]))
        return 0;
    operand_begin(r, name, &c->right);
    return name + 1;
}

/* Notes `tenant_id = $n`, `$n = tenant_id`, `tenant_id IN (… $n …)` and `a.tenant_id = b.tenant_id`. */
static void read_comparison(struct reader *r)
{
    struct level *l = top(r);
    if (l->clause != CLAUSE_WHERE && l->clause != CLAUSE_ON)
        return;
    struct comparison c = { .scope = l->scope, .group = l->group };
    const struct token *t = r->tokens;
    u32 begin = operand_begin(r, r->at, &c.left);
    u32 end = read_right(r, r->at, &c);
    if (end == 0 && begin >= 2 && is_equals(&t[begin - 1]) && t[begin - 2].kind == KIND_PARAMETER) {
        c.parameter = true;
        begin -= 2;
        end = r->at + 1;
    }
    if (end == 0 || !begins_condition(&t[(i64)begin - 1]) || !ends_condition(&t[end]))
        return;
    r->comparisons[more(r, &r->comparison_n, COMPARISONS_MAX)] = c;
}

/* ---- the walk ---- */

/* The name of the CTE whose body opens at the parenthesis `i`; STR_NONE when none does. */
static str cte_name(const struct reader *r, u32 i)
{
    const struct token *t = r->tokens;
    u32 at = i;
    if (at > 0 && is_word(&t[at - 1], "MATERIALIZED"))
        at -= at > 1 && is_word(&t[at - 2], "NOT") ? 2 : 1;
    if (at < 2 || !is_word(&t[at - 1], "AS"))
        return STR_NONE;
    at -= 2;
    if (is_symbol(&t[at], ")")) /* its list of columns */
        at = t[at].match - 1;
    return t[at].text;
}

static bool opens_select(const struct token *t)
{
    static const char *const words[] = { "SELECT", "WITH", "VALUES", NULL };
    return is_any(t, words);
}

static void push(struct reader *r, struct level level)
{
    r->levels[more(r, &r->level_n, DEPTH_MAX)] = level;
}

static void open_body(struct reader *r)
{
    struct level *l = top(r);
    str name = l->expects_table ? STR_NONE : cte_name(r, r->at);
    u32 scope = scope_new(r, l->scope);
    struct level body = { .scope = scope, .first = scope, .body = true };
    if (name.p != NULL) {
        struct ref *cte = ref_new(r, NO_SCOPE, name, STR_NONE);
        cte->derived = true;
        cte->from = scope;
        cte->renames = renames_tenant(r, r->at, r->tokens[r->at].match);
        body.cte = r->ref_n;
    }
    push(r, body);
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
}

static void open_grouping(struct reader *r, bool plain)
{
    struct level *l = top(r);
    bool filters = l->clause == CLAUSE_WHERE || l->clause == CLAUSE_ON;
    push(r, (struct level){
                .scope = l->scope,
                .group = group_new(r, (struct group){ .parent = l->group, .plain = plain }),
                .clause = filters ? l->clause : CLAUSE_OTHER,
                .grouping = true,
            });
}

static void open_parenthesis(struct reader *r)
{
    struct level *l = top(r);
    if (opens_select(&r->tokens[r->at + 1])) {
        open_body(r);
    } else if (l->expects_table) { /* FROM (a JOIN b …) */
        l->expects_table = false;
        push(r, (struct level){ .scope = l->scope, .group = l->group, .clause = CLAUSE_FROM, .expects_table = true });
    } else {
        open_grouping(r, begins_condition(&r->tokens[(i64)r->at - 1]));
    }
    r->at++;
}

static void close_body(struct reader *r, const struct level *closed, u32 open)
{
    struct level *l = top(r);
    if (closed->cte != 0) {
        r->refs[closed->cte - 1].to = r->scope_n;
    } else if (l->expects_table) {
        struct ref *ref = ref_new(r, l->scope, STR_NONE, read_alias(r, &r->at));
        ref->derived = true;
        ref->from = closed->first;
        ref->to = r->scope_n;
        ref->renames = renames_tenant(r, open, r->tokens[open].match);
        l->expects_table = false;
    }
}

static void close_parenthesis(struct reader *r)
{
    struct level closed = *top(r);
    u32 open = r->tokens[r->at++].match;
    if (closed.is_case || r->level_n < 2) { /* a CASE without END: SQLite does not take it either */
        r->too_much = true;
        return;
    }
    r->level_n--;
    if (closed.body)
        close_body(r, &closed, open);
    if (closed.grouping && !ends_condition(&r->tokens[r->at]))
        r->groups[closed.group].plain = false;
}

static void read_case(struct reader *r)
{
    open_grouping(r, false);
    top(r)->is_case = true;
}

static void read_end(struct reader *r)
{
    if (top(r)->is_case)
        r->level_n--;
}

static void read_or(struct reader *r)
{
    r->groups[top(r)->group].plain = false;
}

static void read_select(struct reader *r)
{
    struct level *l = top(r);
    if (r->scopes[l->scope].into) /* INSERT INTO … SELECT: what it reads is not what it writes */
        l->scope = scope_new(r, r->scopes[l->scope].parent);
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
}

static void read_compound(struct reader *r)
{
    struct level *l = top(r);
    l->scope = scope_new(r, r->scopes[l->scope].parent);
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
}

static void read_other(struct reader *r)
{
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
}

static void read_where(struct reader *r)
{
    clause_begin(r, CLAUSE_WHERE, JOIN_INNER);
}

static void read_from(struct reader *r)
{
    if (!is_word(&r->tokens[(i64)r->at - 2], "DISTINCT")) /* IS DISTINCT FROM */
        clause_begin(r, CLAUSE_FROM, JOIN_INNER);
}

static void read_join(struct reader *r)
{
    static const char *const outer[] = { "RIGHT", "FULL", NULL };
    const struct token *before = &r->tokens[(i64)r->at - 2];
    if (is_word(before, "OUTER"))
        before--;
    clause_begin(r, CLAUSE_FROM, is_word(before, "LEFT") ? JOIN_LEFT : is_any(before, outer) ? JOIN_OUTER : JOIN_INNER);
}

static bool names_tenant_id(const struct reader *r, u32 open)
{
    for (u32 i = open + 1; i < r->tokens[open].match; i++)
        if (is_tenant_id(&r->tokens[i]))
            return true;
    return false;
}

static void read_into(struct reader *r)
{
    struct level *l = top(r);
    bool replaces = is_word(&r->tokens[(i64)r->at - 2], "REPLACE");
    l->scope = scope_new(r, l->scope);
    l->into = l->scope + 1;
    r->scopes[l->scope].into = true;
    struct ref *ref = read_table(r);
    ref->replaces = replaces;
    if (!is_symbol(&r->tokens[r->at], "("))
        return;
    ref->lists_tenant = names_tenant_id(r, r->at);
    r->at = r->tokens[r->at].match + 1;
}

/* The target of the INSERT around this place; NULL outside of one. */
static struct ref *into_ref(struct reader *r)
{
    for (u32 i = 0; i < r->ref_n; i++)
        if (top(r)->into != 0 && r->refs[i].scope == top(r)->into - 1)
            return &r->refs[i];
    return NULL;
}

static void read_on(struct reader *r)
{
    struct ref *into = into_ref(r);
    if (!is_word(&r->tokens[r->at], "CONFLICT")) {
        clause_begin(r, CLAUSE_ON, top(r)->join);
        return;
    }
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
    r->at++;
    if (into == NULL)
        return;
    top(r)->scope = into->scope;
    if (!is_symbol(&r->tokens[r->at], "("))
        return;
    into->conflicts_by_tenant = names_tenant_id(r, r->at);
    r->at = r->tokens[r->at].match + 1;
}

static void read_update(struct reader *r)
{
    struct ref *into = into_ref(r);
    if (is_word(&r->tokens[(i64)r->at - 2], "DO")) {
        if (into != NULL)
            into->upserts = true;
        clause_begin(r, CLAUSE_OTHER, JOIN_INNER); /* what the conflict's own WHERE compares is over */
        return;
    }
    if (is_word(&r->tokens[r->at], "OR"))
        r->at += 2;
    clause_begin(r, CLAUSE_FROM, JOIN_INNER);
}

static const struct keyword {
    const char *word;
    void (*read)(struct reader *r); /* stands behind the word */
    bool anywhere;                  /* also inside an expression */
} keywords[] = {
    { "SELECT", read_select, false },  { "VALUES", read_select, false },   { "FROM", read_from, false },
    { "JOIN", read_join, false },      { "ON", read_on, false },           { "WHERE", read_where, false },
    { "INTO", read_into, false },      { "UPDATE", read_update, false },   { "SET", read_other, false },
    { "GROUP", read_other, false },    { "HAVING", read_other, false },    { "ORDER", read_other, false },
    { "LIMIT", read_other, false },    { "WINDOW", read_other, false },    { "RETURNING", read_other, false },
    { "UNION", read_compound, false }, { "EXCEPT", read_compound, false }, { "INTERSECT", read_compound, false },
    { "CASE", read_case, true },       { "END", read_end, true },          { "OR", read_or, true },
};

static void read_word(struct reader *r)
{
    const struct token *t = &r->tokens[r->at];
    bool part = is_symbol(t - 1, ".");
    if (is_tenant_id(t))
        read_comparison(r);
    r->at++;
    for (size_t i = 0; i < COUNT(keywords) && !part; i++)
        if (is_word(t, keywords[i].word) && (keywords[i].anywhere || !top(r)->grouping)) {
            keywords[i].read(r);
            return;
        }
}

static void read_comma(struct reader *r)
{
    const struct level *l = top(r);
    r->at++;
    if (!l->grouping && (l->clause == CLAUSE_FROM || l->clause == CLAUSE_ON))
        clause_begin(r, CLAUSE_FROM, JOIN_INNER);
}

static void walk(struct reader *r)
{
    scope_new(r, NO_SCOPE);
    push(r, (struct level){ 0 });
    clause_begin(r, CLAUSE_OTHER, JOIN_INNER);
    while (r->tokens[r->at].kind != KIND_END && !r->too_much) {
        const struct token *t = &r->tokens[r->at];
        bool word = t->kind == KIND_WORD || t->kind == KIND_QUOTED;
        if (is_symbol(t, "("))
            open_parenthesis(r);
        else if (is_symbol(t, ")"))
            close_parenthesis(r);
        else if (is_symbol(t, ","))
            read_comma(r);
        else if (word && top(r)->expects_table && !opens_select(t))
            read_table(r);
        else if (word)
            read_word(r);
        else
            r->at++;
    }
}

/* ---- what the comparisons hold ---- */

enum { NONE = -1, EXCLUDED = -2 }; /* EXCLUDED: the row that was to be inserted, with our own tenant */

static int resolve_sole(const struct reader *r, u32 scope)
{
    int tenant = NONE, derived = NONE;
    u32 tenants = 0, deriveds = 0;
    for (u32 i = 0; i < r->ref_n; i++) {
        if (r->refs[i].scope != scope)
            continue;
        if (r->refs[i].tenant) {
            tenant = (int)i;
            tenants++;
        } else if (r->refs[i].derived) {
            derived = (int)i;
            deriveds++;
        }
    }
    return tenants == 1 ? tenant : tenants == 0 && deriveds == 1 ? derived : NONE;
}

static int resolve(const struct reader *r, u32 scope, str qualifier)
{
    if (qualifier.p == NULL)
        return resolve_sole(r, scope);
    if (r->scopes[scope].into && str_eq_nocase(qualifier, S("excluded")))
        return EXCLUDED;
    for (; scope != NO_SCOPE; scope = r->scopes[scope].parent)
        for (u32 i = 0; i < r->ref_n; i++)
            if (r->refs[i].scope == scope && str_eq_nocase(r->refs[i].alias, qualifier))
                return (int)i;
    return NONE;
}

/* The clause that the comparison stands in, when every row must pass it there; NULL otherwise. */
static const struct group *clause_of(const struct reader *r, const struct comparison *c)
{
    const struct group *g = &r->groups[c->group];
    for (; g->plain && g->parent != NO_SCOPE; g = &r->groups[g->parent])
        ;
    return g->plain ? g : NULL;
}

/* An ON drops no row of the side that an outer join keeps. */
static bool may_bind(const struct reader *r, const struct comparison *c, const struct group *clause, int ref)
{
    if (ref < 0 || r->refs[ref].scope != c->scope)
        return false;
    if (clause->clause == CLAUSE_WHERE || clause->join == JOIN_INNER)
        return true;
    return clause->join == JOIN_LEFT && (u32)ref == clause->newest;
}

static bool is_bound(const struct reader *r, int ref)
{
    return ref == EXCLUDED || (ref >= 0 && r->refs[ref].bound);
}

/* True when something became bound by it. */
static bool apply(struct reader *r, const struct comparison *c)
{
    const struct group *clause = clause_of(r, c);
    if (clause == NULL)
        return false;
    int left = resolve(r, c->scope, c->left);
    int right = c->parameter ? EXCLUDED : resolve(r, c->scope, c->right); /* a parameter is as good as bound */
    if (is_bound(r, left) == is_bound(r, right))
        return false;
    int free = is_bound(r, left) ? right : left;
    if (!may_bind(r, c, clause, free))
        return false;
    r->refs[free].bound = true;
    return true;
}

/* A sub-select hands on the tenant_id of a bound table inside; that *all* inside are bound is asked of each. */
static bool apply_derived(struct reader *r, struct ref *ref)
{
    if (!ref->derived || ref->renames || ref->bound)
        return false;
    for (u32 i = 0; i < r->ref_n; i++)
        if (r->refs[i].bound && r->refs[i].scope >= ref->from && r->refs[i].scope < ref->to)
            ref->bound = true;
    return ref->bound;
}

/* References to CTEs learn what they stand for. A CTE named as a tenant table stays suspect. */
static void link_ctes(struct reader *r)
{
    for (u32 i = 0; i < r->ref_n; i++)
        for (u32 k = 0; k < r->ref_n; k++) {
            const struct ref *cte = &r->refs[k];
            struct ref *ref = &r->refs[i];
            if (cte->scope != NO_SCOPE || ref->scope == NO_SCOPE || ref->tenant ||
                !str_eq_nocase(ref->table, cte->table))
                continue;
            ref->derived = true;
            ref->from = cte->from;
            ref->to = cte->to;
            ref->renames = cte->renames;
        }
}

static void bind_all(struct reader *r)
{
    link_ctes(r);
    for (bool changed = true; changed;) {
        changed = false;
        for (u32 i = 0; i < r->comparison_n; i++)
            changed |= apply(r, &r->comparisons[i]);
        for (u32 i = 0; i < r->ref_n; i++)
            changed |= apply_derived(r, &r->refs[i]);
    }
}

static const char *complaint_of(const struct reader *r, const struct ref *ref)
{
    if (!ref->tenant)
        return NULL;
    if (!r->scopes[ref->scope].into)
        return ref->bound ? NULL : "does not compare its tenant_id with a parameter in every row it reads or changes:";
    if (!ref->lists_tenant)
        return "inserts without a tenant_id:";
    if (ref->replaces)
        return "may replace another tenant's row:";
    if (ref->upserts && !ref->conflicts_by_tenant && !ref->bound)
        return "may update another tenant's row on conflict:";
    return NULL;
}

static bool is_seen(const struct reader *r, str table)
{
    for (u32 i = 0; i < r->ref_n; i++)
        if (r->refs[i].tenant && str_eq_nocase(r->refs[i].table, table))
            return true;
    return false;
}

static err read_text(const struct tenant_check *check, str sql, struct reader **out)
{
    struct reader *r = NEW(check->arena, struct reader);
    if (r == NULL)
        return ERR_MEMORY;
    r->check = check;
    TRY(tokenize(r, sql));
    walk(r);
    *out = r;
    return r->too_much ? ERR_TOO_LARGE : OK;
}

bool alias_of_table(struct arena *a, const struct names *tables, str sql, str alias)
{
    struct tenant_check check = { .arena = a, .tables = tables };
    struct reader *r;
    if (read_text(&check, sql, &r) != OK)
        return true; /* not known: the stricter answer */
    for (u32 i = 0; i < r->ref_n; i++)
        if (r->refs[i].tenant && str_eq_nocase(r->refs[i].alias, alias))
            return true;
    return false;
}

err tenant_check(const struct tenant_check *check, str sql)
{
    struct reader *r;
    TRY(read_text(check, sql, &r));
    bind_all(r);
    for (u32 i = 0; i < r->ref_n; i++) {
        const char *what = complaint_of(r, &r->refs[i]);
        if (what != NULL)
            check->complain(check->ctx, what, r->refs[i].alias);
    }
    for (u32 i = 0; i < check->touched->n; i++)
        if (!is_seen(r, check->touched->list[i]))
            check->complain(check->ctx,
                            "touches a tenant's table where the check cannot follow:", check->touched->list[i]);
    return OK;
}

err tables_of(struct arena *a, const struct names *tables, str sql, struct names *out)
{
    struct tenant_check check = { .arena = a, .tables = tables };
    struct reader *r;
    TRY(read_text(&check, sql, &r));
    for (u32 i = 0; i < r->ref_n; i++)
        if (r->refs[i].tenant)
            TRY(names_add(a, out, names_get(tables, r->refs[i].table)));
    return OK;
}

/* ---- the parameter that is the tenant ---- */

/* Read token by token, without memory: it is asked of every statement at each start. */
struct item {
    struct token first;
    u32 tokens;
};

/* The next item of a list in parentheses; false behind the last one. */
static bool next_item(str sql, size_t *at, struct item *out)
{
    *out = (struct item){ .tokens = 0 };
    for (u32 depth = 0;;) {
        struct token t = next_token(sql, at);
        bool ends = is_symbol(&t, ")") && depth == 0;
        if (t.kind == KIND_END || ends)
            return false;
        if (is_symbol(&t, ",") && depth == 0)
            return true;
        depth += is_symbol(&t, "(") ? 1 : 0;
        depth -= is_symbol(&t, ")") ? 1 : 0;
        if (out->tokens++ == 0)
            out->first = t;
    }
}

/* Which item of the list is a lone tenant_id, from 1; 0 when none is. */
static u32 tenant_item(str sql, size_t *at)
{
    u32 found = 0;
    bool more = true;
    for (u32 i = 1; more; i++) {
        struct item item;
        more = next_item(sql, at, &item);
        if (item.tokens == 1 && is_tenant_id(&item.first))
            found = i;
    }
    return found;
}

static u32 parameter_of(const struct token *t)
{
    i64 n = 0;
    return t->kind == KIND_PARAMETER && str_i64(str_slice(t->text, 1, t->text.n), 1, PARAMETERS_MAX, &n) ? (u32)n : 0;
}

/* Behind VALUES: the number of the parameter that is the wanted item of the first row. */
static u32 value_item(str sql, size_t at, u32 wanted)
{
    struct token t = next_token(sql, &at);
    struct item item = { .tokens = 0 };
    if (!is_symbol(&t, "("))
        return 0;
    for (u32 i = 0; i < wanted; i++)
        if (!next_item(sql, &at, &item) && i + 1 < wanted)
            return 0;
    return item.tokens == 1 ? parameter_of(&item.first) : 0;
}

u32 tenant_parameter(str sql)
{
    struct token before[4] = { { .kind = KIND_END } }, t; /* the last one first */
    u32 into = 0, found = 0;
    bool lists = false;   /* INTO <table> was read: a parenthesis lists its columns */
    bool assigns = false; /* between SET and WHERE `=` compares nothing */
    for (size_t at = 0; found == 0 && (t = next_token(sql, &at)).kind != KIND_END;) {
        if (is_symbol(&t, "(") && lists)
            into = tenant_item(sql, &at);
        else if (is_word(&t, "VALUES") && into > 0)
            found = value_item(sql, at, into);
        else if (assigns)
            found = 0;
        else if (is_equals(&before[0]) && is_tenant_id(&before[1]))
            found = parameter_of(&t);
        else if (is_equals(&before[0]) && is_tenant_id(&t))
            found = parameter_of(&before[1]);
        else if (is_symbol(&before[0], ".") && is_equals(&before[2]) && is_tenant_id(&t))
            found = parameter_of(&before[3]);
        lists = is_word(&before[0], "INTO");
        assigns = is_word(&t, "SET") || (assigns && !is_word(&t, "WHERE") && !is_word(&t, "FROM"));
        memmove(&before[1], &before[0], 3 * sizeof before[0]);
        before[0] = t;
    }
    return found;
}
