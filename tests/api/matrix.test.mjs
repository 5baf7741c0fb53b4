// The matrix: every route × every role × an operator of the platform × the owner of another tenant × an API
// key of the owner's with just the scope that the route asks for, and one without it × nobody. The expected statuses stand in tests/golden/matrix.json,
// a row per route; a route without its row fails, and so does a row without its route.
//
// A cell says what the caller may get as far as permission goes: "401", "403" and "404" are just that, "ok" is any other answer that is
// not a fault of ours. `all` stands for the callers that the row does not name; `body` is what is sent.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { createTrigger, createWorkflow, execute, transform } from '../lib/flows.mjs';
import { PASSWORD, ROLES, Weir, routes } from '../lib/server.mjs';

const MATRIX = JSON.parse(readFileSync(new URL('../golden/matrix.json', import.meta.url), 'utf8'));
const CALLERS = [...ROLES, 'operator', 'stranger', 'nobody'];
const KEYS = ['scoped', 'unscoped'];
// Not looked up in the table: what a key may follows from the permission of the route alone.
const ofKey = (row, permission, caller) => {
    if (['anyone'].includes(permission)) return row.owner ?? row.all;
    if (permission === 'in_person') return '403';
    if (permission === 'signed_in') return row.owner ?? row.all;
    return caller === 'scoped' ? (row.key ?? row.owner ?? row.all) : '403';
};

let weir, clients, own, secret, tried = 0;
const keys = {};
before(async () => {
    weir = await Weir.start({ operator: true });
    clients = { nobody: weir.anonymous(), stranger: await weir.as('owner', 'globex'), operator: await weir.as('operator', 'platform') };
    for (const role of ROLES) clients[role] = await weir.as(role);
    const permissions = [...new Set(routes().map(({ permission }) => permission))].filter((name) => name.includes('.'));
    const mine = (await clients.owner.get('/api/v1/auth/me', { expect: 200 })).body.permissions;
    const key = async (scope) => (await clients.owner.post('/api/v1/api-keys', { name: scope, scopes: [scope] }, { expect: 201 })).body.key;
    for (const permission of permissions) {
        const other = permission === 'triggers.read' ? 'workflows.read' : 'triggers.read';
        if (mine.includes(permission)) keys[permission] = { scoped: clients.nobody.with({ 'x-api-key': await key(permission) }), unscoped: clients.nobody.bearer(await key(other)) };
    }
    keys.none = { scoped: clients.nobody.with({ 'x-api-key': await key('workflows.read') }) };
    keys.none.unscoped = keys.none.scoped;
    secret = `only-acme-${Math.trunc(performance.now())}`;
    await renew();
});
after(() => weir?.stop());

const login = (caller) => !['nobody', ...KEYS].includes(caller) && [{ stranger: 'owner@globex.test', operator: 'operator@platform.test' }[caller] ?? `${caller}@acme.test`, PASSWORD];

/** New objects of tenant acme. */
async function renew() {
    const workflow = await createWorkflow(clients.editor, { steps: [transform('t', { secret })] }, { name: secret });
    const triggers = {};
    for (const method of ['GET', 'POST', 'PUT']) triggers[method] = (await createTrigger(clients.editor, workflow.id, { name: secret, method })).id;
    const execution = await execute(clients.editor, workflow.id, { secret });
    own = { ...own, workflow: workflow.id, triggers, execution: execution.execution_id };
}

/** Objects that a route's own callers use up, made when they are asked for; by the first words of their path. */
const makers = {
    users: async () => {
        const email = `guest-${++guests}@acme.test`;
        await clients.owner.post('/api/v1/users/invite', { email, role: 'member' }, { expect: 201 });
        const [{ token }] = await weir.mail(email);
        return (await clients.nobody.post('/api/v1/auth/invite/accept', { token, password: PASSWORD }, { expect: 200 })).body.user_id;
    },
    invitations: async () => (await clients.owner.post('/api/v1/users/invite', { email: `guest-${++guests}@acme.test`, role: 'member' }, { expect: 201 })).body.id,
    roles: async () => (await clients.owner.post('/api/v1/roles', { name: `matrix-${++guests}`, permissions: ['workflows.read'] }, { expect: 201 })).body.id,
    'auth/sessions': async () => {
        const client = await weir.anonymous().login('owner@acme.test', PASSWORD);
        return (await client.get('/api/v1/auth/me', { expect: 200 })).body.session_id;
    },
    'api-keys': async () => (await clients.owner.post('/api/v1/api-keys', { name: 'matrix', scopes: ['workflows.read'] }, { expect: 201 })).body.id,
    tenants: async () => (await clients.owner.get('/api/v1/auth/me', { expect: 200 })).body.tenant.id,
};
let guests = 0;
const makerOf = (path) => /^\/api\/v1\/(invitations|users|roles|api-keys|auth\/sessions|tenants)\/\{id\}/.exec(path)?.[1];

/** The path with ids of tenant acme in place of its parameters. */
function fill(method, path) {
    if (makerOf(path)) return path.replace('{id}', own[makerOf(path)]);
    const words = { workflows: own.workflow, executions: own.execution, webhooks: own.workflow };
    let first = words[/\/(workflows|executions|webhooks)\/\{/.exec(path)?.[1]];
    return path.replace(/\{([^}]+)\}/g, (_, name) => {
        if (name === 'type') return 'transform';
        const id = name === 'n' ? '1' : (first ?? own.triggers[name === 'trigger_id' ? method : 'POST']);
        first = undefined;
        return id;
    });
}

async function call(caller, method, path, { body, ends_session, fresh }, permission) {
    const maker = makerOf(path);
    if (maker && (fresh || method === 'DELETE' || !own[maker])) own[maker] = await makers[maker]();
    else if (method === 'DELETE') await renew(); // the caller before may have been allowed to
    let client = clients[caller] ?? (keys[permission] ?? keys.none)[caller];
    if (ends_session && login(caller)) client = await weir.anonymous().login(...login(caller));
    const sent = body && JSON.parse(JSON.stringify(body).replaceAll('{n}', String(++tried)));
    const answer = await client.send(method, fill(method, path), sent, { raw: path.endsWith('/events') });
    if (path.endsWith('/suspend')) await clients.operator.post(`/api/v1/tenants/${own.tenants}/resume`, undefined, { expect: 200 });
    return answer;
}

test('every route has its row, and every row its route', () => {
    const served = routes().map(({ method, path }) => `${method} ${path}`).sort();
    assert.ok(served.length > 0, 'weir routes lists them');
    assert.deepEqual(Object.keys(MATRIX).sort(), served);
});

test('every row says what each of the ten callers may get', () => {
    assert.deepEqual([...CALLERS, ...KEYS], ['owner', 'admin', 'editor', 'member', 'viewer', 'operator', 'stranger', 'nobody', 'scoped', 'unscoped']);
    for (const { method, path, permission } of routes()) {
        const row = MATRIX[`${method} ${path}`];
        for (const caller of [...CALLERS, ...KEYS]) {
            const expected = KEYS.includes(caller) ? ofKey(row, permission, caller) : (row[caller] ?? row.all);
            assert.ok(['ok', '401', '403', '404'].includes(expected), `${method} ${path}: ${caller}`);
        }
        const known = [...CALLERS, 'all', 'key', 'body', 'ends_session', 'fresh'];
        for (const name of Object.keys(row)) assert.ok(known.includes(name), `${method} ${path}: ${name} is no caller`);
    }
});

for (const [key, row] of Object.entries(MATRIX)) {
    const [method, path] = key.split(' ');
    const permission = routes().find((route) => `${route.method} ${route.path}` === key)?.permission;
    describe(key, () => {
        for (const caller of [...CALLERS, ...KEYS]) {
            const expected = KEYS.includes(caller) ? ofKey(row, permission, caller) : (row[caller] ?? row.all);
            test(`${caller}: ${expected}`, async () => {
                const answer = await call(caller, method, path, row, permission);
                assert.ok(answer.status < 500 && answer.status !== 405, answer.text);
                const what = [401, 403, 404].includes(answer.status) ? String(answer.status) : 'ok';
                assert.equal(what, expected, answer.text.slice(0, 500));
                const isPublic = row.nobody === undefined;
                if (!isPublic && ['stranger', 'nobody'].includes(caller)) assert.ok(!answer.text.includes(secret), `tells ${caller} of another tenant`);
            });
        }
    });
}
