/* trial.h - one step tried by itself, without an execution: given what its expressions would see, it makes one attempt, and nothing is recorded.
 *
 * A trial runs on any thread that may block (an evaluation takes up to 250 ms); only the call that a kind asks for goes through a loop, by whoever
 * holds the trial. */
#pragma once

#include "engine/step.h"

enum { TRIAL_SECONDS_MAX = 30 };

struct trial;
struct trial_given {
    const struct step_kind *kind; /* not an untestable one */
    const struct json *with;      /* fits the kind's table */
    str input;                    /* JSON text of an object */
    const struct json *names;     /* {steps, item, vars}; lives as long as the trial */
    i64 now_us;
};
/* Compiles. ERR_INVALID: problems at "/with/…". */
err trial_new(const struct trial_given *given, struct problems *problems, struct trial **out) MUST;
void trial_free(void *trial);
/* Begins the attempt. NULL: it has ended; else the call that it asks for: trial_answered must follow. */
const struct client_request *trial_begin(struct trial *t) MUST;
/* What the call came to; the answer lives as long as the trial. */
void trial_answered(struct trial *t, const struct client_answer *answer);
/* Where the answer may live. */
struct arena *trial_arena(struct trial *t);

struct trial_result {
    bool completed;                            /* else failed */
    const struct json *input, *output, *error; /* NULL = none */
    i64 took_us;
};
struct trial_result trial_result(const struct trial *t);
