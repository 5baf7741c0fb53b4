// What several nodes share by Redis, and that nothing but speed depends on it: two nodes of one database, a Redis of their own.
// Only on PostgreSQL: SQLite is served by one node.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Redis, Way } from '../lib/redis.mjs';
import { DB, Weir, runWeir, stopAll } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const DEFINITION = { steps: [{ id: 'one', type: 'transform', with: { n: 1 } }] };

/** The value of a metric; labels as they are written. */
async function metric(weir, name, labels = '') {
    const { text } = await weir.anonymous().get('/metrics', { expect: 200 });
    const line = text.split('\n').find((row) => row.startsWith(labels ? `${name}{${labels}} ` : `${name} `));
    return line === undefined ? undefined : Number(line.split(' ').at(-1));
}
const hits = (weir) => metric(weir, 'weir_cache_hits_total', 'cache="hot_workflows"');
const health = async (weir) => (await (await weir.as('admin')).get('/api/v1/health', { expect: 200 })).body;
const redisOf = async (weir) => (await health(weir)).dependencies.redis;
const ok = (weir) => until('Redis is ok', async () => (await redisOf(weir))?.status === 'ok');

/** Two nodes on one database; `env` is for both, `more` for the second. */
async function startTwo(env, more = {}) {
    const first = await Weir.start({ env });
    const second = await first.node(more);
    await until('each node knows of the other', async () => (await Promise.all([first, second].map((weir) => metric(weir, 'weir_nodes_alive')))).every((n) => n === 2), { within_ms: 30_000 });
    return [first, second];
}

const workflow = async (client, name = 'Hot') => (await client.post('/api/v1/workflows', { name, definition: DEFINITION }, { expect: 201 })).body;

/** Reads a workflow until each node answers it from Redis. */
async function warmOn(nodes, id) {
    for (const node of nodes) {
        const [client, before] = [await node.as('editor'), await hits(node)];
        await until('the node answers from Redis', async () => {
            await client.get(`/api/v1/workflows/${id}`, { expect: 200 });
            return (await hits(node)) > before;
        }, { within_ms: 90_000 }); // each answer of Redis that comes late is ten seconds of doubt
    }
}

test('a REDIS_URL that cannot be used stops the start and does not show its password', () => {
    for (const [url, complaint] of [['http://u:geheim@example', 'is not redis://'], ['redis://u:geheim@h:99999', 'is not redis://'], ['rediss://:geheim@h', 'TLS']]) {
        const { status, stderr } = runWeir(['serve'], { REDIS_URL: url });
        assert.equal(status, 2, stderr);
        assert.match(stderr, new RegExp(`REDIS_URL: \\(masked\\).*${complaint}`));
        assert.doesNotMatch(stderr, /geheim/);
    }
});

test('SQLite says that it makes no use of REDIS_URL, and health does not show it', { skip: DB === 'postgres' }, async () => {
    const weir = await Weir.start({ env: { REDIS_URL: 'redis://127.0.0.1:1' } });
    try {
        assert.equal(weir.log().filter(({ event, name }) => event === 'config.ignored' && name === 'REDIS_URL').length, 1);
        assert.equal((await health(weir)).dependencies.redis, undefined);
        assert.equal(await metric(weir, 'weir_redis_up'), undefined);
    } finally {
        await weir.stop();
    }
});

describe('two nodes with one Redis', { skip: DB !== 'postgres' }, () => {
    let redis, one, two, first, second;
    before(async () => {
        redis = await Redis.start({ requirepass: 'p@ss:word' });
        [one, two] = await startTwo({ REDIS_URL: redis.url });
        [first, second] = [await one.as('editor'), await two.as('editor')];
        await Promise.all([one, two].map(ok));
    });
    after(() => stopAll(two, one, redis));

    const warm = (id) => warmOn([one, two], id);

    test('health shows that it is ok, with the time it took; metrics count', async () => {
        const { status, dependencies } = await health(one);
        assert.equal(status, 'ok');
        assert.equal(dependencies.redis.status, 'ok');
        assert.match(dependencies.redis.since, /^\d{4}-/);
        assert.equal(dependencies.redis.error, null);
        assert.equal(await metric(one, 'weir_redis_up'), 1);
        await until('something was asked, a beat at the least', async () => (await metric(one, 'weir_redis_commands_total')) > 0);
    });

    test('nodes tell each other news by Redis', async () => {
        const heard = () => metric(two, 'weir_bus_packets_heard_total', 'transport="redis"');
        const before = (await heard()) ?? 0;
        const { id } = await workflow(first);
        await first.patch(`/api/v1/workflows/${id}`, { is_active: false }, { expect: 200 });
        await until('the second node has heard it', async () => ((await heard()) ?? 0) > before);
        assert.ok((await metric(one, 'weir_bus_packets_sent_total', 'transport="redis",outcome="sent"')) > 0);
        assert.equal(await metric(one, 'weir_bus_up'), 1);
    });

    test('news that no node has said are not heard', async () => {
        const heard = () => metric(two, 'weir_bus_packets_heard_total', 'transport="redis"');
        const [channel] = redis.ask('PUBSUB', 'CHANNELS', 'weir:*:bus:').split('\n');
        const before = (await heard()) ?? 0;
        for (let n = 1; n <= 50; n++) assert.equal(redis.ask('PUBLISH', channel, `9999 ${n}\ncaches 1 *\n`), '2');
        for (const hostile of ['', 'x', 'y'.repeat(24 + 7900 + 16), 'z'.repeat(24 + 7900 + 17)]) redis.ask('PUBLISH', channel, hostile);
        const { id } = await workflow(first);
        await first.patch(`/api/v1/workflows/${id}`, { is_active: false }, { expect: 200 });
        await until('the second node has heard the first', async () => ((await heard()) ?? 0) > before);
        assert.ok((await heard()) < before + 50, 'but nobody else');
    });

    test('what one node read, the other answers from Redis: the same bytes, the same ETag', async () => {
        const { id } = await workflow(first);
        const read = await first.get(`/api/v1/workflows/${id}`, { expect: 200 });
        await warm(id);
        const kept = await second.get(`/api/v1/workflows/${id}`, { expect: 200 });
        assert.equal(kept.text, read.text);
        assert.equal(kept.headers.get('etag'), read.headers.get('etag'));
        assert.ok(kept.headers.get('etag'));
    });

    test('conditions are compared with what is kept', async () => {
        const { id } = await workflow(first);
        await warm(id);
        const path = `/api/v1/workflows/${id}`;
        const etag = (await first.get(path, { expect: 200 })).headers.get('etag');
        const not = await second.get(path, { headers: { 'if-none-match': etag }, expect: 304 });
        assert.equal(not.text, '');
        assert.equal(not.headers.get('etag'), etag);
        await second.get(path, { headers: { 'if-none-match': '"other"' }, expect: 200 });
        await second.get(path, { headers: { 'if-match': '"other"' }, expect: 412 });
        await second.head(path, { expect: 200 });
        const some = await second.get(`${path}?fields=id,name`, { expect: 200, raw: true });
        assert.deepEqual(Object.keys(some.body), ['id', 'name']);
        await second.get(`${path}?nothing=1`, { expect: 422 });
    });

    test('after a change was answered no node gives the earlier answer', async () => {
        const { id } = await workflow(first);
        const path = `/api/v1/workflows/${id}`;
        await warm(id);
        for (let round = 0; round < 30; round++) {
            const [writer, reader] = round % 2 ? [first, second] : [second, first];
            await reader.get(path, { expect: 200 });
            await writer.patch(path, { name: `Round ${round}` }, { expect: 200 });
            assert.equal((await reader.get(path, { expect: 200 })).body.name, `Round ${round}`);
        }
    });

    test('nor do readers that were slow bring it back: writes and reads at once', async () => {
        const { id } = await workflow(first);
        const path = `/api/v1/workflows/${id}`;
        await warm(id);
        let written = 0, over = false;
        const readers = [first, second, first, second].map(async (reader) => {
            while (!over) {
                const least = written;
                const { body } = await reader.get(path, { expect: 200 });
                assert.ok(Number(body.description || 0) >= least, `${body.description} was read after ${least} had been answered`);
            }
        });
        for (let n = 1; n <= 60; n++) {
            await (n % 2 ? first : second).patch(path, { description: `${n}` }, { expect: 200 });
            written = n;
        }
        over = true;
        await Promise.all(readers);
    });

    test('every way to change what GET shows is seen on the other node', async () => {
        const { id } = await workflow(first);
        const path = `/api/v1/workflows/${id}`;
        const hooks = `/api/v1/webhooks/${id}/triggers`;
        const seen = async () => (await warm(id), (await second.get(path, { expect: 200 })).body);
        const before = await seen();
        const { body: trigger } = await first.post(hooks, { name: 'hook', auth_type: 'none' }, { expect: 201 });
        assert.equal((await seen()).definition.triggers.length, before.definition.triggers.length + 1);
        await first.put(`${hooks}/${trigger.id}`, { name: 'renamed', auth_type: 'none' }, { expect: 200 });
        assert.equal((await seen()).definition.triggers[0].name, 'renamed');
        await first.del(`${hooks}/${trigger.id}`, { expect: 204 });
        assert.equal((await seen()).definition.triggers.length, 0);
        const { steps } = DEFINITION;
        await first.put(path, { name: 'Put', definition: { steps: [{ ...steps[0], id: 'two' }] } }, { expect: 200 });
        assert.equal((await seen()).definition.steps[0].id, 'two');
        await first.post(`${path}/versions/1/restore`, undefined, { expect: 200 });
        assert.equal((await seen()).definition.steps[0].id, 'one');
        await first.del(path, { expect: 204 });
        await second.get(path, { expect: 404 });
    });

    test('what is kept is of one tenant, and only for who may read it', async () => {
        const { id } = await workflow(first);
        await warm(id);
        await (await two.as('owner', 'globex')).get(`/api/v1/workflows/${id}`, { expect: 404 });
        await two.anonymous().get(`/api/v1/workflows/${id}`, { expect: 401 });
        await (await two.as('viewer')).get(`/api/v1/workflows/${id}`, { expect: 200 });
    });

    test('Redis holds no text of it, and each key ends within ten seconds', async () => {
        const { id } = await workflow(first, 'Nobody-else-reads-this');
        await warm(id);
        const [key] = redis.keys(`*${id}`);
        assert.ok(key, 'it is kept');
        const values = redis.ask('HVALS', key);
        assert.doesNotMatch(values, /Nobody-else/);
        const left = Number(redis.ask('PTTL', key));
        assert.ok(left > 0 && left <= 10_000, `${left} ms`);
    });

    test('an answer that somebody has put aside is not believed when its time is over', async () => {
        const { id } = await workflow(first, 'Before');
        const path = `/api/v1/workflows/${id}`;
        await warm(id);
        const [key] = redis.keys(`*${id}`);
        redis.ask('COPY', key, 'aside');
        redis.ask('PERSIST', 'aside');
        redis.ask('COPY', key, 'as-long-as-it');
        await first.patch(path, { name: 'After' }, { expect: 200 });
        await until('its time is over', () => redis.ask('EXISTS', 'as-long-as-it') === '0', { within_ms: 20_000 });
        redis.ask('COPY', 'aside', key, 'REPLACE');
        assert.equal((await second.get(path, { expect: 200 })).body.name, 'After');
        redis.ask('DEL', 'aside', key);
    });

    test('a value that somebody else put there is not believed', async () => {
        const { id } = await workflow(first, 'True');
        const { id: other } = await workflow(first, 'Other');
        const path = `/api/v1/workflows/${id}`;
        for (const hostile of ['', 'x', '{"name":"False"}', 'y'.repeat(300), 'z'.repeat(100_000)]) {
            await warm(id);
            const [key] = redis.keys(`*${id}`);
            redis.ask('HSET', key, `${path}?`, hostile);
            assert.equal((await second.get(path, { expect: 200 })).body.name, 'True');
            redis.ask('DEL', key);
        }
        await warm(id);
        await warm(other); // they live for ten seconds
        const [mine] = redis.keys(`*${id}`);
        const [theirs] = redis.keys(`*${other}`);
        redis.ask('DEL', mine);
        redis.ask('COPY', theirs, mine);
        redis.ask('EVAL', "redis.call('HSET',KEYS[1],ARGV[2],redis.call('HGET',KEYS[1],ARGV[1]))", '1', mine, `/api/v1/workflows/${other}?`, `${path}?`);
        assert.equal((await second.get(path, { expect: 200 })).body.name, 'True');
        redis.ask('DEL', mine);
        redis.ask('SET', mine, 'not a hash');
        assert.equal((await second.get(path, { expect: 200 })).body.name, 'True');
        await first.patch(path, { name: 'Truer' }, { expect: 200 });
        assert.equal((await second.get(path, { expect: 200 })).body.name, 'Truer');
    });
});

describe('a Redis that goes away', { skip: DB !== 'postgres' }, () => {
    let redis, one, two, first, second;
    before(async () => {
        redis = await Redis.start();
        [one, two] = await startTwo({ REDIS_URL: redis.url });
        [first, second] = [await one.as('editor'), await two.as('editor')];
        await Promise.all([one, two].map(ok));
    });
    after(() => stopAll(two, one, redis));

    /** Reads and writes on both nodes for as long as `during` takes; how many, and the slowest in ms. Every answer is a good one, and none is older than what was answered. */
    async function underLoad(during) {
        const { id } = await workflow(first);
        const path = `/api/v1/workflows/${id}`;
        let over = false, count = 0, slowest = 0, written = 0;
        await warmOn([one, two], id);
        const timed = async (call) => {
            const began = performance.now();
            const answer = await call();
            slowest = Math.max(slowest, performance.now() - began);
            count++;
            return answer;
        };
        const readers = [first, second, first, second].map(async (client) => {
            while (!over) {
                const least = written;
                const { body } = await timed(() => client.get(path, { expect: 200 }));
                assert.ok(Number(body.description || 0) >= least, 'no answer is older than a change that was answered');
            }
        });
        const writer = (async () => {
            for (let n = 1; !over; n++) {
                await timed(() => (n % 2 ? first : second).patch(path, { description: `${n}` }, { expect: 200 }));
                written = n;
            }
        })();
        await during();
        over = true;
        await Promise.all([...readers, writer]);
        return { count, slowest };
    }

    test('is restarted under load: no client sees an error, nor anything old', async () => {
        await underLoad(async () => {
            for (let round = 0; round < 2; round++) {
                await redis.halt();
                await until('health says so', async () => (await redisOf(one)).status === 'degraded' && (await redisOf(two)).status === 'degraded');
                await redis.run();
                await Promise.all([one, two].map(ok));
            }
        });
        const changes = one.log().map(({ event }) => event).filter((event) => ['redis.lost', 'redis.up'].includes(event));
        assert.ok(changes.filter((event) => event === 'redis.lost').length >= 2);
        assert.ok(changes.every((event, n) => event !== changes[n - 1]), `a line for each change, not for each try: ${changes}`);
    });

    test('without it nodes tell each other news by PostgreSQL', async () => {
        const sent = () => metric(one, 'weir_bus_packets_sent_total', 'transport="postgres",outcome="sent"');
        const heard = () => metric(two, 'weir_bus_packets_heard_total', 'transport="postgres"');
        await redis.halt();
        await until('the bus has noticed', async () => (await metric(one, 'weir_bus_up')) === 0 && (await metric(two, 'weir_bus_up')) === 0);
        const before = [(await sent()) ?? 0, (await heard()) ?? 0];
        const { id } = await workflow(first);
        await first.patch(`/api/v1/workflows/${id}`, { is_active: false }, { expect: 200 });
        await until('it went out and came in', async () => (await sent()) > before[0] && (await heard()) > before[1]);
        const gaps = await metric(two, 'weir_bus_gaps_total', 'transport="redis"');
        await redis.run();
        await until('they hear again, and look for themselves', async () => (await metric(two, 'weir_bus_up')) === 1 && (await metric(two, 'weir_bus_gaps_total', 'transport="redis"')) > gaps);
        await Promise.all([one, two].map(ok));
    });

    test('health tells since when and why, stays 200, and the node stays ready', async () => {
        await redis.halt();
        await until('health says so', async () => (await redisOf(one)).status === 'degraded');
        const { status, dependencies } = await health(one);
        assert.equal(status, 'degraded');
        assert.match(dependencies.redis.error, /refused|closed/);
        assert.match(dependencies.redis.since, /^\d{4}-/);
        await one.anonymous().get('/readyz', { expect: 200 });
        assert.equal(await metric(one, 'weir_redis_up'), 0);
        await redis.run();
        await Promise.all([one, two].map(ok));
    });

    test('stands still: at first a request waits a moment, then none does, and no answer is wrong', async () => {
        const { slowest } = await underLoad(async () => {
            redis.pause();
            await until('both notice', async () => (await redisOf(one)).status === 'degraded' && (await redisOf(two)).status === 'degraded');
        });
        assert.ok(slowest < 2000, `${slowest} ms`);
        const late = await metric(one, 'weir_redis_late_total');
        const { id } = await workflow(first);
        for (let n = 0; n < 50; n++) await first.get(`/api/v1/workflows/${id}`, { expect: 200 });
        assert.ok((await metric(one, 'weir_redis_late_total')) <= late + 4, 'no request waits for it any more');
        redis.resume();
        await Promise.all([one, two].map(ok));
    });

    test('is used again when there is no doubt left', async () => {
        await warmOn([one, two], (await workflow(first)).id);
    });
});

describe('a Redis that one node alone has lost', { skip: DB !== 'postgres' }, () => {
    let redis, way, one, two, first, second;
    before(async () => {
        redis = await Redis.start();
        way = await Way.to(redis);
        [one, two] = await startTwo({ REDIS_URL: way.url }, { REDIS_URL: redis.url });
        [first, second] = [await one.as('editor'), await two.as('editor')];
        await Promise.all([one, two].map(ok));
    });
    after(() => stopAll(two, one, way, redis));

    test('the others hear of its changes by the database, and leave alone what they had kept', async () => {
        const { id } = await workflow(first);
        const path = `/api/v1/workflows/${id}`;
        await warmOn([one, two], id);
        way.cut();
        await until('the first node notices', async () => (await redisOf(one)).status === 'degraded');
        assert.equal((await redisOf(two)).status, 'ok');
        await first.patch(path, { name: 'Changed by who has no Redis' }, { expect: 200 });
        await until('the second node shows it', async () => (await second.get(path, { expect: 200 })).body.name.startsWith('Changed'), { within_ms: 5000 });
        for (let n = 0; n < 20; n++) assert.match((await second.get(path, { expect: 200 })).body.name, /^Changed/);
        way.mend();
        await ok(one);
        for (let n = 0; n < 20; n++) assert.match((await second.get(path, { expect: 200 })).body.name, /^Changed/);
    });
});

describe('a Redis that cannot be used', { skip: DB !== 'postgres' }, () => {
    test('weir doctor says whether it answers, and why not', async () => {
        const redis = await Redis.start({ requirepass: 'right' });
        const weir = await Weir.start({ users: false, serve: false });
        const line = (url) => runWeir(['doctor'], { ...weir.env, REDIS_URL: url }, { cwd: weir.folder }).stdout.split('\n').find((row) => / redis /.test(row));
        try {
            assert.match(line(''), /^ok .*not set/);
            assert.match(line(redis.url), /^ok .*127\.0\.0\.1:\d+ answers/);
            const wrong = line(redis.url.replace('right', 'wrongest'));
            assert.match(wrong, /^warn .*(WRONGPASS|invalid)/);
            assert.doesNotMatch(wrong, /wrongest/);
            assert.match(line('redis://127.0.0.1:1'), /^warn .*refused/);
            redis.pause();
            assert.match(line(redis.url), /^warn .*does not answer/);
        } finally {
            await weir.stop();
            await redis.stop();
        }
    });

    test('a wrong password shows in health and the log, without the password; the server works', async () => {
        const redis = await Redis.start({ requirepass: 'right' });
        const weir = await Weir.start({ env: { REDIS_URL: redis.url.replace('right', 'wrongest') } });
        try {
            await until('health says so', async () => /WRONGPASS|invalid/.test((await redisOf(weir)).error ?? ''));
            const lost = weir.log().filter(({ event }) => event === 'redis.lost');
            assert.equal(lost.length, 1);
            assert.match(lost[0].cause, /WRONGPASS|invalid/);
            assert.doesNotMatch(weir.stderr, /wrongest/);
            const editor = await weir.as('editor');
            const { id } = await workflow(editor);
            await editor.get(`/api/v1/workflows/${id}`, { expect: 200 });
        } finally {
            await weir.stop();
            await redis.stop();
        }
    });

    test('one that takes no writes is not used, and changes are seen all the same', async () => {
        const master = await Redis.start();
        const replica = await Redis.start({ replicaof: `127.0.0.1 ${master.port}` });
        const weir = await Weir.start({ env: { REDIS_URL: replica.url } });
        try {
            const editor = await weir.as('editor');
            const { id } = await workflow(editor);
            for (let n = 0; n < 5; n++) {
                await editor.patch(`/api/v1/workflows/${id}`, { name: `N ${n}` }, { expect: 200 });
                assert.equal((await editor.get(`/api/v1/workflows/${id}`, { expect: 200 })).body.name, `N ${n}`);
            }
        } finally {
            await weir.stop();
            await replica.stop();
            await master.stop();
        }
    });
});
