/* step.c - the list of step kinds. A new kind is one file in steps/ and one line here. */
#include "engine/step.h"
#include "engine/steps/kinds.h"

#include <stdarg.h>
#include <stdio.h>

#define STEP_KINDS(X) X(http) X(transform) X(script) X(respond) X(delay) X(fail)

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
