-- A backup holds every tenant's rows, but the login that owns the tables is bound by row-level security like anybody: `app.backup` opens them to it, and never
-- to the role that serves. json_valid() is what SQLite calls so, for `weir verify`.
-- up
-- @sqlite
-- nothing: there is no row-level security
-- @postgres
CREATE FUNCTION weir_guard_backup(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE POLICY backup ON %s USING (current_setting(''app.backup'', true) = ''on'' AND current_user <> ''weir_app'')', guarded);
END $$;
CREATE OR REPLACE FUNCTION weir_guard(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = NULLIF(current_setting(''app.tenant'', true), ''''))', guarded);
    PERFORM weir_guard_backup(guarded);
END $$;
SELECT weir_guard_backup(polrelid) FROM pg_catalog.pg_policy WHERE polname = 'tenant' AND polrelid IN
    (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'public'::regnamespace);
CREATE FUNCTION json_valid(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM $1::json;
    RETURN $1 IS NOT NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;
-- down
-- @sqlite
-- nothing
-- @postgres
DROP FUNCTION json_valid(text);
DO $$
DECLARE guarded regclass;
BEGIN
    FOR guarded IN SELECT polrelid FROM pg_catalog.pg_policy WHERE polname = 'backup' LOOP
        EXECUTE format('DROP POLICY backup ON %s', guarded);
    END LOOP;
END $$;
DROP FUNCTION weir_guard_backup(regclass);
CREATE OR REPLACE FUNCTION weir_guard(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = NULLIF(current_setting(''app.tenant'', true), ''''))', guarded);
END $$;
