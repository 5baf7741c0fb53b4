/* copy.h - the database as a whole: a consistent copy beside a running server, the way back, and whether everything in it is as it was promised.
 *
 * For tools, which are alone in their process. A complaint is a line for people. */
#pragma once

#include "base/buf.h"
#include "db/db.h"

/* What must hold in every database at every time: the statement selects one text, `what`, of each row for which it does not. Both dialects understand it;
 * json_valid() is there on both. Wherever the tables are looked after, not here. */
struct invariant {
    const char *promise, *sql;
};
#define INVARIANT(id, promised, text)                                                                       \
    static const struct invariant id;                                                                       \
    static const struct invariant *const id##_slot __attribute__((section("weir_invariants"), used)) = &id; \
    static const struct invariant id = { .promise = promised, .sql = text }
/* Texts of a table that must be JSON, or nothing. */
#define INVARIANT_JSON(id, table, column, key)   \
    INVARIANT(id, #table "." #column " is JSON", \
              "SELECT " #key " AS what FROM " #table " WHERE " #column " IS NOT NULL AND NOT json_valid(" #column ")")
const struct invariant *const *db_invariants(size_t *count);

struct db_rows {
    str table;
    i64 n;
};
struct db_contents {
    u32 schema; /* the newest migration that ran; 0 = none */
    struct db_rows *rows;
    u32 tables;
    bool older; /* than this program: its invariants speak of columns that are not there yet, so they were not asked */
};
enum { TABLES_MAX = 1000 };

/* "sqlite", "postgresql": copies of one are nothing to the other. */
const char *db_kind(const struct db_options *o);
/* Writes a copy into the new file `to`, and says what is in it, at the same moment. ERR_NOT_FOUND: there is no database. */
err db_copy(struct arena *a, const struct db_options *o, const char *to, struct db_contents *out,
            struct buf *complaint) MUST;
/* Looks at all of it and changes nothing: the store's own integrity, references, migrations, every invariant. A line in `broken` for each finding. */
err db_verify(struct arena *a, const struct db_options *o, struct db_contents *out, struct buf *broken) MUST;
/* Puts a copy in place of the database. ERR_BUSY: a server runs on it. ERR_CONFLICT: it is not empty (`force` takes its place). `from` may be moved. */
err db_restore(struct arena *a, const struct db_options *o, const char *from, bool force, struct buf *complaint) MUST;
/* Restores a copy beside the database, lets `look` see it, and takes it away again. ERR_FORBIDDEN: this login may make no database; the copy was read
 * to its end and no more. */
struct db_rehearsal {
    err (*look)(struct db_rehearsal *r, const struct db_options *restored);
};
err db_rehearse(struct arena *a, const struct db_options *o, const char *from, const char *folder,
                struct db_rehearsal *r, struct buf *complaint) MUST;
