/* json_write.c - compact JSON text from the DOM and from streams of calls, and JSON pointers.
 *
 * Numbers come out so that they read back as the same type and value: integers exactly, reals with the fewest of 15, 16 or 17
 * digits that give the same double, and never without '.' or 'e'. */
#include "codec/json.h"
#include "codec/json_scan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REAL_MAX = 32, SHORT_SCALE = 1000 * 1000 };

/* ---- strings ---- */

/* 0 = as it is; 'u' = \u00XX; else the letter behind the backslash. */
static const char escapes[256] = {
    [0 ... 31] = 'u', ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['"'] = '"', ['\\'] = '\\',
};

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
    u64 high = 0;
    const char *end = s.p + s.n;
    for (const char *p = s.p; p < end;) {
        const char *stop = json_scan(p, end, &high);
        buf_put(b, p, (size_t)(stop - p));
        if (stop < end)
            put_escape(b, *stop++);
        p = stop;
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

static void put_odd(struct buf *b, char before, str s, char after)
{
    if (before != 0)
        buf_char(b, before);
    buf_char(b, '"');
    if (str_utf8(s))
        put_valid(b, s);
    else
        put_repaired(b, s);
    buf_char(b, '"');
    if (after != 0)
        buf_char(b, after);
}

/* memcpy() for texts that are mostly shorter than the call would be worth: two words that overlap. */
static inline void copy_text(char *to, str s)
{
    if (s.n > JSON_BLOCK) {
        memcpy(to, s.p, s.n);
    } else if (s.n >= 8) {
        u64 a = json_load8(s.p), b = json_load8(s.p + s.n - 8);
        memcpy(to, &a, 8);
        memcpy(to + s.n - 8, &b, 8);
    } else if (s.n >= 4) {
        u32 a = (u32)json_load4(s.p), b = (u32)json_load4(s.p + s.n - 4);
        memcpy(to, &a, 4);
        memcpy(to + s.n - 4, &b, 4);
    } else {
        for (size_t i = 0; i < s.n; i++)
            to[i] = s.p[i];
    }
}

/* The text in quotes, between two bytes of which 0 is none. Nearly every text is plain: one look, one copy. */
static inline void put_text(struct buf *b, char before, str s, char after)
{
    size_t n = (before != 0) + s.n + 2 + (after != 0);
    if (s.p == NULL) /* nothing is added to no address */
        s = S("");
    if (json_plain(s) && buf_room(b, n)) {
        char *to = b->p + b->n;
        /* There is room, so there is a place. */
        *to = before; // NOLINT(clang-analyzer-core.NullDereference)
        to += before != 0;
        *to++ = '"';
        copy_text(to, s);
        to[s.n] = '"';
        if (after != 0)
            to[s.n + 1] = after;
        b->n += n;
    } else {
        put_odd(b, before, s, after);
    }
}

void json_put_str(struct buf *b, str s)
{
    put_text(b, 0, s, 0);
}

/* ---- numbers ---- */

/* Prices, rates and the like: m / 10^k with few digits, where one exact division proves that the text reads back as v. Below 10^8
 * the product stays under 2^53, so that m is the nearest integer. */
static size_t short_decimal(double v, char out[REAL_MAX])
{
    double size = fabs(v);
    i64 m = size < 1e8 ? (i64)(size * SHORT_SCALE + 0.5) : 0;
    if ((double)m / SHORT_SCALE != size)
        return 0;
    struct buf b = { .p = out, .cap = REAL_MAX };
    if (signbit(v))
        buf_char(&b, '-');
    buf_i64(&b, m / SHORT_SCALE);
    buf_char(&b, '.');
    i64 rest = m % SHORT_SCALE;
    do {
        buf_char(&b, (char)('0' + rest / (SHORT_SCALE / 10)));
        rest = rest % (SHORT_SCALE / 10) * 10;
    } while (rest != 0);
    return b.n;
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

__attribute__((noinline)) void json_put_real(struct buf *b,
                                             double v) /* its array would slow all of json_write() down */
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
    for (u32 i = 0; i < j->n; i++) {
        buf_char(b, i == 0 ? '[' : ',');
        json_write(b, &j->items[i]);
    }
    buf_str(b, j->n == 0 ? S("[]") : S("]"));
}

static void write_members(struct buf *b, const struct json *j)
{
    for (u32 i = 0; i < j->n; i++) {
        put_text(b, i == 0 ? '{' : ',', j->members[i].key, ':');
        json_write(b, &j->members[i].value);
    }
    buf_str(b, j->n == 0 ? S("{}") : S("}"));
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
        put_text(b, 0, json_str(j), 0);
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
    put_text(w->b, w->comma ? ',' : 0, key, ':');
    w->comma = false;
}

void jw_str(struct json_writer *w, str s)
{
    if (s.p == NULL) {
        jw_null(w);
        return;
    }
    put_text(w->b, w->comma ? ',' : 0, s, 0);
    w->comma = true;
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
