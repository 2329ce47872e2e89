/* rseq(2): the CPU number in memory, and critical sections that start over. glibc has registered us. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(name, r) do { long r_ = (long)(r); int e_ = errno; printf("%s: %ld errno %d\n", name, r_, r_ < 0 ? e_ : 0); fflush(stdout); } while (0)
static struct rseq *area(void) { return (void *)((char *)__builtin_thread_pointer() + __rseq_offset); }
static volatile int ticks;
static void tick(int sig) { (void)sig; ticks++; }

/* Spins in a critical section. 1: it ended by itself after `limit` rounds, 2: aborted. */
static int section(unsigned long limit)
{
	int result;
	asm volatile(
		".pushsection .data.rs, \"aw\"\n"
		".balign 32\n"
		"3: .long 0, 0\n"
		"   .quad 1f, 2f - 1f, 4f\n"
		".popsection\n"
		"   lea 3b(%%rip), %%rax\n"
		"   mov %%rax, 8(%[area])\n"
		"1: dec %[n]\n"
		"   jnz 1b\n"
		"2: mov $1, %[r]\n"
		"   jmp 5f\n"
		"   .byte 0x0f, 0xb9, 0x3d\n"
		"   .long 0x53053053\n"
		"4: mov $2, %[r]\n"
		"5:\n"
		: [n] "+r"(limit), [r] "=&r"(result) : [area] "r"(area()) : "rax", "memory", "cc");
	return result;
}

int main(void)
{
	cpu_set_t all, one;
	int ok = 1, cpus = 0;
	printf("registered %d\n", __rseq_size > 0);
	sched_getaffinity(0, sizeof all, &all);
	for (int c = 0; c < 2; c++) {
		if (!CPU_ISSET(c, &all)) continue;
		CPU_ZERO(&one); CPU_SET(c, &one); sched_setaffinity(0, sizeof one, &one);
		cpus++;
		ok &= area()->cpu_id == (unsigned)c && area()->cpu_id_start == (unsigned)c && sched_getcpu() == c;
	}
	printf("cpu follows %d\n", ok && cpus > 0);
	printf("short section %d\n", section(10));
	signal(SIGALRM, tick);
	struct itimerval it = {.it_value = {0, 5000}};
	setitimer(ITIMER_REAL, &it, 0);
	ok = section(1ul << 40);
	printf("interrupted %d\n", ok);
	printf("descriptor cleared %d\n", area()->rseq_cs == 0);
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) _exit(area()->cpu_id == (unsigned)sched_getcpu() ? 3 : 4);
	int st;
	waitpid(pid, &st, 0); printf("after fork %d\n", WEXITSTATUS(st));

	SAY("again", syscall(SYS_rseq, area(), 32, 0, 0x53053053));
	SAY("other signature", syscall(SYS_rseq, area(), 32, 0, 1));
	SAY("unregister other", syscall(SYS_rseq, area(), 32, 1, 1));
	SAY("unregister", syscall(SYS_rseq, area(), 32, 1, 0x53053053)); printf("cpu_id %d\n", (int)area()->cpu_id);
	static struct rseq mine __attribute__((aligned(64)));
	SAY("unaligned", syscall(SYS_rseq, (char *)&mine + 4, 32, 0, 7)); SAY("flags", syscall(SYS_rseq, &mine, 32, 4, 7)); SAY("size", syscall(SYS_rseq, &mine, 31, 0, 7)); SAY("kernel", syscall(SYS_rseq, 0xffff800000000000, 32, 0, 7));
	SAY("register", syscall(SYS_rseq, &mine, 32, 0, 7)); printf("set %d\n", mine.cpu_id == (unsigned)sched_getcpu());
	/* a descriptor without the signature before its abort handler: SIGSEGV */
	pid = fork();
	if (!pid) { section(10); static struct { uint32_t v, f; uint64_t s, l, a; } cs __attribute__((aligned(32))); cs.s = 4096; cs.l = 16; cs.a = (uint64_t)main + 64; mine.rseq_cs = (uint64_t)&cs; for (;;) sched_yield(), usleep(1); }
	waitpid(pid, &st, 0); printf("bad signature: signal %d\n", WTERMSIG(st));
	return 0;
}
