#!/usr/bin/env node
// docs.mjs - writes docs/api.md, docs/errors.md, docs/configuration.md and .env.example from what the binary says of itself, so that none of them can be
// wrong for long: a test runs it with --check.
//   node tools/docs.mjs [--check] [--binary build/weir]      --check writes nothing and fails when one is not current

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const ROOT = new URL('..', import.meta.url).pathname;
const { values: options } = parseArgs({ options: { check: { type: 'boolean', default: false }, binary: { type: 'string', default: join(ROOT, 'build/weir') } } });
const BINARY = resolve(options.binary);
const NOTE = '<!-- Made by `make docs` from the binary: change the tables in src/, not this file. -->';

/** Output of a verb, in an empty folder and environment: no setting of this machine gets into a document. */
function weir(...args) {
    const folder = mkdtempSync(join(tmpdir(), 'weir-docs-'));
    const { status, stdout, stderr, error } = spawnSync(BINARY, args, { cwd: folder, env: { PATH: process.env.PATH }, encoding: 'utf8', maxBuffer: 64 << 20 });
    rmSync(folder, { recursive: true });
    if (status !== 0) throw new Error(`weir ${args.join(' ')} → ${status ?? error}\n${stderr}`);
    return JSON.parse(stdout);
}

const cell = (text) => String(text ?? '').replaceAll('|', '\\|').replaceAll('\n', ' ');
const code = (text) => `\`${cell(text)}\``;
const table = (head, rows) => [`| ${head.join(' | ')} |`, `|${head.map(() => '---').join('|')}|`, ...rows.map((row) => `| ${row.join(' | ')} |`)].join('\n');
const number = (n) => n.toLocaleString('en-US').replaceAll(',', ' ');

// ---- errors ----

function errorsPage() {
    const rows = weir('errors', '--json');
    const words = [...new Set(rows.map((row) => row.code.split('.')[0]))];
    const section = (word) => {
        const own = rows.filter((row) => row.code.startsWith(`${word}.`));
        return `## ${word}\n\n${table(['code', 'status', 'kind', 'meaning', 'where'], own.map((row) => [code(row.code), row.status ?? '', row.kind, cell(row.title), code(row.where.split(':')[0])]))}`;
    };
    return `# Error codes

${NOTE}

Every error is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem, \`application/problem+json\`, with a stable \`code\`; its \`type\` leads to the code on the server's own page \`/docs/errors\`. \`weir errors\` prints the same list
with the line in the sources.

| kind | where it stands | |
|---|---|---|
| problem | \`code\` of an answer | a route, the gate or the decoder gave it |
| refusal | \`code\` of an answer | the server gave it before it looked at a route |
| entry | \`errors[].code\` of an answer | what is wrong at one \`pointer\` |
| failure | \`error.code\` of a step or an execution | a \`fail\` step may choose any other |

${words.map(section).join('\n\n')}
`;
}

// ---- configuration ----

/** "0..65535", "bytes 32..4096", "json|text|off". */
function bounds(text) {
    if (text === null || text === '') return '';
    const range = /^(bytes )?(-?\d+)\.\.(-?\d+)$/.exec(text);
    if (!range) return text.split('|').map(code).join(', ');
    return `${number(Number(range[2]))} to ${number(Number(range[3]))}${range[1] ? ' bytes' : ''}`;
}

function configurationPage() {
    const rows = weir('config', '--json').map(({ name, alias, bounds: allowed, help, ...row }) => [
        `${code(name)}${alias ? `, ${code(alias)}` : ''}`,
        row.default ? code(row.default) : '',
        bounds(allowed),
        cell(help),
    ]);
    return `# Configuration

${NOTE}

From the environment, from a file (\`NAME_FILE\` holds its path), or from \`./.env\`, in this order. A value that cannot be used stops the start with exit code 2, and so does a \`WEIR_\` name that is not listed here.
\`weir config\` prints what is in effect, with secrets masked; \`weir doctor\` says whether this machine is fit for it.

${table(['name', 'default', 'allowed', 'what it does'], rows)}
`;
}

// ---- API ----

const document = weir('openapi');
const refName = (ref) => ref.split('/').at(-1);
const link = (name) => `[${name}](#schema-${name.toLowerCase()})`;

function range(schema) {
    const parts = [];
    const between = (low, high, unit) => {
        if (low !== undefined && high !== undefined) parts.push(`${number(low)} to ${number(high)}${unit}`);
        else if (high !== undefined) parts.push(`at most ${number(high)}${unit}`);
        else if (low !== undefined) parts.push(`at least ${number(low)}${unit}`);
    };
    between(schema.minimum, schema.maximum, '');
    between(schema.minLength, schema.maxLength, ' characters');
    between(schema.minItems, schema.maxItems, ' items');
    between(schema.minProperties, schema.maxProperties, ' members');
    return parts.length > 0 ? ` (${parts.join(', ')})` : '';
}

/** A schema in a few words. */
function typeOf(schema) {
    if (schema === undefined) return 'any';
    if (schema.$ref) return link(refName(schema.$ref));
    if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(' or ');
    if (schema.enum) return schema.enum.map((value) => code(value ?? 'null')).join(', ');
    const types = [schema.type ?? 'any'].flat();
    const named = types.map((type) => {
        if (type === 'array') return `list of ${typeOf(schema.items)}`;
        if (type === 'object') return schema.additionalProperties?.$ref || schema.additionalProperties?.type ? `map of ${typeOf(schema.additionalProperties)}` : 'object';
        if (type === 'string' && schema.format) return schema.format;
        return type === 'string' ? 'text' : type;
    });
    return named.join(' or ') + range(schema);
}

function fields(schema) {
    const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
        const required = schema.required?.includes(name) && !field.readOnly;
        const preset = field.default !== undefined ? ` Default ${code(JSON.stringify(field.default))}.` : '';
        const doc = field.description ? `${field.description}.` : '';
        return [code(name), `${typeOf(field)}${required ? ', **required**' : ''}`, cell(doc + preset).trim()];
    });
    return rows.length > 0 ? table(['member', 'type', ''], rows) : 'No members of its own.';
}

function bodyOf(content) {
    const entries = Object.entries(content ?? {});
    return entries.map(([type, { schema }]) => (/json/.test(type) && schema ? typeOf(schema) : code(type))).join(', ');
}

function answers(operation) {
    const rows = Object.entries(operation.responses).map(([status, response]) => {
        const problem = Object.keys(response.content ?? {}).includes('application/problem+json');
        return [status, problem ? 'problem' : bodyOf(response.content), cell(response.description)];
    });
    return table(['status', 'body', ''], rows);
}

/** A value that the schema takes: its own example, else the least that is required. */
function sample(schema, depth = 0) {
    if (schema.$ref) return sample(document.components.schemas[refName(schema.$ref)], depth);
    if (schema.examples) return schema.examples[0];
    if (schema.default !== undefined) return schema.default;
    if (schema.enum) return schema.enum[0];
    if (schema.anyOf) return sample(schema.anyOf[0], depth);
    const type = [schema.type ?? 'object'].flat()[0];
    if (type === 'object') {
        const names = Object.keys(schema.properties ?? {}).filter((name) => schema.required?.includes(name) || (depth === 0 && schema.properties[name].examples));
        return Object.fromEntries(names.map((name) => [name, sample(schema.properties[name], depth + 1)]));
    }
    if (type === 'array') return schema.minItems > 0 ? [sample(schema.items, depth + 1)] : [];
    return { string: schema.format === 'date-time' ? '2026-01-31T12:00:00Z' : 'text', integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: true }[type] ?? null;
}

/** A call that can be copied into a shell. Ids in the path stay in braces. */
function callText(method, path, operation) {
    const [type, body] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
    const lines = [`curl ${method === 'get' ? '' : `-X ${method.toUpperCase()} `}"$WEIR${path}"`];
    if (operation.security?.length > 0) lines.push('-H "Authorization: Bearer $TOKEN"');
    if (type) lines.push(`-H 'Content-Type: ${type === '*/*' ? 'application/json' : type}'`);
    if (type) lines.push(`-d '${JSON.stringify(body.example ?? (body.schema?.$ref ? sample(body.schema) : {}), null, 2).replaceAll("'", "'\\''")}'`);
    return `\`\`\`sh\n${lines.join(' \\\n  ')}\n\`\`\``;
}

function operationText(method, path, operation) {
    const parts = [`### ${method.toUpperCase()} \`${path}\``, `${operation.summary}.`.replace(/([.?!])\.$/, '$1')];
    if (operation.description && operation.description !== operation.summary) parts.push(operation.description);
    const who = { anyone: 'everybody, without a token', signed_in: 'everybody with a valid token' };
    parts.push(`Who may: ${who[operation['x-permission']] ?? code(operation['x-permission'])}`);
    const parameters = (operation.parameters ?? []).map(({ name, in: where, schema, required, description }) => [
        code(name), where, `${typeOf(schema)}${required && where !== 'path' ? ', **required**' : ''}`,
        cell(`${description}.${schema?.default !== undefined ? ` Default ${code(JSON.stringify(schema.default))}.` : ''}`),
    ]);
    if (parameters.length > 0) parts.push(table(['parameter', 'in', 'type', ''], parameters));
    const body = Object.entries(operation.requestBody?.content ?? {})[0];
    if (body) {
        const [type, { schema }] = body;
        const name = schema?.$ref && refName(schema.$ref);
        parts.push(`Body${operation.requestBody.required ? '' : ' (may be absent)'}: ${name ? link(name) : typeOf(schema)}, \`${type}\``);
        if (name) parts.push(fields(document.components.schemas[name]));
    }
    parts.push(callText(method, path, operation));
    parts.push(answers(operation));
    return parts.join('\n\n');
}

function apiPage() {
    const operations = Object.entries(document.paths).flatMap(([path, item]) => Object.entries(item).map(([method, operation]) => ({ method, path, operation })));
    const section = ({ name, description }) => {
        const own = operations.filter(({ operation }) => operation.tags.includes(name));
        return `## ${name}\n\n${description}.\n\n${own.map(({ method, path, operation }) => operationText(method, path, operation)).join('\n\n')}`;
    };
    const schema = ([name, value]) => `<a id="schema-${name.toLowerCase()}"></a>\n\n### ${name}\n\n${value.description ? `${value.description}.\n\n` : ''}${fields(value)}`;
    return `# API

${NOTE}

A running server shows the same at \`/docs\` and \`/redoc\`, and as OpenAPI 3.1 at \`/openapi.json\`. Codes of problems are explained in [errors.md](errors.md). In the examples \`$WEIR\` is
where the server answers, such as \`http://127.0.0.1:8000\`, and \`$TOKEN\` an access token from \`POST /api/v1/auth/token\`.

${document.tags.map(({ name, description }) => `- [${name}](#${name}): ${description}`).join('\n')}
- [Schemas](#schemas)

${document.tags.map(section).join('\n\n')}

## Schemas

${Object.entries(document.components.schemas).map(schema).join('\n\n')}
`;
}

// ---- .env.example ----

function envExample() {
    const one = ({ name, default: preset, bounds, help }) => `# ${help}${bounds ? ` (${bounds})` : ''}\n#${name}=${preset ?? ''}\n`;
    return `# Made by \`make docs\` from the binary. Copy it to .env in the folder that weir starts in, and keep that to yourself (mode 0600); or set them in the environment.
# Each may be NAME_FILE instead: a file that holds the value. What stands here are the defaults.

${weir('config', '--json').map(one).join('\n')}`;
}

// ---- all of them ----

let stale = 0;
for (const [name, text] of [['docs/api.md', apiPage()], ['docs/errors.md', errorsPage()], ['docs/configuration.md', configurationPage()], ['.env.example', envExample()]]) {
    const path = join(ROOT, name);
    if (existsSync(path) && readFileSync(path, 'utf8') === text) continue;
    if (options.check) console.error(`${name} is not current: run \`make docs\``);
    else writeFileSync(path, text);
    stale += 1;
}
if (options.check && stale > 0) process.exit(1);
if (!options.check) console.log(stale > 0 ? `docs: ${stale} rewritten` : 'docs: all current');
