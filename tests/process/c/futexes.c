/* futex(2) itself: values, timeouts, bitsets, requeue, wake-op, and its errors. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(name, r) do { int r_ = (int)(r), e_ = errno; printf("%s: %d errno %d\n", name, r_, r_ < 0 ? e_ : 0); } while (0)
static long futex(void *u, int op, uint32_t v, const void *t, void *u2, uint32_t v3) { return syscall(SYS_futex, u, op, v, t, u2, v3); }
static void nap(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, 0); }
static uint32_t a, b;
struct waiter { uint32_t *word, bits; int op, result; };
static void *waits(void *arg) { struct waiter *w = arg; w->result = futex(w->word, w->op, *w->word, 0, 0, w->bits); return 0; }

int main(void)
{
	struct timespec ms20 = {0, 20000000}, bad = {0, 1000000000}, past = {1, 0};
	SAY("other value", futex(&a, FUTEX_WAIT, 1, 0, 0, 0));
	SAY("timeout", futex(&a, FUTEX_WAIT, 0, &ms20, 0, 0));
	SAY("private timeout", futex(&a, FUTEX_WAIT_PRIVATE, 0, &ms20, 0, 0));
	SAY("past", futex(&a, FUTEX_WAIT_BITSET, 0, &past, 0, 1));
	SAY("past realtime", futex(&a, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &past, 0, 1));
	SAY("bad timeout", futex(&a, FUTEX_WAIT, 0, &bad, 0, 0));
	SAY("unaligned", futex((char *)&a + 1, FUTEX_WAIT, 0, 0, 0, 0));
	SAY("no bits", futex(&a, FUTEX_WAIT_BITSET, 0, 0, 0, 0));
	SAY("null", futex(0, FUTEX_WAIT, 0, 0, 0, 0));
	SAY("null wake", futex(0, FUTEX_WAKE, 1, 0, 0, 0));
	SAY("kernel address", futex((void *)0xffff800000000000, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
	SAY("nobody", futex(&a, FUTEX_WAKE, 1, 0, 0, 0));
	SAY("bad op", futex(&a, 99, 0, 0, 0, 0));
	SAY("fd", futex(&a, FUTEX_FD, 0, 0, 0, 0));
	SAY("clock with wake", futex(&a, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, 0, 0, 0) == -1 && errno == ENOSYS ? 0 : -1);

	pthread_t t[6];
	struct waiter w[6];
	for (int i = 0; i < 4; i++) { w[i] = (struct waiter){&a, i < 2 ? 1 : 2, FUTEX_WAIT_BITSET_PRIVATE, -1}; pthread_create(&t[i], 0, waits, &w[i]); }
	nap(10);
	SAY("bits 4", futex(&a, FUTEX_WAKE_BITSET_PRIVATE, 9, 0, 0, 4));
	SAY("bits 2", futex(&a, FUTEX_WAKE_BITSET_PRIVATE, 9, 0, 0, 2));
	SAY("one", futex(&a, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
	SAY("rest", futex(&a, FUTEX_WAKE_PRIVATE, 99, 0, 0, 0));
	for (int i = 0; i < 4; i++) { pthread_join(t[i], 0); printf("%d ", w[i].result); }
	puts("woken");

	for (int i = 0; i < 5; i++) { w[i] = (struct waiter){&a, 0, FUTEX_WAIT_PRIVATE, -1}; pthread_create(&t[i], 0, waits, &w[i]); }
	nap(10);
	SAY("cmp_requeue other value", futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)2, &b, 7));
	SAY("cmp_requeue", futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)2, &b, 0));
	SAY("on b", futex(&b, FUTEX_WAKE_PRIVATE, 99, 0, 0, 0));
	SAY("requeue", futex(&a, FUTEX_REQUEUE_PRIVATE, 0, (void *)1, &b, 0));
	SAY("on a", futex(&a, FUTEX_WAKE_PRIVATE, 99, 0, 0, 0));
	SAY("on b", futex(&b, FUTEX_WAKE_PRIVATE, 99, 0, 0, 0));
	for (int i = 0; i < 5; i++) pthread_join(t[i], 0);

	w[0] = (struct waiter){&a, 0, FUTEX_WAIT_PRIVATE, -1}; pthread_create(&t[0], 0, waits, &w[0]);
	w[1] = (struct waiter){&b, 0, FUTEX_WAIT_PRIVATE, -1}; pthread_create(&t[1], 0, waits, &w[1]);
	nap(10);
	SAY("wake_op", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_GT, 3)));
	printf("b %u\n", b);
	SAY("wake_op", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_OR, 8, FUTEX_OP_CMP_EQ, 5)));
	printf("b %u\n", b);
	for (int i = 0; i < 2; i++) pthread_join(t[i], 0);

	/* shared and private keys are different things in shared memory; a file mapped twice is one word */
	uint32_t *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*s = 0;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) _exit(futex(s, FUTEX_WAIT, 0, 0, 0, 0) ? 1 : 5);
	nap(10);
	SAY("private does not find it", futex(s, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
	SAY("shared does", futex(s, FUTEX_WAKE, 1, 0, 0, 0));
	int st; waitpid(pid, &st, 0); printf("child %d\n", WEXITSTATUS(st));
	int fd = memfd_create("f", 0);
	if (ftruncate(fd, 8192)) return 1;
	uint32_t *m1 = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *m2 = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
	w[0] = (struct waiter){m1 + 1024 + 7, 0, FUTEX_WAIT, -1}; pthread_create(&t[0], 0, waits, &w[0]);
	nap(10);
	SAY("two mappings", futex(m2 + 7, FUTEX_WAKE, 1, 0, 0, 0));
	pthread_join(t[0], 0);

	/* a read-only word can be waited for and woken, not changed */
	uint32_t *ro = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SAY("read-only wait", futex(ro, FUTEX_WAIT, 0, &ms20, 0, 0));
	SAY("read-only wake_op", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, ro, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0)));

	/* PI */
	uint32_t tid = syscall(SYS_gettid);
	a = 0;
	SAY("lock_pi", futex(&a, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0)); printf("owner %d\n", a == tid);
	SAY("again", futex(&a, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0));
	SAY("trylock", futex(&a, FUTEX_TRYLOCK_PI_PRIVATE, 0, 0, 0, 0));
	SAY("unlock_pi", futex(&a, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0)); printf("word %u\n", a);
	SAY("not mine", futex(&a, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0));
	a = 999999;
	SAY("no such owner", futex(&a, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0));
	return 0;
}
