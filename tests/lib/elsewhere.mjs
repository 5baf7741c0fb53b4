// elsewhere.mjs - requests from another address than ours: all of 127.0.0.0/8 is this machine, so a client may stand at any of 16 million places.

import http from 'node:http';

let hosts = 0;
/** Another loopback address each time. */
export const elsewhere = () => `127.1.${Math.floor(++hosts / 250)}.${(hosts % 250) + 1}`;

/** A POST from that address, on a connection of its own: {status, headers, text, body, took_ms}. */
export function postFrom(address, base, path, content, headers = {}) {
    const sent = JSON.stringify(content);
    const began = performance.now();
    const options = { method: 'POST', localAddress: address, agent: false, headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(sent), ...headers } };
    return new Promise((done, fail) => {
        const request = http.request(base + path, options, (answer) => {
            let text = '';
            answer.setEncoding('utf8').on('data', (piece) => (text += piece)).on('end', () =>
                done({ status: answer.statusCode, headers: answer.headers, text, body: text === '' ? undefined : JSON.parse(text), took_ms: performance.now() - began }));
        });
        request.on('error', fail).end(sent);
    });
}
