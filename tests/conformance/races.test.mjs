// What must hold when many change a tenant at once, on two nodes with one database: handlers are written as if there were one writer (count, then insert), and whoever
// is in no tenant yet changes one too. Every round mixes both nodes.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createWorkflow, finalExecution, http, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { PASSWORD, Weir, stopAll } from '../lib/server.mjs';
import { elapse, until } from '../lib/wait.mjs';

const ROUND = 24;
let one, two, owners, operator, tenant, upstream;
before(async () => {
    upstream = await Upstream.start((path) => ({ hold: true, status: path === '/parent' ? 500 : 200 }));
    one = await Weir.start({ operator: true, env: { WEIR_EGRESS_ALLOW: upstream.host } });
    two = await one.node();
    owners = [await one.as('owner'), await two.as('owner')];
    operator = await one.as('operator', 'platform');
    tenant = (await owners[0].get('/api/v1/auth/me', { expect: 200 })).body.tenant.id;
});
after(() => stopAll(two, one, upstream));

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

    test('a parent and its child that end at once do not wait for each other: rows are locked from the parent to the child', async () => {
        const editor = await one.as('editor');
        const deadlocks = () => one.sql('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()');
        const child = await createWorkflow(editor, { steps: [http('slow', `${upstream.base}/child`)] });
        const parent = await createWorkflow(editor, { steps: [{ id: 'c', type: 'workflow', with: { workflow_id: child.id } }, http('fails', `${upstream.base}/parent`, { retry: { max_attempts: 1 } })] });
        const id = (await editor.post(`/api/v1/workflows/${parent.id}/execute?wait=0`, { input_data: {} }, { expect: 202 })).body.execution_id;
        await elapse(1100);
        const before = deadlocks();
        await until('both are under way', () => upstream.count('/child') === 1 && upstream.count('/parent') === 1);
        const lock = await one.postgres.hold(`BEGIN; SELECT 1 FROM executions WHERE id = '${id}' FOR UPDATE`, one.postgres.admin(one.database));
        const waiting = (n) => until(`${n} wait`, () => Number(one.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")) === n);
        upstream.release('/parent');
        await waiting(1);
        upstream.release('/child');
        await waiting(2);
        await lock.release();
        assert.equal((await finalExecution(editor, id)).status, 'failed');
        const [{ execution_id: below }] = (await editor.get(`/api/v1/workflows/${child.id}/executions`, { expect: 200 })).body;
        await finalExecution(editor, below);
        await elapse(1100); // PostgreSQL tells its counts once a second at the most
        assert.equal(deadlocks(), before);
    });

    test('nothing of it was refused as overloaded, and every audit chain is whole', () => {
        for (const weir of [one, two]) assert.deepEqual(weir.log().filter(({ event, level }) => event === 'db.failed' || level === 'error'), []);
        one.tool('audit', 'verify');
    });
});
