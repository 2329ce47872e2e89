/* mq_overview(7), claim by claim. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <pthread.h>

static char buffer[8192];
static unsigned prio;
static volatile int told, code, value, pid;

static void handler(int s, siginfo_t *i, void *c) { told++; code = i->si_code; value = i->si_value.sival_int; pid = i->si_pid; }

static mqd_t open_queue(const char *name, int flags, long most, long size) {
    struct mq_attr a = {.mq_maxmsg = most, .mq_msgsize = size};
    return mq_open(name, flags | O_CREAT, 0640, &a);
}

static void order(void) {
    mqd_t q = open_queue("/order", O_RDWR, 8, 32);
    struct mq_attr a;
    mq_send(q, "low", 4, 1); mq_send(q, "high", 5, 9); mq_send(q, "mid1", 5, 5); mq_send(q, "mid2", 5, 5);
    mq_getattr(q, &a);
    printf("%ld %ld %ld %ld:", a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
    for (int i = 0; i < 4; i++) { ssize_t n = mq_receive(q, buffer, 32, &prio); printf(" %s/%u/%zd", buffer, prio, n); }
    puts("");
    mq_unlink("/order");
    mq_close(q);
}

static void errors(void) {
    mqd_t q = open_queue("/e", O_RDWR | O_NONBLOCK, 1, 16);
    struct timespec past = {1, 0}, bad = {1, 2000000000};
    printf("%d", mq_open("/none", O_RDONLY) < 0 ? errno : 0);
    printf(" %d", mq_open("/e", O_CREAT | O_EXCL | O_RDWR, 0600, NULL) < 0 ? errno : 0);
    printf(" %d", mq_open("/a/b", O_CREAT | O_RDWR, 0600, NULL) < 0 ? errno : 0);
    printf(" %d", open_queue("/x", O_RDWR, 0, 1) < 0 ? errno : 0);
    printf(" %d", mq_receive(q, buffer, 15, &prio) < 0 ? errno : 0);
    printf(" %d", mq_receive(q, buffer, 16, &prio) < 0 ? errno : 0);
    printf(" %d", mq_send(q, buffer, 17, 0) < 0 ? errno : 0);
    printf(" %d", mq_send(q, buffer, 1, 32768) < 0 ? errno : 0);
    mq_send(q, "a", 1, 0);
    printf(" %d", mq_send(q, "b", 1, 0) < 0 ? errno : 0);
    struct mq_attr off = {0}, on = {.mq_flags = O_NONBLOCK};
    mq_setattr(q, &off, NULL);
    printf(" %d", mq_timedsend(q, "b", 1, 0, &past) < 0 ? errno : 0);
    printf(" %d", mq_timedsend(q, "b", 1, 0, &bad) < 0 ? errno : 0);
    mq_setattr(q, &on, &off);
    mqd_t r = mq_open("/e", O_RDONLY);
    printf(" %d %d", mq_send(r, "b", 1, 0) < 0 ? errno : 0, mq_send(0, "b", 1, 0) < 0 ? errno : 0);
    printf(" %d", mq_unlink("/e"));
    printf(" %d\n", mq_unlink("/e") < 0 ? errno : 0);
    mq_close(q); mq_close(r);
}

static void limits(void) {
    struct rlimit l = {2000, 2000};
    setrlimit(RLIMIT_MSGQUEUE, &l);
    mqd_t q = open_queue("/l", O_RDWR, 10, 100);               /* 10 * (100 + 48 + 48) = 1960 */
    printf("%d", q < 0 ? errno : 0);
    printf(" %d", open_queue("/m", O_RDWR, 1, 1) < 0 ? errno : 0);
    mq_unlink("/l"); mq_close(q);
    q = open_queue("/m", O_RDWR, 1, 1);
    printf(" %d", q < 0 ? errno : 0);
    mq_unlink("/m"); mq_close(q);
    setuid(1000);
    printf(" %d %d\n", open_queue("/n", O_RDWR, 11, 1) < 0 ? errno : 0, open_queue("/n", O_RDWR, 1, 8193) < 0 ? errno : 0);
}

static void waiting(void) {
    mqd_t q = open_queue("/w", O_RDWR, 1, 16);
    if (!fork()) { usleep(50000); mq_send(q, "late", 5, 3); mq_send(q, "one", 4, 0); mq_send(q, "two", 4, 7); _exit(0); }
    ssize_t n = mq_receive(q, buffer, 16, &prio);
    printf("%s/%u/%zd", buffer, prio, n);
    usleep(100000);                                            /* the child sleeps in its third send */
    mq_receive(q, buffer, 16, &prio); printf(" %s", buffer);
    mq_receive(q, buffer, 16, &prio); printf(" %s", buffer);
    struct timespec t, u;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 30000000; if (t.tv_nsec >= 1000000000) { t.tv_sec++; t.tv_nsec -= 1000000000; }
    int e = mq_timedreceive(q, buffer, 16, &prio, &t) < 0 ? errno : 0;
    clock_gettime(CLOCK_REALTIME, &u);
    printf(" %d %d", e, u.tv_sec > t.tv_sec || (u.tv_sec == t.tv_sec && u.tv_nsec >= t.tv_nsec));
    struct sigaction s = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &s, 0);
    ualarm(20000, 0);
    printf(" %d\n", mq_receive(q, buffer, 16, &prio) < 0 ? errno : 0);
    wait(0); mq_unlink("/w"); mq_close(q);
}

static void notify(void) {
    mqd_t q = open_queue("/n", O_RDWR, 4, 16);
    struct sigaction s = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
    told = 0;
    sigaction(SIGUSR1, &s, 0);
    printf("%d", mq_notify(q, &ev));
    printf(" %d", mq_notify(q, &ev) < 0 ? errno : 0);
    fflush(stdout);
    if (!fork()) { mq_send(q, "x", 1, 0); mq_send(q, "y", 1, 0); _exit(0); }
    wait(0);
    printf(" %d %d %d %d", told, code, value, pid > 1);
    struct pollfd p = {q, POLLIN | POLLOUT, 0};
    printf(" %d", poll(&p, 1, 0));
    printf(" %d", p.revents);
    mq_notify(q, &ev);
    int fd = open("/dev/mqueue/n", O_RDONLY);
    ssize_t n = read(fd, buffer, sizeof buffer);
    printf(" %.*s", n > 0 ? (int)n : 0, buffer);
    mq_notify(q, NULL);
    mq_unlink("/n"); mq_close(q);
}

static void *closer(void *arg) { usleep(20000); mq_close(*(mqd_t *)arg); return 0; }

static void closing(void) {                                    /* the descriptor goes while a thread sleeps in it */
    mqd_t q = open_queue("/c", O_RDWR, 4, 16), other = mq_open("/c", O_WRONLY);
    pthread_t t;
    mq_unlink("/c");
    pthread_create(&t, 0, closer, &q);
    if (!fork()) { usleep(60000); mq_send(other, "still", 6, 0); _exit(0); }
    mq_receive(q, buffer, 16, &prio);
    pthread_join(t, 0);
    puts(buffer);
    wait(0);
}

int main(int argc, char **argv) {
    setbuf(stdout, NULL);
    if (!strcmp(argv[1], "order")) order();
    if (!strcmp(argv[1], "errors")) errors();
    if (!strcmp(argv[1], "limits")) limits();
    if (!strcmp(argv[1], "waiting")) waiting();
    if (!strcmp(argv[1], "notify")) notify();
    if (!strcmp(argv[1], "closing")) closing();
    return 0;
}
