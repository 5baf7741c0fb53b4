// The statements that look at the rows of more than one tenant are a committed list: whoever adds or changes one changes the list too, so it
// is seen by whoever reads the change. All others must bind the tenant, which the server checks at its start.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { runWeir } from '../lib/server.mjs';

const LIST = new URL('../golden/system-statements.txt', import.meta.url);

test('the statements without a tenant are those of tests/golden/system-statements.txt', () => {
    const { status, stdout } = runWeir(['statements']);
    assert.equal(status, 0);
    const lines = stdout.trimEnd().split('\n');
    assert.ok(lines.every((line) => /^(tenant|system) \w+ +[A-Z]/.test(line)), 'SCOPE NAME SQL');
    const listed = readFileSync(LIST, 'utf8').trimEnd().split('\n');
    const found = lines.filter((line) => line.startsWith('system '));
    const how = "\nread each again, then: build-asan/weir statements | grep '^system ' >tests/golden/system-statements.txt";
    assert.deepEqual(found.filter((line) => !listed.includes(line)), [], `not in the list${how}`);
    assert.deepEqual(listed.filter((line) => !found.includes(line)), [], `only in the list${how}`);
});
