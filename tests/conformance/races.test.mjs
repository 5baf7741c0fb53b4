// What must hold when many change a tenant at once, on two nodes with one database: handlers are written as if there were one writer (count, then insert), and whoever
// is in no tenant yet changes one too. Every round mixes both nodes.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { transform } from '../lib/flows.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';

const ROUND = 24;
let one, two, owners, operator, tenant;
before(async () => {
    one = await Weir.start({ operator: true });
    two = await one.node();
    owners = [await one.as('owner'), await two.as('owner')];
    operator = await one.as('operator', 'platform');
    tenant = (await owners[0].get('/api/v1/auth/me', { expect: 200 })).body.tenant.id;
});
after(async () => {
    await two?.stop();
    await one?.stop();
});

const race = (count, ask) => Promise.all(Array.from({ length: count }, (_, n) => ask(n, n % 2)));
const tally = (answers) => Object.fromEntries([...new Set(answers.map(({ status }) => status))].sort().map((status) => [status, answers.filter((answer) => answer.status === status).length]));
const quota = (users) => operator.patch(`/api/v1/tenants/${tenant}`, { quota_users: users }, { expect: 200 });
const total = async (path) => Number((await owners[0].get(`${path}?count=true&limit=1`, { expect: 200 })).headers.get('x-total-count'));
const people = async () => (await total('/api/v1/users')) + (await total('/api/v1/invitations'));
const invite = (email, node) => owners[node].post('/api/v1/users/invite', { email, role: 'viewer' }, { expect: [201, 409] });
/** Either node may have sent the letter. */
const tokenOf = async (email) => (await Promise.any([one, two].map((node) => node.mail(email))))[0].token;

describe('at once, on two nodes', () => {
    test('as many are invited as there is room for', async () => {
        await quota((await people()) + 3);
        const answers = await race(ROUND, (n, node) => invite(`room-${n}@acme.test`, node));
        assert.deepEqual(tally(answers), { 201: 3, 409: ROUND - 3 });
        assert.ok(answers.every(({ status, body }) => status === 201 || body.code === 'users.quota'));
    });

    test('an invitation that is accepted meanwhile takes no room twice and frees none', async () => {
        const guests = Array.from({ length: 6 }, (_, n) => `guest-${n}@acme.test`);
        const most = (await people()) + guests.length;
        await quota(most);
        for (const [n, email] of guests.entries()) assert.equal((await invite(email, n % 2)).status, 201);
        const tokens = await Promise.all(guests.map(tokenOf));
        const accept = (n, node) => [one, two][node].anonymous().post('/api/v1/auth/invite/accept', { token: tokens[n], password: PASSWORD }, { expect: 200 });
        const [, invited] = await Promise.all([race(guests.length, accept), race(ROUND, (n, node) => invite(`late-${n}@acme.test`, node))]);
        assert.deepEqual(tally(invited), { 409: ROUND });
        assert.equal(await people(), most);
    });

    test('when the room has shrunk meanwhile, so many are let in and the others told', async () => {
        await quota(null);
        const guests = Array.from({ length: 8 }, (_, n) => `many-${n}@acme.test`);
        for (const [n, email] of guests.entries()) assert.equal((await invite(email, n % 2)).status, 201);
        const tokens = await Promise.all(guests.map(tokenOf));
        await quota((await total('/api/v1/users')) + 3);
        const answers = await race(guests.length, (n, node) => [one, two][node].anonymous().post('/api/v1/auth/invite/accept', { token: tokens[n], password: PASSWORD }, { expect: [200, 409] }));
        assert.deepEqual(tally(answers), { 200: 3, 409: 5 });
        assert.ok(answers.every(({ status, body }) => status === 200 || body.code === 'auth.invite_full'));
        await quota(null);
    });

    test('of two owners who remove each other one stays', async () => {
        const email = 'second@globex.test';
        const first = await one.as('owner', 'globex');
        await first.post('/api/v1/users/invite', { email, role: 'owner' }, { expect: 201 });
        await one.anonymous().post('/api/v1/auth/invite/accept', { token: await tokenOf(email), password: PASSWORD }, { expect: 200 });
        const second = await two.anonymous().login(email, PASSWORD);
        const [a, b] = await Promise.all([first, second].map(async (client) => (await client.get('/api/v1/auth/me', { expect: 200 })).body.user.id));
        await Promise.all([first.del(`/api/v1/users/${b}`), second.del(`/api/v1/users/${a}`)]);
        assert.equal(one.sql(`SELECT count(*) FROM memberships WHERE user_id IN ('${a}', '${b}') AND role = 'owner'`), '1');
    });

    test('one of many roles of one name is made', async () => {
        const answers = await race(ROUND, (n, node) => owners[node].post('/api/v1/roles', { name: 'reviewer', permissions: ['workflows.read'] }, { expect: [201, 409] }));
        assert.deepEqual(tally(answers), { 201: 1, 409: ROUND - 1 });
        assert.ok(answers.every(({ status, body }) => status === 201 || body.code === 'roles.name_taken'));
    });

    test('one of many requests with one Idempotency-Key is carried out', async () => {
        const before = await total('/api/v1/workflows');
        const body = { name: 'once', definition: { steps: [transform('t', { n: 1 })] } };
        await race(ROUND, (n, node) => owners[node].post('/api/v1/workflows', body, { headers: { 'idempotency-key': 'once-on-two' }, expect: [201, 409] }));
        assert.equal(await total('/api/v1/workflows'), before + 1);
    });

    test('of changes that name one ETag one wins', async () => {
        const { body } = await owners[0].post('/api/v1/workflows', { name: 'tag', definition: { steps: [transform('t', { n: 1 })] } }, { expect: 201 });
        const { headers } = await owners[0].get(`/api/v1/workflows/${body.id}`, { expect: 200 });
        const answers = await race(ROUND, (n, node) => owners[node].patch(`/api/v1/workflows/${body.id}`, { name: `n${n}` }, { headers: { 'if-match': headers.get('etag') }, expect: [200, 412] }));
        assert.deepEqual(tally(answers), { 200: 1, 412: ROUND - 1 });
    });

    test('nothing of it was refused as overloaded, and every audit chain is whole', () => {
        for (const weir of [one, two]) assert.deepEqual(weir.log().filter(({ event, level }) => event === 'db.failed' || level === 'error'), []);
        one.tool('audit', 'verify');
    });
});
