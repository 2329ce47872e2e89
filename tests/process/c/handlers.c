/* sigaction(2): what a handler sees, which mask it runs with, what happens after it. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int depth, most, count;
static sigjmp_buf back;
static siginfo_t seen;
static ucontext_t context;

static void on(int sig, void *handler, int flags, int also)
{
	struct sigaction sa;
	memset(&sa, 0, sizeof sa);
	sa.sa_sigaction = handler;
	sa.sa_flags = flags;
	if (also) sigaddset(&sa.sa_mask, also);
	if (sigaction(sig, &sa, 0)) perror("sigaction");
}

static void nested(int sig)
{
	if (++depth > most) most = depth;
	if (++count < 4) raise(sig);
	depth--;
}

static void record(int sig, siginfo_t *info, void *uc) { (void)sig; seen = *info; context = *(ucontext_t *)uc; count++; }
static void leave(int sig, siginfo_t *info, void *uc) { (void)sig; (void)uc; seen = *info; siglongjmp(back, 1); }
static int blocked(int sig) { sigset_t s; sigprocmask(0, 0, &s); return sigismember(&s, sig); }
static void mask(int sig) { printf("in %d: usr1 %d usr2 %d\n", sig, blocked(SIGUSR1), blocked(SIGUSR2)); }

static void whereis(int sig, siginfo_t *info, void *uc)
{
	stack_t st;
	char here;
	(void)sig; (void)info;
	sigaltstack(0, &st);
	printf("on altstack: %d flags %d uc flags %d\n", &here >= (char *)st.ss_sp && &here < (char *)st.ss_sp + st.ss_size,
	       st.ss_flags, ((ucontext_t *)uc)->uc_stack.ss_flags);
	st.ss_flags = SS_DISABLE;
	int r = sigaltstack(&st, 0);
	printf("change in use: %d %d\n", r, r ? errno : 0);
}

static double keep(double x, volatile int *flag)
{
	/* live values in xmm registers across the handler */
	double a = x * 1.5, b = x * 2.5, c = x * 3.5, d = x * 4.5;
	raise(SIGUSR1);
	*flag = 1;
	return a + b * 10 + c * 100 + d * 1000;
}
static void spoil(int sig) { asm volatile("fninit; fldz; fldln2"); volatile double z = sig; for (int i = 0; i < 20; i++) z = z * 1.1 + i; asm volatile("std; cld; pxor %%xmm0,%%xmm0; pxor %%xmm15,%%xmm15" ::: "xmm0", "xmm15"); }

int main(void)
{
	int r;

	on(SIGUSR1, nested, 0, 0); count = depth = most = 0; raise(SIGUSR1); printf("blocked while it runs: most %d count %d\n", most, count);
	on(SIGUSR1, nested, SA_NODEFER, 0); count = depth = most = 0; raise(SIGUSR1); printf("nodefer: most %d count %d\n", most, count);
	on(SIGUSR1, mask, 0, SIGUSR2); raise(SIGUSR1);
	on(SIGUSR1, mask, SA_NODEFER, SIGUSR2); raise(SIGUSR1);
	printf("after: usr1 %d usr2 %d\n", blocked(SIGUSR1), blocked(SIGUSR2));

	on(SIGUSR1, record, SA_SIGINFO | SA_RESETHAND, 0);
	raise(SIGUSR1);
	struct sigaction now;
	sigaction(SIGUSR1, 0, &now);
	printf("resethand: %d\n", now.sa_handler == SIG_DFL);

	on(SIGUSR1, record, SA_SIGINFO, 0);
	kill(getpid(), SIGUSR1);
	printf("kill: signo %d code %d errno %d mine %d uid %d\n", seen.si_signo, seen.si_code, seen.si_errno, seen.si_pid == getpid(), seen.si_uid);
	raise(SIGUSR1);
	printf("raise: code %d mine %d\n", seen.si_code, seen.si_pid == getpid());
	union sigval value = {.sival_ptr = (void *)0x1122334455667788};
	sigqueue(getpid(), SIGUSR1, value);
	printf("sigqueue: code %d value %p\n", seen.si_code, seen.si_value.sival_ptr);
	printf("context: cs %x flags %lx oldmask %lx fp %d\n", (int)(context.uc_mcontext.gregs[REG_CSGSFS] & 0xffff),
	       (unsigned long)context.uc_flags & 6, (unsigned long)context.uc_mcontext.gregs[REG_OLDMASK], context.uc_mcontext.fpregs != 0);

	on(SIGUSR1, spoil, 0, 0);
	volatile int flag = 0;
	double sum = keep(3.0, &flag);
	printf("xmm: %.1f %d\n", sum, flag);
	/* in the interrupted code the three values are still there: (1 + log2 e) * pi */
	long double x87;
	unsigned short cw = 0x0f7f, after = 0;
	asm volatile("fninit; fldcw %2; fldpi; fldl2e; fld1; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $10, %%esi; mov $62, %%eax; syscall;"
		     "fnstcw %1; faddp; fmulp; fstpt %0; fninit" : "=m"(x87), "=m"(after) : "m"(cw) : "rax", "rdi", "rsi", "rcx", "r11", "memory");
	printf("x87: %.15Lf control %x\n", x87, after);

	/* faults */
	int *bad = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	on(SIGSEGV, leave, SA_SIGINFO, 0);
	on(SIGBUS, leave, SA_SIGINFO, 0);
	on(SIGFPE, leave, SA_SIGINFO, 0);
	on(SIGILL, leave, SA_SIGINFO, 0);
	on(SIGTRAP, leave, SA_SIGINFO, 0);
	if (!sigsetjmp(back, 1)) *(volatile int *)16 = 1;
	printf("unmapped: signo %d code %d addr %p\n", seen.si_signo, seen.si_code, seen.si_addr);
	if (!sigsetjmp(back, 1)) bad[3] = 1;
	printf("forbidden: signo %d code %d addr %d\n", seen.si_signo, seen.si_code, (int)((char *)seen.si_addr - (char *)bad));
	if (!sigsetjmp(back, 1)) ((void (*)(void))bad)();
	printf("not executable: signo %d code %d addr %d\n", seen.si_signo, seen.si_code, (int)((char *)seen.si_addr - (char *)bad));
	if (!sigsetjmp(back, 1)) { volatile int zero = 0, q = 1000; q = q / zero; (void)q; }
	printf("divide: signo %d code %d\n", seen.si_signo, seen.si_code);
	if (!sigsetjmp(back, 1)) asm volatile("ud2");
	printf("ud2: signo %d code %d\n", seen.si_signo, seen.si_code);
	if (!sigsetjmp(back, 1)) asm volatile("int3");
	printf("int3: signo %d code %d\n", seen.si_signo, seen.si_code);
	if (!sigsetjmp(back, 1)) asm volatile("hlt");
	printf("hlt: signo %d code %d addr %p\n", seen.si_signo, seen.si_code, seen.si_addr);
	if (!sigsetjmp(back, 1)) *(volatile char *)0x8000000000000000 = 1;
	printf("non-canonical: signo %d code %d addr %p\n", seen.si_signo, seen.si_code, seen.si_addr);
	printf("mask restored: %d\n", blocked(SIGSEGV));

	/* the alternate stack */
	stack_t st = {.ss_sp = malloc(65536), .ss_size = 65536}, old;
	printf("sigaltstack: %d", sigaltstack(&st, &old)); printf(" old flags %d\n", old.ss_flags);
	on(SIGUSR2, whereis, SA_SIGINFO | SA_ONSTACK, 0); raise(SIGUSR2);
	on(SIGUSR2, whereis, SA_SIGINFO, 0); raise(SIGUSR2);
	st.ss_size = 100;
	r = sigaltstack(&st, 0); printf("too small: %d %d\n", r, r ? errno : 0);
	st.ss_flags = 77;
	r = sigaltstack(&st, 0); printf("bad flags: %d %d\n", r, r ? errno : 0);
	st.ss_flags = SS_DISABLE; sigaltstack(&st, 0); sigaltstack(0, &old); printf("disabled: %d\n", old.ss_flags);

	/* errors */
	struct sigaction sa = {.sa_handler = SIG_IGN};
	r = sigaction(SIGKILL, &sa, 0); printf("kill: %d %d\n", r, errno);
	r = sigaction(SIGSTOP, &sa, 0); printf("stop: %d %d\n", r, errno);
	r = sigaction(0, &sa, 0); printf("zero: %d %d\n", r, errno);
	r = sigaction(65, &sa, 0); printf("65: %d %d\n", r, errno);

	/* a pending signal that becomes ignored is gone */
	sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, 0);
	raise(SIGUSR1); sigpending(&set); printf("pending: %d\n", sigismember(&set, SIGUSR1));
	signal(SIGUSR1, SIG_IGN); sigpending(&set); printf("pending: %d\n", sigismember(&set, SIGUSR1));

	/* no room for the frame: SIGSEGV kills */
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		on(SIGUSR2, record, SA_SIGINFO, 0);
		asm volatile("mov %0, %%rsp; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $12, %%esi; mov $62, %%eax; syscall; hlt" :: "r"((char *)bad + 2048));
	}
	waitpid(pid, &r, 0); printf("no stack: killed %d\n", WTERMSIG(r));
	return 0;
}
