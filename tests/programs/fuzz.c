/* Random system calls with random arguments. The same seed makes the same calls: fuzz SEED CALLS [verbose].
 *
 * Processes of 100 calls each; a watchdog ends one that sleeps. Whatever a call does to its own process is fine. */
#include "check.h"
#include <sched.h>
#include <sys/prctl.h>
#include <sys/time.h>

static unsigned long long state;
static unsigned long rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545F4914F6CDD1DULL >> 16;
}

static char scratch[16 * 4096] __attribute__((aligned(4096)));
static char *region;
static const char *const paths[] = {
    "/tmp/fuzz", "/tmp/fuzz/a", "/tmp/fuzz/b", "/tmp/fuzz/d/c", ".", "..", "", "a", "/proc/self/status", "/proc/self/mem",
    "/proc/self/maps", "/proc/self/fd/0", "/dev/null", "/dev/zero", "/dev/ptmx", "/dev/tty", "/proc/sys/kernel/hostname",
    "/sys/devices/system/cpu/online", "/bin/true", "/nosuch/x", "/tmp/fuzz/link", "/proc/self/cmdline", "/etc/passwd",
    "/tmp/fuzz/fifo", "/dev/full", "/dev/urandom", "/proc/meminfo", "/proc/stat", "/dev/shm/z",
};

static unsigned long argument(void)
{
    switch (rnd() % 14) {
    case 0: return 0;
    case 1: return rnd() % 20;
    case 2: return rnd() % 20;
    case 3: return -(rnd() % 5000);
    case 4: return 1UL << rnd() % 64;
    case 5: return (1UL << rnd() % 24) | (1UL << rnd() % 24);
    case 6: return (unsigned long)scratch + rnd() % sizeof scratch;
    case 7: return (unsigned long)scratch + rnd() % 16 * 4096;
    case 8: return (unsigned long)region + rnd() % 32 * 4096;
    case 9:
    case 10: return (unsigned long)paths[rnd() % (sizeof paths / sizeof *paths)];
    case 11: return rnd() % 64 * 4096;
    case 12: return rnd();
    default: return rnd() % 3 ? (unsigned long)getpid() : (unsigned long)-100; /* AT_FDCWD */
    }
}

/* What the arguments of a call mean: f descriptor, p path, b buffer, n size, o offset, x flags, i small number, s signal,
 * t process, a page address, l length in pages, d AT_FDCWD or descriptor. Anything else is random, and so is one in five. */
static const struct { short nr; const char *args; } signatures[] = {
    {SYS_read, "fbn"}, {SYS_write, "fbn"}, {SYS_open, "pxi"}, {SYS_close, "f"}, {SYS_stat, "pb"}, {SYS_fstat, "fb"},
    {SYS_lstat, "pb"}, {SYS_poll, "bii"}, {SYS_lseek, "foi"}, {SYS_mmap, "alixfo"}, {SYS_mprotect, "ali"},
    {SYS_munmap, "al"}, {SYS_brk, "a"}, {SYS_rt_sigaction, "sbbn"}, {SYS_rt_sigprocmask, "ibbi"}, {SYS_ioctl, "fib"},
    {SYS_pread64, "fbno"}, {SYS_pwrite64, "fbno"}, {SYS_readv, "fbi"}, {SYS_writev, "fbi"}, {SYS_access, "pi"},
    {SYS_pipe, "b"}, {SYS_select, "ibbbb"}, {SYS_mremap, "allxa"}, {SYS_msync, "ali"}, {SYS_mincore, "alb"},
    {SYS_madvise, "ali"}, {SYS_dup, "f"}, {SYS_dup2, "ff"}, {SYS_nanosleep, "bb"}, {SYS_getitimer, "ib"},
    {SYS_alarm, "i"}, {SYS_setitimer, "ibb"}, {SYS_sendfile, "ffbn"}, {SYS_wait4, "tbib"}, {SYS_fcntl, "fii"},
    {SYS_flock, "fi"}, {SYS_fsync, "f"}, {SYS_truncate, "po"}, {SYS_ftruncate, "fo"}, {SYS_getdents64, "fbn"},
    {SYS_getcwd, "bn"}, {SYS_chdir, "p"}, {SYS_fchdir, "f"}, {SYS_rename, "pp"}, {SYS_mkdir, "pi"}, {SYS_rmdir, "p"},
    {SYS_creat, "pi"}, {SYS_link, "pp"}, {SYS_unlink, "p"}, {SYS_symlink, "pp"}, {SYS_readlink, "pbn"}, {SYS_chmod, "pi"},
    {SYS_fchmod, "fi"}, {SYS_chown, "pii"}, {SYS_umask, "i"}, {SYS_getrlimit, "ib"}, {SYS_getrusage, "ib"},
    {SYS_sysinfo, "b"}, {SYS_times, "b"}, {SYS_setpgid, "tt"}, {SYS_getpgid, "t"}, {SYS_getsid, "t"},
    {SYS_rt_sigpending, "bi"}, {SYS_rt_sigtimedwait, "bbbi"}, {SYS_sigaltstack, "bb"}, {SYS_utime, "pb"},
    {SYS_mknod, "pii"}, {SYS_personality, "i"}, {SYS_statfs, "pb"}, {SYS_getpriority, "it"}, {SYS_setpriority, "iti"},
    {SYS_sched_setparam, "tb"}, {SYS_sched_setscheduler, "tib"}, {SYS_mlock, "al"}, {SYS_munlock, "al"},
    {SYS_prctl, "ibiii"}, {SYS_chroot, "p"}, {SYS_mount, "ppbxb"}, {SYS_umount2, "pi"}, {SYS_setxattr, "ppbnx"},
    {SYS_getxattr, "ppbn"}, {SYS_futex, "biibbi"}, {SYS_sched_setaffinity, "tib"}, {SYS_sched_getaffinity, "tib"},
    {SYS_epoll_create, "i"}, {SYS_epoll_ctl, "fifb"}, {SYS_epoll_wait, "fbii"}, {SYS_timer_create, "ibb"},
    {SYS_timer_settime, "iibb"}, {SYS_clock_gettime, "ib"}, {SYS_clock_nanosleep, "iibb"}, {SYS_utimes, "pb"},
    {SYS_waitid, "itbib"}, {SYS_inotify_add_watch, "fpx"}, {SYS_openat, "dpxi"}, {SYS_mkdirat, "dpi"},
    {SYS_mknodat, "dpii"}, {SYS_newfstatat, "dpbx"}, {SYS_unlinkat, "dpi"}, {SYS_renameat2, "dpdpi"},
    {SYS_linkat, "dpdpx"}, {SYS_symlinkat, "pdp"}, {SYS_readlinkat, "dpbn"}, {SYS_fchmodat, "dpi"},
    {SYS_faccessat, "dpi"}, {SYS_pselect6, "ibbbbb"}, {SYS_ppoll, "bibbi"}, {SYS_unshare, "x"}, {SYS_splice, "fbfbni"},
    {SYS_tee, "ffni"}, {SYS_vmsplice, "fbii"}, {SYS_utimensat, "dpbx"}, {SYS_epoll_pwait, "fbiibi"}, {SYS_signalfd4, "fbix"},
    {SYS_timerfd_create, "ix"}, {SYS_eventfd2, "ix"}, {SYS_fallocate, "fioo"}, {SYS_timerfd_settime, "fibb"},
    {SYS_epoll_create1, "x"}, {SYS_dup3, "ffx"}, {SYS_pipe2, "bx"}, {SYS_inotify_init1, "x"}, {SYS_preadv, "fbioi"},
    {SYS_pwritev, "fbioi"}, {SYS_prlimit64, "tibb"}, {SYS_getcpu, "bbb"}, {SYS_memfd_create, "px"},
    {SYS_execveat, "dpbbx"}, {SYS_copy_file_range, "fbfbni"}, {SYS_statx, "dpxib"}, {SYS_pidfd_open, "ti"},
    {SYS_pidfd_send_signal, "fsbi"}, {SYS_close_range, "ffi"}, {SYS_openat2, "dpbn"}, {SYS_faccessat2, "dpix"},
    {SYS_getrandom, "bni"}, {SYS_rseq, "biii"}, {SYS_set_robust_list, "bn"}, {SYS_process_vm_readv, "tbibii"},
    {SYS_capget, "bb"}, {SYS_sched_setattr, "tbi"}, {SYS_sched_getattr, "tbni"}, {SYS_membarrier, "ii"},
};
enum { SIGNATURES = sizeof signatures / sizeof *signatures };

static unsigned long typed(char kind)
{
    switch (rnd() % 5 ? kind : '?') {
    case 'f': return rnd() % 12;
    case 'd': return rnd() % 3 ? (unsigned long)-100 : rnd() % 12;
    case 'p': return (unsigned long)paths[rnd() % (sizeof paths / sizeof *paths)];
    case 'b': return (unsigned long)scratch + rnd() % (sizeof scratch / 8) * 8;
    case 'n': return rnd() % 3 ? rnd() % 200 : rnd() % 20000;
    case 'o': return rnd() % 3 ? rnd() % 10000 : rnd() % (1 << 22);
    case 'x': return rnd() % 2 ? 0 : (1UL << rnd() % 24) | (rnd() % 2 ? 0 : 1UL << rnd() % 24);
    case 'i': return rnd() % 16;
    case 's': return rnd() % 66;
    case 't': return rnd() % 2 ? 0 : (unsigned long)getpid();
    case 'a': return (unsigned long)region + rnd() % 32 * 4096;
    case 'l': return rnd() % 12 * 4096;
    default: return argument();
    }
}

static unsigned char *unknown; /* numbers that answered ENOSYS, shared by all */

static void fill(void) /* structures that may mean something */
{
    unsigned long *words = (unsigned long *)(scratch + rnd() % 16 * 4096);
    for (int i = 0; i < 512; i++)
        words[i] = rnd() % 3 ? 0 : argument();
}

static void one_call(int verbose)
{
    long nr = rnd() % 336;
    unsigned long a[6];
    const char *kinds = "";
    if (rnd() % 4) {
        int which = rnd() % SIGNATURES;
        nr = signatures[which].nr;
        kinds = signatures[which].args;
    } else if (rnd() % 8 == 0) {
        nr = 424 + rnd() % 18;
    }
    if (unknown[nr])
        return;
    for (int i = 0; i < 6; i++)
        a[i] = *kinds ? typed(*kinds++) : argument();
    switch (nr) {
    case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_vfork: case SYS_rt_sigreturn: case SYS_reboot:
    case SYS_ptrace: case SYS_rt_sigsuspend: case SYS_clone3: /* see wild_pointers.c */
        return;
    case SYS_kill: /* only itself */
        a[0] = rnd() % 2 ? getpid() : 0;
        break;
    case SYS_tkill:
        a[0] = gettid();
        break;
    case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
        a[0] = a[1] = getpid();
        break;
    case SYS_clone: /* its own memory, no stack: like fork */
        a[0] &= ~(CLONE_VM | CLONE_THREAD | CLONE_VFORK | CLONE_SETTLS | CLONE_UNTRACED);
        a[1] = 0;
        break;
    case SYS_mmap: /* not over this program */
        a[3] &= ~(unsigned long)MAP_FIXED;
        break;
    }
    if (verbose)
        dprintf(verbose, "%d: %ld(%#lx, %#lx, %#lx, %#lx, %#lx, %#lx)\n", getpid(), nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    long result = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result == -1 && errno == ENOSYS)
        unknown[nr] = 1;
    if (verbose)
        dprintf(verbose, "%d:   = %ld %s\n", getpid(), result, result == -1 ? strerror(errno) : "");
    if ((nr == SYS_fork || nr == SYS_clone) && result == 0)
        _exit(0);
}

static void on_alarm(int signo)
{
}

static void a_hundred_calls(int verbose)
{
    struct itimerval every = {{0, 20000}, {0, 20000}};
    setsid();
    unshare(CLONE_NEWNS);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mkdir("/tmp/fuzz", 0777);
    (void)!chdir("/tmp/fuzz");
    dup2(open("a", O_RDWR | O_CREAT, 0666), 0);
    dup2(open("b", O_RDWR | O_CREAT, 0666), 1);
    dup2(open("/dev/null", O_RDWR), 2);
    int p[2];
    (void)!pipe(p);
    region = mmap(NULL, 32 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i < 64; i++)
        signal(i, i == SIGALRM || i % 3 == 0 ? SIG_IGN : SIG_DFL);
    struct sigaction wake = {.sa_handler = on_alarm}; /* without SA_RESTART: interrupts what sleeps */
    sigaction(SIGALRM, &wake, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < 100; i++) {
        if (rnd() % 8 == 0)
            fill();
        one_call(verbose);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    state = strtoull(argv[1], NULL, 0) * 0x9E3779B97F4A7C15ULL + 88172645463325252ULL;
    long calls = strtol(argv[2], NULL, 0);
    int verbose = argc > 3 ? 100 : 0;
    if (verbose)
        dup2(2, verbose), fcntl(verbose, F_SETFD, FD_CLOEXEC);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct rlimit none = {0, 0}, some = {1 << 20, 1 << 20}, files = {64, 256}, memory = {1 << 28, 1 << 28}, procs = {200, 200};
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_FSIZE, &some);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_AS, &memory);
    setrlimit(RLIMIT_NPROC, &procs);
    unknown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (long done = 0; done < calls; done += 100) {
        state += 0x9E3779B97F4A7C15ULL;
        rnd();
        pid_t pid = fork();
        if (pid == 0) {
            sigprocmask(SIG_UNBLOCK, &set, NULL);
            a_hundred_calls(verbose);
        }
        int status = -1;
        struct timespec patience = {30, 0};
        while (waitpid(pid, &status, WNOHANG) == 0)
            if (sigtimedwait(&set, NULL, &patience) < 0)
                kill(pid, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) /* adopted ones */
            ;
    }
    printf("alive\n");
    return 0;
}
