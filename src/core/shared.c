/* shared.c - see shared.h.
 *
 * One word of health for all loops: it is up when each has its connection. The log says when that changes and not at each of the tries in between, of
 * which there is one every two seconds for as long as it is away. */
#include "core/shared.h"

#include "base/clock.h"
#include "base/log.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/metrics.h"
#include "core/nodes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 8 };

/* Written at start, but for what the lock or an atomic guards. */
static struct {
    struct redis_address address;
    struct redis *connections[256];
    u32 count;
    char name[2 * NAME_BYTES];
    pthread_mutex_t lock;
    enum redis_state states[256]; /* under the lock, as the two below */
    i64 since_us;
    char why[REDIS_ERROR_BYTES];
    _Atomic u32 up;
    _Atomic i64 lost_us, late_us;
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool shared_wanted(void)
{
    return shared.count > 0;
}

bool shared_up(void)
{
    return shared.count > 0 && atomic_load_explicit(&shared.up, memory_order_acquire) == shared.count;
}

const struct redis_address *shared_address(void)
{
    return shared.count > 0 ? &shared.address : NULL;
}

struct redis *shared_here(void)
{
    struct loop *l = shared.count > 0 ? loop_current() : NULL;
    struct redis *r = l != NULL && loop_index(l) < shared.count ? shared.connections[loop_index(l)] : NULL;
    return r != NULL && redis_up(r) ? r : NULL;
}

i64 shared_lost_us(void)
{
    return atomic_load_explicit(&shared.lost_us, memory_order_acquire);
}

i64 shared_late_us(void)
{
    return atomic_load_explicit(&shared.late_us, memory_order_acquire);
}

void shared_put_prefix(struct buf *b, const char *kind)
{
    BUF_LIT(b, "weir:");
    buf_put(b, shared.name, sizeof shared.name);
    buf_char(b, ':');
    buf_str(b, str_of(kind));
    buf_char(b, ':');
}

/* -- health -------------------------------------------------------------------------------------------------------- */

static i64 read_up(void)
{
    return shared.count > 0 ? shared_up() : METRIC_UNKNOWN;
}

static u64 sum(u64 (*of)(struct redis_figures))
{
    u64 n = 0;
    for (u32 i = 0; i < shared.count; i++)
        n += of(redis_figures(shared.connections[i]));
    return n;
}
static u64 of_commands(struct redis_figures f)
{
    return f.commands;
}
static u64 of_refused(struct redis_figures f)
{
    return f.refused;
}
static u64 of_late(struct redis_figures f)
{
    return f.late;
}
static u64 of_connects(struct redis_figures f)
{
    return f.connects;
}
static i64 read_commands(void)
{
    return (i64)sum(of_commands);
}
static i64 read_refused(void)
{
    return (i64)sum(of_refused);
}
static i64 read_late(void)
{
    return (i64)sum(of_late);
}
static i64 read_connects(void)
{
    return (i64)sum(of_connects);
}
METRIC(redis_is_up, "weir_redis_up", METRIC_GAUGE,
       "1 while every loop has its connection to Redis; absent without REDIS_URL", .read = read_up);
METRIC(redis_commands, "weir_redis_commands_total", METRIC_COUNTER, "Commands sent to Redis", .read = read_commands);
METRIC(redis_refused, "weir_redis_refused_total", METRIC_COUNTER,
       "Commands that were not sent, since Redis is away or behind: the server did without", .read = read_refused);
METRIC(redis_late, "weir_redis_late_total", METRIC_COUNTER, "Times that Redis did not answer within 50 ms",
       .read = read_late);
METRIC(redis_connects, "weir_redis_connects_total", METRIC_COUNTER, "Times that a connection to Redis was tried",
       .read = read_connects);

void shared_health(struct shared_health *out)
{
    pthread_mutex_lock(&shared.lock);
    *out = (struct shared_health){ .up = shared_up(), .since_us = shared.since_us };
    if (!out->up)
        memcpy(out->why, shared.why, sizeof out->why);
    pthread_mutex_unlock(&shared.lock);
}

static void tell(bool was_up, bool is_up, str why)
{
    if (was_up && !is_up)
        LOG(LOG_WARN, "redis.lost", LOG_STR("cause", why),
            LOG_STR("effect", S("limits are divided by nodes, reads go to PostgreSQL")));
    if (!was_up && is_up)
        LOG(LOG_INFO, "redis.up", LOG_INT("connections", shared.count));
}

/* Before it is up for anybody. */
static void note_time(enum redis_state before, enum redis_state now)
{
    if (before == REDIS_LATE || now == REDIS_LATE)
        atomic_store_explicit(&shared.late_us, clock_mono_us(), memory_order_release);
    if (before != REDIS_LOST && now == REDIS_LOST)
        atomic_store_explicit(&shared.lost_us, clock_mono_us(), memory_order_release);
}

static void changed(void *ctx, enum redis_state now, const char *why)
{
    u32 i = (u32)(uintptr_t)ctx;
    bool up = now == REDIS_UP;
    static bool told; /* under the lock: that it cannot be reached since the start */
    pthread_mutex_lock(&shared.lock);
    bool was_up = shared_up(), was = shared.states[i] == REDIS_UP;
    note_time(shared.states[i], now);
    shared.states[i] = now;
    if (was != up)
        atomic_fetch_add(&shared.up, up ? 1 : (u32)-1);
    bool is_up = shared_up(), first = !up && !told && !was_up;
    if (!up)
        snprintf(shared.why, sizeof shared.why, "%s", why);
    if (was_up != is_up)
        shared.since_us = clock_now_us();
    told = told || !up || is_up;
    pthread_mutex_unlock(&shared.lock);
    tell(was_up || first, is_up, str_of(why));
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

/* Of what was made with the database: its nodes have that in common, and other installations have not. Nothing of SECRET_KEY, which changes one node after another: nodes with different ones must still find what
 * the others keep, to delete it. */
static void name_keys(void)
{
    static const char digits[] = "0123456789abcdef";
    u8 hash[SHA256_BYTES];
    hash_sha256(nodes_cluster(), hash);
    for (u32 i = 0; i < NAME_BYTES; i++) {
        shared.name[2 * i] = digits[hash[i] >> 4];
        shared.name[2 * i + 1] = digits[hash[i] & 15];
    }
}

err shared_open(void)
{
    str url = app.config.redis_url;
    if (url.n == 0)
        return OK;
    if (!db_reads_block(app.db)) {
        LOG(LOG_WARN, "config.ignored", LOG_STR("name", S("REDIS_URL")),
            LOG_STR("why", S("SQLite is served by one node, which shares nothing")));
        return OK;
    }
    TRY(redis_url_parse(app.arena, url, &shared.address));
    name_keys();
    shared.since_us = clock_now_us();
    memcpy(shared.why, "not connected yet", sizeof "not connected yet");
    for (u32 i = 0; i < app.loop_count; i++) {
        struct redis_watch watch = { changed, (void *)(uintptr_t)i };
        if ((shared.connections[i] = redis_new(app.loops[i], &shared.address, watch)) == NULL)
            return ERR_MEMORY;
    }
    shared.count = app.loop_count;
    return OK;
}

void shared_close(void)
{
    u32 count = shared.count;
    shared.count = 0;
    for (u32 i = 0; i < count; i++)
        redis_free(shared.connections[i]);
}
