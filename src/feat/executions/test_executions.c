/* test_executions.c - idempotency keys, and what the cleaner deletes. Reading, listing and watching are tested in tests/api. */
#include "core/app.h"
#include "core/jobs.h"
#include "core/module.h"
#include "engine/definition.h"
#include "feat/executions/executions.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

const struct module *const modules[] = { NULL };
const struct table definition_trigger_table = { .name = "DefinitionTrigger" };

static struct arena *a;

static int setup(void **state)
{
    a = arena_new(8 * MIB);
    return a == NULL;
}

static int teardown(void **state)
{
    arena_free(a);
    return 0;
}

struct dedup {
    str tenant_id, scope, key, body;
    u32 times; /* that the header is sent */
};

static err dedup(const struct dedup *d, struct start *start)
{
    struct pair headers[2] = { { S("idempotency-key"), d->key }, { S("idempotency-key"), d->key } };
    struct http_request http = { .arena = a, .headers = headers, .header_count = d->times };
    struct req rq = { .arena = a, .http = &http, .errors.arena = a };
    *start = (struct start){ 0 };
    return execution_dedup(&rq, S("Idempotency-Key"), d->tenant_id, d->scope, d->body, start);
}

static const struct dedup usual = { S_INIT("tenant_1"), S_INIT("trigger_1"), S_INIT("order-1"), S_INIT("{}"), 1 };

static void test_no_header_is_no_key(void **state)
{
    struct start start;
    struct dedup none = usual;
    none.times = 0;
    assert_int_equal(dedup(&none, &start), OK);
    assert_null(start.dedup_key.p);
    assert_null(start.dedup_body.p);
}

static void test_the_same_is_the_same_and_the_rest_is_not(void **state)
{
    struct start first, again, other;
    assert_int_equal(dedup(&usual, &first), OK);
    assert_int_equal(dedup(&usual, &again), OK);
    assert_true(str_eq(first.dedup_key, again.dedup_key) && str_eq(first.dedup_body, again.dedup_body));
    struct dedup others[] = { usual, usual, usual };
    others[0].tenant_id = S("tenant_2");
    others[1].scope = S("trigger_2");
    others[2].key = S("order-2");
    for (u32 i = 0; i < COUNT(others); i++) {
        assert_int_equal(dedup(&others[i], &other), OK);
        assert_false(str_eq(first.dedup_key, other.dedup_key));
    }
    struct dedup body = usual;
    body.body = S("{\"n\":1}");
    assert_int_equal(dedup(&body, &other), OK);
    assert_true(str_eq(first.dedup_key, other.dedup_key));
    assert_false(str_eq(first.dedup_body, other.dedup_body));
}

static void test_bounds_of_a_key(void **state)
{
    char text[256];
    struct start start;
    memset(text, '~', sizeof text);
    const struct {
        str key;
        err outcome;
    } rows[] = {
        { { text, 0 }, ERR_INVALID },
        { { text, 1 }, OK },
        { { text, 254 }, OK },
        { { text, 255 }, OK },
        { { text, 256 }, ERR_INVALID },
        { S("a b"), ERR_INVALID },
        { S("a\tb"), ERR_INVALID },
        { S("\xc3\xa9"), ERR_INVALID },
        { S("!"), OK },
        { S("a\x7f"), ERR_INVALID },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        struct dedup d = usual;
        d.key = rows[i].key;
        assert_int_equal(dedup(&d, &start), rows[i].outcome);
    }
    struct dedup twice = usual;
    twice.times = 2;
    assert_int_equal(dedup(&twice, &start), ERR_INVALID);
}

/* ---- cleaning ---- */

struct left {
    struct presence has;
    i64 n;
};
static const struct field left_fields[] = { FIELD(struct left, n, F_I64, .doc = "How many") };
static const struct table left_table = TABLE("Left", struct left, left_fields);
STMT(left_count, "SELECT count(*) AS n FROM executions WHERE tenant_id = $1", .row = &left_table);
STMT(
    failed_insert,
    "INSERT INTO executions (id, tenant_id, workflow_id, version, status, created_at, deadline_at, trigger_data, input_data, expire_at)"
    " VALUES ($1, $2, 'workflow_1', 1, 'failed', 1, 1, '{}', '{}', $3)");

/* More than two slices, of which every second one is due at 1,000; one stays for ever. */
static err insert_failed(void *ctx, struct tx *tx)
{
    for (int i = 0; i < 500; i++)
        TRY(db_exec(tx, &failed_insert, NULL,
                    ARGS(STR(strf(a, "execution_%d", i)), STR(S("tenant_1")), I64(i % 2 == 0 ? 1000 : 1001))));
    return db_exec(tx, &failed_insert, NULL, ARGS(STR(S("execution_kept")), STR(S("tenant_1")), NIL));
}

static i64 left_at(i64 now_us)
{
    struct left left;
    struct tx *tx;
    const struct job job = { .now_us = now_us, .arena = a };
    assert_int_equal(executions_module.jobs[0].run(&job), OK);
    assert_int_equal(db_read_begin(app.db, a, false, &tx), OK);
    assert_int_equal(db_row(tx, &left_count, &left, ARGS(STR(S("tenant_1")))), OK);
    db_read_end(tx);
    return left.n;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

static void test_failed_executions_go_when_their_time_is_up(void **state)
{
    char folder[] = "/tmp/weir-executions-XXXXXX";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(db_open(&(struct db_options){ .folder = str_of(folder) }, &app.db), OK);
    assert_int_equal(db_migrate_up(app.db), OK);
    assert_int_equal(db_write_wait(app.db, a, insert_failed, NULL), OK);
    assert_int_equal(left_at(999), 501);
    assert_int_equal(left_at(1000), 251);
    assert_int_equal(left_at(1001), 1);
    db_thread_end(app.db);
    db_close(app.db);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_header_is_no_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_same_is_the_same_and_the_rest_is_not, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds_of_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_executions_go_when_their_time_is_up, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
