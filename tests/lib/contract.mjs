// contract.mjs - the published document as a judge: which route a path belongs to, and whether an answer is one that it promises.

import assert from 'node:assert/strict';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { routes, runWeir } from './server.mjs';

const METHODS = ['get', 'put', 'post', 'delete', 'patch'];

let listed;
/** Codes of `weir errors` by kind, and the words that they begin with: `fail` steps choose codes of their own, under words of their own. */
function codes() {
    if (!listed) {
        const rows = JSON.parse(runWeir(['errors', '--json']).stdout);
        const of = (...kinds) => new Set(rows.filter(({ kind }) => kinds.includes(kind)).map(({ code }) => code));
        listed = { own: of('problem', 'refusal'), entry: of('entry'), failure: of('failure'), words: new Set(rows.map(({ code }) => code.split('.')[0])) };
    }
    return listed;
}
const escapePointer = (text) => text.replaceAll('~', '~0').replaceAll('/', '~1');
const matcher = (template) =>
    new RegExp(`^${template.split(/\{[^}]+\}/).map((part) => part.replace(/[.*+?^$()|[\]\\]/g, '\\$&')).join('[^/]+')}/?$`);

export class Contract {
    static async load(base) {
        const response = await fetch(`${base}/openapi.json`);
        assert.equal(response.status, 200, '/openapi.json answers');
        return new Contract(await response.json());
    }

    constructor(document) {
        this.document = document;
        this.ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: true });
        addFormats(this.ajv);
        this.ajv.addSchema(document, 'openapi');
        this.validators = new Map();
        // Fixed paths before those with parameters: /workflows/validate is not a workflow's id.
        this.table = routes()
            .map((route) => ({ ...route, match: matcher(route.path), parameters: route.path.split('{').length - 1 }))
            .sort((a, b) => a.parameters - b.parameters);
    }

    templateOf(method, path) {
        const bare = path.split('?')[0];
        const wanted = method === 'HEAD' ? 'GET' : method;
        return this.table.find((route) => route.method === wanted && route.match.test(bare))?.path ?? null;
    }

    operations() {
        return Object.entries(this.document.paths).flatMap(([path, item]) =>
            METHODS.filter((method) => item[method]).map((method) => ({ method: method.toUpperCase(), path, operation: item[method] })));
    }

    check(method, template, answer, where) {
        this.#checkHeaders(answer, where);
        if (answer.status >= 400 && method !== 'HEAD') this.#checkProblem(answer, where);
        if (method === 'HEAD') assert.equal(answer.text, '', `${where}: HEAD has no body`);
        const operation = template && this.document.paths[template]?.[(method === 'HEAD' ? 'GET' : method).toLowerCase()];
        if (answer.status < 400) this.#checkFailures(answer.body, where);
        if (operation) this.#checkDocumented(method, template, operation, answer, where);
    }

    #checkHeaders({ status, headers }, where) {
        const has = (name) => assert.ok(headers.get(name), `${where}: ${name} is missing`);
        has('x-request-id');
        assert.equal(headers.get('x-content-type-options'), 'nosniff', where);
        if (status === 401) has('www-authenticate');
        if (status === 405) has('allow');
        if (status === 429 || status === 503) has('retry-after');
    }

    #checkProblem({ status, body, type }, where) {
        assert.match(type, /^application\/problem\+json/, where);
        assert.equal(body.status, status, where);
        assert.match(body.code, /^[a-z][a-z0-9_-]*(\.[a-z0-9_]+)?$/, where);
        assert.ok(codes().own.has(body.code), `${where}: weir errors does not list ${body.code}`);
        assert.equal(body.type, `/docs/errors#${body.code}`, where);
        for (const key of ['title', 'detail', 'request_id']) assert.equal(typeof body[key], 'string', `${where}: ${key}`);
        for (const entry of body.errors ?? []) {
            assert.match(entry.pointer, /^(\/.*|(query|header)\/.+|)$/, where);
            for (const key of ['code', 'detail']) assert.equal(typeof entry[key], 'string', `${where}: errors[].${key}`);
            assert.ok(codes().entry.has(entry.code), `${where}: weir errors does not list the entry ${entry.code}`);
        }
        assert.doesNotMatch(JSON.stringify(body), /\.c:\d+|sqlite|SELECT |\blua_|\b0x[0-9a-f]{6,}/i, `${where}: tells of our insides`);
    }

    /** `error` of executions, steps and attempts, wherever it stands; not inside what workflows wrote. */
    #checkFailures(node, where) {
        if (node === null || typeof node !== 'object') return;
        const code = node.error?.code;
        const ours = typeof code === 'string' && codes().words.has(code.split('.')[0]);
        if (ours) assert.ok(codes().failure.has(code), `${where}: weir errors does not list the failure ${code}`);
        for (const [key, value] of Object.entries(node)) if (!['input_data', 'output_data', 'input', 'output', 'definition', 'body'].includes(key)) this.#checkFailures(value, where);
    }

    #checkDocumented(method, template, operation, answer, where) {
        const response = operation.responses?.[answer.status];
        assert.ok(response, `${where}: status ${answer.status} is not documented (${Object.keys(operation.responses ?? {})})`);
        if (method === 'HEAD') return;
        const bare = answer.type.split(';')[0];
        const content = response.$ref ? this.#resolve(response.$ref).content : response.content;
        if (answer.text === '' && !content) return;
        const documented = Object.keys(content ?? {}).find((key) => key.split(';')[0] === bare);
        assert.ok(documented, `${where}: content type "${bare}" is not documented (${Object.keys(content ?? {})})`);
        if (!content[documented].schema || answer.body === undefined) return;
        const path = response.$ref
            ? `${response.$ref.slice(1)}/content/${escapePointer(documented)}/schema`
            : `/paths/${escapePointer(template)}/${method.toLowerCase()}/responses/${answer.status}/content/${escapePointer(documented)}/schema`;
        const validate = this.#validator(path);
        if (!validate(answer.body)) assert.fail(`${where}\nbreaks its schema: ${this.ajv.errorsText(validate.errors, { separator: '\n' })}`);
    }

    #resolve(reference) {
        return reference
            .slice(2)
            .split('/')
            .reduce((node, part) => node[part.replaceAll('~1', '/').replaceAll('~0', '~')], this.document);
    }

    #validator(path) {
        if (!this.validators.has(path))
            this.validators.set(path, this.ajv.compile({ $ref: `openapi#${path.split('/').map(encodeURIComponent).join('/')}` }));
        return this.validators.get(path);
    }
}
