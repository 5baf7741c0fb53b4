/* frame.c - the blocks of a run at work: its own steps (the root), and those of a foreach, once for each item.
 *
 * Iterations begin in the order of the list, as many at a time as the foreach says, and each ends with a result: what its last steps gave, or {error}. The
 * foreach is `running` all the while; whether an iteration waits, retries or sends is between its steps and run.c. */
#include "engine/internal.h"

static err frame_new(struct run *r, const struct block *b, struct run_step *owner, u32 item, struct frame **out)
{
    const struct frame *outer = owner != NULL ? owner->frame : NULL;
    struct frame *f = NEW(r->arena, struct frame);
    struct run_step *steps = NEW_N(r->arena, struct run_step, b->count);
    if (f == NULL || steps == NULL)
        return ERR_MEMORY;
    *f = (struct frame){ .block = b, .run = r, .owner = owner, .item = item, .steps = steps, .open = b->count };
    if (outer != NULL) {
        f->iteration = outer->iteration * FOREACH_ITEMS_MAX + item;
        f->depth = outer->depth + 1;
    }
    for (u32 i = 0; i < b->count; i++) {
        const struct plan_step *p = &b->steps[i];
        steps[i] = (struct run_step){ .plan = p, .frame = f, .open_needs = p->need_count };
        steps[i].record = (struct step_record){
            .step_id = p->id, .type = p->kind->type, .iteration = f->iteration, .depth = f->depth
        };
    }
    r->step_count += b->count;
    *out = f;
    return OK;
}

err frame_open_root(struct run *r)
{
    TRY(frame_new(r, &r->plan->root, NULL, 0, &r->root));
    r->root->begun = true;
    r->frames = r->root;
    return OK;
}

err frame_open(struct run_step *foreach, u32 item, struct frame **out)
{
    struct run *r = foreach->frame->run;
    struct frame *f;
    TRY(frame_new(r, foreach->plan->body, foreach, item, &f));
    f->next = r->frames->next; /* the root stays first */
    r->frames->next = f;
    foreach->each->frames[item] = f;
    *out = f;
    return OK;
}

struct json frame_output(const struct frame *f)
{
    struct json out = { .type = JSON_OBJECT };
    for (u32 i = 0; i < f->block->count; i++) {
        const struct run_step *s = &f->steps[i];
        if (s->plan->feed_count == 0 && s->record.state == STEP_COMPLETED &&
            !json_set(f->run->arena, &out, s->plan->id, *s->record.output))
            f->run->starved = true;
    }
    return out;
}

/* --- iterations --------------------------------------------------------------------------------------------------- */

err iterations_new(struct run_step *foreach)
{
    struct arena *a = foreach->frame->run->arena;
    const struct json *items = json_get(foreach->record.input, S("items"));
    const struct json *concurrency = json_get(foreach->record.input, S("concurrency"));
    struct iterations *each = NEW(a, struct iterations);
    if (each == NULL || items == NULL || items->type != JSON_ARRAY || items->n > FOREACH_ITEMS_MAX)
        return each == NULL ? ERR_MEMORY : ERR_DECODE;
    *each = (struct iterations){ .items = items,
                                 .frames = NEW_N(a, struct frame *, items->n),
                                 .results = NEW_N(a, struct json, items->n),
                                 .concurrency = 1 };
    if (each->frames == NULL || each->results == NULL)
        return ERR_MEMORY;
    if (concurrency != NULL)
        each->concurrency = (u32)(concurrency->type == JSON_REAL ? (i64)concurrency->real : concurrency->integer);
    each->continue_on_error = str_eq(json_str(json_get(foreach->record.input, S("on_error"))), S("continue"));
    foreach->each = each;
    return OK;
}

static void iterations_cancel(struct run_step *foreach)
{
    struct iterations *each = foreach->each;
    for (u32 i = 0; i < each->items->n; i++)
        if (each->frames[i] != NULL && !each->frames[i]->over)
            frame_cancel(each->frames[i]);
    each->running = 0;
}

void iterations_fail(struct run_step *foreach, const char *code, str message)
{
    iterations_cancel(foreach);
    run_fail_step(foreach->frame->run, foreach, code, message);
}

static void iterations_complete(struct run_step *foreach)
{
    struct run *r = foreach->frame->run;
    const struct iterations *each = foreach->each;
    struct json list = { .type = JSON_ARRAY, .n = each->items->n, .items = each->results };
    const char *code;
    str why;
    if (run_fits(r, &list, &code, &why))
        run_complete_step(r, foreach, list);
    else
        run_fail_step(r, foreach, code, why);
}

static void frame_begin(struct frame *f)
{
    f->begun = true;
    f->owner->each->running++;
    for (u32 i = 0; i < f->block->count; i++)
        run_consider(f->run, &f->steps[i]);
}

void iterations_fill(struct run_step *foreach)
{
    struct iterations *each = foreach->each;
    while (each->running < each->concurrency && each->next < each->items->n) {
        u32 item = each->next++;
        struct frame *f = each->frames[item];
        if (f != NULL && (f->begun || f->over)) /* was put together again after a restart */
            continue;
        if (f == NULL && frame_open(foreach, item, &f) != OK) {
            iterations_fail(foreach, STARVED_CODE, S(STARVED_TEXT));
            return;
        }
        frame_begin(f);
    }
    if (each->done == each->items->n)
        iterations_complete(foreach);
}

void iterations_begin(struct run_step *foreach)
{
    struct run *r = foreach->frame->run;
    if (iterations_new(foreach) != OK) {
        run_starve_step(r, foreach);
        return;
    }
    u64 steps = r->step_count + (u64)foreach->each->items->n * foreach->plan->body->count;
    if (steps > EXECUTION_STEPS_MAX)
        run_fail_step(r, foreach, "foreach.steps", S("The execution would have more than 50,000 steps"));
    else
        iterations_fill(foreach);
}

/* --- ends of frames ----------------------------------------------------------------------------------------------- */

static void set_result(struct frame *f, struct json result)
{
    f->over = true;
    f->owner->each->results[f->item] = result;
    f->owner->each->done++;
}

static struct json failed_result(const struct frame *f, struct json error)
{
    struct json result = { .type = JSON_OBJECT };
    f->run->starved |= !json_set(f->run->arena, &result, S(ITERATION_ERROR), error);
    return result;
}

void frame_done(struct frame *f)
{
    set_result(f, frame_output(f));
    f->owner->each->running--;
    iterations_fill(f->owner);
}

void frame_failed(struct frame *f, const char *code, str message, str step_id)
{
    struct run *r = f->run;
    struct iterations *each = f->owner->each;
    frame_cancel(f);
    if (!each->continue_on_error) {
        iterations_fail(f->owner, code,
                        strf(r->arena, "Iteration %u, step %.*s: %.*s", f->item, STR_FMT(step_id), STR_FMT(message)));
        return;
    }
    set_result(f, failed_result(f, run_error_json(r, code, message, step_id)));
    each->running--;
    iterations_fill(f->owner);
}

void frame_cancel(struct frame *f)
{
    f->over = true;
    for (u32 i = 0; i < f->block->count; i++) {
        struct run_step *s = &f->steps[i];
        str child = s->spawn ? STR_NONE : run_child_of(s);
        s->launch = s->spawn = false;
        if (s->call != NULL)
            call_cancel(s->call);
        bool untouched = s->record.state == STEP_PENDING && f->owner == NULL; /* the execution's own end says enough */
        if (run_step_ended(s) || untouched)
            continue;
        if (child.p != NULL)
            s->abandoned = child;
        if (s->each != NULL)
            iterations_cancel(s);
        run_move(s, STEP_CANCELLED);
        s->record.completed_at = run_tick(f->run);
        f->open--;
    }
}

/* --- after a restart ---------------------------------------------------------------------------------------------- */

static const struct run_step *failed_in(const struct frame *f)
{
    for (u32 i = 0; i < f->block->count; i++)
        if (f->steps[i].record.state == STEP_FAILED && !f->steps[i].plan->continue_on_error)
            return &f->steps[i];
    return NULL;
}

/* A copy of the step's error that says which step it was, as frame_failed makes it. */
static struct json error_of(const struct run_step *s)
{
    struct json error = { .type = JSON_OBJECT };
    struct arena *a = s->frame->run->arena;
    const struct json *from = s->record.error;
    bool good = true;
    for (u32 i = 0; from != NULL && from->type == JSON_OBJECT && i < from->n; i++)
        good = good && json_set(a, &error, from->members[i].key, from->members[i].value);
    s->frame->run->starved |= !good || !json_set(a, &error, S("step_id"), json_of_str(s->plan->id));
    return error;
}

void frame_settle(struct frame *f)
{
    const struct run_step *failed = failed_in(f);
    f->over = run_step_ended(f->owner);
    if (f->over)
        return;
    if (failed != NULL)
        set_result(f, failed_result(f, error_of(failed)));
    else if (f->open == 0)
        set_result(f, frame_output(f));
    for (u32 i = 0; i < f->block->count && !f->over; i++) {
        enum step_state state = f->steps[i].record.state;
        f->begun |= state == STEP_RUNNING || state == STEP_WAITING || state == STEP_UNKNOWN;
    }
    f->owner->each->running += f->begun;
}
