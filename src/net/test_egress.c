/* test_egress.c - every range at its edges, every form that carries an IPv4 address, every shape of an allow entry. */
#include "net/egress.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct sockaddr_storage address_at(const char *text, u16 port)
{
    struct sockaddr_storage s = { 0 };
    struct sockaddr_in *v4 = (struct sockaddr_in *)&s;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&s;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return s;
    }
    memset(&s, 0, sizeof s);
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        fail_msg("bad address in the table: %s", text);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return s;
}

/* Each range of the registries by its first and last address, and their neighbours. */
static const struct {
    const char *address;
    bool public;
} addresses[] = {
    { "0.0.0.0", false },
    { "0.255.255.255", false },
    { "1.0.0.0", true },
    { "9.255.255.255", true },
    { "10.0.0.0", false },
    { "10.255.255.255", false },
    { "11.0.0.0", true },
    { "100.63.255.255", true },
    { "100.64.0.0", false },
    { "100.127.255.255", false },
    { "100.128.0.0", true },
    { "126.255.255.255", true },
    { "127.0.0.1", false },
    { "127.255.255.255", false },
    { "128.0.0.0", true },
    { "169.253.255.255", true },
    { "169.254.0.0", false },
    { "169.254.169.254", false },
    { "169.255.0.0", true },
    { "172.15.255.255", true },
    { "172.16.0.0", false },
    { "172.31.255.255", false },
    { "172.32.0.0", true },
    { "191.255.255.255", true },
    { "192.0.0.0", false },
    { "192.0.0.255", false },
    { "192.0.1.0", true },
    { "192.0.2.0", false },
    { "192.0.2.255", false },
    { "192.0.3.0", true },
    { "192.88.98.255", true },
    { "192.88.99.1", false },
    { "192.88.100.0", true },
    { "192.167.255.255", true },
    { "192.168.0.0", false },
    { "192.168.255.255", false },
    { "192.169.0.0", true },
    { "198.17.255.255", true },
    { "198.18.0.0", false },
    { "198.19.255.255", false },
    { "198.20.0.0", true },
    { "198.51.99.255", true },
    { "198.51.100.0", false },
    { "198.51.101.0", true },
    { "203.0.112.255", true },
    { "203.0.113.0", false },
    { "203.0.114.0", true },
    { "223.255.255.255", true },
    { "224.0.0.1", false },
    { "239.255.255.255", false },
    { "240.0.0.0", false },
    { "255.255.255.255", false },
    { "8.8.8.8", true },
    /* IPv6 */
    { "::", false },
    { "::1", false },
    { "::2", false },
    { "100::1", false },
    { "1fff:ffff::1", false },
    { "2000::1", true },
    { "2001:1ff:ffff::1", false },
    { "2001::1", false },
    { "2001:0:4136:e378::1", false },
    { "2001:2::1", false },
    { "2001:10::1", false },
    { "2001:20::1", false },
    { "2001:200::1", true },
    { "2001:db7:ffff::1", true },
    { "2001:db8::1", false },
    { "2001:db8:ffff::1", false },
    { "2001:db9::1", true },
    { "2001:ffff::1", true },
    { "2002::1", false },
    { "2002:808:808::1", false },
    { "2002:7f00:1::1", false },
    { "2003::1", true },
    { "2606:4700:4700::1111", true },
    { "3ffe:ffff::1", true },
    { "3fff::1", false },
    { "3fff:fff:ffff::1", false },
    { "3fff:1000::1", true },
    { "4000::1", false },
    { "5f00::1", false },
    { "fc00::1", false },
    { "fdff:ffff::1", false },
    { "fe80::1", false },
    { "fec0::1", false },
    { "ff02::1", false },
    { "ffff::1", false },
    /* IPv4 inside: mapped, compatible, translated, NAT64, ISATAP */
    { "::ffff:8.8.8.8", true },
    { "::ffff:127.0.0.1", false },
    { "::ffff:10.1.2.3", false },
    { "::ffff:169.254.169.254", false },
    { "::ffff:0.0.0.0", false },
    { "::8.8.8.8", false },
    { "::127.0.0.1", false },
    { "::ffff:0:127.0.0.1", false },
    { "::ffff:0:8.8.8.8", false },
    { "64:ff9b::8.8.8.8", true },
    { "64:ff9b::127.0.0.1", false },
    { "64:ff9b::10.0.0.1", false },
    { "64:ff9b::1:8.8.8.8", false },
    { "64:ff9b:1::8.8.8.8", false },
    { "64:ff9b:1::10.0.0.1", false },
    { "2606:4700::5efe:10.0.0.1", false },
    { "2606:4700::200:5efe:10.0.0.1", false },
    { "2606:4700::200:5efe:8.8.8.8", true },
    { "fe80::5efe:8.8.8.8", false },
};

static void test_public(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(addresses); i++) {
        struct sockaddr_storage s = address_at(addresses[i].address, 443);
        if (egress_public((struct sockaddr *)&s) != addresses[i].public)
            fail_msg("%s must %sbe public", addresses[i].address, addresses[i].public ? "" : "not ");
    }
    struct sockaddr local = { .sa_family = AF_UNIX };
    assert_false(egress_public(&local));
}

static void test_allow_list(void **state)
{
    (void)state;
    static const struct {
        const char *allow, *address;
        u16 port;
        const char *host;
        u16 url_port;
        bool allowed;
    } rows[] = {
        { "", "127.0.0.1", 80, "localhost", 80, false },
        { "", "8.8.8.8", 80, "", 80, true },
        { "10.0.0.0/8", "10.255.0.1", 99, "x", 99, true },
        { "10.0.0.0/8", "11.0.0.1", 99, "x", 99, true },
        { "10.0.0.0/8", "172.16.0.1", 99, "x", 99, false },
        { "10.0.0.0/8", "::ffff:10.0.0.1", 99, "x", 99, true },
        { "10.0.0.0/8", "64:ff9b::10.0.0.1", 99, "x", 99, false },
        { "10.1.0.0/15", "10.1.255.255", 1, "", 1, true },
        { "10.1.0.0/15", "10.2.0.0", 1, "", 1, false },
        { "0.0.0.0/0", "127.0.0.1", 1, "", 1, true },
        { "0.0.0.0/0", "::1", 1, "", 1, false },
        { "127.0.0.1", "127.0.0.1", 8080, "", 8080, true },
        { "127.0.0.1", "127.0.0.2", 8080, "", 8080, false },
        { "127.0.0.1:9000", "127.0.0.1", 9000, "", 9000, true },
        { "127.0.0.1:9000", "127.0.0.1", 9001, "", 9001, false },
        { "::ffff:127.0.0.1", "127.0.0.1", 1, "", 1, true },
        { "::1", "::1", 80, "", 80, true },
        { "[::1]:80", "::1", 80, "", 80, true },
        { "[::1]:80", "::1", 81, "", 81, false },
        { "[::1]", "::1", 81, "", 81, true },
        { "fd00::/8", "fd12::1", 1, "", 1, true },
        { "fd00::/8", "fc12::1", 1, "", 1, false },
        { "inner.example:8443", "10.0.0.1", 8443, "inner.example", 8443, true },
        { "INNER.example:8443", "10.0.0.1", 8443, "inner.EXAMPLE", 8443, true },
        { "inner.example:8443", "10.0.0.1", 80, "inner.example", 80, false },
        { "inner.example:8443", "10.0.0.1", 8443, "", 8443, false }, /* after a redirect */
        { "inner.example:8443", "10.0.0.1", 8443, "x.inner.example", 8443, false },
        { " 10.0.0.0/8 ,, inner.example:1 ", "10.0.0.1", 5, "", 5, true },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct arena *a = arena_new(MIB);
        const struct egress *e = NULL;
        str bad = STR_NONE;
        assert_int_equal(egress_new(a, str_of(rows[i].allow), &e, &bad), OK);
        struct sockaddr_storage s = address_at(rows[i].address, rows[i].port);
        if (egress_allows(e, (struct sockaddr *)&s, str_of(rows[i].host), rows[i].url_port) != rows[i].allowed)
            fail_msg("row %zu: \"%s\" and %s", i, rows[i].allow, rows[i].address);
        arena_free(a);
    }
}

static void test_bad_entries_are_named(void **state)
{
    (void)state;
    static const char *const bad_ones[] = {
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0/8",
        "10.0.0.300",
        "10.0.0.300:80",
        "::1/129",
        "::g",
        "[::1",
        "[::1]80",
        "[::1]:",
        "[::1]:0",
        "[127.0.0.1]:80",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:",
        "host",
        "host:",
        "host:x",
        ":80",
        "ho st:80",
        "http://host:80",
        "*:80",
        "host:+80",
        "host:-1",
        "/8",
    };
    for (size_t i = 0; i < COUNT(bad_ones); i++) {
        struct arena *a = arena_new(MIB);
        const struct egress *e = NULL;
        str bad = STR_NONE, parts[] = { S("10.0.0.0/8, "), str_of(bad_ones[i]), S(" ,::1") };
        if (egress_new(a, str_concat(a, parts, 3), &e, &bad) != ERR_INVALID)
            fail_msg("\"%s\" was taken", bad_ones[i]);
        assert_true(str_eq(bad, str_of(bad_ones[i])));
        assert_null(e);
        arena_free(a);
    }
}

static err many(struct arena *a, int count)
{
    char text[512 * 4];
    const struct egress *e;
    str bad;
    for (int i = 0; i < count; i++)
        memcpy(text + (size_t)i * 4, "::1,", 4);
    return egress_new(a, (str){ text, (size_t)count * 4 }, &e, &bad);
}

static void test_bound_of_the_list(void **state)
{
    (void)state;
    struct arena *a = arena_new(MIB);
    assert_int_equal(many(a, 255), OK);
    assert_int_equal(many(a, 256), OK);
    assert_int_equal(many(a, 257), ERR_INVALID);
    arena_free(a);
    a = arena_new(64);
    assert_int_equal(many(a, 1), ERR_MEMORY);
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_allow_list),
        cmocka_unit_test(test_bad_entries_are_named),
        cmocka_unit_test(test_bound_of_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
