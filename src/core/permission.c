/* permission.c - the list of permissions, and who has one. A list of at most 128 pointers is walked: that is quicker than what would find one. */
#include "core/permission.h"
#include "codec/json.h"
#include "core/req.h"

const struct permission anyone = { "anyone", 0, "Everybody, without a token" };
const struct permission signed_in = { "signed_in", ROLES_ALL | ROLE_OPERATOR | ROLE_CUSTOM,
                                      "Everybody with a valid token or key" };
const struct permission in_person = { "in_person", ROLES_ALL | ROLE_OPERATOR | ROLE_CUSTOM,
                                      "Everybody with a session of their own; no API key" };

extern const struct permission *const __start_weir_permissions[] __attribute__((weak));
extern const struct permission *const __stop_weir_permissions[] __attribute__((weak));

const struct permission *const *permissions_all(size_t *count)
{
    *count = (size_t)(__stop_weir_permissions - __start_weir_permissions);
    return __start_weir_permissions;
}

const struct permission *permission_find(str name)
{
    size_t count;
    const struct permission *const *all = permissions_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct permission *p = all[i];
        if (p != NULL && str_eq(name, str_of(p->name)))
            return p;
    }
    return NULL;
}

bool grants_have(const struct grants *g, const struct permission *p)
{
    for (u32 i = 0; i < g->n; i++)
        if (g->list[i] == p)
            return true;
    return false;
}

err grants_parse(struct arena *a, str json, struct grants *out)
{
    struct json *list;
    struct grants g = { 0 };
    TRY(json_parse(a, json, &list, NULL));
    if (list->type != JSON_ARRAY)
        return ERR_DECODE;
    for (u32 i = 0; i < list->n && g.n < GRANTS_MAX; i++) {
        const struct permission *p = permission_find(json_str(&list->items[i]));
        if (p != NULL && !grants_have(&g, p))
            g.list[g.n++] = p;
    }
    *out = g;
    return OK;
}

bool caller_may(const struct caller *who, const struct permission *need)
{
    if (need == &in_person)
        return who->role != 0 && who->key_id.p == NULL;
    if (who->grants != NULL && need != &signed_in)
        return grants_have(who->grants, need);
    return (who->role & need->roles) != 0;
}
