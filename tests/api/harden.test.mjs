// Hardening: what the serving process has given up before it reads the first byte, and that it serves nevertheless. That a call is refused, and each of them, is
// shown by src/core/test_harden.c. Weir.stop() fails any test of an unsanitized build in which a call was refused.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readFileSync, readdirSync } from 'node:fs';
import { BINARY, RELEASE, Weir, runWeir, stopAll } from '../lib/server.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { createTrigger, createWorkflow, execute, http, respond, chain } from '../lib/flows.mjs';

/** /proc/<pid>/<file> as {name: text}. */
const proc = (weir, file) =>
    Object.fromEntries(
        readFileSync(`/proc/${weir.child.pid}/${file}`, 'utf8')
            .trim()
            .split('\n')
            .map((line) => line.split(/:\s+|\s{2,}/))
            .map(([name, ...values]) => [name, values.join(' ')]),
    );
const said = (weir, event) => weir.log().find((line) => line.event === event);

describe('every build', () => {
    let weir;
    before(async () => (weir = await Weir.start()));
    after(() => weir.stop());

    test('gains no privileges, makes files for their owner only, may open as many as the machine allows', () => {
        const status = proc(weir, 'status');
        assert.equal(status.NoNewPrivs, '1');
        assert.equal(status.Umask, '0077');
        const [soft, hard] = proc(weir, 'limits')['Max open files'].split(' ');
        assert.equal(soft, hard);
    });

    test('says at each start whether it gave up system calls', () => {
        const filtered = said(weir, 'harden.filtered');
        const unfiltered = said(weir, 'harden.unfiltered');
        assert.ok(BINARY === RELEASE ? filtered && !unfiltered : unfiltered && !filtered, weir.stderr);
        assert.equal(proc(weir, 'status').Seccomp, filtered ? '2' : '0');
    });

    test('the doctor tells what the next start will do', () => {
        const line = (env = {}) => /^(ok|warn|fail) +system calls +(.+)$/m.exec(runWeir(['doctor'], { ...weir.env, ...env }, { cwd: weir.folder }).stdout);
        assert.equal(line()[1], BINARY === RELEASE ? 'ok' : 'warn');
        const [, verdict, text] = line({ WEIR_SECCOMP: 'off' });
        assert.equal(verdict, 'warn');
        assert.match(text, /WEIR_SECCOMP=off/);
    });

    test('WEIR_SECCOMP is on or off', () => {
        const { status, stderr } = runWeir(['serve'], { ...weir.env, WEIR_SECCOMP: 'maybe' }, { cwd: weir.folder });
        assert.equal(status, 2);
        assert.match(stderr, /WEIR_SECCOMP: maybe is none of on off/);
    });
});

describe('a build without sanitizers', { skip: RELEASE === null && 'build/weir is not there, or older than src/core/harden.c: make build' }, () => {
    let weir, upstream;
    before(async () => {
        upstream = await Upstream.start();
        const env = { WEIR_EGRESS_ALLOW: `${upstream.host},localhost:${upstream.port}` };
        weir = await Weir.start({ env, binary: RELEASE });
    });
    after(() => stopAll(weir, upstream));

    test('serves behind the filter: sign in, workflow, calls by address and by name, webhook, events, metrics', async () => {
        const editor = await weir.as('editor');
        const definition = chain(
            http('address', `${upstream.base}/a`),
            http('name', `http://localhost:${upstream.port}/b`),
            respond('answer', { body: '{{ steps.name.output.status }}' }),
        );
        const { id } = await createWorkflow(editor, definition);
        const execution = await execute(editor, id);
        assert.equal(execution.status, 'completed', JSON.stringify(execution));
        const { webhook_url: url } = await createTrigger(editor, id);
        assert.equal((await fetch(new URL(url, weir.base), { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } })).status, 200);
        assert.equal(upstream.count('/b'), 2);
        assert.equal((await fetch(`${weir.base}/metrics`)).status, 200);
        assert.equal(said(weir, 'harden.refused'), undefined);
    });

    test('each of its threads is behind the filter, and nothing of it may be dumped', () => {
        const threads = readdirSync(`/proc/${weir.child.pid}/task`);
        assert.ok(threads.length > 4, `${threads.length} threads`);
        for (const thread of threads) assert.equal(proc(weir, `task/${thread}/status`).Seccomp, '2', proc(weir, `task/${thread}/status`).Name);
        assert.equal(proc(weir, 'limits')['Max core file size'].split(' ')[0], '0');
    });

    test('WEIR_SECCOMP=off leaves all calls, and says so', async () => {
        const open = await Weir.start({ env: { WEIR_SECCOMP: 'off' }, users: false, binary: RELEASE });
        try {
            assert.equal(said(open, 'harden.unfiltered').why, 'WEIR_SECCOMP=off');
            assert.equal(proc(open, 'status').Seccomp, '0');
        } finally {
            await open.stop();
        }
    });
});
