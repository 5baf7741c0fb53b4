// waiting.mjs - what 10,000 executions in a delay of an hour cost in memory, and a start that finds them.

import { call, end, metric, options, restedRss, rss, signIn, weir, workflow } from '../lib.mjs';

const WAITING = 10_000;
const WARM = 500; // connections and stacks are there before it is counted

/** Resolves when nothing of the engine is in memory any more. */
async function parked(server) {
    const until = performance.now() + 60_000;
    while ((await metric(server, 'weir_executions_live')) > 0) if (performance.now() > until) throw new Error('executions stay in memory');
}

async function start(server, flow, count) {
    let left = count;
    const one = async () => {
        while (left-- > 0) await call(server, 'POST', flow.webhook, { n: left });
    };
    await Promise.all(Array.from({ length: Number(options.connections) }, one));
    await parked(server);
}

export async function waiting() {
    const server = await weir('waiting');
    const definition = { steps: [{ id: 'hour', type: 'delay', with: { ms: 3_600_000 } }], settings: { timeout_ms: 86_400_000 } };
    const flow = await workflow(server, await signIn(server), definition, { respond: 'accepted' });
    await start(server, flow, WARM);
    const before = await restedRss(server.child);
    await start(server, flow, WAITING);
    const kb = (((await restedRss(server.child)) - before) * 1024) / WAITING;
    await end(server.child, 'SIGKILL');
    const began = performance.now();
    const again = await server.start();
    while (!(await fetch(`${again.base}/readyz`)).ok);
    const ready = performance.now() - began;
    const memory = rss(again.child);
    await end(again.child);
    return [
        { what: `${WAITING} waiting executions`, note: `${kb.toFixed(2)} KB of memory each (aim 2)` },
        { what: 'start with them after kill -9', note: `ready in ${ready.toFixed(0)} ms (aim 1000), with ${memory.toFixed(1)} MB` },
    ];
}
