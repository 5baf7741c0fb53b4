// What was taken away while a request was under way: the rest of its body opens nothing, and what somebody offered does not outlive them.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { bounded } from '../lib/wait.mjs';

let weir, owner;
before(async () => {
    weir = await Weir.start();
    owner = await weir.as('owner');
});
after(() => weir?.stop());

test('a session that ends between head and body ends the request: 401, and nothing is made', async () => {
    const { body: token } = await weir.anonymous().post('/api/v1/auth/token', { email: 'editor@acme.test', password: PASSWORD }, { expect: 200 });
    const body = JSON.stringify({ name: 'too late', definition: { steps: [{ id: 'a', type: 'transform' }] } });
    const socket = connect(weir.port, '127.0.0.1');
    const answer = new Promise((done) => socket.once('data', (bytes) => done(bytes.toString())));
    await new Promise((done) => socket.once('connect', done));
    socket.write(`POST /api/v1/workflows HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer ${token.access_token}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nExpect: 100-continue\r\n\r\n`);
    assert.match(await bounded('the head is let in', 10_000, answer), /^HTTP\/1\.1 100 /);
    const last = new Promise((done) => socket.once('data', (bytes) => done(bytes.toString())));
    await fetch(`${weir.base}/api/v1/auth/logout`, { method: 'POST', headers: { authorization: `Bearer ${token.access_token}`, 'content-type': 'application/json' }, body: '{}' });
    socket.write(body);
    assert.match(await bounded('the answer', 10_000, last), /^HTTP\/1\.1 401 /);
    socket.destroy();
    const { body: list } = await owner.get('/api/v1/workflows', { expect: 200 });
    assert.ok(!list.some(({ name }) => name === 'too late'));
});

test('invitations end with the membership of whoever sent them', async () => {
    const admin = await weir.as('admin');
    const { body: me } = await admin.get('/api/v1/auth/me', { expect: 200 });
    const { body: offer } = await admin.post('/api/v1/users/invite', { email: 'second-self@example.test', role: 'admin' }, { expect: 201 });
    const offers = async () => (await owner.get('/api/v1/invitations', { expect: 200 })).body.map(({ id }) => id);
    assert.ok((await offers()).includes(offer.id));
    await owner.del(`/api/v1/users/${me.id ?? me.user.id}`, { expect: 204 });
    assert.ok(!(await offers()).includes(offer.id));
});

test('whoever is disabled everywhere has no token, no refresh token, no key and no link left', async () => {
    const person = await weir.as('owner', 'globex');
    const { body: tokens } = await weir.anonymous().post('/api/v1/auth/token', { email: 'owner@globex.test', password: PASSWORD }, { expect: 200 });
    const { key } = (await person.post('/api/v1/api-keys', { name: 'x', scopes: ['workflows.read'] }, { expect: 201 })).body;
    await weir.anonymous().post('/api/v1/auth/password/forgot', { email: 'owner@globex.test' }, { expect: 202 });
    const [letter] = await weir.mail('owner@globex.test');
    const state = async () => [
        (await weir.anonymous().bearer(tokens.access_token).get('/api/v1/auth/me')).status,
        (await weir.anonymous().with({ 'x-api-key': key }).get('/api/v1/workflows')).status,
        (await weir.anonymous().post('/api/v1/auth/refresh', { refresh_token: tokens.refresh_token })).status,
        (await weir.anonymous().post('/api/v1/auth/password/reset', { token: letter.token, new_password: 'Plover-4-granite-harbour' })).status,
    ];
    const set = async (status) => {
        await weir.terminate();
        weir.sql(`UPDATE users SET status = '${status}' WHERE email = 'owner@globex.test'`);
        await weir.serve();
    };
    await set('disabled');
    assert.deepEqual(await state(), [401, 401, 401, 404]);
    await set('active');
    assert.deepEqual(await state(), [200, 200, 200, 204], 'each failed for that reason');
});
