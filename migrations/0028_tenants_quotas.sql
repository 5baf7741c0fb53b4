-- What a tenant may use, besides users; NULL is any amount. What it used of its executions is a row for each day, to which admissions are added in batches.
-- up
ALTER TABLE tenants ADD COLUMN quota_executions BIGINT;
ALTER TABLE tenants ADD COLUMN quota_storage_bytes BIGINT;
ALTER TABLE tenants ADD COLUMN quota_credits BIGINT;
CREATE TABLE execution_days (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    day       BIGINT NOT NULL,
    n         BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, day)
);
CREATE INDEX execution_days_by_day ON execution_days (day);
-- @postgres
SELECT weir_guard('execution_days');
SELECT weir_guard_system('execution_days');
-- down
DROP TABLE execution_days;
ALTER TABLE tenants DROP COLUMN quota_credits;
ALTER TABLE tenants DROP COLUMN quota_storage_bytes;
ALTER TABLE tenants DROP COLUMN quota_executions;
