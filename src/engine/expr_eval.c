/* expr_eval.c - evaluation: walks the compiled tree, takes paths by reference, and asks the machine for the rest.
 *
 * A path is resolved here only when it goes right. Whatever is odd about it (a step into nothing, a text, `steps` itself) is left to
 * Lua, so that both ways mean the same by construction. */
#include "engine/expr_internal.h"
#include "codec/url.h"

struct run {
    struct machine *m;
    const struct expr_scope *scope;
    struct arena *arena;
    struct expr_error *error;
    bool begun; /* the machine has */
};

const struct json *expr_root_node(const struct expr_scope *scope, enum expr_root root)
{
    const struct json *const nodes[ROOT_COUNT] = {
        [ROOT_INPUT] = scope->input,       [ROOT_TRIGGER] = scope->trigger, [ROOT_EXECUTION] = scope->execution,
        [ROOT_WORKFLOW] = scope->workflow, [ROOT_ITEM] = scope->item,       [ROOT_VARS] = scope->vars,
        [ROOT_ARGS] = scope->args,
    };
    return nodes[root];
}

/* ---- paths */

/* One link from a container. NULL: nothing there. */
static const struct json *follow(const struct json *j, const struct expr_link *link)
{
    if (j->type == JSON_OBJECT)
        return link->key.p != NULL ? json_get(j, link->key) : NULL;
    bool inside = link->key.p == NULL && link->index >= 1 && link->index <= (i64)j->n;
    return inside ? &j->items[link->index - 1] : NULL;
}

/* The node that the first links name, and how many they are; 0 links: Lua must decide. */
static u32 path_root(const struct expr_scope *scope, const struct expr_code *code, const struct json **out)
{
    enum expr_root root = (enum expr_root)code->path[0].index;
    if (root != ROOT_STEPS) {
        *out = expr_root_node(scope, root);
        return 1;
    }
    if (code->links < 2 || code->path[1].key.p == NULL)
        return 0;
    *out = scope->step != NULL ? scope->step(scope->ctx, code->path[1].key) : NULL;
    return 2;
}

static bool path_resolve(const struct expr_scope *scope, const struct expr_code *code, struct json *out)
{
    const struct json *j = NULL;
    u32 i = path_root(scope, code, &j);
    if (i == 0)
        return false;
    for (; i < code->links; i++) {
        if (j == NULL || (j->type != JSON_OBJECT && j->type != JSON_ARRAY))
            return false;
        j = follow(j, &code->path[i]);
    }
    *out = j != NULL ? *j : json_null;
    return true;
}

/* ---- the tree */

static err eval_code(struct run *r, const struct expr_code *code, bool truth, struct json *out)
{
    if (code->path != NULL && !r->m->only_lua && path_resolve(r->scope, code, out)) {
        if (truth)
            *out = json_of_bool(expr_truth(out));
        return OK;
    }
    if (!r->begun)
        TRY(machine_begin(r->m, r->scope, r->arena));
    r->begun = true;
    return machine_run(r->m, code, truth, out, r->error);
}

static err too_large(struct run *r)
{
    *r->error = (struct expr_error){ "expr.too_large", S("the result has more than 4 MiB") };
    return ERR_INVALID;
}

/* What stands in a text for a value. */
static void put_value(struct buf *b, const struct json *j)
{
    if (j->type == JSON_STR)
        buf_str(b, json_str(j));
    else if (j->type != JSON_NULL)
        json_write(b, j);
}

static err put_encoded(struct run *r, struct buf *b, const struct json *j)
{
    struct buf plain = { .arena = r->arena, .max = EXPR_VALUE_BYTES };
    put_value(&plain, j);
    if (plain.fail == OK)
        url_put_encoded(b, buf_view(&plain));
    return plain.fail;
}

static err eval_part(struct run *r, const struct expr_part *part, struct buf *b)
{
    if (part->code == NULL) {
        buf_str(b, part->literal);
        return b->fail;
    }
    struct json value;
    TRY(eval_code(r, part->code, false, &value));
    if (part->encode)
        TRY(put_encoded(r, b, &value));
    else
        put_value(b, &value);
    return b->fail;
}

static err eval_text(struct run *r, const struct expr *e, struct json *out)
{
    struct buf b = { .arena = r->arena, .max = EXPR_VALUE_BYTES };
    for (u32 i = 0; i < e->part_count; i++) {
        err failed = eval_part(r, &e->parts[i], &b);
        if (failed == ERR_TOO_LARGE)
            return too_large(r);
        TRY(failed);
    }
    str text = buf_view(&b);
    *out = json_of_str(text.p != NULL ? text : S(""));
    return OK;
}

static err eval_node(struct run *r, const struct expr *e, struct json *out);

static err eval_array(struct run *r, const struct expr *e, struct json *out)
{
    struct json *items = NEW_N(r->arena, struct json, e->value->n);
    if (items == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < e->value->n; i++)
        TRY(eval_node(r, &e->children[i], &items[i]));
    *out = (struct json){ .type = JSON_ARRAY, .n = e->value->n, .items = items };
    return OK;
}

static err eval_object(struct run *r, const struct expr *e, struct json *out)
{
    struct json_member *members = NEW_N(r->arena, struct json_member, e->value->n);
    if (members == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < e->value->n; i++) {
        members[i].key = e->value->members[i].key;
        TRY(eval_node(r, &e->children[i], &members[i].value));
    }
    *out = (struct json){ .type = JSON_OBJECT, .n = e->value->n, .members = members };
    return OK;
}

static err eval_node(struct run *r, const struct expr *e, struct json *out)
{
    switch (e->kind) {
    case EXPR_IS_CONSTANT:
        *out = *e->value;
        return OK;
    case EXPR_IS_CODE:
        return eval_code(r, e->code, e->truth, out);
    case EXPR_IS_TEXT:
        return eval_text(r, e, out);
    case EXPR_IS_ARRAY:
        return eval_array(r, e, out);
    case EXPR_IS_OBJECT:
        return eval_object(r, e, out);
    }
    return ERR_INTERNAL;
}

err expr_eval(struct machine *m, const struct expr *e, const struct expr_scope *scope, struct arena *a,
              struct json *result, struct expr_error *error)
{
    struct run r = { .m = m, .scope = scope, .arena = a, .error = error };
    struct json value = json_null;
    err failed = eval_node(&r, e, &value);
    if (r.begun)
        machine_end(m);
    TRY(failed);
    bool composed = e->kind != EXPR_IS_CONSTANT && (e->kind != EXPR_IS_CODE || r.begun);
    if (composed && !expr_fits(&value, EXPR_VALUE_BYTES)) /* a node that is passed on was measured when it came in */
        return too_large(&r);
    *result = value;
    return OK;
}

bool expr_truth(const struct json *j)
{
    return j->type != JSON_NULL && !(j->type == JSON_BOOL && !j->boolean);
}
