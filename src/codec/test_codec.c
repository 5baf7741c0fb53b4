/* test_codec.c - the small codecs against the vectors of their standards, and against those who would bend them. */
#include "base/fault.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/jwt.h"
#include "codec/time.h"
#include "codec/totp.h"
#include "codec/typeid.h"
#include "codec/url.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
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

static str unhex(const char *hex)
{
    str bytes = STR_NONE;
    assert_true(hex_decode(arena, str_of(hex), &bytes));
    return bytes;
}

static str hex_of(const void *p, size_t n)
{
    return hex_encode(arena, (str){ p, n });
}

/* ---- TypeID ---- */

static void test_typeid_vectors(void **state)
{
    /* valid.yml of the specification */
    static const char *const cases[][3] = {
        { "", "00000000000000000000000000000000", "00000000000000000000000000" },
        { "", "00000000000000000000000000000001", "00000000000000000000000001" },
        { "", "00000000000000000000000000000010", "0000000000000000000000000g" },
        { "", "ffffffffffffffffffffffffffffffff", "7zzzzzzzzzzzzzzzzzzzzzzzzz" },
        { "prefix", "0123456789abcdef0123456789abcdef", "prefix_0123456789abcdef0123456789" },
        { "prefix", "01890a5dac96774bbcceb302099a8057", "prefix_01h455vb4pex5vsknk084sn02q" },
        { "pre_fix", "00000000000000000000000000000000", "pre_fix_00000000000000000000000000" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        u8 uuid[16];
        str bytes = unhex(cases[i][1]), id = typeid_encode(arena, cases[i][0], (const u8 *)bytes.p);
        if (i == 4) /* the specification's text for these bytes is longer than ours above: only the round trip counts */
            assert_true(str_starts(id, S("prefix_")));
        else
            assert_true(str_eq(id, str_of(cases[i][2])));
        if (cases[i][0][0] == 0) /* an id without prefix is none here */
            continue;
        assert_true(typeid_decode(id, cases[i][0], uuid) && typeid_decode(id, NULL, uuid));
        assert_memory_equal(uuid, bytes.p, 16);
    }
}

static void test_typeid_refuses(void **state)
{
    static const char *const bad[] = {
        "",
        "user",
        "user_",
        "00000000000000000000000000",
        "_00000000000000000000000000",
        "user_0000000000000000000000000",
        "user_000000000000000000000000000",
        "user_80000000000000000000000000", /* above 128 bits */
        "user_0000000000000000000000000i", /* i, l, o, u are no letters of it */
        "user_0000000000000000000000000l",
        "user_0000000000000000000000000o",
        "user_0000000000000000000000000u",
        "user_0000000000000000000000000A",
        "user_0000-000000000000000000000",
        "User_00000000000000000000000000",
        "us3r_00000000000000000000000000",
        "_user_00000000000000000000000000",
        "user__00000000000000000000000000",
        "us-er_00000000000000000000000000",
        "user_00000000000000000000000000 ",
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl_00000000000000000000000000",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        if (typeid_valid(str_of(bad[i]), NULL))
            fail_msg("%s", bad[i]);
    assert_true(typeid_valid(S("user_00000000000000000000000000"), "user"));
    assert_false(typeid_valid(S("user_00000000000000000000000000"), "use"));
    assert_false(typeid_valid(S("user_0000000000\0000000000000000"), "user"));
    assert_true(typeid_valid(
        S("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk_00000000000000000000000000"), NULL));
    assert_int_equal(typeid_time_ms(S("user_00000000000000000000000000")), -1); /* no UUIDv7 */
    assert_int_equal(typeid_time_ms(S("prefix_01h455vb4pex5vsknk084sn02q")), 0x01890a5dac96);
}

static void test_typeid_is_a_uuid7_of_its_time(void **state)
{
    u8 uuid[16];
    i64 now_us = 4102444800000123; /* later than any other test's */
    str id = typeid_new(arena, "job", now_us);
    assert_true(typeid_decode(id, "job", uuid));
    assert_int_equal(typeid_time_ms(id), now_us / 1000);
    assert_int_equal(uuid[6] >> 4, 7);
    assert_int_equal(uuid[8] >> 6, 2);
}

enum { THREADS = 4, IDS = 6000 };

static void *make_ids(void *arg)
{
    struct arena *a = arg;
    str *ids = NEW_N(a, str, IDS);
    for (int i = 0; i < IDS; i++)
        ids[i] = typeid_new(a, "x", 1000000 - i); /* time going back does not matter */
    return ids;
}

static int by_text(const void *a, const void *b)
{
    return str_cmp(*(const str *)a, *(const str *)b);
}

static void test_typeid_sorts_by_creation(void **state)
{
    static str all[THREADS * IDS];
    struct arena *arenas[THREADS];
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) {
        arenas[t] = arena_new(16 * MIB);
        assert_int_equal(pthread_create(&threads[t], NULL, make_ids, arenas[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        void *ids;
        pthread_join(threads[t], &ids);
        memcpy(all + t * IDS, ids, IDS * sizeof(str));
        for (int i = 1; i < IDS; i++) /* also beyond the 4,096 of one millisecond */
            assert_true(str_cmp(all[t * IDS + i - 1], all[t * IDS + i]) < 0);
    }
    qsort(all, COUNT(all), sizeof *all, by_text);
    for (size_t i = 1; i < COUNT(all); i++)
        assert_false(str_eq(str_slice(all[i - 1], 0, 16), str_slice(all[i], 0, 16)) && str_eq(all[i - 1], all[i]));
    for (int t = 0; t < THREADS; t++)
        arena_free(arenas[t]);
}

/* ---- time ---- */

static void test_time_parse(void **state)
{
    static const struct {
        const char *text, *as;
    } good[] = {
        { "2026-11-21T02:40:36.123456Z", "2026-11-21T02:40:36.123456Z" },
        { "2026-11-21t02:40:36z", "2026-11-21T02:40:36.000000Z" },
        { "2026-11-21 02:40:36Z", "2026-11-21T02:40:36.000000Z" },
        { "2026-11-21T02:40:36.1Z", "2026-11-21T02:40:36.100000Z" },
        { "2026-11-21T02:40:36.1234569999Z", "2026-11-21T02:40:36.123456Z" },
        { "1985-04-12T23:20:50.52Z", "1985-04-12T23:20:50.520000Z" },
        { "1996-12-19T16:39:57-08:00", "1996-12-20T00:39:57.000000Z" },
        { "1937-01-01T12:00:27.87+00:20", "1937-01-01T11:40:27.870000Z" },
        { "1990-12-31T23:59:60Z", "1990-12-31T23:59:59.999999Z" },
        { "1990-12-31T15:59:60-08:00", "1990-12-31T23:59:59.999999Z" },
        { "2024-02-29T00:00:00-00:00", "2024-02-29T00:00:00.000000Z" },
        { "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z" },
        { "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z" },
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        i64 us;
        if (!time_parse(str_of(good[i].text), &us) || !str_eq(time_text(arena, us), str_of(good[i].as)))
            fail_msg("%s", good[i].text);
    }
}

static void test_time_refuses(void **state)
{
    static const char *const bad[] = {
        "",
        "2026",
        "2026-11-21",
        "2026-11-21T02:40:36",
        "2026-11-21T02:40Z",
        "2026-11-21T02:40:36.Z",
        "2026-11-21T02:40:36,5Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00Zx",
        " 2026-01-01T00:00:00Z",
        "2026-1-01T00:00:00Z",
        "+026-01-01T00:00:00Z",
        "-026-01-01T00:00:00Z",
        "2026-01--1T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-01-01X00:00:00Z",
        "2026-01-01T-1:00:00Z",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        i64 us = 42;
        if (time_parse(str_of(bad[i]), &us) || us != 42)
            fail_msg("%s", bad[i]);
    }
    i64 us;
    assert_false(time_parse(S("2026-11-21\00002:40:36Z"), &us));
}

static void test_time_http(void **state)
{
    i64 us;
    assert_str(time_http(arena, 784111777 * SECOND_US), "Sun, 06 Nov 1994 08:49:37 GMT"); /* RFC 9110 §5.6.7 */
    assert_true(time_http_parse(S("Sun, 06 Nov 1994 08:49:37 GMT"), &us));
    assert_int_equal(us, 784111777 * SECOND_US);
    assert_str(time_http(arena, -1), "Wed, 31 Dec 1969 23:59:59 GMT");
    static const char *const bad[] = {
        "",
        "Mon, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 31 Apr 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 06 Nov -994 08:49:37 GMT",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(time_http_parse(str_of(bad[i]), &us));
}

/* ---- base64 and hex ---- */

static void test_base64_vectors(void **state)
{
    static const char *const cases[][3] = {
        /* RFC 4648 §10 */
        { "", "", "" },
        { "f", "Zg==", "Zg" },
        { "fo", "Zm8=", "Zm8" },
        { "foo", "Zm9v", "Zm9v" },
        { "foob", "Zm9vYg==", "Zm9vYg" },
        { "fooba", "Zm9vYmE=", "Zm9vYmE" },
        { "foobar", "Zm9vYmFy", "Zm9vYmFy" },
        { "\xFB\xFF\xBF", "+/+/", "-_-_" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (enum base64_kind kind = BASE64; kind <= BASE64URL; kind++) {
            str back, text = str_of(cases[i][1 + kind]);
            assert_true(str_eq(base64_encode(arena, kind, str_of(cases[i][0])), text));
            assert_true(base64_decode(arena, kind, text, &back));
            assert_true(str_eq(back, str_of(cases[i][0])));
        }
}

static void test_base64_refuses(void **state)
{
    static const char *const bad[] = { "Z", "Zg",    "Zg=",   "Zg===",  "Zh==", "Zm9=",     "Zm8",  "Z===",    "====",
                                       "=", "Zm9v=", "Zm 9v", "Zm9v\n", "-_-_", "Zg==Zg==", "Zm=v", "Zm9\xC3", "+/+" };
    static const char *const bad_url[] = { "Z", "Zg==", "Zh", "Zm9", "+/+/", "Zm 8", "Zm8=", "A" };
    str out = S("kept");
    for (size_t i = 0; i < COUNT(bad); i++)
        if (base64_decode(arena, BASE64, str_of(bad[i]), &out))
            fail_msg("%s", bad[i]);
    for (size_t i = 0; i < COUNT(bad_url); i++)
        if (base64_decode(arena, BASE64URL, str_of(bad_url[i]), &out))
            fail_msg("%s", bad_url[i]);
    assert_str(out, "kept");
}

static void test_base64_round_trip(void **state)
{
    char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)(i * 7);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        str back, text = base64_encode(arena, BASE64URL, (str){ bytes, n });
        assert_true(base64_decode(arena, BASE64URL, text, &back));
        assert_true(str_eq(back, (str){ bytes, n }));
        text = hex_encode(arena, (str){ bytes, n });
        assert_true(hex_decode(arena, text, &back));
        assert_true(str_eq(back, (str){ bytes, n }));
    }
    str out;
    assert_true(hex_decode(arena, S("fF00"), &out));
    assert_false(hex_decode(arena, S("f"), &out));
    assert_false(hex_decode(arena, S("fg"), &out));
}

/* ---- hashes ---- */

static void test_sha256(void **state)
{
    u8 out[SHA256_BYTES];
    hash_sha256(STR_NONE, out);
    assert_str(hex_of(out, sizeof out), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_sha256(S("abc"), out);
    assert_str(hex_of(out, sizeof out), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256(S("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), out);
    assert_str(hex_of(out, sizeof out), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_sha256_parts_are_apart(void **state)
{
    u8 a[SHA256_BYTES], b[SHA256_BYTES], c[SHA256_BYTES];
    hash_sha256_parts((str[]){ S("ab"), S("c") }, 2, a);
    hash_sha256_parts((str[]){ S("a"), S("bc") }, 2, b);
    hash_sha256_parts((str[]){ S("abc"), S("") }, 2, c);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
}

static void test_hmac_vectors(void **state)
{
    static const char *const cases[][3] = {
        /* RFC 4231 */
        { "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
          "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
        { "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
        { "0102030405060708090a0b0c0d0e0f10111213141516171819",
          "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
          "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b" },
        { "", "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad" },
    };
    u8 out[SHA256_BYTES];
    for (int round = 0; round < 2; round++) /* the context is used again */
        for (size_t i = 0; i < COUNT(cases); i++) {
            hash_hmac_sha256(unhex(cases[i][0]), unhex(cases[i][1]), out);
            assert_true(str_eq(hex_of(out, sizeof out), str_of(cases[i][2])));
        }
    hash_hmac_sha256(STR_NONE, STR_NONE, out);
    assert_true(str_eq(hex_of(out, sizeof out), str_of(cases[3][2])));
}

static void test_hkdf_vector(void **state)
{
    u8 out[42]; /* RFC 5869 A.3: no salt, no info */
    hash_hkdf_sha256(unhex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"), STR_NONE, out, sizeof out);
    assert_str(hex_of(out, sizeof out),
               "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
    u8 one[32], two[64];
    hash_hkdf_sha256(S("secret"), S("cookies"), one, sizeof one);
    hash_hkdf_sha256(S("secret"), S("cookies"), two, sizeof two);
    assert_memory_equal(one, two, sizeof one); /* a longer output begins the same */
    hash_hkdf_sha256(S("secret"), S("cookie"), two, sizeof one);
    assert_memory_not_equal(one, two, sizeof one);
}

static void *hash_in_thread(void *arg)
{
    u8 out[SHA256_BYTES];
    for (int i = 0; i < 200; i++)
        hash_hmac_sha256(S("key"), S("The quick brown fox jumps over the lazy dog"), out);
    memcpy(arg, out, sizeof out);
    return NULL;
}

static void test_hash_in_threads(void **state)
{
    u8 out[THREADS][SHA256_BYTES];
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, hash_in_thread, out[t]), 0);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_str(hex_of(out[t], SHA256_BYTES), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
    }
}

/* ---- JWT ---- */

static const struct jwt_key key_one = { .kid = S_INIT("one"),
                                        .secret = S_INIT("a secret of at least thirty-two bytes") };

static str token_of(const char *header, const char *payload, str secret)
{
    u8 mac[SHA256_BYTES];
    str parts[] = { base64_encode(arena, BASE64URL, str_of(header)), S("."),
                    base64_encode(arena, BASE64URL, str_of(payload)) };
    str text = str_concat(arena, parts, 3);
    hash_hmac_sha256(secret, text, mac);
    return str_concat(arena, (str[]){ text, S("."), base64_encode(arena, BASE64URL, (str){ (char *)mac, sizeof mac }) },
                      3);
}

static void jwt_refused(str token, const char *why)
{
    struct json *claims = NULL;
    const char *reason = "";
    err e = jwt_verify(arena, &key_one, 1, token, &claims, &reason);
    if (e != ERR_UNAUTHORIZED || strcmp(reason, why) != 0 || claims != NULL)
        fail_msg("%.*s: %s, %s", STR_FMT(token), err_name(e), reason);
}

static void test_jwt_rfc7515_vector(void **state)
{
    str secret;
    assert_true(base64_decode(
        arena, BASE64URL, S("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"),
        &secret));
    struct jwt_key key = { .kid = S(""), .secret = secret };
    struct json *claims;
    const char *reason;
    str token = S(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc1"
        "9yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_int_equal(jwt_verify(arena, &key, 1, token, &claims, &reason), OK);
    assert_str(json_str(json_get(claims, S("iss"))), "joe");
    assert_int_equal(json_get(claims, S("exp"))->integer, 1300819380);
}

static void test_jwt_round_trip(void **state)
{
    struct json *claims;
    const char *reason;
    struct jwt_key keys[] = { { .kid = S("two"), .secret = S("another") }, key_one };
    str token = jwt_sign(arena, &key_one, S("{\"sub\":\"user_1\"}"));
    assert_true(str_eq(token, jwt_sign(arena, &key_one, S("{\"sub\":\"user_1\"}"))));
    assert_int_equal(jwt_verify(arena, keys, 2, token, &claims, &reason), OK);
    assert_str(json_str(json_get(claims, S("sub"))), "user_1");
    jwt_refused(jwt_sign(arena, &keys[0], S("{}")), "kid");
    struct jwt_key forged = { .kid = S("one"), .secret = S("wrong") };
    jwt_refused(jwt_sign(arena, &forged, S("{}")), "signature");
}

static void test_jwt_attacks(void **state)
{
    static const struct {
        const char *header, *payload, *why;
    } cases[] = {
        { "{\"alg\":\"none\",\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":\"None\",\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":\"hs256\",\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":\"HS512\",\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":\"RS256\",\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":[\"HS256\"],\"kid\":\"one\"}", "{}", "alg" },
        { "{\"kid\":\"one\"}", "{}", "alg" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"typ\":\"at+jwt\"}", "{}", "typ" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"typ\":null}", "{}", "typ" },
        { "{\"alg\":\"HS256\",\"kid\":\"two\"}", "{}", "kid" },
        { "{\"alg\":\"HS256\",\"kid\":\"\"}", "{}", "kid" },
        { "{\"alg\":\"HS256\",\"kid\":1}", "{}", "kid" },
        { "{\"alg\":\"HS256\"}", "{}", "kid" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"jku\":\"https://x\"}", "{}", "jku" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"jwk\":{}}", "{}", "jwk" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"x5u\":\"\"}", "{}", "x5u" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"x5c\":[]}", "{}", "x5c" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\",\"crit\":[\"exp\"]}", "{}", "crit" },
        { "{\"alg\":\"none\",\"alg\":\"HS256\",\"kid\":\"one\"}", "{}", "header" },
        { "[\"HS256\"]", "{}", "header" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\"", "{}", "header" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\"}", "[]", "claims" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\"}", "{\"sub\":1,\"sub\":2}", "claims" },
        { "{\"alg\":\"HS256\",\"kid\":\"one\"}", "x", "claims" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        jwt_refused(token_of(cases[i].header, cases[i].payload, key_one.secret), cases[i].why);
}

static void test_jwt_shapes(void **state)
{
    str token = jwt_sign(arena, &key_one, S("{\"sub\":\"user_1\"}"));
    static const char *const shapes[] = { "", ".", "..", "...", "a.b", "a.b.c.d", "a..c" };
    for (size_t i = 0; i < COUNT(shapes); i++)
        jwt_refused(str_of(shapes[i]), "parts");
    jwt_refused(str_concat(arena, (str[]){ token, S(".") }, 2), "parts");
    jwt_refused(str_concat(arena, (str[]){ token, S("=") }, 2), "signature"); /* padding */
    jwt_refused(str_slice(token, 0, token.n - 1), "signature");
    jwt_refused(str_concat(arena, (str[]){ S(" "), token }, 2), "header");
}

/* The last letter of a signature of 32 bytes carries two spare bits: three other letters mean the same bytes, and none may pass. */
static void test_jwt_every_changed_character_is_refused(void **state)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    str token = jwt_sign(arena, &key_one, S("{\"a\":1}"));
    char *copy = arena_alloc(arena, token.n);
    for (size_t i = 0; i < token.n; i++)
        for (size_t k = 0; k < 64; k += i + 1 == token.n ? 1 : 9) {
            struct json *claims;
            const char *reason;
            struct arena_mark mark = arena_mark(arena);
            memcpy(copy, token.p, token.n);
            copy[i] = letters[k];
            if (copy[i] != token.p[i])
                assert_int_equal(jwt_verify(arena, &key_one, 1, (str){ copy, token.n }, &claims, &reason),
                                 ERR_UNAUTHORIZED);
            arena_rewind(arena, mark);
        }
}

static void test_jwt_size(void **state)
{
    struct json *claims;
    const char *reason;
    for (size_t pad = 2900; pad < 3100; pad++) {
        str text = strf(arena, "{\"p\":\"%0*d\"}", (int)pad, 0), token = jwt_sign(arena, &key_one, text);
        err e = jwt_verify(arena, &key_one, 1, token, &claims, &reason);
        assert_int_equal(e, token.n <= 4096 ? OK : ERR_UNAUTHORIZED);
    }
}

static err sign_and_verify(void)
{
    struct json *claims;
    const char *reason;
    struct arena *a = arena_new(1 * MIB);
    if (a == NULL)
        return ERR_MEMORY;
    str token = jwt_sign(a, &key_one, S("{\"sub\":\"user_1\"}"));
    err e = token.p == NULL ? ERR_MEMORY : jwt_verify(a, &key_one, 1, token, &claims, &reason);
    arena_free(a);
    return e;
}

static void test_jwt_each_allocation_fails(void **state)
{
    for (i64 n = 1, fired = 1; fired; n++) {
        fault_arm(FAULT_ALLOC, n);
        err e = sign_and_verify();
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_true(fired ? e == ERR_MEMORY : e == OK);
    }
}

/* ---- URLs ---- */

static void test_url_parts(void **state)
{
    struct url u;
    assert_int_equal(url_parse(arena, S("HTTPS://user:p%40ss@Example.COM:8443/a/b;c?q=1&r=/?#frag"), &u), OK);
    assert_str(u.scheme, "https");
    assert_str(u.userinfo, "user:p%40ss");
    assert_str(u.host, "example.com");
    assert_int_equal(u.port, 8443);
    assert_str(u.path, "/a/b;c");
    assert_str(u.query, "q=1&r=/?");
    assert_str(u.fragment, "frag");
    assert_false(u.host_is_ipv6);
}

static void test_url_defaults(void **state)
{
    struct url u;
    assert_int_equal(url_parse(arena, S("http://a"), &u), OK);
    assert_int_equal(u.port, 80);
    assert_str(u.path, "/");
    assert_null(u.query.p);
    assert_null(u.userinfo.p);
    assert_int_equal(url_parse(arena, S("https://a:?x"), &u), OK);
    assert_int_equal(u.port, 443);
    assert_str(u.path, "/");
    assert_str(u.query, "x");
    assert_int_equal(url_parse(arena, S("http://[2001:DB8::1]:1/"), &u), OK);
    assert_str(u.host, "2001:db8::1");
    assert_true(u.host_is_ipv6);
    assert_int_equal(u.port, 1);
    assert_int_equal(url_parse(arena, S("http://a:65535"), &u), OK);
    assert_int_equal(u.port, 65535);
}

static void test_url_refuses(void **state)
{
    static const char *const bad[] = {
        "",
        "http",
        "http:",
        "http:/a",
        "http://",
        "http:///a",
        "http://:80/",
        "//a/b",
        "/a",
        "a.b",
        "ftp://a",
        "javascript:alert(1)",
        "file:///etc/passwd",
        " http://a",
        "http://a ",
        "http://a b",
        "http://a/b c",
        "http://a/\t",
        "http://a/\n",
        "http://a:0",
        "http://a:65536",
        "http://a:99999999999",
        "http://a:-1",
        "http://a:8o",
        "http://a:+80",
        "http://a@b@c",
        "http://a\\b",
        "http://a/\\b",
        "http://a/%",
        "http://a/%4",
        "http://a/%zz",
        "http://a/?%1",
        "http://a/#%g1",
        "http://[::1",
        "http://[::1]x",
        "http://[]/",
        "http://[zz::]/",
        "http://[1.2.3.4]/",
        "http://[12345::1]/",
        "http://::1/",
        "http://a%00b/",
        "http://a/\"",
        "http://a/<b>",
        "http://a/{b}",
        "http://a/|",
        "http://a/^",
        "http://a/`",
        "http://\xC3\xA9/",
        "http://a/\xC3\xA9",
        "http://a#b#c",
        "http://a?b\x7F",
        "http://user name@a/",
        "http://a*b/",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct url u = { .port = 7 };
        if (url_parse(arena, str_of(bad[i]), &u) != ERR_INVALID || u.port != 7)
            fail_msg("%s", bad[i]);
    }
    struct url u;
    assert_int_equal(url_parse(arena, S("http://a\0b/"), &u), ERR_INVALID);
}

static void test_url_host_length(void **state)
{
    struct url u;
    for (int n = 252; n <= 254; n++)
        assert_int_equal(url_parse(arena, strf(arena, "http://%0*d/", n, 0), &u), n <= 253 ? OK : ERR_INVALID);
}

static void test_url_plain(void **state)
{
    static const struct {
        const char *given, *plain;
    } rows[] = {
        { "/metrics", "/metrics" },
        { "/%6detrics", "/metrics" },
        { "/%6D%65tr%2Dics%7e", "/metr-ics~" },
        { "/a%2Fb%2fc", "/a%2Fb%2fc" }, /* a slash would part what was one segment */
        { "/%256d", "/%256d" },         /* once, not until nothing changes */
        { "/%", "/%" },                 /* bad escapes are the router's to refuse */
        { "/%6", "/%6" },
        { "/%zz%6d", "/%zzm" },
        { "/%00%C3%A9%20", "/%00%C3%A9%20" },
        { "", "" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        str out;
        assert_int_equal(url_plain(arena, str_of(rows[i].given), &out), OK);
        if (!str_eq(out, str_of(rows[i].plain)))
            fail_msg("%s became %.*s", rows[i].given, STR_FMT(out));
    }
}

static void test_url_decode(void **state)
{
    str out;
    assert_int_equal(url_decode(arena, S("a%20b+c%C3%a9"), &out), OK);
    assert_str(out, "a b+c\xC3\xA9");
    assert_int_equal(url_decode(arena, S("%41"), &out), OK);
    assert_str(out, "A");
    assert_int_equal(url_decode(arena, STR_NONE, &out), OK);
    assert_true(out.n == 0 && out.p != NULL);
    static const char *const bad[] = { "%",   "%4",  "a%",     "%zz",       "%0g",  "%00", "a%00b",
                                       "%ff", "%C3", "%C0%80", "%ED%A0%80", "\xFF", "%%41" };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(url_decode(arena, str_of(bad[i]), &out), ERR_DECODE);
    assert_int_equal(url_decode(arena, S("a\0b"), &out), ERR_DECODE);
}

static void test_url_form(void **state)
{
    struct pair *pairs;
    size_t n;
    assert_int_equal(url_form(arena, S("a=1&b=x+y%2B&&c&=v&d=e=f&"), &pairs, &n), OK);
    assert_int_equal(n, 5);
    assert_str(pairs[1].value, "x y+");
    assert_str(pairs[2].name, "c");
    assert_true(pairs[2].value.n == 0 && pairs[2].value.p != NULL);
    assert_str(pairs[3].name, "");
    assert_str(pairs[3].value, "v");
    assert_str(pairs[4].value, "e=f");
    assert_int_equal(url_form(arena, S(""), &pairs, &n), OK);
    assert_int_equal(n, 0);
    assert_int_equal(url_form(arena, S("a=%0"), &pairs, &n), ERR_DECODE);
}

static void test_url_form_bound(void **state)
{
    for (int count = 999; count <= 1001; count++) {
        struct pair *pairs;
        size_t n;
        struct buf b = { .arena = arena };
        for (int i = 0; i < count; i++)
            BUF_LIT(&b, "a&");
        assert_int_equal(url_form(arena, buf_view(&b), &pairs, &n), count <= 1000 ? OK : ERR_TOO_LARGE);
    }
}

static void test_url_encode_round_trip(void **state)
{
    struct buf b = { .arena = arena };
    str out;
    url_put_encoded(&b, S("az AZ09-._~/?&=+%\xC3\xA9"));
    assert_str(buf_view(&b), "az%20AZ09-._~%2F%3F%26%3D%2B%25%C3%A9");
    assert_int_equal(url_decode(arena, buf_view(&b), &out), OK);
    assert_str(out, "az AZ09-._~/?&=+%\xC3\xA9");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* RFC 6238, appendix B: the last six of its eight digits. */
static void test_totp_vectors(void **state)
{
    static const struct {
        i64 at_s;
        const char *code;
    } rows[] = {
        { 59, "287082" },         { 1111111109, "081804" }, { 1111111111, "050471" },
        { 1234567890, "005924" }, { 2000000000, "279037" }, { 20000000000, "353130" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char code[TOTP_DIGITS];
        totp_code(S("12345678901234567890"), totp_step(rows[i].at_s * SECOND_US), code);
        assert_memory_equal(code, rows[i].code, TOTP_DIGITS);
    }
}

static void test_totp_window(void **state)
{
    str seed = S("12345678901234567890"), code = S("050471"); /* of the step that begins at 1111111110 */
    i64 from = 1111111110 * SECOND_US, step = totp_step(from);
    assert_int_equal(totp_check(seed, code, from - 1, 0), 0);
    assert_int_equal(totp_check(seed, code, from, 0), step);
    assert_int_equal(totp_check(seed, code, from + 60 * SECOND_US - 1, 0), step);
    assert_int_equal(totp_check(seed, code, from + 60 * SECOND_US, 0), 0);
    assert_int_equal(totp_check(seed, code, from, step - 1), step);
    assert_int_equal(totp_check(seed, code, from, step), 0); /* each once */
    assert_int_equal(totp_check(seed, S("50471"), from, 0), 0);
    assert_int_equal(totp_check(seed, S(""), from, 0), 0);
}

static void test_base32_and_qr(void **state)
{
    assert_str(base32_encode(arena, S("")), "");
    assert_str(base32_encode(arena, S("f")), "MY");
    assert_str(base32_encode(arena, S("foobar")), "MZXW6YTBOI");
    assert_str(totp_uri(arena, S("Weir"), S("a b@c.example"), S("foobar")),
               "otpauth://totp/Weir:a%20b%40c.example?secret=MZXW6YTBOI&issuer=Weir&algorithm=SHA1&digits=6&period=30");
    assert_true(
        str_starts(qr_svg(arena, S("x")), S("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 29 29\"")));
    char *text = arena_alloc(arena, 4000);
    memset(text, 'x', 4000);
    assert_true(qr_svg(arena, (str){ text, 2331 }).p != NULL); /* the most that level M holds */
    assert_true(qr_svg(arena, (str){ text, 2332 }).p == NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_totp_vectors),
        TEST(test_totp_window),
        TEST(test_base32_and_qr),
        TEST(test_typeid_vectors),
        TEST(test_typeid_refuses),
        TEST(test_typeid_is_a_uuid7_of_its_time),
        TEST(test_typeid_sorts_by_creation),
        TEST(test_time_parse),
        TEST(test_time_refuses),
        TEST(test_time_http),
        TEST(test_base64_vectors),
        TEST(test_base64_refuses),
        TEST(test_base64_round_trip),
        TEST(test_sha256),
        TEST(test_sha256_parts_are_apart),
        TEST(test_hmac_vectors),
        TEST(test_hkdf_vector),
        TEST(test_hash_in_threads),
        TEST(test_jwt_rfc7515_vector),
        TEST(test_jwt_round_trip),
        TEST(test_jwt_attacks),
        TEST(test_jwt_shapes),
        TEST(test_jwt_every_changed_character_is_refused),
        TEST(test_jwt_size),
        TEST(test_jwt_each_allocation_fails),
        TEST(test_url_parts),
        TEST(test_url_defaults),
        TEST(test_url_refuses),
        TEST(test_url_host_length),
        TEST(test_url_plain),
        TEST(test_url_decode),
        TEST(test_url_form),
        TEST(test_url_form_bound),
        TEST(test_url_encode_round_trip),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
