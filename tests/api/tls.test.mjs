// TLS: WEIR_TLS_CERT and WEIR_TLS_KEY make the port speak https, HTTP/2 to those who ask for it, and nothing to those who are careless.

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { request } from 'node:https';
import { connect as connectTcp, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { makeCertificate } from '../lib/certificate.mjs';
import { ERROR, RawHttp2, TYPE, frame } from '../lib/http2_raw.mjs';
import { exchange } from '../lib/raw.mjs';
import { PASSWORD, Weir, runWeir } from '../lib/server.mjs';
import { bounded, until } from '../lib/wait.mjs';

let folder, first, second, sealed, weir, ca;
const opened = new Set();
before(async () => {
    folder = mkdtempSync(join(process.env.WEIR_TEST_TMP ?? tmpdir(), 'weir-tls-'));
    first = makeCertificate(folder, 'first');
    second = makeCertificate(folder, 'second');
    sealed = makeCertificate(folder, 'sealed', { passphrase: 'open sesame' });
    const cert = join(folder, 'used.cert.pem'), key = join(folder, 'used.key.pem');
    copyFileSync(first.cert, cert);
    copyFileSync(first.key, key);
    ca = [first.ca, second.ca];
    weir = await Weir.start({ env: { WEIR_TLS_CERT: cert, WEIR_TLS_KEY: key } });
});
afterEach(() => {
    for (const close of opened) close();
    opened.clear();
});
after(async () => {
    await weir?.stop();
    rmSync(folder, { recursive: true, force: true });
});

/** One request by HTTP/1.1 on a connection of its own: {status, headers, text, socket}. */
const https = (path, { method = 'GET', headers = {}, body, agent = false, ...more } = {}) =>
    bounded(`${method} ${path}`, 20_000, new Promise((done, fail) => {
        const call = request(`${weir.base}${path}`, { method, headers, agent, ca, ...more }, (answer) => {
            let text = '';
            const { socket } = answer;
            answer.setEncoding('utf8').on('data', (piece) => (text += piece)).on('end', () => done({ status: answer.statusCode, headers: answer.headers, text, socket }));
        });
        call.on('error', fail).end(body);
    }));

/** A finished handshake; rejects when it fails. */
const shake = (options = {}) =>
    bounded('the handshake', 10_000, new Promise((done, fail) => {
        const socket = connectTls({ host: '127.0.0.1', port: weir.port, ca, ...options });
        opened.add(() => socket.destroy());
        socket.once('secureConnect', () => done(socket)).once('error', fail);
    }));

async function http2() {
    const session = connectHttp2(weir.base, { ca });
    opened.add(() => session.destroy());
    await new Promise((done, fail) => session.once('connect', done).once('error', fail));
    return session;
}

const ask = (session, headers, body) =>
    bounded(headers[':path'], 20_000, new Promise((done, fail) => {
        const stream = session.request(headers, { endStream: body === undefined });
        let status, text = '';
        stream.once('response', (head) => (status = head[':status']));
        stream.setEncoding('utf8').on('data', (piece) => (text += piece)).once('end', () => done({ status, text })).once('error', fail);
        if (body !== undefined) stream.end(body);
    }));

const connections = async () => Number(/^weir_http_connections (\d+)$/m.exec((await https('/metrics')).text)[1]);

describe('TLS', () => {
    test('HTTP/1.1 over TLS 1.3, and browsers are told to stay', async () => {
        const socket = await shake({ ALPNProtocols: ['http/1.1'] });
        assert.deepEqual([socket.getProtocol(), socket.alpnProtocol], ['TLSv1.3', 'http/1.1']);
        const { status, headers } = await https('/livez');
        assert.equal(status, 200);
        assert.match(headers['strict-transport-security'], /^max-age=\d{8}/);
    });

    test('TLS 1.2 with a modern suite', async () => {
        const socket = await shake({ maxVersion: 'TLSv1.2' });
        assert.equal(socket.getProtocol(), 'TLSv1.2');
        assert.match(socket.getCipher().name, /^ECDHE-.*(GCM|POLY1305)/);
    });

    const refused = {
        'TLS 1.1': { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' },
        'a suite without forward secrecy': { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256' },
        'a suite that authenticates afterwards': { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA' },
        'a protocol that we do not speak': { ALPNProtocols: ['spdy/3'] },
    };
    for (const [what, options] of Object.entries(refused))
        test(`refused: ${what}`, async () => {
            await assert.rejects(shake(options), /alert|ERR_SSL|protocol/i);
            assert.equal((await https('/livez')).status, 200);
        });

    test('ALPN chooses: h2 before http/1.1, HTTP/1.1 for who says nothing', async () => {
        assert.equal((await shake({ ALPNProtocols: ['http/1.1', 'h2'] })).alpnProtocol, 'h2');
        const silent = await shake();
        assert.equal(silent.alpnProtocol, false);
        silent.write('GET /livez HTTP/1.1\r\nHost: weir.test\r\nConnection: close\r\n\r\n');
        const [text] = await bounded('an answer', 10_000, new Promise((done) => silent.once('data', (...all) => done(all))));
        assert.match(String(text), /^HTTP\/1\.1 200/);
    });

    test('HTTP/2: a token, a hundred streams, bodies beyond the windows', async () => {
        const session = await http2();
        const login = await ask(session, { ':method': 'POST', ':path': '/api/v1/auth/token', 'content-type': 'application/json' }, JSON.stringify({ email: 'editor@acme.test', password: PASSWORD }));
        const authorization = `Bearer ${JSON.parse(login.text).access_token}`;
        const all = await Promise.all(Array.from({ length: 100 }, () => ask(session, { ':path': '/api/v1/workflows', authorization })));
        assert.ok(all.every(({ status }) => status === 200));
        const definition = { steps: [{ id: 't', type: 'transform', with: { text: 'x'.repeat(400_000) } }] };
        const checked = await ask(session, { ':method': 'POST', ':path': '/api/v1/workflows/validate', authorization, 'content-type': 'application/json' }, JSON.stringify({ definition }));
        assert.equal(checked.status, 200);
        const large = await Promise.all(Array.from({ length: 10 }, () => ask(session, { ':path': '/openapi.json' })));
        assert.ok(large.every(({ text }) => JSON.parse(text).openapi));
    });

    test('HTTP/1.1: large bodies both ways', async () => {
        const { status, text } = await https('/openapi.json');
        assert.equal(status, 200);
        assert.ok(JSON.parse(text).openapi);
        assert.equal((await https('/api/v1/auth/token', { method: 'POST', headers: { 'content-type': 'application/json' }, body: 'x'.repeat(500_000) })).status, 413);
    });

    test('floods are answered as without TLS', async () => {
        const r = await RawHttp2.open(weir, { tls: { ca } });
        opened.add(() => r.close());
        r.send(Buffer.concat(Array.from({ length: 101 }, () => frame(TYPE.PING, 0, 0, Buffer.alloc(8)))));
        assert.equal(await r.goaway(), ERROR.ENHANCE_YOUR_CALM);
    });

    test('HTTP/2 needs its preface, ALPN or not', async () => {
        const r = await RawHttp2.open(weir, { tls: { ca }, preface: Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'), settings: false });
        opened.add(() => r.close());
        assert.equal(await r.goaway(), ERROR.PROTOCOL_ERROR);
    });

    test('plain HTTP on this port: 400 that says why', async () => {
        for (const text of ['GET /livez HTTP/1.1\r\nHost: weir.test\r\n\r\n', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n']) {
            const { status, body } = await exchange(weir, text);
            assert.equal(status, 400);
            assert.equal(JSON.parse(body).code, 'http.plain');
        }
    });

    test('what is neither is closed', async () => {
        for (const text of ['\x00\x01\x02', '\x16\x03\x01\xff\xff\x01', `\x16\x03\x01\x40\x00${'x'.repeat(20_000)}`, '\x80\x2e\x01\x00\x02\x00\x15']) {
            const socket = connectTcp(weir.port, '127.0.0.1');
            const closed = new Promise((done) => socket.once('close', done));
            socket.on('error', () => {}).resume().end(text, 'latin1');
            await bounded('the server closes', 15_000, closed);
        }
        assert.equal((await https('/livez')).status, 200);
    });

    test('bytes one at a time', async () => {
        const relay = createServer((near) => {
            const far = connectTcp(weir.port, '127.0.0.1').setNoDelay(true);
            near.on('data', (bytes) => [...bytes].forEach((byte) => far.write(Buffer.from([byte])))).on('error', () => {});
            far.on('data', (bytes) => near.write(bytes)).on('close', () => near.destroy()).on('error', () => {});
            near.on('close', () => far.destroy());
        });
        await new Promise((done) => relay.listen(0, '127.0.0.1', done));
        try {
            assert.equal((await https('/livez', { port: relay.address().port })).status, 200);
        } finally {
            await new Promise((done) => relay.close(done));
        }
    });

    test('a client that renegotiates is refused', async () => {
        const socket = await shake({ maxVersion: 'TLSv1.2' });
        await assert.rejects(bounded('an answer', 10_000, new Promise((done, fail) => {
            socket.once('error', fail);
            socket.renegotiate({ rejectUnauthorized: false }, (error) => (error ? fail(error) : done()));
        })));
    });

    test('sessions are resumed, with either version', async () => {
        for (const maxVersion of ['TLSv1.3', 'TLSv1.2']) {
            const socket = await shake({ maxVersion });
            const session = maxVersion === 'TLSv1.2' ? socket.getSession() : await bounded('a ticket', 10_000, new Promise((done) => socket.once('session', done)));
            assert.equal((await shake({ maxVersion, session })).isSessionReused(), true, maxVersion);
        }
    });

    test('handshakes that never go on make room for those that do', async () => {
        const idle = Array.from({ length: 600 }, () => connectTcp(weir.port, '127.0.0.1').on('error', () => {}));
        await Promise.all(idle.map((socket) => new Promise((done) => socket.once('connect', done))));
        assert.equal((await https('/livez')).status, 200);
        idle.forEach((socket) => socket.destroy());
        await until('all have gone', async () => (await connections()) <= 2);
    });

    test('many handshakes at once', async () => {
        const all = await Promise.all(Array.from({ length: 100 }, () => https('/livez')));
        assert.ok(all.every(({ status }) => status === 200));
        await until('all have gone', async () => (await connections()) <= 2);
    });
});

describe('SIGHUP', () => {
    const use = ({ cert, key }) => {
        copyFileSync(cert, weir.env.WEIR_TLS_CERT);
        copyFileSync(key, weir.env.WEIR_TLS_KEY);
    };
    const reload = async (event) => {
        const count = () => weir.log().filter((line) => line.event === event).length;
        const before_ = count();
        weir.child.kill('SIGHUP');
        await until(`${event} is logged`, () => count() > before_);
    };
    const name = async () => (await shake()).getPeerCertificate().subject.CN;

    test('a new certificate for new connections; open ones go on, sessions are resumed', async () => {
        const session = await http2();
        const socket = await shake();
        const ticket = await bounded('a ticket', 10_000, new Promise((done) => socket.once('session', done)));
        assert.equal(await name(), 'first.weir.test');
        use(second);
        await reload('app.reloaded');
        assert.equal(await name(), 'second.weir.test');
        assert.equal((await ask(session, { ':path': '/livez' })).status, 200);
        assert.equal((await shake({ session: ticket })).isSessionReused(), true);
    });

    const bad = {
        'no certificate at all': () => writeFileSync(weir.env.WEIR_TLS_CERT, 'nothing of use'),
        'the key of another': () => copyFileSync(first.key, weir.env.WEIR_TLS_KEY),
        'no file': () => rmSync(weir.env.WEIR_TLS_KEY),
    };
    for (const [what, spoil] of Object.entries(bad))
        test(`${what}: the old one stays, and the log says why`, async () => {
            use(second);
            spoil();
            await reload('tls.not_reloaded');
            assert.match(weir.log().findLast((line) => line.event === 'tls.not_reloaded').cause, /^WEIR_TLS_(CERT|KEY): /);
            assert.equal(await name(), 'second.weir.test');
            use(second);
        });
});

describe('the start', () => {
    const start = (cert, key) => runWeir(['serve'], { WEIR_DATA: join(folder, 'never'), WEIR_LISTEN: '127.0.0.1:0', ...(cert && { WEIR_TLS_CERT: cert }), ...(key && { WEIR_TLS_KEY: key }) });
    const cases = {
        'a certificate without its key': () => [first.cert, undefined, /WEIR_TLS_CERT: is set, but WEIR_TLS_KEY is not/],
        'a key without its certificate': () => [undefined, first.key, /WEIR_TLS_KEY: is set, but WEIR_TLS_CERT is not/],
        'a certificate that is not there': () => [join(folder, 'none.pem'), first.key, /WEIR_TLS_CERT: .*none\.pem: No such file/],
        'a key that is not there': () => [first.cert, join(folder, 'none.pem'), /WEIR_TLS_KEY: .*none\.pem: No such file/],
        'the key of another': () => [first.cert, second.key, /WEIR_TLS_KEY: .*second\.key\.pem: is not the key of the certificate .*first\.cert\.pem/],
        'a key as certificate': () => [first.key, first.key, /WEIR_TLS_CERT: /],
        'a certificate as key': () => [first.cert, first.cert, /WEIR_TLS_KEY: /],
        'a key behind a passphrase': () => [sealed.cert, sealed.key, /WEIR_TLS_KEY: /],
    };
    for (const [what, make] of Object.entries(cases))
        test(`stops with exit code 2: ${what}`, () => {
            const [cert, key, message] = make();
            const { status, stderr } = start(cert, key);
            assert.match(stderr, message);
            assert.equal(status, 2, stderr);
        });

    test('doctor looks at the certificate', () => {
        const look = (env) => runWeir(['doctor'], { WEIR_DATA: join(folder, 'never'), WEIR_LISTEN: '127.0.0.1:0', ...env }).stdout;
        assert.match(look({}), /ok\s+tls\s+off/);
        assert.match(look({ WEIR_TLS_CERT: first.cert, WEIR_TLS_KEY: first.key }), /ok\s+tls\s+the certificate is good for 29 days/);
        assert.match(look({ WEIR_TLS_CERT: first.cert, WEIR_TLS_KEY: second.key }), /fail\s+tls\s+WEIR_TLS_KEY/);
    });
});
