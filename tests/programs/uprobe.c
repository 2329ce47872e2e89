/* A program that prints the same whether somebody probes it or not. Every instruction of mix() can bear a probe. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

volatile long counter = 7;
static volatile int signals;
static long (*volatile through)(long);
static jmp_buf back;
static char *volatile gone;

__attribute__((noinline)) long leaf(long n) { counter += n; return n * 3 + 1; }
__attribute__((noinline)) long tail(long n) { return through(n + 1); }
__attribute__((noinline)) long deep(long n) { return n ? deep(n - 1) + 1 : 0; }
__attribute__((noinline)) void thrown(long n) { if (n) thrown(n - 1); else longjmp(back, 5); __asm__(""); }
__attribute__((noinline)) int fault(void) { __asm__ volatile("nop"); return *gone; }

__attribute__((noinline)) long mix(long n)
{
	static long table[8];
	char text[64];
	double d = n;
	for (long i = 0; i < n; i++) {
		table[i & 7] += leaf(i) + through(i);
		d = d * 1.5 + (double)counter;
		memset(text, (int)i, sizeof text);
		__asm__ volatile("push %%rbx; pushfq; popfq; xor %%eax, %%eax; cpuid; pop %%rbx" ::: "rax", "rcx", "rdx");
		__asm__ volatile("lea 1f(%%rip), %%rdx; jmp *%%rdx; ud2; 1: jrcxz 2f; 2: loop 3f; 3: addl $1, counter(%%rip)" ::: "rdx", "rcx", "memory");
		__asm__ volatile("movb $3, %%cl; mov %0, %%rdi; mov $9, %%al; rep stosb; mov %%gs, %%eax" : : "r"(text), "c"(3L) : "rdi", "rax", "memory");
		__asm__ volatile("rdtsc; cmpb $0, counter(%%rip); movups %%xmm0, %%xmm1; cvtsi2sdq counter(%%rip), %%xmm3" ::: "rax", "rdx", "xmm1", "xmm3");
		switch (i % 5) {
		case 0: table[1] ^= text[5]; break;
		case 1: table[2] += 11; break;
		case 2: table[3] -= counter; break;
		case 3: table[4] += (long)d; break;
		}
	}
	long sum = 0;
	for (int i = 0; i < 8; i++)
		sum = sum * 31 + table[i];
	return sum;
}
__attribute__((noinline)) void mix_end(void) { __asm__(""); }

static void on_signal(int sig) { signals++; leaf(1); (void)sig; }
static sigjmp_buf again;
static void on_fault(int sig) { (void)sig; siglongjmp(again, 1); }
static void *work(void *argument) { long s = 0; for (long i = 0; i < 30; i++) s += leaf(i) + (long)argument; return (void *)s; }

int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IONBF, 0);
	through = leaf;
	int rounds = argc > 1 ? argv[1][0] - '0' : 1;
	for (int round = 0; round < rounds; round++) {
		printf("mix %ld\n", mix(12));
		printf("tail %ld deep %ld\n", tail(4), deep(20));
		int thrown_with = setjmp(back);
		if (!thrown_with)
			thrown(3);
		printf("thrown %d leaf %ld\n", thrown_with, leaf(2));
		signal(SIGUSR1, on_signal);
		for (int i = 0; i < 3; i++)
			raise(SIGUSR1);
		signal(SIGSEGV, on_fault);
		if (!sigsetjmp(again, 1))
			fault();
		pthread_t threads[3];
		long total = 0;
		for (long i = 0; i < 3; i++)
			pthread_create(&threads[i], 0, work, (void *)i);
		for (int i = 0; i < 3; i++) {
			void *result;
			pthread_join(threads[i], &result);
			total += (long)result;
		}
		printf("signals %d threads %ld\n", signals, total);
		int status;
		if (!fork()) {
			printf("child %ld %ld\n", mix(5), deep(3));
			_exit(leaf(1) & 63);
		}
		wait(&status);
		printf("status %d\n", WEXITSTATUS(status));
		if (!vfork())
			_exit(leaf(2) & 63);
		wait(&status);
		printf("status %d counter %ld\n", WEXITSTATUS(status), counter);
		if (argc > 2) {      /* hand over to who switches probes, and wait */
			char c;
			write(1, "round\n", 6);
			if (read(0, &c, 1) != 1)
				return 1;
		}
	}
	unsigned char *code = (unsigned char *)leaf;
	printf("breakpoint %d\n", code[0] == 0xcc);
	return 0;
}
