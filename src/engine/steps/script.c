/* script.c - a Lua chunk in the sandbox of expr.h; what it returns is the output. */
#include "engine/steps/kinds.h"

static const struct field fields[] = {
    SHAPE_FIELD("code", F_STR, .flags = F_REQUIRED, .min = 1, .max = EXPR_CODE_BYTES,
                .doc = "Lua 5.4; `return` gives the output. Sees input, steps, trigger, args and the helpers",
                .example = "\"return args.a + args.b\""),
    SHAPE_FIELD("args", F_MAP, .item = F_JSON, .max = 100, .doc = "Values for the name `args`; may hold expressions"),
};
const struct table kind_script_with = SHAPE("ScriptWith", fields, .doc = "A script");

static void script_start(struct step_attempt *s)
{
    step_complete(s, s->special);
}

const struct step_kind kind_script = {
    .type = "script",
    .doc = "Runs Lua code",
    .with = &kind_script_with,
    .special = "code",
    .special_use = EXPR_SCRIPT,
    .output_doc = "The returned value",
    .start = script_start,
};
