-- What was answered to a request that came with an Idempotency-Key, so that its repeat is answered the same and does nothing. Written in the transaction of the
-- change itself. Only hashes of the key and of the request are kept; `body` is NULL when the answer was too large to keep.
-- up
CREATE TABLE idempotency_keys (
    tenant_id  TEXT NOT NULL,
    key_hash   TEXT NOT NULL,
    body_hash  TEXT NOT NULL,
    status     BIGINT NOT NULL,
    headers    TEXT NOT NULL,
    body       TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, key_hash)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
-- @postgres
SELECT weir_guard('idempotency_keys');
SELECT weir_guard_system('idempotency_keys');
-- down
DROP TABLE idempotency_keys;
