/* tls.c - see tls.h: the certificate, and the keys of session tickets.
 *
 * A reload makes a whole new context and swaps it in; OpenSSL counts references, so connections and handshakes under way keep the old one. The
 * ticket keys are ours and not the context's: they outlive a reload, and OpenSSL alone would never replace them. */
#include "net/tls_conn.h"

#include "base/clock.h"
#include "base/rng.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum {
    TICKET_NAME = 16,
    TICKET_IV = 16,
    TICKET_KEY = 32,
    TICKET_KEYS = 3, /* the one that seals, and two that still open */
    TLS_ARENA = 16 << 10,
};
#define TICKET_ROTATE_US HOUR_US
#define TICKET_LIFE_S    7200

struct ticket_key {
    u8 name[TICKET_NAME], cipher[TICKET_KEY], mac[TICKET_KEY];
};

struct tls {
    struct arena *arena;
    const char *cert, *key;
    EVP_CIPHER *cipher;   /* fetched once: a look-up costs more than a ticket */
    pthread_mutex_t lock; /* of all below */
    SSL_CTX *context;
    struct ticket_key keys[TICKET_KEYS];
    i64 rotated_us;
};

/* --- tickets ----------------------------------------------------------------------------------------------------- */

static void rotate(struct tls *t, i64 now_us)
{
    memmove(&t->keys[1], &t->keys[0], sizeof t->keys - sizeof t->keys[0]);
    rng_bytes(&t->keys[0], sizeof t->keys[0]);
    t->rotated_us = now_us;
}

bool tls_rotate(struct tls *t, i64 now_us)
{
    pthread_mutex_lock(&t->lock);
    bool due = now_us - t->rotated_us >= TICKET_ROTATE_US;
    if (due)
        rotate(t, now_us);
    pthread_mutex_unlock(&t->lock);
    return due;
}

/* Index of the key with that name, and a copy of it; -1: none. */
static int key_of(struct tls *t, const u8 *name, struct ticket_key *out)
{
    int found = -1;
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < TICKET_KEYS && found < 0; i++)
        if (memcmp(t->keys[i].name, name, TICKET_NAME) == 0)
            found = i;
    if (found >= 0)
        *out = t->keys[found];
    pthread_mutex_unlock(&t->lock);
    return found;
}

static bool mac_by(EVP_MAC_CTX *mac, struct ticket_key *k)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->mac, sizeof k->mac),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)(uintptr_t) "SHA256", 0),
        OSSL_PARAM_construct_end(),
    };
    return EVP_MAC_CTX_set_params(mac, params) == 1;
}

static int ticket_seal(struct tls *t, u8 *name, u8 *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    struct ticket_key k;
    (void)tls_rotate(t, clock_mono_us());
    pthread_mutex_lock(&t->lock);
    k = t->keys[0];
    pthread_mutex_unlock(&t->lock);
    memcpy(name, k.name, TICKET_NAME);
    rng_bytes(iv, TICKET_IV);
    bool fine = EVP_EncryptInit_ex2(cipher, t->cipher, k.cipher, iv, NULL) == 1 && mac_by(mac, &k);
    explicit_bzero(&k, sizeof k);
    return fine ? 1 : -1;
}

/* 0: a full handshake; 1: resumed; 2: resumed, and a new ticket. */
static int ticket_open(struct tls *t, const u8 *name, const u8 *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    struct ticket_key k;
    (void)tls_rotate(t, clock_mono_us());
    int found = key_of(t, name, &k);
    if (found < 0)
        return 0;
    bool fine = mac_by(mac, &k) && EVP_DecryptInit_ex2(cipher, t->cipher, k.cipher, iv, NULL) == 1;
    explicit_bzero(&k, sizeof k);
    return !fine ? -1 : found == 0 ? 1 : 2;
}

static int on_ticket(SSL *ssl, u8 *name, u8 *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal)
{
    struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    return seal ? ticket_seal(t, name, iv, cipher, mac) : ticket_open(t, name, iv, cipher, mac);
}

/* --- the context ------------------------------------------------------------------------------------------------- */

/* h2 when the client knows it. A client that offers neither is told so (RFC 7301 3.2); one that offers nothing gets HTTP/1.1. */
static int on_alpn(SSL *ssl, const u8 **out, u8 *out_n, const u8 *offered, unsigned offered_n, void *arg)
{
    static const u8 ours[] = "\2h2\10http/1.1";
    u8 *chosen;
    int r = SSL_select_next_proto(&chosen, out_n, ours, sizeof ours - 1, offered, offered_n);
    *out = chosen;
    return r == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Without it OpenSSL would ask at the terminal. */
static int no_passphrase(char *to, int room, int writes, void *arg)
{
    return 0;
}

static bool configure(SSL_CTX *x, struct tls *t)
{
    static const char suites[] =
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
        "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
    SSL_CTX_set_app_data(x, t);
    SSL_CTX_set_options(x, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(x, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(x, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_timeout(x, TICKET_LIFE_S);
    SSL_CTX_set_alpn_select_cb(x, on_alpn, NULL);
    SSL_CTX_set_default_passwd_cb(x, no_passphrase);
    return SSL_CTX_set_min_proto_version(x, TLS1_2_VERSION) == 1 && SSL_CTX_set_cipher_list(x, suites) == 1 &&
           SSL_CTX_set1_groups_list(x, "X25519:P-256:P-384") == 1 && SSL_CTX_set_num_tickets(x, 1) == 1 &&
           SSL_CTX_set_session_id_context(x, (const u8 *)"weir", 4) == 1 &&
           SSL_CTX_set_tlsext_ticket_key_evp_cb(x, on_ticket) == 1;
}

/* The names are those of the settings: whoever reads this has set them. */
static err complain(struct buf *b, const char *setting, const char *path)
{
    unsigned long code = ERR_peek_error();
    const char *why = ERR_reason_error_string(code);
    if (access(path, R_OK) != 0)
        why = strerror(errno);
    buf_f(b, "%s: %s: %s\n", setting, path, why != NULL ? why : "holds none in PEM form");
    ERR_clear_error();
    return ERR_INVALID;
}

static err load(SSL_CTX *x, const struct tls *t, struct buf *complaint)
{
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(x, t->cert) != 1)
        return complain(complaint, "WEIR_TLS_CERT", t->cert);
    /* Compares the two as well, but says so in words of its own. */
    if (SSL_CTX_use_PrivateKey_file(x, t->key, SSL_FILETYPE_PEM) == 1 && SSL_CTX_check_private_key(x) == 1)
        return OK;
    int reason = ERR_GET_REASON(ERR_peek_error());
    if (reason != X509_R_KEY_VALUES_MISMATCH && reason != X509_R_KEY_TYPE_MISMATCH)
        return complain(complaint, "WEIR_TLS_KEY", t->key);
    buf_f(complaint, "WEIR_TLS_KEY: %s: is not the key of the certificate %s\n", t->key, t->cert);
    ERR_clear_error();
    return ERR_INVALID;
}

static err context_new(struct tls *t, struct buf *complaint, SSL_CTX **out)
{
    SSL_CTX *x = SSL_CTX_new(TLS_server_method());
    err e = x != NULL && configure(x, t) ? load(x, t, complaint) : ERR_MEMORY;
    if (e == OK)
        *out = x;
    else
        SSL_CTX_free(x);
    return e;
}

err tls_new(const char *cert, const char *key, struct buf *complaint, struct tls **out)
{
    struct arena *a = arena_new(TLS_ARENA);
    struct tls *t = a != NULL ? NEW(a, struct tls) : NULL;
    if (t == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    t->arena = a;
    t->cert = str_z(a, str_of(cert));
    t->key = str_z(a, str_of(key));
    t->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    pthread_mutex_init(&t->lock, NULL);
    for (int i = 0; i < TICKET_KEYS; i++)
        rotate(t, clock_mono_us());
    bool memory = t->cert != NULL && t->key != NULL && t->cipher != NULL;
    err e = memory ? context_new(t, complaint, &t->context) : ERR_MEMORY;
    if (e == OK)
        *out = t;
    else
        tls_free(t);
    return e;
}

err tls_reload(struct tls *t, struct buf *complaint)
{
    SSL_CTX *made, *before;
    TRY(context_new(t, complaint, &made));
    pthread_mutex_lock(&t->lock);
    before = t->context;
    t->context = made;
    pthread_mutex_unlock(&t->lock);
    SSL_CTX_free(before);
    return OK;
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    SSL_CTX_free(t->context);
    EVP_CIPHER_free(t->cipher);
    pthread_mutex_destroy(&t->lock);
    explicit_bzero(t->keys, sizeof t->keys);
    arena_free(t->arena);
}

struct ssl_st *tls_ssl(struct tls *t)
{
    pthread_mutex_lock(&t->lock);
    SSL *ssl = SSL_new(t->context);
    pthread_mutex_unlock(&t->lock);
    return ssl;
}

i64 tls_expires_us(struct tls *t)
{
    struct tm end = { 0 };
    pthread_mutex_lock(&t->lock);
    bool known = ASN1_TIME_to_tm(X509_get0_notAfter(SSL_CTX_get0_certificate(t->context)), &end) == 1;
    pthread_mutex_unlock(&t->lock);
    return known ? (i64)timegm(&end) * SECOND_US : 0;
}
