/* keys.c - see keys.h. Everything here may be cut off at any point and done again: a text is opened by whichever key it was sealed with, and stored only over what was read. */
#include "core/keys.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/seal.h"

#include <stdio.h>
#include <string.h>

enum { SLICE = 100, SLICE_BYTES = 64 << 20 /* a hundred letters or triggers */, EXIT_FAILED = 1 };

static const struct field sealed_fields[] = {
    FIELD(struct sealed_row, id, F_STR, .doc = "Row"),
    FIELD(struct sealed_row, tenant_id, F_STR, .doc = "Whose, where it has a tenant"),
    FIELD(struct sealed_row, sealed, F_STR, .flags = F_SECRET, .doc = "What is stored"),
};
const struct table sealed_row_table = TABLE("SealedRow", struct sealed_row, sealed_fields);

/* ---- keys that MACs are made with ---- */

static const struct {
    const char *purpose; /* info of its derivation, and its row */
} macs[MAC_KEYS] = { [MAC_AUDIT] = { "audit chain" }, [MAC_RECOVERY] = { "recovery codes" } };

STMT(mac_key_by_purpose, "SELECT purpose AS id, sealed FROM mac_keys WHERE purpose = $1", .row = &sealed_row_table,
     .scope = SCOPE_SYSTEM);
STMT(mac_key_add, "INSERT INTO mac_keys (purpose, sealed) VALUES ($1, $2) ON CONFLICT (purpose) DO NOTHING",
     .scope = SCOPE_SYSTEM);
STMT(mac_key_page, "SELECT purpose AS id, sealed FROM mac_keys WHERE purpose > $1 ORDER BY purpose LIMIT $2",
     .row = &sealed_row_table, .scope = SCOPE_SYSTEM);
STMT(mac_key_store, "UPDATE mac_keys SET sealed = $3 WHERE purpose = $1 AND sealed = $2", .scope = SCOPE_SYSTEM);

static err mac_key_again(struct arena *a, const struct sealed_row *row, str *out)
{
    return seal_again(a, "mac_keys", row->id, row->sealed, out);
}
static const struct sealed_column mac_column = { "mac_keys.sealed", &mac_key_page, &mac_key_store, mac_key_again };

/* As it was before the table: a chain that was begun then goes on. While SECRET_KEY is being changed that is the one of before. */
static void mac_derive(enum mac_key which, u8 out[MAC_KEY_BYTES])
{
    str secret = app.config.secret_key_previous.n > 0 ? app.config.secret_key_previous : app.config.secret_key;
    hash_hkdf_sha256(secret, str_of(macs[which].purpose), out, MAC_KEY_BYTES);
}

struct adding {
    str purpose, sealed;
};

static err add_mac(void *ctx, struct tx *tx)
{
    const struct adding *in = ctx;
    return db_exec(tx, &mac_key_add, NULL, ARGS(STR(in->purpose), STR(in->sealed)));
}

static err mac_read(struct db *db, struct arena *a, enum mac_key which, struct sealed_row *out)
{
    struct tx *tx;
    TRY(db_read_begin(db, a, false, &tx));
    err e = db_row(tx, &mac_key_by_purpose, out, ARGS(STR(str_of(macs[which].purpose))));
    db_read_end(tx);
    return e;
}

static err mac_make(struct db *db, struct arena *a, enum mac_key which, struct sealed_row *row)
{
    u8 key[MAC_KEY_BYTES];
    struct adding in = { .purpose = str_of(macs[which].purpose) };
    mac_derive(which, key);
    TRY(seal_text(a, "mac_keys", in.purpose, (str){ (const char *)key, sizeof key }, &in.sealed));
    explicit_bzero(key, sizeof key);
    TRY(db_write_wait(db, a, add_mac, &in));
    return mac_read(db, a, which, row); /* another node's, if it was first */
}

static err mac_open(struct db *db, struct arena *a, enum mac_key which, bool read_only)
{
    struct sealed_row row;
    str plain;
    err e = mac_read(db, a, which, &row);
    if (e == ERR_NOT_FOUND && read_only) {
        mac_derive(which, app.mac_keys[which]);
        return OK;
    }
    if (e == ERR_NOT_FOUND)
        e = mac_make(db, a, which, &row);
    TRY(e);
    TRY(unseal_text(a, "mac_keys", str_of(macs[which].purpose), row.sealed, &plain));
    if (plain.n != MAC_KEY_BYTES)
        return ERR_INTERNAL;
    memcpy(app.mac_keys[which], plain.p, MAC_KEY_BYTES);
    return OK;
}

err keys_open(struct db *db, struct arena *a, bool read_only)
{
    for (enum mac_key which = 0; which < MAC_KEYS; which++)
        TRY(mac_open(db, a, which, read_only));
    app.mac_keys_open = true;
    return OK;
}

void keys_mac(enum mac_key which, u8 out[MAC_KEY_BYTES])
{
    if (app.mac_keys_open)
        memcpy(out, app.mac_keys[which], MAC_KEY_BYTES);
    else
        mac_derive(which, out);
}

/* ---- walking over what is sealed ---- */

struct walk {
    const struct sealed_column *column;
    bool change;
    str after;
    struct sealed_row *rows;
    str *fresh;
    u32 n;
    i64 present, previous, unreadable, stored; /* how many */
    i64 slice_stored;
};

static err read_slice(struct arena *a, struct walk *w)
{
    struct tx *tx;
    void *rows;
    TRY(db_read_begin(app.db, a, false, &tx));
    err e = db_list(tx, w->column->page, SLICE, &rows, &w->n, ARGS(STR(w->after), I64(SLICE)));
    db_read_end(tx);
    w->rows = rows;
    w->fresh = NEW_N(a, str, SLICE);
    return e == OK && w->fresh == NULL ? ERR_MEMORY : e;
}

static err look(struct arena *a, struct walk *w)
{
    for (u32 i = 0; i < w->n; i++) {
        err e = w->column->again(a, &w->rows[i], &w->fresh[i]);
        bool same = e == OK && str_eq(w->fresh[i], w->rows[i].sealed);
        w->unreadable += e == ERR_INTERNAL;
        w->present += same;
        w->previous += e == OK && !same;
        if (e != OK && e != ERR_INTERNAL)
            return e;
        if (e != OK || same)
            w->fresh[i] = STR_NONE;
    }
    return OK;
}

static err store_slice(void *ctx, struct tx *tx)
{
    struct walk *w = ctx;
    i64 changed, sum = 0;
    for (u32 i = 0; i < w->n; i++) {
        if (w->fresh[i].p == NULL)
            continue;
        TRY(db_exec(tx, w->column->store, &changed,
                    ARGS(STR(w->rows[i].id), STR(w->rows[i].sealed), STR(w->fresh[i]))));
        sum += changed;
    }
    w->slice_stored = sum; /* added once it is committed: this may run again */
    return OK;
}

static err walk_slice(struct arena *a, struct walk *w)
{
    i64 before = w->previous;
    TRY(read_slice(a, w));
    TRY(look(a, w));
    if (!w->change || w->previous == before)
        return OK;
    TRY(db_write_wait(app.db, a, store_slice, w));
    w->stored += w->slice_stored;
    return OK;
}

static err walk_column(struct walk *w)
{
    char after[128] = "";
    err e = OK;
    do {
        struct arena *a = arena_new(SLICE_BYTES);
        w->after = str_of(after);
        e = a != NULL ? walk_slice(a, w) : ERR_MEMORY;
        if (e == OK && w->n > 0)
            snprintf(after, sizeof after, "%.*s", STR_FMT(w->rows[w->n - 1].id));
        arena_free(a);
    } while (e == OK && w->n == SLICE);
    return e;
}

struct sums {
    i64 previous, unreadable;
};

static err walk_one(const struct sealed_column *column, bool change, struct sums *sums)
{
    struct walk w = { .column = column, .change = change };
    err e = walk_column(&w);
    i64 previous = w.previous - w.stored;
    printf("%-24s %lld present, %lld previous, %lld unreadable", column->name, (long long)(w.present + w.stored),
           (long long)previous, (long long)w.unreadable);
    printf(change ? "; %lld sealed again\n" : "\n", (long long)w.stored);
    sums->previous += previous;
    sums->unreadable += w.unreadable;
    if (e != OK)
        fprintf(stderr, "weir: %s: %s\n", column->name, err_text(e));
    return e;
}

static err walk_all(bool change, struct sums *sums)
{
    TRY(walk_one(&mac_column, change, sums));
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->sealed_count; i++)
            TRY(walk_one(&(*m)->sealed[i], change, sums));
    return OK;
}

/* ---- the verbs ---- */

/* Tells keys apart and nothing else. */
static void print_key(const char *name, str key, const char *where)
{
    u8 mac[SHA256_BYTES];
    hash_hmac_sha256(key, S("weir key"), mac);
    if (key.n == 0)
        printf("%-24s -\n", name);
    else
        printf("%-24s %02x%02x%02x%02x %s\n", name, mac[0], mac[1], mac[2], mac[3], where);
}

static int say(const char *what)
{
    fprintf(stderr, "weir: %s\n", what);
    return EXIT_FAILED;
}

int keys_status(void)
{
    const struct config *c = &app.config;
    struct sums sums = { 0 };
    const char *where = c->secret_key_file ? "secret.key" : "setting";
    print_key("SECRET_KEY", c->secret_key, where);
    print_key("SECRET_KEY_PREVIOUS", c->secret_key_previous, c->secret_key_file ? "secret.key.previous" : "setting");
    print_key("JWT_SECRET_KEY", c->jwt_secret, "");
    print_key("JWT_SECRET_KEY_PREVIOUS", c->jwt_secret_previous, "");
    if (walk_all(false, &sums) != OK)
        return EXIT_FAILED;
    return sums.unreadable > 0 ? say("some texts are sealed under a key that is not here") : 0;
}

/* Another key is made where the data folder holds it; where it is a setting its owner changes it. */
static int exchange(void)
{
    struct buf complaint = { .arena = app.arena };
    if (!app.config.secret_key_file)
        return say("SECRET_KEY is a setting: give the new key as SECRET_KEY and the present one as SECRET_KEY_PREVIOUS,"
                   " to every node, and run this again");
    err e = config_key_rotate(app.arena, &app.config, &complaint);
    if (e == OK)
        return 0;
    if (complaint.n > 0)
        fprintf(stderr, "weir: %.*s\n", STR_FMT(str_trim(buf_view(&complaint))));
    return complaint.n > 0 ? EXIT_FAILED : say(err_text(e));
}

int keys_rotate(void)
{
    struct sums sums = { 0 };
    int code = app.config.secret_key_previous.n == 0 ? exchange() : 0;
    if (code != 0)
        return code;
    if (walk_all(true, &sums) != OK || sums.previous > 0)
        return say("not all is sealed again: run this again");
    if (sums.unreadable > 0)
        return say("some texts are sealed under a key that is not here; they were left as they are");
    printf(
        "Everything is sealed under the present key. The key of before still verifies tokens; weir keys retire ends that.\n");
    return 0;
}

int keys_retire(void)
{
    struct buf complaint = { .arena = app.arena };
    struct sums sums = { 0 };
    if (app.config.secret_key_previous.n == 0)
        return say("there is no key of before");
    if (walk_all(false, &sums) != OK || sums.previous > 0)
        return say("the key of before is still needed: weir keys rotate");
    if (!app.config.secret_key_file)
        printf("SECRET_KEY_PREVIOUS is not needed any more: take it out of the settings.\n");
    else if (config_key_retire(app.arena, &app.config, &complaint) != OK)
        return say("secret.key.previous cannot be deleted");
    else
        printf("secret.key.previous is deleted. Tokens that were signed under it have ended.\n");
    return 0;
}
