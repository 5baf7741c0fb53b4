/* test_tls.c - what only time and memory show of TLS: handshakes that stand still, the end in order, tickets that grow old, allocations that
 * fail. What clients may choose is told by tests/api/tls.test.mjs. */
#include "net/http.h"
#include "net/tls_conn.h"

#include "base/clock.h"
#include "base/fault.h"
#include "net/test_haste.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define REQUEST "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
#define LAST    "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

/* --- a certificate ----------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/weir-test-tls-XXXXXX";
static char cert_path[64], key_path[64];

static void make_certificate(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    assert_non_null(mkdtemp(folder));
    snprintf(cert_path, sizeof cert_path, "%s/cert.pem", folder);
    snprintf(key_path, sizeof key_path, "%s/key.pem", folder);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), 0);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    FILE *f = fopen(cert_path, "we");
    assert_true(f != NULL && PEM_write_X509(f, x) == 1 && fclose(f) == 0);
    f = fopen(key_path, "we");
    assert_true(f != NULL && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0);
    X509_free(x);
    EVP_PKEY_free(key);
}

static int remove_certificate(void **state)
{
    (void)state;
    unlink(cert_path);
    unlink(key_path);
    return rmdir(folder);
}

/* --- the server under test --------------------------------------------------------------------------------------- */

struct fixture {
    struct tls *tls;
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
};

static void on_request(void *ctx, struct http_request *rq)
{
    assert(rq->tls);
    http_reply(rq, 200, NULL, 0, S("hello"));
}

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static void start(struct fixture *f, const struct http_limits *limits)
{
    static const struct http_handler handler = { .request = on_request };
    struct buf complaint = { 0 };
    *f = (struct fixture){ .loop = loop_new(0) };
    assert_non_null(f->loop);
    assert_int_equal(tls_new(cert_path, key_path, &complaint, &f->tls), OK);
    assert_int_equal(http_listen(&f->loop, 1, S("127.0.0.1"), 0, limits, &handler, &f->server), OK);
    assert_int_equal(http_use_tls(f->server, f->tls), OK);
    assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f->loop), 0);
}

static void stop(struct fixture *f)
{
    loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    http_free(f->server);
    tls_free(f->tls);
    loop_free(f->loop);
}

/* Ten seconds are "never". */
static void wait_for_the_end(const struct fixture *f)
{
    i64 until = clock_mono_us() + 30 * SECOND_US;
    while (http_connections(f->server) > 0) {
        assert_true(clock_mono_us() < until);
        sched_yield();
    }
}

/* --- the client's side ------------------------------------------------------------------------------------------- */

static int dial(const struct fixture *f)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(http_port(f->server)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = 10 };
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

struct client {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
};

static bool client_open(struct client *c, const struct fixture *f, SSL_SESSION *session)
{
    *c = (struct client){ .context = SSL_CTX_new(TLS_client_method()), .fd = dial(f) };
    SSL_CTX_set_max_proto_version(c->context, TLS1_2_VERSION); /* its tickets come with the handshake */
    c->ssl = SSL_new(c->context);
    SSL_set_fd(c->ssl, c->fd);
    if (session != NULL)
        SSL_set_session(c->ssl, session);
    return SSL_connect(c->ssl) == 1;
}

static void client_close(struct client *c)
{
    (void)SSL_shutdown(c->ssl); /* else its session counts as broken */
    SSL_free(c->ssl);
    SSL_CTX_free(c->context);
    close(c->fd);
}

/* Asks, and reads to the end; whether it was an end in order. */
static bool ends_in_order(struct client *c, const char *request)
{
    char in[1024];
    int n = SSL_write(c->ssl, request, (int)strlen(request));
    bool answered = false;
    while (n > 0 && (n = SSL_read(c->ssl, in, sizeof in)) > 0)
        answered |= memmem(in, (size_t)n, "hello", 5) != NULL;
    return answered && SSL_get_error(c->ssl, n) == SSL_ERROR_ZERO_RETURN;
}

/* --- tests ------------------------------------------------------------------------------------------------------- */

static void test_handshakes_that_stand_still(void **state)
{
    (void)state;
    static const str starts[] = { S_INIT(""), S_INIT("\x16"), S_INIT("\x16\3\1\2\0\1\0\1\xfc\3\3") };
    struct http_limits limits = hasty();
    struct fixture f;
    start(&f, &limits);
    for (size_t i = 0; i < COUNT(starts); i++) {
        char in[64];
        i64 begun = clock_mono_us(); /* before it is there: afterwards it may have waited for a while already */
        int fd = dial(&f);
        assert_int_equal(send(fd, starts[i].p, starts[i].n, MSG_NOSIGNAL), (ssize_t)starts[i].n);
        assert_int_equal(recv(fd, in, sizeof in, 0), 0);
        assert_true(clock_mono_us() - begun >= HASTE_US - 1000);
        close(fd);
    }
    wait_for_the_end(&f);
    stop(&f);
}

/* Behind the last answer, and behind an idle time-out. */
static void test_close_notify(void **state)
{
    (void)state;
    struct http_limits limits = http_default_limits; /* a handshake takes what it takes */
    limits.idle_us = 2 * SECOND_US;
    struct fixture f;
    struct client c;
    start(&f, &limits);
    static const char *const requests[] = { LAST, REQUEST };
    for (size_t i = 0; i < COUNT(requests); i++) {
        assert_true(client_open(&c, &f, NULL));
        assert_true(ends_in_order(&c, requests[i]));
        client_close(&c);
    }
    wait_for_the_end(&f);
    stop(&f);
}

static bool resumes(const struct fixture *f, SSL_SESSION *session)
{
    struct client c;
    assert_true(client_open(&c, f, session));
    bool reused = SSL_session_reused(c.ssl) == 1;
    assert_true(ends_in_order(&c, LAST));
    client_close(&c);
    return reused;
}

static void test_ticket_keys_grow_old(void **state)
{
    (void)state;
    struct fixture f;
    struct client c;
    start(&f, &http_default_limits);
    assert_true(client_open(&c, &f, NULL));
    SSL_SESSION *session = SSL_get1_session(c.ssl);
    assert_true(ends_in_order(&c, LAST));
    client_close(&c);
    i64 now = clock_mono_us();
    assert_false(tls_rotate(f.tls, now)); /* its first key is young */
    for (int hours = 1; hours <= 3; hours++) {
        if (!resumes(&f, session))
            fail_msg("after %d hours", hours);
        assert_true(tls_rotate(f.tls, now + hours * HOUR_US + hours));
        assert_false(tls_rotate(f.tls, now + hours * HOUR_US + hours));
    }
    assert_false(resumes(&f, session));
    SSL_SESSION_free(session);
    stop(&f);
}

static void test_certificate_ends(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, &http_default_limits);
    i64 left = tls_expires_us(f.tls) - clock_now_us();
    assert_true(left > 3500 * SECOND_US && left <= 3601 * SECOND_US);
    stop(&f);
}

/* Every allocation of ours fails once: an answer or a closed connection, never a leak or a hang. */
static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct fixture f;
    bool fired = true;
    start(&f, &http_default_limits);
    for (i64 n = 1; fired; n++) {
        struct client c;
        assert_true(n < 200);
        fault_arm(FAULT_ALLOC, n);
        if (client_open(&c, &f, NULL))
            (void)ends_in_order(&c, LAST);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0);
        client_close(&c);
        wait_for_the_end(&f);
    }
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshakes_that_stand_still), cmocka_unit_test(test_close_notify),
        cmocka_unit_test(test_ticket_keys_grow_old),        cmocka_unit_test(test_certificate_ends),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    signal(SIGPIPE, SIG_IGN); /* a connection that was closed under the client */
    make_certificate();
    return cmocka_run_group_tests(tests, NULL, remove_certificate);
}
