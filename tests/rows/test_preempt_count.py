"""A061: the preempt count of thread_info in the flags column of a trace."""
import pytest

SCRIPT = """
    cd /sys/kernel/tracing; echo 1 > events/sched/sched_switch/enable; echo 1 > events/raw_syscalls/sys_enter/enable
    echo 1 > events/irq/softirq_entry/enable; echo 1 > events/irq_vectors/local_timer_entry/enable
    echo 1 > tracing_on; for i in 1 2 3; do sleep 0.02 & done; wait; echo 0 > tracing_on; cat trace"""


def columns(result):
    """{event: the flags columns that it was seen with}"""
    assert result.status == 0, result.stderr
    found = {}
    for line in result.stdout.decode().splitlines():
        if line[:1] == " " and ": " in line:
            head, event = line.split(": ")[:2]
            found.setdefault(event.strip(), set()).add(head.split()[-2])
    return found


@pytest.mark.parametrize("mode, depth", [("none", "."), ("full", "1")])
def test_the_column_is_the_count_of_the_task(run, mode, depth):
    """Without preemption nobody counts, as in Linux without CONFIG_PREEMPT_COUNT; with it, schedule() cannot be preempted."""
    found = columns(run(["/bin/bash", "-c", SCRIPT], cmdline=f"oops=panic preempt={mode}"))
    assert {flags[3] for flags in found["sched_switch"]} == {depth}
    assert {flags[2:] for flags in found["sys_enter"]} == {".."}
    assert {flags[2] for flags in found["softirq_entry"]} <= {"s", "S"} and {flags[2] for flags in found["local_timer_entry"]} <= {"h", "H"}
    assert {flags[3] for flags in found["local_timer_entry"]} == {"."}


def test_a_filter_sees_the_count(run):
    out = run(["/bin/bash", "-c", """
        cd /sys/kernel/tracing; echo 'common_preempt_count == 1' > events/sched/sched_switch/filter
        echo 1 > events/sched/sched_switch/enable; sleep 0.01; grep -c sched_switch: trace
        echo 'common_preempt_count != 1' > events/sched/sched_switch/filter; echo > trace; sleep 0.01; grep -c sched_switch: trace"""],
              cmdline="oops=panic preempt=full").stdout.split()
    assert int(out[0]) > 0 and out[1] == b"0"
