/* json_scan.h - which bytes of a string need attention: a quote, a backslash, a control character; and apart from them, what is not ASCII.
 *
 * Sixteen bytes at a time with SSE2, which every x86-64 has; elsewhere eight in a word. Private to the JSON codec. */
#pragma once

#include "base/str.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define EACH_BYTE(c) (0x0101010101010101u * (u64)(c))

static inline u64 json_load8(const char *p)
{
    u64 x;
    memcpy(&x, p, 8);
    return x;
}

static inline u64 json_load4(const char *p)
{
    u32 x;
    memcpy(&x, p, 4);
    return x;
}

/* A mask whose lowest set bit stands in the first byte that is a quote, a backslash or a control character. Bytes above that one may be marked wrongly
 * (borrows), which is why only the lowest counts. */
static inline u64 json_specials(u64 x)
{
    u64 quote = x ^ EACH_BYTE('"'), slash = x ^ EACH_BYTE('\\');
    return (((quote - EACH_BYTE(1)) & ~quote) | ((slash - EACH_BYTE(1)) & ~slash) | ((x - EACH_BYTE(0x20)) & ~x)) &
           EACH_BYTE(0x80);
}

/* Bits of bytes: `special` as above, `high` for what is not ASCII. */
struct json_marks {
    u32 special, high;
};

enum { JSON_BLOCK = 16 };

/* One bit of each byte, gathered in the lowest eight. */
static inline u32 json_gather(u64 tops)
{
    return (u32)((tops >> 7) * 0x0102040810204080u >> 56);
}

/* json_specials() exact for every byte: no borrow may cross one, since here all of them count. */
static inline u64 json_exact(u64 x)
{
    const u64 low = EACH_BYTE(0x7f);
    u64 quote = x ^ EACH_BYTE('"'), slash = x ^ EACH_BYTE('\\');
    u64 other = (((quote & low) + low) | quote) & (((slash & low) + low) | slash) & (((x & low) + EACH_BYTE(0x60)) | x);
    return ~other & EACH_BYTE(0x80);
}

static inline struct json_marks json_marks_portable(const char *p)
{
    u64 a = json_load8(p), b = json_load8(p + 8);
    return (struct json_marks){ json_gather(json_exact(a)) | json_gather(json_exact(b)) << 8,
                                json_gather(a & EACH_BYTE(0x80)) | json_gather(b & EACH_BYTE(0x80)) << 8 };
}

#ifdef __SSE2__
static inline struct json_marks json_marks(const char *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
    __m128i quote = _mm_cmpeq_epi8(x, _mm_set1_epi8('"')), slash = _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'));
    u32 special = (u32)_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, slash)));
    return (struct json_marks){ special, (u32)_mm_movemask_epi8(x) };
}
#else
static inline struct json_marks json_marks(const char *p)
{
    return json_marks_portable(p);
}
#endif

/* The first special byte at or after p; *high gathers whether anything before it was not ASCII. */
static inline const char *json_scan(const char *p, const char *end, u64 *high)
{
    for (; end - p >= JSON_BLOCK; p += JSON_BLOCK) {
        struct json_marks m = json_marks(p);
        if (m.special != 0) {
            *high |= m.high & (m.special - 1) & ~m.special;
            return p + __builtin_ctz(m.special);
        }
        *high |= m.high;
    }
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\' || c < 0x20)
            break;
        *high |= c & 0x80;
    }
    return p;
}

/* Whether all of it is ASCII that stands in a string as it is. Shorter than a block, it is covered by two words that overlap. */
static inline bool json_plain(str s)
{
    const char *p = s.p, *end = s.p + s.n;
    if (s.n >= JSON_BLOCK) {
        u32 hit = 0;
        for (; end - p >= JSON_BLOCK; p += JSON_BLOCK) {
            struct json_marks m = json_marks(p);
            hit |= m.special | m.high;
        }
        struct json_marks last = json_marks(end - JSON_BLOCK);
        return (hit | last.special | last.high) == 0;
    }
    u64 a, b = EACH_BYTE(' ');
    if (s.n >= 8) {
        a = json_load8(p);
        b = json_load8(end - 8);
    } else if (s.n >= 4) {
        a = json_load4(p) | json_load4(end - 4) << 32;
    } else {
        a = b;
        for (size_t i = 0; i < s.n; i++)
            a = a << 8 | (unsigned char)p[i];
    }
    return ((json_specials(a) | json_specials(b) | a | b) & EACH_BYTE(0x80)) == 0;
}
