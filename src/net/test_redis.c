/* test_redis.c - the connection to Redis against a server on the same loop that says what each test wants, the wrong things above all. What a real Redis
 * does is tests/api/redis.test.mjs. */
#include "net/redis.h"

#include "base/clock.h"
#include "base/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <arpa/inet.h>

static struct fake {
    struct loop *loop;
    uv_tcp_t listener, peers[64];
    uv_timer_t tick;      /* so that a turn may wait for what happens next, and yet ends */
    u32 peer_count, seen; /* commands of the newest peer */
    const char *greeting; /* the answer to each command of the greeting */
    const char *answer;   /* to each later one; NULL: none */
    u32 greets;           /* commands of a greeting */
    char port[8], input[1 << 16];
} fake;

struct asked {
    struct redis_call call;
    u32 done;
    err outcome;
    enum redis_kind kind;
    char text[64];
    u32 items;
};
static struct redis *redis;
static struct redis_address address;
static u32 ups, downs;
static char why_down[REDIS_ERROR_BYTES];

static void changed(void *ctx, enum redis_state now, const char *why)
{
    bool up = now == REDIS_UP;
    *(up ? &ups : &downs) += 1;
    if (!up)
        snprintf(why_down, sizeof why_down, "%s", why);
}

static void done(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    struct asked *a = CONTAINER(call, struct asked, call);
    a->done++;
    a->outcome = outcome;
    if (answer == NULL)
        return;
    a->kind = answer->kind;
    a->items = answer->n;
    snprintf(a->text, sizeof a->text, "%.*s",
             STR_FMT(answer->kind == REDIS_LIST ? redis_item(answer, 0)->text : answer->text));
}

/* --- the server -------------------------------------------------------------------------------------------------- */

static void say(uv_stream_t *peer, const char *text)
{
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)text, (unsigned)strlen(text));
    uv_try_write(peer, &b, 1);
}

static void on_peer_alloc(uv_handle_t *h, size_t n, uv_buf_t *out)
{
    *out = uv_buf_init(fake.input, sizeof fake.input);
}

static void on_peer_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    for (ssize_t i = 0; i < n; i++) { /* no word of these tests holds an asterisk */
        if (b->base[i] != '*')
            continue;
        fake.seen++;
        const char *text = fake.seen <= fake.greets ? fake.greeting : fake.answer;
        if (text != NULL)
            say(s, text);
    }
    if (n < 0 && !uv_is_closing((uv_handle_t *)s))
        uv_close((uv_handle_t *)s, NULL);
}

static void on_peer(uv_stream_t *listener, int status)
{
    uv_tcp_t *peer = &fake.peers[fake.peer_count++];
    fake.seen = 0;
    uv_tcp_init(loop_uv(fake.loop), peer);
    uv_accept(listener, (uv_stream_t *)peer);
    uv_read_start((uv_stream_t *)peer, on_peer_alloc, on_peer_read);
}

static void on_tick(uv_timer_t *t) {}

static void turn(void)
{
    uv_run(loop_uv(fake.loop), UV_RUN_ONCE);
}
#define UNTIL(condition)                                 \
    do {                                                 \
        i64 end_us = clock_mono_us() + 30 * SECOND_US;   \
        while (!(condition) && clock_mono_us() < end_us) \
            turn();                                      \
        assert_true(condition);                          \
    } while (0)

static int setup(void **state)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int n = sizeof at;
    memset(&fake, 0, sizeof fake);
    fake.loop = loop_new(0);
    fake.greeting = "+OK\r\n";
    fake.greets = 2;
    uv_timer_init(loop_uv(fake.loop), &fake.tick);
    uv_timer_start(&fake.tick, on_tick, 1, 1);
    uv_tcp_init(loop_uv(fake.loop), &fake.listener);
    uv_tcp_bind(&fake.listener, (struct sockaddr *)&at, 0);
    uv_listen((uv_stream_t *)&fake.listener, 64, on_peer);
    uv_tcp_getsockname(&fake.listener, (struct sockaddr *)&at, &n);
    snprintf(fake.port, sizeof fake.port, "%u", ntohs(at.sin_port));
    address = (struct redis_address){ .host = "127.0.0.1", .port = fake.port, .database = S("3") };
    ups = downs = 0;
    redis = redis_new(fake.loop, &address, (struct redis_watch){ changed, NULL });
    return redis == NULL;
}

static int teardown(void **state)
{
    redis_free(redis);
    for (u32 i = 0; i < fake.peer_count; i++)
        if (!uv_is_closing((uv_handle_t *)&fake.peers[i]))
            uv_close((uv_handle_t *)&fake.peers[i], NULL);
    uv_close((uv_handle_t *)&fake.listener, NULL);
    uv_close((uv_handle_t *)&fake.tick, NULL);
    loop_settle(fake.loop);
    loop_free(fake.loop);
    return 0;
}

static err ask(struct asked *a)
{
    static const str words[] = { S_INIT("GET"), S_INIT("key") };
    *a = (struct asked){ .call.done = done };
    return redis_ask(redis, &a->call, words, 2);
}

/* --- tests ------------------------------------------------------------------------------------------------------- */

static void test_urls(void **state)
{
    static const struct {
        const char *url, *host, *port, *user, *password, *database;
    } good[] = {
        { "redis://localhost", "localhost", "6379", "", "", "0" },
        { "redis://10.0.0.1:7000/5", "10.0.0.1", "7000", "", "", "5" },
        { "redis://:pass@h/", "h", "6379", "", "pass", "0" },
        { "redis://me:p%40s:s@h:1/15", "h", "1", "me", "p@s:s", "15" },
        { "redis://me:p@ss@h", "h", "6379", "me", "p@ss", "0" },
        { "redis://[::1]:6380/1", "::1", "6380", "", "", "1" },
        { "redis://[fe80::1]", "fe80::1", "6379", "", "", "0" },
    };
    static const char *const bad[] = { "",
                                       "http://h",
                                       "redis://",
                                       "redis://:1",
                                       "redis://h:0",
                                       "redis://h:65536",
                                       "redis://h:x",
                                       "redis://h/x",
                                       "redis://h/-1",
                                       "redis://h/1/2",
                                       "redis://me@h",
                                       "redis://[::1",
                                       "redis://h h",
                                       "redis://:%zz@h",
                                       "redis://[::1]x" };
    struct arena *a = arena_new(MIB);
    struct redis_address out;
    for (size_t i = 0; i < COUNT(good); i++) {
        assert_int_equal(redis_url_parse(a, str_of(good[i].url), &out), OK);
        assert_string_equal(out.host, good[i].host);
        assert_string_equal(out.port, good[i].port);
        assert_true(str_eq(out.user, str_of(good[i].user)));
        assert_true(str_eq(out.password, str_of(good[i].password)));
        assert_true(str_eq(out.database, str_of(good[i].database)));
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (redis_url_parse(a, str_of(bad[i]), &out) == OK)
            fail_msg("%s is taken", bad[i]);
    assert_int_equal(redis_url_parse(a, S("rediss://h"), &out), ERR_MEDIA);
    arena_free(a);
}

static void test_asks_and_is_answered(void **state)
{
    struct asked one, two;
    fake.answer = "$5\r\nhello\r\n";
    assert_int_equal(ask(&one), ERR_UNAVAILABLE); /* not connected yet: nothing is kept back for later */
    UNTIL(ups == 1);
    assert_int_equal(ask(&one), OK);
    assert_int_equal(ask(&two), OK);
    assert_int_equal(one.done, 0);
    UNTIL(one.done && two.done);
    assert_int_equal(one.outcome, OK);
    assert_string_equal(two.text, "hello");
    fake.answer = "*3\r\n$1\r\na\r\n$-1\r\n:7\r\n";
    assert_int_equal(ask(&one), OK);
    UNTIL(one.done);
    assert_int_equal(one.kind, REDIS_LIST);
    assert_int_equal(one.items, 3);
    fake.answer = "-ERR no\r\n"; /* of a command: an answer like any other */
    assert_int_equal(ask(&one), OK);
    UNTIL(one.done);
    assert_int_equal(one.kind, REDIS_FAILED);
    assert_string_equal(one.text, "ERR no");
    assert_int_equal(downs, 0);
}

static void test_is_refused_at_login(void **state)
{
    fake.greeting = "-WRONGPASS invalid\x01 username-password pair\r\n";
    UNTIL(downs == 2); /* and tries again */
    assert_string_equal(why_down, "WRONGPASS invalid? username-password pair");
    assert_false(redis_up(redis));
    fake.greeting = "+OK\r\n";
    UNTIL(ups == 1);
}

/* All that wait are told, nothing more is asked, and the late answers find their places. */
static void test_stands_still(void **state)
{
    struct asked first, second, third;
    UNTIL(ups == 1);
    i64 began_us = clock_mono_us();
    assert_int_equal(ask(&first), OK);
    assert_int_equal(ask(&second), OK);
    UNTIL(first.done);
    assert_in_range(clock_mono_us() - began_us, REDIS_PATIENCE_US, REDIS_CONNECT_US - 1);
    assert_int_equal(first.outcome, ERR_TIMEOUT);
    assert_int_equal(second.outcome, ERR_TIMEOUT);
    assert_int_equal(downs, 1);
    assert_int_equal(ask(&third), ERR_UNAVAILABLE);
    assert_int_equal(redis_figures(redis).late, 1);
    fake.answer = "$5\r\nafter\r\n";
    for (int i = 0; i < 2; i++)
        say((uv_stream_t *)&fake.peers[0], "$5\r\nwrong\r\n");
    UNTIL(ups == 2);
    assert_int_equal(fake.peer_count, 1);
    assert_int_equal(ask(&third), OK);
    UNTIL(third.done);
    assert_string_equal(third.text, "after");
    assert_int_equal(first.done, 1);
}

static void test_stands_still_for_seconds(void **state)
{
    struct asked a;
    UNTIL(ups == 1);
    assert_int_equal(ask(&a), OK);
    UNTIL(a.done);
    UNTIL(ups == 2); /* another connection */
    assert_int_equal(fake.peer_count, 2);
}

/* Asked by a beat when nobody else asks. */
static void test_is_found_silent_without_a_question(void **state)
{
    UNTIL(ups == 1);
    UNTIL(downs == 1);
    assert_string_equal(why_down, "it does not answer in time");
}

static void loses(const char *answer, const char *why)
{
    struct asked a;
    u32 before = ups, lost = downs;
    fake.answer = answer;
    UNTIL(ups > before || redis_up(redis));
    assert_int_equal(ask(&a), OK);
    UNTIL(downs > lost);
    assert_string_equal(why_down, why);
    fake.answer = NULL;
    UNTIL(redis_up(redis));
}

static void test_says_what_is_no_protocol(void **state)
{
    struct asked a;
    loses("hello\r\n", "what it says is no Redis protocol");
    loses("$-7\r\n", "what it says is no Redis protocol");
    loses("$99999999999999999999\r\n", "what it says is no Redis protocol");
    loses("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
          "what it says is no Redis protocol");
    loses("*1025\r\n", "an answer is larger than it may be");
    fake.answer = ":1\r\n:2\r\n";
    u32 lost = downs;
    assert_int_equal(ask(&a), OK);
    UNTIL(downs > lost);
    assert_string_equal(why_down, "it answers what nobody asked");
    assert_int_equal(a.outcome, OK);
}

static void test_takes_lists_up_to_its_bound(void **state)
{
    static char text[16 + 4 * REDIS_ANSWER_ITEMS];
    size_t n = (size_t)snprintf(text, sizeof text, "*%d\r\n", REDIS_ANSWER_ITEMS);
    struct asked a;
    for (int i = 0; i < REDIS_ANSWER_ITEMS; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, ":1\r\n");
    fake.answer = text;
    UNTIL(ups == 1);
    assert_int_equal(ask(&a), OK);
    UNTIL(a.done);
    assert_int_equal(a.items, REDIS_ANSWER_ITEMS);
}

static void test_bounds_what_is_in_flight(void **state)
{
    static struct asked many[REDIS_IN_FLIGHT + 1];
    UNTIL(ups == 1);
    for (u32 i = 0; i <= REDIS_IN_FLIGHT; i++)
        assert_int_equal(ask(&many[i]), i < REDIS_IN_FLIGHT ? OK : ERR_UNAVAILABLE);
    redis_distrust(redis, "the test says so");
    for (u32 i = 0; i < REDIS_IN_FLIGHT; i++)
        assert_int_equal(many[i].outcome, ERR_UNAVAILABLE);
    assert_int_equal(many[REDIS_IN_FLIGHT].done, 0);
    assert_string_equal(why_down, "the test says so");
}

static void test_bounds_what_is_not_sent(void **state)
{
    static char large[REDIS_OUT_BYTES / 2];
    const str words[] = { S("SET"), S("key"), { large, sizeof large } };
    struct asked a;
    UNTIL(ups == 1);
    memset(large, 'x', sizeof large);
    assert_int_equal(redis_ask(redis, NULL, words, 3), OK);
    assert_int_equal(redis_ask(redis, NULL, words, 3), ERR_UNAVAILABLE); /* with what frames it */
    assert_int_equal(ask(&a), OK);                                       /* nothing of it stayed behind */
    fake.answer = "+OK\r\n";
    UNTIL(a.done && redis_up(redis)); /* megabytes may take longer than its patience */
    assert_int_equal(downs, redis_figures(redis).late);
    assert_int_equal(fake.peer_count, 1);
    assert_int_equal(ask(&a), OK);
    UNTIL(a.done);
}

static void test_peer_goes(void **state)
{
    struct asked a;
    UNTIL(ups == 1);
    assert_int_equal(ask(&a), OK);
    UNTIL(fake.seen == 3);
    uv_close((uv_handle_t *)&fake.peers[0], NULL);
    UNTIL(a.done);
    assert_int_equal(a.outcome, ERR_UNAVAILABLE);
    UNTIL(ups == 2);
}

static u32 news;
static char last_news[64];

static void heard(void *ctx, str text)
{
    news++;
    snprintf(last_news, sizeof last_news, "%.*s", STR_FMT(text));
}

static void test_listens(void **state)
{
    static const struct redis_channel channel = { .name = "news", .heard = heard };
    UNTIL(ups == 1);
    struct redis *listener = redis_new_listener(fake.loop, &address, (struct redis_watch){ changed, NULL }, &channel);
    assert_non_null(listener);
    fake.answer = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    UNTIL(ups == 2);
    uv_stream_t *peer = (uv_stream_t *)&fake.peers[fake.peer_count - 1];
    say(peer, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n*3\r\n$7\r\nmess");
    UNTIL(news == 1);
    assert_string_equal(last_news, "hello");
    say(peer, "age\r\n$4\r\nnews\r\n$3\r\nend\r\n*1\r\n$7\r\nmessage\r\n");
    UNTIL(news == 3);
    assert_string_equal(last_news, ""); /* what names no text has none */
    assert_int_equal(downs, 0);
    redis_free(listener);
}

/* Whatever allocation fails: no leak, no crash, and it is up in the end. */
static void test_memory(void **state)
{
    for (i64 n = 1; n < 40; n++) {
        struct asked a;
        fake.answer = "$5\r\nhello\r\n";
        UNTIL(redis_up(redis));
        fault_arm(FAULT_ALLOC, n);
        redis_distrust(redis, "again");
        for (int i = 0; i < 20; i++)
            turn();
        if (redis_up(redis) && ask(&a) == OK)
            UNTIL(a.done);
        fault_arm(FAULT_ALLOC, 0);
        if (fake.peer_count > 50)
            break;
    }
    UNTIL(redis_up(redis));
}

static void test_nobody_listens(void **state)
{
    uv_close((uv_handle_t *)&fake.listener, NULL);
    UNTIL(downs >= 3);
    assert_string_equal(why_down, "connection refused");
    uv_tcp_init(loop_uv(fake.loop), &fake.listener); /* for the end */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        TEST(test_asks_and_is_answered),
        TEST(test_is_refused_at_login),
        TEST(test_stands_still),
        TEST(test_stands_still_for_seconds),
        TEST(test_is_found_silent_without_a_question),
        TEST(test_says_what_is_no_protocol),
        TEST(test_takes_lists_up_to_its_bound),
        TEST(test_bounds_what_is_in_flight),
        TEST(test_bounds_what_is_not_sent),
        TEST(test_peer_goes),
        TEST(test_listens),
        TEST(test_memory),
        TEST(test_nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
