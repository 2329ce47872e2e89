/* ptrace(2) with arguments and registers out of a hat: whatever the tracee then does, only it may suffer. */
#include "tracer.h"

static unsigned long long state = 12345;
static char *scratch;                                   /* all that may be written to */
static unsigned long hat(void)
{
    static const unsigned long special[] = {0, 1, 8, 0x7ff, ~0UL, 1UL << 63, 1UL << 47, (1UL << 47) - 1, 0xffffffff,
                                            0xffffffff80000000UL, 0x8000000000000UL, 216, 848, 904};
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    unsigned long value = state >> 20;
    switch (state >> 60 & 3) {
    case 0: return special[value % (sizeof special / sizeof *special)];
    case 1: return value & 0xff;
    case 2: return (unsigned long)scratch + (value & 0xffff);
    default: return value << (state >> 56 & 31);
    }
}

static int __attribute__((noreturn)) runs(void)
{
    close(2);
    for (volatile long i = 0;; i++)
        if (i % 64 == 0)
            getppid();
}

static pid_t fresh(void)
{
    pid_t pid = tracee(runs);
    xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL);
    return pid;
}

static void end(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
        xptrace(PT_CONT, pid, 0, 0);                    /* PTRACE_EVENT_EXIT */
}

int main(void)
{
    static const long requests[] = {1, 2, 3, 4, 5, 6, 12, 13, 14, 15, 25, 26, 30, 31, 32, 33, 21, 0x4200, 0x4201, 0x4202,
                                    0x4203, 0x4204, 0x4205, 0x4206, 0x4207, 0x4208, 0x4209, 0x420a, 0x420b, 0x420c, 0x420e};
    int ended = 0, status;
    scratch = mmap(NULL, 0x20000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 60; round++) {          /* registers */
        struct user_regs_struct regs;
        pid_t pid = fresh();
        xptrace(PTRACE_GETREGS, pid, 0, (long)&regs);
        for (unsigned long i = 0; i < sizeof regs / 8; i++)
            if (hat() % 4 == 0)
                xptrace(POKEUSER, pid, i * 8, hat());
        if (hat() & 1)
            xptrace(POKEUSER, pid, USER(rip), hat());
        for (int i = 0; i < 5; i++) {
            if (xptrace(hat() & 1 ? PT_SINGLESTEP : PT_SYSCALL, pid, 0, 0) < 0)
                break;
            sleep_ms(1);
            if (waitpid(pid, &status, WNOHANG | __WALL) != pid || !WIFSTOPPED(status))
                break;
        }
        end(pid);
        ended++;
    }
    CHECK("every tracee ends", ended == 60);
    pid_t pid = fresh();
    int answered = 0;
    for (int i = 0; i < 3000; i++) {                    /* requests */
        long request = requests[hat() % (sizeof requests / sizeof *requests)];
        long answer = xptrace(request, pid, hat(), hat() & 1 ? (unsigned long)scratch + hat() % 0x10000 : hat());
        answered += answer == 0 || errno != ENOSYS;
        if (request >= 31 && request <= 33 && answer == 0) {
            sleep_ms(1);
            if (waitpid(pid, &status, WNOHANG | __WALL) == pid && WIFSTOPPED(status))
                continue;
        }
        if (answer < 0 && errno == ESRCH) {
            end(pid);
            pid = fresh();
        }
    }
    CHECK("every request is answered", answered == 3000);
    end(pid);
    CHECK("nobody is left", FAILS(waitpid(-1, &status, __WALL | WNOHANG), ECHILD));
    DONE();
}
