// Two nodes on one PostgreSQL behind HAProxy and behind nginx, by the configurations of deploy/ in which only addresses and paths are other ones: TLS, HTTP/2, events
// as they come, WebSockets, the client's address; and a node that is killed.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { makeCertificate } from '../lib/certificate.mjs';
import { chain, http, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { DB, PASSWORD, Weir, freePort, stopAll } from '../lib/server.mjs';
import { bounded, until } from '../lib/wait.mjs';

const deployed = (name) => readFileSync(new URL(`../../deploy/${name}`, import.meta.url), 'utf8');
const CLIENT = '127.0.0.2'; // the proxy's own is 127.0.0.1
const there = (program) => spawnSync(program, ['-v']).status === 0;
const skip = (DB !== 'postgres' && 'SQLite is one node') || (!['haproxy', 'nginx'].every(there) && 'haproxy and nginx are not installed: tools/deps.sh postgres');

/** Puts each value in the place of its text, which must be there. */
function derive(text, values) {
    for (const [from, to] of values) {
        assert.ok(text.includes(from), `${from} is not in the file any more`);
        text = text.replaceAll(from, to);
    }
    return text;
}

const PROXIES = {
    haproxy: (folder, port, nodes, { cert, key }) => {
        const pem = join(folder, 'weir.pem'), file = join(folder, 'haproxy.cfg');
        writeFileSync(pem, readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'), { mode: 0o600 });
        writeFileSync(file, derive(deployed('haproxy.cfg'), [['bind :443', `bind 127.0.0.1:${port}`], ['/etc/haproxy/weir.pem', pem], ['weir-1:8000', nodes[0]], ['weir-2:8000', nodes[1]]]));
        return { check: ['haproxy', '-c', '-f', file], run: ['haproxy', '-db', '-f', file] };
    },
    nginx: (folder, port, nodes, { cert, key }) => {
        const file = join(folder, 'nginx.conf');
        const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ');
        writeFileSync(file, derive(deployed('nginx.conf'), [['listen 443', `listen 127.0.0.1:${port}`], ['/etc/nginx/weir.pem', cert], ['/etc/nginx/weir.key', key], ['/run/nginx.pid', join(folder, 'pid')],
            ['server weir-1:8000', `server ${nodes[0]}`], ['server weir-2:8000', `server ${nodes[1]}`], ['http {\n', `http {\n${temporary}\n`]]));
        const args = ['-e', 'stderr', '-p', folder, '-c', file];
        return { check: ['nginx', ...args, '-t'], run: ['nginx', ...args, '-g', 'daemon off;'] };
    },
};

/** One connection of HTTP/2 through the proxy, from an address of its own. */
class Through {
    static async open(port, ca) {
        const one = new Through();
        one.session = connectHttp2(`https://127.0.0.1:${port}`, { createConnection: () => (one.socket = connectTls({ port, host: '127.0.0.1', ca, localAddress: CLIENT, ALPNProtocols: ['h2'] })) });
        one.session.on('error', () => {});
        await bounded('the connection', 10_000, new Promise((done, fail) => one.session.once('connect', done).once('error', fail)));
        return one;
    }

    begin(method, path, { body, headers = {} } = {}) {
        const token = this.token ? { authorization: `Bearer ${this.token}` } : {};
        const stream = this.session.request({ ':method': method, ':path': path, ...token, ...(body ? { 'content-type': 'application/json' } : {}), ...headers });
        stream.end(body && JSON.stringify(body));
        return stream;
    }

    async send(method, path, options) {
        const stream = this.begin(method, path, options);
        const answer = { status: 0, text: '' };
        stream.setEncoding('utf8').on('data', (text) => (answer.text += text)).once('response', (headers) => Object.assign(answer, { status: headers[':status'], headers }));
        await bounded(`${method} ${path}`, 20_000, new Promise((done, fail) => stream.once('end', done).once('error', fail)));
        return { ...answer, body: /json/.test(answer.headers?.['content-type']) ? JSON.parse(answer.text) : undefined };
    }
}

describe('behind a balancer', { skip }, () => {
    let folder, certificate, upstream, nodes;
    before(async () => {
        folder = mkdtempSync(join(process.env.WEIR_TEST_TMP ?? tmpdir(), 'weir-balanced-'));
        chmodSync(folder, 0o755); // the workers of nginx are another user
        certificate = makeCertificate(folder, 'balanced');
        upstream = await Upstream.start((path) => ({ hold: path === '/hold' }));
        const first = await Weir.start({ env: { WEIR_EGRESS_ALLOW: upstream.host, WEIR_TRUSTED_PROXIES: '127.0.0.1/32', WEIR_LEASE_SECONDS: '3' } });
        nodes = [first];
        nodes.push(await first.node());
    });
    after(async () => {
        await stopAll(...(nodes ?? []).toReversed(), upstream, folder && { stop: () => rmSync(folder, { recursive: true }) });
    });
    /** How many reads of a route each node has logged. */
    const served = (route) => nodes.map((node) => node.log().filter((line) => line.event === 'http.request' && line.method === 'GET' && line.route === route).length);

    for (const [name, configure] of Object.entries(PROXIES))
        describe(name, () => {
            let proxy, gone, client, port, workflow, execution;
            before(async () => {
                port = await freePort();
                const { check, run } = configure(folder, port, nodes.map((node) => node.base.replace('http://', '')), certificate);
                const { status, stdout, stderr } = spawnSync(check[0], check.slice(1), { encoding: 'utf8' });
                assert.equal(status, 0, stdout + stderr);
                proxy = spawn(run[0], run.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
                let said = '';
                proxy.stderr.setEncoding('utf8').on('data', (text) => (said += text));
                gone = new Promise((done) => proxy.once('close', done));
                client = await until(`${name} answers`, async () => {
                    assert.equal(proxy.exitCode, null, said);
                    const one = await Through.open(port, certificate.ca).catch(() => null);
                    if ((await one?.send('GET', '/readyz').catch(() => null))?.status === 200) return one;
                    one?.session.destroy();
                    return null;
                }, { within_ms: 20_000 });
                const { body } = await client.send('POST', '/api/v1/auth/token', { body: { email: 'editor@acme.test', password: PASSWORD }, headers: { 'x-forwarded-for': '192.0.2.66' } });
                client.token = body.access_token;
                const definition = chain(transform('first', { n: '{{ input.n }}' }), http('held', `${upstream.base}/hold`));
                workflow = (await client.send('POST', '/api/v1/workflows', { body: { name: `behind ${name}`, definition } })).body;
            });
            after(async () => {
                client?.session.destroy();
                proxy?.kill('SIGTERM');
                await gone;
            });

            test('TLS 1.3 and HTTP/2; nothing older', async () => {
                assert.deepEqual([client.socket.alpnProtocol, client.socket.getProtocol()], ['h2', 'TLSv1.3']);
                const old = connectTls({ port, host: '127.0.0.1', ca: certificate.ca, maxVersion: 'TLSv1.2' });
                await assert.rejects(new Promise((done, fail) => old.once('secureConnect', done).once('error', fail)));
            });

            test('both nodes answer', async () => {
                const before = served('/api/v1/workflows');
                const since = () => served('/api/v1/workflows').map((n, i) => n - before[i]);
                for (let i = 0; i < 20; i++) assert.equal((await client.send('GET', '/api/v1/workflows')).status, 200);
                await until('they have logged them all', () => since()[0] + since()[1] >= 20);
                assert.ok(since().every((n) => n > 0) && since()[0] + since()[1] === 20, `${since()}`);
            });

            test('the client’s address arrives, and what it says about itself does not', async () => {
                const { body } = await client.send('GET', '/api/v1/auth/sessions');
                const mine = body.find(({ current }) => current) ?? body[0];
                assert.equal(mine.ip, CLIENT, JSON.stringify(body));
                for (const headers of [{ 'x-forwarded-for': '192.0.2.66' }, { forwarded: 'for=192.0.2.66' }]) {
                    const answer = await client.send('GET', '/api/v1/auth/me', { headers });
                    const line = await until('it is logged', () => nodes.flatMap((node) => node.log()).find((one) => one.event === 'http.request' && one.request_id === answer.headers['x-request-id']));
                    assert.equal(line.remote, CLIENT);
                }
            });

            test('metrics are not for strangers', async () => {
                for (const path of ['/metrics', '/metrics/', '/%6detrics']) assert.equal((await client.send('GET', path)).status, 404, path);
            });

            test('events come while the execution is under way', async () => {
                const { body } = await client.send('POST', `/api/v1/workflows/${workflow.id}/execute`, { body: { input_data: { n: 1 } }, headers: { prefer: 'respond-async' } });
                execution = body.execution_id;
                await upstream.called('/hold');
                const streams = nodes.map(() => { // as many as nodes, so that one is at a node that does not run it
                    const stream = client.begin('GET', `/api/v1/executions/${execution}/events`);
                    const one = { text: '' };
                    one.ended = new Promise((done) => stream.once('end', () => done(one)));
                    stream.setEncoding('utf8').on('error', () => {}).on('data', (more) => (one.text += more));
                    return one;
                });
                await until('an event of the first step in each', () => streams.every(({ text }) => text.includes('first')));
                for (const { text } of streams) assert.doesNotMatch(text, /execution\.completed/);
                upstream.release();
                await bounded('each stream ends with the execution', 20_000, Promise.all(streams.map(({ ended }) => ended)));
                for (const { text } of streams) assert.match(text, /execution\.completed/);
                upstream.calls.length = 0;
            });

            test('a WebSocket passes', async () => {
                const socket = connectTls({ port, host: '127.0.0.1', ca: certificate.ca, ALPNProtocols: ['http/1.1'] });
                let text = '';
                socket.setEncoding('latin1').on('data', (more) => (text += more)).on('error', () => {});
                socket.write(`GET /api/v1/executions/${execution}/events HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nOrigin: https://127.0.0.1:${port}\r\nAuthorization: Bearer ${client.token}\r\n` +
                    'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n');
                await until('101 and a frame', () => /^HTTP\/1\.1 101 /.test(text) && text.split('\r\n\r\n')[1]?.length > 0);
                assert.match(text, /sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=/i);
                socket.destroy();
            });

            test('a node is killed: requests go on; it comes back and answers again', async () => {
                await nodes[1].kill();
                const statuses = {};
                for (let i = 0; i < 40; i++) {
                    const { status } = await client.send('GET', '/api/v1/workflows');
                    statuses[status] = (statuses[status] ?? 0) + 1;
                }
                assert.deepEqual(statuses, { 200: 40 });
                await nodes[1].serve();
                const before = served('/api/v1/workflows')[1];
                await until('the other node answers again', async () => {
                    await client.send('GET', '/api/v1/workflows');
                    return served('/api/v1/workflows')[1] > before;
                }, { within_ms: 15_000, every_ms: 50 });
            });
        });
});
