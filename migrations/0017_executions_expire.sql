-- When a failed execution goes, where its workflow says so (settings.error_retention_days).
-- up
ALTER TABLE executions ADD COLUMN expire_at BIGINT;
CREATE INDEX executions_expire ON executions (expire_at) WHERE expire_at IS NOT NULL;
-- down
DROP INDEX executions_expire;
ALTER TABLE executions DROP COLUMN expire_at;
