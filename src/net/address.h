/* address.h - blocks of addresses, and addresses in them. Pure. */
#pragma once

#include "base/str.h"

enum { ADDRESS_TEXT = 46 }; /* of any address, with its NUL */

struct address_block {
    u8 bytes[16]; /* IPv4 as its mapped form */
    u32 bits;     /* of the 128 */
    bool v4;
};
/* "10.0.0.0/8", "2001:db8::/32", "192.0.2.1". */
bool address_block_parse(str text, struct address_block *out);
bool address_block_has(const struct address_block *block, const struct address_block *address);
/* The one spelling of an address: 192.0.2.1 also for ::ffff:192.0.2.1. */
str address_text(const struct address_block *address, char out[ADDRESS_TEXT]);
