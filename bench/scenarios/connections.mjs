// connections.mjs - what 10,000 connections cost that have had an answer and ask for nothing.

import { connect } from 'node:net';
import { end, restedRss, weir } from '../lib.mjs';

const IDLE = 10_000;
const AT_ONCE = 200;

function open(port) {
    return new Promise((done, fail) => {
        const socket = connect(port, '127.0.0.1', () => socket.write('GET /livez HTTP/1.1\r\nHost: bench\r\n\r\n'));
        socket.once('error', fail).once('data', () => done(socket));
    });
}

export async function connections() {
    const server = await weir('connections');
    const warm = await Promise.all(Array.from({ length: AT_ONCE }, () => open(server.port)));
    const before = await restedRss(server.child);
    const sockets = [];
    while (sockets.length < IDLE) sockets.push(...(await Promise.all(Array.from({ length: AT_ONCE }, () => open(server.port)))));
    const kb = (((await restedRss(server.child)) - before) * 1024) / IDLE;
    for (const socket of [...warm, ...sockets]) socket.destroy();
    await end(server.child);
    return [{ what: `${IDLE} idle connections`, note: `${kb.toFixed(2)} KB of memory each (aim 4)` }];
}
