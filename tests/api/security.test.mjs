// docs/security.md names a test for each requirement: they must be there, or it promises what nobody holds.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

const ROOT = new URL('../../', import.meta.url).pathname;
const text = readFileSync(join(ROOT, 'docs/security.md'), 'utf8');
const rows = text.split('\n').filter((line) => /^\| [\d.]/.test(line)).map((line) => line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '')));

const units = readdirSync(join(ROOT, 'src'), { recursive: true }).filter((name) => /test_\w+\.c$/.test(name));
/** Titles of a file's tests, or the names of a unit test's functions. */
function titles(file) {
    if (file.endsWith('.c')) {
        const path = units.find((name) => name.endsWith(`/${file}`));
        assert.ok(path, `there is no ${file}`);
        return [...readFileSync(join(ROOT, 'src', path), 'utf8').matchAll(/^static void (test_\w+)\(/gm)].map(([, name]) => name);
    }
    const path = join(ROOT, 'tests/api', `${file}.test.mjs`);
    assert.ok(existsSync(path), `there is no tests/api/${file}.test.mjs`);
    return [...readFileSync(path, 'utf8').matchAll(/\b(?:test|describe)\((['`])((?:\\.|(?!\1).)*)\1/g)].map(([, , title]) => title.replaceAll("\\'", "'"));
}

describe('docs/security.md', () => {
    test('has the requirements in its table', () => assert.ok(rows.length >= 30, `${rows.length} rows`));
    test('counts the forged tokens that auth.test.mjs tries', () => {
        const tried = readFileSync(join(ROOT, 'tests/api/auth.test.mjs'), 'utf8').split('const forged = {')[1].split('\n    };')[0].match(/^ {8}'[^\n]*': \(\) =>/gm).length;
        assert.deepEqual([...text.matchAll(/(\d+) forgeries/g)].map(([, n]) => Number(n)), [tried, tried]);
    });
    for (const [numbers, requirement, proofs] of rows)
        test(`${numbers} ${requirement.slice(0, 60)}`, () => {
            const [older, newer] = numbers.split(' / ');
            for (const list of [older, newer]) assert.match(list, /^\d+\.\d+\.\d+(–\d+\.\d+\.\d+)?(, \d+\.\d+\.\d+(–\d+\.\d+\.\d+)?)*$/);
            assert.match(proofs, /^[\w.-]+: \*[^*]+\*(, \*[^*]+\*)*(; [\w.-]+: \*[^*]+\*(, \*[^*]+\*)*)*$/);
            for (const proof of proofs.split(/; (?=[\w.-]+: \*)/)) {
                const file = proof.slice(0, proof.indexOf(': '));
                const known = titles(file);
                for (const [, words] of proof.matchAll(/\*([^*]+)\*/g)) assert.ok(known.some((title) => title.includes(words)), `${file} has no test whose title holds: ${words}`);
            }
        });
});
