/* call.c - an outside call: from a worker to a loop, and its answer back. It lives on an arena of its own, because the loop fills it while the run's arena is the
 * worker's; the run keeps that arena until its own end, since results borrow from it.
 *
 * Users of a call: the run; its way, from being sent until the worker has looked at what it brought; and a cancellation on its way to the loop. A run that is killed does not
 * wait for its calls, so what comes back is matched by the execution's id and not by a pointer, and on the loop nothing of the run may be touched. */
#include "engine/internal.h"
#include "core/nodes.h"

#include <stdatomic.h>

enum { CALL_BYTES = 40 * 1024 * 1024 };

struct call {
    _Atomic u32 users;
    struct arena *arena;
    struct engine *engine;
    struct worker *worker;
    str execution_id;
    struct run_step *step;       /* the run's: only while that is alive */
    u32 loop, term;              /* term: of the node's lease, see struct run */
    struct message send, cancel; /* to the loop */
    bool running, cancelled;     /* the loop's */
    bool cancel_asked;           /* the worker's: the message is embedded, so it goes once */
    struct client_call *client;
    struct client_request request;
    struct client_answer answer;
    struct worker_message back;
    struct answer_link link;
};

struct call *call_of(struct worker_message *m)
{
    return CONTAINER(m, struct call, back);
}

str call_execution(struct call *c)
{
    return c->execution_id;
}

struct run_step *call_step(struct call *c)
{
    return c->step;
}

struct answer_link *call_link(struct call *c)
{
    return &c->link;
}

const struct client_answer *call_answer(struct call *c)
{
    return &c->answer;
}

void call_release(void *call)
{
    struct call *c = call;
    if (atomic_fetch_sub(&c->users, 1) == 1)
        arena_free(c->arena);
}

/* --- on the loop -------------------------------------------------------------------------------------------------- */

static void on_answer(void *ctx, const struct client_answer *answer)
{
    struct call *c = ctx;
    c->running = false;
    c->answer = *answer;
    worker_post(c->worker, &c->back);
}

static void refuse(struct call *c, err e, const char *code, str detail)
{
    on_answer(c, &(struct client_answer){ .error = e, .code = code, .detail = detail });
}

/* The last moment to find out that the execution may be another node's by now: when the lease is not held, and when it was not for a while since the row was last written. One
 * that stood still for a minute has its lease back before its worker writes again, and another node may have recorded this step's result. */
static bool may_send(void *call)
{
    const struct call *c = call;
    return spread_may_act(c->engine) && c->term == node_lease_term();
}

static void on_send(struct message *m)
{
    struct call *c = CONTAINER(m, struct call, send);
    if (c->cancelled) {
        refuse(c, ERR_TIMEOUT, "http.cancelled", S("Cancelled before it was sent"));
        return;
    }
    c->running = true; /* before client_start: `done` may not come from inside it, but the order is then plain */
    err e = client_start(c->engine->options.clients[c->loop], c->arena, &c->request, on_answer, c, &c->client);
    if (e == ERR_INVALID)
        refuse(c, e, "http.request", S("The URL or a header cannot be sent"));
    else if (e != OK)
        refuse(c, ERR_BUSY, "http.overloaded", S("Too many outgoing calls")); /* run.c waits and sends it again */
}

static void on_cancel(struct message *m)
{
    struct call *c = CONTAINER(m, struct call, cancel);
    c->cancelled = true;
    if (c->running)
        client_cancel(c->client);
    call_release(c);
}

/* --- on the worker ------------------------------------------------------------------------------------------------ */

static err copy_request(struct call *c, const struct client_request *from)
{
    struct pair *headers = NEW_N(c->arena, struct pair, from->header_count);
    c->request = *from;
    c->request.may_send = may_send;
    c->request.may_ctx = c;
    c->request.method = str_dup(c->arena, from->method);
    c->request.url = str_dup(c->arena, from->url);
    if (from->body.p != NULL)
        c->request.body = str_dup(c->arena, from->body);
    for (size_t i = 0; headers != NULL && i < from->header_count; i++)
        headers[i] =
            (struct pair){ str_dup(c->arena, from->headers[i].name), str_dup(c->arena, from->headers[i].value) };
    c->request.headers = headers;
    bool good = headers != NULL && c->execution_id.p != NULL && c->request.url.p != NULL &&
                c->request.method.p != NULL && (from->body.p == NULL || c->request.body.p != NULL);
    return good ? OK : ERR_MEMORY;
}

err call_send(struct engine *e, struct run *r, struct run_step *s,
              void (*back)(struct worker *w, struct worker_message *m))
{
    struct arena *a = arena_new(CALL_BYTES);
    struct call *c = a != NULL ? NEW(a, struct call) : NULL;
    if (c == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    *c = (struct call){ .users = 1,
                        .arena = a,
                        .engine = e,
                        .worker = r->worker,
                        .execution_id = str_dup(a, r->id),
                        .step = s,
                        .term = r->term,
                        .loop = r->worker->index % e->options.loop_count };
    c->send.run = on_send;
    c->cancel.run = on_cancel;
    c->back.run = back;
    c->link.call = c;
    if (copy_request(c, &s->attempt->result.request) != OK) {
        call_release(c);
        return ERR_MEMORY;
    }
    if (!arena_defer(r->arena, call_release, c)) /* released already when this fails */
        return ERR_MEMORY;
    atomic_fetch_add(&c->users, 1);
    s->call = c;
    r->in_flight++;
    loop_post(e->options.loops[c->loop], &c->send);
    return OK;
}

void call_cancel(struct call *c)
{
    if (c->cancel_asked)
        return;
    c->cancel_asked = true;
    atomic_fetch_add(&c->users, 1);
    loop_post(c->engine->options.loops[c->loop], &c->cancel);
}
