// Backups: taken beside a server under load, restored elsewhere, served from there. And what `weir verify` finds, on copies that were hurt on purpose.

import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { chain, createWorkflow, execute, getExecution, runDefinition, transform } from '../lib/flows.mjs';
import { BINARY, DB, PASSWORD, Weir, runWeir } from '../lib/server.mjs';

const SQLITE = DB === 'sqlite';
let weir, editor, workflow, first;
/** {status, stdout, stderr} of a verb on the served folder and database. */
const verb = (args, env = {}) => runWeir(args, { ...weir.env, ...env }, { cwd: weir.folder });
const done = ({ status, stdout, stderr }) => (assert.equal(status, 0, stdout + stderr), stdout);
const entries = (file) => spawnSync('tar', ['--zstd', '-tf', file], { encoding: 'utf8' }).stdout.trim().split('\n');
const manifest = (file) => JSON.parse(spawnSync('tar', ['--zstd', '-xOf', file, 'manifest.json'], { encoding: 'utf8' }).stdout);
const run = () => execute(editor, workflow.id, { n: 1 });

/** A Weir beside, without a server, on an empty place: no database file, or a database without tables. */
async function elsewhere() {
    const other = await Weir.start({ users: false, serve: false });
    if (!SQLITE) {
        other.postgres.drop(other.database);
        other.postgres.create(other.database);
    }
    return other;
}
const at = (other, args) => runWeir(args, other.env, { cwd: other.folder });

/** The archive made anew from the files of another, some changed or left out: what a damaged one looks like. */
function forge(file, to, change) {
    const folder = join(weir.folder, 'forge');
    mkdirSync(folder);
    spawnSync('tar', ['--zstd', '-xf', file, '-C', folder]);
    const names = change(folder, entries(file)) ?? entries(file);
    spawnSync('tar', ['--zstd', '-cf', to, '-C', folder, ...names]);
    rmSync(folder, { recursive: true });
    return to;
}

before(async () => {
    weir = await Weir.start();
    editor = await weir.as('editor');
    workflow = await createWorkflow(editor, chain(transform('a', { n: '{{ input.n }}' }), transform('b', { m: '{{ steps.a.output.n }}' })));
    first = await run();
});
after(() => weir?.stop());

test('the drill: a backup under load, restored elsewhere, served from there', async (t) => {
    let loading = true, made = 0;
    const load = Promise.all(Array.from({ length: 4 }, async () => {
        while (loading) await run().then(() => made++);
    }));
    const file = join(weir.folder, 'drill.tar.zst');
    const before = made;
    await promisify(execFile)(BINARY, ['backup', '--with-keys', file], { env: { PATH: process.env.PATH, ...weir.env }, cwd: weir.folder });
    const meanwhile = made - before;
    loading = false;
    await load;
    assert.ok(meanwhile > 0, 'executions went on');
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.deepEqual(entries(file), ['manifest.json', SQLITE ? 'weir.db' : 'database.dump', 'secret.key']);

    const other = await elsewhere();
    t.after(() => other.stop());
    const said = done(at(other, ['restore', file]));
    const { rows, schema } = manifest(file);
    t.diagnostic?.(`${meanwhile} executions meanwhile, ${rows.executions} in the backup, ${made + 1} in the end; ${said.split('\n')[0]}`);
    assert.ok(rows.executions >= before + 1 && rows.executions <= made + 1);
    assert.match(done(at(other, ['verify'])), new RegExp(`^good: .*schema ${schema}, \\d+ promises hold; [1-9]\\d* audit rows in \\d+ chains$`, 'm'));
    assert.equal(Number(other.sql('SELECT count(*) FROM executions')), rows.executions);

    await other.serve();
    const client = await other.as('editor');
    assert.deepEqual(await getExecution(client, first.execution_id), await getExecution(editor, first.execution_id), 'its history, to the byte');
    assert.equal((await execute(client, workflow.id, { n: 2 })).status, 'completed');
    assert.equal((await other.anonymous().bearer(editor.tokens.access_token).get('/api/v1/auth/me')).status, 200, 'the keys came along');
    if (!SQLITE) assert.equal(other.sql(`SELECT count(*) FROM pg_policies WHERE policyname = 'tenant'`), weir.sql(`SELECT count(*) FROM pg_policies WHERE policyname = 'tenant'`));
});

describe('weir backup', () => {
    test('into a folder: a name with the kind and the time; nothing else is left there', () => {
        const folder = join(weir.folder, 'backups');
        mkdirSync(folder);
        const said = done(verb(['backup', folder]));
        const [name, ...rest] = readdirSync(folder);
        assert.match(name, SQLITE ? /^weir-sqlite-\d{8}T\d{6}Z\.tar\.zst$/ : /^weir-postgresql-\d{8}T\d{6}Z\.tar\.zst$/);
        assert.deepEqual(rest, []);
        assert.ok(said.includes(name) && /without SECRET_KEY or secret\.key/.test(said), said);
        const { weir_backup, kind, version, created_at, key, files } = manifest(join(folder, name));
        assert.deepEqual([weir_backup, kind, files.length], [1, SQLITE ? 'sqlite' : 'postgresql', 1]);
        assert.match(version, /^\d+\.\d+/);
        assert.ok(Math.abs(Date.parse(created_at) - Date.now()) < 60_000);
        assert.match(key, /^[0-9a-f]{16}$/);
        assert.match(files[0].sha256, /^[0-9a-f]{64}$/);
    });

    test('keeps what is there, but with --force', () => {
        const file = join(weir.folder, 'kept');
        writeFileSync(file, 'mine');
        const { status, stderr } = verb(['backup', file]);
        assert.deepEqual([status, readFileSync(file, 'utf8')], [1, 'mine']);
        assert.match(stderr, /--force/);
        done(verb(['backup', '--force', file]));
        assert.equal(manifest(file).weir_backup, 1);
    });

    test('says what it lacks, and leaves nothing behind', () => {
        const before = readdirSync(weir.folder).sort();
        assert.equal(verb(['backup', join(weir.folder, 'no/such/folder')]).status, 1);
        assert.equal(verb(['backup', join(weir.folder, 'none')], { WEIR_DATA: join(weir.folder, 'nothing'), DATABASE_URL: SQLITE ? '' : 'postgresql://nobody:x@127.0.0.1:1/none' }).status, 1);
        if (!SQLITE) assert.match(verb(['backup', join(weir.folder, 'none')], { WEIR_PG_BIN: '/nonexistent' }).stderr, /WEIR_PG_BIN/);
        assert.deepEqual(readdirSync(weir.folder).sort(), before);
    });

    test('shows no password to those who list processes', { skip: SQLITE }, async () => {
        const spy = join(weir.folder, 'bin');
        mkdirSync(spy);
        const program = join(spy, 'pg_dump');
        writeFileSync(program, `#!/bin/sh\necho "$@" >${spy}/arguments\nenv >${spy}/environment\nexec pg_dump "$@"\n`, { mode: 0o755 });
        done(verb(['backup', join(weir.folder, 'spied')], { WEIR_PG_BIN: spy }));
        const password = new URL(weir.env.DATABASE_URL).password;
        assert.ok(!readFileSync(join(spy, 'arguments'), 'utf8').includes(password));
        const environment = readFileSync(join(spy, 'environment'), 'utf8');
        assert.match(environment, new RegExp(`^PGPASSWORD=${password}$`, 'm'));
        assert.doesNotMatch(environment, /^DATABASE_URL=/m);
    });
});

describe('weir restore', () => {
    let file, other;
    before(async () => {
        file = join(weir.folder, 'restored.tar.zst');
        done(verb(['backup', file]));
        other = await elsewhere();
    });
    after(() => other?.stop());

    test('not under a server', () => {
        const { status, stderr } = verb(['restore', file, '--force']);
        assert.equal(status, 1, stderr);
        assert.match(stderr, /stop/);
        assert.equal(Number(weir.sql("SELECT count(*) FROM users WHERE email = 'owner@acme.test'")), 1);
    });

    test('into what is empty; over what is not only with --force', () => {
        const { stderr } = at(other, ['restore', file]);
        assert.match(stderr, /secret\.key is not here/, 'said, since what is sealed cannot be opened without');
        assert.equal(Number(other.sql('SELECT count(*) FROM users')), manifest(file).rows.users);
        other.sql("UPDATE tenants SET name = 'changed'");
        const again = at(other, ['restore', file]);
        assert.deepEqual([again.status, /--force/.test(again.stderr)], [1, true], again.stderr);
        assert.equal(Number(other.sql("SELECT count(*) FROM tenants WHERE name = 'changed'")), 2);
        done(at(other, ['restore', file, '--force']));
        assert.equal(Number(other.sql("SELECT count(*) FROM tenants WHERE name = 'changed'")), 0);
        if (SQLITE) assert.ok(existsSync(join(other.data, 'weir.db.replaced')));
        else assert.equal(other.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'weir_%'"), '0', 'nothing of the old one is left');
        const next = join(other.folder, 'next');
        done(at(other, ['backup', next]));
        assert.deepEqual(manifest(next).rows, manifest(file).rows, 'a backup of the restored one is the same');
    });

    test('what the log of a database holds that was taken away by hand is not written over the restored one', { skip: !SQLITE }, async () => {
        const gone = await Weir.start({ users: false });
        await gone.anonymous().post('/api/v1/auth/token', { email: 'stale@acme.test', password: PASSWORD }, { expect: 401 });
        await gone.kill(); // as it leaves its log behind
        assert.ok(statSync(join(gone.data, 'weir.db-wal')).size > 0);
        for (const name of ['weir.db', 'weir.db-shm']) rmSync(join(gone.data, name), { force: true });
        done(at(gone, ['restore', file, '--force']));
        assert.deepEqual(readdirSync(gone.data).filter((name) => /^weir\.db./.test(name)), []);
        for (const table of ['login_failures', 'users']) assert.equal(Number(gone.sql(`SELECT count(*) FROM ${table}`)), manifest(file).rows[table], table);
        gone.discard();
    });

    test('not under another SECRET_KEY, but with --force', async () => {
        const third = await elsewhere();
        const env = { ...third.env, SECRET_KEY: 'Zq8-another-one-4fK1pLw92Xc7vB-and-more' };
        const refused = runWeir(['restore', file], env, { cwd: third.folder });
        assert.deepEqual([refused.status, /SECRET_KEY/.test(refused.stderr)], [1, true]);
        assert.equal(runWeir(['restore', file, '--force'], env, { cwd: third.folder }).status, 0);
        await third.stop();
    });

    const damaged = {
        'a byte of the database': [(folder, names) => {
            const path = join(folder, names[1]);
            const bytes = readFileSync(path);
            bytes[bytes.length >> 1] ^= 1;
            writeFileSync(path, bytes);
        }, /checksum/],
        'more than the manifest says': [(folder, names) => writeFileSync(join(folder, names[1]), Buffer.alloc(1 << 24)), /another size/],
        'more than the disk has room for, as the manifest says, too': [(folder) => {
            const path = join(folder, 'manifest.json');
            writeFileSync(path, readFileSync(path, 'utf8').replace(/"bytes":\d+/, '"bytes":9000000000000000000'));
        }, /no room/],
        'a link in place of the database': [(folder, names) => {
            rmSync(join(folder, names[1]));
            symlinkSync('/etc/passwd', join(folder, names[1]));
        }, /does not name/],
        'no database': [(_, names) => names.slice(0, 1), /missing/],
        'no manifest': [(_, names) => names.slice(1), /manifest\.json/],
        'a manifest of something else': [(folder) => writeFileSync(join(folder, 'manifest.json'), '{}'), /form/],
        'a path that leads out': [(folder, names) => {
            const path = join(folder, 'manifest.json');
            writeFileSync(path, readFileSync(path, 'utf8').replace(`"${names[1]}"`, '"../../evil"'));
        }, /not whole/],
        'a newer schema': [(folder) => {
            const path = join(folder, 'manifest.json');
            writeFileSync(path, readFileSync(path, 'utf8').replace(/"schema":\d+/, '"schema":9999'));
        }, /newer/],
        'another kind of database': [(folder) => {
            const path = join(folder, 'manifest.json');
            writeFileSync(path, readFileSync(path, 'utf8').replace(/"kind":"\w+"/, '"kind":"oracle"'));
        }, /oracle/],
    };
    for (const [what, [change, pattern]] of Object.entries(damaged))
        test(`${what}: refused before anything is touched`, () => {
            const bad = forge(file, join(weir.folder, 'bad.tar.zst'), change);
            const before = other.sql('SELECT count(*) FROM users');
            const { status, stderr } = at(other, ['restore', bad, '--force']);
            assert.equal(status, 1, stderr);
            assert.match(stderr, pattern);
            assert.equal(other.sql('SELECT count(*) FROM users'), before);
            assert.deepEqual(readdirSync(other.data).filter((name) => name.startsWith('restore')), []);
        });

    test('what is no archive, and what is not there', () => {
        const text = join(weir.folder, 'text');
        writeFileSync(text, 'no archive\n'.repeat(1000));
        for (const name of [text, join(weir.folder, 'nowhere')]) assert.equal(at(other, ['restore', name]).status, 1);
    });
});

describe('weir restore --check', () => {
    test('restores beside, verifies there, prints the counts, touches nothing', () => {
        const file = join(weir.folder, 'checked.tar.zst');
        done(verb(['backup', file]));
        if (!SQLITE) {
            assert.match(done(verb(['restore', file, '--check'])), /^not proven: .*CREATEDB/m);
            weir.postgres.sql('ALTER ROLE weir CREATEDB');
        }
        const said = done(verb(['restore', file, '--check']));
        for (const [table, n] of Object.entries(manifest(file).rows)) assert.match(said, new RegExp(`^${table} +${n}$`, 'm'));
        assert.match(said, /^good: .* audit rows in \d+ chains$/m);
        if (SQLITE) return;
        weir.postgres.sql('ALTER ROLE weir NOCREATEDB');
        assert.equal(weir.postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'weir_check_%'"), '0');
    });

    test('counts that are not those of the manifest are broken', { skip: !SQLITE }, () => {
        const file = join(weir.folder, 'counted.tar.zst');
        done(verb(['backup', file]));
        const bad = forge(file, join(weir.folder, 'miscounted.tar.zst'), (folder) => {
            const path = join(folder, 'manifest.json');
            writeFileSync(path, readFileSync(path, 'utf8').replace(/"users":\d+/, '"users":1'));
        });
        const { status, stderr } = verb(['restore', bad, '--check']);
        assert.equal(status, 1);
        assert.match(stderr, /users: \d+ rows, and the manifest says 1/);
    });
});

describe('weir verify', () => {
    test('beside the server: good, also with an execution that failed and has no output', async () => {
        const { status, output_data } = await runDefinition(editor, chain({ id: 'no', type: 'fail', with: { message: 'no' } }));
        assert.deepEqual([status, output_data ?? null], ['failed', null]);
        assert.match(done(verb(['verify'])), /^good: /);
    });

    test('names what is broken, by 1', async () => {
        const file = join(weir.folder, 'hurt.tar.zst');
        done(verb(['backup', '--with-keys', file]));
        const hurt = await elsewhere();
        done(at(hurt, ['restore', file]));
        const off = SQLITE ? 'PRAGMA foreign_keys = OFF;' : 'SET session_replication_role = replica;';
        const injuries = [
            [`${off} DELETE FROM memberships; DELETE FROM roles; DELETE FROM users WHERE email = 'editor@acme.test'`, /references/],
            ["UPDATE executions SET due_at = 1", /nobody holds/],
            ["UPDATE executions SET completed_at = NULL", /has an end/],
            ["UPDATE executions SET output_data = '{'", /executions\.output_data is JSON/],
            ["INSERT INTO execution_journal (tenant_id, execution_id, step_id, status, attempt) SELECT tenant_id, id, 'x', 'running', 1 FROM executions", /has no journal/],
            ["UPDATE schema_migrations SET checksum = 'x' WHERE number = 3", /another text/],
            ["UPDATE audit_logs SET action = 'nothing' WHERE seq = 1", /audit log: /],
        ];
        for (const [sql, pattern] of injuries) {
            hurt.sql(sql);
            const { status, stderr } = at(hurt, ['verify']);
            assert.equal(status, 1, stderr);
            assert.match(stderr, pattern);
        }
        await hurt.stop();
    });

    test('an older schema is looked at as far as it goes', async () => {
        const old = await elsewhere();
        old.tool('migrate', 'up');
        old.tool('migrate', 'down', '--to', '21');
        const file = join(old.folder, 'old.tar.zst');
        done(at(old, ['backup', '--with-keys', file]));
        const next = await elsewhere();
        done(at(next, ['restore', file]));
        assert.match(done(at(next, ['verify'])), /schema 21, promises not asked/);
        done(at(next, ['migrate', 'up']));
        assert.match(done(at(next, ['verify'])), /promises hold/);
        await old.stop();
        await next.stop();
    });

    test('2 when it cannot be read', () => {
        const none = { WEIR_DATA: join(weir.folder, 'nothing'), DATABASE_URL: SQLITE ? '' : 'postgresql://nobody:x@127.0.0.1:1/none' };
        assert.equal(verb(['verify'], none).status, 2);
    });
});
