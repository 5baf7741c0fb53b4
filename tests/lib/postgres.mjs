// postgres.mjs - a PostgreSQL of one's own for a run of the tests: temporary folder, free port, started as a user who is not root, fsync on as in service.
// One server per run; each Weir under test gets a database of its own, copied from a template that was migrated once.

import { spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from './wait.mjs';

export const TEMPLATE = 'weir_template';
const ADMIN = 'admin';
const PASSWORD = 'tests-only';
const SETTINGS = { max_connections: 300, shared_buffers: '64MB', listen_addresses: '127.0.0.1', log_min_messages: 'fatal', max_wal_size: '256MB' };

/** The folder of initdb and postgres, if any: Debian keeps one for each major version, and none of them on PATH. */
function binaries() {
    const root = '/usr/lib/postgresql';
    const versions = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
    return versions.map((version) => join(root, version, 'bin')).find((bin) => existsSync(join(bin, 'initdb')));
}

/** PostgreSQL refuses to run as root; Debian's package makes this user. */
function whoRuns() {
    if (process.getuid() !== 0) return {};
    const row = readFileSync('/etc/passwd', 'utf8').split('\n').find((line) => line.startsWith('postgres:'));
    if (!row) throw new Error('root may not run PostgreSQL, and there is no user postgres');
    const [uid, gid] = row.split(':').slice(2, 4).map(Number);
    return { uid, gid };
}

async function freePort() {
    const probe = createServer();
    await new Promise((done, fail) => probe.once('error', fail).listen(0, '127.0.0.1', done));
    const { port } = probe.address();
    await new Promise((done) => probe.close(done));
    return port;
}

const alive = new Set();
process.on('exit', () => {
    for (const postgres of alive) postgres.child.kill('SIGQUIT');
});

export class Postgres {
    /** The one that run.mjs started, by its URL; or null. */
    static there() {
        const url = process.env.TEST_POSTGRES_URL;
        return url ? new Postgres(url) : null;
    }

    /** Whether there is one to start. */
    static installed() {
        return binaries() !== undefined;
    }

    /** `parent`: where its folder is made; the user who runs it must be able to reach that. */
    static async start({ parent = tmpdir(), settings = {} } = {}) {
        const folder = mkdtempSync(join(parent, 'weir-postgres-'));
        const owner = whoRuns();
        const bin = binaries();
        if (!bin) throw new Error('there is no PostgreSQL: tools/deps.sh test installs it');
        const secret = join(folder, 'secret');
        writeFileSync(secret, PASSWORD);
        for (const path of owner.uid === undefined ? [] : [folder, secret]) chownSync(path, owner.uid, owner.gid);
        const data = join(folder, 'data');
        const made = spawnSync(join(bin, 'initdb'), ['-D', data, '-U', ADMIN, '-A', 'scram-sha-256', `--pwfile=${secret}`, '--no-sync', '--locale=C.UTF-8', '-E', 'UTF8'],
            { ...owner, cwd: folder, encoding: 'utf8', env: { PATH: process.env.PATH } });
        if (made.status !== 0) throw new Error(`initdb: ${made.stderr ?? made.error}`);
        const postgres = new Postgres('');
        Object.assign(postgres, { folder, owner, bin, data, port: await freePort(), settings: { ...SETTINGS, ...settings } });
        postgres.url = `postgresql://${ADMIN}:${PASSWORD}@127.0.0.1:${postgres.port}/postgres`;
        await postgres.run();
        return postgres;
    }

    constructor(url) {
        this.url = url;
    }

    /** Starts the server on its folder and port; again after halt(). */
    async run() {
        const settings = Object.entries({ ...this.settings, port: this.port, unix_socket_directories: this.folder }).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
        this.child = spawn(join(this.bin, 'postgres'), ['-D', this.data, ...settings], { ...this.owner, cwd: this.folder, stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env.PATH } });
        alive.add(this);
        this.log = '';
        this.child.stderr.setEncoding('utf8').on('data', (text) => (this.log += text));
        this.exited = new Promise((done) => this.child.once('close', done));
        await until('PostgreSQL answers', () => {
            if (this.child.exitCode !== null) throw new Error(`PostgreSQL ended:\n${this.log}`);
            return this.try('SELECT 1').status === 0;
        }, { within_ms: 30_000 });
    }

    /** Ends it at once, as a crash does; what was committed is on disk. */
    async halt() {
        this.child?.kill('SIGQUIT');
        await this.exited;
    }

    /** Stands still, connections and all, until resume(). */
    pause() {
        this.#signal('SIGSTOP');
    }

    resume() {
        this.#signal('SIGCONT');
    }

    /* The server itself first, so that no child comes to it; one that has ended meanwhile is none. */
    #signal(name) {
        const { pid } = this.child;
        process.kill(pid, name);
        const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
        for (const one of children.map(Number))
            try {
                process.kill(one, name);
            } catch (e) {
                if (e.code !== 'ESRCH') throw e;
            }
    }

    async stop() {
        await this.halt();
        alive.delete(this);
        rmSync(this.folder, { recursive: true, force: true });
    }

    try(sql, url = this.url) {
        return spawnSync('psql', ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-c', sql, url], { encoding: 'utf8', env: { PATH: process.env.PATH } });
    }

    /** Runs SQL; rows as lines. */
    sql(sql, url = this.url) {
        const { status, stdout, stderr } = this.try(sql, url);
        if (status !== 0) throw new Error(`${sql}: ${stderr}`);
        return stdout.trimEnd();
    }

    /** Runs SQL and keeps the session, with its transaction, until release(). */
    async hold(sql, url = this.url) {
        const child = spawn('psql', ['-X', '-q', '-A', '-t', url], { stdio: ['pipe', 'pipe', 'ignore'], env: { PATH: process.env.PATH } });
        const ended = new Promise((done) => child.once('close', done));
        let said = '';
        child.stdout.setEncoding('utf8').on('data', (text) => (said += text));
        child.stdin.write(`${sql};\nSELECT 'held';\n`);
        await until('the session has what it wants', () => said.includes('held'));
        return { release: () => (child.stdin.end(), ended) };
    }

    /** The URL of a database for a login. */
    of(database, user = 'weir', password = PASSWORD) {
        const url = new URL(this.url);
        Object.assign(url, { username: user, password, pathname: `/${database}` });
        return url.href;
    }

    /** The login that serves, and a database of its own for it; a copy of `template` when one is named. */
    login(user, rights = '') {
        this.sql(`CREATE ROLE ${user} LOGIN PASSWORD '${PASSWORD}' ${rights}`);
    }

    create(database, { owner = 'weir', template } = {}) {
        this.sql(`CREATE DATABASE ${database} OWNER ${owner}${template ? ` TEMPLATE ${template}` : ''}`);
        return this.of(database, owner);
    }

    /** The URL of a database for the one who may see everything. */
    admin(database) {
        return this.of(database, ADMIN);
    }

    /** Copies a database that nobody uses; what it returns puts the copy in its place. */
    keep(database) {
        const copy = `${database}_copy`;
        this.create(copy, { template: database });
        return () => {
            this.drop(database);
            this.sql(`ALTER DATABASE ${copy} RENAME TO ${database}`);
        };
    }

    /** The login that serves and the template of its databases, migrated by `weir migrate up`. */
    prepare(binary, data) {
        this.login('weir', 'CREATEROLE');
        const url = this.create(TEMPLATE);
        const done = spawnSync(binary, ['migrate', 'up'], { encoding: 'utf8', env: { PATH: process.env.PATH, WEIR_DATA: data, DATABASE_URL: url } });
        if (done.status !== 0) throw new Error(`weir migrate up: ${done.stderr}`);
    }

    drop(database) {
        this.sql(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
    }
}
