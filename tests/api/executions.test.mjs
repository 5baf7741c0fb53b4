// Executions under control: branches taken, runs cancelled, runs played again.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chain, createTrigger, createWorkflow, finalExecution, getExecution, http, runDefinition, statuses, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, editor, upstream;
before(async () => {
    upstream = await Upstream.start((path, n) => ({ hold: path.startsWith('/hold'), status: path.startsWith('/flaky') && n === 1 ? 503 : 200 }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(() => stopAll(upstream, weir));

describe('branches', () => {
    test('condition: dependants read its result', async () => {
        const definition = {
            steps: [{ id: 'c', type: 'condition', with: { if: 'input.n > 10' } }, transform('big'), transform('small')],
            dependencies: { big: ['c'], small: ['c'] },
            conditions: { big: 'steps.c.output.result', small: 'not steps.c.output.result' },
        };
        const done = await runDefinition(editor, definition, { n: 11 });
        assert.deepEqual(statuses(done), { c: 'completed', big: 'completed', small: 'skipped' });
        assert.deepEqual([stepOf(done, 'c').input_data, stepOf(done, 'c').output_data], [{ if: 'input.n > 10' }, { result: true }]);
    });

    const choice = {
        steps: [{ id: 's', type: 'switch', with: { value: '{{ input.v }}', cases: { a: ['one'], b: ['two'] }, default: ['other'] } }, transform('one'), transform('two'), transform('other')],
        dependencies: { one: ['s'], two: ['s'], other: ['s'] },
    };
    for (const [v, chosen, ran] of [['a', 'a', 'one'], ['b', 'b', 'two'], ['c', 'default', 'other']])
        test(`switch: ${v} runs ${ran} and skips the rest`, async () => {
            const done = await runDefinition(editor, choice, { v });
            assert.deepEqual(stepOf(done, 's').output_data, { case: chosen });
            for (const id of ['one', 'two', 'other']) assert.equal(stepOf(done, id).status, id === ran ? 'completed' : 'skipped', id);
        });

    test('switch: a step that does not depend on it is refused where it stands', async () => {
        const { body } = await editor.post('/api/v1/workflows/validate', { definition: { steps: choice.steps, dependencies: { one: ['s'], two: ['s'] } } }, { expect: 200 });
        assert.deepEqual(body.errors.map(({ pointer, code }) => [pointer, code]), [['/definition/steps/0/with/default/0', 'definition.not_dependent']]);
    });
});

/** Starts without waiting; the execution's id. */
const begin = async (definition, input = {}) => {
    const { id } = await createWorkflow(editor, definition);
    return (await editor.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: input }, { expect: 202 })).body.execution_id;
};
const cancel = (id, client = editor) => client.post(`/api/v1/executions/${id}/cancel`, undefined, { type: null });
const sleeping = { steps: [{ id: 'd', type: 'delay', with: { ms: 600000 } }] };

describe('cancel', () => {
    test('in the middle of a call: 202 with the execution, then cancelled; the rest never runs; a repeat is 200', async () => {
        const id = await begin(chain(http('h', `${upstream.base}/hold-1`), transform('never')));
        await upstream.called('/hold-1');
        const answer = await cancel(id);
        assert.equal(answer.status, 202, answer.text);
        assert.equal(answer.headers.get('location'), `/api/v1/executions/${id}`);
        assert.equal(answer.body.execution_id, id);
        const done = await finalExecution(editor, id);
        assert.equal(done.status, 'cancelled');
        assert.equal(done.error.code, 'execution.cancelled');
        assert.deepEqual(statuses(done), { h: 'cancelled', never: 'pending' });
        const again = await cancel(id);
        assert.equal(again.status, 200, again.text);
        assert.deepEqual(again.body, done);
    });

    test('while it waits: whoever waits for it is told', async () => {
        const { id } = await createWorkflow(editor, sleeping);
        const answer = editor.post(`/api/v1/workflows/${id}/execute?wait=60`, { input_data: {} }, { expect: 200 });
        const [waiting] = await until('it waits', async () => {
            const { body } = await editor.get(`/api/v1/workflows/${id}/executions?status=waiting`, { expect: 200 });
            return body.length > 0 && body;
        });
        assert.equal((await cancel(waiting.execution_id)).status, 202);
        const { body } = await answer;
        assert.deepEqual([body.execution_id, body.status], [waiting.execution_id, 'cancelled']);
    });

    test('one that has ended is 409 executions.final; one that does not exist, or is another tenant\'s, is 404', async () => {
        const done = await runDefinition(editor, { steps: [transform('t')] });
        const answer = await cancel(done.execution_id);
        assert.deepEqual([answer.status, answer.body.code], [409, 'executions.final'], answer.text);
        assert.equal((await cancel('execution_01h455vb4pex5vsknk084sn02q')).status, 404);
        const id = await begin(sleeping);
        assert.equal((await cancel(id, await weir.as('owner', 'globex'))).status, 404);
        assert.equal((await cancel(id, await weir.as('viewer'))).status, 403);
        assert.ok(['queued', 'running', 'waiting'].includes((await getExecution(editor, id)).status));
        assert.equal((await cancel(id, await weir.as('member'))).status, 202);
        await finalExecution(editor, id);
    });

    test('the stream ends with execution.cancelled', async () => {
        const id = await begin(sleeping);
        await cancel(id);
        await finalExecution(editor, id);
        const { text } = await editor.get(`/api/v1/executions/${id}/events`, { raw: true, expect: 200 });
        assert.match(text, /event: execution\.cancelled\n/);
    });
});

const child = (id, workflowId, more = {}) => ({ id, type: 'workflow', with: { workflow_id: workflowId, input: { n: '{{ input.n }}' }, ...more } });

const kill = (id, client = editor) => client.post(`/api/v1/executions/${id}/kill`, undefined, { type: null });

describe('kill', () => {
    test('in the middle of a call: 202, then cancelled with execution.killed; what the call brings later is nowhere; a repeat is 200', async () => {
        const id = await begin(chain(http('h', `${upstream.base}/hold-kill`), transform('never')));
        await upstream.called('/hold-kill');
        const asked = await kill(id);
        assert.deepEqual([asked.status, asked.body.status, asked.headers.get('location')], [202, 'running', `/api/v1/executions/${id}`]);
        const done = await finalExecution(editor, id);
        assert.deepEqual([done.status, done.error.code], ['cancelled', 'execution.killed']);
        assert.deepEqual(statuses(done), { h: 'cancelled', never: 'pending' });
        upstream.release();
        assert.deepEqual([(await kill(id)).status, (await getExecution(editor, id)).error.code], [200, 'execution.killed']);
    });

    test('children that it waits for are killed too', async () => {
        const child = await createWorkflow(editor, chain(http('h', `${upstream.base}/hold-kill-child`)));
        const id = await begin({ steps: [{ id: 'w', type: 'workflow', with: { workflow_id: child.id } }] });
        await upstream.called('/hold-kill-child');
        assert.equal((await kill(id)).status, 202);
        assert.equal((await finalExecution(editor, id)).error.code, 'execution.killed');
        const [{ execution_id: childId }] = (await editor.get(`/api/v1/workflows/${child.id}/executions`, { expect: 200 })).body;
        assert.equal((await finalExecution(editor, childId)).error.code, 'execution.killed');
        upstream.release();
    });

    test('refusals are those of cancel: ended 409, unknown 404', async () => {
        const done = await runDefinition(editor, { steps: [transform('t')] });
        const ended = await kill(done.execution_id), unknown = await kill('execution_01hzzzzzzzzzzzzzzzzzzzzzzz');
        assert.deepEqual([ended.status, ended.body.code], [409, 'executions.final']);
        assert.deepEqual([unknown.status, unknown.body.code], [404, 'executions.not_found']);
    });
});

describe('resume', () => {
    const resume = (id, body) => editor.post(`/api/v1/executions/${id}/resume`, body);

    test('a step that does not wait for a person is 409, one that is not there 422, an execution that has ended 409', async () => {
        const id = await begin(sleeping);
        await until('it waits', async () => (await getExecution(editor, id)).status === 'waiting');
        const wrong = await resume(id, { step: 'd', data: {} });
        assert.deepEqual([wrong.status, wrong.body.code], [409, 'executions.step_not_waiting']);
        const unknown = await resume(id, { step: 'ghost' });
        assert.deepEqual([unknown.status, unknown.body.errors[0].pointer, unknown.body.errors[0].code], [422, '/step', 'definition.unknown_step']);
        const nowhere = await resume(id, { step: 'd', iteration: [0] });
        assert.deepEqual([nowhere.status, nowhere.body.errors[0].pointer, nowhere.body.errors[0].code], [422, '/iteration', 'executions.resume_iteration']);
        await cancel(id);
        await finalExecution(editor, id);
        assert.equal((await resume(id, { step: 'd' })).body.code, 'executions.final');
        assert.equal((await resume('execution_01hzzzzzzzzzzzzzzzzzzzzzzz', { step: 'd' })).body.code, 'executions.not_found');
    });

    for (const [body, pointer, code] of [
        [{}, '/step', 'field.required'],
        [{ step: 'd', action: 'explode' }, '/action', 'field.one_of'],
        [{ step: 'd', action: 'retry', data: null }, '/data', 'executions.resume_member'],
        [{ step: 'd', message: 'x' }, '/message', 'executions.resume_member'],
        [{ step: 'd', action: 'fail', message: 'x'.repeat(501) }, '/message', 'field.length'],
    ])
        test(`${JSON.stringify(body).slice(0, 60)} is refused at ${pointer}`, async () => {
            const answer = await resume('execution_01hzzzzzzzzzzzzzzzzzzzzzzz', body);
            assert.deepEqual([answer.status, answer.body.errors[0].pointer, answer.body.errors[0].code], [422, pointer, code]);
        });
});

describe('children', () => {
    test('the output of a child is the output of the step; the child is an execution of its own', async () => {
        const { id } = await createWorkflow(editor, { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] });
        const done = await runDefinition(editor, { steps: [child('w', id)] }, { n: 21 });
        assert.deepEqual(done.output_data, { w: { t: { doubled: 42 } } }, JSON.stringify(done));
        const [made] = (await editor.get(`/api/v1/workflows/${id}/executions`, { expect: 200 })).body;
        assert.deepEqual([made.parent_id, made.input_data, made.trigger], [done.execution_id, { n: 21 }, { type: 'workflow', execution_id: done.execution_id, step_id: 'w' }]);
    });

    test('a workflow of another tenant, one that is not active, and one that was deleted are not found', async () => {
        const globex = await weir.as('editor', 'globex');
        const theirs = await createWorkflow(globex, { steps: [transform('t')] });
        const off = await createWorkflow(editor, { steps: [transform('t')] }, { is_active: false });
        const gone = await createWorkflow(editor, { steps: [transform('t')] });
        await editor.del(`/api/v1/workflows/${gone.id}`, { expect: 204 });
        for (const { id } of [theirs, off, gone]) {
            const done = await runDefinition(editor, { steps: [child('w', id)] });
            assert.deepEqual([done.status, done.error.code], ['failed', 'workflow.not_found']);
        }
        assert.deepEqual((await globex.get(`/api/v1/workflows/${theirs.id}/executions`, { expect: 200 })).body, []);
    });

    test('cancelling the parent cancels the child in the middle of its call', async () => {
        const { id } = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/hold-child`)] });
        const parent = await begin({ steps: [child('w', id)] });
        await upstream.called('/hold-child');
        assert.equal((await cancel(parent)).status, 202);
        assert.equal((await finalExecution(editor, parent)).status, 'cancelled');
        const [made] = (await editor.get(`/api/v1/workflows/${id}/executions`, { expect: 200 })).body;
        const ended = await finalExecution(editor, made.execution_id);
        assert.deepEqual([ended.status, statuses(ended)], ['cancelled', { h: 'cancelled' }]);
    });

    test('wait: false only starts it', async () => {
        const { id } = await createWorkflow(editor, { steps: [transform('t', { n: '{{ input.n }}' })] });
        const done = await runDefinition(editor, { steps: [child('w', id, { wait: false })] }, { n: 3 });
        const started = await finalExecution(editor, stepOf(done, 'w').output_data.execution_id);
        assert.deepEqual([started.status, started.output_data, started.parent_id], ['completed', { t: { n: 3 } }, done.execution_id]);
    });
});

const again = (id, verb, body, more) => editor.post(`/api/v1/executions/${id}/${verb}`, body, body === undefined ? { type: null, ...more } : more);

describe('the history of a workflow', () => {
    test('sort=execution_id is oldest first, and pages; status filters either way; another order is 422', async () => {
        const { id } = await createWorkflow(editor, { steps: [{ id: 'f', type: 'fail', with: { message: 'no' } }], conditions: { f: 'input.n == 2' } });
        const ids = [];
        for (const n of [1, 2, 3]) ids.push((await editor.post(`/api/v1/workflows/${id}/execute`, { input_data: { n } }, { expect: 200 })).body.execution_id);
        const list = async (query) => editor.get(`/api/v1/workflows/${id}/executions?${query}`, { expect: 200 });
        const seen = async (query) => (await list(query)).body.map((row) => row.execution_id);
        assert.deepEqual(await seen(''), [...ids].reverse());
        assert.deepEqual(await seen('sort=execution_id'), ids);
        assert.deepEqual(await seen('sort=execution_id&status=completed'), [ids[0], ids[2]]);
        const first = await list('sort=execution_id&limit=2&count=true'), next = /<([^>]+)>/.exec(first.headers.get('link'))[1];
        assert.equal(first.headers.get('x-total-count'), '3');
        assert.deepEqual((await editor.get(next, { expect: 200 })).body.map((row) => row.execution_id), [ids[2]]);
        for (const query of ['sort=input_data', 'status=odd']) await editor.get(`/api/v1/workflows/${id}/executions?${query}`, { expect: 422 });
    });
});

describe('traces', () => {
    const id = '4bf92f3577b34da6a3ce929d0e0e4736', span = '00f067aa0ba902b7';
    const headers = { traceparent: `00-${id}-${span}-01`, tracestate: 'vendor=1,other=2' };
    const traceOf = (call) => call.headers.traceparent.split('-');

    test('what a webhook causes elsewhere goes on with its trace, each call in a span of its own, also behind a wait', async () => {
        const workflow = await createWorkflow(editor, chain(http('a', `${upstream.base}/trace-a`), { id: 'd', type: 'delay', with: { ms: 20 } }, http('b', `${upstream.base}/trace-b`)));
        const trigger = await createTrigger(editor, workflow.id);
        const answer = await editor.post(trigger.webhook_url, {}, { headers, expect: 200 });
        assert.equal(answer.headers.get('traceparent').split('-')[1], id);
        const calls = [await upstream.called('/trace-a'), await upstream.called('/trace-b')];
        for (const call of calls) {
            assert.deepEqual([traceOf(call)[1], traceOf(call)[3]], [id, '01']);
            assert.equal(call.headers.tracestate, headers.tracestate);
        }
        assert.equal(new Set([span, answer.headers.get('traceparent').split('-')[2], ...calls.map((call) => traceOf(call)[2])]).size, 4);
    });

    test('a replay belongs to the request that asked for it; a traceparent that is none begins a trace without state', async () => {
        const { id: workflowId } = await createWorkflow(editor, chain(http('a', `${upstream.base}/trace-r`)));
        const first = await editor.post(`/api/v1/workflows/${workflowId}/execute`, {}, { headers, expect: 200 });
        await editor.post(`/api/v1/executions/${first.body.execution_id}/replay`, {}, { headers: { traceparent: 'nonsense', tracestate: 'vendor=1' }, expect: 200 });
        const [one, two] = [await upstream.called('/trace-r', 1), await upstream.called('/trace-r', 2)];
        assert.equal(traceOf(one)[1], id);
        assert.match(two.headers.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
        assert.notEqual(traceOf(two)[1], id);
        assert.equal(two.headers.tracestate, undefined);
    });

    test('a step that names a traceparent itself keeps it', async () => {
        const { id: workflowId } = await createWorkflow(editor, { steps: [{ id: 'a', type: 'http', with: { url: `${upstream.base}/trace-own`, headers: { Traceparent: '{{ input.t }}' } } }] });
        await editor.post(`/api/v1/workflows/${workflowId}/execute`, { input_data: { t: 'mine' } }, { headers, expect: 200 });
        const call = await upstream.called('/trace-own');
        assert.deepEqual([call.headers.traceparent, call.headers.tracestate], ['mine', undefined]);
    });
});

describe('replay', () => {
    const calls = (name) => ['a', 'b', 'c'].map((id) => upstream.count(`/${name}-${id}`));
    const three = (name) => chain(...['a', 'b', 'c'].map((id) => http(id, `${upstream.base}/${name}-${id}?n={{ input.n }}`)));

    test('from a step: it and what follows run anew, what came before keeps its result; linked and told as its own', async () => {
        const first = await runDefinition(editor, three('rp'), { n: 1 });
        assert.equal(first.status, 'completed', JSON.stringify(first));
        const { status, body } = await again(first.execution_id, 'replay', { from_step: 'b' });
        assert.equal(status, 200);
        assert.equal(body.status, 'completed', JSON.stringify(body));
        assert.deepEqual([body.parent_id, body.workflow_id, body.version, body.input_data], [first.execution_id, first.workflow_id, 1, { n: 1 }]);
        assert.deepEqual(calls('rp'), [1, 2, 2]);
        assert.deepEqual(stepOf(body, 'a'), stepOf(first, 'a'));
        assert.equal(body.trigger.type, 'manual');
        assert.equal(body.trigger.replay.execution_id, first.execution_id);
        assert.deepEqual(await getExecution(editor, body.execution_id), body);
        assert.deepEqual(await getExecution(editor, first.execution_id), first);
        const { text } = await editor.get(`/api/v1/executions/${body.execution_id}/events`, { raw: true, expect: 200 });
        assert.deepEqual([...text.matchAll(/^event: (.+)$/gm)].map((m) => m[1]), ['execution.started', 'step.started', 'step.completed', 'step.started', 'step.completed', 'execution.completed']);
    });

    test('with another input, from a step or as a whole; without a body everything runs again', async () => {
        const first = await runDefinition(editor, three('ri'), { n: 1 });
        const from = (await again(first.execution_id, 'replay', { from_step: 'c', input_data: { n: 2 } })).body;
        assert.deepEqual([from.input_data, calls('ri')], [{ n: 2 }, [1, 1, 2]]);
        assert.ok(stepOf(from, 'c').input_data.url.endsWith('n=2'));
        const whole = (await again(first.execution_id, 'replay')).body;
        assert.deepEqual([whole.status, whole.input_data, calls('ri')], ['completed', { n: 1 }, [2, 2, 3]]);
    });

    test('a replay can be replayed, and a new version of the workflow changes nothing', async () => {
        const first = await runDefinition(editor, three('rr'), { n: 1 });
        await editor.put(`/api/v1/workflows/${first.workflow_id}`, { name: 'other', definition: { steps: [transform('x')] } }, { expect: 200 });
        const second = (await again(first.execution_id, 'replay', { from_step: 'c' })).body;
        const third = (await again(second.execution_id, 'replay', { from_step: 'c' })).body;
        assert.deepEqual([second.version, third.version, third.parent_id, calls('rr')], [1, 1, second.execution_id, [1, 1, 3]]);
    });

    test('the same Idempotency-Key is the same replay; another body is 422', async () => {
        const first = await runDefinition(editor, three('rk'), { n: 1 });
        const headers = { 'idempotency-key': 'again-1' };
        const one = await again(first.execution_id, 'replay', { from_step: 'c' }, { headers });
        const two = await again(first.execution_id, 'replay', { from_step: 'c' }, { headers });
        assert.equal(two.body.execution_id, one.body.execution_id);
        assert.equal(calls('rk')[2], 2);
        assert.equal((await again(first.execution_id, 'replay', { from_step: 'b' }, { headers })).status, 422);
    });

    test('refusals: unknown step 422, still running 409, no history 409, inactive 409, unknown 404', async () => {
        const first = await runDefinition(editor, { steps: [transform('t')], settings: { save: 'none' } });
        const code = async (id, verb, body) => {
            const answer = await again(id, verb, body);
            return [answer.status, answer.body.code];
        };
        assert.equal((await again(first.execution_id, 'replay', { from_step: 'ghost' })).status, 409);
        assert.deepEqual(await code(first.execution_id, 'replay', { from_step: 't' }), [409, 'executions.no_history']);
        assert.equal((await again(first.execution_id, 'replay', {})).body.status, 'completed');
        const kept = await runDefinition(editor, { steps: [transform('t')] });
        const unknown = await again(kept.execution_id, 'replay', { from_step: 'ghost' });
        assert.equal(unknown.status, 422);
        assert.equal(unknown.body.errors[0].pointer, '/from_step');
        const id = await begin(sleeping);
        assert.deepEqual(await code(id, 'replay', {}), [409, 'executions.not_final']);
        await cancel(id);
        await editor.patch(`/api/v1/workflows/${kept.workflow_id}`, { is_active: false }, { type: 'application/merge-patch+json', expect: 200 });
        assert.deepEqual(await code(kept.execution_id, 'replay', {}), [409, 'executions.workflow_inactive']);
        assert.equal((await again('execution_01h455vb4pex5vsknk084sn02q', 'replay', {})).status, 404);
    });
});

describe('retry', () => {
    test('from what failed: a passing failure is gone, the rest is not called again', async () => {
        const definition = { ...chain(http('a', `${upstream.base}/rt-a`), http('b', `${upstream.base}/flaky-rt`), transform('z', { n: '{{ steps.a.output.status }}' })) };
        const first = await runDefinition(editor, definition);
        assert.deepEqual([first.status, statuses(first)], ['failed', { a: 'completed', b: 'failed', z: 'pending' }]);
        const { body } = await again(first.execution_id, 'retry');
        assert.deepEqual([body.status, statuses(body), body.parent_id], ['completed', { a: 'completed', b: 'completed', z: 'completed' }, first.execution_id]);
        assert.deepEqual([upstream.count('/rt-a'), upstream.count('/flaky-rt')], [1, 2]);
        assert.equal((await again(body.execution_id, 'retry')).body.code, 'executions.not_failed');
    });

    test('a cancelled execution too; wait=0 is 202 with a Location', async () => {
        const id = await begin(sleeping);
        await cancel(id);
        await finalExecution(editor, id);
        const answer = await again(id, 'retry?wait=0');
        assert.equal(answer.status, 202, answer.text);
        assert.equal(answer.headers.get('location'), `/api/v1/executions/${answer.body.execution_id}`);
        assert.equal((await cancel(answer.body.execution_id)).status, 202);
    });
});
