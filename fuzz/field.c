/* field.c - field tables: a body, a patch or a query that is accepted comes out as a record that is accepted again, and encodes to the same bytes. The first byte
 * says which of the three; a patch needs no required fields, so it only has to hold. */
#include "fuzz.h"

#include "codec/url.h"

struct place {
    struct presence has;
    str city;
    i64 floor;
};
static const struct field place_fields[] = {
    FIELD(struct place, city, F_STR, .flags = F_REQUIRED, .min = 1, .max = 5, .doc = "City"),
    FIELD(struct place, floor, F_I64, .flags = F_NULLABLE, .min = -3, .max = 90, .doc = "Floor"),
};
static const struct table place = TABLE("Place", struct place, place_fields);

struct secret {
    struct presence has;
    str token;
};
static const struct field secret_fields[] = { FIELD(struct secret, token, F_STR, .flags = F_REQUIRED, .doc = "Token") };
static const struct table secret = TABLE("Secret", struct secret, secret_fields);
static const struct variant_case ways[] = { { "secret", &secret }, { "place", &place }, { NULL, NULL } };
static const char *const way_names[] = { "secret", "place", NULL };

static const char *const colours[] = { "red", "green", NULL };
static const struct field digit = SHAPE_FIELD("digit", F_I64, .min = 0, .max = 9, .doc = "A digit");
static const struct field digits = SHAPE_FIELD("digits", F_LIST, .each = &digit, .max = 3, .doc = "Digits");

struct thing {
    struct presence has;
    str name, colour, id, mail, uri, slug, free, kept, way;
    i64 count, at;
    double ratio;
    bool on;
    struct place *home;
    struct list tags, grid, labels, places;
    struct variant by;
};
static const struct field thing_fields[] = {
    FIELD(struct thing, name, F_STR, .flags = F_REQUIRED, .min = 2, .max = 4, .doc = "Name"),
    FIELD(struct thing, colour, F_STR, .one_of = colours, .preset = "\"red\"", .doc = "Colour"),
    FIELD(struct thing, id, F_STR, .flags = F_SPARSE, .format = "id", .prefix = "thing", .doc = "Id"),
    FIELD(struct thing, mail, F_STR, .flags = F_NULLABLE, .format = "email", .doc = "Mail"),
    FIELD(struct thing, uri, F_STR, .flags = F_SPARSE, .format = "uri", .doc = "Address"),
    FIELD(struct thing, slug, F_STR, .flags = F_SPARSE, .format = "slug", .doc = "Short name"),
    FIELD(struct thing, free, F_JSON, .flags = F_SPARSE, .max = 60, .doc = "Anything"),
    FIELD(struct thing, kept, F_OBJECT, .flags = F_TEXT | F_SPARSE, .of = &place, .doc = "Kept as text"),
    FIELD(struct thing, way, F_STR, .flags = F_SPARSE, .one_of = way_names, .doc = "Which"),
    FIELD(struct thing, count, F_I64, .flags = F_SPARSE, .min = -1, .max = 10, .doc = "Count"),
    FIELD(struct thing, at, F_TIME, .flags = F_NULLABLE, .doc = "When"),
    FIELD(struct thing, ratio, F_F64, .flags = F_SPARSE, .min_real = -0.5, .max_real = 1.5, .doc = "Ratio"),
    FIELD(struct thing, on, F_BOOL, .preset = "true", .doc = "On"),
    FIELD(struct thing, home, F_OBJECT, .flags = F_SPARSE, .of = &place, .doc = "Home"),
    FIELD(struct thing, tags, F_LIST, .flags = F_UNIQUE, .item = F_STR, .one_of = colours, .max = 3, .doc = "Tags"),
    FIELD(struct thing, grid, F_LIST, .each = &digits, .max = 2, .doc = "Grid"),
    FIELD(struct thing, labels, F_MAP, .item = F_I64, .max = 2, .doc = "Labels"),
    FIELD(struct thing, places, F_LIST, .of = &place, .max = 2, .doc = "Places"),
    FIELD(struct thing, by, F_VARIANT, .flags = F_SPARSE, .by = "way", .variants = ways, .doc = "How"),
};
static const struct table thing = TABLE("Thing", struct thing, thing_fields);

static str encoded(struct arena *a, const struct thing *t)
{
    struct buf b = { .arena = a };
    field_encode(&b, &thing, t);
    assert(b.fail == OK);
    return buf_view(&b);
}

static err decode(struct arena *a, enum field_mode mode, str text, struct thing *out)
{
    struct json *j;
    struct problems problems = { .arena = a };
    TRY(json_parse(a, text, &j, NULL));
    err e = field_decode(a, &thing, mode, j, S(""), out, &problems);
    assert((e == ERR_INVALID) == (problems.n > 0) && problems.n <= PROBLEMS_MAX);
    for (u32 i = 0; i < problems.n; i++)
        assert(problems.list[i].code != NULL && str_utf8(problems.list[i].pointer));
    return e;
}

static void body(struct arena *a, str text)
{
    struct thing first = { 0 }, second = { 0 };
    if (decode(a, FIELD_CREATE, text, &first) != OK)
        return;
    str once = encoded(a, &first);
    assert(decode(a, FIELD_CREATE, once, &second) == OK);
    assert(str_eq(encoded(a, &second), once));
}

static void patch(struct arena *a, str text)
{
    struct thing t = { 0 };
    struct json *j;
    if (decode(a, FIELD_PATCH, text, &t) == OK)
        assert(json_parse(a, encoded(a, &t), &j, NULL) == OK);
}

static void query(struct arena *a, str text)
{
    struct pair *pairs;
    size_t n;
    struct thing t = { 0 };
    struct json *j;
    struct problems problems = { .arena = a };
    if (url_form(a, text, &pairs, &n) != OK)
        return;
    err e = field_decode_query(a, &thing, pairs, n, &t, &problems);
    assert((e == ERR_INVALID) == (problems.n > 0));
    if (e == OK)
        assert(json_parse(a, encoded(a, &t), &j, NULL) == OK);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static void (*const inputs[])(struct arena *, str) = { body, patch, query };
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    u8 which = fuzz_choice(&data, &size);
    inputs[which % COUNT(inputs)](a, fuzz_text(a, data, size));
    arena_free(a);
    return 0;
}
