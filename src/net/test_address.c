/* test_address.c - blocks of addresses, and what is none. */
#include "net/address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_blocks_hold_their_addresses(void **state)
{
    static const struct {
        const char *block, *address;
        bool holds;
    } rows[] = {
        { "10.0.0.0/8", "10.255.255.255", true },
        { "10.0.0.0/8", "11.0.0.0", false },
        { "192.0.2.128/25", "192.0.2.127", false },
        { "192.0.2.128/25", "192.0.2.128", true },
        { "192.0.2.1", "192.0.2.1", true },
        { "192.0.2.1", "192.0.2.2", false },
        { "192.0.2.1", "::ffff:192.0.2.1", true },
        { "::ffff:192.0.2.0/120", "192.0.2.9", true },
        { "0.0.0.0/0", "203.0.113.9", true },
        { "0.0.0.0/0", "::1", false },
        { "::/0", "2001:db8::1", true },
        { "::/0", "192.0.2.1", false },
        { "2001:db8::/33", "2001:db8:7fff::1", true },
        { "2001:db8::/33", "2001:db8:8000::1", false },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        struct address_block block, address;
        assert_true(address_block_parse(str_of(rows[i].block), &block));
        assert_true(address_block_parse(str_of(rows[i].address), &address));
        if (address_block_has(&block, &address) != rows[i].holds)
            fail_msg("%s in %s", rows[i].address, rows[i].block);
    }
}

static void test_what_is_no_block(void **state)
{
    static const char *const texts[] = { "",          "/8",           "10.0.0.0/33", "10.0.0.0/-1",
                                         "10.0.0.0/", "10.0.0.0/8/8", "10.0.0",      "::1/129",
                                         "::1%1",     "[::1]",        "localhost",   "10.0.0.0 /8",
                                         "0x0a.0.0.0" };
    struct address_block block;
    for (u32 i = 0; i < COUNT(texts); i++)
        if (address_block_parse(str_of(texts[i]), &block))
            fail_msg("%s", texts[i]);
}

static void test_one_spelling(void **state)
{
    static const char *const rows[][2] = {
        { "192.0.2.1", "192.0.2.1" },
        { "::ffff:192.0.2.1", "192.0.2.1" },
        { "2001:DB8:0:0:0:0:0:1", "2001:db8::1" },
        { "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        struct address_block address;
        char text[ADDRESS_TEXT];
        assert_true(address_block_parse(str_of(rows[i][0]), &address));
        assert_true(str_eq(address_text(&address, text), str_of(rows[i][1])));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_hold_their_addresses),
        cmocka_unit_test(test_what_is_no_block),
        cmocka_unit_test(test_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
