/* foreach.c - runs steps of its own once for each item of a list, some of them at the same time. Here is only what it takes and says; the iterations are frames of
 * the run (frame.c), so that each of their steps is recorded, retried and resumed like any other. */
#include "engine/definition.h"
#include "engine/steps/kinds.h"

static const char *const error_policies[] = { "fail", "continue", NULL };

static const struct table *block_late(void)
{
    return &block_table;
}

static const struct field item_field = SHAPE_FIELD("item", F_JSON, .flags = F_NULLABLE, .max = EXPR_VALUE_BYTES,
                                                   .doc = "What one iteration reads as item");

static const struct field fields[] = {
    SHAPE_FIELD("items", F_LIST, .flags = F_REQUIRED | F_EXPR, .each = &item_field, .max = FOREACH_ITEMS_MAX,
                .doc = "A list; its steps run once for each item", .example = "\"{{ input.customers }}\""),
    SHAPE_FIELD(
        "steps", F_OBJECT, .flags = F_REQUIRED | F_WRITTEN, .of_late = block_late,
        .doc = "The steps of one iteration, as a definition; they read its item as `item`",
        .example =
            "{\"steps\":[{\"id\":\"greet\",\"type\":\"transform\",\"with\":{\"text\":\"Dear {{ item.name }}\"}}]}"),
    SHAPE_FIELD("concurrency", F_I64, .flags = F_EXPR, .min = 1, .max = FOREACH_CONCURRENCY_MAX, .preset = "1",
                .doc = "How many iterations run at the same time; they begin in the order of the list"),
    SHAPE_FIELD("on_error", F_STR, .one_of = error_policies, .preset = "\"fail\"",
                .doc = "Whether an iteration that fails fails the step, or gives {error} as its result"),
};
const struct table kind_foreach_with = SHAPE("ForeachWith", fields, .doc = "A loop");

static void foreach_start(struct step_attempt *s)
{
    s->result = (struct step_result){ .what = RESULT_EACH };
}

const struct step_kind kind_foreach = {
    .type = "foreach",
    .doc = "Runs steps once for each item of a list",
    .with = &kind_foreach_with,
    .nested = "steps",
    .untestable = true,
    .timeout_us = 30 * DAY_US,
    .output_doc =
        "A list of results in the order of the items: what the last steps of the iteration gave, by their ids, "
        "or {error: {code, message, step_id}}",
    .start = foreach_start,
};
