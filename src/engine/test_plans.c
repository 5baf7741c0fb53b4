/* test_plans.c - the cache of plans: who stays when it is full, and that nobody has all of it. */
#include "core/module.h"
#include "engine/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

const struct module *const modules[] = { NULL };
const struct table definition_trigger_table = { .name = "TestTrigger", .open = true };

enum { MOST = 8 };
static struct plans plans;
static struct arena *a;
static size_t one_bytes; /* of the plan that `put` makes, with its entry */

static int setup(void **state)
{
    a = arena_new(16 * MIB);
    plans_open(&plans, MOST, SIZE_MAX);
    return a == NULL;
}

static int teardown(void **state)
{
    plans_close(&plans);
    arena_free(a);
    return 0;
}

static str key_of(const char *tenant, int n)
{
    return strf(a, "%s/workflow_1/%d", tenant, n);
}

static void put(const char *tenant, int n)
{
    struct json *definition;
    struct problems problems = { .arena = a };
    struct plan *plan;
    assert_int_equal(json_parse(a, S("{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}]}"), &definition, NULL), OK);
    assert_int_equal(plan_compile(definition, S(""), &problems, &plan), OK);
    plan->tenant_id = str_dup(plan->arena, str_of(tenant));
    plans_put(&plans, key_of(tenant, n), plan);
    one_bytes = arena_used(plan->arena);
    plan_release(plan);
}

static bool has(const char *tenant, int n)
{
    struct plan *plan = plans_get(&plans, key_of(tenant, n));
    plan_release(plan);
    return plan != NULL;
}

static void test_what_was_used_longest_ago_goes(void **state)
{
    for (int n = 0; n < MOST / 2; n++) {
        put("tenant_1", n);
        put("tenant_2", n);
    }
    assert_true(has("tenant_1", 0)); /* all of them still: full is not too full */
    put("tenant_3", 0);
    assert_false(has("tenant_2", 0));
    assert_true(has("tenant_1", 0) && has("tenant_1", 1) && has("tenant_3", 0));
    assert_int_equal(plans.by_version.count, MOST);
}

static void test_a_tenant_has_half_of_it_at_most(void **state)
{
    put("tenant_2", 0);
    for (int n = 0; n < MOST / 2; n++)
        put("tenant_1", n);
    assert_true(has("tenant_1", 0)); /* n of n */
    put("tenant_1", MOST / 2);
    assert_false(has("tenant_1", 1)); /* its own oldest went */
    assert_true(has("tenant_1", 0) && has("tenant_1", MOST / 2) && has("tenant_2", 0));
    assert_int_equal(plans.by_version.count, MOST / 2 + 1);
}

static void test_bytes_count_as_well(void **state)
{
    put("tenant_1", 0);
    size_t one = one_bytes;
    plans_close(&plans);
    plans_open(&plans, MOST, 4 * one);
    for (int n = 0; n < 3; n++)
        put("tenant_1", n);
    assert_int_equal(plans.bytes, 2 * one); /* half */
    put("tenant_2", 0);
    put("tenant_2", 1);
    assert_int_equal(plans.bytes, 4 * one);
    plans_close(&plans);
    plans_open(&plans, MOST, 2 * one - 1);
    put("tenant_1", 0); /* larger than a tenant's half */
    assert_int_equal(plans.by_version.count, 0);
    plans_close(&plans);
    plans_open(&plans, MOST, 2 * one);
    put("tenant_1", 0);
    assert_int_equal(plans.by_version.count, 1);
}

/* Two threads that compiled the same leave one of it; whoever uses the other keeps it alive. */
static void test_the_same_again(void **state)
{
    put("tenant_1", 0);
    struct plan *used = plans_get(&plans, key_of("tenant_1", 0));
    put("tenant_1", 0);
    assert_int_equal(plans.by_version.count, 1);
    assert_int_equal(used->root.count, 1);
    plan_release(used);
    plans_forget(&plans);
    assert_int_equal(plans.bytes, 0);
    assert_false(has("tenant_1", 0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_used_longest_ago_goes),
        TEST(test_a_tenant_has_half_of_it_at_most),
        TEST(test_bytes_count_as_well),
        TEST(test_the_same_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
