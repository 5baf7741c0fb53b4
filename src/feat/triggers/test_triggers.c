/* test_triggers.c - the pure parts: secrets, addresses, and a request as an execution sees it. What a call does is tested in tests/api. */
#include "feat/triggers/triggers_parts.h"

#include "codec/jwt.h"
#include "core/module.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* The list of modules is all.c's; none is needed here. */
const struct module *const modules[] = { NULL };

#define NOW_US                 ((i64)1800000000 * SECOND_US)
#define assert_str(s, literal) assert_string_equal(str_z(a, s), literal)

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

static const struct trigger_owner owner = { S_INIT("a secret key of the installation"), S_INIT("tenant_1"),
                                            S_INIT("trigger_1") };

/* ---- secrets ---- */

static str store(const char *type, const char *given, str before)
{
    str stored = STR_NONE;
    assert_int_equal(trigger_auth_store(a, &owner, str_of(type), str_of(given), before, &stored), OK);
    return stored;
}

static struct trigger_auth opened(const char *type, str stored)
{
    struct trigger_auth auth = { 0 };
    assert_int_equal(trigger_auth_open(a, &owner, str_of(type), stored, &auth), OK);
    return auth;
}

static str masked(const char *type, str stored)
{
    str shown = STR_NONE;
    assert_int_equal(trigger_auth_mask(a, str_of(type), stored, &shown), OK);
    return shown;
}

static void test_no_secret_is_stored_or_shown(void **state)
{
    static const struct {
        const char *type, *given, *secret, *shown;
    } rows[] = {
        { "api_key", "{\"api_key\":\"right-key-0123456789\"}", "right-key", "{\"api_key\":\"****\"}" },
        { "bearer", "{\"token\":\"right-token-0123456789\"}", "right-token", "{\"token\":\"****\"}" },
        { "bearer", "{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\",\"issuer\":\"shop\"}", "0123456789abcdef",
          "{\"jwt_secret\":\"****\",\"issuer\":\"shop\"}" },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        str stored = store(rows[i].type, rows[i].given, STR_NONE);
        assert_true(str_find(stored, str_of(rows[i].secret), 0) < 0);
        assert_str(masked(rows[i].type, stored), rows[i].shown);
    }
    assert_null(store("none", NULL, STR_NONE).p);
    assert_null(masked("none", STR_NONE).p);
}

static void test_a_mask_or_nothing_keeps_the_secret(void **state)
{
    str before = store("api_key", "{\"api_key\":\"right-key-0123456789\"}", STR_NONE), after = STR_NONE;
    assert_true(str_eq(store("api_key", "{\"api_key\":\"****\"}", before), before));
    assert_true(str_eq(store("api_key", NULL, before), before));
    assert_int_equal(trigger_auth_store(a, &owner, S("api_key"), S("{\"api_key\":\"****\"}"), STR_NONE, &after),
                     ERR_INVALID);
    assert_int_equal(trigger_auth_store(a, &owner, S("api_key"), STR_NONE, STR_NONE, &after), ERR_INVALID);
    assert_int_equal(trigger_auth_store(a, &owner, S("bearer"), S("{\"jwt_secret\":\"****\"}"), before, &after),
                     ERR_INVALID);
}

static void test_a_masked_jwt_secret_stays_while_its_claims_change(void **state)
{
    str before = store("bearer", "{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\",\"issuer\":\"shop\"}", STR_NONE);
    struct trigger_auth auth =
        opened("bearer", store("bearer", "{\"jwt_secret\":\"****\",\"audience\":\"weir\"}", before));
    assert_str(auth.jwt_secret, "0123456789abcdef0123456789abcdef");
    assert_null(auth.issuer.p);
    assert_str(auth.audience, "weir");
}

static void test_a_sealed_secret_opens_for_its_own_trigger_only(void **state)
{
    str stored = store("bearer", "{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\"}", STR_NONE);
    struct trigger_owner others[] = { owner, owner, owner };
    struct trigger_auth auth;
    others[0].tenant_id = S("tenant_2");
    others[1].trigger_id = S("trigger_2");
    others[2].secret_key = S("the secret key of somebody else!");
    for (u32 i = 0; i < COUNT(others); i++)
        assert_int_equal(trigger_auth_open(a, &others[i], S("bearer"), stored, &auth), ERR_INTERNAL);
}

static void test_a_stored_text_that_is_not_ours_is_a_fault(void **state)
{
    static const char *const texts[] = {
        "", "{}", "{\"sha256\":\"00\"}", "{\"sha256\":7}", "{\"sealed\":\"AAAA\"}", "{\"sealed\":\"%\"}"
    };
    struct trigger_auth auth;
    for (u32 i = 0; i < COUNT(texts); i++)
        assert_int_equal(trigger_auth_open(a, &owner, S("bearer"), str_of(texts[i]), &auth), ERR_INTERNAL);
    assert_int_equal(trigger_auth_open(a, &owner, S("api_key"), STR_NONE, &auth), ERR_INTERNAL);
}

static void test_an_api_key_comes_in_either_header(void **state)
{
    struct trigger_auth auth = opened("api_key", store("api_key", "{\"api_key\":\"right-key-0123456789\"}", STR_NONE));
    static const struct {
        const char *key, *authorization;
        bool good;
    } rows[] = {
        { "right-key-0123456789", NULL, true },
        { NULL, "Bearer right-key-0123456789", true },
        { NULL, "bearer  right-key-0123456789 ", true },
        { NULL, NULL, false },
        { "", "", false },
        { "right-key-012345678", NULL, false },
        { "right-key-01234567890", NULL, false },
        { "wrong", "Bearer right-key-0123456789", false },
        { NULL, "Basic right-key-0123456789", false },
        { NULL, "right-key-0123456789", false },
        { "****", NULL, false },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        assert_int_equal(trigger_auth_passes(a, &auth, str_of(rows[i].key), str_of(rows[i].authorization), NOW_US),
                         rows[i].good);
}

static void test_a_token_comes_as_bearer_only(void **state)
{
    struct trigger_auth auth = opened("bearer", store("bearer", "{\"token\":\"right-token-0123456789\"}", STR_NONE));
    assert_true(trigger_auth_passes(a, &auth, STR_NONE, S("Bearer right-token-0123456789"), NOW_US));
    assert_false(trigger_auth_passes(a, &auth, S("right-token-0123456789"), STR_NONE, NOW_US));
    assert_false(trigger_auth_passes(a, &auth, STR_NONE, S("Bearer "), NOW_US));
}

static void test_nothing_to_prove_is_proved_by_anybody(void **state)
{
    struct trigger_auth auth = opened("none", STR_NONE);
    assert_true(trigger_auth_passes(a, &auth, STR_NONE, STR_NONE, NOW_US));
}

static void test_a_jwt_holds_in_its_time_for_its_names(void **state)
{
    const struct jwt_key key = { .kid = S(""), .secret = S("0123456789abcdef0123456789abcdef") };
    const struct jwt_key other = { .kid = S(""), .secret = S("another secret of thirty-two bytes") };
    struct trigger_auth auth =
        opened("bearer",
               store("bearer",
                     "{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\",\"issuer\":\"shop\",\"audience\":\"weir\"}",
                     STR_NONE));
    static const struct {
        const char *claims;
        bool good;
    } rows[] = {
        { "{\"iss\":\"shop\",\"aud\":\"weir\"}", true },
        { "{\"iss\":\"shop\",\"aud\":[\"x\",\"weir\"],\"exp\":1800000001,\"nbf\":1800000000}", true },
        { "{\"iss\":\"shop\",\"aud\":\"weir\",\"nbf\":1800000060}", true },
        { "{\"iss\":\"shop\",\"aud\":\"weir\",\"nbf\":1800000061}", false },
        { "{\"iss\":\"shop\",\"aud\":\"weir\",\"exp\":1800000000}", false },
        { "{\"iss\":\"shop\",\"aud\":\"weir\",\"exp\":\"1900000000\"}", false },
        { "{\"iss\":\"shop\",\"aud\":\"weir\",\"nbf\":null}", false },
        { "{\"iss\":\"other\",\"aud\":\"weir\"}", false },
        { "{\"iss\":\"shop\",\"aud\":[\"x\"]}", false },
        { "{\"aud\":\"weir\"}", false },
        { "{\"iss\":\"shop\"}", false },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        str header = strf(a, "Bearer %s", str_z(a, jwt_sign(a, &key, str_of(rows[i].claims))));
        if (trigger_auth_passes(a, &auth, STR_NONE, header, NOW_US) != rows[i].good)
            fail_msg("row %u: %s", i, rows[i].claims);
    }
    const struct jwt_key named = { .kid = S("of-theirs"), .secret = key.secret }; /* many issuers name their only key */
    str with_kid = strf(a, "Bearer %s", str_z(a, jwt_sign(a, &named, str_of(rows[0].claims))));
    assert_true(trigger_auth_passes(a, &auth, STR_NONE, with_kid, NOW_US));
    str foreign = strf(a, "Bearer %s", str_z(a, jwt_sign(a, &other, str_of(rows[0].claims))));
    assert_false(trigger_auth_passes(a, &auth, STR_NONE, foreign, NOW_US));
}

/* ---- what may be sent ---- */

static str first_problem(const char *body)
{
    struct problems problems = { .arena = a };
    struct json *j;
    struct trigger *out = NEW(a, struct trigger);
    assert_non_null(out);
    assert_int_equal(json_parse(a, str_of(body), &j, NULL), OK);
    err e = field_decode(a, &trigger_table, FIELD_CREATE, j, S(""), out, &problems);
    assert_int_equal(e, problems.n > 0 ? ERR_INVALID : OK);
    return problems.n > 0 ? problems.list[0].pointer : STR_NONE;
}

static void test_bounds_of_settings(void **state)
{
    static const struct {
        const char *body, *pointer;
    } rows[] = {
        { "{}", NULL },
        { "{\"rate_limit\":null}", NULL },
        { "{\"rate_limit\":1}", NULL },
        { "{\"rate_limit\":0}", "/rate_limit" },
        { "{\"rate_limit\":1000000}", NULL },
        { "{\"rate_limit\":1000001}", "/rate_limit" },
        { "{\"max_body_bytes\":0}", "/max_body_bytes" },
        { "{\"max_body_bytes\":4194304}", NULL },
        { "{\"max_body_bytes\":4194305}", "/max_body_bytes" },
        { "{\"method\":\"DELETE\"}", "/method" },
        { "{\"auth_config\":{\"api_key\":\"0123456789abcdef\"}}", "/auth_config/api_key" },
        { "{\"auth_type\":\"api_key\",\"auth_config\":{\"api_key\":\"0123456789abcde\"}}", "/auth_config/api_key" },
        { "{\"auth_type\":\"api_key\",\"auth_config\":{\"api_key\":\"0123456789abcdef\"}}", NULL },
        { "{\"auth_type\":\"api_key\",\"auth_config\":{\"api_key\":\"****\"}}", NULL },
        { "{\"auth_type\":\"bearer\",\"auth_config\":{}}", "/auth_config" },
        { "{\"auth_type\":\"bearer\",\"auth_config\":{\"token\":\"0123456789abcdef\",\"issuer\":\"x\"}}",
          "/auth_config" },
        { "{\"auth_type\":\"bearer\",\"auth_config\":{\"jwt_secret\":\"0123456789abcdef0123456789abcde\"}}",
          "/auth_config/jwt_secret" },
        { "{\"auth_type\":\"bearer\",\"auth_config\":{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\"}}", NULL },
        { "{\"auth_type\":\"bearer\",\"auth_config\":{\"jwt_secret\":\"0123456789abcdef0123456789abcdef\",\"token\":\"0123456789abcdef\"}}",
          "/auth_config" },
        { "{\"dedup_header\":\"X-Delivery\"}", NULL },
        { "{\"dedup_header\":\"X Delivery\"}", "/dedup_header" },
        { "{\"allowed_ips\":[\"10.0.0.0/8\",\"::1\"]}", NULL },
        { "{\"allowed_ips\":[\"10.0.0.0/8\",\"nowhere\"]}", "/allowed_ips/1" },
        { "{\"id\":\"trigger_01h455vb4pex5vsknk084sn02q\"}", "/id" },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        if (!str_eq(first_problem(rows[i].body), str_of(rows[i].pointer)))
            fail_msg("%s: %s", rows[i].body, str_z(a, first_problem(rows[i].body)));
}

/* ---- input ---- */

static str input_of(enum http_method method, const char *type, str body, const char *query)
{
    struct pair headers[] = { { S("content-type"), str_of(type) } };
    struct http_request http = { .arena = a,
                                 .method = method,
                                 .headers = headers,
                                 .header_count = type != NULL,
                                 .body = body,
                                 .query = str_of(query) };
    const struct problem *why;
    struct json_error where = { 0 };
    str json = STR_NONE;
    err e = trigger_input(a, &http, &json, &why, &where);
    return e == OK ? json : strf(a, "%s %s", err_name(e), why->code);
}

static void test_input_by_media_type(void **state)
{
    static const struct {
        const char *type, *body, *input;
    } rows[] = {
        { "application/json", "{ \"a\": 1.50 , \"b\":[9007199254740993]}", "{\"a\":1.5,\"b\":[9007199254740993]}" },
        { "application/json; charset=utf-8", "[1,2]", "{\"body\":[1,2]}" },
        { "application/vnd.shop+json", "null", "{\"body\":null}" },
        { "APPLICATION/JSON", "\"x\"", "{\"body\":\"x\"}" },
        { "application/json", "", "{}" },
        { "application/json", "{\"a\":", "ERR_DECODE request.json" },
        { "application/json", "{\"a\":1,\"a\":2}", "ERR_DECODE request.json" },
        { "application/x-www-form-urlencoded", "a=1&b=x+y&a=2&a=%C3%A9", "{\"a\":[\"1\",\"2\",\"é\"],\"b\":\"x y\"}" },
        { "application/x-www-form-urlencoded", "a=%zz", "ERR_DECODE triggers.form" },
        { "text/plain", "hello \"you\"", "{\"body\":\"hello \\\"you\\\"\"}" },
        { NULL, "{\"a\":1}", "{\"body\":\"{\\\"a\\\":1}\"}" },
        { "application/octet-stream", "\xff\xfe", "{\"body\":\"//4=\",\"encoding\":\"base64\"}" },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        assert_str(input_of(POST, rows[i].type, str_of(rows[i].body), NULL), rows[i].input);
    assert_str(input_of(POST, "text/plain", S("a\0b"), NULL), "{\"body\":\"YQBi\",\"encoding\":\"base64\"}");
}

static void test_input_of_a_get_is_its_query(void **state)
{
    assert_str(input_of(GET, NULL, STR_NONE, "a=1&b=x%20y&a=2"), "{\"a\":[\"1\",\"2\"],\"b\":\"x y\"}");
    assert_str(input_of(GET, NULL, STR_NONE, NULL), "{}");
}

/* A value is one level deeper than its body: at the edge the body alone would pass. */
static void test_depth_counts_the_wrapping(void **state)
{
    char body[2 * JSON_MAX_DEPTH + 1];
    for (int depth = JSON_MAX_DEPTH - 1; depth <= JSON_MAX_DEPTH; depth++) {
        memset(body, '[', (size_t)depth);
        memset(body + depth, ']', (size_t)depth);
        str answer = input_of(POST, "application/json", (str){ body, 2 * (size_t)depth }, NULL);
        assert_int_equal(str_starts(answer, S("{\"body\":")), depth < JSON_MAX_DEPTH);
    }
}

static void test_the_origin_leaves_secrets_out(void **state)
{
    struct pair headers[] = {
        { S("host"), S("x") },
        { S("authorization"), S("Bearer s3cret") },
        { S("x-api-key"), S("s3cret") },
        { S("cookie"), S("s3cret") },
        { S("proxy-authorization"), S("s3cret") },
        { S("x-a"), S("1") },
        { S("x-a"), S("2") },
        { S("x-bad"), S("\xff") },
    };
    struct http_request http = { .arena = a,
                                 .method = PUT,
                                 .method_text = S("PUT"),
                                 .headers = headers,
                                 .header_count = COUNT(headers),
                                 .query = S("q=1"),
                                 .remote = S("192.0.2.1") };
    str json;
    assert_int_equal(trigger_origin(a, &http, S("trigger_1"), &json), OK);
    assert_str(
        json,
        "{\"type\":\"webhook\",\"id\":\"trigger_1\",\"method\":\"PUT\",\"headers\":{\"host\":\"x\",\"x-a\":\"1, 2\",\"x-bad\":\"\"},"
        "\"query\":{\"q\":\"1\"},\"client_ip\":\"192.0.2.1\"}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_secret_is_stored_or_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_mask_or_nothing_keeps_the_secret, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_masked_jwt_secret_stays_while_its_claims_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_sealed_secret_opens_for_its_own_trigger_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stored_text_that_is_not_ours_is_a_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_api_key_comes_in_either_header, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_token_comes_as_bearer_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_to_prove_is_proved_by_anybody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_jwt_holds_in_its_time_for_its_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds_of_settings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_by_media_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_of_a_get_is_its_query, setup, teardown),
        cmocka_unit_test_setup_teardown(test_depth_counts_the_wrapping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_origin_leaves_secrets_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
