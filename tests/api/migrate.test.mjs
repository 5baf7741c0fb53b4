// weir migrate: up, down, status and what it would do; what it refuses; and one process at a time.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { BINARY, DB, Weir, runWeir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const MIGRATE_LOCK = 7305790126; // src/db/postgres.h
let weir;
before(async () => {
    weir = await Weir.start({ users: false, serve: false });
    weir.tool('migrate', 'up');
});
after(() => weir?.stop());

const migrate = (...args) => runWeir(['migrate', ...args], weir.env, { cwd: weir.folder });
const status = () => migrate('status').stdout.trim().split('\n').map((line) => line.trim().split(/\s+/)).map(([number, , state]) => [Number(number), state]);
const newest = () => Math.max(0, ...status().filter(([, state]) => state === 'applied').map(([number]) => number));

test('down takes one back, --to N all that are newer, and up brings them again', () => {
    const all = newest();
    assert.equal(migrate('down').status, 0);
    assert.equal(newest(), all - 1);
    const dry = migrate('down', '--to', String(all - 4), '--dry-run').stdout;
    assert.deepEqual([...dry.matchAll(/^-- (\d{4}) \w+$/gm)].map(([, number]) => Number(number)), [all - 1, all - 2, all - 3]);
    assert.equal(newest(), all - 1, 'a dry run changes nothing');
    assert.equal(migrate('down', '--to', String(all - 4)).status, 0);
    assert.equal(newest(), all - 4);
    assert.equal([...migrate('up', '--dry-run').stdout.matchAll(/^-- \d{4} \w+$/gm)].length, 4);
    assert.equal(migrate('up').status, 0);
    assert.equal(newest(), all);
});

test('the whole way down and up again', () => {
    const all = newest();
    assert.equal(migrate('down', '--to=0').status, 0);
    assert.equal(newest(), 0);
    const { status: code, stderr } = migrate('down');
    assert.deepEqual([code, /no migration to take back/.test(stderr)], [1, true]);
    assert.equal(migrate('up').status, 0);
    assert.equal(newest(), all);
});

test('a dry run prints the SQL of this database', () => {
    migrate('down', '--to', '0');
    const sql = migrate('up', '--dry-run').stdout;
    assert.equal(/weir_guard/.test(sql), DB === 'postgres');
    assert.equal(/COLLATE "C"/.test(sql), DB === 'postgres');
    assert.equal(migrate('up').status, 0);
});

test('a changed text and a newer schema: 1, and nothing runs, not a server either', () => {
    const hurt = (sql, mend) => {
        weir.sql(sql);
        for (const args of [['migrate', 'up'], ['migrate', 'down'], ['serve']]) {
            const { status: code, stderr } = runWeir(args, { ...weir.env, WEIR_LISTEN: '127.0.0.1:0' }, { cwd: weir.folder });
            assert.deepEqual([code, /newer weir|was changed/.test(stderr)], [1, true], stderr);
        }
        assert.match(migrate('status').stdout, /changed since/);
        weir.sql(mend);
    };
    const sum = weir.sql('SELECT checksum FROM schema_migrations WHERE number = 2');
    hurt("UPDATE schema_migrations SET checksum = 'other' WHERE number = 2", `UPDATE schema_migrations SET checksum = '${sum}' WHERE number = 2`);
    hurt("INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (9999, 'of_tomorrow', 'x', 1)", 'DELETE FROM schema_migrations WHERE number = 9999');
    assert.equal(migrate('up').status, 0);
});

test('a wrong command line: 64', () => {
    for (const args of [['sideways'], ['up', '--to', '3'], ['down', '--to', 'yesterday'], ['down', '--to', '-1'], ['down', '--to']]) assert.equal(migrate(...args).status, 64, args.join(' '));
});

test('on PostgreSQL one process migrates at a time, and another waits', { skip: DB !== 'postgres' }, async () => {
    migrate('down', '--to', '0');
    const { release } = await weir.postgres.hold(`SELECT pg_advisory_lock(${MIGRATE_LOCK})`, weir.env.DATABASE_URL);
    const both = [1, 2].map(() => promisify(execFile)(BINARY, ['migrate', 'up'], { env: { PATH: process.env.PATH, ...weir.env }, cwd: weir.folder }));
    await until('both wait', () => weir.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'") === '2');
    await release();
    for (const { stdout } of await Promise.all(both)) assert.doesNotMatch(stdout, /missing/);
    assert.equal(Number(weir.sql('SELECT count(*) FROM schema_migrations')), newest());
});

test('on SQLite a server that runs keeps it out', { skip: DB === 'postgres' }, async () => {
    await weir.serve();
    const { status: code, stderr } = migrate('down');
    assert.deepEqual([code, /in use by another process/.test(stderr)], [1, true], stderr);
    await weir.terminate();
});
