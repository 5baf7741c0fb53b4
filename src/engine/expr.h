/* expr.h - expressions: Lua 5.4 in {{ }}, compiled once per workflow version, run in a sandbox that an attacker may write for.
 *
 * A value of a definition (any JSON) is compiled with all the templates in its strings. A string that is one expression keeps
 * the result's type; inside text results are formatted. An expression that is only a path (`steps.fetch.output.body.items[1].id`)
 * never enters Lua: it passes the JSON node by reference. Names: input steps trigger execution workflow item vars, and the pure
 * helpers json date base64 sha256 hmac uuid regex.
 *
 * What a writer of expressions should know: a literal "{{" is written {{ "{{" }}. JSON null is json.null, which Lua counts as true (a table
 * cannot hold nil); an absent member is nil; both come out as null, as "" inside text, and as false from a condition. Positions count from 1.
 * {} is an object, json.array{} an empty array; a table with both names and positions, or with holes, is no JSON. string.find is always
 * plain; patterns are `regex` (PCRE2, UTF-8). No expression sees what another one assigned, not even within one value.
 *
 * Compiled expressions are immutable and shared; a machine (one Lua state) belongs to one worker thread. Each evaluation gets a fresh
 * _ENV; a state that was stopped or ran out of memory is dropped, so nothing passes from one tenant to the next. */
#pragma once

#include "codec/field.h"

#ifdef __SANITIZE_THREAD__
enum { EXPR_CPU_US = 2500 * 1000 }; /* so much slower it is: the count is to be first there as well */
#else
enum { EXPR_CPU_US = 250 * 1000 }; /* per evaluation: the net under the instruction count */
#endif

enum {
    EXPR_INSTRUCTIONS = 1000000,          /* per evaluation */
    EXPR_CODE_BYTES = 64 * 1024,          /* of one expression or script */
    EXPR_VALUE_BYTES = 4 * 1024 * 1024,   /* of a result, as JSON */
    EXPR_MEMORY_BYTES = 32 * 1024 * 1024, /* of the Lua state */
};

struct expr; /* a compiled value */

/* Which text goes around {{ }}. */
enum expr_use {
    EXPR_VALUE, /* any JSON value with templates in its strings */
    EXPR_URL, /* a string; values inside text are percent-encoded (not a whole-string expression, nor one at the very start of the text, which may be the base URL) */
    EXPR_CONDITION, /* a string that is a bare expression (without {{ }}; with them is fine too); the result counts as true or false as in Lua, plus: "" , 0 stay true */
    EXPR_SCRIPT,    /* a string that is a Lua chunk; `return` gives the result; `args` is a name in it */
};
/* Compiles on the plan's arena. Every error of every template is added to `problems` at its pointer (code "expr.syntax", with the line), and
 * ERR_INVALID follows. The value must outlive the expr. */
err expr_compile(struct arena *a, enum expr_use use, const struct json *value, str pointer, struct problems *problems,
                 const struct expr **out) MUST;
/* True when the value holds no template at all: then it is its own result. */
bool expr_is_constant(const struct expr *e);

/* What the names stand for in one evaluation. NULL nodes read as nil. Everything must stay unchanged and alive while results are used:
 * results share nodes with it. */
struct expr_scope {
    const struct json *input, *trigger, *execution, *workflow, *item, *vars, *args;
    const struct json *(*step)(void *ctx,
                               str step_id); /* {status, output, error} of a step, NULL when it has not ended */
    void *ctx;
    i64 now_us; /* what date.now() says */
    str random_seed; /* uuid() is derived from it and a counter: the same execution and step gives the same ids when it runs again */
};
struct expr_error {
    const char *
        code; /* "expr.runtime", "expr.instructions", "expr.memory", "expr.value" (not JSON: function, cycle, NaN key), "expr.too_large"; static */
    str detail; /* Lua's message without paths, with the line; on the arena */
};

struct machine;
struct machine *machine_new(void) MUST; /* NULL when out of memory */
void machine_free(struct machine *m);
/* Evaluates on the machine's thread. The result lives on `a` or is shared with the scope or the expr. ERR_INVALID fills *error: the workflow's
 * fault; ERR_MEMORY: the arena's cap. */
err expr_eval(struct machine *m, const struct expr *e, const struct expr_scope *scope, struct arena *a,
              struct json *result, struct expr_error *error) MUST;
/* Lua's truth: everything but null and false. */
bool expr_truth(const struct json *j);
