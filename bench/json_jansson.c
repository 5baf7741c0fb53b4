/* json_jansson.c - see json_jansson.h. Neither json_null nor json_copy is called here: the linker would take ours. */
#include "json_jansson.h"

#include <jansson.h>

void *jansson_parse(str text)
{
    return json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
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
