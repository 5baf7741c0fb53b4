/* copy.c - see copy.h. What both databases have in common; how each is copied stands in sqlite_copy.c and postgres_copy.c. */
#include "db/copy_internal.h"

/* Weak: a program without invariants has no such section. */
extern const struct invariant *const __start_weir_invariants[] __attribute__((weak, visibility("hidden")));
extern const struct invariant *const __stop_weir_invariants[] __attribute__((weak, visibility("hidden")));

const struct invariant *const *db_invariants(size_t *count)
{
    *count = (size_t)(__stop_weir_invariants - __start_weir_invariants);
    return __start_weir_invariants;
}

const char *invariant_sql(struct arena *a, const struct invariant *i)
{
    return str_z(a,
                 strf(a,
                      "SELECT CASE WHEN count(*) > 0 THEN count(*) || ' rows, among them ' || min(what) END FROM (%s)"
                      " AS broken",
                      i->sql));
}

err contents_read(struct arena *a, str lines, struct db_contents *out)
{
    struct db_rows *rows = NEW_N(a, struct db_rows, TABLES_MAX);
    u32 n = 0;
    str table;
    if (rows == NULL)
        return ERR_MEMORY;
    for (str line; n < TABLES_MAX && str_cut(&lines, '\n', &line);)
        if (line.n > 0 && str_cut(&line, ' ', &table) && str_i64(line, 0, INT64_MAX, &rows[n].n))
            rows[n++].table = table;
    out->rows = rows;
    out->tables = n;
    return OK;
}

void migration_look(const struct driver *d, u32 i, i64 number, str name, str checksum, struct buf *broken)
{
    u32 known = 0;
    while (known <= i && db_migrations[known].number != 0)
        known++;
    const struct migration *m = i < known ? &db_migrations[i] : NULL;
    if (m == NULL)
        buf_f(broken, "migration %04lld %.*s: this program does not know it\n", (long long)number, STR_FMT(name));
    else if (m->number != number || !migration_is(d, m, checksum))
        buf_f(broken, "migration %04lld %.*s: it ran with another text than this program has\n", (long long)number,
              STR_FMT(name));
}

bool schema_is_current(u32 schema)
{
    const struct migration *m = db_migrations;
    while (m->number != 0 && m[1].number != 0)
        m++;
    return schema >= m->number;
}

static const struct copier *copier_of(const struct db_options *o)
{
    return o->url.n > 0 ? &postgres_copier : &sqlite_copier;
}

const char *db_kind(const struct db_options *o)
{
    return copier_of(o)->kind;
}

err db_copy(struct arena *a, const struct db_options *o, const char *to, struct db_contents *out, struct buf *complaint)
{
    return copier_of(o)->copy(a, o, to, out, complaint);
}

err db_verify(struct arena *a, const struct db_options *o, struct db_contents *out, struct buf *broken)
{
    return copier_of(o)->verify(a, o, out, broken);
}

err db_restore(struct arena *a, const struct db_options *o, const char *from, bool force, struct buf *complaint)
{
    return copier_of(o)->restore(a, o, from, force, complaint);
}

err db_rehearse(struct arena *a, const struct db_options *o, const char *from, const char *folder,
                struct db_rehearsal *r, struct buf *complaint)
{
    return copier_of(o)->rehearse(a, o, from, folder, r, complaint);
}
