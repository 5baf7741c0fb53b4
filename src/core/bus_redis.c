/* bus_redis.c - the bus by Redis: one channel for the nodes of a database, and a thread with a loop of its own that has a connection to publish and one to listen.
 *
 * A loop of its own, and not one of those that serve: what is heard wakes much, and a packet must not wait behind requests. It is preferred to NOTIFY, which makes every commit of PostgreSQL that
 * tells something wait for the one before. Packets are sealed, since who can write to a Redis must not make events for our clients, nor who reads it learn what theirs are; the key comes from what
 * was made with the database, since SECRET_KEY changes one node after another. Publishing is acknowledged once Redis has handed the packet to all who listen; who did not, hears of it when it listens again. */
#include "core/bus_redis.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/nodes.h"
#include "core/shared.h"

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY = crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    NONCE = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
    TAG = crypto_aead_xchacha20poly1305_ietf_ABYTES,
    SEALED_MAX = NONCE + BUS_PACKET_MAX + TAG,
};
enum { OWN_LOOP = 1 << 16 /* an index that no serving loop has */, SEND_US = 1000 * 1000 };

struct parcel { /* on the stack of who waits for it */
    struct message message;
    struct redis_call call;
    str packet;
    bool done; /* with the outcome under the lock */
    err outcome;
};
static struct {
    struct loop *loop;
    struct redis *speaker, *listener;
    pthread_t thread;
    char channel[64];
    u8 key[KEY];
    atomic_bool speaks, hears;
    bool deaf; /* the loop's */
    pthread_mutex_t lock;
    pthread_cond_t answered;
} way = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void speaker_changed(void *ctx, enum redis_state now, const char *why)
{
    atomic_store(&way.speaks, now == REDIS_UP);
}

static void listener_changed(void *ctx, enum redis_state now, const char *why)
{
    atomic_store(&way.hears, now == REDIS_UP);
    if (now == REDIS_UP && !way.deaf)
        bus_missed(&bus_redis);
}

/* What was not sealed by one of us is nobody's news. */
static void heard(void *ctx, str sealed)
{
    u8 packet[BUS_PACKET_MAX];
    const u8 *p = (const u8 *)sealed.p;
    if (way.deaf || sealed.n < NONCE + TAG || sealed.n > SEALED_MAX ||
        crypto_aead_xchacha20poly1305_ietf_decrypt(packet, NULL, NULL, p + NONCE, sealed.n - NONCE,
                                                   (const u8 *)way.channel, strlen(way.channel), p, way.key) != 0)
        return;
    bus_heard(&bus_redis, (str){ (const char *)packet, sealed.n - NONCE - TAG });
}

/* -- sending ------------------------------------------------------------------------------------------------------- */

static void end_parcel(struct parcel *p, err outcome)
{
    pthread_mutex_lock(&way.lock);
    p->done = true;
    p->outcome = outcome;
    pthread_cond_broadcast(&way.answered);
    pthread_mutex_unlock(&way.lock);
}

static void published(struct redis_call *call, err outcome, const struct redis_answer *answer)
{
    bool refused = outcome == OK && answer->kind != REDIS_NUMBER;
    end_parcel(CONTAINER(call, struct parcel, call), refused ? ERR_UPSTREAM : outcome);
}

static void publish(struct message *m)
{
    struct parcel *p = CONTAINER(m, struct parcel, message);
    const str words[] = { S("PUBLISH"), str_of(way.channel), p->packet };
    p->call.done = published;
    if (redis_ask(way.speaker, &p->call, words, COUNT(words)) != OK)
        end_parcel(p, ERR_UNAVAILABLE);
}

/* Runs something on the loop and waits for its end_parcel. redis.c ends each command within REDIS_PATIENCE_US, whatever Redis does. */
static err on_loop(void (*run)(struct message *m), str packet)
{
    struct parcel p = { .message.run = run, .packet = packet };
    loop_post(way.loop, &p.message);
    pthread_mutex_lock(&way.lock);
    while (!p.done)
        pthread_cond_wait(&way.answered, &way.lock);
    pthread_mutex_unlock(&way.lock);
    return p.outcome;
}

static err send_packet(str packet)
{
    u8 sealed[SEALED_MAX];
    if (!atomic_load(&way.speaks))
        return ERR_UNAVAILABLE;
    if (packet.n > BUS_PACKET_MAX)
        return ERR_TOO_LARGE;
    rng_bytes(sealed, NONCE);
    crypto_aead_xchacha20poly1305_ietf_encrypt(sealed + NONCE, NULL, (const u8 *)packet.p, packet.n,
                                               (const u8 *)way.channel, strlen(way.channel), NULL, sealed, way.key);
    return on_loop(publish, (str){ (const char *)sealed, NONCE + packet.n + TAG });
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

static bool wanted(void)
{
    return shared_wanted();
}

static bool others(void)
{
    return nodes_alive() > 1;
}

static bool up(void)
{
    return atomic_load(&way.speaks) && atomic_load(&way.hears);
}

static void *run(void *arg)
{
    pthread_setname_np(pthread_self(), "weir-bus-redis");
    loop_run(way.loop);
    return NULL;
}

static err open_connections(void)
{
    const struct redis_channel channel = { .name = way.channel, .heard = heard };
    struct buf b = { .p = way.channel, .cap = sizeof way.channel, .max = sizeof way.channel - 1 };
    shared_put_prefix(&b, "bus");
    hash_hkdf_sha256(nodes_cluster(), S("bus by redis"), way.key, sizeof way.key);
    way.speaker = redis_new(way.loop, shared_address(), (struct redis_watch){ speaker_changed, NULL });
    way.listener =
        redis_new_listener(way.loop, shared_address(), (struct redis_watch){ listener_changed, NULL }, &channel);
    return way.speaker != NULL && way.listener != NULL ? OK : ERR_MEMORY;
}

static err start(void)
{
    way.deaf = false;
    way.loop = loop_new(OWN_LOOP);
    if (way.loop == NULL || pthread_cond_init(&way.answered, NULL) != 0)
        return ERR_MEMORY;
    TRY(open_connections());
    int rc = pthread_create(&way.thread, NULL, run, NULL);
    if (rc != 0)
        LOG(LOG_ERROR, "bus.thread", LOG_INT("error", rc));
    return rc == 0 ? OK : ERR_INTERNAL;
}

static void go_deaf(struct message *m)
{
    way.deaf = true;
    end_parcel(CONTAINER(m, struct parcel, message), OK);
}

/* On the loop, which is where things are heard: so nothing is being told when this returns. */
static void stop(void)
{
    (void)on_loop(go_deaf, STR_NONE);
}

static void end(void)
{
    loop_stop(way.loop);
    pthread_join(way.thread, NULL);
    redis_free(way.speaker);
    redis_free(way.listener);
    loop_settle(way.loop);
    loop_free(way.loop);
    pthread_cond_destroy(&way.answered);
}

const struct bus_transport bus_redis = { .name = "redis",
                                         .wanted = wanted,
                                         .others = others,
                                         .start = start,
                                         .stop = stop,
                                         .close = end,
                                         .up = up,
                                         .send = send_packet };
