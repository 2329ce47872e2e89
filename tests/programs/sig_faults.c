/* What the CPU's exceptions become: signal, si_code and si_addr. */
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>

static sigjmp_buf env;
static siginfo_t info;
static volatile int got;

static void handler(int signo, siginfo_t *si, void *context)
{
    info = *si;
    got = signo;
    siglongjmp(env, 1);
}

#define FAULT(statement) \
    do { \
        got = 0; \
        if (!sigsetjmp(env, 1)) { \
            statement; \
        } \
    } while (0)

static volatile int traps;

static void on_trap(int signo, siginfo_t *si, void *context)
{
    info = *si;
    traps++;
}

int main(void)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < 4; i++)
        sigaction(signals[i], &sa, NULL);

    FAULT(*(volatile int *)0x10 = 1);
    CHECK("a null pointer is SIGSEGV", got == SIGSEGV && info.si_code == SEGV_MAPERR);
    CHECK("with its address", info.si_addr == (void *)0x10);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAULT(*(volatile char *)(page + 5) = 1);
    CHECK("a write to read-only memory is SEGV_ACCERR", got == SIGSEGV && info.si_code == SEGV_ACCERR);
    CHECK("with its address", info.si_addr == page + 5);
    FAULT(((void (*)(void))page)());
    CHECK("running data is SEGV_ACCERR", got == SIGSEGV && info.si_code == SEGV_ACCERR);
    munmap(page, 4096);
    FAULT((void)*(volatile char *)page);
    CHECK("after munmap it is SEGV_MAPERR", got == SIGSEGV && info.si_code == SEGV_MAPERR);
    FAULT((void)*(volatile char *)0x8000000000000000UL);
    CHECK("a non-canonical address is SI_KERNEL, address 0",
          got == SIGSEGV && info.si_code == SI_KERNEL && info.si_addr == NULL);
    FAULT(__asm__ volatile("hlt"));
    CHECK("a privileged instruction is SIGSEGV", got == SIGSEGV && info.si_code == SI_KERNEL);

    FAULT(__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax; div %%ecx" ::: "eax", "ecx",
                           "edx"));
    CHECK("division by zero is FPE_INTDIV", got == SIGFPE && info.si_code == FPE_INTDIV);
    FAULT(__asm__ volatile("ud2"));
    CHECK("ud2 is ILL_ILLOPN", got == SIGILL && info.si_code == ILL_ILLOPN);

    int fd = memfd_create("short", 0);
    (void)!ftruncate(fd, 100);
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK("behind the end of a file, but in its last page, reads 0", map[4095] == 0);
    FAULT((void)*(volatile char *)(map + 4096));
    CHECK("past its last page is BUS_ADRERR", got == SIGBUS && info.si_code == BUS_ADRERR);
    CHECK("with its address", info.si_addr == map + 4096);

    sa.sa_sigaction = on_trap;
    sigaction(SIGTRAP, &sa, NULL);
    __asm__ volatile("int3");
    CHECK("int3 is SIGTRAP, and the program goes on", traps == 1);
    CHECK("with SI_KERNEL", info.si_code == SI_KERNEL);
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop; pushf; andl $~0x100, (%%rsp); popf" ::: "cc",
                     "memory");
    CHECK("the trap flag is TRAP_TRACE", traps > 1 && info.si_code == TRAP_TRACE);
    DONE();
}
