// history.mjs - a workflow with a million executions (--history) beside one with none: list, get and execute.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { call, end, load, options, signIn, weir, workflow } from '../lib.mjs';

const ROWS = Number(options.history);
const DEFINITION = { steps: [{ id: 'answer', type: 'respond', with: { body: { total: '{{ input.amount * 1.2 }}' } } }] };

/** Copies one execution a million times, with earlier ids and times; straight into the file, which nobody else has open. */
const FILL = `
import sqlite3, sys
path, execution, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
digits = '0123456789abcdefghjkmnpqrstvwxyz'
def typeid(us, n):
    value = (us // 1000) << 80 | 7 << 76 | 2 << 62 | n
    return 'execution_' + ''.join(digits[value >> shift & 31] for shift in range(125, -1, -5))
db = sqlite3.connect(path)
names = [row[1] for row in db.execute('PRAGMA table_info(executions)')]
row = dict(zip(names, db.execute('SELECT * FROM executions WHERE id = ?', (execution,)).fetchone()))
first = row['created_at'] - rows * 1000
def copies():
    for n in range(rows):
        at = first + n * 1000
        yield [dict(row, id=typeid(at, n), created_at=at, started_at=at, completed_at=at + 400)[name] for name in names]
db.executemany('INSERT INTO executions VALUES (' + ','.join('?' * len(names)) + ')', copies())
db.commit()
`;

const LOADS = {
    list: ({ server, flow, token }) => load(server, `${flow.path}/executions?limit=20`, { headers: { Authorization: `Bearer ${token}` } }),
    get: ({ server, execution, token }) => load(server, `/api/v1/executions/${execution}`, { headers: { Authorization: `Bearer ${token}` } }),
    execute: ({ server, flow }) => load(server, flow.webhook, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"amount":100}' }),
};
const ROUNDS = 3;

async function prepare(name) {
    const server = await weir(name);
    const token = await signIn(server);
    const flow = await workflow(server, token, DEFINITION);
    const ids = [];
    for (let i = 0; i < 20; i++) ids.push((await call(server, 'POST', `${flow.path}/execute`, { input_data: { amount: i } }, token)).execution_id);
    return { server, token, flow, execution: ids[0] };
}

/** The same load on both by turns, so that what else the machine does befalls both alike. */
function compare(what, small, large) {
    const sum = { small: { rate: 0, cpu_us: 0 }, large: { rate: 0, cpu_us: 0 } };
    let last;
    for (let round = 0; round < ROUNDS; round++)
        for (const [name, at] of Object.entries({ small, large })) {
            last = LOADS[what](at);
            sum[name].rate += last.rate / ROUNDS;
            sum[name].cpu_us += last.cpu_us / ROUNDS;
        }
    const note = `, by processor time ${(sum.small.cpu_us / sum.large.cpu_us).toFixed(2)}`;
    return { what: `${what}, in a history of ${ROWS / 1e6} million`, ...last, ...sum.large, ratio: sum.large.rate / sum.small.rate, of: 'an empty one', aim: 0.9, note };
}

export async function history() {
    const small = await prepare('history-none');
    const large = await prepare('history-many');
    await end(large.server.child);
    const filled = spawnSync('python3', ['-c', FILL, join(large.server.data, 'weir.db'), large.execution, String(ROWS)], { encoding: 'utf8' });
    if (filled.status !== 0) throw new Error(filled.stderr);
    spawnSync('sync'); // else the file is still on its way to the disk while the first rows are measured
    large.server = await large.server.start();
    large.token = await signIn(large.server);
    const rows = Object.keys(LOADS).map((what) => compare(what, small, large));
    for (const { server } of [small, large]) await end(server.child);
    return rows;
}
