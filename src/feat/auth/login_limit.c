/* login_limit.c - how often somebody may be wrong: five failures in a sliding minute per address, and per account from
 * an address.
 *
 * Only an address is ever closed, never an account as such: a stranger elsewhere cannot lock the owner out. All of
 * it is rows, so that a restart forgives nobody. While something is closed nothing is written: being told 429 does
 * not make it longer. */
#include "feat/auth/auth_parts.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "codec/typeid.h"

#include <arpa/inet.h>
#include <string.h>

#define WINDOW_US       MINUTE_US
#define BACKOFF_MAX_US  (15 * MINUTE_US)
#define LEVEL_FORGET_US HOUR_US /* after the end of a block the doubling begins again */
#define KEEP_US         DAY_US  /* failures stay a while for whoever looks into one */

struct row {
    struct presence has;
    i64 at, level, until;
};
static const struct field fields[] = {
    FIELD(struct row, at, F_TIME, .doc = "When a login failed"),
    FIELD(struct row, level, F_I64, .doc = "How many bursts came in a row"),
    FIELD(struct row, until, F_TIME, .doc = "When the account opens to the address again"),
};
static const struct table row_table = TABLE("LoginFailure", struct row, fields);

/* The fifth newest of the window (four are skipped): when it leaves, there is room for another. */
STMT(failures_of_ip, "SELECT at FROM login_failures WHERE ip = $1 AND at > $2 ORDER BY at DESC LIMIT 1 OFFSET $3",
     .row = &row_table, .scope = SCOPE_SYSTEM);
STMT(failures_of_account,
     "SELECT at FROM login_failures WHERE account = $1 AND ip = $2 AND at > $3 ORDER BY at DESC LIMIT 1 OFFSET $4",
     .row = &row_table, .scope = SCOPE_SYSTEM);
struct failures {
    struct presence has;
    i64 of_ip, of_account;
};
static const struct field failures_fields[] = {
    FIELD(struct failures, of_ip, F_I64, .doc = "From the address"),
    FIELD(struct failures, of_account, F_I64, .doc = "For the account, from the address"),
};
static const struct table failures_table = TABLE("LoginFailures", struct failures, failures_fields);
STMT(failures_count,
     "SELECT (SELECT count(*) FROM login_failures WHERE ip = $1 AND at > $3) AS of_ip,"
     " (SELECT count(*) FROM login_failures WHERE account = $2 AND ip = $1 AND at > $3) AS of_account",
     .row = &failures_table, .scope = SCOPE_SYSTEM);
STMT(failure_add, "INSERT INTO login_failures (id, account, ip, at) VALUES ($1, $2, $3, $4)", .scope = SCOPE_SYSTEM);
STMT(block_of, "SELECT level, until FROM login_blocks WHERE account = $1 AND ip = $2", .row = &row_table,
     .scope = SCOPE_SYSTEM);
STMT(block_set,
     "INSERT INTO login_blocks (account, ip, level, until) VALUES ($1, $2, $3, $4)"
     " ON CONFLICT (account, ip) DO UPDATE SET level = excluded.level, until = excluded.until",
     .scope = SCOPE_SYSTEM);
STMT(block_end, "DELETE FROM login_blocks WHERE account = $1 AND ip = $2", .scope = SCOPE_SYSTEM);
STMT(failures_clean, "DELETE FROM login_failures WHERE id IN (SELECT id FROM login_failures WHERE at < $1 LIMIT $2)",
     .scope = SCOPE_SYSTEM, .scan_ok = true);
STMT(blocks_clean, "DELETE FROM login_blocks WHERE until < $1", .scope = SCOPE_SYSTEM, .scan_ok = true);

/* A household has a whole /64 and can change the lower half at will. */
static str ip_key(struct arena *a, str remote)
{
    struct in6_addr six;
    const char *z = str_z(a, remote);
    if (z == NULL)
        return STR_NONE;
    if (inet_pton(AF_INET6, z, &six) != 1)
        return str_dup(a, remote);
    if (IN6_IS_ADDR_V4MAPPED(&six))
        return strf(a, "%u.%u.%u.%u", six.s6_addr[12], six.s6_addr[13], six.s6_addr[14], six.s6_addr[15]);
    memset(six.s6_addr + 8, 0, 8);
    char text[INET6_ADDRSTRLEN];
    if (inet_ntop(AF_INET6, &six, text, sizeof text) == NULL)
        return STR_NONE;
    return strf(a, "%s/64", text);
}

err login_from(struct arena *a, str email, str remote, struct login_from *out)
{
    u8 hash[SHA256_BYTES];
    str lower = str_lower(a, email);
    if (lower.p == NULL)
        return ERR_MEMORY;
    hash_sha256(lower, hash);
    struct login_from from = { hex_encode(a, (str){ (const char *)hash, sizeof hash }), ip_key(a, remote) };
    if (from.account.p == NULL || from.ip.p == NULL)
        return ERR_MEMORY;
    *out = from;
    return OK;
}

i64 login_backoff_us(i64 level)
{
    if (level > 4) /* 60, 120, 240, 480 s, then the most */
        return BACKOFF_MAX_US;
    return MINUTE_US << (MAX(level, (i64)1) - 1);
}

static err none_is_fine(err e)
{
    return e == ERR_NOT_FOUND ? OK : e;
}

err login_limit_check(struct tx *tx, i64 now_us, const struct login_from *from, i64 *wait_us)
{
    struct row block = { 0 }, fifth = { 0 };
    TRY(none_is_fine(db_row(tx, &block_of, &block, ARGS(STR(from->account), STR(from->ip)))));
    TRY(none_is_fine(
        db_row(tx, &failures_of_ip, &fifth, ARGS(STR(from->ip), I64(now_us - WINDOW_US), I64(LOGIN_FAILURES - 1)))));
    i64 open_us = MAX(block.until, fifth.at > 0 ? fifth.at + WINDOW_US : 0);
    if (open_us <= now_us)
        return OK;
    *wait_us = open_us - now_us;
    return ERR_LIMIT;
}

err login_limit_left(struct tx *tx, i64 now_us, const struct login_from *from, i64 *left)
{
    struct failures failures;
    TRY(db_row(tx, &failures_count, &failures, ARGS(STR(from->ip), STR(from->account), I64(now_us - WINDOW_US))));
    *left = MAX(LOGIN_FAILURES - MAX(failures.of_ip, failures.of_account), (i64)0);
    return OK;
}

err login_limit_suspect(struct tx *tx, i64 now_us, const struct login_from *from, bool *suspect)
{
    struct failures failures;
    struct row block = { 0 };
    TRY(db_row(tx, &failures_count, &failures, ARGS(STR(from->ip), STR(from->account), I64(now_us - WINDOW_US))));
    TRY(none_is_fine(db_row(tx, &block_of, &block, ARGS(STR(from->account), STR(from->ip)))));
    *suspect = failures.of_account >= LOGIN_SUSPECT || block.until + LEVEL_FORGET_US > now_us;
    return OK;
}

static err close_account(struct tx *tx, i64 now_us, const struct login_from *from)
{
    struct row block = { 0 };
    TRY(none_is_fine(db_row(tx, &block_of, &block, ARGS(STR(from->account), STR(from->ip)))));
    i64 level = block.until + LEVEL_FORGET_US > now_us ? MIN(block.level + 1, (i64)5) : 1;
    return db_exec(tx, &block_set, NULL,
                   ARGS(STR(from->account), STR(from->ip), I64(level), I64(now_us + login_backoff_us(level))));
}

err login_limit_failed(struct tx *tx, i64 now_us, const struct login_from *from, bool *burst)
{
    struct row fifth = { 0 };
    str id = typeid_new(db_arena(tx), "failure", now_us);
    if (id.p == NULL)
        return ERR_MEMORY;
    TRY(db_exec(tx, &failure_add, NULL, ARGS(STR(id), STR(from->account), STR(from->ip), I64(now_us))));
    struct args window = ARGS(STR(from->account), STR(from->ip), I64(now_us - WINDOW_US), I64(LOGIN_FAILURES - 1));
    err e = db_row(tx, &failures_of_account, &fifth, window);
    if (e == OK)
        TRY(close_account(tx, now_us, from));
    TRY(none_is_fine(e));
    *burst = e == OK;
    return OK;
}

err login_limit_passed(struct tx *tx, const struct login_from *from)
{
    return db_exec(tx, &block_end, NULL, ARGS(STR(from->account), STR(from->ip)));
}

err login_limit_clean(struct tx *tx, i64 now_us, i64 max, i64 *n)
{
    TRY(db_exec(tx, &blocks_clean, NULL, ARGS(I64(now_us - LEVEL_FORGET_US))));
    return db_exec(tx, &failures_clean, n, ARGS(I64(now_us - KEEP_US), I64(max)));
}
