// A browser's session: cookies that no script reads, two proofs that a page of ours asks, and limits that the server keeps.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Browser } from '../lib/browser.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';

let weir;
before(async () => (weir = await Weir.start({ env: { ALLOWED_ORIGINS: 'https://app.example.test' } })));
after(() => weir?.stop());

const signedIn = async (role = 'owner', more = {}) => {
    const browser = new Browser(weir);
    const answer = await browser.login(`${role}@acme.test`, PASSWORD, more);
    assert.equal(answer.status, 200, answer.text);
    return browser;
};
const me = (browser) => browser.get('/api/v1/auth/me');

describe('POST /auth/login', () => {
    test('sets two cookies by the rules of their names; the body holds no token', async () => {
        const browser = new Browser(weir);
        const { body, headers, text } = await browser.login('owner@acme.test', PASSWORD);
        assert.deepEqual([...browser.jar.keys()], ['__Host-weir', '__Secure-weir-refresh']);
        const [access, refresh] = [...browser.jar.values()];
        assert.ok(access.attributes.includes('SameSite=Lax') && !access.attributes.some((one) => /^(Domain|Max-Age)/.test(one)));
        assert.equal(refresh.at, '/api/v1/auth/refresh');
        for (const { value } of [access, refresh]) assert.ok(!text.includes(value));
        assert.doesNotMatch(text, /eyJ/);
        assert.deepEqual([body.user.email, body.tenant, body.idle_minutes], ['owner@acme.test', 'acme', 30]);
        const hours = (Date.parse(body.expires_at) - Date.now()) / 3.6e6;
        assert.ok(hours > 11.9 && hours <= 12, body.expires_at);
        assert.match(headers.get('cache-control'), /no-store/);
        assert.equal((await me(browser)).status, 200);
    });

    test('remember keeps the cookies when the browser is closed', async () => {
        const browser = await signedIn('owner', { remember: true });
        assert.ok([...browser.jar.values()].every(({ attributes }) => attributes.some((one) => /^Max-Age=[1-9]/.test(one))));
        await browser.post('/api/v1/auth/refresh', undefined, { expect: 200 });
        const lives = [...browser.jar.values()].map(({ attributes }) => Number(attributes.find((one) => one.startsWith('Max-Age=')).slice(8)));
        assert.ok(lives.every((seconds) => seconds > 3600), 'both: refreshing needs what the first one says');
    });

    test('a page elsewhere cannot sign its visitor in', async () => {
        const browser = new Browser(weir);
        const { status, body } = await browser.post('/api/v1/auth/login', { email: 'owner@acme.test', password: PASSWORD }, { from: 'https://evil.test' });
        assert.deepEqual([status, body.code, browser.jar.size], [403, 'auth.csrf', 0]);
    });
});

describe('every change needs both proofs', () => {
    const change = (browser, options) => browser.patch('/api/v1/auth/me', { name: 'x' }, options);
    test('with them it is done; GET needs none', async () => {
        const browser = await signedIn();
        await change(browser, { expect: 200 });
        await browser.get('/api/v1/workflows', { expect: 200 });
    });

    const refused = {
        'without the token': { csrf: null },
        'with another session\'s token': { csrf: 'other' },
        'with half of it': { csrf: 'half' },
        'from another origin': { from: 'https://evil.test' },
        'from a neighbour\'s subdomain': { from: 'http://sub.127.0.0.1' },
        'from an opaque origin': { from: 'null' },
        'from another port': { from: 'http://127.0.0.1:1' },
        'with neither Origin nor Sec-Fetch-Site': { from: null },
        'same-site is not same-origin': { headers: { 'sec-fetch-site': 'same-site' } },
        'by typing into the address bar': { headers: { 'sec-fetch-site': 'none' } },
    };
    for (const [what, options] of Object.entries(refused))
        test(`${what}: 403`, async () => {
            const [browser, other] = [await signedIn(), await signedIn()];
            const csrf = { other: other.csrf, half: browser.csrf.slice(0, 20) }[options.csrf] ?? options.csrf;
            const { status, body } = await change(browser, { ...options, ...(csrf === undefined ? {} : { csrf }) });
            assert.deepEqual([status, body.code], [403, 'auth.csrf']);
        });

    test('an origin of ALLOWED_ORIGINS is ours', async () => {
        await change(await signedIn(), { from: 'https://app.example.test', expect: 200 });
    });

    test('a page that was loaded anew learns the token from /auth/me', async () => {
        const browser = await signedIn();
        const { body } = await me(browser);
        assert.equal(body.session.csrf_token, browser.csrf);
        assert.deepEqual([body.session.kind, body.session.idle_minutes], ['browser', 30]);
    });
});

describe('a token of one kind is none of the other', () => {
    test('the cookie\'s token is no bearer, and a bearer\'s no cookie', async () => {
        const browser = await signedIn();
        const { value } = browser.jar.get('__Host-weir');
        assert.equal((await weir.anonymous().bearer(value).get('/api/v1/auth/me')).status, 401);
        const { tokens } = await weir.anonymous().login('owner@acme.test', PASSWORD);
        assert.equal((await weir.anonymous().with({ cookie: `__Host-weir=${tokens.access_token}` }).get('/api/v1/auth/me')).status, 401);
        const refresh = browser.jar.get('__Secure-weir-refresh').value;
        assert.equal((await weir.anonymous().post('/api/v1/auth/refresh', { refresh_token: refresh })).status, 401);
        assert.equal((await weir.anonymous().with({ cookie: `__Host-weir=${refresh}` }).get('/api/v1/auth/me')).status, 401);
        assert.equal((await weir.anonymous().with({ cookie: `__Secure-weir-refresh=${value}`, origin: weir.base }).post('/api/v1/auth/refresh')).status, 401);
        assert.equal((await me(browser)).status, 200, 'and asking so ended nothing');
    });

    test('a cookie that is there twice is none; other cookies do not matter; a header goes first', async () => {
        const browser = await signedIn();
        const { value } = browser.jar.get('__Host-weir');
        const get = (headers) => weir.anonymous().with(headers).get('/api/v1/auth/me');
        assert.equal((await get({ cookie: `a=1; __Host-weir=${value}; b=2` })).status, 200);
        assert.equal((await get({ cookie: `__Host-weir=x; __Host-weir=${value}` })).status, 401);
        assert.equal((await get({ cookie: `x__Host-weir=${value}` })).status, 401);
        assert.equal((await get({ cookie: `__Host-weir=${value}`, authorization: 'Bearer nonsense' })).status, 401);
    });
});

describe('refreshing by cookie', () => {
    test('gives new cookies and the same proof, and no token as text', async () => {
        const browser = await signedIn();
        const [before, csrf] = [browser.jar.get('__Host-weir').value, browser.csrf];
        const { body, text } = await browser.post('/api/v1/auth/refresh', undefined, { csrf: null, expect: 200 });
        assert.deepEqual([body.token_type, body.csrf_token, 'access_token' in body, 'refresh_token' in body], ['cookie', csrf, false, false]);
        assert.doesNotMatch(text, /eyJ/);
        assert.notEqual(browser.jar.get('__Host-weir').value, before);
        assert.equal((await me(browser)).status, 200);
    });

    test('several tabs get the same successor; from elsewhere it is refused', async () => {
        const browser = await signedIn();
        const refused = await browser.post('/api/v1/auth/refresh', undefined, { from: 'https://evil.test' });
        assert.equal(refused.status, 403);
        const answers = await Promise.all(Array.from({ length: 4 }, () => browser.post('/api/v1/auth/refresh')));
        assert.ok(answers.every(({ status }) => status === 200));
    });
});

test('logging out ends the session and clears the browser', async () => {
    const browser = await signedIn();
    const stolen = browser.jar.get('__Host-weir').value;
    const { headers } = await browser.post('/api/v1/auth/logout', { scope: 'this' }, { expect: 204 });
    assert.match(headers.get('clear-site-data'), /"cookies"/);
    assert.equal(browser.jar.size, 0);
    assert.equal((await weir.anonymous().with({ cookie: `__Host-weir=${stolen}` }).get('/api/v1/auth/me')).status, 401);
});

describe('the limits of a session', () => {
    /** So many minutes ago, in the store of a server that stands still. */
    async function rewind(column, minutes) {
        await weir.terminate();
        weir.sql(`UPDATE sessions SET ${column} = ${column} - ${minutes * 60_000_000}`);
        await weir.serve();
    }

    test('idle: 29 minutes are borne, 30 are not; the refresh token is of no use then either', async () => {
        const browser = await signedIn();
        await rewind('last_seen_at', 29);
        assert.equal((await me(browser)).status, 200);
        await rewind('last_seen_at', 30);
        assert.equal((await me(browser)).status, 401);
        assert.equal((await browser.post('/api/v1/auth/refresh')).status, 401);
    });

    test('neither refreshing nor polling is activity; a person\'s doing is', async () => {
        const [idle, busy] = [await signedIn(), await signedIn('admin')];
        await rewind('last_seen_at', 20);
        await idle.post('/api/v1/auth/refresh', undefined, { expect: 200 });
        await idle.get('/api/v1/workflows', { headers: { 'x-weir-background': 'true' }, expect: 200 });
        await busy.get('/api/v1/workflows', { expect: 200 });
        await rewind('last_seen_at', 15);
        assert.deepEqual([(await me(idle)).status, (await me(busy)).status], [401, 200]);
    });

    test('absolute: it ends in any case', async () => {
        const browser = await signedIn();
        await rewind('absolute_expires_at', 12 * 60);
        assert.equal((await me(browser)).status, 401);
    });

    test('tokens of programs do not idle', async () => {
        const client = await weir.anonymous().login('owner@acme.test', PASSWORD);
        await rewind('last_seen_at', 24 * 60);
        assert.equal((await client.get('/api/v1/auth/me')).status, 200);
    });
});
