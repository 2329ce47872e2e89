"""Inventory A100, A101, A102, A105: what programs see of slices, granularity, periods and priorities."""
import re

import pytest

from tests.conftest import PROGRAMS

HOGS = """
cd /sys/kernel/tracing 2>/dev/null || { mount -t tracefs none /sys/kernel/tracing; cd /sys/kernel/tracing; }
echo 200000000 > /proc/sys/kernel/sched_latency_ns
echo 1 > events/sched/sched_switch/enable
$0 3000 o:0:0 o:-5:0 o:5:0
echo 0 > tracing_on
grep sched_switch: trace
"""


def test_slices_are_proportional_to_weight(boot, build_c):
    """A100: period * weight / sum of weights, to the next tick: seen in the trace of sched_switch."""
    from glasskernel import Share

    binary = build_c(PROGRAMS / "hogs.c")
    kernel = boot(cpus=1, shares=[Share(str(binary.parent), "/programs")])
    result = kernel.run(["/bin/bash", "-c", HOGS, f"/programs/{binary.name}"])
    assert result.status == 0, result
    began, slices = {}, {}
    for line in result.stdout.decode().splitlines()[3:]:       # three figures of hogs.c
        found = re.search(r" (\d+\.\d+): sched_switch: .*prev_pid=(\d+) prev_prio=(\d+) .*next_pid=(\d+)", line)
        when, prev, prio, next_ = float(found[1]), *(int(x) for x in found.groups()[1:])
        if prev in began:
            slices.setdefault(prio, []).append(when - began.pop(prev))
        began[next_] = when
    total = 1024 + 3121 + 335
    for prio, weight in ((120, 1024), (115, 3121), (125, 335)):
        longest = max(slices[prio])
        assert len(slices[prio]) > 5
        assert 0 <= longest - 0.2 * weight / total < 0.0081, (prio, slices)


def test_minimum_granularity_can_be_read_and_changes_the_rate_of_switches(boot, build_c):
    """A101"""
    script = """
        f=/proc/sys/kernel/sched_min_granularity_ns; cat $f
        for i in 1 2 3 4 5 6 7 8 9 10 11 12; do taskset 1 $0 & done
        for g in 2250000 40000000; do
            echo $g > $f; sleep 0.2; a=$(grep ctxt /proc/stat); sleep 1; b=$(grep ctxt /proc/stat); echo $((${b#ctxt} - ${a#ctxt}))
        done; kill $(jobs -p)"""
    from glasskernel import Share

    binary = build_c("int main(void) { for (;;) ; }")
    kernel = boot(cpus=4, shares=[Share(str(binary.parent), "/programs")])
    result = kernel.run(["/bin/bash", "-c", script, f"/programs/{binary.name}"])
    default, fast, slow = (int(line) for line in result.stdout.split())
    assert default == 2_250_000
    assert fast > 150 and slow < fast / 3


def test_cpu_cfs_period_us(boot):
    """A102, B232: mounted where Debian mounts it, it says 100000; with a quota the group is throttled."""
    script = """
        mount -t tmpfs cgroup /sys/fs/cgroup; mkdir /sys/fs/cgroup/cpu; mount -t cgroup -o cpu cgroup /sys/fs/cgroup/cpu
        cat /sys/fs/cgroup/cpu/cpu.cfs_period_us
        cd /sys/fs/cgroup/cpu; mkdir limited; echo 25000 > limited/cpu.cfs_quota_us; echo $$ > limited/tasks
        timeout 1 sh -c 'while :; do :; done'; grep nr_throttled limited/cpu.stat; cat /proc/self/cgroup"""
    result = boot(cpus=1).run(["/bin/bash", "-c", script])
    period, _, throttled, group = result.stdout.split()
    assert (period, group) == (b"100000", b"1:cpu:/limited") and int(throttled) >= 8, result


@pytest.mark.parametrize(("how", "stat", "top"), [
    ("nice -n 0", "20", "20"), ("nice -n 19", "39", "39"), ("nice -n -20", "0", "0"),
    ("chrt -f 1", "-2", "-2"), ("chrt -r 50", "-51", "-51"), ("chrt -f 99", "-100", "rt"),
])
def test_priorities_in_proc_and_top(boot, how, stat, top):
    """A105: 0..139 inside; minus 100 in /proc/PID/stat; top says rt for the highest."""
    kernel = boot(cpus=1)
    script = f"{how} sleep 9 & sleep 0.1; p=$!; cut -d' ' -f18 /proc/$p/stat; top -b -n1 -p $p | tail -1 | awk '{{print $3}}'; grep ^prio /proc/$p/sched; kill $p"
    result = kernel.run(["/bin/bash", "-c", script], env={"PATH": "/usr/bin:/bin", "TERM": "vt100", "LC_ALL": "C"})
    assert result.stdout.decode().split() == [stat, top, "prio", ":", str(int(stat) + 100)]
