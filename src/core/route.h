/* route.h - a feature's endpoints are rows: method, path, handler, work, permission, schemas, doc. Everything else follows from them. */
#pragma once

#include "codec/field.h"
#include "core/permission.h"
#include "core/problem.h"
#include "net/http.h"

struct req;
struct stmt;
struct lister;
struct hot;
typedef err handler_fn(struct req *rq);

/* Where the handler's code runs (architecture.md, "How a request flows"). */
enum work {
    W_READ, /* on the loop, rq->tx a read snapshot; stopped after 2 ms and run again in the slow pool */
    W_WRITE, /* `prepare` as W_READ (or in the slow pool: R_SLOW_PREPARE), then `handle` on the writer: statements only */
    W_WAIT,   /* as W_READ, and ends with reply or park() */
    W_SLOW,   /* in the slow pool, rq->tx a read snapshot */
    W_STREAM, /* on the loop, without tx (req_read gives one); starts a stream (stream.h) or replies */
};

enum route_flags {
    R_LIST = 1 << 0,           /* answers an array of `.out` */
    R_RAW_BODY = 1 << 1,       /* any body, any content type: rq->http->body; `.in` only documents it */
    R_OPTIONAL_BODY = 1 << 2,  /* an absent body is {} */
    R_SLOW_PREPARE = 1 << 3,   /* prepare in the slow pool */
    R_PATCH = 1 << 4,          /* body is a merge patch of `.in` (FIELD_PATCH) */
    R_TEXT = 1 << 5,           /* answers something else than JSON: `.produces` */
    R_NO_AUTH_HEADER = 1 << 6, /* the gate leaves Authorization to the handler (trigger URLs) */
    R_HIDDEN = 1 << 7,         /* not in the OpenAPI document (aliases) */
    R_ADMIT = 1 << 8,          /* `admit` bounds the body per object */
    R_ANY_METHOD =
        1 << 9, /* the row stands for GET, POST, PUT, PATCH and DELETE; the handler looks at rq->http->method */
    R_NO_STORE =
        1
        << 10, /* the handler reads nothing: no snapshot is taken (rq->tx stays NULL), so it answers while the store is down */
    R_SECRET =
        1
        << 11, /* the answer holds a secret: it is never compressed (its length would tell of it, BREACH) and never kept for a repeat,
                              * so an Idempotency-Key does not count */
    R_NEED_MATCH = 1 << 12, /* 428 without If-Match */
    R_HASHES =
        1
        << 13, /* prepare in the pool of its own that hashes passwords: a storm of logins takes nothing from anybody else */
    R_SLOW_LONG = 1 << 14, /* R_SLOW_PREPARE for bodies above PREPARE_ON_LOOP_MAX: its work depends on nothing else */
    R_OPERATIONAL =
        1 << 15, /* for whoever looks after nodes: one that only runs executions (WEIR_ROLE) answers it as well */
    R_TELLS_STATE = 1 << 16, /* the handler of a GET tells what `.etag` would (reply_state): that is then not asked */
};

/* Preparing so much takes 0.6 ms at the worst (a body full of tiny expressions), mostly a tenth of that; handing it to the pool and back costs 20 us and two threads' turns. */
enum { PREPARE_ON_LOOP_MAX = 2 << 10 };

enum { ROUTE_BODY_MAX = 1 << 20 }; /* bytes, where a route says nothing else */

struct route_status { /* a further documented answer */
    int status;
    const struct table *out; /* NULL = problem */
    const char *doc;
};

struct route {
    enum http_method method;
    const char *path; /* "/api/v1/workflows/{id}"; at most 6 parameters */
    handler_fn *handle;
    enum work work;
    handler_fn *prepare;
    const struct permission *need;
    const struct table *in, *out, *query;
    u32 flags;
    int status;                /* of success, for the document; 0 = 200 (201 for POST with .out) */
    const struct lister *list; /* R_LIST: the orders and filters that can be asked for (list.h) */
    const struct stmt *etag;   /* of a single object: what its ETag is made of (conditional.h) */
    struct hot *hot;           /* of a W_READ of a single object: its answers are kept for all nodes (hot.h) */
    size_t
        max_body; /* 0 = 1 MiB. There is no cap of the arena by route: what a body takes once it is parsed depends on what it holds (up to 16 times
                        * its bytes), so none would be both tight and true. http_limits.arena_bytes bounds each request, WEIR_MEMORY_MAX all of them. */
    /* R_ADMIT: bytes of body for this very object; or, at the head still, a problem, as a handler answers it. No tx; nothing of it is there in the handler. */
    err (*admit)(struct req *rq, size_t *max_body);
    const char *produces;
    const char *const *also_types;         /* other forms of the answer, by Accept (text); ends with NULL */
    const struct route_status *also;       /* ends with status 0 */
    const struct problem *const *problems; /* documented codes beyond the gate's; ends with NULL */
    const char *doc;                       /* one sentence, the operation's summary */
    const char *more;                      /* paragraphs: the operation's description; may be NULL */
    const char *example;                   /* JSON text of an input body; may be NULL */
    const char *file;                      /* filled by ROUTE */
    int line;
    const char *handler_name;
};
/* { ROUTE(POST, "/api/v1/triggers", trigger_create, W_WRITE), .need = &can_write, … } */
#define ROUTE(method_, path_, handle_, work_)                                                             \
    .method = (method_), .path = (path_), .handle = (handle_), .handler_name = #handle_, .work = (work_), \
    .file = __FILE__, .line = __LINE__
