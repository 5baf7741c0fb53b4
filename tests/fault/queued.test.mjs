// kill -9 while executions are queued, cancelled, played again, or have children: what was acknowledged is there after the restart and comes to its end, and no slot is lost.

import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { SEED, dice } from '../lib/dice.mjs';
import { FINAL, chain, createWorkflow, execute, finalExecution, getExecution, http, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { FULL, Weir, stopAll } from '../lib/server.mjs';
import { elapse, until } from '../lib/wait.mjs';

const ROUNDS = FULL ? 60 : 6;
let weir, editor, upstream, script, roll;
before(async () => {
    upstream = await Upstream.start((path, n) => script(path, n));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
beforeEach((t) => {
    t.diagnostic?.(`WEIR_TEST_SEED=${SEED}`);
    roll = dice();
    script = () => ({ delay_ms: Math.floor(roll() * 8) });
    upstream.calls.length = 0;
});
after(() => stopAll(upstream, weir));

const begin = async (id, input = {}) => (await editor.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: input }, { expect: 202 })).body.execution_id;

/** Does what `act` says, many times side by side, and kills the server meanwhile; what was answered before that. */
async function acknowledged(count, act) {
    const answered = [];
    const all = Promise.allSettled(Array.from({ length: count }, async (_, n) => answered.push(await act(n))));
    const enough = Math.floor(roll() * count);
    await until('enough answers', () => answered.length >= enough, { every_ms: 1 });
    await elapse(roll() * 15);
    await weir.kill();
    await all;
    await weir.serve();
    return answered;
}

/** All of them at their end, by status. */
async function ends(executions) {
    const done = await Promise.all(executions.map((id) => finalExecution(editor, id, { within_ms: 60_000 })));
    const counts = {};
    for (const { status } of done) counts[status] = (counts[status] ?? 0) + 1;
    return { done, counts };
}

/** The most that were under way at the same time. */
const most = (done) => Math.max(...done.map((a) => done.filter((b) => b.started_at <= a.started_at && b.completed_at > a.started_at).length));

test(`queued: ${ROUNDS} rounds of 16 behind a limit of 3`, async (t) => {
    const limit = 3;
    const { id } = await createWorkflow(editor, { steps: [http('one', `${upstream.base}/one`)], settings: { concurrency: { limit } } });
    let total = 0;
    for (let round = 0; round < ROUNDS; round++) {
        const answered = await acknowledged(16, () => begin(id));
        const { done, counts } = await ends(answered);
        assert.deepEqual(counts, answered.length > 0 ? { completed: answered.length } : {}, `seed ${SEED}, round ${round}`);
        if (done.length > 0) assert.ok(most(done) <= limit, `seed ${SEED}, round ${round}: ${most(done)} at once`);
        total += done.length;
    }
    await until('those that were not acknowledged have ended too', async () => (await editor.get(`/api/v1/workflows/${id}/executions?limit=100`)).body.every((x) => FINAL.has(x.status)));
    const last = await Promise.all(Array.from({ length: limit }, () => execute(editor, id)));
    assert.deepEqual(last.map((x) => x.status), Array(limit).fill('completed'), 'all slots are there');
    t.diagnostic(`${total} acknowledged and completed, ${ROUNDS} kills, at most ${limit} at once`);
});

test(`cancelled: ${ROUNDS} rounds of 8, half of them queued`, async (t) => {
    const { id } = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 600000 } }], settings: { concurrency: { limit: 4 } } });
    let total = 0;
    for (let round = 0; round < ROUNDS; round++) {
        const started = await Promise.all(Array.from({ length: 8 }, () => begin(id)));
        const asked = await acknowledged(8, async (n) => {
            await editor.post(`/api/v1/executions/${started[n]}/cancel`, undefined, { type: null, expect: 202 });
            return started[n];
        });
        const { counts } = await ends(asked);
        assert.deepEqual(counts, asked.length > 0 ? { cancelled: asked.length } : {}, `seed ${SEED}, round ${round}`);
        const rest = started.filter((one) => !asked.includes(one));
        await Promise.all(rest.map((one) => editor.post(`/api/v1/executions/${one}/cancel`, undefined, { type: null })));
        assert.deepEqual((await ends(rest)).counts, rest.length > 0 ? { cancelled: rest.length } : {});
        total += asked.length;
    }
    t.diagnostic(`${total} cancellations acknowledged and carried out, ${ROUNDS} kills`);
});

test(`played again: ${ROUNDS} rounds of 8, by /replay and from dead letters`, async (t) => {
    const step = http('two', `${upstream.base}/two`, { retry: { max_attempts: 2, initial_ms: 1, max_ms: 1 } });
    const { id } = await createWorkflow(editor, chain(http('one', `${upstream.base}/one`), step, transform('t', { done: true })));
    let total = 0;
    for (let round = 0; round < ROUNDS; round++) {
        script = (path) => ({ status: path === '/two' ? 503 : 200 });
        const failed = await Promise.all(Array.from({ length: 8 }, () => execute(editor, id)));
        assert.ok(failed.every(({ status }) => status === 'failed'));
        upstream.calls.length = 0;
        script = () => ({ delay_ms: Math.floor(roll() * 8) });
        const again = await acknowledged(8, async (n) => {
            const { execution_id } = failed[n];
            const answer =
                n % 2 === 0
                    ? await editor.post(`/api/v1/executions/${execution_id}/replay?wait=0`, { from_step: 'two' }, { expect: 202 })
                    : await editor.post('/api/v1/dead-letters/retry', { ids: [execution_id] }, { expect: 200 });
            return answer.body.execution_id ?? answer.body.execution_ids[0];
        });
        const { done, counts } = await ends(again);
        assert.deepEqual(counts, again.length > 0 ? { completed: again.length } : {}, `seed ${SEED}, round ${round}`);
        for (const one of done) assert.ok(failed.some(({ execution_id }) => execution_id === one.parent_id));
        assert.equal(upstream.count('/one'), 0, 'what had completed did not run again');
        const letters = (await editor.get('/api/v1/dead-letters?limit=100')).body.map((letter) => letter.execution_id);
        for (const one of done) assert.ok(!letters.includes(one.parent_id), 'a letter that was answered is gone');
        total += done.length;
    }
    t.diagnostic(`${total} acknowledged and completed, ${ROUNDS} kills`);
});

test(`children: ${ROUNDS} rounds of 4 parents with 3 children each`, async (t) => {
    const child = await createWorkflow(editor, { ...chain(http('one', `${upstream.base}/one`), http('two', `${upstream.base}/two`)), settings: { concurrency: { limit: 5 } } });
    const call = (id) => ({ id, type: 'workflow', with: { workflow_id: child.id } });
    const parent = await createWorkflow(editor, { steps: [call('a'), call('b'), call('c'), transform('t', { done: true })], dependencies: { t: ['a', 'b', 'c'] } });
    let total = 0;
    for (let round = 0; round < ROUNDS; round++) {
        const answered = await acknowledged(4, () => begin(parent.id));
        const { done, counts } = await ends(answered);
        assert.deepEqual(counts, answered.length > 0 ? { completed: answered.length } : {}, `seed ${SEED}, round ${round}`);
        for (const one of done) {
            const children = (await editor.get(`/api/v1/workflows/${child.id}/executions?limit=100`)).body.filter((x) => x.parent_id === one.execution_id);
            assert.deepEqual(children.map((x) => x.status), Array(3).fill('completed'), `seed ${SEED}, round ${round}: each exactly once`);
        }
        total += done.length;
    }
    t.diagnostic(`${total} parents and ${total * 3} children completed, ${ROUNDS} kills`);
});

test('a step that takes the server down three times makes a dead letter, and does not do so a fourth time', async () => {
    script = (path) => ({ hold: path === '/deadly' }); // what the tests above began unheard may still be going on, at paths of its own
    const { id } = await createWorkflow(editor, { steps: [http('deadly', `${upstream.base}/deadly`)] });
    const execution = await begin(id);
    for (let n = 1; n <= 3; n++) {
        await until(`call ${n}`, () => upstream.count('/deadly') >= n);
        await weir.kill();
        upstream.release();
        await weir.serve();
    }
    const done = await finalExecution(editor, execution);
    assert.deepEqual([done.status, done.error.code, stepOf(done, 'deadly').status, upstream.count('/deadly')], ['failed', 'engine.crashed', 'failed', 3]);
    const letters = (await editor.get(`/api/v1/dead-letters?error_code=engine.crashed&workflow_id=${id}`, { expect: 200 })).body;
    assert.deepEqual(letters.map((letter) => letter.execution_id), [execution]);
    assert.equal((await getExecution(editor, execution)).status, 'failed');
});
