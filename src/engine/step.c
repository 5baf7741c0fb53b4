/* step.c - the list of step kinds. A new kind is one file in steps/ and one line here. */
#include "engine/step.h"
#include "base/code.h"
#include "engine/steps/kinds.h"

#include <stdarg.h>
#include <stdio.h>

#define STEP_KINDS(X) \
    X(http) X(transform) X(script) X(condition) X(switch) X(foreach) X(workflow) X(respond) X(delay) X(fail)

/* What a step or an execution can end with, beside the codes of outgoing calls and those that a `fail` step chooses. */
CODES(failure_codes, CODE_FAILURE, { "step.input", "The step's input is not what its type needs, once evaluated" },
      { "step.too_large", "The step's output has more than 4 MiB" },
      { "step.too_deep", "The step's output is nested too deeply" },
      { "http.status", "The server answered with a status that counts as failure" },
      { "http.request", "The URL or a header cannot be sent" }, { "http.overloaded", "Too many outgoing calls" },
      { "step.given_up", "Somebody said that the step, whose outcome was unknown, failed" },
      { "delay.too_long", "A delay of more than 30 days" },
      { "workflow.not_found", "The workflow of a child does not exist, or is not active" },
      { "workflow.child_failed", "The child ended, but did not complete" },
      { "workflow.timeout", "The child did not end within the step's time" },
      { "workflow.depth", "Workflows call each other more than 16 levels deep" },
      { "foreach.steps", "The execution would have more than 50,000 steps, those of all iterations counted" },
      { "foreach.timeout", "The iterations did not end within the step's time" },
      { "switch.value", "The value of a switch is a list or an object, which no case can name" },
      { "workflow.failed", "A fail step without a code of its own" },
      { "expr.runtime", "The expression or script failed" },
      { "expr.instructions", "The expression did more work than it may" },
      { "expr.memory", "The expression needs more memory than it may have" },
      { "expr.value", "The result is no JSON value" }, { "expr.too_large", "The result has more than 4 MiB" },
      { "concurrency.key", "The key of the concurrency limit cannot be evaluated" },
      { "concurrency.limit", "The workflow of a child runs as often at once as it may, and does not let others wait" },
      { "execution.cancelled", "Somebody cancelled the execution" },
      { "execution.killed", "Somebody ended the execution without waiting for its outgoing calls" },
      { "execution.timed_out", "The execution's time is up" }, { STARVED_CODE, STARVED_TEXT },
      { "engine.interrupted", "The server stopped in the middle of this attempt; it was made again" },
      { "engine.crashed", "The server stopped three times in the middle of this step" },
      { "engine.definition", "The definition of this version can no longer be read" },
      { "engine.lost", "Another node has taken the execution over" });

const struct step_kind *const step_kinds[] = {
#define X(type) &kind_##type,
    STEP_KINDS(X)
#undef X
        NULL
};

const char *const step_types[] = {
#define X(type) #type,
    STEP_KINDS(X)
#undef X
        NULL
};

static const struct variant_case variants[] = {
#define X(type) { #type, &kind_##type##_with },
    STEP_KINDS(X)
#undef X
        { NULL, NULL }
};

const struct step_kind *step_kind_by(str type)
{
    for (const struct step_kind *const *k = step_kinds; *k != NULL; k++)
        if (str_eq(str_of((*k)->type), type))
            return *k;
    return NULL;
}

const struct variant_case *step_variants(void)
{
    return variants;
}

void step_complete(struct step_attempt *s, struct json output)
{
    s->result = (struct step_result){ .what = RESULT_COMPLETED, .output = output };
}

void step_starved(struct step_attempt *s)
{
    s->result = (struct step_result){ .what = RESULT_FAILED, .code = STARVED_CODE, .message = S(STARVED_TEXT) };
}

void step_fail(struct step_attempt *s, const char *code, bool retryable, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    str message = str_dup(s->arena, (str){ text, MIN((size_t)MAX(n, 0), sizeof text - 1) });
    s->result = (struct step_result){ .what = RESULT_FAILED, .code = code, .message = message, .retryable = retryable };
}
