// Concurrency limits: who may run, who waits, who is refused. The engine's own tests say how; these say what a client sees.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTrigger, createWorkflow, finalExecution, getExecution, http, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, editor, upstream;
before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(() => stopAll(upstream, weir));

const limited = (concurrency, step = http('h', `${upstream.base}/hold`)) => ({ steps: [step], settings: { concurrency } });
const begin = async (id, input = {}, client = editor) =>
    (await client.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: input }, { expect: 202 })).body.execution_id;
const cancel = (id) => editor.post(`/api/v1/executions/${id}/cancel`, undefined, { type: null });
const status = async (id) => (await getExecution(editor, id)).status;
const under_way = (n) => until(`${n} calls`, () => upstream.calls.length >= n);

describe('a queue', () => {
    test('one runs, the next wait as queued, in order; a caller who waits long enough gets 202; a cancelled one is gone at once', async () => {
        upstream.calls.length = 0;
        const { id } = await createWorkflow(editor, limited({ limit: 1 }));
        const first = await begin(id);
        await under_way(1);
        const second = await begin(id);
        const third = await begin(id);
        const waited = await editor.post(`/api/v1/workflows/${id}/execute?wait=1`, { input_data: {} }, { expect: 202 });
        assert.equal(waited.body.status, 'queued');
        assert.equal(waited.headers.get('location'), `/api/v1/executions/${waited.body.execution_id}`);
        assert.deepEqual(await Promise.all([second, third].map(status)), ['queued', 'queued']);
        await cancel(second);
        assert.equal((await finalExecution(editor, second)).status, 'cancelled');
        await cancel(first);
        await under_way(2);
        await until('the third runs', async () => (await status(third)) === 'running');
        assert.equal(await status(waited.body.execution_id), 'queued');
        await cancel(third);
        await cancel(waited.body.execution_id);
        for (const one of [third, waited.body.execution_id]) await finalExecution(editor, one);
    });

    test('a key has a queue for each of its values', async () => {
        upstream.calls.length = 0;
        const { id } = await createWorkflow(editor, limited({ limit: 1, key: '{{ input.customer }}' }));
        const [a, b, again] = [await begin(id, { customer: 'a' }), await begin(id, { customer: 'b' }), await begin(id, { customer: 'a' })];
        await under_way(2);
        assert.deepEqual(await Promise.all([a, b, again].map(status)), ['running', 'running', 'queued']);
        for (const one of [again, a, b]) {
            await cancel(one);
            await finalExecution(editor, one);
        }
    });

    test('a time-out counts from the beginning, the queue included', async () => {
        upstream.calls.length = 0;
        const { id } = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 600000 } }], settings: { timeout_ms: 500, concurrency: { limit: 1 } } });
        const [first, second] = [await begin(id), await begin(id)];
        assert.deepEqual([(await finalExecution(editor, first)).status, (await finalExecution(editor, second)).status], ['timed_out', 'timed_out']);
    });

    test('a repeat with the same Idempotency-Key joins the one that is queued', async () => {
        upstream.calls.length = 0;
        const { id } = await createWorkflow(editor, limited({ limit: 1 }));
        const first = await begin(id);
        await under_way(1);
        const ask = () => editor.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { headers: { 'idempotency-key': `queued-${id}` }, expect: 202 });
        const [one, two] = [await ask(), await ask()];
        assert.equal(one.body.execution_id, two.body.execution_id);
        assert.equal(two.headers.get('idempotent-replayed'), 'true');
        for (const execution of [one.body.execution_id, first]) {
            await cancel(execution);
            await finalExecution(editor, execution);
        }
    });
});

test('reject: 429 executions.concurrency_limit with Retry-After, for webhooks too; nothing is recorded', async () => {
    upstream.calls.length = 0;
    const { id } = await createWorkflow(editor, limited({ limit: 1, policy: 'reject' }));
    const { webhook_url } = await createTrigger(editor, id);
    const first = await begin(id);
    await under_way(1);
    for (const send of [() => editor.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }), () => weir.anonymous().post(webhook_url, {})]) {
        const refused = await send();
        assert.deepEqual([refused.status, refused.body.code], [429, 'executions.concurrency_limit']);
        assert.ok(Number(refused.headers.get('retry-after')) > 0);
    }
    assert.equal((await editor.get(`/api/v1/workflows/${id}/executions`)).body.length, 1);
    await cancel(first);
    await finalExecution(editor, first);
    await cancel(await begin(id));
});

test('replace: the newest runs, the one before is cancelled', async () => {
    upstream.calls.length = 0;
    const { id } = await createWorkflow(editor, limited({ limit: 1, policy: 'replace' }));
    const first = await begin(id);
    await under_way(1);
    const second = await begin(id);
    assert.equal((await finalExecution(editor, first)).status, 'cancelled');
    await under_way(2);
    await cancel(second);
});

test('what is wrong with a limit is said where it stands', async () => {
    const wrong = [
        [{}, '/definition/settings/concurrency/limit', 'field.required'],
        [{ limit: 0 }, '/definition/settings/concurrency/limit', 'field.range'],
        [{ limit: 1001 }, '/definition/settings/concurrency/limit', 'field.range'],
        [{ limit: 1, key: '' }, '/definition/settings/concurrency/key', 'field.length'],
        [{ limit: 1, key: '{{ 1 + }}' }, '/definition/settings/concurrency/key', 'expr.syntax'],
        [{ limit: 1, policy: 'drop' }, '/definition/settings/concurrency/policy', 'field.one_of'],
    ];
    for (const [concurrency, pointer, code] of wrong) {
        const { body } = await editor.post('/api/v1/workflows/validate', { definition: { steps: [transform('t')], settings: { concurrency } } }, { expect: 200 });
        assert.deepEqual(body.errors.map((e) => [e.pointer, e.code]), [[pointer, code]]);
    }
    for (const limit of [1, 1000])
        assert.equal((await editor.post('/api/v1/workflows/validate', { definition: { steps: [transform('t')], settings: { concurrency: { limit } } } })).body.valid, true);
});

test('a tenant with a long queue does not delay another', async () => {
    const crowded = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host, WEIR_TENANT_CONCURRENCY: '2' } });
    try {
        upstream.calls.length = 0;
        const busy = await crowded.as('editor');
        const other = await crowded.as('editor', 'globex');
        const { id } = await createWorkflow(busy, { steps: [http('h', `${upstream.base}/hold`)] });
        const waiting = [];
        for (let i = 0; i < 60; i++) waiting.push(await begin(id, {}, busy));
        await under_way(2);
        const { id: theirs } = await createWorkflow(other, { steps: [http('h', `${upstream.base}/fine`)] });
        assert.equal((await other.post(`/api/v1/workflows/${theirs}/execute`, { input_data: {} }, { expect: 200 })).body.status, 'completed');
        const found = await Promise.all(waiting.map(async (one) => (await getExecution(busy, one)).status));
        assert.deepEqual([found.filter((s) => s === 'running').length, found.filter((s) => s === 'queued').length], [2, 58]);
    } finally {
        await crowded.stop();
    }
});
