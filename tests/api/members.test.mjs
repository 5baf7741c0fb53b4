// People in tenants: invitations, roles, custom roles, tenants and what suspending one does. Nobody gives more than they have, nobody chooses a
// password for somebody else, and what is taken away is gone with the next request.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';

/** Tenants whose owners let each other out: either may win, so none of them is needed afterwards. */
const RIVALS = ['remove', 'demote', 'disable', 'remove'];

let weir, anyone, owner, admin, editor, operator;
before(async () => {
    weir = await Weir.start({ operator: true, serve: false });
    for (const n of RIVALS.keys()) weir.addTenant(`rivals-${n}`, ['owner']);
    await weir.serve();
    anyone = weir.anonymous();
    [owner, admin, editor, operator] = [await weir.as('owner'), await weir.as('admin'), await weir.as('editor'), await weir.as('operator', 'platform')];
});
after(() => weir?.stop());

let guests = 0;
/** Somebody new in acme: {id, email, client}. */
async function join_as(role, by = owner) {
    const email = `guest-${++guests}@example.test`;
    await by.post('/api/v1/users/invite', { email, role }, { expect: 201 });
    const [{ token }] = await weir.mail(email);
    const { body } = await anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 });
    return { id: body.user_id, email, client: await anyone.login(email, PASSWORD) };
}
const me = async (client) => (await client.get('/api/v1/auth/me', { expect: 200 })).body;
const idOf = async (client) => (await me(client)).user.id;

describe('invitations', () => {
    test('a letter of text and HTML with a link; accepting it once makes a member of that role', async () => {
        const { body } = await admin.post('/api/v1/users/invite', { email: 'Grace@Example.test', name: 'Grace "G" <Hopper>', role: 'editor' }, { expect: 201 });
        assert.equal(body.email, 'grace@example.test');
        const [mail] = await weir.mail('grace@example.test');
        assert.match(mail.subject, /admin@acme\.test invites you to acme/);
        assert.match(mail.text, /as editor/);
        assert.match(mail.html, /<a href="http:\/\/127\.0\.0\.1:\d+\/invite\?token=/);
        assert.doesNotMatch(mail.html, /<img|<script|src=/);
        const accept = (more) => anyone.post('/api/v1/auth/invite/accept', { token: mail.token, password: PASSWORD, ...more });
        errorAt(await accept({ password: 'password123' }), '/password');
        errorAt(await accept({ password: 'grace-hopper' }), '/password');
        const accepted = await accept({});
        assert.equal(accepted.status, 200, accepted.text);
        assert.equal((await accept({})).status, 404);
        const grace = await me(await anyone.login('grace@example.test', PASSWORD));
        assert.equal(grace.role, 'editor');
        assert.equal(grace.user.name, 'Grace "G" <Hopper>');
    });

    test('the table holds no token, and the queue neither', async () => {
        await owner.post('/api/v1/users/invite', { email: 'quiet@example.test', role: 'viewer' }, { expect: 201 });
        const [{ token }] = await weir.mail('quiet@example.test');
        assert.ok(!weir.stored().includes(token));
    });

    test('inviting again ends the first link; taking it back ends the last', async () => {
        const invite = () => owner.post('/api/v1/users/invite', { email: 'twice@example.test', role: 'viewer' }, { expect: 201 });
        await invite();
        const { body } = await invite();
        const [first, second] = await weir.mail('twice@example.test', 2);
        const accept = ({ token }) => anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD });
        const listed = (await owner.get('/api/v1/invitations?count=true', { expect: 200 })).body;
        assert.equal(listed.filter(({ email }) => email === 'twice@example.test').length, 1);
        assert.equal((await accept(first)).status, 404);
        await owner.del(`/api/v1/invitations/${body.id}`, { expect: 204 });
        assert.equal((await accept(second)).status, 404);
    });

    test('an admin neither replaces nor takes back what an owner offered above them; an owner does', async () => {
        const invite = (client, role) => client.post('/api/v1/users/invite', { email: 'second-owner@example.test', role });
        await invite(owner, 'owner');
        const [mail] = await weir.mail('second-owner@example.test');
        const listed = (await admin.get('/api/v1/invitations', { expect: 200 })).body.find(({ email }) => email === 'second-owner@example.test');
        assert.deepEqual([(await invite(admin, 'viewer')).body.code, (await admin.del(`/api/v1/invitations/${listed.id}`)).body.code], ['users.role_above', 'users.role_above']);
        assert.equal((await invite(owner, 'viewer')).status, 201);
        assert.equal((await anyone.post('/api/v1/auth/invite/accept', { token: mail.token, password: PASSWORD })).status, 404);
        assert.equal((await invite(admin, 'editor')).status, 201, 'now it is not above');
        const { body: role } = await owner.post('/api/v1/roles', { name: 'regent', permissions: ['tenants.write'] }, { expect: 201 });
        await invite(owner, 'regent');
        assert.equal((await invite(admin, 'viewer')).status, 403);
        assert.equal((await invite(owner, 'viewer')).status, 201);
        await owner.del(`/api/v1/roles/${role.id}`, { expect: 204 });
    });

    test('somebody with an account gives its password: a forwarded letter lets nobody in; failures count', async () => {
        const stranger = await weir.as('owner', 'globex');
        await stranger.post('/api/v1/users/invite', { email: 'viewer@acme.test', role: 'admin' }, { expect: 201 });
        const [{ token }] = await weir.mail('viewer@acme.test');
        const accept = (password) => anyone.post('/api/v1/auth/invite/accept', { token, password });
        assert.equal((await accept('not the right one')).status, 401);
        assert.equal((await accept(PASSWORD)).status, 200);
        const both = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: PASSWORD });
        assert.equal(both.status, 422, 'now they say which tenant');
        const there = await anyone.post('/api/v1/auth/token', { email: 'viewer@acme.test', password: PASSWORD, tenant: 'globex' }, { expect: 200 });
        assert.equal((await me(anyone.bearer(there.body.access_token))).role, 'admin');
        assert.equal((await stranger.post('/api/v1/users/invite', { email: 'viewer@acme.test', role: 'viewer' })).status, 409);
    });

    test('nobody gives more than they have, and operator is no role to give', async () => {
        const give = (client, role) => client.post('/api/v1/users/invite', { email: `give-${role}@example.test`, role });
        assert.equal((await give(admin, 'owner')).status, 403);
        assert.equal((await give(admin, 'admin')).status, 201);
        errorAt(await give(owner, 'operator'), '/role');
        errorAt(await give(owner, 'custom'), '/role');
        errorAt(await give(owner, 'Owner'), '/role');
        assert.equal((await give(editor, 'viewer')).status, 403);
    });

    test('neither tenant nor password nor status can be sent along', async () => {
        for (const more of [{ tenant_id: 'tenant_01h455vb4pex5vsknk084sn02q' }, { password: PASSWORD }, { status: 'active' }, { id: 'user_1' }, { role_id: 'x' }])
            errorAt(await owner.post('/api/v1/users', { email: 'mass@example.test', role: 'viewer', ...more }), `/${Object.keys(more)[0]}`);
    });

    test('only addresses of the tenant\'s domains, and only as many people as it may have', async () => {
        const stranger = await weir.as('owner', 'globex');
        const { tenant } = await me(stranger);
        const change = (client, body) => client.patch(`/api/v1/tenants/${tenant.id}`, body);
        const invite = (email) => stranger.post('/api/v1/users/invite', { email, role: 'viewer' });
        assert.equal((await change(stranger, { email_domains: ['globex.test'] })).status, 200);
        errorAt(await invite('somebody@elsewhere.test'), '/email');
        assert.equal((await invite('somebody@globex.test')).status, 201);
        assert.equal((await change(operator, { quota_users: 8 })).status, 200);
        const statuses = [];
        for (const n of [1, 2, 3]) statuses.push((await invite(`quota-${n}@globex.test`)).status);
        assert.deepEqual(statuses, [201, 409, 409], 'six members, one invited before, one now');
        await change(operator, { quota_users: null });
        await change(stranger, { email_domains: null });
    });
});

describe('users', () => {
    test('are listed, filtered, paged and read; operators of the platform do not show', async () => {
        const { body, headers } = await admin.get('/api/v1/users?email=editor@acme.test&count=true', { expect: 200 });
        assert.deepEqual(body.map(({ email, role, status }) => [email, role, status]), [['editor@acme.test', 'editor', 'active']]);
        assert.equal(headers.get('x-total-count'), '1');
        const sorted = (await admin.get('/api/v1/users?sort=email&limit=2', { expect: 200 }));
        assert.match(sorted.headers.get('link'), /rel="next"/);
        assert.doesNotMatch(JSON.stringify((await admin.get('/api/v1/users?limit=100', { expect: 200 })).body), /password|argon2|operator|role_id/);
        const one = await admin.get(`/api/v1/users/${body[0].id}`, { expect: 200 });
        assert.ok(one.headers.get('etag'));
    });

    test('another role holds for the next request', async () => {
        const guest = await join_as('viewer');
        await guest.client.get('/api/v1/users', { expect: 403 });
        const changed = await admin.patch(`/api/v1/users/${guest.id}`, { role: 'admin' }, { expect: 200 });
        assert.equal(changed.body.role, 'admin');
        await guest.client.get('/api/v1/users', { expect: 200 });
        await admin.patch(`/api/v1/users/${guest.id}`, { role: 'viewer' }, { expect: 200 });
        await guest.client.get('/api/v1/users', { expect: 403 });
    });

    test('a disabled member is out at once, in all sessions, and those stay dead when they are let in again', async () => {
        const guest = await join_as('member');
        await admin.patch(`/api/v1/users/${guest.id}`, { status: 'disabled' }, { expect: 200 });
        assert.equal((await guest.client.get('/api/v1/auth/me')).status, 401);
        const refresh = () => anyone.post('/api/v1/auth/refresh', { refresh_token: guest.client.tokens.refresh_token });
        assert.equal((await refresh()).status, 401);
        const wrong = await anyone.post('/api/v1/auth/token', { email: guest.email, password: 'not the right one' });
        const right = await anyone.post('/api/v1/auth/token', { email: guest.email, password: PASSWORD });
        assert.deepEqual({ ...right.body, request_id: '' }, { ...wrong.body, request_id: '' }, 'disabled and wrong are one answer');
        await admin.patch(`/api/v1/users/${guest.id}`, { status: 'active' }, { expect: 200 });
        assert.equal((await guest.client.get('/api/v1/auth/me')).status, 401);
        await anyone.login(guest.email, PASSWORD);
    });

    test('a removed member is out of this tenant, and the account stays', async () => {
        const guest = await join_as('member');
        await owner.del(`/api/v1/users/${guest.id}`, { expect: 204 });
        assert.equal((await guest.client.get('/api/v1/auth/me')).status, 401);
        await owner.get(`/api/v1/users/${guest.id}`, { expect: 404 });
        assert.equal((await anyone.post('/api/v1/auth/token', { email: guest.email, password: PASSWORD })).status, 401);
    });

    test('nobody changes themselves, admins do not touch owners, and a tenant keeps its last owner', async () => {
        const [ownerId, adminId] = [await idOf(owner), await idOf(admin)];
        assert.equal((await owner.patch(`/api/v1/users/${ownerId}`, { role: 'viewer' })).status, 409);
        assert.equal((await owner.del(`/api/v1/users/${ownerId}`)).status, 409);
        assert.equal((await admin.patch(`/api/v1/users/${adminId}`, { role: 'owner' })).status, 409);
        for (const body of [{ role: 'viewer' }, { status: 'disabled' }]) assert.equal((await admin.patch(`/api/v1/users/${ownerId}`, body)).status, 403);
        assert.equal((await admin.del(`/api/v1/users/${ownerId}`)).status, 403);
        const guest = await join_as('viewer');
        assert.equal((await admin.patch(`/api/v1/users/${guest.id}`, { role: 'owner' })).status, 403);
    });

    test('owners who let each other out at once do not leave the tenant without one', async () => {
        // The gate passes all of them while the writer is busy, so only a count within the transaction can tell. What stands first differs from round to round.
        for (const [n, how] of RIVALS.entries()) {
            const slug = `rivals-${n}`;
            const one = await weir.as('owner', slug);
            const email = `other@${slug}.test`;
            await one.post('/api/v1/users/invite', { email, role: 'owner' }, { expect: 201 });
            const [{ token }] = await weir.mail(email);
            const { user_id: otherId } = (await anyone.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 })).body;
            const [other, oneId] = [await anyone.login(email, PASSWORD), await idOf(one)];
            const act = (client, id) => (how === 'remove' ? client.del(`/api/v1/users/${id}`) : client.patch(`/api/v1/users/${id}`, how === 'demote' ? { role: 'viewer' } : { status: 'disabled' }));
            const load = Array.from({ length: 60 }, (_, i) => one.post('/api/v1/roles', { name: `busy-${i}`, permissions: ['no.such'] }));
            const answers = await Promise.all([act(one, otherId), act(other, oneId)]);
            await Promise.all(load);
            const owners = Number(weir.sql(`SELECT count(*) FROM memberships WHERE role = 'owner' AND status = 'active' AND tenant_id = (SELECT id FROM tenants WHERE slug = '${slug}')`));
            assert.equal(owners, 1, answers.map(({ status, body }) => `${status} ${body?.code}`).join());
        }
    });

    test('address, name, tenant and password are not an admin\'s to change', async () => {
        const id = await idOf(editor);
        for (const body of [{ email: 'x@example.test' }, { name: 'x' }, { tenant_id: 'x' }, { password: PASSWORD }, { id: 'x' }])
            errorAt(await owner.patch(`/api/v1/users/${id}`, body), `/${Object.keys(body)[0]}`);
        errorAt(await owner.patch(`/api/v1/users/${id}`, { role: 'operator' }), '/role');
    });

    test('a lost update is 412', async () => {
        const guest = await join_as('viewer');
        const { headers } = await admin.get(`/api/v1/users/${guest.id}`);
        await admin.patch(`/api/v1/users/${guest.id}`, { role: 'member' }, { expect: 200 });
        await admin.with({ 'if-match': headers.get('etag') }).patch(`/api/v1/users/${guest.id}`, { role: 'editor' }, { expect: 412 });
    });
});

describe('roles', () => {
    test('the built-in ones are listed first, with what they allow', async () => {
        const { body } = await admin.get('/api/v1/roles', { expect: 200 });
        assert.deepEqual(body.slice(0, 5).map(({ name, built_in }) => [name, built_in]), ['owner', 'admin', 'editor', 'member', 'viewer'].map((name) => [name, true]));
        assert.ok(body[2].permissions.includes('workflows.write'));
        assert.ok(!body[4].permissions.includes('workflows.write'));
    });

    test('a role of one\'s own allows what it lists and nothing else, from the next request on', async () => {
        const { body: role } = await admin.post('/api/v1/roles', { name: 'support', permissions: ['workflows.read'] }, { expect: 201 });
        const guest = await join_as('support', admin);
        const mine = await me(guest.client);
        assert.deepEqual([mine.role, mine.permissions], ['support', ['workflows.read']]);
        await guest.client.get('/api/v1/workflows', { expect: 200 });
        const create = () => guest.client.post('/api/v1/workflows', { name: 'x', definition: { steps: [transform('t')] } });
        assert.equal((await create()).status, 403);
        await admin.patch(`/api/v1/roles/${role.id}`, { permissions: ['workflows.read', 'workflows.write'] }, { expect: 200 });
        assert.equal((await create()).status, 201);
        await admin.patch(`/api/v1/roles/${role.id}`, { permissions: [] }, { expect: 200 });
        await guest.client.get('/api/v1/workflows', { expect: 403 });
        await guest.client.get('/api/v1/auth/me', { expect: 200 });
        assert.equal((await admin.del(`/api/v1/roles/${role.id}`)).status, 409, 'somebody has it');
        await admin.patch(`/api/v1/users/${guest.id}`, { role: 'viewer' }, { expect: 200 });
        await admin.del(`/api/v1/roles/${role.id}`, { expect: 204 });
    });

    test('it holds only what its maker may, and no name twice', async () => {
        errorAt(await admin.post('/api/v1/roles', { name: 'above', permissions: ['workflows.read', 'tenants.write'] }), '/permissions/1');
        errorAt(await admin.post('/api/v1/roles', { name: 'platform', permissions: ['tenants.manage'] }), '/permissions/0');
        errorAt(await admin.post('/api/v1/roles', { name: 'nothing', permissions: ['no.such'] }), '/permissions/0');
        errorAt(await admin.post('/api/v1/roles', { name: 'owner', permissions: [] }), '/name');
        errorAt(await admin.post('/api/v1/roles', { name: 'operator', permissions: [] }), '/name');
        await admin.post('/api/v1/roles', { name: 'once', permissions: [] }, { expect: 201 });
        assert.equal((await admin.post('/api/v1/roles', { name: 'once', permissions: [] })).body.code, 'roles.name_taken');
        const { body: other } = await admin.post('/api/v1/roles', { name: 'twice', permissions: [] }, { expect: 201 });
        assert.equal((await admin.patch(`/api/v1/roles/${other.id}`, { name: 'once' })).body.code, 'roles.name_taken');
    });

    test('an admin neither changes nor gives a role of an owner\'s making that allows more', async () => {
        const { body: role } = await owner.post('/api/v1/roles', { name: 'deputy', permissions: ['tenants.write', 'users.read', 'users.write'] }, { expect: 201 });
        errorAt(await admin.patch(`/api/v1/roles/${role.id}`, { description: 'mine now' }), '/permissions/0');
        assert.equal((await admin.post('/api/v1/users/invite', { email: 'deputy@example.test', role: 'deputy' })).status, 403);
        const deputy = await join_as('deputy', owner);
        assert.equal((await deputy.client.post('/api/v1/users/invite', { email: 'deputy-2@example.test', role: 'viewer' })).status, 403, 'viewers read workflows, deputies do not');
    });

    test('a role of another tenant is none', async () => {
        const stranger = await weir.as('owner', 'globex');
        await stranger.post('/api/v1/roles', { name: 'theirs', permissions: [] }, { expect: 201 });
        errorAt(await owner.post('/api/v1/users/invite', { email: 'theirs@example.test', role: 'theirs' }), '/role');
    });

    test('at most 50', async () => {
        const stranger = await weir.as('owner', 'globex');
        const made = (await stranger.get('/api/v1/roles', { expect: 200 })).body.length - 5;
        for (let n = made; n < 50; n++) await stranger.post('/api/v1/roles', { name: `r-${n}`, permissions: [] }, { expect: 201 });
        assert.equal((await stranger.post('/api/v1/roles', { name: 'r-51', permissions: [] })).status, 409);
        assert.equal((await stranger.get('/api/v1/roles', { expect: 200 })).body.length, 55);
    });
});

describe('tenants', () => {
    const make = async (slug, more = {}) => (await operator.post('/api/v1/tenants', { slug, name: slug, ...more }, { expect: 201 })).body;

    test('an operator makes one; its owner is invited, and nobody else ever chose their password', async () => {
        await make('initech', { plan: 'team', owner_email: 'bill@initech.test' });
        const [mail] = await weir.mail('bill@initech.test');
        await anyone.post('/api/v1/auth/invite/accept', { token: mail.token, password: PASSWORD, name: 'Bill' }, { expect: 200 });
        const bill = await me(await anyone.login('bill@initech.test', PASSWORD));
        assert.deepEqual([bill.role, bill.tenant.slug, bill.tenant.plan], ['owner', 'initech', 'team']);
        assert.equal((await operator.post('/api/v1/tenants', { slug: 'initech', name: 'again' })).status, 409);
    });

    test('an operator sees tenants and the state of the server, and nothing of what tenants own', async () => {
        const { body } = await operator.get('/api/v1/tenants?sort=name&limit=100', { expect: 200 });
        assert.ok(['acme', 'globex', 'platform'].every((slug) => body.some((tenant) => tenant.slug === slug)));
        for (const path of ['workflows', 'users', 'roles']) await operator.get(`/api/v1/${path}`, { expect: 403 });
        assert.deepEqual((await me(operator)).permissions.filter((name) => !/^(tenants|health)\./.test(name)), []);
    });

    test('owners change their own settings, but not plan, slug or quota; admins read them; others see nothing', async () => {
        const { tenant } = await me(owner);
        const path = `/api/v1/tenants/${tenant.id}`;
        assert.equal((await owner.patch(path, { session_idle_minutes: 45 }, { expect: 200 })).body.session_idle_minutes, 45);
        assert.equal((await admin.get(path, { expect: 200 })).body.session_idle_minutes, 45);
        for (const body of [{ plan: 'enterprise' }, { slug: 'better' }, { quota_users: 5 }]) errorAt(await owner.patch(path, body), `/${Object.keys(body)[0]}`);
        for (const body of [{ status: 'active' }, { id: 'x' }, { session_idle_minutes: 4 }, { session_idle_minutes: 1441 }]) errorAt(await operator.patch(path, body), `/${Object.keys(body)[0]}`);
        await (await weir.as('owner', 'globex')).get(path, { expect: 404 });
        await owner.get('/api/v1/tenants', { expect: 403 });
        await operator.patch(path, { plan: 'team' }, { expect: 200 });
    });

    test('suspending stops tokens, refreshing, logins and webhooks at once; resuming brings them back', async () => {
        const { tenant } = await me(owner);
        const { id } = await createWorkflow(editor, { steps: [transform('t', { ok: true })] });
        const { webhook_url } = await createTrigger(editor, id, {});
        await anyone.post(webhook_url, {}, { expect: 200 });
        await operator.post(`/api/v1/tenants/${tenant.id}/suspend`, undefined, { expect: 200 });
        assert.equal((await owner.get('/api/v1/auth/me')).status, 401);
        assert.equal((await anyone.post('/api/v1/auth/refresh', { refresh_token: owner.tokens.refresh_token })).status, 401);
        assert.equal((await anyone.post('/api/v1/auth/token', { email: 'owner@acme.test', password: PASSWORD })).status, 401);
        assert.equal((await anyone.post(webhook_url, {})).status, 404);
        await operator.post(`/api/v1/tenants/${tenant.id}/suspend`, undefined, { expect: 200 });
        await operator.post(`/api/v1/tenants/${tenant.id}/resume`, undefined, { expect: 200 });
        assert.equal((await owner.get('/api/v1/auth/me')).status, 200);
        await anyone.post(webhook_url, {}, { expect: 200 });
    });

    test('only a suspended one is deleted, never the operator\'s own; its slug is not given again', async () => {
        const { id } = await make('doomed');
        assert.equal((await operator.del(`/api/v1/tenants/${id}`)).status, 409);
        await operator.post(`/api/v1/tenants/${id}/suspend`, undefined, { expect: 200 });
        await operator.del(`/api/v1/tenants/${id}`, { expect: 204 });
        await operator.get(`/api/v1/tenants/${id}`, { expect: 404 });
        await operator.post(`/api/v1/tenants/${id}/resume`, undefined, { expect: 404 });
        assert.equal((await operator.post('/api/v1/tenants', { slug: 'doomed', name: 'x' })).body.code, 'tenants.slug_taken');
        const other = await make('undoomed');
        assert.equal((await operator.patch(`/api/v1/tenants/${other.id}`, { slug: 'doomed' })).body.code, 'tenants.slug_taken');
        const { tenant } = await me(operator);
        for (const call of [operator.post(`/api/v1/tenants/${tenant.id}/suspend`), operator.del(`/api/v1/tenants/${tenant.id}`)]) assert.equal((await call).status, 409);
    });
});
