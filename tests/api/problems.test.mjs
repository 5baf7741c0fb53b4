// Problems: one shape for everything that goes wrong, with a stable code, and a pointer to what the caller can mend.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';

const simple = { steps: [transform('t')] };
let weir, editor, viewer, anyone;
before(async () => {
    weir = await Weir.start();
    [editor, viewer, anyone] = [await weir.as('editor'), await weir.as('viewer'), weir.anonymous()];
});
after(() => weir?.stop());

test('400: what cannot be decoded', async () => {
    await editor.post('/api/v1/workflows', '{"name":', { expect: 400 });
});

test('401: no token, a wrong one, or a path that nobody has, with WWW-Authenticate', async () => {
    await anyone.get('/api/v1/workflows', { expect: 401 });
    await anyone.bearer('nonsense').get('/api/v1/workflows', { expect: 401 });
    await anyone.get('/api/v1/no-such-thing', { expect: 401 });
    await anyone.bearer('nonsense').post('/api/v1/workflows', 'not even JSON', { expect: 401 });
});

test('403: known, but not allowed; the body is not even looked at', async () => {
    const { body } = await viewer.post('/api/v1/workflows', { nonsense: true }, { expect: 403 });
    assert.deepEqual(body.errors ?? [], []);
});

test('404: what is not there, with a token', async () => {
    await editor.get('/api/v1/no-such-thing', { expect: 404 });
    await anyone.get('/no-such-thing', { expect: 404 });
});

test('404: what belongs to another tenant answers as what is not there', async () => {
    const { id } = await createWorkflow(editor, simple);
    const stranger = await weir.as('owner', 'globex');
    const theirs = await stranger.get(`/api/v1/workflows/${id}`, { expect: 404 });
    const nobodys = await stranger.get('/api/v1/workflows/workflow_01h455vb4pex5vsknk084sn02q', { expect: 404 });
    const bare = ({ body }) => ({ ...body, request_id: '', detail: '' });
    assert.deepEqual(bare(theirs), bare(nobodys));
});

describe('422: well formed but wrong', () => {
    const cases = [
        [{ definition: simple }, '/name', 'field.required'],
        [{ name: '', definition: simple }, '/name', 'field.length'],
        [{ name: 7, definition: simple }, '/name', 'field.type'],
        [{ name: null, definition: simple }, '/name', null],
        [{ name: 'x', definition: simple, colour: 'red' }, '/colour', 'field.unknown'],
        [{ name: 'x', definition: simple, is_active: 'yes' }, '/is_active', 'field.type'],
        [{ name: 'x', definition: simple, tags: ['a', 7] }, '/tags/1', 'field.type'],
        [{ name: 'x', definition: [] }, '/definition', 'field.type'],
        [{ name: 'x', definition: { steps: [transform('a')], dependencies: { a: ['a'] } } }, '/definition/dependencies/a/0', null],
        [{ name: 'x', definition: simple, id: 'workflow_01h455vb4pex5vsknk084sn02q' }, '/id', 'field.read_only'],
    ];
    for (const [body, pointer, code] of cases)
        test(`${pointer} ${code ?? ''} of ${JSON.stringify(body).slice(0, 60)}`, async () => {
            const answer = await editor.post('/api/v1/workflows', body, { expect: 422 });
            const entry = errorAt(answer, pointer);
            if (code) assert.equal(entry.code, code);
        });

    test('every wrong thing is told in one answer', async () => {
        const answer = await editor.post('/api/v1/workflows', { name: '', is_active: 1, colour: 2 }, { expect: 422 });
        for (const pointer of ['/name', '/is_active', '/colour', '/definition']) errorAt(answer, pointer);
    });

    test('a body that is no object', async () => {
        for (const body of ['[]', '"x"', '7', 'null']) {
            const { status } = await editor.post('/api/v1/workflows', body);
            assert.ok([400, 422].includes(status), `${body}: ${status}`);
        }
    });

    test('at most 100 entries', async () => {
        const body = Object.fromEntries(Array.from({ length: 150 }, (_, i) => [`unknown_${i}`, 1]));
        const answer = await editor.post('/api/v1/workflows', { name: 'x', definition: simple, ...body }, { expect: 422 });
        assert.ok(answer.body.errors.length <= 100);
    });
});

test('405: with Allow', async () => {
    const answer = await editor.send('DELETE', '/api/v1/workflows', undefined, { expect: 405 });
    assert.match(answer.headers.get('allow'), /GET.*POST|POST.*GET/);
});

test('413: above 1 MiB', async () => {
    const { headers, body } = await editor.with({ 'x-request-id': 'large-1' }).post('/api/v1/workflows', { name: 'x'.repeat(1024 * 1024) }, { expect: 413 });
    assert.equal(headers.get('x-request-id'), 'large-1');
    assert.equal(body.request_id, 'large-1');
    assert.match(headers.get('traceparent'), /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/);
});

test('429: a flood on a trigger, with Retry-After', async () => {
    const { id } = await createWorkflow(editor, simple);
    const { webhook_url } = await createTrigger(editor, id, { rate_limit: 1 });
    const answers = await Promise.all(Array.from({ length: 10 }, () => anyone.post(webhook_url, {})));
    const limited = answers.find(({ status }) => status === 429);
    assert.ok(limited, answers.map(({ status }) => status).join());
    assert.ok(Number(limited.headers.get('retry-after')) >= 1);
});

test('private answers are not to be stored', async () => {
    const { headers } = await editor.get('/api/v1/workflows', { expect: 200 });
    assert.match(headers.get('cache-control'), /no-store/);
});
