/* pidfd_open(2) and what takes a pidfd. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(name, r) do { long r_ = (long)(r); int e_ = errno; printf("%s: %ld errno %d\n", name, r_, r_ < 0 ? e_ : 0); fflush(stdout); } while (0)
static void nap(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, 0); }

int main(void)
{
	int st, p[2];
	char c = 0;
	siginfo_t si;
	if (pipe(p)) return 1;
	pid_t pid = fork();
	if (!pid) { for (;;) pause(); }
	int fd = syscall(434, pid, 0);
	SAY("open", fd >= 0 ? 0 : -1);
	printf("cloexec %d\n", fcntl(fd, F_GETFD));
	SAY("nobody", syscall(434, 999999, 0)); SAY("zero", syscall(434, 0, 0)); SAY("flags", syscall(434, pid, 1));
	struct pollfd pf = {fd, POLLIN, 0};
	SAY("poll alive", poll(&pf, 1, 0));
	SAY("signal 0", syscall(424, fd, 0, 0, 0)); SAY("signal flags", syscall(424, fd, 0, 0, 77)); SAY("signal bad fd", syscall(424, 999, 0, 0, 0)); SAY("signal no pidfd", syscall(424, p[0], 0, 0, 0)); SAY("signal 99", syscall(424, fd, 99, 0, 0));
	char name[32];
	sprintf(name, "/proc/%d", pid);
	int proc = open(name, O_RDONLY | O_DIRECTORY), root = open("/proc", O_RDONLY | O_DIRECTORY);
	SAY("signal /proc/PID", syscall(424, proc, 0, 0, 0)); SAY("signal /proc", syscall(424, root, 0, 0, 0));
	int copy = syscall(438, fd, p[1], 0);
	SAY("getfd", copy >= 0 ? 0 : -1); SAY("write", write(copy, "w", 1)); SAY("read", read(p[0], &c, 1)); printf("%c\n", c); SAY("getfd bad", syscall(438, fd, 500, 0)); SAY("getfd flags", syscall(438, fd, 0, 1));
	memset(&si, 0, sizeof si);
	SAY("waitid nohang", waitid(P_PIDFD, fd, &si, WEXITED | WNOHANG)); printf("pid %d\n", si.si_pid);
	SAY("kill", syscall(424, fd, SIGTERM, 0, 0));
	SAY("poll", poll(&pf, 1, 5000)); printf("revents %d\n", pf.revents);
	SAY("waitid", waitid(P_PIDFD, fd, &si, WEXITED)); printf("child %d code %d status %d\n", si.si_pid == pid, si.si_code, si.si_status);
	SAY("poll reaped", poll(&pf, 1, 0)); SAY("signal reaped", syscall(424, fd, 0, 0, 0)); SAY("waitid again", waitid(P_PIDFD, fd, &si, WEXITED)); SAY("waitid bad fd", waitid(P_PIDFD, 999, &si, WEXITED)); SAY("waitid no pidfd", waitid(P_PIDFD, p[0], &si, WEXITED));
	/* clone with CLONE_PIDFD */
	int out = -1;
	pid = syscall(SYS_clone, 0x1000 | SIGCHLD, 0, &out, 0, 0);
	if (!pid) { nap(10); _exit(3); }
	printf("clone: fd %d cloexec %d\n", out >= 0, fcntl(out, F_GETFD));
	pf.fd = out; SAY("poll", poll(&pf, 1, 5000)); waitpid(pid, &st, 0); printf("exit %d\n", WEXITSTATUS(st));
	return 0;
}
