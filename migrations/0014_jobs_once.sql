-- Of the jobs with the same kind and key, one at most waits or runs. Most have no key.
-- up
ALTER TABLE jobs ADD COLUMN once_key TEXT;
CREATE UNIQUE INDEX jobs_once ON jobs (kind, once_key) WHERE once_key IS NOT NULL AND status <> 'dead';
-- down
DROP INDEX jobs_once;
ALTER TABLE jobs DROP COLUMN once_key;
