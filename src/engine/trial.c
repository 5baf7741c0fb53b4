/* trial.c - a run of one step that no worker owns: run.c does what it does for executions, and what it would have had written down is thrown away.
 *
 * So a trial cannot behave otherwise than the step will: the same evaluation, checks, bounds and error codes. Rejected: a hidden execution of a hidden
 * workflow, which would show in history, metrics and limits, and would be on disk. */
#include "engine/trial.h"
#include "base/clock.h"
#include "codec/typeid.h"
#include "engine/internal.h"

enum { TRIAL_BYTES = 128 * 1024 * 1024 };
#define STEP_POINTER "/steps/0"

struct trial {
    struct arena *arena;
    struct machine *machine;
    struct run run;
};

static err compile(struct arena *a, const struct trial_given *given, struct problems *problems, struct plan **out)
{
    struct json step = { .type = JSON_OBJECT };
    if (!json_set(a, &step, S("id"), json_of_str(S("test"))) ||
        !json_set(a, &step, S("type"), json_of_str(str_of(given->kind->type))) ||
        !json_set(a, &step, S("with"), *given->with))
        return ERR_MEMORY;
    u32 before = problems->n;
    err e = plan_compile_alone(&step, problems, out);
    for (u32 i = before; i < problems->n; i++)
        problems->list[i].pointer =
            str_slice(problems->list[i].pointer, sizeof STEP_POINTER - 1, problems->list[i].pointer.n);
    return e;
}

static err prepare(struct trial *t, const struct trial_given *given)
{
    struct run *r = &t->run;
    r->arena = t->arena;
    r->id = typeid_new(t->arena, "test", given->now_us);
    r->workflow_id = r->plan->workflow_id = r->plan->workflow_name = S("");
    r->input_text = given->input;
    r->trigger_text = S("{\"type\":\"test\"}");
    r->given = given->names;
    r->created_at = r->last_us = given->now_us;
    r->deadline_at = clock_now_us() + TRIAL_SECONDS_MAX * SECOND_US;
    return r->id.p != NULL ? run_prepare(r) : ERR_MEMORY;
}

err trial_new(const struct trial_given *given, struct problems *problems, struct trial **out)
{
    struct arena *a = arena_new(TRIAL_BYTES);
    struct trial *t = a != NULL ? NEW(a, struct trial) : NULL;
    if (t == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    t->arena = a;
    t->machine = machine_new();
    err e = t->machine != NULL ? compile(a, given, problems, &t->run.plan) : ERR_MEMORY;
    if (e == OK)
        e = prepare(t, given);
    if (e != OK) {
        trial_free(t);
        return e;
    }
    *out = t;
    return OK;
}

void trial_free(void *trial)
{
    struct trial *t = trial;
    plan_release(t->run.plan);
    machine_free(t->machine);
    arena_free(t->arena);
}

struct arena *trial_arena(struct trial *t)
{
    return t->arena;
}

const struct client_request *trial_begin(struct trial *t)
{
    struct run_step *s = t->run.root->steps;
    run_advance(&t->run, t->machine);
    t->run.in_flight = s->launch;
    return s->launch ? &s->attempt->result.request : NULL;
}

/* A loop without room is a wait for an execution; here somebody waits for the answer. */
void trial_answered(struct trial *t, const struct client_answer *answer)
{
    struct client_answer taken = *answer;
    if (taken.error == ERR_BUSY)
        taken.error = ERR_TIMEOUT;
    run_answer(&t->run, t->machine, t->run.root->steps, &taken);
}

struct trial_result trial_result(const struct trial *t)
{
    const struct step_record *r = &t->run.root->steps->record;
    return (struct trial_result){ .completed = r->state == STEP_COMPLETED,
                                  .input = r->input,
                                  .output = r->output,
                                  .error = r->error,
                                  .took_us = r->completed_at - r->started_at };
}
