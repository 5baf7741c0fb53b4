// Headers that have nothing to do with what is asked: trace context, security, origins, content codings.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { exchange } from '../lib/raw.mjs';
import { Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const ORIGIN = 'https://console.example.com';
const simple = { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] };
const wide = (bytes) => ({ steps: [transform('t', { text: 'wide '.repeat(bytes / 5) })] });
let weir, editor, workflow;
before(async () => {
    weir = await Weir.start({ env: { ALLOWED_ORIGINS: `https://other.example.com, ${ORIGIN}`, WEIR_PUBLIC_URL: 'https://weir.example.com' } });
    editor = await weir.as('editor');
    workflow = await createWorkflow(editor, wide(4000));
});
after(() => weir?.stop());

/** The bytes as they came: fetch would take the coding off. */
async function rawGet(path, headers = {}, method = 'GET') {
    const lines = Object.entries({ authorization: editor.headers.authorization, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`).join('');
    const answer = await exchange(weir, `${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${lines}\r\n`);
    const field = (name) => new RegExp(`^${name}: (.*)$`, 'im').exec(answer.head.replaceAll('\r', ''))?.[1];
    return { ...answer, field, bytes: Buffer.from(answer.body, 'latin1') };
}

describe('trace context', () => {
    test('a trace that comes in goes on, in a span of its own, and into the log', async () => {
        const { headers } = await editor.get('/api/v1/workflows', { headers: { traceparent: `00-${TRACE}-00f067aa0ba902b7-01` }, expect: 200 });
        assert.match(headers.get('traceparent'), new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
        assert.ok(!headers.get('traceparent').includes('00f067aa0ba902b7'));
        await until('the access log names the trace', () => weir.log().some((line) => line.trace === TRACE));
    });

    test('without one, or with a wrong one, a trace begins', async () => {
        for (const traceparent of [undefined, 'nonsense', `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`]) {
            const { headers } = await editor.get('/api/v1/workflows', { headers: traceparent ? { traceparent } : {}, expect: 200 });
            assert.match(headers.get('traceparent'), /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
            assert.doesNotMatch(headers.get('traceparent'), /^00-0{32}/);
        }
    });
});

describe('security headers', () => {
    test('stand on every answer, problems and refusals too', async () => {
        const answers = [await editor.get('/api/v1/workflows'), await weir.anonymous().get('/api/v1/workflows'), await weir.anonymous().get('/livez')];
        for (const { headers } of answers) {
            assert.equal(headers.get('content-security-policy'), "default-src 'none'; frame-ancestors 'none'");
            assert.equal(headers.get('referrer-policy'), 'no-referrer');
            assert.equal(headers.get('x-content-type-options'), 'nosniff');
            assert.match(headers.get('strict-transport-security'), /^max-age=\d+/);
        }
        const refused = await exchange(weir, 'GET / HTTP/1.1\r\n\r\n');
        assert.equal(refused.status, 400);
        assert.match(refused.head, /content-security-policy: default-src 'none'/i);
    });

    test('what is private is not stored', async () => {
        assert.equal((await editor.get('/api/v1/workflows')).headers.get('cache-control'), 'no-store');
    });
});

describe('origins', () => {
    const cors = (headers) => Object.fromEntries([...headers].filter(([name]) => name.startsWith('access-control-')));

    test('a listed origin may read, with credentials, and sees the headers that matter', async () => {
        const { headers } = await editor.get('/api/v1/workflows', { headers: { origin: ORIGIN }, expect: 200 });
        assert.equal(headers.get('access-control-allow-origin'), ORIGIN);
        assert.equal(headers.get('access-control-allow-credentials'), 'true');
        assert.match(headers.get('access-control-expose-headers'), /\bLink\b.*\bX-Total-Count\b/);
        assert.match(headers.get('vary'), /\bOrigin\b/);
    });

    test('and it may read problems', async () => {
        const { headers, status } = await weir.anonymous().get('/api/v1/workflows', { headers: { origin: ORIGIN } });
        assert.deepEqual([status, headers.get('access-control-allow-origin')], [401, ORIGIN]);
    });

    test('a preflight tells methods and headers without a token', async () => {
        const { status, headers } = await weir.anonymous().send('OPTIONS', `/api/v1/workflows/${workflow.id}`, undefined, {
            headers: { origin: ORIGIN, 'access-control-request-method': 'PUT', 'access-control-request-headers': 'authorization, if-match' } });
        assert.equal(status, 204);
        assert.equal(headers.get('access-control-allow-origin'), ORIGIN);
        for (const method of ['GET', 'PUT', 'PATCH', 'DELETE']) assert.match(headers.get('access-control-allow-methods'), new RegExp(`\\b${method}\\b`));
        for (const name of ['Authorization', 'If-Match', 'Idempotency-Key', 'Content-Type']) assert.match(headers.get('access-control-allow-headers'), new RegExp(name));
        assert.equal(headers.get('access-control-max-age'), '600');
    });

    test('every other origin is told nothing', async () => {
        for (const origin of ['https://evil.example.com', `${ORIGIN}.evil.com`, 'https://console.example.co', 'http://console.example.com', 'null']) {
            const read = await editor.get('/api/v1/workflows', { headers: { origin } });
            assert.deepEqual(cors(read.headers), {}, origin);
            assert.match(read.headers.get('vary'), /\bOrigin\b/);
            const asked = await weir.anonymous().send('OPTIONS', '/api/v1/workflows', undefined, { headers: { origin, 'access-control-request-method': 'GET' } });
            assert.deepEqual(cors(asked.headers), {}, origin);
        }
    });
});

describe('content codings', () => {
    const path = () => `/api/v1/workflows/${workflow.id}`;

    test('gzip and brotli give the same bytes as none', async () => {
        const plain = await rawGet(path());
        assert.equal(plain.field('content-encoding'), undefined);
        assert.match(plain.field('vary'), /Accept-Encoding/);
        for (const [coding, unpack] of [['gzip', gunzipSync], ['br', brotliDecompressSync]]) {
            const packed = await rawGet(path(), { 'accept-encoding': coding });
            assert.equal(packed.field('content-encoding'), coding);
            assert.ok(packed.bytes.length < plain.bytes.length / 4);
            assert.equal(Number(packed.field('content-length')), packed.bytes.length);
            assert.deepEqual(unpack(packed.bytes), plain.bytes);
        }
    });

    test('weights decide', async () => {
        const coding = async (accept) => (await rawGet(path(), { 'accept-encoding': accept })).field('content-encoding');
        assert.equal(await coding('gzip, br'), 'br');
        assert.equal(await coding('gzip;q=1, br;q=0.2'), 'gzip');
        assert.equal(await coding('gzip;q=0, br;q=0'), undefined);
        assert.equal(await coding('identity'), undefined);
    });

    test('a large answer, which is compressed off the loop', async () => {
        const { id } = await createWorkflow(editor, wide(200_000));
        const plain = await rawGet(`/api/v1/workflows/${id}`), packed = await rawGet(`/api/v1/workflows/${id}`, { 'accept-encoding': 'br' });
        assert.equal(packed.field('content-encoding'), 'br');
        assert.deepEqual(brotliDecompressSync(packed.bytes), plain.bytes);
        const both = await exchange(weir, [1, 2].map((n) => `GET /api/v1/workflows/${id} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nAuthorization: ${editor.headers.authorization}\r\n${n === 2 ? 'Connection: close\r\n' : ''}\r\n`));
        assert.deepEqual(both.statuses.filter(Boolean), [200, 200]);
    });

    test('the OpenAPI document, which is compressed once', async () => {
        const plain = await rawGet('/openapi.json');
        for (const [coding, unpack] of [['gzip', gunzipSync], ['br', brotliDecompressSync], ['gzip', gunzipSync]]) {
            const packed = await rawGet('/openapi.json', { 'accept-encoding': coding });
            assert.equal(packed.field('content-encoding'), coding);
            assert.deepEqual(unpack(packed.bytes), plain.bytes);
        }
    });

    test('HEAD says what GET would', async () => {
        const [get, head] = [await rawGet(path(), { 'accept-encoding': 'gzip' }), await rawGet(path(), { 'accept-encoding': 'gzip' }, 'HEAD')];
        assert.deepEqual(['content-encoding', 'content-length', 'vary'].map(head.field), ['content-encoding', 'content-length', 'vary'].map(get.field));
        assert.equal(head.body, '');
    });

    test('small answers and answers that hold tokens stay as they are', async () => {
        const small = await rawGet('/livez', { 'accept-encoding': 'gzip' });
        assert.deepEqual([small.field('content-encoding'), small.status], [undefined, 200]);
        const body = JSON.stringify({ email: 'editor@acme.test', password: 'Kestrel-7-marble-lantern' });
        const login = await exchange(weir, `POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip, br\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
        assert.equal(login.status, 200);
        assert.doesNotMatch(login.head, /content-encoding|accept-encoding/i);
    });

    test('what a workflow answers under a coding of its own is left alone', async () => {
        const { id } = await createWorkflow(editor, { steps: [{ id: 'r', type: 'respond', with: { status: 200, headers: { 'Content-Encoding': 'x-mine', 'Content-Type': 'text/plain' }, body: 'w'.repeat(3000) } }] });
        const { webhook_url } = await createTrigger(editor, id, { method: 'GET' });
        const answer = await rawGet(webhook_url, { 'accept-encoding': 'gzip' });
        assert.deepEqual([answer.status, answer.field('content-encoding'), answer.body.length], [200, 'x-mine', 3000]);
    });
});

describe('rate limits', () => {
    const policy = (answer) => [answer.headers.get('ratelimit-policy'), answer.headers.get('ratelimit')];

    test('a webhook tells its rate, and what is left of it', async () => {
        const { id } = await createWorkflow(editor, simple), { webhook_url } = await createTrigger(editor, id, { rate_limit: 2 });
        const answers = await Promise.all(Array.from({ length: 6 }, () => weir.anonymous().post(webhook_url, { n: 1 })));
        const refused = answers.filter((answer) => answer.status === 429), taken = answers.filter((answer) => answer.status === 200);
        assert.ok(refused.length >= 1 && taken.length >= 2);
        for (const answer of answers) assert.equal(policy(answer)[0], '"webhook";q=2;w=1');
        assert.ok(taken.some((answer) => /^"webhook";r=1;t=\d+$/.test(policy(answer)[1])));
        for (const answer of refused) assert.deepEqual([policy(answer)[1], answer.headers.get('retry-after')], ['"webhook";r=0;t=1', '1']);
        const { webhook_url: free } = await createTrigger(editor, id, { rate_limit: null });
        assert.deepEqual(policy(await weir.anonymous().post(free, { n: 1 }, { expect: 200 })), [null, null]);
    });

    test('login tells how many failures are left', async () => {
        const other = await Weir.start();
        try {
            const login = (password) => other.anonymous().post('/api/v1/auth/token', { email: 'viewer@acme.test', password });
            assert.deepEqual(policy(await login('Kestrel-7-marble-lantern')), ['"login";q=5;w=60', '"login";r=5;t=60']);
            for (let left = 4; left >= 0; left--) {
                const wrong = await login('wrong');
                assert.deepEqual([wrong.status, ...policy(wrong)], [401, '"login";q=5;w=60', `"login";r=${left};t=60`]);
            }
            const refused = await login('Kestrel-7-marble-lantern');
            assert.equal(refused.status, 429);
            assert.match(policy(refused)[1], /^"login";r=0;t=\d+$/);
            assert.equal(refused.headers.get('retry-after'), /t=(\d+)/.exec(policy(refused)[1])[1]);
        } finally {
            await other.stop();
        }
    });

    test('a plan has a limit when WEIR_API_LIMITS gives it one: each tenant its own, before permissions', async () => {
        assert.deepEqual(policy(await editor.get('/api/v1/workflows')), [null, null]);
        const other = await Weir.start({ env: { WEIR_API_LIMITS: 'team=1/1, free=3/3600' } });
        try {
            const [viewer, owner] = [await other.as('viewer'), await other.as('owner')];
            const answers = [];
            for (let i = 0; i < 4; i++) answers.push(await (i % 2 ? viewer : owner).get('/api/v1/workflows'));
            assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 429]);
            assert.deepEqual(answers.map((answer) => policy(answer)[0]), Array(4).fill('"api";q=3;w=3600'));
            assert.deepEqual(answers.map((answer) => /r=(\d+)/.exec(policy(answer)[1])[1]), ['2', '1', '0', '0']);
            assert.equal(answers[3].body.code, 'request.limit');
            assert.ok(Number(answers[3].headers.get('retry-after')) > 1);
            assert.equal((await (await other.as('viewer', 'globex')).get('/api/v1/workflows')).status, 200);
            assert.equal((await other.anonymous().get('/livez')).status, 200);
        } finally {
            await other.stop();
        }
    });

    test('a limit that is none stops the start', async () => {
        for (const limits of ['free', 'free=0/1', 'free=1', '=1/1', 'free=1/86401']) {
            const other = await Weir.start({ serve: false, users: false });
            other.env.WEIR_API_LIMITS = limits;
            await assert.rejects(other.serve(), /WEIR_API_LIMITS/, limits);
            other.discard();
        }
    });
});

test('an origin that no browser would send stops the start', async () => {
    const other = await Weir.start({ serve: false, users: false });
    other.env.ALLOWED_ORIGINS = 'https://a.example.com,*';
    await assert.rejects(other.serve(), /ALLOWED_ORIGINS: \* is no origin/);
    other.discard();
});
