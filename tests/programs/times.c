/* Clocks, sleeping, interval timers, POSIX timers, alarm. */
#include "check.h"
#include <sys/time.h>

static volatile int alarms, value;
static void on_alarm(int signo, siginfo_t *si, void *context)
{
    alarms++;
    value = si->si_value.sival_int;
}

int main(void)
{
    struct timespec ts, left;
    struct sigaction sa = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);

    long long a = now_ns(CLOCK_MONOTONIC), b = now_ns(CLOCK_MONOTONIC);
    CHECK("the monotonic clock does not go back", b >= a);
    a = now_ns(CLOCK_MONOTONIC);
    ts = (struct timespec){0, 15000000};
    CHECK("nanosleep", nanosleep(&ts, NULL) == 0);
    CHECK("sleeps at least as long as asked", now_ns(CLOCK_MONOTONIC) - a >= 15000000);
    ts.tv_nsec = 1000000000;
    CHECK("a billion nanoseconds is EINVAL", FAILS(nanosleep(&ts, NULL), EINVAL));
    a = now_ns(CLOCK_MONOTONIC) + 10000000;
    ts = (struct timespec){a / 1000000000, a % 1000000000};
    CHECK("clock_nanosleep until a time", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == 0);
    CHECK("wakes no earlier", now_ns(CLOCK_MONOTONIC) >= a);
    CHECK("a time that has passed returns at once", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == 0);
    CHECK("an unknown clock is EINVAL", FAILS(clock_gettime(77, &ts), EINVAL));
    CHECK("clock_getres", clock_getres(CLOCK_MONOTONIC, &ts) == 0 && ts.tv_sec == 0 && ts.tv_nsec > 0);
    long long boot = now_ns(CLOCK_BOOTTIME), real = now_ns(CLOCK_REALTIME);
    CHECK("boot time is not behind monotonic time", boot >= b);
    CHECK("real time is after 2000", real > 946684800LL * 1000000000);
    CHECK("time(2) agrees with it", labs((long)(time(NULL) - real / 1000000000)) <= 1);

    struct itimerval it = {{0, 0}, {0, 10000}}, old;
    setitimer(ITIMER_REAL, &it, NULL);
    ts = (struct timespec){5, 0};
    CHECK("an interval timer interrupts a sleep", FAILS(nanosleep(&ts, &left), EINTR) && alarms == 1);
    CHECK("the rest is reported", left.tv_sec == 4);
    it = (struct itimerval){{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &it, NULL);
    while (alarms < 4)
        pause();
    CHECK("it repeats", alarms >= 4);
    memset(&it, 0, sizeof it);
    CHECK("setitimer returns the old one", setitimer(ITIMER_REAL, &it, &old) == 0 && old.it_interval.tv_usec == 5000);
    CHECK("alarm returns what was left", alarm(100) == 0 && alarm(0) >= 99);
    alarms = 0;
    ualarm(5000, 0);
    while (!alarms)
        pause();
    CHECK("alarm fires", alarms == 1);

    timer_t timer;
    struct sigevent se = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    CHECK("timer_create", timer_create(CLOCK_MONOTONIC, &se, &timer) == 0);
    struct itimerspec its = {{0, 0}, {0, 5000000}}, now;
    alarms = 0;
    CHECK("timer_settime", timer_settime(timer, 0, &its, NULL) == 0);
    CHECK("timer_gettime", timer_gettime(timer, &now) == 0 && now.it_value.tv_nsec <= 5000000);
    while (!alarms)
        pause();
    CHECK("the signal carries its value", value == 42);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    its = (struct itimerspec){{0, 1000000}, {0, 1000000}};
    timer_settime(timer, 0, &its, NULL);
    sleep_ms(12);
    siginfo_t si;
    sigwaitinfo(&set, &si);
    CHECK("expirations while blocked are counted", si.si_code == SI_TIMER && si.si_overrun >= 5);
    CHECK("timer_delete", timer_delete(timer) == 0);

    a = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (volatile long i = 0; i < 2000000; i++)
        ;
    b = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    CHECK("computing takes CPU time", b > a);
    a = now_ns(CLOCK_THREAD_CPUTIME_ID);
    sleep_ms(30);
    CHECK("sleeping does not", now_ns(CLOCK_THREAD_CPUTIME_ID) - a < 20000000);
    DONE();
}
