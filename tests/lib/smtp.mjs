// smtp.mjs - a mail server that is not ours (npm smtp-server), which refuses as it is told; and letters as Python's email package reads them.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { SMTPServer } from 'smtp-server';

const READ = `
import base64, email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
parts = [{"type": p.get_content_type(), "charset": p.get_content_charset(), "text": p.get_content(), "defects": [str(d) for d in p.defects]} for p in m.iter_parts()]
print(json.dumps({"headers": [[k, str(v)] for k, v in m.items()], "type": m.get_content_type(), "parts": parts, "defects": [str(d) for d in m.defects] + [str(d) for v in m.values() for d in v.defects],
    "to": [a.addr_spec for a in m["to"].addresses], "from": [a.addr_spec for a in m["from"].addresses], "date": m["date"].datetime.timestamp()}))
`;
/** {headers: [[name, value]], type, parts: [{type, charset, text}], to, from, date, defects} */
export const readLetter = (bytes) => JSON.parse(execFileSync('python3', ['-c', READ], { input: bytes, encoding: 'utf8' }));

export class Mailserver {
    /** `tls`: 'none', 'starttls' or 'implicit'; `user`, `password`: what it insists on, if anything. `port`: one that was used before. */
    static async start({ certificate, tls = 'starttls', user, password, port = 0 } = {}) {
        const mailserver = new Mailserver();
        const files = certificate ? { cert: readFileSync(certificate.cert), key: readFileSync(certificate.key) } : {};
        const disabled = [...(tls === 'none' ? ['STARTTLS'] : []), ...(user ? [] : ['AUTH'])];
        mailserver.server = new SMTPServer({
            ...files, secure: tls === 'implicit', authOptional: !user, disabledCommands: disabled, logger: false, disableReverseLookup: true, closeTimeout: 100, allowInsecureAuth: true,
            onConnect: (session, done) => done(mailserver.#refusal('connect')),
            onAuth: (auth, session, done) => {
                mailserver.logins.push({ user: auth.username, secure: session.secure });
                const good = auth.username === user && auth.password === password && !mailserver.refusing.auth;
                done(good ? null : Object.assign(new Error('no'), { responseCode: 535 }), good ? { user } : undefined);
            },
            onRcptTo: (address, session, done) => done(mailserver.#refusal('rcpt')),
            onData: (stream, session, done) => {
                const pieces = [];
                stream.on('data', (piece) => pieces.push(piece)).on('end', () => {
                    const refusal = mailserver.#refusal('data');
                    const { mailFrom, rcptTo } = session.envelope;
                    if (!refusal) mailserver.letters.push({ from: mailFrom.address, to: rcptTo.map(({ address }) => address), secure: session.secure, user: session.user, bytes: Buffer.concat(pieces) });
                    done(refusal);
                });
            },
        });
        mailserver.server.on('error', (error) => mailserver.errors.push(String(error)));
        await new Promise((done) => mailserver.server.listen(port, '127.0.0.1', done));
        mailserver.port = mailserver.server.server.address().port;
        return mailserver;
    }

    letters = [];
    logins = [];
    errors = [];
    /** What is refused from now on: {connect|rcpt|data: code}, {auth: true}. */
    refusing = {};
    /** How often each kind was refused. */
    refused = { connect: 0, rcpt: 0, data: 0 };

    #refusal(kind) {
        if (!this.refusing[kind]) return null;
        this.refused[kind]++;
        return Object.assign(new Error('not now'), { responseCode: this.refusing[kind] });
    }

    stop() {
        return new Promise((done) => this.server.close(done));
    }
}
