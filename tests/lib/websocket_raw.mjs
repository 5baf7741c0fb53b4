// websocket_raw.mjs - a WebSocket client by hand: it can break every rule, and send the headers that a browser cannot.

import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { bounded } from './wait.mjs';

export const OP = { CONTINUATION: 0, TEXT: 1, BINARY: 2, CLOSE: 8, PING: 9, PONG: 10 };

/** One frame of a client; `mask` false leaves the mask out. */
export function wsFrame(opcode, payload = Buffer.alloc(0), { fin = true, mask = true, rsv = 0, length = payload.length } = {}) {
    const head = [(fin ? 128 : 0) | (rsv << 4) | opcode];
    const masked = mask ? 128 : 0;
    if (length < 126) head.push(masked | length);
    else head.push(masked | 126, length >> 8, length & 255);
    if (!mask) return Buffer.concat([Buffer.from(head), payload]);
    const key = randomBytes(4);
    return Buffer.concat([Buffer.from(head), key, Buffer.from(payload.map((byte, i) => byte ^ key[i % 4]))]);
}

export const closeFrame = (code) => wsFrame(OP.CLOSE, Buffer.from([code >> 8, code & 255]));

export class RawWebSocket {
    /** The handshake's answer is in .status and .head. `early`: bytes that do not wait for it. */
    static async open(weir, path, { headers = {}, token, early } = {}) {
        const ws = new RawWebSocket();
        const key = randomBytes(16).toString('base64');
        const sent = { Host: `127.0.0.1:${weir.port}`, Upgrade: 'websocket', Connection: 'keep-alive, Upgrade', 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': '13',
            ...(token && { Authorization: `Bearer ${token}` }), ...headers };
        ws.expected = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
        ws.socket = connect(weir.port, '127.0.0.1');
        ws.bytes = Buffer.alloc(0);
        ws.frames = [];
        ws.closed = new Promise((done) => ws.socket.once('close', done));
        ws.waiting = [];
        ws.socket.on('error', () => {}).on('data', (bytes) => ws.#take(bytes));
        ws.closed.then(() => ws.#wake());
        const lines = Object.entries(sent).filter(([, value]) => value !== undefined).map(([name, value]) => `${name}: ${value}\r\n`);
        ws.socket.write(Buffer.concat([Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`), early ?? Buffer.alloc(0)]));
        await ws.#until('the handshake is answered', () => ws.head);
        return ws;
    }

    #take(bytes) {
        this.bytes = Buffer.concat([this.bytes, bytes]);
        if (!this.head) {
            const end = this.bytes.indexOf('\r\n\r\n');
            if (end < 0) return;
            this.head = this.bytes.subarray(0, end).toString('latin1');
            this.status = Number(this.head.slice(9, 12));
            this.bytes = this.bytes.subarray(end + 4);
        }
        while (this.status === 101 && this.#frame());
        this.#wake();
    }

    #frame() {
        if (this.bytes.length < 2) return false;
        let length = this.bytes[1] & 127, at = 2;
        if (length >= 126) {
            const wide = length === 127 ? 8 : 2;
            if (this.bytes.length < 2 + wide) return false;
            length = wide === 8 ? Number(this.bytes.readBigUInt64BE(2)) : this.bytes.readUInt16BE(2);
            at += wide;
        }
        if (this.bytes.length < at + length) return false;
        const payload = this.bytes.subarray(at, at + length);
        this.frames.push({ opcode: this.bytes[0] & 15, fin: this.bytes[0] >= 128, masked: this.bytes[1] >= 128, payload });
        this.bytes = this.bytes.subarray(at + length);
        return true;
    }

    #wake() {
        for (const wake of this.waiting.splice(0)) wake();
    }

    async #until(what, found, within_ms = 10_000) {
        let over = false;
        this.closed.then(() => (over = true));
        return bounded(what, within_ms, (async () => {
            for (;;) {
                const value = found();
                if (value || over) return value;
                await new Promise((done) => this.waiting.push(done));
                await Promise.resolve();
            }
        })());
    }

    find = (what, fits, within_ms) => this.#until(what, () => this.frames.find(fits), within_ms);

    /** Texts so far, parsed. */
    messages() {
        return this.frames.filter(({ opcode }) => opcode === OP.TEXT).map(({ payload }) => JSON.parse(payload.toString()));
    }

    send(...frames) {
        this.socket.write(Buffer.concat(frames));
        return this;
    }

    /** The code of the server's Close, and the connection ends behind it. */
    async code(within_ms) {
        const close = await this.find('Close', ({ opcode }) => opcode === OP.CLOSE, within_ms);
        this.socket.end();
        await bounded('the server closes the connection', 10_000, this.closed);
        return close && (close.payload.length >= 2 ? close.payload.readUInt16BE(0) : 1005);
    }
}
