/* migrate.c - brings the schema up and down, one migration per transaction, and remembers which ran with which text.
 *
 * A migration whose text was changed after it ran is refused, never run again: the schema would no longer be what the
 * sequence says. The table schema_migrations itself is made when the database is opened. */
#include "base/clock.h"
#include "base/log.h"
#include "codec/hash.h"
#include "db/db_internal.h"

enum { MIGRATIONS_MAX = 10000, CHECKSUM_CHARS = 2 * SHA256_BYTES };

struct applied {
    struct presence has;
    i64 number;
    str name, checksum;
    i64 applied_at;
};
static const struct field fields[] = {
    FIELD(struct applied, number, F_I64, .doc = "Place in the sequence"),
    FIELD(struct applied, name, F_STR, .doc = "What the file is called, without its number"),
    FIELD(struct applied, checksum, F_STR, .doc = "SHA-256 of the text that ran"),
    FIELD(struct applied, applied_at, F_TIME, .doc = "When it ran"),
};
static const struct table applied_table = TABLE("Migration", struct applied, fields);

STMT(migrations_applied, "SELECT number, name, checksum, applied_at FROM schema_migrations ORDER BY number",
     .row = &applied_table, .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(migration_add, "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)",
     .scope = SCOPE_SYSTEM);
STMT(migration_remove, "DELETE FROM schema_migrations WHERE number = $1", .scope = SCOPE_SYSTEM);

static u32 known_count(void)
{
    u32 n = 0;
    while (db_migrations[n].number != 0)
        n++;
    return n;
}

static const char *up_of(const struct driver *d, const struct migration *m)
{
    return d == &postgres_driver && m->postgres_up != NULL ? m->postgres_up : m->up;
}

static const char *down_of(const struct driver *d, const struct migration *m)
{
    return d == &postgres_driver && m->postgres_down != NULL ? m->postgres_down : m->down;
}

static void checksum_of(const struct driver *d, const struct migration *m, char out[CHECKSUM_CHARS])
{
    static const char digits[] = "0123456789abcdef";
    u8 hash[SHA256_BYTES];
    hash_sha256(str_of(up_of(d, m)), hash);
    for (size_t i = 0; i < sizeof hash; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
}

bool migration_is(const struct driver *driver, const struct migration *m, str checksum)
{
    char own[CHECKSUM_CHARS];
    checksum_of(driver, m, own);
    return str_eq(checksum, (str){ own, sizeof own });
}

static err refuse(const struct applied *a, const char *cause)
{
    LOG(LOG_ERROR, "db.migration_refused", LOG_INT("number", a->number), LOG_STR("name", a->name),
        LOG_STR("cause", str_of(cause)));
    return ERR_CONFLICT;
}

/* What has run, which must be the beginning of the sequence we know. */
static err list_applied(struct tx *tx, struct applied **list, u32 *n)
{
    void *rows;
    TRY(db_list(tx, &migrations_applied, MIGRATIONS_MAX, &rows, n, (struct args){ 0 }));
    *list = rows;
    return OK;
}

static err check_applied(const struct driver *d, const struct applied *list, u32 n)
{
    u32 known = known_count();
    for (u32 i = 0; i < n; i++) {
        if (i >= known || list[i].number != db_migrations[i].number)
            return refuse(&list[i], "the schema is newer than this program");
        if (!migration_is(d, &db_migrations[i], list[i].checksum))
            return refuse(&list[i], "its text was changed after it ran");
    }
    return OK;
}

static err apply(struct tx *tx, const struct migration *m)
{
    char checksum[CHECKSUM_CHARS];
    const struct driver *d = tx->db->driver;
    checksum_of(d, m, checksum);
    TRY(d->script(tx, m->name, up_of(d, m)));
    TRY(d->migrated(tx));
    str text = { checksum, sizeof checksum };
    return db_exec(tx, &migration_add, NULL,
                   ARGS(I64(m->number), STR(str_of(m->name)), STR(text), I64(clock_now_us())));
}

const char *db_migration_text(const struct db *db, u32 number, bool up)
{
    for (const struct migration *m = db_migrations; m->number != 0; m++)
        if (m->number == number)
            return up ? up_of(db->driver, m) : down_of(db->driver, m);
    return NULL;
}

/* The one that this step is about; NULL when there was nothing to do. */
struct migrate_step {
    u32 keep; /* up to this one nothing is taken back */
    const struct migration *ran;
};

static err step_up(void *ctx, struct tx *tx)
{
    struct migrate_step *step = ctx;
    struct applied *list;
    u32 n;
    step->ran = NULL;
    TRY(tx->db->driver->migrate_lock(tx));
    TRY(list_applied(tx, &list, &n));
    TRY(check_applied(tx->db->driver, list, n));
    if (n == known_count())
        return OK;
    TRY(apply(tx, &db_migrations[n]));
    step->ran = &db_migrations[n];
    return OK;
}

static err step_down(void *ctx, struct tx *tx)
{
    struct migrate_step *step = ctx;
    struct applied *list;
    u32 n;
    TRY(tx->db->driver->migrate_lock(tx));
    TRY(list_applied(tx, &list, &n));
    if (n == 0)
        return ERR_NOT_FOUND;
    TRY(check_applied(tx->db->driver, list, n));
    if ((u32)list[n - 1].number <= step->keep)
        return ERR_NOT_FOUND;
    const struct migration *m = &db_migrations[n - 1];
    const char *down = down_of(tx->db->driver, m);
    if (down == NULL || down[0] == '\0')
        return refuse(&list[n - 1], "it cannot be taken back");
    TRY(tx->db->driver->script(tx, m->name, down));
    TRY(db_exec(tx, &migration_remove, NULL, ARGS(I64(m->number))));
    step->ran = m;
    return OK;
}

enum { STEP_ARENA_MAX = 4 << 20 };

static err run_step(struct db *db, err (*run)(void *ctx, struct tx *tx), u32 keep, const char *event,
                    const struct migration **ran)
{
    struct arena *a = arena_new(STEP_ARENA_MAX);
    if (a == NULL)
        return ERR_MEMORY;
    struct migrate_step step = { .keep = keep };
    err e = db_write_wait(db, a, run, &step);
    arena_free(a);
    TRY(e);
    if (step.ran != NULL)
        LOG(LOG_INFO, event, LOG_INT("number", step.ran->number), LOG_STR("name", str_of(step.ran->name)));
    *ran = step.ran;
    return OK;
}

err db_migrate_up(struct db *db)
{
    const struct migration *ran;
    do
        TRY(run_step(db, step_up, 0, "db.migrated_up", &ran));
    while (ran != NULL);
    return OK;
}

err db_migrate_down(struct db *db)
{
    const struct migration *ran;
    return run_step(db, step_down, 0, "db.migrated_down", &ran);
}

err db_migrate_down_to(struct db *db, u32 number)
{
    const struct migration *ran;
    err e;
    do
        e = run_step(db, step_down, number, "db.migrated_down", &ran);
    while (e == OK);
    return e == ERR_NOT_FOUND ? OK : e;
}

struct status {
    struct migration_state *list;
    u32 n;
};

/* All that are known, in order, then those that ran and are not. */
static err list_status(void *ctx, struct tx *tx)
{
    struct status *status = ctx;
    struct applied *applied;
    u32 n, known = known_count();
    TRY(list_applied(tx, &applied, &n));
    struct migration_state *list = NEW_N(db_arena(tx), struct migration_state, known + n);
    if (list == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < known; i++)
        list[i] = (struct migration_state){ .number = db_migrations[i].number, .name = str_of(db_migrations[i].name) };
    u32 total = known;
    for (u32 i = 0; i < n; i++) {
        bool ours = i < known && applied[i].number == list[i].number;
        struct migration_state *state = ours ? &list[i] : &list[total++];
        state->number = (u32)applied[i].number;
        state->name = applied[i].name;
        state->applied_at = applied[i].applied_at;
        state->changed = !ours || !migration_is(tx->db->driver, &db_migrations[i], applied[i].checksum);
    }
    *status = (struct status){ list, total };
    return OK;
}

err db_migrate_status(struct db *db, struct arena *a, struct migration_state **list, u32 *n)
{
    struct status status;
    TRY(db_write_wait(db, a, list_status, &status));
    *list = status.list;
    *n = status.n;
    return OK;
}
