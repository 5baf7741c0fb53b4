/* keys.h - what hangs on SECRET_KEY, and how it comes to hang on another one.
 *
 * A column of sealed texts is sealed again, row by row, as often as it takes. A key that MACs were made with cannot be exchanged so: it was derived from the SECRET_KEY of the
 * first start, is kept sealed in mac_keys, and stays. */
#pragma once

#include "core/module.h"
#include "db/db.h"

struct sealed_row {
    struct presence has;
    str id, tenant_id, sealed;
};
extern const struct table sealed_row_table;
struct sealed_column {
    const char *name;         /* "users.totp_seed" */
    const struct stmt *page;  /* $1 id that it comes after, $2 how many: rows of sealed_row_table by id */
    const struct stmt *store; /* $1 id, $2 as it was, $3 as it is: changes nothing when somebody else did meanwhile */
    /* The row's text under SECRET_KEY alone; row->sealed itself when it is so already. ERR_INTERNAL: neither key opens it. */
    err (*again)(struct arena *a, const struct sealed_row *row, str *out);
};

enum mac_key { MAC_AUDIT, MAC_RECOVERY, MAC_KEYS };
enum { MAC_KEY_BYTES = 32 };
/* Reads the MAC keys, and makes them where they are missing and the store may be written. ERR_INTERNAL: neither SECRET_KEY nor the one of before opens them. */
err keys_open(struct db *db, struct arena *a, bool read_only) MUST;
/* Without keys_open (tests) it is derived from SECRET_KEY, as it was at the first start. */
void keys_mac(enum mac_key which, u8 out[MAC_KEY_BYTES]);

/* `weir keys status|rotate|retire`; exit codes as main.c has them. */
int keys_status(void);
int keys_rotate(void);
int keys_retire(void);
