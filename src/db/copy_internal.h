/* copy_internal.h - what copy.c and the two drivers of it share. */
#pragma once

#include "db/copy.h"
#include "db/db_internal.h"

struct copier {
    const char *kind;
    err (*copy)(struct arena *a, const struct db_options *o, const char *to, struct db_contents *out,
                struct buf *complaint);
    err (*verify)(struct arena *a, const struct db_options *o, struct db_contents *out, struct buf *broken);
    err (*restore)(struct arena *a, const struct db_options *o, const char *from, bool force, struct buf *complaint);
    err (*rehearse)(struct arena *a, const struct db_options *o, const char *from, const char *folder,
                    struct db_rehearsal *r, struct buf *complaint);
};
extern const struct copier sqlite_copier, postgres_copier;

/* The statement that says nothing, or how many rows break a promise and which is the first. NULL out of memory. */
const char *invariant_sql(struct arena *a, const struct invariant *i);
/* "table n" lines into rows. */
err contents_read(struct arena *a, str lines, struct db_contents *out) MUST;
/* The migration that ran as the i-th: is it the one that this program knows? A line in `broken` when not. */
/* Whether all migrations that this program knows have run. */
bool schema_is_current(u32 schema);
void migration_look(const struct driver *d, u32 i, i64 number, str name, str checksum, struct buf *broken);
