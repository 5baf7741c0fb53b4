// certificate.mjs - certificates for tests: self-signed for 127.0.0.1, made by the openssl program.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { readFileSync } from 'node:fs';

/** Files `<name>.cert.pem` and `<name>.key.pem` in the folder; {cert, key, ca} (two paths, and the certificate's text). */
export function makeCertificate(folder, name, { passphrase } = {}) {
    const cert = join(folder, `${name}.cert.pem`), key = join(folder, `${name}.key.pem`);
    const sealed = passphrase ? ['-passout', `pass:${passphrase}`] : ['-nodes'];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', ...sealed, '-keyout', key, '-out', cert,
        '-days', '30', '-subj', `/CN=${name}.weir.test`, '-addext', 'subjectAltName=IP:127.0.0.1'], { stdio: 'ignore' });
    return { cert, key, ca: readFileSync(cert, 'utf8') };
}
