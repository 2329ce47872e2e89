"""Clocks and timers as programs see them: the same program holds on Linux and inside. time(7), timer_create(2)."""
import pytest

CHECK = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define OK(what, ...) printf("%s %s\n", (__VA_ARGS__) ? "ok" : "FAIL", what)
#define ERR(call, e) (errno = 0, (call) == -1 && errno == (e))
static long long ns(clockid_t c) { struct timespec t; clock_gettime(c, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
static volatile sig_atomic_t hits, code, overrun, val;
static void handler(int s, siginfo_t *i, void *u)
{
    hits++; code = i->si_code; overrun = i->si_overrun; val = i->si_value.sival_int;
}
static void catch(int s) { struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO}; sigaction(s, &a, 0); hits = 0; }
static void spin(double s) { long long end = ns(CLOCK_THREAD_CPUTIME_ID) + s * 1e9; while (ns(CLOCK_THREAD_CPUTIME_ID) < end) ; }
static long raw(long nr, long a, long b, long c, long d) { return syscall(nr, a, b, c, d); }
"""

PROGRAMS = {
    "clocks": r"""
    struct timespec t, r;
    long long m = ns(CLOCK_MONOTONIC);
    OK("monotonic_raw runs", ns(CLOCK_MONOTONIC_RAW) <= ns(CLOCK_MONOTONIC_RAW));
    OK("coarse is behind", ns(CLOCK_MONOTONIC_COARSE) <= ns(CLOCK_MONOTONIC) && m - ns(CLOCK_MONOTONIC_COARSE) < 200000000);
    OK("coarse real", llabs(ns(CLOCK_REALTIME) - ns(CLOCK_REALTIME_COARSE)) < 200000000);
    OK("tai", llabs(ns(CLOCK_TAI) - ns(CLOCK_REALTIME)) < 60000000000LL);
    OK("res", !raw(SYS_clock_getres, CLOCK_MONOTONIC, (long)&r, 0, 0) && r.tv_nsec == 1 && r.tv_sec == 0);
    OK("coarse res is a tick", !raw(SYS_clock_getres, CLOCK_REALTIME_COARSE, (long)&r, 0, 0) && r.tv_nsec >= 1000000);
    OK("res NULL", !raw(SYS_clock_getres, CLOCK_REALTIME, 0, 0, 0));
    OK("bad clock", ERR(raw(SYS_clock_gettime, 10, (long)&t, 0, 0), EINVAL) && ERR(raw(SYS_clock_gettime, 16, (long)&t, 0, 0), EINVAL));
    OK("bad pointer", ERR(raw(SYS_clock_gettime, 1, 8, 0, 0), EFAULT));
    OK("cpu clock of nobody", ERR(raw(SYS_clock_gettime, (~0x3fffffL << 3) | 2, (long)&t, 0, 0), EINVAL));
    clockid_t mine, parent;
    OK("clock_getcpuclockid", !clock_getcpuclockid(getpid(), &mine) && !clock_gettime(mine, &t));
    OK("of the parent", !clock_getcpuclockid(getppid(), &parent) && !clock_gettime(parent, &t));
    pthread_getcpuclockid(pthread_self(), &mine);
    long long before = ns(mine); spin(0.02);
    OK("thread clock runs", ns(mine) - before >= 20000000);
    before = ns(CLOCK_THREAD_CPUTIME_ID);
    OK("process clock is at least the thread's", ns(CLOCK_PROCESS_CPUTIME_ID) >= before);
    OK("cannot set monotonic", ERR(clock_settime(CLOCK_MONOTONIC, &t), EINVAL));
    OK("cannot set cpu time", ERR(clock_settime(CLOCK_PROCESS_CPUTIME_ID, &t), EPERM) || errno == EINVAL);
    t.tv_nsec = 1000000000;
    OK("bad time", ERR(raw(SYS_clock_settime, CLOCK_REALTIME, (long)&t, 0, 0), EINVAL));
    struct timeval tv; struct timezone tz;
    OK("gettimeofday", !raw(SYS_gettimeofday, (long)&tv, (long)&tz, 0, 0) && llabs(tv.tv_sec - time(0)) <= 1 && tv.tv_usec < 1000000);
    OK("gettimeofday fault", ERR(raw(SYS_gettimeofday, 8, 0, 0, 0), EFAULT));
    time_t x = 0; OK("time", raw(SYS_time, (long)&x, 0, 0, 0) == x && x > 1500000000);
    struct tms a, b; clock_t c = times(&a); spin(0.05); clock_t d = times(&b);
    OK("times", d >= c + 3 && (b.tms_utime + b.tms_stime) - (a.tms_utime + a.tms_stime) >= 4);
    struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    OK("rusage agrees", ru.ru_utime.tv_sec + ru.ru_stime.tv_sec <= 2);
    struct timex tx = {0};
    OK("adjtimex reads", adjtimex(&tx) >= 0 && tx.tick == 10000);
    struct timeval rest = {1, 1};
    OK("adjtime reads", !adjtime(0, &rest) && !rest.tv_sec && !rest.tv_usec);
    OK("adjtime by nothing", !adjtime(&rest, &rest) || errno == EPERM);
    """,
    "sleep": r"""
    struct timespec t = {0, 20000000}, left = {9, 9};
    long long m = ns(CLOCK_MONOTONIC);
    OK("nanosleep", !nanosleep(&t, 0) && ns(CLOCK_MONOTONIC) - m >= 20000000);
    OK("negative", (t = (struct timespec){-1, 0}, ERR(nanosleep(&t, 0), EINVAL)));
    OK("fault", ERR(raw(SYS_nanosleep, 8, 0, 0, 0), EFAULT));
    t = (struct timespec){0, 0}; OK("zero", !nanosleep(&t, 0));
    catch(SIGALRM);
    struct itimerval it = {{0, 0}, {0, 30000}};
    setitimer(ITIMER_REAL, &it, 0);
    t = (struct timespec){10, 0};
    OK("EINTR", ERR(nanosleep(&t, &left), EINTR) && left.tv_sec == 9 && left.tv_nsec > 900000000);
    setitimer(ITIMER_REAL, &it, 0);
    m = ns(CLOCK_REALTIME) + 10000000000LL; t = (struct timespec){m / 1000000000, m % 1000000000}; left.tv_sec = 77;
    OK("absolute EINTR", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, &left) == EINTR && left.tv_sec == 77);
    signal(SIGALRM, SIG_IGN);
    setitimer(ITIMER_REAL, &it, 0);
    t = (struct timespec){0, 60000000}; m = ns(CLOCK_MONOTONIC);
    OK("an ignored signal does not end a sleep", !nanosleep(&t, 0) && ns(CLOCK_MONOTONIC) - m >= 60000000);
    pid_t p = fork();
    if (!p) { t = (struct timespec){0, 200000000}; _exit(nanosleep(&t, 0) ? 1 : 0); }
    int st; usleep(50000); kill(p, SIGSTOP); waitpid(p, &st, WUNTRACED); usleep(20000); m = ns(CLOCK_MONOTONIC);
    kill(p, SIGCONT); waitpid(p, &st, 0);
    OK("stop and continue restarts a sleep where it was", WIFEXITED(st) && !WEXITSTATUS(st) && ns(CLOCK_MONOTONIC) - m < 190000000);
    OK("raw clock", clock_nanosleep(CLOCK_MONOTONIC_RAW, 0, &t, 0) == EOPNOTSUPP || 1);
    OK("thread clock", raw(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, (long)&t, 0) == -1);
    OK("boottime", !clock_nanosleep(CLOCK_BOOTTIME, 0, &(struct timespec){0, 1000000}, 0));
    OK("tai", !clock_nanosleep(CLOCK_TAI, 0, &(struct timespec){0, 1000000}, 0));
    OK("sched_yield", !sched_yield());
    """,
    "itimers": r"""
    struct itimerval it = {{0, 20000}, {0, 10000}}, old;
    catch(SIGALRM);
    setitimer(ITIMER_REAL, &it, 0);
    while (hits < 4) pause();
    OK("real repeats", hits >= 4 && code == SI_KERNEL);
    OK("getitimer", !getitimer(ITIMER_REAL, &old) && old.it_interval.tv_usec == 20000 && old.it_value.tv_usec <= 20000 && (old.it_value.tv_usec || old.it_value.tv_sec));
    memset(&it, 0, sizeof it); setitimer(ITIMER_REAL, &it, &old);
    OK("off", !getitimer(ITIMER_REAL, &old) && !old.it_value.tv_usec && !old.it_interval.tv_usec);
    catch(SIGVTALRM);
    it = (struct itimerval){{0, 10000}, {0, 10000}};
    setitimer(ITIMER_VIRTUAL, &it, 0);
    usleep(50000);
    OK("virtual does not run while asleep", hits == 0);
    while (hits < 3) ;
    OK("virtual counts user time", hits == 3 || hits == 4);
    it.it_value.tv_usec = 0; setitimer(ITIMER_VIRTUAL, &it, 0);
    catch(SIGPROF); it.it_value.tv_usec = 10000; setitimer(ITIMER_PROF, &it, 0);
    for (clock_t begin = clock(); clock() - begin < 50000; ) ;      /* CPU time: a busy host gives us less than we wait */
    OK("prof", hits >= 2 && hits <= 6);
    it.it_value.tv_usec = 0; setitimer(ITIMER_PROF, &it, 0);
    OK("bad which", ERR(raw(SYS_getitimer, 3, (long)&old, 0, 0), EINVAL) && ERR(raw(SYS_setitimer, 3, (long)&it, 0, 0), EINVAL));
    it.it_value.tv_usec = 1000000;
    OK("bad value", ERR(raw(SYS_setitimer, 0, (long)&it, 0, 0), EINVAL));
    OK("fault", ERR(raw(SYS_setitimer, 0, 8, 0, 0), EFAULT) && ERR(raw(SYS_getitimer, 0, 8, 0, 0), EFAULT));
    OK("alarm", alarm(10) == 0 && alarm(0) == 10 && alarm(0) == 0);
    alarm(5);
    pid_t p = fork(); if (!p) _exit(alarm(0)); int st; waitpid(p, &st, 0);
    OK("a child inherits no alarm", WEXITSTATUS(st) == 0 && alarm(0) == 5);
    struct rlimit rl = {1, 2};
    p = fork(); if (!p) { setrlimit(RLIMIT_CPU, &rl); for (;;) ; }
    waitpid(p, &st, 0);
    OK("RLIMIT_CPU kills with SIGXCPU", WIFSIGNALED(st) && WTERMSIG(st) == SIGXCPU);
    p = fork(); if (!p) { signal(SIGXCPU, SIG_IGN); setrlimit(RLIMIT_CPU, &rl); for (;;) ; }
    waitpid(p, &st, 0);
    OK("and with SIGKILL at the hard limit", WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
    """,
    "posix_timers": r"""
    timer_t t; struct itimerspec s = {{0, 0}, {0, 10000000}}, o; sigset_t set; siginfo_t si;
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 7};
    catch(SIGUSR1);
    OK("create", !timer_create(CLOCK_REALTIME, &e, &t));
    OK("one shot", !timer_settime(t, 0, &s, 0) && (pause(), hits == 1) && code == SI_TIMER && val == 7 && overrun == 0);
    OK("is off afterwards", !timer_gettime(t, &o) && !o.it_value.tv_sec && !o.it_value.tv_nsec);
    sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, 0);
    s = (struct itimerspec){{0, 10000000}, {0, 10000000}};
    timer_settime(t, 0, &s, 0); usleep(105000);
    OK("one signal waits", sigwaitinfo(&set, &si) == SIGUSR1 && si.si_code == SI_TIMER && si.si_value.sival_int == 7);
    OK("it counts what was lost", si.si_overrun >= 8 && si.si_overrun <= 11 && timer_getoverrun(t) == si.si_overrun);
    OK("and goes on", sigwaitinfo(&set, &si) == SIGUSR1 && si.si_overrun <= 1);
    OK("gettime", !timer_gettime(t, &o) && o.it_interval.tv_nsec == 10000000 && o.it_value.tv_nsec <= 10000000);
    OK("settime returns the old", !timer_settime(t, 0, &(struct itimerspec){0}, &o) && o.it_interval.tv_nsec == 10000000);
    OK("delete", !timer_delete(t) && ERR(timer_delete(t), EINVAL) && ERR(timer_gettime(t, &o), EINVAL));
    e.sigev_notify = SIGEV_NONE;
    OK("none", !timer_create(CLOCK_MONOTONIC, &e, &t));
    s = (struct itimerspec){{0, 0}, {100, 0}};
    timer_settime(t, 0, &s, 0); timer_gettime(t, &o);
    OK("none counts down", o.it_value.tv_sec == 99 || o.it_value.tv_sec == 100);
    timer_delete(t);
    OK("NULL event means SIGALRM with the id", (catch(SIGALRM), !timer_create(CLOCK_MONOTONIC, 0, &t)));
    s.it_value = (struct timespec){0, 5000000}; timer_settime(t, 0, &s, 0); pause();
    OK("SIGALRM came", hits == 1 && code == SI_TIMER);
    long long m = ns(CLOCK_MONOTONIC) + 20000000; s.it_value = (struct timespec){m / 1000000000, m % 1000000000};
    timer_settime(t, TIMER_ABSTIME, &s, 0); pause();
    OK("absolute", hits == 2 && ns(CLOCK_MONOTONIC) >= m);
    s.it_value = (struct timespec){0, 1}; timer_settime(t, TIMER_ABSTIME, &s, 0); while (hits < 3) ;
    OK("in the past fires at once", hits == 3);
    timer_delete(t);
    s.it_value.tv_nsec = 1000000000; timer_create(CLOCK_MONOTONIC, 0, &t);
    OK("bad time", ERR(timer_settime(t, 0, &s, 0), EINVAL));
    OK("NULL", ERR(raw(SYS_timer_settime, 0, 0, 0, 0), EINVAL));
    timer_delete(t);
    e.sigev_notify = 99; OK("bad notify", ERR(timer_create(CLOCK_MONOTONIC, &e, &t), EINVAL));
    e.sigev_notify = SIGEV_SIGNAL; e.sigev_signo = 65; OK("bad signal", ERR(timer_create(CLOCK_MONOTONIC, &e, &t), EINVAL));
    OK("bad clock", ERR(timer_create(99, 0, &t), EINVAL));
    OK("coarse clock", timer_create(CLOCK_MONOTONIC_COARSE, 0, &t) == -1);
    e = (struct sigevent){.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    ((int *)&e)[4] = getpid(); catch(SIGUSR2);
    OK("thread id", !timer_create(CLOCK_MONOTONIC, &e, &t));
    s.it_value = (struct timespec){0, 1000000}; timer_settime(t, 0, &s, 0); while (!hits) ;
    OK("thread got it", hits == 1); timer_delete(t);
    ((int *)&e)[4] = 1; OK("not a thread of ours", ERR(timer_create(CLOCK_MONOTONIC, &e, &t), EINVAL));
    catch(SIGALRM); OK("cpu timer", !timer_create(CLOCK_PROCESS_CPUTIME_ID, 0, &t));
    s = (struct itimerspec){{0, 0}, {0, 30000000}}; m = ns(CLOCK_PROCESS_CPUTIME_ID);
    timer_settime(t, 0, &s, 0); usleep(50000);
    OK("cpu timer does not run while asleep", hits == 0);
    while (!hits) ;
    OK("cpu timer fires", ns(CLOCK_PROCESS_CPUTIME_ID) - m >= 30000000 && ns(CLOCK_PROCESS_CPUTIME_ID) - m < 60000000);
    timer_delete(t);
    timer_create(CLOCK_MONOTONIC, 0, &t);
    pid_t p = fork(); if (!p) _exit(timer_delete(t) ? 0 : 1);
    int st; waitpid(p, &st, 0);
    OK("a child has no timers", st == 0 && !timer_delete(t));
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_holds_on_linux_and_inside(name, host, build_c, run_c):
    source = f"{CHECK}\nint main(void)\n{{\n{PROGRAMS[name]}\n    return 0;\n}}\n"
    expected = host([str(build_c(source, "-O1", "-static", "-pthread", "-w", "-lrt"))])
    bad = [line for line in expected.stdout.decode().splitlines() if not line.startswith("ok ")]
    assert expected.status == 0 and bad == []
    result = run_c(source, flags=("-O1", "-static", "-pthread", "-w", "-lrt"))
    bad = [line for line in result.stdout.decode().splitlines() if not line.startswith("ok ")]
    assert (result.status, bad) == (0, [])
    assert len(result.stdout.splitlines()) == len(expected.stdout.splitlines())


def test_date_can_be_set_and_read(run):
    result = run("date -u -s '2031-02-03 04:05:06' > /dev/null; date -u +%F' '%T; cat /proc/uptime | cut -d. -f1")
    assert result.stdout.startswith(b"2031-02-03 04:05:0")


def test_a_user_may_not_set_the_clock(run):
    result = run("date -s '2031-02-03'", uid=1000, gid=1000, cwd="/tmp")
    assert result.status == 1 and b"Operation not permitted" in result.stderr


def test_sleep_of_an_hour_takes_no_host_time(run):
    result = run("sleep 3600; cut -d' ' -f1 /proc/uptime")
    assert 3600 <= float(result.stdout) < 3601


def test_two_runs_see_the_same_times(boot):
    outputs = [boot(seed=5).run(["/bin/bash", "-c", "date +%s.%N; times; cat /proc/uptime /proc/stat; sleep 0.01; date +%N"])
               for _ in range(2)]
    assert outputs[0].stdout == outputs[1].stdout
