/* health.c - is it alive, is it ready, what is it made of: for supervisors, load balancers, scrapers and people.
 *
 * /livez looks at nothing: a supervisor that kills a server because its disk is slow makes things worse. None of these takes a
 * snapshot, so they answer while the store is down. */
#include "feat/health/health.h"
#include "core/app.h"
#include "core/auth.h"
#include "core/bus.h"
#include "core/nodes.h"
#include "core/req.h"
#include "core/shared.h"

struct status {
    struct presence has;
    str status;
};
static const char *const status_words[] = { "ok", "degraded", "failing", "full", "draining", NULL };
static const struct field status_fields[] = {
    FIELD(struct status, status, F_STR, .flags = F_OUTPUT, .one_of = status_words,
          .doc = "ok when all is well; degraded: slower, but nothing fails; full: the disk is, and only reads go on"),
};
static const struct table status_table = TABLE("Status", struct status, status_fields, .doc = "One word of health");

struct info {
    struct presence has;
    str name, version;
};
static const struct field info_fields[] = {
    FIELD(struct info, name, F_STR, .flags = F_OUTPUT, .doc = "Always weir"),
    FIELD(struct info, version, F_STR, .flags = F_OUTPUT, .doc = "Semantic version of the server",
          .example = "\"0.1.0\""),
};
static const struct table info_table = TABLE("Info", struct info, info_fields, .doc = "What answers here");

struct dependency {
    struct presence has;
    str status;
    double latency_ms;
    i64 checked_at;
};
static const struct field dependency_fields[] = {
    FIELD(struct dependency, status, F_STR, .flags = F_OUTPUT, .one_of = status_words, .doc = "ok, failing, or full"),
    FIELD(struct dependency, latency_ms, F_F64, .flags = F_OUTPUT | F_NULLABLE, .doc = "How long the check took"),
    FIELD(struct dependency, checked_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was looked at"),
};
static const struct table dependency_table =
    TABLE("Dependency", struct dependency, dependency_fields, .doc = "Something that the server needs");

struct shared_state {
    struct presence has;
    str status, error;
    i64 since;
};
static const struct field shared_fields[] = {
    FIELD(struct shared_state, status, F_STR, .flags = F_OUTPUT, .one_of = status_words,
          .doc = "ok, or degraded: the server does without it"),
    FIELD(struct shared_state, since, F_TIME, .flags = F_OUTPUT, .doc = "When that began"),
    FIELD(struct shared_state, error, F_STR, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "What went wrong last; null when ok"),
};
static const struct table shared_table =
    TABLE("SharedStore", struct shared_state, shared_fields, .doc = "What nodes share while it is there");

struct dependencies {
    struct presence has;
    struct dependency *database, *bus;
    struct shared_state *redis;
};
static const struct field dependencies_fields[] = {
    FIELD(struct dependencies, database, F_OBJECT, .flags = F_OUTPUT, .of = &dependency_table, .doc = "The store"),
    FIELD(struct dependencies, bus, F_OBJECT, .flags = F_OUTPUT | F_SPARSE, .of = &dependency_table,
          .doc =
              "News between nodes, with PostgreSQL; while it fails this node asks the database each second, and is ok"),
    FIELD(struct dependencies, redis, F_OBJECT, .flags = F_OUTPUT | F_SPARSE, .of = &shared_table,
          .doc = "Of REDIS_URL; absent when it is not used"),
};
static const struct table dependencies_table =
    TABLE("Dependencies", struct dependencies, dependencies_fields, .doc = "All that the server needs");

static const char *const role_words[] = { "all", "api", "worker", NULL };
struct peer {
    struct presence has;
    struct node node;
};
static const struct field node_fields[] = {
    FIELD_AS(struct peer, "id", node.id, F_STR, .flags = F_OUTPUT,
             .doc = "WEIR_NODE_ID, or what was made up at its start"),
    FIELD_AS(struct peer, "incarnation", node.incarnation, F_I64, .flags = F_OUTPUT, .doc = "Which start of it"),
    FIELD_AS(struct peer, "role", node.role, F_STR, .flags = F_OUTPUT, .one_of = role_words, .doc = "What it does"),
    FIELD_AS(struct peer, "version", node.version, F_STR, .flags = F_OUTPUT, .doc = "Of Weir"),
    FIELD_AS(struct peer, "host", node.host, F_STR, .flags = F_OUTPUT, .doc = "Name of its machine"),
    FIELD_AS(struct peer, "started_at", node.started_at, F_TIME, .flags = F_OUTPUT, .doc = "When it started"),
    FIELD_AS(struct peer, "beat_at", node.beat_at, F_TIME, .flags = F_OUTPUT, .doc = "When it was last heard of"),
};
static const struct table node_table =
    TABLE("Node", struct peer, node_fields, .doc = "A process that serves this database, by the database's clock");

struct health {
    struct presence has;
    str status;
    struct dependencies *dependencies;
    struct list nodes;
};
static const struct field health_fields[] = {
    FIELD(struct health, status, F_STR, .flags = F_OUTPUT, .one_of = status_words, .doc = "The worst of all parts"),
    FIELD(struct health, dependencies, F_OBJECT, .flags = F_OUTPUT | F_SPARSE, .of = &dependencies_table,
          .doc = "Each part; only for callers with health.read"),
    FIELD(struct health, nodes, F_LIST, .flags = F_OUTPUT | F_SPARSE, .of = &node_table, .max = NODES_MAX,
          .doc = "All nodes, this one first, as its last heartbeat saw them; only for callers with health.read"),
};
static const struct table health_table =
    TABLE("Health", struct health, health_fields, .doc = "Health of the server and its parts");

struct ready_query {
    struct presence has;
    str verbose;
};
static const struct field ready_query_fields[] = {
    FIELD(struct ready_query, verbose, F_STR, .max = 5,
          .doc = "Accepted for probes that send it; details are at /api/v1/health"),
};
static const struct table ready_query_table = TABLE("ReadyQuery", struct ready_query, ready_query_fields);

PERMISSION(can_read, "health.read", ROLES_ADMINS | ROLE_OPERATOR, "See the state of each part of the server");

/* -- handlers ------------------------------------------------------------------------------------------------------ */

static err reply_status(struct req *rq, int status, str word)
{
    struct status *out = NEW(rq->arena, struct status);
    if (out == NULL)
        return ERR_MEMORY;
    out->status = word;
    SET(status_table, out, status);
    return reply(rq, status, &status_table, out);
}

static err health_live(struct req *rq)
{
    return reply_status(rq, 200, S("ok"));
}

/* A full disk is not ready: nearly everything that comes from outside ends in a write. What comes nevertheless is served, so reads go on. */
static str store_word(i64 *latency_us)
{
    if (db_ping(app.db, latency_us) != OK)
        return S("failing");
    return db_stats(app.db).disk_full ? S("full") : S("ok");
}

static err health_ready(struct req *rq)
{
    i64 latency_us;
    str word = app.draining ? S("draining") : store_word(&latency_us);
    return reply_status(rq, str_eq(word, S("ok")) ? 200 : 503, word);
}

static err health_info(struct req *rq)
{
    struct info *out = NEW(rq->arena, struct info);
    if (out == NULL)
        return ERR_MEMORY;
    out->name = S("weir");
    out->version = S(WEIR_VERSION);
    field_set_all(&info_table, out);
    return reply(rq, 200, &info_table, out);
}

static void check_database(struct dependency *d, i64 now_us)
{
    i64 latency_us;
    d->status = store_word(&latency_us);
    d->checked_at = now_us;
    SET(dependency_table, d, status);
    SET(dependency_table, d, checked_at);
    if (str_eq(d->status, S("failing")))
        return;
    d->latency_ms = (double)latency_us / 1000;
    SET(dependency_table, d, latency_ms);
}

/* A node that hears nothing from the others serves on: it asks the database. So this part makes nothing else fail. */
static void check_bus(struct dependencies *parts, struct dependency *d, i64 now_us)
{
    if (!nodes_possible())
        return;
    d->status = bus_hears() ? S("ok") : S("failing");
    d->checked_at = now_us;
    SET(dependency_table, d, status);
    SET(dependency_table, d, checked_at);
    parts->bus = d;
    SET(dependencies_table, parts, bus);
}

static err list_nodes(struct arena *a, struct list *out)
{
    struct node *nodes;
    u32 n;
    TRY(nodes_list(a, &nodes, &n));
    struct peer *list = NEW_N(a, struct peer, MAX(n, 1u));
    if (list == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < n; i++) {
        list[i].node = nodes[i];
        field_set_all(&node_table, &list[i]);
    }
    *out = (struct list){ list, n };
    return OK;
}

static err check_redis(struct arena *a, struct dependencies *parts)
{
    struct shared_health h;
    if (!shared_wanted())
        return OK;
    struct shared_state *s = NEW(a, struct shared_state);
    if (s == NULL)
        return ERR_MEMORY;
    shared_health(&h);
    s->status = h.up ? S("ok") : S("degraded");
    s->since = h.since_us;
    SET(shared_table, s, status);
    SET(shared_table, s, since);
    if (!h.up) {
        s->error = str_dup(a, str_of(h.why));
        SET(shared_table, s, error);
    }
    parts->redis = s;
    SET(dependencies_table, parts, redis);
    return OK;
}

/* The server does without what is degraded, so that is told only when there is nothing worse. */
static str worst_of(const struct dependencies *parts)
{
    if (app.draining)
        return S("draining");
    bool worse = !str_eq(parts->database->status, S("ok")) || parts->redis == NULL;
    return worse ? parts->database->status : parts->redis->status;
}

static err health_show(struct req *rq)
{
    struct health *out = NEW(rq->arena, struct health);
    struct dependencies *parts = NEW(rq->arena, struct dependencies);
    struct dependency *database = NEW(rq->arena, struct dependency), *bus = NEW(rq->arena, struct dependency);
    if (out == NULL || parts == NULL || database == NULL || bus == NULL)
        return ERR_MEMORY;
    check_database(database, rq->now_us);
    parts->database = database;
    SET(dependencies_table, parts, database);
    check_bus(parts, bus, rq->now_us);
    TRY(list_nodes(rq->arena, &out->nodes));
    TRY(check_redis(rq->arena, parts));
    out->status = worst_of(parts);
    out->dependencies = parts;
    SET(health_table, out, status);
    if (gate_allows(rq, &can_read)) {
        SET(health_table, out, dependencies);
        SET(health_table, out, nodes);
    }
    return reply(rq, 200, &health_table, out);
}

static err health_openapi(struct req *rq)
{
    reply_header(rq, "Cache-Control", S("public, max-age=60"));
    return reply_packed(rq, 200, S("application/json"), openapi_packed());
}

/* -- routes -------------------------------------------------------------------------------------------------------- */

static const struct route_status not_ready[] = {
    { 503, &status_table, "The server is draining, or its store does not answer or has a full disk" },
    { 0 },
};

#define PUBLIC .need = &anyone, .flags = R_NO_STORE | R_OPERATIONAL

static const struct route routes[] = {
    { ROUTE(GET, "/livez", health_live, W_READ), PUBLIC, .out = &status_table, .doc = "Is the process alive?",
      .more = "Looks at no dependency: for supervisors that restart what does not answer." },
    { ROUTE(GET, "/readyz", health_ready, W_READ), PUBLIC, .query = &ready_query_table, .out = &status_table,
      .also = not_ready, .doc = "May it get requests?",
      .more = "503 as soon as the server drains, the store fails or the disk is full: for load balancers." },
    { ROUTE(GET, "/healthz", health_ready, W_READ), PUBLIC, .out = &status_table, .also = not_ready,
      .doc = "The same as /readyz" },
    { ROUTE(GET, "/metrics", health_metrics, W_READ), PUBLIC | R_TEXT,
      .produces = "text/plain; version=0.0.4; charset=utf-8", .doc = "Metrics for Prometheus",
      .more = "Answers on WEIR_METRICS_LISTEN only, when that is set." },
    { ROUTE(GET, "/openapi.json", health_openapi, W_READ), .need = &anyone, .flags = R_NO_STORE | R_TEXT,
      .produces = "application/json", .doc = "This document" },
    { ROUTE(GET, "/api/v1/info", health_info, W_READ), PUBLIC, .out = &info_table,
      .doc = "Name and version of the server" },
    { ROUTE(GET, "/api/v1/health", health_show, W_READ), PUBLIC, .out = &health_table,
      .doc = "Health of the server and its parts",
      .more = "Without a token only the overall status; callers with health.read see each dependency." },
    { ROUTE(GET, "/v1/health", health_show, W_READ), .need = &anyone, .flags = R_NO_STORE | R_OPERATIONAL | R_HIDDEN,
      .out = &health_table, .doc = "Alias of /api/v1/health" },
};

const struct module health_module = {
    .name = "health",
    .doc = "Liveness, readiness, metrics and this document",
    .routes = routes,
    .route_count = COUNT(routes),
    .start = health_metrics_start,
};
