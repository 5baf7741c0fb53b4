/* test_nodes.c - the bus over a transport that the tests hold in their hands, and nodes on both databases. With the argument "postgres" the second half runs on
 * PostgreSQL, where other nodes are rows and notifications that the test makes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "core/app.h"
#include "core/bus.h"
#include "core/nodes.h"
#include "db/test_store.h"

#include <pthread.h>
#include <sched.h>

const struct module *const modules[] = { NULL };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* A text that grows on other threads. */
struct trace {
    char text[64 << 10];
    size_t n;
};
static struct trace heard_by_one, heard_by_two, sent;

static void add(struct trace *t, str text)
{
    pthread_mutex_lock(&lock);
    assert_true(t->n + text.n < sizeof t->text);
    memcpy(t->text + t->n, text.p, text.n);
    t->n += text.n;
    t->text[t->n] = '\0';
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void clear(struct trace *t)
{
    pthread_mutex_lock(&lock);
    t->n = 0;
    t->text[0] = '\0';
    pthread_mutex_unlock(&lock);
}

/* Waits until it is there; 20 s is for a machine that is busy. */
static void expect(struct trace *t, const char *part)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&lock);
    for (int rc = 0; rc == 0 && strstr(t->text, part) == NULL;)
        rc = pthread_cond_timedwait(&changed, &lock, &until);
    bool there = strstr(t->text, part) != NULL;
    pthread_mutex_unlock(&lock);
    if (!there)
        fail_msg("%s is not in\n%s", part, t->text);
}

static void on_one(str text)
{
    add(&heard_by_one, text.p != NULL ? text : S("!"));
    add(&heard_by_one, S("\n"));
}

static void on_two(str text)
{
    add(&heard_by_two, text.p != NULL ? text : S("!"));
    add(&heard_by_two, S("\n"));
}

BUS(one, "test.one", on_one);
BUS(two, "test.two", on_two, .each = true);

/* ---- the bus alone ---- */

static bool fake_broken, fake_alone, fake_hold;
static u32 packets;

static bool yes(void)
{
    return true;
}

static bool others(void)
{
    return !fake_alone;
}

static err fake_start(void)
{
    return OK;
}

static void fake_stop(void) {}

static err fake_send(str packet)
{
    assert_in_range(packet.n, 1, BUS_PACKET_MAX);
    pthread_mutex_lock(&lock);
    packets++;
    while (fake_hold)
        pthread_cond_wait(&changed, &lock);
    bool broken = fake_broken;
    pthread_mutex_unlock(&lock);
    add(&sent, broken ? S("(") : packet);
    return broken ? ERR_UNAVAILABLE : OK;
}

static const struct bus_transport fake = { .name = "fake",
                                           .wanted = yes,
                                           .others = others,
                                           .start = fake_start,
                                           .stop = fake_stop,
                                           .up = yes,
                                           .send = fake_send };
static const struct bus_transport *const fakes[] = { &fake, NULL };

/* Another way, which takes what the first one cannot. */
static err spare_send(str packet)
{
    add(&sent, S("spare "));
    add(&sent, packet);
    return OK;
}

static const struct bus_transport spare = { .name = "spare",
                                            .wanted = yes,
                                            .others = others,
                                            .start = fake_start,
                                            .stop = fake_stop,
                                            .up = yes,
                                            .send = spare_send };
static const struct bus_transport *const both[] = { &fake, &spare, NULL };

static void hold(bool on)
{
    pthread_mutex_lock(&lock);
    fake_hold = on;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Until it is on its way, alone: what is said from then on waits behind it. */
static void say_and_wait(const char *text)
{
    bus_say(&one, str_of(text));
    for (u32 n = 0; n == 0; sched_yield()) {
        pthread_mutex_lock(&lock);
        n = packets;
        pthread_mutex_unlock(&lock);
    }
}

static int start_fake(void **state)
{
    fake_broken = fake_alone = false;
    packets = 0;
    clear(&sent);
    clear(&heard_by_one);
    clear(&heard_by_two);
    return bus_start_with(fakes) == OK ? 0 : -1;
}

static int stop_fake(void **state)
{
    hold(false);
    bus_deafen();
    bus_stop();
    return 0;
}

/* What is said while a packet is on its way goes out together, equal texts once, in order. */
static void test_bus_says(void **state)
{
    hold(true);
    say_and_wait("first");
    for (int i = 0; i < 3; i++) {
        bus_say(&one, S("a"));
        bus_say(&two, S("b c\nd"));
        bus_say(&one, STR_NONE);
    }
    hold(false);
    expect(&sent, "0 2\n"
                  "test.one 1 a\n"
                  "test.two 5 b c\nd\n"
                  "test.one -1 \n"
                  "test.two 5 b c\nd\n"
                  "test.two 5 b c\nd\n");
    assert_int_equal(packets, 2);
    assert_int_equal(heard_by_one.n, 0);
}

static void test_bus_splits_and_bounds_texts(void **state)
{
    static char text[BUS_TEXT_MAX + 2];
    memset(text, 'x', sizeof text);
    for (size_t n = BUS_TEXT_MAX - 1; n <= BUS_TEXT_MAX + 1; n++)
        bus_say(&two, (str){ text, n });
    bus_say(&two, S("end"));
    expect(&sent, "test.two 3 end\n");
    expect(&sent, "test.two 6999 x");
    expect(&sent, "test.two 7000 x");
    expect(&sent, "test.two -1 \n");
    assert_null(strstr(sent.text, "7001"));
}

/* No more is kept than there is room for; then all kinds are told to look. */
static void test_bus_spills(void **state)
{
    char text[64];
    hold(true);
    say_and_wait("first");
    for (int i = 0; i < BUS_QUEUE_BYTES / 64; i++) {
        int n = snprintf(text, sizeof text, "a text of some length that is never the same %d", i);
        bus_say(&two, (str){ text, (size_t)n });
    }
    hold(false);
    expect(&sent, "\n* -1 \n");
    clear(&sent);
    bus_say(&one, S("again"));
    expect(&sent, "test.one 5 again\n");
    assert_null(strstr(sent.text, "*"));
}

static void test_bus_alone_says_nothing(void **state)
{
    fake_alone = true;
    bus_say(&one, S("nobody"));
    fake_alone = false;
    bus_say(&one, S("somebody"));
    expect(&sent, "test.one 8 somebody\n");
    assert_null(strstr(sent.text, "nobody"));
}

static void test_bus_goes_another_way(void **state)
{
    assert_int_equal(stop_fake(NULL), 0);
    assert_int_equal(bus_start_with(both), OK);
    fake_broken = true;
    bus_say(&one, S("kept"));
    expect(&sent, "(spare 0 1\ntest.one 4 kept\n");
    pthread_mutex_lock(&lock);
    fake_broken = false;
    pthread_mutex_unlock(&lock);
    expect(&sent, "0 2\n"); /* the first shows its gap all the same */
}

/* A packet that was lost is followed, a second later, by one that shows the gap. */
static void test_bus_owes(void **state)
{
    fake_broken = true;
    bus_say(&one, S("lost"));
    expect(&sent, "(");
    pthread_mutex_lock(&lock);
    fake_broken = false;
    pthread_mutex_unlock(&lock);
    expect(&sent, "0 2\n");
    assert_null(strstr(sent.text, "lost"));
}

static void test_bus_hears(void **state)
{
    bus_heard(&fake, S("7 1\ntest.one 3 abc\ntest.two 0 \nunknown 1 x\ntest.one 4 a\nbc\n"));
    assert_string_equal(heard_by_one.text, "abc\na\nbc\n");
    assert_string_equal(heard_by_two.text, "\n");
    clear(&heard_by_one);
    bus_heard(&fake, S("7 2\ntest.one -1 \n"));
    bus_heard(&fake, S("8 40\n")); /* another one, which has spoken before we listened */
    assert_string_equal(heard_by_one.text, "!\n");
    bus_heard(&fake, S("0 1\ntest.one 3 own\n"));
    assert_string_equal(heard_by_one.text, "!\n");
}

static void test_bus_finds_gaps(void **state)
{
    bus_heard(&fake, S("7 1\n"));
    bus_heard(&fake, S("7 2\n"));
    assert_int_equal(heard_by_one.n, 0);
    bus_heard(&fake, S("7 4\ntest.one 1 a\n"));
    assert_string_equal(heard_by_one.text, "!\na\n");
    assert_string_equal(heard_by_two.text, "!\n");
    bus_missed(&fake);
    assert_string_equal(heard_by_two.text, "!\n!\n");
    bus_heard(&fake, S("7 9\n")); /* it was said that some may be missing */
    assert_string_equal(heard_by_two.text, "!\n!\n");
    bus_heard(&fake, S("8 1\n* -1 \n"));
    assert_string_equal(heard_by_two.text, "!\n!\n!\n");
}

static void test_bus_remembers_so_many_senders(void **state)
{
    char packet[64];
    for (int i = 1; i <= NODES_MAX + 1; i++) { /* the last one takes the place of the first */
        int n = snprintf(packet, sizeof packet, "%d 1\n", i);
        bus_heard(&fake, (str){ packet, (size_t)n });
    }
    bus_heard(&fake, S("1 5\n"));
    assert_int_equal(heard_by_one.n, 0);
    bus_heard(&fake, S("3 5\n"));
    assert_string_equal(heard_by_one.text, "!\n");
}

/* Whoever may write to the database may say anything. */
static void test_bus_bears_nonsense(void **state)
{
    static const char *const bad[] = { "",
                                       "\n",
                                       "7",
                                       "7 \n",
                                       "7 x\n",
                                       "-7 1\n",
                                       "7 99999999999999999999\n",
                                       "9 1\ntest.one",
                                       "9 1\ntest.one 5 abc\n",
                                       "9 1\ntest.one 3 abc",
                                       "9 1\ntest.one 2 abc\n",
                                       "9 1\ntest.one -2 abc\n",
                                       "9 1\ntest.one 9223372036854775807 abc\n" };
    for (size_t i = 0; i < COUNT(bad); i++) {
        bus_missed(&fake);
        clear(&heard_by_one);
        bus_heard(&fake, str_of(bad[i]));
        if (heard_by_one.n != 0)
            fail_msg("%s was heard", bad[i]);
    }
}

static void test_bus_nth_allocation(void **state)
{
    bool fired = true;
    bus_deafen();
    bus_stop();
    for (i64 n = 1; fired; n++) {
        fault_arm(FAULT_ALLOC, n);
        err e = bus_start_with(fakes);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        assert_int_equal(e, fired ? ERR_MEMORY : OK);
        assert_in_range(n, 1, 50);
    }
}

/* ---- nodes ---- */

static struct test_store place;
static bool on_postgres;

static int open_store(void **state)
{
    assert_int_equal(test_store_make(&place, on_postgres), 0);
    struct db_options options = test_store_options(&place);
    assert_int_equal(db_open(&options, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    app.config.lease_s = 30;
    app.config.role = S("all");
    app.config.node_id = S("n1");
    app.config.secret_key = S("0123456789abcdef0123456789abcde1");
    app.config.jwt_secret = S("0123456789abcdef0123456789abcde2");
    return 0;
}

static int close_store(void **state)
{
    db_thread_end(app.db);
    db_close(app.db);
    app.db = NULL;
    test_store_remove(&place);
    return 0;
}

static void start(err wanted, const char *complaint)
{
    struct arena *a = arena_new(MIB);
    struct buf b = { .arena = a };
    assert_int_equal(nodes_start(&b), wanted);
    buf_char(&b, '\0');
    if (strstr(b.p, complaint) == NULL)
        fail_msg("%s does not say %s", b.p, complaint);
    arena_free(a);
}

static void admin(const char *sql)
{
    assert_int_equal(test_store_admin(place.database, sql), 0);
}

static struct node first_node(struct arena *a, u32 *n)
{
    struct node *list;
    assert_int_equal(nodes_list(a, &list, n), OK);
    assert_true(*n > 0);
    return list[0];
}

static void test_one_node_alone(void **state)
{
    struct arena *a = arena_new(MIB);
    u32 n;
    assert_int_equal(node_incarnation(), 0);
    assert_false(node_lease_held(clock_mono_us()));
    start(OK, "");
    assert_true(node_incarnation() > 0);
    assert_true(node_lease_held(clock_mono_us()));
    assert_int_equal(nodes_alive(), 1);
    assert_true(str_eq(node_id(), S("n1")));
    assert_int_equal(nodes_possible(), on_postgres);
    assert_int_equal(nodes_cluster().n, on_postgres ? 16 : 0);
    struct node self = first_node(a, &n);
    assert_int_equal(n, 1);
    assert_true(str_eq(self.id, S("n1")) && str_eq(self.role, S("all")) && str_eq(self.version, S(WEIR_VERSION)));
    assert_int_equal(self.incarnation, node_incarnation());
    nodes_stop();
    assert_false(node_lease_held(clock_mono_us()));
    assert_int_equal(node_incarnation(), 0);
    arena_free(a);
}

static void test_role(void **state)
{
    static const struct {
        str name;
        bool works, answers;
    } cases[] = { { S_INIT("all"), true, true }, { S_INIT("api"), false, true }, { S_INIT("worker"), true, false } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        app.config.role = cases[i].name;
        assert_int_equal(node_works(), cases[i].works);
        assert_int_equal(node_answers(), cases[i].answers);
    }
}

static void test_a_name_is_made_up(void **state)
{
    app.config.node_id = STR_NONE;
    start(OK, "");
    assert_true(str_starts(node_id(), S("node_")));
    nodes_stop();
}

/* ---- nodes that are not alone: PostgreSQL ---- */

static int ended_count;
static void on_ended(void)
{
    pthread_mutex_lock(&lock);
    ended_count++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
NODES_ENDED(count_ended, on_ended);

#define ADD_NODE(id, seconds)                                                                    \
    "INSERT INTO nodes (id, role, version, host, started_at, beat_at, lease_until) VALUES ('" id \
    "', 'worker', '9', 'h', 1, 1, extract(epoch FROM clock_timestamp()) * 1000000 + " #seconds " * 1000000)"

static void test_others_are_seen_and_end(void **state)
{
    struct arena *a = arena_new(MIB);
    u32 n;
    admin(ADD_NODE("n2", 2));
    admin(ADD_NODE("n3", -1));
    ended_count = 0;
    start(OK, "");
    assert_int_equal(nodes_alive(), 2);
    struct node self = first_node(a, &n);
    assert_int_equal(n, 2);
    assert_int_equal(self.incarnation, node_incarnation());
    pthread_mutex_lock(&lock); /* by time, without a heartbeat being due */
    while (ended_count == 0)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    assert_int_equal(nodes_alive(), 1);
    nodes_stop();
    arena_free(a);
}

/* The same id again: what the process before it had is free at once. */
static void test_a_node_ends_its_older_self(void **state)
{
    admin(ADD_NODE("n1", 1000));
    start(OK, "");
    assert_int_equal(nodes_alive(), 1);
    nodes_stop();
    admin("DO $$ BEGIN IF EXISTS (SELECT 1 FROM nodes WHERE ended_at IS NULL OR lease_until > ended_at)"
          " THEN RAISE EXCEPTION 'a lease is left'; END IF; END $$");
}

static void test_keys_must_agree(void **state)
{
    start(OK, "");
    nodes_stop();
    app.config.secret_key = S("0123456789abcdef0123456789abcde9");
    start(ERR_CONFLICT, "SECRET_KEY");
    app.config.secret_key = S("0123456789abcdef0123456789abcde1");
    app.config.jwt_secret = S("0123456789abcdef0123456789abcde9");
    admin(ADD_NODE("n2", 1000));
    start(ERR_CONFLICT, "JWT_SECRET_KEY");
    app.config.jwt_secret_previous = S("0123456789abcdef0123456789abcde2");
    start(OK, "");
    nodes_stop();
    app.config.jwt_secret_previous = STR_NONE;
    admin("DELETE FROM nodes");
    app.config.jwt_secret = S("0123456789abcdef0123456789abcde8");
    start(OK, "");
    nodes_stop();
    app.config.secret_key_previous = app.config.secret_key;
    app.config.secret_key = S("0123456789abcdef0123456789abcde7");
    start(OK, "");
    nodes_stop();
    app.config.secret_key_previous = STR_NONE;
}

/* Waits for it in the database. */
static void until_there(const char *sql)
{
    char text[512];
    snprintf(text, sizeof text,
             "DO $$ BEGIN FOR i IN 1..400 LOOP IF %s THEN RETURN; END IF; PERFORM pg_sleep(0.05); END LOOP;"
             " RAISE EXCEPTION 'it did not come'; END $$",
             sql);
    admin(text);
}

/* A database that was away longer than the lease: the same incarnation goes on. */
static void test_a_lease_that_ran_out_is_renewed(void **state)
{
    app.config.lease_s = 3;
    start(OK, "");
    i64 before = node_incarnation();
    admin("UPDATE nodes SET lease_until = 0");
    until_there("EXISTS (SELECT 1 FROM nodes WHERE lease_until > 0)");
    assert_int_equal(node_incarnation(), before);
    assert_true(node_lease_held(clock_mono_us()));
    nodes_stop();
}

/* Nobody could renew it for longer than it lasts: what was ours before must not be taken for ours. */
static void test_a_lease_that_was_lost_begins_a_new_term(void **state)
{
    app.config.lease_s = 3;
    start(OK, "");
    u32 before = node_lease_term();
    admin("DO $$ BEGIN LOCK TABLE nodes IN EXCLUSIVE MODE; PERFORM pg_sleep(3); END $$");
    i64 until_us = clock_mono_us() + 20 * SECOND_US;
    while (clock_mono_us() < until_us && (!node_lease_held(clock_mono_us()) || node_lease_term() == before))
        sched_yield();
    assert_true(node_lease_held(clock_mono_us()));
    assert_int_equal(node_lease_term(), before + 1);
    nodes_stop();
    start(OK, "");
    assert_int_equal(node_lease_term(), before + 2);
    nodes_stop();
}

/* After a connection that could not be made nobody tries another one for a quarter of a second. */
static err start_again(enum fault_kind fault, i64 n)
{
    err e = ERR_UNAVAILABLE;
    i64 until_us = clock_mono_us() + 20 * SECOND_US;
    while (e == ERR_UNAVAILABLE && clock_mono_us() < until_us) {
        struct arena *a = arena_new(MIB);
        struct buf b = { .arena = a };
        fault_arm(fault, n);
        e = nodes_start(&b);
        arena_free(a);
        if (fault_fired(fault))
            break;
    }
    return e;
}

static void test_nth_failure_of_a_start(void **state)
{
    bool fired = true;
    for (int kind = 0; kind < 2; kind++, fired = true)
        for (i64 n = 1; fired; n++) {
            enum fault_kind fault = kind == 0 ? FAULT_STATEMENT : FAULT_ALLOC;
            err e = start_again(fault, n);
            fired = fault_fired(fault);
            fault_arm(fault, 0);
            if (node_incarnation() > 0)
                nodes_stop();
            assert_true(e == OK || fired);
            assert_in_range(n, 1, 200);
        }
}

#define WITH_BUS(test)   cmocka_unit_test_setup_teardown(test, start_fake, stop_fake)
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, open_store, close_store)

int main(int argc, char **argv)
{
    on_postgres = test_store_on_postgres(argc, argv);
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    const struct CMUnitTest alone[] = {
        WITH_BUS(test_bus_says),
        WITH_BUS(test_bus_splits_and_bounds_texts),
        WITH_BUS(test_bus_goes_another_way),
        WITH_BUS(test_bus_spills),
        WITH_BUS(test_bus_alone_says_nothing),
        WITH_BUS(test_bus_owes),
        WITH_BUS(test_bus_hears),
        WITH_BUS(test_bus_finds_gaps),
        WITH_BUS(test_bus_remembers_so_many_senders),
        WITH_BUS(test_bus_bears_nonsense),
        WITH_BUS(test_bus_nth_allocation),
        WITH_STORE(test_one_node_alone),
        WITH_STORE(test_role),
        WITH_STORE(test_a_name_is_made_up),
    };
    const struct CMUnitTest together[] = {
        WITH_STORE(test_one_node_alone),
        WITH_STORE(test_others_are_seen_and_end),
        WITH_STORE(test_a_node_ends_its_older_self),
        WITH_STORE(test_keys_must_agree),
        WITH_STORE(test_a_lease_that_ran_out_is_renewed),
        WITH_STORE(test_a_lease_that_was_lost_begins_a_new_term),
        WITH_STORE(test_nth_failure_of_a_start),
    };
    return on_postgres ? cmocka_run_group_tests(together, NULL, NULL) : cmocka_run_group_tests(alone, NULL, NULL);
}
