/* test_faults.c - a whole server in this process, asked over its socket while the n-th allocation, write, sync or statement fails. An answer 2xx means that it was done, any
 * other that nothing was, unless its code says otherwise; then the same request works.
 *
 * One server for all of it: what a fault leaves behind is what the next request meets. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "core/app.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define EMAIL    "owner@acme.test"
#define PASSWORD "Kestrel-7-marble-lantern"

enum { ANSWER_BYTES = 1 << 20, TEXT_BYTES = 4096, N_MAX = 20000, SLOW_STRIDE = 4, METRICS_BYTES = 1 << 20 };

static const struct fault_case {
    enum fault_kind kind;
    bool lasts;
} cases[] = {
    { FAULT_ALLOC, false }, { FAULT_ALLOC, true },      { FAULT_STORE_ALLOC, false },
    { FAULT_WRITE, false }, { FAULT_WRITE, true },      { FAULT_SYNC, false },
    { FAULT_SYNC, true },   { FAULT_STATEMENT, false }, { FAULT_STATEMENT, true },
};

static struct {
    char folder[64];
    int port;
    bool full;
    pthread_t thread;
    int exit_code;
    char access[TEXT_BYTES], refresh[TEXT_BYTES];
    char workflow[64], trigger[64];
    char answer[ANSWER_BYTES];
    char *body; /* within answer */
    i64 number; /* of names: each is used once */
} house;

static struct {
    const char *scenario;
    struct fault_case c;
    i64 n;
} trying;

#define CHECK(condition)                                                                                      \
    do {                                                                                                      \
        if (!(condition))                                                                                     \
            fail_msg("%s: %s, kind %d %s, n = %lld: %.300s", #condition, trying.scenario, (int)trying.c.kind, \
                     trying.c.lasts ? "from" : "at", (long long)trying.n, house.body);                        \
    } while (0)

/* --- a client ----------------------------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((u16)house.port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

static void read_all(int fd)
{
    size_t n = 0;
    for (ssize_t got; n < ANSWER_BYTES - 1 && (got = read(fd, house.answer + n, ANSWER_BYTES - 1 - n)) > 0;)
        n += (size_t)got;
    house.answer[n] = '\0';
    house.body = strstr(house.answer, "\r\n\r\n");
    house.body = house.body != NULL ? house.body + 4 : house.answer + n;
}

/* The status; 0 when the connection ended without an answer. */
static int ask(const char *method, const char *path, const char *body)
{
    char head[2 * TEXT_BYTES];
    bool token = strcmp(path, "/api/v1/auth/token") != 0 && house.access[0] != '\0';
    int fd = dial(), status = 0;
    house.answer[0] = '\0';
    house.body = house.answer;
    if (fd < 0)
        return 0;
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s%s%s%sContent-Length: %zu\r\n\r\n%s",
                     method, path, token ? "Authorization: Bearer " : "", token ? house.access : "",
                     token ? "\r\n" : "", body != NULL ? "Content-Type: application/json\r\n" : "",
                     body != NULL ? strlen(body) : 0, body != NULL ? body : "");
    assert_in_range(n, 1, sizeof head - 1);
    if (send(fd, head, (size_t)n, MSG_NOSIGNAL) == n)
        read_all(fd);
    close(fd);
    return sscanf(house.answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static bool has(const char *text)
{
    return strstr(house.body, text) != NULL;
}

static bool code_is(const char *code)
{
    char text[128];
    snprintf(text, sizeof text, "\"code\":\"%s\"", code);
    return has(text);
}

/* The first member of that name that is a string. */
static bool take(const char *name, char *out, size_t size)
{
    char mark[64];
    int n = snprintf(mark, sizeof mark, "\"%s\":\"", name);
    const char *at = strstr(house.body, mark);
    const char *end = at != NULL ? strchr(at + n, '"') : NULL;
    if (end == NULL || (size_t)(end - at - n) >= size)
        return false;
    snprintf(out, size, "%.*s", (int)(end - at - n), at + n);
    return true;
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static int free_port(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    close(fd);
    return ntohs(at.sin_port);
}

extern char **environ;

/* A developer's own settings must not reach the server, which refuses names that it does not know; but valgrind has no seccomp, and says so. */
static void set_environment(void)
{
    char listen[64];
    house.full = getenv("WEIR_TEST_FULL") != NULL;
    bool log = getenv("WEIR_TEST_LOG") != NULL;
    for (char **v = environ; *v != NULL;) {
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*v, "="), *v);
        bool ours = strncmp(name, "WEIR_", 5) == 0 && strcmp(name, "WEIR_SECCOMP") != 0;
        if (ours && unsetenv(name) == 0)
            v = environ;
        else
            v++;
    }
    snprintf(listen, sizeof listen, "127.0.0.1:%d", house.port);
    setenv("WEIR_LISTEN", listen, 1);
    setenv("WEIR_DATA", house.folder, 1);
    setenv("WEIR_ADMIN_EMAIL", EMAIL, 1);
    setenv("WEIR_ADMIN_PASSWORD", PASSWORD, 1);
    setenv("WEIR_LOG", log ? "json" : "off", 1);
    setenv("WEIR_LOOPS", "1", 1);
    setenv("WEIR_WORKERS", "1", 1);
    setenv("WEIR_SLOW_THREADS", "2", 1);
}

static void *serve(void *arg)
{
    house.exit_code = app_serve();
    return NULL;
}

static void await_status(const char *path, int status)
{
    i64 until_us = clock_mono_us() + 30 * SECOND_US;
    while (ask("GET", path, NULL) != status) {
        CHECK(clock_mono_us() < until_us);
        usleep(2000);
    }
}

static void login(void)
{
    CHECK(ask("POST", "/api/v1/auth/token", "{\"email\":\"" EMAIL "\",\"password\":\"" PASSWORD "\"}") == 200);
    CHECK(take("access_token", house.access, sizeof house.access));
    CHECK(take("refresh_token", house.refresh, sizeof house.refresh));
}

#define PURE \
    "{\"steps\":[{\"id\":\"t\",\"type\":\"transform\",\"with\":{\"n\":\"{{ input.n }}\"}},{\"id\":\"r\",\"type\":\"respond\",\"with\":{\"status\":201,\"body\":\"{{ steps.t.output }}\"}}],\"dependencies\":{\"r\":[\"t\"]}}"

static int open_server(void **state)
{
    bool in_memory = access("/dev/shm", W_OK) == 0;
    char path[TEXT_BYTES];
    snprintf(house.folder, sizeof house.folder, "%s/weir-server-faults-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(house.folder));
    house.port = free_port();
    trying.scenario = "start";
    set_environment();
    assert_int_equal(pthread_create(&house.thread, NULL, serve, NULL), 0);
    await_status("/readyz", 200);
    login();
    CHECK(ask("POST", "/api/v1/workflows", "{\"name\":\"called\",\"definition\":" PURE "}") == 201);
    CHECK(take("id", house.workflow, sizeof house.workflow));
    snprintf(path, sizeof path, "/api/v1/webhooks/%s/triggers", house.workflow);
    CHECK(ask("POST", path, "{\"name\":\"hook\",\"method\":\"POST\",\"auth_type\":\"none\",\"rate_limit\":null}") ==
          201);
    CHECK(take("id", house.trigger, sizeof house.trigger));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

/* Nothing is left over of what all the faults did, but for the metrics, which are the process's. */
static int close_server(void **state)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        fault_arm(kind, 0);
    db_thread_end(app.db);
    kill(getpid(), SIGTERM);
    pthread_join(house.thread, NULL);
    nftw(house.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(house.exit_code, 0);
    assert_in_range(arena_budget_used(), 0, METRICS_BYTES);
    return 0;
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

struct number {
    struct presence has;
    i64 number;
};
static const struct field number_fields[] = { FIELD(struct number, number, F_I64, .doc = "A number") };
static const struct table number_table = TABLE("TestNumber", struct number, number_fields);
#define COUNTS .row = &number_table, .scope = SCOPE_SYSTEM, .scan_ok = true
STMT(workflows_named, "SELECT count(*) AS number FROM workflows WHERE name = $1", COUNTS);
STMT(versions_named,
     "SELECT count(*) AS number FROM workflow_versions v JOIN workflows w ON w.id = v.workflow_id WHERE w.name = $1",
     COUNTS);
STMT(triggers_named, "SELECT count(*) AS number FROM triggers WHERE name = $1", COUNTS);
STMT(executions_of_input, "SELECT count(*) AS number FROM executions WHERE input_data = $1", COUNTS);
STMT(executions_completed, "SELECT count(*) AS number FROM executions WHERE input_data = $1 AND status = 'completed'",
     COUNTS);
STMT(sessions_all, "SELECT count(*) AS number FROM sessions WHERE $1 = $1", COUNTS);
STMT(journal_all, "SELECT count(*) AS number FROM execution_journal WHERE $1 = $1", COUNTS);

static i64 number_of(const struct stmt *s, const char *text)
{
    struct tx *tx;
    struct number row = { .number = -1 };
    struct arena *a = arena_new(MIB);
    CHECK(db_read_begin(app.db, a, false, &tx) == OK);
    CHECK(db_row(tx, s, &row, ARGS(STR(str_of(text)))) == OK);
    db_read_end(tx);
    arena_free(a);
    return row.number;
}

/* --- sweeps ------------------------------------------------------------------------------------------------------- */

static void arm(void)
{
    if (trying.c.lasts)
        fault_arm_from(trying.c.kind, trying.n);
    else
        fault_arm(trying.c.kind, trying.n);
}

static bool disarm(void)
{
    bool fired = fault_fired(trying.c.kind);
    fault_arm(trying.c.kind, 0);
    return fired;
}

static void sweep(const char *name, bool (*one)(void), i64 stride_of_all)
{
    trying.scenario = name;
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool fired = true;
        trying.c = cases[i];
        for (trying.n = 1; fired;) {
            house.number++;
            fired = one();
            CHECK(trying.n < N_MAX);
            trying.n =
                house.full ? trying.n + 1 : fault_next(trying.n + stride_of_all - 1, FAULT_STRIDE, trying.c.lasts);
        }
    }
}

/* Whether the answer says that it was done. Every other one is a problem with a code, unless there was no memory even for that. */
static bool says_done(int status)
{
    if (status >= 200 && status < 300)
        return true;
    CHECK(status == 0 || status >= 500);
    CHECK(status == 0 || house.body[0] == '\0' || has("\"code\":\"") || has("\"success\":false"));
    CHECK(!code_is("server.internal") || trying.c.kind == FAULT_STATEMENT || trying.c.kind == FAULT_SYNC);
    CHECK(trying.c.kind != FAULT_WRITE || code_is("server.storage"));
    return code_is("server.unanswered") || code_is("executions.unread") || has("\"execution_id\":\"");
}

/* No memory even for a problem: then nobody was told anything. */
static bool told(int status)
{
    return status != 0 && house.body[0] != '\0';
}

/* A request that makes one thing: it is there when the answer says so, otherwise not; and then it can be made. */
static bool makes_one(const char *path, const char *body, const struct stmt *count, const char *what, int created)
{
    arm();
    int status = ask("POST", path, body);
    bool fired = disarm(), done = says_done(status);
    CHECK(fired || status == created);
    if (told(status))
        CHECK(number_of(count, what) == done);
    if (number_of(count, what) == 0)
        CHECK(ask("POST", path, body) == created);
    CHECK(number_of(count, what) == 1);
    return fired;
}

static bool make_workflow(void)
{
    char name[64], body[TEXT_BYTES];
    snprintf(name, sizeof name, "w%lld", (long long)house.number);
    snprintf(body, sizeof body, "{\"name\":\"%s\",\"definition\":" PURE "}", name);
    bool fired = makes_one("/api/v1/workflows", body, &workflows_named, name, 201);
    CHECK(number_of(&versions_named, name) == 1);
    return fired;
}

static void test_making_a_workflow(void **state)
{
    sweep("workflow", make_workflow, 1);
}

static bool make_trigger(void)
{
    char name[64], id[64], path[256], body[TEXT_BYTES];
    snprintf(name, sizeof name, "t%lld", (long long)house.number);
    snprintf(path, sizeof path, "/api/v1/webhooks/%s/triggers", house.workflow);
    snprintf(
        body, sizeof body,
        "{\"name\":\"%s\",\"method\":\"POST\",\"auth_type\":\"api_key\",\"auth_config\":{\"api_key\":\"whk_7Qm2v9Xc4Lr8Zt1B\"}}",
        name);
    bool fired = makes_one(path, body, &triggers_named, name, 201);
    snprintf(path, sizeof path, "/api/v1/webhooks/%s/triggers?limit=1", house.workflow);
    CHECK(ask("GET", path, NULL) == 200 && has(name) && take("id", id, sizeof id));
    snprintf(path, sizeof path, "/api/v1/webhooks/%s/triggers/%s", house.workflow, id);
    CHECK(ask("DELETE", path, NULL) == 204); /* a workflow may have 50 */
    return fired;
}

static void test_making_a_trigger(void **state)
{
    sweep("trigger", make_trigger, 1);
}

static bool call_webhook(void)
{
    char path[256], body[64];
    snprintf(path, sizeof path, "/api/v1/webhooks/%s/%s", house.workflow, house.trigger);
    snprintf(body, sizeof body, "{\"n\":%lld}", (long long)house.number);
    bool fired = makes_one(path, body, &executions_of_input, body, 201);
    CHECK(number_of(&executions_completed, body) == 1 || trying.c.kind == FAULT_ALLOC);
    CHECK(number_of(&journal_all, "") == 0);
    return fired;
}

static void test_calling_a_webhook(void **state)
{
    sweep("webhook", call_webhook, 1);
}

static bool list_things(void)
{
    char path[256];
    if (house.number % 2 == 0)
        snprintf(path, sizeof path, "/api/v1/workflows?limit=3");
    else
        snprintf(path, sizeof path, "/api/v1/webhooks/%s/triggers?limit=3", house.workflow);
    arm();
    int status = ask("GET", path, NULL);
    bool fired = disarm(), done = status != 0 && status < 500;
    CHECK(fired || status == 200);
    CHECK(done || status == 0 || house.body[0] == '\0' || has("\"code\":\""));
    CHECK(ask("GET", path, NULL) == 200);
    CHECK(has("\"id\":\""));
    return fired;
}

static void test_listing(void **state)
{
    sweep("list", list_things, 1);
}

/* Whatever came of a refresh, the token that was sent still leads on: it gives its successor again for some seconds. */
static bool refresh_tokens(void)
{
    char body[TEXT_BYTES + 64];
    i64 sessions = number_of(&sessions_all, "");
    snprintf(body, sizeof body, "{\"refresh_token\":\"%s\"}", house.refresh);
    arm();
    int status = ask("POST", "/api/v1/auth/refresh", body);
    bool fired = disarm();
    CHECK(fired || status == 200);
    CHECK(status == 200 || status == 0 || status >= 500);
    CHECK(ask("POST", "/api/v1/auth/refresh", body) == 200);
    CHECK(take("refresh_token", house.refresh, sizeof house.refresh));
    CHECK(take("access_token", house.access, sizeof house.access));
    CHECK(number_of(&sessions_all, "") == sessions);
    CHECK(ask("GET", "/api/v1/auth/me", NULL) == 200);
    return fired;
}

static void test_refresh(void **state)
{
    sweep("refresh", refresh_tokens, 1);
}

/* Each hashes a password, which is slow on purpose: so fewer of them. */
static bool sign_in(void)
{
    i64 sessions = number_of(&sessions_all, "");
    arm();
    int status = ask("POST", "/api/v1/auth/token", "{\"email\":\"" EMAIL "\",\"password\":\"" PASSWORD "\"}");
    bool fired = disarm(), done = says_done(status);
    CHECK(fired || status == 200);
    if (told(status))
        CHECK(number_of(&sessions_all, "") == sessions + done);
    return fired;
}

static void test_login(void **state)
{
    sweep("login", sign_in, SLOW_STRIDE);
    login();
}

/* --- a full disk -------------------------------------------------------------------------------------------------- */

static void await_word(const char *path, const char *word)
{
    i64 until_us = clock_mono_us() + 20 * SECOND_US;
    while (ask("GET", path, NULL) == 0 || !has(word)) {
        CHECK(clock_mono_us() < until_us);
        usleep(2000);
    }
}

/* Writes are refused by a code of their own, reads go on, health tells; with room again all goes on, also what had waited meanwhile. */
static void test_a_full_disk(void **state)
{
    char waits[64], path[256], workflow[128];
    trying.scenario = "full disk";
    trying.c = (struct fault_case){ FAULT_WRITE, true };
    CHECK(
        ask("POST", "/api/v1/workflows",
            "{\"name\":\"waits\",\"definition\":{\"steps\":[{\"id\":\"d\",\"type\":\"delay\",\"with\":{\"ms\":300}},{\"id\":\"t\",\"type\":\"transform\",\"with\":{\"x\":1}}],"
            "\"dependencies\":{\"t\":[\"d\"]}}}") == 201);
    CHECK(take("id", workflow, sizeof workflow));
    snprintf(path, sizeof path, "/api/v1/workflows/%s/execute?wait=0", workflow);
    CHECK(ask("POST", path, "{\"input_data\":{}}") == 202);
    CHECK(take("execution_id", waits, sizeof waits));
    snprintf(path, sizeof path, "/api/v1/executions/%s", waits);
    await_word(path, "\"status\":\"waiting\"");
    fault_arm_from(FAULT_WRITE, 1);
    char body[TEXT_BYTES], hook[256];
    snprintf(body, sizeof body, "{\"name\":\"no room\",\"definition\":" PURE "}");
    snprintf(hook, sizeof hook, "/api/v1/webhooks/%s/%s", house.workflow, house.trigger);
    for (int i = 0; i < 5; i++) {
        CHECK(ask("POST", "/api/v1/workflows", body) == 503 && code_is("server.storage"));
        CHECK(strstr(house.answer, "Retry-After: ") != NULL);
        CHECK(ask("POST", hook, "{\"n\":-1}") == 503 && code_is("server.storage"));
        CHECK(ask("GET", "/api/v1/workflows?limit=1", NULL) == 200 && has("\"id\":\""));
    }
    CHECK(ask("GET", "/readyz", NULL) == 503 && has("\"status\":\"full\""));
    CHECK(ask("GET", "/livez", NULL) == 200);
    CHECK(ask("GET", "/api/v1/health", NULL) == 200 && has("\"database\":{\"status\":\"full\""));
    u64 failed = db_stats(app.db).failed;
    i64 until_us = clock_mono_us() + 20 * SECOND_US;
    fault_clock(SECOND_US);
    while (db_stats(app.db).failed == failed) { /* the delay is over, and nothing can be written about it */
        CHECK(clock_mono_us() < until_us);
        usleep(1000);
    }
    CHECK(ask("GET", path, NULL) == 200 && !has("\"status\":\"completed\""));
    fault_arm(FAULT_WRITE, 0);
    await_status("/readyz", 200);
    CHECK(number_of(&workflows_named, "no room") == 0 && number_of(&executions_of_input, "{\"n\":-1}") == 0);
    CHECK(ask("POST", "/api/v1/workflows", body) == 201);
    CHECK(ask("POST", hook, "{\"n\":-1}") == 201);
    await_word(path, "\"status\":\"completed\"");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_making_a_workflow), cmocka_unit_test(test_making_a_trigger),
        cmocka_unit_test(test_calling_a_webhook), cmocka_unit_test(test_listing),
        cmocka_unit_test(test_refresh),           cmocka_unit_test(test_login),
        cmocka_unit_test(test_a_full_disk),
    };
    if (argc > 1) /* one of them: a sweep is long */
        cmocka_set_test_filter(argv[1]);
    fault_spare(true);
    return cmocka_run_group_tests(tests, open_server, close_server);
}
