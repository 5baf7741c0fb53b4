// durations.mjs - the TAP reporter of node --test, and behind its report how long each file took, its tests added up: `# took <ms> <path>`. tests/run.mjs names the slowest.
// Not a reporter beside the others, because with a third one Node warns of its own listeners.

import { tap } from 'node:test/reporters';

export default async function* durations(events) {
    const sums = new Map();
    const counted = async function* () {
        for await (const event of events) {
            const { nesting, file, details } = event.data;
            if (/^test:(pass|fail)$/.test(event.type) && nesting === 0 && file) sums.set(file, (sums.get(file) ?? 0) + details.duration_ms);
            yield event;
        }
    };
    yield* tap(counted());
    for (const [path, ms] of sums) yield `# took ${Math.round(ms)} ${path}\n`;
}
