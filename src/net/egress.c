/* egress.c - see egress.h.
 *
 * IPv6 is closed by default: only 2000::/3 is global unicast, so the table lists what is *not* public inside it. Every form
 * that carries an IPv4 address is first reduced to that address (mapped, NAT64) or refused whole (6to4, Teredo, compatible). */
#include "net/egress.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

enum { ALLOW_MAX = 256, HOST_MAX = 253, LITERAL_MAX = 64 };

struct block {
    u8 bytes[16];
    u8 bits;
};

/* IANA IPv4 special-purpose registry; 192.0.0.0/24 and 192.88.99.0/24 whole, for nothing of ours lives there. */
static const struct block private_v4[] = {
    { { 0 }, 8 },             /* this network */
    { { 10 }, 8 },            /* private */
    { { 100, 64 }, 10 },      /* CGNAT */
    { { 127 }, 8 },           /* loopback */
    { { 169, 254 }, 16 },     /* link-local, cloud metadata */
    { { 172, 16 }, 12 },      /* private */
    { { 192, 0, 0 }, 24 },    /* IETF protocol assignments */
    { { 192, 0, 2 }, 24 },    /* documentation */
    { { 192, 88, 99 }, 24 },  /* 6to4 relays */
    { { 192, 168 }, 16 },     /* private */
    { { 198, 18 }, 15 },      /* benchmarking */
    { { 198, 51, 100 }, 24 }, /* documentation */
    { { 203, 0, 113 }, 24 },  /* documentation */
    { { 224 }, 4 },           /* multicast */
    { { 240 }, 4 },           /* reserved, broadcast */
};

static const struct block global_v6 = { { 0x20 }, 3 };
static const struct block private_v6[] = {
    { { 0x20, 0x01 }, 23 },             /* IETF protocol assignments: Teredo, ORCHID, benchmarking */
    { { 0x20, 0x01, 0x0d, 0xb8 }, 32 }, /* documentation */
    { { 0x20, 0x02 }, 16 },             /* 6to4: retired, and reaches any IPv4 address */
    { { 0x3f, 0xff }, 20 },             /* documentation */
};
static const struct block mapped = { { [10] = 0xff, [11] = 0xff }, 96 };
static const struct block nat64 = { { 0x00, 0x64, 0xff, 0x9b }, 96 };

struct allowed {
    str host; /* p == NULL: by address */
    struct block block;
    u8 length; /* of the address: 4 or 16 */
    u16 port;  /* 0 = any */
};
struct egress {
    struct allowed *list;
    u32 count;
};

struct ip {
    u8 bytes[16];
    u8 length;
    u16 port;
};

static bool in_block(const u8 *bytes, const struct block *b)
{
    u32 whole = b->bits / 8, rest = b->bits % 8;
    if (memcmp(bytes, b->bytes, whole) != 0)
        return false;
    u8 mask = (u8)(0xff00 >> rest);
    return rest == 0 || (bytes[whole] & mask) == (b->bytes[whole] & mask);
}

static bool in_any(const u8 *bytes, const struct block *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (in_block(bytes, &list[i]))
            return true;
    return false;
}

/* IPv4-mapped addresses become the IPv4 address the kernel will connect to. */
static bool ip_of(const struct sockaddr *address, struct ip *out)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof v4);
        *out = (struct ip){ .length = 4, .port = ntohs(v4.sin_port) };
        memcpy(out->bytes, &v4.sin_addr, 4);
        return true;
    }
    if (address->sa_family != AF_INET6)
        return false;
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof v6);
    const u8 *bytes = v6.sin6_addr.s6_addr;
    u8 length = in_block(bytes, &mapped) ? 4 : 16;
    *out = (struct ip){ .length = length, .port = ntohs(v6.sin6_port) };
    memcpy(out->bytes, bytes + 16 - length, length);
    return true;
}

/* ISATAP puts an IPv4 address behind 00-00-5e-fe or 02-00-5e-fe in any prefix. */
static bool isatap(const u8 *bytes)
{
    return (bytes[8] & ~2) == 0 && bytes[9] == 0 && bytes[10] == 0x5e && bytes[11] == 0xfe;
}

static bool public_v4(const u8 *bytes)
{
    return !in_any(bytes, private_v4, COUNT(private_v4));
}

static bool public_v6(const u8 *bytes)
{
    /* Behind DNS64 every IPv4 site has this form, so it is judged by the address inside. */
    if (in_block(bytes, &nat64))
        return public_v4(bytes + 12);
    if (!in_block(bytes, &global_v6) || in_any(bytes, private_v6, COUNT(private_v6)))
        return false;
    return !isatap(bytes) || public_v4(bytes + 12);
}

bool egress_public(const struct sockaddr *address)
{
    struct ip ip;
    if (!ip_of(address, &ip))
        return false;
    return ip.length == 4 ? public_v4(ip.bytes) : public_v6(ip.bytes);
}

static bool allowed_matches(const struct allowed *a, const struct ip *ip, str host, u16 port)
{
    if (a->port != 0 && a->port != ip->port)
        return false;
    if (a->host.p != NULL) /* both ports: the URL's own, and the one the socket really goes to */
        return a->port == port && str_eq_nocase(a->host, host);
    return a->length == ip->length && in_block(ip->bytes, &a->block);
}

bool egress_allows(const struct egress *e, const struct sockaddr *address, str host, u16 port)
{
    if (egress_public(address))
        return true;
    struct ip ip;
    if (!ip_of(address, &ip))
        return false;
    for (u32 i = 0; i < e->count; i++)
        if (allowed_matches(&e->list[i], &ip, host, port))
            return true;
    return false;
}

/* --- the allow list ---------------------------------------------------------------------------------------------- */

static bool parse_address(str text, struct allowed *out)
{
    char z[LITERAL_MAX];
    if (text.n == 0 || text.n >= sizeof z)
        return false;
    memcpy(z, text.p, text.n);
    z[text.n] = '\0';
    out->length = memchr(text.p, ':', text.n) != NULL ? 16 : 4;
    return inet_pton(out->length == 4 ? AF_INET : AF_INET6, z, out->block.bytes) == 1;
}

static bool parse_host(str text)
{
    if (text.n == 0 || text.n > HOST_MAX)
        return false;
    bool letter = false;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i], low = (char)(c | 0x20);
        bool is_letter = low >= 'a' && low <= 'z';
        letter |= is_letter;
        if (!is_letter && !(c >= '0' && c <= '9') && c != '-' && c != '.' && c != '_')
            return false;
    }
    return letter; /* "10.0.0.300" is a mistyped address, not a name */
}

static bool parse_port(str text, u16 *port)
{
    i64 value;
    if (!str_i64(text, 1, 65535, &value))
        return false;
    *port = (u16)value;
    return true;
}

/* "[v6]" or "[v6]:port" */
static bool parse_bracketed(str text, struct allowed *out)
{
    i64 end = str_find_char(text, ']', 1);
    if (end < 0 || !parse_address(str_slice(text, 1, (size_t)end), out) || out->length != 16)
        return false;
    out->block.bits = 128;
    str rest = str_slice(text, (size_t)end + 1, text.n);
    return rest.n == 0 || (rest.p[0] == ':' && parse_port(str_slice(rest, 1, rest.n), &out->port));
}

static bool parse_cidr(str text, size_t slash, struct allowed *out)
{
    i64 bits;
    if (!parse_address(str_slice(text, 0, slash), out))
        return false;
    if (!str_i64(str_slice(text, slash + 1, text.n), 0, out->length * 8, &bits))
        return false;
    out->block.bits = (u8)bits;
    return true;
}

static bool parse_entry(str text, struct allowed *out)
{
    *out = (struct allowed){ 0 };
    i64 slash = str_find_char(text, '/', 0), colon = str_find_char(text, ':', 0);
    if (text.n > 0 && text.p[0] == '[')
        return parse_bracketed(text, out);
    if (slash >= 0)
        return parse_cidr(text, (size_t)slash, out);
    if (parse_address(text, out)) {
        out->block.bits = (u8)(out->length * 8);
        return true;
    }
    if (colon < 0 || !parse_port(str_slice(text, (size_t)colon + 1, text.n), &out->port))
        return false;
    str host = str_slice(text, 0, (size_t)colon);
    out->block.bits = 32;
    if (parse_address(host, out))
        return true;
    out->host = host;
    return parse_host(host);
}

/* An entry written as ::ffff:10.0.0.1 means the IPv4 address: that is what it is compared with. */
static void unmap(struct allowed *entry)
{
    if (entry->length != 16 || entry->block.bits < 96 || !in_block(entry->block.bytes, &mapped))
        return;
    memmove(entry->block.bytes, entry->block.bytes + 12, 4);
    entry->block.bits -= 96;
    entry->length = 4;
}

static err parse_list(struct arena *a, str allow, struct egress *e, str *bad)
{
    str part;
    while (str_cut(&allow, ',', &part)) {
        str text = str_trim(part);
        if (text.n == 0)
            continue;
        struct allowed *entry = &e->list[e->count];
        if (e->count == ALLOW_MAX || !parse_entry(text, entry)) {
            *bad = text;
            return ERR_INVALID;
        }
        unmap(entry);
        if (entry->host.p != NULL && (entry->host = str_dup(a, entry->host)).p == NULL)
            return ERR_MEMORY;
        e->count++;
    }
    return OK;
}

err egress_new(struct arena *a, str allow, const struct egress **out, str *bad)
{
    struct egress *e = NEW(a, struct egress);
    if (e == NULL || (e->list = NEW_N(a, struct allowed, ALLOW_MAX + 1)) == NULL)
        return ERR_MEMORY;
    TRY(parse_list(a, allow, e, bad));
    *out = e;
    return OK;
}
