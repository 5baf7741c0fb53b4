// Sessions and passwords: who is signed in where, ending it, changing and recovering a password. What ends, ends with its next request.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { postFrom } from '../lib/elsewhere.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const OTHER = 'Plover-4-granite-harbour';
let weir, anyone;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const login = (email, password = PASSWORD) => anyone.login(email, password);
const alive = async (client) => (await client.get('/api/v1/auth/me')).status === 200;
const sid = async (client) => (await client.get('/api/v1/auth/me', { expect: 200 })).body.session_id;

describe('the list of one\'s sessions', () => {
    test('tells kind, address, program and times, and which is this one', async () => {
        const client = await login('viewer@acme.test');
        const listed = (await client.with({ 'user-agent': 'test/1' }).get('/api/v1/auth/sessions?limit=100', { expect: 200 })).body;
        const mine = listed.filter(({ current }) => current);
        assert.equal(mine.length, 1);
        assert.equal(mine[0].id, await sid(client));
        assert.deepEqual([mine[0].kind, mine[0].ip, mine[0].tenant], ['api', '127.0.0.1', 'acme']);
        assert.ok(mine[0].last_seen_at >= mine[0].created_at);
    });

    test('one can be ended, by its id or by the jti of its refresh token; somebody else\'s is not there', async () => {
        const [mine, first, second] = [await login('viewer@acme.test'), await login('viewer@acme.test'), await login('viewer@acme.test')];
        await mine.del(`/api/v1/auth/sessions/${await sid(first)}`, { expect: 204 });
        assert.deepEqual([await alive(mine), await alive(first), await alive(second)], [true, false, true]);
        const { jti } = JSON.parse(Buffer.from(second.tokens.refresh_token.split('.')[1], 'base64url'));
        await mine.post('/api/v1/auth/revoke', { token_id: jti }, { expect: 204 });
        assert.equal(await alive(second), false);
        const stranger = await login('editor@acme.test');
        await mine.del(`/api/v1/auth/sessions/${await sid(stranger)}`, { expect: 404 });
        await mine.post('/api/v1/auth/revoke', { token_id: await sid(stranger) }, { expect: 404 });
        assert.equal(await alive(stranger), true);
        await mine.post('/api/v1/auth/revoke', undefined, { expect: 204 });
        assert.equal(await alive(mine), false);
    });

    test('an admin sees and ends those of a member in this tenant, and only in this', async () => {
        const [admin, member] = [await weir.as('admin'), await login('member@acme.test')];
        const { id } = (await member.get('/api/v1/auth/me', { expect: 200 })).body.user;
        const listed = (await admin.get(`/api/v1/users/${id}/sessions`, { expect: 200 })).body;
        assert.ok(listed.some((one) => one.tenant === 'acme') && listed.every((one) => one.tenant === 'acme'));
        await admin.del(`/api/v1/users/${id}/sessions`, { expect: 204 });
        assert.equal(await alive(member), false);
        const stranger = await weir.as('owner', 'globex');
        await stranger.get(`/api/v1/users/${id}/sessions`, { expect: 404 });
        await stranger.del(`/api/v1/users/${id}/sessions`, { expect: 404 });
    });

    test('but not those of somebody above: an owner\'s are an owner\'s to end', async () => {
        const [admin, owner] = [await weir.as('admin'), await login('owner@acme.test')];
        const { id } = (await owner.get('/api/v1/auth/me', { expect: 200 })).body.user;
        const refused = await admin.del(`/api/v1/users/${id}/sessions`);
        assert.deepEqual([refused.status, refused.body.code], [403, 'users.role_above']);
        assert.equal(await alive(owner), true);
        await admin.get(`/api/v1/users/${id}/sessions`, { expect: 200 });
        const { body: role } = await owner.post('/api/v1/roles', { name: 'warden', permissions: ['users.read', 'users.sessions'] }, { expect: 201 });
        const viewer = await login('viewer@acme.test');
        const viewerId = (await viewer.get('/api/v1/auth/me', { expect: 200 })).body.user.id;
        await owner.patch(`/api/v1/users/${viewerId}`, { role: 'warden' }, { expect: 200 });
        await viewer.del(`/api/v1/users/${id}/sessions`, { expect: 403 });
        await viewer.del(`/api/v1/users/${viewerId}/sessions`, { expect: 204 });
        assert.equal(await alive(viewer), false);
        await owner.patch(`/api/v1/users/${viewerId}`, { role: 'viewer' }, { expect: 200 });
        await owner.del(`/api/v1/roles/${role.id}`, { expect: 204 });
        await owner.del(`/api/v1/users/${id}/sessions`, { expect: 204 });
        assert.equal(await alive(owner), false);
        weir.clients.clear();
    });

    test('a person has at most 100: the oldest ends', async () => {
        const first = await login('admin@globex.test');
        for (let n = 0; n < 99; n++) await login('admin@globex.test');
        assert.equal(await alive(first), true);
        await login('admin@globex.test');
        assert.equal(await alive(first), false);
    });
});

describe('another tenant', () => {
    test('switching gives a session there and ends the one here; where one is not a member there is none', async () => {
        await (await weir.as('owner', 'globex')).post('/api/v1/users/invite', { email: 'editor@acme.test', role: 'viewer' }, { expect: 201 });
        const [{ token }] = await weir.mail('editor@acme.test');
        await anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 });
        const { body } = await anyone.post('/api/v1/auth/token', { email: 'editor@acme.test', password: PASSWORD, tenant: 'acme' }, { expect: 200 });
        const here = anyone.bearer(body.access_token);
        const me = (await here.get('/api/v1/auth/me', { expect: 200 })).body;
        assert.deepEqual(me.memberships.map(({ slug, role }) => [slug, role]), [['acme', 'editor'], ['globex', 'viewer']]);
        await here.post('/api/v1/auth/switch-tenant', { tenant: 'nowhere' }, { expect: 404 });
        const there = anyone.bearer((await here.post('/api/v1/auth/switch-tenant', { tenant: 'globex' }, { expect: 200 })).body.access_token);
        const now = (await there.get('/api/v1/auth/me', { expect: 200 })).body;
        assert.deepEqual([now.tenant.slug, now.role], ['globex', 'viewer']);
        assert.equal(await alive(here), false);
    });

    test('one\'s own name is one\'s own to change, and nothing else is', async () => {
        const client = await login('owner@globex.test');
        assert.equal((await client.patch('/api/v1/auth/me', { name: 'Olga' }, { expect: 200 })).body.user.name, 'Olga');
        for (const body of [{ email: 'x@example.test' }, { role: 'owner' }, { id: 'x' }, { tenant_id: 'x' }, { totp_enabled: true }])
            errorAt(await client.patch('/api/v1/auth/me', body), `/${Object.keys(body)[0]}`);
    });
});

describe('changing a password', () => {
    test('needs the present one, keeps this session, ends the others, and a letter tells', async () => {
        const [mine, other] = [await login('owner@acme.test'), await login('owner@acme.test')];
        const change = (current_password, new_password) => mine.post('/api/v1/auth/password/change', { current_password, new_password });
        assert.equal((await change('not the right one', OTHER)).body.code, 'auth.password_wrong');
        errorAt(await change(PASSWORD, 'password123'), '/new_password');
        errorAt(await change(PASSWORD, 'owner@acme.test'), '/new_password');
        errorAt(await change(PASSWORD, PASSWORD), '/new_password');
        assert.equal((await change(PASSWORD, OTHER)).status, 204);
        assert.deepEqual([await alive(mine), await alive(other)], [true, false]);
        assert.equal((await anyone.post('/api/v1/auth/token', { email: 'owner@acme.test', password: PASSWORD })).status, 401);
        await login('owner@acme.test', OTHER);
        const [mail] = await weir.mail('owner@acme.test');
        assert.match(mail.text, /password of owner@acme\.test was changed .* from the address 127\.0\.0\.1/);
        assert.equal((await mine.post('/api/v1/auth/password/change', { current_password: OTHER, new_password: PASSWORD })).status, 204);
    });

    test('the strictest of the person\'s tenants counts', async () => {
        const owner = await login('owner@globex.test');
        const { tenant } = (await owner.get('/api/v1/auth/me', { expect: 200 })).body;
        await owner.patch(`/api/v1/tenants/${tenant.id}`, { password_min: 30 }, { expect: 200 });
        errorAt(await owner.post('/api/v1/auth/password/change', { current_password: PASSWORD, new_password: OTHER }), '/new_password');
        await owner.patch(`/api/v1/tenants/${tenant.id}`, { password_min: 10 }, { expect: 200 });
    });
});

describe('a forgotten password', () => {
    let mine;
    before(async () => (mine = await Weir.start()));
    after(() => mine?.stop());
    const forgot = (email) => mine.anonymous().post('/api/v1/auth/password/forgot', { email });
    const reset = (token, new_password = OTHER) => mine.anonymous().post('/api/v1/auth/password/reset', { token, new_password });

    test('is the same answer whether or not there is such an account, and five a minute from an address', async () => {
        const answers = [];
        for (const email of ['member@acme.test', 'nobody@acme.test', 'not an address', 'MEMBER@acme.test', 'x@acme.test']) answers.push(await forgot(email));
        assert.deepEqual(answers.map(({ status, text }) => [status, text]), answers.map(() => [202, '']));
        assert.equal((await forgot('member@acme.test')).status, 429);
        assert.equal((await forgot('nobody@acme.test')).status, 429);
        await mine.anonymous().login('editor@acme.test', PASSWORD); // logins are counted apart
        assert.equal((await mine.mail('member@acme.test', 2)).length, 2);
        assert.ok(readdirSync(join(mine.data, 'mail')).filter((name) => name.endsWith('.eml')).length === 2, 'nobody else got one');
    });

    test('the link makes a new password, once; the others end with it; and all sessions do', async () => {
        const [first, second] = await mine.mail('member@acme.test', 2);
        const session = await mine.anonymous().login('member@acme.test', PASSWORD);
        const { status, body } = await reset('nonsense');
        assert.deepEqual([status, body.code], [404, 'auth.reset_invalid']);
        errorAt(await reset(second.token, 'password123'), '/new_password');
        const both = await Promise.all([reset(second.token), reset(second.token)]);
        assert.equal(both.filter(({ status }) => status === 204).length, 1, both.map(({ status }) => status).join());
        for (const { token } of [first, second]) assert.equal((await reset(token)).body.code, 'auth.reset_invalid');
        assert.equal(await alive(session), false);
        await mine.anonymous().login('member@acme.test', OTHER);
        assert.ok(!mine.stored().includes(second.token));
        await mine.mail('member@acme.test', 3);
    });

    describe('asked for by strangers, from as many addresses as they like', () => {
        const EMAIL = 'viewer@acme.test';
        let hosts = 0;
        const ask = (email = EMAIL) => postFrom(`127.2.0.${++hosts}`, mine.base, '/api/v1/auth/password/forgot', { email });
        const letters = async () => Number(mine.sql(`SELECT count(*) FROM password_resets WHERE user_id = (SELECT id FROM users WHERE email = '${EMAIL}')`));
        const worked = () => until('the asking was worked off', () => Number(mine.sql("SELECT count(*) FROM jobs WHERE kind IN ('auth.forgot', 'mail.send')")) === 0);
        const later = (minutes) => mine.sql(`UPDATE password_resets SET created_at = created_at - ${minutes * 60_000_000}, expires_at = expires_at - ${minutes * 60_000_000}`);

        test('the link that its owner got stays good; the account gets three letters, and everybody the same answer', async () => {
            assert.equal((await ask()).status, 202);
            const [own] = await mine.mail(EMAIL);
            const answers = [];
            for (let n = 0; n < 12; n++) answers.push(await ask(n % 2 ? EMAIL : `nobody-${n}@acme.test`));
            assert.deepEqual([...new Set(answers.map(({ status, text }) => `${status} ${text}`))], ['202 ']);
            await worked();
            assert.equal(await letters(), 3);
            assert.equal((await reset(own.token)).status, 204);
        });

        test('in an hour there are five, and then one whenever no link is good any more: nobody can use them up', async () => {
            for (let n = 0; n < 4; n++) await ask();
            await worked();
            assert.equal(await letters(), 5, 'what was used has counted');
            for (const more of [6, 7]) {
                later(10);
                for (let n = 0; n < 3; n++) await ask();
                await worked();
                assert.equal(await letters(), more);
            }
            const { token } = (await mine.mail(EMAIL, 7)).at(-1);
            assert.equal((await reset(token, PASSWORD)).status, 204);
        });
    });
});
