/* test_docs.c - the pages with their files and without, and the codings in which a file leaves. */
#include "feat/docs/docs_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

const struct module *const modules[] = { &docs_module, NULL };
/* Swagger UI is there, Redoc is not. */
const struct docs_asset docs_assets[] = {
    { "swagger-ui-bundle.js", "text/javascript; charset=utf-8", "abc", { { "plain", 5 }, { "gz", 2 }, { "br", 2 } } },
    { "notes.txt", "text/plain; charset=utf-8", "def", { { "notes", 5 } } },
    { 0 },
};

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

struct ask {
    struct pair headers[2];
    struct http_request http;
    struct req rq;
};

static struct req *ask(const char *name, str accept, str known)
{
    struct ask *q = NEW(a, struct ask);
    q->headers[0] = (struct pair){ S("accept-encoding"), accept };
    q->headers[1] = (struct pair){ S("if-none-match"), known };
    q->http = (struct http_request){ .arena = a, .headers = q->headers, .header_count = known.n > 0 ? 2 : 1 };
    q->rq = (struct req){ .arena = a, .http = &q->http, .errors.arena = a, .params = { str_of(name) } };
    return &q->rq;
}

static str header(const struct req *rq, const char *name)
{
    for (u32 i = 0; i < rq->answer.header_count; i++)
        if (str_eq(rq->answer.headers[i].name, str_of(name)))
            return rq->answer.headers[i].value;
    return STR_NONE;
}

static void test_file_in_the_best_coding(void **state)
{
    static const struct {
        str accept, body, etag, coding;
    } cases[] = {
        { S_INIT("gzip, deflate, br"), S_INIT("br"), S_INIT("\"abc-br\""), S_INIT("br") },
        { S_INIT("gzip"), S_INIT("gz"), S_INIT("\"abc-gzip\""), S_INIT("gzip") },
        { S_INIT("br;q=0"), S_INIT("plain"), S_INIT("\"abc\""), S_INIT("") },
        { S_INIT(""), S_INIT("plain"), S_INIT("\"abc\""), S_INIT("") },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct req *rq = ask("swagger-ui-bundle.js", cases[i].accept, STR_NONE);
        assert_int_equal(docs_file(rq), OK);
        assert_int_equal(rq->answer.status, 200);
        assert_true(str_eq(rq->answer.raw, cases[i].body));
        assert_true(str_eq(header(rq, "ETag"), cases[i].etag));
        assert_true(str_eq(header(rq, "Content-Encoding"), cases[i].coding));
        assert_true(str_eq(header(rq, "Vary"), S("Accept-Encoding")));
    }
}

static void test_file_without_codings(void **state)
{
    struct req *rq = ask("notes.txt", S("br"), STR_NONE);
    assert_int_equal(docs_file(rq), OK);
    assert_true(str_eq(rq->answer.raw, S("notes")));
    assert_null(header(rq, "Content-Encoding").p);
    assert_null(header(rq, "Vary").p);
}

static void test_file_that_is_known(void **state)
{
    struct req *rq = ask("swagger-ui-bundle.js", S("br"), S("W/\"other\", \"abc-br\""));
    assert_int_equal(docs_file(rq), OK);
    assert_int_equal(rq->answer.status, 304);
    assert_int_equal(rq->answer.raw.n, 0);
    rq = ask("swagger-ui-bundle.js", S("gzip"), S("\"abc-br\""));
    assert_int_equal(docs_file(rq), OK);
    assert_int_equal(rq->answer.status, 200);
}

static void test_no_such_file(void **state)
{
    static const char *const names[] = { "", "redoc.standalone.js", "../docs.c", "swagger-ui-bundle.js.gz" };
    for (size_t i = 0; i < COUNT(names); i++)
        assert_int_equal(docs_file(ask(names[i], S(""), STR_NONE)), ERR_NOT_FOUND);
}

/* A viewer may do what it needs, the page with links only may load its style. */
static void test_pages_with_and_without(void **state)
{
    struct req *with = ask("", S(""), STR_NONE), *without = ask("", S(""), STR_NONE);
    assert_int_equal(docs_swagger(with), OK);
    assert_true(str_find(with->answer.raw, S("/docs/assets/swagger-ui-bundle.js"), 0) > 0);
    assert_true(str_find(header(with, "Content-Security-Policy"), S("script-src 'self';"), 0) > 0);
    assert_int_equal(docs_redoc(without), OK);
    assert_true(str_find(without->answer.raw, S("make console"), 0) > 0);
    assert_true(str_find(without->answer.raw, S("href=\"/openapi.json\""), 0) > 0);
    assert_true(str_find(without->answer.raw, S("<script"), 0) < 0);
    assert_true(str_find(header(without, "Content-Security-Policy"), S("script-src"), 0) < 0);
}

static void test_errors_page(void **state)
{
    static const struct catalogue_row rows[] = {
        { "a.one", "entry", 0, "Less < more & \"so\"", "src/x.c", 1 },
        { "a.one", "problem", 404, "One", "src/x.c", 2 },
        { "ab.two", "failure", 0, "Two", "src/x.c", 3 },
    };
    struct buf b = { .arena = a };
    assert_int_equal(docs_errors_write(&b, rows, COUNT(rows)), OK);
    str page = buf_view(&b);
    i64 first = str_find(page, S("id=\"a.one\""), 0);
    assert_true(first > 0);
    assert_true(str_find(page, S("id=\"a.one\""), (size_t)first + 1) < 0);
    assert_true(str_find(page, S("Less &lt; more &amp; &quot;so&quot;."), 0) > 0);
    assert_true(str_find(page, S("<b>404</b> problem: One."), 0) > 0);
    assert_true(str_find(page, S("<h2>ab</h2>"), 0) > 0);
}

static void test_errors_page_without_room(void **state)
{
    struct buf b = { .arena = a, .max = 100 };
    assert_int_equal(docs_errors_write(&b, NULL, 0), ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_in_the_best_coding),  cmocka_unit_test(test_file_without_codings),
        cmocka_unit_test(test_file_that_is_known),       cmocka_unit_test(test_no_such_file),
        cmocka_unit_test(test_pages_with_and_without),   cmocka_unit_test(test_errors_page),
        cmocka_unit_test(test_errors_page_without_room),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
