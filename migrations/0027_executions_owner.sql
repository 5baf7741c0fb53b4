-- Which incarnation of which node (core/nodes.h) has an execution in memory. NULL: nobody's, because it waits (due_at says until when) or has ended. One that is named here
-- and has no lease any more has lost it: whoever sees that makes the row due. What ran when this migration came belongs to 0, which no incarnation is.
-- up
DROP INDEX executions_live;
ALTER TABLE executions DROP COLUMN lease_owner;
ALTER TABLE executions DROP COLUMN lease_until;
ALTER TABLE executions ADD COLUMN owner BIGINT;
UPDATE executions SET owner = 0 WHERE due_at IS NULL AND status IN ('queued', 'running');
CREATE INDEX executions_owned ON executions (owner, id) WHERE owner IS NOT NULL;
-- @postgres
CREATE INDEX executions_asked ON executions (owner, id) WHERE owner IS NOT NULL AND (cancel_at IS NOT NULL OR wake_at IS NOT NULL);
-- down
-- @postgres
DROP INDEX executions_asked;
-- @all
DROP INDEX executions_owned;
ALTER TABLE executions DROP COLUMN owner;
ALTER TABLE executions ADD COLUMN lease_owner TEXT;
ALTER TABLE executions ADD COLUMN lease_until BIGINT;
CREATE INDEX executions_live ON executions (id) WHERE status IN ('queued', 'running');
