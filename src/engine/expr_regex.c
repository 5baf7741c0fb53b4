/* expr_regex.c - the helper regex, over PCRE2.
 *
 * PCRE2's own match limit starts anew at every position of the text, so it bounds nothing over a long one. Patterns are compiled
 * with automatic callouts instead: each step of a match pays for itself and for the bytes that the last one ran over, from the
 * budget of the evaluation. A match that is stopped returns first and raises afterwards; no jump passes through PCRE2. */
#include "engine/expr_internal.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATTERN_MAX = 1024,
    GROUPS_MAX = 32,
    SLOTS = 32,          /* compiled patterns that are kept */
    HEAP_KIB = 8 * 1024, /* of one match */
    DEPTH_MAX = 100000,
    STEPS_MAX = 10000000, /* never reached: the budget ends sooner */
    COMPILE_COST = 1000,  /* paid for a cached pattern too, so that a cost does not depend on what ran before */
    CALL_COST = 20,
};

struct expr_regex {
    struct slot {
        pcre2_code *code;
        size_t n;
        char pattern[PATTERN_MAX];
    } slots[SLOTS];
    pcre2_match_data *match;
    pcre2_match_context *context;
    size_t at; /* where the last callout stood */
};

void expr_regex_free(struct expr_regex *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < SLOTS; i++)
        pcre2_code_free(r->slots[i].code);
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->context);
    free(r);
}

static int on_step(pcre2_callout_block *block, void *ud)
{
    struct machine *m = ud;
    struct expr_regex *r = m->regex;
    size_t at = block->current_position, far = at > r->at ? at - r->at : r->at - at;
    r->at = at;
    return machine_afford(m, 1 + (i64)(far / EXPR_BYTES_PER_INSTRUCTION)) ? 0 : PCRE2_ERROR_CALLOUT;
}

/* Lives outside of the Lua state's cap: at most SLOTS * 64 KiB and HEAP_KIB, freed with the state. */
static struct expr_regex *regex_of(lua_State *L)
{
    struct machine *m = machine_of(L);
    if (m->regex != NULL)
        return m->regex;
    struct expr_regex *r = calloc(1, sizeof *r);
    if (r == NULL)
        machine_stop(L, STOP_ARENA);
    r->match = pcre2_match_data_create(GROUPS_MAX + 1, NULL);
    r->context = pcre2_match_context_create(NULL);
    if (r->match == NULL || r->context == NULL) {
        expr_regex_free(r);
        machine_stop(L, STOP_ARENA);
    }
    pcre2_set_heap_limit(r->context, HEAP_KIB);
    pcre2_set_depth_limit(r->context, DEPTH_MAX);
    pcre2_set_match_limit(r->context, STEPS_MAX);
    pcre2_set_callout(r->context, on_step, m);
    m->regex = r;
    return r;
}

static pcre2_code *compile(lua_State *L, str pattern)
{
    int code;
    PCRE2_SIZE where;
    u32 groups = 0;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.n,
                                   PCRE2_UTF | PCRE2_AUTO_CALLOUT | PCRE2_NEVER_BACKSLASH_C, &code, &where, NULL);
    if (re == NULL && code == PCRE2_ERROR_HEAP_FAILED)
        machine_stop(L, STOP_ARENA);
    if (re == NULL) {
        char text[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        luaL_error(L, "bad pattern at byte %I: %s", (LUAI_UACINT)where, text);
    }
    pcre2_pattern_info(re, PCRE2_INFO_CAPTURECOUNT, &groups);
    if (groups > GROUPS_MAX) {
        pcre2_code_free(re);
        luaL_error(L, "a pattern may have %d groups", GROUPS_MAX);
    }
    return re;
}

static const pcre2_code *pattern_of(lua_State *L, struct expr_regex *r, str pattern)
{
    luaL_argcheck(L, pattern.n <= PATTERN_MAX, 2, "a pattern may have 1,024 bytes");
    machine_spend(L, COMPILE_COST / 10 + pattern.n);
    struct slot *slot = &r->slots[str_hash(pattern) % SLOTS];
    if (slot->code != NULL && str_eq((str){ slot->pattern, slot->n }, pattern))
        return slot->code;
    pcre2_code *code = compile(L, pattern);
    pcre2_code_free(slot->code);
    slot->code = code;
    slot->n = pattern.n;
    memcpy(slot->pattern, pattern.p, pattern.n);
    return code;
}

/* ---- walking over matches */

struct walk {
    lua_State *L;
    struct expr_regex *r;
    const pcre2_code *code;
    str text;
    size_t from;            /* where the next match may begin */
    bool after_empty;       /* the last match was empty: the next must not be empty at the same place */
    const PCRE2_SIZE *span; /* of the match and its groups: pairs of offsets */
    u32 groups;             /* set ones; later ones took no part */
    u32 all_groups;
};

/* Arguments 1 and 2: text and pattern. */
static struct walk walk_begin(lua_State *L)
{
    struct walk w = { .L = L, .text = expr_arg(L, 1) };
    str pattern = expr_arg(L, 2);
    luaL_argcheck(L, str_utf8(w.text), 1, "not UTF-8 text");
    w.r = regex_of(L);
    w.code = pattern_of(L, w.r, pattern);
    pcre2_pattern_info(w.code, PCRE2_INFO_CAPTURECOUNT, &w.all_groups);
    return w;
}

static bool walk_next(struct walk *w)
{
    struct machine *m = machine_of(w->L);
    size_t begin = w->from;
    machine_spend(w->L, CALL_COST);
    w->r->at = begin;
    u32 options = PCRE2_NO_UTF_CHECK | (w->after_empty ? PCRE2_NOTEMPTY_ATSTART : 0);
    int n = pcre2_match(w->code, (PCRE2_SPTR)w->text.p, w->text.n, begin, options, w->r->match, w->r->context);
    if (n == PCRE2_ERROR_NOMEMORY)
        machine_stop(w->L, STOP_ARENA);
    if (m->stop != STOP_NONE)
        machine_stop(w->L, m->stop);
    if (n < 0 && n != PCRE2_ERROR_NOMATCH)
        luaL_error(w->L, "the pattern needs too much work on this text");
    if (n < 0)
        return false;
    w->span = pcre2_get_ovector_pointer(w->r->match);
    if (w->span[0] < begin || w->span[1] < w->span[0]) /* \K called from inside a lookaround */
        luaL_error(w->L, "the pattern ends a match before its start");
    w->groups = (u32)n;
    w->after_empty = w->span[0] == w->span[1];
    w->from = w->span[1];
    machine_spend_bytes(w->L, w->span[1] - w->span[0]);
    return true;
}

static str group_text(const struct walk *w, u32 group)
{
    if (group >= w->groups || w->span[2 * group] == PCRE2_UNSET)
        return STR_NONE;
    return str_slice(w->text, w->span[2 * group], w->span[2 * group + 1]);
}

/* The whole match, or an array of its groups when the pattern has any; one that took no part is json.null. */
static void push_match(const struct walk *w)
{
    lua_State *L = w->L;
    if (w->all_groups == 0) {
        expr_push_str(L, group_text(w, 0));
        return;
    }
    lua_createtable(L, (int)w->all_groups, 0);
    for (u32 i = 1; i <= w->all_groups; i++) {
        str text = group_text(w, i);
        text.p != NULL ? expr_push_str(L, text) : expr_push_null(L);
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ARRAY);
    lua_setmetatable(L, -2);
}

/* ---- the functions */

static int regex_test(lua_State *L)
{
    struct walk w = walk_begin(L);
    lua_pushboolean(L, walk_next(&w));
    return 1;
}

static int regex_match(lua_State *L)
{
    struct walk w = walk_begin(L);
    if (walk_next(&w))
        push_match(&w);
    else
        luaL_pushfail(L);
    return 1;
}

static void push_list(lua_State *L)
{
    lua_newtable(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ARRAY);
    lua_setmetatable(L, -2);
}

static int regex_find_all(lua_State *L)
{
    struct walk w = walk_begin(L);
    push_list(L);
    for (lua_Integer n = 1; walk_next(&w); n++) {
        push_match(&w);
        lua_rawseti(L, -2, n);
    }
    return 1;
}

/* An empty match at either end of the text separates nothing. */
static int regex_split(lua_State *L)
{
    struct walk w = walk_begin(L);
    push_list(L);
    size_t from = 0;
    lua_Integer n = 1;
    while (walk_next(&w)) {
        if (w.after_empty && (w.span[0] == 0 || w.span[0] == w.text.n))
            continue;
        expr_push_str(L, str_slice(w.text, from, w.span[0]));
        lua_rawseti(L, -2, n++);
        from = w.span[1];
    }
    expr_push_str(L, str_slice(w.text, from, w.text.n));
    lua_rawseti(L, -2, n);
    return 1;
}

/* `with`, in which $0 to $9 stand for groups and $$ for a dollar. */
static void add_replacement(luaL_Buffer *b, const struct walk *w, str with)
{
    for (size_t i = 0; i < with.n; i++) {
        char next = i + 1 < with.n ? with.p[i + 1] : '\0';
        if (with.p[i] != '$' || (next != '$' && (next < '0' || next > '9'))) {
            luaL_addchar(b, with.p[i]);
            continue;
        }
        str text = next == '$' ? S("$") : group_text(w, (u32)(next - '0'));
        machine_spend_bytes(w->L, text.n);
        luaL_addlstring(b, text.p, text.n);
        i++;
    }
}

static int regex_replace(lua_State *L)
{
    struct walk w = walk_begin(L);
    str with = expr_arg(L, 3);
    lua_Integer left = luaL_optinteger(L, 4, LUA_MAXINTEGER);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    size_t from = 0;
    for (; left > 0 && walk_next(&w); left--) {
        luaL_addlstring(&b, w.text.p + from, w.span[0] - from);
        machine_spend_bytes(L, with.n);
        add_replacement(&b, &w, with);
        from = w.span[1];
    }
    luaL_addlstring(&b, w.text.p + from, w.text.n - from);
    luaL_pushresult(&b);
    return 1;
}

/* clang-format off */
static const struct expr_fn fns[] = {
    { "test", regex_test, 1 }, { "match", regex_match, 1 }, { "find_all", regex_find_all, 1 }, { "split", regex_split, 1 },
    { "replace", regex_replace, 1 },
};
/* clang-format on */
const struct expr_lib expr_lib_regex = { .name = "regex", .fns = fns, .count = COUNT(fns) };
