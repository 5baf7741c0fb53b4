// Workflows: create, read, change, version, validate, execute, and the list of executions.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { chain, createWorkflow, decide, execute, finalExecution, http, respond, runDefinition, script, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';

const UNKNOWN = 'workflow_01h455vb4pex5vsknk084sn02q';
const simple = { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] };
let weir, editor, member, upstream;
before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    [editor, member] = [await weir.as('editor'), await weir.as('member')];
});
after(() => stopAll(upstream, weir));

describe('create and read', () => {
    test('201 with Location and the object that GET then answers', async () => {
        const body = { name: 'first', description: 'what it does', definition: simple, tags: ['a', 'b'] };
        const made = await editor.post('/api/v1/workflows', body, { expect: 201 });
        assert.match(made.body.id, /^workflow_[0-9a-hjkmnp-tv-z]{26}$/);
        assert.equal(made.body.workflow_id, made.body.id);
        assert.equal(made.headers.get('location'), `/api/v1/workflows/${made.body.id}`);
        assert.deepEqual([made.body.name, made.body.description, made.body.tags, made.body.is_active, made.body.version], ['first', body.description, body.tags, true, 1]);
        assert.match(made.body.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
        const read = await member.get(`/api/v1/workflows/${made.body.id}`, { expect: 200 });
        assert.deepEqual(read.body, made.body);
        assert.deepEqual(read.body.definition.steps, simple.steps);
    });

    test('names need not be unique', async () => {
        await createWorkflow(editor, simple, { name: 'twin' });
        await createWorkflow(editor, simple, { name: 'twin' });
    });

    test('a definition keeps its numbers and its order of members', async () => {
        const values = { z: 9007199254740993n.toString(), a: 1, m: [1, 2.5, true, null] };
        const text = `{"name":"exact","definition":{"steps":[{"id":"t","type":"transform","with":{"z":9007199254740993,"a":1,"m":[1,2.5,true,null]}}]}}`;
        const made = await editor.post('/api/v1/workflows', text, { expect: 201 });
        assert.match(made.text, new RegExp(`"with":\\{"z":${values.z},"a":1,"m":\\[1,2\\.5,true,null\\]\\}`));
    });

    test('an unknown or malformed id is 404', async () => {
        assert.equal((await editor.get(`/api/v1/workflows/${UNKNOWN}`)).status, 404);
        assert.equal((await editor.get('/api/v1/workflows/nonsense')).status, 404);
        assert.equal((await editor.get('/api/v1/workflows/execution_01h455vb4pex5vsknk084sn02q')).status, 404);
    });
});

describe('change', () => {
    test('a PUT that changes the definition makes a new version; one that does not, does not', async () => {
        const { id } = await createWorkflow(editor, simple, { name: 'v' });
        const path = `/api/v1/workflows/${id}`;
        const renamed = await editor.put(path, { name: 'renamed', definition: simple }, { expect: 200 });
        assert.deepEqual([renamed.body.name, renamed.body.version], ['renamed', 1]);
        const changed = await editor.put(path, { name: 'renamed', definition: { steps: [transform('other')] } }, { expect: 200 });
        assert.equal(changed.body.version, 2);
        const versions = (await member.get(`${path}/versions`, { expect: 200 })).body;
        assert.deepEqual(versions.map((row) => row.version), [2, 1]);
        const old = (await member.get(`${path}/versions/1`, { expect: 200 })).body;
        assert.deepEqual(old.definition.steps, simple.steps);
        assert.equal((await member.get(`${path}/versions/3`)).status, 404);
    });

    test('PATCH is a merge patch: what is absent stays, null takes away', async () => {
        const { id } = await createWorkflow(editor, simple, { description: 'text', tags: ['x'] });
        const patched = await editor.patch(`/api/v1/workflows/${id}`, { description: null, is_active: false }, { type: 'application/merge-patch+json', expect: 200 });
        assert.deepEqual([patched.body.description || null, patched.body.is_active, patched.body.tags], [null, false, ['x']]);
        assert.equal(patched.body.version, 1);
    });

    test('a deleted workflow is gone: 204, then 404, and it is in no list', async () => {
        const { id } = await createWorkflow(editor, simple);
        await editor.del(`/api/v1/workflows/${id}`, { expect: 204 });
        await editor.get(`/api/v1/workflows/${id}`, { expect: 404 });
        await editor.del(`/api/v1/workflows/${id}`, { expect: 404 });
        const list = (await editor.get('/api/v1/workflows?limit=100')).body;
        assert.ok(!list.some((row) => row.id === id));
    });

    test('restore brings an old definition back as the newest version', async () => {
        const { id } = await createWorkflow(editor, simple);
        const path = `/api/v1/workflows/${id}`;
        await editor.put(path, { name: 'r', definition: { steps: [transform('other')] } }, { expect: 200 });
        const restored = await editor.post(`${path}/versions/1/restore`, undefined, { type: null });
        assert.ok([200, 201].includes(restored.status), restored.text);
        const now = await editor.get(path);
        assert.deepEqual([now.body.version, now.body.definition.steps], [3, simple.steps]);
        assert.equal(restored.headers.get('etag'), now.headers.get('etag'));
    });

    test('a restore is compared with If-Match like any change', async () => {
        const { id } = await createWorkflow(editor, simple);
        const path = `/api/v1/workflows/${id}`, etag = (await editor.get(path)).headers.get('etag');
        await editor.patch(path, { name: 'meanwhile' }, { type: 'application/json', expect: 200 });
        const restore = (tag) => editor.post(`${path}/versions/1/restore`, undefined, { type: null, headers: { 'if-match': tag } });
        assert.equal((await restore(etag)).status, 412);
        assert.equal((await restore((await editor.get(path)).headers.get('etag'))).status, 200);
    });
});

describe('lists', () => {
    let small;
    before(async () => {
        small = await weir.as('editor', 'globex');
        for (let i = 0; i < 5; i++) await createWorkflow(small, simple, { name: `w${i}` });
    });

    test('pages by Link until the end, each row once, newest first', async () => {
        const seen = [];
        let path = '/api/v1/workflows?limit=2';
        for (let pages = 0; path && pages < 10; pages++) {
            const { body, headers } = await small.get(path, { expect: 200 });
            assert.ok(body.length <= 2);
            seen.push(...body.map((row) => row.name));
            path = /<([^>]+)>; *rel="next"/.exec(headers.get('link') ?? '')?.[1]?.replace(/^https?:\/\/[^/]+/, '');
        }
        assert.deepEqual(seen, ['w4', 'w3', 'w2', 'w1', 'w0']);
    });

    test('skip leaves rows out, count=true tells all', async () => {
        const skipped = await small.get('/api/v1/workflows?skip=3&count=true', { expect: 200 });
        assert.deepEqual(skipped.body.map((row) => row.name), ['w1', 'w0']);
        assert.equal(skipped.headers.get('x-total-count'), '5');
        assert.equal((await small.get('/api/v1/workflows')).headers.get('x-total-count'), null);
    });

    test('a bound too far, an unknown parameter and a bad value are 422 with their name', async () => {
        for (const [query, pointer] of [['limit=101', 'query/limit'], ['limit=0', 'query/limit'], ['limit=x', 'query/limit'], ['nonsense=1', 'query/nonsense'], ['limit=1&limit=2', 'query/limit']]) {
            const answer = await small.get(`/api/v1/workflows?${query}`);
            assert.equal(answer.status, 422, query);
            errorAt(answer, pointer);
        }
        await small.get('/api/v1/workflows?limit=100', { expect: 200 });
    });
});

describe('validate', () => {
    const validate = (definition) => editor.post('/api/v1/workflows/validate', { definition });
    test('a good definition answers its levels', async () => {
        const steps = [transform('a'), transform('b'), transform('c'), transform('d')];
        const { status, body } = await validate({ steps, dependencies: { b: ['a'], c: ['a'], d: ['b', 'c'] } });
        assert.equal(status, 200);
        assert.equal(body.valid, true);
        assert.deepEqual(body.levels, [['a'], ['b', 'c'], ['d']]);
    });

    const wrong = {
        'no steps': [{}, '/definition/steps'],
        'an unknown dependency': [{ steps: [transform('a')], dependencies: { a: ['ghost'] } }, '/definition/dependencies/a/0'],
        'dependencies of an unknown step': [{ steps: [transform('a')], dependencies: { ghost: ['a'] } }, '/definition/dependencies/ghost'],
        'a condition of an unknown step': [{ steps: [transform('a')], conditions: { ghost: 'true' } }, '/definition/conditions/ghost'],
        'a step id twice': [{ steps: [transform('a'), transform('a')] }, '/definition/steps/1/id'],
        'an unknown kind': [{ steps: [{ id: 'a', type: 'teleport', with: {} }] }, '/definition/steps/0/type'],
        'a missing member of with': [{ steps: [{ id: 'a', type: 'http', with: {} }] }, '/definition/steps/0/with/url'],
        'an unknown member of with': [{ steps: [http('a', 'http://x.test/', { with: { url: 'http://x.test/', verb: 'GET' } })] }, '/definition/steps/0/with/verb'],
        'an unknown member of a step': [{ steps: [{ ...transform('a'), wiht: {} }] }, '/definition/steps/0/wiht'],
        'a bad expression': [{ steps: [transform('a', { x: '{{ 1 + }}' })] }, '/definition/steps/0/with/x'],
        'a bad condition': [{ steps: [transform('a')], conditions: { a: 'input.x >' } }, '/definition/conditions/a'],
        'a script that does not parse': [{ steps: [script('a', 'return return')] }, '/definition/steps/0/with/code'],
        'a name with slash and tilde, escaped': [{ steps: [transform('a', { 'x/y~z': '{{ ) }}' })] }, '/definition/steps/0/with/x~1y~0z'],
    };
    for (const [what, [definition, pointer]] of Object.entries(wrong))
        test(`${what} is told at ${pointer}, by validate and by create`, async () => {
            const dry = await validate(definition);
            const problems = dry.status === 200 ? dry.body : { errors: dry.body.errors };
            assert.ok(dry.status === 422 || dry.body.valid === false, dry.text);
            assert.ok(problems.errors.some((entry) => entry.pointer === pointer), dry.text);
            const made = await editor.post('/api/v1/workflows', { name: 'bad', definition });
            assert.equal(made.status, 422, made.text);
            errorAt(made, pointer);
        });

    test('a cycle is told, with its steps', async () => {
        const { text } = await validate({ steps: [transform('a'), transform('b')], dependencies: { a: ['b'], b: ['a'] } });
        assert.match(text, /cycle/i);
    });

    test('all problems come at once', async () => {
        const shapes = await validate({ steps: [{ id: 'b', type: 'teleport', with: {} }, http('c', 7)], colour: 1 });
        assert.equal(shapes.body.errors.length, 3, shapes.text);
        // What refers to other steps is looked at when the shape is right.
        const meaning = await validate({ steps: [transform('a', { x: '{{ 1 + }}', y: '{{ ( }}' })], dependencies: { a: ['ghost'] } });
        assert.equal(meaning.body.errors.length, 3, meaning.text);
    });

    test('1,000 steps are fine, 1,001 are not; 100 levels of nesting are fine in a value', async () => {
        const steps = (n) => ({ steps: Array.from({ length: n }, (_, i) => transform(`s${i}`)) });
        assert.equal((await validate(steps(1000))).status, 200);
        const over = await validate(steps(1001));
        assert.ok(over.status === 422 || over.body.valid === false);
    });
});

describe('execute', () => {
    test('runs and waits: 200 with the execution, its history and its output', async () => {
        const done = await runDefinition(editor, simple, { n: 21 });
        assert.match(done.execution_id, /^execution_/);
        assert.deepEqual([done.status, done.version, done.output_data, done.input_data], ['completed', 1, { t: { doubled: 42 } }, { n: 21 }]);
        const [step] = done.step_executions;
        assert.deepEqual([step.step_id, step.type, step.status, step.attempt, step.output_data], ['t', 'transform', 'completed', 1, { doubled: 42 }]);
        assert.equal(typeof done.execution_time, 'number');
        assert.equal(step.error ?? null, null);
    });

    test('a failed execution is 200 as well: the call did what it should', async () => {
        const done = await runDefinition(editor, { steps: [{ id: 'f', type: 'fail', with: { message: 'no stock', code: 'shop.empty' } }] });
        assert.equal(done.status, 'failed');
        assert.match(JSON.stringify(done.error), /no stock/);
    });

    test('input that is absent is {}, and what is no object is 422', async () => {
        const { id } = await createWorkflow(editor, { steps: [transform('t', { given: '{{ input }}' })] });
        assert.deepEqual((await member.post(`/api/v1/workflows/${id}/execute`, {}, { expect: 200 })).body.output_data, { t: { given: {} } });
        errorAt(await member.post(`/api/v1/workflows/${id}/execute`, { input_data: [1] }, { expect: 422 }), '/input_data');
        errorAt(await member.post(`/api/v1/workflows/${id}/execute`, { inputs: {} }, { expect: 422 }), '/inputs');
    });

    test('Prefer: respond-async answers 202 with Location at once', async () => {
        const { id } = await createWorkflow(editor, chain(http('h', `${upstream.base}/hold/async`), transform('t', { done: true })));
        const answer = await member.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers: { prefer: 'respond-async' }, expect: 202 });
        const { execution_id } = answer.body;
        assert.equal(answer.headers.get('location'), `/api/v1/executions/${execution_id}`);
        await upstream.called('/hold/async');
        const running = (await member.get(`/api/v1/executions/${execution_id}`, { expect: 200 })).body;
        assert.ok(['running', 'waiting'].includes(running.status), running.status);
        upstream.release();
        assert.equal((await finalExecution(member, execution_id)).status, 'completed');
    });

    test('?wait= bounds the waiting: 202 when it still runs', async () => {
        const { id } = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/hold/wait`)] });
        const answer = await member.post(`/api/v1/workflows/${id}/execute?wait=1`, { input_data: {} }, { expect: 202 });
        upstream.release();
        await finalExecution(member, answer.body.execution_id);
    });

    test('the same Idempotency-Key is the same execution, also at once; another body is 422; another key another one', async () => {
        const { id } = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/once`)] });
        const call = (key, n = 1) => member.post(`/api/v1/workflows/${id}/execute`, { input_data: { n } }, { headers: { 'idempotency-key': key } });
        const together = await Promise.all(Array.from({ length: 5 }, () => call('key-1')));
        assert.deepEqual([...new Set(together.map(({ status }) => status))], [200]);
        assert.equal(new Set(together.map(({ body }) => body.execution_id)).size, 1);
        assert.equal((await call('key-1')).body.execution_id, together[0].body.execution_id);
        assert.equal(upstream.count('/once'), 1);
        assert.equal((await call('key-1', 2)).status, 422);
        assert.notEqual((await call('key-2')).body.execution_id, together[0].body.execution_id);
        const stranger = await (await weir.as('admin')).post(`/api/v1/workflows/${id}/execute`, { input_data: { n: 1 } }, { headers: { 'idempotency-key': 'key-1' } });
        assert.notEqual(stranger.body.execution_id, together[0].body.execution_id, 'the key is the caller’s own');
    });

    test('an inactive workflow does not run', async () => {
        const { id } = await createWorkflow(editor, simple, { is_active: false });
        const { status } = await member.post(`/api/v1/workflows/${id}/execute`, { input_data: {} });
        assert.ok([409, 422].includes(status), String(status));
    });

    test('an execution keeps the version that it began with', async () => {
        const { id } = await createWorkflow(editor, chain(http('h', `${upstream.base}/hold/version`), transform('t', { from: 'one' })));
        const begun = await member.post(`/api/v1/workflows/${id}/execute`, {}, { headers: { prefer: 'respond-async' }, expect: 202 });
        await upstream.called('/hold/version');
        await editor.put(`/api/v1/workflows/${id}`, { name: 'two', definition: { steps: [transform('t', { from: 'two' })] } }, { expect: 200 });
        upstream.release();
        const done = await finalExecution(member, begun.body.execution_id);
        assert.deepEqual([done.version, done.output_data], [1, { t: { from: 'one' } }]);
        assert.deepEqual((await execute(member, id)).output_data, { t: { from: 'two' } });
    });
});

describe('executions of a workflow', () => {
    let id;
    before(async () => {
        ({ id } = await createWorkflow(editor, { steps: [decide('c', 'input.ok'), { id: 'f', type: 'fail', with: { message: 'no' } }], dependencies: { f: ['c'] }, conditions: { f: 'not input.ok' } }));
        for (const ok of [true, true, false, true, true]) await execute(member, id, { ok });
    });

    test('newest first, filtered by status, paged by skip, limit and cursor', async () => {
        const path = `/api/v1/workflows/${id}/executions`;
        const all = (await member.get(path, { expect: 200 })).body;
        assert.deepEqual(all.map((row) => row.status), ['completed', 'completed', 'failed', 'completed', 'completed']);
        assert.ok(all.every((row, i) => i === 0 || row.execution_id < all[i - 1].execution_id));
        assert.equal((await member.get(`${path}?status=failed`, { expect: 200 })).body.length, 1);
        assert.equal((await member.get(`${path}?skip=4`, { expect: 200 })).body.length, 1);
        const first = await member.get(`${path}?limit=3`, { expect: 200 });
        const next = /<([^>]+)>; *rel="next"/.exec(first.headers.get('link'))[1].replace(/^https?:\/\/[^/]+/, '');
        const second = (await member.get(next, { expect: 200 })).body;
        assert.deepEqual([...first.body, ...second].map((row) => row.execution_id), all.map((row) => row.execution_id));
        errorAt(await member.get(`${path}?status=nonsense`, { expect: 422 }), 'query/status');
    });

    test('since and until bound the time', async () => {
        const path = `/api/v1/workflows/${id}/executions`;
        assert.equal((await member.get(`${path}?since=2100-01-01T00:00:00Z`, { expect: 200 })).body.length, 0);
        assert.equal((await member.get(`${path}?until=2100-01-01T00:00:00Z`, { expect: 200 })).body.length, 5);
        errorAt(await member.get(`${path}?since=yesterday`, { expect: 422 }), 'query/since');
    });

    test('a skipped branch is in the history', async () => {
        const done = await execute(member, id, { ok: true });
        assert.deepEqual(done.step_executions.map((step) => [step.step_id, step.status]), [['c', 'completed'], ['f', 'skipped']]);
    });

    test('lists cut long values, the single object does not', async () => {
        const long = await createWorkflow(editor, { steps: [transform('t', { text: '{{ input.text }}' })] });
        const text = 'x'.repeat(20_000);
        const done = await execute(member, long.id, { text });
        assert.equal(done.output_data.t.text.length, text.length);
        const listed = await member.get(`/api/v1/workflows/${long.id}/executions`, { expect: 200 });
        assert.ok(listed.text.length < 20_000, `${listed.text.length} bytes`);
        assert.match(listed.text, /"truncated":true/);
    });

    test('lists keep the steps when there are many short ones', async () => {
        const steps = Array.from({ length: 60 }, (_, i) => transform(`step_${i}`, { text: 'x'.repeat(100) }));
        const many = await createWorkflow(editor, { steps });
        await execute(member, many.id, {});
        const [listed] = (await member.get(`/api/v1/workflows/${many.id}/executions`, { expect: 200 })).body;
        assert.ok(JSON.stringify(listed.step_executions).length > 8192, 'the history is longer than a value may be');
        assert.equal(listed.step_executions.length, 60);
    });

    test('lists of workflows and versions cut long definitions, and the document says so', async () => {
        const long = await createWorkflow(editor, { steps: [transform('t', { text: 'x'.repeat(9_000) })] });
        const short = await createWorkflow(editor, { steps: [transform('t', { text: 'x'.repeat(7_000) })] });
        const listed = (await member.get('/api/v1/workflows?limit=2', { expect: 200 })).body;
        assert.deepEqual(listed.map(({ id }) => id), [short.id, long.id]);
        assert.equal(listed[0].definition.steps.length, 1);
        assert.equal(listed[1].definition.truncated, true);
        assert.ok(listed[1].definition.size > 9_000, `${listed[1].definition.size}`);
        const [version] = (await member.get(`/api/v1/workflows/${long.id}/versions`, { expect: 200 })).body;
        assert.equal(version.definition.truncated, true);
    });
});

describe('events of an execution', () => {
    test('a finished execution is told from its beginning, with ids; Last-Event-ID continues; the stream ends', async () => {
        const done = await runDefinition(editor, chain(transform('a'), respond('r', { body: 'x' })));
        const path = `/api/v1/executions/${done.execution_id}/events`;
        const { text, type } = await member.get(path, { expect: 200, headers: { accept: 'text/event-stream' } });
        assert.match(type, /^text\/event-stream/);
        const events = text.split('\n\n').filter((block) => block.includes('event:')).map((block) => Object.fromEntries(block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()])));
        const names = events.map((event) => event.event);
        assert.deepEqual([names[0], names.at(-1)], ['execution.started', 'execution.completed']);
        assert.equal(names.filter((name) => name === 'step.completed').length, 2);
        for (const event of events) assert.ok(event.id && JSON.parse(event.data), JSON.stringify(event));
        const rest = await member.get(path, { headers: { accept: 'text/event-stream', 'last-event-id': events.at(-2).id } });
        assert.equal(rest.text.match(/^event:/gm).length, 1);
        assert.match(rest.text, /execution\.completed/);
    });

    test('a running execution is told as it goes', async () => {
        const { id } = await createWorkflow(editor, chain(http('h', `${upstream.base}/hold/events`), transform('t')));
        const begun = await member.post(`/api/v1/workflows/${id}/execute`, {}, { headers: { prefer: 'respond-async' }, expect: 202 });
        await upstream.called('/hold/events');
        const stream = member.get(`/api/v1/executions/${begun.body.execution_id}/events`, { expect: 200 });
        await member.get(`/api/v1/executions/${begun.body.execution_id}`, { expect: 200 });
        upstream.release();
        assert.match((await stream).text, /event: ?step\.completed[\s\S]*event: ?execution\.completed/);
    });
});
