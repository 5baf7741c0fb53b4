-- What is left when an execution has failed for good. `dead_at` makes it a dead letter until somebody retries or discards it; `dead_code` says why, for filters. `replays` names
-- the execution whose results one that has not begun takes over.
-- up
ALTER TABLE executions ADD COLUMN dead_at BIGINT;
ALTER TABLE executions ADD COLUMN dead_code TEXT;
ALTER TABLE executions ADD COLUMN replays TEXT;
CREATE INDEX executions_dead ON executions (tenant_id, id) WHERE dead_at IS NOT NULL;
-- down
DROP INDEX executions_dead;
ALTER TABLE executions DROP COLUMN replays;
ALTER TABLE executions DROP COLUMN dead_code;
ALTER TABLE executions DROP COLUMN dead_at;
