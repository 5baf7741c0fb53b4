/* plan.c - workflow definitions: what the tables and the compiler accept is a plan whose parts fit together, with every step on one level. */
#include "fuzz.h"

#include "engine/definition.h"
#include "engine/plan.h"

static const struct field trigger_fields[] = {
    SHAPE_FIELD("type", F_STR, .flags = F_REQUIRED, .max = 20, .doc = "Kind of the trigger"),
};
const struct table definition_trigger_table = SHAPE("FuzzTrigger", trigger_fields, .doc = "A trigger");

static void claim_step(const struct plan *p, const struct block *b, const struct plan_step *s)
{
    assert(s->kind != NULL && s->id.n > 0 && map_get(&p->by_id, s->id) == s && b->steps + s->index == s);
    assert(s->retry.max_attempts >= 1 && s->timeout_us >= 0);
    for (u32 i = 0; i < s->need_count; i++)
        assert(s->needs[i] < b->count && s->needs[i] != s->index);
    for (u32 i = 0; i < s->feed_count; i++)
        assert(s->feeds[i] < b->count && s->feeds[i] != s->index);
    for (u32 i = 0; i < s->gate_count; i++)
        assert(s->gates[i].by < b->count);
}

/* Each step once, behind all it waits for. */
static void claim_order(struct arena *a, const struct block *b)
{
    bool *done = NEW_N(a, bool, b->count);
    assert(done != NULL);
    for (u32 i = 0; i < b->count; i++) {
        const struct plan_step *s = &b->steps[b->order[i]];
        for (u32 k = 0; k < s->need_count; k++)
            assert(done[s->needs[k]]);
        assert(!done[s->index]);
        done[s->index] = true;
    }
}

static void claim_block(struct arena *a, const struct plan *p, const struct block *b, const struct plan_step *outer)
{
    claim_order(a, b);
    for (u32 i = 0; i < b->count; i++) {
        assert(b->steps[i].outer == outer);
        claim_step(p, b, &b->steps[i]);
        if (b->steps[i].body != NULL)
            claim_block(a, p, b->steps[i].body, &b->steps[i]);
    }
}

static void claim_levels(struct arena *a, const struct plan *p)
{
    struct json *levels;
    u32 steps = 0;
    assert(json_parse(a, plan_levels(a, p), &levels, NULL) == OK && levels->type == JSON_ARRAY);
    for (u32 i = 0; i < levels->n; i++)
        steps += levels->items[i].n;
    assert(steps == p->root.count);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    struct json *j;
    struct plan *p = NULL;
    struct problems problems = { .arena = a };
    err e = json_parse(a, fuzz_text(a, data, size), &j, NULL);
    if (e == OK)
        e = field_decode(a, &definition_table, FIELD_CREATE, j, S("/definition"), NULL, &problems);
    if (e == OK)
        e = plan_compile(j, S("/definition"), &problems, &p);
    assert((e == OK) == (p != NULL) && (e == ERR_INVALID) == (problems.n > 0));
    if (p != NULL) {
        claim_block(a, p, &p->root, NULL);
        claim_levels(a, p);
        plan_release(p);
    }
    arena_free(a);
    return 0;
}
