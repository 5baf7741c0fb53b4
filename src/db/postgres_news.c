/* postgres_news.c - what processes with one database tell each other: LISTEN and NOTIFY, each on a connection of its own.
 *
 * Neither connection is the pool's: a pool that is used up must not make a node deaf, and a NOTIFY in a transaction that does something else holds a lock over
 * all commits. A listener that hears nothing asks whether the server is there, since a link that was cut says nothing either. */
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "db/postgres.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define QUIET_US     (3 * SECOND_US) /* without a word: then the server has to answer */
#define BACK_OFF_US  (SECOND_US / 10)
#define BACK_OFF_MAX (5 * SECOND_US)
#define SAY_US       SECOND_US

/* ---- hearing ---- */

/* Until there is something to read, the end, or the time. False: the end. */
static bool news_wait(struct postgres *db, int fd, i64 wait_us)
{
    struct pollfd fds[] = { { .fd = db->news_end, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
    (void)!poll(fds, fd >= 0 ? 2 : 1, (int)(wait_us / 1000));
    return fds[0].revents == 0;
}

static bool still_there(struct pg_conn *c)
{
    struct answers answers;
    i64 deadline_us = clock_mono_us() + FAST_US;
    if (pg_send_verb(c, PG_PING) != OK || pg_send_sync(c, deadline_us) != OK || pg_read(c, deadline_us, &answers) != OK)
        return false;
    PQclear(answers.rows);
    return answers.failed == OK;
}

static void hand_on(struct postgres *db, struct pg_conn *c)
{
    for (PGnotify *n; (n = PQnotifies(c->pg)) != NULL; PQfreemem(n))
        db->news_heard(str_of(n->extra));
}

/* Returns when the connection is lost, or at the end. */
static void hear(struct postgres *db, struct pg_conn *c)
{
    i64 heard_us = clock_mono_us();
    while (news_wait(db, PQsocket(c->pg), MAX(heard_us + QUIET_US - clock_mono_us(), (i64)0))) {
        if (PQconsumeInput(c->pg) == 0 || PQstatus(c->pg) != CONNECTION_OK)
            return;
        hand_on(db, c);
        if (clock_mono_us() - heard_us < QUIET_US)
            continue;
        if (!still_there(c))
            return;
        hand_on(db, c);
        heard_us = clock_mono_us();
    }
}

/* One connection, from its beginning to its end. False: it was not made. */
static bool listen_once(struct postgres *db)
{
    struct pg_conn *c;
    i64 deadline_us = clock_mono_us() + CONNECT_US;
    if (pg_connect(db, deadline_us, &c) != OK)
        return false;
    bool good = pg_ask(c, NULL, "LISTEN " NEWS_CHANNEL, deadline_us, NULL) == OK;
    if (good) {
        atomic_store(&db->news_up, true);
        db->news_heard(STR_NONE);
        hear(db, c);
        atomic_store(&db->news_up, false);
    }
    pg_close(c);
    return good;
}

/* At once after a connection that was lost, which is mostly one that there is again; then ever later. */
static void *run_listener(void *ctx)
{
    struct postgres *db = ctx;
    i64 wait_us = 0;
    while (news_wait(db, -1, wait_us)) {
        bool heard = listen_once(db);
        i64 whole_us = heard ? BACK_OFF_US : MIN(MAX(wait_us * 2, BACK_OFF_US), BACK_OFF_MAX);
        wait_us = whole_us / 2 + (i64)rng_below((u64)(whole_us / 2 + 1));
    }
    return NULL;
}

err postgres_listen(struct db *base, void (*heard)(str text))
{
    struct postgres *db = postgres_of(base);
    db->news_heard = heard;
    db->news_end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (db->news_end < 0)
        return ERR_INTERNAL;
    int rc = pthread_create(&db->news_thread, NULL, run_listener, db);
    if (rc == 0) {
        pthread_setname_np(db->news_thread, "weir-news");
        db->news_runs = true;
        return OK;
    }
    close(db->news_end);
    LOG(LOG_ERROR, "db.thread", LOG_STR("name", S("weir-news")), LOG_INT("error", rc));
    return ERR_INTERNAL;
}

void postgres_listen_end(struct db *base)
{
    struct postgres *db = postgres_of(base);
    if (db->news_runs) {
        u64 one = 1;
        (void)!write(db->news_end, &one, sizeof one);
        pthread_join(db->news_thread, NULL);
        close(db->news_end);
        db->news_runs = false;
    }
}

bool postgres_listening(const struct db *base)
{
    return atomic_load(&CONTAINER(base, const struct postgres, base)->news_up);
}

/* ---- saying ---- */

static err say(struct pg_conn *c, str text, i64 deadline_us)
{
    struct answers answers;
    TRY(pg_send_notify(c, text));
    TRY(pg_send_sync(c, deadline_us));
    TRY(pg_read(c, deadline_us, &answers));
    PQclear(answers.rows);
    return answers.failed;
}

err postgres_notify(struct db *base, str text)
{
    struct postgres *db = postgres_of(base);
    i64 deadline_us = clock_mono_us() + SAY_US;
    if (db->news_says != NULL && !pg_usable(db, db->news_says)) {
        pg_close(db->news_says);
        db->news_says = NULL;
    }
    if (db->news_says == NULL)
        TRY(pg_connect(db, deadline_us, &db->news_says));
    db->news_says->used_us = clock_mono_us();
    return say(db->news_says, text, deadline_us);
}
