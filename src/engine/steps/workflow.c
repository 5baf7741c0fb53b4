/* workflow.c - runs another workflow of the same tenant as a child execution. The child's row is inserted with the record that this step waits for it, and the
 * child's last commit makes this execution due: neither can be lost, and neither holds memory meanwhile. */
#include "engine/steps/kinds.h"

static const struct field fields[] = {
    SHAPE_FIELD("workflow_id", F_STR, .flags = F_REQUIRED | F_EXPR, .min = 1, .max = 64,
                .doc = "The workflow to run, in its present version"),
    SHAPE_FIELD("input", F_MAP, .flags = F_EXPR, .item = F_JSON, .max = 1000, .doc = "What it reads as input"),
    SHAPE_FIELD("wait", F_BOOL, .flags = F_EXPR, .preset = "true",
                .doc = "Whether this step waits for its end; without, it only starts it"),
};
const struct table kind_workflow_with = SHAPE("WorkflowWith", fields, .doc = "A child execution");

static void workflow_start(struct step_attempt *s)
{
    s->result = (struct step_result){ .what = RESULT_CHILD };
}

const struct step_kind kind_workflow = {
    .type = "workflow",
    .doc = "Runs another workflow",
    .with = &kind_workflow_with,
    .outside = true,
    .untestable = true,
    .spawns = true,
    .timeout_us = 30 * DAY_US,
    .output_doc = "The child's output; {execution_id} when it does not wait",
    .start = workflow_start,
};
