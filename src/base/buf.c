/* buf.c - see buf.h. */
#include "base/buf.h"
#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *regrow(struct buf *b, size_t cap)
{
    if (b->arena != NULL)
        return arena_grow(b->arena, b->p, b->cap, cap);
    return fault_hit(FAULT_ALLOC) ? NULL : realloc(b->p, cap);
}

bool buf_room(struct buf *b, size_t more)
{
    if (b->fail != OK)
        return false;
    size_t need;
    if (__builtin_add_overflow(b->n, more, &need) || (b->max != 0 && need > b->max)) {
        b->fail = ERR_TOO_LARGE;
        return false;
    }
    if (need <= b->cap)
        return true;
    size_t cap = MAX(MAX(b->cap * 2, need), (size_t)256);
    void *p = regrow(b, cap);
    if (p == NULL) {
        b->fail = ERR_MEMORY;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    if (n == 0 || !buf_room(b, n))
        return;
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

void buf_char(struct buf *b, char c)
{
    if (buf_room(b, 1))
        b->p[b->n++] = c;
}

void buf_str(struct buf *b, str s)
{
    buf_put(b, s.p, s.n);
}

void buf_i64(struct buf *b, i64 value)
{
    char digits[24], *p = digits + sizeof digits;
    u64 rest = value < 0 ? 0 - (u64)value : (u64)value;
    do
        *--p = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (value < 0)
        *--p = '-';
    buf_put(b, p, (size_t)(digits + sizeof digits - p));
}

void buf_f(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n > 0 && buf_room(b, (size_t)n + 1)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, format, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

str buf_view(const struct buf *b)
{
    return (str){ b->p != NULL ? b->p : "", b->n };
}

void buf_free(struct buf *b)
{
    assert(b->arena == NULL);
    free(b->p);
    *b = (struct buf){ 0 };
}
