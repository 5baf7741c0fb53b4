// Lists: filters and orders from the tables, pages that neither skip nor repeat, fields=.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { errorAt } from '../lib/client.mjs';
import { createTrigger, createWorkflow, transform } from '../lib/flows.mjs';
import { Weir } from '../lib/server.mjs';

const simple = { steps: [transform('t', { doubled: '{{ input.n * 2 }}' })] };
const NAMES = ['pear', 'apple', 'Zebra', 'fig', 'apple', 'ä', 'apple', 'kiwi~lime', 'fig', 'mango'];
let weir, editor, rows;
before(async () => {
    weir = await Weir.start();
    editor = await weir.as('editor');
    rows = [];
    for (const [i, name] of NAMES.entries())
        rows.push(await createWorkflow(editor, simple, { name, is_active: i % 3 !== 0, tags: i < 4 ? ['early', '100%'] : [] }));
    for (const i of [7, 2]) rows[i] = (await editor.patch(`/api/v1/workflows/${rows[i].id}`, { description: 'touched' }, { expect: 200 })).body;
    await createWorkflow(await weir.as('editor', 'globex'), simple, { name: 'apple' });
});
after(() => weir?.stop());

/** Every page by following Link, `limit` at a time. */
async function pages(query, limit, path = '/api/v1/workflows') {
    const found = [];
    for (let next = `${path}?limit=${limit}${query ? `&${query}` : ''}`; next; ) {
        const answer = await editor.get(next, { expect: 200 });
        assert.ok(answer.body.length <= limit);
        found.push(...answer.body);
        next = /^<(.*)>; rel="next"$/.exec(answer.headers.get('link') ?? '')?.[1];
        assert.ok(found.length <= 2 * NAMES.length, 'the pages come to an end');
    }
    return found;
}

const bytes = (a, b) => Buffer.compare(Buffer.from(String(a)), Buffer.from(String(b)));
const ordered = (key, down) => [...rows].sort((a, b) => (bytes(a[key], b[key]) || bytes(a.id, b.id)) * (down ? -1 : 1)).map((row) => row.id);
const ids = (list) => list.map((row) => row.id);

describe('orders', () => {
    for (const key of ['id', 'name', 'created_at', 'updated_at'])
        for (const down of [false, true])
            test(`sort=${down ? '-' : ''}${key}, in pages of any size`, async () => {
                for (const limit of [1, 3, 10, 100]) assert.deepEqual(ids(await pages(`sort=${down ? '-' : ''}${key}`, limit)), ordered(key, down), `limit ${limit}`);
            });

    test('newest first when nothing is asked for', async () => {
        assert.deepEqual(ids(await pages('', 4)), ordered('id', true));
        assert.deepEqual(ids((await editor.get('/api/v1/workflows?limit=4&skip=4', { expect: 200 })).body), ordered('id', true).slice(4, 8));
        assert.deepEqual(ids((await editor.get('/api/v1/workflows?limit=4&skip=4&sort=name', { expect: 200 })).body), ordered('name').slice(4, 8));
    });

    test('a row that changes between two pages costs nobody their place', async () => {
        const first = await editor.get('/api/v1/workflows?sort=name&limit=3', { expect: 200 });
        const last = first.body.at(-1), next = /<(.*)>/.exec(first.headers.get('link'))[1];
        await editor.patch(`/api/v1/workflows/${last.id}`, { name: 'zzz' }, { expect: 200 });
        const second = await editor.get(next, { expect: 200 });
        await editor.patch(`/api/v1/workflows/${last.id}`, { name: last.name }, { expect: 200 });
        assert.equal(second.body[0].id, ordered('name')[3]);
        rows = await Promise.all(rows.map(async (row) => (await editor.get(`/api/v1/workflows/${row.id}`)).body));
    });

    test('an order that there is not, two orders, and a cursor of another order are named', async () => {
        for (const sort of ['version', '-', '', 'name,id', 'name;drop table workflows', '--name', 'tenant_id']) {
            const refused = await editor.get(`/api/v1/workflows?sort=${encodeURIComponent(sort)}`, { expect: 422 });
            assert.match(errorAt(refused, 'query/sort').detail, /id, name, created_at, updated_at/);
        }
        errorAt(await editor.get('/api/v1/workflows?sort=name&sort=id', { expect: 422 }), 'query/sort');
        for (const cursor of [rows[0].id, `${rows[0].id}~x`]) errorAt(await editor.get(`/api/v1/workflows?sort=created_at&cursor=${cursor}`, { expect: 422 }), 'query/cursor');
    });
});

describe('filters', () => {
    test('by name, exactly, and by is_active; together, with tags, in any order and page', async () => {
        const expected = (keep, key = 'id', down = true) => ordered(key, down).filter((id) => keep(rows.find((row) => row.id === id)));
        assert.deepEqual(ids(await pages('name=apple', 2)), expected((row) => row.name === 'apple'));
        assert.deepEqual(ids(await pages('name=Apple', 2)), []);
        assert.deepEqual(ids(await pages('is_active=false&sort=name', 2)), expected((row) => !row.is_active, 'name', false));
        assert.deepEqual(ids(await pages('is_active=true&name=apple&sort=-updated_at', 1)), expected((row) => row.is_active && row.name === 'apple', 'updated_at'));
        assert.deepEqual(ids(await pages('tag=early&is_active=true&sort=name', 1)), expected((row) => row.is_active && row.tags.includes('early'), 'name', false));
        assert.deepEqual(ids(await pages(`name=${encodeURIComponent('ä')}`, 2)), expected((row) => row.name === 'ä'));
    });

    test('count tells the number of what is filtered', async () => {
        const answer = await editor.get('/api/v1/workflows?name=apple&count=true&limit=1', { expect: 200 });
        assert.equal(answer.headers.get('x-total-count'), '3');
    });

    test('a value that no row can have is refused, not looked for; SQL is a value', async () => {
        errorAt(await editor.get('/api/v1/workflows?is_active=perhaps', { expect: 422 }), 'query/is_active');
        errorAt(await editor.get('/api/v1/workflows?name=', { expect: 422 }), 'query/name');
        errorAt(await editor.get(`/api/v1/workflows?name=${'x'.repeat(121)}`, { expect: 422 }), 'query/name');
        errorAt(await editor.get('/api/v1/workflows?name=a&name=b', { expect: 422 }), 'query/name');
        assert.deepEqual((await editor.get(`/api/v1/workflows?name=${encodeURIComponent("' OR 1=1 --")}`, { expect: 200 })).body, []);
        const all = await editor.get('/api/v1/workflows?sort=version&is_active=7&limit=0&fields=nothing&what=x', { expect: 422 });
        for (const name of ['sort', 'is_active', 'limit', 'fields', 'what']) errorAt(all, `query/${name}`);
    });
});

test('triggers of a workflow', async () => {
    const { id } = await createWorkflow(editor, simple), path = `/api/v1/webhooks/${id}/triggers`;
    const hooks = [];
    for (const name of ['b', 'c', 'a', 'b']) hooks.push(await createTrigger(editor, id, { name, is_active: name !== 'c' }));
    assert.deepEqual((await pages('sort=name', 1, path)).map((row) => row.name), ['a', 'b', 'b', 'c']);
    assert.deepEqual(ids(await pages('sort=-created_at', 3, path)), ids(hooks).reverse());
    assert.deepEqual(ids(await pages('', 3, path)), ids(hooks).reverse());
    assert.deepEqual((await pages('name=b&is_active=true', 1, path)).length, 2);
    assert.deepEqual((await pages('is_active=false', 1, path)).map((row) => row.name), ['c']);
    const { headers } = await editor.get(`${path}?is_active=true&count=true`, { expect: 200 });
    assert.equal(headers.get('x-total-count'), '3');
});

describe('fields', () => {
    // The schema is that of whole objects, as the parameter's description says: `raw` leaves it out.
    const masked = (path) => editor.get(path, { raw: true, expect: 200 });

    test('only what is asked for, of a list and of one', async () => {
        const list = await masked('/api/v1/workflows?fields=id,name&limit=2&sort=name');
        for (const row of list.body) assert.deepEqual(Object.keys(row), ['id', 'name']);
        assert.match(list.headers.get('link'), /fields=id,name/);
        const one = await masked(`/api/v1/workflows/${rows[0].id}?fields=version`);
        assert.deepEqual(one.body, { version: 1 });
        const versions = await masked(`/api/v1/workflows/${rows[0].id}/versions?fields=version`);
        assert.deepEqual(versions.body, [{ version: 1 }]);
    });

    test('a member that there is not is named; a POST knows no fields', async () => {
        errorAt(await editor.get('/api/v1/workflows?fields=id,tenant_id', { expect: 422 }), 'query/fields');
        errorAt(await editor.get('/api/v1/workflows?fields=', { expect: 422 }), 'query/fields');
        errorAt(await editor.post('/api/v1/workflows?fields=id', { name: 'x', definition: simple }, { expect: 422 }), 'query/fields');
    });
});

test('the document lists them', async () => {
    const { body } = await weir.anonymous().get('/openapi.json'), parameters = body.paths['/api/v1/workflows'].get.parameters;
    const schema = (name) => parameters.find((one) => one.name === name && one.in === 'query')?.schema;
    assert.deepEqual(schema('sort').enum, ['id', '-id', 'name', '-name', 'created_at', '-created_at', 'updated_at', '-updated_at']);
    assert.equal(schema('sort').default, '-id');
    assert.equal(schema('is_active').type, 'boolean');
    assert.equal(schema('name').maxLength, 120);
    assert.ok(schema('fields').items.enum.includes('definition'));
});
