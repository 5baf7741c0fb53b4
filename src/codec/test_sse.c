/* test_sse.c - streams of events, as the HTML standard tells them: its own examples, every place to cut, the bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/arena.h"
#include "codec/sse.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *stream, *events; /* each event as type|data|id; LF in data as \\ */
} stories[] = {
    /* the examples of the standard */
    { "data: YHOO\ndata: +2\ndata: 10\n\n", "message|YHOO\\+2\\10|;" },
    { ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
      "message|first event|1;message|second event|;message| third event|;" },
    { "data\n\ndata\ndata\n\ndata:", "message||;message|\\|;" },
    { "data:test\n\ndata: test\n\n", "message|test|;message|test|;" },
    /* ends of lines */
    { "data:a\r\rdata:b\r\n\r\ndata:c\n\n", "message|a|;message|b|;message|c|;" },
    { "data:a\r\n\ndata:b\n\r\n", "message|a|;message|b|;" },
    { "data:a\n\r", "message|a|;" },
    { "data:a\n", "" },
    { "data:a", "" },
    /* types */
    { "event: add\ndata: 1\n\ndata: 2\n\n", "add|1|;message|2|;" },
    { "event: add\n\ndata: 2\n\n", "message|2|;" },
    { "event: a\nevent: b\ndata\n\n", "b||;" },
    { "event: a\nevent\ndata\n\n", "message||;" },
    /* ids */
    { "id: 1\n\ndata: a\n\n", "message|a|1;" },
    { "id: 1\ndata\n\nid: 2\ndata\n\ndata\n\nid\ndata\n\n", "message||1;message||2;message||2;message||;" },
    /* what is no field */
    { "Data: a\n data: b\nxdata: c\ndata : d\n:data: e\nnothing\n\n", "" },
    { "data:a:b\ndata::\n\n", "message|a:b\\:|;" },
    { "data:\ta \n\n", "message|\ta |;" },
    /* a byte order mark counts once, at the start */
    { "\xef\xbb\xbf"
      "data: a\n\n",
      "message|a|;" },
    { "\xef\xbb\xbf\xef\xbb\xbf"
      "data: a\n\n",
      "" },
    { "\xef\xbb\xbf\n\xef\xbb\xbf"
      "data: a\n\n",
      "" },
    { "\xef\xbb"
      "data: a\n\n",
      "" },
    /* text */
    { "data: \xe2\x82\xac\n\n", "message|\xe2\x82\xac|;" },
    { "data: \xff\n\n", "message|\xef\xbf\xbd|;" },
    { "data: \xe2\x82\ndata: x\n\n", "message|\xef\xbf\xbd\\x|;" },
    { "data: \xf0\x9f\x92x\xed\xa0\x80\n\n", "message|\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd|;" },
    { "data: \xc0\x80\xf5\xe0\x80\n\n", "message|\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd|;" },
};

static err note(void *ctx, const struct sse_event *e)
{
    struct buf *told = ctx;
    buf_str(told, e->type);
    buf_char(told, '|');
    for (size_t i = 0; i < e->data.n; i++)
        buf_char(told, e->data.p[i] == '\n' ? '\\' : e->data.p[i]);
    buf_char(told, '|');
    buf_str(told, e->id);
    buf_char(told, ';');
    return OK;
}

/* Cut at `first` and at `second`. */
static void read_cut(struct sse *s, str stream, size_t first, size_t second)
{
    assert_int_equal(sse_read(s, str_slice(stream, 0, first)), OK);
    assert_int_equal(sse_read(s, str_slice(stream, first, second)), OK);
    assert_int_equal(sse_read(s, str_slice(stream, second, stream.n)), OK);
}

static void test_streams(void **state)
{
    for (size_t i = 0; i < COUNT(stories); i++) {
        str stream = str_of(stories[i].stream);
        for (size_t first = 0; first <= stream.n; first++)
            for (size_t second = first; second <= stream.n; second++) {
                struct arena *a = arena_new(MIB);
                struct buf told = { .arena = a };
                struct sse s;
                sse_init(&s, a, note, &told);
                read_cut(&s, stream, first, second);
                if (!str_eq(buf_view(&told), str_of(stories[i].events)))
                    fail_msg("story %zu, cut at %zu and %zu: %.*s", i, first, second, STR_FMT(buf_view(&told)));
                arena_free(a);
            }
    }
}

static i64 retry_of(const char *text)
{
    struct arena *a = arena_new(MIB);
    struct buf told = { .arena = a };
    struct sse s;
    sse_init(&s, a, note, &told);
    assert_int_equal(sse_read(&s, str_of(text)), OK);
    assert_int_equal(told.n, 0);
    arena_free(a);
    return s.retry_ms;
}

static void test_retry(void **state)
{
    assert_int_equal(retry_of("retry: 10000\n"), 10000);
    assert_int_equal(retry_of("retry:0\n"), 0);
    assert_int_equal(retry_of("retry: 007\n"), 7);
    assert_int_equal(retry_of("retry: 5\nretry: 6x\n"), 5);
    static const char *const bad[] = { "retry\n",      "retry: +1\n", "retry: -1\n",
                                       "retry: 1.5\n", "retry:  1\n", "retry: 99999999999999999999\n",
                                       "retry: 1" };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(retry_of(bad[i]), -1);
}

static void test_an_id_with_nul(void **state)
{
    struct arena *a = arena_new(MIB);
    struct buf told = { .arena = a };
    struct sse s;
    sse_init(&s, a, note, &told);
    assert_int_equal(sse_read(&s, S("id: 1\nid: 2\0\ndata: a\n\n")), OK);
    assert_true(str_eq(buf_view(&told), S("message|a|1;")));
    arena_free(a);
}

/* ---- bounds ---- */

static err measure(void *ctx, const struct sse_event *e)
{
    *(size_t *)ctx = e->data.n;
    return OK;
}

static err read_long(str head, size_t n, str tail, size_t piece, size_t *got)
{
    struct arena *a = arena_new(64 * MIB);
    char *x = malloc(n);
    struct sse s;
    assert_non_null(x);
    memset(x, 'x', n);
    sse_init(&s, a, measure, got);
    *got = 0;
    err e = sse_read(&s, head);
    for (size_t at = 0; e == OK && at < n; at += piece)
        e = sse_read(&s, str_slice((str){ x, n }, at, at + piece));
    if (e == OK)
        e = sse_read(&s, tail);
    assert_int_equal(sse_read(&s, S("\n")), e); /* what has failed stays so */
    free(x);
    arena_free(a);
    return e;
}

static void test_long_lines(void **state)
{
    static const size_t pieces[] = { 1000, SSE_LINE_MAX * 2 };
    size_t got, room = SSE_LINE_MAX - 5;
    for (size_t p = 0; p < COUNT(pieces); p++)
        for (size_t n = room - 1; n <= room + 1; n++) {
            assert_int_equal(read_long(S("data:"), n, S("\n\n"), pieces[p], &got), n <= room ? OK : ERR_TOO_LARGE);
            assert_int_equal(got, n <= room ? n : 0);
            assert_int_equal(read_long(S(":1234"), n, S("\n\n"), pieces[p], &got), n <= room ? OK : ERR_TOO_LARGE);
        }
}

static void test_much_data(void **state)
{
    size_t got, half = SSE_DATA_MAX / 2;
    char *line = malloc(half + 8);
    assert_non_null(line);
    for (size_t n = half - 2; n <= half; n++) { /* with the LF between the two */
        struct arena *a = arena_new(64 * MIB);
        struct sse s;
        sse_init(&s, a, measure, &got);
        got = 0;
        memset(line, 'x', half + 8);
        memcpy(line, "data:", 5);
        line[5 + half] = '\n';
        assert_int_equal(sse_read(&s, (str){ line, half + 6 }), OK);
        line[5 + n] = '\n';
        line[6 + n] = '\n';
        assert_int_equal(sse_read(&s, (str){ line, n + 7 }), n < half ? OK : ERR_TOO_LARGE);
        assert_int_equal(got, n < half ? half + n + 1 : 0);
        arena_free(a);
    }
    free(line);
}

static err refuse(void *ctx, const struct sse_event *e)
{
    ++*(int *)ctx;
    return ERR_BUSY;
}

static void test_who_listens_may_end_it(void **state)
{
    struct arena *a = arena_new(MIB);
    struct sse s;
    int calls = 0;
    sse_init(&s, a, refuse, &calls);
    assert_int_equal(sse_read(&s, S("data:a\n\ndata:b\n\n")), ERR_BUSY);
    assert_int_equal(sse_read(&s, S("data:c\n\n")), ERR_BUSY);
    assert_int_equal(calls, 1);
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),        cmocka_unit_test(test_retry),
        cmocka_unit_test(test_an_id_with_nul), cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_much_data),      cmocka_unit_test(test_who_listens_may_end_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
