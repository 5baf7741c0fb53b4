/* expr_lib.c - the standard library that is left, and how names reach a script.
 *
 * Every function that could run long sits behind a guard that is paid for its arguments first: no hook fires inside a C call, and even
 * math.max("…4 MiB of blanks…1") converts texts. What users index is an empty table whose metatable refers to the real one, so that
 * no run can change what the next one finds. Left out: whatever reaches files, code, metatables, coroutines or addresses, Lua's
 * patterns (their backtracking has no bound; see `regex`), and math.random (its state would outlive the run). */
#include "engine/expr_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- plain functions */

/* Addresses stay out: they differ from run to run and help an attacker. Pushes the text of argument i. */
static str push_text(lua_State *L, int i)
{
    switch (lua_type(L, i)) {
    case LUA_TTABLE:
    case LUA_TFUNCTION:
        lua_pushstring(L, luaL_typename(L, i));
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushliteral(L, "null");
        break;
    default:
        luaL_tolstring(L, i, NULL);
    }
    return expr_arg(L, -1);
}

static int lib_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    push_text(L, 1);
    return 1;
}

/* A stop must not be caught, or `while true do pcall(f) end` would outlive every limit. */
static int lib_pcall(lua_State *L)
{
    luaL_checkany(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    if (status == LUA_ERRMEM)
        machine_stop(L, STOP_MEMORY);
    if (machine_of(L)->stop != STOP_NONE)
        machine_stop(L, machine_of(L)->stop);
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, 1);
    return lua_gettop(L);
}

/* ---- string */

static void add_padded(luaL_Buffer *b, str s, size_t width, bool left)
{
    size_t pad = width > s.n ? width - s.n : 0;
    for (size_t i = 0; !left && i < pad; i++)
        luaL_addchar(b, ' ');
    luaL_addlstring(b, s.p, s.n);
    for (size_t i = 0; left && i < pad; i++)
        luaL_addchar(b, ' ');
}

/* One conversion: %[flags][width][.precision]letter, width and precision of two digits at most. */
struct spec {
    char flags[6];
    int width, precision; /* -1: none */
    char letter;
};

static int two_digits(str *s)
{
    int n = 0;
    for (int i = 0; i < 2 && s->n > 0 && s->p[0] >= '0' && s->p[0] <= '9'; i++) {
        n = n * 10 + (s->p[0] - '0');
        *s = str_slice(*s, 1, s->n);
    }
    return n;
}

static bool parse_spec(str *s, struct spec *out)
{
    *out = (struct spec){ .precision = -1 };
    size_t n = 0;
    while (s->n > 0 && memchr("-+ #0", s->p[0], 5) != NULL && n < sizeof out->flags - 1) {
        out->flags[n++] = s->p[0];
        *s = str_slice(*s, 1, s->n);
    }
    out->width = two_digits(s);
    if (s->n > 0 && s->p[0] == '.') {
        *s = str_slice(*s, 1, s->n);
        out->precision = two_digits(s);
    }
    if (s->n == 0)
        return false;
    out->letter = s->p[0];
    *s = str_slice(*s, 1, s->n);
    return true;
}

static void add_number(lua_State *L, luaL_Buffer *b, const struct spec *s, int arg)
{
    char format[24], width[4] = "", precision[5] = "", text[512]; /* "%99.99f" of the largest double has 409 bytes */
    bool whole = strchr("dixXo", s->letter) != NULL;
    if (s->width > 0)
        snprintf(width, sizeof width, "%d", s->width % 100);
    if (s->precision >= 0)
        snprintf(precision, sizeof precision, ".%d", s->precision % 100);
    snprintf(format, sizeof format, "%%%s%s%s%s%c", s->flags, width, precision, whole ? "ll" : "", s->letter);
    int n = whole ? snprintf(text, sizeof text, format, (long long)luaL_checkinteger(L, arg))
                  : snprintf(text, sizeof text, format, (double)luaL_checknumber(L, arg));
    n = MAX(0, MIN(n, (int)sizeof text - 1));
    machine_spend(L, (size_t)n / 2); /* digits of large numbers are slow to make */
    luaL_addlstring(b, text, (size_t)n);
}

static void add_text(lua_State *L, luaL_Buffer *b, const struct spec *s, int arg)
{
    str text = lua_tostring(L, arg) != NULL ? expr_arg(L, arg) : STR_NONE;
    if (s->precision >= 0)
        text.n = MIN(text.n, (size_t)s->precision);
    add_padded(b, text, (size_t)s->width, strchr(s->flags, '-') != NULL);
}

static void add_char(lua_State *L, luaL_Buffer *b, const struct spec *s, int arg)
{
    char c = (char)luaL_checkinteger(L, arg);
    add_padded(b, (str){ &c, 1 }, (size_t)s->width, strchr(s->flags, '-') != NULL);
}

static void add_conversion(lua_State *L, luaL_Buffer *b, const struct spec *s, int arg)
{
    if (s->letter == 's')
        add_text(L, b, s, arg);
    else if (s->letter == 'c')
        add_char(L, b, s, arg);
    else if (memchr("dixXoaAeEfFgG", s->letter, 13) != NULL)
        add_number(L, b, s, arg);
    else
        luaL_error(L, "invalid conversion '%%%c' to 'format'", s->letter);
}

/* Not the standard one: its %p and %s show addresses. Texts are made before the buffer begins, which needs the top of the stack. */
static int lib_format(lua_State *L)
{
    str rest = expr_arg(L, 1);
    int args = lua_gettop(L);
    for (int i = 2; i <= args; i++) {
        if (lua_type(L, i) == LUA_TNUMBER || lua_type(L, i) == LUA_TSTRING)
            continue;
        push_text(L, i);
        lua_replace(L, i);
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int arg = 1; rest.n > 0;) {
        i64 at = str_find_char(rest, '%', 0);
        size_t n = at < 0 ? rest.n : (size_t)at;
        luaL_addlstring(&b, rest.p, n);
        rest = str_slice(rest, n + 1, rest.n);
        struct spec s;
        if (at < 0)
            break;
        if (str_starts(rest, S("%"))) {
            luaL_addchar(&b, '%');
            rest = str_slice(rest, 1, rest.n);
            continue;
        }
        if (!parse_spec(&rest, &s))
            return luaL_error(L, "invalid conversion to 'format'");
        if (++arg > args)
            return luaL_argerror(L, arg, "no value");
        add_conversion(L, &b, &s, arg);
    }
    luaL_pushresult(&b);
    return 1;
}

/* Always plain: "." finds a dot. */
static int lib_find(lua_State *L)
{
    str s = expr_arg(L, 1), needle = expr_arg(L, 2);
    lua_Integer from = luaL_optinteger(L, 3, 1);
    if (from < 0)
        from = MAX((lua_Integer)s.n + from + 1, 1);
    i64 start = MAX(from - 1, 0), at = start > (i64)s.n ? -1 : str_find(s, needle, (size_t)start);
    machine_spend_bytes(
        L, (size_t)MAX((at < 0 ? (i64)s.n : at) - start, 0)); /* what was looked at, so that walking pays once */
    if (at < 0) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, at + 1);
    lua_pushinteger(L, at + (i64)needle.n);
    return 2;
}

static int lib_byte(lua_State *L)
{
    str s = expr_arg(L, 1);
    lua_Integer n = (lua_Integer)s.n, from = luaL_optinteger(L, 2, 1);
    from = from < 0 ? MAX(n + from + 1, 1) : MAX(from, 1);
    lua_Integer to = luaL_optinteger(L, 3, from);
    to = to < 0 ? n + to + 1 : MIN(to, n);
    if (to < from)
        return 0;
    machine_spend(L, (size_t)(to - from));
    luaL_checkstack(L, (int)(to - from + 1), "too many bytes");
    for (lua_Integer i = from; i <= to; i++)
        lua_pushinteger(L, (u8)s.p[i - 1]);
    return (int)(to - from + 1);
}

/* The size is known before a byte is written. The filled part is doubled: a loop of a million one-byte copies would be slower than all
 * it pays for. */
static int lib_rep(lua_State *L)
{
    str s = expr_arg(L, 1), sep = { 0 };
    lua_Integer n = luaL_checkinteger(L, 2);
    sep.p = luaL_optlstring(L, 3, "", &sep.n);
    size_t unit = s.n + sep.n, total;
    if (n <= 0 || unit == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (__builtin_mul_overflow(unit, (size_t)n, &total) || total - sep.n > EXPR_VALUE_BYTES)
        machine_stop(L, STOP_MEMORY);
    luaL_Buffer b; /* its memory pays for the bytes */
    char *p = luaL_buffinitsize(L, &b, total);
    memcpy(p, s.p, s.n);
    memcpy(p + s.n, sep.p, sep.n);
    for (size_t done = unit; done < total; done += MIN(done, total - done))
        memcpy(p + done, p, MIN(done, total - done));
    luaL_pushresultsize(&b, total - sep.n);
    return 1;
}

/* ---- table */

static int lib_insert(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 1), at = n + 1;
    if (lua_gettop(L) == 3) {
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, at >= 1 && at <= n + 1, 2, "position out of bounds");
        machine_spend(L, (size_t)(n + 1 - at));
    } else if (lua_gettop(L) != 2) {
        return luaL_error(L, "wrong number of arguments to 'insert'");
    }
    for (lua_Integer i = n; i >= at; i--) {
        lua_geti(L, 1, i);
        lua_seti(L, 1, i + 1);
    }
    lua_seti(L, 1, at);
    return 0;
}

static int lib_remove(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 1), at = luaL_optinteger(L, 2, n);
    luaL_argcheck(L, at == n || (at >= 1 && at <= n + 1), 2, "position out of bounds");
    machine_spend(L, at < n ? (size_t)(n - at) : 0);
    lua_geti(L, 1, at);
    for (; at < n; at++) {
        lua_geti(L, 1, at + 1);
        lua_seti(L, 1, at);
    }
    lua_pushnil(L);
    lua_seti(L, 1, at);
    return 1;
}

static int lib_concat(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    str sep = { 0 };
    sep.p = luaL_optlstring(L, 2, "", &sep.n);
    lua_Integer from = luaL_optinteger(L, 3, 1), to = luaL_opt(L, luaL_checkinteger, 4, luaL_len(L, 1));
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (lua_Integer i = from; i <= to; i++) {
        lua_geti(L, 1, i);
        if (!lua_isstring(L, -1))
            return luaL_error(L, "invalid value (at index %I) in table for 'concat'", (LUAI_UACINT)i);
        machine_spend(L, 1);
        luaL_addvalue(&b);
        if (i == to) /* i + 1 may overflow */
            break;
        luaL_addlstring(&b, sep.p, sep.n);
    }
    luaL_pushresult(&b);
    return 1;
}

static int lib_unpack(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer from = luaL_optinteger(L, 2, 1), to = luaL_opt(L, luaL_checkinteger, 3, luaL_len(L, 1));
    if (from > to)
        return 0;
    u64 n = (u64)to - (u64)from;
    machine_spend(L, n);
    if (n >= INT32_MAX || !lua_checkstack(L, (int)n + 1))
        return luaL_error(L, "too many results to unpack");
    for (u64 i = 0; i <= n; i++)
        lua_geti(L, 1, (lua_Integer)((u64)from + i));
    return (int)n + 1;
}

/* a < b, or what the script's function (argument 2) says. Comparing pays for the bytes it may look at. */
static bool comes_before(lua_State *L, int a, int b)
{
    bool texts = lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING;
    machine_spend(L, 1 + (texts ? MIN(lua_rawlen(L, a), lua_rawlen(L, b)) : 0));
    if (lua_isnil(L, 2))
        return lua_compare(L, a, b, LUA_OPLT);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool before = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return before;
}

/* Merges [from, middle) and [middle, to) of the table at index 3 into the one at index 4. */
static void merge(lua_State *L, lua_Integer from, lua_Integer middle, lua_Integer to)
{
    lua_Integer a = from, b = middle;
    for (lua_Integer i = from; i < to; i++) {
        bool second = a >= middle;
        if (a < middle && b < to) {
            lua_geti(L, 3, a);
            lua_geti(L, 3, b);
            second = comes_before(L, 6, 5);
            lua_pop(L, 2);
        }
        lua_geti(L, 3, second ? b++ : a++);
        lua_seti(L, 4, i);
    }
}

/* A merge sort, and so stable; the standard quicksort calls C to compare without a hook, and its order for equal items is anyone's
 * guess. Works in two copies, so an error leaves the table as it was. */
static int lib_sort(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_Integer n = luaL_len(L, 1);
    machine_spend(L, (size_t)n);
    lua_createtable(L, (int)n, 0);
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, 1, i);
        lua_seti(L, 3, i);
    }
    for (lua_Integer run = 1; run < n; run *= 2) {
        for (lua_Integer from = 1; from <= n; from += 2 * run)
            merge(L, from, MIN(from + run, n + 1), MIN(from + 2 * run, n + 1));
        lua_insert(L, 3); /* the two copies change places */
    }
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, 3, i);
        lua_seti(L, 1, i);
    }
    return 0;
}

/* ---- the tables of names */

/* clang-format off */
static const struct expr_fn base_fns[] = {
    { "assert" }, { "error" }, { "ipairs" }, { "next", .paid_from = 1 }, { "pairs" }, { "pcall", lib_pcall }, { "select", .paid_from = 1 },
    { "tonumber", .paid_from = 1 }, { "tostring", lib_tostring, 1 }, { "type" },
};
static const struct expr_fn string_fns[] = {
    { "byte", lib_byte, 2 }, { "char", .paid_from = 1 }, { "find", lib_find, 2 }, { "format", lib_format, 1, 20 }, { "len" }, { "lower", .paid_from = 1 },
    { "rep", lib_rep, 2 }, { "reverse", .paid_from = 1 }, { "sub", .paid_from = 2 }, { "upper", .paid_from = 1 },
};
static const struct expr_fn table_fns[] = {
    { "concat", lib_concat, 1 }, { "insert", lib_insert, 4 }, { "pack", .paid_from = 1 }, { "remove", lib_remove, 1 },
    { "sort", lib_sort, 1 }, { "unpack", lib_unpack, 1 },
};
static const struct expr_fn math_fns[] = {
    { "abs", .paid_from = 1 }, { "acos", .paid_from = 1 }, { "asin", .paid_from = 1 }, { "atan", .paid_from = 1 }, { "ceil", .paid_from = 1 },
    { "cos", .paid_from = 1 }, { "deg", .paid_from = 1 }, { "exp", .paid_from = 1 }, { "floor", .paid_from = 1 }, { "fmod", .paid_from = 1 },
    { "log", .paid_from = 1 }, { "max", .paid_from = 1 }, { "min", .paid_from = 1 }, { "modf", .paid_from = 1 }, { "rad", .paid_from = 1 },
    { "sin", .paid_from = 1 }, { "sqrt", .paid_from = 1 }, { "tan", .paid_from = 1 }, { "tointeger", .paid_from = 1 }, { "type", .paid_from = 1 },
    { "ult", .paid_from = 1 },
};
static const struct expr_fn utf8_fns[] = {
    { "char", .paid_from = 1 }, { "codepoint", .paid_from = 2 }, { "codes", .paid_from = 1 }, { "len", .paid_from = 1 }, { "offset", .paid_from = 2 },
};
/* clang-format on */

#define LIB(name_, open_, fns_)                                               \
    {                                                                         \
        .name = (name_), .open = (open_), .fns = (fns_), .count = COUNT(fns_) \
    }
static const struct expr_lib base_lib = LIB(NULL, luaopen_base, base_fns);
static const struct expr_lib string_lib = LIB("string", luaopen_string, string_fns);
static const struct expr_lib table_lib = LIB("table", luaopen_table, table_fns);
static const struct expr_lib math_lib = LIB("math", luaopen_math, math_fns);
static const struct expr_lib utf8_lib = LIB("utf8", luaopen_utf8, utf8_fns);

static const struct expr_lib *const libs[] = {
    &base_lib,      &string_lib,    &table_lib,       &math_lib,       &utf8_lib,
    &expr_lib_json, &expr_lib_date, &expr_lib_base64, &expr_lib_plain, &expr_lib_regex,
};

static const char *const math_constants[] = { "pi", "huge", "maxinteger", "mininteger" };

/* ---- guards and read-only tables */

static int guard(lua_State *L)
{
    const struct expr_fn *fn = lua_touserdata(L, lua_upvalueindex(1));
    int n = lua_gettop(L);
    size_t bytes = 0;
    for (int i = fn->paid_from; i <= n; i++)
        bytes += lua_type(L, i) == LUA_TSTRING ? lua_rawlen(L, i) : 0;
    machine_spend(L, (size_t)(n + fn->cost) + bytes / EXPR_BYTES_PER_INSTRUCTION);
    return lua_tocfunction(L, lua_upvalueindex(2))(L);
}

void expr_push_fn(lua_State *L, const struct expr_fn *fn, int standard)
{
    if (fn->own != NULL) {
        lua_pushcfunction(L, fn->own);
    } else {
        lua_getfield(L, standard, fn->name);
        assert(lua_iscfunction(L, -1));
    }
    if (fn->paid_from == 0)
        return;
    lua_pushlightuserdata(L, (void *)(uintptr_t)fn);
    lua_insert(L, -2);
    lua_pushcclosure(L, guard, 2);
}

static int refuse_change(lua_State *L)
{
    return luaL_error(L, "helpers cannot be changed");
}

/* Replaces the table at the top by an empty one that reads from it. */
static void make_read_only(lua_State *L)
{
    lua_newtable(L);
    lua_newtable(L);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, refuse_change);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
    lua_remove(L, -2);
}

/* Texts find their methods in the table at the top, not in the full library. */
static void set_string_methods(lua_State *L)
{
    lua_pushliteral(L, "");
    if (lua_getmetatable(L, -1)) {
        lua_pushvalue(L, -3);
        lua_setfield(L, -2, "__index");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void copy_constants(lua_State *L, int standard)
{
    for (size_t i = 0; i < COUNT(math_constants); i++) {
        lua_getfield(L, standard, math_constants[i]);
        lua_setfield(L, -2, math_constants[i]);
    }
}

/* Adds the library to the table of names at `names`; one without a name adds its functions there. */
static void open_lib(lua_State *L, const struct expr_lib *lib, int names)
{
    int standard = 0, base = lua_gettop(L);
    if (lib->open != NULL) {
        lua_pushcfunction(L, lib->open);
        lua_call(L, 0, 1);
        standard = base + 1;
    }
    lib->name == NULL ? lua_pushvalue(L, names) : lua_newtable(L);
    for (size_t i = 0; i < lib->count; i++) {
        expr_push_fn(L, &lib->fns[i], standard);
        lua_setfield(L, -2, lib->fns[i].name);
    }
    if (lib == &math_lib)
        copy_constants(L, standard);
    if (lib == &expr_lib_json) {
        expr_push_null(L);
        lua_setfield(L, -2, "null");
    }
    if (lib == &string_lib)
        set_string_methods(L);
    if (lib->name != NULL) {
        make_read_only(L);
        lua_setfield(L, names, lib->name);
    }
    lua_settop(L, base);
}

/* ---- names of the scope */

static int step_get(lua_State *L)
{
    const struct expr_scope *scope = machine_of(L)->scope;
    const struct json *step = NULL;
    if (lua_type(L, 2) == LUA_TSTRING && scope->step != NULL)
        step = scope->step(scope->ctx, expr_arg(L, 2));
    if (step == NULL)
        return 0;
    expr_push(L, step);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -2);
    lua_rawset(L, 1);
    return 1;
}

static int steps_walk(lua_State *L)
{
    return luaL_error(L, "steps cannot be walked: name a step");
}

/* Reads a global that is neither the script's own nor a helper. Only what a script names is converted, once. */
static int scope_get(lua_State *L)
{
    int root = lua_type(L, 2) == LUA_TSTRING ? expr_root_of(expr_arg(L, 2)) : -1;
    if (root < 0)
        return 0;
    if (root == ROOT_STEPS) {
        lua_newtable(L);
        lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_STEPS);
        lua_setmetatable(L, -2);
    } else {
        expr_push(L, expr_root_node(machine_of(L)->scope, (enum expr_root)root));
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ENV);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    return 1;
}

/* ---- opening */

static void set_slot(lua_State *L, int slot, const char *key, lua_CFunction fn)
{
    lua_newtable(L);
    if (key != NULL) {
        lua_pushcfunction(L, fn);
        lua_setfield(L, -2, key);
    }
    lua_rawseti(L, LUA_REGISTRYINDEX, slot);
}

static void open_slots(lua_State *L)
{
    set_slot(L, SLOT_CHUNKS, NULL, NULL);
    set_slot(L, SLOT_ARRAY, NULL, NULL);
    set_slot(L, SLOT_OBJECT, NULL, NULL);
    set_slot(L, SLOT_STEPS, "__index", step_get);
    set_slot(L, SLOT_NAMES, NULL, NULL);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_STEPS);
    lua_pushcfunction(L, steps_walk);
    lua_setfield(L, -2, "__pairs");
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_rawseti(L, LUA_REGISTRYINDEX, SLOT_WEAK);
}

int expr_open(lua_State *L)
{
    lua_settop(L, 0);
    open_slots(L);
    lua_newtable(L); /* 1: all names */
    for (size_t i = 0; i < COUNT(libs); i++)
        open_lib(L, libs[i], 1);
    lua_newtable(L);
    lua_pushcfunction(L, scope_get);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_NAMES);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "__index");
    lua_newtable(L); /* luaopen_base filled the globals of the state with all that was left out above */
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    return 0;
}
