/* triggers.c - webhooks: the rows that people edit, and the URL of each. What a call of that URL does is in triggers_call.c; schedules are not here.
 *
 * A secret is taken and never given back: answers show ****, and **** sent again keeps what is stored, so an answer can be edited and sent as it came. */
#include "feat/triggers/triggers_parts.h"

#include "base/code.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/conditional.h"
#include "core/jobs.h"
#include "core/keys.h"
#include "core/list.h"
#include "engine/definition.h"

#include <sodium.h>
#include <string.h>

enum { RATE_MAX = 1000000, ADDRESSES_MAX = 64 };

/* ---- fields ---- */

static err check_header_name(str value, const char **code, const char **detail)
{
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) {
            *code = "field.format";
            *detail = "must be the name of a header: letters, digits, hyphens and underscores";
            return ERR_INVALID;
        }
    }
    return OK;
}

static err check_address(str value, const char **code, const char **detail)
{
    struct address_block block;
    if (address_block_parse(value, &block))
        return OK;
    *code = "field.format";
    *detail = "must be an address or a CIDR block, as 192.0.2.0/24 or 2001:db8::/32";
    return ERR_INVALID;
}

static const char *const methods[] = { "GET", "POST", "PUT", NULL };
static const char *const auth_types[] = { "none", "api_key", "bearer", NULL };
static const char *const responses[] = { "result", "accepted", NULL };
static const struct field address_field =
    SHAPE_FIELD("address", F_STR, .min = 2, .max = 50, .check = check_address, .doc = "An address or CIDR block");

#define TRIGGER_SETTINGS                                                                                             \
    FIELD(struct trigger, name, F_STR, .flags = F_FILTER | F_SORT, .min = 1, .max = 120, .preset = "\"webhook\"",    \
          .doc = "Shown to people"),                                                                                 \
        FIELD(struct trigger, method, F_STR, .one_of = methods, .preset = "\"POST\"",                                \
              .doc = "The one method that the URL answers"),                                                         \
        FIELD(struct trigger, auth_type, F_STR, .one_of = auth_types, .preset = "\"none\"",                          \
              .doc = "How a caller proves that it may call"),                                                        \
        FIELD(struct trigger, auth_config, F_VARIANT, .flags = F_TEXT | F_NULLABLE | F_SECRET, .by = "auth_type",    \
              .variants = trigger_auth_cases,                                                                        \
              .doc = "What auth_type asks for; masked in answers. Left out of a PUT, the secret stays"),             \
        FIELD(struct trigger, is_active, F_BOOL, .flags = F_FILTER, .preset = "true",                                \
              .doc = "An inactive trigger answers 404"),                                                             \
        FIELD(struct trigger, rate_limit, F_I64, .flags = F_NULLABLE, .min = 1, .max = RATE_MAX, .preset = "60",     \
              .doc = "Calls per second, above them 429; null for no limit"),                                         \
        FIELD(struct trigger, max_body_bytes, F_I64, .min = 1, .max = TRIGGER_BODY_MAX, .preset = "1048576",         \
              .doc = "A longer body is refused with 413"),                                                           \
        FIELD(struct trigger, respond, F_STR, .one_of = responses, .preset = "\"result\"",                           \
              .doc = "Whether a call waits for the result, or is answered 202 as soon as the execution is on disk"), \
        FIELD(struct trigger, dedup_header, F_STR, .flags = F_NULLABLE, .min = 1, .max = 64,                         \
              .check = check_header_name,                                                                            \
              .doc = "Header that names a delivery: the same value within 24 hours is the same execution"),          \
        FIELD(struct trigger, allowed_ips, F_LIST, .flags = F_TEXT | F_NULLABLE | F_UNIQUE, .each = &address_field,  \
              .max = ADDRESSES_MAX, .doc = "Addresses that may call; null or empty for all")

static const struct field fields[] = {
    FIELD(struct trigger, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "trigger",
          .doc = "Id of the trigger"),
    FIELD(struct trigger, webhook_url, F_STR, .flags = F_OUTPUT, .doc = "Path to call"),
    TRIGGER_SETTINGS,
    FIELD(struct trigger, workflow_id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "workflow",
          .doc = "The workflow that a call runs"),
    FIELD(struct trigger, webhook_url_absolute, F_STR, .flags = F_OUTPUT | F_SPARSE,
          .doc = "URL to call, where WEIR_PUBLIC_URL is set"),
    FIELD(struct trigger, created_by, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Id of the user who made it"),
    FIELD(struct trigger, created_at, F_TIME, .flags = F_OUTPUT | F_SORT, .doc = "When it was made"),
    FIELD(struct trigger, updated_at, F_TIME, .flags = F_OUTPUT | F_SORT, .doc = "When it was last changed"),
};
const struct table trigger_table = TABLE("Trigger", struct trigger, fields, .doc = "A webhook of a workflow");

static const struct field entry_fields[] = {
    FIELD(struct trigger, id, F_STR, .flags = F_SPARSE, .format = "id", .prefix = "trigger",
          .doc = "An entry with an id replaces that trigger; without one it makes a new trigger"),
    FIELD(struct trigger, webhook_url, F_STR, .flags = F_SPARSE, .max = 300,
          .doc = "Path to call; ignored when it is sent"),
    TRIGGER_SETTINGS,
};
const struct table definition_trigger_table = TABLE("DefinitionTrigger", struct trigger, entry_fields,
                                                    .doc = "A trigger as a workflow's definition shows and takes it");

struct list_query {
    struct presence has;
    struct page page;
};
static const struct field query_fields[] = { LIST_QUERY(struct list_query) };
static const struct table query_table =
    TABLE("TriggerQuery", struct list_query, query_fields, .doc = "Paging of a workflow's triggers");

/* ---- permissions and problems ---- */

PERMISSION(can_read, "triggers.read", ROLES_ALL, "See webhooks and their deliveries");
PERMISSION(can_write, "triggers.write", ROLES_EDITORS, "Make, change and delete webhooks");

CODES(entry_codes, CODE_ENTRY, { "triggers.not_found", "The id is none of the workflow's triggers" },
      { "triggers.too_many", "The workflow would have more triggers than it may" },
      { "triggers.secret_missing", "The way of authentication needs a secret, and none is kept" },
      { "triggers.bearer", "Exactly one of token and jwt_secret; issuer and audience go with jwt_secret" });

PROBLEM_SHARED(trigger_not_found, "triggers.not_found", ERR_NOT_FOUND, "There is no such trigger");
PROBLEM_SHARED(trigger_changed, "triggers.changed", ERR_CONFLICT, "The trigger was changed meanwhile");
PROBLEM(no_workflow, "triggers.workflow_not_found", ERR_NOT_FOUND, "There is no such workflow");
PROBLEM(too_many, "triggers.too_many", ERR_INVALID, "The workflow has as many triggers as it may have");

/* ---- statements ---- */

#define SETTING_COLUMNS \
    "name, method, auth_type, auth_config, is_active, rate_limit, max_body_bytes, respond, dedup_header, allowed_ips, "
#define TRIGGER_COLUMNS                                                                                                \
    "id, '/api/v1/webhooks/' || workflow_id || '/' || id AS webhook_url, " SETTING_COLUMNS "workflow_id, created_by, " \
    "created_at, updated_at"

STMT(trigger_workflow, "SELECT 1 FROM workflows WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL");
STMT(trigger_by_id, "SELECT " TRIGGER_COLUMNS " FROM triggers WHERE tenant_id = $1 AND workflow_id = $2 AND id = $3",
     .row = &trigger_table);
STMT(trigger_state,
     "SELECT t.updated_at || '' AS state FROM triggers t JOIN workflows w ON w.tenant_id = t.tenant_id "
     "AND w.id = t.workflow_id AND w.deleted_at IS NULL WHERE t.tenant_id = $1 AND t.workflow_id = $2 AND t.id = $3",
     .row = &etag_table);
/* A workflow has at most TRIGGERS_MAX of them: sorting these costs less than an index would. */
#define TRIGGER_WHERE \
    " FROM triggers WHERE tenant_id = $1 AND workflow_id = $2" LIST_FILTER("name", "$3") LIST_FILTER("is_active", "$4")
#define TRIGGER_ROWS "SELECT " TRIGGER_COLUMNS TRIGGER_WHERE
LIST_BY_ID(triggers, id, &trigger_table, TRIGGER_ROWS, "id", LIST_AFTER_4);
LIST_BY(triggers, name, &trigger_table, TRIGGER_ROWS, "name", "id", LIST_AFTER_4, .scan_ok = true);
LIST_BY(triggers, created_at, &trigger_table, TRIGGER_ROWS, "created_at", "id", LIST_AFTER_4, .scan_ok = true);
LIST_BY(triggers, updated_at, &trigger_table, TRIGGER_ROWS, "updated_at", "id", LIST_AFTER_4, .scan_ok = true);
STMT(trigger_count, "SELECT count(*) AS n" TRIGGER_WHERE, .row = &list_count_table);
STMT(trigger_number, "SELECT count(*) AS n FROM triggers WHERE tenant_id = $1 AND workflow_id = $2",
     .row = &list_count_table);
static const struct list_sort sorts[] = { LIST_SORT(triggers, id), LIST_SORT(triggers, name),
                                          LIST_SORT(triggers, created_at), LIST_SORT(triggers, updated_at) };
static const char *const filters[] = { "name", "is_active" };
static const struct lister trigger_lister = { &trigger_table, sorts,          COUNT(sorts),
                                              filters,        COUNT(filters), &trigger_count };
STMT(trigger_all,
     "SELECT " TRIGGER_COLUMNS " FROM triggers WHERE tenant_id = $1 AND workflow_id = $2 ORDER BY id LIMIT $3",
     .row = &trigger_table);
/* What a definition shows, and no more: every read of a workflow asks for it, and each column costs PostgreSQL and us a fifth of a microsecond. */
STMT(trigger_entries,
     "SELECT id, " SETTING_COLUMNS
     "updated_at FROM triggers WHERE tenant_id = $1 AND workflow_id = $2 ORDER BY id LIMIT $3",
     .row = &trigger_table);

STMT(
    trigger_insert,
    "INSERT INTO triggers (tenant_id, workflow_id, id, name, method, auth_type, auth_config, is_active, rate_limit, max_body_bytes, "
    "respond, dedup_header, allowed_ips, updated_at, created_at, created_by) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)");
/* Only from what was seen: the kept secret comes from there, and would undo a change of it meanwhile. */
STMT(trigger_update,
     "UPDATE triggers SET name = $4, method = $5, auth_type = $6, auth_config = $7, is_active = $8, rate_limit = $9, "
     "max_body_bytes = $10, respond = $11, dedup_header = $12, allowed_ips = $13, updated_at = $14 "
     "WHERE tenant_id = $1 AND workflow_id = $2 AND id = $3 AND updated_at = $15");
STMT(trigger_delete, "DELETE FROM triggers WHERE tenant_id = $1 AND workflow_id = $2 AND id = $3");

/* ---- rows as they are shown ---- */

static u64 bit_of(const char *name)
{
    return (u64)1 << field_index(&trigger_table, str_of(name));
}

static str path_of(struct arena *a, str workflow_id, str id)
{
    return strf(a, "/api/v1/webhooks/%.*s/%.*s", STR_FMT(workflow_id), STR_FMT(id));
}

/* From the stored row to what an answer may say. */
static err show(struct arena *a, struct trigger *t)
{
    TRY(trigger_auth_mask(a, t->auth_type, t->auth_config, &t->auth_config));
    str base = app.config.public_url;
    if (base.n == 0)
        return OK;
    const str parts[] = { base.p[base.n - 1] == '/' ? str_slice(base, 0, base.n - 1) : base, t->webhook_url };
    t->webhook_url_absolute = str_concat(a, parts, COUNT(parts));
    SET(trigger_table, t, webhook_url_absolute);
    return t->webhook_url_absolute.p != NULL ? OK : ERR_MEMORY;
}

static err find_workflow(struct req *rq, str workflow_id)
{
    err e = db_row(rq->tx, &trigger_workflow, NULL, ARGS(TENANT(rq), STR(workflow_id)));
    return e == ERR_NOT_FOUND ? problem(rq, &no_workflow, "There is no workflow %.*s", STR_FMT(workflow_id)) : e;
}

static err find_trigger(struct req *rq, struct trigger *out)
{
    str id = req_param(rq, "id");
    err e = db_row(rq->tx, &trigger_by_id, out, ARGS(TENANT(rq), STR(req_param(rq, "workflow_id")), STR(id)));
    return e == ERR_NOT_FOUND
               ? problem(rq, &trigger_not_found, "There is no trigger %.*s of this workflow", STR_FMT(id))
               : e;
}

/* ---- a change: prepared off the writer, then only bound ---- */

struct change {
    struct trigger row; /* as it will be shown */
    str stored;         /* auth_config as it will be stored */
    str changed;        /* names for the audit row */
    i64 seen;           /* updated_at of what it replaces */
    bool creates, same; /* same: nothing differs from what is stored */
};

static bool differs(const struct field *f, const struct trigger *a, const struct trigger *b)
{
    const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;
    u64 bit = bit_of(f->name);
    if ((a->has.null & bit) != (b->has.null & bit))
        return true;
    if (f->kind == F_I64 || f->kind == F_BOOL)
        return (a->has.null & bit) == 0 && memcmp(x, y, f->kind == F_I64 ? sizeof(i64) : sizeof(bool)) != 0;
    str s, t;
    memcpy(&s, x, sizeof s);
    memcpy(&t, y, sizeof t);
    return !str_eq(s, t);
}

/* Names of the settings that differ, for the audit row; STR_NONE when none does. Both hold stored secrets. */
static err changed_names(struct arena *a, const struct trigger *before, const struct trigger *after, str *names)
{
    struct buf b = { .arena = a };
    for (u32 i = 2; i < COUNT(entry_fields); i++)
        if (differs(&fields[i], before, after))
            buf_f(&b, "%s%s", b.n > 0 ? ", " : "", fields[i].name);
    *names = b.n > 0 ? buf_view(&b) : STR_NONE;
    return b.fail;
}

/* What the tables leave to do: ids, lower case, and one word for "all addresses". */
static err complete(struct req *rq, struct trigger *t, str workflow_id, const struct trigger *before)
{
    t->id = before != NULL ? before->id : typeid_new(rq->arena, "trigger", req_now(rq));
    t->workflow_id = workflow_id;
    t->webhook_url = path_of(rq->arena, workflow_id, t->id);
    t->created_by = before != NULL ? before->created_by : rq->who.user_id;
    t->created_at = before != NULL ? before->created_at : req_now(rq);
    if (t->id.p == NULL || t->webhook_url.p == NULL)
        return ERR_MEMORY;
    if (t->dedup_header.p != NULL && (t->dedup_header = str_lower(rq->arena, t->dedup_header)).p == NULL)
        return ERR_MEMORY;
    if (str_eq(t->allowed_ips, S("[]")))
        t->allowed_ips = STR_NONE;
    return OK;
}

/* Presence as a row from the database has it. */
static void mark(struct trigger *t, bool limited)
{
    field_set_all(&trigger_table, t);
    t->has.present &= ~bit_of("webhook_url_absolute");
    t->has.null |= limited ? 0 : bit_of("rate_limit");
}

static struct trigger_owner owner_of(const struct req *rq, str trigger_id)
{
    return (struct trigger_owner){ app.config.secret_key, rq->who.tenant_id, trigger_id,
                                   app.config.secret_key_previous };
}

/* A secret that is asked for and neither given nor known is a problem at `pointer`. */
static err store_auth(struct req *rq, struct change *c, const struct trigger *before, str pointer)
{
    struct trigger *t = &c->row;
    struct trigger_owner owner = owner_of(rq, t->id);
    str kept = before != NULL && str_eq(before->auth_type, t->auth_type) ? before->auth_config : STR_NONE;
    err e = trigger_auth_store(rq->arena, &owner, t->auth_type, t->auth_config, kept, &c->stored);
    if (e != ERR_INVALID)
        return e;
    str at = json_pointer_key(rq->arena, pointer, S("auth_config"));
    return problems_add(&rq->errors, at, "triggers.secret_missing", "must hold the secret: there is none to keep");
}

static err change_make(struct req *rq, const struct trigger *given, str workflow_id, const struct trigger *before,
                       str pointer, struct change *c)
{
    c->row = *given;
    c->creates = before == NULL;
    TRY(complete(rq, &c->row, workflow_id, before));
    TRY(store_auth(rq, c, before, pointer));
    c->row.auth_config = c->stored;
    mark(&c->row, HAS(trigger_table, given, rate_limit));
    if (before != NULL)
        TRY(changed_names(rq->arena, before, &c->row, &c->changed));
    c->same = before != NULL && c->changed.p == NULL;
    c->seen = before != NULL ? before->updated_at : 0;
    c->row.updated_at = c->same ? c->seen : MAX(req_now(rq), c->seen + 1); /* rises even when the clock does not */
    return show(rq->arena, &c->row);
}

static err count_triggers(struct req *rq, str workflow_id, i64 *n)
{
    struct list_count count;
    TRY(db_row(rq->tx, &trigger_number, &count, ARGS(TENANT(rq), STR(workflow_id))));
    *n = count.n;
    return OK;
}

/* Nothing was updated: why? */
static err not_as_seen(struct req *rq, const struct trigger *t)
{
    err e = db_row(rq->tx, &trigger_by_id, NULL, ARGS(TENANT(rq), STR(t->workflow_id), STR(t->id)));
    if (e == ERR_NOT_FOUND)
        return problem(rq, &trigger_not_found, "The trigger %.*s is gone", STR_FMT(t->id));
    TRY(e);
    return problem(rq, &trigger_changed, "The trigger %.*s was changed at the same time: read it, and try again",
                   STR_FMT(t->id));
}

/* On the writer, behind the insert: creations that did not see each other are counted together here. */
static err keeps_the_number(struct req *rq, str workflow_id)
{
    i64 n;
    TRY(count_triggers(rq, workflow_id, &n));
    return n <= TRIGGERS_MAX ? OK : problem(rq, &too_many, "A workflow has at most %d triggers", TRIGGERS_MAX);
}

static err change_apply(struct req *rq, const struct change *c)
{
    const struct trigger *t = &c->row;
    if (c->same)
        return OK;
    struct arg list[] = {
        TENANT(rq),
        STR(t->workflow_id),
        STR(t->id),
        STR(t->name),
        STR(t->method),
        STR(t->auth_type),
        STR(c->stored),
        BOOL(t->is_active),
        HAS(trigger_table, t, rate_limit) ? I64(t->rate_limit) : NIL,
        I64(t->max_body_bytes),
        STR(t->respond),
        STR(t->dedup_header),
        STR(t->allowed_ips),
        I64(t->updated_at),
        I64(c->creates ? t->created_at : c->seen),
        STR(t->created_by),
    };
    i64 changed = 0;
    const struct stmt *s = c->creates ? &trigger_insert : &trigger_update;
    TRY(db_exec(rq->tx, s, &changed, (struct args){ list, c->creates ? COUNT(list) : COUNT(list) - 1 }));
    if (changed == 0)
        return not_as_seen(rq, t);
    if (c->creates)
        TRY(keeps_the_number(rq, t->workflow_id));
    return audit(rq, c->creates ? "triggers.create" : "triggers.update", t->id, c->changed);
}

HOT(workflow_hot, "workflows");

err triggers_forget(struct req *rq, str workflow_id)
{
    TRY(req_after(rq, hooks_forget, NULL));
    return hot_forget(rq, &workflow_hot, workflow_id);
}

/* ---- triggers of a definition (triggers.h) ---- */

struct trigger_changes {
    struct change *list;
    u32 n;
    struct trigger *before; /* with stored secrets */
    u32 before_n;
};

static struct trigger *before_of(const struct trigger_changes *all, str id)
{
    for (u32 i = 0; i < all->before_n; i++)
        if (str_eq(all->before[i].id, id))
            return &all->before[i];
    return NULL;
}

static const struct change *change_of(const struct trigger_changes *all, str id)
{
    for (u32 i = 0; i < all->n; i++)
        if (str_eq(all->list[i].row.id, id))
            return &all->list[i];
    return NULL;
}

static err entry_make(struct req *rq, struct trigger_changes *all, const struct json *entry, str workflow_id,
                      str pointer)
{
    struct trigger given = { 0 };
    const struct trigger *before = NULL;
    TRY(field_decode(rq->arena, &definition_trigger_table, FIELD_CREATE, entry, pointer, &given, &rq->errors));
    if (given.id.p != NULL) {
        before = before_of(all, given.id);
        str at = json_pointer_key(rq->arena, pointer, S("id"));
        if (before == NULL)
            return problems_add(&rq->errors, at, "triggers.not_found", "is no trigger of this workflow");
        if (change_of(all, given.id) != NULL)
            return problems_add(&rq->errors, at, "field.repeated", "is in the list already");
    }
    TRY(change_make(rq, &given, workflow_id, before, pointer, &all->list[all->n]));
    all->n++;
    return OK;
}

static err load_before(struct tx *tx, str tenant_id, str workflow_id, struct trigger_changes *all)
{
    void *rows = NULL;
    TRY(db_list(tx, &trigger_all, TRIGGERS_MAX, &rows, &all->before_n,
                ARGS(STR(tenant_id), STR(workflow_id), I64(TRIGGERS_MAX))));
    all->before = rows;
    return OK;
}

err triggers_prepare(struct req *rq, str workflow_id, const struct json *entries, str pointer,
                     struct trigger_changes **out)
{
    struct trigger_changes *all = NEW(rq->arena, struct trigger_changes);
    u32 n = entries != NULL && entries->type == JSON_ARRAY ? entries->n : 0;
    err outcome = OK;
    if (all == NULL || (all->list = NEW_N(rq->arena, struct change, n)) == NULL)
        return ERR_MEMORY;
    TRY(load_before(rq->tx, rq->who.tenant_id, workflow_id, all));
    u32 total = all->before_n;
    for (u32 i = 0; i < n; i++) {
        err e = entry_make(rq, all, &entries->items[i], workflow_id, json_pointer_index(rq->arena, pointer, i));
        if (e != OK && e != ERR_INVALID)
            return e;
        outcome = e != OK ? e : outcome;
        total += json_get(&entries->items[i], S("id")) == NULL;
    }
    if (total > TRIGGERS_MAX)
        return problems_add(&rq->errors, pointer, "triggers.too_many", "A workflow has at most %d triggers",
                            TRIGGERS_MAX);
    TRY(outcome);
    *out = all;
    return OK;
}

err triggers_apply(struct req *rq, str workflow_id, const struct trigger_changes *changes)
{
    for (u32 i = 0; i < changes->n; i++)
        TRY(change_apply(rq, &changes->list[i]));
    return triggers_forget(rq, workflow_id);
}

static void put_entry(struct json_writer *w, const struct trigger *shown)
{
    if (w->comma)
        buf_char(w->b, ',');
    w->comma = true;
    field_encode(w->b, &definition_trigger_table, shown);
}

err triggers_changed_view(struct req *rq, const struct trigger_changes *changes, str *json)
{
    struct buf b = { .arena = rq->arena };
    struct json_writer w = { .b = &b };
    buf_char(&b, '[');
    for (u32 i = 0; i < changes->before_n; i++) {
        const struct change *c = change_of(changes, changes->before[i].id);
        struct trigger shown = c != NULL ? c->row : changes->before[i];
        if (c == NULL)
            TRY(show(rq->arena, &shown));
        put_entry(&w, &shown);
    }
    for (u32 i = 0; i < changes->n; i++)
        if (changes->list[i].creates)
            put_entry(&w, &changes->list[i].row);
    buf_char(&b, ']');
    *json = buf_view(&b);
    return b.fail;
}

err triggers_ask(struct tx *tx, str tenant_id, str workflow_id, struct ahead *out)
{
    return db_ask(tx, &trigger_entries, TRIGGERS_MAX, out, ARGS(STR(tenant_id), STR(workflow_id), I64(TRIGGERS_MAX)));
}

static err show_entry(struct arena *a, str workflow_id, struct trigger *t)
{
    TRY(trigger_auth_mask(a, t->auth_type, t->auth_config, &t->auth_config));
    t->webhook_url = path_of(a, workflow_id, t->id);
    SET(definition_trigger_table, t, webhook_url);
    return t->webhook_url.p != NULL ? OK : ERR_MEMORY;
}

err triggers_view(struct tx *tx, str workflow_id, struct ahead *asked, struct triggers_shown *out)
{
    void *rows = NULL;
    u32 n = 0;
    i64 changes = 0;
    struct buf b = { .arena = db_arena(tx) };
    struct json_writer w = { .b = &b };
    TRY(db_answer_list(tx, asked, &rows, &n));
    buf_char(&b, '[');
    for (u32 i = 0; i < n; i++) {
        struct trigger *t = (struct trigger *)rows + i;
        TRY(show_entry(db_arena(tx), workflow_id, t));
        put_entry(&w, t);
        changes += t->updated_at;
    }
    buf_char(&b, ']');
    *out = (struct triggers_shown){ buf_view(&b), n, changes };
    return b.fail;
}

/* ---- handlers ---- */

static err prepare_create(struct req *rq)
{
    str workflow_id = req_param(rq, "workflow_id");
    i64 count;
    struct change *c = NEW(rq->arena, struct change);
    if (c == NULL)
        return ERR_MEMORY;
    TRY(find_workflow(rq, workflow_id));
    TRY(count_triggers(rq, workflow_id, &count));
    if (count >= TRIGGERS_MAX)
        return problem(rq, &too_many, "A workflow has at most %d triggers", TRIGGERS_MAX);
    rq->prepared = c;
    return change_make(rq, rq->body, workflow_id, NULL, S(""), c);
}

static err trigger_create(struct req *rq)
{
    const struct change *c = rq->prepared;
    TRY(change_apply(rq, c));
    TRY(triggers_forget(rq, c->row.workflow_id));
    reply_location(rq, "/api/v1/webhooks/%.*s/triggers/%.*s", STR_FMT(c->row.workflow_id), STR_FMT(c->row.id));
    return reply(rq, 201, &trigger_table, &c->row);
}

static err prepare_replace(struct req *rq)
{
    struct trigger before;
    struct change *c = NEW(rq->arena, struct change);
    if (c == NULL)
        return ERR_MEMORY;
    TRY(find_workflow(rq, req_param(rq, "workflow_id")));
    TRY(find_trigger(rq, &before));
    rq->prepared = c;
    return change_make(rq, rq->body, before.workflow_id, &before, S(""), c);
}

static err trigger_replace(struct req *rq)
{
    const struct change *c = rq->prepared;
    TRY(change_apply(rq, c));
    TRY(triggers_forget(rq, c->row.workflow_id));
    return reply(rq, 200, &trigger_table, &c->row);
}

static err trigger_get(struct req *rq)
{
    struct trigger *t = NEW(rq->arena, struct trigger);
    if (t == NULL)
        return ERR_MEMORY;
    TRY(find_workflow(rq, req_param(rq, "workflow_id")));
    TRY(find_trigger(rq, t));
    TRY(show(rq->arena, t));
    return reply(rq, 200, &trigger_table, t);
}

static err trigger_list(struct req *rq)
{
    const struct page *page = &((const struct list_query *)rq->query)->page;
    str workflow_id = req_param(rq, "workflow_id");
    void *rows = NULL;
    u32 n = 0;
    i64 total;
    TRY(find_workflow(rq, workflow_id));
    TRY(list_read(rq, page, ARGS(TENANT(rq), STR(workflow_id)), &rows, &n, &total));
    for (u32 i = 0; i < n; i++)
        TRY(show(rq->arena, (struct trigger *)rows + i));
    return list_reply(rq, rows, n, page, total, 0);
}

static err trigger_remove(struct req *rq)
{
    i64 changed = 0;
    str id = req_param(rq, "id");
    TRY(db_exec(rq->tx, &trigger_delete, &changed, ARGS(TENANT(rq), STR(req_param(rq, "workflow_id")), STR(id))));
    if (changed == 0)
        return problem(rq, &trigger_not_found, "There is no trigger %.*s of this workflow", STR_FMT(id));
    TRY(audit(rq, "triggers.delete", id, STR_NONE));
    TRY(triggers_forget(rq, req_param(rq, "workflow_id")));
    return reply_empty(rq, 204);
}

/* ---- routes ---- */

#define TRIGGERS "/api/v1/webhooks/{workflow_id}/triggers"
#define HOOK     "/api/v1/webhooks/{workflow_id}/{trigger_id}"

static const struct problem *const no_workflow_list[] = { &no_workflow, &too_many, NULL };
static const struct problem *const no_trigger_list[] = { &no_workflow, &trigger_not_found, NULL };
static const struct problem *const replace_list[] = { &no_workflow, &trigger_not_found, &trigger_changed, NULL };
static const struct route_status call_also[] = {
    { 202, &call_result_table,
      "The execution is on disk and has not ended: respond is \"accepted\", or it takes longer than 30 seconds" },
    { 500, &call_result_table, "The execution failed and no respond step ran: success is false" },
    { 0 },
};
static const char call_more[] =
    "Proves itself as the trigger asks (X-API-Key or Authorization), and runs the workflow with the body as its input: a JSON object as "
    "it is, a form as an object, any other JSON or text as {\"body\": …}, bytes as base64; for GET the query parameters. A respond step "
    "answers for itself: any status, headers and body. The same Idempotency-Key (or value of dedup_header) within 24 hours joins the "
    "execution that it started, and the answer says Idempotent-Replayed: true. HEAD never runs a workflow.";

#define HOOK_ROUTE(method_, doc_)                                                                              \
    {                                                                                                          \
        ROUTE(method_, HOOK, trigger_call, W_WAIT),                                                            \
            .need = &anyone, .flags = R_RAW_BODY | R_NO_AUTH_HEADER | R_ADMIT, .admit = trigger_admit,         \
            .max_body = TRIGGER_BODY_MAX, .query = &any_query_table, .out = &call_result_table, .status = 200, \
            .also = call_also, .problems = call_problems, .doc = (doc_), .more = call_more                     \
    }

static const struct route routes[] = {
    { ROUTE(POST, TRIGGERS, trigger_create, W_WRITE), .prepare = prepare_create, .need = &can_write,
      .in = &trigger_table, .out = &trigger_table, .problems = no_workflow_list, .doc = "Make a webhook for a workflow",
      .example =
          "{\"name\":\"orders\",\"method\":\"POST\",\"auth_type\":\"api_key\",\"auth_config\":{\"api_key\":\"whk_7Qm2v9Xc4Lr8Zt1B\"}}" },
    { ROUTE(GET, TRIGGERS, trigger_list, W_READ), .need = &can_read, .query = &query_table, .list = &trigger_lister,
      .out = &trigger_table, .flags = R_LIST, .problems = no_workflow_list,
      .doc = "List the webhooks of a workflow, newest first" },
    { ROUTE(GET, TRIGGERS "/{id}", trigger_get, W_READ), .etag = &trigger_state, .need = &can_read,
      .out = &trigger_table, .problems = no_trigger_list, .doc = "Read a webhook" },
    { ROUTE(PUT, TRIGGERS "/{id}", trigger_replace, W_WRITE), .etag = &trigger_state, .prepare = prepare_replace,
      .need = &can_write, .in = &trigger_table, .out = &trigger_table, .problems = replace_list,
      .doc = "Replace a webhook's settings",
      .more =
          "What is left out returns to its default; only auth_config stays when it is left out and auth_type is the same." },
    { ROUTE(DELETE, TRIGGERS "/{id}", trigger_remove, W_WRITE), .etag = &trigger_state, .need = &can_write,
      .status = 204, .problems = no_trigger_list, .doc = "Delete a webhook" },
    { ROUTE(GET, TRIGGERS "/{id}/deliveries", trigger_deliveries, W_SLOW), .need = &can_read,
      .query = &delivery_query_table, .out = &delivery_table, .flags = R_LIST, .problems = no_trigger_list,
      .doc = "List the calls of a webhook, newest first",
      .more = "Refused calls are listed as well, up to ten of them per second. Rows are kept for 30 days." },
    HOOK_ROUTE(GET, "Call a webhook by GET"),
    HOOK_ROUTE(POST, "Call a webhook by POST"),
    HOOK_ROUTE(PUT, "Call a webhook by PUT"),
};

static const struct job_kind jobs[] = {
    { .name = "triggers.clean",
      .run = triggers_clean,
      .every_us = HOUR_US,
      .doc = "Deletes deliveries older than 30 days" },
};

/* ---- under another SECRET_KEY ---- */

STMT(auth_page,
     "SELECT id, tenant_id, auth_config AS sealed FROM triggers WHERE id > $1 AND auth_config IS NOT NULL"
     " ORDER BY id LIMIT $2",
     .row = &sealed_row_table, .scope = SCOPE_SYSTEM);
STMT(auth_store, "UPDATE triggers SET auth_config = $3 WHERE id = $1 AND auth_config = $2", .scope = SCOPE_SYSTEM);

static err auth_again(struct arena *a, const struct sealed_row *row, str *out)
{
    struct trigger_owner owner = { app.config.secret_key, row->tenant_id, row->id, app.config.secret_key_previous };
    return trigger_auth_again(a, &owner, row->sealed, out);
}
static const struct sealed_column sealed[] = { { "triggers.auth_config", &auth_page, &auth_store, auth_again } };

static err start(void)
{
    if (sodium_init() < 0)
        return ERR_INTERNAL;
    return deliveries_start();
}

const struct module triggers_module = {
    .name = "triggers",
    .doc = "Webhooks: URLs that run a workflow",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .sealed = sealed,
    .sealed_count = COUNT(sealed),
    .start = start,
    .stop = deliveries_stop,
};
