/* nodes.c - see nodes.h: the heartbeat, and what the last one saw.
 *
 * A lease that ran out is renewed as long as nobody ended it: when the database was away for a minute, all leases ran out, and throwing away what every node is doing would make it worse.
 * That is safe because whoever takes work over fences the row itself. A lease that a newer incarnation of the same id has ended is final: this process is the one that was thought dead. */
#include "core/nodes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/bus.h"
#include "core/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
    BEATS_PER_LEASE = 3,
    MARGIN_PART = 6, /* of the lease: what an effect may take to begin after we looked */
    MARK_BYTES = 8,
    CLUSTER_BYTES = 8,
    HOST_MAX = 64,
    ROW_TEXT_MAX = 512, /* all texts of a listed row */
    BEAT_BYTES = 1 << 20,
};
#define KEPT_US   (7 * DAY_US) /* rows of nodes that ended: for whoever looks what happened */
#define CLEAN_US  HOUR_US
#define RETRY_US  (SECOND_US / 2) /* after a heartbeat that failed */
#define APART_US  (SECOND_US / 5) /* between two heartbeats, however often somebody asks for one */
#define SETTLE_US (6 * RETRY_US)  /* after a database that was away: others beat as soon as they find it */

#define SECRET_MARK "mark" /* what the marks of the keys are derived by */
#define JWT_MARK    "mark of jwt"

#define SQLITE_NOW_US "CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT)"

/* ---- statements ---- */

struct row {
    struct presence has;
    i64 incarnation, started_at, beat_at, left_us;
    str id, role, version, host;
};
static const struct field fields[] = {
    FIELD(struct row, incarnation, F_I64, .doc = "Which start of which process"),
    FIELD(struct row, id, F_STR, .doc = "WEIR_NODE_ID"),
    FIELD(struct row, role, F_STR, .doc = "all, api or worker"),
    FIELD(struct row, version, F_STR, .doc = "Of Weir"),
    FIELD(struct row, host, F_STR, .doc = "Name of the machine"),
    FIELD(struct row, started_at, F_I64, .doc = "By the database's clock"),
    FIELD(struct row, beat_at, F_I64, .doc = "Likewise"),
    FIELD(struct row, left_us, F_I64, .doc = "Until its lease ends"),
};
static const struct table row_table = TABLE("NodeRow", struct row, fields);

struct cluster {
    struct presence has;
    str id, secret_mark, jwt_mark;
    i64 others;
};
static const struct field cluster_fields[] = {
    FIELD(struct cluster, id, F_STR, .doc = "Made with the database"),
    FIELD(struct cluster, secret_mark, F_STR, .doc = "Of SECRET_KEY"),
    FIELD(struct cluster, jwt_mark, F_STR, .doc = "Of JWT_SECRET_KEY"),
    FIELD(struct cluster, others, F_I64, .doc = "Nodes of other ids that have a lease"),
};
static const struct table cluster_table = TABLE("Cluster", struct cluster, cluster_fields);

/* Each statement asks the clock of the database that it runs on. */
#define ON_BOTH(text) text(SQLITE_NOW_US), .postgres = text(DATABASE_NOW_US)

#define NODE_ADD(now)                                                               \
    "INSERT INTO nodes (id, role, version, host, started_at, beat_at, lease_until)" \
    " VALUES ($1, $2, $3, $4, " now ", " now ", " now " + $5)"                      \
    " RETURNING incarnation"
#define NODE_BEAT(now)                                               \
    "UPDATE nodes SET beat_at = " now ", lease_until = " now " + $2" \
    " WHERE incarnation = $1 AND ended_at IS NULL"
#define NODE_END(now) \
    "UPDATE nodes SET ended_at = " now ", lease_until = " now " WHERE incarnation = $1 AND ended_at IS NULL"
#define NODE_SUPERSEDE(now) \
    "UPDATE nodes SET ended_at = " now ", lease_until = " now " WHERE id = $1 AND ended_at IS NULL"
#define NODES_LIVING(now)                                                                  \
    "SELECT incarnation, id, role, version, host, started_at, beat_at, lease_until - " now \
    " AS left_us FROM nodes WHERE lease_until > " now " ORDER BY incarnation LIMIT $1"
#define NODES_CLEAN(now) "DELETE FROM nodes WHERE lease_until < " now " - $1"
#define CLUSTER_GET(now)                                                                                        \
    "SELECT id, secret_mark, jwt_mark, (SELECT count(*) FROM nodes WHERE nodes.id <> $1 AND lease_until > " now \
    ") AS others FROM cluster WHERE one = 1"

STMT(node_add, ON_BOTH(NODE_ADD), .row = &row_table, .scope = SCOPE_SYSTEM);
STMT(node_beat, ON_BOTH(NODE_BEAT), .scope = SCOPE_SYSTEM);
STMT(node_end, ON_BOTH(NODE_END), .scope = SCOPE_SYSTEM);
STMT(node_supersede, ON_BOTH(NODE_SUPERSEDE), .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(nodes_living, ON_BOTH(NODES_LIVING), .row = &row_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(nodes_clean, ON_BOTH(NODES_CLEAN), .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(cluster_get, ON_BOTH(CLUSTER_GET), .row = &cluster_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(cluster_make,
     "INSERT INTO cluster (one, id, secret_mark, jwt_mark) VALUES (1, $1, $2, $3) ON CONFLICT (one) DO NOTHING",
     .scope = SCOPE_SYSTEM);
STMT(cluster_sign, "UPDATE cluster SET secret_mark = $1, jwt_mark = $2 WHERE one = 1", .scope = SCOPE_SYSTEM);

/* ---- state ---- */

/* One node per process. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stopping, early;
    _Atomic i64 incarnation, held_until_us, settled_us; /* the latter two by clock_mono_us */
    _Atomic u32 alive, term;
    char id[NODE_ID_MAX + 1], cluster[2 * CLUSTER_BYTES + 1], host[HOST_MAX + 1];
    struct arena *arena; /* of the list; under the lock, as the list is */
    struct node *list;
    u32 count;
    i64 others_until_us; /* when the first lease of another one ends, by clock_mono_us; the thread's */
    i64 cleaned_us;      /* likewise */
    i64 renewed_us;      /* likewise: when the last heartbeat that succeeded was sent; 0: none yet */
    bool said_lost;      /* likewise */
} nodes = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const char *const role_names[] = { [NODE_ALL] = "all", [NODE_API] = "api", [NODE_WORKER] = "worker" };

METRIC(heartbeats, "weir_node_heartbeats_total", METRIC_COUNTER,
       "Heartbeats of this node, by outcome (renewed, failed, ended)");
static i64 read_alive(void)
{
    return nodes_alive();
}
static i64 read_held(void)
{
    return node_lease_held(clock_mono_us());
}
METRIC(alive, "weir_nodes_alive", METRIC_GAUGE, "Nodes with a lease, this one included, as its last heartbeat saw them",
       .read = read_alive);
METRIC(held, "weir_node_lease_held", METRIC_GAUGE, "1 while this node may claim work", .read = read_held);

/* ---- questions ---- */

static i64 lease_us(void)
{
    return app.config.lease_s * SECOND_US;
}

enum node_role node_role(void)
{
    for (enum node_role r = NODE_API; r <= NODE_WORKER; r++)
        if (str_eq(app.config.role, str_of(role_names[r])))
            return r;
    return NODE_ALL;
}

bool node_works(void)
{
    return node_role() != NODE_API;
}

bool node_answers(void)
{
    return node_role() != NODE_WORKER;
}

bool nodes_possible(void)
{
    return app.db != NULL && db_has_others(app.db);
}

i64 node_incarnation(void)
{
    return atomic_load_explicit(&nodes.incarnation, memory_order_relaxed);
}

str node_id(void)
{
    return str_of(nodes.id);
}

str nodes_cluster(void)
{
    return str_of(nodes.cluster);
}

bool node_lease_held(i64 mono_us)
{
    return mono_us < atomic_load_explicit(&nodes.held_until_us, memory_order_acquire);
}

bool node_may_take_over(i64 mono_us)
{
    i64 held_until_us = atomic_load_explicit(&nodes.held_until_us, memory_order_acquire);
    return mono_us < held_until_us - lease_us() / MARGIN_PART && mono_us >= atomic_load(&nodes.settled_us);
}

u32 node_lease_term(void)
{
    return atomic_load(&nodes.term);
}

u32 nodes_alive(void)
{
    return MAX(atomic_load_explicit(&nodes.alive, memory_order_relaxed), 1u);
}

static bool copy_text(struct arena *a, str *s)
{
    *s = str_dup(a, *s);
    return s->p != NULL;
}

static err copy_nodes(struct arena *a, const struct node *from, u32 count, struct node **out)
{
    struct node *list = NEW_N(a, struct node, MAX(count, 1u));
    if (list == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < count; i++) {
        struct node *n = &list[i];
        *n = from[i];
        if (!copy_text(a, &n->id) || !copy_text(a, &n->role) || !copy_text(a, &n->version) || !copy_text(a, &n->host))
            return ERR_MEMORY;
    }
    *out = list;
    return OK;
}

err nodes_list(struct arena *a, struct node **list, u32 *n)
{
    pthread_mutex_lock(&nodes.lock);
    u32 count = nodes.count;
    err e = copy_nodes(a, nodes.list, count, list);
    pthread_mutex_unlock(&nodes.lock);
    TRY(e);
    *n = count;
    return OK;
}

/* ---- news ---- */

static void heard(str text);
BUS(hello, "nodes", heard);

static void beat_early(void)
{
    pthread_mutex_lock(&nodes.lock);
    nodes.early = true;
    if (nodes.started)
        pthread_cond_signal(&nodes.wake);
    pthread_mutex_unlock(&nodes.lock);
}

/* Somebody came or went. Who was deaf says that it is there: others may believe that they are alone, and tell nobody anything. */
static void heard(str text)
{
    beat_early();
    if (text.p == NULL)
        bus_say(&hello, S(""));
}

extern nodes_ended *const __start_weir_nodes_ended[] __attribute__((weak, visibility("hidden")));
extern nodes_ended *const __stop_weir_nodes_ended[] __attribute__((weak, visibility("hidden")));

static void tell_ended(void)
{
    for (nodes_ended *const *fn = __start_weir_nodes_ended; fn < __stop_weir_nodes_ended; fn++)
        (*fn)();
}

/* ---- what a heartbeat sees ---- */

static bool listed(const struct node *list, u32 n, i64 incarnation)
{
    for (u32 i = 0; i < n; i++)
        if (list[i].incarnation == incarnation)
            return true;
    return false;
}

static struct node node_of(const struct row *r, i64 now_us)
{
    return (struct node){ .incarnation = r->incarnation,
                          .id = r->id,
                          .role = r->role,
                          .version = r->version,
                          .host = r->host,
                          .started_at = r->started_at,
                          .beat_at = r->beat_at,
                          .lease_until = now_us + r->left_us };
}

/* This one first, for whoever reads the list. */
static err arrange(struct arena *a, const struct row *rows, u32 n, struct node **out)
{
    struct node *list = NEW_N(a, struct node, n + 1);
    u32 at = 1;
    if (list == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < n; i++) {
        bool own = rows[i].incarnation == node_incarnation();
        list[own ? 0 : at] = node_of(&rows[i], rows[i].beat_at);
        at += !own;
    }
    return copy_nodes(a, list[0].incarnation != 0 ? list : list + 1, n, out);
}

/* True when somebody who was there is not any more. A list that there is no memory for leaves the old one. */
static bool keep_list(const struct row *rows, u32 n)
{
    bool ended = false;
    struct node *list = NULL;
    struct arena *a = arena_new((n + 2) * 2 * (sizeof(struct node) + ROW_TEXT_MAX) + KIB);
    if (a == NULL || arrange(a, rows, n, &list) != OK) {
        arena_free(a);
        return false;
    }
    pthread_mutex_lock(&nodes.lock);
    for (u32 i = 0; i < nodes.count; i++)
        ended |= !listed(list, n, nodes.list[i].incarnation);
    arena_free(nodes.arena);
    nodes.arena = a;
    nodes.list = list;
    nodes.count = n;
    atomic_store(&nodes.alive, n);
    pthread_mutex_unlock(&nodes.lock);
    return ended;
}

/* ---- the heartbeat ---- */

struct beat {
    i64 renewed;
    struct row *rows;
    u32 n;
    bool clean;
};

static err beat_in(void *ctx, struct tx *tx)
{
    struct beat *b = ctx;
    void *rows;
    TRY(db_exec(tx, &node_beat, &b->renewed, ARGS(I64(node_incarnation()), I64(lease_us()))));
    if (b->clean)
        TRY(db_exec(tx, &nodes_clean, NULL, ARGS(I64(KEPT_US))));
    TRY(db_list(tx, &nodes_living, NODES_MAX, &rows, &b->n, ARGS(I64(NODES_MAX))));
    b->rows = rows;
    return OK;
}

static void saw(const struct beat *b, i64 from_us)
{
    i64 first_us = INT64_MAX;
    for (u32 i = 0; i < b->n; i++)
        if (b->rows[i].incarnation != node_incarnation())
            first_us = MIN(first_us, b->rows[i].left_us);
    nodes.others_until_us = first_us < INT64_MAX ? clock_mono_us() + first_us : INT64_MAX;
    if (b->clean)
        nodes.cleaned_us = from_us;
    if (keep_list(b->rows, b->n))
        tell_ended();
}

static void count(const char *outcome)
{
    char labels[32];
    snprintf(labels, sizeof labels, "outcome=\"%s\"", outcome);
    metric_add(&heartbeats, labels, 1);
}

/* Every node has two thirds of its lease left at the least when the database goes, so as long as this one waited no longer, nobody's lease ended for that. */
static void settle(i64 from_us)
{
    i64 now_us = clock_mono_us();
    if (nodes.renewed_us > 0 && now_us - nodes.renewed_us > lease_us() - lease_us() / BEATS_PER_LEASE)
        atomic_store(&nodes.settled_us, now_us + SETTLE_US);
    nodes.renewed_us = from_us;
}

/* The lease counts from before the statement was sent: the database has counted from later. The new term first: who sees the lease held sees that too. */
static void renewed(i64 from_us)
{
    i64 until_us = from_us + lease_us() - lease_us() / MARGIN_PART;
    if (!node_lease_held(clock_mono_us()))
        atomic_fetch_add(&nodes.term, 1);
    settle(from_us);
    atomic_store(&nodes.held_until_us, until_us);
    if (nodes.said_lost)
        LOG(LOG_WARN, "nodes.lease_held_again", LOG_STR("node", node_id()), LOG_INT("incarnation", node_incarnation()));
    nodes.said_lost = false;
    count("renewed");
}

/* Another process of our id is the one that counts. What runs here is its already. */
static void superseded(void)
{
    atomic_store(&nodes.held_until_us, 0);
    count("ended");
    LOG(LOG_ERROR, "nodes.superseded", LOG_STR("node", node_id()), LOG_INT("incarnation", node_incarnation()),
        LOG_STR("why", S("another process was started with this WEIR_NODE_ID; this one stops")));
    app_end();
}

static void failed(i64 from_us, err e)
{
    count("failed");
    if (node_lease_held(from_us) || nodes.said_lost)
        return;
    nodes.said_lost = true;
    LOG(LOG_ERROR, "nodes.lease_lost", LOG_STR("node", node_id()), LOG_INT("incarnation", node_incarnation()),
        LOG_STR("cause", str_of(err_text(e))));
}

/* False: there will be no further one. */
static bool beat(struct arena *a)
{
    i64 from_us = clock_mono_us();
    struct beat b = { .clean = from_us - nodes.cleaned_us >= CLEAN_US };
    struct arena_mark mark = arena_mark(a);
    err e = db_write_own(app.db, a, beat_in, &b);
    if (e != OK) {
        failed(from_us, e);
        nodes.others_until_us = from_us + RETRY_US;
    } else if (b.renewed == 1) {
        renewed(from_us);
        saw(&b, from_us);
    } else {
        superseded();
    }
    arena_rewind(a, mark);
    return e != OK || b.renewed == 1;
}

/* A third of the lease, or when the first lease of another one ends, or soon after somebody asked. False: it is over. */
static bool wait_beat(i64 last_us)
{
    bool go_on;
    pthread_mutex_lock(&nodes.lock);
    for (;;) {
        i64 due_us = MIN(last_us + lease_us() / BEATS_PER_LEASE, nodes.others_until_us);
        due_us = MAX(nodes.early ? 0 : due_us, last_us + APART_US);
        i64 left_us = due_us - clock_mono_us();
        struct timespec until = clock_in(left_us);
        if (nodes.stopping || left_us <= 0)
            break;
        pthread_cond_timedwait(&nodes.wake, &nodes.lock, &until);
    }
    nodes.early = false;
    go_on = !nodes.stopping;
    pthread_mutex_unlock(&nodes.lock);
    return go_on;
}

static void *run_heart(void *ctx)
{
    struct arena *a = ctx;
    i64 last_us = clock_mono_us();
    while (wait_beat(last_us)) {
        last_us = clock_mono_us();
        if (!beat(a))
            break;
    }
    db_thread_end(app.db);
    arena_free(a);
    return NULL;
}

/* ---- the first row ---- */

static void mark_of(str key, const char *what, char out[2 * MARK_BYTES + 1])
{
    u8 bytes[MARK_BYTES];
    hash_hkdf_sha256(key, str_of(what), bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

struct start {
    char secret_mark[2 * MARK_BYTES + 1], jwt_mark[2 * MARK_BYTES + 1], cluster[2 * CLUSTER_BYTES + 1];
    i64 superseded, incarnation;
    const char *refused; /* why */
    struct beat seen;
};

/* Whether the mark is that of the key or of the one before it. */
static bool marks(str mark, str key, str previous, const char *what)
{
    char own[2 * MARK_BYTES + 1], before[2 * MARK_BYTES + 1];
    mark_of(key, what, own);
    mark_of(previous, what, before);
    return str_eq(mark, str_of(own)) || (previous.n > 0 && str_eq(mark, str_of(before)));
}

/* The secret key opens what is sealed in this database: with another one nothing of it can be read, ever. The other key signs tokens that live for minutes, and may be
 * changed at once where nobody serves. */
static err same_keys(struct start *s, struct tx *tx)
{
    const struct config *k = &app.config;
    struct cluster c;
    TRY(db_exec(tx, &cluster_make, NULL,
                ARGS(STR(str_of(s->cluster)), STR(str_of(s->secret_mark)), STR(str_of(s->jwt_mark)))));
    TRY(db_row(tx, &cluster_get, &c, ARGS(STR(node_id()))));
    if (!marks(c.secret_mark, k->secret_key, k->secret_key_previous, SECRET_MARK))
        s->refused =
            "SECRET_KEY is not the one of this database, nor is SECRET_KEY_PREVIOUS; give all nodes of a database"
            " the same SECRET_KEY (unset, each makes a key of its own in its data folder)";
    else if (c.others > 0 && !marks(c.jwt_mark, k->jwt_secret, k->jwt_secret_previous, JWT_MARK))
        s->refused =
            "JWT_SECRET_KEY is not the one of the nodes that serve this database, nor is JWT_SECRET_KEY_PREVIOUS;"
            " their tokens would not be accepted here";
    if (s->refused != NULL)
        return ERR_CONFLICT;
    snprintf(s->cluster, sizeof s->cluster, "%.*s", STR_FMT(c.id));
    return db_exec(tx, &cluster_sign, NULL, ARGS(STR(str_of(s->secret_mark)), STR(str_of(s->jwt_mark))));
}

static err start_in(void *ctx, struct tx *tx)
{
    struct start *s = ctx;
    struct row row;
    void *rows;
    TRY(same_keys(s, tx));
    TRY(db_exec(tx, &node_supersede, &s->superseded, ARGS(STR(node_id()))));
    TRY(db_row(tx, &node_add, &row,
               ARGS(STR(node_id()), STR(str_of(role_names[node_role()])), STR(S(WEIR_VERSION)), STR(str_of(nodes.host)),
                    I64(lease_us()))));
    s->incarnation = row.incarnation;
    TRY(db_list(tx, &nodes_living, NODES_MAX, &rows, &s->seen.n, ARGS(I64(NODES_MAX))));
    s->seen.rows = rows;
    return OK;
}

static err start_heart(void)
{
    struct arena *a = arena_new(BEAT_BYTES);
    if (a == NULL || clock_cond_init(&nodes.wake) != 0) {
        arena_free(a);
        return ERR_MEMORY;
    }
    nodes.stopping = false;
    int rc = pthread_create(&nodes.thread, NULL, run_heart, a);
    if (rc != 0) {
        LOG(LOG_ERROR, "nodes.thread", LOG_INT("error", rc));
        pthread_cond_destroy(&nodes.wake);
        arena_free(a);
        return ERR_INTERNAL;
    }
    pthread_setname_np(nodes.thread, "weir-heart");
    nodes.started = true;
    return OK;
}

/* Without a name that outlives the process nothing can be taken back before its lease is over. */
static err name_node(void)
{
    struct arena *a = arena_new(4 * KIB);
    str made = a != NULL ? typeid_new(a, "node", clock_now_us()) : STR_NONE;
    str id = app.config.node_id.n > 0 ? app.config.node_id : made;
    snprintf(nodes.id, sizeof nodes.id, "%.*s", STR_FMT(id));
    if (gethostname(nodes.host, HOST_MAX) != 0)
        nodes.host[0] = '\0';
    arena_free(a);
    return id.n > 0 ? OK : ERR_MEMORY;
}

/* The one node that there is. */
static err start_alone(void)
{
    struct row self = { .incarnation = 1,
                        .id = node_id(),
                        .role = str_of(role_names[node_role()]),
                        .version = S(WEIR_VERSION),
                        .host = str_of(nodes.host),
                        .started_at = app.started_us,
                        .beat_at = app.started_us };
    atomic_store(&nodes.incarnation, 1);
    atomic_store(&nodes.held_until_us, INT64_MAX);
    (void)keep_list(&self, 1);
    return OK;
}

static err join(struct buf *complaint, struct arena *a)
{
    struct start s = { .refused = NULL };
    u8 random[CLUSTER_BYTES];
    i64 from_us = clock_mono_us();
    rng_bytes(random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(s.cluster + 2 * i, 3, "%02x", random[i]);
    mark_of(app.config.secret_key, SECRET_MARK, s.secret_mark);
    mark_of(app.config.jwt_secret, JWT_MARK, s.jwt_mark);
    err e = db_write_own(app.db, a, start_in, &s);
    if (s.refused != NULL)
        buf_f(complaint, "%s\n", s.refused);
    TRY(e);
    snprintf(nodes.cluster, sizeof nodes.cluster, "%s", s.cluster);
    atomic_store(&nodes.incarnation, s.incarnation);
    nodes.cleaned_us = from_us - CLEAN_US; /* with the first heartbeat */
    renewed(from_us);
    saw(&s.seen, from_us);
    LOG(LOG_INFO, "nodes.joined", LOG_STR("node", node_id()), LOG_INT("incarnation", s.incarnation),
        LOG_STR("role", str_of(role_names[node_role()])), LOG_INT("alive", nodes_alive()),
        LOG_INT("superseded", s.superseded));
    return start_heart();
}

err nodes_start(struct buf *complaint)
{
    TRY(name_node());
    if (!nodes_possible())
        return start_alone();
    struct arena *a = arena_new(BEAT_BYTES);
    err e = a != NULL ? join(complaint, a) : ERR_MEMORY;
    arena_free(a);
    return e;
}

static err end_in(void *ctx, struct tx *tx)
{
    return db_exec(tx, &node_end, NULL, ARGS(I64(node_incarnation())));
}

static void stop_heart(void)
{
    pthread_mutex_lock(&nodes.lock);
    nodes.stopping = true;
    nodes.started = false;
    pthread_cond_signal(&nodes.wake);
    pthread_mutex_unlock(&nodes.lock);
    pthread_join(nodes.thread, NULL);
    pthread_cond_destroy(&nodes.wake);
}

/* A lease that cannot be ended ends by itself. */
static void end_lease(void)
{
    struct arena *a = arena_new(BEAT_BYTES);
    err e = a != NULL ? db_write_own(app.db, a, end_in, NULL) : ERR_MEMORY;
    if (e != OK)
        LOG(LOG_WARN, "nodes.not_ended", LOG_STR("node", node_id()), LOG_STR("cause", str_of(err_text(e))));
    arena_free(a);
    bus_say(&hello, S(""));
}

void nodes_stop(void)
{
    bool joined = nodes.started;
    atomic_store(&nodes.held_until_us, 0);
    if (joined) {
        stop_heart();
        end_lease();
    }
    atomic_store(&nodes.settled_us, 0);
    nodes.renewed_us = 0;
    pthread_mutex_lock(&nodes.lock);
    arena_free(nodes.arena);
    nodes.arena = NULL;
    nodes.list = NULL;
    nodes.count = 0;
    pthread_mutex_unlock(&nodes.lock);
    atomic_store(&nodes.incarnation, 0);
}
