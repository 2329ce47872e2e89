"""CPUs that go off line and come back: /sys/devices/system/cpu/cpuN/online."""
import pytest

CPU = "cd /sys/devices/system/cpu; "


@pytest.fixture
def bash(boot):
    """bash(script, **machine) -> Result of a bash on a fresh kernel."""
    return lambda script, **machine: boot(**machine).run(["/bin/bash", "-c", CPU + script])


def test_a_cpu_goes_and_comes_back(bash):
    """Documentation/core-api/cpu_hotplug.rst: echo 0 > online; lscpu and nproc know at once."""
    result = bash("cat online offline possible present; echo 0 > cpu3/online; cat online offline possible present; nproc;"
                 "lscpu | grep line | tr -s ' '; echo 1 > cpu3/online; cat online offline; nproc")
    assert result.status == 0, result.stderr
    assert result.stdout == (b"0-3\n\n0-3\n0-3\n0-2\n3\n0-3\n0-3\n3\n"
                             b"On-line CPU(s) list: 0-2\nOff-line CPU(s) list: 3\n0-3\n\n4\n")


def test_what_names_cpus_follows(bash):
    """proc(5): cpuinfo, stat and interrupts list online CPUs only; /proc/softirqs all."""
    result = bash("echo 0 > cpu1/online; grep -c ^processor /proc/cpuinfo; grep -o '^cpu[0-9]' /proc/stat; head -1 /proc/interrupts;"
                 "head -1 /proc/softirqs; grep 'siblings\\|cpu cores' /proc/cpuinfo | sort -u;"
                 "getconf _NPROCESSORS_ONLN; getconf _NPROCESSORS_CONF; cat cpu0/topology/core_siblings_list")
    lines = result.stdout.split(b"\n")
    assert lines[:4] == [b"3", b"cpu0", b"cpu2", b"cpu3"]
    assert lines[4].split() == [b"CPU0", b"CPU2", b"CPU3"]
    assert lines[5].split() == [b"CPU0", b"CPU1", b"CPU2", b"CPU3"]
    assert lines[6:8] == [b"cpu cores\t: 3", b"siblings\t: 3"]
    assert lines[8:11] == [b"3", b"4", b"0,2-3"]


def test_the_directory_of_a_cpu(bash):
    """Seed 000: cache, crash_notes, crash_notes_size, hotplug, online, power, subsystem, topology, uevent."""
    result = bash("ls -l /sys/bus/cpu/devices/ | grep -o 'cpu3 ->.*'; cd /sys/bus/cpu/devices/cpu3; ls; cat online hotplug/state"
                 " hotplug/target hotplug/fail crash_notes_size power/control power/runtime_status; echo 0 > online; ls; cat hotplug/state;"
                 "stat -c '%a %n' online hotplug/* crash_notes; ls -d /sys/devices/system/cpu/cpu0/online")
    assert result.stdout == (
        b"cpu3 -> ../../../devices/system/cpu/cpu3\n"
        b"cache\ncrash_notes\ncrash_notes_size\nhotplug\nnode0\nonline\npower\nsubsystem\ntopology\nuevent\n"
        b"1\n205\n205\n-1\n368\nauto\nunsupported\n"
        b"crash_notes\ncrash_notes_size\nhotplug\nnode0\nonline\npower\nsubsystem\nuevent\n0\n"
        b"644 online\n644 hotplug/fail\n444 hotplug/state\n644 hotplug/target\n400 crash_notes\n")


def test_who_may_not_go(bash):
    """The boot CPU has no `online`; nonsense is EINVAL; what is so already is no error."""
    result = bash("echo 0 > cpu0/online; echo 2 > cpu1/online; echo 1 > cpu1/online && echo still;"
                 "echo 0 > cpu1/online; echo 0 > cpu1/online && echo still; echo 5 > cpu1/hotplug/target; echo 0 > cpu0/hotplug/target;"
                 "cat cpu0/hotplug/state")
    assert result.stdout == b"still\nstill\n205\n"
    errors = result.stderr.split(b"\n")
    assert [line.rsplit(b": ", 1)[1] for line in errors if line] == [
        b"Permission denied", b"Invalid argument", b"Invalid argument", b"Device or resource busy"]


def test_tasks_move_away(run_c):
    """sched_setaffinity(2) of a CPU that is off line is EINVAL; who ran there runs elsewhere."""
    assert run_c(r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void online(int cpu, const char *v) {
    char path[80];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, v, 1) != 1) exit(9);
    close(fd);
}
int main(void) {
    cpu_set_t set;
    pid_t pids[8];
    for (int i = 0; i < 8; i++)
        if (!(pids[i] = fork()))
            for (;;) ;
    usleep(20000);
    for (int cpu = 1; cpu < 4; cpu++) online(cpu, "0");
    usleep(20000);
    CPU_ZERO(&set); CPU_SET(2, &set);
    if (sched_setaffinity(0, sizeof set, &set) == 0 || errno != EINVAL) return 2;
    if (sched_getaffinity(pids[0], sizeof set, &set) || CPU_COUNT(&set) != 1 || !CPU_ISSET(0, &set)) return 3;
    if (sched_getcpu() != 0) return 4;
    for (int cpu = 1; cpu < 4; cpu++) online(cpu, "1");
    if (sched_getaffinity(pids[0], sizeof set, &set) || CPU_COUNT(&set) != 4) return 5;
    CPU_ZERO(&set); CPU_SET(2, &set);
    if (sched_setaffinity(0, sizeof set, &set) || sched_getcpu() != 2) return 6;
    for (int i = 0; i < 8; i++) { kill(pids[i], SIGKILL); waitpid(pids[i], 0, 0); }
    return 0;
}""".replace("#include <fcntl.h>", "#include <fcntl.h>\n#include <stdio.h>", 1)).status == 0


def test_the_affinity_of_who_cannot_go_elsewhere_is_broken(bash):
    """The kernel says so; who sleeps keeps its affinity if the CPU is back before it wakes."""
    result = bash("taskset -c 2 sh -c 'while :; do :; done' & hog=$!; taskset -c 1 sleep 0.3 & sleeper=$!; sleep 0.05;"
                  "echo 0 > cpu2/online; echo 0 > cpu1/online; taskset -p $hog; taskset -p $sleeper; echo 1 > cpu1/online;"
                  "echo 1 > cpu2/online; sleep 0.5; kill $hog; wait; dmesg | grep affine")
    lines = result.stdout.split(b"\n")
    assert [line.rsplit(b" ", 1)[1] for line in lines if b"mask" in line] == [b"9", b"0"]
    assert b"(sh) no longer affine to cpu2" in result.stdout
    assert b"(sleep) no longer affine" not in result.stdout


@pytest.mark.parametrize("state", [204, 171, 169, 139])
def test_a_step_that_fails_is_rolled_back(bash, state):
    """hotplug/fail: the CPU is where it was before, and works."""
    result = bash(f"echo {state} > cpu1/hotplug/fail; echo 0 > cpu1/online; cat cpu1/online cpu1/hotplug/state cpu1/hotplug/fail;"
                 "taskset -c 1 nproc; echo 0 > cpu1/online; cat online;"
                 f"echo {state} > cpu1/hotplug/fail; echo 1 > cpu1/online; cat online cpu1/hotplug/state; echo 1 > cpu1/online; cat online; taskset -c 1 nproc")
    assert result.stderr.count(b"Resource temporarily unavailable") == 2
    assert result.stdout == b"1\n205\n-1\n1\n0,2-3\n0,2-3\n0\n0-3\n1\n"


@pytest.mark.parametrize("state", [35, 37, 62])
def test_a_cpu_that_cannot_be_prepared_stays_away(bash, state):
    """What is done to a dead CPU cannot fail; what is done before it comes can."""
    result = bash(f"echo {state} > cpu1/hotplug/fail; echo 0 > cpu1/online; echo {state} > cpu1/hotplug/fail; echo 1 > cpu1/online;"
                  "cat online cpu1/hotplug/state; echo 1 > cpu1/online; cat online")
    assert result.stdout == b"0,2-3\n0\n0-3\n"
    assert [line.rsplit(b": ", 1)[1] for line in result.stderr.splitlines()] == [
        b"Invalid argument", b"Resource temporarily unavailable"]


def test_maxcpus_leaves_cpus_for_later(bash):
    """Documentation/admin-guide/kernel-parameters.txt: maxcpus=N brings up N; the others can be brought up later."""
    result = bash("nproc; cat online offline possible; cat cpu2/online cpu2/hotplug/state; echo 1 > cpu2/online;"
                  "cat online; taskset -c 2 nproc; ps -e -o comm= | grep 'n/2\\|d/2\\|p/2'", cmdline="maxcpus=2")
    assert result.stdout == b"2\n0-1\n2-3\n0-3\n0\n0\n0-2\n1\nmigration/2\nksoftirqd/2\ncpuhp/2\n"


def test_notes_power_and_threads(bash):
    """Where kdump finds the CPUs' registers; what a device without runtime power management says; smt/."""
    result = bash("a=$(cat cpu0/crash_notes); b=$(cat cpu1/crash_notes); echo $((0x$b - 0x$a)); cd cpu1/power; cat control runtime_usage;"
                  "echo on > control; cat control runtime_usage; cat autosuspend_delay_ms; echo maybe > control; echo enabled > async; cat async"
                  " pm_qos_resume_latency_us; echo n/a > pm_qos_resume_latency_us; cat pm_qos_resume_latency_us; cat ../../smt/control ../../smt/active;"
                  "echo off > ../../smt/control; head -3 ../../hotplug/states; tail -1 ../../hotplug/states")
    assert result.stdout == (b"368\nauto\n0\non\n1\nenabled\n0\nn/a\nnotsupported\n0\n  0: offline\n  1: threads:prepare\n 11: slub:dead\n"
                             b"205: online\n")
    assert [line.rsplit(b": ", 1)[1] for line in result.stderr.splitlines()] == [b"Input/output error", b"Invalid argument", b"No such device"]
