// Executions under control: branches taken, runs cancelled, runs played again.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chain, createWorkflow, execute, finalExecution, getExecution, http, runDefinition, statuses, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir, editor, upstream;
before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(async () => {
    await upstream?.stop();
    await weir?.stop();
});

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
