// browser.mjs - what a browser does with cookies: keeps them, sends them by path, and says where a request comes from.

import assert from 'node:assert/strict';

export class Browser {
    constructor(weir, { origin = weir.base } = {}) {
        this.client = weir.anonymous();
        this.origin = origin;
        this.jar = new Map();
        this.csrf = undefined;
    }

    /** `from`: the origin of the page; null sends neither Origin nor Sec-Fetch-Site. `csrf`: null leaves the token out. */
    async send(method, path, body, { from = this.origin, csrf = this.csrf, headers = {}, expect } = {}) {
        const sent = { ...headers };
        const cookies = [...this.jar].filter(([, { at }]) => path.startsWith(at)).map(([name, { value }]) => `${name}=${value}`);
        if (cookies.length > 0) sent.cookie = cookies.join('; ');
        if (from !== null && method !== 'GET') {
            sent.origin = from;
            sent['sec-fetch-site'] ??= from === this.origin ? 'same-origin' : 'cross-site';
        }
        if (csrf && method !== 'GET') sent['x-csrf-token'] = csrf;
        const answer = await this.client.send(method, path, body, { headers: sent, expect });
        for (const line of answer.headers.getSetCookie()) this.#keep(line);
        if (answer.body?.csrf_token) this.csrf = answer.body.csrf_token;
        return answer;
    }

    #keep(line) {
        const [pair, ...attributes] = line.split('; ');
        const [name, value] = [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)];
        for (const needed of ['Secure', 'HttpOnly']) assert.ok(attributes.includes(needed), line);
        const at = attributes.find((one) => one.startsWith('Path=')).slice(5);
        if (name.startsWith('__Host-')) assert.equal(at, '/', line);
        if (attributes.includes('Max-Age=0')) this.jar.delete(name);
        else this.jar.set(name, { value, at, attributes });
    }

    get = (path, options) => this.send('GET', path, undefined, options);
    post = (path, body, options) => this.send('POST', path, body, options);
    patch = (path, body, options) => this.send('PATCH', path, body, options);

    login(email, password, more = {}) {
        return this.post('/api/v1/auth/login', { email, password, ...more });
    }
}
