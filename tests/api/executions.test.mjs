// Executions under control: branches taken, runs cancelled, runs played again.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createWorkflow, runDefinition, statuses, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir } from '../lib/server.mjs';

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
