// The engine: what each kind of step does, how steps follow one another, what a retry is, and what a step cannot do to the rest.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chain, createWorkflow, decide, execute, finalExecution, http, respond, runDefinition, script, statuses, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { inTime } from '../lib/wait.mjs';

const fail = (id, values = { message: 'no' }) => ({ id, type: 'fail', with: values });
const answers = {
    '/json': () => ({ body: { tier: 'gold', list: [1, 2.5, null] } }),
    '/text': () => ({ body: 'plain words', headers: { 'content-type': 'text/plain' } }),
    '/created': () => ({ status: 201, body: {} }),
    '/missing': () => ({ status: 404, body: { error: 'none' } }),
    '/flaky': (n) => ({ status: n < 3 ? 503 : 200, body: { n } }),
    '/down': () => ({ status: 500, body: {} }),
    '/later': (n) => (n < 2 ? { status: 429, headers: { 'retry-after': '1' }, body: {} } : { body: {} }),
    '/redirect': () => ({ status: 302, headers: { location: '/json' }, body: {} }),
    '/loop': () => ({ status: 302, headers: { location: '/loop' }, body: {} }),
    '/never': () => ({ hold: true }),
    '/big': () => ({ body: JSON.stringify('x'.repeat(5 * 1024 * 1024)) }),
};
let weir, editor, upstream;
before(async () => {
    upstream = await Upstream.start((path, n) => answers[path]?.(n) ?? {});
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
});
after(() => stopAll(upstream, weir));
const run = (definition, input) => runDefinition(editor, definition, input);
const output = async (step, input) => {
    const done = await run({ steps: [step] }, input);
    assert.equal(done.status, 'completed', JSON.stringify(done));
    return stepOf(done, step.id).output_data;
};

describe('transform', () => {
    test('a whole-string expression keeps its type; inside text it is formatted', async () => {
        const values = { n: '{{ input.n }}', list: '{{ input.list }}', text: 'n is {{ input.n }}', deep: { a: ['{{ input.n + 1 }}'] }, none: '{{ input.absent }}', plain: 5 };
        assert.deepEqual(await output(transform('t', values), { n: 41, list: [1, 'b'] }), { n: 41, list: [1, 'b'], text: 'n is 41', deep: { a: [42] }, none: null, plain: 5 });
    });

    test('integers stay exact to 64 bits, null and empty lists and objects stay what they are', async () => {
        const { id } = await createWorkflow(editor, { steps: [transform('t', { all: '{{ input }}' })] });
        const sent = '{"max":9223372036854775807,"min":-9223372036854775808,"null":null,"list":[],"object":{}}';
        const { text } = await editor.post(`/api/v1/workflows/${id}/execute`, `{"input_data":${sent}}`, { expect: 200 });
        assert.ok(text.includes(`"all":${sent}`), text);
    });

    test('with: {} is valid', async () => {
        assert.deepEqual(await output(transform('t')), {});
    });

    test('the pure helpers', async () => {
        const values = { sha: '{{ sha256("abc") }}', b64: '{{ base64.encode("weir") }}', json: '{{ json.encode({a = 1}) }}' };
        const got = await output(transform('t', values));
        assert.equal(got.sha, 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
        assert.equal(got.b64, 'd2Vpcg==');
        assert.deepEqual(JSON.parse(got.json), { a: 1 });
    });

    test('an error at run time fails the step, and says which one', async () => {
        const done = await run({ steps: [transform('u', { x: '{{ 1 .. {} }}' })] });
        assert.equal(done.status, 'failed');
        assert.equal(stepOf(done, 'u').status, 'failed');
        assert.equal(stepOf(done, 'u').error.code, 'expr.runtime');
        assert.doesNotMatch(JSON.stringify(done), /\.c:|\.lua:|stack traceback/);
    });
});

describe('script', () => {
    test('return gives the output, args is what was given, loops and tables work', async () => {
        const code = 'local sum = 0\nfor _, n in ipairs(args.list) do sum = sum + n end\nreturn { sum = sum, first = input.first, list = {1, 2} }';
        assert.deepEqual(await output(script('s', code, { list: '{{ input.list }}' }), { list: [1, 2, 3], first: 'a' }), { sum: 6, first: 'a', list: [1, 2] });
    });

    const outside = ['os.execute("id")', 'io.open("/etc/passwd")', 'require("os")', 'load("return 1")()', 'dofile("x")', 'coroutine.create(print)', 'debug.getinfo(1)',
        'setmetatable({}, {})', 'string.rep("x", 2^31)', 'package.loadlib("x","y")', 'collectgarbage()', '("x"):rep(2^40)', 'string.dump(print)'];
    for (const code of outside)
        test(`${code} does nothing but fail`, async () => {
            const done = await run({ steps: [script('s', `local r = ${code} return tostring(r)`)] });
            assert.equal(done.status, 'failed', JSON.stringify(done.output_data));
        });

    test('nothing passes from one run to the next', async () => {
        await run({ steps: [script('s', 'leak = 1; string.leak = 2; return 1')] });
        assert.deepEqual(await output(transform('t', { a: '{{ leak }}', b: '{{ string and string.leak }}' })), { a: null, b: null });
    });
});

describe('steps that would never end', () => {
    const endless = {
        'an endless loop': 'while true do end',
        'an endless loop under pcall': 'while true do pcall(function() while true do end end) end',
        'a recursion': 'local function f() return 1 + f() end return f()',
        'a memory bomb of strings': 'local s = "x" while true do s = s .. s end',
        'a memory bomb of tables': 'local t = {} for i = 1, 1e9 do t[i] = {i} end',
        'a pattern that backtracks': `return regex and regex.match(("a"):rep(30) .. "b", "(a+)+$")`,
        'a sort that never agrees': 'local t = {} for i = 1, 100000 do t[i] = i end table.sort(t, function() return true end) while true do end',
    };
    for (const [what, code] of Object.entries(endless))
        test(`${what} fails its step in eight times its CPU (2 s), and nothing else`, async () => {
            const { id } = await createWorkflow(editor, { steps: [script('s', code)] });
            const { expression_ms: cpu } = (await editor.get('/api/v1/limits', { expect: 200 })).body;
            await inTime(8 * cpu, async () => {
                const began = performance.now();
                const [done, other] = await Promise.all([execute(editor, id), run({ steps: [transform('t', { fine: true })] })]);
                if (!what.startsWith('a pattern')) assert.equal(stepOf(done, 's').status, 'failed', JSON.stringify(done));
                assert.deepEqual(other.output_data, { t: { fine: true } });
                return performance.now() - began;
            });
        });
});

describe('condition and dependencies', () => {
    test('a branch not taken is skipped, and what needs it is skipped with it', async () => {
        const definition = {
            steps: [decide('c', 'input.n > 10'), transform('big', { size: 'big' }), transform('small', { size: 'small' }), transform('after', { x: 1 })],
            dependencies: { big: ['c'], small: ['c'], after: ['small'] },
            conditions: { big: 'steps.c.output.result', small: 'not steps.c.output.result' },
        };
        const done = await run(definition, { n: 11 });
        assert.deepEqual(statuses(done), { c: 'completed', big: 'completed', small: 'skipped', after: 'skipped' });
        assert.deepEqual(stepOf(done, 'c').output_data, { result: true });
    });

    const joined = (join) => ({
        steps: [transform('a'), transform('b'), { ...transform('j', { ran: true }), ...(join && { join }) }],
        dependencies: { j: ['a', 'b'] },
        conditions: { a: 'input.a', b: 'input.b' },
    });
    const table = [[undefined, true, true, 'completed'], ['all', true, false, 'completed'], ['all', false, false, 'skipped'], ['any', false, true, 'completed'], ['any', false, false, 'skipped'], ['always', false, false, 'completed']];
    for (const [join, a, b, expected] of table)
        test(`join ${join ?? '(default all)'} with ${a}, ${b}: ${expected}`, async () => {
            assert.equal(statuses(await run(joined(join), { a, b })).j, expected);
        });

    test('any goes on at the first that completed, without waiting for the other', async () => {
        const definition = { steps: [http('slow', `${upstream.base}/never`), transform('fast'), { ...http('j', `${upstream.base}/any-went-on`), join: 'any' }], dependencies: { j: ['slow', 'fast'] } };
        const { id } = await createWorkflow(editor, definition);
        const begun = await editor.post(`/api/v1/workflows/${id}/execute`, {}, { headers: { prefer: 'respond-async' }, expect: 202 });
        await upstream.called('/any-went-on');
        upstream.release();
        assert.equal((await finalExecution(editor, begun.body.execution_id)).status, 'completed');
    });

    test('steps without dependencies run in parallel', async () => {
        const definition = { steps: [http('a', `${upstream.base}/hold-a`), http('b', `${upstream.base}/hold-b`)] };
        answers['/hold-a'] = answers['/hold-b'] = () => ({ hold: true });
        const running = run(definition);
        await Promise.all([upstream.called('/hold-a'), upstream.called('/hold-b')]);
        upstream.release();
        assert.equal((await running).status, 'completed');
    });

    test('the output is that of the sinks by id, or of the last respond', async () => {
        assert.deepEqual((await run({ steps: [transform('a', { n: 1 }), transform('b', { n: 2 })] })).output_data, { a: { n: 1 }, b: { n: 2 } });
        assert.deepEqual((await run(chain(transform('a', { n: 1 }), transform('b', { n: 2 })))).output_data, { b: { n: 2 } });
        assert.deepEqual((await run(chain(transform('a', { n: 1 }), respond('r', { body: { answer: '{{ steps.a.output.n }}' } })))).output_data.body, { answer: 1 });
    });

    test('a failed step fails the execution; with on_error continue the rest goes on', async () => {
        const stopped = await run(chain(fail('f', { message: 'broken', code: 'shop.broken' }), transform('t')));
        assert.equal(stopped.status, 'failed');
        assert.deepEqual([stepOf(stopped, 'f').status, stepOf(stopped, 'f').error.message], ['failed', 'broken']);
        assert.notEqual(stepOf(stopped, 't').status, 'completed');
        const went = await run({ steps: [{ ...fail('f'), on_error: 'continue' }, { ...transform('t', { ok: true }), join: 'always' }], dependencies: { t: ['f'] } });
        assert.deepEqual([went.status, statuses(went)], ['completed', { f: 'failed', t: 'completed' }]);
    });
});

describe('http', () => {
    test('JSON answers are values, others text; status and headers are there', async () => {
        const got = await output(http('h', `${upstream.base}/json`));
        assert.deepEqual([got.status, got.body, got.headers['content-type']], [200, { tier: 'gold', list: [1, 2.5, null] }, 'application/json']);
        assert.equal((await output(http('h', `${upstream.base}/text`))).body, 'plain words');
    });

    test('method, query, headers and a JSON body arrive as written; the call carries a stable Idempotency-Key', async () => {
        const step = { id: 'h', type: 'http', with: { method: 'POST', url: `${upstream.base}/sent/{{ input.name }}`, query: { q: 'a b', n: '{{ input.n }}' }, headers: { 'X-Mine': 'v{{ input.n }}' }, body: { n: '{{ input.n }}' } } };
        const done = await run({ steps: [step] }, { name: '../x y', n: 3 });
        const call = upstream.calls.at(-1);
        assert.equal(call.method, 'POST');
        assert.equal(call.path, '/sent/..%2Fx%20y', 'values in a URL are percent-encoded');
        assert.deepEqual(Object.fromEntries(new URL(call.url, upstream.base).searchParams), { q: 'a b', n: '3' });
        assert.deepEqual([call.headers['x-mine'], JSON.parse(call.text), call.headers['content-type']], ['v3', { n: 3 }, 'application/json']);
        assert.match(call.headers['idempotency-key'], new RegExp(`^${done.execution_id}-h-`));
    });

    test('a header value cannot carry a line break', async () => {
        const step = { id: 'h', type: 'http', with: { url: `${upstream.base}/split`, headers: { 'X-A': '{{ input.v }}' } } };
        await run({ steps: [step] }, { v: 'a\r\nX-Evil: 1' });
        assert.ok(upstream.calls.every((call) => call.headers['x-evil'] === undefined));
    });

    test('4xx fails at once, without another try; expect_status makes it fine', async () => {
        const retry = { max_attempts: 3, initial_ms: 1 };
        const done = await run({ steps: [http('h', `${upstream.base}/missing`, { retry })] });
        assert.deepEqual([done.status, stepOf(done, 'h').attempt], ['failed', 1]);
        assert.equal(stepOf(done, 'h').error.code, 'http.status');
        const step = { id: 'h', type: 'http', with: { url: `${upstream.base}/missing`, expect_status: [404] } };
        assert.equal((await output(step)).status, 404);
    });

    test('503 is tried again, with the same Idempotency-Key, and earlier attempts are told', async () => {
        const done = await run({ steps: [http('h', `${upstream.base}/flaky`, { retry: { max_attempts: 5, backoff: 'exponential', initial_ms: 10, max_ms: 50 } })] });
        const step = stepOf(done, 'h');
        assert.deepEqual([done.status, step.attempt, step.output_data.body], ['completed', 3, { n: 3 }]);
        assert.deepEqual(step.attempts.map((attempt) => attempt.n), [1, 2]);
        assert.equal(new Set(upstream.calls.filter((call) => call.path === '/flaky').map((call) => call.headers['idempotency-key'])).size, 1);
    });

    test('used-up attempts fail the step with its last error', async () => {
        const before = upstream.count('/down');
        const done = await run({ steps: [http('h', `${upstream.base}/down`, { retry: { max_attempts: 3, initial_ms: 1, max_ms: 5 } })] });
        assert.deepEqual([done.status, stepOf(done, 'h').attempt, upstream.count('/down') - before], ['failed', 3, 3]);
    });

    test('Retry-After of the other side wins over the back-off', async () => {
        const done = await run({ steps: [http('h', `${upstream.base}/later`, { retry: { max_attempts: 2, initial_ms: 1, max_ms: 5 } })] });
        const [first, second] = upstream.calls.filter((call) => call.path === '/later');
        assert.equal(done.status, 'completed');
        assert.ok(second.at - first.at >= 900, `${second.at - first.at} ms`);
    });

    test('nobody listening is a failure that names no more than it must', async () => {
        const done = await run({ steps: [http('h', 'http://127.0.0.1:1/')] });
        assert.equal(done.status, 'failed');
    });

    for (const url of ['http://127.0.0.1:9/', 'http://localhost:9/', 'http://[::1]:9/', 'http://0.0.0.0:9/', 'http://10.0.0.1/', 'http://169.254.169.254/latest/meta-data', 'http://[::ffff:127.0.0.1]:9/', 'http://2130706433:9/', 'http://0x7f.1:9/'])
        test(`${url} is blocked: egress.blocked`, async () => {
            const done = await run({ steps: [http('h', url)] });
            assert.deepEqual([done.status, stepOf(done, 'h').error.code], ['failed', 'egress.blocked']);
        });

    for (const url of ['file:///etc/passwd', 'gopher://127.0.0.1:70/', 'ftp://127.0.0.1/'])
        test(`${url} is no URL for a step`, async () => {
            const answer = await editor.post('/api/v1/workflows', { name: 'x', definition: { steps: [http('h', url)] } });
            if (answer.status === 422) return;
            assert.equal((await execute(editor, answer.body.id)).status, 'failed');
        });

    test('redirects are off unless asked for, and bounded', async () => {
        const step = (path, follow_redirects) => ({ id: 'h', type: 'http', with: { url: upstream.base + path, follow_redirects } });
        assert.equal((await run({ steps: [{ id: 'h', type: 'http', with: { url: `${upstream.base}/redirect`, expect_status: [302] } }] })).status, 'completed');
        assert.equal((await output(step('/redirect', 2))).body.tier, 'gold');
        await run({ steps: [step('/loop', 3)] });
        assert.equal(upstream.count('/loop'), 4);
    });

    test('an answer above 4 MiB fails the step', async () => {
        assert.equal((await run({ steps: [http('h', `${upstream.base}/big`)] })).status, 'failed');
    });

    test('timeout_ms ends an attempt', async () => {
        await inTime(2000, async () => {
            const began = performance.now();
            const done = await run({ steps: [http('h', `${upstream.base}/never`, { timeout_ms: 200 })] });
            assert.equal(done.status, 'failed');
            return performance.now() - began;
        });
        upstream.release();
    });
});

describe('foreach', () => {
    const each = (items, steps, more = {}) => ({ id: 'each', type: 'foreach', with: { items, steps, ...more } });
    const twice = chain(transform('twice', { n: '{{ item * 2 }}' }));
    const iteration = (execution, id, ...of) => execution.step_executions.find((step) => step.step_id === id && JSON.stringify(step.iteration) === JSON.stringify(of));

    test('its steps run once for each item; the results are in the order of the list', async () => {
        assert.deepEqual(await output(each('{{ input.list }}', twice, { concurrency: 3 }), { list: [3, 1, 2] }), [{ twice: { n: 6 } }, { twice: { n: 2 } }, { twice: { n: 4 } }]);
        assert.deepEqual(await output(each([], twice)), []);
    });

    test('the history has an entry for each step of each iteration, and says which', async () => {
        const done = await run({ steps: [each([1, 2], twice)] });
        assert.deepEqual(done.step_executions.map(({ step_id, iteration: of }) => [step_id, of]), [['each', undefined], ['twice', [0]], ['twice', [1]]]);
        assert.deepEqual(iteration(done, 'twice', 1).output_data, { n: 4 });
    });

    test('each call carries an Idempotency-Key of its iteration', async () => {
        const done = await run({ steps: [each(['a', 'b'], { steps: [http('call', `${upstream.base}/each/{{ item }}`)] }, { concurrency: 2 })] });
        assert.equal(done.status, 'completed', JSON.stringify(done));
        const keys = upstream.calls.filter(({ path }) => path.startsWith('/each/')).map(({ headers }) => headers['idempotency-key']);
        assert.deepEqual(keys.sort(), [`${done.execution_id}-call-0`, `${done.execution_id}-call-1`]);
    });

    test('an iteration that fails fails the step, or gives {error} and lets the others go on', async () => {
        const calls = { steps: [http('call', `${upstream.base}/{{ item }}`)] };
        const strict = await run({ steps: [each(['json', 'missing', 'json'], calls)] });
        assert.equal(strict.status, 'failed');
        assert.deepEqual({ code: strict.error.code, step_id: strict.error.step_id }, { code: 'http.status', step_id: 'each' });
        assert.equal(iteration(strict, 'call', 2), undefined);
        const lenient = await output(each(['json', 'missing', 'json'], calls, { on_error: 'continue' }));
        assert.deepEqual(lenient.map((one) => one.error?.code ?? one.call.status), [200, 'http.status', 200]);
    });

    test('10,000 items are one list, 10,001 are too many', async () => {
        const list = Array.from({ length: 10_000 }, (_, i) => i);
        assert.equal((await output(each('{{ input.list }}', twice), { list })).length, 10_000);
        const done = await run({ steps: [each('{{ input.list }}', twice)] }, { list: [...list, 1] });
        assert.equal(done.error.code, 'step.input');
    });

    test('a definition inside of one is checked as the one around it', async () => {
        const nested = (steps, more = {}) => editor.post('/api/v1/workflows/validate', { definition: { steps: [transform('a'), each([], { steps, ...more })] } }, { expect: 200 });
        const inside = '/definition/steps/1/with/steps';
        for (const [pointer, code, answer] of [
            [`${inside}/steps/0/id`, 'definition.duplicate_step', await nested([transform('a')])],
            [`${inside}/steps/0/type`, 'definition.outermost', await nested([respond('r', {})])],
            [`${inside}/dependencies/x/0`, 'definition.unknown_step', await nested([transform('x')], { dependencies: { x: ['a'] } })],
            [`${inside}/steps/0/with/n`, 'expr.syntax', await nested([transform('x', { n: '{{ 1 + }}' })])],
        ]) {
            assert.equal(answer.body.valid, false);
            assert.deepEqual(answer.body.errors.map(({ pointer: at, code: why }) => [at, why]), [[pointer, code]]);
        }
    });
});

describe('delay and deadlines', () => {
    test('a delay waits as long as it says, and not much longer', async () => {
        await inTime(2000, async () => {
            const began = performance.now();
            const done = await run(chain({ id: 'd', type: 'delay', with: { ms: 300 } }, transform('t', { after: true })));
            const took = performance.now() - began;
            assert.deepEqual([done.status, stepOf(done, 'd').output_data], ['completed', {}]);
            assert.ok(took >= 300, `${took.toFixed(0)} ms`);
            return took;
        });
    });

    test('until a time that has passed is no wait', async () => {
        assert.equal((await run({ steps: [{ id: 'd', type: 'delay', with: { until: '2020-01-01T00:00:00Z' } }] })).status, 'completed');
    });

    test('an execution in a delay is waiting, and reads as such', async () => {
        const { id } = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 3_600_000 } }] });
        const begun = await editor.post(`/api/v1/workflows/${id}/execute?wait=1`, {}, { expect: 202 });
        const now = (await editor.get(`/api/v1/executions/${begun.body.execution_id}`, { expect: 200 })).body;
        assert.equal(now.status, 'waiting');
    });

    test('settings.timeout_ms ends the execution: timed_out', async () => {
        const done = await run({ steps: [{ id: 'd', type: 'delay', with: { ms: 60_000 } }], settings: { timeout_ms: 300 } });
        assert.equal(done.status, 'timed_out');
    });
});

describe('the worked example of the README', () => {
    test('fetch a customer, score, branch, respond', async () => {
        const definition = {
            steps: [
                http('fetch', `${upstream.base}/json?customer={{ input.customer }}`),
                transform('score', { total: '{{ input.amount * 1.2 }}', tier: '{{ steps.fetch.output.body.tier }}' }),
                decide('check', 'steps.score.output.total > 100 and steps.score.output.tier == "gold"'),
                respond('approve', { body: { approved: true, total: '{{ steps.score.output.total }}' } }),
                respond('refuse', { status: 402, body: { approved: false } }),
            ],
            dependencies: { score: ['fetch'], check: ['score'], approve: ['check'], refuse: ['check'] },
            conditions: { approve: 'steps.check.output.result', refuse: 'not steps.check.output.result' },
        };
        const done = await run(definition, { customer: 'c-1', amount: 100 });
        assert.deepEqual(done.output_data.body, { approved: true, total: 120 });
        assert.deepEqual(statuses(done), { fetch: 'completed', score: 'completed', check: 'completed', approve: 'completed', refuse: 'skipped' });
        for (const step of done.step_executions.filter(({ status }) => status === 'completed')) {
            assert.ok(step.started_at <= step.completed_at && step.attempt === 1, JSON.stringify(step));
        }
    });
});
