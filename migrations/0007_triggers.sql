-- Webhook triggers and the log of every attempt to use one.
-- up
CREATE TABLE triggers (
    id             TEXT PRIMARY KEY,
    tenant_id      TEXT NOT NULL,
    workflow_id    TEXT NOT NULL REFERENCES workflows (id),
    name           TEXT NOT NULL,
    method         TEXT NOT NULL CHECK (method IN ('GET', 'POST', 'PUT')),
    auth_type      TEXT NOT NULL CHECK (auth_type IN ('none', 'api_key', 'bearer')),
    auth_config    TEXT,
    is_active      BOOLEAN NOT NULL DEFAULT TRUE,
    rate_limit     BIGINT,
    max_body_bytes BIGINT NOT NULL,
    respond        TEXT NOT NULL CHECK (respond IN ('result', 'accepted')),
    dedup_header   TEXT,
    allowed_ips    TEXT,
    created_by     TEXT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);
CREATE INDEX triggers_by_workflow ON triggers (tenant_id, workflow_id, id);

CREATE TABLE trigger_deliveries (
    id           TEXT PRIMARY KEY,
    tenant_id    TEXT NOT NULL,
    trigger_id   TEXT NOT NULL,
    status_code  BIGINT NOT NULL,
    code         TEXT,
    execution_id TEXT,
    method       TEXT NOT NULL,
    remote       TEXT NOT NULL,
    body_bytes   BIGINT NOT NULL,
    duration_us  BIGINT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX trigger_deliveries_by_trigger ON trigger_deliveries (tenant_id, trigger_id, id);
CREATE INDEX trigger_deliveries_by_time ON trigger_deliveries (created_at);
-- @postgres
SELECT weir_guard('triggers');
SELECT weir_guard_system('triggers');
SELECT weir_guard('trigger_deliveries');
SELECT weir_guard_system('trigger_deliveries');
-- down
DROP TABLE trigger_deliveries;
DROP TABLE triggers;
