// assets.mjs - takes the files that /docs and /redoc load out of the npm packages and puts them into console/dist, each as it is, as .gz and
// as .br. The build embeds what it finds there (tools/embed_assets.py); without this step the server has none and says so on its pages.

import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const HERE = new URL('.', import.meta.url).pathname;
const DIST = join(HERE, 'dist');
const FILES = {
    'swagger-ui.css': 'swagger-ui-dist/swagger-ui.css',
    'swagger-ui-bundle.js': 'swagger-ui-dist/swagger-ui-bundle.js',
    'swagger-ui-bundle.js.LICENSE.txt': 'swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt',
    'swagger-ui.LICENSE.txt': 'swagger-ui-dist/LICENSE',
    'redoc.standalone.js': 'redoc/bundles/redoc.standalone.js',
    'redoc.standalone.js.LICENSE.txt': 'redoc/bundles/redoc.standalone.js.LICENSE.txt',
    'redoc.LICENSE.txt': 'redoc/LICENSE',
};

rmSync(DIST, { recursive: true, force: true });
mkdirSync(DIST);
let total = 0;
for (const [name, from] of Object.entries(FILES)) {
    const to = join(DIST, name);
    copyFileSync(join(HERE, 'node_modules', from), to);
    const bytes = readFileSync(to);
    const small = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } });
    writeFileSync(`${to}.gz`, gzipSync(bytes, { level: 9 }));
    writeFileSync(`${to}.br`, small);
    total += small.length;
}
console.log(`console/dist: ${Object.keys(FILES).length} files, ${Math.round(total / 1024)} KiB as brotli; build again to embed them`);
