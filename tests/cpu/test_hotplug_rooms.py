"""What each room does when a CPU goes: timers, works, tasklets, memory, perf events, cpusets, traces; and all of it again and again."""
import pytest

CPU = "cd /sys/devices/system/cpu; "
ONLINE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void online(int cpu, const char *v) {
    char path[80];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, v, 1) != 1) exit(9);
    close(fd);
}
static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set); CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) exit(8);
}
"""


@pytest.fixture
def bash(boot):
    return lambda script, **machine: boot(**machine).run(["/bin/bash", "-c", CPU + script])


def test_timers_of_a_cpu_that_goes_fire_in_time(run_c):
    """A sleeper's hrtimer, an interval timer and an alarm were armed on the CPU that goes."""
    assert run_c(ONLINE + r"""
#include <sys/time.h>
static volatile int ticks;
static void tick(int s) { (void)s; ticks++; }
int main(void) {
    int p[2];
    if (pipe(p)) return 1;
    pid_t sleeper = fork();
    if (!sleeper) {
        struct timespec t = {0, 300000000}, before, after;
        pin(2);
        signal(SIGALRM, tick);
        struct itimerval i = {{0, 50000}, {0, 50000}};
        setitimer(ITIMER_REAL, &i, 0);
        write(p[1], "x", 1);
        clock_gettime(CLOCK_MONOTONIC, &before);
        while (nanosleep(&t, &t) && errno == EINTR) ;
        clock_gettime(CLOCK_MONOTONIC, &after);
        long ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
        _exit(ms < 300 || ms > 320 ? 2 : ticks < 5 || ticks > 7 ? 3 : 0);
    }
    char c; int s;
    read(p[0], &c, 1);
    usleep(20000);
    online(2, "0");
    waitpid(sleeper, &s, 0);
    online(2, "1");
    return WEXITSTATUS(s);
}""").status == 0


def test_every_cpu_in_turn_under_load(run_c):
    """Eight processes compute, fork and sleep; no result is wrong and nobody is lost while CPUs come and go."""
    assert run_c(ONLINE + r"""
static int work(int n) {
    unsigned x = n;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 20000; i++) x = x * 1664525 + 1013904223;
        pid_t child = fork(); int s;
        if (!child) _exit(n);
        if (waitpid(child, &s, 0) != child || WEXITSTATUS(s) != n) return 1;
        usleep(1000 * (n % 3));
    }
    unsigned y = n;
    for (int i = 0; i < 12 * 20000; i++) y = y * 1664525 + 1013904223;
    return x != y;
}
int main(void) {
    for (int n = 1; n <= 8; n++)
        if (!fork()) _exit(work(n));
    for (int round = 0; round < 4; round++)
        for (int cpu = 1; cpu < 4; cpu++) { online(cpu, "0"); if (round & 1) online(cpu, "1"); else if (cpu == 3) for (int c = 1; c < 4; c++) online(c, "1"); }
    int s, bad = 0;
    for (int n = 0; n < 8; n++) { wait(&s); bad |= s; }
    return bad != 0;
}""").status == 0


def test_real_time_tasks_move_too(run_c):
    """sched(7): SCHED_FIFO, SCHED_RR and SCHED_DEADLINE tasks that ran there go on elsewhere."""
    assert run_c(ONLINE + r"""
#include <sys/syscall.h>
int main(void) {
    pid_t pids[3];
    for (int i = 0; i < 2; i++)
        if (!(pids[i] = fork())) {
            struct sched_param p = {10 + i};
            if (sched_setscheduler(0, i ? SCHED_RR : SCHED_FIFO, &p)) _exit(1);
            for (;;) { for (volatile int j = 0; j < 100000; j++) ; usleep(100); }
        }
    if (!(pids[2] = fork())) {
        struct { unsigned size, policy; unsigned long flags; int nice; unsigned prio; unsigned long runtime, deadline, period; }
            a = {48, 6, 0, 0, 0, 2000000, 10000000, 10000000};
        if (syscall(SYS_sched_setattr, 0, &a, 0)) _exit(1);
        for (;;) ;
    }
    usleep(30000);
    for (int cpu = 1; cpu < 4; cpu++) { online(cpu, "0"); usleep(20000); }
    for (int cpu = 1; cpu < 4; cpu++) online(cpu, "1");
    for (int i = 0; i < 3; i++) { int s; if (kill(pids[i], SIGKILL) || waitpid(pids[i], &s, 0) != pids[i] || !WIFSIGNALED(s)) return 2 + i; }
    return 0;
}""").status == 0


def test_promises_to_deadline_tasks_are_kept(run_c):
    """EBUSY: three CPUs cannot do what four have promised."""
    assert run_c(ONLINE + r"""
#include <sys/syscall.h>
int main(void) {
    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        if (!(pids[i] = fork())) {
            struct { unsigned size, policy; unsigned long flags; int nice; unsigned prio; unsigned long runtime, deadline, period; }
                a = {48, 6, 0, 0, 0, 90000000, 100000000, 100000000};
            if (syscall(SYS_sched_setattr, 0, &a, 0)) _exit(1);
            pause();
        }
    usleep(50000);
    int fd = open("/sys/devices/system/cpu/cpu1/online", O_WRONLY);
    if (write(fd, "0", 1) != -1 || errno != EBUSY) return 2;
    for (int i = 0; i < 4; i++) { kill(pids[i], SIGKILL); waitpid(pids[i], 0, 0); }
    return write(fd, "0", 1) != 1;
}""").status == 0


def test_works_of_a_cpu_that_is_gone_are_done(boot):
    """A work queued on a CPU off line runs, on another; kworker/N:0 is bound again afterwards."""
    kernel = boot()
    script = ("S=/sys/devices/system/cpu; echo 0 > $S/cpu2/online; dd if=/dev/zero of=f bs=64k count=20 status=none; sync;"
              "echo 3 > /proc/sys/vm/drop_caches; cmp -n 1310720 f /dev/zero && echo same; echo 1 > $S/cpu2/online; sleep 0.1;"
              "for p in $(pgrep '^kworker/2:'); do taskset -p $p; done | grep -o '[0-9a-f]*$' | sort -u")
    assert kernel.run(["/bin/bash", "-c", script]).stdout == b"same\n4\n"


def test_the_memory_of_a_cpu_that_is_gone_is_free(boot):
    """Its lists of frames, its slabs and its kernel stacks are given back."""
    kernel = boot()
    kernel.run(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (ls -R /usr/lib/python3 > /dev/null 2>&1; true) & done; wait"])
    kernel.run(["/bin/sh", "-c", "for i in 1 2 3; do echo 0 > /sys/devices/system/cpu/cpu$i/online; done"])
    for cpu in (1, 2, 3):
        assert not any(zone.pcp[cpu] for zone in kernel.mem.zones)
        assert not kernel.pids.cached_stacks[cpu]
        assert not kernel.buffers.bh_lrus[cpu]
        assert all(s.cpu_slab[cpu].page is None and not s.cpu_slab[cpu].partial for s in kernel.slab.caches.values())
        assert not kernel.irq.softirq_pending[cpu]
        assert kernel.machine.cpus[cpu].timer_deadline_ns is None
        assert not any(clock.active for clock in kernel.time.hrtimer_bases[cpu].clock_base)
        assert not any(base.pending_map for base in kernel.time.wheel[cpu])


def test_a_perf_event_of_the_cpu_stops(run_c):
    """perf_event_open(2): ENODEV for a CPU off line; what counted there counts no more."""
    assert run_c(ONLINE + r"""
#include <linux/perf_event.h>
#include <sys/syscall.h>
int main(void) {
    struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_CONTEXT_SWITCHES};
    long long before, after;
    int fd = syscall(SYS_perf_event_open, &a, -1, 2, -1, 0);
    if (fd < 0) return 1;
    pin(2); usleep(1000); pin(0);
    online(2, "0");
    if (read(fd, &before, 8) != 8 || before <= 0) return 2;
    if (syscall(SYS_perf_event_open, &a, -1, 2, -1, 0) != -1 || errno != ENODEV) return 3;
    online(2, "1");
    pin(2); usleep(1000); pin(0);
    if (read(fd, &after, 8) != 8) return 4;
    return after != before;
}""").status == 0


def test_cpusets_follow(bash):
    """cpuset(7): a set whose CPUs are all gone gives its tasks to its parent."""
    result = bash("mkdir /tmp/cs; mount -t cgroup -o cpuset c /tmp/cs; cd /tmp/cs; mkdir a b; echo 2-3 > a/cpuset.cpus; echo 0 > a/cpuset.mems;"
                  "echo 3 > b/cpuset.cpus; echo 0 > b/cpuset.mems; sleep 5 & echo $! > b/tasks; echo 0 > /sys/devices/system/cpu/cpu3/online;"
                  "cat cpuset.cpus a/cpuset.cpus b/cpuset.cpus; cat /proc/$!/cpuset; echo 1 > /sys/devices/system/cpu/cpu3/online; cat cpuset.cpus a/cpuset.cpus; kill $!")
    assert result.stdout == b"0-2\n2\n\n/\n0-3\n2\n"


def test_the_steps_can_be_traced(bash):
    """events/cpuhp: every step with its callback, in order, on the CPU that does it."""
    result = bash("cd /sys/kernel/tracing; echo 1 > events/cpuhp/enable; echo 0 > /sys/devices/system/cpu/cpu2/online; echo 0 > tracing_on;"
                  "grep cpuhp_enter trace | sed 's/ *\\(.*\\)-[0-9]* *\\[\\(...\\)\\].*(\\(.*\\))/\\1 \\2 \\3/'")
    steps = result.stdout.decode().split("\n")[:-1]
    assert steps[0].endswith("cpuhp_kick_ap_work")
    assert [step for step in steps if step.startswith("cpuhp/2 002")] == [
        "cpuhp/2 002 sched_cpu_deactivate", "cpuhp/2 002 cacheinfo_cpu_pre_down", "cpuhp/2 002 workqueue_offline_cpu",
        "cpuhp/2 002 smpboot_park_threads"]
    assert [step for step in steps if step.startswith("migration/2 002")] == [
        "migration/2 002 smpcfd_dying_cpu", "migration/2 002 sched_cpu_dying"]
    assert [step.split()[2] for step in steps][-3:] == ["blk_softirq_cpu_dead", "takeover_tasklets", "slub_cpu_dead"]


def test_function_graph_shows_linux_s_path(bash):
    """cpu_down > do_cpu_down > _cpu_down > ... > stop_machine_cpuslocked; the stopper runs take_cpu_down."""
    result = bash("cd /sys/kernel/tracing; echo function_graph > current_tracer; echo 0 > /sys/devices/system/cpu/cpu1/online; echo 0 > tracing_on; cat trace")
    text = result.stdout.decode()
    at = -1
    for name in ("cpu_subsys_offline()", "do_cpu_down()", "_cpu_down()", "cpuhp_kick_ap_work()", "takedown_cpu()", "stop_machine_cpuslocked()", "native_cpu_die()"):
        assert name in text[at + 1 :], name
        at = text.index(name, at + 1)
    for name in ("multi_cpu_stop()", "take_cpu_down()", "sched_cpu_dying()", "migrate_tasks()", "native_cpu_disable()", "native_play_dead()", "cpuhp_report_idle_dead()"):
        assert name in text, name


@pytest.mark.parametrize("words,first", [("", "for c in 1 2 3; do echo 0 > cpu$c/online; done"), ("maxcpus=1", ":")])
def test_nothing_wakes_a_cpu_that_is_off_line(bash, words, first):
    """Setting the clock tells every CPU; so does changing a mapping that many threads have."""
    result = bash(first + "; date -s '2020-01-01 00:00:00' > /dev/null; python3 -c \"import threading, mmap; "
                  "t = [threading.Thread(target=lambda: [mmap.mmap(-1, 8192).close() for _ in range(50)]) for _ in range(4)]; "
                  "[x.start() for x in t]; [x.join() for x in t]\"; sleep 0.1; cat online; grep -c ^cpu /proc/stat;"
                  "for c in 1 2 3; do echo 1 > cpu$c/online; done; cat online; taskset -c 3 true && echo yes", cmdline=words)
    assert result.stdout == b"0\n2\n0-3\nyes\n", result


def test_the_same_run_twice_is_the_same(boot):
    """A machine whose CPUs come and go stays deterministic."""
    script = CPU + ("for i in 1 2 3; do (while :; do :; done) & done; for r in 1 2 3; do for c in 1 2 3; do echo 0 > cpu$c/online; done; sleep 0.01;"
                    "for c in 3 2 1; do echo 1 > cpu$c/online; done; done; kill $(jobs -p); cat /proc/stat /proc/interrupts /proc/softirqs; cat /proc/uptime")
    runs = []
    for _ in range(2):
        kernel = boot(seed=7)
        runs.append((kernel.run(["/bin/bash", "-c", script]).stdout, [cpu.clock_ns for cpu in kernel.machine.cpus]))
    assert runs[0] == runs[1]


@pytest.mark.patience(120)
def test_stress_ng_takes_cpus_off_and_back(bash):
    """stress-ng --cpu-online with --verify, and others that work meanwhile."""
    result = bash("stress-ng --cpu-online 2 --pathological --cpu 2 --cpu-ops 20 --pipe 1 --pipe-ops 200 --timer 1 --timer-ops 50 --timeout 2s --verify 2>&1; cat online")
    assert result.status == 0
    assert b"successful run completed" in result.stdout, result.stdout
    assert result.stdout.endswith(b"\n0-3\n")
