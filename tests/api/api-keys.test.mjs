// Keys for programs: scoped, ending, shown once; never more than their maker, and never in person.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, anyone, owner, admin;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
    [owner, admin] = [await weir.as('owner'), await weir.as('admin')];
});
after(() => weir?.stop());

const make = async (client, scopes, more = {}) => (await client.post('/api/v1/api-keys', { name: 'a program', scopes, ...more }, { expect: 201 })).body;
const withKey = (key) => anyone.with({ 'x-api-key': key });

test('a key opens what its scopes name, as X-API-Key and as bearer, and nothing else', async () => {
    const { key, prefix, id } = await make(owner, ['workflows.read']);
    assert.match(key, /^weir_[\w-]{43}$/);
    assert.ok(key.startsWith(prefix) && prefix.length === 12);
    for (const client of [withKey(key), anyone.bearer(key)]) {
        await client.get('/api/v1/workflows', { expect: 200 });
        await client.get('/api/v1/users', { expect: 403 });
        await client.get('/api/v1/api-keys', { expect: 403 });
        const me = (await client.get('/api/v1/auth/me', { expect: 200 })).body;
        assert.deepEqual([me.permissions, me.session_id, me.user.email], [['workflows.read'], null, 'owner@acme.test']);
    }
    const read = await owner.get(`/api/v1/api-keys/${id}`, { expect: 200 });
    assert.ok(!read.text.includes(key.slice(12)));
    assert.ok(read.body.last_used_at, 'known at once, written later');
});

test('the store knows a hash; neither answers nor logs show the key again', async () => {
    const { key } = await make(owner, ['workflows.read']);
    await withKey(key).get('/api/v1/workflows', { expect: 200 });
    assert.ok(!weir.stored().includes(key));
    assert.ok(!(await owner.get('/api/v1/api-keys?limit=100', { expect: 200 })).text.includes(key));
    assert.ok(!weir.stderr.includes(key));
});

test('none that is malformed, cut, doubled, beside a token, or of nobody', async () => {
    const { key } = await make(owner, ['workflows.read']);
    const swapped = key.slice(0, -1) + (key.endsWith('A') ? 'B' : 'A');
    for (const bad of [key.slice(0, -1), `${key}A`, swapped, key.slice(5), 'weir_', 'weir', '', key.toUpperCase()])
        assert.equal((await withKey(bad).get('/api/v1/workflows')).status, 401, bad);
    assert.equal((await withKey(key).with({ authorization: owner.headers.authorization }).get('/api/v1/workflows')).status, 401);
    assert.equal((await anyone.with({ 'x-api-key': owner.tokens.access_token }).get('/api/v1/workflows')).status, 401, 'a token is no key');
});

test('its end: a time, a deletion, at once', async () => {
    errorAt(await owner.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read'], expires_at: '2020-01-01T00:00:00Z' }), '/expires_at');
    errorAt(await owner.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read'], expires_at: '2099-01-01T00:00:00Z' }), '/expires_at');
    const soon = await make(owner, ['workflows.read'], { expires_at: new Date(Date.now() + 300).toISOString().replace('Z', '000Z') });
    await until('the key ends', async () => (await withKey(soon.key).get('/api/v1/workflows')).status === 401);
    const { key, id } = await make(owner, ['workflows.read']);
    await withKey(key).get('/api/v1/workflows', { expect: 200 });
    await admin.del(`/api/v1/api-keys/${id}`, { expect: 204 });
    assert.equal((await withKey(key).get('/api/v1/workflows')).status, 401);
    await admin.del(`/api/v1/api-keys/${id}`, { expect: 404 });
});

describe('never more than its maker', () => {
    test('scopes are among the maker\'s permissions, and exist', async () => {
        errorAt(await admin.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read', 'tenants.write'] }), '/scopes/1');
        errorAt(await owner.post('/api/v1/api-keys', { name: 'x', scopes: ['no.such'] }), '/scopes/0');
        errorAt(await owner.post('/api/v1/api-keys', { name: 'x', scopes: [] }), '/scopes');
        for (const more of [{ user_id: 'user_01h455vb4pex5vsknk084sn02q' }, { tenant_id: 'x' }, { key: 'weir_x' }, { prefix: 'x' }])
            errorAt(await owner.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read'], ...more }), `/${Object.keys(more)[0]}`);
    });

    test('whoever loses a permission, is disabled or leaves takes it from their keys', async () => {
        const email = 'keymaker@example.test';
        await owner.post('/api/v1/users/invite', { email, role: 'admin' }, { expect: 201 });
        const [{ token }] = await weir.mail(email);
        const { body } = await anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 });
        const client = withKey((await make(await anyone.login(email, PASSWORD), ['users.read', 'workflows.read'])).key);
        const change = (patch) => owner.patch(`/api/v1/users/${body.user_id}`, patch, { expect: 200 });
        await client.get('/api/v1/users', { expect: 200 });
        await change({ role: 'viewer' });
        await client.get('/api/v1/users', { expect: 403 });
        await client.get('/api/v1/workflows', { expect: 200 });
        await change({ status: 'disabled' });
        await client.get('/api/v1/workflows', { expect: 401 });
        await change({ status: 'active' });
        await client.get('/api/v1/workflows', { expect: 200 });
        await owner.del(`/api/v1/users/${body.user_id}`, { expect: 204 });
        await client.get('/api/v1/workflows', { expect: 401 });
        await owner.post('/api/v1/users/invite', { email, role: 'admin' }, { expect: 201 });
        const again = (await weir.mail(email, 2)).at(-1);
        await anyone.post('/api/v1/auth/invite/accept', { token: again.token, password: PASSWORD }, { expect: 200 });
        await client.get('/api/v1/workflows', { expect: 401 });
    });

    test('a key makes no keys and ends no sessions', async () => {
        const { key } = await make(owner, ['api-keys.write', 'api-keys.read']);
        const client = withKey(key);
        await client.get('/api/v1/api-keys', { expect: 200 });
        await client.post('/api/v1/api-keys', { name: 'x', scopes: ['api-keys.read'] }, { expect: 403 });
        await client.post('/api/v1/auth/logout', { scope: 'all' }, { expect: 403 });
    });
});

test('another tenant sees no key of ours', async () => {
    const { id } = await make(owner, ['workflows.read']);
    const stranger = await weir.as('owner', 'globex');
    await stranger.get(`/api/v1/api-keys/${id}`, { expect: 404 });
    await stranger.del(`/api/v1/api-keys/${id}`, { expect: 404 });
    assert.deepEqual((await stranger.get('/api/v1/api-keys', { expect: 200 })).body, []);
});

test('when it was used survives a restart', async () => {
    const { key, id } = await make(owner, ['workflows.read']);
    await withKey(key).get('/api/v1/workflows', { expect: 200 });
    const before = (await owner.get(`/api/v1/api-keys/${id}`, { expect: 200 })).body.last_used_at;
    await weir.terminate();
    await weir.serve();
    assert.equal((await owner.get(`/api/v1/api-keys/${id}`, { expect: 200 })).body.last_used_at, before);
});

test('at most 200', async () => {
    const stranger = await weir.as('owner', 'globex');
    for (let n = 0; n < 200; n++) await make(stranger, ['workflows.read']);
    assert.equal((await stranger.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read'] })).status, 409);
});
