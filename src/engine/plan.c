/* plan.c - from a shaped definition to a plan. Every problem is collected; only a definition without any becomes a plan. */
#include "engine/plan.h"
#include "engine/definition.h"

#include <string.h>

enum { PLAN_ARENA_BYTES = 64 * MIB };

static const i64 default_execution_us = 3600 * SECOND_US;

struct planner {
    struct arena *arena;
    struct plan *plan;
    const struct json *definition;
    const struct json *steps;
    str pointer;
    struct problems *problems;
};

static str at(struct planner *pl, str base, const char *key)
{
    return json_pointer_key(pl->arena, base, str_of(key));
}

static struct plan_step *step_named(struct planner *pl, str id)
{
    return map_get(&pl->plan->by_id, id);
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

/* `with` without its special member, which is compiled by rules of its own. Members are copied as they are: a definition may hold very many. */
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
        else
            members[rest->n++] = with->members[i];
    return rest;
}

static err compile_with(struct planner *pl, struct plan_step *s, const struct json *with, str pointer)
{
    if (s->kind->special != NULL)
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

static err read_step(struct planner *pl, u32 i)
{
    const struct json *source = &pl->steps->items[i];
    str pointer = json_pointer_index(pl->arena, at(pl, pl->pointer, "steps"), i);
    struct plan_step *s = &pl->plan->steps[i];
    s->index = i;
    s->id = json_str(json_get(source, S("id")));
    s->kind = step_kind_by(json_str(json_get(source, S("type"))));
    if (s->kind == NULL)
        return complain(pl, at(pl, pointer, "type"), "field.one_of", "There is no step type of this name", s->id);
    if (step_named(pl, s->id) != NULL)
        TRY(complain(pl, at(pl, pointer, "id"), "definition.duplicate_step", "Another step is already called '%.*s'",
                     s->id));
    else
        TRY(map_put(&pl->plan->by_id, s->id, s));
    read_policies(s, source);

    const struct json *with = json_get(source, S("with"));
    str with_pointer = at(pl, pointer, "with");
    if (with == NULL) { /* the table of the definition checks `with` where it stands; a missing one is an empty one */
        with = &no_members;
        err e = field_decode(pl->arena, s->kind->with, FIELD_CREATE, with, with_pointer, NULL, pl->problems);
        if (e != OK && e != ERR_INVALID)
            return e;
    }
    return compile_with(pl, s, with, with_pointer);
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

static err read_dependencies(struct planner *pl)
{
    const struct json *all = json_get(pl->definition, S("dependencies"));
    str base = at(pl, pl->pointer, "dependencies");
    for (u32 i = 0; all != NULL && i < all->n; i++) {
        const struct json_member *m = &all->members[i];
        str pointer = json_pointer_key(pl->arena, base, m->key);
        struct plan_step *s = step_named(pl, m->key);
        if (s == NULL) {
            TRY(complain(pl, pointer, "definition.unknown_step", "There is no step called '%.*s'", m->key));
            continue;
        }
        s->needs = NEW_N(pl->arena, u32, m->value.n);
        if (s->needs == NULL)
            return ERR_MEMORY;
        for (u32 k = 0; k < m->value.n; k++)
            TRY(link_need(pl, s, json_str(&m->value.items[k]), json_pointer_index(pl->arena, pointer, k)));
    }
    return OK;
}

static err read_conditions(struct planner *pl)
{
    const struct json *all = json_get(pl->definition, S("conditions"));
    str base = at(pl, pl->pointer, "conditions");
    for (u32 i = 0; all != NULL && i < all->n; i++) {
        const struct json_member *m = &all->members[i];
        str pointer = json_pointer_key(pl->arena, base, m->key);
        struct plan_step *s = step_named(pl, m->key);
        if (s == NULL) {
            TRY(complain(pl, pointer, "definition.unknown_step", "There is no step called '%.*s'", m->key));
            continue;
        }
        err e = expr_compile(pl->arena, EXPR_CONDITION, &m->value, pointer, pl->problems, &s->condition);
        if (e != OK && e != ERR_INVALID)
            return e;
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

static err link_feeds(struct plan *p)
{
    for (u32 i = 0; i < p->count; i++) {
        struct plan_step *s = &p->steps[i];
        s->feeds = NEW_N(p->arena, u32, s->feed_count);
        if (s->feeds == NULL)
            return ERR_MEMORY;
        s->feed_count = 0;
    }
    for (u32 i = 0; i < p->count; i++)
        for (u32 k = 0; k < p->steps[i].need_count; k++) {
            struct plan_step *need = &p->steps[p->steps[i].needs[k]];
            need->feeds[need->feed_count++] = i;
        }
    return OK;
}

/* Kahn's algorithm; *placed tells how many steps are free of cycles. `order` is filled with them. */
static err sort_steps(struct plan *p, u32 *placed)
{
    u32 *open = NEW_N(p->arena, u32, p->count);
    p->order = NEW_N(p->arena, u32, p->count);
    if (open == NULL || p->order == NULL)
        return ERR_MEMORY;
    u32 n = 0;
    for (u32 i = 0; i < p->count; i++)
        if ((open[i] = p->steps[i].need_count) == 0)
            p->order[n++] = i;
    for (u32 done = 0; done < n; done++) {
        const struct plan_step *s = &p->steps[p->order[done]];
        for (u32 k = 0; k < s->feed_count; k++)
            if (--open[s->feeds[k]] == 0)
                p->order[n++] = s->feeds[k];
    }
    *placed = n;
    return OK;
}

/* Names one cycle, by walking needs inside of what could not be placed until a step comes again. */
static err complain_cycle(struct planner *pl, u32 placed)
{
    struct plan *p = pl->plan;
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
    p->pure = true;
    for (u32 i = 0; i < p->count; i++)
        p->pure &= !p->steps[i].kind->outside;
    for (u32 i = 0; i < p->count; i++)
        p->spawns |= p->steps[i].kind->spawns;
}

static err plan_read(struct planner *pl)
{
    struct plan *p = pl->plan;
    pl->steps = json_get(pl->definition, S("steps"));
    p->count = pl->steps->n;
    p->steps = NEW_N(p->arena, struct plan_step, p->count);
    if (p->steps == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < p->count; i++)
        TRY(read_step(pl, i));
    TRY(read_dependencies(pl));
    TRY(read_conditions(pl));
    for (u32 i = 0; i < p->count; i++)
        if (p->steps[i].kind != NULL && p->steps[i].kind->branches)
            TRY(read_branches(pl, &p->steps[i]));
    if (pl->problems->n > 0)
        return ERR_INVALID;
    TRY(link_feeds(p));
    u32 placed = 0;
    TRY(sort_steps(p, &placed));
    if (placed < p->count) {
        TRY(complain_cycle(pl, placed));
        return ERR_INVALID;
    }
    read_settings(p, pl->definition);
    return OK;
}

err plan_compile(const struct json *definition, str pointer, struct problems *problems, struct plan **out)
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
    struct planner pl = { .arena = a, .plan = p, .definition = copy, .pointer = pointer, .problems = problems };
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

str plan_levels(struct arena *a, const struct plan *p)
{
    u32 *level = NEW_N(a, u32, p->count);
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    if (level == NULL)
        return STR_NONE;
    u32 deepest = 0;
    for (u32 i = 0; i < p->count; i++) {
        const struct plan_step *s = &p->steps[p->order[i]];
        for (u32 k = 0; k < s->need_count; k++)
            level[s->index] = MAX(level[s->index], level[s->needs[k]] + 1);
        deepest = MAX(deepest, level[s->index]);
    }
    jw_begin(&w, '[');
    for (u32 l = 0; l <= deepest; l++) {
        jw_begin(&w, '[');
        for (u32 i = 0; i < p->count; i++)
            if (level[i] == l)
                jw_str(&w, p->steps[i].id);
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
