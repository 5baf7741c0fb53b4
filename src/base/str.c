/* str.c - see str.h. */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <pthread.h>
#include <sys/random.h>

str str_of(const char *z)
{
    return z != NULL ? (str){ z, strlen(z) } : STR_NONE;
}

bool str_eq_nocase(str a, str b)
{
    return a.n == b.n && (a.n == 0 || strncasecmp(a.p, b.p, a.n) == 0);
}

bool str_eq_secret(str a, str b)
{
    if (a.n != b.n)
        return false;
    volatile unsigned char difference = 0;
    for (size_t i = 0; i < a.n; i++)
        difference |= (unsigned char)(a.p[i] ^ b.p[i]);
    return difference == 0;
}

int str_cmp(str a, str b)
{
    size_t n = MIN(a.n, b.n);
    int c = n > 0 ? memcmp(a.p, b.p, n) : 0;
    return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

bool str_starts(str s, str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

bool str_ends(str s, str suffix)
{
    return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

i64 str_find_char(str s, char c, size_t from)
{
    const char *hit = from < s.n ? memchr(s.p + from, c, s.n - from) : NULL;
    return hit != NULL ? hit - s.p : -1;
}

i64 str_find(str s, str needle, size_t from)
{
    const char *hit = from <= s.n && s.p != NULL ? memmem(s.p + from, s.n - from, needle.p, needle.n) : NULL;
    return hit != NULL ? hit - s.p : -1;
}

str str_slice(str s, size_t from, size_t to)
{
    from = MIN(from, s.n);
    to = MAX(MIN(to, s.n), from);
    return s.p != NULL ? (str){ s.p + from, to - from } : s;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

str str_trim(str s)
{
    while (s.n > 0 && is_space(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

bool str_cut(str *rest, char sep, str *part)
{
    if (rest->p == NULL)
        return false;
    i64 at = str_find_char(*rest, sep, 0);
    if (at < 0) {
        *part = *rest;
        *rest = STR_NONE;
    } else {
        *part = str_slice(*rest, 0, (size_t)at);
        *rest = str_slice(*rest, (size_t)at + 1, rest->n);
    }
    return true;
}

bool str_i64(str s, i64 min, i64 max, i64 *out)
{
    bool negative = s.n > 0 && s.p[0] == '-';
    size_t i = negative ? 1 : 0;
    if (i == s.n)
        return false;
    i64 value = 0;
    for (; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        int digit = s.p[i] - '0';
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return false;
    }
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* Length of the well-formed sequence at p (RFC 3629 table), 0 when malformed. */
static size_t utf8_sequence(const unsigned char *p, size_t n)
{
    unsigned char a = p[0];
    if (a < 0x80)
        return 1;
    if (a >= 0xC2 && a <= 0xDF)
        return n >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (a >= 0xE0 && a <= 0xEF) {
        unsigned char low = a == 0xE0 ? 0xA0 : 0x80, high = a == 0xED ? 0x9F : 0xBF;
        return n >= 3 && p[1] >= low && p[1] <= high && (p[2] & 0xC0) == 0x80 ? 3 : 0;
    }
    if (a >= 0xF0 && a <= 0xF4) {
        unsigned char low = a == 0xF0 ? 0x90 : 0x80, high = a == 0xF4 ? 0x8F : 0xBF;
        return n >= 4 && p[1] >= low && p[1] <= high && (p[2] & 0xC0) == 0x80 && (p[3] & 0xC0) == 0x80 ? 4 : 0;
    }
    return 0;
}

bool str_utf8(str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    for (size_t i = 0; i < s.n;) {
        u64 eight;
        if (s.n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        size_t n = utf8_sequence(p + i, s.n - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

size_t str_utf8_at(str s, size_t i)
{
    return utf8_sequence((const unsigned char *)s.p + i, s.n - i);
}

size_t str_utf8_len(str s)
{
    size_t count = 0;
    for (size_t i = 0; i < s.n; i++)
        count += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return count;
}

/* SipHash-1-3 (Aumasson, Bernstein 2012). */
#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
static inline void sip_round(u64 v[4])
{
    v[0] += v[1], v[1] = ROTL(v[1], 13), v[1] ^= v[0], v[0] = ROTL(v[0], 32);
    v[2] += v[3], v[3] = ROTL(v[3], 16), v[3] ^= v[2];
    v[0] += v[3], v[3] = ROTL(v[3], 21), v[3] ^= v[0];
    v[2] += v[1], v[1] = ROTL(v[1], 17), v[1] ^= v[2], v[2] = ROTL(v[2], 32);
}

static u64 hash_key[2];
static pthread_once_t hash_once = PTHREAD_ONCE_INIT;

static void hash_key_make(void)
{
    if (getrandom(hash_key, sizeof hash_key, 0) != (ssize_t)sizeof hash_key)
        assert(!"the kernel has no randomness");
}

u64 str_hash(str s)
{
    pthread_once(&hash_once, hash_key_make);
    u64 v[4] = { hash_key[0] ^ 0x736f6d6570736575u, hash_key[1] ^ 0x646f72616e646f6du,
                 hash_key[0] ^ 0x6c7967656e657261u, hash_key[1] ^ 0x7465646279746573u };
    size_t i = 0;
    for (u64 m; s.n - i >= 8; i += 8) {
        memcpy(&m, s.p + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    u64 last = (u64)s.n << 56;
    for (size_t k = 0; i + k < s.n; k++)
        last |= (u64)(unsigned char)s.p[i + k] << (8 * k);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

str str_dup(struct arena *a, str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (p == NULL)
        return STR_NONE;
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    return (str){ p, s.n };
}

str str_lower(struct arena *a, str s)
{
    str copy = str_dup(a, s);
    char *p = (char *)copy.p; /* ours until we return it */
    for (size_t i = 0; i < copy.n; i++)
        if (p[i] >= 'A' && p[i] <= 'Z')
            p[i] += 'a' - 'A';
    return copy;
}

str str_concat(struct arena *a, const str *parts, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += parts[i].n;
    char *p = arena_alloc(a, n + 1);
    if (p == NULL)
        return STR_NONE;
    char *to = p;
    for (size_t i = 0; i < count; to += parts[i].n, i++)
        if (parts[i].n > 0)
            memcpy(to, parts[i].p, parts[i].n);
    return (str){ p, n };
}

str strf(struct arena *a, const char *format, ...)
{
    char small[256];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    char *p = n >= 0 ? arena_alloc(a, (size_t)n + 1) : NULL;
    if (p != NULL && (size_t)n < sizeof small)
        memcpy(p, small, (size_t)n + 1);
    else if (p != NULL)
        vsnprintf(p, (size_t)n + 1, format, again);
    va_end(again);
    va_end(args);
    return p != NULL ? (str){ p, (size_t)n } : STR_NONE;
}

const char *str_z(struct arena *a, str s)
{
    return str_dup(a, s).p;
}
