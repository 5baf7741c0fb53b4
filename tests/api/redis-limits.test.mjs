// A limit is that of all nodes together: leased from Redis in slices, divided by nodes without it. Two nodes of one database; PostgreSQL only.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Redis } from '../lib/redis.mjs';
import { DB, Weir, stopAll } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const QUOTA = 40; // an hour's, so that what comes back during a test is next to nothing
const SLICE = QUOTA / 8; // a quarter of a node's even part

async function metric(weir, name) {
    const { text } = await weir.anonymous().get('/metrics', { expect: 200 });
    return Number(text.split('\n').find((row) => row.startsWith(`${name} `))?.split(' ').at(-1));
}

/** Two nodes; the tenants of each test are made new, so that nobody's limit is spent. */
async function startTwo(env) {
    const one = await Weir.start({ env: { WEIR_API_LIMITS: `free=${QUOTA}/3600`, ...env } });
    const two = await one.node();
    await until('each node knows of the other', async () => (await metric(one, 'weir_nodes_alive')) === 2 && (await metric(two, 'weir_nodes_alive')) === 2, { within_ms: 30_000 });
    return [one, two];
}

/** So many requests to each of the clients, in waves of ten; how many were let in. */
async function letIn(count, ...clients) {
    let passed = 0;
    const seen = [];
    for (let sent = 0; sent < count; sent += 10)
        for (const answer of await Promise.all(Array.from({ length: Math.min(10, count - sent) }).flatMap(() => clients.map((client) => client.get('/api/v1/workflows', { expect: [200, 429] }))))) {
            passed += answer.status === 200;
            seen.push(answer);
        }
    for (const { status, headers } of seen) {
        assert.match(headers.get('ratelimit-policy'), new RegExp(`^"api";q=${QUOTA};w=3600$`));
        assert.match(headers.get('ratelimit'), /^"api";r=\d+;t=\d+$/);
        if (status === 429) assert.ok(Number(headers.get('retry-after')) >= 1);
    }
    return passed;
}

const around = (value, slack) => (n) => assert.ok(n >= value - slack && n <= value + slack, `${n} were let in, not ${value} ± ${slack}`);

describe('with one Redis', { skip: DB !== 'postgres' }, () => {
    let redis, one, two, tenants = 0;
    before(async () => {
        redis = await Redis.start();
        [one, two] = await startTwo({ REDIS_URL: redis.url });
        await until('both have it', async () => (await metric(one, 'weir_redis_up')) === 1 && (await metric(two, 'weir_redis_up')) === 1);
    });
    after(() => stopAll(two, one, redis));

    async function fresh() {
        const slug = `limits${++tenants}`;
        one.addTenant(slug, ['viewer']);
        return [await one.as('viewer', slug), await two.as('viewer', slug)];
    }

    test('both nodes together let the limit through', async () => {
        const [first, second] = await fresh();
        around(QUOTA, 2 * SLICE)(await letIn(QUOTA, first, second)); // each may have some of its last slice left
    });

    test('one node alone lets nearly all of it through, and then the other next to nothing', async () => {
        const [first, second] = await fresh();
        const passed = await letIn(QUOTA * 2, first);
        around(QUOTA, SLICE)(passed);
        around(QUOTA, SLICE)(passed + (await letIn(QUOTA, second)));
    });

    test('many at once are let in as long as there is something left', async () => {
        const [first] = await fresh();
        const answers = await Promise.all(Array.from({ length: QUOTA / 2 }, () => first.get('/api/v1/workflows')));
        assert.ok(answers.every(({ status }) => status === 200), 'half of the limit at once is no reason for a refusal');
    });

    test('who is out of tokens costs Redis nothing more', async () => {
        const [first] = await fresh();
        await letIn(QUOTA * 2, first);
        const before = await metric(one, 'weir_redis_commands_total');
        assert.equal(await letIn(30, first), 0);
        assert.ok((await metric(one, 'weir_redis_commands_total')) - before < 20, 'a beat here and there');
    });

    test('Redis goes away in the middle: no error, and each node has its part from then on', async () => {
        const [first, second] = await fresh();
        const before = await letIn(10, first, second);
        await redis.halt();
        await until('both know', async () => (await metric(one, 'weir_redis_up')) === 0 && (await metric(two, 'weir_redis_up')) === 0);
        const rest = await letIn(QUOTA, first, second);
        assert.ok(before + rest <= QUOTA + 2 * SLICE, `${before} + ${rest}`);
        await redis.run();
        await until('both have it', async () => (await metric(one, 'weir_redis_up')) === 1 && (await metric(two, 'weir_redis_up')) === 1);
    });

    test('a value that somebody else put there is no error, nor does it let everything in', async () => {
        const [first, second] = await fresh();
        assert.equal(await letIn(1, first), 1);
        for (const key of redis.keys('*:limit:*')) {
            redis.ask('DEL', key);
            redis.ask('SET', key, 'x');
        }
        const passed = await letIn(QUOTA, first, second);
        assert.ok(passed <= QUOTA + 2 * SLICE, `${passed}`);
    });

    test('webhooks have their rate on both nodes together', async () => {
        const editor = await one.as('editor');
        const { body: workflow } = await editor.post('/api/v1/workflows', { name: 'Hook', definition: { steps: [{ id: 'one', type: 'transform', with: { n: 1 } }] } }, { expect: 201 });
        const { body: hook } = await editor.post(`/api/v1/webhooks/${workflow.id}/triggers`, { name: 'hook', auth_type: 'none', rate_limit: 20 }, { expect: 201 });
        const began = performance.now();
        let passed = 0;
        for (let wave = 0; wave < 10; wave++)
            for (const { status } of await Promise.all(Array.from({ length: 10 }).flatMap(() => [one, two].map((weir) => weir.anonymous().post(`/api/v1/webhooks/${workflow.id}/${hook.id}`, {}, { raw: true })))))
                passed += status < 300;
        const seconds = (performance.now() - began) / 1000;
        assert.ok(passed >= 20 && passed <= 20 * (seconds + 1) + 20, `${passed} in ${seconds} s: more than the rate, what may be saved up, and a share for each node on credit`);
    });
});

describe('without Redis', { skip: DB !== 'postgres' }, () => {
    let one, two;
    before(async () => ([one, two] = await startTwo({})));
    after(() => stopAll(two, one));

    test('each node has its part: together they let the limit through, and one alone half of it', async () => {
        assert.equal(await letIn(QUOTA, await one.as('viewer'), await two.as('viewer')), QUOTA);
        assert.equal(await letIn(QUOTA, await one.as('viewer', 'globex')), QUOTA / 2);
    });
});
