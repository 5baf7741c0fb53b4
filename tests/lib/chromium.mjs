// chromium.mjs - Debian's Chromium, without a screen: what a browser really does with cookies, forms and policies, in place of what we think it does.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const PROGRAM = '/usr/bin/chromium';
/** Why there is no browser to test with; undefined: there is one. */
export const MISSING = existsSync(PROGRAM) ? undefined : `there is no ${PROGRAM}: tools/deps.sh test`;

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** All names under .test are this machine, so pages stand at origins and sites of their own. person() is another person's browser. */
export async function launch() {
    const folder = mkdtempSync(join(process.env.WEIR_TEST_TMP ?? tmpdir(), 'weir-chromium-'));
    const env = { ...process.env, TMPDIR: folder, HOME: folder };
    const browser = await chromium.launch({ executablePath: PROGRAM, args: [...FLAGS, '--host-resolver-rules=MAP *.test 127.0.0.1'], env });
    return {
        person: () => browser.newContext({ ignoreHTTPSErrors: true }),
        close: async () => {
            await browser.close();
            rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
        },
    };
}

/** Pages of somebody else: a server whose every path answers `pages[path]` as HTML, or {html, headers}. */
export async function strangersPages({ cert, key }, pages) {
    const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (request, answer) => {
        const page = pages[request.url];
        answer.writeHead(page ? 200 : 404, { 'content-type': 'text/html', ...page?.headers });
        answer.end(page?.html ?? page ?? '');
    });
    await new Promise((done) => server.listen(0, '127.0.0.1', done));
    return { port: server.address().port, pages, close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }) };
}
