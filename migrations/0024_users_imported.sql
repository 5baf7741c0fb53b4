-- As long as hashes of a replaced service are left, every login spends what the dearest of them costs, so that none is told from the others by its time. This finds it.
-- up
CREATE INDEX users_imported ON users (substr(password_hash, 5, 2)) WHERE substr(password_hash, 2, 1) = '2';
-- down
DROP INDEX users_imported;
