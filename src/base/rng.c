/* rng.c - getrandom(2) and nothing of our own: a generator kept in memory would survive fork() and core dumps. */
#include "base/rng.h"

#include <errno.h>
#include <sys/random.h>

void rng_bytes(void *p, size_t n)
{
    for (char *to = p; n > 0;) {
        ssize_t got = getrandom(to, n, 0);
        assert(got > 0 || errno == EINTR); /* without randomness no key may be made */
        if (got > 0) {
            to += got;
            n -= (size_t)got;
        }
    }
}

u64 rng_u64(void)
{
    u64 value;
    rng_bytes(&value, sizeof value);
    return value;
}

u64 rng_below(u64 bound)
{
    assert(bound > 0);
    u64 skewed = -bound % bound; /* 2^64 mod bound: the values that would be drawn once more often than the others */
    for (;;) {
        u64 value = rng_u64();
        if (value >= skewed)
            return value % bound;
    }
}
