/* conditional.h - ETag, If-Match and If-None-Match on single objects (RFC 9110, 13): a route names one statement, everything else follows.
 *
 *     STMT(thing_state, "SELECT version || '.' || updated_at AS state FROM things WHERE tenant_id = $1 AND id = $2", .row = &etag_table);
 *     { ROUTE(GET, "/api/v1/things/{id}", …), .etag = &thing_state },
 *
 * A POST that changes an object and answers it (200) is like a PUT of it.
 *
 * A GET that reads all of it anyway spares the statement (R_TELLS_STATE): its handler says the same text with reply_state, and the statement is left to
 * requests with a condition and to changes.
 *
 * `state` is any text that differs whenever an answer would; the statement is given the tenant and then the path's parameters, in order. GET answers
 * 304 without running the handler; PUT, PATCH and DELETE compare inside their transaction; what a POST made carries the ETag of the GET route that its
 * Location leads to. */
#pragma once

#include "codec/field.h"

struct etag_row {
    struct presence has;
    str state;
};
extern const struct table etag_table;

enum { ETAG_BYTES = 24 };

/* Whether the value of an If-Match (strong) or If-None-Match (weak) field names `etag` (without quotes). Ours may come back with the mark of the coding
 * that it was sent in. "*" names every one. */
bool etag_matches(str field, str etag, bool weak);
