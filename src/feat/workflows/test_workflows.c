/* test_workflows.c - a definition and its triggers part and come together again. The rest is tested in tests/api. */
#include "core/module.h"
#include "engine/definition.h"
#include "feat/workflows/workflows_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

const struct module *const modules[] = { NULL };

static struct arena *a;

static int setup(void **state)
{
    a = arena_new(64 * MIB);
    return a == NULL;
}

static int teardown(void **state)
{
    arena_free(a);
    return 0;
}

static struct json *parsed(str text)
{
    struct json *j;
    assert_int_equal(json_parse(a, text, &j, NULL), OK);
    return j;
}

static const char *const greet =
    "{\"triggers\":[{\"name\":\"x\"}],\"steps\":[{\"type\":\"transform\",\"id\":\"a\",\"with\":{\"n\":9007199254740993}}],\"dependencies\":{}}";

static void test_a_definition_is_stored_without_its_triggers_and_in_its_order(void **state)
{
    struct problems problems = { .arena = a };
    struct checked checked;
    assert_int_equal(definition_check(a, parsed(str_of(greet)), &problems, &checked), OK);
    assert_string_equal(
        str_z(a, checked.text),
        "{\"steps\":[{\"type\":\"transform\",\"id\":\"a\",\"with\":{\"n\":9007199254740993}}],\"dependencies\":{}}");
    assert_int_equal(checked.triggers->n, 1);
    assert_string_equal(str_z(a, checked.levels), "[[\"a\"]]");
}

static void test_problems_point_into_the_body(void **state)
{
    struct problems problems = { .arena = a };
    struct checked checked;
    struct json *j =
        parsed(S("{\"steps\":[{\"id\":\"a\",\"type\":\"transform\"}],\"dependencies\":{\"a\":[\"ghost\"]}}"));
    assert_int_equal(definition_check(a, j, &problems, &checked), ERR_INVALID);
    assert_string_equal(str_z(a, problems.list[0].pointer), "/definition/dependencies/a/0");
}

static void test_the_view_of_triggers_goes_into_the_definition(void **state)
{
    struct workflow w = { .definition = S("{\"steps\":[]}") };
    assert_int_equal(workflow_show(a, &w, S("[{\"id\":\"t\"}]")), OK);
    assert_string_equal(str_z(a, w.definition), "{\"steps\":[],\"triggers\":[{\"id\":\"t\"}]}");
}

/* The bound is that of the compact text: at it a definition is taken, one byte more is refused. */
static void test_size_of_a_definition(void **state)
{
    static const char head[] = "{\"steps\":[{\"id\":\"a\",\"type\":\"transform\",\"with\":{\"v\":\"", tail[] = "\"}}]}";
    for (size_t n = DEFINITION_BYTES_MAX - 1; n <= DEFINITION_BYTES_MAX + 1; n++) {
        struct problems problems = { .arena = a };
        struct checked checked;
        char *text = arena_alloc(a, n + 1);
        assert_non_null(text);
        memset(text, 'x', n);
        memcpy(text, head, sizeof head - 1);
        memcpy(text + n - (sizeof tail - 1), tail, sizeof tail - 1);
        err e = definition_check(a, parsed((str){ text, n }), &problems, &checked);
        assert_int_equal(e, n <= DEFINITION_BYTES_MAX ? OK : ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_definition_is_stored_without_its_triggers_and_in_its_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_problems_point_into_the_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_view_of_triggers_goes_into_the_definition, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size_of_a_definition, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
