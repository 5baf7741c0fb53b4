-- When somebody asked for an execution's end at once. `cancel_at` is set with it: a kill is a cancellation that waits for nothing.
-- up
ALTER TABLE executions ADD COLUMN kill_at BIGINT;
-- down
ALTER TABLE executions DROP COLUMN kill_at;
