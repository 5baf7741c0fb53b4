// tls.mjs - the same GET by TLS and HTTP/2: by Weir itself, and by nginx (Debian's, keep-alive to its upstream) in front of a plain Weir.

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { end, folder, freePort, options, run, serve, weir } from '../lib.mjs';

const CONNECTIONS = 16;
const STREAMS = 16; // of each

const installed = (command) => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;

/** h2load tells mean and maximum of a request's time, no quantiles. */
function load(port) {
    const url = `https://127.0.0.1:${port}/livez`;
    const said = run('h2load', ['-D', options.seconds, '--warm-up-time', '1', '-c', String(CONNECTIONS), '-m', String(STREAMS), '-t', '1', url]);
    const [, failed, errored] = /(\d+) failed, (\d+) errored/.exec(said);
    const done = Number(/(\d+) 2xx/.exec(said)[1]);
    if (Number(failed) + Number(errored) > 0 || done === 0) throw new Error(`h2load ${url}\n${said}`);
    return { rate: done / Number(options.seconds), note: `, a request took ${/time for request:\s+\S+\s+\S+\s+(\S+)/.exec(said)[1]} on average` };
}

const configuration = (port, upstream, cert, key) => `worker_processes auto; daemon off; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 1000000000;
    ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ')}
    upstream weir { server 127.0.0.1:${upstream}; keepalive 64; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:${port} ssl http2; ssl_certificate ${cert}; ssl_certificate_key ${key}; ssl_protocols TLSv1.2 TLSv1.3;
        location / { proxy_pass http://weir; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
`;

async function byNginx(cert, key) {
    const plain = await weir('plain');
    const port = await freePort();
    const file = join(folder, 'nginx.conf');
    writeFileSync(file, configuration(port, plain.port, cert, key));
    const nginx = await serve('nginx', ['-c', file, '-p', folder], port);
    const got = load(port);
    await end(nginx.child);
    await end(plain.child);
    return got;
}

export async function tls() {
    const missing = ['h2load', 'nginx', 'openssl'].filter((command) => !installed(command));
    if (missing.length > 0) return [{ what: 'GET /livez by TLS + HTTP/2', note: `left out: no ${missing.join(', ')} (Debian: nghttp2-client, nginx-light, openssl)` }];
    const [cert, key] = ['cert.pem', 'key.pem'].map((name) => join(folder, name));
    run('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=localhost']);
    const own = await weir('tls', { WEIR_TLS_CERT: cert, WEIR_TLS_KEY: key });
    const direct = load(own.port);
    await end(own.child);
    const proxied = await byNginx(cert, key);
    return [
        { what: 'GET /livez by TLS + HTTP/2', ...direct, ratio: direct.rate / proxied.rate, of: 'nginx', aim: 2 },
        { what: 'the same by nginx before a plain Weir', ...proxied, ratio: 1, of: 'itself' },
    ];
}
