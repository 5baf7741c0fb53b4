/* buf.h - bytes that grow, with a sticky error so that a writer needs one check at its end.
 *
 * On an arena the bytes live as long as it; without one (arena == NULL) they are the caller's and buf_free() ends them.
 * `max` bounds the length; passing it, or running out of memory, sets `fail`, after which every put is ignored. */
#pragma once

#include "base/str.h"

struct buf {
    char *p;
    size_t n, cap;
    size_t max; /* 0 = no bound of its own */
    struct arena *arena;
    err fail; /* OK, ERR_MEMORY or ERR_TOO_LARGE */
};

bool buf_room_slow(struct buf *b, size_t more);
/* Room for `more` bytes behind p + n; false when the buf has failed. The caller may write there and add to n. */
static inline bool buf_room(struct buf *b, size_t more)
{
    bool there = more <= b->cap - b->n && b->fail == OK && (b->max == 0 || b->n + more <= b->max);
    return there || buf_room_slow(b, more);
}
void buf_put(struct buf *b, const void *p, size_t n);
static inline void buf_char(struct buf *b, char c)
{
    if (buf_room(b, 1))
        b->p[b->n++] = c;
}
static inline void buf_str(struct buf *b, str s)
{
    buf_put(b, s.p, s.n);
}
#define BUF_LIT(b, literal) buf_put((b), "" literal, sizeof(literal) - 1)
void buf_i64(struct buf *b, i64 value);
void buf_f(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);
/* What has been written; valid until the next put. */
str buf_view(const struct buf *b);
/* Only for a buf without arena. Leaves an empty buf. */
void buf_free(struct buf *b);
