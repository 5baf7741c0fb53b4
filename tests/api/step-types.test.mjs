// Step types: what an editor needs to make a form for each, and that the schemas mean what the engine means.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { Weir } from '../lib/server.mjs';

let weir, viewer, types;
before(async () => {
    weir = await Weir.start();
    viewer = await weir.as('viewer');
    types = (await viewer.get('/api/v1/step-types', { expect: 200 })).body;
});
after(() => weir?.stop());

const compile = (schema) => addFormats(new Ajv2020({ strict: false })).compile(schema);

test('every type that a definition may name is there, once, with its texts', async () => {
    const { body } = await viewer.get('/openapi.json', { expect: 200 });
    const named = body.components.schemas.Step.properties.type.enum;
    assert.deepEqual(types.map(({ type }) => type), named);
    for (const { type, doc, output } of types) assert.ok(doc.length > 5 && output.length > 1, type);
    const of = Object.fromEntries(types.map((row) => [row.type, row]));
    assert.deepEqual([of.http.outside, of.delay.outside, of.transform.outside], [true, true, false]);
});

test('each schema is JSON Schema 2020-12 that stands alone', () => {
    for (const { type, with: schema } of types) {
        assert.equal(schema.$schema, 'https://json-schema.org/draft/2020-12/schema');
        for (const [, ref] of JSON.stringify(schema).matchAll(/"\$ref":"([^"]+)"/g)) assert.match(ref, /^#\/\$defs\/[A-Za-z]+$/, type);
        compile(schema);
    }
});

describe('what a schema says of an input is what validation says', () => {
    const cases = [
        ['http', { url: 'https://example.com' }, true],
        ['http', {}, false],
        ['http', { url: 'https://example.com', method: 'FETCH' }, false],
        ['http', { url: 'https://example.com', colour: 'red' }, false],
        ['http', { url: '{{ input.url }}', follow_redirects: '{{ input.n }}' }, true],
        ['http', { url: 'https://example.com', follow_redirects: 11 }, false],
        ['transform', { a: 1, b: [{}] }, true],
        ['script', { code: 'return 1' }, true],
        ['script', {}, false],
        ['delay', { ms: 5 }, true],
        ['delay', { ms: -1 }, false],
        ['delay', { until: 'tomorrow' }, false],
        ['respond', { status: 204 }, true],
        ['respond', { status: 1000 }, false],
        ['fail', { message: 'no' }, true],
    ];
    for (const [type, given, good] of cases)
        test(`${type} ${JSON.stringify(given)}: ${good ? 'fits' : 'does not fit'}`, async () => {
            const { with: schema } = types.find((row) => row.type === type);
            assert.equal(compile(schema)(given), good, 'schema');
            const definition = { steps: [{ id: 'a', type, with: given }] };
            const { body } = await viewer.post('/api/v1/workflows/validate', { definition }, { expect: 200 });
            assert.equal(body.valid, good, JSON.stringify(body));
        });
});

test('unknown query parameters are refused', async () => {
    await viewer.get('/api/v1/step-types?type=http', { expect: 422 });
});
