-- Which incarnation of which node runs a job: another one takes it over when that one's lease is over, and no outcome is believed but the owner's.
-- up
ALTER TABLE jobs ADD COLUMN owner BIGINT;
CREATE INDEX jobs_running ON jobs (owner) WHERE status = 'running';
-- down
DROP INDEX jobs_running;
ALTER TABLE jobs DROP COLUMN owner;
