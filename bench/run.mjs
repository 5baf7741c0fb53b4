#!/usr/bin/env node
// run.mjs - make bench: Weir beside the two floors it stands on, in one run on one machine. Absolute numbers say more about the machine than about Weir; the
// ratios do not. Prints a table; the same as JSON to bench/results/<time>.json (not committed). Takes about a minute.
//   node bench/run.mjs [--build build] [--seconds 6] [--connections 64]

import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const { values: options } = parseArgs({
    options: { build: { type: 'string', default: 'build' }, seconds: { type: 'string', default: '6' }, connections: { type: 'string', default: '64' } },
});
const BUILD = resolve(ROOT, options.build);
const program = (name) => join(BUILD, 'bench', name);
const folder = mkdtempSync(join(BUILD, 'bench-data-')); // beside the build: a disk, where /tmp may be memory
const children = new Set();
const EMAIL = 'bench@example.test';
const PASSWORD = 'Kestrel-7-marble-lantern';

async function freePort() {
    const probe = createServer();
    await new Promise((done, fail) => probe.once('error', fail).listen(0, '127.0.0.1', done));
    const { port } = probe.address();
    await new Promise((done) => probe.close(done));
    return port;
}

const accepts = (port) =>
    new Promise((done) => {
        const socket = connect(port, '127.0.0.1');
        socket.once('connect', () => done(true)).once('error', () => done(false));
        socket.once('connect', () => socket.destroy());
    });

/** Starts a server and resolves when its port accepts; {child, ms}. */
async function serve(command, args, port, env = {}) {
    const began = performance.now();
    const child = spawn(command, args, { env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
    children.add(child);
    let said = '';
    child.stderr.on('data', (text) => (said = (said + text).slice(-4000)));
    while (!(await accepts(port))) {
        if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}: ${said}`);
        if (performance.now() - began > 20_000) throw new Error(`${command} does not listen on ${port}: ${said}`);
    }
    return { child, ms: performance.now() - began };
}

async function end(child) {
    const gone = new Promise((done) => child.once('close', done));
    child.kill('SIGTERM');
    await gone;
    children.delete(child);
}

function rss(child) {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;
}

function run(command, args) {
    const done = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000 });
    if (done.status !== 0) throw new Error(`${command} ${args.join(' ')} → ${done.status ?? done.signal}\n${done.stderr}${done.stdout}`);
    return done.stdout;
}

/** bench/load against a path: {rate, p50_us, p99_us}. */
function load(port, path, { method = 'GET', headers = {}, body } = {}) {
    const args = ['127.0.0.1', String(port), options.connections, options.seconds, '1', method, path];
    args.push(...Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]), ...(body === undefined ? [] : ['-d', body]));
    const { per_second: rate, p50_us, p99_us, errors, non_2xx } = JSON.parse(run(program('load'), args));
    if (errors + non_2xx > 0) throw new Error(`${method} ${path}: ${errors} errors, ${non_2xx} answers other than 2xx`);
    return { rate, p50_us, p99_us };
}

/** A webhook of three pure steps: one durable transaction each. */
const DEFINITION = {
    steps: [
        { id: 'score', type: 'transform', with: { total: '{{ input.amount * 1.2 }}' } },
        { id: 'large', type: 'script', with: { code: 'return steps.score.output.total > 100' } },
        { id: 'answer', type: 'respond', with: { body: { total: '{{ steps.score.output.total }}', large: '{{ steps.large.output }}' } } },
    ],
    dependencies: { large: ['score'], answer: ['large'] },
};

async function prepare(base) {
    const call = async (method, path, body, token) => {
        const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
        const answer = await fetch(base + path, { method, headers, body: JSON.stringify(body) });
        if (!answer.ok) throw new Error(`${method} ${path} → ${answer.status} ${await answer.text()}`);
        return answer.json();
    };
    const { access_token: token } = await call('POST', '/api/v1/auth/token', { email: EMAIL, password: PASSWORD });
    const { id } = await call('POST', '/api/v1/workflows', { name: 'bench', definition: DEFINITION }, token);
    const trigger = await call('POST', `/api/v1/webhooks/${id}/triggers`, { name: 'bench', method: 'POST', auth_type: 'none', rate_limit: null }, token);
    return { token, workflow: `/api/v1/workflows/${id}`, webhook: trigger.webhook_url };
}

async function floor() {
    const port = await freePort();
    const { child } = await serve(program('raw_epoll'), [String(port)], port);
    const got = load(port, '/');
    await end(child);
    return got;
}

/** Commits of one row each by as many waiters as there are connections: rate per second. */
function groupCommit() {
    return JSON.parse(run(program('group_commit'), [folder, options.seconds, options.connections])).tx_per_second;
}

async function weir() {
    const port = await freePort();
    const base = `http://127.0.0.1:${port}`;
    const env = { WEIR_LISTEN: `127.0.0.1:${port}`, WEIR_DATA: join(folder, 'data'), WEIR_ADMIN_EMAIL: EMAIL, WEIR_ADMIN_PASSWORD: PASSWORD, WEIR_LOG: 'off' };
    const binary = join(BUILD, 'weir');
    const first = await serve(binary, ['serve'], port, env);
    await end(first.child);
    const starts = [];
    for (let i = 0; i < 5; i++) {
        const again = await serve(binary, ['serve'], port, env);
        starts.push(again.ms);
        await end(again.child);
    }
    const { child } = await serve(binary, ['serve'], port, env);
    const idle = rss(child);
    const { token, workflow, webhook } = await prepare(base);
    const headers = { Authorization: `Bearer ${token}` };
    const livez = load(port, '/livez');
    const read = load(port, workflow, { headers });
    const execution = load(port, webhook, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"amount":100}' });
    const after = rss(child);
    await end(child);
    return { livez, read, execution, idle, after, start_first: first.ms, start: starts.sort((a, b) => a - b)[2] };
}

function print({ raw, commits, served }) {
    const row = (name, got, of, floorRate) =>
        console.log(name.padEnd(42), String(Math.round(got.rate)).padStart(9), `${(got.p50_us / 1000).toFixed(2)}`.padStart(9), `${(got.p99_us / 1000).toFixed(2)}`.padStart(9), `  ${(got.rate / floorRate).toFixed(2)} of ${of}`);
    console.log(`\n${options.connections} connections, ${options.seconds} s each`.padEnd(43), ' per s', ' p50 ms', '  p99 ms', '  ratio');
    row('raw epoll loop', raw, 'itself', raw.rate);
    row('GET /livez', served.livez, 'raw epoll', raw.rate);
    row('GET /api/v1/workflows/{id}, token checked', served.read, 'raw epoll', raw.rate);
    console.log('bare SQLite group commit'.padEnd(42), String(Math.round(commits)).padStart(9), `${''.padStart(19)}   1.00 of itself`);
    row('POST webhook, three steps, durable', served.execution, 'group commit', commits);
    console.log(`\nmemory: ${served.idle.toFixed(1)} MB idle, ${served.after.toFixed(1)} MB after the load`);
    console.log(`start: ${served.start.toFixed(0)} ms on a migrated folder (median of 5), ${served.start_first.toFixed(0)} ms on an empty one`);
}

try {
    const raw = await floor();
    const commits = groupCommit();
    const served = await weir();
    const results = { raw, commits, served };
    print(results);
    mkdirSync(join(ROOT, 'bench/results'), { recursive: true });
    writeFileSync(join(ROOT, 'bench/results', `${new Date().toISOString().replaceAll(':', '-')}.json`), `${JSON.stringify(results, null, 2)}\n`);
} finally {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
}
