// Quotas of a tenant: executions in a day. (How many users it may have: members.test.mjs.)

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chain, createTrigger, createWorkflow, execute, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, operator, editor, workflow, acme, globex;
before(async () => {
    weir = await Weir.start({ operator: true });
    operator = await weir.as('operator', 'platform');
    editor = await weir.as('editor');
    workflow = await createWorkflow(editor, chain(transform('a', { x: 1 })));
    [acme, globex] = await Promise.all(['acme', 'globex'].map(async (slug) => (await operator.get(`/api/v1/tenants?slug=${slug}`, { expect: 200 })).body[0].id));
});
after(() => weir?.stop());

const limit = (quota_executions, id = acme) => operator.patch(`/api/v1/tenants/${id}`, { quota_executions }, { expect: 200 });
const run = (options) => editor.post(`/api/v1/workflows/${workflow.id}/execute`, { input_data: {} }, options);
const count = () => Number(weir.sql(`SELECT coalesce(sum(n), 0) FROM execution_days WHERE tenant_id = '${acme}'`));
const counted = (n) => until(`${n} are written down`, () => count() === n);

describe('executions in a day', () => {
    test('without a quota nothing is counted', async () => {
        assert.equal((await run()).status, 200);
        assert.equal(count(), 0);
    });

    test('as many as it says, then 429 with the time until midnight (UTC); other tenants do not notice', async () => {
        const theirs = await createWorkflow(await weir.as('editor', 'globex'), chain(transform('a', { x: 1 })));
        await limit(3);
        for (let i = 0; i < 3; i++) assert.equal((await run()).status, 200);
        const { status, body, headers } = await run();
        assert.deepEqual([status, body.code], [429, 'executions.quota']);
        assert.match(body.detail, /3 a day/);
        const midnight = 86_400 - (Date.now() / 1000 % 86_400);
        assert.ok(Math.abs(Number(headers.get('retry-after')) - midnight) < 60 || midnight < 60);
        await execute(await weir.as('editor', 'globex'), theirs.id, {});
    });

    test('a webhook counts and is refused alike', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, {});
        const { status, body } = await weir.anonymous().post(webhook_url, {});
        assert.deepEqual([status, body.code], [429, 'executions.quota']);
        await limit(4);
        assert.equal((await weir.anonymous().post(webhook_url, {}, { raw: true })).status, 200);
        assert.equal((await weir.anonymous().post(webhook_url, {})).status, 429);
    });

    test('a repeat with the same key is no further one, and is answered when there is room for none', async () => {
        await limit(5);
        const once = { headers: { 'idempotency-key': 'the-one' } };
        const first = await run(once);
        assert.equal(first.status, 200);
        const again = await run(once);
        assert.deepEqual([again.status, again.body.execution_id], [200, first.body.execution_id]);
        assert.equal((await run({ headers: { 'idempotency-key': 'another' } })).body.code, 'executions.quota');
        await limit(6);
        assert.equal((await run(once)).body.execution_id, first.body.execution_id);
        assert.equal((await run()).status, 200);
        assert.equal((await run()).status, 429);
    });

    test('what does not begin counts nothing', async () => {
        await limit(7);
        await counted(6);
        assert.equal((await editor.post('/api/v1/workflows/workflow_01h455vb4pex5vsknk084sn02q/execute', {})).status, 404);
        assert.equal((await run({ headers: { 'idempotency-key': '' } })).status, 422);
        const one = await createWorkflow(editor, { settings: { concurrency: { limit: 1, policy: 'reject' } }, steps: [{ id: 'd', type: 'delay', with: { ms: 600_000 } }] });
        const begin = () => editor.post(`/api/v1/workflows/${one.id}/execute?wait=0`, {});
        const { body } = await begin();
        await limit(8);
        assert.equal((await begin()).body.code, 'executions.concurrency_limit');
        await counted(7);
        assert.equal((await run()).status, 200);
        await editor.post(`/api/v1/executions/${body.execution_id}/cancel`, undefined, { expect: 202 });
    });

    test('replaying counts, and so does retrying', async () => {
        const [{ execution_id }] = (await editor.get(`/api/v1/workflows/${workflow.id}/executions?limit=1`, { expect: 200 })).body;
        const { body } = await editor.post(`/api/v1/executions/${execution_id}/replay`, {});
        assert.equal(body.code, 'executions.quota');
        await limit(9);
        assert.equal((await editor.post(`/api/v1/executions/${execution_id}/replay`, {})).status, 200);
    });

    test('fifty at once: exactly as many as there is room for', async () => {
        await limit(20);
        const answers = await Promise.all(Array.from({ length: 50 }, () => run()));
        assert.equal(answers.filter(({ status }) => status === 200).length, 11);
        assert.ok(answers.every(({ status, body }) => status === 200 || body.code === 'executions.quota'));
    });

    test('it is a row: a restart forgives nothing, and a power cut what was admitted in its last second', async () => {
        await counted(20);
        await weir.kill();
        await weir.serve();
        assert.equal((await run()).status, 429);
        await limit(21);
        assert.equal((await run()).status, 200);
        await weir.terminate(); // writes what was not written yet
        assert.equal(count(), 21);
        await weir.serve();
        assert.equal((await run()).status, 429);
    });

    test('the next day begins anew', async () => {
        await weir.terminate();
        weir.sql('UPDATE execution_days SET day = day - 1');
        await weir.serve();
        assert.equal((await run()).status, 200);
    });

    test('only an operator sets it; null is any number', async () => {
        const owner = await weir.as('owner');
        const { status, body } = await owner.patch(`/api/v1/tenants/${acme}`, { quota_executions: 1000, quota_storage_bytes: 1, quota_credits: 1 });
        assert.equal(status, 422);
        assert.deepEqual(body.errors.map(({ pointer, code }) => [pointer, code]), ['quota_executions', 'quota_storage_bytes', 'quota_credits'].map((name) => [`/${name}`, 'tenants.operator_only']));
        assert.equal((await operator.patch(`/api/v1/tenants/${acme}`, { quota_executions: 0 })).status, 422);
        const changed = (await operator.patch(`/api/v1/tenants/${acme}`, { quota_executions: null, quota_storage_bytes: 1024, quota_credits: 5 }, { expect: 200 })).body;
        assert.deepEqual([changed.quota_executions, changed.quota_storage_bytes, changed.quota_credits], [null, 1024, 5]);
        for (let i = 0; i < 3; i++) assert.equal((await run()).status, 200);
        const made = (await operator.post('/api/v1/tenants', { slug: 'small', name: 'Small', quota_users: 2, quota_executions: 10, quota_storage_bytes: 1, quota_credits: 2 }, { expect: 201 })).body;
        assert.deepEqual([made.quota_users, made.quota_executions, made.quota_storage_bytes, made.quota_credits], [2, 10, 1, 2]);
        assert.ok(globex);
    });
});
