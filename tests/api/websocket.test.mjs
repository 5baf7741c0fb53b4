// WebSocket: the events of an execution for those who ask for an upgrade; the same gate, the same events, and a close code that says why it ended.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { chain, createWorkflow, http, runDefinition, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Browser } from '../lib/browser.mjs';
import { exchange } from '../lib/raw.mjs';
import { DB, PASSWORD, Weir, stopAll } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';
import { OP, RawWebSocket, closeFrame, wsFrame } from '../lib/websocket_raw.mjs';

const ORIGIN = 'https://app.weir.test';
let weir, editor, token, upstream, done;
const opened = new Set();

before(async () => {
    upstream = await Upstream.start((path) => ({ hold: path.startsWith('/hold') }));
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host, ALLOWED_ORIGINS: ORIGIN } });
    editor = await weir.as('editor');
    token = editor.tokens.access_token;
    done = (await runDefinition(editor, chain(transform('a'), transform('b')))).execution_id;
});
const streams = async () => Number(/^weir_executions_streams (\d+)$/m.exec((await exchange(weir, 'GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')).body)[1]);
afterEach(async () => {
    for (const ws of opened) ws.socket.destroy();
    opened.clear();
    await until('nobody watches any more', async () => (await streams()) === 0);
    upstream.release();
});
after(() => stopAll(upstream, weir));

const events = (id, query = '') => `/api/v1/executions/${id}/events${query}`;
async function open(path, options = {}) {
    const ws = await RawWebSocket.open(weir, path, { token, ...options });
    opened.add(ws);
    return ws;
}

/** An execution that waits for the upstream, and somebody who watches it. */
let serial = 0;
async function watch(options) {
    const path = `/hold/${++serial}`;
    const { id } = await createWorkflow(editor, chain(http('h', upstream.base + path), transform('t')));
    const { body } = await editor.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { expect: 202 });
    const ws = await open(events(body.execution_id), options);
    assert.equal(ws.status, 101, ws.head);
    const first = await ws.find('the first event', ({ opcode }) => opcode === OP.TEXT);
    assert.ok(first, `closed: ${ws.frames.map(({ opcode, payload }) => `${opcode} ${payload.toString('latin1')}`)}, ${ws.bytes}`);
    await upstream.called(path);
    return { ws, id: body.execution_id };
}

describe('the events', () => {
    test('of a finished execution: all of them, then 1000', async () => {
        const ws = await open(events(done));
        assert.equal(ws.status, 101);
        assert.match(ws.head, new RegExp(`^sec-websocket-accept: ${ws.expected.replaceAll('+', '\\+')}$`, 'im'));
        assert.match(ws.head, /^upgrade: websocket$/im);
        assert.match(ws.head, /^connection: upgrade$/im);
        assert.match(ws.head, /^x-request-id: \S+$/im);
        assert.doesNotMatch(ws.head, /transfer-encoding|content-length/i);
        assert.equal(await ws.code(), 1000);
        assert.ok(ws.frames.every(({ fin, masked }) => fin && !masked));
        const { text } = await editor.get(events(done), { raw: true });
        const told = text.split('\n\n').filter((part) => part.includes('event:')).map((part) => Object.fromEntries(part.split('\n').map((line) => line.split(/: (.*)/s))));
        assert.deepEqual(ws.messages(), told.map(({ id, event, data }) => ({ id, event, data: JSON.parse(data) })));
    });

    test('of a running one, as it goes', async () => {
        const { ws } = await watch();
        assert.equal(ws.messages()[0].event, 'execution.started');
        upstream.release();
        assert.equal(await ws.code(), 1000);
        assert.equal(ws.messages().at(-1).event, 'execution.completed');
    });

    test('what is to come cannot be read: 1013, and whoever comes back goes on', { skip: DB !== 'postgres' && 'no news get lost in one process' }, async () => {
        const { ws, id } = await watch();
        const admin = weir.postgres.admin(weir.database);
        const lock = await weir.postgres.hold('BEGIN; LOCK TABLE executions IN ACCESS EXCLUSIVE MODE', admin);
        weir.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query IN ('LISTEN weir', 'SELECT 1')");
        assert.equal(await ws.code(), 1013);
        await lock.release();
        upstream.release();
        const again = await open(events(id, `?last_event_id=${ws.messages().at(-1).id}`));
        assert.equal(await again.code(), 1000);
        assert.equal(again.messages().at(-1).event, 'execution.completed');
    });

    test('resume behind an id: by Last-Event-ID, and by ?last_event_id=', async () => {
        const all = await open(events(done));
        await all.code();
        const { id } = all.messages().at(-2);
        for (const ws of [await open(events(done), { headers: { 'Last-Event-ID': id } }), await open(events(done, `?last_event_id=${id}`))]) {
            assert.equal(await ws.code(), 1000);
            assert.deepEqual(ws.messages().map(({ event }) => event), ['execution.completed']);
        }
        const { text } = await editor.get(events(done, `?last_event_id=${id}`), { raw: true, expect: 200 });
        assert.equal(text.match(/^event:/gm).length, 1, 'server-sent events know the parameter as well');
    });

    test('a client that is cut off ends the subscription', async () => {
        const { ws } = await watch();
        assert.equal(await streams(), 1);
        ws.socket.destroy();
        await until('nobody watches', async () => (await streams()) === 0);
    });
});

describe('frames of the client', () => {
    test('a ping is answered with what it carried', async () => {
        const { ws } = await watch();
        ws.send(wsFrame(OP.PING, Buffer.from('are you there')));
        const pong = await ws.find('a pong', ({ opcode }) => opcode === OP.PONG);
        assert.equal(pong.payload.toString(), 'are you there');
    });

    test('a ping that did not wait for the handshake', async () => {
        const { ws } = await watch({ early: wsFrame(OP.PING, Buffer.from('early')) });
        assert.equal((await ws.find('a pong', ({ opcode }) => opcode === OP.PONG)).payload.toString(), 'early');
    });

    test('bytes one at a time', async () => {
        const { ws } = await watch();
        for (const byte of wsFrame(OP.PING, Buffer.from('slow'))) await new Promise((sent) => ws.socket.write(Buffer.from([byte]), sent));
        assert.equal((await ws.find('a pong', ({ opcode }) => opcode === OP.PONG)).payload.toString(), 'slow');
    });

    test('an unasked pong is passed over', async () => {
        const { ws } = await watch();
        ws.send(wsFrame(OP.PONG), wsFrame(OP.PING));
        assert.ok(await ws.find('a pong', ({ opcode }) => opcode === OP.PONG));
    });

    const cases = {
        'Close: answered with the same code': [[closeFrame(1000)], 1000],
        'Close without a code': [[wsFrame(OP.CLOSE)], 1005],
        'a text': [[wsFrame(OP.TEXT, Buffer.from('hello'))], 1003],
        'bytes': [[wsFrame(OP.BINARY, Buffer.alloc(4096))], 1003],
        'a message of 4 KiB and one': [[wsFrame(OP.BINARY, Buffer.alloc(4097))], 1009],
        'a message in pieces of more than 4 KiB': [[wsFrame(OP.BINARY, Buffer.alloc(3000), { fin: false }), wsFrame(OP.CONTINUATION, Buffer.alloc(3000))], 1009],
        'no mask': [[wsFrame(OP.PING, Buffer.alloc(0), { mask: false })], 1002],
        'a reserved bit': [[wsFrame(OP.PING, Buffer.alloc(0), { rsv: 4 })], 1002],
        'an operation that nobody knows': [[wsFrame(3)], 1002],
        // wslay sees these before it knows the frame, and closes without a code
        'a ping of 126 bytes': [[wsFrame(OP.PING, Buffer.alloc(126))], 1005],
        'a ping in pieces': [[wsFrame(OP.PING, Buffer.alloc(1), { fin: false })], 1005],
        'a Close of one byte': [[wsFrame(OP.CLOSE, Buffer.alloc(1))], 1005],
        'a continuation of nothing': [[wsFrame(OP.CONTINUATION, Buffer.from('x'))], 1002],
        'a code that nobody may send': [[closeFrame(1005)], 1002],
    };
    for (const [what, [frames, code]] of Object.entries(cases))
        test(`${what}: ${code}`, async () => {
            const { ws } = await watch();
            ws.send(...frames);
            assert.equal(await ws.code(), code);
        });
});

describe('the handshake', () => {
    const refused = {
        'no token': [{ token: undefined }, 401, 'auth.unauthorized'],
        'a token that is none': [{ token: 'x.y.z' }, 401, 'auth.unauthorized'],
        'another version': [{ headers: { 'Sec-WebSocket-Version': '8' } }, 400, 'request.websocket'],
        'no version': [{ headers: { 'Sec-WebSocket-Version': undefined } }, 400, 'request.websocket'],
        'no key': [{ headers: { 'Sec-WebSocket-Key': undefined } }, 400, 'request.websocket'],
        'a key that is too short': [{ headers: { 'Sec-WebSocket-Key': 'c2hvcnQ=' } }, 400, 'request.websocket'],
        'a page of another origin': [{ headers: { Origin: 'https://evil.test' } }, 403, 'request.origin'],
        'a page without origin': [{ headers: { Origin: 'null' } }, 403, 'request.origin'],
        'an origin that only begins like one': [{ headers: { Origin: `${ORIGIN}.evil.test` } }, 403, 'request.origin'],
    };
    for (const [what, [options, status, code]] of Object.entries(refused))
        test(`${what}: ${status} ${code}`, async () => {
            const ws = await open(events(done), options);
            assert.equal(ws.status, status, ws.head);
            await until('the problem', () => ws.bytes.includes('"code":'));
            assert.equal(JSON.parse(ws.bytes.toString()).code, code);
            if (code === 'request.websocket') assert.match(ws.head, /^sec-websocket-version: 13$/im);
        });

    for (const [what, origin] of [['of ALLOWED_ORIGINS', () => ORIGIN], ['of this server', () => `http://127.0.0.1:${weir.port}`]])
        test(`a page ${what} may`, async () => {
            const ws = await open(events(done), { headers: { Origin: origin() } });
            assert.equal(ws.status, 101);
            assert.equal(await ws.code(), 1000);
        });

    describe('a browser, which can send a cookie and no token', () => {
        const home = () => `http://127.0.0.1:${weir.port}`;
        const signedIn = async (tenant = 'acme') => {
            const browser = new Browser(weir);
            assert.equal((await browser.login(`editor@${tenant}.test`, PASSWORD)).status, 200);
            const cookie = `__Host-weir=${browser.jar.get('__Host-weir').value}`;
            return { browser, open: (headers, id = done) => open(events(id), { token: undefined, headers: { Cookie: cookie, ...headers } }) };
        };
        const refusal = async (ws) => {
            await until('the problem', () => ws.bytes.includes('"code":'));
            return [ws.status, JSON.parse(ws.bytes.toString()).code];
        };

        test('may from a page of this server, or of ALLOWED_ORIGINS', async () => {
            const { open } = await signedIn();
            for (const Origin of [home(), ORIGIN]) {
                const ws = await open({ Origin });
                assert.equal(ws.status, 101, ws.head);
                assert.equal(await ws.code(), 1000);
                assert.equal(ws.messages().at(-1).event, 'execution.completed');
            }
        });

        for (const [what, headers] of Object.entries({
            'of another origin': { Origin: 'https://evil.test' }, 'of another scheme and host': { Origin: 'null' }, 'that does not say which': {},
            'that says two': { Origin: ORIGIN, origin: ORIGIN }, 'that only says its site': { 'Sec-Fetch-Site': 'same-origin' },
        }))
            test(`not from a page ${what}`, async () => {
                const { open } = await signedIn();
                assert.deepEqual(await refusal(await open(headers)), [403, 'request.origin']);
            });

        test('sees its own tenant only', async () => {
            const { open } = await signedIn('globex');
            assert.equal((await open({ Origin: home() })).status, 404);
        });

        test('without its cookie is nobody; a token in the URL is none', async () => {
            assert.deepEqual(await refusal(await open(events(done), { token: undefined, headers: { Origin: home() } })), [401, 'auth.unauthorized']);
            const ws = await open(events(done, `?access_token=${token}`), { token: undefined, headers: { Origin: home() } });
            assert.equal(ws.status, 401);
        });
    });

    test('an execution of another tenant, or none: 404', async () => {
        const other = await weir.as('editor', 'globex');
        const ws = await open(events(done), { token: other.tokens.access_token });
        assert.equal(ws.status, 404);
        assert.equal((await open(events('execution_01h455vb4pex5vsknk084sn02q'))).status, 404);
    });

    test('elsewhere an upgrade is not taken, and the answer is HTTP', async () => {
        assert.equal((await open('/livez')).status, 200);
    });

    test('without Connection: Upgrade, or over HTTP/1.0, it is server-sent events', async () => {
        const ws = await open(events(done), { headers: { Connection: 'keep-alive' } });
        assert.match(ws.head, /^HTTP\/1\.1 200[\s\S]*^content-type: text\/event-stream$/im);
        const old = await exchange(weir, `GET ${events(done)} HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer ${token}\r\n\r\n`);
        assert.equal(old.status, 200);
    });
});

describe('how it ends', () => {
    const ends = {
        'the session ends': async () => {
            const user = await weir.anonymous().login('member@acme.test', PASSWORD);
            const { ws } = await watch({ token: user.tokens.access_token });
            await user.post('/api/v1/auth/logout', { scope: 'this' }, { expect: [200, 204] });
            return ws;
        },
        'a browser signs out': async () => {
            const browser = new Browser(weir);
            assert.equal((await browser.login('editor@acme.test', PASSWORD)).status, 200);
            const cookie = `__Host-weir=${browser.jar.get('__Host-weir').value}`;
            const { ws } = await watch({ token: undefined, headers: { Cookie: cookie, Origin: `http://127.0.0.1:${weir.port}` } });
            await browser.post('/api/v1/auth/logout', { scope: 'this' }, { expect: 204 });
            return ws;
        },
        'the tenant asks for a second factor, and there is none': async () => {
            const [owner, user] = [await weir.as('owner', 'globex'), await weir.as('editor', 'globex')];
            const { id } = await createWorkflow(user, chain(http('h', `${upstream.base}/hold/${++serial}`), transform('t')));
            const { body } = await user.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { expect: 202 });
            const ws = await open(events(body.execution_id), { token: user.tokens.access_token });
            await ws.find('the first event', ({ opcode }) => opcode === OP.TEXT);
            const { tenant } = (await owner.get('/api/v1/auth/me', { expect: 200 })).body;
            await owner.patch(`/api/v1/tenants/${tenant.id}`, { require_2fa: true }, { expect: 200 });
            return ws;
        },
    };
    test('is closed with 1008 when it signs out, its session ends, or its tenant asks for more', async () => {
        const sockets = [];
        for (const [what, begin] of Object.entries(ends)) sockets.push([what, await begin()]);
        const codes = await Promise.all(sockets.map(async ([what, ws]) => [what, await ws.code(25_000)])); // looked at each 15 s, with the ping: they wait together
        assert.deepEqual(codes, Object.keys(ends).map((what) => [what, 1008]));
    });

    test('the server stops: 1001', async () => {
        const own = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host } });
        try {
            const user = await own.as('editor');
            const { id } = await createWorkflow(user, chain(http('h', `${upstream.base}/hold/stop`)));
            const { body } = await user.post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { expect: 202 });
            const ws = await RawWebSocket.open(own, events(body.execution_id), { token: user.tokens.access_token });
            await ws.find('the first event', ({ opcode }) => opcode === OP.TEXT);
            own.child.kill('SIGTERM');
            assert.equal(await ws.code(), 1001);
            upstream.release();
            assert.equal((await own.exited).code, 0);
            own.child = null;
        } finally {
            await own.stop();
        }
    });
});
