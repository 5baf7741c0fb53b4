-- Who serves this database. A row is an incarnation: one start of one process. Its lease is renewed by a heartbeat, and ends by time, in order, or because the same node started
-- again (ended_at). All times are this database's own. The cluster's one row says what nodes of one database must have in common: marks of their keys, never the keys.
-- SQLite has one process and writes neither.
-- up
CREATE TABLE nodes (
    incarnation BIGINT PRIMARY KEY,
    id          TEXT NOT NULL,
    role        TEXT NOT NULL CHECK (role IN ('all', 'api', 'worker')),
    version     TEXT NOT NULL,
    host        TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    beat_at     BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    ended_at    BIGINT
);
CREATE TABLE cluster (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    id          TEXT NOT NULL,
    secret_mark TEXT NOT NULL,
    jwt_mark    TEXT NOT NULL
);
-- @postgres
ALTER TABLE nodes ALTER COLUMN incarnation ADD GENERATED ALWAYS AS IDENTITY;
-- down
DROP TABLE cluster;
DROP TABLE nodes;
