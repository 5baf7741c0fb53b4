/* json_jansson.c - see json_jansson.h. Neither json_null nor json_copy is called here: the linker would take ours. */
#include "json_jansson.h"

#include <jansson.h>

void *jansson_parse(str text)
{
    return json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
}

void *jansson_parse_any(str text, bool *nul_in_key)
{
    json_error_t error = { 0 };
    json_t *j = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    *nul_in_key = j == NULL && json_error_code(&error) == json_error_null_byte_in_key;
    return j;
}

void jansson_look(const void *j, struct jansson_value *out)
{
    static const char kinds[] = { [JSON_NULL] = 'n', [JSON_TRUE] = 't',   [JSON_FALSE] = 't', [JSON_INTEGER] = 'i',
                                  [JSON_REAL] = 'r', [JSON_STRING] = '"', [JSON_ARRAY] = '[', [JSON_OBJECT] = '{' };
    *out = (struct jansson_value){ .kind = kinds[json_typeof((const json_t *)j)] };
    out->count = json_is_array((const json_t *)j) ? json_array_size(j) : json_object_size(j);
    out->integer = json_is_true((const json_t *)j) ? 1 : json_integer_value(j);
    out->real = json_is_real((const json_t *)j) ? json_real_value(j) : 0;
    out->text = (str){ json_string_value(j), json_string_length(j) };
}

const void *jansson_item(const void *j, size_t index)
{
    return json_array_get(j, index);
}

const void *jansson_member(const void *j, str key)
{
    return json_object_getn(j, key.p, key.n);
}

static json_t *build(const struct recipe **next)
{
    const struct recipe *r = (*next)++;
    json_t *j = NULL;
    switch (r->kind) {
    case 'n':
        return json_pack("n");
    case 't':
        return json_boolean(r->integer);
    case 'i':
        return json_integer(r->integer);
    case 'r':
        return json_real(r->real);
    case '"':
        return json_stringn_nocheck(r->text.p, r->text.n);
    case '[':
        j = json_array();
        for (u32 i = 0; i < r->children; i++)
            json_array_append_new(j, build(next));
        return j;
    default:
        j = json_object();
        for (u32 i = 0; i < r->children; i++) {
            str key = (*next)->key;
            json_object_setn_new_nocheck(j, key.p, key.n, build(next));
        }
        return j;
    }
}

void *jansson_build(const struct recipe *r)
{
    return build(&r);
}

char *jansson_write(const void *j)
{
    return json_dumps(j, JSON_COMPACT);
}

void jansson_free(void *j)
{
    json_decref(j);
}
