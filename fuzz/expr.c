/* expr.c - expressions, written by whoever may attack: compiled and run in the sandbox. Whatever happens ends by a value or by an error with a code; paths give the same by
 * reference and through Lua; and the machine still can count afterwards. The first byte chooses how the text is used. */
#include "fuzz.h"

#include "engine/expr_internal.h"

static const char input[] =
    "{\"a\":1,\"b\":[1,2.5,\"x\",null,true],\"c\":{\"d\":{\"e\":\"f\"}},\"s\":\"caf\\u00e9 {{\",\"n\":null,"
    "\"big\":9007199254740993,\"end\":2,\"list\":[{\"id\":1},{\"id\":2}]}";
static const char step[] = "{\"status\":\"completed\",\"output\":{\"body\":{\"items\":[1,2]}},\"error\":null}";

struct outcome {
    err e;
    str text; /* of the value, or the code */
};

static const struct json *step_named(void *ctx, str id)
{
    return str_eq(id, S("fetch")) ? ctx : NULL;
}

static struct json *parse(struct arena *a, const char *text)
{
    struct json *j;
    err e = json_parse(a, str_of(text), &j, NULL);
    assert(e == OK);
    return j;
}

static struct expr_scope scope_of(struct arena *a)
{
    return (struct expr_scope){ .input = parse(a, input),
                                .trigger = parse(a, "{\"method\":\"POST\"}"),
                                .item = parse(a, "[7,8]"),
                                .args = parse(a, "{\"n\":3}"),
                                .step = step_named,
                                .ctx = parse(a, step),
                                .now_us = 1700000000123456,
                                .random_seed = S("fuzz") };
}

static struct outcome eval(struct machine *m, const struct expr *e, const struct expr_scope *scope, struct arena *a,
                           bool only_lua)
{
    struct json value;
    struct expr_error error = { 0 };
    m->only_lua = only_lua;
    err result = expr_eval(m, e, scope, a, &value, &error);
    m->only_lua = false;
    if (result == OK)
        return (struct outcome){ OK, json_text(a, &value) };
    assert(result == ERR_MEMORY || (result == ERR_INVALID && error.code != NULL && str_utf8(error.detail)));
    return (struct outcome){ result, str_of(error.code) };
}

/* Budgets are spent differently by the two ways. */
static bool comparable(struct outcome o)
{
    return o.e == OK || (o.e == ERR_INVALID && (str_eq(o.text, S("expr.runtime")) || str_eq(o.text, S("expr.value"))));
}

static const struct expr *compile(struct arena *a, enum expr_use use, const struct json *value)
{
    struct problems problems = { .arena = a };
    const struct expr *e = NULL;
    err result = expr_compile(a, use, value, S(""), &problems, &e);
    assert((result == OK) == (e != NULL) && (result == ERR_INVALID) == (problems.n > 0));
    return e;
}

static void claim_still_counts(struct machine *m, struct arena *a)
{
    const struct json sum = json_of_str(S("{{ 20 + 22 }}"));
    const struct expr_scope nothing = { .random_seed = S("fuzz") };
    struct outcome o = eval(m, compile(a, EXPR_VALUE, &sum), &nothing, a, false);
    assert(o.e == OK && str_eq(o.text, S("42")));
}

static void run(struct arena *a, const struct expr *e)
{
    struct machine *m = machine_new();
    struct expr_scope scope = scope_of(a);
    assert(m != NULL);
    struct outcome first = eval(m, e, &scope, a, false), second = eval(m, e, &scope, a, true);
    if (comparable(first) && comparable(second))
        assert(first.e == second.e && str_eq(first.text, second.text));
    claim_still_counts(m, a);
    machine_free(m);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const enum expr_use uses[] = { EXPR_VALUE, EXPR_URL, EXPR_CONDITION, EXPR_SCRIPT };
    struct arena *a = arena_new((size_t)4 * FUZZ_ARENA);
    assert(a != NULL);
    enum expr_use use = uses[fuzz_choice(&data, &size) % COUNT(uses)];
    str text = fuzz_text(a, data, size);
    struct json string = json_of_str(text), *value = &string;
    if (use == EXPR_VALUE && json_parse(a, text, &value, NULL) != OK)
        value = &string;
    const struct expr *e = str_utf8(text) ? compile(a, use, value) : NULL; /* definitions are JSON, hence UTF-8 */
    if (e != NULL)
        run(a, e);
    arena_free(a);
    return 0;
}
