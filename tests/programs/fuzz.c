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
    if (rnd() % 12 == 0)
        nr = 424 + rnd() % 18;
    else if (rnd() % 8 == 0) /* more of those that everything else builds on */
        nr = (const short[]){SYS_mmap, SYS_openat, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_pipe2, SYS_dup3, SYS_madvise}[rnd() % 8];
    for (int i = 0; i < 6; i++)
        a[i] = argument();
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
