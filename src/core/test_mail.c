/* test_mail.c - letters as bytes: nothing that somebody typed becomes a header or markup; and secrets at rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codec/base64.h"
#include "core/app.h"
#include "core/mail.h"
#include "core/seal.h"
#include "net/smtp.h"

#include <string.h>

const struct module *const modules[] = { &mail_module, NULL };

static struct arena *a;

static int fresh(void **state)
{
    a = arena_new(4 * MIB);
    app.config.secret_key = S("0123456789abcdefghijklmnopqrstuv");
    return a != NULL ? 0 : -1;
}

static int done(void **state)
{
    arena_free(a);
    return 0;
}

static str render(const char *inviter)
{
    struct mail m = { "invitation",
                      S("grace@example.com"),
                      { { S("inviter"), str_of(inviter) },
                        { S("tenant"), S("Acme") },
                        { S("role"), S("editor") },
                        { S("link"), S("https://weir.example/invite?token=a&b=c") } } };
    str text;
    assert_int_equal(mail_render(a, &m, S("Weir <weir@example.com>"), S("job_1"), 1795240800 * SECOND_US, &text), OK);
    return text;
}

/* The n-th base64 body, decoded. */
static str body(str text, int n)
{
    i64 at = 0;
    for (int i = 0; i <= n; i++)
        at = str_find(text, S("base64\r\n\r\n"), (size_t)at) + 10;
    i64 end = str_find(text, S("--job_1"), (size_t)at);
    struct buf b = { .arena = a };
    for (i64 i = at; i < end; i++)
        if (text.p[i] != '\r' && text.p[i] != '\n')
            buf_char(&b, text.p[i]);
    str out;
    assert_true(base64_decode(a, BASE64, buf_view(&b), &out));
    return out;
}

static bool holds(str text, const char *needle)
{
    return str_find(text, str_of(needle), 0) >= 0;
}

static void test_letter(void **state)
{
    str text = render("ada@example.com");
    assert_true(str_starts(text, S("From: Weir <weir@example.com>\r\nTo: <grace@example.com>\r\nSubject: =?utf-8?B?")));
    assert_true(holds(text, "\r\nDate: Sat, 21 Nov 2026 06:00:00 +0000\r\nMessage-ID: <job_1@example.com>\r\n"));
    assert_true(holds(text, "multipart/alternative; boundary=\"job_1\"") && str_ends(text, S("--job_1--\r\n")));
    assert_true(holds(body(text, 0), "\r\n\r\nhttps://weir.example/invite?token=a&b=c\r\n\r\n"));
    assert_true(holds(body(text, 1), "<a href=\"https://weir.example/invite?token=a&amp;b=c\""));
    for (str line; str_cut(&text, '\n', &line);)
        assert_true(line.n <= 79 && (line.n == 0 || str_ends(line, S("\r"))));
}

static void test_words_are_only_words(void **state)
{
    str text = render("<script>\"\r\nBcc: everybody@example.com\r\n\r\n{link}");
    assert_false(holds(text, "Bcc"));
    assert_true(holds(body(text, 1), "&lt;script&gt;&quot;  Bcc: everybody@example.com    {link} invites"));
    assert_true(holds(body(text, 0), "<script>\"  Bcc: everybody@example.com    {link} invites"));
}

static void test_subject_of_any_length(void **state)
{
    char long_name[400];
    for (size_t i = 0; i + 2 < sizeof long_name; i += 2)
        memcpy(long_name + i, "\xc3\xa4", 2);
    long_name[sizeof long_name - 2] = '\0';
    str text = render(long_name);
    for (str line; str_cut(&text, '\n', &line) && line.n > 1;)
        assert_true(line.n <= 90);
}

static void test_template_missing(void **state)
{
    struct mail m = { "no such", S("a@b.example"), { { STR_NONE, STR_NONE } } };
    str text;
    assert_int_equal(mail_render(a, &m, S("a@b.example"), S("x"), 0, &text), ERR_NOT_FOUND);
}

static void test_sender(void **state)
{
    static const struct {
        const char *text, *address;
    } rows[] = {
        { "weir@example.com", "weir@example.com" },
        { "Weir <weir@example.com>", "weir@example.com" },
        { "<weir@example.com>", "weir@example.com" },
        { "weir", NULL },
        { "@example.com", NULL },
        { "Weir <weir@example.com", NULL },
        { "Weir weir@example.com", NULL },
        { "weir@example.com\r\nBcc: x@example.com", NULL },
        { "", NULL },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        str address = STR_NONE;
        assert_int_equal(mail_sender(str_of(rows[i].text), &address), rows[i].address != NULL);
        if (rows[i].address != NULL)
            assert_true(str_eq(address, str_of(rows[i].address)));
    }
}

static void test_smtp_urls(void **state)
{
    assert_true(smtp_url_valid(S("smtp://mail.example.com:587")));
    assert_true(smtp_url_valid(S("smtps://user:pass@mail.example.com")));
    assert_false(smtp_url_valid(S("http://mail.example.com")));
    assert_false(smtp_url_valid(S("smtp://")));
    assert_false(smtp_url_valid(S("smtp://a b")));
}

static void test_smtp_without_server(void **state)
{
    struct smtp_letter l = { S("a@b.example"), S("c@d.example"), S("x\r\n") };
    str why;
    assert_int_equal(smtp_send(a, &(struct smtp_server){ S("smtp://127.0.0.1:1"), STR_NONE }, &l, &why), ERR_UPSTREAM);
    l.to = S("c@d.example>\r\nRCPT TO:<x@y.example");
    assert_int_equal(smtp_send(a, &(struct smtp_server){ S("smtp://127.0.0.1:1"), STR_NONE }, &l, &why), ERR_INVALID);
}

static void test_seal(void **state)
{
    str sealed, again, plain;
    assert_int_equal(seal_text(a, "test", S("user_1"), S("a seed"), &sealed), OK);
    assert_int_equal(seal_text(a, "test", S("user_1"), S("a seed"), &again), OK);
    assert_false(str_eq(sealed, again));
    assert_int_equal(unseal_text(a, "test", S("user_1"), sealed, &plain), OK);
    assert_true(str_eq(plain, S("a seed")));
    plain = S("untouched");
    assert_int_equal(unseal_text(a, "test", S("user_2"), sealed, &plain), ERR_INTERNAL);
    assert_int_equal(unseal_text(a, "other", S("user_1"), sealed, &plain), ERR_INTERNAL);
    assert_int_equal(unseal_text(a, "test", S("user_1"), S("AAAA"), &plain), ERR_INTERNAL);
    app.config.secret_key = S("another-key-another-key-another-k");
    assert_int_equal(unseal_text(a, "test", S("user_1"), sealed, &plain), ERR_INTERNAL);
    assert_true(str_eq(plain, S("untouched")));
}

static void test_sealed_again(void **state)
{
    str sealed, again, same, plain;
    assert_int_equal(seal_text(a, "test", S("user_1"), S("a seed"), &sealed), OK);
    assert_int_equal(seal_again(a, "test", S("user_1"), sealed, &same), OK);
    assert_ptr_equal(same.p, sealed.p); /* nothing to do */
    app.config.secret_key_previous = app.config.secret_key;
    app.config.secret_key = S("another-key-another-key-another-k");
    assert_int_equal(unseal_text(a, "test", S("user_1"), sealed, &plain), OK);
    assert_int_equal(seal_again(a, "test", S("user_1"), sealed, &again), OK);
    assert_int_equal(seal_again(a, "test", S("user_2"), sealed, &again), ERR_INTERNAL);
    assert_int_equal(seal_again(a, "test", S("user_1"), again, &same), OK);
    assert_ptr_equal(same.p, again.p);
    app.config.secret_key_previous = STR_NONE;
    assert_int_equal(unseal_text(a, "test", S("user_1"), sealed, &plain), ERR_INTERNAL);
    assert_int_equal(unseal_text(a, "test", S("user_1"), again, &plain), OK);
    assert_true(str_eq(plain, S("a seed")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_letter, fresh, done),
        cmocka_unit_test_setup_teardown(test_words_are_only_words, fresh, done),
        cmocka_unit_test_setup_teardown(test_subject_of_any_length, fresh, done),
        cmocka_unit_test_setup_teardown(test_template_missing, fresh, done),
        cmocka_unit_test_setup_teardown(test_sender, fresh, done),
        cmocka_unit_test_setup_teardown(test_smtp_urls, fresh, done),
        cmocka_unit_test_setup_teardown(test_smtp_without_server, fresh, done),
        cmocka_unit_test_setup_teardown(test_seal, fresh, done),
        cmocka_unit_test_setup_teardown(test_sealed_again, fresh, done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
