-- Orders that lists of workflows can be asked for (sort=): each a seek, however deep the page.
-- up
CREATE INDEX workflows_by_name ON workflows (tenant_id, name, id) WHERE deleted_at IS NULL;
CREATE INDEX workflows_by_creation ON workflows (tenant_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX workflows_by_change ON workflows (tenant_id, updated_at, id) WHERE deleted_at IS NULL;
-- down
DROP INDEX workflows_by_change;
DROP INDEX workflows_by_creation;
DROP INDEX workflows_by_name;
