/* credentials(7), capabilities(7), prctl(2), limits: who may become whom. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define SAY(name, r) do { long r_ = (long)(r); int e_ = errno; printf("%s: %ld errno %d\n", name, r_, r_ < 0 ? e_ : 0); } while (0)
static void ids(void)
{
	uid_t r, e, s; gid_t a, b, c;
	getresuid(&r, &e, &s); getresgid(&a, &b, &c);
	printf("uid %d %d %d fs %d gid %d %d %d\n", r, e, s, setfsuid(-1), a, b, c);
}
static void caps(const char *what)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	memset(d, 0, sizeof d);
	syscall(SYS_capget, &h, d);
	printf("%s: chown eff %d perm %d, kill eff %d\n", what, d[0].effective >> CAP_CHOWN & 1, d[0].permitted >> CAP_CHOWN & 1, d[0].effective >> CAP_KILL & 1);
}
static void in_child(void (*f)(void))
{
	int st;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) { f(); fflush(stdout); _exit(0); }
	waitpid(pid, &st, 0);
	if (WIFSIGNALED(st)) printf("killed %d\n", WTERMSIG(st));
}
static void to_user(void) { SAY("setuid", setuid(1000)); ids(); caps("user"); SAY("back", setuid(0)); SAY("setresuid -1", setresuid(-1, -1, -1)); SAY("setreuid", setreuid(1000, 0)); SAY("setgid", setgid(5)); gid_t g = 7; SAY("setgroups", setgroups(1, &g)); SAY("kill init", kill(1, 0)); SAY("sethostname", sethostname("x", 1)); }
static void temporary(void) { SAY("seteuid", seteuid(1000)); ids(); caps("euid 1000"); SAY("seteuid 0", seteuid(0)); caps("euid 0"); SAY("setresuid", setresuid(1, 2, 3)); ids(); SAY("setuid to saved", setuid(3)); ids(); SAY("setreuid swap", setreuid(3, 1)); ids(); SAY("setuid 9", setuid(9)); }
static void keep(void) { SAY("keepcaps", prctl(PR_SET_KEEPCAPS, 1)); SAY("setuid", setuid(1000)); caps("kept"); }
static void groups(void) { gid_t g[5] = {9, 3, 5}, back[5]; SAY("setgroups", setgroups(3, g)); int n = getgroups(5, back); for (int i = 0; i < n; i++) printf("%d ", back[i]); SAY("count", getgroups(0, 0)); SAY("small", getgroups(2, back)); SAY("negative", getgroups(-1, back)); SAY("setresgid", setresgid(1, 2, 3)); ids(); setuid(1000); SAY("setregid", setregid(2, 1)); ids(); SAY("setgid", setgid(77)); }
static void fsuid(void) { SAY("setfsuid", setfsuid(1000)); ids(); SAY("euid follows not", geteuid()); SAY("seteuid", seteuid(5)); ids(); }
static void drop(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	syscall(SYS_capget, &h, d);
	d[0].effective &= ~(1u << CAP_CHOWN); SAY("capset", syscall(SYS_capset, &h, d)); caps("dropped"); d[0].effective |= 1u << CAP_CHOWN; SAY("raise", syscall(SYS_capset, &h, d));
	d[0].permitted &= ~(1u << CAP_CHOWN); SAY("eff above perm", syscall(SYS_capset, &h, d)); d[0].effective &= ~(1u << CAP_CHOWN); SAY("both", syscall(SYS_capset, &h, d)); caps("gone");
	d[0].permitted |= 1u << CAP_CHOWN; SAY("raise again", syscall(SYS_capset, &h, d));
	h.version = 5; SAY("version", syscall(SYS_capset, &h, d)); printf("corrected %d\n", h.version == _LINUX_CAPABILITY_VERSION_3);
	h.pid = 999999; SAY("nobody", syscall(SYS_capget, &h, d));
}
static void nproc(void)
{
	struct rlimit l = {3, 3};
	setrlimit(RLIMIT_NPROC, &l);
	if (setuid(54321)) return;
	int n = 0; pid_t p[8];
	while (n < 8 && (p[n] = fork()) > 0) n++;
	if (n < 8 && p[n] == 0) { pause(); _exit(0); }
	printf("children %d errno %d\n", n, errno);
	for (int i = 0; i < n; i++) { kill(p[i], SIGKILL); waitpid(p[i], 0, 0); }
	SAY("after", fork() == 0 ? (_exit(0), 0) : 0);
	wait(0);
	l.rlim_cur = 4; l.rlim_max = 4; SAY("raise hard", setrlimit(RLIMIT_NPROC, &l)); l.rlim_cur = 3; l.rlim_max = 2; SAY("soft above", setrlimit(RLIMIT_NPROC, &l)); l.rlim_cur = 1; SAY("lower", setrlimit(RLIMIT_NPROC, &l)); SAY("bad", setrlimit(99, &l));
	SAY("of init", prlimit(1, RLIMIT_NOFILE, 0, &l)); SAY("of nobody", prlimit(999999, RLIMIT_NOFILE, 0, &l));
}
static void prctls(void)
{
	char name[17] = {0};
	int v = -1;
	SAY("name", prctl(PR_SET_NAME, "a very long thread name")); prctl(PR_GET_NAME, name); puts(name); SAY("short", prctl(PR_SET_NAME, "s")); prctl(PR_GET_NAME, name); puts(name);
	SAY("dumpable", prctl(PR_GET_DUMPABLE)); SAY("set 2", prctl(PR_SET_DUMPABLE, 2)); SAY("set 0", prctl(PR_SET_DUMPABLE, 0)); SAY("now", prctl(PR_GET_DUMPABLE));
	SAY("pdeathsig", prctl(PR_SET_PDEATHSIG, 99)); SAY("nnp", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); SAY("nnp 0", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)); SAY("nnp junk", prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0)); SAY("nnp 1", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); SAY("nnp", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	SAY("subreaper", prctl(PR_SET_CHILD_SUBREAPER, 1)); prctl(PR_GET_CHILD_SUBREAPER, &v); printf("%d\n", v);
	SAY("slack", prctl(PR_GET_TIMERSLACK)); SAY("set", prctl(PR_SET_TIMERSLACK, 1000)); SAY("slack", prctl(PR_GET_TIMERSLACK)); SAY("reset", prctl(PR_SET_TIMERSLACK, 0)); SAY("slack", prctl(PR_GET_TIMERSLACK));
	SAY("bset chown", prctl(PR_CAPBSET_READ, 0)); SAY("bset 99", prctl(PR_CAPBSET_READ, 99)); SAY("bset drop", prctl(PR_CAPBSET_DROP, 0)); SAY("bset chown", prctl(PR_CAPBSET_READ, 0));
	SAY("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 5, 0, 0)); SAY("ambient raise", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 5, 0, 0)); SAY("ambient bad", prctl(PR_CAP_AMBIENT, 9, 5, 0, 0));
	SAY("securebits", prctl(PR_GET_SECUREBITS)); SAY("timing", prctl(PR_GET_TIMING)); SAY("unknown", prctl(12345)); SAY("fault", prctl(PR_SET_NAME, (char *)16)); SAY("seccomp", prctl(PR_GET_SECCOMP));
	SAY("thp", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)); SAY("personality", syscall(SYS_personality, 0xffffffff)); SAY("set", syscall(SYS_personality, 0x0040000)); SAY("personality", syscall(SYS_personality, 0xffffffff));
}

int main(void)
{
	struct rlimit l;
	in_child(to_user); in_child(temporary); in_child(keep); in_child(groups); in_child(fsuid); in_child(drop); in_child(nproc); in_child(prctls);
	getrlimit(RLIMIT_STACK, &l); printf("stack %ld\n", (long)l.rlim_cur);
	SAY("getrlimit", getrlimit(16, &l)); SAY("fault", syscall(SYS_getrlimit, 3, 8));
	struct rusage u; SAY("getrusage", getrusage(5, &u)); SAY("children", getrusage(RUSAGE_CHILDREN, &u)); printf("some %d\n", u.ru_minflt > 0 && u.ru_maxrss > 0);
	SAY("thread", getrusage(RUSAGE_THREAD, &u));
	SAY("reboot", syscall(SYS_reboot, 0, 0, 0, 0)); SAY("reboot as user", (setuid(1), syscall(SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0)));
	return 0;
}
