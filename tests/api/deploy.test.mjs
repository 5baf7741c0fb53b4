// deploy/: what can be known of its files without the programs that read them. Every file that one names is there, every setting is one, every metric is served.
// The proxies are run for real in tests/fault/balanced.test.mjs.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { parse } from 'yaml';
import { runWeir } from '../lib/server.mjs';

const ROOT = new URL('../../', import.meta.url).pathname;
const text = (name) => readFileSync(join(ROOT, 'deploy', name), 'utf8');
const installed = (program, ...args) => spawnSync(program, args).status === 0;
const known = new Set(JSON.parse(runWeir(['config', '--json']).stdout).map(({ name }) => name));
/** A setting, or a file that holds it. REDIS_URL is one that a build may do without: it warns. */
const isSetting = (name) => known.has(name) || known.has(name.replace(/_FILE$/, '')) || name === 'REDIS_URL';
const lines = (name) => text(name).replace(/\\\n/g, ' ').split('\n').map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));

describe('Dockerfile', () => {
    const steps = lines('Dockerfile').map((line) => /^([A-Z]+) (.*)$/.exec(line)?.slice(1) ?? assert.fail(line));
    const of = (word) => steps.filter(([name]) => name === word).map(([, rest]) => rest);

    test('every path that it copies is in the project', () => {
        const sources = of('COPY').filter((rest) => !rest.startsWith('--from')).flatMap((rest) => rest.split(/\s+/).slice(0, -1));
        assert.ok(sources.includes('src'));
        for (const source of sources) assert.ok(existsSync(join(ROOT, source)), source);
        const wanted = [...readFileSync(join(ROOT, 'meson.build'), 'utf8').matchAll(/subdir\('(\w+)/g)].map(([, folder]) => folder);
        for (const folder of new Set(wanted)) assert.ok(sources.includes(folder), `meson.build goes into ${folder}, which is not copied`);
    });
    test('two stages; the second begins with nothing and is no root', () => {
        assert.equal(of('FROM').length, 2);
        assert.equal(of('FROM')[1], 'scratch');
        assert.match(of('USER').at(-1), /^[1-9]\d*:[1-9]\d*$/);
    });
    test('its settings are ours, and what it runs is an array: there is no shell', () => {
        for (const [, name] of of('ENV')[0].matchAll(/(\w+)=/g)) assert.ok(isSetting(name), name);
        for (const word of ['ENTRYPOINT', 'CMD']) assert.ok(Array.isArray(JSON.parse(of(word)[0])), word);
        assert.deepEqual(JSON.parse(of('HEALTHCHECK')[0].split(' CMD ')[1]), ['/usr/bin/weir', 'doctor']);
    });
});

describe('compose.yaml', () => {
    const compose = parse(text('compose.yaml'), { merge: true });
    const nodes = Object.entries(compose.services).filter(([name]) => name.startsWith('weir-'));

    test('two nodes with the same settings, but for their names', () => {
        assert.equal(nodes.length, 2);
        const [one, other] = nodes.map(([, { environment }]) => environment);
        assert.notEqual(one.WEIR_NODE_ID, other.WEIR_NODE_ID);
        assert.deepEqual({ ...one, WEIR_NODE_ID: '' }, { ...other, WEIR_NODE_ID: '' });
        for (const name of Object.keys(one)) assert.ok(isSetting(name), name);
        assert.equal(one.WEIR_TRUSTED_PROXIES, compose.services.haproxy.networks.inside.ipv4_address);
    });
    test('what a service names is there', () => {
        for (const [name, service] of Object.entries(compose.services)) {
            for (const one of service.secrets ?? []) assert.ok(compose.secrets[one.source ?? one], `${name}: secret ${one.source ?? one}`);
            for (const other of Array.isArray(service.depends_on) ? service.depends_on : Object.keys(service.depends_on ?? {})) assert.ok(compose.services[other], `${name}: ${other}`);
            for (const volume of service.volumes ?? []) {
                const [source] = volume.split(':');
                assert.ok(source.startsWith('.') ? existsSync(join(ROOT, 'deploy', source)) : source in compose.volumes, `${name}: ${source}`);
            }
        }
        for (const [name, { file }] of Object.entries(compose.secrets)) assert.ok(text('compose.yaml').split('services:')[0].includes(file.split('/').at(-1)), `nobody says how to make ${name}`);
    });
    test('a file for each secret that a setting reads', () => {
        for (const [name, { environment, secrets }] of nodes)
            for (const path of Object.entries(environment).filter(([key]) => key.endsWith('_FILE')).map(([, value]) => value)) assert.ok(secrets.includes(path.split('/').at(-1)), `${name}: ${path}`);
    });
    test('the balancer and the scraper reach every node', () => {
        const scraped = parse(text('prometheus.yml')).scrape_configs.flatMap(({ static_configs }) => static_configs.flatMap(({ targets }) => targets));
        const port = nodes[0][1].environment.WEIR_METRICS_LISTEN.split(':').at(-1);
        assert.deepEqual(scraped, nodes.map(([name]) => `${name}:${port}`));
        for (const name of ['haproxy.cfg', 'nginx.conf']) assert.deepEqual([...text(name).matchAll(/^\s*server (?:weir-\d )?(weir-\d):8000/gm)].map(([, node]) => node), nodes.map(([node]) => node), name);
    });
    test('the login that it makes may not pass row-level security', () => {
        assert.doesNotMatch(text('postgres-init.sh').replace(/^#.*$/gm, ''), /SUPERUSER|BYPASSRLS/);
        assert.equal(spawnSync('sh', ['-n', join(ROOT, 'deploy/postgres-init.sh')]).status, 0);
    });
});

describe('weir.service', () => {
    const unit = Object.fromEntries(lines('weir.service').filter((line) => !line.startsWith('[')).map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
    test('is told when the server is ready, and that it lives', () => {
        assert.deepEqual([unit.Type, unit.NotifyAccess, unit.ExecStart], ['notify', 'main', '/usr/bin/weir serve']);
        assert.ok(Number(unit.WatchdogSec) > 0 && Number(unit.TimeoutStopSec) > 30);
        for (const [, name] of unit.Environment.matchAll(/(\w+)=/g)) assert.ok(isSetting(name), name);
    });
    test('gives up what the server does not need', () => {
        for (const name of ['NoNewPrivileges', 'ProtectHome', 'PrivateTmp', 'PrivateDevices', 'ProtectKernelTunables', 'RestrictNamespaces', 'MemoryDenyWriteExecute']) assert.equal(unit[name], 'yes', name);
        assert.deepEqual([unit.ProtectSystem, unit.CapabilityBoundingSet, unit.UMask], ['strict', '', '0077']);
    });
    test('systemd has nothing against it', { skip: !installed('systemd-analyze', '--version') && 'systemd-analyze is not installed' }, () => {
        const { stderr } = spawnSync('systemd-analyze', ['verify', join(ROOT, 'deploy/weir.service')], { encoding: 'utf8' });
        assert.doesNotMatch(stderr, /Unknown|Failed to parse|Invalid/);
    });
});

test('grafana.json and docs/operations.md name only metrics that are served', () => {
    const served = new Set(JSON.parse(runWeir(['metrics', '--json']).stdout).map(({ name }) => name));
    const dashboard = JSON.parse(text('grafana.json'));
    assert.ok(dashboard.panels.length >= 10);
    const named = new Set([...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)).join(' ').matchAll(/\bweir_[a-z_]+/g)].map(([name]) => name));
    assert.ok(named.size >= 15, `${named.size}`);
    for (const [name] of readFileSync(join(ROOT, 'docs/operations.md'), 'utf8').matchAll(/\bweir_[a-z]+_[a-z_]+_(?:seconds|total|bytes|depth|full)\b/g)) named.add(name);
    for (const name of named) assert.ok(served.has(name) || served.has(name.replace(/_(bucket|sum|count)$/, '')), name);
});

test('.env.example is every setting, as `make docs` writes it', () => {
    const names = [...readFileSync(join(ROOT, '.env.example'), 'utf8').matchAll(/^# ?([A-Z][A-Z0-9_]*)=/gm)].map(([, name]) => name);
    assert.deepEqual(names.sort(), [...known].sort());
});
