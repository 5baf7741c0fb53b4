// A step tried by itself: each type does what it does in an execution, within the same bounds, and nothing of it is recorded.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';

let weir, editor, upstream;
before(async () => {
    upstream = await Upstream.start((path) => ({ status: Number(/^\/status-(\d+)$/.exec(path)?.[1] ?? 200), hold: path === '/hold' }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(() => stopAll(upstream, weir));

const send = (type, body) => editor.post(`/api/v1/workflows/steps/${type}/test`, body);
async function trial(type, body) {
    const answer = await send(type, body);
    assert.equal(answer.status, 200, answer.text);
    return answer.body;
}

describe('each type does what it does in an execution', () => {
    for (const [type, body, output] of [
        ['transform', { with: { a: '{{ input.n + 1 }}', b: [1, {}] }, input: { n: 1 } }, { a: 2, b: [1, {}] }],
        ['transform', { with: { a: '{{ steps.fetch.output.body }}', i: '{{ item.k }}', v: '{{ vars.x }}', none: '{{ steps.ghost }}' }, steps: { fetch: { output: { body: [7] } } }, item: { k: 'i' }, vars: { x: 'v' } }, { a: [7], i: 'i', v: 'v', none: null }],
        ['transform', undefined, {}],
        ['script', { with: { code: 'return args.a * input.n', args: { a: '{{ input.n }}' } }, input: { n: 6 } }, 36],
        ['condition', { with: { if: 'input.n > 10' }, input: { n: 11 } }, { result: true }],
        ['switch', { with: { value: '{{ input.v }}', cases: { a: ['one'], test: ['two'] }, default: ['three'] }, input: { v: 'a' } }, { case: 'a' }],
        ['respond', { with: { status: 201, body: '{{ trigger.type }}' } }, { status: 201, headers: {}, body: 'test' }],
    ])
        test(`${type} ${JSON.stringify(body ?? null).slice(0, 60)}`, async () => {
            const got = await trial(type, body);
            assert.deepEqual([got.status, got.output_data, got.error], ['completed', output, null]);
            assert.ok(got.execution_time >= 0);
        });

    test('fail fails, which is a good answer', async () => {
        const got = await trial('fail', { with: { message: 'no {{ input.what }}', code: 'my.code' }, input: { what: 'luck' } });
        assert.deepEqual([got.status, got.output_data, got.error.code, got.error.message], ['failed', null, 'my.code', 'no luck']);
    });

    test('http sends the request, and shows what was sent', async () => {
        const got = await trial('http', { with: { method: 'POST', url: `${upstream.base}/x/{{ input.id }}`, body: { n: 1 } }, input: { id: 'a b' } });
        assert.deepEqual([got.status, got.output_data.status, got.output_data.body.path, got.output_data.body.text], ['completed', 200, '/x/a%20b', '{"n":1}']);
        assert.equal(got.input_data.url, `${upstream.base}/x/a%20b`);
    });

    test('http makes one attempt, also after a passing failure', async () => {
        const got = await trial('http', { with: { url: `${upstream.base}/status-503` } });
        assert.deepEqual([got.status, got.error.code, upstream.count('/status-503')], ['failed', 'http.status', 1]);
    });

    test('nothing of it is recorded', async () => {
        assert.deepEqual((await editor.get('/api/v1/workflows', { expect: 200 })).body, []);
        assert.match((await weir.anonymous().get('/metrics', { raw: true })).text, /weir_executions_live 0/);
    });
});

describe('what cannot be tried', () => {
    test('types that wait or run other steps say so in their row, and are 422', async () => {
        const types = (await editor.get('/api/v1/step-types', { expect: 200 })).body;
        const untestable = types.filter((row) => !row.testable).map((row) => row.type);
        assert.ok(untestable.includes('delay') && untestable.includes('workflow') && !untestable.includes('http'));
        for (const type of untestable) {
            const { status, body } = await send(type, { with: {} });
            assert.deepEqual([status, body.code], [422, 'workflows.step_untestable'], type);
        }
    });

    test('a type that does not exist is 404', async () => {
        const { status, body } = await send('teleport', {});
        assert.deepEqual([status, body.code], [404, 'workflows.step_type_not_found']);
    });

    for (const [type, body, pointer, code] of [
        ['http', {}, '/with/url', 'field.required'],
        ['http', { with: { url: 'https://example.com', colour: 1 } }, '/with/colour', 'field.unknown'],
        ['script', { with: { code: 'return (' } }, '/with/code', 'expr.syntax'],
        ['transform', { with: { a: { b: '{{ 1 +' } } }, '/with/a/b', 'expr.syntax'],
        ['switch', { with: { value: 1, cases: { default: ['x'] } } }, '/with', 'switch.default'],
        ['transform', { with: [] }, '/with', 'field.type'],
        ['transform', { steps: 7 }, '/steps', 'field.type'],
        ['transform', { ghost: 7 }, '/ghost', 'field.unknown'],
    ])
        test(`${type} ${JSON.stringify(body)} is refused at ${pointer}`, async () => {
            const answer = await send(type, body);
            assert.deepEqual([answer.status, answer.body.errors?.[0].pointer, answer.body.errors?.[0].code], [422, pointer, code], answer.text);
        });
});

describe('hostile steps', () => {
    for (const [what, code, error] of [
        ['an endless loop', 'while true do end', 'expr.instructions'],
        ['one that catches its stop', 'while true do pcall(function() while true do end end) end', 'expr.instructions'],
        ['memory without end', 'local t = {} for i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end', /^expr\.(memory|instructions)$/],
        ['a value too large', 'return ("x"):rep(4 * 1024 * 1024 + 1)', /^expr\.(too_large|memory)$/],
        ['no table', 'return steps.ghost.output', 'expr.runtime'],
        ['the process', 'return os.exit()', 'expr.runtime'],
    ])
        test(`${what} ends as failed`, async () => {
            const got = await trial('script', { with: { code } });
            assert.equal(got.status, 'failed');
            if (error instanceof RegExp) assert.match(got.error.code, error);
            else assert.equal(got.error.code, error, got.error.message);
        });

    for (const url of ['http://10.0.0.1/', 'http://169.254.169.254/latest/meta-data/', 'http://[::1]:9/', 'file:///etc/passwd'])
        test(`the guard stands in front of ${url}`, async () => {
            const got = await trial('http', { with: { url: '{{ input.url }}' }, input: { url } });
            assert.equal(got.status, 'failed');
            assert.match(got.error.code, /^(egress\.blocked|http\.url)$/);
        });

    test('a header that would split the request is not sent', async () => {
        const got = await trial('http', { with: { url: `${upstream.base}/split`, headers: { a: '{{ input.h }}' } }, input: { h: 'x\r\nInjected: 1' } });
        assert.deepEqual([got.status, got.error.code, upstream.count('/split')], ['failed', 'http.request', 0]);
    });

    test('a caller that leaves in the middle of the call takes nothing with it', async () => {
        const gone = new AbortController();
        const left = fetch(`${weir.base}/api/v1/workflows/steps/http/test`, {
            method: 'POST',
            headers: { ...editor.headers, 'content-type': 'application/json' },
            body: JSON.stringify({ with: { url: `${upstream.base}/hold` } }),
            signal: gone.signal,
        }).catch(() => 'left');
        await upstream.called('/hold');
        gone.abort();
        assert.equal(await left, 'left');
        upstream.release();
        assert.deepEqual((await trial('transform', { with: { fine: true } })).output_data, { fine: true });
    });
});
