/* plan.c - from a shaped definition to a plan. Every problem is collected; only a definition without any becomes a plan. */
#include "engine/plan.h"
#include "engine/definition.h"

#include <string.h>

enum { PLAN_ARENA_BYTES = 64 * MIB };

static const i64 default_execution_us = 3600 * SECOND_US;

/* At work on one block. */
struct planner {
    struct arena *arena;
    struct plan *plan;
    struct block *block;
    const struct plan_step *outer; /* the foreach whose block it is */
    const struct json *definition, *steps;
    str pointer;
    struct problems *problems;
    bool alone; /* see plan_compile_alone */
};

static str at(struct planner *pl, str base, const char *key)
{
    return json_pointer_key(pl->arena, base, str_of(key));
}

/* Steps wait for steps of their own block only. */
static struct plan_step *step_named(struct planner *pl, str id)
{
    struct plan_step *s = map_get(&pl->plan->by_id, id);
    return s != NULL && s->outer == pl->outer ? s : NULL;
}

/* Adds a problem; only running out of memory stops the search for further ones. */
static err complain(struct planner *pl, str pointer, const char *code, const char *text, str what)
{
    err e = problems_add(pl->problems, pointer, code, text, STR_FMT(what));
    return e == ERR_INVALID ? OK : e;
}

static i64 number_of(const struct json *object, const char *key, i64 otherwise)
{
    const struct json *j = json_get(object, str_of(key));
    if (j == NULL) /* what is there was checked by the table; JSON may have written it as 3.0 */
        return otherwise;
    return j->type == JSON_REAL ? (i64)j->real : j->integer;
}

static bool word_is(const struct json *object, const char *key, const char *word)
{
    return str_eq(json_str(json_get(object, str_of(key))), str_of(word));
}

static bool flag_of(const struct json *object, const char *key)
{
    const struct json *j = json_get(object, str_of(key));
    return j != NULL && j->type == JSON_BOOL && j->boolean;
}

static void read_policies(struct plan_step *s, const struct json *source)
{
    const struct json *retry = json_get(source, S("retry"));
    s->retry = (struct retry_policy){
        .max_attempts = (u32)number_of(retry, "max_attempts", 1),
        .exponential = !word_is(retry, "backoff", "fixed"),
        .initial_us = number_of(retry, "initial_ms", 1000) * 1000,
        .max_us = number_of(retry, "max_ms", 300000) * 1000,
    };
    s->timeout_us = number_of(source, "timeout_ms", s->kind->timeout_us / 1000) * 1000;
    s->continue_on_error = word_is(source, "on_error", "continue");
    s->at_most_once = flag_of(source, "at_most_once");
    s->join = word_is(source, "join", "any") ? JOIN_ANY : word_is(source, "join", "always") ? JOIN_ALWAYS : JOIN_ALL;
}

/* `with` without the members that are compiled by rules of their own. Members are copied as they are: a definition may hold very many. */
static const struct json *without_special(struct planner *pl, struct plan_step *s, const struct json *with)
{
    struct json *rest = NEW(pl->arena, struct json);
    struct json_member *members = NEW_N(pl->arena, struct json_member, with->n);
    if (rest == NULL || members == NULL)
        return NULL;
    *rest = (struct json){ .type = JSON_OBJECT, .members = members };
    for (u32 i = 0; i < with->n; i++)
        if (str_eq(with->members[i].key, str_of(s->kind->special)))
            s->special_source = &with->members[i].value;
        else if (!str_eq(with->members[i].key, str_of(s->kind->nested)))
            members[rest->n++] = with->members[i];
    return rest;
}

static err compile_with(struct planner *pl, struct plan_step *s, const struct json *with, str pointer)
{
    if (s->kind->special != NULL || s->kind->nested != NULL)
        with = without_special(pl, s, with);
    if (with == NULL)
        return ERR_MEMORY;
    err e = expr_compile(pl->arena, EXPR_VALUE, with, pointer, pl->problems, &s->with);
    if (e != OK && e != ERR_INVALID)
        return e;
    if (s->special_source == NULL)
        return OK;
    e = expr_compile(pl->arena, s->kind->special_use, s->special_source, at(pl, pointer, s->kind->special),
                     pl->problems, &s->special);
    return e == ERR_INVALID ? OK : e;
}

static const struct json no_members = { .type = JSON_OBJECT };

static err read_body(struct planner *outside, struct plan_step *foreach, const struct json *definition, str pointer);

static err name_step(struct planner *pl, struct plan_step *s, str pointer)
{
    if (pl->outer != NULL && str_eq(s->id, S(ITERATION_ERROR)))
        return complain(pl, pointer, "definition.reserved_step",
                        "A step of a foreach cannot be called '%.*s': that is what a failed iteration gives", s->id);
    if (map_get(&pl->plan->by_id, s->id) != NULL)
        return complain(pl, pointer, "definition.duplicate_step", "Another step is already called '%.*s'", s->id);
    return map_put(&pl->plan->by_id, s->id, s);
}

/* What a step may be where it stands. */
static err check_place(struct planner *pl, const struct plan_step *s, const struct json *source, str pointer)
{
    if (pl->outer != NULL && s->kind->outermost)
        return complain(pl, at(pl, pointer, "type"), "definition.outermost",
                        "The step '%.*s' cannot stand inside of a foreach", s->id);
    if (s->kind->nested != NULL && json_get(source, S("retry")) != NULL)
        return complain(pl, at(pl, pointer, "retry"), "definition.no_retry",
                        "The steps of '%.*s' are tried again by their own `retry`, not all iterations", s->id);
    return OK;
}

static err read_step(struct planner *pl, u32 i)
{
    const struct json *source = &pl->steps->items[i];
    str pointer = json_pointer_index(pl->arena, at(pl, pl->pointer, "steps"), i);
    struct plan_step *s = &pl->block->steps[i];
    s->index = i;
    s->outer = pl->outer;
    s->id = json_str(json_get(source, S("id")));
    s->kind = step_kind_by(json_str(json_get(source, S("type"))));
    if (s->kind == NULL)
        return complain(pl, at(pl, pointer, "type"), "field.one_of", "There is no step type of this name", s->id);
    TRY(name_step(pl, s, at(pl, pointer, "id")));
    TRY(check_place(pl, s, source, pointer));
    read_policies(s, source);
    pl->plan->spawns |= s->kind->spawns;

    const struct json *with = json_get(source, S("with"));
    str with_pointer = at(pl, pointer, "with");
    if (with == NULL) { /* the table of the definition checks `with` where it stands; a missing one is an empty one */
        with = &no_members;
        err e = field_decode(pl->arena, s->kind->with, FIELD_CREATE, with, with_pointer, NULL, pl->problems);
        if (e != OK && e != ERR_INVALID)
            return e;
    }
    TRY(compile_with(pl, s, with, with_pointer));
    const struct json *nested = s->kind->nested != NULL ? json_get(with, str_of(s->kind->nested)) : NULL;
    return nested != NULL ? read_body(pl, s, nested, at(pl, with_pointer, s->kind->nested)) : OK;
}

static err link_need(struct planner *pl, struct plan_step *s, str need, str pointer)
{
    struct plan_step *other = step_named(pl, need);
    if (other == NULL)
        return complain(pl, pointer, "definition.unknown_step", "There is no step called '%.*s'", need);
    if (other == s)
        return complain(pl, pointer, "definition.cycle", "The step '%.*s' waits for itself", need);
    s->needs[s->need_count++] = other->index;
    other->feed_count++;
    return OK;
}

static err link_needs(struct planner *pl, struct plan_step *s, const struct json *needs, str pointer)
{
    s->needs = NEW_N(pl->arena, u32, needs->n);
    if (s->needs == NULL)
        return ERR_MEMORY;
    for (u32 k = 0; k < needs->n; k++)
        TRY(link_need(pl, s, json_str(&needs->items[k]), json_pointer_index(pl->arena, pointer, k)));
    return OK;
}

static err compile_condition(struct planner *pl, struct plan_step *s, const struct json *condition, str pointer)
{
    err e = expr_compile(pl->arena, EXPR_CONDITION, condition, pointer, pl->problems, &s->condition);
    return e == ERR_INVALID ? OK : e;
}

/* What the definition says of its steps by their ids, under one of its members. */
static err read_entries(struct planner *pl, const char *member,
                        err (*read)(struct planner *pl, struct plan_step *s, const struct json *entry, str pointer))
{
    const struct json *all = json_get(pl->definition, str_of(member));
    str base = at(pl, pl->pointer, member);
    for (u32 i = 0; all != NULL && i < all->n; i++) {
        const struct json_member *m = &all->members[i];
        str pointer = json_pointer_key(pl->arena, base, m->key);
        struct plan_step *s = step_named(pl, m->key);
        TRY(s != NULL ? read(pl, s, &m->value, pointer)
                      : complain(pl, pointer, "definition.unknown_step", "There is no step called '%.*s'", m->key));
    }
    return OK;
}

static bool waits_for(const struct plan_step *s, const struct plan_step *need)
{
    for (u32 i = 0; i < s->need_count; i++)
        if (s->needs[i] == need->index)
            return true;
    return false;
}

/* Switches are read in definition order, so the gates of one of them stand together. */
static err add_gate(struct planner *pl, const struct plan_step *by, str name, str id, str pointer)
{
    struct plan_step *s = step_named(pl, id);
    if (s == NULL)
        return complain(pl, pointer, "definition.unknown_step", "There is no step called '%.*s'", id);
    if (!waits_for(s, by))
        return complain(pl, pointer, "definition.not_dependent", "The step '%.*s' does not depend on this one", id);
    size_t size = sizeof *s->gates;
    struct plan_gate *gates = arena_grow(pl->arena, s->gates, s->gate_count * size, (s->gate_count + 1) * size);
    if (gates == NULL)
        return ERR_MEMORY;
    gates[s->gate_count++] = (struct plan_gate){ by->index, name };
    s->gates = gates;
    return OK;
}

static err read_case(struct planner *pl, const struct plan_step *by, str name, const struct json *ids, str pointer)
{
    for (u32 i = 0; ids != NULL && i < ids->n; i++)
        TRY(add_gate(pl, by, name, json_str(&ids->items[i]), json_pointer_index(pl->arena, pointer, i)));
    return OK;
}

/* What a step that branches names; after the dependencies are known. */
static err read_branches(struct planner *pl, const struct plan_step *by)
{
    const struct json *with = json_get(&pl->steps->items[by->index], S("with"));
    const struct json *cases = json_get(with, S("cases"));
    str pointer = json_pointer_index(pl->arena, at(pl, pl->pointer, "steps"), by->index);
    pointer = at(pl, pointer, "with");
    str base = at(pl, pointer, "cases");
    for (u32 i = 0; cases != NULL && i < cases->n; i++) {
        const struct json_member *m = &cases->members[i];
        TRY(read_case(pl, by, m->key, &m->value, json_pointer_key(pl->arena, base, m->key)));
    }
    return read_case(pl, by, S(STEP_CASE_DEFAULT), json_get(with, S("default")), at(pl, pointer, "default"));
}

static err link_feeds(struct arena *a, struct block *b)
{
    for (u32 i = 0; i < b->count; i++) {
        struct plan_step *s = &b->steps[i];
        s->feeds = NEW_N(a, u32, s->feed_count);
        if (s->feeds == NULL)
            return ERR_MEMORY;
        s->feed_count = 0;
    }
    for (u32 i = 0; i < b->count; i++)
        for (u32 k = 0; k < b->steps[i].need_count; k++) {
            struct plan_step *need = &b->steps[b->steps[i].needs[k]];
            need->feeds[need->feed_count++] = i;
        }
    return OK;
}

/* Kahn's algorithm; *placed tells how many steps are free of cycles. `order` is filled with them. */
static err sort_steps(struct arena *a, struct block *b, u32 *placed)
{
    u32 *open = NEW_N(a, u32, b->count);
    b->order = NEW_N(a, u32, b->count);
    if (open == NULL || b->order == NULL)
        return ERR_MEMORY;
    u32 n = 0;
    for (u32 i = 0; i < b->count; i++)
        if ((open[i] = b->steps[i].need_count) == 0)
            b->order[n++] = i;
    for (u32 done = 0; done < n; done++) {
        const struct plan_step *s = &b->steps[b->order[done]];
        for (u32 k = 0; k < s->feed_count; k++)
            if (--open[s->feeds[k]] == 0)
                b->order[n++] = s->feeds[k];
    }
    *placed = n;
    return OK;
}

/* Names one cycle, by walking needs inside of what could not be placed until a step comes again. */
static err complain_cycle(struct planner *pl, u32 placed)
{
    const struct block *p = pl->block;
    bool *free_of = NEW_N(pl->arena, bool, p->count);
    bool *seen = NEW_N(pl->arena, bool, p->count);
    if (free_of == NULL || seen == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < placed; i++)
        free_of[p->order[i]] = true;
    u32 at_step = 0;
    while (free_of[at_step])
        at_step++;
    while (!seen[at_step]) {
        seen[at_step] = true;
        const struct plan_step *s = &p->steps[at_step];
        u32 k = 0;
        while (free_of[s->needs[k]])
            k++;
        at_step = s->needs[k];
    }
    struct buf path = { .arena = pl->arena, .max = 512 };
    u32 i = at_step;
    do {
        const struct plan_step *s = &p->steps[i];
        buf_str(&path, s->id);
        BUF_LIT(&path, " waits for ");
        u32 k = 0;
        while (free_of[s->needs[k]] || !seen[s->needs[k]])
            k++;
        i = s->needs[k];
    } while (i != at_step && path.fail == OK);
    buf_str(&path, p->steps[at_step].id);
    str pointer = json_pointer_key(pl->arena, at(pl, pl->pointer, "dependencies"), p->steps[at_step].id);
    return complain(pl, pointer, "definition.cycle", "A cycle: %.*s", buf_view(&path));
}

static void read_settings(struct plan *p, const struct json *definition)
{
    const struct json *settings = json_get(definition, S("settings"));
    p->timeout_us = number_of(settings, "timeout_ms", default_execution_us / 1000) * 1000;
    p->save = word_is(settings, "save", "errors") ? SAVE_ERRORS
              : word_is(settings, "save", "none") ? SAVE_NONE
                                                  : SAVE_ALL;
    p->on_failure = json_str(json_get(settings, S("on_failure")));
    p->error_retention_us = number_of(settings, "error_retention_days", 0) * DAY_US;
}

/* The steps of one block, and of those inside of it, without their order: that cannot be told while there are problems. */
static err read_block(struct planner *pl)
{
    struct block *b = pl->block;
    pl->steps = json_get(pl->definition, S("steps"));
    b->count = pl->steps->n;
    b->steps = NEW_N(pl->arena, struct plan_step, b->count);
    if (b->steps == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < b->count; i++)
        TRY(read_step(pl, i));
    TRY(read_entries(pl, "dependencies", link_needs));
    TRY(read_entries(pl, "conditions", compile_condition));
    for (u32 i = 0; i < b->count; i++)
        if (b->steps[i].kind != NULL && b->steps[i].kind->branches && !pl->alone)
            TRY(read_branches(pl, &b->steps[i]));
    if (pl->problems->n > 0)
        return OK;
    TRY(link_feeds(pl->arena, b));
    u32 placed = 0;
    TRY(sort_steps(pl->arena, b, &placed));
    return placed < b->count ? complain_cycle(pl, placed) : OK;
}

static u32 depth_of_step(const struct plan_step *s)
{
    u32 depth = 0;
    for (; s != NULL; s = s->outer)
        depth++;
    return depth;
}

static err read_body(struct planner *outside, struct plan_step *foreach, const struct json *definition, str pointer)
{
    if (depth_of_step(foreach) > FOREACH_DEPTH_MAX)
        return complain(outside, pointer, "definition.too_deep", "The step '%.*s' is the fifth foreach in another",
                        foreach->id);
    foreach->body = NEW(outside->arena, struct block);
    if (foreach->body == NULL)
        return ERR_MEMORY;
    struct planner pl = *outside;
    pl.block = foreach->body;
    pl.outer = foreach;
    pl.definition = definition;
    pl.pointer = pointer;
    return read_block(&pl);
}

static err read_concurrency(struct planner *pl)
{
    const struct json *source = json_get(json_get(pl->definition, S("settings")), S("concurrency"));
    const struct json *key = json_get(source, S("key"));
    struct plan_concurrency *c = &pl->plan->concurrency;
    c->limit = number_of(source, "limit", 0);
    c->policy = word_is(source, "policy", "reject")    ? SLOT_REJECT
                : word_is(source, "policy", "replace") ? SLOT_REPLACE
                                                       : SLOT_QUEUE;
    if (key == NULL)
        return OK;
    str pointer = at(pl, at(pl, at(pl, pl->pointer, "settings"), "concurrency"), "key");
    err e = expr_compile(pl->arena, EXPR_VALUE, key, pointer, pl->problems, &c->key);
    return e == ERR_INVALID ? OK : e;
}

static err plan_read(struct planner *pl)
{
    TRY(read_block(pl));
    if (pl->plan->by_id.count > DEFINITION_STEPS_MAX)
        TRY(complain(pl, at(pl, pl->pointer, "steps"), "field.count", "More than 1,000 steps in all%.*s", S("")));
    TRY(read_concurrency(pl));
    if (pl->problems->n > 0)
        return ERR_INVALID;
    read_settings(pl->plan, pl->definition);
    return OK;
}

static err compile(const struct json *definition, str pointer, bool alone, struct problems *problems, struct plan **out)
{
    struct arena *a = arena_new(PLAN_ARENA_BYTES);
    struct plan *p = a != NULL ? NEW(a, struct plan) : NULL;
    const struct json *copy = p != NULL ? json_copy(a, definition) : NULL;
    if (copy == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    p->arena = a;
    p->by_id.arena = a;
    p->users = 1;
    struct planner pl = { .arena = a,
                          .plan = p,
                          .block = &p->root,
                          .definition = copy,
                          .pointer = pointer,
                          .problems = problems,
                          .alone = alone };
    /* Pointers of problems must outlive the plan's arena when it fails, so they are copied to the problems' own. */
    u32 before = problems->n;
    err e = plan_read(&pl);
    for (u32 i = before; i < problems->n; i++)
        problems->list[i].pointer = str_dup(problems->arena, problems->list[i].pointer);
    if (e != OK) {
        arena_free(a);
        return e;
    }
    *out = p;
    return OK;
}

err plan_compile(const struct json *definition, str pointer, struct problems *problems, struct plan **out)
{
    return compile(definition, pointer, false, problems, out);
}

err plan_compile_alone(const struct json *step, struct problems *problems, struct plan **out)
{
    struct json items[] = { *step };
    struct json steps = { .type = JSON_ARRAY, .n = 1, .items = items };
    struct json_member members[] = { { S("steps"), steps } };
    return compile(&(struct json){ .type = JSON_OBJECT, .n = 1, .members = members }, S(""), true, problems, out);
}

str plan_levels(struct arena *a, const struct plan *p)
{
    const struct block *root = &p->root;
    u32 *level = NEW_N(a, u32, root->count);
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    if (level == NULL)
        return STR_NONE;
    u32 deepest = 0;
    for (u32 i = 0; i < root->count; i++) {
        const struct plan_step *s = &root->steps[root->order[i]];
        for (u32 k = 0; k < s->need_count; k++)
            level[s->index] = MAX(level[s->index], level[s->needs[k]] + 1);
        deepest = MAX(deepest, level[s->index]);
    }
    jw_begin(&w, '[');
    for (u32 l = 0; l <= deepest; l++) {
        jw_begin(&w, '[');
        for (u32 i = 0; i < root->count; i++)
            if (level[i] == l)
                jw_str(&w, root->steps[i].id);
        jw_end(&w, ']');
    }
    jw_end(&w, ']');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

struct plan *plan_keep(struct plan *p)
{
    atomic_fetch_add(&p->users, 1);
    return p;
}

void plan_release(struct plan *p)
{
    if (p != NULL && atomic_fetch_sub(&p->users, 1) == 1)
        arena_free(p->arena);
}
