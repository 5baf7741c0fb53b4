// Dead letters: what failed for good waits here until somebody retries or discards it, each once.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { chain, createWorkflow, execute, finalExecution, getExecution, http, statuses, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';

let weir, editor, upstream, broken;
before(async () => {
    upstream = await Upstream.start((path) => ({ status: path.startsWith('/broken') && broken ? 503 : 200 }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(() => stopAll(upstream, weir));
beforeEach(async () => {
    broken = true;
    upstream.calls.length = 0;
    await editor.post('/api/v1/dead-letters/discard', { since: '2000-01-01T00:00:00Z' }, { expect: 200 });
});

const retried = { retry: { max_attempts: 2, initial_ms: 1, max_ms: 1 } };
const definition = () => chain(http('fine', `${upstream.base}/fine`), http('b', `${upstream.base}/broken`, retried), transform('t', { done: true }));
const letters = async (query = '', client = editor) => (await client.get(`/api/v1/dead-letters${query}`, { expect: 200 })).body;
const decide = (verb, choice, expect = 200, client = editor, headers = {}) => client.post(`/api/v1/dead-letters/${verb}`, choice, { expect, headers });

/** A workflow and `n` dead letters of it. */
async function fail(n = 1, more = {}) {
    const { id } = await createWorkflow(editor, { ...definition(), ...more });
    const failed = [];
    for (let i = 0; i < n; i++) failed.push((await execute(editor, id, { i })).execution_id);
    return { id, failed };
}

test('an execution that used up its retries is one; what failed without a retry policy, was cancelled, or completed is none', async () => {
    const { id, failed } = await fail();
    const { id: plain } = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/broken`)] });
    await execute(editor, plain);
    const { id: other } = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/broken`, { ...retried, on_error: 'continue' })] });
    assert.equal((await execute(editor, other)).status, 'completed');
    const [letter, ...rest] = await letters();
    assert.deepEqual(rest, []);
    assert.deepEqual(
        [letter.execution_id, letter.workflow_id, letter.version, letter.error_code, letter.error.step_id, letter.input_data],
        [failed[0], id, 1, 'http.status', 'b', { i: 0 }],
    );
    assert.equal(letter.dead_at, (await getExecution(editor, failed[0])).completed_at);
});

test('a child that its parent waited for is none: its parent is', async () => {
    const { id } = await createWorkflow(editor, definition());
    const parent = await createWorkflow(editor, { steps: [{ id: 'w', type: 'workflow', with: { workflow_id: id }, ...retried }] });
    const { execution_id } = await execute(editor, parent.id);
    assert.deepEqual((await letters()).map((l) => [l.execution_id, l.error_code]), [[execution_id, 'workflow.child_failed']]);
});

describe('the list', () => {
    test('filters by workflow, code and time; pages; counts', async () => {
        const { id, failed } = await fail(3);
        const { failed: others } = await fail(1);
        const at = (await letters(`?workflow_id=${id}`)).at(-1).dead_at;
        assert.deepEqual((await letters()).map((l) => l.execution_id), [...others, ...failed.toReversed()]);
        assert.deepEqual((await letters(`?workflow_id=${id}`)).map((l) => l.execution_id), failed.toReversed());
        assert.equal((await letters('?error_code=http.status')).length, 4);
        assert.equal((await letters('?error_code=engine.crashed')).length, 0);
        assert.equal((await letters(`?since=${at}`)).length, 4);
        assert.equal((await letters(`?until=${at}`)).length, 0);
        const first = await editor.get('/api/v1/dead-letters?limit=3&count=true', { expect: 200 });
        assert.equal(first.headers.get('x-total-count'), '4');
        const next = /<(.*)>/.exec(first.headers.get('link'))[1];
        assert.deepEqual((await editor.get(next, { expect: 200 })).body.map((l) => l.execution_id), [failed[0]]);
    });
});

describe('retry', () => {
    test('by id: a new linked execution from the failed step; the letter is gone, the execution stays', async () => {
        const { failed } = await fail();
        broken = false;
        const { body } = await decide('retry', { ids: failed });
        assert.deepEqual([body.retried, body.skipped, body.remaining, body.execution_ids.length], [1, 0, false, 1]);
        const done = await finalExecution(editor, body.execution_ids[0]);
        assert.deepEqual([done.status, done.parent_id, done.input_data], ['completed', failed[0], { i: 0 }]);
        assert.deepEqual(statuses(done), { fine: 'completed', b: 'completed', t: 'completed' });
        assert.equal(done.trigger.replay.execution_id, failed[0]);
        assert.equal(upstream.count('/fine'), 1, 'what had completed did not run again');
        assert.deepEqual(await letters(), []);
        assert.equal((await getExecution(editor, failed[0])).status, 'failed');
    });

    test('each once: a second call, or one beside it, skips it; a retry that fails again is a new letter', async () => {
        const { failed } = await fail();
        const both = await Promise.all([decide('retry', { ids: failed }), decide('retry', { ids: failed })]);
        assert.deepEqual(both.map(({ body }) => body.retried).sort(), [0, 1]);
        assert.deepEqual(both.map(({ body }) => body.skipped).sort(), [0, 1]);
        const again = both.flatMap(({ body }) => body.execution_ids)[0];
        await finalExecution(editor, again);
        assert.deepEqual((await letters()).map((l) => l.execution_id), [again]);
    });

    test('by filter, 100 at most in a call, which says that more remain', async () => {
        const { id, failed } = await fail(1);
        const many = await Promise.all(Array.from({ length: 101 }, (_, i) => execute(editor, id, { i })));
        assert.equal(many.length + failed.length, 102);
        for (const { execution_id } of many) await finalExecution(editor, execution_id);
        broken = false;
        const first = (await decide('retry', { workflow_id: id, error_code: 'http.status' })).body;
        const second = (await decide('retry', { workflow_id: id, error_code: 'http.status' })).body;
        assert.deepEqual([first.retried, first.remaining, second.retried, second.remaining], [100, true, 2, false]);
        for (const execution of [...first.execution_ids, ...second.execution_ids]) assert.equal((await finalExecution(editor, execution)).status, 'completed');
        assert.deepEqual(await letters(), []);
    });

    test('POST /executions/{id}/retry ends the letter too', async () => {
        const { failed } = await fail();
        broken = false;
        await editor.post(`/api/v1/executions/${failed[0]}/retry`, undefined, { type: null, expect: 200 });
        assert.deepEqual(await letters(), []);
        assert.deepEqual((await decide('retry', { ids: failed })).body.skipped, 1);
    });

    test('what cannot be retried stays: without a history, or of an inactive workflow', async () => {
        const bare = await fail(1, { settings: { save: 'none' } });
        const { id, failed } = await fail(1);
        await editor.patch(`/api/v1/workflows/${id}`, { is_active: false }, { expect: 200 });
        const ids = [...bare.failed, ...failed];
        assert.deepEqual((await decide('retry', { ids })).body, { retried: 0, skipped: 2, remaining: false, execution_ids: [] });
        assert.deepEqual((await decide('retry', { since: '2000-01-01T00:00:00Z' })).body, { retried: 0, skipped: 0, remaining: false, execution_ids: [] });
        assert.equal((await letters()).length, 2);
    });

    test('a repeat with the same Idempotency-Key is answered alike, and starts nothing', async () => {
        const { id, failed } = await fail();
        broken = false;
        const headers = { 'idempotency-key': `again-${failed[0]}` };
        const one = await decide('retry', { ids: failed }, 200, editor, headers);
        const two = await decide('retry', { ids: failed }, 200, editor, headers);
        assert.deepEqual(two.body, one.body);
        assert.equal(two.headers.get('idempotent-replayed'), 'true');
        assert.equal((await editor.get(`/api/v1/workflows/${id}/executions`)).body.length, 2);
    });

    test('it waits its turn where its workflow has a limit', async () => {
        const { id } = await createWorkflow(editor, { ...definition(), settings: { concurrency: { limit: 1 } } });
        const failed = [];
        for (let i = 0; i < 4; i++) failed.push((await execute(editor, id, { i })).execution_id);
        broken = false;
        const { body } = await decide('retry', { ids: failed });
        const done = await Promise.all(body.execution_ids.map((one) => finalExecution(editor, one)));
        assert.deepEqual(done.map((x) => x.status), Array(4).fill('completed'));
        const order = done.toSorted((a, b) => (a.started_at < b.started_at ? -1 : 1));
        for (let i = 1; i < 4; i++) assert.ok(order[i].started_at >= order[i - 1].completed_at);
        assert.equal(upstream.count('/fine'), 4, 'what had completed did not run again');
    });
});

test('discard: off the list, the execution stays; by id and by filter', async () => {
    const { id, failed } = await fail(3);
    assert.deepEqual((await decide('discard', { ids: [failed[0]] })).body, { discarded: 1, skipped: 0, remaining: false });
    assert.deepEqual((await decide('discard', { ids: [failed[0]] })).body, { discarded: 0, skipped: 1, remaining: false });
    assert.deepEqual((await decide('discard', { workflow_id: id })).body, { discarded: 2, skipped: 0, remaining: false });
    assert.deepEqual(await letters(), []);
    assert.equal((await getExecution(editor, failed[0])).status, 'failed');
});

test('another tenant sees none of it, and decides on none of it', async () => {
    const { id, failed } = await fail();
    const stranger = await weir.as('owner', 'globex');
    assert.deepEqual(await letters('', stranger), []);
    for (const verb of ['retry', 'discard'])
        for (const choice of [{ ids: failed }, { workflow_id: id }, { since: '2000-01-01T00:00:00Z' }]) {
            const { body } = await decide(verb, choice, 200, stranger);
            assert.equal(body.retried ?? body.discarded, 0);
        }
    assert.equal((await letters()).length, 1);
});

test('a choice must be one: ids or a filter, within bounds', async () => {
    const id = (n) => `execution_${String(n).padStart(26, '0')}`;
    const wrong = [
        [{}, '', 'dead-letters.choice'],
        [{ ids: [id(1)], error_code: 'x' }, '', 'dead-letters.choice'],
        [{ ids: [] }, '/ids', 'field.count'],
        [{ ids: Array.from({ length: 101 }, (_, n) => id(n)) }, '/ids', 'field.count'],
        [{ ids: [id(1), id(1)] }, '/ids/1', 'field.repeated'],
        [{ ids: ['workflow_1'] }, '/ids/0', 'field.format'],
        [{ until: 'yesterday' }, '/until', 'field.type'],
    ];
    for (const verb of ['retry', 'discard'])
        for (const [choice, pointer, code] of wrong) {
            const { body } = await decide(verb, choice, 422);
            assert.deepEqual(body.errors.map((e) => [e.pointer, e.code]), [[pointer, code]], JSON.stringify(choice).slice(0, 100));
        }
    assert.equal((await decide('retry', { ids: Array.from({ length: 100 }, (_, n) => id(n)) })).body.skipped, 100);
});

describe('on_failure', () => {
    const seen = (id) => editor.get(`/api/v1/workflows/${id}/executions`).then(({ body }) => body);
    const settled = async (id, n) => {
        const { until } = await import('../lib/wait.mjs');
        return until(`${n} of ${id}`, async () => {
            const found = await seen(id);
            return found.length === n && found.every((x) => x.completed_at) && found;
        });
    };

    test('the failed execution is the input of the named workflow, once', async () => {
        const handler = await createWorkflow(editor, { steps: [transform('t', { why: '{{ input.error.code }}', who: '{{ input.execution_id }}', was: '{{ input.input_data.n }}' })] });
        const { id } = await createWorkflow(editor, { steps: [{ id: 'f', type: 'fail', with: { code: 'shop.closed', message: 'no' } }], settings: { on_failure: handler.id } });
        const failed = await execute(editor, id, { n: 7 });
        const [handled] = await settled(handler.id, 1);
        assert.deepEqual(handled.output_data, { t: { why: 'shop.closed', who: failed.execution_id, was: 7 } });
        assert.deepEqual([handled.parent_id, handled.trigger], [failed.execution_id, { type: 'failure', execution_id: failed.execution_id }]);
    });

    test('a time-out counts; completing and cancelling do not', async () => {
        const handler = await createWorkflow(editor, { steps: [transform('t', { status: '{{ input.status }}' })] });
        const settings = { timeout_ms: 50, on_failure: handler.id };
        const late = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 60000 } }], settings });
        const fine = await createWorkflow(editor, { steps: [transform('t')], settings: { on_failure: handler.id } });
        await execute(editor, fine.id);
        await execute(editor, late.id);
        assert.deepEqual((await settled(handler.id, 1))[0].output_data, { t: { status: 'timed_out' } });
    });

    test('what it starts starts nothing when it fails: a workflow may name itself', async () => {
        const { id } = await createWorkflow(editor, { steps: [{ id: 'f', type: 'fail' }] });
        await editor.patch(`/api/v1/workflows/${id}`, { definition: { settings: { on_failure: id } } }, { expect: 200 });
        await execute(editor, id);
        await settled(id, 2);
        await execute(editor, id);
        await settled(id, 4);
    });

    test('one that does not exist, or is another tenant\'s, is not started, and the failure is recorded all the same', async () => {
        const stranger = await weir.as('owner', 'globex');
        const theirs = await createWorkflow(stranger, { steps: [transform('t')] });
        const { id } = await createWorkflow(editor, { steps: [{ id: 'f', type: 'fail' }], settings: { on_failure: theirs.id } });
        assert.equal((await execute(editor, id)).status, 'failed');
        assert.deepEqual((await stranger.get(`/api/v1/workflows/${theirs.id}/executions`)).body, []);
    });
});
