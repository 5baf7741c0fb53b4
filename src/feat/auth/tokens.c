/* tokens.c - the claims of our tokens: written one way, read strictly. Pure, but for a memory of texts that were verified.
 *
 * `type` is checked before anything is believed: an access token never refreshes, a refresh token never opens a
 * route. Times are integers in the token and compared as integers; there is no leeway, because the clock that wrote
 * them is the clock that reads them. */
#include "feat/auth/auth_parts.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/cache.h"

#define ISSUER   "weir"
#define AUDIENCE "weir-api"
enum { KID_BYTES = 8, VERIFIED_BYTES = 16 * KIB };

/* Access tokens that a signature was checked of: whoever sends one sends it with every request. What a token says never changes, so nothing is ever forgotten but for
 * room; its times, its session and its role are looked at each time. */
CACHE(verified, "tokens", .capacity = 1024, .constant = true);

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
static const char *wrong_claim(const struct json *claims, enum token_type type, struct token *t)
{
    if (!has_text(claims, S("iss"), S(ISSUER)))
        return "iss";
    if (!has_text(claims, S("aud"), S(AUDIENCE)))
        return "aud";
    if (!has_text(claims, S("type"), type_names[type]))
        return "type";
    if (!read_time(claims, S("exp"), &t->expires_s))
        return "expired";
    if (!read_time(claims, S("nbf"), &t->not_before_s))
        return "nbf";
    if (!read_time(claims, S("iat"), &t->issued_s))
        return "iat";
    bool legacy = app.config.legacy_user_id && json_get(claims, S("sub")) == NULL;
    if (!read_id(claims, legacy ? S("user_id") : S("sub"), "user", &t->user_id) ||
        !read_id(claims, S("tid"), "tenant", &t->tenant_id) || !read_id(claims, S("sid"), "session", &t->session_id) ||
        !read_id(claims, S("jti"), "token", &t->jti))
        return "claims";
    t->role = json_str(json_get(claims, S("role")));
    return type == TOKEN_ACCESS && t->role.p == NULL ? "role" : NULL;
}

static const char *wrong_time(const struct token *t, i64 now_s)
{
    return now_s >= t->expires_s ? "expired" : now_s < t->not_before_s ? "nbf" : now_s < t->issued_s ? "iat" : NULL;
}

err token_verify(struct arena *a, const struct token_keys *keys, str text, enum token_type type, struct token *out,
                 const char **reason)
{
    struct json *claims;
    struct token t = { .type = type };
    TRY(jwt_verify(a, keys->list, keys->n, text, &claims, reason));
    const char *wrong = wrong_claim(claims, type, &t);
    if (wrong != NULL) {
        *reason = wrong;
        return ERR_UNAUTHORIZED;
    }
    *out = t;
    return OK;
}

struct seen {
    struct token token;
    str keys; /* id of those that verified it */
};

static err token_copy(struct arena *a, const struct token *from, struct token *out)
{
    struct token t = *from;
    t.user_id = str_dup(a, t.user_id);
    t.tenant_id = str_dup(a, t.tenant_id);
    t.session_id = str_dup(a, t.session_id);
    t.jti = str_dup(a, t.jti);
    t.role = str_dup(a, t.role);
    if (t.user_id.p == NULL || t.tenant_id.p == NULL || t.session_id.p == NULL || t.jti.p == NULL || t.role.p == NULL)
        return ERR_MEMORY;
    *out = t;
    return OK;
}

/* On an arena of its own; that there is no memory for it changes nothing. */
static void remember(const struct token_keys *keys, str text, const struct token *t, i64 now_us)
{
    struct arena *a = arena_new(VERIFIED_BYTES);
    struct seen *s = a != NULL ? NEW(a, struct seen) : NULL;
    if (s == NULL || token_copy(a, t, &s->token) != OK || (s->keys = str_dup(a, keys->id)).p == NULL) {
        arena_free(a);
        return;
    }
    cache_put(&verified, text, s, a, cache_epoch(&verified), now_us);
}

err token_read(struct arena *a, const struct token_keys *keys, str text, enum token_type type, i64 now_us,
               struct token *out, const char **reason)
{
    struct token t;
    const struct seen *s = type == TOKEN_ACCESS ? cache_get(&verified, text, now_us) : NULL;
    if (s != NULL && str_eq(s->keys, keys->id)) {
        TRY(token_copy(a, &s->token, &t)); /* an entry may leave the cache while the request still runs */
    } else {
        TRY(token_verify(a, keys, text, type, &t, reason));
        if (type == TOKEN_ACCESS)
            remember(keys, text, &t, now_us);
    }
    const char *wrong = wrong_time(&t, now_us / SECOND_US);
    if (wrong != NULL) {
        *reason = wrong;
        return ERR_UNAUTHORIZED;
    }
    *out = t;
    return OK;
}

static err key_make(struct arena *a, str secret, struct jwt_key *out)
{
    u8 mac[SHA256_BYTES];
    hash_hmac_sha256(secret, S("weir kid"), mac);
    str kid = hex_encode(a, (str){ (const char *)mac, KID_BYTES });
    if (kid.p == NULL)
        return ERR_MEMORY;
    *out = (struct jwt_key){ .kid = kid, .secret = secret };
    return OK;
}

err token_keys_make(struct arena *a, str secret, str previous, struct token_keys *out)
{
    struct token_keys made = { .n = previous.n > 0 ? 2 : 1 };
    u8 digest[SHA256_BYTES];
    TRY(key_make(a, secret, &made.list[0]));
    if (previous.n > 0)
        TRY(key_make(a, previous, &made.list[1]));
    hash_sha256_parts((const str[]){ secret, previous }, made.n, digest);
    made.id = hex_encode(a, (str){ (const char *)digest, sizeof digest });
    if (made.id.p == NULL)
        return ERR_MEMORY;
    *out = made;
    return OK;
}
