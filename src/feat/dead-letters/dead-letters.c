/* dead-letters.c - executions that failed for good and wait for somebody to decide: run again from where they failed, or forgotten. Which ones those are is the engine's
 * (src/engine/failure.c); nothing here makes one.
 *
 * A dead letter is a mark on the row of an execution, taken away in the transaction that retries or discards it: so each is decided on once, whoever else asks at the same time,
 * and the execution itself stays in its workflow's history. */
#include "feat/dead-letters/dead-letters.h"

#include "base/code.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/list.h"
#include "engine/engine.h"

enum { BULK_MAX = 100 }; /* of one call: each is a few statements of one transaction */

/* ---- fields ---- */

struct letter {
    struct presence has;
    str execution_id, workflow_id;
    i64 version;
    str error_code, error, input_data, parent_id;
    i64 created_at, dead_at;
};
static const struct field fields[] = {
    FIELD(struct letter, execution_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "execution",
          .doc = "The execution"),
    FIELD(struct letter, workflow_id, F_STR, .flags = F_OUTPUT | F_FILTER, .format = "id", .prefix = "workflow",
          .doc = "Of which workflow"),
    FIELD(struct letter, version, F_I64, .flags = F_OUTPUT, .doc = "In which version of it"),
    FIELD(struct letter, error_code, F_STR, .flags = F_OUTPUT | F_FILTER, .max = 200, .doc = "Why it failed",
          .example = "\"http.status\""),
    FIELD(struct letter, error, F_JSON, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "The same in full: code, message and step_id"),
    FIELD(struct letter, input_data, F_JSON, .flags = F_OUTPUT, .doc = "What it was given"),
    FIELD(struct letter, parent_id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "The execution that it came from"),
    FIELD(struct letter, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was accepted"),
    FIELD(struct letter, dead_at, F_TIME, .flags = F_OUTPUT, .doc = "When it failed for good"),
};
static const struct table letter_table =
    TABLE("DeadLetter", struct letter, fields, .doc = "An execution that failed for good");

struct list_query {
    struct presence has;
    struct page page;
    i64 since, until;
};
static const struct field query_fields[] = {
    LIST_QUERY(struct list_query),
    FIELD(struct list_query, since, F_TIME, .doc = "Only those that failed at this time or later"),
    FIELD(struct list_query, until, F_TIME, .doc = "Only those that failed before this time"),
};
static const struct table query_table =
    TABLE("DeadLetterQuery", struct list_query, query_fields, .doc = "Filters of dead letters");

/* Which ones: by id, or all that fit. */
struct choice {
    struct presence has;
    struct list ids;
    str workflow_id, error_code;
    i64 since, until;
};
static const struct field id_field =
    SHAPE_FIELD("id", F_STR, .format = "id", .prefix = "execution", .doc = "An execution");

static err check_choice(const struct json *object, str pointer, struct problems *out)
{
    bool ids = json_get(object, S("ids")) != NULL;
    u32 others = object->n - ids;
    if (object->n == 0)
        return problems_add(out, pointer, "dead-letters.choice",
                            "Name ids, or a filter: workflow_id, error_code, since or until");
    return ids && others > 0 ? problems_add(out, pointer, "dead-letters.choice", "Name ids or a filter, not both") : OK;
}

static const struct field choice_fields[] = {
    FIELD(struct choice, ids, F_LIST, .flags = F_UNIQUE, .each = &id_field, .min = 1, .max = BULK_MAX,
          .doc = "These executions"),
    FIELD(struct choice, workflow_id, F_STR, .format = "id", .prefix = "workflow", .doc = "Those of this workflow"),
    FIELD(struct choice, error_code, F_STR, .min = 1, .max = 200, .doc = "Those that failed with this code"),
    FIELD(struct choice, since, F_TIME, .doc = "Those that failed at this time or later"),
    FIELD(struct choice, until, F_TIME, .doc = "Those that failed before this time"),
};
static const struct table choice_table =
    TABLE("DeadLetterChoice", struct choice, choice_fields, .check = check_choice,
          .doc = "Which dead letters: ids, or a filter whose members must all hold");

struct result {
    struct presence has;
    i64 done, skipped;
    bool remaining;
    struct list execution_ids;
};
static const struct field new_id_field =
    SHAPE_FIELD("execution_id", F_STR, .format = "id", .prefix = "execution", .doc = "A new execution");
#define RESULT(name)                                                                               \
    FIELD_AS(struct result, name, done, F_I64, .flags = F_OUTPUT, .doc = "How many"),              \
        FIELD(struct result, skipped, F_I64, .flags = F_OUTPUT,                                    \
              .doc = "Of the ids: how many are no dead letters (any more), or cannot be retried"), \
        FIELD(struct result, remaining, F_BOOL, .flags = F_OUTPUT,                                 \
              .doc = "Whether more fit the filter than one call takes; the same call goes on")
static const struct field retry_fields[] = {
    RESULT("retried"),
    FIELD(struct result, execution_ids, F_LIST, .flags = F_OUTPUT, .each = &new_id_field, .max = BULK_MAX,
          .doc = "The executions that were started"),
};
static const struct field discard_fields[] = { RESULT("discarded") };
static const struct table retry_table =
    TABLE("DeadLettersRetried", struct result, retry_fields, .doc = "What became of dead letters");
static const struct table discard_table =
    TABLE("DeadLettersDiscarded", struct result, discard_fields, .doc = "What became of dead letters");

/* ---- permissions and statements ---- */

PERMISSION(can_read, "dead-letters.read", ROLES_ALL, "See executions that failed for good");
PERMISSION(can_decide, "dead-letters.decide", ROLES_MEMBERS, "Retry and discard what failed for good");

CODES(entry_codes, CODE_ENTRY,
      { "dead-letters.choice", "Neither ids nor a filter say which dead letters are meant, or both do" });

#define LETTER_WHERE                                                                                                \
    " FROM executions WHERE tenant_id = $1 AND dead_at IS NOT NULL AND dead_at >= $2 AND dead_at < $3" LIST_FILTER( \
        "workflow_id", "$4") LIST_FILTER("dead_code", "$5")
#define LETTER_ROWS                                                                                      \
    "SELECT id AS execution_id, workflow_id, version, dead_code AS error_code, error, " LIST_CUT_COLUMN( \
        "input_data", "input_data") ", parent_id, created_at, dead_at" LETTER_WHERE
LIST_BY_ID(letters, execution_id, &letter_table, LETTER_ROWS, "id", LIST_AFTER_5);
STMT(letter_count, "SELECT count(*) AS n" LETTER_WHERE, .row = &list_count_table);
static const struct list_sort sorts[] = { LIST_SORT(letters, execution_id) };
static const char *const filters[] = { "workflow_id", "error_code" };
static const struct lister letter_lister = {
    &letter_table, sorts, COUNT(sorts), filters, COUNT(filters), &letter_count
};

struct chosen {
    struct presence has;
    str execution_id, trigger_data;
};
static const struct field chosen_fields[] = {
    FIELD(struct chosen, execution_id, F_STR, .doc = "The execution"),
    FIELD(struct chosen, trigger_data, F_JSON, .doc = "What started it"),
};
static const struct table chosen_table =
    TABLE("DeadLetterChosen", struct chosen, chosen_fields, .doc = "What a decision needs");

/* Oldest first, and only what can be retried when that is meant: what cannot would be chosen again by each further call. */
STMT(letters_chosen,
     "SELECT id AS execution_id, trigger_data" LETTER_WHERE " AND ($6 = 0 OR (step_executions IS NOT NULL"
     " AND EXISTS (SELECT 1 FROM workflows w WHERE w.tenant_id = $1 AND w.id = executions.workflow_id AND w.is_active"
     " AND w.deleted_at IS NULL))) ORDER BY id LIMIT $7",
     .row = &chosen_table);
STMT(letter_by_id,
     "SELECT id AS execution_id, trigger_data FROM executions WHERE tenant_id = $1 AND id = $2 AND dead_at IS NOT NULL",
     .row = &chosen_table);

/* ---- reading ---- */

static err letter_list(struct req *rq)
{
    const struct list_query *q = rq->query;
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    struct arg since = I64(HAS(query_table, q, since) ? q->since : INT64_MIN),
               until = I64(HAS(query_table, q, until) ? q->until : INT64_MAX);
    TRY(list_read(rq, &q->page, ARGS(TENANT(rq), since, until), &rows, &n, &total));
    return list_reply(rq, rows, n, &q->page, total, LIST_CUT);
}

/* ---- choosing ---- */

/* What a call decides on: made before its transaction, where each is looked at again. */
struct decision {
    struct chosen *list;
    struct dead_retry *retries;
    u32 count;
    struct result result;
};

static err choose_by_id(struct req *rq, const struct choice *in, struct decision *d)
{
    const str *ids = in->ids.items;
    for (u32 i = 0; i < in->ids.n; i++) {
        err e = db_row(rq->tx, &letter_by_id, &d->list[d->count], ARGS(TENANT(rq), STR(ids[i])));
        if (e != OK && e != ERR_NOT_FOUND)
            return e;
        d->count += e == OK;
        d->result.skipped += e != OK;
    }
    return OK;
}

static err choose_by_filter(struct req *rq, const struct choice *in, bool retry, struct decision *d)
{
    void *rows = NULL;
    u32 n = 0;
    TRY(db_list(rq->tx, &letters_chosen, BULK_MAX + 1, &rows, &n,
                ARGS(TENANT(rq), I64(HAS(choice_table, in, since) ? in->since : INT64_MIN),
                     I64(HAS(choice_table, in, until) ? in->until : INT64_MAX), STR(in->workflow_id),
                     STR(in->error_code), BOOL(retry), I64(BULK_MAX + 1))));
    d->list = rows;
    d->count = MIN(n, (u32)BULK_MAX);
    d->result.remaining = n > BULK_MAX;
    return OK;
}

static err choose(struct req *rq, bool retry, struct decision **out)
{
    const struct choice *in = rq->body;
    struct decision *d = NEW(rq->arena, struct decision);
    if (d == NULL)
        return ERR_MEMORY;
    d->list = NEW_N(rq->arena, struct chosen, BULK_MAX);
    if (d->list == NULL)
        return ERR_MEMORY;
    TRY(GIVEN(choice_table, in, ids) ? choose_by_id(rq, in, d) : choose_by_filter(rq, in, retry, d));
    rq->prepared = *out = d;
    return OK;
}

/* ---- retrying ---- */

/* The trigger as it was, with who asked for it to be run again. */
static err retry_trigger(struct req *rq, const struct chosen *c, str *out)
{
    struct json *trigger, replay = { .type = JSON_OBJECT };
    TRY(json_parse(rq->arena, c->trigger_data, &trigger, NULL));
    if (!json_set(rq->arena, &replay, S("execution_id"), json_of_str(c->execution_id)) ||
        !json_set(rq->arena, &replay, S("user_id"), json_of_str(rq->who.user_id)) ||
        !json_set(rq->arena, trigger, S("replay"), replay))
        return ERR_MEMORY;
    *out = json_text(rq->arena, trigger);
    return out->p != NULL ? OK : ERR_MEMORY;
}

static err prepare_retry(struct req *rq)
{
    struct decision *d;
    TRY(choose(rq, true, &d));
    d->retries = NEW_N(rq->arena, struct dead_retry, BULK_MAX);
    d->result.execution_ids.items = NEW_N(rq->arena, str, BULK_MAX);
    if (d->retries == NULL || d->result.execution_ids.items == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < d->count; i++) {
        struct dead_retry *r = &d->retries[i];
        *r = (struct dead_retry){ .tenant_id = rq->who.tenant_id,
                                  .execution_id = d->list[i].execution_id,
                                  .new_id = typeid_new(rq->arena, "execution", req_now(rq)),
                                  .now_us = req_now(rq) };
        if (r->new_id.p == NULL)
            return ERR_MEMORY;
        TRY(retry_trigger(rq, &d->list[i], &r->trigger));
    }
    return OK;
}

static void tell_engine(void *request)
{
    const struct req *rq = request;
    const struct decision *d = rq->prepared;
    engine_dead_retried(app.engine, (u32)d->result.execution_ids.n, req_now(rq));
}

static struct result *new_result(struct req *rq, const struct decision *d)
{
    struct result *result = NEW(rq->arena, struct result);
    if (result != NULL)
        *result = d->result;
    return result;
}

static err letters_retry(struct req *rq)
{
    struct decision *d = rq->prepared;
    struct result *result = new_result(rq, d);
    if (result == NULL)
        return ERR_MEMORY;
    str *ids = result->execution_ids.items;
    for (u32 i = 0; i < d->count; i++) {
        bool done;
        TRY(engine_dead_retry(app.engine, rq->tx, &d->retries[i], &done));
        result->skipped += !done;
        if (!done)
            continue;
        ids[result->done++] = d->retries[i].new_id;
        TRY(audit(rq, "dead-letters.retry", d->retries[i].execution_id, STR_NONE));
    }
    result->execution_ids.n = d->result.execution_ids.n = (u32)result->done;
    field_set_all(&retry_table, result);
    TRY(req_after(rq, tell_engine, rq));
    return reply(rq, 200, &retry_table, result);
}

/* ---- discarding ---- */

static err prepare_discard(struct req *rq)
{
    struct decision *d;
    return choose(rq, false, &d);
}

static err letters_discard(struct req *rq)
{
    const struct decision *d = rq->prepared;
    struct result *result = new_result(rq, d);
    if (result == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < d->count; i++) {
        bool done;
        TRY(engine_dead_discard(rq->tx, rq->who.tenant_id, d->list[i].execution_id, &done));
        result->skipped += !done;
        result->done += done;
        if (done)
            TRY(audit(rq, "dead-letters.discard", d->list[i].execution_id, STR_NONE));
    }
    field_set_all(&discard_table, result);
    return reply(rq, 200, &discard_table, result);
}

/* ---- routes ---- */

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/dead-letters", letter_list, W_SLOW), .need = &can_read, .query = &query_table,
      .list = &letter_lister, .out = &letter_table, .flags = R_LIST, .doc = "List what failed for good, newest first",
      .more =
          "Executions whose step used up its retry policy (engine codes and http.status alike), that crashed the server three times on one step "
          "(engine.crashed), or that could not be read any more (engine.definition). A child that its parent waited for is none. Retrying or discarding one takes it off "
          "the list; the execution itself stays." },
    { ROUTE(POST, "/api/v1/dead-letters/retry", letters_retry, W_WRITE), .prepare = prepare_retry,
      .flags = R_SLOW_PREPARE, .need = &can_decide, .in = &choice_table, .out = &retry_table, .status = 200,
      .doc = "Run dead letters again from where they failed, 100 at most",
      .more =
          "Each becomes a new execution of the same version, linked by parent_id, which keeps what had ended well. They begin when this answers; the answer "
          "names them. Those without a history, and those whose workflow is deleted or not active, stay dead letters: ids of them count as skipped, filters leave "
          "them out.",
      .example = "{\"error_code\":\"http.status\",\"until\":\"2026-01-01T00:00:00Z\"}" },
    { ROUTE(POST, "/api/v1/dead-letters/discard", letters_discard, W_WRITE), .prepare = prepare_discard,
      .flags = R_SLOW_PREPARE, .need = &can_decide, .in = &choice_table, .out = &discard_table, .status = 200,
      .doc = "Take dead letters off the list, 100 at most",
      .more = "The executions stay in the history of their workflows.",
      .example = "{\"until\":\"2026-01-01T00:00:00Z\"}" },
};

const struct module dead_letters_module = {
    .name = "dead-letters",
    .doc = "What failed for good, until somebody decides",
    .routes = routes,
    .route_count = COUNT(routes),
};
