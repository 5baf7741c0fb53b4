/* small.c - the small decoders, the first byte says which: what decodes is canonical, so encoding it again gives the text that came in. */
#include "fuzz.h"

#include "codec/base64.h"
#include "codec/time.h"
#include "codec/typeid.h"

static void base64(struct arena *a, str text, enum base64_kind kind)
{
    str bytes, again;
    if (base64_decode(a, kind, text, &bytes))
        assert(str_eq(base64_encode(a, kind, bytes), text));
    str encoded = base64_encode(a, kind, text);
    assert(base64_decode(a, kind, encoded, &again) && str_eq(again, text));
}

static void base64_plain(struct arena *a, str text)
{
    base64(a, text, BASE64);
}

static void base64_url(struct arena *a, str text)
{
    base64(a, text, BASE64URL);
}

static void hex(struct arena *a, str text)
{
    str bytes, again;
    if (hex_decode(a, text, &bytes))
        assert(str_eq_nocase(hex_encode(a, bytes), text));
    assert(hex_decode(a, hex_encode(a, text), &again) && str_eq(again, text));
}

static void typeid(struct arena *a, str text)
{
    u8 uuid[16];
    bool valid = typeid_valid(text, NULL);
    assert(valid == typeid_decode(text, NULL, uuid));
    if (!valid) {
        assert(typeid_time_ms(text) == -1);
        return;
    }
    size_t prefix_n = text.n - TYPEID_SUFFIX - 1;
    const char *prefix = str_z(a, str_slice(text, 0, prefix_n));
    assert(text.n > TYPEID_SUFFIX + 1 && typeid_valid(text, prefix));
    assert(str_eq(typeid_encode(a, prefix, uuid), text));
}

/* The text of a time that was read reads as the same time. */
static void rfc3339(struct arena *a, str text)
{
    i64 us, again;
    if (!time_parse(text, &us))
        return;
    assert(time_parse(time_text(a, us), &again) && again == us);
}

static void http_date(struct arena *a, str text)
{
    i64 us, again;
    if (!time_http_parse(text, &us))
        return;
    assert(time_http_parse(time_http(a, us), &again) && again == us);
}

static void number(struct arena *a, str text)
{
    i64 value, again;
    struct buf b = { .arena = a };
    if (!str_i64(text, INT64_MIN, INT64_MAX, &value))
        return;
    buf_i64(&b, value);
    assert(str_i64(buf_view(&b), value, value, &again) && again == value);
}

static void utf8(struct arena *a, str text)
{
    size_t at = 0, n = 1;
    while (at < text.n && (n = str_utf8_at(text, at)) > 0)
        at += n;
    assert(str_utf8(text) == (at == text.n));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static void (*const decoders[])(struct arena *, str) = { base64_plain, base64_url, hex,    typeid,
                                                             rfc3339,      http_date,  number, utf8 };
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    u8 which = fuzz_choice(&data, &size);
    decoders[which % COUNT(decoders)](a, fuzz_text(a, data, size));
    arena_free(a);
    return 0;
}
