/* poll, select, epoll, eventfd, timerfd, signalfd. */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

int main(void)
{
    int p[2];
    char c;
    (void)!pipe(p);
    struct pollfd pf[2] = {{p[0], POLLIN}, {p[1], POLLOUT}};
    CHECK("poll: only the write end is ready", poll(pf, 2, 0) == 1 && !pf[0].revents && pf[1].revents == POLLOUT);
    long long before = now_ns(CLOCK_MONOTONIC);
    CHECK("poll times out", poll(pf, 1, 20) == 0);
    CHECK("after its timeout", now_ns(CLOCK_MONOTONIC) - before >= 20000000);
    if (fork() == 0) {
        sleep_ms(20);
        (void)!write(p[1], "x", 1);
        _exit(0);
    }
    CHECK("poll wakes when data come", poll(pf, 1, 5000) == 1 && pf[0].revents == POLLIN);
    wait(NULL);
    pf[0].fd = 999;
    CHECK("a closed descriptor is POLLNVAL", poll(pf, 1, 0) == 1 && pf[0].revents == POLLNVAL);
    pf[0].fd = -1;
    CHECK("a negative one is skipped", poll(pf, 1, 0) == 0);

    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    struct timeval tv = {1, 0};
    CHECK("select", select(p[1] + 1, &r, &w, NULL, &tv) == 2 && FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w));
    (void)!read(p[0], &c, 1);
    tv = (struct timeval){0, 10000};
    CHECK("select times out and clears the set", select(p[0] + 1, &r, NULL, NULL, &tv) == 0 && !FD_ISSET(p[0], &r));
    CHECK("and says that no time is left", tv.tv_sec == 0 && tv.tv_usec == 0);
    FD_SET(60, &r);
    CHECK("select of a closed descriptor is EBADF", FAILS(select(61, &r, NULL, NULL, &tv), EBADF));

    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {EPOLLIN, {.u64 = 77}}, got[4];
    CHECK("EPOLL_CTL_ADD", epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev) == 0);
    CHECK("twice is EEXIST", FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev), EEXIST));
    CHECK("nothing ready", epoll_wait(ep, got, 4, 0) == 0);
    (void)!write(p[1], "xy", 2);
    CHECK("ready, with our data", epoll_wait(ep, got, 4, -1) == 1 && got[0].events == EPOLLIN && got[0].data.u64 == 77);
    CHECK("level-triggered: again", epoll_wait(ep, got, 4, 0) == 1);
    ev.events = EPOLLIN | EPOLLET;
    epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &ev);
    CHECK("edge-triggered: once", epoll_wait(ep, got, 4, 0) == 1 && epoll_wait(ep, got, 4, 0) == 0);
    (void)!write(p[1], "z", 1);
    CHECK("and once more for new data", epoll_wait(ep, got, 4, 0) == 1 && epoll_wait(ep, got, 4, 0) == 0);
    ev.events = EPOLLIN | EPOLLONESHOT;
    epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &ev);
    epoll_wait(ep, got, 4, 0);
    (void)!write(p[1], "z", 1);
    CHECK("EPOLLONESHOT disarms", epoll_wait(ep, got, 4, 0) == 0);
    CHECK("EPOLL_CTL_DEL", epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL) == 0);
    CHECK("twice is ENOENT", FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL), ENOENT));
    int file = memfd_create("f", 0), tmp = open("/", O_RDONLY);
    CHECK("a directory cannot be polled: EPERM", FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, tmp, &ev), EPERM));
    CHECK("an epoll can be watched by another", epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, ep, &ev) == 0);

    unsigned long long n = 0;
    int e = eventfd(3, EFD_NONBLOCK);
    CHECK("eventfd reads its count and clears it", read(e, &n, 8) == 8 && n == 3 && FAILS(read(e, &n, 8), EAGAIN));
    n = 5;
    (void)!write(e, &n, 8);
    (void)!write(e, &n, 8);
    CHECK("writes add up", read(e, &n, 8) == 8 && n == 10);
    e = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    CHECK("EFD_SEMAPHORE counts down", read(e, &n, 8) == 8 && n == 1 && read(e, &n, 8) == 8 && FAILS(read(e, &n, 8), EAGAIN));

    int t = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec it = {{0, 5000000}, {0, 5000000}};
    timerfd_settime(t, 0, &it, NULL);
    sleep_ms(22);
    CHECK("timerfd counts expirations", read(t, &n, 8) == 8 && n >= 4);

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int s = signalfd(-1, &set, SFD_NONBLOCK);
    struct signalfd_siginfo si;
    CHECK("signalfd is empty", FAILS(read(s, &si, sizeof si), EAGAIN));
    kill(getpid(), SIGUSR1);
    CHECK("then holds the signal", read(s, &si, sizeof si) == sizeof si && si.ssi_signo == SIGUSR1 && (pid_t)si.ssi_pid == getpid());

    int sv[2];
    CHECK("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == 0);
    pf[0] = (struct pollfd){sv[0], POLLIN | POLLRDHUP};
    shutdown(sv[1], SHUT_WR);
    CHECK("a half-closed peer is POLLRDHUP", poll(pf, 1, 0) == 1 && pf[0].revents == (POLLIN | POLLRDHUP));
    close(file);
    DONE();
}
