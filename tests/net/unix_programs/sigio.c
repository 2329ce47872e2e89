/* F_SETSIG: siginfo tells which descriptor became ready, and for what (fcntl(2)). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <poll.h>
#include <netinet/in.h>
/* What is pending. */
static void take(const char *what, sigset_t *set)
{
    siginfo_t si;
    struct timespec zero = {0, 0};
    while (sigtimedwait(set, &si, &zero) > 0) {
        int rt = si.si_signo >= SIGRTMIN, plain = si.si_code == SI_KERNEL;
        printf("%s: signal %d%s code %d band %lx fd %d\n", what, rt ? si.si_signo - SIGRTMIN : si.si_signo, rt ? " rt" : "",
               si.si_code, plain ? 0 : si.si_band, plain ? 0 : si.si_fd);
    }
}
/* A signal to the process goes to any thread; one to a thread (F_OWNER_TID) to that one. */
static void *blocks_nothing(void *arg)
{
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    for (;;)
        pause();
    return arg;
}
static volatile int handled[2], in_main;
static pthread_t main_thread;
static void handler(int sig)
{
    handled[sig == SIGURG]++;
    in_main += pthread_equal(pthread_self(), main_thread);
}
static void threads(int l, struct sockaddr_in *in)
{
    pthread_t other;
    int c = socket(AF_INET, SOCK_STREAM, 0), a;
    struct f_owner_ex owner = {F_OWNER_TID, gettid()};
    sigset_t pending;
    main_thread = pthread_self();
    signal(SIGIO, handler);
    signal(SIGURG, handler);
    pthread_create(&other, NULL, blocks_nothing, NULL);
    usleep(10000);
    connect(c, (void *)in, sizeof *in);
    a = accept(l, 0, 0);
    fcntl(a, F_SETOWN, getpid());
    fcntl(a, F_SETFL, O_ASYNC);
    send(c, "u", 1, MSG_OOB);
    usleep(10000);
    printf("process: SIGIO %d, SIGURG %d, in main %d\n", handled[0] > 0, handled[1], in_main);
    fcntl(a, F_SETOWN_EX, &owner);
    send(c, "u", 1, MSG_OOB);
    usleep(10000);
    sigpending(&pending);
    printf("thread: SIGURG %d, pending %d %d\n", handled[1], sigismember(&pending, SIGIO), sigismember(&pending, SIGURG));
}

int main(void)
{
    int s[2], p[2];
    sigset_t set;
    char buf[16];
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGURG);
    sigaddset(&set, SIGRTMIN + 1);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s); pipe(p);
    int sigs[] = {0, SIGRTMIN + 1, SIGUSR1, SIGCHLD, SIGIO};
    for (int i = 0; i < 5; i++) {
        int fds[2] = {s[0], p[0]}, others[2] = {s[1], p[1]};
        for (int k = 0; k < 2; k++) {
            fcntl(fds[k], F_SETOWN, getpid()); fcntl(fds[k], F_SETSIG, sigs[i]);
            fcntl(fds[k], F_SETFL, O_ASYNC | O_NONBLOCK);
            write(others[k], "x", 1); take(k ? "pipe" : "unix", &set);
            read(fds[k], buf, 10); take("read", &set);
        }
    }
    int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), a;
    struct sockaddr_in in = {AF_INET, 0, {htonl(0x7f000001)}}; socklen_t n = sizeof in;
    bind(l, (void *)&in, n); listen(l, 5); getsockname(l, (void *)&in, &n);
    fcntl(l, F_SETOWN, getpid()); fcntl(l, F_SETSIG, SIGRTMIN + 1); fcntl(l, F_SETFL, O_ASYNC);
    connect(c, (void *)&in, n); take("listener", &set);
    a = accept(l, 0, 0);
    fcntl(a, F_SETOWN, getpid()); fcntl(a, F_SETSIG, SIGRTMIN + 1); fcntl(a, F_SETFL, O_ASYNC);
    send(c, "abc", 3, 0); usleep(10000); take("tcp", &set);
    send(c, "u", 1, MSG_OOB); usleep(10000); take("urgent", &set);
    fcntl(a, F_SETSIG, 0); send(c, "v", 1, MSG_OOB); usleep(10000); take("urgent plain", &set);
    close(c); usleep(10000); take("closed", &set);
    int dup2d = dup(s[0]); fcntl(dup2d, F_SETSIG, SIGRTMIN + 1); close(s[0]); write(s[1], "x", 1); take("dup", &set); (void)dup2d;
    fcntl(l, F_SETFL, 0);
    threads(l, &in);
    return 0;
}
