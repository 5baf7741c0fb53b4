/* workflows_parts.h - what the files of this folder share, and nobody else includes. */
#pragma once

#include "core/req.h"

struct workflow {
    struct presence has;
    str id, workflow_id, name, description, definition; /* JSON: stored without triggers, shown with them */
    str tags;                                           /* JSON */
    bool is_active;
    i64 version;
    str created_by;
    i64 created_at, updated_at;
};
extern const struct table workflow_table;
extern const struct problem workflow_not_found;

/* The row of the caller's tenant, its definition as stored. The problem is recorded when there is none. */
err workflow_find(struct req *rq, struct workflow *out) MUST;
/* Puts the view of its triggers into the definition, for an answer. `triggers` is a JSON array. */
err workflow_show(struct arena *a, struct workflow *w, str triggers) MUST;

/* What a definition comes to. */
struct checked {
    struct json *stored; /* without `triggers` */
    const struct json *triggers;
    str text, levels;
};
/* Compiles a shaped definition. Problems at "/definition/…"; ERR_INVALID when there are some. */
err definition_check(struct arena *a, const struct json *definition, struct problems *problems,
                     struct checked *out) MUST;

/* A change of a workflow, prepared: what workflow_save writes. */
struct saving {
    struct workflow row; /* as it will be shown */
    str definition;      /* as it will be stored */
    bool changed;        /* the definition differs from that of `seen` */
    i64 seen;            /* the version it was compared with */
    str names;           /* of changed fields, for the audit row */
    struct trigger_changes *triggers;
};
/* Makes the next version when the definition changed, and writes the row. */
err workflow_save(struct req *rq, struct saving *s) MUST;

/* workflows_versions.c */
handler_fn version_list, version_get, version_restore, prepare_restore;
extern const struct table version_table, version_query_table;
extern const struct problem version_not_found;
/* The engine's way to a definition. */
err definition_load(struct tx *tx, str tenant_id, str workflow_id, i64 version, struct json **definition,
                    str *name) MUST;

/* The version that runs now; ERR_NOT_FOUND: there is none, it is deleted or not active. */
err definition_present(struct tx *tx, str tenant_id, str workflow_id, i64 *version) MUST;

/* workflows_trial.c */
handler_fn step_test;
extern const struct table trial_table, trial_result_table;
extern const struct problem step_type_not_found, step_untestable;

/* workflows_run.c */
handler_fn workflow_execute, workflow_validate;
extern const struct table execute_table, execute_query_table, validate_table, validation_table;
extern const struct problem workflow_inactive;
