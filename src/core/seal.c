/* seal.c - one key per purpose, made of SECRET_KEY by HKDF; the owner is associated data, so it costs no key of its own. */
#include "core/seal.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"

#include <sodium.h>

enum {
    KEY = crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    NONCE = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
    TAG = crypto_aead_xchacha20poly1305_ietf_ABYTES,
};

static err key_of(struct arena *a, str secret_key, const char *purpose, u8 key[KEY])
{
    str info = strf(a, "seal %s", purpose);
    if (info.p == NULL || sodium_init() < 0)
        return ERR_MEMORY;
    hash_hkdf_sha256(secret_key, info, key, KEY);
    return OK;
}

err seal_text(struct arena *a, const char *purpose, str owner, str plain, str *sealed)
{
    u8 key[KEY], *bytes = arena_alloc(a, NONCE + plain.n + TAG);
    if (bytes == NULL)
        return ERR_MEMORY;
    TRY(key_of(a, app.config.secret_key, purpose, key));
    rng_bytes(bytes, NONCE);
    crypto_aead_xchacha20poly1305_ietf_encrypt(bytes + NONCE, NULL, (const u8 *)plain.p, plain.n, (const u8 *)owner.p,
                                               owner.n, NULL, bytes, key);
    sodium_memzero(key, sizeof key);
    str text = base64_encode(a, BASE64, (str){ (const char *)bytes, NONCE + plain.n + TAG });
    if (text.p == NULL)
        return ERR_MEMORY;
    *sealed = text;
    return OK;
}

static err unseal_under(struct arena *a, str secret_key, const char *purpose, str owner, str sealed, str *plain)
{
    str bytes;
    u8 key[KEY];
    if (!base64_decode(a, BASE64, sealed, &bytes) || bytes.n < NONCE + TAG)
        return ERR_INTERNAL;
    u8 *out = arena_alloc(a, bytes.n - NONCE - TAG);
    if (out == NULL)
        return ERR_MEMORY;
    TRY(key_of(a, secret_key, purpose, key));
    const u8 *p = (const u8 *)bytes.p;
    int bad = crypto_aead_xchacha20poly1305_ietf_decrypt(out, NULL, NULL, p + NONCE, bytes.n - NONCE,
                                                         (const u8 *)owner.p, owner.n, p, key);
    sodium_memzero(key, sizeof key);
    if (bad != 0)
        return ERR_INTERNAL;
    *plain = (str){ (const char *)out, bytes.n - NONCE - TAG };
    return OK;
}

err unseal_text(struct arena *a, const char *purpose, str owner, str sealed, str *plain)
{
    err e = unseal_under(a, app.config.secret_key, purpose, owner, sealed, plain);
    bool other = e == ERR_INTERNAL && app.config.secret_key_previous.n > 0;
    return other ? unseal_under(a, app.config.secret_key_previous, purpose, owner, sealed, plain) : e;
}

err seal_again(struct arena *a, const char *purpose, str owner, str sealed, str *out)
{
    str plain;
    err e = unseal_under(a, app.config.secret_key, purpose, owner, sealed, &plain);
    if (e == OK)
        *out = sealed;
    if (e != ERR_INTERNAL)
        return e;
    TRY(unseal_text(a, purpose, owner, sealed, &plain));
    return seal_text(a, purpose, owner, plain, out);
}
