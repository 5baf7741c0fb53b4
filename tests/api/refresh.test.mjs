// A family of refresh tokens as time goes by, and what is left of it. (Rotation itself: auth.test.mjs.)

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, anyone;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const login = async (role = 'member') => (await anyone.post('/api/v1/auth/token', { email: `${role}@acme.test`, password: PASSWORD }, { expect: 200 })).body;
const refresh = (refresh_token) => anyone.post('/api/v1/auth/refresh', { refresh_token });
const me = async (access_token) => (await anyone.bearer(access_token).get('/api/v1/auth/me')).status;
/** As if so many seconds had passed, in the store of a server that stands still. */
async function pass(seconds, changes) {
    await weir.terminate();
    for (const [table, columns] of Object.entries(changes)) weir.sql(`UPDATE ${table} SET ${columns.map((column) => `${column} = ${column} - ${seconds * 1_000_000}`).join()}`);
    await weir.serve();
}
const later = (seconds) => pass(seconds, { refresh_tokens: ['rotated_at'] });

describe('the window of a rotation', () => {
    test('a parent gives what its successor was rotated to, by however many tabs', async () => {
        const a = await login();
        const b = (await refresh(a.refresh_token)).body;
        const c = (await refresh(b.refresh_token)).body;
        for (const token of [a, b, a]) assert.equal((await refresh(token.refresh_token)).body.refresh_token, c.refresh_token);
        assert.equal((await refresh(c.refresh_token)).status, 200);
    });

    test('after it the parent ends the family, tells in the audit log, and by a letter', async () => {
        const a = await login('editor');
        const b = (await refresh(a.refresh_token)).body;
        await later(11);
        assert.equal((await refresh(b.refresh_token)).status, 200, 'the newest one does not age by it');
        const { status, body } = await refresh(a.refresh_token);
        assert.deepEqual([status, body.code], [401, 'auth.refresh_invalid']);
        assert.equal(await me(b.access_token), 401);
        assert.equal((await refresh(b.refresh_token)).status, 401);
        const rows = (await (await weir.as('owner')).get('/api/v1/audit-logs?action=auth.refresh_reused', { expect: 200 })).body;
        assert.equal(rows.length, 1);
        await weir.mail('editor@acme.test');
        assert.equal((await anyone.post('/api/v1/auth/token', { email: 'editor@acme.test', password: PASSWORD })).status, 200, 'other sessions of the person go on, and new ones begin');
    });
});

describe('the end of a family', () => {
    test('is 30 days from its login, however often it rotates; no token says it lasts longer', async () => {
        let pair = await login('viewer');
        assert.equal(pair.refresh_expires_in, 7 * 86_400);
        const day = 86_400;
        for (let days = 5; days < 30; days += 5) {
            await pass(5 * day, { sessions: ['created_at', 'absolute_expires_at'], refresh_tokens: ['rotated_at'] });
            const { status, body } = await refresh(pair.refresh_token);
            assert.equal(status, 200, `day ${days}`);
            assert.ok(body.refresh_expires_in <= (30 - days) * day && body.expires_in <= 900);
            pair = body;
        }
        await pass(5 * day, { sessions: ['created_at', 'absolute_expires_at'], refresh_tokens: ['rotated_at'] });
        assert.equal((await refresh(pair.refresh_token)).status, 401);
        assert.equal(await me(pair.access_token), 401);
    });
});

test('what is over is deleted: tokens, sessions, links, challenges, invitations, failures', async () => {
    const owner = await weir.anonymous().login('owner@acme.test', PASSWORD);
    await owner.post('/api/v1/users/invite', { email: 'late@acme.test', role: 'viewer' }, { expect: 201 });
    await anyone.post('/api/v1/auth/password/forgot', { email: 'viewer@acme.test' }, { expect: 202 });
    await weir.mail('viewer@acme.test');
    await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: 'not the right one' }, { expect: 401 });
    await weir.terminate();
    weir.sql("INSERT INTO login_challenges (id, user_id, tenant_id, password_hash, created_at, expires_at) SELECT 'challenge_x', user_id, tenant_id, '', 0, 1 FROM memberships WHERE role = 'owner' AND tenant_id = (SELECT id FROM tenants WHERE slug = 'acme')");
    weir.sql("INSERT INTO login_blocks (account, ip, level, until) VALUES ('x', 'y', 1, 1)");
    const ends = { refresh_tokens: 'expires_at', sessions: 'absolute_expires_at', password_resets: 'created_at', login_challenges: 'expires_at', invitations: 'expires_at', login_failures: 'at', login_blocks: 'until' };
    for (const table of Object.keys(ends)) assert.notEqual(weir.sql(`SELECT count(*) FROM ${table}`), '0', table);
    for (const [table, column] of Object.entries(ends)) weir.sql(`UPDATE ${table} SET ${column} = 1`);
    weir.sql("UPDATE jobs SET due_at = 0, status = 'queued' WHERE kind IN ('auth.clean', 'users.clean')");
    await weir.serve();
    for (const table of Object.keys(ends)) await until(`${table} is empty`, () => weir.sql(`SELECT count(*) FROM ${table}`) === '0', { within_ms: 20_000 });
});
