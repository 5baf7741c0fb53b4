/* req.h - one request on its way: who asks, what was decoded, where to write, what to answer. Handlers are straight lines over it.
 *
 * A handler ends with reply…() or problem(), returning what they return. An error class without a problem becomes that class's own answer.
 * In W_WRITE everything but OK rolls back; to commit *and* answer an error (a failed login is a row), call problem() and return OK.
 * A `prepare` that answers ends the request there: `handle` and its transaction are left out.
 *
 * Handlers may run again from the top (a slow read moves to the pool, a failed batch is replayed): the arena is rewound, answer and errors start empty. */
#pragma once

#include "core/route.h"
#include "db/db.h"

struct caller {
    str tenant_id; /* {NULL,0} when nobody signed in */
    str user_id, session_id;
    str email;
    str plan;                    /* of the tenant */
    i64 quota_executions;        /* that the tenant may begin in a day; 0 = any number */
    u32 role;                    /* one bit of enum role; 0 = nobody */
    str role_name;               /* "editor", or the name of a custom role */
    const struct grants *grants; /* of a custom role or an API key: what decides in place of the role; else NULL */
    str key_id;                  /* of the API key that was sent; {NULL,0} for a session */
    str csrf;                    /* a browser's session: what X-CSRF-Token must say with every change; else {NULL,0} */
    bool must_enroll;            /* the tenant asks for a second factor that this person does not have yet */
};

struct page { /* the common part of every list's query; see LIST_QUERY in list.h */
    i64 limit, skip;
    str cursor;
    bool count;
};

enum { ANSWER_HEADERS_MAX = 32 }; /* what handlers set; further ones are left out */
struct answer {
    int status; /* 0 = none yet */
    const struct table *table;
    const void *row; /* or rows */
    u32 count;
    bool list;
    size_t cut;       /* see field_encode_cut */
    str content_type; /* of raw */
    str raw;
    const struct packed *packed; /* of raw: its codings, made before */
    struct pair *headers; /* grows on demand: most answers have two or three, and a stream keeps what it has for days */
    u32 header_count, header_room;
    const struct problem *problem;
    str problem_detail;
    struct pair extension; /* of the problem: a member of its own (RFC 9457, 3.2); name.n == 0: none */
};

struct req {
    struct arena *arena;
    struct http_request *http;
    const struct route *route;
    struct caller who;
    str params[6];
    const void *body;        /* struct of route->in */
    const struct json *json; /* the body's DOM, when it was JSON */
    const void *query;       /* struct of route->query */
    void *prepared;          /* what prepare hands to handle */
    struct tx *tx;
    i64 now_us;
    bool
        background; /* nobody did anything: a page that polls, a stream that goes on. A browser's session is not used by it */
    str request_id;         /* of X-Request-Id when sane, else made */
    str trace;              /* traceparent of this request (trace.h): what it causes elsewhere passes it on */
    str trace_state;        /* tracestate that came with it; STR_NONE for none, and for a trace that begins here */
    struct problems errors; /* entries of a 422 */
    struct answer answer;
    void (*resume)(struct req *rq); /* of a parked request */
    void *parked;
    struct request_core *core; /* core's own: jobs, messages, timers */
};

static inline i64 req_now(const struct req *rq)
{
    return rq->now_us;
}
/* A path parameter by its name; asserts that the route has it. */
str req_param(const struct req *rq, const char *name);
str req_header(const struct req *rq, const char *lower_name);

/* Answers. The row must live on rq->arena (or longer); it is encoded later, on a loop. */
err reply(struct req *rq, int status, const struct table *t, const void *row) MUST;
err reply_empty(struct req *rq, int status) MUST; /* 204, 202 … */
err reply_raw(struct req *rq, int status, str content_type, str body) MUST;
/* The same of a body that never changes (compress.h): nothing is compressed for the answer. */
err reply_packed(struct req *rq, int status, str content_type, const struct packed *packed) MUST;
/* Adds a header; name in any case. CR, LF or NUL in the value drop the header. At most 32. */
void reply_header(struct req *rq, const char *name, str value);
/* The state that the statement of `.etag` would give, from what the handler has read anyway (R_TELLS_STATE): the same text, to the byte. */
void reply_state(struct req *rq, str state);
/* Location: of a created object. */
void reply_location(struct req *rq, const char *format, ...) PRINTF_LIKE(2, 3);

/* Records the problem with a detail for people (never with a cause of ours) and returns its class. */
err problem(struct req *rq, const struct problem *p, const char *format, ...) PRINTF_LIKE(3, 4) MUST;
/* The same with one entry in `errors`. */
err problem_at(struct req *rq, const struct problem *p, str pointer, const char *code, const char *format, ...)
    PRINTF_LIKE(5, 6) MUST;
/* Adds a text member to the problem that is answered, as OpenAPI's Problem lists it: "challenge_id". */
void problem_extend(struct req *rq, const char *name, str value);
/* A fault of ours: logs one line with request id and cause, answers 500 with nothing of it. Always ERR_INTERNAL. */
err fault(struct req *rq, const char *format, ...) PRINTF_LIKE(2, 3) MUST;

/* What may only happen once the transaction is durable: fn(arg) is called once on the request's loop after the commit and before the answer leaves
 * (events, caches, wake-ups). Forgotten when the transaction rolls back. Within W_WRITE's `handle`; arg lives on rq->arena. */
err req_after(struct req *rq, void (*fn)(void *arg), void *arg) MUST;

/* W_WAIT: the request waits without a thread. Exactly one req_resume(rq) must follow, from any thread; it calls `resume` on the request's loop (without
 * tx; req_read gives one), which replies as a handler does. */
err park(struct req *rq, void (*resume)(struct req *rq), void *parked) MUST;
void req_resume(struct req *rq);
/* In resume: sends what the handler's outcome was (as the pipeline does for handlers). */
void req_finish(struct req *rq, err outcome);
/* Calls fire(rq) on the loop when the request is still parked after delay_us; at most one per request; ends with the resume. When fire resumes, it first takes
 * the request from whoever else would: a second req_resume is ignored only as long as the request exists. Call after park(), on the loop. */
err park_timer(struct req *rq, i64 delay_us, void (*fire)(struct req *rq)) MUST;
/* A read snapshot for a resumed or streaming request on its loop; db_read_end ends it. */
err req_read(struct req *rq, struct tx **tx) MUST;

/* The caller's tenant as a statement argument. */
#define TENANT(rq) STR((rq)->who.tenant_id)
