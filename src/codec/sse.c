/* sse.c - see sse.h.
 *
 * A line is read where it stands when it came in one piece; only what is cut is gathered. Decoding goes line by line: the ends of lines are ASCII, which no
 * sequence of UTF-8 holds, so it comes to the same as decoding the stream. */
#include "codec/sse.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void sse_init(struct sse *s, struct arena *a, sse_fn *fn, void *ctx)
{
    *s = (struct sse){
        .fn = fn,
        .ctx = ctx,
        .retry_ms = -1,
        .line = { .arena = a, .max = SSE_LINE_MAX },
        .text = { .arena = a },
        .data = { .arena = a, .max = SSE_DATA_MAX + 1 }, /* with the LF behind the last line */
        .type = { .arena = a },
        .id = { .arena = a },
    };
}

/* ---- text ---- */

/* Of bytes that are no character: as many as could still have begun one (Unicode, 3.9, "maximal subpart"), which one U+FFFD stands for. */
static size_t broken_at(str s, size_t i)
{
    u8 first = (u8)s.p[i], low = 0x80, high = 0xbf;
    size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                    : (first & 0xf0) == 0xe0         ? 3
                    : first >= 0xf0 && first <= 0xf4 ? 4
                                                     : 1;
    low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : low;
    high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : high;
    size_t n = 1;
    for (; n < length && i + n < s.n && (u8)s.p[i + n] >= low && (u8)s.p[i + n] <= high; n++) {
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

/* The line as text: itself, nearly always. */
static str decoded(struct sse *s, str line)
{
    if (str_utf8(line))
        return line;
    s->text.n = 0;
    for (size_t i = 0, n; i < line.n; i += n) {
        n = str_utf8_at(line, i);
        if (n > 0)
            buf_put(&s->text, line.p + i, n);
        else
            BUF_LIT(&s->text, REPLACEMENT);
        n = n > 0 ? n : broken_at(line, i);
    }
    return buf_view(&s->text);
}

/* ---- fields ---- */

static void set(struct buf *b, str value)
{
    b->n = 0;
    buf_str(b, value);
}

static void on_data(struct sse *s, str value)
{
    buf_str(&s->data, value);
    buf_char(&s->data, '\n');
}

static void on_event(struct sse *s, str value)
{
    set(&s->type, value);
}

static void on_id(struct sse *s, str value)
{
    if (str_find_char(value, '\0', 0) < 0)
        set(&s->id, value);
}

/* Digits only: what reads numbers would take a sign. */
static void on_retry(struct sse *s, str value)
{
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] < '0' || value.p[i] > '9')
            return;
    i64 ms;
    if (str_i64(value, 0, INT64_MAX, &ms))
        s->retry_ms = ms;
}

static const struct {
    str name;
    void (*take)(struct sse *s, str value);
} fields[] = {
    { S_INIT("data"), on_data },
    { S_INIT("event"), on_event },
    { S_INIT("id"), on_id },
    { S_INIT("retry"), on_retry },
};

static err dispatch(struct sse *s)
{
    str data = buf_view(&s->data), type = buf_view(&s->type);
    struct sse_event event = {
        .type = type.n > 0 ? type : S("message"),
        .data = str_slice(data, 0, data.n - (data.n > 0)),
        .id = buf_view(&s->id),
    };
    err e = data.n > 0 ? s->fn(s->ctx, &event) : OK;
    s->data.n = s->type.n = 0;
    return e;
}

static err on_line(struct sse *s, str line)
{
    if (!s->begun && str_starts(line, S("\xef\xbb\xbf")))
        line = str_slice(line, 3, line.n);
    s->begun = true;
    if (line.n == 0)
        return dispatch(s);
    line = decoded(s, line);
    i64 colon = str_find_char(line, ':', 0);
    str name = colon < 0 ? line : str_slice(line, 0, (size_t)colon);
    str value = colon < 0 ? S("") : str_slice(line, (size_t)colon + 1, line.n);
    if (value.n > 0 && value.p[0] == ' ')
        value = str_slice(value, 1, value.n);
    for (size_t i = 0; i < COUNT(fields); i++)
        if (str_eq(name, fields[i].name))
            fields[i].take(s, value);
    const struct buf *all[] = { &s->text, &s->data, &s->type, &s->id };
    for (size_t i = 0; i < COUNT(all); i++)
        if (all[i]->fail != OK)
            return all[i]->fail;
    return OK;
}

/* ---- lines ---- */

static size_t line_end(str bytes)
{
    const char *lf = memchr(bytes.p, '\n', bytes.n);
    size_t n = lf != NULL ? (size_t)(lf - bytes.p) : bytes.n;
    const char *cr = memchr(bytes.p, '\r', n);
    return cr != NULL ? (size_t)(cr - bytes.p) : n;
}

/* Takes the line that ends at n, or the rest that has no end yet. */
static err take_line(struct sse *s, str bytes, size_t n)
{
    str piece = str_slice(bytes, 0, n);
    if (n > SSE_LINE_MAX)
        return ERR_TOO_LARGE;
    if (s->line.n > 0 || n == bytes.n) {
        buf_str(&s->line, piece);
        piece = buf_view(&s->line);
    }
    if (s->line.fail != OK || n == bytes.n)
        return s->line.fail;
    s->line.n = 0; /* the bytes stay until the next put */
    return on_line(s, piece);
}

err sse_read(struct sse *s, str bytes)
{
    while (s->fail == OK && bytes.n > 0) {
        if (s->skip_lf && bytes.p[0] == '\n')
            bytes = str_slice(bytes, 1, bytes.n);
        s->skip_lf = false;
        if (bytes.n == 0)
            break;
        size_t n = line_end(bytes);
        s->fail = take_line(s, bytes, n);
        s->skip_lf = n < bytes.n && bytes.p[n] == '\r';
        bytes = str_slice(bytes, MIN(n + 1, bytes.n), bytes.n);
    }
    return s->fail;
}
