// The worked examples of README.md are what the server really says: run again here, and compared with what is printed there.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { bounded } from '../lib/wait.mjs';

const file = (path) => new URL(`../../${path}`, import.meta.url);
const printed = (name) => readFileSync(file(`examples/${name}.out`), 'utf8');

let weir;
before(async () => {
    weir = await Weir.start({ env: { WEIR_EGRESS_ALLOW: '127.0.0.0/8' } }); // it calls itself
});
after(() => weir?.stop());

/** What differs from run to run: ids, times, durations, the port. */
const masked = (text) =>
    text
        .replace(/\b([a-z]+)_[0-9a-z]{26}\b/g, '$1_…')
        .replace(/\b\d\d:\d\d:\d\d\.\d{6}\b/g, 'TIME')
        .replace(/\bin \d[\d.e-]* s$/gm, 'in SECONDS s')
        .replace(/127\.0\.0\.1:\d+/g, 'SERVER');

async function run(name, ...args) {
    const child = spawn('sh', [fileURLToPath(file(`examples/${name}.sh`)), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, complaint] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (complaint += text));
    const status = await bounded('the example ends', 60_000, new Promise((done) => child.once('close', done)));
    assert.equal(status, 0, complaint);
    return out;
}

for (const name of ['score', 'basket']) {
    test(`examples/${name}.sh says what examples/${name}.out shows`, async () => {
        const out = await run(name, 'owner@acme.test', PASSWORD, weir.base);
        assert.equal(masked(out.trimStart()), masked(printed(name)), 'if the change is meant: run the example on a fresh server and keep its output');
    });

    test(`README.md shows the whole of examples/${name}.out`, () => {
        const shown = new RegExp(`<!-- example: examples/${name}\\.out -->\\n\`\`\`\\n(.*?)\`\`\`\\n`, 's').exec(readFileSync(file('README.md'), 'utf8'));
        assert.equal(shown?.[1], printed(name));
    });
}
