/* machine.c - one Lua state with its limits: memory, instructions, CPU time, and the cache of compiled chunks.
 *
 * Once `stop` is set nothing grows and nothing is caught any more: the allocator refuses, pcall passes the error on, and the state is
 * dropped after the evaluation, so that half-done work of one tenant is never met by the next. Memory comes from realloc(), not from
 * an arena: Lua frees object by object, and the cap is counted here. */
#include "engine/expr_internal.h"
#include "base/fault.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    HOOK_EVERY = 1000,        /* instructions between two looks at the budget */
    HOOK_EVERY_LEAST = 4,     /* … when a single one may work on megabytes */
    LONG_STRING = 16 * 1024,  /* from here on comparing or converting a string costs more than the hook may overlook */
    LARGE_BLOCK = 256 * 1024, /* the same for the parts of tables and the stack */
    BYTES_PER_INSTRUCTION = 64,               /* allocating and filling memory */
    STRING_MAX = EXPR_VALUE_BYTES + 64,       /* with its header; longer ones could be no result anyway */
    COLLECTION_COST = EXPR_INSTRUCTIONS / 10, /* a forced full collection walks up to 32 MiB */
    SETTLE_BYTES = 4 * 1024 * 1024,           /* garbage left between two evaluations */
    STATE_BYTES = 8 * 1024 * 1024,            /* cached chunks; a state with more is dropped */
};

/* ---- paying */

/* CPU time of this thread, not the time of day: a loaded computer must not fail a workflow that is within its count. */
static i64 cpu_now_us(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0)
        return 0;
    return t.tv_sec * SECOND_US + t.tv_nsec / 1000;
}

static bool cpu_left(struct machine *m)
{
    i64 now = cpu_now_us();
    if (m->cpu_end_us == 0)
        m->cpu_end_us = now + EXPR_CPU_US;
    m->unclocked = 0;
    return now <= m->cpu_end_us;
}

bool machine_afford(struct machine *m, i64 n)
{
    m->budget -= n;
    m->unclocked += n;
    if (m->stop == STOP_NONE && (m->budget < 0 || (m->unclocked >= HOOK_EVERY && !cpu_left(m))))
        m->stop = STOP_INSTRUCTIONS;
    return m->stop == STOP_NONE;
}

void machine_stop(lua_State *L, enum expr_stop stop)
{
    struct machine *m = machine_of(L);
    if (m->stop == STOP_NONE)
        m->stop = stop;
    lua_pushnil(L); /* no message: making one would need memory */
    lua_error(L);
    abort(); /* lua_error does not return */
}

/* The scratch arena says no at its cap, which is the script's doing, and when the process has no more to give. No helper asks for most
 * of it at once, so an arena that is nearly empty tells the second. */
void machine_stop_scratch(lua_State *L)
{
    size_t used = arena_used(machine_of(L)->scratch);
    machine_stop(L, used < EXPR_MEMORY_BYTES / 4 ? STOP_ARENA : STOP_MEMORY);
}

void machine_spend(lua_State *L, size_t n)
{
    if (!machine_afford(machine_of(L), (i64)MIN(n, (size_t)EXPR_INSTRUCTIONS * 2)))
        machine_stop(L, STOP_INSTRUCTIONS);
}

void machine_spend_bytes(lua_State *L, size_t n)
{
    machine_spend(L, n / EXPR_BYTES_PER_INSTRUCTION);
}

static void on_count(lua_State *L, lua_Debug *ar UNUSED)
{
    struct machine *m = machine_of(L);
    if (m->hook_every < HOOK_EVERY)
        m->unclocked = HOOK_EVERY; /* large things are about: look at the clock each time */
    if (!machine_afford(m, m->hook_every))
        machine_stop(L, STOP_INSTRUCTIONS);
}

static void hook_each(struct machine *m, int every)
{
    m->hook_every = every;
    if (m->L != NULL)
        lua_sethook(m->L, on_count, LUA_MASKCOUNT, every);
}

/* ---- memory */

/* One instruction may compare, convert or copy all of what is allocated here, and neither the hook nor the budget sees its size. So the
 * hook, which reads the CPU clock, comes the more often the larger things are. lua_sethook may be called at any point. */
static void hook_sooner(struct machine *m, size_t n, bool string)
{
    size_t weight = n / (string ? LONG_STRING : LARGE_BLOCK);
    int every = weight < 2 ? HOOK_EVERY : MAX((int)(HOOK_EVERY / MIN(weight, (size_t)HOOK_EVERY)), HOOK_EVERY_LEAST);
    if (every <= m->hook_every / 2)
        hook_each(m, every);
}

/* Lua answers a refusal by a full collection and a second try, so memory that only garbage filled is found. An evaluation that lives
 * on these collections pays for them. */
static bool may_grow(struct machine *m, size_t had, size_t n, bool string)
{
    if (m->stop == STOP_INSTRUCTIONS || m->stop == STOP_MEMORY)
        return false;
    bool fits = m->used - had + n <= m->cap;
    bool paid = machine_afford(m, fits ? (i64)(n / BYTES_PER_INSTRUCTION) : COLLECTION_COST);
    if ((string && n > STRING_MAX) || (!fits && !paid))
        m->stop = STOP_MEMORY;
    if (!fits || !paid || m->stop == STOP_MEMORY)
        return false;
    hook_sooner(m, n, string);
    return true;
}

/* Lua relies on shrinking never to fail, and tells the kind of a new object in old_n. */
static void *machine_alloc(void *ud, void *p, size_t old_n, size_t n)
{
    struct machine *m = ud;
    size_t had = p != NULL ? old_n : 0;
    if (n == 0) {
        m->used -= had;
        free(p);
        return NULL;
    }
    if (n > had && !may_grow(m, had, n, p == NULL && old_n == LUA_TSTRING))
        return NULL;
    void *q = n > had && fault_hit(FAULT_ALLOC) ? NULL : realloc(p, n);
    if (q == NULL && n > had) {
        m->oom = true;
        return NULL;
    }
    m->used += n - had;
    return q != NULL ? q : p;
}

/* ---- the state */

/* Outside of an evaluation (opening, compiling) the work is ours and bounded by the size of the code. */
static void limits_lift(struct machine *m)
{
    m->stop = STOP_NONE;
    m->why = NULL;
    m->oom = false;
    m->budget = INT64_MAX;
    m->unclocked = INT64_MIN / 2;
    m->cap = m->used + EXPR_MEMORY_BYTES;
    m->hook_every = 0;
}

static void state_close(struct machine *m)
{
    if (m->L != NULL)
        lua_close(m->L);
    m->L = NULL;
    m->chunks = 0;
    m->env_shared = false;
    expr_regex_free(m->regex);
    m->regex = NULL;
}

static err state_open(struct machine *m, lua_CFunction fill)
{
    limits_lift(m);
    m->L = lua_newstate(machine_alloc, m);
    if (m->L == NULL)
        return ERR_MEMORY;
    *(struct machine **)lua_getextraspace(m->L) = m;
    lua_pushcfunction(m->L, fill);
    if (lua_pcall(m->L, 0, 0, 0) != LUA_OK) {
        state_close(m);
        return ERR_MEMORY;
    }
    lua_gc(m->L, LUA_GCCOLLECT);
    m->settled = m->used;
    return OK;
}

struct machine *machine_new_bare(void)
{
    return fault_hit(FAULT_ALLOC) ? NULL : calloc(1, sizeof(struct machine));
}

struct machine *machine_new(void)
{
    struct machine *m = machine_new_bare();
    if (m == NULL)
        return NULL;
    m->scratch = arena_new(EXPR_MEMORY_BYTES);
    bool ready =
        m->scratch != NULL && arena_alloc(m->scratch, 1) != NULL; /* one chunk is there before the mark, and so stays */
    if (!ready || state_open(m, expr_open) != OK) {
        machine_free(m);
        return NULL;
    }
    m->empty = arena_mark(m->scratch);
    return m;
}

void machine_free(struct machine *m)
{
    if (m == NULL)
        return;
    state_close(m);
    arena_free(m->scratch);
    free(m);
}

/* ---- chunks */

/* Hands the code to Lua as it stands in its string: line ends before it, so that Lua counts the lines of the string, and `return`. */
struct reader {
    const struct expr_code *code;
    u32 line;
    enum { READ_LINES, READ_RETURN, READ_SOURCE, READ_END } at;
};

static const char *read_code(lua_State *L UNUSED, void *ud, size_t *n)
{
    static const char lines[64] = { [0 ... 63] = '\n' };
    struct reader *r = ud;
    if (r->at == READ_LINES && r->line < r->code->line) {
        *n = MIN(r->code->line - r->line, sizeof lines);
        r->line += (u32)*n;
        return lines;
    }
    r->at = r->at == READ_LINES ? (r->code->script ? READ_SOURCE : READ_RETURN) : r->at + 1;
    str s = r->at == READ_RETURN ? S("return ") : r->at == READ_SOURCE ? r->code->source : STR_NONE;
    *n = s.n;
    return s.n > 0 ? s.p : NULL;
}

/* Pushes the function or the message. "t": binary code can break the interpreter. */
static int load_code(lua_State *L, const struct expr_code *code)
{
    struct reader r = { .code = code, .line = 1 };
    return lua_load(L, read_code, &r, "=line", "t");
}

/* What a run costs must not depend on whether the chunk was in the cache. */
static void push_chunk(lua_State *L, struct machine *m, const struct expr_code *code)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_CHUNKS);
    if (lua_rawgeti(L, -1, (lua_Integer)code->id) == LUA_TNIL) {
        lua_pop(L, 1);
        i64 budget = m->budget;
        m->budget = INT64_MAX;
        int status = load_code(L, code);
        m->budget = budget;
        if (status != LUA_OK)
            lua_error(L);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, (lua_Integer)code->id);
        m->chunks++;
    }
    lua_remove(L, -2);
}

/* ---- errors */

static const char *const stop_codes[] = {
    [STOP_NONE] = "expr.runtime",  [STOP_INSTRUCTIONS] = "expr.instructions",
    [STOP_MEMORY] = "expr.memory", [STOP_ARENA] = "expr.memory",
    [STOP_VALUE] = "expr.value",   [STOP_TOO_LARGE] = "expr.too_large",
};
static const char *const stop_texts[] = {
    [STOP_NONE] = "stopped",
    [STOP_INSTRUCTIONS] = "more work than 1,000,000 instructions",
    [STOP_MEMORY] = "more than 32 MiB of memory, or a text of more than 4 MiB",
    [STOP_ARENA] = "out of memory",
    [STOP_VALUE] = "not a JSON value",
    [STOP_TOO_LARGE] = "the result has more than 4 MiB",
};

/* Cut where a character begins; what is no text is not shown. */
static str presentable(struct arena *a, const char *p, size_t n)
{
    str s = { p, MIN(n, (size_t)EXPR_DETAIL_BYTES) };
    while (s.n < n && s.n > 0 && ((u8)p[s.n] & 0xC0) == 0x80)
        s.n--;
    if (!str_utf8(s) || memchr(s.p, 0, s.n) != NULL)
        return S("an error whose message is no text");
    if (str_starts(s, S("line:")))
        return strf(a, "line %.*s", STR_FMT(str_slice(s, 5, s.n)));
    return str_dup(a, s);
}

/* Of the error value at the top. It must not be converted: outside of a protected call that could end the process. */
static str error_text(lua_State *L, struct arena *a)
{
    if (lua_type(L, -1) != LUA_TSTRING)
        return strf(a, "the error is a %s value", lua_typename(L, lua_type(L, -1)));
    size_t n;
    const char *p = lua_tolstring(L, -1, &n);
    return presentable(a, p, n);
}

/* The buffers of lauxlib raise "not enough memory" as an ordinary error. */
static bool is_out_of_memory(lua_State *L, int status)
{
    if (status == LUA_ERRMEM)
        return true;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    return strcmp(text, "not enough memory") == 0;
}

static err run_failed(struct machine *m, int status, struct expr_error *error)
{
    if (m->stop == STOP_NONE && is_out_of_memory(m->L, status))
        m->stop = STOP_MEMORY;
    if (m->stop == STOP_ARENA || (m->stop == STOP_MEMORY && m->oom))
        return ERR_MEMORY;
    str detail = m->stop == STOP_NONE ? error_text(m->L, m->arena) : str_of(stop_texts[m->stop]);
    if (m->stop == STOP_VALUE && m->why != NULL)
        detail = str_of(m->why);
    if (detail.p == NULL)
        return ERR_MEMORY;
    *error = (struct expr_error){ stop_codes[m->stop], detail };
    return ERR_INVALID;
}

/* ---- running */

struct call {
    struct machine *m;
    const struct expr_code *code;
    bool truth;
    struct json *out;
};

/* Expressions of one value must not see what another one did, yet share the tables made of the scope: only those that cannot do
 * anything share an _ENV. */
static void push_env(lua_State *L, struct machine *m, bool quiet)
{
    if (!m->env_shared || !quiet) {
        lua_newtable(L);
        lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_NAMES);
        lua_setmetatable(L, -2);
        lua_rawseti(L, LUA_REGISTRYINDEX, SLOT_ENV);
    }
    m->env_shared = quiet;
    lua_rawgeti(L, LUA_REGISTRYINDEX, SLOT_ENV);
}

static int run_protected(lua_State *L)
{
    struct call *c = lua_touserdata(L, 1);
    push_chunk(L, c->m, c->code);
    push_env(L, c->m, c->code->quiet);
    lua_setupvalue(L, -2, 1);
    hook_each(c->m, c->m->hook_every); /* compiling must not run under the hook, nor what follows without it */
    lua_call(L, 0, 1);
    if (c->truth) {
        *c->out = json_of_bool(lua_toboolean(L, -1) && !expr_is_null(L, -1));
        return 0;
    }
    enum expr_stop stop = expr_take(L, c->m->arena, c->out);
    if (stop != STOP_NONE)
        machine_stop(L, stop);
    return 0;
}

/* The cached function would keep the _ENV, and with it a whole input, alive. */
static void forget_env(struct machine *m, const struct expr_code *code)
{
    lua_settop(m->L, 0);
    lua_rawgeti(m->L, LUA_REGISTRYINDEX, SLOT_CHUNKS);
    if (lua_rawgeti(m->L, -1, (lua_Integer)code->id) == LUA_TFUNCTION) {
        lua_pushnil(m->L);
        lua_setupvalue(m->L, -2, 1);
    }
    lua_settop(m->L, 0);
}

err machine_begin(struct machine *m, const struct expr_scope *scope, struct arena *a)
{
    if (m->L == NULL)
        TRY(state_open(m, expr_open));
    limits_lift(m);
    m->budget = EXPR_INSTRUCTIONS;
    m->unclocked = 0;
    m->cpu_end_us = 0;
    m->hook_every = HOOK_EVERY;
    m->uuids = 0;
    m->scope = scope;
    m->arena = a;
    return OK;
}

err machine_run(struct machine *m, const struct expr_code *code, bool truth, struct json *out, struct expr_error *error)
{
    struct json value = json_null;
    struct call c = { m, code, truth, &value };
    lua_pushcfunction(m->L, run_protected);
    lua_pushlightuserdata(m->L, &c);
    int status = lua_pcall(m->L, 1, 0, 0);
    err e = status == LUA_OK ? OK : run_failed(m, status, error);
    forget_env(m, code);
    if (e == OK)
        *out = value;
    return e;
}

static void forget_slot(struct machine *m, int slot)
{
    lua_pushnil(m->L);
    lua_rawseti(m->L, LUA_REGISTRYINDEX, slot);
}

/* Nothing of the evaluation stays: neither values nor, after a stop, the state. The cap of the next one starts above what is there, so
 * what an evaluation may use does not depend on its predecessors. */
void machine_end(struct machine *m)
{
    bool stopped = m->stop == STOP_INSTRUCTIONS || m->stop == STOP_MEMORY;
    forget_slot(m, SLOT_ENV);
    forget_slot(m, SLOT_ORIGINS);
    m->env_shared = false;
    m->scope = NULL;
    m->arena = NULL;
    arena_rewind(m->scratch, m->empty);
    lua_sethook(m->L, NULL, 0, 0);
    limits_lift(m);
    if (!stopped && m->used > m->settled + SETTLE_BYTES) {
        lua_gc(m->L, LUA_GCCOLLECT);
        m->settled = m->used;
    }
    if (stopped || m->chunks >= EXPR_CHUNKS_MAX || m->settled > STATE_BYTES)
        state_close(m);
}

/* ---- checking */

static int fill_nothing(lua_State *L UNUSED)
{
    return 0;
}

static int load_protected(lua_State *L)
{
    if (load_code(L, lua_touserdata(L, 1)) != LUA_OK)
        lua_error(L);
    return 0;
}

err machine_check(struct machine *bare, const struct expr_code *code, struct arena *a, str *complaint)
{
    if (bare->L == NULL)
        TRY(state_open(bare, fill_nothing));
    limits_lift(bare);
    lua_pushcfunction(bare->L, load_protected);
    lua_pushlightuserdata(bare->L, (void *)(uintptr_t)code);
    int status = lua_pcall(bare->L, 1, 0, 0);
    str text = STR_NONE;
    if (status != LUA_OK)
        text = error_text(bare->L, a);
    bool oom = bare->oom && status == LUA_ERRMEM;
    lua_settop(bare->L, 0);
    if (oom || (status != LUA_OK && text.p == NULL))
        return ERR_MEMORY;
    *complaint = text;
    return OK;
}
