/* history.c - how executions and their steps are published, stored in the history, and told as events.
 *
 * Event ids are the microsecond at which the thing happened: run_tick makes these unique and rising within an execution, so a live event and the same
 * event read from the history later have the same id, and Last-Event-ID needs no store of its own. */
#include "engine/internal.h"
#include "base/log.h"
#include "codec/time.h"

#include <stdlib.h>

const char *const step_state_names[STEP_STATES] = {
    [STEP_PENDING] = "pending",     [STEP_RUNNING] = "running", [STEP_WAITING] = "waiting",
    [STEP_COMPLETED] = "completed", [STEP_FAILED] = "failed",   [STEP_SKIPPED] = "skipped",
    [STEP_CANCELLED] = "cancelled", [STEP_UNKNOWN] = "unknown",
};
const char *const run_state_names[RUN_STATES] = {
    [RUN_QUEUED] = "queued",       [RUN_RUNNING] = "running", [RUN_WAITING] = "waiting",
    [RUN_COMPLETED] = "completed", [RUN_FAILED] = "failed",   [RUN_CANCELLED] = "cancelled",
    [RUN_TIMED_OUT] = "timed_out",
};

static const char *const run_states[] = { "queued", "running",   "waiting",   "completed",
                                          "failed", "cancelled", "timed_out", NULL };
static const char *const step_states[] = { "pending", "running",   "waiting", "completed", "failed",
                                           "skipped", "cancelled", "unknown", NULL };

enum step_state step_state_of(str name)
{
    enum step_state s = STEP_PENDING;
    while (s < STEP_UNKNOWN && !str_eq(name, str_of(step_state_names[s])))
        s++;
    return s;
}

bool execution_is_final(str status)
{
    for (enum run_state s = RUN_COMPLETED; s < RUN_STATES; s++)
        if (str_eq(status, str_of(run_state_names[s])))
            return true;
    return false;
}

/* --- published shapes --------------------------------------------------------------------------------------------- */

static const struct field error_fields[] = {
    SHAPE_FIELD("code", F_STR, .doc = "Why, for programs: http.status, expr.runtime, …"),
    SHAPE_FIELD("message", F_STR, .doc = "Why, for people"),
    SHAPE_FIELD("step_id", F_STR, .flags = F_SPARSE, .doc = "The step that failed"),
};
const struct table execution_error_table =
    SHAPE("ExecutionError", error_fields, .doc = "Why a step or an execution failed");

static const struct field attempt_fields[] = {
    SHAPE_FIELD("n", F_I64, .doc = "Number of the attempt, from 1"),
    SHAPE_FIELD("error", F_OBJECT, .of = &execution_error_table, .doc = "Why it failed"),
    SHAPE_FIELD("started_at", F_TIME, .doc = "When it began"),
    SHAPE_FIELD("completed_at", F_TIME, .doc = "When it failed"),
};
static const struct table attempt_table = SHAPE("StepAttempt", attempt_fields, .doc = "An earlier attempt of a step");

static const struct field step_fields[] = {
    SHAPE_FIELD("step_id", F_STR, .doc = "Id of the step in the definition"),
    SHAPE_FIELD("iteration", F_LIST, .flags = F_SPARSE, .item = F_I64, .max = FOREACH_DEPTH_MAX,
                .doc = "Inside of foreach steps: the positions of the items, from 0, outermost first",
                .example = "[3]"),
    SHAPE_FIELD("type", F_STR, .doc = "Kind of the step"),
    SHAPE_FIELD("status", F_STR, .one_of = step_states, .doc = "How far it is"),
    SHAPE_FIELD("attempt", F_I64, .doc = "Attempts made"),
    SHAPE_FIELD("attempts", F_LIST, .of = &attempt_table, .doc = "The earlier, failed ones"),
    SHAPE_FIELD("input_data", F_JSON, .flags = F_NULLABLE, .doc = "Its configuration, evaluated"),
    SHAPE_FIELD("output_data", F_JSON, .flags = F_NULLABLE, .doc = "Its result"),
    SHAPE_FIELD("error", F_OBJECT, .flags = F_NULLABLE, .of = &execution_error_table, .doc = "Why it failed"),
    SHAPE_FIELD("started_at", F_TIME, .flags = F_NULLABLE, .doc = "When its first attempt began"),
    SHAPE_FIELD("completed_at", F_TIME, .flags = F_NULLABLE, .doc = "When it ended"),
    SHAPE_FIELD("execution_time", F_F64, .flags = F_NULLABLE, .doc = "Seconds between the two"),
};
const struct table step_execution_table = SHAPE("StepExecution", step_fields, .doc = "One step of an execution");

static const struct field execution_fields[] = {
    FIELD(struct execution, execution_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "execution",
          .doc = "Its id"),
    FIELD(struct execution, workflow_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "workflow",
          .doc = "Of which workflow"),
    FIELD(struct execution, version, F_I64, .flags = F_OUTPUT, .doc = "Version of the workflow that ran"),
    FIELD(struct execution, status, F_STR, .flags = F_OUTPUT | F_FILTER, .one_of = run_states, .doc = "How far it is"),
    FIELD(struct execution, trigger, F_JSON, .flags = F_OUTPUT,
          .doc = "What started it: {type: manual, webhook or workflow, …}"),
    FIELD(struct execution, input_data, F_JSON, .flags = F_OUTPUT, .doc = "What it was given"),
    FIELD(struct execution, output_data, F_JSON, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "Output of the last respond step, else of the last steps by their ids"),
    FIELD(struct execution, error, F_OBJECT, .flags = F_OUTPUT | F_NULLABLE | F_TEXT, .of = &execution_error_table,
          .doc = "Why it failed"),
    FIELD(struct execution, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was accepted"),
    FIELD(struct execution, started_at, F_TIME, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "When its first step could begin"),
    FIELD(struct execution, completed_at, F_TIME, .flags = F_OUTPUT | F_NULLABLE, .doc = "When it ended"),
    FIELD(struct execution, execution_time, F_F64, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "Seconds from start to end, or until now"),
    FIELD(struct execution, parent_id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "The execution that started it"),
    FIELD(struct execution, step_executions, F_LIST, .flags = F_OUTPUT | F_TEXT, .of = &step_execution_table,
          .max = EXECUTION_STEPS_MAX,
          .doc = "Its steps, in the order of the definition; behind a foreach those of its iterations"),
};
const struct table execution_table =
    TABLE("Execution", struct execution, execution_fields, .doc = "One run of a workflow");

/* --- the history -------------------------------------------------------------------------------------------------- */

static void write_json(struct json_writer *w, str key, const struct json *value)
{
    jw_key(w, key);
    if (value != NULL)
        jw_json(w, value);
    else
        jw_null(w);
}

static void write_time(struct json_writer *w, str key, i64 us)
{
    jw_key(w, key);
    if (us == 0) {
        jw_null(w);
        return;
    }
    buf_char(w->b, '"'); /* the value goes straight into the buffer: no copy of its own */
    time_put(w->b, us);
    buf_char(w->b, '"');
    w->comma = true;
}

static void write_iteration(struct json_writer *w, i64 iteration, u32 depth)
{
    if (depth == 0)
        return;
    i64 unit = 1;
    for (u32 i = 1; i < depth; i++)
        unit *= FOREACH_ITEMS_MAX;
    jw_key(w, S("iteration"));
    jw_begin(w, '[');
    for (; unit > 0; unit /= FOREACH_ITEMS_MAX)
        jw_i64(w, iteration / unit % FOREACH_ITEMS_MAX);
    jw_end(w, ']');
}

void record_write(struct json_writer *w, const struct step_record *r)
{
    static const struct json no_attempts = { .type = JSON_ARRAY };
    jw_begin(w, '{');
    jw_key(w, S("step_id"));
    jw_str(w, r->step_id);
    write_iteration(w, r->iteration, r->depth);
    jw_key(w, S("type"));
    jw_str(w, str_of(r->type != NULL ? r->type : "unknown"));
    jw_key(w, S("status"));
    jw_str(w, str_of(step_state_names[r->state]));
    jw_key(w, S("attempt"));
    jw_i64(w, r->attempt);
    write_json(w, S("attempts"), r->attempts != NULL ? r->attempts : &no_attempts);
    write_json(w, S("input_data"), r->input);
    write_json(w, S("output_data"), r->output);
    write_json(w, S("error"), r->error);
    write_time(w, S("started_at"), r->started_at);
    write_time(w, S("completed_at"), r->completed_at);
    jw_key(w, S("execution_time"));
    if (r->started_at != 0 && r->completed_at != 0)
        jw_real(w, (double)(r->completed_at - r->started_at) / (double)SECOND_US);
    else
        jw_null(w);
    jw_end(w, '}');
}

void frame_write(struct json_writer *w, const struct frame *f, bool thin)
{
    for (u32 i = 0; i < f->block->count; i++) {
        const struct run_step *s = &f->steps[i];
        struct step_record record = s->record;
        if (thin)
            record.input = record.output = NULL;
        record_write(w, &record);
        for (u32 k = 0; s->each != NULL && k < s->each->items->n; k++)
            if (s->each->frames[k] != NULL)
                frame_write(w, s->each->frames[k], thin);
    }
}

static void set_execution_time(struct execution *x)
{
    if (x->started_at == 0 || x->completed_at == 0)
        return;
    x->execution_time = (double)(x->completed_at - x->started_at) / (double)SECOND_US;
    SET(execution_table, x, execution_time);
}

err execution_complete_row(struct tx *tx, str tenant_id, struct execution *x, struct plan *plan)
{
    set_execution_time(x);
    if (execution_is_final(x->status)) {
        if (x->step_executions.p == NULL) {
            x->step_executions = S("[]");
            SET(execution_table, x, step_executions);
        }
        return OK;
    }
    struct step_record *list;
    u32 n;
    struct run view = { .arena = db_arena(tx), .plan = plan }; /* put together, but it never runs */
    struct buf b = { .arena = db_arena(tx) };
    struct json_writer w = { .b = &b };
    TRY(journal_read(tx, tenant_id, x->execution_id, &list, &n));
    TRY(frame_open_root(&view));
    TRY(run_restore(&view, list, n));
    jw_begin(&w, '[');
    frame_write(&w, view.root, false);
    jw_end(&w, ']');
    TRY(b.fail);
    x->step_executions = buf_view(&b);
    SET(execution_table, x, step_executions);
    return OK;
}

/* --- events ------------------------------------------------------------------------------------------------------- */

struct event_list {
    struct arena *arena;
    struct execution_event *list;
    u32 n, room;
};

static err add_event(struct event_list *l, i64 at_us, const char *name, str data)
{
    if (l->n == l->room) {
        u32 room = l->room == 0 ? 16 : l->room * 2;
        struct execution_event *list = arena_grow(l->arena, l->list, l->room * sizeof *list, room * sizeof *list);
        if (list == NULL)
            return ERR_MEMORY;
        l->list = list;
        l->room = room;
    }
    str id = strf(l->arena, "%lld", (long long)at_us);
    if (id.p == NULL || data.p == NULL)
        return ERR_MEMORY;
    l->list[l->n++] = (struct execution_event){ id, str_of(name), data };
    return OK;
}

/* What events say of a step. */
struct step_news {
    str execution_id, step_id, type;
    i64 iteration;
    u32 depth;
};

static str step_data(struct arena *a, const struct step_news *s, str status, i64 attempt, const struct json *error)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("execution_id"));
    jw_str(&w, s->execution_id);
    jw_key(&w, S("step_id"));
    jw_str(&w, s->step_id);
    write_iteration(&w, s->iteration, s->depth);
    jw_key(&w, S("type"));
    jw_str(&w, s->type);
    jw_key(&w, S("status"));
    jw_str(&w, status);
    jw_key(&w, S("attempt"));
    jw_i64(&w, attempt);
    write_json(&w, S("error"), error);
    jw_end(&w, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

static str execution_data(struct arena *a, str execution_id, str workflow_id, str status, str output, str error)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("execution_id"));
    jw_str(&w, execution_id);
    jw_key(&w, S("workflow_id"));
    jw_str(&w, workflow_id);
    jw_key(&w, S("status"));
    jw_str(&w, status);
    jw_key(&w, S("output_data"));
    jw_raw(&w, output);
    jw_key(&w, S("error"));
    jw_raw(&w, error);
    jw_end(&w, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

static i64 time_of(const struct json *object, str key)
{
    i64 us = 0;
    return time_parse(json_str(json_get(object, key)), &us) ? us : 0;
}

static const struct json *value_of(const struct json *object, str key)
{
    const struct json *value = json_get(object, key);
    return value != NULL && value->type != JSON_NULL ? value : NULL;
}

static i64 iteration_of(const struct json *list, u32 *depth)
{
    i64 iteration = 0;
    *depth = list != NULL ? list->n : 0;
    for (u32 i = 0; i < *depth; i++)
        iteration = iteration * FOREACH_ITEMS_MAX + list->items[i].integer;
    return iteration;
}

struct step_record record_of_history(const struct json *step)
{
    const struct json *attempt = json_get(step, S("attempt")), *attempts = json_get(step, S("attempts"));
    u32 depth = 0;
    struct step_record r = {
        .step_id = json_str(json_get(step, S("step_id"))),
        .iteration = iteration_of(json_get(step, S("iteration")), &depth),
        .depth = depth,
        .state = step_state_of(json_str(json_get(step, S("status")))),
        .attempt = attempt != NULL ? attempt->integer : 0,
        .attempts = attempts != NULL && attempts->n > 0 ? attempts : NULL,
        .input = value_of(step, S("input_data")),
        .output = value_of(step, S("output_data")),
        .error = value_of(step, S("error")),
        .started_at = time_of(step, S("started_at")),
        .completed_at = time_of(step, S("completed_at")),
    };
    if (r.state == STEP_COMPLETED && r.output == NULL) /* null is a result too */
        r.output = &json_null;
    return r;
}

static const char *ending_name(str status)
{
    static const struct {
        const char *status, *event;
    } names[] = { { "completed", "step.completed" },
                  { "failed", "step.failed" },
                  { "skipped", "step.skipped" },
                  { "cancelled", "step.cancelled" } };
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eq(status, str_of(names[i].status)))
            return names[i].event;
    return NULL;
}

/* What was taken over from an earlier execution happened there, not here. */
static err step_events(struct event_list *l, str execution_id, const struct json *step, i64 since)
{
    struct step_news news = { .execution_id = execution_id,
                              .step_id = json_str(json_get(step, S("step_id"))),
                              .type = json_str(json_get(step, S("type"))) };
    news.iteration = iteration_of(json_get(step, S("iteration")), &news.depth);
    str status = json_str(json_get(step, S("status")));
    const struct json *attempts = json_get(step, S("attempts")), *attempt = json_get(step, S("attempt"));
    i64 started = time_of(step, S("started_at")), ended = time_of(step, S("completed_at"));
    if (ended != 0 && ended < since)
        return OK;
    if (started != 0)
        TRY(add_event(l, started, "step.started", step_data(l->arena, &news, S("running"), 1, NULL)));
    for (u32 i = 0; attempts != NULL && i < attempts->n; i++) {
        const struct json *one = &attempts->items[i], *n = json_get(one, S("n"));
        i64 at_us = time_of(one, S("completed_at"));
        if (at_us != 0)
            TRY(add_event(l, at_us, "step.retrying",
                          step_data(l->arena, &news, S("waiting"), n->integer, json_get(one, S("error")))));
    }
    const char *name = ending_name(status);
    const struct json *error = json_get(step, S("error"));
    if (error != NULL && error->type == JSON_NULL)
        error = NULL;
    if (name != NULL && ended != 0)
        TRY(add_event(l, ended, name, step_data(l->arena, &news, status, attempt->integer, error)));
    return OK;
}

static int by_id(const void *a, const void *b)
{
    const struct execution_event *x = a, *y = b;
    return execution_event_cmp(x->id, y->id);
}

err execution_events(struct arena *a, const struct execution *x, struct execution_event **list, u32 *n)
{
    struct event_list l = { .arena = a };
    struct json *steps = NULL;
    struct json_error where;
    str text = x->step_executions.p != NULL ? x->step_executions : S("[]");
    TRY(json_parse(a, text, &steps, &where));
    if (x->started_at != 0)
        TRY(add_event(&l, x->started_at, "execution.started",
                      execution_data(a, x->execution_id, x->workflow_id, S("running"), STR_NONE, STR_NONE)));
    for (u32 i = 0; i < steps->n; i++)
        TRY(step_events(&l, x->execution_id, &steps->items[i], x->created_at));
    if (execution_is_final(x->status)) {
        str name = strf(a, "execution.%.*s", STR_FMT(x->status));
        if (name.p == NULL)
            return ERR_MEMORY;
        TRY(add_event(&l, x->completed_at, name.p,
                      execution_data(a, x->execution_id, x->workflow_id, x->status, x->output_data, x->error)));
    }
    if (l.n > 0)
        qsort(l.list, l.n, sizeof *l.list, by_id);
    *list = l.list;
    *n = l.n;
    return OK;
}

int execution_event_cmp(str a, str b)
{
    i64 x = -1, y = -1;
    str_i64(a, 0, INT64_MAX, &x);
    str_i64(b, 0, INT64_MAX, &y);
    return (x > y) - (x < y);
}

/* --- live events: what the last write recorded and was not told yet ------------------------------------------------ */

static err add_step_news(struct event_list *l, struct run *r, struct run_step *s)
{
    const struct step_record *rec = &s->record;
    const struct step_news news = { r->id, rec->step_id, str_of(rec->type), rec->iteration, rec->depth };
    str status = str_of(step_state_names[rec->state]);
    if (rec->started_at != 0 && !s->told_start) {
        s->told_start = true;
        TRY(add_event(l, rec->started_at, "step.started", step_data(l->arena, &news, S("running"), 1, NULL)));
    }
    for (; rec->attempts != NULL && s->told_attempts < rec->attempts->n; s->told_attempts++) {
        const struct json *one = &rec->attempts->items[s->told_attempts];
        TRY(add_event(l, time_of(one, S("completed_at")), "step.retrying",
                      step_data(l->arena, &news, S("waiting"), s->told_attempts + 1, json_get(one, S("error")))));
    }
    const char *name = ending_name(status);
    if (name == NULL || s->told_end)
        return OK;
    s->told_end = true;
    return add_event(l, rec->completed_at, name, step_data(l->arena, &news, status, rec->attempt, rec->error));
}

static err add_news(struct event_list *l, struct run *r)
{
    struct arena *a = l->arena;
    if (!r->told_start && r->started_at != 0) {
        r->told_start = true;
        TRY(add_event(l, r->started_at, "execution.started",
                      execution_data(a, r->id, r->workflow_id, S("running"), STR_NONE, STR_NONE)));
    }
    STEPS (r, s)
        TRY(add_step_news(l, r, s));
    if (!run_state_final(r->state))
        return OK;
    str status = str_of(run_state_names[r->state]), name = strf(a, "execution.%.*s", STR_FMT(status));
    str error = r->error.type != JSON_NULL ? json_text(a, &r->error) : STR_NONE;
    return name.p == NULL
               ? ERR_MEMORY
               : add_event(l, r->completed_at, name.p,
                           execution_data(a, r->id, r->workflow_id, status, json_text(a, &r->output), error));
}

void run_publish(struct run *r)
{
    if (!events_wanted("execution", r->id))
        return;
    struct event_list l = { .arena = arena_new(EXPR_MEMORY_BYTES) };
    /* Out of memory: what was gathered still goes out; a listener sees the rest when it reads the history. */
    err e = l.arena != NULL ? add_news(&l, r) : ERR_MEMORY;
    if (l.n > 0)
        qsort(l.list, l.n, sizeof *l.list, by_id);
    for (u32 i = 0; i < l.n; i++)
        events_publish(&(struct event){ .topic = "execution",
                                        .key = r->id,
                                        .tenant_id = r->tenant_id,
                                        .name = l.list[i].name,
                                        .data = l.list[i].data,
                                        .id = l.list[i].id });
    if (e != OK)
        LOG(LOG_WARN, "engine.events_lost", LOG_STR("execution", r->id), LOG_STR("cause", str_of(err_name(e))));
    arena_free(l.arena);
}
