/* expr_json.c - JSON to Lua and back, so that a value that goes through Lua unchanged is unchanged.
 *
 * Integers and reals are Lua's two kinds of numbers. null is json.null, a light userdata, because a table cannot hold nil (it counts as
 * true in Lua). An array carries a metatable as its mark: [] stays [], and no script can see or set it. For the order of keys a
 * weak table remembers which object a table was made from; a copy of the order in each table would show up in pairs(). */
#include "engine/expr_internal.h"

#include <stdlib.h>
#include <string.h>

enum { NODES_PER_INSTRUCTION = 4 };

static const char null_tag; /* its address is json.null */

void expr_push_null(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&null_tag);
}

bool expr_is_null(lua_State *L, int index)
{
    return lua_touserdata(L, index) == &null_tag;
}

/* ---- JSON to Lua */

static void push_array(lua_State *L, const struct json *j)
{
    lua_createtable(L, (int)MIN(j->n, (u32)INT32_MAX), 0);
    for (u32 i = 0; i < j->n; i++) {
        expr_push(L, &j->items[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ARRAY);
    lua_setmetatable(L, -2);
}

static void push_origins(lua_State *L)
{
    if (lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ORIGINS) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_WEAK);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, SLOT_ORIGINS);
}

static void push_object(lua_State *L, const struct json *j)
{
    lua_createtable(L, 0, (int)MIN(j->n, (u32)INT32_MAX));
    for (u32 i = 0; i < j->n; i++) {
        expr_push_str(L, j->members[i].key);
        expr_push(L, &j->members[i].value);
        lua_rawset(L, -3);
    }
    if (j->n < 2) /* no order to remember */
        return;
    push_origins(L);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, (void *)(uintptr_t)j);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

void expr_push(lua_State *L, const struct json *j)
{
    luaL_checkstack(L, 6, "nesting");
    switch (j != NULL ? (enum json_type)j->type : JSON_NULL) {
    case JSON_NULL:
        j != NULL ? expr_push_null(L) : lua_pushnil(L);
        break;
    case JSON_BOOL:
        lua_pushboolean(L, j->boolean);
        break;
    case JSON_INT:
        lua_pushinteger(L, j->integer);
        break;
    case JSON_REAL:
        lua_pushnumber(L, j->real);
        break;
    case JSON_STR:
        expr_push_str(L, json_str(j));
        break;
    case JSON_ARRAY:
        machine_spend(L, 1 + j->n / NODES_PER_INSTRUCTION);
        push_array(L, j);
        break;
    case JSON_OBJECT:
        machine_spend(L, 1 + j->n / NODES_PER_INSTRUCTION);
        push_object(L, j);
        break;
    }
}

/* ---- Lua to JSON */

struct taking {
    lua_State *L;
    struct arena *arena;
    size_t left; /* bytes of JSON that may still come; counted low, so that a graph that shares tables ends here */
    enum expr_stop stop;
};

static bool take(struct taking *t, int depth, struct json *out);

static bool refuse(struct taking *t, const char *why)
{
    machine_of(t->L)->why = why;
    t->stop = STOP_VALUE;
    return false;
}

static bool no_memory(struct taking *t)
{
    t->stop = STOP_ARENA;
    return false;
}

static bool pay(struct taking *t, size_t bytes)
{
    if (bytes > t->left) {
        t->stop = STOP_TOO_LARGE;
        return false;
    }
    t->left -= bytes;
    return true;
}

/* The string at the index, copied: Lua may collect its own. */
static bool take_text(struct taking *t, int index, str *out)
{
    str s;
    s.p = lua_tolstring(t->L, index, &s.n);
    machine_spend_bytes(t->L, s.n);
    if (!pay(t, s.n + 2))
        return false;
    if (!str_utf8(s) || memchr(s.p, 0, s.n) != NULL)
        return refuse(t, "a string that is not UTF-8 text (encode it first, for example by base64.encode)");
    *out = str_dup(t->arena, s);
    return out->p != NULL || no_memory(t);
}

static bool take_str(struct taking *t, struct json *out)
{
    str s;
    if (!take_text(t, -1, &s))
        return false;
    *out = json_of_str(s);
    return true;
}

static bool take_number(struct taking *t, struct json *out)
{
    if (lua_isinteger(t->L, -1)) {
        *out = json_of_i64(lua_tointeger(t->L, -1));
        return pay(t, 1);
    }
    double real = lua_tonumber(t->L, -1);
    if (!__builtin_isfinite(real))
        return refuse(t, "a number that is infinite or not a number");
    *out = json_of_real(real);
    return pay(t, 1);
}

/* What a table is, by its mark and its keys. */
struct shape {
    bool array, object; /* marked */
    u32 strings, integers;
    lua_Integer largest, least;
};

static bool read_mark(struct taking *t, struct shape *s)
{
    if (!lua_getmetatable(t->L, -1))
        return true;
    lua_rawgeti(t->L, LUA_REGISTRYINDEX, SLOT_ARRAY);
    lua_rawgeti(t->L, LUA_REGISTRYINDEX, SLOT_OBJECT);
    s->array = lua_rawequal(t->L, -3, -2);
    s->object = lua_rawequal(t->L, -3, -1);
    lua_pop(t->L, 3);
    return s->array || s->object || refuse(t, "a library, or `steps` as a whole");
}

static bool read_keys(struct taking *t, struct shape *s)
{
    lua_State *L = t->L;
    s->least = LUA_MAXINTEGER;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            s->strings++;
        } else if (lua_isinteger(L, -2)) {
            lua_Integer i = lua_tointeger(L, -2);
            s->integers++;
            s->largest = MAX(s->largest, i);
            s->least = MIN(s->least, i);
        } else {
            lua_pop(L, 2);
            return refuse(t, "a table with a key that is neither text nor a position");
        }
    }
    return true;
}

static bool check_shape(struct taking *t, const struct shape *s)
{
    if (s->integers > 0 && s->strings > 0)
        return refuse(t, "a table with both positions and names");
    if ((s->array && s->strings > 0) || (s->object && s->integers > 0))
        return refuse(t, "a table marked as one kind that holds keys of the other");
    if (s->integers > 0 && (s->least != 1 || s->largest != (lua_Integer)s->integers))
        return refuse(t, "a list with holes (json.null may stand in them)");
    return true;
}

static bool take_list(struct taking *t, int depth, u32 n, struct json *out)
{
    struct json *items = NEW_N(t->arena, struct json, n);
    if (items == NULL)
        return no_memory(t);
    for (u32 i = 0; i < n; i++) {
        lua_rawgeti(t->L, -1, (lua_Integer)i + 1);
        bool ok = take(t, depth + 1, &items[i]);
        lua_pop(t->L, 1);
        if (!ok)
            return false;
    }
    *out = (struct json){ .type = JSON_ARRAY, .n = n, .items = items };
    return true;
}

/* The member of the table at the top whose key is pushed above it, which is popped. No such member: nothing is added. */
static bool take_member(struct taking *t, int depth, struct json_member *members, u32 *n)
{
    lua_State *L = t->L;
    lua_pushvalue(L, -1);
    bool ok = true;
    if (lua_rawget(L, -3) != LUA_TNIL) {
        struct json_member *m = &members[*n];
        ok = take_text(t, -2, &m->key) && take(t, depth + 1, &m->value);
        *n += ok;
    }
    lua_pop(L, 2);
    return ok;
}

static int by_text(const void *a, const void *b)
{
    return str_cmp(*(const str *)a, *(const str *)b);
}

/* Keys of the table at the top that `known` (sorted) lacks, sorted; room for count of them. */
static u32 other_keys(lua_State *L, const str *known, u32 known_count, str *out)
{
    u32 n = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        str key;
        key.p = lua_tolstring(L, -2, &key.n);
        if (known_count == 0 || bsearch(&key, known, known_count, sizeof *known, by_text) == NULL)
            out[n++] = key;
    }
    qsort(out, n, sizeof *out, by_text);
    return n;
}

/* The members that the origin does not name, in the order of their keys: what pairs() would give differs from run to run. */
static bool take_others(struct taking *t, int depth, u32 count, struct json_member *members, u32 *n)
{
    struct arena *scratch = machine_of(t->L)->scratch;
    str *known = NEW_N(scratch, str, *n);
    str *others = NEW_N(scratch, str, count);
    if (known == NULL || others == NULL)
        machine_stop_scratch(t->L);
    u32 known_count = *n;
    for (u32 i = 0; i < known_count; i++)
        known[i] = members[i].key;
    qsort(known, known_count, sizeof *known, by_text);
    u32 more = other_keys(t->L, known, known_count, others);
    for (u32 i = 0; i < more; i++) {
        expr_push_str(t->L, others[i]);
        if (!take_member(t, depth, members, n))
            return false;
    }
    return true;
}

static const struct json *origin_of(lua_State *L)
{
    const struct json *origin = NULL;
    if (lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ORIGINS) == LUA_TTABLE) {
        lua_pushvalue(L, -2);
        lua_rawget(L, -2);
        origin = lua_touserdata(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return origin;
}

static bool take_object(struct taking *t, int depth, u32 count, struct json *out)
{
    struct json_member *members = NEW_N(t->arena, struct json_member, count);
    if (members == NULL)
        return no_memory(t);
    const struct json *origin = origin_of(t->L);
    u32 n = 0;
    for (u32 i = 0; origin != NULL && i < origin->n; i++) {
        expr_push_str(t->L, origin->members[i].key);
        if (!take_member(t, depth, members, &n))
            return false;
    }
    if (n < count && !take_others(t, depth, count, members, &n))
        return false;
    *out = (struct json){ .type = JSON_OBJECT, .n = n, .members = members };
    return true;
}

static bool take_table(struct taking *t, int depth, struct json *out)
{
    struct shape s = { 0 };
    if (depth >= JSON_MAX_DEPTH)
        return refuse(t, "a table nested more than 64 levels deep, or one that holds itself");
    if (!read_mark(t, &s) || !read_keys(t, &s) || !check_shape(t, &s))
        return false;
    machine_spend(t->L, 1 + s.strings + s.integers);
    if (!pay(t, 2 + s.strings + s.integers))
        return false;
    return s.array || s.integers > 0 ? take_list(t, depth, s.integers, out) : take_object(t, depth, s.strings, out);
}

/* The value at the top, which stays there. */
static bool take(struct taking *t, int depth, struct json *out)
{
    luaL_checkstack(t->L, 8, "nesting");
    switch (lua_type(t->L, -1)) {
    case LUA_TNIL:
        *out = json_null;
        return pay(t, 4);
    case LUA_TBOOLEAN:
        *out = json_of_bool(lua_toboolean(t->L, -1));
        return pay(t, 4);
    case LUA_TNUMBER:
        return take_number(t, out);
    case LUA_TSTRING:
        return take_str(t, out);
    case LUA_TTABLE:
        return take_table(t, depth, out);
    case LUA_TLIGHTUSERDATA:
        *out = json_null;
        return pay(t, 4);
    default:
        return refuse(t, "a function");
    }
}

enum expr_stop expr_take(lua_State *L, struct arena *a, struct json *out)
{
    struct taking t = { .L = L, .arena = a, .left = EXPR_VALUE_BYTES };
    take(&t, 0, out);
    return t.stop;
}

/* ---- size */

static bool measure(const struct json *j, size_t *left)
{
    bool array = j->type == JSON_ARRAY, object = j->type == JSON_OBJECT;
    size_t own = array || object ? 2 + (j->n > 1 ? j->n - 1 : 0) : json_size(j);
    if (own > *left)
        return false;
    *left -= own;
    for (u32 i = 0; array && i < j->n; i++)
        if (!measure(&j->items[i], left))
            return false;
    for (u32 i = 0; object && i < j->n; i++) {
        struct json key = json_of_str(j->members[i].key);
        size_t n = json_size(&key) + 1;
        if (n > *left)
            return false;
        *left -= n;
        if (!measure(&j->members[i].value, left))
            return false;
    }
    return true;
}

bool expr_fits(const struct json *j, size_t max)
{
    return measure(j, &max);
}
