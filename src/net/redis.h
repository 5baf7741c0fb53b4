/* redis.h - a connection to a Redis on a loop: commands go out in order, answers come back in order, and nobody waits for one longer than REDIS_PATIENCE_US.
 *
 * Each loop has a connection of its own, so that asking costs no hop between threads and many commands of one turn leave in one write. Redis is never needed: a
 * command that cannot be sent is refused at once (ERR_UNAVAILABLE), and when one has waited too long, all that wait are told so and further ones are refused until
 * the late answers have come: a Redis that stands still costs each loop one wait, not one for each request. A connection that is lost comes back by itself. */
#pragma once

#include "base/buf.h"
#include "net/loop.h"

enum {
    REDIS_IN_FLIGHT = 1024, /* commands of a connection without an answer */
    REDIS_WORDS_MAX = 16,
    REDIS_OUT_BYTES = 8 << 20,     /* not sent yet */
    REDIS_ANSWER_BYTES = 2 << 20,  /* of one answer; a longer one ends the connection */
    REDIS_ANSWER_ITEMS = 1024,     /* of a list in an answer */
    REDIS_ERROR_BYTES = 160,       /* that are kept of what went wrong */
    REDIS_PATIENCE_US = 50 * 1000, /* for an answer */
    REDIS_CONNECT_US = 1000 * 1000,
    REDIS_DRAIN_US = 2 * 1000 * 1000, /* for late answers, before the connection is given up */
    REDIS_BEAT_US = 1000 * 1000,      /* a connection that says nothing is asked whether it is there */
    REDIS_BACKOFF_MIN_US = 50 * 1000,
    REDIS_BACKOFF_MAX_US = 2 * 1000 * 1000,
};

struct redis_address {
    const char *host, *port; /* NUL-terminated: for getaddrinfo() */
    str user, password;      /* n == 0: none */
    str database;            /* "0" */
};
/* redis://[user][:password]@host[:port][/number]. ERR_INVALID: it is none; ERR_MEDIA: rediss://, which is not served. */
err redis_url_parse(struct arena *a, str url, struct redis_address *out) MUST;

enum redis_kind { REDIS_NIL, REDIS_TEXT, REDIS_NUMBER, REDIS_LIST, REDIS_FAILED /* text says why */ };
struct redis_answer {
    enum redis_kind kind;
    str text;
    i64 number;
    const struct redis_answer **list;
    u32 n;
};
/* The i-th of a list; a nil where there is none. */
const struct redis_answer *redis_item(const struct redis_answer *list, u32 i);

/* Embedded in what asks. `done` is called once on the loop: OK with an answer, which lives until it returns; ERR_TIMEOUT or ERR_UNAVAILABLE without (the command may be
 * carried out nevertheless). Never from inside redis_ask. */
struct redis_call {
    void (*done)(struct redis_call *call, err outcome, const struct redis_answer *answer);
};

struct redis;
/* What a connection tells, on its loop, with a reason unless it is up. Late: it stands, but did not answer in time. */
enum redis_state { REDIS_LOST, REDIS_LATE, REDIS_UP };
struct redis_watch {
    void (*changed)(void *ctx, enum redis_state now, const char *why);
    void *ctx;
};
/* What is published on a channel; text lives until `heard` returns. On the loop. */
struct redis_channel {
    const char *name;
    void (*heard)(void *ctx, str text);
    void *ctx;
};
/* `address` stays. Connects by itself once the loop runs. NULL when out of memory. */
struct redis *redis_new(struct loop *l, const struct redis_address *address, struct redis_watch watch) MUST;
/* The same, but it only listens: it is up when it hears. Nothing may be asked of it. `channel` is copied, its name is not. */
struct redis *redis_new_listener(struct loop *l, const struct redis_address *address, struct redis_watch watch,
                                 const struct redis_channel *channel) MUST;
/* After the loop stopped, on its thread, before loop_settle. What is in flight is forgotten without a word. */
void redis_free(struct redis *r);

/* The rest: on the loop only. */
bool redis_up(const struct redis *r);
/* OK: `done` will be called (call NULL: nobody wants the answer). ERR_UNAVAILABLE: nothing was sent and nothing will be called. */
err redis_ask(struct redis *r, struct redis_call *call, const str *words, u32 n) MUST;
/* Gives the connection up: it said something that a sane one does not. */
void redis_distrust(struct redis *r, const char *why);

/* From any thread. */
struct redis_figures {
    u64 commands, refused, late, connects;
};
struct redis_figures redis_figures(const struct redis *r);
