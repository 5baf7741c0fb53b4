// Keys that are changed: two may verify while one signs, and what was sealed under the old SECRET_KEY is sealed again under the new one.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { SignJWT, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose';
import { PASSWORD, Weir, runWeir } from '../lib/server.mjs';

const [OLD, NEW, OTHER] = ['k8Zt3mQw7Lr1Xy5Nb9Vc2Hd6Jf4Gs0PaUeIo', 'Yq2Wn6Bv0Cx4Mz8Lk1Jh3Gf5Ds7Ap9OiUyTr', 'Ee1Rr2Tt3Yy4Uu5Ii6Oo7Pp8Aa9Ss0DdFfGg'];
const secret = (text) => new TextEncoder().encode(text);
const owner = { email: 'owner@acme.test', password: PASSWORD };
/** The same data under other settings. */
const restart = async (weir, env, meanwhile = () => {}) => {
    await weir.terminate();
    meanwhile();
    weir.env = { ...weir.env, ...env };
    await weir.serve();
};

describe('another JWT_SECRET_KEY', () => {
    let weir, anyone, before_, since;
    const me = async (token) => (await anyone.bearer(token).get('/api/v1/auth/me')).status;
    const token = async () => (await anyone.post('/api/v1/auth/token', owner, { expect: 200 })).body;
    before(async () => {
        weir = await Weir.start({ env: { JWT_SECRET_KEY: OLD } });
        anyone = weir.anonymous();
        before_ = await token();
    });
    after(() => weir?.stop());

    test('with the one of before beside it: old tokens stay good, new ones are signed by the new key alone', async () => {
        await restart(weir, { JWT_SECRET_KEY: NEW, JWT_SECRET_KEY_PREVIOUS: OLD });
        assert.equal(await me(before_.access_token), 200);
        since = await token();
        assert.equal(await me(since.access_token), 200);
        await jwtVerify(since.access_token, secret(NEW), { algorithms: ['HS256'] });
        await assert.rejects(jwtVerify(since.access_token, secret(OLD)));
        assert.notEqual(decodeProtectedHeader(since.access_token).kid, decodeProtectedHeader(before_.access_token).kid);
    });
    test('kid picks the key: right signature under the other kid, an unknown kid and no kid are 401', async () => {
        const [oldHead, newHead] = [before_, since].map(({ access_token }) => decodeProtectedHeader(access_token));
        const sign = (header, key) => new SignJWT(decodeJwt(since.access_token)).setProtectedHeader(header).sign(secret(key));
        assert.equal(await me(await sign(newHead, NEW)), 200);
        assert.equal(await me(await sign(oldHead, OLD)), 200);
        assert.equal(await me(await sign(oldHead, NEW)), 401);
        assert.equal(await me(await sign(newHead, OLD)), 401);
        assert.equal(await me(await sign({ ...newHead, kid: 'another' }, NEW)), 401);
        assert.equal(await me(await sign({ alg: 'HS256', typ: 'JWT' }, NEW)), 401);
        assert.equal(await me(await sign(newHead, OTHER)), 401);
    });
    test('a refresh token of before gives one of the new key', async () => {
        const { body } = await anyone.post('/api/v1/auth/refresh', { refresh_token: before_.refresh_token }, { expect: 200 });
        await jwtVerify(body.refresh_token, secret(NEW));
        await anyone.post('/api/v1/auth/refresh', { refresh_token: body.refresh_token }, { expect: 200 });
    });
    test('without the one of before its tokens end', async () => {
        const old = before_.access_token;
        await restart(weir, { JWT_SECRET_KEY_PREVIOUS: undefined });
        assert.equal(await me(old), 401);
        assert.equal(await me(since.access_token), 200);
    });
    test('within ten seconds of a rotation the same successor comes back though the key was changed in between', async () => {
        const first = await token();
        const { body } = await anyone.post('/api/v1/auth/refresh', { refresh_token: first.refresh_token }, { expect: 200 });
        const later = 'UPDATE refresh_tokens SET rotated_at = rotated_at + 60000000 WHERE rotated_at IS NOT NULL'; // however long the restart takes
        await restart(weir, { JWT_SECRET_KEY: OTHER, JWT_SECRET_KEY_PREVIOUS: NEW }, () => weir.sql(later));
        const again = await anyone.post('/api/v1/auth/refresh', { refresh_token: first.refresh_token }, { expect: 200 });
        assert.equal(again.body.refresh_token, body.refresh_token);
        const next = await anyone.post('/api/v1/auth/refresh', { refresh_token: body.refresh_token }, { expect: 200 });
        await jwtVerify(next.body.refresh_token, secret(OTHER));
    });
});

describe('a key of before that cannot be one stops the start with exit code 2 and names the setting', () => {
    for (const [what, env, said] of [
        ['too short', { JWT_SECRET_KEY_PREVIOUS: 'short' }, /JWT_SECRET_KEY_PREVIOUS.*32/s],
        ['too few different bytes', { JWT_SECRET_KEY_PREVIOUS: 'ab'.repeat(20) }, /JWT_SECRET_KEY_PREVIOUS.*10 different/s],
        ['a known sample', { JWT_SECRET_KEY_PREVIOUS: 'your-secret-key-here-change-in-production' }, /JWT_SECRET_KEY_PREVIOUS.*known/s],
        ['the same as the present one', { JWT_SECRET_KEY: OLD, JWT_SECRET_KEY_PREVIOUS: OLD }, /JWT_SECRET_KEY_PREVIOUS.*the same as JWT_SECRET_KEY/s],
    ])
        test(what, () => {
            const { status, stderr } = runWeir(['config'], env);
            assert.equal(status, 2);
            assert.match(stderr, said);
            for (const value of Object.values(env)) assert.ok(value === 'short' || !stderr.includes(value), 'a secret is masked');
        });
});
