// Letters by SMTP, to a server that is not ours: TLS and passwords, what is tried again and what is not, and that nothing a person typed becomes a header.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeCertificate } from '../lib/certificate.mjs';
import { Weir, stopAll } from '../lib/server.mjs';
import { Mailserver, readLetter } from '../lib/smtp.mjs';
import { until } from '../lib/wait.mjs';

const LOGIN = { user: 'weir@mail.test', password: 'correct horse/battery@staple' };
const credentials = `${encodeURIComponent(LOGIN.user)}:${encodeURIComponent(LOGIN.password)}`;
const open = [];
after(() => stopAll(...open.reverse()));

/** A Weir that sends by a server like this one. `url`: of it, by its port. */
async function pair({ url = (port) => `smtp://${credentials}@127.0.0.1:${port}`, trusted = true, ...how } = {}) {
    const weir = await Weir.start({ serve: false });
    open.push(weir);
    const certificate = makeCertificate(weir.folder, 'mail');
    const mailserver = await Mailserver.start({ certificate, ...how });
    open.push(mailserver);
    Object.assign(weir.env, { SMTP_URL: url(mailserver.port), WEIR_MAIL_FROM: 'Weir of Acme <weir@acme.test>', ...(trusted ? { SMTP_CA_FILE: certificate.cert } : {}) });
    await weir.serve();
    const owner = await weir.as('owner');
    const it = { weir, mailserver, owner };
    it.invite = async (email, more = {}) => (await owner.post('/api/v1/users/invite', { email, role: 'viewer', ...more }, { expect: 201 })).body;
    it.arrived = (email) => until(`the letter to ${email}`, () => it.mailserver.letters.find(({ to }) => to.includes(email)));
    it.jobs = () => weir.sql("SELECT status, attempt, due_at - updated_at FROM jobs WHERE kind = 'mail.send' ORDER BY id").split('\n').filter(Boolean).map((line) => line.split('|')).map(([status, attempt, wait]) => ({ status, attempt: Number(attempt), wait_ms: Number(wait) / 1000 }));
    it.failed = (n) => until(`failure ${n}`, () => it.jobs().find(({ status, attempt }) => status === 'queued' && attempt >= n));
    it.outcomes = () => weir.log().filter(({ event, kind }) => event === 'jobs.failed' && kind === 'mail.send').map(({ outcome }) => outcome);
    return it;
}

describe('by STARTTLS, with a password', () => {
    let it;
    before(async () => (it = await pair(LOGIN)));

    test('a letter arrives: envelope, headers, a part of text and one of HTML, as a program that is not ours reads them', async () => {
        const { id } = await it.invite('grace@example.test');
        const letter = await it.arrived('grace@example.test');
        assert.deepEqual([letter.from, letter.to, letter.secure, letter.user], ['weir@acme.test', ['grace@example.test'], true, LOGIN.user]);
        const read = readLetter(letter.bytes);
        assert.deepEqual(read.defects, []);
        assert.deepEqual(read.headers.map(([name]) => name), ['From', 'To', 'Subject', 'Date', 'Message-ID', 'MIME-Version', 'Auto-Submitted', 'Content-Type']);
        const headers = Object.fromEntries(read.headers);
        assert.deepEqual([headers.From, read.to, headers.Subject], ['Weir of Acme <weir@acme.test>', ['grace@example.test'], 'owner@acme.test invites you to acme']);
        assert.ok(Math.abs(read.date * 1000 - Date.now()) < 60_000, headers.Date);
        assert.match(headers['Message-ID'], /^<job_\w+@acme\.test>$/);
        assert.deepEqual(read.parts.map(({ type, charset, defects }) => [type, charset, defects]), [['text/plain', 'utf-8', []], ['text/html', 'utf-8', []]]);
        const [text, html] = read.parts.map((part) => part.text);
        const link = /http:\/\/\S+\/invite\?token=[\w-]{43}/.exec(text)[0];
        assert.ok(html.includes(`href="${link}"`));
        const lines = letter.bytes.toString('latin1').split('\r\n');
        assert.ok(lines.every((line) => line.length <= 78 && !/[\r\n]/.test(line) && !/[^\x20-\x7e\t]/.test(line)));
        assert.ok(id);
    });

    test('neither the log nor the database shows the password or the link\'s token', async () => {
        const letter = await it.arrived('grace@example.test');
        const [, token] = /token=([\w-]{43})/.exec(readLetter(letter.bytes).parts[0].text);
        const stored = it.weir.stored();
        for (const secret of [token, LOGIN.password, encodeURIComponent(LOGIN.password)]) assert.ok(!it.weir.stderr.includes(secret) && !stored.includes(secret));
        assert.ok(!existsSync(join(it.weir.data, 'mail')), 'no letter is kept as a file');
        assert.ok(!it.weir.log().some(({ event }) => event === 'mail.files'));
    });

    test('what people type becomes neither a header nor another address', async () => {
        const evil = 'Eve\r\nBcc: eve@evil.test\r\n\r\nhello';
        await it.owner.patch(`/api/v1/tenants/${(await it.owner.get('/api/v1/auth/me')).body.tenant.id}`, { name: evil });
        const { body: role } = await it.owner.post('/api/v1/roles', { name: 'r\u2028: x\u0085y <b>&amp;', permissions: [] });
        for (const email of ['a@example.test\r\nBcc: eve@evil.test', 'a@example.test>\r\nRCPT TO:<eve@evil.test', 'a@example.test, eve@evil.test', 'a@example.test\u0000', '"a b"@example.test', '<a@example.test>'])
            assert.equal((await it.owner.post('/api/v1/users/invite', { email, role: 'viewer' })).status, 422, email);
        await it.invite('mallory@example.test', { name: evil, ...(role?.name ? { role: role.name } : {}) });
        const letter = await it.arrived('mallory@example.test');
        const read = readLetter(letter.bytes);
        assert.deepEqual([letter.to, read.to, read.defects], [['mallory@example.test'], ['mallory@example.test'], []]);
        assert.equal(read.headers.length, 8);
        assert.ok(it.mailserver.letters.every(({ to }) => !to.includes('eve@evil.test')));
        assert.doesNotMatch(read.parts[1].text, /<b>/);
    });

    test('"not now" is tried again, by a back-off that doubles; then the same letter arrives, once', async () => {
        it.mailserver.refusing = { rcpt: 451 };
        await it.invite('later@example.test');
        const waits = [];
        for (const n of [1, 2]) waits.push((await it.failed(n)).wait_ms);
        assert.ok(waits.every((ms, n) => ms >= 500 * 2 ** n - 1 && ms <= 1000 * 2 ** n + 1), waits.join());
        it.mailserver.refusing = { data: 452 };
        await until('the whole letter was refused', () => it.mailserver.refused.data > 0);
        it.mailserver.refusing = {};
        const letter = await it.arrived('later@example.test');
        await until('the job is done', () => it.jobs().length === 0);
        assert.equal(it.mailserver.letters.filter(({ to }) => to.includes('later@example.test')).length, 1);
        assert.equal(readLetter(letter.bytes).parts.length, 2);
        assert.deepEqual([...new Set(it.outcomes())], ['again']);
    });

    test('a wrong password, a server that greets with 554 or is gone: again, until it is mended', async () => {
        it.mailserver.refusing = { auth: true };
        await it.invite('patient@example.test');
        await it.failed(1);
        it.mailserver.refusing = { connect: 554 };
        await until('it was greeted', () => it.mailserver.refused.connect > 0);
        const { port } = it.mailserver;
        const before = (await it.failed(2)).attempt;
        await it.mailserver.stop();
        await it.failed(before + 1);
        const again = await Mailserver.start({ certificate: { cert: it.weir.env.SMTP_CA_FILE, key: it.weir.env.SMTP_CA_FILE.replace('cert', 'key') }, port, ...LOGIN });
        open.push(again);
        open.splice(open.indexOf(it.mailserver), 1);
        it.mailserver = again;
        await until('the letter', () => again.letters.some(({ to }) => to.includes('patient@example.test')), { within_ms: 60_000 });
        assert.deepEqual([...new Set(it.outcomes())], ['again']);
    });

    for (const [what, refusing] of [['the address', { rcpt: 550 }], ['the letter', { data: 554 }]])
        test(`"never" to ${what} ends the letter at once, and is told`, async () => {
            const before = it.outcomes().length;
            it.mailserver.refusing = refusing;
            await it.invite(`never-${Object.keys(refusing)}@example.test`);
            await until('it is given up', () => it.outcomes().length > before);
            it.mailserver.refusing = {};
            assert.equal(it.outcomes().at(-1), 'dead');
            assert.equal(it.jobs().filter(({ status }) => status === 'dead').at(-1).attempt, 1);
            assert.match(JSON.stringify(it.weir.log().filter(({ event }) => event === 'mail.failed').at(-1)), new RegExp(`reply ${Object.values(refusing)}`));
            await it.invite(`after-${Object.keys(refusing)}@example.test`);
            await it.arrived(`after-${Object.keys(refusing)}@example.test`);
            const { text } = await it.weir.anonymous().get('/metrics', { raw: true });
            assert.match(text, /weir_jobs_total\{kind="mail\.send",outcome="dead"\} [1-9]/);
        });
});

test('smtps:// is TLS from the first byte', async () => {
    const it = await pair({ ...LOGIN, tls: 'implicit', url: (port) => `smtps://${credentials}@127.0.0.1:${port}` });
    await it.invite('grace@example.test');
    assert.equal((await it.arrived('grace@example.test')).secure, true);
});

test('without a password TLS is used where it is offered, and a server in the house need not offer it', async () => {
    const bare = (port) => `smtp://127.0.0.1:${port}`;
    for (const [tls, trusted, secure] of [['starttls', true, true], ['none', false, false]]) {
        const it = await pair({ tls, url: bare, trusted });
        await it.invite('grace@example.test');
        assert.equal((await it.arrived('grace@example.test')).secure, secure);
    }
});

test('a password never goes in the clear, and to nobody who is not trusted', async () => {
    for (const how of [{ tls: 'none', trusted: false }, { trusted: false }, { trusted: false, tls: 'implicit', url: (port) => `smtps://${credentials}@127.0.0.1:${port}` }]) {
        const it = await pair({ ...LOGIN, ...how });
        await it.invite('grace@example.test');
        await it.failed(1);
        assert.deepEqual([it.mailserver.logins, it.mailserver.letters], [[], []]);
    }
});

test('with SMTP_CA_FILE a server that offers no TLS gets no letter, as it would if somebody between took the offer away', async () => {
    const it = await pair({ tls: 'none', url: (port) => `smtp://127.0.0.1:${port}` });
    await it.invite('grace@example.test');
    await it.failed(1);
    assert.deepEqual(it.mailserver.letters, []);
});

describe('without SMTP_URL', () => {
    test('letters are files that only their owner reads, in the folder that is set, and the start says so', async () => {
        const weir = await Weir.start({ serve: false });
        open.push(weir);
        const folder = join(weir.folder, 'letters');
        weir.env.WEIR_MAIL_DIR = folder;
        await weir.serve();
        const said = weir.log().find(({ event }) => event === 'mail.files');
        assert.equal(said.folder, folder);
        assert.match(said.why, /SMTP_URL is not set/);
        await (await weir.as('owner')).post('/api/v1/users/invite', { email: 'grace@example.test', role: 'viewer' }, { expect: 201 });
        const name = await until('the letter', () => existsSync(folder) && readdirSync(folder).find((one) => one.endsWith('.eml')));
        assert.deepEqual([statSync(folder).mode & 0o777, statSync(join(folder, name)).mode & 0o777], [0o700, 0o600]);
    });
});
