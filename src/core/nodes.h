/* nodes.h - who serves this database: a row per *incarnation* (one start of one process) with a lease, renewed by a heartbeat.
 *
 * There is one lease per node and none per execution or job: a row that is being worked on names the incarnation that has it (column owner), and is there to be
 * taken when that incarnation's lease is over. All times of leases are the database's, since the clocks of nodes may jump. The node id outlives a start: a new
 * incarnation ends the leases of older ones with its id at once, so a node that was killed and started again takes its own work back without waiting.
 *
 * SQLite: one process by the lock of its folder; no row, no thread, incarnation 1, and the lease is always held. */
#pragma once

#include "base/buf.h"

/* What a node does: everything, only answer requests, only run executions and jobs. Known from the configuration on. */
enum node_role { NODE_ALL, NODE_API, NODE_WORKER };
enum node_role node_role(void);
bool node_works(void);   /* it runs executions, the scheduler and jobs: all and worker */
bool node_answers(void); /* it serves the API: all and api; a worker answers only livez, readyz, health and metrics */

/* After the migration, before the modules start. ERR_CONFLICT (with a complaint): the database belongs to nodes with other keys. */
err nodes_start(struct buf *complaint) MUST;
/* Ends the lease: after the last write of work that is under way, before the database is closed. */
void nodes_stop(void);

i64 node_incarnation(void); /* 0 before nodes_start */
str node_id(void);          /* WEIR_NODE_ID, else made up at each start */
/* Random, made with the database: what nodes of one database share and others do not (a prefix of keys in a store that several use). "" on SQLite. */
str nodes_cluster(void);
/* Whether the last heartbeat (by the clock that no one sets: clock_mono_us) is younger than the lease less a margin. When it is not, another node may take our work
 * any moment: nothing is claimed, and no effect begun. */
bool node_lease_held(i64 mono_us);
/* Whether this node may take others for dead whose lease is over: not when the database was away, so that theirs ended for nobody could renew it, until they had the time
 * to. It has itself renewed its lease lately. Nothing depends on it but work that would be done twice: the row's fence keeps it right. */
bool node_may_take_over(i64 mono_us);
/* Grows each time that the lease is held again after a while in which it was not: what was this node's in an earlier term may have been taken over since. */
u32 node_lease_term(void);
/* By the last heartbeat, this one included; 1 on SQLite. */
u32 nodes_alive(void);
/* Whether there can be others at all: PostgreSQL. */
bool nodes_possible(void);

enum { NODE_ID_MAX = 64, NODES_MAX = 256 /* that are listed */ };
struct node {
    i64 incarnation;
    str id, role, version, host;
    i64 started_at, beat_at, lease_until; /* by the database's clock */
};
/* The nodes with a lease, as the last heartbeat saw them: copied to `a`, this one first. */
err nodes_list(struct arena *a, struct node **list, u32 *n) MUST;

/* Somebody's lease has been seen to end, by time or in order: whoever has claims looks now instead of at its next poll. On the heartbeat's thread; must only hand
 * on. Registers itself, as metrics do. */
typedef void nodes_ended(void);
#define NODES_ENDED(id, fn) static nodes_ended *const id __attribute__((section("weir_nodes_ended"), used)) = (fn)

/* For the .postgres text of a statement: the database's clock, and whether the incarnation in a column has a lease (NULL has none). The SQLite text needs neither: what
 * ran there at the last start is taken back at the next one, under the folder's lock. */
#define DATABASE_NOW_US "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"
#define NODE_LIVES(column) \
    "EXISTS (SELECT 1 FROM nodes WHERE nodes.incarnation = " column " AND nodes.lease_until > " DATABASE_NOW_US ")"
