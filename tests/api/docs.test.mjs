// Docs: the pages for people, which load nothing from anywhere else, and the page to which the `type` of every problem leads.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { BINARY, Weir, runWeir } from '../lib/server.mjs';

let weir, anyone;
before(async () => {
    weir = await Weir.start({ users: false });
    anyone = weir.anonymous();
});
after(() => weir?.stop());

const attributes = (html, name) => [...html.matchAll(new RegExp(`\\b${name}="([^"]*)"`, 'g'))].map((match) => match[1]);

for (const path of ['/docs', '/redoc', '/docs/errors']) {
    test(`${path} is a page that loads only what this server serves`, async () => {
        const { text, type, headers } = await anyone.get(path, { expect: 200 });
        assert.match(type, /^text\/html/);
        const links = [...attributes(text, 'src'), ...attributes(text, 'href'), ...attributes(text, 'spec-url')];
        assert.ok(links.length > 2);
        for (const link of new Set(links)) {
            assert.match(link, /^(\/[a-z]|#[a-z])/, `${link} stays here`);
            if (link.startsWith('/')) await anyone.get(link, { expect: 200 });
        }
        const policy = headers.get('content-security-policy');
        assert.match(policy, /^default-src 'none';/);
        assert.match(policy, /frame-ancestors 'none'/);
        assert.doesNotMatch(policy, /https?:|\*|unsafe-eval|script-src[^;]*unsafe/);
        assert.doesNotMatch(text, /<script(?! src=)|<style| on[a-z]+=/, 'no script or style inside the page');
    });

    test(`${path}/ is the same route, and HEAD has no body`, async () => {
        await anyone.get(`${path}/`, { expect: 200 });
        await anyone.head(path, { expect: 200 });
    });
}

test('/docs leads to the document, with the viewer or without', async () => {
    const { text } = await anyone.get('/docs', { expect: 200 });
    assert.ok(attributes(text, 'href').includes('/openapi.json'));
    const { status } = await anyone.get('/docs/assets/swagger-ui-bundle.js');
    assert.equal(text.includes('make console'), status === 404, 'the page says so when the viewer is not built in');
});

test('a file of the pages is known again by its ETag', async () => {
    const first = await anyone.get('/docs/assets/docs.css', { expect: 200, raw: true });
    assert.match(first.type, /^text\/css/);
    assert.match(first.headers.get('cache-control'), /max-age=/);
    const again = await anyone.get('/docs/assets/docs.css', { headers: { 'if-none-match': first.headers.get('etag') }, expect: 304, raw: true });
    assert.equal(again.text, '');
});

test('a file that is not there is 404, whatever its name', async () => {
    for (const name of ['nothing.js', '..%2Fdocs.c', '.hidden', 'swagger-ui-bundle.js.br', 'x'.repeat(2000)]) await anyone.get(`/docs/assets/${name}`, { expect: 404 });
});

test('/docs/errors has an anchor for each code of `weir errors`, where the type of a problem leads', async () => {
    const { text } = await anyone.get('/docs/errors', { expect: 200 });
    const codes = JSON.parse(runWeir(['errors', '--json']).stdout).map(({ code }) => code);
    assert.deepEqual(attributes(text, 'id').sort(), [...new Set(codes)].sort());
    const { body } = await anyone.get('/api/v1/workflows', { expect: 401 });
    const [path, anchor] = body.type.split('#');
    assert.equal(path, '/docs/errors');
    assert.ok(attributes(text, 'id').includes(anchor));
});

test('docs/api.md, errors.md, configuration.md and .env.example are what this binary says', () => {
    const tool = new URL('../../tools/docs.mjs', import.meta.url).pathname;
    const { status, stderr } = spawnSync(process.execPath, [tool, '--check', '--binary', BINARY], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
});
