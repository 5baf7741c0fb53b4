/* expr_internal.h - what the files of the expression engine share; nothing outside of src/engine/expr_*.c, machine.c and their test
 * includes it.
 *
 * Work is paid for in one currency: Lua instructions. The count hook pays for the VM, and every C function that loops over bytes or
 * items pays through machine_spend() before or while it works, because no hook fires inside a C call. */
#pragma once

#include "engine/expr.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

enum {
    EXPR_TEMPLATES_MAX = 1000,       /* of one string */
    EXPR_DETAIL_BYTES = 1024,        /* of an error's text */
    EXPR_CHUNKS_MAX = 4096,          /* compiled chunks that a state keeps */
    EXPR_BYTES_PER_INSTRUCTION = 16, /* what C code may touch for the price of one instruction */
};

/* ---- compiled form */

struct expr_link {
    str key; /* p == NULL: an index */
    i64 index;
};
struct expr_code {
    u64 id;                       /* unique in the process: a cached chunk is never taken for another's */
    str source;                   /* without the braces */
    u32 line;                     /* of its first byte within the string */
    bool script;                  /* a chunk; otherwise one expression */
    bool quiet;                   /* cannot change anything that another expression of the value could see */
    const struct expr_link *path; /* NULL: not only a path. path[0].index is the expr_root */
    u32 links;
};
struct expr_part {
    const struct expr_code *code; /* NULL: literal text */
    str literal;
    bool encode; /* percent-encode what comes out */
};
enum expr_kind { EXPR_IS_CONSTANT, EXPR_IS_CODE, EXPR_IS_TEXT, EXPR_IS_ARRAY, EXPR_IS_OBJECT };
struct expr {
    enum expr_kind kind;
    bool truth;               /* EXPR_CONDITION: only true or false comes out */
    const struct json *value; /* the constant, or what gives an array its size and an object its keys */
    const struct expr_code *code;
    const struct expr_part *parts;
    const struct expr *children;
    u32 part_count;
};

/* The names of a scope, in the order of expr_root_names. */
enum expr_root {
    ROOT_INPUT,
    ROOT_STEPS,
    ROOT_TRIGGER,
    ROOT_EXECUTION,
    ROOT_WORKFLOW,
    ROOT_ITEM,
    ROOT_VARS,
    ROOT_ARGS,
    ROOT_COUNT
};
extern const char *const expr_root_names[ROOT_COUNT];
/* -1: no name of a scope. */
int expr_root_of(str name);
/* ROOT_STEPS has no node of its own: NULL. */
const struct json *expr_root_node(const struct expr_scope *scope, enum expr_root root);

/* ---- the machine */

enum expr_stop { STOP_NONE, STOP_INSTRUCTIONS, STOP_MEMORY, STOP_ARENA, STOP_VALUE, STOP_TOO_LARGE };

/* Slots of Lua's registry. luaL_ref keeps its free list just above LUA_RIDX_LAST, hence the distance. */
enum expr_slot {
    SLOT_CHUNKS = LUA_RIDX_LAST + 8, /* id -> compiled function */
    SLOT_NAMES,                      /* metatable of every _ENV; its __index is the table of all helpers */
    SLOT_ENV,                        /* _ENV of the running expression */
    SLOT_ORIGINS,                    /* weak: table -> JSON object it was made from; only while an evaluation runs */
    SLOT_ARRAY,                      /* metatable that marks arrays */
    SLOT_OBJECT,                     /* … and objects */
    SLOT_STEPS,                      /* metatable of `steps` */
    SLOT_WEAK,                       /* metatable of SLOT_ORIGINS */
};

struct expr_regex;
struct machine {
    lua_State *L;     /* NULL: opened by the next evaluation */
    size_t used, cap; /* bytes of the state */
    size_t settled;   /* bytes that outlived the last full collection */
    i64 budget;       /* instructions left */
    i64 unclocked;    /* instructions paid since the CPU clock was read */
    i64 cpu_end_us;   /* 0: not read yet */
    int hook_every;
    u32 chunks;
    enum expr_stop stop;
    const char *why; /* of STOP_VALUE; static */
    bool oom;        /* the system, not the cap, refused memory */
    bool env_shared; /* SLOT_ENV may serve the next quiet expression */
    bool only_lua;   /* tests: paths take the long way */
    u64 uuids;
    const struct expr_scope *scope;
    struct arena *arena;   /* takes results */
    struct arena *scratch; /* of helpers; rewound after each evaluation */
    struct arena_mark empty;
    struct expr_regex *regex;
};

/* An evaluation is begin, any number of runs, end. Begin fails with ERR_MEMORY only. */
err machine_begin(struct machine *m, const struct expr_scope *scope, struct arena *a) MUST;
err machine_run(struct machine *m, const struct expr_code *code, bool truth, struct json *out,
                struct expr_error *error) MUST;
void machine_end(struct machine *m);
/* Why the code does not compile, on the arena; STR_NONE when it does. `bare` comes from machine_new_bare(). */
err machine_check(struct machine *bare, const struct expr_code *code, struct arena *a, str *complaint) MUST;
struct machine *machine_new_bare(void) MUST;

static inline struct machine *machine_of(lua_State *L)
{
    return *(struct machine **)lua_getextraspace(L);
}
/* Pays n instructions; false, and m->stop set, when they are more than what is left. */
bool machine_afford(struct machine *m, i64 n) MUST;
/* The same, leaving the evaluation when it cannot pay. */
void machine_spend(lua_State *L, size_t n);
/* Pays for touching n bytes. */
void machine_spend_bytes(lua_State *L, size_t n);
_Noreturn void machine_stop(lua_State *L, enum expr_stop stop);
/* After the scratch arena returned NULL. */
_Noreturn void machine_stop_scratch(lua_State *L);

/* ---- JSON and Lua (expr_json.c); all of these may leave by a Lua error, so they run under lua_pcall only */

void expr_push(lua_State *L, const struct json *j);
void expr_push_null(lua_State *L);
bool expr_is_null(lua_State *L, int index);
/* The value at the top as JSON on the arena: STOP_NONE, STOP_VALUE (sets m->why), STOP_TOO_LARGE, STOP_ARENA. */
enum expr_stop expr_take(lua_State *L, struct arena *a, struct json *out);
/* Whether the JSON text of j has at most `max` bytes. */
bool expr_fits(const struct json *j, size_t max);

/* ---- names (expr_lib.c, expr_help.c, expr_regex.c) */

struct expr_fn {
    const char *name;
    lua_CFunction own; /* NULL: the standard library's */
    int paid_from;     /* strings from this argument on are paid by the byte; 0: nothing is paid */
    int cost;          /* of a call, besides its arguments */
};
struct expr_lib {
    const char *name;
    lua_CFunction open; /* of the standard library; NULL: all functions are ours */
    const struct expr_fn *fns;
    size_t count;
};
extern const struct expr_lib expr_lib_json, expr_lib_date, expr_lib_base64, expr_lib_plain, expr_lib_regex;
/* Fills the state: metatables, helpers, libraries. A lua_CFunction. */
int expr_open(lua_State *L);
/* One function of a library as user code sees it, pushed. `standard` is the index of the library's table (0: none). */
void expr_push_fn(lua_State *L, const struct expr_fn *fn, int standard);
void expr_regex_free(struct expr_regex *r);

/* A view of the string argument i. */
static inline str expr_arg(lua_State *L, int i)
{
    str s;
    s.p = luaL_checklstring(L, i, &s.n);
    return s;
}
static inline void expr_push_str(lua_State *L, str s)
{
    lua_pushlstring(L, s.p, s.n);
}
