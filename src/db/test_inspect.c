/* test_inspect.c - the look at a database from outside: clean, broken, newer, served by somebody, not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "db/sqlite.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct migration db_migrations[] = {
    { 1, "parents",
      "CREATE TABLE parents (id INTEGER PRIMARY KEY, text TEXT); CREATE INDEX parents_text ON parents (text);",
      "DROP TABLE parents;" },
    { 2, "children", "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id));",
      "DROP TABLE children;" },
    { 0 },
};

struct fixture {
    struct arena *arena;
    char folder[64];
    str path;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/weir-inspect-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->arena = arena_new(16 * MIB);
    f->path = str_of(f->folder);
    log_setup(LOG_OFF, LOG_ERROR);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char path[128];
    static const char *const files[] = { "weir.db", "weir.db-wal", "weir.db-shm", "weir.lock" };
    for (size_t i = 0; i < COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", f->folder, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(f->folder), 0); /* nothing else was made */
    arena_free(f->arena);
    free(f);
    return 0;
}

static struct db *served(struct fixture *f)
{
    struct db *db;
    struct db_options options = { .folder = f->path };
    assert_int_equal(db_open(&options, &db), OK);
    assert_int_equal(db_migrate_up(db), OK);
    return db;
}

/* Past the server, as no one should. */
static void meddle(struct fixture *f, const char *sql)
{
    sqlite3 *raw;
    char path[128];
    snprintf(path, sizeof path, "%s/weir.db", f->folder);
    assert_int_equal(sqlite3_open(path, &raw), SQLITE_OK);
    assert_int_equal(sqlite3_exec(raw, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(raw);
}

static bool there(struct fixture *f, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return access(path, F_OK) == 0;
}

static void test_absent(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found;
    assert_int_equal(db_inspect(f->arena, f->path, &found), ERR_NOT_FOUND);
    assert_false(there(f, "weir.db"));
}

static void test_clean_beside_a_server_and_alone(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found;
    struct db *db = served(f);
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_int_equal(found.applied, 2);
    assert_int_equal(found.known, 2);
    assert_true(found.newest_applied_at > 0);
    db_close(db);
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_int_equal(found.broken.n + found.orphan.n + found.wrong_migration.n, 0);
    assert_false(there(f, "weir.db-wal")); /* and it left none behind */
    assert_false(there(f, "weir.db-shm"));
}

static void test_orphan(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found;
    db_close(served(f));
    meddle(f, "PRAGMA foreign_keys = OFF; INSERT INTO children VALUES (1, 7)");
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_true(str_eq(found.orphan, S("children → parents")));
    assert_int_equal(found.broken.n, 0);
}

static void test_broken_page(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found = { 0 };
    char path[128], noise[4096];
    db_close(served(f));
    meddle(f, "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000)"
              " INSERT INTO parents SELECT n, 'text ' || n FROM c; PRAGMA wal_checkpoint(TRUNCATE)");
    snprintf(path, sizeof path, "%s/weir.db", f->folder);
    int fd = open(path, O_WRONLY);
    memset(noise, 0xA5, sizeof noise);
    assert_int_equal(pwrite(fd, noise, sizeof noise, 8 * 4096), sizeof noise);
    close(fd);
    err e = db_inspect(f->arena, f->path, &found);
    assert_true(e == OK || e == ERR_INTERNAL);
    assert_true(found.broken.n > 0);
}

static void test_no_database_at_all(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found = { 0 };
    char path[128];
    snprintf(path, sizeof path, "%s/weir.db", f->folder);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is a text file\n", file);
    fclose(file);
    assert_int_equal(db_inspect(f->arena, f->path, &found), ERR_INTERNAL);
    assert_true(found.broken.n > 0);
}

static void test_migrations(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found;
    db_close(served(f));
    meddle(f, "DELETE FROM schema_migrations WHERE number = 2");
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_int_equal(found.applied, 1);
    assert_int_equal(found.wrong_migration.n, 0);
    meddle(f, "UPDATE schema_migrations SET checksum = 'another'");
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_true(str_eq(found.wrong_migration, S("parents")));
    meddle(f, "DELETE FROM schema_migrations; INSERT INTO schema_migrations VALUES (9, 'later', '', 5)");
    assert_int_equal(db_inspect(f->arena, f->path, &found), OK);
    assert_true(str_eq(found.wrong_migration, S("later")));
    assert_int_equal(found.newest_applied_at, 5);
}

/* A name with what means something in a URI. */
static void test_odd_folder(void **state)
{
    struct fixture *f = *state;
    struct db_inspection found;
    char odd[128];
    snprintf(odd, sizeof odd, "%s/a?b#c%%41 d", f->folder);
    struct fixture inside = *f;
    inside.path = str_of(odd);
    db_close(served(&inside));
    assert_int_equal(db_inspect(f->arena, inside.path, &found), OK);
    assert_int_equal(found.applied, 2);
    static const char *const files[] = { "weir.db", "weir.lock" };
    for (size_t i = 0; i < COUNT(files); i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", odd, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(odd), 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_absent),     TEST(test_clean_beside_a_server_and_alone),
        TEST(test_orphan),     TEST(test_broken_page),
        TEST(test_migrations), TEST(test_no_database_at_all),
        TEST(test_odd_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
