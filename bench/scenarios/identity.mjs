// identity.mjs - what knowing the caller costs: the same small answer for nobody, for a token, for an API key and for a browser's cookie. The aim is that the first two
// differ by less than 3 us of processor time; the answers are not of one route, so the difference is a little too large.

import { call, EMAIL, end, load, PASSWORD, signIn, weir } from '../lib.mjs';

const AIM_US = 3;

async function cookieOf(server) {
    const answer = await fetch(`${server.base}/api/v1/auth/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ email: EMAIL, password: PASSWORD }) });
    return answer.headers.getSetCookie().find((line) => line.startsWith('__Host-weir=')).split(';')[0];
}

export async function identity() {
    const server = await weir('identity');
    const token = await signIn(server);
    const { key } = await call(server, 'POST', '/api/v1/api-keys', { name: 'bench', scopes: ['workflows.read'] }, token);
    const cookie = await cookieOf(server);
    const callers = { 'a token': { Authorization: `Bearer ${token}` }, 'an API key': { 'X-API-Key': key }, 'a cookie': { Cookie: cookie } };
    const nobody = { what: 'GET /api/v1/info, nobody', ...load(server, '/api/v1/info') };
    const rows = [nobody];
    for (const [who, headers] of Object.entries(callers)) {
        const got = load(server, '/api/v1/limits', { headers });
        const added = got.cpu_us - nobody.cpu_us;
        rows.push({ what: `GET /api/v1/limits, ${who}`, ...got, note: `${added.toFixed(1)} us more than nobody (aim ${AIM_US})` });
    }
    await end(server.child);
    return rows;
}
