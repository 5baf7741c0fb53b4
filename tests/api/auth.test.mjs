// Identity of an API client: one login, short access tokens, refresh tokens that rotate, and nothing that stands in for a signature.

import assert from 'node:assert/strict';
import { createHash, createHmac, generateKeyPairSync, sign as signWith } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { jwtVerify } from 'jose';
import { errorAt } from '../lib/client.mjs';
import { PASSWORD, ROLES, Weir, runWeir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const JWT_SECRET_KEY = 'k8Zt3mQw7Lr1Xy5Nb9Vc2Hd6Jf4Gs0PaUeIo';
const encode = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const decode = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());
const sign = (header, claims, secret = JWT_SECRET_KEY, hash = 'sha256') => {
    const head = `${encode(header)}.${encode(claims)}`;
    return `${head}.${createHmac(hash, secret).update(head).digest('base64url')}`;
};

let weir, anyone;
before(async () => {
    weir = await Weir.start({ env: { JWT_SECRET_KEY } });
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const token = (email, password = PASSWORD) => anyone.post('/api/v1/auth/token', { email, password });
const refresh = (refresh_token) => anyone.post('/api/v1/auth/refresh', { refresh_token });
const me = (access) => anyone.bearer(access).get('/api/v1/auth/me');

describe('POST /auth/token', () => {
    test('answers a pair of tokens with their lives', async () => {
        const { status, body, headers } = await token('editor@acme.test');
        assert.equal(status, 200);
        assert.equal(body.token_type, 'bearer');
        assert.equal(body.expires_in, 15 * 60);
        assert.equal(body.refresh_expires_in, 7 * 24 * 3600);
        assert.match(headers.get('cache-control'), /no-store/);
    });

    test('the access token is HS256 with the documented claims', async () => {
        const { body } = await token('editor@acme.test');
        const [header, claims] = body.access_token.split('.').slice(0, 2).map(decode);
        assert.equal(header.alg, 'HS256');
        for (const name of ['iss', 'aud', 'sub', 'tid', 'sid', 'role', 'type', 'jti', 'iat', 'nbf', 'exp']) assert.ok(name in claims, name);
        assert.equal(claims.type, 'access');
        assert.equal(claims.role, 'editor');
        assert.equal(claims.exp - claims.iat, 15 * 60);
    });

    test('e-mail addresses are compared without case', async () => {
        assert.equal((await token('Editor@ACME.test')).status, 200);
    });

    test('a wrong password and an unknown account are the same answer', async () => {
        const answers = [await token('member@acme.test', 'wrong wrong wrong'), await token('nobody@acme.test', 'wrong wrong wrong')];
        for (const { status, headers } of answers) {
            assert.equal(status, 401);
            assert.match(headers.get('www-authenticate'), /Bearer/i);
        }
        const [first, second] = answers.map(({ body }) => ({ ...body, request_id: '' }));
        assert.deepEqual(first, second);
    });

    test('a body that is not what it should be is 400 or 422, and does not count as a failure', async () => {
        for (let i = 0; i < 8; i++) {
            assert.equal((await anyone.post('/api/v1/auth/token', '{"email":')).status, 400);
            const missing = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test' });
            assert.equal(missing.status, 422);
            assert.equal(missing.body.errors[0].pointer, '/password');
        }
        assert.equal((await token('viewer@acme.test')).status, 200);
    });
});

describe('GET /auth/me', () => {
    for (const role of ROLES)
        test(`tells ${role} who they are and what they may`, async () => {
            const client = await weir.as(role);
            const { body } = await client.get('/api/v1/auth/me', { expect: 200 });
            const text = JSON.stringify(body);
            assert.match(text, new RegExp(`${role}@acme\\.test`));
            assert.ok(body.permissions.includes('workflows.read'), text);
            assert.equal(body.permissions.includes('workflows.write'), ['owner', 'admin', 'editor'].includes(role), text);
            assert.doesNotMatch(text, /argon2|password_hash/);
        });
});

describe('a verifier that is not ours (npm jose)', () => {
    const key = new TextEncoder().encode(JWT_SECRET_KEY);
    const expected = { issuer: 'weir', audience: 'weir-api', algorithms: ['HS256'] };
    test('accepts both tokens, with their claims', async () => {
        const { body } = await token('editor@acme.test');
        for (const [text, type] of [[body.access_token, 'access'], [body.refresh_token, 'refresh']]) {
            const { payload, protectedHeader } = await jwtVerify(text, key, expected);
            assert.equal(payload.type, type);
            assert.deepEqual(Object.keys(protectedHeader).sort(), ['alg', 'kid', 'typ']);
        }
    });
});

describe('tokens that are none', () => {
    let good;
    before(async () => (good = (await token('admin@acme.test')).body));
    const header = () => decode(good.access_token.split('.')[0]);
    const claims = (more) => ({ ...decode(good.access_token.split('.')[1]), ...more });
    const now = () => Math.floor(Date.now() / 1000);
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const pem = rsa.publicKey.export({ type: 'spki', format: 'pem' });
    /** Signed as it stands, whatever stands there. */
    const over = (head, body, secret = JWT_SECRET_KEY) => `${head}.${body}.${createHmac('sha256', secret).update(`${head}.${body}`).digest('base64url')}`;
    /** The same bytes, if stray bits at the end do not count. */
    const strayed = (text) => {
        const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
        return text.slice(0, -1) + alphabet[alphabet.indexOf(text.at(-1)) | 1];
    };
    /** Such that its base64 ends in stray bits. */
    const odd = (value) => {
        for (let text = JSON.stringify(value); ; text += ' ') if (Buffer.byteLength(text) % 3 !== 0) return encode(text);
    };
    const forged = {
        'empty': () => '',
        'not a token': () => 'abc',
        'alg none': () => `${encode({ ...header(), alg: 'none' })}.${encode(claims())}.`,
        'alg none with the old signature': () => `${encode({ ...header(), alg: 'none' })}.${good.access_token.split('.').slice(1).join('.')}`,
        'alg NONE': () => `${encode({ ...header(), alg: 'NONE' })}.${encode(claims())}.`,
        'HS384 with the right key': () => sign({ ...header(), alg: 'HS384' }, claims(), JWT_SECRET_KEY, 'sha384'),
        'HS512 with the right key': () => sign({ ...header(), alg: 'HS512' }, claims(), JWT_SECRET_KEY, 'sha512'),
        'a key by certificate': () => sign({ ...header(), x5u: 'http://127.0.0.1/cert' }, claims()),
        'a signature in base64 that is not canonical': () => {
            const [head, body, signature] = good.access_token.split('.');
            return `${head}.${body}.${strayed(signature)}`;
        },
        'a header in base64 that is not canonical': () => over(strayed(odd(header())), encode(claims())),
        'claims in base64 that is not canonical': () => over(encode(header()), strayed(odd(claims()))),
        'base64 with padding': () => over(encode(header()), `${odd(claims())}=`),
        'base64 of the other alphabet': () => over(encode(header()), Buffer.from(JSON.stringify(claims({ x: '???>>>' }))).toString('base64').replace(/=+$/, '')),
        'a line end within': () => over(`${encode(header()).slice(0, 8)}%0A${encode(header()).slice(8)}`, encode(claims())),
        'RS256, signed by a key of somebody': () => {
            const head = `${encode({ ...header(), alg: 'RS256' })}.${encode(claims())}`;
            return `${head}.${signWith('sha256', Buffer.from(head), rsa.privateKey).toString('base64url')}`;
        },
        'RS256 with that key in the header': () => {
            const head = `${encode({ ...header(), alg: 'RS256', jwk: rsa.publicKey.export({ format: 'jwk' }) })}.${encode(claims())}`;
            return `${head}.${signWith('sha256', Buffer.from(head), rsa.privateKey).toString('base64url')}`;
        },
        'RS256 in name, with the public key as the secret': () => sign({ ...header(), alg: 'RS256' }, claims(), pem),
        'HS256 with a public key as the secret': () => sign(header(), claims(), pem),
        'an empty secret': () => sign(header(), claims(), ''),
        'two algorithms': () => over(encode(`{"alg":"none",${JSON.stringify(header()).slice(1)}`), encode(claims())),
        'no algorithm': () => sign({ ...header(), alg: undefined }, claims()),
        'an algorithm in other letters': () => sign({ ...header(), alg: 'hs256' }, claims()),
        'a list of algorithms': () => sign({ ...header(), alg: ['HS256'] }, claims()),
        'a chain of certificates': () => sign({ ...header(), x5c: ['AA=='] }, claims()),
        'no kid': () => sign({ ...header(), kid: undefined }, claims()),
        'a kid that is a path, or SQL': () => sign({ ...header(), kid: "x' OR 1=1 --" }, claims()),
        'b64 turned off': () => sign({ ...header(), b64: false, crit: ['b64'] }, claims()),
        'two claims of one name': () => over(encode(header()), encode(`{"role":"viewer",${JSON.stringify(claims()).slice(1)}`)),
        'expired a second ago': () => sign(header(), claims({ iat: now() - 901, nbf: now() - 901, exp: now() - 1 })),
        'an end that is a text': () => sign(header(), claims({ exp: String(now() + 900) })),
        'an end beyond all numbers': () => over(encode(header()), encode(JSON.stringify(claims()).replace(/"exp":\d+/, '"exp":1e300'))),
        'no audience': () => sign(header(), claims({ aud: undefined })),
        'a list of audiences': () => sign(header(), claims({ aud: ['weir-api'] })),
        'no issuer': () => sign(header(), claims({ iss: undefined })),
        'no type': () => sign(header(), claims({ type: undefined })),
        'a type of no kind': () => sign(header(), claims({ type: 'Access' })),
        'the user of somebody else': () => sign(header(), claims({ sub: 'user_01h455vb4pex5vsknk084sn02q' })),
        'claims that are a list': () => over(encode(header()), encode([claims()])),
        'a header that is none': () => over(encode('null'), encode(claims())),
        'RS256 in name': () => sign({ ...header(), alg: 'RS256' }, claims()),
        'another key': () => sign(header(), claims(), 'x'.repeat(16) + JWT_SECRET_KEY),
        'an embedded key': () => sign({ ...header(), jwk: { kty: 'oct', k: encode(JWT_SECRET_KEY) } }, claims()),
        'a key by address': () => sign({ ...header(), jku: 'http://127.0.0.1/keys' }, claims()),
        'a critical extension': () => sign({ ...header(), crit: ['exp'] }, claims()),
        'an unknown kid': () => sign({ ...header(), kid: '../../dev/null' }, claims()),
        'expired': () => sign(header(), claims({ iat: 1_600_000_000, nbf: 1_600_000_000, exp: 1_600_000_900 })),
        'not yet valid': () => sign(header(), claims({ nbf: 4_000_000_000, exp: 4_000_000_900 })),
        'without an end': () => sign(header(), claims({ exp: undefined })),
        'another issuer': () => sign(header(), claims({ iss: 'somebody else' })),
        'another audience': () => sign(header(), claims({ aud: 'somebody else' })),
        'a session that never was': () => sign(header(), claims({ sid: 'session_01h455vb4pex5vsknk084sn02q' })),
        'the tenant of somebody else': () => sign(header(), claims({ tid: 'tenant_01h455vb4pex5vsknk084sn02q' })),
        'a refresh token': () => good.refresh_token,
        'four parts': () => `${good.access_token}.x`,
        'a changed signature': () => good.access_token.slice(0, -3) + (good.access_token.endsWith('AAA') ? 'BBB' : 'AAA'),
        'padding': () => `${good.access_token}=`,
    };
    for (const [what, make] of Object.entries(forged))
        test(`${what}: 401`, async () => {
            const { status, body } = await me(make());
            assert.equal(status, 401, JSON.stringify(body));
        });

    test('a role that was forged into it, with the right key, gives nothing: the row decides', async () => {
        const { body } = await token('viewer@acme.test');
        const forgery = sign(decode(body.access_token.split('.')[0]), { ...decode(body.access_token.split('.')[1]), role: 'owner' });
        assert.equal((await anyone.bearer(forgery).get('/api/v1/users')).status, 403);
    });

    test('the same signing by these tests is accepted when nothing is changed: the cases above fail for their reason', async () => {
        assert.equal((await me(sign(header(), claims()))).status, 200);
    });

    test('another scheme, or none: 401', async () => {
        assert.equal((await anyone.get('/api/v1/auth/me')).status, 401);
        assert.equal((await anyone.with({ authorization: `Basic ${good.access_token}` }).get('/api/v1/auth/me')).status, 401);
    });
});

describe('POST /auth/refresh', () => {
    test('rotates, and the new access token works', async () => {
        const first = (await token('owner@acme.test')).body;
        const { status, body } = await refresh(first.refresh_token);
        assert.equal(status, 200);
        assert.notEqual(body.refresh_token, first.refresh_token);
        assert.equal((await me(body.access_token)).status, 200);
    });

    test('within ten seconds the parent returns the same successor, also to many at once', async () => {
        const first = (await token('owner@acme.test')).body;
        const answers = await Promise.all(Array.from({ length: 8 }, () => refresh(first.refresh_token)));
        assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
        assert.equal(new Set(answers.map(({ body }) => body.refresh_token)).size, 1);
    });

    test('an access token is no refresh token, and neither is a forged or malformed one', async () => {
        const { access_token, refresh_token } = (await token('owner@acme.test')).body;
        const [head, claims] = refresh_token.split('.');
        const other = sign(decode(head), { ...decode(claims), jti: 'refresh_01h455vb4pex5vsknk084sn02q' });
        for (const bad of [access_token, `${head}.${claims}.AAAA`, 'x', other]) assert.equal((await refresh(bad)).status, 401, bad);
        assert.equal((await anyone.post('/api/v1/auth/refresh', {})).status, 422);
    });

    test('a token whose hash does not match its jti revokes the whole family', async () => {
        const { access_token, refresh_token } = (await token('owner@acme.test')).body;
        const [head, claims] = refresh_token.split('.');
        const twin = sign(decode(head), { ...decode(claims), exp: decode(claims).exp + 1 });
        assert.equal((await refresh(twin)).status, 401);
        assert.equal((await refresh(refresh_token)).status, 401);
        assert.equal((await me(access_token)).status, 401, 'sid is checked at once');
    });
});

describe('POST /auth/logout', () => {
    const session = () => anyone.login('viewer@acme.test', PASSWORD);
    test('"this" ends the session at once, access and refresh, and leaves the others', async () => {
        const [mine, other] = [await session(), await session()];
        const { status } = await mine.post('/api/v1/auth/logout', { scope: 'this' });
        assert.ok([200, 204].includes(status), String(status));
        assert.equal((await me(mine.tokens.access_token)).status, 401);
        assert.equal((await refresh(mine.tokens.refresh_token)).status, 401);
        assert.equal((await me(other.tokens.access_token)).status, 200);
    });

    test('"others" leaves only this one, "all" none', async () => {
        const [mine, other] = [await session(), await session()];
        await mine.post('/api/v1/auth/logout', { scope: 'others' });
        assert.deepEqual([(await me(mine.tokens.access_token)).status, (await me(other.tokens.access_token)).status], [200, 401]);
        await mine.post('/api/v1/auth/logout', { scope: 'all' });
        assert.equal((await me(mine.tokens.access_token)).status, 401);
    });
});

describe('the login limit', () => {
    let limited;
    before(async () => (limited = await Weir.start()));
    after(() => limited.stop());

    test('five failures in a minute, then 429 with Retry-After, also for the right password; it survives a restart', async () => {
        const attempt = (password) => limited.anonymous().post('/api/v1/auth/token', { email: 'member@acme.test', password });
        for (let i = 0; i < 5; i++) assert.equal((await attempt(`wrong ${i} wrong`)).status, 401);
        const sixth = await attempt('wrong again');
        assert.equal(sixth.status, 429);
        const wait = Number(sixth.headers.get('retry-after'));
        assert.ok(wait > 0 && wait <= 60, `${wait} s`);
        assert.equal((await attempt(PASSWORD)).status, 429);
        await limited.kill();
        await limited.serve();
        assert.equal((await attempt(PASSWORD)).status, 429);
    });

    test('an account that does not exist is throttled alike', async () => {
        const { status } = await limited.anonymous().post('/api/v1/auth/token', { email: 'ghost@acme.test', password: 'wrong' });
        assert.equal(status, 429, 'the failures above came from this address');
    });
});

describe('setup', () => {
    let fresh;
    before(async () => (fresh = await Weir.start({ users: false })));
    after(() => fresh.stop());
    const setup = (body) => fresh.anonymous().post('/api/v1/setup', body);
    const owner = { email: 'first@example.test', password: PASSWORD };

    for (const path of ['/setup', '/invite', '/reset']) test(`the page behind the link ${path} loads nothing but itself, and its policy allows its one script and style`, async () => {
        const { text, headers } = await fresh.anonymous().get(`${path}?token=any`, { expect: 200 });
        const policy = headers.get('content-security-policy');
        for (const [kind, tag] of [['script-src', 'script'], ['style-src', 'style']]) {
            const parts = [...text.matchAll(new RegExp(`<${tag}>(.*?)</${tag}>`, 'gs'))];
            assert.equal(parts.length, 1);
            const hash = createHash('sha256').update(parts[0][1]).digest('base64');
            assert.ok(policy.includes(`${kind} 'sha256-${hash}'`), policy);
        }
        assert.match(policy, /^default-src 'none'; /);
        assert.match(policy, /connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'$/);
        assert.equal(headers.get('cache-control'), 'no-store');
        assert.doesNotMatch(text, /https?:\/\/(?!127\.0\.0\.1)|\son\w+=|\ssrc=|\sstyle=|<link/);
    });

    test('the first start prints a link with a one-time token, which makes tenant and owner exactly once', async () => {
        const link = await until('the setup link is printed', () => /https?:\/\/\S*\/setup\?token=([\w-]{20,})/.exec(fresh.stdout + fresh.stderr));
        const token = link[1];
        const wrong = token.startsWith('A') ? `B${token.slice(1)}` : `A${token.slice(1)}`;
        assert.equal((await setup({ ...owner, token: wrong })).status, 401);
        errorAt(await setup({ email: 'x', password: 'short', token }), '/email');
        errorAt(await setup({ ...owner, password: 'password123', token }), '/password');
        const made = await setup({ ...owner, token });
        assert.equal(made.status, 201, made.text);
        assert.match((await fresh.anonymous().bearer(made.body.access_token).get('/api/v1/auth/me', { expect: 200 })).text, /"owner"/);
        assert.equal((await setup({ ...owner, email: 'second@example.test', token })).status, 409);
        await fresh.anonymous().get('/setup', { expect: 404 });
        await fresh.anonymous().login(owner.email, owner.password);
    });

    test('after a restart there is no link any more', async () => {
        await fresh.terminate();
        fresh.stderr = '';
        await fresh.serve();
        assert.doesNotMatch(fresh.stderr + fresh.stdout, /token=/);
    });
});

describe('the first owner by settings', () => {
    test('WEIR_ADMIN_EMAIL and WEIR_ADMIN_PASSWORD make tenant and owner at the first start, and are ignored later', async () => {
        const mine = await Weir.start({ users: false, env: { WEIR_ADMIN_EMAIL: 'root@example.test', WEIR_ADMIN_PASSWORD: PASSWORD } });
        try {
            const client = await mine.anonymous().login('root@example.test', PASSWORD);
            assert.match((await client.get('/api/v1/auth/me', { expect: 200 })).text, /owner/);
            assert.equal((await mine.anonymous().post('/api/v1/setup', { email: 'b@example.test', password: PASSWORD, token: 'x'.repeat(32) })).status, 409);
            await mine.terminate();
            mine.env.WEIR_ADMIN_PASSWORD = 'Another-9-password-entirely';
            await mine.serve();
            await mine.anonymous().login('root@example.test', PASSWORD);
            assert.doesNotMatch(mine.stderr + mine.stdout, new RegExp(PASSWORD));
        } finally {
            await mine.stop();
        }
    });

    test('the generated key file is for its owner only', async () => {
        const folder = await Weir.start();
        try {
            const path = join(folder.data, 'secret.key');
            assert.equal(statSync(path).mode & 0o777, 0o600);
            assert.ok(readFileSync(path).length >= 32);
        } finally {
            await folder.stop();
        }
    });
});

describe('a bad setting stops the start with exit code 2 and names itself', () => {
    const cases = [
        [{ WEIR_LISTEN: 'nonsense' }, /WEIR_LISTEN.*nonsense/s],
        [{ WEIR_LISTEN: '127.0.0.1:70000' }, /WEIR_LISTEN.*65535/s],
        [{ WEIR_LOG: 'loud' }, /WEIR_LOG.*loud.*json/s],
        [{ WEIR_EGRESS_ALLOW: '10.0.0.0/99' }, /WEIR_EGRESS_ALLOW.*10\.0\.0\.0\/99/s],
        [{ JWT_SECRET_KEY: 'short' }, /JWT_SECRET_KEY.*32/s],
        [{ JWT_SECRET_KEY: 'ab'.repeat(20) }, /JWT_SECRET_KEY.*10/s],
        [{ JWT_SECRET_KEY: 'your-secret-key-here-change-in-production' }, /JWT_SECRET_KEY/],
        [{ WEIR_LISTENN: 'x' }, /WEIR_LISTENN/],
    ];
    for (const [env, expected] of cases)
        test(Object.entries(env).flat().join('='), () => {
            const { status, stderr, stdout } = runWeir(['serve'], { WEIR_DATA: join(weir.folder, 'never'), ...env }, { timeout: 5000 });
            assert.equal(status, 2, stderr);
            assert.match(stderr, expected);
            if (env.JWT_SECRET_KEY) assert.ok(!(stderr + stdout).includes(env.JWT_SECRET_KEY), 'a secret is masked');
        });
});
