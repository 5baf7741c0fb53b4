/* url.c - the parts of a URL by RFC 3986, for what we are asked to call and for what we are asked with.
 *
 * Backslashes, blanks, control and non-ASCII bytes are refused, not repaired: two parsers that repair differently are how requests
 * reach hosts they should not. */
#include "codec/url.h"

#include <string.h>

enum { FORM_PAIRS_MAX = 1000, HOST_MAX = 253, PORT_DIGITS = 5 };

/* What a byte may be part of. */
enum { UNRESERVED = 1, HOST = 2, USERINFO = 4, PATH = 8, QUERY = 16 };
#define EVERYWHERE (UNRESERVED | HOST | USERINFO | PATH | QUERY)
#define DELIMITER  (USERINFO | PATH | QUERY)
static const u8 classes[256] = {
    ['a' ... 'z'] = EVERYWHERE, ['A' ... 'Z'] = EVERYWHERE,
    ['0' ... '9'] = EVERYWHERE, ['-'] = EVERYWHERE,
    ['.'] = EVERYWHERE,         ['_'] = EVERYWHERE,
    ['~'] = EVERYWHERE & ~HOST, ['!'] = DELIMITER,
    ['$'] = DELIMITER,          ['&'] = DELIMITER,
    ['\''] = DELIMITER,         ['('] = DELIMITER,
    [')'] = DELIMITER,          ['*'] = DELIMITER,
    ['+'] = DELIMITER,          [','] = DELIMITER,
    [';'] = DELIMITER,          ['='] = DELIMITER,
    [':'] = DELIMITER,          ['@'] = PATH | QUERY,
    ['/'] = PATH | QUERY,       ['?'] = QUERY,
    ['%'] = DELIMITER,
};

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    int low = c | 0x20;
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* All bytes of the class, escapes complete. */
static bool made_of(str s, u8 class)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((classes[(u8)s.p[i]] & class) == 0)
            return false;
        if (s.p[i] == '%' && (i + 2 >= s.n || hex_value(s.p[i + 1]) < 0 || hex_value(s.p[i + 2]) < 0))
            return false;
    }
    return true;
}

/* Cuts *rest at the first of the set; what follows (with its delimiter) stays in *rest. */
static str until_any(str *rest, const char *set)
{
    size_t n = 0;
    while (n < rest->n && (rest->p[n] == 0 || strchr(set, rest->p[n]) == NULL))
        n++;
    str part = str_slice(*rest, 0, n);
    *rest = str_slice(*rest, n, rest->n);
    return part;
}

/* Eight groups of up to four hex digits, one "::" for a run of zeros, perhaps a dotted end; the socket layer has the last word. */
static bool ipv6_shape(str s)
{
    int colons = 0, digits = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        colons += c == ':';
        digits = c == ':' || c == '.' ? 0 : digits + 1;
        if (digits > 4 || (c != ':' && c != '.' && hex_value(c) < 0))
            return false;
    }
    return colons >= 2 && colons <= 8;
}

static bool split_host(str authority, str *host, str *port, bool *ipv6)
{
    *ipv6 = authority.n > 0 && authority.p[0] == '[';
    i64 end = *ipv6 ? str_find_char(authority, ']', 0) : str_find_char(authority, ':', 0);
    if (*ipv6 && end < 0)
        return false;
    size_t host_end = end < 0 ? authority.n : (size_t)end;
    *host = str_slice(authority, *ipv6, host_end);
    str after = str_slice(authority, host_end + *ipv6, authority.n);
    *port = after.n > 0 ? str_slice(after, 1, after.n) : STR_NONE;
    if (after.n > 0 && after.p[0] != ':')
        return false;
    return *ipv6 ? ipv6_shape(*host) : host->n > 0 && host->n <= HOST_MAX && made_of(*host, HOST);
}

static bool parse_authority(str authority, struct url *out)
{
    str port;
    i64 at = str_find_char(authority, '@', 0), number;
    if (at >= 0) {
        out->userinfo = str_slice(authority, 0, (size_t)at);
        authority = str_slice(authority, (size_t)at + 1, authority.n);
    }
    if (!made_of(out->userinfo, USERINFO) || !split_host(authority, &out->host, &port, &out->host_is_ipv6))
        return false;
    if (port.p == NULL || port.n == 0) /* "host:" is legal and means the scheme's own */
        return true;
    if (port.n > PORT_DIGITS || !str_i64(port, 1, UINT16_MAX, &number))
        return false;
    out->port = (u16)number;
    return true;
}

static bool parse_scheme(str *rest, struct url *out)
{
    static const struct {
        str text, scheme;
        u16 port;
    } schemes[] = { { S_INIT("http://"), S_INIT("http"), 80 }, { S_INIT("https://"), S_INIT("https"), 443 } };
    for (size_t i = 0; i < COUNT(schemes); i++)
        if (str_eq_nocase(str_slice(*rest, 0, schemes[i].text.n), schemes[i].text)) {
            out->scheme = schemes[i].scheme;
            out->port = schemes[i].port;
            *rest = str_slice(*rest, schemes[i].text.n, rest->n);
            return true;
        }
    return false;
}

err url_parse(struct arena *a, str text, struct url *out)
{
    struct url u = { 0 };
    if (!parse_scheme(&text, &u) || !parse_authority(until_any(&text, "/?#"), &u))
        return ERR_INVALID;
    u.path = until_any(&text, "?#");
    if (text.n > 0 && text.p[0] == '?') {
        str query = until_any(&text, "#");
        u.query = str_slice(query, 1, query.n);
    }
    if (text.n > 0)
        u.fragment = str_slice(text, 1, text.n);
    if (!made_of(u.path, PATH) || !made_of(u.query, QUERY) || !made_of(u.fragment, QUERY))
        return ERR_INVALID;
    if (u.path.n == 0)
        u.path = S("/");
    u.host = str_lower(a, u.host);
    if (u.host.p == NULL)
        return ERR_MEMORY;
    *out = u;
    return OK;
}

static err decode(struct arena *a, str text, bool form, str *out)
{
    if (text.n == 0 || (memchr(text.p, '%', text.n) == NULL && !(form && memchr(text.p, '+', text.n) != NULL))) {
        if (!str_utf8(text) || str_find_char(text, 0, 0) >= 0)
            return ERR_DECODE;
        *out = text.p != NULL ? text : S("");
        return OK;
    }
    char *p = arena_alloc(a, text.n), *to = p;
    if (p == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c == '%') {
            int high = i + 2 < text.n ? hex_value(text.p[i + 1]) : -1, low = high >= 0 ? hex_value(text.p[i + 2]) : -1;
            if (low < 0)
                return ERR_DECODE;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && form) {
            c = ' ';
        }
        if (c == 0)
            return ERR_DECODE;
        *to++ = c;
    }
    str whole = { p, (size_t)(to - p) };
    if (!str_utf8(whole))
        return ERR_DECODE;
    *out = whole;
    return OK;
}

err url_decode(struct arena *a, str text, str *out)
{
    return decode(a, text, false, out);
}

/* What the escape at i stands for, if it is one that need not have been; else -1. */
static int plain_at(str text, size_t i)
{
    if (text.p[i] != '%' || i + 2 >= text.n)
        return -1;
    int high = hex_value(text.p[i + 1]), low = hex_value(text.p[i + 2]);
    int byte = high < 0 || low < 0 ? -1 : high << 4 | low;
    return byte >= 0 && (classes[byte] & UNRESERVED) != 0 ? byte : -1;
}

err url_plain(struct arena *a, str text, str *out)
{
    struct buf b = { .arena = a };
    if (str_find_char(text, '%', 0) < 0) {
        *out = text;
        return OK;
    }
    for (size_t i = 0; i < text.n; i++) {
        int byte = plain_at(text, i);
        buf_char(&b, byte >= 0 ? (char)byte : text.p[i]);
        i += byte >= 0 ? 2 : 0;
    }
    if (b.fail == OK)
        *out = buf_view(&b);
    return b.fail;
}

static size_t count_pairs(str text)
{
    size_t n = 0;
    for (str part; str_cut(&text, '&', &part);)
        n += part.n > 0;
    return n;
}

err url_form(struct arena *a, str text, struct pair **pairs, size_t *count)
{
    size_t most = count_pairs(text), n = 0;
    if (most > FORM_PAIRS_MAX)
        return ERR_TOO_LARGE;
    struct pair *list = NEW_N(a, struct pair, most);
    if (list == NULL)
        return ERR_MEMORY;
    for (str part, name; str_cut(&text, '&', &part);) {
        if (part.n == 0)
            continue;
        str value = part;
        (void)str_cut(&value, '=', &name); /* without '=' the rest is STR_NONE, read as "" */
        TRY(decode(a, name, true, &list[n].name));
        TRY(decode(a, value, true, &list[n].value));
        n++;
    }
    *pairs = list;
    *count = n;
    return OK;
}

void url_put_encoded(struct buf *b, str text)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < text.n; i++) {
        u8 c = (u8)text.p[i];
        if ((classes[c] & UNRESERVED) != 0)
            buf_char(b, (char)c);
        else
            buf_put(b, (char[]){ '%', hex[c >> 4], hex[c & 15] }, 3);
    }
}
