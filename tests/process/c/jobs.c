/* setpgid(2), setsid(2), credentials(7): groups, sessions, and orphaned groups that are stopped. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(name, r) do { int r_ = (int)(r), e_ = errno; printf("%s: %d errno %d\n", name, r_, r_ < 0 ? e_ : 0); fflush(stdout); } while (0)
static int out[2];
static void got(int sig) { char c = sig; if (write(out[1], &c, 1) != 1) _exit(1); }
static void nap(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, 0); }

int main(int argc, char **argv)
{
	int status;
	pid_t pid;
	if (argc > 1) { nap(100000); return 0; }

	/* a session of our own, so that the test does not depend on who started it */
	pid = fork();
	if (pid) { waitpid(pid, &status, 0); return WEXITSTATUS(status); }
	SAY("setsid", setsid() == getpid() ? 0 : -1);
	SAY("setsid again", setsid());
	printf("leader: sid %d pgrp %d\n", getsid(0) == getpid(), getpgrp() == getpid());
	SAY("leader moves", setpgid(0, 0) ? -1 : 0);

	fflush(stdout);
	pid = fork();
	if (!pid) { nap(100000); _exit(0); }
	printf("inherits: sid %d pgrp %d\n", getsid(pid) == getpid(), getpgid(pid) == getpid());
	SAY("own group", setpgid(pid, pid)); printf("now %d\n", getpgid(pid) == pid);
	SAY("back", setpgid(pid, getpid()));
	SAY("no such group", setpgid(pid, 999999));
	SAY("negative", setpgid(pid, -1));
	SAY("init", setpgid(1, 1));
	SAY("nobody", setpgid(999999, 0));
	SAY("getpgid nobody", getpgid(999999));
	SAY("getsid nobody", getsid(999999));
	kill(pid, SIGKILL); waitpid(pid, 0, 0);

	pid = fork();
	if (!pid) { execl(argv[0], argv[0], "sleep", (char *)0); _exit(1); }
	nap(50);
	SAY("after exec", setpgid(pid, pid));
	kill(pid, SIGKILL); waitpid(pid, 0, 0);

	pid = fork();
	if (!pid) { setsid(); nap(100000); _exit(0); }
	nap(20);
	SAY("other session", setpgid(pid, pid));
	kill(pid, SIGKILL); waitpid(pid, 0, 0);

	/* The middle process dies: the stopped grandchild's group is orphaned: SIGHUP, then SIGCONT. */
	if (pipe(out)) return 1;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (!pid) {
		setsid();                               /* so that the reaper is in another session */
		pid = fork();
		if (!pid) {
			setpgid(0, 0);
			signal(SIGHUP, got); signal(SIGCONT, got);
			raise(SIGSTOP);
			nap(10);
			_exit(4);
		}
		setpgid(pid, pid);
		waitpid(pid, &status, WUNTRACED);
		_exit(WIFSTOPPED(status) ? 5 : 6);
	}
	waitpid(pid, &status, 0); printf("middle: %d\n", WEXITSTATUS(status));
	char c[2] = {0, 0};
	nap(30);
	if (read(out[0], c, 2) != 2) return 1;
	printf("orphan got %d and %d\n", c[0] < c[1] ? c[0] : c[1], c[0] < c[1] ? c[1] : c[0]);
	pid = wait(&status);
	printf("orphan exits %d, reaped by the subreaper: %d\n", WEXITSTATUS(status), pid > 0);

	/* SIGTSTP does nothing to a member of an orphaned group, SIGSTOP does */
	pid = fork();
	if (!pid) {
		pid = fork();
		if (!pid) { setsid(); signal(SIGCONT, SIG_DFL); raise(SIGTSTP); _exit(8); }
		waitpid(pid, &status, WUNTRACED); _exit(WIFSTOPPED(status) ? 1 : WEXITSTATUS(status));
	}
	waitpid(pid, &status, 0); printf("orphaned tstp: %d\n", WEXITSTATUS(status));

	/* a parent-death signal */
	int p[2];
	if (pipe(p)) return 1;
	pid = fork();
	if (!pid) {
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGUSR1);
			int sig; prctl(PR_GET_PDEATHSIG, &sig);
			out[1] = p[1]; signal(SIGUSR1, got);
			if (write(p[1], "r", 1) != 1) _exit(1);
			nap(1000); _exit(0);
		}
		if (read(p[0], c, 1) != 1) _exit(1);
		_exit(0);
	}
	waitpid(pid, 0, 0);
	if (read(p[0], c, 1) != 1) return 1;
	printf("pdeathsig %d\n", c[0]);
	while (wait(0) > 0 || errno == EINTR) ;
	fflush(stdout);
	return 0;
}
