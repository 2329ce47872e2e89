/* Every system call with pointers that point nowhere, each number in a process of its own. An error, success or a
 * signal to that process are all fine; the kernel has to live. Prints how each number's process ended, then "alive". */
#include "check.h"
#include <sys/time.h>

/* Left out, and why. */
static const struct { int nr; const char *reason; } skip[] = {
    {SYS_clone, "returns twice: the child would go on here"},
    {SYS_fork, "returns twice"},
    {SYS_vfork, "returns twice, on the same stack"},
    {SYS_exit, "ends the process that looks"},
    {SYS_exit_group, "ends the process that looks"},
    {SYS_kill, "kill(-1, n) would hit the tester"},
    {SYS_pause, "has no arguments and waits"},
};

static char page[4096] __attribute__((aligned(4096)));

static void try_number(int nr)
{
    int p[2];
    struct itimerval every = {{0, 50000}, {0, 50000}};
    setsid();
    signal(SIGALRM, SIG_DFL);
    (void)!pipe(p);
    dup2(open("/dev/zero", O_RDONLY), 0);
    dup2(open("/tmp/wild", O_RDWR | O_CREAT, 0600), 1);
    dup2(p[1], 2);
    syscall(SYS_setitimer, 0, &every, NULL);
    mprotect(page, sizeof page, PROT_READ);
    const unsigned long wild[] = {
        0, 1, 0x1234, (unsigned long)page, (unsigned long)page + 4090, (unsigned long)try_number,
        0x7ffffffff000, 0x7fffffffffff, 0x800000000000, 0xffff888000000000, 0xffffffff81000000, 0xdeadbeef00000000,
        0x8000000000000000, -4096UL, -8UL, -1UL,
    };
    enum { N = sizeof wild / sizeof *wild };
    for (int i = 0; i < N; i++) /* all alike */
        syscall(nr, wild[i], wild[i], wild[i], wild[i], wild[i], wild[i]);
    for (int arg = 0; arg < 6; arg++) /* one wild among small numbers */
        for (int i = 0; i < N; i++) {
            unsigned long a[6] = {1, 1, 8, 8, 8, 8};
            a[arg] = wild[i];
            syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
    for (int i = 0; i < N; i++) /* a descriptor, then wild ones */
        syscall(nr, i % 4, wild[i], wild[(i + 3) % N], wild[(i + 5) % N], wild[(i + 7) % N], wild[(i + 11) % N]);
}

int main(int argc, char **argv)
{
    int from = argc > 1 ? atoi(argv[1]) : 0, to = argc > 2 ? atoi(argv[2]) : 450;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct rlimit none = {0, 0}, some = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_FSIZE, &some);
    for (int nr = from; nr <= to; nr++) {
        const char *reason = NULL;
        for (unsigned i = 0; i < sizeof skip / sizeof *skip; i++)
            if (skip[i].nr == nr)
                reason = skip[i].reason;
        if (reason) {
            printf("%d skipped: %s\n", nr, reason);
            continue;
        }
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            sigprocmask(SIG_UNBLOCK, &set, NULL);
            try_number(nr);
            _exit(0);
        }
        struct timespec patience = {20, 0};
        while (waitpid(pid, &status, WNOHANG) == 0 || WIFSTOPPED(status))
            if (WIFSTOPPED(status) || sigtimedwait(&set, NULL, &patience) < 0) {
                kill(pid, SIGKILL);
                status = -1;
            }
        printf("%d ended with %#x\n", nr, status);
        fflush(stdout);
    }
    printf("alive\n");
    return 0;
}
