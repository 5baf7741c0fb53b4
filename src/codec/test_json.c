/* test_json.c - what is JSON and what is not, that nothing changes on the way through, and that no memory fault is missed. */
#include "base/fault.h"
#include "codec/json.h"
#include "codec/json_scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define assert_str(actual, literal) assert_true(str_eq((actual), S(literal)))

static struct arena *arena; /* of the running test */

static int setup(void **state)
{
    arena = arena_new(64 * MIB);
    return arena != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    arena_free(arena);
    return 0;
}

/* An exact copy on the heap, so that reading one byte too far is seen. */
static str exact(str text)
{
    char *p = arena_alloc(arena, text.n);
    memcpy(p, text.p, text.n);
    return (str){ p, text.n };
}

static struct json *parse(str text)
{
    struct json *j = NULL;
    struct json_error where = { 0 };
    err e = json_parse(arena, exact(text), &j, &where);
    if (e != OK)
        fail_msg("%.*s: %s at %zu", STR_FMT(text), where.code, where.offset);
    return j;
}

static void refused(str text, const char *code, i64 offset)
{
    struct json *j = NULL;
    struct json_error where = { 0 };
    err e = json_parse(arena, exact(text), &j, &where);
    if (e != ERR_DECODE || strcmp(where.code, code) != 0 || (offset >= 0 && where.offset != (size_t)offset) ||
        j != NULL)
        fail_msg("%.*s: %s, %s at %zu", STR_FMT(text), err_name(e), where.code, where.offset);
    assert_int_equal(json_check(arena, exact(text), &where), ERR_DECODE);
}

static void rewritten(const char *text, const char *as)
{
    str out = json_text(arena, parse(str_of(text)));
    if (!str_eq(out, str_of(as)))
        fail_msg("%s became %.*s", text, STR_FMT(out));
    assert_int_equal(json_size(parse(str_of(text))), out.n);
}

/* ---- accepting ---- */

static void test_accepts(void **state)
{
    static const char *const same[] = {
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1.5",
        "-0.0",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{\"\":0}",
        "[1,2,3]",
        "{\"a\":{\"b\":[null,true]}}",
        "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"",
        "\"\\u0000\\u001f\"",
        "\"\x7F\"",
        "{\"b\":1,\"a\":2}",
        "\"exactly8\"",
        "\"seven77\"",
        "\"a longer text, of more than sixteen bytes\"",
        "9223372036854775807",
        "-9223372036854775808",
        "1e+300",
        "1.7976931348623157e+308",
        "\"\\b\\f\\n\\r\\t\\\"\\\\\"",
    };
    for (size_t i = 0; i < COUNT(same); i++)
        rewritten(same[i], same[i]);
}

static void test_normalises(void **state)
{
    static const char *const pairs[][2] = {
        { " \t\r\n[ 1 , 2 ] \n", "[1,2]" },
        { "{ \"a\" : 1 }", "{\"a\":1}" },
        { "\"\\/\"", "\"/\"" },
        { "\"\\u0041\\u00e9\\u20AC\"", "\"A\xC3\xA9\xE2\x82\xAC\"" },
        { "\"\\ud83d\\ude00!\"", "\"\xF0\x9F\x98\x80!\"" },
        { "\"x\\u0022\"", "\"x\\\"\"" },
        { "-0", "0" },
        { "1.0", "1.0" },
        { "1e0", "1.0" },
        { "1E2", "100.0" },
        { "1.10", "1.1" },
        { "0.1e1", "1.0" },
        { "1e-7", "1e-07" },
        { "123456789012345678.0", "1.2345678901234568e+17" },
        { "1e-400", "0.0" },
        { "5e-324", "4.94065645841247e-324" },
    };
    for (size_t i = 0; i < COUNT(pairs); i++)
        rewritten(pairs[i][0], pairs[i][1]);
}

static void test_types(void **state)
{
    assert_int_equal(parse(S("1"))->type, JSON_INT);
    assert_int_equal(parse(S("1.0"))->type, JSON_REAL);
    assert_int_equal(parse(S("1e0"))->type, JSON_REAL);
    assert_int_equal(parse(S("-0.0"))->type, JSON_REAL);
    assert_true(parse(S("-0.0"))->real == 0 && __builtin_signbit(parse(S("-0.0"))->real));
}

static void test_strings_are_borrowed(void **state)
{
    str text = exact(S("[\"plain\",\"esc\\n\"]"));
    struct json *j;
    assert_int_equal(json_parse(arena, text, &j, NULL), OK);
    assert_ptr_equal(j->items[0].text, text.p + 2);
    assert_false(j->items[1].text >= text.p && j->items[1].text < text.p + text.n);
}

/* ---- refusing ---- */

static void test_refuses(void **state)
{
    static const struct {
        const char *text, *code;
        i64 offset;
    } cases[] = {
        { "", "json.truncated", 0 },
        { "  ", "json.truncated", 2 },
        { "[", "json.truncated", 1 },
        { "[1", "json.truncated", 2 },
        { "[1,", "json.truncated", 3 },
        { "{\"a\"", "json.truncated", 4 },
        { "{\"a\":", "json.truncated", 5 },
        { "{\"a\":1", "json.truncated", 6 },
        { "[1,]", "json.syntax", 3 },
        { "[,1]", "json.syntax", 1 },
        { "[1 2]", "json.syntax", 3 },
        { "{\"a\":1,}", "json.syntax", 7 },
        { "{a:1}", "json.syntax", 1 },
        { "{'a':1}", "json.syntax", 1 },
        { "{1:1}", "json.syntax", 1 },
        { "{\"a\" 1}", "json.syntax", 5 },
        { "{\"a\"::1}", "json.syntax", 5 },
        { "[1}", "json.syntax", 2 },
        { "]", "json.syntax", 0 },
        { "nul", "json.syntax", 0 },
        { "True", "json.syntax", 0 },
        { "NaN", "json.syntax", 0 },
        { "Infinity", "json.syntax", 0 },
        { "+1", "json.syntax", 0 },
        { ".5", "json.syntax", 0 },
        { "// c\n1", "json.syntax", 0 },
        { "[1]/**/", "json.trailing", 3 },
        { "1 1", "json.trailing", 2 },
        { "nullx", "json.trailing", 4 },
        { "{}}", "json.trailing", 2 },
        { "-", "json.number", 0 },
        { "-a", "json.number", 0 },
        { "01", "json.number", 0 },
        { "-01", "json.number", 0 },
        { "1.", "json.number", 0 },
        { "1.e1", "json.number", 0 },
        { "1e", "json.number", 0 },
        { "1e+", "json.number", 0 },
        { "0x1", "json.trailing", 1 },
        { "--1", "json.number", 0 },
        { "9223372036854775808", "json.integer_range", 0 },
        { "-9223372036854775809", "json.integer_range", 0 },
        { "[18446744073709551617]", "json.integer_range", 1 },
        { "100000000000000000000", "json.integer_range", 0 },
        { "1e309", "json.number_range", 0 },
        { "-1e309", "json.number_range", 0 },
        { "1e99999999999", "json.number_range", 0 },
        { "\"", "json.string", 0 },
        { "\"abc", "json.string", 0 },
        { "\"abc\\\"", "json.string", 0 },
        { "\"abc\\", "json.string", 0 },
        { "\"a\nb\"", "json.string", 0 },
        { "\"a\tb\"", "json.string", 0 },
        { "\"\\x\"", "json.escape", 1 },
        { "\"\\a\"", "json.escape", 1 },
        { "\"\\u12\"", "json.escape", 1 },
        { "\"\\u12g4\"", "json.escape", 1 },
        { "\"\\ud800\"", "json.escape", 1 },
        { "\"\\ud800x\"", "json.escape", 1 },
        { "\"\\ud800\\n\"", "json.escape", 1 },
        { "\"\\ud800\\u0041\"", "json.escape", 1 },
        { "\"\\udc00\"", "json.escape", 1 },
        { "\"\\udc00\\ud800\"", "json.escape", 1 },
        { "\"\\\xC3\xA9\"", "json.escape", 1 },
        { "\"\xFF\"", "json.utf8", 0 },
        { "\"\xC0\x80\"", "json.utf8", 0 },
        { "\"\xED\xA0\x80\"", "json.utf8", 0 },
        { "\"\xF4\x90\x80\x80\"", "json.utf8", 0 },
        { "\"\xC3\"", "json.utf8", 0 },
        { "{\"\xFF\":1}", "json.utf8", 1 },
        { "\xEF\xBB\xBF{}", "json.syntax", 0 }, /* a byte order mark */
        { "{\"a\":1,\"a\":2}", "json.duplicate_key", 7 },
        { "{\"a\":1,\"\\u0061\":2}", "json.duplicate_key", 0 },
        { "[{\"\":1,\"\":2}]", "json.duplicate_key", 7 },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        refused(str_of(cases[i].text), cases[i].code, cases[i].offset);
    refused(S("[1]\0"), "json.trailing", 3);
    refused(S("\"a\0b\""), "json.string", 0);
    refused(S("\0"), "json.syntax", 0);
}

static void test_every_prefix_is_refused(void **state)
{
    str text = S("{\"a\":[1,-2.5e+3,\"x\\u00e9\\ud83d\\ude00\",true,false,null,{\"b\":{}}]}");
    assert_non_null(parse(text));
    for (size_t n = 0; n < text.n; n++) {
        struct json *j;
        assert_int_equal(json_parse(arena, exact(str_slice(text, 0, n)), &j, NULL), ERR_DECODE);
    }
}

static str nested(int depth, char open, char close)
{
    struct buf b = { .arena = arena };
    for (int i = 0; i < depth; i++) {
        buf_char(&b, open);
        if (open == '{')
            BUF_LIT(&b, "\"a\":");
    }
    if (open == '{')
        buf_char(&b, '1');
    for (int i = 0; i < depth; i++)
        buf_char(&b, close);
    return buf_view(&b);
}

static void test_depth(void **state)
{
    parse(nested(JSON_MAX_DEPTH - 1, '[', ']'));
    parse(nested(JSON_MAX_DEPTH, '[', ']'));
    parse(nested(JSON_MAX_DEPTH, '{', '}'));
    refused(nested(JSON_MAX_DEPTH + 1, '[', ']'), "json.depth", JSON_MAX_DEPTH);
    refused(nested(JSON_MAX_DEPTH + 1, '{', '}'), "json.depth", -1);
    refused(nested(100000, '[', ']'), "json.depth", JSON_MAX_DEPTH);
}

/* Around the size at which comparing gives way to hashing, and far above. */
static void test_duplicates_in_large_objects(void **state)
{
    static const int sizes[] = { 15, 16, 17, 18, 1000, 20000 };
    for (size_t s = 0; s < COUNT(sizes); s++) {
        struct buf b = { .arena = arena };
        buf_char(&b, '{');
        for (int i = 0; i < sizes[s]; i++)
            buf_f(&b, "%s\"k%d\":%d", i > 0 ? "," : "", i, i);
        size_t end = b.n;
        buf_char(&b, '}');
        assert_int_equal(parse(buf_view(&b))->n, sizes[s]);
        b.n = end;
        BUF_LIT(&b, ",\"k3\":0}");
        refused(buf_view(&b), "json.duplicate_key", (i64)end + 1);
    }
}

/* ---- numbers ---- */

static void round_trip(double v)
{
    struct json *back, j = json_of_real(v);
    str text = json_text(arena, &j);
    assert_int_equal(json_parse(arena, text, &back, NULL), OK);
    if (back->type != JSON_REAL || memcmp(&back->real, &v, sizeof v) != 0)
        fail_msg("%a became %.*s", v, STR_FMT(text));
}

/* A small generator of our own: the same numbers in each run. */
static u64 next_random(u64 *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static void test_reals_round_trip(void **state)
{
    u64 x = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        double v;
        u64 bits = next_random(&x);
        memcpy(&v, &bits, sizeof v);
        struct arena_mark mark = arena_mark(arena);
        if (__builtin_isfinite(v))
            round_trip(v);
        round_trip((double)(i64)(bits >> 40) / 100);
        round_trip(-(double)(i64)(bits >> 20) / 1e6);
        arena_rewind(arena, mark);
    }
}

static void test_reals_are_read_exactly(void **state)
{
    static const char *const texts[] = {
        "0.1",
        "0.3",
        "2.2250738585072011e-308",
        "9007199254740993.0",
        "9007199254740992.5",
        "1e22",
        "1e23",
        "123456789e-22",
        "123456789e-23",
        "0.000000000000000000000000000000000001",
        "179769313486231580793728971405301e276",
        "1234567890123456789012345678901234567890.5",
        "4.9406564584124654e-324",
        "6929495644600919.5",
        "3.7455744005952583e15",
        "0.50000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        double expected = strtod(texts[i], NULL);
        assert_memory_equal(&parse(str_of(texts[i]))->real, &expected, sizeof expected);
    }
}

static void test_reals_are_written_short(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        { 0.1, "0.1" },
        { 12.5, "12.5" },
        { -0.05, "-0.05" },
        { 100, "100.0" },
        { 1e15, "1e+15" },
        { 123456.75, "123456.75" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 1.0 / 3, "0.3333333333333333" },
        { 1e100, "1e+100" },
        { 0.000001, "0.000001" },
        { 99999999.5, "99999999.5" },
        { -0.0, "-0.0" },
        { 0.0, "0.0" },
        { 0.0000001, "1e-07" },
        { 100000000.5, "100000000.5" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json j = json_of_real(cases[i].value);
        str text = json_text(arena, &j);
        if (!str_eq(text, str_of(cases[i].text)))
            fail_msg("%s became %.*s", cases[i].text, STR_FMT(text));
    }
    assert_int_equal(json_of_real(__builtin_nan("")).type, JSON_NULL);
    assert_int_equal(json_of_real(__builtin_inf()).type, JSON_NULL);
}

/* ---- strings ---- */

/* Every byte at every place of a word: the scan looks at sixteen at once. */
static void test_string_scanning(void **state)
{
    for (int c = 0; c < 256; c++)
        for (size_t at = 0; at < 20; at++) {
            char text[23] = "\"aaaaaaaaaaaaaaaaaaaa\"";
            text[at + 1] = (char)c;
            bool quote = c == '"', valid = c >= 0x20 && c < 0x80 && c != '\\' && !quote;
            struct json *j;
            struct arena_mark mark = arena_mark(arena);
            err e = json_parse(arena, exact((str){ text, 22 }), &j, NULL);
            if (c != '\\') /* \a is refused, \" at the end too, but one may make a legal escape */
                assert_int_equal(e, valid ? OK : ERR_DECODE);
            if (e == OK && valid)
                assert_true(j->n == 20 && j->text[at] == (char)c);
            arena_rewind(arena, mark);
        }
}

/* Both ways to look at a block, for every byte at every place, beside all others that need attention. */
static void test_blocks_are_marked_alike(void **state)
{
    static const char beside[] = { 'a', '"', '\\', '\x1f', ' ', '\x7f', '\x80', '\xff', '!', '[', ']', '\0' };
    for (size_t k = 0; k < sizeof beside; k++)
        for (int c = 0; c < 256; c++)
            for (u32 at = 0; at < JSON_BLOCK; at++) {
                char block[JSON_BLOCK];
                memset(block, beside[k], sizeof block);
                block[at] = (char)c;
                struct json_marks m = json_marks(block), p = json_marks_portable(block);
                assert_true(m.special == p.special && m.high == p.high);
                bool special = c == '"' || c == '\\' || c < 0x20;
                assert_int_equal(m.special >> at & 1, special);
                assert_int_equal(m.high >> at & 1, c >= 0x80);
            }
}

/* Every length around a block and a word: what is written reads back, whatever stands where. */
static void test_texts_of_every_length_round_trip(void **state)
{
    static const char *const odd[] = { "x", "\"", "\\", "\n", "\x01", "\x7f", "\xc3\xa9", "\xf0\x9f\x98\x80" };
    for (size_t n = 0; n <= 2 * JSON_BLOCK + 2; n++)
        for (size_t at = 0; at <= n; at++)
            for (size_t k = 0; k < COUNT(odd); k++) {
                struct arena_mark mark = arena_mark(arena);
                struct json j =
                    json_of_str(exact(strf(arena, "%.*s%s%.*s", (int)at, "abcdefghijklmnopqrstuvwxyz0123456789", odd[k],
                                           (int)(n - at), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")));
                assert_int_equal(json_plain(json_str(&j)), k == 0 || k == 5);
                str text = json_text(arena, &j);
                assert_int_equal(text.n, json_size(&j));
                assert_true(json_equal(parse(text), &j));
                arena_rewind(arena, mark);
            }
}

static void test_every_character_round_trips(void **state)
{
    for (u32 c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 251) {
        if (c >= 0xD800 && c <= 0xDFFF)
            continue;
        char escaped[24]; /* as gcc counts it: eight digits each */
        struct arena_mark mark = arena_mark(arena);
        if (c < 0x10000)
            snprintf(escaped, sizeof escaped, "\"\\u%04x\"", c);
        else
            snprintf(escaped, sizeof escaped, "\"\\u%04x\\u%04X\"", 0xD800 + ((c - 0x10000) >> 10),
                     0xDC00 + ((c - 0x10000) & 0x3FF));
        struct json *j = parse(str_of(escaped));
        assert_true(str_utf8(json_str(j)) && str_utf8_len(json_str(j)) == 1);
        assert_true(json_equal(j, parse(json_text(arena, j))));
        arena_rewind(arena, mark);
    }
}

static void test_invalid_utf8_is_repaired_on_writing(void **state)
{
    struct buf b = { .arena = arena };
    json_put_str(&b, S("a\xFF\"\xC3\xA9\xC3"));
    assert_str(buf_view(&b), "\"a\xEF\xBF\xBD\\\"\xC3\xA9\xEF\xBF\xBD\"");
    struct json j = json_of_str(S("a\xFF\"\xC3\xA9\xC3"));
    assert_int_equal(json_size(&j), b.n);
}

/* ---- the DOM ---- */

static void test_get_and_pointers(void **state)
{
    /* the examples of RFC 6901 §5 */
    struct json *j =
        parse(S("{\"foo\":[\"bar\",\"baz\"],\"\":0,\"a/b\":1,\"c%d\":2,\"e^f\":3,\"g|h\":4,\"i\\\\j\":5,\"k\\\"l\":6,"
                "\" \":7,\"m~n\":8}"));
    static const char *const hits[] = { "/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n" };
    for (size_t i = 0; i < COUNT(hits); i++)
        assert_int_equal(json_at(j, str_of(hits[i]))->integer, i);
    assert_ptr_equal(json_at(j, S("")), j);
    assert_str(json_str(json_at(j, S("/foo/1"))), "baz");
    static const char *const misses[] = { "foo",      "/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/",
                                          "/foo/0/x", "/m~n",   "/m~2n",  "/x",      "/a/b" };
    for (size_t i = 0; i < COUNT(misses); i++)
        assert_null(json_at(j, str_of(misses[i])));
    assert_null(json_get(NULL, S("a")));
    assert_null(json_get(json_get(j, S("foo")), S("a")));
    assert_null(json_str(NULL).p);
    assert_str(json_pointer_index(arena, json_pointer_key(arena, S("/x"), S("a/b~c")), 3), "/x/a~1b~0c/3");
    assert_str(json_pointer_key(arena, STR_NONE, S("")), "/");
}

static void test_adding(void **state)
{
    struct json *j = parse(S("{\"list\":[1,2,3],\"b\":1}")), list = *json_get(j, S("list"));
    for (i64 i = 4; i <= 20; i++) /* a parsed array has no room behind it */
        assert_true(json_add(arena, &list, json_of_i64(i)));
    assert_int_equal(list.n, 20);
    for (i64 i = 0; i < 20; i++)
        assert_int_equal(list.items[i].integer, i + 1);
    assert_true(json_set(arena, j, S("b"), json_of_bool(true)));
    assert_true(json_set(arena, j, S("c"), json_null));
    assert_true(json_set(arena, j, S("d"), json_of_str(S("x"))));
    assert_str(json_text(arena, j), "{\"list\":[1,2,3],\"b\":true,\"c\":null,\"d\":\"x\"}");
}

/* The room behind the last one grows in steps; every container, new or parsed, crosses them, and none touches its neighbour. */
static void test_adding_around_the_first_room(void **state)
{
    for (i64 parsed = 0; parsed <= 6; parsed++) {
        struct json array = { .type = JSON_ARRAY };
        array.items = NEW_N(arena, struct json, (size_t)parsed); /* as the parser leaves it: no room */
        for (i64 i = 0; i < parsed; i++)
            array.items[array.n++] = json_of_i64(i);
        for (i64 i = parsed; i < 10; i++) {
            assert_true(json_add(arena, &array, json_of_i64(i)));
            *NEW(arena, struct json) = json_of_i64(-1);
        }
        for (i64 i = 0; i < 10; i++)
            assert_int_equal(array.items[i].integer, i);
    }
}

static void test_copy_borrows_nothing(void **state)
{
    char source[] = "{\"key\":[\"text\",1.5,null]}";
    struct json *j;
    assert_int_equal(json_parse(arena, str_of(source), &j, NULL), OK);
    struct json *copy = json_copy(arena, j);
    memset(source, '?', sizeof source - 1);
    assert_str(json_text(arena, copy), "{\"key\":[\"text\",1.5,null]}");
    struct arena *small = arena_new(64);
    assert_null(json_copy(small, copy));
    arena_free(small);
}

static void test_equal(void **state)
{
    static const struct {
        const char *a, *b;
        bool equal;
    } cases[] = {
        { "{\"a\":1,\"b\":[2]}", "{\"b\":[2],\"a\":1}", true },
        { "{\"a\":1}", "{\"b\":1}", false },
        { "{\"a\":1}", "{\"a\":1,\"b\":1}", false },
        { "[1,2]", "[2,1]", false },
        { "1", "1.0", true },
        { "9007199254740993", "9007199254740992.0", false },
        { "9223372036854775807", "9223372036854775808.0", false },
        { "1", "1.5", false },
        { "1", "true", false },
        { "null", "false", false },
        { "\"a\"", "\"\\u0061\"", true },
        { "[]", "{}", false },
        { "0.0", "-0.0", true },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(json_equal(parse(str_of(cases[i].a)), parse(str_of(cases[i].b))), cases[i].equal);
        assert_int_equal(json_equal(parse(str_of(cases[i].b)), parse(str_of(cases[i].a))), cases[i].equal);
    }
}

static void test_equal_of_large_objects_in_another_order(void **state)
{
    enum { N = 5000 };
    struct json forward = { .type = JSON_OBJECT, .members = NEW_N(arena, struct json_member, N), .n = N },
                backward = forward;
    backward.members = NEW_N(arena, struct json_member, N);
    for (int i = 0; i < N; i++)
        backward.members[N - 1 - i] = forward.members[i] =
            (struct json_member){ strf(arena, "k%d", i), json_of_i64(i) };
    assert_true(json_equal(&forward, &backward));
    backward.members[0].value.integer++;
    assert_false(json_equal(&forward, &backward));
}

/* RFC 7396 appendix A, and what deep and large patches do. */
static void test_merge_patch(void **state)
{
    static const char *const cases[][3] = {
        { "{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
        { "{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}" },
        { "{\"a\":\"b\"}", "{\"a\":null}", "{}" },
        { "{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}" },
        { "{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
        { "{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}" },
        { "{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}" },
        { "{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}" },
        { "[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]" },
        { "{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]" },
        { "{\"a\":\"foo\"}", "null", "null" },
        { "{\"a\":\"foo\"}", "\"bar\"", "\"bar\"" },
        { "{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}" },
        { "[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}" },
        { "{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}" },
        { "{\"a\":1,\"b\":2,\"c\":3}", "{\"d\":4,\"b\":null,\"a\":5}", "{\"a\":5,\"c\":3,\"d\":4}" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct json *target = parse(str_of(cases[i][0]));
        str out = json_text(arena, json_merge_patch(arena, target, parse(str_of(cases[i][1]))));
        if (!str_eq(out, str_of(cases[i][2])))
            fail_msg("%s + %s became %.*s", cases[i][0], cases[i][1], STR_FMT(out));
        assert_true(str_eq(json_text(arena, target), str_of(cases[i][0]))); /* unchanged */
    }
}

static void test_writer(void **state)
{
    struct buf b = { .arena = arena };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("a\"b"));
    jw_begin(&w, '[');
    jw_i64(&w, -1);
    jw_real(&w, 0.5);
    jw_bool(&w, true);
    jw_null(&w);
    jw_str(&w, STR_NONE);
    jw_str(&w, S("x"));
    jw_raw(&w, S("{\"k\":1}"));
    jw_raw(&w, S(""));
    jw_json(&w, parse(S("[]")));
    jw_begin(&w, '{');
    jw_end(&w, '}');
    jw_end(&w, ']');
    jw_key(&w, S("z"));
    jw_bool(&w, false);
    jw_end(&w, '}');
    assert_str(buf_view(&b), "{\"a\\\"b\":[-1,0.5,true,null,null,\"x\",{\"k\":1},null,[],{}],\"z\":false}");
}

/* ---- memory ---- */

static err parse_and_work(struct arena *a)
{
    struct json *j, *copy;
    str text = S(
        "[{\"a\":\"x\\n\",\"b\":[1,2,3],\"c\":1234567890123456789012345678901234567890123456789012345678901234567890.5},"
        "{\"0\":0,\"1\":1,\"2\":2,\"3\":3,\"4\":4,\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9,\"10\":0,\"11\":0,\"12\":0,"
        "\"13\":0,\"14\":0,\"15\":0,\"16\":0,\"17\":0}]");
    TRY(json_parse(a, text, &j, NULL));
    copy = json_copy(a, j);
    if (copy == NULL || json_merge_patch(a, &copy->items[0], &j->items[1]) == NULL)
        return ERR_MEMORY;
    if (!json_add(a, copy, json_null) || !json_set(a, &copy->items[1], S("new"), json_null))
        return ERR_MEMORY;
    return json_text(a, copy).p != NULL ? OK : ERR_MEMORY;
}

static void test_each_allocation_fails(void **state)
{
    for (i64 n = 1, fired = 1; fired; n++) {
        struct arena *a = arena_new(1 * MIB);
        fault_arm(FAULT_ALLOC, n);
        err e = parse_and_work(a);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_int_equal(e, fired ? ERR_MEMORY : OK);
        arena_free(a);
    }
}

static void test_arena_cap_is_an_error(void **state)
{
    struct json *j;
    for (size_t cap = 0; cap < 2000; cap += 16) {
        struct arena *a = arena_new(cap);
        err e = parse_and_work(a);
        assert_true(e == ERR_MEMORY || (e == OK && cap > 1000));
        arena_free(a);
    }
    struct arena *a = arena_new(100);
    assert_int_equal(json_parse(a, S("[1,2,3,4,5,6,7,8]"), &j, NULL), ERR_MEMORY);
    arena_free(a);
}

static void test_check_gives_memory_back(void **state)
{
    size_t before = arena_used(arena);
    assert_int_equal(json_check(arena, S("[{\"a\":\"\\n\"}]"), NULL), OK);
    assert_int_equal(json_check(arena, S("[{\"a\":\"\\n\"}"), NULL), ERR_DECODE);
    assert_int_equal(arena_used(arena), before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_accepts),
        TEST(test_normalises),
        TEST(test_types),
        TEST(test_strings_are_borrowed),
        TEST(test_refuses),
        TEST(test_every_prefix_is_refused),
        TEST(test_depth),
        TEST(test_duplicates_in_large_objects),
        TEST(test_reals_round_trip),
        TEST(test_reals_are_read_exactly),
        TEST(test_reals_are_written_short),
        TEST(test_string_scanning),
        TEST(test_blocks_are_marked_alike),
        TEST(test_texts_of_every_length_round_trip),
        TEST(test_every_character_round_trips),
        TEST(test_invalid_utf8_is_repaired_on_writing),
        TEST(test_get_and_pointers),
        TEST(test_adding),
        TEST(test_adding_around_the_first_room),
        TEST(test_copy_borrows_nothing),
        TEST(test_equal),
        TEST(test_equal_of_large_objects_in_another_order),
        TEST(test_merge_patch),
        TEST(test_writer),
        TEST(test_each_allocation_fails),
        TEST(test_arena_cap_is_an_error),
        TEST(test_check_gives_memory_back),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
