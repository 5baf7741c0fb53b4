// http2_raw.mjs - HTTP/2 frames by hand, for what no honest client would send. Fields go out as literals; of answers only the status is read.

import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { bounded } from './wait.mjs';

export const TYPE = { DATA: 0, HEADERS: 1, PRIORITY: 2, RST_STREAM: 3, SETTINGS: 4, PUSH_PROMISE: 5, PING: 6, GOAWAY: 7, WINDOW_UPDATE: 8, CONTINUATION: 9 };
export const FLAG = { ACK: 1, END_STREAM: 1, END_HEADERS: 4, PADDED: 8, PRIORITY: 32 };
export const ERROR = { NO_ERROR: 0, PROTOCOL_ERROR: 1, INTERNAL_ERROR: 2, FLOW_CONTROL_ERROR: 3, STREAM_CLOSED: 5, FRAME_SIZE_ERROR: 6, REFUSED_STREAM: 7, CANCEL: 8, COMPRESSION_ERROR: 9, ENHANCE_YOUR_CALM: 11 };
export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export const u32 = (n) => {
    const b = Buffer.alloc(4);
    b.writeUInt32BE(n >>> 0);
    return b;
};

/** One frame; `length` lies about the payload's. */
export function frame(type, flags, stream, payload = Buffer.alloc(0), length = payload.length) {
    const head = Buffer.alloc(9);
    head.writeUIntBE(length, 0, 3);
    head.writeUInt8(type, 3);
    head.writeUInt8(flags, 4);
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, payload]);
}

export const setting = (id, value) => Buffer.concat([Buffer.from([id >> 8, id & 255]), u32(value)]);

const integer = (n) => {
    if (n < 127) return Buffer.from([n]);
    const bytes = [127];
    for (n -= 127; n >= 128; n = Math.floor(n / 128)) bytes.push((n % 128) + 128);
    return Buffer.from([...bytes, n]);
};
const text = (s) => Buffer.concat([integer(Buffer.byteLength(s, 'latin1')), Buffer.from(s, 'latin1')]);

/** A header block of literals that nobody remembers. */
export const block = (fields) => Buffer.concat(fields.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]));

export const get = (path = '/livez', more = []) => [[':method', 'GET'], [':path', path], [':scheme', 'http'], [':authority', 'weir.test'], ...more];
export const post = (path = '/api/v1/auth/token', more = []) => [[':method', 'POST'], ...get(path).slice(1), ['content-type', 'application/json'], ...more];

// Huffman codes of the digits (RFC 7541, appendix B): 0 1 2 have five bits, 3 to 9 six.
const DIGITS = new Map([['00000', 0], ['00001', 1], ['00010', 2], ['011001', 3], ['011010', 4], ['011011', 5], ['011100', 6], ['011101', 7], ['011110', 8], ['011111', 9]]);
function huffmanNumber(bytes) {
    let bits = '', number = '', code = '';
    for (const byte of bytes) bits += byte.toString(2).padStart(8, '0');
    for (const bit of bits) {
        code += bit;
        if (DIGITS.has(code)) [number, code] = [number + DIGITS.get(code), ''];
    }
    return Number(number);
}

/** :status stands first in every answer. */
export function statusOf(payload) {
    let i = 0;
    while ((payload[i] & 0xe0) === 0x20) i++; // size of a table that we do not keep
    const indexed = { 0x88: 200, 0x89: 204, 0x8a: 206, 0x8b: 304, 0x8c: 400, 0x8d: 404, 0x8e: 500 }[payload[i]];
    if (indexed) return indexed;
    const length = payload[i + 1] & 127, value = payload.subarray(i + 2, i + 2 + length);
    return payload[i + 1] & 128 ? huffmanNumber(value) : Number(value.toString('latin1'));
}

export class RawHttp2 {
    /** Connected, settings said. `tls`: options of tls.connect. `settings` false: only the preface. */
    static async open(weir, { tls, preface = PREFACE, settings = true } = {}) {
        const raw = new RawHttp2();
        const where = { host: '127.0.0.1', port: weir.port };
        raw.socket = tls ? connectTls({ ...where, ALPNProtocols: ['h2'], ...tls }) : connect(where);
        raw.frames = [];
        raw.rest = Buffer.alloc(0);
        raw.waiting = [];
        raw.closed = new Promise((done) => raw.socket.once('close', done));
        raw.socket.on('data', (bytes) => raw.#take(bytes)).on('error', () => {});
        raw.closed.then(() => raw.#wake());
        await new Promise((done, fail) => raw.socket.once(tls ? 'secureConnect' : 'connect', done).once('error', fail));
        raw.send(preface);
        if (settings) raw.send(frame(TYPE.SETTINGS, 0, 0, setting(1, 0)));
        return raw;
    }

    #take(bytes) {
        this.rest = Buffer.concat([this.rest, bytes]);
        while (this.rest.length >= 9) {
            const length = this.rest.readUIntBE(0, 3);
            if (this.rest.length < 9 + length) break;
            const [type, flags, stream] = [this.rest[3], this.rest[4], this.rest.readUInt32BE(5)];
            this.frames.push({ type, flags, stream, payload: this.rest.subarray(9, 9 + length) });
            this.rest = this.rest.subarray(9 + length);
        }
        this.#wake();
    }

    #wake() {
        for (const wake of this.waiting.splice(0)) wake();
    }

    send(...buffers) {
        if (!this.socket.destroyed) this.socket.write(Buffer.concat(buffers));
        return this;
    }

    /** A request whose header block is one frame. */
    request(stream, fields, { end = true } = {}) {
        return this.send(frame(TYPE.HEADERS, FLAG.END_HEADERS | (end ? FLAG.END_STREAM : 0), stream, block(fields)));
    }

    data(stream, payload, { end = true } = {}) {
        return this.send(frame(TYPE.DATA, end ? FLAG.END_STREAM : 0, stream, Buffer.from(payload)));
    }

    /** The first frame that fits, also one that has come before; undefined when the connection closed without one. */
    async find(what, fits, within_ms = 10_000) {
        let over = false;
        this.closed.then(() => (over = true));
        return bounded(what, within_ms, (async () => {
            for (;;) {
                const found = this.frames.find(fits);
                if (found || over) return found;
                await new Promise((done) => this.waiting.push(done));
                await Promise.resolve();
            }
        })());
    }

    async status(stream) {
        const found = await this.find(`an answer on stream ${stream}`, (f) => f.stream === stream && (f.type === TYPE.HEADERS || f.type === TYPE.RST_STREAM));
        return found?.type === TYPE.HEADERS ? statusOf(found.payload) : `reset ${found?.payload.readUInt32BE(0)}`;
    }

    /** Error code of RST_STREAM. */
    async reset(stream) {
        return (await this.find(`a reset of stream ${stream}`, (f) => f.type === TYPE.RST_STREAM && f.stream === stream))?.payload.readUInt32BE(0);
    }

    /** Error code of GOAWAY, and the connection closes behind it. */
    async goaway() {
        const found = await this.find('GOAWAY', (f) => f.type === TYPE.GOAWAY && f.payload.readUInt32BE(4) !== 0);
        this.socket.end();
        await bounded('the server closes the connection', 10_000, this.closed);
        return found?.payload.readUInt32BE(4);
    }

    close() {
        this.socket.destroy();
    }
}
