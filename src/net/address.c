/* address.c - blocks of IPv4 and IPv6: who may call a trigger, which proxies are believed. IPv4 is kept in its mapped form, so that a caller on a dual-stack socket
 * (::ffff:192.0.2.1) is the same caller; but ::/0 holds IPv6 callers only, as whoever writes it expects. */
#include "net/address.h"

#include <arpa/inet.h>
#include <string.h>

enum { V4_OFFSET = 96, ADDRESS_CHARS = 64 };

static const u8 mapped[12] = { [10] = 0xff, [11] = 0xff };

static bool address_parse(str text, struct address_block *out, u32 *first_bit)
{
    char z[ADDRESS_CHARS] = "";
    if (text.n >= sizeof z || text.n == 0 || str_find_char(text, 0, 0) >= 0)
        return false;
    memcpy(z, text.p, text.n);
    *first_bit = 0;
    if (inet_pton(AF_INET, z, out->bytes + 12) == 1) {
        memcpy(out->bytes, mapped, sizeof mapped);
        *first_bit = V4_OFFSET;
    } else if (inet_pton(AF_INET6, z, out->bytes) != 1) {
        return false;
    }
    return true;
}

bool address_block_parse(str text, struct address_block *out)
{
    struct address_block block = { 0 };
    str address = STR_NONE;
    u32 first_bit;
    if (!str_cut(&text, '/', &address) || !address_parse(address, &block, &first_bit))
        return false;
    i64 bits = 128 - first_bit;
    if (text.p != NULL && !str_i64(text, 0, bits, &bits))
        return false;
    block.bits = first_bit + (u32)bits;
    block.v4 = block.bits >= V4_OFFSET && memcmp(block.bytes, mapped, sizeof mapped) == 0;
    *out = block;
    return true;
}

bool address_block_has(const struct address_block *block, const struct address_block *address)
{
    u32 whole = block->bits / 8, rest = block->bits % 8;
    if (block->v4 != address->v4 || memcmp(block->bytes, address->bytes, whole) != 0)
        return false;
    return rest == 0 || ((block->bytes[whole] ^ address->bytes[whole]) >> (8 - rest)) == 0;
}

str address_text(const struct address_block *address, char out[ADDRESS_TEXT])
{
    const u8 *bytes = address->v4 ? address->bytes + 12 : address->bytes;
    const char *z = inet_ntop(address->v4 ? AF_INET : AF_INET6, bytes, out, ADDRESS_TEXT);
    return str_of(z);
}
