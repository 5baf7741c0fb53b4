/* typeid.c - UUIDv7 in base32 behind a prefix.
 *
 * One atomic holds the newest (milliseconds << 12 | counter) that was given out: ids of all threads are ordered by it, also when
 * a caller's time is older, and a 4,097th id of one millisecond borrows the next one. */
#include "codec/typeid.h"
#include "base/rng.h"

#include <stdatomic.h>
#include <string.h>

enum { COUNTER_BITS = 12, PREFIX_MAX = 63 };

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

static u64 next_stamp(i64 now_us)
{
    static _Atomic u64 newest; /* order within the process is the point of it */
    u64 wanted = (u64)(MAX(now_us, 0) / 1000) << COUNTER_BITS;
    u64 last = atomic_load(&newest), stamp;
    do
        stamp = MAX(wanted, last + 1);
    while (!atomic_compare_exchange_weak(&newest, &last, stamp));
    return stamp;
}

str typeid_new(struct arena *a, const char *prefix, i64 now_us)
{
    u8 uuid[16];
    u64 stamp = next_stamp(now_us), ms = stamp >> COUNTER_BITS;
    for (int i = 0; i < 6; i++)
        uuid[i] = (u8)(ms >> (40 - 8 * i));
    uuid[6] = (u8)(0x70 | (stamp >> 8 & 0x0F)); /* version 7 */
    uuid[7] = (u8)stamp;
    rng_bytes(uuid + 8, 8);
    uuid[8] = (u8)(0x80 | (uuid[8] & 0x3F)); /* variant of RFC 9562 */
    return typeid_encode(a, prefix, uuid);
}

/* 128 bits are 25.6 characters: the first carries three bits only. */
static void encode_suffix(const u8 uuid[16], char out[TYPEID_SUFFIX])
{
    unsigned __int128 value = 0;
    for (int i = 0; i < 16; i++)
        value = value << 8 | uuid[i];
    for (int i = TYPEID_SUFFIX; i-- > 0; value >>= 5)
        out[i] = alphabet[value & 31];
}

str typeid_encode(struct arena *a, const char *prefix, const u8 uuid[16])
{
    size_t n = strlen(prefix), gap = n > 0;
    char *p = arena_alloc(a, n + gap + TYPEID_SUFFIX);
    if (p == NULL)
        return STR_NONE;
    memcpy(p, prefix, n);
    if (gap)
        p[n] = '_';
    encode_suffix(uuid, p + n + gap);
    return (str){ p, n + gap + TYPEID_SUFFIX };
}

static bool prefix_valid(str s)
{
    if (s.n == 0 || s.n > PREFIX_MAX || s.p[0] == '_' || s.p[s.n - 1] == '_')
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '_' && (s.p[i] < 'a' || s.p[i] > 'z'))
            return false;
    return true;
}

static bool decode_suffix(str s, u8 uuid[16])
{
    unsigned __int128 value = 0;
    if (s.p[0] < '0' || s.p[0] > '7') /* else it would not fit in 128 bits */
        return false;
    for (size_t i = 0; i < TYPEID_SUFFIX; i++) {
        const char *at = s.p[i] != 0 ? strchr(alphabet, s.p[i]) : NULL;
        if (at == NULL)
            return false;
        value = value << 5 | (unsigned)(at - alphabet);
    }
    for (int i = 16; i-- > 0; value >>= 8)
        uuid[i] = (u8)value;
    return true;
}

bool typeid_decode(str s, const char *prefix, u8 uuid[16])
{
    if (s.n < TYPEID_SUFFIX + 2 || s.p[s.n - TYPEID_SUFFIX - 1] != '_')
        return false;
    str front = str_slice(s, 0, s.n - TYPEID_SUFFIX - 1);
    if (prefix != NULL ? !str_eq(front, str_of(prefix)) : !prefix_valid(front))
        return false;
    u8 bytes[16];
    if (!decode_suffix(str_slice(s, s.n - TYPEID_SUFFIX, s.n), bytes))
        return false;
    memcpy(uuid, bytes, sizeof bytes);
    return true;
}

bool typeid_valid(str s, const char *prefix)
{
    u8 unused[16];
    return typeid_decode(s, prefix, unused);
}

i64 typeid_time_ms(str s)
{
    u8 uuid[16];
    if (!typeid_decode(s, NULL, uuid) || uuid[6] >> 4 != 7)
        return -1;
    i64 ms = 0;
    for (int i = 0; i < 6; i++)
        ms = ms << 8 | uuid[i];
    return ms;
}
