// http_echo.mjs - an upstream for http steps: counts calls by path, answers as its script says, can hold an answer back until told.

import { createServer } from 'node:http';
import { elapse, until } from './wait.mjs';

export class Upstream {
    /** `script(path, n)`: {status, headers, body, delay_ms, hold} for the n-th call (from 1) of a path; left out: 200 and an echo. */
    static async start(script = () => ({})) {
        const upstream = new Upstream(script);
        await new Promise((done, fail) => upstream.server.once('error', fail).listen(0, '127.0.0.1', done));
        upstream.port = upstream.server.address().port;
        upstream.host = `127.0.0.1:${upstream.port}`;
        upstream.base = `http://${upstream.host}`;
        return upstream;
    }

    constructor(script) {
        this.script = script;
        this.calls = [];
        this.held = [];
        this.server = createServer((request, response) => this.#answer(request, response));
    }

    count(path) {
        return this.calls.filter((call) => call.path === path).length;
    }

    /** Waits for the n-th call of a path. */
    async called(path, n = 1, within_ms = 10_000) {
        await until(`call ${n} of ${path}`, () => this.count(path) >= n, { within_ms });
        return this.calls.filter((call) => call.path === path)[n - 1];
    }

    /** Lets every held answer go; or those of one path. */
    release(path = null) {
        const goes = (one) => path === null || one.path === path;
        const going = this.held.filter(goes);
        this.held = this.held.filter((one) => !goes(one));
        for (const one of going) one.go();
    }

    async #answer(request, response) {
        const chunks = [];
        for await (const chunk of request.on('error', () => {})) chunks.push(chunk);
        const path = request.url.split('?')[0];
        const text = Buffer.concat(chunks).toString();
        const call = { method: request.method, path, url: request.url, headers: request.headers, text, at: Date.now() };
        this.calls.push(call);
        const { status = 200, headers = {}, body, delay_ms = 0, hold = false } = this.script(path, this.count(path)) ?? {};
        if (hold) await new Promise((go) => this.held.push({ path, go }));
        if (delay_ms > 0) await elapse(delay_ms);
        const echo = { method: call.method, path, url: call.url, text, headers: call.headers };
        response.on('error', () => {});
        response.writeHead(status, { 'content-type': 'application/json', ...headers });
        response.end(typeof body === 'string' ? body : JSON.stringify(body ?? echo));
    }

    async stop() {
        this.release();
        this.server.closeAllConnections();
        await new Promise((done) => this.server.close(done));
    }
}
