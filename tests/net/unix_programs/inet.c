#include "t.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
static void get(int s, const char *n, int o) { int v = -7; socklen_t l = 4; errno = 0; int r = getsockopt(s, SOL_SOCKET, o, &v, &l); printf("%s: %d %s value %d len %d\n", n, r, r ? strerrorname_np(errno) : "", v, (int)l); }
static void set(int s, const char *n, int o, int v) { errno = 0; int r = setsockopt(s, SOL_SOCKET, o, &v, 4); printf("set %s %d: %d %s\n", n, v, r, r ? strerrorname_np(errno) : ""); get(s, n, o); }
#define GET(o) get(s, #o, o)
#define SET(o, v) set(s, #o, o, v)
static void control(int s, int room)
{
	char b[64], ctl[256]; struct iovec iv = {b, 64}; struct sockaddr_in f; struct msghdr m = {&f, sizeof f, &iv, 1, ctl, room, 0}; errno = 0; int n = recvmsg(s, &m, MSG_DONTWAIT);
	printf("recvmsg %d %s", n, n < 0 ? strerrorname_np(errno) : ""); if (n >= 0) { printf(" namelen %d flags %x controllen %d", (int)m.msg_namelen, m.msg_flags, (int)m.msg_controllen); for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) { printf(" [%d %d %d", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len); if (c->cmsg_type == SO_RXQ_OVFL) printf(" = %d", *(int *)CMSG_DATA(c)); printf("]"); } } printf("\n");
}
int main(void)
{
	int v, n; socklen_t l; char b[300000]; struct sockaddr_in a = {AF_INET, htons(45671), {htonl(INADDR_LOOPBACK)}}, o;
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		int s = socket(AF_INET, type, 0); printf("type %d\n", type);
		GET(SO_TYPE); GET(SO_PROTOCOL); GET(SO_DOMAIN); GET(SO_ERROR); GET(SO_ACCEPTCONN); GET(SO_RCVLOWAT); GET(SO_PEEK_OFF); GET(SO_PRIORITY); GET(SO_NO_CHECK); GET(SO_BROADCAST);
		SET(SO_REUSEPORT, 1); SET(SO_RCVBUF, 5000); SET(SO_SNDBUF, 5000); SET(SO_MARK, 5); SET(SO_PEEK_OFF, 3); SET(SO_RCVLOWAT, 9); SET(SO_KEEPALIVE, 1); SET(SO_OOBINLINE, 1); SET(SO_DONTROUTE, 1);
		SHOW(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2)); l = 64; SHOW(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, b, &l)); printf("%.*s %d\n", (int)l, b, (int)l); SHOW(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nope9", 5)); SHOW(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
		v = 1; SHOW(setsockopt(s, SOL_SOCKET, 62, &v, 4)); get(s, "bindtoifindex", 62); SHOW(ioctl(s, FIONREAD, &v)); l = 12; int cr[3]; SHOW(getsockopt(s, SOL_SOCKET, SO_PEERCRED, cr, &l)); printf("%d %d %d\n", cr[0], cr[1], cr[2]); SHOW(getpeername(s, (void *)&o, &l)); close(s);
	}
	int r = socket(AF_INET, SOCK_DGRAM, 0), s = socket(AF_INET, SOCK_DGRAM, 0); bind(r, (void *)&a, sizeof a);
	v = 1; setsockopt(r, SOL_SOCKET, SO_TIMESTAMP, &v, 4); SHOW(sendto(s, "one", 3, 0, (void *)&a, sizeof a)); control(r, 256); setsockopt(r, SOL_SOCKET, SO_TIMESTAMPNS, &v, 4); sendto(s, "two", 3, 0, (void *)&a, sizeof a); control(r, 20);
	setsockopt(r, SOL_SOCKET, SO_RXQ_OVFL, &v, 4); v = 0; setsockopt(r, SOL_SOCKET, SO_TIMESTAMPNS, &v, 4); v = 4000; setsockopt(r, SOL_SOCKET, SO_RCVBUF, &v, 4); for (n = 0; n < 40; n++) sendto(s, b, 700, 0, (void *)&a, sizeof a); for (n = 0; recv(r, b, 1, MSG_DONTWAIT) == 1; n++); printf("some arrived %d\n", n > 1 && n < 40); sendto(s, "x", 1, 0, (void *)&a, sizeof a); { char ctl[64]; struct iovec iv = {b, 9}; struct msghdr m = {0, 0, &iv, 1, ctl, 64, 0}; recvmsg(r, &m, 0); struct cmsghdr *c = (void *)ctl; printf("drops told %d %d\n", (int)m.msg_controllen, c->cmsg_type == SO_RXQ_OVFL && *(int *)CMSG_DATA(c) == 40 - n); }
	SHOW(sendto(s, b, 70000, 0, (void *)&a, sizeof a)); SHOW(send(s, b, 1, 0)); SHOW(connect(s, (void *)&a, sizeof a)); SHOW(send(s, "abc", 3, 0)); SHOW(recv(r, b, 2, MSG_TRUNC)); SHOW(sendto(s, "x", 1, 0, (void *)&a, 5)); close(r); SHOW(send(s, "lost", 4, 0)); usleep(1000); get(s, "SO_ERROR", SO_ERROR); SHOW(send(s, "lost", 4, 0)); SHOW(recv(s, b, 1, 0));
	/* streams: wake-ups, low water, linger, pending data */
	int ls = socket(AF_INET, SOCK_STREAM, 0); v = 1; setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &v, 4); SHOW(bind(ls, (void *)&a, sizeof a)); SHOW(listen(ls, 5)); int c = socket(AF_INET, SOCK_STREAM, 0); SHOW(connect(c, (void *)&a, sizeof a)); SHOW(connect(c, (void *)&a, sizeof a)); l = sizeof o; int d = accept4(ls, (void *)&o, &l, SOCK_NONBLOCK); printf("from %s %d\n", inet_ntoa(o.sin_addr), (int)l); l = sizeof o; getpeername(d, (void *)&o, &l); printf("%s\n", inet_ntoa(o.sin_addr));
	v = 5; setsockopt(d, SOL_SOCKET, SO_RCVLOWAT, &v, 4); struct pollfd p = {d, POLLIN, 0}; send(c, "abc", 3, 0); printf("poll %d\n", poll(&p, 1, 20)); send(c, "defgh", 5, 0); printf("poll %d\n", poll(&p, 1, 20)); v = 1; setsockopt(d, SOL_SOCKET, SO_RCVLOWAT, &v, 4);
	SHOW(recv(d, b, 3, MSG_PEEK)); SHOW(ioctl(d, FIONREAD, &v)); printf("%d\n", v); SHOW(recv(d, b, 100, 0)); SHOW(recv(d, b, 100, 0)); SHOW(send(c, b, 1, MSG_OOB)); usleep(1000); SHOW(ioctl(d, 0x8905, &v)); printf("atmark %d\n", v); SHOW(recv(d, b, 10, MSG_OOB)); SHOW(recv(d, b, 10, MSG_OOB));
	signal(SIGPIPE, SIG_IGN); SHOW(shutdown(c, SHUT_WR)); usleep(1000); SHOW(recv(d, b, 10, 0)); SHOW(send(d, "still", 5, 0)); usleep(1000); SHOW(recv(c, b, 10, 0)); SHOW(send(c, "x", 1, 0)); struct linger lg = {1, 0}; setsockopt(d, SOL_SOCKET, SO_LINGER, &lg, sizeof lg); close(d); usleep(1000); SHOW(recv(c, b, 1, 0)); SHOW(recv(c, b, 1, 0));
	SHOW(accept(c, 0, 0)); SHOW(listen(c, 1)); int pr[2]; SHOW(socketpair(AF_INET, SOCK_STREAM, 0, pr)); return 0;
}
