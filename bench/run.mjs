#!/usr/bin/env node
// run.mjs - make bench: Weir beside the floors it stands on, in one run on one machine. Absolute numbers say more about the machine than about Weir; the ratios do
// not. Each scenario is a file in scenarios/ that gives rows; they run one after the other and print one table. The same as JSON goes to
// bench/results/<time>.json (not committed). Takes some minutes.
//   node bench/run.mjs [--build build] [--seconds 6] [--connections 64] [--history 1000000] [--only word]

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { clean, options, ROOT } from './lib.mjs';
import { requests } from './scenarios/requests.mjs';
import { identity } from './scenarios/identity.mjs';
import { waiting } from './scenarios/waiting.mjs';
import { connections } from './scenarios/connections.mjs';
import { listeners } from './scenarios/listeners.mjs';
import { slow } from './scenarios/slow.mjs';
import { history } from './scenarios/history.mjs';
import { json } from './scenarios/json.mjs';
import { tls } from './scenarios/tls.mjs';
import { postgres } from './scenarios/postgres.mjs';
import { redis } from './scenarios/redis.mjs';

const scenarios = { requests, identity, waiting, connections, listeners, slow, history, json, tls, postgres, redis };

const cell = (value, width, digits) => (value === undefined ? '' : digits === undefined ? String(value) : value.toFixed(digits)).padStart(width);

/** A row: {what, rate, cpu_us, p50_us, p99_us, ratio, of, aim, note}; what it leaves out stays empty. */
function print(row) {
    const ms = (us) => (us === undefined ? undefined : us / 1000);
    const ratio = row.ratio === undefined ? '' : `${row.ratio.toFixed(2)} of ${row.of}${row.aim === undefined ? '' : ` (aim ${row.aim})`}`;
    console.log(row.what.padEnd(44) + cell(row.rate && Math.round(row.rate), 9) + cell(row.cpu_us, 9, 1) + cell(ms(row.p50_us), 9, 2) + cell(ms(row.p99_us), 9, 2) + `  ${ratio}${row.note ?? ''}`);
}

const results = {};
try {
    console.log(`${options.connections} connections, ${options.seconds} s each`.padEnd(44) + '    per s   cpu us   p50 ms   p99 ms  ratio');
    for (const [name, scenario] of Object.entries(scenarios)) {
        if (!name.includes(options.only)) continue;
        results[name] = await scenario();
        for (const row of results[name]) print(row);
    }
    mkdirSync(join(ROOT, 'bench/results'), { recursive: true });
    writeFileSync(join(ROOT, 'bench/results', `${new Date().toISOString().replaceAll(':', '-')}.json`), `${JSON.stringify(results, null, 2)}\n`);
} finally {
    clean();
}
