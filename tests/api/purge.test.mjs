// What is left of a deleted tenant: nothing but its slug. The database says which tables it could be in, so a new one fails here until this test fills it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chain, createTrigger, createWorkflow, execute, transform } from '../lib/flows.mjs';
import { DB, PASSWORD, Weir, runWeir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, operator, acme, globex, tables;
before(async () => {
    weir = await Weir.start({ operator: true });
    operator = await weir.as('operator', 'platform');
    const id = async (slug) => (await operator.get(`/api/v1/tenants?slug=${slug}`, { expect: 200 })).body[0].id;
    [acme, globex] = [await id('acme'), await id('globex')];
    tables = weir.sql(DB === 'postgres'
        ? "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
        : "SELECT s.name FROM sqlite_schema s JOIN pragma_table_info(s.name) i WHERE s.type = 'table' AND i.name = 'tenant_id'").split('\n');
});
after(() => weir?.stop());

const rows = (tenant) => Object.fromEntries(tables.map((table) => [table, Number(weir.sql(`SELECT count(*) FROM ${table} WHERE tenant_id = '${tenant}'`))]));
const purge = () => weir.sql("UPDATE jobs SET due_at = 0, status = 'queued' WHERE kind = 'tenants.purge'");
const deleted = (days) => weir.sql(`UPDATE tenants SET deleted_at = deleted_at - ${days} * 86400000000 WHERE id = '${acme}'`);
const purged = () => weir.sql(`SELECT count(*) FROM tenants WHERE id = '${acme}' AND purged_at IS NOT NULL`) === '1';

/** At least a row in every table of a tenant. */
async function fill(slug) {
    const owner = await weir.as('owner', slug), editor = await weir.as('editor', slug);
    const { id } = (await operator.get(`/api/v1/tenants?slug=${slug}`, { expect: 200 })).body[0];
    await operator.patch(`/api/v1/tenants/${id}`, { quota_executions: 100 }, { expect: 200 });
    await owner.post('/api/v1/roles', { name: 'auditor', permissions: ['audit.read'] }, { expect: 201 });
    const [{ id: viewer }] = (await owner.get(`/api/v1/users?email=viewer@${slug}.test`, { expect: 200 })).body;
    await owner.patch(`/api/v1/users/${viewer}`, { role: 'auditor' }, { expect: 200 }); // a role that is referred to
    await owner.post('/api/v1/users/invite', { email: `new@${slug}.test`, role: 'auditor' }, { expect: 201 });
    await owner.post('/api/v1/api-keys', { name: 'k', scopes: ['workflows.read'] }, { expect: 201 });
    const done = await createWorkflow(editor, chain(transform('a', { x: 1 })));
    for (let i = 0; i < 3; i++) await execute(editor, done.id, {});
    const { webhook_url } = await createTrigger(editor, done.id, {});
    await weir.anonymous().post(webhook_url, {}, { raw: true });
    const waits = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 600_000 } }] });
    await editor.post(`/api/v1/workflows/${waits.id}/execute?wait=0`, {}, { expect: 202 });
    await owner.post('/api/v1/roles', { name: 'second', permissions: ['audit.read'] }, { expect: 201, headers: { 'idempotency-key': `${slug}-2` } });
}
/** What no call leaves behind for long; beside a server that runs SQLite takes no write. */
function fillMore(id) {
    weir.sql(`INSERT INTO login_challenges (id, user_id, tenant_id, password_hash, created_at, expires_at) SELECT 'challenge_${id}', user_id, tenant_id, '', 0, 9000000000000000 FROM memberships WHERE tenant_id = '${id}' AND role = 'owner'`);
    weir.sql(`INSERT INTO jobs (id, kind, tenant_id, payload, status, timeout_us, due_at, created_at, updated_at) VALUES ('job_${id}', 'mail.send', '${id}', '{}', 'dead', 0, 0, 0, 0)`);
}
const ran = () => until('the job ran', () => weir.sql("SELECT count(*) FROM jobs WHERE kind = 'tenants.purge' AND due_at > 0 AND status = 'queued'") === '1');

describe('a deleted tenant', () => {
    let theirs;
    test('had rows in every table that has a tenant_id', async () => {
        for (const slug of ['acme', 'globex']) await fill(slug);
        await operator.post(`/api/v1/tenants/${acme}/suspend`, undefined, { expect: 200 });
        await operator.del(`/api/v1/tenants/${acme}`, { expect: 204 });
        await weir.terminate();
        for (const id of [acme, globex]) fillMore(id);
        assert.ok(tables.length >= 15);
        for (const [table, n] of Object.entries(rows(acme))) assert.ok(n > 0, `this test puts nothing into ${table}`);
        theirs = rows(globex);
    });

    test('keeps them for WEIR_PURGE_DAYS', async () => {
        deleted(29);
        purge();
        await weir.serve();
        await ran();
        assert.ok(!purged());
        assert.ok(rows(acme).workflows > 0);
    });

    test('then has none in any table, while others keep theirs', async () => {
        await weir.terminate();
        deleted(1);
        purge();
        await weir.serve();
        await until('it is purged', purged, { within_ms: 30_000 });
        assert.deepEqual(rows(acme), Object.fromEntries(tables.map((table) => [table, 0])));
        const left = rows(globex);
        for (const table of tables) assert.ok(table === 'jobs' || left[table] >= theirs[table], table); // jobs come and go
        assert.equal(weir.sql(`SELECT id FROM jobs WHERE id = 'job_${globex}'`), `job_${globex}`);
        assert.equal(weir.sql(`SELECT count(*) FROM refresh_tokens WHERE session_id NOT IN (SELECT id FROM sessions)`), '0');
        assert.equal(weir.sql(`SELECT slug || ':' || name FROM tenants WHERE id = '${acme}'`), 'acme:');
    });

    test('its slug is not given again; its people are nowhere; the platform knows', async () => {
        assert.equal((await (await weir.as('operator', 'platform')).post('/api/v1/tenants', { slug: 'acme', name: 'Acme' })).body.code, 'tenants.slug_taken');
        assert.equal((await weir.anonymous().post('/api/v1/auth/token', { email: 'owner@acme.test', password: PASSWORD })).status, 401);
        assert.equal((await weir.anonymous().post('/api/v1/auth/token', { email: 'owner@globex.test', password: PASSWORD })).status, 200);
        assert.equal(weir.sql(`SELECT detail FROM audit_logs WHERE action = 'tenants.purge' AND object_id = '${acme}' AND tenant_id IS NULL`), 'acme');
    });

    test('the audit log of the others is whole', async () => {
        await until('all is sealed', () => weir.sql('SELECT count(*) FROM audit_logs WHERE seq IS NULL') === '0');
        const { status, stderr } = runWeir(['audit', 'verify'], weir.env, { cwd: weir.folder });
        assert.equal(status, 0, stderr);
    });

    test('is purged once', async () => {
        await weir.terminate();
        purge();
        await weir.serve();
        await ran();
        assert.equal(weir.sql("SELECT count(*) FROM audit_logs WHERE action = 'tenants.purge'"), '1');
    });
});
