/* limits.c - the ceilings that a client can meet, from the constants that enforce them. */
#include "feat/limits/limits.h"
#include "core/req.h"
#include "engine/definition.h"
#include "engine/expr.h"
#include "feat/triggers/triggers.h"

struct limits {
    struct presence has;
    i64 steps, definition_bytes, value_bytes, value_nesting, execution_bytes, expression_bytes, expression_instructions;
    i64 foreach_items, foreach_concurrency, foreach_nesting, execution_steps, execution_depth, concurrency;
    i64 expression_memory_bytes, expression_ms, json_nesting, request_body_bytes, webhook_body_bytes, triggers;
};
#define LIMIT(member, doc_) \
    FIELD(struct limits, member, F_I64, .flags = F_OUTPUT, .min = 1, .max = INT64_MAX, .doc = doc_)
static const struct field fields[] = {
    LIMIT(steps, "Steps of a definition"),
    LIMIT(foreach_items, "Items of a foreach"),
    LIMIT(foreach_concurrency, "Iterations of a foreach that run at the same time"),
    LIMIT(foreach_nesting, "Foreach steps inside of each other"),
    LIMIT(execution_steps, "Steps of one execution, those of each iteration counted"),
    LIMIT(concurrency, "Highest concurrency limit of a workflow"),
    LIMIT(definition_bytes, "Bytes of a definition as JSON"),
    LIMIT(value_bytes,
          "Bytes of a value as JSON: the result of an expression, the output of a step, the answer to an http step"),
    LIMIT(value_nesting, "Levels of a step's input and output"),
    LIMIT(execution_bytes, "Memory of one execution while it runs"),
    LIMIT(execution_depth, "Executions above one that a workflow step started"),
    LIMIT(expression_bytes, "Bytes of one expression or script"),
    LIMIT(expression_instructions, "Instructions of one evaluation; the work of helpers counts too"),
    LIMIT(expression_memory_bytes, "Memory of one evaluation"),
    LIMIT(expression_ms, "Processor time of one evaluation in milliseconds"),
    LIMIT(json_nesting, "Levels of any JSON that is sent"),
    LIMIT(request_body_bytes, "Bytes of a request's body, where the operation says nothing else"),
    LIMIT(webhook_body_bytes, "Bytes of a call's body, as far as its trigger allows"),
    LIMIT(triggers, "Triggers of a workflow"),
};
static const struct table limits_table =
    TABLE("Limits", struct limits, fields, .doc = "Ceilings; what passes one is refused");

static const struct limits published = {
    .steps = DEFINITION_STEPS_MAX,
    .foreach_items = FOREACH_ITEMS_MAX,
    .foreach_concurrency = FOREACH_CONCURRENCY_MAX,
    .foreach_nesting = FOREACH_DEPTH_MAX,
    .execution_steps = EXECUTION_STEPS_MAX,
    .concurrency = CONCURRENCY_MAX,
    .definition_bytes = DEFINITION_BYTES_MAX,
    .value_bytes = EXPR_VALUE_BYTES,
    .value_nesting = VALUE_DEPTH_MAX,
    .execution_bytes = EXECUTION_BYTES_MAX,
    .execution_depth = EXECUTION_DEPTH_MAX,
    .expression_bytes = EXPR_CODE_BYTES,
    .expression_instructions = EXPR_INSTRUCTIONS,
    .expression_memory_bytes = EXPR_MEMORY_BYTES,
    .expression_ms = EXPR_CPU_US / 1000,
    .json_nesting = JSON_MAX_DEPTH,
    .request_body_bytes = ROUTE_BODY_MAX,
    .webhook_body_bytes = TRIGGER_BODY_MAX,
    .triggers = TRIGGERS_MAX,
};

static err limits_show(struct req *rq)
{
    struct limits *out = NEW(rq->arena, struct limits);
    if (out == NULL)
        return ERR_MEMORY;
    *out = published;
    field_set_all(&limits_table, out);
    return reply(rq, 200, &limits_table, out);
}

static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/limits", limits_show, W_READ), .need = &signed_in, .flags = R_NO_STORE, .out = &limits_table,
      .doc = "Show the limits of this server" },
};

const struct module limits_module = {
    .name = "limits",
    .doc = "How much of what",
    .routes = routes,
    .route_count = COUNT(routes),
};
