/* trace.c - traceparent in and out (W3C Trace Context, level 1).
 *
 * Nothing is recorded as a span here: each request only gets a span id of its own, so that what it calls can be told from it. The sampling
 * flag is handed on as it came; a trace that begins here is not sampled, because whoever samples decides at the edge. */
#include "core/trace.h"

#include "base/buf.h"
#include "base/rng.h"
#include "codec/hash.h"

#include <string.h>

enum { SPAN_AT = 36, SPAN_ID = 16, FLAGS_AT = 53, ID_AT = 3 };

static bool is_hex(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(s.p[i] >= '0' && s.p[i] <= '9') && !(s.p[i] >= 'a' && s.p[i] <= 'f'))
            return false;
    return true;
}

static bool is_zero(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '0')
            return false;
    return true;
}

/* A later version may be longer, but only behind a further hyphen. */
bool trace_valid(str t)
{
    str version = str_slice(t, 0, 2), id = str_slice(t, ID_AT, ID_AT + TRACE_ID),
        span = str_slice(t, SPAN_AT, SPAN_AT + SPAN_ID), flags = str_slice(t, FLAGS_AT, TRACE_TEXT);
    if (t.n < TRACE_TEXT || t.p[2] != '-' || t.p[SPAN_AT - 1] != '-' || t.p[FLAGS_AT - 1] != '-')
        return false;
    if (!is_hex(version) || !is_hex(id) || !is_hex(span) || !is_hex(flags))
        return false;
    if (str_eq(version, S("00")) ? t.n != TRACE_TEXT : t.n > TRACE_TEXT && t.p[TRACE_TEXT] != '-')
        return false;
    return !str_eq(version, S("ff")) && !is_zero(id) && !is_zero(span);
}

static void put_hex(char *to, const u8 *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        to[2 * i] = digits[bytes[i] >> 4];
        to[2 * i + 1] = digits[bytes[i] & 15];
    }
}

/* Of the flags only `sampled` is known to us, so only that is handed on. */
static bool is_sampled(str t)
{
    char low = t.p[FLAGS_AT + 1];
    return ((low <= '9' ? low - '0' : low - 'a' + 10) & 1) != 0;
}

str trace_next(struct arena *a, str given, u32 count)
{
    u8 random[(TRACE_ID + SPAN_ID) / 2];
    bool known = count == 1 && trace_valid(given);
    char *p = arena_alloc(a, TRACE_TEXT);
    if (p == NULL)
        return STR_NONE;
    rng_bytes(random, sizeof random);
    random[0] |= 1; /* neither id is ever zero, so neither is ever invalid */
    random[TRACE_ID / 2] |= 1;
    memcpy(p, "00-", 3);
    if (known)
        memcpy(p + ID_AT, given.p + ID_AT, TRACE_ID);
    else
        put_hex(p + ID_AT, random, TRACE_ID / 2);
    p[SPAN_AT - 1] = '-';
    put_hex(p + SPAN_AT, random + TRACE_ID / 2, SPAN_ID / 2);
    memcpy(p + FLAGS_AT - 1, known && is_sampled(given) ? "-01" : "-00", 3);
    return (str){ p, TRACE_TEXT };
}

str trace_span(struct arena *a, str traceparent, str seed)
{
    u8 hash[SHA256_BYTES];
    char *p = arena_alloc(a, TRACE_TEXT);
    if (p == NULL)
        return STR_NONE;
    hash_sha256(seed, hash);
    hash[0] |= 1; /* never zero, so never invalid */
    memcpy(p, traceparent.p, TRACE_TEXT);
    put_hex(p + SPAN_AT, hash, SPAN_ID / 2);
    return (str){ p, TRACE_TEXT };
}

static bool is_printable(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((s.p[i] < ' ' && s.p[i] != '\t') || s.p[i] > '~')
            return false;
    return true;
}

str trace_state(struct arena *a, const struct pair *headers, u32 count)
{
    struct buf b = { .arena = a };
    for (u32 i = 0; i < count; i++) {
        str value = str_trim(headers[i].value), member;
        if (!str_eq(headers[i].name, S("tracestate")))
            continue;
        while (str_cut(&value, ',', &member)) {
            member = str_trim(member);
            size_t joined = b.n + (b.n > 0) + member.n;
            if (member.n == 0 || !is_printable(member))
                continue;
            if (joined > TRACE_STATE_MAX)
                return b.n > 0 ? buf_view(&b) : STR_NONE; /* the newest stand first */
            if (b.n > 0)
                buf_char(&b, ',');
            buf_str(&b, member);
        }
    }
    return b.fail == OK && b.n > 0 ? buf_view(&b) : STR_NONE;
}

str trace_id(str t)
{
    return str_slice(t, ID_AT, ID_AT + TRACE_ID);
}
