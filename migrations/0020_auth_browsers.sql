-- Browsers have sessions of their own kind, recovery has links, second factors have seeds (sealed) and recovery codes (hashes). A challenge stands between a right
-- password and the code that is still missing.
-- up
ALTER TABLE sessions ADD COLUMN kind TEXT NOT NULL DEFAULT 'api' CHECK (kind IN ('api', 'browser'));
ALTER TABLE sessions ADD COLUMN remember BIGINT NOT NULL DEFAULT 0 CHECK (remember IN (0, 1));

CREATE TABLE password_resets (
    token_hash TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX password_resets_by_user ON password_resets (user_id);
CREATE INDEX password_resets_by_end ON password_resets (expires_at);

ALTER TABLE users ADD COLUMN totp_seed TEXT;
ALTER TABLE users ADD COLUMN totp_enabled_at BIGINT;
ALTER TABLE users ADD COLUMN totp_last_step BIGINT NOT NULL DEFAULT 0;

CREATE TABLE recovery_codes (
    user_id   TEXT NOT NULL REFERENCES users (id),
    code_hash TEXT NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

CREATE TABLE login_challenges (
    id            TEXT PRIMARY KEY,
    user_id       TEXT NOT NULL REFERENCES users (id),
    tenant_id     TEXT NOT NULL REFERENCES tenants (id),
    password_hash TEXT NOT NULL,
    remember      BIGINT NOT NULL DEFAULT 0,
    failures      BIGINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX login_challenges_by_end ON login_challenges (expires_at);
CREATE INDEX login_challenges_by_user ON login_challenges (user_id, created_at);
-- @postgres
SELECT weir_guard('login_challenges');
SELECT weir_guard_system('login_challenges');
-- down
DROP TABLE login_challenges;
DROP TABLE recovery_codes;
ALTER TABLE users DROP COLUMN totp_last_step;
ALTER TABLE users DROP COLUMN totp_enabled_at;
ALTER TABLE users DROP COLUMN totp_seed;
DROP TABLE password_resets;
ALTER TABLE sessions DROP COLUMN remember;
ALTER TABLE sessions DROP COLUMN kind;
