#include "t.h"
static int pfd(int fd, int ev) { struct pollfd p = {fd, ev, 0}; poll(&p, 1, 0); return p.revents; }
int main(void)
{
	struct sockaddr_un a, b; socklen_t l, al; char buf[100000]; int s[2], v;
	signal(SIGPIPE, SIG_IGN);
	int ls = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	SHOW(listen(ls, 5));
	al = un(&a, "sock");
	SHOW(bind(ls, (void *)&a, al));
	SHOW(bind(c, (void *)&a, al));
	SHOW(bind(ls, (void *)&a, 2 + 3));
	SHOW(connect(c, (void *)&a, al));
	SHOW(listen(ls, 1));
	SHOW(accept4(ls, 0, 0, SOCK_NONBLOCK | 0x10));
	fcntl(ls, F_SETFL, O_NONBLOCK);
	SHOW(accept(ls, 0, 0));
	SHOW(connect(c, (void *)&a, al));
	SHOW(connect(c, (void *)&a, al));
	printf("poll ls %x\n", pfd(ls, -1));
	l = sizeof b; int d = accept(ls, (void *)&b, &l);
	name("accepted", &b, l);
	l = sizeof b; SHOW(getsockname(d, (void *)&b, &l)); name("d", &b, l);
	l = sizeof b; SHOW(getpeername(c, (void *)&b, &l)); name("peer", &b, l);
	l = 5; SHOW(getpeername(c, (void *)&b, &l)); name("peer5", &b, l > 5 ? 5 : l); printf("%d\n", (int)l);
	l = sizeof b; SHOW(getpeername(ls, (void *)&b, &l));
	int e = socket(AF_UNIX, SOCK_STREAM, 0); fcntl(e, F_SETFL, O_NONBLOCK);
	int f = socket(AF_UNIX, SOCK_STREAM, 0); fcntl(f, F_SETFL, O_NONBLOCK);
	int g = socket(AF_UNIX, SOCK_STREAM, 0); fcntl(g, F_SETFL, O_NONBLOCK);
	SHOW(connect(e, (void *)&a, al)); SHOW(connect(f, (void *)&a, al)); SHOW(connect(g, (void *)&a, al));
	SHOW(write(c, "hello", 5)); SHOW(write(c, "world", 5));
	SHOW(recv(d, buf, 3, MSG_PEEK)); SHOW(ioctl(d, FIONREAD, &v)); printf("inq %d\n", v);
	SHOW(recv(d, buf, 100, 0)); printf("%.10s\n", buf);
	printf("polls %x %x %x\n", pfd(c, -1), pfd(d, -1), pfd(g, -1));
	SHOW(recv(d, buf, 1, MSG_DONTWAIT)); SHOW(send(c, buf, 1, MSG_OOB * 0 + MSG_DONTWAIT));
	SHOW(sendto(c, "x", 1, 0, (void *)&a, al)); SHOW(sendto(g, "x", 1, 0, (void *)&a, al));
	SHOW(write(g, "x", 1)); SHOW(read(g, buf, 1));
	SHOW(shutdown(c, SHUT_WR)); printf("polls %x %x\n", pfd(c, -1), pfd(d, -1));
	SHOW(read(d, buf, 10)); SHOW(read(d, buf, 10)); SHOW(write(c, "x", 1)); SHOW(write(d, "yy", 2));
	SHOW(shutdown(c, 7)); SHOW(shutdown(g, SHUT_RD));
	close(c); SHOW(write(d, "x", 1)); printf("poll %x\n", pfd(d, -1));
	l = 4; getsockopt(d, SOL_SOCKET, SO_ERROR, &v, &l); printf("so_error %s\n", v ? strerrorname_np(v) : "0");
	SHOW(read(d, buf, 10));
	close(ls); SHOW(read(e, buf, 1)); SHOW(read(e, buf, 1)); SHOW(write(e, "x", 1));
	SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	int n = 0; while (write(s[0], "x", 1) == 1) n++;
	printf("one-byte writes %d %s\n", n, strerrorname_np(errno)); printf("poll %x\n", pfd(s[0], -1));
	ioctl(s[0], 0x5411, &v); printf("outq %d\n", v);
	SHOW(read(s[1], buf, n)); printf("poll %x\n", pfd(s[0], -1));
	long t = 0, w; while ((w = write(s[0], buf, sizeof buf)) > 0) { t += w; printf("w %ld\n", w); }
	printf("big %ld %s\n", t, strerrorname_np(errno));
	while (t > 0) { w = read(s[1], buf, sizeof buf); printf("r %ld\n", w); t -= w; }
	struct iovec iv[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
	SHOW(writev(s[0], iv, 3)); struct iovec rv[2] = {{buf, 1}, {buf + 10, 9}}; SHOW(readv(s[1], rv, 2)); printf("%c%.4s\n", buf[0], buf + 10);
	v = 0; setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &v, 4);
	write(s[0], "0123", 4); write(s[0], "4567", 4);
	for (int i = 0; i < 4; i++) { n = recv(s[1], buf, 3, MSG_PEEK | MSG_DONTWAIT); printf("peek %d %.*s\n", n, n > 0 ? n : 0, buf); }
	n = recv(s[1], buf, 2, 0); n = recv(s[1], buf, 3, MSG_PEEK | MSG_DONTWAIT); printf("peek %d %.*s\n", n, n > 0 ? n : 0, buf);
	l = 4; getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &v, &l); printf("off %d\n", v);
	write(s[0], "89", 2); n = recv(s[1], buf, 8, MSG_WAITALL); printf("all %d %.*s\n", n, n, buf);
	SHOW(lseek(s[0], 0, SEEK_SET)); SHOW(pread(s[0], buf, 1, 0)); SHOW(ftruncate(s[0], 0)); SHOW(fsync(s[0]));
	struct stat st; fstat(s[0], &st); printf("mode %o size %ld nlink %d\n", st.st_mode, (long)st.st_size, (int)st.st_nlink);
	v = ioctl(d, 0x89e0); printf("unixfile %d\n", v < 0); fstat(v, &st); printf("mode %o flags %o\n", st.st_mode, fcntl(v, F_GETFL)); SHOW(ioctl(s[0], 0x89e0)); close(v);
	stat("sock", &st); printf("file mode %o\n", st.st_mode);
	SHOW(open("sock", O_RDWR)); SHOW(unlink("sock")); SHOW(connect(g, (void *)&a, al));
	al = un(&a, "nowhere/sock"); SHOW(bind(g, (void *)&a, al)); SHOW(connect(g, (void *)&a, al));
	creat("plain", 0644); al = un(&a, "plain"); SHOW(connect(g, (void *)&a, al)); SHOW(bind(g, (void *)&a, al));
	SHOW(bind(g, (void *)&a, 1)); a.sun_family = AF_INET; SHOW(bind(g, (void *)&a, al)); SHOW(connect(g, (void *)&a, al));
	SHOW(bind(g, (void *)&a, 111)); SHOW(bind(g, (void *)&a, 200)); SHOW(connect(g, (void *)1, 10)); SHOW(bind(1, (void *)&a, al)); SHOW(bind(99, (void *)&a, al));
	SHOW(socket(AF_UNIX, SOCK_STREAM, 1)); SHOW(socket(AF_UNIX, SOCK_STREAM, 2)); SHOW(socket(AF_UNIX, SOCK_RDM, 0)); SHOW(socket(AF_UNIX, 17, 0));
	SHOW(socket(AF_UNIX, SOCK_STREAM | 0x40, 0)); SHOW(socket(77, SOCK_STREAM, 0)); SHOW(socket(-1, SOCK_STREAM, 0)); SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, (void *)1));
	return 0;
}
