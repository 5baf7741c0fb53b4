// Programs that are not ours on what we make: tokens by npm jose, codes by otplib and oathtool, password hashes as they lie in the database by libsodium in WebAssembly.
// And the other way round: what they make, we take.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { hkdfSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SignJWT, decodeProtectedHeader, jwtVerify } from 'jose';
import sodium from 'libsodium-wrappers-sumo';
import otplib from 'otplib';
import { Browser } from '../lib/browser.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';

const OTHER = 'Plover-4-granite-harbour';
const SECRET_KEY = 'm3Qz8Vb1Xk6Tn0Rw5Yc9Lf2Hd7Js4GpEaUiO';
let weir, anyone;
before(async () => {
    await sodium.ready;
    weir = await Weir.start({ env: { SECRET_KEY } });
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const token = async (email, more = {}) => (await anyone.post('/api/v1/auth/token', { email, password: PASSWORD, ...more }, { expect: 200 })).body;

describe('tokens, by jose', () => {
    const key = () => new Uint8Array(hkdfSync('sha256', SECRET_KEY, '', 'jwt', 32)); // JWT_SECRET_KEY is not set
    const expected = { issuer: 'weir', audience: 'weir-api', algorithms: ['HS256'], requiredClaims: ['sub', 'tid', 'sid', 'jti', 'iat', 'nbf', 'exp', 'type'] };
    async function verified(text, type, life_s) {
        const { payload, protectedHeader } = await jwtVerify(text, key(), expected);
        assert.deepEqual([payload.type, payload.exp - payload.iat, payload.nbf], [type, life_s, payload.iat]);
        assert.deepEqual(Object.keys(protectedHeader).sort(), ['alg', 'kid', 'typ']);
        return payload;
    }

    test('access and refresh tokens are what they say, before and after a rotation, also those in cookies', async () => {
        const first = await token('editor@acme.test');
        const access = await verified(first.access_token, 'access', 15 * 60);
        const refresh = await verified(first.refresh_token, 'refresh', 7 * 24 * 3600);
        assert.deepEqual([access.sub, access.tid, access.sid, access.role], [refresh.sub, refresh.tid, refresh.sid, 'editor']);
        const second = (await anyone.post('/api/v1/auth/refresh', { refresh_token: first.refresh_token }, { expect: 200 })).body;
        const rotated = await verified(second.refresh_token, 'refresh', 7 * 24 * 3600);
        assert.equal(rotated.sid, refresh.sid);
        assert.equal(new Set([access.jti, refresh.jti, rotated.jti]).size, 3);
        const browser = new Browser(weir);
        await browser.login('editor@acme.test', PASSWORD);
        await verified(browser.jar.get('__Host-weir').value, 'access', 15 * 60);
    });

    test('no other key verifies them', async () => {
        const { access_token } = await token('editor@acme.test');
        for (const other of [SECRET_KEY, hkdfSync('sha256', SECRET_KEY, '', 'csrf', 32)]) await assert.rejects(jwtVerify(access_token, typeof other === 'string' ? new TextEncoder().encode(other) : new Uint8Array(other), expected), { code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED' });
    });

    test('one that jose signs with the same claims is taken; of another type or for another audience it is not', async () => {
        const { access_token } = await token('editor@acme.test');
        const { payload } = await jwtVerify(access_token, key(), expected);
        const signed = (more) => new SignJWT({ ...payload, ...more }).setProtectedHeader(decodeProtectedHeader(access_token)).sign(key());
        const me = async (more) => (await anyone.bearer(await signed(more)).get('/api/v1/auth/me')).status;
        assert.deepEqual([await me({}), await me({ type: 'refresh' }), await me({ aud: 'weir' }), await me({ aud: ['weir-api', 'other'] })], [200, 401, 401, 401]);
    });
});

describe('refreshing by cookie', () => {
    const key = () => new Uint8Array(hkdfSync('sha256', SECRET_KEY, '', 'jwt', 32));
    /** A browser whose access cookie is another: the claims of its own, changed. */
    async function withAccess(more, secret = key()) {
        const browser = new Browser(weir);
        await browser.login('owner@acme.test', PASSWORD);
        const cookie = browser.jar.get('__Host-weir');
        const claims = JSON.parse(Buffer.from(cookie.value.split('.')[1], 'base64url'));
        cookie.value = await new SignJWT({ ...claims, ...more }).setProtectedHeader(decodeProtectedHeader(cookie.value)).sign(secret);
        return browser;
    }
    const refreshed = async (browser) => (await browser.post('/api/v1/auth/refresh')).status;

    test('works when the access token has ended, which is what it is for', async () => {
        const browser = await withAccess({ iat: 1_600_000_000, nbf: 1_600_000_000, exp: 1_600_000_900 });
        assert.equal((await browser.get('/api/v1/auth/me')).status, 401);
        assert.equal(await refreshed(browser), 200);
        assert.equal((await browser.get('/api/v1/auth/me')).status, 200);
    });

    test('needs both cookies to be of one session, and the one that only we can set to be ours', async () => {
        const other = await token('owner@acme.test');
        const { sid } = JSON.parse(Buffer.from(other.access_token.split('.')[1], 'base64url'));
        assert.equal(await refreshed(await withAccess({ sid })), 401);
        assert.equal(await refreshed(await withAccess({}, new Uint8Array(32).fill(7))), 401);
        const without = await withAccess({});
        without.jar.delete('__Host-weir');
        assert.equal(await refreshed(without), 401);
    });
});

describe('codes of the second factor, by otplib and oathtool', () => {
    test('they agree with each other over a day of steps, and with us about the present one and the one before', async () => {
        const client = await anyone.login('member@acme.test', PASSWORD);
        const { secret } = (await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 })).body;
        const now = Math.floor(Date.now() / 1000);
        const theirs = execFileSync('oathtool', ['--totp', '-b', '--now', `@${now}`, '--window', '2880', secret], { encoding: 'utf8' }).trim().split('\n');
        const others = Array.from({ length: 2881 }, (_, step) => otplib.authenticator.clone({ epoch: (now + 30 * step) * 1000 }).generate(secret));
        assert.deepEqual(theirs, others);
        const code = (back) => otplib.authenticator.clone({ epoch: Date.now() - 30_000 * back }).generate(secret);
        assert.equal((await client.post('/api/v1/auth/2fa/enable', { code: code(1) })).status, 200);
        const again = await anyone.post('/api/v1/auth/token', { email: 'member@acme.test', password: PASSWORD, totp: code(0) });
        assert.equal(again.status, 200, again.text);
        assert.ok(otplib.authenticator.clone({ window: [1, 0] }).check(code(0), secret));
    });
});

describe('password hashes in the database, by libsodium', () => {
    const stored = (email) => weir.sql(`SELECT password_hash FROM users WHERE email = '${email}'`);
    const verifies = (hash, password) => sodium.crypto_pwhash_str_verify(hash, password);

    test('each verifies its password and no other, at the documented cost, with a salt of its own', () => {
        const hashes = weir.sql('SELECT password_hash FROM users ORDER BY id').split('\n');
        assert.equal(hashes.length, 10);
        for (const hash of hashes) assert.match(hash, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
        assert.equal(new Set(hashes.map((hash) => hash.split('$')[4])).size, 10);
        for (const hash of hashes.slice(0, 3)) assert.deepEqual([verifies(hash, PASSWORD), verifies(hash, `${PASSWORD} `), verifies(hash, '')], [true, false, false]);
        assert.equal(sodium.crypto_pwhash_str_needs_rehash(hashes[0], 2, 19456 * 1024), false);
    });

    test('so does the one of a password that was changed, in any letters', async () => {
        const client = await anyone.login('viewer@acme.test', PASSWORD);
        const password = 'Žluťoučký-kůň-🐎-úpěl';
        await client.post('/api/v1/auth/password/change', { current_password: PASSWORD, new_password: password }, { expect: 204 });
        assert.deepEqual([verifies(stored('viewer@acme.test'), password), verifies(stored('viewer@acme.test'), PASSWORD)], [true, false]);
    });

    test('one that libsodium makes, dearer than ours, lets its owner in', async () => {
        const hash = sodium.crypto_pwhash_str(OTHER, 3, 32 * 1024 * 1024);
        weir.sql(`UPDATE users SET password_hash = '${hash}' WHERE email = 'admin@globex.test'`);
        assert.equal((await anyone.post('/api/v1/auth/token', { email: 'admin@globex.test', password: PASSWORD })).status, 401);
        await token('admin@globex.test', { password: OTHER });
    });
});

test('the key file, where SECRET_KEY is not set, is the root of the same keys', async () => {
    const mine = await Weir.start();
    try {
        const { tokens } = await mine.anonymous().login('owner@acme.test', PASSWORD);
        const root = readFileSync(join(mine.data, 'secret.key'), 'utf8').trimEnd();
        const key = (bytes) => new Uint8Array(hkdfSync('sha256', bytes, '', 'jwt', 32));
        await jwtVerify(tokens.access_token, key(root), { algorithms: ['HS256'] });
    } finally {
        await mine.stop();
    }
});
