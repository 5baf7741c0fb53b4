-- Keys for programs: shown once, kept as SHA-256. A key acts for whoever made it and never may more than they do now, so it is nobody's when they have gone.
-- up
CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    user_id      TEXT NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    key_hash     TEXT NOT NULL UNIQUE,
    scopes       TEXT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    created_at   BIGINT NOT NULL
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);
CREATE INDEX api_keys_by_user ON api_keys (user_id, tenant_id);
-- @postgres
SELECT weir_guard('api_keys');
SELECT weir_guard_system('api_keys');
-- down
DROP TABLE api_keys;
