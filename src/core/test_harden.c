/* test_harden.c - what a process can and cannot do once it gave up its system calls. Each test is a child that does so, since there is no way back. */
#include "base/log.h"
#include "core/harden.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { LOG_BYTES = 16384, GOOD = 42 };

/* The log of a child that ran `does` with the filter; it fails the test unless the child says GOOD. */
static void in_child(int (*does)(void), char log[LOG_BYTES])
{
    int pipe_fds[2], status;
    assert_int_equal(pipe(pipe_fds), 0);
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipe_fds[1], STDERR_FILENO);
        close(pipe_fds[0]);
        log_setup(LOG_JSON, LOG_INFO);
        _exit(harden_calls() == OK ? does() : 1);
    }
    close(pipe_fds[1]);
    size_t n = 0;
    for (ssize_t got; n < LOG_BYTES - 1 && (got = read(pipe_fds[0], log + n, LOG_BYTES - 1 - n)) > 0;)
        n += (size_t)got;
    log[n] = '\0';
    close(pipe_fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != GOOD)
        fail_msg("status %x: %s", (unsigned)status, log);
}

#define EXPECT(condition)                                \
    do {                                                 \
        if (!(condition)) {                              \
            fprintf(stderr, "not so: %s\n", #condition); \
            return 1;                                    \
        }                                                \
    } while (0)

static void *thread(void *arg)
{
    *(int *)arg = GOOD;
    return NULL;
}

/* What serving does all day. */
static int serve(void)
{
    char path[] = "/tmp/weir-harden-XXXXXX", byte;
    int in_thread = 0, one = 1, fd = mkstemp(path), listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t id;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct addrinfo *found = NULL;
    EXPECT(fd >= 0 && write(fd, "x", 1) == 1 && fdatasync(fd) == 0 && pread(fd, &byte, 1, 0) == 1 && unlink(path) == 0);
    EXPECT(listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0);
    EXPECT(bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 1) == 0);
    EXPECT(pthread_create(&id, NULL, thread, &in_thread) == 0 && pthread_join(id, NULL) == 0 && in_thread == GOOD);
    EXPECT(pthread_setname_np(pthread_self(), "weir-test") == 0);
    EXPECT(getaddrinfo("localhost", "80", NULL, &found) == 0);
    freeaddrinfo(found);
    void *large = malloc(4 << 20);
    EXPECT(large != NULL);
    free(large);
    return GOOD;
}

static void test_serving_goes_on(void **state)
{
    static char log[LOG_BYTES];
    in_child(serve, log);
    assert_string_equal(log, ""); /* nothing was refused */
}

#define REFUSED(call) ((errno = 0, (long)(call) == -1) && errno == EPERM)

static int misbehave(void)
{
    static char *const arguments[] = { (char *)"/bin/true", NULL };
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(page != MAP_FAILED);
    EXPECT(REFUSED(execve("/bin/true", arguments, NULL)));
    EXPECT(REFUSED(syscall(SYS_execveat, -1, "/bin/true", arguments, NULL, 0)));
    EXPECT(REFUSED(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))); /* what fork() does */
    EXPECT(REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL)));
    EXPECT(REFUSED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0)));
    EXPECT(REFUSED(kill(getppid(), 0)));
    EXPECT(REFUSED(syscall(SYS_tgkill, getppid(), getppid(), 0)));
    EXPECT(REFUSED(socket(AF_PACKET, SOCK_RAW, 0)));
    EXPECT(REFUSED(mprotect(page, 4096, PROT_READ | PROT_EXEC)));
    EXPECT(REFUSED(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    EXPECT(REFUSED(syscall(SYS_setuid, 0)));
    EXPECT(REFUSED(chroot("/")));
    EXPECT(REFUSED(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL)));
    EXPECT(REFUSED(unshare(CLONE_NEWNS)));
    EXPECT(REFUSED(syscall(SYS_bpf, 0, NULL, 0)));
    EXPECT(REFUSED(prctl(PR_SET_DUMPABLE, 1)));
    EXPECT(REFUSED(syscall(SYS_memfd_create, "x", 0)));
    EXPECT(REFUSED(symlink("/etc/passwd", "/tmp/weir-harden-link")));
    return GOOD;
}

static void test_what_serving_has_no_use_for_is_refused_and_logged(void **state)
{
    static const char *const calls[] = { "execve", "execveat", "clone",    "ptrace", "process_vm_readv", "kill",
                                         "tgkill", "socket",   "mprotect", "mmap",   "setuid",           "chroot",
                                         "mount",  "unshare",  "bpf",      "prctl" };
    static char log[LOG_BYTES];
    in_child(misbehave, log);
    for (size_t i = 0; i < COUNT(calls); i++) {
        char part[64];
        snprintf(part, sizeof part, "\"harden.refused\",\"call\":\"%s\"", calls[i]);
        if (strstr(log, part) == NULL)
            fail_msg("%s is not in %s", part, log);
    }
}

static int insist(void)
{
    for (int i = 0; i < 1000; i++)
        EXPECT(REFUSED(chroot("/")));
    return GOOD;
}

static void test_one_call_is_logged_once(void **state)
{
    static char log[LOG_BYTES];
    in_child(insist, log);
    const char *first = strstr(log, "harden.refused");
    assert_non_null(first);
    assert_null(strstr(first + 1, "harden.refused"));
}

/* A libc that knows more calls than this program's list must fall back, not fail. */
static int outgrow(void)
{
    errno = 0;
    EXPECT(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
    errno = 0;
    EXPECT(syscall(511, 0) == -1 && errno == ENOSYS);
    return GOOD;
}

static void test_calls_of_a_newer_libc_look_absent(void **state)
{
    static char log[LOG_BYTES];
    in_child(outgrow, log);
    assert_null(strstr(log, "clone3"));
    assert_non_null(strstr(log, "\"call\":\"unknown\",\"number\":511"));
}

/* A signal that somebody sends is no refusal. */
static int get_signal(void)
{
    EXPECT(raise(SIGSYS) == 0);
    return GOOD;
}

static void test_the_signal_sent_by_hand_is_nothing(void **state)
{
    static char log[LOG_BYTES];
    in_child(get_signal, log);
    assert_string_equal(log, "");
}

static int give_up_rights(void)
{
    struct rlimit files;
    harden_process();
    mode_t mask = umask(0);
    EXPECT(mask == 077 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    EXPECT(getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur == files.rlim_max);
    EXPECT(harden_calls_barred() != NULL || prctl(PR_GET_DUMPABLE) == 0);
    return GOOD;
}

static void test_rights_are_given_up(void **state)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(give_up_rights());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == GOOD);
    assert_true(harden_files() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serving_goes_on),
        cmocka_unit_test(test_what_serving_has_no_use_for_is_refused_and_logged),
        cmocka_unit_test(test_one_call_is_logged_once),
        cmocka_unit_test(test_calls_of_a_newer_libc_look_absent),
        cmocka_unit_test(test_the_signal_sent_by_hand_is_nothing),
        cmocka_unit_test(test_rights_are_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
