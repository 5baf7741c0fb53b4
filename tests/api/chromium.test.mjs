// A person at a real browser: the pages behind links, cookies that scripts cannot read, and pages elsewhere that would act in the person's name. Weir speaks TLS, as a browser asks of
// cookies named __Host-; evil.test is another site, and www.weir.test another origin of the same site, whose requests carry our cookies.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeCertificate } from '../lib/certificate.mjs';
import { MISSING, launch, strangersPages } from '../lib/chromium.mjs';
import { PASSWORD, Weir } from '../lib/server.mjs';
import { until } from '../lib/wait.mjs';

const OTHER = 'Plover-4-granite-harbour';
const EMAIL = 'first@example.test';

describe('in Chromium', { skip: MISSING }, () => {
    let weir, chromium, stranger, ours;
    before(async () => {
        weir = await Weir.start({ users: false, serve: false });
        mkdirSync(weir.folder, { recursive: true });
        const files = makeCertificate(weir.folder, 'weir');
        Object.assign(weir.env, { WEIR_TLS_CERT: files.cert, WEIR_TLS_KEY: files.key });
        await weir.serve();
        ours = `https://weir.test:${weir.port}`;
        const form = (path, fields, type = 'application/x-www-form-urlencoded') =>
            `<form id="f" method="post" enctype="${type}" action="${ours}${path}">${fields}</form><script>document.getElementById('f').submit()</script>`;
        stranger = await strangersPages(files, {
            '/': '<h1>Elsewhere</h1>',
            '/logout': form('/api/v1/auth/logout', '<input name="scope" value="all">'),
            '/logout-json': form('/api/v1/auth/logout', '<input name=\'{"scope":"all","x":"\' value=\'"}\'>', 'text/plain'),
            '/login': form('/api/v1/auth/login', `<input name='{"email":"${EMAIL}","password":"${PASSWORD}","x":"' value='"}'>`, 'text/plain'),
            '/refresh': form('/api/v1/auth/refresh', ''),
            '/frame': `<iframe src="${ours}/reset?token=x"></iframe>`,
        });
        chromium = await launch();
    });
    after(async () => {
        await chromium?.close();
        await stranger?.close();
        await weir?.stop();
    });

    const link = (text) => text.replace(/^https?:\/\/[^/]+/, ours);
    const here = async (person, path = '/reset') => {
        const page = await person.newPage();
        await page.goto(ours + path);
        return page;
    };
    /** fetch() by a script of that page: {status, body}. */
    const call = (page, method, path, { body, headers = {}, ...more } = {}) =>
        page.evaluate(async ([url, init]) => {
            const answer = await fetch(url, init);
            const text = await answer.text();
            return { status: answer.status, body: text && JSON.parse(text) };
        }, [ours + path, { method, headers: { ...(body ? { 'content-type': 'application/json' } : {}), ...headers }, body: body && JSON.stringify(body), ...more }]);
    async function signedIn(password = PASSWORD) {
        const person = await chromium.person();
        const page = await here(person);
        const { status, body } = await call(page, 'POST', '/api/v1/auth/login', { body: { email: EMAIL, password } });
        assert.equal(status, 200, JSON.stringify(body));
        return { person, page, csrf: body.csrf_token };
    }
    const alive = async (page) => (await call(page, 'GET', '/api/v1/auth/me')).status === 200;
    const said = (page, selector) => page.locator(selector).filter({ visible: true }).textContent();

    test('the printed link makes the first owner; what is wrong is told beside its field; the token leaves the address', async () => {
        const [url] = await until('the setup link', () => /https?:\/\/\S*\/setup\?token=[\w-]{20,}/.exec(weir.stdout + weir.stderr));
        const page = await (await chromium.person()).newPage();
        const complaints = [];
        page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
        page.on('pageerror', (error) => complaints.push(String(error)));
        await page.goto(link(url));
        assert.equal(new URL(page.url()).search, '');
        await page.getByLabel('E-mail address').fill(EMAIL);
        await page.getByLabel('Password').fill('password123');
        await page.getByLabel('Name of your organisation').fill('Example');
        await page.getByRole('button', { name: 'Make the owner' }).click();
        await page.waitForFunction(() => document.getElementById('password').getAttribute('aria-invalid') === 'true');
        assert.match(await said(page, '#password-note'), /first that anybody would try/);
        assert.equal(await page.evaluate(() => document.activeElement.id), 'password');
        await page.getByLabel('Password').fill(PASSWORD);
        await page.keyboard.press('Enter');
        await page.getByRole('heading', { name: 'Weir is set up' }).waitFor();
        assert.equal(await said(page, '#who'), EMAIL);
        assert.deepEqual(complaints.filter((text) => !/status of 422/.test(text)), [], 'the policy allows all that the page does');
        assert.equal((await page.goto(link(url))).status(), 404, 'there is no page any more');
    });

    describe('cookies', () => {
        test('are kept, with all their attributes, and no script reads them', async () => {
            const { person, page } = await signedIn();
            const cookies = await person.cookies(ours);
            const refresh = await person.cookies(`${ours}/api/v1/auth/refresh`);
            assert.deepEqual(cookies.map(({ name, httpOnly, secure, sameSite, path, expires }) => [name, httpOnly, secure, sameSite, path, expires]), [['__Host-weir', true, true, 'Lax', '/', -1]]);
            assert.deepEqual(refresh.map(({ name, path }) => [name, path]).sort(), [['__Host-weir', '/'], ['__Secure-weir-refresh', '/api/v1/auth/refresh']]);
            assert.equal(await page.evaluate(() => document.cookie), '');
            assert.deepEqual(await page.evaluate(() => [Object.keys(localStorage), Object.keys(sessionStorage)]), [[], []]);
            assert.equal(await alive(page), true);
        });

        test('refreshing gives new ones', async () => {
            const { person, page } = await signedIn();
            const value = async () => (await person.cookies(ours))[0].value;
            const before = await value();
            assert.equal((await call(page, 'POST', '/api/v1/auth/refresh')).status, 200);
            assert.notEqual(await value(), before);
            assert.equal(await alive(page), true);
        });

        test('logging out takes them away, and what they opened', async () => {
            const { person, page, csrf } = await signedIn();
            const stolen = await person.cookies(`${ours}/api/v1/auth/refresh`);
            await page.evaluate(() => localStorage.setItem('left', 'behind'));
            assert.equal((await call(page, 'POST', '/api/v1/auth/logout', { body: { scope: 'this' }, headers: { 'x-csrf-token': csrf } })).status, 204);
            assert.deepEqual(await person.cookies(`${ours}/api/v1/auth/refresh`), []);
            assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
            assert.equal(await alive(page), false);
            await person.addCookies(stolen.map(({ name, value, path }) => ({ name, value, domain: 'weir.test', path, secure: true, httpOnly: true })));
            assert.equal(await alive(page), false);
            assert.equal((await call(page, 'POST', '/api/v1/auth/refresh')).status, 401);
        });
    });

    describe('a change', () => {
        const rename = (page, headers) => call(page, 'PATCH', '/api/v1/auth/me', { body: { name: 'Renamed' }, headers });
        test('is done with the token, and refused without it or with another\'s', async () => {
            const [{ page, csrf }, other] = [await signedIn(), await signedIn()];
            assert.equal((await rename(page, { 'x-csrf-token': csrf })).status, 200);
            for (const headers of [{}, { 'x-csrf-token': '' }, { 'x-csrf-token': other.csrf }]) {
                const { status, body } = await rename(page, headers);
                assert.deepEqual([status, body.code], [403, 'auth.csrf']);
            }
        });
    });

    // What a form without our cookie gets follows from the route: it is nobody's. With the cookie it is ours, and not from us.
    const nobodys = { '/logout': 401, '/logout-json': 401, '/refresh': 422 };
    for (const [where, host, carried] of [['another site', 'evil.test', false], ['another origin of our site', 'www.weir.test', true]])
        describe(`a page at ${where}`, () => {
            const at = (path) => `https://${host}:${stranger.port}${path}`;
            for (const path of Object.keys(nobodys))
                test(`${path}: its form is refused, and the session lives`, async () => {
                    const { person, page } = await signedIn();
                    const theirs = await person.newPage();
                    const answer = theirs.waitForResponse((one) => one.request().method() === 'POST');
                    await theirs.goto(at(path));
                    const sent = await (await answer).request().allHeaders();
                    assert.equal(/__Host-weir=/.test(sent.cookie ?? ''), carried, 'that is what makes the second host worth a test');
                    assert.equal((await answer).status(), carried ? 403 : nobodys[path]);
                    assert.equal(await alive(page), true);
                });

            test('/login: nobody is signed in to an account of its choice', async () => {
                const person = await chromium.person();
                const page = await person.newPage();
                const answer = page.waitForResponse((one) => one.request().method() === 'POST');
                await page.goto(at('/login'));
                assert.ok([403, 415].includes((await answer).status()), String((await answer).status()));
                assert.deepEqual(await person.cookies(`${ours}/api/v1/auth/refresh`), []);
            });

            test('its scripts neither change nor read anything, whatever they send along', async () => {
                const { person, page, csrf } = await signedIn();
                const theirs = await person.newPage();
                await theirs.goto(at('/'));
                const reach = (init, path = '/api/v1/auth/me') =>
                    theirs.evaluate(async ([url, options]) => fetch(url, { credentials: 'include', ...options }).then(async (answer) => answer.type === 'opaque' ? 'opaque' : answer.text(), () => 'blocked'), [ours + path, init]);
                assert.equal(await reach({}), 'blocked');
                assert.equal(await reach({ method: 'PATCH', body: '{"name":"Theirs"}', headers: { 'content-type': 'application/json', 'x-csrf-token': csrf } }), 'blocked');
                assert.equal(await reach({ method: 'POST', mode: 'no-cors', body: '{"scope":"all"}' }, '/api/v1/auth/logout'), 'opaque');
                assert.equal(await reach({ method: 'DELETE', headers: { 'x-csrf-token': csrf } }, '/api/v1/auth/sessions/session_01h455vb4pex5vsknk084sn02q'), 'blocked');
                const { status, body } = await call(page, 'GET', '/api/v1/auth/me');
                assert.equal(status, 200);
                assert.notEqual(body.user.name, 'Theirs');
            });

            test('it cannot frame our pages', async () => {
                const page = await (await chromium.person()).newPage();
                const refused = page.waitForEvent('console', (message) => /frame-ancestors/.test(message.text()));
                await page.goto(at('/frame'));
                await refused;
                assert.ok(page.frames().every((frame) => !frame.url().startsWith(ours)));
            });
        });

    test('a neighbour cannot sign a visitor in by a cookie for the whole domain', async () => {
        const attacker = await signedIn();
        const { value } = (await attacker.person.cookies(`${ours}/api/v1/auth/refresh`)).find(({ name }) => name === '__Secure-weir-refresh');
        const cookie = (name) => `${name}=${value}; Domain=weir.test; Path=${name.startsWith('__Host') ? '/' : '/api/v1/auth/refresh'}; Secure; HttpOnly`;
        stranger.pages['/toss'] = { html: '<h1>Hello</h1>', headers: { 'set-cookie': [cookie('__Secure-weir-refresh'), cookie('__Host-weir')] } };
        const person = await chromium.person();
        await (await person.newPage()).goto(`https://www.weir.test:${stranger.port}/toss`);
        assert.deepEqual((await person.cookies(`${ours}/api/v1/auth/refresh`)).map(({ name }) => name), ['__Secure-weir-refresh'], 'the browser refuses the other');
        const page = await here(person);
        assert.equal((await call(page, 'POST', '/api/v1/auth/refresh')).status, 401);
        assert.equal(await alive(page), false);
        assert.equal(await alive(attacker.page), true);
    });

    test('an invitation: its page asks for a password, once', async () => {
        const { page: owner, csrf } = await signedIn();
        const invited = await call(owner, 'POST', '/api/v1/users/invite', { body: { email: 'grace@example.test', role: 'editor' }, headers: { 'x-csrf-token': csrf } });
        assert.equal(invited.status, 201);
        const [mail] = await weir.mail('grace@example.test');
        const person = await chromium.person();
        const page = await person.newPage();
        await page.goto(link(mail.link));
        assert.equal(new URL(page.url()).search, '');
        await page.getByLabel('Password').fill('grace@example');
        await page.getByRole('button').click();
        await page.waitForFunction(() => document.getElementById('password').getAttribute('aria-invalid') === 'true');
        await page.getByLabel('Password').fill(OTHER);
        await page.getByLabel('Your name').fill('Grace');
        await page.getByRole('button').click();
        await page.getByRole('status').waitFor();
        assert.equal((await call(page, 'POST', '/api/v1/auth/login', { body: { email: 'grace@example.test', password: OTHER } })).body.user.name, 'Grace');
        const again = await person.newPage();
        await again.goto(link(mail.link));
        await again.getByLabel('Password').fill(OTHER);
        await again.getByRole('button').click();
        await again.getByRole('alert').waitFor();
    });

    test('a forgotten password: its page makes a new one, once, and the old sessions are over', async () => {
        const { page: before } = await signedIn();
        const person = await chromium.person();
        const page = await here(person);
        assert.equal((await call(page, 'POST', '/api/v1/auth/password/forgot', { body: { email: EMAIL } })).status, 202);
        const [mail] = await weir.mail(EMAIL);
        await page.goto(link(mail.link));
        await page.getByLabel('New password').fill(OTHER);
        await page.getByRole('button').click();
        await page.getByRole('status').waitFor();
        assert.equal(await alive(before), false);
        await signedIn(OTHER);
        await page.goto(link(mail.link));
        await page.getByLabel('New password').fill(PASSWORD);
        await page.getByRole('button').click();
        await page.getByRole('alert').waitFor();
        await signedIn(OTHER);
    });
});
