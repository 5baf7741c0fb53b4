/* group_commit.c - the yardstick for writes: what SQLite alone does when one thread commits batches of small rows.
 *
 *     group_commit FOLDER SECONDS WAITING
 *
 * Each transaction holds WAITING inserts into a table with one index; a "tx" is one insert, as a job of the store is. Nobody asks for the rows and nobody is told:
 * epoll_commit.c is the same with connections. */
#include "base/clock.h"
#include "commits.h"

#include <stdio.h>

enum { SECONDS_MAX = 3600, WAITING_MAX = 100000 };

static void run(struct commits *c, i64 seconds, i64 waiting)
{
    static const str body =
        S_INIT("{\"customer\":\"0017\",\"amount\":129.90,\"items\":[1,2,3],\"note\":\"a small body of a usual size\"}");
    i64 batches = 0, from_us = clock_mono_us(), now_us = from_us;
    for (; now_us - from_us < seconds * SECOND_US; now_us = clock_mono_us()) {
        commits_begin(c);
        for (i64 i = 0; i < waiting; i++)
            commits_insert(c, body);
        commits_end(c);
        batches++;
    }
    double took = (double)(now_us - from_us) / (double)SECOND_US;
    printf("{\"tx_per_second\":%.0f,\"batches_per_second\":%.1f}\n", (double)(batches * waiting) / took,
           (double)batches / took);
}

int main(int argc, char **argv)
{
    i64 seconds, waiting;
    if (argc != 4 || !str_i64(str_of(argv[2]), 1, SECONDS_MAX, &seconds) ||
        !str_i64(str_of(argv[3]), 1, WAITING_MAX, &waiting)) {
        fprintf(stderr, "usage: group_commit FOLDER SECONDS WAITING\n");
        return 2;
    }
    struct commits *c = commits_open(argv[1]);
    run(c, seconds, waiting);
    commits_close(c);
    return 0;
}
