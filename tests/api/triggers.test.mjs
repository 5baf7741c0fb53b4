// Triggers: a URL that starts a workflow - who may call it, how, how often, what comes back, and the list of attempts.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { chain, createTrigger, createWorkflow, finalExecution, getExecution, http, respond, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { exchange } from '../lib/raw.mjs';
import { Weir, stopAll } from '../lib/server.mjs';

const echo = { steps: [transform('t', { got: '{{ input }}', method: '{{ trigger.method }}', query: '{{ trigger.query }}' })] };
let weir, editor, member, anyone, upstream, workflow;
before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    [editor, member, anyone] = [await weir.as('editor'), await weir.as('member'), weir.anonymous()];
    workflow = await createWorkflow(editor, echo);
});
after(() => stopAll(upstream, weir));
const list = () => `/api/v1/webhooks/${workflow.id}/triggers`;

describe('their rows', () => {
    test('created: 201 with the URL to call, defaults filled in, and no secret ever', async () => {
        const secret = 'very-secret-key-0123456789';
        const made = await editor.post(list(), { name: 'orders', method: 'POST', auth_type: 'api_key', auth_config: { api_key: secret } }, { expect: 201 });
        assert.match(made.body.id, /^trigger_/);
        assert.equal(made.body.workflow_id, workflow.id);
        assert.equal(made.body.webhook_url, `/api/v1/webhooks/${workflow.id}/${made.body.id}`);
        assert.deepEqual([made.body.is_active, made.body.rate_limit, made.body.respond], [true, 60, 'result']);
        for (const answer of [made, await editor.get(list()), await editor.get(`/api/v1/workflows/${workflow.id}`)]) assert.ok(!answer.text.includes(secret));
    });

    test('several belong to one workflow, and the list holds them', async () => {
        const [a, b] = [await createTrigger(editor, workflow.id), await createTrigger(editor, workflow.id, { method: 'PUT' })];
        const ids = (await member.get(`${list()}?limit=100`, { expect: 200 })).body.map((row) => row.id);
        assert.ok(ids.includes(a.id) && ids.includes(b.id));
    });

    test('PUT replaces, DELETE removes: then the URL is 404', async () => {
        const made = await createTrigger(editor, workflow.id);
        const changed = await editor.put(`${list()}/${made.id}`, { name: 'renamed', method: 'PUT', auth_type: 'none', rate_limit: null }, { expect: 200 });
        assert.deepEqual([changed.body.name, changed.body.method, changed.body.rate_limit], ['renamed', 'PUT', null]);
        await anyone.put(made.webhook_url, {}, { expect: 200 });
        await editor.del(`${list()}/${made.id}`, { expect: 204 });
        await anyone.put(made.webhook_url, {}, { expect: 404 });
        await editor.del(`${list()}/${made.id}`, { expect: 404 });
    });

    // Every PUT that leaves the secret out keeps the one it has seen; none may bring back the one that was taken away meanwhile.
    const rotations = {
        'PUT of a trigger': (made, body) => editor.put(`${list()}/${made.id}`, body),
        'PATCH of a workflow': (made, body) => editor.patch(`/api/v1/workflows/${workflow.id}`, { definition: { ...echo, triggers: [{ id: made.id, ...body }] } }, { type: 'application/merge-patch+json' }),
    };
    for (const [name, change] of Object.entries(rotations))
        test(`${name}: concurrent ones do not roll a new secret back`, async () => {
            const base = { method: 'POST', auth_type: 'api_key', rate_limit: null };
            const made = await createTrigger(editor, workflow.id, { ...base, auth_config: { api_key: 'rotated-key-number-start' } });
            let conflicts = 0;
            for (let round = 0; round < 12; round++) {
                const key = `rotated-key-number-${round}-abc`;
                const rotate = (suffix = '') => change(made, { ...base, name: `new ${round}${suffix}`, auth_config: { api_key: key } });
                const all = [0, 1, 2, 3].map((i) => change(made, { ...base, name: `kept ${round} ${i}` }));
                const answers = await Promise.all([...all.slice(0, 2), rotate(), ...all.slice(2)]);
                for (const { status, body } of answers) if (status !== 200) assert.deepEqual([status, body.code], [409, 'triggers.changed']);
                conflicts += answers.filter(({ status }) => status === 409).length;
                if (answers[2].status !== 200) assert.equal((await rotate(' again')).status, 200);
                await anyone.post(made.webhook_url, {}, { headers: { 'x-api-key': key }, expect: 200 });
            }
            assert.ok(conflicts > 0, 'some of them must have met');
        });

    test('not more than 50 of a workflow, however many are made at once', async () => {
        const full = await createWorkflow(editor, { ...echo, triggers: Array.from({ length: 45 }, (_, i) => ({ name: `t${i}`, method: 'POST', auth_type: 'none' })) });
        const path = `/api/v1/webhooks/${full.id}/triggers`;
        const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => editor.post(path, { name: `more ${i}`, method: 'POST', auth_type: 'none' })));
        assert.equal(answers.filter(({ status }) => status === 201).length, 5);
        for (const { status, body } of answers) if (status !== 201) assert.deepEqual([status, body.code], [422, 'triggers.too_many']);
        assert.equal((await member.get(`${path}?limit=100`, { expect: 200 })).body.length, 50);
    });

    const wrong = [
        [{ name: '', method: 'POST', auth_type: 'none' }, '/name'],
        [{ name: 'x', method: 'BREW', auth_type: 'none' }, '/method'],
        [{ name: 'x', method: 'POST', auth_type: 'magic' }, '/auth_type'],
        [{ name: 'x', method: 'POST', auth_type: 'api_key', auth_config: {} }, '/auth_config/api_key'],
        [{ name: 'x', method: 'POST', auth_type: 'api_key', auth_config: { api_key: 'k'.repeat(20), colour: 1 } }, '/auth_config/colour'],
        [{ name: 'x', method: 'POST', auth_type: 'none', rate_limit: 0 }, '/rate_limit'],
        [{ name: 'x', method: 'POST', auth_type: 'none', respond: 'maybe' }, '/respond'],
        [{ name: 'x', method: 'POST', auth_type: 'none', id: 'trigger_01h455vb4pex5vsknk084sn02q' }, '/id'],
    ];
    for (const [body, pointer] of wrong)
        test(`a body that is wrong at ${pointer} is told so`, async () => {
            errorAt(await editor.post(list(), body, { expect: 422 }), pointer);
        });

    test('triggers of an unknown workflow are 404', async () => {
        await editor.post('/api/v1/webhooks/workflow_01h455vb4pex5vsknk084sn02q/triggers', { name: 'x', method: 'POST', auth_type: 'none' }, { expect: 404 });
    });
});

describe('a call', () => {
    test('answers {success, execution_id, status, output_data}, and the execution is in the history', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id);
        const { body } = await anyone.post(`${webhook_url}?source=shop`, { customer: 7 }, { expect: 200 });
        assert.deepEqual([body.success, body.status], [true, 'completed']);
        assert.deepEqual(body.output_data.t, { got: { customer: 7 }, method: 'POST', query: { source: 'shop' } });
        const found = await getExecution(member, body.execution_id);
        assert.deepEqual([found.status, found.input_data], ['completed', { customer: 7 }]);
    });

    test('GET takes its query as input', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { method: 'GET' });
        const { body } = await anyone.get(`${webhook_url}?a=1&b=x%20y`, { expect: 200 });
        assert.deepEqual(body.output_data.t.got, { a: '1', b: 'x y' });
    });

    test('a form is an object, text is {body}, and JSON that is no object is {body}', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id);
        const got = async (body, type) => (await anyone.post(webhook_url, body, { type, expect: 200 })).body.output_data.t.got;
        assert.deepEqual(await got('a=1&b=x+y', 'application/x-www-form-urlencoded'), { a: '1', b: 'x y' });
        assert.deepEqual(await got('hello', 'text/plain'), { body: 'hello' });
        assert.deepEqual(await got('[1,2]', 'application/json'), { body: [1, 2] });
    });

    test('JSON that does not parse is 400, and starts nothing', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id);
        await anyone.post(webhook_url, '{"a":', { expect: 400 });
        await anyone.post(webhook_url, '{"a":1,"a":2}', { expect: 400 });
    });

    test('another method is 405 with Allow', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { method: 'PUT' });
        const answer = await anyone.post(webhook_url, {}, { expect: 405 });
        assert.match(answer.headers.get('allow'), /PUT/);
    });

    test('an unknown trigger, that of another workflow, and a disabled one are 404; enabled again it answers', async () => {
        const other = await createWorkflow(editor, echo);
        const made = await createTrigger(editor, workflow.id);
        await anyone.post(`/api/v1/webhooks/${workflow.id}/trigger_01h455vb4pex5vsknk084sn02q`, {}, { expect: 404 });
        await anyone.post(`/api/v1/webhooks/${other.id}/${made.id}`, {}, { expect: 404 });
        const body = { name: made.name, method: 'POST', auth_type: 'none' };
        await editor.put(`${list()}/${made.id}`, { ...body, is_active: false }, { expect: 200 });
        await anyone.post(made.webhook_url, {}, { expect: 404 });
        await editor.put(`${list()}/${made.id}`, { ...body, is_active: true }, { expect: 200 });
        await anyone.post(made.webhook_url, {}, { expect: 200 });
    });

    test('over max_body_bytes is 413; exactly at it is fine', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { max_body_bytes: 1024 });
        const sized = (n) => JSON.stringify({ a: 'x'.repeat(n - 8) });
        await anyone.post(webhook_url, sized(1023), { expect: 200 });
        await anyone.post(webhook_url, sized(1024), { expect: 200 });
        await anyone.post(webhook_url, sized(1025), { expect: 413 });
    });

    test('over the rate limit is 429 with Retry-After; the other trigger is not touched', async () => {
        const [slow, free] = [await createTrigger(editor, workflow.id, { rate_limit: 2 }), await createTrigger(editor, workflow.id, { rate_limit: null })];
        const answers = await Promise.all(Array.from({ length: 20 }, () => anyone.post(slow.webhook_url, {})));
        const limited = answers.filter(({ status }) => status === 429);
        assert.ok(limited.length >= 10, `${limited.length} of 20`);
        assert.ok(answers.some(({ status }) => status === 200));
        await anyone.post(free.webhook_url, {}, { expect: 200 });
    });

    test('a failed execution without respond is 500 with success: false', async () => {
        const broken = await createWorkflow(editor, { steps: [{ id: 'f', type: 'fail', with: { message: 'no stock' } }] });
        const { webhook_url } = await createTrigger(editor, broken.id);
        const { status, body } = await anyone.post(webhook_url, {}, { raw: true });
        assert.deepEqual([status, body.success, body.status], [500, false, 'failed']);
        assert.match(JSON.stringify(body), /no stock/);
    });

    test('respond: "accepted" answers 202 at once', async () => {
        const held = await createWorkflow(editor, { steps: [http('h', `${upstream.base}/hold/accepted`)] });
        const { webhook_url } = await createTrigger(editor, held.id, { respond: 'accepted' });
        const { body } = await anyone.post(webhook_url, {}, { expect: 202 });
        assert.equal(body.success, true);
        await upstream.called('/hold/accepted');
        upstream.release();
        assert.equal((await finalExecution(member, body.execution_id)).status, 'completed');
    });

    test('a respond step says exactly what goes back', async () => {
        const teapot = await createWorkflow(editor, chain(transform('t', { n: 1 }), respond('r', { status: 418, headers: { 'X-Kind': 'tea {{ input.kind }}' }, body: { n: '{{ steps.t.output.n }}' } })));
        const { webhook_url } = await createTrigger(editor, teapot.id);
        const answer = await anyone.post(webhook_url, { kind: 'green' }, { raw: true });
        assert.deepEqual([answer.status, answer.headers.get('x-kind'), answer.text], [418, 'tea green', '{"n":1}']);
        const plain = await createWorkflow(editor, { steps: [respond('r', { headers: { 'Content-Type': 'text/plain' }, body: 'just text' })] });
        const text = await anyone.post((await createTrigger(editor, plain.id)).webhook_url, {}, { raw: true });
        assert.deepEqual([text.status, text.type.split(';')[0], text.text], [200, 'text/plain', 'just text']);
    });

    test('headers of a respond step cannot break the answer apart', async () => {
        const evil = await createWorkflow(editor, { steps: [respond('r', { headers: { 'X-Evil': '{{ input.v }}' }, body: 'x' })] });
        const { webhook_url } = await createTrigger(editor, evil.id);
        const answer = await anyone.post(webhook_url, { v: 'a\r\nSet-Cookie: b=c' }, { raw: true });
        assert.equal(answer.headers.get('set-cookie'), null);
    });

    test('a respond step cannot speak for the connection, a proxy or the origin; its pages run nothing', async () => {
        const refused = ['X-Accel-Redirect', 'X-Sendfile', 'x-lighttpd-send-file', 'Sec-Anything', 'Proxy-Anything', 'Access-Control-Allow-Credentials', 'NEL', 'Report-To',
            'Reporting-Endpoints', 'WWW-Authenticate', 'Accept-CH', 'Refresh', 'Public-Key-Pins', 'Expect-CT', 'Clear-Site-Data', 'Set-Cookie'];
        const headers = Object.fromEntries([...refused, 'Content-Security-Policy', 'Strict-Transport-Security'].map((name) => [name, 'evil']));
        const page = await createWorkflow(editor, { steps: [respond('r', { headers: { ...headers, 'Content-Type': 'text/html', 'X-Kind': 'page' }, body: '<script>1</script>' })] });
        const answer = await anyone.post((await createTrigger(editor, page.id)).webhook_url, {}, { raw: true });
        assert.deepEqual([answer.status, answer.headers.get('x-kind'), answer.text], [200, 'page', '<script>1</script>']);
        for (const name of refused) assert.equal(answer.headers.get(name), null, name);
        for (const part of ['sandbox', "default-src 'none'", "form-action 'none'", "base-uri 'none'"])
            assert.ok(answer.headers.get('content-security-policy').split('; ').includes(part), part);
    });

    test('24 headers of a respond step arrive, 25 are refused with the workflow', async () => {
        const many = (n) => ({ steps: [respond('r', { headers: Object.fromEntries(Array.from({ length: n }, (_, i) => [`X-H${i}`, `${i}`])), body: 'x' })] });
        const { webhook_url } = await createTrigger(editor, (await createWorkflow(editor, many(24))).id);
        const answer = await anyone.post(webhook_url, {}, { raw: true });
        for (let i = 0; i < 24; i++) assert.equal(answer.headers.get(`x-h${i}`), `${i}`);
        await editor.post('/api/v1/workflows', { name: 'too many', definition: many(25) }, { expect: 422 });
    });

    test('the same Idempotency-Key joins the execution; with another body it is 422', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id);
        const call = (body) => anyone.post(webhook_url, body, { headers: { 'idempotency-key': 'order-1' } });
        const [first, second] = await Promise.all([call({ n: 1 }), call({ n: 1 })]);
        assert.equal(first.body.execution_id, second.body.execution_id);
        assert.equal((await call({ n: 1 })).body.execution_id, first.body.execution_id);
        assert.equal((await call({ n: 2 })).status, 422);
    });

    test('dedup_header names the header that plays that part', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { dedup_header: 'X-Delivery' });
        const call = (id) => anyone.post(webhook_url, { n: 1 }, { headers: { 'x-delivery': id } });
        const ids = [await call('1'), await call('1'), await call('2')].map(({ body }) => body.execution_id);
        assert.equal(ids[0], ids[1]);
        assert.notEqual(ids[0], ids[2]);
    });
});

describe('the head of a call', () => {
    // No byte of the body follows: an answer shows that none was waited for.
    const announced = (method, path, bytes = 1000) => exchange(weir, `${method} ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${bytes}\r\n\r\n`);
    const secured = { auth_type: 'api_key', auth_config: { api_key: 'right-key-0123456789' } };

    test('what will be refused is refused before its body is taken, and logged', async () => {
        const [put, asleep, closed, far, small] = [
            await createTrigger(editor, workflow.id, { method: 'PUT' }),
            await createTrigger(editor, workflow.id, { is_active: false }),
            await createTrigger(editor, workflow.id, secured),
            await createTrigger(editor, workflow.id, { allowed_ips: ['192.0.2.1'] }),
            await createTrigger(editor, workflow.id, { max_body_bytes: 999 }),
        ];
        const rows = [
            [put, 405, 'triggers.method'],
            [asleep, 404, 'triggers.not_found'],
            [closed, 401, 'triggers.unauthorized'],
            [far, 403, 'triggers.forbidden_address'],
            [small, 413, 'triggers.too_large'],
        ];
        for (const [{ id, webhook_url }, status, code] of rows) {
            const answer = await announced('POST', webhook_url);
            assert.deepEqual([answer.status, JSON.parse(answer.body).code], [status, code]);
            assert.match(answer.head, /content-type: application\/problem\+json/i);
            const { body } = await member.get(`${list()}/${id}/deliveries`, { expect: 200 });
            assert.deepEqual(body.map((row) => [row.status_code, row.code, row.body_bytes]), [[status, code, 1000]]);
        }
        const unknown = await announced('POST', `/api/v1/webhooks/${workflow.id}/trigger_01h455vb4pex5vsknk084sn02q`);
        assert.deepEqual([unknown.status, JSON.parse(unknown.body).code], [404, 'triggers.not_found']);
    });

    test('a body too large is logged at the rate of refusals, as the others are', async () => {
        const made = await createTrigger(editor, workflow.id, { max_body_bytes: 10 });
        for (let sent = 0; sent < 150; sent += 25)
            for (const { status } of await Promise.all(Array.from({ length: 25 }, () => announced('POST', made.webhook_url)))) assert.equal(status, 413);
        const page = async (skip) => (await member.get(`${list()}/${made.id}/deliveries?limit=100&skip=${skip}`, { expect: 200 })).body.length;
        assert.equal(await page(0), 100);
        assert.ok((await page(100)) < 50, 'the 100 of the burst, and ten per second');
    });

    test('a large body is taken as it is: 4 MiB at most', async () => {
        const silent = await createWorkflow(editor, { steps: [transform('t', { n: 1 })] });
        const { webhook_url } = await createTrigger(editor, silent.id, { max_body_bytes: 4 * 1024 * 1024 });
        for (const bytes of [64 * 1024, 64 * 1024 + 1, 4 * 1024 * 1024])
            await anyone.post(webhook_url, 'x'.repeat(bytes), { type: 'text/plain', expect: 200 });
        errorAt(await editor.post(list(), { name: 'x', method: 'POST', auth_type: 'none', max_body_bytes: 4 * 1024 * 1024 + 1 }, { expect: 422 }), '/max_body_bytes');
    });
});

describe('who may call', () => {
    test('api_key: in X-API-Key or as bearer; missing or wrong is 401 triggers.unauthorized', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { auth_type: 'api_key', auth_config: { api_key: 'right-key-0123456789' } });
        const call = (headers) => anyone.post(webhook_url, {}, { headers });
        assert.equal((await call({ 'x-api-key': 'right-key-0123456789' })).status, 200);
        assert.equal((await call({ authorization: 'Bearer right-key-0123456789' })).status, 200);
        for (const headers of [{}, { 'x-api-key': 'wrong' }, { 'x-api-key': 'right-key-012345678' }, { 'x-api-key': 'right-key-01234567890' }, { authorization: 'Bearer wrong' }]) {
            const { status, body } = await call(headers);
            assert.deepEqual([status, body.code], [401, 'triggers.unauthorized'], JSON.stringify(headers));
        }
    });

    test('the key never reaches the workflow', async () => {
        const shown = await createWorkflow(editor, { steps: [transform('t', { headers: '{{ trigger.headers }}' })] });
        const { webhook_url } = await createTrigger(editor, shown.id, { auth_type: 'api_key', auth_config: { api_key: 'right-key-0123456789' } });
        const { text } = await anyone.post(webhook_url, {}, { headers: { 'x-api-key': 'right-key-0123456789', 'x-shown': 'yes', cookie: 'a=secret-cookie' }, expect: 200 });
        assert.match(text, /"x-shown":"yes"/);
        assert.doesNotMatch(text, /right-key|secret-cookie/);
    });

    test('bearer: a fixed token', async () => {
        const { webhook_url } = await createTrigger(editor, workflow.id, { auth_type: 'bearer', auth_config: { token: 'right-token-0123456789' } });
        assert.equal((await anyone.post(webhook_url, {}, { headers: { authorization: 'Bearer right-token-0123456789' } })).status, 200);
        assert.equal((await anyone.post(webhook_url, {}, { headers: { authorization: 'Bearer right-token' } })).status, 401);
        assert.equal((await anyone.post(webhook_url, {}, { headers: { 'x-api-key': 'right-token-0123456789' } })).status, 401);
        assert.equal((await editor.post(webhook_url, {})).status, 401, 'a token of Weir is not the token of the trigger');
    });

    test('bearer: a JWT of the given secret, issuer and audience', async () => {
        const jwt_secret = 'a-secret-of-the-partner-0123456789abcdef';
        const { webhook_url } = await createTrigger(editor, workflow.id, { auth_type: 'bearer', auth_config: { jwt_secret, issuer: 'shop', audience: 'weir' } });
        const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
        const jwt = (claims, header = { alg: 'HS256', typ: 'JWT' }, secret = jwt_secret) => {
            const head = `${encode(header)}.${encode({ iss: 'shop', aud: 'weir', exp: Math.floor(Date.now() / 1000) + 300, ...claims })}`;
            return `${head}.${createHmac('sha256', secret).update(head).digest('base64url')}`;
        };
        const call = async (value) => (await anyone.post(webhook_url, {}, { headers: { authorization: `Bearer ${value}` } })).status;
        assert.equal(await call(jwt({})), 200);
        for (const bad of [jwt({ iss: 'other' }), jwt({ aud: 'other' }), jwt({ exp: 1 }), jwt({}, undefined, 'x'.repeat(40)), jwt({}, { alg: 'none' }), jwt({ nbf: 4_000_000_000 })])
            assert.equal(await call(bad), 401);
        assert.equal(await call(jwt({}, { alg: 'HS256', typ: 'JWT', kid: 'partner-1' })), 200, 'a kid that the issuer gives its only key');
    });
});

describe('deliveries', () => {
    test('every attempt is a row: accepted, refused, limited', async () => {
        const made = await createTrigger(editor, workflow.id, { auth_type: 'api_key', auth_config: { api_key: 'right-key-0123456789' } });
        const good = await anyone.post(made.webhook_url, {}, { headers: { 'x-api-key': 'right-key-0123456789' }, expect: 200 });
        await anyone.post(made.webhook_url, {}, { expect: 401 });
        const { body, text } = await member.get(`${list()}/${made.id}/deliveries`, { expect: 200 });
        assert.equal(body.length, 2, text);
        assert.ok(body.some((row) => row.execution_id === good.body.execution_id), text);
        assert.doesNotMatch(text, /right-key/);
    });
});

describe('definition.triggers', () => {
    test('entries sent with a workflow create its triggers, and the view has no secrets', async () => {
        const definition = { ...echo, triggers: [{ name: 'with it', method: 'POST', auth_type: 'api_key', auth_config: { api_key: 'right-key-0123456789' } }] };
        const made = await createWorkflow(editor, definition);
        const rows = (await member.get(`/api/v1/webhooks/${made.id}/triggers`, { expect: 200 })).body;
        assert.equal(rows.length, 1);
        const shown = await member.get(`/api/v1/workflows/${made.id}`, { expect: 200 });
        assert.equal(shown.body.definition.triggers[0].id, rows[0].id);
        assert.doesNotMatch(shown.text, /right-key-0123456789/);
        await anyone.post(rows[0].webhook_url, {}, { headers: { 'x-api-key': 'right-key-0123456789' }, expect: 200 });
    });
});
