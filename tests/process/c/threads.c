/* pthreads(7) on clone, futex and exit_group: joining, locks, signals to threads, and the ends of a process. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void nap(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, 0); }
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int counter, turn;
static __thread int mine;

static void *add(void *arg)
{
	mine = (long)arg;
	for (int i = 0; i < 200; i++) { pthread_mutex_lock(&lock); int c = counter; if (i % 50 == 0) sched_yield(); counter = c + 1; pthread_mutex_unlock(&lock); }
	return (void *)(long)(mine * 2);
}
static void *pingpong(void *arg)
{
	long me = (long)arg;
	for (int i = 0; i < 50; i++) {
		pthread_mutex_lock(&lock);
		while (turn != me) pthread_cond_wait(&cond, &lock);
		turn = !me; counter++;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&lock);
	}
	return 0;
}
static volatile pthread_t who;
static void handler(int sig) { (void)sig; who = pthread_self(); }
static void *sleeper(void *arg) { (void)arg; for (;;) nap(1000); return 0; }
static void *exits(void *arg) { (void)arg; nap(5); exit(6); }
static void *execs(void *arg)
{
	char **argv = arg;
	char pid[16]; snprintf(pid, 16, "%d", getpid());
	execl(argv[0], argv[0], "child", pid, (char *)0);
	return 0;
}
static void *faults(void *arg) { (void)arg; nap(5); *(volatile int *)8 = 1; return 0; }
static void *late(void *arg) { (void)arg; nap(30); printf("the last thread\n"); fflush(stdout); _exit(0); }
static void *barrier_(void *arg) { int r = pthread_barrier_wait(arg); return (void *)(long)(r == PTHREAD_BARRIER_SERIAL_THREAD); }
static void cleanup(void *arg) { (*(int *)arg)++; }
static int cleaned;
static void *cancelled(void *arg) { (void)arg; pthread_cleanup_push(cleanup, &cleaned); for (;;) nap(1000); pthread_cleanup_pop(0); return 0; }
static void *owner_dies(void *arg) { pthread_mutex_lock(arg); return 0; }

static int in_child(void *(*f)(void *), void *arg, int keep)
{
	int status;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		pthread_t t, u;
		pthread_create(&u, 0, sleeper, 0);
		pthread_create(&t, 0, f, arg);
		if (keep == 2) pthread_exit(0);
		if (keep) pthread_join(t, 0);
		for (;;) pause();
	}
	waitpid(pid, &status, 0);
	return status;
}

int main(int argc, char **argv)
{
	pthread_t t[8];
	void *r;
	if (argc > 2) { printf("exec'd: pid kept %d tid %d\n", atoi(argv[2]) == getpid(), (int)syscall(SYS_gettid) == getpid()); fflush(stdout); return 9; }

	for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, add, (void *)i);
	for (int i = 0; i < 8; i++) { pthread_join(t[i], &r); printf("%ld ", (long)r); }
	printf("counter %d, own tls %d\n", counter, mine);

	counter = 0;
	for (long i = 0; i < 2; i++) pthread_create(&t[i], 0, pingpong, (void *)i);
	for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
	printf("pingpong %d\n", counter);

	pthread_barrier_t b;
	pthread_barrier_init(&b, 0, 4);
	int serial = 0;
	for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, barrier_, &b);
	for (int i = 0; i < 4; i++) { pthread_join(t[i], &r); serial += (long)r; }
	printf("barrier: %d serial\n", serial);

	/* a condition that nobody signals, a semaphore that is not posted */
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if ((ts.tv_nsec += 20000000) >= 1000000000) ts.tv_sec++, ts.tv_nsec -= 1000000000;
	pthread_mutex_lock(&lock);
	printf("timedwait %d\n", pthread_cond_timedwait(&cond, &lock, &ts) == ETIMEDOUT);
	printf("timedlock %d\n", pthread_mutex_timedlock(&lock, &ts) == ETIMEDOUT);
	pthread_mutex_unlock(&lock);
	sem_t sem;
	sem_init(&sem, 0, 0);
	printf("sem %d\n", sem_timedwait(&sem, &ts) == -1 && errno == ETIMEDOUT);

	/* pthread_kill reaches the thread that is meant */
	signal(SIGUSR1, handler);
	pthread_create(&t[0], 0, sleeper, 0);
	nap(5);
	pthread_kill(t[0], SIGUSR1); nap(5);
	printf("pthread_kill: %d\n", who == t[0]);
	pthread_kill(pthread_self(), SIGUSR1);
	printf("self: %d\n", who == pthread_self());
	sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0); who = 0;
	kill(getpid(), SIGUSR1); nap(5);
	printf("process signal goes to who does not block it: %d\n", who == t[0]);
	pthread_sigmask(SIG_UNBLOCK, &set, 0);
	pthread_cancel(t[0]); pthread_join(t[0], &r); printf("cancelled %d\n", r == PTHREAD_CANCELED);
	pthread_create(&t[0], 0, cancelled, 0); nap(5); pthread_cancel(t[0]); pthread_join(t[0], &r);
	printf("cleanup ran %d\n", cleaned);

	/* robust mutex */
	pthread_mutexattr_t a; pthread_mutex_t robust;
	pthread_mutexattr_init(&a); pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST); pthread_mutex_init(&robust, &a);
	pthread_create(&t[0], 0, owner_dies, &robust); pthread_join(t[0], 0);
	printf("owner died %d", pthread_mutex_lock(&robust) == EOWNERDEAD);
	printf(" consistent %d", pthread_mutex_consistent(&robust)); printf(" unlock %d\n", pthread_mutex_unlock(&robust));

	/* priority inheritance */
	pthread_mutex_t pi;
	pthread_mutexattr_init(&a); pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	printf("pi init %d", pthread_mutex_init(&pi, &a)); printf(" lock %d", pthread_mutex_lock(&pi));
	pthread_create(&t[0], 0, owner_dies, &pi); nap(10);
	printf(" unlock %d\n", pthread_mutex_unlock(&pi)); pthread_join(t[0], 0);

	/* between processes: a robust process-shared mutex and a semaphore in shared memory */
	struct { pthread_mutex_t m; sem_t s; int n; } *sh = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_init(&a); pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED); pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&sh->m, &a); sem_init(&sh->s, 1, 0);
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) { pthread_mutex_lock(&sh->m); sh->n = 1; sem_post(&sh->s); nap(20); _exit(0); }
	sem_wait(&sh->s);
	printf("shared: n %d", sh->n); printf(" lock %s\n", pthread_mutex_lock(&sh->m) == EOWNERDEAD ? "owner died" : "?");
	waitpid(pid, 0, 0);

	/* ends */
	int st;
	st = in_child(exits, 0, 0); printf("exit in a thread: %d\n", WEXITSTATUS(st));
	st = in_child(faults, 0, 1); printf("fault in a thread: signal %d\n", WTERMSIG(st));
	st = in_child(late, 0, 2); printf("main thread gone first: %d %d\n", WIFEXITED(st), WEXITSTATUS(st));
	st = in_child(execs, argv, 1); printf("exec in a thread: %d\n", WEXITSTATUS(st));
	/* a fork in a threaded process has one thread */
	pthread_create(&t[0], 0, sleeper, 0);
	fflush(stdout);
	pid = fork();
	if (!pid) _exit(syscall(SYS_gettid) == getpid() ? 3 : 4);
	waitpid(pid, &st, 0); printf("fork: %d\n", WEXITSTATUS(st));
	return 0;
}
