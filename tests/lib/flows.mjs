// flows.mjs - short words for what most tests begin with: a workflow, a trigger, an execution, the record of one step.

import assert from 'node:assert/strict';
import { until } from './wait.mjs';

export const FINAL = new Set(['completed', 'failed', 'cancelled', 'timed_out']);
let serial = 0;

export const transform = (id, values = {}) => ({ id, type: 'transform', with: values });
export const script = (id, code, args) => ({ id, type: 'script', with: args === undefined ? { code } : { code, args } });
/** A decision that others branch on: `steps.<id>.output.result`. */
export const decide = (id, expression) => transform(id, { result: `{{ ${expression} }}` });
export const http = (id, url, more = {}) => ({ id, type: 'http', with: { url }, ...more });
export const respond = (id, values) => ({ id, type: 'respond', with: values });

/** Steps that follow one another. */
export function chain(...steps) {
    return { steps, dependencies: Object.fromEntries(steps.slice(1).map((step, i) => [step.id, [steps[i].id]])) };
}

export async function createWorkflow(client, definition, more = {}) {
    const answer = await client.post('/api/v1/workflows', { name: `workflow ${++serial}`, definition, ...more }, { expect: 201 });
    return answer.body;
}

export async function createTrigger(client, workflowId, more = {}) {
    const body = { name: `trigger ${++serial}`, method: 'POST', auth_type: 'none', ...more };
    return (await client.post(`/api/v1/webhooks/${workflowId}/triggers`, body, { expect: 201 })).body;
}

/** Executes and waits: the execution, completed or failed. */
export async function execute(client, workflowId, input = {}) {
    const answer = await client.post(`/api/v1/workflows/${workflowId}/execute`, { input_data: input }, { expect: 200 });
    return answer.body;
}

/** Creates and executes in one go. */
export async function runDefinition(client, definition, input = {}) {
    const { id } = await createWorkflow(client, definition);
    return execute(client, id, input);
}

export async function getExecution(client, executionId) {
    return (await client.get(`/api/v1/executions/${executionId}`, { expect: 200 })).body;
}

export async function finalExecution(client, executionId, options = {}) {
    return until(`${executionId} ends`, async () => {
        const found = await getExecution(client, executionId);
        return FINAL.has(found.status) && found;
    }, { every_ms: 10, ...options });
}

export function stepOf(execution, id) {
    const found = execution.step_executions.find((step) => step.step_id === id);
    assert.ok(found, `no step ${id} in ${JSON.stringify(execution.step_executions)}`);
    return found;
}

export function statuses(execution) {
    return Object.fromEntries(execution.step_executions.map((step) => [step.step_id, step.status]));
}
