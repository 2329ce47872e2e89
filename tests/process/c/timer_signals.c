/* Timers' signals are the process's: any thread that does not block them takes them. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pthread_t who;
static volatile int count, code;
static void handler(int sig, siginfo_t *info, void *uc) { (void)sig; (void)uc; who = pthread_self(); code = info->si_code; count++; }
static void *sleeper(void *arg) { (void)arg; for (;;) pause(); return 0; }
static void *spinner(void *arg) { (void)arg; sigset_t all; sigfillset(&all); pthread_sigmask(SIG_BLOCK, &all, 0); for (;;) ; return 0; }
static void nap(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, 0); }

int main(void)
{
	pthread_t t, u;
	sigset_t set;
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
	sigaction(SIGALRM, &sa, 0); sigaction(SIGVTALRM, &sa, 0); sigaction(SIGXCPU, &sa, 0); sigaction(SIGRTMIN, &sa, 0);
	pthread_create(&t, 0, sleeper, 0);
	sigemptyset(&set); sigaddset(&set, SIGALRM); sigaddset(&set, SIGVTALRM); sigaddset(&set, SIGXCPU); sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, 0);

	struct itimerval it = {.it_value = {0, 5000}};
	setitimer(ITIMER_REAL, &it, 0);
	nap(20); printf("real: the other thread %d code %d count %d\n", who == t, code, count); who = 0; count = 0;

	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct itimerspec is = {.it_value = {0, 5000000}};
	timer_t timer;
	timer_create(CLOCK_MONOTONIC, &ev, &timer); timer_settime(timer, 0, &is, 0);
	nap(20); printf("posix: the other thread %d code %d count %d\n", who == t, code, count); who = 0; count = 0;

	/* overruns while it is blocked everywhere */
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		siginfo_t info;
		is.it_interval.tv_nsec = 1000000;
		timer_create(CLOCK_MONOTONIC, &ev, &timer); timer_settime(timer, 0, &is, 0);
		struct timespec ts = {0, 50500000}; clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, 0);
		int r = sigwaitinfo(&set, &info);
		printf("overrun: %d many %d\n", r == SIGRTMIN && info.si_code == SI_TIMER, info.si_overrun > 20 && timer_getoverrun(timer) == info.si_overrun);
		fflush(stdout);
		/* CPU time of the whole process */
		pthread_create(&u, 0, spinner, 0);
		it.it_value.tv_usec = 20000; setitimer(ITIMER_VIRTUAL, &it, 0);
		r = 0; while (r != SIGVTALRM) r = sigwaitinfo(&set, &info); printf("virtual: %d code %d\n", r == SIGVTALRM, info.si_code);
		struct rlimit l = {1, 2};
		setrlimit(RLIMIT_CPU, &l);
		timer_delete(timer);
		r = 0; while (r != SIGXCPU) r = sigwaitinfo(&set, &info); printf("xcpu: %d code %d\n", r == SIGXCPU, info.si_code);
		fflush(stdout);
		for (;;) pause();
	}
	int st;
	waitpid(pid, &st, 0); printf("cpu limit kills: %d\n", WTERMSIG(st));
	return 0;
}
