-- A deleted tenant keeps its row, without what it said: its slug is not given again. Its other rows go.
-- up
ALTER TABLE tenants ADD COLUMN purged_at BIGINT;
CREATE INDEX tenants_by_end ON tenants (deleted_at, id) WHERE purged_at IS NULL;
-- down
DROP INDEX tenants_by_end;
ALTER TABLE tenants DROP COLUMN purged_at;
