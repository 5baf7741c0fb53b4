/* workflows_trial.c - one step tried while it is being edited, without a workflow or an execution (engine/trial.h).
 *
 * An evaluation and the reading of an answer take too long for a loop, so both run in the pool; only the call between them goes over the request's loop,
 * and no thread waits for it. */
#include "base/code.h"
#include "core/app.h"
#include "engine/engine.h"
#include "engine/trial.h"
#include "feat/workflows/workflows_parts.h"

enum { GIVEN_MAX = 1024 * 1024, NAMES_MAX = 1000 };

/* ---- fields ---- */

static const struct table open_table = { .name = "StepTestData", .open = true, .doc = "Named values" };

struct body {
    struct presence has;
    str with, input, item, vars, steps;
};
static const struct field body_fields[] = {
    FIELD(struct body, with, F_OBJECT, .flags = F_TEXT, .of = &open_table, .max = GIVEN_MAX, .preset = "{}",
          .doc = "What the step is given, as in a definition; may hold expressions"),
    FIELD(struct body, input, F_OBJECT, .flags = F_TEXT, .of = &open_table, .max = GIVEN_MAX, .preset = "{}",
          .doc = "What expressions see as input"),
    FIELD(struct body, steps, F_OBJECT, .flags = F_TEXT, .of = &open_table, .max = GIVEN_MAX,
          .doc = "What they see as steps: {id: {status, output, error}}",
          .example = "{\"fetch\":{\"output\":{\"body\":7}}}"),
    FIELD(struct body, item, F_JSON, .flags = F_NULLABLE, .doc = "What they see as item"),
    FIELD(struct body, vars, F_OBJECT, .flags = F_TEXT, .of = &open_table, .max = GIVEN_MAX,
          .doc = "What they see as vars"),
};
const struct table trial_table = TABLE("StepTest", struct body, body_fields, .doc = "What to try a step with");

static const char *const outcomes[] = { "completed", "failed", NULL };

struct result {
    struct presence has;
    str status, input_data, output_data, error;
    double execution_time;
};
static const struct field result_fields[] = {
    FIELD(struct result, status, F_STR, .flags = F_OUTPUT, .one_of = outcomes, .doc = "How it ended"),
    FIELD(struct result, input_data, F_JSON, .flags = F_OUTPUT | F_NULLABLE, .doc = "`with`, evaluated"),
    FIELD(struct result, output_data, F_JSON, .flags = F_OUTPUT | F_NULLABLE, .doc = "Its output"),
    FIELD(struct result, error, F_OBJECT, .flags = F_OUTPUT | F_NULLABLE | F_TEXT, .of = &execution_error_table,
          .doc = "Why it failed"),
    FIELD(struct result, execution_time, F_F64, .flags = F_OUTPUT, .doc = "Seconds that it took"),
};
const struct table trial_result_table =
    TABLE("StepTestResult", struct result, result_fields, .doc = "What came of a step that was tried");

PROBLEM_SHARED(step_type_not_found, "workflows.step_type_not_found", ERR_NOT_FOUND, "There is no such type of step");
PROBLEM_SHARED(step_untestable, "workflows.step_untestable", ERR_INVALID, "Steps of this type cannot be tried alone");

/* ---- the result ---- */

struct trying {
    struct req *rq;
    struct trial *trial;
    const struct client_request *request;
    struct client_answer answer;
    struct message send;
    struct task task;
    struct result *result;
    err error;
};

static str text_of(struct arena *a, const struct json *j, bool *failed)
{
    str text = j != NULL ? json_text(a, j) : STR_NONE;
    *failed |= j != NULL && text.p == NULL;
    return text;
}

static err make_result(struct trying *t)
{
    struct arena *a = t->rq->arena;
    struct trial_result r = trial_result(t->trial);
    struct result *out = NEW(a, struct result);
    bool failed = out == NULL;
    if (failed)
        return ERR_MEMORY;
    *out = (struct result){ .status = r.completed ? S("completed") : S("failed"),
                            .input_data = text_of(a, r.input, &failed),
                            .output_data = text_of(a, r.output, &failed),
                            .error = text_of(a, r.error, &failed),
                            .execution_time = (double)r.took_us / (double)SECOND_US };
    field_set_all(&trial_result_table, out);
    t->result = out;
    return failed ? ERR_MEMORY : OK;
}

/* ---- the call in between ---- */

/* On the loop again. */
static void resumed(struct req *rq)
{
    struct trying *t = rq->parked;
    err e = t->error;
    if (e == OK)
        e = reply(rq, 200, &trial_result_table, t->result);
    req_finish(rq, e);
}

/* In the pool: the answer may have megabytes. */
static void on_answered(struct task *task)
{
    struct trying *t = CONTAINER(task, struct trying, task);
    trial_answered(t->trial, &t->answer);
    t->error = make_result(t);
    req_resume(t->rq);
}

static void on_answer(void *ctx, const struct client_answer *answer)
{
    struct trying *t = ctx;
    t->answer = *answer;
    t->task.run = on_answered;
    err e = pool_submit(app.slow, &t->task);
    if (e == OK) /* from here on it is the pool's, and may be over already */
        return;
    t->error = e;
    req_resume(t->rq);
}

static void on_send(struct message *m)
{
    struct trying *t = CONTAINER(m, struct trying, send);
    struct client *client = app.clients[loop_index(t->rq->http->loop)];
    struct client_call *call;
    err e = client_start(client, trial_arena(t->trial), t->request, on_answer, t, &call);
    if (e == ERR_INVALID)
        on_answer(t, &(struct client_answer){
                         .error = e, .code = "http.request", .detail = S("The URL or a header cannot be sent") });
    else if (e != OK)
        on_answer(t, &(struct client_answer){
                         .error = e, .code = "http.overloaded", .detail = S("Too many outgoing calls") });
}

/* ---- the handler ---- */

static err find_kind(struct req *rq, const struct step_kind **out)
{
    str type = req_param(rq, "type");
    const struct step_kind *kind = step_kind_by(type);
    if (kind == NULL)
        return problem(rq, &step_type_not_found, "There is no step type '%.*s'", STR_FMT(str_slice(type, 0, 64)));
    if (kind->untestable)
        return problem(rq, &step_untestable, "A %s step waits, or runs other steps: run a workflow with it",
                       kind->type);
    *out = kind;
    return OK;
}

static err make_trial(struct req *rq, struct trial **out)
{
    static const struct json nothing = { .type = JSON_OBJECT };
    const struct json *with = json_get(rq->json, S("with"));
    struct trial_given given = { .with = with != NULL ? with : &nothing,
                                 .input = ((const struct body *)rq->body)->input,
                                 .names = rq->json,
                                 .now_us = req_now(rq) };
    TRY(find_kind(rq, &given.kind));
    assert(given.kind != NULL); /* a problem is an error */
    TRY(field_decode(rq->arena, given.kind->with, FIELD_CREATE, given.with, S("/with"), NULL, &rq->errors));
    TRY(trial_new(&given, &rq->errors, out));
    return arena_defer(rq->arena, trial_free, *out) ? OK : ERR_MEMORY;
}

err step_test(struct req *rq)
{
    struct trying *t = NEW(rq->arena, struct trying);
    if (t == NULL)
        return ERR_MEMORY;
    t->rq = rq;
    TRY(make_trial(rq, &t->trial));
    t->request = trial_begin(t->trial);
    if (t->request == NULL) {
        TRY(make_result(t));
        return reply(rq, 200, &trial_result_table, t->result);
    }
    TRY(park(rq, resumed, t));
    t->send.run = on_send;
    loop_post(rq->http->loop, &t->send);
    return OK;
}
