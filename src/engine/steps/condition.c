/* condition.c - a decision that others read: `steps.<id>.output.result`. It steers nothing by itself; dependants name it in their conditions. */
#include "engine/steps/kinds.h"

static const struct field fields[] = {
    SHAPE_FIELD("if", F_STR, .flags = F_REQUIRED, .min = 1, .max = EXPR_CODE_BYTES,
                .doc = "An expression, with or without braces; null and false are false, all else is true",
                .example = "\"input.amount > 100\""),
};
const struct table kind_condition_with = SHAPE("ConditionWith", fields, .doc = "A decision");

static void condition_start(struct step_attempt *s)
{
    struct json out = { .type = JSON_OBJECT };
    if (json_set(s->arena, &out, S("result"), json_of_bool(expr_truth(&s->special))))
        step_complete(s, out);
    else
        step_starved(s);
}

const struct step_kind kind_condition = {
    .type = "condition",
    .doc = "Decides whether something is true",
    .with = &kind_condition_with,
    .special = "if",
    .special_use = EXPR_CONDITION,
    .output_doc = "{result}: true or false",
    .start = condition_start,
};
