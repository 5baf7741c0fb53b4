// What a tenant sets for its people holds at every way in, and for sessions that exist.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import otplib from 'otplib';
import { Browser } from '../lib/browser.mjs';
import { errorAt } from '../lib/client.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';

let weir, anyone, owner, acme;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
    owner = await weir.as('owner');
    acme = (await owner.get('/api/v1/auth/me', { expect: 200 })).body.tenant.id;
});
after(() => weir?.stop());

const set = (settings) => owner.patch(`/api/v1/tenants/${acme}`, settings, { expect: 200 });
const me = (client) => client.get('/api/v1/auth/me');
async function signedIn(role = 'member', tenant = 'acme') {
    const browser = new Browser(weir);
    await browser.post('/api/v1/auth/login', { email: `${role}@${tenant}.test`, password: PASSWORD }, { expect: 200 });
    return browser;
}
/** As if every session were older, in the store of a server that stands still. */
async function age(minutes, columns) {
    await weir.terminate();
    for (const column of columns) weir.sql(`UPDATE sessions SET ${column} = ${column} - ${minutes * 60_000_000}`);
    await weir.serve();
}

describe('the limits of a browser\'s session', () => {
    test('a lower absolute limit holds for sessions that exist, for their cookies, and for what is told of them', async () => {
        const browser = await signedIn();
        await age(90, ['created_at', 'absolute_expires_at']);
        const { session } = (await me(browser)).body;
        assert.equal((Date.parse(session.expires_at) - Date.parse(session.created_at)) / 60_000, 720);
        await set({ session_absolute_minutes: 120 });
        const now = (await me(browser)).body.session;
        assert.equal((Date.parse(now.expires_at) - Date.parse(now.created_at)) / 60_000, 120);
        const { body } = await browser.post('/api/v1/auth/refresh', undefined, { expect: 200 });
        assert.ok(body.refresh_expires_in <= 30 * 60, 'no cookie outlives the session');
        await set({ session_absolute_minutes: 60 });
        assert.equal((await me(browser)).status, 401);
        assert.equal((await browser.post('/api/v1/auth/refresh')).status, 401);
        const listed = (await (await weir.anonymous().login('member@acme.test', PASSWORD)).get('/api/v1/auth/sessions', { expect: 200 })).body;
        assert.ok(listed.every(({ kind }) => kind === 'api'), 'it is no session any more');
        await set({ session_absolute_minutes: 720 });
    });

    test('a higher one does not make a session longer', async () => {
        await set({ session_absolute_minutes: 60 });
        const browser = await signedIn();
        await set({ session_absolute_minutes: 720 });
        await age(60, ['created_at', 'absolute_expires_at']);
        assert.equal((await me(browser)).status, 401);
    });

    test('a lower idle limit holds at once', async () => {
        const browser = await signedIn();
        await age(10, ['last_seen_at']);
        await set({ session_idle_minutes: 5 });
        assert.equal((await me(browser)).status, 401);
        assert.equal((await browser.post('/api/v1/auth/refresh')).status, 401);
        await set({ session_idle_minutes: 30 });
    });

    test('those of the tenant that is switched to hold from there on, and switching prolongs nothing', async () => {
        const theirs = await weir.as('owner', 'globex');
        const globex = (await theirs.get('/api/v1/auth/me', { expect: 200 })).body.tenant.id;
        await theirs.post('/api/v1/users/invite', { email: 'viewer@acme.test', role: 'viewer' }, { expect: 201 });
        const [{ token }] = await weir.mail('viewer@acme.test');
        await anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 });
        await theirs.patch(`/api/v1/tenants/${globex}`, { session_absolute_minutes: 60 }, { expect: 200 });
        const browser = new Browser(weir);
        await browser.post('/api/v1/auth/login', { email: 'viewer@acme.test', password: PASSWORD, tenant: 'acme' }, { expect: 200 });
        const end = Date.parse((await me(browser)).body.session.expires_at);
        await browser.post('/api/v1/auth/switch-tenant', { tenant: 'globex' }, { expect: 200 });
        const there = (await me(browser)).body.session;
        assert.equal((Date.parse(there.expires_at) - Date.parse(there.created_at)) / 60_000, 60);
        await browser.post('/api/v1/auth/switch-tenant', { tenant: 'acme' }, { expect: 200 });
        const back = Date.parse((await me(browser)).body.session.expires_at);
        assert.ok(back <= end && back <= Date.parse(there.expires_at), 'it is the same family');
    });
});

describe('a second factor that is asked for', () => {
    test('leaves tokens, browsers, refreshed and new sessions nothing but setting it up; then they are whole', async () => {
        const before_ = await weir.anonymous().login('editor@acme.test', PASSWORD);
        const browser = await signedIn('editor');
        await set({ require_2fa: true });
        // Whoever asked for it has none either.
        assert.equal((await owner.get('/api/v1/users')).body.code, 'auth.totp_setup_required');
        for (const client of [before_, browser]) {
            assert.equal((await client.get('/api/v1/workflows')).body.code, 'auth.totp_setup_required');
            assert.equal((await me(client)).body.must_set_up_2fa, true);
        }
        const { body } = await anyone.post('/api/v1/auth/refresh', { refresh_token: before_.tokens.refresh_token }, { expect: 200 });
        const refreshed = anyone.bearer(body.access_token);
        assert.equal((await refreshed.get('/api/v1/workflows')).status, 403);
        const fresh = await weir.anonymous().login('editor@acme.test', PASSWORD);
        assert.equal((await fresh.get('/api/v1/workflows')).status, 403);
        const offer = (await fresh.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 })).body;
        await fresh.post('/api/v1/auth/2fa/enable', { code: otplib.authenticator.generate(offer.secret) }, { expect: 200 });
        assert.equal((await fresh.get('/api/v1/workflows')).status, 200);
        assert.equal((await refreshed.get('/api/v1/workflows')).status, 401, 'sessions that began without it have ended');
    });

    test('switching into the tenant asks for it as well; other tenants do not', async () => {
        const { body } = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: PASSWORD, tenant: 'globex' }, { expect: 200 });
        const there = anyone.bearer(body.access_token);
        assert.equal((await there.get('/api/v1/workflows')).status, 200);
        const here = anyone.bearer((await there.post('/api/v1/auth/switch-tenant', { tenant: 'acme' }, { expect: 200 })).body.access_token);
        assert.equal((await here.get('/api/v1/workflows')).body.code, 'auth.totp_setup_required');
    });

    test('whoever asked for it can take it back once they have set it up', async () => {
        const offer = (await owner.post('/api/v1/auth/2fa/setup', { password: PASSWORD }, { expect: 200 })).body;
        await owner.post('/api/v1/auth/2fa/enable', { code: otplib.authenticator.generate(offer.secret) }, { expect: 200 });
        await set({ require_2fa: false });
        const { body } = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: PASSWORD, tenant: 'acme' }, { expect: 200 });
        assert.equal((await anyone.bearer(body.access_token).get('/api/v1/workflows')).status, 200);
    });
});

describe('passwords and addresses', () => {
    const invite = async (email) => {
        await owner.post('/api/v1/users/invite', { email, role: 'viewer' }, { expect: 201 });
        return (await weir.mail(email)).at(-1).token;
    };
    const accept = (token, password) => anyone.post('/api/v1/auth/invite/accept', { token, password });

    test('a longer minimum holds for invitations that were sent before, changes and resets; nobody is locked out by it', async () => {
        const token = await invite('late@acme.test');
        await set({ password_min: 30 });
        assert.equal(errorAt(await accept(token, PASSWORD), '/password').code, 'password.length');
        await accept(token, `${PASSWORD}-and-some-more`);
        const member = await weir.anonymous().login('admin@acme.test', PASSWORD);
        errorAt(await member.post('/api/v1/auth/password/change', { current_password: PASSWORD, new_password: 'Heron-9-granite-candle' }), '/new_password');
        await anyone.post('/api/v1/auth/password/forgot', { email: 'admin@acme.test' }, { expect: 202 });
        const [{ token: link }] = await weir.mail('admin@acme.test');
        errorAt(await anyone.post('/api/v1/auth/password/reset', { token: link, new_password: 'Heron-9-granite-candle' }), '/new_password');
        await set({ password_min: 10 });
        await anyone.post('/api/v1/auth/password/reset', { token: link, new_password: 'Heron-9-granite-candle' }, { expect: 204 });
    });

    test('an invitation to an address that the tenant no longer takes is not accepted; members stay', async () => {
        const token = await invite('partner@elsewhere.test');
        await set({ email_domains: ['example.com'] });
        const { status, body } = await accept(token, PASSWORD);
        assert.deepEqual([status, body.code], [404, 'auth.invite_invalid']);
        assert.equal((await weir.anonymous().post('/api/v1/auth/token', { email: 'member@acme.test', password: PASSWORD })).status, 200);
        await set({ email_domains: null });
        assert.equal((await accept(token, PASSWORD)).status, 200);
    });
});
