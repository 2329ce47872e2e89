#include "t.h"

static char ctl[2000];
static int sendc(int s, int level, int type, void *data, int n)
{
	struct iovec iv = {"m", 1}; struct msghdr m = {0, 0, &iv, 1, ctl, CMSG_SPACE(n), 0}; struct cmsghdr *c = (void *)ctl;
	memset(ctl, 0, sizeof ctl); c->cmsg_len = CMSG_LEN(n); c->cmsg_level = level; c->cmsg_type = type; memcpy(CMSG_DATA(c), data, n);
	return sendmsg(s, &m, 0);
}
static int fds[300];
static void recvc(int s, int room, int flags)
{
	char b[10]; struct iovec iv = {b, 10}; struct msghdr m = {0, 0, &iv, 1, ctl, room, 0}; errno = 0;
	int n = recvmsg(s, &m, flags); printf("recv %d %s flags %x controllen %d:", n, n < 0 ? strerrorname_np(errno) : "", n < 0 ? 0 : m.msg_flags, n < 0 ? 0 : (int)m.msg_controllen);
	if (n >= 0) for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		printf(" [%d %d len %d", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
		if (c->cmsg_type == SCM_CREDENTIALS) { struct ucred u; memcpy(&u, CMSG_DATA(c), sizeof u); printf(" pid %s uid %d gid %d", u.pid == getpid() ? "me" : u.pid ? "other" : "0", u.uid, u.gid); }
		if (c->cmsg_type == SCM_RIGHTS) { int k = (c->cmsg_len - CMSG_LEN(0)) / 4; memcpy(fds, CMSG_DATA(c), k * 4); for (int i = 0; i < k && i < 5; i++) printf(" fd %d cloexec %d", fds[i], fcntl(fds[i], F_GETFD)); }
		printf("]");
	}
	printf("\n");
}
int main(void)
{
	int s[2], p[2], v, many[300]; char b[10]; struct ucred u; socklen_t l;
	socketpair(AF_UNIX, SOCK_STREAM, 0, s); pipe(p);
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 8)); recvc(s[1], 100, 0); SHOW(write(fds[1], "via", 3)); SHOW(read(p[0], b, 3)); close(fds[0]); close(fds[1]);
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 8)); recvc(s[1], CMSG_LEN(4), MSG_CMSG_CLOEXEC); close(fds[0]);
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 8)); recvc(s[1], 0, 0);
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 8)); SHOW(read(s[1], b, 5));
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 8)); recvc(s[1], 100, MSG_PEEK); close(fds[0]); close(fds[1]); recvc(s[1], 100, 0); close(fds[0]); close(fds[1]);
	v = 99; SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, &v, 4)); SHOW(sendc(s[0], SOL_SOCKET, 77, &v, 4)); SHOW(sendc(s[0], 99, 77, &v, 4)); recvc(s[1], 100, 0);
	for (int i = 0; i < 300; i++) many[i] = p[0];
	SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, many, 254 * 4)); SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, many, 253 * 4)); recvc(s[1], 2000, 0);
	for (int i = 0; i < 253; i++) close(fds[i]);
	write(s[0], "a", 1); SHOW(sendc(s[0], SOL_SOCKET, SCM_RIGHTS, p, 4)); write(s[0], "b", 1); SHOW(read(s[1], b, 10)); SHOW(read(s[1], b, 10));
	l = sizeof u; SHOW(getsockopt(s[0], SOL_SOCKET, 17, &u, &l)); printf("peer %d %d %d %d\n", u.pid == getpid(), u.uid, u.gid, (int)l);
	v = 1; setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &v, 4); write(s[0], "c", 1); recvc(s[1], 100, 0);
	u.pid = getpid(); u.uid = getuid(); u.gid = getgid(); SHOW(sendc(s[0], SOL_SOCKET, SCM_CREDENTIALS, &u, sizeof u)); recvc(s[1], 100, 0);
	SHOW(sendc(s[0], SOL_SOCKET, SCM_CREDENTIALS, &u, 8)); u.pid = 999999; SHOW(sendc(s[0], SOL_SOCKET, SCM_CREDENTIALS, &u, sizeof u));
	if (!fork()) { write(s[0], "child", 5); _exit(0); } wait(0); write(s[0], "parent", 6); recvc(s[1], 100, 0); recvc(s[1], 100, 0);
	write(s[0], "d", 1); recvc(s[1], 20, 0); write(s[0], "d", 1); recvc(s[1], 8, 0);
	/* sockets in their own queues: only the collector frees them */
	for (int round = 0; round < 3; round++) {
		int a[2], c[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, a); socketpair(AF_UNIX, SOCK_STREAM, 0, c);
		pipe(p); sendc(a[0], SOL_SOCKET, SCM_RIGHTS, a, 8); sendc(a[1], SOL_SOCKET, SCM_RIGHTS, c, 8); sendc(c[0], SOL_SOCKET, SCM_RIGHTS, a, 8); sendc(c[0], SOL_SOCKET, SCM_RIGHTS, p + 1, 4);
		close(p[1]); close(a[0]); close(a[1]); close(c[0]); close(c[1]);
		int q = socket(AF_UNIX, SOCK_STREAM, 0); close(q);
		SHOW(read(p[0], b, 1)); close(p[0]);            /* end of file: its other end is gone */
	}
	printf("next fd %d\n", dup(0));
	return 0;
}
