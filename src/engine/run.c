/* run.c - what happens next in one execution: a state machine over the steps of its plan. No I/O, no clock but run_tick, no other thread: worker.c feeds it
 * and writes down what it says.
 *
 * The rule that is not obvious: a step ends in run.c at once, but its dependants that reach outside leave only after the write that
 * records it (`launch`), so a crash never sees an effect whose cause is not on disk. */
#include "engine/internal.h"
#include "base/clock.h"
#include "base/rng.h"
#include "codec/time.h"
#include "codec/typeid.h"
#include "core/trace.h"

/* How long one execution keeps its worker before others get their turn, and how long a call waits that its loop had no room for. */
static const i64 slice_us = 10000, overload_us = SECOND_US / 10;

/* Which state may follow which: bit 1 << to. An illegal move is a bug, never an input. */
#define TO(state) (1u << (state))
static const u32 moves[STEP_STATES] = {
    [STEP_PENDING] = TO(STEP_RUNNING) | TO(STEP_SKIPPED) | TO(STEP_FAILED) | TO(STEP_CANCELLED),
    [STEP_RUNNING] = TO(STEP_COMPLETED) | TO(STEP_FAILED) | TO(STEP_WAITING) | TO(STEP_CANCELLED) | TO(STEP_UNKNOWN),
    [STEP_WAITING] = TO(STEP_RUNNING) | TO(STEP_COMPLETED) | TO(STEP_CANCELLED),
    [STEP_UNKNOWN] = TO(STEP_WAITING) | TO(STEP_COMPLETED) | TO(STEP_FAILED) | TO(STEP_CANCELLED),
};

void run_move(struct run_step *s, enum step_state to)
{
    assert(moves[s->record.state] & TO(to));
    s->record.state = to;
    s->dirty = true;
}

i64 run_tick(struct run *r)
{
    i64 now = clock_now_us();
    r->last_us = MAX(now, r->last_us + 1);
    return r->last_us;
}

/* --- making a run ------------------------------------------------------------------------------------------------- */

static err parse_text(struct run *r, str text, struct json **out)
{
    struct json_error where;
    return json_parse(r->arena, text, out, &where);
}

/* The names `execution` and `workflow`, and trigger.body, which is not stored twice. */
static err make_names(struct run *r)
{
    struct json *x = NEW(r->arena, struct json), *w = NEW(r->arena, struct json);
    if (x == NULL || w == NULL)
        return ERR_MEMORY;
    x->type = w->type = JSON_OBJECT;
    str created = time_text(r->arena, r->created_at);
    const struct json *body = json_get(r->input, S("body"));
    bool good = created.p != NULL && json_set(r->arena, x, S("id"), json_of_str(r->id)) &&
                json_set(r->arena, x, S("created_at"), json_of_str(created)) &&
                json_set(r->arena, w, S("id"), json_of_str(r->workflow_id)) &&
                json_set(r->arena, w, S("name"), json_of_str(r->plan->workflow_name)) &&
                json_set(r->arena, w, S("version"), json_of_i64(r->version));
    if (good && r->trigger->type == JSON_OBJECT)
        good = json_set(r->arena, r->trigger, S("body"), r->input->n == 1 && body != NULL ? *body : *r->input);
    r->execution = x;
    r->workflow = w;
    return good ? OK : ERR_MEMORY;
}

void run_make_ready(struct run *r, struct run_step *s)
{
    if (s->queued)
        return;
    s->queued = true;
    s->next_ready = NULL;
    if (r->ready == NULL)
        r->ready = s;
    else
        r->last_ready->next_ready = s;
    r->last_ready = s;
}

static struct run_step *take_ready(struct run *r)
{
    struct run_step *s = r->ready;
    r->ready = s->next_ready;
    s->queued = false;
    return s;
}

err run_prepare(struct run *r)
{
    TRY(parse_text(r, r->input_text, &r->input));
    TRY(parse_text(r, r->trigger_text, &r->trigger));
    TRY(make_names(r));
    TRY(frame_open_root(r));
    r->responds = step_kind_by(S("respond"))->type;
    for (u32 i = 0; i < r->root->block->count; i++)
        run_consider(r, &r->root->steps[i]);
    return OK;
}

/* --- names of expressions ----------------------------------------------------------------------------------------- */

bool run_step_ended(const struct run_step *s)
{
    return s->record.state == STEP_COMPLETED || s->record.state == STEP_FAILED || s->record.state == STEP_SKIPPED ||
           s->record.state == STEP_CANCELLED;
}

/* The step of this id that can be seen from a frame: its own, or one of those around it. */
static struct run_step *step_seen(const struct frame *f, str id)
{
    const struct plan_step *p = id.p != NULL ? map_get(&f->run->plan->by_id, id) : NULL;
    for (; p != NULL && f != NULL; f = f->owner != NULL ? f->owner->frame : NULL)
        if (p->index < f->block->count && &f->block->steps[p->index] == p)
            return &f->steps[p->index];
    return NULL;
}

/* {status, output, error} of an ended step, made when first asked for. */
static const struct json *step_view(void *ctx, str id)
{
    const struct frame *f = ctx;
    struct run *r = f->run;
    struct run_step *s = step_seen(f, id);
    if (r->given != NULL)
        return json_get(json_get(r->given, S("steps")), id);
    if (s == NULL || !run_step_ended(s))
        return NULL;
    if (s->view.type == JSON_OBJECT)
        return &s->view;
    struct json view = { .type = JSON_OBJECT };
    if (!json_set(r->arena, &view, S("status"), json_of_str(str_of(step_state_names[s->record.state]))) ||
        !json_set(r->arena, &view, S("output"), s->record.output != NULL ? *s->record.output : json_null) ||
        !json_set(r->arena, &view, S("error"), s->record.error != NULL ? *s->record.error : json_null)) {
        r->starved = true;
        return NULL;
    }
    s->view = view;
    return &s->view;
}

static const struct json *item_of(const struct frame *f)
{
    return f->owner != NULL ? &f->owner->each->items->items[f->item] : json_get(f->run->given, S("item"));
}

/* `what` is evaluated: each has ids of its own from uuid(). */
static struct expr_scope scope_of(struct run *r, struct run_step *s, const char *what)
{
    static const struct json no_vars = { .type = JSON_OBJECT };
    const struct frame *f = s->frame;
    str run_of = f->depth > 0 ? strf(r->arena, "-%lld", (long long)f->iteration) : S("");
    r->starved |= run_of.p == NULL; /* its ids would be those of another iteration */
    return (struct expr_scope){
        .input = r->input,
        .trigger = r->trigger,
        .execution = r->execution,
        .workflow = r->workflow,
        .item = item_of(f),
        .vars = r->given != NULL ? json_get(r->given, S("vars")) : &no_vars,
        .step = step_view,
        .ctx = s->frame,
        .now_us = r->last_us,
        .random_seed = strf(r->arena, "%.*s-%.*s%.*s-%s", STR_FMT(r->id), STR_FMT(s->plan->id), STR_FMT(run_of), what),
    };
}

/* --- ends --------------------------------------------------------------------------------------------------------- */

/* Needs no memory: what failed for want of it must be able to say so. */
static struct json starved_json(void)
{
    static const char code[] = STARVED_CODE, message[] = STARVED_TEXT;
    static struct json_member members[] = {
        { { "code", 4 }, { .type = JSON_STR, .n = sizeof code - 1, .text = code } },
        { { "message", 7 }, { .type = JSON_STR, .n = sizeof message - 1, .text = message } },
    };
    return (struct json){ .type = JSON_OBJECT, .n = COUNT(members), .members = members };
}

struct json run_error_json(struct run *r, const char *code, str message, str step_id)
{
    struct json e = { .type = JSON_OBJECT };
    bool good = json_set(r->arena, &e, S("code"), json_of_str(str_of(code))) &&
                json_set(r->arena, &e, S("message"), json_of_str(message.p != NULL ? message : S("")));
    if (good && step_id.p != NULL)
        good = json_set(r->arena, &e, S("step_id"), json_of_str(step_id));
    return good ? e : starved_json();
}

/* A step of a case waits for the choice, even when something else that it joins came first. */
static bool gates_decided(const struct run_step *s)
{
    for (u32 i = 0; i < s->plan->gate_count; i++)
        if (!run_step_ended(&s->frame->steps[s->plan->gates[i].by]))
            return false;
    return true;
}

/* Of each switch that names the step, one of the cases with it must have been chosen. */
static bool gates_open(const struct run_step *s)
{
    const struct plan_gate *gates = s->plan->gates;
    for (u32 i = 0; i < s->plan->gate_count;) {
        u32 by = gates[i].by;
        str chosen = json_str(json_get(s->frame->steps[by].record.output, S("case")));
        bool open = false;
        for (; i < s->plan->gate_count && gates[i].by == by; i++)
            open |= str_eq(gates[i].name, chosen);
        if (!open)
            return false;
    }
    return true;
}

/* One of its needs has ended. Whether it then runs or is skipped is found when its turn comes. */
void run_consider(struct run *r, struct run_step *s)
{
    if (s->record.state == STEP_PENDING &&
        (s->open_needs == 0 || (s->plan->join == JOIN_ANY && s->done_needs > 0 && gates_decided(s))))
        run_make_ready(r, s);
}

void run_count_ended(struct run_step *s)
{
    struct frame *f = s->frame;
    f->open--;
    for (u32 i = 0; i < s->plan->feed_count; i++) {
        struct run_step *next = &f->steps[s->plan->feeds[i]];
        next->open_needs--;
        next->done_needs += s->record.state == STEP_COMPLETED;
    }
}

static void end_step(struct run *r, struct run_step *s, enum step_state state)
{
    struct frame *f = s->frame;
    run_move(s, state);
    s->record.completed_at = run_tick(r);
    s->record.due_at = 0;
    run_count_ended(s);
    for (u32 i = 0; i < s->plan->feed_count; i++)
        run_consider(r, &f->steps[s->plan->feeds[i]]);
    if (f->open == 0 && f->owner != NULL && !f->over)
        frame_done(f);
}

static u32 depth_of(const struct json *j)
{
    bool list = j->type == JSON_ARRAY;
    u32 deepest = 0;
    if (!list && j->type != JSON_OBJECT)
        return 0;
    for (u32 i = 0; i < j->n; i++) {
        u32 depth = depth_of(list ? &j->items[i] : &j->members[i].value); /* not inside of MAX, which would ask twice */
        deepest = MAX(deepest, depth);
    }
    return deepest + 1;
}

bool run_fits(struct run *r, const struct json *value, const char **code, str *why)
{
    i64 bytes = (i64)json_size(value);
    if (bytes > EXPR_VALUE_BYTES) {
        *code = "step.too_large";
        *why = S("A value is larger than 4 MiB");
    } else if (r->bytes + bytes > EXPR_MEMORY_BYTES) {
        *code = STARVED_CODE;
        *why = S("The values of the execution are larger than 32 MiB in all");
    } else if (depth_of(value) > VALUE_DEPTH_MAX) {
        *code = "step.too_deep";
        *why = S("A value is nested too deeply");
    } else {
        r->bytes += bytes;
        return true;
    }
    return false;
}

void run_complete_step(struct run *r, struct run_step *s, struct json output)
{
    s->output_node = output;
    s->record.output = &s->output_node;
    if (s->plan->kind->type == r->responds)
        r->responded = s;
    end_step(r, s, STEP_COMPLETED);
}

static void end_run(struct run *r, enum run_state state, struct json error)
{
    if (run_state_final(r->state))
        return;
    r->state = state;
    r->error = error;
    r->ready = NULL;
    if (r->root != NULL)
        frame_cancel(r->root);
    r->completed_at = run_tick(r);
}

void run_end(struct run *r, enum run_state state, const char *code, const char *message)
{
    end_run(r, state, run_error_json(r, code, str_of(message), STR_NONE));
}

void run_cancel(struct run *r)
{
    static const char *const codes[] = { "execution.cancelled", "execution.killed" };
    static const char *const texts[] = { "Somebody cancelled the execution", "Somebody killed the execution" };
    if (r->killing && r->state == RUN_CANCELLED)
        r->error = run_error_json(r, codes[1], str_of(texts[1]), STR_NONE);
    run_end(r, RUN_CANCELLED, codes[r->killing], texts[r->killing]);
}

void run_fail_step(struct run *r, struct run_step *s, const char *code, str message)
{
    struct frame *f = s->frame;
    bool fatal = !s->plan->continue_on_error;
    s->error_node = run_error_json(r, code, message, STR_NONE);
    s->record.error = &s->error_node;
    f->over |= fatal; /* before the end of its last step is taken for a success */
    end_step(r, s, STEP_FAILED);
    if (fatal && f->owner != NULL)
        frame_failed(f, code, message, s->plan->id);
    else if (fatal)
        end_run(r, RUN_FAILED, run_error_json(r, code, message, s->plan->id));
}

void run_starve_step(struct run *r, struct run_step *s)
{
    run_fail_step(r, s, STARVED_CODE, S(STARVED_TEXT));
}

static void finish_if_done(struct run *r)
{
    if (r->root->open > 0 || run_state_final(r->state))
        return;
    r->output = r->responded != NULL ? *r->responded->record.output : frame_output(r->root);
    if (r->starved) { /* something in it is missing: better no result than a wrong one */
        end_run(r, RUN_FAILED, starved_json());
        return;
    }
    r->state = RUN_COMPLETED;
    r->completed_at = run_tick(r);
}

/* --- retries ------------------------------------------------------------------------------------------------------ */

/* Exponential with full jitter on the upper half, so that retries of many executions spread out; what the other side asked for wins. */
static i64 backoff_us(const struct retry_policy *p, i64 failures, i64 asked_us)
{
    if (asked_us > 0)
        return asked_us;
    i64 wait = p->initial_us;
    for (i64 i = 1; p->exponential && i < failures && wait < p->max_us; i++)
        wait *= 2;
    wait = MIN(wait, MAX(p->max_us, p->initial_us));
    return wait / 2 + (i64)rng_below((u64)(wait - wait / 2) + 1);
}

void run_note_attempt(struct run *r, struct run_step *s, const char *code, str message)
{
    struct json entry = { .type = JSON_OBJECT };
    str from = time_text(r->arena, s->attempt_started_at), to = time_text(r->arena, run_tick(r));
    if (s->record.attempts == NULL) {
        s->attempts_node = (struct json){ .type = JSON_ARRAY };
        s->record.attempts = &s->attempts_node;
    }
    if (from.p == NULL || to.p == NULL || !json_set(r->arena, &entry, S("n"), json_of_i64(s->record.attempt)) ||
        !json_set(r->arena, &entry, S("error"), run_error_json(r, code, message, STR_NONE)) ||
        !json_set(r->arena, &entry, S("started_at"), json_of_str(from)) ||
        !json_set(r->arena, &entry, S("completed_at"), json_of_str(to)) ||
        !json_add(r->arena, &s->attempts_node, entry))
        return; /* at the memory cap the step still runs; its list of earlier attempts is shorter */
}

void run_wait_until(struct run_step *s, i64 due_us)
{
    run_move(s, STEP_WAITING);
    s->record.due_at = due_us;
}

static void attempt_failed(struct run *r, struct run_step *s, const struct step_result *result)
{
    i64 used = s->record.attempt - s->interruptions;
    if (!result->retryable || used >= s->plan->retry.max_attempts) {
        run_fail_step(r, s, result->code, result->message);
        return;
    }
    run_note_attempt(r, s, result->code, result->message);
    run_wait_until(s, r->last_us + backoff_us(&s->plan->retry, used, result->retry_after_us));
}

static const struct expr_error starved_error = { .code = STARVED_CODE, .detail = S_INIT(STARVED_TEXT) };

/* --- attempts ----------------------------------------------------------------------------------------------------- */

/* What a person sees as input: the URL that was called, but a script or condition as it is written. */
static bool shown_as_written(const struct plan_step *p)
{
    return p->kind->special_use != EXPR_URL;
}

static bool show_special(struct run *r, const struct plan_step *p, struct json special, struct json *with)
{
    struct json all = { .type = JSON_OBJECT };
    bool good = json_set(r->arena, &all, str_of(p->kind->special), shown_as_written(p) ? *p->special_source : special);
    for (u32 i = 0; good && i < with->n; i++)
        good = json_set(r->arena, &all, with->members[i].key, with->members[i].value);
    *with = all;
    return good;
}

/* A name that memory was missing for looked like nil to the expression: what came of that is worth nothing. */
static err evaluate_one(struct run *r, struct machine *m, const struct expr *x, const struct expr_scope *scope,
                        struct json *out, struct expr_error *error)
{
    if (scope->random_seed.p == NULL)
        return ERR_MEMORY;
    err e = expr_eval(m, x, scope, r->arena, out, error);
    return r->starved ? ERR_MEMORY : e;
}

static err evaluate_with(struct run *r, struct run_step *s, struct machine *m, struct step_attempt *attempt,
                         struct expr_error *error)
{
    const struct plan_step *p = s->plan;
    struct expr_scope scope = scope_of(r, s, "with");
    struct json *with = NEW(r->arena, struct json);
    if (with == NULL)
        return ERR_MEMORY;
    TRY(evaluate_one(r, m, p->with, &scope, with, error));
    if (p->special != NULL) {
        scope = scope_of(r, s, p->kind->special);
        scope.args = json_get(with, S("args"));
        TRY(evaluate_one(r, m, p->special, &scope, &attempt->special, error));
        if (!show_special(r, p, attempt->special, with))
            return ERR_MEMORY;
    }
    attempt->with = with;
    return run_fits(r, with, &error->code, &error->detail) ? OK : ERR_INVALID;
}

/* The step's input. A later attempt has that of the first one: under the same Idempotency-Key goes the same request. False: the step has failed. */
static bool evaluate(struct run *r, struct run_step *s, struct machine *m, struct step_attempt *attempt)
{
    struct expr_error error = starved_error;
    if (s->record.input != NULL) {
        attempt->with = s->record.input;
        return true;
    }
    err e = evaluate_with(r, s, m, attempt, &error);
    if (e == OK) {
        s->record.input = attempt->with;
        return true;
    }
    if (e == ERR_MEMORY)
        error = starved_error;
    run_fail_step(r, s, error.code, error.detail);
    return false;
}

/* An expression may have given what the step's table does not allow. */
static bool check_input(struct run *r, struct run_step *s)
{
    const struct plan_step *p = s->plan;
    if (expr_is_constant(p->with) && (p->special == NULL || shown_as_written(p) || expr_is_constant(p->special)))
        return true;
    struct problems problems = { .arena = r->arena };
    err e = field_decode(r->arena, p->kind->with, FIELD_EVALUATED, s->record.input, S(""), NULL, &problems);
    if (e == OK)
        return true;
    str detail = S(STARVED_TEXT);
    if (e == ERR_INVALID)
        detail = strf(r->arena, "%.*s: %.*s", STR_FMT(problems.list[0].pointer), STR_FMT(problems.list[0].detail));
    run_fail_step(r, s, e == ERR_INVALID ? "step.input" : STARVED_CODE, detail);
    return false;
}

/* --- children ----------------------------------------------------------------------------------------------------- */

bool run_child_awaited(const struct run_step *s)
{
    const struct json *wait = json_get(s->record.input, S("wait"));
    return wait == NULL || wait->boolean;
}

str run_child_of(const struct run_step *s)
{
    bool waits = s->plan->kind->spawns && s->record.state == STEP_WAITING;
    return waits ? json_str(json_get(s->record.output, S("execution_id"))) : STR_NONE;
}

/* The step waits, and its output says for whom: that is recorded together with the child's row. */
static void begin_child(struct run *r, struct run_step *s)
{
    struct json output = { .type = JSON_OBJECT };
    str id = typeid_new(r->arena, "execution", r->last_us);
    if (r->depth >= EXECUTION_DEPTH_MAX) {
        run_fail_step(r, s, "workflow.depth", S("Workflows call each other more than 16 levels deep"));
        return;
    }
    if (id.p == NULL || !json_set(r->arena, &output, S("execution_id"), json_of_str(id))) {
        run_starve_step(r, s);
        return;
    }
    s->output_node = output;
    s->record.output = &s->output_node;
    run_wait_until(s, s->record.deadline_at);
    s->spawn = true;
}

static void child_failed(struct run *r, struct run_step *s, const char *code, bool retryable, str message)
{
    s->record.output = NULL;
    attempt_failed(
        r, s, &(struct step_result){ .what = RESULT_FAILED, .code = code, .message = message, .retryable = retryable });
}

static void child_completed(struct run *r, struct run_step *s, struct json output)
{
    const char *code;
    str why;
    if (run_fits(r, &output, &code, &why))
        run_complete_step(r, s, output);
    else
        child_failed(r, s, code, false, why);
}

void run_child_ended(struct run *r, struct run_step *s, const struct child_end *end)
{
    str id = run_child_of(s);
    run_move(s, STEP_RUNNING); /* the attempt goes on */
    if (end->status.p == NULL)
        child_failed(r, s, "workflow.not_found", false, S("There is no such workflow, or it is not active"));
    else if (!run_child_awaited(s))
        end_step(r, s, STEP_COMPLETED); /* its output says which one it is */
    else if (str_eq(end->status, S("completed")))
        child_completed(r, s, end->output != NULL ? *end->output : json_null);
    else
        child_failed(r, s, "workflow.child_failed", true,
                     strf(r->arena, "Execution %.*s %.*s: %.*s", STR_FMT(id), STR_FMT(end->status),
                          STR_FMT(json_str(json_get(end->error, S("message"))))));
}

static void child_late(struct run *r, struct run_step *s)
{
    s->abandoned = run_child_of(s);
    run_move(s, STEP_RUNNING);
    child_failed(r, s, "workflow.timeout", true, S("The other workflow did not end in time"));
}

/* --- people ------------------------------------------------------------------------------------------------------- */

bool run_waits_for_person(const struct run *r)
{
    STEPS (r, s)
        if (s->record.state == STEP_UNKNOWN)
            return true;
    return false;
}

static void complete_by_person(struct run *r, struct run_step *s, const struct json *data)
{
    const char *code;
    str why;
    if (data == NULL)
        data = &json_null;
    if (run_fits(r, data, &code, &why))
        run_complete_step(r, s, *data);
    else
        run_fail_step(r, s, code, why);
}

/* The attempt that was cut off does not use up a retry: whether it was one is what nobody knows. */
static void retry_by_person(struct run *r, struct run_step *s)
{
    s->interruptions++;
    run_note_attempt(r, s, "engine.interrupted", S("The server stopped in the middle of this attempt"));
    run_wait_until(s, r->last_us);
}

static struct run_step *unknown_step(struct run *r, str id, i64 iteration)
{
    STEPS (r, s)
        if (s->record.state == STEP_UNKNOWN && s->record.iteration == iteration && str_eq(s->plan->id, id))
            return s;
    return NULL;
}

void run_answered(struct run *r, str step_id, i64 iteration, const struct json *answer)
{
    struct run_step *s = unknown_step(r, step_id, iteration);
    str action = json_str(json_get(answer, S("action"))), message = json_str(json_get(answer, S("message")));
    if (s == NULL) /* obeyed already, and not recorded yet */
        return;
    if (str_eq(action, S("retry")))
        retry_by_person(r, s);
    else if (str_eq(action, S("fail")))
        run_fail_step(r, s, "step.given_up", message.p != NULL ? message : S("Somebody said that it failed"));
    else
        complete_by_person(r, s, json_get(answer, S("data")));
}

static void take_result(struct run *r, struct run_step *s)
{
    struct step_result *result = &s->attempt->result;
    const char *code;
    str why;
    if (result->what == RESULT_COMPLETED && !run_fits(r, &result->output, &code, &why)) {
        run_fail_step(r, s, code, why);
        return;
    }
    switch (result->what) {
    case RESULT_COMPLETED:
        run_complete_step(r, s, result->output);
        return;
    case RESULT_FAILED:
        attempt_failed(r, s, result);
        return;
    case RESULT_OUTSIDE:
        s->launch = s->dirty = true;
        return;
    case RESULT_CHILD:
        begin_child(r, s);
        return;
    case RESULT_EACH:
        iterations_begin(s);
        return;
    case RESULT_DELAY:
        run_wait_until(s, result->due_us);
        return;
    }
}

/* Without memory for it the call goes untraced. */
static void trace_attempt(const struct run *r, struct step_attempt *a)
{
    if (r->traceparent.p == NULL)
        return;
    str seed = strf(a->arena, "%.*s/%u", STR_FMT(a->idempotency_key), a->number);
    a->traceparent = trace_span(a->arena, r->traceparent, seed);
    a->tracestate = r->tracestate;
}

static void begin_attempt(struct run *r, struct run_step *s, struct machine *m)
{
    run_move(s, STEP_RUNNING);
    s->record.attempt++;
    s->attempt_started_at = run_tick(r);
    if (s->record.started_at == 0)
        s->record.started_at = s->attempt_started_at;
    struct step_attempt *a = s->attempt = NEW(r->arena, struct step_attempt);
    if (a == NULL) {
        run_starve_step(r, s);
        return;
    }
    i64 left = r->deadline_at - r->last_us;
    *a = (struct step_attempt){ .arena = r->arena,
                                .now_us = r->last_us,
                                .timeout_us = MAX(MIN(s->plan->timeout_us, left), 1),
                                .number = (u32)s->record.attempt };
    a->idempotency_key =
        strf(r->arena, "%.*s-%.*s-%lld", STR_FMT(r->id), STR_FMT(s->plan->id), (long long)s->frame->iteration);
    trace_attempt(r, a);
    s->record.deadline_at = r->last_us + a->timeout_us;
    if (a->idempotency_key.p == NULL) {
        run_starve_step(r, s);
        return;
    }
    if (!evaluate(r, s, m, a) || !check_input(r, s))
        return;
    s->plan->kind->start(a);
    take_result(r, s);
}

/* False: its condition says no, or cannot be evaluated (then it has failed). */
static bool condition_holds(struct run *r, struct run_step *s, struct machine *m)
{
    if (s->plan->condition == NULL)
        return true;
    struct expr_scope scope = scope_of(r, s, "condition");
    struct expr_error error;
    struct json result;
    err e = evaluate_one(r, m, s->plan->condition, &scope, &result, &error);
    if (e == OK && expr_truth(&result))
        return true;
    if (e == ERR_MEMORY)
        error = starved_error;
    if (e == OK)
        end_step(r, s, STEP_SKIPPED);
    else
        run_fail_step(r, s, error.code, error.detail);
    return false;
}

static void turn(struct run *r, struct run_step *s, struct machine *m)
{
    if (run_step_ended(s) || s->frame->over) /* its child did, while it stood in line */
        return;
    if (s->each != NULL) {
        iterations_fail(s, "foreach.timeout", S("The iterations did not end within the step's time"));
        return;
    }
    if (s->record.state == STEP_WAITING && s->record.due_at > run_tick(r)) /* it began to wait anew there */
        return;
    if (s->record.state == STEP_WAITING) { /* its time has come: a delay is over, a retry begins */
        if (run_child_of(s).p != NULL)
            child_late(r, s);
        else if (s->plan->kind->answered == NULL && !s->plan->kind->spawns)
            run_complete_step(r, s, (struct json){ .type = JSON_OBJECT });
        else
            begin_attempt(r, s, m);
        return;
    }
    bool nothing_done = s->plan->need_count > 0 && s->done_needs == 0;
    if ((nothing_done && s->plan->join != JOIN_ALWAYS) || !gates_open(s))
        end_step(r, s, STEP_SKIPPED);
    else if (condition_holds(r, s, m))
        begin_attempt(r, s, m);
}

static bool out_of_time(struct run *r)
{
    if (run_tick(r) < r->deadline_at)
        return false;
    run_end(r, RUN_TIMED_OUT, "execution.timed_out", "The execution's time is up");
    return true;
}

bool run_more(const struct run *r)
{
    return r->ready != NULL && !run_state_final(r->state);
}

err run_concurrency_key(struct run *r, struct machine *m, struct json *out, struct expr_error *error)
{
    struct expr_scope scope = scope_of(r, &r->root->steps[0], "concurrency.key");
    return expr_eval(m, r->plan->concurrency.key, &scope, r->arena, out, error);
}

void run_advance(struct run *r, struct machine *m)
{
    i64 until = clock_mono_us() + slice_us;
    if (r->cancelling)
        run_cancel(r);
    if (run_state_final(r->state) || slots_pending(r))
        return;
    r->state = RUN_RUNNING;
    if (r->started_at == 0)
        r->started_at = run_tick(r);
    do {
        if (r->root->open > 0 && out_of_time(r))
            return;
        if (r->ready != NULL)
            turn(r, take_ready(r), m);
    } while (run_more(r) && clock_mono_us() < until);
    if (!run_more(r))
        finish_if_done(r);
}

void run_answer(struct run *r, struct machine *m, struct run_step *s, const struct client_answer *answer)
{
    s->call = NULL;
    r->in_flight--;
    if (s->record.state != STEP_RUNNING) /* it was cancelled meanwhile */
        return;
    s->attempt->now_us = run_tick(r);
    if (answer->error == ERR_BUSY) { /* it never left: that was no attempt */
        s->record.attempt--;
        run_wait_until(s, r->last_us + overload_us + (i64)rng_below((u64)overload_us));
        return;
    }
    s->plan->kind->answered(s->attempt, answer);
    take_result(r, s);
    run_advance(r, m);
}

/* When the step must be looked at by itself; INT64_MAX: never. */
static i64 wait_of(const struct run_step *s)
{
    bool iterates = s->record.state == STEP_RUNNING && s->each != NULL;
    return s->record.state == STEP_WAITING ? s->record.due_at : iterates ? s->record.deadline_at : INT64_MAX;
}

bool run_has_waits(const struct run *r)
{
    STEPS (r, s)
        if (wait_of(s) != INT64_MAX)
            return true;
    return false;
}

i64 run_next_wait(const struct run *r)
{
    i64 due = r->deadline_at;
    STEPS (r, s) {
        i64 wait = wait_of(s);
        due = MIN(due, wait);
    }
    return due;
}

i64 run_due(const struct run *r)
{
    if (run_state_final(r->state) || r->in_flight > 0 || r->root->open == 0 || run_more(r))
        return 0;
    STEPS (r, s)
        if (s->launch || s->spawn)
            return 0;
    return run_next_wait(r);
}

void run_wake(struct run *r, i64 now_us)
{
    STEPS (r, s)
        if (wait_of(s) <= now_us)
            run_make_ready(r, s);
}

void run_hold(struct run *r)
{
    STEPS (r, s) {
        if (!s->launch)
            continue;
        s->launch = false;
        s->record.attempt--;
        run_wait_until(s, r->last_us);
    }
}

void run_recorded(struct run *r)
{
    STEPS (r, s) {
        s->dirty = false;
        s->abandoned = STR_NONE;
    }
    for (struct frame *f = r->frames; f != NULL; f = f->next)
        while (f->next != NULL && f->next->over)
            f->next = f->next->next;
}
