/* pipeline.h - what the files of the request path share with each other; features never include it.
 *
 * A request passes gate.c (who may), req.c (what is asked, where it runs) and reply.c (what goes out). All of its state is one struct on the
 * request's arena, made at the head of the request, so nothing on the way allocates bookkeeping. */
#pragma once

#include "core/app.h"
#include "core/compress.h"
#include "core/conditional.h"
#include "core/hot.h"
#include "core/idempotency.h"
#include "core/limit.h"
#include "core/list.h"
#include "core/metrics.h"
#include "core/req.h"
#include <stdatomic.h>

enum { STATUS_CLASSES = 6 /* index status / 100; 0 is unused */ };

/* A method of a path: what the trie leads to. Written at start; only the cached series change, each at most once. */
struct endpoint {
    const struct route *route;
    const struct module *module;
    enum http_method method;
    atomic_bool looks_again; /* its handler needs more than one look at the store (db_read_once), as was found */
    _Atomic(struct metric_series *) requests[STATUS_CLASSES], durations[STATUS_CLASSES];
};
/* route_find, but with the endpoint; OPTIONS finds none and tells the methods. */
err route_lookup(struct arena *a, enum http_method method, str path, struct endpoint **out, str params[6],
                 u32 *allowed) MUST;

/* The path in place of an alias; STR_NONE when it is none. ERR_MEMORY. */
err route_alias(struct arena *a, str path, str *out) MUST;

struct after {
    struct after *next;
    void (*fn)(void *arg);
    void *arg;
};

struct listener {
    bool metrics_only; /* serves /metrics and nothing else */
};

/* An answer as bytes. */
struct letter {
    int status;
    str type, body;
    err fail;
    enum coding coding; /* what the body is in */
    bool varies;        /* another Accept-Encoding may get another body */
};

struct request_core {
    struct req rq;
    const struct listener *listener;
    struct endpoint *endpoint; /* NULL: the path leads nowhere */
    u32 allowed;               /* methods of the path, for Allow */
    bool faulted;              /* fault() has logged the cause */
    bool writing;              /* inside `handle` on the writer */
    bool parked;
    bool timed; /* park_timer was called; the timer starts when the handler has left */
    i64 delay_us;
    bool answered;
    bool has_etag, asked_etag;
    struct ahead etag_ahead;
    char etag[ETAG_BYTES]; /* of the object that the answer shows */
    u64 mask;              /* members that ?fields= asks for, bit i = field i of route->out; 0 = all */
    err ran;               /* what the handler returned; the batch may fail after it */
    handler_fn *next;      /* what the pool runs */
    void (*then)(struct request_core *c, err outcome); /* where the pool's outcome goes, on the loop */
    err outcome;
    struct answer
        kept; /* the headers of prepare: they stay when handle runs again, and what that adds goes elsewhere */
    struct arena_mark mark; /* before the handler */
    struct caller who;      /* known at the mark */
    struct after *after, **after_tail;
    _Atomic u32 holds; /* a parked request goes on when its handler has left *and* somebody resumed it */
    atomic_bool resumed;
    void (*fire)(struct req *rq);
    struct hot_state *hot;       /* NULL: the answer is not looked for in the hot cache */
    struct forgotten *forgotten; /* what it must not answer any more */
    struct decision *decision;   /* of limit_decide; NULL: it is in already */
    struct limit_told told;
    struct list_choice list;
    struct idempotent idempotent;
    struct letter letter; /* while it is compressed elsewhere */
    struct db_job job;
    struct task task;
    i64 queued_us; /* when it began to wait in the pool of reads; 0 = it does not */
    struct message message;
    struct loop_timer timer;
    bool *gone; /* W_STREAM: told when the stream ended inside its handler */
};

/* gate.c: decides at the head of a request. OK, or the class with the problem recorded. */
err gate(struct request_core *c) MUST;

/* conditional.c: in front of a handler that reads an object, or inside the transaction in front of one that changes it. OK with an answer (304) leaves
 * the handler out, as an error does. */
err conditional_before(struct request_core *c) MUST;
/* Whether the request names an ETag. */
bool conditional_asked(const struct request_core *c);
/* Behind a handler that has read: the ETag, of which conditional_before only asked where nothing depended on it. */
err conditional_read(struct request_core *c) MUST;
/* The same for an answer that was kept with its ETag. */
err conditional_kept(struct request_core *c, str etag) MUST;
/* After a change, in its transaction: the ETag of what came of it. */
err conditional_after(struct request_core *c) MUST;

/* idempotency.c, in the order of their calls: may it begin (422, 409); was it carried out before (a handler: then its answer is given again); in the
 * transaction behind the handler: keeps the answer; when it is answered, however. */
err idempotency_claim(struct request_core *c) MUST;
err idempotency_repeat(struct req *rq) MUST;
err idempotency_keep(struct request_core *c) MUST;
void idempotency_release(struct request_core *c);
/* Whether a key counts here. */
bool route_keeps(const struct route *r);

/* hot.c, in the order of their calls: at start; looks for a kept answer (true: goes on with reply_send or req_read_store, false: nothing was begun); keeps one that was
 * just encoded; after a commit, before its answer leaves, when there is something to forget (true: goes on with reply_send). On the loop. */
err hot_start(void) MUST;
bool hot_look(struct request_core *c);
void hot_keep(struct request_core *c);
bool hot_forget_now(struct request_core *c);
/* req.c: the handler of a read that no cache could answer. */
void req_read_store(struct request_core *c);

/* limit_shared.c: goes on when the request is in, and answers 429 when not. On the loop. */
void limit_decide(struct request_core *c, void (*go_on)(struct request_core *c));

/* list.c: takes sort and the filters of the route's list out of the query. ERR_INVALID: entries say what is wrong. */
err list_take(struct req *rq, struct pair *pairs, size_t *count) MUST;
/* The i-th filter as a field of a query. */
struct field list_filter(const struct lister *l, u32 i);

/* Whether a request may change something: one that takes any body does, also by GET (webhooks). */
bool route_changes(const struct route *r);

/* Whether ?fields= works here: a GET that answers rows of .out. */
bool route_masks(const struct route *r);

/* headers.c: everything that an answer says beside its body. */
enum {
    HEADERS_STANDING = 8,
    HEADERS_OWN = 24,
    HEADERS_MAX = ANSWER_HEADERS_MAX + HEADERS_OWN,
    ALLOW_BYTES = 64,
};
struct headers {
    struct pair list[HEADERS_MAX];
    size_t n;
    char allow[ALLOW_BYTES], etag[ETAG_BYTES + 16], policy[80], limit[80], wait[24];
};
/* What follows from the settings; once, at start. Without it: no origin but our own, no HSTS. */
err headers_build(struct arena *a, const struct config *config) MUST;
void headers_make(const struct request_core *c, const struct letter *l, struct headers *h);
/* One of ALLOWED_ORIGINS, as a browser spells it. */
bool origin_listed(str origin);
/* WEIR_PUBLIC_URL, or the Host that the client asked for: a proxy in front may have changed that. */
bool origin_own(const struct http_request *http, str origin);
/* For answers without a letter (streams, refusals): the security headers. At most HEADERS_STANDING. */
size_t headers_standing(struct pair *out);
/* The same for a stream: these, the request's own, and those of its origin. */
void headers_stream(const struct request_core *c, struct headers *h);

/* For a 101: upgrade to `protocol`, its own field, the standing ones. */
void headers_upgrade(const struct request_core *c, str protocol, str name, str value, struct headers *h);
/* Browsers let any page open a WebSocket, and tell which: only our own and those of ALLOWED_ORIGINS may. */
bool headers_origin_may(const struct http_request *http);

/* req.c: what http_listen needs; `listener` stays. */
struct http_handler req_handler(struct listener *listener);

/* reply.c: encodes, logs, counts, answers; the request is gone afterwards. Loop thread. */
void reply_send(struct request_core *c, err outcome);
/* What the answer of a handler comes to, of at most `max` bytes of body (`fail` is ERR_TOO_LARGE above); may be called before reply_send, which then encodes again. */
struct letter reply_encode(struct request_core *c, size_t max);
/* Logs and counts; for answers that went out as a stream. */
void reply_account(struct request_core *c, int status, size_t bytes);
/* A problem document; `errors` and `extension` may be NULL. */
void problem_write(struct buf *b, int status, const struct problem *p, str detail, str request_id,
                   const struct problems *errors, const struct pair *extension);
/* No answer, no entries. */
void req_forget_answer(struct request_core *c);
/* Back to the mark, before a handler runs (again): no answer, and nobody who was found since (gate_allows), whose texts went with it. */
void req_rewind(struct request_core *c);
/* Counts what the server refused before there was a request. */
void reply_count_refused(int status);
