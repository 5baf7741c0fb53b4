// A disk that is full: writes are refused by a code of their own, reads go on, and when there is room again so do writes, without a restart.
// The disk is a small one in memory, in a mount namespace of its own; where the machine does not allow that, src/feat/test_faults.c has to do.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { createTrigger, createWorkflow, finalExecution, getExecution, transform } from '../lib/flows.mjs';
import { DB, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const NAMESPACE = ['unshare', '--user', '--map-root-user', '--mount'];
const possible = spawnSync(NAMESPACE[0], [...NAMESPACE.slice(1), 'sh', '-c', 'mount -t tmpfs -o size=1m none /mnt']).status === 0;
const skip = DB === 'postgres' ? 'the disk that fills is the one under SQLite' : !possible && 'no mount namespaces here';
// What was prepared is copied onto the small disk, with something that can be deleted.
const SMALL_DISK =
    'cp -a "$WEIR_DATA" "$WEIR_DATA.seed" && mount -t tmpfs -o size=8m,mode=700 none "$WEIR_DATA" && cp -a "$WEIR_DATA.seed/." "$WEIR_DATA" && ' +
    'head -c 3m /dev/zero > "$WEIR_DATA/filler" && exec "$@"';

let weir, editor;
before(async () => {
    if (skip) return;
    weir = await Weir.start({ within: [...NAMESPACE, 'sh', '-c', SMALL_DISK, 'sh'] });
    editor = await weir.as('editor');
});
after(() => weir?.stop());

const large = (n) => ({ name: `large ${n}`, definition: { steps: [transform('t', { text: 'x'.repeat(150_000) })] } });

test('a full disk refuses writes, serves reads, tells, and heals', { skip }, async () => {
    const small = await createWorkflow(editor, { steps: [transform('t', { n: '{{ input.n }}' })] });
    const { webhook_url } = await createTrigger(editor, small.id, { rate_limit: null });
    const waits = await createWorkflow(editor, { steps: [{ id: 'd', type: 'delay', with: { ms: 1000 } }] });
    const made = [];
    let refused;
    const { body: waiting } = await editor.post(`/api/v1/workflows/${waits.id}/execute?wait=0`, { input_data: {} }, { expect: 202 });
    for (let n = 0; n < 200 && !refused; n++) {
        const answer = await editor.post('/api/v1/workflows', large(n));
        if (answer.status === 201) made.push(answer.body.id);
        else refused = answer;
    }
    assert.equal(refused?.status, 503, `${made.length} fitted`);
    assert.equal(refused.body.code, 'server.storage');
    await until('nothing at all fits any more', async () => (await editor.post('/api/v1/workflows', large('more'))).status === 503
        && (await weir.anonymous().post(webhook_url, { n: 1 })).status === 503);
    assert.equal((await weir.anonymous().get('/readyz', { expect: 503, raw: true })).body.status, 'full');
    assert.equal((await editor.get('/api/v1/health', { expect: 200 })).body.status, 'full');
    for (const id of made) await editor.get(`/api/v1/workflows/${id}`, { expect: 200 });
    await editor.get('/api/v1/workflows?limit=5', { expect: 200 });

    rmSync(`/proc/${weir.child.pid}/root${weir.data}/filler`);
    await until('there is room again', async () => (await weir.anonymous().get('/readyz', { raw: true })).status === 200);
    await editor.post('/api/v1/workflows', large('after'), { expect: 201 });
    const { body } = await weir.anonymous().post(webhook_url, { n: 2 }, { expect: 200 });
    assert.deepEqual((await getExecution(editor, body.execution_id)).output_data, { t: { n: 2 } });
    assert.equal((await finalExecution(editor, waiting.execution_id)).status, 'completed');
    for (const id of made) await editor.get(`/api/v1/workflows/${id}`, { expect: 200 });
    const told = weir.log().filter(({ event }) => event?.startsWith('db.disk_'));
    assert.ok(told.length >= 2 && told.length < 50, `the log tells each change once: ${told.length}`);
    assert.ok(readFileSync(`/proc/${weir.child.pid}/stat`, 'utf8'), 'the same process');
});
