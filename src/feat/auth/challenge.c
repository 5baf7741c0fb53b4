/* challenge.c - whoever failed three times must show that they are a person (WEIR_CHALLENGE_URL) before a password is looked at again.
 *
 * The verifier is asked as Turnstile, hCaptcha and reCAPTCHA all are: a form with secret, response and remoteip, answered by JSON with `success`. One that does not answer closes: it
 * concerns only who has just failed, waiting a minute does as well, and else whoever can hold the verifier up could guess on. Few ask at once, since they wait in
 * the pool that hashes. */
#include "feat/auth/auth_parts.h"

#include "base/clock.h"
#include "base/log.h"
#include "core/app.h"

#include <pthread.h>
#include <stdatomic.h>

enum { ASKING_BYTES = 1 << 20, ANSWER_BYTES = 64 << 10 };
#define CONNECT_US (2 * SECOND_US)
#define ANSWER_US  (3 * SECOND_US)
#define WAIT_US    (4 * SECOND_US) /* the call has ended by then */

PROBLEM_SHARED(challenge_required, "auth.challenge_required", ERR_UNAUTHORIZED, "A challenge must be passed first");
PROBLEM_SHARED(challenge_unavailable, "auth.challenge_unavailable", ERR_BUSY, "The challenge cannot be verified now");

/* Both the thread that asks and the call hold it; whoever leaves last lets it go. */
struct asking {
    struct message message;
    struct arena *arena;
    pthread_mutex_t lock;
    pthread_cond_t told;
    _Atomic u32 users;
    bool done; /* this and the rest: the lock */
    err error; /* OK: the verifier said something */
    bool passed;
    str url, form;
};

static void leave(struct asking *q)
{
    if (atomic_fetch_sub(&q->users, 1) != 1)
        return;
    pthread_cond_destroy(&q->told);
    pthread_mutex_destroy(&q->lock);
    arena_free(q->arena);
}

static void tell(struct asking *q, err e, bool passed)
{
    pthread_mutex_lock(&q->lock);
    q->done = true;
    q->error = e;
    q->passed = passed;
    pthread_cond_signal(&q->told);
    pthread_mutex_unlock(&q->lock);
    leave(q);
}

static void on_answer(void *ctx, const struct client_answer *answer)
{
    struct asking *q = ctx;
    struct json *said = NULL;
    err e = answer->error;
    if (e == OK && answer->status != 200)
        e = ERR_UPSTREAM;
    if (e == OK)
        e = json_parse(q->arena, answer->body, &said, NULL);
    const struct json *success = e == OK ? json_get(said, S("success")) : NULL;
    if (e == OK && (success == NULL || success->type != JSON_BOOL))
        e = ERR_UPSTREAM;
    if (e != OK)
        LOG(LOG_WARN, "auth.challenge_unverified", LOG_STR("cause", str_of(err_name(e))),
            LOG_STR("code", str_of(answer->code)), LOG_INT("status", answer->status));
    tell(q, e, e == OK && success->boolean);
}

static void ask(struct message *m)
{
    struct asking *q = CONTAINER(m, struct asking, message);
    const struct pair type = { S("content-type"), S("application/x-www-form-urlencoded") };
    const struct client_request request = { .method = S("POST"),
                                            .url = q->url,
                                            .headers = &type,
                                            .header_count = 1,
                                            .body = q->form,
                                            .connect_us = CONNECT_US,
                                            .timeout_us = ANSWER_US,
                                            .max_body_bytes = ANSWER_BYTES };
    struct client_call *running;
    err e = client_start(app.clients[0], q->arena, &request, on_answer, q, &running);
    if (e != OK)
        tell(q, e, false);
}

static err asking_new(str token, str remote, struct asking **out)
{
    struct arena *a = arena_new(ASKING_BYTES);
    struct asking *q = a != NULL ? NEW(a, struct asking) : NULL;
    struct buf b = { .arena = a };
    if (q == NULL) {
        arena_free(a);
        return ERR_MEMORY;
    }
    BUF_LIT(&b, "secret=");
    url_put_encoded(&b, app.config.challenge_secret);
    BUF_LIT(&b, "&response=");
    url_put_encoded(&b, token);
    BUF_LIT(&b, "&remoteip=");
    url_put_encoded(&b, remote);
    if (b.fail != OK) {
        arena_free(a);
        return b.fail;
    }
    *q = (struct asking){
        .message.run = ask, .arena = a, .users = 2, .url = app.config.challenge_url, .form = buf_view(&b)
    };
    pthread_mutex_init(&q->lock, NULL);
    clock_cond_init(&q->told);
    *out = q;
    return OK;
}

static err verify(str token, str remote, bool *passed)
{
    struct asking *q = NULL;
    struct timespec until = clock_in(WAIT_US);
    TRY(asking_new(token, remote, &q));
    loop_post(app.loops[0], &q->message);
    pthread_mutex_lock(&q->lock);
    while (!q->done && pthread_cond_timedwait(&q->told, &q->lock, &until) == 0)
        ;
    err e = q->done ? q->error : ERR_TIMEOUT;
    *passed = q->passed;
    pthread_mutex_unlock(&q->lock);
    leave(q);
    return e;
}

/* Half of the threads that hash may wait here; one where there is only one. */
static err verify_bounded(str token, str remote, bool *passed)
{
    static _Atomic i64 waiting;
    i64 most = MAX(app.config.hash_threads / 2, (i64)1);
    err e = ERR_BUSY;
    if (atomic_fetch_add(&waiting, 1) < most)
        e = verify(token, remote, passed);
    atomic_fetch_sub(&waiting, 1);
    return e;
}

err challenge_pass(struct req *rq, const struct login_from *from, str token)
{
    bool needed = false, passed = false;
    if (app.config.challenge_url.n > 0)
        TRY(login_limit_suspect(rq->tx, req_now(rq), from, &needed));
    if (!needed)
        return OK;
    if (token.n == 0)
        return problem(rq, &challenge_required, "Send what the challenge gave as challenge_token");
    err e = verify_bounded(token, rq->http->remote, &passed);
    if (e == OK)
        return passed ? OK : problem(rq, &challenge_required, "The challenge was not passed: show a new one");
    if (e == ERR_MEMORY)
        return e;
    reply_header(rq, "Retry-After", S("5"));
    return problem(rq, &challenge_unavailable, "Try again soon; after a minute without failures none is needed");
}
