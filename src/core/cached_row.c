/* cached_row.c - see cached_row.h. What was read inside a snapshot that is open already is not remembered: it may be older than the cache's epoch. */
#include "core/cached_row.h"
#include "core/app.h"

static err load(const struct cached_row *c, str key, i64 now_us, const void **out)
{
    u64 epoch = cache_epoch(c->cache);
    struct arena *owner = arena_new(c->arena_bytes);
    void *made = owner == NULL ? NULL : arena_alloc(owner, c->size);
    struct tx *tx;
    /* Without the budget of fast reads where those are ended early: a few look-ups by key pass it only when the machine itself stood still, and a 503 would help nobody then. Where
     * a read waits for another machine the loop must not wait as long as that likes. */
    err e = made == NULL ? ERR_MEMORY : db_read_begin(app.db, owner, db_reads_block(app.db), &tx);
    if (e == OK) {
        e = c->read(tx, owner, key, made);
        db_read_end(tx);
    }
    if (e != OK) {
        arena_free(owner);
        return e;
    }
    cache_put(c->cache, key, made, owner, epoch, now_us);
    *out = made;
    return OK;
}

err cached_row_get(const struct cached_row *c, struct tx *tx, struct arena *a, str key, i64 now_us, const void **out)
{
    const void *found = cache_get(c->cache, key, now_us);
    if (found == NULL && tx == NULL)
        return load(c, key, now_us, out);
    if (found == NULL) {
        void *made = arena_alloc(a, c->size);
        if (made == NULL)
            return ERR_MEMORY;
        TRY(c->read(tx, a, key, made));
        found = made;
    }
    *out = found;
    return OK;
}
