// What a service manager is told over $NOTIFY_SOCKET: when it may go on, that the server lives, and that it stops. The other end is a datagram socket, which Node has not.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const LISTENER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace('@', '\\0', 1))
print('bound', flush=True)
while True: print(s.recv(4096).decode(), flush=True)`;

for (const kind of ['a path', 'a name in no folder'])
    test(`READY, WATCHDOG, STOPPING, by ${kind}`, async (t) => {
        const folder = mkdtempSync(join(process.env.WEIR_TEST_TMP ?? tmpdir(), 'weir-notify-'));
        const address = kind === 'a path' ? join(folder, 'notify') : `@weir-test-${process.pid}`;
        const listener = spawn('python3', ['-c', LISTENER, address], { stdio: ['ignore', 'pipe', 'inherit'] });
        let said = '';
        listener.stdout.setEncoding('utf8').on('data', (text) => (said += text));
        t.after(() => (listener.kill(), rmSync(folder, { recursive: true })));
        await until('the socket is there', () => said.startsWith('bound'));
        const weir = await Weir.start({ users: false, env: { NOTIFY_SOCKET: address, WATCHDOG_USEC: '200000' } });
        t.after(() => weir.stop());
        await until('READY', () => said.includes('READY=1\n'));
        const beats = () => said.split('WATCHDOG=1\n').length - 1;
        await until('three beats', () => beats() >= 3);
        await weir.terminate();
        await until('STOPPING', () => said.includes('STOPPING=1\n'));
        assert.ok(said.indexOf('READY=1') < said.indexOf('STOPPING=1'));
    });

test('another process’s watchdog is none of ours, and a socket that is nowhere does no harm', async () => {
    const weir = await Weir.start({ users: false, env: { NOTIFY_SOCKET: '/nowhere/at/all', WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' } });
    await weir.stop();
});
