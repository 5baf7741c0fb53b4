// Health: what load balancers, scrapers and people look at, without a token.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Weir, freePort } from '../lib/server.mjs';

let weir, anyone;
before(async () => {
    weir = await Weir.start();
    anyone = weir.anonymous();
});
after(() => weir?.stop());

for (const path of ['/livez', '/readyz', '/healthz'])
    test(`${path} answers 200 without a token, and HEAD without a body`, async () => {
        await anyone.get(path, { expect: 200 });
        await anyone.head(path, { expect: 200 });
    });

test('/readyz takes ?verbose, as probes send it', async () => {
    await anyone.get('/readyz?verbose', { expect: 200 });
});

test('/api/v1/info tells name and version, and a trailing slash is the same route', async () => {
    for (const path of ['/api/v1/info', '/api/v1/info/']) {
        const { body } = await anyone.get(path, { expect: 200 });
        assert.equal(body.name, 'weir');
        assert.match(body.version, /^\d+\.\d+\.\d+/);
    }
});

test('/api/v1/health tells a stranger the status, and an admin the dependencies', async () => {
    const { body } = await anyone.get('/api/v1/health', { expect: 200 });
    assert.ok(['ok', 'healthy', 'up'].includes(body.status), body.status);
    const admin = await weir.as('admin');
    const details = (await admin.get('/api/v1/health', { expect: 200 })).body;
    const { database } = details.dependencies;
    assert.equal(typeof database.latency_ms, 'number');
    assert.match(database.checked_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
});

test('/metrics counts the hits and misses of every cache', async () => {
    const { text } = await anyone.get('/metrics', { expect: 200 });
    for (const which of ['hits', 'misses'])
        for (const cache of ['plans', 'sessions', 'tokens', 'triggers']) assert.match(text, new RegExp(`^weir_cache_${which}_total\\{cache="${cache}"\\} \\d+$`, 'm'));
    assert.equal(text.match(/^# TYPE weir_cache_hits_total/gm).length, 1);
});

test('/metrics is Prometheus text: HELP and TYPE for each family, no label of a tenant or user', async () => {
    await anyone.get('/api/v1/info');
    const { text, type } = await anyone.get('/metrics', { expect: 200 });
    assert.match(type, /^text\/plain; ?version=0\.0\.4/);
    const typed = new Set([...text.matchAll(/^# TYPE (\S+) (counter|gauge|histogram)$/gm)].map((row) => row[1]));
    const helped = new Set([...text.matchAll(/^# HELP (\S+) \S/gm)].map((row) => row[1]));
    for (const [, name] of text.matchAll(/^([a-zA-Z_:][\w:]*)[{ ]/gm)) {
        const family = typed.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '');
        assert.ok(typed.has(family) && helped.has(family), `${name} has HELP and TYPE`);
    }
    const promised = ['weir_http_requests_total', 'weir_http_request_duration_seconds', 'weir_db_statement_duration_seconds', 'weir_executions_total',
        'weir_execution_duration_seconds', 'weir_queue_depth', 'weir_queue_oldest_seconds', 'weir_process_resident_memory_bytes'];
    for (const name of promised) assert.ok(typed.has(name), `${name} is there`);
    for (const queue of ['jobs', 'executions'])
        for (const name of ['weir_queue_depth', 'weir_queue_oldest_seconds'])
            assert.match(text, new RegExp(`^${name}\\{queue="${queue}"\\} \\d`, 'm'));
    assert.match(text, /^weir_db_statement_duration_seconds_count\{statement="\w+"\} [1-9]/m);
    assert.equal(text.match(/^# TYPE weir_queue_depth /gm).length, 1, 'a family is written once');
    assert.doesNotMatch(text, /acme|globex|@|(tenant|user)(_id)?=/);
});

test('/openapi.json is OpenAPI 3.1 and documents every listed route with a summary, an operation id and its problems', async () => {
    const { body } = await anyone.get('/openapi.json', { expect: 200 });
    assert.match(body.openapi, /^3\.1\./);
    assert.ok((body.servers ?? []).every(({ url }) => url === '/'), 'paths are full: no servers prefix');
    const ids = new Set();
    for (const [path, item] of Object.entries(body.paths))
        for (const [method, operation] of Object.entries(item)) {
            if (!['get', 'put', 'post', 'delete', 'patch'].includes(method)) continue;
            const where = `${method} ${path}`;
            assert.ok(operation.summary, `${where}: summary`);
            assert.ok(operation.operationId && !ids.has(operation.operationId), `${where}: operationId of its own`);
            ids.add(operation.operationId);
            assert.ok(Object.keys(operation.responses).some((status) => status < '400'), `${where}: a success`);
            const names = [...path.matchAll(/\{([^}]+)\}/g)].map((match) => match[1]);
            const given = (operation.parameters ?? item.parameters ?? []).filter((parameter) => parameter.in === 'path').map((parameter) => parameter.name);
            assert.deepEqual(given.sort(), names.sort(), `${where}: path parameters`);
        }
});

test('every $ref of the document leads somewhere, and no schema of ours is a free-form object by accident', async () => {
    const { body } = await anyone.get('/openapi.json', { expect: 200 });
    const visit = (node) => {
        if (node === null || typeof node !== 'object') return;
        if (typeof node.$ref === 'string') {
            const target = node.$ref.slice(2).split('/').reduce((at, part) => at?.[part.replaceAll('~1', '/').replaceAll('~0', '~')], body);
            assert.ok(target, node.$ref);
        }
        Object.values(node).forEach(visit);
    };
    visit(body);
    for (const [name, schema] of Object.entries(body.components.schemas))
        if (schema.type === 'object') assert.ok(schema.properties || schema.additionalProperties !== undefined, `${name} says what it holds`);
});

test('X-Request-Id comes back when it is sane, and is made when it is not', async () => {
    const sane = await anyone.get('/livez', { headers: { 'x-request-id': 'abc-123' } });
    assert.equal(sane.headers.get('x-request-id'), 'abc-123');
    const mad = await anyone.get('/livez', { headers: { 'x-request-id': 'a b"c<'.repeat(100) } });
    assert.match(mad.headers.get('x-request-id'), /^[\w-]{8,64}$/);
});

test('with WEIR_METRICS_LISTEN the public side has no /metrics, however it is spelled; the other side has nothing else', async (t) => {
    const port = await freePort();
    const apart = await Weir.start({ users: false, env: { WEIR_METRICS_LISTEN: `127.0.0.1:${port}` } });
    t.after(() => apart.stop());
    for (const path of ['/metrics', '/metrics/', '/%6detrics', '/%6D%65trics/', '/metric%73']) assert.equal((await fetch(apart.base + path)).status, 404, path);
    for (const path of ['/metrics', '/livez', '/%61pi/v1/info']) assert.equal((await fetch(`http://127.0.0.1:${port}${path}`)).status, path === '/metrics' ? 200 : 404, path);
});

test('a path in another spelling is the same path: no answer of the API is kept, and what is not there asks for a token', async () => {
    const known = await fetch(`${weir.base}/%61pi/v1/%69nfo`);
    assert.deepEqual([known.status, known.headers.get('cache-control')], [200, 'no-store']);
    assert.equal((await fetch(`${weir.base}/%61pi/v1/nothing`)).status, 401);
    assert.equal((await fetch(`${weir.base}/api%2Fv1/info`)).status, 404, 'an escaped slash parts nothing');
});
