// HTTP/2: the same API through frames, and what a connection may cost. Every test ends with the question whether the server lives on and
// has let go of all that the connection held.

import assert from 'node:assert/strict';
import { connect } from 'node:http2';
import { after, afterEach, before, describe, test } from 'node:test';
import { chain, createWorkflow, http as httpStep, runDefinition, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { ERROR, FLAG, PREFACE, RawHttp2, TYPE, block, frame, get, post, setting, u32 } from '../lib/http2_raw.mjs';
import { exchange } from '../lib/raw.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { bounded, until } from '../lib/wait.mjs';

let weir, editor, token, upstream, atRest;
const opened = new Set();
// What the engine's tables keep once 200 executions have been live. It is one sum for all tests, so what a connection leaves behind adds up.
const SLACK = 768 * 1024;

/** Gauges by name, asked for on a connection of its own that is gone afterwards. */
async function gauges() {
    const { body } = await exchange(weir, 'GET /metrics HTTP/1.1\r\nHost: weir.test\r\nConnection: close\r\n\r\n');
    const value = (name) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(body)[1]);
    return { connections: value('weir_http_connections'), arena: value('weir_arena_bytes'), streams: value('weir_executions_streams') };
}

before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
    editor = await weir.as('editor');
    token = editor.tokens.access_token;
});
after(() => stopAll(upstream, weir));

/** A session of Node's client: {request(headers, body), session}. */
async function client(base = weir.base) {
    const session = connect(base);
    opened.add(() => session.destroy());
    session.on('error', () => {});
    await new Promise((done, fail) => session.once('remoteSettings', done).once('error', fail));
    return session;
}

const ask = (session, headers, body, { end = true } = {}) =>
    bounded(`${headers[':method'] ?? 'GET'} ${headers[':path']}`, 20_000, new Promise((done, fail) => {
        const stream = session.request({ ':path': '/livez', ...headers }, { endStream: body === undefined && end });
        const answer = { stream, text: '' };
        stream.setEncoding('utf8');
        stream.once('response', (head) => Object.assign(answer, { status: head[':status'], head }));
        stream.on('data', (text) => (answer.text += text));
        stream.once('error', (error) => (answer.status === undefined ? fail(error) : undefined));
        stream.once('close', () => done(answer));
        if (body !== undefined) stream.end(body);
    }));

async function raw(options) {
    const made = await RawHttp2.open(weir, options);
    opened.add(() => made.close());
    return made;
}

describe('HTTP/2', () => {
    before(async () => {
        await ask(await client(), {});
        for (const close of opened) close();
        opened.clear();
        atRest = await until('the server is at rest', async () => {
            const now = await gauges();
            return now.connections <= 2 && now; // the editor's, and the one that asks
        });
    });
    afterEach(async () => {
        for (const close of opened) close();
        opened.clear();
        const held = await until('connections, memory and streams return', async () => {
            upstream.release(); // what came to it late
            const now = await gauges();
            return now.connections <= 2 && now.arena <= atRest.arena + SLACK && now.streams === 0 && now;
        });
        assert.ok(held);
        const session = await client();
        assert.equal((await ask(session, {})).status, 200, 'it still answers');
        session.destroy();
    });

    describe('the API', () => {
        test('GET', async () => {
            const { status, head, text } = await ask(await client(), {});
            assert.equal(status, 200);
            assert.deepEqual(JSON.parse(text), { status: 'ok' });
            assert.ok(head['x-request-id'] && head.date && head['x-content-type-options'] === 'nosniff');
            assert.equal(head.connection, undefined);
        });

        test('HEAD: the length of GET and no body', async () => {
            const { status, head, text } = await ask(await client(), { ':method': 'HEAD', ':path': '/api/v1/info' });
            assert.deepEqual([status, text], [200, '']);
            assert.ok(Number(head['content-length']) > 0);
        });

        test('a token, a body, an answer', async () => {
            const session = await client();
            const headers = { ':method': 'POST', ':path': '/api/v1/workflows', authorization: `Bearer ${token}`, 'content-type': 'application/json' };
            const made = await ask(session, headers, JSON.stringify({ name: 'by frames', definition: { steps: [transform('t')] } }));
            assert.equal(made.status, 201, made.text);
            const read = await ask(session, { ':path': made.head.location, authorization: `Bearer ${token}` });
            assert.equal(JSON.parse(read.text).id, JSON.parse(made.text).id);
        });

        test('the gate is the same: 401 without a token, 404, 405', async () => {
            const session = await client();
            for (const [headers, status] of [[{ ':path': '/api/v1/workflows' }, 401], [{ ':path': '/nowhere' }, 404], [{ ':method': 'DELETE' }, 405]]) {
                const got = await ask(session, headers);
                assert.equal(got.status, status);
                assert.match(got.head['content-type'], /^application\/problem\+json/);
                assert.equal(JSON.parse(got.text).status, status);
            }
        });

        test('a hundred streams at once', async () => {
            const session = await client();
            const all = await Promise.all(Array.from({ length: 100 }, () => ask(session, { ':path': '/api/v1/workflows?limit=5', authorization: `Bearer ${token}` })));
            assert.ok(all.every(({ status }) => status === 200));
        });

        test('a body larger than the windows', async () => {
            const definition = { steps: [transform('t', { text: 'x'.repeat(200_000) })] };
            const session = await client();
            const headers = { ':method': 'POST', ':path': '/api/v1/workflows/validate', authorization: `Bearer ${token}`, 'content-type': 'application/json' };
            const answers = await Promise.all(Array.from({ length: 8 }, () => ask(session, headers, JSON.stringify({ definition }))));
            assert.deepEqual(answers.map(({ status }) => status), Array(8).fill(200));
        });

        test('an answer larger than the windows', async () => {
            const session = await client();
            const { status, text } = await ask(session, { ':path': '/openapi.json' });
            assert.equal(status, 200);
            assert.ok(JSON.parse(text).openapi);
        });

        test('413: announced', async () => {
            const raw2 = await raw();
            raw2.request(1, post('/api/v1/auth/token', [['content-length', '99999999']]), { end: false });
            assert.equal(await raw2.status(1), 413);
            assert.equal(await raw2.reset(1), ERROR.NO_ERROR, 'need not go on');
        });

        test('413: only seen as it comes; the session goes on', async () => {
            const session = await client();
            const headers = { ':method': 'POST', ':path': '/api/v1/auth/token', 'content-type': 'application/json' };
            assert.equal((await ask(session, headers, 'x'.repeat(2 << 20))).status, 413);
            assert.equal((await ask(session, {})).status, 200);
        });

        test('a refusal at the head does not wait for the body', async () => {
            const r = await raw();
            r.request(1, post('/api/v1/workflows'), { end: false });
            assert.equal(await r.status(1), 401);
            assert.equal(await r.reset(1), ERROR.NO_ERROR);
        });

        test('Expect: 100-continue', async () => {
            const r = await raw();
            r.request(1, post('/api/v1/auth/token', [['expect', '100-continue']]), { end: false });
            assert.equal(await r.status(1), 100);
            r.data(1, '{}');
            await r.find('the answer', (f) => f.type === TYPE.DATA && f.stream === 1 && f.flags & FLAG.END_STREAM);
        });

        test('trailers are read and forgotten', async () => {
            const r = await raw();
            r.request(1, post(), { end: false }).data(1, '{"email":"a@b.test","password":"x"}', { end: false });
            r.send(frame(TYPE.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1, block([['x-sum', '1'], ['authorization', 'Bearer x']])));
            assert.equal(await r.status(1), 401);
        });

        test('OPTIONS *', async () => {
            const r = await raw();
            r.request(1, [[':method', 'OPTIONS'], [':path', '*'], ...get().slice(2)]);
            assert.equal(await r.status(1), 404);
        });

        test('Host in place of :authority', async () => {
            const r = await raw();
            r.request(1, [...get().slice(0, 3), ['host', 'weir.test']]);
            assert.equal(await r.status(1), 200);
        });

        test('te: trailers is the one field of a hop that may come', async () => {
            const r = await raw();
            r.request(1, get('/livez', [['te', 'trailers']]));
            assert.equal(await r.status(1), 200);
        });

        test('padding, priority and a header block in pieces', async () => {
            const r = await raw();
            const fields = block(get());
            const [first, second, third] = [fields.subarray(0, 5), fields.subarray(5, 9), fields.subarray(9)];
            const padded = Buffer.concat([Buffer.from([3]), u32(0), Buffer.from([15]), first, Buffer.alloc(3)]);
            r.send(frame(TYPE.HEADERS, FLAG.PADDED | FLAG.PRIORITY | FLAG.END_STREAM, 1, padded));
            r.send(frame(TYPE.CONTINUATION, 0, 1, second), frame(TYPE.CONTINUATION, FLAG.END_HEADERS, 1, third));
            assert.equal(await r.status(1), 200);
        });

        test('bytes one at a time, from the preface on', async () => {
            const r = await raw({ preface: Buffer.alloc(0), settings: false });
            const bytes = Buffer.concat([PREFACE, frame(TYPE.SETTINGS, 0, 0), frame(TYPE.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1, block(get()))]);
            for (const byte of bytes) await new Promise((done) => r.socket.write(Buffer.from([byte]), done));
            assert.equal(await r.status(1), 200);
        });

        test('events of an execution, to the last', async () => {
            const done = await runDefinition(editor, chain(transform('a'), transform('b')));
            const { status, head, text } = await ask(await client(), { ':path': `/api/v1/executions/${done.execution_id}/events`, authorization: `Bearer ${token}` });
            assert.deepEqual([status, head['content-type']], [200, 'text/event-stream']);
            assert.match(text, /event: execution\.completed/);
        });

        test('a stream that is cut ends what feeds it', async () => {
            const { id } = await createWorkflow(editor, chain(httpStep('h', `${upstream.base}/hold/h2`), transform('t')));
            const { body } = await editor.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { expect: 202 });
            const session = await client();
            const stream = session.request({ ':path': `/api/v1/executions/${body.execution_id}/events`, authorization: `Bearer ${token}` });
            await new Promise((done) => stream.once('data', done));
            assert.equal((await gauges()).streams, 1);
            stream.close(ERROR.CANCEL);
            await until('nobody watches', async () => (await gauges()).streams === 0);
            assert.equal((await ask(session, {})).status, 200, 'the session goes on');
            await editor.post(`/api/v1/executions/${body.execution_id}/cancel`, undefined, { type: null });
            upstream.release();
        });
    });

    describe('limits that HTTP/1 has as well', () => {
        const cases = {
            'a target of 8 KiB and one': [get(`/${'a'.repeat(8192)}`), 414],
            'a target of 8 KiB': [get(`/${'a'.repeat(8191)}`), 404],
            'fields of more than 16 KiB': [get('/livez', [['x-long', 'a'.repeat(16_400)]]), 431],
            'more than 100 fields': [get('/livez', Array.from({ length: 100 }, (_, i) => [`x-${i}`, 'y'])), 431],
            '100 fields, Host among them': [get('/livez', Array.from({ length: 99 }, (_, i) => [`x-${i}`, 'y'])), 200],
        };
        for (const [what, [fields, status]] of Object.entries(cases))
            test(`${what}: ${status}`, async () => {
                const r = await raw();
                const whole = block(fields), pieces = [];
                for (let at = 0; at < whole.length; at += 16_000) pieces.push(whole.subarray(at, at + 16_000));
                pieces.forEach((piece, i) => r.send(frame(i ? TYPE.CONTINUATION : TYPE.HEADERS, (i ? 0 : FLAG.END_STREAM) | (i === pieces.length - 1 ? FLAG.END_HEADERS : 0), 1, piece)));
                assert.equal(await r.status(1), status);
            });
    });

    describe('400 and 501: good frames, no good request', () => {
        const without = (name) => get().filter(([field]) => field !== name);
        const cases = {
            'an :authority and another Host': [get('/livez', [['host', 'other.test']]), 400],
            'an :authority with a user': [[...without(':authority'), [':authority', 'me@weir.test']], 400],
            'a fragment': [get('/livez#top'), 400],
            'a scheme of another protocol': [[...without(':scheme'), [':scheme', 'ftp']], 400],
            'a line end in a value': [get('/livez', [['x-a', 'a\r\nb: c']]), 400],
            'a NUL in a value': [get('/livez', [['x-a', 'a\0b']]), 400],
            'an escape in a value': [get('/livez', [['x-a', '\x1b[31m']]), 400],
            'a method that nobody knows': [[[':method', 'BREW'], ...get().slice(1)], 501],
            'a method in lower case': [[[':method', 'get'], ...get().slice(1)], 501],
            'an expectation that nobody can meet': [get('/livez', [['expect', '200-ok']]), 417],
        };
        for (const [what, [fields, status]] of Object.entries(cases))
            test(`${what}: ${status}`, async () => {
                const r = await raw();
                r.request(1, fields.sort(([a], [b]) => b.startsWith(':') - a.startsWith(':')));
                assert.equal(await r.status(1), status);
                r.request(3, get());
                assert.equal(await r.status(3), 200, 'the session goes on');
            });
    });

    describe('a stream is cut: PROTOCOL_ERROR', () => {
        const without = (name) => get().filter(([field]) => field !== name);
        const cases = {
            'upper case in a name': get('/livez', [['X-Upper', '1']]),
            'a connection field': get('/livez', [['connection', 'close']]),
            'keep-alive': get('/livez', [['keep-alive', '5']]),
            'upgrade': get('/livez', [['upgrade', 'websocket']]),
            'transfer-encoding': get('/livez', [['transfer-encoding', 'chunked']]),
            'te other than trailers': get('/livez', [['te', 'gzip']]),
            'no :method': without(':method'),
            'no :path': without(':path'),
            'no :scheme': without(':scheme'),
            'neither :authority nor Host': without(':authority'),
            'an :authority that is none': [...without(':authority'), [':authority', 'a, b']],
            'an empty :path': [...without(':path'), [':path', '']],
            'a :path that is none': [...without(':path'), [':path', 'livez']],
            'two of a pseudo field': [[':path', '/livez'], ...get()],
            'a pseudo field behind another': [...get().slice(0, 3), ['x-a', '1'], [':authority', 'weir.test']],
            'a pseudo field of an answer': [[':status', '200'], ...get()],
            'a pseudo field that nobody knows': [[':weir', '1'], ...get()],
            'a Host twice': [...without(':authority'), ['host', 'a.test'], ['host', 'a.test']],
            'two lengths': post('/api/v1/auth/token', [['content-length', '0'], ['content-length', '0']]),
            'a length that is none': post('/api/v1/auth/token', [['content-length', '+0']]),
            'an Extended CONNECT': [[':method', 'CONNECT'], [':protocol', 'websocket'], ...get().slice(1)],
        };
        for (const [what, fields] of Object.entries(cases))
            test(what, async () => {
                const r = await raw();
                r.request(1, fields);
                assert.equal(await r.reset(1), ERROR.PROTOCOL_ERROR);
                r.request(3, get());
                assert.equal(await r.status(3), 200, 'the session goes on');
            });

        for (const [what, length] of [['less than announced', 5], ['more than announced', 1]])
            test(`a body of ${what}`, async () => {
                const r = await raw();
                r.request(1, post('/api/v1/auth/token', [['content-length', String(length)]]), { end: false }).data(1, '{} ');
                assert.equal(await r.reset(1), ERROR.PROTOCOL_ERROR);
            });
    });

    describe('the connection ends', () => {
        const { PROTOCOL_ERROR, FRAME_SIZE_ERROR, FLOW_CONTROL_ERROR, COMPRESSION_ERROR, STREAM_CLOSED } = ERROR;
        const cases = {
            'DATA on stream 0': [(r) => r.data(0, 'x'), PROTOCOL_ERROR],
            'DATA on a stream that is not open': [(r) => r.data(1, 'x'), PROTOCOL_ERROR],
            'HEADERS on an even stream': [(r) => r.request(2, get()), PROTOCOL_ERROR],
            'HEADERS on stream 0': [(r) => r.request(0, get()), PROTOCOL_ERROR],
            'PUSH_PROMISE of a client': [(r) => r.send(frame(TYPE.PUSH_PROMISE, FLAG.END_HEADERS, 1, Buffer.concat([u32(2), block(get())]))), PROTOCOL_ERROR],
            'RST_STREAM of an idle stream': [(r) => r.send(frame(TYPE.RST_STREAM, 0, 1, u32(8))), PROTOCOL_ERROR],
            'CONTINUATION out of nowhere': [(r) => r.send(frame(TYPE.CONTINUATION, FLAG.END_HEADERS, 1, block(get()))), PROTOCOL_ERROR],
            'PING amid a header block': [(r) => r.send(frame(TYPE.HEADERS, FLAG.END_STREAM, 1, block(get())), frame(TYPE.PING, 0, 0, Buffer.alloc(8))), PROTOCOL_ERROR],
            'a connection window that moves by nothing': [(r) => r.send(frame(TYPE.WINDOW_UPDATE, 0, 0, u32(0))), PROTOCOL_ERROR],
            'a window that moves by nothing': [(r) => r.request(1, post(), { end: false }).send(frame(TYPE.WINDOW_UPDATE, 0, 1, u32(0))), PROTOCOL_ERROR],
            'an acknowledgement that nobody asked for': [(r) => r.send(...Array(2).fill(frame(TYPE.SETTINGS, FLAG.ACK, 0))), PROTOCOL_ERROR],
            'a connection window beyond 2^31 - 1': [(r) => r.send(frame(TYPE.WINDOW_UPDATE, 0, 0, u32(0x7fffffff))), FLOW_CONTROL_ERROR],
            'a WINDOW_UPDATE of three bytes': [(r) => r.send(frame(TYPE.WINDOW_UPDATE, 0, 0, Buffer.alloc(3))), FRAME_SIZE_ERROR],
            'a PING of seven bytes': [(r) => r.send(frame(TYPE.PING, 0, 0, Buffer.alloc(7))), FRAME_SIZE_ERROR],
            'a PING on a stream': [(r) => r.send(frame(TYPE.PING, 0, 1, Buffer.alloc(8))), PROTOCOL_ERROR],
            'SETTINGS of five bytes': [(r) => r.send(frame(TYPE.SETTINGS, 0, 0, Buffer.alloc(5))), FRAME_SIZE_ERROR],
            'SETTINGS on a stream': [(r) => r.send(frame(TYPE.SETTINGS, 0, 1)), PROTOCOL_ERROR],
            'an acknowledgement with settings': [(r) => r.send(frame(TYPE.SETTINGS, FLAG.ACK, 0, setting(3, 1))), FRAME_SIZE_ERROR],
            'ENABLE_PUSH of 2': [(r) => r.send(frame(TYPE.SETTINGS, 0, 0, setting(2, 2))), PROTOCOL_ERROR],
            'a first window beyond 2^31 - 1': [(r) => r.send(frame(TYPE.SETTINGS, 0, 0, setting(4, 0x80000000))), FLOW_CONTROL_ERROR],
            'frames of fewer than 2^14 bytes': [(r) => r.send(frame(TYPE.SETTINGS, 0, 0, setting(5, 100))), PROTOCOL_ERROR],
            'a frame larger than allowed': [(r) => r.send(frame(TYPE.DATA, 0, 1, Buffer.alloc(20_000))), FRAME_SIZE_ERROR],
            'a header block that cannot be decoded': [(r) => r.send(frame(TYPE.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))), COMPRESSION_ERROR],
            'more padding than frame': [(r) => r.send(frame(TYPE.HEADERS, FLAG.PADDED | FLAG.END_HEADERS, 1, Buffer.from([200, 0]))), PROTOCOL_ERROR],
        };
        for (const [what, [send, error]] of Object.entries(cases))
            test(what, async () => {
                const r = await raw();
                send(r);
                const got = await r.goaway();
                assert.ok([error].flat().includes(got), `GOAWAY ${got}, not ${error}`);
            });

        test('a stream number that goes back is no request', async () => {
            const r = await raw();
            r.request(5, get()).request(3, get()).request(7, get());
            assert.deepEqual([await r.status(5), await r.status(7)], [200, 200]);
            assert.ok(!r.frames.some(({ stream }) => stream === 3));
        });

        test('frames that nobody knows are passed over', async () => {
            const r = await raw();
            for (let type = 10; type < 256; type++) r.send(frame(type, 0xff, 1, Buffer.alloc(100)));
            r.request(1, get());
            assert.equal(await r.status(1), 200);
        });

        test('something else than SETTINGS behind the preface', async () => {
            const r = await raw({ settings: false });
            r.request(1, get());
            assert.equal(await r.goaway(), PROTOCOL_ERROR);
        });

        test('a preface that ends in another way is HTTP/1, and refused there', async () => {
            const { status } = await exchange(weir, 'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n');
            assert.equal(status, 505);
        });
    });

    describe('what a connection may cost', () => {
        test('more than 100 open streams: REFUSED_STREAM', async () => {
            const r = await raw();
            for (let i = 0; i < 101; i++) r.request(2 * i + 1, post(), { end: false });
            assert.equal(await r.reset(201), ERROR.REFUSED_STREAM);
            assert.equal(r.frames.filter(({ type }) => type === TYPE.RST_STREAM).length, 1);
        });

        test('requests whose streams were cut count until their work has ended', async () => {
            const { id } = await createWorkflow(editor, chain(httpStep('h', `${upstream.base}/hold/work`)));
            const r = await raw();
            const more = [['authorization', `Bearer ${token}`]];
            for (let i = 0; i < 200; i++) {
                const stream = 2 * i + 1;
                r.request(stream, post(`/api/v1/workflows/${id}/execute`, more), { end: false }).data(stream, '{"input_data":{}}');
                if (i < 150) r.send(frame(TYPE.RST_STREAM, 0, stream, u32(ERROR.CANCEL))); // not so many that it would be a flood
            }
            await upstream.called('/hold/work');
            r.request(401, get());
            assert.equal(await r.reset(401), ERROR.REFUSED_STREAM);
            await until('the last one is answered', () => {
                upstream.release(); // also those that came to it later
                return r.frames.some(({ type, stream }) => type === TYPE.HEADERS && stream === 399);
            }, { within_ms: 30_000 });
            assert.equal(await r.status(399), 200);
            await until('there is room again', async () => {
                r.request((r.last = (r.last ?? 401) + 2), get());
                return (await r.status(r.last)) === 200;
            });
        });

        const many = (n, make) => Buffer.concat(Array.from({ length: n }, (_, i) => make(i)));
        const cut = (i) => Buffer.concat([frame(TYPE.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 2 * i + 1, block(get())), frame(TYPE.RST_STREAM, 0, 2 * i + 1, u32(ERROR.CANCEL))]);
        const madeToReset = (i) => Buffer.concat([frame(TYPE.HEADERS, FLAG.END_HEADERS, 2 * i + 1, block(post())), frame(TYPE.WINDOW_UPDATE, 0, 2 * i + 1, u32(0x7fffffff))]);
        const open = frame(TYPE.HEADERS, FLAG.END_HEADERS, 1, block(post()));
        const floods = {
            'PING': [many(101, () => frame(TYPE.PING, 0, 0, Buffer.alloc(8)))],
            'SETTINGS': [many(25, () => frame(TYPE.SETTINGS, 0, 0))],
            'rapid reset (CVE-2023-44487)': [many(250, cut)],
            'streams made to be cut by us (CVE-2025-8671)': [many(250, madeToReset)],
            'DATA without data': [open, many(101, () => frame(TYPE.DATA, 0, 1))],
            'WINDOW_UPDATE': [many(1001, () => frame(TYPE.WINDOW_UPDATE, 0, 0, u32(1)))],
            'PRIORITY': [many(201, (i) => frame(TYPE.PRIORITY, 0, 2 * i + 1, Buffer.concat([u32(0), Buffer.from([1])])))],
            'CONTINUATION': [frame(TYPE.HEADERS, FLAG.END_STREAM, 1, block(get())), many(100, (i) => frame(TYPE.CONTINUATION, 0, 1, block([[`x-${i}`, 'y']])))],
            'CONTINUATION without bytes': [frame(TYPE.HEADERS, FLAG.END_STREAM, 1, block(get())), many(100, () => frame(TYPE.CONTINUATION, 0, 1))],
            'a header list that unpacks': [frame(TYPE.HEADERS, 0, 1, Buffer.concat([block(get()), Buffer.from([0x40]), block([['x-bomb', 'z'.repeat(4000)]]).subarray(1), Buffer.alloc(10_000, 0xbe)]))],
        };
        for (const [what, bytes] of Object.entries(floods))
            test(`a flood of ${what}: ENHANCE_YOUR_CALM`, async () => {
                const r = await raw();
                r.send(...bytes);
                assert.equal(await r.goaway(), ERROR.ENHANCE_YOUR_CALM);
            });

        test('one PING fewer, and each is answered', async () => {
            const r = await raw();
            r.send(many(100, () => frame(TYPE.PING, 0, 0, Buffer.alloc(8))));
            await until('a hundred acknowledgements', () => r.frames.filter(({ type }) => type === TYPE.PING).length === 100);
            r.request(1, get());
            assert.equal(await r.status(1), 200);
        });

        test('windows that open as data comes are no flood', async () => {
            const session = await client();
            for (let i = 0; i < 5; i++) {
                const all = await Promise.all(Array.from({ length: 20 }, () => ask(session, { ':path': '/openapi.json' })));
                assert.ok(all.every(({ status }) => status === 200));
            }
        });

        test('a reader that never opens its window holds no more than one answer', async () => {
            const r = await raw({ settings: false });
            r.send(frame(TYPE.SETTINGS, 0, 0, Buffer.concat([setting(1, 0), setting(4, 0)])));
            for (let i = 0; i < 50; i++) r.request(2 * i + 1, get('/openapi.json'));
            assert.equal(await r.status(99), 200);
            assert.ok(!r.frames.some(({ type }) => type === TYPE.DATA));
            r.send(frame(TYPE.WINDOW_UPDATE, 0, 1, u32(10)));
            const data = await r.find('ten bytes', (f) => f.type === TYPE.DATA);
            assert.deepEqual([data.stream, data.payload.length], [1, 10]);
        });
    });
});

describe('the end of the server', () => {
    const ACK = 1, LAST_STREAM = 2 ** 31 - 1;
    const said = ({ payload }) => [payload.readUInt32BE(0), payload.readUInt32BE(4)];

    test('a client that does not answer hears the last GOAWAY all the same', async () => {
        const own = await Weir.start();
        try {
            const r = await RawHttp2.open(own);
            r.request(1, get('/livez'));
            assert.equal(await r.status(1), 200);
            own.child.kill('SIGTERM');
            const first = await r.find('GOAWAY', (f) => f.type === TYPE.GOAWAY);
            const last = await r.find('the last GOAWAY', (f) => f.type === TYPE.GOAWAY && f !== first);
            assert.deepEqual([said(first), said(last)], [[LAST_STREAM, ERROR.NO_ERROR], [1, ERROR.NO_ERROR]]);
            r.socket.end();
            await bounded('the connection closes', 10_000, r.closed);
            assert.equal((await bounded('it ends', 35_000, own.exited)).code, 0);
            own.child = null;
        } finally {
            await own.stop();
        }
    });

    test('GOAWAY that refuses nothing, PING, GOAWAY; then what is under way finishes, then the connection closes', async () => {
        const own = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
        try {
            const user = await own.as('editor');
            const { id } = await createWorkflow(user, chain(httpStep('h', `${upstream.base}/hold/end`), transform('t')));
            const r = await RawHttp2.open(own);
            r.request(1, [...post(`/api/v1/workflows/${id}/execute`), ['authorization', `Bearer ${user.tokens.access_token}`]], { end: false }).data(1, '{"input_data":{}}');
            await upstream.called('/hold/end');
            own.child.kill('SIGTERM');
            const first = await r.find('GOAWAY', (f) => f.type === TYPE.GOAWAY);
            assert.deepEqual(said(first), [LAST_STREAM, ERROR.NO_ERROR]);
            r.request(3, get('/livez'));
            assert.equal(await r.status(3), 200, 'what was on its way when the server spoke is served');
            const ping = await r.find('PING', (f) => f.type === TYPE.PING && (f.flags & ACK) === 0);
            r.send(frame(TYPE.PING, ACK, 0, ping.payload));
            const last = await r.find('the last GOAWAY', (f) => f.type === TYPE.GOAWAY && f !== first);
            assert.deepEqual(said(last), [3, ERROR.NO_ERROR]);
            r.request(5, get('/livez'));
            upstream.release();
            assert.equal(await r.status(1), 200);
            r.socket.end();
            await bounded('the connection closes', 10_000, r.closed);
            assert.ok(!r.frames.some(({ stream }) => stream === 5), 'what came behind the last GOAWAY is left to another server');
            const end = await bounded('it ends', 35_000, own.exited);
            assert.equal(end.code, 0);
            own.child = null;
        } finally {
            await own.stop();
        }
    });
});
