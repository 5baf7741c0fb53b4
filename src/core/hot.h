/* hot.h - answers of reads that are asked for again and again, kept for all nodes in Redis: a hit is answered on the loop, without a thread and without the database.
 *
 *     HOT(thing_hot, "things");                                        in the feature that owns the object
 *     { ROUTE(GET, "/api/v1/things/{id}", …), .hot = &thing_hot },     its answer depends on tenant, path and query, and on nothing else
 *     TRY(hot_forget(rq, &thing_hot, id));                             in the transaction of every change of what such an answer shows
 *
 * The object is the route's first parameter. What is promised: once a change was answered, no node gives an earlier answer, while Redis can be reached by the node that
 * changed it. A node that could not tell Redis of a change tells the other nodes, which then leave the cache alone until all that it may hold has ended. In no case is an
 * answer older than HOT_LIFE_S. */
#pragma once

#include "core/cache.h"
#include "core/route.h"

enum {
    HOT_LIFE_S = 10,
    HOT_ANSWER_MAX = 256 << 10, /* bytes of an answer; a larger one is not kept */
    HOT_NAME_MAX = 64,          /* bytes of an id */
    HOT_FIELD_MAX = 512,        /* bytes of path and query */
    HOT_FORGET_MAX = 8,         /* objects that one request may change */
};
struct hot {
    const char *word;
    _Atomic u64 hits, misses;
};
#define HOT(id, word_)                   \
    struct hot id = { .word = (word_) }; \
    CACHE_METRICS(id, "hot_" word_, id.hits, id.misses)

/* Within W_WRITE's `handle`. No answer leaves before Redis has forgotten it. ERR_MEMORY. */
err hot_forget(struct req *rq, struct hot *h, str id) MUST;
/* Whether it is used at all: there is a Redis, and reads would otherwise wait for another machine. */
bool hot_wanted(void);
/* From any thread: a change could not be told to Redis, here or on another node. */
void hot_doubt(void);
