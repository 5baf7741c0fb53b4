/* store.c - see store.h. */
#include "core/store.h"
#include "base/clock.h"
#include "core/app.h"
#include "core/jobs.h"
#include "core/nodes.h"

#define COUNT_EVERY_US (10 * SECOND_US)

static err count_grown(const struct job *job)
{
    return db_count_grown(app.db, job->arena);
}

static const struct job_kind jobs[] = {
    { .name = "store.count",
      .run = count_grown,
      .every_us = COUNT_EVERY_US,
      .wanted = nodes_possible,
      .doc = "Lets PostgreSQL count tables again that have doubled, so that its plans fit them" },
};

const struct module store_module = {
    .name = "store", .doc = "The database, while it serves", .jobs = jobs, .job_count = COUNT(jobs)
};
