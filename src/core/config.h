/* config.h - settings: one table gives name, kind, default, bounds, help and whether it is a secret. Sources, first wins: environment, NAME_FILE
 * (the file's trimmed content), ./.env. A bad value stops the start with exit code 2, naming itself, its value (secrets masked) and its bound. */
#pragma once

#include "base/buf.h"

enum { ORIGINS_MAX = 64 };

struct config {
    str listen_host; /* WEIR_LISTEN */
    i64 listen_port;
    str tls_cert, tls_key; /* WEIR_TLS_CERT, WEIR_TLS_KEY: PEM files; both or none */
    str data;              /* WEIR_DATA */
    str admin_email, admin_password;
    str secret_key;          /* SECRET_KEY: else generated into <data>/secret.key, 0600 */
    str secret_key_previous; /* SECRET_KEY_PREVIOUS, else <data>/secret.key.previous: opens, never seals */
    bool secret_key_file;    /* secret_key stands in the data folder */
    str jwt_secret;          /* JWT_SECRET_KEY, alias JWT_SECRET: else HKDF(secret_key, "jwt") */
    str jwt_secret_previous; /* JWT_SECRET_KEY_PREVIOUS: verifies, never signs; n == 0: there is none */
    str egress_allow;        /* WEIR_EGRESS_ALLOW */
    str log;                 /* WEIR_LOG: json, text, off; default text on a terminal, else json */
    str public_url;          /* WEIR_PUBLIC_URL */
    str api_limits;          /* WEIR_API_LIMITS: plan=requests/seconds, between commas; checked */
    str allowed_origins;     /* ALLOWED_ORIGINS: exact, between commas; checked */
    str metrics_listen;      /* WEIR_METRICS_LISTEN */
    i64 loops;               /* WEIR_LOOPS, 0 = cores */
    i64 workers;             /* WEIR_WORKERS: engine workers, 0 = cores */
    str trusted_proxies;     /* WEIR_TRUSTED_PROXIES: blocks between commas; checked */
    str proxy_header;        /* WEIR_PROXY_HEADER: x-forwarded, forwarded */
    i64 tenant_concurrency, workflow_concurrency; /* WEIR_TENANT_CONCURRENCY, WEIR_WORKFLOW_CONCURRENCY; 0 = no limit */
    i64 slow_threads;                             /* WEIR_SLOW_THREADS */
    str database_url;                             /* DATABASE_URL: postgresql://…; unset: SQLite in the data folder */
    i64 db_pool_size;                             /* WEIR_DB_POOL_SIZE, 0 = four per core */
    str pg_bin;                                   /* WEIR_PG_BIN */
    str redis_url; /* REDIS_URL: redis://…; unset: nothing is shared but the database */
    i64 db_pool_overflow, db_pool_wait_s, db_pool_recycle_s, db_statement_s;
    str role, node_id;   /* WEIR_ROLE (--role), WEIR_NODE_ID; the latter made up at each start when unset */
    i64 lease_s;         /* WEIR_LEASE_SECONDS */
    i64 memory_max;      /* WEIR_MEMORY_MAX bytes; 0 = half of the machine's */
    i64 access_minutes;  /* JWT_ACCESS_TOKEN_EXPIRE_MINUTES */
    i64 refresh_days;    /* JWT_REFRESH_TOKEN_EXPIRE_DAYS */
    str seccomp;         /* WEIR_SECCOMP: on, off */
    str smtp_ca_file;    /* SMTP_CA_FILE */
    str smtp_url;        /* SMTP_URL; else letters are files in: */
    str mail_dir;        /* WEIR_MAIL_DIR; else <data>/mail */
    str mail_from;       /* WEIR_MAIL_FROM */
    i64 hash_threads;    /* WEIR_HASH_THREADS */
    i64 audit_days;      /* WEIR_AUDIT_DAYS, 0 = for ever */
    bool legacy_user_id; /* JWT_ACCEPT_LEGACY_USER_ID */
    bool debug;          /* WEIR_DEBUG */
    i64 purge_days;      /* WEIR_PURGE_DAYS, 0 = never */
    str challenge_url, challenge_secret; /* WEIR_CHALLENGE_URL, WEIR_CHALLENGE_SECRET: both or none */
};

/* Reads and checks all settings. ERR_INVALID writes the complaint (one line per bad setting). Also refuses weak JWT_SECRET_KEY: under 32 bytes,
 * fewer than 10 distinct bytes, known samples. Unknown WEIR_* names are complaints too (a typo must not be silent). */
err config_load(struct arena *a, struct config *out, struct buf *complaint) MUST;
/* Makes the data folder (0700) when it is absent, its parents too. */
err config_folder(const struct config *c, struct buf *complaint) MUST;
/* Makes the data folder's secrets where they are missing and derives jwt_secret. */
err config_secrets(struct arena *a, struct config *c, struct buf *complaint) MUST;
/* Another secret.key, with the one of before beside it; *c knows both. ERR_CONFLICT: the one before that is still there. */
err config_key_rotate(struct arena *a, struct config *c, struct buf *complaint) MUST;
/* Deletes secret.key.previous. */
err config_key_retire(struct arena *a, struct config *c, struct buf *complaint) MUST;
/* headers.c: "https://app.example.com" as a browser spells it: scheme, host, port unless it is the scheme's, nothing else, in lower case. */
bool origin_valid(struct arena *a, str origin);
/* "host:port", "[::1]:port" or ":port" (any address) taken apart. */
bool config_host_port(str text, str *host, i64 *port);
/* Where people reach the server, without a slash at its end: WEIR_PUBLIC_URL, else http or https, and where it listens. {NULL,0} out of memory. */
str config_base_url(struct arena *a, const struct config *c);
/* NAME  value (masked)  source  default  bounds  help: for `weir config`. */
void config_print(struct buf *b);
/* The same as rows, for its JSON and the documentation. */
struct config_row {
    const char *name, *alias; /* alias: an older name, or NULL */
    str value;                /* secrets masked; n == 0: none */
    const char *source, *preset;
    str bounds;
    const char *help;
    bool secret;
};
err config_rows(struct arena *a, struct config_row **list, u32 *n) MUST;
