/* spread.c - the engines of several nodes on one database: what one says to the others and hears from them, what it looks at each second because news may get lost, and how
 * the executions of a node that has gone find another one.
 *
 * Nothing here decides who has an execution: its row does (`owner`, and `fence`, which every write of a run carries). So news are hints, and whoever acts on a wrong one finds
 * nothing to do. On SQLite there is one process: only the take-over at its start is left of all this. */
#include "engine/internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/app.h"
#include "core/bus.h"
#include "core/metrics.h"
#include "core/nodes.h"

#include <stdio.h>

enum {
    LOOK_BYTES = 16 << 20,
    OWNERS_MAX = 1000,
    TAKEN_MAX = 1000, /* that are taken over in one transaction */
    PAGE = 500,
    OWNED_EVERY = 10, /* looks */
    TEXT_BYTES = 96
};
static const i64 every_us = SECOND_US;

static i64 read_taken_over(void)
{
    return app.engine != NULL ? (i64)atomic_load(&app.engine->spread.taken_over) : 0;
}
METRIC(taken_over, "weir_executions_taken_over_total", METRIC_COUNTER,
       "Executions of nodes that were gone, made due again by this one", .read = read_taken_over);

/* --- news --------------------------------------------------------------------------------------------------------- */

static void heard(str text);
BUS(engine_news, "executions", heard);

static const char *const words[NEWS_KINDS] = { "due", "cancel", "kill", "look", "want", "ended" };

void spread_say(const struct engine *e, enum news_kind what, str execution_id)
{
    char text[TEXT_BYTES];
    if (!e->shared || nodes_alive() <= 1)
        return;
    int n = snprintf(text, sizeof text, "%s %.*s", words[what], (int)execution_id.n,
                     execution_id.p != NULL ? execution_id.p : "");
    bus_say(&engine_news, (str){ text, MIN((size_t)n, sizeof text - 1) });
}

/* NULL: not open yet, or closing. */
static struct engine *listening(void)
{
    struct engine *e = __atomic_load_n(&app.engine, __ATOMIC_ACQUIRE);
    return e != NULL && e->shared && !atomic_load(&e->closing) ? e : NULL;
}

static void look_now(struct engine *e)
{
    atomic_store(&e->spread.next_us, 0);
    engine_wake(e);
}

static void heard(str text)
{
    struct engine *e = listening();
    str word;
    if (e == NULL)
        return;
    if (text.p == NULL) {
        look_now(e);
        return;
    }
    if (!str_cut(&text, ' ', &word))
        return;
    for (u32 i = 0; i < NEWS_KINDS; i++)
        if (str_eq(word, str_of(words[i])) && i != NEWS_DUE)
            worker_hear(worker_of(e, text), &(struct news){ .what = (enum news_kind)i, .execution_id = text });
        else if (str_eq(word, str_of(words[i])))
            engine_wake(e);
}

static void somebody_ended(void)
{
    struct engine *e = listening();
    if (e != NULL)
        look_now(e);
}
NODES_ENDED(engine_nodes_ended, somebody_ended);

bool spread_may_act(const struct engine *e)
{
    return !e->shared || e->owner == 0 || node_lease_held(clock_mono_us()); /* 0: an engine by itself, in tests */
}

static bool may_take_over(const struct engine *e)
{
    return !e->shared || e->owner == 0 || node_may_take_over(clock_mono_us());
}

/* --- taking over -------------------------------------------------------------------------------------------------- */

struct owner_row {
    struct presence has;
    i64 owner;
};
static const struct field owner_fields[] = { FIELD(struct owner_row, owner, F_I64, .doc = "An incarnation") };
static const struct table owner_table = TABLE("ExecutionOwner", struct owner_row, owner_fields);
/* The walk goes from owner to owner by index, so it costs as many steps as there are nodes, however many executions they have. */
#define OWNERS                                                                                             \
    "WITH RECURSIVE o (id) AS (SELECT min(owner) FROM executions WHERE owner IS NOT NULL UNION ALL SELECT" \
    " (SELECT min(e.owner) FROM executions e WHERE e.owner > o.id) FROM o WHERE o.id IS NOT NULL)"         \
    " SELECT o.id AS owner FROM o WHERE o.id IS NOT NULL AND o.id <> $1"
STMT(owners_gone, OWNERS, .postgres = OWNERS " AND NOT " NODE_LIVES("o.id"), .row = &owner_table, .scope = SCOPE_SYSTEM,
     .scan_ok = true);
/* The lease is asked for again: one that ran out may have been renewed meanwhile. */
#define TAKE_OVER "UPDATE executions SET due_at = $1, owner = NULL, fence = fence + 1 WHERE "
STMT(take_over, TAKE_OVER "id IN (SELECT id FROM executions WHERE owner = $2 LIMIT $3)",
     .postgres = TAKE_OVER "id = ANY (ARRAY(SELECT id FROM executions WHERE owner = $2 AND NOT " NODE_LIVES(
         "$2") " LIMIT $3 FOR UPDATE SKIP LOCKED))",
     .scope = SCOPE_SYSTEM);
STMT(hand_back, "UPDATE executions SET due_at = $1, owner = NULL, fence = fence + 1 WHERE owner = $2",
     .scope = SCOPE_SYSTEM);

struct taking {
    i64 now_us, owner, changed;
    const struct engine *engine;
};

static err take_some(void *ctx, struct tx *tx)
{
    struct taking *t = ctx;
    return db_exec(tx, &take_over, &t->changed, ARGS(I64(t->now_us), I64(t->owner), I64(TAKEN_MAX)));
}

/* In pieces: a node may have had ten thousand, and others claim the first of them meanwhile. */
static err take_all_of(struct engine *e, struct arena *a, i64 owner, i64 *total)
{
    struct taking t = { .now_us = clock_now_us(), .owner = owner };
    do {
        TRY(db_write_own(e->options.db, a, take_some, &t));
        *total += t.changed;
    } while (t.changed == TAKEN_MAX);
    return OK;
}

/* `except`: an incarnation that is not looked at. */
static err read_gone(struct engine *e, struct arena *a, i64 except, struct owner_row **list, u32 *n)
{
    struct tx *tx;
    TRY(db_read_begin(e->options.db, a, false, &tx));
    err failed = db_list(tx, &owners_gone, OWNERS_MAX, (void **)list, n, ARGS(I64(except)));
    db_read_end(tx);
    return failed;
}

static err take_over_from(struct engine *e, struct arena *a, i64 except)
{
    struct owner_row *list;
    u32 n;
    i64 total = 0;
    TRY(read_gone(e, a, except, &list, &n));
    if (!may_take_over(e)) /* asked once the answer is there: the database may have been away meanwhile */
        return OK;
    err failed = OK;
    for (u32 i = 0; i < n && failed == OK; i++)
        failed = take_all_of(e, a, list[i].owner, &total);
    if (total > 0) {
        LOG(LOG_INFO, "engine.taken_over", LOG_INT("executions", total));
        atomic_fetch_add(&e->spread.taken_over, (u64)total);
        engine_due(e, clock_now_us());
    }
    return failed;
}

static err run_unlimited(void *ctx, struct tx *tx)
{
    const struct taking *t = ctx;
    return slots_take_over(tx, t->engine->options.tenant_limit, t->now_us);
}

/* At a start nothing is in memory, so rows that name our own incarnation are no exception: there are none but in tests. */
err spread_open(struct engine *e)
{
    enum { NOBODY = -1 };
    struct taking t = { .now_us = clock_now_us(), .engine = e };
    struct arena *a = arena_new(LOOK_BYTES);
    if (a == NULL)
        return ERR_MEMORY;
    err failed = db_write_wait(e->options.db, a, run_unlimited, &t);
    if (failed == OK)
        failed = take_over_from(e, a, NOBODY);
    arena_free(a);
    return failed;
}

static err run_hand_back(void *ctx, struct tx *tx)
{
    struct taking *t = ctx;
    return db_exec(tx, &hand_back, &t->changed, ARGS(I64(t->now_us), I64(t->owner)));
}

/* Calls that were cut off, and writes that failed until the end. If it cannot be said now, the end of the lease says it. */
void spread_close(struct engine *e)
{
    struct taking t = { .now_us = clock_now_us(), .owner = e->owner };
    struct arena *a = e->shared ? arena_new(LOOK_BYTES) : NULL;
    if (a != NULL && db_write_own(e->options.db, a, run_hand_back, &t) == OK && t.changed > 0)
        LOG(LOG_INFO, "engine.handed_back", LOG_INT("executions", t.changed));
    spread_say(e, NEWS_DUE, STR_NONE);
    arena_free(a);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

struct asked_row {
    struct presence has;
    str id;
    i64 cancel_at, kill_at, wake_at;
};
static const struct field asked_fields[] = {
    FIELD(struct asked_row, id, F_STR, .doc = "Execution"),
    FIELD(struct asked_row, cancel_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for its end"),
    FIELD(struct asked_row, kill_at, F_I64, .flags = F_NULLABLE, .doc = "When somebody asked for it at once"),
    FIELD(struct asked_row, wake_at, F_I64, .flags = F_NULLABLE, .doc = "When there was last something to look at"),
};
static const struct table asked_table = TABLE("ExecutionAsked", struct asked_row, asked_fields);
STMT(asked_select,
     "SELECT id, cancel_at, kill_at, wake_at FROM executions WHERE owner = $1 AND id > $2"
     " AND (cancel_at IS NOT NULL OR wake_at IS NOT NULL) ORDER BY id LIMIT $3",
     .row = &asked_table, .scope = SCOPE_SYSTEM);

static const struct field owned_fields[] = {
    FIELD(struct claim, id, F_STR, .doc = "Execution"),
    FIELD(struct claim, tenant_id, F_STR, .doc = "Whose"),
    FIELD(struct claim, fence, F_I64, .doc = "Ours"),
};
static const struct table owned_table = TABLE("ExecutionOwned", struct claim, owned_fields);
STMT(owned_select, "SELECT id, tenant_id, fence FROM executions WHERE owner = $1 AND id > $2 ORDER BY id LIMIT $3",
     .row = &owned_table, .scope = SCOPE_SYSTEM);

static struct news news_of_asked(const struct asked_row *row)
{
    if (row->kill_at != 0)
        return (struct news){ .what = NEWS_KILL, .execution_id = row->id };
    if (row->cancel_at != 0)
        return (struct news){ .what = NEWS_CANCEL, .execution_id = row->id };
    return (struct news){ .what = NEWS_LOOK, .execution_id = row->id, .at_us = row->wake_at };
}

/* Reads page by page what is ours, and tells its worker of each. */
static err look_at_ours(struct engine *e, struct arena *a, const struct stmt *s)
{
    bool asked = s == &asked_select;
    str after = S("");
    u32 n = PAGE;
    while (n == PAGE) {
        struct tx *tx;
        void *rows;
        TRY(db_read_begin(e->options.db, a, false, &tx));
        err failed = db_list(tx, s, PAGE, &rows, &n, ARGS(I64(e->owner), STR(after), I64(PAGE)));
        db_read_end(tx);
        TRY(failed);
        for (u32 i = 0; i < n; i++) {
            const struct claim *c = (const struct claim *)rows + i;
            struct news news = asked ? news_of_asked((const struct asked_row *)rows + i)
                                     : (struct news){ NEWS_OWNED, c->id, c->tenant_id, c->fence, 0 };
            worker_hear(worker_of(e, news.execution_id), &news);
            after = news.execution_id;
        }
    }
    return OK;
}

/* What is ours by its row and unknown to its worker is there when the answer to a COMMIT was lost: nobody knew whether it had been carried out. It is given back. */
static err look_around(struct engine *e, struct arena *a)
{
    if (e->works)
        TRY(take_over_from(e, a, e->owner));
    TRY(look_at_ours(e, a, &asked_select));
    if (++e->spread.turn % OWNED_EVERY == 0)
        TRY(look_at_ours(e, a, &owned_select));
    return OK;
}

void spread_look(struct engine *e)
{
    i64 now = clock_mono_us();
    if (now < atomic_load(&e->spread.next_us))
        return;
    atomic_store(&e->spread.next_us, now + every_us);
    struct arena *a = arena_new(LOOK_BYTES);
    err failed = a != NULL ? look_around(e, a) : ERR_MEMORY;
    if (failed != OK) /* the store says why in the log */
        LOG(LOG_DEBUG, "engine.not_looked", LOG_STR("cause", str_of(err_name(failed))));
    arena_free(a);
    for (u32 i = 0; i < e->worker_count; i++)
        worker_look(&e->workers[i]);
}
