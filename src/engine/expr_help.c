/* expr_help.c - the helpers json, date, base64, sha256, hmac and uuid.
 *
 * All are pure: the time is that of the scope and uuid() counts from the scope's seed, so a step that runs again after a crash makes the
 * same request again. What cannot be read (a date, base64) is nil, as with tonumber; what is no text is an error. */
#include "engine/expr_internal.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/time.h"

#include <math.h>
#include <string.h>

static struct arena *scratch_of(lua_State *L)
{
    return machine_of(L)->scratch;
}

/* Pushes text made on the scratch arena, and gives the arena back to where it was. */
static int push_made(lua_State *L, str made, struct arena_mark mark)
{
    if (made.p == NULL)
        machine_stop_scratch(L);
    expr_push_str(L, made);
    arena_rewind(scratch_of(L), mark);
    return 1;
}

/* ---- json */

static int json_encode(lua_State *L)
{
    struct arena_mark mark = arena_mark(scratch_of(L));
    struct json value = json_null;
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    enum expr_stop stop = expr_take(L, scratch_of(L), &value);
    if (stop == STOP_VALUE)
        return luaL_error(L, "json.encode: %s", machine_of(L)->why);
    if (stop == STOP_ARENA)
        machine_stop_scratch(L);
    if (stop == STOP_TOO_LARGE)
        machine_stop(L, STOP_MEMORY);
    return push_made(L, json_text(scratch_of(L), &value), mark);
}

/* The tree stays until the evaluation ends: tables made from it look up the order of their keys there. */
static int json_decode(lua_State *L)
{
    struct json_error where = { 0 };
    struct json *value = NULL;
    str text = str_dup(scratch_of(L), expr_arg(L, 1));
    err e = text.p == NULL ? ERR_MEMORY : json_parse(scratch_of(L), text, &value, &where);
    if (e == ERR_MEMORY)
        machine_stop_scratch(L);
    if (e != OK)
        return luaL_error(L, "json.decode: %s at byte %I", where.code, (LUAI_UACINT)where.offset);
    expr_push(L, value);
    return 1;
}

/* Only tables without a metatable, or with another mark, take one: the others are helpers. */
static int mark_table(lua_State *L, int slot)
{
    lua_settop(L, 1);
    if (lua_isnil(L, 1)) {
        lua_newtable(L);
        lua_replace(L, 1);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ARRAY);
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_OBJECT);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, -1, 2) && !lua_rawequal(L, -1, 3))
        return luaL_error(L, "helpers cannot be changed");
    lua_settop(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, slot);
    lua_setmetatable(L, 1);
    return 1;
}

static int json_array(lua_State *L)
{
    return mark_table(L, SLOT_ARRAY);
}

static int json_object(lua_State *L)
{
    return mark_table(L, SLOT_OBJECT);
}

/* ---- date */

static const i64 first_second = -62135596800, last_second = 253402300799; /* years 1 to 9999 */

static int push_time(lua_State *L, i64 us)
{
    struct arena_mark mark = arena_mark(scratch_of(L));
    return push_made(L, time_text(scratch_of(L), us), mark);
}

static int date_now(lua_State *L)
{
    return push_time(L, machine_of(L)->scope->now_us);
}

static int date_parse(lua_State *L)
{
    i64 us;
    if (!time_parse(expr_arg(L, 1), &us))
        luaL_pushfail(L);
    else
        lua_pushnumber(L, (double)us / (double)SECOND_US);
    return 1;
}

static i64 check_seconds(lua_State *L, int arg)
{
    double seconds = luaL_checknumber(L, arg);
    luaL_argcheck(L, seconds >= (double)first_second && seconds < (double)last_second + 1, arg,
                  "not within the years 1 to 9999");
    if (lua_isinteger(L, arg))
        return lua_tointeger(L, arg) * SECOND_US;
    return MIN((i64)floor(seconds * (double)SECOND_US + 0.5), last_second * SECOND_US + SECOND_US - 1);
}

static int date_format(lua_State *L)
{
    static const char *const kinds[] = { "iso", "http", "date", NULL };
    i64 us = check_seconds(L, 1);
    int kind = luaL_checkoption(L, 2, "iso", kinds);
    struct arena_mark mark = arena_mark(scratch_of(L));
    str text = kind == 1 ? time_http(scratch_of(L), us) : time_text(scratch_of(L), us);
    return push_made(L, kind == 2 && text.p != NULL ? str_slice(text, 0, strlen("2026-11-21")) : text, mark);
}

static const struct {
    const char *name;
    i64 us;
} units[] = { { "days", DAY_US }, { "hours", HOUR_US }, { "minutes", MINUTE_US }, { "seconds", SECOND_US } };

static i64 unit_us(lua_State *L, int key)
{
    const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key) : "";
    for (size_t i = 0; i < COUNT(units); i++)
        if (strcmp(name, units[i].name) == 0)
            return units[i].us;
    return luaL_error(L, "date.add knows days, hours, minutes and seconds");
}

/* The number at the top times the unit, which integers give exactly. False when it is far out of any range. */
static bool scaled(lua_State *L, i64 unit, i64 *out)
{
    if (lua_isinteger(L, -1))
        return !__builtin_mul_overflow((i64)lua_tointeger(L, -1), unit, out);
    double us = lua_tonumber(L, -1) * (double)unit;
    if (!(fabs(us) < 1e18))
        return false;
    *out = (i64)us;
    return true;
}

static int date_add(lua_State *L)
{
    i64 us, more;
    luaL_argcheck(L, time_parse(expr_arg(L, 1), &us), 1, "not an RFC 3339 time");
    luaL_checktype(L, 2, LUA_TTABLE);
    bool ok = true;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        i64 unit = unit_us(L, -2);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TNUMBER, 2, "not a number");
        ok = ok && scaled(L, unit, &more) && !__builtin_add_overflow(us, more, &us);
    }
    ok = ok && us >= first_second * SECOND_US && us / SECOND_US <= last_second;
    luaL_argcheck(L, ok, 2, "not within the years 1 to 9999");
    return push_time(L, us);
}

/* ---- base64, hashes, ids */

static int encode_as(lua_State *L, enum base64_kind kind)
{
    str bytes = expr_arg(L, 1);
    struct arena_mark mark = arena_mark(scratch_of(L));
    return push_made(L, base64_encode(scratch_of(L), kind, bytes), mark);
}

static int decode_as(lua_State *L, enum base64_kind kind)
{
    str text = expr_arg(L, 1), bytes;
    struct arena_mark mark = arena_mark(scratch_of(L));
    void *room =
        arena_alloc(scratch_of(L), text.n + 16); /* false means both "bad" and "no memory": rule the second out first */
    if (room == NULL)
        machine_stop_scratch(L);
    arena_rewind(scratch_of(L), mark);
    if (base64_decode(scratch_of(L), kind, text, &bytes))
        return push_made(L, bytes, mark);
    arena_rewind(scratch_of(L), mark);
    luaL_pushfail(L);
    return 1;
}

static int base64_encode_plain(lua_State *L)
{
    return encode_as(L, BASE64);
}

static int base64_encode_url(lua_State *L)
{
    return encode_as(L, BASE64URL);
}

static int base64_decode_plain(lua_State *L)
{
    return decode_as(L, BASE64);
}

static int base64_decode_url(lua_State *L)
{
    return decode_as(L, BASE64URL);
}

static int push_hex(lua_State *L, const u8 *p, size_t n)
{
    struct arena_mark mark = arena_mark(scratch_of(L));
    return push_made(L, hex_encode(scratch_of(L), (str){ (const char *)p, n }), mark);
}

static int plain_sha256(lua_State *L)
{
    u8 hash[SHA256_BYTES];
    hash_sha256(expr_arg(L, 1), hash);
    return push_hex(L, hash, sizeof hash);
}

static int plain_hmac(lua_State *L)
{
    u8 mac[SHA256_BYTES];
    str key = expr_arg(L, 1), bytes = expr_arg(L, 2);
    hash_hmac_sha256(key, bytes, mac);
    return push_hex(L, mac, sizeof mac);
}

/* Shaped as a version 4 UUID. Without a seed every execution would get the same ids: refused. */
static int plain_uuid(lua_State *L)
{
    struct machine *m = machine_of(L);
    if (m->scope->random_seed.n == 0)
        return luaL_error(L, "uuid is not available here");
    u64 count = ++m->uuids;
    str parts[] = { m->scope->random_seed, { (const char *)&count, sizeof count } };
    u8 u[SHA256_BYTES];
    hash_sha256_parts(parts, COUNT(parts), u);
    u[6] = (u8)((u[6] & 0x0F) | 0x40);
    u[8] = (u8)((u[8] & 0x3F) | 0x80);
    push_hex(L, u, 16);
    const char *h = lua_tostring(L, -1);
    char text[37];
    int at = 0;
    for (int i = 0; i < 32; i++) {
        if (i == 8 || i == 12 || i == 16 || i == 20)
            text[at++] = '-';
        text[at++] = h[i];
    }
    lua_pushlstring(L, text, (size_t)at);
    return 1;
}

/* ---- tables */

enum { CALL_COST = 200 }; /* about a microsecond */

/* clang-format off */
static const struct expr_fn json_fns[] = {
    { "encode", json_encode, 1, CALL_COST }, { "decode", json_decode, 1, CALL_COST }, { "array", json_array }, { "object", json_object },
};
static const struct expr_fn date_fns[] = {
    { "now", date_now, 1, CALL_COST }, { "parse", date_parse, 1, CALL_COST }, { "format", date_format, 1, CALL_COST }, { "add", date_add, 1, CALL_COST },
};
static const struct expr_fn base64_fns[] = {
    { "encode", base64_encode_plain, 1, CALL_COST }, { "decode", base64_decode_plain, 1, CALL_COST },
    { "encode_url", base64_encode_url, 1, CALL_COST }, { "decode_url", base64_decode_url, 1, CALL_COST },
};
static const struct expr_fn plain_fns[] = {
    { "sha256", plain_sha256, 1, CALL_COST }, { "hmac", plain_hmac, 1, CALL_COST }, { "uuid", plain_uuid, 1, CALL_COST },
};
/* clang-format on */

const struct expr_lib expr_lib_json = { .name = "json", .fns = json_fns, .count = COUNT(json_fns) };
const struct expr_lib expr_lib_date = { .name = "date", .fns = date_fns, .count = COUNT(date_fns) };
const struct expr_lib expr_lib_base64 = { .name = "base64", .fns = base64_fns, .count = COUNT(base64_fns) };
const struct expr_lib expr_lib_plain = { .fns = plain_fns, .count = COUNT(plain_fns) };
