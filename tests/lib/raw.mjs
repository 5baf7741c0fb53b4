// raw.mjs - bytes to a socket and bytes back, for requests that no honest client would send.

import { connect } from 'node:net';
import { bounded } from './wait.mjs';

/** Sends the pieces one after the other and reads until the other side closes; {status, head, body, text, closed}. */
export async function exchange(weir, pieces, { within_ms = 15_000, half_close = false } = {}) {
    const socket = connect({ port: weir.port, host: '127.0.0.1', allowHalfOpen: true });
    const chunks = [];
    const ended = new Promise((done) => {
        socket.on('data', (chunk) => chunks.push(chunk));
        socket.on('end', done).on('close', done).on('error', done); // a reset after the answer is a close as well
    });
    await new Promise((done, fail) => socket.once('connect', done).once('error', fail));
    for (const piece of [pieces].flat()) await new Promise((done) => socket.write(piece, 'latin1', done));
    if (half_close) socket.end();
    try {
        await bounded('the server closes the connection', within_ms, ended);
    } finally {
        socket.destroy();
    }
    return answers(Buffer.concat(chunks).toString('latin1'));
}

function answers(text) {
    const list = text.split(/(?=HTTP\/1\.[01] \d{3} )/).filter((part) => part.startsWith('HTTP/'));
    const [first = ''] = list;
    const split = first.indexOf('\r\n\r\n');
    return { text, list, status: Number(first.slice(9, 12)), statuses: list.map((part) => Number(part.slice(9, 12))),
        head: first.slice(0, split), body: first.slice(split + 4) };
}
