// What ptys and job control do, one line per fact. Runs the same on any Linux: nothing printed depends on numbers.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int master, slave;
static volatile int caught[65];

static void note(int sig) { caught[sig]++; }

static void on(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = note, .sa_flags = flags };
	sigaction(sig, &sa, 0);
}

static void say(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
	fflush(stdout);
}

static void show(const char *what, int fd)
{
	char buf[4096];
	long n = read(fd, buf, sizeof buf);
	if (n < 0) {
		say(what, n);
		return;
	}
	printf("%s: \"", what);
	for (long i = 0; i < n; i++)
		if (buf[i] < ' ' || buf[i] == '\\' || buf[i] == 127)
			printf("\\%03o", buf[i] & 255);
		else
			putchar(buf[i]);
	printf("\"\n");
	fflush(stdout);
}

static void both(void)
{
	if (openpty(&master, &slave, 0, 0, 0))
		exit(9);
}

static void done(void)
{
	close(master);
	close(slave);
}

static void type(const char *s) { if (write(master, s, strlen(s)) < 0) exit(8); }

static void raw(int fd, int min, int time)
{
	struct termios t;
	tcgetattr(fd, &t);
	cfmakeraw(&t);
	t.c_cc[VMIN] = min;
	t.c_cc[VTIME] = time;
	tcsetattr(fd, TCSANOW, &t);
}

static int wait_for(pid_t pid)
{
	int status;
	waitpid(pid, &status, WUNTRACED);
	return status;
}

static void data_flow(void)
{
	both();
	type("hello\n");
	show("echo", master);
	show("line", slave);
	if (write(slave, "a\nb", 3) != 3) exit(7);
	show("onlcr", master);
	type("\004");
	show("eof", slave);
	raw(slave, 1, 0);
	type("x\ry");
	show("raw", slave);
	int n = -1;
	type("12345");
	struct pollfd p = { slave, POLLIN };
	say("poll", poll(&p, 1, 1000));
	ioctl(slave, FIONREAD, &n);
	say("fionread", n);
	tcflush(slave, TCIFLUSH);
	ioctl(slave, FIONREAD, &n);
	say("after flush", n);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	show("nonblock", slave);
	done();
}

static void vmin_vtime(void)
{
	both();
	raw(slave, 0, 0);
	show("min 0 time 0", slave);
	raw(slave, 0, 1);
	show("min 0 time 1", slave);
	type("ab");
	show("min 0 time 1 with input", slave);
	raw(slave, 5, 1);
	type("abc");
	show("min 5 time 1", slave);
	raw(slave, 3, 0);
	type("ab");
	fcntl(slave, F_SETFL, O_NONBLOCK);
	struct pollfd p = { slave, POLLIN };
	say("poll below min", poll(&p, 1, 0));
	show("min 3 nonblock", slave);
	done();
}

static void numbers(void)
{
	int a = posix_openpt(O_RDWR | O_NOCTTY), b = posix_openpt(O_RDWR | O_NOCTTY), na, nb, nc;
	ioctl(a, TIOCGPTN, &na);
	ioctl(b, TIOCGPTN, &nb);
	say("numbers differ", na != nb);
	close(a);
	int c = posix_openpt(O_RDWR | O_NOCTTY);
	ioctl(c, TIOCGPTN, &nc);
	say("number used again", na == nc);
	char name[64];
	say("ptsname", ptsname_r(c, name, sizeof name));
	say("locked", open(name, O_RDWR | O_NOCTTY));
	unlockpt(c);
	int s = open(name, O_RDWR | O_NOCTTY);
	say("unlocked", s >= 0);
	struct stat st;
	fstat(s, &st);
	say("char device", S_ISCHR(st.st_mode));
	printf("major %d\n", (int)(st.st_rdev >> 8));
	say("isatty", isatty(s));
	say("lseek", lseek(s, 0, SEEK_CUR));
	int peer = ioctl(c, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	say("peer", peer >= 0);
	close(peer);
	close(c);
	say("open after master close", open(name, O_RDWR | O_NOCTTY));
	close(s);
	close(b);
}

static void sizes(void)
{
	both();
	struct winsize w = { 30, 100, 1, 2 };
	say("set size", ioctl(master, TIOCSWINSZ, &w));
	memset(&w, 0, sizeof w);
	ioctl(slave, TIOCGWINSZ, &w);
	printf("size %d %d %d %d\n", w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel);
	done();
}

static void packets(void)
{
	both();
	int one = 1;
	say("pktmode", ioctl(master, TIOCPKT, &one));
	if (write(slave, "data", 4) != 4) exit(7);
	show("packet", master);
	tcflush(slave, TCIFLUSH);
	show("flush read", master);
	tcflow(slave, TCOOFF);
	show("stop", master);
	tcflow(slave, TCOON);
	show("start", master);
	struct termios t;
	tcgetattr(slave, &t);
	t.c_iflag &= ~IXON;
	tcsetattr(slave, TCSANOW, &t);
	show("nostop", master);
	done();
}

static void ends(void)
{
	both();
	if (write(slave, "last words", 10) != 10) exit(7);
	close(slave);
	show("after slave close", master);
	show("then", master);
	struct pollfd p = { master, POLLIN };
	poll(&p, 1, 0);
	printf("poll %x\n", p.revents);
	close(master);
	both();
	close(master);
	show("after master close", slave);
	say("write", write(slave, "x", 1));
	p.fd = slave;
	p.events = POLLIN | POLLOUT;
	poll(&p, 1, 0);
	printf("poll %x\n", p.revents);
	struct termios t;
	say("tcgetattr", tcgetattr(slave, &t));
	close(slave);
}

static void full(void)
{
	both();
	raw(slave, 1, 0);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	char block[1024];
	memset(block, 'x', sizeof block);
	long total = 0, n;
	while ((n = write(slave, block, sizeof block)) > 0)
		total += n;
	say("full", n);
	say("room for some kilobytes", total > 4000 && total < 200000);
	fcntl(master, F_SETFL, O_NONBLOCK);
	char buf[65536];
	long got = 0;
	for (int i = 0; i < 1000 && got < total; i++) {
		if ((n = read(master, buf, sizeof buf)) > 0)
			got += n;
		else
			usleep(1000);
	}
	say("all arrives", got == total);
	fcntl(slave, F_SETFL, 0);
	pid_t pid = fork();
	if (!pid) {
		for (int i = 0; i < 200; i++)
			if (write(slave, block, sizeof block) != sizeof block)
				_exit(1);
		_exit(0);
	}
	fcntl(master, F_SETFL, 0);
	for (got = 0; got < 200 * 1024; got += n)
		if ((n = read(master, buf, sizeof buf)) <= 0)
			break;
	say("200 KB through a blocking writer", got);
	say("writer", wait_for(pid));
	done();
}

// A session on the pty: the child becomes leader and owner, body() runs in it.
static int session(void (*body)(void))
{
	pid_t pid = fork();
	if (!pid) {
		setsid();
		close(master);
		say("ctty", ioctl(slave, TIOCSCTTY, 0));
		body();
		exit(0);
	}
	return pid;
}

static void signals_body(void)
{
	on(SIGINT, 0);
	on(SIGQUIT, 0);
	on(SIGWINCH, 0);
	say("foreground", tcgetpgrp(slave) == getpid());
	say("session", tcgetsid(slave) == getsid(0));
	int tty = open("/dev/tty", O_RDWR);
	say("/dev/tty", tty >= 0);
	close(tty);
	if (write(slave, "ready", 5) < 0) exit(1);
	show("read with SIGINT", slave);
	say("SIGINT", caught[SIGINT]);
	if (write(slave, "ready", 5) < 0) exit(1);
	show("read with SIGQUIT", slave);
	say("SIGQUIT", caught[SIGQUIT]);
	if (write(slave, "ready", 5) < 0) exit(1);
	show("read with SIGWINCH", slave);
	say("SIGWINCH", caught[SIGWINCH]);
}

static void settle(const char *for_what)
{
	char buf[256], seen[1024] = "";
	while (!strstr(seen, for_what)) {
		long n = read(master, buf, sizeof buf - 1);
		if (n <= 0)
			return;
		buf[n] = 0;
		strcat(seen, buf);
	}
	usleep(20000);
}

static void signals(void)
{
	both();
	int pid = session(signals_body);
	struct winsize w = { 11, 22, 0, 0 };
	settle("ready");
	type("abc\003");
	settle("ready");
	type("\034");
	settle("ready");
	ioctl(master, TIOCSWINSZ, &w);
	say("session ends", wait_for(pid));
	done();
}

static void jobs_body(void)
{
	int p[2];
	char c;
	signal(SIGTTOU, SIG_IGN);
	if (pipe(p)) exit(1);
	pid_t pid = fork();
	if (!pid) {
		setpgid(0, 0);
		show("background read", slave);         // stops; continued in the foreground, reads
		_exit(0);
	}
	setpgid(pid, pid);
	int status = wait_for(pid);
	printf("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status) == SIGTTIN);
	say("to foreground", tcsetpgrp(slave, pid));
	kill(-pid, SIGCONT);
	usleep(20000);
	if (write(slave, "type", 4) < 0) exit(1);
	status = wait_for(pid);
	printf("exited %d\n", WIFEXITED(status));
	say("back", tcsetpgrp(slave, getpid()));
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		signal(SIGTTIN, SIG_IGN);
		show("background read, SIGTTIN ignored", slave);
		struct termios t;
		say("background tcgetattr", tcgetattr(slave, &t));
		say("background write", write(slave, "bg\n", 3));
		t.c_lflag |= TOSTOP;
		say("background tcsetattr, SIGTTOU ignored", tcsetattr(slave, TCSANOW, &t));
		signal(SIGTTOU, SIG_DFL);
		say("background write with TOSTOP", write(slave, "bg\n", 3));
		_exit(0);
	}
	setpgid(pid, pid);
	status = wait_for(pid);
	printf("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status) == SIGTTOU);
	tcsetpgrp(slave, pid);
	kill(-pid, SIGCONT);
	status = wait_for(pid);
	printf("exited %d\n", WIFEXITED(status));
	tcsetpgrp(slave, getpid());
	say("not my session", tcsetpgrp(slave, getppid()));
	say("no such group", tcsetpgrp(slave, 999999));
	// An orphaned background group is not stopped.
	if (pipe(p)) exit(1);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		if (!fork()) {
			while (getppid() != 1)
				usleep(1000);
			show("orphan reads", slave);
			if (write(p[1], "x", 1) < 0) _exit(1);
		}
		_exit(0);
	}
	wait_for(pid);
	if (read(p[0], &c, 1) != 1) exit(1);
	on(SIGTSTP, 0);
	if (write(slave, "suspend", 7) < 0) exit(1);
	show("read with SIGTSTP", slave);
	say("SIGTSTP", caught[SIGTSTP]);
}

static void jobs(void)
{
	both();
	int pid = session(jobs_body);
	settle("type");
	type("typed\n");
	settle("suspend");
	type("\032");
	say("session ends", wait_for(pid));
	done();
}

static void hangup_body(void)
{
	on(SIGHUP, 0);
	on(SIGCONT, 0);
	if (write(slave, "ready", 5) < 0) exit(1);
	while (!caught[SIGHUP] || !caught[SIGCONT])
		usleep(1000);
	say("SIGHUP", caught[SIGHUP]);
	say("SIGCONT", caught[SIGCONT]);
	show("read after hangup", slave);
	say("write after hangup", write(slave, "x", 1));
	say("/dev/tty after hangup", open("/dev/tty", O_RDWR));
}

static void leader_exit_body(void)
{
	int p[2];
	if (pipe(p)) exit(1);
	if (!fork()) {
		on(SIGHUP, 0);
		if (write(p[1], "x", 1) < 0) _exit(1);
		while (!caught[SIGHUP])
			usleep(1000);
		say("foreground gets SIGHUP when the leader exits", 1);
		say("/dev/tty then", open("/dev/tty", O_RDWR));
		_exit(0);
	}
	char c;
	if (read(p[0], &c, 1) != 1) exit(1);
}

static void hangups(void)
{
	both();
	int pid = session(hangup_body);
	settle("ready");
	close(master);
	say("session ends", wait_for(pid));
	close(slave);
	both();
	pid = session(leader_exit_body);
	int status = wait_for(pid);
	usleep(200000);                         // the child it left behind has its say
	say("session ends", status);
	done();
	if (!fork()) {
		setsid();
		say("/dev/tty without a terminal", open("/dev/tty", O_RDWR));
		both();
		char *name = ttyname(slave);
		int fd = open(name, O_RDWR | O_NOCTTY);
		say("O_NOCTTY", open("/dev/tty", O_RDWR));
		close(fd);
		fd = open(name, O_RDWR);
		say("without it", open("/dev/tty", O_RDWR) >= 0);
		say("give it up", (signal(SIGHUP, SIG_IGN), ioctl(fd, TIOCNOTTY)));
		say("gone", open("/dev/tty", O_RDWR));
		_exit(0);
	}
	wait(0);
}

static void sigio(void)
{
	both();
	on(SIGIO, SA_RESTART);
	on(SIGUSR1, SA_RESTART);
	say("owner", fcntl(slave, F_SETOWN, getpid()));
	fcntl(slave, F_SETFL, O_ASYNC | O_NONBLOCK);
	type("half");
	show("half a line", slave);
	say("SIGIO", caught[SIGIO]);
	type(" a line\n");
	show("line", slave);
	say("SIGIO", caught[SIGIO]);
	fcntl(slave, F_SETSIG, SIGUSR1);
	type("more\n");
	show("line", slave);
	say("SIGUSR1", caught[SIGUSR1]);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	type("more\n");
	show("line", slave);
	say("SIGUSR1", caught[SIGUSR1]);
	done();
}

static void rest(void)
{
	both();
	int n = 0;
	say("exclusive", ioctl(slave, TIOCEXCL));
	ioctl(slave, TIOCGEXCL, &n);
	say("is exclusive", n);
	ioctl(slave, TIOCNXCL);
	n = -1;
	say("TIOCGETD", ioctl(slave, TIOCGETD, &n));
	say("discipline", n);
	n = 77;
	say("TIOCSETD of none", ioctl(slave, TIOCSETD, &n));
	say("TIOCSTI", ioctl(slave, TIOCSTI, "Q"));
	type("\n");
	show("pushed", slave);
	say("TIOCOUTQ", ioctl(slave, TIOCOUTQ, &n));
	say("drain", tcdrain(slave));
	say("break", tcsendbreak(slave, 0));
	say("bad flush", ioctl(slave, TCFLSH, 9));
	say("bad flow", ioctl(slave, TCXONC, 9));
	say("unknown", ioctl(slave, 0x54FF, 0));
	say("peer of a slave", ioctl(slave, TIOCGPTPEER, 0));
	say("bad address", ioctl(slave, TCGETS, 8));
	struct termios t;
	tcgetattr(slave, &t);
	printf("%x %x %x %x", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
	for (int i = 0; i < 17; i++)
		printf(" %d", t.c_cc[i]);
	printf(" speed %d %d\n", cfgetispeed(&t) == B38400, cfgetospeed(&t) == B38400);
	tcgetattr(master, &t);
	printf("of the master: %x %x\n", t.c_iflag, t.c_lflag);
	cfsetspeed(&t, B115200);
	tcsetattr(slave, TCSANOW, &t);
	tcgetattr(slave, &t);
	say("B115200", cfgetospeed(&t) == B115200);
	done();
}

int main(int argc, char **argv)
{
	struct { const char *name; void (*run)(void); } all[] = {
		{ "data_flow", data_flow }, { "vmin_vtime", vmin_vtime }, { "numbers", numbers }, { "sizes", sizes },
		{ "packets", packets }, { "ends", ends }, { "full", full }, { "signals", signals }, { "jobs", jobs },
		{ "hangups", hangups }, { "rest", rest }, { "sigio", sigio },
	};
	alarm(60);
	signal(SIGHUP, SIG_IGN);
	setvbuf(stdout, 0, _IOLBF, 0);
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (argc < 2 || !strcmp(argv[1], all[i].name)) {
			signal(SIGHUP, SIG_DFL);
			all[i].run();
		}
	return 0;
}
