#include "t.h"
static int pfd(int fd, int ev) { struct pollfd p = {fd, ev, 0}; poll(&p, 1, 0); return p.revents; }
int main(void)
{
	struct sockaddr_un a, b, from; socklen_t l, al, bl; char buf[300000]; int s[2], v, n;
	signal(SIGPIPE, SIG_IGN);
	int x = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0), y = socket(AF_UNIX, SOCK_RAW, 0), z = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	v = 0; l = 4; getsockopt(y, SOL_SOCKET, SO_TYPE, &v, &l); printf("raw is %d\n", v);
	al = un(&a, "@abs-n1-test"); SHOW(bind(x, (void *)&a, al)); SHOW(bind(y, (void *)&a, al)); SHOW(bind(x, (void *)&a, al));
	bl = un(&b, "file"); SHOW(bind(y, (void *)&b, bl));
	SHOW(sendto(z, "hi", 2, 0, (void *)&a, al)); l = sizeof from; n = recvfrom(x, buf, 10, 0, (void *)&from, &l); printf("%d ", n); name("from", &from, l);
	SHOW(sendto(y, "hello", 5, 0, (void *)&a, al)); l = sizeof from; n = recvfrom(x, buf, 3, MSG_TRUNC, (void *)&from, &l); printf("%d ", n); name("from", &from, l);
	SHOW(recv(x, buf, 1, 0)); SHOW(send(z, "x", 1, 0)); SHOW(sendto(z, "x", 1, 0, (void *)&a, al - 1));
	SHOW(send(x, "x", 1, MSG_OOB)); SHOW(listen(x, 1)); SHOW(accept(x, 0, 0));
	SHOW(connect(z, (void *)&a, al)); SHOW(send(z, "", 0, 0)); SHOW(send(z, "abc", 3, 0)); SHOW(recv(x, buf, 10, 0)); SHOW(recv(x, buf, 10, 0));
	SHOW(connect(x, (void *)&b, bl)); SHOW(send(z, "abc", 3, 0)); SHOW(connect(z, (void *)&a, al));
	from.sun_family = AF_UNSPEC; SHOW(connect(x, (void *)&from, sizeof from));
	for (n = 0; send(z, "q", 1, 0) == 1; n++); printf("queued %d %s poll %x\n", n, strerrorname_np(errno), pfd(z, POLLOUT));
	SHOW(recv(x, buf, 10, 0)); printf("poll %x\n", pfd(z, POLLOUT)); SHOW(ioctl(x, FIONREAD, &v)); printf("%d\n", v);
	close(x); SHOW(send(z, "x", 1, 0)); SHOW(send(z, "x", 1, 0)); SHOW(sendto(z, "x", 1, 0, (void *)&a, al));
	SHOW(sendto(z, buf, 250000, 0, (void *)&b, bl)); SHOW(sendto(z, buf, 150000, 0, (void *)&b, bl)); SHOW(recv(y, buf, 300000, 0));
	int st = socket(AF_UNIX, SOCK_STREAM, 0); SHOW(connect(st, (void *)&b, bl)); SHOW(shutdown(y, SHUT_RD)); SHOW(sendto(z, "x", 1, 0, (void *)&b, bl));
	SHOW(recv(y, buf, 1, MSG_DONTWAIT)); SHOW(recv(y, buf, 1, 0));
	for (int type = SOCK_DGRAM; type <= SOCK_SEQPACKET; type += SOCK_SEQPACKET - SOCK_DGRAM) {
		printf("pair %d\n", type); SHOW(socketpair(AF_UNIX, type, 0, s) * 0);
		fcntl(s[0], F_SETFL, O_NONBLOCK); fcntl(s[1], F_SETFL, O_NONBLOCK);
		SHOW(write(s[0], "one", 3)); SHOW(write(s[0], "two", 3)); SHOW(read(s[1], buf, 2)); SHOW(read(s[1], buf, 20)); SHOW(read(s[1], buf, 20));
		for (n = 0; write(s[0], buf, 1000) == 1000; n++); printf("n %d %s\n", n, strerrorname_np(errno)); printf("polls %x %x\n", pfd(s[0], -1), pfd(s[1], -1));
		SHOW(shutdown(s[0], SHUT_WR)); SHOW(write(s[0], "x", 1)); printf("polls %x %x\n", pfd(s[0], -1), pfd(s[1], -1));
		while ((n = read(s[1], buf, 2000)) > 0); printf("end %d %s\n", n, n ? strerrorname_np(errno) : "");
		close(s[0]); SHOW(write(s[1], "x", 1)); SHOW(read(s[1], buf, 1)); printf("poll %x\n", pfd(s[1], -1)); close(s[1]);
	}
	struct mmsghdr m[3]; struct iovec iv[3]; memset(m, 0, sizeof m);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	for (int i = 0; i < 3; i++) { iv[i].iov_base = buf + i * 10; iv[i].iov_len = i + 1; m[i].msg_hdr.msg_iov = &iv[i]; m[i].msg_hdr.msg_iovlen = 1; }
	SHOW(sendmmsg(s[0], m, 3, 0)); printf("%d %d %d\n", m[0].msg_len, m[1].msg_len, m[2].msg_len);
	for (int i = 0; i < 3; i++) iv[i].iov_len = 2;
	SHOW(recvmmsg(s[1], m, 3, MSG_WAITFORONE, 0)); printf("%d %d %d flags %x %x\n", m[0].msg_len, m[1].msg_len, m[2].msg_len, m[1].msg_hdr.msg_flags, m[2].msg_hdr.msg_flags);
	struct timespec ts = {0, 20000000}; struct timeval tv = {0, 30000}; setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	SHOW(recvmmsg(s[1], m, 2, 0, &ts)); ts.tv_nsec = -1; SHOW(recvmmsg(s[1], m, 2, 0, &ts)); SHOW(sendmmsg(s[0], m, 0, 0)); SHOW(sendmmsg(s[0], (void *)1, 1, 0));
	m[0].msg_hdr.msg_iovlen = 2000; SHOW(sendmsg(s[0], &m[0].msg_hdr, 0)); m[0].msg_hdr.msg_iovlen = 1; m[0].msg_hdr.msg_name = buf; m[0].msg_hdr.msg_namelen = -1; SHOW(sendmsg(s[0], &m[0].msg_hdr, 0));
	return 0;
}
