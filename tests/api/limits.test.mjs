// Limits: the published ones are those that are enforced, at n and at n+1.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createTrigger, createWorkflow, runDefinition, script, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';

let weir, editor, limits;
before(async () => {
    weir = await Weir.start();
    editor = await weir.as('editor');
    limits = (await editor.get('/api/v1/limits', { expect: 200 })).body;
});
after(() => weir?.stop());

const validate = async (definition) => (await editor.post('/api/v1/workflows/validate', { definition }, { expect: 200 })).body;
const nested = (levels) => '['.repeat(levels) + ']'.repeat(levels);

test('all are positive whole numbers', () => {
    for (const [name, value] of Object.entries(limits)) assert.ok(Number.isSafeInteger(value) && value > 0, name);
});

test('steps', async () => {
    const steps = (n) => ({ steps: Array.from({ length: n }, (_, i) => transform(`s${i}`)) });
    assert.equal((await validate(steps(limits.steps))).valid, true);
    assert.equal((await validate(steps(limits.steps + 1))).valid, false);
});

test('execution_depth', async () => {
    const { id } = await createWorkflow(editor, { steps: [transform('t')] });
    const itself = { steps: [{ id: 'w', type: 'workflow', with: { workflow_id: id, input: { n: '{{ input.n + 1 }}' } } }], conditions: { w: 'input.n < input.most' } };
    const down = (most) => ({ ...itself, steps: [{ ...itself.steps[0], with: { workflow_id: id, input: { n: '{{ input.n + 1 }}', most } } }] });
    const run = async (most) => {
        await editor.put(`/api/v1/workflows/${id}`, { name: 'deep', definition: down(most) }, { expect: 200 });
        return (await editor.post(`/api/v1/workflows/${id}/execute`, { input_data: { n: 0, most } }, { expect: 200 })).body;
    };
    assert.equal((await run(limits.execution_depth)).status, 'completed');
    assert.match((await run(limits.execution_depth + 1)).error.message, /levels deep/);
});

test('json_nesting', async () => {
    const send = (levels) => editor.post('/api/v1/workflows/validate', `{"definition":${nested(levels - 1)}}`);
    assert.notEqual((await send(limits.json_nesting)).body.code, 'request.json');
    const { body } = await send(limits.json_nesting + 1);
    assert.equal(body.errors[0].code, 'json.depth');
});

test('value_nesting', async () => {
    const run = (levels) => runDefinition(editor, { steps: [script('a', `local v = json.array{} for i = 2, ${levels} do v = json.array{v} end return v`)] });
    assert.equal((await run(limits.value_nesting)).status, 'completed');
    assert.equal((await run(limits.value_nesting + 1)).error.code, 'step.too_deep');
});

test('value_bytes', async () => {
    const run = (bytes) => runDefinition(editor, { steps: [script('a', `return string.rep('x', ${bytes - 2})`)], settings: { save: 'none' } });
    const whole = await run(limits.value_bytes);
    assert.equal(whole.status, 'completed', JSON.stringify(whole.error));
    assert.match((await run(limits.value_bytes + 1)).error.code, /^(expr\.(too_large|memory)|step\.too_large)$/);
});

test('expression_bytes and expression_instructions', async () => {
    const code = (bytes) => ({ steps: [script('a', 'return 1'.padEnd(bytes, ' '))] });
    assert.equal((await validate(code(limits.expression_bytes))).valid, true);
    assert.equal((await validate(code(limits.expression_bytes + 1))).valid, false);
    const run = (loops) => runDefinition(editor, { steps: [script('a', `for i = 1, ${loops} do end return 1`)] });
    assert.equal((await run(limits.expression_instructions / 10)).status, 'completed');
    assert.match((await run(limits.expression_instructions * 2)).error.code, /^expr\.instructions$/);
});

test('request_body_bytes', async () => {
    const send = (bytes) => editor.post('/api/v1/workflows/validate', `{"definition":"${'x'.repeat(bytes - 17)}"}`);
    assert.notEqual((await send(limits.request_body_bytes)).status, 413);
    assert.equal((await send(limits.request_body_bytes + 1)).status, 413);
});

test('webhook_body_bytes and triggers', async () => {
    const { id } = await createWorkflow(editor, { steps: [transform('t')] });
    await createTrigger(editor, id, { max_body_bytes: limits.webhook_body_bytes });
    await editor.post(`/api/v1/webhooks/${id}/triggers`, { name: 'x', method: 'POST', auth_type: 'none', max_body_bytes: limits.webhook_body_bytes + 1 }, { expect: 422 });
    for (let i = 1; i < limits.triggers; i++) await createTrigger(editor, id);
    await editor.post(`/api/v1/webhooks/${id}/triggers`, { name: 'one more', method: 'POST', auth_type: 'none' }, { expect: 422 });
});
