/* internal.h - the engine's own: records, runs, workers. Nothing here is seen outside of src/engine.
 *
 *   engine.c   opening, starting, the scheduler; plans.c the cache  worker.c   a thread with a queue, and the runs it owns
 *   run.c      what happens next in one execution (no I/O)          journal.c  rows: admission, records, final commit, claims
 *   frame.c    its blocks at work: the root, and iterations         history.c  the published shapes, and events
 *   resume.c   a run put together again from what was recorded      outcome.c  what those who wait are told
 *   call.c     an outside call on its way to a loop and back        control.c  what callers ask of an execution that runs
 *   trial.c    one step by itself: a run that no worker owns
 *   slots.c    how many executions may be under way at once         failure.c  what a failed one leaves behind
 *   spread.c   the engines of other nodes on the same database
 *
 * A run belongs to one worker, chosen by its execution id; only that thread touches it. While one of its writes is on the way (run->writing) the
 * worker leaves it alone: answers that arrive meanwhile wait in run->answers. */
#pragma once

#include "base/map.h"
#include "core/events.h"
#include "core/sinks.h"
#include "engine/engine.h"

#include <pthread.h>

/* --- records ------------------------------------------------------------------------------------------------------ */

enum step_state {
    STEP_PENDING,
    STEP_RUNNING,
    STEP_WAITING,
    STEP_COMPLETED,
    STEP_FAILED,
    STEP_SKIPPED,
    STEP_CANCELLED,
    STEP_UNKNOWN,
    STEP_STATES
};
extern const char *const step_state_names[STEP_STATES]; /* "pending", … as stored and published */
enum step_state step_state_of(str name);

struct step_record {
    str step_id;
    /* Which run of the step, when foreach steps are around it: the indexes of their items, outermost first, as digits of base FOREACH_ITEMS_MAX. */
    i64 iteration;
    u32 depth; /* how many there are; 0: it stands in the workflow itself, and iteration is 0 */
    const char *type;
    enum step_state state;
    i64 attempt;
    const struct json *attempts, *input, *output, *error; /* NULL = none */
    i64 started_at, completed_at, deadline_at, due_at;    /* 0 = none */
};
void record_write(struct json_writer *w, const struct step_record *record);
struct frame;
/* The steps of a frame in the order of the definition, each foreach followed by its iterations. Thin: without their values. */
void frame_write(struct json_writer *w, const struct frame *f, bool thin);
/* From what record_write wrote. The type is left out: the plan knows it. */
struct step_record record_of_history(const struct json *step);

enum run_state {
    RUN_QUEUED,
    RUN_RUNNING,
    RUN_WAITING,
    RUN_COMPLETED,
    RUN_FAILED,
    RUN_CANCELLED,
    RUN_TIMED_OUT,
    RUN_STATES
};
extern const char *const run_state_names[RUN_STATES];
static inline bool run_state_final(enum run_state s)
{
    return s >= RUN_COMPLETED;
}

/* --- messages to a worker ----------------------------------------------------------------------------------------- */

struct worker;
struct worker_message {
    void (*run)(struct worker *w, struct worker_message *m); /* frees what it came in */
    struct worker_message *next;
};
void worker_post(struct worker *w, struct worker_message *m);

enum { CALLS_PER_RUN = 100 };

/* --- runs --------------------------------------------------------------------------------------------------------- */

struct call;
struct run_step {
    struct step_record record;
    const struct plan_step *plan;
    struct frame *frame;
    struct run_step *next_ready;
    struct iterations *each; /* of a foreach whose items are known */
    u32 open_needs, done_needs;
    u32 interruptions; /* attempts that a crash ended: they do not use up retries */
    bool queued;       /* in run->ready */
    bool dirty;        /* has news that no write carried yet */
    bool launch;       /* its outside call leaves after the next write */
    bool spawn;        /* its child is inserted with the next write */
    str abandoned;     /* a child that it no longer waits for: cancelled with the next write */
    struct json view;  /* {status, output, error}: what expressions see */
    struct json output_node, error_node, attempts_node;
    struct step_attempt *attempt;
    i64 attempt_started_at;
    struct call *call;
    bool told_start, told_end; /* as events */
    u32 told_attempts;
};

/* A block at work: the workflow's own (the root), or that of a foreach for one of its items. */
struct frame {
    const struct block *block;
    struct run *run;
    struct run_step *owner; /* the foreach; NULL: the root */
    u32 item;               /* its index */
    i64 iteration;          /* as in the records of its steps */
    u32 depth;
    struct run_step *steps;
    u32 open;   /* steps that have not ended */
    bool begun; /* its steps get their turns */
    bool over;  /* it has its result, or nobody wants that any more */
    struct frame *next;
};
struct iterations {
    const struct json *items;
    struct frame **frames; /* by item; NULL = nothing is known of it */
    struct json *results;  /* by item */
    u32 next, done, running, concurrency;
    bool continue_on_error;
};

/* What an execution counts against, see slots.c. */
enum slot_state {
    SLOT_WAITS,        /* for room in its group */
    SLOT_WAITS_TENANT, /* has that, and waits for room among its tenant's */
    SLOT_HELD,
    SLOT_HELD_BELOW, /* of a child that is waited for: its tenant's room is its parent's */
};
struct slot {
    str key;   /* its group within the tenant; STR_NONE: it counts nowhere */
    i64 limit; /* of the group; 0 = only the tenant's counts */
    i64 state;
    bool ask; /* with the next write */
};

struct run {
    struct arena *arena;
    struct worker *worker;
    struct plan *plan;
    struct worker_message message; /* its start; later: its write came back */
    str id, tenant_id, workflow_id, parent_id, parent_step, dedup_key, dedup_body, replays, replay_from;
    str traceparent, tracestate; /* STR_NONE: nobody traces it */
    i64 version, depth;
    str input_text, trigger_text;
    i64 created_at, started_at, completed_at, deadline_at, fence;
    i64 last_us; /* of run_tick */
    enum run_state state;
    struct json *input, *trigger, *execution, *workflow;
    const struct json
        *given; /* of a step that is tried by itself: {steps, item, vars} in place of its own; else NULL */
    struct json output, error;   /* of the execution */
    struct frame *root, *frames; /* those at work: the root, and iterations until their end is on disk */
    struct run_step *ready, *last_ready;
    u32 step_count;  /* of all frames so far: at most EXECUTION_STEPS_MAX */
    u32 in_flight;   /* outside calls on their way; at most CALLS_PER_RUN */
    bool hydrate;    /* comes from the database: read its journal first */
    bool detached;   /* to be told when queued */
    bool recorded;   /* its row is on disk */
    u32 term;        /* of the node's lease, when it was last known to be ours */
    bool lost;       /* somebody else has it, or the engine closes: nothing is written any more */
    bool poked;      /* a child may have ended, or somebody has answered a step that waits for a person */
    bool cancelling; /* somebody asked for its end: the next time it is not being written */
    bool killing;    /* and does not want to wait for its calls; then `cancelling` is set too */
    bool unready;    /* could not be read back: nothing is known of its steps */
    bool starved;    /* memory ran out where no error could be returned: it must not complete */
    bool thin;       /* its history is too large to be written: only states are */
    bool continuing; /* has more to do, and gives others their turn first */
    bool writing;
    bool told_start;
    const char *responds;             /* the type whose output is the answer */
    const struct run_step *responded; /* the last step of it that completed */
    struct answer_link *answers;      /* that came while writing */
    struct waiter *waiters;
    struct waiter *tell_now; /* those who want to know as soon as it is on disk */
    struct write *write;
    i64 wake_at;         /* when the worker looks at it again by itself; 0 = never */
    size_t write_bytes;  /* what the last one that failed had come to */
    u32 write_failures;  /* in a row */
    str joins;           /* the execution that holds its idempotency key: only its waiters are left of this one */
    struct waiter proxy; /* waits there for them */
    struct outcome *joined;
    struct step_record *restored; /* what the journal knew, when the plan could not be had */
    u32 restored_count;
    i64 bytes;    /* inputs and outputs of its steps, as JSON */
    bool wanted;  /* somebody on another node waits for its end */
    i64 woken_at; /* wake_at of the row when it was last obeyed */
    struct run *
        successor; /* the same execution, claimed anew while this one, which has lost it, is still here: it gets its turn when this one has gone */
    struct run *next_timed;
    struct slot slot;
};

/* A moment of the run: now, but later than every earlier moment of it, so that its events have an order and an id. */
i64 run_tick(struct run *r);
#define STEPS(r, s)                                                                 \
    for (struct frame *frame_ = (r)->frames; frame_ != NULL; frame_ = frame_->next) \
        for (struct run_step *s = frame_->steps; s < frame_->steps + frame_->block->count; s++)
/* Builds steps from the plan; r->plan, input and trigger texts are set. */
err run_prepare(struct run *r) MUST;
/* Puts journalled steps back in their places; afterwards call run_resume. */
err run_restore(struct run *r, const struct step_record *records, u32 n) MUST;
void run_resume(struct run *r, i64 now_us);
/* Takes over from the history of another execution what does not run anew; after run_prepare. */
err run_replay(struct run *r, str history) MUST;
/* Does what can be done now: pure steps run, outside steps are marked to launch. Comes back early (run_more) after a slice of time, so that one execution
 * never keeps its worker from the others. */
void run_advance(struct run *r, struct machine *m);
bool run_more(const struct run *r);
/* The key of its concurrency limit. ERR_INVALID: it cannot be evaluated. */
err run_concurrency_key(struct run *r, struct machine *m, struct json *out, struct expr_error *error) MUST;
/* An outside call came back. */
void run_answer(struct run *r, struct machine *m, struct run_step *s, const struct client_answer *answer);
/* Ends it for a reason from outside of its steps. */
void run_end(struct run *r, enum run_state state, const char *code, const char *message);
/* The child that a step waits for; STR_NONE when it does not wait for one. */
str run_child_of(const struct run_step *s);
/* Whether the step wants to know how its child ends. */
bool run_child_awaited(const struct run_step *s);
/* How the child of a waiting step ended; STR_NONE as status: there is none. */
struct child_end {
    str status;
    const struct json *output, *error;
};
void run_child_ended(struct run *r, struct run_step *s, const struct child_end *end);
/* Whether a step waits for a person, and what that person said: {action, data, message}. */
bool run_waits_for_person(const struct run *r);
void run_answered(struct run *r, str step_id, i64 iteration, const struct json *answer);
/* Ends it because somebody asked for that; a kill of one whose cancellation is under way changes the reason. */
void run_cancel(struct run *r);
/* Nothing is left to do in memory: when to come back; 0 = it is not to be parked. */
i64 run_due(const struct run *r);
/* When the first of its waits is over, or its time is up. */
i64 run_next_wait(const struct run *r);
bool run_has_waits(const struct run *r);
/* Waits that are over get their turn at the next run_advance. */
void run_wake(struct run *r, i64 now_us);
/* Calls that have not been sent wait for somebody else to send them: that was no attempt. */
void run_hold(struct run *r);
/* What its steps had to say is on disk. */
void run_recorded(struct run *r);

/* Between run.c, frame.c and resume.c. */
bool run_step_ended(const struct run_step *s);
void run_move(struct run_step *s, enum step_state to);
void run_make_ready(struct run *r, struct run_step *s);
/* One of its needs has ended, or its frame begins. Whether it then runs or is skipped is found when its turn comes. */
void run_consider(struct run *r, struct run_step *s);
/* The step has this output; its dependants get their turns. */
void run_complete_step(struct run *r, struct run_step *s, struct json output);
void run_fail_step(struct run *r, struct run_step *s, const char *code, str message);
void run_starve_step(struct run *r, struct run_step *s); /* there is no memory for it */
void run_wait_until(struct run_step *s, i64 due_us);
void run_note_attempt(struct run *r, struct run_step *s, const char *code, str message);
/* Counts an ended step's part for those that wait for it, without waking them. */
void run_count_ended(struct run_step *s);
/* Whether a step may have this value as its input or output; the code and text say why not. Counts what it may. */
bool run_fits(struct run *r, const struct json *value, const char **code, str *why);

err frame_open_root(struct run *r) MUST;
/* A frame for an item of a foreach whose items are known; it has not begun. ERR_MEMORY. */
err frame_open(struct run_step *foreach, u32 item, struct frame **out) MUST;
/* Learns the items from the step's input. */
err iterations_new(struct run_step *foreach) MUST;
/* The foreach's turn: its first iterations begin, or it completes at once. */
void iterations_begin(struct run_step *foreach);
void iterations_fill(struct run_step *foreach);
/* Ends those at work, and the foreach itself. */
void iterations_fail(struct run_step *foreach, const char *code, str message);
/* All steps of a frame have ended, or one has failed it. */
void frame_done(struct frame *f);
void frame_failed(struct frame *f, const char *code, str message, str step_id);
/* Its steps end where they are; what they wait for outside is told. */
void frame_cancel(struct frame *f);
/* After a restart: what the ended steps of an iteration mean for it. */
void frame_settle(struct frame *f);
/* What the last steps gave, by their ids. */
struct json frame_output(const struct frame *f);
struct json run_error_json(struct run *r, const char *code, str message, str step_id);

/* --- writes ------------------------------------------------------------------------------------------------------- */

struct child_row {
    struct run_step *step;
    str id, workflow_id, step_id, input, trigger;
    i64 created_at, deadline_at;
    bool started; /* the writer's: its workflow may run */
};
struct ended_child {
    struct presence has;
    str id;
    i64 kill_at;
};

/* With the final write of one that failed for good. */
struct failure {
    str dead_code;             /* STR_NONE: no dead letter */
    i64 expire_at;             /* 0 = stays */
    struct child_row *handler; /* of on_failure; NULL = none */
};

/* One transaction of a run: made whole on the worker, executed on the writer, which only binds and steps. */
struct write {
    struct db_job job;
    struct engine *engine;
    struct run *run;
    bool final, insert, responded;
    u32 term; /* of the node's lease, before it */
    struct execution_row {
        str status, output_data, error, step_executions;
        i64 due_at; /* 0 = NULL */
    } row;
    struct journal_row *records;
    u32 record_count;
    struct child_row *children; /* to insert */
    u32 child_count;
    str *abandoned; /* children to cancel */
    u32 abandoned_count;
    struct happening happening;    /* of the final write, when a sink wants it; else its name is NULL */
    struct ended_child *cancelled; /* by the final write: those it still waited for; or those that it replaces */
    u32 cancelled_count;
    struct failure failure;
    bool slotted, woken; /* it has a slot, or waits for one; others have got theirs */
    struct outcome
        *told; /* of the final one, made before it: what is on disk must not be unsayable for want of memory */
    err outcome;
};
/* Makes the next write and submits it; `back` runs on the run's worker after the commit. ERR_BUSY, ERR_MEMORY: nothing was submitted. */
err journal_write(struct engine *e, struct run *r, bool final, i64 due_at,
                  void (*back)(struct worker *w, struct worker_message *m)) MUST;

struct claim {
    struct presence has;
    str id, tenant_id, workflow_id, parent_id;
    str parent_step, slot_key, replays;
    i64 version, created_at, started_at, deadline_at, cancel_at, kill_at, depth, fence, slot_state;
};
/* Whose turn it is when more is due than one batch takes. */
struct claim_turn {
    bool crowded;       /* the batch before was full: from now on tenant by tenant */
    char tenant_id[64]; /* behind this one; "" = from the first */
};
/* At most `max` executions that are due are ours now: those due first, or, when there are many, the tenants in turn; turn->crowded then says that there
 * may be more. What they were given is read later, one by one: it may be large. */
err journal_claim(const struct engine *e, struct arena *a, i64 now_us, u32 max, struct claim_turn *turn,
                  struct claim **list, u32 *n) MUST;
/* Claims that could not be taken after all: due again then. What is not ours any more stays as it is. */
err journal_give_back(const struct engine *e, struct arena *a, i64 due_at, const struct claim *list, u32 n) MUST;
/* The next time something is due; INT64_MAX when nothing is. */
err journal_next_due(struct db *db, struct arena *a, i64 *due_at) MUST;
/* What a claimed run was given, and whether somebody asked for its end, which may be after it was claimed. Texts on the transaction's arena. */
err journal_given(struct tx *tx, struct run *r) MUST;
/* The steps of an execution that the journal knows. */
err journal_read(struct tx *tx, str tenant_id, str execution_id, struct step_record **list, u32 *n) MUST;
/* Which of these executions, a JSON list of ids, have ended. */
err journal_ended(struct db *db, struct arena *a, str ids, struct ended_child **list, u32 *n) MUST;
err journal_row_of(struct tx *tx, str tenant_id, str execution_id, struct execution *out) MUST;
/* What people answered and no write has recorded yet. */
struct resume_row {
    struct presence has;
    str step_id, resume;
    i64 iteration;
};
err journal_resumes(struct tx *tx, str tenant_id, str execution_id, struct resume_row **list, u32 *n) MUST;
/* How a child ended; *ended = false while it runs. */
err journal_child(struct tx *tx, str tenant_id, str execution_id, struct child_end *end, bool *ended) MUST;
/* The execution that holds an idempotency key. */
err journal_row_of_key(struct tx *tx, str tenant_id, str dedup_key, struct execution *out) MUST;
/* What is not published of it: the hash of the body that its key came with, and whether a respond step gave its output. */
err journal_row_aside(struct tx *tx, str tenant_id, str execution_id, str *dedup_body, bool *responded) MUST;

/* --- failures ----------------------------------------------------------------------------------------------------- */

err failure_make(struct arena *a, const struct run *r, struct write *w) MUST;
err failure_write(struct write *w, struct tx *tx) MUST; /* all but its handler, which is inserted as children are */

/* --- slots -------------------------------------------------------------------------------------------------------- */

/* Which slot a run needs before it may begin, if any; on its worker. Ends the run when that cannot be found out. */
err slots_ask(struct engine *e, struct run *r, struct machine *m) MUST;
/* Whether the run must be written before it may go on, for its slot. */
bool slots_pending(const struct run *r);
/* On the writer, behind the row: takes the slot, or makes the row wait (w->row.due_at). ERR_LIMIT: there is no room, and it does not wait. */
err slots_admit(struct write *w, struct tx *tx) MUST;
/* On the writer, with the final write: whoever waits longest is next. */
err slots_release(struct write *w, struct tx *tx) MUST;
/* At the start: those who wait for a limit that is no longer set. */
err slots_take_over(struct tx *tx, i64 tenant_limit, i64 now_us) MUST;

/* --- outside calls ------------------------------------------------------------------------------------------------ */

struct answer_link {
    struct call *call;
    struct answer_link *next;
};
/* Sends the prepared attempt of a step; the answer comes back to the run's worker, which releases the call when it has looked at it. ERR_MEMORY: it was not sent. */
err call_send(struct engine *e, struct run *r, struct run_step *s,
              void (*back)(struct worker *w, struct worker_message *m)) MUST;
struct call *call_of(struct worker_message *m);
/* Whose it was: a run that was killed has gone when its calls come back. */
str call_execution(struct call *c);
struct run_step *call_step(struct call *c);
struct answer_link *call_link(struct call *c);
const struct client_answer *call_answer(struct call *c);
/* Asks its loop to end it; the answer still comes. */
void call_cancel(struct call *c);
void call_release(void *call); /* one user less */

/* --- workers ------------------------------------------------------------------------------------------------------ */

struct worker {
    struct engine *engine;
    u32 index;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker_message *first, *last;
    bool stopping;
    atomic_uint posting; /* threads that are within worker_post */
    struct machine *machine;
    struct map live;   /* execution id → struct run */
    struct map parked; /* execution id → first struct waiter, of executions that are not in memory */
    struct run *timed; /* live runs with a wake_at */
    u32 busy;          /* live runs that a write or an outside call will come back to */
    struct worker_message look;
    _Atomic bool looking; /* `look` is on its way */
};
err worker_open(struct worker *w, struct engine *e, u32 index) MUST;
/* Asks it to stop; all workers of an engine must be asked before one is joined. */
void worker_stop(struct worker *w);
void worker_join(struct worker *w);
struct worker *worker_of(struct engine *e, str execution_id);
/* Hands a new or claimed run over. */
void worker_take(struct run *r);
/* News of an execution, of what is on disk. */
enum news_kind {
    NEWS_DUE, /* no execution's: something is due, and whoever says so does not take it */
    NEWS_CANCEL,
    NEWS_KILL,
    NEWS_LOOK,  /* a child has ended, or a person answered */
    NEWS_WANT,  /* somebody on another node waits for its end */
    NEWS_ENDED, /* it has ended on another node */
    NEWS_KINDS,
    NEWS_OWNED =
        NEWS_KINDS /* only to ourselves: the row says that we have it; whoever does not know it gives it back */
};
struct news {
    enum news_kind what;
    str execution_id, tenant_id; /* tenant_id, fence: OWNED */
    i64 fence;
    i64 at_us; /* LOOK: wake_at of the row when that was read there; else 0 */
};
/* From the one who made them: when the execution is not here, the other nodes are told. */
void worker_say(struct worker *w, enum news_kind what, str execution_id);
/* From somebody else. */
void worker_hear(struct worker *w, const struct news *news);
/* Asks it to look which of those that it keeps waiters for have ended elsewhere. */
void worker_look(struct worker *w);
/* The caller of engine_tell_now. */
void worker_tell(struct worker *w, str tenant_id, str execution_id, struct waiter *waiter);

/* --- the cache of plans --------------------------------------------------------------------------------------------- */

/* By "<tenant>/<workflow>/<version>". What was used longest ago goes first; one tenant has half of it at most, so nobody empties it for the others. */
struct plans {
    pthread_mutex_t lock;
    struct map by_version; /* struct cached_plan, which lives on its plan's arena */
    struct cached_plan *newest, *oldest;
    u32 most;
    size_t bytes, most_bytes;
};
void plans_open(struct plans *p, u32 most, size_t most_bytes);
void plans_close(struct plans *p);
/* One user more; NULL: not there. */
struct plan *plans_get(struct plans *p, str key);
/* Keeps it for others; a plan of half the cache or more is not kept. `plan` is the caller's alone until now, and its tenant is set. */
void plans_put(struct plans *p, str key, struct plan *plan);
void plans_forget(struct plans *p);
enum { ENGINE_AHEAD = 200 }; /* executions that wait for their workers: above, nothing more is claimed */

struct engine {
    struct engine_options options;
    struct arena *arena;
    struct worker *workers;
    u32 worker_count;
    i64 owner;          /* our incarnation, in the rows of what we have in memory */
    bool shared;        /* other nodes may be on the same database */
    _Atomic bool works; /* by our role: claims what is due, and sends calls */
    _Atomic u32 live, queued;
    _Atomic bool closing;
    _Atomic u64 started, completed, failed;
    pthread_barrier_t closing_steps; /* the workers close in step: see wind_down */
    struct plans plans;
    struct {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t wake;
        i64 next_us;
        struct claim_turn turn; /* its thread's own, as is the next */
        bool full;              /* had no room when it last looked */
        bool stopping;
    } scheduler;
    struct {
        _Atomic u64 taken_over;
        _Atomic i64 next_us; /* when to look again, by the clock that no one sets; 0 = at once */
        u32 turn;
    } spread;
};
/* Something will be due at this time: the scheduler looks not later. */
void engine_due(struct engine *e, i64 due_us);
/* The scheduler looks now. */
void engine_wake(struct engine *e);

/* --- other nodes -------------------------------------------------------------------------------------------------- */

/* At the start, before anything is in memory: what older starts of this node and nodes without a lease had becomes due. SQLite: all that was running. */
err spread_open(struct engine *e) MUST;
/* At the stop, when nothing is in memory any more: what the rows still say is ours becomes due. */
void spread_close(struct engine *e);
/* On the scheduler's thread: once a second, or when news may have been missed. */
void spread_look(struct engine *e);
/* Whether an effect may begin: not when another node may take the execution any moment. */
bool spread_may_act(const struct engine *e);
/* Costs nothing when there is nobody to hear it. */
void spread_say(const struct engine *e, enum news_kind what, str execution_id);

/* --- outcomes ----------------------------------------------------------------------------------------------------- */

/* Tells a list of waiters; takes over the caller's user of the outcome. */
void outcome_tell(struct outcome *o, struct waiter *list);
/* For a final write, before it. */
err outcome_prepare(const struct run *r, struct write *w) MUST;
/* Of a run whose final write is on disk. Takes over the arenas of the run and of the write: neither may be touched afterwards. */
struct outcome *outcome_of_run(struct run *r);
/* A shared constant; needs no memory. */
struct outcome *outcome_of_error(err e);
/* Of what the database says of an execution now. */
struct outcome *outcome_of_id(struct engine *e, str tenant_id, str execution_id);
/* Of the execution that holds the run's idempotency key; ERR_INVALID in it when the body differs. */
struct outcome *outcome_of_key(struct engine *e, const struct run *r);

/* Events of what the last write recorded. */
void run_publish(struct run *r);
