// Verbs: what the command line prints about the binary itself, and what the doctor finds.

import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Weir, freePort, routes, runWeir } from '../lib/server.mjs';

const ROOT = new URL('../../', import.meta.url).pathname;
const json = (...args) => JSON.parse(runWeir([...args, '--json']).stdout);

let weir;
before(async () => {
    weir = await Weir.start({ users: false });
});
after(() => weir?.stop());

describe('help', () => {
    const verbs = [...runWeir(['help']).stdout.matchAll(/^ {2}weir ([a-z]+(?: (?:add|verify)(?= |$))?)/gm)].map((row) => row[1]);

    test('names every verb', () => {
        for (const verb of ['serve', 'doctor', 'config', 'routes', 'errors', 'metrics', 'jobs', 'openapi', 'migrate', 'backup', 'restore', 'verify']) assert.ok(verbs.includes(verb), verb);
    });
    for (const verb of verbs)
        test(`weir ${verb} --help tells what it does and its exit codes, and does nothing`, () => {
            const { status, stdout, stderr } = runWeir([...verb.split(' '), '--help'], { WEIR_DATA: '/nonexistent' });
            assert.deepEqual([status, stderr], [0, '']);
            assert.match(stdout, new RegExp(`^Usage: weir ${verb}`));
            assert.match(stdout, /^Exit codes: 0 /m);
        });
    test('a wrong command line is 64, on stderr', () => {
        for (const args of [['nonsense'], ['errors', 'x'], ['errors', '--yaml'], ['version', '--json'], ['migrate']]) {
            const { status, stdout, stderr } = runWeir(args);
            assert.deepEqual([status, stdout], [64, ''], args.join(' '));
            assert.notEqual(stderr, '');
        }
    });
});

describe('weir errors', () => {
    const rows = json('errors');

    test('prints each code once for each kind, sorted, with a title and the place where it stands', () => {
        const keys = rows.map(({ code, kind }) => `${code} ${kind}`);
        assert.deepEqual(keys, [...new Set(keys)].sort((a, b) => (a < b ? -1 : 1)));
        for (const { code, kind, status, title, where } of rows) {
            assert.match(code, /^[a-z][a-z0-9_-]*\.[a-z0-9_]+$/);
            assert.ok(title.length > 5 && !title.endsWith('.'), code);
            const own = kind === 'problem' || kind === 'refusal';
            assert.equal(own, Number.isInteger(status) && status >= 400 && status < 600, `${code} ${kind} ${status}`);
            const [file, line] = where.split(':');
            assert.ok(readFileSync(join(ROOT, file), 'utf8').split('\n').length >= Number(line), where);
        }
    });

    test('and as columns', () => {
        const { stdout } = runWeir(['errors']);
        assert.match(stdout, /^route\.not_found +problem +404 +src\/core\/problem\.c:\d+ +There is nothing at this path$/m);
        assert.match(stdout, /^field\.required +entry +- +src\/codec\//m);
        assert.match(stdout, /^egress\.blocked +failure +- +src\/net\//m);
        assert.match(stdout, /^http\.host +refusal +400 +src\/net\//m);
        assert.equal(stdout.trim().split('\n').length, rows.length);
    });

    // Codes are given out by few words; whoever writes a new one behind them is reminded here to list it.
    test('lists every code that the sources give out', () => {
        const listed = new Set(rows.map(({ code }) => code));
        const giving = /\b(?:step_fail|fail_step|run_end|note_attempt|problems_add|problem_at|complain|report\w*|refuse)\(|\bcode = |\.code = /g;
        const sources = readdirSync(join(ROOT, 'src'), { recursive: true }).filter((name) => /\.c$/.test(name) && !/(^|\/)test_/.test(name));
        assert.ok(sources.length > 50);
        for (const name of sources) {
            const text = readFileSync(join(ROOT, 'src', name), 'utf8').replace(/\bLOG\(\w+, "[^"]+"/g, ''); // names of events are no codes
            for (const { index } of text.matchAll(giving)) {
                const statement = text.slice(index, text.indexOf(';', index));
                for (const [, code] of statement.matchAll(/"([a-z][a-z_]*\.[a-z_]+)"/g))
                    assert.ok(listed.has(code), `src/${name} gives out ${code}, which no CODES or PROBLEM lists`);
            }
        }
    });
});

test('weir metrics prints what /metrics serves', async () => {
    const rows = json('metrics');
    const { text } = await weir.anonymous().get('/metrics', { expect: 200 });
    const served = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map((row) => `${row[1]} ${row[2]}`);
    assert.deepEqual(rows.map(({ name, kind }) => `${name} ${kind}`), served.sort());
    for (const { name, help } of rows) {
        assert.match(name, /^weir_[a-z_]+$/);
        assert.ok(help.length > 3, name);
    }
});

test('weir jobs prints kind, period and doc', () => {
    const rows = json('jobs');
    assert.ok(rows.length > 0);
    for (const { kind, period, doc } of rows) {
        assert.match(kind, /^[a-z-]+\.[a-z_]+$/);
        if (period !== null) assert.match(period, /^\d+ (d|h|min|s|ms)$/);
        assert.ok(doc.length > 5, kind);
    }
    assert.ok(rows.some(({ kind, period }) => kind === 'auth.clean' && period === '1 h'));
});

test('weir routes --json is weir routes', () => {
    const rows = json('routes').filter(({ method }) => method !== 'ANY');
    assert.deepEqual(rows.map(({ method, path, permission }) => ({ method, path, permission })), routes());
});

test('weir config --json masks secrets, and says where a value comes from', () => {
    const secret = 'Zq8-not-to-be-shown-4fK1pLw92Xc7vB';
    const { stdout, status } = runWeir(['config', '--json'], { SECRET_KEY: secret });
    assert.equal(status, 0);
    assert.ok(!stdout.includes(secret));
    const row = JSON.parse(stdout).find(({ name }) => name === 'SECRET_KEY');
    assert.deepEqual([row.value, row.source], ['(masked)', 'environment']);
    assert.equal(runWeir(['config', '--json'], { WEIR_LOOPS: 'many' }).status, 2);
});

describe('weir doctor', () => {
    /** {status, lines: {check: [verdict, text]}} */
    const doctor = (env = {}) => {
        const { status, stdout, stderr } = runWeir(['doctor'], { ...weir.env, WEIR_LISTEN: `127.0.0.1:${weir.port}`, ...env }, { cwd: weir.folder });
        assert.equal(stderr, '');
        const lines = {};
        for (const line of stdout.trim().split('\n')) {
            const [, verdict, check, text] = /^(ok|warn|fail) +(\S+(?: \S+)?) +(.+)$/.exec(line) ?? assert.fail(line);
            if (lines[check]?.[0] !== 'fail') lines[check] = [verdict, text];
        }
        assert.equal(status, Object.values(lines).some(([verdict]) => verdict === 'fail') ? 1 : 0, stdout);
        return { status, lines, stdout };
    };
    const finds = (check, verdict, pattern, env) => {
        const { lines, stdout } = doctor(env);
        assert.equal(lines[check]?.[0], verdict, stdout);
        assert.match(lines[check][1], pattern);
    };

    test('finds a served folder well, and the server behind the port', () => {
        const { status, lines, stdout } = doctor();
        assert.equal(status, 0, stdout);
        for (const check of ['settings', 'data folder', 'secret key', 'disk', 'database', 'schema', 'clock', 'port', 'egress', 'files']) assert.ok(lines[check], `${check}: ${stdout}`);
        assert.equal(lines.database[0], 'ok', stdout);
        assert.match(lines.port[1], /^weir .* answers/);
    });

    test('makes nothing where there is nothing', async () => {
        const data = join(weir.folder, 'never/there');
        const { status, lines } = doctor({ DATABASE_URL: '', WEIR_DATA: data, WEIR_LISTEN: `127.0.0.1:${await freePort()}` });
        assert.equal(status, 0);
        assert.match(lines.port[1], /is free/);
        assert.ok(!existsSync(join(weir.folder, 'never')));
    });

    test('names every wrong setting, and stops there', () => {
        const { lines, stdout } = doctor({ WEIR_LOOPS: 'many', WEIR_NONSENSE: '1' });
        assert.match(stdout, /^fail +settings +WEIR_LOOPS/m);
        assert.match(stdout, /^fail +settings +WEIR_NONSENSE/m);
        assert.deepEqual(Object.keys(lines), ['settings']);
    });

    test('warns of WEIR_DEBUG, of a folder that others see, and of the address with the machine’s credentials', () => {
        finds('settings', 'warn', /WEIR_DEBUG/, { WEIR_DEBUG: 'true' });
        finds('egress', 'warn', /169\.254/, { WEIR_EGRESS_ALLOW: '169.254.0.0/16' });
        chmodSync(weir.data, 0o755);
        finds('data folder', 'warn', /chmod 700/);
        chmodSync(weir.data, 0o700);
    });

    test('a key that others can read', () => {
        const key = join(weir.data, 'secret.key');
        chmodSync(key, 0o644);
        finds('secret key', 'fail', /chmod 600/);
        chmodSync(key, 0o600);
        finds('secret key', 'ok', /owner/);
    });

    test('a port that another program has', async () => {
        const other = createServer((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'));
        await new Promise((done) => other.listen(0, '127.0.0.1', done));
        // The doctor runs while this process waits for it: nobody answers, which is as good as a wrong answer.
        finds('port', 'fail', /taken by another program/, { WEIR_LISTEN: `127.0.0.1:${other.address().port}` });
        finds('port', 'fail', /WEIR_LISTEN/, { WEIR_LISTEN: '192.0.2.1:8000' });
        await new Promise((done) => other.close(done));
    });

    test('a database without its key, and one that is none', async () => {
        const data = join(weir.folder, 'hurt');
        mkdirSync(data, { mode: 0o700 });
        const env = { DATABASE_URL: '', WEIR_DATA: data, WEIR_LISTEN: `127.0.0.1:${await freePort()}` };
        assert.equal(runWeir(['migrate', 'up'], env, { cwd: weir.folder }).status, 0);
        rmSync(join(data, 'secret.key'));
        finds('secret key', 'fail', /restore it from the backup/, env);
        assert.equal(runWeir(['migrate', 'down'], env, { cwd: weir.folder }).status, 0);
        finds('schema', 'warn', /the next start runs the rest/, env);
        const file = join(data, 'weir.db');
        truncateSync(file, 4096 * 3);
        finds('database', 'fail', /restore the last backup/, env);
        writeFileSync(file, 'no database '.repeat(1000));
        finds('database', 'fail', /not a database/, env);
        rmSync(data, { recursive: true });
    });
});
