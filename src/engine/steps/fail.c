/* fail.c - ends the execution as failed, on purpose. */
#include "engine/steps/kinds.h"

static const struct field fields[] = {
    SHAPE_FIELD("message", F_STR, .flags = F_EXPR, .max = 500, .preset = "\"Failed by a fail step\"",
                .doc = "Why, for people"),
    SHAPE_FIELD("code", F_STR, .flags = F_EXPR, .max = 100, .preset = "\"workflow.failed\"",
                .doc = "Why, for programs"),
};
const struct table kind_fail_with = SHAPE("FailWith", fields, .doc = "A failure");

static void fail_start(struct step_attempt *s)
{
    str message = json_str(json_get(s->with, S("message")));
    const char *code = str_z(s->arena, json_str(json_get(s->with, S("code"))));
    if (message.p == NULL)
        message = S("Failed by a fail step");
    step_fail(s, code != NULL && code[0] != '\0' ? code : "workflow.failed", false, "%.*s", STR_FMT(message));
}

const struct step_kind kind_fail = {
    .type = "fail",
    .doc = "Fails the execution with a message",
    .with = &kind_fail_with,
    .output_doc = "None",
    .start = fail_start,
};
