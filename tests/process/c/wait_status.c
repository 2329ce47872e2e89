/* wait(2): every way in which a child can change its state, as the status word and as siginfo say it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(name, r) do { int r_ = (int)(r), e_ = errno; printf("%s: %d errno %d\n", name, r_, r_ < 0 ? e_ : 0); } while (0)

static void say(const char *what, int status)
{
	if (WIFEXITED(status)) printf("%s: exited %d\n", what, WEXITSTATUS(status));
	else if (WIFSIGNALED(status)) printf("%s: killed %d\n", what, WTERMSIG(status));
	else if (WIFSTOPPED(status)) printf("%s: stopped %d\n", what, WSTOPSIG(status));
	else if (WIFCONTINUED(status)) printf("%s: continued\n", what);
}

static void info(const char *what, siginfo_t *si, pid_t child)
{
	printf("%s: signo %d code %d status %d pid %s uid %d\n", what, si->si_signo, si->si_code, si->si_status,
	       si->si_pid == child ? "child" : si->si_pid ? "other" : "0", si->si_uid);
}

static pid_t child(void (*f)(void))
{
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) { f(); _exit(0); }
	return pid;
}

static void exits(void) { _exit(300); }                 /* only 8 bits arrive */
static void terminated(void) { raise(SIGTERM); }
static void aborted(void) { struct rlimit none = {0, 0}; setrlimit(RLIMIT_CORE, &none); abort(); }
static void stops(void) { raise(SIGSTOP); _exit(7); }
static void waits(void) { for (;;) pause(); }

int main(void)
{
	int status;
	siginfo_t si;
	pid_t pid;

	waitpid(child(exits), &status, 0); say("exit", status);
	waitpid(child(terminated), &status, 0); say("term", status);
	waitpid(child(aborted), &status, 0); say("abort", status); printf("core %d\n", !!WCOREDUMP(status));

	pid = child(stops);
	waitpid(pid, &status, WUNTRACED); say("stop", status);
	printf("again: %d\n", waitpid(pid, &status, WUNTRACED | WNOHANG));
	kill(pid, SIGCONT);
	waitpid(pid, &status, WCONTINUED); say("cont", status);
	waitpid(pid, &status, 0); say("after", status);

	pid = child(waits);
	memset(&si, 0, sizeof si);
	printf("nothing yet: %d\n", waitid(P_PID, pid, &si, WEXITED | WNOHANG)); info("none", &si, pid);
	kill(pid, SIGSTOP);
	waitid(P_PID, pid, &si, WSTOPPED | WNOWAIT); info("stopped", &si, pid);
	waitid(P_PID, pid, &si, WSTOPPED); info("stopped", &si, pid);
	kill(pid, SIGCONT);
	waitid(P_PID, pid, &si, WCONTINUED); info("continued", &si, pid);
	kill(pid, SIGKILL);
	waitid(P_PGID, 0, &si, WEXITED | WNOWAIT); info("killed", &si, pid);
	waitid(P_ALL, 0, &si, WEXITED); info("killed", &si, pid);

	SAY("none left", waitpid(-1, &status, 0));
	SAY("not mine", waitpid(1, &status, WNOHANG));
	SAY("bad options", waitpid(-1, &status, 0x100));
	SAY("bad type", waitid(99, 0, &si, WEXITED));
	SAY("no event", waitid(P_ALL, 0, &si, WNOHANG));

	/* A child in another group is not waited for by waitpid(0). */
	pid = child(waits);
	setpgid(pid, pid);
	SAY("group 0", waitpid(0, &status, WNOHANG));
	printf("its group: %d\n", waitpid(-pid, &status, WNOHANG));
	kill(pid, SIGKILL);
	waitpid(-pid, &status, 0); say("group", status);

	signal(SIGCHLD, SIG_IGN);
	child(exits);
	SAY("ignored", waitpid(-1, &status, 0));
	struct sigaction sa = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
	sigaction(SIGCHLD, &sa, 0);
	child(terminated);
	SAY("nocldwait", waitpid(-1, &status, 0));
	return 0;
}
