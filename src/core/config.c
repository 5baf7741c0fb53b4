/* config.c - one table of settings; reading, checking, printing and the documentation follow from it.
 *
 * All settings are checked before the first complaint is shown, so one start names every mistake. A WEIR_ name that the table
 * does not know stops the start too: a typo in a limit must not be silently without effect. */
#include "core/config.h"
#include "base/map.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/forwarded.h"
#include "core/limit.h"
#include "core/mail.h"
#include "core/nodes.h"
#include "net/egress.h"
#include "net/redis.h"
#include "net/smtp.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

enum {
    FILE_MAX = 64 << 10, /* of .env and of a NAME_FILE */
    KEY_BYTES = 32,      /* of a generated secret */
    KEY_MIN = 32,        /* bytes of a secret that is given */
    KEY_DISTINCT = 10,
    PRINT_ARENA = 1 << 20,
    PORT_MAX = 65535,
    MEMORY_MIN = 64 << 20, /* what one request may use: http_default_limits.arena_bytes */
};

enum kind { TEXT, NUMBER, SWITCH, HOST_PORT, SECRET, CHOICE, NETWORKS };

struct setting {
    const char *name, *alias; /* the alias is an older name; NULL when there is none */
    enum kind kind;
    size_t offset, port_offset;
    const char *preset;
    i64 min, max; /* NUMBER: value · others: bytes */
    const char *const *one_of;
    const char *help;
};
#define AT(member) offsetof(struct config, member)

static const char *const log_formats[] = { "json", "text", "off", NULL };

static const char *const filter_modes[] = { "on", "off", NULL };

static const char *const roles[] = { "all", "api", "worker", NULL };
static const char *const proxy_headers[] = { "x-forwarded", "forwarded", NULL };

static const struct setting settings[] = {
    { "WEIR_LISTEN", NULL, HOST_PORT, AT(listen_host), AT(listen_port), "127.0.0.1:8000", 0, PORT_MAX, NULL,
      "Address and port of the API; port 0 takes any free one" },
    { "WEIR_TLS_CERT", NULL, TEXT, AT(tls_cert), 0, "", 1, 4000, NULL,
      "PEM file of the certificate with its chain: WEIR_LISTEN then speaks TLS, with HTTP/2; read again on SIGHUP" },
    { "WEIR_TLS_KEY", NULL, TEXT, AT(tls_key), 0, "", 1, 4000, NULL,
      "PEM file of the certificate's key, without a passphrase" },
    { "WEIR_DATA", NULL, TEXT, AT(data), 0, "./data", 1, 4000, NULL, "Folder of the database and the generated keys" },
    { "DATABASE_URL", NULL, SECRET, AT(database_url), 0, "", 13, 4000, NULL,
      "postgresql://user:password@host/database; unset: SQLite in the data folder" },
    { "WEIR_DB_POOL_SIZE", NULL, NUMBER, AT(db_pool_size), 0, "0", 0, DB_POOL_MAX, NULL,
      "PostgreSQL: connections that are kept; 0 = four per core, from 8 to 20" },
    { "WEIR_DB_POOL_OVERFLOW", NULL, NUMBER, AT(db_pool_overflow), 0, "10", 0, DB_POOL_MAX, NULL,
      "PostgreSQL: further connections while all are in use" },
    { "WEIR_DB_POOL_WAIT_SECONDS", NULL, NUMBER, AT(db_pool_wait_s), 0, "30", 1, 300, NULL,
      "PostgreSQL: how long a request waits for a free connection before it is refused (503)" },
    { "WEIR_DB_POOL_RECYCLE_SECONDS", NULL, NUMBER, AT(db_pool_recycle_s), 0, "3600", 10, 86400, NULL,
      "PostgreSQL: age at which a connection is replaced" },
    { "WEIR_DB_STATEMENT_SECONDS", NULL, NUMBER, AT(db_statement_s), 0, "30", 1, 3600, NULL,
      "PostgreSQL: a statement that runs longer is stopped (503)" },
    { "WEIR_ROLE", NULL, CHOICE, AT(role), 0, "all", 0, 0, roles,
      "What this node does: all, only answer requests (api), or only run executions and jobs (worker); weir serve --role" },
    { "WEIR_NODE_ID", NULL, TEXT, AT(node_id), 0, "", 1, NODE_ID_MAX, NULL,
      "PostgreSQL: name of this node, the same at each start and another one on each node: it then takes its own work"
      " back at once; unset: made up at each start" },
    { "WEIR_LEASE_SECONDS", NULL, NUMBER, AT(lease_s), 0, "30", 3, 300, NULL,
      "PostgreSQL: how long a node that is not heard of keeps its work; it is heard of three times in that time" },
    { "WEIR_PG_BIN", NULL, TEXT, AT(pg_bin), 0, "", 1, 4000, NULL,
      "PostgreSQL: folder of pg_dump and pg_restore, for weir backup and restore; unset: PATH" },
    { "REDIS_URL", NULL, SECRET, AT(redis_url), 0, "", 9, 4000, NULL,
      "redis://user:password@host:port/number, for several nodes on PostgreSQL: shares limits, hot answers and news; "
      "unset: they do without" },
    { "WEIR_ADMIN_EMAIL", NULL, TEXT, AT(admin_email), 0, "", 3, 254, NULL,
      "Makes the first owner at the first start, with WEIR_ADMIN_PASSWORD" },
    { "WEIR_ADMIN_PASSWORD", NULL, SECRET, AT(admin_password), 0, "", 10, 256, NULL, "Password of the first owner" },
    { "SECRET_KEY", NULL, SECRET, AT(secret_key), 0, "", KEY_MIN, 4096, NULL,
      "Root of all derived keys; generated into the data folder when unset" },
    { "SECRET_KEY_PREVIOUS", NULL, SECRET, AT(secret_key_previous), 0, "", KEY_MIN, 4096, NULL,
      "The SECRET_KEY of before: opens what was sealed with it until weir keys rotate has sealed all again" },
    { "JWT_SECRET_KEY", "JWT_SECRET", SECRET, AT(jwt_secret), 0, "", KEY_MIN, 4096, NULL,
      "Signs access tokens; derived from SECRET_KEY when unset" },
    { "JWT_SECRET_KEY_PREVIOUS", NULL, SECRET, AT(jwt_secret_previous), 0, "", KEY_MIN, 4096, NULL,
      "The JWT_SECRET_KEY of before: its tokens are good until they end, and none is signed with it" },
    { "JWT_ACCESS_TOKEN_EXPIRE_MINUTES", NULL, NUMBER, AT(access_minutes), 0, "15", 1, 1440, NULL,
      "Life of an access token" },
    { "JWT_REFRESH_TOKEN_EXPIRE_DAYS", NULL, NUMBER, AT(refresh_days), 0, "7", 1, 30, NULL, "Life of a refresh token" },
    { "JWT_ACCEPT_LEGACY_USER_ID", NULL, SWITCH, AT(legacy_user_id), 0, "false", 0, 0, NULL,
      "Takes the claim user_id of tokens that have no sub; they need a session like any other" },
    { "WEIR_CHALLENGE_URL", NULL, TEXT, AT(challenge_url), 0, "", 8, 2000, NULL,
      "Verifier of a CAPTCHA (Turnstile, hCaptcha, reCAPTCHA): asked for after three failed logins; a private one must be in WEIR_EGRESS_ALLOW" },
    { "WEIR_CHALLENGE_SECRET", NULL, SECRET, AT(challenge_secret), 0, "", 1, 1000, NULL,
      "What the verifier knows this server by" },
    { "WEIR_EGRESS_ALLOW", NULL, NETWORKS, AT(egress_allow), 0, "", 1, 16384, NULL,
      "Private networks and host:port that workflows may call" },
    { "WEIR_LOG", NULL, CHOICE, AT(log), 0, "", 0, 0, log_formats,
      "Form of the log; unset: text on a terminal, else json" },
    { "WEIR_PUBLIC_URL", NULL, TEXT, AT(public_url), 0, "", 8, 2000, NULL,
      "URL under which clients reach this server" },
    { "WEIR_TRUSTED_PROXIES", NULL, TEXT, AT(trusted_proxies), 0, "", 1, 4096, NULL,
      "Addresses and CIDR blocks of the proxies that are believed about the client's address, scheme and host" },
    { "WEIR_PROXY_HEADER", NULL, CHOICE, AT(proxy_header), 0, "x-forwarded", 0, 0, proxy_headers,
      "Which headers those proxies write: X-Forwarded-For, -Proto and -Host, or Forwarded; the other is not read" },
    { "ALLOWED_ORIGINS", NULL, TEXT, AT(allowed_origins), 0, "", 1, 8192, NULL,
      "Origins whose pages may call the API, between commas, as https://app.example.com" },
    { "WEIR_API_LIMITS", NULL, TEXT, AT(api_limits), 0, "", 1, 1024, NULL,
      "Requests that each tenant of a plan may send, as free=600/60,team=6000/60 (per seconds); unset: no limit" },
    { "WEIR_METRICS_LISTEN", NULL, TEXT, AT(metrics_listen), 0, "", 1, 300, NULL,
      "Address and port that /metrics moves to" },
    { "WEIR_LOOPS", NULL, NUMBER, AT(loops), 0, "0", 0, 256, NULL, "Network threads; 0 = one per core" },
    { "WEIR_WORKERS", NULL, NUMBER, AT(workers), 0, "0", 0, 256, NULL, "Workflow threads; 0 = one per core" },
    { "WEIR_TENANT_CONCURRENCY", NULL, NUMBER, AT(tenant_concurrency), 0, "0", 0, 10000, NULL,
      "Executions of a tenant that may be under way at once, further ones wait; 0 = no limit" },
    { "WEIR_WORKFLOW_CONCURRENCY", NULL, NUMBER, AT(workflow_concurrency), 0, "0", 0, 1000, NULL,
      "The same of a workflow whose settings name no limit; 0 = none" },
    { "WEIR_SLOW_THREADS", NULL, NUMBER, AT(slow_threads), 0, "8", 1, 256, NULL,
      "Threads for long queries and background jobs" },
    { "WEIR_AUDIT_DAYS", NULL, NUMBER, AT(audit_days), 0, "0", 0, 36500, NULL,
      "Days that audit entries are kept; 0 = for ever" },
    { "WEIR_PURGE_DAYS", NULL, NUMBER, AT(purge_days), 0, "30", 0, 36500, NULL,
      "Days after which what a deleted tenant owned is gone for good; 0 = never" },
    { "WEIR_HASH_THREADS", NULL, NUMBER, AT(hash_threads), 0, "2", 1, 64, NULL,
      "Threads for password hashing, 19 MiB each; 64 logins wait for them, further ones are answered 503" },
    { "WEIR_MEMORY_MAX", NULL, NUMBER, AT(memory_max), 0, "0", 0, (i64)1 << 50, NULL,
      "Bytes for all requests and executions; 0 = half of the machine's memory" },
    { "WEIR_SECCOMP", NULL, CHOICE, AT(seccomp), 0, "on", 0, 0, filter_modes,
      "Whether the server gives up the system calls that it does not need; off says so in the log of every start" },
    { "SMTP_URL", NULL, SECRET, AT(smtp_url), 0, "", 8, 1000, NULL,
      "Server for letters, as smtps://user:password@mail.example.com; unset: they are kept as files" },
    { "SMTP_CA_FILE", NULL, TEXT, AT(smtp_ca_file), 0, "", 1, 4000, NULL,
      "PEM file of the certificates that the server of SMTP_URL is trusted by, and without TLS it gets no letter; unset: the system's" },
    { "WEIR_MAIL_FROM", NULL, TEXT, AT(mail_from), 0, "Weir <weir@localhost>", 3, 320, NULL, "Sender of letters" },
    { "WEIR_MAIL_DIR", NULL, TEXT, AT(mail_dir), 0, "", 1, 4000, NULL,
      "Folder that letters are kept in while SMTP_URL is unset; unset: mail in the data folder" },
    { "WEIR_DEBUG", NULL, SWITCH, AT(debug), 0, "false", 0, 0, NULL,
      "Shows causes of internal errors to clients; never in production" },
};

/* Keys from tutorials and templates, anywhere in a secret. */
static const char *const known_samples[] = {
    "supersecret",
    "your-secret-key",
    "your_secret_key",
    "change-in-production",
    "change_in_production",
    "changeme",
    "change-me",
    "change_me",
    "your-256-bit-secret",
    "secret-key-here",
    "insecure",
    "example-key",
    "0123456789abcdef0123456789abcdef",
};

struct source { /* where a value comes from */
    str name, value;
    enum { FROM_DEFAULT, FROM_ENVIRONMENT, FROM_FILE, FROM_DOTENV } from;
};
static const char *const source_names[] = { "default", "environment", "file", ".env" };

struct loading {
    struct arena *arena;
    struct map dotenv; /* name → struct source */
    struct buf *out;
    err fail;
};
#define COMPLAIN(l, ...) (buf_f((l)->out, __VA_ARGS__), buf_char((l)->out, '\n'), (l)->fail = ERR_INVALID)

/* -- files --------------------------------------------------------------------------------------------------------- */

/* The whole of a small file. ERR_NOT_FOUND, ERR_TOO_LARGE or ERR_INTERNAL with errno. */
static err read_small(struct arena *a, const char *path, int flags, str *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_INTERNAL;
    char *p = arena_alloc(a, FILE_MAX + 1);
    ssize_t n = 0, total = 0;
    while (p != NULL && total <= FILE_MAX && (n = read(fd, p + total, (size_t)(FILE_MAX + 1 - total))) > 0)
        total += n;
    int cause = errno;
    close(fd);
    errno = cause;
    if (p == NULL)
        return ERR_MEMORY;
    if (n < 0)
        return ERR_INTERNAL;
    if (total > FILE_MAX)
        return ERR_TOO_LARGE;
    *out = (str){ p, (size_t)total };
    return OK;
}

static const char *file_error(err e)
{
    return e == ERR_INTERNAL    ? strerror(errno)
           : e == ERR_TOO_LARGE ? "larger than 64 KiB"
           : e == ERR_NOT_FOUND ? "no such file"
                                : err_text(e);
}

/* KEY=VALUE; blanks around both are dropped; in quotes everything stays as it is; # begins a comment at the start of a line or behind a blank. */
static bool dotenv_value(str raw, str *value)
{
    raw = str_trim(raw);
    if (raw.n > 0 && (raw.p[0] == '"' || raw.p[0] == '\'')) {
        i64 end = str_find_char(raw, raw.p[0], 1);
        str rest = end < 0 ? STR_NONE : str_trim(str_slice(raw, (size_t)end + 1, raw.n));
        *value = str_slice(raw, 1, (size_t)MAX(end, (i64)1));
        return end > 0 && (rest.n == 0 || rest.p[0] == '#');
    }
    i64 comment = raw.n > 0 && raw.p[0] == '#' ? 0 : str_find(raw, S(" #"), 0);
    *value = comment < 0 ? raw : str_trim(str_slice(raw, 0, (size_t)comment));
    return true;
}

static void dotenv_line(struct loading *l, str line, u32 number)
{
    line = str_trim(line);
    if (line.n == 0 || line.p[0] == '#')
        return;
    if (str_starts(line, S("export ")))
        line = str_trim(str_slice(line, 7, line.n));
    str name;
    struct source *s = NEW(l->arena, struct source);
    i64 equals = str_find_char(line, '=', 0);
    name = str_trim(str_slice(line, 0, (size_t)MAX(equals, (i64)0)));
    if (s == NULL || equals < 1 || !dotenv_value(str_slice(line, (size_t)equals + 1, line.n), &s->value)) {
        COMPLAIN(l, ".env line %u: not of the form NAME=VALUE", number);
        return;
    }
    s->name = name;
    s->from = FROM_DOTENV;
    if (map_put(&l->dotenv, name, s) != OK)
        COMPLAIN(l, ".env: out of memory");
}

static void dotenv_read(struct loading *l)
{
    str text, line;
    err e = read_small(l->arena, ".env", 0, &text);
    if (e == ERR_NOT_FOUND)
        return;
    if (e != OK) {
        COMPLAIN(l, ".env: %s", file_error(e));
        return;
    }
    for (u32 number = 1; str_cut(&text, '\n', &line); number++)
        dotenv_line(l, line, number);
}

/* -- sources ------------------------------------------------------------------------------------------------------- */

/* Environment before .env; an empty value is no value, as compose files pass unset variables on as "". */
static bool find_exact(struct loading *l, str name, struct source *out)
{
    const char *z = str_z(l->arena, name);
    str value = str_of(z != NULL ? getenv(z) : NULL);
    const struct source *s = map_get(&l->dotenv, name);
    if (value.n > 0)
        *out = (struct source){ name, value, FROM_ENVIRONMENT };
    else if (s != NULL && s->value.n > 0)
        *out = *s;
    return value.n > 0 || (s != NULL && s->value.n > 0);
}

static bool find_file(struct loading *l, const char *name, struct source *out)
{
    struct source path;
    str text;
    if (!find_exact(l, strf(l->arena, "%s_FILE", name), &path))
        return false;
    const char *z = str_z(l->arena, path.value);
    err e = z != NULL ? read_small(l->arena, z, 0, &text) : ERR_MEMORY;
    if (e != OK) {
        COMPLAIN(l, "%s_FILE: %.*s: %s", name, STR_FMT(path.value), file_error(e));
        return false;
    }
    *out = (struct source){ str_of(name), str_trim(text), FROM_FILE };
    return true;
}

static struct source find(struct loading *l, const struct setting *s)
{
    struct source out = { str_of(s->name), str_of(s->preset), FROM_DEFAULT };
    if (find_exact(l, str_of(s->name), &out) || find_file(l, s->name, &out))
        return out;
    if (s->alias != NULL && !find_exact(l, str_of(s->alias), &out))
        (void)find_file(l, s->alias, &out);
    return out;
}

static bool known(str name)
{
    if (str_ends(name, S("_FILE")) && known(str_slice(name, 0, name.n - 5)))
        return true;
    for (size_t i = 0; i < COUNT(settings); i++)
        if (str_eq(name, str_of(settings[i].name)))
            return true;
    return false;
}

static void refuse_unknown(struct loading *l)
{
    struct map_entry *e;
    for (char **v = environ; *v != NULL; v++) {
        str rest = str_of(*v), name;
        if (str_cut(&rest, '=', &name) && str_starts(name, S("WEIR_")) && !known(name))
            COMPLAIN(l, "%.*s: there is no such setting (weir config lists them)", STR_FMT(name));
    }
    for (u32 i = 0; (e = map_next(&l->dotenv, &i)) != NULL;)
        if (str_starts(e->key, S("WEIR_")) && !known(e->key))
            COMPLAIN(l, "%.*s in .env: there is no such setting (weir config lists them)", STR_FMT(e->key));
}

/* -- values -------------------------------------------------------------------------------------------------------- */

static void put_str(struct config *c, size_t offset, str value)
{
    memcpy((char *)c + offset, &value, sizeof value);
}

static void put_i64(struct config *c, size_t offset, i64 value)
{
    memcpy((char *)c + offset, &value, sizeof value);
}

bool config_host_port(str text, str *host, i64 *port)
{
    i64 colon = -1;
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] == ':')
            colon = (i64)i;
    if (colon < 0 || !str_i64(str_slice(text, (size_t)colon + 1, text.n), 0, PORT_MAX, port))
        return false;
    *host = str_slice(text, 0, (size_t)colon);
    if (host->n >= 2 && host->p[0] == '[' && host->p[host->n - 1] == ']')
        *host = str_slice(*host, 1, host->n - 1);
    else if (str_find_char(*host, ':', 0) >= 0)
        return false;
    if (host->n == 0)
        *host = S("0.0.0.0");
    return true;
}

static void set_number(struct loading *l, const struct setting *s, str value, struct config *c)
{
    i64 number;
    if (str_i64(value, s->min, s->max, &number))
        put_i64(c, s->offset, number);
    else
        COMPLAIN(l, "%s: %.*s is not a whole number from %lld to %lld", s->name, STR_FMT(value), (long long)s->min,
                 (long long)s->max);
}

static void set_switch(struct loading *l, const struct setting *s, str value, struct config *c)
{
    bool on = str_eq_nocase(value, S("true")) || str_eq(value, S("1"));
    if (!on && !str_eq_nocase(value, S("false")) && !str_eq(value, S("0")))
        COMPLAIN(l, "%s: %.*s is neither true nor false", s->name, STR_FMT(value));
    *((bool *)(void *)((char *)c + s->offset)) = on;
}

static void set_host_port(struct loading *l, const struct setting *s, str value, struct config *c)
{
    str host;
    i64 port;
    if (!config_host_port(value, &host, &port)) {
        COMPLAIN(l, "%s: %.*s is not HOST:PORT with a port from 0 to %d", s->name, STR_FMT(value), PORT_MAX);
        return;
    }
    put_str(c, s->offset, host);
    put_i64(c, s->port_offset, port);
}

static void set_choice(struct loading *l, const struct setting *s, str value, struct config *c)
{
    for (const char *const *word = s->one_of; *word != NULL; word++)
        if (str_eq(value, str_of(*word))) {
            put_str(c, s->offset, value);
            return;
        }
    buf_f(l->out, "%s: %.*s is none of", s->name, STR_FMT(value));
    for (const char *const *word = s->one_of; *word != NULL; word++)
        buf_f(l->out, " %s", *word);
    COMPLAIN(l, "%s", "");
}

static void set_text(struct loading *l, const struct setting *s, str value, struct config *c)
{
    bool secret = s->kind == SECRET;
    if ((i64)value.n < s->min || (i64)value.n > s->max)
        COMPLAIN(l, "%s: %.*s has %zu bytes; it must have %lld to %lld", s->name,
                 STR_FMT(secret ? S("(masked)") : value), value.n, (long long)s->min, (long long)s->max);
    else
        put_str(c, s->offset, value);
}

static void set_networks(struct loading *l, const struct setting *s, str value, struct config *c)
{
    const struct egress *made;
    str bad = value;
    if (egress_new(l->arena, value, &made, &bad) != OK)
        COMPLAIN(l, "%s: %.*s is no address, CIDR block or host:port", s->name, STR_FMT(bad));
    else
        put_str(c, s->offset, value);
}

static void set(struct loading *l, const struct setting *s, str value, struct config *c)
{
    static void (*const setters[])(struct loading *, const struct setting *, str, struct config *) = {
        [TEXT] = set_text,   [NUMBER] = set_number, [SWITCH] = set_switch,     [HOST_PORT] = set_host_port,
        [SECRET] = set_text, [CHOICE] = set_choice, [NETWORKS] = set_networks,
    };
    str kept = str_dup(l->arena, value);
    if (kept.p == NULL && value.p != NULL)
        COMPLAIN(l, "%s: out of memory", s->name);
    else if (kept.n > 0)
        setters[s->kind](l, s, kept, c);
}

/* -- rules over one or two settings -------------------------------------------------------------------------------- */

static u32 distinct_bytes(str s)
{
    bool seen[256] = { false };
    u32 n = 0;
    for (size_t i = 0; i < s.n; i++) {
        n += !seen[(u8)s.p[i]];
        seen[(u8)s.p[i]] = true;
    }
    return n;
}

static bool is_sample(struct arena *a, str secret)
{
    str lower = str_lower(a, secret);
    for (size_t i = 0; i < COUNT(known_samples); i++)
        if (str_find(lower, str_of(known_samples[i]), 0) >= 0)
            return true;
    return false;
}

static void check_key(struct loading *l, const char *name, str key)
{
    if (key.n == 0)
        return;
    if (distinct_bytes(key) < KEY_DISTINCT)
        COMPLAIN(l, "%s: (masked) has fewer than %d different bytes", name, KEY_DISTINCT);
    else if (is_sample(l->arena, key))
        COMPLAIN(l, "%s: (masked) holds a sample that is known to everybody", name);
}

/* Two names of one key are no rotation: whoever set them believes that the key has changed. */
static void check_previous(struct loading *l, const char *name, str previous, const char *of, str key)
{
    check_key(l, name, previous);
    if (previous.n > 0 && str_eq(previous, key))
        COMPLAIN(l, "%s: (masked) is the same as %s; it holds the key of before", name, of);
}

static void check_pair(struct loading *l, const char *one, str first, const char *other, str second)
{
    if ((first.n > 0) != (second.n > 0))
        COMPLAIN(l, "%s: is set, but %s is not; set both or none", first.n > 0 ? one : other,
                 first.n > 0 ? other : one);
}

static void check_origins(struct loading *l, const struct config *c)
{
    str rest = c->allowed_origins, one;
    u32 n = 0;
    while (str_cut(&rest, ',', &one)) {
        one = str_trim(one);
        n += one.n > 0;
        if (one.n > 0 && !origin_valid(l->arena, one))
            COMPLAIN(l,
                     "ALLOWED_ORIGINS: %.*s is no origin as a browser spells it (https://host or https://host:port, in "
                     "lower case, without a path; * is never allowed)",
                     STR_FMT(one));
    }
    if (n > ORIGINS_MAX)
        COMPLAIN(l, "ALLOWED_ORIGINS: names %u origins; at most %d", n, ORIGINS_MAX);
}

static void check_proxies(struct loading *l, const struct config *c)
{
    str bad = STR_NONE;
    if (!forwarded_list_valid(c->trusted_proxies, &bad))
        COMPLAIN(l, "WEIR_TRUSTED_PROXIES: %.*s is no address or CIDR block, or one too many (at most %d)",
                 STR_FMT(bad), PROXIES_MAX);
}

static void check_limits(struct loading *l, const struct config *c)
{
    if (limit_plans_set(l->arena, c->api_limits) != OK)
        COMPLAIN(l, "WEIR_API_LIMITS: %.*s is not of the form plan=requests/seconds,… (at most %d plans)",
                 STR_FMT(c->api_limits), LIMIT_PLANS_MAX);
}

/* The value is never shown: it holds a password. */
static void check_database(struct loading *l, const struct config *c)
{
    if (c->database_url.n > 0 && !str_starts(c->database_url, S("postgresql://")) &&
        !str_starts(c->database_url, S("postgres://")))
        COMPLAIN(l, "DATABASE_URL: (masked) does not begin with postgresql://");
}

static void check_node(struct loading *l, const struct config *c)
{
    bool good = true;
    for (size_t i = 0; i < c->node_id.n; i++) {
        char at = c->node_id.p[i];
        good &= (at >= 'a' && at <= 'z') || (at >= 'A' && at <= 'Z') || (at >= '0' && at <= '9') || at == '-' ||
                at == '_' || at == '.';
    }
    if (!good)
        COMPLAIN(l, "WEIR_NODE_ID: %.*s has other characters than letters, digits, - _ and .", STR_FMT(c->node_id));
    if (c->database_url.n == 0 && !str_eq(c->role, S("all")))
        COMPLAIN(l, "WEIR_ROLE: %.*s needs DATABASE_URL: with SQLite there is one node, which does all",
                 STR_FMT(c->role));
}

/* The value is not shown here either. */
static void check_redis(struct loading *l, const struct config *c)
{
    struct redis_address address;
    err e = c->redis_url.n > 0 ? redis_url_parse(l->arena, c->redis_url, &address) : OK;
    if (e == ERR_MEDIA)
        COMPLAIN(l,
                 "REDIS_URL: (masked) asks for TLS, which this version does not speak to Redis; use a private network "
                 "or a tunnel (stunnel) with redis://");
    else if (e != OK)
        COMPLAIN(l, "REDIS_URL: (masked) is not redis://[[user]:password@]host[:port][/number]");
}

static void check_rest(struct loading *l, const struct config *c)
{
    str host;
    i64 port;
    struct url url;
    if (c->admin_email.n > 0 && str_find_char(c->admin_email, '@', 1) < 0)
        COMPLAIN(l, "WEIR_ADMIN_EMAIL: %.*s is no e-mail address", STR_FMT(c->admin_email));
    if (c->metrics_listen.n > 0 && !config_host_port(c->metrics_listen, &host, &port))
        COMPLAIN(l, "WEIR_METRICS_LISTEN: %.*s is not HOST:PORT with a port from 0 to %d", STR_FMT(c->metrics_listen),
                 PORT_MAX);
    if (c->public_url.n > 0 && url_parse(l->arena, c->public_url, &url) != OK)
        COMPLAIN(l, "WEIR_PUBLIC_URL: %.*s is no http or https URL", STR_FMT(c->public_url));
    if (c->challenge_url.n > 0 && url_parse(l->arena, c->challenge_url, &url) != OK)
        COMPLAIN(l, "WEIR_CHALLENGE_URL: %.*s is no http or https URL", STR_FMT(c->challenge_url));
    if (c->smtp_url.n > 0 && !smtp_url_valid(c->smtp_url))
        COMPLAIN(l, "SMTP_URL: (masked) is not smtp://[user:password@]host[:port] or smtps://…");
    if (!mail_sender(c->mail_from, &host))
        COMPLAIN(l, "WEIR_MAIL_FROM: %.*s is neither an address nor Name <address>", STR_FMT(c->mail_from));
    if (c->memory_max != 0 && c->memory_max < MEMORY_MIN)
        COMPLAIN(l, "WEIR_MEMORY_MAX: %lld is less than %d; 0 is half of the machine's", (long long)c->memory_max,
                 MEMORY_MIN);
}

err config_load(struct arena *a, struct config *out, struct buf *complaint)
{
    struct loading l = { .arena = a, .dotenv = { .arena = a }, .out = complaint };
    struct config c = { 0 };
    dotenv_read(&l);
    for (size_t i = 0; i < COUNT(settings); i++)
        set(&l, &settings[i], find(&l, &settings[i]).value, &c);
    refuse_unknown(&l);
    check_pair(&l, "WEIR_ADMIN_EMAIL", c.admin_email, "WEIR_ADMIN_PASSWORD", c.admin_password);
    check_pair(&l, "WEIR_CHALLENGE_URL", c.challenge_url, "WEIR_CHALLENGE_SECRET", c.challenge_secret);
    check_pair(&l, "WEIR_TLS_CERT", c.tls_cert, "WEIR_TLS_KEY", c.tls_key);
    check_key(&l, "SECRET_KEY", c.secret_key);
    check_key(&l, "JWT_SECRET_KEY", c.jwt_secret);
    check_previous(&l, "SECRET_KEY_PREVIOUS", c.secret_key_previous, "SECRET_KEY", c.secret_key);
    check_previous(&l, "JWT_SECRET_KEY_PREVIOUS", c.jwt_secret_previous, "JWT_SECRET_KEY", c.jwt_secret);
    check_rest(&l, &c);
    check_database(&l, &c);
    check_node(&l, &c);
    check_redis(&l, &c);
    check_origins(&l, &c);
    check_limits(&l, &c);
    check_proxies(&l, &c);
    if (l.fail == OK)
        *out = c;
    return l.fail;
}

static void put_bounds(struct buf *b, const struct setting *s)
{
    if (s->max != 0)
        buf_f(b, "%s%lld..%lld", s->kind == NUMBER || s->kind == HOST_PORT ? "" : "bytes ", (long long)s->min,
              (long long)s->max);
    for (const char *const *word = s->one_of; word != NULL && *word != NULL; word++)
        buf_f(b, "%s%s", word == s->one_of ? "" : "|", *word);
    if (s->kind == SWITCH)
        BUF_LIT(b, "true|false");
}

static err row_of(struct loading *l, const struct setting *s, struct config_row *out)
{
    struct source v = find(l, s);
    bool masked = s->kind == SECRET && v.value.n > 0;
    struct buf bounds = { .arena = l->arena };
    put_bounds(&bounds, s);
    *out = (struct config_row){ .name = s->name,
                                .alias = s->alias,
                                .value = masked ? S("(masked)") : v.value,
                                .source = source_names[v.from],
                                .preset = s->preset,
                                .bounds = buf_view(&bounds),
                                .help = s->help,
                                .secret = s->kind == SECRET };
    return bounds.fail;
}

err config_rows(struct arena *a, struct config_row **list, u32 *n)
{
    struct buf ignored = { .arena = a };
    struct loading l = { .arena = a, .dotenv = { .arena = a }, .out = &ignored };
    struct config_row *rows = NEW_N(a, struct config_row, COUNT(settings));
    if (rows == NULL)
        return ERR_MEMORY;
    dotenv_read(&l);
    for (size_t i = 0; i < COUNT(settings); i++)
        TRY(row_of(&l, &settings[i], &rows[i]));
    *list = rows;
    *n = COUNT(settings);
    return OK;
}

static str or_dash(str s)
{
    return s.n > 0 ? s : S("-");
}

void config_print(struct buf *b)
{
    struct arena *a = arena_new(PRINT_ARENA);
    struct config_row *rows;
    u32 n = 0;
    if (a == NULL || config_rows(a, &rows, &n) != OK)
        b->fail = ERR_MEMORY;
    for (u32 i = 0; i < n; i++)
        buf_f(b, "%-32s %-24.*s %-12s %-16.*s %.*s  %s\n", rows[i].name, STR_FMT(or_dash(rows[i].value)),
              rows[i].source, STR_FMT(or_dash(str_of(rows[i].preset))), STR_FMT(rows[i].bounds), rows[i].help);
    arena_free(a);
}

/* -- folder and secrets -------------------------------------------------------------------------------------------- */

err config_folder(const struct config *c, struct buf *complaint)
{
    char path[4096];
    if (c->data.n >= sizeof path)
        return ERR_INVALID;
    for (size_t i = 1; i <= c->data.n; i++) {
        if (i < c->data.n && c->data.p[i] != '/')
            continue;
        memcpy(path, c->data.p, i);
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            buf_f(complaint, "WEIR_DATA: cannot make %s: %s\n", path, strerror(errno));
            return ERR_INVALID;
        }
    }
    return OK;
}

/* Synced with its folder: a key that is lost after a power cut takes everything sealed with it along. */
static err write_new(const char *folder, const char *path, str text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ERR_INTERNAL;
    bool good = write(fd, text.p, text.n) == (ssize_t)text.n && fsync(fd) == 0;
    int cause = errno;
    close(fd);
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    good = good && dir >= 0 && fsync(dir) == 0;
    if (dir >= 0)
        close(dir);
    if (!good)
        unlink(path);
    errno = cause;
    return good ? OK : ERR_INTERNAL;
}

static err make_key(struct arena *a, const char *folder, const char *path, str *key)
{
    u8 bytes[KEY_BYTES];
    rng_bytes(bytes, sizeof bytes);
    str text = hex_encode(a, (str){ (const char *)bytes, sizeof bytes });
    explicit_bzero(bytes, sizeof bytes);
    str line = strf(a, "%.*s\n", STR_FMT(text));
    if (text.p == NULL || line.p == NULL)
        return ERR_MEMORY;
    TRY(write_new(folder, path, line));
    *key = text;
    return OK;
}

/* A key that others can read is no key: say so instead of going on. */
static err read_key(struct arena *a, const char *path, str *key, struct buf *complaint)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_INTERNAL;
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) != 0) {
        buf_f(complaint, "%s: can be read by others (mode %03o); it must be a file of mode 600\n", path,
              (unsigned)st.st_mode & 0777);
        return ERR_INVALID;
    }
    str text;
    TRY(read_small(a, path, O_NOFOLLOW, &text));
    text = str_trim(text);
    if (text.n < KEY_MIN) {
        buf_f(complaint, "%s: holds %zu bytes; a key has at least %d\n", path, text.n, KEY_MIN);
        return ERR_INVALID;
    }
    *key = text;
    return OK;
}

/* The files of the data folder's key: what serves, what served before, what is being made. */
struct key_files {
    const char *folder, *present, *previous, *next;
};

static err key_files(struct arena *a, const struct config *c, struct key_files *out)
{
    struct key_files f = { str_z(a, c->data), str_z(a, strf(a, "%.*s/secret.key", STR_FMT(c->data))),
                           str_z(a, strf(a, "%.*s/secret.key.previous", STR_FMT(c->data))),
                           str_z(a, strf(a, "%.*s/secret.key.next", STR_FMT(c->data))) };
    if (f.folder == NULL || f.present == NULL || f.previous == NULL || f.next == NULL)
        return ERR_MEMORY;
    *out = f;
    return OK;
}

static err say_errno(err e, const char *path, struct buf *complaint)
{
    if (e == ERR_INTERNAL)
        buf_f(complaint, "%s: %s\n", path, strerror(errno));
    return e;
}

static err find_keys(struct arena *a, const struct key_files *f, struct config *c, struct buf *complaint)
{
    err e = read_key(a, f->present, &c->secret_key, complaint);
    if (e == ERR_NOT_FOUND)
        e = make_key(a, f->folder, f->present, &c->secret_key);
    TRY(say_errno(e, f->present, complaint));
    c->secret_key_file = true;
    if (c->secret_key_previous.n > 0)
        return OK;
    e = read_key(a, f->previous, &c->secret_key_previous, complaint);
    if (e == OK &&
        str_eq(c->secret_key_previous, c->secret_key)) /* a rotation was cut off before it changed anything */
        c->secret_key_previous = STR_NONE;
    return e == ERR_NOT_FOUND ? OK : say_errno(e, f->previous, complaint);
}

static err derive_jwt(struct arena *a, str secret_key, str *out)
{
    u8 *derived = arena_alloc(a, KEY_BYTES);
    if (derived == NULL)
        return ERR_MEMORY;
    hash_hkdf_sha256(secret_key, S("jwt"), derived, KEY_BYTES);
    *out = (str){ (const char *)derived, KEY_BYTES };
    return OK;
}

err config_secrets(struct arena *a, struct config *c, struct buf *complaint)
{
    struct key_files f;
    TRY(config_folder(c, complaint));
    TRY(key_files(a, c, &f));
    if (c->secret_key.n == 0)
        TRY(find_keys(a, &f, c, complaint));
    if (c->jwt_secret.n > 0)
        return OK;
    if (c->jwt_secret_previous.n == 0 && c->secret_key_previous.n > 0)
        TRY(derive_jwt(a, c->secret_key_previous, &c->jwt_secret_previous));
    return derive_jwt(a, c->secret_key, &c->jwt_secret);
}

static err sync_folder(const char *folder)
{
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = dir >= 0 && fsync(dir) == 0;
    if (dir >= 0)
        close(dir);
    return good ? OK : ERR_INTERNAL;
}

/* secret.key is there at every moment, and so is the one of before from the moment on that there is another: by a link, then by one rename. */
static err exchange(const struct key_files *f)
{
    if (link(f->present, f->previous) != 0 && errno != EEXIST)
        return ERR_INTERNAL;
    TRY(sync_folder(f->folder));
    if (rename(f->next, f->present) != 0)
        return ERR_INTERNAL;
    return sync_folder(f->folder);
}

err config_key_rotate(struct arena *a, struct config *c, struct buf *complaint)
{
    struct key_files f;
    str made, before = c->secret_key;
    if (c->secret_key_previous.n > 0)
        return ERR_CONFLICT;
    TRY(key_files(a, c, &f));
    unlink(f.next); /* of a rotation that was cut off */
    TRY(say_errno(make_key(a, f.folder, f.next, &made), f.next, complaint));
    TRY(say_errno(exchange(&f), f.previous, complaint));
    c->secret_key = made;
    c->secret_key_previous = before;
    return OK;
}

err config_key_retire(struct arena *a, struct config *c, struct buf *complaint)
{
    struct key_files f;
    TRY(key_files(a, c, &f));
    err e = unlink(f.previous) == 0 || errno == ENOENT ? sync_folder(f.folder) : ERR_INTERNAL;
    return say_errno(e, f.previous, complaint);
}

str config_base_url(struct arena *a, const struct config *c)
{
    str host = c->listen_host, url = c->public_url;
    if (url.n > 0)
        return str_ends(url, S("/")) ? str_slice(url, 0, url.n - 1) : url;
    if (str_eq(host, S("0.0.0.0")) || str_eq(host, S("::")))
        host = S("localhost");
    bool six = str_find_char(host, ':', 0) >= 0;
    return strf(a, "http%s://%s%.*s%s:%lld", c->tls_cert.n > 0 ? "s" : "", six ? "[" : "", STR_FMT(host),
                six ? "]" : "", (long long)c->listen_port);
}
