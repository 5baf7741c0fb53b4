// A challenge (CAPTCHA) after three failed logins, against a verifier of our own.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Upstream } from '../lib/http_echo.mjs';
import { PASSWORD, Weir, runWeir, stopAll } from '../lib/server.mjs';

const SECRET = 'the verifier knows us by this & that';
let weir, anyone, verifier, verdict;
before(async () => {
    verifier = await Upstream.start(() => verdict);
    weir = await Weir.start({ env: { WEIR_CHALLENGE_URL: `${verifier.base}/siteverify`, WEIR_CHALLENGE_SECRET: SECRET, WEIR_EGRESS_ALLOW: verifier.host } });
    anyone = weir.anonymous();
});
after(() => stopAll(weir, verifier));

const token = (role, more = {}) => anyone.post('/api/v1/auth/token', { email: `${role}@acme.test`, password: PASSWORD, ...more });
const wrong = (role, more) => token(role, { password: 'not the right one', ...more });
const forget = async () => { // what failed so far, as if it had been long ago
    await weir.terminate();
    weir.sql('DELETE FROM login_failures; DELETE FROM login_blocks');
    await weir.serve();
};
const passed = { body: { success: true } }, failed = { body: { success: false, 'error-codes': ['timeout-or-duplicate'] } };

describe('a challenge', () => {
    test('is asked for after three failures of the account from the address, whether or not there is such an account', async () => {
        for (const role of ['member', 'nobody-at-all']) {
            for (let i = 0; i < 2; i++) assert.equal((await wrong(role)).body.code, 'auth.invalid_credentials');
            assert.equal((await wrong(role)).body.code, 'auth.invalid_credentials', 'the third is still looked at');
            for (const attempt of [wrong, token]) {
                const { status, body } = await attempt(role);
                assert.deepEqual([status, body.code], [401, 'auth.challenge_required']);
            }
            await forget();
        }
        assert.equal(verifier.calls.length, 0, 'nobody is asked about a token that was not sent');
    });

    test('of another account from the address nothing is asked; to ask is no failure', async () => {
        for (let i = 0; i < 3; i++) await wrong('member');
        for (let i = 0; i < 4; i++) assert.equal((await token('member')).body.code, 'auth.challenge_required');
        assert.equal((await token('viewer')).status, 200);
    });

    test('the verifier is told secret, token and address as a form; what it passes goes on to the password', async () => {
        verdict = passed;
        assert.equal((await wrong('member', { challenge_token: 'a=b&c' })).body.code, 'auth.invalid_credentials');
        const { method, headers, text } = verifier.calls.at(-1);
        assert.equal(method, 'POST');
        assert.match(headers['content-type'], /^application\/x-www-form-urlencoded/);
        assert.deepEqual(Object.fromEntries(new URLSearchParams(text)), { secret: SECRET, response: 'a=b&c', remoteip: '127.0.0.1' });
        assert.equal((await token('member', { challenge_token: 'good' })).status, 200);
        const browser = await anyone.post('/api/v1/auth/login', { email: 'member@acme.test', password: PASSWORD, challenge_token: 'good' });
        assert.equal(browser.status, 200);
    });

    test('what it does not pass is no login, and no failure either', async () => {
        verdict = failed;
        for (let i = 0; i < 4; i++) {
            const { status, body } = await token('member', { challenge_token: 'forged' });
            assert.deepEqual([status, body.code], [401, 'auth.challenge_required']);
        }
        verdict = passed;
        assert.equal((await token('member', { challenge_token: 'good' })).status, 200);
    });

    for (const [what, answer] of Object.entries({
        'an error': { status: 500, body: { success: true } },
        'a redirect': { status: 302, headers: { location: '/elsewhere' }, body: { success: true } },
        'no JSON': { body: 'true' },
        'JSON without a verdict': { body: { ok: true } },
        'a verdict that is a text': { body: { success: 'true' } },
        'a long answer': { body: { success: true, more: 'x'.repeat(70_000) } },
        'nothing in time': { hold: true },
    }))
        test(`a verifier that answers ${what} closes: 503, and no failure`, async () => {
            verdict = answer;
            const { status, body, headers } = await token('member', { challenge_token: 'good' });
            assert.deepEqual([status, body.code], [503, 'auth.challenge_unavailable']);
            assert.ok(Number(headers.get('retry-after')) > 0);
            verifier.release();
        });

    test('one that is slow does not stop the logins of others', async () => {
        verdict = { hold: true };
        const calls = verifier.calls.length;
        const slow = Array.from({ length: 3 }, () => token('member', { challenge_token: 'good' }));
        await verifier.called('/siteverify', calls + 1);
        assert.equal((await token('viewer')).status, 200);
        verifier.release();
        verdict = passed;
        const answers = await Promise.all(slow);
        assert.ok(answers.some(({ body }) => body.code === 'auth.challenge_unavailable'), 'no more of them than one wait');
    });

    test('neither a second factor nor a throttled address is got around', async () => {
        verdict = passed;
        await forget();
        for (let i = 0; i < 3; i++) await wrong('editor');
        for (let i = 0; i < 2; i++) await wrong('editor', { challenge_token: 'good' });
        assert.equal((await token('editor', { challenge_token: 'good' })).status, 429);
    });

    test('an account that was closed to the address needs one for an hour', async () => {
        const long = 10 * 60 * 1_000_000;
        await weir.terminate();
        weir.sql(`UPDATE login_failures SET at = at - ${long}; UPDATE login_blocks SET until = until - ${long}`);
        await weir.serve();
        assert.equal((await token('editor')).body.code, 'auth.challenge_required');
        assert.equal((await token('editor', { challenge_token: 'good' })).status, 200);
        assert.equal((await token('editor')).status, 200, 'a success ends it');
    });

    test('neither logs nor the store hold a token or the secret', () => {
        assert.ok(!weir.stderr.includes(SECRET) && !weir.stored().includes(SECRET));
        assert.ok(!weir.stderr.includes('forged'));
    });
});

test('an address that may not be called closes as well', async () => {
    const closed = await Weir.start({ env: { WEIR_CHALLENGE_URL: `${verifier.base}/siteverify`, WEIR_CHALLENGE_SECRET: SECRET } });
    try {
        const login = (more) => closed.anonymous().post('/api/v1/auth/token', { email: 'member@acme.test', password: PASSWORD, ...more });
        for (let i = 0; i < 3; i++) await login({ password: 'not the right one' });
        assert.equal((await login({ challenge_token: 'good' })).body.code, 'auth.challenge_unavailable');
    } finally {
        await closed.stop();
    }
});

test('both settings or none, and a URL: exit code 2', () => {
    assert.match(runWeir(['config'], { WEIR_CHALLENGE_URL: 'https://verify.example.com' }).stderr, /WEIR_CHALLENGE_SECRET is not/);
    assert.match(runWeir(['config'], { WEIR_CHALLENGE_URL: 'ftp://verify.example.com', WEIR_CHALLENGE_SECRET: 'x' }).stderr, /WEIR_CHALLENGE_URL.*no http/);
    assert.equal(runWeir(['config'], { WEIR_CHALLENGE_URL: 'https://verify.example.com/x', WEIR_CHALLENGE_SECRET: 'x' }).status, 0);
});
