/* test_base.c - memory, text, maps, clocks and the log: bounds at n-1, n and n+1, and every allocation failing once. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/map.h"
#include "base/rng.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define assert_str(actual, literal) assert_true(str_eq((actual), S(literal)))

/* ---- arena ---- */

static void test_arena_cap(void **state)
{
    enum { CAP = 4096 };
    for (size_t n = CAP - 16; n <= CAP + 16; n += 16) {
        struct arena *a = arena_new(CAP);
        void *p = arena_alloc(a, n);
        assert_int_equal(p != NULL, n <= CAP);
        assert_int_equal(arena_used(a), n <= CAP ? n : 0);
        arena_free(a);
    }
}

static void test_arena_cap_by_steps(void **state)
{
    struct arena *a = arena_new(160);
    for (int i = 0; i < 10; i++)
        assert_non_null(arena_alloc(a, 16));
    assert_null(arena_alloc(a, 1));
    assert_non_null(arena_alloc(a, 0));
    arena_free(a);
}

static void test_arena_memory_is_zeroed_and_aligned(void **state)
{
    static const char zero[100];
    struct arena *a = arena_new(1 * MIB);
    struct arena_mark mark = arena_mark(a);
    for (int round = 0; round < 2; round++) {
        char *p = arena_alloc(a, sizeof zero);
        assert_int_equal((uintptr_t)p % 16, 0);
        assert_memory_equal(p, zero, sizeof zero);
        memset(p, 7, sizeof zero);
        arena_rewind(a, mark); /* the second round gets the same bytes, clean again */
    }
    arena_free(a);
}

static void test_arena_overflow(void **state)
{
    struct arena *a = arena_new(SIZE_MAX);
    assert_null(arena_array(a, SIZE_MAX / 2, 4));
    assert_null(arena_alloc(a, SIZE_MAX - 8));
    arena_free(a);
}

static void test_arena_grow(void **state)
{
    struct arena *a = arena_new(1 * MIB);
    char *p = arena_alloc(a, 10);
    memcpy(p, "0123456789", 10);
    p = arena_grow(a, p, 10, 100);
    assert_memory_equal(p, "0123456789\0\0\0", 13);
    assert_non_null(arena_alloc(a, 16)); /* p is not the newest any more */
    char *q = arena_grow(a, p, 100, 5000);
    assert_ptr_not_equal(p, q);
    assert_memory_equal(q, "0123456789\0\0\0", 13);
    assert_null(arena_grow(a, q, 5000, 2 * MIB));
    arena_free(a);
}

static void note(void *arg)
{
    char **to = arg;
    *(*to)++ = 'x';
}

struct letter {
    char **to, c;
};

static void note_letter(void *arg)
{
    struct letter *l = arg;
    *(*l->to)++ = l->c;
}

static void test_arena_defer_runs_newest_first(void **state)
{
    char order[4] = "", *to = order;
    struct letter a1 = { &to, 'a' }, b1 = { &to, 'b' }, c1 = { &to, 'c' };
    struct arena *a = arena_new(1 * MIB);
    assert_true(arena_defer(a, note_letter, &a1));
    struct arena_mark mark = arena_mark(a);
    assert_true(arena_defer(a, note_letter, &b1));
    assert_true(arena_defer(a, note_letter, &c1));
    arena_rewind(a, mark);
    assert_string_equal(order, "cb");
    arena_free(a);
    assert_string_equal(order, "cba");
}

static void test_arena_defer_at_the_cap(void **state)
{
    char order[2] = "", *to = order;
    struct arena *a = arena_new(0);
    assert_false(arena_defer(a, note, &to));
    assert_string_equal(order, "x");
    arena_free(a);
    assert_string_equal(order, "x");
}

static void test_arena_rewind(void **state)
{
    struct arena *a = arena_new(64 * KIB);
    assert_non_null(arena_alloc(a, 32));
    struct arena_mark mark = arena_mark(a);
    size_t used = arena_used(a);
    for (int i = 0; i < 6; i++)
        assert_non_null(arena_alloc(a, 10000));
    arena_rewind(a, mark);
    assert_int_equal(arena_used(a), used);
    assert_non_null(arena_alloc(a, 60000)); /* the cap counts from the mark again */
    arena_free(a);
}

/* The older chunk is filled up again from the mark, not from where it was left, and what was there is gone. */
static void test_arena_rewind_into_an_older_chunk(void **state)
{
    static const char zero[1000];
    struct arena *a = arena_new(1 * MIB);
    assert_non_null(arena_alloc(a, 16));
    struct arena_mark mark = arena_mark(a);
    char *first = arena_alloc(a, 1000);
    assert_non_null(first);
    memset(first, 'x', 1000);
    for (int i = 0; i < 100; i++) /* some chunks more */
        assert_non_null(arena_alloc(a, 1000));
    arena_rewind(a, mark);
    assert_int_equal(arena_used(a), 16);
    char *again = arena_alloc(a, 1000);
    assert_non_null(again);
    assert_memory_equal(again, zero, 1000);
    arena_free(a);
}

/* What a recycled arena takes depends on what is asked of it, not on how often it was used before. */
static void test_arena_rewind_forgets_how_large_it_was(void **state)
{
    struct arena *a = arena_new(64 * MIB);
    assert_non_null(arena_alloc(a, 16));
    struct arena_mark mark = arena_mark(a);
    size_t first = 0;
    for (int i = 0; i < 20; i++) {
        assert_non_null(arena_alloc(a, 5000));
        first = i == 0 ? arena_budget_used() : first;
        assert_int_equal(arena_budget_used(), first);
        arena_rewind(a, mark);
    }
    arena_free(a);
}

static void test_arena_budget(void **state)
{
    size_t before = arena_budget_used();
    arena_budget(before + 100 * KIB);
    struct arena *a = arena_new(SIZE_MAX), *b = arena_new(SIZE_MAX);
    assert_non_null(arena_alloc(a, 60 * KIB));
    assert_null(arena_alloc(b, 60 * KIB));
    arena_free(a);
    assert_non_null(arena_alloc(b, 60 * KIB));
    arena_free(b);
    arena_budget(0);
    assert_int_equal(arena_budget_used(), before);
}

/* ---- buf ---- */

static void test_buf_max(void **state)
{
    for (size_t n = 9; n <= 11; n++) {
        struct buf b = { .max = 10 };
        for (size_t i = 0; i < n; i++)
            buf_char(&b, 'x');
        assert_int_equal(b.fail, n <= 10 ? OK : ERR_TOO_LARGE);
        assert_int_equal(b.n, MIN(n, (size_t)10));
        buf_free(&b);
    }
}

static void test_buf_writes(void **state)
{
    struct arena *a = arena_new(1 * MIB);
    struct buf b = { .arena = a };
    buf_i64(&b, INT64_MIN);
    BUF_LIT(&b, " ");
    buf_i64(&b, INT64_MAX);
    buf_f(&b, " %s %d", "and", 0);
    buf_str(&b, STR_NONE);
    assert_str(buf_view(&b), "-9223372036854775808 9223372036854775807 and 0");
    arena_free(a);
}

static void test_buf_i64_has_every_length(void **state)
{
    i64 power = 1;
    for (int digits = 1; digits <= 19; digits++, power *= digits < 19 ? 10 : 1)
        for (i64 near = -1; near <= 1; near++)
            for (i64 sign = -1; sign <= 1; sign += 2) {
                char expected[32], got[32];
                i64 value = sign * (power + near);
                struct buf b = { .p = got, .cap = sizeof got };
                buf_i64(&b, value);
                snprintf(expected, sizeof expected, "%lld", (long long)value);
                assert_true(str_eq(buf_view(&b), str_of(expected)));
            }
}

static void test_buf_failure_sticks(void **state)
{
    struct arena *a = arena_new(300);
    struct buf b = { .arena = a };
    BUF_LIT(&b, "kept");
    buf_put(&b, (char[1000]){ 0 }, 1000);
    assert_int_equal(b.fail, ERR_MEMORY);
    BUF_LIT(&b, "ignored");
    assert_str(buf_view(&b), "kept");
    arena_free(a);
}

/* ---- str ---- */

static void test_str_compare(void **state)
{
    assert_true(str_eq(S(""), STR_NONE));
    assert_true(str_eq_nocase(S("AbC-1"), S("aBc-1")));
    assert_false(str_eq_nocase(S("abc"), S("abd")));
    assert_true(str_cmp(S("ab"), S("abc")) < 0 && str_cmp(S("b"), S("abc")) > 0 && str_cmp(S("\xC3"), S("z")) > 0);
    assert_true(str_eq_secret(S("same"), S("same")) && !str_eq_secret(S("same"), S("sane")) &&
                !str_eq_secret(S("a"), S("ab")));
    assert_true(str_starts(S("abc"), S("")) && str_starts(S("abc"), S("abc")) && !str_starts(S("ab"), S("abc")));
    assert_true(str_ends(S("abc"), S("bc")) && !str_ends(S("c"), S("bc")));
}

static void test_str_find_and_slice(void **state)
{
    assert_int_equal(str_find_char(S("a,b,c"), ',', 2), 3);
    assert_int_equal(str_find_char(S("abc"), 'a', 3), -1);
    assert_int_equal(str_find(S("abcabc"), S("ca"), 0), 2);
    assert_int_equal(str_find(STR_NONE, S("a"), 0), -1);
    assert_str(str_slice(S("hello"), 1, 3), "el");
    assert_str(str_slice(S("hello"), 4, 99), "o");
    assert_str(str_slice(S("hello"), 3, 2), "");
    assert_str(str_trim(S(" \t a b\r\n")), "a b");
    assert_str(str_trim(S("   ")), "");
}

static void test_str_cut(void **state)
{
    str rest = S("a,,b,"), part;
    assert_true(str_cut(&rest, ',', &part));
    assert_str(part, "a");
    assert_true(str_cut(&rest, ',', &part));
    assert_str(part, "");
    assert_true(str_cut(&rest, ',', &part));
    assert_str(part, "b");
    assert_true(str_cut(&rest, ',', &part));
    assert_str(part, "");
    assert_false(str_cut(&rest, ',', &part));
}

static void test_str_i64(void **state)
{
    i64 n = 42;
    assert_true(str_i64(S("-9223372036854775808"), INT64_MIN, INT64_MAX, &n) && n == INT64_MIN);
    assert_true(str_i64(S("9223372036854775807"), INT64_MIN, INT64_MAX, &n) && n == INT64_MAX);
    static const char *const bad[] = {
        "", "-", "+1", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "-9223372036854775809"
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        n = 42;
        assert_false(str_i64(str_of(bad[i]), INT64_MIN, INT64_MAX, &n));
        assert_int_equal(n, 42);
    }
    assert_false(str_i64(S("9"), 10, 20, &n));
    assert_true(str_i64(S("10"), 10, 20, &n));
    assert_true(str_i64(S("20"), 10, 20, &n));
    assert_false(str_i64(S("21"), 10, 20, &n));
}

static void test_str_utf8(void **state)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        { "", true },
        { "plain ascii, longer than eight", true },
        { "\xC2\x80", true },         /* U+0080 */
        { "\xDF\xBF", true },         /* U+07FF */
        { "\xE0\xA0\x80", true },     /* U+0800 */
        { "\xED\x9F\xBF", true },     /* U+D7FF */
        { "\xEE\x80\x80", true },     /* U+E000 */
        { "\xEF\xBF\xBF", true },     /* U+FFFF */
        { "\xF0\x90\x80\x80", true }, /* U+10000 */
        { "\xF4\x8F\xBF\xBF", true }, /* U+10FFFF */
        { "\x80", false },            /* continuation alone */
        { "\xC0\xAF", false },        /* overlong */
        { "\xC1\xBF", false },
        { "\xE0\x9F\xBF", false },
        { "\xF0\x8F\xBF\xBF", false },
        { "\xED\xA0\x80", false }, /* surrogate */
        { "\xED\xBF\xBF", false },
        { "\xF4\x90\x80\x80", false }, /* above U+10FFFF */
        { "\xF5\x80\x80\x80", false },
        { "\xFF", false },
        { "\xC3", false }, /* cut off */
        { "\xE2\x82", false },
        { "\xF0\x9F\x98", false },
        { "seven..\xC3", false }, /* cut off at a word's end */
        { "\xC3(", false },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(str_utf8(str_of(cases[i].text)), cases[i].valid);
    assert_int_equal(str_utf8_len(S("a\xC3\xA9\xF0\x9F\x98\x80")), 3);
    assert_int_equal(str_utf8_at(S("a\xC3\xA9"), 1), 2);
    assert_int_equal(str_utf8_at(S("a\xC3\xA9"), 2), 0);
}

static void test_str_make(void **state)
{
    struct arena *a = arena_new(1 * MIB);
    assert_str(str_lower(a, S("ABC\xC3\x84z")), "abc\xC3\x84z");
    assert_str(str_concat(a, (str[]){ S("a"), S(""), S("bc") }, 3), "abc");
    assert_string_equal(str_z(a, S("text")), "text");
    str l = strf(a, "%0300d", 7); /* longer than the small buffer */
    assert_int_equal(l.n, 300);
    assert_true(l.p[299] == '7' && l.p[0] == '0');
    assert_null(str_of(NULL).p);
    arena_free(a);
    struct arena *none = arena_new(0);
    assert_null(str_dup(none, S("x")).p);
    assert_null(strf(none, "x").p);
    arena_free(none);
}

/* ---- map ---- */

static void fill(struct map *m, u32 n, u32 values[])
{
    for (u32 i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%u", i);
        assert_int_equal(map_put(m, str_of(key), &values[i]), OK);
    }
}

static void check_map(struct arena *a)
{
    enum { N = 1000 };
    static u32 values[N];
    struct map m = { .arena = a };
    struct map_entry *e;
    assert_null(map_get(&m, S("key1")));
    assert_null(map_delete(&m, S("key1")));
    fill(&m, N, values);
    assert_int_equal(m.count, N);
    u32 next = 0;
    for (u32 i = 0; (e = map_next(&m, &i)) != NULL; next++)
        assert_ptr_equal(e->value, &values[next]); /* in the order of insertion */
    assert_int_equal(map_put(&m, S("key7"), &values[0]), OK);
    assert_ptr_equal(map_get(&m, S("key7")), &values[0]);
    assert_int_equal(m.count, N);
    for (u32 i = 0; (e = map_next(&m, &i)) != NULL;)
        if (e->value == &values[500])
            assert_ptr_equal(map_delete(&m, S("key500")), &values[500]); /* while walking */
    assert_null(map_get(&m, S("key500")));
    assert_ptr_equal(map_get(&m, S("key501")), &values[501]);
    assert_int_equal(m.count, N - 1);
    map_free(&m);
    assert_int_equal(m.count, 0);
}

static void test_map(void **state)
{
    check_map(NULL);
    struct arena *a = arena_new(16 * MIB);
    check_map(a);
    arena_free(a);
}

static void test_map_churn_does_not_grow(void **state)
{
    struct map m = { 0 };
    for (int i = 0; i < 10000; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(map_put(&m, str_of(key), &m), OK);
        assert_ptr_equal(map_delete(&m, str_of(key)), &m);
    }
    assert_int_equal(m.slot_count, 16);
    map_free(&m);
}

static void test_map_keys_are_copied(void **state)
{
    struct map m = { 0 };
    char key[] = "abc";
    assert_int_equal(map_put(&m, str_of(key), &m), OK);
    assert_int_equal(map_put(&m, S(""), key), OK);
    key[0] = 'x';
    assert_ptr_equal(map_get(&m, S("abc")), &m);
    assert_ptr_equal(map_get(&m, S("")), key);
    assert_null(map_get(&m, str_of(key)));
    map_free(&m);
}

/* ---- faults ---- */

static void test_fault_counter(void **state)
{
    fault_arm(FAULT_WRITE, 3);
    assert_false(fault_hit(FAULT_WRITE));
    assert_false(fault_hit(FAULT_SYNC)); /* another kind */
    assert_false(fault_hit(FAULT_WRITE));
    assert_false(fault_fired(FAULT_WRITE));
    assert_true(fault_hit(FAULT_WRITE));
    assert_true(fault_fired(FAULT_WRITE));
    assert_false(fault_hit(FAULT_WRITE)); /* once */
    fault_arm(FAULT_WRITE, 0);
    assert_false(fault_hit(FAULT_WRITE));
    assert_false(fault_fired(FAULT_WRITE));
}

static void test_lasting_fault(void **state)
{
    fault_arm_from(FAULT_WRITE, 2);
    assert_false(fault_hit(FAULT_WRITE));
    for (int i = 0; i < 5; i++)
        assert_true(fault_hit(FAULT_WRITE));
    fault_arm(FAULT_SYNC, 1); /* another kind beside it */
    assert_true(fault_hit(FAULT_SYNC) && fault_hit(FAULT_WRITE));
    assert_false(fault_hit(FAULT_SYNC));
    fault_spare(true);
    assert_false(fault_hit(FAULT_WRITE));
    fault_spare(false);
    assert_true(fault_hit(FAULT_WRITE));
    fault_arm(FAULT_WRITE, 0);
    assert_false(fault_hit(FAULT_WRITE));
}

static void test_sampled_faults(void **state)
{
    unsetenv("WEIR_TEST_FULL");
    assert_int_equal(fault_next(0, FAULT_STRIDE, false), 1);
    assert_int_equal(fault_next(199, FAULT_STRIDE, false), 200);
    assert_int_equal(fault_next(200, FAULT_STRIDE, false), 217);
    assert_int_equal(fault_next(19, FAULT_STRIDE, true), 20);
    assert_int_equal(fault_next(20, FAULT_STRIDE, true), 24);
    assert_int_equal(fault_next(200, FAULT_STRIDE, true), 217);
    setenv("WEIR_TEST_FULL", "1", 1);
    assert_int_equal(fault_next(20, FAULT_STRIDE, true), 21);
    assert_int_equal(fault_next(200, FAULT_STRIDE, false), 201);
    unsetenv("WEIR_TEST_FULL");
}

static err build_map(void)
{
    struct map m = { 0 };
    err e = OK;
    for (int i = 0; e == OK && i < 40; i++) {
        u32 before = m.count;
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        e = map_put(&m, str_of(key), &m);
        assert_int_equal(m.count, e == OK ? before + 1 : before);
    }
    map_free(&m);
    return e;
}

static err build_text(void)
{
    struct arena *a = arena_new(1 * MIB);
    if (a == NULL)
        return ERR_MEMORY;
    struct buf b = { .arena = a };
    for (int i = 0; i < 1000; i++)
        buf_f(&b, "%d,", i);
    bool ok = str_dup(a, buf_view(&b)).p != NULL;
    arena_free(a);
    return b.fail != OK ? b.fail : ok ? OK : ERR_MEMORY;
}

static void each_allocation_fails(err (*scenario)(void))
{
    size_t before = arena_budget_used();
    for (i64 n = 1;; n++) {
        fault_arm(FAULT_ALLOC, n);
        err e = scenario();
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_int_equal(e, fired ? ERR_MEMORY : OK);
        assert_int_equal(arena_budget_used(), before);
        if (!fired)
            break;
        assert_true(n < 1000);
    }
}

static void test_each_allocation_fails(void **state)
{
    each_allocation_fails(build_map);
    each_allocation_fails(build_text);
}

/* ---- clock, randomness, errors ---- */

static void test_clock(void **state)
{
    i64 now = clock_now_us(), mono = clock_mono_us();
    assert_true(now > 1700000000 * SECOND_US);
    for (int i = 0; i < 1000; i++) {
        i64 next = clock_now_us(), next_mono = clock_mono_us();
        assert_true(next >= now && next_mono >= mono);
        now = next;
        mono = next_mono;
    }
}

static void test_calendar(void **state)
{
    i64 first = clock_days_of((struct clock_date){ 1, 1, 1 });
    struct clock_date before = { 0, 12, 31 };
    assert_int_equal(clock_days_of((struct clock_date){ 1970, 1, 1 }), 0);
    assert_int_equal(clock_days_of((struct clock_date){ 2000, 2, 29 }), 11016);
    for (i64 day = first; day <= clock_days_of((struct clock_date){ 9999, 12, 31 }); day++) {
        struct clock_date d = clock_date_of(day);
        bool same_month = d.year == before.year && d.month == before.month && d.day == before.day + 1;
        bool new_month =
            d.day == 1 && before.day >= 28 &&
            (d.month == before.month + 1 || (d.month == 1 && before.month == 12 && d.year == before.year + 1));
        if (!(same_month || new_month) || clock_days_of(d) != day)
            fail_msg("day %lld", (long long)day);
        before = d;
    }
    assert_int_equal(before.year, 9999);
}

/* What waits for a time must not wait longer because somebody set the clock. */
static void test_clock_that_is_set(void **state)
{
    i64 before = clock_now_us();
    fault_clock(HOUR_US);
    assert_true(clock_now_us() >= before + HOUR_US);
    for (int round = 0; round < 2; round++) { /* and once more, after the clocks had met */
        i64 ahead = clock_now_us();
        fault_clock((1 - round) * HOUR_US - HOUR_US - MINUTE_US);
        i64 set_back = clock_now_us(), from = clock_mono_us(), last = set_back;
        assert_true(set_back >= ahead && set_back < ahead + MINUTE_US);
        while (clock_mono_us() < from + 20000) {
            i64 next = clock_now_us();
            assert_true(next >= last);
            last = next;
        }
        last = clock_now_us();
        assert_true(last >= set_back + 8000 && last < set_back + MINUTE_US);
        fault_clock((2 + round) * HOUR_US);
        assert_true(clock_now_us() >= ahead + HOUR_US - MINUTE_US);
    }
    fault_clock(0);
}

static void test_clock_text(void **state)
{
    static const struct {
        i64 us;
        const char *text;
    } cases[] = {
        { 0, "1970-01-01T00:00:00.000000Z" },
        { -1, "1969-12-31T23:59:59.999999Z" },
        { 951782400 * SECOND_US, "2000-02-29T00:00:00.000000Z" },
        { INT64_MIN, "0001-01-01T00:00:00.000000Z" },
        { INT64_MAX, "9999-12-31T23:59:59.999999Z" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[CLOCK_TEXT + 1] = "";
        clock_text(cases[i].us, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_rng(void **state)
{
    bool seen[6] = { false };
    for (int i = 0; i < 1000; i++) {
        u64 n = rng_below(6);
        assert_true(n < 6);
        seen[n] = true;
    }
    for (int i = 0; i < 6; i++)
        assert_true(seen[i]);
    assert_int_equal(rng_below(1), 0);
    assert_true(rng_u64() != rng_u64());
}

static void test_err(void **state)
{
    assert_int_equal(err_status(OK), 200);
    assert_int_equal(err_status(ERR_INVALID), 422);
    assert_true(err_retryable(ERR_BUSY) && !err_retryable(ERR_CONFLICT));
    for (int e = 0; e < ERR_COUNT; e++) {
        assert_true(strlen(err_text((err)e)) > 0);
        assert_true(strncmp(err_name((err)e), "ERR_", 4) == 0 || e == OK);
    }
}

/* ---- log ---- */

struct capture {
    int saved, pipe[2];
};

static struct capture capture_begin(void)
{
    struct capture c;
    assert_int_equal(pipe(c.pipe), 0);
    c.saved = dup(STDERR_FILENO);
    dup2(c.pipe[1], STDERR_FILENO);
    return c;
}

/* What one log call wrote; a pipe keeps write(2)s apart no more than a file does, but 8 KiB fit in it at once. */
static size_t capture_end(struct capture *c, char *to, size_t max)
{
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    close(c->pipe[1]);
    ssize_t n = read(c->pipe[0], to, max - 1);
    close(c->pipe[0]);
    to[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

static void test_log_json(void **state)
{
    char line[16384];
    log_setup(LOG_JSON, LOG_INFO);
    struct capture c = capture_begin();
    LOG(LOG_WARN, "jobs.failed", LOG_STR("job", S("a\"b\\c\n\x01\xC3\xA9")), LOG_INT("attempt", -3),
        LOG_STR("none", STR_NONE));
    size_t n = capture_end(&c, line, sizeof line);
    assert_int_equal(line[n - 1], '\n');
    assert_memory_equal(line, "{\"time\":\"20", 11);
    assert_string_equal(strstr(line, ",\"level\""),
                        ",\"level\":\"warn\",\"event\":\"jobs.failed\",\"job\":\"a\\\"b\\\\c\\u000a\\u0001\xC3\xA9\","
                        "\"attempt\":-3,\"none\":null}\n");
}

static void test_log_text_cannot_be_forged(void **state)
{
    char line[16384];
    log_setup(LOG_TEXT, LOG_INFO);
    struct capture c = capture_begin();
    LOG(LOG_ERROR, "db.broken", LOG_STR("cause", S("x\n2026 INFO fine \xFF")), LOG_INT("n", 1));
    capture_end(&c, line, sizeof line);
    assert_string_equal(line + CLOCK_TEXT, " ERROR db.broken cause=\"x\\u000a2026 INFO fine \xEF\xBF\xBD\" n=1\n");
}

static void test_log_levels(void **state)
{
    char line[64];
    log_setup(LOG_JSON, LOG_WARN);
    assert_false(log_enabled(LOG_INFO));
    assert_true(log_enabled(LOG_WARN));
    struct capture c = capture_begin();
    LOG(LOG_INFO, "quiet", LOG_INT("n", 1));
    assert_int_equal(capture_end(&c, line, sizeof line), 0);
    log_setup(LOG_OFF, LOG_DEBUG);
    assert_false(log_enabled(LOG_ERROR));
}

/* A value of any length leaves a whole line of at most 8 KiB that still shows the fields behind it. */
static void test_log_cut(void **state)
{
    static char big[20000], line[16384];
    memset(big, 'x', sizeof big);
    for (size_t i = 0; i + 1 < sizeof big; i += 2)
        memcpy(big + i, "\xC3\xA9", 2);
    log_setup(LOG_JSON, LOG_INFO);
    for (size_t from = 0; from < 2; from++) { /* the second begins inside a character: no valid UTF-8 */
        str value = { big + from, sizeof big - 2 };
        struct capture c = capture_begin();
        LOG(LOG_INFO, "big", LOG_STR("a", value), LOG_STR("b", value), LOG_INT("n", 7));
        size_t n = capture_end(&c, line, sizeof line);
        assert_true(n <= 8192 && n > 6000);
        assert_string_equal(line + n - strlen("…\",\"n\":7}\n"), "…\",\"n\":7}\n");
        assert_true(str_utf8((str){ line, n }));
    }
}

static void test_log_drops_what_does_not_fit(void **state)
{
    static char line[16384];
    struct log_field fields[1000];
    for (size_t i = 0; i < COUNT(fields); i++)
        fields[i] = LOG_INT("some_number", (i64)i);
    struct capture c = capture_begin();
    log_write(LOG_INFO, "many", fields, COUNT(fields));
    size_t n = capture_end(&c, line, sizeof line);
    assert_true(n <= 8192);
    assert_string_equal(line + n - strlen(",\"cut\":true}\n"), ",\"cut\":true}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_cap),
        cmocka_unit_test(test_arena_cap_by_steps),
        cmocka_unit_test(test_arena_memory_is_zeroed_and_aligned),
        cmocka_unit_test(test_arena_overflow),
        cmocka_unit_test(test_arena_grow),
        cmocka_unit_test(test_arena_defer_runs_newest_first),
        cmocka_unit_test(test_arena_defer_at_the_cap),
        cmocka_unit_test(test_arena_rewind),
        cmocka_unit_test(test_arena_rewind_into_an_older_chunk),
        cmocka_unit_test(test_arena_rewind_forgets_how_large_it_was),
        cmocka_unit_test(test_arena_budget),
        cmocka_unit_test(test_buf_max),
        cmocka_unit_test(test_buf_writes),
        cmocka_unit_test(test_buf_i64_has_every_length),
        cmocka_unit_test(test_buf_failure_sticks),
        cmocka_unit_test(test_str_compare),
        cmocka_unit_test(test_str_find_and_slice),
        cmocka_unit_test(test_str_cut),
        cmocka_unit_test(test_str_i64),
        cmocka_unit_test(test_str_utf8),
        cmocka_unit_test(test_str_make),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_map_churn_does_not_grow),
        cmocka_unit_test(test_map_keys_are_copied),
        cmocka_unit_test(test_fault_counter),
        cmocka_unit_test(test_lasting_fault),
        cmocka_unit_test(test_sampled_faults),
        cmocka_unit_test(test_each_allocation_fails),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_calendar),
        cmocka_unit_test(test_clock_that_is_set),
        cmocka_unit_test(test_clock_text),
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_log_json),
        cmocka_unit_test(test_log_text_cannot_be_forged),
        cmocka_unit_test(test_log_levels),
        cmocka_unit_test(test_log_cut),
        cmocka_unit_test(test_log_drops_what_does_not_fit),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
