/* jwt.c - the signature is checked before a byte of the claims is looked at, and the algorithm is never a question.
 *
 * The header is parsed to find the key and to refuse what we do not do; nothing in it can choose how we verify. */
#include "codec/jwt.h"
#include "codec/base64.h"
#include "codec/hash.h"

#include <string.h>

enum { TOKEN_MAX = 4096 };

/* Members that would point to a key, change what is signed, or must be understood. */
static const char *const refused_members[] = { "jku",      "jwk",  "x5u", "x5c", "x5t",
                                               "x5t#S256", "crit", "b64", "zip", "enc" };

static str signature_of(struct arena *a, const struct jwt_key *key, str signed_part)
{
    u8 mac[SHA256_BYTES];
    hash_hmac_sha256(key->secret, signed_part, mac);
    return base64_encode(a, BASE64URL, (str){ (char *)mac, sizeof mac });
}

static str header_of(struct arena *a, const struct jwt_key *key)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    jw_begin(&w, '{');
    jw_key(&w, S("alg"));
    jw_str(&w, S("HS256"));
    jw_key(&w, S("typ"));
    jw_str(&w, S("JWT"));
    if (key->kid.n > 0) {
        jw_key(&w, S("kid"));
        jw_str(&w, key->kid);
    }
    jw_end(&w, '}');
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

str jwt_sign(struct arena *a, const struct jwt_key *key, str claims_json)
{
    str header_json = header_of(a, key);
    str header = header_json.p != NULL ? base64_encode(a, BASE64URL, header_json) : STR_NONE;
    str claims = base64_encode(a, BASE64URL, claims_json);
    if (header.p == NULL || claims.p == NULL)
        return STR_NONE;
    str signed_part = str_concat(a, (str[]){ header, S("."), claims }, 3);
    str signature = signed_part.p != NULL ? signature_of(a, key, signed_part) : STR_NONE;
    return signature.p != NULL ? str_concat(a, (str[]){ signed_part, S("."), signature }, 3) : STR_NONE;
}

static err no(const char **reason, const char *why)
{
    *reason = why;
    return ERR_UNAUTHORIZED;
}

static err part_json(struct arena *a, str part, struct json **out)
{
    size_t n;
    u8 *text = arena_alloc(a, part.n);
    if (text == NULL)
        return ERR_MEMORY;
    if (!base64_decode_into(BASE64URL, part, text, &n))
        return ERR_DECODE;
    TRY(json_parse(a, (str){ (char *)text, n }, out, NULL));
    return (*out)->type == JSON_OBJECT ? OK : ERR_DECODE;
}

static err check_header(const struct json *header, const char **reason)
{
    const struct json *typ = json_get(header, S("typ")), *kid = json_get(header, S("kid"));
    if (!str_eq(json_str(json_get(header, S("alg"))), S("HS256")))
        return no(reason, "alg");
    if (typ != NULL && !str_eq(json_str(typ), S("JWT")))
        return no(reason, "typ");
    if (kid != NULL && (kid->type != JSON_STR || kid->n == 0))
        return no(reason, "kid");
    for (size_t i = 0; i < COUNT(refused_members); i++)
        if (json_get(header, str_of(refused_members[i])) != NULL)
            return no(reason, refused_members[i]);
    return OK;
}

/* Several keys may share a kid: any of them may have signed. A key without one is the only one its owner has, so the names that others give it do not count. */
static err check_signature(struct arena *a, const struct jwt_key *keys, size_t count, str kid, str signed_part,
                           str signature, const char **reason)
{
    bool known = false, good = false;
    for (size_t i = 0; i < count; i++) {
        if (keys[i].kid.n > 0 && !str_eq(keys[i].kid, kid))
            continue;
        known = true;
        str expected = signature_of(a, &keys[i], signed_part);
        if (expected.p == NULL)
            return ERR_MEMORY;
        good |= str_eq_secret(expected, signature); /* encoded, so a second spelling of the same bytes fails too */
    }
    return good ? OK : no(reason, known ? "signature" : "kid");
}

static bool split(str token, str parts[3])
{
    size_t n = 0;
    for (str part; str_cut(&token, '.', &part); n++) {
        if (n == 3 || part.n == 0)
            return false;
        parts[n] = part;
    }
    return n == 3;
}

err jwt_verify(struct arena *a, const struct jwt_key *keys, size_t count, str token, struct json **claims,
               const char **reason)
{
    str parts[3];
    struct json *header, *payload;
    if (token.n > TOKEN_MAX)
        return no(reason, "size");
    if (!split(token, parts))
        return no(reason, "parts");
    err e = part_json(a, parts[0], &header);
    if (e != OK)
        return e == ERR_MEMORY ? e : no(reason, "header");
    TRY(check_header(header, reason));
    str signed_part = { token.p, parts[0].n + 1 + parts[1].n };
    TRY(check_signature(a, keys, count, json_str(json_get(header, S("kid"))), signed_part, parts[2], reason));
    e = part_json(a, parts[1], &payload);
    if (e != OK)
        return e == ERR_MEMORY ? e : no(reason, "claims");
    *claims = payload;
    return OK;
}
