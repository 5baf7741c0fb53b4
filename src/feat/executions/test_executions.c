/* test_executions.c - idempotency keys. Reading, listing and watching are tested in tests/api. */
#include "core/module.h"
#include "engine/definition.h"
#include "feat/executions/executions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

const struct module *const modules[] = { NULL };
const struct table definition_trigger_table = { .name = "DefinitionTrigger" };

static struct arena *a;

static int setup(void **state)
{
    a = arena_new(8 * MIB);
    return a == NULL;
}

static int teardown(void **state)
{
    arena_free(a);
    return 0;
}

struct dedup {
    str tenant_id, scope, key, body;
    u32 times; /* that the header is sent */
};

static err dedup(const struct dedup *d, struct start *start)
{
    struct pair headers[2] = { { S("idempotency-key"), d->key }, { S("idempotency-key"), d->key } };
    struct http_request http = { .arena = a, .headers = headers, .header_count = d->times };
    struct req rq = { .arena = a, .http = &http, .errors.arena = a };
    *start = (struct start){ 0 };
    return execution_dedup(&rq, S("Idempotency-Key"), d->tenant_id, d->scope, d->body, start);
}

static const struct dedup usual = { S_INIT("tenant_1"), S_INIT("trigger_1"), S_INIT("order-1"), S_INIT("{}"), 1 };

static void test_no_header_is_no_key(void **state)
{
    struct start start;
    struct dedup none = usual;
    none.times = 0;
    assert_int_equal(dedup(&none, &start), OK);
    assert_null(start.dedup_key.p);
    assert_null(start.dedup_body.p);
}

static void test_the_same_is_the_same_and_the_rest_is_not(void **state)
{
    struct start first, again, other;
    assert_int_equal(dedup(&usual, &first), OK);
    assert_int_equal(dedup(&usual, &again), OK);
    assert_true(str_eq(first.dedup_key, again.dedup_key) && str_eq(first.dedup_body, again.dedup_body));
    struct dedup others[] = { usual, usual, usual };
    others[0].tenant_id = S("tenant_2");
    others[1].scope = S("trigger_2");
    others[2].key = S("order-2");
    for (u32 i = 0; i < COUNT(others); i++) {
        assert_int_equal(dedup(&others[i], &other), OK);
        assert_false(str_eq(first.dedup_key, other.dedup_key));
    }
    struct dedup body = usual;
    body.body = S("{\"n\":1}");
    assert_int_equal(dedup(&body, &other), OK);
    assert_true(str_eq(first.dedup_key, other.dedup_key));
    assert_false(str_eq(first.dedup_body, other.dedup_body));
}

static void test_bounds_of_a_key(void **state)
{
    char text[256];
    struct start start;
    memset(text, '~', sizeof text);
    const struct {
        str key;
        err outcome;
    } rows[] = {
        { { text, 0 }, ERR_INVALID },
        { { text, 1 }, OK },
        { { text, 254 }, OK },
        { { text, 255 }, OK },
        { { text, 256 }, ERR_INVALID },
        { S("a b"), ERR_INVALID },
        { S("a\tb"), ERR_INVALID },
        { S("\xc3\xa9"), ERR_INVALID },
        { S("!"), OK },
        { S("a\x7f"), ERR_INVALID },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        struct dedup d = usual;
        d.key = rows[i].key;
        assert_int_equal(dedup(&d, &start), rows[i].outcome);
    }
    struct dedup twice = usual;
    twice.times = 2;
    assert_int_equal(dedup(&twice, &start), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_header_is_no_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_same_is_the_same_and_the_rest_is_not, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds_of_a_key, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
