/* sse.c - streams of events: however the bytes are cut, the same events come out; and what came out, written as a stream again, reads back. */
#include "fuzz.h"

#include "codec/sse.h"

enum { CUTS = 4 };

/* All events as one text, without ambiguity: lengths before values. */
static err note(void *ctx, const struct sse_event *e)
{
    struct buf *told = ctx;
    buf_f(told, "%zu %zu %zu:", e->type.n, e->data.n, e->id.n);
    buf_str(told, e->type);
    buf_str(told, e->data);
    buf_str(told, e->id);
    assert(e->type.n > 0 && str_utf8(e->type) && str_utf8(e->data) && str_utf8(e->id));
    assert(str_find_char(e->data, '\r', 0) < 0 && str_find_char(e->type, '\n', 0) < 0);
    assert(str_find_char(e->id, '\n', 0) < 0 && str_find_char(e->id, '\0', 0) < 0);
    return OK;
}

static err write_again(void *ctx, const struct sse_event *e)
{
    struct buf *stream = ctx;
    BUF_LIT(stream, "event: ");
    buf_str(stream, e->type);
    BUF_LIT(stream, "\nid: ");
    buf_str(stream, e->id);
    str rest = e->data, line;
    do {
        BUF_LIT(stream, "\ndata: ");
        if (!str_cut(&rest, '\n', &line))
            line = S("");
        buf_str(stream, line);
    } while (rest.n > 0);
    if (e->data.n > 0 && e->data.p[e->data.n - 1] == '\n')
        BUF_LIT(stream, "\ndata:");
    BUF_LIT(stream, "\n\n");
    return OK;
}

/* In pieces of 1 to `step` bytes; 0 = in one. */
static void read_in_pieces(struct arena *a, str text, size_t step, sse_fn *fn, struct buf *out, i64 *retry_ms)
{
    struct sse s;
    sse_init(&s, a, fn, out);
    for (size_t at = 0, n; at < text.n; at += n) {
        n = step == 0 ? text.n : 1 + (at * 7 + step) % step;
        assert(sse_read(&s, str_slice(text, at, at + n)) == OK); /* inputs are shorter than any bound */
    }
    *retry_ms = s.retry_ms;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const size_t steps[CUTS] = { 1, 2, 5, 31 };
    struct arena *a = arena_new(FUZZ_ARENA);
    struct buf whole = { .arena = a }, stream = { .arena = a }, again = { .arena = a };
    str text = fuzz_text(a, data, size);
    i64 retry_ms, other_ms;
    read_in_pieces(a, text, 0, note, &whole, &retry_ms);
    for (size_t i = 0; i < CUTS; i++) {
        struct buf cut = { .arena = a };
        read_in_pieces(a, text, steps[i], note, &cut, &other_ms);
        assert(str_eq(buf_view(&cut), buf_view(&whole)) && other_ms == retry_ms);
    }
    read_in_pieces(a, text, 0, write_again, &stream, &other_ms);
    read_in_pieces(a, buf_view(&stream), 3, note, &again, &other_ms);
    assert(stream.fail == OK && str_eq(buf_view(&again), buf_view(&whole)));
    arena_free(a);
    return 0;
}
