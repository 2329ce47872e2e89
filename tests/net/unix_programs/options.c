#include "t.h"
static void get(int s, const char *n, int o) { int v = -7; socklen_t l = 4; errno = 0; int r = getsockopt(s, SOL_SOCKET, o, &v, &l); printf("%s: %d %s value %d len %d\n", n, r, r ? strerrorname_np(errno) : "", v, (int)l); }
static void set(int s, const char *n, int o, int v) { errno = 0; int r = setsockopt(s, SOL_SOCKET, o, &v, 4); printf("set %s %d: %d %s\n", n, v, r, r ? strerrorname_np(errno) : ""); get(s, n, o); }
#define GET(o) get(s, #o, o)
#define SET(o, v) set(s, #o, o, v)
int main(void)
{
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), v; socklen_t l; struct timeval tv; struct linger lg; char b[64];
	GET(SO_DEBUG); GET(SO_REUSEADDR); GET(SO_TYPE); GET(SO_ERROR); GET(SO_DONTROUTE); GET(SO_BROADCAST); GET(SO_SNDBUF); GET(SO_RCVBUF); GET(SO_KEEPALIVE); GET(SO_OOBINLINE);
	GET(SO_NO_CHECK); GET(SO_PRIORITY); GET(SO_REUSEPORT); GET(SO_PASSCRED); GET(SO_RCVLOWAT); GET(SO_SNDLOWAT); GET(SO_ACCEPTCONN); GET(SO_TIMESTAMP); GET(SO_PROTOCOL); GET(SO_DOMAIN);
	GET(SO_RXQ_OVFL); GET(SO_PEEK_OFF); GET(SO_LOCK_FILTER); GET(SO_INCOMING_CPU); GET(SO_MARK); GET(SO_PEERSEC); GET(999); GET(SO_BSDCOMPAT);
	SET(SO_REUSEADDR, 5); SET(SO_BROADCAST, 1); SET(SO_SNDBUF, 10000); SET(SO_SNDBUF, 1); SET(SO_RCVBUF, 1); SET(SO_KEEPALIVE, 1); SET(SO_KEEPALIVE, 0);
	SET(SO_PRIORITY, 6); SET(SO_RCVLOWAT, 0); SET(SO_RCVLOWAT, 17); SET(SO_RCVLOWAT, -1); SET(SO_SNDLOWAT, 5); SET(SO_TYPE, 1); SET(SO_ERROR, 1); SET(SO_DOMAIN, 1); SET(SO_PROTOCOL, 1); SET(SO_PEEK_OFF, 5); SET(SO_PEEK_OFF, -1);
	SET(SO_TIMESTAMP, 1); GET(SO_TIMESTAMPNS); SET(SO_TIMESTAMPNS, 1); GET(SO_TIMESTAMP); SET(SO_TIMESTAMP, 0); SET(SO_OOBINLINE, 1); SET(SO_NO_CHECK, 1); SET(SO_DETACH_FILTER, 1); SET(SO_ACCEPTCONN, 1); SET(SO_INCOMING_CPU, 1); SET(SO_LOCK_FILTER, 1); SET(SO_LOCK_FILTER, 0); SET(1000, 1);
	tv.tv_sec = 2; tv.tv_usec = 500001; SHOW(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv)); l = sizeof tv; getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &l); printf("%ld.%06ld %d\n", tv.tv_sec, tv.tv_usec, (int)l);
	tv.tv_usec = 1000000; SHOW(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv)); SHOW(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, 8)); tv.tv_sec = -1; tv.tv_usec = 0; SHOW(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv)); SHOW(recv(s, b, 1, 0));
	tv.tv_sec = 0; tv.tv_usec = 20000; setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv); SHOW(recv(s, b, 1, 0));
	lg.l_onoff = 1; lg.l_linger = 7; SHOW(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg)); SHOW(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, 4)); l = sizeof lg; getsockopt(s, SOL_SOCKET, SO_LINGER, &lg, &l); printf("%d %d %d\n", lg.l_onoff, lg.l_linger, (int)l);
	SHOW(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, 3)); SHOW(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, (void *)1, 4)); SHOW(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, -1)); SHOW(setsockopt(s, 6, 1, &v, 4)); l = 4; SHOW(getsockopt(s, 6, 1, &v, &l));
	l = -1; SHOW(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &l)); l = 2; v = 0x7fffffff; SHOW(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &l)); printf("%x %d\n", v, (int)l); SHOW(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, (void *)1)); SHOW(getsockopt(1, SOL_SOCKET, SO_TYPE, &v, &l));
	l = 12; int cr[3]; SHOW(getsockopt(s, SOL_SOCKET, SO_PEERCRED, cr, &l)); printf("%d %d %d\n", cr[0], cr[1], cr[2]);
	l = 64; SHOW(getsockopt(s, SOL_SOCKET, SO_PEERNAME, b, &l)); SHOW(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "", 0)); l = 64; SHOW(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, b, &l)); printf("%d\n", (int)l);
	l = 36; SHOW(getsockopt(s, SOL_SOCKET, 55, b, &l)); printf("%d\n", (int)l); l = 8; SHOW(getsockopt(s, SOL_SOCKET, 57, b, &l)); printf("%d\n", (int)l); l = 4; SHOW(getsockopt(s, SOL_SOCKET, 57, b, &l));
	SHOW(ioctl(s, FIONBIO, &s)); SHOW(recv(s, b, 1, 0)); SHOW(ioctl(s, 0x12345, &v)); v = getpid(); SHOW(ioctl(s, 0x8902, &v)); SHOW(ioctl(s, 0x8904, &v)); printf("%d\n", v == getpid());
	return 0;
}
