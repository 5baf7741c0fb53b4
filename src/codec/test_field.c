/* test_field.c - field tables, as a specification: what goes in, what is refused and where, what comes out, what is published. */
#include "base/fault.h"
#include "codec/field.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define assert_str(actual, text) assert_true(str_eq((actual), str_of(text)))

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

/* ---- the tables ---- */

struct address {
    struct presence has;
    str city, zip;
};
static const struct field address_fields[] = {
    FIELD(struct address, city, F_STR, .flags = F_REQUIRED, .min = 1, .max = 5, .doc = "City"),
    FIELD(struct address, zip, F_STR, .preset = "\"00000\"", .doc = "Code"),
};
static const struct table address = TABLE("Address", struct address, address_fields);

struct bearer {
    struct presence has;
    str token;
};
static const struct field bearer_fields[] = { FIELD(struct bearer, token, F_STR, .flags = F_REQUIRED, .doc = "Token") };
static const struct table bearer = TABLE("Bearer", struct bearer, bearer_fields);
struct basic {
    struct presence has;
    str user;
    i64 level;
};
static const struct field basic_fields[] = {
    FIELD(struct basic, user, F_STR, .flags = F_REQUIRED, .doc = "User"),
    FIELD(struct basic, level, F_I64, .min = 1, .max = 3, .preset = "1", .doc = "Level"),
};
static const struct table basic = TABLE("Basic", struct basic, basic_fields);
static const struct variant_case auths[] = { { "bearer", &bearer }, { "basic", &basic }, { NULL, NULL } };
static const char *const auth_types[] = { "bearer", "basic", NULL };

static err even_length(str value, const char **code, const char **detail)
{
    if (value.n % 2 == 0)
        return OK;
    *code = "thing.odd";
    *detail = "must have an even length";
    return ERR_INVALID;
}

static err min_below_max(const struct json *object, str pointer, struct problems *out)
{
    const struct json *count = json_get(object, S("count")), *limit = json_get(object, S("limit"));
    if (count == NULL || limit == NULL || count->integer <= limit->integer)
        return OK;
    str at = json_pointer_key(out->arena, pointer, S("count"));
    return at.p != NULL ? problems_add(out, at, "thing.count", "must not be above limit") : ERR_MEMORY;
}

static const char *const colours[] = { "red", "green", NULL };
static const struct field pair_field = SHAPE_FIELD("pair", F_I64, .min = 0, .max = 9, .doc = "A digit");
static const struct field row_field = SHAPE_FIELD("row", F_LIST, .each = &pair_field, .max = 3, .doc = "Digits");

struct thing {
    struct presence has;
    str id, name, colour, mail, note, even;
    i64 count, limit, at;
    double ratio;
    bool on;
    str free;
    struct address *home;
    struct list tags, places, grid;
    struct list labels, sites;
    str auth_type;
    struct variant auth;
    str kept, secret;
    i64 made;
    str hidden;
};
static const struct field thing_fields[] = {
    FIELD(struct thing, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "thing", .doc = "Id"),
    FIELD(struct thing, name, F_STR, .flags = F_REQUIRED, .min = 2, .max = 4, .doc = "Name"),
    FIELD(struct thing, colour, F_STR, .one_of = colours, .preset = "\"red\"", .doc = "Colour"),
    FIELD(struct thing, mail, F_STR, .flags = F_NULLABLE, .format = "email", .doc = "Mail"),
    FIELD(struct thing, note, F_STR, .flags = F_NULLABLE | F_SPARSE, .doc = "Note"),
    FIELD(struct thing, even, F_STR, .flags = F_SPARSE, .check = even_length, .doc = "Even"),
    FIELD(struct thing, count, F_I64, .min = -1, .max = 10, .doc = "Count"),
    FIELD(struct thing, limit, F_I64, .flags = F_NULLABLE, .doc = "Limit"),
    FIELD(struct thing, at, F_TIME, .flags = F_NULLABLE, .doc = "When"),
    FIELD(struct thing, ratio, F_F64, .min_real = -0.5, .max_real = 1.5, .doc = "Ratio"),
    FIELD(struct thing, on, F_BOOL, .preset = "true", .doc = "On"),
    FIELD(struct thing, free, F_JSON, .max = 20, .doc = "Anything"),
    FIELD(struct thing, home, F_OBJECT, .of = &address, .doc = "Home"),
    FIELD(struct thing, tags, F_LIST, .flags = F_UNIQUE, .item = F_STR, .one_of = colours, .max = 3, .doc = "Tags"),
    FIELD(struct thing, places, F_LIST, .of = &address, .max = 2, .doc = "Places"),
    FIELD(struct thing, grid, F_LIST, .each = &row_field, .max = 2, .doc = "Grid"),
    FIELD(struct thing, labels, F_MAP, .item = F_I64, .max = 2, .doc = "Labels"),
    FIELD(struct thing, sites, F_MAP, .of = &address, .doc = "Sites"),
    FIELD(struct thing, auth_type, F_STR, .flags = F_SPARSE, .one_of = auth_types, .doc = "Which"),
    FIELD(struct thing, auth, F_VARIANT, .flags = F_SPARSE, .by = "auth_type", .variants = auths, .doc = "How"),
    FIELD(struct thing, kept, F_OBJECT, .flags = F_TEXT | F_SPARSE | F_CUT, .of = &address, .doc = "Kept as text"),
    FIELD(struct thing, secret, F_STR, .flags = F_INPUT | F_SECRET, .doc = "Secret"),
    FIELD(struct thing, made, F_TIME, .flags = F_OUTPUT, .doc = "Made"),
    FIELD(struct thing, hidden, F_STR, .flags = F_HIDDEN),
};
static const struct table thing = TABLE("Thing", struct thing, thing_fields, .check = min_below_max);

static const struct table *step_table(void);
static const char *const step_kinds[] = { "http", "loop", NULL };
static const struct field http_fields[] = {
    SHAPE_FIELD("url", F_STR, .flags = F_REQUIRED | F_EXPR, .format = "uri", .doc = "URL"),
    SHAPE_FIELD("timeout_ms", F_I64, .flags = F_EXPR, .min = 1, .max = 100, .doc = "Timeout"),
    SHAPE_FIELD("headers", F_MAP, .flags = F_EXPR, .item = F_STR, .doc = "Headers"),
    SHAPE_FIELD("body", F_JSON, .doc = "Body"),
    SHAPE_FIELD("title", F_STR, .flags = F_EXPR, .max = 8, .doc = "Title"),
};
static const struct table http_step = SHAPE("HttpStep", http_fields);
static const struct field loop_fields[] = { SHAPE_FIELD("steps", F_LIST, .flags = F_REQUIRED, .of_late = step_table,
                                                        .min = 1, .doc = "Inner") };
static const struct table loop_step = SHAPE("LoopStep", loop_fields);
static const struct variant_case steps[] = { { "http", &http_step }, { "loop", &loop_step }, { NULL, NULL } };
static const struct field step_fields[] = {
    SHAPE_FIELD("with", F_VARIANT, .flags = F_REQUIRED, .by = "kind", .variants = steps, .doc = "Settings"),
    SHAPE_FIELD("kind", F_STR, .one_of = step_kinds, .preset = "\"http\"", .doc = "Kind"),
};
static const struct table step = SHAPE("Step", step_fields);
static const struct table *step_table(void)
{
    return &step;
}

/* ---- helpers ---- */

static const struct json *parse(const char *text)
{
    struct json *j = NULL;
    assert_int_equal(json_parse(arena, str_of(text), &j, NULL), OK);
    return j;
}

/* "pointer code; pointer code" */
static str problems_text(const struct problems *p)
{
    struct buf b = { .arena = arena };
    for (u32 i = 0; i < p->n; i++) {
        assert_true(p->list[i].detail.n > 0);
        buf_f(&b, "%s%.*s %s", i > 0 ? "; " : "", STR_FMT(p->list[i].pointer), p->list[i].code);
    }
    return buf_view(&b);
}

static void check(const struct table *t, enum field_mode mode, const char *text, const char *expected)
{
    struct problems p = { .arena = arena };
    char *row = t->size != 0 ? arena_alloc(arena, t->size) : NULL;
    err e = field_decode(arena, t, mode, parse(text), S(""), row, &p);
    str found = problems_text(&p);
    if (!str_eq(found, str_of(expected)))
        fail_msg("%s\nfound    %.*s\nexpected %s", text, STR_FMT(found), expected);
    assert_int_equal(e, expected[0] != 0 ? ERR_INVALID : OK);
    for (size_t i = 0; e != OK && i < t->size; i++)
        assert_int_equal(row[i], 0); /* untouched */
}

static struct thing *decode(enum field_mode mode, const char *text)
{
    struct problems p = { .arena = arena };
    struct thing *row = NEW(arena, struct thing);
    err e = field_decode(arena, &thing, mode, parse(text), S(""), row, &p);
    if (e != OK)
        fail_msg("%s: %.*s", text, STR_FMT(problems_text(&p)));
    return row;
}

static str encode(const struct table *t, const void *row)
{
    struct buf b = { .arena = arena };
    field_encode(&b, t, row);
    assert_int_equal(b.fail, OK);
    return buf_view(&b);
}

/* ---- decoding ---- */

static void test_decode_everything(void **state)
{
    struct thing *t = decode(
        FIELD_CREATE,
        "{\"name\":\"abcd\",\"colour\":\"green\",\"mail\":\"a@b.example\",\"note\":\"\",\"even\":\"ab\",\"count\":-1,\"limit\":9223372036854775807,"
        "\"at\":\"1970-01-01T00:00:01Z\",\"ratio\":1.5,\"on\":false,\"free\":{\"x\":[1,2]},\"home\":{\"city\":\"Rome\"},\"tags\":[\"red\",\"green\"],"
        "\"places\":[{\"city\":\"A\"},{\"zip\":\"1\",\"city\":\"B\"}],\"grid\":[[1,2],[]],\"labels\":{\"a\":1,\"b/c\":2},"
        "\"sites\":{\"s\":{\"city\":\"C\"}},\"auth\":{\"user\":\"u\"},\"auth_type\":\"basic\",\"kept\":{ \"city\" : \"D\" },\"secret\":\"s\"}");
    assert_str(t->name, "abcd");
    assert_str(t->mail, "a@b.example");
    assert_true(t->note.p != NULL && t->note.n == 0);
    assert_int_equal(t->count, -1);
    assert_true(t->limit == INT64_MAX && t->at == SECOND_US && t->ratio == 1.5 && !t->on);
    assert_str(t->free, "{\"x\":[1,2]}");
    assert_str(t->home->city, "Rome");
    assert_str(t->home->zip, "00000"); /* a nested preset */
    assert_int_equal(t->tags.n, 2);
    assert_str(((str *)t->tags.items)[1], "green");
    assert_int_equal(t->places.n, 2);
    assert_str(((struct address *)t->places.items)[1].city, "B");
    const struct list *grid = t->grid.items;
    assert_true(t->grid.n == 2 && grid[0].n == 2 && ((i64 *)grid[0].items)[1] == 2 && grid[1].n == 0);
    const struct map_item *labels = t->labels.items, *sites = t->sites.items;
    assert_str(labels[1].key, "b/c");
    assert_int_equal(*(i64 *)labels[1].value, 2);
    assert_str(((struct address *)sites[0].value)->city, "C");
    assert_ptr_equal(t->auth.as, &basic);
    assert_str(((struct basic *)t->auth.p)->user, "u");
    assert_int_equal(((struct basic *)t->auth.p)->level, 1);
    assert_str(t->kept, "{\"city\":\"D\"}"); /* as given: presets are not written into text */
    assert_true(HAS(thing, t, secret) && !GIVEN(thing, t, id));
}

static void test_three_states(void **state)
{
    struct thing *t = decode(FIELD_CREATE, "{\"name\":\"ab\",\"mail\":null,\"limit\":3}");
    assert_true(GIVEN(thing, t, mail) && IS_NULL(thing, t, mail) && !HAS(thing, t, mail));
    assert_true(GIVEN(thing, t, limit) && !IS_NULL(thing, t, limit) && HAS(thing, t, limit));
    assert_true(!GIVEN(thing, t, note) && !IS_NULL(thing, t, note) && !HAS(thing, t, note));
    assert_true(HAS(thing, t, on) && t->on); /* preset */
    assert_str(t->colour, "red");
}

static void test_patch_presets_and_requires_nothing(void **state)
{
    struct thing *t = decode(FIELD_PATCH, "{}");
    assert_true(t->has.present == 0 && t->has.null == 0 && !t->on);
    t = decode(FIELD_PATCH, "{\"home\":{\"zip\":\"1\"}}"); /* reaches into the object */
    assert_true(!HAS(address, t->home, city) && HAS(address, t->home, zip));
    check(&thing, FIELD_PATCH, "{\"name\":null}", "/name field.null");
    check(&thing, FIELD_PATCH, "{\"name\":\"a\"}", "/name field.length");
    check(&thing, FIELD_PATCH, "{\"places\":[{}]}", "/places/0/city field.required"); /* lists are replaced whole */
    check(&thing, FIELD_PATCH, "{\"kept\":{}}", "/kept/city field.required");         /* and so is text */
    check(&thing, FIELD_PATCH, "{\"auth\":{\"token\":\"x\"}}", "/auth field.variant");
}

static void test_all_problems_at_once(void **state)
{
    check(
        &thing, FIELD_CREATE,
        "{\"colour\":\"blue\",\"x~/y\":1,\"count\":11,\"id\":\"thing_1\",\"home\":{\"city\":\"\",\"zip\":5,\"more\":1},\"on\":null,"
        "\"places\":[{\"city\":\"A\"},{\"city\":\"toolong\"}]}",
        "/colour field.one_of; /x~0~1y field.unknown; /count field.range; /id field.read_only; /home/city field.length; "
        "/home/zip field.type; /home/more field.unknown; /on field.null; /places/1/city field.length; /name field.required");
}

/* Each row: one member beside a valid name, and what is wrong with it. */
static void test_scalars(void **state)
{
    static const char *const cases[][2] = {
        { "\"count\":-2", "/count field.range" },
        { "\"count\":-1", "" },
        { "\"count\":10", "" },
        { "\"count\":11", "/count field.range" },
        { "\"count\":10.0", "" }, /* JSON Schema calls it an integer */
        { "\"count\":1.5", "/count field.type" },
        { "\"count\":\"1\"", "/count field.type" },
        { "\"count\":true", "/count field.type" },
        { "\"ratio\":-0.5", "" },
        { "\"ratio\":1", "" },
        { "\"ratio\":1.6", "/ratio field.range" },
        { "\"ratio\":\"1\"", "/ratio field.type" },
        { "\"on\":1", "/on field.type" },
        { "\"at\":\"2026-01-01T00:00:00+01:00\"", "" },
        { "\"at\":\"2026-01-01\"", "/at field.type" },
        { "\"at\":5", "/at field.type" },
        { "\"colour\":\"Red\"", "/colour field.one_of" },
        { "\"note\":\"a\\u0000b\"", "/note field.nul" },
        { "\"free\":\"a\\u0000b\"", "" },
        { "\"free\":null", "" },
        { "\"free\":\"123456789012345678\"", "" },
        { "\"free\":\"1234567890123456789\"", "/free field.size" },
        { "\"even\":\"abc\"", "/even thing.odd" },
        { "\"hidden\":\"x\"", "/hidden field.unknown" },
        { "\"made\":\"2026-01-01T00:00:00Z\"", "/made field.read_only" },
        { "\"count\":5,\"limit\":4", "/count thing.count" },
        { "\"count\":5,\"limit\":5", "" },
        { "\"count\":50,\"limit\":5", "/count field.range" }, /* the rule over both trusts each */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        str text = strf(arena, "{\"name\":\"ab\",%s}", cases[i][0]);
        check(&thing, FIELD_CREATE, str_z(arena, text), cases[i][1]);
    }
}

static void test_length_counts_characters(void **state)
{
    check(&thing, FIELD_CREATE, "{\"name\":\"a\"}", "/name field.length");
    check(&thing, FIELD_CREATE, "{\"name\":\"ab\"}", "");
    check(&thing, FIELD_CREATE, "{\"name\":\"\xC3\xA9\xF0\x9F\x98\x80xx\"}", "");
    check(&thing, FIELD_CREATE, "{\"name\":\"\xC3\xA9\xF0\x9F\x98\x80xxx\"}", "/name field.length");
}

static void test_default_bound_of_strings(void **state)
{
    for (int n = 65535; n <= 65537; n++) {
        str text = strf(arena, "{\"name\":\"ab\",\"note\":\"%0*d\"}", n, 0);
        check(&thing, FIELD_CREATE, text.p, n <= 65536 ? "" : "/note field.length");
    }
}

static void test_lists(void **state)
{
    static const char *const cases[][2] = {
        { "\"tags\":[]", "" },
        { "\"tags\":\"red\"", "/tags field.type" },
        { "\"tags\":[\"red\",\"blue\",1]", "/tags/1 field.one_of; /tags/2 field.type" },
        { "\"tags\":[\"red\",\"green\",\"red\"]", "/tags/2 field.repeated" },
        { "\"tags\":[\"red\",\"red\",\"red\",\"red\"]", "/tags field.count" },
        { "\"tags\":[null]", "/tags/0 field.null" },
        { "\"places\":[{\"city\":\"A\"},{\"city\":\"B\"}]", "" },
        { "\"places\":[{\"city\":\"A\"},{\"city\":\"B\"},{\"city\":\"C\"}]", "/places field.count" },
        { "\"places\":[1,{}]", "/places/0 field.type; /places/1/city field.required" },
        { "\"grid\":[[1],[10,-1]]", "/grid/1/0 field.range; /grid/1/1 field.range" },
        { "\"grid\":[[1,2,3,4],5]", "/grid/0 field.count; /grid/1 field.type" },
        { "\"labels\":{\"a\":1,\"b\":\"x\"}", "/labels/b field.type" },
        { "\"labels\":{\"a\":1,\"b\":1,\"c\":1}", "/labels field.count" },
        { "\"labels\":{\"\":1}", "/labels/ field.key" },
        { "\"labels\":{\"a~b/c\":null}", "/labels/a~0b~1c field.null" },
        { "\"labels\":[]", "/labels field.type" },
        { "\"sites\":{\"x\":{\"city\":\"toolong\"}}", "/sites/x/city field.length" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check(&thing, FIELD_CREATE, str_z(arena, strf(arena, "{\"name\":\"ab\",%s}", cases[i][0])), cases[i][1]);
}

static void test_large_unique_list(void **state)
{
    static const struct field fields[] = { SHAPE_FIELD("n", F_LIST, .flags = F_UNIQUE, .item = F_I64, .doc = "N") };
    static const struct table t = SHAPE("T", fields);
    for (int count = 999; count <= 1001; count++) {
        struct buf b = { .arena = arena };
        BUF_LIT(&b, "{\"n\":[");
        for (int i = 0; i < count; i++)
            buf_f(&b, "%s%d", i > 0 ? "," : "", i == 998 ? 500 : i);
        BUF_LIT(&b, "]}");
        buf_char(&b, 0);
        check(&t, FIELD_CREATE, b.p, count <= 1000 ? "/n/998 field.repeated" : "/n field.count");
    }
}

static void test_variants(void **state)
{
    static const char *const cases[][2] = {
        { "\"auth_type\":\"bearer\",\"auth\":{\"token\":\"x\"}", "" },
        { "\"auth\":{\"token\":\"x\"},\"auth_type\":\"bearer\"", "" }, /* in either order */
        { "\"auth_type\":\"bearer\",\"auth\":{\"user\":\"x\"}",
          "/auth/user field.unknown; /auth/token field.required" },
        { "\"auth_type\":\"basic\",\"auth\":{\"user\":\"x\",\"level\":4}", "/auth/level field.range" },
        { "\"auth_type\":\"basic\",\"auth\":5", "/auth field.type" },
        { "\"auth_type\":\"other\",\"auth\":{}", "/auth_type field.one_of" }, /* once */
        { "\"auth_type\":5,\"auth\":{}", "/auth_type field.type" },
        { "\"auth\":{}", "/auth field.variant" },
        { "\"auth_type\":\"basic\",\"auth\":null", "/auth field.null" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check(&thing, FIELD_CREATE, str_z(arena, strf(arena, "{\"name\":\"ab\",%s}", cases[i][0])), cases[i][1]);
}

static void test_shapes_expressions_and_recursion(void **state)
{
    static const char *const cases[][2] = {
        { "{\"with\":{\"url\":\"https://a.example/\"}}", "" }, /* kind by its preset */
        { "{\"with\":{\"url\":\"nowhere\"}}", "/with/url field.format" },
        { "{\"with\":{\"url\":\"{{ input.url }}\",\"timeout_ms\":\"{{ 5 }}\",\"headers\":{\"X\":\"{{ y }}\"}}}", "" },
        { "{\"with\":{\"url\":\"{{ u }}\",\"headers\":\"{{ all }}\"}}", "" },
        { "{\"with\":{\"url\":\"{{ u }}\",\"timeout_ms\":\"5\",\"headers\":\"x\"}}",
          "/with/timeout_ms field.type; /with/headers field.type" },
        { "{\"with\":{\"url\":\"{{ u }}\",\"timeout_ms\":101}}", "/with/timeout_ms field.range" },
        { "{\"with\":{\"url\":\"{{ u }}\",\"title\":\"{{ long }}\"}}",
          "/with/title field.length" }, /* the schema says maxLength too */
        { "{\"with\":{\"url\":\"{{ \\u0000 }}\"}}", "/with/url field.nul" },
        { "{\"kind\":\"loop\",\"with\":{\"steps\":[{\"with\":{\"url\":\"{{u}}\"}},{\"kind\":\"loop\",\"with\":{\"steps\":[]}}]}}",
          "/with/steps/1/with/steps field.count" },
        { "{\"kind\":\"loop\"}", "/with field.required" },
        { "{\"kind\":\"loop\",\"with\":{\"steps\":[{\"with\":{}}]}}", "/with/steps/0/with/url field.required" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check(&step, FIELD_CREATE, cases[i][0], cases[i][1]);
}

static void test_evaluated_values_are_no_templates(void **state)
{
    check(&http_step, FIELD_EVALUATED, "{\"url\":\"https://a.example/\",\"timeout_ms\":5,\"title\":\"{{ x }}\"}", "");
    check(&http_step, FIELD_EVALUATED,
          "{\"url\":\"{{ u }}\",\"timeout_ms\":\"{{ 5 }}\",\"headers\":{\"X\":\"{{ y }}\"}}",
          "/url field.format; /timeout_ms field.type");
}

static void test_kept_text_may_be_a_template(void **state)
{
    struct row {
        struct presence has;
        str list, one;
        str kind;
    };
    static const struct field fields[] = {
        FIELD(struct row, list, F_LIST, .flags = F_TEXT | F_EXPR, .item = F_I64, .doc = "L"),
        FIELD(struct row, one, F_VARIANT, .flags = F_TEXT | F_EXPR, .by = "kind", .variants = steps, .doc = "O"),
        FIELD(struct row, kind, F_STR, .one_of = step_kinds, .doc = "K"),
    };
    static const struct table t = TABLE("Row", struct row, fields);
    struct row *row = NEW(arena, struct row);
    struct problems p = { .arena = arena };
    const struct json *j = parse("{\"list\":\"{{ xs }}\",\"one\":{\"url\":\"{{ u }}\"},\"kind\":\"http\"}");
    assert_int_equal(field_decode(arena, &t, FIELD_CREATE, j, S(""), row, &p), OK);
    assert_str(row->list, "\"{{ xs }}\"");
    assert_str(row->one, "{\"url\":\"{{ u }}\"}");
    assert_true(HAS(t, row, list) && HAS(t, row, one));
    check(&t, FIELD_CREATE, "{\"list\":[1,\"x\"]}", "/list/1 field.type");
}

static void test_open_tables_take_more(void **state)
{
    static const struct field fields[] = { SHAPE_FIELD("a", F_I64, .doc = "A") };
    static const struct table open = SHAPE("Open", fields, .open = true);
    check(&open, FIELD_CREATE, "{\"a\":1,\"b\":{\"c\":2}}", "");
    check(&open, FIELD_CREATE, "{\"a\":\"x\",\"b\":2}", "/a field.type");
}

static void test_pointer_of_the_whole(void **state)
{
    struct problems p = { .arena = arena };
    assert_int_equal(field_decode(arena, &step, FIELD_CREATE, parse("[]"), S(""), NULL, &p), ERR_INVALID);
    assert_int_equal(field_decode(arena, &step, FIELD_CREATE, parse("{}"), S("/items/3"), NULL, &p), ERR_INVALID);
    assert_str(problems_text(&p), " field.type; /items/3/with field.required");
}

static void test_at_most_100_problems(void **state)
{
    static const struct field fields[] = { SHAPE_FIELD("n", F_LIST, .item = F_BOOL, .doc = "N") };
    static const struct table t = SHAPE("T", fields);
    for (int count = 99; count <= 101; count++) {
        struct problems p = { .arena = arena };
        struct json list = { .type = JSON_ARRAY }, object = { .type = JSON_OBJECT };
        for (int i = 0; i < count; i++)
            assert_true(json_add(arena, &list, json_of_i64(i)));
        assert_true(json_set(arena, &object, S("n"), list));
        assert_int_equal(field_decode(arena, &t, FIELD_CREATE, &object, S(""), NULL, &p), ERR_INVALID);
        assert_int_equal(p.n, MIN(count, 100));
        assert_int_equal(p.more, count > 100);
    }
}

static void test_formats(void **state)
{
    static const struct {
        const char *format, *good[8], *bad[16];
    } cases[] = {
        { "email",
          { "a@b", "a.b+c@example.com", "x_y-z!#$%&'*+/=?^`{|}~@a-b.c1" },
          { "", "a", "@b", "a@", "a@b@c", ".a@b", "a.@b", "a..b@c", "a b@c", "a@-b", "a@b-", "a@b..c", "a@b.",
            "a@[1.2.3.4]", "\\\"a\\\"@b", "\xC3\xA9@b" } },
        { "uri",
          { "https://a.example/x?y#z", "http://a", "mailto:a@b", "urn:x:y", "s3://bucket/key" },
          { "", "a", "/a", "//a", "http://", "http:a", "https://a b", "1x:y", "x:", "x:a b", "x:\\\\", ":a",
            "http://a/\xC3\xA9" } },
        { "name", { "a", "_", "a_1", "Abc" }, { "", "1a", "a-b", "a b", "a.b", "\xC3\xA9" } },
        { "slug", { "a", "a-b", "1-2-c" }, { "", "-a", "a-", "a--b", "A", "a_b", "a b" } },
        { "json-pointer", { "", "/", "/a/b", "/a~0~1" }, { "a", "/~", "/~2", "/a~" } },
        { "date-time", { "2026-01-01T00:00:00Z" }, { "", "2026-01-01", "x" } },
        { "id",
          { "wf_01h455vb4pex5vsknk084sn02q" },
          { "", "x_01h455vb4pex5vsknk084sn02q", "wf_01h455vb4pex5vsknk084sn02Q", "wf_" } },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const bool id = strcmp(cases[i].format, "id") == 0;
        const struct field fields[] = { SHAPE_FIELD("v", F_STR, .format = cases[i].format, .prefix = id ? "wf" : NULL,
                                                    .doc = "V") };
        const struct table t = SHAPE("T", fields);
        for (size_t k = 0; k < 8 && cases[i].good[k] != NULL; k++)
            check(&t, FIELD_CREATE, str_z(arena, strf(arena, "{\"v\":\"%s\"}", cases[i].good[k])), "");
        for (size_t k = 0; k < 16 && cases[i].bad[k] != NULL; k++)
            check(&t, FIELD_CREATE, str_z(arena, strf(arena, "{\"v\":\"%s\"}", cases[i].bad[k])), "/v field.format");
    }
}

static void test_email_length(void **state)
{
    static const struct field fields[] = { SHAPE_FIELD("v", F_STR, .format = "email", .doc = "V") };
    static const struct table t = SHAPE("T", fields);
    for (int n = 253; n <= 255; n++) {
        str text = strf(arena, "{\"v\":\"a@%063d.%063d.%063d.%0*d\"}", 0, 0, 0, n - 2 - 3 * 64, 0);
        check(&t, FIELD_CREATE, text.p, n <= 254 ? "" : "/v field.format");
    }
    for (int n = 63; n <= 65; n++)
        check(&t, FIELD_CREATE, strf(arena, "{\"v\":\"%0*d@b\"}", n, 0).p, n <= 64 ? "" : "/v field.format");
}

static err decode_encode(void)
{
    struct arena *a = arena_new(1 * MIB);
    struct json *j;
    struct problems p = { .arena = a };
    struct thing *row = a != NULL ? NEW(a, struct thing) : NULL;
    err e = row != NULL ? OK : ERR_MEMORY;
    const char *text =
        "{\"name\":\"ab\",\"home\":{\"city\":\"A\"},\"tags\":[\"red\"],\"places\":[{\"city\":\"B\"}],\"grid\":[[1]],\"labels\":{\"a\":1},"
        "\"auth_type\":\"basic\",\"auth\":{\"user\":\"u\"},\"kept\":{\"city\":\"D\"},\"free\":[1]}";
    if (e == OK)
        e = json_parse(a, str_of(text), &j, NULL);
    if (e == OK)
        e = field_decode(a, &thing, FIELD_CREATE, j, S(""), row, &p);
    if (e == OK) {
        struct buf b = { .arena = a };
        field_encode(&b, &thing, row);
        e = b.fail;
    }
    if (e == OK) /* and a refusal */
        e = field_decode(a, &step, FIELD_CREATE, j, S(""), NULL, &p) == ERR_MEMORY ? ERR_MEMORY : OK;
    arena_free(a);
    return e;
}

static void test_each_allocation_fails(void **state)
{
    for (i64 n = 1, fired = 1; fired; n++) {
        fault_arm(FAULT_ALLOC, n);
        err e = decode_encode();
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_int_equal(e, fired ? ERR_MEMORY : OK);
    }
}

/* ---- query ---- */

struct search {
    struct presence has;
    str q;
    i64 limit, since;
    bool deep;
    double score;
    struct list status, nums;
};
static const struct field search_fields[] = {
    FIELD(struct search, q, F_STR, .min = 1, .max = 10, .doc = "Text"),
    FIELD(struct search, limit, F_I64, .min = 1, .max = 100, .preset = "20", .doc = "Page size"),
    FIELD(struct search, since, F_TIME, .doc = "From"),
    FIELD(struct search, deep, F_BOOL, .doc = "Deep"),
    FIELD(struct search, score, F_F64, .doc = "Score"),
    FIELD(struct search, status, F_LIST, .item = F_STR, .one_of = colours, .doc = "Status"),
    FIELD(struct search, nums, F_LIST, .item = F_I64, .doc = "Numbers"),
};
static const struct table search = TABLE("Search", struct search, search_fields);

static void test_query(void **state)
{
    const struct pair pairs[] = { { S("q"), S("null") },           { S("since"), S("1970-01-01T00:00:01Z") },
                                  { S("deep"), S("true") },        { S("score"), S("-1.5") },
                                  { S("status"), S("red,green") }, { S("nums"), S("1,-2") } };
    struct search row = { 0 };
    struct problems p = { .arena = arena };
    assert_int_equal(field_decode_query(arena, &search, pairs, COUNT(pairs), &row, &p), OK);
    assert_str(row.q, "null"); /* text is text */
    assert_true(row.limit == 20 && row.since == SECOND_US && row.deep && row.score == -1.5);
    assert_true(row.status.n == 2 && row.nums.n == 2 && ((i64 *)row.nums.items)[1] == -2);
    assert_str(((str *)row.status.items)[1], "green");
    assert_true(HAS(search, &row, q) && HAS(search, &row, limit));
}

static void test_query_problems(void **state)
{
    const struct pair pairs[] = { { S("q"), S("") },       { S("limit"), S("1e2x") }, { S("limit"), S("5") },
                                  { S("deep"), S("yes") }, { S("a/b"), S("1") },      { S("status"), S("red,,") },
                                  { S("nums"), S("1,x") }, { S("since"), S("now") },  { S("score"), S("\"1\"") } };
    struct search row = { 0 };
    struct problems p = { .arena = arena };
    assert_int_equal(field_decode_query(arena, &search, pairs, COUNT(pairs), &row, &p), ERR_INVALID);
    assert_str(problems_text(&p),
               "query/limit field.repeated; query/q field.length; query/limit field.type; query/deep field.type; "
               "query/a~1b field.unknown; query/status/1 field.one_of; query/status/2 field.one_of; "
               "query/nums/1 field.type; query/since field.type; query/score field.type");
    for (i64 n = 0; n <= 101; n += n == 1 ? 98 : 1) {
        struct problems one = { .arena = arena };
        const struct pair limit = { S("limit"), strf(arena, "%d", (int)n) };
        err e = field_decode_query(arena, &search, &limit, 1, NULL, &one);
        assert_int_equal(e, n >= 1 && n <= 100 ? OK : ERR_INVALID);
    }
}

/* ---- encoding ---- */

static void test_encode_absent(void **state)
{
    struct thing t = { 0 };
    assert_str(
        encode(&thing, &t),
        "{\"id\":\"\",\"name\":\"\",\"colour\":\"\",\"mail\":null,\"count\":0,\"limit\":null,\"at\":null,\"ratio\":0.0,\"on\":false,"
        "\"free\":null,\"home\":null,\"tags\":[],\"places\":[],\"grid\":[],\"labels\":{},\"sites\":{},"
        "\"made\":\"1970-01-01T00:00:00.000000Z\"}");
}

static void test_encode_what_was_decoded(void **state)
{
    const char *text =
        "{\"name\":\"ab\",\"colour\":\"green\",\"mail\":null,\"note\":null,\"even\":\"\",\"count\":-1,\"limit\":5,"
        "\"at\":\"2026-11-21T02:40:36.123456Z\",\"ratio\":0.25,\"on\":false,\"free\":{\"x\":\"\\u0000\"},"
        "\"home\":{\"city\":\"R\\\"x\",\"zip\":\"1\"},\"tags\":[\"red\",\"green\"],\"places\":[{\"city\":\"A\",\"zip\":\"2\"}],"
        "\"grid\":[[1,2],[]],\"labels\":{\"a\\\"\":1},\"sites\":{\"s\":{\"city\":\"C\",\"zip\":\"3\"}},\"auth_type\":\"basic\","
        "\"auth\":{\"user\":\"u\",\"level\":2},\"kept\":{\"city\":\"D\"},\"secret\":\"s\"}";
    struct thing *t = decode(FIELD_CREATE, text);
    t->id = S("thing_1");
    SET(thing, t, id);
    struct json *back;
    assert_int_equal(json_parse(arena, encode(&thing, t), &back, NULL), OK);
    assert_str(json_str(json_get(back, S("id"))), "thing_1");
    assert_null(json_get(back, S("secret")));
    assert_null(json_get(back, S("hidden")));
    const struct json *in = parse(text);
    for (u32 i = 0; i < in->n; i++)
        if (!str_eq(in->members[i].key, S("secret")) &&
            !json_equal(json_get(back, in->members[i].key), &in->members[i].value))
            fail_msg("%.*s", STR_FMT(in->members[i].key));
}

static void test_encode_cut(void **state)
{
    struct thing t = { .free = S("[1,2,3]"), .kept = S("{\"city\":\"D\"}"), .name = S("a longer name stays") };
    SET(thing, &t, free);
    SET(thing, &t, kept);
    SET(thing, &t, name);
    for (size_t cut = 6; cut <= 8; cut++) {
        struct buf b = { .arena = arena };
        struct json *j;
        field_encode_cut(&b, &thing, &t, cut);
        assert_int_equal(json_parse(arena, buf_view(&b), &j, NULL), OK);
        assert_str(json_text(arena, json_get(j, S("free"))), cut < 7 ? "{\"truncated\":true,\"size\":7}" : "[1,2,3]");
        assert_str(json_text(arena, json_get(j, S("kept"))), "{\"truncated\":true,\"size\":12}");
        assert_str(json_str(json_get(j, S("name"))), "a longer name stays");
    }
}

static void test_set_all(void **state)
{
    struct thing t = { .name = S("ab"), .count = 3 };
    field_set_all(&thing, &t);
    assert_true(HAS(thing, &t, name) && HAS(thing, &t, count) && HAS(thing, &t, tags));
    assert_true(IS_NULL(thing, &t, mail) && IS_NULL(thing, &t, home) && IS_NULL(thing, &t, auth) &&
                IS_NULL(thing, &t, free));
    SET(thing, &t, mail);
    assert_false(IS_NULL(thing, &t, mail));
}

/* ---- columns ---- */

static err store(struct thing *t, const char *name, struct cell cell)
{
    return field_from_cell(arena, &thing, (u32)field_index(&thing, str_of(name)), cell, t);
}

#define TEXT(z) ((struct cell){ .type = CELL_STR, .text = str_of(z) })
#define INT(v)  ((struct cell){ .type = CELL_I64, .integer = (v) })
#define REAL(v) ((struct cell){ .type = CELL_F64, .real = (v) })

static void test_cells(void **state)
{
    struct thing t = { 0 };
    char text[] = "copied";
    assert_int_equal(store(&t, "name", TEXT(text)), OK);
    text[0] = 'X';
    assert_str(t.name, "copied");
    assert_int_equal(store(&t, "mail", (struct cell){ .type = CELL_NULL }), OK);
    assert_true(IS_NULL(thing, &t, mail) && !GIVEN(thing, &t, note));
    assert_int_equal(store(&t, "count", INT(99)), OK); /* bounds are for input */
    assert_int_equal(store(&t, "made", INT(7)), OK);
    assert_int_equal(store(&t, "on", INT(1)), OK);
    assert_int_equal(store(&t, "ratio", INT(2)), OK);
    assert_true(t.count == 99 && t.made == 7 && t.on && t.ratio == 2.0);
    assert_int_equal(store(&t, "count", TEXT("-5")), OK); /* drivers that speak text */
    assert_int_equal(store(&t, "on", TEXT("f")), OK);
    assert_int_equal(store(&t, "ratio", TEXT("0.5")), OK);
    assert_true(t.count == -5 && !t.on && t.ratio == 0.5);
    assert_int_equal(store(&t, "kept", TEXT("{\"city\":\"D\"}")), OK);
    assert_str(t.kept, "{\"city\":\"D\"}");
    assert_int_equal(store(&t, "hidden", TEXT("h")), OK);
    assert_true(HAS(thing, &t, hidden));
}

static void test_cells_of_containers(void **state)
{
    struct thing t = { 0 };
    assert_int_equal(store(&t, "tags", TEXT("[\"red\",\"no colour any more\"]")), OK);
    assert_str(((str *)t.tags.items)[1], "no colour any more");
    assert_int_equal(store(&t, "labels", TEXT("{\"a\":1}")), OK);
    assert_int_equal(t.labels.n, 1);
    assert_int_equal(store(&t, "home", TEXT("{\"city\":\"a long city\",\"gone\":1}")),
                     OK); /* what a table no longer knows */
    assert_str(t.home->city, "a long city");
    assert_int_equal(store(&t, "auth", TEXT("{}")), ERR_INTERNAL);
    assert_int_equal(store(&t, "tags", TEXT("[1]")), ERR_INTERNAL);
    assert_int_equal(store(&t, "tags", TEXT("nonsense")), ERR_INTERNAL);
}

static void test_cells_that_do_not_fit(void **state)
{
    struct thing t = { 0 };
    assert_int_equal(store(&t, "name", INT(1)), ERR_INTERNAL);
    assert_int_equal(store(&t, "count", REAL(1.5)), ERR_INTERNAL);
    assert_int_equal(store(&t, "count", TEXT("x")), ERR_INTERNAL);
    assert_int_equal(field_from_cell(arena, &thing, thing.count, INT(1), &t), ERR_INTERNAL);
    assert_true(t.has.present == 0 && t.count == 0);
    assert_int_equal(field_index(&thing, S("nam")), -1);
}

/* ---- schemas ---- */

static void visit(void *ctx, const struct table *t, enum field_schema how)
{
    struct buf *b = ctx;
    buf_f(b, "%.*s ", STR_FMT(field_schema_name(arena, t, how)));
}

static const struct json *schema(const struct table *t, enum field_schema how, str *visited)
{
    struct buf b = { .arena = arena }, names = { .arena = arena };
    struct json_writer w = { .b = &b };
    struct json *j = NULL;
    field_schema(&w, t, how, &(struct field_visit){ visit, &names });
    assert_int_equal(json_parse(arena, buf_view(&b), &j, NULL), OK);
    if (visited != NULL)
        *visited = buf_view(&names);
    return j;
}

static void says(const struct json *j, const char *pointer, const char *expected)
{
    const struct json *at = json_at(j, str_of(pointer));
    str text = at != NULL ? json_text(arena, at) : S("(nothing)");
    if (!str_eq(text, str_of(expected)))
        fail_msg("%s\nfound    %.*s\nexpected %s", pointer, STR_FMT(text), expected);
}

static void test_schema_in(void **state)
{
    str visited;
    const struct json *j = schema(&thing, FIELD_SCHEMA_IN, &visited);
    says(j, "/type", "\"object\"");
    says(j, "/required", "[\"name\"]");
    says(j, "/additionalProperties", "false");
    says(j, "/properties/name", "{\"type\":\"string\",\"minLength\":2,\"maxLength\":4,\"description\":\"Name\"}");
    says(j, "/properties/colour",
         "{\"type\":\"string\",\"enum\":[\"red\",\"green\"],\"description\":\"Colour\",\"default\":\"red\"}");
    says(j, "/properties/mail/type", "[\"string\",\"null\"]");
    says(j, "/properties/mail/format", "\"email\"");
    says(j, "/properties/count",
         "{\"type\":\"integer\",\"format\":\"int64\",\"minimum\":-1,\"maximum\":10,\"description\":\"Count\"}");
    says(j, "/properties/ratio/minimum", "-0.5");
    says(j, "/properties/free", "{\"description\":\"Anything\"}");
    says(j, "/properties/home", "{\"$ref\":\"#/components/schemas/AddressInput\",\"description\":\"Home\"}");
    says(j, "/properties/tags",
         "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"enum\":[\"red\",\"green\"]},\"maxItems\":3,"
         "\"uniqueItems\":true,\"description\":\"Tags\"}");
    says(j, "/properties/grid/items/items/maximum", "9");
    says(j, "/properties/labels/additionalProperties/type", "\"integer\"");
    says(j, "/properties/auth/anyOf",
         "[{\"$ref\":\"#/components/schemas/Bearer\"},{\"$ref\":\"#/components/schemas/BasicInput\"}]");
    says(j, "/properties/auth/description", "\"How. Chosen by `auth_type`: bearer -> Bearer, basic -> Basic\"");
    says(j, "/properties/secret/writeOnly", "true");
    says(j, "/properties/id", "(nothing)");
    says(j, "/properties/hidden", "(nothing)");
    assert_str(visited, "AddressInput AddressInput AddressInput Bearer BasicInput AddressInput ");
}

static void test_schema_out(void **state)
{
    str visited;
    const struct json *j = schema(&thing, FIELD_SCHEMA_OUT, &visited);
    says(
        j, "/required",
        "[\"id\",\"name\",\"colour\",\"mail\",\"count\",\"limit\",\"at\",\"ratio\",\"on\",\"free\",\"home\",\"tags\",\"places\","
        "\"grid\",\"labels\",\"sites\",\"made\"]");
    says(j, "/properties/secret", "(nothing)");
    says(j, "/properties/id",
         "{\"type\":\"string\",\"pattern\":\"^thing_[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}$\",\"maxLength\":90,"
         "\"description\":\"Id\",\"readOnly\":true}");
    says(j, "/properties/home/anyOf", "[{\"$ref\":\"#/components/schemas/Address\"},{\"type\":\"null\"}]");
    says(j, "/properties/auth/anyOf",
         "[{\"$ref\":\"#/components/schemas/Bearer\"},{\"$ref\":\"#/components/schemas/Basic\"}]");
    says(j, "/properties/kept/$ref", "\"#/components/schemas/AddressInput\""); /* text goes out as it came in */
    says(j, "/properties/colour/default", "(nothing)");
    assert_str(visited, "Address Address Address Bearer Basic AddressInput ");
}

static void test_schema_item(void **state)
{
    str visited;
    const struct json *j = schema(&thing, FIELD_SCHEMA_ITEM, &visited);
    says(j, "/properties/kept/anyOf",
         "[{\"$ref\":\"#/components/schemas/AddressInput\"},{\"$ref\":\"#/components/schemas/Truncated\"}]");
    says(j, "/properties/home/anyOf", "[{\"$ref\":\"#/components/schemas/Address\"},{\"type\":\"null\"}]");
    assert_true(
        json_equal(json_get(j, S("required")), json_get(schema(&thing, FIELD_SCHEMA_OUT, NULL), S("required"))));
    assert_str(visited, "Address Address Address Bearer Basic AddressInput Truncated ");
    assert_str(field_schema_name(arena, &thing, FIELD_SCHEMA_ITEM), "ThingItem");
    assert_str(field_schema_name(arena, &address, FIELD_SCHEMA_ITEM), "Address"); /* nothing of it is cut */
    assert_true(json_equal(schema(&address, FIELD_SCHEMA_ITEM, NULL), schema(&address, FIELD_SCHEMA_OUT, NULL)));
}

static void test_schema_of_open_tables(void **state)
{
    static const struct field fields[] = { SHAPE_FIELD("a", F_I64, .doc = "A") };
    static const struct table open = SHAPE("Open", fields, .open = true);
    says(schema(&open, FIELD_SCHEMA_IN, NULL), "/additionalProperties", "true");
}

static void test_schema_patch(void **state)
{
    const struct json *j = schema(&thing, FIELD_SCHEMA_PATCH, NULL);
    says(j, "/required", "(nothing)");
    says(j, "/properties/colour/default", "(nothing)");
    says(j, "/properties/home/$ref", "\"#/components/schemas/AddressPatch\"");
    says(j, "/properties/places/items/$ref", "\"#/components/schemas/AddressInput\"");
}

static void test_schema_of_shapes(void **state)
{
    str visited;
    const struct json *j = schema(&http_step, FIELD_SCHEMA_IN, NULL);
    assert_true(json_equal(j, schema(&http_step, FIELD_SCHEMA_OUT, NULL)));
    assert_str(field_schema_name(arena, &http_step, FIELD_SCHEMA_IN), "HttpStep");
    says(j, "/properties/url/anyOf/0", "{\"type\":\"string\",\"format\":\"uri\",\"maxLength\":65536}");
    says(j, "/properties/url/anyOf/1/pattern", "\"\\\\{\\\\{\"");
    says(j, "/properties/timeout_ms/anyOf/0/type", "\"integer\"");
    says(j, "/properties/timeout_ms/anyOf/1/type", "\"string\"");
    says(j, "/properties/headers/anyOf/0/additionalProperties", "{\"type\":\"string\",\"maxLength\":65536}");
    says(j, "/properties/title",
         "{\"type\":\"string\",\"maxLength\":8,\"description\":\"Title. {{ }} holds an expression\"}");
    j = schema(&step, FIELD_SCHEMA_OUT, &visited);
    says(j, "/required", "[\"with\"]");
    assert_str(visited, "HttpStep LoopStep ");
    says(schema(&loop_step, FIELD_SCHEMA_IN, NULL), "/properties/steps/items/$ref", "\"#/components/schemas/Step\"");
}

/* ---- rules for tables ---- */

static void complains(const struct table *t, const char *about)
{
    struct buf b = { .arena = arena };
    err e = field_table_check(t, &b);
    if (e != (about != NULL ? ERR_INVALID : OK) || (about != NULL && str_find(buf_view(&b), str_of(about), 0) < 0))
        fail_msg("%s: %.*s", about != NULL ? about : "sound", STR_FMT(buf_view(&b)));
}

static void test_sound_tables(void **state)
{
    const struct table *const sound[] = { &address, &bearer, &basic, &thing, &http_step, &loop_step, &step, &search };
    for (size_t i = 0; i < COUNT(sound); i++)
        complains(sound[i], NULL);
}

static void test_broken_tables(void **state)
{
    static const char *const none[] = { NULL };
    const struct {
        const char *about;
        struct field f;
    } shapes[] = {
        { "has no doc", SHAPE_FIELD("a", F_STR) },
        { "has a name of", SHAPE_FIELD("a b", F_STR, .doc = "D") },
        { "has bounds", SHAPE_FIELD("a", F_STR, .min = 5, .max = 4, .doc = "D") },
        { "has bounds", SHAPE_FIELD("a", F_STR, .min = -1, .max = 4, .doc = "D") },
        { "has bounds", SHAPE_FIELD("a", F_BOOL, .max = 4, .doc = "D") },
        { "has bounds", SHAPE_FIELD("a", F_F64, .max = 4, .doc = "D") },
        { "no text", SHAPE_FIELD("a", F_I64, .one_of = colours, .doc = "D") },
        { "unknown format", SHAPE_FIELD("a", F_STR, .format = "fax", .doc = "D") },
        { "is no id", SHAPE_FIELD("a", F_STR, .prefix = "x", .doc = "D") },
        { "empty one_of", SHAPE_FIELD("a", F_STR, .one_of = none, .doc = "D") },
        { "needs .of", SHAPE_FIELD("a", F_OBJECT, .doc = "D") },
        { "needs .of", SHAPE_FIELD("a", F_LIST, .item = F_OBJECT, .doc = "D") },
        { "needs .of", SHAPE_FIELD("a", F_LIST, .item = F_LIST, .doc = "D") },
        { "needs .by", SHAPE_FIELD("a", F_VARIANT, .by = "b", .variants = auths, .doc = "D") },
        { "is F_UNIQUE", SHAPE_FIELD("a", F_MAP, .flags = F_UNIQUE, .doc = "D") },
        { "is F_TEXT", SHAPE_FIELD("a", F_STR, .flags = F_TEXT, .doc = "D") },
        { "is F_CUT", SHAPE_FIELD("a", F_STR, .flags = F_CUT, .doc = "D") },
        { "is F_CUT", SHAPE_FIELD("a", F_OBJECT, .of = &thing, .doc = "D") },
        { "only one way", SHAPE_FIELD("a", F_STR, .flags = F_OUTPUT, .doc = "D") },
        { "never be applied", SHAPE_FIELD("a", F_STR, .flags = F_REQUIRED, .preset = "\"x\"", .doc = "D") },
        { "preset that does not", SHAPE_FIELD("a", F_STR, .preset = "x", .doc = "D") },
        { "preset that does not", SHAPE_FIELD("a", F_I64, .max = 3, .preset = "4", .doc = "D") },
        { "preset that does not", SHAPE_FIELD("a", F_I64, .preset = "null", .doc = "D") },
        { "example that does not", SHAPE_FIELD("a", F_STR, .example = "1", .doc = "D") },
    };
    for (size_t i = 0; i < COUNT(shapes); i++)
        complains(&(struct table){ .name = "T", .fields = &shapes[i].f, .count = 1 }, shapes[i].about);
    struct small {
        struct presence has;
        i64 n;
    };
    const struct field outside = SHAPE_FIELD("a", F_STR, .offset = offsetof(struct small, n), .doc = "D");
    complains(&(struct table){ .name = "T", .fields = &outside, .count = 1, .size = sizeof(struct small) },
              "does not lie inside");
    const struct field expr = SHAPE_FIELD("a", F_I64, .flags = F_EXPR, .offset = offsetof(struct small, n), .doc = "D");
    complains(&(struct table){ .name = "T", .fields = &expr, .count = 1, .size = sizeof(struct small) },
              "no text to keep a template");
    const struct field twice[] = { SHAPE_FIELD("a", F_STR, .doc = "D"), SHAPE_FIELD("a", F_STR, .doc = "D") };
    complains(&(struct table)SHAPE("T", twice), "twice");
    complains(&(struct table){ .name = "", .count = 0 }, "no name");
}

static void test_sixty_four_fields(void **state)
{
    struct field fields[65];
    for (size_t i = 0; i < COUNT(fields); i++)
        fields[i] = (struct field)SHAPE_FIELD(str_z(arena, strf(arena, "f%zu", i)), F_I64, .doc = "D");
    complains(&(struct table){ .name = "T", .fields = fields, .count = 63 }, NULL);
    complains(&(struct table){ .name = "T", .fields = fields, .count = 64 }, NULL);
    complains(&(struct table){ .name = "T", .fields = fields, .count = 65 }, "more than 64");
    const struct table t = { .name = "T", .fields = fields, .count = 64 };
    check(&t, FIELD_CREATE, "{\"f63\":\"x\",\"f0\":1}", "/f63 field.type");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
static void test_merge(void **state)
{
    struct thing *t = decode(
        FIELD_CREATE, "{\"name\":\"ab\",\"mail\":\"a@b.example\",\"count\":1,\"kept\":{\"city\":\"A\",\"zip\":\"1\"}}");
    struct thing *same = decode(FIELD_PATCH, "{\"name\":\"ab\",\"count\":1,\"on\":true}");
    struct thing *patch =
        decode(FIELD_PATCH, "{\"mail\":null,\"count\":2,\"kept\":{\"city\":\"A\",\"zip\":\"2\"},\"limit\":7}");
    struct buf changed = { .arena = arena };
    field_merge(&thing, t, same, &changed);
    assert_int_equal(changed.n, 0);
    field_merge(&thing, t, patch, &changed);
    assert_true(str_eq(buf_view(&changed), S("mail, count, limit, kept")));
    assert_str(t->name, "ab");
    assert_str(t->kept, "{\"city\":\"A\",\"zip\":\"2\"}");
    assert_true(IS_NULL(thing, t, mail) && HAS(thing, t, limit));
    assert_true(t->count == 2 && t->limit == 7 && t->on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_decode_everything),
        TEST(test_merge),
        TEST(test_three_states),
        TEST(test_patch_presets_and_requires_nothing),
        TEST(test_all_problems_at_once),
        TEST(test_scalars),
        TEST(test_length_counts_characters),
        TEST(test_default_bound_of_strings),
        TEST(test_lists),
        TEST(test_large_unique_list),
        TEST(test_variants),
        TEST(test_shapes_expressions_and_recursion),
        TEST(test_evaluated_values_are_no_templates),
        TEST(test_kept_text_may_be_a_template),
        TEST(test_open_tables_take_more),
        TEST(test_pointer_of_the_whole),
        TEST(test_at_most_100_problems),
        TEST(test_formats),
        TEST(test_email_length),
        TEST(test_each_allocation_fails),
        TEST(test_query),
        TEST(test_query_problems),
        TEST(test_encode_absent),
        TEST(test_encode_what_was_decoded),
        TEST(test_encode_cut),
        TEST(test_set_all),
        TEST(test_cells),
        TEST(test_cells_of_containers),
        TEST(test_cells_that_do_not_fit),
        TEST(test_schema_in),
        TEST(test_schema_out),
        TEST(test_schema_patch),
        TEST(test_schema_item),
        TEST(test_schema_of_open_tables),
        TEST(test_schema_of_shapes),
        TEST(test_sound_tables),
        TEST(test_broken_tables),
        TEST(test_sixty_four_fields),
    };
    return cmocka_run_group_tests_name("field", tests, NULL, NULL);
}
