/* test_store.h - a place for a store of a test, on either database: a folder of its own, or a database of its own in the PostgreSQL whose URL
 * run.mjs puts into TEST_POSTGRES_URL (its login is a superuser; the stores are opened as "weir", which is not). */
#pragma once

#include "db/db.h"

#include <ftw.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEST_SKIPPED = 77 /* as meson understands it */ };

struct test_store {
    bool postgres;
    char folder[64], database[64], url[512];
};
static u32 test_stores;

/* SQL as the superuser, in the database of that name. */
static inline int test_store_admin(const char *database, const char *sql)
{
    const char *const names[] = { "dbname", "dbname", NULL };
    const char *const values[] = { getenv("TEST_POSTGRES_URL"), database, NULL };
    PGconn *c = PQconnectdbParams(names, values, 1);
    PGresult *r = PQexec(c, sql);
    ExecStatusType status = PQresultStatus(r);
    bool good = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
    if (!good)
        fprintf(stderr, "%s: %s\n", sql, PQerrorMessage(c));
    PQclear(r);
    PQfinish(c);
    return good ? 0 : -1;
}

/* The URL with another login and database: scheme://login:password@host:port/database. */
static inline void test_store_url(struct test_store *t, const char *login)
{
    const char *admin = getenv("TEST_POSTGRES_URL"), *colon = strchr(admin + strlen("postgresql://"), ':');
    const char *slash = strrchr(admin, '/');
    snprintf(t->url, sizeof t->url, "postgresql://%s%.*s/%s", login, (int)(slash - colon), colon, t->database);
}

/* Ends the program when there is nothing to run on. */
static inline bool test_store_on_postgres(int argc, char **argv)
{
    bool postgres = argc > 1 && strcmp(argv[1], "postgres") == 0;
    if (postgres && getenv("TEST_POSTGRES_URL") == NULL)
        exit(TEST_SKIPPED);
    return postgres;
}

static inline int test_store_make(struct test_store *t, bool postgres)
{
    char sql[160];
    *t = (struct test_store){ .postgres = postgres };
    snprintf(t->folder, sizeof t->folder, "/tmp/weir-test-db-XXXXXX");
    if (mkdtemp(t->folder) == NULL)
        return -1;
    if (!postgres)
        return 0;
    snprintf(t->database, sizeof t->database, "unit_%d_%u", (int)getpid(), ++test_stores);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s OWNER weir", t->database);
    test_store_url(t, "weir");
    return test_store_admin("postgres", sql);
}

static inline struct db_options test_store_options(const struct test_store *t)
{
    struct db_options o = { .folder = str_of(t->folder) };
    if (t->postgres)
        o.url = str_of(t->url);
    return o;
}

static inline int test_store_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static inline void test_store_remove(struct test_store *t)
{
    char sql[160];
    nftw(t->folder, test_store_remove_one, 8, FTW_DEPTH | FTW_PHYS);
    snprintf(sql, sizeof sql, "DROP DATABASE IF EXISTS %s WITH (FORCE)", t->database);
    if (t->postgres)
        (void)!test_store_admin("postgres", sql);
}
