/* forwarded.c - see forwarded.h. Anybody may send such a header, and each proxy adds to the right of what it was sent: so it is read from the right, as long as
 * those who wrote are trusted, and the first address that is not is the client's.
 *
 * One form is read and never the other: a proxy that writes X-Forwarded-For hands a Forwarded on as the client made it up, and the other way round. */
#include "core/forwarded.h"
#include "net/address.h"

#include <string.h>

/* Written by forwarded_build before the threads start, constant afterwards. */
static struct {
    struct address_block list[PROXIES_MAX];
    u32 n;
    bool standard; /* Forwarded (RFC 7239) in place of X-Forwarded-* */
} proxies;

/* What one proxy says about whoever spoke to it. */
struct hop {
    str from, proto, host;
};

/* -- settings ------------------------------------------------------------------------------------------------------ */

static bool parse_list(str list, struct address_block *out, u32 *n, str *bad)
{
    *n = 0;
    for (str one; str_cut(&list, ',', &one);) {
        one = str_trim(one);
        *bad = one;
        if (one.n > 0 && (*n == PROXIES_MAX || !address_block_parse(one, &out[(*n)++])))
            return false;
    }
    return true;
}

bool forwarded_list_valid(str list, str *bad)
{
    struct address_block blocks[PROXIES_MAX];
    u32 n;
    return parse_list(list, blocks, &n, bad);
}

err forwarded_build(const struct config *config)
{
    str bad;
    proxies.standard = str_eq(config->proxy_header, S("forwarded"));
    return parse_list(config->trusted_proxies, proxies.list, &proxies.n, &bad) ? OK : ERR_INVALID;
}

/* -- one request --------------------------------------------------------------------------------------------------- */

static bool trusted(const struct address_block *address)
{
    for (u32 i = 0; i < proxies.n; i++)
        if (address_block_has(&proxies.list[i], address))
            return true;
    return false;
}

/* "192.0.2.1", "192.0.2.1:4711", "2001:db8::1", "[2001:db8::1]:4711". "unknown" and names that hide are none. */
static bool address_of(str text, struct address_block *out)
{
    i64 colon = str_find_char(text, ':', 0), end = str_find_char(text, ']', 0);
    if (text.n > 0 && text.p[0] == '[')
        text = end > 0 ? str_slice(text, 1, (size_t)end) : STR_NONE;
    else if (colon >= 0 && str_find_char(text, ':', (size_t)colon + 1) < 0)
        text = str_slice(text, 0, (size_t)colon);
    return str_find_char(text, '/', 0) < 0 && address_block_parse(text, out);
}

/* The text behind the last comma, taken off; false when nothing is left. */
static bool cut_last(str *rest, str *part)
{
    if (rest->p == NULL)
        return false;
    size_t at = rest->n;
    while (at > 0 && rest->p[at - 1] != ',')
        at--;
    *part = str_trim(str_slice(*rest, at, rest->n));
    *rest = at > 0 ? str_slice(*rest, 0, at - 1) : STR_NONE;
    return true;
}

static str unquoted(str s)
{
    bool quoted = s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"';
    return quoted ? str_slice(s, 1, s.n - 1) : s;
}

/* for=192.0.2.1;proto=https;host="app.example.com". A comma in quotes is not looked for: no address or host has one. */
static struct hop hop_of(str element)
{
    struct hop hop = { 0 };
    if (!proxies.standard)
        return (struct hop){ .from = element };
    for (str part; str_cut(&element, ';', &part);) {
        i64 equals = str_find_char(part, '=', 0);
        str name = str_trim(str_slice(part, 0, (size_t)MAX(equals, (i64)0)));
        str value = unquoted(str_trim(str_slice(part, (size_t)(equals + 1), part.n)));
        if (str_eq_nocase(name, S("for")))
            hop.from = value;
        else if (str_eq_nocase(name, S("proto")))
            hop.proto = value;
        else if (str_eq_nocase(name, S("host")))
            hop.host = value;
    }
    return hop;
}

/* All values of a header in one, as it may come in several lines. */
static err joined(const struct http_request *http, str name, str *out)
{
    struct buf b = { .arena = http->arena };
    u32 n = http_header_count(http, name);
    *out = n <= 1 ? http_header(http, name) : STR_NONE;
    for (u32 i = 0; n > 1 && i < http->header_count; i++)
        if (str_eq(http->headers[i].name, name)) {
            buf_str(&b, b.n > 0 ? S(",") : S(""));
            buf_str(&b, http->headers[i].value);
        }
    if (n > 1)
        *out = buf_view(&b);
    return b.fail;
}

/* From the right to the first address that nobody vouches for. What cannot be read ends the walk: whoever wrote it is then the nearest that is known. */
static void walk(str list, struct address_block *client, struct hop *seen)
{
    str element;
    for (u32 i = 0; i < HOPS_MAX && trusted(client) && cut_last(&list, &element); i++) {
        struct hop hop = hop_of(element);
        struct address_block from;
        if (!address_of(hop.from, &from))
            return;
        *client = from;
        *seen = hop;
    }
}

static err last_of(const struct http_request *http, str name, str *out)
{
    str list;
    TRY(joined(http, name, &list));
    if (!cut_last(&list, out))
        *out = STR_NONE;
    return OK;
}

static void take(struct http_request *http, const struct hop *hop)
{
    if (str_eq_nocase(hop->proto, S("https")) || str_eq_nocase(hop->proto, S("wss")))
        http->tls = true;
    else if (hop->proto.n > 0)
        http->tls = false;
    for (u32 i = 0; i < http->header_count && http_host_ok(hop->host); i++)
        if (str_eq(http->headers[i].name, S("host")))
            http->headers[i].value = hop->host;
}

err forwarded_apply(struct http_request *http)
{
    struct address_block client;
    struct hop seen = { 0 };
    char text[ADDRESS_TEXT];
    str list;
    if (proxies.n == 0 || !address_block_parse(http->remote, &client) || !trusted(&client))
        return OK;
    TRY(joined(http, proxies.standard ? S("forwarded") : S("x-forwarded-for"), &list));
    walk(list, &client, &seen);
    if (!proxies.standard) {
        TRY(last_of(http, S("x-forwarded-proto"), &seen.proto));
        TRY(last_of(http, S("x-forwarded-host"), &seen.host));
    }
    str remote = str_dup(http->arena, address_text(&client, text));
    if (remote.p == NULL)
        return ERR_MEMORY;
    http->remote = remote;
    take(http, &seen);
    return OK;
}
