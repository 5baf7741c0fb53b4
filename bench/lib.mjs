// lib.mjs - what the scenarios share: servers and programs that end with the run, load, memory and processor time of a process.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
export const { values: options } = parseArgs({
    options: {
        build: { type: 'string', default: 'build' },
        seconds: { type: 'string', default: '6' },
        connections: { type: 'string', default: '64' },
        history: { type: 'string', default: '1000000' }, // executions that history.mjs makes
        only: { type: 'string', default: '' }, // scenarios whose name holds the word
    },
});
export const BUILD = resolve(ROOT, options.build);
export const program = (name) => join(BUILD, 'bench', name);
export const folder = mkdtempSync(join(BUILD, 'bench-data-')); // beside the build: a disk, where /tmp may be memory
export const EMAIL = 'bench@example.test';
export const PASSWORD = 'Kestrel-7-marble-lantern';
const TICKS = 100; // per second, of /proc/<pid>/stat
const children = new Set();

export const elapse = (ms) => new Promise((done) => setTimeout(done, ms));

export async function freePort() {
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

/** Starts a server and resolves when its port accepts; {child, port, ms}. */
export async function serve(command, args, port, env = {}) {
    const began = performance.now();
    const child = spawn(command, args, { env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
    children.add(child);
    let said = '';
    child.stderr.on('data', (text) => (said = (said + text).slice(-4000)));
    while (!(await accepts(port))) {
        if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}: ${said}`);
        if (performance.now() - began > 60_000) throw new Error(`${command} does not listen on ${port}: ${said}`);
    }
    return { child, port, ms: performance.now() - began };
}

export async function end(child, signal = 'SIGTERM') {
    const gone = new Promise((done) => child.once('close', done));
    child.kill(signal);
    await gone;
    children.delete(child);
}

/** Whatever still runs ends, and nothing stays on the disk. */
export function clean() {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
}

/** Weir on a data folder of its own: {child, port, base, ms, start(): the same again}. */
export async function weir(name, env = {}) {
    const port = await freePort();
    const all = { WEIR_LISTEN: `127.0.0.1:${port}`, WEIR_DATA: join(folder, name), WEIR_ADMIN_EMAIL: EMAIL, WEIR_ADMIN_PASSWORD: PASSWORD, WEIR_LOG: 'off', ...env };
    const start = async () => ({ ...(await serve(join(BUILD, 'weir'), ['serve'], port, all)), base: `http://127.0.0.1:${port}`, data: all.WEIR_DATA, start });
    return start();
}

export async function call(server, method, path, body, token) {
    const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
    const answer = await fetch(server.base + path, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path} → ${answer.status} ${await answer.text()}`);
    return answer.json();
}

export const signIn = async (server, email = EMAIL) => (await call(server, 'POST', '/api/v1/auth/token', { email, password: PASSWORD })).access_token;

/** A workflow with a webhook that asks for nothing: {id, path, webhook}. */
export async function workflow(server, token, definition, trigger = {}) {
    const { id } = await call(server, 'POST', '/api/v1/workflows', { name: 'bench', definition }, token);
    const hook = { name: 'bench', method: 'POST', auth_type: 'none', rate_limit: null, ...trigger };
    const { webhook_url } = await call(server, 'POST', `/api/v1/webhooks/${id}/triggers`, hook, token);
    return { id, path: `/api/v1/workflows/${id}`, webhook: webhook_url };
}

export const metric = async (server, name) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(await (await fetch(`${server.base}/metrics`)).text())?.[1]);

/** Megabytes. */
export const rss = (child) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;

/** Memory once a quiet server has given back what it does not need: the least within four seconds. */
export async function restedRss(child) {
    const until = performance.now() + 4000;
    let least = rss(child);
    while (performance.now() < until) {
        await elapse(100);
        least = Math.min(least, rss(child));
    }
    return least;
}

const statOf = (pid) => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ').map(Number);

/** Seconds of processor time that a process has used. */
export function cpu(child) {
    const fields = statOf(child.pid);
    return (fields[11] + fields[12]) / TICKS;
}

/** The same of a process with all its children, those that have ended included. */
export function cpuOfFamily(child) {
    const own = statOf(child.pid);
    let ticks = own[11] + own[12] + own[13] + own[14];
    for (const pid of readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ').filter(Boolean))
        try {
            const fields = statOf(pid);
            ticks += fields[11] + fields[12];
        } catch {
            // it has ended meanwhile
        }
    return ticks / TICKS;
}

export function run(command, args, timeout = 120_000) {
    const done = spawnSync(command, args, { encoding: 'utf8', timeout });
    if (done.status !== 0) throw new Error(`${command} ${args.join(' ')} → ${done.status ?? done.signal}\n${done.stderr}${done.stdout}`);
    return done.stdout;
}

/** The same without standing still: other work goes on meanwhile. */
export async function runBeside(command, args) {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    children.add(child);
    let out = '';
    child.stdout.on('data', (text) => (out += text));
    const status = await new Promise((done) => child.once('close', done));
    children.delete(child);
    if (status !== 0) throw new Error(`${command} ${args.join(' ')} → ${status}`);
    return out;
}

function loadArgs(server, path, { method = 'GET', headers = {}, body, connections = options.connections, seconds = options.seconds } = {}) {
    const args = ['127.0.0.1', String(server.port), String(connections), String(seconds), '1', method, path];
    return [...args, ...Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]), ...(body === undefined ? [] : ['-d', body])];
}

function loadResult(text, path, used) {
    const { requests, per_second: rate, p50_us, p99_us, errors, non_2xx } = JSON.parse(text);
    if (errors + non_2xx > 0) throw new Error(`${path}: ${errors} errors, ${non_2xx} answers other than 2xx`);
    return { rate, p50_us, p99_us, cpu_us: (used * 1e6) / requests };
}

/** bench/load against a path: {rate, p50_us, p99_us, cpu_us: processor time of the server for each request}. */
export function load(server, path, how) {
    const before = cpu(server.child);
    const text = run(program('load'), loadArgs(server, path, how));
    return loadResult(text, path, cpu(server.child) - before);
}

/** The same with the requests of a file (bench/load.c says how it looks). */
export function loadFile(server, file) {
    const before = cpu(server.child);
    const text = run(program('load'), ['127.0.0.1', String(server.port), String(options.connections), String(options.seconds), '1', file]);
    return loadResult(text, file, cpu(server.child) - before);
}

export async function loadBeside(server, path, how) {
    const before = cpu(server.child);
    const text = await runBeside(program('load'), loadArgs(server, path, how));
    return loadResult(text, path, cpu(server.child) - before);
}
