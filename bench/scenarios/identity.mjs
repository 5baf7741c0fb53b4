// identity.mjs - what knowing the caller costs, and what logins do. The same route answers the same bytes to nobody and to a caller who may see no more, so what differs is the look at who it
// is: for a token, an API key, a browser's cookie; the aim is under 3 us of processor time. The kinds take turns, and the median counts, because a second of a busy machine says little. Logins
// are bound by Argon2id on the threads that hash; a storm of them must not grow the memory.

import http from 'node:http';
import { join } from 'node:path';
import { BUILD, call, cpu, EMAIL, end, load, options, PASSWORD, rss, run, signIn, weir } from '../lib.mjs';
import { writeFileSync } from 'node:fs';

const AIM_US = 3;
const ROUNDS = 5;
const ROUTE = '/api/v1/health';
const VIEWER = 'viewer@example.test';
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

async function cookieOf(server, email) {
    const answer = await fetch(`${server.base}/api/v1/auth/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ email, password: PASSWORD }) });
    return answer.headers.getSetCookie().find((line) => line.startsWith('__Host-weir=')).split(';')[0];
}

/** A server with a viewer, who may not see the parts of its health. */
async function served() {
    const first = await weir('identity');
    const { tenant } = await (await fetch(`${first.base}/api/v1/auth/me`, { headers: { authorization: `Bearer ${await signIn(first)}` } })).json();
    await end(first.child);
    const file = join(first.data, 'password');
    writeFileSync(file, PASSWORD);
    run('env', [`WEIR_DATA=${first.data}`, join(BUILD, 'weir'), 'user', 'add', VIEWER, '--tenant', tenant.slug, '--role', 'viewer', '--password-file', file]);
    return first.start();
}

async function callers(server) {
    const { access_token } = await call(server, 'POST', '/api/v1/auth/token', { email: VIEWER, password: PASSWORD });
    const { key } = await call(server, 'POST', '/api/v1/api-keys', { name: 'bench', scopes: ['workflows.read'] }, await signIn(server));
    const kinds = { nobody: {}, 'a token': { Authorization: `Bearer ${access_token}` }, 'an API key': { 'X-API-Key': key }, 'a cookie': { Cookie: await cookieOf(server, VIEWER) } };
    const texts = await Promise.all(Object.values(kinds).map(async (headers) => JSON.stringify(await (await fetch(server.base + ROUTE, { headers })).json())));
    if (new Set(texts).size !== 1) throw new Error(`the answers differ, so the cost of the route would: ${texts.join('\n')}`);
    return kinds;
}

async function knowing(server) {
    const kinds = await callers(server);
    const seconds = String(Math.max(1, Number(options.seconds) / ROUNDS));
    const got = Object.fromEntries(Object.keys(kinds).map((kind) => [kind, []]));
    for (let round = 0; round < ROUNDS; round++) for (const [kind, headers] of Object.entries(kinds)) got[kind].push(load(server, ROUTE, { headers, seconds }));
    const middle = (kind, key) => median(got[kind].map((one) => one[key]));
    return Object.keys(kinds).map((kind) => {
        const added = median(got[kind].map(({ cpu_us }, round) => cpu_us - got.nobody[round].cpu_us));
        const row = { what: `GET ${ROUTE}, ${kind}`, ...Object.fromEntries(['rate', 'cpu_us', 'p50_us', 'p99_us'].map((key) => [key, middle(kind, key)])) };
        return kind === 'nobody' ? row : { ...row, added_us: added, note: `${added.toFixed(1)} us more than nobody (aim ${AIM_US})` };
    });
}

/** One login on a connection of its own: {status, took_us}. */
function login(server, agent) {
    const body = JSON.stringify({ email: EMAIL, password: PASSWORD });
    const began = performance.now();
    return new Promise((done, fail) => {
        const request = http.request(`${server.base}/api/v1/auth/token`, { method: 'POST', agent, headers: { 'content-type': 'application/json', 'content-length': body.length } }, (answer) =>
            answer.resume().on('end', () => done({ status: answer.statusCode, took_us: (performance.now() - began) * 1000 })));
        request.on('error', fail).end(body);
    });
}

async function logins(server, atOnce) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: atOnce });
    const before = rss(server.child), used = cpu(server.child), began = performance.now();
    const answers = [];
    let most = before;
    const until = began + Number(options.seconds) * 1000;
    const ask = async () => {
        while (performance.now() < until) answers.push(await login(server, agent));
    };
    const watch = setInterval(() => (most = Math.max(most, rss(server.child))), 50);
    await Promise.all(Array.from({ length: atOnce }, ask));
    clearInterval(watch);
    agent.destroy();
    const seconds = (performance.now() - began) / 1000;
    const good = answers.filter(({ status }) => status === 200).map(({ took_us }) => took_us).sort((a, b) => a - b);
    const refused = answers.filter(({ status }) => status === 503).length;
    if (good.length + refused !== answers.length) throw new Error(`answers to logins: ${[...new Set(answers.map(({ status }) => status))]}`);
    const note = `${Math.round(refused / seconds)}/s more told 503; memory ${before.toFixed(0)} MB before, ${most.toFixed(0)} at most`;
    return { what: `POST /api/v1/auth/token, ${atOnce} at once`, rate: good.length / seconds, cpu_us: refused > 0 ? undefined : ((cpu(server.child) - used) * 1e6) / good.length,
        p50_us: median(good), p99_us: good[Math.floor(good.length * 0.99)], refused: refused / seconds, memory_mb: [before, most], note };
}

export async function identity() {
    const server = await served();
    const rows = await knowing(server);
    for (const atOnce of [8, 500]) rows.push(await logins(server, atOnce));
    await end(server.child);
    return rows;
}
