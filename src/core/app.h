/* app.h - the one mutable global: what a running Weir consists of. Written at start, by main's thread, and constant while it serves. */
#pragma once

#include "core/config.h"
#include "core/keys.h"
#include "core/module.h"
#include "db/db.h"
#include "net/client.h"

struct engine;
struct pool;
struct app {
    struct config config;
    struct arena *arena; /* lives as long as the process */
    struct db *db;
    u8 mac_keys[MAC_KEYS][MAC_KEY_BYTES]; /* once mac_keys_open */
    bool mac_keys_open;
    struct loop **loops;
    struct client **clients; /* one per loop */
    u32 loop_count;
    struct pool *slow, *hashing; /* hashing: passwords and nothing else */
    struct pool *reads;          /* where reads run that block (PostgreSQL); NULL: they run on the loops */
    const struct egress *egress;
    struct engine *engine; /* the engine's own; core never looks inside */
    struct http_server *server;
    i64 started_us;
    _Atomic bool draining;
};
extern struct app app;

/* The life of a serving process: config, secrets, database, migration, checks, modules' start, loops, listener; returns the exit code. */
int app_serve(void);
/* Any thread: the process stops as on SIGTERM, but its exit code says that it failed. */
void app_end(void);
/* What tools (weir user add …) need: config, secrets, database opened and migrated. Complaints go to stderr; exit code when not 0. */
int app_open(void);
/* For tools that only read, beside a running server too; there must be a database. */
int app_open_reading(void);
/* For tools that open the database themselves, or another one: settings only. */
int app_open_settings(struct db_options *store);
/* The same without migrating: for `weir migrate`. */
int app_open_unmigrated(void);
void app_close(void);

/* A bounded pool of threads. */
struct task {
    void (*run)(struct task *);
    struct task *next;
};
struct pool *pool_new(const char *name, u32 threads, u32 queue_max) MUST;
err pool_submit(struct pool *p, struct task *t) MUST; /* ERR_BUSY when full */
void pool_free(struct pool *p);                       /* finishes what is queued */
