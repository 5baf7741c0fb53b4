// What happens to requests when PostgreSQL goes, comes back, is slow, or refuses a transaction because of another one. On a server of its own, since it is stopped.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { chain, createTrigger, createWorkflow, execute, getExecution, transform } from '../lib/flows.mjs';
import { Postgres } from '../lib/postgres.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { bounded, until } from '../lib/wait.mjs';

let postgres, weir, editor;
before(async () => {
    postgres = await Postgres.start();
    postgres.login('weir', 'CREATEROLE');
    weir = new Weir({ DATABASE_URL: postgres.create('served'), WEIR_DB_STATEMENT_SECONDS: '2', WEIR_DB_POOL_SIZE: '4', WEIR_DB_POOL_OVERFLOW: '1', WEIR_DB_POOL_WAIT_SECONDS: '1' });
    weir.addTenant('acme');
    await weir.serve();
    editor = await weir.as('editor');
});
after(() => stopAll(weir, postgres));

const root = () => postgres.of('served', 'admin');
const pure = { steps: [transform('t', { n: '{{ input.n }}' })] };
/** Ends the connections of all nodes; `wait_ms`: and waits until they have ended. */
const cut = (wait_ms = 0) => postgres.sql(`SELECT count(pg_terminate_backend(pid, ${wait_ms})) FROM pg_stat_activity WHERE usename = 'weir'`);
const list = () => editor.get('/api/v1/workflows');
const works = () => until('requests are served again', async () => (await list()).status === 200 && (await editor.post('/api/v1/workflows', { name: 'again', definition: pure })).status === 201, { within_ms: 10_000, every_ms: 50 });

describe('connections that are cut', () => {
    test('reads go on, on other connections', async () => {
        await list();
        for (let i = 0; i < 5; i++) {
            cut();
            await editor.get('/api/v1/workflows', { expect: 200 });
        }
    });

    test('what was answered with 2xx is there; everything else says so', async () => {
        const { id } = await createWorkflow(editor, pure);
        const { webhook_url } = await createTrigger(editor, id, { rate_limit: null });
        const anyone = weir.anonymous();
        let cutting = true;
        const cutter = (async () => {
            while (cutting) {
                cut();
                await new Promise((next) => setImmediate(next));
            }
        })();
        const answers = await Promise.all(Array.from({ length: 200 }, async (_, n) => ({ n, ...(await anyone.post(webhook_url, { n }, { expect: [200, 202, 503] })) })));
        cutting = false;
        await cutter;
        await works();
        for (const { n, status, body } of answers) {
            if (status === 503) assert.ok(['server.unavailable', 'server.overloaded'].includes(body.code), body.code);
            else assert.deepEqual((await getExecution(editor, body.execution_id)).input_data, { n });
        }
    });
});

describe('a server that is gone', () => {
    test('is a 503 with a code of its own, at once; what needs no database answers; it is found again without a restart', async () => {
        await works();
        await postgres.halt();
        const began = performance.now();
        for (let i = 0; i < 5; i++) {
            const read = await editor.get('/api/v1/workflows', { expect: 503 });
            assert.equal(read.body.code, 'server.unavailable');
            assert.ok(read.headers.get('retry-after'));
            const write = await editor.post('/api/v1/workflows', { name: 'gone', definition: pure }, { expect: 503 });
            assert.equal(write.body.code, 'server.unavailable');
        }
        assert.ok(performance.now() - began < 5000, 'nobody waits for a time-out');
        await weir.anonymous().get('/livez', { expect: 200 });
        await weir.anonymous().get('/readyz', { expect: 503, raw: true });
        await bounded('/metrics answers', 3000, weir.anonymous().get('/metrics', { expect: 200 }));
        await postgres.run();
        await works();
        await weir.anonymous().get('/readyz', { expect: 200 });
    });

    test('executions that were under way end', async () => {
        const { id } = await createWorkflow(editor, chain({ id: 'd', type: 'delay', with: { ms: 300 } }, transform('t', { done: true })));
        const { body } = await editor.post(`/api/v1/workflows/${id}/execute`, { input_data: {} }, { headers: { prefer: 'respond-async' }, expect: 202 });
        await until('it waits', async () => (await getExecution(editor, body.execution_id)).status === 'waiting');
        await postgres.halt();
        await postgres.run();
        await until('it has ended', async () => {
            const { status, body: execution } = await editor.get(`/api/v1/executions/${body.execution_id}`);
            return status === 200 && execution.status === 'completed';
        });
    });
});

describe('a server that stands still', () => {
    const timed = async (what) => {
        const began = performance.now();
        const { status, body } = await what;
        return { status, code: body?.code, ms: performance.now() - began };
    };

    test('what needs no database answers, the rest is a 503 within the time of a statement and the grace of the network', async () => {
        await works();
        const anyone = weir.anonymous();
        let asked, live = [];
        try {
            postgres.pause();
            asked = Promise.all(Array.from({ length: 30 }, (_, n) => timed(n % 3 === 0 ? editor.post('/api/v1/workflows', { name: 'still', definition: pure }, { expect: 503 }) : editor.get('/api/v1/workflows', { expect: 503 }))));
            const until_ms = performance.now() + 5000;
            while (performance.now() < until_ms) live.push(await timed(anyone.get('/livez', { expect: 200 })));
            const late = await timed(editor.get('/api/v1/workflows', { expect: 503 }));
            assert.ok(late.ms < 1500, `refused at the door, not after ${late.ms} ms`);
            await anyone.get('/readyz', { expect: 503, raw: true });
            await bounded('all are answered', 10_000, asked);
        } finally {
            postgres.resume();
        }
        for (const { code } of await asked) assert.ok(['server.unavailable', 'server.overloaded'].includes(code), code);
        const slow = live.filter(({ ms }) => ms > 200);
        assert.ok(live.every(({ ms }) => ms < 3000), `a loop stands still for its budget at most: ${slow.map(({ ms }) => Math.round(ms))}`);
        const usual = live.map(({ ms }) => ms).sort((a, b) => a - b)[live.length >> 1];
        assert.ok(usual < 500, `and not for each request: ${slow.map(({ ms }) => Math.round(ms))} of ${live.length}`);
        await works();
        await anyone.get('/readyz', { expect: 200 });
    });

    test('afterwards every loop reads, also those that could not connect meanwhile', async () => {
        const { webhook_url } = await createTrigger(editor, (await createWorkflow(editor, pure)).id);
        const unknown = () => webhook_url.replace(/.{8}$/, () => randomBytes(4).toString('hex')); /* so that it is looked for, on the loop */
        const ask = (n, expect) => Promise.all(Array.from({ length: n }, () => weir.anonymous().post(unknown(), {}, { expect })));
        cut(5000);
        try {
            postgres.pause();
            const until_ms = performance.now() + 6000; /* as long as anybody gives itself for connecting, and more */
            while (performance.now() < until_ms) await ask(8, 503);
        } finally {
            postgres.resume();
        }
        await works();
        await until('all are found again', async () => (await ask(30, [404, 503])).every(({ status }) => status === 404), { within_ms: 6000 });
    });
});

describe('a database that is slow', () => {
    const locked = async (table, check) => {
        const holder = await postgres.hold(`BEGIN; LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`, root());
        try {
            await check();
        } finally {
            await holder.release();
        }
    };

    test('a statement is stopped after WEIR_DB_STATEMENT_SECONDS: 503', () =>
        locked('workflows', async () => {
            const began = performance.now();
            const { body } = await editor.get('/api/v1/workflows', { expect: 503 });
            assert.equal(body.code, 'server.overloaded');
            assert.ok(performance.now() - began < 5000);
        }));

    test('when every connection is taken the rest is refused after WEIR_DB_POOL_WAIT_SECONDS: 503', () =>
        locked('workflows', async () => {
            const answers = await Promise.all(Array.from({ length: 20 }, () => editor.get('/api/v1/workflows', { expect: 503 })));
            assert.ok(answers.every(({ body }) => body.code === 'server.overloaded'));
            await weir.anonymous().get('/livez', { expect: 200 });
        }));

    test('afterwards all is well', works);
});

describe('transactions that meet', () => {
    test('of many changes with the same If-Match one wins, the others see that it did', async () => {
        const { id } = await createWorkflow(editor, pure);
        const { headers } = await editor.get(`/api/v1/workflows/${id}`, { expect: 200 });
        const change = (n) => editor.put(`/api/v1/workflows/${id}`, { name: `n${n}`, definition: pure }, { headers: { 'if-match': headers.get('etag') }, expect: [200, 412] });
        const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => change(n)));
        assert.equal(answers.filter(({ status }) => status === 200).length, 1);
    });

    test('of many starts with one Idempotency-Key one happens', async () => {
        const { id } = await createWorkflow(editor, pure);
        const headers = { 'idempotency-key': `once-${id}` };
        const answers = await Promise.all(Array.from({ length: 12 }, () => editor.post(`/api/v1/workflows/${id}/execute`, { input_data: { n: 1 } }, { headers, expect: 200 })));
        assert.equal(new Set(answers.map(({ body }) => body.execution_id)).size, 1);
    });

    test('of 60 at once as many succeed as there may be, and none is told to try again', async () => {
        const { id } = await createWorkflow(editor, pure);
        const add = (n) => editor.post(`/api/v1/webhooks/${id}/triggers`, { name: `t${n}` }, { expect: [201, 422] });
        const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => (n % 2 ? add(n) : execute(editor, id, { n }).then(() => add(n)))));
        assert.equal(answers.filter(({ status }) => status === 201).length, 50, 'the ceiling of triggers');
    });
});

describe('texts from strangers', () => {
    test('a User-Agent that is not UTF-8, and one with escapes, are no fault of ours', async () => {
        for (const agent of ['caf\xe9', "x'; DROP TABLE users; --", '\\000', '%00$1'])
            await weir.anonymous().with({ 'user-agent': agent }).post('/api/v1/auth/token', { email: 'editor@acme.test', password: 'Kestrel-7-marble-lantern' }, { expect: 200 });
    });
    test('NUL in JSON is stored and comes back', async () => {
        const { id } = await createWorkflow(editor, pure);
        assert.deepEqual((await execute(editor, id, { n: 'a\u0000b' })).output_data, { t: { n: 'a\u0000b' } });
        await editor.get('/api/v1/workflows?name=%00', { expect: [200, 400, 422] });
    });
});
