/* totp.c - RFC 4226's truncation over HMAC-SHA-1, and the texts around it. SHA-1 is what every authenticator program knows; HMAC does not need it to be free of
 * collisions. */
#include "codec/totp.h"
#include "base/buf.h"
#include "codec/url.h"

#include <openssl/hmac.h>
#include <qrencode.h>

enum { SHA1_BYTES = 20, MODULUS = 1000000, QUIET = 4 /* modules around a QR code */ };

i64 totp_step(i64 now_us)
{
    return now_us / SECOND_US / TOTP_PERIOD_S;
}

void totp_code(str seed, i64 step, char out[TOTP_DIGITS])
{
    u8 counter[8], mac[SHA1_BYTES];
    unsigned n = sizeof mac;
    for (int i = 0; i < 8; i++)
        counter[i] = (u8)((u64)step >> (56 - 8 * i));
    const u8 *made = HMAC(EVP_sha1(), seed.p, (int)seed.n, counter, sizeof counter, mac, &n);
    assert(made != NULL && n == SHA1_BYTES);
    u32 at = mac[SHA1_BYTES - 1] & 15;
    u32 number = ((u32)(mac[at] & 127) << 24 | (u32)mac[at + 1] << 16 | (u32)mac[at + 2] << 8 | mac[at + 3]) % MODULUS;
    for (int i = TOTP_DIGITS - 1; i >= 0; i--, number /= 10)
        out[i] = (char)('0' + number % 10);
}

i64 totp_check(str seed, str code, i64 now_us, i64 last)
{
    char right[TOTP_DIGITS];
    i64 now = totp_step(now_us), found = 0;
    for (i64 step = now - 1; step <= now; step++) { /* both in any case: the time tells nothing */
        totp_code(seed, step, right);
        if (str_eq_secret((str){ right, TOTP_DIGITS }, code) && step > last)
            found = step;
    }
    return found;
}

str base32_encode(struct arena *a, str bytes)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    struct buf b = { .arena = a };
    u32 bits = 0, value = 0;
    for (size_t i = 0; i < bytes.n; i++) {
        value = value << 8 | (u8)bytes.p[i];
        for (bits += 8; bits >= 5; bits -= 5)
            buf_char(&b, alphabet[value >> (bits - 5) & 31]);
    }
    if (bits > 0)
        buf_char(&b, alphabet[value << (5 - bits) & 31]);
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}

str totp_uri(struct arena *a, str issuer, str account, str seed)
{
    struct buf b = { .arena = a };
    str secret = base32_encode(a, seed);
    BUF_LIT(&b, "otpauth://totp/");
    url_put_encoded(&b, issuer);
    buf_char(&b, ':');
    url_put_encoded(&b, account);
    buf_f(&b, "?secret=%.*s&issuer=", STR_FMT(secret));
    url_put_encoded(&b, issuer);
    buf_f(&b, "&algorithm=SHA1&digits=%d&period=%d", TOTP_DIGITS, TOTP_PERIOD_S);
    return b.fail == OK && secret.p != NULL ? buf_view(&b) : STR_NONE;
}

static void put_modules(struct buf *b, const QRcode *qr)
{
    for (int y = 0; y < qr->width; y++)
        for (int x = 0; x < qr->width; x++)
            if (qr->data[y * qr->width + x] & 1)
                buf_f(b, "M%d,%dh1v1h-1z", x + QUIET, y + QUIET);
}

str qr_svg(struct arena *a, str text)
{
    const char *z = str_z(a, text);
    QRcode *qr = z != NULL ? QRcode_encodeString8bit(z, 0, QR_ECLEVEL_M) : NULL;
    struct buf b = { .arena = a };
    if (qr == NULL)
        return STR_NONE;
    int side = qr->width + 2 * QUIET;
    buf_f(&b,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" shape-rendering=\"crispEdges\">"
          "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/><path fill=\"#000\" d=\"",
          side, side, side, side);
    put_modules(&b, qr);
    BUF_LIT(&b, "\"/></svg>");
    QRcode_free(qr);
    return b.fail == OK ? buf_view(&b) : STR_NONE;
}
