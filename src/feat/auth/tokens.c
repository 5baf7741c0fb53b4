/* tokens.c - the claims of our tokens: written one way, read strictly. Pure.
 *
 * `type` is checked before anything is believed: an access token never refreshes, a refresh token never opens a
 * route. Times are integers in the token and compared as integers; there is no leeway, because the clock that wrote
 * them is the clock that reads them. */
#include "feat/auth/auth_parts.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"

#define ISSUER   "weir"
#define AUDIENCE "weir-api"
enum { KID_BYTES = 8 };

static const str type_names[] = { [TOKEN_ACCESS] = S_INIT("access"), [TOKEN_REFRESH] = S_INIT("refresh") };

str token_sign(struct arena *a, const struct jwt_key *key, const struct token *t)
{
    struct buf b = { .arena = a };
    buf_f(&b,
          "{\"iss\":\"" ISSUER "\",\"aud\":\"" AUDIENCE
          "\",\"sub\":\"%.*s\",\"tid\":\"%.*s\",\"sid\":\"%.*s\",\"type\":\"%.*s\"",
          STR_FMT(t->user_id), STR_FMT(t->tenant_id), STR_FMT(t->session_id), STR_FMT(type_names[t->type]));
    if (t->type == TOKEN_ACCESS)
        buf_f(&b, ",\"role\":\"%.*s\"", STR_FMT(t->role));
    buf_f(&b, ",\"jti\":\"%.*s\",\"iat\":%lld,\"nbf\":%lld,\"exp\":%lld}", STR_FMT(t->jti), (long long)t->issued_s,
          (long long)t->issued_s, (long long)t->expires_s);
    return b.fail == OK ? jwt_sign(a, key, buf_view(&b)) : STR_NONE;
}

static bool read_id(const struct json *claims, str name, const char *prefix, str *out)
{
    str id = json_str(json_get(claims, name));
    if (id.p == NULL || !typeid_valid(id, prefix))
        return false;
    *out = id;
    return true;
}

static bool read_time(const struct json *claims, str name, i64 *out)
{
    const struct json *j = json_get(claims, name);
    if (j == NULL || j->type != JSON_INT)
        return false;
    *out = j->integer;
    return true;
}

static bool has_text(const struct json *claims, str name, str value)
{
    return str_eq(json_str(json_get(claims, name)), value);
}

/* The word of the first claim that is wrong; NULL when all are right. */
static const char *wrong_claim(const struct json *claims, enum token_type type, i64 now_s, struct token *t)
{
    i64 not_before_s;
    if (!has_text(claims, S("iss"), S(ISSUER)))
        return "iss";
    if (!has_text(claims, S("aud"), S(AUDIENCE)))
        return "aud";
    if (!has_text(claims, S("type"), type_names[type]))
        return "type";
    if (!read_time(claims, S("exp"), &t->expires_s) || now_s >= t->expires_s)
        return "expired";
    if (!read_time(claims, S("nbf"), &not_before_s) || now_s < not_before_s)
        return "nbf";
    if (!read_time(claims, S("iat"), &t->issued_s) || now_s < t->issued_s)
        return "iat";
    if (!read_id(claims, S("sub"), "user", &t->user_id) || !read_id(claims, S("tid"), "tenant", &t->tenant_id) ||
        !read_id(claims, S("sid"), "session", &t->session_id) || !read_id(claims, S("jti"), "token", &t->jti))
        return "claims";
    t->role = json_str(json_get(claims, S("role")));
    return type == TOKEN_ACCESS && t->role.p == NULL ? "role" : NULL;
}

err token_read(struct arena *a, const struct jwt_key *key, str text, enum token_type type, i64 now_us,
               struct token *out, const char **reason)
{
    struct json *claims;
    struct token t = { .type = type };
    TRY(jwt_verify(a, key, 1, text, &claims, reason));
    const char *wrong = wrong_claim(claims, type, now_us / SECOND_US, &t);
    if (wrong != NULL) {
        *reason = wrong;
        return ERR_UNAUTHORIZED;
    }
    *out = t;
    return OK;
}

err token_key(struct arena *a, str secret, struct jwt_key *out)
{
    u8 mac[SHA256_BYTES];
    hash_hmac_sha256(secret, S("weir kid"), mac);
    str kid = hex_encode(a, (str){ (const char *)mac, KID_BYTES });
    if (kid.p == NULL)
        return ERR_MEMORY;
    *out = (struct jwt_key){ .kid = kid, .secret = secret };
    return OK;
}
