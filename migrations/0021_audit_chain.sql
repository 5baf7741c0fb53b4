-- Rows are sealed after their commit into a chain per tenant: `seq` and a MAC over the row and the seal before it. The head says where a chain ends, its anchor where it
-- begins since older rows were pruned; the platform's own rows are the chain of tenant ''.
-- up
ALTER TABLE audit_logs ADD COLUMN seq BIGINT;
ALTER TABLE audit_logs ADD COLUMN seal TEXT;
CREATE INDEX audit_logs_unsealed ON audit_logs (id) WHERE seq IS NULL;
CREATE UNIQUE INDEX audit_logs_chain ON audit_logs (coalesce(tenant_id, ''), seq) WHERE seq IS NOT NULL;
CREATE INDEX audit_logs_by_time ON audit_logs (created_at);
CREATE TABLE audit_heads (
    chain       TEXT PRIMARY KEY,
    seq         BIGINT NOT NULL,
    seal        TEXT NOT NULL,
    anchor_seq  BIGINT NOT NULL DEFAULT 0,
    anchor_seal TEXT NOT NULL DEFAULT '',
    mac         TEXT NOT NULL
);
-- down
DROP TABLE audit_heads;
DROP INDEX audit_logs_by_time;
DROP INDEX audit_logs_chain;
DROP INDEX audit_logs_unsealed;
ALTER TABLE audit_logs DROP COLUMN seal;
ALTER TABLE audit_logs DROP COLUMN seq;
