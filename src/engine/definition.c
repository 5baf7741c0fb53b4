/* definition.c - the tables of a definition. What depends on several members (ids, cycles, expressions) is checked by plan.c. */
#include "engine/definition.h"
#include "base/code.h"
#include "engine/step.h"

/* Of whatever says what is wrong with a definition: these tables, plan.c and the compiler of expressions. */
CODES(definition_codes, CODE_ENTRY, { "definition.step_id", "The id of a step has other characters than it may" },
      { "definition.duplicate_step", "Two steps have the same id" },
      { "definition.unknown_step", "There is no step of this id" },
      { "definition.reserved_step", "The id of a step means something else where it stands" },
      { "definition.outermost", "A step of this type cannot stand inside of a foreach" },
      { "definition.no_retry", "A foreach is not tried again as a whole: its steps are, by their own retry" },
      { "definition.too_deep", "More than four foreach steps are inside of each other" },
      { "definition.not_dependent", "A step of a case must wait for the switch" },
      { "definition.cycle", "Steps wait for each other in a circle" },
      { "switch.default", "A case cannot be called default: that is what no case is called" },
      { "delay.one_of", "Exactly one of ms and until must be given" },
      { "expr.syntax", "The expression is no valid Lua, or a template does not end" },
      { "expr.too_large", "The expression has more than 64 KiB, or a string more than 1,000 templates" });

static err check_step_id(str id, const char **code, const char **detail)
{
    bool good = id.n > 0 && !(id.p[0] >= '0' && id.p[0] <= '9') && id.p[0] != '-';
    for (size_t i = 0; i < id.n && good; i++) {
        char c = id.p[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    }
    if (good)
        return OK;
    *code = "definition.step_id";
    *detail = "A step id is a letter or underscore, then letters, digits, underscores and hyphens";
    return ERR_INVALID;
}

static const char *const backoffs[] = { "fixed", "exponential", NULL };
static const char *const joins[] = { "all", "any", "always", NULL };
static const char *const error_policies[] = { "fail", "continue", NULL };
static const char *const saves[] = { "all", "errors", "none", NULL };

static const struct field retry_fields[] = {
    SHAPE_FIELD("max_attempts", F_I64, .min = 1, .max = 100, .preset = "1",
                .doc = "How often the step is tried in all"),
    SHAPE_FIELD("backoff", F_STR, .one_of = backoffs, .preset = "\"exponential\"",
                .doc = "How the wait grows from attempt to attempt"),
    SHAPE_FIELD("initial_ms", F_I64, .min = 0, .max = 3600000, .preset = "1000",
                .doc = "Wait before the second attempt"),
    SHAPE_FIELD("max_ms", F_I64, .min = 0, .max = 86400000, .preset = "300000", .doc = "Longest wait between attempts"),
};
static const struct table retry_table =
    SHAPE("RetryPolicy", retry_fields,
          .doc = "When a step that failed for a passing reason is tried again (connection errors, 408, 425, 429, 5xx)");

static const struct field position_fields[] = {
    SHAPE_FIELD("x", F_F64, .flags = F_REQUIRED, .min_real = -1e6, .max_real = 1e6,
                .doc = "Horizontal place on the canvas"),
    SHAPE_FIELD("y", F_F64, .flags = F_REQUIRED, .min_real = -1e6, .max_real = 1e6,
                .doc = "Vertical place on the canvas"),
};
static const struct table position_table =
    SHAPE("StepPosition", position_fields, .doc = "Where an editor draws the step");

static const struct field step_fields[] = {
    SHAPE_FIELD("id", F_STR, .flags = F_REQUIRED, .min = 1, .max = 64, .check = check_step_id,
                .doc = "Name of the step within the workflow", .example = "\"fetch\""),
    SHAPE_FIELD("name", F_STR, .max = 120, .doc = "Shown to people in place of the id"),
    SHAPE_FIELD("type", F_STR, .flags = F_REQUIRED, .one_of = step_types, .doc = "Kind of the step",
                .example = "\"http\""),
    SHAPE_FIELD("with", F_VARIANT, .by = "type", .variants_late = step_variants,
                .doc = "Configuration of the step; strings may hold {{ expressions }}"),
    SHAPE_FIELD("retry", F_OBJECT, .of = &retry_table, .doc = "Without it a step is tried once"),
    SHAPE_FIELD("timeout_ms", F_I64, .min = 1, .max = 600000, .doc = "Deadline of one attempt"),
    SHAPE_FIELD("on_error", F_STR, .one_of = error_policies, .preset = "\"fail\"",
                .doc = "Whether its failure fails the execution"),
    SHAPE_FIELD("join", F_STR, .one_of = joins, .preset = "\"all\"",
                .doc = "Which of its dependencies must have ended, and how, before it runs"),
    SHAPE_FIELD("at_most_once", F_BOOL, .preset = "false",
                .doc = "After a crash in the middle of it, the step waits for a person instead of running again"),
    SHAPE_FIELD("position", F_OBJECT, .of = &position_table, .doc = "For editors; the engine ignores it"),
};
const struct table step_table = SHAPE("Step", step_fields, .doc = "One step of a workflow");

static const char *const slot_policies[] = { "queue", "reject", "replace", NULL };
static const struct field concurrency_fields[] = {
    SHAPE_FIELD("limit", F_I64, .flags = F_REQUIRED, .min = 1, .max = CONCURRENCY_MAX,
                .doc = "How many executions may be under way at once; one that waits for a delay or a retry is"),
    SHAPE_FIELD("key", F_STR, .min = 1, .max = 4096, .example = "\"{{ input.customer }}\"",
                .doc = "Expressions; the limit holds for each value of it. Without it, for the workflow"),
    SHAPE_FIELD("policy", F_STR, .one_of = slot_policies, .preset = "\"queue\"",
                .doc = "What becomes of an execution that finds no room: it waits its turn, is refused, or the oldest "
                       "others are cancelled for it"),
};
static const struct table concurrency_table =
    SHAPE("Concurrency", concurrency_fields, .doc = "How many executions of a workflow may be under way at once");

static const struct field settings_fields[] = {
    SHAPE_FIELD("timeout_ms", F_I64, .min = 1, .max = 2592000000, .preset = "3600000",
                .doc = "Deadline of the whole execution, from its creation"),
    SHAPE_FIELD("concurrency", F_OBJECT, .of = &concurrency_table, .doc = "Without it there is no limit"),
    SHAPE_FIELD("on_failure", F_STR, .format = "id", .prefix = "workflow", .max = 64,
                .doc = "A workflow that is run once with an execution that failed or timed out as its input"),
    SHAPE_FIELD("error_retention_days", F_I64, .min = 1, .max = 3650,
                .doc = "After these days a failed or timed-out execution is deleted; without it none is"),
    SHAPE_FIELD("save", F_STR, .one_of = saves, .preset = "\"all\"",
                .doc = "Whose steps are kept in the history: every execution's, those of failed ones, or none"),
};
static const struct table settings_table =
    SHAPE("WorkflowSettings", settings_fields, .doc = "Settings of a workflow's executions");

static const struct field need_field = SHAPE_FIELD("step", F_STR, .min = 1, .max = 64, .doc = "A step id");
static const struct field needs_field =
    SHAPE_FIELD("needs", F_LIST, .flags = F_UNIQUE, .each = &need_field, .max = DEFINITION_STEPS_MAX,
                .doc = "Steps that must end before it");

/* What every definition has, the nested ones too. */
#define BLOCK_FIELDS                                                                                            \
    SHAPE_FIELD("steps", F_LIST, .flags = F_REQUIRED, .of = &step_table, .min = 1, .max = DEFINITION_STEPS_MAX, \
                .doc = "The steps, in the order in which they are shown"),                                      \
        SHAPE_FIELD("dependencies", F_MAP, .each = &needs_field, .max = DEFINITION_STEPS_MAX,                   \
                    .doc = "For a step, the steps it waits for; steps without an entry start at once",          \
                    .example = "{\"score\":[\"fetch\"]}"),                                                      \
        SHAPE_FIELD("conditions", F_MAP, .item = F_STR, .max = DEFINITION_STEPS_MAX,                            \
                    .doc = "For a step, an expression without braces; when it is false the step is skipped",    \
                    .example = "{\"notify\":\"steps.score.output.total > 100\"}")

static const struct field block_fields[] = { BLOCK_FIELDS };
const struct table block_table =
    SHAPE("NestedDefinition", block_fields,
          .doc = "Steps inside of a step. Their ids are unique in the whole workflow; they see those outside of them");

static const struct field definition_fields[] = {
    BLOCK_FIELDS,
    SHAPE_FIELD("triggers", F_LIST, .of = &definition_trigger_table, .max = 50,
                .doc = "A masked view of the workflow's triggers; entries that are sent create or update them"),
    SHAPE_FIELD("settings", F_OBJECT, .of = &settings_table, .doc = "Settings of its executions"),
};
const struct table definition_table = SHAPE("Definition", definition_fields, .doc = "What a workflow does");
