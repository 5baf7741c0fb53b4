/* json.c - JSON text: what is accepted is written in a form that reads back as the same values and is written the same way again; the sizes that
 * were promised are right, and checking says what parsing says. */
#include "fuzz.h"

#include "codec/json.h"

static void round_trip(struct arena *a, const struct json *j)
{
    struct json *again, *copy = json_copy(a, j);
    struct json_error where;
    str text = json_text(a, j);
    assert(text.p != NULL && copy != NULL);
    assert(json_size(j) == text.n && str_utf8(text));
    assert(json_parse(a, fuzz_text(a, (const u8 *)text.p, text.n), &again, &where) == OK);
    assert(json_equal(j, again) && json_equal(again, copy));
    assert(str_eq(json_text(a, again), text));
}

/* A patch merged into anything gives JSON, and merging it twice changes nothing more. */
static void merge(struct arena *a, const struct json *j)
{
    for (u32 i = 0; j->type == JSON_ARRAY && i + 1 < j->n && i < 8; i++) {
        const struct json *once = json_merge_patch(a, &j->items[i], &j->items[i + 1]);
        const struct json *twice = once != NULL ? json_merge_patch(a, once, &j->items[i + 1]) : NULL;
        assert(twice != NULL && json_equal(once, twice));
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    str text = fuzz_text(a, data, size);
    struct json *j = NULL;
    struct json_error where = { 0 }, checked = { 0 };
    err e = json_parse(a, text, &j, &where);
    assert(json_check(a, text, &checked) == e);
    if (e == OK) {
        round_trip(a, j);
        merge(a, j);
    } else {
        assert(e == ERR_DECODE && where.offset <= size && where.code == checked.code && j == NULL);
    }
    arena_free(a);
    return 0;
}
