/* hash.c - OpenSSL 3 with everything that is slow done once.
 *
 * Fetching an algorithm costs more than hashing a token, and so does a new context: the algorithms are fetched once per process,
 * the contexts live in thread-specific storage whose destructor frees them. A failure here is a broken OpenSSL or no memory for
 * the first few hundred bytes of a thread; nothing can be trusted after it, so it stops the process. */
#include "codec/hash.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct contexts {
    EVP_MD_CTX *digest;
    EVP_MAC_CTX *mac;
};

static pthread_once_t once = PTHREAD_ONCE_INIT; /* these four are written under it, once */
static pthread_key_t per_thread;
static EVP_MD *sha256;
static EVP_MAC *hmac;

static void contexts_free(void *p)
{
    struct contexts *c = p;
    EVP_MD_CTX_free(c->digest);
    EVP_MAC_CTX_free(c->mac);
    free(c);
}

static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    int failed = pthread_key_create(&per_thread, contexts_free);
    assert(sha256 != NULL && hmac != NULL && failed == 0);
}

static struct contexts *contexts_new(void)
{
    struct contexts *c = calloc(1, sizeof *c); /* bare: it belongs to the thread, not to a request's arena */
    assert(c != NULL);
    c->digest = EVP_MD_CTX_new();
    c->mac = EVP_MAC_CTX_new(hmac);
    OSSL_PARAM params[] = { OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){ "SHA256" }, 6), OSSL_PARAM_END };
    bool ok = c->digest != NULL && c->mac != NULL && EVP_MAC_CTX_set_params(c->mac, params) == 1;
    assert(ok);
    ok = pthread_setspecific(per_thread, c) == 0;
    assert(ok);
    return c;
}

static struct contexts *mine(void)
{
    pthread_once(&once, fetch);
    struct contexts *c = pthread_getspecific(per_thread);
    return c != NULL ? c : contexts_new();
}

void hash_sha256(str bytes, u8 out[SHA256_BYTES])
{
    EVP_MD_CTX *c = mine()->digest;
    bool ok = EVP_DigestInit_ex2(c, sha256, NULL) == 1 && EVP_DigestUpdate(c, bytes.p, bytes.n) == 1 &&
              EVP_DigestFinal_ex(c, out, NULL) == 1;
    assert(ok);
}

void hash_sha256_parts(const str *parts, size_t count, u8 out[SHA256_BYTES])
{
    EVP_MD_CTX *c = mine()->digest;
    bool ok = EVP_DigestInit_ex2(c, sha256, NULL) == 1;
    for (size_t i = 0; ok && i < count; i++) {
        u8 length[8];
        for (int k = 0; k < 8; k++)
            length[k] = (u8)((u64)parts[i].n >> (56 - 8 * k));
        ok = EVP_DigestUpdate(c, length, sizeof length) == 1 && EVP_DigestUpdate(c, parts[i].p, parts[i].n) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(c, out, NULL) == 1;
    assert(ok);
}

void hash_hmac_sha256(str key, str bytes, u8 out[SHA256_BYTES])
{
    EVP_MAC_CTX *c = mine()->mac;
    size_t n;
    const u8 *secret = (const u8 *)(key.p != NULL ? key.p : ""); /* NULL would mean: the key of the last call */
    bool ok = EVP_MAC_init(c, secret, key.n, NULL) == 1 && EVP_MAC_update(c, (const u8 *)bytes.p, bytes.n) == 1 &&
              EVP_MAC_final(c, out, &n, SHA256_BYTES) == 1;
    assert(ok && n == SHA256_BYTES);
}

/* RFC 5869 with an empty salt: extract, then expand block by block; at most 255 blocks. */
void hash_hkdf_sha256(str key, str info, u8 *out, size_t n)
{
    enum { INFO_MAX = 1024 };
    static const char no_salt[SHA256_BYTES];
    u8 secret[SHA256_BYTES], block[SHA256_BYTES], input[SHA256_BYTES + INFO_MAX + 1];
    assert(n <= 255 * SHA256_BYTES && info.n <= INFO_MAX);
    hash_hmac_sha256((str){ no_salt, sizeof no_salt }, key, secret);
    size_t before = 0; /* bytes of the last block; none in the first round */
    for (u8 round = 1; n > 0; round++) {
        memcpy(input, block, before);
        if (info.n > 0)
            memcpy(input + before, info.p, info.n);
        input[before + info.n] = round;
        hash_hmac_sha256((str){ (char *)secret, sizeof secret }, (str){ (char *)input, before + info.n + 1 }, block);
        size_t take = MIN(n, (size_t)SHA256_BYTES);
        memcpy(out, block, take);
        out += take;
        n -= take;
        before = SHA256_BYTES;
    }
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(block, sizeof block);
    explicit_bzero(input, sizeof input);
}
