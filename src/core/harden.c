/* harden.c - see harden.h.
 *
 * The list of calls is what the whole API suite was seen to use (strace -f), what name resolution and TLS of outgoing calls add, and the other spellings of
 * both that another libc or architecture uses. A refused call fails with EPERM and does not end the process: what an intruder wants does not happen
 * either way, and a library that has learnt a new call must not take every workflow down. A call unknown to libseccomp gets ENOSYS, which is
 * what makes a newer libc fall back. */
#include "core/harden.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#if defined(__x86_64__) || defined(__aarch64__)
#define REFUSE SCMP_ACT_TRAP
#else
#define REFUSE SCMP_ACT_ERRNO(EPERM) /* answer() does not know the registers: refused all the same, but not logged */
#endif

enum {
    BY_FILTER = 1 /* SYS_SECCOMP, which glibc does not show */,
    CALLS = 512
}; /* system calls that a name is kept for */

/* What the signal handler reads; written once, before the filter stands. */
static struct {
    char *names[CALLS];
    atomic_bool told[CALLS];
} refusals;

/* ---- every verb */

void harden_process(void)
{
    struct rlimit files, none = { 0, 0 };
    umask(077);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (SANITIZED) /* the leak checker needs to look at the process */
        return;
    setrlimit(RLIMIT_CORE, &none); /* a core holds every secret */
    prctl(PR_SET_DUMPABLE, 0);
}

i64 harden_files(void)
{
    struct rlimit files;
    bool bounded = getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < (rlim_t)INT64_MAX;
    return bounded ? (i64)files.rlim_max : INT64_MAX;
}

/* ---- the calls */

static const char *const allowed[] = {
    /* files: SQLite, keys, certificates, name resolution */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "lseek",
    "_llseek", "open", "openat", "close", "close_range", "fcntl", "fcntl64", "flock", "fsync", "fdatasync", "ftruncate",
    "ftruncate64", "fallocate", "stat", "lstat", "fstat", "stat64", "lstat64", "fstat64", "newfstatat", "fstatat64",
    "statx", "statfs", "fstatfs", "statfs64", "fstatfs64", "access", "faccessat", "faccessat2", "readlink",
    "readlinkat", "getcwd", "getdents", "getdents64", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename",
    "renameat", "renameat2", "fchmod", "fchown", "fchown32", "utimensat", "fadvise64", "fadvise64_64", "dup", "dup2",
    "dup3", "pipe", "pipe2",
    /* sockets; which ones stands below */
    "connect", "bind", "listen", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt",
    "shutdown", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg", "send", "recv",
    /* waiting */
    "poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "nanosleep",
    "clock_nanosleep", "clock_nanosleep_time64", "futex", "futex_time64", "restart_syscall",
    /* memory; mmap and mprotect stand below */
    "brk", "munmap", "mremap", "madvise", "msync", "mlock", "mlock2", "munlock",
    /* threads, signals, and the end */
    "set_robust_list", "get_robust_list", "rseq", "sched_yield", "sched_getaffinity", "sched_getparam",
    "sched_getscheduler", "getcpu", "setpriority", "membarrier", "gettid", "getpid", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "sigreturn", "sigaltstack", "exit", "exit_group",
    /* questions */
    "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64", "gettimeofday", "time", "times",
    "getrandom", "getrusage", "sysinfo", "uname", "getuid", "geteuid", "getgid", "getegid", "getuid32", "geteuid32",
    "getgid32", "getegid32", "getrlimit", "ugetrlimit"
};

/* Calls of which only a part is needed. The rows of one call are alternatives; `value` is what the argument must be under `mask`. */
static const struct {
    const char *name;
    unsigned argument;
    u64 mask, value;
} partly[] = {
    { "socket", 0, UINT32_MAX, AF_INET },
    { "socket", 0, UINT32_MAX, AF_INET6 },
    { "socket", 0, UINT32_MAX, AF_UNIX },    /* a resolver's daemon; also what a database may listen at */
    { "socket", 0, UINT32_MAX, AF_NETLINK }, /* getaddrinfo() asks for the addresses of the machine */
    { "socketpair", 0, UINT32_MAX, AF_UNIX },
    { "clone", 0, CLONE_THREAD, CLONE_THREAD }, /* threads, never processes */
    { "mmap", 2, PROT_EXEC, 0 },
    { "mmap", 2, PROT_WRITE, 0 }, /* a library that the resolver loads: executable, so not writable */
    { "mmap2", 2, PROT_EXEC, 0 },
    { "mmap2", 2, PROT_WRITE, 0 },
    { "mprotect", 2, PROT_EXEC, 0 }, /* what was written is never run */
    { "ioctl", 1, UINT32_MAX, FIONBIO },
    { "ioctl", 1, UINT32_MAX, FIONREAD },
    { "ioctl", 1, UINT32_MAX, FIOCLEX },
    { "ioctl", 1, UINT32_MAX, TCGETS }, /* isatty() */
    { "prctl", 0, UINT32_MAX, PR_SET_NAME },
    { "prlimit64", 2, UINT64_MAX, 0 }, /* asking */
    { "sched_setscheduler", 1, UINT32_MAX, SCHED_BATCH },
};

/* What a libc tries first and does without: answered as by an older kernel, silently. clone3 hides its flags from every filter. */
static const char *const absent[] = { "clone3", "io_uring_setup", "openat2", "futex_waitv", "fchmodat2" };

/* What the call returns, in the registers that the interrupted thread goes on with. */
static void answer(ucontext_t *at, int error)
{
#if defined(__x86_64__)
    at->uc_mcontext.gregs[REG_RAX] = -error;
#elif defined(__aarch64__)
    at->uc_mcontext.regs[0] = (unsigned long long)-error;
#endif
}

/* In the thread that called, between two of its instructions: LOG() is one write(2) from the stack. */
static void on_refusal(int number, siginfo_t *info, void *context)
{
    int call = info->si_syscall;
    bool kept = call >= 0 && call < CALLS;
    const char *name = kept && refusals.names[call] != NULL ? refusals.names[call] : "unknown";
    if (info->si_code != BY_FILTER)
        return; /* somebody sent the signal by hand */
    if (!kept || !atomic_exchange(&refusals.told[call], true))
        LOG(LOG_ERROR, "harden.refused", LOG_STR("call", str_of(name)), LOG_INT("number", call));
    answer(context, kept && refusals.names[call] != NULL ? EPERM : ENOSYS);
}

static int watch_refusals(void)
{
    struct sigaction action = { .sa_sigaction = on_refusal, .sa_flags = SA_SIGINFO | SA_RESTART };
    for (int i = 0; i < CALLS && refusals.names[i] == NULL; i++)
        refusals.names[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i); /* NULL: unknown */
    sigemptyset(&action.sa_mask);
    return sigaction(SIGSYS, &action, NULL);
}

static int add(scmp_filter_ctx ctx, u32 action, const char *name, unsigned count, const struct scmp_arg_cmp *when)
{
    int call = seccomp_syscall_resolve_name(name);
    bool here = call >= 0; /* below 0: a spelling of other architectures, or of a newer libseccomp */
    return here ? seccomp_rule_add_array(ctx, action, call, count, when) : 0;
}

static int add_all(scmp_filter_ctx ctx)
{
    int bad = 0;
    for (size_t i = 0; i < COUNT(allowed); i++)
        bad |= add(ctx, SCMP_ACT_ALLOW, allowed[i], 0, NULL);
    for (size_t i = 0; i < COUNT(partly); i++) {
        struct scmp_arg_cmp when = { partly[i].argument, SCMP_CMP_MASKED_EQ, partly[i].mask, partly[i].value };
        bad |= add(ctx, SCMP_ACT_ALLOW, partly[i].name, 1, &when);
    }
    for (size_t i = 0; i < COUNT(absent); i++)
        bad |= add(ctx, SCMP_ACT_ERRNO(ENOSYS), absent[i], 0, NULL);
    struct scmp_arg_cmp itself = { 0, SCMP_CMP_EQ, (u64)getpid(), 0 };
    return bad | add(ctx, SCMP_ACT_ALLOW, "tgkill", 1, &itself); /* abort() */
}

err harden_calls(void)
{
    scmp_filter_ctx ctx = seccomp_init(REFUSE);
    if (ctx == NULL)
        return ERR_INTERNAL;
    int bad = watch_refusals();
    bad |= seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    bad |= seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: a call costs a few comparisons, not all */
    bad |= add_all(ctx);
    bad |= bad == 0 ? seccomp_load(ctx) : 0;
    seccomp_release(ctx);
    return bad == 0 ? OK : ERR_INTERNAL;
}

bool harden_calls_known(void)
{
    return seccomp_api_get() >= 1 && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
}

const char *harden_calls_barred(void)
{
    return SANITIZED ? "a sanitizer watches this build" : NULL;
}
