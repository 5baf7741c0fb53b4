// Idempotency-Key on POSTs that change something. Executions and webhooks join instead: engine.test.mjs, triggers.test.mjs.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { createWorkflow, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';

const simple = { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] };
let weir, editor;
before(async () => {
    weir = await Weir.start();
    editor = await weir.as('editor');
});
after(() => weir?.stop());

let serial = 0;
const fresh = () => `key-${++serial}-${process.pid}`;
const under = (key, expect) => ({ headers: { 'idempotency-key': key }, expect });
const count = async () => Number((await editor.get('/api/v1/workflows?count=true&limit=1')).headers.get('x-total-count'));
const replayed = (answer) => answer.headers.get('idempotent-replayed');

describe('the same key', () => {
    test('makes one workflow, and is answered alike', async () => {
        const key = fresh(), body = { name: 'once', definition: simple }, before_ = await count();
        const first = await editor.post('/api/v1/workflows', body, under(key, 201));
        const again = await editor.post('/api/v1/workflows', body, under(key, 201));
        assert.deepEqual(again.body, first.body);
        assert.deepEqual([replayed(first), replayed(again)], [null, 'true']);
        for (const name of ['location', 'etag', 'content-type']) assert.equal(again.headers.get(name), first.headers.get(name), name);
        assert.notEqual(again.headers.get('x-request-id'), first.headers.get('x-request-id'));
        assert.equal(await count(), before_ + 1);
    });

    test('with another body is refused, and does nothing', async () => {
        const key = fresh();
        await editor.post('/api/v1/workflows', { name: 'a', definition: simple }, under(key, 201));
        const n = await count(), refused = await editor.post('/api/v1/workflows', { name: 'b', definition: simple }, under(key, 422));
        assert.equal(refused.body.code, 'idempotency.mismatch');
        assert.equal(await count(), n);
    });

    test('many at once: one is carried out, the others are told to wait or get its answer', async () => {
        const key = fresh(), n = await count(), body = { name: 'race', definition: simple };
        const answers = await Promise.all(Array.from({ length: 16 }, () => editor.post('/api/v1/workflows', body, under(key, [201, 409]))));
        assert.equal(await count(), n + 1);
        assert.equal(answers.filter((answer) => answer.status === 201 && !replayed(answer)).length, 1);
        for (const answer of answers.filter((one) => one.status === 409)) assert.equal(answer.body.code, 'idempotency.running');
        assert.equal(replayed(await editor.post('/api/v1/workflows', body, under(key, 201))), 'true');
    });

    test('counts for its caller, its tenant and its route only', async () => {
        const key = fresh(), body = { name: 'mine', definition: simple };
        const first = await editor.post('/api/v1/workflows', body, under(key, 201));
        for (const other of [await weir.as('admin'), await weir.as('editor', 'globex')]) {
            const theirs = await other.post('/api/v1/workflows', body, under(key, 201));
            assert.equal(replayed(theirs), null);
            assert.notEqual(theirs.body.id, first.body.id);
        }
        const trigger = await editor.post(`/api/v1/webhooks/${first.body.id}/triggers`, { name: 'hook' }, under(key, 201));
        const other = await createWorkflow(editor, simple);
        const elsewhere = await editor.post(`/api/v1/webhooks/${other.id}/triggers`, { name: 'hook' }, under(key, 201));
        assert.notEqual(elsewhere.body.id, trigger.body.id);
        const again = await editor.post(`/api/v1/webhooks/${first.body.id}/triggers`, { name: 'hook' }, under(key, 201));
        assert.deepEqual([again.body.id, replayed(again)], [trigger.body.id, 'true']);
    });

    test('is free again when its request did nothing', async () => {
        const key = fresh();
        await editor.post('/api/v1/workflows', { name: '', definition: simple }, under(key, 422));
        const made = await editor.post('/api/v1/workflows', { name: 'right', definition: simple }, under(key, 201));
        assert.equal(replayed(made), null);
    });

    test('outlives the object that it made, and a restart', async () => {
        const key = fresh(), body = { name: 'gone', definition: simple };
        const first = await editor.post('/api/v1/workflows', body, under(key, 201));
        await editor.del(`/api/v1/workflows/${first.body.id}`, { expect: 204 });
        await weir.kill();
        await weir.serve();
        const again = await editor.post('/api/v1/workflows', body, under(key, 201));
        assert.deepEqual([again.body.id, replayed(again)], [first.body.id, 'true']);
        await editor.get(`/api/v1/workflows/${first.body.id}`, { expect: 404 });
    });
});

test('an answer above 64 KiB is not kept, but not repeated either', async () => {
    const key = fresh(), n = await count(), body = { name: 'large', definition: { steps: [transform('t', { text: 'x'.repeat(70_000) })] } };
    const first = await editor.post('/api/v1/workflows', body, under(key, 201));
    const again = await editor.post('/api/v1/workflows', body, under(key, 409));
    assert.equal(again.body.code, 'idempotency.not_kept');
    assert.equal(again.headers.get('location'), first.headers.get('location'));
    assert.equal(await count(), n + 1);
});

test('a key that cannot be one is named', async () => {
    for (const key of ['with space', 'x'.repeat(256)]) {
        const refused = await editor.post('/api/v1/workflows', { name: 'x', definition: simple }, under(key, 422));
        errorAt(refused, 'header/Idempotency-Key');
    }
});

test('reads and logins take no notice of it: tokens are never kept', async () => {
    const key = fresh();
    for (let i = 0; i < 2; i++) {
        const checked = await editor.post('/api/v1/workflows/validate', { definition: simple }, under(key, 200));
        assert.equal(replayed(checked), null);
        const login = await weir.anonymous().post('/api/v1/auth/token', { email: 'viewer@acme.test', password: 'Kestrel-7-marble-lantern' }, under(key, 200));
        assert.equal(replayed(login), null);
    }
});

test('the document says where a key counts', async () => {
    const { body } = await weir.anonymous().get('/openapi.json');
    const takes = (path) => (body.paths[path].post.parameters ?? []).some((one) => one.in === 'header' && one.name === 'Idempotency-Key');
    assert.ok(takes('/api/v1/workflows') && takes('/api/v1/workflows/{id}/execute'));
    assert.ok(!takes('/api/v1/auth/token') && !takes('/api/v1/workflows/validate'));
});
