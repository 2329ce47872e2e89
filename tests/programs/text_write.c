/* C30: writing to one's own text segment is SIGSEGV, until mprotect allows it. `text_write die` dies of it. */
#include "check.h"
#include <setjmp.h>

static sigjmp_buf env;
static siginfo_t info;

static void on_segv(int signo, siginfo_t *si, void *context)
{
    info = *si;
    siglongjmp(env, 1);
}

__attribute__((noipa)) static int answer(void)
{
    return 42;
}

int main(int argc, char **argv)
{
    volatile unsigned char *code = (unsigned char *)answer;
    if (argc > 1) {
        *code = 0x90;
        return 0;
    }
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    int faulted = sigsetjmp(env, 1);
    if (!faulted)
        *code = *code;
    CHECK("a write to text faults", faulted == 1);
    CHECK("with SEGV_ACCERR", info.si_code == SEGV_ACCERR);
    CHECK("at the address written to", info.si_addr == (void *)code);
    CHECK("the code is as it was", answer() == 42);
    void *page = (void *)((unsigned long)code & ~4095UL);
    CHECK("mprotect", mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    for (int i = 0; i < 16; i++)
        if (code[i] == 0xb8 && code[i + 1] == 42) {
            code[i + 1] = 43;
            break;
        }
    CHECK("then the new code runs", ((int (*volatile)(void))answer)() == 43);
    DONE();
}
