/* json_write.c - compact JSON text from the DOM and from streams of calls, and JSON pointers.
 *
 * Numbers come out so that they read back as the same type and value: integers exactly, reals with the fewest of 15, 16 or 17
 * digits that give the same double, and never without '.' or 'e'. */
#include "codec/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REAL_MAX = 32 };

/* ---- strings ---- */

/* 0 = as it is; 'u' = \u00XX; else the letter behind the backslash. */
static const char escapes[256] = {
    [0 ... 31] = 'u', ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['"'] = '"', ['\\'] = '\\',
};

#define EACH_BYTE(c) (0x0101010101010101u * (u64)(c))

/* Whether one of eight bytes may need an escape: quote, backslash or control. */
static inline bool eight_plain(const char *p)
{
    u64 x;
    memcpy(&x, p, 8);
    u64 quote = x ^ EACH_BYTE('"'), slash = x ^ EACH_BYTE('\\');
    u64 hit = ((quote - EACH_BYTE(1)) & ~quote) | ((slash - EACH_BYTE(1)) & ~slash) | ((x - EACH_BYTE(0x20)) & ~x);
    return (hit & EACH_BYTE(0x80)) == 0;
}

static size_t plain_run(str s, size_t from)
{
    size_t i = from;
    while (s.n - i >= 8 && eight_plain(s.p + i))
        i += 8;
    while (i < s.n && escapes[(unsigned char)s.p[i]] == 0)
        i++;
    return i;
}

static void put_escape(struct buf *b, char c)
{
    static const char hex[] = "0123456789abcdef";
    char letter = escapes[(unsigned char)c];
    if (letter == 'u')
        buf_put(b, (char[]){ '\\', 'u', '0', '0', hex[c >> 4 & 15], hex[c & 15] }, 6);
    else
        buf_put(b, (char[]){ '\\', letter }, 2);
}

static void put_valid(struct buf *b, str s)
{
    for (size_t i = 0; i < s.n;) {
        size_t end = plain_run(s, i);
        buf_put(b, s.p + i, end - i);
        if (end < s.n)
            put_escape(b, s.p[end++]);
        i = end;
    }
}

/* A broken promise of the caller (bytes from outside): the text stays readable and the JSON valid. */
static void put_repaired(struct buf *b, str s)
{
    for (size_t i = 0; i < s.n;) {
        size_t n = str_utf8_at(s, i);
        if (n == 0)
            BUF_LIT(b, "\xEF\xBF\xBD");
        else
            put_valid(b, str_slice(s, i, i + n));
        i += MAX(n, (size_t)1);
    }
}

void json_put_str(struct buf *b, str s)
{
    buf_char(b, '"');
    if (str_utf8(s))
        put_valid(b, s);
    else
        put_repaired(b, s);
    buf_char(b, '"');
}

/* ---- numbers ---- */

/* Prices, rates and the like: m / 10^k with few digits, where one exact division proves that the text reads back as v. */
static size_t short_decimal(double v, char out[REAL_MAX])
{
    static const double powers[] = { 1, 10, 100, 1e3, 1e4, 1e5, 1e6 };
    for (int k = 1; k < (int)COUNT(powers) && fabs(v) < 1e8; k++) { /* so m stays below 2^53 */
        i64 m = llround(v * powers[k]);
        if (m == 0 || (double)m / powers[k] != v)
            continue;
        char text[REAL_MAX];
        struct buf b = { .p = text, .cap = sizeof text };
        if (m < 0)
            buf_char(&b, '-');
        buf_i64(&b, llabs(m) / (i64)powers[k]);
        buf_char(&b, '.');
        for (i64 rest = llabs(m) % (i64)powers[k], i = k; i-- > 0; rest = rest * 10 % (i64)powers[k])
            buf_char(&b, (char)('0' + rest * 10 / (i64)powers[k]));
        memcpy(out, text, b.n);
        return b.n;
    }
    return 0;
}

static size_t real_text(double v, char out[REAL_MAX])
{
    int n = (int)short_decimal(v, out);
    if (n > 0)
        return (size_t)n;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(out, REAL_MAX, "%.*g", digits, v);
        if (strtod(out, NULL) == v)
            break;
    }
    if (strpbrk(out, ".e") == NULL) {
        memcpy(out + n, ".0", 3);
        n += 2;
    }
    return (size_t)n;
}

void json_put_real(struct buf *b, double v)
{
    char text[REAL_MAX];
    if (isfinite(v))
        buf_put(b, text, real_text(v, text));
    else
        BUF_LIT(b, "null");
}

/* ---- the DOM ---- */

static void write_items(struct buf *b, const struct json *j)
{
    buf_char(b, '[');
    for (u32 i = 0; i < j->n; i++) {
        if (i > 0)
            buf_char(b, ',');
        json_write(b, &j->items[i]);
    }
    buf_char(b, ']');
}

static void write_members(struct buf *b, const struct json *j)
{
    buf_char(b, '{');
    for (u32 i = 0; i < j->n; i++) {
        if (i > 0)
            buf_char(b, ',');
        json_put_str(b, j->members[i].key);
        buf_char(b, ':');
        json_write(b, &j->members[i].value);
    }
    buf_char(b, '}');
}

void json_write(struct buf *b, const struct json *j)
{
    switch ((enum json_type)j->type) {
    case JSON_NULL:
        BUF_LIT(b, "null");
        break;
    case JSON_BOOL:
        buf_str(b, j->boolean ? S("true") : S("false"));
        break;
    case JSON_INT:
        buf_i64(b, j->integer);
        break;
    case JSON_REAL:
        json_put_real(b, j->real);
        break;
    case JSON_STR:
        json_put_str(b, json_str(j));
        break;
    case JSON_ARRAY:
        write_items(b, j);
        break;
    case JSON_OBJECT:
        write_members(b, j);
        break;
    }
}

str json_text(struct arena *a, const struct json *j)
{
    struct buf b = { .arena = a };
    json_write(&b, j);
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

/* ---- its size ---- */

static size_t str_size(str s)
{
    size_t n = 2;
    bool valid = str_utf8(s);
    for (size_t i = 0, step; i < s.n; i += step) {
        char letter = escapes[(unsigned char)s.p[i]];
        size_t whole = valid ? 1 : str_utf8_at(s, i);
        step = MAX(whole, (size_t)1);
        n += letter == 'u' ? 6 : letter != 0 ? 2 : whole != 0 ? whole : 3;
    }
    return n;
}

static size_t integer_size(i64 value)
{
    size_t n = value < 0 ? 2 : 1;
    while ((value /= 10) != 0)
        n++;
    return n;
}

static size_t items_size(const struct json *j)
{
    size_t n = 2 + (j->n > 0 ? j->n - 1 : 0);
    for (u32 i = 0; i < j->n; i++)
        n += json_size(&j->items[i]);
    return n;
}

static size_t members_size(const struct json *j)
{
    size_t n = 2 + (j->n > 0 ? j->n - 1 : 0);
    for (u32 i = 0; i < j->n; i++)
        n += str_size(j->members[i].key) + 1 + json_size(&j->members[i].value);
    return n;
}

size_t json_size(const struct json *j)
{
    char text[REAL_MAX];
    switch ((enum json_type)j->type) {
    case JSON_NULL:
        break;
    case JSON_BOOL:
        return j->boolean ? 4 : 5;
    case JSON_INT:
        return integer_size(j->integer);
    case JSON_REAL:
        return isfinite(j->real) ? real_text(j->real, text) : 4;
    case JSON_STR:
        return str_size(json_str(j));
    case JSON_ARRAY:
        return items_size(j);
    case JSON_OBJECT:
        return members_size(j);
    }
    return 4; /* null */
}

/* ---- pointers ---- */

str json_pointer_key(struct arena *a, str pointer, str key)
{
    struct buf b = { .arena = a };
    if (buf_room(&b, pointer.n + key.n + 1)) {
        buf_str(&b, pointer);
        buf_char(&b, '/');
        for (size_t i = 0; i < key.n; i++) {
            if (key.p[i] == '~')
                BUF_LIT(&b, "~0");
            else if (key.p[i] == '/')
                BUF_LIT(&b, "~1");
            else
                buf_char(&b, key.p[i]);
        }
    }
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

str json_pointer_index(struct arena *a, str pointer, size_t index)
{
    return strf(a, "%.*s/%zu", STR_FMT(pointer), index);
}

/* ---- the stream ---- */

static void before_value(struct json_writer *w)
{
    if (w->comma)
        buf_char(w->b, ',');
    w->comma = true;
}

void jw_begin(struct json_writer *w, char bracket)
{
    before_value(w);
    buf_char(w->b, bracket);
    w->comma = false;
}

void jw_end(struct json_writer *w, char bracket)
{
    buf_char(w->b, bracket);
    w->comma = true;
}

void jw_key(struct json_writer *w, str key)
{
    before_value(w);
    json_put_str(w->b, key);
    buf_char(w->b, ':');
    w->comma = false;
}

void jw_str(struct json_writer *w, str s)
{
    before_value(w);
    if (s.p != NULL)
        json_put_str(w->b, s);
    else
        BUF_LIT(w->b, "null");
}

void jw_i64(struct json_writer *w, i64 v)
{
    before_value(w);
    buf_i64(w->b, v);
}

void jw_real(struct json_writer *w, double v)
{
    before_value(w);
    json_put_real(w->b, v);
}

void jw_bool(struct json_writer *w, bool v)
{
    before_value(w);
    buf_str(w->b, v ? S("true") : S("false"));
}

void jw_null(struct json_writer *w)
{
    before_value(w);
    BUF_LIT(w->b, "null");
}

void jw_raw(struct json_writer *w, str json)
{
    before_value(w);
    buf_str(w->b, json.n > 0 ? json : S("null"));
}

void jw_json(struct json_writer *w, const struct json *j)
{
    before_value(w);
    json_write(w->b, j);
}
