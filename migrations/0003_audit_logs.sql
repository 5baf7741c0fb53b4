-- Append-only: who did what to which object. `changed` names fields, never their values. No foreign keys: a row outlives what it tells about.
-- up
CREATE TABLE audit_logs (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT,
    actor      TEXT,
    action     TEXT NOT NULL,
    object_id  TEXT,
    changed    TEXT,
    detail     TEXT,
    request_id TEXT,
    ip         TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX audit_logs_by_tenant ON audit_logs (tenant_id, id);
-- @postgres
SELECT weir_guard('audit_logs');
SELECT weir_guard_system('audit_logs');
-- down
DROP TABLE audit_logs;
