// redis.mjs - a Redis of one's own for a test file: temporary folder, free port, nothing written to disk unless asked. It can be stopped, started again, and held still.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from './wait.mjs';

async function freePort() {
    const probe = createServer();
    await new Promise((done, fail) => probe.once('error', fail).listen(0, '127.0.0.1', done));
    const { port } = probe.address();
    await new Promise((done) => probe.close(done));
    return port;
}

const alive = new Set();
process.on('exit', () => {
    for (const redis of alive) redis.child?.kill('SIGKILL');
});

export class Redis {
    /** `settings`: further ones of redis.conf, as {requirepass: 'x'}. */
    static async start(settings = {}) {
        const redis = new Redis();
        Object.assign(redis, { folder: mkdtempSync(join(process.env.WEIR_TEST_TMP ?? tmpdir(), 'weir-redis-')), settings });
        for (let tries = 5; ; tries--) {
            redis.port = await freePort();
            redis.url = `redis://${settings.requirepass ? `:${settings.requirepass}@` : ''}127.0.0.1:${redis.port}`;
            try {
                await redis.run();
                return redis;
            } catch (error) {
                if (tries === 1 || !/already in use/.test(error.message)) throw error; // somebody else was quicker
            }
        }
    }

    /** Starts the server on its folder and port; again after halt(). */
    async run() {
        const settings = Object.entries({ bind: '127.0.0.1', port: this.port, dir: this.folder, save: '', appendonly: 'no', loglevel: 'warning', ...this.settings });
        this.child = spawn('redis-server', settings.flatMap(([name, value]) => [`--${name}`, `${value}`]), { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH } });
        alive.add(this);
        let said = '';
        for (const stream of [this.child.stdout, this.child.stderr]) stream.setEncoding('utf8').on('data', (text) => (said += text));
        this.exited = new Promise((done) => this.child.once('close', done));
        await until('Redis answers', () => {
            if (this.child.exitCode !== null) throw new Error(`Redis ended:\n${said}`);
            return this.try('PING') === 'PONG';
        });
    }

    /** Ends it at once, as a crash does. */
    async halt() {
        this.child.kill('SIGKILL');
        await this.exited;
        alive.delete(this);
    }

    /** Holds it still: connections stay and are even taken, but nothing is answered. */
    pause() {
        this.child.kill('SIGSTOP');
    }

    resume() {
        this.child.kill('SIGCONT');
    }

    async stop() {
        this.resume();
        await this.halt();
        rmSync(this.folder, { recursive: true, force: true });
    }

    #cli(words) {
        const login = this.settings.requirepass ? ['--no-auth-warning', '-a', this.settings.requirepass] : [];
        return spawnSync('redis-cli', ['-p', `${this.port}`, ...login, ...words], { encoding: 'utf8', timeout: 10_000, env: { PATH: process.env.PATH } });
    }

    try(...words) {
        return this.#cli(words).stdout.trimEnd();
    }

    /** Runs a command; its answer as redis-cli prints it to a program: a line for each item. */
    ask(...words) {
        const { status, stdout, stderr } = this.#cli(words);
        if (status !== 0 || /^(ERR|NOAUTH|WRONGTYPE)\b/.test(stdout)) throw new Error(`${words.join(' ')}: ${stderr}${stdout}`);
        return stdout.trimEnd();
    }

    keys(pattern) {
        return this.ask('KEYS', pattern).split('\n').filter(Boolean).sort();
    }
}

/** A way to a Redis that can be cut, so that one node loses it while the others do not. */
export class Way {
    static async to(redis) {
        const way = new Way();
        way.sockets = new Set();
        way.server = createServer((near) => {
            const far = connect(redis.port, '127.0.0.1');
            for (const [socket, other] of [[near, far], [far, near]]) {
                way.sockets.add(socket);
                socket.on('error', () => {}).on('close', () => (way.sockets.delete(socket), other.destroy()));
            }
            if (way.closed) near.destroy();
            else near.pipe(far).pipe(near);
        });
        await new Promise((done) => way.server.listen(0, '127.0.0.1', done));
        way.url = `redis://127.0.0.1:${way.server.address().port}`;
        return way;
    }

    cut() {
        this.closed = true;
        for (const socket of this.sockets) socket.destroy();
    }

    mend() {
        this.closed = false;
    }

    async stop() {
        this.cut();
        await new Promise((done) => this.server.close(done));
    }
}
