// The paths of the services that Weir replaces: the same handlers answer, by the same rules.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';
import { SignJWT, decodeJwt, decodeProtectedHeader } from 'jose';
import { PASSWORD, Weir } from '../lib/server.mjs';

const JWT_SECRET_KEY = 'k8Zt3mQw7Lr1Xy5Nb9Vc2Hd6Jf4Gs0PaUeIo';
let weir, anyone;
before(async () => {
    weir = await Weir.start({ env: { JWT_SECRET_KEY, JWT_ACCEPT_LEGACY_USER_ID: 'true' } });
    anyone = weir.anonymous();
});
after(() => weir?.stop());

for (const base of ['/chat', '/api/v1/chat'])
    test(`${base}/authenticate, refresh and revoke`, async () => {
        const { body, headers } = await anyone.post(`${base}/authenticate`, { email: 'member@acme.test', password: PASSWORD }, { expect: 200 });
        assert.deepEqual(Object.keys(body).sort(), ['access_token', 'expires_in', 'refresh_expires_in', 'refresh_token', 'token_type']);
        assert.match(headers.get('cache-control'), /no-store/);
        const next = await anyone.post(`${base}/refresh`, { refresh_token: body.refresh_token }, { expect: 200 });
        const client = anyone.bearer(next.body.access_token);
        await client.get('/v1/auth/me', { expect: 200 });
        await client.post(`${base}/revoke`, undefined, { expect: 204 });
        await client.get('/v1/auth/me/', { expect: 401 });
    });

test('/v1/auth/* and /api/admin/users[/…]', async () => {
    const { body } = await anyone.post('/v1/auth/token', { email: 'admin@acme.test', password: PASSWORD }, { expect: 200 });
    const admin = anyone.bearer(body.access_token);
    for (const base of ['/api/admin/users', '/api/v1/admin/users']) {
        const [{ id }] = (await admin.get(`${base}?email=viewer@acme.test`, { expect: 200 })).body;
        await admin.get(`${base}/${id}`, { expect: 200 });
        await (await weir.as('viewer')).get(`${base}/${id}`, { expect: 403 });
        await anyone.get(base, { expect: 401 });
    }
    assert.equal((await anyone.send('DELETE', '/chat/refresh')).status, 405);
    await anyone.get('/v1/auth/nothing', { expect: 404 });
    await anyone.get('/v1/auth/../users', { expect: 404 });
});

test('user_id stands for sub where there is none, and nowhere else', async () => {
    const { body } = await anyone.post('/api/v1/auth/token', { email: 'admin@acme.test', password: PASSWORD }, { expect: 200 });
    const [head, claims] = body.access_token.split('.');
    const old = JSON.parse(Buffer.from(claims, 'base64url'));
    const sign = (changed) => {
        const text = `${head}.${Buffer.from(JSON.stringify(changed)).toString('base64url')}`;
        return `${text}.${createHmac('sha256', JWT_SECRET_KEY).update(text).digest('base64url')}`;
    };
    const me = async (changed) => (await anyone.bearer(sign(changed)).get('/api/v1/auth/me')).status;
    assert.equal(await me({ ...old, sub: undefined, user_id: old.sub }), 200);
    assert.equal(await me({ ...old, sub: undefined, user_id: 'user_01h455vb4pex5vsknk084sn02q' }), 401);
    assert.equal(await me({ ...old, sub: 'user_01h455vb4pex5vsknk084sn02q', user_id: old.sub }), 401);
    const strict = await Weir.start({ env: { JWT_SECRET_KEY } });
    try {
        const mine = (await strict.anonymous().post('/api/v1/auth/token', { email: 'admin@acme.test', password: PASSWORD }, { expect: 200 })).body;
        const own = JSON.parse(Buffer.from(mine.access_token.split('.')[1], 'base64url'));
        assert.equal((await strict.anonymous().bearer(sign({ ...own, sub: undefined, user_id: own.sub })).get('/api/v1/auth/me')).status, 401);
    } finally {
        await strict.stop();
    }
});

test('tokens with the roles Admin and User are taken, and allow what their session does', async () => {
    const { body } = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: PASSWORD }, { expect: 200 });
    const { sub, ...claims } = decodeJwt(body.access_token);
    for (const role of ['Admin', 'User']) {
        const token = await new SignJWT({ ...claims, user_id: sub, role }).setProtectedHeader(decodeProtectedHeader(body.access_token)).sign(new TextEncoder().encode(JWT_SECRET_KEY));
        const old = anyone.bearer(token);
        assert.equal((await old.get('/api/v1/auth/me', { expect: 200 })).body.role, 'viewer', 'a role is what the membership says, now');
        await old.get('/api/admin/users', { expect: 403 });
    }
});

test('Admin and User are admin and member where a client or an import names a role', async () => {
    const owner = await weir.as('owner');
    const [{ id }] = (await owner.get('/api/admin/users?email=editor@acme.test', { expect: 200 })).body;
    for (const [given, is] of Object.entries({ User: 'member', Admin: 'admin' })) assert.equal((await owner.patch(`/api/admin/users/${id}`, { role: given }, { expect: 200 })).body.role, is);
    for (const role of ['admin ', 'ADMIN', 'user', 'Operator', 'Owner']) assert.equal((await owner.patch(`/api/admin/users/${id}`, { role })).status, 422, role);
    const invited = await owner.post('/api/v1/users/invite', { email: 'old@acme.test', role: 'User' }, { expect: 201 });
    assert.equal(invited.body.role, 'member');
    const folder = await Weir.start({ users: false, serve: false });
    try {
        folder.addTenant('old', ['Admin', 'User']);
        assert.deepEqual(folder.sql("SELECT role FROM memberships ORDER BY role").split('\n'), ['admin', 'member']);
    } finally {
        await folder.stop();
    }
});
