// ETag, If-None-Match and If-Match on workflows and triggers.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';

const simple = { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] };
let weir, editor;
before(async () => {
    weir = await Weir.start();
    editor = await weir.as('editor');
});
after(() => weir?.stop());

const tagOf = async (path) => (await editor.get(path, { expect: 200 })).headers.get('etag');
const when = (tag, expect) => ({ headers: { 'if-match': tag }, expect });
const unless = (tag, expect) => ({ headers: { 'if-none-match': tag }, expect });

describe('reading', () => {
    test('a strong tag stands on what is made, read and changed, and is the same for the same state', async () => {
        const made = await editor.post('/api/v1/workflows', { name: 'tagged', definition: simple }, { expect: 201 });
        const path = `/api/v1/workflows/${made.body.id}`, tag = await tagOf(path);
        assert.match(tag, /^"[0-9a-f]{24}"$/);
        assert.equal(made.headers.get('etag'), tag);
        assert.equal(await tagOf(path), tag);
        const changed = await editor.patch(path, { name: 'renamed' }, { expect: 200 });
        assert.notEqual(changed.headers.get('etag'), tag);
        assert.equal(await tagOf(path), changed.headers.get('etag'));
        const same = await editor.patch(path, { name: 'renamed' }, { expect: 200 });
        assert.equal(same.headers.get('etag'), changed.headers.get('etag'));
    });

    test('304 has the tag and no body; another tag, or a changed object, is sent whole', async () => {
        const { id } = await createWorkflow(editor, simple), path = `/api/v1/workflows/${id}`, tag = await tagOf(path);
        for (const field of [tag, `W/${tag}`, '*', `"x", ${tag}`, tag.replace(/"$/, '-br"')]) {
            const answer = await editor.get(path, unless(field, 304));
            assert.deepEqual([answer.text, answer.headers.get('etag')], ['', tag]);
        }
        await editor.get(path, unless('"x"', 200));
        await editor.patch(path, { name: 'other' }, { expect: 200 });
        await editor.get(path, unless(tag, 200));
        assert.equal((await editor.head(path, unless(await tagOf(path)))).status, 304);
    });

    test('a tag is refreshed by every change of the triggers that a definition shows', async () => {
        const { id } = await createWorkflow(editor, simple), path = `/api/v1/workflows/${id}`;
        const seen = new Set([await tagOf(path)]);
        const fresh = async (what) => {
            const tag = await tagOf(path);
            assert.ok(!seen.has(tag), what);
            seen.add(tag);
        };
        const first = await createTrigger(editor, id);
        await fresh('made');
        await createTrigger(editor, id);
        await fresh('a second one made');
        const { webhook_url, workflow_id, created_by, created_at, updated_at, id: trigger, ...body } = first;
        await editor.put(`/api/v1/webhooks/${id}/triggers/${trigger}`, { ...body, name: 'changed' }, { expect: 200 });
        await fresh('changed');
        await editor.del(`/api/v1/webhooks/${id}/triggers/${trigger}`, { expect: 204 });
        await fresh('deleted');
    });

    test('a tag is the same whoever makes it: the answer to a change, a read, a condition', async () => {
        const { id } = await createWorkflow(editor, simple, { name: 'none' }), path = `/api/v1/workflows/${id}`;
        const plain = (answer) => answer.headers.get('etag').replace(/-[a-z]+"$/, '"'); // without its coding
        const agree = async (changed, name) => {
            const tag = plain(changed), read = [await editor.get(path), await editor.get(path, unless('"another"', 200)), await editor.get(path, when(tag, 200))];
            assert.deepEqual(read.map((answer) => [plain(answer), answer.body.name]), Array(3).fill([tag, name]));
            assert.equal(plain(await editor.get(path, unless(tag, 304))), tag);
        };
        const rename = (name) => editor.patch(path, { name }, { expect: 200 });
        await agree(await rename('no trigger'), 'no trigger');
        const trigger = await createTrigger(editor, id);
        await agree(await rename('one'), 'one');
        for (let i = 0; i < 3; i++) await createTrigger(editor, id);
        await agree(await rename('four'), 'four');
        await editor.del(`/api/v1/webhooks/${id}/triggers/${trigger.id}`, { expect: 204 });
        await agree(await rename('three'), 'three');
        await agree(await editor.put(path, { name: 'second', definition: { steps: [transform('u', { n: 1 })] } }, { expect: 200 }), 'second');
        await agree(await editor.post(`${path}/versions/1/restore`, undefined, { expect: 200 }), 'second');
    });

    test('a tag does not hide that an object is gone, or somebody else\'s', async () => {
        const { id } = await createWorkflow(editor, simple), path = `/api/v1/workflows/${id}`;
        const trigger = await createTrigger(editor, id), triggerPath = `/api/v1/webhooks/${id}/triggers/${trigger.id}`;
        const tags = [await tagOf(path), await tagOf(triggerPath)];
        const stranger = await weir.as('editor', 'globex');
        await stranger.get(path, unless(tags[0], 404));
        await editor.del(path, { expect: 204 });
        await editor.get(path, unless(tags[0], 404));
        await editor.get(triggerPath, unless(tags[1], 404));
    });

    test('each coding has a tag of its own, and either is understood', async () => {
        const { id } = await createWorkflow(editor, { steps: [transform('t', { text: 'w'.repeat(2000) })] }), path = `/api/v1/workflows/${id}`;
        const answer = await editor.get(path, { headers: { 'accept-encoding': 'gzip' }, expect: 200 });
        const tag = answer.headers.get('etag');
        assert.match(tag, /-gzip"$/);
        await editor.get(path, unless(tag, 304));
        await editor.patch(path, { name: 'by the coded tag' }, when(tag, 200));
    });
});

describe('changing', () => {
    test('PUT, PATCH and DELETE with a stale tag change nothing: 412', async () => {
        const { id } = await createWorkflow(editor, simple, { name: 'mine' }), path = `/api/v1/workflows/${id}`, old = await tagOf(path);
        const { headers } = await editor.patch(path, { name: 'theirs' }, when(old, 200));
        for (const answer of [await editor.patch(path, { name: 'lost' }, when(old, 412)), await editor.put(path, { name: 'lost', definition: simple }, when(old, 412)), await editor.del(path, when(old, 412))])
            assert.deepEqual([answer.body.code, answer.headers.get('etag')], ['request.precondition_failed', null]);
        assert.equal((await editor.get(path)).body.name, 'theirs');
        await editor.patch(path, { name: 'weak' }, when(`W/${headers.get('etag')}`, 412));
        await editor.patch(path, { name: 'any' }, when('*', 200));
        await editor.del(path, when(await tagOf(path), 204));
        await editor.del(path, when('*', 404));
    });

    test('of many that read the same state, one wins', async () => {
        const { id } = await createWorkflow(editor, simple), path = `/api/v1/workflows/${id}`, tag = await tagOf(path);
        const answers = await Promise.all(Array.from({ length: 12 }, (_, i) => editor.patch(path, { name: `writer ${i}` }, when(tag))));
        const statuses = answers.map((answer) => answer.status).sort();
        assert.deepEqual(statuses, [200, ...Array(11).fill(412)]);
        const winner = answers.find((answer) => answer.status === 200);
        assert.equal((await editor.get(path)).body.name, winner.body.name);
    });

    test('triggers as well', async () => {
        const { id } = await createWorkflow(editor, simple), made = await createTrigger(editor, id);
        const path = `/api/v1/webhooks/${id}/triggers/${made.id}`, old = await tagOf(path);
        const changed = await editor.put(path, { name: 'second' }, when(old, 200));
        assert.equal(changed.headers.get('etag'), await tagOf(path));
        await editor.put(path, { name: 'third' }, when(old, 412));
        await editor.del(path, when(old, 412));
        await editor.get(path, unless(changed.headers.get('etag'), 304));
        await editor.del(path, when(changed.headers.get('etag'), 204));
    });

    test('without If-Match a change is made, as ever', async () => {
        const { id } = await createWorkflow(editor, simple);
        await editor.patch(`/api/v1/workflows/${id}`, { name: 'free' }, { expect: 200 });
    });

    test('If-None-Match: * on a change means that there must be none', async () => {
        const { id } = await createWorkflow(editor, simple);
        await editor.put(`/api/v1/workflows/${id}`, { name: 'x', definition: simple }, unless('*', 412));
    });
});
