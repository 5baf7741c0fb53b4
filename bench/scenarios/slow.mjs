// slow.mjs - what 64 connections with slow work (a login each: Argon2id in the pool) do to those who ask for something quick.

import { EMAIL, end, load, loadBeside, PASSWORD, weir } from '../lib.mjs';

const SECONDS = 4;

export async function slow() {
    const server = await weir('slow');
    const quick = { connections: 8, seconds: SECONDS };
    const alone = load(server, '/livez', quick);
    const body = JSON.stringify({ email: EMAIL, password: PASSWORD });
    const logins = loadBeside(server, '/api/v1/auth/token', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, connections: 64, seconds: SECONDS + 2 });
    const { cpu_us, ...beside } = await loadBeside(server, '/livez', quick); // the processor worked for both
    const { rate } = await logins;
    await end(server.child);
    return [
        { what: 'GET /livez alone, 8 connections', ...alone, ratio: 1, of: 'itself' },
        { what: 'GET /livez beside 64 slow handlers', ...beside, note: `p99 ${(beside.p99_us / alone.p99_us).toFixed(2)} times as long (aim 2), beside ${rate.toFixed(0)} logins a second` },
    ];
}
