// Several nodes on one PostgreSQL: they see each other, what is taken away on one is gone on all within a second, and a job runs on one of them.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { chain, createWorkflow, transform } from '../lib/flows.mjs';
import { PASSWORD, Weir, runWeir, stopAll } from '../lib/server.mjs';
import { bounded, until } from '../lib/wait.mjs';

const SECOND = 1000;
const skip = process.env.WEIR_TEST_DB !== 'postgres' && 'SQLite has one node';

/** Signed in anew, so that no other test shares the session; on the node `at`. */
const session = (at, email = 'editor@acme.test') => at.anonymous().login(email, PASSWORD);
const on = (weir, client) => weir.anonymous().bearer(client.tokens.access_token);
const me = (client) => client.get('/api/v1/auth/me', { expect: [200, 401] });

/** Cuts every listener, again and again, until it is released. One that has heard nothing for a while has said SELECT 1 since, as idle ones of the pool have: they are made anew. */
function cutListeners(weir) {
    const cut = (query) => `PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = '${query}'`;
    const sql = `DO $$ BEGIN ${cut('SELECT 1')}; LOOP PERFORM pg_stat_clear_snapshot(); ${cut('LISTEN weir')}; PERFORM pg_sleep(0.01); END LOOP; END $$`;
    const child = spawn('psql', ['-X', '-q', '-c', sql, weir.postgres.admin(weir.database)], { stdio: 'ignore', env: { PATH: process.env.PATH } });
    const ended = new Promise((done) => child.once('close', done));
    return { release: () => (child.kill('SIGINT'), ended) };
}

const metric = async (weir, name) =>
    (await (await fetch(`${weir.base}/metrics`)).text())
        .split('\n')
        .filter((line) => line.startsWith(name))
        .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);

describe('nodes', { skip }, () => {
    let one, two, worker;
    before(async () => {
        one = await Weir.start({ env: { WEIR_NODE_ID: 'one', WEIR_LEASE_SECONDS: '3' } });
        two = await one.node({ WEIR_NODE_ID: 'two', WEIR_ROLE: 'api' });
    });
    after(() => stopAll(worker, two, one));
    const seen = async (weir) => (await (await weir.as('admin')).get('/api/v1/health', { expect: 200 })).body.nodes.map(({ id }) => id);

    test('each sees all of them, itself first, with what they do', async () => {
        for (const [weir, ids] of [[one, ['one', 'two']], [two, ['two', 'one']]]) {
            await until(`${ids[0]} sees the other`, async () => (await seen(weir)).length === 2);
            const { body } = await (await weir.as('admin')).get('/api/v1/health', { expect: 200 });
            assert.deepEqual(body.nodes.map(({ id }) => id), ids);
            assert.equal(body.nodes.find(({ id }) => id === 'two').role, 'api');
            await until('it hears', async () => (await (await weir.as('admin')).get('/api/v1/health', { expect: 200 })).body.dependencies.bus.status === 'ok');
        }
        const { body: stranger } = await one.anonymous().get('/api/v1/health', { expect: 200 });
        assert.equal(stranger.nodes, undefined);
    });

    const revocations = {
        'a session that is revoked': async (client) => {
            await on(one, client).post('/api/v1/auth/logout', {}, { expect: [200, 204] });
            return 401;
        },
    };
    for (const how of ['the bus', 'no bus: every listener is cut'])
        for (const [what, revoke] of Object.entries(revocations))
            test(`${what} on one node is refused on the other within a second, with ${how}`, async () => {
                const client = await session(one);
                const there = on(two, client);
                const cut = how === 'the bus' ? null : cutListeners(one);
                if (cut) await until('it is deaf', async () => (await metric(two, 'weir_bus_up')) === 0);
                for (let i = 0; i < 20; i++) assert.equal((await me(there)).status, 200); // on every loop, so that each remembers it
                const status = await revoke(client);
                const refused = async () => (await Promise.all(Array.from({ length: 20 }, () => me(there)))).every((answer) => answer.status === status);
                await until('it is refused on every loop', refused, { within_ms: SECOND });
                assert.ok(await refused());
                await cut?.release();
                if (cut) await until('it hears again', async () => (await metric(two, 'weir_bus_up')) === 1);
            });

    test('a role that is changed on one node counts on the other within a second', async () => {
        const owner = await one.as('owner');
        const client = await session(two, 'member@acme.test');
        await client.get('/api/v1/users', { expect: 403 });
        const { body: users } = await owner.get('/api/v1/users', { expect: 200 });
        const { id } = users.find(({ email }) => email === 'member@acme.test');
        await owner.patch(`/api/v1/users/${id}`, { role: 'admin' }, { expect: 200 });
        await until('it is allowed', async () => (await client.get('/api/v1/users', { expect: [200, 401, 403] })).status !== 403, { within_ms: SECOND });
        await owner.patch(`/api/v1/users/${id}`, { role: 'member' }, { expect: 200 });
    });

    test('an API key that is deleted on one node opens nothing on the other within a second', async () => {
        const owner = await one.as('owner');
        const { body: key } = await owner.post('/api/v1/api-keys', { name: 'between nodes', scopes: ['workflows.read'] }, { expect: 201 });
        const list = () => two.anonymous().with({ 'x-api-key': key.key }).get('/api/v1/workflows', { expect: [200, 401] });
        assert.equal((await list()).status, 200);
        await owner.del(`/api/v1/api-keys/${key.id}`, { expect: 204 });
        await until('it is refused', async () => (await list()).status === 401, { within_ms: SECOND });
    });

    for (const how of ['the bus', 'no bus: every listener is cut'])
        test(`an execution on one node is watched on another: every event, once, in order, with ${how}`, async () => {
            const [here, there] = [await one.as('editor'), await two.as('editor')];
            const steps = ['a', 'b', 'c', 'd'].flatMap((id) => [transform(id), { id: `${id}_pause`, type: 'delay', with: { ms: 100 } }]);
            const { id: workflow } = await createWorkflow(here, chain(...steps));
            const cut = how === 'the bus' ? null : cutListeners(one);
            const watched = await Promise.all(Array.from({ length: 10 }, async () => {
                const { body } = await here.post(`/api/v1/workflows/${workflow}/execute?wait=0`, {}, { expect: 202 });
                const path = `/api/v1/executions/${body.execution_id}/events`;
                const live = await there.get(path, { raw: true, expect: 200, within_ms: 15 * SECOND });
                return { live: live.text, path };
            }));
            await cut?.release();
            for (const { live, path } of watched) {
                const { text: kept } = await here.get(path, { raw: true, expect: 200 });
                assert.equal(live.replaceAll(':\n\n', ''), kept);
                assert.equal(kept.match(/^event: step\.completed$/gm).length, steps.length);
            }
        });

    test('what an API node enqueues runs on a node that works', async () => {
        await two.anonymous().post('/api/v1/auth/password/forgot', { email: 'viewer@acme.test' }, { expect: 202 });
        await one.mail('viewer@acme.test');
    });

    test('a worker answers its keepers only', async () => {
        worker = await one.node({ WEIR_NODE_ID: 'three', WEIR_ROLE: 'worker' });
        for (const path of ['/livez', '/readyz', '/healthz', '/metrics', '/api/v1/health', '/api/v1/info']) assert.equal((await fetch(worker.base + path)).status, 200, path);
        for (const path of ['/api/v1/workflows', '/openapi.json', '/docs', '/nowhere']) {
            const answer = await fetch(worker.base + path);
            assert.equal(answer.status, 404, path);
            assert.match((await answer.json()).detail, /WEIR_ROLE/);
        }
        assert.equal((await fetch(`${worker.base}/api/v1/auth/token`, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } })).status, 404);
    });

    test('a periodic job runs on exactly one node each time it is due', async () => {
        const ran = async () => (await Promise.all([one, two, worker].map((weir) => metric(weir, 'weir_jobs_total{kind="idempotency.clean"')))).reduce((a, b) => a + b);
        const idle = () => one.sql("SELECT count(*) FROM jobs WHERE kind = 'idempotency.clean' AND status = 'queued' AND attempt = 0 AND due_at > extract(epoch FROM now()) * 1000000") === '1';
        await until('it has run', idle);
        const before = await ran();
        for (let i = 1; i <= 5; i++) {
            one.sql("UPDATE jobs SET due_at = 0 WHERE kind = 'idempotency.clean'");
            await until('it ran again', async () => (await ran()) >= before + i && idle());
            assert.equal(await ran(), before + i);
        }
        assert.equal(await metric(two, 'weir_jobs_total'), 0, 'an API node runs none');
    });

    test('a node that stops in order is gone at once, one that is killed when its lease is over', async () => {
        const here = async (...ids) => (await seen(one)).sort().join() === ids.sort().join();
        await until('all are there', () => here('one', 'two', 'three'));
        const { code } = await worker.terminate();
        assert.equal(code, 0);
        await until('the one that stopped is gone', () => here('one', 'two'), { within_ms: 2 * SECOND }); // the lease is 3
        await worker.serve();
        await until('it is back', () => here('one', 'two', 'three'));
        await worker.kill();
        await until('the one that was killed is gone', () => here('one', 'two'), { within_ms: 5 * SECOND });
        await worker.serve();
    });

    test('a second process with the same WEIR_NODE_ID ends the first', async () => {
        const twin = await one.node({ WEIR_NODE_ID: 'three', WEIR_ROLE: 'worker' });
        const { code } = await bounded('the first ends', 10 * SECOND, worker.exited);
        assert.equal(code, 1);
        assert.ok(worker.log().some(({ event }) => event === 'nodes.superseded'));
        worker.child = null;
        await twin.stop();
    });

    test('a node with another SECRET_KEY is refused, and told why', () => {
        const { status, stderr } = runWeir(['serve'], { ...two.env, SECRET_KEY: 'another-key-of-thirty-two-bytes-or-so', WEIR_NODE_ID: 'four', WEIR_LISTEN: '127.0.0.1:0' });
        assert.notEqual(status, 0);
        assert.match(stderr, /SECRET_KEY: is not the key that this database was sealed under/);
        assert.ok(!stderr.includes('another-key'));
    });

    test('a node with another JWT_SECRET_KEY is refused while others serve', () => {
        const { status, stderr } = runWeir(['serve'], { ...two.env, JWT_SECRET_KEY: 'another-key-of-thirty-two-bytes-or-so', WEIR_NODE_ID: 'four', WEIR_LISTEN: '127.0.0.1:0' });
        assert.equal(status, 1);
        assert.match(stderr, /JWT_SECRET_KEY is not the one of the nodes that serve/);
    });

    test('two nodes that start at once on a new database both serve', async () => {
        const first = await Weir.start({ users: false, serve: false, env: { WEIR_ADMIN_EMAIL: 'root@example.test', WEIR_ADMIN_PASSWORD: PASSWORD } });
        first.tool('migrate', 'status'); // makes its key
        const second = await first.node({}, { serve: false });
        try {
            await Promise.all([first.serve(), second.serve()]);
            for (const weir of [first, second]) await session(weir, 'root@example.test');
        } finally {
            await second.stop();
            await first.stop();
        }
    });
});

test('WEIR_NODE_ID and WEIR_ROLE are checked before anything is opened', () => {
    for (const [env, words] of [
        [{ WEIR_NODE_ID: 'a b' }, /WEIR_NODE_ID: a b has other characters/],
        [{ WEIR_NODE_ID: 'n'.repeat(65) }, /WEIR_NODE_ID: n+ has 65 bytes/],
        [{ WEIR_ROLE: 'idle' }, /WEIR_ROLE: idle is none of all api worker/],
        [{ WEIR_ROLE: 'api' }, /WEIR_ROLE: api needs DATABASE_URL/],
        [{ WEIR_LEASE_SECONDS: '2' }, /WEIR_LEASE_SECONDS: 2 is not a whole number from 3 to 300/],
        [{ WEIR_LEASE_SECONDS: '301' }, /WEIR_LEASE_SECONDS: 301/],
    ]) {
        const { status, stderr } = runWeir(['config'], env);
        assert.equal(status, 2, JSON.stringify(env));
        assert.match(stderr, words);
    }
    const { status, stderr } = runWeir(['serve', '--role', 'nobody']);
    assert.equal(status, 2);
    assert.match(stderr, /WEIR_ROLE: nobody is none of/);
});
