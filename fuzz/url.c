/* url.c - URLs, percent-encoding, forms and the egress list, the first byte says which. */
#include "fuzz.h"

#include "codec/url.h"
#include "net/egress.h"

static bool bad_in_url(u8 c)
{
    return c <= ' ' || c == 0x7f;
}

/* No part of a URL that was taken apart holds what would change a request that is put together from it. */
static void address(struct arena *a, str text)
{
    struct url u = { 0 };
    if (url_parse(a, text, &u) != OK)
        return;
    assert(str_eq(u.scheme, S("http")) || str_eq(u.scheme, S("https")));
    assert(u.host.n > 0 && u.port > 0 && u.path.n > 0 && u.path.p[0] == '/');
    str parts[] = { u.scheme, u.userinfo, u.host, u.path, u.query, u.fragment };
    for (size_t i = 0; i < COUNT(parts); i++)
        for (size_t k = 0; k < parts[i].n; k++)
            assert(!bad_in_url((u8)parts[i].p[k]));
    for (size_t k = 0; k < u.host.n; k++)
        assert(memchr("/?#@\\", u.host.p[k], 5) == NULL && !(u.host.p[k] >= 'A' && u.host.p[k] <= 'Z'));
}

static void percent(struct arena *a, str text)
{
    str decoded, again;
    if (url_decode(a, text, &decoded) != OK)
        return;
    struct buf b = { .arena = a };
    assert(str_utf8(decoded) && (decoded.n == 0 || memchr(decoded.p, 0, decoded.n) == NULL));
    url_put_encoded(&b, decoded);
    assert(url_decode(a, buf_view(&b), &again) == OK && str_eq(again, decoded));
}

static void form(struct arena *a, str text)
{
    struct pair *pairs, *again;
    size_t n, m;
    struct buf b = { .arena = a };
    if (url_form(a, text, &pairs, &n) != OK)
        return;
    for (size_t i = 0; i < n; i++) {
        buf_str(&b, i > 0 ? S("&") : S(""));
        url_put_encoded(&b, pairs[i].name);
        buf_char(&b, '=');
        url_put_encoded(&b, pairs[i].value);
    }
    assert(n <= 1000 && url_form(a, buf_view(&b), &again, &m) == OK && m == n);
    for (size_t i = 0; i < n; i++)
        assert(str_eq(pairs[i].name, again[i].name) && str_eq(pairs[i].value, again[i].value));
}

static void egress(struct arena *a, str text)
{
    const struct egress *e;
    str bad = STR_NONE;
    err result = egress_new(a, text, &e, &bad);
    assert(result == OK || (result == ERR_INVALID && bad.p >= text.p && bad.p + bad.n <= text.p + text.n));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static void (*const ways[])(struct arena *, str) = { address, percent, form, egress };
    struct arena *a = arena_new(FUZZ_ARENA);
    assert(a != NULL);
    u8 which = fuzz_choice(&data, &size);
    ways[which % COUNT(ways)](a, fuzz_text(a, data, size));
    arena_free(a);
    return 0;
}
