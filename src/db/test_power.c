/* test_power.c - the power fails: what was acknowledged is there afterwards, whole, wherever it happens; and without fsync this test notices.
 *
 * A file layer beneath the store's own writes down every write and sync. Afterwards the disk is put together as it may look when the power fails between two of them: what was
 * synced stands; of the rest each write may be there, or not, or torn into sectors of which some are, in any combination. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "db/sqlite.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPS_MAX = 100000, SECTOR = 512, PATH_BYTES = 160, ACKED_MAX = 1000, LARGE = 10000 };

const struct migration db_migrations[] = {
    { 1, "pairs",
      "CREATE TABLE pairs (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, half INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (n, half));",
      "DROP TABLE pairs;" },
    { 0 },
};

/* ---- what is written down ---- */

enum file { FILE_DB, FILE_WAL, FILES };
struct op {
    enum { OP_WRITE, OP_TRUNCATE, OP_SYNC, OP_ACK } kind;
    enum file file;
    i64 at; /* offset; the size of a truncation; the number of an acknowledged pair */
    u32 n;
    char *bytes;
};
static struct {
    pthread_mutex_t mutex;
    bool on;
    struct op *ops;
    u32 n;
} trace = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void note(struct op op, const void *bytes)
{
    pthread_mutex_lock(&trace.mutex);
    if (trace.on) {
        assert_true(trace.n < OPS_MAX);
        if (op.n > 0) {
            op.bytes = malloc(op.n);
            assert_non_null(op.bytes);
            memcpy(op.bytes, bytes, op.n);
        }
        trace.ops[trace.n++] = op;
    }
    pthread_mutex_unlock(&trace.mutex);
}

static void trace_begin(void)
{
    trace.ops = calloc(OPS_MAX, sizeof *trace.ops);
    assert_non_null(trace.ops);
    trace.n = 0;
    trace.on = true;
}

static void trace_free(void)
{
    for (u32 i = 0; i < trace.n; i++)
        free(trace.ops[i].bytes);
    free(trace.ops);
    trace.ops = NULL;
    trace.n = 0;
}

/* ---- the layer ---- */

struct noted_file {
    sqlite3_file base;
    bool noted;
    enum file file;
    sqlite3_file *real; /* behind this one */
};
static sqlite3_vfs noting, *unix_vfs;

#define REAL(file) (((struct noted_file *)(file))->real)

static int noted_close(sqlite3_file *f)
{
    return REAL(f)->pMethods->xClose(REAL(f));
}
static int noted_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    return REAL(f)->pMethods->xRead(REAL(f), p, n, at);
}
static int noted_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    const struct noted_file *own = (struct noted_file *)f;
    if (own->noted)
        note((struct op){ .kind = OP_WRITE, .file = own->file, .at = at, .n = (u32)n }, p);
    return REAL(f)->pMethods->xWrite(REAL(f), p, n, at);
}
static int noted_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    const struct noted_file *own = (struct noted_file *)f;
    if (own->noted)
        note((struct op){ .kind = OP_TRUNCATE, .file = own->file, .at = size }, NULL);
    return REAL(f)->pMethods->xTruncate(REAL(f), size);
}
/* Written down when it begins: it need not hold for what is written while it runs. */
static int noted_sync(sqlite3_file *f, int flags)
{
    const struct noted_file *own = (struct noted_file *)f;
    if (own->noted)
        note((struct op){ .kind = OP_SYNC, .file = own->file }, NULL);
    return REAL(f)->pMethods->xSync(REAL(f), flags);
}
static int noted_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), size);
}
static int noted_lock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xLock(REAL(f), lock);
}
static int noted_unlock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), lock);
}
static int noted_reserved(sqlite3_file *f, int *out)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out);
}
static int noted_control(sqlite3_file *f, int op, void *arg)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}
static int noted_sector(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}
/* Nothing is promised: neither that a write is atomic nor that an overwrite leaves its neighbours alone. */
static int noted_device(sqlite3_file *f)
{
    return 0;
}
static int noted_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, out);
}
static int noted_shm_lock(sqlite3_file *f, int at, int n, int flags)
{
    return REAL(f)->pMethods->xShmLock(REAL(f), at, n, flags);
}
static void noted_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}
static int noted_shm_unmap(sqlite3_file *f, int delete)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), delete);
}

/* The second version of the interface: without mapping, so that every byte passes here. */
static const sqlite3_io_methods noted_methods = {
    2,
    noted_close,
    noted_read,
    noted_write,
    noted_truncate,
    noted_sync,
    noted_size,
    noted_lock,
    noted_unlock,
    noted_reserved,
    noted_control,
    noted_sector,
    noted_device,
    noted_shm_map,
    noted_shm_lock,
    noted_shm_barrier,
    noted_shm_unmap,
};

static int noted_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
    struct noted_file *own = (struct noted_file *)file;
    *own = (struct noted_file){ .noted = (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) != 0,
                                .file = flags & SQLITE_OPEN_WAL ? FILE_WAL : FILE_DB,
                                .real = (sqlite3_file *)(own + 1) };
    int rc = unix_vfs->xOpen(unix_vfs, name, own->real, flags, out_flags);
    if (own->real->pMethods != NULL)
        own->base.pMethods = &noted_methods;
    return rc;
}

/* Before the store looks for a file layer: it takes the default one. */
static int set_up(void **state)
{
    unix_vfs = sqlite3_vfs_find(NULL);
    assert_non_null(unix_vfs);
    noting = *unix_vfs;
    noting.zName = "noting";
    noting.pNext = NULL;
    noting.szOsFile = unix_vfs->szOsFile + (int)sizeof(struct noted_file);
    noting.xOpen = noted_open;
    return sqlite3_vfs_register(&noting, 1) == SQLITE_OK ? 0 : -1;
}

/* ---- a disk after the power has failed ---- */

struct content {
    char *p;
    size_t n, room;
};

static void content_size(struct content *c, size_t n)
{
    if (n > c->room) {
        c->room = n * 2;
        c->p = realloc(c->p, c->room);
        assert_non_null(c->p);
    }
    if (n > c->n)
        memset(c->p + c->n, 0, n - c->n);
    c->n = n;
}

static void content_write(struct content *c, i64 at, const char *bytes, u32 n)
{
    content_size(c, MAX(c->n, (size_t)at + n));
    memcpy(c->p + at, bytes, n);
}

static void content_read(struct content *c, const char *path)
{
    FILE *f = fopen(path, "re");
    *c = (struct content){ 0 };
    if (f == NULL)
        return;
    for (int byte_count = 1; byte_count > 0;) {
        size_t before = c->n;
        content_size(c, before + 65536);
        byte_count = (int)fread(c->p + before, 1, 65536, f);
        c->n = before + (size_t)byte_count;
    }
    fclose(f);
}

static void content_save(const struct content *c, const char *path)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(c->p, 1, c->n, f), c->n);
    assert_int_equal(fclose(f), 0);
}

static u64 dice_state;
static u32 dice(u32 below)
{
    dice_state = dice_state * 6364136223846793005u + 1442695040888963407u;
    return (u32)(dice_state >> 33) % below;
}

static void apply(struct content *c, const struct op *op)
{
    if (op->kind == OP_WRITE)
        content_write(c, op->at, op->bytes, op->n);
    else
        content_size(c, (size_t)op->at);
}

/* A write that was not synced: there, not there, or some of its sectors. */
static void apply_perhaps(struct content *c, const struct op *op)
{
    u32 luck = dice(3);
    if (luck == 0)
        return;
    if (luck == 1 || op->kind == OP_TRUNCATE) {
        apply(c, op);
        return;
    }
    for (u32 from = 0, n; from < op->n; from += n) {
        n = MIN((u32)(SECTOR - (op->at + from) % SECTOR), op->n - from);
        if (dice(2) == 0)
            content_write(c, op->at + from, op->bytes + from, n);
    }
}

/* The state after all syncs among the first `ops`, going on from where *done stands. */
static void settle(struct content durable[FILES], u32 ops, u32 last_sync[FILES], u32 *done)
{
    for (; *done < ops; (*done)++) {
        const struct op *sync = &trace.ops[*done];
        if (sync->kind != OP_SYNC)
            continue;
        for (u32 i = last_sync[sync->file]; i < *done; i++)
            if (trace.ops[i].file == sync->file && trace.ops[i].kind <= OP_TRUNCATE)
                apply(&durable[sync->file], &trace.ops[i]);
        last_sync[sync->file] = *done;
    }
}

/* ---- the store on it ---- */

struct couple {
    struct presence has;
    i64 n, halves;
};
static const struct field couple_fields[] = {
    FIELD(struct couple, n, F_I64, .doc = "Which"),
    FIELD(struct couple, halves, F_I64, .doc = "How much of it is there"),
};
static const struct table couple_table = TABLE("TestPair", struct couple, couple_fields);
STMT(half_insert, "INSERT INTO pairs (n, half, text) VALUES ($1, $2, $3)", .scope = SCOPE_SYSTEM);
STMT(pairs_all, "SELECT n, count(*) AS halves FROM pairs GROUP BY n", .row = &couple_table, .scope = SCOPE_SYSTEM,
     .scan_ok = true);

struct writing {
    i64 n;
    str text;
};

static err write_pair(void *ctx, struct tx *tx)
{
    const struct writing *w = ctx;
    TRY(db_exec(tx, &half_insert, NULL, ARGS(I64(w->n), I64(0), STR(w->text))));
    return db_exec(tx, &half_insert, NULL, ARGS(I64(w->n), I64(1), STR(w->text)));
}

static char root[PATH_BYTES];

static struct db *open_at(const char *name)
{
    char folder[2 * PATH_BYTES];
    struct db *db;
    snprintf(folder, sizeof folder, "%s/%s", root, name);
    struct db_options options = { .folder = str_of(folder) };
    if (db_open(&options, &db) != OK)
        return NULL;
    return db;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static err check_whole(void *ctx, struct tx *tx)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(CONTAINER(tx, struct sqlite_tx, base)->conn->sqlite, "PRAGMA integrity_check", -1, &s,
                           NULL) != SQLITE_OK)
        return ERR_INTERNAL;
    bool good = sqlite3_step(s) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(s, 0), "ok") == 0;
    sqlite3_finalize(s);
    return good ? OK : ERR_INTERNAL;
}

/* What the store says of a disk: how many pairs of those acknowledged before op `cut` are lost. -1: it is broken, or holds half a pair. */
static i64 lost_on(const char *name, u32 cut)
{
    struct arena *a = arena_new(16 * MIB);
    struct db *db = open_at(name);
    struct tx *tx;
    void *rows;
    u32 n;
    bool there[ACKED_MAX] = { false };
    i64 lost = 0;
    if (db == NULL) {
        arena_free(a);
        return -1;
    }
    bool good = db_write_wait(db, a, check_whole, NULL) == OK && db_read_begin(db, a, false, &tx) == OK;
    if (good) {
        good = db_list(tx, &pairs_all, ACKED_MAX, &rows, &n, NO_ARGS) == OK;
        for (u32 i = 0; good && i < n; i++) {
            const struct couple *p = (const struct couple *)rows + i;
            good = p->halves == 2;
            there[p->n] = true;
        }
        db_read_end(tx);
    }
    for (u32 i = 0; i < cut; i++)
        lost += trace.ops[i].kind == OP_ACK && !there[trace.ops[i].at];
    struct writing more = { ACKED_MAX, S("and it goes on") };
    good = good && db_write_wait(db, a, write_pair, &more) == OK;
    db_close(db);
    arena_free(a);
    return good ? lost : -1;
}

/* Puts the disk together as it may look at the cut and asks the store. */
static i64 lost_at(struct content durable[FILES], const u32 last_sync[FILES], u32 cut)
{
    static const char *const names[FILES] = { "weir.db", "weir.db-wal" };
    char folder[2 * PATH_BYTES], path[3 * PATH_BYTES];
    snprintf(folder, sizeof folder, "%s/after", root);
    assert_int_equal(mkdir(folder, 0700), 0);
    for (int f = 0; f < FILES; f++) {
        struct content c = { 0 };
        if (durable[f].n > 0)
            content_write(&c, 0, durable[f].p, (u32)durable[f].n);
        for (u32 i = last_sync[f]; i < cut; i++)
            if ((int)trace.ops[i].file == f && trace.ops[i].kind <= OP_TRUNCATE)
                apply_perhaps(&c, &trace.ops[i]);
        snprintf(path, sizeof path, "%s/%s", folder, names[f]);
        if (c.n > 0)
            content_save(&c, path);
        free(c.p);
    }
    i64 lost = lost_on("after", cut);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return lost;
}

/* What the trace holds of the WAL's life. */
static struct {
    u32 copied_back, begun_anew;
} seen;

static void look_at_trace(void)
{
    i64 wal_end = 0;
    seen.copied_back = seen.begun_anew = 0;
    for (u32 i = 0; i < trace.n; i++) {
        const struct op *op = &trace.ops[i];
        seen.copied_back += op->file == FILE_DB && op->kind == OP_WRITE;
        seen.begun_anew += op->file == FILE_WAL && op->kind == OP_WRITE && op->at == 0 && wal_end > 0;
        wal_end = op->file == FILE_WAL && op->kind == OP_WRITE ? op->at : wal_end;
    }
}

/* Writes pairs, then cuts the power at every `stride`-th op, and around each sync. Returns how many acknowledged pairs were lost in all. */
static i64 cut_everywhere(u32 pairs, size_t text_bytes, u32 stride, const char *less_sync)
{
    char path[2 * PATH_BYTES];
    struct content durable[FILES] = { 0 };
    u32 last_sync[FILES] = { 0 }, done = 0;
    struct arena *a = arena_new(MIB);
    char *text = malloc(text_bytes);
    i64 lost = 0;
    bool in_memory = access("/dev/shm", W_OK) == 0;
    memset(text, 'x', text_bytes);
    snprintf(root, sizeof root, "%s/weir-test-power-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(root));
    struct db *db = open_at("before");
    assert_int_equal(db_migrate_up(db), OK);
    db_close(db);
    snprintf(path, sizeof path, "%s/before/weir.db", root);
    content_read(&durable[FILE_DB], path);
    trace_begin();
    db = open_at("before");
    if (less_sync != NULL) /* the writer waits for work: nobody else uses its connection */
        assert_int_equal(conn_script(&sqlite_of(db)->writer, "test", less_sync), OK);
    u64 most = 0;
    bool anew = text_bytes < LARGE; /* else at least until the WAL has begun anew, which another thread decides */
    for (i64 i = 0; i < pairs || (!anew && i < ACKED_MAX - 1); i++) {
        struct writing w = { i, { text, text_bytes } };
        assert_int_equal(db_write_wait(db, a, write_pair, &w), OK);
        note((struct op){ .kind = OP_ACK, .at = i }, NULL);
        u64 pages = db_stats(db).wal_pages;
        anew |= pages < most;
        most = MAX(most, pages);
    }
    trace.on = false;
    db_close(db);
    look_at_trace();
    for (u32 cut = 1; cut <= trace.n; cut++) {
        bool near_sync = trace.ops[cut - 1].kind >= OP_SYNC || (cut < trace.n && trace.ops[cut].kind == OP_SYNC);
        settle(durable, cut, last_sync, &done);
        if (cut % stride != 0 && !near_sync && cut != trace.n)
            continue;
        i64 here = lost_at(durable, last_sync, cut);
        if (less_sync == NULL && here != 0)
            fail_msg("power cut at op %u of %u: %lld acknowledged writes are lost (-1: broken)", cut, trace.n,
                     (long long)here);
        lost += here != 0;
    }
    trace_free();
    for (int f = 0; f < FILES; f++)
        free(durable[f].p);
    free(text);
    arena_free(a);
    nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return lost;
}

static bool is_full(void)
{
    const char *full = getenv("WEIR_TEST_FULL");
    return full != NULL && strcmp(full, "1") == 0;
}

static void test_power_loss_between_small_commits(void **state)
{
    u32 rounds = is_full() ? 20 : 2;
    for (u32 i = 0; i < rounds; i++) {
        dice_state = i;
        assert_int_equal(cut_everywhere(25, 100, 1, NULL), 0);
    }
}

/* Large ones, so that the WAL is copied back, and begins anew, among them. */
static void test_power_loss_during_checkpoints(void **state)
{
    dice_state = 4711;
    assert_int_equal(cut_everywhere(60, 60000, is_full() ? 3 : 151, NULL), 0);
    assert_true(seen.copied_back > 0 && seen.begun_anew > 0);
}

/* The same without fsync, or with one at checkpoints only, loses what was acknowledged: the test can fail. */
static void test_without_fsync_it_is_noticed(void **state)
{
    static const char *const weaker[] = { "PRAGMA synchronous = OFF", "PRAGMA synchronous = NORMAL" };
    for (size_t i = 0; i < COUNT(weaker); i++) {
        dice_state = i;
        assert_true(cut_everywhere(10, 100, 1, weaker[i]) > 0);
    }
}

int main(int argc, char **argv)
{
    log_setup(getenv("WEIR_TEST_LOG") != NULL ? LOG_TEXT : LOG_OFF, LOG_DEBUG);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_loss_between_small_commits),
        cmocka_unit_test(test_power_loss_during_checkpoints),
        cmocka_unit_test(test_without_fsync_it_is_noticed),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
