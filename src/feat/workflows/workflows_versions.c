/* workflows_versions.c - what a workflow said earlier. A version never changes; restoring one makes a newer one with its definition. */
#include "core/list.h"
#include "engine/definition.h"
#include "feat/triggers/triggers.h"
#include "feat/workflows/workflows_parts.h"

/* ---- fields ---- */

struct version {
    struct presence has;
    str workflow_id;
    i64 version;
    str name, definition, created_by;
    i64 created_at;
    str key; /* the number as text, for the cursor */
};
static const struct field fields[] = {
    FIELD(struct version, workflow_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "workflow",
          .doc = "The workflow"),
    FIELD(struct version, version, F_I64, .flags = F_OUTPUT, .doc = "Number, from 1"),
    FIELD(struct version, name, F_STR, .flags = F_OUTPUT, .doc = "Name of the workflow at that time"),
    FIELD(struct version, definition, F_OBJECT, .flags = F_OUTPUT | F_TEXT | F_CUT, .of = &definition_table,
          .doc = "The definition, without triggers"),
    FIELD(struct version, created_by, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Id of the user who made it"),
    FIELD(struct version, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was made"),
    FIELD(struct version, key, F_STR, .flags = F_HIDDEN),
};
const struct table version_table =
    TABLE("WorkflowVersion", struct version, fields, .doc = "A definition that a workflow had or has");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
const struct table version_query_table =
    TABLE("WorkflowVersionQuery", struct list_query, query_fields, .doc = "Paging of versions");

struct count_row {
    struct presence has;
    i64 n;
};
static const struct field count_fields[] = { FIELD(struct count_row, n, F_I64, .doc = "How many") };
static const struct table count_table =
    TABLE("WorkflowVersionCount", struct count_row, count_fields, .doc = "A number of rows");

PROBLEM_SHARED(version_not_found, "workflows.version_not_found", ERR_NOT_FOUND, "The workflow has no such version");

/* ---- statements ---- */

#define VERSION_COLUMNS "workflow_id, version, name, created_by, created_at, CAST(version AS TEXT) AS key, "
#define CUT_DEFINITION  LIST_CUT_COLUMN("definition", "definition")

STMT(version_by_number,
     "SELECT " VERSION_COLUMNS
     "definition FROM workflow_versions WHERE tenant_id = $1 AND workflow_id = $2 AND version = $3",
     .row = &version_table);
STMT(version_page,
     "SELECT " VERSION_COLUMNS CUT_DEFINITION
     " FROM workflow_versions WHERE tenant_id = $1 AND workflow_id = $2 AND version < $3 "
     "ORDER BY version DESC LIMIT $4 OFFSET $5",
     .row = &version_table);
STMT(version_count, "SELECT count(*) AS n FROM workflow_versions WHERE tenant_id = $1 AND workflow_id = $2",
     .row = &count_table);

struct present_row {
    struct presence has;
    i64 version;
};
static const struct field present_fields[] = { FIELD(struct present_row, version, F_I64,
                                                     .doc = "The present version") };
static const struct table present_table =
    TABLE("WorkflowRuns", struct present_row, present_fields, .doc = "Which version runs now");
STMT(version_present,
     "SELECT version FROM workflows WHERE tenant_id = $1 AND id = $2 AND is_active AND deleted_at IS NULL",
     .row = &present_table);

/* ---- for the engine ---- */

err definition_load(struct tx *tx, str tenant_id, str workflow_id, i64 version, struct json **definition, str *name)
{
    struct version row;
    TRY(db_row(tx, &version_by_number, &row, ARGS(STR(tenant_id), STR(workflow_id), I64(version))));
    err e = json_parse(db_arena(tx), row.definition, definition, NULL);
    if (e == OK)
        *name = row.name;
    return e == ERR_DECODE ? ERR_INTERNAL : e;
}

err definition_present(struct tx *tx, str tenant_id, str workflow_id, i64 *version)
{
    struct present_row row;
    TRY(db_row(tx, &version_present, &row, ARGS(STR(tenant_id), STR(workflow_id))));
    *version = row.version;
    return OK;
}

/* ---- handlers ---- */

static err find(struct req *rq, struct version *out)
{
    i64 n = 0;
    str text = req_param(rq, "n");
    err e = str_i64(text, 1, INT64_MAX, &n)
                ? db_row(rq->tx, &version_by_number, out, ARGS(TENANT(rq), STR(req_param(rq, "id")), I64(n)))
                : ERR_NOT_FOUND;
    return e == ERR_NOT_FOUND ? problem(rq, &version_not_found, "There is no version %.*s", STR_FMT(text)) : e;
}

err version_get(struct req *rq)
{
    struct workflow workflow;
    struct version *v = NEW(rq->arena, struct version);
    if (v == NULL)
        return ERR_MEMORY;
    TRY(workflow_find(rq, &workflow));
    TRY(find(rq, v));
    return reply(rq, 200, &version_table, v);
}

err version_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    struct workflow workflow;
    struct count_row count = { .n = -1 };
    void *rows = NULL;
    u32 n = 0;
    i64 before = INT64_MAX;
    if (page->cursor.p != NULL && !str_i64(page->cursor, 1, INT64_MAX, &before))
        return problem_at(rq, &problem_body_invalid, S("query/cursor"), "field.format",
                          "must be a cursor that a Link header gave");
    TRY(workflow_find(rq, &workflow));
    TRY(db_list(rq->tx, &version_page, (u32)page->limit + 1, &rows, &n,
                ARGS(TENANT(rq), STR(workflow.id), I64(before), list_limit(page), I64(page->skip))));
    if (page->count)
        TRY(db_row(rq->tx, &version_count, &count, ARGS(TENANT(rq), STR(workflow.id))));
    return reply_list(rq, &version_table, rows, n, page, offsetof(struct version, key), count.n, LIST_CUT);
}

/* An old definition may use what this release no longer takes, so it is compiled again. */
err prepare_restore(struct req *rq)
{
    struct saving *s = NEW(rq->arena, struct saving);
    struct version version = { 0 };
    struct checked checked = { 0 };
    struct json *definition;
    struct ahead triggers;
    struct triggers_shown view;
    if (s == NULL)
        return ERR_MEMORY;
    TRY(triggers_ask(rq->tx, rq->who.tenant_id, req_param(rq, "id"), &triggers));
    TRY(workflow_find(rq, &s->row));
    TRY(find(rq, &version));
    TRY(json_parse(rq->arena, version.definition, &definition, NULL));
    TRY(field_decode(rq->arena, &definition_table, FIELD_CREATE, definition, S("/definition"), NULL, &rq->errors));
    TRY(definition_check(rq->arena, definition, &rq->errors, &checked));
    s->definition = s->row.definition = checked.text;
    s->seen = s->row.version;
    s->changed = version.version != s->row.version;
    s->names = S("definition");
    s->row.updated_at = req_now(rq);
    TRY(triggers_view(rq->tx, req_param(rq, "id"), &triggers, &view));
    TRY(workflow_show(rq->arena, &s->row, view.json));
    rq->prepared = s;
    return OK;
}

err version_restore(struct req *rq)
{
    return workflow_save(rq, rq->prepared);
}
