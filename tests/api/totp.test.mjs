// The second factor, against an authenticator that is not ours (oathtool, npm otplib).

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import otplib from 'otplib';
import { Browser } from '../lib/browser.mjs';
import { errorAt } from '../lib/client.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, anyone;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const oathtool = (secret, at = Date.now()) => execFileSync('oathtool', ['--totp', '-b', '--now', `@${Math.floor(at / 1000)}`, secret], { encoding: 'utf8' }).trim();
const token = (email, more = {}) => anyone.post('/api/v1/auth/token', { email, password: PASSWORD, ...more });
/** A code that was not used yet: a later one than `last`. Steps of the past are too old after a step, so this waits for the next where it must. */
const later = async (secret, last) => until('the next code', () => { const code = oathtool(secret); return code !== last && code; }, { within_ms: 40_000, every_ms: 200 });

async function enroll(email) {
    const client = await anyone.login(email, PASSWORD);
    const offer = (await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 })).body;
    const code = oathtool(offer.secret, Date.now() - 30_000); // one step back is taken, and leaves the present one for a test
    const { recovery_codes } = (await client.post('/api/v1/auth/2fa/enable', { code }, { expect: 200 })).body;
    return { client, secret: offer.secret, used: code, recovery_codes, offer };
}

describe('setting it up', () => {
    test('the offer is an otpauth URI and its picture; nothing is asked for until a code proves it', async () => {
        const client = await anyone.login('viewer@acme.test', PASSWORD);
        assert.equal((await client.post('/api/v1/auth/2fa/setup', { password: 'not the right one' })).body.code, 'auth.password_wrong');
        const { body } = await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 });
        const uri = new URL(body.otpauth_uri);
        assert.equal(uri.protocol, 'otpauth:');
        assert.deepEqual(Object.fromEntries(uri.searchParams), { secret: body.secret, issuer: 'Weir', algorithm: 'SHA1', digits: '6', period: '30' });
        assert.match(body.secret, /^[A-Z2-7]{32}$/);
        assert.match(body.qr_svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" viewBox=".*<\/svg>$/s);
        assert.doesNotMatch(body.qr_svg, /script|href|on\w+=/);
        assert.equal((await token('viewer@acme.test')).status, 200);
        assert.equal((await client.post('/api/v1/auth/2fa/enable', { code: '000000' })).status, 401);
        errorAt(await client.post('/api/v1/auth/2fa/enable', { code: '12345' }), '/code');
        assert.equal((await client.post('/api/v1/auth/2fa/disable', { password: PASSWORD, code: '000000' })).status, 409);
    });

    test('two authenticators that are not ours agree on its codes', async () => {
        const client = await anyone.login('viewer@acme.test', PASSWORD);
        const { body } = await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 });
        const at = Date.now();
        const theirs = otplib.authenticator.clone({ epoch: at }).generate(body.secret);
        assert.equal(theirs, oathtool(body.secret, at));
        const { status } = await client.post('/api/v1/auth/2fa/enable', { code: theirs });
        assert.equal(status, 200);
    });

    test('turned on: ten codes, a letter, other sessions end, and the seed lies sealed', async () => {
        const other = await anyone.login('member@acme.test', PASSWORD);
        const { client, secret, recovery_codes } = await enroll('member@acme.test');
        assert.equal(new Set(recovery_codes).size, 10);
        for (const code of recovery_codes) assert.match(code, /^[a-z2-7]{5}-[a-z2-7]{5}$/);
        assert.equal((await other.get('/api/v1/auth/me')).status, 401);
        assert.equal((await client.get('/api/v1/auth/me', { expect: 200 })).body.user.totp_enabled, true);
        await weir.mail('member@acme.test');
        const stored = weir.stored();
        for (const text of [secret, ...recovery_codes]) assert.ok(!stored.includes(text));
        assert.equal((await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD })).status, 409);
    });
});

describe('signing in with it', () => {
    let mine;
    before(async () => (mine = await enroll('editor@acme.test')));

    test('the password alone is told that a code is missing; a wrong password is not', async () => {
        const { status, body } = await token('editor@acme.test');
        assert.deepEqual([status, body.code], [401, 'auth.totp_required']);
        assert.equal((await token('editor@acme.test', { password: 'not the right one' })).body.code, 'auth.invalid_credentials');
    });

    test('a code is good once; the one before the present is, older ones are not', async () => {
        assert.equal((await token('editor@acme.test', { totp: mine.used })).body.code, 'auth.totp_invalid', 'it turned the factor on');
        assert.equal((await token('editor@acme.test', { totp: oathtool(mine.secret, Date.now() - 90_000) })).status, 401);
        const code = await later(mine.secret, mine.used);
        const both = await Promise.all([token('editor@acme.test', { totp: code }), token('editor@acme.test', { totp: code })]);
        assert.deepEqual(both.map(({ status }) => status).sort(), [200, 401]);
        mine.used = code;
    });

    test('a recovery code stands in, once, in any spelling', async () => {
        const code = mine.recovery_codes[0];
        const spelt = code.toUpperCase().replace('-', ' ');
        const both = await Promise.all([token('editor@acme.test', { totp: spelt }), token('editor@acme.test', { totp: code })]);
        assert.deepEqual(both.map(({ status }) => status).sort(), [200, 401]);
    });

    test('a browser gets a challenge that stands for the password', async () => {
        const browser = new Browser(weir);
        const { status, body } = await browser.login('editor@acme.test', PASSWORD);
        assert.deepEqual([status, body.code, browser.jar.size], [401, 'auth.totp_required', 0]);
        assert.match(body.challenge_id, /^challenge_/);
        assert.equal((await browser.post('/api/v1/auth/login', { challenge_id: body.challenge_id })).body.code, 'auth.totp_required');
        const done = await browser.post('/api/v1/auth/login', { challenge_id: body.challenge_id, totp: mine.recovery_codes[1] });
        assert.equal(done.status, 200, done.text);
        assert.equal((await browser.post('/api/v1/auth/login', { challenge_id: body.challenge_id, totp: mine.recovery_codes[2] })).body.code, 'auth.challenge_invalid');
        errorAt(await browser.post('/api/v1/auth/login', { totp: '123456' }), '/email');
    });

    test('a reset of the password keeps it', async () => {
        await anyone.post('/api/v1/auth/password/forgot', { email: 'editor@acme.test' }, { expect: 202 });
        const reset = await until('the link', async () => (await weir.mail('editor@acme.test')).find((mail) => mail.token));
        await anyone.post('/api/v1/auth/password/reset', { token: reset.token, new_password: PASSWORD }, { expect: 204 });
        assert.equal((await token('editor@acme.test')).body.code, 'auth.totp_required');
    });

    test('turning it off needs both factors', async () => {
        const { client, recovery_codes } = await enroll('admin@acme.test');
        const off = (password, code) => client.post('/api/v1/auth/2fa/disable', { password, code });
        assert.equal((await off('not the right one', recovery_codes[4])).body.code, 'auth.password_wrong');
        const renewed = (await client.post('/api/v1/auth/2fa/recovery-codes', { password: PASSWORD, code: recovery_codes[4] }, { expect: 200 })).body.recovery_codes;
        assert.equal((await off(PASSWORD, recovery_codes[5])).body.code, 'auth.totp_invalid', 'the old ones ended');
        assert.equal((await off(PASSWORD, renewed[0])).status, 204);
        assert.equal((await token('admin@acme.test')).status, 200);
    });
});

describe('guessing', () => {
    let mine;
    before(async () => {
        mine = await Weir.start();
    });
    after(() => mine?.stop());

    test('five wrong codes close the account\'s second factor, wherever they come from', async () => {
        const client = await mine.anonymous().login('admin@acme.test', PASSWORD);
        const { body } = await client.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 });
        const code = oathtool(body.secret);
        for (let n = 0; n < 5; n++) assert.equal((await client.post('/api/v1/auth/2fa/enable', { code: code === '111111' ? '222222' : '111111' })).status, 401);
        const closed = await client.post('/api/v1/auth/2fa/enable', { code });
        assert.equal(closed.status, 429);
        assert.ok(Number(closed.headers.get('retry-after')) > 0);
    });
});

describe('a tenant that asks for it', () => {
    test('lets whoever has none do nothing but set it up', async () => {
        const owner = await weir.as('owner', 'globex');
        const { tenant } = (await owner.get('/api/v1/auth/me', { expect: 200 })).body;
        const member = await anyone.login('member@globex.test', PASSWORD);
        await owner.patch(`/api/v1/tenants/${tenant.id}`, { require_2fa: true }, { expect: 200 });
        const refused = await member.get('/api/v1/workflows');
        assert.deepEqual([refused.status, refused.body.code], [403, 'auth.totp_setup_required']);
        assert.equal((await member.get('/api/v1/auth/me', { expect: 200 })).body.must_set_up_2fa, true);
        const { client } = await enroll('member@globex.test');
        await client.get('/api/v1/workflows', { expect: 200 });
    });
});
