-- Who is signed in. A session is the family of refresh tokens that began with one login; a rotated token names its
-- successor, whose own row holds all that is needed to sign it again.
-- Failed logins are rows, so that a restart forgives nobody; accounts stand in them as hashes, because people type passwords into the wrong field.
-- up
CREATE TABLE auth_setup (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    token_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE sessions (
    id                  TEXT PRIMARY KEY,
    tenant_id           TEXT NOT NULL REFERENCES tenants (id),
    user_id             TEXT NOT NULL REFERENCES users (id),
    ip                  TEXT NOT NULL,
    user_agent          TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    last_seen_at        BIGINT NOT NULL,
    absolute_expires_at BIGINT NOT NULL,
    revoked_at          BIGINT,
    revoked_reason      TEXT CHECK (revoked_reason IN ('logout', 'reuse'))
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_end ON sessions (absolute_expires_at);

CREATE TABLE refresh_tokens (
    jti           TEXT PRIMARY KEY,
    session_id    TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    token_hash    TEXT NOT NULL,
    issued_at     BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    rotated_at    BIGINT,
    successor_jti TEXT
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_end ON refresh_tokens (expires_at);

CREATE TABLE login_failures (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    ip      TEXT NOT NULL,
    at      BIGINT NOT NULL
);
CREATE INDEX login_failures_by_ip ON login_failures (ip, at);
CREATE INDEX login_failures_by_account ON login_failures (account, ip, at);
CREATE INDEX login_failures_by_time ON login_failures (at);

CREATE TABLE login_blocks (
    account TEXT NOT NULL,
    ip      TEXT NOT NULL,
    level   BIGINT NOT NULL,
    until   BIGINT NOT NULL,
    PRIMARY KEY (account, ip)
);
CREATE INDEX login_blocks_by_time ON login_blocks (until);
-- @postgres
SELECT weir_guard('sessions');
SELECT weir_guard_system('sessions');
-- down
DROP TABLE login_blocks;
DROP TABLE login_failures;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE auth_setup;
