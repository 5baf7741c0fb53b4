/* backup.c - see backup.h. An archive is written beside its place under another name, synced, and only then renamed: there is a whole one or none.
 *
 * Of an archive nothing but the names that we write is ever taken out, to paths that we make: a path inside of one has no meaning here. */
#include "core/backup.h"
#include "base/clock.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/json.h"
#include "codec/time.h"
#include "core/app.h"
#include "core/audit_chain.h"
#include "db/copy.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { EXIT_GOOD, EXIT_FAILED, EXIT_UNREADABLE };
enum { FORMAT = 1, PARTS_MAX = 2, KEY_CHECK_BYTES = 8 };
#define MANIFEST_MAX  MIB
#define CHUNK_BYTES   (256 * KIB)
#define BACKUP_ARENA  (64 * MIB)
#define MANIFEST_NAME "manifest.json"
#define KEY_NAME      "secret.key"

/* A file of the archive beside the manifest. */
struct part {
    const char *name, *path; /* there; here */
    i64 bytes;
    str sha256;
};
struct manifest {
    str kind, version, key; /* key: tells whether a SECRET_KEY is the one; n == 0: it was not known */
    i64 created_at;
    struct db_contents contents;
    struct part parts[PARTS_MAX];
    u32 part_count;
};
struct backup {
    struct arena *arena;
    struct db_options options;
    struct buf complaint;
    const char *folder; /* temporary; NULL = none yet */
    struct manifest manifest;
};

/* -- files ----------------------------------------------------------------------------------------------------------- */

static err complain(struct backup *w, const char *path, const char *why)
{
    buf_f(&w->complaint, "%s: %s\n", path, why);
    return ERR_INTERNAL;
}

static err failed(struct backup *w, const char *path)
{
    return complain(w, path != NULL ? path : "path", path != NULL ? strerrordesc_np(errno) : "out of memory");
}

static err make_folder(struct backup *w, const char *beside)
{
    const char *path = str_z(w->arena, strf(w->arena, "%s.XXXXXX", beside));
    if (path == NULL || mkdtemp((char *)(uintptr_t)path) == NULL)
        return failed(w, path);
    w->folder = path;
    return OK;
}

static const char *in_work(struct backup *w, const char *name)
{
    return str_z(w->arena, strf(w->arena, "%s/%s", w->folder, name));
}

/* Only names that are ours are ever in it. */
static void drop_folder(struct backup *w)
{
    static const char *const names[] = { "weir.db",       "weir.db-journal", "weir.db-wal", "weir.db-shm",
                                         "database.dump", KEY_NAME,          "archive",     "copy" };
    for (size_t i = 0; w->folder != NULL && i < COUNT(names); i++) {
        const char *path = in_work(w, names[i]);
        if (path != NULL)
            unlink(path);
    }
    if (w->folder != NULL)
        rmdir(w->folder);
}

static err checksum(struct backup *w, const char *path, i64 *bytes, str *out)
{
    u8 hash[SHA256_BYTES];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return failed(w, path);
    void *p = st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    close(fd);
    if (p == MAP_FAILED)
        return failed(w, path);
    hash_sha256((str){ p != NULL ? p : "", (size_t)st.st_size }, hash);
    if (p != NULL)
        munmap(p, (size_t)st.st_size);
    *bytes = st.st_size;
    *out = hex_encode(w->arena, (str){ (const char *)hash, sizeof hash });
    return out->p != NULL ? OK : ERR_MEMORY;
}

static err sync_above(struct backup *w, const char *path)
{
    const char *slash = strrchr(path, '/');
    str above = slash == NULL ? S(".") : slash == path ? S("/") : (str){ path, (size_t)(slash - path) };
    const char *folder = str_z(w->arena, above);
    int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool good = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return good ? OK : failed(w, folder);
}

/* -- keys ------------------------------------------------------------------------------------------------------------ */

static const char *key_path(struct backup *w)
{
    return str_z(w->arena, strf(w->arena, "%.*s/" KEY_NAME, STR_FMT(app.config.data)));
}

/* Of SECRET_KEY, or of the folder's key file; never makes one. What it tells is nothing about the key but whether it is the same. */
static str key_check(struct backup *w)
{
    u8 bytes[KEY_CHECK_BYTES];
    const char *path = key_path(w);
    if (app.config.secret_key.n == 0 &&
        (path == NULL || access(path, R_OK) != 0 || config_secrets(w->arena, &app.config, &w->complaint) != OK))
        return STR_NONE;
    hash_hkdf_sha256(app.config.secret_key, S("backup key check"), bytes, sizeof bytes);
    return hex_encode(w->arena, (str){ (const char *)bytes, sizeof bytes });
}

/* -- the manifest ---------------------------------------------------------------------------------------------------- */

static void put_part(struct json_writer *j, const struct part *p)
{
    jw_begin(j, '{');
    jw_key(j, S("name"));
    jw_str(j, str_of(p->name));
    jw_key(j, S("bytes"));
    jw_i64(j, p->bytes);
    jw_key(j, S("sha256"));
    jw_str(j, p->sha256);
    jw_end(j, '}');
}

static err manifest_text(struct backup *w, str *out)
{
    const struct manifest *m = &w->manifest;
    struct buf b = { .arena = w->arena };
    struct json_writer j = { .b = &b };
    jw_begin(&j, '{');
    jw_key(&j, S("weir_backup"));
    jw_i64(&j, FORMAT);
    const struct pair texts[] = { { S("kind"), m->kind },
                                  { S("version"), S(WEIR_VERSION) },
                                  { S("created_at"), time_text(w->arena, m->created_at) },
                                  { S("key"), m->key } };
    for (size_t i = 0; i < COUNT(texts); i++) {
        jw_key(&j, texts[i].name);
        jw_str(&j, texts[i].value);
    }
    jw_key(&j, S("schema"));
    jw_i64(&j, m->contents.schema);
    jw_key(&j, S("files"));
    jw_begin(&j, '[');
    for (u32 i = 0; i < m->part_count; i++)
        put_part(&j, &m->parts[i]);
    jw_end(&j, ']');
    jw_key(&j, S("rows"));
    jw_begin(&j, '{');
    for (u32 i = 0; i < m->contents.tables; i++) {
        jw_key(&j, m->contents.rows[i].table);
        jw_i64(&j, m->contents.rows[i].n);
    }
    jw_end(&j, '}');
    jw_end(&j, '}');
    buf_char(&b, '\n');
    *out = buf_view(&b);
    return b.fail;
}

static i64 number_of(const struct json *j)
{
    return j != NULL && j->type == JSON_INT ? j->integer : -1;
}

static const char *known_name(str name)
{
    static const char *const names[] = { "weir.db", "database.dump", KEY_NAME };
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eq(name, str_of(names[i])))
            return names[i];
    return NULL;
}

static bool take_parts(struct manifest *m, const struct json *files)
{
    u32 n = files != NULL && files->type == JSON_ARRAY ? files->n : 0;
    for (u32 i = 0; i < n; i++) {
        const struct json *one = &files->items[i];
        struct part p = { .name = known_name(json_str(json_get(one, S("name")))),
                          .bytes = number_of(json_get(one, S("bytes"))),
                          .sha256 = json_str(json_get(one, S("sha256"))) };
        if (p.name == NULL || p.bytes < 0 || p.sha256.n != 2 * SHA256_BYTES || m->part_count == PARTS_MAX)
            return false;
        m->parts[m->part_count++] = p;
    }
    return n > 0;
}

static err take_rows(struct backup *w, const struct json *rows)
{
    struct db_contents *c = &w->manifest.contents;
    u32 n = rows != NULL && rows->type == JSON_OBJECT ? MIN(rows->n, (u32)TABLES_MAX) : 0;
    c->rows = NEW_N(w->arena, struct db_rows, n);
    if (c->rows == NULL)
        return ERR_MEMORY;
    for (u32 i = 0; i < n; i++)
        c->rows[c->tables++] = (struct db_rows){ rows->members[i].key, number_of(&rows->members[i].value) };
    return OK;
}

static err manifest_take(struct backup *w, str text)
{
    struct manifest *m = &w->manifest;
    struct json *j;
    struct json_error where;
    if (json_parse(w->arena, text, &j, &where) != OK)
        return complain(w, MANIFEST_NAME, "is no JSON");
    if (number_of(json_get(j, S("weir_backup"))) != FORMAT)
        return complain(w, MANIFEST_NAME, "is of another form than this program reads");
    m->kind = json_str(json_get(j, S("kind")));
    m->version = json_str(json_get(j, S("version")));
    m->key = json_str(json_get(j, S("key")));
    i64 schema = number_of(json_get(j, S("schema")));
    if (!time_parse(json_str(json_get(j, S("created_at"))), &m->created_at) || schema < 0 || schema > UINT32_MAX ||
        !take_parts(m, json_get(j, S("files"))))
        return complain(w, MANIFEST_NAME, "is not whole");
    m->contents.schema = (u32)schema;
    return take_rows(w, json_get(j, S("rows")));
}

/* -- writing an archive ------------------------------------------------------------------------------------------------ */

static err archive_failed(struct backup *w, struct archive *ar, const char *what)
{
    const char *why = ar != NULL ? archive_error_string(ar) : NULL;
    return complain(w, what, why != NULL ? why : "out of memory");
}

static err put_head(struct backup *w, struct archive *ar, const char *name, i64 bytes)
{
    struct archive_entry *e = archive_entry_new();
    if (e == NULL)
        return ERR_MEMORY;
    archive_entry_set_pathname(e, name);
    archive_entry_set_size(e, bytes);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0600);
    archive_entry_set_mtime(e, w->manifest.created_at / SECOND_US, 0);
    int rc = archive_write_header(ar, e);
    archive_entry_free(e);
    return rc == ARCHIVE_OK ? OK : archive_failed(w, ar, name);
}

static err put_file(struct backup *w, struct archive *ar, const struct part *p)
{
    char *chunk = arena_alloc(w->arena, CHUNK_BYTES);
    ssize_t n = 0;
    TRY(put_head(w, ar, p->name, p->bytes));
    int fd = chunk != NULL ? open(p->path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return failed(w, p->path);
    err e = OK;
    while (e == OK && (n = read(fd, chunk, CHUNK_BYTES)) > 0)
        e = archive_write_data(ar, chunk, (size_t)n) == n ? OK : archive_failed(w, ar, p->name);
    close(fd);
    return e == OK && n < 0 ? failed(w, p->path) : e;
}

static err put_all(struct backup *w, struct archive *ar, int fd)
{
    str text;
    TRY(manifest_text(w, &text));
    if (archive_write_add_filter_zstd(ar) != ARCHIVE_OK || archive_write_set_format_pax_restricted(ar) != ARCHIVE_OK ||
        archive_write_open_fd(ar, fd) != ARCHIVE_OK)
        return archive_failed(w, ar, "archive");
    TRY(put_head(w, ar, MANIFEST_NAME, (i64)text.n));
    if (archive_write_data(ar, text.p, text.n) != (ssize_t)text.n)
        return archive_failed(w, ar, MANIFEST_NAME);
    for (u32 i = 0; i < w->manifest.part_count; i++)
        TRY(put_file(w, ar, &w->manifest.parts[i]));
    return archive_write_close(ar) == ARCHIVE_OK ? OK : archive_failed(w, ar, "archive");
}

static err write_archive(struct backup *w, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct archive *ar = fd >= 0 ? archive_write_new() : NULL;
    if (fd < 0)
        return failed(w, path);
    err e = ar != NULL ? put_all(w, ar, fd) : ERR_MEMORY;
    archive_write_free(ar);
    if (e == OK && fsync(fd) != 0)
        e = failed(w, path);
    close(fd);
    return e;
}

static err add_part(struct backup *w, const char *name, const char *path)
{
    struct part p = { .name = name, .path = path };
    TRY(path != NULL ? checksum(w, path, &p.bytes, &p.sha256) : ERR_MEMORY);
    w->manifest.parts[w->manifest.part_count++] = p;
    return OK;
}

static const char *database_name(const struct backup *w)
{
    return str_eq(w->manifest.kind, S("sqlite")) ? "weir.db" : "database.dump";
}

static err fill(struct backup *w, bool with_keys)
{
    const char *copy = in_work(w, database_name(w));
    w->manifest.key = key_check(w);
    w->manifest.created_at = clock_now_us();
    TRY(copy != NULL ? db_copy(w->arena, &w->options, copy, &w->manifest.contents, &w->complaint) : ERR_MEMORY);
    TRY(add_part(w, database_name(w), copy));
    return with_keys ? add_part(w, KEY_NAME, key_path(w)) : OK;
}

/* "folder/weir-sqlite-20261121T091500Z.tar.zst" */
static const char *target_of(struct backup *w, const char *to)
{
    struct stat st;
    time_t now = (time_t)(clock_now_us() / SECOND_US);
    struct tm tm;
    char when[32];
    if (stat(to, &st) != 0 || !S_ISDIR(st.st_mode))
        return to;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &tm);
    return str_z(w->arena, strf(w->arena, "%s/weir-%.*s-%s.tar.zst", to, STR_FMT(w->manifest.kind), when));
}

/* The kernel refuses to replace, not a look before: between a look and a rename somebody may come. */
static err put_in_place(struct backup *w, const char *from, const char *target, bool force)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, target, force ? 0 : RENAME_NOREPLACE) != 0)
        return errno == EEXIST ? complain(w, target, "is there already; --force replaces it") : failed(w, target);
    return sync_above(w, target);
}

static err make(struct backup *w, const char *target, bool force, bool with_keys)
{
    if (target == NULL)
        return ERR_MEMORY;
    if (!force && access(target, F_OK) == 0)
        return complain(w, target, "is there already; --force replaces it");
    TRY(make_folder(w, target));
    TRY(fill(w, with_keys));
    const char *archive = in_work(w, "archive");
    TRY(archive != NULL ? write_archive(w, archive) : ERR_MEMORY);
    return put_in_place(w, archive, target, force);
}

/* -- the beginning and the end of each ------------------------------------------------------------------------------- */

static i64 rows_in(const struct db_contents *c)
{
    i64 sum = 0;
    for (u32 i = 0; i < c->tables; i++)
        sum += c->rows[i].n;
    return sum;
}

static int begin(struct backup *w)
{
    int code = app_open_settings(&w->options);
    *w = (struct backup){ .arena = app.arena, .options = w->options, .complaint = { .arena = app.arena } };
    w->manifest.kind = str_of(db_kind(&w->options));
    return code;
}

static int end(struct backup *w, err e, int code)
{
    str text = buf_view(&w->complaint);
    for (str line; str_cut(&text, '\n', &line);)
        if (line.n > 0)
            fprintf(stderr, "weir: %.*s\n", STR_FMT(line));
    if (e != OK && w->complaint.n == 0)
        fprintf(stderr, "weir: %s\n", err_text(e));
    drop_folder(w);
    app_close();
    return e == OK && fflush(stdout) == 0 ? EXIT_GOOD : code;
}

int backup_make(const char *to, bool force, bool with_keys)
{
    struct backup w;
    int code = begin(&w);
    if (code != 0)
        return code;
    const char *target = target_of(&w, to);
    err e = make(&w, target, force, with_keys);
    if (e == OK)
        printf("%s: %lld rows in %u tables, schema %u%s\n", target, (long long)rows_in(&w.manifest.contents),
               w.manifest.contents.tables, w.manifest.contents.schema,
               with_keys ? ", with the key file" : "; without SECRET_KEY or secret.key, which it needs to be of use");
    return end(&w, e, EXIT_FAILED);
}

/* -- reading an archive ------------------------------------------------------------------------------------------------ */

static err read_manifest(struct backup *w, struct archive *ar)
{
    struct archive_entry *e;
    char *text = arena_alloc(w->arena, MANIFEST_MAX + 1);
    if (text == NULL)
        return ERR_MEMORY;
    if (archive_read_next_header(ar, &e) != ARCHIVE_OK || strcmp(archive_entry_pathname(e), MANIFEST_NAME) != 0)
        return complain(w, "archive", "is no backup of weir's: manifest.json does not come first");
    size_t n = 0;
    for (la_ssize_t got = 1; got > 0 && n <= MANIFEST_MAX; n += (size_t)got)
        if ((got = archive_read_data(ar, text + n, MANIFEST_MAX + 1 - n)) < 0)
            return archive_failed(w, ar, MANIFEST_NAME);
    return n <= MANIFEST_MAX ? manifest_take(w, (str){ text, n }) : complain(w, MANIFEST_NAME, "is too long");
}

static err take_file(struct backup *w, struct archive *ar, struct part *p)
{
    i64 bytes;
    str sha256;
    p->path = in_work(w, p->name);
    int fd = p->path != NULL ? open(p->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return failed(w, p->path);
    err e = archive_read_data_into_fd(ar, fd) == ARCHIVE_OK ? OK : archive_failed(w, ar, p->name);
    if (e == OK && fsync(fd) != 0)
        e = failed(w, p->path);
    close(fd);
    TRY(e);
    TRY(checksum(w, p->path, &bytes, &sha256));
    return bytes == p->bytes && str_eq(sha256, p->sha256)
               ? OK
               : complain(w, p->name, "is damaged: its checksum is not the manifest's");
}

/* An archive of a few KiB may say, and keep, that it holds more than there is room for: a full disk would hurt whoever else writes to it. */
static err check_room(struct backup *w)
{
    struct statvfs disk;
    if (statvfs(w->folder, &disk) != 0)
        return failed(w, w->folder);
    i64 room = (i64)MIN((u64)disk.f_bavail * disk.f_frsize, (u64)INT64_MAX);
    for (u32 i = 0; i < w->manifest.part_count; i++) {
        if (w->manifest.parts[i].bytes >= room)
            return complain(w, w->folder, "the disk has no room for what the archive holds");
        room -= w->manifest.parts[i].bytes;
    }
    return OK;
}

static err take_all(struct backup *w, struct archive *ar)
{
    struct manifest *m = &w->manifest;
    struct archive_entry *e;
    TRY(read_manifest(w, ar));
    TRY(check_room(w));
    for (u32 i = 0; i < m->part_count; i++) {
        int rc = archive_read_next_header(ar, &e);
        if (rc != ARCHIVE_OK)
            return rc == ARCHIVE_EOF ? complain(w, m->parts[i].name, "is missing")
                                     : archive_failed(w, ar, m->parts[i].name);
        if (strcmp(archive_entry_pathname(e), m->parts[i].name) != 0 || archive_entry_filetype(e) != AE_IFREG)
            return complain(w, "archive", "holds something that its manifest does not name");
        if (archive_entry_size(e) !=
            m->parts[i].bytes) /* before a byte is written: a few KiB may unpack to all of a disk */
            return complain(w, m->parts[i].name, "is damaged: it has another size than the manifest says");
        TRY(take_file(w, ar, &m->parts[i]));
    }
    return OK;
}

static err fits(struct backup *w)
{
    u32 known = 0;
    for (const struct migration *m = db_migrations; m->number != 0; m++)
        known = m->number;
    if (!str_eq(w->manifest.kind, str_of(db_kind(&w->options))))
        return complain(w, "archive",
                        str_z(w->arena, strf(w->arena, "is of a %.*s database, and the settings name a %s one",
                                             STR_FMT(w->manifest.kind), db_kind(&w->options))));
    if (w->manifest.contents.schema > known)
        return complain(w, "archive", "is of a newer weir than this one");
    return strcmp(w->manifest.parts[0].name, database_name(w)) == 0 ? OK : complain(w, "archive", "has no database");
}

/* Everything is out and its checksums are right, in the folder of the work. */
static err unpack(struct backup *w, const char *from)
{
    struct archive *ar = archive_read_new();
    if (ar == NULL)
        return ERR_MEMORY;
    bool opened = archive_read_support_filter_zstd(ar) == ARCHIVE_OK &&
                  archive_read_support_format_tar(ar) == ARCHIVE_OK &&
                  archive_read_open_filename(ar, from, CHUNK_BYTES) == ARCHIVE_OK;
    err e = opened ? take_all(w, ar) : archive_failed(w, ar, from);
    archive_read_free(ar);
    TRY(e);
    return fits(w);
}

/* -- verifying --------------------------------------------------------------------------------------------------------- */

/* Adds what is wrong to the complaint. ERR_CONFLICT: something is. */
static err verify_audit(struct backup *w, const struct db_options *o, str *told)
{
    struct audit_verdict v;
    struct db_options reading = *o;
    struct db *db;
    reading.read_only = true;
    TRY(db_open(&reading, &db));
    err e = audit_verify(db, w->arena, STR_NONE, &v);
    db_thread_end(db);
    db_close(db);
    TRY(e);
    if (v.broken)
        buf_f(&w->complaint, "audit log: %.*s\n", STR_FMT(v.what));
    *told = strf(w->arena, "%lld audit rows in %lld chains", (long long)v.rows, (long long)v.chains);
    return v.broken ? ERR_CONFLICT : OK;
}

static void compare_rows(struct backup *w, const struct db_contents *is, const struct db_contents *was)
{
    for (u32 i = 0; i < was->tables; i++) {
        i64 n = -1;
        for (u32 k = 0; k < is->tables; k++)
            if (str_eq(is->rows[k].table, was->rows[i].table))
                n = is->rows[k].n;
        if (n != was->rows[i].n)
            buf_f(&w->complaint, "%.*s: %lld rows, and the manifest says %lld\n", STR_FMT(was->rows[i].table),
                  (long long)n, (long long)was->rows[i].n);
    }
}

/* ERR_CONFLICT: it is broken, and the complaint says where. `was`: what must be in it; NULL = anything. */
static err look(struct backup *w, const struct db_options *o, const struct db_contents *was, bool key)
{
    struct db_contents is = { 0 };
    str audit = S("the audit log was not looked at, for want of its key");
    size_t promises;
    TRY(db_verify(w->arena, o, &is, &w->complaint));
    if (was != NULL)
        compare_rows(w, &is, was);
    err e = key && !is.older ? verify_audit(w, o, &audit) : OK;
    if (e == OK && w->complaint.n > 0)
        e = ERR_CONFLICT;
    TRY(e);
    (void)db_invariants(&promises);
    for (u32 i = 0; was != NULL && i < is.tables; i++)
        printf("%-24.*s %lld\n", STR_FMT(is.rows[i].table), (long long)is.rows[i].n);
    str asked = is.older ? S("promises not asked, since the schema is older than this program")
                         : strf(w->arena, "%zu promises hold", promises);
    printf("good: %lld rows in %u tables, schema %u, %.*s; %.*s\n", (long long)rows_in(&is), is.tables, is.schema,
           STR_FMT(asked), STR_FMT(audit));
    return OK;
}

int backup_verify(void)
{
    struct backup w;
    int code = begin(&w);
    if (code != 0)
        return code;
    bool key = key_check(&w).n > 0;
    err e = look(&w, &w.options, NULL, key);
    if (e == ERR_CONFLICT)
        fprintf(stderr, "weir: broken:\n");
    else if (e != OK)
        fprintf(stderr, "weir: the database cannot be read: %s\n", err_text(e));
    else if (!key)
        fprintf(stderr, "weir: SECRET_KEY is not set, and there is no secret.key\n");
    if (e == OK && !key)
        e = ERR_NOT_FOUND;
    return end(&w, e, e == ERR_CONFLICT ? EXIT_FAILED : EXIT_UNREADABLE);
}

/* -- restoring --------------------------------------------------------------------------------------------------------- */

static const struct part *key_part(const struct backup *w)
{
    for (u32 i = 0; i < w->manifest.part_count; i++)
        if (strcmp(w->manifest.parts[i].name, KEY_NAME) == 0)
            return &w->manifest.parts[i];
    return NULL;
}

struct rehearsal {
    struct db_rehearsal base;
    struct backup *work;
    bool key;
};

static err rehearsed(struct db_rehearsal *r, const struct db_options *restored)
{
    struct rehearsal *own = CONTAINER(r, struct rehearsal, base);
    return look(own->work, restored, &own->work->manifest.contents, own->key);
}

/* With the archive's own key when it has one. */
static err rehearse(struct backup *w)
{
    struct rehearsal r = { .base = { .look = rehearsed }, .work = w };
    const struct part *key = key_part(w);
    if (key != NULL) {
        app.config.data = str_of(w->folder);
        app.config.secret_key = STR_NONE;
    }
    r.key = w->manifest.key.n > 0 && str_eq(key_check(w), w->manifest.key);
    const char *copy = in_work(w, "copy");
    if (copy == NULL || rename(w->manifest.parts[0].path, copy) != 0)
        return failed(w, copy);
    err e = db_rehearse(w->arena, &w->options, copy, w->folder, &r.base, &w->complaint);
    if (e != ERR_FORBIDDEN)
        return e;
    printf(
        "not proven: the login may make no database (CREATEDB) to restore into; checksums are right, and the dump was read to its end\n");
    return OK;
}

static void tell(const struct backup *w)
{
    const struct manifest *m = &w->manifest;
    printf("a backup of %.*s by weir %.*s: %.*s database, schema %u, %lld rows%s\n",
           STR_FMT(time_text(w->arena, m->created_at)), STR_FMT(m->version), STR_FMT(m->kind), m->contents.schema,
           (long long)rows_in(&m->contents), key_part(w) != NULL ? ", with the key file" : "");
}

/* Before anything is touched: would what it holds be readable? */
static err check_key(struct backup *w, bool force)
{
    str here = key_check(w);
    const struct part *theirs = key_part(w);
    bool same = here.n > 0 && str_eq(here, w->manifest.key);
    if (same || w->manifest.key.n == 0 || (here.n == 0 && theirs != NULL))
        return OK;
    if (here.n == 0)
        fprintf(
            stderr,
            "weir: secret.key is not here: put it into the data folder, or set SECRET_KEY, before the server starts\n");
    else if (!force)
        return complain(
            w, "SECRET_KEY",
            "is not the one under which the backup was made: sealed values and the audit log could not be read "
            "(--force restores all the same)");
    return OK;
}

/* The old one stays as secret.key.replaced. */
static err restore_key(struct backup *w)
{
    const struct part *p = key_part(w);
    const char *path = key_path(w), *kept = path != NULL ? str_z(w->arena, strf(w->arena, "%s.replaced", path)) : NULL;
    str here = key_check(w);
    if (p == NULL || (here.n > 0 && str_eq(here, w->manifest.key)))
        return OK;
    if (kept == NULL)
        return ERR_MEMORY;
    if (rename(path, kept) != 0 && errno != ENOENT)
        return failed(w, kept);
    if (renameat2(AT_FDCWD, p->path, AT_FDCWD, path, RENAME_NOREPLACE) != 0) {
        buf_f(&w->complaint, "%s: %s; the key file of the backup could not be put there\n", path,
              strerrordesc_np(errno));
        return ERR_INTERNAL;
    }
    return sync_above(w, path);
}

static err restore(struct backup *w, const char *from, bool check, bool force)
{
    const char *tmp = getenv("TMPDIR");
    const char *beside = str_z(w->arena, check ? strf(w->arena, "%s/weir-check", tmp != NULL ? tmp : "/tmp")
                                               : strf(w->arena, "%.*s/restore", STR_FMT(app.config.data)));
    if (!check)
        TRY(config_folder(&app.config, &w->complaint));
    TRY(beside != NULL ? make_folder(w, beside) : ERR_MEMORY);
    TRY(unpack(w, from));
    tell(w);
    if (check)
        return rehearse(w);
    TRY(check_key(w, force));
    TRY(db_restore(w->arena, &w->options, w->manifest.parts[0].path, force, &w->complaint));
    return restore_key(w);
}

int backup_restore(const char *from, bool check, bool force)
{
    struct backup w;
    int code = begin(&w);
    if (code != 0)
        return code;
    err e = restore(&w, from, check, force);
    if (e == OK && !check)
        printf("restored; the next start brings the schema up to date\n");
    return end(&w, e, EXIT_FAILED);
}
