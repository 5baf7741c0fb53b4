-- Who there is: tenants own rows, users are people, a membership lets one of them into the other with a role.
-- E-mail addresses are kept in lower case, so that UNIQUE means what people mean.
-- up
CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    plan       TEXT NOT NULL DEFAULT 'free',
    status     TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    settings   TEXT NOT NULL DEFAULT '{}',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE users (
    id                  TEXT PRIMARY KEY,
    email               TEXT NOT NULL UNIQUE,
    name                TEXT NOT NULL DEFAULT '',
    password_hash       TEXT NOT NULL,
    password_changed_at BIGINT NOT NULL,
    status              TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL
);

CREATE TABLE memberships (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    user_id    TEXT NOT NULL REFERENCES users (id),
    role       TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'member', 'viewer')),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, tenant_id)
);
CREATE INDEX memberships_by_tenant ON memberships (tenant_id, user_id);
-- @postgres
-- Row-level security: every table that has a tenant_id calls weir_guard(), and the start of the server refuses one that did not. Without app.tenant no row is
-- there. weir_guard_system() is for tables that statements of scope SYSTEM look into (login, look-ups by hash or id, claims, cleaners).
CREATE FUNCTION weir_guard(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = NULLIF(current_setting(''app.tenant'', true), ''''))', guarded);
END $$;
CREATE FUNCTION weir_guard_system(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE POLICY system ON %s USING (current_setting(''app.system'', true) = ''on'')', guarded);
END $$;
SELECT weir_guard('memberships');
SELECT weir_guard_system('memberships');
-- down
DROP TABLE memberships;
DROP TABLE users;
DROP TABLE tenants;
-- @postgres
DROP FUNCTION weir_guard_system(regclass);
DROP FUNCTION weir_guard(regclass);
