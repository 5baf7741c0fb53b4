/* plan.h - a definition compiled once per workflow version: steps in definition order with their dependencies as indexes, expressions ready to run.
 * Immutable, shared by all threads, counted. Definitions nest (foreach): each is a block, and ids are unique in all of them together. */
#pragma once

#include "engine/expr.h"
#include "base/map.h"
#include "engine/step.h"
#include <stdatomic.h>

enum step_join { JOIN_ALL, JOIN_ANY, JOIN_ALWAYS };

struct retry_policy {
    u32 max_attempts; /* 1 = no retry */
    bool exponential;
    i64 initial_us, max_us;
};

/* The step runs only when the step `by` chose `name`, or another one of its gates with the same `by`. */
struct plan_gate {
    u32 by;
    str name;
};

struct block;
struct plan_step {
    str id;
    u32 index;                     /* in its block */
    const struct plan_step *outer; /* the foreach around it; NULL = none */
    const struct step_kind *kind;
    const struct expr *with;           /* the object, without `special` and `nested` */
    const struct expr *special;        /* see step_kind.special; NULL when absent */
    const struct json *special_source; /* as written in the definition */
    const struct expr *condition;      /* NULL = none */
    u32 *needs, need_count;            /* indexes of dependencies */
    u32 *feeds, feed_count;            /* indexes of dependants */
    struct plan_gate *gates;           /* in the order of `by` */
    u32 gate_count;
    enum step_join join;
    struct retry_policy retry;
    i64 timeout_us;
    bool continue_on_error, at_most_once;
    struct block *body; /* what a foreach does for each of its items; NULL = none */
};

/* Steps and how they wait for each other: the workflow's own, or those of a foreach. */
struct block {
    struct plan_step *steps;
    u32 count;
    u32 *order; /* indexes in a topological order */
};

enum plan_save { SAVE_ALL, SAVE_ERRORS, SAVE_NONE };

struct plan_concurrency {
    i64 limit;              /* 0 = none */
    const struct expr *key; /* NULL = one group for the whole workflow */
    enum { SLOT_QUEUE, SLOT_REJECT, SLOT_REPLACE } policy;
};
struct plan {
    struct arena *arena; /* owns everything here */
    _Atomic u32 users;
    str tenant_id, workflow_id, workflow_name;
    i64 version;
    struct block root;
    struct map by_id; /* id → struct plan_step, of all blocks */
    bool spawns;      /* a step starts other executions */
    i64 timeout_us;
    enum plan_save save;
    struct plan_concurrency concurrency;
    str on_failure;         /* the workflow that runs when an execution has failed; STR_NONE = none */
    i64 error_retention_us; /* of failed executions; 0 = for ever */
};

/* Checks and compiles. All problems are collected with pointers below `pointer` ("/definition"). `definition` must be shaped (field_decode against
 * definition_table went well) and is copied. On success the plan has one user. */
err plan_compile(const struct json *definition, str pointer, struct problems *problems, struct plan **out) MUST;
/* One step, {id, type, with}, by itself: the other steps that it names are not looked for. Pointers begin with "/steps/0". */
err plan_compile_alone(const struct json *step, struct problems *problems, struct plan **out) MUST;
/* The levels for /workflows/validate: a list of lists of step ids, as JSON. */
str plan_levels(struct arena *a, const struct plan *p);
struct plan *plan_keep(struct plan *p);
void plan_release(struct plan *p);
