/* resume.c - a run put together again: after a crash or a wait from its journal, or, when an execution is played again, from the history of another one.
 *
 * Records are put back by depth, because the items of a foreach, which its input holds, say which frames there can be. What follows from them (an interrupted
 * attempt, an iteration that can begin) is only looked at when all of them are in place. */
#include "engine/internal.h"

#include <stdio.h>

enum { INTERRUPTIONS_MAX = 3 };

/* --- records back in their places --------------------------------------------------------------------------------- */

/* The frame of an iteration, made if need be; NULL: there is no such item (which cannot be: what was recorded had it). */
static err frame_of(struct run *r, const struct plan_step *outer, i64 iteration, struct frame **out)
{
    struct frame *around;
    i64 item = iteration % FOREACH_ITEMS_MAX;
    *out = r->root;
    if (outer == NULL)
        return OK;
    TRY(frame_of(r, outer->outer, iteration / FOREACH_ITEMS_MAX, &around));
    *out = NULL;
    if (around == NULL)
        return OK;
    struct run_step *foreach = &around->steps[outer->index];
    if (foreach->each == NULL || item >= foreach->each->items->n)
        return OK;
    *out = foreach->each->frames[item];
    return *out != NULL ? OK : frame_open(foreach, (u32)item, out);
}

static void restore_attempts(struct run_step *s, const struct json *attempts)
{
    s->attempts_node = *attempts;
    s->record.attempts = &s->attempts_node;
    for (u32 i = 0; i < attempts->n; i++) {
        const struct json *code = json_at(&attempts->items[i], S("/error/code"));
        s->interruptions += str_eq(json_str(code), S("engine.interrupted"));
    }
}

static err restore_step(struct run *r, struct run_step *s, const struct step_record *record)
{
    const struct step_record place = s->record;
    s->record = *record;
    s->record.type = place.type;
    s->record.iteration = place.iteration;
    s->record.depth = place.depth;
    s->attempt_started_at = record->started_at;
    if (record->attempts != NULL)
        restore_attempts(s, record->attempts);
    r->bytes += record->input != NULL ? (i64)json_size(record->input) : 0;
    r->bytes += record->output != NULL ? (i64)json_size(record->output) : 0;
    s->told_start = record->started_at != 0;
    s->told_end = run_step_ended(s);
    s->told_attempts = record->attempts != NULL ? record->attempts->n : 0;
    r->last_us = MAX(r->last_us, MAX(record->started_at, record->completed_at));
    return s->plan->body != NULL && record->input != NULL ? iterations_new(s) : OK;
}

err run_restore(struct run *r, const struct step_record *records, u32 n)
{
    for (u32 depth = 0; depth <= FOREACH_DEPTH_MAX; depth++)
        for (u32 i = 0; i < n; i++) {
            const struct plan_step *p = map_get(&r->plan->by_id, records[i].step_id);
            struct frame *f;
            if (p == NULL) /* cannot be: versions are immutable */
                continue;
            TRY(frame_of(r, p->outer, records[i].iteration, &f));
            if (f != NULL && f->depth == depth)
                TRY(restore_step(r, &f->steps[p->index], &records[i]));
        }
    return OK;
}

/* --- going on ----------------------------------------------------------------------------------------------------- */

/* It was in the middle of an attempt when the process died. */
static void interrupted(struct run *r, struct run_step *s)
{
    if (s->plan->at_most_once) {
        run_move(s, STEP_UNKNOWN);
        return;
    }
    if (++s->interruptions >= INTERRUPTIONS_MAX) {
        run_fail_step(r, s, "engine.crashed", S("The server stopped three times in the middle of this step"));
        return;
    }
    run_note_attempt(r, s, "engine.interrupted", S("The server stopped in the middle of this attempt"));
    run_wait_until(s, r->last_us);
}

static void count_what_ended(struct run *r)
{
    r->ready = NULL;
    STEPS (r, s) {
        s->queued = false;
        if (!run_step_ended(s))
            continue;
        run_count_ended(s);
        bool later = r->responded == NULL || r->responded->record.completed_at < s->record.completed_at;
        if (s->record.state == STEP_COMPLETED && s->plan->kind->type == r->responds && later)
            r->responded = s;
    }
    for (struct frame *f = r->root->next; f != NULL; f = f->next)
        frame_settle(f);
}

static void go_on(struct run *r, struct run_step *s)
{
    if (s->frame->over || !s->frame->begun)
        return;
    run_consider(r, s);
    if (s->record.state == STEP_RUNNING && s->each != NULL)
        iterations_fill(s);
}

void run_resume(struct run *r, i64 now_us)
{
    r->last_us = MAX(r->last_us, now_us);
    assert(r->root != NULL); /* run_prepare made it */
    count_what_ended(r);
    if (r->cancelling)
        run_cancel(r);
    STEPS (r, s)
        if (s->record.state == STEP_RUNNING && s->each == NULL && !run_state_final(r->state))
            interrupted(r, s);
    STEPS (r, s)
        if (!run_state_final(r->state))
            go_on(r, s);
    run_wake(r, r->last_us);
}

/* --- played again ------------------------------------------------------------------------------------------------- */

struct replay {
    struct run *run;
    struct map records; /* key_of → struct step_record */
    const struct plan_step *from;
};

static str key_of(char *text, size_t size, str step_id, i64 iteration)
{
    int n = snprintf(text, size, "%.*s#%lld", STR_FMT(step_id), (long long)iteration);
    return (str){ text, MIN((size_t)n, size - 1) };
}

static const struct step_record *recorded(const struct replay *p, str step_id, i64 iteration)
{
    char text[128]; /* ids have 64 characters at most, of one byte each */
    return map_get(&p->records, key_of(text, sizeof text, step_id, iteration));
}

/* A result that stands for good: what failed counts only where the definition goes on after it. */
static bool keeps_result(const struct run_step *s, enum step_state state)
{
    return state == STEP_COMPLETED || state == STEP_SKIPPED || (state == STEP_FAILED && s->plan->continue_on_error);
}

/* Whether a step is the one to begin at, or a foreach around that. */
static bool leads_to(const struct plan_step *from, const struct plan_step *p)
{
    while (from != NULL && from != p)
        from = from->outer;
    return from != NULL;
}

static err keep_step(struct replay *p, struct run_step *s, const struct step_record *record);
static err take_over(struct replay *p, struct frame *f);

/* What is known of an iteration, whatever it came to. */
static err keep_frame(struct replay *p, struct frame *f)
{
    for (u32 i = 0; i < f->block->count; i++) {
        const struct step_record *record = recorded(p, f->steps[i].plan->id, f->iteration);
        if (record != NULL && record->state != STEP_PENDING)
            TRY(keep_step(p, &f->steps[i], record));
    }
    return OK;
}

static bool knows_iteration(const struct replay *p, const struct run_step *foreach, u32 item)
{
    const struct block *body = foreach->plan->body;
    i64 iteration = foreach->frame->iteration * FOREACH_ITEMS_MAX + item;
    for (u32 i = 0; i < body->count; i++)
        if (recorded(p, body->steps[i].id, iteration) != NULL)
            return true;
    return false;
}

static err each_iteration(struct replay *p, struct run_step *foreach, err (*with)(struct replay *p, struct frame *f))
{
    for (u32 i = 0; foreach->each != NULL && i < foreach->each->items->n; i++) {
        struct frame *f;
        if (!knows_iteration(p, foreach, i))
            continue;
        TRY(frame_open(foreach, i, &f));
        TRY(with(p, f));
    }
    return OK;
}

static err keep_step(struct replay *p, struct run_step *s, const struct step_record *record)
{
    TRY(restore_step(p->run, s, record));
    s->dirty = true;
    return each_iteration(p, s, keep_frame);
}

/* A foreach that goes on where it was: with the same items, and the results of the iterations that stand. */
static err reopen(struct replay *p, struct run_step *s, const struct step_record *record)
{
    struct run *r = p->run;
    struct step_record again = *record;
    again.state = STEP_RUNNING;
    again.output = again.error = NULL;
    again.completed_at = 0;
    again.deadline_at = MIN(r->deadline_at, r->last_us + s->plan->timeout_us);
    TRY(restore_step(r, s, &again));
    s->dirty = true;
    return each_iteration(p, s, take_over);
}

/* The results of a block that stand. What has none runs anew, and all that follows from it. */
static err take_over(struct replay *p, struct frame *f)
{
    bool *anew = NEW_N(p->run->arena, bool, f->block->count);
    if (anew == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < f->block->count; i++) {
        struct run_step *s = &f->steps[f->block->order[i]];
        const struct plan_step *plan = s->plan;
        const struct step_record *record = recorded(p, plan->id, f->iteration);
        bool follows = false;
        for (u32 k = 0; k < plan->need_count; k++)
            follows |= anew[plan->needs[k]];
        bool kept = record != NULL && !follows && keeps_result(s, record->state) && !leads_to(p->from, plan);
        anew[plan->index] = !kept;
        if (kept)
            TRY(keep_step(p, s, record));
        else if (record != NULL && !follows && plan != p->from && plan->body != NULL && record->input != NULL)
            TRY(reopen(p, s, record));
    }
    return OK;
}

static err read_records(struct replay *p, str history)
{
    struct json *steps;
    struct json_error where;
    char text[128];
    TRY(json_parse(p->run->arena, history, &steps, &where));
    for (u32 i = 0; i < steps->n; i++) {
        struct step_record *record = NEW(p->run->arena, struct step_record);
        if (record == NULL)
            return ERR_MEMORY;
        *record = record_of_history(&steps->items[i]);
        TRY(map_put(&p->records, key_of(text, sizeof text, record->step_id, record->iteration), record));
    }
    return OK;
}

err run_replay(struct run *r, str history)
{
    struct replay p = { .run = r, .records = { .arena = r->arena } };
    if (r->replay_from.p != NULL)
        p.from = map_get(&r->plan->by_id, r->replay_from);
    TRY(read_records(&p, history));
    TRY(take_over(&p, r->root));
    run_resume(r, r->last_us);
    return OK;
}
