/* signal(7): interrupted system calls, restarted ones, and waiting for signals. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int count;
static void note(int sig) { (void)sig; count++; }
static int pipefd[2];
static void feed(int sig) { (void)sig; count++; if (write(pipefd[1], "x", 1) != 1) _exit(1); }

static void on(int sig, void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};
	sigaction(sig, &sa, 0);
}
static void later(int ms) { struct itimerval t = {.it_value = {ms / 1000, ms % 1000 * 1000}}; setitimer(ITIMER_REAL, &t, 0); }
#define SAY(name, r) do { int r_ = (int)(r), e_ = errno; printf("%s: %d errno %d count %d\n", name, r_, r_ < 0 ? e_ : 0, count); count = 0; } while (0)

int main(void)
{
	char c;
	sigset_t set, old;
	siginfo_t info;
	int r;
	if (pipe(pipefd)) return 1;

	on(SIGALRM, note, 0); later(20); SAY("read", read(pipefd[0], &c, 1));
	on(SIGALRM, feed, SA_RESTART); later(20); SAY("read restarted", read(pipefd[0], &c, 1));
	on(SIGALRM, note, SA_RESTART); later(20); SAY("pause", pause());
	later(20); SAY("poll", poll(0, 0, 1000));
	later(20); { fd_set f; FD_ZERO(&f); FD_SET(pipefd[0], &f); struct timeval tv = {5, 0}; SAY("select", select(pipefd[0] + 1, &f, 0, 0, &tv)); }
	later(20);
	struct timespec t = {5, 0}, rest = {0, 0};
	r = nanosleep(&t, &rest); SAY("nanosleep", r); printf("rest about 5: %d\n", rest.tv_sec == 4 && rest.tv_nsec > 900000000);
	later(20); SAY("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &rest));

	/* ignored and default-ignored signals do not end a sleep; a stop and a continue do not either */
	signal(SIGALRM, SIG_IGN); later(10); t.tv_sec = 0; t.tv_nsec = 60000000; SAY("ignored", nanosleep(&t, 0));
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) { r = nanosleep(&t, 0); _exit(r ? 10 + errno : 3); }
	struct timespec bit = {0, 10000000};
	nanosleep(&bit, 0); kill(pid, SIGSTOP); nanosleep(&bit, 0); kill(pid, SIGCONT);
	waitpid(pid, &r, 0); printf("nanosleep over a stop: exit %d\n", WEXITSTATUS(r));
	fflush(stdout);
	pid = fork();
	if (!pid) { r = poll(0, 0, 60); _exit(r ? 10 + errno : 3); }
	nanosleep(&bit, 0); kill(pid, SIGSTOP); nanosleep(&bit, 0); kill(pid, SIGCONT);
	waitpid(pid, &r, 0); printf("poll over a stop: exit %d\n", WEXITSTATUS(r));

	/* sigsuspend, sigwait, sigtimedwait */
	sigemptyset(&set); sigaddset(&set, SIGUSR1); sigaddset(&set, SIGRTMIN + 1); sigprocmask(SIG_BLOCK, &set, &old);
	on(SIGUSR1, note, 0);
	raise(SIGUSR1); SAY("blocked", 0);
	SAY("sigsuspend", sigsuspend(&old));
	sigprocmask(SIG_BLOCK, 0, &old); printf("mask back: %d\n", sigismember(&old, SIGUSR1));
	for (int i = 3; i; i--) { union sigval v = {.sival_int = i}; sigqueue(getpid(), SIGRTMIN + 1, v); }
	raise(SIGUSR1);
	for (int i = 0; i < 4; i++) { r = sigwaitinfo(&set, &info); printf("sigwaitinfo: %s value %d code %d\n", r == SIGUSR1 ? "usr1" : r == SIGRTMIN + 1 ? "rt" : "?", r == SIGUSR1 ? 0 : info.si_value.sival_int, info.si_code); }
	struct timespec zero = {0, 0}, short_ = {0, 20000000};
	SAY("sigtimedwait 0", sigtimedwait(&set, &info, &zero));
	SAY("sigtimedwait 20 ms", sigtimedwait(&set, &info, &short_));
	on(SIGALRM, note, 0); later(10); t.tv_sec = 5; SAY("sigtimedwait interrupted", sigtimedwait(&set, &info, &t));
	short_.tv_nsec = 1000000000; SAY("bad timeout", sigtimedwait(&set, &info, &short_));

	/* ppoll with a mask: the signal is seen exactly there */
	raise(SIGUSR1); sigemptyset(&old); t.tv_sec = 5; SAY("ppoll", ppoll(0, 0, &t, &old));
	sigprocmask(SIG_BLOCK, 0, &old); printf("mask back: %d\n", sigismember(&old, SIGUSR1));

	/* wait is restarted over SIGUSR2 with SA_RESTART, not without */
	on(SIGALRM, note, SA_RESTART); later(10); fflush(stdout);
	pid = fork();
	if (!pid) { struct timespec s = {0, 50000000}; nanosleep(&s, 0); _exit(9); }
	r = waitpid(pid, 0, 0) == pid; printf("wait restarted: %d\n", r); count = 0;
	on(SIGALRM, note, 0); fflush(stdout);
	pid = fork();
	if (!pid) { struct timespec s = {0, 50000000}; nanosleep(&s, 0); _exit(9); }
	later(10); r = waitpid(pid, 0, 0); SAY("wait", r);
	waitpid(pid, 0, 0);
	return 0;
}
