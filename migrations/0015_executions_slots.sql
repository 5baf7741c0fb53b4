-- Concurrency limits. `slot_key` is the group that an execution counts in (its workflow, or that and a hash of the key's value, or '*' when only the tenant's limit
-- counts); NULL when it counts nowhere or has ended. `slot_state`: 0 waits for room in its group, 1 has that and waits for its tenant's, 2 is under way, 3 is a child under way
-- on its parent's place among the tenant's. Rows without a key are in neither index, so they cost nothing.
-- up
ALTER TABLE executions ADD COLUMN slot_key TEXT;
ALTER TABLE executions ADD COLUMN slot_limit BIGINT;
ALTER TABLE executions ADD COLUMN slot_state BIGINT;
CREATE INDEX executions_slots ON executions (tenant_id, slot_key, slot_state, id) WHERE slot_key IS NOT NULL;
CREATE INDEX executions_slots_tenant ON executions (tenant_id, slot_state, id) WHERE slot_key IS NOT NULL;
CREATE INDEX executions_due_tenant ON executions (tenant_id, due_at) WHERE due_at IS NOT NULL;
-- down
DROP INDEX executions_due_tenant;
DROP INDEX executions_slots_tenant;
DROP INDEX executions_slots;
ALTER TABLE executions DROP COLUMN slot_state;
ALTER TABLE executions DROP COLUMN slot_limit;
ALTER TABLE executions DROP COLUMN slot_key;
