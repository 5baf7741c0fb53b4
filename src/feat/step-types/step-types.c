/* step-types.c - what steps there are, for editors: each with the JSON Schema of its `with`. From the engine's own list, so it is never behind.
 *
 * A schema stands alone: what it refers to is in its own $defs, since a client that makes a form of it has no OpenAPI document at hand. */
#include "feat/step-types/step-types.h"
#include "base/map.h"
#include "core/app.h"
#include "core/list.h"
#include "engine/step.h"

struct step_type {
    struct presence has;
    str type, doc, output, with;
    bool outside, testable;
    i64 timeout_ms;
};
static const struct field fields[] = {
    FIELD(struct step_type, type, F_STR, .flags = F_OUTPUT, .doc = "What a step's `type` says", .example = "\"http\""),
    FIELD(struct step_type, doc, F_STR, .flags = F_OUTPUT, .doc = "What such a step does"),
    FIELD(struct step_type, output, F_STR, .flags = F_OUTPUT, .doc = "What its output looks like"),
    FIELD(struct step_type, outside, F_BOOL, .flags = F_OUTPUT,
          .doc = "Whether it reaches outside or waits, so that it is recorded before and after"),
    FIELD(struct step_type, testable, F_BOOL, .flags = F_OUTPUT,
          .doc = "Whether one can be tried by itself (POST /workflows/steps/{type}/test)"),
    FIELD(struct step_type, timeout_ms, F_I64, .flags = F_OUTPUT | F_NULLABLE, .min = 1, .max = INT64_MAX,
          .doc = "Time of one attempt when the step says nothing, in milliseconds"),
    FIELD(struct step_type, with, F_JSON, .flags = F_OUTPUT, .doc = "JSON Schema (2020-12) of its `with`"),
};
static const struct table step_type_table = TABLE("StepType", struct step_type, fields, .doc = "A type of step");

/* Made at start, constant afterwards. */
static const struct step_type *rows;
static u32 row_count;

/* -- schemas ------------------------------------------------------------------------------------------------------- */

struct defs {
    struct arena *arena;
    struct map tables; /* name → struct def, in the order of their first use */
    err fail;
};
struct def {
    const struct table *table;
    enum field_schema how;
};

static void add_def(void *ctx, const struct table *t, enum field_schema how)
{
    struct defs *d = ctx;
    str name = field_schema_name(d->arena, t, how);
    if (name.p != NULL && map_get(&d->tables, name) != NULL)
        return;
    struct def *one = NEW(d->arena, struct def);
    if (name.p == NULL || one == NULL || map_put(&d->tables, name, one) != OK) {
        d->fail = ERR_MEMORY;
        return;
    }
    *one = (struct def){ t, how };
}

/* Further tables come to the end of the map while it is walked. */
static err schema_of(struct arena *a, const struct table *t, str *out)
{
    struct defs d = { .arena = a, .tables = { .arena = a } };
    struct field_visit visit = { add_def, &d, "#/$defs/" };
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    struct map_entry *e;
    add_def(&d, t, FIELD_SCHEMA_IN);
    str root = field_schema_name(a, t, FIELD_SCHEMA_IN);
    buf_f(&b, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"$ref\":\"#/$defs/%.*s\",\"$defs\":",
          STR_FMT(root));
    jw_begin(&w, '{');
    for (u32 i = 0; (e = map_next(&d.tables, &i)) != NULL;) {
        const struct def *one = e->value;
        jw_key(&w, e->key);
        field_schema(&w, one->table, one->how, &visit);
    }
    jw_end(&w, '}');
    buf_char(&b, '}');
    *out = buf_view(&b);
    return d.fail != OK ? d.fail : b.fail;
}

/* -- rows ---------------------------------------------------------------------------------------------------------- */

static err row_of(struct arena *a, const struct step_kind *k, struct step_type *out)
{
    *out = (struct step_type){ .type = str_of(k->type),
                               .doc = str_of(k->doc),
                               .output = str_of(k->output_doc),
                               .outside = k->outside,
                               .testable = !k->untestable,
                               .timeout_ms = k->timeout_us / 1000 };
    TRY(schema_of(a, k->with, &out->with));
    SET(step_type_table, out, type);
    SET(step_type_table, out, doc);
    SET(step_type_table, out, output);
    SET(step_type_table, out, outside);
    SET(step_type_table, out, testable);
    SET(step_type_table, out, with);
    if (out->timeout_ms > 0)
        SET(step_type_table, out, timeout_ms);
    return OK;
}

static err start(void)
{
    u32 n = 0;
    while (step_kinds[n] != NULL)
        n++;
    struct step_type *made = NEW_N(app.arena, struct step_type, n);
    if (made == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < n; i++)
        TRY(row_of(app.arena, step_kinds[i], &made[i]));
    rows = made;
    row_count = n;
    return OK;
}

static err step_type_list(struct req *rq)
{
    const struct page all = { .limit = row_count };
    return reply_list(rq, &step_type_table, rows, row_count, &all, LIST_BY_SKIP, -1, 0);
}

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/step-types", step_type_list, W_READ), .need = &signed_in, .flags = R_LIST | R_NO_STORE,
      .out = &step_type_table, .doc = "List the types of steps",
      .more = "All of them, in the order in which an editor shows them; `with` says what each is given." },
};

const struct module step_types_module = {
    .name = "step-types",
    .doc = "What steps there are, and what each is given",
    .routes = routes,
    .route_count = COUNT(routes),
    .start = start,
};
