// Three nodes on one PostgreSQL, and everything goes wrong: nodes are killed, stopped and put to sleep, PostgreSQL is restarted and put to sleep, clocks jump. Afterwards every acknowledged
// execution is there and has ended, no step with a recorded result has run again, and nothing is held by anybody. `make fault` goes on for two minutes.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { SEED, dice } from '../lib/dice.mjs';
import { chain, createWorkflow, finalExecution, http, stepOf, transform } from '../lib/flows.mjs';
import { Upstream } from '../lib/http_echo.mjs';
import { Postgres } from '../lib/postgres.mjs';
import { DB, FULL, TSAN, Weir, stopAll } from '../lib/server.mjs';
import { bounded, elapse, until } from '../lib/wait.mjs';

const SECONDS = FULL ? 120 : 20;
const LEASE_S = 3;
const CALLERS = 6;
const DATABASE = 'nodes';
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';

let postgres, upstream, first, nodes, clock;
const roll = dice();
const one = (list) => list[Math.floor(roll() * list.length)];
const counts = new Map();
const count = (what, n = 1) => counts.set(what, (counts.get(what) ?? 0) + n);

before(async () => {
    if (DB !== 'postgres') return;
    upstream = await Upstream.start((path) => (path === '/held' ? { hold: true } : { delay_ms: Math.floor(roll() * 30) }));
    postgres = await Postgres.start();
    postgres.login('weir', 'CREATEROLE');
    first = new Weir({ DATABASE_URL: postgres.create(DATABASE), WEIR_LEASE_SECONDS: `${LEASE_S}`, WEIR_EGRESS_ALLOW: upstream.host, WEIR_DB_POOL_SIZE: '6', WEIR_DB_POOL_WAIT_SECONDS: '2' });
    first.addTenant('acme');
    nodes = [first];
    await first.serve();
    nodes.push(await first.node());
    nodes.push(await first.node(faked()));
});
after(async () => {
    upstream?.held.splice(0);
    await stopAll(...(nodes?.toReversed() ?? []), upstream, postgres);
});

/** A node whose clock a file sets. What libfaketime does for a wait on a condition, ThreadSanitizer does not see: it would find races where there are none. */
function faked() {
    if (!existsSync(FAKETIME) || TSAN) return {};
    clock = join(first.folder, 'clock');
    writeFileSync(clock, '+0');
    return { LD_PRELOAD: FAKETIME, FAKETIME_TIMESTAMP_FILE: clock, FAKETIME_CACHE_DURATION: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1', DONT_FAKE_MONOTONIC: '1', ASAN_OPTIONS: 'verify_asan_link_order=0:detect_leaks=0:exitcode=99' };
}

// ---- what runs: phases in the order in which they are recorded ----

const RETRY = { max_attempts: 5, initial_ms: 20 }; // the upstream closes connections that slept
const path = (phase) => `${upstream.base}/${phase}/{{ execution.id }}`;
const flows = () => {
    const call = (id) => http(id, path(id), { retry: RETRY });
    const delay = { id: 'd', type: 'delay', with: { ms: 200 } };
    const each = { id: 'each', type: 'foreach', with: { items: [1, 2, 3], concurrency: 2, steps: { steps: [call('item')] } } };
    return {
        calls: chain(call('one'), call('two'), call('three')),
        waits: chain(call('one'), delay, call('two')),
        loops: chain(each, call('two')),
        limited: { ...chain(call('one'), call('two')), settings: { concurrency: { limit: 3 } } },
        pure: { steps: [transform('t', { n: '{{ input.n }}' })] },
    };
};
const PHASES = ['one', 'item', 'two', 'three'];

async function makeFlows(editor) {
    const ids = {};
    for (const [name, definition] of Object.entries(flows())) ids[name] = (await createWorkflow(editor, definition)).id;
    const parent = chain({ id: 'c', type: 'workflow', with: { workflow_id: ids.calls } }, http('two', path('two'), { retry: RETRY }));
    return { ...ids, parent: (await createWorkflow(editor, parent)).id };
}

// ---- callers ----

/** Asks again with the same key, at any node, until somebody says that it is on disk. */
async function acknowledged(clients, id, key, still) {
    const headers = { 'idempotency-key': key, ...(roll() < 0.7 ? { prefer: 'respond-async' } : {}) };
    while (still()) {
        const answer = await one(clients).post(`/api/v1/workflows/${id}/execute?wait=5`, { input_data: { n: 1 } }, { headers, within_ms: 8000, raw: true }).catch(() => null);
        if (answer?.status === 200 || answer?.status === 202) return answer.body.execution_id;
        count(answer ? `refused ${answer.status}` : 'unanswered');
        await elapse(50);
    }
    return null;
}

async function caller(n, clients, workflows, still, accepted) {
    for (let i = 0; still(); i++) {
        const flow = one(Object.keys(workflows));
        const id = await acknowledged(clients, workflows[flow], `${n}-${i}`, still);
        if (id) accepted.set(id, flow);
    }
}

// ---- what goes wrong ----

const children = (pid) => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
const signal = (pids, name) => pids.forEach((pid) => {
    try {
        process.kill(pid, name);
    } catch {} // it has just ended
});

async function standStill(ms, last = async () => {}) {
    const { pid } = postgres.child;
    signal([pid], 'SIGSTOP');
    const all = [pid, ...children(pid)];
    signal(all, 'SIGSTOP');
    await elapse(ms);
    await last();
    signal(all, 'SIGCONT');
}

const faults = {
    async kill(node) {
        await node.kill();
        if (roll() < 0.5) node.env.WEIR_NODE_ID = `again-${Math.floor(roll() * 1e9)}`;
        await elapse(roll() * 1000);
        await node.serve();
    },
    async 'stop in order'(node) {
        await node.terminate();
        await node.serve();
    },
    async 'stand still'(node) {
        node.child.kill('SIGSTOP');
        await elapse(1000 + roll() * LEASE_S * 1500);
        node.child.kill('SIGCONT');
    },
    async 'restart of PostgreSQL'() {
        await postgres.halt();
        await elapse(roll() * 1000);
        await postgres.run();
    },
    'PostgreSQL stands still': () => standStill(500 + roll() * 4000),
    async 'jump of a clock'() {
        if (clock) writeFileSync(clock, `${roll() < 0.5 ? '-' : '+'}${Math.floor(roll() * 90)}`);
        await elapse(1000);
    },
};

async function goWrong(until_ms) {
    const all = Object.keys(faults);
    const from = Math.floor(roll() * all.length);
    for (let i = 0; performance.now() < until_ms; i++) {
        const what = i < all.length ? all[(from + i) % all.length] : one(all); // each once before one comes again
        count(what);
        await bounded(what, 60_000, faults[what](one(nodes)));
        await elapse(roll() * 800);
    }
}

// ---- afterwards ----

const ask = (sql) => postgres.sql(sql, postgres.admin(DATABASE));
const rows = (sql) => ask(sql).split('\n').filter(Boolean).map((line) => line.split('|'));

/** Calls of an execution that came after a call of a later phase: what they belong to had been recorded before that. */
function repeated() {
    const reached = new Map();
    const bad = [];
    for (const call of upstream.calls) {
        const [, phase, id] = call.path.split('/');
        const now = PHASES.indexOf(phase);
        if (now < (reached.get(id) ?? -1)) bad.push(`${call.path} after ${PHASES[reached.get(id)]}`);
        else reached.set(id, now);
    }
    return bad;
}

test('a database that was away for longer than the lease costs no node what it has', { skip: DB !== 'postgres' && 'SQLite is one process' }, async () => {
    const editor = await first.as('editor');
    const { id } = await createWorkflow(editor, { steps: [http('held', `${upstream.base}/held`)] });
    const begin = async (node) => (await editor.at(node.base).post(`/api/v1/workflows/${id}/execute?wait=0`, { input_data: {} }, { expect: 202 })).body.execution_id;
    const begun = await Promise.all(nodes.map(begin));
    await until('all are under way', () => upstream.count('/held') === begun.length);
    await standStill(LEASE_S * 1000 + 500, async () => nodes[2].child.kill('SIGSTOP'));
    await elapse(1500); // the others are back before it is
    nodes[2].child.kill('SIGCONT');
    const alive = "SELECT count(*) FROM nodes WHERE ended_at IS NULL AND lease_until > extract(epoch FROM clock_timestamp()) * 1000000";
    await until('all have a lease again', () => ask(alive) === String(nodes.length));
    await elapse(1500); // each has looked around
    upstream.release();
    const done = await Promise.all(begun.map((execution) => finalExecution(editor, execution)));
    assert.deepEqual(done.map((x) => [x.status, stepOf(x, 'held').attempt]), begun.map(() => ['completed', 1]));
    assert.equal(upstream.count('/held'), begun.length);
});

test(`${SECONDS} seconds`, { skip: DB !== 'postgres' && 'SQLite is one process', timeout: (SECONDS + 180) * 1000 }, async (t) => {
    t.diagnostic(`WEIR_TEST_SEED=${SEED}`);
    const editor = await first.as('editor');
    const clients = nodes.map((node) => editor.at(node.base));
    for (const client of clients) await client.get('/api/v1/workflows', { expect: 200 });
    const workflows = await makeFlows(editor);
    const accepted = new Map();
    const end = performance.now() + SECONDS * 1000;
    const still = () => performance.now() < end;
    const callers = Array.from({ length: CALLERS }, (_, n) => caller(n, clients, workflows, still, accepted));
    await goWrong(end);
    const last = performance.now();
    await Promise.all(callers);
    count('ms until the callers had ended', Math.round(performance.now() - last));
    if (clock) writeFileSync(clock, '+0');

    const ended = performance.now();
    const open = "FROM executions WHERE status IN ('queued', 'running', 'waiting')";
    await until('everything has ended', () => ask(`SELECT count(*) ${open}`) === '0', { within_ms: 90_000, every_ms: 500 }).catch((why) => {
        throw new Error(`${why.message}\n${ask(`SELECT id, status, due_at, owner, fence, slot_state, parent_id ${open} LIMIT 20`)}\n${ask('SELECT * FROM nodes')}`);
    });
    const found = new Map(rows("SELECT id, status, coalesce(error, '') FROM executions").map(([id, status, error]) => [id, { status, error }]));
    const missing = [...accepted.keys()].filter((id) => !found.has(id));
    const failed = [...found.values()].filter(({ status }) => status !== 'completed');
    const bad = repeated();
    count('ms until all had ended', Math.round(performance.now() - ended));
    count('acknowledged', accepted.size);
    count('completed', found.size - failed.length);
    count('calls', upstream.calls.length);
    count('three times in the middle of a step', failed.length);
    count('steps cut off', Number(ask("SELECT count(*) FROM executions WHERE step_executions LIKE '%engine.interrupted%'")));
    t.diagnostic(JSON.stringify(Object.fromEntries(counts)));
    assert.ok(accepted.size > 0);
    assert.deepEqual(missing, [], 'acknowledged, and not there');
    assert.deepEqual(failed.filter(({ error }) => !error.includes('engine.crashed')), [], 'only a step that was cut off three times may fail');
    assert.deepEqual(bad, [], 'a step with a recorded result ran again');
    assert.deepEqual(rows('SELECT count(*) FROM executions WHERE owner IS NOT NULL OR slot_key IS NOT NULL OR due_at IS NOT NULL'), [['0']], 'something is still held');
    assert.equal(ask('SELECT count(*) FROM execution_journal'), '0');
    const twice = rows('SELECT dedup_key, count(*) FROM executions WHERE dedup_key IS NOT NULL GROUP BY dedup_key HAVING count(*) > 1');
    assert.deepEqual(twice, [], 'one key, one execution');
});
