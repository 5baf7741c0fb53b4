// client.mjs - HTTP as an API client does it, with a referee: every answer is held against /openapi.json (status and content type
// documented, body valid) and against the habits of the API (problem shape, headers). A test that gets an answer gets a checked one.

import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { Contract } from './contract.mjs';
import { bounded } from './wait.mjs';

const contracts = new Map();
async function contractOf(base) {
    if (!contracts.has(base)) contracts.set(base, Contract.load(base));
    return contracts.get(base);
}

/** Remembers that an operation was reached; tests/run.mjs asks afterwards which never was. */
function recordHit(method, template) {
    const folder = process.env.WEIR_TEST_HITS;
    if (folder) appendFileSync(join(folder, `${process.pid}`), `${method} ${template}\n`);
}

export class Client {
    constructor(base, headers = {}) {
        this.base = base;
        this.headers = headers;
    }

    /** A copy that sends further headers; undefined takes one away. */
    with(headers) {
        const merged = { ...this.headers, ...headers };
        return new Client(this.base, Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== undefined)));
    }

    /** The same caller at another server. */
    at(base) {
        return new Client(base, this.headers);
    }

    bearer(token) {
        return this.with({ authorization: `Bearer ${token}` });
    }

    async login(email, password) {
        const { body } = await this.post('/api/v1/auth/token', { email, password }, { expect: 200 });
        const client = this.bearer(body.access_token);
        client.tokens = body;
        return client;
    }

    get = (path, options) => this.send('GET', path, undefined, options);
    head = (path, options) => this.send('HEAD', path, undefined, options);
    del = (path, options) => this.send('DELETE', path, undefined, options);
    post = (path, body, options) => this.send('POST', path, body, options);
    put = (path, body, options) => this.send('PUT', path, body, options);
    patch = (path, body, options) => this.send('PATCH', path, body, options);

    /**
     * {status, headers, body, text}. `body`: a value is sent as JSON; a string or bytes as they are, with `type`.
     * `expect`: the status that the test counts on, or a list. `raw`: no referee (for answers that a workflow writes itself).
     */
    async send(method, path, body, { headers = {}, type, expect, raw = false, within_ms = 60_000, redirect = 'manual' } = {}) {
        const sent = { ...this.headers, ...headers };
        let payload = body;
        if (body !== undefined && typeof body !== 'string' && !ArrayBuffer.isView(body)) {
            payload = JSON.stringify(body);
            type ??= 'application/json';
        }
        if (payload !== undefined && type !== null) sent['content-type'] ??= type ?? 'application/json';
        const answer = await bounded(`${method} ${path}`, within_ms, this.#fetch(method, path, { headers: sent, body: payload, redirect }));
        const contract = await contractOf(this.base);
        const template = contract.templateOf(method, path);
        if (template) recordHit(method === 'HEAD' ? 'GET' : method, template);
        const where = `${method} ${path} → ${answer.status} ${answer.text.slice(0, 2000)}`;
        if (expect !== undefined) assert.ok([expect].flat().includes(answer.status), `${where}\nexpected ${expect}`);
        if (!raw) contract.check(method, template, answer, where);
        return answer;
    }

    async #fetch(method, path, init) {
        const response = await fetch(this.base + path, { method, ...init });
        const text = await response.text();
        const type = response.headers.get('content-type') ?? '';
        let body;
        if (/^application\/(problem\+)?json\b/.test(type) && text !== '') body = JSON.parse(text);
        return { status: response.status, headers: response.headers, type, text, body };
    }
}

/** The one entry of a problem's `errors` at `pointer`; fails with all of them when there is none. */
export function errorAt(answer, pointer) {
    const found = answer.body.errors?.find((entry) => entry.pointer === pointer);
    assert.ok(found, `no error at ${pointer}: ${JSON.stringify(answer.body)}`);
    return found;
}
