/* rng.c - getrandom(2), a page at a time per thread: ids are made for every request, and a system call each would cost more than they do.
 *
 * What was handed out is wiped from the buffer at once, so that a later look into memory finds no key. Weir never forks. */
#include "base/rng.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

enum { BUFFER_BYTES = 1024 };

static _Thread_local struct {
    u8 bytes[BUFFER_BYTES];
    size_t left; /* at the end of bytes */
} pool;

static void from_kernel(u8 *p, size_t n)
{
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        assert(got > 0 || errno == EINTR); /* the kernel always has randomness */
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
}

void rng_bytes(void *p, size_t n)
{
    if (n > BUFFER_BYTES) {
        from_kernel(p, n);
        return;
    }
    if (pool.left < n) {
        from_kernel(pool.bytes, BUFFER_BYTES);
        pool.left = BUFFER_BYTES;
    }
    u8 *from = pool.bytes + BUFFER_BYTES - pool.left;
    memcpy(p, from, n);
    explicit_bzero(from, n);
    pool.left -= n;
}

u64 rng_u64(void)
{
    u64 value;
    rng_bytes(&value, sizeof value);
    return value;
}

/* By rejection: a remainder alone would favour small numbers. */
u64 rng_below(u64 bound)
{
    assert(bound > 0);
    u64 least = (0 - bound) % bound, value;
    do
        value = rng_u64();
    while (value < least);
    return value % bound;
}
