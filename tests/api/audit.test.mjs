// The audit log: every change that matters has its row, a tenant reads its own, and nobody changes one unseen.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { PASSWORD, Weir, runWeir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, owner, admin;
before(async () => {
    weir = await Weir.start({ env: { WEIR_AUDIT_DAYS: '30' } });
    [owner, admin] = [await weir.as('owner'), await weir.as('admin')];
});
after(() => weir?.stop());

const log = async (client, query = '', options = { expect: 200 }) => (await client.get(`/api/v1/audit-logs${query}`, options)).body;
const verify = (...args) => runWeir(['audit', 'verify', ...args], weir.env, { cwd: weir.folder });
const sql = (text) => weir.sql(text);
/** Until every row so far has its seal. */
const sealed = () => until('the rows are sealed', async () => (await log(owner, '?limit=100')).every(({ seal }) => seal !== null));

describe('GET /audit-logs', () => {
    test('tells who did what to what, from where, by which request; and no values', async () => {
        await owner.with({ 'x-request-id': 'audited-1' }).post('/api/v1/roles', { name: 'audited', description: 'a secret word', permissions: [] }, { expect: 201 });
        const [row] = await log(admin, '?action=roles.create');
        const me = (await owner.get('/api/v1/auth/me', { expect: 200 })).body;
        assert.deepEqual([row.actor, row.ip, row.request_id, row.detail], [me.user.id, '127.0.0.1', 'audited-1', null]);
        await owner.patch(`/api/v1/roles/${row.object_id}`, { description: 'another secret word' }, { expect: 200 });
        const [changed] = await log(admin, `?object_id=${row.object_id}&action=roles.update`);
        assert.equal(changed.changed, 'description');
        assert.doesNotMatch(JSON.stringify(await log(admin, '?limit=100')), /secret word|argon2|eyJ/);
    });

    test('what a key did names the key', async () => {
        const { key, id } = (await owner.post('/api/v1/api-keys', { name: 'x', scopes: ['roles.write'] }, { expect: 201 })).body;
        await weir.anonymous().bearer(key).post('/api/v1/roles', { name: 'by-key', permissions: [] }, { expect: 201 });
        assert.equal((await log(admin, '?action=roles.create'))[0].detail, id);
    });

    test('a failed login stands in the log of the tenant that it was for', async () => {
        await weir.anonymous().post('/api/v1/auth/token', { email: 'viewer@acme.test', password: 'not the right one' }, { expect: 401 });
        const [row] = await log(admin, '?action=auth.login_failed');
        assert.ok(row.object_id.startsWith('user_'));
    });

    test('filters by actor, action, object and time; pages and counts', async () => {
        const all = await log(admin, '?limit=100');
        assert.deepEqual(all.map(({ id }) => id), all.map(({ id }) => id).sort().reverse());
        const { headers, body } = await admin.get('/api/v1/audit-logs?limit=2&count=true', { expect: 200 });
        assert.ok(Number(headers.get('x-total-count')) >= all.length);
        const next = /<([^>]+)>; rel="next"/.exec(headers.get('link'))[1];
        assert.equal((await admin.get(next, { expect: 200 })).body[0].id, all.at(all.findIndex(({ id }) => id === body[1].id) + 1)?.id);
        const { actor, created_at } = all[1];
        assert.ok((await log(admin, `?actor=${actor}&limit=100`)).every((row) => row.actor === actor));
        assert.equal((await log(admin, `?to=${created_at}&limit=1`))[0].id, all.find((row) => row.created_at < created_at).id);
        assert.ok((await log(admin, `?from=${created_at}&limit=100`)).every((row) => row.created_at >= created_at));
        errorAt(await admin.get('/api/v1/audit-logs?limit=101'), 'query/limit');
        errorAt(await admin.get('/api/v1/audit-logs?from=yesterday'), 'query/from');
    });

    test('a tenant sees its own rows only', async () => {
        const stranger = await weir.as('owner', 'globex');
        assert.ok(!(await stranger.get('/api/v1/audit-logs?limit=100', { expect: 200 })).text.includes('roles.create'));
    });
});

describe('exports', () => {
    test('CSV: a line of names, quoted texts, no formulas, as a file', async () => {
        const agent = '=HYPERLINK("http://evil.test","x")';
        await weir.anonymous().with({ 'x-request-id': 'export-1' }).post('/api/v1/auth/token', { email: 'owner@acme.test', password: PASSWORD }, { expect: 200, headers: { 'user-agent': agent } });
        const { text, headers } = await admin.get('/api/v1/audit-logs', { headers: { accept: 'text/csv' }, expect: 200 });
        assert.match(headers.get('content-disposition'), /attachment; filename="audit\.csv"/);
        const lines = text.trimEnd().split('\r\n');
        assert.equal(lines[0], 'id,seq,created_at,actor,detail,action,object_id,changed,ip,request_id,seal');
        assert.ok(lines.length > 10 && lines.slice(1).every((line) => /^"audit_\w+",/.test(line)));
        assert.doesNotMatch(text, /(^|,)"?[=+@-]/m);
    });

    test('NDJSON: the same rows, one per line; filters and limits work alike', async () => {
        const { text, type, headers } = await admin.get('/api/v1/audit-logs?action=auth.login&limit=2', { headers: { accept: 'application/x-ndjson' }, expect: 200 });
        assert.equal(type, 'application/x-ndjson');
        const rows = text.trimEnd().split('\n').map((line) => JSON.parse(line));
        assert.deepEqual(rows.map(({ action }) => action), ['auth.login', 'auth.login']);
        assert.match(headers.get('link'), /rel="next"/);
    });
});

describe('weir audit verify', () => {
    test('good, beside the running server and without it; a tenant alone, too', async () => {
        await sealed();
        const { status, stdout, stderr } = verify();
        assert.equal(status, 0, stderr);
        assert.match(stdout, /^good: \d+ rows in 2 chains; 0 not sealed yet/);
        assert.equal(verify('--tenant', 'acme').status, 0);
        await weir.terminate();
        assert.equal(verify().status, 0);
        await weir.serve();
    });

    test('2 when it cannot be read', () => {
        assert.equal(verify('--tenant', 'nowhere').status, 2);
        assert.equal(runWeir(['audit', 'verify'], { WEIR_DATA: join(weir.folder, 'nothing') }, { cwd: weir.folder }).status, 2);
        assert.equal(runWeir(['audit', 'verify'], { ...weir.env, WEIR_AUDIT_DAYS: 'x' }, { cwd: weir.folder }).status, 2);
        assert.equal(runWeir(['audit', 'verify'], { ...weir.env, SECRET_KEY: 'another-secret-key-of-thirty-two-b' }, { cwd: weir.folder }).status, 2, 'another key proves nothing');
    });

    const acme = "(SELECT id FROM tenants WHERE slug = 'acme')";
    const forgeries = {
        'a changed row': [`UPDATE audit_logs SET actor = 'somebody else' WHERE seq = 3 AND tenant_id = ${acme}`, /row 3 audit_\w+: its seal/],
        'nothing that became an empty text': [`UPDATE audit_logs SET ip = '' WHERE seq = 4 AND tenant_id = ${acme}`, /row 4 /],
        'a row that is gone': [`DELETE FROM audit_logs WHERE seq = 5 AND tenant_id = ${acme}`, /row 5: it is missing/],
        'the last rows gone': [`DELETE FROM audit_logs WHERE seq > 6 AND tenant_id = ${acme}`, /row 7: it is missing at the end/],
        'the last rows gone, and the head set back': [`UPDATE audit_heads SET seq = 6, seal = (SELECT seal FROM audit_logs WHERE seq = 6 AND tenant_id = ${acme}) WHERE chain = ${acme}; DELETE FROM audit_logs WHERE seq > 6 AND tenant_id = ${acme}`, /head of the chain was changed/],
        'two rows that changed places': [`UPDATE audit_logs SET seq = CASE seq WHEN 1 THEN -1 ELSE -2 END WHERE seq IN (1, 2) AND tenant_id = ${acme}; UPDATE audit_logs SET seq = seq + 3 WHERE seq < 0`, /row 1 /],
        'a chain without its head': [`DELETE FROM audit_heads WHERE chain = ${acme}`, /no head/],
        'a whole chain, head and rows': [`DELETE FROM audit_logs WHERE tenant_id = ${acme}; DELETE FROM audit_heads WHERE chain = ${acme}`, /a whole chain is gone \(1 chains are there, 2 should be\)/],
        'a whole chain, and the roll of chains': [`DELETE FROM audit_logs WHERE tenant_id = ${acme}; DELETE FROM audit_heads WHERE chain IN (${acme}, '*')`, /the roll of all chains is missing/],
        'a whole chain, and one less on the roll': [`DELETE FROM audit_logs WHERE tenant_id = ${acme}; DELETE FROM audit_heads WHERE chain = ${acme}; UPDATE audit_heads SET seq = seq - 1 WHERE chain = '*'`, /the roll of all chains was changed/],
        'all of it': ['DELETE FROM audit_logs; DELETE FROM audit_heads', /nothing is left of the log/],
        'a row that moved to another tenant': [`UPDATE audit_logs SET tenant_id = (SELECT id FROM tenants WHERE slug = 'globex'), seq = 1000 WHERE seq = 2 AND tenant_id = ${acme}`, /row 2: it is missing/],
    };
    for (const [what, [forgery, said]] of Object.entries(forgeries))
        test(`${what}: 1, and it names the row`, async () => {
            await sealed();
            await weir.terminate();
            const restore = weir.keepStore();
            sql(forgery);
            const { status, stderr } = verify();
            assert.equal(status, 1);
            assert.match(stderr, said);
            if (what.startsWith('a whole chain')) assert.equal(verify('--tenant', 'acme').status, 1);
            restore();
            assert.equal(verify().status, 0);
            await weir.serve();
        });
});

describe('what goes on behind a forgery does not make it good', () => {
    const acme = "(SELECT id FROM tenants WHERE slug = 'acme')";
    const forgeries = {
        'a head that was set back': [`UPDATE audit_heads SET seq = 6, seal = (SELECT seal FROM audit_logs WHERE seq = 6 AND tenant_id = ${acme}) WHERE chain = ${acme}; DELETE FROM audit_logs WHERE seq > 6 AND tenant_id = ${acme}`, /head of the chain was changed/],
        'a whole chain, which begins anew': [`DELETE FROM audit_logs WHERE tenant_id = ${acme}; DELETE FROM audit_heads WHERE chain = ${acme}`, /a whole chain is gone/],
        'the roll as well': [`DELETE FROM audit_logs WHERE tenant_id = ${acme}; DELETE FROM audit_heads WHERE chain IN (${acme}, '*')`, /the roll of all chains was changed/],
    };
    for (const [what, [forgery, said]] of Object.entries(forgeries))
        test(what, async () => {
            await sealed();
            await weir.terminate();
            const restore = weir.keepStore();
            sql(forgery);
            await weir.serve();
            await weir.anonymous().login('owner@acme.test', PASSWORD);
            await until('the new row is sealed', () => Number(sql('SELECT count(*) FROM audit_logs WHERE seq IS NULL')) === 0);
            await weir.terminate();
            const { status, stderr } = verify();
            assert.equal(status, 1);
            assert.match(stderr, said);
            restore();
            assert.equal(verify().status, 0);
            await weir.serve();
        });

    test('chains that are older than the roll are taken on it at the start, once and told', async () => {
        await sealed();
        await weir.terminate();
        sql("UPDATE audit_heads SET seq = -1, seal = '', mac = '' WHERE chain = '*'"); // as the migration leaves it
        assert.equal(verify().status, 1);
        await weir.serve();
        await until('the roll is made', () => Number(sql("SELECT seq FROM audit_heads WHERE chain = '*'")) > 0);
        await until('that is sealed', () => Number(sql('SELECT count(*) FROM audit_logs WHERE seq IS NULL')) === 0);
        assert.equal(verify().status, 0);
        assert.equal(sql("SELECT count(*) FROM audit_logs WHERE action = 'audit.roll'"), '1');
    });
});

test('old rows go from the beginning of their chain, whose anchor then says where it begins', async () => {
    await sealed();
    await weir.terminate();
    const count = () => Number(sql('SELECT count(*) FROM audit_logs'));
    const before = count();
    sql("UPDATE jobs SET due_at = 0, status = 'queued' WHERE kind = 'audit.prune'");
    // As if 31 days had passed: sealed anew by the server itself, with the times of then.
    sql("UPDATE audit_logs SET created_at = created_at - 31 * 86400000000, seq = NULL, seal = NULL; DELETE FROM audit_heads");
    await weir.serve();
    await until('the old rows are sealed', () => Number(sql('SELECT count(*) FROM audit_logs WHERE seq IS NULL')) === 0);
    sql("UPDATE jobs SET due_at = 0, status = 'queued' WHERE kind = 'audit.prune'");
    await until('the old rows are gone', () => count() < before);
    assert.equal(verify().status, 0);
    await weir.anonymous().login('owner@acme.test', PASSWORD);
    await until('the chain goes on', () => Number(sql('SELECT max(seq) FROM audit_logs')) > 1);
    const { status, stdout, stderr } = verify();
    assert.equal(status, 0, stderr);
    assert.match(stdout, /good/);
});
