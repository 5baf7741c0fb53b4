// postgres.mjs - Weir on PostgreSQL beside what PostgreSQL does alone: the same number of clients as connections, pgbench with prepared statements, -S as the floor of
// reads and -N as that of durable changes. fsync is on, row-level security is forced. Everything shares the cores, so each row says whose processor time a request took. The same reads from
// the cache are in redis.mjs.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Postgres } from '../../tests/lib/postgres.mjs';
import { BUILD, cpu, cpuOfFamily, EMAIL, end, folder, loadBeside, options, PASSWORD, run, signIn, weir, workflow } from '../lib.mjs';
import { DEFINITION } from './requests.mjs';

const SCALE = 2; // of pgbench: 200,000 rows, which stay in memory
const TENANTS = 8;
const SETTINGS = { shared_buffers: '256MB', max_wal_size: '1GB' };
const CLIENTS = String(options.connections);

/** Processor time of the database for each of so many requests, beside what `work` gives. */
async function beside(database, work) {
    const before = cpuOfFamily(database.child);
    const got = await work();
    const note = `  PostgreSQL ${(((cpuOfFamily(database.child) - before) * 1e6) / (got.rate * Number(options.seconds))).toFixed(0)} us${got.note ?? ''}`;
    return { ...got, note };
}

function pgbench(database, kind) {
    const args = [kind, '-M', 'prepared', '-n', '-c', CLIENTS, '-j', '2', '-T', options.seconds, database.of('floor', 'bench')];
    const said = run(join(database.bin, 'pgbench'), args);
    const failed = Number(/failed transactions: (\d+)/.exec(said)?.[1] ?? 0);
    if (failed > 0) throw new Error(`pgbench ${kind}: ${failed} transactions failed`);
    return { rate: Number(/tps = ([\d.]+)/.exec(said)[1]) };
}

/** The tables of pgbench in a database of their own. */
function prepareFloor(database) {
    database.login('bench');
    database.create('floor', { owner: 'bench' });
    run(join(database.bin, 'pgbench'), ['-i', '-q', '-s', String(SCALE), database.of('floor', 'bench')]);
}

/** `weir …args` on the database; what commands need is what a server needs. */
function tool(env, args, input) {
    const done = spawnSync(join(BUILD, 'weir'), args, { input, encoding: 'utf8', env: { PATH: process.env.PATH, WEIR_LOG: 'off', ...env } });
    if (done.status !== 0) throw new Error(`weir ${args.join(' ')}: ${done.stderr}`);
}

/** Makes tenants of which each has an owner; their addresses. */
function addTenants(env) {
    const names = Array.from({ length: TENANTS }, (_, n) => `bench-${n}`);
    for (const name of names) {
        tool(env, ['tenant', 'add', name]);
        tool(env, ['user', 'add', `owner@${name}.test`, '--tenant', name, '--role', 'owner', '--password-file', '-'], `${PASSWORD}\n`);
    }
    return names.map((name) => `owner@${name}.test`);
}

const bearer = (token) => ({ Authorization: `Bearer ${token}` });
const JSON_BODY = { 'Content-Type': 'application/json' };
const CREATED = JSON.stringify({ name: 'made by the bench', definition: { steps: [{ id: 'a', type: 'transform', with: { x: '{{ input.n }}' } }] } });

/** Several loads at once, which share the connections: the sum of their rates, the worst of their times. */
async function together(loads) {
    const got = await Promise.all(loads);
    const most = (key) => Math.max(...got.map((one) => one[key]));
    return { rate: got.reduce((sum, one) => sum + one.rate, 0), p50_us: most('p50_us'), p99_us: most('p99_us') };
}

/** One load for each server and token, with processor time per request of all servers. */
async function share(servers, tokens, how) {
    const before = servers.reduce((sum, one) => sum + cpu(one.child), 0);
    const pairs = tokens.flatMap((token) => servers.map((server) => [server, token]));
    const connections = Math.max(1, Math.floor(Number(options.connections) / pairs.length));
    const got = await together(pairs.map(([server, token]) => loadBeside(server, how.path, { ...how, headers: { ...how.headers, ...(token && bearer(token)) }, connections })));
    const used = servers.reduce((sum, one) => sum + cpu(one.child), 0) - before;
    return { ...got, cpu_us: (used * 1e6) / (got.rate * Number(options.seconds)) };
}

/** The server under load, a second one of the same database, and who may ask them. */
async function nodes(database) {
    const env = { DATABASE_URL: database.create('bench'), SECRET_KEY: randomBytes(32).toString('hex'), JWT_SECRET_KEY: randomBytes(32).toString('hex') };
    const one = await weir('postgres', env);
    const owners = addTenants({ ...env, WEIR_DATA: join(folder, 'postgres-tools') });
    const start = () => weir('postgres-2', env);
    const token = await signIn(one, EMAIL);
    const tokens = [];
    for (const owner of owners) tokens.push(await signIn(one, owner));
    return { one, start, token, tokens, flow: await workflow(one, token, DEFINITION) };
}

async function rows(database) {
    prepareFloor(database);
    const reads = await beside(database, () => pgbench(database, '-S'));
    const { one, start, token, tokens, flow } = await nodes(database);
    const get = { path: flow.path };
    const post = { path: '/api/v1/workflows', method: 'POST', headers: JSON_BODY, body: CREATED };
    const hook = { path: flow.webhook, method: 'POST', headers: JSON_BODY, body: '{"amount":100}' };
    const of = (what, aim, how) => beside(database, () => share(how.servers ?? [one], how.tokens ?? [undefined], how)).then((got) => ({ what, of: how.method ? 'pgbench -N' : 'pgbench -S', aim, ...got }));
    const list = [
        { what: 'pgbench -S, prepared', ...reads, ratio: 1, of: 'itself' },
        await of('GET /api/v1/workflows/{id}, not cached', 0.35, { ...get, tokens: [token] }),
    ];
    const writes = await beside(database, () => pgbench(database, '-N'));
    list.push(
        { what: 'pgbench -N, prepared', ...writes, ratio: 1, of: 'itself' },
        await of('POST webhook, three steps, durable', 0.8, hook),
        await of('POST /api/v1/workflows, one tenant', undefined, { ...post, tokens: [token] }),
        await of(`POST /api/v1/workflows, ${TENANTS} tenants`, undefined, { ...post, tokens }),
    );
    const two = await start();
    const servers = [one, two];
    list.push(
        await of('GET /api/v1/workflows/{id}, two nodes', undefined, { ...get, tokens: [token], servers }),
        await of('POST webhook, two nodes', undefined, { ...hook, servers }),
        await of(`POST /api/v1/workflows, ${TENANTS} tenants, two nodes`, undefined, { ...post, tokens, servers }),
    );
    for (const row of list) row.ratio ??= row.rate / (row.of === 'pgbench -S' ? reads.rate : writes.rate);
    for (const server of servers) await end(server.child);
    return list;
}

export async function postgres() {
    if (!Postgres.installed()) return [{ what: 'PostgreSQL', note: 'left out: it is not installed (Debian: postgresql)' }];
    const database = await Postgres.start({ parent: BUILD, settings: SETTINGS });
    try {
        database.login('weir', 'CREATEROLE');
        return await rows(database);
    } finally {
        await database.stop();
    }
}
