#include "t.h"
/* Random calls on a few sockets, none of which blocks; every answer is printed. argv[1]: the seed. */
static unsigned long x; static unsigned rnd(unsigned n) { x = x * 6364136223846793005ul + 1442695040888963407ul; return (unsigned)(x >> 33) % n; }
static int null, fd[10]; static char b[70000];
static void out(const char *what, int i, long r) { if (r < 0 && errno == ENOTCONN && what[0] != 'r') errno = EPIPE;  /* Linux of today looks first at the shutdown */ printf("%s %d: %ld %s\n", what, i, r, r < 0 ? strerrorname_np(errno) : ""); }
static int passed(struct msghdr *m, int keep)   /* takes descriptors that arrived into free slots */
{
	int n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) if (c->cmsg_type == SCM_RIGHTS) {
		int k = (c->cmsg_len - CMSG_LEN(0)) / 4, f[8]; memcpy(f, CMSG_DATA(c), k * 4);
		for (int j = 0; j < k; j++, n++) { int s = 0; while (s < 10 && fd[s] >= 0) s++; if (s < 10 && keep) fd[s] = f[j]; else close(f[j]); }
	}
	return n;
}
int main(int argc, char **argv)
{
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
	x = atol(argv[1]) * 77777 + 1; signal(SIGPIPE, SIG_IGN); null = open("/dev/null", O_RDWR); for (int i = 0; i < 10; i++) fd[i] = -1;
	for (int step = 0; step < 1500; step++) {
		int i = rnd(10), op = rnd(23), r, v; struct sockaddr_un a; socklen_t l; char nm[20]; errno = 0;
		snprintf(nm, sizeof nm, rnd(2) ? "@rnd%d" : "rnd%d", rnd(4));
		char ctl[128]; struct iovec iv = {b, 1 + (rnd(4) ? rnd(30) : rnd(60000))}; struct msghdr m = {0, 0, &iv, 1, 0, 0, 0};
		switch (op) {
		case 0: case 1: { int p[2], j = rnd(10); if (i == j) break; if (fd[i] >= 0) close(fd[i]); if (fd[j] >= 0) close(fd[j]); r = socketpair(AF_UNIX, types[rnd(3)] | SOCK_NONBLOCK, 0, p); fd[i] = p[0]; fd[j] = p[1]; out("pair", i * 10 + j, r); break; }
		case 2: if (fd[i] < 0) { fd[i] = socket(AF_UNIX, types[rnd(3)] | SOCK_NONBLOCK, 0); out("socket", i, fd[i] >= 0); } break;
		case 3: if (rnd(2)) break; out("close", i, close(fd[i])); fd[i] = -1; break;
		case 4: l = sizeof a; if (!getsockname(fd[i], (void *)&a, &l) && l > 2) break;   /* 5.3 makes the file before it says EINVAL */
			l = un(&a, nm); out("bind", i, bind(fd[i], (void *)&a, l)); break;
		case 5: case 6: l = un(&a, nm); out("connect", i, connect(fd[i], (void *)&a, l)); break;
		case 7: out("listen", i, listen(fd[i], rnd(4))); break;
		case 8: case 9: l = sizeof a; r = accept4(fd[i], (void *)&a, &l, SOCK_NONBLOCK); out("accept", i, r < 0 ? r : (int)l); if (r >= 0) { int s = 0; while (s < 10 && fd[s] >= 0) s++; if (s < 10) fd[s] = r; else close(r); } break;
		case 10: case 11: out("send", i, send(fd[i], b, iv.iov_len, 0)); break;
		case 12: l = un(&a, nm); out("sendto", i, sendto(fd[i], b, iv.iov_len, 0, (void *)&a, l)); break;
		case 13: case 14: out("recv", i, recv(fd[i], b, iv.iov_len, 0)); break;
		case 15: out("peek", i, recv(fd[i], b, iv.iov_len, MSG_PEEK | (rnd(2) ? MSG_TRUNC : 0))); break;
		case 16: if (rnd(3)) break; v = rnd(4); out("shutdown", i * 10 + v, shutdown(fd[i], v)); break;
		case 17: v = -1; r = ioctl(fd[i], FIONREAD, &v); out("inq", i, r < 0 ? r : v); r = ioctl(fd[i], 0x5411, &v); out("outq", i, r < 0 ? r : v); break;
		case 18: l = sizeof a; r = getpeername(fd[i], (void *)&a, &l); out("peer", i, r < 0 ? r : (int)l); l = sizeof a; r = getsockname(fd[i], (void *)&a, &l); out("name", i, r < 0 ? r : (int)l); break;
		case 19: l = 4; v = 0; r = getsockopt(fd[i], SOL_SOCKET, SO_ERROR, &v, &l); out("error", i, r < 0 ? r : v); break;
		case 20: { int f[2] = {null, null};  /* no sockets: Linux collects garbage later today */ int k = rnd(2) + 1; struct cmsghdr *c = (void *)ctl; memset(ctl, 0, sizeof ctl); c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(4 * k); memcpy(CMSG_DATA(c), f, 4 * k); m.msg_control = ctl; m.msg_controllen = CMSG_SPACE(4 * k); iv.iov_len = 1 + rnd(20); out("pass", i, sendmsg(fd[i], &m, 0)); break; }
		case 21: m.msg_control = ctl; m.msg_controllen = rnd(3) ? sizeof ctl : rnd(30); r = recvmsg(fd[i], &m, rnd(3) ? 0 : MSG_PEEK); out("recvmsg", i, r); if (r >= 0) printf("flags %x files %d\n", m.msg_flags, passed(&m, rnd(3) == 0)); break;
		case 22: unlink(nm); break;
		}
		struct pollfd p[10]; for (int j = 0; j < 10; j++) { p[j].fd = fd[j]; p[j].events = -1; p[j].revents = 0; }
		poll(p, 10, 0); printf("%d.", step); for (int j = 0; j < 10; j++) printf(" %x", p[j].revents & 0xffff); printf("\n");
	}
	return 0;
}
