/* client.h - outgoing HTTP by libcurl multi inside a loop: never blocks, every call has deadlines, every socket passes the egress guard.
 *
 * One client per loop, on its thread. http and https only; no proxy from the environment; redirects off unless asked, and each hop
 * checked again; credentials are not sent to another host. */
#pragma once

#include "codec/url.h"
#include "net/egress.h"
#include "net/loop.h"

struct client;
struct client_call; /* one running request */

struct client_request {
    str method; /* "GET" */
    str url;
    const struct pair *headers; /* CR, LF and NUL in them are refused (ERR_INVALID) */
    size_t header_count;
    str body;                   /* p == NULL: none */
    u32 redirects;              /* how many to follow; 0 = none */
    i64 connect_us, timeout_us; /* of the whole call; at most 10 minutes */
    size_t max_body_bytes;      /* a longer answer fails with ERR_TOO_LARGE */
    /* Asked when there is a connection, the moment before the request goes out on it (not for redirects): false ends the call with ERR_BUSY, and nothing was sent. NULL: nobody is asked.
     * On the loop. */
    bool (*may_send)(void *may_ctx);
    void *may_ctx;
};
struct client_answer {
    err error; /* OK whenever a complete answer arrived, whatever its status */
    const char *
        code; /* stable, when error: "egress.blocked", "http.timeout", "http.connect", "http.tls", "http.protocol", "http.too_large", "http.url", "http.cancelled" */
    str detail; /* for people; never holds the URL's credentials */
    int status;
    struct pair *headers; /* names in lower case; of the last answer, after redirects */
    size_t header_count;
    str body;
    i64 duration_us;
};

struct client *client_new(struct loop *l, const struct egress *egress) MUST;
void client_free(struct client *c); /* cancels what runs; not from `done`. NULL is allowed */
/* Starts a call. The request is copied. `done` is called exactly once, later, on the loop; the answer lives on the arena `a`, which the caller
 * keeps until then. Returns the call for client_cancel; valid until `done`. ERR_BUSY above 4,096 running calls per loop: `done` is then not called. */
/* ERR_INVALID for a bad method or header, ERR_MEMORY likewise: `done` is not called. A bad URL arrives by `done`. Framing headers (Content-Length, …)
 * are left out: they are curl's. */
err client_start(struct client *c, struct arena *a, const struct client_request *request,
                 void (*done)(void *ctx, const struct client_answer *answer), void *ctx, struct client_call **out) MUST;
/* Ends it at once; `done` is called with ERR_TIMEOUT "http.cancelled" before this returns. */
void client_cancel(struct client_call *call);
u32 client_running(const struct client *c);
