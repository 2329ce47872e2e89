/* clone(2), clone3(2), vfork(2), unshare(2), kcmp(2): what is shared, and what is refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(name, r) do { long r_ = (long)(r); int e_ = errno; printf("%s: %ld errno %d\n", name, r_, r_ < 0 ? e_ : 0); fflush(stdout); } while (0)
static long raw(unsigned long flags, void *stack) { return syscall(SYS_clone, flags, stack, 0, 0, 0); }
static void refused(const char *name, unsigned long flags)
{
	long r = raw(flags, 0);
	if (!r) _exit(99);
	SAY(name, r > 0 ? 0 : r);
	if (r > 0) waitpid(r, 0, __WALL);
}
static char stack[65536] __attribute__((aligned(16)));
static int shared, word;
static int child(void *arg) { (void)arg; shared++; if (chdir("/")) return 1; close(3); signal(SIGUSR2, SIG_IGN); return 5; }
static void state(const char *what)
{
	char cwd[100];
	printf("%s: memory %d cwd %s fd %d handler %d\n", what, shared, getcwd(cwd, 100) && !strcmp(cwd, "/") ? "changed" : "kept", fcntl(3, F_GETFD) != -1, signal(SIGUSR2, SIG_DFL) == SIG_IGN);
	if (chdir("/tmp")) exit(1);
	dup2(1, 3);
	fflush(stdout);
}
struct args { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup, more; };
static long c3(struct args *a, size_t size) { return syscall(435, a, size); }
static volatile int got;
static void note(int sig) { got = sig; }

int main(int argc, char **argv)
{
	int st;
	if (argc > 1) return 7;
	if (chdir("/tmp")) return 1;
	dup2(1, 3);

	refused("thread without sighand", CLONE_THREAD | CLONE_VM);
	refused("sighand without vm", CLONE_SIGHAND);
	refused("newns with fs", CLONE_NEWNS | CLONE_FS);
	refused("newuser with fs", CLONE_NEWUSER | CLONE_FS);
	refused("pidfd and parent tid", CLONE_PIDFD | CLONE_PARENT_SETTID);
	refused("pidfd and detached", CLONE_PIDFD | CLONE_DETACHED | SIGCHLD);
	refused("plain", SIGCHLD);

	clone(child, stack + 65536, SIGCHLD, 0); wait(&st); printf("exit %d ", WEXITSTATUS(st)); state("nothing");
	clone(child, stack + 65536, CLONE_VM | SIGCHLD, 0); wait(&st); state("vm");
	clone(child, stack + 65536, CLONE_FS | SIGCHLD, 0); wait(&st); state("fs");
	clone(child, stack + 65536, CLONE_FILES | SIGCHLD, 0); wait(&st); state("files");
	clone(child, stack + 65536, CLONE_VM | CLONE_SIGHAND | SIGCHLD, 0); wait(&st); state("sighand");

	/* exit signals and __WCLONE */
	signal(SIGUSR1, note);
	pid_t pid = clone(child, stack + 65536, SIGUSR1, 0);
	SAY("wait does not see it", waitpid(pid, &st, 0));
	SAY("with __WCLONE", waitpid(pid, &st, __WCLONE) == pid ? 0 : -1);
	printf("signal %d\n", got == SIGUSR1);
	pid = clone(child, stack + 65536, 0, 0);
	SAY("no signal, __WALL", waitpid(pid, &st, __WALL) == pid ? 0 : -1);

	/* thread ids in memory */
	int ptid = 0, ctid = 0;
	pid = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, 0, &ptid, &ctid, 0);
	if (!pid) _exit(ctid == getpid() && ptid == getpid() ? 1 : 0);
	printf("parent tid %d child's own %d\n", ptid == pid, ctid);
	fflush(stdout);
	waitpid(pid, &st, 0); printf("child saw both: %d\n", WEXITSTATUS(st));
	SAY("bad parent tid is ignored", (pid = syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, 0, (void *)8, 0, 0)) == 0 ? (_exit(0), 0) : pid > 0 ? 0 : -1);
	waitpid(pid, 0, 0);

	/* CLONE_PARENT: a brother */
	pid = fork();
	if (!pid) { pid_t q = raw(CLONE_PARENT | SIGCHLD, 0); if (!q) _exit(21); _exit(20); }
	int a = 0, b = 0; wait(&a); wait(&b);
	printf("brothers %d\n", WEXITSTATUS(a) + WEXITSTATUS(b));

	/* vfork: the parent waits and sees the child's writes; until exec too */
	pid = vfork();
	if (!pid) { struct timespec t = {0, 20000000}; nanosleep(&t, 0); word = 42; _exit(3); }
	printf("vfork: word %d\n", word); fflush(stdout);
	waitpid(pid, &st, 0);
	pid = vfork();
	if (!pid) { word = 43; execl(argv[0], argv[0], "x", (char *)0); _exit(3); }
	printf("vfork exec: word %d\n", word); fflush(stdout);
	waitpid(pid, &st, 0); printf("exit %d\n", WEXITSTATUS(st));

	/* clone3 */
	struct args ar = {.exit_signal = SIGCHLD};
	SAY("clone3", (pid = c3(&ar, 64)) == 0 ? (_exit(4), 0) : pid > 0 ? 0 : -1); waitpid(pid, &st, 0); printf("exit %d\n", WEXITSTATUS(st));
	SAY("short", c3(&ar, 63)); SAY("long zero tail", (pid = c3(&ar, 96)) == 0 ? (_exit(0), 0) : pid > 0 ? 0 : -1); waitpid(pid, 0, 0);
	ar.more = 1; SAY("long tail", c3(&ar, 96)); SAY("too long", c3(&ar, 4097)); SAY("null", c3(0, 64));
	ar = (struct args){.exit_signal = 65}; SAY("bad signal", c3(&ar, 64));
	ar = (struct args){.flags = SIGCHLD}; SAY("signal in flags", c3(&ar, 64));
	ar = (struct args){.flags = 1ull << 40}; SAY("unknown flag", c3(&ar, 64));
	ar = (struct args){.stack = (uint64_t)stack}; SAY("stack without size", c3(&ar, 64));
	ar = (struct args){.stack_size = 4096}; SAY("size without stack", c3(&ar, 64));
	ar = (struct args){.flags = CLONE_PARENT, .exit_signal = SIGCHLD}; SAY("parent with signal", c3(&ar, 64));
	signal(SIGUSR2, note); signal(SIGHUP, SIG_IGN);
	ar = (struct args){.flags = 1ull << 32, .exit_signal = SIGCHLD};
	if (!(pid = c3(&ar, 64))) _exit((signal(SIGUSR2, SIG_IGN) == SIG_DFL) + 2 * (signal(SIGHUP, SIG_DFL) == SIG_IGN));
	waitpid(pid, &st, 0); printf("clear_sighand %d\n", WEXITSTATUS(st));

	/* unshare and kcmp */
	SAY("unshare bad", unshare(1 << 30 | 0x40)); SAY("unshare files", unshare(CLONE_FILES)); SAY("unshare fs", unshare(CLONE_FS)); SAY("unshare vm alone", unshare(CLONE_VM));
	fflush(stdout);
	pid = raw(CLONE_FILES | SIGCHLD, 0);
	if (!pid) { pause(); _exit(0); }
	SAY("kcmp files", syscall(SYS_kcmp, getpid(), pid, 2, 0, 0)); SAY("kcmp file", syscall(SYS_kcmp, getpid(), pid, 0, 1, 3)); SAY("kcmp vm", syscall(SYS_kcmp, getpid(), pid, 1, 0, 0) != 0); SAY("kcmp bad", syscall(SYS_kcmp, getpid(), pid, 99, 0, 0)); SAY("kcmp fd", syscall(SYS_kcmp, getpid(), pid, 0, 100, 0)); SAY("kcmp nobody", syscall(SYS_kcmp, getpid(), 999999, 1, 0, 0));
	/* memory of another process */
	static char there[9000] = "hello over there", here[100];
	struct { void *p; size_t n; } l = {here, 5}, r[2] = {{there, 3}, {there + 6, 4}};
	SAY("readv", syscall(SYS_process_vm_readv, pid, &l, 1, r, 2, 0)); puts(here);
	strcpy(here, "XY"); l.n = 2; r[0].n = 2;
	SAY("writev", syscall(SYS_process_vm_writev, pid, &l, 1, r, 1, 0)); printf("mine kept: %s\n", there);
	r[0].n = 5; l.n = 5; SAY("readv", syscall(SYS_process_vm_readv, pid, &l, 1, r, 1, 0)); puts(here);
	r[0].p = (void *)8; SAY("bad remote", syscall(SYS_process_vm_readv, pid, &l, 1, r, 1, 0)); SAY("flags", syscall(SYS_process_vm_readv, pid, &l, 1, r, 1, 1)); SAY("nobody", syscall(SYS_process_vm_readv, 999999, &l, 1, r, 1, 0));
	kill(pid, SIGKILL); waitpid(pid, 0, 0);
	return 0;
}
