/* definition.h - what a workflow says: the field tables of a definition, and the checks that tables cannot express (unknown ids, cycles, …).
 *
 * The tables are shapes: a definition stays JSON (F_TEXT), checked in full, published in full. Compiling it is plan.h. */
#pragma once

#include "codec/field.h"

enum {
    VALUE_DEPTH_MAX =
        56, /* of a step's input and output: the history around them is JSON of at most JSON_MAX_DEPTH too */
    DEFINITION_STEPS_MAX = 1000,
    FOREACH_ITEMS_MAX = 10000,
    FOREACH_CONCURRENCY_MAX = 100,
    FOREACH_DEPTH_MAX = 4,       /* one in another; the number of an iteration has four digits of 10,000 (run.h) */
    EXECUTION_STEPS_MAX = 50000, /* of one execution, those of each iteration counted */
    EXECUTION_DEPTH_MAX = 16,    /* parents above an execution */
    CONCURRENCY_MAX = 1000,      /* of a workflow: the writer counts so many index entries when one begins or ends */
    DEFINITION_BYTES_MAX = 1024 * 1024,
    EXECUTION_BYTES_MAX = 320 * 1024 * 1024 /* memory of one execution while it runs, its values and their history */
};

extern const struct table definition_table; /* "Definition" */
extern const struct table step_table;       /* "Step" */
extern const struct table block_table;      /* "NestedDefinition": steps inside of a step */

/* An entry of `definition.triggers`. Defined by whoever knows triggers (src/feat/triggers; tests define their own): the engine only carries it. */
extern const struct table definition_trigger_table;

/* Published limits, and the settings that a definition may carry, see the tables in definition.c. */
