/* str.h - text as {pointer, length}: never owned, never changed, not NUL-terminated.
 *
 * A str borrows from an arena, a literal or a buffer that outlives it. `p == NULL` is "no text"; `n == 0` with p is "".
 * Functions that make text take the arena it will live in and return {NULL, 0} at the arena's cap. */
#pragma once

#include "base/arena.h"
#include "base/err.h"

#include <string.h>

typedef struct str {
    const char *p;
    size_t n;
} str;

#define S(literal) ((str){ "" literal, sizeof(literal) - 1 })
#define S_INIT(literal)                 \
    {                                   \
        "" literal, sizeof(literal) - 1 \
    }
#define STR_NONE ((str){ NULL, 0 })
/* For printf: printf("%.*s", STR_FMT(s)). */
#define STR_FMT(s) (int)(s).n, (s).p

/* Of a NUL-terminated string, which must outlive the result; NULL gives STR_NONE. */
str str_of(const char *z);
/* Inline, since most pairs differ in length already. */
static inline bool str_eq(str a, str b)
{
    /* A str of some bytes has a place. */
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); // NOLINT(clang-analyzer-core.NonNullParamChecker)
}
bool str_eq_nocase(str a, str b); /* ASCII */
/* In constant time for equal lengths: for secrets. */
bool str_eq_secret(str a, str b);
int str_cmp(str a, str b); /* bytes, as COLLATE "C" */
bool str_starts(str s, str prefix);
bool str_ends(str s, str suffix);
/* Index of the first c or needle at or after from; -1 when absent. */
i64 str_find_char(str s, char c, size_t from);
i64 str_find(str s, str needle, size_t from);
/* [from, to) clamped to the text. */
str str_slice(str s, size_t from, size_t to);
str str_trim(str s); /* ASCII space, tab, CR, LF */
/* Takes the text before `sep` off the front of *rest. False when *rest is used up; empty parts count. */
bool str_cut(str *rest, char sep, str *part);
/* Whole text as a decimal number within the range; false and *out untouched otherwise. */
bool str_i64(str s, i64 min, i64 max, i64 *out);
/* Valid UTF-8 without surrogates and overlong forms (RFC 3629). */
bool str_utf8(str s);
/* Bytes of the well-formed character at i < s.n; 0 when it is malformed. */
size_t str_utf8_at(str s, size_t i);
/* Number of code points of valid UTF-8. */
size_t str_utf8_len(str s);
/* Keyed (SipHash-1-3, per-process key), so that clients cannot choose collisions. */
u64 str_hash(str s);

str str_dup(struct arena *a, str s);
str str_lower(struct arena *a, str s); /* ASCII */
str str_concat(struct arena *a, const str *parts, size_t count);
/* printf into the arena. */
str strf(struct arena *a, const char *format, ...) PRINTF_LIKE(2, 3);
/* A NUL-terminated copy for C interfaces; NULL at the cap. */
const char *str_z(struct arena *a, str s);
