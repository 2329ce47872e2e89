"""Debian's perf, unmodified, inside Glasskernel."""
import itertools
import re

import pytest

pytestmark = pytest.mark.patience(180)
LOOP = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"


@pytest.fixture
def shell(run):
    def go(script):
        result = run(["/bin/sh", "-c", script])
        assert result.status == 0, result.stderr.decode()
        return result.stdout.decode() + result.stderr.decode()

    return go


def counts(text):
    """Event -> count of `perf stat -x,`."""
    rows = (line.split(",") for line in text.splitlines() if line.count(",") >= 5)
    return {row[2]: float(row[0]) for row in rows}


def test_stat_counts_software_events_and_tracepoints(shell):
    found = counts(shell("perf stat -x, -e task-clock,cpu-clock,context-switches,page-faults,minor-faults,major-faults,"
                         "cpu-migrations,syscalls:sys_enter_openat -- cat /etc/passwd /etc/group"))
    assert found["task-clock"] > 0
    assert found["page-faults"] == found["minor-faults"] + found["major-faults"] > 20
    assert found["syscalls:sys_enter_openat"] >= 4           # the cache, libc, locale or not, two files
    assert found["context-switches"] >= 0


def test_stat_counts_what_strace_counts(shell):
    text = shell("perf stat -x, -e syscalls:sys_enter_read -e raw_syscalls:sys_enter -- cat /etc/passwd;"
                 "strace -f -c -U name,calls cat /etc/passwd")
    found = counts(text)
    strace = dict(re.findall(r"^(\w+)\s+(\d+)$", text, re.MULTILINE))
    assert found["syscalls:sys_enter_read"] == int(strace["read"])
    # perf begins inside execve and sees exit_group, which strace does not list
    assert found["raw_syscalls:sys_enter"] == int(strace["total"]) - 1 + 1


def test_stat_of_children_and_threads_is_inherited(shell):
    one = counts(shell("perf stat -x, -e page-faults -- cat /dev/null"))
    many = counts(shell("perf stat -x, -e page-faults -- sh -c 'cat /dev/null; cat /dev/null; cat /dev/null'"))
    alone = counts(shell("perf stat -x, -i -e page-faults -- sh -c 'cat /dev/null; cat /dev/null; cat /dev/null'"))
    assert many["page-faults"] > 2.5 * one["page-faults"]
    assert alone["page-faults"] < many["page-faults"] - 2 * one["page-faults"]


def test_hardware_events_are_not_supported(shell):
    assert "<not supported>" in shell("perf stat -e cycles,instructions -- true")


def test_record_and_report_where_the_time_goes(shell):
    text = shell(f"perf record -q -e cpu-clock -c 100000 -g -o /tmp/d -- sh -c '{LOOP}' 2>&1;"
                 "perf report --stdio -i /tmp/d 2>/dev/null; perf script -i /tmp/d -F comm,time,period,ip,sym")
    assert re.search(r"Samples: \d+ +of event 'cpu-clock'", text)
    assert "libc.so.6" in text and "dash" in text
    times = [float(t) for t in re.findall(r"^sh +(\d+\.\d+): +100000", text, re.MULTILINE)]
    steps = [round((b - a) * 1e6) for a, b in itertools.pairwise(times)]
    assert len(steps) > 50
    assert sorted(steps)[len(steps) // 2] == 100             # a sample every 100 us of CPU time


def test_record_by_frequency(shell):
    text = shell(f"perf record -q -e cpu-clock -F 2000 -o /tmp/d -- sh -c '{LOOP}' 2>&1; perf script -i /tmp/d -F period")
    assert {int(p) for p in re.findall(r"^ *(\d+) *$", text, re.MULTILINE)} == {500_000}


def test_record_of_a_tracepoint_with_kernel_stack(shell):
    text = shell("perf record -q -e sched:sched_switch -g -o /tmp/d -- sleep 0.01 2>&1; perf script -i /tmp/d")
    stack = re.search(r"sched_switch: prev_comm=sleep .*?\n((?:\t.*\n)+)", text)[1]
    names = re.findall(r"\t *[0-9a-f]+ (\w+)\+", stack)
    assert names[:4] == ["__schedule", "schedule", "do_nanosleep", "hrtimer_nanosleep"]
    assert {"do_syscall_64", "entry_SYSCALL_64_after_hwframe"} <= set(names)
    assert "(/usr/lib/x86_64-linux-gnu/libc.so.6)" in stack


def test_record_with_a_filter(shell):
    text = shell("perf record -q -e syscalls:sys_enter_read --filter 'count == 832' -o /tmp/d -- cat /etc/passwd 2>&1;"
                 "perf script -i /tmp/d")
    lines = [line for line in text.splitlines() if "sys_enter_read" in line]
    assert lines
    assert all("count: 0x00000340" in line for line in lines)


def test_system_wide_record_sees_every_task(shell):
    text = shell("perf record -q -a -e sched:sched_process_exit -o /tmp/d -- sh -c 'cat /dev/null; ls / >/dev/null' 2>&1;"
                 "perf script -i /tmp/d")
    assert {"cat", "ls", "sh"} <= set(re.findall(r"sched_process_exit: comm=(\S+)", text))


def test_trace_shows_system_calls_like_strace(shell):
    text = shell("perf trace -- cat /etc/hostname 2>&1")
    assert re.search(r"openat\(.*flags: RDONLY\|CLOEXEC\)\s+= 3", text)
    assert re.search(r"read\(fd: 3, .*count: \d+\)", text)
    assert "exit_group()" in text


def test_list_names_the_tracepoints(shell):
    text = shell("perf list sw tracepoint 2>/dev/null")
    for name in ("task-clock", "page-faults", "sched:sched_switch", "syscalls:sys_enter_openat"):
        assert name in text


def test_switches_are_recorded(shell):
    text = shell("perf record -q --switch-events -e dummy -o /tmp/d -- sleep 0.01 2>&1;"
                 "perf script -i /tmp/d --show-switch-events")
    assert "PERF_RECORD_SWITCH OUT" in text and "PERF_RECORD_SWITCH IN" in text


@pytest.mark.parametrize("name", [
    "Detect openat syscall event on all cpus", "Read samples using the mmap interface", "PERF_RECORD_",
    "Breakpoint overflow sampling", "Software clock events period values", "Track with sched_switch", "Write Only Watchpoint",
])
def test_perfs_own_tests_pass(shell, name):
    """perf test: written by perf's authors for the system under it."""
    text = shell(f"cd /tmp; perf test '{name}' 2>&1 || perf test 2>&1 | head -0")
    assert re.search(r": Ok$", text, re.MULTILINE)
    assert "FAILED" not in text


def test_probes_of_perf_probe_can_be_recorded(shell):
    text = shell("perf probe -q --add do_sys_open; perf record -q -e probe:do_sys_open -o /tmp/d -- cat /etc/hostname 2>&1;"
                 "perf script -i /tmp/d; perf probe -q -d do_sys_open; ls /sys/kernel/tracing/events/probe 2>&1 || true")
    assert text.count("probe:do_sys_open: (ffffffff") >= 2
    assert "No such file" in text


def test_user_stacks_by_dwarf(shell):
    text = shell("perf record -q -e syscalls:sys_enter_write --call-graph dwarf -o /tmp/d -- echo hi 2>&1; perf script -i /tmp/d")
    assert re.search(r"_start\+|__libc_start_main", text)


def test_nothing_stays_when_nobody_counts(boot):
    kernel = boot()
    result = kernel.run(["/bin/sh", "-c", "perf stat -a -e sched:sched_switch,page-faults,cpu-clock -- true; "
                                          "perf record -q -a -e cpu-clock -o /tmp/d -- true"])
    assert result.status == 0
    state = kernel.perf_state
    assert kernel.perf is None and kernel.tp.sched_switch is None
    assert not state.task_contexts and not any(state.swevents) and not state.tp_users and not state.locked_vm
