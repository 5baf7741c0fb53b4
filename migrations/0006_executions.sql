-- Executions and their journal. A final execution holds its whole history in one text (step_executions); while it lives, each step that reached outside, or
-- ended before one did, has a row in the journal. `due_at` is when the scheduler must look at it again: NULL while a worker has it, or when it is final.
-- `fence` grows with every claim: a write that carries an older one changes nothing.
-- up
CREATE TABLE executions (
    id              TEXT PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    workflow_id     TEXT NOT NULL,
    version         BIGINT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled', 'timed_out')),
    created_at      BIGINT NOT NULL,
    started_at      BIGINT,
    completed_at    BIGINT,
    deadline_at     BIGINT NOT NULL,
    due_at          BIGINT,
    fence           BIGINT NOT NULL DEFAULT 1,
    lease_owner     TEXT,
    lease_until     BIGINT,
    parent_id       TEXT,
    dedup_key       TEXT,
    dedup_body      TEXT,
    trigger_data    TEXT NOT NULL,
    input_data      TEXT NOT NULL,
    output_data     TEXT,
    error           TEXT,
    responded       BOOLEAN NOT NULL DEFAULT FALSE,
    step_executions TEXT
);
CREATE INDEX executions_by_workflow ON executions (tenant_id, workflow_id, id);
CREATE INDEX executions_due ON executions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX executions_live ON executions (id) WHERE status IN ('queued', 'running');
CREATE UNIQUE INDEX executions_dedup ON executions (tenant_id, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX executions_dedup_age ON executions (created_at) WHERE dedup_key IS NOT NULL;

CREATE TABLE execution_journal (
    tenant_id    TEXT NOT NULL,
    execution_id TEXT NOT NULL REFERENCES executions (id),
    step_id      TEXT NOT NULL,
    iteration    BIGINT NOT NULL DEFAULT 0,
    status       TEXT NOT NULL CHECK (status IN ('running', 'waiting', 'completed', 'failed', 'skipped', 'cancelled', 'unknown')),
    attempt      BIGINT NOT NULL,
    attempts     TEXT NOT NULL DEFAULT '[]',
    input_data   TEXT,
    output_data  TEXT,
    error        TEXT,
    started_at   BIGINT,
    completed_at BIGINT,
    deadline_at  BIGINT,
    due_at       BIGINT,
    PRIMARY KEY (tenant_id, execution_id, step_id, iteration)
);
-- @postgres
SELECT weir_guard('executions');
SELECT weir_guard_system('executions');
SELECT weir_guard('execution_journal');
-- down
DROP TABLE execution_journal;
DROP TABLE executions;
