// requests.mjs - one request at a time on each connection: a reply that does nothing, a read, a durable change, a durable execution, beside the loop and the commits they stand on.

import { end, folder, freePort, load, options, program, restedRss, rss, run, serve, signIn, weir, workflow } from '../lib.mjs';

/** A webhook of three pure steps: one durable transaction each. */
export const DEFINITION = {
    steps: [
        { id: 'score', type: 'transform', with: { total: '{{ input.amount * 1.2 }}' } },
        { id: 'large', type: 'script', with: { code: 'return steps.score.output.total > 100' } },
        { id: 'answer', type: 'respond', with: { body: { total: '{{ steps.score.output.total }}', large: '{{ steps.large.output }}' } } },
    ],
    dependencies: { large: ['score'], answer: ['large'] },
};

async function rawEpoll() {
    const port = await freePort();
    const server = await serve(program('raw_epoll'), [String(port)], port);
    const got = load(server, '/');
    await end(server.child);
    return got;
}

/** The same loop, whose answers wait for a bare commit of the body. */
async function epollCommit() {
    const port = await freePort();
    const server = await serve(program('epoll_commit'), [String(port), folder], port);
    const got = load(server, '/', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"amount":100}' });
    await end(server.child, 'SIGKILL');
    return got;
}

/** Commits of one row each by as many waiters as there are connections: rate per second. */
const groupCommit = () => JSON.parse(run(program('group_commit'), [folder, options.seconds, options.connections])).tx_per_second;

async function starts(first) {
    await end(first.child);
    const ms = [];
    for (let i = 0; i < 5; i++) {
        const again = await first.start();
        ms.push(again.ms);
        await end(again.child);
    }
    return ms.sort((a, b) => a - b)[2];
}

export async function requests() {
    const raw = await rawEpoll();
    const commits = groupCommit();
    const durable = await epollCommit();
    const first = await weir('requests');
    const start = await starts(first);
    const server = await first.start();
    const idle = rss(server.child);
    const token = await signIn(server);
    const flow = await workflow(server, token, DEFINITION);
    const signedIn = { headers: { Authorization: `Bearer ${token}` } };
    const json = { method: 'POST', headers: { 'Content-Type': 'application/json' } };
    const rows = [
        { what: 'raw epoll loop', ...raw, ratio: 1, of: 'itself' },
        { what: 'GET /livez', of: 'raw epoll', aim: 0.75, ...load(server, '/livez') },
        { what: 'GET /api/v1/limits, token checked', of: 'raw epoll', ...load(server, '/api/v1/limits', signedIn) },
        { what: 'GET /api/v1/workflows/{id}, token checked', of: 'raw epoll', aim: 0.4, ...load(server, flow.path, signedIn) },
        { what: 'bare SQLite group commit, no connections', rate: commits, ratio: 1, of: 'itself' },
        { what: 'raw epoll loop + bare group commit', ...durable, ratio: 1, of: 'itself' },
        { what: 'POST /api/v1/workflows, durable', of: 'group commit', aim: 0.4, ...load(server, '/api/v1/workflows', { ...json, headers: { ...json.headers, ...signedIn.headers }, body: JSON.stringify({ name: 'made by the bench', definition: { steps: [{ id: 'a', type: 'transform', with: { x: '{{ input.n }}' } }] } }) }) },
        { what: 'POST webhook, three steps, durable', of: 'group commit', aim: 0.25, ...load(server, flow.webhook, { ...json, body: '{"amount":100}' }) },
    ];
    for (const row of rows) row.ratio ??= row.rate / (row.of === 'raw epoll' ? raw.rate : commits);
    for (const row of rows) if (row.of === 'group commit') row.note = `; ${(row.rate / durable.rate).toFixed(2)} of it behind raw epoll, ${(durable.cpu_us / row.cpu_us).toFixed(2)} by processor time`;
    const after = rss(server.child), rested = await restedRss(server.child);
    await end(server.child);
    return [
        ...rows,
        { what: 'memory', note: `${idle.toFixed(1)} MB idle, ${after.toFixed(1)} MB after the load, ${rested.toFixed(1)} MB when it is quiet again` },
        { what: 'start', note: `${start.toFixed(0)} ms on a migrated folder (median of 5), ${first.ms.toFixed(0)} ms on an empty one` },
    ];
}
