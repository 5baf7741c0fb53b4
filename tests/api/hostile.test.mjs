// Those who try: storms of logins, strangers who would lock somebody out, clocks and answers that would tell who has an account, and two at once where there is room for one.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { elsewhere, postFrom } from '../lib/elsewhere.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir;
before(async () => (weir = await Weir.start()));
after(() => weir?.stop());

/** A login from that address: {status, headers, body, took_ms}. */
const login = (email, password, from) => postFrom(from, weir.base, '/api/v1/auth/token', { email, password });

test('a stranger elsewhere, who fails as often as they like, does not lock the owner out', async () => {
    for (let n = 0; n < 3; n++) {
        const stranger = elsewhere();
        const statuses = [];
        for (let i = 0; i < 6; i++) statuses.push((await login('owner@acme.test', `wrong ${i} wrong`, stranger)).status);
        assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429]);
    }
    assert.equal((await login('owner@acme.test', PASSWORD, elsewhere())).status, 200);
});

// Samples are taken in turn, so that whatever else the machine does meets all kinds alike, and only their order counts.
describe('the time of an answer does not tell whether there is such an account, nor does its text', () => {
    let mine;
    // 2^7 rounds of bcrypt are a third of what Argon2id takes here: enough to be seen at once if they were spent for imported accounts only.
    before(async () => {
        mine = await Weir.start({ serve: false });
        mine.sql("UPDATE users SET password_hash = '$2b$07$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW' WHERE email = 'member@acme.test'");
        mine.sql("UPDATE memberships SET status = 'disabled' WHERE user_id = (SELECT id FROM users WHERE email = 'viewer@acme.test')");
        mine.sql("UPDATE users SET status = 'disabled' WHERE email = 'admin@acme.test'");
        mine.sql("UPDATE tenants SET status = 'suspended' WHERE slug = 'globex'");
        await mine.serve();
    });
    after(() => mine?.stop());

    /** Mann-Whitney: how often one kind is slower than the other, in standard deviations of chance. */
    function deviations(a, b) {
        const wins = a.reduce((sum, x) => sum + b.filter((y) => x > y).length, 0);
        return (wins - (a.length * b.length) / 2) / Math.sqrt((a.length * b.length * (a.length + b.length + 1)) / 12);
    }
    async function sample(kinds, rounds, ask) {
        const times = new Map(Object.keys(kinds).map((kind) => [kind, []]));
        const texts = new Set();
        for (let n = 0; n < rounds; n++)
            for (const [kind, make] of Object.entries(kinds)) {
                const { status, body, took_ms } = await ask(...make(n));
                texts.add(JSON.stringify({ status, ...body, request_id: '' }));
                times.get(kind).push(took_ms);
            }
        assert.equal(texts.size, 1, [...texts].join('\n'));
        const [[first, a], ...others] = times;
        for (const [kind, b] of others) assert.ok(Math.abs(deviations(a, b)) < 4, `${first} and ${kind} differ by ${deviations(a, b).toFixed(1)} standard deviations`);
    }

    test('signing in: unknown, known, imported, disabled here or everywhere, of a suspended tenant', () =>
        sample({
            unknown: (n) => [`nobody-${n}@acme.test`, 'not the right one'],
            known: () => ['editor@acme.test', 'not the right one'],
            imported: () => ['member@acme.test', 'not the right one'],
            'a disabled member': () => ['viewer@acme.test', PASSWORD],
            'a disabled user': () => ['admin@acme.test', PASSWORD],
            'a suspended tenant': () => ['owner@globex.test', PASSWORD],
        }, 40, (email, password) => postFrom(elsewhere(), mine.base, '/api/v1/auth/token', { email, password })));

    test('asking for a new password', () =>
        sample({ unknown: (n) => [`nobody-${n}@acme.test`], known: () => ['editor@acme.test'] }, 25, async (email) => {
            const answer = await postFrom(elsewhere(), mine.base, '/api/v1/auth/password/forgot', { email });
            await until('the letter is on its way', () => Number(mine.sql("SELECT count(*) FROM jobs WHERE kind IN ('auth.forgot', 'mail.send')")) === 0);
            return answer;
        }));
});

test('a link in a letter leads here, whatever host the one who asked for it named', async () => {
    const before = Number(weir.sql('SELECT count(*) FROM password_resets'));
    for (const headers of [{ host: 'evil.test' }, { host: `127.0.0.1:${weir.port}`, 'x-forwarded-host': 'evil.test', 'x-forwarded-proto': 'https', forwarded: 'host=evil.test;proto=https', origin: 'https://evil.test' }])
        await postFrom(elsewhere(), weir.base, '/api/v1/auth/password/forgot', { email: 'admin@acme.test' }, headers);
    await until('both asked', () => Number(weir.sql('SELECT count(*) FROM password_resets')) === before + 2);
    for (const { source, text, html, link } of await weir.mail('admin@acme.test', 2)) {
        assert.equal(new URL(link).host, `127.0.0.1:${weir.port}`);
        assert.doesNotMatch(source + text + html, /evil/);
    }
});

test('500 logins at once from 500 addresses: some are answered, the others 503 at once; memory stays flat and nobody else waits', async () => {
    const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${weir.child.pid}/status`, 'utf8'))[1]) / 1024;
    await login('viewer@acme.test', PASSWORD, elsewhere());
    const before = rss();
    let most = before, storming = true, slowest = 0, asked = 0;
    const reader = await weir.as('member'); // not the one who storms: too many sessions end a person's oldest
    const others = (async () => {
        while (storming) {
            const began = performance.now();
            await reader.get('/api/v1/workflows?limit=1', { expect: 200 });
            slowest = Math.max(slowest, performance.now() - began);
            most = Math.max(most, rss());
            asked++;
        }
    })();
    const answers = await Promise.all(Array.from({ length: 500 }, () => login('viewer@acme.test', PASSWORD, elsewhere())));
    storming = false;
    await others;
    const count = (status) => answers.filter((answer) => answer.status === status).length;
    assert.equal(count(200) + count(503), 500, [...new Set(answers.map(({ status }) => status))].join());
    assert.ok(count(200) >= 60 && count(503) >= 100, `${count(200)} answered, ${count(503)} refused`);
    assert.ok(answers.filter(({ status }) => status === 503).every(({ headers }) => Number(headers['retry-after']) > 0));
    assert.ok(most - before < 160, `${before.toFixed(0)} MiB before, ${most.toFixed(0)} at the most`);
    assert.ok(asked > 3 && slowest < 5000, `${asked} reads, the slowest ${slowest.toFixed(0)} ms`);
    await until('logins are answered again', async () => (await login('viewer@acme.test', PASSWORD, elsewhere())).status === 200);
});


test('an imported bcrypt hash lets its owner in, once: then it is Argon2id', async () => {
    const imported = await Weir.start({ serve: false });
    try {
        const sql = (text) => imported.sql(text);
        sql("UPDATE users SET password_hash = '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW' WHERE email = 'member@acme.test'");
        await imported.serve();
        const token = (password) => imported.anonymous().post('/api/v1/auth/token', { email: 'member@acme.test', password });
        assert.equal((await token('U*V')).status, 401);
        assert.equal((await token('U*U')).status, 200);
        assert.match(sql("SELECT password_hash FROM users WHERE email = 'member@acme.test'"), /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
        assert.equal((await token('U*U')).status, 200);
        assert.equal((await token('U*V')).status, 401);
    } finally {
        await imported.stop();
    }
});

describe('two at once where there is room for one', () => {
    test('setup', async () => {
        const fresh = await Weir.start({ users: false });
        try {
            const [, token] = await until('the setup link', () => /\/setup\?token=([\w-]{20,})/.exec(fresh.stdout + fresh.stderr));
            const answers = await Promise.all(['one', 'two', 'three'].map((name) => fresh.anonymous().post('/api/v1/setup', { token, email: `${name}@example.test`, password: PASSWORD, tenant_slug: name })));
            assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 409, 409]);
        } finally {
            await fresh.stop();
        }
    });

    test('an invitation', async () => {
        const owner = await weir.as('owner');
        await owner.post('/api/v1/users/invite', { email: 'once@example.test', role: 'viewer' }, { expect: 201 });
        const [{ token }] = await weir.mail('once@example.test');
        const accept = () => weir.anonymous().post('/api/v1/auth/invite/accept', { token, password: PASSWORD });
        const statuses = (await Promise.all([accept(), accept(), accept()])).map(({ status }) => status);
        assert.equal(statuses.filter((status) => status === 200).length, 1, statuses.join());
        assert.ok(statuses.every((status) => [200, 404, 503].includes(status)), statuses.join());
    });

    test('setup takes neither a role nor a tenant\'s settings along', async () => {
        const { status, body } = await weir.anonymous().post('/api/v1/setup', { token: 'x', email: 'a@example.test', password: PASSWORD, role: 'operator', plan: 'enterprise' });
        assert.equal(status, 422);
        assert.deepEqual(body.errors.map(({ pointer }) => pointer).sort(), ['/plan', '/role']);
    });
});
