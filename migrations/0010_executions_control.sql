-- What others ask of an execution that may be in memory, parked, or nobody's after a crash. The request is in the row, so whoever has the execution next obeys it:
-- `cancel_at` ends it, `wake_at` (a child has ended) lets it look again. Both make a parked row due at once, and a row that is just being parked too. `parent_step`
-- is set when the parent waits for this execution; without it `parent_id` only says where it came from. `depth` counts the parents above it.
-- up
ALTER TABLE executions ADD COLUMN cancel_at BIGINT;
ALTER TABLE executions ADD COLUMN wake_at BIGINT;
ALTER TABLE executions ADD COLUMN parent_step TEXT;
ALTER TABLE executions ADD COLUMN depth BIGINT NOT NULL DEFAULT 0;
CREATE INDEX executions_awaited ON executions (tenant_id, parent_id) WHERE parent_step IS NOT NULL;
-- down
DROP INDEX executions_awaited;
ALTER TABLE executions DROP COLUMN depth;
ALTER TABLE executions DROP COLUMN parent_step;
ALTER TABLE executions DROP COLUMN wake_at;
ALTER TABLE executions DROP COLUMN cancel_at;
