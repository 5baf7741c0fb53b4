// Two nodes and more on one PostgreSQL: what one has begun another one ends, whatever happens to the first; whoever waits is told, wherever it runs.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { FINAL, chain, createWorkflow, finalExecution, getExecution, http, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { DB, Weir, stopAll } from '../lib/server.mjs';
import { inTime, until } from '../lib/wait.mjs';

const LEASE_S = 3;
const SOON = { within_ms: LEASE_S * 1000 + 5000 };
const STEPS = ['one', 'two', 'three', 'four', 'five'];

describe('nodes on one database', { skip: DB !== 'postgres' && 'SQLite is one process' }, () => {
    let first, second, editor, there, upstream, script;
    before(async () => {
        upstream = await Upstream.start((path, n) => script(path, n));
        first = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host, WEIR_LEASE_SECONDS: `${LEASE_S}` } });
        editor = await first.as('editor');
    });
    beforeEach(() => {
        script = () => ({});
        upstream.calls.length = 0;
    });
    afterEach(async () => {
        upstream.release();
        await second?.stop();
        second = null;
        if (!first.child) await first.serve();
    });
    after(() => stopAll(second, first, upstream));

    const join = async (env = {}) => {
        second = await first.node(env);
        there = editor.at(second.base);
    };
    const calls = (...ids) => createWorkflow(editor, chain(...ids.map((id) => http(id, `${upstream.base}/${id}`))));
    const begin = async (client, id, headers = {}) =>
        (await client.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers: { prefer: 'respond-async', ...headers }, expect: 202 })).body.execution_id;
    /** Half of them at each node, some at a time. */
    const beginMany = async (total, id) => {
        const all = [];
        const line = async (client) => {
            while (total-- > 0) all.push(await begin(client, id));
        };
        await Promise.all(Array.from({ length: 8 }, (_, n) => line(n % 2 ? editor : there)));
        return all;
    };
    const counts = () => STEPS.map((id) => upstream.count(`/${id}`));
    const hold = (...paths) => (script = (path, n) => ({ hold: paths.includes(path) && n === 1 }));
    const owner = (id) => first.sql(`SELECT n.id FROM executions x JOIN nodes n ON n.incarnation = x.owner WHERE x.id = '${id}'`);

    describe('a node that is gone', () => {
        test('kill -9: another one ends what it had, and no step with a recorded result runs again', async () => {
            await join();
            hold('/three');
            const id = await begin(editor, (await calls(...STEPS)).id);
            await upstream.called('/three');
            assert.equal(owner(id), 'node-1');
            await first.kill();
            upstream.release();
            const done = await finalExecution(there, id, SOON);
            assert.equal(done.status, 'completed', JSON.stringify(done));
            assert.deepEqual(counts(), [1, 1, 2, 1, 1]);
            assert.equal(stepOf(done, 'three').attempts[0].error.code, 'engine.interrupted');
        });

        test('the same WEIR_NODE_ID takes its own back at once, however long the lease', async () => {
            hold('/two');
            await first.terminate();
            first.env.WEIR_LEASE_SECONDS = '300';
            await first.serve();
            const id = await begin(editor, (await calls('one', 'two')).id);
            await upstream.called('/two');
            await first.kill();
            upstream.release();
            await first.serve();
            const done = await finalExecution(editor, id);
            assert.deepEqual([done.status, upstream.count('/one'), upstream.count('/two')], ['completed', 1, 2]);
            await first.terminate();
            first.env.WEIR_LEASE_SECONDS = `${LEASE_S}`;
        });

        test('a second process with the same WEIR_NODE_ID ends the first, and goes on with what that had', async () => {
            hold('/two');
            const id = await begin(editor, (await calls('one', 'two', 'three')).id);
            await upstream.called('/two');
            await join({ WEIR_NODE_ID: 'node-1' });
            const done = await finalExecution(there, id);
            upstream.release();
            assert.deepEqual([done.status, upstream.count('/one'), upstream.count('/two'), upstream.count('/three')], ['completed', 1, 2, 1]);
            assert.equal((await first.exited).code, 1);
            first.child = null;
            assert.deepEqual(await getExecution(there, id), done);
        });

        test('another WEIR_NODE_ID leaves alone what a living node has', async () => {
            hold('/one');
            const id = await begin(editor, (await calls('one')).id);
            await upstream.called('/one');
            await join();
            const { id: later } = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 600_000 } }] });
            const lost = await begin(editor, later);
            await until('it waits', async () => (await getExecution(editor, lost)).status === 'waiting');
            first.sql(`UPDATE executions SET owner = 0, due_at = NULL WHERE id = '${lost}'`);
            await until('what nobody has is found', () => first.sql(`SELECT fence FROM executions WHERE id = '${lost}' AND due_at IS NOT NULL AND owner IS NULL`) > 1);
            upstream.release();
            const done = await finalExecution(there, id);
            assert.deepEqual([done.status, stepOf(done, 'one').attempt, upstream.count('/one')], ['completed', 1, 1]);
        });

        test('one that stood still for longer than its lease records nothing and begins nothing when it wakes up', async () => {
            await join();
            hold('/two');
            const id = await begin(there, (await calls('one', 'two', 'three')).id);
            await upstream.called('/two');
            second.child.kill('SIGSTOP');
            const done = await finalExecution(editor, id, SOON);
            upstream.release();
            second.child.kill('SIGCONT');
            await until('it has found out', () => second.log().some(({ event }) => event === 'engine.write_failed'), SOON);
            assert.equal(done.status, 'completed', JSON.stringify(done));
            assert.deepEqual(await getExecution(there, id), done);
            assert.deepEqual([upstream.count('/one'), upstream.count('/two'), upstream.count('/three')], [1, 2, 1]);
        });

        test('one that is told to stop hands over at once: what it had not sent is no interruption', async () => {
            await join();
            hold('/one');
            const { id: workflow } = await calls('one', 'two');
            const id = await begin(there, workflow);
            const waits = await begin(there, (await createWorkflow(editor, chain({ id: 'd', type: 'delay', with: { ms: 2500 } }, http('two', `${upstream.base}/two`)))).id);
            await upstream.called('/one');
            const stopping = second.terminate();
            await until('it stops', () => second.log().some(({ event }) => event === 'app.draining'));
            upstream.release();
            const done = await finalExecution(editor, id, { within_ms: 8000 });
            assert.equal((await stopping).code, 0);
            assert.deepEqual([done.status, stepOf(done, 'one').attempt, stepOf(done, 'two').attempt], ['completed', 1, 1]);
            assert.equal((await finalExecution(editor, waits, SOON)).status, 'completed');
            assert.equal(first.sql('SELECT count(*) FROM executions WHERE owner IS NOT NULL'), '0');
        });
    });

    describe('a caller at another node than the one that runs it', () => {
        test('--role=api runs what is pure, and leaves the rest to the others; its callers are told at once', async () => {
            await join({ WEIR_ROLE: 'api' });
            const pure = await createWorkflow(editor, { steps: [transform('t', { n: '{{ input.n }}' })] });
            const { body: answer } = await there.post(`/api/v1/workflows/${pure.id}/execute`, { input_data: { n: 7 } }, { expect: 200 });
            assert.deepEqual(answer.output_data, { t: { n: 7 } });
            const { id } = await createWorkflow(editor, chain(transform('before', { n: 1 }), http('one', `${upstream.base}/one`), transform('after', { n: 2 })));
            await there.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { expect: 200 }); // both know the plan now
            await inTime(300, async (i) => { // seldom by polling, which is each second
                const began = performance.now();
                const { body } = await there.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { expect: 200 });
                assert.deepEqual([body.status, stepOf(body, 'one').attempt, upstream.count('/one')], ['completed', 1, i + 2]);
                return performance.now() - began;
            });
        });

        test('--role=api alone accepts, and keeps for later', async () => {
            await join({ WEIR_ROLE: 'api' });
            await first.terminate();
            const { id } = await createWorkflow(there, { steps: [http('one', `${upstream.base}/one`)] });
            const execution = await begin(there, id);
            const { status } = await there.post(`/api/v1/workflows/${id}/execute?wait=1`, { input_data: {} });
            assert.deepEqual([status, upstream.count('/one')], [202, 0]);
            await first.serve();
            assert.equal((await finalExecution(there, execution)).status, 'completed');
        });

        test('an Idempotency-Key joins an execution that another node runs', async () => {
            await join();
            const { id } = await calls('one');
            await inTime(300, async (i) => { // seldom by polling, which is each second
                hold('/one');
                upstream.calls.length = 0;
                const headers = { 'idempotency-key': `across-${i}` };
                const execution = await begin(editor, id, headers);
                await upstream.called('/one');
                const joined = there.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers, expect: 200 });
                await until('it waits', async () => /^weir_executions_live 1$/m.test((await there.get('/metrics', { raw: true })).text));
                const began = performance.now();
                upstream.release();
                const { body } = await joined;
                assert.deepEqual([body.execution_id, body.status, upstream.count('/one')], [execution, 'completed', 1]);
                return performance.now() - began;
            });
        });

        for (const [verb, code] of [['cancel', 'execution.cancelled'], ['kill', 'execution.killed']])
            test(`${verb} reaches the node that has it`, async () => {
                await join();
                script = () => ({ hold: true });
                const { id } = await calls('one');
                await inTime(300, async () => { // seldom by polling, which is each second
                    const execution = await begin(editor, id);
                    await until('it is called', () => upstream.held.length > 0);
                    const began = performance.now();
                    await there.post(`/api/v1/executions/${execution}/${verb}`, undefined, { type: null, expect: 202 });
                    const done = await finalExecution(there, execution);
                    assert.deepEqual([done.status, done.error.code], ['cancelled', code]);
                    upstream.release();
                    return performance.now() - began;
                });
            });

        test('a parent goes on when its child has ended elsewhere, while it waits for a call of its own', async () => {
            await join();
            script = (path) => ({ hold: path === '/slow' });
            const child = await calls('one');
            const { id } = await createWorkflow(editor, {
                steps: [http('slow', `${upstream.base}/slow`), { id: 'c', type: 'workflow', with: { workflow_id: child.id } }, http('two', `${upstream.base}/two`)],
                dependencies: { two: ['c'] },
            });
            const execution = await begin(editor, id);
            await upstream.called('/two');
            upstream.release();
            assert.equal((await finalExecution(there, execution)).status, 'completed');
        });

        test('a limit of 3 holds however many nodes begin', async () => {
            await join();
            script = () => ({ delay_ms: 15 });
            const limit = 3;
            const { id } = await createWorkflow(editor, { steps: [http('one', `${upstream.base}/one`)], settings: { concurrency: { limit } } });
            const all = await beginMany(40, id);
            const done = await Promise.all(all.map((one) => finalExecution(editor, one, { within_ms: 30_000, every_ms: 200 })));
            assert.deepEqual(done.map(({ status }) => status), Array(40).fill('completed'));
            const most = Math.max(...done.map((a) => done.filter((b) => b.started_at <= a.started_at && b.completed_at > a.started_at).length));
            assert.ok(most <= limit, `${most} at once`);
            assert.equal(upstream.count('/one'), 40);
            assert.equal(first.sql('SELECT count(*) FROM executions WHERE slot_key IS NOT NULL'), '0');
        });
    });

    test('what is due is shared: neither node runs anything twice', async () => {
        await join();
        const { id } = await createWorkflow(editor, chain({ id: 'd', type: 'delay', with: { ms: 300 } }, http('one', `${upstream.base}/one`)));
        const all = await beginMany(60, id);
        const done = await Promise.all(all.map((one) => finalExecution(there, one, { within_ms: 30_000, every_ms: 200 })));
        assert.ok(done.every(({ status }) => FINAL.has(status) && status === 'completed'));
        assert.equal(upstream.count('/one'), 60);
        assert.ok(done.every((x) => stepOf(x, 'one').attempt === 1));
    });
});
