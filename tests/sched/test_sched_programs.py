"""Scheduling as programs see it, on the booted kernel: sched(7), chrt(1), taskset(1), nice(1), proc(5)."""
import re

import pytest

HOGS = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* hogs MS NICE...: one hog per nice value, all on CPU 0, for MS ms of wall time; prints the CPU time of each. */
static double seconds(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}
int main(int argc, char **argv)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    sched_setaffinity(0, sizeof set, &set);
    double start = seconds(CLOCK_MONOTONIC) + 0.1, end = start + atoi(argv[1]) / 1000.0;
    for (int i = 2; i < argc; i++)
        if (fork() == 0) {
            setpriority(PRIO_PROCESS, 0, atoi(argv[i]));
            struct timespec until = {(long)start, (start - (long)start) * 1e9};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
            double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
            while (seconds(CLOCK_MONOTONIC) < end)
                for (volatile int j = 0; j < 500000; j++)
                    ;
            printf("%s %.6f\n", argv[i], seconds(CLOCK_PROCESS_CPUTIME_ID) - before);
            fflush(stdout);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    return 0;
}
"""


def shares(result):
    assert result.status == 0, result.stderr
    return sorted((int(nice), float(used)) for nice, used in (line.split() for line in result.stdout.splitlines()))


def test_two_hogs_at_nice_0_and_5_get_1024_to_335(run_c):
    """setpriority(2): about 10 % of CPU time more or less for each level."""
    (_, first), (_, second) = shares(run_c(HOGS, "1500", "0", "5"))
    assert second / first == pytest.approx(335 / 1024, rel=0.02)


def test_hogs_of_equal_nice_share_equally(run_c):
    used = [time for _, time in shares(run_c(HOGS, "600", "0", "0", "0"))]
    for time in used:
        assert time == pytest.approx(0.2, rel=0.06)


def test_nice_19_gets_on_beside_nice_minus_20(run_c):
    (_, strong), (_, weak) = shares(run_c(HOGS, "500", "-20", "19"))
    assert 0 <= weak < 0.01 < strong


def test_an_endless_loop_does_not_stop_other_programs(run):
    result = run("while :; do :; done & for i in 1 2 3; do echo $i; sleep 0.01; done; kill %1", cpus=1)
    assert result.stdout == b"1\n2\n3\n"


def test_hogs_are_switched_against_their_will_and_sleepers_by_themselves(run_c):
    """proc(5): nonvoluntary_ctxt_switches grows for a CPU hog, voluntary_ctxt_switches for a sleeper."""
    result = run_c(r"""
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <sys/resource.h>
        #include <sys/wait.h>
        #include <time.h>
        #include <unistd.h>
        static void hog(double s)
        {
            clock_t end = clock() + s * CLOCKS_PER_SEC;
            while (clock() < end)
                for (volatile int j = 0; j < 300000; j++)
                    ;
        }
        static void report(const char *who)
        {
            struct rusage ru;
            getrusage(RUSAGE_SELF, &ru);
            printf("%s %ld %ld\n", who, ru.ru_nvcsw, ru.ru_nivcsw);
            fflush(stdout);
        }
        int main(void)
        {
            for (int i = 0; i < 2; i++)
                if (!fork()) { hog(0.3); report("hog"); _exit(0); }
            if (!fork()) {
                for (int i = 0; i < 20; i++)
                    nanosleep(&(struct timespec){0, 5000000}, NULL);
                report("sleeper");
                _exit(0);
            }
            while (wait(NULL) > 0) ;
        }""", cpus=1)
    rows = [line.split() for line in result.stdout.decode().splitlines()]
    for who, voluntary, forced in rows:
        if who == "hog":
            assert int(forced) > 20 and int(voluntary) < 5
        else:
            assert int(voluntary) >= 20 and int(forced) < 10
    assert len(rows) == 3


def test_chrt_sets_and_shows_every_policy(run):
    script = "for o in '-o 0' '-b 0' '-i 0' '-f 10' '-r 99'; do chrt $o sh -c 'chrt -p $$' | sed 's/^pid [0-9]*//'; done"
    lines = run(script).stdout.decode().splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "SCHED_OTHER", "0", "SCHED_BATCH", "0", "SCHED_IDLE", "0", "SCHED_FIFO", "10", "SCHED_RR", "99"]


def test_chrt_reserves_a_deadline_and_a_child_cannot_share_it(run):
    result = run("chrt -d -T 10000000 -D 50000000 -P 100000000 0 sh -c 'chrt -p $$'; echo $?;"
                 "chrt -R -d -T 10000000 -P 100000000 0 sh -c 'chrt -p $$ | sed \"s/pid [0-9]*//\"'")
    assert b"Cannot fork" in result.stderr         # EAGAIN, without SCHED_FLAG_RESET_ON_FORK
    assert b"'s current scheduling policy: SCHED_DEADLINE|SCHED_RESET_ON_FORK" in result.stdout
    assert b"10000000/100000000/100000000" in result.stdout


def test_chrt_without_the_capability_is_refused(run):
    result = run("chrt -r 19 true", uid=1000, gid=1000, cwd="/tmp")
    assert result.status == 1
    assert b"failed to set pid 0's policy: Operation not permitted" in result.stderr


def test_top_shows_rt_and_niced_priorities(run):
    result = run("nice -n 7 sleep 9 & chrt -f 99 sleep 9 & chrt -f 1 sleep 9 & sleep 0.1;"
                 "top -b -n 1 | awk '$12 == \"sleep\" && $4 != 0 || $3 == \"rt\" && $12 == \"sleep\" {print $3, $4}'; kill %1 %2 %3")
    assert sorted(result.stdout.decode().split("\n")[:-1]) == ["-2 0", "27 7", "rt 0"] or result.stdout.split() == [
        b"27", b"7", b"rt", b"0"]


def test_taskset_moves_a_running_program(run):
    """taskset(1) -pc: the processor field of the task becomes the new CPU."""
    result = run("while :; do :; done & taskset -pc 3 $! | sed 's/pid [0-9]*//'; sleep 0.05; ps -o psr= -p $!;"
                 "taskset -pc 1 $! > /dev/null; sleep 0.05; ps -o psr= -p $!; kill %1")
    assert [line.strip() for line in result.stdout.decode().splitlines()] == [
        "'s current affinity list: 0-3", "'s new affinity list: 3", "3", "1"]


def test_taskset_refuses_cpus_that_do_not_exist(run):
    result = run("taskset -c 9 true", cpus=2)
    assert result.status != 0 and b"Invalid argument" in result.stderr


def test_four_hogs_started_on_one_cpu_spread_over_four(run):
    script = """taskset -p 1 $$ > /dev/null
    for i in 1 2 3 4; do (while :; do :; done) & pids="$pids $!"; done
    for p in $pids; do taskset -p f $p > /dev/null; done
    taskset -p f $$ > /dev/null; sleep 0.2
    for p in $pids; do read -ra stat < /proc/$p/stat; echo ${stat[38]}; done; kill $pids"""
    used = run(["/bin/bash", "-c", script]).stdout.split()
    assert sorted(used) == [b"0", b"1", b"2", b"3"]


def test_a_fifo_hog_runs_before_every_normal_task(run_c):
    result = run_c(r"""
        #define _GNU_SOURCE
        #include <sched.h>
        #include <stdio.h>
        #include <sys/wait.h>
        #include <time.h>
        #include <unistd.h>
        static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
        int main(void)
        {
            double start = now();
            int normal = fork();
            if (!normal) { while (now() < start + 0.4) ; printf("normal\n"); fflush(stdout); _exit(0); }
            if (!fork()) {
                struct sched_param p = {50};
                if (sched_setscheduler(0, SCHED_FIFO, &p)) return 1;
                double begun = now(), worst = 0, last = begun;
                while (now() < begun + 0.3) {
                    double t = now();
                    if (t - last > worst) worst = t - last;
                    last = t;
                }
                printf("fifo %d\n", worst < 0.001);
                fflush(stdout);
                _exit(0);
            }
            while (wait(NULL) > 0) ;
        }""", cpus=1)
    assert result.stdout == b"fifo 1\nnormal\n"


def test_a_busy_cpu_ticks_250_times_a_second(run_c):
    """/proc/interrupts: LOC counts the ticks of each CPU; an idle one has none."""
    result = run_c(r"""
        #define _GNU_SOURCE
        #include <sched.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <time.h>
        static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
        static void show(void)
        {
            char line[256];
            FILE *f = fopen("/proc/interrupts", "r");
            while (fgets(line, sizeof line, f))
                if (strstr(line, "LOC:"))
                    printf("%s", strchr(line, ':') + 1);
            fclose(f);
        }
        int main(void)
        {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(1, &set);
            sched_setaffinity(0, sizeof set, &set);
            show();
            double end = now() + 1;
            while (now() < end)
                for (volatile int j = 0; j < 300000; j++)
                    ;
            show();
            return 0;
        }""", cpus=2)
    rows = [[int(n) for n in line.split()[:2]] for line in result.stdout.splitlines()]
    idle, busy = (after - before for before, after in zip(*rows))
    assert 248 <= busy <= 253
    assert idle < 5


def test_the_load_average_counts_uninterruptible_sleepers_along_the_curve(run_c):
    """proc(5): the number of tasks in state R or D, averaged over 1, 5 and 15 minutes. A parent in vfork(2) is in D."""
    result = run_c(r"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        static void show(void) { char b[64] = ""; FILE *f = fopen("/proc/loadavg", "r"); fgets(b, 64, f); printf("%s", b); fclose(f); }
        int main(void)
        {
            for (int i = 0; i < 2; i++)
                if (!fork()) {
                    if (!vfork()) { sleep(61); _exit(0); }
                    _exit(0);
                }
            sleep(60); show(); fflush(stdout);
            sleep(300); show();
            return 0;
        }""")
    first, second = (line.split() for line in result.stdout.decode().splitlines())
    assert 1.1 < float(first[0]) < 1.4 and float(first[0]) > float(first[1]) > float(first[2]) > 0
    assert float(second[0]) < 0.05 and 0.05 < float(second[1]) < 0.4
    assert re.fullmatch(r"1/\d+", first[3])


def test_nr_running_follows_the_run_queues(run):
    script = "for i in 1 2 3; do (while :; do :; done) & done; sleep 0.1; cut -d' ' -f4 /proc/loadavg; grep procs_running /proc/stat; kill %1 %2 %3"
    load, stat = run(["/bin/bash", "-c", script]).stdout.decode().splitlines()
    assert load.split("/")[0] == "4" and stat == "procs_running 4"


def test_kernel_threads_have_their_linux_names_and_kthreadd_as_parent(run):
    result = run("ps -o ppid=,comm= --ppid 2 -p 2 | sed 's/ *//' | sort", cpus=2)
    rows = {line.split()[1]: line.split()[0] for line in result.stdout.decode().splitlines()}
    assert rows["kthreadd"] == "0"
    for name in ("ksoftirqd/0", "ksoftirqd/1", "migration/0", "migration/1"):
        assert rows[name] == "2"
    assert any(name.startswith("kworker/u4:") for name in rows)
    assert sum(name.startswith("ksoftirqd/") for name in rows) == 2


def test_user_nice_system_and_idle_time_in_proc_stat_are_where_time_went(run):
    script = """taskset -p 1 $$ > /dev/null
    nice -n 5 bash -c 'for ((i = 0; i < 20000; i++)); do :; done'
    sleep 2; grep '^cpu[01]' /proc/stat"""
    rows = [line.split() for line in run(["/bin/bash", "-c", script], cpus=2).stdout.decode().splitlines()]
    user, nice, system, idle, iowait = (int(n) for n in rows[0][1:6])
    assert 5 <= nice <= 60 and idle >= 190 and user + system < 30 and iowait == 0
    assert int(rows[1][4]) >= 200
