/* pool.c - a bounded pool of threads for what may block: password hashing, long SQL, outgoing calls of tools.
 *
 * The queue is bounded and a full one refuses at once: a slow request that waits behind thousands of others helps nobody, a
 * 503 lets the client decide. */
#include "core/app.h"
#include "core/cache.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { STACK_BYTES = 1 << 20, NAME_BYTES = 16 /* of a Linux thread, with NUL */ };

/* What is slow anyway gives way to the loops where processors are few: a storm of logins must not be felt by those who are signed in. */
enum { NICE = 5 };

/* Made before the arenas' owner threads exist and ended after them, so it is malloc's. */
struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct task *first, **last;
    u32 queued, queue_max, count;
    atomic_uint submitting; /* threads within pool_submit */
    bool ending;
    char name[NAME_BYTES];
    pthread_t threads[];
};

static struct task *take(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->first == NULL && !p->ending)
        pthread_cond_wait(&p->work, &p->lock);
    struct task *t = p->first;
    if (t != NULL) {
        p->first = t->next;
        if (p->first == NULL)
            p->last = &p->first;
        p->queued--;
    }
    pthread_mutex_unlock(&p->lock);
    return t;
}

/* Of this thread alone, on Linux; that it fails costs nothing but the courtesy. A batch thread takes the processor from nobody when it is woken: else, where
 * processors are few, each answer of PostgreSQL interrupts a loop, or the database at its next request. */
static void give_way(void)
{
    const struct sched_param none = { 0 };
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    sched_setscheduler(0, SCHED_BATCH, &none);
}

static void *work(void *arg)
{
    struct pool *p = arg;
    pthread_setname_np(pthread_self(), p->name);
    give_way();
    for (struct task *t; (t = take(p)) != NULL;)
        t->run(t); /* may free t */
    if (app.db != NULL)
        db_thread_end(app.db);
    cache_thread_end();
    return NULL;
}

/* 1 MiB instead of 8: nothing recurses deeply here, and idle threads should cost little address space. */
static bool spawn(struct pool *p, u32 threads)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return false;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    while (p->count < threads && pthread_create(&p->threads[p->count], &attr, work, p) == 0)
        p->count++;
    pthread_attr_destroy(&attr);
    return p->count == threads;
}

struct pool *pool_new(const char *name, u32 threads, u32 queue_max)
{
    struct pool *p = calloc(1, sizeof *p + threads * sizeof p->threads[0]);
    if (p == NULL)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    p->last = &p->first;
    p->queue_max = queue_max;
    for (size_t i = 0; i + 1 < NAME_BYTES && name[i] != '\0'; i++)
        p->name[i] = name[i];
    if (spawn(p, threads))
        return p;
    pool_free(p);
    return NULL;
}

/* A thread is woken when the lock is free again, else it sleeps on that once more. */
err pool_submit(struct pool *p, struct task *t)
{
    atomic_fetch_add(&p->submitting, 1);
    pthread_mutex_lock(&p->lock);
    bool taken = p->queued < p->queue_max && !p->ending;
    if (taken) {
        t->next = NULL;
        *p->last = t;
        p->last = &t->next;
        p->queued++;
    }
    pthread_mutex_unlock(&p->lock);
    if (taken)
        pthread_cond_signal(&p->work);
    atomic_fetch_sub(&p->submitting, 1);
    return taken ? OK : ERR_BUSY;
}

void pool_free(struct pool *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (u32 i = 0; i < p->count; i++)
        pthread_join(p->threads[i], NULL);
    while (atomic_load(&p->submitting) > 0) /* a task can be done before its submitter has left */
        sched_yield();
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
