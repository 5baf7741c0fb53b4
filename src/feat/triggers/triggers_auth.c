/* triggers_auth.c - the secrets of triggers: how they are stored, shown and asked for.
 *
 * Keys and tokens are kept as SHA-256 only: they are long and random, so a slow hash would cost every call and protect nothing. A JWT secret must be read
 * again, so it is sealed (XSalsa20-Poly1305) under a key of its own for each tenant and trigger: a row copied elsewhere does not open. */
#include "feat/triggers/triggers_parts.h"

#include "base/rng.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "codec/jwt.h"

#include <sodium.h>
#include <string.h>

enum { SECRET_MIN = 16, JWT_SECRET_MIN = 32, SECRET_MAX = 512, NAME_MAX_CHARS = 255, CLOCK_SKEW_S = 60 };

/* ---- what may be sent ---- */

static err check_length(str value, size_t least, const char *text, const char **code, const char **detail)
{
    if (str_eq(value, S(TRIGGER_MASK)) || value.n >= least)
        return OK;
    *code = "field.length";
    *detail = text;
    return ERR_INVALID;
}

static err check_secret(str value, const char **code, const char **detail)
{
    return check_length(value, SECRET_MIN, "must have at least 16 bytes; **** keeps the present one", code, detail);
}

static err check_jwt_secret(str value, const char **code, const char **detail)
{
    return check_length(value, JWT_SECRET_MIN, "must have at least 32 bytes; **** keeps the present one", code, detail);
}

static err check_bearer(const struct json *object, str pointer, struct problems *out)
{
    bool token = json_get(object, S("token")) != NULL, jwt = json_get(object, S("jwt_secret")) != NULL;
    bool claims = json_get(object, S("issuer")) != NULL || json_get(object, S("audience")) != NULL;
    if (token == jwt)
        return problems_add(out, pointer, "triggers.bearer", "must hold either token or jwt_secret");
    if (token && claims)
        return problems_add(out, pointer, "triggers.bearer", "issuer and audience go with jwt_secret, not with token");
    return OK;
}

/* Checked only: what is kept of them is text. */
static const struct field api_key_fields[] = {
    SHAPE_FIELD(
        "api_key", F_STR, .flags = F_REQUIRED | F_SECRET, .min = 4, .max = SECRET_MAX, .check = check_secret,
        .doc =
            "At least 16 bytes, sent as X-API-Key or Authorization: Bearer; answered as ****, which keeps it when sent",
        .example = "\"whk_7Qm2v9Xc4Lr8Zt1B\""),
};
static const struct field bearer_fields[] = {
    SHAPE_FIELD("token", F_STR, .flags = F_SECRET | F_SPARSE, .min = 4, .max = SECRET_MAX, .check = check_secret,
                .doc = "A fixed token of at least 16 bytes; in place of jwt_secret"),
    SHAPE_FIELD("jwt_secret", F_STR, .flags = F_SECRET | F_SPARSE, .min = 4, .max = SECRET_MAX,
                .check = check_jwt_secret,
                .doc = "At least 32 bytes: the token is a JWT signed with it by HS256; in place of token"),
    SHAPE_FIELD("issuer", F_STR, .flags = F_SPARSE, .min = 1, .max = NAME_MAX_CHARS,
                .doc = "The iss that the JWT must have"),
    SHAPE_FIELD("audience", F_STR, .flags = F_SPARSE, .min = 1, .max = NAME_MAX_CHARS,
                .doc = "The aud that the JWT must have or hold"),
};
static const struct table none_table = { .name = "TriggerAuthNone", .doc = "Nothing to prove" };
static const struct table api_key_table =
    SHAPE("TriggerAuthApiKey", api_key_fields, .doc = "A key that the caller sends");
static const struct table bearer_table =
    SHAPE("TriggerAuthBearer", bearer_fields, .doc = "A bearer token: fixed, or a JWT", .check = check_bearer);
const struct variant_case trigger_auth_cases[] = {
    { "none", &none_table },
    { "api_key", &api_key_table },
    { "bearer", &bearer_table },
    { NULL, NULL },
};

/* ---- sealing ---- */

static void seal_key(const struct trigger_owner *o, str secret_key, u8 key[crypto_secretbox_KEYBYTES])
{
    u8 master[SHA256_BYTES], context[SHA256_BYTES];
    const str parts[] = { o->tenant_id, o->trigger_id };
    hash_hkdf_sha256(secret_key, S("triggers"), master, sizeof master);
    hash_sha256_parts(parts, COUNT(parts), context);
    hash_hkdf_sha256((str){ (const char *)master, sizeof master }, (str){ (const char *)context, sizeof context }, key,
                     crypto_secretbox_KEYBYTES);
    sodium_memzero(master, sizeof master);
}

/* Base64 of nonce and box. */
static err seal(struct arena *a, const struct trigger_owner *o, str plain, str *sealed)
{
    size_t n = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + plain.n;
    u8 key[crypto_secretbox_KEYBYTES], *bytes = arena_alloc(a, n);
    if (bytes == NULL)
        return ERR_MEMORY;
    rng_bytes(bytes, crypto_secretbox_NONCEBYTES);
    seal_key(o, o->secret_key, key);
    crypto_secretbox_easy(bytes + crypto_secretbox_NONCEBYTES, (const u8 *)plain.p, plain.n, bytes, key);
    sodium_memzero(key, sizeof key);
    *sealed = base64_encode(a, BASE64, (str){ (const char *)bytes, n });
    return sealed->p != NULL ? OK : ERR_MEMORY;
}

static err unseal_under(struct arena *a, const struct trigger_owner *o, str secret_key, str sealed, str *plain)
{
    str bytes;
    u8 key[crypto_secretbox_KEYBYTES];
    size_t head = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES;
    if (!base64_decode(a, BASE64, sealed, &bytes) || bytes.n < head)
        return ERR_INTERNAL;
    u8 *out = arena_alloc(a, bytes.n - head);
    if (out == NULL)
        return ERR_MEMORY;
    const u8 *p = (const u8 *)bytes.p;
    seal_key(o, secret_key, key);
    int bad =
        crypto_secretbox_open_easy(out, p + crypto_secretbox_NONCEBYTES, bytes.n - crypto_secretbox_NONCEBYTES, p, key);
    sodium_memzero(key, sizeof key);
    if (bad != 0)
        return ERR_INTERNAL;
    *plain = (str){ (const char *)out, bytes.n - head };
    return OK;
}

static err unseal(struct arena *a, const struct trigger_owner *o, str sealed, str *plain)
{
    err e = unseal_under(a, o, o->secret_key, sealed, plain);
    bool other = e == ERR_INTERNAL && o->secret_key_previous.n > 0;
    return other ? unseal_under(a, o, o->secret_key_previous, sealed, plain) : e;
}

/* ---- stored form: {"sha256":hex} or {"sealed":base64,"issuer":…,"audience":…} ---- */

static err digest_text(struct arena *a, str secret, str *out)
{
    u8 digest[SHA256_BYTES];
    hash_sha256(secret, digest);
    *out = hex_encode(a, (str){ (const char *)digest, sizeof digest });
    return out->p != NULL ? OK : ERR_MEMORY;
}

/* The stored secret of `name`: made anew, or the one of before where the mask stands. */
static err store_secret(struct arena *a, const struct trigger_owner *o, const char *name, str secret,
                        const struct json *before, str *out)
{
    bool sealed = str_eq(str_of(name), S("sealed"));
    if (!str_eq(secret, S(TRIGGER_MASK)))
        return sealed ? seal(a, o, secret, out) : digest_text(a, secret, out);
    *out = json_str(json_get(before, str_of(name)));
    return out->p != NULL ? OK : ERR_INVALID;
}

static err parse_own(struct arena *a, str text, struct json **out)
{
    err e = json_parse(a, text, out, NULL);
    return e == ERR_DECODE ? ERR_INTERNAL : e;
}

err trigger_auth_store(struct arena *a, const struct trigger_owner *owner, str auth_type, str given, str before,
                       str *stored)
{
    struct json *in = NULL, *old = NULL, out = { .type = JSON_OBJECT };
    str kept;
    *stored = STR_NONE;
    if (str_eq(auth_type, S("none")))
        return OK;
    if (given.p == NULL) {
        *stored = before;
        return before.p != NULL ? OK : ERR_INVALID;
    }
    TRY(parse_own(a, given, &in));
    if (before.p != NULL)
        TRY(parse_own(a, before, &old));
    const struct json *jwt = json_get(in, S("jwt_secret")), *token = json_get(in, S("token"));
    const char *name = jwt != NULL ? "sealed" : "sha256";
    TRY(store_secret(a, owner, name,
                     json_str(jwt != NULL     ? jwt
                              : token != NULL ? token
                                              : json_get(in, S("api_key"))),
                     old, &kept));
    bool done = json_set(a, &out, str_of(name), json_of_str(kept));
    static const str claims[] = { S_INIT("issuer"), S_INIT("audience") };
    for (u32 i = 0; i < COUNT(claims); i++)
        if (json_get(in, claims[i]) != NULL)
            done = done && json_set(a, &out, claims[i], *json_get(in, claims[i]));
    *stored = done ? json_text(a, &out) : STR_NONE;
    return stored->p != NULL ? OK : ERR_MEMORY;
}

static err open_digest(struct arena *a, const struct json *stored, u8 digest[SHA256_BYTES])
{
    str bytes, hex = json_str(json_get(stored, S("sha256")));
    if (hex.p == NULL || !hex_decode(a, hex, &bytes) || bytes.n != SHA256_BYTES)
        return ERR_INTERNAL;
    memcpy(digest, bytes.p, SHA256_BYTES);
    return OK;
}

err trigger_auth_open(struct arena *a, const struct trigger_owner *owner, str auth_type, str stored,
                      struct trigger_auth *out)
{
    struct trigger_auth auth = { .kind = str_eq(auth_type, S("api_key")) ? AUTH_API_KEY : AUTH_TOKEN };
    struct json *j;
    if (str_eq(auth_type, S("none"))) {
        *out = (struct trigger_auth){ .kind = AUTH_NONE };
        return OK;
    }
    if (stored.p == NULL)
        return ERR_INTERNAL;
    TRY(parse_own(a, stored, &j));
    const struct json *sealed = json_get(j, S("sealed"));
    if (sealed == NULL) {
        TRY(open_digest(a, j, auth.digest));
    } else {
        auth.kind = AUTH_JWT;
        auth.issuer = json_str(json_get(j, S("issuer")));
        auth.audience = json_str(json_get(j, S("audience")));
        TRY(unseal(a, owner, json_str(sealed), &auth.jwt_secret));
    }
    *out = auth;
    return OK;
}

err trigger_auth_again(struct arena *a, const struct trigger_owner *owner, str stored, str *out)
{
    struct json *j;
    str plain, fresh;
    TRY(parse_own(a, stored, &j));
    str sealed = json_str(json_get(j, S("sealed")));
    *out = stored;
    if (sealed.p == NULL || unseal_under(a, owner, owner->secret_key, sealed, &plain) == OK)
        return OK;
    TRY(unseal(a, owner, sealed, &plain));
    TRY(seal(a, owner, plain, &fresh));
    *out = json_set(a, j, S("sealed"), json_of_str(fresh)) ? json_text(a, j) : STR_NONE;
    return out->p != NULL ? OK : ERR_MEMORY;
}

err trigger_auth_mask(struct arena *a, str auth_type, str stored, str *shown)
{
    struct buf b = { .arena = a };
    struct json_writer w = { .b = &b };
    struct json *j;
    *shown = STR_NONE;
    if (stored.p == NULL)
        return OK;
    TRY(parse_own(a, stored, &j));
    bool jwt = json_get(j, S("sealed")) != NULL;
    jw_begin(&w, '{');
    jw_key(&w, jwt ? S("jwt_secret") : str_eq(auth_type, S("api_key")) ? S("api_key") : S("token"));
    jw_str(&w, S(TRIGGER_MASK));
    for (u32 i = 0; i < j->n; i++)
        if (!str_eq(j->members[i].key, S("sealed")) && !str_eq(j->members[i].key, S("sha256"))) {
            jw_key(&w, j->members[i].key);
            jw_json(&w, &j->members[i].value);
        }
    jw_end(&w, '}');
    *shown = buf_view(&b);
    return b.fail;
}

/* ---- proofs ---- */

static str bearer_of(str authorization)
{
    if (authorization.p == NULL || !str_eq_nocase(str_slice(authorization, 0, 7), S("Bearer ")))
        return STR_NONE;
    return str_trim(str_slice(authorization, 7, authorization.n));
}

static bool digest_matches(const struct trigger_auth *auth, str sent)
{
    u8 digest[SHA256_BYTES];
    if (sent.n == 0)
        return false;
    hash_sha256(sent, digest);
    return sodium_memcmp(digest, auth->digest, sizeof digest) == 0;
}

/* aud is a name or a list of names (RFC 7519 §4.1.3). */
static bool names(const struct json *claim, str name)
{
    if (claim == NULL || claim->type != JSON_ARRAY)
        return str_eq(json_str(claim), name) && claim != NULL;
    for (u32 i = 0; i < claim->n; i++)
        if (str_eq(json_str(&claim->items[i]), name))
            return true;
    return false;
}

/* Seconds as RFC 7519's NumericDate; a claim that is no number never holds. exp and nbf are the sender's choice, but bind when they are there. */
static bool in_time(const struct json *claims, i64 now_us)
{
    const struct json *exp = json_get(claims, S("exp")), *nbf = json_get(claims, S("nbf"));
    double now = (double)now_us / SECOND_US;
    double ends = exp == NULL              ? now + 1
                  : exp->type == JSON_INT  ? (double)exp->integer
                  : exp->type == JSON_REAL ? exp->real
                                           : 0;
    double begins = nbf == NULL              ? now
                    : nbf->type == JSON_INT  ? (double)nbf->integer
                    : nbf->type == JSON_REAL ? nbf->real
                                             : now * 2;
    return now < ends && now + CLOCK_SKEW_S >= begins;
}

static bool jwt_holds(struct arena *a, const struct trigger_auth *auth, str token, i64 now_us)
{
    const struct jwt_key key = { .kid = S(""), .secret = auth->jwt_secret };
    struct json *claims;
    const char *reason;
    if (token.n == 0 || jwt_verify(a, &key, 1, token, &claims, &reason) != OK || !in_time(claims, now_us))
        return false;
    return (auth->issuer.p == NULL || names(json_get(claims, S("iss")), auth->issuer)) &&
           (auth->audience.p == NULL || names(json_get(claims, S("aud")), auth->audience));
}

bool trigger_auth_passes(struct arena *a, const struct trigger_auth *auth, str x_api_key, str authorization, i64 now_us)
{
    str bearer = bearer_of(authorization);
    switch (auth->kind) {
    case AUTH_NONE:
        return true;
    case AUTH_API_KEY:
        return digest_matches(auth, x_api_key.n > 0 ? x_api_key : bearer);
    case AUTH_TOKEN:
        return digest_matches(auth, bearer);
    case AUTH_JWT:
        return jwt_holds(a, auth, bearer, now_us);
    }
    return false;
}
