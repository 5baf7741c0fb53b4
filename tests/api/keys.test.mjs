// Keys that are changed: two may verify while one signs, and what was sealed under the old SECRET_KEY is sealed again under the new one.

import assert from 'node:assert/strict';
import { existsSync, linkSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SignJWT, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose';
import otplib from 'otplib';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { DB, PASSWORD, Weir, runWeir } from '../lib/server.mjs';

const { authenticator } = otplib;

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

const totp = (seed, at = Date.now()) => authenticator.clone({ epoch: at }).generate(seed);
const counts = (text) => Object.fromEntries([...text.matchAll(/^(\S+) +(\d+) present, (\d+) previous, (\d+) unreadable(?:; (\d+) sealed again)?$/gm)].map(([, name, ...n]) => [name, n.filter((one) => one !== undefined).map(Number)]));

/** Something sealed in every column: a second factor, a trigger that takes partners' tokens, a letter that waits; and things with a MAC. */
async function fill(weir) {
    const anyone = weir.anonymous();
    const member = await anyone.login('member@acme.test', PASSWORD);
    const { secret: seed } = (await member.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 })).body;
    const { recovery_codes } = (await member.post('/api/v1/auth/2fa/enable', { code: totp(seed) }, { expect: 200 })).body;
    const editor = await anyone.login('editor@acme.test', PASSWORD);
    const workflow = await createWorkflow(editor, { steps: [transform('t', { a: 1 })] });
    const { webhook_url } = await createTrigger(editor, workflow.id, { auth_type: 'bearer', auth_config: { jwt_secret: OTHER } });
    return { seed, recovery_codes, webhook_url, access: member.tokens.access_token };
}
/** All of it still opens. `access` of before is good as long as the key of before is there. */
async function works(weir, made, recovery, access) {
    const anyone = weir.anonymous();
    const login = (more) => anyone.post('/api/v1/auth/token', { email: 'member@acme.test', password: PASSWORD, ...more });
    assert.equal((await login({})).body.code, 'auth.totp_required');
    assert.equal((await login({ totp: recovery })).status, 200, 'a recovery code');
    const partner = await new SignJWT({}).setProtectedHeader({ alg: 'HS256' }).setExpirationTime('5m').sign(secret(OTHER));
    assert.equal((await anyone.bearer(partner).post(made.webhook_url, {}, { raw: true })).status, 200, 'a trigger');
    assert.equal((await anyone.bearer(made.access).get('/api/v1/auth/me')).status, access);
}

describe('another SECRET_KEY, of the data folder: weir keys', () => {
    let weir, made;
    const run = (word) => runWeir(['keys', word], weir.env, { cwd: weir.folder });
    const file = (name) => join(weir.data, name);
    before(async () => {
        weir = await Weir.start();
        made = await fill(weir);
    });
    after(() => weir?.stop());

    test('status: which keys there are, by a print of them, and what is sealed; beside the server', () => {
        const { status, stdout } = run('status');
        assert.equal(status, 0);
        assert.match(stdout, /^SECRET_KEY +[0-9a-f]{8} secret\.key$/m);
        assert.match(stdout, /^SECRET_KEY_PREVIOUS +-$/m);
        assert.deepEqual(counts(stdout)['users.totp_seed'], [1, 0, 0]);
        assert.deepEqual(counts(stdout)['triggers.auth_config'], [1, 0, 0]);
        assert.ok(!stdout.includes(readFileSync(file('secret.key'), 'utf8').trim()));
    });
    if (DB === 'sqlite')
        test('rotate is refused while the server has the folder', () => {
            assert.equal(run('rotate').status, 1);
            assert.ok(!existsSync(file('secret.key.previous')));
        });
    test('retire and nothing: exit 1', async () => {
        await weir.terminate();
        const { status, stderr } = run('retire');
        assert.equal(status, 1);
        assert.match(stderr, /no key of before/);
        assert.equal(run('away').status, 64);
    });
    test('rotate: all is sealed again, and everything goes on, tokens too', async () => {
        const before = readFileSync(file('secret.key'), 'utf8');
        const { status, stdout, stderr } = run('rotate');
        assert.equal(status, 0, stderr);
        assert.deepEqual(counts(stdout)['users.totp_seed'], [1, 0, 0, 1]);
        assert.deepEqual(counts(stdout)['triggers.auth_config'], [1, 0, 0, 1]);
        assert.deepEqual(counts(stdout)['mac_keys.sealed'], [2, 0, 0, 2]);
        assert.notEqual(readFileSync(file('secret.key'), 'utf8'), before);
        assert.equal(readFileSync(file('secret.key.previous'), 'utf8'), before);
        for (const name of ['secret.key', 'secret.key.previous']) assert.equal(statSync(file(name)).mode & 0o777, 0o600);
        await weir.serve();
        await works(weir, made, made.recovery_codes[0], 200);
        await weir.terminate();
    });
    test('again: nothing is left to do, and no third key is made', () => {
        const before = readFileSync(file('secret.key'), 'utf8');
        const { status, stdout } = run('rotate');
        assert.equal(status, 0);
        for (const n of Object.values(counts(stdout))) assert.deepEqual(n.slice(1), [0, 0, 0], stdout);
        assert.equal(readFileSync(file('secret.key'), 'utf8'), before);
    });
    test('the audit log is as good as before', () => {
        const { status, stderr } = runWeir(['audit', 'verify'], weir.env, { cwd: weir.folder });
        assert.equal(status, 0, stderr);
    });
    test('retire: tokens of before end, the rest goes on', async () => {
        const { status, stderr } = run('retire');
        assert.equal(status, 0, stderr);
        assert.ok(!existsSync(file('secret.key.previous')));
        await weir.serve();
        await works(weir, made, made.recovery_codes[1], 401);
        await weir.terminate();
    });
    test('cut off between its two steps, it begins again', async () => {
        const before = readFileSync(file('secret.key'), 'utf8');
        linkSync(file('secret.key'), file('secret.key.previous'));
        writeFileSync(file('secret.key.next'), 'half a k', { mode: 0o600 });
        assert.equal(run('status').status, 0);
        const { status, stdout, stderr } = run('rotate');
        assert.equal(status, 0, stderr);
        assert.deepEqual(counts(stdout)['users.totp_seed'], [1, 0, 0, 1]);
        assert.equal(readFileSync(file('secret.key.previous'), 'utf8'), before);
        assert.ok(!existsSync(file('secret.key.next')));
    });
    test('cut off amid the sealing, it does the rest', async () => {
        const present = readFileSync(file('secret.key'), 'utf8'), previous = readFileSync(file('secret.key.previous'), 'utf8');
        writeFileSync(file('secret.key'), previous); // as if all had been sealed under the other one
        writeFileSync(file('secret.key.previous'), present);
        assert.deepEqual(counts(run('status').stdout)['users.totp_seed'], [0, 1, 0]);
        assert.match(run('retire').stderr, /still needed/);
        assert.deepEqual(counts(run('rotate').stdout)['users.totp_seed'], [1, 0, 0, 1]);
        await weir.serve();
        await works(weir, made, made.recovery_codes[2], 401);
        await weir.terminate();
    });
    test('what neither key opens is counted, left alone, and told by the exit code', () => {
        const kept = weir.sql('SELECT totp_seed FROM users WHERE totp_seed IS NOT NULL');
        weir.sql(`UPDATE users SET totp_seed = '${Buffer.alloc(80, 7).toString('base64')}' WHERE totp_seed IS NOT NULL`);
        const { status, stdout, stderr } = run('rotate');
        assert.equal(status, 1);
        assert.deepEqual(counts(stdout)['users.totp_seed'], [0, 0, 1, 0]);
        assert.match(stderr, /left as they are/);
        weir.sql(`UPDATE users SET totp_seed = '${kept}' WHERE totp_seed IS NOT NULL`);
    });
});

describe('another SECRET_KEY, of the settings', () => {
    let weir, made;
    before(async () => {
        weir = await Weir.start({ env: { SECRET_KEY: OLD } });
        made = await fill(weir);
        await weir.terminate();
    });
    after(() => weir?.stop());
    const run = (word, env) => runWeir(['keys', word], { ...weir.env, ...env }, { cwd: weir.folder });

    test('a key that is not the database\'s stops the start, and says what to do', () => {
        const { status, stderr } = runWeir(['serve'], { ...weir.env, SECRET_KEY: NEW, WEIR_LISTEN: '127.0.0.1:0' }, { cwd: weir.folder });
        assert.equal(status, 2);
        assert.match(stderr, /SECRET_KEY: is not the key.*SECRET_KEY_PREVIOUS/s);
    });
    test('rotate says how, and changes nothing', () => {
        const { status, stderr } = run('rotate');
        assert.equal(status, 1);
        assert.match(stderr, /SECRET_KEY_PREVIOUS/);
    });
    test('with both it is served before, while and after all is sealed again', async () => {
        weir.env = { ...weir.env, SECRET_KEY: NEW, SECRET_KEY_PREVIOUS: OLD };
        await weir.serve();
        await works(weir, made, made.recovery_codes[0], 200);
        if (DB === 'sqlite') await weir.terminate();
        const { status, stdout, stderr } = run('rotate');
        assert.equal(status, 0, stderr);
        assert.deepEqual(counts(stdout)['users.totp_seed'], [1, 0, 0, 1]);
        if (DB === 'sqlite') await weir.serve();
        await works(weir, made, made.recovery_codes[1], 200);
        await weir.terminate();
        assert.match(run('retire').stdout, /take it out of the settings/);
        delete weir.env.SECRET_KEY_PREVIOUS;
        await weir.serve();
        await works(weir, made, made.recovery_codes[2], 401);
    });
});
