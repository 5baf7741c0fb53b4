// Proxies in front: WEIR_TRUSTED_PROXIES says whose X-Forwarded-* is believed. Anybody else's changes nothing: not the throttle, not what is written down,
// not which page is ours.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Browser } from '../lib/browser.mjs';
import { PASSWORD, Weir, runWeir } from '../lib/server.mjs';

const CLIENT = '198.51.100.7';
const wrong = (weir, from) => weir.anonymous().post('/api/v1/auth/token', { email: 'viewer@acme.test', password: 'Wrong-7-marble-lantern' }, { headers: { 'x-forwarded-for': from } });
/** What the log of requests has for the request with this id. */
const remoteOf = (weir, answer) => weir.log().find(({ event, request_id }) => event === 'http.request' && request_id === answer.headers.get('x-request-id'))?.remote;
const sessions = async (client) => (await client.get('/api/v1/auth/sessions', { expect: 200 })).body;
const login = (weir, headers) => weir.anonymous().with(headers).login('owner@acme.test', PASSWORD);

describe('from a proxy that is trusted', () => {
    let weir;
    before(async () => (weir = await Weir.start({ env: { WEIR_TRUSTED_PROXIES: '127.0.0.1, 10.0.0.0/8' } })));
    after(() => weir?.stop());

    test('sessions, the audit log and the log of requests hold the client’s address', async () => {
        const client = await login(weir, { 'x-forwarded-for': `203.0.113.1, ${CLIENT}, 10.1.2.3` });
        const seen = await client.get('/api/v1/auth/me', { headers: { 'x-forwarded-for': CLIENT }, expect: 200 });
        assert.equal(remoteOf(weir, seen), CLIENT);
        assert.ok((await sessions(client)).some(({ ip }) => ip === CLIENT));
        const { body } = await client.get('/api/v1/audit-logs', { expect: 200 });
        assert.ok(body.some(({ ip }) => ip === CLIENT), JSON.stringify(body[0]));
    });

    test('failures of one client throttle that client and no other behind the same proxy', async () => {
        for (let i = 0; i < 5; i++) assert.equal((await wrong(weir, '198.51.100.20')).status, 401);
        assert.equal((await wrong(weir, '198.51.100.20')).status, 429);
        assert.equal((await wrong(weir, '198.51.100.21')).status, 401);
        assert.equal((await wrong(weir, '192.0.2.99, 198.51.100.20')).status, 429, 'what the client sent itself stands to the left');
    });

    test('the scheme and the host are those that the browser asked for', async () => {
        const outside = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'app.example.test', 'x-forwarded-for': CLIENT };
        const browser = new Browser(weir);
        const from = (origin) => ({ from: origin, headers: { ...outside, 'sec-fetch-site': 'same-origin' } });
        assert.equal((await browser.post('/api/v1/auth/login', { email: 'owner@acme.test', password: PASSWORD }, from('https://app.example.test'))).status, 200);
        assert.equal((await browser.post('/api/v1/auth/login', { email: 'owner@acme.test', password: PASSWORD }, from('http://app.example.test'))).status, 403, 'by plain HTTP: whoever sits on the wire');
        assert.equal((await browser.post('/api/v1/auth/login', { email: 'owner@acme.test', password: PASSWORD }, from(weir.base))).status, 403, 'the inner name is no name of ours there');
    });
});

describe('from a stranger', () => {
    let weir;
    before(async () => (weir = await Weir.start({ env: { WEIR_TRUSTED_PROXIES: '10.0.0.0/8' } })));
    after(() => weir?.stop());

    test('it changes nothing that is written down', async () => {
        const client = await login(weir, { 'x-forwarded-for': CLIENT, forwarded: `for=${CLIENT}`, 'x-real-ip': CLIENT });
        const seen = await client.get('/api/v1/auth/me', { headers: { 'x-forwarded-for': CLIENT }, expect: 200 });
        assert.equal(remoteOf(weir, seen), '127.0.0.1');
        assert.ok((await sessions(client)).every(({ ip }) => ip === '127.0.0.1'));
    });

    test('another address each time gets around no throttle', async () => {
        for (let i = 0; i < 5; i++) assert.equal((await wrong(weir, `198.51.100.${i}`)).status, 401);
        assert.equal((await wrong(weir, '198.51.100.200')).status, 429);
    });

    test('a host of its own makes no page ours', async () => {
        const browser = new Browser(weir);
        const headers = { 'x-forwarded-host': 'evil.test', 'x-forwarded-proto': 'https' };
        assert.equal((await browser.post('/api/v1/auth/login', { email: 'editor@acme.test', password: PASSWORD }, { from: 'https://evil.test', headers })).status, 403);
    });
});

test('WEIR_PROXY_HEADER=forwarded reads that form, and not the other', async (t) => {
    const weir = await Weir.start({ env: { WEIR_TRUSTED_PROXIES: '127.0.0.1', WEIR_PROXY_HEADER: 'forwarded' } });
    t.after(() => weir.stop());
    const client = await login(weir, { forwarded: `for="[2001:db8::7]:4711";proto=https`, 'x-forwarded-for': CLIENT });
    assert.ok((await sessions(client)).some(({ ip }) => ip === '2001:db8::7'));
});

test('a list that cannot be used stops the start, and names the entry', () => {
    for (const list of ['proxy.internal', '10.0.0.0/33', '10.0.0.1, any']) {
        const { status, stderr } = runWeir(['config'], { WEIR_TRUSTED_PROXIES: list });
        assert.deepEqual([status, /WEIR_TRUSTED_PROXIES: \S/.test(stderr)], [2, true], stderr);
    }
});
