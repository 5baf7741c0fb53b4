/* workflows.c - the row that people edit, and its definition. Versions are workflows_versions.c, running and validating workflows_run.c.
 *
 * A definition is stored without its `triggers`: these are rows of their own, and what an answer shows of them is a view. So a change of a trigger makes
 * no new version, and a version can be restored without bringing back a webhook that somebody deleted. */
#include "feat/workflows/workflows.h"

#include "base/code.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/conditional.h"
#include "core/list.h"
#include "engine/engine.h"
#include "feat/executions/executions.h"
#include "feat/triggers/triggers.h"
#include "feat/workflows/workflows_parts.h"

enum { TAGS_MAX = 20, PATTERN_MAX = 1024 };

/* ---- fields ---- */

static const struct field tag_field = SHAPE_FIELD("tag", F_STR, .min = 1, .max = 64, .doc = "A tag");

static const struct field fields[] = {
    FIELD(struct workflow, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "workflow",
          .doc = "Id of the workflow"),
    FIELD(struct workflow, workflow_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "workflow",
          .doc = "The same as id"),
    FIELD(struct workflow, name, F_STR, .flags = F_REQUIRED | F_FILTER | F_SORT, .min = 1, .max = 120,
          .doc = "Shown to people; need not be unique"),
    FIELD(struct workflow, description, F_STR, .max = 4000, .preset = "\"\"", .doc = "What it is for"),
    FIELD(struct workflow, definition, F_OBJECT, .flags = F_REQUIRED | F_TEXT | F_CUT, .of = &definition_table,
          .doc = "What it does"),
    FIELD(struct workflow, tags, F_LIST, .flags = F_TEXT | F_UNIQUE, .each = &tag_field, .max = TAGS_MAX,
          .preset = "[]", .doc = "Words to find it by"),
    FIELD(struct workflow, is_active, F_BOOL, .flags = F_FILTER, .preset = "true",
          .doc = "An inactive workflow does not run"),
    FIELD(struct workflow, version, F_I64, .flags = F_OUTPUT,
          .doc = "Number of its definition: grows when that changes"),
    FIELD(struct workflow, created_by, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Id of the user who made it"),
    FIELD(struct workflow, created_at, F_TIME, .flags = F_OUTPUT | F_SORT, .doc = "When it was made"),
    FIELD(struct workflow, updated_at, F_TIME, .flags = F_OUTPUT | F_SORT, .doc = "When it was last changed"),
};
const struct table workflow_table = TABLE("Workflow", struct workflow, fields, .doc = "A workflow");

/* A merge patch reaches into the definition, so its parts may come alone and be null. The result is checked in full. Published as WorkflowPatch and
 * DefinitionPatch. */
static const struct field patch_definition_fields[] = {
    SHAPE_FIELD("steps", F_LIST, .of = &step_table, .max = DEFINITION_STEPS_MAX,
                .doc = "All steps: a list is replaced whole"),
    SHAPE_FIELD("dependencies", F_JSON, .doc = "A merge patch of dependencies"),
    SHAPE_FIELD("conditions", F_JSON, .doc = "A merge patch of conditions"),
    SHAPE_FIELD("triggers", F_LIST, .of = &definition_trigger_table, .max = TRIGGERS_MAX,
                .doc = "Triggers to make or change"),
    SHAPE_FIELD("settings", F_JSON, .doc = "A merge patch of settings"),
};
static const struct table patch_definition_table =
    SHAPE("Definition", patch_definition_fields, .doc = "A merge patch (RFC 7396) of a definition");
static const struct field patch_fields[] = {
    SHAPE_FIELD("name", F_STR, .min = 1, .max = 120, .doc = "Shown to people"),
    SHAPE_FIELD("description", F_STR, .flags = F_NULLABLE, .max = 4000, .doc = "What it is for; null for nothing"),
    SHAPE_FIELD("definition", F_OBJECT, .of = &patch_definition_table, .doc = "What it does"),
    SHAPE_FIELD("tags", F_LIST, .flags = F_UNIQUE | F_NULLABLE, .each = &tag_field, .max = TAGS_MAX,
                .doc = "All tags; null for none"),
    SHAPE_FIELD("is_active", F_BOOL, .doc = "An inactive workflow does not run"),
};
static const struct table patch_table =
    SHAPE("Workflow", patch_fields, .doc = "A merge patch (RFC 7396) of a workflow");

struct list_query {
    struct presence has;
    struct page page;
    str tag;
};
static const struct field query_fields[] = {
    LIST_QUERY(struct list_query),
    FIELD(struct list_query, tag, F_STR, .min = 1, .max = 64, .doc = "Only workflows with this tag"),
};
static const struct table query_table =
    TABLE("WorkflowQuery", struct list_query, query_fields, .doc = "Filters of workflows");

struct version_number {
    struct presence has;
    i64 version;
};
static const struct field number_fields[] = { FIELD(struct version_number, version, F_I64,
                                                    .doc = "The present version") };
static const struct table number_table =
    TABLE("WorkflowVersionNumber", struct version_number, number_fields, .doc = "A version's number");

/* ---- permissions and problems ---- */

PERMISSION(can_read, "workflows.read", ROLES_ALL, "See workflows and their versions");
PERMISSION(can_write, "workflows.write", ROLES_EDITORS, "Make, change and delete workflows");
PERMISSION(can_execute, "workflows.execute", ROLES_MEMBERS, "Run workflows");

CODES(entry_codes, CODE_ENTRY, { "definition.size", "The definition has more bytes than it may" });

PROBLEM_SHARED(workflow_not_found, "workflows.not_found", ERR_NOT_FOUND, "There is no such workflow");

/* ---- statements ---- */

#define WORKFLOW_COLUMNS                                                                               \
    "w.id, w.id AS workflow_id, w.name, w.description, w.tags, w.is_active, w.version, w.created_by, " \
    "w.created_at, w.updated_at, "
#define CUT_DEFINITION LIST_CUT_COLUMN("v.definition", "definition")
#define WORKFLOW_FROM                                                          \
    " FROM workflows w JOIN workflow_versions v ON v.tenant_id = w.tenant_id " \
    "AND v.workflow_id = w.id AND v.version = w.version "
#define WORKFLOW_WHERE                                                                                           \
    "WHERE w.tenant_id = $1 AND w.deleted_at IS NULL AND (w.tags LIKE $2 ESCAPE '!' OR $2 IS NULL)" LIST_FILTER( \
        "w.name", "$3") LIST_FILTER("w.is_active", "$4")
#define WORKFLOW_ROWS "SELECT " WORKFLOW_COLUMNS CUT_DEFINITION WORKFLOW_FROM WORKFLOW_WHERE

STMT(workflow_by_id,
     "SELECT " WORKFLOW_COLUMNS "v.definition" WORKFLOW_FROM
     "WHERE w.tenant_id = $1 AND w.id = $2 AND w.deleted_at IS NULL",
     .row = &workflow_table);
LIST_BY_ID(workflows, id, &workflow_table, WORKFLOW_ROWS, "w.id", LIST_AFTER_4);
LIST_BY(workflows, name, &workflow_table, WORKFLOW_ROWS, "w.name", "w.id", LIST_AFTER_4);
LIST_BY(workflows, created_at, &workflow_table, WORKFLOW_ROWS, "w.created_at", "w.id", LIST_AFTER_4);
LIST_BY(workflows, updated_at, &workflow_table, WORKFLOW_ROWS, "w.updated_at", "w.id", LIST_AFTER_4);
STMT(workflow_count, "SELECT count(*) AS n FROM workflows w " WORKFLOW_WHERE, .row = &list_count_table);
static const struct list_sort sorts[] = { LIST_SORT(workflows, id), LIST_SORT(workflows, name),
                                          LIST_SORT(workflows, created_at), LIST_SORT(workflows, updated_at) };
static const char *const filters[] = { "name", "is_active" };
static const struct lister workflow_lister = { &workflow_table, sorts,          COUNT(sorts),
                                               filters,         COUNT(filters), &workflow_count };

/* Its triggers show in its definition: each change of one has a time of its own, so their number and sum tell all states apart. workflow_get says the same of
 * what it has read. */
#define WORKFLOW_STATE                                                                                             \
    "SELECT w.version || '.' || w.updated_at || '.' || (SELECT count(*) || '.' || coalesce(sum(t.updated_at), 0) " \
    "FROM triggers t WHERE t.tenant_id = w.tenant_id AND t.workflow_id = w.id) AS state "                          \
    "FROM workflows w WHERE w.tenant_id = $1 AND w.id = $2 AND w.deleted_at IS NULL"
STMT(workflow_state, WORKFLOW_STATE, .row = &etag_table);
/* The path of a restore names a version as well; what it answers is the workflow. */
STMT(restored_state, WORKFLOW_STATE " AND CAST($3 AS TEXT) IS NOT NULL", .row = &etag_table);
STMT(workflow_version, "SELECT version FROM workflows WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
     .row = &number_table);
STMT(
    workflow_insert,
    "INSERT INTO workflows (tenant_id, id, name, description, tags, is_active, version, created_by, created_at, updated_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)");
STMT(workflow_update,
     "UPDATE workflows SET name = $3, description = $4, tags = $5, is_active = $6, version = $7, updated_at = $8 "
     "WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL");
STMT(workflow_delete,
     "UPDATE workflows SET deleted_at = $3, updated_at = $3 WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL");
STMT(version_insert,
     "INSERT INTO workflow_versions (tenant_id, workflow_id, version, name, definition, created_by, created_at) "
     "VALUES ($1, $2, $3, $4, $5, $6, $7)");

/* ---- rows ---- */

static err missing(struct req *rq, err e)
{
    str id = req_param(rq, "id");
    return e == ERR_NOT_FOUND ? problem(rq, &workflow_not_found, "There is no workflow %.*s", STR_FMT(id)) : e;
}

err workflow_find(struct req *rq, struct workflow *out)
{
    return missing(rq, db_row(rq->tx, &workflow_by_id, out, ARGS(TENANT(rq), STR(req_param(rq, "id")))));
}

/* The stored text ends with the brace of an object that has members: it always has steps. */
err workflow_show(struct arena *a, struct workflow *w, str triggers)
{
    str head = str_slice(w->definition, 0, w->definition.n - 1);
    const str parts[] = { head, S(",\"triggers\":"), triggers, S("}") };
    w->definition = str_concat(a, parts, COUNT(parts));
    return w->definition.p != NULL ? OK : ERR_MEMORY;
}

/* ---- definitions ---- */

static err without_triggers(struct arena *a, const struct json *definition, struct checked *out)
{
    struct json *copy = NEW(a, struct json);
    if (copy == NULL)
        return ERR_MEMORY;
    copy->type = JSON_OBJECT;
    for (u32 i = 0; i < definition->n; i++) {
        const struct json_member *m = &definition->members[i];
        if (!str_eq(m->key, S("triggers")) && !json_set(a, copy, m->key, m->value))
            return ERR_MEMORY;
    }
    out->stored = copy;
    out->triggers = json_get(definition, S("triggers"));
    out->text = json_text(a, copy);
    return out->text.p != NULL ? OK : ERR_MEMORY;
}

err definition_check(struct arena *a, const struct json *definition, struct problems *problems, struct checked *out)
{
    struct plan *plan = NULL;
    TRY(without_triggers(a, definition, out));
    if (out->text.n > DEFINITION_BYTES_MAX)
        return problems_add(problems, S("/definition"), "definition.size", "must be at most %d bytes",
                            DEFINITION_BYTES_MAX);
    TRY(plan_compile(out->stored, S("/definition"), problems, &plan));
    out->levels = plan_levels(a, plan);
    plan_release(plan);
    return out->levels.p != NULL ? OK : ERR_MEMORY;
}

/* ---- saving ---- */

static err insert_version(struct req *rq, const struct saving *s)
{
    const struct workflow *w = &s->row;
    return db_exec(rq->tx, &version_insert, NULL,
                   ARGS(TENANT(rq), STR(w->id), I64(w->version), STR(w->name), STR(s->definition), STR(rq->who.user_id),
                        I64(req_now(rq))));
}

static err update_row(struct req *rq, const struct saving *s)
{
    const struct workflow *w = &s->row;
    TRY(db_exec(rq->tx, &workflow_update, NULL,
                ARGS(TENANT(rq), STR(w->id), STR(w->name), STR(w->description), STR(w->tags), BOOL(w->is_active),
                     I64(w->version), I64(w->updated_at))));
    return audit(rq, "workflows.update", w->id, s->names);
}

err workflow_save(struct req *rq, struct saving *s)
{
    struct workflow *w = &s->row;
    struct version_number now;
    TRY(missing(rq, db_row(rq->tx, &workflow_version, &now, ARGS(TENANT(rq), STR(w->id)))));
    bool fresh = s->changed || now.version != s->seen; /* somebody else was quicker: ours is the newer one */
    w->version = now.version + fresh;
    if (fresh)
        TRY(insert_version(rq, s));
    if (fresh || s->names.p != NULL)
        TRY(update_row(rq, s));
    TRY(s->triggers != NULL ? triggers_apply(rq, w->id, s->triggers) : triggers_forget(rq, w->id));
    return reply(rq, 200, &workflow_table, w);
}

/* From what was decoded to what will be written. `definition` is the DOM of given->definition. */
static err saving_make(struct req *rq, const struct workflow *given, const struct json *definition, str id,
                       struct saving **out)
{
    struct saving *s = NEW(rq->arena, struct saving);
    struct checked checked = { 0 };
    str view;
    if (s == NULL)
        return ERR_MEMORY;
    s->row = *given;
    s->row.id = s->row.workflow_id = id;
    s->row.updated_at = req_now(rq);
    err compiled = definition_check(rq->arena, definition, &rq->errors, &checked);
    if (compiled != OK && compiled != ERR_INVALID)
        return compiled;
    TRY(triggers_prepare(rq, id, checked.triggers, S("/definition/triggers"), &s->triggers));
    TRY(compiled);
    s->definition = s->row.definition = checked.text;
    TRY(triggers_changed_view(rq, s->triggers, &view));
    TRY(workflow_show(rq->arena, &s->row, view));
    rq->prepared = *out = s;
    return OK;
}

/* ---- creating ---- */

static err prepare_create(struct req *rq)
{
    struct saving *s;
    str id = typeid_new(rq->arena, "workflow", req_now(rq));
    if (id.p == NULL)
        return ERR_MEMORY;
    TRY(saving_make(rq, rq->body, json_get(rq->json, S("definition")), id, &s));
    s->row.version = 1;
    s->row.created_by = rq->who.user_id;
    s->row.created_at = req_now(rq);
    field_set_all(&workflow_table, &s->row);
    return OK;
}

static err workflow_create(struct req *rq)
{
    const struct saving *s = rq->prepared;
    const struct workflow *w = &s->row;
    TRY(db_exec(rq->tx, &workflow_insert, NULL,
                ARGS(TENANT(rq), STR(w->id), STR(w->name), STR(w->description), STR(w->tags), BOOL(w->is_active),
                     I64(w->version), STR(w->created_by), I64(w->created_at))));
    TRY(insert_version(rq, s));
    TRY(audit(rq, "workflows.create", w->id, STR_NONE));
    TRY(triggers_apply(rq, w->id, s->triggers));
    reply_location(rq, "/api/v1/workflows/%.*s", STR_FMT(w->id));
    return reply(rq, 201, &workflow_table, w);
}

/* ---- changing ---- */

static err changed_names(struct arena *a, const struct workflow *before, struct saving *s)
{
    const struct {
        const char *name;
        bool changed;
    } list[] = {
        { "name", !str_eq(before->name, s->row.name) },
        { "description", !str_eq(before->description, s->row.description) },
        { "definition", s->changed },
        { "tags", !str_eq(before->tags, s->row.tags) },
        { "is_active", before->is_active != s->row.is_active },
    };
    struct buf b = { .arena = a };
    for (u32 i = 0; i < COUNT(list); i++)
        if (list[i].changed)
            buf_f(&b, "%s%s", b.n > 0 ? ", " : "", list[i].name);
    s->names = b.n > 0 ? buf_view(&b) : STR_NONE;
    return b.fail;
}

static err stored_json(struct req *rq, const struct workflow *w, struct json **out)
{
    err e = json_parse(rq->arena, w->definition, out, NULL);
    return e == ERR_DECODE ? fault(rq, "the definition of %.*s is not JSON", STR_FMT(w->id)) : e;
}

static err prepare_change(struct req *rq, const struct workflow *given, const struct json *definition,
                          const struct workflow *before)
{
    struct saving *s;
    struct json *stored, *now;
    TRY(saving_make(rq, given, definition, before->id, &s));
    TRY(stored_json(rq, before, &stored));
    TRY(json_parse(rq->arena, s->definition, &now, NULL));
    s->changed = !json_equal(stored, now);
    s->seen = before->version;
    s->row.created_by = before->created_by;
    s->row.created_at = before->created_at;
    TRY(changed_names(rq->arena, before, s));
    if (s->names.p == NULL)
        s->row.updated_at = before->updated_at;
    field_set_all(&workflow_table, &s->row);
    return OK;
}

static err prepare_replace(struct req *rq)
{
    struct workflow before;
    TRY(workflow_find(rq, &before));
    return prepare_change(rq, rq->body, json_get(rq->json, S("definition")), &before);
}

/* The row as a document that a merge patch applies to. */
static err document_of(struct req *rq, const struct workflow *w, struct json *out)
{
    struct json *definition, *tags;
    TRY(stored_json(rq, w, &definition));
    TRY(json_parse(rq->arena, w->tags, &tags, NULL));
    const struct json_member members[] = {
        { S("name"), json_of_str(w->name) },
        { S("description"), json_of_str(w->description) },
        { S("definition"), *definition },
        { S("tags"), *tags },
        { S("is_active"), json_of_bool(w->is_active) },
    };
    *out = (struct json){ .type = JSON_OBJECT };
    for (u32 i = 0; i < COUNT(members); i++)
        if (!json_set(rq->arena, out, members[i].key, members[i].value))
            return ERR_MEMORY;
    return OK;
}

static err prepare_patch(struct req *rq)
{
    struct workflow before, *after = NEW(rq->arena, struct workflow);
    struct json document;
    if (after == NULL)
        return ERR_MEMORY;
    TRY(workflow_find(rq, &before));
    TRY(document_of(rq, &before, &document));
    const struct json *merged = json_merge_patch(rq->arena, &document, rq->json);
    if (merged == NULL)
        return ERR_MEMORY;
    TRY(field_decode(rq->arena, &workflow_table, FIELD_CREATE, merged, S(""), after, &rq->errors));
    return prepare_change(rq, after, json_get(merged, S("definition")), &before);
}

static err workflow_change(struct req *rq)
{
    return workflow_save(rq, rq->prepared);
}

static err workflow_remove(struct req *rq)
{
    i64 changed = 0;
    str id = req_param(rq, "id");
    TRY(db_exec(rq->tx, &workflow_delete, &changed, ARGS(TENANT(rq), STR(id), I64(req_now(rq)))));
    TRY(missing(rq, changed == 0 ? ERR_NOT_FOUND : OK));
    TRY(audit(rq, "workflows.delete", id, STR_NONE));
    TRY(triggers_forget(rq, id));
    return reply_empty(rq, 204);
}

/* ---- reading ---- */

static err show_stored(struct req *rq, struct workflow *w, struct ahead *asked, struct triggers_shown *triggers)
{
    TRY(triggers_view(rq->tx, w->id, asked, triggers));
    return workflow_show(rq->arena, w, triggers->json);
}

static err workflow_get(struct req *rq)
{
    struct workflow *w = NEW(rq->arena, struct workflow);
    struct ahead asked;
    struct triggers_shown triggers;
    if (w == NULL)
        return ERR_MEMORY;
    TRY(triggers_ask(rq->tx, rq->who.tenant_id, req_param(rq, "id"), &asked));
    TRY(workflow_find(rq, w));
    TRY(show_stored(rq, w, &asked, &triggers));
    reply_state(rq, strf(rq->arena, "%lld.%lld.%u.%lld", (long long)w->version, (long long)w->updated_at, triggers.n,
                         (long long)triggers.changes)); /* as WORKFLOW_STATE */
    return reply(rq, 200, &workflow_table, w);
}

/* A tag within the JSON text of the list: its quoted form, with what LIKE would read escaped. */
static str tag_pattern(struct arena *a, str tag)
{
    struct buf quoted = { .arena = a, .max = PATTERN_MAX }, b = { .arena = a, .max = PATTERN_MAX };
    json_put_str(&quoted, tag);
    str text = buf_view(&quoted);
    buf_char(&b, '%');
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '%' || text.p[i] == '_' || text.p[i] == '!')
            buf_char(&b, '!');
        buf_char(&b, text.p[i]);
    }
    buf_char(&b, '%');
    return quoted.fail == OK && b.fail == OK ? buf_view(&b) : STR_NONE;
}

/* No definition has a member of this name. */
static bool is_cut(const struct workflow *w)
{
    return str_starts(w->definition, S("{\"truncated\":"));
}

/* The triggers of each row are a look-up by index; a page has at most 100, which go out together. */
static err show_page(struct req *rq, struct workflow *rows, u32 n)
{
    struct ahead *triggers = NEW_N(rq->arena, struct ahead, n);
    struct triggers_shown shown;
    if (triggers == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < n; i++)
        if (!is_cut(&rows[i]))
            TRY(triggers_ask(rq->tx, rq->who.tenant_id, rows[i].id, &triggers[i]));
    for (u32 i = 0; i < n; i++)
        if (!is_cut(&rows[i]))
            TRY(show_stored(rq, &rows[i], &triggers[i], &shown));
    return OK;
}

static err workflow_list(struct req *rq)
{
    const struct list_query *q = rq->query;
    const struct page *page = &q->page;
    str pattern = q->tag.p != NULL ? tag_pattern(rq->arena, q->tag) : STR_NONE;
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    if (q->tag.p != NULL && pattern.p == NULL)
        return ERR_MEMORY;
    TRY(list_read(rq, page, ARGS(TENANT(rq), STR(pattern)), &rows, &n, &total));
    TRY(show_page(rq, rows, MIN(n, (u32)page->limit)));
    return list_reply(rq, rows, n, page, total, LIST_CUT);
}

/* ---- routes ---- */

#define WORKFLOWS "/api/v1/workflows"
#define WORKFLOW  "/api/v1/workflows/{id}"
#define VERSIONS  "/api/v1/workflows/{id}/versions"

static const struct problem *const not_found_list[] = { &workflow_not_found, NULL };
static const struct problem *const save_list[] = { &workflow_not_found, &trigger_changed, NULL };
static const struct problem *const no_version_list[] = { &workflow_not_found, &version_not_found, NULL };
static const struct problem *const step_test_list[] = { &step_type_not_found, &step_untestable, NULL };
static const struct problem *const execute_list[] = {
    &workflow_not_found, &workflow_inactive, &execution_limited, &execution_quota, &problem_idempotency_mismatch, NULL
};
static const struct route_status execute_also[] = {
    { 202, &execution_table,
      "It still runs after the wait, or Prefer: respond-async asked not to wait; Location names it" },
    { 0 },
};
static const char create_example[] =
    "{\"name\":\"Greet\",\"definition\":{\"steps\":[{\"id\":\"greet\",\"type\":\"transform\",\"with\":{\"text\":\"Hello {{ input.name }}\"}}]}}";

static const struct route routes[] = {
    { ROUTE(POST, WORKFLOWS, workflow_create, W_WRITE), .prepare = prepare_create, .flags = R_SLOW_LONG,
      .need = &can_write, .in = &workflow_table, .out = &workflow_table, .doc = "Make a workflow",
      .example = create_example, .more = "Triggers in the definition are made with it." },
    { ROUTE(GET, WORKFLOWS, workflow_list, W_READ), .need = &can_read, .query = &query_table, .list = &workflow_lister,
      .out = &workflow_table, .flags = R_LIST, .doc = "List workflows, newest first",
      .more = "Definitions longer than 8 KiB are cut to {\"truncated\": true, \"size\": bytes}." },
    { ROUTE(POST, WORKFLOWS "/validate", workflow_validate, W_SLOW), .need = &can_read, .in = &validate_table,
      .out = &validation_table, .status = 200, .doc = "Check a definition without keeping it",
      .more = "A wrong definition is a good answer: 200 with valid false and every problem with its pointer." },
    { ROUTE(POST, WORKFLOWS "/steps/{type}/test", step_test, W_SLOW), .need = &can_write,
      .flags = R_NO_STORE | R_OPTIONAL_BODY, .in = &trial_table, .out = &trial_result_table, .status = 200,
      .problems = step_test_list, .doc = "Try one step by itself",
      .more =
          "One attempt with what its expressions would see, without a workflow or an execution; nothing is recorded. What it does outside is real: a request is sent, within the same "
          "bounds as always and 30 seconds at most. A step that fails is a good answer: 200 with status failed. Types that wait or run other steps cannot be tried "
          "(GET /step-types says testable).",
      .example = "{\"with\":{\"code\":\"return input.n * 2\"},\"input\":{\"n\":21}}" },
    { ROUTE(GET, WORKFLOW, workflow_get, W_READ), .etag = &workflow_state, .flags = R_TELLS_STATE, .hot = &workflow_hot,
      .need = &can_read, .out = &workflow_table, .problems = not_found_list, .doc = "Read a workflow" },
    { ROUTE(PUT, WORKFLOW, workflow_change, W_WRITE), .etag = &workflow_state, .prepare = prepare_replace,
      .flags = R_SLOW_PREPARE, .need = &can_write, .in = &workflow_table, .out = &workflow_table, .problems = save_list,
      .doc = "Replace a workflow",
      .more =
          "A changed definition becomes a new version, which no one can change; the order of members does not count, nor do triggers." },
    { ROUTE(PATCH, WORKFLOW, workflow_change, W_WRITE), .etag = &workflow_state, .prepare = prepare_patch,
      .flags = R_SLOW_PREPARE | R_PATCH, .need = &can_write, .in = &patch_table, .out = &workflow_table,
      .problems = save_list, .doc = "Change parts of a workflow",
      .more = "A merge patch (RFC 7396): objects are merged, lists are replaced whole, null takes a member away." },
    { ROUTE(DELETE, WORKFLOW, workflow_remove, W_WRITE), .etag = &workflow_state, .need = &can_write, .status = 204,
      .problems = not_found_list, .doc = "Delete a workflow",
      .more = "Its webhooks answer 404 from then on; its executions can still be read." },
    { ROUTE(GET, VERSIONS, version_list, W_READ), .need = &can_read, .query = &version_query_table,
      .out = &version_table, .flags = R_LIST, .problems = not_found_list,
      .doc = "List the versions of a workflow, newest first",
      .more = "Definitions longer than 8 KiB are cut to {\"truncated\": true, \"size\": bytes}." },
    { ROUTE(GET, VERSIONS "/{n}", version_get, W_READ), .need = &can_read, .out = &version_table,
      .problems = no_version_list, .doc = "Read a version of a workflow" },
    { ROUTE(POST, VERSIONS "/{n}/restore", version_restore, W_WRITE), .etag = &restored_state,
      .prepare = prepare_restore, .flags = R_SLOW_PREPARE, .need = &can_write, .out = &workflow_table, .status = 200,
      .problems = no_version_list, .doc = "Make an earlier definition the present one",
      .more = "It becomes a new version, so nothing is lost. Triggers stay as they are." },
    { ROUTE(POST, WORKFLOW "/execute", workflow_execute, W_WAIT), .need = &can_execute, .flags = R_OPTIONAL_BODY,
      .in = &execute_table, .query = &execute_query_table, .out = &execution_table, .status = 200, .also = execute_also,
      .problems = execute_list, .doc = "Run a workflow", .example = "{\"input_data\":{\"name\":\"Ada\"}}",
      .more =
          "Answers when the execution has ended, completed or failed. The same Idempotency-Key within 24 hours joins the execution that it "
          "started; the answer then says Idempotent-Replayed: true." },
};

/* ---- module ---- */

static err start(void)
{
    return engine_open(&(struct engine_options){ .load = definition_load,
                                                 .present = definition_present,
                                                 .db = app.db,
                                                 .loops = app.loops,
                                                 .clients = app.clients,
                                                 .loop_count = app.loop_count,
                                                 .tenant_limit = app.config.tenant_concurrency,
                                                 .workflow_limit = app.config.workflow_concurrency,
                                                 .workers = (u32)app.config.workers },
                       &app.engine);
}

static void stop(void)
{
    engine_close(app.engine); /* stays where it is: a late request is told that it closes */
}

const struct module workflows_module = {
    .name = "workflows",
    .doc = "What is to be done: steps, their order and their conditions",
    .routes = routes,
    .route_count = COUNT(routes),
    .start = start,
    .stop = stop,
};
