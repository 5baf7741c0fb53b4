/* respond.c - the answer for a webhook that waits: status, headers and body. It leaves with the final commit, not before. */
#include "engine/steps/kinds.h"
#include "net/http.h"

static const struct field header_field =
    SHAPE_FIELD("header", F_STR, .flags = F_EXPR, .max = 4096, .doc = "A header's value");

static const struct field fields[] = {
    SHAPE_FIELD("status", F_I64, .flags = F_EXPR, .min = 200, .max = 599, .preset = "200", .doc = "HTTP status"),
    SHAPE_FIELD("headers", F_MAP, .flags = F_EXPR, .each = &header_field, .max = 24, .doc = "Header names and values"),
    SHAPE_FIELD("body", F_JSON, .flags = F_EXPR | F_NULLABLE,
                .doc = "JSON value, or text when a content-type header says so"),
};
const struct table kind_respond_with = SHAPE("RespondWith", fields, .doc = "An answer");

static void respond_start(struct step_attempt *s)
{
    static const struct json no_headers = { .type = JSON_OBJECT };
    const struct json *status = json_get(s->with, S("status"));
    const struct json *headers = json_get(s->with, S("headers"));
    const struct json *body = json_get(s->with, S("body"));
    for (u32 i = 0; headers != NULL && i < headers->n; i++)
        if (!http_field_ok(headers->members[i].key, json_str(&headers->members[i].value))) {
            step_fail(s, "step.input", false, "/headers: a name or value that no header can have");
            return;
        }
    struct json out = { .type = JSON_OBJECT };
    i64 code = status == NULL ? 200 : status->type == JSON_REAL ? (i64)status->real : status->integer;
    if (!json_set(s->arena, &out, S("status"), json_of_i64(code)) ||
        !json_set(s->arena, &out, S("headers"), headers != NULL ? *headers : no_headers) ||
        !json_set(s->arena, &out, S("body"), body != NULL ? *body : json_null)) {
        step_starved(s);
        return;
    }
    step_complete(s, out);
}

const struct step_kind kind_respond = {
    .type = "respond",
    .doc = "Answers the webhook that started the execution",
    .with = &kind_respond_with,
    .outermost = true,
    .output_doc = "{status, headers, body}: the answer",
    .start = respond_start,
};
