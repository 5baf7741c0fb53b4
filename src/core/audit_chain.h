/* audit_chain.h - the audit log's seals: each row's is a MAC over the row and the seal before it, so none can be changed, taken out or put in between without the key
 * (of SECRET_KEY). A roll of all chains tells when a whole one is gone. What it cannot show: that somebody with the whole database put an old copy of it in place. */
#pragma once

#include "base/buf.h"
#include "db/db.h"

/* The thread that seals what was committed, within a second; idle while nothing is. */
err audit_seal_start(void) MUST;
void audit_seal_stop(void); /* seals the rest */
/* By audit.c: there is something to seal. */
void audit_seal_wake(void);
/* One batch; *more: there may be others. For the thread and for tests. */
err audit_seal_some(struct db *db, struct arena *a, bool *more) MUST;

/* Deletes sealed rows older than that from the beginning of their chains, whose anchors then say where they begin. */
err audit_prune(struct db *db, struct arena *a, i64 before_us, i64 *pruned) MUST;

/* Deletes a whole chain from its beginning, and then its head: it is whole at every moment. For a tenant that is no more. */
err audit_forget(struct db *db, struct arena *a, str chain) MUST;

struct audit_verdict {
    i64 rows, chains, unsealed;
    bool broken;
    str what; /* which row, and why */
};
/* Walks the chain of a tenant, or all (STR_NONE). ERR_… : it could not be read. */
err audit_verify(struct db *db, struct arena *a, str tenant_id, struct audit_verdict *out) MUST;
