// listeners.mjs - 10,000 listeners of one execution's events, which come once a second: memory of each, and the share of a core.

import { connect } from 'node:net';
import { call, cpu, elapse, end, restedRss, signIn, weir, workflow } from '../lib.mjs';

const LISTENERS = 10_000;
const AT_ONCE = 100;
const SECONDS = 8;

function listen(port, path, token, heard) {
    return new Promise((done, fail) => {
        const socket = connect(port, '127.0.0.1', () => socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ${token}\r\nAccept: text/event-stream\r\n\r\n`));
        socket.once('error', fail).once('data', (head) => (head.includes(' 200 ') ? done(socket) : fail(new Error(head.toString().slice(0, 500)))));
        socket.on('data', (bytes) => (heard.events += bytes.toString('latin1').split('event: ').length - 1));
    });
}

/** A loop that does something once a second. */
const TICKING = {
    steps: [{ id: 'tick', type: 'foreach', with: { items: '{{ input.list }}', steps: { steps: [{ id: 'second', type: 'delay', with: { ms: 1000 } }] } } }],
    settings: { timeout_ms: 86_400_000 },
};

export async function listeners() {
    const server = await weir('listeners');
    const token = await signIn(server);
    const flow = await workflow(server, token, TICKING);
    const { execution_id } = await call(server, 'POST', `${flow.path}/execute?wait=0`, { input_data: { list: Array.from({ length: 300 }, (_, i) => i) } }, token);
    const heard = { events: 0 };
    const path = `/api/v1/executions/${execution_id}/events`;
    const sockets = await Promise.all(Array.from({ length: AT_ONCE }, () => listen(server.port, path, token, heard)));
    const before = await restedRss(server.child);
    while (sockets.length < LISTENERS) sockets.push(...(await Promise.all(Array.from({ length: AT_ONCE }, () => listen(server.port, path, token, heard)))));
    const kb = (((await restedRss(server.child)) - before) * 1024) / (LISTENERS - AT_ONCE);
    const [events, used, began] = [heard.events, cpu(server.child), performance.now()];
    await elapse(SECONDS * 1000);
    const seconds = (performance.now() - began) / 1000;
    const core = ((cpu(server.child) - used) / seconds) * 100, each = (heard.events - events) / seconds / LISTENERS;
    for (const socket of sockets) socket.destroy();
    await end(server.child);
    return [
        { what: `${LISTENERS} listeners of events`, note: `${kb.toFixed(2)} KB of memory each (aim 8)` },
        { what: 'their events', note: `${each.toFixed(1)} a second each take ${core.toFixed(0)} % of a core; ${(core / each).toFixed(0)} % for one (aim 20)` },
    ];
}
