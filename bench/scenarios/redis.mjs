// redis.mjs - reads that a Redis answers: one object again and again, and a mix as consoles and integrations make it (1,000 workflows, few of them asked for most, 2 % changes),
// on PostgreSQL, beside the same without Redis and beside pgbench -S. Everything shares the cores, Redis too.

import { randomBytes } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Postgres } from '../../tests/lib/postgres.mjs';
import { Redis } from '../../tests/lib/redis.mjs';
import { call, cpu, elapse, end, folder, load, loadFile, metric, options, run, signIn, weir, workflow } from '../lib.mjs';

const WORKFLOWS = 1000;
const REQUESTS = 3000; // of a mix; connections go round them, each from a place of its own
const CHANGES = 0.02;
const DEFINITION = { steps: [{ id: 'score', type: 'transform', with: { total: '{{ input.amount * 1.2 }}' } }, { id: 'answer', type: 'respond', with: { body: { total: '{{ steps.score.output.total }}' } } }], dependencies: { answer: ['score'] } };

/** The same dice at every run (mulberry32). */
function dice(seed) {
    let state = seed;
    return () => {
        state = (state + 0x6d2b79f5) | 0;
        let t = Math.imul(state ^ (state >>> 15), 1 | state);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
}

/** Zipf's law: the n-th most wanted is wanted 1/n as often as the first. */
function zipf(count, roll) {
    const sums = [];
    for (let n = 1, sum = 0; n <= count; n++) sums.push((sum += 1 / n));
    return () => {
        const at = roll() * sums.at(-1);
        return sums.findIndex((sum) => sum >= at);
    };
}

const raw = (method, path, token, body = '') =>
    `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${token}\r\n${body ? `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n` : ''}\r\n${body}`;

/** A file of requests for bench/load. */
function mix(paths, token) {
    const roll = dice(2026);
    const which = zipf(paths.length, roll);
    const file = join(folder, 'mix');
    const requests = Array.from({ length: REQUESTS }, (_, n) => {
        const path = paths[which()];
        return roll() < CHANGES ? raw('PATCH', path, token, JSON.stringify({ description: `change ${n}` })) : raw('GET', path, token);
    });
    writeFileSync(file, requests.map((text) => `@${text.length}\n${text}`).join(''));
    return file;
}

const CACHE = '\\{cache="hot_workflows"\\}';
async function counted(server) {
    return [await metric(server, `weir_cache_hits_total${CACHE}`), await metric(server, `weir_cache_misses_total${CACHE}`)];
}

/** What `work` gives, with the share of reads that Redis answered and its own processor time. */
async function watched(server, redis, work) {
    const [before, used] = [await counted(server), cpu(redis.child)];
    const got = work();
    const [after, spent] = [await counted(server), cpu(redis.child) - used];
    const [hits, misses] = after.map((n, i) => n - before[i]);
    return { ...got, hit_ratio: hits / (hits + misses), note: `, ${((100 * hits) / (hits + misses)).toFixed(1)} % hits, Redis ${((spent * 1e6) / (got.rate * Number(options.seconds))).toFixed(0)} us` };
}

function pgbench(database) {
    database.login('bench');
    const url = (database.create('floor', { owner: 'bench' }), database.of('floor', 'bench'));
    run(join(database.bin, 'pgbench'), ['-i', '-q', '-s', '2', url]);
    return Number(/tps = ([\d.]+)/.exec(run(join(database.bin, 'pgbench'), ['-S', '-M', 'prepared', '-n', '-c', String(options.connections), '-j', '2', '-T', options.seconds, url]))[1]);
}

async function workflows(server, token) {
    const paths = [(await workflow(server, token, DEFINITION)).path];
    while (paths.length < WORKFLOWS) {
        const made = await Promise.all(Array.from({ length: 10 }, () => call(server, 'POST', '/api/v1/workflows', { name: 'bench', definition: DEFINITION }, token)));
        paths.push(...made.map(({ id }) => `/api/v1/workflows/${id}`));
    }
    return paths.slice(0, WORKFLOWS);
}

async function rows(database, redis) {
    const floor = pgbench(database);
    const env = { DATABASE_URL: database.create('bench'), SECRET_KEY: randomBytes(32).toString('hex') };
    const plain = await weir('redis-without', env);
    const token = await signIn(plain);
    const signedIn = { headers: { Authorization: `Bearer ${token}` } };
    const paths = await workflows(plain, token);
    const file = mix(paths, token);
    const without = load(plain, paths[0], signedIn);
    const mixed = loadFile(plain, file);
    await end(plain.child);
    const server = await weir('redis-with', { ...env, REDIS_URL: redis.url });
    await elapse(12_000); // a node that starts leaves alone what others may have kept
    load(server, paths[0], { ...signedIn, seconds: '1' });
    const kept = await watched(server, redis, () => load(server, paths[0], signedIn));
    const keptMix = await watched(server, redis, () => loadFile(server, file));
    await end(server.child);
    return [
        { what: 'pgbench -S, prepared', rate: floor, ratio: 1, of: 'itself' },
        { what: 'GET /api/v1/workflows/{id}, from Redis', ...kept, ratio: kept.rate / floor, of: 'pgbench -S', aim: 0.8 },
        { what: 'the same without Redis', ...without, ratio: without.rate / floor, of: 'pgbench -S' },
        { what: `reads of ${WORKFLOWS} workflows, 2 % changes`, ...keptMix, ratio: keptMix.hit_ratio, of: 'reads from Redis', aim: 0.8 },
        { what: 'the same without Redis', ...mixed, ratio: mixed.rate / keptMix.rate, of: 'the rate with it' },
    ];
}

export async function redis() {
    const database = await Postgres.start();
    const shared = await Redis.start();
    try {
        database.login('weir', 'CREATEROLE');
        return await rows(database, shared);
    } finally {
        await shared.stop();
        await database.stop();
        rmSync(join(folder, 'mix'), { force: true });
    }
}
