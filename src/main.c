/* main.c - the verb table: what the command line can do.
 *
 * Exit codes are part of the interface: 0 done, 1 failed, 2 a setting is wrong, 64 the command line is wrong. */
#include "core/app.h"
#include "core/audit_chain.h"
#include "core/backup.h"
#include "core/doctor.h"
#include "core/keys.h"
#include "feat/tenants/tenants.h"
#include "feat/users/users.h"
#include "show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_CONFIG = 2,
    EXIT_USAGE = 64,
    OPTIONS_MAX = 4,
    FLAGS_MAX = 2,
    WORDS_MAX = 2,
    PASSWORD_FILE_MAX = 4096
};

struct command { /* what the command line said */
    const char *words[WORDS_MAX];
    const char *options[OPTIONS_MAX]; /* in the order of the verb's list */
    u32 word_count;
    bool json, flags[FLAGS_MAX]; /* flags: in the order of the verb's list */
};
struct verb {
    const char *name; /* one or two words */
    int (*run)(const struct command *c);
    err (*show)(struct buf *b, bool json); /* in place of run; takes --json */
    const char *options[OPTIONS_MAX];      /* each takes a value */
    const char *flags[FLAGS_MAX];          /* each is there or not */
    u32 words;                             /* how many words follow the name */
    const char *usage;                     /* behind the name */
    const char *help;
};

static int fail(const struct buf *complaint, const char *otherwise)
{
    if (complaint->n > 0)
        fprintf(stderr, "weir: %.*s\n", STR_FMT(str_trim(buf_view(complaint))));
    else
        fprintf(stderr, "weir: %s\n", otherwise);
    return EXIT_FAILED;
}

static int print(const struct buf *b)
{
    bool written = b->n == 0 || fwrite(b->p, 1, b->n, stdout) == b->n; /* an empty one has no bytes at all */
    bool good = b->fail == OK && written && fflush(stdout) == 0;
    return good ? EXIT_DONE : EXIT_FAILED;
}

/* -- verbs --------------------------------------------------------------------------------------------------------- */

/* The option is the setting, said here: it is checked where that is, and wins over it. */
static int verb_serve(const struct command *c)
{
    if (c->options[0] != NULL && setenv("WEIR_ROLE", c->options[0], 1) != 0)
        return EXIT_FAILED;
    return app_serve();
}

static int verb_version(const struct command *c)
{
    printf("weir %s\n", WEIR_VERSION);
    return EXIT_DONE;
}

/* The settings are checked too: exit code 2 when one is wrong. */
static int config_checked(struct arena *a)
{
    struct buf complaint = { .arena = a };
    struct config checked;
    if (config_load(a, &checked, &complaint) == OK)
        return EXIT_DONE;
    (void)fail(&complaint, "the settings cannot be used");
    return EXIT_CONFIG;
}

static int show(err (*what)(struct buf *, bool), bool json)
{
    struct arena *a = arena_new(64 * MIB);
    struct buf out = { .arena = a }, none = { 0 };
    if (a == NULL)
        return fail(&none, "out of memory");
    err e = what(&out, json);
    int code = e == OK ? print(&out) : fail(&none, err_text(e));
    if (code == EXIT_DONE && what == show_config)
        code = config_checked(a);
    arena_free(a);
    return code;
}

static int verb_doctor(const struct command *c)
{
    struct arena *a = arena_new(16 * MIB);
    struct buf out = { .arena = a };
    if (a == NULL)
        return EXIT_FAILED;
    bool well = doctor(&out);
    int code = print(&out);
    arena_free(a);
    return code == EXIT_DONE && !well ? EXIT_FAILED : code;
}

static int tenant_add(const struct command *c)
{
    struct buf complaint = { .arena = app.arena };
    str slug = str_of(c->words[0]), id;
    str name = c->options[0] != NULL ? str_of(c->options[0]) : slug;
    if (tenants_add(app.arena, slug, name, &id, &complaint) != OK)
        return fail(&complaint, "the tenant cannot be added");
    printf("%.*s\n", STR_FMT(id));
    return EXIT_DONE;
}

/* Not on the command line, where every user of the machine could read it. "-" is standard input. */
static err read_password(const char *path, str *out)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *p = arena_alloc(app.arena, PASSWORD_FILE_MAX);
    if (f == NULL || p == NULL)
        return ERR_NOT_FOUND;
    size_t n = fread(p, 1, PASSWORD_FILE_MAX, f);
    bool good = !ferror(f) && n < PASSWORD_FILE_MAX;
    if (f != stdin)
        fclose(f);
    while (n > 0 && (p[n - 1] == '\n' || p[n - 1] == '\r'))
        n--;
    *out = (str){ p, n };
    return good ? OK : ERR_TOO_LARGE;
}

static int user_add(const struct command *c)
{
    struct buf complaint = { .arena = app.arena };
    str id, password = STR_NONE;
    if (c->options[2] != NULL && read_password(c->options[2], &password) != OK)
        return fail(&complaint, "the password file cannot be read, or is larger than 4 KiB");
    err e = users_add(app.arena, str_of(c->words[0]), str_of(c->options[0]), str_of(c->options[1]), password, &id,
                      &complaint);
    if (e != OK)
        return fail(&complaint, "the user cannot be added");
    printf("%.*s\n", STR_FMT(id));
    return EXIT_DONE;
}

/* For verbs that work on the data folder: opened, migrated, and closed again. */
static int with_app(int (*run)(const struct command *), const struct command *c)
{
    int code = app_open();
    if (code == EXIT_DONE)
        code = run(c);
    app_close();
    return code;
}

static int verb_tenant_add(const struct command *c)
{
    return with_app(tenant_add, c);
}

static int verb_user_add(const struct command *c)
{
    if (c->options[0] != NULL && c->options[1] != NULL)
        return with_app(user_add, c);
    fprintf(stderr, "weir user add: --tenant and --role are required; see weir user add --help\n");
    return EXIT_USAGE;
}

static int migrate_status(void)
{
    struct migration_state *list;
    u32 n;
    if (db_migrate_status(app.db, app.arena, &list, &n) != OK)
        return EXIT_FAILED;
    struct buf b = { .arena = app.arena };
    for (u32 i = 0; i < n; i++)
        buf_f(&b, "%04u  %-40.*s %s%s\n", list[i].number, STR_FMT(list[i].name),
              list[i].applied_at != 0 ? "applied" : "missing", list[i].changed ? ", changed since" : "");
    return print(&b);
}

/* How many of the list remain: down without --to takes the newest of those that ran. */
static u32 keep_after(const struct command *c, const struct migration_state *list, u32 n)
{
    i64 keep = 0;
    u32 newest = 0;
    for (u32 i = 0; i < n; i++)
        newest = list[i].applied_at != 0 ? list[i].number : newest;
    if (c->options[0] != NULL && str_i64(str_of(c->options[0]), 0, UINT32_MAX, &keep))
        return (u32)keep;
    return newest > 0 ? newest - 1 : 0;
}

static void put_migration(struct buf *b, const struct migration_state *m, bool up)
{
    buf_f(b, "-- %04u %.*s\n%s\n", m->number, STR_FMT(m->name), db_migration_text(app.db, m->number, up));
}

/* The SQL that would run, in order; refused where the real one would be. */
static int migrate_dry(const struct command *c, bool up)
{
    struct migration_state *list;
    u32 n;
    struct buf b = { .arena = app.arena }, none = { 0 };
    err e = db_migrate_status(app.db, app.arena, &list, &n);
    for (u32 i = 0; e == OK && i < n; i++)
        e = list[i].changed ? ERR_CONFLICT : OK;
    if (e != OK)
        return fail(&none, err_text(e));
    for (u32 i = 0; up && i < n; i++)
        if (list[i].applied_at == 0)
            put_migration(&b, &list[i], true);
    u32 keep = keep_after(c, list, n);
    for (u32 i = n; !up && i > 0; i--)
        if (list[i - 1].applied_at != 0 && list[i - 1].number > keep)
            put_migration(&b, &list[i - 1], false);
    return !up && b.n == 0 ? fail(&none, "there is no migration to take back") : print(&b);
}

static int migrate(const struct command *c)
{
    struct buf none = { 0 };
    i64 keep = 0;
    bool up = strcmp(c->words[0], "up") == 0,
         to = c->options[0] != NULL && str_i64(str_of(c->options[0]), 0, UINT32_MAX, &keep);
    if (strcmp(c->words[0], "status") == 0)
        return migrate_status();
    if (c->flags[0])
        return migrate_dry(c, up);
    err e = up ? db_migrate_up(app.db) : to ? db_migrate_down_to(app.db, (u32)keep) : db_migrate_down(app.db);
    if (e == OK)
        return migrate_status();
    return fail(
        &none,
        e == ERR_NOT_FOUND ? "there is no migration to take back"
        : e == ERR_CONFLICT
            ? "the database was made by a newer weir, or a migration was changed or cannot be taken back (the log says which)"
            : err_text(e));
}

static int verb_migrate(const struct command *c)
{
    static const char *const words[] = { "up", "down", "status" };
    bool known = false;
    for (size_t i = 0; i < COUNT(words); i++)
        known |= strcmp(c->words[0], words[i]) == 0;
    if (!known) {
        fprintf(stderr, "weir migrate: %s is none of up, down, status\n", c->words[0]);
        return EXIT_USAGE;
    }
    i64 to;
    if (c->options[0] != NULL &&
        (strcmp(c->words[0], "down") != 0 || !str_i64(str_of(c->options[0]), 0, UINT32_MAX, &to))) {
        fprintf(stderr, "weir migrate: --to takes the number of a migration, and goes with down\n");
        return EXIT_USAGE;
    }
    int code = app_open_unmigrated();
    if (code == EXIT_DONE)
        code = migrate(c);
    app_close();
    return code;
}

/* Making anybody is written down, so people without any log had one. */
static err nothing_is_left(struct audit_verdict *v)
{
    struct tx *tx;
    if (v->broken || v->chains + v->unsealed > 0)
        return OK;
    TRY(db_read_begin(app.db, app.arena, false, &tx));
    err e = users_any(tx, &v->broken);
    db_read_end(tx);
    v->what = S("there are users, and nothing is left of the log");
    return e;
}

/* Exit codes of its own: 0 good, 1 broken, 2 cannot be read. */
static int audit_verify_all(const struct command *c)
{
    struct audit_verdict v;
    str tenant = STR_NONE;
    struct tx *tx;
    err e = c->options[0] != NULL ? db_read_begin(app.db, app.arena, false, &tx) : OK;
    if (e == OK && c->options[0] != NULL) {
        e = tenants_find(tx, str_of(c->options[0]), &tenant);
        db_read_end(tx);
    }
    if (e == OK)
        e = audit_verify(app.db, app.arena, tenant, &v);
    if (e == OK && tenant.p == NULL)
        e = nothing_is_left(&v);
    if (e != OK) {
        fprintf(stderr, "weir: the audit log cannot be read: %s\n",
                e == ERR_NOT_FOUND ? "no tenant has this slug" : err_text(e));
        return EXIT_CONFIG;
    }
    if (v.broken) {
        fprintf(stderr, "weir: broken: %.*s\n", STR_FMT(v.what));
        return EXIT_FAILED;
    }
    printf("good: %lld rows in %lld chains; %lld not sealed yet\n", (long long)v.rows, (long long)v.chains,
           (long long)v.unsealed);
    return EXIT_DONE;
}

static int verb_audit_verify(const struct command *c)
{
    int code = app_open_reading();
    if (code == EXIT_DONE)
        code = audit_verify_all(c);
    app_close();
    return code;
}

static int verb_keys(const struct command *c)
{
    static const struct {
        const char *word;
        int (*open)(void), (*run)(void);
    } words[] = { { "status", app_open_reading, keys_status },
                  { "rotate", app_open, keys_rotate },
                  { "retire", app_open, keys_retire } };
    for (size_t i = 0; i < COUNT(words); i++) {
        if (strcmp(c->words[0], words[i].word) != 0)
            continue;
        int code = words[i].open();
        if (code == EXIT_DONE)
            code = words[i].run();
        app_close();
        return code;
    }
    fprintf(stderr, "weir keys: %s is none of status, rotate, retire\n", c->words[0]);
    return EXIT_USAGE;
}

static int verb_backup(const struct command *c)
{
    return backup_make(c->words[0], c->flags[0], c->flags[1]);
}

static int verb_restore(const struct command *c)
{
    return backup_restore(c->words[0], c->flags[0], c->flags[1]);
}

static int verb_verify(const struct command *c)
{
    return backup_verify();
}

static int verb_help(const struct command *c);

static const struct verb verbs[] = {
    { "serve", .run = verb_serve, .options = { "--role" }, .usage = " [--role all|api|worker]",
      .help =
          "Serve until SIGTERM. This is what weir does without a verb. --role is WEIR_ROLE: with DATABASE_URL a node may do\n"
          "        a part only, answer requests (api) or run executions and jobs (worker)." },
    { "tenant add", .run = verb_tenant_add, .options = { "--name" }, .words = 1, .usage = " SLUG [--name NAME]",
      .help = "Make a tenant; prints its id. The server must not be running." },
    { "user add", .run = verb_user_add, .options = { "--tenant", "--role", "--password-file" }, .words = 1,
      .usage = " EMAIL --tenant SLUG --role ROLE [--password-file FILE]",
      .help =
          "Make a user in a tenant, or give an existing one a further tenant (then without password); prints the id.\n"
          "        ROLE is owner, admin, editor, member, viewer or operator; Admin and User are admin and member. FILE - is standard input. The server must not\n"
          "        be running." },
    { "migrate", .run = verb_migrate, .flags = { "--dry-run" }, .options = { "--to" }, .words = 1,
      .usage = " up|down|status [--to NUMBER] [--dry-run]",
      .help =
          "Bring the schema up to date, take the newest migration back (or all that are newer than NUMBER), or list them. With\n"
          "        --dry-run print the SQL that would run on this database and change nothing. With SQLite the server must not be\n"
          "        running; with PostgreSQL one migrates at a time, and others wait. Exit code 1 also when the schema is newer\n"
          "        than this program, or a migration's text was changed after it ran." },
    { "backup", .run = verb_backup, .flags = { "--force", "--with-keys" }, .words = 1,
      .usage = " FILE|FOLDER [--force] [--with-keys]",
      .help =
          "Write all of the database into one file, beside a running server or without one; into a folder under a name with\n"
          "        the time. A file that is there is kept without --force. The key file is not in it without --with-keys:\n"
          "        whoever has both has everything, and a backup without SECRET_KEY or secret.key cannot be used." },
    { "restore", .run = verb_restore, .flags = { "--check", "--force" }, .words = 1,
      .usage = " FILE [--check] [--force]",
      .help =
          "Put a backup in place of the database: of an empty one, or with --force of what is there. The server must not be\n"
          "        running. With --check restore it into a temporary place instead, verify it there and print its counts." },
    { "verify", .run = verb_verify,
      .help =
          "Look at everything in the database, beside a running server or without one; changes nothing: its integrity,\n"
          "        references, migrations, what executions promise, JSON, the audit log. Exit codes: 0 good, 1 broken (it names\n"
          "        what), 2 it cannot be read." },
    { "audit verify", .run = verb_audit_verify, .options = { "--tenant" }, .usage = " [--tenant SLUG]",
      .help =
          "Walk the chains of the audit log, beside a running server or without one; changes nothing. Exit codes: 0 good,\n"
          "        1 broken (it names the row), 2 it cannot be read." },
    { "keys", .run = verb_keys, .words = 1, .usage = " status|rotate|retire",
      .help =
          "status: which keys there are, and how much is sealed under each; beside a running server too. rotate: make another\n"
          "        secret.key (or take the one that SECRET_KEY and SECRET_KEY_PREVIOUS say) and seal everything under it again; run it\n"
          "        again when it was cut off. retire: delete the key of before, which until then verifies tokens. With SQLite the\n"
          "        server must not be running for rotate and retire." },
    { "doctor", .run = verb_doctor,
      .help =
          "Look at settings, data folder, keys, disk, database, clock, port and egress list, beside a running server or\n"
          "        without one; changes nothing. A line each: ok, warn or fail, and what to do. Exit code 1 when one fails." },
    { "config", .show = show_config,
      .help =
          "Print every setting: NAME VALUE SOURCE DEFAULT BOUNDS HELP; secrets are masked. Exit code 2 when one is wrong." },
    { "routes", .show = show_routes, .help = "Print METHOD PATH PERMISSION HANDLER FILE:LINE of every route." },
    { "errors", .show = show_errors,
      .help =
          "Print CODE KIND STATUS FILE:LINE TITLE of every code that an answer can carry. Kinds: a problem or a refusal\n"
          "        is an answer of its own, an entry stands in its errors, a failure is that of a step or an execution." },
    { "metrics", .show = show_metrics, .help = "Print NAME KIND HELP of everything at /metrics." },
    { "statements", .show = show_statements,
      .help = "Print SCOPE NAME SQL of every statement; one of scope system runs for no tenant or for all." },
    { "jobs", .show = show_jobs,
      .help = "Print KIND PERIOD DOC of every background job; - is the period of one that only runs when asked for." },
    { "openapi", .show = show_openapi, .help = "Print the OpenAPI document." },
    { "version", .run = verb_version, .help = "Print the version." },
    { "help", .run = verb_help, .help = "Print this." },
};

/* What stands behind the name. */
static const char *usage_of(const struct verb *v)
{
    return v->usage != NULL ? v->usage : v->show != NULL ? " [--json]" : "";
}

static int verb_help(const struct command *c)
{
    printf("Usage: weir [VERB]\n\n");
    for (size_t i = 0; i < COUNT(verbs); i++)
        printf("  weir %s%s\n        %s\n", verbs[i].name, usage_of(&verbs[i]), verbs[i].help);
    printf(
        "\nSettings come from the environment, from files named by NAME_FILE, and from ./.env; weir config lists them.\n"
        "Exit codes: 0 done, 1 failed, 2 a setting is wrong, 64 the command line is wrong.\n");
    return EXIT_DONE;
}

/* -- the command line ---------------------------------------------------------------------------------------------- */

/* How many of the arguments name this verb; 0 = another one. */
static int names(const struct verb *v, int argc, char **argv)
{
    const char *second = strchr(v->name, ' ');
    size_t first = second != NULL ? (size_t)(second - v->name) : strlen(v->name);
    if (argc < 1 || strlen(argv[0]) != first || strncmp(argv[0], v->name, first) != 0)
        return 0;
    if (second == NULL)
        return 1;
    return argc >= 2 && strcmp(argv[1], second + 1) == 0 ? 2 : 0;
}

static const struct verb *find(int argc, char **argv, int *used)
{
    for (size_t i = 0; i < COUNT(verbs); i++)
        if ((*used = names(&verbs[i], argc, argv)) > 0)
            return &verbs[i];
    return NULL;
}

/* "--name value" and "--name=value". False when it is no option of the verb or lacks its value. */
static bool take_option(const struct verb *v, char **argv, int argc, int *i, struct command *c)
{
    if (v->show != NULL && strcmp(argv[*i], "--json") == 0)
        return c->json = true;
    for (u32 k = 0; k < FLAGS_MAX && v->flags[k] != NULL; k++)
        if (strcmp(argv[*i], v->flags[k]) == 0)
            return c->flags[k] = true;
    for (u32 k = 0; k < OPTIONS_MAX && v->options[k] != NULL; k++) {
        size_t n = strlen(v->options[k]);
        if (strncmp(argv[*i], v->options[k], n) != 0)
            continue;
        if (argv[*i][n] == '=')
            c->options[k] = argv[*i] + n + 1;
        else if (argv[*i][n] == '\0' && *i + 1 < argc)
            c->options[k] = argv[++*i];
        else
            continue;
        return true;
    }
    return false;
}

static bool parse(const struct verb *v, int argc, char **argv, struct command *c)
{
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] != '\0') {
            if (!take_option(v, argv, argc, &i, c)) {
                fprintf(stderr, "weir %s: unknown option, or one without its value: %s\n", v->name, argv[i]);
                return false;
            }
        } else if (c->word_count < v->words) {
            c->words[c->word_count++] = argv[i];
        } else {
            fprintf(stderr, "weir %s: unexpected argument: %s\n", v->name, argv[i]);
            return false;
        }
    }
    if (c->word_count < v->words)
        fprintf(stderr, "weir %s: an argument is missing\n", v->name);
    return c->word_count == v->words;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int run_verb(const struct verb *v, int argc, char **argv)
{
    struct command c = { .word_count = 0 };
    if (wants_help(argc, argv)) {
        printf(
            "Usage: weir %s%s\n\n        %s\n\nExit codes: 0 done, 1 failed, 2 a setting is wrong, 64 the command line is wrong.\n",
            v->name, usage_of(v), v->help);
        return EXIT_DONE;
    }
    if (parse(v, argc, argv, &c))
        return v->show != NULL ? show(v->show, c.json) : v->run(&c);
    fprintf(stderr, "Usage: weir %s%s\n", v->name, usage_of(v));
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    int used = 0;
    if (argc < 2)
        return run_verb(&verbs[0], 0, NULL);
    const struct verb *v = find(argc - 1, argv + 1, &used);
    if (v != NULL)
        return run_verb(v, argc - 1 - used, argv + 1 + used);
    if (wants_help(1, argv + 1))
        return verb_help(NULL);
    if (strcmp(argv[1], "--version") == 0)
        return verb_version(NULL);
    fprintf(stderr, "weir: there is no verb %s; see weir help\n", argv[1]);
    return EXIT_USAGE;
}
