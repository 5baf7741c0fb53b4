-- Workflows: the row that people edit, and one immutable row per version of its definition.
-- up
CREATE TABLE workflows (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    tags        TEXT NOT NULL DEFAULT '[]',
    is_active   BOOLEAN NOT NULL DEFAULT TRUE,
    version     BIGINT NOT NULL,
    created_by  TEXT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    deleted_at  BIGINT
);
CREATE INDEX workflows_by_tenant ON workflows (tenant_id, id);

CREATE TABLE workflow_versions (
    tenant_id   TEXT NOT NULL,
    workflow_id TEXT NOT NULL REFERENCES workflows (id),
    version     BIGINT NOT NULL,
    name        TEXT NOT NULL,
    definition  TEXT NOT NULL,
    created_by  TEXT,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (workflow_id, version)
);
-- @postgres
SELECT weir_guard('workflows');
SELECT weir_guard_system('workflows');
SELECT weir_guard('workflow_versions');
-- down
DROP TABLE workflow_versions;
DROP TABLE workflows;
