-- The queue. `due_at` is when a row may be claimed next: while it runs, that is the end of its lease, so one comparison finds new, failed and orphaned jobs.
-- A job that succeeded is deleted; a periodic one (one row per kind) is put back; a dead one stays to be looked at.
-- up
CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    tenant_id    TEXT,
    payload      TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('queued', 'running', 'dead')),
    periodic     BIGINT NOT NULL DEFAULT 0 CHECK (periodic IN (0, 1)),
    attempt      BIGINT NOT NULL DEFAULT 0,
    timeout_us   BIGINT NOT NULL,
    due_at       BIGINT NOT NULL,
    last_error   TEXT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE INDEX jobs_due ON jobs (due_at) WHERE status <> 'dead';
CREATE UNIQUE INDEX jobs_periodic ON jobs (kind) WHERE periodic = 1;
-- @postgres
SELECT weir_guard('jobs');
SELECT weir_guard_system('jobs');
-- down
DROP TABLE jobs;
