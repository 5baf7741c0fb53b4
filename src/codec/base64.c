/* base64.c - RFC 4648 §4, §5 and §8; one text for each sequence of bytes, so that a decoded key or signature has no second spelling. */
#include "codec/base64.h"

static const char alphabets[2][65] = {
    [BASE64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    [BASE64URL] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

str base64_encode(struct arena *a, enum base64_kind kind, str bytes)
{
    const char *letters = alphabets[kind];
    const u8 *from = (const u8 *)bytes.p;
    if (bytes.n > SIZE_MAX / 4)
        return STR_NONE;
    char *p = arena_alloc(a, (bytes.n + 2) / 3 * 4), *to = p;
    if (p == NULL)
        return STR_NONE;
    for (size_t i = 0; i < bytes.n; i += 3) {
        size_t left = MIN(bytes.n - i, (size_t)3);
        u32 three = (u32)from[i] << 16 | (left > 1 ? (u32)from[i + 1] << 8 : 0) | (left > 2 ? from[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) {
            if (k <= left)
                *to++ = letters[three >> (18 - 6 * k) & 63];
            else if (kind == BASE64)
                *to++ = '=';
        }
    }
    return (str){ p, (size_t)(to - p) };
}

static int letter_value(enum base64_kind kind, char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == alphabets[kind][62] ? 62 : c == alphabets[kind][63] ? 63 : -1;
}

/* Takes the padding off; false when it is not exactly what the length asks for. */
static bool unpad(enum base64_kind kind, str *text)
{
    if (kind == BASE64 && text->n % 4 != 0)
        return false;
    for (int i = 0; kind == BASE64 && i < 2 && text->n > 0 && text->p[text->n - 1] == '='; i++)
        text->n--;
    return text->n % 4 != 1;
}

bool base64_decode_into(enum base64_kind kind, str text, u8 *out, size_t *n)
{
    u8 *to = out;
    u32 bits = 0;
    int count = 0; /* of bits not written yet */
    if (!unpad(kind, &text))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        int value = letter_value(kind, text.p[i]);
        if (value < 0)
            return false;
        bits = (bits << 6 | (u32)value) & 0xFFFF;
        count += 6;
        if (count >= 8) {
            count -= 8;
            *to++ = (u8)(bits >> count);
        }
    }
    if ((bits & ((1u << count) - 1)) != 0) /* stray bits in the last letter */
        return false;
    *n = (size_t)(to - out);
    return true;
}

bool base64_decode(struct arena *a, enum base64_kind kind, str text, str *bytes)
{
    size_t n;
    u8 *p = arena_alloc(a, text.n / 4 * 3 + 3);
    if (p == NULL || !base64_decode_into(kind, text, p, &n))
        return false;
    *bytes = (str){ (const char *)p, n };
    return true;
}

str hex_encode(struct arena *a, str bytes)
{
    static const char letters[] = "0123456789abcdef";
    char *p = arena_array(a, bytes.n, 2);
    if (p == NULL)
        return STR_NONE;
    for (size_t i = 0; i < bytes.n; i++) {
        p[2 * i] = letters[(u8)bytes.p[i] >> 4];
        p[2 * i + 1] = letters[(u8)bytes.p[i] & 15];
    }
    return (str){ p, bytes.n * 2 };
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool hex_decode(struct arena *a, str text, str *bytes)
{
    u8 *p = text.n % 2 == 0 ? arena_alloc(a, text.n / 2) : NULL;
    if (p == NULL)
        return false;
    for (size_t i = 0; i < text.n; i += 2) {
        int high = hex_value(text.p[i]), low = hex_value(text.p[i + 1]);
        if (high < 0 || low < 0)
            return false;
        p[i / 2] = (u8)(high << 4 | low);
    }
    *bytes = (str){ (const char *)p, text.n / 2 };
    return true;
}
