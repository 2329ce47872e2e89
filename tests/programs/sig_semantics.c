/* Signal delivery: queueing, order, masks, handler flags, restart, waiting, alternate stack, FPU state. */
#include "check.h"
#include <pthread.h>

static volatile sig_atomic_t count, order[16], values[16];

static void note(int signo, siginfo_t *si, void *context)
{
    order[count] = signo;
    values[count] = si->si_value.sival_int;
    count++;
}

static void install(int signo, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(signo, &sa, NULL);
}

static volatile int depth, deepest; /* raise() is `leaf` to gcc */
static void nested(int signo, siginfo_t *si, void *context)
{
    if (++depth > deepest)
        deepest = depth;
    if (++count < 3)
        raise(signo);
    depth--;
}

static char alternate[65536];
static volatile int on_alternate;
static void where(int signo, siginfo_t *si, void *context)
{
    char local;
    on_alternate = &local > alternate && &local < alternate + sizeof alternate;
}

static void clobber_sse(int signo, siginfo_t *si, void *context)
{
    __asm__ volatile("pxor %%xmm7, %%xmm7; fninit; fldz" ::: "xmm7");
}

static void *poke(void *main_thread)
{
    sleep_ms(30);
    pthread_kill(*(pthread_t *)main_thread, SIGUSR1);
    sleep_ms(30);
    (void)!write(order[15], "x", 1);
    return NULL;
}

static ssize_t read_while_signalled(int flags)
{
    int p[2];
    char c;
    pthread_t self = pthread_self(), helper;
    (void)!pipe(p);
    order[15] = p[1];
    install(SIGUSR1, note, flags);
    count = 0;
    pthread_create(&helper, NULL, poke, &self);
    errno = 0;
    ssize_t n = read(p[0], &c, 1);
    int saved = errno;
    pthread_join(helper, NULL);
    close(p[0]);
    close(p[1]);
    errno = saved;
    return n;
}

int main(void)
{
    sigset_t set, old;
    int rt = SIGRTMIN + 1;
    sigemptyset(&set);
    sigaddset(&set, rt);
    sigaddset(&set, rt + 1);
    sigaddset(&set, SIGUSR1);
    install(rt, note, 0);
    install(rt + 1, note, 0);
    install(SIGUSR1, note, 0);
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int i = 0; i < 3; i++) {
        sigqueue(getpid(), rt + 1, (union sigval){.sival_int = 10 + i});
        sigqueue(getpid(), rt, (union sigval){.sival_int = i});
        kill(getpid(), SIGUSR1);
    }
    sigset_t pending;
    sigpending(&pending);
    CHECK("blocked signals stay pending", count == 0 && sigismember(&pending, rt));
    sigprocmask(SIG_SETMASK, &old, NULL);
    int usr1 = 0, low = 0, fifo = 1, last = -1;
    for (int i = 0; i < count; i++) {
        usr1 += order[i] == SIGUSR1;
        low += order[i] == rt;
        if (order[i] == rt) {
            fifo &= values[i] == last + 1;
            last = values[i];
        }
    }
    CHECK("a standard signal is merged, real-time ones are queued", usr1 == 1 && low == 3 && count == 7);
    CHECK("real-time signals arrive in the order sent", fifo);

    count = 0;
    install(SIGUSR2, nested, 0);
    raise(SIGUSR2);
    CHECK("a signal is blocked in its own handler", deepest == 1);
    count = depth = deepest = 0;
    install(SIGUSR2, nested, SA_NODEFER);
    raise(SIGUSR2);
    CHECK("unless SA_NODEFER", deepest == 3);
    install(SIGUSR2, note, SA_RESETHAND);
    raise(SIGUSR2);
    struct sigaction now;
    sigaction(SIGUSR2, NULL, &now);
    CHECK("SA_RESETHAND", now.sa_handler == SIG_DFL);

    stack_t ss = {.ss_sp = alternate, .ss_size = sizeof alternate}, seen;
    CHECK("sigaltstack", sigaltstack(&ss, NULL) == 0 && sigaltstack(NULL, &seen) == 0 && seen.ss_sp == alternate);
    install(SIGUSR2, where, SA_ONSTACK);
    raise(SIGUSR2);
    CHECK("the handler runs on it", on_alternate);

    CHECK("SA_RESTART restarts read", read_while_signalled(SA_RESTART) == 1 && count == 1);
    CHECK("without it read fails with EINTR", FAILS(read_while_signalled(0), EINTR));

    double kept = 1.5;
    unsigned long long in = 0x1122334455667788ULL, out;
    install(SIGUSR2, clobber_sse, 0);
    __asm__ volatile("fldl %2; movq %1, %%xmm7; mov %3, %%rdi; mov %4, %%rsi; mov %5, %%eax; syscall;"
                     "movq %%xmm7, %0; fstpl %2"
                     : "=r"(out), "+r"(in), "+m"(kept)
                     : "r"((long)getpid()), "r"((long)SIGUSR2), "i"(SYS_kill)
                     : "rax", "rcx", "r11", "rdi", "rsi", "xmm7", "memory");
    CHECK("SSE registers survive a handler", out == in);
    CHECK("so does the x87 stack", kept == 1.5);

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    siginfo_t si;
    struct timespec ts = {0, 10000000};
    CHECK("sigtimedwait takes a pending signal", sigtimedwait(&set, &si, &ts) == SIGUSR1);
    CHECK("from this process", si.si_pid == getpid() && si.si_code == SI_USER /* glibc hides SI_TKILL */);
    CHECK("then times out", FAILS(sigtimedwait(&set, &si, &ts), EAGAIN));
    count = 0;
    install(SIGUSR1, note, 0);
    raise(SIGUSR1);
    sigset_t none;
    sigemptyset(&none);
    CHECK("sigsuspend returns EINTR after the handler", FAILS(sigsuspend(&none), EINTR) && count == 1);
    sigprocmask(SIG_BLOCK, NULL, &pending);
    CHECK("and restores the mask", sigismember(&pending, SIGUSR1));
    CHECK("SIGKILL cannot be caught", FAILS(sigaction(SIGKILL, &now, NULL), EINVAL));
    CHECK("kill of a process that is not there", FAILS(kill(0x7ffffff0, 0), ESRCH));
    DONE();
}
