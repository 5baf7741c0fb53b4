// The wire: what the server takes as HTTP/1.1 and what it refuses. Every refusal is answered and closes the connection: after a
// message that could be read in two ways, nothing that follows can be trusted.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { DB, Weir } from '../lib/server.mjs';
import { exchange } from '../lib/raw.mjs';
import { inTime } from '../lib/wait.mjs';

let weir;
before(async () => (weir = await Weir.start({ users: false })));
after(() => weir?.stop());

const crlf = (...lines) => `${lines.join('\r\n')}\r\n\r\n`;
const HOST = 'Host: weir.test';
const post = (...headers) => crlf('POST /api/v1/auth/token HTTP/1.1', HOST, 'Content-Type: application/json', ...headers);
const bytes = (n) => 'x'.repeat(n);

async function refused(pieces, status) {
    const answer = await exchange(weir, pieces);
    assert.equal(answer.status, status, answer.text.slice(0, 500) || '(closed without an answer)');
    assert.equal(answer.list.length, 1, `one answer, then closed: ${answer.statuses}`);
    assert.match(answer.head, /^connection: close$/im);
    assert.match(answer.head, /^content-type: application\/problem\+json/im);
    assert.equal(JSON.parse(answer.body).status, status);
    return answer;
}

describe('requests that are fine', () => {
    const fine = {
        'HTTP/1.1 with close': crlf('GET /livez HTTP/1.1', HOST, 'Connection: close'),
        'HTTP/1.0': crlf('GET /livez HTTP/1.0', HOST),
        'a Host with port': crlf('GET /livez HTTP/1.1', 'Host: 127.0.0.1:8000', 'Connection: close'),
        'odd case of names': crlf('GET /livez HTTP/1.1', 'hOsT: x', 'CONNECTION: close'),
        'an empty value': crlf('GET /livez HTTP/1.1', HOST, 'X-Empty:', 'Connection: close'),
        'a query': crlf('GET /livez?verbose HTTP/1.1', HOST, 'Connection: close'),
    };
    for (const [what, text] of Object.entries(fine))
        test(what, async () => assert.match((await exchange(weir, text)).text, /^HTTP\/1\.1 (200|422)/));

    test('bytes one at a time', async () => {
        assert.equal((await exchange(weir, [...crlf('GET /livez HTTP/1.1', HOST, 'Connection: close')])).status, 200);
    });

    test('pipelined requests are answered in order', async () => {
        const three = crlf('GET /livez HTTP/1.1', HOST) + crlf('GET /nowhere HTTP/1.1', HOST) + crlf('GET /livez HTTP/1.1', HOST, 'Connection: close');
        assert.deepEqual((await exchange(weir, three)).statuses, [200, 404, 200]);
    });

    test('a chunked body', async () => {
        const body = '{"email":"a@b.test","password":"x"}';
        const text = post('Transfer-Encoding: chunked', 'Connection: close') + `5\r\n${body.slice(0, 5)}\r\n${(body.length - 5).toString(16)}\r\n${body.slice(5)}\r\n0\r\n\r\n`;
        assert.equal((await exchange(weir, text)).status, 401);
    });

    test('Expect: 100-continue is answered before the body comes', async () => {
        const body = '{}';
        const { statuses } = await exchange(weir, [post(`Content-Length: ${body.length}`, 'Expect: 100-continue', 'Connection: close'), body]);
        assert.deepEqual(statuses.filter((status) => status !== 100), [422]);
    });

    test('HEAD has the length of GET and no body', async () => {
        const { head, body } = await exchange(weir, crlf('HEAD /api/v1/info HTTP/1.1', HOST, 'Connection: close'));
        assert.match(head, /^content-length: [1-9]/im);
        assert.equal(body, '');
    });
});

describe('400: two readings, or none', () => {
    const bad = {
        'no Host': crlf('GET /livez HTTP/1.1', 'Accept: */*'),
        'two Hosts': crlf('GET /livez HTTP/1.1', HOST, HOST),
        'a Host that is none': crlf('GET /livez HTTP/1.1', 'Host: a b'),
        'an empty Host': crlf('GET /livez HTTP/1.1', 'Host:'),
        'two Content-Lengths that differ': `${post('Content-Length: 2', 'Content-Length: 3')}{}x`,
        'two Content-Lengths alike': `${post('Content-Length: 2', 'Content-Length: 2')}{}`,
        'a list as Content-Length': `${post('Content-Length: 2, 2')}{}`,
        'Content-Length with a sign': `${post('Content-Length: +2')}{}`,
        'Content-Length in hexadecimal': `${post('Content-Length: 0x2')}{}`,
        'Content-Length negative': `${post('Content-Length: -1')}{}`,
        'Content-Length too long for 64 bits': `${post('Content-Length: 99999999999999999999')}{}`,
        'Content-Length beside Transfer-Encoding': `${post('Content-Length: 5', 'Transfer-Encoding: chunked')}0\r\n\r\n`,
        'Transfer-Encoding before Content-Length': `${post('Transfer-Encoding: chunked', 'Content-Length: 5')}0\r\n\r\n`,
        'Transfer-Encoding twice': `${post('Transfer-Encoding: chunked', 'Transfer-Encoding: identity')}0\r\n\r\n`,
        'chunked not last': `${post('Transfer-Encoding: chunked, gzip')}0\r\n\r\n`,
        'a name that looks like Transfer-Encoding': `${post('Transfer-Encoding : chunked')}0\r\n\r\n`,
        'Transfer-Encoding in HTTP/1.0': crlf('POST /api/v1/auth/token HTTP/1.0', HOST, 'Transfer-Encoding: chunked') + '0\r\n\r\n',
        'a bare LF between headers': `GET /livez HTTP/1.1\r\n${HOST}\nX-A: b\r\n\r\n`,
        'bare LFs only': `GET /livez HTTP/1.1\n${HOST}\n\n`,
        'a bare CR in a value': `GET /livez HTTP/1.1\r\n${HOST}\r\nX-A: b\rc\r\n\r\n`,
        'a folded header': `GET /livez HTTP/1.1\r\n${HOST}\r\nX-A: b\r\n c\r\n\r\n`,
        'a folded first header': `GET /livez HTTP/1.1\r\n X: y\r\n${HOST}\r\n\r\n`,
        'a space before the colon': crlf('GET /livez HTTP/1.1', HOST, 'X-A : b'),
        'a NUL in a value': crlf('GET /livez HTTP/1.1', HOST, 'X-A: b\0c'),
        'a control byte in a name': crlf('GET /livez HTTP/1.1', HOST, 'X\x01A: b'),
        'a header without colon': crlf('GET /livez HTTP/1.1', HOST, 'nonsense'),
        'two spaces before the target': crlf('GET  /livez HTTP/1.1', HOST),
        'two spaces after the target': crlf('GET /livez  HTTP/1.1', HOST),
        'a tab after the method': crlf('GET\t/livez HTTP/1.1', HOST),
        'no target': crlf('GET HTTP/1.1', HOST),
        'a space in the target': crlf('GET /li vez HTTP/1.1', HOST),
        'a target without slash': crlf('GET livez HTTP/1.1', HOST),
        'an absolute target': crlf('GET http://weir.test/livez HTTP/1.1', HOST),
        'a chunk size with sign': `${post('Transfer-Encoding: chunked')}+2\r\n{}\r\n0\r\n\r\n`,
        'a chunk size with 0x': `${post('Transfer-Encoding: chunked')}0x2\r\n{}\r\n0\r\n\r\n`,
        'a chunk longer than it says': `${post('Transfer-Encoding: chunked')}2\r\n{}x\r\n0\r\n\r\n`,
        'a chunk size beyond 64 bits': `${post('Transfer-Encoding: chunked')}fffffffffffffffff\r\n{}\r\n0\r\n\r\n`,
        'no version': crlf('GET /livez', HOST),
        'bytes of TLS': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
        'garbage': '\x00\x01\x02\x03\r\n\r\n',
    };
    for (const [what, text] of Object.entries(bad)) test(what, () => refused(text, 400));

    // The message itself is clear here, so the connection may go on.
    for (const path of ['/api/v1/workflows/%zz', '/livez%', '/livez%0', '/%c3%28'])
        test(`a bad escape in the path ${path}`, async () => {
            const { status } = await exchange(weir, crlf(`GET ${path} HTTP/1.1`, HOST, 'Connection: close'));
            assert.ok([400, 401, 404].includes(status), String(status)); // 401: below /api/v1 a stranger learns nothing else
        });

    for (const version of ['HTTP/0.9', 'HTTP/1.2', 'HTTP/2.0', 'HTTP/3.0', 'HTTP/11', 'http/1.1', 'HTTP/1.1x'])
        test(`version ${version}`, async () => {
            const { status } = await exchange(weir, crlf(`GET /livez ${version}`, HOST));
            assert.ok([400, 505].includes(status), String(status));
        });
});

describe('a request hidden in another one is never answered', () => {
    const hidden = crlf('GET /api/v1/info HTTP/1.1', HOST);
    const attempts = {
        'CL.TE': `${post('Content-Length: 6', 'Transfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
        'TE.CL': `${post('Transfer-Encoding: chunked', 'Content-Length: 4')}5c\r\n${hidden}\r\n0\r\n\r\n`,
        'TE.TE with an odd name': `${post('Transfer-Encoding: chunked', 'Transfer-encoding: x')}0\r\n\r\n${hidden}`,
        'xchunked': `${post('Transfer-Encoding: xchunked')}0\r\n\r\n${hidden}`,
        'a folded Transfer-Encoding': `POST /api/v1/auth/token HTTP/1.1\r\n${HOST}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n${hidden}`,
        'a vertical tab': `${post('Transfer-Encoding: \x0bchunked')}0\r\n\r\n${hidden}`,
        'lengths that differ': `${post('Content-Length: 0', `Content-Length: ${hidden.length}`)}${hidden}`,
    };
    for (const [what, text] of Object.entries(attempts))
        test(what, async () => {
            const { statuses, text: all } = await exchange(weir, text);
            assert.equal(statuses.length, 1, all.slice(0, 800));
            assert.ok(statuses[0] >= 400, String(statuses[0]));
        });
});

describe('limits, each at its bound', () => {
    test('414 above 8 KiB of target; at it the answer is not 414', async () => {
        const target = (n) => `/livez?${bytes(n - 7)}`;
        assert.notEqual((await exchange(weir, crlf(`GET ${target(8192)} HTTP/1.1`, HOST, 'Connection: close'))).status, 414);
        await refused(crlf(`GET ${target(8193)} HTTP/1.1`, HOST), 414);
    });

    test('431 above 100 headers', async () => {
        const many = (n) => Array.from({ length: n - 2 }, (_, i) => `X-${i}: y`);
        assert.equal((await exchange(weir, crlf('GET /livez HTTP/1.1', HOST, 'Connection: close', ...many(100)))).status, 200);
        await refused(crlf('GET /livez HTTP/1.1', HOST, 'Connection: close', ...many(101)), 431);
    });

    test('431 above 16 KiB of header, in one field or in many', async () => {
        assert.equal((await exchange(weir, crlf('GET /livez HTTP/1.1', HOST, 'Connection: close', `X-A: ${bytes(15_000)}`))).status, 200);
        await refused(crlf('GET /livez HTTP/1.1', HOST, `X-A: ${bytes(17_000)}`), 431);
        await refused(crlf('GET /livez HTTP/1.1', HOST, ...Array.from({ length: 50 }, (_, i) => `X-${i}: ${bytes(400)}`)), 431);
    });

    test('431 for a header that never ends', () => refused([`GET /livez HTTP/1.1\r\n${HOST}\r\nX-A: `, bytes(40_000)], 431));

    test('413 above 1 MiB, told before the body is sent, and also when it comes in chunks', async () => {
        await refused(post(`Content-Length: ${1024 * 1024 + 1}`), 413);
        const chunk = `10000\r\n${bytes(65536)}\r\n`;
        await refused([post('Transfer-Encoding: chunked'), ...Array.from({ length: 20 }, () => chunk)], 413);
    });
});

describe('methods', () => {
    for (const method of ['TRACE', 'CONNECT', 'PROPFIND', 'BREW'])
        test(`${method} is not a method here`, async () => {
            const { status } = await exchange(weir, crlf(`${method} /livez HTTP/1.1`, HOST, 'Connection: close'));
            assert.ok([400, 405, 501].includes(status), String(status));
        });

    test('405 names what is allowed', async () => {
        const answer = await weir.anonymous().del('/livez', { expect: 405 });
        assert.match(answer.headers.get('allow'), /GET/);
    });
});

describe('bodies', () => {
    const anyone = () => weir.anonymous();
    const bad = {
        'empty': '', 'cut off': '{"email":', 'trailing junk': '{} x', 'a duplicate key': '{"email":"a","email":"b"}', 'a lone surrogate': '{"email":"\\ud800"}',
        'a single quote': "{'email':1}", 'a comment': '{/**/}', 'a trailing comma': '{"email":"a",}', 'NaN': '{"email":NaN}', 'a leading zero': '{"email":01}',
        'a raw control byte': '{"email":"\u0001"}', '65 levels': '['.repeat(65) + ']'.repeat(65), 'a byte order mark': '\ufeff{}',
    };
    for (const [what, text] of Object.entries(bad))
        test(`JSON with ${what}: 400`, async () => {
            assert.equal((await anyone().post('/api/v1/auth/token', text)).status, 400);
        });

    test('invalid UTF-8: 400', async () => {
        assert.equal((await anyone().post('/api/v1/auth/token', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))).status, 400);
    });

    test('a body that is no JSON by its own word: 415 or 400', async () => {
        const { status } = await anyone().post('/api/v1/auth/token', 'a=1', { type: 'application/x-www-form-urlencoded' });
        assert.ok([400, 415].includes(status), String(status));
    });
});

describe('SIGTERM', () => {
    test('readyz fails first or the port closes, and the exit code is 0', async () => {
        const mine = await Weir.start({ users: false });
        const end = await mine.terminate();
        assert.deepEqual(end, { code: 0, signal: null });
        await mine.stop();
    });

    test('a taken port stops the start soon, with a sentence', async () => {
        const { runWeir } = await import('../lib/server.mjs');
        await inTime(5000, () => {
            const began = performance.now();
            const { status, stderr } = runWeir(['serve'], { WEIR_DATA: `${weir.folder}/second`, WEIR_LISTEN: `127.0.0.1:${weir.port}` });
            assert.notEqual(status, 0);
            assert.match(stderr, new RegExp(String(weir.port)));
            return performance.now() - began;
        });
    });

    const alone = { skip: DB === 'postgres' && 'a database may be served by several' };
    test('a second process on the same data folder does not start', alone, async () => {
        const { runWeir } = await import('../lib/server.mjs');
        const { status, stderr } = runWeir(['serve'], { WEIR_DATA: weir.data, WEIR_LISTEN: '127.0.0.1:0' }, { timeout: 5000 });
        assert.ok(status > 0, `${status} ${stderr}`);
        assert.match(stderr, /lock|use/i);
    });
});
