// json.mjs - the JSON codec beside jansson, on one thread, by turns in one process; no rows when jansson was not there to build with.

import { existsSync } from 'node:fs';
import { program, run } from '../lib.mjs';

const MILLISECONDS = 250; // for each row

export function json() {
    if (!existsSync(program('json_codec'))) return [];
    const lines = run(program('json_codec'), [String(MILLISECONDS)]).trim().split('\n');
    return lines.map((line) => JSON.parse(line)).map(({ what, document, us, ratio }) => ({ what: `JSON: ${what} ${document}, one thread`, rate: 1e6 / us, cpu_us: us, ratio, of: 'jansson' }));
}
