// Nothing comes along with a body that is not its own: every route that takes JSON, as the OpenAPI document lists them, is sent fields that belong to others. Which bodies may name a role, a tenant,
// a state or an owner at all stands here; a new one has to be added.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Weir } from '../lib/server.mjs';

// What somebody would like to set: of the row, of the person, of the tenant, of the platform.
const COVETED = ['id', 'role', 'roles', 'role_id', 'base_role', 'permissions', 'scopes', 'is_admin', 'admin', 'operator', 'tenant', 'tenant_id', 'tenant_slug', 'user_id', 'owner', 'owner_id', 'created_by', 'invited_by',
    'status', 'plan', 'quota_users', 'password', 'password_hash', 'totp_seed', 'totp_enabled_at', 'session_id', 'created_at', 'deleted_at', 'version', 'constructor', '__proto__'];
const MAY_NAME = {
    'POST /api/v1/tenants': ['plan', 'quota_users'], // operators
    'PATCH /api/v1/tenants/{id}': ['plan', 'quota_users'], // theirs alone: members.test.mjs
    'POST /api/v1/roles': ['permissions'],
    'PATCH /api/v1/roles/{id}': ['permissions'],
    'POST /api/v1/api-keys': ['scopes'],
    'POST /api/v1/users': ['role'],
    'POST /api/v1/users/invite': ['role'],
    'PATCH /api/v1/users/{id}': ['role', 'status'],
    'POST /api/v1/setup': ['tenant_slug', 'password'],
    'POST /api/v1/auth/token': ['tenant', 'password'],
    'POST /api/v1/auth/login': ['tenant', 'password'],
    'POST /api/v1/auth/invite/accept': ['password'],
    'POST /api/v1/auth/switch-tenant': ['tenant'],
    'POST /api/v1/auth/2fa/setup': ['password'],
    'POST /api/v1/auth/2fa/disable': ['password'],
    'POST /api/v1/auth/2fa/recovery-codes': ['password'],
};

let weir, clients;
before(async () => {
    weir = await Weir.start({ operator: true });
    clients = { owner: await weir.as('owner'), operator: await weir.as('operator', 'platform') };
});
after(() => weir?.stop());

async function bodies() {
    const { body: document } = await weir.anonymous().get('/openapi.json', { expect: 200 });
    const found = [];
    for (const [path, operations] of Object.entries(document.paths))
        for (const [method, { requestBody }] of Object.entries(operations))
            for (const [type, { schema }] of Object.entries(requestBody?.content ?? {})) {
                const shape = schema.$ref ? document.components.schemas[schema.$ref.split('/').at(-1)] : schema;
                if (/json/.test(type)) found.push({ route: `${method.toUpperCase()} ${path}`, method: method.toUpperCase(), path, type, shape });
            }
    return found;
}

describe('a body', () => {
    test('is closed, and names of what decides on rights only what is listed here', async () => {
        const all = await bodies();
        assert.ok(all.length >= 35, String(all.length));
        for (const { route, shape } of all) {
            assert.deepEqual([route, shape.type, shape.additionalProperties], [route, 'object', false]);
            assert.deepEqual([route, ...COVETED.filter((name) => Object.hasOwn(shape.properties, name))], [route, ...(MAY_NAME[route] ?? [])]);
        }
        for (const route of Object.keys(MAY_NAME)) assert.ok(all.some((one) => one.route === route), `${route} is not there any more`);
    });

    test('with any of the others is refused, and each is named', async () => {
        for (const { route, method, path, type, shape } of await bodies()) {
            const names = COVETED.filter((name) => !Object.hasOwn(shape.properties, name));
            const client = path.startsWith('/api/v1/tenants') ? clients.operator : clients.owner;
            const at = path.replace('{type}', 'transform').replace(/\{(\w+)\}/g, 'workflow_01h455vb4pex5vsknk084sn02q');
            for (let from = 0; from < names.length; from += 10) {
                const sent = names.slice(from, from + 10);
                const { status, body, text } = await client.send(method, at, `{${sent.map((name) => `"${name}":"owner"`).join()}}`, { type, raw: true });
                assert.equal(status, 422, `${route} ${text}`);
                const named = new Set(body.errors.map(({ pointer }) => pointer));
                for (const name of sent) assert.ok(named.has(`/${name}`), `${route} says nothing of ${name}: ${text}`);
            }
        }
    });
});
