/* test_auth.c - token claims, password rules, and the arithmetic of failed logins with time as a parameter. The
 * calls themselves: tests/api. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "core/app.h"
#include "core/mail.h"
#include "feat/api-keys/api-keys.h"
#include "feat/auth/auth.h"
#include "feat/auth/auth_parts.h"
#include "feat/roles/roles.h"
#include "feat/tenants/tenants.h"
#include "feat/users/users.h"

#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct module *const modules[] = { &mail_module,  &tenants_module, &roles_module, &api_keys_module,
                                         &users_module, &auth_module,    NULL };

/* ---- tokens ---- */

#define NOW_S     ((i64)1800000000)
#define USER      "user_01h455vb4pex5vsknk084sn02q"
#define TENANT_ID "tenant_01h455vb4pex5vsknk084sn02q"
#define SESSION   "session_01h455vb4pex5vsknk084sn02q"
#define JTI       "token_01h455vb4pex5vsknk084sn02q"

static struct arena *a;
static struct token_keys keys;

static int fresh(void **state)
{
    a = arena_new(16 * MIB);
    return a != NULL && token_keys_make(a, S("0123456789abcdefghijklmnopqrstuv"), STR_NONE, &keys) == OK ? 0 : -1;
}

static int done(void **state)
{
    arena_free(a);
    return 0;
}

static struct token sample(enum token_type type)
{
    return (struct token){ .type = type,
                           .user_id = S(USER),
                           .tenant_id = S(TENANT_ID),
                           .session_id = S(SESSION),
                           .jti = S(JTI),
                           .role = S("owner"),
                           .issued_s = NOW_S,
                           .expires_s = NOW_S + 900 };
}

/* The reason why a text is refused at a time; "" when it is taken. */
static const char *refused(str text, enum token_type type, i64 now_us)
{
    struct token out;
    const char *reason = "";
    err e = token_read(a, &keys, text, type, now_us, &out, &reason);
    assert_true(e == OK || e == ERR_UNAUTHORIZED);
    return e == OK ? "" : reason;
}

static void test_token_round_trip(void **state)
{
    struct token in = sample(TOKEN_ACCESS), out;
    const char *reason;
    str text = token_sign(a, &keys.list[0], &in);
    assert_true(str_eq(text, token_sign(a, &keys.list[0], &in))); /* the same successor can be signed again */
    assert_int_equal(token_read(a, &keys, text, TOKEN_ACCESS, NOW_S * SECOND_US, &out, &reason), OK);
    assert_true(str_eq(out.user_id, in.user_id) && str_eq(out.tenant_id, in.tenant_id) &&
                str_eq(out.session_id, in.session_id));
    assert_true(str_eq(out.jti, in.jti) && str_eq(out.role, in.role));
    assert_int_equal(out.expires_s, in.expires_s);
}

static void test_token_types_never_stand_in(void **state)
{
    struct token access = sample(TOKEN_ACCESS), renew = sample(TOKEN_REFRESH);
    assert_string_equal(refused(token_sign(a, &keys.list[0], &access), TOKEN_REFRESH, NOW_S * SECOND_US), "type");
    assert_string_equal(refused(token_sign(a, &keys.list[0], &renew), TOKEN_ACCESS, NOW_S * SECOND_US), "type");
    assert_string_equal(refused(token_sign(a, &keys.list[0], &renew), TOKEN_REFRESH, NOW_S * SECOND_US), "");
}

static void test_token_times_are_exact(void **state)
{
    struct token t = sample(TOKEN_ACCESS);
    str text = token_sign(a, &keys.list[0], &t);
    assert_string_equal(refused(text, TOKEN_ACCESS, NOW_S * SECOND_US - 1), "nbf");
    assert_string_equal(refused(text, TOKEN_ACCESS, NOW_S * SECOND_US), "");
    assert_string_equal(refused(text, TOKEN_ACCESS, (NOW_S + 900) * SECOND_US - 1), "");
    assert_string_equal(refused(text, TOKEN_ACCESS, (NOW_S + 900) * SECOND_US), "expired");
}

static void test_token_of_another_key(void **state)
{
    struct token t = sample(TOKEN_ACCESS);
    struct token_keys other;
    assert_int_equal(token_keys_make(a, S("another-secret-another-secret-32"), STR_NONE, &other), OK);
    assert_false(str_eq(other.list[0].kid, keys.list[0].kid));
    assert_string_equal(refused(token_sign(a, &other.list[0], &t), TOKEN_ACCESS, NOW_S * SECOND_US), "kid");
    other.list[0].kid = keys.list[0].kid; /* claims to be ours */
    assert_string_equal(refused(token_sign(a, &other.list[0], &t), TOKEN_ACCESS, NOW_S * SECOND_US), "signature");
}

static void test_two_keys_verify_and_one_signs(void **state)
{
    struct token t = sample(TOKEN_ACCESS), out;
    struct token_keys both, mixed;
    const char *reason = "";
    str old = token_sign(a, &keys.list[0], &t);
    assert_int_equal(
        token_keys_make(a, S("another-secret-another-secret-32"), S("0123456789abcdefghijklmnopqrstuv"), &both), OK);
    assert_int_equal(both.n, 2);
    assert_true(str_eq(both.list[1].kid, keys.list[0].kid));
    assert_int_equal(token_read(a, &both, old, TOKEN_ACCESS, NOW_S * SECOND_US, &out, &reason), OK);
    str new = token_sign(a, &both.list[0], &t);
    assert_int_equal(token_read(a, &both, new, TOKEN_ACCESS, NOW_S * SECOND_US, &out, &reason), OK);
    assert_string_equal(refused(new, TOKEN_ACCESS, NOW_S * SECOND_US), "kid"); /* also when it was read before */
    mixed = both;
    mixed.list[1].kid = both.list[0].kid; /* the header's kid picks the key; it does not ask all of them */
    assert_int_equal(token_read(a, &mixed, old, TOKEN_REFRESH, NOW_S * SECOND_US, &out, &reason), ERR_UNAUTHORIZED);
    assert_string_equal(reason, "kid");
}

#define CLAIMS(iss, aud, sub, type, role, iat, nbf, exp)                                            \
    "{\"iss\":" iss ",\"aud\":" aud ",\"sub\":" sub ",\"tid\":\"" TENANT_ID "\",\"sid\":\"" SESSION \
    "\",\"type\":" type "," role "\"jti\":\"" JTI "\",\"iat\":" iat ",\"nbf\":" nbf ",\"exp\":" exp "}"
#define ROLE     "\"role\":\"owner\","
#define GOOD_SUB "\"" USER "\""
#define T0       "1800000000"
#define T1       "1800000900"

static void test_token_every_claim_counts(void **state)
{
    static const struct {
        const char *claims, *reason;
    } rows[] = {
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T0, T1), "" },
        { CLAIMS("\"Weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T0, T1), "iss" },
        { CLAIMS("null", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T0, T1), "iss" },
        { CLAIMS("\"weir\"", "[\"weir-api\"]", GOOD_SUB, "\"access\"", ROLE, T0, T0, T1), "aud" },
        { CLAIMS("\"weir\"", "\"weir-api\"", "\"" TENANT_ID "\"", "\"access\"", ROLE, T0, T0, T1), "claims" },
        { CLAIMS("\"weir\"", "\"weir-api\"", "1", "\"access\"", ROLE, T0, T0, T1), "claims" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"refresh\"", ROLE, T0, T0, T1), "type" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "true", ROLE, T0, T0, T1), "type" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", "", T0, T0, T1), "role" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T0, "1800000900.0"), "expired" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T0, "\"1800000900\""), "expired" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T0, T1, T1), "nbf" },
        { CLAIMS("\"weir\"", "\"weir-api\"", GOOD_SUB, "\"access\"", ROLE, T1, T0, T1), "iat" },
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_string_equal(
            refused(jwt_sign(a, &keys.list[0], str_of(rows[i].claims)), TOKEN_ACCESS, NOW_S * SECOND_US),
            rows[i].reason);
}

/* ---- passwords ---- */

static const char *code_of(const char *password, const char *email)
{
    struct password_owner owner = { { str_of(email), S("Ada Lovelace"), S("acme-works") } };
    const char *code;
    return password_refused(str_of(password), &owner, &code) == NULL ? "" : code;
}

static void test_password_rules(void **state)
{
    static const struct {
        const char *password, *code;
    } rows[] = {
        { "", "password.length" },
        { "horse-cab", "password.length" },
        { "horse-cabs", "" },
        { "p\xc3\xa4sse-c\xc3\xa4", "password.length" }, /* ten bytes and more, but nine characters */
        { "password123", "password.common" },
        { "PassWord2024!", "password.common" },
        { "1234567890", "password.common" },
        { "abcdefghijklmn", "password.common" },
        { "9876543210", "password.common" },
        { "aaaaaaaaaaaaaaaa", "password.common" },
        { "abababababab", "password.common" },
        { "qwertyuiop", "password.common" },
        { "supersecretkey", "password.common" },
        { "ada@example.com", "password.personal" },
        { "lovelace-1815", "password.personal" },
        { "acmeworks!1", "password.personal" },
        { "zxcvbnm123", "password.common" },
        { "bigdaddy-99", "password.common" }, /* of the 10,000: somewhere in the middle, */
        { "zzzzzz7777", "password.common" },  /* the last */
        { "cocacola2024", "password.common" },
        { "0987654321", "password.common" },
        { "acme-works-1", "password.personal" },
        { "weir-acme-2025", "password.personal" },
        { "lovelace and her nine engines", "" },
        { "correct horse battery staple", "" },
        { "july8347561902847561", "" }, /* a stem, but ten and more digits that nobody lists */
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        if (strcmp(code_of(rows[i].password, "ada@example.com"), rows[i].code) != 0)
            fail_msg("%s: %s, not %s", rows[i].password, code_of(rows[i].password, "ada@example.com"), rows[i].code);
}

static void test_password_longest(void **state)
{
    char text[258];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i * 7 % 26);
    for (size_t n = 255; n <= 257; n++) {
        char at = text[n];
        text[n] = '\0';
        assert_string_equal(code_of(text, "ada@example.com"), n <= 256 ? "" : "password.length");
        text[n] = at;
    }
}

static void test_password_hash_and_verify(void **state)
{
    str hash;
    bool matches;
    assert_int_equal(password_hash(a, S("horse-cabs"), &hash), OK);
    assert_true(str_starts(hash, S("$argon2id$v=19$m=19456,t=2,p=1$")));
    assert_int_equal(crypto_pwhash_str_verify(hash.p, "horse-cabs", 10), 0); /* libsodium by itself */
    assert_int_not_equal(crypto_pwhash_str_verify(hash.p, "horse-cabz", 10), 0);
    assert_int_equal(password_verify(hash, S("horse-cabs"), &matches), OK);
    assert_true(matches);
    assert_int_equal(password_verify(hash, S("horse-cabz"), &matches), OK);
    assert_false(matches);
    assert_int_equal(password_verify(STR_NONE, S("horse-cabs"), &matches), OK);
    assert_false(matches);
}

/* The hash of "U*U" that every bcrypt has, at cost 5. */
#define IMPORTED "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"

static void test_imported_hashes(void **state)
{
    static const struct {
        const char *hash, *password;
        bool matches;
    } cases[] = {
        { IMPORTED, "U*U", true },
        { IMPORTED, "U*V", false },
        { "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe", "U*U", false },   /* a character short */
        { "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeWW", "U*U", false }, /* one too many */
        { "$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", false },
        { "$2a$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", false }, /* dearer than is borne */
        { "$2a$xx$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", false },
        { "$2", "U*U", false },
        { NULL, "U*U", false },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (i64 cost = 0; cost <= 6; cost += 2) {
            str hash = cases[i].hash != NULL ? str_of(cases[i].hash) : STR_NONE;
            bool matches = !cases[i].matches;
            assert_int_equal(password_verify_anyone(hash, cost, str_of(cases[i].password), &matches), OK);
            assert_int_equal(matches, cases[i].matches);
        }
}

static i64 spent_us(str hash, i64 imported_cost)
{
    struct timespec from, to;
    bool matches;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    assert_int_equal(password_verify_anyone(hash, imported_cost, S("not the one"), &matches), OK);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return (to.tv_sec - from.tv_sec) * SECOND_US + (to.tv_nsec - from.tv_nsec) / 1000;
}

/* Of several, the least: what else the machine does only adds. Processor time, so that waiting does not count at all; a neighbour on the same core does. */
static void test_anyone_costs_the_same(void **state)
{
    enum { DEAREST = 10, ROUNDS_MAX = 40 };
    i64 imported = INT64_MAX, nobody = INT64_MAX, none_left = INT64_MAX;
    bool same = false;
    for (u32 i = 0; i < ROUNDS_MAX && !same; i++) {
        imported = MIN(imported, spent_us(S(IMPORTED), DEAREST));
        nobody = MIN(nobody, spent_us(STR_NONE, DEAREST));
        none_left = MIN(none_left, spent_us(STR_NONE, 0));
        same = i >= 4 && imported * 10 > nobody * 9 && imported * 9 < nobody * 10;
    }
    print_message("imported %lld us, nobody %lld us, none left %lld us\n", (long long)imported, (long long)nobody,
                  (long long)none_left);
    assert_true(same);
    assert_true(none_left * 3 < nobody * 2);
}

static void test_roles(void **state)
{
    assert_int_equal(role_bit(S("owner")), ROLE_OWNER);
    assert_int_equal(role_bit(S("Owner")), 0);
    for (u32 role = ROLE_OWNER; role <= ROLE_CUSTOM; role *= 2)
        assert_int_equal(role_bit(role_name(role)), role);
    assert_int_equal(role_name(ROLE_OWNER | ROLE_ADMIN).n, 0);
}

/* ---- failed logins ---- */

static void test_backoff_doubles_to_fifteen_minutes(void **state)
{
    static const i64 seconds[] = { 60, 60, 120, 240, 480, 900, 900 };
    for (size_t i = 0; i < COUNT(seconds); i++)
        assert_int_equal(login_backoff_us((i64)i), seconds[i] * SECOND_US);
    assert_int_equal(login_backoff_us(INT64_MAX), 900 * SECOND_US);
}

static str ip_of(const char *remote)
{
    struct login_from from;
    assert_int_equal(login_from(a, S("Ada@Example.com"), str_of(remote), &from), OK);
    return from.ip;
}

static void test_login_from(void **state)
{
    struct login_from one, two;
    assert_int_equal(login_from(a, S("Ada@Example.com"), S("127.0.0.1"), &one), OK);
    assert_int_equal(login_from(a, S("ada@example.com"), S("127.0.0.1"), &two), OK);
    assert_true(str_eq(one.account, two.account));
    assert_true(str_find(one.account, S("ada"), 0) < 0);
    assert_true(str_eq(ip_of("127.0.0.1"), S("127.0.0.1")));
    assert_true(str_eq(ip_of("::ffff:10.1.2.3"), S("10.1.2.3")));
    assert_true(str_eq(ip_of("2001:db8:1:2:3:4:5:6"), S("2001:db8:1:2::/64")));
    assert_true(str_eq(ip_of("2001:db8:1:2:ffff::1"), ip_of("2001:db8:1:2::1")));
    assert_false(str_eq(ip_of("2001:db8:1:3::1"), ip_of("2001:db8:1:2::1")));
}

static char folder[] = "/tmp/weir-test-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int open_store(void **state)
{
    log_setup(LOG_OFF, LOG_ERROR);
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    assert_non_null(mkdtemp(folder));
    struct db_options options = { .folder = str_of(folder) };
    assert_int_equal(db_open(&options, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    return fresh(state);
}

static int close_store(void **state)
{
    db_thread_end(app.db);
    db_close(app.db);
    app.db = NULL;
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return done(state);
}

struct attempt {
    i64 now_us, wait_us;
    struct login_from from;
    enum { FAIL, CHECK, PASS } what;
    bool burst;
};

static err attempt_run(void *ctx, struct tx *tx)
{
    struct attempt *t = ctx;
    t->wait_us = 0;
    t->burst = false;
    if (t->what == PASS)
        return login_limit_passed(tx, &t->from);
    TRY(login_limit_check(tx, t->now_us, &t->from, &t->wait_us));
    return t->what == FAIL ? login_limit_failed(tx, t->now_us, &t->from, &t->burst) : OK;
}

/* Seconds to wait; 0 when it was let through. */
static i64 attempt(i64 now_s, const char *account, const char *ip, int what)
{
    struct attempt t = { .now_us = (NOW_S + now_s) * SECOND_US, .from = { str_of(account), str_of(ip) }, .what = what };
    err e = db_write_wait(app.db, a, attempt_run, &t);
    assert_true(e == OK || e == ERR_LIMIT);
    assert_int_equal(e == ERR_LIMIT, t.wait_us > 0);
    return t.wait_us / SECOND_US;
}

static void test_five_failures_close_the_address(void **state)
{
    for (int i = 0; i < 5; i++)
        assert_int_equal(attempt(i, (const char *[]){ "a", "b", "c", "d", "e" }[i], "10.0.0.1", FAIL), 0);
    assert_int_equal(attempt(10, "f", "10.0.0.1", CHECK), 50); /* until the first of the five leaves the window */
    assert_int_equal(attempt(10, "f", "10.0.0.2", CHECK), 0);
    assert_int_equal(attempt(59, "f", "10.0.0.1", FAIL), 1); /* being told 429 writes nothing */
    assert_int_equal(attempt(60, "f", "10.0.0.1", CHECK), 0);
    assert_int_equal(attempt(60, "f", "10.0.0.1", FAIL), 0);
    assert_int_equal(attempt(60, "f", "10.0.0.1", CHECK), 1);
}

static void burst(i64 now_s)
{
    for (int i = 0; i < 5; i++)
        assert_int_equal(attempt(now_s, "ada", "10.0.0.1", FAIL), 0);
}

static void test_account_backoff_doubles(void **state)
{
    static const i64 waits[] = { 60, 120, 240, 480, 900, 900 };
    i64 now_s = 0;
    for (size_t i = 0; i < COUNT(waits); i++) {
        burst(now_s);
        assert_int_equal(attempt(now_s, "ada", "10.0.0.1", CHECK), waits[i]);
        assert_int_equal(attempt(now_s + waits[i] - 1, "ada", "10.0.0.1", FAIL), 1);
        assert_int_equal(attempt(now_s + 1, "ada", "10.0.0.2", CHECK), 0); /* the owner, elsewhere */
        now_s += waits[i];
        assert_int_equal(attempt(now_s, "ada", "10.0.0.1", CHECK), 0);
    }
    now_s += 3600; /* an hour after the end it begins again */
    burst(now_s);
    assert_int_equal(attempt(now_s, "ada", "10.0.0.1", CHECK), 60);
}

static void test_success_ends_the_doubling(void **state)
{
    burst(0);
    burst(60);
    assert_int_equal(attempt(60, "ada", "10.0.0.1", CHECK), 120);
    assert_int_equal(attempt(180, "ada", "10.0.0.1", PASS), 0);
    burst(200);
    assert_int_equal(attempt(200, "ada", "10.0.0.1", CHECK), 60);
}

static void test_four_failures_are_borne(void **state)
{
    for (int i = 0; i < 4; i++)
        assert_int_equal(attempt(i, "ada", "10.0.0.1", FAIL), 0);
    assert_int_equal(attempt(4, "ada", "10.0.0.1", CHECK), 0);
    assert_int_equal(attempt(61, "ada", "10.0.0.1", FAIL), 0); /* the first two have left the window */
    assert_int_equal(attempt(61, "ada", "10.0.0.1", CHECK), 0);
}

/* ---- the command line's way in ---- */

static void test_users_add(void **state)
{
    struct buf why = { .arena = a };
    str tenant, user, again;
    assert_int_equal(tenants_add(a, S("acme"), S("Acme Works"), &tenant, &why), OK);
    assert_int_equal(tenants_add(a, S("acme"), S("Acme"), &again, &why), ERR_CONFLICT);
    assert_int_equal(tenants_add(a, S("No Slug"), S("Acme"), &again, &why), ERR_INVALID);
    assert_int_equal(tenants_add(a, S("other"), S("Other"), &again, &why), OK);
    assert_int_equal(
        users_add(a, S("Ada@Example.com"), S("acme"), S("owner"), S("a long enough sentence"), &user, &why), OK);
    assert_int_equal(
        users_add(a, S("ada@example.com"), S("acme"), S("owner"), S("a long enough sentence"), &again, &why),
        ERR_CONFLICT);
    assert_int_equal(users_add(a, S("ada@example.com"), S("other"), S("viewer"), STR_NONE, &again, &why), OK);
    assert_true(str_eq(user, again));
    assert_int_equal(users_add(a, S("ada@example.com"), S("other"), S("viewer"), STR_NONE, &again, &why), ERR_CONFLICT);
    assert_int_equal(
        users_add(a, S("bob@example.com"), S("none"), S("viewer"), S("a long enough sentence"), &again, &why),
        ERR_NOT_FOUND);
    assert_int_equal(
        users_add(a, S("bob@example.com"), S("acme"), S("king"), S("a long enough sentence"), &again, &why),
        ERR_INVALID);
    assert_int_equal(users_add(a, S("bob"), S("acme"), S("viewer"), S("a long enough sentence"), &again, &why),
                     ERR_INVALID);
    assert_int_equal(users_add(a, S("bob@example.com"), S("acme"), S("viewer"), S("password123"), &again, &why),
                     ERR_INVALID);
    assert_true(why.n > 0);
}

static void test_statements_and_modules_keep_the_rules(void **state)
{
    struct buf why = { .arena = a };
    if (db_check(app.db, &why) != OK || modules_check(&why) != OK)
        fail_msg("%.*s", STR_FMT(buf_view(&why)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_token_round_trip, fresh, done),
        cmocka_unit_test_setup_teardown(test_token_types_never_stand_in, fresh, done),
        cmocka_unit_test_setup_teardown(test_token_times_are_exact, fresh, done),
        cmocka_unit_test_setup_teardown(test_token_of_another_key, fresh, done),
        cmocka_unit_test_setup_teardown(test_two_keys_verify_and_one_signs, fresh, done),
        cmocka_unit_test_setup_teardown(test_token_every_claim_counts, fresh, done),
        cmocka_unit_test(test_password_rules),
        cmocka_unit_test(test_password_longest),
        cmocka_unit_test_setup_teardown(test_password_hash_and_verify, fresh, done),
        cmocka_unit_test_setup_teardown(test_imported_hashes, fresh, done),
        cmocka_unit_test_setup_teardown(test_anyone_costs_the_same, fresh, done),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_backoff_doubles_to_fifteen_minutes),
        cmocka_unit_test_setup_teardown(test_login_from, fresh, done),
        cmocka_unit_test_setup_teardown(test_five_failures_close_the_address, open_store, close_store),
        cmocka_unit_test_setup_teardown(test_account_backoff_doubles, open_store, close_store),
        cmocka_unit_test_setup_teardown(test_success_ends_the_doubling, open_store, close_store),
        cmocka_unit_test_setup_teardown(test_four_failures_are_borne, open_store, close_store),
        cmocka_unit_test_setup_teardown(test_users_add, open_store, close_store),
        cmocka_unit_test_setup_teardown(test_statements_and_modules_keep_the_rules, open_store, close_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
