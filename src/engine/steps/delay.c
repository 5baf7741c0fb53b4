/* delay.c - waits for a while or until a time; the wait is a row, so it survives a restart and costs no memory. */
#include "engine/steps/kinds.h"
#include "codec/time.h"

enum { DELAY_MAX_DAYS = 30 };

static const struct field fields[] = {
    SHAPE_FIELD("ms", F_I64, .flags = F_EXPR, .min = 0, .max = (i64)DELAY_MAX_DAYS * 86400000,
                .doc = "How long, in milliseconds"),
    SHAPE_FIELD("until", F_TIME, .flags = F_EXPR, .doc = "Until when (RFC 3339); a time that has passed does not wait"),
};

static err check_one_of(const struct json *with, str pointer, struct problems *problems)
{
    bool ms = json_get(with, S("ms")) != NULL, until = json_get(with, S("until")) != NULL;
    if (ms != until)
        return OK;
    return problems_add(problems, pointer, "delay.one_of", "Exactly one of 'ms' and 'until' must be given");
}
const struct table kind_delay_with = SHAPE("DelayWith", fields, .doc = "A wait", .check = check_one_of);

static void delay_start(struct step_attempt *s)
{
    const struct json *ms = json_get(s->with, S("ms"));
    i64 due = s->now_us;
    if (ms != NULL) /* checked by the table; JSON may have written it as 500.0 */
        due += (ms->type == JSON_REAL ? (i64)ms->real : ms->integer) * 1000;
    else if (!time_parse(json_str(json_get(s->with, S("until"))), &due)) {
        step_fail(s, "step.input", false, "'until' is not an RFC 3339 time");
        return;
    }
    if (due > s->now_us + DELAY_MAX_DAYS * DAY_US) {
        step_fail(s, "delay.too_long", false, "A delay of more than %d days", DELAY_MAX_DAYS);
        return;
    }
    s->result = (struct step_result){ .what = RESULT_DELAY, .due_us = due };
}

const struct step_kind kind_delay = {
    .type = "delay",
    .doc = "Waits for a while or until a time",
    .with = &kind_delay_with,
    .outside = true,
    .untestable = true,
    .output_doc = "{}",
    .start = delay_start,
};
