// kill -9: what is answered is on disk, what is recorded never runs again, and a restart goes on at once.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { dice } from '../lib/dice.mjs';
import { chain, createTrigger, createWorkflow, execute, finalExecution, getExecution, http, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { FULL, Weir, stopAll } from '../lib/server.mjs';
import { elapse, inTime, until } from '../lib/wait.mjs';

const STEPS = ['one', 'two', 'three', 'four', 'five'];
let weir, editor, upstream, script;
before(async () => {
    upstream = await Upstream.start((path, n) => script(path, n));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
beforeEach(() => {
    script = () => ({});
    upstream.calls.length = 0;
});
after(() => stopAll(upstream, weir));

const fiveCalls = () => createWorkflow(editor, chain(...STEPS.map((id) => http(id, `${upstream.base}/${id}`))));
const begin = async (id, headers = {}) =>
    (await editor.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers: { prefer: 'respond-async', ...headers }, expect: 202 })).body.execution_id;
const counts = () => STEPS.map((id) => upstream.count(`/${id}`));

/** Restarts, waits for the end; the time from being ready to the end, in ms. */
async function recover(executionId) {
    await weir.serve();
    const ready = performance.now();
    const done = await finalExecution(editor, executionId);
    return { done, took: performance.now() - ready };
}

describe('in the middle of five steps', () => {
    for (const victim of STEPS)
        test(`while step ${victim} is under way: it alone is called again, and all ends within a second`, async () => {
            script = (path, n) => ({ hold: path === `/${victim}` && n === 1 });
            const { id } = await fiveCalls();
            await inTime(1000, async () => {
                upstream.calls.length = 0;
                const executionId = await begin(id);
                await upstream.called(`/${victim}`);
                await weir.kill();
                upstream.release();
                const { done, took } = await recover(executionId);
                assert.equal(done.status, 'completed', JSON.stringify(done));
                assert.deepEqual(counts(), STEPS.map((step) => (step === victim ? 2 : 1)));
                const keys = upstream.calls.filter((call) => call.path === `/${victim}`).map((call) => call.headers['idempotency-key']);
                assert.equal(new Set(keys).size, 1, 'both calls carry the same Idempotency-Key');
                assert.deepEqual(done.step_executions.map((step) => step.status), STEPS.map(() => 'completed'));
                return took;
            });
        });
});

test(`at ${FULL ? 200 : 20} random moments`, async (t) => {
    const seed = Number(process.env.WEIR_TEST_SEED ?? Date.now() % 1_000_000);
    t.diagnostic(`WEIR_TEST_SEED=${seed}`);
    const roll = dice(seed);
    script = () => ({ delay_ms: Math.floor(roll() * 6) });
    const { id } = await fiveCalls();
    const times = [];
    for (let round = 0; round < (FULL ? 200 : 20); round++) {
        upstream.calls.length = 0;
        const executionId = await begin(id);
        const stopAt = Math.floor(roll() * 6);
        await until('enough calls', () => upstream.calls.length >= stopAt, { every_ms: 1 });
        await elapse(roll() * 4);
        await weir.kill();
        const reached = counts();
        const { done, took } = await recover(executionId);
        const where = `seed ${seed}, round ${round}, before ${reached}, after ${counts()}`;
        assert.equal(done.status, 'completed', `${where} ${JSON.stringify(done)}`);
        times.push(took);
        // A step whose follower was called had been recorded: it must not have run again. Only the last one reached may have.
        const last = reached.findLastIndex((n) => n > 0);
        for (const [i, n] of counts().entries()) assert.ok(n === 1 || (n === 2 && i === last), where);
    }
    const usual = times.sort((a, b) => a - b)[times.length >> 1];
    assert.ok(usual < 1000, `seed ${seed}: ${times.map(Math.round)} ms`);
});

describe('what waits', () => {
    test('a delay ends when it is due, not later and not from its beginning again', async () => {
        const delay = 1500;
        const { id } = await createWorkflow(editor, chain(http('one', `${upstream.base}/one`), { id: 'd', type: 'delay', with: { ms: delay } }, http('two', `${upstream.base}/two`)));
        await inTime(delay + 1000, async () => {
            upstream.calls.length = 0;
            const executionId = await begin(id);
            await until('the delay has begun', async () => (await getExecution(editor, executionId)).status === 'waiting');
            await weir.kill();
            const { done } = await recover(executionId);
            const { started_at, completed_at } = stepOf(done, 'd');
            const took = Date.parse(completed_at) - Date.parse(started_at);
            assert.equal(done.status, 'completed');
            assert.ok(took >= delay, `${took} ms`);
            assert.deepEqual([upstream.count('/one'), upstream.count('/two')], [1, 1]);
            return took;
        });
    });

    test('a retry goes on counting', async () => {
        script = (path, n) => ({ status: n < 3 ? 503 : 200, body: {} });
        const { id } = await createWorkflow(editor, { steps: [http('one', `${upstream.base}/one`, { retry: { max_attempts: 3, initial_ms: 400, max_ms: 500 } })] });
        const executionId = await begin(id);
        await upstream.called('/one', 1);
        await until('the first failure is recorded', async () => (await getExecution(editor, executionId)).status === 'waiting');
        await weir.kill();
        const { done } = await recover(executionId);
        assert.deepEqual([done.status, stepOf(done, 'one').attempt], ['completed', 3]);
        assert.equal(upstream.count('/one'), 3);
    });

    /** An execution whose only call was cut off and may not be made again by itself. */
    const cutOff = async () => {
        script = (path, n) => ({ hold: n === 1 });
        upstream.calls.length = 0;
        const { id } = await createWorkflow(editor, chain(http('one', `${upstream.base}/one`, { at_most_once: true }), transform('two', { seen: '{{ steps.one.output.body }}' })));
        const executionId = await begin(id);
        await upstream.called('/one');
        await weir.kill();
        upstream.release();
        await weir.serve();
        await until('the step is unknown', async () => stepOf(await getExecution(editor, executionId), 'one').status === 'unknown');
        assert.equal(upstream.count('/one'), 1);
        return executionId;
    };
    const resume = (id, body) => editor.post(`/api/v1/executions/${id}/resume`, body);

    test('a step that says at_most_once is unknown: a person completes it, also when the server dies before it hears of that', async () => {
        const id = await cutOff();
        const asked = await resume(id, { step: 'one', data: { body: { receipt: 17 } } });
        assert.deepEqual([asked.status, asked.headers.get('location')], [202, `/api/v1/executions/${id}`]);
        await weir.kill();
        await weir.serve();
        const done = await finalExecution(editor, id);
        assert.deepEqual([done.status, done.output_data], ['completed', { two: { seen: { receipt: 17 } } }]);
        assert.equal(upstream.count('/one'), 1);
        const again = await resume(id, { step: 'one' });
        assert.deepEqual([again.status, again.body.code], [409, 'executions.final']);
    });

    test('… has it made once more, or lets it fail', async () => {
        const first = await cutOff();
        assert.equal((await resume(first, { step: 'one', action: 'retry' })).status, 202);
        const done = await finalExecution(editor, first);
        assert.deepEqual([done.status, stepOf(done, 'one').attempt, upstream.count('/one')], ['completed', 2, 2]);
        assert.equal(stepOf(done, 'one').attempts[0].error.code, 'engine.interrupted');
        const second = await cutOff();
        assert.equal((await resume(second, { step: 'one', action: 'fail', message: 'the bank says no' })).status, 202);
        const failed = await finalExecution(editor, second);
        assert.deepEqual([failed.status, failed.error], ['failed', { code: 'step.given_up', message: 'the bank says no', step_id: 'one' }]);
    });

    test('a client that asks again with its Idempotency-Key joins the execution that was cut off', async () => {
        script = (path, n) => ({ hold: path === '/three' && n === 1 });
        const { id } = await fiveCalls();
        const headers = { 'idempotency-key': `cut-${id}` };
        const executionId = await begin(id, headers);
        await upstream.called('/three');
        await weir.kill();
        upstream.release();
        await weir.serve();
        const { body } = await editor.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers, expect: 200 });
        assert.deepEqual([body.execution_id, body.status, counts()], [executionId, 'completed', [1, 1, 2, 1, 1]]);
    });
});

test('a step in which the server stops three times is not tried a fourth time', async () => {
    script = (path) => ({ hold: path === '/two' });
    const { id } = await createWorkflow(editor, chain(http('one', `${upstream.base}/one`), http('two', `${upstream.base}/two`)));
    const executionId = await begin(id);
    for (const n of [1, 2, 3]) {
        await upstream.called('/two', n);
        await weir.kill();
        upstream.release();
        await weir.serve();
    }
    const done = await finalExecution(editor, executionId);
    assert.deepEqual([done.status, done.error.code, done.error.step_id], ['failed', 'engine.crashed', 'two']);
    assert.deepEqual([upstream.count('/one'), upstream.count('/two')], [1, 3]);
    script = () => ({});
    const again = await begin((await fiveCalls()).id); // and the server is none the worse for it
    assert.equal((await finalExecution(editor, again)).status, 'completed');
});

test('what was answered is on disk: 64 webhook calls at once, killed at the first answers', async () => {
    const { id } = await createWorkflow(editor, { steps: [transform('t', { n: '{{ input.n }}' })] });
    const { webhook_url } = await createTrigger(editor, id, { rate_limit: null });
    const anyone = weir.anonymous();
    const answered = [];
    const calls = Array.from({ length: 64 }, async (_, n) => {
        const { status, body } = await anyone.post(webhook_url, { n });
        if (status === 200) answered.push({ n, execution_id: body.execution_id });
    });
    const settled = Promise.allSettled(calls); // before the kill, which makes the others fail
    await until('the first answers', () => answered.length >= 5, { every_ms: 1 });
    await weir.kill();
    await settled;
    await weir.serve();
    for (const { n, execution_id } of answered) assert.deepEqual((await getExecution(editor, execution_id)).output_data, { t: { n } });
});

test('after all this the history is whole and the server runs on', async () => {
    const { id } = await createWorkflow(editor, { steps: [transform('t', { fine: true })] });
    assert.deepEqual((await execute(editor, id)).output_data, { t: { fine: true } });
});
