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
const WAITING = 10_000; // executions that wait while their memory is measured

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

async function call(base, method, path, body, token) {
    const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
    const answer = await fetch(base + path, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path} → ${answer.status} ${await answer.text()}`);
    return answer.json();
}

async function prepare(base) {
    const { access_token: token } = await call(base, 'POST', '/api/v1/auth/token', { email: EMAIL, password: PASSWORD });
    const { id } = await call(base, 'POST', '/api/v1/workflows', { name: 'bench', definition: DEFINITION }, token);
    const trigger = await call(base, 'POST', `/api/v1/webhooks/${id}/triggers`, { name: 'bench', method: 'POST', auth_type: 'none', rate_limit: null }, token);
    return { token, workflow: `/api/v1/workflows/${id}`, webhook: trigger.webhook_url };
}

const metric = async (base, name) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(await (await fetch(`${base}/metrics`)).text())?.[1]);

/** Resolves when nothing of the engine is in memory any more. */
async function parked(base) {
    const until = performance.now() + 60_000;
    while ((await metric(base, 'weir_executions_live')) > 0) if (performance.now() > until) throw new Error('executions stay in memory');
}

/** Memory once a quiet server has given back what it does not need: the least within four seconds. */
async function rest(child) {
    const until = performance.now() + 4000;
    let least = rss(child);
    while (performance.now() < until) {
        await new Promise((done) => setTimeout(done, 100));
        least = Math.min(least, rss(child));
    }
    return least;
}

/** What 10,000 executions in a delay of an hour cost in memory, and a start that finds them. */
async function waiting() {
    const port = await freePort();
    const base = `http://127.0.0.1:${port}`;
    const env = { WEIR_LISTEN: `127.0.0.1:${port}`, WEIR_DATA: join(folder, 'waiting'), WEIR_ADMIN_EMAIL: EMAIL, WEIR_ADMIN_PASSWORD: PASSWORD, WEIR_LOG: 'off' };
    const serving = () => serve(join(BUILD, 'weir'), ['serve'], port, env);
    const { child } = await serving();
    const { access_token: token } = await call(base, 'POST', '/api/v1/auth/token', { email: EMAIL, password: PASSWORD });
    const definition = { steps: [{ id: 'hour', type: 'delay', with: { ms: 3_600_000 } }], settings: { timeout_ms: 86_400_000 } };
    const { id } = await call(base, 'POST', '/api/v1/workflows', { name: 'waits', definition }, token);
    const trigger = await call(base, 'POST', `/api/v1/webhooks/${id}/triggers`, { name: 'waits', method: 'POST', auth_type: 'none', rate_limit: null, respond: 'accepted' }, token);
    const start = async (count) => {
        let left = count;
        const one = async () => {
            while (left-- > 0) await call(base, 'POST', trigger.webhook_url, { n: left });
        };
        await Promise.all(Array.from({ length: Number(options.connections) }, one));
        await parked(base);
    };
    await start(500); // connections and stacks are there before it is counted
    const before = await rest(child);
    await start(WAITING);
    const kb_each = (((await rest(child)) - before) * 1024) / WAITING;
    const gone = new Promise((done) => child.once('close', done));
    child.kill('SIGKILL');
    await gone;
    children.delete(child);
    const began = performance.now();
    const again = await serving();
    while (!(await fetch(`${base}/readyz`)).ok);
    const ready_ms = performance.now() - began;
    const restarted = rss(again.child);
    await end(again.child);
    return { kb_each, ready_ms, restarted };
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
    const after = rss(child), rested = await rest(child);
    await end(child);
    return { livez, read, execution, idle, after, rested, start_first: first.ms, start: starts.sort((a, b) => a - b)[2] };
}

function print({ raw, commits, served, asleep }) {
    const row = (name, got, of, floorRate) =>
        console.log(name.padEnd(42), String(Math.round(got.rate)).padStart(9), `${(got.p50_us / 1000).toFixed(2)}`.padStart(9), `${(got.p99_us / 1000).toFixed(2)}`.padStart(9), `  ${(got.rate / floorRate).toFixed(2)} of ${of}`);
    console.log(`\n${options.connections} connections, ${options.seconds} s each`.padEnd(43), ' per s', ' p50 ms', '  p99 ms', '  ratio');
    row('raw epoll loop', raw, 'itself', raw.rate);
    row('GET /livez', served.livez, 'raw epoll', raw.rate);
    row('GET /api/v1/workflows/{id}, token checked', served.read, 'raw epoll', raw.rate);
    console.log('bare SQLite group commit'.padEnd(42), String(Math.round(commits)).padStart(9), `${''.padStart(19)}   1.00 of itself`);
    row('POST webhook, three steps, durable', served.execution, 'group commit', commits);
    console.log(`\nmemory: ${served.idle.toFixed(1)} MB idle, ${served.after.toFixed(1)} MB after the load, ${served.rested.toFixed(1)} MB when it is quiet again`);
    console.log(`${WAITING} waiting executions: ${asleep.kb_each.toFixed(2)} KB of memory each; after kill -9 a start is ready in ${asleep.ready_ms.toFixed(0)} ms, with ${asleep.restarted.toFixed(1)} MB`);
    console.log(`start: ${served.start.toFixed(0)} ms on a migrated folder (median of 5), ${served.start_first.toFixed(0)} ms on an empty one`);
}

try {
    const raw = await floor();
    const commits = groupCommit();
    const served = await weir();
    const asleep = await waiting();
    const results = { raw, commits, served, asleep };
    print(results);
    mkdirSync(join(ROOT, 'bench/results'), { recursive: true });
    writeFileSync(join(ROOT, 'bench/results', `${new Date().toISOString().replaceAll(':', '-')}.json`), `${JSON.stringify(results, null, 2)}\n`);
} finally {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
}
