#!/usr/bin/env node
// run.mjs - every test, one sum. Unit tests through meson, API and fault tests through `node --test` against the binary of the same
// build, then the question which route no test ever reached. Ends with one line, `N passed, M failed`; exit status 1 when M is not 0.
// Units and API tests run on SQLite; with --db both again on PostgreSQL, of which run.mjs starts one for all of them.
//   node tests/run.mjs [--build build-asan] [--only word] [--db sqlite|postgres|both]     --only runs the node test files whose name holds the word, nothing else

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Postgres } from './lib/postgres.mjs';

const TESTS = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(TESTS);
const { values: options } = parseArgs({ options: { build: { type: 'string', default: 'build-asan' }, only: { type: 'string', default: '' }, db: { type: 'string', default: 'sqlite' } } });
const DATABASES = options.db === 'both' ? ['sqlite', 'postgres'] : [options.db];
const BUILD = resolve(ROOT, options.build);
const scratch = mkdtempSync(join(tmpdir(), 'weir-run-'));
const folder = (name) => {
    const path = join(scratch, name);
    mkdirSync(path);
    return path;
};
const TMP = folder('tmp');
const HITS = folder('hits');

/** What failed, a line each, said once more at the end: of a long log that is what people are shown. */
const failures = [];

/** How long each program and file took, in ms. */
const durations = [];

/** The innermost tests of a TAP report that failed: where, and why. */
function failuresIn(tap, where) {
    const bad = [...tap.matchAll(/^( *)not ok \d+ - (.*)$/gm)];
    for (const [n, { 1: indent, 2: name, index }] of bad.entries()) {
        if (n > 0 && bad[n - 1][1].length > indent.length) continue; // a suite, which follows its tests
        const block = tap.slice(index, bad[n + 1]?.index);
        const place = /\/tests\/([^:)]*:\d+)/.exec(/^ *stack:[^]*/m.exec(block)?.[0] ?? block)?.[1] ?? '';
        const why = /^ *error: (?:\|-)?([^]*?)\n *(?:code|name|stack):/m.exec(block)?.[1] ?? '';
        failures.push(`${where}: ${place}: ${name}: ${why.replace(/\s+/g, ' ').trim()}`);
    }
}

/** What a unit program says of its end: the tests that failed and where; without cmocka's sum, in which test it died; and of what. */
function whyUnit(output, result) {
    const all = (pattern) => [...output.matchAll(pattern)].map(([, found]) => found);
    const named = [...new Set(all(/\[  (?:FAILED|ERROR)   ?\] (test_\w+)/g))];
    const whole = output.includes('[  PASSED  ]');
    const end = whole ? `${result} behind its tests` : `${result} in ${all(/\[ RUN      \] (\w+)/g).at(-1) ?? 'the program'}`;
    const where = all(/\[   LINE   \] --- (?:\.\.\/)*([^:]*:\d+)/g);
    const died = all(/(\w*Sanitizer: .*|\S+: runtime error: .*|Assertion .* failed|Test failed with exception: .*)/g).slice(0, 1);
    return [...named, ...(whole && named.length > 0 ? [] : [end]), ...where, ...died].join(': ');
}

/** Unit tests: meson counts programs, cmocka counts tests inside of them; a program that died without a count is one failure. */
function unitTests() {
    const log = join(BUILD, 'meson-logs/testlog.json');
    rmSync(log, { force: true });
    const env = { ...process.env, UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1' }; // else undefined behaviour is printed, and passes
    spawnSync('meson', ['test', '-C', BUILD, '--no-rebuild', '--print-errorlogs', '--num-processes', '2', '--timeout-multiplier', '4'], { stdio: 'inherit', env });
    if (!existsSync(log)) {
        failures.push('meson test left no log');
        return { passed: 0, failed: 1 };
    }
    const programs = readFileSync(log, 'utf8').trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));
    const sum = { passed: 0, failed: 0 };
    for (const { name, result, duration, stdout = '', stderr = '' } of programs) {
        durations.push({ name: name.split(' / ').at(-1), ms: duration * 1000 });
        const count = (word) => [...(stdout + stderr).matchAll(new RegExp(`\\[  ${word}  \\] (\\d+) test\\(s\\)`, 'g'))].reduce((n, m) => n + Number(m[1]), 0);
        const [passed, failed] = [count('PASSED'), count('FAILED')];
        const good = result === 'OK' || result === 'SKIP' || result === 'EXPECTEDFAIL';
        sum.passed += passed + (good && passed + failed === 0 ? 1 : 0);
        sum.failed += good ? failed : Math.max(failed, 1);
        if (!good) failures.push(`${name}: ${whyUnit(stdout + stderr, result)}`);
    }
    return sum;
}

function installPackages() {
    const done = join(TESTS, 'node_modules/.package-lock.json');
    if (existsSync(done) && statSync(done).mtimeMs >= statSync(join(TESTS, 'package-lock.json')).mtimeMs) return;
    const { status } = spawnSync('npm', ['ci', '--silent', '--ignore-scripts'], { cwd: TESTS, stdio: 'inherit' });
    if (status !== 0) throw new Error('npm ci failed in tests/');
}

const HELP = spawnSync(process.execPath, ['--help'], { encoding: 'utf8' }).stdout;
/** Of these flags those that this Node has: older ones run one file per core less one, and wait for ever for a file that does not end. */
const known = (flags) => Object.entries(flags).filter(([flag]) => HELP.includes(flag)).map(([flag, value]) => `${flag}=${value}`);
const FILE_MS = (process.env.WEIR_TEST_FULL === '1' ? 300 : 30) * 60_000;

/** What the servers of the node tests begin with: see lib/people.mjs. */
function makePeople(env) {
    const { status } = spawnSync(process.execPath, [join(TESTS, 'lib/people.mjs')], { stdio: 'inherit', env });
    if (status !== 0) throw new Error('tests/lib/people.mjs failed');
}

/** The test files of a folder, so many at once. */
function nodeTests(part, db, atOnce) {
    const files = readdirSync(join(TESTS, part))
        .map((name) => join(TESTS, part, name))
        .filter((path) => path.endsWith('.test.mjs') && path.slice(TESTS.length).includes(options.only))
        .sort((a, b) => statSync(b).size - statSync(a).size); // the long ones first, so that none of them is the last to run, alone
    if (files.length === 0) return { passed: 0, failed: 0 };
    console.log(`-- tests/${part} on ${db}`);
    const tap = join(scratch, `${part}-${db}.tap`);
    const flags = ['--test-reporter=spec', '--test-reporter-destination=stdout', `--test-reporter=${join(TESTS, 'lib/durations.mjs')}`, `--test-reporter-destination=${tap}`];
    flags.push(...known({ '--test-concurrency': atOnce, '--test-timeout': FILE_MS }));
    const people = join(scratch, `people-${db}`);
    const env = { ...process.env, WEIR_BINARY: join(BUILD, 'weir'), WEIR_TEST_TMP: TMP, WEIR_TEST_HITS: HITS, WEIR_TEST_DB: db, WEIR_TEST_PEOPLE: people };
    if (!existsSync(people)) makePeople(env);
    const { status } = spawnSync(process.execPath, ['--test', ...flags, ...files], { stdio: ['ignore', 'inherit', 'inherit'], env });
    const text = existsSync(tap) ? readFileSync(tap, 'utf8') : '';
    const total = (word) => Number(new RegExp(`^# ${word} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
    const failed = total('fail') + total('cancelled');
    failuresIn(text, `${part} on ${db}`);
    if (status !== 0 && failed === 0) failures.push(`${part} on ${db}: node --test ended with ${status} and named no test`);
    for (const [, ms, name] of text.matchAll(/^# took (\d+) .*?([^/]+)\.test\.mjs$/gm)) durations.push({ name: `${part}/${name} on ${db}`, ms: Number(ms) });
    return { passed: total('pass'), failed: status !== 0 && failed === 0 ? 1 : failed };
}

/** A route that no test reached is a failure: it would be a promise that nobody checks. */
function coverage() {
    const { stdout } = spawnSync(join(BUILD, 'weir'), ['routes'], { encoding: 'utf8' });
    const routes = [...(stdout ?? '').matchAll(/^\s*(GET|POST|PUT|PATCH|DELETE)\s+(\/\S*)/gm)].map((row) => `${row[1]} ${row[2]}`);
    const hits = new Set(readdirSync(HITS).flatMap((name) => readFileSync(join(HITS, name), 'utf8').split('\n')));
    const missed = routes.filter((route) => !hits.has(route));
    console.log(`routes reached: ${routes.length - missed.length} of ${routes.length}`);
    for (const route of missed) failures.push(`no test reaches ${route}`);
    return { passed: 0, failed: missed.length + (routes.length === 0 ? 1 : 0) };
}

function leftovers() {
    const names = readdirSync(TMP);
    if (names.length > 0) failures.push(`tests left behind: ${names.join(', ')}`);
    return { passed: 0, failed: names.length > 0 ? 1 : 0 };
}

/** One server for the run; whoever needs it finds its URL in the environment. */
let postgres;
async function startPostgres() {
    if (!DATABASES.includes('postgres')) return;
    postgres = await Postgres.start();
    postgres.prepare(join(BUILD, 'weir'), folder('template'));
    process.env.TEST_POSTGRES_URL = postgres.url;
}

const whole = options.only === '';
const sums = [];
try {
    installPackages();
    await startPostgres();
    if (whole) sums.push(unitTests());
    for (const db of DATABASES) {
        sums.push(nodeTests('api', db, 4));
        sums.push(nodeTests('fault', db, 1)); // alone: they measure how soon things go on
    }
    if (postgres) sums.push(nodeTests('conformance', 'postgres', 1));
    if (whole) sums.push(coverage());
    sums.push(leftovers());
} finally {
    await postgres?.stop();
    rmSync(scratch, { recursive: true, force: true });
}
const sum = (key) => sums.reduce((n, part) => n + part[key], 0);
const slowest = durations.sort((a, b) => b.ms - a.ms).slice(0, 10);
console.log(`slowest, in s: ${slowest.map(({ name, ms }) => `${name} ${(ms / 1000).toFixed(0)}`).join(', ')}`);
for (const line of failures.slice(0, 20)) console.log(`failed: ${line.slice(0, 500)}`);
console.log(`${sum('passed')} passed, ${sum('failed')} failed`);
process.exitCode = sum('failed') > 0 || sum('passed') === 0 ? 1 : 0;
