// The plan of every statement on PostgreSQL, as for parameters that are not known: none walks through a whole table, or a whole index, unless its author says that it may
// (scan_ok). Asked with sequential scans made dear, so that the answer depends on the indexes there are and not on how many rows a table happens to hold.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Weir, runWeir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

let weir;
before(async () => {
    weir = await Weir.start({ serve: false });
});
after(() => weir?.stop());

/** What is read from end to end: a table, or an index without a condition where no LIMIT ends it. */
function walks(node, limited = false) {
    const limits = limited || node['Node Type'] === 'Limit';
    const index = ['Index Scan', 'Index Only Scan', 'Bitmap Index Scan'].includes(node['Node Type']) && !node['Index Cond'] && !limits;
    const here = node['Node Type'] === 'Seq Scan' || index ? [`${node['Node Type']} on ${node['Relation Name'] ?? node['Index Name']}`] : [];
    return [...here, ...(node.Plans ?? []).flatMap((child) => walks(child, limits && !['Sort', 'Aggregate', 'Hash'].includes(node['Node Type'])))];
}

function plans(statements, role = '') {
    const parts = statements.map(({ name, postgres }) => {
        const count = Math.max(0, ...[...postgres.matchAll(/\$(\d+)/g)].map(([, n]) => Number(n)));
        const values = Array.from({ length: count }, () => 'NULL').join(', ');
        return `PREPARE ${name} AS ${postgres};\nSELECT '>> ${name}';\nEXPLAIN (FORMAT JSON) EXECUTE ${name}${count > 0 ? `(${values})` : ''};`;
    });
    const text = weir.sql(`${role}SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;\n${parts.join('\n')}`);
    return text.split(/^>> /m).slice(1).map((part) => ({ name: part.slice(0, part.indexOf('\n')), plan: JSON.parse(part.slice(part.indexOf('\n')))[0].Plan }));
}

test('no statement walks through a table', () => {
    const statements = JSON.parse(runWeir(['statements', '--json']).stdout);
    const found = plans(statements);
    assert.equal(found.length, statements.length);
    const accepted = new Set(statements.filter(({ scans }) => scans === 'yes').map(({ name }) => name));
    const walking = found.filter(({ name }) => !accepted.has(name)).flatMap(({ name, plan }) => walks(plan).map((what) => `${name}: ${what}`));
    assert.deepEqual(walking, []);
    assert.ok(found.some(({ name, plan }) => accepted.has(name) && walks(plan).length > 0), 'else this would see none');
});

/** Look-ups through an index of which a column in front is not bound: they read all that a tenant has in it. */
function strays(node, columns) {
    const bound = [...(node['Index Cond'] ?? '').matchAll(/\((?:ROW\()?(\w+)/g)].map(([, name]) => name);
    const order = columns.get(node['Index Name']) ?? [];
    const gap = order.findIndex((name) => !bound.includes(name));
    const stray = gap >= 0 && order.slice(gap).some((name) => bound.includes(name));
    return [...(stray ? [`${node['Index Name']} by ${bound}`] : []), ...(node.Plans ?? []).flatMap((child) => strays(child, columns))];
}

test('a look-up goes by its own index, also in a table that filled faster than PostgreSQL counts', async () => {
    const statements = JSON.parse(runWeir(['statements', '--json']).stdout);
    const columns = new Map(weir.sql(`SELECT c.relname, (SELECT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid)
        FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace`).split('\n').map((line) => line.split('|')).map(([name, list]) => [name, list.split(',')]));
    const stray = (list) => plans(list, 'SET ROLE weir_app; ').flatMap(({ name, plan }) => strays(plan, columns).map((what) => `${name}: ${what}`)).filter((what) => /: workflows_.* by tenant_id,id$/.test(what));
    weir.sql('ALTER TABLE workflows SET (autovacuum_enabled = false)');
    weir.sql("INSERT INTO workflows (id, tenant_id, name, version, created_at, updated_at) SELECT 'workflow_' || g, (SELECT min(id) FROM tenants), 'n', 1, g, g FROM generate_series(1, 10000) g");
    assert.ok(stray(statements).length > 0, 'else this would prove nothing');
    await weir.serve();
    await until('Weir has had it counted', () => stray(statements.filter(({ name }) => name === 'workflow_by_id')).length === 0);
    assert.deepEqual(stray(statements), []);
});
