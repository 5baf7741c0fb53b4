/* json_jansson.c - our JSON parser against jansson's: both accept or both refuse, and what they accept is the same value.
 *
 * The differences that are meant, and nothing else: we refuse nesting beyond 64 levels (jansson: 2,048); jansson refuses \u0000 in a key; and it overlooks a NUL
 * byte behind a value (its end-of-text token is 0 as well), which we refuse. All else agrees, jansson told to refuse duplicate keys and to take \u0000 in
 * values: integers beyond 64 bits, numbers beyond a double, lone surrogates, control bytes in texts, what is no UTF-8, a byte order mark, trailing text. */
#include "fuzz.h"

#include "../bench/json_jansson.h"
#include "codec/json.h"

static bool same(const struct json *ours, const void *theirs);

static bool same_members(const struct json *ours, const void *theirs)
{
    for (u32 i = 0; i < ours->n; i++)
        if (!same(&ours->members[i].value, jansson_member(theirs, ours->members[i].key)))
            return false;
    return true;
}

static bool same_items(const struct json *ours, const void *theirs)
{
    for (u32 i = 0; i < ours->n; i++)
        if (!same(&ours->items[i], jansson_item(theirs, i)))
            return false;
    return true;
}

static bool same(const struct json *ours, const void *theirs)
{
    struct jansson_value v;
    if (theirs == NULL)
        return false;
    jansson_look(theirs, &v);
    switch ((enum json_type)ours->type) {
    case JSON_NULL:
        return v.kind == 'n';
    case JSON_BOOL:
        return v.kind == 't' && (v.integer != 0) == ours->boolean;
    case JSON_INT:
        return v.kind == 'i' && v.integer == ours->integer;
    case JSON_REAL:
        return v.kind == 'r' && memcmp(&v.real, &ours->real, sizeof v.real) == 0; /* -0.0 is not 0.0 */
    case JSON_STR:
        return v.kind == '"' && str_eq(v.text, json_str(ours));
    case JSON_ARRAY:
        return v.kind == '[' && v.count == ours->n && same_items(ours, theirs);
    case JSON_OBJECT:
        return v.kind == '{' && v.count == ours->n && same_members(ours, theirs);
    }
    return false;
}

static bool meant(err ours, const struct json_error *where, str text, bool nul_in_key)
{
    if (ours == OK)
        return nul_in_key;
    bool at_nul = where->offset < text.n && text.p[where->offset] == '\0';
    return at_nul || str_eq(str_of(where->code), S("json.depth"));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    str text = fuzz_text(a, data, size);
    struct json *ours = NULL;
    struct json_error where = { 0 };
    bool nul_in_key = false;
    err e = json_parse(a, text, &ours, &where);
    void *theirs = jansson_parse_any(text, &nul_in_key);
    if ((e == OK) == (theirs != NULL))
        assert(e != OK || same(ours, theirs));
    else
        assert(meant(e, &where, text, nul_in_key));
    if (theirs != NULL)
        jansson_free(theirs);
    arena_free(a);
    return 0;
}
