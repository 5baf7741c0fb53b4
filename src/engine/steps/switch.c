/* switch.c - chooses one of several named cases; the steps of the others are skipped. Which steps belong to which case is read by plan.c (`branches`), and
 * run.c asks the output for the name that was chosen: the switch itself only finds that name. */
#include "engine/steps/kinds.h"

enum { CASES_MAX = 100 };

static const struct field id_field = SHAPE_FIELD("step", F_STR, .min = 1, .max = 64, .doc = "A step id");
static const struct field ids_field = SHAPE_FIELD("steps", F_LIST, .flags = F_UNIQUE, .each = &id_field, .max = 1000,
                                                  .doc = "Steps that run in this case; each must wait for the switch");

static const struct field fields[] = {
    SHAPE_FIELD("value", F_JSON, .flags = F_REQUIRED | F_EXPR | F_NULLABLE,
                .doc = "What is compared with the names of the cases: a text, number, boolean or null",
                .example = "\"{{ input.country }}\""),
    SHAPE_FIELD("cases", F_MAP, .flags = F_REQUIRED, .each = &ids_field, .max = CASES_MAX,
                .doc = "For each value, the steps that run", .example = "{\"de\":[\"german\"],\"fr\":[\"french\"]}"),
    SHAPE_FIELD("default", F_LIST, .flags = F_UNIQUE, .each = &id_field, .max = 1000,
                .doc = "Steps that run when the value is none of the cases"),
};

/* The output says `default` when no case fits, so no case may be called that. */
static err check_names(const struct json *with, str pointer, struct problems *problems)
{
    const struct json *cases = json_get(with, S("cases"));
    if (json_get(cases, S(STEP_CASE_DEFAULT)) == NULL)
        return OK;
    return problems_add(problems, pointer, "switch.default",
                        "A case cannot be called 'default'; name its steps in the member 'default'");
}
const struct table kind_switch_with = SHAPE("SwitchWith", fields, .doc = "A choice", .check = check_names);

static void switch_start(struct step_attempt *s)
{
    const struct json *value = json_get(s->with, S("value"));
    struct json out = { .type = JSON_OBJECT };
    if (value->type == JSON_ARRAY || value->type == JSON_OBJECT) {
        step_fail(s, "switch.value", false, "The value is a list or an object, which no case can name");
        return;
    }
    str name = value->type == JSON_STR ? json_str(value) : json_text(s->arena, value);
    if (json_get(json_get(s->with, S("cases")), name) == NULL)
        name = S(STEP_CASE_DEFAULT);
    if (json_set(s->arena, &out, S("case"), json_of_str(name)))
        step_complete(s, out);
    else
        step_starved(s);
}

const struct step_kind kind_switch = {
    .type = "switch",
    .doc = "Runs the steps of one case and skips those of the others",
    .with = &kind_switch_with,
    .branches = true,
    .output_doc = "{case}: the name that was chosen, or default",
    .start = switch_start,
};
