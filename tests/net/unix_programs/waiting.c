#include "t.h"
#include <pthread.h>
#include <sys/epoll.h>
static volatile int hits; static void on(int s) { hits++; }
static int ls; static struct sockaddr_un a; static socklen_t al;
static void *acceptor(void *p) { usleep(50000); int d = accept(ls, 0, 0); usleep(20000); write(d, "ok", 2); return 0; }
static void *reader(void *p) { char b[100000]; usleep(30000); long n = 0, r; while (n < 300000 && (r = read(*(int *)p, b, sizeof b)) > 0) n += r; return (void *)n; }
int main(void)
{
	char b[100000]; int s[2], v; pthread_t t; void *r; struct sigaction sa = {0};
	sa.sa_handler = on; sigaction(SIGALRM, &sa, 0); sigaction(SIGIO, &sa, 0); signal(SIGPIPE, SIG_IGN);
	ls = socket(AF_UNIX, SOCK_STREAM, 0); al = un(&a, "w.sock"); bind(ls, (void *)&a, al); listen(ls, 0);
	int c1 = socket(AF_UNIX, SOCK_STREAM, 0), c2 = socket(AF_UNIX, SOCK_STREAM, 0), c3 = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	SHOW(connect(c1, (void *)&a, al)); pthread_create(&t, 0, acceptor, 0);
	SHOW(connect(c2, (void *)&a, al)); SHOW(connect(c3, (void *)&a, al)); SHOW(read(c1, b, 10)); pthread_join(t, 0);
	struct timeval tv = {0, 20000}; setsockopt(c2, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv); SHOW(read(c2, b, 1));
	int c4 = socket(AF_UNIX, SOCK_STREAM, 0); setsockopt(c4, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv); SHOW(connect(c4, (void *)&a, al));
	ualarm(20000, 0); SHOW(accept(ls, 0, 0)); printf("hits %d\n", hits);
	ualarm(20000, 0); SHOW(accept(ls, 0, 0)); printf("hits %d\n", hits);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	ualarm(20000, 0); SHOW(read(s[0], b, 1));
	sa.sa_flags = SA_RESTART; sigaction(SIGALRM, &sa, 0); pthread_create(&t, 0, reader, &s[1]);
	SHOW(send(s[0], b, 100000, 0)); SHOW(send(s[0], b, 100000, 0)); SHOW(send(s[0], b, 100000, 0)); pthread_join(t, &r); printf("read %ld hits %d\n", (long)r, hits);
	ualarm(10000, 0); if (!fork()) { usleep(30000); write(s[1], "r", 1); _exit(0); } SHOW(read(s[0], b, 9)); printf("hits %d\n", hits); wait(&v);
	fcntl(s[0], F_SETOWN, getpid()); fcntl(s[0], F_SETFL, O_ASYNC | O_NONBLOCK); hits = 0; write(s[1], "x", 1); printf("sigio %d\n", hits > 0); read(s[0], b, 9);
	fcntl(s[0], F_SETFL, O_NONBLOCK); hits = 0; write(s[1], "x", 1); printf("sigio %d\n", hits); read(s[0], b, 9);
	int e = epoll_create1(0); struct epoll_event ev = {EPOLLIN | EPOLLRDHUP | EPOLLET, {.fd = 7}}, got[4];
	epoll_ctl(e, EPOLL_CTL_ADD, s[0], &ev); SHOW(epoll_wait(e, got, 4, 10)); write(s[1], "1", 1); SHOW(epoll_wait(e, got, 4, 10)); SHOW(epoll_wait(e, got, 4, 10)); write(s[1], "2", 1); SHOW(epoll_wait(e, got, 4, 10));
	shutdown(s[1], SHUT_WR); SHOW(epoll_wait(e, got, 4, 10)); printf("ev %x\n", got[0].events); close(s[1]); SHOW(epoll_wait(e, got, 4, 10)); printf("ev %x\n", got[0].events); SHOW(epoll_wait(e, got, 4, 10));
	if (!fork()) { usleep(30000); _exit(7); } SHOW(recv(c2, b, 1, MSG_WAITALL)); wait(&v);
	/* permissions of the file */
	int q = socket(AF_UNIX, SOCK_DGRAM, 0); umask(0177); struct sockaddr_un u; socklen_t ul = un(&u, "perm.sock"); SHOW(bind(q, (void *)&u, ul)); struct stat st; stat("perm.sock", &st); printf("%o\n", st.st_mode);
	if (!getuid()) { chmod(".", 0755); if (!fork()) { setuid(65534); int z = socket(AF_UNIX, SOCK_DGRAM, 0); SHOW(sendto(z, "x", 1, 0, (void *)&u, ul)); fflush(stdout); _exit(0); } wait(0); }
	return 0;
}
