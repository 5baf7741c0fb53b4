// server.mjs - a Weir of one's own for a test file: free port, temporary data folder, tenants and a user of every role made by the
// command line before it serves. With WEIR_TEST_DB=postgres it has a database of its own in the server of run.mjs. stop() insists on a clean exit: status 0 on SIGTERM, no sanitizer report, nothing left behind.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bounded, until } from './wait.mjs';
import { Client } from './client.mjs';
import { Postgres, TEMPLATE } from './postgres.mjs';

const ROOT = resolve(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '../..');
export const BINARY = resolve(process.env.WEIR_BINARY ?? join(ROOT, 'build-asan/weir'));
/** The store under test. */
export const DB = process.env.WEIR_TEST_DB ?? 'sqlite';
const [ASAN, TSAN] = ((program) => ['__asan_init', '__tsan_init'].map((name) => program.includes(name)))(readFileSync(BINARY));
export { TSAN };
/** A build without sanitizers, which is what is served in production: the tested one itself, else build/weir when it is not older than the code in question. */
export const RELEASE = (() => {
    if (!ASAN && !TSAN) return BINARY;
    const binary = join(ROOT, 'build/weir');
    const current = existsSync(binary) && statSync(binary).mtimeMs > statSync(join(ROOT, 'src/core/harden.c')).mtimeMs;
    return current ? binary : null;
})();
export const FULL = process.env.WEIR_TEST_FULL === '1';
export const ROLES = ['owner', 'admin', 'editor', 'member', 'viewer'];
export const PASSWORD = 'Kestrel-7-marble-lantern';

const SANITIZERS = {
    TSAN_OPTIONS: `suppressions=${join(ROOT, 'tests/tsan.supp')}`,
    ASAN_OPTIONS: 'detect_leaks=1:exitcode=99:abort_on_error=0',
    UBSAN_OPTIONS: 'halt_on_error=1:exitcode=99:print_stacktrace=1',
};
// Only what Weir needs: a developer's own WEIR_* or proxy settings must not reach the tests.
const environment = (extra) => ({ PATH: process.env.PATH, HOME: process.env.HOME ?? '/', TZ: 'UTC', WEIR_LOG: 'json', ...SANITIZERS, ...extra });

/** The tenants and users of Weir.start() as people.mjs has made them once for a run: a data folder, and on PostgreSQL a database to copy. */
export const PEOPLE = { folder: process.env.WEIR_TEST_PEOPLE, database: 'weir_people' };
const OF_ITS_OWN = /KEY|SECRET|ADMIN|^WEIR_DATA$|^DATABASE_URL$/; // settings that those must be made under

let databases = 0;
const alive = new Set();
process.on('exit', () => {
    for (const weir of alive) weir.discard();
});
process.once('SIGTERM', () => process.exit(143)); // of a file that has run too long: so that its exit is an ordinary one

/** Stops those of them that there are, in that order, each in any case; then says the first complaint. A process that is left keeps a test file, and with it the run, from ending. */
export async function stopAll(...all) {
    const complaints = [];
    for (const one of all) {
        try {
            await one?.stop();
        } catch (complaint) {
            complaints.push(complaint);
        }
    }
    if (complaints.length > 0) throw complaints[0];
}

export async function freePort() {
    const probe = createServer();
    await new Promise((done, fail) => probe.once('error', fail).listen(0, '127.0.0.1', done));
    const { port } = probe.address();
    await new Promise((done) => probe.close(done));
    return port;
}

/** Runs `weir …args` to its end; {status, stdout, stderr}. */
export function runWeir(args, env = {}, options = {}) {
    return spawnSync(BINARY, args, { env: environment(env), encoding: 'utf8', timeout: 30_000, ...options });
}

function parseMail(source) {
    const [head, ...rest] = source.split('\r\n\r\n');
    const header = (name) => new RegExp(`^${name}: ((?:.*)(?:\\r\\n .*)*)`, 'm').exec(head)?.[1];
    const subject = header('Subject').replace(/\?=\r\n =\?/g, '?==?').replace(/=\?utf-8\?B\?([^?]*)\?=/g, (_, word) => Buffer.from(word, 'base64').toString('latin1'));
    const body = (type) => {
        const part = source.split(/^--\S+\r\n/m).find((piece) => piece.startsWith(`Content-Type: ${type}`));
        return Buffer.from(part.split('\r\n\r\n')[1].split('--')[0], 'base64').toString();
    };
    assert.ok(rest.length > 0);
    const text = body('text/plain');
    const link = /https?:\/\/\S+/.exec(text)?.[0];
    return { source, to: header('To'), subject: Buffer.from(subject, 'latin1').toString(), text, html: body('text/html'), link, token: /token=([\w-]+)/.exec(link ?? '')?.[1] };
}

let table;
/** The rows of `weir routes`: {method, path, permission}. */
export function routes() {
    table ??= runWeir(['routes'])
        .stdout.split('\n')
        .map((line) => line.trim().split(/\s+/))
        .filter(([method, path]) => /^(GET|POST|PUT|PATCH|DELETE)$/.test(method) && path?.startsWith('/'))
        .map(([method, path, permission]) => ({ method, path, permission }));
    return table;
}

export class Weir {
    /**
     * A serving Weir. `users`: tenants "acme" and "globex" with a user `role@tenant.test` for every role.
     * `operator`: also tenant "platform" with operator@platform.test. `env`: further settings. `serve: false` prepares the folder only. `binary`: another build. `within`: a command that is to run the
     * server: it gets the server's as its arguments and ends with exec.
     */
    static async start({ env = {}, users = true, operator = false, serve = true, binary = BINARY, within = [] } = {}) {
        if (!existsSync(binary)) throw new Error(`there is no ${binary}: run \`make test\`, or set WEIR_BINARY`);
        const people = users && PEOPLE.folder !== undefined && !Object.keys(env).some((name) => OF_ITS_OWN.test(name));
        const weir = new Weir(env, binary, null, people);
        weir.within = within;
        alive.add(weir);
        if (users && !people) for (const tenant of ['acme', 'globex']) weir.addTenant(tenant);
        if (operator) weir.addTenant('platform', ['operator']);
        if (serve) await weir.#begin();
        return weir;
    }

    constructor(env, binary = BINARY, first = null, people = false) {
        this.binary = binary;
        this.within = [];
        this.first = first;
        if (first) this.#share(first, env);
        else this.#settle(env, people);
        this.clients = new Map();
        this.stderr = '';
        this.child = null;
    }

    #settle(env, people) {
        const parent = process.env.WEIR_TEST_TMP ?? tmpdir();
        mkdirSync(parent, { recursive: true });
        this.folder = mkdtempSync(join(parent, 'weir-test-'));
        this.data = join(this.folder, 'data');
        this.nodes = 1;
        if (people) cpSync(PEOPLE.folder, this.data, { recursive: true });
        this.env = { WEIR_DATA: this.data, ...this.#database(people ? PEOPLE.database : TEMPLATE), ...env };
    }

    #share(first, env) {
        Object.assign(this, { folder: first.folder, data: first.data, postgres: first.postgres, database: first.database });
        this.env = { ...first.env, WEIR_NODE_ID: `node-${++first.nodes}`, ...env };
    }

    /** A name, because whoever is killed and served again is to go on at once with what it had. */
    #database(template) {
        if (DB !== 'postgres') return {};
        this.postgres = Postgres.there();
        this.database = `weir_${process.pid}_${++databases}`;
        return { DATABASE_URL: this.postgres.create(this.database, { template }), WEIR_NODE_ID: 'node-1' };
    }

    /** One more node on the same PostgreSQL, with the same keys. To be stopped before this one. */
    async node(env = {}, { serve = true } = {}) {
        const node = new Weir(env, this.binary, this);
        alive.add(node);
        if (serve) await node.#begin();
        return node;
    }

    /** Nobody else could stop one that does not begin. */
    #begin() {
        return this.serve().catch((why) => {
            this.discard();
            throw why;
        });
    }

    /** `weir …args` on this data folder; throws unless it succeeds. */
    tool(...args) {
        const done = runWeir(args, this.env, { cwd: this.folder });
        if (done.status !== 0) throw new Error(`weir ${args.join(' ')} → ${done.status ?? done.signal}\n${done.stderr}`);
        return done.stdout;
    }

    addTenant(slug, roles = ROLES) {
        const passwordFile = join(this.folder, 'password');
        writeFileSync(passwordFile, `${PASSWORD}\n`, { mode: 0o600 });
        this.tool('tenant', 'add', slug);
        for (const role of roles)
            this.tool('user', 'add', `${role}@${slug}.test`, '--tenant', slug, '--role', role, '--password-file', passwordFile);
        rmSync(passwordFile);
    }

    /** Starts the process and waits until it is ready; again after kill() on the same folder and port. Returns how long that took, in ms. */
    async serve() {
        if (this.child) throw new Error('this Weir is serving already');
        this.port ??= await freePort();
        this.base = `${this.env.WEIR_TLS_CERT ? 'https' : 'http'}://127.0.0.1:${this.port}`;
        const began = performance.now();
        const [program, ...args] = [...this.within, this.binary, 'serve'];
        const child = spawn(program, args, {
            cwd: this.folder,
            env: environment({ WEIR_LISTEN: `127.0.0.1:${this.port}`, ...this.env }),
            stdio: ['ignore', 'pipe', 'pipe'],
        });
        this.child = child;
        this.stdout = '';
        child.stdout.setEncoding('utf8').on('data', (text) => (this.stdout += text));
        child.stderr.setEncoding('utf8').on('data', (text) => (this.stderr += text));
        this.exited = new Promise((done) => child.once('close', (code, signal) => done({ code, signal })));
        await until('Weir answers /readyz', () => this.#ready(), { within_ms: 30_000 });
        return performance.now() - began;
    }

    async #ready() {
        if (this.child.exitCode !== null || this.child.signalCode !== null)
            throw new Error(`Weir ended while starting (${this.child.exitCode ?? this.child.signalCode})\n${this.stderr}`);
        if (this.env.WEIR_TLS_CERT) return this.#readyByTls();
        const answer = await fetch(`${this.base}/readyz`).catch(() => null);
        await answer?.arrayBuffer();
        return answer?.ok;
    }

    #readyByTls() {
        return new Promise((done) =>
            request(`${this.base}/readyz`, { rejectUnauthorized: false, agent: false }, (answer) => done(answer.resume().statusCode === 200)).on('error', () => done(false)).end());
    }

    /** kill -9, as a power cut would. serve() continues on the same folder. */
    async kill() {
        this.child.kill('SIGKILL');
        await this.exited;
        this.child = null;
    }

    /** SIGTERM; returns {code, signal}. */
    async terminate() {
        this.child.kill('SIGTERM');
        const end = await bounded('Weir ends on SIGTERM', 35_000, this.exited);
        this.child = null;
        return end;
    }

    async stop() {
        try {
            if (this.child) {
                const { code, signal } = await this.terminate();
                if (code !== 0) throw new Error(`Weir ended with ${code ?? signal}, not 0:\n${this.stderr.slice(-8000)}`);
            }
            const report = /(ERROR|WARNING): \w*Sanitizer|runtime error:/.exec(this.stderr);
            if (report) throw new Error(`a sanitizer complained:\n${this.stderr.slice(report.index, report.index + 8000)}`);
            const refused = this.log().filter(({ event }) => event === 'harden.refused');
            if (refused.length > 0) throw new Error(`system calls that serving needs are not in the list of src/core/harden.c: ${JSON.stringify(refused)}`);
        } finally {
            this.discard();
        }
        if (!this.first && existsSync(this.folder)) throw new Error(`left behind: ${this.folder}`);
    }

    discard() {
        this.child?.kill('SIGKILL'); // also of one that stands still
        this.child = null;
        alive.delete(this);
        if (this.first) return;
        this.postgres?.drop(this.database);
        rmSync(this.folder, { recursive: true, force: true });
    }

    /** The letters so far to `to`, oldest first: {subject, text, html, link, token}. Waits for `count` of them. */
    async mail(to, count = 1) {
        const folder = join(this.data, 'mail');
        const read = () => (existsSync(folder) ? readdirSync(folder) : [])
            .filter((name) => name.endsWith('.eml'))
            .sort()
            .map((name) => parseMail(readFileSync(join(folder, name), 'latin1')))
            .filter((mail) => mail.to === `<${to}>`);
        return until(`${count} letters to ${to}`, () => (read().length >= count ? read() : null));
    }

    /** The log lines so far, as objects. */
    log() {
        return this.stderr
            .split('\n')
            .filter((line) => line.startsWith('{'))
            .map((line) => JSON.parse(line));
    }

    /** Runs SQL in the store, past Weir and past row-level security; rows as lines. Both databases must understand it. */
    sql(text) {
        if (this.postgres) return this.postgres.sql(text, this.postgres.admin(this.database));
        return execFileSync('sqlite3', ['-cmd', '.timeout 30000', join(this.data, 'weir.db'), text] /* Weir may be writing */, { encoding: 'utf8' }).trimEnd();
    }

    /** All that the store holds, as bytes: to look for what must not be in it. */
    stored() {
        if (this.postgres) return Buffer.from(this.sql("SELECT database_to_xml(true, false, '')"));
        return Buffer.concat(readdirSync(this.data).filter((name) => name.startsWith('weir.db')).map((name) => readFileSync(join(this.data, name))));
    }

    /** Keeps the store of a Weir that does not run as it is; what it returns brings it back. */
    keepStore() {
        if (this.postgres) return this.postgres.keep(this.database);
        const [file, copy] = [join(this.data, 'weir.db'), join(this.folder, 'copy.db')];
        this.sql(`VACUUM INTO '${copy}'`);
        return () => {
            for (const end of ['', '-wal', '-shm']) rmSync(file + end, { force: true });
            renameSync(copy, file);
        };
    }

    /** A client signed in as `role` of `tenant`; logged in once. */
    async as(role, tenant = 'acme') {
        const email = `${role}@${tenant}.test`;
        if (!this.clients.has(email)) this.clients.set(email, await this.anonymous().login(email, PASSWORD));
        return this.clients.get(email);
    }

    anonymous() {
        return new Client(this.base);
    }
}
