-- A membership may name a role of the tenant's own, may be disabled, and knows the platform's operators. A tenant says how long a session may idle, what
-- passwords and which addresses it takes, and how many users it may have. A deleted tenant stays, suspended, until its rows are purged.
-- up
CREATE TABLE roles (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    permissions TEXT NOT NULL,
    created_by  TEXT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);
CREATE INDEX roles_by_tenant ON roles (tenant_id, id);

CREATE TABLE memberships_wider (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    user_id    TEXT NOT NULL REFERENCES users (id),
    role       TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'member', 'viewer', 'operator', 'custom')),
    role_id    TEXT REFERENCES roles (id),
    status     TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, tenant_id),
    CHECK ((role = 'custom') = (role_id IS NOT NULL))
);
INSERT INTO memberships_wider (tenant_id, user_id, role, created_at, updated_at)
    SELECT tenant_id, user_id, role, created_at, updated_at FROM memberships;
DROP TABLE memberships;
ALTER TABLE memberships_wider RENAME TO memberships;
CREATE INDEX memberships_by_tenant ON memberships (tenant_id, user_id);
CREATE INDEX memberships_by_role ON memberships (role_id);

ALTER TABLE tenants ADD COLUMN session_idle_minutes BIGINT NOT NULL DEFAULT 30;
ALTER TABLE tenants ADD COLUMN session_absolute_minutes BIGINT NOT NULL DEFAULT 720;
ALTER TABLE tenants ADD COLUMN password_min BIGINT NOT NULL DEFAULT 10;
ALTER TABLE tenants ADD COLUMN require_2fa BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN email_domains TEXT;
ALTER TABLE tenants ADD COLUMN quota_users BIGINT;
ALTER TABLE tenants ADD COLUMN deleted_at BIGINT;
CREATE INDEX tenants_by_name ON tenants (name, id);

CREATE TABLE invitations (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    email       TEXT NOT NULL,
    name        TEXT NOT NULL DEFAULT '',
    role        TEXT NOT NULL,
    role_id     TEXT REFERENCES roles (id) ON DELETE CASCADE,
    token_hash  TEXT NOT NULL UNIQUE,
    invited_by  TEXT,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    UNIQUE (tenant_id, email)
);
CREATE INDEX invitations_by_tenant ON invitations (tenant_id, id);
CREATE INDEX invitations_by_role ON invitations (role_id);
CREATE INDEX invitations_by_end ON invitations (expires_at);
-- @postgres
SELECT weir_guard('roles');
SELECT weir_guard_system('roles');
SELECT weir_guard('memberships');
SELECT weir_guard_system('memberships');
SELECT weir_guard('invitations');
SELECT weir_guard_system('invitations');
-- down
DROP TABLE invitations;
DROP INDEX tenants_by_name;
ALTER TABLE tenants DROP COLUMN deleted_at;
ALTER TABLE tenants DROP COLUMN quota_users;
ALTER TABLE tenants DROP COLUMN email_domains;
ALTER TABLE tenants DROP COLUMN require_2fa;
ALTER TABLE tenants DROP COLUMN password_min;
ALTER TABLE tenants DROP COLUMN session_absolute_minutes;
ALTER TABLE tenants DROP COLUMN session_idle_minutes;
CREATE TABLE memberships_narrow (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    user_id    TEXT NOT NULL REFERENCES users (id),
    role       TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'member', 'viewer')),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, tenant_id)
);
INSERT INTO memberships_narrow (tenant_id, user_id, role, created_at, updated_at)
    SELECT tenant_id, user_id, CASE WHEN role IN ('operator', 'custom') THEN 'viewer' ELSE role END, created_at, updated_at
    FROM memberships WHERE status = 'active';
DROP TABLE memberships;
ALTER TABLE memberships_narrow RENAME TO memberships;
CREATE INDEX memberships_by_tenant ON memberships (tenant_id, user_id);
DROP TABLE roles;
-- @postgres
SELECT weir_guard('memberships');
SELECT weir_guard_system('memberships');
