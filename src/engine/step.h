/* step.h - the kinds of steps: one file each in steps/, one row each in the list of steps.c. A kind says what its `with` looks like, whether it reaches
 * outside, and what one attempt does. */
#pragma once

#include "engine/expr.h"
#include "net/client.h"

/* What an attempt came to. */
struct step_result {
    enum { RESULT_COMPLETED, RESULT_FAILED, RESULT_OUTSIDE, RESULT_DELAY, RESULT_CHILD, RESULT_EACH } what;
    struct json output;            /* COMPLETED */
    const char *code;              /* FAILED: "http.status", "expr.runtime"; static or on the arena */
    str message;                   /* FAILED */
    bool retryable;                /* FAILED */
    i64 retry_after_us;            /* FAILED: the other side asked for it; 0 = it did not */
    struct client_request request; /* OUTSIDE: what to send */
    i64 due_us;                    /* DELAY: when to go on */
};

/* One attempt. */
struct step_attempt {
    struct arena *arena;
    const struct json *with; /* evaluated, and checked against the kind's table */
    struct json special;     /* evaluated */
    i64 now_us, timeout_us;
    str idempotency_key; /* <execution>-<step>-<iteration> */
    str traceparent;     /* a span of this attempt alone, STR_NONE for none: goes with what it sends */
    str tracestate;
    u32 number; /* 1 = first */
    struct step_result result;
};

#define STEP_CASE_DEFAULT "default" /* what a kind that branches chooses when no case fits */
#define ITERATION_ERROR   "error"   /* what stands in place of the steps' outputs when an iteration failed */

struct step_kind {
    const char *type; /* "http" */
    const char *doc;  /* one sentence; published at /step-types */
    const struct table *with;
    const char *special; /* a member of `with` that is compiled by `special_use`; NULL = none */
    enum expr_use special_use;
    const char
        *nested;     /* a member of `with` that is a definition, run for each of its `items` (foreach.c); NULL = none */
    bool outermost;  /* cannot stand inside of another step */
    bool branches;   /* `with` names steps in `cases` and `default`, and the output's `case` says which of them run */
    bool spawns;     /* its attempts are executions of other workflows: `with` has workflow_id, input and wait */
    bool untestable; /* cannot be tried by itself (trial.h): it waits, or runs other steps */
    bool outside;    /* its attempts leave the process (or wait): journalled before and after */
    i64 timeout_us;  /* of one attempt, when the step says nothing */
    const char *output_doc;
    /* Starts the attempt: completes, fails, delays, or asks for an outside call. On an engine worker; must not block. */
    void (*start)(struct step_attempt *s);
    /* OUTSIDE only: what the answer means. */
    void (*answered)(struct step_attempt *s, const struct client_answer *answer);
};

extern const struct step_kind *const step_kinds[]; /* ends with NULL */
extern const char *const step_types[];             /* their types, in the same order; ends with NULL */
const struct step_kind *step_kind_by(str type);
/* The cases of a step's `with`, for the field table of definitions. */
const struct variant_case *step_variants(void);

/* What fails for want of memory says so without needing any. */
#define STARVED_CODE "engine.memory"
#define STARVED_TEXT "The execution's memory is used up"

/* For kinds: the outcome in one line. */
void step_starved(struct step_attempt *s);
void step_complete(struct step_attempt *s, struct json output);
void step_fail(struct step_attempt *s, const char *code, bool retryable, const char *format, ...) PRINTF_LIKE(4, 5);
