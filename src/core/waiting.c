/* waiting.c - reads a queue's figures on the thread that scrapes, which has no snapshot open (/metrics is R_NO_STORE). */
#include "core/waiting.h"

#include "base/clock.h"
#include "core/app.h"

enum { READ_BYTES = 16 << 10 };

struct waiting {
    struct presence has;
    i64 n, oldest_at;
};
static const struct field fields[] = {
    FIELD(struct waiting, n, F_I64, .doc = "How many rows"),
    FIELD(struct waiting, oldest_at, F_I64, .flags = F_NULLABLE, .doc = "When the oldest was due"),
};
const struct table waiting_table = TABLE("Waiting", struct waiting, fields);

static err look(const struct stmt *s, i64 now_us, struct waiting *out)
{
    struct tx *tx;
    struct arena *a = app.db != NULL ? arena_new(READ_BYTES) : NULL;
    if (a == NULL)
        return ERR_BUSY;
    err e = db_read_begin(app.db, a, true, &tx);
    if (e == OK) {
        e = db_row(tx, s, out, ARGS(I64(now_us)));
        db_read_end(tx);
    }
    arena_free(a);
    return e;
}

i64 waiting_count(const struct stmt *s)
{
    struct waiting w = { 0 };
    return look(s, clock_now_us(), &w) == OK ? w.n : METRIC_UNKNOWN;
}

i64 waiting_age_us(const struct stmt *s)
{
    struct waiting w = { 0 };
    i64 now_us = clock_now_us();
    if (look(s, now_us, &w) != OK)
        return METRIC_UNKNOWN;
    return w.n > 0 ? MAX(now_us - w.oldest_at, (i64)0) : 0;
}
