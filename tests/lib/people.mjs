// people.mjs - makes the tenants and users that Weir.start() promises, once for a run: fourteen processes and ten hashes, which each server copies instead.
// tests/run.mjs runs it before the tests of a database; a file that is run alone makes its own.

import { cpSync } from 'node:fs';

const folder = process.env.WEIR_TEST_PEOPLE;
delete process.env.WEIR_TEST_PEOPLE; // there are none yet
const { PEOPLE, Weir } = await import('./server.mjs');

const weir = await Weir.start({ serve: false });
cpSync(weir.data, folder, { recursive: true });
if (weir.postgres) {
    weir.postgres.drop(PEOPLE.database);
    weir.postgres.create(PEOPLE.database, { template: weir.database });
}
weir.discard();
