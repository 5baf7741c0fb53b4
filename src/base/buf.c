/* buf.c - see buf.h. */
#include "base/buf.h"
#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { U64_DIGITS = 20 };

static void *regrow(struct buf *b, size_t cap)
{
    if (b->arena != NULL)
        return arena_grow(b->arena, b->p, b->cap, cap);
    return fault_hit(FAULT_ALLOC) ? NULL : realloc(b->p, cap);
}

bool buf_room_slow(struct buf *b, size_t more)
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

/* Two digits at a time, backwards from where they end: a division costs more than all the rest. */
static void put_digits(char *end, u64 value, u32 count)
{
    for (; count >= 2; count -= 2, value /= 100) {
        u32 pair = (u32)(value % 100);
        *--end = (char)('0' + pair % 10);
        *--end = (char)('0' + pair / 10);
    }
    if (count == 1)
        *--end = (char)('0' + value);
}

void buf_i64(struct buf *b, i64 value)
{
    u64 rest = value < 0 ? 0 - (u64)value : (u64)value;
    u32 count = 1, sign = value < 0;
    for (u64 bound = 10; count < U64_DIGITS && rest >= bound; bound *= 10)
        count++;
    if (!buf_room(b, count + sign))
        return;
    char *to = b->p + b->n;
    *to = '-';
    put_digits(to + sign + count, rest, count);
    b->n += count + sign;
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
