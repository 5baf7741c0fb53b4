// Row-level security of the real schema: for every table that has a tenant, found in the catalogue and not in a list, so a new table is tested by being there.
// No tenant, no rows; another tenant, no rows; only the tables that statements of scope SYSTEM need are open to them.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Postgres } from '../lib/postgres.mjs';
import { Weir, runWeir } from '../lib/server.mjs';

const MINE = 'tenant_mine', OTHER = 'tenant_other';
const TENANT_TABLES = `SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1`;

let weir, postgres, root;
const sql = (text) => postgres.sql(text, root);
/** As the pool does it: its login, its role, with what is set for the transaction. */
const asApp = (text, { tenant = '', system = '' } = {}) =>
    postgres.try(`BEGIN; SET LOCAL ROLE weir_app; SET LOCAL app.tenant = '${tenant}'; SET LOCAL app.system = '${system}'; ${text}; COMMIT`, weir.env.DATABASE_URL);
/** How many rows of each table are seen. */
function counts(how) {
    const { status, stdout, stderr } = asApp(tables.map((table) => `SELECT '${table}', count(*) FROM ${table}`).join(' UNION ALL '), how);
    assert.equal(status, 0, stderr);
    return Object.fromEntries(stdout.trim().split('\n').map((line) => [line.split('|')[0], Number(line.split('|')[1])]));
}
const each = (value) => Object.fromEntries(tables.map((table) => [table, typeof value === 'function' ? value(table) : value]));
/** Tables where one of these statements (%I is the table) is let through though it must be refused. */
function letThrough(statements, how) {
    const list = (values) => `ARRAY[${values.map((value) => `'${value.replaceAll("'", "''")}'`)}]`;
    const { status, stdout, stderr } = asApp(`DO $$ DECLARE t text; s text; BEGIN FOREACH t IN ARRAY ${list(tables)} LOOP FOREACH s IN ARRAY ${list(statements)} LOOP
        BEGIN EXECUTE format(s, t); RAISE WARNING 'through: %', format(s, t); EXCEPTION WHEN insufficient_privilege THEN NULL; END; END LOOP; END LOOP; END $$`, how);
    assert.equal(status, 0, stdout + stderr);
    return stderr;
}

/** A value that the column takes: of its type, and the first that its CHECK names. */
function valueOf(column, tenant, n) {
    if (column.name === 'tenant_id') return `'${tenant}'`;
    const allowed = /'([^']+)'/.exec(column.check ?? '')?.[1] ?? /(?:= |ARRAY\[)\(?(\d+)/.exec(column.check ?? '')?.[1];
    if (allowed !== undefined) return `'${allowed}'`;
    return column.type === 'text' ? `'${column.name}_${tenant}_${n}'` : column.type === 'boolean' ? 'true' : `${n}`;
}

function columnsOf(table) {
    const rows = sql(`SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, NULL), 'check',
        (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND k.conkey = ARRAY[a.attnum] LIMIT 1)))
        FROM pg_attribute a WHERE a.attrelid = '${table}'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND (a.attnotnull OR a.attname = 'tenant_id')`);
    return JSON.parse(rows);
}

let tables = [];
before(async () => {
    weir = await Weir.start({ users: false, serve: false });
    postgres = weir.postgres;
    root = postgres.of(weir.database, 'admin');
    tables = sql(TENANT_TABLES).split('\n');
    const inserts = tables.flatMap((table) => {
        const columns = columnsOf(table);
        return [MINE, OTHER].map((tenant, n) => `INSERT INTO ${table} (${columns.map((column) => column.name)}) VALUES (${columns.map((column) => valueOf(column, tenant, n + 1))})`);
    });
    sql(`SET session_replication_role = replica; ${inserts.join('; ')}`);
});
after(async () => {
    await weir?.stop();
});

test('there are tables to look at', () => {
    for (const table of ['memberships', 'sessions', 'workflows', 'executions', 'execution_journal', 'triggers', 'audit_logs']) assert.ok(tables.includes(table), `${tables}`);
});

describe('every table with a tenant', () => {
    test('is guarded, also against its owner', () => {
        assert.equal(sql(`SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY ('{${tables}}') AND NOT (relrowsecurity AND relforcerowsecurity)`), '');
        for (const table of tables.slice(0, 3)) assert.equal(postgres.sql(`SELECT count(*) FROM ${table}`, weir.env.DATABASE_URL), '0', 'the login owns it and sees nothing');
    });
    test('no tenant: no rows', () => assert.deepEqual(counts(), each(0)));
    test('wrong tenant: no rows', () => assert.deepEqual(counts({ tenant: 'tenant_nobody' }), each(0)));
    test('app.backup opens it to the login that owns it, and never to the role that serves', () => {
        const sum = tables.map((table) => `(SELECT count(*) FROM ${table})`).join(' + ');
        assert.equal(postgres.sql(`SET app.backup = 'on'; SELECT ${sum}`, weir.env.DATABASE_URL), `${2 * tables.length}`);
        assert.equal(asApp(`SET LOCAL app.backup = 'on'; SELECT ${sum}`).stdout.trim(), '0');
    });
    test('a tenant sees its own row and no other', () => {
        assert.deepEqual(counts({ tenant: MINE }), each(1));
        const seen = asApp(tables.map((table) => `SELECT tenant_id FROM ${table}`).join(' UNION '), { tenant: MINE });
        assert.equal(seen.stdout.trim(), MINE);
    });
    test('a tenant changes and deletes no others', () => {
        for (const change of ['UPDATE ~ SET tenant_id = tenant_id', 'DELETE FROM ~']) {
            const { status, stderr } = asApp(tables.map((table) => `${change.replace('~', table)} WHERE tenant_id = '${OTHER}'`).join('; '), { tenant: MINE });
            assert.equal(status, 0, stderr);
        }
        assert.deepEqual(counts({ tenant: OTHER }), each(1));
    });
    test('a tenant writes no row for another', () => assert.equal(letThrough([`UPDATE %I SET tenant_id = '${OTHER}'`], { tenant: MINE }), ''));
    test('the server may not switch its guard off', () =>
        assert.equal(letThrough(['ALTER TABLE %I DISABLE ROW LEVEL SECURITY', 'DROP POLICY tenant ON %I', 'TRUNCATE %I', 'DROP TABLE %I', 'CREATE TABLE x_%I (a int)'], { tenant: MINE }), ''));
});

// Statements of scope SYSTEM run for no tenant or for all: login, look-ups, claims, cleaners. This is the list of what they can see.
const SYSTEM_TABLES = ['api_keys', 'audit_logs', 'execution_days', 'executions', 'idempotency_keys', 'invitations', 'jobs', 'login_challenges', 'memberships', 'roles', 'sessions', 'trigger_deliveries', 'triggers', 'workflows'];

describe('statements for no tenant', () => {
    test('have a policy of their own, on these tables', () => {
        const found = sql(`SELECT c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polname = 'system' ORDER BY 1`);
        assert.deepEqual(found.split('\n').filter((table) => !SYSTEM_TABLES.includes(table)), [], 'a further table: add it here when a statement needs it');
        for (const table of SYSTEM_TABLES) assert.ok(found.includes(table), `${table}: no longer?`);
    });
    test('see all rows of those, and none of the others', () => {
        assert.deepEqual(counts({ system: 'on' }), each((table) => (SYSTEM_TABLES.includes(table) ? 2 : 0)));
    });
});

describe('the login', () => {
    const start = (url) => runWeir(['migrate', 'status'], { ...weir.env, DATABASE_URL: url });
    test('a superuser is refused', () => {
        const { status, stderr } = start(postgres.of(weir.database, 'admin'));
        assert.equal(status, 1);
        assert.match(stderr, /superuser/);
    });
    test('one that may bypass row-level security is refused', () => {
        postgres.login('weir_bypass', 'BYPASSRLS');
        const { status, stderr } = start(postgres.of(weir.database, 'weir_bypass'));
        assert.equal(status, 1);
        assert.match(stderr, /row-level security/);
    });
    test('no complaint shows the password', () => {
        for (const url of ['mysql://weir:hunter22@127.0.0.1/x', 'postgresql://weir:hunter22@127.0.0.1:1/x', postgres.of('no_such_database')]) {
            const { status, stdout, stderr } = start(url);
            assert.notEqual(status, 0);
            assert.doesNotMatch(stdout + stderr, /hunter22|tests-only/);
        }
        assert.doesNotMatch(runWeir(['config'], weir.env).stdout, /tests-only/);
    });

    test('one that may not make roles serves as the owner, whom the guard binds too', async () => {
        // on a server of its own: there is no weir_app on it
        const own = await Postgres.start();
        try {
            own.login('weir_plain');
            const url = own.create('plain', { owner: 'weir_plain' });
            const plain = new Weir({ DATABASE_URL: url });
            plain.addTenant('acme');
            await plain.serve();
            const editor = await plain.as('editor');
            await editor.get('/api/v1/workflows', { expect: 200 });
            assert.equal(own.sql(`SELECT count(*) FROM pg_roles WHERE rolname = 'weir_app'`), '0');
            assert.equal(own.sql('SELECT count(*) FROM memberships', url), '0', 'no tenant, no rows');
            assert.notEqual(own.sql('SELECT count(*) FROM memberships', own.of('plain', 'admin')), '0');
            await plain.stop();
        } finally {
            await own.stop();
        }
    });
});
