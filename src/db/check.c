/* check.c - the rules for statements that do not depend on the database; sqlite_check.c and postgres_check.c ask what only they know.
 *
 * What is complained about is a mistake of ours, so nothing here is a problem for clients: the lines go to whoever starts the server. */
#include "db/db_internal.h"

void check_complain(void *checking, const char *what, str detail)
{
    struct checking *c = checking;
    c->complaints++;
    buf_str(c->complaint, str_of(c->stmt->name));
    BUF_LIT(c->complaint, ": ");
    buf_str(c->complaint, str_of(what));
    if (detail.n > 0)
        buf_char(c->complaint, ' ');
    buf_str(c->complaint, detail);
    buf_char(c->complaint, '\n');
}

str names_get(const struct names *names, str name)
{
    for (u32 i = 0; i < names->n; i++)
        if (str_eq_nocase(names->list[i], name))
            return names->list[i];
    return STR_NONE;
}

bool names_have(const struct names *names, str name)
{
    return names_get(names, name).p != NULL;
}

err names_add(struct arena *a, struct names *names, str name)
{
    if (names->n >= NAMES_MAX || names_have(names, name))
        return names->n >= NAMES_MAX ? ERR_TOO_LARGE : OK;
    str copy = str_dup(a, name);
    str *list = arena_grow(a, names->list, names->n * sizeof *list, (names->n + 1) * sizeof *list);
    if (copy.p == NULL || list == NULL)
        return ERR_MEMORY;
    list[names->n] = copy;
    names->list = list;
    names->n++;
    return OK;
}

void check_verb(struct checking *c)
{
    static const str allowed[] = { S_INIT("SELECT"), S_INIT("INSERT"), S_INIT("UPDATE"),
                                   S_INIT("DELETE"), S_INIT("WITH"),   S_INIT("VALUES") };
    str sql = str_trim(str_of(c->stmt->sql));
    for (size_t i = 0; i < COUNT(allowed); i++)
        if (str_eq_nocase(str_slice(sql, 0, allowed[i].n), allowed[i]))
            return;
    check_complain(c, "begins with neither SELECT, INSERT, UPDATE, DELETE, WITH nor VALUES", STR_NONE);
}

void check_column(struct checking *c, str name, u64 *seen)
{
    int field = field_index(c->stmt->row, name);
    if (field < 0)
        check_complain(c, "returns a column that its row table does not have:", name);
    else if ((*seen >> field & 1) != 0)
        check_complain(c, "returns a column twice:", name);
    if (field >= 0)
        *seen |= (u64)1 << field;
}

err check_each(struct checking *c, err (*one)(struct checking *c))
{
    size_t count;
    const struct stmt *const *list = db_statements(&count);
    struct arena_mark mark = arena_mark(c->arena);
    for (size_t i = 0; i < count; i++) {
        c->stmt = list[i];
        TRY(one(c));
        arena_rewind(c->arena, mark);
    }
    return c->complaint->fail;
}
