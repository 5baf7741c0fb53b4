/* jwt.c - tokens. A token is either not accepted, or it is byte for byte what signing its own header and payload gives: there is one spelling. The first byte
 * says whether the input is a whole token, or a header and a payload (a line each) that are signed here, so that what lies behind the signature is reached. */
#include "fuzz.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/jwt.h"

static const struct jwt_key keys[] = { { S_INIT("k1"), S_INIT("0123456789abcdef0123456789abcdef") },
                                       { S_INIT("k2"), S_INIT("fedcba9876543210fedcba9876543210") } };

static str sign(struct arena *a, str header, str payload)
{
    u8 mac[SHA256_BYTES];
    str parts[] = { base64_encode(a, BASE64URL, header), S("."), base64_encode(a, BASE64URL, payload) };
    str text = str_concat(a, parts, COUNT(parts));
    hash_hmac_sha256(keys[0].secret, text, mac);
    str whole[] = { text, S("."), base64_encode(a, BASE64URL, (str){ (const char *)mac, sizeof mac }) };
    return str_concat(a, whole, COUNT(whole));
}

/* Two signatures under one header and payload cannot both be good. */
static void claim_one_spelling(struct arena *a, str token)
{
    struct json *claims;
    const char *reason;
    char *other = (char *)str_dup(a, token).p;
    for (size_t bit = 0; bit < 8; bit++) {
        other[token.n - 1] = (char)(token.p[token.n - 1] ^ (1 << bit));
        assert(jwt_verify(a, keys, COUNT(keys), (str){ other, token.n }, &claims, &reason) == ERR_UNAUTHORIZED);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    u8 which = fuzz_choice(&data, &size);
    str text = fuzz_text(a, data, size), header = STR_NONE, token = text;
    if (which % 2 != 0 && str_cut(&text, '\n', &header))
        token = sign(a, header, text);
    struct json *claims = NULL;
    const char *reason = NULL;
    err e = jwt_verify(a, keys, COUNT(keys), token, &claims, &reason);
    if (e == OK) {
        assert(claims != NULL && claims->type == JSON_OBJECT && token.n <= 4096);
        claim_one_spelling(a, token);
    } else {
        assert(e == ERR_UNAUTHORIZED && reason != NULL && claims == NULL);
    }
    arena_free(a);
    return 0;
}
