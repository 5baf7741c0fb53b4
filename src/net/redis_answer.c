/* redis_answer.c - see redis_answer.h.
 *
 * hiredis' own objects are a malloc each, without a bound on lists; ours come from the connection's arena, which has a cap and is rewound after every answer. */
#include "net/redis_answer.h"

#include <hiredis/hiredis.h>

/* hiredis gives a list's length as int up to 0.14, as size_t since 1.0. */
#if HIREDIS_MAJOR >= 1
typedef size_t list_length;
#else
typedef int list_length;
#endif

static const struct redis_answer nil = { .kind = REDIS_NIL };

const struct redis_answer *redis_item(const struct redis_answer *list, u32 i)
{
    return i < list->n && list->list[i] != NULL ? list->list[i] : &nil;
}

/* Its place in the list that it belongs to is filled here: hiredis leaves that to us. */
static struct redis_answer *make(const redisReadTask *t, enum redis_kind kind)
{
    struct redis_answer *x = NEW((struct arena *)t->privdata, struct redis_answer);
    if (x == NULL)
        return NULL;
    x->kind = kind;
    if (t->parent != NULL) {
        const struct redis_answer *parent = t->parent->obj;
        parent->list[t->idx] = x;
    }
    return x;
}

static void *make_text(const redisReadTask *t, char *text, size_t n)
{
    struct redis_answer *x = make(t, t->type == REDIS_REPLY_ERROR ? REDIS_FAILED : REDIS_TEXT);
    if (x == NULL)
        return NULL;
    x->text = str_dup(t->privdata, (str){ text, n });
    return x->text.p != NULL ? x : NULL;
}

static void *make_list(const redisReadTask *t, list_length n)
{
    struct redis_answer *x = n <= (list_length)REDIS_ANSWER_ITEMS ? make(t, REDIS_LIST) : NULL;
    if (x == NULL)
        return NULL;
    x->list = NEW_N((struct arena *)t->privdata, const struct redis_answer *, (size_t)n);
    x->n = (u32)n;
    return x->list != NULL ? x : NULL;
}

static void *make_number(const redisReadTask *t, long long number)
{
    struct redis_answer *x = make(t, REDIS_NUMBER);
    if (x != NULL)
        x->number = number;
    return x;
}

static void *make_nil(const redisReadTask *t)
{
    return make(t, REDIS_NIL);
}

static void leave(void *answer) {}

static redisReplyObjectFunctions functions = {
    .createString = make_text,
    .createArray = make_list,
    .createInteger = make_number,
    .createNil = make_nil,
    .freeObject = leave,
};

redisReader *redis_reader_new(struct arena *a)
{
    redisReader *r = redisReaderCreateWithFunctions(&functions);
    if (r == NULL)
        return NULL;
    r->privdata = a;
    r->maxbuf = 0; /* the buffer is kept: 0.14 asserts that a new one can be had when it gives one up */
    return r;
}

err redis_reader_next(redisReader *r, const struct redis_answer **out, const char **why)
{
    void *found = NULL;
    if (redisReaderGetReply(r, &found) != REDIS_OK) {
        *why = r->err == REDIS_ERR_OOM ? "an answer is larger than it may be" : "what it says is no Redis protocol";
        return ERR_UPSTREAM;
    }
    if (found == NULL && r->len - r->pos > REDIS_ANSWER_BYTES) {
        *why = "an answer is larger than it may be";
        return ERR_UPSTREAM;
    }
    if (found != NULL && (uintptr_t)found < 4096) { /* what 1.0 answers in place of kinds that nobody asked for */
        *why = "it speaks a newer protocol than it was asked to";
        return ERR_UPSTREAM;
    }
    *out = found;
    return OK;
}
